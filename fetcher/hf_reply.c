/* The Hub's own headers, links and refusals. See hf_reply.h. */
#include "fetcher/hf_reply.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/strbuf.h"
#include "fetcher/uri.h"

/* ---- headers ---- */

struct text {
    const char *s;
    size_t n;
};

/* A value that fits; a longer one, or one with a NUL in it, counts as absent. */
static void keep(char *to, size_t cap, struct text v)
{
    if (v.n >= cap || memchr(v.s, '\0', v.n))
        v.n = 0;
    memcpy(to, v.s, v.n);
    to[v.n] = '\0';
}

/* W/"abc" -> abc, as huggingface_hub's _normalize_etag does. */
static struct text unquoted(struct text v)
{
    if (v.n >= 2 && v.s[0] == 'W' && v.s[1] == '/')
        v = (struct text){v.s + 2, v.n - 2};
    if (v.n >= 2 && v.s[0] == '"' && v.s[v.n - 1] == '"')
        v = (struct text){v.s + 1, v.n - 2};
    return v;
}

static bool number(struct text v, uint64_t *out)
{
    uint64_t n = 0;
    if (v.n == 0 || v.n > 18)
        return false;
    for (size_t i = 0; i < v.n; i++) {
        if (v.s[i] < '0' || v.s[i] > '9')
            return false;
        n = n * 10 + (uint64_t)(v.s[i] - '0');
    }
    *out = n;
    return true;
}

static void on_commit(struct ps_hf_facts *f, struct text v)
{
    keep(f->commit, sizeof f->commit, v);
    if (!ps_hf_is_commit(f->commit))
        f->commit[0] = '\0';
}

static void on_content(struct ps_hf_facts *f, struct text v, bool linked)
{
    if (f->linked && !linked)
        return;
    keep(f->content, sizeof f->content, unquoted(v));
    f->linked = linked && f->content[0];
}

const char *const ps_hf_headers[] = {"location",      "x-error-code",  "x-error-message",
                                     "x-repo-commit", "x-linked-etag", "etag",
                                     "x-linked-size", "date",          NULL};

void ps_hf_facts_put(struct ps_hf_facts *f, const char *name, const char *value)
{
    if (!value)
        return;
    const struct text v = {value, strlen(value)};
    if (strcmp(name, "x-error-code") == 0)
        keep(f->error_code, sizeof f->error_code, v);
    else if (strcmp(name, "x-error-message") == 0)
        keep(f->error_message, sizeof f->error_message, v);
    else if (strcmp(name, "x-repo-commit") == 0)
        on_commit(f, v);
    else if (strcmp(name, "x-linked-etag") == 0)
        on_content(f, v, true);
    else if (strcmp(name, "etag") == 0)
        on_content(f, v, false);
    else if (strcmp(name, "x-linked-size") == 0)
        f->has_bytes = number(v, &f->bytes);
    else if (strcmp(name, "date") == 0 && !ps_http_date(v.s, v.n, &f->date_s))
        f->date_s = 0;
}

bool ps_hf_content_is_sha256(const char *content)
{
    return strlen(content) == 64 && strspn(content, "0123456789abcdef") == 64;
}

/* ---- signed links ---- */

/* The value of a parameter of a query, or {NULL, 0}. */
static struct text parameter(const char *query, const char *name)
{
    size_t k = strlen(name);
    for (const char *p = query; p && *p; p = strchr(p, '&') ? strchr(p, '&') + 1 : NULL)
        if (strncasecmp(p, name, k) == 0 && p[k] == '=')
            return (struct text){p + k + 1, strcspn(p + k + 1, "&")};
    return (struct text){NULL, 0};
}

/* "20260829T120000Z" */
static bool basic_date(struct text v, uint64_t *out)
{
    char text[17];
    struct tm tm = {0};
    if (v.n != 16)
        return false;
    keep(text, sizeof text, v);
    const char *end = strptime(text, "%Y%m%dT%H%M%SZ", &tm);
    time_t t = end && *end == '\0' ? timegm(&tm) : -1;
    *out = t > 0 ? (uint64_t)t : 0;
    return t > 0;
}

uint64_t ps_signed_until(const char *query)
{
    static const char *const dated[][2] = {{"X-Amz-Date", "X-Amz-Expires"},
                                           {"X-Goog-Date", "X-Goog-Expires"}};
    uint64_t begin, life, end;
    if (!query)
        return 0;
    for (size_t i = 0; i < 2; i++)
        if (basic_date(parameter(query, dated[i][0]), &begin) &&
            number(parameter(query, dated[i][1]), &life))
            return begin + life;
    return number(parameter(query, "Expires"), &end) ? end : 0;
}

