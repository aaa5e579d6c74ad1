/* Vocabulary and merge table of a BPE model: texts in one arena, two open-addressing tables.
 * Filled once while tokenizer.json is read, constant afterwards. */
#include <string.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "runtime/tok_internal.h"

#define ID_BITS                                                                                    \
    22u /* PS_TOK_VOCAB_MAX is below 1 << 22, so that no slot value equals PS_TOK_NONE */

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    return h ^ h >> 32;
}

static uint64_t hash_text(uint64_t seed, const char *s, size_t len)
{
    uint64_t h = seed ^ len * 0x9e3779b97f4a7c15ull, w;
    for (; len >= 8; s += 8, len -= 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdull;
        h ^= h >> 29;
    }
    w = 0;
    memcpy(&w, s, len);
    return mix(h ^ w);
}

/* Hash to slot without a division; any table size. */
static uint32_t slot_of(uint64_t h, uint32_t n_slots)
{
    return (uint32_t)((h >> 32) * n_slots >> 32);
}

/* A slot holds the id and, above its 22 bits, as much of the hash: a probe that isn't the one
 * rarely reads the text. */
static uint32_t slot_value(uint64_t h, uint32_t id)
{
    return id | (uint32_t)h << ID_BITS;
}

static uint64_t new_seed(const void *p)
{
    return mix(ps_now_ns() ^ (uintptr_t)p);
}

void ps_tok_vocab_deinit(struct ps_tok_vocab *v)
{
    ps_free(v->arena);
    ps_free(v->text);
    ps_free(v->slots);
    memset(v, 0, sizeof *v);
}

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, "tokenizer",
                      "tokenizer.json: not enough memory: give more with --ram");
}

static int vocab_rehash(struct ps_tok_vocab *v, struct ps_err *err)
{
    uint32_t n = v->n_slots ? v->n_slots + v->n_slots / 2 : 1024;
    uint32_t *slots = ps_realloc_array(NULL, n, sizeof *slots);
    if (!slots)
        return no_memory(err);
    memset(slots, 0xff, (size_t)n * sizeof *slots);
    if (!v->seed)
        v->seed = new_seed(v);
    for (uint32_t id = 0; id < v->n_ids; id++) {
        const char *s;
        size_t len;
        if (!ps_tok_vocab_get(v, id, &s, &len))
            continue;
        uint64_t h = hash_text(v->seed, s, len);
        uint32_t i = slot_of(h, n);
        while (slots[i] != PS_TOK_NONE)
            i = i + 1 == n ? 0 : i + 1;
        slots[i] = slot_value(h, id);
    }
    ps_free(v->slots);
    v->slots = slots;
    v->n_slots = n;
    return 0;
}

static int vocab_reserve(struct ps_tok_vocab *v, uint32_t id, size_t len, struct ps_err *err)
{
    if (v->arena_len + len > v->arena_cap) {
        size_t cap = v->arena_cap ? v->arena_cap : 4096;
        while (cap < v->arena_len + len)
            cap += cap / 2;
        char *a = ps_realloc(v->arena, cap);
        if (!a)
            return no_memory(err);
        v->arena = a;
        v->arena_cap = cap;
    }
    if (id >= v->cap_ids) {
        uint32_t cap = v->cap_ids ? v->cap_ids : 1024;
        while (cap <= id)
            cap += cap / 2;
        void *t = ps_realloc_array(v->text, cap, sizeof *v->text);
        if (!t)
            return no_memory(err);
        v->text = t;
        v->cap_ids = cap;
    }
    if ((uint64_t)v->n_tokens * 10 >= (uint64_t)v->n_slots * 7)
        return vocab_rehash(v, err);
    return 0;
}

