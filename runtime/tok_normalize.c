/* Normalizers of tokenizer.json: text in, text in the form that the vocabulary was made from
 * out.
 *
 * utf8proc gives decompositions, combining classes and compositions; the order of combining
 * marks is sorted here, because utf8proc's own sort is quadratic in a run of marks. Characters
 * that the library's older tables leave alone are left alone (tok_unicode.h). */
#include <string.h>
#include <utf8proc.h>
#include "base/alloc.h"
#include "runtime/tok_internal.h"

#define DECOMPOSED_MAX 64 /* code points that one character can become; Unicode's longest is 18 */

struct marks {
    utf8proc_int32_t *v; /* code points of one stretch */
    utf8proc_int32_t *sorted;
    size_t n, cap;
};

void ps_tok_pattern_deinit(struct ps_tok_pattern *p)
{
    ps_free(p->literal);
    ps_regex_free(p->regex);
    memset(p, 0, sizeof *p);
}

void ps_tok_match_init(struct ps_tok_match_iter *m, const struct ps_tok_pattern *p, const char *s,
                       size_t len)
{
    m->p = p;
    ps_regex_iter_init(&m->it, s, len);
}

int ps_tok_match_next(struct ps_tok_match_iter *m, struct ps_regex_run *run, size_t *start,
                      size_t *end)
{
    if (m->p->regex)
        return ps_regex_next(m->p->regex, run, &m->it, start, end);
    const char *at =
        memmem(m->it.text + m->it.next, m->it.len - m->it.next, m->p->literal, m->p->literal_len);
    if (!at)
        return 0;
    *start = (size_t)(at - m->it.text);
    m->it.next = *end = *start + m->p->literal_len;
    return 1;
}

int ps_tok_text_failed(const struct ps_strbuf *b, struct ps_err *err)
{
    if (ps_strbuf_ok(b))
        return 0;
    return ps_err_set(err, PS_ENOMEM, "tokenizer",
                      "text: not enough memory to tokenize it, or over 1 GiB: use a shorter one");
}

static int marks_reserve(struct marks *m, size_t more)
{
    if (m->n + more <= m->cap)
        return 0;
    size_t cap = m->cap ? m->cap * 2 : 1024;
    void *v = ps_realloc_array(m->v, cap, sizeof *m->v);
    if (v)
        m->v = v;
    void *s = v ? ps_realloc_array(m->sorted, cap, sizeof *m->sorted) : NULL;
    if (s)
        m->sorted = s;
    if (!v || !s)
        return PS_ENOMEM;
    m->cap = cap;
    return 0;
}

static unsigned combining(utf8proc_int32_t c)
{
    return c < 0x300 ? 0 : (unsigned)utf8proc_get_property(c)->combining_class;
}

/* Stable sort by combining class of v[from..to), all of them marks: counted, so that long runs
 * stay linear. */
static void sort_run(struct marks *m, size_t from, size_t to)
{
    size_t start[257] = {0};
    if (to - from < 16) {
        for (size_t i = from + 1; i < to; i++) {
            utf8proc_int32_t c = m->v[i];
            size_t k = i;
            for (; k > from && combining(m->v[k - 1]) > combining(c); k--)
                m->v[k] = m->v[k - 1];
            m->v[k] = c;
        }
        return;
    }
    for (size_t i = from; i < to; i++)
        start[(combining(m->v[i]) & 255) + 1]++;
    for (unsigned k = 1; k < 257; k++)
        start[k] += start[k - 1];
    for (size_t i = from; i < to; i++)
        m->sorted[start[combining(m->v[i]) & 255]++] = m->v[i];
    memcpy(m->v + from, m->sorted, (to - from) * sizeof *m->v);
}

