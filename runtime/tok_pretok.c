/* Pre-tokenizers of tokenizer.json: pieces of text in, smaller pieces (words) out. Each works on
 * every piece that is not an added token; those that rewrite the text write a new buffer. */
#include <string.h>
#include "base/alloc.h"
#include "runtime/tok_internal.h"

int ps_tok_pieces_push(struct ps_tok_pieces *p, struct ps_tok_piece one)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        void *v = ps_realloc_array(p->v, cap, sizeof *p->v);
        if (!v)
            return PS_ENOMEM;
        p->v = v;
        p->cap = cap;
    }
    p->v[p->n++] = one;
    return 0;
}

/* Builds the parts of one piece from a series of (start, end, is it a match) that covers it. */
struct splitter {
    struct ps_tok_pieces *out;
    struct ps_tok_piece whole;
    enum ps_tok_behavior behavior;
    bool invert;
    bool have, flag; /* a part is being held; the flag of the last event */
    size_t start, end;
    int rc;
};

static void release(struct splitter *p)
{
    if (p->have && p->end > p->start && !p->rc) {
        struct ps_tok_piece one = {.off = p->whole.off + (uint32_t)p->start,
                                   .len = (uint32_t)(p->end - p->start),
                                   .id = PS_TOK_NONE,
                                   .at_zero = p->whole.at_zero && p->start == 0};
        p->rc = ps_tok_pieces_push(p->out, one);
    }
    p->have = false;
}

static void event(struct splitter *p, size_t start, size_t end, bool match)
{
    bool join = false;
    match = match != p->invert;
    switch (p->behavior) {
    case PS_SPLIT_REMOVED:
        release(p);
        if (match)
            return;
        break;
    case PS_SPLIT_ISOLATED: break;
    case PS_SPLIT_CONTIGUOUS: join = p->have && match == p->flag; break;
    case PS_SPLIT_PREVIOUS: join = p->have && match && !p->flag; break;
    case PS_SPLIT_NEXT: join = p->have && !match && p->flag; break;
    }
    p->flag = match;
    if (join) {
        p->end = end;
        if (p->behavior == PS_SPLIT_NEXT)
            p->flag = false;
        return;
    }
    release(p);
    p->have = true;
    p->start = start;
    p->end = end;
}

static int split_pattern(const struct ps_tok_pattern *pattern, struct ps_tok_work *w,
                         struct splitter *p)
{
    struct ps_tok_match_iter it;
    const char *s = w->text.data + p->whole.off;
    size_t done = 0, start, end;
    int rc;
    ps_tok_match_init(&it, pattern, s, p->whole.len);
    while ((rc = ps_tok_match_next(&it, &w->run, &start, &end)) > 0 && !p->rc) {
        if (done != start)
            event(p, done, start, false);
        event(p, start, end, true);
        done = end;
    }
    if (rc < 0)
        return rc;
    if (done != p->whole.len)
        event(p, done, p->whole.len, false);
    release(p);
    return p->rc;
}

/* Every character that the predicate takes is a match of its own. */
static int split_chars(bool (*is)(uint32_t c, const void *arg), const void *arg,
                       struct ps_tok_work *w, struct splitter *p)
{
    const char *s = w->text.data + p->whole.off;
    size_t done = 0;
    for (size_t i = 0; i < p->whole.len && !p->rc;) {
        unsigned n;
        if (is(ps_utf8_decode(s + i, &n), arg)) {
            if (done < i)
                event(p, done, i, false);
            event(p, i, i + n, true);
            done = i + n;
        }
        i += n;
    }
    if (done < p->whole.len)
        event(p, done, p->whole.len, false);
    release(p);
    return p->rc;
}

static bool is_numeric(uint32_t c, const void *arg)
{
    (void)arg;
    return ps_uc_is_numeric(c);
}

static bool is_punct(uint32_t c, const void *arg)
{
    (void)arg;
    return ps_uc_is_punct(c);
}

static bool is_space(uint32_t c, const void *arg)
{
    (void)arg;
    return ps_uc_is_space(c);
}

static bool is_rep(uint32_t c, const void *arg)
{
    const struct ps_tok_pre *pre = arg;
    unsigned n;
    return c == ps_utf8_decode(pre->rep, &n);
}

/* \w+|[^\w\s]+ , the rest dropped. */
static int split_words(struct ps_tok_work *w, struct splitter *p)
{
    const char *s = w->text.data + p->whole.off;
    size_t start = 0;
    int last = 0;
    for (size_t i = 0; i < p->whole.len;) {
        unsigned n;
        uint32_t c = ps_utf8_decode(s + i, &n);
        int kind = ps_uc_is_word(c) ? 1 : ps_uc_is_space(c) ? 0 : 2;
        if (kind != last) {
            event(p, start, i, last == 0);
            start = i;
            last = kind;
        }
        i += n;
    }
    event(p, start, p->whole.len, last == 0);
    release(p);
    return p->rc;
}

static int split_fixed(const struct ps_tok_pre *pre, struct ps_tok_work *w, struct splitter *p)
{
    const char *s = w->text.data + p->whole.off;
    size_t start = 0;
    for (size_t i = 0; i < p->whole.len;) {
        for (uint32_t k = 0; k < pre->length && i < p->whole.len; k++) {
            unsigned n;
            ps_utf8_decode(s + i, &n);
            i += n;
        }
        event(p, start, i, true);
        start = i;
    }
    release(p);
    return p->rc;
}

