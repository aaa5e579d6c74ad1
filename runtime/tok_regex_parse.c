/* Pattern text in, tree of nodes out: Oniguruma's Ruby syntax as far as tokenizers use it
 * (tok_regex.h). */
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "runtime/tok_regex_internal.h"

#define CHAIN_MAX                                                                                  \
    8u /* quantifiers on quantifiers: each is a level of recursion for the code generator */

struct parser {
    struct ps_rx_tree *t;
    const char *s, *end;
    bool icase, dotall, extended;
    unsigned depth;
    int code; /* first failure */
    struct ps_err *err;
};

static uint32_t fail(struct parser *p, int code, const char *what)
{
    if (!p->code)
        p->code = ps_err_set(p->err, code, "tokenizer",
                             code == PS_ENOMEM
                                 ? "%s: not enough memory"
                                 : "pattern in tokenizer.json: %s: use a tokenizer.json without it",
                             what);
    p->s = p->end;
    return 0;
}

static uint32_t node(struct parser *p, struct ps_rx_node n)
{
    struct ps_rx_tree *t = p->t;
    if (t->n_nodes == t->cap_nodes) {
        uint32_t cap = t->cap_nodes ? t->cap_nodes * 2 : 64;
        if (cap > PS_RX_NODES_MAX)
            return fail(p, PS_EDATA, "too long");
        void *m = ps_realloc_array(t->nodes, cap, sizeof *t->nodes);
        if (!m)
            return fail(p, PS_ENOMEM, "pattern");
        t->nodes = m;
        t->cap_nodes = cap;
    }
    t->nodes[t->n_nodes] = n;
    return t->n_nodes++;
}

static uint32_t simple(struct parser *p, enum ps_rx_kind kind, uint32_t a)
{
    return node(p, (struct ps_rx_node){.kind = (uint8_t)kind, .a = a});
}

static uint32_t pair(struct parser *p, enum ps_rx_kind kind, uint32_t a, uint32_t b)
{
    return node(p, (struct ps_rx_node){.kind = (uint8_t)kind, .a = a, .b = b});
}

/* Takes the set over (equal sets are kept once) and returns a node for it. */
static uint32_t set_node(struct parser *p, struct ps_uc_set *s)
{
    struct ps_rx_tree *t = p->t;
    if (s->failed) {
        ps_uc_set_deinit(s);
        return fail(p, PS_ENOMEM, "pattern");
    }
    for (uint32_t i = 0; i < t->n_sets; i++)
        if (t->sets[i].n == s->n && (!s->n || !memcmp(t->sets[i].r, s->r, s->n * 8))) {
            ps_uc_set_deinit(s);
            return simple(p, PS_RX_SET, i);
        }
    if (t->n_sets == t->cap_sets) {
        uint32_t cap = t->cap_sets ? t->cap_sets * 2 : 8;
        void *m = cap > PS_RX_SETS_MAX ? NULL : ps_realloc_array(t->sets, cap, sizeof *t->sets);
        if (!m) {
            ps_uc_set_deinit(s);
            return fail(p, cap > PS_RX_SETS_MAX ? PS_EDATA : PS_ENOMEM, "too many classes");
        }
        t->sets = m;
        t->cap_sets = cap;
    }
    t->sets[t->n_sets] = *s;
    memset(s, 0, sizeof *s);
    return simple(p, PS_RX_SET, t->n_sets++);
}

static bool more(const struct parser *p)
{
    return p->s < p->end;
}

static bool eat(struct parser *p, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(p->end - p->s) < n || memcmp(p->s, word, n) != 0)
        return false;
    p->s += n;
    return true;
}

static uint32_t take_char(struct parser *p)
{
    unsigned n;
    uint32_t c = ps_utf8_decode(p->s, &n);
    p->s += n;
    return c;
}

/* Up to max_digits of the base; false if there is none or the value is no character. */
static bool take_number(struct parser *p, unsigned base, unsigned max_digits, uint32_t *out)
{
    uint32_t v = 0;
    unsigned n = 0;
    for (; more(p) && n < max_digits; n++, p->s++) {
        int c = *p->s;
        int d = c >= '0' && c <= '9'                 ? c - '0'
                : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                     : 99;
        if (d >= (int)base)
            break;
        v = v * base + (uint32_t)d;
    }
    *out = v;
    return n > 0 && v <= PS_UC_MAX && (v < 0xd800 || v > 0xdfff);
}

