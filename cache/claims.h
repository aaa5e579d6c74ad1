/* The claims table: what is under way, in all processes that share a folder. One mapped file of fixed size.
 *
 * A claim names a slot that is neither free nor (yet, or any longer) the index's: reserved and being filled,
 * being published, or evicted and not yet punched. It is written before its slot is touched and removed last,
 * so after kill -9 the table says which slots may hold bytes that nobody owns; the index's bitmap says which of
 * them were committed after all. Claims that carry a key let one process fetch what all wait for.
 *
 * Why not a second LMDB environment without syncs: the table needs O(1) search by key and by slot, a few sums,
 * and must neither grow nor fail with a full disk (it is allocated whole at creation, or a store through the
 * mapping would be SIGBUS). A robust mutex and idempotent claims give the same crash safety in 0.2 us instead
 * of 15.
 *
 * A process is alive while it holds the POSIX lock on its byte of the lock file: the kernel releases it on any
 * death, needs no pid (which containers number anew) and is never mistaken about reuse.
 *
 * Who finds a key claimed waits for that claim to go: a counter in the table moves whenever claims go, and is a futex
 * (it needs no descriptor, no daemon and no common PID namespace). Death wakes nobody, so waits are bounded and look
 * whether the owner lives; and whether it is at work, because one that was stopped (SIGSTOP, a frozen container) lives
 * and will not deliver.
 *
 * Threads and processes: every function named *_locked needs ps_claims_lock. Nothing here survives a reboot on
 * purpose: after power loss the table is a hint, and recover.c compares the slabs with the index instead. */
#ifndef PS_CACHE_CLAIMS_H
#define PS_CACHE_CLAIMS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/clock.h"
#include "base/err.h"
#include "base/hash.h"
#include "cache/budget.h"

#define PS_CLAIM_NONE         UINT32_MAX
#define PS_CLAIM_MODELS       8  /* models that one process may have open */
#define PS_CLAIM_LOCK_READER  1  /* bytes of the lock file: shared lock of read-only users */
#define PS_CLAIM_LOCK_PROCESS 16 /* + process number: exclusive lock of a live process */
/* A process that has claims says so this often, and counts as stopped when it has not for much longer. */
#define PS_CLAIM_BEAT_NS    (1ull * PS_NS_PER_S)
#define PS_CLAIM_STOPPED_NS (6ull * PS_NS_PER_S)

enum ps_claim_state {
    PS_CLAIM_FREE,
    PS_CLAIM_FILLING,    /* reserved; counts until published or given up */
    PS_CLAIM_PUBLISHING, /* in its process's batch; counts until that batch is in the index */
    PS_CLAIM_EVICTING, /* in its process's batch; counts from then on until its blocks are punched */
};

struct ps_claim { /* 64 bytes, shared: no pointers, no padding that differs */
    uint8_t key[PS_SHA256_BYTES];
    uint64_t deadline_ns; /* CLOCK_MONOTONIC: one clock for all; later another may claim the key too */
    uint32_t slot;
    uint32_t bytes;    /* stored */
    uint32_t next_key; /* chains, PS_CLAIM_NONE ends; next_slot also links the free claims */
    uint32_t next_slot;
    uint8_t cls;
    uint8_t state; /* written last when a claim is made */
    uint8_t process;
    uint8_t has_key; /* linked by key: others wait for it */
    uint32_t reserved;
};

struct ps_claim_process { /* 128 bytes, shared */
    uint64_t pid_namespace,
        start_ticks; /* who it is, for messages and for the check that namespaces agree */
    uint64_t budget_bytes, min_free_bytes;
    uint64_t filling_bytes, publishing_bytes,
        evicting_bytes; /* rounded sums over its claims, by state */
    uint64_t batch; /* number of the batch under way; the index records the last one committed */
    uint64_t index_growing_bytes;
    uint32_t n_filling, n_publishing, n_evicting;
    uint32_t pid;
    uint32_t used;
    uint32_t n_models;
    uint16_t models[PS_CLAIM_MODELS];
    _Atomic uint64_t beat_ns; /* CLOCK_MONOTONIC: last seen at work; no lock */
    uint32_t reserved[2];
};

struct ps_claims;

/* Whether any process, or any read-only user, has the folder open. `lock_fd`: the folder's lock file. */
bool ps_claims_any_process(int lock_fd);
bool ps_claims_any_reader(int lock_fd);

