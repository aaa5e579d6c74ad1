/* Ranges over several sources. See mirror_internal.h for the picture. */
#include "fetcher/mirror_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "fetcher/store_impl.h"

#define ORIGIN "fetcher"
#define ROUND_MIN_NS                                                                               \
    PS_NS_PER_S /* who refuses faster than that does not change his mind in a second round */

static uint32_t usable_locked(const struct mirror_store *m)
{
    return (uint32_t)((1ull << m->n) - 1);
}

/* ---- one range ---- */

static struct mirror_job *take_locked(struct mirror_store *m)
{
    struct mirror_job *j = m->free_jobs;
    if (j)
        m->free_jobs = j->next;
    else if (!(j = ps_calloc(1, sizeof *j)))
        return NULL;
    uint64_t turn = j->turn;
    memset(j, 0, sizeof *j);
    j->turn = turn + 1;
    j->m = m;
    j->next = m->live;
    if (m->live)
        m->live->prev = j;
    m->live = j;
    return j;
}

static void recycle_locked(struct mirror_store *m, struct mirror_job *j)
{
    if (j->prev)
        j->prev->next = j->next;
    else
        m->live = j->next;
    if (j->next)
        j->next->prev = j->prev;
    j->outer->impl = NULL;
    j->state = MIRROR_FREE;
    j->turn++;
    j->prev = NULL;
    j->next = m->free_jobs;
    m->free_jobs = j;
}

/* The end of a range, on a thread that is not inside submit. */
static void finish(struct mirror_store *m, struct mirror_job *j, int rc, const struct ps_err *err)
{
    struct ps_err copy = {0};
    if (rc != 0 && err)
        copy = *err;
    if (rc != 0 && !copy.text[0])
        ps_err_set(&copy, rc, ORIGIN, "cancelled: %s: the request was withdrawn", j->outer->object);
    pthread_mutex_lock(&m->lock);
    struct ps_range *r = j->outer;
    recycle_locked(m, j);
    pthread_mutex_unlock(&m->lock);
    r->done(r, rc, rc != 0 ? &copy : NULL);
}

/* The failure that is told when everybody has failed: wrong bytes before all else, then the first. */
static void keep_failure_locked(struct mirror_job *j, int rc, const struct ps_err *err)
{
    if (j->rc != 0 && (j->rc == PS_EDATA || rc != PS_EDATA))
        return;
    j->rc = rc;
    if (err)
        j->err = *err;
    else
        ps_err_set(&j->err, rc, ORIGIN, "%s: the read failed", j->outer->object);
}

static bool passes(int rc)
{
    return rc == PS_ENET;
}

/* Failures that no other source can help with. */
static bool final(int rc)
{
    return rc == PS_EBUDGET || rc == PS_ENOMEM || rc == PS_EUSAGE || rc == PS_EINTERRUPTED;
}

/* ---- choosing ---- */

static uint32_t wary_locked(const struct mirror_store *m, const struct mirror_job *j)
{
    return j->o->wary | (m->spare_first ? 1u : 0u);
}

static uint64_t deadline_ns(const struct mirror_store *m, const struct mirror_job *j)
{
    return j->outer->deadline_ns ? j->outer->deadline_ns : mirror_deadline_ns(m);
}

/* Who may be asked at all: not one that was shown to hold something else. */
static uint32_t candidates_locked(const struct mirror_store *m, const struct mirror_job *j)
{
    uint32_t strange = j->o->wary & ~j->o->proven & ~(1u << (m->reference < 0 ? 0 : m->reference));
    return usable_locked(m) & ~(m->presplit ? 0 : strange);
}

/* The next source, or -1 when all have failed for good. Where some failure may pass, everybody is asked again as long
 * as there is time. */
static int choose_locked(struct mirror_store *m, struct mirror_job *j, uint64_t now_ns)
{
    uint32_t usable = candidates_locked(m, j);
    int i = ps_mirror_pick(m->health, m->n, usable, j->tried, wary_locked(m, j), now_ns);
    bool again = j->lasting && now_ns - j->began_ns < deadline_ns(m, j) &&
                 now_ns - j->round_ns >= ROUND_MIN_NS;
    if (i >= 0 || !again)
        return i;
    j->tried = 0;
    j->lasting = false;
    j->round_ns = now_ns;
    return ps_mirror_pick(m->health, m->n, usable, 0, wary_locked(m, j), now_ns);
}

