/* The tree of a pattern in (tok_regex_parse.c), matches in a text out: code generation and the
 * backtracking machine. */
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "runtime/tok_regex.h"
#include "runtime/tok_regex_internal.h"

#define CODE_MAX 20000u
#define STACK_MAX                                                                                  \
    (1u << 24) /* frames: 512 MiB would be a pattern that pushes for every byte of a huge text */
#define MARKS 16u

enum op {
    OP_CHAR,   /* x: code point's UTF-8 bytes, min: how many */
    OP_SET,    /* x: class */
    OP_RUN,    /* x: class, min..max times, mode */
    OP_JMP,    /* x: target */
    OP_SPLIT,  /* go on; on failure at x */
    OP_SPLIT2, /* go to x; on failure go on (lazy) */
    OP_ALT, /* min: first-byte set; as OP_SPLIT, but straight to x where the next byte can't start this branch */
    OP_MARK,  /* marks[x] = position */
    OP_CHECK, /* to x if nothing was consumed since marks[min] */
    OP_LOOK, /* the code up to x is an assertion; mode bit 0 negative; min: characters to step back */
    OP_ATOMIC, /* the code up to x is matched once and for all */
    OP_ASSERT, /* x: enum ps_rx_assert */
    OP_MATCH,
};
enum { LOOK_NEGATIVE = 1, LOOK_BEHIND = 2 };

struct inst {
    uint8_t op, mode;
    uint32_t x, min, max;
};
struct first_set {
    uint64_t bits[4]; /* by first byte */
    bool empty_ok;    /* can match nothing: no byte can be ruled out, nor the end of the text */
};
struct ps_regex {
    struct inst *code;
    uint32_t n, cap;
    struct ps_uc_class *classes;
    uint32_t n_classes;
    struct first_set *firsts;
    uint32_t n_firsts, cap_firsts;
    struct first_set first; /* of the whole */
    uint32_t word_class;
};

struct gen {
    struct ps_regex *re;
    struct ps_rx_tree *t;
    unsigned marks;
    uint32_t work; /* nodes visited: (){1000}{1000} emits nothing and must end too */
    int code;
    struct ps_err *err;
};

static int gen_fail(struct gen *g, int code, const char *what)
{
    if (!g->code)
        g->code = ps_err_set(g->err, code, "tokenizer",
                             "pattern in tokenizer.json: %s: use a tokenizer.json without it", what);
    return g->code;
}

static uint32_t emit(struct gen *g, struct inst in)
{
    struct ps_regex *re = g->re;
    if (re->n == re->cap) {
        uint32_t cap = re->cap ? re->cap * 2 : 64;
        void *m = cap > 2 * CODE_MAX ? NULL : ps_realloc_array(re->code, cap, sizeof *re->code);
        if (!m) {
            gen_fail(g, cap > 2 * CODE_MAX ? PS_EDATA : PS_ENOMEM, "too large");
            return 0;
        }
        re->code = m;
        re->cap = cap;
    }
    if (re->n >= CODE_MAX)
        gen_fail(g, PS_EDATA, "too large");
    re->code[re->n] = in;
    return re->n++;
}

static void first_add_range(struct first_set *f, uint32_t lo, uint32_t hi)
{
    char a[4], b[4];
    ps_utf8_encode(lo, a);
    ps_utf8_encode(hi, b);
    for (unsigned x = (unsigned char)a[0]; x <= (unsigned char)b[0]; x++)
        if ((x & 0xc0) != 0x80) /* no character starts with a continuation byte */
            f->bits[x >> 6] |= 1ull << (x & 63);
}

static void first_or(struct first_set *a, const struct first_set *b)
{
    for (unsigned i = 0; i < 4; i++)
        a->bits[i] |= b->bits[i];
}

/* Which bytes a match of node n can start with. The tree's depth is bounded by the parser; lists
 * are walked in a loop. */
