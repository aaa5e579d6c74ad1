/* Address parsing on top of libcurl's parser. See uri.h. */
#include "fetcher/uri.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>
#include <curl/curl.h>

#include "base/alloc.h"
#include "base/strbuf.h"

#define ORIGIN "fetcher"

static const struct {
    const char *prefix;
    enum ps_uri_kind kind;
} schemes[] = {
    {"file", PS_URI_FILE}, {"http", PS_URI_HTTP}, {"https", PS_URI_HTTP},
    {"s3", PS_URI_S3},     {"hf", PS_URI_HF},
};

/* Length of a syntactically valid scheme in front of "://", 0 if there is none. */
static size_t scheme_length(const char *text)
{
    size_t n = 0;
    if (!isalpha((unsigned char)text[0]))
        return 0;
    while (isalnum((unsigned char)text[n]) || text[n] == '+' || text[n] == '-' || text[n] == '.')
        n++;
    return strncmp(text + n, "://", 3) == 0 ? n : 0;
}

enum ps_uri_kind ps_uri_kind(const char *text)
{
    size_t n = scheme_length(text);
    if (n == 0)
        return PS_URI_PATH;
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (strlen(schemes[i].prefix) == n && strncasecmp(schemes[i].prefix, text, n) == 0)
            return schemes[i].kind;
    return PS_URI_UNKNOWN;
}

/* Every '%' must introduce two hex digits: a stray one would be read differently by servers and
 * proxies. */
static bool escapes_ok(const char *s)
{
    for (; *s; s++)
        if (*s == '%' && (!isxdigit((unsigned char)s[1]) || !isxdigit((unsigned char)s[2])))
            return false;
    return true;
}

/* Copies one part out of libcurl's handle; *out stays NULL where the part is absent. */
static int take_part(CURLU *h, CURLUPart what, unsigned flags, char **out)
{
    char *part = NULL;
    CURLUcode rc = curl_url_get(h, what, &part, flags);
    if (rc == CURLUE_OUT_OF_MEMORY)
        return PS_ENOMEM;
    if (rc != CURLUE_OK)
        return rc == CURLUE_URLDECODE || rc == CURLUE_BAD_PORT_NUMBER ? PS_EUSAGE : 0;
    *out = ps_strdup(part);
    curl_free(part);
    return *out ? 0 : PS_ENOMEM;
}

static void lower(char *s)
{
    for (; s && *s; s++)
        *s = (char)tolower((unsigned char)*s);
}

static unsigned default_port(const char *scheme)
{
    return strcmp(scheme, "https") == 0 ? 443 : 80;
}

/* The port: what is written, else the scheme's own. 0 if it is no port. */
static int take_port(CURLU *h, struct ps_uri *u)
{
    char *text = NULL;
    int rc = take_part(h, CURLUPART_PORT, 0, &text);
    u->port = default_port(u->scheme);
    if (rc == 0 && text) {
        u->port = 0;
        for (const char *p = text; isdigit((unsigned char)*p) && u->port <= 65535; p++)
            u->port = u->port * 10 + (unsigned)(*p - '0');
        u->port_given = u->port != default_port(u->scheme);
        if (u->port == 0 || u->port > 65535)
            rc = PS_EUSAGE;
    }
    ps_free(text);
    return rc;
}

static int handle_code(CURLUcode rc)
{
    return rc == CURLUE_OK ? 0 : rc == CURLUE_OUT_OF_MEMORY ? PS_ENOMEM : PS_EUSAGE;
}

/* Does libcurl read this host the same when it reads it again? It decodes %-escapes each time ("p%2561"), and takes
 * numbers for IPv4 addresses before it decodes ("%30" is "0", which then is "0.0.0.0"): what we compare origins by
 * must be what it will connect to. */
static int host_is_stable(const char *host)
{
    struct ps_strbuf b;
    char *again = NULL;
    CURLU *h = curl_url();
    ps_strbuf_init(&b, 2 * PS_URI_MAX_BYTES);
    ps_strbuf_printf(&b, "http://%s/", host);
    char *text = ps_strbuf_take(&b, NULL);
    int rc = h && text ? handle_code(curl_url_set(h, CURLUPART_URL, text, 0)) : PS_ENOMEM;
    if (rc == 0)
        rc = take_part(h, CURLUPART_HOST, 0, &again);
    if (rc == 0 && (!again || strcasecmp(again, host) != 0))
        rc = PS_EUSAGE;
    ps_free(again);
    ps_free(text);
    ps_strbuf_deinit(&b);
    curl_url_cleanup(h);
    return rc;
}

