/* Listing, removing and copying objects of an S3 prefix, and ending uploads that a killed run left open. Comes in:
 * names below the writer's prefix. Goes out: small requests; lists of the server are taken page by page. See
 * s3_upload.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/strbuf.h"
#include "fetcher/http_internal.h"
#include "fetcher/s3_upload_internal.h"
#include "fetcher/store_impl.h"
#include "fetcher/xml_scan.h"
#include "proto/parallel.h"

#define ORIGIN         "fetcher"
#define KEY_MAX        1100u /* keys are at most 1,024 bytes */
#define PAGE_MAX       (4u << 20)
#define PAGES_MAX      10000u
#define COPY_PART      (256ull << 20)
#define COPY_TIMEOUT_S 600u

int ps_s3_delete(struct ps_s3_writer *w, const char *object, struct ps_err *err)
{
    struct ps_fetch_reply r;
    struct ps_s3_call c = {.w = w, .method = "DELETE", .object = object, .stubborn = true};
    int rc = ps_s3_call(&c, &r, err);
    if (rc == PS_ENOTFOUND)
        return 0;
    if (rc == 0)
        ps_fetch_reply_deinit(&r);
    return rc;
}

/* ---- lists ---- */

/* A list under way: its question, and what each page tells of where the next one begins. */
struct list {
    struct ps_s3_writer *w;
    char *prefix;         /* of all keys */
    const char *begins;   /* behind it */
    const char *question; /* "list-type=2", "uploads=" */
    const char *element;  /* "Contents", "Upload" */
    char token[KEY_MAX],
        second[PS_S3_UPLOAD_ID_MAX]; /* where the next page begins; "": at the beginning */
    bool (*item)(struct list *l, const char *xml, size_t n, const char *object); /* false: enough */
    void *user;
    bool (*fn)(void *user, const char *object);
    unsigned count;
    int rc; /* of item */
    struct ps_err err;
};

static bool is_uploads(const struct list *l)
{
    return strcmp(l->question, "uploads=") == 0;
}

static char *page_query(const struct list *l)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, 16 * KEY_MAX);
    ps_strbuf_printf(&b, "%s&prefix=", l->question);
    ps_uri_escape(&b, l->prefix, false);
    ps_uri_escape(&b, l->begins, false);
    if (l->token[0]) {
        ps_strbuf_puts(&b, is_uploads(l) ? "&key-marker=" : "&continuation-token=");
        ps_uri_escape(&b, l->token, false);
    }
    if (l->token[0] && is_uploads(l)) {
        ps_strbuf_puts(&b, "&upload-id-marker=");
        ps_uri_escape(&b, l->second, false);
    }
    char *query = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return query;
}

/* The elements of one page. False: enough. */
static bool take_page(struct list *l, const char *xml, size_t n)
{
    char open[16], close[16], key[KEY_MAX];
    const char *end = xml + n;
    int open_len = snprintf(open, sizeof open, "<%s>", l->element);
    int close_len = snprintf(close, sizeof close, "</%s>", l->element);
    size_t prefix = strlen(l->prefix), begins = strlen(l->begins);
    for (;;) {
        const char *from = memmem(xml, (size_t)(end - xml), open, (size_t)open_len);
        const char *to = from ? memmem(from, (size_t)(end - from), close, (size_t)close_len) : NULL;
        if (!to)
            return true;
        /* a server that lists what was not asked for must not make us remove it */
        bool ours = ps_xml_text(from, (size_t)(to - from), "Key", key, sizeof key) &&
                    strncmp(key, l->prefix, prefix) == 0 &&
                    strncmp(key + prefix, l->begins, begins) == 0;
        if (ours && !l->item(l, from, (size_t)(to - from), key + prefix))
            return false;
        xml = to + close_len;
    }
}

/* Whether there is a next page; PS_EDATA: the server says so but not where. */
static int next_page(struct list *l, const char *xml, size_t n, bool *more, struct ps_err *err)
{
    char truncated[8], before[KEY_MAX], before_id[PS_S3_UPLOAD_ID_MAX];
    *more = ps_xml_text(xml, n, "IsTruncated", truncated, sizeof truncated) &&
            strcmp(truncated, "true") == 0;
    if (!*more)
        return 0;
    memcpy(before, l->token, sizeof before);
    memcpy(before_id, l->second, sizeof before_id);
    bool ok = ps_xml_text(xml, n, is_uploads(l) ? "NextKeyMarker" : "NextContinuationToken",
                          l->token, sizeof l->token);
    if (is_uploads(l))
        ok &= ps_xml_text(xml, n, "NextUploadIdMarker", l->second, sizeof l->second);
    if (!ok || (strcmp(before, l->token) == 0 && strcmp(before_id, l->second) == 0))
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "a list has no next page: %s: is this an S3 server?", l->w->origin->label);
    return 0;
}

