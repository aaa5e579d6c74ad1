/* Ids in, text out, token by token. Each decoder of tokenizer.json is a stage that hands its
 * output to the next; Fuse and ByteLevel turn tokens into one stream, on which the stages after
 * them work.
 *
 * The whole-text decode of the library and this one give the same text, but for one case that
 * can't be known in time: a run of byte tokens that turns invalid after complete characters
 * gives those characters and then one U+FFFD per bad byte, where the library gives U+FFFD for
 * every byte of the run. */
#include <string.h>
#include "base/alloc.h"
#include "base/utf8.h"
#include "runtime/tok_internal.h"

#define TOKEN_TEXT_MAX (1u << 20) /* bytes that one token may become between stages */

static const char replacement[] = "\xef\xbf\xbd";

struct stage {
    struct ps_strbuf buf; /* output of this stage for the current token; BPE: the token held back */
    char pend[4];         /* bytes of a character that isn't complete */
    unsigned n_pend;
    uint32_t left,
        held;  /* Strip on a stream: leading characters still to drop; trailing ones held back */
    bool used; /* Metaspace, BPE: a token has passed */
};
struct ps_detok {
    struct ps_tokenizer *t;
    bool show_special, any;
    struct ps_strbuf *out, sink;
    struct stage stage[PS_TOK_STAGES];
};

static void feed(struct ps_detok *d, size_t i, const char *s, size_t len);

/* Is a stage before i one that joins tokens into a stream? */
static bool fused(const struct ps_tokenizer *t, size_t i)
{
    while (i-- > 0)
        if (t->dec[i].kind == PS_DEC_FUSE || t->dec[i].kind == PS_DEC_BYTE_LEVEL)
            return true;
    return false;
}

int ps_tok_check_decoders(const struct ps_tokenizer *t, struct ps_err *err)
{
    static const char *const names[] = {"ByteLevel", "ByteFallback", "Fuse",      "Replace",
                                        "Strip",     "Metaspace",    "BPEDecoder"};
    for (size_t i = 0; i < t->n_dec; i++) {
        const struct ps_tok_dec *c = &t->dec[i];
        unsigned n = 0;
        bool one_char = c->pattern.literal &&
                        (ps_utf8_decode(c->pattern.literal, &n), n == c->pattern.literal_len);
        if (fused(t, i) && c->kind != PS_DEC_FUSE && c->kind != PS_DEC_STRIP &&
            !(c->kind == PS_DEC_REPLACE && one_char))
            return ps_err_set(err, PS_EUNSUPPORTED, "tokenizer",
                              "tokenizer.json: decoder %s after Fuse or ByteLevel is not "
                              "supported: Strip and Replace of "
                              "one character are",
                              names[c->kind]);
    }
    return 0;
}

/* Bytes that the start of a character announces, 0 if none can start so. */
static unsigned announced(unsigned char c)
{
    return c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
}

/* Takes one byte: complete characters go on, ill-formed bytes become U+FFFD, one for each
 * ill-formed piece (`each_byte`: one for each byte). A well-formed beginning stays in pend. */
static void take_byte(struct ps_detok *d, size_t i, unsigned char byte, bool each_byte)
{
    struct stage *g = &d->stage[i];
    g->pend[g->n_pend++] = (char)byte;
    while (g->n_pend) {
        bool valid;
        size_t n = ps_utf8_step(g->pend, g->n_pend, &valid);
        if (!valid && n == g->n_pend && announced((unsigned char)g->pend[0]) > n)
            return;
        if (valid)
            feed(d, i + 1, g->pend, n);
        for (size_t k = 0; !valid && k < (each_byte ? n : 1); k++)
            feed(d, i + 1, replacement, 3);
        g->n_pend -= (unsigned)n;
        memmove(g->pend, g->pend + n, g->n_pend);
    }
}

static void flush_pend(struct ps_detok *d, size_t i, bool each_byte)
{
    struct stage *g = &d->stage[i];
    unsigned n = g->n_pend ? each_byte ? g->n_pend : 1 : 0;
    g->n_pend = 0;
    for (unsigned k = 0; k < n; k++)
        feed(d, i + 1, replacement, 3);
}

/* <0x0A> */
static int byte_token(const char *s, size_t len)
{
    int v = 0;
    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    for (unsigned i = 3; i < 5; i++) {
        int c = s[i] | 32;
        if (!((s[i] >= '0' && s[i] <= '9') || (c >= 'a' && c <= 'f')))
            return -1;
        v = v * 16 + (s[i] <= '9' ? s[i] - '0' : c - 'a' + 10);
    }
    return v;
}