/* What is asked of a source other than the reference needs a proof, unless hashes prove it anyway. */
static bool proven_locked(const struct mirror_store *m, const struct mirror_job *j, unsigned i)
{
    return m->presplit || (int)i == (m->reference < 0 ? 0 : m->reference) || (j->o->proven >> i & 1);
}

/* No room below --max-egress now. *never: nor later. */
static bool over_egress_locked(const struct mirror_store *m, const struct mirror_job *j, bool *never)
{
    uint64_t max = m->opt.max_egress_bytes, used = ps_stat_get(&m->stats->bytes_net);
    *never = false;
    if (max == 0 || used + m->in_flight_bytes + j->outer->bytes <= max)
        return false;
    *never = m->in_flight_bytes == 0;
    return true;
}

static void on_done(struct ps_range *inner, int rc, const struct ps_err *err);

static void fill_locked(struct mirror_store *m, struct mirror_job *j, unsigned i, uint64_t now_ns)
{
    const struct ps_mirror_health *h = &m->health[i];
    uint64_t all = deadline_ns(m, j), spent = now_ns - j->began_ns;
    unsigned others =
        (unsigned)__builtin_popcount(candidates_locked(m, j) & ~j->tried & ~(1u << i) & ~j->o->wary);
    j->inner = *j->outer;
    j->inner.next = NULL;
    j->inner.impl = NULL;
    j->inner.done = on_done;
    j->inner.user = j;
    if ((int)i != m->reference)
        j->inner.etag = NULL; /* a name that only the reference knows */
    j->inner.elsewhere = others > 0;
    j->inner.deadline_ns =
        ps_mirror_patience_ns(all > spent ? all - spent : PS_NS_PER_S, others, h->failures > 0);
    j->at = i;
    j->tried |= 1u << i;
    j->move = false;
    j->state = MIRROR_ASKED;
    j->turn++;
    m->health[i].in_flight++;
    m->in_flight_bytes += j->outer->bytes;
    m->submitting++;
}

static void submitted_locked(struct mirror_store *m)
{
    m->submitting--;
    if (m->closing)
        pthread_cond_broadcast(&m->wanted);
}

/* Where a job goes next. */
enum step { STEP_ASK, STEP_WAIT, STEP_CANCELLED, STEP_FAILED };

static enum step step_locked(struct mirror_store *m, struct mirror_job *j, unsigned *at)
{
    uint64_t now_ns = ps_now_ns();
    bool never;
    if (j->cancelled || m->closing)
        return STEP_CANCELLED;
    int i = choose_locked(m, j, now_ns);
    if (i < 0) {
        if (j->rc == 0)
            keep_failure_locked(j, PS_ENET, NULL);
        return STEP_FAILED;
    }
    if (!proven_locked(m, j, (unsigned)i)) {
        j->at = (unsigned)i;
        j->state = MIRROR_PARKED;
        pthread_cond_broadcast(&m->wanted);
        return STEP_WAIT;
    }
    if (over_egress_locked(m, j, &never)) {
        if (!never) {
            j->state = MIRROR_HELD;
            return STEP_WAIT;
        }
        j->state = MIRROR_MOVING; /* the caller's to end, nobody else's */
        j->rc = ps_err_set(&j->err, PS_EBUDGET, ORIGIN,
                           "egress limit reached: %s: raise --max-egress (now %llu bytes)",
                           j->outer->object,
                           (unsigned long long)ps_store_egress_told(m->opt.max_egress_bytes));
        return STEP_FAILED;
    }
    fill_locked(m, j, (unsigned)i, now_ns);
    *at = (unsigned)i;
    return STEP_ASK;
}

/* A range that is with nobody any more. */
static void leave_locked(struct mirror_store *m, struct mirror_job *j)
{
    m->health[j->at].in_flight--;
    m->in_flight_bytes -= j->outer->bytes;
    j->state = MIRROR_MOVING;
    j->turn++;
}

/* What was said of the range between the choice and the submit, when the store had not heard of it. */
static void catch_up(struct mirror_store *m, struct mirror_job *j, uint64_t turn, struct ps_source *s)
{
    pthread_mutex_lock(&m->lock);
    bool there = j->turn == turn && j->state == MIRROR_ASKED;
    if (there && (j->cancelled || j->move))
        ps_source_cancel(s, &j->inner);
    else if (there && j->awaited)
        ps_source_await(s, &j->inner);
    submitted_locked(m);
    pthread_mutex_unlock(&m->lock);
}

