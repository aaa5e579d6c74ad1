/* Resolving files of the Hub. See hf_origin.h. */
#include "fetcher/hf_origin.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "fetcher/hf_reply.h"
#include "fetcher/http_fetch.h"

#define ORIGIN   "fetcher"
#define BUCKETS  64u
#define MAX_HOPS 5
/* A link that says nothing of its end. When it has ended, the CDN's refusal tells. */
#define UNSIGNED_LIFE_S 3600u
/* On the Hub's own host, by commit: nothing about it ends. */
#define HOME_LIFE_S (24u * 3600u)
#define ODD_LIFE_S  60u
/* Renewed so long before its end, or in the last quarter of a short life. */
#define RENEW_BEFORE_NS (60 * PS_NS_PER_S)

/* A file that was asked about. Made at its first question, lives as long as the origin. */
struct hf_file {
    struct hf_file *next;
    char *name;
    /* origin's lock */
    char content[PS_ETAG_MAX]; /* "" as long as unknown */
    uint64_t renew_ns;
};

struct hf_origin {
    struct ps_http_origin base;
    const struct ps_hf_ref *ref;           /* borrowed */
    const struct ps_hf_settings *settings; /* borrowed */
    unsigned connect_timeout_s, timeout_s;
    struct ps_stats *stats;
    struct ps_rate_limit *limit;
    struct ps_fetch_lines *lines; /* the questions of a start go over a few connections */
    char *ca_file;                /* nullable */
    char *authorization;          /* nullable: a whole header line */
    char *hints[PS_HF_REFUSALS];
    pthread_mutex_t lock;
    char commit[PS_HF_COMMIT_DIGITS + 1]; /* lock: "" until a reply has told it, then fixed */
    struct hf_file *files[BUCKETS];       /* lock */
};

/* ---- what is known ---- */

static struct hf_file **bucket_of(struct hf_origin *o, const char *name)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return &o->files[h % BUCKETS];
}

static struct hf_file *find_locked(struct hf_origin *o, const char *name)
{
    struct hf_file *f = *bucket_of(o, name);
    while (f && strcmp(f->name, name) != 0)
        f = f->next;
    return f;
}

static struct hf_file *add_locked(struct hf_origin *o, const char *name)
{
    struct hf_file *f = find_locked(o, name), **bucket = bucket_of(o, name);
    if (f)
        return f;
    f = ps_calloc(1, sizeof *f);
    if (f)
        f->name = ps_strdup(name);
    if (!f || !f->name) {
        ps_free(f);
        return NULL;
    }
    f->next = *bucket;
    return *bucket = f;
}

static void revision_now(struct hf_origin *o, char *out, size_t cap)
{
    pthread_mutex_lock(&o->lock);
    snprintf(out, cap, "%s", o->commit[0] ? o->commit : o->ref->revision);
    pthread_mutex_unlock(&o->lock);
}

/* The first commit that a reply names is the one of this run. False: this reply was of another one, because the branch
 * has moved since. */
static bool pin(struct hf_origin *o, const char *commit)
{
    bool same = true;
    pthread_mutex_lock(&o->lock);
    if (commit[0] && !o->commit[0]) {
        memcpy(o->commit, commit, sizeof o->commit);
        ps_log(PS_LOG_INFO, "fetcher", "%s is commit %s", o->base.label, commit);
    } else if (commit[0])
        same = strcmp(o->commit, commit) == 0;
    pthread_mutex_unlock(&o->lock);
    return same;
}

bool ps_hf_origin_commit(struct ps_http_origin *base, char commit[PS_HF_COMMIT_DIGITS + 1])
{
    struct hf_origin *o = (struct hf_origin *)base;
    pthread_mutex_lock(&o->lock);
    memcpy(commit, o->commit, sizeof o->commit);
    pthread_mutex_unlock(&o->lock);
    return commit[0] != '\0';
}

bool ps_hf_identity(char *out, size_t cap, const char *content, const char *commit,
                    const char *folder, const char *file)
{
    if (ps_hf_content_is_sha256(content))
        return (size_t)snprintf(out, cap, "sha256:%s", content) < cap;
    if (!commit[0])
        return false;
    return (size_t)snprintf(out, cap, "git:%s/%s%s%s", commit, folder, folder[0] ? "/" : "", file) <
           cap;
}