static struct first_set first_of(const struct ps_rx_tree *t, uint32_t n)
{
    struct first_set f = {{0}, false}, g;
    const struct ps_rx_node *d = &t->nodes[n];
    switch (d->kind) {
    case PS_RX_CHAR: first_add_range(&f, d->a, d->a); break;
    case PS_RX_SET:
        for (size_t i = 0; i < t->sets[d->a].n; i++)
            first_add_range(&f, t->sets[d->a].r[2 * i], t->sets[d->a].r[2 * i + 1]);
        break;
    case PS_RX_CAT:
        for (; d->kind == PS_RX_CAT; d = &t->nodes[n]) {
            g = first_of(t, d->a);
            first_or(&f, &g);
            if (!g.empty_ok)
                return f;
            n = d->b;
        }
        g = first_of(t, n);
        first_or(&f, &g);
        f.empty_ok = g.empty_ok;
        break;
    case PS_RX_ALT:
        for (; d->kind == PS_RX_ALT; d = &t->nodes[n]) {
            g = first_of(t, d->a);
            first_or(&f, &g);
            f.empty_ok |= g.empty_ok;
            n = d->b;
        }
        g = first_of(t, n);
        first_or(&f, &g);
        f.empty_ok |= g.empty_ok;
        break;
    case PS_RX_REP:
        f = first_of(t, d->a);
        f.empty_ok |= d->min == 0;
        break;
    case PS_RX_ATOMIC: f = first_of(t, d->a); break;
    default: f.empty_ok = true; break;
    }
    return f;
}

static uint32_t keep_first(struct gen *g, struct first_set f)
{
    struct ps_regex *re = g->re;
    if (re->n_firsts == re->cap_firsts) {
        uint32_t cap = re->cap_firsts ? re->cap_firsts * 2 : 8;
        void *m = ps_realloc_array(re->firsts, cap, sizeof *re->firsts);
        if (!m) {
            gen_fail(g, PS_ENOMEM, "not enough memory");
            return 0;
        }
        re->firsts = m;
        re->cap_firsts = cap;
    }
    re->firsts[re->n_firsts] = f;
    return re->n_firsts++;
}

static void gen_node(struct gen *g, uint32_t n);

static void gen_alt(struct gen *g, uint32_t n)
{
    uint32_t jumps = UINT32_MAX; /* chain of JMPs to patch, linked through x */
    for (; g->t->nodes[n].kind == PS_RX_ALT && !g->code; n = g->t->nodes[n].b) {
        uint32_t a = g->t->nodes[n].a;
        struct first_set f = first_of(g->t, a);
        struct inst split = {.op = OP_SPLIT};
        if (!f.empty_ok) {
            split.op = OP_ALT;
            split.min = keep_first(g, f);
        }
        uint32_t at = emit(g, split);
        gen_node(g, a);
        jumps = emit(g, (struct inst){.op = OP_JMP, .x = jumps});
        if (g->code)
            return;
        g->re->code[at].x = g->re->n;
    }
    gen_node(g, n);
    while (jumps != UINT32_MAX && !g->code) {
        uint32_t next = g->re->code[jumps].x;
        g->re->code[jumps].x = g->re->n;
        jumps = next;
    }
}

/* The rest of a repeat after its required turns: (max - min) optional ones, or a loop. */
static void gen_tail(struct gen *g, const struct ps_rx_node *d)
{
    uint8_t split = d->mode == PS_RX_LAZY ? OP_SPLIT2 : OP_SPLIT;
    if (d->max != PS_RX_INFINITE) {
        uint32_t splits = UINT32_MAX;
        for (uint32_t i = d->min; i < d->max && !g->code; i++) {
            splits = emit(g, (struct inst){.op = split, .x = splits});
            gen_node(g, d->a);
        }
        while (splits != UINT32_MAX && !g->code) {
            uint32_t next = g->re->code[splits].x;
            g->re->code[splits].x = g->re->n;
            splits = next;
        }
        return;
    }
    bool empty_ok = first_of(g->t, d->a).empty_ok;
    unsigned mark = empty_ok ? g->marks++ : 0;
    if (mark >= MARKS)
        gen_fail(g, PS_EUNSUPPORTED, "too many nested loops over nothing");
    uint32_t top = emit(g, (struct inst){.op = split}), check = 0;
    if (empty_ok)
        emit(g, (struct inst){.op = OP_MARK, .x = mark});
    gen_node(g, d->a);
    if (empty_ok)
        check = emit(g, (struct inst){.op = OP_CHECK, .min = mark});
    emit(g, (struct inst){.op = OP_JMP, .x = top});
    if (g->code)
        return;
    g->re->code[top].x = g->re->n;
    if (empty_ok)
        g->re->code[check].x = g->re->n;
}

