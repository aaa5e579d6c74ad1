/* Log lines on stderr, gated by PENSTOCK_LOG=error|warn|info|debug|trace (default warn). Thread-safe: one write
 * per line. Secrets are redacted here and only here: ps_redact() removes userinfo, query strings of signed
 * addresses, bearer and AWS tokens from any text; ps_log and ps_err_set both pass their result through it. */
#ifndef PS_BASE_LOG_H
#define PS_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>

enum ps_log_level { PS_LOG_ERROR, PS_LOG_WARN, PS_LOG_INFO, PS_LOG_DEBUG, PS_LOG_TRACE };

bool ps_log_enabled(enum ps_log_level level);
void ps_log_set_level(enum ps_log_level level);
/* 0, or PS_EUSAGE when PENSTOCK_LOG holds an unknown word (the caller decides whether that matters). */
int ps_log_init_from_env(void);
/* `area` is a static word such as "fetcher". A newline is added. */
void ps_log(enum ps_log_level level, const char *area, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Called around every log line by whoever owns a progress bar on the same terminal (clear before, redraw after). */
void ps_log_set_hooks(void (*before)(void), void (*after)(void));

/* In-place redaction of a NUL-terminated text of capacity `cap`; the result is never longer than cap - 1. Replaces
 * `//user:pass@` by `//`, the value of every query parameter of an http(s)/s3 address by `...`, `hf_...` tokens,
 * `Bearer xxx`, `Basic xxx`, `AKIA...`/`ASIA...` keys and X-Amz-* values by `[redacted]`. */
void ps_redact(char *text, size_t cap);

#endif