/* ---- addresses ---- */

static int address_of(struct hf_origin *o, const char *revision, const char *file,
                      struct ps_uri *out, struct ps_err *err)
{
    char *base = ps_hf_files_address(o->ref, o->settings->endpoint, revision);
    struct ps_uri uri;
    int rc =
        base ? ps_uri_parse(&uri, base, err) : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    ps_free(base);
    if (rc != 0)
        return rc;
    rc = ps_uri_enter(&uri, file, err);
    if (rc != 0)
        ps_uri_deinit(&uri);
    else
        *out = uri;
    return rc;
}

static int hf_locate(struct ps_http_origin *base, const char *file, struct ps_uri *out,
                     struct ps_err *err)
{
    struct hf_origin *o = (struct hf_origin *)base;
    char revision[512];
    revision_now(o, revision, sizeof revision);
    return address_of(o, revision, file, out, err);
}

static char *hf_object_label(struct ps_http_origin *base, const char *file)
{
    struct hf_origin *o = (struct hf_origin *)base;
    struct ps_uri uri;
    if (address_of(o, o->ref->revision, file, &uri, NULL) != 0)
        return NULL;
    char *label = ps_uri_label(&uri);
    ps_uri_deinit(&uri);
    return label;
}

static int hf_sign(struct ps_http_origin *base, struct ps_http_request *q)
{
    const struct hf_origin *o = (const struct hf_origin *)base;
    if (q->home && o->authorization)
        ps_http_headers_add(q->headers, "%s", o->authorization);
    return 0;
}

/* ---- one question ---- */

struct answer {
    int status;
    uint64_t retry_after_ns;
    struct ps_hf_facts facts;
    char *location; /* nullable, heap */
};

static int ask(struct hf_origin *o, struct ps_http_errand *e, const struct ps_uri *at, bool home,
               struct answer *out, struct ps_err *err)
{
    const char *headers[] = {"Accept-Encoding: identity", home ? o->authorization : NULL, NULL};
    char *url = ps_uri_request(at), *where = ps_uri_label(at);
    struct ps_fetch_reply r;
    const struct ps_fetch f = {.method = "HEAD",
                               .url = url,
                               .headers = headers,
                               .timeout_s = o->timeout_s,
                               .connect_timeout_s = o->connect_timeout_s,
                               .stop = e->stop,
                               .lines = o->lines,
                               .ca_file = o->base.ca_file,
                               .stats = o->stats,
                               .limit = o->limit,
                               .where = where,
                               .keep = ps_hf_headers};
    int rc = url && where ? ps_http_fetch(&r, &f, &e->cls, err)
                          : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    ps_free(url);
    ps_free(where);
    if (rc != 0)
        return rc;
    *out = (struct answer){.status = r.status, .retry_after_ns = r.retry_after_ns};
    for (size_t i = 0; ps_hf_headers[i]; i++)
        ps_hf_facts_put(&out->facts, ps_hf_headers[i], r.values[i]);
    out->location = r.values[PS_HF_HEADER_LOCATION];
    r.values[PS_HF_HEADER_LOCATION] = NULL;
    ps_fetch_reply_deinit(&r);
    return 0;
}

/* ---- refusals ---- */

/* Statuses that every server gives in the same sense. */
static int refuse_plainly(struct ps_http_errand *e, const struct answer *a, const char *where,
                          struct ps_err *err)
{
    bool throttled = a->status == 429 || a->status == 503;
    e->cls = throttled          ? PS_RETRY_THROTTLE
             : a->status >= 500 ? PS_RETRY_SERVER
             : a->status == 408 ? PS_RETRY_TRANSPORT
                                : PS_RETRY_FATAL;
    e->retry_after_ns = a->retry_after_ns;
    if (a->status == 429)
        return ps_err_set(
            err, PS_ENET, ORIGIN,
            "HTTP 429 too many requests: %s: the Hub allows more in %llu s, or with a token", where,
            (unsigned long long)(a->retry_after_ns / PS_NS_PER_S));
    return ps_err_set(err, e->cls == PS_RETRY_FATAL ? PS_EREFUSED : PS_ENET, ORIGIN,
                      "HTTP %d: %s: %s", a->status, where,
                      e->cls == PS_RETRY_FATAL ? "is this a Hub?" : "try again later");
}

