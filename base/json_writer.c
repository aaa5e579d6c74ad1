/* The JSON writer: values come in one by one, valid JSON text goes out into a bounded string buffer. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

enum { MAX_DEPTH = sizeof(((struct ps_json_writer *)0)->first) / sizeof(bool) };

void ps_jw_init(struct ps_json_writer *w, struct ps_strbuf *b)
{
    *w = (struct ps_json_writer){.b = b, .first = {true}};
}

/* The comma that belongs in front of the next key or array element. */
static void separate(struct ps_json_writer *w)
{
    if (w->after_key)
        w->after_key = false;
    else if (w->first[w->depth])
        w->first[w->depth] = false;
    else
        ps_strbuf_puts(w->b, ",");
}

static void open_container(struct ps_json_writer *w, const char *bracket)
{
    separate(w);
    PS_ASSERT(w->depth + 1 < MAX_DEPTH);
    w->first[++w->depth] = true;
    ps_strbuf_puts(w->b, bracket);
}

static void close_container(struct ps_json_writer *w, const char *bracket)
{
    PS_ASSERT(w->depth > 0 && !w->after_key);
    w->depth--;
    ps_strbuf_puts(w->b, bracket);
}

void ps_jw_object(struct ps_json_writer *w)
{
    open_container(w, "{");
}

void ps_jw_object_end(struct ps_json_writer *w)
{
    close_container(w, "}");
}

void ps_jw_array(struct ps_json_writer *w)
{
    open_container(w, "[");
}

void ps_jw_array_end(struct ps_json_writer *w)
{
    close_container(w, "]");
}

/* What must be written for the character c, or NULL where it stands for itself. */
static const char *escape(unsigned char c, char buf[8])
{
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    case '\b': return "\\b";
    case '\f': return "\\f";
    default: break;
    }
    if (c >= 0x20)
        return NULL;
    snprintf(buf, 8, "\\u%04x", c);
    return buf;
}

static void write_string(struct ps_json_writer *w, const char *s, size_t len)
{
    ps_strbuf_puts(w->b, "\"");
    size_t plain = 0; /* start of the run that is copied as it is */
    for (size_t i = 0; i < len;) {
        bool valid;
        char buf[8];
        size_t n = ps_utf8_step(s + i, len - i, &valid);
        const char *other = valid ? escape((unsigned char)s[i], buf) : "\xef\xbf\xbd";
        if (other) {
            ps_strbuf_append(w->b, s + plain, i - plain);
            ps_strbuf_puts(w->b, other);
            plain = i + n;
        }
        i += n;
    }
    ps_strbuf_append(w->b, s + plain, len - plain);
    ps_strbuf_puts(w->b, "\"");
}

void ps_jw_key(struct ps_json_writer *w, const char *key)
{
    PS_ASSERT(!w->after_key);
    separate(w);
    write_string(w, key, strlen(key));
    ps_strbuf_puts(w->b, ":");
    w->after_key = true;
}

void ps_jw_string(struct ps_json_writer *w, const char *s, size_t len)
{
    separate(w);
    write_string(w, len ? s : "", len);
}

void ps_jw_int(struct ps_json_writer *w, int64_t v)
{
    separate(w);
    ps_strbuf_printf(w->b, "%lld", (long long)v);
}

void ps_jw_uint(struct ps_json_writer *w, uint64_t v)
{
    separate(w);
    ps_strbuf_printf(w->b, "%llu", (unsigned long long)v);
}

void ps_jw_double(struct ps_json_writer *w, double v)
{
    if (!isfinite(v)) {
        ps_jw_null(w);
        return;
    }
    separate(w);
    char text[40];
    snprintf(text, sizeof(text), "%.9g", v);
    /* printf follows the locale of the program that uses the library; JSON knows the point only. */
    char *comma = strchr(text, ',');
    if (comma)
        *comma = '.';
    ps_strbuf_puts(w->b, text);
}

void ps_jw_bool(struct ps_json_writer *w, bool v)
{
    ps_jw_raw(w, v ? "true" : "false");
}

void ps_jw_null(struct ps_json_writer *w)
{
    ps_jw_raw(w, "null");
}

void ps_jw_raw(struct ps_json_writer *w, const char *json)
{
    separate(w);
    ps_strbuf_puts(w->b, json);
}

void ps_jw_kint(struct ps_json_writer *w, const char *key, int64_t v)
{
    ps_jw_key(w, key);
    ps_jw_int(w, v);
}

void ps_jw_kuint(struct ps_json_writer *w, const char *key, uint64_t v)
{
    ps_jw_key(w, key);
    ps_jw_uint(w, v);
}

void ps_jw_kdouble(struct ps_json_writer *w, const char *key, double v)
{
    ps_jw_key(w, key);
    ps_jw_double(w, v);
}

void ps_jw_kstring(struct ps_json_writer *w, const char *key, const char *s)
{
    ps_jw_key(w, key);
    if (s)
        ps_jw_string(w, s, strlen(s));
    else
        ps_jw_null(w);
}

void ps_jw_kbool(struct ps_json_writer *w, const char *key, bool v)
{
    ps_jw_key(w, key);
    ps_jw_bool(w, v);
}
