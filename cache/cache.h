/* The disk cache: blocks under a hard byte limit, shared by processes without a daemon. Bytes come in from a
 * source (an extent as stored, already checked), go out to the scheduler's buffers. Index in LMDB (index.h),
 * bytes in slab files (slab.c), what to keep is decided by the plan of the runtime, not here.
 *
 * Contract: allocated bytes (st_blocks) of the whole directory never exceed the budget, index, lock and temporary
 * files included, because bytes are reserved before they are asked for. Order of a write: slot bytes, data sync,
 * index commit; kill -9 at any point costs a refetch. Every read is checked by CRC32C; a failed check drops the
 * record and reports PS_EDATA. Nothing here touches the network.
 *
 * Threads: all functions are thread-safe. reads and puts block on disk: call them from I/O threads. One
 * environment per process and path (counted registry inside). */
#ifndef PS_CACHE_CACHE_H
#define PS_CACHE_CACHE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/clock.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/stats.h"

struct ps_cache;

struct ps_cache_options {
    uint64_t budget_bytes; /* hard limit for the directory; the smallest of all live processes' budgets governs */
    uint64_t min_free_bytes; /* left free on the file system */
    bool read_only;          /* never write (an image, another user's cache) */
    bool must_exist;         /* do not create: PS_ENOTFOUND */
    struct ps_stats *stats;  /* nullable */
};
/* Creates what is missing (directory 0700, CACHEDIR.TAG), recovers after crashes, shrinks to the budget; a damaged
 * index is emptied, with one warning. PS_EUNSUPPORTED: made by a newer version, or a network file system. PS_EINUSE:
 * in use by a process of another PID namespace, with which LMDB's reader table can't be shared. PS_EBUDGET:
 * budget below the least that an index needs (*least_bytes nullable). PS_EUSAGE: the directory is neither empty nor a
 * cache of ours; nothing was changed in it. PS_EDATA: damaged, and opened read-only or in use by others. A directory
 * that can't be written is opened read-only when it holds a cache, else PS_EIO. */
int ps_cache_open(struct ps_cache **out, const char *dir, const struct ps_cache_options *options,
                  uint64_t *least_bytes, struct ps_err *err);
void ps_cache_close(struct ps_cache *c); /* publishes what is pending */
/* Empties the folder of an earlier run (`--disk 0`). An absent folder, or one that never held a cache, is fine;
 * PS_EBUDGET while another process uses it. The cache must not be open in this process. */
int ps_cache_clear(const char *dir, struct ps_err *err);
/* Without opening it: blocks allocated by the folder in bytes, and the budget that governed it last (0: nobody
 * knows). Both are 0 where there is no cache of ours. Changes nothing. */
void ps_cache_peek(const char *dir, uint64_t *allocated_bytes, uint64_t *last_budget_bytes);
bool ps_cache_is_read_only(const struct ps_cache *c);
/* Opening met a damaged index and began with an empty one (a warning was logged). */
bool ps_cache_was_rebuilt(const struct ps_cache *c);

/* The share of the budget that extents may take, given how many there will be: budget - index growth - fixed files
 * - bytes held by pins of other models. Slots are padded to 4 KiB. Pure arithmetic on the current state, for the
 * plan. */
uint64_t ps_cache_usable_bytes(struct ps_cache *c, uint64_t n_extents);
/* The same for who only looks: what a run of `model` with this budget and priority, alone, would have room for, beside
 * what others hold that is pinned or of a higher priority. c: nullable, or opened read-only. Changes nothing. */
uint64_t ps_cache_usable_for(struct ps_cache *c, uint32_t model, int priority,
                             uint64_t budget_bytes, uint64_t n_extents);
/* What models that are pinned, or of a higher priority than this, hold beside these n keys (nullable if n is 0): it
 * stays, whatever comes with this priority. Extents, and their bytes in whole slots of 4 KiB. PS_ENOMEM, or what kept
 * the index from telling. */
int ps_cache_kept_beside(uint64_t *n_extents, uint64_t *padded_bytes, struct ps_cache *c,
                         int priority, const uint8_t (*keys)[PS_SHA256_BYTES], size_t n,
                         struct ps_err *err);
/* The priority that a model has; 0 for one that is not known. */
int ps_cache_priority(struct ps_cache *c, uint32_t model);
/* PS_EBUDGET: no cache works with so little; *least_bytes nullable. */
int ps_cache_check_budget(uint64_t budget_bytes, uint64_t *least_bytes, struct ps_err *err);
/* What `n_extents` extents of `stored_bytes` in all need as a budget, index and padding included (so that --disk
 * 100% holds all). Pure. */
uint64_t ps_cache_budget_for(uint64_t stored_bytes, uint64_t n_extents);

/* Registers the model that this process works on (source label for `cache ls`; bumps its last use). Keys given to
 * `put` belong to it. */
int ps_cache_model_open(struct ps_cache *c, const uint8_t model_id[PS_SHA256_BYTES],
                        const char *source_label, uint32_t n_layers, uint32_t *model,
                        struct ps_err *err);

/* The same with what else is known of it. */
struct ps_cache_model_options {
    const uint8_t *id;        /* PS_SHA256_BYTES */
    const char *source_label; /* nullable */
    uint32_t n_layers;
    const uint64_t *part_bytes; /* nullable, n_layers + 1: stored bytes outside of layers, then of each layer */
    /* A model of a higher priority takes room from lower ones, also from those in use, and gives them none (evict.h).
     * It stays with the model until it is set again; 0 at first. */
    bool has_priority;
    int priority; /* PS_CACHE_PRIORITY_MIN..MAX */
};
#define PS_CACHE_PRIORITY_MIN (-100)
#define PS_CACHE_PRIORITY_MAX 100
int ps_cache_model_open_as(struct ps_cache *c, const struct ps_cache_model_options *o,
                           uint32_t *model, struct ps_err *err);