static void note_local(struct mirror_store *m)
{
    pthread_mutex_lock(&m->lock);
    mirror_note_local_locked(m);
    pthread_mutex_unlock(&m->lock);
}

/* Brings a job on its way. 0: it is, or waits; else it has failed, with *err, and is the caller's to end. */
static int dispatch(struct mirror_store *m, struct mirror_job *j, struct ps_err *err)
{
    for (;;) {
        struct ps_err why = {0};
        unsigned at = 0;
        pthread_mutex_lock(&m->lock);
        enum step step = step_locked(m, j, &at);
        uint64_t turn = j->turn;
        int rc = step == STEP_CANCELLED ? PS_ECANCELLED : step == STEP_FAILED ? j->rc : 0;
        if (step == STEP_FAILED && err)
            *err = j->err;
        pthread_mutex_unlock(&m->lock);
        if (step != STEP_ASK)
            return rc;
        struct ps_source *s = mirror_open(m, at, &why);
        rc = s ? ps_source_submit(s, &j->inner, &why) : (why.code ? why.code : PS_ENET);
        note_local(m);
        if (rc == 0) {
            catch_up(m, j, turn, s);
            return 0;
        }
        pthread_mutex_lock(&m->lock);
        submitted_locked(m);
        leave_locked(m, j);
        keep_failure_locked(j, rc, &why);
        j->o->wary |= 1u << at;
        m->look = true; /* there is room below --max-egress again */
        pthread_cond_broadcast(&m->wanted);
        pthread_mutex_unlock(&m->lock);
        mirror_count_failure(m, at, rc, &why);
    }
}

/* dispatch for a thread that may call done(). */
static void go(struct mirror_store *m, struct mirror_job *j)
{
    struct ps_err err = {0};
    int rc = dispatch(m, j, &err);
    if (rc != 0)
        finish(m, j, rc, &err);
}

void mirror_go_on(struct mirror_store *m)
{
    for (;;) {
        struct mirror_job *ready = NULL;
        pthread_mutex_lock(&m->lock);
        for (struct mirror_job *j = m->live; j && !ready; j = j->next) {
            bool never;
            if ((j->state == MIRROR_PARKED &&
                 (j->cancelled || m->closing || proven_locked(m, j, j->at) || j->unproved)) ||
                (j->state == MIRROR_HELD &&
                 (j->cancelled || m->closing || !over_egress_locked(m, j, &never) || never)))
                ready = j;
        }
        if (ready) {
            /* a source that could not prove itself counts as tried */
            if (ready->unproved)
                ready->tried |= 1u << ready->at;
            ready->unproved = false;
            ready->state = MIRROR_MOVING;
        }
        pthread_mutex_unlock(&m->lock);
        if (!ready)
            return;
        go(m, ready);
    }
}

/* ---- what came of it ---- */

/* A source has begun to fail: what waits there is asked for elsewhere, instead of failing one by one. */
static void move_others_locked(struct mirror_store *m, unsigned at, uint64_t now_ns)
{
    struct ps_source *s = m->sources[at].s;
    for (struct mirror_job *j = m->live; j; j = j->next) {
        if (j->state != MIRROR_ASKED || j->at != at || j->move || j->cancelled)
            continue;
        int other =
            ps_mirror_pick(m->health, m->n, candidates_locked(m, j), j->tried, j->o->wary, now_ns);
        if (other < 0 || m->health[other].failures > 0)
            continue;
        j->move = true;
        if (s) /* else it is only being opened: catch_up() */
            ps_source_cancel(s, &j->inner);
    }
}

static void note_failure_locked(struct mirror_store *m, struct mirror_job *j, int rc,
                                const struct ps_err *err, uint64_t now_ns)
{
    unsigned at = j->at;
    keep_failure_locked(j, rc, err);
    if (passes(rc)) {
        j->lasting = true;
        ps_mirror_failed(&m->health[at], now_ns);
        move_others_locked(m, at, now_ns);
    } else {
        j->o->wary |= 1u << at;
        if (rc == PS_EREFUSED)
            ps_mirror_failed(&m->health[at], now_ns);
    }
}

