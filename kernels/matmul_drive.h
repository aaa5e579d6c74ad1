/* How a matrix product is cut into micro-kernels: shared by avx2, avx512 and amx. A micro-kernel computes some rows times
 * some columns of C, each as one whole sum along K; the cut into rows, columns and threads is free, because every sum has
 * its own accumulator and order. "Column" here is a row of activations, a column of the product W x A^T. */
#ifndef PS_KERNELS_MATMUL_DRIVE_H
#define PS_KERNELS_MATMUL_DRIVE_H
#include "kernels/kernels_internal.h"

/* One call of a micro-kernel. */
struct ps_micro {
    const uint8_t *w; /* first of the rows */
    size_t row_stride, rows, cols, K;
    const uint8_t *a; /* first column: f32 rows lda apart, or a packed column block */
    size_t lda;       /* elements */
    float *c;         /* c[col * ldc + row] */
    size_t ldc;
    bool accumulate;
    const uint8_t *ahead; /* rows to prefetch meanwhile, row_stride apart */
    size_t n_ahead;
};

struct ps_micro_set {
    void (*run)(const struct ps_micro *m); /* m->rows from 1 to rows(m->cols), m->cols from 1 to cols */
    unsigned rows, rows_narrow;            /* of one call; rows_narrow where T <= narrow */
    unsigned narrow;
    unsigned cols;
    bool even; /* column blocks as even as they come (16 is 5 + 5 + 6); else all full but the last */
    bool packed; /* columns come from act->packed, else from act->a */
};

/* Column block b, out of ps_col_blocks, holds rows [ps_col_start(b), ps_col_start(b + 1)) of A. The packed layout follows
 * the same cut: block b starts at ps_col_start(b) times the bytes of a column. */
static inline size_t ps_col_blocks(const struct ps_micro_set *set, size_t T)
{
    return ps_div_up(T, set->cols);
}

static inline size_t ps_col_start(const struct ps_micro_set *set, size_t T, size_t b)
{
    return set->even ? T * b / ps_col_blocks(set, T) : ps_min_size(T, b * set->cols);
}

/* `col_bytes`: of one column of activations, as the micro-kernels read it. */
void ps_drive_matmul(struct ps_pool *pool, const struct ps_micro_set *set, size_t col_bytes,
                     const struct ps_matmul_job *job);
#endif
