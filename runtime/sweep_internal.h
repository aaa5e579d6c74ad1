/* Parts shared by sweep.c (order and waiting), sweep_load.c (where bytes come from), sweep_gather.c (rows of the
 * embedding) and sweep_fetch.c (past the consumer). */
#ifndef PS_RUNTIME_SWEEP_INTERNAL_H
#define PS_RUNTIME_SWEEP_INTERNAL_H
#include <pthread.h>

#include "base/queue.h"
#include "runtime/ring_space.h"
#include "runtime/row_stash.h"
#include "runtime/sweep.h"

enum item_state { ITEM_FREE, ITEM_LOADING, ITEM_READY, ITEM_FAILED };
enum slot_kind { SLOT_NONE, SLOT_RING, SLOT_GATHER };

/* What is waited for is asked for in so many pieces at most, which share the connections: the first extents of a run,
 * an embedding row. */
#define PS_SWEEP_PIECES 8u

/* One extent on its way. Fields after `state` are written by the loading thread until the state leaves
 * ITEM_LOADING (under the mutex). */
struct item {
    struct ps_sweep *sweep;
    enum item_state state; /* mutex */
    unsigned refs;         /* mutex: consumer, loader, submit under way */
    bool in_net;           /* mutex: ranges of it are with the source */
    bool awaited;          /* mutex: the consumer can't go on without it */
    bool net_done;         /* set by the source's callback before it queues the item again */
    uint32_t extent;
    uint64_t seq;   /* of the ring: place in the endless order of use */
    bool unhurried; /* fetched for the disk: no consumer waits for it */
    bool coded;     /* the consumer decodes it */
    bool to_arena;  /* its rows end up there, for good */
    enum slot_kind slot_kind;
    uint8_t *slot; /* NULL when it loads straight into the arena */
    uint8_t *stored,
        *raw; /* where stored bytes land; where decoded rows end up (equal when not compressed) */
    size_t stored_cap;
    struct ps_cache_ticket *ticket;
    uint64_t priority;
    /* What is with the source, or was last: written by the loader, under the mutex. The pieces stand first, the whole
     * that is asked for when they were wrong behind them: the source may still be told of a piece meanwhile, so none is
     * ever overwritten while the item lives. */
    unsigned first_range, n_ranges;
    unsigned ranges_left; /* mutex: not done yet */
    struct ps_range ranges[PS_SWEEP_PIECES + 1];
    int rc; /* while ranges are with the source: mutex */
    struct ps_err err;
    struct item *next_free; /* mutex: of the free ones, or of those that wait for another process */
};

enum resident_state { RESIDENT_NO, RESIDENT_LOADING, RESIDENT_YES };

struct ps_sweep {
    struct ps_sweep_options o;
    uint64_t slot_bytes, gather_slot_bytes;
    uint8_t *slots; /* ring, then gather slots */
    size_t slots_bytes;
    uint8_t *arena; /* resident extents, one after another */
    size_t arena_bytes;
    uint64_t *arena_offset;    /* [n_extents]; only where the plan says RAM */
    uint32_t *position;        /* [n_extents]: place in the order, UINT32_MAX if gathered only */
    _Atomic uint8_t *held;     /* [n_extents]: the cache has it */
    struct ps_row_stash stash; /* consumer's */
    struct ps_queue *io_queue;
    pthread_t *io;
    unsigned n_io;

    pthread_mutex_t mutex;
    pthread_cond_t changed; /* any item left ITEM_LOADING, or was freed */
    /* under the mutex: */
    uint8_t *resident; /* [n_extents] enum resident_state */
    struct item *items, *free_items;
    uint32_t n_items, n_busy;
    uint32_t n_in_net; /* items of which ranges are with the source */
    struct ps_ring_space ring;
    uint8_t **free_gather;
    uint32_t n_free_gather;
    struct item **by_position; /* [n_order]: look-ahead never laps, so one per position */
    uint64_t issue_seq, consume_seq, limit_seq;
    uint64_t next_sweep_seq; /* where the sweep after the present one begins */
    uint32_t n_held;         /* panels with the consumer */
    uint32_t n_moving;       /* extents that it is moving away */
    uint32_t tied_position; /* first place of the gathered matrix in the order; UINT32_MAX: not in it */
    uint64_t sweeps_gathered; /* whose embedding rows have been asked for */
    uint64_t cold_bytes;      /* asked for in pieces since the source was idle */
    int32_t wait_layer;       /* whose waits are being added up; INT32_MIN: none yet */
    uint64_t wait_ns;
    bool cancelling;
    bool no_cache_logged;
    /* What another process (or another engine here) is fetching: read from the cache when it is there. */
    struct item *parked;
    pthread_cond_t parked_changed;
    pthread_t waiter;
    bool waiter_runs, closing;
};

void *ps_sweep_io_main(void *sweep);
void *ps_sweep_waiter_main(void *sweep);
/* Under the mutex: hands all that waits for others back to the I/O threads. */
void ps_sweep_unpark_all_locked(struct ps_sweep *s);
/* Under the mutex: drops one reference; the last one frees the item and its slot. */
void ps_sweep_unref_locked(struct ps_sweep *s, struct item *it);
/* Asks the source to end what it has of an item. Not under the mutex. */
void ps_sweep_withdraw(struct item *it);
/* Tells the source that the consumer waits for an item. Not under the mutex; the caller holds a reference. */
void ps_sweep_hurry(struct item *it);
/* Under the mutex: issues what the free slots allow. */
void ps_sweep_pump_locked(struct ps_sweep *s);
/* Bytes that an extent takes in the arena: whole pages. */
uint64_t ps_sweep_arena_bytes(const struct ps_sweep *s, uint32_t extent);
/* Its bytes reach the consumer as stored. */
bool ps_sweep_stays_coded(const struct ps_sweep *s, uint32_t extent);
/* Under the mutex: an item for `extent` with a place for its bytes, or NULL if there is no room now. */
struct item *ps_sweep_take_item_locked(struct ps_sweep *s, uint32_t extent, enum slot_kind kind);
/* Under the mutex: sends it on its way. Of those that wait at the source, the lowest priority is asked for first. */
void ps_sweep_issue_locked(struct ps_sweep *s, struct item *it, uint64_t priority);
/* Under the mutex, which is free meanwhile: until any item has changed, or 100 ms. PS_EINTERRUPTED. */
int ps_sweep_wait_changed_locked(struct ps_sweep *s, struct ps_err *err);
/* Until this item is there; its error where it failed. */
int ps_sweep_await_locked(struct ps_sweep *s, struct item *it, struct ps_err *err);
/* The same for what the arithmetic itself waits for: the source is told, so that it may hurry. */
int ps_sweep_need_locked(struct ps_sweep *s, struct item *it, struct ps_err *err);
/* Under the mutex: asks the source to stop, drops what had arrived, waits until every item is free. The consumer
 * holds no panel. */
void ps_sweep_drain_locked(struct ps_sweep *s);
#endif