/* ---- refusals ---- */

enum ps_hf_refusal ps_hf_refusal_of(int status, const struct ps_hf_facts *f)
{
    static const struct {
        const char *code;
        enum ps_hf_refusal refusal;
    } codes[] = {{"RepoNotFound", PS_HF_NO_REPO},
                 {"GatedRepo", PS_HF_GATED},
                 {"RevisionNotFound", PS_HF_NO_REVISION},
                 {"EntryNotFound", PS_HF_NO_FILE}};
    if (status < 400 || status > 499 || status == 429 || status == 408)
        return PS_HF_OTHER;
    if (status == 401 && strstr(f->error_message, "Invalid credentials"))
        return PS_HF_BAD_TOKEN;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strcmp(f->error_code, codes[i].code) == 0)
            return codes[i].refusal;
    if (strstr(f->error_message, "is disabled"))
        return PS_HF_DISABLED;
    /* What remains are mirrors that drop the codes. The Hub says 401 of what does not exist too, so that nobody learns
     * which private repositories there are. */
    switch (status) {
    case 401: return PS_HF_NO_REPO;
    case 403: return PS_HF_FORBIDDEN;
    case 404:
    case 410: return PS_HF_NO_FILE;
    default: return PS_HF_OTHER;
    }
}

const char *ps_hf_refusal_what(enum ps_hf_refusal r)
{
    static const char *const what[PS_HF_REFUSALS] = {
        [PS_HF_OTHER] = "the Hub refused the request",
        [PS_HF_NO_REPO] = "no such repository, or a private one",
        [PS_HF_GATED] = "a gated model",
        [PS_HF_NO_REVISION] = "no such revision",
        [PS_HF_NO_FILE] = "no such file in the repository",
        [PS_HF_DISABLED] = "the Hub has disabled this repository",
        [PS_HF_BAD_TOKEN] = "the Hub does not know this token",
        [PS_HF_FORBIDDEN] = "the Hub forbids it",
    };
    return what[r];
}

int ps_hf_refusal_code(enum ps_hf_refusal r)
{
    return r == PS_HF_NO_FILE ? PS_ENOTFOUND : PS_EREFUSED;
}

static void put_hint(struct ps_strbuf *b, enum ps_hf_refusal r, const struct ps_hf_ref *ref,
                     const struct ps_hf_settings *s)
{
    const char *how = s->token_withheld ? "unset HF_HUB_DISABLE_IMPLICIT_TOKEN" : "set HF_TOKEN";
    const char *from = s->token_from ? s->token_from : "HF_TOKEN";
    switch (r) {
    case PS_HF_NO_REPO:
        if (s->token)
            ps_strbuf_printf(b, "check the spelling of %s, and whether the token in %s may read it",
                             ref->repo, from);
        else
            ps_strbuf_printf(b, "check the spelling of %s; if it is private, %s", ref->repo, how);
        break;
    case PS_HF_GATED:
        if (s->token)
            ps_strbuf_printf(
                b, "the token in %s has no access yet: accept the licence at %s/%s (some are granted by hand)",
                from, s->endpoint, ref->repo);
        else
            ps_strbuf_printf(b, "accept the licence at %s/%s, then %s", s->endpoint, ref->repo, how);
        break;
    case PS_HF_NO_REVISION:
        ps_strbuf_printf(b, "%s has no branch, tag or commit '%s'", ref->repo, ref->revision);
        break;
    case PS_HF_NO_FILE: ps_strbuf_puts(b, "check the address and the revision"); break;
    case PS_HF_DISABLED: ps_strbuf_puts(b, "use another copy of the model"); break;
    case PS_HF_BAD_TOKEN:
        ps_strbuf_printf(b, "the token in %s is wrong or was revoked: make a new one at %s/settings/tokens",
                         from, s->endpoint);
        break;
    default:
        if (s->token)
            ps_strbuf_printf(b, "give the token in %s the right to read %s", from, ref->repo);
        else
            ps_strbuf_printf(b, "%s to a token that may read %s", how, ref->repo);
    }
}

char *ps_hf_refusal_hint(enum ps_hf_refusal r, const struct ps_hf_ref *ref,
                         const struct ps_hf_settings *settings)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    put_hint(&b, r, ref, settings);
    char *text = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return text;
}
