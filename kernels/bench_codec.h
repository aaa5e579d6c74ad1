/* How fast blocks are packed and unpacked here, against a memcpy of the same memory in the same run: what `penstock
 * bench codec` prints. Called by one thread; takes some seconds and some hundred megabytes. */
#ifndef PS_KERNELS_BENCH_CODEC_H
#define PS_KERNELS_BENCH_CODEC_H
#include <stddef.h>

#include "base/err.h"

struct ps_bench_codec_row {
    const char *codec,
        *dtype;   /* "raw", "lz4", "wh", "xc34", "q8b64", "nf4b64"; "bf16", "f16", "f32", "f8" */
    double ratio; /* decoded bytes over stored ones */
    double decode_gb_s, encode_gb_s; /* decoded bytes per second, 10^9, all threads together; decode
                                        NaN for rounded rows, which nobody unpacks: kernels multiply them as they lie */
};

#define PS_BENCH_CODEC_ROWS 22 /* codecs times types; F8 is not rounded */

/* Fills rows[0..*n), at most `cap`, and *limit_gb_s: memcpy in blocks with as many threads. Weights are normally
 * distributed, sigma 0.02 (FP8: scaled to its range), in blocks of 256 KiB, from memory larger than most caches to
 * memory as large. The best of several passes counts: whatever else runs can only slow one. PS_ENOMEM, PS_EDATA if
 * what comes out is not what went in. Blocks. */
int ps_bench_codec(struct ps_bench_codec_row *rows, size_t cap, size_t *n, double *limit_gb_s,
                   unsigned threads, struct ps_err *err);
#endif