/* Which of n keys are held: bit i of `present` (caller's, (n+7)/8 bytes) set if so. One short read transaction per
 * batch. */
int ps_cache_lookup(struct ps_cache *c, const uint8_t (*keys)[PS_SHA256_BYTES], size_t n,
                    uint8_t *present, struct ps_err *err);

/* Reads exactly `bytes` stored bytes into buf (any alignment; 4096-aligned buf with room up to the next 4 KiB
 * multiple, stated by buf_cap, lets the read bypass the page cache) and checks the CRC. PS_ENOTFOUND not held;
 * PS_EDATA dropped because wrong. */
int ps_cache_read(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES], void *buf, size_t bytes,
                  size_t buf_cap, struct ps_err *err);

/* Reserve, then ask the network, then put. A ticket counts against the budget at once. PS_EBUDGET: no room and
 * nothing evictable (or min_free reached): stream without caching. PS_EAGAIN: another live process has claimed
 * this key; *out untouched. PS_EINUSE: the index can't be read for what others do with it (another PID namespace,
 * every reader's place taken), and nobody may be fetching: waiting is of no use. Evicts in the order of evict.h:
 * what has a lower priority, what nobody uses, what `ps_cache_set_plan` does not name. */
struct ps_cache_ticket;
#define PS_CACHE_LAYER_FILE                                                                        \
    (-2) /* instead of a layer: no weight, a file of the model; -1: outside of layers */
int ps_cache_reserve(struct ps_cache_ticket **out, struct ps_cache *c, uint32_t model,
                     const uint8_t key[PS_SHA256_BYTES], int32_t layer, size_t bytes,
                     struct ps_err *err);
/* Writes the bytes and queues the record for publishing (batched: one data sync and one commit for many). Consumes
 * the ticket in every case. PS_ENOSPC / PS_EIO: the disk said no; the caller goes on without caching. */
int ps_cache_put(struct ps_cache_ticket *t, const void *buf, size_t bytes, struct ps_err *err);

/* One fetches what all wait for. After PS_EAGAIN of a reservation: 0 the key can be read now; PS_EAGAIN somebody still
 * fetches it; PS_ENOTFOUND nobody does any longer (given up, killed, stopped): reserve again. Does not block. */
int ps_cache_look(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES]);
/* A counter that moves when what is under way may have ended, here or in another process. Take it before you look. */
uint32_t ps_cache_changes(struct ps_cache *c);
/* Blocks while the counter is `seen`, at most `ns`: a death moves nothing, so look again after a moment. */
#define PS_CACHE_LOOK_NS (PS_NS_PER_S / 4) /* such a moment */
void ps_cache_wait(struct ps_cache *c, uint32_t seen, uint64_t ns);
void ps_cache_wake(struct ps_cache *c); /* moves the counter: ends all waits */

void ps_cache_abort(struct ps_cache_ticket *t);
int ps_cache_flush(struct ps_cache *c, struct ps_err *err); /* publishes everything put so far; blocks */
/* The same as soon as the writer gets to it, instead of with a full batch: others wait for what was put. Does not
 * block. */
void ps_cache_hasten(struct ps_cache *c);

/* The keys that this model wants kept (sorted copy is taken). Others of the same model may be evicted when room is
 * needed. */
int ps_cache_set_plan(struct ps_cache *c, uint32_t model, const uint8_t (*keys)[PS_SHA256_BYTES],
                      size_t n, struct ps_err *err);

/* Facts. Appends the members models, budget_bytes, allocated_bytes (contract.md "cache ls, cache stat") to an open
 * JSON object. Of a model: its layers of which anything is held, and as `resident` every part with the bytes held
 * and the bytes that it has (0: never told): the layers in order, and what lies outside of them as layer -1. Files
 * kept beside the weights are counted in `bytes` and told as `files_bytes`: `stored_bytes` knows nothing of them.
 * budget_bytes: the smallest of those who have the cache open or, if nobody has, the one that governed last; 0 where
 * nobody knows. */
int ps_cache_describe(struct ps_cache *c, struct ps_json_writer *w, struct ps_err *err);
uint64_t ps_cache_allocated_bytes(struct ps_cache *c); /* st_blocks of the directory now */
uint64_t ps_cache_allocated_peak_bytes(struct ps_cache *c); /* highest since open, in this process's view */
uint64_t ps_cache_model_bytes(struct ps_cache *c, uint32_t model); /* stored bytes held for the model */

/* Maintenance. model_id NULL = all. verify reads every slot against its CRC (and, where the key is the SHA-256 of
 * the bytes, `deep` checks that): *bad counts wrong extents; repair drops them. progress (nullable) is called with
 * done and total bytes. */
int ps_cache_verify(struct ps_cache *c, bool deep, bool repair,
                    void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                    uint64_t *checked, uint64_t *bad, struct ps_err *err);
int ps_cache_evict(struct ps_cache *c, const uint8_t *model_id, uint64_t *freed_bytes,
                   struct ps_err *err);
int ps_cache_pin(struct ps_cache *c, const uint8_t model_id[PS_SHA256_BYTES], bool pinned,
                 struct ps_err *err);
/* Resolves a hex prefix of at least four digits or a source label to a model id: PS_ENOTFOUND; PS_EUSAGE, naming
 * candidates, if several fit or the prefix is shorter. Of several with one label those count that `describe` tells of,
 * where there are any. */
int ps_cache_find_model(struct ps_cache *c, const char *text, uint8_t model_id[PS_SHA256_BYTES],
                        struct ps_err *err);
#endif
