/* Credentials for http(s) servers. See access.h. */
#include "fetcher/access.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "fetcher/netrc.h"

#define ORIGIN "fetcher"

/* ---- what may be sent ---- */

/* Decided by Penstock, or by libcurl: another value would break ranges, checks or the framing. */
static const char *const ours[] = {
    "accept-encoding",   "connection", "content-length",      "expect", "host", "if-match",
    "if-none-match",     "if-range",   "proxy-authorization", "range",  "te",   "trailer",
    "transfer-encoding", "upgrade",
};

static bool is_token_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

const char *ps_access_header_fault(const char *line, size_t len)
{
    size_t name = 0;
    while (name < len && is_token_char((unsigned char)line[name]))
        name++;
    if (len > PS_ACCESS_LINE_MAX)
        return "a line that is too long";
    if (name == 0 || name == len || (line[name] != ':' && line[name] != ';'))
        return "a line that is no \"Name: value\"";
    for (size_t i = 0; i < len; i++)
        if (((unsigned char)line[i] < 0x20 && line[i] != '\t') || line[i] == 0x7f)
            return "a control character inside a line";
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strlen(ours[i]) == name && strncasecmp(ours[i], line, name) == 0)
            return "a header that Penstock decides itself (Range, Host, If-Match and such)";
    return NULL;
}

/* RFC 6750 says b64token; servers take more, but nothing that ends a line or a word. */
static bool token_ok(const char *t, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)t[i] <= 0x20 || (unsigned char)t[i] >= 0x7f)
            return false;
    return len > 0 && len < PS_ACCESS_LINE_MAX - 32;
}

/* ---- files ---- */

struct bytes {
    char *p; /* NUL-terminated */
    size_t n, cap;
};

static void forget(struct bytes *b)
{
    if (b->p)
        explicit_bzero(b->p, b->n);
    ps_free(b->p);
    b->p = NULL;
}

/* A file, or a pipe such as a shell's <(pass show x): up to its end. 0, PS_ENOMEM or an errno > 0. */
static int read_all(struct bytes *b, const char *path, size_t max)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? errno : 0;
    b->cap = max + 1;
    b->p = rc == 0 ? ps_malloc(b->cap + 1) : NULL;
    if (rc == 0 && !b->p)
        rc = PS_ENOMEM;
    while (rc == 0 && b->n < b->cap) {
        ssize_t n = read(fd, b->p + b->n, b->cap - b->n);
        if (n < 0 && errno != EINTR)
            rc = errno;
        else if (n == 0)
            break;
        b->n += n > 0 ? (size_t)n : 0;
    }
    if (fd >= 0)
        close(fd);
    if (rc == 0 && b->n > max)
        rc = EFBIG;
    if (rc == 0)
        b->p[b->n] = '\0';
    return rc;
}

static int slurp(struct bytes *b, const char *option, const char *path, size_t max, struct ps_err *err)
{
    int rc = read_all(b, path, max);
    if (rc == PS_ENOMEM)
        return ps_err_set(err, rc, ORIGIN, "out of memory");
    return rc == 0 ? 0
                   : ps_err_set(err, PS_EUSAGE, ORIGIN, "%s: can't read: %s: %s", option, path,
                                strerror(rc));
}

/* A folder, or one that may not be read, is found now and not by a TLS handshake. */
static int take_path(char **out, const char *option, const char *path, struct ps_err *err)
{
    if (!path)
        return 0;
    struct bytes b = {0};
    int rc = slurp(&b, option, path, 1u << 20, err);
    forget(&b);
    if (rc == 0 && !(*out = ps_strdup(path)))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    return rc;
}

/* ---- headers ---- */

static int add_line(struct ps_access *a, const char *line, size_t len, const char *from,
                    unsigned number, struct ps_err *err)
{
    const char *fault = ps_access_header_fault(line, len);
    if (fault && number)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "--header: %s, line %u: %s", from, number, fault);
    if (fault)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "--header: %s: write 'Name: value', or @FILE",
                          fault);
    if (a->n_headers >= PS_ACCESS_HEADERS_MAX)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "--header: more than %u headers",
                          PS_ACCESS_HEADERS_MAX);
    char **more = ps_realloc_array(a->headers, a->n_headers + 1, sizeof *more);
    if (more)
        a->headers = more;
    if (!more || !(a->headers[a->n_headers] = ps_strndup(line, len)))
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    a->n_headers++;
    a->has_authorization |= len > 14 && strncasecmp(line, "authorization", 13) == 0 &&
                            (line[13] == ':' || line[13] == ';');
    return 0;
}

