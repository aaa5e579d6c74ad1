/* Requests that write to S3. See s3_upload.h. */
#include "fetcher/s3_upload.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/strbuf.h"
#include "fetcher/http_internal.h"
#include "fetcher/s3_upload_internal.h"
#include "fetcher/store_impl.h"
#include "fetcher/xml_scan.h"

#define ORIGIN    "fetcher"
#define LINES_MAX 12
#define SLOWEST_BYTES_S                                                                            \
    (100u << 10)             /* a part that is slower than this is given up and sent again */
#define LOOK_MS          100 /* how often an interrupt is looked for while waiting */
#define CLEAN_DEADLINE_S 15
#define COMPLETE_MAX     (4u << 20) /* 10,000 ETags */

int ps_s3_writer_open(struct ps_s3_writer **out, const char *address,
                      const struct ps_store_options *options, struct ps_err *err)
{
    struct ps_s3_writer *w = ps_calloc(1, sizeof *w);
    if (!w)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (options)
        w->opt = *options;
    w->opt.net_deadline_s = w->opt.net_deadline_s ? w->opt.net_deadline_s : 120;
    int rc = ps_s3_origin_new(&w->origin, address, &w->opt, err);
    w->opt.access = NULL; /* borrowed for this call */
    if (rc != 0) {
        ps_free(w);
        return rc;
    }
    *out = w;
    return 0;
}

void ps_s3_writer_close(struct ps_s3_writer *w)
{
    if (!w)
        return;
    w->origin->ops->free(w->origin);
    ps_free(w);
}

static bool interrupted(const struct ps_s3_call *c)
{
    return !c->stubborn && c->w->opt.interrupt && atomic_load(c->w->opt.interrupt);
}

/* Keys, fetched where they are missing. */
static int make_ready(struct ps_s3_call *c, enum ps_retry_class *cls, struct ps_err *err)
{
    struct ps_http_origin *o = c->w->origin;
    const struct ps_http_place none = {.known = false};
    if (o->ops->ready(o, c->object, &none, ps_now_ns()) == PS_HTTP_READY)
        return 0;
    struct ps_http_errand e = {.object = c->object,
                               .stop = &c->w->never,
                               .started_ns = ps_now_ns(),
                               .cls = PS_RETRY_FATAL};
    int rc = o->ops->prepare(o, &e, err);
    *cls = e.cls;
    return rc;
}

static int make_url(struct ps_s3_call *c, struct ps_uri *uri, char **url, struct ps_err *err)
{
    struct ps_http_origin *o = c->w->origin;
    int rc = o->ops->locate(o, c->object, uri, err);
    if (rc != 0)
        return rc;
    if (c->query) {
        ps_free(uri->query);
        uri->query = ps_strdup(c->query);
    }
    *url = (c->query && !uri->query) ? NULL : ps_uri_request(uri);
    return *url ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
}

