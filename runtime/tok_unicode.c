/* Sets of code points: measured tables in, lookup classes for the regexes and the added-token
 * rules out. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "base/alloc.h"
#include "base/err.h"
#include "runtime/tok_unicode.h"

#define SET_RANGES_MAX                                                                             \
    (1u << 20) /* a class cannot have more ranges than this; hostile patterns stop here */

static const char cat_names[] = "LuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoZsZlZpCcCfCsCoCn";

void ps_uc_set_deinit(struct ps_uc_set *s)
{
    ps_free(s->r);
    memset(s, 0, sizeof *s);
}

static bool set_reserve(struct ps_uc_set *s, size_t n)
{
    if (s->failed)
        return false;
    if (n <= s->cap)
        return true;
    size_t cap = s->cap ? s->cap : 16;
    while (cap < n)
        cap *= 2;
    uint32_t *r = cap > SET_RANGES_MAX ? NULL : ps_realloc_array(s->r, cap, 8);
    if (!r) {
        s->failed = true;
        return false;
    }
    s->r = r;
    s->cap = cap;
    return true;
}

/* Appends a range that starts no earlier than the last one, joining where they touch. */
static void set_push(struct ps_uc_set *s, uint32_t lo, uint32_t hi)
{
    if (s->n && lo <= s->r[2 * s->n - 1] + 1) {
        if (hi > s->r[2 * s->n - 1])
            s->r[2 * s->n - 1] = hi;
        return;
    }
    if (!set_reserve(s, s->n + 1))
        return;
    s->r[2 * s->n] = lo;
    s->r[2 * s->n + 1] = hi;
    s->n++;
}

void ps_uc_set_add_ranges(struct ps_uc_set *s, const uint32_t *pairs, size_t n)
{
    struct ps_uc_set out = {.failed = s->failed};
    size_t i = 0, j = 0;
    while (i < s->n || j < n) {
        bool mine = j >= n || (i < s->n && s->r[2 * i] <= pairs[2 * j]);
        const uint32_t *p = mine ? s->r + 2 * i++ : pairs + 2 * j++;
        set_push(&out, p[0], p[1]);
    }
    ps_free(s->r);
    *s = out;
}

void ps_uc_set_add(struct ps_uc_set *s, uint32_t lo, uint32_t hi)
{
    const uint32_t one[2] = {lo, hi};
    if (s->n == 0 || lo >= s->r[2 * s->n - 2])
        set_push(s, lo, hi);
    else
        ps_uc_set_add_ranges(s, one, 1);
}

void ps_uc_set_union(struct ps_uc_set *s, const struct ps_uc_set *other)
{
    ps_uc_set_add_ranges(s, other->r, other->n);
    s->failed |= other->failed;
}

void ps_uc_set_negate(struct ps_uc_set *s)
{
    struct ps_uc_set out = {.failed = s->failed};
    uint32_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->r[2 * i] > next)
            set_push(&out, next, s->r[2 * i] - 1);
        next = s->r[2 * i + 1] + 1;
    }
    if (next <= PS_UC_MAX)
        set_push(&out, next, PS_UC_MAX);
    ps_free(s->r);
    *s = out;
}

void ps_uc_set_intersect(struct ps_uc_set *s, const struct ps_uc_set *other)
{
    struct ps_uc_set out = {.failed = s->failed || other->failed};
    for (size_t i = 0, j = 0; i < s->n && j < other->n;) {
        uint32_t lo = s->r[2 * i] > other->r[2 * j] ? s->r[2 * i] : other->r[2 * j];
        uint32_t hi = s->r[2 * i + 1] < other->r[2 * j + 1] ? s->r[2 * i + 1] : other->r[2 * j + 1];
        if (lo <= hi)
            set_push(&out, lo, hi);
        if (s->r[2 * i + 1] < other->r[2 * j + 1])
            i++;
        else
            j++;
    }
    ps_free(s->r);
    *s = out;
}

