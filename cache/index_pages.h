/* An LMDB file as pages: a walk that believes nothing, made without LMDB. In: the bytes of data.mdb; out: the records
 * of its tables, or the news that the pages don't hang together.
 *
 * LMDB trusts its file. An offset that points outside, a page number in the free list that is in use, a flag that no
 * table of ours has: it asserts, reads beyond the map or writes over live pages. So a file that is not known to be as
 * it was left is walked here first, and what this walk accepts is what LMDB can work on: both headers agree, every page
 * is reached once or free, nodes fill their page exactly, keys rise, counts are what is there.
 * The layout is that of LMDB 0.9 on 64-bit machines (mdb.c: MDB_page, MDB_node, MDB_meta, MDB_db).
 *
 * One thread at a time; the bytes are borrowed and must not change meanwhile. */
#ifndef PS_CACHE_INDEX_PAGES_H
#define PS_CACHE_INDEX_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PS_PAGES_TABLES_MAX 16u
#define PS_PAGES_NUMERIC    8u /* flag of a table: keys are integers (MDB_INTEGERKEY) */

struct ps_pages_table {
    const uint8_t *name;
    size_t name_bytes;
    const uint8_t *descriptor;
    uint16_t flags;
    uint64_t n_records;
};

struct ps_pages {
    const uint8_t *bytes;
    uint64_t n_pages; /* last page + 1 */
    uint64_t txnid;   /* of the last commit */
    uint8_t *seen;    /* a bit per page: reached, or free */
    struct ps_pages_table tables[PS_PAGES_TABLES_MAX];
    size_t n_tables;
    bool foreign; /* both headers name another layout of LMDB: nothing was walked, LMDB refuses it by name */
};

struct ps_pages_record { /* borrowed from the file */
    const uint8_t *key, *data;
    size_t key_bytes, data_bytes;
};
/* False: this record is not what it should be. */
typedef bool (*ps_pages_visit)(void *user, const struct ps_pages_record *r);

/* Pages of a file that LMDB has ever used, from its first PS_PAGES_HEAD bytes; 0: they are no headers of an index. */
#define PS_PAGES_HEAD 8192u
uint64_t ps_pages_used(const uint8_t head[PS_PAGES_HEAD]);
/* Headers, free list and table of tables. 0, PS_EDATA, PS_ENOMEM; ps_pages_end after either. */
int ps_pages_begin(struct ps_pages *p, const void *bytes, size_t len);
void ps_pages_end(struct ps_pages *p);
const struct ps_pages_table *ps_pages_find(const struct ps_pages *p, const char *name);
/* Every record of a table, in key order. Once per table, because each page may be reached once. 0 or PS_EDATA. */
int ps_pages_walk(struct ps_pages *p, const struct ps_pages_table *table, ps_pages_visit visit,
                  void *user);

#endif