/* Empty lines and those that begin with '#' are none. */
static int add_file(struct ps_access *a, const char *path, struct ps_err *err)
{
    struct bytes b = {0};
    unsigned number = 0;
    int rc = slurp(&b, "--header", path, PS_ACCESS_FILE_MAX_BYTES, err);
    for (const char *p = b.p; rc == 0 && p < b.p + b.n;) {
        const char *stop = memchr(p, '\n', (size_t)(b.p + b.n - p));
        const char *end = stop ? stop : b.p + b.n;
        size_t len = (size_t)(end - p);
        len -= len > 0 && p[len - 1] == '\r';
        number++;
        if (len > 0 && *p != '#')
            rc = add_line(a, p, len, path, number, err);
        p = stop ? stop + 1 : end;
    }
    forget(&b);
    return rc;
}

static int add_headers(struct ps_access *a, const struct ps_access_options *o, struct ps_err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < o->n_headers; i++) {
        const char *h = o->headers[i];
        rc = *h == '@' ? add_file(a, h + 1, err) : add_line(a, h, strlen(h), "", 0, err);
    }
    return rc;
}

/* ---- the token ---- */

static int add_token(struct ps_access *a, const char *token, size_t len, const char *option,
                     struct ps_err *err)
{
    while (len > 0 && strchr(" \t\r\n", token[len - 1]))
        len--;
    while (len > 0 && strchr(" \t\r\n", *token))
        token++, len--;
    if (!token_ok(token, len))
        return ps_err_set(
            err, PS_EUSAGE, ORIGIN,
            "%s: that is no token: it is empty, or holds blanks or control characters", option);
    if (a->has_authorization)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "%s: --header gives an Authorization as well: give one of them", option);
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_ACCESS_LINE_MAX);
    ps_strbuf_puts(&b, "Authorization: Bearer ");
    ps_strbuf_append(&b, token, len);
    int rc = ps_strbuf_ok(&b) ? add_line(a, b.data, b.len, "", 0, err)
                              : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (b.len)
        explicit_bzero(b.data, b.len);
    ps_strbuf_deinit(&b);
    return rc;
}

static int add_bearer(struct ps_access *a, const struct ps_access_options *o, struct ps_err *err)
{
    struct bytes b = {0};
    if (o->bearer && o->bearer_file)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "give one of --bearer-file and --bearer, not both");
    if (o->bearer)
        return add_token(a, o->bearer, strlen(o->bearer), "--bearer", err);
    if (!o->bearer_file)
        return 0;
    int rc = slurp(&b, "--bearer-file", o->bearer_file, PS_ACCESS_FILE_MAX_BYTES, err);
    if (rc == 0)
        rc = add_token(a, b.p, b.n, "--bearer-file", err);
    forget(&b);
    return rc;
}

/* ---- .netrc ---- */

/* curl goes on without ~/.netrc, but wants to find a file that was named. */
static int read_netrc(struct bytes *b, const struct ps_access_options *o, struct ps_err *err)
{
    const char *home = getenv("HOME");
    if (o->netrc_file)
        return slurp(b, "--netrc-file", o->netrc_file, PS_NETRC_MAX_BYTES, err);
    struct ps_strbuf path;
    ps_strbuf_init(&path, 4096);
    ps_strbuf_printf(&path, "%s/.netrc", home ? home : "");
    int rc = ps_strbuf_ok(&path) ? read_all(b, path.data, PS_NETRC_MAX_BYTES) : ENOENT;
    if (rc == ENOENT)
        ps_log(PS_LOG_INFO, "fetcher", "--netrc: there is no %s", path.data);
    else if (rc == PS_ENOMEM)
        ps_err_set(err, rc, ORIGIN, "out of memory");
    else if (rc != 0)
        rc = ps_err_set(err, PS_EUSAGE, ORIGIN, "--netrc: can't read: %s: %s", path.data,
                        strerror(rc));
    if (rc == ENOENT)
        forget(b);
    ps_strbuf_deinit(&path);
    return rc == ENOENT ? 0 : rc;
}

