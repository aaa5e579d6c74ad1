/* Checks of text that came from remote bytes, before it is kept, printed or used as a name. Pure functions. */
#ifndef PS_PROTO_TEXT_H
#define PS_PROTO_TEXT_H
#include <stdbool.h>
#include <stddef.h>

/* Valid UTF-8 (no surrogates, no overlong forms, at most U+10FFFF) without control characters (C0, DEL, C1). */
bool ps_text_ok(const char *s, size_t len);
/* Whether the bytes look like a web page: white space, then '<'. Servers of single-page
 * applications answer every path with 200 and their index.html, so that a missing object arrives
 * as HTML. */
bool ps_text_is_markup(const char *s, size_t len);
#endif
