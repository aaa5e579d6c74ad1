/* What is known of each server that the source talks to: its window of requests, and how fast its transfers are.
 * Comes in: where requests go and what became of them. Goes out: whether one more may begin. */
#include "fetcher/http_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

static struct http_host *host_of_locked(struct http_store *s, const struct ps_uri *u)
{
    char key[PS_HTTP_HOST_KEY_BYTES];
    snprintf(key, sizeof key, "%s:%u", u->host ? u->host : "", u->port);
    for (unsigned i = 0; i < s->n_hosts; i++)
        if (strcmp(s->hosts[i].key, key) == 0)
            return &s->hosts[i];
    if (s->n_hosts == PS_HTTP_HOSTS)
        return &s->hosts[PS_HTTP_HOSTS - 1];
    struct http_host *h = &s->hosts[s->n_hosts++];
    memcpy(h->key, key, sizeof key);
    ps_aimd_init(&h->aimd, s->opt.connections);
    return h;
}

bool http_host_open_locked(const struct http_store *s, const struct http_object *o)
{
    const struct http_host *h = o->host ? o->host : s->recent_host;
    return !h || h->active < h->aimd.window;
}

void http_host_enter_locked(struct http_transfer *t)
{
    struct http_host *h = host_of_locked(t->net->store, &t->uri);
    if (t->host)
        t->host->active--;
    h->active++;
    t->host = t->obj->host = t->net->store->recent_host = h;
}

static void tick_locked(struct http_store *s, struct http_host *h, uint64_t now_ns)
{
    unsigned before = h->aimd.window;
    if (!ps_aimd_tick(&h->aimd, atomic_load_explicit(&h->bytes, memory_order_relaxed), h->active,
                      s->waiting.n > 0, now_ns))
        return;
    ps_log(PS_LOG_DEBUG, "fetcher", "%s: %u requests at once (were %u): goodput %.1f MB/s", h->key,
           h->aimd.window, before, h->aimd.bytes_s / 1e6);
}

static void note_window_locked(struct http_store *s, const struct http_host *h)
{
    uint64_t least = ps_stat_get(&s->stats->window_min);
    if (h->aimd.least < h->aimd.max && (least == 0 || h->aimd.least < least))
        atomic_store_explicit(&s->stats->window_min, h->aimd.least, memory_order_relaxed);
}

void http_host_leave_locked(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    if (!t->host)
        return;
    t->host->active--;
    note_window_locked(s, t->host);
    t->host = NULL;
    if (s->n_nets > 1 && s->waiting.n > 0)
        http_wake_locked(s); /* another thread may have found the window full */
}

void http_host_first_byte(struct http_transfer *t, uint64_t now_ns)
{
    struct http_store *s = t->net->store;
    pthread_mutex_lock(&s->lock);
    ps_pace_first_byte(&t->host->pace, now_ns - t->started_ns);
    pthread_mutex_unlock(&s->lock);
}

void http_host_throttled(struct http_transfer *t, uint64_t now_ns)
{
    struct http_store *s = t->net->store;
    pthread_mutex_lock(&s->lock);
    unsigned before = t->host->aimd.window;
    ps_aimd_throttled(&t->host->aimd, t->started_ns, now_ns);
    if (t->host->aimd.window != before)
        ps_log(PS_LOG_DEBUG, "fetcher", "%s: asks for less: %u requests at once (were %u)",
               t->host->key, t->host->aimd.window, before);
    pthread_mutex_unlock(&s->lock);
}

void http_host_succeeded(struct http_transfer *t, uint64_t now_ns)
{
    struct http_store *s = t->net->store;
    pthread_mutex_lock(&s->lock);
    ps_aimd_succeeded(&t->host->aimd);
    if (t->rescue)
        ps_pace_escape_helped(&t->host->pace, true);
    ps_pace_ended(&t->host->pace, &t->pace, t->host->active, now_ns);
    tick_locked(s, t->host, now_ns);
    pthread_mutex_unlock(&s->lock);
}
