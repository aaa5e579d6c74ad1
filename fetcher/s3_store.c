/* s3://bucket/prefix: an origin of the http store. Comes in: what the user wrote, the AWS settings,
 * keys. Goes out: addresses of objects (path or virtual-host style), signatures made just before
 * each attempt, and cures for a wrong region, a wrong clock and keys that went stale.
 *
 * A reply can change the region in a host name of AWS, never the host of a custom endpoint: nobody
 * but the user decides where signed requests go. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "fetcher/http_origin.h"
#include "fetcher/s3_config.h"
#include "fetcher/s3_credentials.h"
#include "fetcher/s3_reply.h"
#include "fetcher/s3_sign.h"
#include "fetcher/store_impl.h"

#define ORIGIN         "fetcher"
#define RENEW_BEFORE_S 300 /* keys are renewed in the background from here on */
#define EXPIRE_BEFORE_S                                                                            \
    30 /* and not used any more from here on: a request takes a while to arrive */
#define FETCH_AGAIN_NS                                                                             \
    (10 * PS_NS_PER_S) /* young keys are not fetched again, whatever their end of life says */
#define FAIL_AGAIN_NS (2 * PS_NS_PER_S) /* one failure answers for all objects that wait */

struct s3_origin {
    struct ps_http_origin base;
    /* set once */
    struct ps_s3_config config;
    struct ps_uri endpoint; /* scheme NULL: AWS's own */
    char *bucket, *prefix;  /* as written */
    char *version;          /* nullable: versionId */
    bool path_style;
    struct ps_stats *stats;
    struct ps_rate_limit *limit;

    pthread_mutex_t fetch_lock; /* one fetch of keys at a time; taken before lock */
    int failed;                 /* fetch_lock: result of the last fetch, with what follows */
    uint64_t failed_ns;
    struct ps_err failed_err;

    pthread_mutex_t lock;
    /* lock */
    char region[PS_S3_REGION_MAX];
    char contradiction[PS_S3_REGION_MAX + 80]; /* "" until a region was set in vain too often; set once */
    int64_t offset_s;                          /* the server's clock minus ours */
    bool have_keys, bad_keys;
    char bad_code[PS_S3_CODE_MAX];
    struct ps_s3_keys keys;
    uint64_t fetched_ns;
    uint64_t version_of_all; /* counts changes of region, clock and keys: the ticket */
};

/* ---- addresses ---- */

static void aws_host(const struct s3_origin *o, const char *region, char *out, size_t cap)
{
    snprintf(out, cap, "%s%ss3%s.%s%s.amazonaws.com%s", o->path_style ? "" : o->bucket,
             o->path_style ? "" : ".", o->config.fips ? "-fips" : "",
             o->config.dualstack ? "dualstack." : "", region,
             strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
}

static void append_key(struct ps_strbuf *b, const struct s3_origin *o, const char *object,
                       bool escaped)
{
    size_t n = strlen(o->prefix);
    const char *parts[] = {o->prefix, n && o->prefix[n - 1] != '/' ? "/" : "", object};
    for (size_t i = 0; i < 3; i++)
        if (escaped)
            ps_uri_escape(b, parts[i], true);
        else
            ps_strbuf_puts(b, parts[i]);
}

static char *make_path(const struct s3_origin *o, const char *object)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    size_t n = o->endpoint.path ? strlen(o->endpoint.path) : 0;
    if (n > 0 && o->endpoint.path[n - 1] == '/')
        n--;
    ps_strbuf_append(&b, o->endpoint.path ? o->endpoint.path : "", n);
    ps_strbuf_puts(&b, "/");
    if (o->path_style) {
        ps_uri_escape(&b, o->bucket, false);
        ps_strbuf_puts(&b, "/");
    }
    if (object)
        append_key(&b, o, object, true);
    char *path = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return path;
}

static char *make_query(const struct s3_origin *o)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    ps_strbuf_puts(&b, "versionId=");
    ps_uri_escape(&b, o->version, false);
    char *query = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return query;
}

