/* The writer: one thread per process that changes the index. In: tickets whose bytes lie in their slots, and jobs;
 * out: synced commits, each for many tickets.
 *
 * Order of a publication: data sync of the slabs, claims marked with the batch's number, index commit that records
 * the same number, claims removed. Whoever adds up the folder in between sees each extent exactly once (claims.h).
 * Order of an eviction: claims, commit, punch, claims removed: a slot is never punched while the index names it,
 * nor given out before it is punched. */
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "cache/cache_internal.h"
#include "cache/shares.h"

#define VICTIMS_MIN 1024u
#define VICTIMS_MAX 65536u
#define SCAN_CHUNK  256u
/* Evicting a little more than asked for spares a synced commit per extent. */
#define ROOM_SLACK_SHARE 64u
#define ROOM_SLACK_MAX   (64ull << 20)
#define VICTIMS_NS       (5ull * PS_NS_PER_S)
#define NO_VICTIMS_NS    (2ull * PS_NS_PER_S)
#define READERS_LOOK_NS  (PS_NS_PER_S / 1000)
#define READERS_PAUSE_NS (5ull * PS_NS_PER_S)

/* ---- tickets ---- */

void ps_ticket_recycle(struct ps_cache *c, struct ps_cache_ticket *t)
{
    pthread_mutex_lock(&c->lock);
    t->next = c->unused;
    c->unused = t;
    pthread_mutex_unlock(&c->lock);
}

void ps_ticket_drop(struct ps_cache *c, struct ps_cache_ticket *t)
{
    ps_slab_punch(c->slabs, t->rec.cls, t->rec.slot);
    ps_claims_lock(c->claims);
    ps_claims_remove_locked(c->claims, t->claim);
    ps_claims_unlock(c->claims);
    ps_claims_announce(c->claims); /* whoever waits for it has to fetch it now */
    atomic_fetch_sub(&c->n_tickets, 1);
    ps_ticket_recycle(c, t);
}

void ps_writer_note_ticket(struct ps_cache *c)
{
    ps_claims_beat(c->claims);
    if (atomic_fetch_add(&c->n_tickets, 1) > 0)
        return;
    pthread_mutex_lock(&c->lock);
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
}

void ps_writer_push(struct ps_cache *c, struct ps_cache_ticket *t)
{
    pthread_mutex_lock(&c->lock);
    t->next = NULL;
    if (c->last_pending)
        c->last_pending->next = t;
    else
        c->first_pending = t;
    c->last_pending = t;
    if (c->n_pending++ == 0)
        c->first_pending_ns = ps_now_ns();
    /* The first starts the batch's clock, the last one needed ends it; the writer need not hear of those between. */
    if (c->n_pending == 1 || c->n_pending == PS_CACHE_BATCH)
        pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    if (atomic_load(&c->n_waiting) > 0) /* this process may read it from now on */
        ps_claims_announce(c->claims);
}

/* ---- one batch ---- */

struct batch {
    struct ps_cache *c;
    uint64_t number;
    size_t n;
    struct ps_cache_ticket *tickets[PS_CACHE_BATCH];
};

static void take_batch(struct ps_cache *c, struct batch *b)
{
    pthread_mutex_lock(&c->lock);
    while (b->n < PS_CACHE_BATCH && c->first_pending) {
        struct ps_cache_ticket *t = c->first_pending;
        c->first_pending = t->next;
        c->n_pending--;
        b->tickets[b->n++] = t;
    }
    if (!c->first_pending) {
        c->last_pending = NULL;
        c->hurry = false;
    }
    c->first_pending_ns = ps_now_ns();
    c->publishing = b->tickets;
    c->n_publishing = b->n;
    pthread_mutex_unlock(&c->lock);
}

/* The batch is in the index, or given up: its tickets may go. */
static void end_publishing(struct ps_cache *c)
{
    pthread_mutex_lock(&c->lock);
    c->publishing = NULL;
    c->n_publishing = 0;
    pthread_mutex_unlock(&c->lock);
}

