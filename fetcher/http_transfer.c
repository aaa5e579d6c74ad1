/* One request from start to end. Comes in: a batch of touching jobs. Goes out: their bytes,
 * scattered straight into the callers' buffers, each job delivered as soon as its last byte is
 * there; or the reason why not. Runs on the net thread that owns the transfer; the store's lock
 * is taken only to read and note what is known of the object. */
#include "fetcher/http_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

#define ORIGIN "fetcher"
#define DRAIN_MAX_BYTES                                                                            \
    (64u << 10) /* an error page up to this size is read, so that its connection lives on */
#define HEADER_MAX_BYTES                                                                           \
    (PS_ACCESS_LINE_MAX + 1)     /* session tokens of AWS reach 2 KB, those of others 6 KB */
#define BUSY_GAP_NS 100000000ull /* a longer silence does not count as a busy link */
#define TARGET_LIFE_S                                                                              \
    300u /* how long a redirect is remembered: signed addresses live for an hour */

/* ---- body ---- */

/* Moves the stamp of the last arrival forward; returns the time since the one before. Net threads
 * may be a little out of step: only the one that moves the stamp counts, so no time counts twice. */
static uint64_t advance_stamp(struct http_store *s, uint64_t now_ns)
{
    uint64_t last = atomic_load_explicit(&s->last_body_ns, memory_order_relaxed);
    while (now_ns > last)
        if (atomic_compare_exchange_weak_explicit(&s->last_body_ns, &last, now_ns,
                                                  memory_order_relaxed, memory_order_relaxed))
            return now_ns - last;
    return 0;
}

/* Time in which bytes were moving: gaps between arrivals, the long ones cut. While we leave sockets unread for the sake
 * of --net-limit the link is in use. */
static void note_arrival(struct http_store *s, uint64_t now_ns)
{
    uint64_t gap = advance_stamp(s, now_ns), longest = BUSY_GAP_NS + http_round_ns(s);
    ps_stat_add(&s->stats->link_busy_ns, gap < longest ? gap : longest);
}

static void deliver_first(struct http_transfer *t)
{
    struct http_job *j = t->jobs;
    t->jobs = j->next;
    t->net->hedge_ns = 0; /* the next one may be awaited already */
    if (http_is_stand_in(t, j)) {
        http_hedge_won(t);
        return;
    }
    if (j->hedge)
        http_hedge_drop(j); /* the first request came first */
    http_finish_push(t->net->store, j, 0, NULL);
}

/* The last job of a reply without a stated length has to wait for the end: only then is it known
 * that no more comes. */
static bool deliverable(const struct http_transfer *t)
{
    return t->jobs->next || t->judge.length_stated;
}

/* Copies n body bytes at t->pos to where they belong. False: more bytes than were announced. */
static bool scatter(struct http_transfer *t, const char *p, size_t n)
{
    while (n > 0) {
        struct http_job *j = t->jobs;
        if (!j || t->pos >= http_job_to(j))
            return false;
        uint64_t room = http_job_to(j) - t->pos;
        size_t take = n < room ? n : (size_t)room;
        memcpy((char *)j->r->buf + (t->pos - j->r->offset), p, take);
        t->pos += take;
        p += take;
        n -= take;
        if (t->pos == http_job_to(j) && deliverable(t))
            deliver_first(t);
    }
    return true;
}

/* Room in the sink for `need` bytes and a NUL; on false the transfer knows why. */
static bool sink_reserve(struct http_transfer *t, struct http_sink *k, uint64_t need)
{
    if (need <= k->cap)
        return true;
    t->no_room = !k->growable || need > k->max;
    if (t->no_room)
        return false;
    uint64_t cap = k->cap * 2 > need ? k->cap * 2 : need;
    if (cap > k->max)
        cap = k->max;
    char *data = ps_realloc(k->data, (size_t)cap + 1);
    t->no_memory = !data;
    if (!data)
        return false;
    k->data = data;
    k->cap = (size_t)cap;
    return true;
}

static bool sink_append(struct http_transfer *t, const char *p, size_t n)
{
    struct http_sink *k = t->jobs->sink;
    if (t->pos + n > t->body_to)
        return false;
    if (!sink_reserve(t, k, k->len + n))
        return false;
    memcpy(k->data + k->len, p, n);
    k->len += n;
    t->pos += n;
    return true;
}

