/* The first question to every model: its manifest and its config.json. Comes in: a source. Goes out: both outcomes, as
 * soon as they say what the model is, or that there is none to open.
 *
 * They are asked for side by side, and one that has failed for good need not wait for what a server makes of the other
 * (retries go on until the deadline):
 *
 *   manifest came, or is missing       config.json decides: it is waited for
 *   manifest failed                    nothing can come of it: config.json is withdrawn
 *   manifest refused                   stores that hide what they lack answer so too: config.json decides, and has some
 *                                      time. Nearly always it comes as soon as the refusal; what is silent is asked for
 *                                      once more, on another connection
 *   config.json failed, or is missing  no model is without it: the manifest has a moment, then is withdrawn; that
 *                                      moment keeps the error from depending on which of two failures came first */
#include <pthread.h>

#include "base/clock.h"
#include "base/thread.h"
#include "proto/layout_internal.h"
#include "proto/manifest.h"
#include "proto/parallel.h"

/* A moment: as long as the first answer took, which knows how far away the server is, and a second at least. */
#define MOMENT_LEAST_NS PS_NS_PER_S
/* Moments that a refused manifest waits for config.json. The first goes to the first connection. */
#define PATIENCE 5u

struct asking {
    struct ps_roots *r;
    uint64_t began_ns;
    atomic_bool no_manifest, no_config; /* withdrawn */
    pthread_mutex_t lock;
    pthread_cond_t answered;
    /* lock */
    bool manifest_done, config_done;
    bool over; /* config.json is not asked for again */
};

void ps_roots_fetch_manifest(struct ps_roots *r)
{
    ps_fetch(&r->manifest, r->src, PS_MANIFEST_NAME, PS_MANIFEST_MAX_BYTES, NULL);
}

void ps_roots_fetch_config(struct ps_roots *r)
{
    ps_fetch(&r->config, r->src, PS_CONFIG_NAME, PS_CONFIG_MAX_BYTES, NULL);
}

static void drop_config_locked(struct asking *a)
{
    a->over = true;
    atomic_store(&a->no_config, true);
}

static void ask_manifest(struct asking *a)
{
    struct ps_fetched *f = &a->r->manifest;
    ps_fetch(f, a->r->src, PS_MANIFEST_NAME, PS_MANIFEST_MAX_BYTES, &a->no_manifest);
    pthread_mutex_lock(&a->lock);
    a->manifest_done = true;
    if (f->rc != 0 && !ps_fetched_is_missing(f))
        drop_config_locked(a);
    pthread_cond_signal(&a->answered);
    pthread_mutex_unlock(&a->lock);
}

/* True: it was withdrawn only to be asked for again. */
static bool once_more_locked(struct asking *a)
{
    const bool again = a->r->config.rc == PS_ECANCELLED && !a->over && atomic_load(&a->no_config);
    if (again)
        atomic_store(&a->no_config, false);
    return again;
}

static void ask_config(struct asking *a)
{
    struct ps_fetched *f = &a->r->config;
    for (bool again = true; again;) {
        ps_fetch(f, a->r->src, PS_CONFIG_NAME, PS_CONFIG_MAX_BYTES, &a->no_config);
        pthread_mutex_lock(&a->lock);
        again = once_more_locked(a);
        a->config_done = !again;
        pthread_cond_signal(&a->answered);
        pthread_mutex_unlock(&a->lock);
    }
}

/* Lets so much time pass, or less once *done. */
static void give_locked(struct asking *a, const bool *done, uint64_t ns)
{
    const uint64_t until_ns = ps_now_ns() + ns;
    while (!*done && ps_cond_wait_until(&a->answered, &a->lock, until_ns))
        continue;
}

/* Sees to it that one that is late does not hold up the other for ever. */
static void watch(struct asking *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->manifest_done && !a->config_done)
        pthread_cond_wait(&a->answered, &a->lock);
    const uint64_t took_ns = ps_now_ns() - a->began_ns;
    const uint64_t moment_ns = took_ns > MOMENT_LEAST_NS ? took_ns : MOMENT_LEAST_NS;
    if (a->config_done && a->r->config.rc != 0) {
        give_locked(a, &a->manifest_done, moment_ns);
        atomic_store(&a->no_manifest, true);
    } else if (!a->config_done && a->r->manifest.rc == PS_EREFUSED) {
        give_locked(a, &a->config_done, moment_ns);
        atomic_store(&a->no_config, true);
        give_locked(a, &a->config_done, (PATIENCE - 1) * moment_ns);
        drop_config_locked(a);
    }
    pthread_mutex_unlock(&a->lock);
}

static int work(void *user, uint32_t i, struct ps_err *err)
{
    static void (*const parts[])(struct asking *) = {ask_manifest, ask_config, watch};
    (void)err; /* either may be missing */
    parts[i](user);
    return 0;
}

int ps_roots_fetch(struct ps_roots *r, struct ps_err *err)
{
    struct asking a = {.r = r, .began_ns = ps_now_ns()};
    pthread_mutex_init(&a.lock, NULL);
    ps_cond_init(&a.answered);
    int rc = ps_parallel(3, work, &a, err);
    pthread_cond_destroy(&a.answered);
    pthread_mutex_destroy(&a.lock);
    return rc;
}