bool ps_writer_find_pending(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES],
                            struct ps_record *out)
{
    const struct ps_cache_ticket *found = NULL;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < c->n_publishing && !found; i++)
        if (memcmp(c->publishing[i]->key, key, PS_SHA256_BYTES) == 0)
            found = c->publishing[i];
    for (struct ps_cache_ticket *t = c->first_pending; t && !found; t = t->next)
        if (memcmp(t->key, key, PS_SHA256_BYTES) == 0)
            found = t;
    if (found)
        *out = found->rec;
    pthread_mutex_unlock(&c->lock);
    return found != NULL;
}

static int sync_classes(struct batch *b, struct ps_err *err)
{
    unsigned seen = 0;
    for (size_t i = 0; i < b->n; i++) {
        const int cls = b->tickets[i]->rec.cls;
        if (seen >> cls & 1)
            continue;
        seen |= 1u << cls;
        const int rc = ps_slab_sync(b->c->slabs, cls, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Starts a batch: its number, and all its claims in the state that goes with it. */
static uint64_t begin_batch_locked(struct ps_cache *c)
{
    struct ps_claim_process *self = ps_claims_process_locked(c->claims, ps_claims_self(c->claims));
    self->batch = ++c->batch;
    return self->batch;
}

static void set_states(struct batch *b, enum ps_claim_state state, bool first)
{
    ps_claims_lock(b->c->claims);
    if (first)
        b->number = begin_batch_locked(b->c);
    for (size_t i = 0; i < b->n; i++)
        ps_claims_set_state_locked(b->c->claims, b->tickets[i]->claim, state);
    ps_claims_unlock(b->c->claims);
}

static void end_growth(struct ps_cache *c)
{
    ps_claims_lock(c->claims);
    ps_claims_process_locked(c->claims, ps_claims_self(c->claims))->index_growing_bytes = 0;
    ps_claims_unlock(c->claims);
}

/* Only who holds the index's write lock grows it, and that is this process: what another has set down is in the file
 * by now, or died with it. */
static void forget_growth_locked(struct ps_cache *c)
{
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++)
        ps_claims_process_locked(c->claims, p)->index_growing_bytes = 0;
}

/* Whether `grow` more bytes of index take nothing beyond the budget, or nothing beyond what is charged anyway: a folder
 * that is over (somebody has put a file there) must still be able to evict. If so they are reserved. */
static bool growth_fits(struct ps_cache *c, const struct ps_index_meta *meta, uint64_t grow)
{
    struct ps_budget_state s;
    ps_claims_lock(c->claims);
    struct ps_claim_process *self = ps_claims_process_locked(c->claims, ps_claims_self(c->claims));
    forget_growth_locked(c);
    ps_cache_state_locked(c, meta, &s);
    const uint64_t before = ps_budget_charge(&s, 0, 0);
    s.index_growing_bytes = grow;
    const uint64_t after = ps_budget_charge(&s, 0, 0);
    const bool fits = after <= s.budget_bytes || after == before;
    if (fits)
        self->index_growing_bytes = grow;
    ps_claims_unlock(c->claims);
    return fits;
}

/* Bytes by which this commit must grow the file, once that is as long as its bound says: none in normal life, because
 * the bound has room for what three commits leave behind. A process that was taken off its CPU in the middle of a look
 * pins the pages of all commits since; it comes back within moments, and growing the file would be for ever. */
static uint64_t growth_needed(struct ps_cache *c, struct ps_index_write *w, uint64_t dirty)
{
    const uint64_t start_ns = ps_now_ns();
    bool pinned;
    uint64_t spare = ps_index_write_spare_bytes(w, dirty, &pinned);
    if (start_ns < c->patient_after_ns)
        return dirty - spare;
    while (spare < dirty && pinned && ps_now_ns() - start_ns < c->readers_ns) {
        ps_claims_wait(c->claims, ps_claims_changes(c->claims), READERS_LOOK_NS); /* nothing tells */
        spare = ps_index_write_spare_bytes(w, dirty, &pinned);
    }
    if (spare < dirty && pinned) /* stopped, not interrupted: all who commit would wait each time */
        c->patient_after_ns = ps_now_ns() + READERS_PAUSE_NS;
    return dirty - spare;
}

/* Reserves the pages of a commit that touches `touched` records and adds `added` of them. PS_EBUDGET: a reader pins
 * pages, and the file may not grow past the limit. */
static int reserve_growth(struct ps_cache *c, struct ps_index_write *w, size_t added,
                          size_t touched, struct ps_err *err)
{
    const struct ps_index_meta *meta = ps_index_write_meta(w);
    const uint64_t n = meta->n_extents + added;
    const uint64_t bound = ps_budget_index_bytes(n), now = ps_index_file_bytes(c->index);
    if (now < bound && growth_fits(c, meta, bound - now)) {
        ps_index_write_extend(w, bound);
        end_growth(c); /* from here on it is measured */
    }
    const uint64_t grow = growth_needed(c, w, ps_budget_index_dirty_bytes(n, touched));
    return grow == 0 || growth_fits(c, meta, grow)
               ? 0
               : ps_err_set(err, PS_EBUDGET, PS_CACHE_ORIGIN, "cache: no room for the index to grow");
}

/* Changes the index; damage is noted, growth that the body has reserved is over. */
static int update(struct ps_cache *c, ps_index_body body, void *user, struct ps_err *err)
{
    const int rc = ps_cache_note(c, ps_index_update(c->index, body, user, err));
    end_growth(c);
    return rc;
}

struct small_update {
    struct ps_cache *c;
    size_t touched;
    ps_index_body body;
    void *user;
};

static int small_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    const struct small_update *u = user;
    (void)reserve_growth(u->c, w, 0, u->touched, NULL); /* a few pages: not worth a failure */
    return u->body(w, u->user, err);
}

int ps_writer_update(struct ps_cache *c, size_t touched, ps_index_body body, void *user,
                     struct ps_err *err)
{
    struct small_update u = {.c = c, .touched = touched, .body = body, .user = user};
    return update(c, small_body, &u, err);
}

static int publish_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    struct batch *b = user;
    int rc = reserve_growth(b->c, w, b->n, b->n, err);
    for (size_t i = 0; i < b->n && rc == 0; i++) {
        struct ps_cache_ticket *t = b->tickets[i];
        rc = ps_index_write_add(w, t->key, &t->rec, err);
        t->published_already = rc == PS_EAGAIN;
        if (rc == PS_EAGAIN) {
            /* Its blocks are outside the index before and after this commit: count them on both sides. */
            ps_claims_lock(b->c->claims);
            ps_claims_set_state_locked(b->c->claims, t->claim, PS_CLAIM_FILLING);
            ps_claims_unlock(b->c->claims);
            rc = 0;
        }
    }
    if (rc == 0)
        ps_index_write_meta(w)->committed[ps_claims_self(b->c->claims)] = b->number;
    return rc;
}

