/* See share_request.h. */
#include "tools/share_request.h"

#include <stdio.h>
#include <string.h>

/* ---- ranges ---- */

/* Decimal digits; a value beyond 64 bits stays at the largest, which is behind the end of every
 * file. */
static const char *read_number(uint64_t *out, const char *s)
{
    uint64_t v = 0;

    if (*s < '0' || *s > '9')
        return NULL;
    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v)) {
            s += strspn(s, "0123456789");
            v = UINT64_MAX;
            break;
        }
    *out = v;
    return s;
}

/* 206 with offset and length, 416, or 200 where the header is no single range of bytes: that one
 * is ignored. */
static unsigned read_range(struct ps_share_answer *out, const char *text, uint64_t size)
{
    uint64_t first = 0, last = UINT64_MAX;
    const char *p;
    bool suffix;

    if (strncmp(text, "bytes=", 6) != 0)
        return 200;
    p = text + 6 + strspn(text + 6, " \t");
    suffix = *p == '-';
    if (!suffix && !(p = read_number(&first, p)))
        return 200;
    if (*p++ != '-')
        return 200;
    if (*p >= '0' && *p <= '9')
        p = read_number(&last, p);
    else if (suffix)
        return 200;
    p += strspn(p, " \t");
    if (*p || (!suffix && last < first))
        return 200;
    if (suffix) {
        first = last < size ? size - last : 0;
        last = last ? UINT64_MAX : 0;
        if (last == 0)
            return 416;
    }
    if (first >= size)
        return 416;
    out->offset = first;
    out->bytes = (last < size ? last + 1 : size) - first;
    return 206;
}

/* ---- conditions ---- */

/* Is `etag` (strong, quoted) in a list such as `"a", W/"b"`, or is the list `*`? `weak`: W/ may
 * stand before it. */
static bool list_has(const char *list, const char *etag, bool weak)
{
    size_t n = strlen(etag);

    for (const char *p = list; *p;) {
        bool marked = false;
        const char *end;

        p += strspn(p, " \t,");
        if (*p == '*')
            return true;
        if (strncmp(p, "W/", 2) == 0) {
            marked = true;
            p += 2;
        }
        if (*p != '"')
            return false;
        end = strchr(p + 1, '"');
        if (!end)
            return false;
        if ((size_t)(end + 1 - p) == n && memcmp(p, etag, n) == 0 && (weak || !marked))
            return true;
        p = end + 1;
    }
    return false;
}

static bool read_date(time_t *out, const char *text)
{
    struct tm tm = {0};
    const char *end = strptime(text, "%a, %d %b %Y %H:%M:%S GMT", &tm);

    if (!end || *end)
        return false;
    *out = timegm(&tm);
    return true;
}

static bool is_412(const struct ps_share_headers *h, const struct ps_share_facts *f)
{
    time_t t;

    if (h->if_match)
        return !list_has(h->if_match, f->etag, false);
    return h->if_unmodified_since && read_date(&t, h->if_unmodified_since) && f->mtime > t;
}

static bool is_304(const struct ps_share_headers *h, const struct ps_share_facts *f)
{
    time_t t;

    if (h->if_none_match)
        return list_has(h->if_none_match, f->etag, true);
    return h->if_modified_since && read_date(&t, h->if_modified_since) && f->mtime <= t;
}

/* May the range be answered? A date must be the file's exactly, a tag strong and the same. */
static bool if_range_holds(const struct ps_share_headers *h, const struct ps_share_facts *f)
{
    time_t t;

    if (!h->if_range)
        return true;
    if (h->if_range[0] == '"' || h->if_range[0] == 'W')
        return strcmp(h->if_range, f->etag) == 0;
    return read_date(&t, h->if_range) && t == f->mtime;
}

void ps_share_decide(struct ps_share_answer *out, const struct ps_share_headers *h,
                     const struct ps_share_facts *f, bool get)
{
    *out = (struct ps_share_answer){.status = 200, .offset = 0, .bytes = f->bytes};
    if (is_412(h, f)) {
        out->status = 412;
        return;
    }
    if (is_304(h, f)) {
        out->status = 304;
        return;
    }
    if (get && h->range && if_range_holds(h, f))
        out->status = read_range(out, h->range, f->bytes);
}

/* ---- paths ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* One byte of the path. What decodes to a byte that shapes a path is no name of ours. -1:
 * refused. */
static int read_byte(const char **p)
{
    int c = (unsigned char)**p, high, low;

    (*p)++;
    if (c != '%')
        return c < 0x20 || c == 0x7f || c == '\\' ? -1 : c;
    high = hex_digit((*p)[0]);
    low = high < 0 ? -1 : hex_digit((*p)[1]);
    if (low < 0)
        return -1;
    *p += 2;
    c = high << 4 | low;
    return c < 0x20 || c == 0x7f || c == '\\' || c == '/' || c == '.' ? -1 : c;
}

static unsigned check_parts(const char *path)
{
    unsigned status = 0;

    while (*path) {
        size_t n = strcspn(path, "/");

        if (n == 0 || (n == 2 && memcmp(path, "..", 2) == 0) || (n == 1 && *path == '.'))
            return 400;
        if (*path == '.' || n > 255)
            status = 404;
        path += n;
        if (*path == '/' && *++path == '\0')
            return 404; /* "folder/": folders have no listing */
    }
    return status;
}

unsigned ps_share_path(char *out, const char *raw)
{
    size_t n = 0;
    int c;

    if (*raw++ != '/')
        return 400;
    while (*raw) {
        c = read_byte(&raw);
        if (c < 0)
            return 400;
        if (n + 1 >= PS_SHARE_PATH_MAX)
            return 404;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return check_parts(out);
}

bool ps_share_is_shard(const char *path, char hash[65])
{
    const char *name = strrchr(path, '/');

    if (!name || name - path < 6 || memcmp(name - 6, "shards", 6) != 0 ||
        (name - path > 6 && name[-7] != '/'))
        return false;
    name++;
    if (strspn(name, "0123456789abcdef") != 64 || strcmp(name + 64, ".shard") != 0)
        return false;
    memcpy(hash, name, 64);
    hash[64] = '\0';
    return true;
}

void ps_share_etag(char out[PS_SHARE_ETAG_MAX], const char *path, uint64_t bytes,
                   const struct timespec *mtime)
{
    char hash[65];

    if (ps_share_is_shard(path, hash))
        snprintf(out, PS_SHARE_ETAG_MAX, "\"%s\"", hash);
    else
        snprintf(out, PS_SHARE_ETAG_MAX, "\"%llx-%llx%08lx\"", (unsigned long long)bytes,
                 (unsigned long long)mtime->tv_sec, (unsigned long)mtime->tv_nsec);
}

const char *ps_share_content_type(const char *path)
{
    static const char *const types[][2] = {
        {".json", "application/json"},
        {".txt", "text/plain; charset=utf-8"},
        {".md", "text/plain; charset=utf-8"},
        {".jinja", "text/plain; charset=utf-8"},
    };
    size_t n = strlen(path);

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        size_t m = strlen(types[i][0]);

        if (n > m && strcmp(path + n - m, types[i][0]) == 0)
            return types[i][1];
    }
    return "application/octet-stream";
}

void ps_share_date(char out[32], time_t t)
{
    struct tm tm;

    if (!gmtime_r(&t, &tm) || strftime(out, 32, "%a, %d %b %Y %H:%M:%S GMT", &tm) == 0)
        out[0] = '\0';
}
