/* The micro-kernels in f32: weights f32, f16 or bf16 widened, activations as they are, FMA; in the names of
 * vec_*.h.
 *
 * Order of additions: lane l of a sum's accumulator takes k = l, l + VW, l + 2 VW, ... by FMA (a masked last step
 * where K ends), then v_sum's tree adds the lanes. */
#ifndef PS_KERNELS_MATMUL_IMPL_H
#define PS_KERNELS_MATMUL_IMPL_H
#ifdef VW
#include "kernels/matmul_drive.h"

#define MM_COLS   6 /* most of a micro-kernel */
#define MM_ROWS   8
#define MM_INLINE static inline __attribute__((always_inline))

MM_INLINE vf mm_load(const uint8_t *row, enum ps_dtype t, size_t k)
{
    return t == PS_BF16  ? v_load_bf16(row + 2 * k)
           : t == PS_F16 ? v_load_f16(row + 2 * k)
                         : v_load_f32(row + 4 * k);
}

MM_INLINE vf mm_load_n(const uint8_t *row, enum ps_dtype t, size_t k, size_t n)
{
    return t == PS_BF16  ? v_load_bf16_n(row + 2 * k, n)
           : t == PS_F16 ? v_load_f16_n(row + 2 * k, n)
                         : v_load_f32_n(row + 4 * k, n);
}

MM_INLINE void mm_ahead(const struct ps_micro *m, size_t byte)
{
    for (size_t i = 0; i < m->n_ahead; i++)
        __builtin_prefetch(m->ahead + i * m->row_stride + byte, 0, 2);
}

/* Sums of R rows of one column: to R neighbours in C, or as they are to their resting place. */
MM_INLINE void mm_finish(const struct ps_micro *m, const vf *acc, size_t col, int R)
{
    float *c = m->c + col * m->ldc;
    if (m->more) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            v_store(m->sums + (col * R + r) * VW, acc[r]);
        return;
    }
    int r = 0;
#pragma GCC unroll 8
    for (; r + 4 <= R; r += 4) {
        __m128 s = v_sum4(acc[r], acc[r + 1], acc[r + 2], acc[r + 3]);
        _mm_storeu_ps(c + r, m->accumulate ? _mm_add_ps(_mm_loadu_ps(c + r), s) : s);
    }
#pragma GCC unroll 8
    for (; r < R; r++) {
        float sum = v_sum(acc[r]);
        c[r] = m->accumulate ? c[r] + sum : sum;
    }
}

MM_INLINE void mm_begin(const struct ps_micro *m, vf (*acc)[MM_ROWS], int R, int C)
{
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            acc[c][r] = m->begun ? v_load(m->sums + (c * R + r) * VW) : v_zero();
}

MM_INLINE void mm_step(vf (*acc)[MM_ROWS], const vf *w, const float *a, int R, int C)
{
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
        vf x = v_load(a + c * VW);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            acc[c][r] = v_fma(w[r], x, acc[c][r]);
    }
}

MM_INLINE void mm_fma(const struct ps_micro *m, enum ps_dtype t, int R, int C)
{
    const size_t size = t == PS_F32 ? 4 : 2, line = 64 / size; /* elements of a cache line */
    vf acc[MM_COLS][MM_ROWS], w[MM_ROWS];
    const float *a = (const float *)(const void *)m->a;
    size_t k = 0;
    mm_begin(m, acc, R, C);
    for (; k + line <= m->K; k += line) {
        mm_ahead(m, k * size);
#pragma GCC unroll 8
        for (size_t i = 0; i < line; i += VW, a += C * VW) {
#pragma GCC unroll 8
            for (int r = 0; r < R; r++)
                w[r] = mm_load(m->w + (size_t)r * m->row_stride, t, k + i);
            mm_step(acc, w, a, R, C);
        }
    }
    for (; k + VW <= m->K; k += VW, a += C * VW) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            w[r] = mm_load(m->w + (size_t)r * m->row_stride, t, k);
        mm_step(acc, w, a, R, C);
    }
    if (k < m->K) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            w[r] = mm_load_n(m->w + (size_t)r * m->row_stride, t, k, m->K - k);
        mm_step(acc, w, a, R, C);
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
        mm_finish(m, acc[c], (size_t)c, R);
}

/* Columns t0 to t1 as floats: see matmul_drive.h. */
static inline void mm_pack_block(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to)
{
    for (size_t t = t0; t < t1; t++) {
        const float *a = act->a + t * act->lda;
        float *x = (float *)(void *)to + (t - t0) * VW;
        for (size_t k = 0; k < act->K; k += VW, x += (t1 - t0) * VW)
            v_store(x, v_load_n(a + k, ps_min_size(act->K - k, VW)));
    }
}

#define MM_KERNEL(name, t, R, C)                                                                   \
    static void name##_##R##x##C(const struct ps_micro *m)                                         \
    {                                                                                              \
        mm_fma(m, t, R, C);                                                                        \
    }

typedef void (*mm_fn)(const struct ps_micro *m);

/* Kernels by their number of rows, tables by the number of columns; a backend may lack some. */
struct mm_fns {
    const mm_fn *rows[MM_ROWS + 1];
};

/* All rows with the tallest kernels that fit. */
MM_INLINE void mm_run(const struct ps_micro *m, const struct mm_fns *fns)
{
    struct ps_micro part = *m;
    for (size_t left = m->rows; left > 0; left -= part.rows) {
        part.rows = ps_min_size(left, MM_ROWS);
        while (!fns->rows[part.rows])
            part.rows--;
        fns->rows[part.rows][m->cols](&part);
        part.w += part.rows * m->row_stride;
        part.c += part.rows;
        part.row += part.rows;
        part.n_ahead = 0;
        if (part.sums)
            part.sums += part.rows * m->cols * VW;
    }
}
#endif
#endif