static void finish_published(struct batch *b)
{
    struct ps_cache *c = b->c;
    ps_claims_lock(c->claims);
    for (size_t i = 0; i < b->n; i++)
        if (!b->tickets[i]->published_already)
            ps_claims_remove_locked(c->claims, b->tickets[i]->claim);
    ps_claims_unlock(c->claims);
    ps_claims_announce(c->claims);
    for (size_t i = 0; i < b->n; i++) {
        struct ps_cache_ticket *t = b->tickets[i];
        if (t->published_already) {
            ps_ticket_drop(c, t);
        } else {
            ps_slab_drop_pages(c->slabs, t->rec.cls, t->rec.slot, t->rec.bytes);
            atomic_fetch_sub(&c->n_tickets, 1);
            ps_ticket_recycle(c, t);
        }
    }
}

/* Publishes up to a batch of pending tickets. On failure they are given up: a refetch is cheap, half a record is
 * not. */
static int publish_batch(struct ps_cache *c, struct ps_err *err)
{
    struct batch b = {.c = c};
    take_batch(c, &b);
    if (b.n == 0)
        return 0;
    int rc = sync_classes(&b, err);
    if (rc == 0) {
        set_states(&b, PS_CLAIM_PUBLISHING, true);
        ps_cache_measure(c); /* all of the batch's blocks exist now */
        rc = update(c, publish_body, &b, err);
        if (rc != 0)
            set_states(&b, PS_CLAIM_FILLING, false);
    }
    end_publishing(c);
    if (rc == 0) {
        finish_published(&b);
        return 0;
    }
    if (rc == PS_ENOSPC)
        ps_cache_disk_full(c);
    for (size_t i = 0; i < b.n; i++)
        ps_ticket_drop(c, b.tickets[i]);
    return rc;
}

