/* See pretty.h. */
#include "tools/pretty.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include "base/alloc.h"
#include "base/size.h"

#define CELL        128
#define COLUMNS_MAX 16

static bool ends_in(const char *key, const char *end)
{
    size_t n = strlen(key), m = strlen(end);

    return n >= m && strcmp(key + n - m, end) == 0 &&
           (n == m || end[0] == '_' || key[n - m - 1] == '_');
}

char *ps_pretty_seconds(char *out, size_t cap, double s)
{
    if (s < 0)
        snprintf(out, cap, "-");
    else if (s > 0 && s < 0.001)
        snprintf(out, cap, "%.3g us", s * 1e6);
    else if (s < 1)
        snprintf(out, cap, "%.3g ms", s * 1e3);
    else if (s < 120)
        snprintf(out, cap, "%.2f s", s);
    else if (s < 7200)
        snprintf(out, cap, "%d min %d s", (int)s / 60, (int)s % 60);
    else
        snprintf(out, cap, "%.1f h", s / 3600);
    return out;
}

static void wall_time(char *out, size_t cap, time_t t)
{
    struct tm tm;

    if (!localtime_r(&t, &tm) || strftime(out, cap, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        snprintf(out, cap, "-");
}

static void number(char *out, size_t cap, const char *key, const struct ps_json *v)
{
    double x = v->kind == PS_JSON_INT ? (double)v->integer : v->number;
    char size[24];

    if (ends_in(key, "bytes_s"))
        snprintf(out, cap, "%s/s", ps_size_format(size, sizeof size, x > 0 ? (uint64_t)x : 0));
    else if ((ends_in(key, "bytes") || strncmp(key, "bytes_", 6) == 0 || strstr(key, "_bytes_")) &&
             x >= 0)
        ps_size_format(out, cap, (uint64_t)x);
    else if (ends_in(key, "_at") && x > 0)
        wall_time(out, cap, (time_t)x);
    else if (ends_in(key, "_pct"))
        snprintf(out, cap, "%.1f %%", x);
    else if (ends_in(key, "gb_s"))
        snprintf(out, cap, "%.2f", x);
    else if (ends_in(key, "_tok_s"))
        snprintf(out, cap, "%.3g/s", x);
    else if (ends_in(key, "_s") || ends_in(key, "seconds") || strstr(key, "_s_per_"))
        ps_pretty_seconds(out, cap, x);
    else if (v->kind == PS_JSON_INT)
        snprintf(out, cap, "%lld", (long long)v->integer);
    else
        snprintf(out, cap, "%.4g", x);
}

/* [32000, 4096] as "32000x4096" for shapes, "0 1 2" otherwise. */
static void scalars(char *out, size_t cap, const char *key, const struct ps_json *v)
{
    size_t n = 0;
    char item[CELL];

    out[0] = '\0';
    for (const struct ps_json *c = v->child; c && n + 1 < cap; c = c->next) {
        const char *between = c == v->child ? "" : strcmp(key, "shape") == 0 ? "x" : " ";
        int added =
            snprintf(out + n, cap - n, "%s%s", between, ps_pretty_value(item, sizeof item, "", c));

        n += added > 0 ? (size_t)added : 0;
    }
    if (n >= cap && cap > 4)
        memcpy(out + cap - 4, "...", 4);
}

/* Names come from remote bytes: a control character must not reach the terminal. */
static void text(char *out, size_t cap, const struct ps_json *v)
{
    snprintf(out, cap, "%.*s", (int)(v->len < cap ? v->len : cap - 1), v->s);
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

char *ps_pretty_value(char *out, size_t cap, const char *key, const struct ps_json *v)
{
    switch (v->kind) {
    case PS_JSON_NULL:
        snprintf(out, cap, "%s",
                 ends_in(key, "bytes_s")    ? "not measured"
                 : strcmp(key, "same") == 0 ? "can't be told"
                                            : "-");
        break;
    case PS_JSON_BOOL: snprintf(out, cap, v->boolean ? "yes" : "no"); break;
    case PS_JSON_INT:
    case PS_JSON_DOUBLE: number(out, cap, key, v); break;
    case PS_JSON_STRING: text(out, cap, v); break;
    case PS_JSON_ARRAY: scalars(out, cap, key, v); break;
    default: snprintf(out, cap, "..."); break;
    }
    return out;
}

static bool is_table(const struct ps_json *v)
{
    return v->kind == PS_JSON_ARRAY && v->child && v->child->kind == PS_JSON_OBJECT;
}

static bool is_nested(const struct ps_json *v)
{
    return v->kind == PS_JSON_OBJECT || is_table(v);
}

/* The name of a fact without its unit, which the value shows: "link_bytes_s" as "link rate",
 * "probe_age_s" as "probe age", "ram_min_bytes" as "ram min bytes". */
static void name(char *out, size_t cap, const char *key)
{
    int n = (int)strlen(key);

    if (ends_in(key, "gb_s"))
        snprintf(out, cap, "%.*sGB/s", n - 4, key);
    else if (ends_in(key, "_bytes_s"))
        snprintf(out, cap, "%.*s_rate", n - 8, key);
    else if (ends_in(key, "_pct"))
        snprintf(out, cap, "%.*s", n - 4, key);
    else
        snprintf(out, cap, "%.*s", ends_in(key, "_s") ? n - 2 : n, key);
    for (char *p = out; *p; p++)
        *p = *p == '_' ? ' ' : *p;
}

static void cell(char *out, const char *key, const struct ps_json *v)
{
    ps_pretty_value(out, CELL, key, v);
    if (v->kind == PS_JSON_STRING && v->len == 64 && strspn(out, "0123456789abcdef") == 64)
        out[12] = '\0'; /* a prefix of a hash names a model well enough, and `cache evict` takes it */
}

static bool is_right(const struct ps_json *v)
{
    return v->kind == PS_JSON_INT || v->kind == PS_JSON_DOUBLE;
}

struct columns {
    const char *keys[COLUMNS_MAX];
    size_t width[COLUMNS_MAX], n;
};

/* The columns are the keys of the first row that hold no tables themselves. */
static void measure(struct columns *t, const struct ps_json *rows)
{
    char out[CELL];

    t->n = 0;
    for (const struct ps_json *c = rows->child->child; c && t->n < COLUMNS_MAX; c = c->next)
        if (!is_nested(c)) {
            t->keys[t->n] = c->key;
            t->width[t->n++] = strlen(c->key); /* a heading is never longer than its key */
        }
    for (const struct ps_json *r = rows->child; r; r = r->next)
        for (size_t i = 0; i < t->n; i++) {
            const struct ps_json *v = ps_json_get(r, t->keys[i]);

            if (!v)
                continue;
            cell(out, t->keys[i], v);
            t->width[i] = strlen(out) > t->width[i] ? strlen(out) : t->width[i];
        }
}

static void pad(struct ps_strbuf *b, const char *s, size_t width, bool right, bool last)
{
    int space = (int)(width > strlen(s) ? width - strlen(s) : 0);

    if (right)
        ps_strbuf_printf(b, "%*s%s", space, "", s);
    else
        ps_strbuf_printf(b, "%s%*s", s, last ? 0 : space, "");
    ps_strbuf_puts(b, last ? "\n" : "  ");
}

static void write_object(struct ps_strbuf *b, const struct ps_json *o, unsigned indent);

static void write_table(struct ps_strbuf *b, const struct ps_json *rows, unsigned indent)
{
    struct columns t;
    char out[CELL];

    measure(&t, rows);
    ps_strbuf_printf(b, "%*s", (int)indent, "");
    for (size_t i = 0; i < t.n; i++) {
        const struct ps_json *v = ps_json_get(rows->child, t.keys[i]);

        name(out, sizeof out, t.keys[i]);
        pad(b, out, t.width[i], v && is_right(v), i + 1 == t.n);
    }
    for (const struct ps_json *r = rows->child; r; r = r->next) {
        ps_strbuf_printf(b, "%*s", (int)indent, "");
        for (size_t i = 0; i < t.n; i++) {
            const struct ps_json *v = ps_json_get(r, t.keys[i]);

            out[0] = '\0';
            if (v)
                cell(out, t.keys[i], v);
            pad(b, out, t.width[i], v && is_right(v), i + 1 == t.n);
        }
        for (const struct ps_json *c = r->child; c; c = c->next)
            if (is_table(c))
                write_table(b, c, indent + 4);
    }
}

static void write_scalars(struct ps_strbuf *b, const struct ps_json *o, unsigned indent)
{
    char out[CELL * 8], label[CELL];
    size_t width = 0;

    for (const struct ps_json *c = o->child; c; c = c->next) {
        name(label, sizeof label, c->key);
        if (!is_nested(c) && strlen(label) > width)
            width = strlen(label);
    }
    for (const struct ps_json *c = o->child; c; c = c->next) {
        if (is_nested(c))
            continue;
        name(label, sizeof label, c->key);
        ps_strbuf_printf(b, "%*s%-*s  %s\n", (int)indent, "", (int)width, label,
                         ps_pretty_value(out, sizeof out, c->key, c));
    }
}

static void write_object(struct ps_strbuf *b, const struct ps_json *o, unsigned indent)
{
    char label[CELL];

    write_scalars(b, o, indent);
    for (const struct ps_json *c = o->child; c; c = c->next) {
        if (!is_nested(c))
            continue;
        name(label, sizeof label, c->key);
        ps_strbuf_printf(b, "%*s%s:\n", (int)indent, "", label);
        if (c->kind == PS_JSON_OBJECT)
            write_object(b, c, indent + 2);
        else
            write_table(b, c, indent + 2);
    }
}

void ps_pretty_write(struct ps_strbuf *b, const struct ps_json *object)
{
    write_object(b, object, 0);
}
