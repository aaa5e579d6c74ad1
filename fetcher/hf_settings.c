/* The Hub's environment variables. See hf_settings.h. */
#include "fetcher/hf_settings.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "fetcher/uri.h"

#define ORIGIN           "fetcher"
#define PUBLIC_ENDPOINT  "https://huggingface.co"
#define TOKEN_FILE_BYTES 4096 /* a token has some 40 characters, one of OAuth 2 up to 2 KB */

typedef char *env_fn(const char *name);

/* The first of two variables that is set and not empty. */
static const char *first_of(env_fn *env, const char *a, const char *b)
{
    const char *v = env(a);
    if ((!v || !*v) && b)
        v = env(b);
    return v && *v ? v : NULL;
}

static bool is_true(const char *v)
{
    static const char *const words[] = {"1", "on", "yes", "true"};
    for (size_t i = 0; v && i < sizeof words / sizeof *words; i++)
        if (strcasecmp(v, words[i]) == 0)
            return true;
    return false;
}

/* *out = head + middle + tail with "~" at the front expanded; stays NULL without a home. 0 or PS_ENOMEM. */
static int path_of(char **out, env_fn *env, const char *head, const char *middle, const char *tail)
{
    struct ps_strbuf b;
    const char *home = env("HOME");
    bool at_home = head[0] == '~' && (head[1] == '/' || head[1] == '\0');
    if (at_home && (!home || !*home))
        return 0;
    ps_strbuf_init(&b, 4096);
    ps_strbuf_printf(&b, "%s%s%s%s", at_home ? home : "", at_home ? head + 1 : head, middle, tail);
    *out = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return *out ? 0 : PS_ENOMEM;
}

/* $HF_HOME, else $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface; then `tail`. */
static int below_hf_home(char **out, env_fn *env, const char *tail)
{
    const char *own = first_of(env, "HF_HOME", NULL), *xdg = first_of(env, "XDG_CACHE_HOME", NULL);
    if (own)
        return path_of(out, env, own, "", tail);
    return path_of(out, env, xdg ? xdg : "~/.cache", "/huggingface", tail);
}

static int read_endpoint(struct ps_hf_settings *s, env_fn *env, struct ps_err *err)
{
    const char *v = first_of(env, "HF_ENDPOINT", NULL);
    struct ps_uri uri;
    s->endpoint = ps_strdup(v ? v : PUBLIC_ENDPOINT);
    if (!s->endpoint)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (size_t n = strlen(s->endpoint); n > 0 && s->endpoint[n - 1] == '/'; n--)
        s->endpoint[n - 1] = '\0';
    int rc = ps_uri_parse(&uri, s->endpoint, err);
    if (rc != 0)
        return rc == PS_EUSAGE ? ps_err_prefix(err, "HF_ENDPOINT") : rc;
    s->is_public = strcmp(uri.host, "huggingface.co") == 0 || strcmp(uri.host, "hf.co") == 0;
    bool bare = !uri.query && !uri.user;
    ps_uri_deinit(&uri);
    return bare
               ? 0
               : ps_err_set(err, PS_EUSAGE, ORIGIN,
                            "HF_ENDPOINT: it holds a login or a query: give https://host[/prefix]");
}

/* A secret is wiped before its memory goes back. */
static void forget(char **secret)
{
    if (*secret)
        explicit_bzero(*secret, strlen(*secret));
    ps_free(*secret);
    *secret = NULL;
}

/* White space around it goes, as in the Hub's own tools: files end in a newline. *out stays NULL if nothing is left. */
static int trimmed(char **out, const char *text)
{
    size_t n;
    while (isspace((unsigned char)*text))
        text++;
    for (n = strlen(text); n > 0 && isspace((unsigned char)text[n - 1]); n--)
        continue;
    if (n == 0)
        return 0;
    *out = ps_strndup(text, n);
    return *out ? 0 : PS_ENOMEM;
}

/* The first bytes of the token's file; *out stays NULL where there is none. */
static int read_token_file(char **out, const char *path)
{
    char text[TOKEN_FILE_BYTES + 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        if (errno != ENOENT && errno != ENOTDIR)
            ps_log(PS_LOG_WARN, "fetcher", "can't read the Hub's token: %s: %s", path,
                   strerror(errno));
        return 0;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    int rc = trimmed(out, text);
    explicit_bzero(text, sizeof text);
    return rc;
}

/* It goes into a header line: a line break or a space in it would be a second header. */
static bool token_ok(const char *t)
{
    for (; *t; t++)
        if ((unsigned char)*t <= ' ' || (unsigned char)*t >= 0x7f)
            return false;
    return true;
}

/* Where the token stands, and the token. */
static int find_token(struct ps_hf_settings *s, env_fn *env)
{
    const char *v = first_of(env, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN");
    const char *file = first_of(env, "HF_TOKEN_PATH", NULL);
    int rc = 0;
    if (v) {
        s->token_from = ps_strdup("HF_TOKEN");
        return s->token_from ? trimmed(&s->token, v) : PS_ENOMEM;
    }
    rc = file ? path_of(&s->token_from, env, file, "", "")
              : below_hf_home(&s->token_from, env, "/token");
    return rc == 0 && s->token_from ? read_token_file(&s->token, s->token_from) : rc;
}

static int read_token(struct ps_hf_settings *s, env_fn *env, struct ps_err *err)
{
    if (find_token(s, env) != 0)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (s->token && !token_ok(s->token))
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "%s: that is no token: it holds spaces or control characters",
                          s->token_from);
    if (s->token && is_true(env("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) {
        forget(&s->token);
        s->token_withheld = true;
    }
    return 0;
}

static int read_cache(struct ps_hf_settings *s, env_fn *env, struct ps_err *err)
{
    const char *v = first_of(env, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE");
    int rc = v ? path_of(&s->hub_cache, env, v, "", "") : below_hf_home(&s->hub_cache, env, "/hub");
    return rc == 0 ? 0 : ps_err_set(err, rc, ORIGIN, "out of memory");
}

int ps_hf_settings_read(struct ps_hf_settings *out, env_fn *env, struct ps_err *err)
{
    struct ps_hf_settings s = {0};
    s.offline = is_true(first_of(env, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"));
    int rc = read_endpoint(&s, env, err);
    if (rc == 0)
        rc = read_token(&s, env, err);
    if (rc == 0)
        rc = read_cache(&s, env, err);
    if (rc != 0) {
        ps_hf_settings_deinit(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void ps_hf_settings_forget_user(struct ps_hf_settings *s)
{
    forget(&s->token);
    ps_free(s->hub_cache);
    s->hub_cache = NULL;
}

void ps_hf_settings_deinit(struct ps_hf_settings *s)
{
    forget(&s->token);
    ps_free(s->endpoint);
    ps_free(s->token_from);
    ps_free(s->hub_cache);
    memset(s, 0, sizeof *s);
}
