/* What the micro-kernels of block-scaled weights share, the same for all instruction sets: where the weights of 64
 * bytes of codes come from, how a product begins and ends. See quant_impl.h. */
#ifndef PS_KERNELS_QUANT_ORDER_H
#define PS_KERNELS_QUANT_ORDER_H
#include "kernels/kernel_scalar.h"
#include "kernels/matmul_impl.h"
#include "proto/quant.h"

#define Q_CODES    64 /* bytes of a block */
#define Q_DOT_COLS 4  /* most of Q_DOT_KERNELS */

/* Weights of a block. */
MM_INLINE size_t q_elems(enum ps_dtype t)
{
    return t == PS_NF4B64 || t == PS_MXFP4 ? 128 : 64;
}

/* Element that code `nibble` of byte `byte` of a block of four-bit weights is. */
MM_INLINE size_t q_nibble_at(enum ps_dtype t, size_t byte, size_t nibble)
{
    if (t == PS_MXFP4)
        return byte * 2 + nibble;
    return byte / 8 % 2 * 64 + nibble * 32 + byte / 16 * 8 + byte % 8;
}

/* The scales in the rows that are prefetched; their codes are by the loops. */
static inline void q_ahead_scales(const struct ps_micro *m, enum ps_dtype t)
{
    if (m->n_ahead == 0 || (t != PS_Q8B64 && t != PS_NF4B64))
        return;
    size_t code_bytes = ps_quant_code_bytes(t, m->matrix->K), begin = m->k0 / 64 * 2;
    size_t end = begin + ps_div_up(m->K, 64) * 2;
    for (size_t at = begin; at < end; at += 64) /* `ahead` begins at element k0 */
        mm_ahead(m, code_bytes + at - m->k0 / q_elems(t) * Q_CODES);
}

/* The factor of the whole tensor is the last that a sum meets. */
MM_INLINE void q_finish(const struct ps_micro *m, vf *acc, size_t col, int R)
{
    if (!m->more) {
        vf factor = v_set1(m->matrix->factor != 0 ? m->matrix->factor : 1.0f);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            acc[r] = v_mul(acc[r], factor);
    }
    mm_finish(m, acc, col, R);
}

#define Q_DOT(R, C)                                                                                \
    static void dot_##R##x##C(const struct ps_micro *m)                                            \
    {                                                                                              \
        dot(m, R, C);                                                                              \
    }

/* The set `name` of a file whose dot(m, R, C) keeps the sums of up to four rows times four columns in registers. A
 * single column walks eight rows at once, for more reads in flight. */
#define Q_DOT_KERNELS(name, elements, bytes)                                                       \
    Q_DOT(8, 1)                                                                                    \
    Q_DOT(4, 1)                                                                                    \
    Q_DOT(4, 2)                                                                                    \
    Q_DOT(4, 3)                                                                                    \
    Q_DOT(4, 4)                                                                                    \
    Q_DOT(1, 1)                                                                                    \
    Q_DOT(1, 2)                                                                                    \
    Q_DOT(1, 3)                                                                                    \
    Q_DOT(1, 4)                                                                                    \
    static void run(const struct ps_micro *m)                                                      \
    {                                                                                              \
        static const mm_fn eight[] = {NULL, dot_8x1};                                              \
        static const mm_fn four[] = {NULL, dot_4x1, dot_4x2, dot_4x3, dot_4x4};                    \
        static const mm_fn one[] = {NULL, dot_1x1, dot_1x2, dot_1x3, dot_1x4};                     \
        static const struct mm_fns narrow = {.rows = {[8] = eight, [4] = four, [1] = one}};        \
        static const struct mm_fns wide = {.rows = {[4] = four, [1] = one}};                       \
        mm_run(m, m->cols > 1 ? &wide : &narrow);                                                  \
    }                                                                                              \
    const struct ps_micro_set name = {                                                             \
        .run = run,                                                                                \
        .rows = 4,                                                                                 \
        .cols = Q_DOT_COLS,                                                                        \
        .rows_narrow = 8,                                                                          \
        .narrow = 1,                                                                               \
        .k_step = elements,                                                                        \
        .step_bytes = bytes,                                                                       \
        .pad_cols = 1,                                                                             \
        .sum_floats = VW,                                                                          \
        .even = true,                                                                              \
    };
#endif