/* The beginning of a page that is not the object, for the origin to read. */
static void keep_page(struct http_transfer *t, const char *p, size_t n)
{
    size_t room = sizeof t->page - t->page_bytes;
    if (n > room)
        n = room;
    memcpy(t->page + t->page_bytes, p, n);
    t->page_bytes += n;
}

static bool over_budget(const struct http_transfer *t)
{
    /* What was reserved is always fine; only a body without a stated length, or a whole object,
     * can go beyond. Where several stores share a limit, the statistics know what all have received. */
    const struct http_store *s = t->net->store;
    return s->opt.max_egress_bytes && (t->body_bytes > t->reserved ||
                                       ps_stat_get(&s->stats->bytes_net) > s->opt.max_egress_bytes);
}

static void note_pace(struct http_transfer *t, size_t n)
{
    if (t->pace.first_ns == 0)
        http_host_first_byte(t, t->last_ns);
    ps_pace_bytes(&t->pace, n, t->last_ns);
    atomic_fetch_add_explicit(&t->host->bytes, n, memory_order_relaxed);
}

static size_t on_body(char *p, size_t size, size_t count, void *user)
{
    struct http_transfer *t = user;
    struct http_store *s = t->net->store;
    size_t n = size * count;
    t->last_ns = ps_now_ns();
    t->body_bytes += n;
    ps_rate_limit_take(s->opt.limit, n, t->last_ns);
    if (t->lost) {
        ps_stat_add(&s->stats->bytes_hedged, n);
        return 0;
    }
    if (!t->hedge_of) /* a second request's bytes are accounted for when it is over */
        ps_stat_add(&s->stats->bytes_net, n);
    /* Error pages, and what follows after everything was delivered (a chunked reply that goes on):
     * read a little so that the connection lives on, but not without end. */
    if (!t->judged || t->judge.verdict != PS_REPLY_ACCEPT || !t->jobs) {
        if (t->judged && t->judge.verdict != PS_REPLY_ACCEPT)
            keep_page(t, p, n);
        t->drained += n;
        return t->drained <= DRAIN_MAX_BYTES ? n : 0;
    }
    note_arrival(s, t->last_ns);
    note_pace(t, n);
    if (over_budget(t)) {
        t->over_budget = true;
        return 0;
    }
    bool ok = t->jobs->sink ? sink_append(t, p, n) : scatter(t, p, n);
    t->overflow = !ok && !t->no_room && !t->no_memory;
    return ok ? n : 0;
}

/* ---- headers ---- */

/* Notes what this reply says of the object. Replies that were under way together are compared
 * here, because none of them was asked with the first one's ETag. Returns false if they are of
 * different versions. */
static bool note_object(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    struct http_object *o = t->obj;
    const struct ps_reply *r = &t->reply;
    bool same = true;
    pthread_mutex_lock(&s->lock);
    if (o->known) {
        if (o->etag[0] && r->etag[0])
            same = strcmp(o->etag, r->etag) == 0;
        if (o->total && t->judge.total)
            same = same && o->total == t->judge.total;
    }
    if (same) {
        if (!o->etag[0] && r->etag[0]) {
            memcpy(o->etag, r->etag, sizeof o->etag);
            o->etag_weak = r->etag_weak;
        }
        if (!o->last_modified[0])
            memcpy(o->last_modified, r->last_modified, sizeof o->last_modified);
        if (!o->total)
            o->total = t->judge.total;
        o->known = true;
    }
    pthread_mutex_unlock(&s->lock);
    return same;
}

static bool is_set(const char *name)
{
    const char *v = getenv(name);
    return v && *v;
}

/* Is anything sent through a proxy? Then the address connected to says nothing of the server. */
static bool uses_proxy(void)
{
    return is_set("http_proxy") || is_set("https_proxy") || is_set("HTTPS_PROXY") ||
           is_set("all_proxy") || is_set("ALL_PROXY");
}

/* Is every address of http and https, once NO_PROXY is left out of it? */
static bool only_through_proxy(void)
{
    return is_set("all_proxy") || is_set("ALL_PROXY") ||
           (is_set("http_proxy") && (is_set("https_proxy") || is_set("HTTPS_PROXY")));
}

/* How far away the model's own server is: what it names must not be closer. */
static void note_peer(struct http_transfer *t)
{
    _Atomic unsigned *closest = t->net->store->opt.peer_space;
    char *ip = NULL;
    if (!closest || !t->trusted || uses_proxy() ||
        curl_easy_getinfo(t->easy, CURLINFO_PRIMARY_IP, &ip) != CURLE_OK || !ip || !*ip)
        return;
    unsigned space = ps_net_space_of_host(ip), was = atomic_load(closest);
    if (was == PS_SPACE_ANY || space < was)
        atomic_store(closest, space);
}

