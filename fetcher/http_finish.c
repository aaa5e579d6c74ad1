/* The last step of a range: its hash is checked and the caller told. Comes in: jobs whose bytes
 * are complete or which have failed. Goes out: done(), or once more into the queue after a wrong
 * hash. Threads of their own, because SHA-256 runs at about 1.8 GB/s per core and would take
 * that time from the socket. */
#include "fetcher/http_internal.h"

#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

#define ORIGIN "fetcher"

void http_finish_push_locked(struct http_store *s, struct http_job *j, int rc,
                             const struct ps_err *err)
{
    j->state = HTTP_FINISHING;
    j->rc = rc;
    j->next = NULL;
    if (err)
        j->err = *err;
    else if (rc != 0)
        ps_err_set(&j->err, rc, ORIGIN, "cancelled: %s: the request was withdrawn", j->obj->where);
    else
        j->err.code = 0;
    pthread_mutex_lock(&s->finish_lock);
    *s->finish_tail = j;
    s->finish_tail = &j->next;
    pthread_cond_signal(&s->finish_cond);
    pthread_mutex_unlock(&s->finish_lock);
}

void http_finish_push(struct http_store *s, struct http_job *j, int rc, const struct ps_err *err)
{
    pthread_mutex_lock(&s->lock);
    http_finish_push_locked(s, j, rc, err);
    pthread_mutex_unlock(&s->lock);
}

static struct http_job *finish_pop(struct http_store *s)
{
    pthread_mutex_lock(&s->finish_lock);
    while (!s->finish_head && !s->finish_stop)
        pthread_cond_wait(&s->finish_cond, &s->finish_lock);
    struct http_job *j = s->finish_head;
    if (j) {
        s->finish_head = j->next;
        if (!s->finish_head)
            s->finish_tail = &s->finish_head;
    }
    pthread_mutex_unlock(&s->finish_lock);
    return j;
}

/* Wrong bytes are asked for once more (a proxy may have mangled them), then believed. */
static void refetch(struct http_store *s, struct http_job *j)
{
    struct http_failure wrong = {
        .cls = PS_RETRY_REPLY,
        .code = PS_EDATA,
        .what = "wrong bytes (SHA-256 differs)",
        .hint = "the copy on the server is damaged: compare it with its origin",
    };
    ps_log(PS_LOG_INFO, "fetcher", "wrong bytes: %s: offset %llu, %llu bytes", j->obj->where,
           (unsigned long long)j->r->offset, (unsigned long long)j->r->bytes);
    j->have = 0;
    http_job_failed(s, j, &wrong, ps_now_ns(),
                    0); /* either waits again or comes back here with PS_EDATA */
}

static bool hash_ok(const struct http_job *j)
{
    uint8_t got[PS_SHA256_BYTES];
    if (!j->r->sha256 || j->sink)
        return true;
    ps_sha256_once(j->r->buf, j->r->bytes, got);
    return memcmp(got, j->r->sha256, sizeof got) == 0;
}

static void finish(struct http_store *s, struct http_job *j)
{
    if (j->rc == 0 && !hash_ok(j)) {
        refetch(s, j);
        return;
    }
    struct ps_range *r = j->r;
    int rc = j->rc;
    struct ps_err err = j->err;
    pthread_mutex_lock(&s->lock);
    r->impl = NULL;
    s->live_jobs--;
    if (j->awaited)
        atomic_fetch_sub(&s->n_awaited, 1);
    j->next = s->free_jobs;
    s->free_jobs = j;
    pthread_mutex_unlock(&s->lock);
    r->done(r, rc, rc != 0 ? &err : NULL);
}

static void *finisher_main(void *arg)
{
    struct http_store *s = arg;
    struct http_job *j;
    while ((j = finish_pop(s)) != NULL)
        finish(s, j);
    return NULL;
}

int http_finish_start(struct http_store *s, struct ps_err *err)
{
    for (; s->n_finishers < PS_HTTP_FINISHERS; s->n_finishers++)
        if (pthread_create(&s->finishers[s->n_finishers], NULL, finisher_main, s) != 0)
            return ps_err_set(err, PS_EFAIL, ORIGIN,
                              "can't start a thread: raise the limit of threads");
    return 0;
}

void http_finish_stop(struct http_store *s)
{
    pthread_mutex_lock(&s->finish_lock);
    s->finish_stop = true;
    pthread_cond_broadcast(&s->finish_cond);
    pthread_mutex_unlock(&s->finish_lock);
    for (unsigned i = 0; i < s->n_finishers; i++)
        pthread_join(s->finishers[i], NULL);
    s->n_finishers = 0;
}