int ps_tok_vocab_add(struct ps_tok_vocab *v, const char *s, size_t len, uint32_t id,
                     struct ps_err *err)
{
    if (id >= PS_TOK_VOCAB_MAX || v->n_tokens >= PS_TOK_VOCAB_MAX)
        return ps_err_set(err, PS_EDATA, "tokenizer",
                          "tokenizer.json: token id %u: more than the %u supported", id,
                          PS_TOK_VOCAB_MAX);
    if (len > PS_TOK_ARENA_MAX || v->arena_len > PS_TOK_ARENA_MAX - len)
        return ps_err_set(err, PS_EDATA, "tokenizer",
                          "tokenizer.json: vocabulary: more than 1 GiB of text");
    if (id < v->n_ids && v->text[id].len != PS_TOK_NONE)
        return ps_err_set(err, PS_EDATA, "tokenizer",
                          "tokenizer.json: vocabulary: id %u is given twice", id);
    if (ps_tok_vocab_find(v, s, len) != PS_TOK_NONE)
        return ps_err_set(err, PS_EDATA, "tokenizer",
                          "tokenizer.json: vocabulary: a token is given twice");
    int rc = vocab_reserve(v, id, len, err);
    if (rc)
        return rc;
    memcpy(v->arena + v->arena_len, s, len);
    while (v->n_ids <= id)
        v->text[v->n_ids++] = (struct ps_tok_text){.len = PS_TOK_NONE};
    v->text[id] = (struct ps_tok_text){.off = (uint32_t)v->arena_len, .len = (uint32_t)len};
    v->arena_len += len;
    v->n_tokens++;
    uint64_t h = hash_text(v->seed, s, len);
    uint32_t i = slot_of(h, v->n_slots);
    while (v->slots[i] != PS_TOK_NONE)
        i = i + 1 == v->n_slots ? 0 : i + 1;
    v->slots[i] = slot_value(h, id);
    return 0;
}

uint32_t ps_tok_vocab_find(const struct ps_tok_vocab *v, const char *s, size_t len)
{
    if (!v->n_slots)
        return PS_TOK_NONE;
    const uint64_t h = hash_text(v->seed, s, len);
    for (uint32_t i = slot_of(h, v->n_slots);; i = i + 1 == v->n_slots ? 0 : i + 1) {
        uint32_t slot = v->slots[i], id = slot & ((1u << ID_BITS) - 1);
        if (slot == PS_TOK_NONE)
            return slot;
        if (slot == slot_value(h, id) && v->text[id].len == len &&
            !memcmp(v->arena + v->text[id].off, s, len))
            return id;
    }
}

void ps_tok_merges_deinit(struct ps_tok_merges *m)
{
    ps_free(m->slots);
    memset(m, 0, sizeof *m);
}

static struct ps_tok_merge *merge_slot(const struct ps_tok_merges *m, uint32_t left, uint32_t right)
{
    uint32_t i = slot_of(mix(((uint64_t)left << 32 | right) ^ m->seed), m->n_slots);
    while (m->slots[i].left != PS_TOK_NONE && (m->slots[i].left != left || m->slots[i].right != right))
        i = i + 1 == m->n_slots ? 0 : i + 1;
    return &m->slots[i];
}

static int merges_rehash(struct ps_tok_merges *m, struct ps_err *err)
{
    struct ps_tok_merges n = {.n = m->n,
                              .n_slots = m->n_slots ? m->n_slots + m->n_slots / 2 : 1024,
                              .seed = m->seed};
    n.slots = ps_realloc_array(NULL, n.n_slots, sizeof *n.slots);
    if (!n.slots)
        return no_memory(err);
    memset(n.slots, 0xff, (size_t)n.n_slots * sizeof *n.slots);
    if (!n.seed)
        n.seed = new_seed(m);
    for (uint32_t i = 0; i < m->n_slots; i++)
        if (m->slots[i].left != PS_TOK_NONE)
            *merge_slot(&n, m->slots[i].left, m->slots[i].right) = m->slots[i];
    ps_free(m->slots);
    *m = n;
    return 0;
}

int ps_tok_merges_add(struct ps_tok_merges *m, uint32_t left, uint32_t right, uint32_t rank,
                      uint32_t id, struct ps_err *err)
{
    if (rank >= PS_TOK_MERGES_MAX)
        return ps_err_set(err, PS_EDATA, "tokenizer",
                          "tokenizer.json: more than the %u supported merges", PS_TOK_MERGES_MAX);
    if ((uint64_t)m->n * 10 >= (uint64_t)m->n_slots * 8) {
        int rc = merges_rehash(m, err);
        if (rc)
            return rc;
    }
    struct ps_tok_merge *s = merge_slot(m, left, right);
    m->n += s->left == PS_TOK_NONE;
    *s = (struct ps_tok_merge){.left = left, .right = right, .rank = rank, .id = id};
    return 0;
}

const struct ps_tok_merge *ps_tok_merges_find(const struct ps_tok_merges *m, uint32_t left,
                                              uint32_t right)
{
    if (!m->n_slots)
        return NULL;
    const struct ps_tok_merge *s = merge_slot(m, left, right);
    return s->left == PS_TOK_NONE ? NULL : s;
}
