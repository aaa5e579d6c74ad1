/* The AVX-512 backend: everything in f32 FMA. Where the CPU has dot products, dots_avx512.c takes some types
 * and the rest is here. */
#include "kernels/vec_avx512.h"

#include "kernels/ops_impl.h"
#include "kernels/attention_impl.h"
#include "kernels/matmul_impl.h"
#include "proto/quant.h"

#define KERNELS(name, t)                                                                           \
    MM_KERNEL(name, t, 4, 1)                                                                       \
    MM_KERNEL(name, t, 4, 2)                                                                       \
    MM_KERNEL(name, t, 4, 3)                                                                       \
    MM_KERNEL(name, t, 4, 4)                                                                       \
    MM_KERNEL(name, t, 4, 5)                                                                       \
    MM_KERNEL(name, t, 4, 6)                                                                       \
    MM_KERNEL(name, t, 1, 1)                                                                       \
    MM_KERNEL(name, t, 1, 2)                                                                       \
    MM_KERNEL(name, t, 1, 3)                                                                       \
    MM_KERNEL(name, t, 1, 4)                                                                       \
    MM_KERNEL(name, t, 1, 5)                                                                       \
    MM_KERNEL(name, t, 1, 6)                                                                       \
    static void name##_run(const struct ps_micro *m)                                               \
    {                                                                                              \
        static const mm_fn four[] = {NULL,       name##_4x1, name##_4x2, name##_4x3,               \
                                     name##_4x4, name##_4x5, name##_4x6};                          \
        static const mm_fn one[] = {NULL,       name##_1x1, name##_1x2, name##_1x3,                \
                                    name##_1x4, name##_1x5, name##_1x6};                           \
        static const struct mm_fns fns = {.rows = {[4] = four, [1] = one}};                        \
        mm_run(m, &fns);                                                                           \
    }                                                                                              \
    static const struct ps_micro_set name = {                                                      \
        .run = name##_run,                                                                         \
        .rows = 4,                                                                                 \
        .cols = 6,                                                                                 \
        .k_step = VW,                                                                              \
        .step_bytes = VW * 4,                                                                      \
        .pad_cols = 1,                                                                             \
        .sum_floats = VW,                                                                          \
        .even = true,                                                                              \
    };

KERNELS(mm_f32, PS_F32)
KERNELS(mm_f16, PS_F16)
KERNELS(mm_bf16, PS_BF16)

#include "kernels/quant_avx512.h"
#include "kernels/quant_impl.h"

Q_KERNELS(q_q8, PS_Q8B64)
Q_KERNELS(q_nf4, PS_NF4B64)
Q_KERNELS(q_mxfp4, PS_MXFP4)
Q_KERNELS(q_e4m3, PS_F8_E4M3)

static const struct ps_micro_set *set_of(enum ps_dtype weights)
{
    switch (weights) {
    case PS_F32: return &mm_f32;
    case PS_F16: return &mm_f16;
    case PS_BF16: return &mm_bf16;
    case PS_Q8B64: return &q_q8;
    case PS_NF4B64: return &q_nf4;
    case PS_MXFP4: return &q_mxfp4;
    default: PS_ASSERT(weights == PS_F8_E4M3); return &q_e4m3;
    }
}

static size_t act_bytes(enum ps_dtype weights, size_t T, size_t K)
{
    return ps_packed_bytes(set_of(weights), T, K);
}

static void act_pack(struct ps_pool *pool, const struct ps_act *act)
{
    ps_drive_pack(pool, set_of(act->weights), act,
                  ps_plain_weights(act->weights) ? mm_pack_block : q_pack_columns);
}

static void matmul(struct ps_pool *pool, const struct ps_act *act, const struct ps_matrix *panels,
                   size_t n, float *C, size_t ldc, bool accumulate)
{
    struct ps_matmul_job job = ps_matmul_job(act, panels, n, C, ldc, accumulate);
    ps_drive_matmul(pool, set_of(act->weights), &job);
}

const struct ps_backend ps_cpu_avx512 = {
    .name = "avx512",
    .act_bytes = act_bytes,
    .act_pack = act_pack,
    .multiplies = ps_all_weights,
    .matmul = matmul,
    .attention = op_attention,
    .rmsnorm = op_rmsnorm,
    .swiglu = op_swiglu,
};