/* Class index of a one-character node, or UINT32_MAX. */
static uint32_t single_class(const struct ps_rx_tree *t, uint32_t n)
{
    return t->nodes[n].kind == PS_RX_SET ? t->nodes[n].a : UINT32_MAX;
}

static void gen_rep(struct gen *g, const struct ps_rx_node *d)
{
    uint32_t cls = single_class(g->t, d->a);
    if (cls != UINT32_MAX) {
        emit(g, (struct inst){.op = OP_RUN, .x = cls, .min = d->min, .max = d->max, .mode = d->mode});
        return;
    }
    uint32_t at = d->mode == PS_RX_POSSESSIVE ? emit(g, (struct inst){.op = OP_ATOMIC}) : 0;
    for (uint32_t i = 0; i < d->min && !g->code; i++)
        gen_node(g, d->a);
    if (!g->code)
        gen_tail(g, d);
    if (d->mode == PS_RX_POSSESSIVE) {
        emit(g, (struct inst){.op = OP_MATCH});
        if (!g->code)
            g->re->code[at].x = g->re->n;
    }
}

/* Characters of every match of n, or UINT32_MAX when they differ. */
static uint32_t fixed_chars(const struct ps_rx_tree *t, uint32_t n)
{
    uint32_t sum = 0, a, b;
    const struct ps_rx_node *d;
    for (d = &t->nodes[n]; d->kind == PS_RX_CAT; d = &t->nodes[d->b]) {
        a = fixed_chars(t, d->a);
        if (a == UINT32_MAX)
            return a;
        sum += a;
    }
    switch (d->kind) {
    case PS_RX_CHAR:
    case PS_RX_SET: return sum + 1;
    case PS_RX_ALT:
        a = fixed_chars(t, d->a);
        for (d = &t->nodes[d->b]; d->kind == PS_RX_ALT; d = &t->nodes[d->b])
            if (fixed_chars(t, d->a) != a)
                return UINT32_MAX;
        b = fixed_chars(t, (uint32_t)(d - t->nodes));
        return a != b || a == UINT32_MAX ? UINT32_MAX : sum + a;
    case PS_RX_REP:
        a = fixed_chars(t, d->a);
        return d->min != d->max || a == UINT32_MAX || (uint64_t)a * d->min > PS_RX_REPEAT_MAX
                   ? UINT32_MAX
                   : sum + a * d->min;
    case PS_RX_ATOMIC: a = fixed_chars(t, d->a); return a == UINT32_MAX ? a : sum + a;
    default: return sum;
    }
}

static void gen_look(struct gen *g, const struct ps_rx_node *d, uint32_t body)
{
    struct inst in = {.op = OP_LOOK, .mode = (uint8_t)(d->negative ? LOOK_NEGATIVE : 0)};
    if (d->behind) {
        in.mode |= LOOK_BEHIND;
        in.min = fixed_chars(g->t, body);
        if (in.min == UINT32_MAX) {
            gen_fail(g, PS_EUNSUPPORTED, "look-behind of no fixed length is not supported");
            return;
        }
    }
    uint32_t at = emit(g, in);
    gen_node(g, body);
    emit(g, (struct inst){.op = OP_MATCH});
    if (!g->code)
        g->re->code[at].x = g->re->n;
}

