/* Byte-pair encoding of one piece of text: characters to initial symbols, then merges in order
 * of rank, leftmost first.
 *
 * Method: Sennrich et al. 2016 with the queue of the `tokenizers` library (a heap of candidate
 * merges, stale entries skipped), so a megabyte without a space costs O(n log n). Short words
 * take a plain scan, which gives the same result: an entry is stale exactly when its pair has
 * changed, because a merged text only grows. */
#include <string.h>
#include "base/alloc.h"
#include "runtime/tok_internal.h"

#define SCAN_MAX    28u   /* symbols up to which the scan beats the heap */
#define CACHE_WORDS 4096u /* words of this text that are looked up instead of merged again */
#define CACHE_LEN   48u   /* bytes of the longest of them */

unsigned ps_tok_byte_char(uint8_t byte, char out[2])
{
    uint32_t c = byte;
    if (byte <= 32)
        c = 256u + byte;
    else if (byte >= 127 && byte <= 160)
        c = 256u + 33 + byte - 127;
    else if (byte == 173)
        c = 256 + 67;
    char utf8[4];
    unsigned n = ps_utf8_encode(c, utf8);
    memcpy(out, utf8, n);
    return n;
}

int ps_tok_char_byte(uint32_t c)
{
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 255 && c != 173))
        return (int)c;
    if (c >= 256 && c <= 256 + 32)
        return (int)c - 256;
    if (c > 256 + 32 && c <= 256 + 66)
        return (int)c - 256 - 33 + 127;
    return c == 256 + 67 ? 173 : -1;
}

int ps_tok_ids_push(struct ps_tok_ids *ids, uint32_t id)
{
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        void *v = ps_realloc_array(ids->v, cap, sizeof *ids->v);
        if (!v)
            return PS_ENOMEM;
        ids->v = v;
        ids->cap = cap;
    }
    ids->v[ids->n++] = id;
    return 0;
}

void ps_tok_bpe_deinit(struct ps_tok_bpe *m)
{
    ps_tok_vocab_deinit(&m->vocab);
    ps_tok_merges_deinit(&m->merges);
    ps_free(m->unk_token);
    ps_free(m->prefix);
    ps_free(m->suffix);
    ps_free(m->joins);
    memset(m, 0, sizeof *m);
}

/* ---- which neighbouring initial symbols some merge can join ---- */

static uint32_t join_bit(const struct ps_tok_bpe *m, uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(h >> 40 ^ h >> 15) & (m->join_bits - 1);
}

static bool joins(const struct ps_tok_bpe *m, uint32_t left, uint32_t right)
{
    if (!m->joins)
        return true;
    uint32_t b = join_bit(m, left, right);
    return m->joins[b >> 6] >> (b & 63) & 1;
}

static uint32_t char_id(const struct ps_tok_bpe *m, const char *s, size_t len)
{
    return len == 1 && (unsigned char)*s < 128 ? m->ascii_id[(unsigned char)*s]
                                               : ps_tok_vocab_find(&m->vocab, s, len);
}

/* The initial symbols that can stand at the end (last) or the beginning of token id: itself, and
 * its outermost character. */
static void edge_symbols(const struct ps_tok_bpe *m, uint32_t id, bool last, uint32_t out[2])
{
    const char *s;
    size_t len;
    out[0] = id;
    out[1] = PS_TOK_NONE;
    if (!ps_tok_vocab_get(&m->vocab, id, &s, &len) || !len)
        return;
    size_t from = last ? len : 0;
    unsigned n;
    if (last) {
        do
            from--;
        while (from > 0 && ((unsigned char)s[from] & 0xc0) == 0x80);
    }
    ps_utf8_decode(s + from, &n);
    out[1] = char_id(m, s + from, n);
}

static int build_joins(struct ps_tok_bpe *m)
{
    m->join_bits = 1u << 16;
    while (m->join_bits < (1u << 22) && m->join_bits / 16 < m->merges.n)
        m->join_bits *= 2;
    m->joins = ps_calloc(m->join_bits / 64, 8);
    if (!m->joins)
        return PS_ENOMEM;
    for (uint32_t i = 0; i < m->merges.n_slots; i++) {
        const struct ps_tok_merge *g = &m->merges.slots[i];
        uint32_t l[2], r[2];
        if (g->left == PS_TOK_NONE)
            continue;
        edge_symbols(m, g->left, true, l);
        edge_symbols(m, g->right, false, r);
        for (unsigned k = 0; k < 4; k++) {
            uint32_t b = join_bit(m, l[k & 1], r[k >> 1]);
            m->joins[b >> 6] |= 1ull << (b & 63);
        }
    }
    return 0;
}