/* \x41, \x{41}, \u0041, after the letter. */
static uint32_t take_hex(struct parser *p, char letter)
{
    uint32_t c = 0;
    bool ok;
    if (letter == 'u') {
        ok = take_number(p, 16, 4, &c);
    } else if (eat(p, "{")) {
        ok = take_number(p, 16, 8, &c) && eat(p, "}");
    } else {
        ok = take_number(p, 16, 2, &c) && c < 0x80; /* above, it would be a raw byte */
    }
    if (!ok)
        fail(p, PS_EDATA, "bad hexadecimal escape");
    return c;
}

/* A one-character escape after the backslash: true and *c. Letters that mean something else are
 * left alone. */
static bool take_char_escape(struct parser *p, uint32_t *c)
{
    static const char from[] = "nrtfvae", to[] = "\n\r\t\f\v\a\033";
    char l = *p->s;
    const char *k = strchr(from, l);
    if (l && k) {
        *c = (unsigned char)to[k - from];
        p->s++;
        return true;
    }
    if (l == 'x' || l == 'u') {
        p->s++;
        *c = take_hex(p, l);
        return true;
    }
    if (l == '0') {
        p->s++;
        if (!take_number(p, 8, 2, c))
            *c = 0;
        return true;
    }
    if ((l >= '1' && l <= '9') || ((l | 32) >= 'a' && (l | 32) <= 'z'))
        return false;
    *c = take_char(p);
    return true;
}

/* \p{..}, \P{..} after the letter. */
static void take_property(struct parser *p, struct ps_uc_set *s, bool negative)
{
    if (!eat(p, "{")) {
        fail(p, PS_EUNSUPPORTED, "\\p without braces");
        return;
    }
    if (eat(p, "^"))
        negative = !negative;
    const char *name = p->s;
    const char *close = memchr(name, '}', (size_t)(p->end - name));
    struct ps_uc_set one = {0};
    if (!close || !ps_uc_set_add_named(&one, name, (size_t)(close - name))) {
        char what[80] = "unterminated property name";
        if (close)
            snprintf(what, sizeof what, "property \\p{%.*s} is not supported",
                     (int)(close - name > 40 ? 40 : close - name), name);
        fail(p, close ? PS_EUNSUPPORTED : PS_EDATA, what);
    } else {
        p->s = close + 1;
        if (negative)
            ps_uc_set_negate(&one);
        ps_uc_set_union(s, &one);
    }
    ps_uc_set_deinit(&one);
}

/* A class escape (\s, \P{L}, ...) after the backslash: adds to s, or false and nothing consumed. */
static bool take_class_escape(struct parser *p, struct ps_uc_set *s)
{
    char l = *p->s, low = (char)(l | 32);
    if (low == 'p') {
        p->s++;
        take_property(p, s, l == 'P');
        return true;
    }
    if (low != 's' && low != 'd' && low != 'w' && low != 'h')
        return false;
    p->s++;
    struct ps_uc_set one = {0};
    ps_uc_set_add_escape(&one, low);
    if (l != low)
        ps_uc_set_negate(&one);
    ps_uc_set_union(s, &one);
    ps_uc_set_deinit(&one);
    return true;
}

/* [:name:] and [:^name:], after the opening bracket; false if it is none. */
static bool take_posix(struct parser *p, struct ps_uc_set *s)
{
    const char *start = p->s;
    if (!eat(p, "[:"))
        return false;
    bool negative = eat(p, "^");
    const char *name = p->s;
    while (more(p) && (*p->s | 32) >= 'a' && (*p->s | 32) <= 'z')
        p->s++;
    size_t n = (size_t)(p->s - name);
    struct ps_uc_set one = {0};
    if (!eat(p, ":]") || !ps_uc_set_add_named(&one, name, n)) {
        ps_uc_set_deinit(&one);
        p->s = start;
        return false;
    }
    if (negative)
        ps_uc_set_negate(&one);
    ps_uc_set_union(s, &one);
    ps_uc_set_deinit(&one);
    return true;
}

static void take_class(struct parser *p, struct ps_uc_set *out);

/* One character of a class, an escape included. False if what stands here is a class of its own,
 * now added to s. */
static bool take_class_char(struct parser *p, struct ps_uc_set *s, uint32_t *c)
{
    if (*p->s == '[') {
        if (take_posix(p, s))
            return false;
        struct ps_uc_set inner = {0};
        take_class(p, &inner);
        ps_uc_set_union(s, &inner);
        ps_uc_set_deinit(&inner);
        return false;
    }
    if (*p->s != '\\') {
        *c = take_char(p);
        return true;
    }
    p->s++;
    if (!more(p)) {
        fail(p, PS_EDATA, "ends in a backslash");
        return false;
    }
    if (take_class_escape(p, s))
        return false;
    if (*p->s == 'b') {
        p->s++;
        *c = 8;
        return true;
    }
    if (take_char_escape(p, c))
        return true;
    fail(p, PS_EUNSUPPORTED, "unknown escape in a class");
    return false;
}

