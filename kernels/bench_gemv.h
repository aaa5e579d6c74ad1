/* How fast the matrix products of the chosen backend are, against the limit of this machine measured in the same
 * run: what `penstock bench gemv` prints. Called by one thread; takes some seconds and up to half a gigabyte. */
#ifndef PS_KERNELS_BENCH_GEMV_H
#define PS_KERNELS_BENCH_GEMV_H
#include <stddef.h>

#include "base/err.h"

struct ps_bench_row {
    const char *dtype; /* of the weights: "bf16", "f16", "f32", "q8b64", "nf4b64", "mxfp4", "f8" */
    unsigned t;        /* rows of activations */
    double seconds;    /* for as many weights as 512 MiB of bf16 hold */
    double gb_s;       /* stored bytes of weights per second, 10^9 */
    double gflops;     /* 2 * t * weights per second, 10^9: hi and lo halves count once */
    double limit_gb_s; /* how fast plain loops read memory between the turns of this row */
    double share;      /* gb_s of a turn by the limit just before and after it */
    double per_weight; /* weights per second by those of bf16 with the same t, in the same turn */
};

#define PS_BENCH_GEMV_ROWS 42 /* 7 types times t = 1, 4, 16, 64, 128, 512 */

/* Fills rows[0..*n), at most `cap`, and *limit_gb_s, the median of theirs. Every number is a median over turns:
 * reading, the row's product and bf16's follow one another within milliseconds. The matrices are far larger than
 * the caches and are handed over in panels of 8 MiB, as the scheduler does. PS_ENOMEM, PS_EUNSUPPORTED
 * (PENSTOCK_BACKEND). Blocks. */
int ps_bench_gemv(struct ps_bench_row *rows, size_t cap, size_t *n, double *limit_gb_s,
                  unsigned threads, struct ps_err *err);
#endif
