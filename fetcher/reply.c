/* Reply parsing and checking. See reply.h. */
#include "fetcher/reply.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"

#define EPOCH_MIN_S 1000000000u /* a smaller number of seconds is a span, a larger one a date */
#define RETRY_AFTER_MAX_S                                                                          \
    31536000u /* a year: beyond any deadline, and far from overflow in nanoseconds */

/* ---- scanning ---- */

struct scan {
    const char *p, *end;
};

static void skip_space(struct scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t'))
        s->p++;
}

static bool take_char(struct scan *s, char c)
{
    if (s->p >= s->end || *s->p != c)
        return false;
    s->p++;
    return true;
}

/* Decimal digits, at least one, no overflow. */
static bool take_number(struct scan *s, uint64_t *out)
{
    const char *start = s->p;
    uint64_t v = 0;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9') {
        unsigned d = (unsigned)(*s->p - '0');
        if (v > (UINT64_MAX - d) / 10)
            return false;
        v = v * 10 + d;
        s->p++;
    }
    if (s->p == start)
        return false;
    *out = v;
    return true;
}

static bool take_word(struct scan *s, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(s->end - s->p) < n || strncasecmp(s->p, word, n) != 0)
        return false;
    s->p += n;
    return true;
}

/* ---- Content-Range ---- */

static bool scan_total(struct scan *s, struct ps_content_range *r)
{
    if (take_char(s, '*'))
        return true;
    r->total_known = true;
    return take_number(s, &r->total);
}

static bool scan_span(struct scan *s, struct ps_content_range *r)
{
    uint64_t last;
    r->satisfied = true;
    if (!take_number(s, &r->from) || !take_char(s, '-') || !take_number(s, &last))
        return false;
    if (last < r->from || last == UINT64_MAX)
        return false;
    r->to = last + 1;
    return true;
}

int ps_content_range_parse(struct ps_content_range *out, const char *value, size_t len)
{
    struct scan s = {value, value + len};
    struct ps_content_range r = {.satisfied = false};
    skip_space(&s);
    if (!take_word(&s, "bytes") || s.p >= s.end || (*s.p != ' ' && *s.p != '\t'))
        return PS_EDATA;
    skip_space(&s);
    if (!take_char(&s, '*') && !scan_span(&s, &r))
        return PS_EDATA;
    if (!take_char(&s, '/') || !scan_total(&s, &r))
        return PS_EDATA;
    skip_space(&s);
    if (s.p != s.end)
        return PS_EDATA;
    if (r.satisfied ? (r.total_known && r.total < r.to) : !r.total_known)
        return PS_EDATA;
    *out = r;
    return 0;
}

/* ---- header lines ---- */

void ps_reply_init(struct ps_reply *r)
{
    memset(r, 0, sizeof *r);
}

/* "HTTP/1.1 206 Partial Content", "HTTP/2 206". */
static void on_status(struct ps_reply *r, struct scan s)
{
    uint64_t status;
    ps_reply_init(r);
    while (s.p < s.end && *s.p != ' ')
        s.p++;
    skip_space(&s);
    if (take_number(&s, &status) && status >= 100 && status <= 999)
        r->status = (int)status;
    else
        r->malformed = true;
}

static void on_length(struct ps_reply *r, struct scan s)
{
    uint64_t v;
    if (!take_number(&s, &v) || s.p != s.end || (r->has_length && v != r->length))
        r->malformed = true;
    else {
        r->has_length = true;
        r->length = v;
    }
}

static void on_range(struct ps_reply *r, struct scan s)
{
    struct ps_content_range v;
    if (ps_content_range_parse(&v, s.p, (size_t)(s.end - s.p)) != 0) {
        r->malformed = true;
        return;
    }
    if (r->has_range &&
        (v.satisfied != r->range.satisfied || v.from != r->range.from || v.to != r->range.to ||
         v.total_known != r->range.total_known || v.total != r->range.total))
        r->malformed = true;
    r->has_range = true;
    r->range = v;
}

/* entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE. Anything else is treated as no ETag at all: it
 * could not be sent back. */
static void on_etag(struct ps_reply *r, struct scan s)
{
    bool weak = take_word(&s, "W/");
    size_t n = (size_t)(s.end - s.p);
    if (n < 2 || n >= sizeof r->etag || s.p[0] != '"' || s.p[n - 1] != '"')
        return;
    for (size_t i = 1; i + 1 < n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c <= 0x20 || c == 0x7f)
            return;
    }
    if (r->etag[0] && (strlen(r->etag) != n || memcmp(r->etag, s.p, n) != 0))
        r->malformed = true;
    memcpy(r->etag, s.p, n);
    r->etag[n] = '\0';
    r->etag_weak = weak;
}

