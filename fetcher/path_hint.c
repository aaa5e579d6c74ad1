/* See path_hint.h. */
#include "fetcher/path_hint.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/strbuf.h"

#define ORIGIN   "fetcher"
#define TEXT_MAX 65536u

/* of owners, models and plain revisions on the Hub */
#define NAME_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

struct parts {
    const char *scheme; /* "" where none was meant */
    const char *begin;  /* behind scheme, colon and slashes */
    const char *place; /* behind userinfo: host or first folder; "" where that can't be told from a query */
    bool userinfo;
};

/* "http:/x" and "http:x" are what is left of "http://x" after a slip. */
static const char *skip_scheme(const char *text, const char **scheme)
{
    static const char *const known[] = {"https", "http", "s3", "hf", "file"};

    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t n = strlen(known[i]);

        if (strncasecmp(text, known[i], n) == 0 && text[n] == ':') {
            *scheme = known[i];
            return text + n + 1 + strspn(text + n + 1, "/");
        }
    }
    *scheme = "";
    return text;
}

/* "host:80": a colon with a number behind it up to the end of the part. */
static bool has_port(const char *part, size_t n)
{
    const char *colon = memchr(part, ':', n);
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;

    return digits > 0 && digits <= 5 && colon + 1 + digits == part + n;
}

/* Userinfo is in the first part: a revision ("org/name@main") is behind it. A password may hold any character, and with
 * it a slash: what comes behind a colon that is no port's may be one up to the last '@'. With a '?' in front of that
 * '@' either side may be the secret: a password's end or a query's. */
static void take_apart(struct parts *p, const char *text)
{
    p->begin = p->place = skip_scheme(text, &p->scheme);
    p->userinfo = false;
    size_t first = strcspn(p->begin, "/");
    const char *at = memchr(p->begin, '@', first);

    if (!at && (!memchr(p->begin, ':', first) || has_port(p->begin, first)))
        return;
    at = strrchr(p->begin, '@');
    if (at) {
        p->userinfo = true;
        p->place = memchr(p->begin, '?', (size_t)(at - p->begin)) ? "" : at + 1;
    }
}

char *ps_path_conceal(const char *path)
{
    struct parts p;
    struct ps_strbuf b;

    take_apart(&p, path);
    ps_strbuf_init(&b, TEXT_MAX);
    if (p.userinfo) {
        ps_strbuf_append(&b, path, (size_t)(p.begin - path));
        ps_strbuf_puts(&b, *p.place ? "[redacted]@" : "[redacted]");
    } else {
        p.place = path;
    }
    ps_strbuf_append(&b, p.place, strcspn(p.place, "?"));
    ps_strbuf_puts(&b, strchr(p.place, '?') ? "?..." : "");
    char *text = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return text;
}

char *ps_path_label(const char *path)
{
    return access(path, F_OK) == 0 ? ps_strdup(path) : ps_path_conceal(path);
}

/* "localhost", "127.0.0.1", "example.org", all with or without a port. */
static bool is_host(const char *part, size_t n)
{
    const char *dot;

    if (has_port(part, n))
        return true;
    if (n == 9 && strncasecmp(part, "localhost", 9) == 0)
        return true;
    dot = memrchr(part, '.', n);
    if (!dot || !isalnum((unsigned char)part[0]))
        return false;
    size_t last = (size_t)(part + n - dot - 1), letters = 0;
    if (strspn(part, "0123456789.") >= n)
        return last > 0;
    while (letters < last && isalpha((unsigned char)dot[1 + letters]))
        letters++;
    return last >= 2 && letters == last;
}

/* "org/name", "org/name@revision", "org/name:revision". */
static bool is_hub_name(const char *text)
{
    size_t org = strspn(text, NAME_CHARS), model;

    if (org == 0 || text[0] == '.' || text[org] != '/')
        return false;
    model = strspn(text + org + 1, NAME_CHARS);
    text += org + 1 + model;
    return model > 0 && (*text == '\0' || ((*text == '@' || *text == ':') && !strchr(text, '/')));
}

static bool is_hub(const char *host, size_t n)
{
    return (n == 14 && strncasecmp(host, "huggingface.co", n) == 0) ||
           (n == 5 && strncasecmp(host, "hf.co", n) == 0);
}