int ps_writer_flush(struct ps_cache *c, void *user, struct ps_err *err)
{
    (void)user;
    int first = 0;
    pthread_mutex_lock(&c->lock);
    size_t left = c->n_pending;
    if (c->write_err.code != 0) {
        first = c->write_err.code;
        if (err)
            *err = c->write_err;
        c->write_err.code = 0;
    }
    pthread_mutex_unlock(&c->lock);
    while (left > 0) {
        const int rc = publish_batch(c, first == 0 ? err : NULL);
        first = first == 0 ? rc : first;
        left -= left < PS_CACHE_BATCH ? left : PS_CACHE_BATCH;
    }
    return first;
}

/* ---- eviction ---- */

struct eviction {
    struct ps_cache *c;
    uint64_t number;
    bool force;
    size_t n;
    uint32_t claims[PS_CACHE_BATCH];
    struct ps_keyed_record recs[PS_CACHE_BATCH];
};

/* Claims those records that are still as they were seen and whose slots nobody handles. From here on they can't
 * change. */
static int claim_victims(struct eviction *e, const struct ps_keyed_record *recs, size_t n,
                         struct ps_err *err)
{
    struct ps_cache *c = e->c;
    struct ps_index_read r;
    ps_claims_lock(c->claims);
    int rc = ps_index_read_begin(&r, c->index, err);
    if (rc != 0) {
        ps_claims_unlock(c->claims);
        return rc;
    }
    e->number = begin_batch_locked(c);
    for (size_t i = 0; i < n && e->n < PS_CACHE_BATCH; i++) {
        struct ps_record now;
        if (ps_index_read_get(&r, recs[i].key, &now, NULL) != 0 || now.cls != recs[i].rec.cls ||
            now.slot != recs[i].rec.slot || ps_claims_slot_busy_locked(c->claims, now.cls, now.slot))
            continue;
        const uint32_t claim = ps_claims_add_locked(c->claims, PS_CLAIM_EVICTING, NULL, now.cls,
                                                    now.slot, now.bytes, 0);
        if (claim == PS_CLAIM_NONE)
            break;
        e->claims[e->n] = claim;
        e->recs[e->n] = recs[i];
        e->recs[e->n++].rec = now;
    }
    ps_index_read_end(&r);
    ps_claims_unlock(c->claims);
    return 0;
}

static int evict_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    struct eviction *e = user;
    int rc = reserve_growth(e->c, w, 0, e->n, e->force ? NULL : err);
    if (rc == PS_EBUDGET && e->force) /* the folder is over its limit anyway */
        rc = 0;
    for (size_t i = 0; i < e->n && rc == 0; i++)
        rc = ps_index_write_remove(w, e->recs[i].key, &e->recs[i].rec, err);
    if (rc == 0)
        ps_index_write_meta(w)->committed[ps_claims_self(e->c->claims)] = e->number;
    return rc;
}

