/* A MODEL without "scheme://" is a folder. Where there is no such folder it may be an address whose scheme was
 * forgotten or mistyped, with a password in front of its host. Comes in: that text. Goes out: what may be shown of it,
 * and what was probably meant. Any thread. */
#ifndef PS_FETCHER_PATH_HINT_H
#define PS_FETCHER_PATH_HINT_H
#include <stddef.h>
#include "base/err.h"

#define PS_PATH_HINT_MAX_BYTES 512

/* "[redacted]@host/x?..." for "user:password@host/x?key=value", a copy of all else. "[redacted]" where
 * a '?' stands in front of the '@': a password's or a query's. Pure. Heap (ps_free), NULL when
 * out of memory. */
char *ps_path_conceal(const char *path);
/* As ps_path_conceal, but what exists is a path and shown as it is. */
char *ps_path_label(const char *path);

/* "hf://org/name" for "org/name", "http://localhost:80/x" for "localhost:80/x" and for "http:/u:p@localhost:80/x",
 * "hf://org/name" for "huggingface.co/org/name";
 * "" where nothing suggests itself, and for what doesn't fit. Never with userinfo or a query. Pure. */
void ps_path_hint(char *out, size_t cap, const char *path);
/* "hf://org/name@v1" for "https://huggingface.co/org/name/tree/v1": a model's page, of which a browser shows the
 * address. "" for all other addresses. Pure. */
void ps_path_hub_hint(char *out, size_t cap, const char *address);

/* Sets PS_ENOTFOUND: no such folder, with the hint. Returns PS_ENOTFOUND. */
int ps_path_missing(struct ps_err *err, const char *path);
#endif
