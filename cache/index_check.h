/* Whether an index file can be given to LMDB: before that, and without it. In: data.mdb; out: a verdict.
 *
 * Two ways to know. A file that is byte for byte as it was closed needs no more than its sum (ps_index_sum_file, kept
 * in the lock file: recover.c). Any other is walked page by page (index_pages.h) and counted again: records against
 * slots, counters and models against records. What passes both is an index that this program could have written, so
 * that neither LMDB nor the budget is led astray by it; what it says of a slot's bytes is checked when they are read.
 *
 * 1,000,000 extents are 117 to 139 MB: the sum takes 18 ms, the walk and the count 45 (SPEED.md). */
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
    uint64_t bytes;
    uint32_t crc32c;
    uint32_t reserved;
};
/* Of the whole file. PS_ENOTFOUND, PS_EIO, PS_ENOMEM; PS_EDATA: no regular file, or one that can't be read to its end.
 * Blocks. */
int ps_index_sum_file(struct ps_index_sum *out, const char *path, struct ps_err *err);

#endif
