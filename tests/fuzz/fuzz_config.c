/* Fuzz target: config.json. What is accepted must be a model that can be computed: shapes inside their bounds,
 * frequencies and tables that are numbers, a window for every layer. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "runtime/arch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rope(const struct ps_arch *a)
{
    const uint32_t n = a->rot_dim / 2;
    const uint32_t at[] = {0, 1, a->max_position - 1};
    float *tables = ps_calloc((size_t)n * 3 * 2, sizeof *tables);
    PS_ASSERT(n >= 1 && a->rot_dim <= a->head_dim && isfinite(a->rope_scale));
    for (uint32_t i = 0; i < n; i++)
        PS_ASSERT(isfinite(a->inv_freq[i]));
    ps_rope_tables(tables, tables + 3 * n, a, at, 3);
    for (uint32_t i = 0; i < 3 * n * 2; i++)
        PS_ASSERT(isfinite(tables[i]));
    ps_free(tables);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ps_arch *a = NULL;
    struct ps_err err = {0};
    if (ps_arch_read(&a, (const char *)data, size, &err) != 0) {
        PS_ASSERT(!a && err.code < 0 && err.text[0]);
        PS_ASSERT(ps_alloc_live_count() == 0);
        return 0;
    }
    PS_ASSERT(memchr(a->name, '\0', sizeof a->name));
    PS_ASSERT(a->hidden - 1 < PS_ARCH_MAX_DIM && a->inter - 1 < PS_ARCH_MAX_DIM);
    PS_ASSERT(a->n_layers - 1 < PS_ARCH_MAX_LAYERS && a->n_kv_heads > 0 && a->head_dim > 0);
    PS_ASSERT(a->n_heads % a->n_kv_heads == 0 && a->n_heads <= PS_ARCH_MAX_DIM / a->head_dim);
    PS_ASSERT(a->vocab > 0 && a->max_position > 0 && ps_arch_positions(a) >= a->max_position);
    PS_ASSERT(isfinite(a->rms_eps) && a->rms_eps >= 0);
    uint64_t windows = 0;
    for (uint32_t l = 0; l < a->n_layers; l++)
        windows += a->window[l];
    PS_ASSERT(windows <= (uint64_t)UINT32_MAX * a->n_layers);
    check_rope(a);
    ps_arch_free(a);
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