/* A target reached over redirects is remembered with the object. */
static void note_target(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    struct ps_uri copy;
    if (t->hops == 0 || t->target_life_s == 0 || ps_uri_copy(&copy, &t->uri, NULL) != 0)
        return;
    struct ps_http_place *p = &t->obj->place;
    pthread_mutex_lock(&s->lock);
    ps_uri_deinit(&p->uri);
    *p = (struct ps_http_place){.known = true,
                                .uri = copy,
                                .home = t->trusted,
                                .until_ns = ps_now_ns() + t->target_life_s * PS_NS_PER_S};
    pthread_mutex_unlock(&s->lock);
}

/* A 200 may be larger than what was reserved of the egress budget. */
static bool reserve_more(struct http_transfer *t, uint64_t bytes)
{
    struct http_store *s = t->net->store;
    bool ok = true;
    if (bytes <= t->reserved)
        return true;
    pthread_mutex_lock(&s->lock);
    uint64_t more = bytes - t->reserved, max = s->opt.max_egress_bytes;
    if (max && s->egress_used + s->egress_in_flight + more > max)
        ok = false;
    else {
        s->egress_in_flight += more;
        t->reserved = bytes;
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

static bool prepare_sink(struct http_transfer *t, struct http_sink *k)
{
    if (t->judge.from == 0 && t->from != 0)
        k->len = 0; /* the whole came in place of a tail */
    k->total = t->judge.total;
    return t->body_to == UINT64_MAX || sink_reserve(t, k, t->body_to);
}

/* Makes ready for an accepted body. False: stop the transfer. */
static bool accept_body(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    if (!note_object(t)) {
        t->judge = (struct ps_judgement){.verdict = PS_REPLY_REFUSE,
                                         .cls = PS_RETRY_FATAL,
                                         .code = PS_EDATA,
                                         .what = "object changed under way",
                                         .hint = "start again to use the new version",
                                         .stop_now = true};
        return false;
    }
    note_target(t);
    note_peer(t);
    t->pos = t->judge.from;
    t->body_to = t->judge.to;
    if (t->body_to != UINT64_MAX && !reserve_more(t, t->body_to - t->pos)) {
        t->over_budget = true;
        return false;
    }
    if (t->jobs->sink && !prepare_sink(t, t->jobs->sink))
        return false;
    t->receiving = true;
    if (atomic_fetch_add_explicit(&s->receiving, 1, memory_order_relaxed) == 0)
        advance_stamp(s, t->last_ns); /* the silence before does not count */
    return true;
}

/* All headers are here. False: stop the transfer. */
static bool judge(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    const struct http_sink *k = t->jobs->sink;
    struct ps_ask ask = {
        .from = t->from,
        .to = t->to,
        .open_end = k != NULL,
        .whole_max = k ? k->max : 0,
        .object_bytes = t->ask_object_bytes,
        .etag = t->ask_etag,
        .last_modified = t->ask_modified,
    };
    t->judged = true;
    t->judge = ps_reply_judge(&t->reply, &ask);
    pthread_mutex_lock(&s->lock);
    s->host_seen = true;
    pthread_mutex_unlock(&s->lock);
    if (t->judge.verdict == PS_REPLY_ACCEPT)
        return accept_body(t);
    if (t->judge.verdict == PS_REPLY_EMPTY)
        note_object(t); /* for its ETag */
    return !t->judge.stop_now;
}

/* Keeps the value of a header that the origin asked for. */
static void see_header(struct http_transfer *t, const char *line, size_t n)
{
    const char *const *names = t->net->store->origin->ops->headers;
    if (n > 5 && memcmp(line, "HTTP/", 5) == 0)
        memset(t->seen, 0, sizeof t->seen); /* another reply: the one after a 1xx */
    for (size_t i = 0; names && i < PS_HTTP_ORIGIN_HEADERS && names[i]; i++) {
        size_t k = strlen(names[i]);
        if (n <= k || line[k] != ':' || strncasecmp(line, names[i], k) != 0)
            continue;
        const char *p = line + k + 1, *end = line + n;
        while (p < end && (*p == ' ' || *p == '\t'))
            p++;
        while (end > p && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
            end--;
        if ((size_t)(end - p) >= sizeof t->seen[i] || memchr(p, '\0', (size_t)(end - p)))
            end = p;
        memcpy(t->seen[i], p, (size_t)(end - p));
        t->seen[i][end - p] = '\0';
    }
}

static size_t on_header(char *line, size_t size, size_t count, void *user)
{
    struct http_transfer *t = user;
    size_t n = size * count;
    t->last_ns = ps_now_ns();
    if (t->lost)
        return 0;
    http_conn_answered(t, t->last_ns);
    atomic_store_explicit(&t->host->answered, true, memory_order_relaxed);
    if (!t->judged)
        see_header(t, line, n);
    ps_reply_line(&t->reply, line, n, ps_wall_s());
    if (t->reply.complete && t->reply.status >= 200 && !t->judged && !judge(t))
        return 0;
    return n;
}

/* ---- begin ---- */

static const struct http_failure no_address = {.cls = PS_RETRY_FATAL,
                                               .code = PS_EDATA,
                                               .what = "no address for this object",
                                               .hint = "its name is too long"};

/* What a name resolves to is known only here: the address that was checked is the one that is connected to. Who asks
 * through a proxy leaves that to the proxy; fixed_options() then lets nothing go past it. */
static curl_socket_t open_allowed(void *user, curlsocktype purpose, struct curl_sockaddr *a)
{
    const struct http_store *s = user;
    (void)purpose;
    enum ps_net_space least = s->opt.least_space;
    if (least > PS_SPACE_LOOPBACK && only_through_proxy())
        least = PS_SPACE_LOOPBACK; /* the proxy's own address */
    if (!ps_net_space_allowed(ps_net_space_of(&a->addr), least)) {
        ps_log(PS_LOG_WARN, "fetcher", "%s: its address is not one that a list of mirrors may name",
               s->base.label);
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* Under a rate limit little is to lie in the socket: what is there has crossed the link already. */
static int on_socket(void *user, curl_socket_t fd, curlsocktype purpose)
{
    const struct http_store *s = user;
    int bytes = ps_rate_limit_socket_bytes(s->opt.limit, s->opt.connections);
    if (bytes > 0 && purpose == CURLSOCKTYPE_IPCXN)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    return CURL_SOCKOPT_OK;
}

static void fixed_options(struct http_transfer *t)
{
    const struct http_store *s = t->net->store;
    CURL *e = t->easy;
    curl_easy_setopt(e, CURLOPT_PRIVATE, t);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->curl_text);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS,
                     1l); /* a proxy's CONNECT reply is not the object's */
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1l);
    /* Names are looked up on threads of libcurl's. Without this, whoever gives a transfer up waits for that thread: ten
     * seconds and more where a name server is silent, with every socket of this net thread left alone. */
    curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1l);
    curl_easy_setopt(e, CURLOPT_BUFFERSIZE,
                     ps_rate_limit_read_bytes(s->opt.limit, s->opt.connections,
                                              PS_HTTP_RECEIVE_BUFFER_BYTES));
    curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1l);
    /* Addresses are shuffled when a name is looked up, and the result is used for all connections while it is
     * remembered: not at all, so that they spread over the addresses and follow their changes. */
    curl_easy_setopt(e, CURLOPT_DNS_SHUFFLE_ADDRESSES, 1l);
    curl_easy_setopt(e, CURLOPT_DNS_CACHE_TIMEOUT, 0l);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "penstock/0.1");
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1l);     /* what was signed is what is sent */
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0l); /* ours: credentials stay with their host */
    curl_easy_setopt(e, CURLOPT_HTTP_CONTENT_DECODING, 0l);
    curl_easy_setopt(e, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, (long)s->opt.connect_timeout_s);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION,
                     (long)(s->opt.http == PS_HTTP_2 ? CURL_HTTP_VERSION_2TLS
                                                     : CURL_HTTP_VERSION_1_1));
    if (s->opt.limit) {
        curl_easy_setopt(e, CURLOPT_SOCKOPTFUNCTION, on_socket);
        curl_easy_setopt(e, CURLOPT_SOCKOPTDATA, (void *)t->net->store);
    }
    if (s->ca_file)
        curl_easy_setopt(e, CURLOPT_CAINFO, s->ca_file);
    /* else OpenSSL would ask for it on the terminal */
    curl_easy_setopt(e, CURLOPT_KEYPASSWD, "");
    http_watch_handshakes(t);
    if (s->ca_dir)
        curl_easy_setopt(e, CURLOPT_CAPATH, s->ca_dir);
    if (s->opt.least_space != PS_SPACE_ANY) {
        curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, open_allowed);
        curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, (void *)s);
        if (s->opt.least_space > PS_SPACE_LOOPBACK && only_through_proxy())
            curl_easy_setopt(e, CURLOPT_NOPROXY, "");
    }
}

