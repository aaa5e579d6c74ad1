/* Where an extent's bytes come from: cache, else source; decoded where compressed; written to the cache where the
 * plan says so. Runs on I/O threads and touches the scheduler's order only through the item's state. */
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "fetcher/range_plan.h"
#include "kernels/codec/codec.h"
#include "runtime/plan.h"
#include "runtime/sweep_internal.h"

/* Smaller pieces would be round trips, not bytes. */
#define PIECE_BYTES (256u << 10)
/* An idle link begins with so many bytes in pieces. */
#define COLD_BYTES (16u << 20)

static void finish(struct item *it, int rc)
{
    struct ps_sweep *s = it->sweep;
    if (rc == 0 && it->to_arena && s->o.landed)
        s->o.landed(s->o.landed_user, it->raw, ps_sweep_arena_bytes(s, it->extent));
    pthread_mutex_lock(&s->mutex);
    it->rc = rc;
    it->state = rc < 0 ? ITEM_FAILED : ITEM_READY;
    uint8_t *r = &s->resident[it->extent];
    if (*r == RESIDENT_LOADING && (s->o.tier[it->extent] & PS_TIER_RAM))
        *r = rc < 0 ? RESIDENT_NO : RESIDENT_YES;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

static void let_go(struct item *it)
{
    struct ps_sweep *s = it->sweep;
    pthread_mutex_lock(&s->mutex);
    ps_sweep_unref_locked(s, it);
    ps_sweep_pump_locked(s);
    pthread_mutex_unlock(&s->mutex);
}

static void fail(struct item *it, int rc)
{
    if (it->ticket) {
        ps_cache_abort(it->ticket);
        it->ticket = NULL;
    }
    finish(it, rc);
    let_go(it);
}

/* Blocks are decoded one by one; a codec that fails on checked bytes means a wrong index, not a wrong disk. */
static int decode(struct item *it)
{
    const struct ps_map *m = it->sweep->o.map;
    const struct ps_extent *e = &m->extents[it->extent];
    if (e->codec == PS_CODEC_RAW || it->coded)
        return 0;
    const struct ps_tensor *t = &m->tensors[e->tensor];
    const uint8_t *in = it->stored;
    uint8_t *out = it->raw;
    uint64_t rows_left = e->n_rows, row_bytes = ps_extent_row_bytes(e);
    uint32_t block_rows = ps_block_rows(row_bytes);
    for (uint32_t b = 0; b < e->n_blocks; b++) {
        uint64_t rows = rows_left < block_rows ? rows_left : block_rows;
        uint32_t in_bytes = m->block_bytes[e->first_block + b];
        int rc = ps_codec_decode((enum ps_codec)e->codec, ps_extent_dtype(m, e), in, in_bytes, out,
                                 rows * row_bytes, &it->err);
        if (rc < 0)
            return ps_err_prefix(&it->err, "%s: extent %u", t->name, it->extent);
        in += in_bytes;
        out += rows * row_bytes;
        rows_left -= rows;
    }
    return 0;
}

static void note_uncached(struct ps_sweep *s, int rc, const struct ps_err *e)
{
    if (rc == PS_EAGAIN || rc == PS_EBUDGET)
        return; /* another process fetches it, or the plan outgrew the room: stream on */
    pthread_mutex_lock(&s->mutex);
    bool first = !s->no_cache_logged;
    s->no_cache_logged = true;
    pthread_mutex_unlock(&s->mutex);
    if (first)
        /* of a full disk the cache itself has told */
        ps_log(rc == PS_ENOSPC ? PS_LOG_INFO : PS_LOG_WARN, "cache", "going on without caching: %s",
               e->text);
}

static void write_to_cache(struct item *it)
{
    struct ps_sweep *s = it->sweep;
    struct ps_err e = {0};
    int rc = ps_cache_put(it->ticket, it->stored, s->o.map->extents[it->extent].stored_bytes, &e);
    it->ticket = NULL;
    if (rc < 0)
        note_uncached(s, rc, &e);
    else
        atomic_store(&s->held[it->extent], 1);
}

static void enter_net_locked(struct item *it)
{
    it->in_net = true;
    it->ranges_left = it->n_ranges;
    it->sweep->n_in_net++;
}

static void leave_net_locked(struct item *it)
{
    struct ps_sweep *s = it->sweep;
    it->in_net = false;
    if (--s->n_in_net == 0)
        s->cold_bytes = 0;
}

static void on_range_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct item *it = r->user;
    struct ps_sweep *s = it->sweep;
    pthread_mutex_lock(&s->mutex);
    if (rc < 0 && it->rc == 0) {
        it->rc = rc;
        if (err)
            it->err = *err;
    }
    bool last = --it->ranges_left == 0;
    if (last)
        leave_net_locked(it);
    pthread_mutex_unlock(&s->mutex);
    if (!last)
        return;
    it->net_done = true;
    PS_ASSERT(ps_queue_push(s->io_queue, it) == 0); /* capacity covers every item */
}