/* Look-behind whose alternatives have different lengths: (?<=a|bc) is (?<=a)|(?<=bc), (?<!a|bc)
 * is (?<!a)(?<!bc). */
static void gen_look_list(struct gen *g, const struct ps_rx_node *d)
{
    if (!d->behind || fixed_chars(g->t, d->a) != UINT32_MAX) {
        gen_look(g, d, d->a);
        return;
    }
    uint32_t n = d->a, jumps = UINT32_MAX;
    for (; g->t->nodes[n].kind == PS_RX_ALT && !g->code; n = g->t->nodes[n].b) {
        uint32_t at = d->negative ? 0 : emit(g, (struct inst){.op = OP_SPLIT});
        gen_look(g, d, g->t->nodes[n].a);
        if (!d->negative && !g->code) {
            jumps = emit(g, (struct inst){.op = OP_JMP, .x = jumps});
            g->re->code[at].x = g->re->n;
        }
    }
    gen_look(g, d, n);
    while (jumps != UINT32_MAX && !g->code) {
        uint32_t next = g->re->code[jumps].x;
        g->re->code[jumps].x = g->re->n;
        jumps = next;
    }
}

static void gen_node(struct gen *g, uint32_t n)
{
    if (++g->work > 10 * CODE_MAX)
        gen_fail(g, PS_EDATA, "too large");
    for (; g->t->nodes[n].kind == PS_RX_CAT && !g->code; n = g->t->nodes[n].b)
        gen_node(g, g->t->nodes[n].a);
    if (g->code)
        return;
    const struct ps_rx_node d = g->t->nodes[n];
    char utf8[4] = {0};
    struct inst in = {.op = OP_CHAR};
    uint32_t at;
    switch (d.kind) {
    case PS_RX_CHAR:
        in.min = ps_utf8_encode(d.a, utf8);
        memcpy(&in.x, utf8, 4);
        emit(g, in);
        break;
    case PS_RX_SET: emit(g, (struct inst){.op = OP_SET, .x = d.a}); break;
    case PS_RX_ALT: gen_alt(g, n); break;
    case PS_RX_REP: gen_rep(g, &d); break;
    case PS_RX_LOOK: gen_look_list(g, &d); break;
    case PS_RX_ATOMIC:
        at = emit(g, (struct inst){.op = OP_ATOMIC});
        gen_node(g, d.a);
        emit(g, (struct inst){.op = OP_MATCH});
        if (!g->code)
            g->re->code[at].x = g->re->n;
        break;
    case PS_RX_ASSERT: emit(g, (struct inst){.op = OP_ASSERT, .x = d.a}); break;
    default: break;
    }
}

static int build_classes(struct ps_regex *re, const struct ps_rx_tree *t)
{
    struct ps_uc_set word = {0};
    re->classes = ps_calloc(t->n_sets + 1, sizeof *re->classes);
    if (!re->classes)
        return PS_ENOMEM;
    bool edges = false;
    for (uint32_t i = 0; i < t->n_nodes; i++)
        edges |= t->nodes[i].kind == PS_RX_ASSERT && t->nodes[i].a >= PS_RX_WORD_EDGE;
    if (edges)
        ps_uc_set_add_escape(&word, 'w');
    int rc = 0;
    for (uint32_t i = 0; i < t->n_sets + edges && !rc; i++) {
        rc = ps_uc_class_build(&re->classes[i], i < t->n_sets ? &t->sets[i] : &word);
        re->n_classes += !rc;
    }
    re->word_class = t->n_sets;
    ps_uc_set_deinit(&word);
    return rc;
}

