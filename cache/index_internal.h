/* What the parts of the index share: the environment and its gate (index_env.c), rows to read (index_read.c) and to
 * write (index_write.c), the file's room (index_space.c). The only file that includes lmdb.h.
 *
 * Threads: whoever uses ix->env is inside the gate: between ps_index_enter and ps_index_leave, or within a
 * transaction. */
#ifndef PS_CACHE_INDEX_INTERNAL_H
#define PS_CACHE_INDEX_INTERNAL_H
#include <lmdb.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "cache/index.h"
#include "cache/index_rows.h"

#define ORIGIN     "cache"
#define PATH_BYTES 4096
#define READ_POOL                                                                                  \
    6           /* ended read transactions kept for reuse: no allocation and no lock per lookup */
#define TRIES 8 /* map growth and its like, per call */

struct ps_index {
    MDB_env *env; /* NULL after a failed reopen */
    MDB_dbi extents, slots, info;
    struct ps_index_options options;
    /* The gate: shared by transactions, exclusive for what LMDB forbids beside them (changing the map,
     * reopening). Not an rwlock: those that are inside must be able to come in again, and to hold the claims
     * table on either side of it, while somebody waits for exclusive use. They stay microseconds, so that use
     * comes to its turn. */
    pthread_mutex_t gate_lock;
    pthread_cond_t gate_changed;
    unsigned inside;          /* gate_lock */
    bool exclusive;           /* gate_lock */
    MDB_txn *pool[READ_POOL]; /* gate_lock; ended, reset */
    size_t n_pool;
    int data_fd; /* ours, for its size: usable under any lock */
    char dir[PATH_BYTES];
};

struct ps_index_write {
    struct ps_index *ix;
    MDB_txn *txn;
    int mdb_rc; /* first failure of LMDB: decides whether the body runs again */
    struct ps_index_meta meta;
};

/* Sets `err` to what LMDB's or errno's `rc` means here, `what` being the operation; returns its code. */
int ps_index_error(const struct ps_index *ix, int rc, const char *what, struct ps_err *err);

void ps_index_enter(struct ps_index *ix);
void ps_index_leave(struct ps_index *ix);
/* Comes in, with an ended transaction to use again if there is one. */
MDB_txn *ps_index_enter_for_read(struct ps_index *ix);
/* Leaves, and keeps the transaction, which has been reset, for the next one who enters for a read. */
void ps_index_leave_after_read(struct ps_index *ix, MDB_txn *txn);
/* From outside the gate, after a call failed with LMDB's `rc`: whether it may be tried again, the reason being gone. */
bool ps_index_mended(struct ps_index *ix, int rc);

/* Rows of a transaction, each checked whenever it is read: the budget rests on these counters. Those that take no
 * `err` return LMDB's codes, but for ps_index_load_model: 0, PS_ENOTFOUND or PS_EDATA. */
int ps_index_load_meta(const struct ps_index *ix, MDB_txn *txn, struct ps_index_meta *meta,
                       struct ps_err *err);
int ps_index_store_meta(struct ps_index *ix, MDB_txn *txn, struct ps_index_meta *meta);
int ps_index_load_record(const struct ps_index *ix, MDB_txn *txn, const uint8_t *key,
                         struct ps_record *rec, struct ps_err *err);
int ps_index_load_model(const struct ps_index *ix, MDB_txn *txn, uint16_t number,
                        struct ps_model *model);
/* Calls fn for each model until it returns false. */
int ps_index_each_model(const struct ps_index *ix, MDB_txn *txn,
                        bool (*fn)(void *user, const struct ps_model *m), void *user);
int ps_index_load_parts(const struct ps_index *ix, MDB_txn *txn, uint16_t number, unsigned row,
                        struct ps_rows_parts *parts);
/* The bitmap that covers a slot, borrowed until the transaction goes on; NULL when all its slots are free. */
int ps_index_load_bitmap(const struct ps_index *ix, MDB_txn *txn, int cls, uint32_t slot,
                         const uint8_t **bits);
static inline bool ps_index_bit_is_set(const uint8_t *bits, uint32_t slot)
{
    const uint32_t i = slot % PS_ROWS_SLOTS_BITS;
    return bits && (bits[i / 8] >> (i % 8) & 1);
}
#endif
