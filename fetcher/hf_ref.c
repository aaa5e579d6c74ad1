/* Parsing of hf:// addresses and the names made of them. See hf_ref.h. */
#include "fetcher/hf_ref.h"

#include <ctype.h>
#include <string.h>

#include "base/alloc.h"
#include "base/strbuf.h"
#include "fetcher/uri.h"
#include "proto/source.h"

#define ORIGIN             "fetcher"
#define PART_MAX_BYTES     96 /* the Hub's own limit */
#define REVISION_MAX_BYTES 200

struct piece {
    const char *s;
    size_t n;
};

static int wrong(struct ps_err *err, const char *address, const char *why)
{
    return ps_err_set(err, PS_EUSAGE, ORIGIN,
                      "malformed address: %.200s: %s: write hf://org/name[@revision][/folder]",
                      address, why);
}

static bool starts(struct piece p, const char *word)
{
    return p.n >= strlen(word) && memcmp(p.s, word, strlen(word)) == 0;
}

static bool holds(struct piece p, const char *word)
{
    return memmem(p.s, p.n, word, strlen(word)) != NULL;
}

/* The Hub's rule for the name of an owner or a repository. */
static bool part_ok(struct piece p)
{
    if (p.n == 0 || p.n > PART_MAX_BYTES)
        return false;
    for (size_t i = 0; i < p.n; i++)
        if (!isalnum((unsigned char)p.s[i]) && (p.s[i] == '\0' || !strchr("-_.", p.s[i])))
            return false;
    const char *ends = "-.";
    return !strchr(ends, p.s[0]) && !strchr(ends, p.s[p.n - 1]) && !holds(p, "--") && !holds(p, "..");
}

/* What git allows in a reference, as far as it matters here: no step out of anything, no space, no control
 * character. */
static bool revision_ok(const char *s)
{
    size_t n = strlen(s);
    if (n == 0 || n > REVISION_MAX_BYTES || !ps_name_ok(s, n))
        return false;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || strchr("~^:?*[", *s))
            return false;
    return true;
}

/* The longest head of p without any of `stops`. */
static struct piece upto(struct piece *rest, const char *stops)
{
    struct piece head = {rest->s, 0};
    while (head.n < rest->n && !strchr(stops, rest->s[head.n]))
        head.n++;
    rest->s += head.n;
    rest->n -= head.n;
    return head;
}

static bool skip(struct piece *p, char c)
{
    if (p->n == 0 || *p->s != c)
        return false;
    p->s++;
    p->n--;
    return true;
}

/* "refs/pr/7" and "refs/convert/parquet" are so well known that their slashes need no escape. */
static struct piece take_revision(struct piece *rest)
{
    struct piece whole = *rest, head;
    bool special = starts(*rest, "refs/pr/") || starts(*rest, "refs/convert/");
    for (int slashes = special ? 2 : 0;; slashes--) {
        head = upto(rest, "/");
        if (slashes == 0 || !skip(rest, '/'))
            break;
    }
    return (struct piece){whole.s, (size_t)(head.s + head.n - whole.s)};
}

