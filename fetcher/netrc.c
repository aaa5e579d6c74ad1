/* Reading a .netrc file. See netrc.h. */
#include "fetcher/netrc.h"

#include <string.h>
#include <strings.h>

struct scan {
    const char *p, *end;
    char word[PS_NETRC_WORD_MAX];
    bool useless; /* it is longer than that, or holds a NUL */
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_line(struct scan *s)
{
    const char *stop = memchr(s->p, '\n', (size_t)(s->end - s->p));
    s->p = stop ? stop + 1 : s->end;
}

/* A macro ends at an empty line. */
static void skip_macro(struct scan *s)
{
    do
        skip_line(s);
    while (s->p < s->end && *s->p != '\n' && *s->p != '\r');
}

static void put(struct scan *s, size_t *n, char c)
{
    if (c != '\0' && *n + 1 < sizeof s->word)
        s->word[(*n)++] = c;
    else
        s->useless = true;
}

static char escaped(char c)
{
    return c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c;
}

/* Up to the next word. What begins with a '#' is a comment, but not a value in the line of its keyword: passwords
 * begin with any character, and newer versions of curl read them so. */
static void skip_space(struct scan *s, bool value)
{
    for (; s->p < s->end; value = false) {
        for (; s->p < s->end && is_space(*s->p); s->p++)
            value &= *s->p != '\n';
        if (value || s->p >= s->end || *s->p != '#')
            return;
        skip_line(s);
    }
}

/* The next word, or the value of the last one. False at the end. */
static bool next(struct scan *s, bool value)
{
    size_t n = 0;
    skip_space(s, value);
    if (s->p >= s->end)
        return false;
    s->useless = false;
    if (*s->p == '"') {
        for (s->p++; s->p < s->end && *s->p != '"'; s->p++) {
            bool escape = *s->p == '\\' && s->p + 1 < s->end;
            s->p += escape;
            put(s, &n, escape ? escaped(*s->p) : *s->p);
        }
        s->p += s->p < s->end;
    } else {
        while (s->p < s->end && !is_space(*s->p))
            put(s, &n, *s->p++);
    }
    s->word[n] = '\0';
    return true;
}

/* The word that follows, into out. A NUL, or one that does not fit, makes the entry useless. */
static bool take(struct scan *s, char out[PS_NETRC_WORD_MAX])
{
    if (!next(s, true) || s->useless)
        return false;
    memcpy(out, s->word, sizeof s->word);
    return true;
}

struct entry {
    struct ps_netrc_login l;
    bool ours, has_password, broken;
};

static bool usable(const struct entry *e, const char *login)
{
    return e->ours && e->has_password && !e->broken &&
           (!login || (e->l.login[0] && strcmp(e->l.login, login) == 0));
}

bool ps_netrc_find(struct ps_netrc_login *out, const char *text, size_t bytes, const char *host,
                   const char *login)
{
    struct scan s = {.p = text, .end = text + bytes};
    struct entry e = {.ours = false};
    char name[PS_NETRC_WORD_MAX], unused[PS_NETRC_WORD_MAX];
    while (next(&s, false)) {
        bool machine = strcmp(s.word, "machine") == 0;
        if (machine || strcmp(s.word, "default") == 0) {
            if (usable(&e, login))
                break;
            memset(&e, 0, sizeof e);
            e.ours = !machine || (take(&s, name) && strcasecmp(name, host) == 0);
        } else if (strcmp(s.word, "login") == 0) {
            e.broken |= !take(&s, e.l.login);
        } else if (strcmp(s.word, "password") == 0) {
            e.has_password = take(&s, e.l.password);
        } else if (strcmp(s.word, "account") == 0) {
            (void)take(&s, unused);
        } else if (strcmp(s.word, "macdef") == 0) {
            skip_macro(&s);
        }
    }
    bool found = usable(&e, login);
    if (found)
        *out = e.l;
    explicit_bzero(&e, sizeof e);
    explicit_bzero(&s.word, sizeof s.word);
    return found;
}