int http_transfer_init(struct http_transfer *t, struct http_net *n, struct ps_err *err)
{
    t->net = n;
    t->easy = curl_easy_init();
    if (!t->easy)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    fixed_options(t);
    return 0;
}

static void drop_headers(struct http_transfer *t)
{
    curl_slist_free_all(t->headers.list);
    t->headers = (struct ps_http_headers){0};
}

void http_transfer_deinit(struct http_transfer *t)
{
    if (t->easy)
        curl_easy_cleanup(t->easy);
    t->easy = NULL;
    drop_headers(t);
    ps_uri_deinit(&t->uri);
}

void ps_http_headers_add(struct ps_http_headers *h, const char *fmt, ...)
{
    char line[HEADER_MAX_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    struct curl_slist *more = NULL;
    if (n > 0 && (size_t)n < sizeof line)
        more = curl_slist_append(h->list, line);
    if (more)
        h->list = more;
    else
        h->failed = true;
}

static bool set_login(struct http_transfer *t, const struct ps_http_request *q)
{
    return curl_easy_setopt(t->easy, CURLOPT_USERNAME, q->user) == CURLE_OK &&
           curl_easy_setopt(t->easy, CURLOPT_PASSWORD, q->password) == CURLE_OK;
}

/* Of the client: shown to the origin alone. Where a redirect leads, neither goes along. */
static bool set_certificate(struct http_transfer *t, const struct ps_http_request *q)
{
    const char *key = q->key_file ? q->key_file : q->cert_file;
    return curl_easy_setopt(t->easy, CURLOPT_SSLCERT, q->cert_file) == CURLE_OK &&
           curl_easy_setopt(t->easy, CURLOPT_SSLKEY, key) == CURLE_OK;
}

static bool sign(struct http_transfer *t)
{
    struct ps_http_origin *o = t->net->store->origin;
    struct ps_http_request q = {.method = "GET",
                                .object = t->obj->name,
                                .uri = &t->uri,
                                .from = t->from,
                                .to = t->to,
                                .home = t->trusted,
                                .headers = &t->headers};
    if (o->ops->sign && o->ops->sign(o, &q) != 0)
        return false;
    t->ticket = q.ticket;
    return set_login(t, &q) && set_certificate(t, &q);
}

static bool set_headers(struct http_transfer *t)
{
    drop_headers(t);
    ps_http_headers_add(&t->headers, "Accept-Encoding: identity");
    if (t->ask_strong)
        ps_http_headers_add(&t->headers, "If-Match: %s", t->ask_etag);
    return sign(t) && !t->headers.failed &&
           curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers.list) == CURLE_OK;
}

