/* The http and https store: the doors of struct ps_source. Comes in: ranges, and blocking reads
 * of small objects. Goes out: jobs for the net threads. The picture of how the parts fit is in
 * http_internal.h. */
#include "fetcher/http_internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/thread.h"
#include "fetcher/http_fetch.h"
#include "fetcher/store_impl.h"

#define ORIGIN      "fetcher"
#define TAIL_PIECES 64
#define HEDGE_PCT   2
/* Names with many addresses change them within minutes; a handshake every five minutes costs nothing. */
#define CONN_LIFE_MS    300000u
#define CONN_LIFE_BYTES (32ull << 30)
/* Under a rate limit no more connections than get this much each: thinner ones look stuck to both sides. */
#define LIMITED_EACH_BYTES_S (64u << 10)
/* An interrupt comes from a signal handler, which can't signal a condition: blocking reads look this often. */
#define INTERRUPT_CHECK_NS (PS_NS_PER_S / 10)

/* ---- waking ---- */

void http_wake_net(struct http_net *n)
{
    curl_multi_wakeup(n->multi);
    if (n->rest)
        curl_multi_wakeup(n->rest);
}

void http_wake_locked(struct http_store *s)
{
    for (unsigned i = 0; i < s->n_nets; i++) {
        struct http_net *n = &s->nets[i];
        if (n->wake_sent || n->active >= n->slots || !n->started)
            continue;
        n->wake_sent = true;
        http_wake_net(n);
        return;
    }
}

void http_wake_all_locked(struct http_store *s)
{
    for (unsigned i = 0; i < s->n_nets; i++)
        if (s->nets[i].started) /* not one that failed to start */
            http_wake_net(&s->nets[i]);
}

/* ---- objects ---- */

static unsigned bucket_of(const char *name)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return h % PS_HTTP_OBJECT_BUCKETS;
}

static void object_free(struct http_object *o)
{
    ps_free(o->name);
    ps_free(o->where);
    ps_uri_deinit(&o->place.uri);
    ps_free(o);
}

static struct http_object *object_new(struct http_store *s, const char *name)
{
    struct http_object *o = ps_calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->name = ps_strdup(name);
    if (o->name)
        o->where = s->origin->ops->label(s->origin, name);
    if (o->where)
        return o;
    object_free(o);
    return NULL;
}

static struct http_object *object_of_locked(struct http_store *s, const char *name)
{
    struct http_object **bucket = &s->objects[bucket_of(name)];
    for (struct http_object *o = *bucket; o; o = o->next)
        if (strcmp(o->name, name) == 0)
            return o;
    struct http_object *o = object_new(s, name);
    if (o) {
        o->next = *bucket;
        *bucket = o;
    }
    return o;
}

/* ---- submit and cancel ---- */

static struct http_job *job_take_locked(struct http_store *s)
{
    struct http_job *j = s->free_jobs;
    if (ps_heap_reserve(&s->waiting, s->live_jobs + 1) != 0)
        return NULL;
    if (j)
        s->free_jobs = j->next;
    else if (!(j = ps_malloc(sizeof *j)))
        return NULL;
    memset(j, 0, sizeof *j);
    s->live_jobs++;
    return j;
}

static int submit_job(struct http_store *s, struct ps_range *r, struct http_sink *sink,
                      struct ps_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    struct http_object *o = s->closing ? NULL : object_of_locked(s, r->object);
    struct http_job *j = o ? job_take_locked(s) : NULL;
    if (j) {
        j->r = r;
        j->obj = o;
        j->sink = sink;
        j->have = sink ? sink->len - r->offset : 0;
        j->order.priority = r->priority;
        j->order.seq = s->seq++;
        r->impl = j;
        http_now_waiting_locked(s, j);
        http_wake_locked(s);
    } else if (s->closing)
        rc = ps_err_set(err, PS_ECANCELLED, ORIGIN, "%s: the source is closing", r->object);
    else
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %s: ask for fewer ranges at once",
                        r->object);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int http_submit(struct ps_source *base, struct ps_range *r, struct ps_err *err)
{
    int rc = ps_range_check(r, err);
    return rc != 0 ? rc : submit_job((struct http_store *)base, r, NULL, err);
}

