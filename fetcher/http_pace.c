/* Escape from slow connections. Comes in: the transfers of one net thread. Goes out: those that crawl beside their
 * siblings are cut, their connections closed, and what they had not brought waits again at the head of the queue;
 * the next attempt gets a new connection, with a new look-up of the name. The decision is pace.c's. */
#include "fetcher/http_internal.h"

#include "base/clock.h"
#include "base/log.h"

#define LOOK_NS       (PS_NS_PER_S / 10)
#define SIBLINGS_MOST 32u

static bool compares(const struct http_transfer *t)
{
    return t->live && t->jobs && !t->lost;
}

double http_pace_median(const struct http_net *n, const struct http_transfer *t, uint64_t now_ns)
{
    const struct ps_pace *live[SIBLINGS_MOST];
    size_t k = 0;
    for (unsigned i = 0; i < n->slots && k < SIBLINGS_MOST; i++) {
        const struct http_transfer *other = &n->transfers[i];
        if (other != t && other->host == t->host && compares(other))
            live[k++] = &other->pace;
    }
    pthread_mutex_lock(&n->store->lock);
    double median = ps_pace_median(&t->host->pace, live, k, t->host->active, now_ns);
    pthread_mutex_unlock(&n->store->lock);
    return median;
}

/* Not a second request, nor what already has one. Under --net-limit it is we who make connections slow. */
static bool may_escape(const struct http_transfer *t)
{
    return !t->net->store->opt.limit && compares(t) && !t->hedge_of && !t->jobs->hedge;
}

static bool escapes(struct http_transfer *t, double *median, uint64_t now_ns)
{
    struct http_store *s = t->net->store;
    uint64_t missing = t->receiving ? t->to - t->pos : t->to - t->from;
    *median = http_pace_median(t->net, t, now_ns);
    pthread_mutex_lock(&s->lock);
    struct ps_pace_host *h = &t->host->pace;
    bool go = ps_pace_escapes(&t->pace, h, *median, missing, t->jobs->escapes, now_ns);
    if (go) {
        if (t->jobs->escapes > 0)
            ps_pace_escape_helped(h, false);
        ps_pace_escaped(h, now_ns);
    }
    pthread_mutex_unlock(&s->lock);
    return go;
}

static void escape(struct http_transfer *t, double median)
{
    struct http_store *s = t->net->store;
    ps_log(PS_LOG_DEBUG, "fetcher",
           "%s: %.2f MB/s on this connection, %.2f on others: the rest on a new one", t->obj->where,
           (t->pace.recent > 0 ? t->pace.recent : 0) / 1e6, median / 1e6);
    ps_stat_add(&s->stats->escapes, 1);
    http_conn_abandon(t);
    curl_multi_remove_handle(t->net->multi, t->easy);
    http_transfer_end(t, CURLE_ABORTED_BY_CALLBACK, &http_escaped);
}

uint64_t http_pace_look(struct http_net *n, uint64_t now_ns)
{
    bool compared = false, cut = false;
    if (now_ns < n->pace_ns)
        return n->pace_wakes ? n->pace_ns : UINT64_MAX;
    for (unsigned i = 0; i < n->slots; i++)
        if (n->transfers[i].live)
            ps_pace_look(&n->transfers[i].pace, now_ns);
    for (unsigned i = 0; i < n->slots; i++) {
        double median = 0;
        if (may_escape(&n->transfers[i]) && escapes(&n->transfers[i], &median, now_ns)) {
            escape(&n->transfers[i], median);
            cut = true;
        }
        compared = compared || median > 0;
    }
    n->pace_ns = now_ns + LOOK_NS;
    n->pace_wakes = compared; /* else there is nothing to wake up for */
    return cut ? now_ns : compared ? n->pace_ns : UINT64_MAX;
}