/* Keeps a value that fits; one that does not fit is as good as none. */
static void keep(char *to, size_t cap, struct scan s)
{
    size_t n = (size_t)(s.end - s.p);
    if (n >= cap || memchr(s.p, '\0', n))
        n = 0;
    memcpy(to, s.p, n);
    to[n] = '\0';
}

static void on_encoding(struct ps_reply *r, struct scan s)
{
    struct scan rest = s;
    if (s.p == s.end || (take_word(&rest, "identity") && rest.p == rest.end))
        return;
    r->encoded = true;
    if ((size_t)(s.end - s.p) >= sizeof r->encoding)
        s.end = s.p + sizeof r->encoding - 1;
    keep(r->encoding, sizeof r->encoding, s);
}

static void longer_wait(struct ps_reply *r, uint64_t seconds)
{
    if (seconds > RETRY_AFTER_MAX_S)
        seconds = RETRY_AFTER_MAX_S;
    if (seconds * PS_NS_PER_S > r->retry_after_ns)
        r->retry_after_ns = seconds * PS_NS_PER_S;
}

/* IMF-fixdate only, "Sun, 06 Nov 1994 08:49:37 GMT": the one form that RFC 9110 lets senders
 * generate. */
static bool http_date(struct scan s, uint64_t *out)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    uint64_t day, year, hour, minute, second;
    while (s.p < s.end && *s.p != ' ')
        s.p++;
    skip_space(&s);
    if (!take_number(&s, &day) || !take_char(&s, ' ') || s.end - s.p < 4)
        return false;
    int month = 0;
    while (month < 12 && strncasecmp(months + 3 * month, s.p, 3) != 0)
        month++;
    s.p += 3;
    if (month == 12 || !take_char(&s, ' ') || !take_number(&s, &year) || !take_char(&s, ' ') ||
        !take_number(&s, &hour) || !take_char(&s, ':') || !take_number(&s, &minute) ||
        !take_char(&s, ':') || !take_number(&s, &second))
        return false;
    if (day < 1 || day > 31 || year < 1970 || year > 9999 || hour > 23 || minute > 59 || second > 60)
        return false;
    struct tm tm = {.tm_year = (int)year - 1900,
                    .tm_mon = month,
                    .tm_mday = (int)day,
                    .tm_hour = (int)hour,
                    .tm_min = (int)minute,
                    .tm_sec = (int)second};
    time_t t = timegm(&tm);
    *out = t > 0 ? (uint64_t)t : 0;
    return true;
}

bool ps_http_date(const char *value, size_t len, uint64_t *out)
{
    return http_date((struct scan){value, value + len}, out);
}

static void on_retry_after(struct ps_reply *r, struct scan s, uint64_t wall_s)
{
    uint64_t v;
    struct scan number = s;
    if (take_number(&number, &v) && number.p == number.end)
        longer_wait(r, v);
    else if (http_date(s, &v) && v > wall_s)
        longer_wait(r, v - wall_s);
}

/* RateLimit: "resolvers";r=0;t=37 (the Hub). Counts only when nothing is left (r=0), for
 * otherwise t is no order to wait. */
static void on_ratelimit(struct ps_reply *r, struct scan s)
{
    uint64_t left = 1, t = 0, v;
    while (s.p < s.end) {
        if (*s.p++ != ';')
            continue;
        skip_space(&s);
        if (take_word(&s, "r=")) {
            if (take_number(&s, &v))
                left = v;
        } else if (take_word(&s, "t=")) {
            if (take_number(&s, &v))
                t = v;
        }
    }
    if (left == 0)
        longer_wait(r, t);
}

/* RateLimit-Reset of the draft's earlier versions, X-RateLimit-Reset of many gateways: seconds from now, or since
 * 1970. */
static void on_ratelimit_reset(struct ps_reply *r, struct scan s, uint64_t wall_s)
{
    uint64_t v;
    if (take_number(&s, &v) && s.p == s.end)
        r->reset_s = v < EPOCH_MIN_S ? v : v > wall_s ? v - wall_s : 0;
}

/* It is an order to wait only where nothing is left: because the same family says so, or because a 429 without
 * that does. */
static void apply_ratelimit_reset(struct ps_reply *r)
{
    if (r->remaining_known ? r->remaining == 0 : r->status == 429)
        longer_wait(r, r->reset_s);
}

static void on_ratelimit_remaining(struct ps_reply *r, struct scan s)
{
    r->remaining_known = take_number(&s, &r->remaining) && s.p == s.end;
}