/* One attempt. 0: some reply came. */
static int attempt(struct ps_s3_call *c, struct ps_fetch_reply *r, uint64_t *ticket,
                   enum ps_retry_class *cls, const char *where, struct ps_err *err)
{
    struct ps_http_origin *o = c->w->origin;
    struct ps_http_headers headers = {.list = NULL};
    struct ps_uri uri = {.scheme = NULL};
    const char *lines[LINES_MAX + 1],
        *keep[PS_FETCH_HEADERS] = {o->ops->headers[0], o->ops->headers[1]};
    char *url = NULL;
    size_t n = 0;
    int rc = make_url(c, &uri, &url, err);
    ps_http_headers_add(&headers, "Expect:"); /* no round trip before the body */
    ps_http_headers_add(&headers, "Content-Type: application/octet-stream");
    struct ps_http_request q = {.method = c->method,
                                .payload_hash = c->hash,
                                .object = c->object,
                                .copy_source = c->copy_source,
                                .copy_range = c->copy_range,
                                .uri = &uri,
                                .home = true,
                                .headers = &headers};
    if (rc == 0 && (o->ops->sign(o, &q) != 0 || headers.failed))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (struct curl_slist *l = headers.list; l && n < LINES_MAX; l = l->next)
        lines[n++] = l->data;
    lines[n] = NULL;
    for (size_t i = 0; c->keep && c->keep[i] && i + 3 < PS_FETCH_HEADERS; i++)
        keep[2 + i] = c->keep[i];
    const struct ps_fetch f = {.method = c->method,
                               .url = url,
                               .headers = lines,
                               .body = c->body,
                               .body_bytes = c->bytes,
                               .max_bytes = c->max_reply_bytes,
                               .timeout_s = c->timeout_s
                                                ? c->timeout_s
                                                : 30 + (unsigned)(c->bytes / SLOWEST_BYTES_S),
                               .connect_timeout_s = c->w->opt.connect_timeout_s,
                               .interrupt = c->stubborn ? NULL : c->w->opt.interrupt,
                               .stats = c->w->opt.stats,
                               .limit = c->w->opt.limit,
                               .ca_file = o->ca_file,
                               .where = where,
                               .keep = keep};
    if (rc == 0)
        rc = ps_http_fetch(r, &f, cls, err);
    *ticket = q.ticket;
    curl_slist_free_all(headers.list);
    ps_uri_deinit(&uri);
    ps_free(url);
    return rc;
}

/* CompleteMultipartUpload may answer 200 and put the error into the body. */
static bool succeeded(const struct ps_fetch_reply *r)
{
    char code[64];
    return r->status / 100 == 2 && !ps_xml_text(r->body.data, r->body.len, "Code", code, sizeof code);
}

static struct ps_judgement first_judgement(int status)
{
    struct ps_judgement j = {.verdict = PS_REPLY_REFUSE,
                             .cls = PS_RETRY_FATAL,
                             .code = status == 404 ? PS_ENOTFOUND : PS_EREFUSED,
                             .what = "server refused to write",
                             .hint = "check the address and the permissions (s3:PutObject)"};
    if (status == 429 || status == 503)
        j.cls = PS_RETRY_THROTTLE;
    else if (status >= 500 || status == 408 || status / 100 == 2)
        j.cls = PS_RETRY_SERVER;
    if (j.cls != PS_RETRY_FATAL) {
        j.code = PS_ENET;
        j.what = "server error";
        j.hint = "try again later";
    }
    return j;
}

/* A reply that is no success: true if it was cured. */
static bool cured(struct ps_s3_call *c, const struct ps_fetch_reply *r, uint64_t ticket,
                  struct ps_judgement *judge)
{
    struct ps_http_origin *o = c->w->origin;
    char seen[PS_HTTP_ORIGIN_HEADERS][PS_HTTP_HEADER_VALUE_MAX] = {{0}};
    for (size_t i = 0; i < 2; i++)
        if (r->values[i] && strlen(r->values[i]) < sizeof seen[i])
            memcpy(seen[i], r->values[i], strlen(r->values[i]) + 1);
    const struct ps_http_answer a = {.status = r->status,
                                     .object = c->object,
                                     .home = true,
                                     .ticket = ticket,
                                     .headers = (const char(*)[PS_HTTP_HEADER_VALUE_MAX])seen,
                                     .body = r->body.data,
                                     .body_bytes = r->body.len,
                                     .wall_s = ps_wall_s(),
                                     .cures = c->cures};
    *judge = first_judgement(r->status);
    return o->ops->cure(o, &a, judge) != PS_HTTP_CURE_NONE && c->cures++ < PS_HTTP_MAX_CURES;
}

/* Waits; false: interrupted. poll, because a signal handler can't wake a condition. */
static bool wait_ns(const struct ps_s3_call *c, uint64_t ns)
{
    for (uint64_t end = ps_now_ns() + ns, now; !interrupted(c) && (now = ps_now_ns()) < end;) {
        uint64_t ms = (end - now) / 1000000 + 1;
        poll(NULL, 0, ms < LOOK_MS ? (int)ms : LOOK_MS);
    }
    return !interrupted(c);
}