static bool set_address(struct http_transfer *t)
{
    char range[48];
    char *url = ps_uri_request(&t->uri);
    if (!url)
        return false;
    bool ok = curl_easy_setopt(t->easy, CURLOPT_URL, url) == CURLE_OK;
    ps_free(url);
    snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)t->from,
             (unsigned long long)(t->to - 1));
    return ok && curl_easy_setopt(t->easy, CURLOPT_RANGE, range) == CURLE_OK;
}

static void count_request(struct http_store *s, uint64_t now_ns)
{
    uint64_t none = 0;
    ps_stat_add(&s->stats->requests, 1);
    atomic_compare_exchange_strong(&s->stats->first_request_ns, &none, now_ns);
}

static void release(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    t->live = false;
    t->conn = NULL;
    pthread_mutex_lock(&s->lock);
    t->net->active--;
    http_host_leave_locked(t);
    pthread_mutex_unlock(&s->lock);
}

/* One delay for all of them, so that what was asked for together is asked for together again. */
static void fail_jobs(struct http_transfer *t, const struct http_failure *why)
{
    struct http_failure own = *why;
    const struct http_failure *f = &own;
    own.host = t->host; /* the object's may be another request's by now */
    own.started_ns = t->started_ns;
    uint64_t now_ns = ps_now_ns(), random = http_random(t->net);
    while (t->jobs) {
        struct http_job *j = t->jobs;
        t->jobs = j->next;
        if (http_is_stand_in(t, j)) {
            http_hedge_failed(t);
            continue;
        }
        if (j->hedge && (f->cls == PS_RETRY_FATAL || f->cls == PS_RETRY_REPLY))
            http_hedge_drop(j);
        if (!http_hedge_takes_over(t, j))
            http_job_failed(t->net->store, j, f, now_ns, random);
    }
}

