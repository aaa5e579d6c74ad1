/* How old a connection is and what it has carried. Comes in: transfers as they are answered and end. Goes out: a
 * connection that has lived or carried enough is closed behind its present transfer, so that the next one looks
 * the name up again and follows the addresses that are handed out now.
 *
 * libcurl 7.88 names no connections; within one net thread the local port does. */
#include "fetcher/http_internal.h"

#include "base/clock.h"
#include "base/log.h"

/* The record of a port; a new one takes the place of the one that was used longest ago. */
static struct http_conn *record_of(struct http_net *n, long port)
{
    struct http_conn *oldest = &n->conns[0];
    for (unsigned i = 0; i < 2 * n->slots; i++) {
        struct http_conn *c = &n->conns[i];
        if (c->port == port)
            return c;
        if (c->last_ns < oldest->last_ns)
            oldest = c;
    }
    oldest->port = 0;
    return oldest;
}

void http_conn_answered(struct http_transfer *t, uint64_t now_ns)
{
    struct http_net *n = t->net;
    const struct ps_store_options *o = &n->store->opt;
    long port = 0, opened = 0;
    if (t->conn || curl_easy_getinfo(t->easy, CURLINFO_LOCAL_PORT, &port) != CURLE_OK || port == 0)
        return;
    curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &opened);
    struct http_conn *c = record_of(n, port);
    if (opened > 0 || c->port != port) {
        /* Up to a fifth less, so that connections that were opened together do not end together. */
        uint64_t life_ns = o->conn_life_ms * (PS_NS_PER_S / 1000);
        *c = (struct http_conn){.port = port, .born_ns = now_ns};
        c->end_ns = now_ns + life_ns - http_random(n) % (life_ns / 5 + 1);
        ps_stat_add(&n->store->stats->conns_opened, 1);
    }
    c->last_ns = now_ns;
    t->conn = c;
    if (now_ns < c->end_ns && c->bytes < o->conn_life_bytes)
        return;
    ps_log(PS_LOG_DEBUG, "fetcher", "%s: connection retired after %.1f s and %llu MB", t->host->key,
           (double)(now_ns - c->born_ns) / 1e9, (unsigned long long)(c->bytes / 1000000));
    ps_stat_add(&n->store->stats->conns_retired, 1);
    c->port = 0;
    http_conn_abandon(t);
}

void http_conn_carried(struct http_transfer *t, uint64_t bytes)
{
    if (t->conn)
        t->conn->bytes += bytes;
}

void http_conn_abandon(struct http_transfer *t)
{
    curl_easy_setopt(t->easy, CURLOPT_FORBID_REUSE, 1l);
}
