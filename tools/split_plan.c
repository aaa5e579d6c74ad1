/* The order of a split. Comes in: a map. Goes out: shards, each a list of tensors in order of use. */
#include "tools/split_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum { SHARD_FIRST = -1, SHARD_LAST = INT32_MAX, RANK_EXPERTS = 120, RANK_UNKNOWN = 200 };

struct place {
    int32_t shard; /* SHARD_FIRST, a layer, SHARD_LAST */
    uint32_t rank, expert, rank_in_expert;
    const char *name;
    uint32_t tensor;
};

struct pattern {
    const char *text; /* anywhere in the name */
    uint32_t rank;
};

/* Order of use inside a layer, over the spellings of the families. First match counts. */
static const struct pattern in_layer[] = {
    {".input_layernorm.", 10},
    {".ln_1.", 10},
    {".attention_norm.", 10},
    {".post_attention_layernorm.", 70},
    {".post_attention_norm.", 70},
    {".ln_2.", 70},
    {".ffn_norm.", 70},
    {".pre_feedforward_layernorm.", 75},
    {".post_feedforward_layernorm.", 130},
    {".q_norm.", 50},
    {".k_norm.", 51},
    {".sinks", 52},
    {".q_proj.", 20},
    {".q_a_proj.", 20},
    {".q_a_layernorm.", 21},
    {".q_b_proj.", 22},
    {".c_attn.", 20},
    {".qkv_proj.", 20},
    {".query_key_value.", 20},
    {".k_proj.", 30},
    {".kv_a_", 30},
    {".kv_b_proj.", 31},
    {".v_proj.", 40},
    {".o_proj.", 60},
    {".out_proj.", 60},
    {".attn.c_proj.", 60},
    {".attention.dense.", 60},
    {".self_attention.dense.", 60},
    {".mlp.gate.", 80},
    {".router.", 80},
    {".block_sparse_moe.gate.", 80},
    {".gate_up_proj", 90},
    {".gate_proj.", 90},
    {".c_fc.", 90},
    {".fc1.", 90},
    {".dense_h_to_4h.", 90},
    {".up_proj.", 100},
    {".down_proj", 110},
    {".mlp.c_proj.", 110},
    {".fc2.", 110},
    {".dense_4h_to_h.", 110},
};

static const struct pattern in_expert[] = {{"gate_proj.", 0}, {"w1.", 0},        {"up_proj.", 1},
                                           {"w3.", 1},        {"down_proj.", 2}, {"w2.", 2}};

static uint32_t rank_of(const struct pattern *p, size_t n, const char *name, uint32_t otherwise)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(name, p[i].text))
            return p[i].rank;
    return otherwise;
}
#define RANK_OF(table, name, otherwise)                                                            \
    rank_of(table, sizeof(table) / sizeof((table)[0]), name, otherwise)

/* Number of "...experts.N.": true, with what follows the number in *rest. */
static bool expert_of(const char *name, uint32_t *expert, const char **rest)
{
    static const char mark[] = ".experts.";
    const char *p = strstr(name, mark);
    uint32_t v = 0;
    if (!p)
        return false;
    p += sizeof mark - 1;
    const char *digits = p;
    for (; *p >= '0' && *p <= '9' && p - digits < 7; p++)
        v = v * 10 + (uint32_t)(*p - '0');
    if (p == digits || *p != '.')
        return false;
    *expert = v;
    *rest = p + 1;
    return true;
}

static bool has_any(const char *name, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(name, words[i]))
            return true;
    return false;
}

static bool is_token_embedding(const char *name)
{
    static const char *const words[] = {"embed_tokens.", "wte.", "word_embeddings.",
                                        "tok_embeddings.", "embed_in."};
    return has_any(name, words, sizeof words / sizeof words[0]);
}

static bool is_other_embedding(const char *name)
{
    static const char *const words[] = {"wpe.", "embed_positions.", "word_embeddings_layernorm.",
                                        "embed_norm."};
    return has_any(name, words, sizeof words / sizeof words[0]);
}