static void on_header(struct ps_reply *r, struct scan name, struct scan value, uint64_t wall_s)
{
    size_t n = (size_t)(name.end - name.p);
#define IS(text) (n == sizeof(text) - 1 && strncasecmp(name.p, text, n) == 0)
    if (IS("content-length"))
        on_length(r, value);
    else if (IS("content-range"))
        on_range(r, value);
    else if (IS("content-encoding"))
        on_encoding(r, value);
    else if (IS("content-type"))
        r->multipart = take_word(&value, "multipart/byteranges");
    else if (IS("etag"))
        on_etag(r, value);
    else if (IS("last-modified"))
        keep(r->last_modified, sizeof r->last_modified, value);
    else if (IS("location"))
        keep(r->location, sizeof r->location, value);
    else if (IS("retry-after"))
        on_retry_after(r, value, wall_s);
    else if (IS("ratelimit"))
        on_ratelimit(r, value);
    else if (IS("ratelimit-reset") || IS("x-ratelimit-reset"))
        on_ratelimit_reset(r, value, wall_s);
    else if (IS("ratelimit-remaining") || IS("x-ratelimit-remaining"))
        on_ratelimit_remaining(r, value);
#undef IS
}

void ps_reply_line(struct ps_reply *r, const char *line, size_t len, uint64_t wall_s)
{
    struct scan s = {line, line + len};
    while (s.end > s.p &&
           (s.end[-1] == '\r' || s.end[-1] == '\n' || s.end[-1] == ' ' || s.end[-1] == '\t'))
        s.end--;
    /* After a final reply only trailers can follow; after 1xx comes the real one. */
    if (r->complete && r->status >= 200)
        return;
    struct scan status = s;
    if (take_word(&status, "HTTP/")) {
        on_status(r, s);
        return;
    }
    if (s.p == s.end) {
        r->complete = r->status != 0;
        apply_ratelimit_reset(r);
        return;
    }
    const char *colon = memchr(s.p, ':', (size_t)(s.end - s.p));
    if (!colon)
        return;
    struct scan value = {colon + 1, s.end};
    skip_space(&value);
    on_header(r, (struct scan){s.p, colon}, value, wall_s);
}

/* ---- judgement ---- */

static struct ps_judgement refuse(enum ps_retry_class cls, int code, const char *what,
                                  const char *hint)
{
    return (struct ps_judgement){
        .verdict = PS_REPLY_REFUSE, .cls = cls, .code = code, .what = what, .hint = hint};
}

/* A reply whose body must not be read: it may be the whole object, or never end. */
static struct ps_judgement refuse_body(enum ps_retry_class cls, int code, const char *what,
                                       const char *hint)
{
    struct ps_judgement j = refuse(cls, code, what, hint);
    j.stop_now = true;
    return j;
}

static struct ps_judgement changed(void)
{
    return refuse_body(PS_RETRY_FATAL, PS_EDATA, "object changed under way",
                       "start again to use the new version");
}

static struct ps_judgement shorter(void)
{
    return refuse_body(PS_RETRY_FATAL, PS_EDATA, "object is shorter than expected",
                       "the copy on the server is incomplete or another version");
}

static struct ps_judgement bad_reply(const char *what)
{
    return refuse_body(PS_RETRY_REPLY, PS_EDATA, what,
                       "check the server or the proxy in front of it");
}

static struct ps_judgement no_ranges(void)
{
    return refuse_body(PS_RETRY_FATAL, PS_EREFUSED, "server ignores Range",
                       "use a server that answers range requests with 206");
}