static int refuse(struct hf_origin *o, struct ps_http_errand *e, const struct answer *a,
                  struct ps_err *err)
{
    enum ps_hf_refusal r = ps_hf_refusal_of(a->status, &a->facts);
    char *where = hf_object_label(&o->base, e->object);
    int rc;
    if (r == PS_HF_OTHER)
        rc = refuse_plainly(e, a, where ? where : e->object, err);
    else {
        e->cls = PS_RETRY_FATAL;
        rc = ps_err_set(err, ps_hf_refusal_code(r), ORIGIN, "%s: %s: %s", ps_hf_refusal_what(r),
                        where ? where : e->object, o->hints[r]);
    }
    ps_free(where);
    return rc;
}

/* The same words for a refusal that a request for bytes meets. */
static enum ps_http_cure hf_cure(struct ps_http_origin *base, const struct ps_http_answer *a,
                                 struct ps_judgement *judge)
{
    struct hf_origin *o = (struct hf_origin *)base;
    struct ps_hf_facts f = {0};
    if (!a->home || judge->verdict != PS_REPLY_REFUSE)
        return PS_HTTP_CURE_NONE;
    for (size_t i = 0; base->ops->headers[i]; i++)
        ps_hf_facts_put(&f, base->ops->headers[i], a->headers[i]);
    enum ps_hf_refusal r = ps_hf_refusal_of(a->status, &f);
    if (r == PS_HF_OTHER)
        return PS_HTTP_CURE_NONE;
    judge->code = ps_hf_refusal_code(r);
    judge->what = ps_hf_refusal_what(r);
    judge->hint = o->hints[r];
    return PS_HTTP_CURE_NONE;
}

/* ---- resolving ---- */

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Is this the reply about the file, or one that only says where the repository has gone? */
static bool is_about_file(const struct answer *a, bool same_origin)
{
    return !same_origin || a->facts.linked || (a->facts.commit[0] && a->facts.content[0]);
}

/* Moves *at along the redirect; *home is lost when the host changes. */
static int follow(struct ps_uri *at, bool *home, const struct answer *a, struct ps_err *err)
{
    struct ps_uri next;
    int rc = a->location ? ps_uri_resolve(&next, at, a->location, err)
                         : ps_err_set(err, PS_EDATA, ORIGIN, "redirect without a usable Location");
    if (rc != 0) {
        char *where = ps_uri_label(at);
        ps_err_prefix(err, "%s", where ? where : "the Hub");
        ps_free(where);
        return rc;
    }
    *home = *home && ps_uri_same_origin(&next, at);
    ps_uri_deinit(at);
    *at = next;
    return 0;
}

/* Asks until a reply tells of the file itself. *at: where its bytes lie. A HEAD that a server can't do is no failure:
 * the bytes are then asked for right there. */
static int resolve(struct hf_origin *o, struct ps_http_errand *e, struct ps_uri *at, bool *home,
                   struct answer *a, struct ps_err *err)
{
    *home = true;
    for (int hop = 0; hop <= MAX_HOPS; hop++) {
        ps_free(a->location);
        a->location = NULL;
        int rc = ask(o, e, at, *home, a, err);
        if (rc != 0 || a->status == 405 || a->status == 501 || (a->status >= 200 && a->status < 300))
            return rc;
        if (!is_redirect(a->status))
            return refuse(o, e, a, err);
        rc = follow(at, home, a, err);
        if (rc != 0 || is_about_file(a, *home))
            return rc;
    }
    return ps_err_set(err, PS_EREFUSED, ORIGIN,
                      "too many redirects: %s: check HF_ENDPOINT for a loop", o->base.label);
}

