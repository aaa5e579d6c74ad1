/* Which table of inner loops the block codecs run with on this machine. All give the same bytes: the choice is one of
 * speed alone. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "kernels/codec/block.h"

#if defined(__x86_64__)
extern const struct ps_block_ops ps_block_ops_avx2, ps_block_ops_avx512, ps_block_ops_avx512vbmi;

static bool has_avx2(void)
{
    const struct ps_cpu_features *c = ps_host_cpu();
    return c->avx2 && c->fma && c->f16c && c->popcnt;
}

static bool has_avx512(void)
{
    const struct ps_cpu_features *c = ps_host_cpu();
    return has_avx2() && c->avx512f && c->avx512bw && c->avx512vl;
}

static bool has_avx512vbmi(void)
{
    const struct ps_cpu_features *c = ps_host_cpu();
    return has_avx512() && c->avx512_vbmi && c->avx512_vbmi2 && c->bmi2;
}

static const struct {
    const struct ps_block_ops *ops;
    bool (*runs)(void);
} best_first[] = {
    {&ps_block_ops_avx512vbmi, has_avx512vbmi},
    {&ps_block_ops_avx512, has_avx512},
    {&ps_block_ops_avx2, has_avx2},
};
#define N_TABLES (sizeof best_first / sizeof best_first[0])

const struct ps_block_ops *ps_block_ops_by_name(const char *name)
{
    for (size_t i = 0; i < N_TABLES; i++)
        if (strcmp(name, best_first[i].ops->name) == 0)
            return best_first[i].runs() ? best_first[i].ops : NULL;
    return strcmp(name, ps_block_ops_scalar.name) == 0 ? &ps_block_ops_scalar : NULL;
}

/* PENSTOCK_BACKEND: whoever rules out instructions rules them out here too. */
static const struct ps_block_ops *best(void)
{
    const char *backend = getenv("PENSTOCK_BACKEND");
    size_t from = !backend || strcmp(backend, "avx2") != 0 ? 0 : N_TABLES - 1;
    if (backend && strcmp(backend, "ref") == 0)
        from = N_TABLES;
    for (size_t i = from; i < N_TABLES; i++)
        if (best_first[i].runs())
            return best_first[i].ops;
    return &ps_block_ops_scalar;
}
#else
const struct ps_block_ops *ps_block_ops_by_name(const char *name)
{
    return strcmp(name, ps_block_ops_scalar.name) == 0 ? &ps_block_ops_scalar : NULL;
}

static const struct ps_block_ops *best(void)
{
    return &ps_block_ops_scalar;
}
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const struct ps_block_ops *chosen; /* written under `once` */

static void choose(void)
{
    chosen = best();
}

const struct ps_block_ops *ps_block_ops(void)
{
    pthread_once(&once, choose);
    return chosen;
}