static void unlink_job(struct http_job **link, const struct http_job *j)
{
    while (*link != j)
        link = &(*link)->next;
    *link = j->next;
}

static void cancel_locked(struct http_store *s, struct http_job *j)
{
    if (j->state == HTTP_WAITING) {
        ps_heap_remove(&s->waiting, &j->order);
        s->waiting_bytes -= j->r->bytes - j->have;
        http_finish_push_locked(s, j, PS_ECANCELLED, NULL);
    } else if (j->state == HTTP_DELAYED || j->state == HTTP_PREPARING) {
        unlink_job(j->state == HTTP_DELAYED ? &s->delayed : &s->preparing, j);
        http_finish_push_locked(s, j, PS_ECANCELLED, NULL);
    } else if (j->state == HTTP_ACTIVE) {
        j->cancelled = true;
        http_wake_all_locked(s);
    }
}

static void http_cancel(struct ps_source *base, struct ps_range *r)
{
    struct http_store *s = (struct http_store *)base;
    pthread_mutex_lock(&s->lock);
    if (r->impl)
        cancel_locked(s, r->impl);
    pthread_mutex_unlock(&s->lock);
}

static void http_await(struct ps_source *base, struct ps_range *r)
{
    struct http_store *s = (struct http_store *)base;
    pthread_mutex_lock(&s->lock);
    struct http_job *j = r->impl;
    if (j && !j->awaited) {
        j->awaited = true;
        atomic_fetch_add(&s->n_awaited, 1);
        atomic_fetch_add(&s->awaits, 1);
        if (j->state == HTTP_ACTIVE)
            http_wake_all_locked(s);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- blocking reads ---- */

/* One thread waits for several ranges; the first failure is kept. */
struct waiter {
    struct http_store *s;
    const struct ps_terms *terms;
    int told; /* the waiting thread's: why it has withdrawn them, PS_E..., 0 = it has not */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    size_t pending;    /* lock */
    int rc;            /* lock */
    struct ps_err err; /* lock */
};

static void waiter_init(struct waiter *w, struct http_store *s, const struct ps_terms *terms)
{
    memset(w, 0, sizeof *w);
    w->s = s;
    w->terms = terms;
    pthread_mutex_init(&w->lock, NULL);
    ps_cond_init(&w->cond);
}

static void waiter_add(struct waiter *w, size_t n)
{
    pthread_mutex_lock(&w->lock);
    w->pending += n;
    pthread_mutex_unlock(&w->lock);
}

static void waiter_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct waiter *w = r->user;
    pthread_mutex_lock(&w->lock);
    if (rc != 0 && w->rc == 0) {
        w->rc = rc;
        if (err)
            w->err = *err;
    }
    w->pending--;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

/* Whether the answer is no longer wanted: PS_E..., 0 = it is. */
static int told_to_end(const struct waiter *w)
{
    const struct ps_store_options *o = &w->s->opt;
    if ((o->interrupt && atomic_load(o->interrupt)) || (o->stop && atomic_load(o->stop)))
        return PS_EINTERRUPTED;
    return w->terms->withdrawn && atomic_load(w->terms->withdrawn) ? PS_ECANCELLED : 0;
}

static bool may_be_told(const struct waiter *w)
{
    return w->s->opt.interrupt || w->s->opt.stop || w->terms->withdrawn;
}

/* Withdraws the ranges once the caller is told to end. Their buffers are his: each done() is still waited for. */
static void hear_end_locked(struct waiter *w, struct ps_range *r, size_t n)
{
    if (w->told != 0 || (w->told = told_to_end(w)) == 0)
        return;
    pthread_mutex_unlock(&w->lock); /* the store's lock is never taken inside this one */
    for (size_t i = 0; i < n; i++)
        http_cancel(&w->s->base, &r[i]);
    pthread_mutex_lock(&w->lock);
}

static void waiter_sleep_locked(struct waiter *w)
{
    if (!may_be_told(w) || w->told != 0) {
        pthread_cond_wait(&w->cond, &w->lock);
        return;
    }
    (void)ps_cond_wait_until(&w->cond, &w->lock, ps_now_ns() + INTERRUPT_CHECK_NS);
}

/* r[n]: what was submitted. */
static int waiter_wait(struct waiter *w, struct ps_range *r, size_t n, struct ps_err *err)
{
    pthread_mutex_lock(&w->lock);
    while (w->pending > 0) {
        if (may_be_told(w))
            hear_end_locked(w, r, n);
        if (w->pending > 0)
            waiter_sleep_locked(w);
    }
    pthread_mutex_unlock(&w->lock);
    if (w->told == PS_EINTERRUPTED && w->rc == PS_ECANCELLED)
        w->rc = ps_err_set(&w->err, PS_EINTERRUPTED, ORIGIN, "interrupted");
    if (w->rc != 0 && err)
        *err = w->err;
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->lock);
    return w->rc;
}

/* Reads [sink->len, upto) of an object into the sink, less where the object ends before. */
static int read_open(struct http_store *s, const char *object, struct http_sink *k, uint64_t upto,
                     struct ps_err *err)
{
    struct waiter w;
    waiter_init(&w, s, k->terms);
    struct ps_range r = {.object = object,
                         .offset = k->len,
                         .bytes = upto - k->len,
                         .buf = k->data,
                         .deadline_ns = s->opt.question_deadline_s * PS_NS_PER_S,
                         .elsewhere = k->terms->elsewhere,
                         .done = waiter_done,
                         .user = &w};
    waiter_add(&w, 1);
    int rc = submit_job(s, &r, k, err);
    if (rc != 0) {
        waiter_add(&w, (size_t)-1);
        waiter_wait(&w, NULL, 0, NULL);
        return rc;
    }
    return waiter_wait(&w, &r, 1, err);
}

/* The name of this version for cache keys: what the server calls it, its size, and where it
 * lies. */
void ps_http_identity(char *out, size_t cap, const char *scheme, const char *version,
                      uint64_t bytes, const char *where)
{
    int n = snprintf(out, cap, "%s|%s|%llu|%s", scheme, version, (unsigned long long)bytes, where);
    if (n > 0 && (size_t)n < cap)
        return;
    uint8_t hash[PS_SHA256_BYTES];
    ps_sha256_once(where, strlen(where), hash);
    char hex[2 * PS_SHA256_BYTES + 1];
    ps_hex_encode(hash, sizeof hash, hex);
    snprintf(out, cap, "%s|%.120s|%llu|sha256:%s", scheme, version, (unsigned long long)bytes, hex);
}

static void fill_info(struct http_store *s, const char *object, uint64_t bytes,
                      struct ps_object_info *info)
{
    if (!info)
        return;
    memset(info, 0, sizeof *info);
    pthread_mutex_lock(&s->lock);
    struct http_object *o = object_of_locked(s, object); /* there since the first read of it */
    if (o) {
        info->bytes = o->total ? o->total : bytes;
        if (!o->etag_weak)
            memcpy(info->etag, o->etag,
                   sizeof info->etag < sizeof o->etag ? sizeof info->etag : sizeof o->etag);
        const struct ps_http_origin_ops *ops = s->origin->ops;
        const char *version = o->etag[0] ? o->etag : o->last_modified;
        if (ops->identity)
            ops->identity(s->origin, object, version, info->bytes, info->identity,
                          sizeof info->identity);
        else
            ps_http_identity(info->identity, sizeof info->identity, ops->scheme, version,
                             info->bytes, o->where);
    }
    pthread_mutex_unlock(&s->lock);
}

/* The rest of an object whose size is known now: in parallel, like any other ranges. */
static int read_tail(struct http_store *s, const char *object, struct http_sink *k, struct ps_err *err)
{
    struct ps_span pieces[TAIL_PIECES];
    struct ps_range ranges[TAIL_PIECES];
    struct waiter w;
    int rc = 0;
    while (rc == 0 && k->len < k->total) {
        uint64_t end = k->total - k->len > TAIL_PIECES * PS_REQUEST_MAX_BYTES
                           ? k->len + TAIL_PIECES * PS_REQUEST_MAX_BYTES
                           : k->total;
        size_t n = ps_plan_split((struct ps_span){k->len, end}, s->opt.connections,
                                 PS_GET_PIECE_BYTES, pieces, TAIL_PIECES);
        waiter_init(&w, s, k->terms);
        waiter_add(&w, n);
        size_t sent = 0;
        while (sent < n && rc == 0) {
            struct ps_range *r = &ranges[sent];
            *r = (struct ps_range){.object = object,
                                   .offset = pieces[sent].from,
                                   .bytes = pieces[sent].to - pieces[sent].from,
                                   .buf = k->data + pieces[sent].from,
                                   .object_bytes = k->total,
                                   .elsewhere = k->terms->elsewhere,
                                   .done = waiter_done,
                                   .user = &w};
            rc = submit_job(s, r, NULL, err);
            sent += rc == 0;
        }
        waiter_add(&w, sent - n);
        int waited = waiter_wait(&w, ranges, sent, rc == 0 ? err : NULL);
        rc = rc ? rc : waited;
        k->len = (size_t)end;
    }
    return rc;
}

static int too_large(struct http_store *s, const char *object, uint64_t max, struct ps_err *err)
{
    return ps_err_set(
        err, PS_EDATA, ORIGIN,
        "object is larger than %llu bytes: %s/%s: it is not the file that was expected",
        (unsigned long long)max, s->base.label, object);
}

static int get_whole(struct http_store *s, const char *object, uint64_t max_bytes,
                     struct http_sink *k, struct ps_err *err)
{
    int rc = 0;
    /* One chunk tells the size; only a server that never says it is asked chunk by chunk to the
     * end. */
    for (bool more = true; rc == 0 && more;) {
        uint64_t want = k->max - k->len < PS_GET_FIRST_BYTES ? k->max - k->len : PS_GET_FIRST_BYTES;
        uint64_t upto = k->len + want;
        rc = read_open(s, object, k, upto, err);
        more = k->total == 0 && k->len == upto && k->len < k->max;
    }
    if (rc != 0)
        return rc;
    if (k->len > max_bytes || k->total > max_bytes)
        return too_large(s, object, max_bytes, err);
    uint64_t total = k->total > k->len ? k->total : k->len;
    char *data = ps_realloc(k->data, (size_t)total + 1);
    if (!data)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %s: %llu bytes", object,
                          (unsigned long long)total);
    k->data = data;
    rc = read_tail(s, object, k, err);
    if (rc == 0)
        k->data[k->len] = '\0';
    return rc;
}