bool http_transfer_begin(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    t->started_ns = t->last_ns = ps_now_ns();
    t->asked_certificate = t->judged = t->receiving = t->overflow = t->over_budget = t->no_room =
        false;
    t->drained = t->page_bytes = 0;
    t->curl_text[0] = '\0';
    memset(t->seen, 0, sizeof t->seen);
    ps_reply_init(&t->reply);
    ps_pace_begin(&t->pace, t->started_ns);
    t->conn = NULL;
    curl_easy_setopt(t->easy, CURLOPT_FORBID_REUSE, 0l);
    /* What was taken off a slow connection does not go back to one that happens to be idle. */
    t->rescue = t->jobs && t->jobs->escapes > 0;
    curl_easy_setopt(t->easy, CURLOPT_FRESH_CONNECT, (long)t->rescue);
    bool ok = !t->no_memory && !t->no_address && set_headers(t) && set_address(t) &&
              curl_multi_add_handle(t->net->multi, t->easy) == CURLM_OK;
    const struct http_failure *why = t->no_address ? &no_address : &http_out_of_memory;
    t->no_memory = t->no_address = false;
    t->live = ok;
    if (ok) {
        count_request(s, t->started_ns);
        return true;
    }
    http_settle_egress(s, t);
    fail_jobs(t, why);
    release(t);
    return false;
}

/* ---- end ---- */

static const struct http_failure too_long = {.cls = PS_RETRY_REPLY,
                                             .code = PS_EDATA,
                                             .what = "server sent more bytes than asked for",
                                             .hint =
                                                 "check the server or the proxy in front of it"};
static const struct http_failure ignores_range = {
    .cls = PS_RETRY_FATAL,
    .code = PS_EREFUSED,
    .what = "server ignores Range",
    .hint = "use a server that answers range requests with 206"};
static const struct http_failure no_budget = {.cls = PS_RETRY_FATAL,
                                              .code = PS_EBUDGET,
                                              .what = "egress limit reached",
                                              .hint = "raise --max-egress or use a mirror"};
static const struct http_failure sink_full = {.cls = PS_RETRY_FATAL,
                                              .code = PS_EDATA,
                                              .what = "object is larger than allowed",
                                              .hint = "it is not the file that was expected"};

static struct http_failure judged_failure(const struct http_transfer *t)
{
    return (struct http_failure){.cls = t->judge.cls,
                                 .code = t->judge.code,
                                 .what = t->judge.what,
                                 .hint = t->judge.hint,
                                 .retry_after_ns = t->reply.retry_after_ns};
}

/* Is the accepted body complete? For a sink without a stated end, the end of the reply is the
 * end. */
static bool body_complete(const struct http_transfer *t)
{
    if (t->jobs && t->jobs->sink)
        return t->body_to == UINT64_MAX || t->pos == t->body_to;
    return t->pos == t->to;
}

/* Decides what failed; false: nothing did. */
static bool failure_of(struct http_transfer *t, CURLcode rc, struct http_failure *f)
{
    bool accepted = t->judged && t->judge.verdict == PS_REPLY_ACCEPT;
    if (t->over_budget)
        *f = no_budget;
    else if (t->no_memory)
        *f = http_out_of_memory;
    else if (t->no_room)
        *f = t->reply.status == 200 && !t->jobs->sink->growable ? ignores_range : sink_full;
    else if (t->judged && t->judge.verdict == PS_REPLY_REFUSE)
        *f = judged_failure(t);
    else if (t->overflow)
        *f = t->reply.status == 200 ? ignores_range : too_long;
    else if (t->judged && t->judge.verdict == PS_REPLY_EMPTY)
        return false;
    else if (rc != CURLE_OK)
        *f = http_failure_of(t, rc);
    else if (!accepted || !body_complete(t))
        *f = http_cut_short;
    else
        return false;
    return true;
}

/* The same for get and head. What lies below r->offset was there before and stays. */
static void keep_sink_progress(struct http_job *j, const struct http_failure *f)
{
    struct http_sink *k = j->sink;
    uint64_t had = j->have;
    bool usable = f->cls != PS_RETRY_REPLY && k->len > j->r->offset && k->len < http_job_to(j);
    j->have = usable ? k->len - j->r->offset : 0;
    k->len = (size_t)(j->r->offset + j->have);
    if (j->have > had)
        j->failures = 0, j->unreached_ns = 0;
}