/* Says something to the source of all that was asked for. What is asked for meanwhile hears of it in submit(). */
static void tell(struct item *it, void (*word)(struct ps_source *s, struct ps_range *r))
{
    struct ps_sweep *s = it->sweep;
    pthread_mutex_lock(&s->mutex);
    struct ps_range *r = &it->ranges[it->first_range];
    const unsigned n = it->n_ranges;
    pthread_mutex_unlock(&s->mutex);
    for (unsigned i = 0; i < n; i++)
        word(s->o.source, &r[i]);
}

void ps_sweep_withdraw(struct item *it)
{
    tell(it, ps_source_cancel);
}

void ps_sweep_hurry(struct item *it)
{
    tell(it, ps_source_await);
}

/* Hands ranges to the source; how many it took. */
static unsigned submit_ranges(struct item *it, struct ps_err *err, int *rc)
{
    unsigned n = 0;
    struct ps_range *r = &it->ranges[it->first_range];
    for (*rc = 0; n < it->n_ranges; n++)
        if ((*rc = ps_source_submit(it->sweep->o.source, &r[n], err)) < 0)
            break;
    return n;
}

/* Hands the item's ranges to the source. A cancel may overtake it: what drain_locked() withdrew before the source had
 * it is withdrawn once more, or the drain would wait for the network. Negative: no range is with the source, and the
 * item is the caller's; otherwise on_range_done() goes on with it, after a failure too. */
static int submit(struct item *it)
{
    struct ps_sweep *s = it->sweep;
    struct ps_err err = {0};
    int rc = PS_ECANCELLED;
    unsigned taken = 0;
    pthread_mutex_lock(&s->mutex);
    bool stop = s->cancelling;
    if (!stop)
        enter_net_locked(it);
    it->refs++; /* the ranges may be done, and the loader through with it, before submit returns */
    pthread_mutex_unlock(&s->mutex);
    if (!stop)
        taken = submit_ranges(it, &err, &rc);
    pthread_mutex_lock(&s->mutex);
    bool ours = stop;
    if (!stop && taken < it->n_ranges) {
        it->ranges_left -= it->n_ranges - taken;
        if (it->rc == 0) {
            it->rc = rc;
            it->err = err;
        }
        ours = it->ranges_left == 0;
        if (ours)
            leave_net_locked(it);
    }
    bool overtaken = it->in_net && s->cancelling, awaited = it->in_net && it->awaited;
    pthread_mutex_unlock(&s->mutex);
    if (overtaken)
        ps_sweep_withdraw(it);
    if (awaited)
        ps_sweep_hurry(it);
    let_go(it);
    return ours ? rc : 0;
}

/* Whole, or cut into pieces of at least PIECE_BYTES. */
static void fill_ranges(struct item *it, unsigned first, bool in_pieces)
{
    const struct ps_map *m = it->sweep->o.map;
    const struct ps_extent *e = &m->extents[it->extent];
    const struct ps_object *o = &m->objects[e->object];
    struct ps_span spans[PS_SWEEP_PIECES] = {{e->offset, e->offset + e->stored_bytes}};
    unsigned n = 1;
    if (in_pieces)
        n = (unsigned)ps_plan_split(spans[0], PS_SWEEP_PIECES, PIECE_BYTES, spans, PS_SWEEP_PIECES);
    for (unsigned i = 0; i < n; i++)
        it->ranges[first + i] = (struct ps_range){
            .object = o->name,
            .offset = spans[i].from,
            .bytes = spans[i].to - spans[i].from,
            .buf = it->stored + (spans[i].from - e->offset),
            .sha256 = e->hashed && n == 1 ? e->key : NULL,
            .etag = o->etag,
            .object_bytes = o->bytes,
            .priority = it->priority,
            .alone = n > 1,
            .done = on_range_done,
            .user = it,
        };
    pthread_mutex_lock(&it->sweep->mutex);
    it->first_range = first;
    it->n_ranges = n;
    pthread_mutex_unlock(&it->sweep->mutex);
}