int ps_writer_by_slot(const void *a, const void *b)
{
    const struct ps_record *x = &((const struct ps_keyed_record *)a)->rec;
    const struct ps_record *y = &((const struct ps_keyed_record *)b)->rec;
    if (x->cls != y->cls)
        return x->cls < y->cls ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

/* Gives the blocks back, neighbours at once. Returns how many bytes that was. */
static uint64_t punch_evicted(struct eviction *e)
{
    uint64_t bytes = 0;
    qsort(e->recs, e->n, sizeof *e->recs, ps_writer_by_slot);
    for (size_t i = 0; i < e->n;) {
        const struct ps_record *first = &e->recs[i].rec;
        uint32_t run = 0;
        while (i < e->n && e->recs[i].rec.cls == first->cls &&
               e->recs[i].rec.slot == first->slot + run) {
            bytes += ps_budget_round(e->recs[i].rec.bytes);
            run++;
            i++;
        }
        ps_slab_punch_run(e->c->slabs, first->cls, first->slot, run);
    }
    return bytes;
}

int ps_writer_evict(struct ps_cache *c, const struct ps_keyed_record *recs, size_t n, bool force,
                    uint64_t *freed_bytes, struct ps_err *err)
{
    struct eviction e = {.c = c, .force = force};
    int rc = claim_victims(&e, recs, n, err);
    if (rc != 0 || e.n == 0)
        return ps_cache_note(c, rc);
    rc = update(c, evict_body, &e, err);
    if (rc == 0)
        *freed_bytes += punch_evicted(&e);
    ps_claims_lock(c->claims);
    for (size_t i = 0; i < e.n; i++)
        ps_claims_remove_locked(c->claims, e.claims[i]);
    ps_claims_unlock(c->claims);
    return rc;
}

/* ---- victims ---- */

/* Whether a plan was set for a model of this process. */
static void plans_of(struct ps_cache *c, bool has_plan[PS_INDEX_MODELS_MAX])
{
    memset(has_plan, 0, PS_INDEX_MODELS_MAX);
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < PS_CLAIM_MODELS; i++)
        if (c->plans[i].model < PS_INDEX_MODELS_MAX)
            has_plan[c->plans[i].model] = true;
    pthread_mutex_unlock(&c->lock);
}

static uint64_t score_of(struct ps_cache *c, const struct ps_shares *f, const bool *has_plan,
                         const struct ps_keyed_record *k, bool shrinking)
{
    const uint32_t m = k->rec.model;
    const bool known = m < PS_INDEX_MODELS_MAX;
    const struct ps_model *model = ps_shares_model(f, m);
    uint32_t rank;
    const struct ps_evict_facts facts = {
        .own = known && f->own[m],
        .has_plan = known && has_plan[m],
        .planned = ps_plan_find(c, k->key, &rank),
        .pinned = model && model->pinned,
        .relation = model ? model->priority - f->priority : 0,
        .live_elsewhere = known && f->elsewhere[m],
        .above_share = model && model->padded_bytes > f->share_bytes,
        .shrinking = shrinking,
        .use_order = known ? f->place[m] : 0,
        .rank = k->rec.rank,
    };
    return ps_evict_score(&facts);
}

static int size_victims(struct ps_cache *c, bool shrinking, struct ps_err *err)
{
    struct ps_index_meta meta;
    const int rc = ps_index_get_meta(c->index, &meta, err);
    if (rc != 0)
        return rc;
    /* A long list means few scans where much must go. */
    size_t cap = shrinking ? (size_t)(meta.n_extents / 4) : VICTIMS_MIN;
    cap = cap < VICTIMS_MIN ? VICTIMS_MIN : cap > VICTIMS_MAX ? VICTIMS_MAX : cap;
    if (c->victims.cap < cap) {
        struct ps_evict_victim *items = ps_realloc_array(c->victims.items, cap, sizeof *items);
        if (!items)
            return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "eviction: out of memory");
        c->victims.items = items;
        c->victims.cap = cap;
    }
    c->victims.n = c->next_victim = 0;
    return 0;
}

