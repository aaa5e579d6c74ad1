/* SigV4: canonical request, string to sign, derived key, signature. See s3_sign.h. */
#include "fetcher/s3_sign.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/strbuf.h"
#include "fetcher/uri.h"

#define CANONICAL_MAX_BYTES (64u << 10) /* session tokens reach 2 KB, keys 3 KB escaped */
#define DAY_CHARS           8
#define HEX_BYTES           (2 * PS_SHA256_BYTES + 1)

void ps_sigv4_date(uint64_t wall_s, char out[PS_SIGV4_DATE_BYTES])
{
    time_t t = (time_t)wall_s;
    struct tm tm = {0};
    gmtime_r(&t, &tm);
    strftime(out, PS_SIGV4_DATE_BYTES, "%Y%m%dT%H%M%SZ", &tm);
}

/* ---- query ---- */

struct param {
    char *name, *value; /* escaped anew */
};

static int hex_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Whatever was escaped on the wire and whatever was not: in the canonical form both look alike. */
static char *escape_anew(const char *p, size_t n)
{
    char *plain = ps_malloc(n + 1);
    if (!plain)
        return NULL;
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int high = p[i] == '%' && i + 2 < n ? hex_of(p[i + 1]) : -1;
        int low = high >= 0 ? hex_of(p[i + 2]) : -1;
        if (low >= 0) {
            plain[k++] = (char)(high * 16 + low);
            i += 2;
        } else
            plain[k++] = p[i];
    }
    plain[k] = '\0';
    struct ps_strbuf b;
    ps_strbuf_init(&b, CANONICAL_MAX_BYTES);
    ps_strbuf_puts(&b, "");
    ps_uri_escape(&b, plain, false);
    ps_free(plain);
    char *text = b.len ? ps_strbuf_take(&b, NULL) : ps_strdup("");
    ps_strbuf_deinit(&b);
    return text;
}

/* By name, then by value. Joined strings would sort "a-b=" before "a=". */
static int compare_params(const void *a, const void *b)
{
    const struct param *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c ? c : strcmp(x->value, y->value);
}

static int split_query(struct param *params, size_t *n, const char *query)
{
    while (*query) {
        size_t len = strcspn(query, "&"), name = strcspn(query, "=&");
        if (len > 0) {
            if (*n == PS_SIGV4_PARAMS_MAX)
                return PS_EDATA;
            struct param *p = &params[(*n)++];
            p->name = escape_anew(query, name);
            p->value = name < len ? escape_anew(query + name + 1, len - name - 1) : ps_strdup("");
            if (!p->name || !p->value)
                return PS_ENOMEM;
        }
        query += len + (query[len] == '&');
    }
    return 0;
}

static int append_query(struct ps_strbuf *b, const char *query)
{
    struct param params[PS_SIGV4_PARAMS_MAX] = {{0}};
    size_t n = 0;
    int rc = query ? split_query(params, &n, query) : 0;
    if (rc == 0 && n > 1)
        qsort(params, n, sizeof *params, compare_params);
    for (size_t i = 0; i < n; i++) {
        if (rc == 0)
            ps_strbuf_printf(b, "%s%s=%s", i ? "&" : "", params[i].name, params[i].value);
        ps_free(params[i].name);
        ps_free(params[i].value);
    }
    ps_strbuf_puts(b, "\n");
    return rc;
}

/* ---- headers ---- */

/* Without blanks at the ends, and with one in place of several. */
static void append_trimmed(struct ps_strbuf *b, const char *value)
{
    bool blank = false, any = false;
    for (; *value; value++) {
        if (*value == ' ' || *value == '\t') {
            blank = any;
            continue;
        }
        if (blank)
            ps_strbuf_puts(b, " ");
        ps_strbuf_append(b, value, 1);
        blank = false;
        any = true;
    }
}

/* Stable: values of one name stay in the order of sending. */
static void sort_headers(const struct ps_sigv4_header **h, size_t n)
{
    for (size_t i = 1; i < n; i++)
        for (size_t k = i; k > 0 && strcmp(h[k - 1]->name, h[k]->name) > 0; k--) {
            const struct ps_sigv4_header *t = h[k];
            h[k] = h[k - 1];
            h[k - 1] = t;
        }
}

