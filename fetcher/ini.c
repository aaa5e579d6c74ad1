/* Reading one value of an AWS configuration file. See ini.h. */
#include "fetcher/ini.h"

#include <string.h>

struct piece {
    const char *p;
    size_t n;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static struct piece trim(struct piece s)
{
    while (s.n > 0 && is_blank(s.p[s.n - 1]))
        s.n--;
    while (s.n > 0 && is_blank(*s.p))
        s.p++, s.n--;
    return s;
}

static bool equals(struct piece s, const char *text, size_t n)
{
    return s.n == n && memcmp(s.p, text, n) == 0;
}

static bool next_line(const char **p, const char *end, struct piece *line)
{
    if (*p >= end)
        return false;
    const char *stop = memchr(*p, '\n', (size_t)(end - *p));
    line->p = *p;
    line->n = (size_t)((stop ? stop : end) - *p);
    *p = stop ? stop + 1 : end;
    return true;
}

/* The AWS tools write a name with blanks in quotes: [profile 'x y']. */
static struct piece unquoted(struct piece s)
{
    bool quoted = s.n >= 2 && (*s.p == '"' || *s.p == '\'') && s.p[s.n - 1] == *s.p;
    return quoted ? (struct piece){s.p + 1, s.n - 2} : s;
}

/* "[profile  x]" and "[profile x]" are the same section. */
static bool section_is(struct piece line, const char *section)
{
    const char *close = memchr(line.p, ']', line.n);
    if (!close)
        return false;
    struct piece name = trim((struct piece){line.p + 1, (size_t)(close - line.p - 1)});
    size_t n = strlen(section);
    const char *space = strchr(section, ' ');
    if (!space)
        return equals(name, section, n);
    size_t word = (size_t)(space - section);
    if (name.n <= word || memcmp(name.p, section, word) != 0 || !is_blank(name.p[word]))
        return false;
    struct piece rest = unquoted(trim((struct piece){name.p + word, name.n - word}));
    return equals(rest, space + 1, n - word - 1);
}

static struct piece without_comment(struct piece s)
{
    for (size_t i = 1; i < s.n; i++)
        if ((s.p[i] == '#' || s.p[i] == ';') && is_blank(s.p[i - 1]))
            s.n = i;
    return trim(s);
}

/* Splits "key = value". */
static bool split(struct piece line, struct piece *key, struct piece *value)
{
    const char *equal = memchr(line.p, '=', line.n);
    if (!equal)
        return false;
    size_t n = (size_t)(equal - line.p);
    *key = trim((struct piece){line.p, n});
    *value = without_comment(trim((struct piece){equal + 1, line.n - n - 1}));
    return key->n > 0;
}

struct wanted {
    struct piece outer, inner; /* inner.n == 0: no subkey */
};

static struct wanted parse_wanted(const char *key)
{
    const char *dot = strchr(key, '.');
    size_t n = strlen(key);
    if (!dot)
        return (struct wanted){{key, n}, {NULL, 0}};
    size_t outer = (size_t)(dot - key);
    return (struct wanted){{key, outer}, {dot + 1, n - outer - 1}};
}

static bool same(struct piece a, struct piece b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static bool keep(struct piece value, char *out, size_t cap)
{
    if (value.n == 0 || value.n >= cap || memchr(value.p, '\0', value.n))
        return false;
    memcpy(out, value.p, value.n);
    out[value.n] = '\0';
    return true;
}

bool ps_ini_get(const char *text, size_t bytes, const char *section, const char *key, char *out,
                size_t cap)
{
    const char *p = text, *end = text + bytes;
    const struct wanted w = parse_wanted(key);
    struct piece line, name, value, outer = {NULL, 0};
    bool inside = false, found = false;
    while (next_line(&p, end, &line)) {
        struct piece bare = trim(line);
        if (bare.n == 0 || *bare.p == '#' || *bare.p == ';')
            continue;
        if (*bare.p == '[') {
            inside = section_is(bare, section);
            outer.n = 0;
            continue;
        }
        if (!inside || !split(bare, &name, &value))
            continue;
        bool nested = is_blank(*line.p) && outer.n > 0;
        if (!nested)
            outer = value.n == 0 ? name : (struct piece){NULL, 0};
        if (nested ? same(outer, w.outer) && w.inner.n > 0 && same(name, w.inner)
                   : w.inner.n == 0 && same(name, w.outer))
            found = keep(value, out, cap);
    }
    return found;
}

bool ps_ini_has_section(const char *text, size_t bytes, const char *section)
{
    const char *p = text, *end = text + bytes;
    struct piece line;
    while (next_line(&p, end, &line)) {
        struct piece bare = trim(line);
        if (bare.n > 0 && *bare.p == '[' && section_is(bare, section))
            return true;
    }
    return false;
}
