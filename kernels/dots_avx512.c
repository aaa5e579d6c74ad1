/* The backend "avx512" of CPUs that add dot products: bf16 weights and codes whose values are bf16 by vdpbf16ps, codes
 * that are whole numbers by vpdpbusd and vpdpwssd. Which of the two a CPU has decides type by type; all else is done by
 * the plain AVX-512 backend. */
#include "kernels/dots_avx512.h"

#include "base/host.h"

/* How products with one type of weights are done; `pack` is NULL for those that the plain backend does. */
struct way {
    const struct ps_micro_set *set;
    void (*pack)(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to);
};

static struct way way_for(enum ps_dtype weights, size_t T)
{
    const struct ps_cpu_features *cpu = ps_host_cpu();
    struct way way = {0};
    if (weights == PS_BF16 && cpu->avx512_bf16)
        way = (struct way){ps_bf16_set(T), ps_bf16_pack};
    if (weights == PS_MXFP4 && cpu->avx512_bf16)
        way = (struct way){&ps_mxfp4_avx512bf16, ps_mxfp4_pack_avx512bf16};
    if (weights == PS_F8_E4M3 && cpu->avx512_bf16 && cpu->avx512_vbmi)
        way = (struct way){&ps_f8_avx512bf16vbmi, ps_f8_pack_avx512bf16vbmi};
    if (weights == PS_Q8B64 && cpu->avx512_vnni)
        way = (struct way){&ps_q8_avx512vnni, ps_q8_pack_avx512vnni};
    if (weights == PS_NF4B64 && cpu->avx512_vnni)
        way = (struct way){&ps_nf4_avx512vnni, ps_nf4_pack_avx512vnni};
    return way;
}

static size_t act_bytes(enum ps_dtype weights, size_t T, size_t K)
{
    struct way way = way_for(weights, T);
    return way.pack ? ps_packed_bytes(way.set, T, K) : ps_cpu_avx512.act_bytes(weights, T, K);
}

static void act_pack(struct ps_pool *pool, const struct ps_act *act)
{
    struct way way = way_for(act->weights, act->T);
    if (way.pack)
        ps_drive_pack(pool, way.set, act, way.pack);
    else
        ps_cpu_avx512.act_pack(pool, act);
}

static void matmul(struct ps_pool *pool, const struct ps_act *act, const struct ps_matrix *panels,
                   size_t n, float *C, size_t ldc, bool accumulate)
{
    struct way way = way_for(act->weights, act->T);
    if (!way.pack) {
        ps_cpu_avx512.matmul(pool, act, panels, n, C, ldc, accumulate);
        return;
    }
    struct ps_matmul_job job = ps_matmul_job(act, panels, n, C, ldc, accumulate);
    ps_drive_matmul(pool, way.set, &job);
}

PS_OPS_OF(ps_cpu_avx512)

const struct ps_backend ps_cpu_avx512_dots = {
    .name = "avx512",
    .act_bytes = act_bytes,
    .act_pack = act_pack,
    .multiplies = ps_all_weights,
    .matmul = matmul,
    .attention = attention,
    .rmsnorm = rmsnorm,
    .swiglu = swiglu,
};