static void feed_fallback(struct ps_detok *d, size_t i, const char *s, size_t len)
{
    int byte = byte_token(s, len);
    if (byte >= 0) {
        take_byte(d, i, (unsigned char)byte, true);
        return;
    }
    flush_pend(d, i, true);
    feed(d, i + 1, s, len);
}

/* Characters of the byte-level alphabet to bytes; a token with any other character is taken as
 * it is. */
static void feed_byte_level(struct ps_detok *d, size_t i, const char *s, size_t len)
{
    bool mapped = true;
    unsigned n;
    for (size_t k = 0; k < len && mapped; k += n)
        mapped = ps_tok_char_byte(ps_utf8_decode(s + k, &n)) >= 0;
    for (size_t k = 0; k < len; k += n) {
        n = 1;
        int byte = mapped ? ps_tok_char_byte(ps_utf8_decode(s + k, &n)) : (unsigned char)s[k];
        take_byte(d, i, (unsigned char)byte, false);
    }
}

static void feed_replace(struct ps_detok *d, size_t i, const char *s, size_t len)
{
    const struct ps_tok_dec *c = &d->t->dec[i];
    struct ps_strbuf *b = &d->stage[i].buf;
    struct ps_tok_match_iter it;
    struct ps_regex_run run;
    size_t done = 0, start, end;
    ps_strbuf_reset(b);
    ps_regex_run_init(&run, 1000000);
    ps_tok_match_init(&it, &c->pattern, s, len);
    while (len && ps_tok_match_next(&it, &run, &start, &end) > 0) {
        ps_strbuf_append(b, s + done, start - done);
        ps_strbuf_append(b, c->text, c->text_len);
        done = end;
    }
    ps_regex_run_deinit(&run);
    ps_strbuf_append(b, s + done, len - done);
    if (!ps_strbuf_ok(b))
        d->out->failed = true;
    else
        feed(d, i + 1, b->data, b->len);
}

static void feed_metaspace(struct ps_detok *d, size_t i, const char *s, size_t len)
{
    const struct ps_tok_dec *c = &d->t->dec[i];
    struct ps_strbuf *b = &d->stage[i].buf;
    bool drop = !d->stage[i].used && c->prepend;
    ps_strbuf_reset(b);
    for (size_t k = 0; k < len;) {
        bool rep = len - k >= c->ch_len && !memcmp(s + k, c->ch, c->ch_len);
        if (!rep)
            ps_strbuf_append(b, s + k, 1);
        else if (!drop)
            ps_strbuf_append(b, " ", 1);
        k += rep ? c->ch_len : 1;
    }
    d->stage[i].used = true;
    if (!ps_strbuf_ok(b))
        d->out->failed = true;
    else
        feed(d, i + 1, b->data, b->len);
}

static bool is_ch(const struct ps_tok_dec *c, const char *s, size_t len)
{
    return len >= c->ch_len && !memcmp(s, c->ch, c->ch_len);
}

static void feed_strip_token(struct ps_detok *d, size_t i, const char *s, size_t len)
{
    const struct ps_tok_dec *c = &d->t->dec[i];
    for (uint32_t k = 0; k < c->start && is_ch(c, s, len); k++) {
        s += c->ch_len;
        len -= c->ch_len;
    }
    for (uint32_t k = 0;
         k < c->stop && len >= c->ch_len && is_ch(c, s + len - c->ch_len, c->ch_len); k++)
        len -= c->ch_len;
    feed(d, i + 1, s, len);
}

static void feed_held(struct ps_detok *d, size_t i, uint32_t n)
{
    for (; n; n--)
        feed(d, i + 1, d->t->dec[i].ch, d->t->dec[i].ch_len);
}

/* On a stream: the start is dropped once, and up to `stop` trailing characters wait until
 * something follows. */
static void feed_strip_stream(struct ps_detok *d, size_t i, const char *s, size_t len)
{
    const struct ps_tok_dec *c = &d->t->dec[i];
    struct stage *g = &d->stage[i];
    while (g->left && is_ch(c, s, len)) {
        s += c->ch_len;
        len -= c->ch_len;
        g->left--;
    }
    if (!len)
        return;
    g->left = 0;
    uint32_t tail = 0;
    while (tail < c->stop && len >= c->ch_len && is_ch(c, s + len - c->ch_len, c->ch_len)) {
        len -= c->ch_len;
        tail++;
    }
    uint32_t go = len ? g->held : g->held + tail > c->stop ? g->held + tail - c->stop : 0;
    g->held = g->held + tail - go;
    feed_held(d, i, go);
    if (len)
        feed(d, i + 1, s, len);
}

/* End-of-word suffixes become spaces, but not in the last token: so each token waits for the
 * next one. */