static bool copy_host(char *out, size_t cap, const char *host)
{
    size_t n = strlen(host), skip = host[0] == '[' && n > 2;
    n -= 2 * skip;
    if (n >= cap)
        return false;
    memcpy(out, host + skip, n);
    out[n] = '\0';
    return true;
}

static int add_netrc(struct ps_access *a, const struct ps_access_options *o,
                     const struct ps_uri *uri, struct ps_err *err)
{
    struct ps_netrc_login found;
    struct bytes b = {0};
    char host[512];
    if ((!o->netrc && !o->netrc_file) || a->has_authorization || (uri->user && uri->password))
        return 0;
    int rc = read_netrc(&b, o, err);
    if (rc == 0 && b.p && copy_host(host, sizeof host, uri->host) &&
        ps_netrc_find(&found, b.p, b.n, host, uri->user)) {
        a->user = ps_strdup(found.login);
        a->password = ps_strdup(found.password);
        if (!a->user || !a->password)
            rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
        explicit_bzero(&found, sizeof found);
    }
    forget(&b);
    return rc;
}

/* ---- all of it ---- */

bool ps_access_has_secrets(const struct ps_access_options *o)
{
    return o->bearer || o->bearer_file || o->n_headers > 0 || o->cert_file || o->key_file;
}

static const char *secret_option(const struct ps_access_options *o)
{
    return o->bearer          ? "--bearer"
           : o->bearer_file   ? "--bearer-file"
           : o->n_headers > 0 ? "--header"
           : o->cert_file     ? "--cert"
                              : "--key";
}

int ps_access_one_server(const struct ps_access_options *o, const char *const *addresses, size_t n,
                         struct ps_err *err)
{
    struct ps_uri first = {0}, next = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && ps_access_has_secrets(o) && i < n; i++) {
        if (ps_uri_kind(addresses[i]) != PS_URI_HTTP || ps_uri_parse(&next, addresses[i], NULL) != 0)
            continue;
        if (first.host && !ps_uri_same_origin(&first, &next))
            rc = ps_err_set(
                err, PS_EUSAGE, ORIGIN,
                "%s: it is for one server, and the addresses are of several (%s://%s:%u, "
                "%s://%s:%u): call once for each",
                secret_option(o), first.scheme, first.host, first.port, next.scheme, next.host,
                next.port);
        if (!first.host) {
            first = next;
            next = (struct ps_uri){0};
        }
        ps_uri_deinit(&next);
        next = (struct ps_uri){0};
    }
    ps_uri_deinit(&first);
    return rc;
}

static int load(struct ps_access *a, const struct ps_access_options *o, const struct ps_uri *uri,
                struct ps_err *err)
{
    int rc = take_path(&a->ca_file, "--cacert", o->ca_file, err);
    if (rc != 0 || !uri)
        return rc;
    if (o->key_file && !o->cert_file)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "--key without --cert: name the certificate as well");
    if ((rc = take_path(&a->cert_file, "--cert", o->cert_file, err)) != 0 ||
        (rc = take_path(&a->key_file, "--key", o->key_file, err)) != 0 ||
        (rc = add_headers(a, o, err)) != 0 || (rc = add_bearer(a, o, err)) != 0)
        return rc;
    return add_netrc(a, o, uri, err);
}

int ps_access_load(struct ps_access **out, const struct ps_access_options *o,
                   const struct ps_uri *uri, struct ps_err *err)
{
    struct ps_access *a = ps_calloc(1, sizeof *a);
    int rc = a ? load(a, o, uri, err) : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc != 0) {
        ps_access_free(a);
        return rc;
    }
    *out = a;
    return 0;
}

static void wipe(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    ps_free(text);
}

void ps_access_free(struct ps_access *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n_headers; i++)
        wipe(a->headers[i]);
    ps_free(a->headers);
    wipe(a->user);
    wipe(a->password);
    ps_free(a->ca_file);
    ps_free(a->cert_file);
    ps_free(a->key_file);
    ps_free(a);
}