/* Leaves each live process its share: drops those victims that would take it below. */
static void spare_shares(struct ps_evict_list *l, const struct ps_shares *f)
{
    uint64_t taken[PS_CACHE_PROCESSES] = {0}; /* by place among the models that are live elsewhere */
    uint16_t models[PS_CACHE_PROCESSES];
    size_t n_models = 0, kept = 0;
    for (size_t i = 0; i < l->n; i++) {
        const struct ps_evict_victim *v = &l->items[i];
        const uint16_t place =
            v->kept.rec.model < PS_INDEX_MODELS_MAX ? f->place[v->kept.rec.model] : 0;
        if (ps_evict_is_share(v->score) && place > 0) {
            const struct ps_model *m = &f->models[place - 1];
            size_t k = 0;
            while (k < n_models && models[k] != place)
                k++;
            if (k == PS_CACHE_PROCESSES)
                continue;
            if (k == n_models)
                models[n_models++] = place;
            const uint64_t padded = ps_budget_round(v->kept.rec.bytes);
            if (m->padded_bytes < f->share_bytes + taken[k] + padded)
                continue;
            taken[k] += padded;
        }
        l->items[kept++] = *v;
    }
    l->n = kept;
}

/* Scans the index for the victims that go first. A scan of 1,000,000 extents takes about 0.1 s, once per a thousand
 * evictions at least. */
static int find_victims(struct ps_cache *c, bool shrinking, struct ps_err *err)
{
    struct ps_keyed_record chunk[SCAN_CHUNK];
    uint8_t after[PS_SHA256_BYTES];
    bool started = false;
    size_t n = 0;
    int rc = size_victims(c, shrinking, err);
    if (rc != 0)
        return rc;
    struct ps_shares *f = NULL;
    bool has_plan[PS_INDEX_MODELS_MAX];
    plans_of(c, has_plan);
    rc = ps_shares_new(&f, c, err);
    while (rc == 0) {
        rc = ps_index_scan(c->index, started ? after : NULL, chunk, SCAN_CHUNK, &n, err);
        for (size_t i = 0; i < n && rc == 0; i++)
            ps_evict_offer(&c->victims, score_of(c, f, has_plan, &chunk[i], shrinking), &chunk[i]);
        if (rc != 0 || n < SCAN_CHUNK)
            break;
        memcpy(after, chunk[n - 1].key, sizeof after);
        started = true;
    }
    ps_evict_sort(&c->victims);
    if (!shrinking && f)
        spare_shares(&c->victims, f);
    ps_shares_free(f);
    return rc;
}

static int victim_by_slot(const void *a, const void *b)
{
    return ps_writer_by_slot(&((const struct ps_evict_victim *)a)->kept,
                             &((const struct ps_evict_victim *)b)->kept);
}

/* Of a long list that all must go: the part that is needed, by slot instead of by score. */
static void order_for_punching(struct ps_evict_list *l, uint64_t need)
{
    size_t n = 0;
    for (uint64_t bytes = 0; n < l->n && bytes < need; n++)
        bytes += ps_budget_round(l->items[n].kept.rec.bytes);
    l->n = n;
    if (n > 1)
        qsort(l->items, n, sizeof *l->items, victim_by_slot);
}

/* How many of the next victims to take: enough for `need`, at most a batch. */
static size_t next_victims(struct ps_cache *c, uint64_t need,
                           struct ps_keyed_record recs[PS_CACHE_BATCH])
{
    size_t n = 0;
    uint64_t bytes = 0;
    while (n < PS_CACHE_BATCH && c->next_victim < c->victims.n && bytes < need) {
        recs[n] = c->victims.items[c->next_victim++].kept;
        bytes += ps_budget_round(recs[n++].rec.bytes);
    }
    return n;
}