static void on_done(struct ps_range *inner, int rc, const struct ps_err *err)
{
    struct mirror_job *j = inner->user;
    struct mirror_store *m = j->m;
    pthread_mutex_lock(&m->lock);
    unsigned at = j->at;
    leave_locked(m, j);
    bool moved = rc == PS_ECANCELLED && j->move && !j->cancelled && !m->closing;
    bool failed = rc != 0 && rc != PS_ECANCELLED && !final(rc) && !j->cancelled && !m->closing;
    if (rc == 0) {
        ps_mirror_worked(&m->health[at]);
        m->sources[at].bytes += j->outer->bytes;
        j->o->last = (int)at;
    } else if (failed) {
        note_failure_locked(m, j, rc, err, ps_now_ns());
    }
    pthread_mutex_unlock(&m->lock);
    if (failed)
        mirror_count_failure(m, at, rc, err);
    if (failed || moved)
        go(m, j);
    else
        finish(m, j, rc, err);
    if (m->opt.max_egress_bytes)
        mirror_go_on(m);
}

/* ---- the doors ---- */

int mirror_submit(struct ps_source *base, struct ps_range *r, struct ps_err *err)
{
    struct mirror_store *m = (struct mirror_store *)base;
    int rc = ps_range_check(r, err);
    if (rc != 0)
        return rc;
    if (m->n == 1) { /* nobody else to ask: no detour */
        pthread_mutex_lock(&m->lock);
        m->sources[0].bytes += r->bytes;
        pthread_mutex_unlock(&m->lock);
        rc = ps_source_submit(m->sources[0].s, r, err); /* r may be gone already */
        note_local(m);
        return rc;
    }
    pthread_mutex_lock(&m->lock);
    struct mirror_object *o = m->closing ? NULL : mirror_object_locked(m, r->object);
    struct mirror_job *j = o ? take_locked(m) : NULL;
    if (j) {
        j->outer = r;
        j->o = o;
        j->began_ns = j->round_ns = ps_now_ns();
        r->impl = j;
    }
    bool closing = m->closing;
    pthread_mutex_unlock(&m->lock);
    if (!j)
        return closing
                   ? ps_err_set(err, PS_ECANCELLED, ORIGIN, "%s: the source is closing", r->object)
                   : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %s", r->object);
    rc = dispatch(m, j, err);
    if (rc != 0) {
        pthread_mutex_lock(&m->lock);
        recycle_locked(m, j);
        pthread_mutex_unlock(&m->lock);
    }
    return rc;
}

static struct mirror_job *job_of_locked(struct mirror_store *m, const struct ps_range *r)
{
    struct mirror_job *j = m->live;
    while (j && j->outer != r)
        j = j->next;
    return j;
}

/* A source that may be spoken to: while the store closes, each may be gone already, and ends by itself. */
static bool open_locked(const struct mirror_store *m, unsigned i)
{
    return m->sources[i].s && !m->closing;
}

void mirror_await(struct ps_source *base, struct ps_range *r)
{
    struct mirror_store *m = (struct mirror_store *)base;
    pthread_mutex_lock(&m->lock);
    struct mirror_job *j = job_of_locked(m, r);
    if (j) {
        j->awaited = true;
        if (j->state == MIRROR_ASKED && open_locked(m, j->at))
            ps_source_await(m->sources[j->at].s, &j->inner);
    } else if (open_locked(m, 0)) { /* see mirror_cancel */
        ps_source_await(m->sources[0].s, r);
    }
    pthread_mutex_unlock(&m->lock);
}

void mirror_cancel(struct ps_source *base, struct ps_range *r)
{
    struct mirror_store *m = (struct mirror_store *)base;
    pthread_mutex_lock(&m->lock);
    struct mirror_job *j = job_of_locked(m, r);
    if (j) {
        j->cancelled = true;
        if (j->state == MIRROR_ASKED && open_locked(m, j->at))
            ps_source_cancel(m->sources[j->at].s, &j->inner);
        else if (j->state == MIRROR_PARKED || j->state == MIRROR_HELD)
            pthread_cond_broadcast(&m->wanted);
    } else if (open_locked(m, 0)) {
        /* Went there without a detour, or has ended, or comes later. Under the lock: a submit that comes in between
         * would have its own mark in the range, which that store would take for one of its own. */
        ps_source_cancel(m->sources[0].s, r);
    }
    pthread_mutex_unlock(&m->lock);
}