int ps_regex_new(struct ps_regex **out, const char *pattern, size_t len, struct ps_err *err)
{
    struct ps_rx_tree t = {0};
    struct ps_regex *re = NULL;
    int rc = ps_rx_parse(&t, pattern, len, err);
    if (rc)
        return rc;
    re = ps_calloc(1, sizeof *re);
    rc = re ? build_classes(re, &t) : PS_ENOMEM;
    if (rc) {
        ps_err_set(err, rc, "tokenizer", "pattern in tokenizer.json: not enough memory");
        goto out;
    }
    struct gen g = {.re = re, .t = &t, .err = err};
    re->first = first_of(&t, t.root);
    gen_node(&g, t.root);
    emit(&g, (struct inst){.op = OP_MATCH});
    rc = g.code;
out:
    ps_rx_tree_deinit(&t);
    if (rc) {
        ps_regex_free(re);
        return rc;
    }
    *out = re;
    return 0;
}

void ps_regex_free(struct ps_regex *re)
{
    if (!re)
        return;
    for (uint32_t i = 0; i < re->n_classes; i++)
        ps_uc_class_free(&re->classes[i]);
    ps_free(re->classes);
    ps_free(re->code);
    ps_free(re->firsts);
    ps_free(re);
}

uint64_t ps_regex_memory_bytes(const struct ps_regex *re)
{
    uint64_t n = sizeof *re + (uint64_t)re->cap * sizeof *re->code +
                 (uint64_t)re->cap_firsts * sizeof *re->firsts;
    for (uint32_t i = 0; i < re->n_classes; i++)
        n += sizeof re->classes[i] + ((PS_UC_MAX >> 8) + 1) * 2 + re->classes[i].n_blocks * 32;
    return n;
}

void ps_regex_run_init(struct ps_regex_run *run, uint64_t steps)
{
    memset(run, 0, sizeof *run);
    run->steps = steps;
}

void ps_regex_run_deinit(struct ps_regex_run *run)
{
    ps_free(run->stack);
    memset(run, 0, sizeof *run);
}

/* ---- matching ---- */

enum { FRAME_GO, FRAME_RUN, FRAME_LAZY, FRAME_MARK };

struct machine {
    const struct ps_regex *re;
    struct ps_regex_run *run;
    const char *s;
    size_t len;
};

static int push(struct machine *m, uint32_t kind, uint32_t pc, size_t pos, size_t floor)
{
    struct ps_regex_run *r = m->run;
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 64;
        void *p = cap > STACK_MAX ? NULL : ps_realloc_array(r->stack, cap, sizeof *r->stack);
        if (!p)
            return PS_ENOMEM;
        r->stack = p;
        r->cap = cap;
    }
    r->stack[r->n++] = (struct ps_regex_frame){.pc = pc, .kind = kind, .pos = pos, .floor = floor};
    return 0;
}

static size_t step_back(const char *s, size_t pos)
{
    do
        pos--;
    while (((unsigned char)s[pos] & 0xc0) == 0x80);
    return pos;
}

static bool spend(struct machine *m, size_t n)
{
    if (m->run->steps < n) {
        m->run->steps = 0;
        return false;
    }
    m->run->steps -= n;
    return true;
}

static bool in_class(const struct machine *m, uint32_t cls, size_t pos, unsigned *n)
{
    return ps_uc_class_has(&m->re->classes[cls], ps_utf8_decode(m->s + pos, n));
}

static bool assertion(const struct machine *m, uint32_t what, size_t pos)
{
    unsigned n;
    bool before, after;
    switch (what) {
    case PS_RX_LINE_START: return pos == 0 || (m->s[pos - 1] == '\n' && pos < m->len);
    case PS_RX_LINE_END: return pos == m->len || m->s[pos] == '\n';
    case PS_RX_TEXT_START: return pos == 0;
    case PS_RX_TEXT_END: return pos == m->len;
    case PS_RX_TEXT_END_NL: return pos == m->len || (pos + 1 == m->len && m->s[pos] == '\n');
    default:
        before = pos > 0 && in_class(m, m->re->word_class, step_back(m->s, pos), &n);
        after = pos < m->len && in_class(m, m->re->word_class, pos, &n);
        return (before != after) == (what == PS_RX_WORD_EDGE);
    }
}

