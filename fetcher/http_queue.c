/* Which ranges are asked for next, and what becomes of them after a failure. Comes in: waiting
 * jobs and failed ones. Goes out: batches of touching jobs for one request each, or finished
 * jobs. Everything here works under the store's lock and touches no socket. */
#include "fetcher/http_internal.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"

#define ORIGIN       "fetcher"
#define ELSEWHERE_NS (PS_NS_PER_S / 4)

uint64_t http_job_from(const struct http_job *j)
{
    return j->r->offset + j->have;
}

uint64_t http_job_to(const struct http_job *j)
{
    return j->r->offset + j->r->bytes;
}

uint64_t http_job_deadline_ns(const struct http_store *s, const struct http_job *j)
{
    uint64_t ns = j->r->deadline_ns ? j->r->deadline_ns : s->opt.net_deadline_s * PS_NS_PER_S;
    if (s->opt.limit) { /* twice what it takes while all connections share --net-limit: that wait is the user's wish */
        const double rate = (double)ps_rate_limit_bytes_per_s(s->opt.limit);
        ns += (uint64_t)(2e9 * (double)j->r->bytes * s->opt.connections / rate);
    }
    return ns;
}

void http_now_waiting_locked(struct http_store *s, struct http_job *j)
{
    j->state = HTTP_WAITING;
    j->next = NULL;
    s->waiting_bytes += j->r->bytes - j->have;
    ps_heap_push(&s->waiting, &j->order); /* room for every live job was reserved at submit */
}

static struct http_job *top_locked(struct http_store *s)
{
    return (struct http_job *)ps_heap_top(&s->waiting);
}

static void pop_locked(struct http_store *s, struct http_job *j)
{
    ps_heap_remove(&s->waiting, &j->order);
    s->waiting_bytes -= j->r->bytes - j->have;
}

static void wake_due_locked(struct http_store *s, uint64_t now_ns)
{
    struct http_job **link = &s->delayed;
    while (*link) {
        struct http_job *j = *link;
        if (j->not_before_ns > now_ns) {
            link = &j->next;
            continue;
        }
        *link = j->next;
        http_now_waiting_locked(s, j);
    }
}

uint64_t http_next_start_ns(struct http_store *s)
{
    uint64_t at = UINT64_MAX;
    pthread_mutex_lock(&s->lock);
    for (const struct http_job *j = s->delayed; j; j = j->next)
        if (j->not_before_ns < at)
            at = j->not_before_ns;
    if (s->waiting.n > 0 && s->hold_until_ns > ps_now_ns() && s->hold_until_ns < at)
        at = s->hold_until_ns;
    pthread_mutex_unlock(&s->lock);
    return at;
}

/* How much of `want` may be asked for. 0: nothing now, because what is in flight may use up the
 * rest; *never: nothing any more. */
static uint64_t egress_room_locked(const struct http_store *s, uint64_t want, bool shrinkable,
                                   bool *never)
{
    uint64_t max = s->opt.max_egress_bytes;
    *never = false;
    if (max == 0)
        return want;
    uint64_t left = max > s->egress_used ? max - s->egress_used : 0;
    if (left == 0 || (want > left && !shrinkable)) {
        *never = true;
        return 0;
    }
    uint64_t room = left > s->egress_in_flight ? left - s->egress_in_flight : 0;
    if (room >= want)
        return want;
    return shrinkable && s->egress_in_flight == 0 ? room : 0;
}

static void refuse_egress_locked(struct http_store *s, struct http_job *j)
{
    struct ps_err err;
    ps_err_set(&err, PS_EBUDGET, ORIGIN,
               "egress limit reached: %s: raise --max-egress (now %llu bytes) or use a mirror",
               j->obj->where, (unsigned long long)ps_store_egress_told(s->opt.max_egress_bytes));
    http_finish_push_locked(s, j, PS_EBUDGET, &err);
}

static bool same_expectations(const struct ps_range *a, const struct ps_range *b)
{
    bool same_etag = a->etag && b->etag ? strcmp(a->etag, b->etag) == 0 : a->etag == b->etag;
    return same_etag && a->object_bytes == b->object_bytes;
}

/* May the top of the heap ride in the request that ends with `last`? Only neighbours in the
 * order of asking are joined: jumping ahead in that order would delay what is needed first. */
static bool joins_locked(const struct http_job *first, const struct http_job *last,
                         const struct http_job *next, uint64_t bound)
{
    if (!next || next->obj != first->obj || next->sink || first->sink || next->have > 0 ||
        next->r->alone || first->r->alone)
        return false;
    struct ps_span have = {http_job_from(first), http_job_to(last)};
    struct ps_span more = {http_job_from(next), http_job_to(next)};
    return same_expectations(first->r, next->r) && ps_plan_joins(have, more, bound);
}