/* Statuses that carry no bytes for us. */
static struct ps_judgement judge_status(int status)
{
    switch (status) {
    case 401:
        return refuse(PS_RETRY_FATAL, PS_EREFUSED, "HTTP 401 unauthorized",
                      "give credentials that may read it");
    case 403:
        return refuse(PS_RETRY_FATAL, PS_EREFUSED, "HTTP 403 forbidden",
                      "check the permissions, or get a fresh signed address");
    case 404:
        return refuse(PS_RETRY_FATAL, PS_ENOTFOUND, "HTTP 404 not found", "check the address");
    case 410: return refuse(PS_RETRY_FATAL, PS_ENOTFOUND, "HTTP 410 gone", "check the address");
    case 408:
        return refuse(PS_RETRY_TRANSPORT, PS_ENET, "HTTP 408 request timeout", "try again later");
    case 412: return changed();
    case 416: return shorter();
    case 429:
        return refuse(PS_RETRY_THROTTLE, PS_ENET, "HTTP 429 too many requests", "try again later");
    case 503:
        return refuse(PS_RETRY_THROTTLE, PS_ENET, "HTTP 503 service unavailable", "try again later");
    case 407:
        return refuse(PS_RETRY_FATAL, PS_EREFUSED, "HTTP 407 proxy wants credentials",
                      "put them into the proxy's address");
    default: break;
    }
    if (status == 501 || status == 505)
        return refuse(PS_RETRY_FATAL, PS_EREFUSED, "server can't do this request",
                      "use another server");
    if (status >= 500)
        return refuse(PS_RETRY_SERVER, PS_ENET, "HTTP 5xx server error", "try again later");
    if (status >= 400)
        return refuse(PS_RETRY_FATAL, PS_EREFUSED, "server refused the request", "check the address");
    return bad_reply("unexpected HTTP status");
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* The opaque tags decide. W/ is not compared: a proxy that weakens a tag on its way keeps the
 * tag. */
static bool version_differs(const struct ps_reply *r, const struct ps_ask *ask)
{
    if (ask->etag && ask->etag[0] && r->etag[0])
        return strcmp(ask->etag, r->etag) != 0;
    if (ask->last_modified && ask->last_modified[0] && r->last_modified[0] && !r->etag[0])
        return strcmp(ask->last_modified, r->last_modified) != 0;
    return false;
}

static struct ps_judgement accept_span(uint64_t from, uint64_t to, bool length_stated, uint64_t total)
{
    return (struct ps_judgement){.verdict = PS_REPLY_ACCEPT,
                                 .from = from,
                                 .to = to,
                                 .length_stated = length_stated,
                                 .total = total};
}

static struct ps_judgement judge_partial(const struct ps_reply *r, const struct ps_ask *ask)
{
    const struct ps_content_range *c = &r->range;
    if (!r->has_range || !c->satisfied)
        return bad_reply("206 without a Content-Range");
    if (c->total_known && ask->object_bytes && c->total != ask->object_bytes)
        return changed();
    if (c->from != ask->from || c->to > ask->to)
        return bad_reply("server sent another range than asked for");
    if (c->to < ask->to) {
        /* Only the end of the object may cut a range short. */
        bool at_end = c->total_known ? c->total == c->to : ask->open_end;
        if (!at_end)
            return bad_reply("server sent another range than asked for");
        if (!ask->open_end)
            return shorter();
    }
    if (r->has_length && r->length != c->to - c->from)
        return bad_reply("Content-Length contradicts Content-Range");
    return accept_span(c->from, c->to, r->has_length, c->total_known ? c->total : 0);
}

/* 200: the whole object. Right if that is just what was asked, or if a shorter object is welcome
 * and fits. */
static struct ps_judgement judge_whole(const struct ps_reply *r, const struct ps_ask *ask)
{
    if (r->has_length && ask->object_bytes && r->length != ask->object_bytes)
        return r->length < ask->to && !ask->open_end ? shorter() : changed();
    if (ask->open_end) {
        if (r->has_length && r->length > ask->whole_max)
            return no_ranges();
        if (r->has_length && r->length == 0)
            return (struct ps_judgement){.verdict = PS_REPLY_EMPTY};
        /* A resumed tail may get the whole again: the reader starts over at 0. */
        return accept_span(0, r->has_length ? r->length : UINT64_MAX, r->has_length,
                           r->has_length ? r->length : 0);
    }
    if (ask->from != 0 || (ask->object_bytes && ask->object_bytes > ask->to))
        return no_ranges();
    if (r->has_length && r->length < ask->to)
        return shorter();
    if (r->has_length && r->length > ask->to)
        return no_ranges();
    return accept_span(0, ask->to, r->has_length, ask->to);
}

struct ps_judgement ps_reply_judge(const struct ps_reply *r, const struct ps_ask *ask)
{
    if (r->malformed && (r->status == 200 || r->status == 206 || r->status == 0))
        return bad_reply("malformed reply");
    if (is_redirect(r->status)) {
        if (!r->location[0]) /* its page may say more: S3 names the right region there */
            return refuse(PS_RETRY_REPLY, PS_EDATA, "redirect without a usable Location",
                          "check the server or the proxy in front of it");
        return (struct ps_judgement){.verdict = PS_REPLY_REDIRECT};
    }
    if (r->status == 416 && ask->open_end && r->has_range && !r->range.satisfied &&
        r->range.total == ask->from)
        return (struct ps_judgement){.verdict = PS_REPLY_EMPTY};
    if (r->status != 200 && r->status != 206)
        return judge_status(r->status);
    if (r->multipart)
        return bad_reply("server answered one range with multipart/byteranges");
    if (r->encoded)
        return bad_reply("server sent an encoded body although identity was asked for");
    if (version_differs(r, ask))
        return changed();
    return r->status == 206 ? judge_partial(r, ask) : judge_whole(r, ask);
}