static int match_at(struct machine *m, uint32_t pc, size_t pos, size_t *end);

/* 1 holds, 0 does not, negative on failure. */
static int look_at(struct machine *m, const struct inst *in, uint32_t body, size_t pos)
{
    size_t end;
    if (in->mode & LOOK_BEHIND) {
        for (uint32_t i = 0; i < in->min; i++) {
            if (pos == 0)
                return (in->mode & LOOK_NEGATIVE) != 0;
            pos = step_back(m->s, pos);
        }
    }
    int rc = match_at(m, body, pos, &end);
    return rc < 0 ? rc : rc != (in->mode & LOOK_NEGATIVE);
}

/* One loop over a class: leaves *pos after it, pushes what backtracking needs. 1 matched, 0 not,
 * negative on failure. */
static int run_class(struct machine *m, const struct inst *in, uint32_t next_pc, size_t *pos)
{
    size_t p = *pos, floor = p;
    unsigned len;
    uint32_t n = 0, want = in->mode == PS_RX_LAZY ? in->min : in->max;
    while (n < want && p < m->len && in_class(m, in->x, p, &len)) {
        p += len;
        if (++n == in->min)
            floor = p;
    }
    if (!spend(m, n))
        return PS_EDATA;
    if (n < in->min)
        return 0;
    *pos = p;
    if (in->mode == PS_RX_GREEDY && n > in->min)
        return push(m, FRAME_RUN, next_pc, p, floor) ? PS_ENOMEM : 1;
    if (in->mode == PS_RX_LAZY && in->max > in->min)
        return push(m, FRAME_LAZY, next_pc - 1, p, in->max - in->min) ? PS_ENOMEM : 1;
    return 1;
}

/* Takes up the youngest alternative above `base`. 1 and *pc, *pos; 0 when there is none. */
static int backtrack(struct machine *m, size_t base, uint32_t *pc, size_t *pos)
{
    unsigned len;
    while (m->run->n > base) {
        struct ps_regex_frame *f = &m->run->stack[m->run->n - 1];
        switch (f->kind) {
        case FRAME_MARK:
            m->run->marks[f->pc] = f->pos;
            m->run->n--;
            continue;
        case FRAME_GO:
            *pc = f->pc;
            *pos = f->pos;
            m->run->n--;
            return 1;
        case FRAME_RUN: /* one character less */
            f->pos = step_back(m->s, f->pos);
            *pc = f->pc;
            *pos = f->pos;
            m->run->n -= f->pos <= f->floor;
            return 1;
        default: /* FRAME_LAZY: one character more */
            if (f->pos >= m->len || !in_class(m, m->re->code[f->pc].x, f->pos, &len)) {
                m->run->n--;
                continue;
            }
            f->pos += len;
            *pos = f->pos;
            *pc = f->pc + 1;
            if (m->re->code[f->pc].max != PS_RX_INFINITE && --f->floor == 0)
                m->run->n--;
            return 1;
        }
    }
    return 0;
}

/* Executes one instruction that may fail or branch without recursion. 1 go on, 0 backtrack,
 * negative on failure. */
