/* A growable byte string with a maximum: every buffer that remote bytes or a user's text can grow has one. Always
 * NUL-terminated (the NUL is not counted). Not thread-safe. A failed append latches: later appends do nothing and
 * ps_strbuf_ok() is false, so that a long sequence of appends needs one check at its end. */
#ifndef PS_BASE_STRBUF_H
#define PS_BASE_STRBUF_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct ps_strbuf {
    char *data; /* "" (static) before the first append, else heap; never NULL */
    size_t len, cap, max;
    bool failed;
};
void ps_strbuf_init(struct ps_strbuf *b, size_t max_bytes);
void ps_strbuf_deinit(struct ps_strbuf *b);
void ps_strbuf_reset(struct ps_strbuf *b); /* length 0, storage kept, failure cleared */
void ps_strbuf_append(struct ps_strbuf *b, const void *bytes, size_t n);
void ps_strbuf_puts(struct ps_strbuf *b, const char *s);
void ps_strbuf_printf(struct ps_strbuf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
bool ps_strbuf_ok(const struct ps_strbuf *b);
/* The heap string (caller frees with ps_free) and *len (nullable); the buffer is left empty. NULL if it had failed. */
char *ps_strbuf_take(struct ps_strbuf *b, size_t *len);
#endif
