/* The cache's own parts, shared by cache.c (reads and reservations), writer.c (the one thread that changes the index),
 * recover.c (opening), registry.c (one environment per process and path) and admin.c (facts and maintenance).
 *
 * Order of locks: the index's write transaction, then the claims table, then index reads; `lock` is a leaf. Nothing is
 * waited for while the claims table is held. */
#ifndef PS_CACHE_INTERNAL_H
#define PS_CACHE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>
#include "cache/cache.h"
#include "cache/claims.h"
#include "cache/evict.h"
#include "cache/index.h"
#include "cache/slab.h"

#define PS_CACHE_ORIGIN     "cache"
#define PS_CACHE_PATH_MAX   4000
#define PS_CACHE_PUBLISH_NS (200ull * 1000 * 1000) /* longest wait of a put for its batch */
#define PS_CACHE_UPKEEP_NS  (30ull * PS_NS_PER_S)  /* dead readers, dead processes */
#define PS_CACHE_CLAIM_NS                                                                          \
    (150ull * PS_NS_PER_S) /* --net-deadline and some: then another may fetch the key too */
#define PS_CACHE_FULL_NS  (5ull * PS_NS_PER_S) /* no admission after ENOSPC */
#define PS_CACHE_NO_MODEL UINT32_MAX           /* read-only and unknown: nothing is held for it */

struct ps_cache_ticket {
    struct ps_cache *cache;
    struct ps_cache_ticket *next; /* cache->lock: pending or unused list */
    uint32_t claim;
    bool published_already; /* writer: another process was first */
    uint8_t key[PS_SHA256_BYTES];
    struct ps_record rec;
};

/* Keys of one model's plan: the first eight bytes of each, sorted. A collision (1 in 2^64 per pair) keeps one
 * extent more. */
struct ps_plan_key {
    uint64_t prefix;
    uint32_t rank;
};
struct ps_plan {
    uint32_t model; /* PS_CACHE_NO_MODEL: unused */
    struct ps_plan_key *keys;
    size_t n;
};

struct ps_job {
    int (*fn)(struct ps_cache *c, void *user, struct ps_err *err);
    void *user;
    struct ps_err *err;
    int code;
    bool done; /* cache->lock */
    struct ps_job *next;
};

struct ps_cache {
    /* registry.c, under the registry's lock */
    struct ps_cache *next;
    unsigned users;
    dev_t dev;
    ino_t ino;
    pid_t pid; /* who opened it: a forked child must not use it */

    /* constant after opening */
    char dir[PS_CACHE_PATH_MAX + 1];
    int dir_fd, lock_fd;
    bool read_only;
    bool unlocked; /* read-only, and no lock can be taken */
    bool rebuilt;  /* opening found damage and began with nothing */
    struct ps_stats *stats;
    struct ps_slabs *slabs;
    struct ps_claims *claims; /* NULL when read-only */
    struct ps_index *index;

    _Atomic uint64_t other_bytes; /* folder less slabs and data.mdb, as last measured */
    _Atomic uint64_t peak_bytes;
    _Atomic uint64_t full_until_ns; /* after ENOSPC */
    _Atomic bool full_logged;
    _Atomic uint32_t n_tickets; /* reserved and not yet consumed or published */
    _Atomic uint32_t n_waiting; /* callers of ps_cache_wait */

    struct {
        _Atomic uint32_t model; /* PS_CACHE_NO_MODEL: unused */
        _Atomic uint64_t bytes; /* read from here, or fetched to here, since last recorded: evict.h */
    } used[PS_CLAIM_MODELS];

    /* writer thread (and the opener, before it runs) */
    uint64_t batch;
    struct ps_evict_list victims;
    size_t next_victim;
    uint64_t victims_generation; /* of plans, when the list was made */
    uint64_t victims_until_ns;
    uint64_t next_upkeep_ns;
    uint64_t readers_ns; /* how long a commit waits for readers that pin pages; tests change it */
    uint64_t patient_after_ns; /* somebody looks for longer than that: until then no commit waits again */

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t wake;  /* the writer */
    pthread_cond_t done;  /* callers of jobs */
    pthread_t writer;
    bool writer_runs, stopping;
    struct ps_job *first_job, *last_job;
    struct ps_cache_ticket *first_pending, *last_pending, *unused;
    size_t n_pending;
    bool hurry; /* another process waits for what is pending: its batch does not */
    struct ps_cache_ticket *const *publishing; /* the batch that is being committed; readable like the pending ones */
    size_t n_publishing;
    uint64_t first_pending_ns;
    struct ps_err write_err; /* of a batch that nobody waited for; told by the next flush */
    struct ps_plan plans[PS_CLAIM_MODELS];
    uint64_t plan_generation;
    uint64_t no_victims_until_ns, no_victims_generation; /* a full scan found nothing to evict */
};