static void append_headers(struct ps_strbuf *b, struct ps_strbuf *names,
                           const struct ps_sigv4_request *q)
{
    const struct ps_sigv4_header *h[PS_SIGV4_HEADERS_MAX];
    for (size_t i = 0; i < q->n_headers; i++)
        h[i] = &q->headers[i];
    sort_headers(h, q->n_headers);
    for (size_t i = 0; i < q->n_headers; i++) {
        bool again = i > 0 && strcmp(h[i - 1]->name, h[i]->name) == 0;
        if (again)
            ps_strbuf_puts(b, ",");
        else {
            ps_strbuf_printf(b, "%s%s:", i ? "\n" : "", h[i]->name);
            ps_strbuf_printf(names, "%s%s", i ? ";" : "", h[i]->name);
        }
        append_trimmed(b, h[i]->value);
    }
    ps_strbuf_puts(b, "\n\n");
}

/* ---- request, string to sign, signature ---- */

/* The hash of the canonical request, and the list of what it covers. */
static int hash_request(char hex[HEX_BYTES], struct ps_strbuf *names,
                        const struct ps_sigv4_request *q)
{
    struct ps_strbuf b;
    uint8_t hash[PS_SHA256_BYTES];
    if (q->n_headers > PS_SIGV4_HEADERS_MAX)
        return PS_EDATA;
    ps_strbuf_init(&b, CANONICAL_MAX_BYTES);
    ps_strbuf_printf(&b, "%s\n", q->method);
    ps_strbuf_puts(&b, q->path); /* not through printf: no bound but the buffer's */
    ps_strbuf_puts(&b, "\n");
    int rc = append_query(&b, q->query);
    append_headers(&b, names, q);
    ps_strbuf_puts(&b, names->data);
    ps_strbuf_puts(&b, "\n");
    ps_strbuf_puts(&b, q->payload_hash);
    if (rc == 0 && (!ps_strbuf_ok(&b) || !ps_strbuf_ok(names)))
        rc = PS_ENOMEM;
    if (rc == 0) {
        ps_sha256_once(b.data, b.len, hash);
        ps_hex_encode(hash, sizeof hash, hex);
    }
    ps_strbuf_deinit(&b);
    return rc;
}

static int derive_key(uint8_t key[PS_SHA256_BYTES], const struct ps_sigv4_key *k)
{
    char start[256];
    int n = snprintf(start, sizeof start, "AWS4%s", k->secret_key);
    if (n < 0 || (size_t)n >= sizeof start)
        return PS_EDATA;
    int rc = ps_hmac_sha256(start, (size_t)n, k->date, DAY_CHARS, key);
    const char *const steps[] = {k->region, k->service, "aws4_request"};
    for (size_t i = 0; i < 3 && rc == 0; i++) {
        uint8_t from[PS_SHA256_BYTES];
        memcpy(from, key, sizeof from);
        rc = ps_hmac_sha256(from, sizeof from, steps[i], strlen(steps[i]), key);
    }
    explicit_bzero(start, sizeof start);
    return rc;
}

static int sign(char out[PS_SIGV4_AUTH_MAX], const char *names, const char *request_hash,
                const struct ps_sigv4_key *k)
{
    char scope[160], text[512], hex[HEX_BYTES];
    uint8_t key[PS_SHA256_BYTES], signature[PS_SHA256_BYTES];
    int n = snprintf(scope, sizeof scope, "%.8s/%s/%s/aws4_request", k->date, k->region, k->service);
    if (n < 0 || (size_t)n >= sizeof scope)
        return PS_EDATA;
    n = snprintf(text, sizeof text, "AWS4-HMAC-SHA256\n%s\n%s\n%s", k->date, scope, request_hash);
    int rc = derive_key(key, k);
    if (rc == 0)
        rc = ps_hmac_sha256(key, sizeof key, text, (size_t)n, signature);
    explicit_bzero(key, sizeof key);
    if (rc != 0)
        return rc;
    ps_hex_encode(signature, sizeof signature, hex);
    n = snprintf(out, PS_SIGV4_AUTH_MAX,
                 "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", k->access_key,
                 scope, names, hex);
    return n > 0 && n < PS_SIGV4_AUTH_MAX ? 0 : PS_EDATA;
}

int ps_sigv4_authorization(char out[PS_SIGV4_AUTH_MAX], const struct ps_sigv4_request *q,
                           const struct ps_sigv4_key *k)
{
    char hex[HEX_BYTES];
    struct ps_strbuf names;
    if (strlen(k->date) != PS_SIGV4_DATE_BYTES - 1)
        return PS_EDATA;
    ps_strbuf_init(&names, PS_SIGV4_AUTH_MAX);
    int rc = hash_request(hex, &names, q);
    if (rc == 0)
        rc = sign(out, names.data, hex, k);
    ps_strbuf_deinit(&names);
    return rc;
}