static uint64_t with_slack(struct ps_cache *c, uint64_t need)
{
    uint64_t budget, floor, growing;
    ps_claims_lock(c->claims);
    ps_claims_limits_locked(c->claims, &budget, &floor, &growing);
    ps_claims_unlock(c->claims);
    const uint64_t slack = budget / ROOM_SLACK_SHARE;
    return need + (slack < ROOM_SLACK_MAX ? slack : ROOM_SLACK_MAX);
}

int ps_writer_make_room(struct ps_cache *c, uint64_t need, bool shrinking, uint64_t *freed_bytes,
                        struct ps_err *err)
{
    struct ps_keyed_record recs[PS_CACHE_BATCH];
    bool scanned = false;
    int rc = 0;
    *freed_bytes = 0;
    pthread_mutex_lock(&c->lock);
    const uint64_t generation = c->plan_generation;
    pthread_mutex_unlock(&c->lock);
    if (generation != c->victims_generation || ps_now_ns() > c->victims_until_ns || shrinking)
        c->victims.n = c->next_victim =
            0; /* chosen under another plan, or when other processes were here */
    const uint64_t target = shrinking ? need : with_slack(c, need);
    while (rc == 0 && *freed_bytes < target) {
        if (c->next_victim == c->victims.n) {
            if (scanned && c->victims.n == 0)
                break;
            if (scanned && *freed_bytes >= need)
                break; /* the slack is not worth a second scan */
            rc = find_victims(c, shrinking, err);
            c->victims_generation = generation;
            c->victims_until_ns = ps_now_ns() + VICTIMS_NS;
            scanned = true;
            if (rc != 0 || c->victims.n == 0)
                break;
            if (shrinking)
                order_for_punching(&c->victims, target - *freed_bytes);
        }
        const size_t n = next_victims(c, target - *freed_bytes, recs);
        rc = ps_writer_evict(c, recs, n, shrinking, freed_bytes, err);
    }
    if (rc == 0 && *freed_bytes == 0) {
        pthread_mutex_lock(&c->lock);
        c->no_victims_until_ns = ps_now_ns() + NO_VICTIMS_NS;
        c->no_victims_generation = generation;
        pthread_mutex_unlock(&c->lock);
    }
    return rc;
}

/* ---- bytes saved ---- */

struct use_job {
    uint32_t model[PS_CLAIM_MODELS];
    uint64_t bytes[PS_CLAIM_MODELS];
    size_t n;
};

static int use_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    const struct use_job *j = user;
    const uint64_t now_s = ps_wall_s();
    for (size_t i = 0; i < j->n; i++) {
        struct ps_model m;
        int rc = ps_index_write_get_model(w, NULL, (uint16_t)j->model[i], &m, err);
        if (rc == 0) {
            const uint64_t age_s = now_s > m.saved_at_s ? now_s - m.saved_at_s : 0;
            m.saved_bytes = ps_evict_faded(m.saved_bytes, age_s) + j->bytes[i];
            m.saved_at_s = now_s;
            rc = ps_index_write_put_model(w, &m, err);
        }
        if (rc != 0 && rc != PS_ENOTFOUND)
            return rc;
    }
    return 0;
}

/* A synced commit, so rarely. What is lost with a killed process is some use of its models. */
static void record_use(struct ps_cache *c)
{
    struct use_job j = {.n = 0};
    for (int i = 0; i < PS_CLAIM_MODELS; i++) {
        const uint64_t bytes = atomic_exchange(&c->used[i].bytes, 0);
        if (bytes > 0) {
            j.model[j.n] = atomic_load(&c->used[i].model);
            j.bytes[j.n++] = bytes;
        }
    }
    if (j.n > 0)
        (void)ps_writer_update(c, j.n, use_body, &j, NULL);
}

/* ---- the thread ---- */

void ps_writer_upkeep(struct ps_cache *c)
{
    const int readers = ps_index_check_readers(c->index);
    const unsigned freed = ps_recover_dead(c);
    if (readers > 0 || freed > 0)
        ps_log(PS_LOG_INFO, PS_CACHE_ORIGIN, "cleared %d readers and %u claims of dead processes",
               readers, freed);
    record_use(c);
    ps_cache_measure(c);
}

