/* How a matrix product is cut into micro-kernels: shared by avx2, avx512 and amx. A micro-kernel computes some rows
 * times some columns of C; the cut into rows, columns, stretches of K and threads is free, because every sum has
 * its own accumulator and takes its terms in one order: between two stretches of K the accumulators rest in memory,
 * unrounded and unreduced. "Column" here is a row of activations, a column of the product W x A^T.
 *
 * Packed activations: column blocks one after the other; within a block, for each k_step elements of K (the last
 * one filled up with zeros), its columns side by side, step_bytes each: four bytes per element, a float or its hi and
 * lo bf16 halves, or what else the micro-kernels make of them. */
#ifndef PS_KERNELS_MATMUL_DRIVE_H
#define PS_KERNELS_MATMUL_DRIVE_H
#include "kernels/kernels_internal.h"

/* One call of a micro-kernel. */
struct ps_micro {
    const uint8_t *w;               /* first of the rows, at the first element */
    const struct ps_matrix *matrix; /* the panel, for its scales; `row` and `k0` say where in it this is */
    size_t row, k0;
    size_t row_stride, rows, cols, K;
    const uint8_t *a; /* the column block, at the first element */
    float *c;         /* c[col * ldc + row] */
    size_t ldc;
    bool accumulate;
    bool more; /* not the last stretch of K: leave the sums in `sums`; K is then a multiple of k_step */
    bool begun; /* not the first: they are there */
    float *sums;
    const uint8_t *ahead; /* rows to prefetch meanwhile, row_stride apart */
    size_t n_ahead;
};

struct ps_micro_set {
    void (*run)(const struct ps_micro *m); /* m->rows from 1 to rows, m->cols from 1 to cols */
    unsigned rows, cols;
    unsigned rows_narrow, narrow; /* rows of a call where T <= narrow */
    unsigned k_step;              /* elements */
    unsigned step_bytes;          /* of packed activations that so many of a column take */
    unsigned pad_cols;            /* column blocks are stored as a multiple of this */
    unsigned sum_floats;          /* that `sums` takes per row and column */
    bool even; /* column blocks as even as they come (16 is 5 + 5 + 6); else all full but the last */
};

/* Column block b, out of ps_col_blocks, holds rows [ps_col_start(b), ps_col_start(b + 1)) of A. */
static inline size_t ps_col_blocks(const struct ps_micro_set *set, size_t T)
{
    return ps_div_up(T, set->cols);
}

static inline size_t ps_col_start(const struct ps_micro_set *set, size_t T, size_t b)
{
    return set->even ? T * b / ps_col_blocks(set, T) : ps_min_size(T, b * set->cols);
}

/* Bytes of one column of packed activations; block b starts at ps_col_start(b) times this. */
static inline size_t ps_col_bytes(const struct ps_micro_set *set, size_t K)
{
    return ps_div_up(K, set->k_step) * set->step_bytes;
}

static inline size_t ps_packed_bytes(const struct ps_micro_set *set, size_t T, size_t K)
{
    return ps_round_up(T, set->pad_cols) * ps_col_bytes(set, K);
}

/* Calls block(act, t0, t1, to) for every column block, on the pool where that pays. */
void ps_drive_pack(struct ps_pool *pool, const struct ps_micro_set *set, const struct ps_act *act,
                   void (*block)(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to));

void ps_drive_matmul(struct ps_pool *pool, const struct ps_micro_set *set,
                     const struct ps_matmul_job *job);
#endif