/* ---- writer.c ---- */
int ps_writer_start(struct ps_cache *c, struct ps_err *err);
void ps_writer_stop(struct ps_cache *c); /* publishes what is pending */
/* The record of a put that is not in the index yet: its bytes are in its slot, so this process may read them. */
bool ps_writer_find_pending(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES],
                            struct ps_record *out);
/* Runs fn on the writer thread (or here, while there is none) and waits. */
int ps_writer_call(struct ps_cache *c, int (*fn)(struct ps_cache *, void *, struct ps_err *),
                   void *user, struct ps_err *err);
void ps_writer_note_ticket(struct ps_cache *c); /* a ticket is out: the writer shows that we work on it */
void ps_writer_push(struct ps_cache *c, struct ps_cache_ticket *t);
/* A ticket whose bytes will not be kept: punches its slot, removes its claim, takes the ticket back. */
void ps_ticket_drop(struct ps_cache *c, struct ps_cache_ticket *t);
void ps_ticket_recycle(struct ps_cache *c, struct ps_cache_ticket *t);
/* Writer only. ps_index_update for a body that changes about `touched` rows and adds no extents: gives readers a moment
 * to end rather than growing the file, and notes damage. */
int ps_writer_update(struct ps_cache *c, size_t touched, ps_index_body body, void *user,
                     struct ps_err *err);
/* By class and slot, for qsort: neighbours are punched together. */
int ps_writer_by_slot(const void *a, const void *b);
/* Writer only. Takes up to PS_CACHE_BATCH of recs out (those that are still there, and in nobody's hands). `force`: the
 * folder is over its limit anyway, the commit may grow the index. */
int ps_writer_evict(struct ps_cache *c, const struct ps_keyed_record *recs, size_t n, bool force,
                    uint64_t *freed_bytes, struct ps_err *err);
/* Writer only. Evicts in order until `need` bytes are freed or nothing evictable is left. */
int ps_writer_make_room(struct ps_cache *c, uint64_t need, bool shrinking, uint64_t *freed_bytes,
                        struct ps_err *err);
/* Writer only. */
void ps_writer_upkeep(struct ps_cache *c);
/* Job: publishes all that was put before it. */
int ps_writer_flush(struct ps_cache *c, void *user, struct ps_err *err);

/* ---- cache.c ---- */
/* Counts bytes as used of one of this process's models (others are not ours to tell of). Any thread. */
void ps_cache_count_use(struct ps_cache *c, uint32_t model, uint64_t bytes);
/* The folder's numbers; claims table locked. */
void ps_cache_state_locked(struct ps_cache *c, const struct ps_index_meta *meta,
                           struct ps_budget_state *s);
/* Damage that LMDB reports while running: leaves word for the next opening. Returns code. */
int ps_cache_note(struct ps_cache *c, int code);
void ps_cache_disk_full(struct ps_cache *c);
/* Walks the folder: st_blocks of everything, and of everything that is neither a slab nor data.mdb. Updates the
 * peak. */
uint64_t ps_cache_measure(struct ps_cache *c);
bool ps_plan_find(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES],
                  uint32_t *rank); /* takes c->lock */

/* ---- recover.c ---- */
/* Fills an allocated cache whose dir, pid and identity are set: layout, index, claims, leftovers, size. */
int ps_recover_open(struct ps_cache *c, const struct ps_cache_options *o, struct ps_err *err);
void ps_recover_close(struct ps_cache *c); /* everything that ps_recover_open made; writer stopped */
/* Claims of dead processes: punches what never reached the index. Returns how many were freed. Waits for commits when
 * somebody has died: neither a transaction nor the claims table may be held. */
unsigned ps_recover_dead(struct ps_cache *c);

#endif