static bool try_again(struct ps_s3_call *c, enum ps_retry_class cls, unsigned failures,
                      uint64_t start_ns, uint64_t retry_after_ns)
{
    /* Cleaning up behind a lost network: the next run cleans too. */
    uint64_t deadline_s = c->w->opt.net_deadline_s;
    if (c->stubborn && deadline_s > CLEAN_DEADLINE_S)
        deadline_s = CLEAN_DEADLINE_S;
    const struct ps_retry_in in = {.cls = cls,
                                   .failures = failures,
                                   .elapsed_ns = ps_now_ns() - start_ns,
                                   .deadline_ns = deadline_s * PS_NS_PER_S,
                                   .retry_after_ns = retry_after_ns,
                                   .random = ps_now_ns() * 6364136223846793005ull >> 7};
    struct ps_retry_out out = ps_retry_decide(&in);
    return out.again && wait_ns(c, out.delay_ns);
}

int ps_s3_call(struct ps_s3_call *c, struct ps_fetch_reply *r, struct ps_err *err)
{
    uint64_t start_ns = ps_now_ns(), ticket = 0;
    uint8_t hash[PS_SHA256_BYTES];
    ps_sha256_once(c->body ? c->body : "", c->bytes, hash);
    ps_hex_encode(hash, sizeof hash, c->hash);
    char *where = c->object ? c->w->origin->ops->label(c->w->origin, c->object)
                            : ps_strdup(c->w->origin->label);
    int rc = where ? PS_EAGAIN : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (unsigned failures = 1; rc == PS_EAGAIN;) {
        enum ps_retry_class cls = PS_RETRY_FATAL;
        struct ps_judgement judge;
        uint64_t retry_after_ns = 0;
        rc = make_ready(c, &cls, err);
        rc = rc ? rc : attempt(c, r, &ticket, &cls, where, err);
        if (rc == 0 && succeeded(r))
            break;
        if (rc == 0) {
            bool again = cured(c, r, ticket, &judge);
            retry_after_ns = r->retry_after_ns;
            ps_fetch_reply_deinit(r);
            rc = again ? PS_EAGAIN
                       : ps_err_set(err, judge.code, ORIGIN, "%s: %s: %s", judge.what, where,
                                    judge.hint);
            cls = judge.cls;
        }
        if (rc != PS_EAGAIN && rc != PS_EINTERRUPTED &&
            try_again(c, cls, failures++, start_ns, retry_after_ns))
            rc = PS_EAGAIN;
        if (rc != 0 && interrupted(c))
            rc = ps_err_set(err, PS_EINTERRUPTED, ORIGIN, "interrupted");
    }
    ps_free(where);
    return rc;
}

int ps_s3_put(struct ps_s3_writer *w, const char *object, const void *bytes, size_t n,
              struct ps_err *err)
{
    struct ps_fetch_reply r;
    struct ps_s3_call c = {
        .w = w, .method = "PUT", .object = object, .body = n ? bytes : "", .bytes = n};
    int rc = ps_s3_call(&c, &r, err);
    if (rc == 0)
        ps_fetch_reply_deinit(&r);
    return rc;
}

/* ---- in parts ---- */

static void upload_free(struct ps_s3_upload *u)
{
    for (unsigned i = 0; i < u->parts; i++)
        ps_free(u->etags[i]);
    pthread_mutex_destroy(&u->lock);
    ps_free(u->object);
    ps_free(u);
}

int ps_s3_upload_begin(struct ps_s3_upload **out, struct ps_s3_writer *w, const char *object,
                       struct ps_err *err)
{
    struct ps_fetch_reply r;
    struct ps_s3_upload *u = ps_calloc(1, sizeof *u);
    if (!u)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    pthread_mutex_init(&u->lock, NULL);
    u->w = w;
    u->object = ps_strdup(object);
    struct ps_s3_call c = {.w = w, .method = "POST", .object = object, .query = "uploads=", .body = ""};
    int rc =
        u->object ? ps_s3_call(&c, &r, err) : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc == 0) {
        bool ok = ps_xml_text(r.body.data, r.body.len, "UploadId", u->id, sizeof u->id) && u->id[0];
        ps_fetch_reply_deinit(&r);
        if (!ok)
            rc = ps_err_set(err, PS_EDATA, ORIGIN, "no UploadId: %s: is this an S3 server?",
                            w->origin->label);
    }
    if (rc != 0) {
        upload_free(u);
        return rc;
    }
    *out = u;
    return 0;
}