static void activate_locked(struct http_store *s, struct http_job *j, uint64_t now_ns)
{
    j->state = HTTP_ACTIVE;
    j->next = NULL;
    if (j->first_ns == 0)
        j->first_ns = now_ns;
    if (j->attempts++ > 0)
        ps_stat_add(&s->stats->retries, 1);
}

/* What the reply will be held against: the caller's expectation, else what earlier replies about
 * this object said. */
static void expect_locked(struct http_transfer *t, const struct ps_range *r)
{
    const struct http_object *o = t->obj;
    const char *etag = r->etag ? r->etag : o->etag;
    bool weak = r->etag ? strncmp(etag, "W/", 2) == 0 : o->etag_weak;
    if (r->etag && weak)
        etag += 2;
    size_t n = strlen(etag);
    bool usable = n >= 2 && n < sizeof t->ask_etag;
    memcpy(t->ask_etag, usable ? etag : "", usable ? n + 1 : 1);
    t->ask_strong = usable && !weak;
    memcpy(t->ask_modified, o->last_modified, sizeof t->ask_modified);
    t->ask_object_bytes = r->object_bytes ? r->object_bytes : o->total;
}

const struct http_failure http_superseded = {.cls = PS_RETRY_TRANSPORT,
                                             .code = PS_ECANCELLED,
                                             .what = "came from elsewhere",
                                             .hint = "nothing to do"};
const struct http_failure http_escaped = {.cls = PS_RETRY_TRANSPORT,
                                          .code = PS_ENET,
                                          .what = "slow connection",
                                          .hint = "nothing to do"};

void http_choose_address_locked(struct http_transfer *t, bool front, uint64_t now_ns)
{
    struct http_store *s = t->net->store;
    const struct ps_http_place *p = &t->obj->place;
    bool cached = !front && p->known && now_ns < p->until_ns;
    ps_uri_deinit(&t->uri);
    t->hops = 0;
    t->from_cache = cached;
    t->place_until_ns = cached ? p->until_ns : 0;
    t->trusted = !cached || p->home;
    int rc = cached ? ps_uri_copy(&t->uri, &p->uri, NULL)
                    : s->origin->ops->locate(s->origin, t->obj->name, &t->uri, NULL);
    t->no_memory = rc == PS_ENOMEM; /* begin() reports it */
    t->no_address = rc != 0 && rc != PS_ENOMEM;
    http_host_enter_locked(t);
}

static void fill_transfer_locked(struct http_store *s, struct http_transfer *t,
                                 struct http_job *first, uint64_t room, uint64_t now_ns)
{
    uint64_t bound = ps_plan_join_bound(s->waiting_bytes, s->opt.connections);
    struct http_job *last = first;
    bool never;
    pop_locked(s, first);
    activate_locked(s, first, now_ns);
    t->jobs = first;
    t->obj = first->obj;
    t->from = http_job_from(first);
    t->to = t->from + room;
    for (struct http_job *next = top_locked(s); joins_locked(first, last, next, bound);
         next = top_locked(s)) {
        uint64_t all = http_job_to(next) - t->from;
        if (egress_room_locked(s, all, false, &never) < all)
            break;
        pop_locked(s, next);
        activate_locked(s, next, now_ns);
        last->next = next;
        last = next;
        t->to = http_job_to(next);
    }
    t->reserved = t->to - t->from;
    s->egress_in_flight += t->reserved;
    expect_locked(t, first->r);
}

static void count_active_locked(struct http_store *s)
{
    uint64_t active = 0;
    for (unsigned i = 0; i < s->n_nets; i++)
        active += s->nets[i].active;
    if (active > ps_stat_get(&s->stats->requests_at_once_max))
        atomic_store_explicit(&s->stats->requests_at_once_max, active, memory_order_relaxed);
}

static void occupy_locked(struct http_store *s, struct http_transfer *t, uint64_t now_ns)
{
    t->net->active++;
    t->net->hedge_ns = 0; /* what it carries may be awaited already */
    count_active_locked(s);
    t->cures = 0;
    t->plain_retry = t->lost = false;
    http_choose_address_locked(t, false, now_ns);
}

