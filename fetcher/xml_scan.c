/* A scanner for single values in small XML documents. See xml_scan.h. */
#include "fetcher/xml_scan.h"

#include <stdint.h>
#include <string.h>

struct cursor {
    const char *p, *end;
};

static bool at(const struct cursor *c, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(c->end - c->p) >= n && memcmp(c->p, text, n) == 0;
}

/* Moves behind the next `text`; false, at the end, if there is none. */
static bool skip_past(struct cursor *c, const char *text)
{
    size_t n = strlen(text);
    for (; (size_t)(c->end - c->p) >= n; c->p++)
        if (memcmp(c->p, text, n) == 0) {
            c->p += n;
            return true;
        }
    c->p = c->end;
    return false;
}

static bool is_blank(char ch)
{
    return ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n';
}

/* At '<' of a start tag: is it this element? Moves behind '>'. *empty: "<name/>". */
static bool start_tag(struct cursor *c, const char *name, bool *empty)
{
    const char *from = ++c->p;
    while (c->p < c->end && !is_blank(*c->p) && *c->p != '>' && *c->p != '/')
        c->p++;
    const char *to = c->p;
    const char *colon = memchr(from, ':', (size_t)(to - from));
    if (colon)
        from = colon + 1;
    bool same = (size_t)(to - from) == strlen(name) && memcmp(from, name, (size_t)(to - from)) == 0;
    /* A '>' inside a quoted attribute does not end the tag. */
    char quote = 0;
    for (; c->p < c->end && (quote || *c->p != '>'); c->p++) {
        if (quote)
            quote = *c->p == quote ? 0 : quote;
        else if (*c->p == '"' || *c->p == '\'')
            quote = *c->p;
    }
    if (c->p == c->end)
        return false;
    *empty = c->p[-1] == '/';
    c->p++;
    return same;
}

struct text {
    char *out;
    size_t n, cap;
    bool failed;
};

static void put(struct text *t, unsigned char ch)
{
    if (t->n + 1 >= t->cap) {
        t->failed = true;
        return;
    }
    t->out[t->n++] = ch < 0x20 || ch == 0x7f ? (is_blank((char)ch) ? ' ' : '?') : (char)ch;
}

/* UTF-8; what is no character becomes '?'. */
static void put_character(struct text *t, uint32_t v)
{
    if (v == 0 || v > 0x10ffff || (v >= 0xd800 && v < 0xe000))
        v = '?';
    if (v < 0x80) {
        put(t, (unsigned char)v);
        return;
    }
    unsigned more = v < 0x800 ? 1 : v < 0x10000 ? 2 : 3;
    static const unsigned char first[] = {0, 0xc0, 0xe0, 0xf0};
    put(t, (unsigned char)(first[more] | (v >> (6 * more))));
    while (more-- > 0)
        put(t, (unsigned char)(0x80 | ((v >> (6 * more)) & 0x3f)));
}

static bool number(const char *p, const char *end, unsigned base, uint32_t *out)
{
    uint32_t v = 0;
    if (p == end || end - p > 8)
        return false;
    for (; p < end; p++) {
        unsigned d = *p >= '0' && *p <= '9'                     ? (unsigned)(*p - '0')
                     : (*p | 0x20) >= 'a' && (*p | 0x20) <= 'f' ? (unsigned)((*p | 0x20) - 'a' + 10)
                                                                : 99;
        if (d >= base)
            return false;
        v = v * base + d;
    }
    *out = v;
    return true;
}

/* At '&'. An entity that is none of XML's own stays as it stands. */
static void entity(struct cursor *c, struct text *t)
{
    static const struct {
        const char *name;
        unsigned char is;
    } known[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (at(c, known[i].name)) {
            put(t, known[i].is);
            c->p += strlen(known[i].name);
            return;
        }
    const char *semicolon =
        memchr(c->p, ';', (size_t)(c->end - c->p) < 12 ? (size_t)(c->end - c->p) : 12);
    uint32_t v;
    bool hex = at(c, "&#x");
    if (semicolon && at(c, "&#") && number(c->p + (hex ? 3 : 2), semicolon, hex ? 16 : 10, &v)) {
        put_character(t, v);
        c->p = semicolon + 1;
        return;
    }
    put(t, '&');
    c->p++;
}

/* The characters up to the end tag. False: something else comes first, or nothing does. */
static bool content(struct cursor *c, struct text *t)
{
    while (c->p < c->end && !t->failed) {
        if (at(c, "</"))
            return true;
        if (at(c, "<!--")) {
            if (!skip_past(c, "-->"))
                return false;
        } else if (at(c, "<![CDATA[")) {
            c->p += 9;
            for (; c->p < c->end && !at(c, "]]>") && !t->failed; c->p++)
                put(t, (unsigned char)*c->p);
            if (!skip_past(c, "]]>"))
                return false;
        } else if (*c->p == '<')
            return false;
        else if (*c->p == '&')
            entity(c, t);
        else
            put(t, (unsigned char)*c->p++);
    }
    return false;
}

static bool take(struct cursor *c, char *out, size_t cap)
{
    struct text t = {.out = out, .cap = cap};
    if (!content(c, &t) || t.failed)
        return false;
    size_t from = 0;
    while (t.n > 0 && out[t.n - 1] == ' ')
        t.n--;
    while (from < t.n && out[from] == ' ')
        from++;
    memmove(out, out + from, t.n - from);
    out[t.n - from] = '\0';
    return true;
}

bool ps_xml_text(const char *xml, size_t bytes, const char *name, char *out, size_t cap)
{
    struct cursor c = {xml, xml + bytes};
    bool empty, found = false;
    while (!found && skip_past(&c, "<")) {
        c.p--;
        if (at(&c, "<!--"))
            skip_past(&c, "-->");
        else if (at(&c, "<![CDATA["))
            skip_past(&c, "]]>");
        else if (at(&c, "<?") || at(&c, "<!") || at(&c, "</"))
            skip_past(&c, ">");
        else if (start_tag(&c, name, &empty)) {
            if (empty || !take(&c, out, cap))
                break;
            found = true;
        }
    }
    if (!found)
        out[0] = '\0';
    return found;
}
