/* The index: key -> where its bytes lie, and which slots are in use. The only door to LMDB.
 *
 * Three tables in one environment (`index/data.mdb`): extents (key -> ps_record), slots (one 512-byte bitmap
 * per class and 4096 slots) and info (counters, models). Every change of one is in the same transaction as the
 * others, so opening after a clean close needs no scan: counters are read, with their checksum, not computed.
 *
 * Read transactions last microseconds: records are copied out and the transaction ends before anything else
 * happens, because LMDB can't reuse a page that a reader might see (measured: 1,000 commits under one open
 * reader grow the file sixfold).
 *
 * Threads: all functions are thread-safe, ps_index_update one at a time per process (the cache's writer).
 * Handles ps_index_read and ps_index_write belong to the thread that began them. Not across fork. */
#ifndef PS_CACHE_INDEX_H
#define PS_CACHE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"
#include "cache/budget.h"

#define PS_INDEX_FORMAT     3u /* 1: without checksums, 2: without use and layers; both in no release */
#define PS_INDEX_LABEL_MAX  156 /* with NUL */
#define PS_INDEX_MODELS_MAX 4096
#define PS_INDEX_LOCK_BYTES 32768
#define PS_INDEX_PARTS_MAX  32769u /* of a model: what lies outside of its layers, then its layers */

#define PS_RECORD_HASHED 1u /* the key is known to be the SHA-256 of the bytes */

struct ps_record { /* 24 bytes on disk, little-endian as the machines that we run on */
    uint32_t slot;
    uint32_t bytes; /* stored */
    uint32_t crc32c;
    uint32_t rank; /* place in the plan at the time of writing: the highest go first when the budget shrinks */
    int16_t layer;
    uint16_t model;
    uint8_t cls;
    uint8_t flags;
    uint16_t reserved;
};

struct ps_index_meta { /* checksums are set and checked by index_rows.c */
    uint32_t format;
    uint32_t format_check; /* of format alone: these two stay in their place in every format */
    uint64_t n_extents;
    uint64_t use_clock; /* counts uses of models: an LRU stamp that no wall clock can turn back */
    struct {
        uint64_t bytes;      /* rounded to grains */
        uint32_t used, high; /* slots in use; first slot never used */
    } classes[PS_CACHE_CLASSES];
    uint64_t committed[PS_CACHE_PROCESSES]; /* per process number: its last batch that is in here (claims.h) */
    uint32_t check;                         /* of all before it */
    uint32_t reserved;
};

struct ps_model {
    uint8_t id[PS_SHA256_BYTES];
    uint64_t last_use; /* use_clock */
    uint64_t bytes;    /* stored */
    uint64_t padded_bytes;
    uint64_t n_extents;
    uint64_t saved_bytes; /* taken from here and not fetched, fading: evict.h */
    uint64_t saved_at_s;  /* wall clock: when it was that much */
    uint32_t n_layers;
    uint16_t number;
    uint8_t pinned;
    int8_t priority;
    char label[PS_INDEX_LABEL_MAX];
    uint32_t check; /* of all before it (index_rows.c) */
};

struct ps_index;
struct ps_index_write;
struct ps_index_read { /* caller's storage */
    struct ps_index *ix;
    void *txn;
};

struct ps_index_options {
    bool read_only;
    bool unlocked;      /* read-only and the lock file can't be written */
    uint64_t map_bytes; /* address space; grows by itself when full */
};
/* Opens or creates (unless read-only) the environment in `dir`, which must exist. LMDB believes its file: who is
 * not sure of it asks index_check.h first. PS_EDATA: damaged, make it anew. PS_EUNSUPPORTED: made by a newer
 * version (named). PS_EINUSE: in use in another PID namespace, or all readers' places are taken. PS_ENOSPC,
 * PS_EIO, PS_ENOTFOUND. Blocks. */
int ps_index_open(struct ps_index **out, const char *dir, const struct ps_index_options *options,
                  struct ps_err *err);
void ps_index_close(struct ps_index *ix);

/* A consistent snapshot; end it at once. Not while the same thread holds another. */
int ps_index_read_begin(struct ps_index_read *r, struct ps_index *ix, struct ps_err *err);
void ps_index_read_end(struct ps_index_read *r);
int ps_index_read_meta(struct ps_index_read *r, struct ps_index_meta *meta, struct ps_err *err);
/* PS_ENOTFOUND without text in err; PS_EDATA when the index is damaged. */
int ps_index_read_get(struct ps_index_read *r, const uint8_t key[PS_SHA256_BYTES],
                      struct ps_record *rec, struct ps_err *err);
/* The first slot of [from, to) that the bitmaps call free and `busy` does not; PS_ENOTFOUND. */
int ps_index_read_free_slot(struct ps_index_read *r, int cls, uint32_t from, uint32_t to,
                            bool (*busy)(void *user, int cls, uint32_t slot), void *user,
                            uint32_t *slot);