static int check_name(const char *object, struct ps_err *err)
{
    return ps_name_ok(object, strlen(object))
               ? 0
               : ps_err_set(err, PS_EDATA, ORIGIN, "bad object name: %s", object);
}

static int http_get(struct ps_source *base, const char *object, const struct ps_terms *terms,
                    uint64_t max_bytes, char **out, size_t *len, struct ps_object_info *info,
                    struct ps_err *err)
{
    struct http_store *s = (struct http_store *)base;
    /* One byte beyond the limit, so that "larger" is seen also where the server never tells the
     * size. */
    struct http_sink k = {.growable = true,
                          .terms = terms,
                          .max = max_bytes < SIZE_MAX / 2 ? max_bytes + 1 : SIZE_MAX / 2};
    int rc = check_name(object, err);
    if (rc == 0)
        rc = get_whole(s, object, max_bytes, &k, err);
    if (rc != 0) {
        ps_free(k.data);
        return rc;
    }
    fill_info(s, object, k.len, info);
    *out = k.data;
    *len = k.len;
    return 0;
}

static int http_head(struct ps_source *base, const char *object, const struct ps_terms *terms,
                     void *buf, size_t bytes, size_t *len, struct ps_object_info *info,
                     struct ps_err *err)
{
    struct http_store *s = (struct http_store *)base;
    struct http_sink k = {.data = buf, .cap = bytes, .max = bytes, .terms = terms};
    int rc = check_name(object, err);
    if (rc == 0 && bytes == 0)
        rc = ps_err_set(err, PS_EUSAGE, ORIGIN, "head of no bytes: %s", object);
    if (rc == 0)
        rc = read_open(s, object, &k, bytes, err);
    if (rc == 0 && k.len < bytes &&
        k.total > k.len) /* the egress limit cut it short, not the object's end */
        rc = ps_err_set(err, PS_EBUDGET, ORIGIN, "egress limit reached: %s/%s: raise --max-egress",
                        s->base.label, object);
    if (rc != 0)
        return rc;
    fill_info(s, object, k.len < bytes ? k.len : 0, info);
    *len = k.len;
    return 0;
}