/* Credits the bytes that did arrive to the job that was being received, so that only its tail is
 * asked for again. */
static void keep_progress(struct http_transfer *t, const struct http_failure *f)
{
    struct http_job *j = t->jobs;
    if (!j || !t->judged || t->judge.verdict != PS_REPLY_ACCEPT)
        return;
    if (j->sink) {
        keep_sink_progress(j, f);
        return;
    }
    /* A reply that breaks the rules is not trusted with a part either; and a complete job
     * without its end of reply neither. */
    if (f->cls == PS_RETRY_REPLY || t->pos >= http_job_to(j)) {
        j->have = 0;
        return;
    }
    if (t->pos > http_job_from(j))
        j->have = t->pos - j->r->offset;
    if (t->pos > t->from) /* the request as a whole got on */
        for (; j; j = j->next)
            j->failures = 0, j->unreached_ns = 0;
}

static struct ps_http_answer answer_of(const struct http_transfer *t)
{
    return (struct ps_http_answer){.status = t->reply.status,
                                   .object = t->obj->name,
                                   .home = t->trusted,
                                   .ticket = t->ticket,
                                   .headers = t->seen,
                                   .body = t->page,
                                   .body_bytes = t->page_bytes,
                                   .wall_s = ps_wall_s(),
                                   .cures = t->cures + t->jobs->cures};
}

/* Follows a redirect with the same jobs. False: *f says why not. */
static bool follow(struct http_transfer *t, struct http_failure *f, struct ps_err *detail)
{
    struct ps_uri next;
    *f = (struct http_failure){.cls = PS_RETRY_FATAL,
                               .code = PS_EREFUSED,
                               .what = "too many redirects",
                               .hint = "check the address for a loop"};
    if (++t->hops > PS_HTTP_MAX_HOPS)
        return false;
    int rc = ps_uri_resolve(&next, &t->uri, t->reply.location, detail);
    if (rc != 0) {
        *f = (struct http_failure){.cls = PS_RETRY_FATAL,
                                   .code = rc,
                                   .what = detail->text,
                                   .hint = "redirect not followed"};
        return false;
    }
    struct ps_http_origin *o = t->net->store->origin;
    const struct ps_http_answer a = answer_of(t);
    t->target_life_s = o->ops->redirected ? o->ops->redirected(o, &a, &next) : TARGET_LIFE_S;
    /* Once credentials have been left behind they stay behind, also if a later hop leads back. */
    t->trusted = t->trusted && ps_uri_same_origin(&next, &t->uri);
    ps_uri_deinit(&t->uri);
    t->uri = next;
    pthread_mutex_lock(&t->net->store->lock);
    http_host_enter_locked(t);
    pthread_mutex_unlock(&t->net->store->lock);
    return true;
}

/* The same jobs go out again at once, on the same slot. Egress stays reserved. */
static void begin_again(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    uint64_t reserved = t->to - t->from;
    http_hedge_drop_all(t);
    http_settle_egress(s, t);
    pthread_mutex_lock(&s->lock);
    t->reserved = reserved;
    s->egress_in_flight += reserved;
    pthread_mutex_unlock(&s->lock);
    http_transfer_begin(t);
}

/* Back to the heap without a delay: an errand comes first. False: that was tried often enough. */
static bool prepare_again(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    for (const struct http_job *j = t->jobs; j; j = j->next)
        if (j->cures >= PS_HTTP_MAX_CURES)
            return false;
    http_hedge_drop_all(t);
    http_settle_egress(s, t);
    pthread_mutex_lock(&s->lock);
    while (t->jobs) {
        struct http_job *j = t->jobs;
        t->jobs = j->next;
        j->cures++;
        if (j->cancelled || s->closing)
            http_finish_push_locked(s, j, PS_ECANCELLED, NULL);
        else
            http_now_waiting_locked(s, j);
    }
    pthread_mutex_unlock(&s->lock);
    release(t);
    return true;
}

/* The same jobs at once where the origin says now, or, with `front`, at the front door whatever is
 * remembered. */
static void locate_again(struct http_transfer *t, bool front)
{
    struct http_store *s = t->net->store;
    pthread_mutex_lock(&s->lock);
    http_choose_address_locked(t, front, ps_now_ns());
    pthread_mutex_unlock(&s->lock);
    begin_again(t);
}

/* A remembered place that no longer works (a signed address that expired) is forgotten; what comes
 * instead is one fresh look through the front door, or an errand where the scheme has those. */
