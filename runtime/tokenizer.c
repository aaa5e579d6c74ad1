/* The tokenizer as the engine and the tools see it: opening, encoding a text, facts about ids.
 * The work is done in the tok_*.c files, in the order that tok_internal.h states. */
#include <string.h>
#include "base/alloc.h"
#include "base/utf8.h"
#include "runtime/tok_internal.h"

/* Steps that the patterns may take on one text, a few seconds at most; an ordinary text needs
 * some ten per byte. */
#define REGEX_STEPS_BASE     100000000u
#define REGEX_STEPS_PER_BYTE 400u

uint32_t ps_tok_find(const struct ps_tokenizer *t, const char *s, size_t len)
{
    for (size_t i = t->added.n; i-- > 0;) {
        const struct ps_tok_added *a = &t->added.v[i];
        if (a->len == len && !memcmp(t->added.arena.data + a->off, s, len))
            return a->id;
    }
    return ps_tok_vocab_find(&t->bpe.vocab, s, len);
}

static void count_ids(struct ps_tokenizer *t)
{
    t->vocab = t->bpe.vocab.n_ids;
    for (size_t i = 0; i < t->added.n; i++)
        if (t->added.v[i].id >= t->vocab)
            t->vocab = t->added.v[i].id + 1;
    for (size_t i = 0; i < t->n_before; i++)
        if (t->before[i] >= t->vocab)
            t->vocab = t->before[i] + 1;
    for (size_t i = 0; i < t->n_after; i++)
        if (t->after[i] >= t->vocab)
            t->vocab = t->after[i] + 1;
}

static void count_memory(struct ps_tokenizer *t)
{
    const struct ps_tok_bpe *m = &t->bpe;
    uint64_t n = sizeof *t + m->vocab.arena_cap + m->vocab.cap_ids * sizeof *m->vocab.text +
                 m->vocab.n_slots * 4ull + m->merges.n_slots * sizeof *m->merges.slots +
                 m->join_bits / 8;
    n += t->added.cap * sizeof *t->added.v + t->added.arena.cap + t->added.n * 12;
    for (size_t i = 0; i < t->n_norm; i++)
        n += t->norm[i].pattern.regex ? ps_regex_memory_bytes(t->norm[i].pattern.regex) : 0;
    for (size_t i = 0; i < t->n_pre; i++)
        n += t->pre[i].pattern.regex ? ps_regex_memory_bytes(t->pre[i].pattern.regex) : 0;
    for (size_t i = 0; i < t->n_dec; i++)
        n += t->dec[i].pattern.regex ? ps_regex_memory_bytes(t->dec[i].pattern.regex) : 0;
    t->memory_bytes = n;
}

int ps_tokenizer_open(struct ps_tokenizer **out, const struct ps_tokenizer_files *files,
                      struct ps_err *err)
{
    if (files->tokenizer_json && !files->tokenizer_json_len)
        return ps_err_set(err, PS_EDATA, "tokenizer",
                          "tokenizer.json: it is empty: fetch the model again");
    if (!files->tokenizer_json)
        return ps_err_set(
            err, PS_EUNSUPPORTED,
            "tokenizer", "no tokenizer.json: other tokenizer files are not supported: convert them with transformers");
    struct ps_tokenizer *t = ps_calloc(1, sizeof *t);
    if (!t)
        return ps_err_set(err, PS_ENOMEM, "tokenizer",
                          "tokenizer.json: not enough memory: give more with --ram");
    t->bos = -1;
    int rc = ps_tok_load(t, files->tokenizer_json, files->tokenizer_json_len, err);
    if (!rc)
        rc = ps_tok_check_decoders(t, err);
    if (!rc)
        rc = ps_tok_config_files(t, files, err);
    if (rc) {
        ps_tokenizer_close(t);
        return rc;
    }
    count_ids(t);
    count_memory(t);
    *out = t;
    return 0;
}

void ps_tokenizer_close(struct ps_tokenizer *t)
{
    if (!t)
        return;
    ps_tok_bpe_deinit(&t->bpe);
    ps_tok_added_deinit(&t->added);
    for (size_t i = 0; i < PS_TOK_STAGES; i++) {
        ps_tok_pattern_deinit(&t->norm[i].pattern);
        ps_tok_pattern_deinit(&t->pre[i].pattern);
        ps_tok_pattern_deinit(&t->dec[i].pattern);
        ps_free(t->norm[i].text);
        ps_free(t->dec[i].text);
    }
    ps_free(t->before);
    ps_free(t->after);
    ps_free(t->eos);
    ps_free(t);
}

/* ---- encoding ---- */

static void work_init(struct ps_tok_work *w, size_t len)
{
    memset(w, 0, sizeof *w);
    ps_strbuf_init(&w->text, PS_TOK_TEXT_MAX);
    ps_strbuf_init(&w->next_text, PS_TOK_TEXT_MAX);
    ps_strbuf_init(&w->tmp, PS_TOK_TEXT_MAX);
    ps_regex_run_init(&w->run, REGEX_STEPS_BASE + (uint64_t)REGEX_STEPS_PER_BYTE * len);
    ps_tok_bpe_work_init(&w->bpe);
}