static int s3_locate(struct ps_http_origin *base, const char *object, struct ps_uri *out,
                     struct ps_err *err)
{
    struct s3_origin *o = (struct s3_origin *)base;
    const struct ps_uri *e = &o->endpoint;
    struct ps_uri u = {.port = e->scheme ? e->port : 443, .port_given = e->port_given};
    char host[512];
    if (e->scheme)
        snprintf(host, sizeof host, "%s%s%s", o->path_style ? "" : o->bucket,
                 o->path_style ? "" : ".", e->host);
    else {
        pthread_mutex_lock(&o->lock);
        aws_host(o, o->region, host, sizeof host);
        pthread_mutex_unlock(&o->lock);
    }
    u.scheme = ps_strdup(e->scheme ? e->scheme : "https");
    u.host = ps_strdup(host);
    u.path = make_path(o, object);
    u.query = o->version ? make_query(o) : NULL;
    if (!u.scheme || !u.host || !u.path || (o->version && !u.query)) {
        ps_uri_deinit(&u);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    *out = u;
    return 0;
}

static char *label_of(const struct s3_origin *o, const char *object)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    ps_strbuf_puts(&b, "s3://");
    ps_strbuf_puts(&b, o->bucket);
    ps_strbuf_puts(&b, "/");
    append_key(&b, o, object, false);
    char *label = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return label;
}

static char *s3_label(struct ps_http_origin *base, const char *object)
{
    return label_of((const struct s3_origin *)base, object);
}

/* Two stores may have a bucket of one name, and an ETag need not be a hash of content: the endpoint
 * belongs to the identity, unless it is AWS's, where bucket names are unique. */
static void s3_identity(struct ps_http_origin *base, const char *object, const char *version,
                        uint64_t bytes, char *out, size_t cap)
{
    const struct s3_origin *o = (const struct s3_origin *)base;
    struct ps_strbuf b;
    ps_strbuf_init(&b, 2 * PS_URI_MAX_BYTES);
    if (o->endpoint.scheme)
        ps_strbuf_printf(&b, "%s:%u%s", o->endpoint.host, o->endpoint.port, o->endpoint.path);
    ps_strbuf_puts(&b, "//");
    ps_strbuf_puts(&b, o->bucket);
    ps_strbuf_puts(&b, "/");
    append_key(&b, o, object, false);
    ps_http_identity(out, cap, "s3", version, bytes, b.data);
    ps_strbuf_deinit(&b);
}

char *ps_s3_origin_prefix(const struct ps_http_origin *base)
{
    const struct s3_origin *o = (const struct s3_origin *)base;
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    ps_strbuf_puts(&b, "");
    append_key(&b, o, "", false);
    char *prefix = b.len ? ps_strbuf_take(&b, NULL) : ps_strdup("");
    ps_strbuf_deinit(&b);
    return prefix;
}

char *ps_s3_origin_source(const struct ps_http_origin *base, const char *object)
{
    const struct s3_origin *o = (const struct s3_origin *)base;
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    ps_strbuf_puts(&b, "/");
    ps_uri_escape(&b, o->bucket, false);
    ps_strbuf_puts(&b, "/");
    append_key(&b, o, object, true);
    char *source = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return source;
}

/* ---- signing ---- */

static void host_header(const struct ps_uri *u, char *out, size_t cap)
{
    if (u->port_given)
        snprintf(out, cap, "%s:%u", u->host, u->port);
    else
        snprintf(out, cap, "%s", u->host);
}

