/* Which table of operations this machine runs: the best that the CPU and the operating system allow, or the one that
 * PENSTOCK_BACKEND names. Decided once per process, because texts are exact per backend. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "kernels/kernels_internal.h"

#if PS_KERNELS_X86
static bool has_avx2(void)
{
    const struct ps_cpu_features *c = ps_host_cpu();
    return c->avx2 && c->fma && c->f16c;
}

/* avx512dq is implied: every CPU with avx512bw and avx512vl has it. */
static bool has_avx512(void)
{
    const struct ps_cpu_features *c = ps_host_cpu();
    return has_avx2() && c->avx512f && c->avx512bw && c->avx512vl;
}

static bool has_amx(void)
{
    const struct ps_cpu_features *c = ps_host_cpu();
    return has_avx512() && c->avx512_bf16 && c->amx_tile && c->amx_bf16 && ps_amx_permit() == 0;
}

static const struct ps_backend *avx512_table(void)
{
    const struct ps_cpu_features *c = ps_host_cpu();
    return c->avx512_bf16 || c->avx512_vnni ? &ps_cpu_avx512_dots : &ps_cpu_avx512;
}
#endif

const struct ps_backend *ps_backend_by_name(const char *name)
{
    if (strcmp(name, "ref") == 0)
        return &ps_cpu_ref;
#if PS_KERNELS_X86
    if (strcmp(name, "avx2") == 0 && has_avx2())
        return &ps_cpu_avx2;
    if (strcmp(name, "avx512") == 0 && has_avx512())
        return avx512_table();
    if (strcmp(name, "amx") == 0 && has_amx())
        return &ps_cpu_amx;
#endif
    return NULL;
}

static const char *const names_best_first[] = {"amx", "avx512", "avx2", "ref"};
#define N_NAMES (sizeof names_best_first / sizeof names_best_first[0])

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const struct ps_backend *chosen; /* written under `once` */
static const char *wanted;              /* written under `once`: PENSTOCK_BACKEND, or NULL */

static void choose(void)
{
    wanted = getenv("PENSTOCK_BACKEND");
    if (wanted && *wanted) {
        chosen = ps_backend_by_name(wanted);
        return;
    }
    for (size_t i = 0; i < N_NAMES && !chosen; i++)
        chosen = ps_backend_by_name(names_best_first[i]);
}

int ps_backend_choose(const struct ps_backend **out, struct ps_err *err)
{
    pthread_once(&once, choose);
    if (chosen) {
        *out = chosen;
        return 0;
    }
    for (size_t i = 0; i < N_NAMES; i++)
        if (strcmp(wanted, names_best_first[i]) == 0)
            return ps_err_set(
                err, PS_EUNSUPPORTED, "kernels",
                "PENSTOCK_BACKEND=%s: this CPU can't run it: unset it to use the best one", wanted);
    return ps_err_set(err, PS_EUSAGE, "kernels",
                      "PENSTOCK_BACKEND=%s: unknown: use ref, avx2, avx512 or amx", wanted);
}

void ps_backend_thread_start(void *backend)
{
#if PS_KERNELS_X86
    if (backend == &ps_cpu_amx)
        ps_amx_thread_start();
#else
    (void)backend;
#endif
}
