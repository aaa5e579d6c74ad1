/* Shared by err.c and log.c: the one place where text for people is formatted, redacted, made printable and cut. */
#ifndef PS_BASE_LOG_FORMAT_H
#define PS_BASE_LOG_FORMAT_H
#include <stdarg.h>
#include <stddef.h>

/* Formats into out[cap] (cap >= 1), at most cap - 1 bytes and a NUL. Redaction happens before the cut, so that a secret
 * cut in half is not missed; control characters become '?'; a UTF-8 sequence is never cut in the middle. The arguments
 * may point into `out`. Keeps errno. */
void ps_log_vformat(char *out, size_t cap, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));
#endif
