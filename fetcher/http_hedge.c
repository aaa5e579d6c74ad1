/* Second requests for what a layer waits for. Comes in: jobs that the submitter awaits, and the transfers that
 * carry them. Goes out: where one is late by what its siblings' rates predict, another request for its missing
 * bytes on another connection. Whichever is through first delivers the job; the other is cut.
 *
 * Both requests of a job belong to one net thread and write the same bytes to the same place, so neither needs a
 * copy; the one that lost is told before the job is handed over, and writes nothing after that. What it cost is
 * counted in bytes_hedged and never in bytes_net, and the two per cent of --hedge are reserved before anything is
 * asked. */
#include "fetcher/http_internal.h"

#include "base/clock.h"
#include "base/log.h"

#define HEDGES_MOST 3u                 /* second requests for one job, one after the other */
#define AGAIN_NS    (PS_NS_PER_S / 20) /* what was asked for, or could not be, is looked at */

/* ---- accounts ---- */

static uint64_t position(const struct http_transfer *t)
{
    return t->receiving && t->pos > t->from ? t->pos : t->from;
}

/* The second request h is over, or goes on as an ordinary one: `useful` of its bytes were needed, so `extra` were not,
 * whoever brought them. `on_the_way`: more that the server may have sent to the one that is cut, which nobody will
 * read; it is no part of the figures, but may not be spent again. */
static void settle(struct http_transfer *h, uint64_t useful, uint64_t extra, uint64_t on_the_way)
{
    struct http_store *s = h->net->store;
    ps_stat_add(&s->stats->bytes_net, useful);
    ps_stat_add(&s->stats->bytes_hedged, extra);
    pthread_mutex_lock(&s->lock);
    s->hedge_in_flight -= h->stand_in_range.bytes;
    s->hedge_on_the_way += on_the_way;
    pthread_mutex_unlock(&s->lock);
    h->hedged->hedge = NULL;
    h->hedge_of = NULL;
    h->hedged = NULL;
}

/* What the first request t has brought of the part that h was asked for: it is in bytes_net already. */
static uint64_t overlap(const struct http_transfer *t, const struct http_transfer *h)
{
    if (!t->judged || t->judge.verdict != PS_REPLY_ACCEPT || t->pos <= h->from)
        return 0;
    return (t->pos < h->to ? t->pos : h->to) - h->from;
}

/* What a late transfer would still have brought. One that is silent from the beginning hangs somewhere before its
 * bytes. */
static uint64_t rest_of(const struct http_transfer *t, uint64_t to)
{
    return t->receiving && t->pos > t->from ? to - t->pos : 0;
}

uint64_t http_hedge_spent_locked(const struct http_store *s)
{
    return ps_stat_get(&s->stats->bytes_hedged) + s->hedge_in_flight + s->hedge_on_the_way;
}

void http_hedge_won(struct http_transfer *h)
{
    struct http_transfer *t = h->hedge_of;
    struct http_job *j = h->hedged, **link = &t->jobs;
    uint64_t extra = overlap(t, h);
    ps_log(PS_LOG_DEBUG, "fetcher", "%s: the second request came first, after %.3f s",
           j->obj->where, (double)(ps_now_ns() - h->started_ns) / 1e9);
    ps_stat_add(&h->net->store->stats->hedges_won, 1);
    settle(h, h->body_bytes > extra ? h->body_bytes - extra : 0, extra, rest_of(t, t->to));
    while (*link != j)
        link = &(*link)->next;
    *link = j->next;
    t->lost = true; /* the net loop cuts it; until then it writes nothing */
    http_finish_push(h->net->store, j, 0, NULL);
}

static void drop(struct http_job *j, uint64_t on_the_way)
{
    struct http_transfer *h = j->hedge;
    settle(h, 0, h->body_bytes, on_the_way);
    h->jobs = NULL;
    h->lost = true;
}

void http_hedge_drop(struct http_job *j)
{
    drop(j, j->hedge->to - position(j->hedge));
}

void http_hedge_failed(struct http_transfer *h)
{
    drop(h->hedged, rest_of(h, h->to));
}

void http_hedge_drop_all(struct http_transfer *t)
{
    for (struct http_job *j = t->jobs; j; j = j->next)
        if (j->hedge)
            http_hedge_drop(j);
}