static int step(struct machine *m, const struct inst *in, uint32_t *pc, size_t *pos)
{
    unsigned n;
    switch (in->op) {
    case OP_CHAR:
        if (m->len - *pos < in->min || memcmp(m->s + *pos, &in->x, in->min) != 0)
            return 0;
        *pos += in->min;
        break;
    case OP_SET:
        if (*pos >= m->len || !in_class(m, in->x, *pos, &n))
            return 0;
        *pos += n;
        break;
    case OP_RUN: {
        int rc = run_class(m, in, *pc + 1, pos);
        if (rc <= 0)
            return rc;
        break;
    }
    case OP_JMP: *pc = in->x; return 1;
    case OP_ALT: {
        const uint64_t *bits = m->re->firsts[in->min].bits;
        unsigned char c = *pos < m->len ? (unsigned char)m->s[*pos] : 0;
        if (*pos >= m->len || !(bits[c >> 6] >> (c & 63) & 1)) {
            *pc = in->x;
            return 1;
        }
    }
    /* fall through */
    case OP_SPLIT:
        if (push(m, FRAME_GO, in->x, *pos, 0))
            return PS_ENOMEM;
        break;
    case OP_SPLIT2:
        if (push(m, FRAME_GO, *pc + 1, *pos, 0))
            return PS_ENOMEM;
        *pc = in->x;
        return 1;
    case OP_MARK:
        if (push(m, FRAME_MARK, in->x, m->run->marks[in->x], 0))
            return PS_ENOMEM;
        m->run->marks[in->x] = *pos;
        break;
    case OP_CHECK:
        if (m->run->marks[in->min] == *pos) {
            *pc = in->x;
            return 1;
        }
        break;
    default: /* OP_ASSERT */
        if (!assertion(m, in->x, *pos))
            return 0;
        break;
    }
    ++*pc;
    return 1;
}

/* Runs the code at pc from pos. 1 and *end, 0 no match, negative on failure. Recursion is
 * bounded by the pattern's nesting of assertions and atomic groups. Frames above the entry's
 * level are dropped before it returns. */
static int match_at(struct machine *m, uint32_t pc, size_t pos, size_t *end)
{
    const size_t base = m->run->n;
    int rc = 1;
    for (;;) {
        if (!spend(m, 1)) {
            rc = PS_EDATA;
            break;
        }
        const struct inst *in = &m->re->code[pc];
        if (in->op == OP_MATCH) {
            *end = pos;
            break;
        }
        if (in->op == OP_LOOK) {
            rc = look_at(m, in, pc + 1, pos);
            pc = rc > 0 ? in->x : pc;
        } else if (in->op == OP_ATOMIC) {
            rc = match_at(m, pc + 1, pos, &pos);
            pc = rc > 0 ? in->x : pc;
        } else {
            rc = step(m, in, &pc, &pos);
        }
        if (rc == 0)
            rc = backtrack(m, base, &pc, &pos);
        if (rc <= 0)
            break;
    }
    m->run->n = base;
    return rc;
}

/* First match that starts at `from` or later. */
static int search(struct machine *m, size_t from, size_t *start, size_t *end)
{
    const struct first_set *f = &m->re->first;
    for (size_t s = from; s <= m->len; s++) {
        if (!f->empty_ok) {
            unsigned char c;
            size_t before = s;
            while (s < m->len && (c = (unsigned char)m->s[s], !(f->bits[c >> 6] >> (c & 63) & 1)))
                s++;
            if (!spend(m, s - before))
                return PS_EDATA;
            if (s == m->len)
                return 0;
        } else if (s < m->len && ((unsigned char)m->s[s] & 0xc0) == 0x80) {
            continue;
        }
        int rc = match_at(m, 0, s, end);
        if (rc) {
            *start = s;
            return rc;
        }
    }
    return 0;
}

void ps_regex_iter_init(struct ps_regex_iter *it, const char *text, size_t len)
{
    *it = (struct ps_regex_iter){.text = text, .len = len};
}

int ps_regex_next(const struct ps_regex *re, struct ps_regex_run *run, struct ps_regex_iter *it,
                  size_t *start, size_t *end)
{
    struct machine m = {.re = re, .run = run, .s = it->text, .len = it->len};
    while (it->next <= it->len) {
        int rc = search(&m, it->next, start, end);
        if (rc <= 0)
            return rc;
        if (*start == *end && it->any && it->last_end == *end) {
            do
                it->next++;
            while (it->next < it->len && ((unsigned char)it->text[it->next] & 0xc0) == 0x80);
            continue;
        }
        it->next = it->last_end = *end;
        it->any = true;
        return 1;
    }
    return 0;
}