static int sign_locked(struct s3_origin *o, struct ps_http_request *q)
{
    char host[512], date[PS_SIGV4_DATE_BYTES], value[PS_SIGV4_AUTH_MAX];
    struct ps_sigv4_header h[7];
    size_t n = 0;
    const char *hash = q->payload_hash ? q->payload_hash : PS_SIGV4_EMPTY_HASH;
    host_header(q->uri, host, sizeof host);
    ps_sigv4_date((uint64_t)((int64_t)ps_wall_s() + o->offset_s), date);
    h[n++] = (struct ps_sigv4_header){"host", host};
    h[n++] = (struct ps_sigv4_header){"x-amz-content-sha256", hash};
    h[n++] = (struct ps_sigv4_header){"x-amz-date", date};
    if (o->keys.token[0])
        h[n++] = (struct ps_sigv4_header){"x-amz-security-token", o->keys.token};
    if (o->config.requester_pays)
        h[n++] = (struct ps_sigv4_header){"x-amz-request-payer", "requester"};
    if (q->copy_source)
        h[n++] = (struct ps_sigv4_header){"x-amz-copy-source", q->copy_source};
    if (q->copy_range)
        h[n++] = (struct ps_sigv4_header){"x-amz-copy-source-range", q->copy_range};
    const struct ps_sigv4_request r = {.method = q->method,
                                       .path = q->uri->path,
                                       .query = q->uri->query,
                                       .headers = h,
                                       .n_headers = n,
                                       .payload_hash = hash};
    const struct ps_sigv4_key k = {o->keys.access, o->keys.secret, o->region, "s3", date};
    int rc = ps_sigv4_authorization(value, &r, &k);
    for (size_t i = 1; i < n; i++) /* libcurl sends Host itself */
        ps_http_headers_add(q->headers, "%s: %s", h[i].name, h[i].value);
    ps_http_headers_add(q->headers, "Authorization: %s", value);
    return rc;
}

static int s3_sign(struct ps_http_origin *base, struct ps_http_request *q)
{
    struct s3_origin *o = (struct s3_origin *)base;
    int rc = 0;
    if (!q->home)
        return 0;
    pthread_mutex_lock(&o->lock);
    q->ticket = o->version_of_all;
    if (o->have_keys && o->keys.source != PS_S3_KEYS_NONE)
        rc = sign_locked(o, q);
    pthread_mutex_unlock(&o->lock);
    return rc;
}

/* ---- cures ---- */

static const char *const s3_headers[] = {"x-amz-bucket-region", "date", NULL};

static enum ps_http_cure apply_locked(struct s3_origin *o, const struct ps_s3_advice *v)
{
    switch (v->action) {
    case PS_S3_GIVE_UP: return PS_HTTP_CURE_NONE;
    case PS_S3_AGAIN: return PS_HTTP_CURE_AGAIN;
    case PS_S3_SET_REGION:
        ps_log(PS_LOG_INFO, "fetcher", "%s is in region %s: set AWS_REGION to save a request",
               o->base.label, v->region);
        memcpy(o->region, v->region, sizeof o->region);
        break;
    case PS_S3_SET_CLOCK:
        ps_log(PS_LOG_WARN, "fetcher", "this machine's clock is off by %lld s: set it",
               (long long)-v->offset_s);
        o->offset_s = v->offset_s;
        break;
    case PS_S3_NEW_KEYS:
        memcpy(o->bad_code, v->code, sizeof o->bad_code);
        o->bad_keys = true;
        return PS_HTTP_CURE_PREPARE;
    }
    o->version_of_all++;
    return PS_HTTP_CURE_AGAIN;
}

/* Regions that send us back and forth. The text is made once: net threads show it without a lock. */
static void put_contradiction_locked(struct s3_origin *o, const char *region,
                                     struct ps_judgement *judge)
{
    if (!o->contradiction[0])
        snprintf(o->contradiction, sizeof o->contradiction,
                 "%s was the last: check AWS_ENDPOINT_URL and what stands in front of the store",
                 region);
    judge->cls = PS_RETRY_FATAL;
    judge->code = PS_EREFUSED;
    judge->what = "bucket is said to be in another region each time";
    judge->hint = o->contradiction;
}