bool http_hedge_takes_over(const struct http_transfer *t, struct http_job *j)
{
    struct http_transfer *h = j->hedge;
    if (!h)
        return false;
    uint64_t extra = overlap(t, h);
    j->have = h->from - j->r->offset; /* the first request brought all before */
    j->next = NULL;
    h->jobs = j;
    settle(h, h->body_bytes > extra ? h->body_bytes - extra : 0,
           extra < h->body_bytes ? extra : h->body_bytes, 0);
    return true;
}

/* ---- asking ---- */

/* When what t brings of job j is late; 0: it is, UINT64_MAX: nobody waits for it. */
static uint64_t late_ns(const struct http_transfer *t, const struct http_job *j, uint64_t missing,
                        uint64_t now_ns)
{
    struct http_store *s = t->net->store;
    double median = http_pace_median(t->net, t, now_ns);
    pthread_mutex_lock(&s->lock);
    bool awaited = j->awaited && !j->cancelled;
    uint64_t due =
        awaited ? ps_pace_hedge_ns(&t->pace, &t->host->pace, median, missing, now_ns) : UINT64_MAX;
    pthread_mutex_unlock(&s->lock);
    return due;
}

/* Only the first job of a transfer: what comes behind it is not late yet. */
static struct http_job *candidate(const struct http_transfer *t)
{
    struct http_job *j = t->live && !t->lost && !t->hedge_of ? t->jobs : NULL;
    return j && !j->sink && !j->hedge && j->hedges < HEDGES_MOST ? j : NULL;
}

static bool begin(struct http_net *n, struct http_transfer *t, struct http_job *j, uint64_t now_ns)
{
    struct http_transfer *h = http_net_free_slot(n);
    if (!h || !http_take_hedge(n->store, h, t, j, now_ns))
        return false;
    j->hedges++;
    ps_stat_add(&n->store->stats->hedges, 1);
    ps_log(PS_LOG_DEBUG, "fetcher", "%s: late: %llu bytes are asked for a second time",
           j->obj->where, (unsigned long long)(h->to - h->from));
    http_transfer_begin(h);
    return true;
}

/* What h has brought was for nothing when another takes its place, and that may be more than may be spent. */
static bool may_be_replaced(const struct http_transfer *h)
{
    struct http_store *s = h->net->store;
    pthread_mutex_lock(&s->lock);
    const uint64_t spent = http_hedge_spent_locked(s);
    const bool may = ps_hedge_affordable(ps_stat_get(&s->stats->bytes_net), spent,
                                         h->body_bytes + rest_of(h, h->to), s->opt.hedge_pct);
    pthread_mutex_unlock(&s->lock);
    return may;
}

/* A second request is late as often as a first one. It makes room for another, which is asked for as the first was:
 * while that is still late. The last one stays. UINT64_MAX: there is nothing to look at. */
static uint64_t replace_late(struct http_transfer *h, uint64_t now_ns)
{
    struct http_job *j = h->live && !h->lost && h->hedge_of ? h->hedged : NULL;
    if (!j || j->hedges >= HEDGES_MOST)
        return UINT64_MAX;
    const uint64_t due = late_ns(h, j, h->to - position(h), now_ns);
    if (due != 0)
        return due;
    if (!may_be_replaced(h))
        return now_ns + AGAIN_NS;
    drop(j, rest_of(h, h->to));
    return now_ns;
}

uint64_t http_hedge_look(struct http_net *n, uint64_t now_ns)
{
    struct http_store *s = n->store;
    uint64_t awaits = atomic_load(&s->awaits), next = UINT64_MAX;
    if (s->opt.hedge_pct <= 0 || atomic_load(&s->n_awaited) == 0)
        return UINT64_MAX;
    if (awaits == n->awaits_seen && now_ns < n->hedge_ns && !n->hedge_due)
        return n->hedge_ns;
    n->awaits_seen = awaits;
    n->hedge_due = false;
    for (unsigned i = 0; i < n->slots; i++) {
        uint64_t due = replace_late(&n->transfers[i], now_ns);
        next = due < next ? due : next;
    }
    for (unsigned i = 0; i < n->slots; i++) {
        struct http_transfer *t = &n->transfers[i];
        struct http_job *j = candidate(t);
        uint64_t due = j ? late_ns(t, j, http_job_to(j) - position(t), now_ns) : UINT64_MAX;
        if (due == 0) {
            if (!begin(n, t, j, now_ns))
                n->hedge_due = true; /* with the next slot that comes free, or when it may cost more */
            due = now_ns + AGAIN_NS;
        }
        next = due < next ? due : next;
    }
    n->hedge_ns = next;
    return next;
}