/* ---- open and close ---- */

static void drop_waiting_locked(struct http_store *s)
{
    struct http_job *j;
    while ((j = (struct http_job *)ps_heap_pop(&s->waiting)) != NULL)
        http_finish_push_locked(s, j, PS_ECANCELLED, NULL);
    s->waiting_bytes = 0;
    struct http_job **lists[] = {&s->delayed, &s->preparing};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        while ((j = *lists[i]) != NULL) {
            *lists[i] = j->next;
            http_finish_push_locked(s, j, PS_ECANCELLED, NULL);
        }
}

static void free_everything(struct http_store *s)
{
    for (unsigned i = 0; i < PS_HTTP_OBJECT_BUCKETS; i++)
        while (s->objects[i]) {
            struct http_object *o = s->objects[i];
            s->objects[i] = o->next;
            object_free(o);
        }
    while (s->free_jobs) {
        struct http_job *j = s->free_jobs;
        s->free_jobs = j->next;
        ps_free(j);
    }
    ps_heap_deinit(&s->waiting);
    s->origin->ops->free(s->origin);
    ps_free(s->ca_file);
    ps_free(s->ca_dir);
    ps_free(s->base.label);
    pthread_cond_destroy(&s->errand_cond);
    pthread_cond_destroy(&s->finish_cond);
    pthread_mutex_destroy(&s->finish_lock);
    pthread_mutex_destroy(&s->lock);
    ps_free(s);
}

