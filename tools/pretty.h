/* A JSON object as text for people: one line per fact, arrays of objects as tables. The unit of
 * a number is known by the end of its name (_bytes, _bytes_s, _s, _pct), as everywhere in
 * Penstock, so that a new fact needs no code here. Pure. */
#ifndef PS_TOOLS_PRETTY_H
#define PS_TOOLS_PRETTY_H
#include <stddef.h>
#include "base/json.h"
#include "base/strbuf.h"

void ps_pretty_write(struct ps_strbuf *b, const struct ps_json *object);
/* One value as text, by the name of its key ("ram_bytes": "1.5 GiB"); returns out. */
char *ps_pretty_value(char *out, size_t cap, const char *key, const struct ps_json *v);
/* Seconds, in the unit that suits: "31 ms", "4.20 s", "3 min 20 s"; returns out. */
char *ps_pretty_seconds(char *out, size_t cap, double seconds);
#endif