/* Splits a handle that holds a whole http(s) address. PS_ENOMEM, PS_EUSAGE without text, or 0. */
static int split_handle(struct ps_uri *out, CURLU *h)
{
    struct ps_uri u = {0};
    int rc = take_part(h, CURLUPART_SCHEME, 0, &u.scheme);
    if (rc == 0)
        rc = take_part(h, CURLUPART_HOST, 0, &u.host);
    if (rc == 0)
        rc = take_part(h, CURLUPART_PATH, 0, &u.path);
    if (rc == 0)
        rc = take_part(h, CURLUPART_QUERY, 0, &u.query);
    if (rc == 0)
        rc = take_part(h, CURLUPART_USER, CURLU_URLDECODE, &u.user);
    if (rc == 0)
        rc = take_part(h, CURLUPART_PASSWORD, CURLU_URLDECODE, &u.password);
    if (rc == 0 && (!u.scheme || !u.host || !u.host[0] || strchr(u.host, '%') || !u.path))
        rc = PS_EUSAGE;
    if (rc == 0)
        rc = host_is_stable(u.host);
    if (rc == 0) {
        lower(u.scheme);
        lower(u.host);
        rc = take_port(h, &u);
    }
    if (rc == 0 && (!escapes_ok(u.path) || (u.query && !escapes_ok(u.query))))
        rc = PS_EUSAGE;
    if (rc != 0) {
        ps_uri_deinit(&u);
        return rc;
    }
    *out = u;
    return 0;
}

/* "http:///x" and "http:/x" are taken for "http://x" by libcurl: refuse what a reader would not
 * expect. */
static bool authority_present(const char *text)
{
    const char *p = text + scheme_length(text) + 3;
    return *p && *p != '/' && *p != '?' && *p != '#';
}

int ps_uri_parse(struct ps_uri *out, const char *text, struct ps_err *err)
{
    const char *hint = "write http(s)://host[:port]/path";
    if (ps_uri_kind(text) != PS_URI_HTTP || !authority_present(text) || !escapes_ok(text) ||
        strlen(text) > PS_URI_MAX_BYTES)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "malformed address: %s", hint);
    CURLU *h = curl_url();
    int rc =
        h ? handle_code(curl_url_set(h, CURLUPART_URL, text, CURLU_URLENCODE | CURLU_ALLOW_SPACE))
          : PS_ENOMEM;
    if (rc == 0)
        rc = split_handle(out, h);
    curl_url_cleanup(h);
    if (rc == PS_ENOMEM)
        return ps_err_set(err, rc, ORIGIN, "out of memory");
    if (rc != 0)
        return ps_err_set(err, rc, ORIGIN, "malformed address: check host, port and %%-escapes: %s",
                          hint);
    return 0;
}

void ps_uri_deinit(struct ps_uri *u)
{
    ps_free(u->scheme);
    ps_free(u->user);
    ps_free(u->password);
    ps_free(u->host);
    ps_free(u->path);
    ps_free(u->query);
    memset(u, 0, sizeof *u);
}

static bool dup_part(char **to, const char *from)
{
    *to = from ? ps_strdup(from) : NULL;
    return !from || *to;
}

int ps_uri_copy(struct ps_uri *out, const struct ps_uri *u, struct ps_err *err)
{
    struct ps_uri c = {.port = u->port, .port_given = u->port_given};
    bool ok = dup_part(&c.scheme, u->scheme) && dup_part(&c.user, u->user) &&
              dup_part(&c.password, u->password) && dup_part(&c.host, u->host) &&
              dup_part(&c.path, u->path) && dup_part(&c.query, u->query);
    if (!ok) {
        ps_uri_deinit(&c);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    *out = c;
    return 0;
}

void ps_uri_escape(struct ps_strbuf *b, const char *text, bool keep_slash)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        /* not isalnum: a locale may call more than ASCII letters */
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                     strchr("-._~", c) || (keep_slash && c == '/');
        if (plain)
            ps_strbuf_append(b, text, 1);
        else
            ps_strbuf_printf(b, "%%%02X", c);
    }
}

int ps_uri_enter(struct ps_uri *u, const char *name, struct ps_err *err)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    size_t n = strlen(u->path);
    ps_strbuf_append(&b, u->path, n);
    if (n == 0 || u->path[n - 1] != '/')
        ps_strbuf_puts(&b, "/");
    ps_uri_escape(&b, name, true); /* '?', '#' and '%' are part of the name */
    char *path = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    if (!path)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "address of %s is too long", name);
    ps_free(u->path);
    u->path = path;
    return 0;
}