static void http_close(struct ps_source *base)
{
    struct http_store *s = (struct http_store *)base;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    drop_waiting_locked(s);
    http_wake_all_locked(s);
    pthread_mutex_unlock(&s->lock);
    http_errand_stop(s);
    for (unsigned i = 0; i < s->n_nets; i++)
        http_net_join(&s->nets[i]);
    http_finish_stop(s); /* drains what the net threads left */
    for (unsigned i = 0; i < s->n_nets; i++)
        http_net_deinit(&s->nets[i]);
    PS_ASSERT(s->live_jobs == 0);
    free_everything(s);
}

static const struct ps_source_ops http_ops = {
    .scheme = "http",
    .submit = http_submit,
    .cancel = http_cancel,
    .await = http_await,
    .get = http_get,
    .head = http_head,
    .local_path = NULL,
    .close = http_close,
};

/* Fills in defaults. One net thread carries several GB/s; a second one only pays with many
 * connections and cores. */
static void settle_options(struct http_store *s, const struct ps_store_options *options)
{
    static const struct ps_store_options none;
    s->opt = options ? *options : none;
    struct ps_store_options *o = &s->opt;
    o->connections = o->connections ? o->connections : 8;
    if (o->connections > PS_HTTP_MAX_CONNECTIONS)
        o->connections = PS_HTTP_MAX_CONNECTIONS;
    o->net_deadline_s = o->net_deadline_s ? o->net_deadline_s : 120;
    o->net_stall_s = o->net_stall_s ? o->net_stall_s : 20;
    o->connect_timeout_s = o->connect_timeout_s ? o->connect_timeout_s : 12;
    o->hedge_pct = o->hedge_pct ? o->hedge_pct : HEDGE_PCT;
    o->conn_life_ms = o->conn_life_ms ? o->conn_life_ms : CONN_LIFE_MS;
    o->conn_life_bytes = o->conn_life_bytes ? o->conn_life_bytes : CONN_LIFE_BYTES;
    uint64_t limit = ps_rate_limit_bytes_per_s(o->limit);
    if (limit && limit / LIMITED_EACH_BYTES_S < o->connections)
        o->connections = limit > LIMITED_EACH_BYTES_S ? (unsigned)(limit / LIMITED_EACH_BYTES_S) : 1;
    o->net_threads = o->net_threads ? o->net_threads : 1;
    if (o->net_threads > PS_HTTP_MAX_NET_THREADS)
        o->net_threads = PS_HTTP_MAX_NET_THREADS;
    if (o->net_threads > o->connections)
        o->net_threads = o->connections;
    s->stats = o->stats ? o->stats : &s->own_stats;
    o->access = NULL; /* borrowed while opening */
}