static void work_deinit(struct ps_tok_work *w)
{
    ps_strbuf_deinit(&w->text);
    ps_strbuf_deinit(&w->next_text);
    ps_strbuf_deinit(&w->tmp);
    ps_free(w->pieces.v);
    ps_free(w->next.v);
    ps_regex_run_deinit(&w->run);
    ps_tok_bpe_work_deinit(&w->bpe);
}

/* The byte-level mapping need not be written out when nothing after it looks at the text. */
static bool lazy_bytes(const struct ps_tokenizer *t)
{
    return t->n_pre && t->pre[t->n_pre - 1].kind == PS_PRE_BYTE_LEVEL && !t->bpe.prefix &&
           !t->bpe.suffix;
}

static bool maps_bytes(const struct ps_tokenizer *t)
{
    for (size_t i = 0; i < t->n_norm; i++)
        if (t->norm[i].kind == PS_NORM_BYTE_LEVEL)
            return true;
    for (size_t i = 0; i < t->n_pre; i++)
        if (t->pre[i].kind == PS_PRE_BYTE_LEVEL)
            return true;
    return false;
}

/* Whether bytes that are no text can be carried through the stages to tokens of their own. A text that holds the
 * characters that would carry them can't be told from such bytes. */
static bool keeps_bytes(const struct ps_tokenizer *t, const char *s, size_t n)
{
    const bool can = lazy_bytes(t) || (!maps_bytes(t) && t->bpe.byte_fallback);
    return can && !memmem(s, n, "\xf4\x8f\xba", 3) && !memmem(s, n, "\xf4\x8f\xbb", 3);
}

/* Vocabularies made from well-formed text alone lack the bytes that never stand in one (0xc0, 0xff). */
static bool has_tokens(const struct ps_tokenizer *t, const char *s, size_t n)
{
    const uint32_t *ids = lazy_bytes(t) ? t->bpe.byte_char_id : t->bpe.byte_token_id;
    for (size_t i = 0; i < n; i++)
        if (ids[(unsigned char)s[i]] == PS_TOK_NONE)
            return false;
    return true;
}

/* Makes the text well-formed for the stages. Bytes of an ill-formed piece become private characters that
 * ps_tok_carried_byte knows (*carried is set), or U+FFFD for the piece where they have no tokens; `text` stays itself
 * when all is well. */
static int repair(const struct ps_tokenizer *t, const char **text, size_t *len, struct ps_strbuf *b,
                  bool *carried, struct ps_err *err)
{
    const char *s = *text;
    size_t n = *len, good = ps_utf8_check(s, n);
    if (good == n)
        return 0;
    *carried = keeps_bytes(t, s, n);
    ps_strbuf_append(b, s, good);
    for (size_t i = good; i < n;) {
        bool valid;
        char c[4];
        size_t k = ps_utf8_step(s + i, n - i, &valid);
        const bool keeps = !valid && *carried && has_tokens(t, s + i, k);
        if (valid)
            ps_strbuf_append(b, s + i, k);
        else if (!keeps)
            ps_strbuf_append(b, "\xef\xbf\xbd", 3);
        for (size_t j = 0; j < k && keeps; j++)
            ps_strbuf_append(b, c, ps_utf8_encode(PS_TOK_CARRIED + (unsigned char)s[i + j], c));
        i += k;
    }
    *text = b->data;
    *len = b->len;
    return ps_tok_text_failed(b, err);
}

/* Normalizes one part of the raw text behind what w->text holds and cuts it at the added tokens
 * of normalized text. */
static int take_part(const struct ps_tokenizer *t, struct ps_tok_work *w, const char *s,
                     const struct ps_tok_piece *part, bool special, struct ps_err *err)
{
    bool at_zero = part->at_zero;
    const char *from = s + part->off;
    size_t len = part->len;
    if (t->n_norm) {
        int rc = ps_tok_normalize(t->norm, t->n_norm, from, len, &w->next_text, &w->tmp, &w->run,
                                  &at_zero, err);
        if (rc)
            return rc;
        from = w->next_text.data;
        len = w->next_text.len;
    }
    size_t off = w->text.len;
    ps_strbuf_append(&w->text, from, len);
    int rc = ps_tok_text_failed(&w->text, err);
    if (rc || !len)
        return rc;
    return ps_tok_added_split(&t->added, true, special, w->text.data + off, (uint32_t)off,
                              (uint32_t)len, at_zero, &w->pieces, err);
}

/* Raw text to w->pieces over w->text: added tokens and normalized text between them. */
static int extract(const struct ps_tokenizer *t, struct ps_tok_work *w, const char *s, size_t len,
                   bool special, struct ps_err *err)
{
    struct ps_tok_pieces raw = {0};
    int rc = ps_tok_added_split(&t->added, false, special, s, 0, (uint32_t)len, true, &raw, err);
    for (size_t i = 0; i < raw.n && !rc; i++)
        rc = raw.v[i].id == PS_TOK_NONE ? take_part(t, w, s, &raw.v[i], special, err)
                                        : ps_tok_pieces_push(&w->pieces, raw.v[i]);
    ps_free(raw.v);
    return rc;
}

