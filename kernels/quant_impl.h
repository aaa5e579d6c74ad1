/* The micro-kernels of block-scaled weights: Q8B64, NF4B64, MXFP4 and F8_E4M3, multiplied as they lie. In the names of
 * vec_*.h and of quant_*.h, which say how 64 bytes of codes become registers of values.
 *
 * A *block* is what 64 bytes of codes hold: 64 weights, or 128 of four bits. Its *groups* have a register of scales
 * each (four-bit types put weights of two or four scales side by side, a lane keeps to one). Order of additions: a
 * group's products are summed lane by lane from zero, over its vectors in their order; then the accumulator takes that
 * sum times the scale by FMA, block by block; then v_sum's tree, then the factor. Values are exact in their registers
 * and products of value and scale are never rounded before they meet an activation.
 *
 * Packed activations (matmul_drive.h): for each block its columns side by side, four bytes per element, elements in
 * the order in which the codes come out (q_place). */
#ifndef PS_KERNELS_QUANT_IMPL_H
#define PS_KERNELS_QUANT_IMPL_H
#ifdef VW
#include "kernels/quant_order.h"

#define Q_FEW   4  /* columns up to which the sums stay in registers */
#define Q_COLS  16 /* most of a micro-kernel */
#define Q_TALL  4  /* rows of one with many columns */
#define Q_AHEAD 4  /* columns at once, there */

/* Bytes of scales of a block, where they are not F8_E4M3's. */
MM_INLINE size_t q_scale_bytes(enum ps_dtype t)
{
    return t == PS_Q8B64 ? 2 : 4;
}

/* A row at one block: its codes, and its scales there. */
struct q_at {
    const uint8_t *codes, *scales;
};

/* The last block of a row that does not fill it: copies, filled up with codes and scales of zero. */
struct q_tail {
    uint8_t codes[Q_CODES], scales[4];
};

static inline struct q_at q_tail_of(struct q_tail *to, enum ps_dtype t, const uint8_t *codes,
                                    const uint8_t *scales, size_t left)
{
    size_t n = t == PS_NF4B64 || t == PS_Q8B64 ? Q_CODES
               : t == PS_MXFP4                 ? ps_div_up(left, PS_MXFP4_BLOCK) * 16
                                               : left;
    memset(to, 0, sizeof *to);
    memcpy(to->codes, codes, n);
    if (t == PS_F8_E4M3)
        return (struct q_at){to->codes, scales};
    memcpy(to->scales, scales,
           t == PS_MXFP4 ? ps_div_up(left, PS_MXFP4_BLOCK) : ps_div_up(left, 64) * 2);
    return (struct q_at){to->codes, to->scales};
}

/* Rows of a micro-kernel on their way along K: where codes and scales of the first begin, and how far apart they
 * are. Rows of F8_E4M3 may share scales, so each has its place. */
struct q_rows {
    const uint8_t *codes, *scales, *shared[MM_ROWS];
    size_t stride, scale_stride;
};

static inline const uint8_t *q_shared_scales(const struct ps_matrix *w, size_t row)
{
    return (const uint8_t *)w->scales + (w->row0 + row) / w->scale_rows * w->scale_ld * 4;
}

MM_INLINE void q_rows_init(struct q_rows *q, const struct ps_micro *m, enum ps_dtype t, int R)
{
    const struct ps_matrix *w = m->matrix;
    q->codes = m->w;
    q->stride = m->row_stride;
    q->scale_stride = m->row_stride;
    if (t == PS_F8_E4M3) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            q->shared[r] = w->scales ? q_shared_scales(w, m->row + (size_t)r) : NULL;
    } else if (t == PS_MXFP4) {
        q->scales = (const uint8_t *)w->scales + (w->row0 + m->row) * w->scale_ld;
        q->scale_stride = w->scale_ld;
    } else {
        q->scales = (const uint8_t *)w->data + m->row * w->row_stride + ps_quant_code_bytes(t, w->K);
    }
}

/* Bytes from the first scale of a row to those of the block that begins with element i of this stretch. */
MM_INLINE size_t q_scales_at(const struct ps_micro *m, enum ps_dtype t, size_t i)
{
    if (t != PS_F8_E4M3)
        return (m->k0 + i) / q_elems(t) * q_scale_bytes(t);
    const struct ps_matrix *w = m->matrix;
    return w->scales && w->scale_cols < w->K ? (m->k0 + i) / w->scale_cols * 4 : 0;
}

/* Row r there. */
MM_INLINE struct q_at q_row_at(const struct q_rows *q, enum ps_dtype t, size_t i, size_t scales_at,
                               int r)
{
    const uint8_t *codes = q->codes + (size_t)r * q->stride + i / q_elems(t) * Q_CODES;
    if (t == PS_F8_E4M3)
        return (struct q_at){codes, q->shared[r] ? q->shared[r] + scales_at : NULL};
    return (struct q_at){codes, q->scales + (size_t)r * q->scale_stride + scales_at};
}

