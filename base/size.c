/* Sizes as users write them: text from the command line or the environment comes in, bytes or a share of the model go
 * out. Own digits parser, because strtod follows the locale and would read "1.5G" as 1 in half of Europe. */
#include "base/size.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* whole + millionths / 1e6; six decimals are more than anyone means, and keep the arithmetic in 64 bits. */
struct decimal {
    uint64_t whole;
    uint64_t millionths;
    bool has_fraction;
};

/* Reads digits[.digits]; moves *text behind it. */
static bool read_decimal(struct decimal *d, const char **text)
{
    const char *p = *text;
    *d = (struct decimal){0};
    if (!isdigit((unsigned char)*p))
        return false;
    for (; isdigit((unsigned char)*p); p++) {
        if (__builtin_mul_overflow(d->whole, 10u, &d->whole) ||
            __builtin_add_overflow(d->whole, (uint64_t)(*p - '0'), &d->whole))
            return false;
    }
    if (*p == '.') {
        p++;
        if (!isdigit((unsigned char)*p))
            return false;
        d->has_fraction = true;
        uint64_t unit = 100000;
        for (; isdigit((unsigned char)*p); p++, unit /= 10)
            d->millionths += unit * (uint64_t)(*p - '0');
    }
    *text = p;
    return true;
}

/* The power of two that a unit stands for, or -1: "", "B", "K", "KB", "KiB", ... */
static int unit_shift(const char *unit)
{
    static const char letters[] = "KMGT";
    if (!*unit || strcasecmp(unit, "B") == 0)
        return 0;
    const char *at = strchr(letters, toupper((unsigned char)*unit));
    if (!at)
        return -1;
    unit++;
    if (*unit && strcasecmp(unit, "B") != 0 && strcasecmp(unit, "iB") != 0)
        return -1;
    return 10 * (int)(at - letters + 1);
}

static bool scale(uint64_t *bytes, const struct decimal *d, int shift)
{
    if (d->whole > UINT64_MAX >> shift)
        return false;
    uint64_t fraction = (d->millionths << shift) / 1000000; /* < 2^20 << 40 */
    return !__builtin_add_overflow(d->whole << shift, fraction, bytes);
}

static bool parse_number(struct ps_size *size, const char *text)
{
    struct decimal d;
    if (!read_decimal(&d, &text))
        return false;
    if (strcmp(text, "%") == 0) {
        size->kind = PS_SIZE_PERCENT;
        size->percent = (double)d.whole + (double)d.millionths / 1e6;
        return size->percent <= 100000.0;
    }
    int shift = unit_shift(text);
    if (shift < 0 || (shift == 0 && d.has_fraction)) /* there is no half byte */
        return false;
    size->kind = PS_SIZE_BYTES;
    return scale(&size->bytes, &d, shift);
}

int ps_size_parse(struct ps_size *out, const char *text, const char *what, struct ps_err *err)
{
    struct ps_size size = {.kind = PS_SIZE_DEFAULT};
    if (!text || !*text)
        size.kind = PS_SIZE_DEFAULT;
    else if (strcasecmp(text, "min") == 0)
        size.kind = PS_SIZE_MIN;
    else if (strcasecmp(text, "all") == 0)
        size.kind = PS_SIZE_ALL;
    else if (!parse_number(&size, text))
        return ps_err_set(err, PS_EUSAGE, "base",
                          "%s: '%.40s' is no size: write bytes, 512M, 1.5G, 25%%, min or all", what,
                          text);
    *out = size;
    return 0;
}

char *ps_size_format(char *out, size_t cap, uint64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        snprintf(out, cap, "%u B", (unsigned)bytes);
        return out;
    }
    /* Whole tenths, so that no locale writes a comma; 1023.96 KiB is 1.0 MiB, not 1024 KiB. */
    size_t u = 0;
    uint64_t unit = 1024, tenths;
    for (;; u++, unit <<= 10) {
        uint64_t rest = bytes % unit;
        tenths = bytes / unit * 10 + (uint64_t)((double)rest * 10.0 / (double)unit + 0.5);
        if (tenths < 10235 || u + 1 == sizeof(units) / sizeof(units[0]))
            break;
    }
    if (tenths < 1000)
        snprintf(out, cap, "%u.%u %s", (unsigned)(tenths / 10), (unsigned)(tenths % 10), units[u]);
    else
        snprintf(out, cap, "%u %s", (unsigned)((tenths + 5) / 10), units[u]);
    return out;
}

bool ps_size_is_nothing(const struct ps_size *s)
{
    return (s->kind == PS_SIZE_BYTES && s->bytes == 0) ||
           (s->kind == PS_SIZE_PERCENT && s->percent <= 0);
}