bool ps_uc_set_has(const struct ps_uc_set *s, uint32_t c)
{
    size_t lo = 0, hi = s->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (s->r[2 * mid + 1] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < s->n && s->r[2 * lo] <= c;
}

void ps_uc_set_fold(struct ps_uc_set *s)
{
    struct ps_uc_set more = {0};
    for (unsigned i = 0; i < ps_uc_fold_len;) {
        unsigned end = i;
        bool any = false;
        for (; ps_uc_fold[end]; end++)
            any |= ps_uc_set_has(s, ps_uc_fold[end]);
        for (unsigned k = i; any && k < end; k++)
            ps_uc_set_add(&more, ps_uc_fold[k], ps_uc_fold[k]);
        i = end + 1;
    }
    ps_uc_set_union(s, &more);
    ps_uc_set_deinit(&more);
}

/* All characters whose category has this first letter and, unless 0, this second one. */
static bool add_category(struct ps_uc_set *s, char major, char minor)
{
    bool found = false;
    struct ps_uc_set more = {0};
    for (unsigned i = 0; i < ps_uc_gc_len; i++) {
        const char *name = cat_names + 2 * (ps_uc_gc[i] & 0xff);
        if (name[0] != major || (minor && name[1] != minor))
            continue;
        uint32_t end = i + 1 < ps_uc_gc_len ? ps_uc_gc[i + 1] >> 8 : PS_UC_MAX + 1;
        ps_uc_set_add(&more, ps_uc_gc[i] >> 8, end - 1);
        found = true;
    }
    ps_uc_set_union(s, &more);
    ps_uc_set_deinit(&more);
    return found;
}

static void add_alphabetic(struct ps_uc_set *s)
{
    add_category(s, 'L', 0);
    add_category(s, 'N', 'l');
    ps_uc_set_add_ranges(s, ps_uc_other_alphabetic, ps_uc_other_alphabetic_len);
}

static void add_word(struct ps_uc_set *s)
{
    add_alphabetic(s);
    add_category(s, 'M', 0);
    add_category(s, 'N', 'd');
    add_category(s, 'P', 'c');
}

static void add_space(struct ps_uc_set *s)
{
    add_category(s, 'Z', 0);
    ps_uc_set_add(s, 9, 13);
    ps_uc_set_add(s, 0x85, 0x85);
}

static void add_graph(struct ps_uc_set *s)
{
    struct ps_uc_set not = {0};
    add_category(&not, 'Z', 0);
    add_category(&not, 'C', 'c');
    add_category(&not, 'C', 's');
    add_category(&not, 'C', 'n');
    ps_uc_set_negate(&not );
    ps_uc_set_union(s, &not );
    ps_uc_set_deinit(&not );
}

static const char *const long_categories[][2] = {
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"surrogate", "Cs"},
    {"privateuse", "Co"},
    {"unassigned", "Cn"},
};

/* Lower case without separators into out; false when too long to be a name. */
static bool squeeze_name(char out[32], const char *name, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (name[i] == '_' || name[i] == '-' || name[i] == ' ')
            continue;
        if (n == 31)
            return false;
        out[n++] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    }
    out[n] = 0;
    return true;
}

static bool add_posix(struct ps_uc_set *s, const char *key)
{
    if (!strcmp(key, "alpha") || !strcmp(key, "alphabetic")) {
        add_alphabetic(s);
    } else if (!strcmp(key, "alnum")) {
        add_alphabetic(s);
        add_category(s, 'N', 'd');
    } else if (!strcmp(key, "punct")) {
        add_category(s, 'P', 0);
        add_category(s, 'S', 0);
    } else if (!strcmp(key, "space") || !strcmp(key, "whitespace")) {
        add_space(s);
    } else if (!strcmp(key, "blank")) {
        add_category(s, 'Z', 's');
        ps_uc_set_add(s, 9, 9);
    } else if (!strcmp(key, "word")) {
        add_word(s);
    } else if (!strcmp(key, "lower") || !strcmp(key, "lowercase")) {
        add_category(s, 'L', 'l');
        ps_uc_set_add_ranges(s, ps_uc_lower_extra, ps_uc_lower_extra_len);
    } else if (!strcmp(key, "upper") || !strcmp(key, "uppercase")) {
        add_category(s, 'L', 'u');
        ps_uc_set_add_ranges(s, ps_uc_upper_extra, ps_uc_upper_extra_len);
    } else if (!strcmp(key, "digit")) {
        add_category(s, 'N', 'd');
    } else if (!strcmp(key, "xdigit")) {
        ps_uc_set_add_escape(s, 'h');
    } else if (!strcmp(key, "cntrl")) {
        add_category(s, 'C', 'c');
    } else if (!strcmp(key, "graph") || !strcmp(key, "print")) {
        add_graph(s);
        if (key[0] == 'p')
            add_category(s, 'Z', 's');
    } else if (!strcmp(key, "ascii")) {
        ps_uc_set_add(s, 0, 0x7f);
    } else if (!strcmp(key, "any")) {
        ps_uc_set_add(s, 0, PS_UC_MAX);
    } else {
        return false;
    }
    return true;
}

bool ps_uc_set_add_named(struct ps_uc_set *s, const char *name, size_t len)
{
    char key[32];
    if (!squeeze_name(key, name, len) || !key[0])
        return false;
    if (!key[1] || (!key[2] && key[0] >= 'a' && key[0] <= 'z'))
        if (add_category(s, (char)(key[0] - 32), key[1]))
            return true;
    if (!strcmp(key, "lc")) {
        add_category(s, 'L', 'u');
        add_category(s, 'L', 'l');
        add_category(s, 'L', 't');
        return true;
    }
    for (size_t i = 0; i < sizeof long_categories / sizeof *long_categories; i++)
        if (!strcmp(key, long_categories[i][0]))
            return add_category(s, long_categories[i][1][0], long_categories[i][1][1]);
    for (const struct ps_uc_script *p = ps_uc_scripts; p->name; p++)
        if (!strcmp(key, p->name)) {
            ps_uc_set_add_ranges(s, p->ranges, p->n);
            return true;
        }
    return add_posix(s, key);
}

