/* Whether an index file can be given to LMDB: before that, and without it. In: data.mdb; out: a verdict.
 *
 * Two ways to know. A file that is byte for byte as it was closed needs no more than its sum (ps_index_sum_file, kept
 * in the lock file: recover.c). Any other is walked page by page (index_pages.h) and counted again: records against
 * slots, counters and models against records. What passes both is an index that this program could have written, so
 * that neither LMDB nor the budget is led astray by it; what it says of a slot's bytes is checked when they are read.
 *
 * 1,000,000 extents are 100 to 139 MB: the sum takes 20 ms of a CPU's time, on several of them, the walk and the count
 * 45 (SPEED.md). */
#ifndef PS_CACHE_INDEX_CHECK_H
#define PS_CACHE_INDEX_CHECK_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

/* 0, or PS_EDATA saying what is wrong; PS_ENOMEM. A newer format, sound as far as it can be told, passes: opening it
 * says what it is. A function of the bytes of data.mdb alone. */
int ps_index_check(const void *bytes, size_t len, struct ps_err *err);
/* The same for a file; PS_ENOTFOUND when there is none, PS_EIO. An empty file passes: LMDB fills it. Blocks: reads it
 * whole. */
int ps_index_check_file(const char *path, struct ps_err *err);

struct ps_index_sum {
    uint64_t bytes; /* pages that were ever used, both headers included: what lies behind them nobody reads */
    uint32_t head; /* of the headers, which every commit changes */
    uint32_t crc32c;
};
/* Of the headers alone: crc32c is 0. The sums below say the same of a file that begins otherwise. PS_ENOTFOUND, PS_EIO,
 * PS_ENOMEM; PS_EDATA: no regular file, or one that can't be read. Blocks. */
int ps_index_sum_head(struct ps_index_sum *out, const char *path, struct ps_err *err);
/* Of all that was ever used, on up to PS_PARALLEL_MAX threads. */
int ps_index_sum_file(struct ps_index_sum *out, const char *path, struct ps_err *err);

#endif