static int run_list(struct list *l, struct ps_err *err)
{
    bool more = true;
    int rc = 0;
    l->prefix = ps_s3_origin_prefix(l->w->origin);
    if (!l->prefix)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (unsigned page = 0; rc == 0 && more && page < PAGES_MAX; page++) {
        struct ps_fetch_reply r;
        char *query = page_query(l);
        struct ps_s3_call c = {.w = l->w, .method = "GET", .query = query, .max_reply_bytes = PAGE_MAX};
        rc = query ? ps_s3_call(&c, &r, err) : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
        ps_free(query);
        if (rc != 0)
            break;
        bool on = take_page(l, r.body.data, r.body.len);
        rc = l->rc;
        if (rc != 0 && err)
            *err = l->err;
        if (rc == 0)
            rc = next_page(l, r.body.data, r.body.len, &more, err);
        more &= on;
        ps_fetch_reply_deinit(&r);
    }
    ps_free(l->prefix);
    return rc;
}

static bool tell_object(struct list *l, const char *xml, size_t n, const char *object)
{
    (void)xml, (void)n;
    return l->fn(l->user, object);
}

int ps_s3_list(struct ps_s3_writer *w, const char *begins,
               bool (*fn)(void *user, const char *object), void *user, struct ps_err *err)
{
    struct list l = {.w = w,
                     .begins = begins,
                     .question = "list-type=2",
                     .element = "Contents",
                     .item = tell_object,
                     .fn = fn,
                     .user = user};
    return run_list(&l, err);
}

static bool abort_one(struct list *l, const char *xml, size_t n, const char *object)
{
    struct ps_fetch_reply r;
    char id[PS_S3_UPLOAD_ID_MAX];
    if (!ps_xml_text(xml, n, "UploadId", id, sizeof id) || !id[0])
        return true;
    char *query = ps_s3_upload_query(id, 0);
    struct ps_s3_call c = {
        .w = l->w, .method = "DELETE", .object = object, .query = query, .stubborn = true};
    l->rc = query ? ps_s3_call(&c, &r, &l->err)
                  : ps_err_set(&l->err, PS_ENOMEM, ORIGIN, "out of memory");
    ps_free(query);
    if (l->rc == 0)
        ps_fetch_reply_deinit(&r);
    if (l->rc == PS_ENOTFOUND) /* ended by itself meanwhile */
        l->rc = 0;
    l->count += l->rc == 0;
    return l->rc == 0;
}

int ps_s3_abort_uploads(struct ps_s3_writer *w, const char *begins, unsigned *aborted,
                        struct ps_err *err)
{
    struct list l = {
        .w = w, .begins = begins, .question = "uploads=", .element = "Upload", .item = abort_one};
    int rc = run_list(&l, err);
    if (aborted)
        *aborted = l.count;
    return rc;
}

/* ---- copies ---- */

struct copy {
    struct ps_s3_upload *u;
    char *source;
    uint64_t bytes;
};

static int copy_part(void *user, uint32_t i, struct ps_err *err)
{
    const struct copy *k = user;
    struct ps_fetch_reply r;
    uint64_t from = i * COPY_PART, to = from + COPY_PART < k->bytes ? from + COPY_PART : k->bytes;
    char range[64], etag[256];
    char *query = ps_s3_upload_query(k->u->id, i + 1);
    snprintf(range, sizeof range, "bytes=%" PRIu64 "-%" PRIu64, from, to - 1);
    struct ps_s3_call c = {.w = k->u->w,
                           .method = "PUT",
                           .object = k->u->object,
                           .query = query,
                           .copy_source = k->source,
                           .copy_range = range,
                           .body = "",
                           .timeout_s = COPY_TIMEOUT_S};
    int rc = query ? ps_s3_call(&c, &r, err) : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    ps_free(query);
    if (rc != 0)
        return rc;
    bool ok = ps_xml_text(r.body.data, r.body.len, "ETag", etag, sizeof etag) && etag[0];
    ps_fetch_reply_deinit(&r);
    return ps_s3_upload_note(k->u, i + 1, ok ? ps_strdup(etag) : NULL, err);
}

int ps_s3_copy(struct ps_s3_writer *w, const char *from, const char *to, uint64_t bytes,
               struct ps_err *err)
{
    struct copy k = {.bytes = bytes, .source = ps_s3_origin_source(w->origin, from)};
    uint64_t parts = (bytes + COPY_PART - 1) / COPY_PART;
    if (!k.source)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    int rc = parts > PS_S3_PARTS_MAX
                 ? ps_err_set(err, PS_EUNSUPPORTED, ORIGIN, "%s is too large to be copied", from)
                 : ps_s3_upload_begin(&k.u, w, to, err);
    if (rc == 0) {
        rc = ps_parallel((uint32_t)parts, copy_part, &k, err);
        if (rc == 0)
            rc = ps_s3_upload_complete(k.u, err);
        else
            ps_s3_upload_abort(k.u);
    }
    ps_free(k.source);
    return rc;
}
