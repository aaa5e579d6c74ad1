/* A net thread: owns one CURLM and the transfers in it. Comes in: batches from the queue. Goes
 * out: bytes in the callers' buffers (http_transfer.c). It sleeps in curl_multi_poll and is
 * woken by curl_multi_wakeup, the one libcurl call that other threads may make. No transfer is
 * ever paused (libcurl 7.88 stalls paused HTTP/2 streams): back-pressure is not starting the
 * next one. */
#include "fetcher/http_internal.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"

#define ORIGIN "fetcher"
#define HEALTH_CHECK_NS                                                                            \
    PS_NS_PER_S /* an overdue transfer that still moves is looked at this often */

uint64_t http_random(struct http_net *n)
{
    uint64_t x = n->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return n->random = x;
}

struct http_transfer *http_net_free_slot(struct http_net *n)
{
    for (unsigned i = 0; i < n->slots; i++)
        if (!n->transfers[i].live)
            return &n->transfers[i];
    return NULL;
}

/* Starts what may be started: what a layer waits for, then the earliest. */
static void fill(struct http_net *n)
{
    struct http_transfer *t;
    if (n->hedge_due)
        http_hedge_look(n, ps_now_ns());
    while ((t = http_net_free_slot(n)) != NULL && http_take_batch(n->store, t, ps_now_ns()))
        http_transfer_begin(t);
}

/* Ends the transfers that libcurl is through with. */
static bool reap(struct http_net *n)
{
    bool any = false;
    int left;
    CURLMsg *m;
    while ((m = curl_multi_info_read(n->multi, &left)) != NULL) {
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode rc = m->data.result; /* the message dies with the removal */
        struct http_transfer *t = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        curl_multi_remove_handle(n->multi, t->easy);
        http_transfer_end(t, rc, NULL);
        any = true;
    }
    return any;
}

static bool all_cancelled(struct http_store *s, const struct http_transfer *t, bool *closing)
{
    bool all = true;
    pthread_mutex_lock(&s->lock);
    for (const struct http_job *j = t->jobs; j && all; j = j->next)
        all = j->cancelled;
    *closing = s->closing;
    pthread_mutex_unlock(&s->lock);
    return all && t->jobs;
}

uint64_t http_round_ns(const struct http_store *s)
{
    const uint64_t limit = ps_rate_limit_bytes_per_s(s->opt.limit);
    const double bytes =
        (double)ps_rate_limit_socket_bytes(s->opt.limit, s->opt.connections) * s->opt.connections;
    return limit ? (uint64_t)(bytes * 1e9 / (double)limit) : 0;
}

/* Longest silence of a transfer. Under a rate limit its turn to be read comes only so often. */
static uint64_t silence_ns(const struct http_store *s)
{
    const uint64_t extra_ns = s->opt.limit ? 2 * (http_round_ns(s) + PS_NS_PER_S) : 0;
    return s->opt.net_stall_s * PS_NS_PER_S + extra_ns;
}

/* Below this a transfer at its deadline counts as stuck; not so where the user wants it slow. */
static uint64_t trickle_bytes_s(const struct http_store *s)
{
    uint64_t limit = ps_rate_limit_bytes_per_s(s->opt.limit) / s->opt.connections / 4;
    return limit && limit < PS_RETRY_TRICKLE_BYTES_PER_S ? limit : PS_RETRY_TRICKLE_BYTES_PER_S;
}

/* Why a transfer has to stop now, or NULL. */
static const struct http_failure *reason_to_cut(struct http_store *s, const struct http_transfer *t,
                                                uint64_t now_ns)
{
    static const struct http_failure withdrawn = {.cls = PS_RETRY_FATAL,
                                                  .code = PS_ECANCELLED,
                                                  .what = "cancelled",
                                                  .hint = "the request was withdrawn"};
    static const struct http_failure stalled = {.cls = PS_RETRY_TRANSPORT,
                                                .code = PS_ENET,
                                                .what = "connection stalled",
                                                .hint = "check the network, or raise --net-stall"};
    static const struct http_failure overdue = {.cls = PS_RETRY_TRANSPORT,
                                                .code = PS_ENET,
                                                .what = "no success within the deadline",
                                                .hint = "check the server, or raise --net-deadline",
                                                .deadline = true};
    bool closing;
    if (t->lost)
        return &http_superseded;
    if (all_cancelled(s, t, &closing) || closing)
        return &withdrawn;
    if (now_ns - t->last_ns >= silence_ns(s))
        return &stalled;
    if (t->jobs && ps_retry_overdue(now_ns - t->jobs->first_ns, http_job_deadline_ns(s, t->jobs),
                                    now_ns - t->started_ns, t->body_bytes, trickle_bytes_s(s)))
        return &overdue;
    return NULL;
}