static enum ps_http_cure s3_cure(struct ps_http_origin *base, const struct ps_http_answer *a,
                                 struct ps_judgement *judge)
{
    struct s3_origin *o = (struct s3_origin *)base;
    if (!a->home) /* a CDN's refusal: its code says nothing about our keys */
        return PS_HTTP_CURE_NONE;
    pthread_mutex_lock(&o->lock);
    const struct ps_s3_answer in = {
        .status = a->status,
        .region_header = a->headers[0],
        .date_header = a->headers[1],
        .body = a->body,
        .body_bytes = a->body_bytes,
        .wall_s = a->wall_s,
        .region = o->region,
        .offset_s = o->offset_s,
        .unsigned_request = o->keys.source == PS_S3_KEYS_NONE,
        .stale = a->ticket != o->version_of_all,
    };
    const struct ps_s3_advice v = ps_s3_judge(&in, judge);
    const bool about_region =
        v.action == PS_S3_SET_REGION || (v.action == PS_S3_AGAIN && ps_s3_region_ok(v.region));
    if (about_region && a->cures >= PS_HTTP_MAX_CURES && judge->verdict == PS_REPLY_REFUSE)
        put_contradiction_locked(o, v.region, judge);
    enum ps_http_cure cure = apply_locked(o, &v);
    pthread_mutex_unlock(&o->lock);
    return cure;
}

/* ---- keys ---- */

static enum ps_http_ready ready_locked(const struct s3_origin *o, uint64_t now_ns)
{
    if (!o->have_keys || o->bad_keys)
        return PS_HTTP_WAIT;
    if (o->keys.expires_s == 0 || now_ns - o->fetched_ns < FETCH_AGAIN_NS)
        return PS_HTTP_READY;
    int64_t left_s = (int64_t)o->keys.expires_s - ((int64_t)ps_wall_s() + o->offset_s);
    return left_s < EXPIRE_BEFORE_S  ? PS_HTTP_WAIT
           : left_s < RENEW_BEFORE_S ? PS_HTTP_RENEW
                                     : PS_HTTP_READY;
}

static enum ps_http_ready s3_ready(struct ps_http_origin *base, const char *object,
                                   const struct ps_http_place *place, uint64_t now_ns)
{
    struct s3_origin *o = (struct s3_origin *)base;
    (void)object, (void)place;
    pthread_mutex_lock(&o->lock);
    enum ps_http_ready r = ready_locked(o, now_ns);
    pthread_mutex_unlock(&o->lock);
    return r;
}

static bool same_keys(const struct ps_s3_keys *a, const struct ps_s3_keys *b)
{
    return strcmp(a->access, b->access) == 0 && strcmp(a->secret, b->secret) == 0 &&
           strcmp(a->token, b->token) == 0;
}

/* The server refused the keys that are still all there is. */
static int still_bad_locked(const struct s3_origin *o, struct ps_err *err)
{
    return ps_err_set(err, PS_EREFUSED, ORIGIN, "AWS keys are refused (%s): %s: %s has no others: %s",
                      o->bad_code, o->base.label, ps_s3_key_source_name(o->keys.source),
                      strcmp(o->bad_code, "InvalidAccessKeyId") == 0
                          ? "check them, and that they belong to this endpoint"
                          : "get fresh ones");
}

static int install_locked(struct s3_origin *o, const struct ps_s3_keys *k, struct ps_err *err)
{
    if (o->bad_keys && same_keys(&o->keys, k))
        return still_bad_locked(o, err);
    if (k->source == PS_S3_KEYS_NONE)
        ps_log(PS_LOG_INFO, "fetcher", "%s: no AWS keys found: requests are not signed",
               o->base.label);
    o->keys = *k;
    o->have_keys = true;
    o->bad_keys = false;
    o->fetched_ns = ps_now_ns();
    o->version_of_all++;
    return 0;
}

