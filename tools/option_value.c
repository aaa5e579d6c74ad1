/* One option's value: from the user's text to its field in struct ps_opts. Pure. See options.h. */
#include "tools/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/alloc.h"
#include "base/size.h"

/* strtoll alone takes leading blanks, a plus sign and trailing junk: "5x" must not become 5. */
static bool read_int(int64_t *out, const char *s)
{
    char *end;
    long long v;

    if (!(s[0] >= '0' && s[0] <= '9') && !(s[0] == '-' && s[1] >= '0' && s[1] <= '9'))
        return false;
    errno = 0;
    v = strtoll(s, &end, 10);
    if (*end || errno)
        return false;
    *out = v;
    return true;
}

static bool is_whole(const char *s)
{
    const char *digits = s + (*s == '-');
    return *digits && strspn(digits, "0123456789") == strlen(digits);
}

/* Digits, a point, an exponent: strtod would take "nan", "inf" and "0x1p3" as well. */
static bool read_real(double *out, const char *s)
{
    char *end;
    double v;

    if (!*s || s[strspn(s, "0123456789.eE+-")] || !strpbrk(s, "0123456789") || *s == '+')
        return false;
    v = strtod(s, &end);
    if (*end || !isfinite(v))
        return false;
    *out = v;
    return true;
}

static int set_int(int64_t *field, const struct ps_opt_spec *s, const char *text,
                   const char *spelled, struct ps_err *err)
{
    int64_t v;

    const bool read = read_int(&v, text);
    if (!read && !is_whole(text))
        return ps_err_set(err, PS_EUSAGE, "options", "%s: '%s' is not a whole number", spelled, text);
    if (!read || v < s->lo || v > s->hi) /* some are too long for any field */
        return ps_err_set(err, PS_EUSAGE, "options", "%s: %s is out of range: give %lld to %lld",
                          spelled, text, (long long)s->lo, (long long)s->hi);
    *field = v;
    return 0;
}

static int set_real(double *field, const struct ps_opt_spec *s, const char *text,
                    const char *spelled, struct ps_err *err)
{
    double v;

    if (!read_real(&v, text))
        return ps_err_set(err, PS_EUSAGE, "options", "%s: '%s' is not a number", spelled, text);
    if (v < (double)s->lo || v > (double)s->hi)
        return ps_err_set(err, PS_EUSAGE, "options", "%s: %s is out of range: give %lld to %lld",
                          spelled, text, (long long)s->lo, (long long)s->hi);
    *field = v;
    return 0;
}

static int set_layers(struct ps_opt_layers *field, const char *text, const char *spelled,
                      struct ps_err *err)
{
    int64_t first, last;
    char head[16];
    const char *dash = strchr(text, '-');
    size_t n = dash ? (size_t)(dash - text) : strlen(text);

    if (n == 0 || n >= sizeof head)
        goto bad;
    memcpy(head, text, n);
    head[n] = '\0';
    if (!read_int(&first, head))
        goto bad;
    last = first;
    if (dash && !read_int(&last, dash + 1))
        goto bad;
    if (first < 0 || last < first || last > INT32_MAX)
        goto bad;
    field->first = (int32_t)first;
    field->last = (int32_t)last;
    return 0;
bad:
    return ps_err_set(err, PS_EUSAGE, "options",
                      "%s: '%s' is no range of layers: give A-B, such as 0-7", spelled, text);
}

static int set_flag(bool *field, const char *text, const char *spelled, struct ps_err *err)
{
    if (ps_choice_has("1|true|on|yes|enabled", text))
        *field = true;
    else if (ps_choice_has("0|false|off|no|disabled", text))
        *field = false;
    else
        return ps_err_set(err, PS_EUSAGE, "options", "%s: '%s' is neither on nor off: give 1 or 0",
                          spelled, text);
    return 0;
}

static int add_item(struct ps_opt_list *list, const char *text, const char *spelled,
                    struct ps_err *err)
{
    const char **items;

    if (!*text)
        return ps_err_set(err, PS_EUSAGE, "options", "%s: the text is empty", spelled);
    items = ps_realloc_array(list->items, list->n + 1, sizeof *items);
    if (!items)
        return ps_err_set(err, PS_ENOMEM, "options", "%s: out of memory", spelled);
    items[list->n++] = text;
    list->items = items;
    return 0;
}

bool ps_choice_has(const char *choices, const char *word)
{
    size_t n = strlen(word);

    for (const char *p = choices; p && n; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, word, n) == 0 && (p[n] == '|' || p[n] == '\0'))
            return true;
    return false;
}

static bool takes_size(const struct ps_opt_spec *s, const char *text)
{
    struct ps_size size;

    if (ps_size_parse(&size, text, s->name, NULL) < 0)
        return false;
    switch (size.kind) {
    case PS_SIZE_PERCENT: return s->lo & PS_OPT_SIZE_SHARE;
    case PS_SIZE_MIN: return s->lo & PS_OPT_SIZE_MIN;
    case PS_SIZE_ALL: return s->lo & PS_OPT_SIZE_ALL;
    case PS_SIZE_BYTES:
    case PS_SIZE_DEFAULT: break;
    }
    return true;
}

int ps_option_set(struct ps_opts *o, const struct ps_opt_spec *s, const char *text,
                  const char *spelled, struct ps_err *err)
{
    void *field = (char *)o + s->field;

    switch (s->kind) {
    case PS_OPT_FLAG: return set_flag(field, text, spelled, err);
    case PS_OPT_INT: return set_int(field, s, text, spelled, err);
    case PS_OPT_REAL: return set_real(field, s, text, spelled, err);
    case PS_OPT_LAYERS: return set_layers(field, text, spelled, err);
    case PS_OPT_LIST: return add_item(field, text, spelled, err);
    case PS_OPT_SIZE:
        if (!*text)
            return ps_err_set(err, PS_EUSAGE, "options", "%s: the size is empty", spelled);
        if (!takes_size(s, text))
            return ps_err_set(err, PS_EUSAGE, "options",
                              "%s: '%.40s' is no size that it takes: give bytes, 512M, 1.5G%s%s%s",
                              spelled, text, s->lo & PS_OPT_SIZE_SHARE ? ", 25%" : "",
                              s->lo & PS_OPT_SIZE_MIN ? ", min" : "",
                              s->lo & PS_OPT_SIZE_ALL ? ", all" : "");
        break;
    case PS_OPT_CHOICE:
        if (!ps_choice_has(s->choices, text))
            return ps_err_set(err, PS_EUSAGE, "options", "%s: '%s' is none of %s", spelled, text,
                              s->choices);
        break;
    case PS_OPT_FILE:
    case PS_OPT_DIR:
        if (!*text)
            return ps_err_set(err, PS_EUSAGE, "options", "%s: the name is empty", spelled);
        break;
    case PS_OPT_TEXT: break;
    }
    *(const char **)field = text;
    return 0;
}