/* What a gather waits for, and what an idle link begins with if the consumer will soon need it. Asked for whole, eight
 * extents would share the link and the first would arrive with the last (8 of 8 MiB at 100 MB/s: after 0.67 s instead
 * of 0.08), and a gather that comes a moment later would find no free connection. Once bytes flow, extents arrive one
 * after another, and whole ones cost fewer round trips; so they do where the ring is full and the link rests. */
static bool wants_pieces(struct item *it)
{
    struct ps_sweep *s = it->sweep;
    if (s->o.source->local || it->unhurried)
        return false;
    pthread_mutex_lock(&s->mutex);
    uint64_t ahead = (it->seq - s->consume_seq) * s->o.map->extent_target_bytes;
    bool cold = s->cold_bytes < COLD_BYTES && ahead < COLD_BYTES;
    if (cold)
        s->cold_bytes += s->o.map->extents[it->extent].stored_bytes;
    pthread_mutex_unlock(&s->mutex);
    return cold || it->slot_kind == SLOT_GATHER;
}

static void ask(struct item *it, unsigned first, bool in_pieces)
{
    fill_ranges(it, first, in_pieces);
    int rc = submit(it);
    if (rc < 0)
        fail(it, rc);
}

/* Pieces came unchecked, because a hash is of the whole. One that does not fit is asked for once more, whole: the
 * source then checks it and knows what to do with a server that lies. True: it is on its way again, or failed. */
static bool ask_again_if_wrong(struct item *it)
{
    const struct ps_extent *e = &it->sweep->o.map->extents[it->extent];
    uint8_t hash[PS_SHA256_BYTES];
    if (it->n_ranges == 1 || !e->hashed)
        return false;
    ps_sha256_once(it->stored, e->stored_bytes, hash);
    if (memcmp(hash, e->key, sizeof hash) == 0)
        return false;
    it->net_done = false;
    ask(it, PS_SWEEP_PIECES, false);
    return true;
}

static void arrived(struct item *it)
{
    struct ps_sweep *s = it->sweep;
    if (it->rc == 0 && ask_again_if_wrong(it))
        return;
    if (it->rc < 0) {
        fail(it, it->rc);
        return;
    }
    ps_stat_add(s->o.source->local ? &s->o.stats->extents_from_disk : &s->o.stats->extents_from_net,
                1);
    int rc = decode(it);
    if (rc < 0) {
        fail(it, rc);
        return;
    }
    /* The consumer may use the rows from here on; the write goes on beside it, holding its own reference to the
     * slot. */
    finish(it, 0);
    if (it->ticket)
        write_to_cache(it);
    let_go(it);
}

/* ---- what another process fetches ---- */

/* True: the item waits or begins anew, and the I/O thread goes on with others. `seen` was taken before the reservation
 * failed: if claims have gone since, ours may be among them. */
static bool park(struct item *it, uint32_t seen)
{
    struct ps_sweep *s = it->sweep;
    const int rc = ps_cache_look(s->o.cache, s->o.map->extents[it->extent].key);
    pthread_mutex_lock(&s->mutex);
    const bool waits = s->waiter_runs && !s->cancelling;
    if (waits && rc != PS_EAGAIN) { /* it has come, or its claim has gone, in between */
        atomic_store(&s->held[it->extent], rc == 0);
        PS_ASSERT(ps_queue_try_push(s->io_queue, it) == 0);
    } else if (waits) {
        it->next_free = s->parked;
        s->parked = it;
        pthread_cond_signal(&s->parked_changed);
    }
    pthread_mutex_unlock(&s->mutex);
    if (waits && rc == PS_EAGAIN && ps_cache_changes(s->o.cache) != seen)
        ps_cache_wake(s->o.cache);
    return waits;
}

