/* A structural check of an index file that LMDB has not opened yet.
 *
 * LMDB trusts its pages: an offset that points outside, in a file that a failing disk or a stray program has
 * changed, makes it read or write outside the page. A cache is disposable, a crash is not, so after anything
 * but a clean close the pages are walked once without it (about 10 GB/s; 1,000,000 extents are 100 MB). The
 * layout is that of LMDB 0.9 on 64-bit machines (mdb.c: MDB_page, MDB_node, MDB_meta, MDB_db). */
#ifndef PS_CACHE_INDEX_CHECK_H
#define PS_CACHE_INDEX_CHECK_H

#include <stddef.h>
#include "base/err.h"

/* 0, or PS_EDATA saying what is wrong. Pure function over the bytes of data.mdb. */
int ps_index_check(const void *bytes, size_t len, struct ps_err *err);
/* The same for a file; PS_ENOTFOUND when there is none, PS_EIO. Blocks: reads it whole. */
int ps_index_check_file(const char *path, struct ps_err *err);

#endif