static int split_one(const struct ps_tok_pre *pre, struct ps_tok_work *w, struct splitter *p)
{
    switch (pre->kind) {
    case PS_PRE_DIGITS:
        p->behavior = pre->individual ? PS_SPLIT_ISOLATED : PS_SPLIT_CONTIGUOUS;
        return split_chars(is_numeric, NULL, w, p);
    case PS_PRE_PUNCTUATION: return split_chars(is_punct, NULL, w, p);
    case PS_PRE_WHITESPACE_SPLIT:
        p->behavior = PS_SPLIT_REMOVED;
        return split_chars(is_space, NULL, w, p);
    case PS_PRE_DELIMITER: p->behavior = PS_SPLIT_REMOVED; return split_chars(is_rep, pre, w, p);
    case PS_PRE_METASPACE: p->behavior = PS_SPLIT_NEXT; return split_chars(is_rep, pre, w, p);
    case PS_PRE_WHITESPACE: p->behavior = PS_SPLIT_REMOVED; return split_words(w, p);
    case PS_PRE_FIXED_LENGTH: p->behavior = PS_SPLIT_ISOLATED; return split_fixed(pre, w, p);
    default: return split_pattern(&pre->pattern, w, p);
    }
}

static int split_all(const struct ps_tok_pre *pre, struct ps_tok_work *w)
{
    int rc = 0;
    w->next.n = 0;
    for (size_t i = 0; i < w->pieces.n && !rc; i++) {
        struct splitter p = {.out = &w->next,
                             .whole = w->pieces.v[i],
                             .behavior = pre->behavior,
                             .invert = pre->invert};
        if (p.whole.id != PS_TOK_NONE)
            rc = ps_tok_pieces_push(&w->next, p.whole);
        else if (p.whole.len)
            rc = split_one(pre, w, &p);
    }
    struct ps_tok_pieces swap = w->pieces;
    w->pieces = w->next;
    w->next = swap;
    return rc;
}

/* ---- stages that rewrite the text ---- */

static void rewrite_prefix(const struct ps_tok_pre *pre, const char *s, size_t len, bool at_zero,
                           struct ps_strbuf *out)
{
    (void)pre;
    (void)at_zero;
    if (!len || s[0] != ' ')
        ps_strbuf_append(out, " ", 1);
    ps_strbuf_append(out, s, len);
}

static void rewrite_bytes(const struct ps_tok_pre *pre, const char *s, size_t len, bool at_zero,
                          struct ps_strbuf *out)
{
    char c[2];
    (void)pre;
    (void)at_zero;
    for (size_t i = 0; i < len; i++)
        ps_strbuf_append(out, c, ps_tok_byte_char((uint8_t)s[i], c));
}

static void rewrite_metaspace(const struct ps_tok_pre *pre, const char *s, size_t len, bool at_zero,
                              struct ps_strbuf *out)
{
    bool has = len && (s[0] == ' ' || (len >= pre->rep_len && !memcmp(s, pre->rep, pre->rep_len)));
    if (!has && (pre->scheme == PS_PREPEND_ALWAYS || (pre->scheme == PS_PREPEND_FIRST && at_zero)))
        ps_strbuf_append(out, pre->rep, pre->rep_len);
    for (size_t i = 0; i < len;) {
        const char *space = memchr(s + i, ' ', len - i);
        size_t end = space ? (size_t)(space - s) : len;
        ps_strbuf_append(out, s + i, end - i);
        if (space)
            ps_strbuf_append(out, pre->rep, pre->rep_len);
        i = end + 1;
    }
}

static int rewrite_all(const struct ps_tok_pre *pre, struct ps_tok_work *w,
                       void (*rewrite)(const struct ps_tok_pre *, const char *, size_t, bool,
                                       struct ps_strbuf *),
                       struct ps_err *err)
{
    struct ps_strbuf *out = &w->next_text;
    ps_strbuf_reset(out);
    for (size_t i = 0; i < w->pieces.n; i++) {
        struct ps_tok_piece *p = &w->pieces.v[i];
        if (p->id != PS_TOK_NONE || !p->len)
            continue;
        size_t from = out->len;
        rewrite(pre, w->text.data + p->off, p->len, p->at_zero, out);
        p->off = (uint32_t)from;
        p->len = (uint32_t)(out->len - from);
    }
    int rc = ps_tok_text_failed(out, err);
    struct ps_strbuf swap = w->text;
    w->text = w->next_text;
    w->next_text = swap;
    return rc;
}

int ps_tok_pretokenize(const struct ps_tok_pre *pre, struct ps_tok_work *w, bool lazy_bytes,
                       struct ps_err *err)
{
    int rc = 0;
    bool split = true;
    if (pre->kind == PS_PRE_BYTE_LEVEL) {
        if (pre->add_prefix_space)
            rc = rewrite_all(pre, w, rewrite_prefix, err);
        split = pre->use_regex;
    } else if (pre->kind == PS_PRE_METASPACE) {
        rc = rewrite_all(pre, w, rewrite_metaspace, err);
        split = pre->split;
    }
    if (!rc && pre->kind == PS_PRE_BERT) {
        struct ps_tok_pre spaces = {.kind = PS_PRE_WHITESPACE_SPLIT};
        struct ps_tok_pre punct = {.kind = PS_PRE_PUNCTUATION, .behavior = PS_SPLIT_ISOLATED};
        rc = split_all(&spaces, w);
        if (!rc)
            rc = split_all(&punct, w);
    } else if (!rc && split) {
        rc = split_all(pre, w);
    }
    if (!rc && pre->kind == PS_PRE_BYTE_LEVEL && !lazy_bytes)
        rc = rewrite_all(pre, w, rewrite_bytes, err);
    if (rc == PS_EDATA)
        return ps_err_set(err, rc, "tokenizer",
                          "a pattern of tokenizer.json backtracks without end on this text");
    if (rc)
        return ps_err_set(err, rc, "tokenizer",
                          "text: not enough memory to tokenize it: use a shorter one");
    return 0;
}
