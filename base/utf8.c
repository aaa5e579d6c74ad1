/* UTF-8: bytes from JSON, prompts and remote text come in, out goes where they stop being text. */
#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

/* Allowed values of the second byte, and the length, by first byte (Unicode table 3-7). Length 0: no first byte. */
static size_t lead(uint8_t c, uint8_t *lo, uint8_t *hi)
{
    *lo = 0x80;
    *hi = 0xbf;
    if (c >= 0xc2 && c <= 0xdf)
        return 2;
    if (c >= 0xe0 && c <= 0xef) {
        if (c == 0xe0)
            *lo = 0xa0; /* below: overlong */
        if (c == 0xed)
            *hi = 0x9f; /* above: surrogates */
        return 3;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        if (c == 0xf0)
            *lo = 0x90;
        if (c == 0xf4)
            *hi = 0x8f; /* above: beyond U+10FFFF */
        return 4;
    }
    return 0;
}

size_t ps_utf8_step(const void *s, size_t n, bool *valid)
{
    const uint8_t *p = s;
    *valid = true;
    if (p[0] < 0x80)
        return 1;
    *valid = false;
    uint8_t lo, hi;
    size_t len = lead(p[0], &lo, &hi);
    if (len == 0 || n < 2 || p[1] < lo || p[1] > hi)
        return 1;
    for (size_t i = 2; i < len; i++) {
        if (i >= n || (p[i] & 0xc0) != 0x80)
            return i;
    }
    *valid = true;
    return len;
}

size_t ps_utf8_check(const void *s, size_t n)
{
    const uint8_t *p = s;
    size_t i = 0;
    while (i < n) {
        /* Eight ASCII bytes at a time: most of what comes here is ASCII. */
        uint64_t eight;
        if (n - i >= sizeof(eight)) {
            memcpy(&eight, p + i, sizeof(eight));
            if (!(eight & 0x8080808080808080u)) {
                i += sizeof(eight);
                continue;
            }
        }
        bool valid;
        size_t step = ps_utf8_step(p + i, n - i, &valid);
        if (!valid)
            return i;
        i += step;
    }
    return n;
}