static void publish_unasked(struct ps_cache *c)
{
    struct ps_err err = {.code = 0};
    if (publish_batch(c, &err) == 0)
        return;
    ps_log(PS_LOG_DEBUG, PS_CACHE_ORIGIN, "a batch was given up: %s", err.text);
    pthread_mutex_lock(&c->lock);
    c->write_err = err;
    pthread_mutex_unlock(&c->lock);
}

static void run_job(struct ps_cache *c, struct ps_job *j)
{
    const int code = j->fn(c, j->user, j->err);
    pthread_mutex_lock(&c->lock);
    j->code = code;
    j->done = true;
    pthread_cond_broadcast(&c->done);
    pthread_mutex_unlock(&c->lock);
}

/* One round: does the most urgent thing, or waits. False at the end. */
static bool writer_round(struct ps_cache *c)
{
    pthread_mutex_lock(&c->lock);
    struct ps_job *j = c->first_job;
    const uint64_t now = ps_now_ns();
    const uint64_t publish_at = c->first_pending_ns + PS_CACHE_PUBLISH_NS;
    const bool pending = c->n_pending > 0;
    const bool publish =
        pending && (c->stopping || c->hurry || c->n_pending >= PS_CACHE_BATCH || now >= publish_at);
    const bool upkeep = now >= c->next_upkeep_ns;
    const bool end = !j && !pending && c->stopping;
    if (j) {
        c->first_job = j->next;
        if (!c->first_job)
            c->last_job = NULL;
    } else if (!publish && !upkeep && !end) {
        const uint64_t beat_at =
            atomic_load(&c->n_tickets) > 0 ? now + PS_CLAIM_BEAT_NS : c->next_upkeep_ns;
        const uint64_t at = beat_at < c->next_upkeep_ns ? beat_at : c->next_upkeep_ns;
        (void)ps_cond_wait_until(&c->wake, &c->lock, pending && publish_at < at ? publish_at : at);
    }
    pthread_mutex_unlock(&c->lock);
    ps_claims_beat(c->claims);
    if (j) {
        run_job(c, j);
    } else if (publish) {
        publish_unasked(c);
    } else if (upkeep && !end) {
        ps_writer_upkeep(c);
        c->next_upkeep_ns = ps_now_ns() + PS_CACHE_UPKEEP_NS;
    }
    return !end;
}

static void *writer_main(void *user)
{
    while (writer_round(user)) {}
    record_use(user);
    return NULL;
}

int ps_writer_start(struct ps_cache *c, struct ps_err *err)
{
    c->next_upkeep_ns = ps_now_ns() + PS_CACHE_UPKEEP_NS;
    const int rc = ps_thread_start(&c->writer, writer_main, c);
    if (rc != 0)
        return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "cache: no thread: %s", strerror(rc));
    c->writer_runs = true;
    return 0;
}

void ps_writer_stop(struct ps_cache *c)
{
    pthread_mutex_lock(&c->lock);
    const bool runs = c->writer_runs;
    c->stopping = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    if (runs)
        pthread_join(c->writer, NULL);
    c->writer_runs = false;
}

int ps_writer_call(struct ps_cache *c, int (*fn)(struct ps_cache *, void *, struct ps_err *),
                   void *user, struct ps_err *err)
{
    struct ps_job j = {.fn = fn, .user = user, .err = err};
    pthread_mutex_lock(&c->lock);
    if (!c->writer_runs) {
        pthread_mutex_unlock(&c->lock);
        return fn(c, user, err);
    }
    if (c->last_job)
        c->last_job->next = &j;
    else
        c->first_job = &j;
    c->last_job = &j;
    pthread_cond_signal(&c->wake);
    while (!j.done)
        pthread_cond_wait(&c->done, &c->lock);
    pthread_mutex_unlock(&c->lock);
    return j.code;
}