char *ps_s3_upload_query(const char *id, unsigned number)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, 4 * PS_S3_UPLOAD_ID_MAX);
    if (number)
        ps_strbuf_printf(&b, "partNumber=%u&", number);
    ps_strbuf_puts(&b, "uploadId=");
    ps_uri_escape(&b, id, false);
    char *query = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return query;
}

int ps_s3_upload_note(struct ps_s3_upload *u, unsigned number, char *etag, struct ps_err *err)
{
    if (!etag || strpbrk(etag, "<>&")) {
        ps_free(etag);
        return ps_err_set(err, PS_EDATA, ORIGIN, "no ETag for a part: %s: is this an S3 server?",
                          u->w->origin->label);
    }
    pthread_mutex_lock(&u->lock);
    ps_free(u->etags[number - 1]);
    u->etags[number - 1] = etag;
    if (number > u->parts)
        u->parts = number;
    pthread_mutex_unlock(&u->lock);
    return 0;
}

int ps_s3_upload_part(struct ps_s3_upload *u, unsigned number, const void *bytes, size_t n,
                      struct ps_err *err)
{
    static const char *const keep[] = {"etag", NULL};
    struct ps_fetch_reply r;
    PS_ASSERT(number >= 1 && number <= PS_S3_PARTS_MAX);
    char *query = ps_s3_upload_query(u->id, number);
    if (!query)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    struct ps_s3_call c = {.w = u->w,
                           .method = "PUT",
                           .object = u->object,
                           .query = query,
                           .body = n ? bytes : "",
                           .bytes = n,
                           .keep = keep};
    int rc = ps_s3_call(&c, &r, err);
    ps_free(query);
    if (rc != 0)
        return rc;
    rc = ps_s3_upload_note(u, number, r.values[2], err);
    r.values[2] = NULL;
    ps_fetch_reply_deinit(&r);
    return rc;
}

static char *part_list(struct ps_s3_upload *u, size_t *bytes)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, COMPLETE_MAX);
    ps_strbuf_puts(&b, "<CompleteMultipartUpload>");
    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < u->parts; i++) {
        PS_ASSERT(u->etags[i]); /* no gaps */
        ps_strbuf_printf(&b, "<Part><PartNumber>%u</PartNumber><ETag>%s</ETag></Part>", i + 1,
                         u->etags[i]);
    }
    pthread_mutex_unlock(&u->lock);
    ps_strbuf_puts(&b, "</CompleteMultipartUpload>");
    char *text = ps_strbuf_take(&b, bytes);
    ps_strbuf_deinit(&b);
    return text;
}

int ps_s3_upload_complete(struct ps_s3_upload *u, struct ps_err *err)
{
    struct ps_fetch_reply r;
    size_t n = 0;
    char *list = part_list(u, &n), *query = ps_s3_upload_query(u->id, 0);
    struct ps_s3_call c = {
        .w = u->w, .method = "POST", .object = u->object, .query = query, .body = list, .bytes = n};
    int rc = list && query ? ps_s3_call(&c, &r, err)
                           : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    ps_free(list);
    ps_free(query);
    if (rc != 0) {
        ps_s3_upload_abort(u);
        return rc;
    }
    ps_fetch_reply_deinit(&r);
    upload_free(u);
    return 0;
}

void ps_s3_upload_abort(struct ps_s3_upload *u)
{
    struct ps_fetch_reply r;
    char *query = ps_s3_upload_query(u->id, 0);
    struct ps_s3_call c = {
        .w = u->w, .method = "DELETE", .object = u->object, .query = query, .stubborn = true};
    if (query && ps_s3_call(&c, &r, NULL) == 0)
        ps_fetch_reply_deinit(&r);
    ps_free(query);
    upload_free(u);
}