/* Everything up to "]" or "&&". */
static void take_class_items(struct parser *p, struct ps_uc_set *s, bool first)
{
    for (; more(p); first = false) {
        if ((*p->s == ']' && !first) || (p->end - p->s >= 2 && p->s[0] == '&' && p->s[1] == '&'))
            return;
        uint32_t lo = 0, hi = 0;
        if (!take_class_char(p, s, &lo))
            continue;
        hi = lo;
        if (p->end - p->s >= 2 && p->s[0] == '-' && p->s[1] != ']') {
            p->s++;
            if (!take_class_char(p, s, &hi) || hi < lo) {
                fail(p, PS_EDATA, "bad range in a class");
                return;
            }
        }
        ps_uc_set_add(s, lo, hi);
    }
}

/* A bracket expression, at its "[". Operators from the loosest: ^, &&, union. Case is folded
 * before negation. */
static void take_class(struct parser *p, struct ps_uc_set *out)
{
    if (++p->depth > PS_RX_DEPTH_MAX) {
        fail(p, PS_EDATA, "nested too deeply");
        return;
    }
    p->s++;
    bool negative = eat(p, "^");
    take_class_items(p, out, true);
    while (eat(p, "&&")) {
        struct ps_uc_set right = {0};
        take_class_items(p, &right, false);
        ps_uc_set_intersect(out, &right);
        ps_uc_set_deinit(&right);
    }
    if (!eat(p, "]"))
        fail(p, PS_EDATA, "class without its end");
    if (p->icase)
        ps_uc_set_fold(out);
    if (negative)
        ps_uc_set_negate(out);
    p->depth--;
}

static uint32_t literal(struct parser *p, uint32_t c)
{
    if (!p->icase)
        return simple(p, PS_RX_CHAR, c);
    struct ps_uc_set s = {0};
    ps_uc_set_add(&s, c, c);
    ps_uc_set_fold(&s);
    if (!s.failed && s.n == 1 && s.r[0] == s.r[1]) {
        ps_uc_set_deinit(&s);
        return simple(p, PS_RX_CHAR, c);
    }
    return set_node(p, &s);
}

static uint32_t any_char(struct parser *p, bool newline_too)
{
    struct ps_uc_set s = {0};
    ps_uc_set_add(&s, 0, PS_UC_MAX);
    if (!newline_too) {
        ps_uc_set_deinit(&s);
        ps_uc_set_add(&s, 0, 9);
        ps_uc_set_add(&s, 11, PS_UC_MAX);
    }
    return set_node(p, &s);
}

/* \R: (?>\r\n|[\n-\r\x85\u2028\u2029]) */
static uint32_t line_break(struct parser *p)
{
    struct ps_uc_set s = {0};
    ps_uc_set_add(&s, 10, 13);
    ps_uc_set_add(&s, 0x85, 0x85);
    ps_uc_set_add(&s, 0x2028, 0x2029);
    uint32_t two = pair(p, PS_RX_CAT, simple(p, PS_RX_CHAR, '\r'), simple(p, PS_RX_CHAR, '\n'));
    return simple(p, PS_RX_ATOMIC, pair(p, PS_RX_ALT, two, set_node(p, &s)));
}

static uint32_t take_escape(struct parser *p)
{
    static const char letters[] = "AzZbB";
    static const uint8_t kinds[] = {PS_RX_TEXT_START, PS_RX_TEXT_END, PS_RX_TEXT_END_NL,
                                    PS_RX_WORD_EDGE, PS_RX_NOT_WORD_EDGE};
    if (!more(p))
        return fail(p, PS_EDATA, "ends in a backslash");
    char l = *p->s;
    const char *k = l ? strchr(letters, l) : NULL;
    if (k) {
        p->s++;
        return simple(p, PS_RX_ASSERT, kinds[k - letters]);
    }
    if (l == 'R' || l == 'N' || l == 'O') {
        p->s++;
        return l == 'R' ? line_break(p) : any_char(p, l == 'O');
    }
    struct ps_uc_set s = {0};
    if (take_class_escape(p, &s)) {
        if (p->icase)
            ps_uc_set_fold(&s);
        return set_node(p, &s);
    }
    uint32_t c;
    if (take_char_escape(p, &c))
        return literal(p, c);
    char what[48];
    snprintf(what, sizeof what, "escape \\%c is not supported", l >= ' ' && l < 127 ? l : '?');
    return fail(p, PS_EUNSUPPORTED, what);
}