static bool is_head(const char *name)
{
    static const char *const words[] = {"lm_head.", "embed_out."};
    return has_any(name, words, sizeof words / sizeof words[0]) || strcmp(name, "output.weight") == 0;
}

static struct place place_of(const struct ps_map *m, uint32_t tensor, bool tied)
{
    const struct ps_tensor *t = &m->tensors[tensor];
    struct place p = {.shard = t->layer, .rank = RANK_UNKNOWN, .name = t->name, .tensor = tensor};
    const char *rest;
    if (t->layer < 0) {
        bool first = is_other_embedding(t->name) || (is_token_embedding(t->name) && !tied);
        p.shard = first ? SHARD_FIRST : SHARD_LAST;
        if (is_token_embedding(t->name) || is_head(t->name))
            p.rank = first ? 0 : 20;
        else if (strstr(t->name, "norm") || strstr(t->name, "ln_f"))
            p.rank = 10;
    } else if (strstr(t->name, "vision")) {
        p.rank = RANK_UNKNOWN; /* a vision tower counts its layers too: not used, behind what is */
    } else if (expert_of(t->name, &p.expert, &rest)) {
        p.rank = RANK_EXPERTS;
        p.rank_in_expert = RANK_OF(in_expert, rest, 3);
    } else {
        p.rank = RANK_OF(in_layer, t->name, RANK_UNKNOWN);
    }
    return p;
}

static int compare_u32(uint32_t a, uint32_t b)
{
    return a < b ? -1 : a > b;
}

static int by_use(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    int c = compare_u32(x->rank, y->rank);
    if (c == 0)
        c = compare_u32(x->expert, y->expert);
    if (c == 0)
        c = compare_u32(x->rank_in_expert, y->rank_in_expert);
    return c ? c : strcmp(x->name, y->name); /* names are unique: one order */
}

static void fill_shards(struct ps_split_plan *p, const struct ps_map *m, const struct place *places)
{
    for (uint32_t i = 0; i < p->n_tensors; i++) {
        if (i == 0 || places[i].shard != places[i - 1].shard) {
            int32_t layer = places[i].shard == SHARD_LAST ? -1 : places[i].shard;
            p->shards[p->n_shards++] = (struct ps_split_shard){.layer = layer, .first_tensor = i};
        }
        struct ps_split_shard *s = &p->shards[p->n_shards - 1];
        const struct ps_tensor *t = &m->tensors[places[i].tensor];
        p->tensors[i] = places[i].tensor;
        s->n_tensors++;
        s->n_extents += t->n_extents;
        s->raw_bytes += t->rows * t->row_bytes;
    }
}

int ps_split_plan_new(struct ps_split_plan **out, const struct ps_map *m, struct ps_err *err)
{
    if (m->n_tensors == 0)
        return ps_err_set(err, PS_EDATA, "split", "the model has no tensors");
    struct place *places = ps_calloc(m->n_tensors, sizeof *places);
    struct ps_split_plan *p = ps_calloc(1, sizeof *p);
    if (p) {
        p->tensors = ps_calloc(m->n_tensors, sizeof *p->tensors);
        p->shards = ps_calloc(m->n_tensors, sizeof *p->shards);
    }
    if (!places || !p || !p->tensors || !p->shards) {
        ps_free(places);
        ps_split_plan_free(p);
        return ps_err_set(err, PS_ENOMEM, "split", "out of memory for %u tensors", m->n_tensors);
    }
    bool tied = true;
    for (uint32_t i = 0; i < m->n_tensors; i++)
        tied &= !(m->tensors[i].layer < 0 && is_head(m->tensors[i].name));
    for (uint32_t i = 0; i < m->n_tensors; i++)
        places[i] = place_of(m, i, tied);
    qsort(places, m->n_tensors, sizeof *places, by_use);
    p->n_tensors = m->n_tensors;
    fill_shards(p, m, places);
    ps_free(places);
    *out = p;
    return 0;
}

void ps_split_plan_free(struct ps_split_plan *p)
{
    if (!p)
        return;
    ps_free(p->tensors);
    ps_free(p->shards);
    ps_free(p);
}