/* Sums of a block's products, P rows times C columns; a: the block of the first of them. */
MM_INLINE void q_chain(vf (*sum)[MM_ROWS], q_vec (*w)[Q_VECS_MOST], const uint8_t *a,
                       size_t col_bytes, int n, int P, int C)
{
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int c = 0; c < C; c++)
#pragma GCC unroll 8
            for (int r = 0; r < P; r++)
                sum[c][r] =
                    q_step(i == 0 ? v_zero() : sum[c][r], w[r][i], a + (size_t)c * col_bytes, i);
}

/* One block: up to Q_FEW columns, sums in registers. */
MM_INLINE void q_few_block(vf (*acc)[MM_ROWS], enum ps_dtype t, const struct q_at *at, int r,
                           const uint8_t *a, int C)
{
    const size_t col_bytes = q_elems(t) * 4;
    q_vec w[1][Q_VECS_MOST];
    vf sum[Q_FEW][MM_ROWS];
    const int groups = Q_GROUPS(t);
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) {
        q_load(w[0], t, at->codes, g);
        vf scale = q_scale(t, at->scales, g);
        q_chain(sum, w, a + (size_t)(g * Q_VECS(t)) * Q_STEP_BYTES, col_bytes, Q_VECS(t), 1, C);
#pragma GCC unroll 4
        for (int c = 0; c < C; c++)
            acc[c][r] = v_fma(sum[c][0], scale, acc[c][r]);
    }
}

MM_INLINE void q_few(const struct ps_micro *m, enum ps_dtype t, int R, int C)
{
    const size_t elems = q_elems(t);
    vf acc[MM_COLS][MM_ROWS];
    const uint8_t *a = m->a;
    struct q_rows q;
    size_t i = 0;
    q_rows_init(&q, m, t, R);
    q_ahead_scales(m, t);
    mm_begin(m, acc, R, C);
    for (; i + elems <= m->K; i += elems, a += (size_t)C * elems * 4) {
        size_t scales_at = q_scales_at(m, t, i);
        mm_ahead(m, i / elems * Q_CODES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            struct q_at at = q_row_at(&q, t, i, scales_at, r);
            q_few_block(acc, t, &at, r, a, C);
        }
    }
    if (i < m->K) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            struct q_tail tail;
            struct q_at at = q_row_at(&q, t, i, q_scales_at(m, t, i), r);
            at = q_tail_of(&tail, t, at.codes, at.scales, m->K - i);
            q_few_block(acc, t, &at, r, a, C);
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
        q_finish(m, acc[c], (size_t)c, R);
}

/* C columns from c0 on times P decoded rows, sums in memory. */
MM_INLINE void q_many_cols(float *sums, enum ps_dtype t, q_vec (*w)[Q_VECS_MOST], const vf *scale,
                           const uint8_t *a, size_t c0, int P, int R, int C)
{
    const size_t col_bytes = q_elems(t) * 4;
    vf sum[Q_AHEAD][MM_ROWS];
    q_chain(sum, w, a + c0 * col_bytes, col_bytes, Q_VECS(t), P, C);
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
#pragma GCC unroll 8
        for (int r = 0; r < P; r++) {
            float *to = sums + ((c0 + (size_t)c) * (size_t)R + (size_t)r) * VW;
            v_store(to, v_fma(sum[c][r], scale[r], v_load(to)));
        }
}

/* One block of P rows and all columns; their sums begin at `sums`, R rows apart from column to column. */
MM_INLINE void q_many_block(float *sums, enum ps_dtype t, const struct q_at *at, const uint8_t *a,
                            size_t cols, int P, int R)
{
    q_vec w[2][Q_VECS_MOST];
    vf scale[2];
    const int groups = Q_GROUPS(t);
#pragma GCC unroll 2
    for (int g = 0; g < groups; g++) {
        const uint8_t *from = a + (size_t)(g * Q_VECS(t)) * Q_STEP_BYTES;
        size_t c = 0;
#pragma GCC unroll 2
        for (int r = 0; r < P; r++) {
            q_load(w[r], t, at[r].codes, g);
            scale[r] = q_scale(t, at[r].scales, g);
        }
        for (; c + Q_AHEAD <= cols; c += Q_AHEAD)
            q_many_cols(sums, t, w, scale, from, c, P, R, Q_AHEAD);
        for (; c < cols; c++)
            q_many_cols(sums, t, w, scale, from, c, P, R, 1);
    }
}

/* R rows; any number of columns. Two rows at a time share what is read of the activations, where their values leave
 * registers for the sums: AVX2 has sixteen. */