/* Cuts what has stalled, is overdue or no longer wanted. Returns when to look again. */
static uint64_t police(struct http_net *n)
{
    struct http_store *s = n->store;
    uint64_t now_ns = ps_now_ns(), next = UINT64_MAX;
    for (unsigned i = 0; i < n->slots; i++) {
        struct http_transfer *t = &n->transfers[i];
        if (!t->live)
            continue;
        const struct http_failure *why = reason_to_cut(s, t, now_ns);
        if (why) {
            if (why == &http_superseded)
                http_conn_abandon(t); /* what is left of its reply is on its way */
            curl_multi_remove_handle(n->multi, t->easy);
            http_transfer_end(t, CURLE_ABORTED_BY_CALLBACK, why);
            next = now_ns; /* a slot came free */
            continue;
        }
        uint64_t at = t->last_ns + silence_ns(s);
        uint64_t due = t->jobs ? t->jobs->first_ns + http_job_deadline_ns(s, t->jobs) : at;
        if (due <= now_ns)
            due = now_ns + HEALTH_CHECK_NS;
        if (due < at)
            at = due;
        if (at < next)
            next = at;
    }
    uint64_t pace_ns = http_pace_look(n, now_ns), hedge_ns = http_hedge_look(n, now_ns);
    next = pace_ns < next ? pace_ns : next;
    return hedge_ns < next ? hedge_ns : next;
}

static bool finished(struct http_net *n)
{
    pthread_mutex_lock(&n->store->lock);
    bool end = n->store->closing && n->active == 0;
    pthread_mutex_unlock(&n->store->lock);
    return end;
}

static int sleep_ms(uint64_t until_ns)
{
    const uint64_t longest = 3600 * PS_NS_PER_S;
    uint64_t now_ns = ps_now_ns();
    uint64_t ns = until_ns > now_ns ? until_ns - now_ns : 0;
    if (ns > longest)
        ns = longest;
    return (int)((ns + 999999) / 1000000);
}

/* Sleeps until there is something to read or to do. While the rate limit is in debt nothing is read: the senders'
 * windows fill up, and TCP slows them down. */
static void wait_for_work(struct http_net *n, uint64_t until_ns, uint64_t rest_ns)
{
    if (rest_ns == 0)
        curl_multi_poll(n->multi, NULL, 0, sleep_ms(until_ns), NULL);
    else
        curl_multi_poll(n->rest, NULL, 0, sleep_ms(rest_ns < until_ns ? rest_ns : until_ns), NULL);
}

/* Until when the rate limit forbids to read; 0: it does not. */
static uint64_t rest_until_ns(struct http_net *n)
{
    uint64_t ready_ns = n->rest ? ps_rate_limit_ready_ns(n->store->opt.limit) : 0;
    return ready_ns > ps_now_ns() ? ready_ns : 0;
}

static void *net_main(void *arg)
{
    struct http_net *n = arg;
    for (;;) {
        int running;
        fill(n);
        if (rest_until_ns(n) == 0)
            curl_multi_perform(n->multi, &running);
        bool reaped = reap(n);
        uint64_t next = police(n);
        if (finished(n))
            break;
        if (reaped)
            continue; /* a slot came free: start the next before sleeping */
        uint64_t start = http_next_start_ns(n->store);
        if (start < next)
            next = start;
        wait_for_work(n, next, rest_until_ns(n));
    }
    return NULL;
}

static void multi_options(struct http_net *n)
{
    const struct ps_store_options *opt = &n->store->opt;
    bool h2 = opt->http == PS_HTTP_2;
    /* One HTTP version per multi: mixing them on one host breaks 7.88.1. HTTP/2 is sharded, one
     * stream per connection: a single connection is slower for bulk than several
     * (facts-stores.md section 3). */
    curl_multi_setopt(n->multi, CURLMOPT_PIPELINING, h2 ? CURLPIPE_MULTIPLEX : CURLPIPE_NOTHING);
    if (h2)
        curl_multi_setopt(n->multi, CURLMOPT_MAX_CONCURRENT_STREAMS, 1L);
    curl_multi_setopt(n->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)n->slots);
    curl_multi_setopt(n->multi, CURLMOPT_MAXCONNECTS, 2L * (long)n->slots);
}

int http_net_start(struct http_store *s, struct http_net *n, unsigned slots, struct ps_err *err)
{
    n->store = s;
    n->slots = slots;
    n->random = ps_now_ns() ^ ((uint64_t)(uintptr_t)n << 20) ^ 0x9e3779b97f4a7c15ull;
    n->multi = curl_multi_init();
    n->rest = s->opt.limit ? curl_multi_init() : NULL;
    n->transfers = ps_calloc(slots, sizeof *n->transfers);
    n->conns = ps_calloc(2 * (size_t)slots, sizeof *n->conns);
    if (!n->multi || !n->transfers || !n->conns || (s->opt.limit && !n->rest))
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    multi_options(n);
    for (unsigned i = 0; i < slots; i++) {
        int rc = http_transfer_init(&n->transfers[i], n, err);
        if (rc != 0)
            return rc;
    }
    if (pthread_create(&n->thread, NULL, net_main, n) != 0)
        return ps_err_set(err, PS_EFAIL, ORIGIN, "can't start a thread: raise the limit of threads");
    n->started = true;
    return 0;
}

void http_net_join(struct http_net *n)
{
    if (n->started)
        pthread_join(n->thread, NULL);
}

void http_net_deinit(struct http_net *n)
{
    for (unsigned i = 0; n->transfers && i < n->slots; i++)
        http_transfer_deinit(&n->transfers[i]);
    ps_free(n->transfers);
    ps_free(n->conns);
    if (n->rest)
        curl_multi_cleanup(n->rest);
    if (n->multi)
        curl_multi_cleanup(n->multi);
}