/* Orders and, for NFC and NFKC, composes the stretch, and appends it as UTF-8. */
static void flush_stretch(struct marks *m, bool compose, struct ps_strbuf *out)
{
    for (size_t i = 0; i < m->n;) {
        size_t from = i;
        while (i < m->n && combining(m->v[i]))
            i++;
        if (i - from > 1)
            sort_run(m, from, i);
        i += i == from;
    }
    size_t n = m->n;
    if (compose && n > 1)
        n = (size_t)utf8proc_normalize_utf32(m->v, (utf8proc_ssize_t)n,
                                             UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (size_t i = 0; i < n; i++) {
        char utf8[4];
        ps_strbuf_append(out, utf8, ps_utf8_encode((uint32_t)m->v[i], utf8));
    }
    m->n = 0;
}

/* NFC, NFD, NFKC, NFKD. ASCII and inert characters never join with what stands before them, so
 * each starts a stretch. */
static int normal_form(enum ps_tok_norm_kind kind, const char *s, size_t len, struct ps_strbuf *out)
{
    const bool compat = kind == PS_NORM_NFKC || kind == PS_NORM_NFKD;
    const bool compose = kind == PS_NORM_NFC || kind == PS_NORM_NFKC;
    const utf8proc_option_t opts = UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    struct marks m = {0};
    int rc = 0, last = 0;
    for (size_t i = 0; i < len && !rc;) {
        unsigned n;
        uint32_t c = ps_utf8_decode(s + i, &n);
        if (c < 0x80) {
            size_t end = i + 1;
            while (end < len && !((unsigned char)s[end] & 0x80))
                end++;
            end -= end < len; /* a mark may follow the last one and compose with it */
            flush_stretch(&m, compose, out);
            ps_strbuf_append(out, s + i, end - i);
            i = end;
            if (i == len || (unsigned char)s[i] & 0x80)
                continue;
            c = (unsigned char)s[i];
        } else if (ps_uc_nf_is_inert(c)) {
            flush_stretch(&m, compose, out);
            ps_strbuf_append(out, s + i, n);
            i += n;
            continue;
        }
        rc = marks_reserve(&m, DECOMPOSED_MAX);
        if (!rc) {
            utf8proc_ssize_t k =
                utf8proc_decompose_char((utf8proc_int32_t)c, m.v + m.n, DECOMPOSED_MAX, opts, &last);
            if (k > 0 && k <= DECOMPOSED_MAX)
                m.n += (size_t)k;
        }
        i += n;
    }
    if (!rc)
        flush_stretch(&m, compose, out);
    ps_free(m.v);
    ps_free(m.sorted);
    return rc;
}

static void lowercase(const char *s, size_t len, struct ps_strbuf *out)
{
    for (size_t i = 0; i < len;) {
        unsigned n;
        uint32_t low[2] = {0, 0};
        unsigned k = ps_uc_lower_of(ps_utf8_decode(s + i, &n), low);
        for (unsigned j = 0; j < k; j++) {
            char utf8[4];
            ps_strbuf_append(out, utf8, ps_utf8_encode(low[j], utf8));
        }
        i += n;
    }
}

static int replace(const struct ps_tok_norm *d, const char *s, size_t len, struct ps_strbuf *out,
                   struct ps_regex_run *run, bool *at_zero)
{
    struct ps_tok_match_iter it;
    size_t done = 0, start, end;
    int rc;
    ps_tok_match_init(&it, &d->pattern, s, len);
    while (len && (rc = ps_tok_match_next(&it, run, &start, &end)) != 0) {
        if (rc < 0)
            return rc;
        ps_strbuf_append(out, s + done, start - done);
        ps_strbuf_append(out, d->text, d->text_len);
        if (start == 0 && end > 0 && !d->text_len)
            *at_zero = false;
        done = end;
    }
    ps_strbuf_append(out, s + done, len - done);
    return 0;
}

static void strip(const struct ps_tok_norm *d, const char *s, size_t len, struct ps_strbuf *out,
                  bool *at_zero)
{
    size_t from = 0, to = len;
    unsigned n;
    while (d->left && from < to && ps_uc_is_space(ps_utf8_decode(s + from, &n)))
        from += n;
    while (d->right && to > from) {
        size_t p = to - 1;
        while (((unsigned char)s[p] & 0xc0) == 0x80)
            p--;
        if (!ps_uc_is_space(ps_utf8_decode(s + p, &n)))
            break;
        to = p;
    }
    if (from > 0)
        *at_zero = false;
    ps_strbuf_append(out, s + from, to - from);
}

/* What SentencePiece's "nmt" rules do before NFKC: -1 drops the character. */
static int32_t nmt(uint32_t c)
{
    if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
        c == 0x9f)
        return -1;
    if (c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 || (c >= 0x200b && c <= 0x200f) ||
        c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xfeff || c == 0xfffd)
        return ' ';
    return (int32_t)c;
}