static uint32_t take_alternatives(struct parser *p);

/* Letters of (?imx-imx: or (?imx) up to ':' or ')'. */
static bool take_flags(struct parser *p)
{
    for (bool on = true; more(p) && *p->s != ':' && *p->s != ')'; p->s++) {
        switch (*p->s) {
        case '-': on = false; break;
        case 'i': p->icase = on; break;
        case 'm': p->dotall = on; break;
        case 'x': p->extended = on; break;
        default: fail(p, PS_EUNSUPPORTED, "unknown group option"); return false;
        }
    }
    return more(p);
}

static uint32_t look(struct parser *p, bool behind, bool negative)
{
    uint32_t body = take_alternatives(p);
    return node(p, (struct ps_rx_node){
                       .kind = PS_RX_LOOK, .a = body, .behind = behind, .negative = negative});
}

/* What a group's opening says; the ")" is left to the caller. */
static uint32_t take_group_body(struct parser *p)
{
    if (!eat(p, "?") || eat(p, ":"))
        return take_alternatives(p);
    if (eat(p, "=") || eat(p, "!"))
        return look(p, false, p->s[-1] == '!');
    if (eat(p, "<=") || eat(p, "<!"))
        return look(p, true, p->s[-1] == '!');
    if (eat(p, ">"))
        return simple(p, PS_RX_ATOMIC, take_alternatives(p));
    if (eat(p, "#")) {
        while (more(p) && *p->s != ')')
            p->s++;
        return simple(p, PS_RX_EMPTY, 0);
    }
    if (eat(p, "<")) {
        const char *close = memchr(p->s, '>', (size_t)(p->end - p->s));
        if (!close)
            return fail(p, PS_EDATA, "group name without its end");
        p->s = close + 1;
        return take_alternatives(p);
    }
    return fail(p, PS_EUNSUPPORTED, "unknown group");
}

/* (?i-m:...) or (?i), at the letters. The second form holds to the end of the enclosing group,
 * alternatives included, and leaves that group's ")" alone. */
static uint32_t take_flag_group(struct parser *p)
{
    if (!take_flags(p))
        return fail(p, PS_EDATA, "group without its end");
    bool scoped = *p->s++ == ':';
    uint32_t n = take_alternatives(p);
    if (scoped && !eat(p, ")"))
        return fail(p, PS_EDATA, "group without its end");
    return n;
}

/* After "(". */
static uint32_t take_group(struct parser *p)
{
    const bool icase = p->icase, dotall = p->dotall, extended = p->extended;
    uint32_t n;
    if (++p->depth > PS_RX_DEPTH_MAX)
        return fail(p, PS_EDATA, "nested too deeply");
    if (p->end - p->s >= 2 && p->s[0] == '?' && strchr("imxs-", p->s[1])) {
        p->s++;
        n = take_flag_group(p);
    } else {
        n = take_group_body(p);
        if (!eat(p, ")"))
            fail(p, PS_EDATA, "group without its end");
    }
    p->icase = icase;
    p->dotall = dotall;
    p->extended = extended;
    p->depth--;
    return n;
}

static uint32_t take_atom(struct parser *p)
{
    struct ps_uc_set s = {0};
    switch (*p->s) {
    case '(': p->s++; return take_group(p);
    case '[': take_class(p, &s); return set_node(p, &s);
    case '\\': p->s++; return take_escape(p);
    case '.': p->s++; return any_char(p, p->dotall);
    case '^': p->s++; return simple(p, PS_RX_ASSERT, PS_RX_LINE_START);
    case '$': p->s++; return simple(p, PS_RX_ASSERT, PS_RX_LINE_END);
    case '*':
    case '+':
    case '?': return fail(p, PS_EDATA, "nothing to repeat");
    default: return literal(p, take_char(p));
    }
}

/* {n}, {n,}, {,m}, {n,m}: true, else nothing consumed (a brace that stands for itself). */
static bool take_interval(struct parser *p, uint32_t *min, uint32_t *max)
{
    const char *start = p->s;
    uint32_t a = 0, b = 0;
    p->s++;
    bool has_a = take_number(p, 10, 6, &a), comma = eat(p, ","),
         has_b = comma && take_number(p, 10, 6, &b);
    if (!eat(p, "}") || (!has_a && !has_b)) {
        p->s = start;
        return false;
    }
    *min = has_a ? a : 0;
    *max = !comma ? a : has_b ? b : PS_RX_INFINITE;
    if (*min > PS_RX_REPEAT_MAX || (*max > PS_RX_REPEAT_MAX && *max != PS_RX_INFINITE) || *max < *min)
        fail(p, PS_EDATA, "bad or too large repeat count");
    return true;
}