static int fetch_keys(struct s3_origin *o, struct ps_http_errand *e, struct ps_err *err)
{
    char region[PS_S3_REGION_MAX];
    struct ps_s3_keys *k = ps_calloc(1, sizeof *k);
    if (!k)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    pthread_mutex_lock(&o->lock);
    memcpy(region, o->region, sizeof region);
    struct ps_s3_key_ask ask = {.region = region,
                                .ca_file = o->config.ca_file,
                                .stop = e->stop,
                                .stats = o->stats,
                                .limit = o->limit,
                                .last = o->keys.source};
    pthread_mutex_unlock(&o->lock);
    int rc = o->config.anonymous ? 0 : ps_s3_keys_fetch(k, &ask, &e->cls, err);
    if (rc == 0) {
        pthread_mutex_lock(&o->lock);
        rc = install_locked(o, k, err);
        pthread_mutex_unlock(&o->lock);
    }
    explicit_bzero(k, sizeof *k);
    ps_free(k);
    return rc;
}

static int s3_prepare(struct ps_http_origin *base, struct ps_http_errand *e, struct ps_err *err)
{
    struct s3_origin *o = (struct s3_origin *)base;
    int rc = 0;
    pthread_mutex_lock(&o->fetch_lock);
    uint64_t now_ns = ps_now_ns();
    pthread_mutex_lock(&o->lock);
    bool needed = ready_locked(o, now_ns) != PS_HTTP_READY;
    pthread_mutex_unlock(&o->lock);
    if (needed && o->failed != 0 && now_ns - o->failed_ns < FAIL_AGAIN_NS) {
        rc = o->failed;
        if (err)
            *err = o->failed_err;
    } else if (needed) {
        struct ps_err own = {0};
        rc = fetch_keys(o, e, &own);
        /* What may pass by itself is asked again at the store's pace. */
        o->failed = e->cls == PS_RETRY_FATAL && rc != PS_ECANCELLED ? rc : 0;
        o->failed_ns = ps_now_ns();
        o->failed_err = own;
        if (rc != 0 && err)
            *err = own;
    }
    pthread_mutex_unlock(&o->fetch_lock);
    return rc;
}

static void s3_free(struct ps_http_origin *base)
{
    struct s3_origin *o = (struct s3_origin *)base;
    explicit_bzero(&o->keys, sizeof o->keys);
    ps_s3_config_deinit(&o->config);
    ps_uri_deinit(&o->endpoint);
    ps_free(o->bucket);
    ps_free(o->prefix);
    ps_free(o->version);
    ps_free(o->base.label);
    pthread_mutex_destroy(&o->lock);
    pthread_mutex_destroy(&o->fetch_lock);
    ps_free(o);
}

static const struct ps_http_origin_ops s3_ops = {
    .scheme = "s3",
    .headers = s3_headers,
    .locate = s3_locate,
    .label = s3_label,
    .sign = s3_sign,
    .cure = s3_cure,
    .ready = s3_ready,
    .prepare = s3_prepare,
    .identity = s3_identity,
    .free = s3_free,
};

/* ---- opening ---- */

/* Old buckets, and those of other stores, have capitals and '_' in their names. */
static int check_bucket(const char *bucket, struct ps_err *err)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    size_t n = strlen(bucket);
    if (strncmp(bucket, "arn:", 4) == 0)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "access points are not supported by ARN: use the access point's alias");
    if (n > 6 && strcmp(bucket + n - 6, "--x-s3") == 0)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "directory buckets are not supported: %s: use a general purpose bucket",
                          bucket);
    if (n < 1 || n > 255 || strspn(bucket, letters) != n || strstr(bucket, "..") ||
        bucket[0] == '.' || bucket[0] == '-')
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "malformed address: no bucket's name: write s3://bucket/prefix");
    return 0;
}

/* "s3://bucket/prefix?versionId=v": nothing is decoded, and only this suffix is no part of the key. */
static int split_address(struct s3_origin *o, const char *address, struct ps_err *err)
{
    const char *text = address + strlen("s3://");
    size_t n = strcspn(text, "/");
    const char *key = text[n] == '/' ? text + n + 1 : text + n;
    const char *mark = strstr(key, "?versionId=");
    size_t key_bytes = mark ? (size_t)(mark - key) : strlen(key);
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return ps_err_set(err, PS_EUSAGE, ORIGIN,
                              "malformed address: control characters: write s3://bucket/prefix");
    if (strlen(text) > PS_URI_MAX_BYTES / 4)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "malformed address: it is too long");
    o->bucket = ps_strndup(text, n);
    o->prefix = ps_strndup(key, key_bytes);
    if (mark)
        o->version = ps_strdup(mark + strlen("?versionId="));
    if (!o->bucket || !o->prefix || (mark && !o->version))
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    return check_bucket(o->bucket, err);
}