bool http_take_batch(struct http_store *s, struct http_transfer *t, uint64_t now_ns)
{
    bool taken = false;
    pthread_mutex_lock(&s->lock);
    t->net->wake_sent = false;
    wake_due_locked(s, now_ns);
    while (!taken && !s->closing && now_ns >= s->hold_until_ns && s->waiting.n > 0) {
        struct http_job *j = top_locked(s);
        uint64_t want = j->r->bytes - j->have;
        bool never;
        if (!http_ready_locked(s, j->obj, now_ns)) {
            pop_locked(s, j);
            http_prepare_locked(s, j);
            continue;
        }
        if (!http_host_open_locked(s, j->obj))
            break;
        uint64_t room = egress_room_locked(s, want, j->sink != NULL, &never);
        if (never) {
            pop_locked(s, j);
            refuse_egress_locked(s, j);
            continue;
        }
        if (room == 0)
            break;
        fill_transfer_locked(s, t, j, room, now_ns);
        taken = true;
        occupy_locked(s, t, now_ns);
    }
    pthread_mutex_unlock(&s->lock);
    return taken;
}

/* The part of j that its transfer has not brought yet. */
static struct ps_span missing_of(const struct http_transfer *t, const struct http_job *j)
{
    struct ps_span m = {http_job_from(j), http_job_to(j)};
    if (t->judged && t->judge.verdict == PS_REPLY_ACCEPT && t->pos > m.from)
        m.from = t->pos;
    return m;
}

/* Two requests write into one buffer: only where a hash will tell, or both are held to one version. */
static bool may_be_doubled_locked(const struct http_job *j)
{
    const char *etag = j->r->etag ? j->r->etag : j->obj->etag;
    const bool weak = j->r->etag ? strncmp(etag, "W/", 2) == 0 : j->obj->etag_weak;
    return j->r->sha256 || (etag[0] && !weak);
}

bool http_take_hedge(struct http_store *s, struct http_transfer *h, struct http_transfer *t,
                     struct http_job *j, uint64_t now_ns)
{
    struct ps_span m = missing_of(t, j);
    uint64_t bytes = m.to - m.from;
    bool never, taken = false;
    pthread_mutex_lock(&s->lock);
    uint64_t spent = http_hedge_spent_locked(s);
    if (bytes > 0 && may_be_doubled_locked(j) && !s->closing && !j->cancelled &&
        now_ns >= s->hold_until_ns && http_host_open_locked(s, j->obj) &&
        http_ready_locked(s, j->obj, now_ns) &&
        ps_hedge_affordable(ps_stat_get(&s->stats->bytes_net), spent, bytes, s->opt.hedge_pct) &&
        egress_room_locked(s, bytes, false, &never) == bytes) {
        h->stand_in_range = (struct ps_range){.object = j->r->object,
                                              .offset = m.from,
                                              .bytes = bytes,
                                              .buf = (char *)j->r->buf + (m.from - j->r->offset),
                                              .etag = j->r->etag,
                                              .object_bytes = j->r->object_bytes};
        h->stand_in = (struct http_job){.r = &h->stand_in_range,
                                        .obj = j->obj,
                                        .state = HTTP_ACTIVE,
                                        .first_ns = now_ns};
        h->hedge_of = t;
        h->hedged = j;
        h->jobs = &h->stand_in;
        h->obj = j->obj;
        h->from = m.from;
        h->to = m.to;
        h->reserved = bytes;
        s->egress_in_flight += bytes;
        s->hedge_in_flight += bytes;
        expect_locked(h, j->r);
        occupy_locked(s, h, now_ns);
        j->hedge = h;
        taken = true;
    }
    pthread_mutex_unlock(&s->lock);
    return taken;
}

void http_requeue_jobs(struct http_transfer *t, bool slow)
{
    struct http_store *s = t->net->store;
    while (t->jobs) {
        struct http_job *j = t->jobs;
        t->jobs = j->next;
        if (http_hedge_takes_over(t, j))
            continue;
        pthread_mutex_lock(&s->lock);
        j->escapes += slow;
        if (j->cancelled || s->closing)
            http_finish_push_locked(s, j, PS_ECANCELLED, NULL);
        else
            http_now_waiting_locked(s, j);
        pthread_mutex_unlock(&s->lock);
    }
}

void http_settle_egress(struct http_store *s, struct http_transfer *t)
{
    pthread_mutex_lock(&s->lock);
    s->egress_in_flight -= t->reserved;
    s->egress_used += t->body_bytes;
    t->reserved = 0;
    t->body_bytes = 0;
    if (s->opt.max_egress_bytes)
        http_wake_all_locked(s);
    pthread_mutex_unlock(&s->lock);
}