int ps_tok_bpe_prepare(struct ps_tok_bpe *m, bool long_pieces, struct ps_err *err)
{
    static const char hex[] = "0123456789ABCDEF";
    char s[8] = "<0x00>";
    for (unsigned i = 0; i < 128; i++) {
        s[6] = (char)i;
        m->ascii_id[i] = ps_tok_vocab_find(&m->vocab, s + 6, 1);
    }
    m->byte_all = true;
    for (unsigned i = 0; i < 256; i++) {
        char mapped[2];
        unsigned n = ps_tok_byte_char((uint8_t)i, mapped);
        m->byte_char_id[i] = ps_tok_vocab_find(&m->vocab, mapped, n);
        s[3] = hex[i >> 4];
        s[4] = hex[i & 15];
        m->byte_token_id[i] = ps_tok_vocab_find(&m->vocab, s, 6);
    }
    m->unk_id = m->unk_token ? ps_tok_vocab_find(&m->vocab, m->unk_token, strlen(m->unk_token))
                             : PS_TOK_NONE;
    m->unk_missing = m->unk_token && m->unk_id == PS_TOK_NONE;
    if (long_pieces && !m->prefix && !m->suffix && build_joins(m))
        return ps_err_set(err, PS_ENOMEM, "tokenizer",
                          "tokenizer.json: not enough memory: give more with --ram");
    return 0;
}

/* ---- work space ---- */

void ps_tok_bpe_work_init(struct ps_tok_bpe_work *w)
{
    memset(w, 0, sizeof *w);
    ps_strbuf_init(&w->mapped, PS_TOK_TEXT_MAX);
}

void ps_tok_bpe_work_deinit(struct ps_tok_bpe_work *w)
{
    ps_free(w->sym);
    ps_free(w->heap);
    ps_free(w->cache);
    ps_strbuf_deinit(&w->mapped);
    memset(w, 0, sizeof *w);
}

static int add_symbol(struct ps_tok_bpe_work *w, uint32_t id)
{
    if (w->n_sym == w->cap_sym) {
        size_t cap = w->cap_sym ? w->cap_sym * 2 : 256;
        void *m = cap > PS_TOK_TEXT_MAX ? NULL : ps_realloc_array(w->sym, cap, sizeof *w->sym);
        if (!m)
            return PS_ENOMEM;
        w->sym = m;
        w->cap_sym = cap;
    }
    w->sym[w->n_sym++].id = id;
    return 0;
}

/* ---- merging ---- */

static uint32_t find_rank(const struct ps_tok_bpe *m, uint32_t left, uint32_t right, uint32_t *merged)
{
    const struct ps_tok_merge *g = ps_tok_merges_find(&m->merges, left, right);
    if (!g)
        return PS_TOK_NONE;
    *merged = g->id;
    return g->rank;
}

/* sym[0..n), n small: the lowest rank first, by scanning. Ends compacted; returns how many are
 * left. */
static size_t merge_scan(const struct ps_tok_bpe *m, struct ps_tok_symbol *sym, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++)
        sym[i].rank = find_rank(m, sym[i].id, sym[i + 1].id, &sym[i].merged);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (sym[i].rank < sym[best].rank)
                best = i;
        if (sym[best].rank == PS_TOK_NONE)
            break;
        sym[best].id = sym[best].merged;
        memmove(sym + best + 1, sym + best + 2, (n - best - 2) * sizeof *sym);
        n--;
        if (best + 1 < n)
            sym[best].rank = find_rank(m, sym[best].id, sym[best + 1].id, &sym[best].merged);
        if (best > 0)
            sym[best - 1].rank = find_rank(m, sym[best - 1].id, sym[best].id, &sym[best - 1].merged);
    }
    return n;
}

static int heap_push(struct ps_tok_bpe_work *w, uint32_t rank, size_t pos)
{
    if (rank == PS_TOK_NONE)
        return 0;
    if (w->n_heap == w->cap_heap) {
        size_t cap = w->cap_heap ? w->cap_heap * 2 : 256;
        void *h = ps_realloc_array(w->heap, cap, sizeof *w->heap);
        if (!h)
            return PS_ENOMEM;
        w->heap = h;
        w->cap_heap = cap;
    }
    uint64_t v = (uint64_t)rank << 32 | pos;
    size_t i = w->n_heap++;
    for (; i > 0 && w->heap[(i - 1) / 4] > v; i = (i - 1) / 4)
        w->heap[i] = w->heap[(i - 1) / 4];
    w->heap[i] = v;
    return 0;
}