bool ps_index_read_slot_used(struct ps_index_read *r, int cls, uint32_t slot);
int ps_index_read_model(struct ps_index_read *r, uint16_t number, struct ps_model *model);

/* One record by key, in a transaction of its own. */
int ps_index_get(struct ps_index *ix, const uint8_t key[PS_SHA256_BYTES], struct ps_record *rec,
                 struct ps_err *err);
int ps_index_get_meta(struct ps_index *ix, struct ps_index_meta *meta, struct ps_err *err);
/* Up to `cap` records in key order, after `after` (NULL: from the start); *n < cap means the end. One short transaction
 * per call, so that a walk over everything holds no page for long. */
struct ps_keyed_record {
    uint8_t key[PS_SHA256_BYTES];
    struct ps_record rec;
};
int ps_index_scan(struct ps_index *ix, const uint8_t *after, struct ps_keyed_record *recs,
                  size_t cap, size_t *n, struct ps_err *err);
/* All models: *models is the caller's (ps_free). */
int ps_index_models(struct ps_index *ix, struct ps_model **models, size_t *n, struct ps_err *err);

/* Sizes of a model's parts as last told: ps_free. None is no error. */
int ps_index_parts(struct ps_index *ix, uint16_t number, uint64_t **bytes, size_t *n,
                   struct ps_err *err);

/* Runs `body` inside one write transaction and commits it, synced, if the body returns 0. The body runs again
 * from the start when the map had to grow: it must not keep state. Blocks on the disk and on other processes'
 * commits. PS_ENOSPC leaves the last commit intact. */
typedef int (*ps_index_body)(struct ps_index_write *w, void *user, struct ps_err *err);
int ps_index_update(struct ps_index *ix, ps_index_body body, void *user, struct ps_err *err);
/* Runs `fn` (nullable) while no process can commit, with the last commit visible to reads that begin from now on.
 * A process killed inside a commit may have written it without telling LMDB's readers: until the next writer comes
 * they see the state before it, and what they take for a free slot may hold a published extent. Any thread that
 * holds neither a transaction nor the claims table. Blocks on other processes' commits; writes nothing. */
int ps_index_pause_commits(struct ps_index *ix, void (*fn)(void *user), void *user,
                           struct ps_err *err);
/* Inside a body. The meta is written back at commit. */
struct ps_index_meta *ps_index_write_meta(struct ps_index_write *w);
/* PS_EAGAIN when the key is there already: nothing changed. */
int ps_index_write_add(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                       const struct ps_record *rec, struct ps_err *err);
/* PS_ENOTFOUND when the key is not there, or no longer with this class and slot. */
int ps_index_write_remove(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                          const struct ps_record *rec, struct ps_err *err);
int ps_index_write_flags(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                         uint8_t flags, struct ps_err *err);
/* PS_ENOTFOUND; `number` or, if id is not NULL, the model with that id. */
int ps_index_write_get_model(struct ps_index_write *w, const uint8_t *id, uint16_t number,
                             struct ps_model *model, struct ps_err *err);
int ps_index_write_put_model(struct ps_index_write *w, const struct ps_model *model,
                             struct ps_err *err);
/* What a model's parts take when all is there: bytes[0] outside of layers, bytes[1 + i] layer i. Writes nothing where
 * that stands there already. At most PS_INDEX_PARTS_MAX. */
int ps_index_write_parts(struct ps_index_write *w, uint16_t number, const uint64_t *bytes, size_t n,
                         struct ps_err *err);
int ps_index_write_remove_model(struct ps_index_write *w, uint16_t number, struct ps_err *err);
/* Smallest number that no model has. */
int ps_index_write_free_number(struct ps_index_write *w, uint16_t *number, struct ps_err *err);
/* Makes the file at least so long, its blocks allocated: a commit then finds room on a disk that is full, and the size
 * of the index is what its bound says and not what the slowest reader has made of it. Best effort. */
void ps_index_write_extend(struct ps_index_write *w, uint64_t bytes);
/* Bytes of pages that this transaction can take without growing the file, counted up to `enough`. *pinned: others are
 * free, but a reader still looks at them. */
uint64_t ps_index_write_spare_bytes(struct ps_index_write *w, uint64_t enough, bool *pinned);

uint64_t ps_index_file_bytes(struct ps_index *ix); /* st_blocks of data.mdb */
/* Gives back what lies behind the last page that was ever used. Waits for other processes' commits; best effort. */
void ps_index_trim(struct ps_index *ix);
/* Clears the reader slots of dead processes; returns how many. */
int ps_index_check_readers(struct ps_index *ix);
/* Writes a compacted copy into the existing, empty directory `to`. */
int ps_index_copy_compact(struct ps_index *ix, const char *to, struct ps_err *err);
#endif