/* Whether `dir_fd`/claims begins as a claims table does: one of the marks of a folder of ours. */
bool ps_claims_is_table(int dir_fd);

/* Maps `dir_fd`/claims. With `fresh` the file is made anew for n claims (the caller knows that nobody has it
 * open), else it must exist: PS_EDATA when it is not a table, PS_ENOTFOUND when missing, PS_ENOSPC, PS_EIO.
 * Blocks only on a disk. */
int ps_claims_open(struct ps_claims **out, int dir_fd, int lock_fd, bool fresh, uint32_t n_claims,
                   struct ps_err *err);
void ps_claims_close(struct ps_claims *t);

/* Takes a process number and its liveness lock. PS_EINUSE while a live process runs in another PID namespace;
 * PS_EBUDGET when all numbers are taken. The caller holds the folder's open lock. */
int ps_claims_join(struct ps_claims *t, uint64_t budget_bytes, uint64_t min_free_bytes,
                   struct ps_err *err);
void ps_claims_leave(struct ps_claims *t); /* its claims are gone by then */
/* The smallest budget of those who have the folder open or, where nobody has, had it last; 0: unknown. Who only looks
 * after a cache has none. */
uint64_t ps_claims_last_budget(int dir_fd);
uint32_t ps_claims_self(const struct ps_claims *t);

/* A lock held by a process that died is taken over and the table's sums are rebuilt. */
void ps_claims_lock(struct ps_claims *t);
void ps_claims_unlock(struct ps_claims *t);

struct ps_claim_process *ps_claims_process_locked(struct ps_claims *t, uint32_t process); /* borrowed */
bool ps_claims_alive_locked(struct ps_claims *t, uint32_t process);
uint32_t ps_claims_count(const struct ps_claims *t); /* capacity */
const struct ps_claim *ps_claims_get_locked(struct ps_claims *t, uint32_t claim);

/* This process is at work: to be called every PS_CLAIM_BEAT_NS while it has claims. Any thread, no lock. */
void ps_claims_beat(struct ps_claims *t);
/* The counter of claims that went. Any thread, no lock. */
uint32_t ps_claims_changes(const struct ps_claims *t);
/* Moves the counter and wakes all who wait, in all processes. */
void ps_claims_announce(struct ps_claims *t);
/* Blocks while the counter is `seen`, at most `ns`. Returns early without reason now and then. */
void ps_claims_wait(struct ps_claims *t, uint32_t seen, uint64_t ns);

/* The claim on a key that still binds (its process lives and is at work, its deadline has not passed), else
 * PS_CLAIM_NONE; claims that bind no longer are unlinked by the way. */
uint32_t ps_claims_find_key_locked(struct ps_claims *t, const uint8_t key[PS_SHA256_BYTES],
                                   uint64_t now_ns);
bool ps_claims_slot_busy_locked(struct ps_claims *t, int cls, uint32_t slot);

/* Adds a claim of this process; key NULL for an eviction. PS_CLAIM_NONE when the table is full. */
uint32_t ps_claims_add_locked(struct ps_claims *t, enum ps_claim_state state, const uint8_t *key,
                              int cls, uint32_t slot, uint32_t bytes, uint64_t deadline_ns);
void ps_claims_set_state_locked(struct ps_claims *t, uint32_t claim, enum ps_claim_state state);
void ps_claims_remove_locked(struct ps_claims *t, uint32_t claim);

/* Bytes and extents in flight, given the last committed batch of each process. */
void ps_claims_sum_locked(struct ps_claims *t, const uint64_t committed[PS_CACHE_PROCESSES],
                          uint64_t *bytes, uint64_t *count);
/* Smallest budget, largest floor and all index growth of the live processes. */
void ps_claims_limits_locked(struct ps_claims *t, uint64_t *budget_bytes, uint64_t *min_free_bytes,
                             uint64_t *index_growing_bytes);
/* Where the search for a free slot goes on, and the first slot never given out. */
uint32_t *ps_claims_hint_locked(struct ps_claims *t, int cls);
uint32_t *ps_claims_fresh_locked(struct ps_claims *t, int cls);
/* Claims on slots of a class. */
uint32_t ps_claims_in_class_locked(struct ps_claims *t, int cls);

/* A process that met damage in the index leaves word, so that the next one who is alone starts afresh. */
void ps_claims_set_damaged(struct ps_claims *t);
bool ps_claims_damaged(const struct ps_claims *t);

#endif