static void unpark_locked(struct ps_sweep *s, struct item **at)
{
    struct item *it = *at;
    *at = it->next_free;
    it->next_free = NULL;
    PS_ASSERT(ps_queue_try_push(s->io_queue, it) == 0); /* capacity covers every item */
}

void ps_sweep_unpark_all_locked(struct ps_sweep *s)
{
    while (s->parked)
        unpark_locked(s, &s->parked);
}

/* Those that can be read now, and those that nobody fetches any longer, go on. */
static void look_at_parked_locked(struct ps_sweep *s)
{
    for (struct item **at = &s->parked; *at;) {
        const uint32_t extent = (*at)->extent;
        const int rc = ps_cache_look(s->o.cache, s->o.map->extents[extent].key);
        if (rc == PS_EAGAIN) {
            at = &(*at)->next_free;
            continue;
        }
        atomic_store(&s->held[extent], rc == 0);
        unpark_locked(s, at);
    }
}

/* One thread for all that is waited for, so that I/O threads never wait. A look costs some microseconds per item. */
void *ps_sweep_waiter_main(void *sweep)
{
    struct ps_sweep *s = sweep;
    pthread_mutex_lock(&s->mutex);
    while (!s->closing) {
        if (!s->parked) {
            pthread_cond_wait(&s->parked_changed, &s->mutex);
            continue;
        }
        const uint32_t seen = ps_cache_changes(s->o.cache);
        look_at_parked_locked(s);
        if (!s->parked)
            continue;
        pthread_mutex_unlock(&s->mutex);
        ps_cache_wait(s->o.cache, seen, PS_CACHE_LOOK_NS);
        pthread_mutex_lock(&s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

static void ask_source(struct item *it)
{
    struct ps_sweep *s = it->sweep;
    const struct ps_map *m = s->o.map;
    const struct ps_extent *e = &m->extents[it->extent];
    if (s->o.cache && (s->o.tier[it->extent] & PS_TIER_DISK) && !ps_cache_is_read_only(s->o.cache)) {
        struct ps_err ce = {0};
        uint32_t seen = ps_cache_changes(s->o.cache);
        int rc = ps_cache_reserve(&it->ticket, s->o.cache, s->o.cache_model, e->key,
                                  m->tensors[e->tensor].layer, e->stored_bytes, &ce);
        if (rc == PS_EAGAIN && park(it, seen))
            return;
        if (rc < 0) {
            it->ticket = NULL;
            note_uncached(s, rc, &ce);
        }
    }
    uint64_t zero = 0, now_ns = ps_now_ns();
    ask(it, 0, wants_pieces(it));
    atomic_compare_exchange_strong(&s->o.stats->first_weight_request_ns, &zero, now_ns);
}

static void start(struct item *it)
{
    struct ps_sweep *s = it->sweep;
    const struct ps_extent *e = &s->o.map->extents[it->extent];
    if (s->o.cache && atomic_load(&s->held[it->extent])) {
        struct ps_err ce = {0};
        int rc = ps_cache_read(s->o.cache, e->key, it->stored, e->stored_bytes, it->stored_cap, &ce);
        if (rc == 0)
            rc = decode(it);
        if (rc == 0) {
            ps_stat_add(&s->o.stats->extents_from_disk, 1);
            finish(it, 0);
            let_go(it);
            return;
        }
        /* evicted by another process, or its check failed: the source has it still */
        atomic_store(&s->held[it->extent], 0);
        ps_log(PS_LOG_DEBUG, "sweep",
               "extent %u is not readable from the cache (%s): asking the source", it->extent,
               ce.text);
    }
    ask_source(it);
}

void *ps_sweep_io_main(void *sweep)
{
    struct ps_sweep *s = sweep;
    void *p;
    while (ps_queue_pop(s->io_queue, &p) == 0) {
        struct item *it = p;
        if (it->net_done)
            arrived(it);
        else
            start(it);
    }
    return NULL;
}