/* Pages of the Hub that stand where an owner would. */
static bool is_owner(const char *s, size_t n)
{
    static const char *const others[] = {"api",    "blog",   "collections", "datasets", "docs",
                                         "models", "spaces", "papers",      "tasks",    "join"};

    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strlen(others[i]) == n && memcmp(others[i], s, n) == 0)
            return false;
    return n > 0 && *s != '.';
}

/* Appends "@revision" and "/folder" of "/tree/revision/folder" and "/resolve/revision/folder". Other pages of a model,
 * and what is written with escapes, name neither. */
static void put_revision(struct ps_strbuf *b, const char *page)
{
    const char *at = strncmp(page, "/tree/", 6) == 0      ? page + 6
                     : strncmp(page, "/resolve/", 9) == 0 ? page + 9
                                                          : "";
    const size_t revision = strspn(at, NAME_CHARS), rest = strspn(at, NAME_CHARS "/");
    size_t end = rest;

    if (revision == 0 || at[rest])
        return;
    while (end > revision && at[end - 1] == '/')
        end--;
    if (revision != 4 || memcmp(at, "main", 4) != 0)
        ps_strbuf_printf(b, "@%.*s", (int)revision, at);
    ps_strbuf_append(b, at + revision, end - revision);
}

/* `place` is "huggingface.co/org/name", up to a query. False: it is not on the Hub, or names no model. */
static bool hub_hint(char *out, size_t cap, const char *place)
{
    const size_t host = strcspn(place, "/?#"), len = strcspn(place, "?#");
    struct ps_strbuf b;

    *out = '\0';
    if (!is_hub(place, host) || place[host] != '/')
        return false;
    char *path = ps_strndup(place + host + 1, len - host - 1);
    const size_t org = path ? strspn(path, NAME_CHARS) : 0;
    const size_t name = org && path[org] == '/' ? strspn(path + org + 1, NAME_CHARS) : 0;
    const char *page = name ? path + org + 1 + name : NULL;

    ps_strbuf_init(&b, cap);
    if (page && is_owner(path, org) && (*page == '\0' || *page == '/')) {
        ps_strbuf_printf(&b, "hf://%.*s", (int)(org + 1 + name), path);
        put_revision(&b, page);
    }
    if (b.len > 0 && ps_strbuf_ok(&b) && b.len < cap)
        memcpy(out, b.data, b.len + 1);
    ps_strbuf_deinit(&b);
    ps_free(path);
    return *out != '\0';
}

void ps_path_hub_hint(char *out, size_t cap, const char *address)
{
    struct parts p;

    take_apart(&p, address);
    if (strncmp(p.scheme, "http", 4) != 0 || !hub_hint(out, cap, p.place))
        *out = '\0';
}

void ps_path_hint(char *out, size_t cap, const char *path)
{
    struct parts p;
    const char *scheme;
    size_t len;

    take_apart(&p, path);
    if ((!*p.scheme || strncmp(p.scheme, "http", 4) == 0) && hub_hint(out, cap, p.place))
        return;
    len = strcspn(p.place, "?");
    scheme = *p.scheme                                                ? p.scheme
             : p.userinfo || is_host(p.place, strcspn(p.place, "/?")) ? "http"
             : is_hub_name(p.place)                                   ? "hf"
                                                                      : "";
    if (!*scheme || len == 0 || len > cap ||
        snprintf(out, cap, "%s:%s%.*s", scheme, strcmp(scheme, "file") == 0 ? "///" : "//",
                 (int)len, p.place) >= (int)cap)
        *out = '\0';
}

int ps_path_missing(struct ps_err *err, const char *path)
{
    char hint[PS_PATH_HINT_MAX_BYTES];
    char *shown = ps_path_conceal(path);

    ps_path_hint(hint, sizeof hint, path);
    ps_err_set(err, PS_ENOTFOUND, ORIGIN, "no such folder: %s: check the path%s%s%s",
               shown ? shown : "(out of memory)", *hint ? ", or did you mean " : "", hint,
               *hint ? "?" : "");
    ps_free(shown);
    return PS_ENOTFOUND;
}
