/* How fast the matrix products of the chosen backend are, against the limit of this machine measured in the same
 * run: what `penstock bench gemv` prints. Called by one thread; takes some seconds and up to half a gigabyte. */
#ifndef PS_KERNELS_BENCH_GEMV_H
#define PS_KERNELS_BENCH_GEMV_H
#include <stddef.h>

#include "base/err.h"

struct ps_bench_row {
    const char *dtype; /* of the weights: "bf16", "f16", "f32", "q8b64", "nf4b64", "mxfp4", "f8" */
    unsigned t;        /* rows of activations */
    double seconds;    /* one pass over the whole matrix, the best of several */
    double gb_s;       /* stored bytes of weights per second, 10^9 */
    double gflops;     /* 2 * t * weights per second, 10^9: hi and lo halves count once */
};

#define PS_BENCH_GEMV_ROWS 42 /* 7 types times t = 1, 4, 16, 64, 128, 512 */

/* Fills rows[0..*n), at most `cap`, and *limit_gb_s: the best read bandwidth of several plain loops with as many
 * threads over the same memory. The matrix is far larger than the caches and is handed over in panels of 8 MiB, as
 * the scheduler does. PS_ENOMEM, PS_EUNSUPPORTED (PENSTOCK_BACKEND). Blocks. */
int ps_bench_gemv(struct ps_bench_row *rows, size_t cap, size_t *n, double *limit_gb_s,
                  unsigned threads, struct ps_err *err);
#endif