static uint32_t repeat(struct parser *p, uint32_t atom, uint32_t min, uint32_t max,
                       enum ps_rx_mode mode)
{
    return node(p, (struct ps_rx_node){
                       .kind = PS_RX_REP, .a = atom, .min = min, .max = max, .mode = (uint8_t)mode});
}

static uint32_t take_quantified(struct parser *p)
{
    uint32_t n = take_atom(p);
    for (unsigned chained = 0; more(p) && !p->code; chained++) {
        uint32_t min, max;
        char q = *p->s;
        if (q == '{') {
            if (!take_interval(p, &min, &max))
                break;
            /* {n}? is an optional {n} in this syntax, and "+" after an interval repeats it */
            if (min == max && eat(p, "?"))
                n = repeat(p, repeat(p, n, min, max, PS_RX_GREEDY), 0, 1, PS_RX_GREEDY);
            else
                n = repeat(p, n, min, max, eat(p, "?") ? PS_RX_LAZY : PS_RX_GREEDY);
            if (chained == CHAIN_MAX)
                return fail(p, PS_EDATA, "too many quantifiers in a row");
            continue;
        }
        if (q != '*' && q != '+' && q != '?')
            break;
        if (chained == CHAIN_MAX)
            return fail(p, PS_EDATA, "too many quantifiers in a row");
        p->s++;
        min = q == '+';
        max = q == '?' ? 1 : PS_RX_INFINITE;
        n = repeat(p, n, min, max,
                   eat(p, "?")   ? PS_RX_LAZY
                   : eat(p, "+") ? PS_RX_POSSESSIVE
                                 : PS_RX_GREEDY);
    }
    return n;
}

static void skip_extended(struct parser *p)
{
    while (p->extended && more(p)) {
        if (*p->s == '#') {
            while (more(p) && *p->s != '\n')
                p->s++;
        } else if (*p->s == ' ' || (*p->s >= 9 && *p->s <= 13)) {
            p->s++;
        } else {
            break;
        }
    }
}

/* Right-nested lists, so that walking them needs no recursion. */
static uint32_t take_sequence(struct parser *p)
{
    uint32_t head = 0, last = 0, n = 0;
    for (; !p->code; n++) {
        skip_extended(p);
        if (!more(p) || *p->s == '|' || *p->s == ')')
            break;
        uint32_t one = take_quantified(p);
        if (n == 0) {
            head = one;
            continue;
        }
        uint32_t prev = n == 1 ? head : p->t->nodes[last].b;
        uint32_t cat = pair(p, PS_RX_CAT, prev, one);
        if (n == 1)
            head = cat;
        else
            p->t->nodes[last].b = cat;
        last = cat;
    }
    return n ? head : simple(p, PS_RX_EMPTY, 0);
}

static uint32_t take_alternatives(struct parser *p)
{
    uint32_t head = take_sequence(p), last = 0;
    for (unsigned n = 1; !p->code && eat(p, "|"); n++) {
        uint32_t one = take_sequence(p);
        uint32_t prev = n == 1 ? head : p->t->nodes[last].b;
        uint32_t alt = pair(p, PS_RX_ALT, prev, one);
        if (n == 1)
            head = alt;
        else
            p->t->nodes[last].b = alt;
        last = alt;
    }
    return head;
}

int ps_rx_parse(struct ps_rx_tree *out, const char *pattern, size_t len, struct ps_err *err)
{
    struct ps_rx_tree t = {0};
    struct parser p = {.t = &t, .s = pattern, .end = pattern + len, .err = err};
    if (len > PS_RX_PATTERN_MAX)
        fail(&p, PS_EDATA, "too long");
    t.root = take_alternatives(&p);
    if (!p.code && more(&p))
        fail(&p, PS_EDATA, "unmatched )");
    if (p.code)
        ps_rx_tree_deinit(&t);
    else
        *out = t;
    return p.code;
}

void ps_rx_tree_deinit(struct ps_rx_tree *t)
{
    for (uint32_t i = 0; i < t->n_sets; i++)
        ps_uc_set_deinit(&t->sets[i]);
    ps_free(t->sets);
    ps_free(t->nodes);
    memset(t, 0, sizeof *t);
}