static uint64_t heap_pop(struct ps_tok_bpe_work *w)
{
    uint64_t top = w->heap[0], v = w->heap[--w->n_heap];
    size_t i = 0, n = w->n_heap;
    for (;;) {
        size_t c = 4 * i + 1, end = c + 4 < n ? c + 4 : n;
        if (c >= n)
            break;
        for (size_t k = c + 1; k < end; k++)
            if (w->heap[k] < w->heap[c])
                c = k;
        if (w->heap[c] >= v)
            break;
        w->heap[i] = w->heap[c];
        i = c;
    }
    w->heap[i] = v;
    return top;
}

static int heap_link(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w,
                     struct ps_tok_symbol *sym, size_t i)
{
    uint32_t next = sym[i].next;
    sym[i].rank =
        next == PS_TOK_NONE ? PS_TOK_NONE : find_rank(m, sym[i].id, sym[next].id, &sym[i].merged);
    return heap_push(w, sym[i].rank, i);
}

/* As merge_scan, for any n: PS_ENOMEM or 0 and *n. */
static int merge_heap(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w,
                      struct ps_tok_symbol *sym, size_t *n)
{
    w->n_heap = 0;
    for (size_t i = 0; i < *n; i++) {
        sym[i].prev = i ? (uint32_t)i - 1 : PS_TOK_NONE;
        sym[i].next = i + 1 < *n ? (uint32_t)i + 1 : PS_TOK_NONE;
        sym[i].rank = PS_TOK_NONE;
    }
    for (size_t i = 0; i < *n; i++)
        if (heap_link(m, w, sym, i))
            return PS_ENOMEM;
    while (w->n_heap) {
        uint64_t top = heap_pop(w);
        uint32_t i = (uint32_t)top;
        if (sym[i].rank != top >> 32)
            continue; /* its pair has changed, or it was swallowed */
        uint32_t gone = sym[i].next;
        sym[i].id = sym[i].merged;
        sym[i].next = sym[gone].next;
        sym[gone].rank = PS_TOK_NONE;
        sym[gone].id = PS_TOK_NONE;
        if (sym[i].next != PS_TOK_NONE)
            sym[sym[i].next].prev = i;
        if (heap_link(m, w, sym, i) ||
            (sym[i].prev != PS_TOK_NONE && heap_link(m, w, sym, sym[i].prev)))
            return PS_ENOMEM;
    }
    size_t left = 0;
    for (uint32_t i = 0; *n && i != PS_TOK_NONE; i = sym[i].next)
        sym[left++].id = sym[i].id;
    *n = left;
    return 0;
}

/* Merges what w->sym holds, cut where no merge reaches across, and appends the ids. */
static int merge_all(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w, struct ps_tok_ids *ids)
{
    for (size_t from = 0, to; from < w->n_sym; from = to) {
        for (to = from + 1; to < w->n_sym && joins(m, w->sym[to - 1].id, w->sym[to].id); to++)
            ;
        size_t n = to - from;
        struct ps_tok_symbol *sym = w->sym + from;
        if (n <= SCAN_MAX)
            n = merge_scan(m, sym, n);
        else if (merge_heap(m, w, sym, &n))
            return PS_ENOMEM;
        for (size_t i = 0; i < n; i++)
            if (ps_tok_ids_push(ids, sym[i].id))
                return PS_ENOMEM;
    }
    return 0;
}

/* ---- initial symbols ---- */

struct unk {
    bool pending;
};

/* A character that is no token: its bytes as byte tokens, else the unknown token, else nothing. */
static int add_unknown(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w, struct unk *u,
                       const char *s, size_t len, struct ps_err *err)
{
    bool bytes = m->byte_fallback;
    for (size_t i = 0; i < len && bytes; i++)
        bytes = m->byte_token_id[(unsigned char)s[i]] != PS_TOK_NONE;
    if (bytes) {
        /* an unknown token that is still pending comes after these: the library does the same */
        for (size_t i = 0; i < len; i++)
            if (add_symbol(w, m->byte_token_id[(unsigned char)s[i]]))
                return PS_ENOMEM;
        return 0;
    }
    if (m->unk_missing)
        return ps_err_set(err, PS_EDATA, "tokenizer",
                          "tokenizer.json: the unknown token '%s' is not in the vocabulary",
                          m->unk_token);
    if (m->unk_id == PS_TOK_NONE)
        return 0;
    if (u->pending && !m->fuse_unk && add_symbol(w, m->unk_id))
        return PS_ENOMEM;
    u->pending = true;
    return 0;
}

static int add_char(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w, struct unk *u,
                    const char *s, size_t len, uint32_t id, struct ps_err *err)
{
    if (id == PS_TOK_NONE)
        return add_unknown(m, w, u, s, len, err);
    if (u->pending && add_symbol(w, m->unk_id))
        return PS_ENOMEM;
    u->pending = false;
    return add_symbol(w, id);
}