/* elsewhere: a place that is not the object's own is what failed. */
static void describe(struct ps_err *err, const struct http_job *j, const struct http_failure *f,
                     uint64_t elapsed_ns, bool elsewhere)
{
    const char *what = f->what, *hint = f->hint;
    const char *sent = elsewhere ? ", sent on to " : "", *to = elsewhere ? f->host->key : "";
    char asked[96];
    if (f->deadline && j->last_what) {
        what = j->last_what;
        hint = j->last_hint;
    } else if (f->cls == PS_RETRY_THROTTLE && f->retry_after_ns > 0) {
        snprintf(asked, sizeof asked, "the server asks to be left alone for %llu s",
                 (unsigned long long)((f->retry_after_ns + PS_NS_PER_S - 1) / PS_NS_PER_S));
        hint = asked;
    }
    if (f->borrowed && !f->deadline)
        ps_err_set(err, f->code, ORIGIN, "%s", what);
    else if (j->attempts <= 1)
        ps_err_set(err, f->code, ORIGIN, "%s: %s%s%s: %s", what, j->obj->where, sent, to, hint);
    else
        ps_err_set(err, f->code, ORIGIN, "%s (%u tries in %.1f s): %s%s%s: %s", what, j->attempts,
                   (double)elapsed_ns / 1e9, j->obj->where, sent, to, hint);
}

/* A whole origin is told to wait, not one range: the others would only be turned away as well. */
static void hold_locked(struct http_store *s, const struct http_failure *f, uint64_t now_ns)
{
    if (f->cls == PS_RETRY_THROTTLE && f->retry_after_ns > 0 &&
        now_ns + f->retry_after_ns > s->hold_until_ns)
        s->hold_until_ns = now_ns + f->retry_after_ns;
}

/* Failing servers are waited for while there is time, or for a moment where others have the same bytes. */
static uint64_t patience_ns(const struct http_store *s, const struct http_job *j,
                            enum ps_retry_class cls)
{
    const uint64_t ns = http_job_deadline_ns(s, j);
    const bool failing = cls == PS_RETRY_SERVER || cls == PS_RETRY_THROTTLE;
    return j->r->elsewhere && failing && ns > ELSEWHERE_NS ? ELSEWHERE_NS : ns;
}

/* How long a job has been sent to hosts alone that never answered: a redirect into a network that is closed to us,
 * say. */
static uint64_t unreached_ns(struct http_job *j, const struct http_failure *f, uint64_t now_ns)
{
    bool never = f->cls == PS_RETRY_CONNECT && !f->borrowed && f->host &&
                 !atomic_load_explicit(&f->host->answered, memory_order_relaxed);
    if (!never)
        j->unreached_ns = 0;
    else if (j->unreached_ns == 0)
        j->unreached_ns = f->started_ns;
    return never ? now_ns - j->unreached_ns : 0;
}

void http_job_failed(struct http_store *s, struct http_job *j, const struct http_failure *f,
                     uint64_t now_ns, uint64_t random)
{
    j->failures++;
    if (f->cls == PS_RETRY_REPLY)
        j->bad_replies++;
    pthread_mutex_lock(&s->lock);
    struct ps_retry_in in = {
        .cls = f->cls,
        .failures = j->failures,
        .bad_replies = j->bad_replies,
        .elapsed_ns = now_ns - j->first_ns,
        .deadline_ns = patience_ns(s, j, f->cls),
        .retry_after_ns = f->retry_after_ns,
        .first_contact = !s->host_seen,
        .unreached_ns = unreached_ns(j, f, now_ns),
        .connect_limit_ns = s->opt.connect_timeout_s * PS_NS_PER_S,
        .random = random,
    };
    struct ps_retry_out out = ps_retry_decide(&in);
    if (j->cancelled || s->closing) {
        http_finish_push_locked(s, j, PS_ECANCELLED, NULL);
    } else if (out.again) {
        ps_log(PS_LOG_DEBUG, "fetcher", "%s: %s: again in %.2f s", f->what, j->obj->where,
               (double)out.delay_ns / 1e9);
        hold_locked(s, f, now_ns);
        j->last_what = f->borrowed ? NULL : f->what;
        j->last_hint = f->hint;
        j->state = HTTP_DELAYED;
        j->not_before_ns = now_ns + out.delay_ns;
        j->next = s->delayed;
        s->delayed = j;
        http_wake_locked(s);
    } else {
        struct ps_err err;
        describe(&err, j, f, in.elapsed_ns, s->host_seen && in.unreached_ns > 0);
        http_finish_push_locked(s, j, f->code, &err);
    }
    pthread_mutex_unlock(&s->lock);
}
