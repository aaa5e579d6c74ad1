/* `penstock cache ls` for people: what lies where. In: the object that --json prints; out: lines of text. */
#ifndef PS_TOOLS_CACHE_TEXT_H
#define PS_TOOLS_CACHE_TEXT_H
#include <stddef.h>
#include "base/err.h"
#include "base/json.h"

/* A line for each model, under it its layers, neighbours of which the same share is held on one line. PS_EDATA: no such
 * object; PS_ENOMEM. Pure. */
int ps_cache_text(struct ps_strbuf *out, const char *json, size_t len, struct ps_err *err);
#endif
