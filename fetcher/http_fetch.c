/* Small blocking HTTP exchanges. See http_fetch.h. */
#include "fetcher/http_fetch.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <curl/curl.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "fetcher/reply.h"

#define ORIGIN            "fetcher"
#define DEFAULT_MAX_BYTES (64u << 10)
/* A signal handler can't wake a poll: an interrupt is looked for this often. */
#define LOOK_MS 100

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static CURLcode curl_state;

static void curl_start(void)
{
    curl_state = curl_global_init(CURL_GLOBAL_DEFAULT);
}

int ps_http_curl_ready(struct ps_err *err)
{
    pthread_once(&curl_once, curl_start);
    if (curl_state != CURLE_OK)
        return ps_err_set(err, PS_EFAIL, ORIGIN, "libcurl does not start: check its installation");
    return 0;
}

static bool copy_env(char **out, const char *first, const char *second)
{
    const char *v = getenv(first);
    if ((!v || !*v) && second)
        v = getenv(second);
    *out = v && *v ? ps_strdup(v) : NULL;
    return !v || !*v || *out;
}

bool ps_http_ca_from_env(char **file, char **dir)
{
    return copy_env(file, "SSL_CERT_FILE", "CURL_CA_BUNDLE") && copy_env(dir, "SSL_CERT_DIR", NULL);
}

struct exchange {
    const struct ps_fetch *f;
    struct ps_fetch_reply *r;
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    char *ca_file, *ca_dir;
    struct ps_reply reply;
    bool too_long, no_memory;
    char text[CURL_ERROR_SIZE];
};

static size_t on_body(char *p, size_t size, size_t count, void *user)
{
    struct exchange *x = user;
    size_t n = size * count;
    if (x->f->stats)
        ps_stat_add(&x->f->stats->bytes_net, n);
    ps_rate_limit_take(x->f->limit, n, ps_now_ns());
    ps_strbuf_append(&x->r->body, p, n);
    x->too_long = !ps_strbuf_ok(&x->r->body);
    return x->too_long ? 0 : n;
}

static void keep_value(struct exchange *x, size_t i, const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    while (end > p && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ' || end[-1] == '\t'))
        end--;
    size_t n = (size_t)(end - p);
    if (n >= PS_FETCH_VALUE_MAX || memchr(p, '\0', n))
        return;
    ps_free(x->r->values[i]);
    x->r->values[i] = ps_strndup(p, n);
    if (!x->r->values[i])
        x->no_memory = true;
}

static void drop_values(struct ps_fetch_reply *r)
{
    for (size_t i = 0; i < PS_FETCH_HEADERS; i++) {
        ps_free(r->values[i]);
        r->values[i] = NULL;
    }
}

static size_t on_header(char *line, size_t size, size_t count, void *user)
{
    struct exchange *x = user;
    size_t n = size * count;
    if (n > 5 && memcmp(line, "HTTP/", 5) == 0)
        drop_values(x->r); /* another reply: the one after a 1xx */
    ps_reply_line(&x->reply, line, n, ps_wall_s());
    for (size_t i = 0; x->f->keep && i < PS_FETCH_HEADERS && x->f->keep[i]; i++) {
        size_t k = strlen(x->f->keep[i]);
        if (n > k && line[k] == ':' && strncasecmp(line, x->f->keep[i], k) == 0)
            keep_value(x, i, line + k + 1, line + n);
    }
    return x->no_memory ? 0 : n;
}

static bool add_headers(struct exchange *x)
{
    for (const char *const *h = x->f->headers; h && *h; h++) {
        struct curl_slist *more = curl_slist_append(x->headers, *h);
        if (!more)
            return false;
        x->headers = more;
    }
    return curl_easy_setopt(x->easy, CURLOPT_HTTPHEADER, x->headers) == CURLE_OK;
}

static void set_method(struct exchange *x)
{
    const struct ps_fetch *f = x->f;
    if (f->body) {
        curl_easy_setopt(x->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)f->body_bytes);
        curl_easy_setopt(x->easy, CURLOPT_POSTFIELDS, f->body);
    }
    if (f->method && strcmp(f->method, "HEAD") == 0)
        curl_easy_setopt(x->easy, CURLOPT_NOBODY, 1l);
    else if (f->method)
        curl_easy_setopt(x->easy, CURLOPT_CUSTOMREQUEST, f->method);
}