/* Puts carried bytes back in place, where only bytes are looked at from here on. Never longer. */
static void put_bytes_back(char *text, struct ps_tok_piece *p)
{
    char *s = text + p->off;
    size_t to = 0;
    for (size_t i = 0; i < p->len;) {
        unsigned n;
        const int byte = ps_tok_carried_byte(ps_utf8_decode(s + i, &n));
        if (byte >= 0)
            s[to] = (char)byte;
        else
            memmove(s + to, s + i, n);
        to += byte >= 0 ? 1 : n;
        i += n;
    }
    p->len = (uint32_t)to;
}

static int encode(const struct ps_tokenizer *t, struct ps_tok_work *w, struct ps_tok_ids *ids,
                  struct ps_err *err)
{
    const bool lazy = lazy_bytes(t);
    int rc = 0;
    for (size_t i = 0; i < t->n_pre && !rc; i++)
        rc = ps_tok_pretokenize(&t->pre[i], w, lazy && i + 1 == t->n_pre, err);
    for (size_t i = 0; i < w->pieces.n && !rc; i++) {
        struct ps_tok_piece *p = &w->pieces.v[i];
        if (w->bpe.carried && lazy && p->id == PS_TOK_NONE)
            put_bytes_back(w->text.data, p);
        if (p->id != PS_TOK_NONE)
            rc = ps_tok_ids_push(ids, p->id);
        else if (p->len)
            rc = ps_tok_bpe_encode(&t->bpe, &w->bpe, w->text.data + p->off, p->len, lazy, ids, err);
    }
    return rc;
}

static int push_all(struct ps_tok_ids *ids, const uint32_t *v, size_t n)
{
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++)
        rc = ps_tok_ids_push(ids, v[i]);
    return rc;
}

int ps_tokenize(struct ps_tokenizer *t, const char *text, size_t len, unsigned flags,
                uint32_t **ids, size_t *n, struct ps_err *err)
{
    struct ps_tok_work w;
    struct ps_tok_ids out = {0};
    struct ps_strbuf fixed;
    bool add = flags & PS_TOK_ADD_SPECIAL;
    if (len > PS_TOK_TEXT_MAX / 2)
        return ps_err_set(err, PS_EUSAGE, "tokenizer",
                          "text of %zu bytes: at most 512 MiB can be tokenized at once", len);
    work_init(&w, len);
    ps_strbuf_init(&fixed, PS_TOK_TEXT_MAX);
    int rc = repair(t, &text, &len, &fixed, &w.bpe.carried, err);
    if (!rc && add)
        rc = push_all(&out, t->before, t->n_before);
    if (!rc)
        rc = extract(t, &w, text, len, flags & PS_TOK_PARSE_SPECIAL, err);
    if (!rc)
        rc = encode(t, &w, &out, err);
    if (!rc && add)
        rc = push_all(&out, t->after, t->n_after);
    if (!rc && *ids) {
        uint32_t *joined = ps_realloc_array(*ids, *n + out.n, sizeof **ids);
        if (joined && out.n)
            memcpy(joined + *n, out.v, out.n * sizeof **ids);
        *ids = joined ? joined : *ids;
        *n += joined ? out.n : 0;
        rc = joined ? 0 : PS_ENOMEM;
    } else if (!rc) {
        *ids = out.v;
        *n = out.n;
        out.v = NULL;
    }
    if (rc == PS_ENOMEM)
        ps_err_set(err, rc, "tokenizer",
                   "text of %zu bytes: not enough memory to tokenize it: use a shorter one", len);
    ps_free(out.v);
    ps_strbuf_deinit(&fixed);
    work_deinit(&w);
    return rc;
}

/* ---- facts ---- */

uint32_t ps_tokenizer_vocab(const struct ps_tokenizer *t)
{
    return t->vocab;
}

bool ps_tokenizer_is_special(const struct ps_tokenizer *t, uint32_t id)
{
    const struct ps_tok_added *a = ps_tok_added_get(&t->added, id);
    return a && a->special;
}

bool ps_tokenizer_is_eos(const struct ps_tokenizer *t, uint32_t id)
{
    for (size_t i = 0; i < t->n_eos; i++)
        if (t->eos[i] == id)
            return true;
    return false;
}

int64_t ps_tokenizer_bos(const struct ps_tokenizer *t)
{
    return t->bos;
}

bool ps_tokenizer_piece(const struct ps_tokenizer *t, uint32_t id, const char **s, size_t *len)
{
    const struct ps_tok_added *a = ps_tok_added_get(&t->added, id);
    if (!a)
        return ps_tok_vocab_get(&t->bpe.vocab, id, s, len);
    *s = t->added.arena.data + a->off;
    *len = a->len;
    return true;
}

uint64_t ps_tokenizer_memory_bytes(const struct ps_tokenizer *t)
{
    return t->memory_bytes;
}