static int hex_value(char c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* Heap copy without %-escapes; *bad for a malformed one. */
static char *decode(struct piece p, bool *bad)
{
    char *out = ps_malloc(p.n + 1), *to = out;
    for (size_t i = 0; out && i < p.n; i++) {
        char c = p.s[i];
        if (c == '%') {
            if (p.n - i < 3 || !isxdigit((unsigned char)p.s[i + 1]) ||
                !isxdigit((unsigned char)p.s[i + 2])) {
                *bad = true;
                break;
            }
            c = (char)(hex_value(p.s[i + 1]) * 16 + hex_value(p.s[i + 2]));
            i += 2;
        }
        *bad |= c == '\0';
        *to++ = c;
    }
    if (out)
        *to = '\0';
    return out;
}

/* "models/" may stand in front; the other kinds of repository hold no models. */
static const char *take_kind(struct piece *rest)
{
    static const char *const others[] = {"datasets/", "spaces/", "kernels/", "buckets/"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (starts(*rest, others[i]))
            return "only models can be run";
    if (starts(*rest, "models/")) {
        rest->s += strlen("models/");
        rest->n -= strlen("models/");
    }
    return NULL;
}

/* Takes "org/name" or "name"; *whole spans it. */
static bool take_repo(struct piece *rest, struct piece *whole)
{
    struct piece first = upto(rest, "/@:"), last = first;
    if (rest->n > 1 && rest->s[0] == '/') {
        skip(rest, '/');
        last = upto(rest, "/@:");
        if (!part_ok(last))
            return false;
    }
    *whole = (struct piece){first.s, (size_t)(last.s + last.n - first.s)};
    return part_ok(first) && !(last.n > 4 && memcmp(last.s + last.n - 4, ".git", 4) == 0);
}

static void trim_slashes(struct piece *p)
{
    while (p->n > 0 && p->s[p->n - 1] == '/')
        p->n--;
    while (skip(p, '/'))
        continue;
}

static const char *split(struct ps_hf_ref *r, struct piece rest)
{
    static const char branch[] = "main";
    struct piece repo, revision = {branch, strlen(branch)};
    bool bad = false;
    const char *why = take_kind(&rest);
    if (why)
        return why;
    if (!take_repo(&rest, &repo))
        return "that is no name of a repository";
    if (skip(&rest, '@') || skip(&rest, ':'))
        revision = take_revision(&rest);
    trim_slashes(&rest);
    r->repo = ps_strndup(repo.s, repo.n);
    r->revision = decode(revision, &bad);
    r->folder = decode(rest, &bad);
    if (!r->repo || !r->revision || !r->folder)
        return NULL;
    /* "u:p@host" is somebody's login, put in the wrong place; an '@' in a branch's name is written %40. */
    bad |= memchr(revision.s, '@', revision.n) != NULL;
    if (bad || !revision_ok(r->revision))
        return "that is no revision: give a branch, a tag or a commit";
    if (r->folder[0] && !ps_name_ok(r->folder, strlen(r->folder)))
        return "that is no folder of a repository";
    return NULL;
}

int ps_hf_ref_parse(struct ps_hf_ref *out, const char *address, struct ps_err *err)
{
    struct ps_hf_ref r = {0};
    if (ps_uri_kind(address) != PS_URI_HF || strlen(address) > PS_URI_MAX_BYTES)
        return wrong(err, address, "not an address of the Hub");
    const char *body = strstr(address, "://") + 3;
    const char *why =
        strpbrk(body, "?#") ? "it takes no query" : split(&r, (struct piece){body, strlen(body)});
    int rc = 0;
    if (why)
        rc = wrong(err, address, why);
    else if (!r.repo || !r.revision || !r.folder)
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc != 0) {
        ps_hf_ref_deinit(&r);
        return rc;
    }
    *out = r;
    return 0;
}

void ps_hf_ref_deinit(struct ps_hf_ref *r)
{
    ps_free(r->repo);
    ps_free(r->revision);
    ps_free(r->folder);
    memset(r, 0, sizeof *r);
}

bool ps_hf_is_commit(const char *revision)
{
    return strlen(revision) == PS_HF_COMMIT_DIGITS &&
           strspn(revision, "0123456789abcdef") == PS_HF_COMMIT_DIGITS;
}

/* ---- names ---- */

static char *take(struct ps_strbuf *b)
{
    char *text = ps_strbuf_take(b, NULL);
    ps_strbuf_deinit(b);
    return text;
}

/* Escapes no more than reading it again needs: people look at it. */
static void put_readable(struct ps_strbuf *b, const char *text, const char *special)
{
    for (; *text; text++) {
        if (strchr(special, *text))
            ps_strbuf_printf(b, "%%%02X", (unsigned char)*text);
        else
            ps_strbuf_append(b, text, 1);
    }
}

static void put_revision(struct ps_strbuf *b, const char *revision)
{
    static const char *const plain[] = {"refs/pr/", "refs/convert/"};
    /* "refs" with a folder "pr/7" would be the pull request. */
    ps_strbuf_puts(b, strcmp(revision, "refs") == 0 ? "@%72" : "@");
    revision += strcmp(revision, "refs") == 0;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        const size_t n = strlen(plain[i]);
        if (strncmp(revision, plain[i], n) == 0 && revision[n]) {
            ps_strbuf_puts(b, plain[i]);
            revision += n;
            break;
        }
    }
    put_readable(b, revision, "%?#@/");
}

/* Would this repository's first part be read as a kind? Nobody can own one of these names on the Hub, but a mirror's
 * may be anything. */
static bool looks_like_a_kind(const char *repo)
{
    static const char *const kinds[] = {"models/", "datasets/", "spaces/", "kernels/", "buckets/"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(repo, kinds[i], strlen(kinds[i])) == 0)
            return true;
    return false;
}

char *ps_hf_label(const struct ps_hf_ref *r)
{
    struct ps_strbuf b;
    /* hf://gpt2/x would be the repository x of gpt2. */
    const bool ambiguous = r->folder[0] && !strchr(r->repo, '/');
    ps_strbuf_init(&b, 4 * PS_URI_MAX_BYTES);
    ps_strbuf_printf(&b, "hf://%s%s", looks_like_a_kind(r->repo) ? "models/" : "", r->repo);
    if (ambiguous || strcmp(r->revision, "main") != 0)
        put_revision(&b, r->revision);
    if (r->folder[0]) {
        ps_strbuf_puts(&b, "/");
        put_readable(&b, r->folder, "%?#");
    }
    return take(&b);
}

/* /resolve/ is the route that mirrors have too; /raw/ is not. */
char *ps_hf_files_address(const struct ps_hf_ref *r, const char *endpoint, const char *revision)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    ps_strbuf_printf(&b, "%s/%s/resolve/", endpoint, r->repo);
    ps_uri_escape(&b, revision, false);
    if (r->folder[0])
        ps_strbuf_puts(&b, "/");
    ps_uri_escape(&b, r->folder, true);
    return take(&b);
}

char *ps_hf_revision_address(const struct ps_hf_ref *r, const char *endpoint)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    ps_strbuf_printf(&b, "%s/api/models/%s/revision/", endpoint, r->repo);
    ps_uri_escape(&b, r->revision, false);
    return take(&b);
}

char *ps_hf_page_address(const struct ps_hf_ref *r, const char *endpoint)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    ps_strbuf_printf(&b, "%s/%s", endpoint, r->repo);
    return take(&b);
}

/* "models--org--name". A name may not contain "--", so that this can't be confused. */
char *ps_hf_cache_path(const struct ps_hf_ref *r, const char *hub_cache)
{
    const char *slash = strchr(r->repo, '/');
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_URI_MAX_BYTES);
    if (slash)
        ps_strbuf_printf(&b, "%s/models--%.*s--%s", hub_cache, (int)(slash - r->repo), r->repo,
                         slash + 1);
    else
        ps_strbuf_printf(&b, "%s/models--%s", hub_cache, r->repo);
    return take(&b);
}