/* Seconds that a place may be used. The server's clock tells how much of a link's life is left; one that seems to have
 * ended on arrival (clocks that disagree) is tried all the same: asking for another would give the same. */
static uint64_t life_of(const struct ps_uri *at, bool home, const struct ps_hf_facts *f)
{
    uint64_t until = ps_signed_until(at->query), now = f->date_s ? f->date_s : ps_wall_s();
    if (until == 0)
        return home ? HOME_LIFE_S : UNSIGNED_LIFE_S;
    return until > now ? until - now : ODD_LIFE_S;
}

static void fill_place(struct ps_http_errand *e, struct hf_file *file, struct ps_uri *at, bool home,
                       const struct answer *a)
{
    uint64_t life_s = life_of(at, home, &a->facts), now_ns = ps_now_ns();
    uint64_t life_ns = life_s * PS_NS_PER_S;
    uint64_t early_ns = life_ns / 4 < RENEW_BEFORE_NS ? life_ns / 4 : RENEW_BEFORE_NS;
    /* A request takes a moment to get there, and both clocks tell whole seconds. */
    uint64_t margin_ns = life_s > 2 ? PS_NS_PER_S + life_ns / 64 : life_ns / 2;
    file->renew_ns = now_ns + life_ns - (early_ns > margin_ns ? early_ns : margin_ns);
    e->place = (struct ps_http_place){.known = true,
                                      .uri = *at,
                                      .home = home,
                                      .until_ns = now_ns + life_ns - margin_ns};
    memset(at, 0, sizeof *at);
    e->object_bytes = a->facts.has_bytes ? a->facts.bytes : 0;
    e->new_tags = true;
    ps_log(PS_LOG_DEBUG, "fetcher", "%s lies at %s://%s, for %llu s", file->name,
           e->place.uri.scheme, e->place.uri.host, (unsigned long long)life_s);
}

/* Notes what the reply says of the file and hands the place over. */
static int accept(struct hf_origin *o, struct ps_http_errand *e, struct ps_uri *at, bool home,
                  const struct answer *a, struct ps_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&o->lock);
    struct hf_file *file = add_locked(o, e->object);
    if (!file)
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    else if (file->content[0] && a->facts.content[0] && strcmp(file->content, a->facts.content) != 0)
        rc = ps_err_set(err, PS_EDATA, ORIGIN,
                        "object changed under way: %s/%s: start again to use the new version",
                        o->base.label, e->object);
    else {
        memcpy(file->content, a->facts.content, sizeof file->content);
        fill_place(e, file, at, home, a);
    }
    pthread_mutex_unlock(&o->lock);
    return rc;
}

static int hf_prepare(struct ps_http_origin *base, struct ps_http_errand *e, struct ps_err *err)
{
    struct hf_origin *o = (struct hf_origin *)base;
    int rc = 0;
    /* Twice: the first files of a run ask for the branch at the same time, and it may move between. */
    for (int i = 0; i < 2; i++) {
        char revision[512];
        struct ps_uri at;
        struct answer a = {0};
        bool home;
        revision_now(o, revision, sizeof revision);
        rc = address_of(o, revision, e->object, &at, err);
        if (rc != 0)
            return rc;
        rc = resolve(o, e, &at, &home, &a, err);
        bool pinned = pin(o, a.facts.commit);
        if (rc == 0 && pinned)
            rc = accept(o, e, &at, home, &a, err);
        ps_uri_deinit(&at);
        ps_free(a.location);
        if (pinned)
            return rc;
    }
    return rc != 0
               ? rc
               : ps_err_set(err, PS_EDATA,
                            ORIGIN, "the Hub answers with another commit than asked for: %s: is a proxy in between?",
                            o->base.label);
}

static enum ps_http_ready hf_ready(struct ps_http_origin *base, const char *file,
                                   const struct ps_http_place *place, uint64_t now_ns)
{
    struct hf_origin *o = (struct hf_origin *)base;
    if (!place->known)
        return PS_HTTP_WAIT;
    pthread_mutex_lock(&o->lock);
    const struct hf_file *f = find_locked(o, file);
    enum ps_http_ready ready = f && now_ns >= f->renew_ns ? PS_HTTP_RENEW : PS_HTTP_READY;
    pthread_mutex_unlock(&o->lock);
    return ready;
}