bool ps_uri_same_origin(const struct ps_uri *a, const struct ps_uri *b)
{
    return a->port == b->port && strcmp(a->scheme, b->scheme) == 0 && strcmp(a->host, b->host) == 0;
}

static char *compose(const struct ps_uri *u, bool with_query)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, 2 * PS_URI_MAX_BYTES);
    ps_strbuf_printf(&b, "%s://%s", u->scheme, u->host);
    if (u->port_given)
        ps_strbuf_printf(&b, ":%u", u->port);
    ps_strbuf_puts(&b, u->path);
    if (with_query && u->query) {
        ps_strbuf_puts(&b, "?");
        ps_strbuf_puts(&b, u->query);
    }
    char *text = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return text;
}

char *ps_uri_request(const struct ps_uri *u)
{
    return compose(u, true);
}

char *ps_uri_label(const struct ps_uri *u)
{
    return compose(u, false);
}

/* PS_EREFUSED for schemes that a redirect must not lead to. */
static int check_redirect_scheme(CURLU *h, const struct ps_uri *from, struct ps_err *err)
{
    char *scheme = NULL;
    int rc = take_part(h, CURLUPART_SCHEME, 0, &scheme);
    if (rc != 0 || !scheme)
        return rc != 0 ? rc : PS_EUSAGE;
    lower(scheme);
    if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        rc = ps_err_set(err, PS_EREFUSED, ORIGIN,
                        "redirect to a scheme other than http and https (%s)", scheme);
    else if (strcmp(from->scheme, "https") == 0 && strcmp(scheme, "https") != 0)
        rc = ps_err_set(err, PS_EREFUSED, ORIGIN, "redirect from https down to http");
    ps_free(scheme);
    return rc;
}

int ps_uri_resolve(struct ps_uri *out, const struct ps_uri *from, const char *location,
                   struct ps_err *err)
{
    const unsigned flags = CURLU_NON_SUPPORT_SCHEME | CURLU_URLENCODE | CURLU_ALLOW_SPACE;
    char *base = ps_uri_request(from);
    CURLU *h = base ? curl_url() : NULL;
    struct ps_uri u = {0};
    int rc = h ? handle_code(curl_url_set(h, CURLUPART_URL, base, 0)) : PS_ENOMEM;
    if (rc == 0 && ps_uri_kind(location) == PS_URI_HTTP && !authority_present(location))
        rc = PS_EUSAGE;
    if (rc == 0)
        rc = handle_code(curl_url_set(h, CURLUPART_URL, location, flags));
    if (rc == 0)
        rc = check_redirect_scheme(h, from, err);
    if (rc == 0)
        rc = split_handle(&u, h);
    curl_url_cleanup(h);
    ps_free(base);
    if (rc == PS_ENOMEM)
        return ps_err_set(err, rc, ORIGIN, "out of memory");
    if (rc == PS_EUSAGE)
        return ps_err_set(err, PS_EDATA, ORIGIN, "redirect to a malformed address");
    if (rc != 0)
        return rc;
    /* Credentials in a Location are the redirecting server's idea, not the user's. */
    ps_free(u.user);
    ps_free(u.password);
    u.user = u.password = NULL;
    *out = u;
    return 0;
}

static int hex_value(char c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

int ps_uri_file_path(char **out, const char *text, struct ps_err *err)
{
    const char *p = text + strlen("file://");
    if (strncasecmp(p, "localhost/", 10) == 0)
        p += strlen("localhost");
    if (*p != '/' || !escapes_ok(p))
        return ps_err_set(
            err, PS_EUSAGE, ORIGIN,
            "malformed address: %s: write file:///absolute/path with valid %%-escapes", text);
    char *path = ps_malloc(strlen(p) + 1);
    if (!path)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    char *to = path;
    for (; *p; p++) {
        if (*p == '%') {
            *to = (char)(hex_value(p[1]) * 16 + hex_value(p[2]));
            p += 2;
        } else {
            *to = *p;
        }
        if (*to++ == '\0') {
            ps_free(path);
            return ps_err_set(err, PS_EUSAGE, ORIGIN, "malformed address: a %%00 in %s", text);
        }
    }
    *to = '\0';
    *out = path;
    return 0;
}