static bool set_options(struct exchange *x)
{
    const struct ps_fetch *f = x->f;
    CURL *e = x->easy;
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, x->text);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1l);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1l);
    curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1l); /* see http_transfer.c */
    curl_easy_setopt(e, CURLOPT_USERAGENT, "penstock/0.1");
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0l);
    curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1l);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_TIMEOUT, (long)(f->timeout_s ? f->timeout_s : 30));
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT,
                     (long)(f->connect_timeout_s ? f->connect_timeout_s : 12));
    if (f->direct)
        curl_easy_setopt(e, CURLOPT_PROXY, "");
    if (f->ca_file || x->ca_file)
        curl_easy_setopt(e, CURLOPT_CAINFO, f->ca_file ? f->ca_file : x->ca_file);
    if (x->ca_dir)
        curl_easy_setopt(e, CURLOPT_CAPATH, x->ca_dir);
    set_method(x);
    return curl_easy_setopt(e, CURLOPT_URL, f->url) == CURLE_OK && add_headers(x);
}

/* Whether whoever waits no longer wants it. */
static int withdrawn(const struct ps_fetch *f)
{
    if (f->stop && atomic_load(f->stop))
        return PS_ECANCELLED;
    return f->interrupt && atomic_load(f->interrupt) ? PS_EINTERRUPTED : 0;
}

/* Lets pass what the rate limit owes now. Not what others run up meanwhile: they read on, and this would never end. */
static int wait_for_limit(struct exchange *x)
{
    const uint64_t until_ns = ps_rate_limit_ready_ns(x->f->limit);
    int rc = 0;
    for (uint64_t now_ns; rc == 0 && (now_ns = ps_now_ns()) < until_ns; rc = withdrawn(x->f)) {
        const uint64_t ms = (until_ns - now_ns) / 1000000 + 1;
        if (curl_multi_poll(x->multi, NULL, 0, ms < LOOK_MS ? (int)ms : LOOK_MS, NULL) != CURLM_OK)
            return PS_EFAIL;
    }
    return rc;
}

/* Until libcurl is through, or whoever waits no longer wants it. *rc: libcurl's result. */
static int drive(struct exchange *x, CURLcode *rc)
{
    for (int running = 1; running;) {
        const int gone = withdrawn(x->f);
        if (gone != 0)
            return gone;
        if (curl_multi_perform(x->multi, &running) != CURLM_OK ||
            (running && curl_multi_poll(x->multi, NULL, 0, LOOK_MS, NULL) != CURLM_OK))
            return PS_EFAIL;
    }
    int left;
    const CURLMsg *m = curl_multi_info_read(x->multi, &left);
    *rc = m ? m->data.result : CURLE_RECV_ERROR;
    return 0;
}

static const char *says(CURLcode rc)
{
    switch (rc) {
    case CURLE_COULDNT_RESOLVE_HOST: return "host not found";
    case CURLE_COULDNT_RESOLVE_PROXY: return "proxy not found";
    case CURLE_COULDNT_CONNECT: return "can't connect";
    case CURLE_OPERATION_TIMEDOUT: return "timed out";
    case CURLE_PEER_FAILED_VERIFICATION: return "server's certificate is not trusted";
    case CURLE_SSL_CACERT_BADFILE: return "can't read the CA file";
    default: return "connection broken";
    }
}

static bool has_connected(const struct exchange *x)
{
    curl_off_t us = 0;
    curl_easy_getinfo(x->easy, CURLINFO_CONNECT_TIME_T, &us);
    return us > 0;
}

static int transport_failed(const struct exchange *x, CURLcode rc, enum ps_retry_class *cls,
                            struct ps_err *err)
{
    *cls = PS_RETRY_TRANSPORT;
    if (rc == CURLE_OUT_OF_MEMORY || x->no_memory) {
        *cls = PS_RETRY_FATAL;
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    if (x->too_long) {
        *cls = PS_RETRY_FATAL;
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "answer is too long: %s: is this the right server?", x->f->where);
    }
    if (rc == CURLE_COULDNT_RESOLVE_HOST || rc == CURLE_COULDNT_RESOLVE_PROXY ||
        rc == CURLE_COULDNT_CONNECT || (rc == CURLE_OPERATION_TIMEDOUT && !has_connected(x)))
        *cls = PS_RETRY_CONNECT;
    if (rc == CURLE_PEER_FAILED_VERIFICATION || rc == CURLE_SSL_CACERT_BADFILE)
        *cls = PS_RETRY_FATAL;
    return ps_err_set(err, PS_ENET, ORIGIN, "%s: %s: check the address and the network", says(rc),
                      x->f->where);
}

