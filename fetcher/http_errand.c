/* Errands: what has to be fetched before objects can be asked for (credentials, a signed address).
 * Comes in: jobs whose origin is not ready. Goes out: the same jobs, waiting again or failed.
 * Threads of their own, because an errand waits for the network and the net loop must not. A scheme
 * without errands has none of them. */
#include "fetcher/http_internal.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"

#define ORIGIN "fetcher"
/* A renewal in the background that failed is not tried again at once: what is there still works. */
#define RENEW_AGAIN_NS (10 * PS_NS_PER_S)

static void expire_place_locked(struct http_object *o, uint64_t now_ns)
{
    if (!o->place.known || now_ns < o->place.until_ns)
        return;
    ps_uri_deinit(&o->place.uri);
    o->place.known = false;
}

static void queue_errand_locked(struct http_store *s, struct http_object *o)
{
    if (o->errand != HTTP_ERRAND_NONE)
        return;
    o->errand = HTTP_ERRAND_QUEUED;
    o->next_errand = NULL;
    *s->errand_tail = o;
    s->errand_tail = &o->next_errand;
    pthread_cond_signal(&s->errand_cond);
}

bool http_ready_locked(struct http_store *s, struct http_object *o, uint64_t now_ns)
{
    const struct ps_http_origin_ops *ops = s->origin->ops;
    expire_place_locked(o, now_ns);
    if (!ops->ready)
        return true;
    enum ps_http_ready ready = ops->ready(s->origin, o->name, &o->place, now_ns);
    if (ready == PS_HTTP_WAIT || (ready == PS_HTTP_RENEW && now_ns >= o->renew_after_ns))
        queue_errand_locked(s, o);
    return ready != PS_HTTP_WAIT;
}

void http_prepare_locked(struct http_store *s, struct http_job *j)
{
    j->state = HTTP_PREPARING;
    j->next = s->preparing;
    s->preparing = j;
}

static struct http_object *errand_pop(struct http_store *s)
{
    struct http_object *o = NULL;
    pthread_mutex_lock(&s->lock);
    while (!o && !s->closing) {
        o = s->errand_head;
        if (!o) {
            pthread_cond_wait(&s->errand_cond, &s->lock);
            continue;
        }
        s->errand_head = o->next_errand;
        if (!s->errand_head)
            s->errand_tail = &s->errand_head;
        o->errand = HTTP_ERRAND_RUNNING;
    }
    pthread_mutex_unlock(&s->lock);
    return o;
}

/* An errand for another object may have brought what this one needs too. */
static bool still_needed(struct http_store *s, struct http_object *o)
{
    pthread_mutex_lock(&s->lock);
    uint64_t now_ns = ps_now_ns();
    expire_place_locked(o, now_ns);
    bool needed = s->origin->ops->ready(s->origin, o->name, &o->place, now_ns) != PS_HTTP_READY;
    pthread_mutex_unlock(&s->lock);
    return needed;
}

static void keep_place_locked(struct http_object *o, struct ps_http_errand *e)
{
    if (!o->total)
        o->total = e->object_bytes;
    if (e->new_tags)
        o->etag[0] = o->last_modified[0] = '\0';
    if (!e->place.known)
        return;
    ps_uri_deinit(&o->place.uri);
    o->place = e->place;
}

/* Takes the jobs that can go on out of the list, or, with `o`, those of this object. */
static struct http_job *take_preparing_locked(struct http_store *s, const struct http_object *o,
                                              uint64_t now_ns)
{
    struct http_job **link = &s->preparing, *taken = NULL;
    while (*link) {
        struct http_job *j = *link;
        bool take = o ? j->obj == o : http_ready_locked(s, j->obj, now_ns);
        if (!take) {
            link = &j->next;
            continue;
        }
        *link = j->next;
        j->next = taken;
        taken = j;
    }
    return taken;
}

static struct http_job *finish_errand_locked(struct http_store *s, struct http_object *o, int rc,
                                             struct ps_http_errand *e)
{
    uint64_t now_ns = ps_now_ns();
    struct http_job *next, *failed = NULL;
    o->errand = HTTP_ERRAND_NONE;
    keep_place_locked(o, e);
    if (rc != 0) {
        o->renew_after_ns = now_ns + RENEW_AGAIN_NS;
        failed = take_preparing_locked(s, o, now_ns);
        for (struct http_job *j = failed; j; j = j->next) {
            j->state = HTTP_ACTIVE; /* ours until http_job_failed: a cancel only marks it */
            j->attempts++;
            if (j->first_ns == 0)
                j->first_ns = e->started_ns;
        }
    }
    for (struct http_job *j = take_preparing_locked(s, NULL, now_ns); j; j = next) {
        next = j->next;
        http_now_waiting_locked(s, j);
    }
    http_wake_all_locked(s);
    return failed;
}

static void run_errand(struct http_store *s, struct http_object *o, uint64_t *random)
{
    struct ps_err err = {0};
    struct ps_http_errand e = {.object = o->name,
                               .stop = &s->stop_errands,
                               .cls = PS_RETRY_FATAL,
                               .started_ns = ps_now_ns()};
    int rc = still_needed(s, o) ? s->origin->ops->prepare(s->origin, &e, &err) : 0;
    struct http_failure f = {.cls = e.cls,
                             .code = rc,
                             .what = err.text[0] ? err.text : "not ready",
                             .retry_after_ns = e.retry_after_ns,
                             .borrowed = true};
    if (rc != 0)
        ps_log(PS_LOG_DEBUG, "fetcher", "%s: %s", o->where, f.what);
    pthread_mutex_lock(&s->lock);
    struct http_job *failed = finish_errand_locked(s, o, rc, &e), *next;
    pthread_mutex_unlock(&s->lock);
    for (struct http_job *j = failed; j; j = next) {
        next = j->next;
        *random = *random * 6364136223846793005u + 1442695040888963407u;
        http_job_failed(s, j, &f, ps_now_ns(), *random >> 8);
    }
}

static void *errand_main(void *arg)
{
    struct http_store *s = arg;
    struct http_object *o;
    uint64_t random = ps_now_ns();
    while ((o = errand_pop(s)) != NULL)
        run_errand(s, o, &random);
    return NULL;
}

int http_errand_start(struct http_store *s, struct ps_err *err)
{
    if (!s->origin->ops->ready)
        return 0;
    unsigned n = s->origin->ops->errand_threads ? s->origin->ops->errand_threads : 2;
    for (; s->n_errand_threads < n && n <= PS_HTTP_ERRANDS_MAX; s->n_errand_threads++)
        if (pthread_create(&s->errand_threads[s->n_errand_threads], NULL, errand_main, s) != 0)
            return ps_err_set(err, PS_EFAIL, ORIGIN,
                              "can't start a thread: raise the limit of threads");
    return 0;
}

void http_errand_stop(struct http_store *s)
{
    atomic_store(&s->stop_errands, true);
    pthread_mutex_lock(&s->lock);
    pthread_cond_broadcast(&s->errand_cond);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->n_errand_threads; i++)
        pthread_join(s->errand_threads[i], NULL);
    s->n_errand_threads = 0;
}