static void filter(enum ps_tok_norm_kind kind, const char *s, size_t len, struct ps_strbuf *out,
                   bool *at_zero)
{
    for (size_t i = 0; i < len;) {
        unsigned n;
        uint32_t c = ps_utf8_decode(s + i, &n);
        int32_t to = kind == PS_NORM_NMT ? nmt(c) : ps_uc_is_combining(c) ? -1 : (int32_t)c;
        char utf8[4];
        if (to >= 0)
            ps_strbuf_append(out, utf8, ps_utf8_encode((uint32_t)to, utf8));
        else if (i == 0)
            *at_zero = false;
        i += n;
    }
}

static void byte_level(const char *s, size_t len, struct ps_strbuf *out)
{
    char c[2];
    for (size_t i = 0; i < len; i++)
        ps_strbuf_append(out, c, ps_tok_byte_char((uint8_t)s[i], c));
}

static int apply(const struct ps_tok_norm *d, const char *s, size_t len, struct ps_strbuf *out,
                 struct ps_regex_run *run, bool *at_zero)
{
    switch (d->kind) {
    case PS_NORM_NFC:
    case PS_NORM_NFD:
    case PS_NORM_NFKC:
    case PS_NORM_NFKD: return normal_form(d->kind, s, len, out);
    case PS_NORM_LOWERCASE: lowercase(s, len, out); break;
    case PS_NORM_PREPEND:
        if (len)
            ps_strbuf_append(out, d->text, d->text_len);
        ps_strbuf_append(out, s, len);
        break;
    case PS_NORM_REPLACE: return replace(d, s, len, out, run, at_zero);
    case PS_NORM_STRIP: strip(d, s, len, out, at_zero); break;
    case PS_NORM_STRIP_ACCENTS:
    case PS_NORM_NMT: filter(d->kind, s, len, out, at_zero); break;
    case PS_NORM_BYTE_LEVEL: byte_level(s, len, out); break;
    }
    return 0;
}

int ps_tok_normalize(const struct ps_tok_norm *norms, size_t n, const char *s, size_t len,
                     struct ps_strbuf *out, struct ps_strbuf *tmp, struct ps_regex_run *run,
                     bool *at_zero, struct ps_err *err)
{
    ps_strbuf_reset(out);
    if (n == 0)
        ps_strbuf_append(out, s, len);
    for (size_t i = 0; i < n; i++) {
        if (i > 0) {
            struct ps_strbuf swap = *out;
            *out = *tmp;
            *tmp = swap;
            s = tmp->data;
            len = tmp->len;
            ps_strbuf_reset(out);
        }
        int rc = apply(&norms[i], s, len, out, run, at_zero);
        if (rc == PS_EDATA)
            return ps_err_set(err, rc, "tokenizer",
                              "a pattern of tokenizer.json backtracks without end on this text");
        if (rc || !ps_strbuf_ok(out))
            return ps_err_set(err, PS_ENOMEM, "tokenizer",
                              "text: not enough memory to tokenize it: use a shorter one");
    }
    return ps_tok_text_failed(out, err);
}
