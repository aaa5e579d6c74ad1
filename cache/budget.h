/* The arithmetic of the hard limit: what an extent, an index and a folder cost in allocated bytes, worst case.
 * Pure functions on integers; nothing here looks at a disk, so that every bound is property-tested without one.
 *
 * Two kinds of number meet here. Bounds (index, file-system metadata) are charged before the bytes exist;
 * measured sizes (st_blocks) replace a bound whenever they are larger. The limit therefore holds even where a
 * bound is wrong; a bound that is right makes ps_cache_budget_for's promise true as well. */
#ifndef PS_CACHE_BUDGET_H
#define PS_CACHE_BUDGET_H

#include <stddef.h>
#include <stdint.h>

#define PS_CACHE_GRAIN                                                                             \
    4096u /* slots and file-system blocks; a larger st_blksize shows up in the measured sizes */
#define PS_CACHE_CLASSES    13 /* slot sizes 4 KiB << 0 .. 4 KiB << 12 = 16 MiB */
#define PS_CACHE_EXTENT_MAX (PS_CACHE_GRAIN << (PS_CACHE_CLASSES - 1))
#define PS_CACHE_BATCH                                                                             \
    64 /* records per synced index commit: bounds the pages that one commit can add */
#define PS_CACHE_PROCESSES  64  /* live processes per folder */
#define PS_CACHE_READERS    480 /* LMDB reader slots: its lock file then takes exactly 32 KiB */
#define PS_CACHE_CLAIMS_MIN 256
#define PS_CACHE_CLAIMS_MAX 4096

/* Rounds up to whole grains. */
uint64_t ps_budget_round(uint64_t bytes);
/* The slot class of an extent (slot size = 4 KiB << class), or -1 when it is empty or larger than the largest slot. */
int ps_budget_class(uint64_t bytes);
uint64_t ps_budget_class_bytes(int cls);

/* Claims that fit the table of a folder with this budget, and that table's file size. */
uint32_t ps_budget_claims(uint64_t budget_bytes);
uint64_t ps_budget_claims_bytes(uint32_t claims);

/* Pages that one commit of `batch` inserts or deletes can add to an index of n records (copy on write: every
 * page that is touched is written anew). */
uint64_t ps_budget_index_dirty_bytes(uint64_t n_extents, uint64_t batch);
/* What data.mdb of n records can grow to, and what it is made as long as: half-full pages, plus the copies that three
 * commits leave behind. n counts in steps, so that a folder that is full, where extents come and go, keeps one size of
 * index. */
uint64_t ps_budget_index_bytes(uint64_t n_extents);
/* Block maps that a file system needs for sparse slab files and that st_blocks counts. */
uint64_t ps_budget_slab_overhead(uint64_t n_extents, uint64_t slab_bytes);
/* Everything else: directories, tag, lock files, claims table. */
uint64_t ps_budget_fixed_bytes(uint64_t budget_bytes);

/* The least budget with which one smallest extent can be kept. */
uint64_t ps_budget_least(void);
/* ps_cache_budget_for. */
uint64_t ps_budget_for(uint64_t stored_bytes, uint64_t n_extents);

/* A folder as measured and recorded at one moment. */
struct ps_budget_state {
    uint64_t budget_bytes;        /* the smallest of all live processes' */
    uint64_t other_bytes;         /* measured: all but data.mdb and the slabs */
    uint64_t index_file_bytes;    /* measured: data.mdb */
    uint64_t index_growing_bytes; /* reserved by commits under way */
    uint64_t slab_file_bytes;     /* measured: slabs */
    uint64_t n_extents;           /* in the index */
    uint64_t extent_bytes;        /* in the index, rounded to grains */
    uint64_t n_inflight;          /* claimed, not yet in the index; or out of it, not yet punched */
    uint64_t inflight_bytes;      /* rounded */
};
/* Allocated bytes that the folder can reach when everything in flight lands and `add_bytes` (rounded) in `add_n` more
 * extents are admitted. */
uint64_t ps_budget_charge(const struct ps_budget_state *s, uint64_t add_n, uint64_t add_bytes);
/* ps_cache_usable_bytes: stored bytes that n extents may have besides `kept_n` extents of `kept_bytes` that stay. */
uint64_t ps_budget_usable(const struct ps_budget_state *s, uint64_t n_extents, uint64_t kept_n,
                          uint64_t kept_bytes);

#endif
