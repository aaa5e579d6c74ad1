/* Blocking work side by side. Comes in: numbered tasks. Goes out: the first failure, or none. */
#include "proto/parallel.h"

#include <pthread.h>
#include <stdbool.h>

struct crew {
    int (*fn)(void *user, uint32_t i, struct ps_err *err);
    void *user;
    uint32_t n;
    pthread_mutex_t lock;
    uint32_t next;      /* lock */
    int rc;             /* lock: 0 so far */
    uint32_t failed_at; /* lock: which task rc comes from */
    struct ps_err err;  /* lock */
};

/* Takes the next task number; false when there is none or a task has failed. */
static bool take_task(struct crew *c, uint32_t *i)
{
    pthread_mutex_lock(&c->lock);
    bool more = c->rc == 0 && c->next < c->n;
    if (more)
        *i = c->next++;
    pthread_mutex_unlock(&c->lock);
    return more;
}

static void *work(void *user)
{
    struct crew *c = user;
    uint32_t i;
    while (take_task(c, &i)) {
        struct ps_err err = {0};
        int rc = c->fn(c->user, i, &err);
        if (rc == 0)
            continue;
        pthread_mutex_lock(&c->lock);
        if (c->rc == 0 || i < c->failed_at) {
            c->rc = rc;
            c->failed_at = i;
            c->err = err;
        }
        pthread_mutex_unlock(&c->lock);
    }
    return NULL;
}

int ps_parallel(uint32_t n, int (*fn)(void *user, uint32_t i, struct ps_err *err), void *user,
                struct ps_err *err)
{
    struct crew c = {.fn = fn, .user = user, .n = n};
    pthread_t threads[PS_PARALLEL_MAX];
    unsigned started = 0;
    pthread_mutex_init(&c.lock, NULL);
    while (started + 1 < PS_PARALLEL_MAX && started + 1 < n &&
           pthread_create(&threads[started], NULL, work, &c) == 0)
        started++;
    work(&c);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&c.lock);
    if (c.rc != 0 && err)
        *err = c.err;
    return c.rc;
}
