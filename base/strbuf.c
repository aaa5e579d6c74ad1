/* Growable byte string with a maximum: pieces of text come in, one bounded heap string goes out. */
#include "base/strbuf.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

/* What data points to before the first append: never written, because cap is 0 then. */
static char empty[1];

void ps_strbuf_init(struct ps_strbuf *b, size_t max_bytes)
{
    *b = (struct ps_strbuf){.data = empty, .max = max_bytes};
}

void ps_strbuf_deinit(struct ps_strbuf *b)
{
    if (b->cap)
        ps_free(b->data);
    ps_strbuf_init(b, b->max);
}

void ps_strbuf_reset(struct ps_strbuf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->cap)
        b->data[0] = '\0';
}

/* Makes room for n more bytes and the NUL. */
static bool reserve(struct ps_strbuf *b, size_t n)
{
    if (b->failed)
        return false;
    if (b->len > b->max || n > b->max - b->len || n > SIZE_MAX / 2 - b->len) {
        b->failed = true;
        return false;
    }
    size_t need = b->len + n + 1;
    if (need <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap *= 2; /* need < SIZE_MAX / 2 + 2: cannot wrap before it is reached */
    char *data = ps_realloc(b->cap ? b->data : NULL, cap);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

void ps_strbuf_append(struct ps_strbuf *b, const void *bytes, size_t n)
{
    if (!reserve(b, n))
        return;
    if (n)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void ps_strbuf_puts(struct ps_strbuf *b, const char *s)
{
    ps_strbuf_append(b, s, strlen(s));
}

void ps_strbuf_printf(struct ps_strbuf *b, const char *fmt, ...)
{
    if (b->failed)
        return;
    char small[256];
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
    } else if ((size_t)n < sizeof(small)) {
        ps_strbuf_append(b, small, (size_t)n);
    } else if (reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

bool ps_strbuf_ok(const struct ps_strbuf *b)
{
    return !b->failed;
}

char *ps_strbuf_take(struct ps_strbuf *b, size_t *len)
{
    if (!b->cap && !b->failed)
        reserve(b, 0); /* an empty result is a heap string too */
    if (b->failed) {
        ps_strbuf_deinit(b);
        return NULL;
    }
    char *s = b->data;
    s[b->len] = '\0';
    if (len)
        *len = b->len;
    ps_strbuf_init(b, b->max);
    return s;
}