/* With a prefix for all characters but the first, or a suffix for the last. */
static int add_affixed(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w, struct unk *u,
                       const char *s, size_t len, bool first, bool last, struct ps_err *err)
{
    struct ps_strbuf *b = &w->mapped;
    ps_strbuf_reset(b);
    if (!first && m->prefix)
        ps_strbuf_puts(b, m->prefix);
    ps_strbuf_append(b, s, len);
    if (last && m->suffix)
        ps_strbuf_puts(b, m->suffix);
    if (!ps_strbuf_ok(b))
        return PS_ENOMEM;
    return add_char(m, w, u, b->data, b->len, ps_tok_vocab_find(&m->vocab, b->data, b->len), err);
}

static int add_symbols(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w, const char *s,
                       size_t len, bool raw_bytes, struct ps_err *err)
{
    struct unk u = {false};
    int rc = 0;
    w->n_sym = 0;
    for (size_t i = 0; i < len && !rc;) {
        char mapped[2];
        unsigned n = 1;
        const char *c = s + i;
        if (raw_bytes) {
            uint32_t id = m->byte_char_id[(unsigned char)*c];
            unsigned k = id == PS_TOK_NONE ? ps_tok_byte_char((uint8_t)*c, mapped) : 0;
            rc = add_char(m, w, &u, mapped, k, id, err);
        } else {
            const int byte = ps_tok_carried_byte(ps_utf8_decode(c, &n));
            if (w->carried && byte >= 0)
                rc = add_char(m, w, &u, c, n, m->byte_token_id[byte], err);
            else if (m->prefix || m->suffix)
                rc = add_affixed(m, w, &u, c, n, i == 0, i + n == len, err);
            else
                rc = add_char(m, w, &u, c, n, char_id(m, c, n), err);
        }
        i += n;
    }
    if (!rc && u.pending)
        rc = add_symbol(w, m->unk_id);
    return rc;
}

/* The whole piece as one token, for ignore_merges. */
static uint32_t find_whole(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w, const char *s,
                           size_t len, bool raw_bytes)
{
    char small[2 * CACHE_LEN];
    if (!raw_bytes)
        return ps_tok_vocab_find(&m->vocab, s, len);
    if (len <= CACHE_LEN) {
        size_t n = 0;
        for (size_t i = 0; i < len; i++)
            n += ps_tok_byte_char((uint8_t)s[i], small + n);
        return ps_tok_vocab_find(&m->vocab, small, n);
    }
    ps_strbuf_reset(&w->mapped);
    for (size_t i = 0; i < len; i++)
        ps_strbuf_append(&w->mapped, small, ps_tok_byte_char((uint8_t)s[i], small));
    return ps_tok_vocab_find(&m->vocab, w->mapped.data, w->mapped.len);
}

/* Where a word of this text would be remembered. */
static struct ps_tok_word *cache_slot(const struct ps_tok_bpe_work *w, const char *s, size_t len)
{
    uint64_t h = len;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3ull;
    return &w->cache[(h ^ h >> 32) & (CACHE_WORDS - 1)];
}

int ps_tok_bpe_encode(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w, const char *s,
                      size_t len, bool raw_bytes, struct ps_tok_ids *ids, struct ps_err *err)
{
    int rc;
    if (!w->cache)
        w->cache = ps_calloc(CACHE_WORDS, sizeof *w->cache);
    if (!w->cache) {
        rc = PS_ENOMEM;
        goto out;
    }
    struct ps_tok_word *word = len <= CACHE_LEN ? cache_slot(w, s, len) : NULL;
    if (word && word->len == len && word->s && !memcmp(word->s, s, len)) {
        for (size_t i = 0; i < word->n; i++) {
            rc = ps_tok_ids_push(ids, ids->v[word->at + i]);
            if (rc)
                goto out;
        }
        return 0;
    }
    size_t at = ids->n;
    uint32_t whole = m->ignore_merges ? find_whole(m, w, s, len, raw_bytes) : PS_TOK_NONE;
    if (whole != PS_TOK_NONE) {
        rc = ps_tok_ids_push(ids, whole);
    } else {
        rc = add_symbols(m, w, s, len, raw_bytes, err);
        if (!rc)
            rc = merge_all(m, w, ids);
    }
    if (!rc && word)
        *word =
            (struct ps_tok_word){.s = s, .len = (uint32_t)len, .n = (uint32_t)(ids->n - at), .at = at};
out:
    if (rc == PS_ENOMEM)
        ps_err_set(err, rc, "tokenizer", "text of %zu bytes: not enough memory to tokenize it", len);
    return rc;
}