static void hf_name_version(struct ps_http_origin *base, const char *file, const char *version,
                            uint64_t bytes, char *out, size_t cap)
{
    struct hf_origin *o = (struct hf_origin *)base;
    pthread_mutex_lock(&o->lock);
    const struct hf_file *f = find_locked(o, file);
    bool known = ps_hf_identity(out, cap, f ? f->content : "", o->commit, o->ref->folder, file);
    pthread_mutex_unlock(&o->lock);
    char where[1600];
    snprintf(where, sizeof where, "%s/%s", o->base.label, file);
    if (!known)
        ps_http_identity(out, cap, "hf", version, bytes, where);
}

/* ---- life ---- */

static void hf_free(struct ps_http_origin *base)
{
    struct hf_origin *o = (struct hf_origin *)base;
    for (unsigned i = 0; i < BUCKETS; i++)
        while (o->files[i]) {
            struct hf_file *f = o->files[i];
            o->files[i] = f->next;
            ps_free(f->name);
            ps_free(f);
        }
    for (unsigned i = 0; i < PS_HF_REFUSALS; i++)
        ps_free(o->hints[i]);
    ps_fetch_lines_free(o->lines);
    if (o->authorization)
        explicit_bzero(o->authorization, strlen(o->authorization));
    ps_free(o->authorization);
    ps_free(o->ca_file);
    ps_free(o->base.label);
    pthread_mutex_destroy(&o->lock);
    ps_free(o);
}

static const char *const cure_headers[] = {"x-error-code", "x-error-message", NULL};

static const struct ps_http_origin_ops hf_ops = {
    .scheme = "hf",
    .headers = cure_headers,
    .locate = hf_locate,
    .label = hf_object_label,
    .sign = hf_sign,
    .cure = hf_cure,
    .ready = hf_ready,
    .prepare = hf_prepare,
    .errand_threads = PS_HTTP_ERRANDS_MAX, /* a model of 160 files has as many addresses to ask for */
    .identity = hf_name_version,
    .free = hf_free,
};

static bool make_texts(struct hf_origin *o)
{
    const char *token = o->settings->token;
    bool ok = (o->base.label = ps_hf_label(o->ref)) != NULL;
    for (int i = 0; i < PS_HF_REFUSALS && ok; i++)
        ok = (o->hints[i] = ps_hf_refusal_hint((enum ps_hf_refusal)i, o->ref, o->settings)) != NULL;
    if (!ok || !token)
        return ok;
    size_t n = strlen(token) + sizeof "Authorization: Bearer ";
    o->authorization = ps_malloc(n);
    if (o->authorization)
        snprintf(o->authorization, n, "Authorization: Bearer %s", token);
    return o->authorization != NULL;
}

int ps_hf_origin_new(struct ps_http_origin **out, const struct ps_hf_ref *ref,
                     const struct ps_hf_settings *settings, const struct ps_store_options *options,
                     struct ps_err *err)
{
    struct hf_origin *o = ps_calloc(1, sizeof *o);
    if (!o)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    o->base.ops = &hf_ops;
    o->ref = ref;
    o->settings = settings;
    o->connect_timeout_s = options ? options->connect_timeout_s : 0;
    o->timeout_s = options ? options->net_stall_s : 0;
    o->stats = options ? options->stats : NULL;
    o->limit = options ? options->limit : NULL;
    pthread_mutex_init(&o->lock, NULL);
    if (ps_hf_is_commit(ref->revision))
        memcpy(o->commit, ref->revision, sizeof o->commit);
    const char *ca_file = options && options->access ? options->access->ca_file : NULL;
    o->base.ca_file = o->ca_file = ca_file ? ps_strdup(ca_file) : NULL;
    if ((ca_file && !o->ca_file) || ps_fetch_lines_new(&o->lines) != 0 || !make_texts(o)) {
        hf_free(&o->base);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    *out = &o->base;
    return 0;
}
