/* UTF-8 by the letter of RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. Pure functions. */
#ifndef PS_BASE_UTF8_H
#define PS_BASE_UTF8_H
#include <stdbool.h>
#include <stddef.h>

#define PS_UTF8_MAX 4 /* bytes of the longest character */

/* Looks at the character at s[0..n), n >= 1. *valid says whether it is one; the result is its length, or else the
 * length of the ill-formed piece that one U+FFFD stands for (Unicode's "maximal subpart", what Python and browsers
 * do). */
size_t ps_utf8_step(const void *s, size_t n, bool *valid);
/* Offset of the first byte that is not part of valid UTF-8; n when all is. */
size_t ps_utf8_check(const void *s, size_t n);
#endif