static int parse_endpoint(struct s3_origin *o, struct ps_err *err)
{
    if (!o->config.endpoint)
        return 0;
    int rc = ps_uri_parse(&o->endpoint, o->config.endpoint, err);
    if (rc == PS_ENOMEM)
        return rc;
    if (rc != 0 || o->endpoint.user || o->endpoint.query)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "malformed AWS_ENDPOINT_URL: write http(s)://host[:port]");
    return 0;
}

/* A name that can't be one label of a host, with the certificate that goes with it. */
static bool wants_path(const char *bucket)
{
    size_t n = strlen(bucket);
    return n < 3 || n > 63 || strspn(bucket, "abcdefghijklmnopqrstuvwxyz0123456789-") != n;
}

static void choose_style(struct s3_origin *o)
{
    bool own = o->endpoint.scheme != NULL;
    o->path_style =
        o->config.style == PS_S3_STYLE_PATH || (own && o->config.style == PS_S3_STYLE_AUTO);
    if (wants_path(o->bucket) || (own && o->endpoint.host[0] == '['))
        o->path_style = true;
}

static char *base_label(const struct s3_origin *o)
{
    char *label = label_of(o, "");
    for (size_t n = label ? strlen(label) : 0; n > 0 && label[n - 1] == '/'; n--)
        label[n - 1] = '\0';
    return label;
}

static int set_up(struct s3_origin *o, const char *address, const char *ca_file, struct ps_err *err)
{
    int rc = split_address(o, address, err);
    if (rc == 0)
        rc = ps_s3_config_load(&o->config, err);
    if (rc == 0)
        rc = parse_endpoint(o, err);
    if (rc != 0)
        return rc;
    memcpy(o->region, o->config.region, sizeof o->region);
    if (ca_file) {
        ps_free(o->config.ca_file);
        if (!(o->config.ca_file = ps_strdup(ca_file)))
            return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    o->base.ca_file = o->config.ca_file;
    choose_style(o);
    o->base.label = base_label(o);
    return o->base.label ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
}

int ps_s3_address_label(char **out, const char *address, struct ps_err *err)
{
    struct s3_origin o = {0};
    int rc = split_address(&o, address, err);
    char *label = rc == 0 ? base_label(&o) : NULL;
    ps_free(o.bucket);
    ps_free(o.prefix);
    ps_free(o.version);
    if (rc == 0 && !label)
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc == 0)
        *out = label;
    return rc;
}

int ps_s3_origin_new(struct ps_http_origin **out, const char *address,
                     const struct ps_store_options *options, struct ps_err *err)
{
    struct s3_origin *o = ps_calloc(1, sizeof *o);
    if (!o)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    o->base.ops = &s3_ops;
    o->stats = options->stats;
    o->limit = options->limit;
    pthread_mutex_init(&o->lock, NULL);
    pthread_mutex_init(&o->fetch_lock, NULL);
    int rc = set_up(o, address, options->access ? options->access->ca_file : NULL, err);
    o->config.anonymous |= options->anonymous;
    if (rc != 0) {
        s3_free(&o->base);
        return rc;
    }
    *out = &o->base;
    return 0;
}

int ps_s3_store_open(struct ps_source **out, const char *address,
                     const struct ps_store_options *options, struct ps_err *err)
{
    struct ps_store_options opt = {.connections = 0};
    struct ps_http_origin *o;
    if (options)
        opt = *options;
    opt.http = PS_HTTP_1; /* S3 speaks nothing else */
    int rc = ps_s3_origin_new(&o, address, &opt, err);
    return rc != 0 ? rc : ps_http_store_start(out, o, &opt, err);
}