void ps_uc_set_add_escape(struct ps_uc_set *s, char letter)
{
    static const uint32_t hex[] = {'0', '9', 'A', 'F', 'a', 'f'};
    /* the library's \w also has the Latin-1 superscripts and fractions; its [[:word:]] has not */
    static const uint32_t latin1[] = {0xb2, 0xb3, 0xb9, 0xb9, 0xbc, 0xbe};
    switch (letter) {
    case 's': add_space(s); break;
    case 'd': add_category(s, 'N', 'd'); break;
    case 'h': ps_uc_set_add_ranges(s, hex, 3); break;
    case 'w':
        add_word(s);
        ps_uc_set_add_ranges(s, latin1, 3);
        break;
    default: break;
    }
}

static size_t class_block_of(struct ps_uc_class *c, const uint64_t bits[4])
{
    for (size_t i = c->n_blocks; i-- > 0;)
        if (!memcmp(c->bits[i], bits, 32))
            return i;
    memcpy(c->bits[c->n_blocks], bits, 32);
    return c->n_blocks++;
}

int ps_uc_class_build(struct ps_uc_class *out, const struct ps_uc_set *s)
{
    enum { BLOCKS = (PS_UC_MAX >> 8) + 1 };
    struct ps_uc_class c = {.block = ps_malloc(BLOCKS * sizeof *c.block),
                            .bits = ps_malloc((size_t)BLOCKS * 32)};
    if (!c.block || !c.bits || s->failed) {
        ps_uc_class_free(&c);
        return PS_ENOMEM;
    }
    size_t i = 0;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        uint64_t bits[4] = {0};
        uint32_t first = b << 8, last = first | 255;
        while (i < s->n && s->r[2 * i + 1] < first)
            i++;
        for (size_t k = i; k < s->n && s->r[2 * k] <= last; k++) {
            uint32_t lo = s->r[2 * k] < first ? first : s->r[2 * k];
            uint32_t hi = s->r[2 * k + 1] > last ? last : s->r[2 * k + 1];
            for (uint32_t x = lo; x <= hi; x++)
                bits[(x >> 6) & 3] |= 1ull << (x & 63);
        }
        c.block[b] = (uint16_t)class_block_of(&c, bits);
    }
    void *fit = ps_malloc(c.n_blocks * 32);
    if (!fit) {
        ps_uc_class_free(&c);
        return PS_ENOMEM;
    }
    memcpy(fit, c.bits, c.n_blocks * 32);
    ps_free(c.bits);
    c.bits = fit;
    *out = c;
    return 0;
}

void ps_uc_class_free(struct ps_uc_class *c)
{
    ps_free(c->block);
    ps_free(c->bits);
    memset(c, 0, sizeof *c);
}

static bool in_ranges(const uint32_t *pairs, size_t n, uint32_t c)
{
    const struct ps_uc_set s = {.r = (uint32_t *)(uintptr_t)pairs, .n = n};
    return ps_uc_set_has(&s, c);
}

static const char *category(uint32_t c)
{
    size_t lo = 0, hi = ps_uc_gc_len;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (ps_uc_gc[mid] >> 8 <= c)
            lo = mid;
        else
            hi = mid;
    }
    return cat_names + 2 * (ps_uc_gc[lo] & 0xff);
}

bool ps_uc_is_space(uint32_t c)
{
    if (c < 0x80)
        return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || category(c)[0] == 'Z';
}

bool ps_uc_is_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_';
    const char *k = category(c);
    return k[0] == 'L' || k[0] == 'M' || !memcmp(k, "Nd", 2) || !memcmp(k, "Nl", 2) ||
           !memcmp(k, "Pc", 2) || c == 0x200c || c == 0x200d ||
           in_ranges(ps_uc_other_alphabetic, ps_uc_other_alphabetic_len, c);
}

bool ps_uc_is_numeric(uint32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9';
    return category(c)[0] == 'N' || in_ranges(ps_uc_numeric_extra, ps_uc_numeric_extra_len, c);
}

bool ps_uc_is_punct(uint32_t c)
{
    return (category(c)[0] == 'P') != in_ranges(ps_uc_punct_xor, ps_uc_punct_xor_len, c);
}

bool ps_uc_is_combining(uint32_t c)
{
    return c >= 0x300 &&
           (category(c)[0] == 'M') != in_ranges(ps_uc_accent_xor, ps_uc_accent_xor_len, c);
}

unsigned ps_uc_lower_of(uint32_t c, uint32_t out[2])
{
    if (c < 0x80) {
        out[0] = c >= 'A' && c <= 'Z' ? c + 32 : c;
        return 1;
    }
    size_t lo = 0, hi = ps_uc_lower_len;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (ps_uc_lower[3 * mid] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < ps_uc_lower_len && ps_uc_lower[3 * lo] == c) {
        out[0] = ps_uc_lower[3 * lo + 1];
        out[1] = ps_uc_lower[3 * lo + 2];
        return out[1] ? 2 : 1;
    }
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return 1;
}

bool ps_uc_nf_is_inert(uint32_t c)
{
    return c >= 0x7fd && in_ranges(ps_uc_nf_inert, ps_uc_nf_inert_len, c);
}

unsigned ps_utf8_encode(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}
