/* Names to what may be done: see split_policy.h. */
#include "tools/split_policy.h"

#include <string.h>

#include "proto/quant.h"

static bool mentions(const char *name, const char *const *words)
{
    for (; *words; words++)
        if (strstr(name, *words))
            return true;
    return false;
}

static bool ends_with(const char *name, const char *tail)
{
    size_t n = strlen(name), k = strlen(tail);
    return n >= k && strcmp(name + n - k, tail) == 0;
}

static bool is_embedding(const char *name)
{
    static const char *const words[] = {"embed_tokens.",   "wte.",      "word_embeddings.",
                                        "tok_embeddings.", "embed_in.", "lm_head.",
                                        "embed_out.",      NULL};
    return mentions(name, words) || strcmp(name, "output.weight") == 0;
}

static bool is_attention(const char *name)
{
    static const char *const words[] = {"attn.", "attention.", "linear_attn", NULL};
    return mentions(name, words);
}

/* What attention passes on. An error here goes to every head of a group and to every later position. */
static bool is_value(const char *name)
{
    static const char *const words[] = {"v_proj.", ".wv.", "kv_a_proj", NULL};
    return is_attention(name) && mentions(name, words);
}

/* One type wider than the others. With few key-value heads these are 2-3 % of a layer's weights, and made a quarter of
 * what a small model lost; with as many as queries have they are 8 %, too many to keep all their bits. */
static enum ps_dtype type_of_values(const struct ps_tensor *t, enum ps_dtype wanted)
{
    enum ps_dtype wider = ps_quant_wider(wanted);
    return wider == PS_DTYPE_NONE && t->rows > t->cols / 2 ? wanted : wider;
}

/* Small, or of a kind where a small error changes which weights are used at all. */
static bool is_delicate(const char *name)
{
    static const char *const words[] = {"norm",   "ln_",    "router",   ".gate.",    "expert_gate.",
                                        "conv",   "rotary", "position", "embed_pos", "wpe.",
                                        "vision", "visual", "audio",    "projector", "lora_",
                                        "scale",  NULL};
    return mentions(name, words);
}

/* GPT-2 keeps these with a row per input: a block of a row would be of one input's weights for many outputs. */
static bool is_transposed(const char *name)
{
    static const char *const words[] = {".c_attn.", ".c_proj.", ".c_fc.", NULL};
    return mentions(name, words);
}

enum ps_dtype ps_split_quant_of(const struct ps_tensor *t, enum ps_dtype wanted)
{
    if (wanted == PS_DTYPE_NONE || t->n_dims != 2 || !ends_with(t->name, ".weight") ||
        (t->dtype != PS_F32 && t->dtype != PS_F16 && t->dtype != PS_BF16))
        return PS_DTYPE_NONE;
    bool embedding = is_embedding(t->name);
    if (!embedding && (t->layer < 0 || is_delicate(t->name) || is_transposed(t->name)))
        return PS_DTYPE_NONE;
    enum ps_dtype to = embedding           ? PS_Q8B64
                       : is_value(t->name) ? type_of_values(t, wanted)
                                           : wanted;
    size_t row = to == PS_DTYPE_NONE ? 0 : ps_quant_row_bytes(to, (size_t)t->cols);
    return row != 0 && row < t->row_bytes ? to : PS_DTYPE_NONE; /* short rows only grow */
}

enum ps_split_kind ps_split_kind_of(const struct ps_tensor *t)
{
    if (is_embedding(t->name))
        return PS_KIND_EMBEDDING;
    if (t->n_dims < 2 || t->layer < 0 || is_delicate(t->name))
        return PS_KIND_OTHER;
    return strstr(t->name, "experts") ? PS_KIND_EXPERTS
           : is_attention(t->name)    ? PS_KIND_ATTENTION
                                      : PS_KIND_MLP;
}

const char *ps_split_kind_name(enum ps_split_kind k)
{
    static const char *const names[PS_KIND_COUNT] = {"embedding", "attention", "mlp", "experts",
                                                     "other"};
    return names[k];
}