/* ---- idle connections: they live in the multi handle that opened them ---- */

#define IDLE_MAX 8u

struct ps_fetch_lines {
    pthread_mutex_t lock;
    CURLM *idle[IDLE_MAX]; /* lock */
    unsigned n;            /* lock */
};

int ps_fetch_lines_new(struct ps_fetch_lines **out)
{
    struct ps_fetch_lines *l = ps_calloc(1, sizeof *l);
    if (!l)
        return PS_ENOMEM;
    pthread_mutex_init(&l->lock, NULL);
    *out = l;
    return 0;
}

void ps_fetch_lines_free(struct ps_fetch_lines *l)
{
    if (!l)
        return;
    while (l->n > 0)
        curl_multi_cleanup(l->idle[--l->n]);
    pthread_mutex_destroy(&l->lock);
    ps_free(l);
}

static CURLM *line_take(struct ps_fetch_lines *l)
{
    CURLM *multi = NULL;
    if (l) {
        pthread_mutex_lock(&l->lock);
        multi = l->n > 0 ? l->idle[--l->n] : NULL;
        pthread_mutex_unlock(&l->lock);
    }
    return multi ? multi : curl_multi_init();
}

static void line_give(struct ps_fetch_lines *l, CURLM *multi)
{
    if (l && multi) {
        pthread_mutex_lock(&l->lock);
        if (l->n < IDLE_MAX) {
            l->idle[l->n++] = multi;
            multi = NULL;
        }
        pthread_mutex_unlock(&l->lock);
    }
    curl_multi_cleanup(multi);
}

static int exchange(struct exchange *x, enum ps_retry_class *cls, struct ps_err *err)
{
    CURLcode curl_rc = CURLE_OK;
    x->multi = line_take(x->f->lines);
    x->easy = curl_easy_init();
    if (!x->multi || !x->easy || !ps_http_ca_from_env(&x->ca_file, &x->ca_dir) || !set_options(x))
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    int rc = wait_for_limit(x);
    if (rc == 0) {
        if (curl_multi_add_handle(x->multi, x->easy) != CURLM_OK)
            return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
        if (x->f->stats)
            ps_stat_add(&x->f->stats->requests, 1);
        rc = drive(x, &curl_rc);
        curl_multi_remove_handle(x->multi, x->easy);
    }
    if (rc != 0)
        return ps_err_set(err, rc, ORIGIN, rc == PS_EFAIL ? "libcurl failed" : "interrupted");
    if (curl_rc != CURLE_OK)
        return transport_failed(x, curl_rc, cls, err);
    x->r->status = x->reply.status;
    x->r->retry_after_ns = x->reply.retry_after_ns;
    return 0;
}

int ps_http_fetch(struct ps_fetch_reply *out, const struct ps_fetch *f, enum ps_retry_class *cls,
                  struct ps_err *err)
{
    enum ps_retry_class unused;
    struct ps_fetch_reply r = {.status = 0};
    struct exchange x = {.f = f, .r = &r};
    cls = cls ? cls : &unused;
    *cls = PS_RETRY_FATAL;
    ps_strbuf_init(&r.body, f->max_bytes ? f->max_bytes : DEFAULT_MAX_BYTES);
    ps_reply_init(&x.reply);
    int rc = ps_http_curl_ready(err);
    if (rc == 0)
        rc = exchange(&x, cls, err);
    curl_easy_cleanup(x.easy);
    line_give(f->lines, x.multi);
    curl_slist_free_all(x.headers);
    ps_free(x.ca_file);
    ps_free(x.ca_dir);
    if (rc != 0) {
        ps_fetch_reply_deinit(&r);
        return rc;
    }
    *out = r;
    return 0;
}

void ps_fetch_reply_deinit(struct ps_fetch_reply *r)
{
    drop_values(r);
    ps_strbuf_deinit(&r->body);
}