static void feed_bpe(struct ps_detok *d, size_t i, const char *s, size_t len, bool last)
{
    const struct ps_tok_dec *c = &d->t->dec[i];
    struct stage *g = &d->stage[i];
    const char *h = g->buf.data, *end = h + g->buf.len;
    while (g->used && h < end) {
        const char *at = c->text_len ? memmem(h, (size_t)(end - h), c->text, c->text_len) : NULL;
        feed(d, i + 1, h, (size_t)((at ? at : end) - h));
        if (at && !last)
            feed(d, i + 1, " ", 1);
        h = at ? at + c->text_len : end;
    }
    ps_strbuf_reset(&g->buf);
    ps_strbuf_append(&g->buf, s, len);
    d->out->failed |= !ps_strbuf_ok(&g->buf);
    g->used = !last;
}

static void feed(struct ps_detok *d, size_t i, const char *s, size_t len)
{
    if (i == d->t->n_dec) {
        ps_strbuf_append(d->out, s, len);
        return;
    }
    switch (d->t->dec[i].kind) {
    case PS_DEC_BYTE_LEVEL: feed_byte_level(d, i, s, len); break;
    case PS_DEC_BYTE_FALLBACK: feed_fallback(d, i, s, len); break;
    case PS_DEC_FUSE: feed(d, i + 1, s, len); break;
    case PS_DEC_REPLACE: feed_replace(d, i, s, len); break;
    case PS_DEC_METASPACE: feed_metaspace(d, i, s, len); break;
    case PS_DEC_BPE: feed_bpe(d, i, s, len, false); break;
    case PS_DEC_STRIP:
        if (fused(d->t, i))
            feed_strip_stream(d, i, s, len);
        else
            feed_strip_token(d, i, s, len);
        break;
    }
}

static void reset(struct ps_detok *d)
{
    d->any = false;
    for (size_t i = 0; i < d->t->n_dec; i++) {
        struct stage *g = &d->stage[i];
        ps_strbuf_reset(&g->buf);
        g->n_pend = g->held = 0;
        g->used = false;
        g->left = d->t->dec[i].start;
    }
}

int ps_detok_new(struct ps_detok **out, struct ps_tokenizer *t, bool show_special)
{
    struct ps_detok *d = ps_calloc(1, sizeof *d);
    if (!d)
        return PS_ENOMEM;
    d->t = t;
    d->show_special = show_special;
    ps_strbuf_init(&d->sink, TOKEN_TEXT_MAX);
    for (size_t i = 0; i < PS_TOK_STAGES; i++)
        ps_strbuf_init(&d->stage[i].buf, TOKEN_TEXT_MAX);
    reset(d);
    *out = d;
    return 0;
}

void ps_detok_free(struct ps_detok *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < PS_TOK_STAGES; i++)
        ps_strbuf_deinit(&d->stage[i].buf);
    ps_strbuf_deinit(&d->sink);
    ps_free(d);
}

int ps_detok_prime(struct ps_detok *d, const uint32_t *ids, size_t n)
{
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        rc = ps_detok_put(d, ids[i], &d->sink);
        ps_strbuf_reset(&d->sink);
    }
    return rc;
}

int ps_detok_put(struct ps_detok *d, uint32_t id, struct ps_strbuf *out)
{
    const struct ps_tok_added *a = ps_tok_added_get(&d->t->added, id);
    const char *s;
    size_t len;
    if (a && a->special && !d->show_special)
        return 0;
    if (a) {
        /* what a normalizer made of it is what the decoders undo; the names of special tokens
         * stay as they are */
        s = d->t->added.arena.data + (a->special ? a->off : a->norm_off);
        len = a->special ? a->len : a->norm_len;
    } else if (!ps_tok_vocab_get(&d->t->bpe.vocab, id, &s, &len)) {
        return 0;
    }
    d->out = out;
    if (!d->t->has_decoder && d->any)
        ps_strbuf_append(out, " ", 1);
    d->any = true;
    feed(d, 0, s, len);
    return ps_strbuf_ok(out) ? 0 : PS_ENOMEM;
}

int ps_detok_finish(struct ps_detok *d, bool cut, struct ps_strbuf *out)
{
    d->out = out;
    for (size_t i = 0; i < d->t->n_dec; i++) {
        if (cut)
            d->stage[i].n_pend = 0;
        switch (d->t->dec[i].kind) {
        case PS_DEC_BYTE_LEVEL: flush_pend(d, i, false); break;
        case PS_DEC_BYTE_FALLBACK: flush_pend(d, i, true); break;
        case PS_DEC_BPE: feed_bpe(d, i, "", 0, true); break;
        default: break;
        }
    }
    reset(d);
    return ps_strbuf_ok(out) ? 0 : PS_ENOMEM;
}