/* --cacert, else the scheme's own setting (AWS_CA_BUNDLE), else SSL_CERT_FILE. False: out of memory. */
static bool choose_ca(struct http_store *s, const struct ps_store_options *options)
{
    const char *given = options && options->access ? options->access->ca_file : NULL;
    given = given ? given : s->origin->ca_file;
    if (!ps_http_ca_from_env(&s->ca_file, &s->ca_dir))
        return false;
    if (!given)
        return true;
    ps_free(s->ca_file);
    s->ca_file = ps_strdup(given);
    return s->ca_file != NULL;
}

static int start_threads(struct http_store *s, struct ps_err *err)
{
    sigset_t all, before;
    /* Our threads take no signals: SIGINT is the main thread's, and a SIGPIPE from a closed
     * socket becomes EPIPE. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = http_finish_start(s, err);
    if (rc == 0)
        rc = http_errand_start(s, err);
    unsigned per = (s->opt.connections + s->opt.net_threads - 1) / s->opt.net_threads;
    unsigned left = s->opt.connections;
    while (rc == 0 && s->n_nets < s->opt.net_threads && left > 0) {
        unsigned slots = left < per ? left : per;
        struct http_net *n = &s->nets[s->n_nets];
        rc = http_net_start(s, n, slots, err);
        left -= slots;
        pthread_mutex_lock(&s->lock);
        s->n_nets++; /* also after a failure: close() cleans up what there is of it */
        pthread_mutex_unlock(&s->lock);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int ps_http_store_start(struct ps_source **out, struct ps_http_origin *origin,
                        const struct ps_store_options *options, struct ps_err *err)
{
    int rc = ps_http_curl_ready(err);
    struct http_store *s = rc == 0 ? ps_calloc(1, sizeof *s) : NULL;
    if (!s) {
        origin->ops->free(origin);
        return rc != 0 ? rc : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    s->origin = origin;
    s->base.ops = &http_ops;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->finish_lock, NULL);
    pthread_cond_init(&s->finish_cond, NULL);
    pthread_cond_init(&s->errand_cond, NULL);
    s->finish_tail = &s->finish_head;
    s->errand_tail = &s->errand_head;
    settle_options(s, options);
    s->base.label = ps_strdup(origin->label);
    if (!s->base.label || !choose_ca(s, options))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc == 0)
        rc = start_threads(s, err);
    if (rc != 0) {
        http_close(&s->base);
        return rc;
    }
    *out = &s->base;
    return 0;
}

int ps_http_store_open(struct ps_source **out, const char *address,
                       const struct ps_store_options *options, struct ps_err *err)
{
    struct ps_uri uri;
    struct ps_http_origin *origin;
    int rc = ps_uri_parse(&uri, address, err);
    if (rc == 0)
        rc = ps_http_plain_new(&origin, &uri, options ? options->access : NULL, err);
    return rc != 0 ? rc : ps_http_store_start(out, origin, options, err);
}
