/* The sweep scheduler: delivers the extents of a model in their order of use, again and again, from whichever
 * tier holds each one.
 *
 *     order of use --look-ahead--> {RAM arena | cache | source} --> ring of aligned bytes --panels--> forward pass
 *
 * The order is known before a sweep starts, so nothing is guessed: the ring's free bytes are filled with the next
 * extents in line, the earliest first, over the end of a sweep into the next one (layer 0 is on its way while the last
 * layer computes). Room is taken before anything is asked for. No whole layer is ever held. What the plan keeps on
 * disk is written on its way through; what it keeps in RAM lands in the arena and is never read again.
 *
 * Threads: one consumer (the forward pass) calls everything here. I/O threads inside read the cache, decode and
 * write; the source's threads call back. */
#ifndef PS_RUNTIME_SWEEP_H
#define PS_RUNTIME_SWEEP_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "base/stats.h"
#include "cache/cache.h"
#include "proto/map.h"
#include "proto/source.h"

struct ps_sweep;

struct ps_sweep_options {
    const struct ps_map *map;
    struct ps_source *source;
    struct ps_cache *cache; /* nullable */
    uint32_t cache_model;
    const uint32_t *order; /* [n_order], borrowed */
    uint32_t n_order;
    const uint8_t *tier; /* [map->n_extents]: bits of enum ps_tier, borrowed */
    uint32_t ring_slots; /* the ring's bytes, in units of the largest extent */
    uint32_t gather_tensor;
    uint32_t gather_slots;
    unsigned io_threads; /* 0 = 4 */
    /* Bits 1 << enum ps_codec: extents that the consumer decodes itself (a GPU behind a bus) reach it as stored.
     * Those of the gathered tensor never do. */
    uint32_t consumer_codecs;
    /* Nullable; on an I/O thread: a part of the arena has received its bytes and will be read from there for good. */
    void (*landed)(void *user, void *p, size_t bytes);
    void (*closing)(void *landed_user); /* nullable: the arena and the ring are about to be freed */
    void *landed_user;
    struct ps_stats *stats;
    const atomic_int *interrupt; /* non-zero: waits end with PS_EINTERRUPTED */
};

/* Most bytes of the ring that one extent takes: stored bytes, and room to decode where extents are compressed. */
uint64_t ps_sweep_slot_bytes(const struct ps_map *map);
/* Bytes of one gather slot for the gathered tensor. */
uint64_t ps_sweep_gather_slot_bytes(const struct ps_map *map, uint32_t tensor);

int ps_sweep_open(struct ps_sweep **out, const struct ps_sweep_options *o, struct ps_err *err);
void ps_sweep_close(struct ps_sweep *s); /* nullable; cancels what is under way */

/* Look-ahead may run to the end of the `n`-th sweep from the one that comes next (n = 0: only what has begun).
 * Starts asking at once. */
void ps_sweep_allow(struct ps_sweep *s, uint64_t n);
/* Puts the consumer at the start of a sweep, all panels released; after an abandoned sweep, what was on its way is
 * cancelled and dropped. ran_ahead: the consumer finished its sweep and has taken panels of this one already. */
void ps_sweep_begin(struct ps_sweep *s, bool ran_ahead);

struct ps_panel {
    /* n_rows rows, row_bytes apart, at any alignment; valid until released. NULL: moved away. */
    const uint8_t *data;
    bool coded; /* data is the extent as stored: consumer_codecs */
    const struct ps_extent *extent;
    void *item;
};
/* The next extent in line, which must be `extent`. Blocks. A consumer may hold several panels, fewer than the ring has
 * slots. */
int ps_sweep_next(struct ps_sweep *s, uint32_t extent, struct ps_panel *out, struct ps_err *err);
void ps_sweep_release(struct ps_sweep *s, struct ps_panel *p);
/* The same if that extent lies in memory for good: does not block, and holding it takes no slot. false: it does not,
 * nothing was taken. */
bool ps_sweep_next_resident(struct ps_sweep *s, uint32_t extent, struct ps_panel *out);
/* Would ps_sweep_next return at once? */
bool ps_sweep_ready(struct ps_sweep *s);
/* The plan keeps it in memory, here or with the consumer: rows gathered from it cost no read. */
bool ps_sweep_stays(const struct ps_sweep *s, uint32_t extent);
/* The consumer keeps a copy of this extent (planned in VRAM) itself: it is never read again. */
void ps_sweep_moved_away(struct ps_sweep *s, uint32_t extent);
/* The ring, whole: for whoever wants it page-locked. */
void ps_sweep_slots(const struct ps_sweep *s, void **slots, size_t *bytes);

/* Rows of the gathered tensor as float32: out[i] = row rows[i], `ld` floats apart. Every extent is asked for once,
 * whatever the number of its rows. */
int ps_sweep_gather(struct ps_sweep *s, const uint32_t *rows, size_t n, float *out, size_t ld,
                    struct ps_err *err);

/* For tied models: rows of the head that may be the next token's embedding. Cleared where the head begins; a
 * gather looks here first. */
void ps_sweep_stash_clear(struct ps_sweep *s);
void ps_sweep_stash_offer(struct ps_sweep *s, uint32_t row, float score, const uint8_t *data);

/* Fetches `extents`, which the cache is not known to hold, past the consumer: into the cache where the plan keeps
 * them there (warm), else to nowhere (probing the link). Blocks until all have arrived and all writes are made.
 * progress (nullable): done and total bytes. */
int ps_sweep_fetch(struct ps_sweep *s, const uint32_t *extents, uint32_t n,
                   void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                   struct ps_err *err);
bool ps_sweep_is_held(const struct ps_sweep *s, uint32_t extent); /* on disk, as far as known */
#endif
