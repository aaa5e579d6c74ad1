/* Order, look-ahead, waiting. Where the bytes come from is sweep_load.c's business. */
#include "runtime/sweep.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "runtime/plan.h"
#include "runtime/sweep_internal.h"

static const char *const ORIGIN = "sweep";
#define PAGE 4096ull
/* Extents on their way straight into the arena need no ring slot; this bounds how many there are at once. */
#define ARENA_LOADS 16u
/* The ring is bounded by its bytes; but no more extents than these are on their way in it, nor more than it would hold
 * of this size. */
#define RING_ITEMS       256u
#define RING_SMALL_BYTES (128u << 10)

static uint64_t pages(uint64_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

static bool has_codec(const struct ps_map *m)
{
    return m->n_blocks > 0;
}

uint64_t ps_sweep_slot_bytes(const struct ps_map *m)
{
    return pages(m->max_stored_bytes) + (has_codec(m) ? pages(m->max_raw_bytes) : 0);
}

uint64_t ps_sweep_gather_slot_bytes(const struct ps_map *m, uint32_t tensor)
{
    uint64_t stored = 0, raw = 0;
    const struct ps_tensor *t = &m->tensors[tensor];
    for (uint32_t i = 0; i < t->n_extents; i++) {
        const struct ps_extent *e = &m->extents[t->first_extent + i];
        stored = e->stored_bytes > stored ? e->stored_bytes : stored;
        raw = e->raw_bytes > raw ? e->raw_bytes : raw;
    }
    return pages(stored) + (has_codec(m) ? pages(raw) : 0);
}

bool ps_sweep_stays_coded(const struct ps_sweep *s, uint32_t extent)
{
    const struct ps_extent *e = &s->o.map->extents[extent];
    return (s->o.consumer_codecs >> e->codec & 1u) && e->tensor != s->o.gather_tensor;
}

uint64_t ps_sweep_arena_bytes(const struct ps_sweep *s, uint32_t extent)
{
    const struct ps_extent *e = &s->o.map->extents[extent];
    return pages(ps_sweep_stays_coded(s, extent) ? e->stored_bytes : e->raw_bytes);
}

void ps_sweep_slots(const struct ps_sweep *s, void **slots, size_t *bytes)
{
    *slots = s->slots;
    *bytes = s->slots_bytes ? s->slots_bytes : PAGE;
}

/* ---- items ---- */

struct item *ps_sweep_take_item_locked(struct ps_sweep *s, uint32_t extent, enum slot_kind kind)
{
    const struct ps_extent *e = &s->o.map->extents[extent];
    bool to_arena = (s->o.tier[extent] & PS_TIER_RAM) && s->resident[extent] == RESIDENT_NO;
    bool as_stored = e->codec == PS_CODEC_RAW || ps_sweep_stays_coded(s, extent);
    struct item *it = s->free_items;
    if (!it)
        return NULL;
    /* extents that wait in the arena for the consumer hold an item each: a gather, which the consumer itself waits
     * for, must find one */
    if (kind == SLOT_RING && s->n_items - s->n_busy <= s->o.gather_slots)
        return NULL;
    if (to_arena && as_stored)
        kind = SLOT_NONE;
    uint64_t ring_at = 0;
    if (kind == SLOT_RING &&
        !ps_ring_space_take(&s->ring, pages(e->stored_bytes) + (as_stored ? 0 : pages(e->raw_bytes)),
                            &ring_at))
        return NULL;
    if (kind == SLOT_GATHER && !s->n_free_gather)
        return NULL;
    s->free_items = it->next_free;
    s->n_busy++;
    memset(it, 0, sizeof *it);
    it->sweep = s;
    it->state = ITEM_LOADING;
    it->refs = 2;
    it->extent = extent;
    it->slot_kind = kind;
    if (kind == SLOT_RING)
        it->slot = s->slots + ring_at;
    else if (kind == SLOT_GATHER)
        it->slot = s->free_gather[--s->n_free_gather];
    uint8_t *home = to_arena ? s->arena + s->arena_offset[extent] : NULL;
    it->stored = it->slot ? it->slot : home;
    it->stored_cap = pages(e->stored_bytes);
    it->coded = ps_sweep_stays_coded(s, extent);
    it->to_arena = to_arena;
    it->raw = home ? home : as_stored ? it->stored : it->slot + pages(e->stored_bytes);
    if (to_arena)
        s->resident[extent] = RESIDENT_LOADING;
    return it;
}

void ps_sweep_unref_locked(struct ps_sweep *s, struct item *it)
{
    PS_ASSERT(it->refs > 0);
    if (--it->refs)
        return;
    if (it->slot_kind == SLOT_RING)
        ps_ring_space_give(&s->ring, (uint64_t)(it->slot - s->slots));
    else if (it->slot_kind == SLOT_GATHER)
        s->free_gather[s->n_free_gather++] = it->slot;
    it->state = ITEM_FREE;
    it->next_free = s->free_items;
    s->free_items = it;
    s->n_busy--;
    pthread_cond_broadcast(&s->changed);
}

void ps_sweep_issue_locked(struct ps_sweep *s, struct item *it, uint64_t priority)
{
    it->priority = priority;
    PS_ASSERT(ps_queue_try_push(s->io_queue, it) == 0); /* capacity covers every item */
}

/* How far the look-ahead may run. Never a whole lap: an extent that is being written to the cache or into the
 * arena must not be asked for a second time. And not into the head of a tied model before this sweep's rows have
 * been gathered from it: the gather is needed first, and would else find its extents at the end of the queue. */
static uint64_t horizon_locked(const struct ps_sweep *s)
{
    uint64_t end = s->consume_seq + s->o.n_order;
    if (s->tied_position != UINT32_MAX) {
        uint64_t head = s->sweeps_gathered * s->o.n_order + s->tied_position;
        if (head <= s->consume_seq)
            head = s->consume_seq + 1;
        end = head < end ? head : end;
    }
    return s->limit_seq < end ? s->limit_seq : end;
}

void ps_sweep_pump_locked(struct ps_sweep *s)
{
    while (!s->cancelling && s->issue_seq < horizon_locked(s)) {
        uint32_t position = (uint32_t)(s->issue_seq % s->o.n_order), extent = s->o.order[position];
        if (s->resident[extent] == RESIDENT_YES) {
            s->issue_seq++;
            continue;
        }
        if (s->resident[extent] == RESIDENT_LOADING)
            return; /* a gather brings it, or the consumer is moving it away: we are called again then */
        if (s->by_position[position])
            return; /* the consumer still holds it from the sweep before */
        struct item *it = ps_sweep_take_item_locked(s, extent, SLOT_RING);
        if (!it)
            return;
        it->seq = s->issue_seq;
        s->by_position[position] = it;
        ps_sweep_issue_locked(s, it, s->issue_seq + 1);
        s->issue_seq++;
    }
}

/* ---- life ---- */

static int alloc_tables(struct ps_sweep *s)
{
    const struct ps_map *m = s->o.map;
    size_t n = (size_t)m->n_extents + 1;
    uint64_t ring_bytes = s->slot_bytes * s->o.ring_slots;
    uint64_t small = ring_bytes / RING_SMALL_BYTES;
    uint32_t in_ring = (uint32_t)(small < RING_ITEMS ? small : RING_ITEMS);
    if (in_ring < s->o.ring_slots)
        in_ring = s->o.ring_slots;
    s->n_items = in_ring + s->o.gather_slots + ARENA_LOADS;
    s->arena_offset = ps_calloc(n, sizeof *s->arena_offset);
    s->position = ps_malloc(n * sizeof *s->position);
    s->held = ps_calloc(n, 1);
    s->resident = ps_calloc(n, 1);
    s->items = ps_calloc(s->n_items, sizeof *s->items);
    s->free_gather = ps_calloc(s->o.gather_slots + 1, sizeof *s->free_gather);
    s->by_position = ps_calloc((size_t)s->o.n_order + 1, sizeof *s->by_position);
    s->io = ps_calloc(s->o.io_threads, sizeof *s->io);
    if (!s->arena_offset || !s->position || !s->held || !s->resident || !s->items ||
        !s->free_gather || !s->by_position || !s->io)
        return PS_ENOMEM;
    memset(s->position, 0xff, n * sizeof *s->position);
    for (uint32_t i = 0; i < s->o.n_order; i++)
        s->position[s->o.order[i]] = i;
    for (uint32_t i = 0; i < m->n_extents; i++) {
        if (!(s->o.tier[i] & PS_TIER_RAM))
            continue;
        s->arena_offset[i] = s->arena_bytes;
        s->arena_bytes += ps_sweep_arena_bytes(s, i);
    }
    for (uint32_t i = 0; i < s->n_items; i++) {
        s->items[i].next_free = s->free_items;
        s->free_items = &s->items[i];
    }
    if (ps_ring_space_init(&s->ring, ring_bytes, in_ring) < 0)
        return PS_ENOMEM;
    return ps_queue_new(&s->io_queue, s->n_items + 1);
}

/* Reserved as address space only: pages count when bytes land in them. Huge pages save the TLB when whole matrices
 * are read per token. */
static int alloc_memory(struct ps_sweep *s)
{
    if (s->arena_bytes) {
        s->arena = ps_alloc_pages(s->arena_bytes, PS_HUGE_PAGE);
        if (!s->arena)
            return PS_ENOMEM;
    }
    s->slots_bytes = s->slot_bytes * s->o.ring_slots + s->gather_slot_bytes * s->o.gather_slots;
    s->slots = ps_alloc_pages(s->slots_bytes ? s->slots_bytes : PAGE, PAGE);
    if (!s->slots)
        return PS_ENOMEM;
    uint8_t *p = s->slots + s->slot_bytes * s->o.ring_slots;
    for (uint32_t i = 0; i < s->o.gather_slots; i++, p += s->gather_slot_bytes)
        s->free_gather[s->n_free_gather++] = p;
    return 0;
}

/* One batch of look-ups at the start; later changes are our own writes, or an eviction by another process, which a
 * failed read tells. */
static int learn_held(struct ps_sweep *s, struct ps_err *err)
{
    const struct ps_map *m = s->o.map;
    if (!s->o.cache)
        return 0;
    uint8_t(*keys)[PS_SHA256_BYTES] = ps_malloc((size_t)m->n_extents * PS_SHA256_BYTES + 1);
    uint8_t *bits = ps_calloc(m->n_extents / 8 + 1, 1);
    int rc = keys && bits ? 0
                          : ps_err_set(err, PS_ENOMEM, ORIGIN,
                                       "out of memory: looking up %u extents", m->n_extents);
    for (uint32_t i = 0; rc == 0 && i < m->n_extents; i++)
        memcpy(keys[i], m->extents[i].key, PS_SHA256_BYTES);
    if (rc == 0)
        rc = ps_cache_lookup(s->o.cache, keys, m->n_extents, bits, err);
    if (rc == PS_EDATA || rc == PS_EIO) { /* a damaged index costs a refetch, not the run */
        ps_log(PS_LOG_WARN, "cache", "the index can't be read: fetching everything: %s",
               err ? err->text : "");
        memset(bits, 0, m->n_extents / 8 + 1);
        rc = 0;
    }
    for (uint32_t i = 0; rc == 0 && i < m->n_extents; i++)
        atomic_store(&s->held[i], bits[i / 8] >> (i % 8) & 1);
    ps_free(keys);
    ps_free(bits);
    return rc;
}

/* The thread that waits for other processes; without it nothing is waited for. */
static void start_waiter(struct ps_sweep *s)
{
    if (s->o.cache && !ps_cache_is_read_only(s->o.cache))
        s->waiter_runs = pthread_create(&s->waiter, NULL, ps_sweep_waiter_main, s) == 0;
}

static void stop_waiter(struct ps_sweep *s)
{
    if (!s->waiter_runs)
        return;
    pthread_mutex_lock(&s->mutex);
    s->closing = true;
    pthread_cond_signal(&s->parked_changed);
    pthread_mutex_unlock(&s->mutex);
    ps_cache_wake(s->o.cache);
    pthread_join(s->waiter, NULL);
}

int ps_sweep_open(struct ps_sweep **out, const struct ps_sweep_options *o, struct ps_err *err)
{
    struct ps_sweep *s = ps_calloc(1, sizeof *s);
    if (!s)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    s->o = *o;
    if (!s->o.io_threads)
        s->o.io_threads = 4;
    pthread_mutex_init(&s->mutex, NULL);
    ps_cond_init(&s->changed);
    pthread_cond_init(&s->parked_changed, NULL);
    s->wait_layer = INT32_MIN;
    s->slot_bytes = ps_sweep_slot_bytes(o->map);
    s->gather_slot_bytes = ps_sweep_gather_slot_bytes(o->map, o->gather_tensor);
    int rc = alloc_tables(s);
    if (rc == 0)
        rc = alloc_memory(s);
    if (rc < 0) {
        ps_err_set(err, rc, ORIGIN, "out of memory: %u ring slots of %llu bytes: use a smaller --ram",
                   o->ring_slots, (unsigned long long)s->slot_bytes);
        goto out;
    }
    const struct ps_tensor *gathered = &o->map->tensors[o->gather_tensor];
    s->tied_position = gathered->n_extents ? s->position[gathered->first_extent] : UINT32_MAX;
    bool tied = s->tied_position != UINT32_MAX;
    if (tied && ps_row_stash_init(&s->stash, gathered->row_bytes) < 0) {
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: rows of the embedding");
        goto out;
    }
    if ((rc = learn_held(s, err)) < 0)
        goto out;
    for (; s->n_io < s->o.io_threads; s->n_io++) {
        if (pthread_create(&s->io[s->n_io], NULL, ps_sweep_io_main, s) != 0) {
            rc = ps_err_set(err, PS_EFAIL, ORIGIN,
                            "can't start an I/O thread: check the limit on processes");
            goto out;
        }
    }
    start_waiter(s);
    *out = s;
    s = NULL;
out:
    ps_sweep_close(s);
    return rc;
}

/* What the consumer took to move it away and gave up is to be asked for again. */
static void give_up_moves_locked(struct ps_sweep *s)
{
    for (uint32_t i = 0; s->n_moving && i < s->o.n_order; i++) {
        uint32_t extent = s->o.order[i];
        if (!(s->o.tier[extent] & PS_TIER_VRAM) || s->resident[extent] != RESIDENT_LOADING)
            continue;
        s->resident[extent] = RESIDENT_NO;
        s->n_moving--;
    }
}

void ps_sweep_drain_locked(struct ps_sweep *s)
{
    PS_ASSERT(s->n_held == 0);
    s->cancelling = true;
    ps_sweep_unpark_all_locked(s);
    for (uint32_t i = 0; i < s->n_items; i++) {
        struct item *it = &s->items[i];
        if (it->state == ITEM_FREE || !it->in_net)
            continue;
        it->refs++;
        pthread_mutex_unlock(&s->mutex);
        ps_sweep_withdraw(it);
        pthread_mutex_lock(&s->mutex);
        ps_sweep_unref_locked(s, it);
    }
    for (uint32_t i = 0; i < s->o.n_order; i++) {
        if (s->by_position[i])
            ps_sweep_unref_locked(s, s->by_position[i]);
        s->by_position[i] = NULL;
    }
    while (s->n_busy)
        pthread_cond_wait(&s->changed, &s->mutex);
    give_up_moves_locked(s);
    s->cancelling = false;
}

void ps_sweep_close(struct ps_sweep *s)
{
    if (!s)
        return;
    if (s->n_io) {
        pthread_mutex_lock(&s->mutex);
        ps_sweep_drain_locked(s);
        pthread_mutex_unlock(&s->mutex);
        ps_queue_close(s->io_queue);
        for (unsigned i = 0; i < s->n_io; i++)
            pthread_join(s->io[i], NULL);
    }
    stop_waiter(s);
    if (s->o.closing)
        s->o.closing(s->o.landed_user);
    ps_queue_free(s->io_queue);
    ps_row_stash_deinit(&s->stash);
    if (s->arena)
        ps_free_pages(s->arena, s->arena_bytes);
    if (s->slots)
        ps_free_pages(s->slots, s->slots_bytes ? s->slots_bytes : PAGE);
    ps_free(s->arena_offset);
    ps_free(s->position);
    ps_free((void *)s->held);
    ps_free(s->resident);
    ps_free(s->items);
    ps_ring_space_deinit(&s->ring);
    ps_free(s->free_gather);
    ps_free(s->by_position);
    ps_free(s->io);
    pthread_cond_destroy(&s->changed);
    pthread_cond_destroy(&s->parked_changed);
    pthread_mutex_destroy(&s->mutex);
    ps_free(s);
}

/* ---- the consumer's side ---- */

void ps_sweep_allow(struct ps_sweep *s, uint64_t n)
{
    pthread_mutex_lock(&s->mutex);
    s->limit_seq = s->next_sweep_seq + n * s->o.n_order;
    if (s->limit_seq < s->issue_seq)
        s->limit_seq = s->issue_seq;
    ps_sweep_pump_locked(s);
    pthread_mutex_unlock(&s->mutex);
}

void ps_sweep_begin(struct ps_sweep *s, bool ran_ahead)
{
    pthread_mutex_lock(&s->mutex);
    if (!ran_ahead && s->consume_seq != s->next_sweep_seq) {
        ps_sweep_drain_locked(s);
        s->next_sweep_seq = (s->consume_seq + s->o.n_order - 1) / s->o.n_order * s->o.n_order;
        s->consume_seq = s->issue_seq = s->next_sweep_seq;
    }
    if (!ran_ahead)
        give_up_moves_locked(s);
    s->next_sweep_seq += s->o.n_order;
    if (s->limit_seq < s->next_sweep_seq)
        s->limit_seq = s->next_sweep_seq;
    ps_sweep_pump_locked(s);
    pthread_mutex_unlock(&s->mutex);
}

int ps_sweep_wait_changed_locked(struct ps_sweep *s, struct ps_err *err)
{
    /* an interrupt comes from a signal handler, which can't signal a condition */
    (void)ps_cond_wait_until(&s->changed, &s->mutex, ps_now_ns() + PS_NS_PER_S / 10);
    if (s->o.interrupt && atomic_load(s->o.interrupt))
        return ps_err_set(err, PS_EINTERRUPTED, ORIGIN, "interrupted");
    return 0;
}

int ps_sweep_await_locked(struct ps_sweep *s, struct item *it, struct ps_err *err)
{
    if (it->state == ITEM_LOADING) {
        uint64_t t0 = ps_now_ns();
        int rc = 0;
        while (it->state == ITEM_LOADING && rc == 0)
            rc = ps_sweep_wait_changed_locked(s, err);
        ps_stat_add(&s->o.stats->stall_ns, ps_now_ns() - t0);
        if (rc < 0)
            return rc;
    }
    if (it->state == ITEM_FAILED) {
        if (err)
            *err = it->err;
        return it->rc;
    }
    return 0;
}

static void hurry_locked(struct ps_sweep *s, struct item *it)
{
    if (it->state != ITEM_LOADING || it->awaited)
        return;
    it->awaited = true; /* what is not with the source yet tells it on the way there */
    if (!it->in_net)
        return;
    it->refs++;
    pthread_mutex_unlock(&s->mutex);
    ps_sweep_hurry(it);
    pthread_mutex_lock(&s->mutex);
    ps_sweep_unref_locked(s, it);
}

int ps_sweep_need_locked(struct ps_sweep *s, struct item *it, struct ps_err *err)
{
    hurry_locked(s, it);
    return ps_sweep_await_locked(s, it, err);
}

static int32_t layer_of(const struct ps_sweep *s, uint32_t extent)
{
    return s->o.map->tensors[s->o.map->extents[extent].tensor].layer;
}

/* All that the layer of the next extent still lacks, of what was issued: two of them that are late would otherwise be
 * asked for again one after the other, each when its turn comes. */
static void hurry_layer_locked(struct ps_sweep *s)
{
    const uint32_t n = s->o.n_order;
    const int32_t layer = layer_of(s, s->o.order[s->consume_seq % n]);
    for (uint64_t seq = s->consume_seq;
         seq < s->issue_seq && layer_of(s, s->o.order[seq % n]) == layer; seq++) {
        struct item *it = s->by_position[seq % n];
        if (it && it->seq == seq)
            hurry_locked(s, it);
    }
}

/* Waits are told layer by layer: a layer is what goes on or not. */
static void count_wait_locked(struct ps_sweep *s, uint32_t extent, uint64_t ns)
{
    int32_t layer = layer_of(s, extent);
    if (layer != s->wait_layer && s->wait_layer != INT32_MIN) {
        ps_histogram_add(&s->o.stats->layer_wait, s->wait_ns);
        s->wait_ns = 0;
    }
    s->wait_layer = layer;
    s->wait_ns += ns;
}

/* What is next in line, if it was issued: not the same place's panel of the sweep before. */
static struct item *next_item_locked(const struct ps_sweep *s)
{
    struct item *it = s->by_position[s->consume_seq % s->o.n_order];
    return it && it->seq == s->consume_seq ? it : NULL;
}

bool ps_sweep_ready(struct ps_sweep *s)
{
    pthread_mutex_lock(&s->mutex);
    uint32_t extent = s->o.order[s->consume_seq % s->o.n_order];
    ps_sweep_pump_locked(s);
    struct item *it = next_item_locked(s);
    bool ready = it ? it->state != ITEM_LOADING
                    : s->resident[extent] == RESIDENT_YES && s->consume_seq < s->limit_seq;
    pthread_mutex_unlock(&s->mutex);
    return ready;
}

static void fill_panel_locked(struct ps_sweep *s, uint32_t extent, struct item *it,
                              struct ps_panel *out)
{
    const struct ps_extent *e = &s->o.map->extents[extent];
    bool away = !it && (s->o.tier[extent] & PS_TIER_VRAM);
    out->data = it ? it->raw : away ? NULL : s->arena + s->arena_offset[extent];
    out->coded = it ? it->coded : !away && ps_sweep_stays_coded(s, extent);
    out->extent = e;
    out->item = it;
    ps_stat_add(&s->o.stats->extents_used, 1);
    if (it) {
        s->n_held++;
        if (s->o.tier[extent] & PS_TIER_VRAM) {
            /* the consumer will keep it: not to be asked for again meanwhile */
            s->n_moving += s->resident[extent] != RESIDENT_LOADING;
            s->resident[extent] = RESIDENT_LOADING;
        }
        return;
    }
    ps_stat_add(away ? &s->o.stats->bytes_vram_hit : &s->o.stats->bytes_ram_hit, e->stored_bytes);
    ps_stat_add(&s->o.stats->extents_from_ram, 1);
}

static void take_locked(struct ps_sweep *s, uint32_t extent, struct item *it, uint64_t waited_ns,
                        struct ps_panel *out)
{
    count_wait_locked(s, extent, waited_ns);
    fill_panel_locked(s, extent, it, out);
    s->consume_seq++;
    ps_sweep_pump_locked(s);
}

bool ps_sweep_next_resident(struct ps_sweep *s, uint32_t extent, struct ps_panel *out)
{
    pthread_mutex_lock(&s->mutex);
    PS_ASSERT(s->o.order[s->consume_seq % s->o.n_order] == extent);
    ps_sweep_pump_locked(s);
    bool here = !next_item_locked(s) && s->resident[extent] == RESIDENT_YES;
    if (here)
        take_locked(s, extent, NULL, 0, out);
    pthread_mutex_unlock(&s->mutex);
    return here;
}

int ps_sweep_next(struct ps_sweep *s, uint32_t extent, struct ps_panel *out, struct ps_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&s->mutex);
    PS_ASSERT(s->o.order[s->consume_seq % s->o.n_order] == extent);
    uint64_t t0 = ps_now_ns();
    struct item *it;
    ps_sweep_pump_locked(s);
    while (!(it = next_item_locked(s)) && s->resident[extent] != RESIDENT_YES && rc == 0) {
        rc = ps_sweep_wait_changed_locked(s, err); /* every slot is still held by a write */
        ps_sweep_pump_locked(s);
    }
    if (rc == 0 && it) {
        if (it->state == ITEM_LOADING)
            hurry_layer_locked(s);
        rc = ps_sweep_await_locked(s, it, err);
    }
    if (rc == 0)
        take_locked(s, extent, it, ps_now_ns() - t0, out);
    pthread_mutex_unlock(&s->mutex);
    return rc;
}

void ps_sweep_release(struct ps_sweep *s, struct ps_panel *p)
{
    struct item *it = p->item;
    if (it) {
        pthread_mutex_lock(&s->mutex);
        s->by_position[it->seq % s->o.n_order] = NULL;
        s->n_held--;
        ps_sweep_unref_locked(s, it);
        ps_sweep_pump_locked(s);
        pthread_mutex_unlock(&s->mutex);
    }
    *p = (struct ps_panel){0};
}

bool ps_sweep_stays(const struct ps_sweep *s, uint32_t extent)
{
    return s->o.tier[extent] & (PS_TIER_RAM | PS_TIER_VRAM);
}

void ps_sweep_moved_away(struct ps_sweep *s, uint32_t extent)
{
    PS_ASSERT(s->o.tier[extent] & PS_TIER_VRAM);
    pthread_mutex_lock(&s->mutex);
    s->n_moving -= s->resident[extent] == RESIDENT_LOADING;
    s->resident[extent] = RESIDENT_YES;
    ps_sweep_pump_locked(s); /* it may have waited for this */
    pthread_mutex_unlock(&s->mutex);
}

bool ps_sweep_is_held(const struct ps_sweep *s, uint32_t extent)
{
    return atomic_load(&s->held[extent]);
}