MM_INLINE void q_many(const struct ps_micro *m, enum ps_dtype t, int R)
{
    const size_t elems = q_elems(t);
    const int P = R > 1 && VW > 8 ? 2 : 1;
    _Alignas(64) float here[Q_COLS * Q_TALL * VW];
    float *sums = m->sums ? m->sums : here;
    const uint8_t *a = m->a;
    struct q_rows q;
    q_rows_init(&q, m, t, R);
    q_ahead_scales(m, t);
    if (!m->begun)
        memset(sums, 0, m->cols * (size_t)R * VW * sizeof *sums);
    for (size_t i = 0; i < m->K; i += elems, a += m->cols * elems * 4) {
        size_t scales_at = q_scales_at(m, t, i);
        mm_ahead(m, i / elems * Q_CODES);
        for (int r = 0; r < R; r += P) {
            struct q_tail tail[2];
            struct q_at at[2];
#pragma GCC unroll 2
            for (int p = 0; p < P; p++) {
                at[p] = q_row_at(&q, t, i, scales_at, r + p);
                if (i + elems > m->K)
                    at[p] = q_tail_of(&tail[p], t, at[p].codes, at[p].scales, m->K - i);
            }
            q_many_block(sums + r * VW, t, at, a, m->cols, P, R);
        }
    }
    for (size_t c = 0; c < m->cols && !m->more; c++) {
        vf acc[MM_ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            acc[r] = v_load(sums + (c * (size_t)R + (size_t)r) * VW);
        q_finish(m, acc, c, R);
    }
}

/* Columns t0 to t1 of activations in the order of the codes. */
static inline void q_pack_columns(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to)
{
    const enum ps_dtype type = act->weights;
    const size_t elems = q_elems(type);
    uint8_t place[128];
    for (size_t j = 0; j < elems; j++)
        place[j] = (uint8_t)q_place(type, j);
    for (size_t k = 0; k < act->K; k += elems)
        for (size_t t = t0; t < t1; t++, to += elems * 4) {
            const float *a = act->a + t * act->lda + k;
            float block[128], ordered[128];
            size_t n = ps_min_size(act->K - k, elems);
            if (n < elems) {
                memset(block, 0, sizeof block);
                memcpy(block, a, n * sizeof *a);
                a = block;
            }
            for (size_t j = 0; j < elems; j++)
                ordered[j] = a[place[j]];
            q_pack_block(to, ordered, elems);
        }
}

#define Q_FEW_KERNEL(name, t, R, C)                                                                \
    static void name##_##R##x##C(const struct ps_micro *m)                                         \
    {                                                                                              \
        q_few(m, t, R, C);                                                                         \
    }
#define Q_MANY_KERNEL(name, t, R)                                                                  \
    static void name##_##R##xN(const struct ps_micro *m)                                           \
    {                                                                                              \
        q_many(m, t, R);                                                                           \
    }
#ifndef Q_SET_CLASS
#define Q_SET_CLASS static
#endif
#define Q_TIMES_12(f) f, f, f, f, f, f, f, f, f, f, f, f

/* A single column walks eight rows at once, for more reads in flight. */
#define Q_KERNELS(name, t)                                                                         \
    Q_FEW_KERNEL(name, t, 8, 1)                                                                    \
    Q_FEW_KERNEL(name, t, 4, 1)                                                                    \
    Q_FEW_KERNEL(name, t, 4, 2)                                                                    \
    Q_FEW_KERNEL(name, t, 4, 3)                                                                    \
    Q_FEW_KERNEL(name, t, 4, 4)                                                                    \
    Q_FEW_KERNEL(name, t, 1, 1)                                                                    \
    Q_FEW_KERNEL(name, t, 1, 2)                                                                    \
    Q_FEW_KERNEL(name, t, 1, 3)                                                                    \
    Q_FEW_KERNEL(name, t, 1, 4)                                                                    \
    Q_MANY_KERNEL(name, t, 4)                                                                      \
    Q_MANY_KERNEL(name, t, 1)                                                                      \
    static void name##_run(const struct ps_micro *m)                                               \
    {                                                                                              \
        static const mm_fn eight[] = {NULL, name##_8x1};                                           \
        static const mm_fn four[] = {NULL,       name##_4x1, name##_4x2,                           \
                                     name##_4x3, name##_4x4, Q_TIMES_12(name##_4xN)};              \
        static const mm_fn one[] = {NULL,       name##_1x1, name##_1x2,                            \
                                    name##_1x3, name##_1x4, Q_TIMES_12(name##_1xN)};               \
        static const struct mm_fns narrow = {.rows = {[8] = eight, [4] = four, [1] = one}};        \
        static const struct mm_fns wide = {.rows = {[4] = four, [1] = one}};                       \
        mm_run(m, m->cols > 1 ? &wide : &narrow);                                                  \
    }                                                                                              \
    Q_SET_CLASS const struct ps_micro_set name = {                                                 \
        .run = name##_run,                                                                         \
        .rows = Q_TALL,                                                                            \
        .cols = Q_COLS,                                                                            \
        .rows_narrow = 8,                                                                          \
        .narrow = 1,                                                                               \
        .k_step = (t) == PS_NF4B64 || (t) == PS_MXFP4 ? 128 : 64,                                  \
        .step_bytes = ((t) == PS_NF4B64 || (t) == PS_MXFP4 ? 128 : 64) * 4,                        \
        .pad_cols = 1,                                                                             \
        .sum_floats = VW,                                                                          \
        .even = true,                                                                              \
    };
#endif
#endif