static bool front_door(struct http_transfer *t)
{
    struct http_store *s = t->net->store;
    int status = t->judged ? t->reply.status : 0;
    if (!t->from_cache || t->plain_retry ||
        (t->judged && (status < 400 || status > 499 || status == 429)))
        return false;
    pthread_mutex_lock(&s->lock);
    if (t->obj->place.until_ns == t->place_until_ns) /* else another transfer has renewed it */
        t->obj->place.until_ns = 0;
    pthread_mutex_unlock(&s->lock);
    if (s->origin->ops->ready)
        return prepare_again(t);
    t->plain_retry = true;
    locate_again(t, true);
    return true;
}

/* Asks the origin whether an unwelcome reply can be cured. True: the jobs are on their way again. */
static bool cure(struct http_transfer *t)
{
    struct ps_http_origin *o = t->net->store->origin;
    if (!o->ops->cure || !t->judged || t->over_budget || t->no_memory ||
        (t->judge.verdict != PS_REPLY_REFUSE && t->judge.verdict != PS_REPLY_REDIRECT))
        return false;
    const struct ps_http_answer a = answer_of(t);
    switch (o->ops->cure(o, &a, &t->judge)) {
    case PS_HTTP_CURE_NONE: return false;
    case PS_HTTP_CURE_PREPARE: return prepare_again(t);
    case PS_HTTP_CURE_AGAIN: break;
    }
    if (t->cures++ >= PS_HTTP_MAX_CURES)
        return false;
    locate_again(t, false);
    return true;
}

/* A request that has to be made again in some other way, at once. */
static bool goes_on(struct http_transfer *t, const struct http_failure *cut)
{
    return !cut && !t->hedge_of && cure(t);
}

/* Not at fault: its connection was slow, or its bytes came from elsewhere. */
static void end_cut(struct http_transfer *t, const struct http_failure *cut)
{
    keep_progress(t, cut);
    http_settle_egress(t->net->store, t);
    http_requeue_jobs(t, cut == &http_escaped);
}

/* Of a failed request. True: it is on its way again. */
static bool end_badly(struct http_transfer *t, const struct http_failure *f,
                      const struct http_failure *cut)
{
    if (f->cls == PS_RETRY_THROTTLE)
        http_host_throttled(t, ps_now_ns());
    if (!cut && !t->hedge_of && front_door(t))
        return true;
    keep_progress(t, f);
    if (t->hedge_of) /* its bytes were for nothing: counted before they are settled */
        fail_jobs(t, f);
    http_settle_egress(t->net->store, t);
    fail_jobs(t, f);
    return false;
}

static void trace(const struct http_transfer *t, CURLcode rc, const struct http_failure *cut)
{
    const bool well = !cut && rc == CURLE_OK;
    if (t->obj)
        ps_log(PS_LOG_TRACE, ORIGIN, "%s: %llu-%llu: status %d, %llu bytes in %.1f ms%s%s",
               t->obj->where, (unsigned long long)t->from, (unsigned long long)t->to - 1,
               t->reply.status, (unsigned long long)t->body_bytes,
               1e3 * ps_seconds_since(t->started_ns), well ? "" : ": ",
               well  ? ""
               : cut ? cut->what
                     : curl_easy_strerror(rc));
}

void http_transfer_end(struct http_transfer *t, CURLcode rc, const struct http_failure *cut)
{
    struct http_store *s = t->net->store;
    struct http_failure f;
    struct ps_err detail = {0};
    trace(t, rc, cut);
    if (t->receiving)
        atomic_fetch_sub_explicit(&s->receiving, 1, memory_order_relaxed);
    t->receiving = false;
    http_conn_carried(t, t->body_bytes);
    if (t->lost && !cut)
        cut = &http_superseded;
    bool failed = cut || rc != CURLE_OK;
    if (cut == &http_superseded || cut == &http_escaped) {
        end_cut(t, cut);
    } else if (t->jobs) {
        failed = true;
        if (goes_on(t, cut))
            return;
        if (cut)
            f = *cut;
        else if (t->judged && t->judge.verdict == PS_REPLY_REDIRECT) {
            if (follow(t, &f, &detail)) {
                begin_again(t);
                return;
            }
        } else
            failed = failure_of(t, rc, &f);
        if (failed && end_badly(t, &f, cut))
            return;
    }
    if (!failed)
        http_host_succeeded(t, ps_now_ns());
    while (!failed && t->jobs)
        deliver_first(t);
    http_settle_egress(s, t);
    release(t);
}
