/* Reads config.json into the descriptor that the forward pass follows. Everything in it is remote and hostile:
 * each number is bounded before it is multiplied by anything. */
#include "runtime/arch.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

static const char *const ORIGIN = "arch";

/* One row per family that this build runs. */
static const struct family {
    const char *name;
    bool qk_norm;
    enum { WINDOW_NEVER, WINDOW_ALL, WINDOW_QWEN } window;
} FAMILIES[] = {
    {"LlamaForCausalLM", false, WINDOW_NEVER},
    {"MistralForCausalLM", false, WINDOW_ALL},
    {"Qwen2ForCausalLM", false, WINDOW_QWEN},
    {"Qwen3ForCausalLM", true, WINDOW_QWEN},
};
#define N_FAMILIES (sizeof FAMILIES / sizeof FAMILIES[0])
static const char SUPPORTED[] =
    "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";

static int read_dim(const struct ps_json *o, const char *key, int64_t dflt, uint32_t max,
                    uint32_t *out, struct ps_err *err)
{
    int64_t v;
    int rc = ps_json_get_int(o, key, dflt, &v, err);
    if (rc < 0)
        return rc;
    if (v < 1 || v > (int64_t)max)
        return ps_err_set(err, PS_EDATA, ORIGIN, "config.json: %s is missing or outside 1..%u", key,
                          max);
    *out = (uint32_t)v;
    return 0;
}

static int find_family(const struct family **out, struct ps_arch *a, const struct ps_json *root,
                       struct ps_err *err)
{
    const struct ps_json *list = ps_json_get(root, "architectures");
    if (!list || list->kind != PS_JSON_ARRAY || !list->child || list->child->kind != PS_JSON_STRING)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "config.json: no \"architectures\": is this a language model's folder?");
    size_t n = list->child->len < sizeof a->name - 1 ? list->child->len : sizeof a->name - 1;
    memcpy(a->name, list->child->s, n);
    a->name[n] = 0;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        if (strcmp(FAMILIES[i].name, a->name) == 0) {
            *out = &FAMILIES[i];
            return 0;
        }
    }
    return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                      "architecture %s is not supported: config.json: this build runs %s", a->name,
                      SUPPORTED);
}

static int rope_kind(enum ps_rope_kind *out, const char *type, struct ps_err *err)
{
    static const struct {
        const char *name;
        enum ps_rope_kind kind;
    } KINDS[] = {{"default", PS_ROPE_DEFAULT},
                 {"linear", PS_ROPE_LINEAR},
                 {"llama3", PS_ROPE_LLAMA3},
                 {"yarn", PS_ROPE_YARN}};
    for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++) {
        if (strcmp(KINDS[i].name, type) == 0) {
            *out = KINDS[i].kind;
            return 0;
        }
    }
    return ps_err_set(
        err, PS_EUNSUPPORTED,
        ORIGIN, "rope type \"%s\" is not supported: config.json: this build has default, linear, llama3, yarn",
        type);
}

/* A positive finite number or its default. */
static int read_positive(const struct ps_json *o, const char *key, double dflt, double *out,
                         struct ps_err *err)
{
    double v;
    int rc = ps_json_get_double(o, key, dflt, &v, err);
    if (rc < 0)
        return rc;
    if (!(v > 0 && v < 1e30))
        return ps_err_set(err, PS_EDATA, ORIGIN, "config.json: %s must be a positive number", key);
    *out = v;
    return 0;
}

static int read_rope_scaling(struct ps_rope_config *c, const struct ps_json *s,
                             const struct ps_arch *a, struct ps_err *err)
{
    const char *type = "default", *old_type;
    int rc = ps_json_get_string(s, "type", "default", &old_type, err);
    if (rc == 0)
        rc = ps_json_get_string(s, "rope_type", old_type, &type, err);
    if (rc == 0)
        rc = rope_kind(&c->kind, type, err);
    if (rc < 0 || c->kind == PS_ROPE_DEFAULT)
        return rc;
    double original;
    if ((rc = read_positive(s, "original_max_position_embeddings", a->max_position, &original, err)) <
            0 ||
        (rc = read_positive(s, "low_freq_factor", 1, &c->low_freq_factor, err)) < 0 ||
        (rc = read_positive(s, "high_freq_factor", 4, &c->high_freq_factor, err)) < 0 ||
        (rc = read_positive(s, "beta_fast", 32, &c->beta_fast, err)) < 0 ||
        (rc = read_positive(s, "beta_slow", 1, &c->beta_slow, err)) < 0 ||
        (rc = ps_json_get_double(s, "attention_factor", 0, &c->attention_factor, err)) < 0 ||
        (rc = ps_json_get_double(s, "mscale", 0, &c->mscale, err)) < 0 ||
        (rc = ps_json_get_double(s, "mscale_all_dim", 0, &c->mscale_all_dim, err)) < 0 ||
        (rc = ps_json_get_bool(s, "truncate", true, &c->truncate, err)) < 0)
        return rc;
    c->original_max_position = original;
    if (c->kind != PS_ROPE_YARN && !ps_json_get(s, "factor"))
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "config.json: rope \"%.40s\" has no factor: fetch the model again", type);
    /* yarn without a factor means "stretched from the original length to the present one" */
    double implied = c->kind == PS_ROPE_YARN ? a->max_position / original : 1.0;
    return read_positive(s, "factor", implied, &c->factor, err);
}

static int read_rope(struct ps_arch *a, const struct ps_json *root, struct ps_err *err)
{
    struct ps_rope_config *c = &a->rope;
    const struct ps_json *params = ps_json_get(root, "rope_parameters");
    const struct ps_json *scaling = params ? params : ps_json_get(root, "rope_scaling");
    c->truncate = true;
    c->original_max_position = a->max_position;
    double partial = 1.0;
    int rc = read_positive(root, "rope_theta", 10000.0, &c->theta, err);
    if (rc == 0 && params)
        rc = read_positive(params, "rope_theta", c->theta, &c->theta, err);
    if (rc == 0)
        rc = read_positive(root, "partial_rotary_factor", 1.0, &partial, err);
    if (rc == 0 && params)
        rc = read_positive(params, "partial_rotary_factor", partial, &partial, err);
    if (rc < 0)
        return rc;
    if (scaling && scaling->kind != PS_JSON_OBJECT)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "config.json: rope_scaling must be an object or null");
    if (scaling && (rc = read_rope_scaling(c, scaling, a, err)) < 0)
        return rc;
    a->rot_dim = (uint32_t)(a->head_dim * (partial < 1.0 ? partial : 1.0));
    if (a->rot_dim < 2 || a->rot_dim % 2)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "config.json: rotated part of head_dim (%u) must be even", a->rot_dim);
    a->inv_freq = ps_calloc(a->rot_dim / 2, sizeof *a->inv_freq);
    if (!a->inv_freq)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: rope frequencies");
    ps_rope_frequencies(a->inv_freq, &a->rope_scale, c, a->rot_dim);
    return 0;
}

/* layer_types wins where it is given (transformers 5); else the family's older rule. */
static int read_windows(struct ps_arch *a, const struct family *f, const struct ps_json *root,
                        struct ps_err *err)
{
    a->window = ps_calloc(a->n_layers, sizeof *a->window);
    if (!a->window)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: layer windows");
    int64_t window, max_window_layers;
    bool use;
    int rc;
    if ((rc = ps_json_get_int(root, "sliding_window", 0, &window, err)) < 0 ||
        (rc = ps_json_get_int(root, "max_window_layers", 0, &max_window_layers, err)) < 0 ||
        (rc = ps_json_get_bool(root, "use_sliding_window", f->window == WINDOW_ALL, &use, err)) < 0)
        return rc;
    if (window < 0 || window > UINT32_MAX)
        return ps_err_set(err, PS_EDATA, ORIGIN, "config.json: sliding_window is out of range");
    if (window == 0 || f->window == WINDOW_NEVER)
        return 0;
    const struct ps_json *types = ps_json_get(root, "layer_types");
    if (types && (types->kind != PS_JSON_ARRAY || types->n_children < a->n_layers))
        return ps_err_set(err, PS_EDATA, ORIGIN, "config.json: layer_types must name every layer");
    const struct ps_json *t = types ? types->child : NULL;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        bool sliding = use && (f->window == WINDOW_ALL || l >= max_window_layers);
        if (t) {
            if (t->kind != PS_JSON_STRING)
                return ps_err_set(err, PS_EDATA, ORIGIN,
                                  "config.json: layer_types must hold strings");
            sliding = t->len == 17 && memcmp(t->s, "sliding_attention", 17) == 0;
            if (!sliding && !(t->len == 14 && memcmp(t->s, "full_attention", 14) == 0))
                return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                                  "layer type \"%.40s\" is not supported: config.json", t->s);
            t = t->next;
        }
        a->window[l] = sliding ? (uint32_t)window : 0;
    }
    return 0;
}

static int read_shapes(struct ps_arch *a, const struct ps_json *root, struct ps_err *err)
{
    int rc;
    double eps;
    const char *act;
    if ((rc = read_dim(root, "hidden_size", 0, PS_ARCH_MAX_DIM, &a->hidden, err)) < 0 ||
        (rc = read_dim(root, "intermediate_size", 0, PS_ARCH_MAX_DIM, &a->inter, err)) < 0 ||
        (rc = read_dim(root, "num_hidden_layers", 0, PS_ARCH_MAX_LAYERS, &a->n_layers, err)) < 0 ||
        (rc = read_dim(root, "num_attention_heads", 0, 65536, &a->n_heads, err)) < 0 ||
        (rc = read_dim(root, "num_key_value_heads", a->n_heads, 65536, &a->n_kv_heads, err)) < 0 ||
        (rc = read_dim(root, "head_dim", a->hidden / a->n_heads, 4096, &a->head_dim, err)) < 0 ||
        (rc = read_dim(root, "vocab_size", 0, 1u << 24, &a->vocab, err)) < 0 ||
        (rc = read_dim(root, "max_position_embeddings", 2048, 1u << 30, &a->max_position, err)) < 0 ||
        (rc = read_positive(root, "rms_norm_eps", 1e-6, &eps, err)) < 0 ||
        (rc = ps_json_get_bool(root, "tie_word_embeddings", false, &a->tied, err)) < 0 ||
        (rc = ps_json_get_string(root, "hidden_act", "silu", &act, err)) < 0)
        return rc;
    a->says_untied = !a->tied && ps_json_get(root, "tie_word_embeddings");
    a->rms_eps = (float)eps;
    if (a->n_heads % a->n_kv_heads)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "config.json: %u attention heads can't share %u key-value heads",
                          a->n_heads, a->n_kv_heads);
    if ((uint64_t)a->n_heads * a->head_dim > PS_ARCH_MAX_DIM)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "config.json: attention is absurdly wide (%u heads of %u)", a->n_heads,
                          a->head_dim);
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "activation \"%.40s\" is not supported: config.json: %s needs silu", act,
                          a->name);
    return 0;
}

/* [rows, columns] that share a scale, where `list` is given. */
static int read_scale_block(struct ps_arch *a, const struct ps_json *list, struct ps_err *err)
{
    if (!list)
        return 0;
    const struct ps_json *n[2] = {list->child, list->child ? list->child->next : NULL};
    uint32_t *out[2] = {&a->scale_block_rows, &a->scale_block_cols};
    for (int i = 0; i < 2; i++) {
        double v =
            list->kind == PS_JSON_ARRAY && n[i] && n[i]->kind == PS_JSON_INT ? n[i]->number : 0;
        if (!(v >= 1 && v <= PS_ARCH_MAX_DIM))
            return ps_err_set(err, PS_EDATA, ORIGIN,
                              "config.json: the block size of its scales must be two numbers");
        *out[i] = (uint32_t)v;
    }
    return 0;
}

/* Weights that a checkpoint brings quantised. The tensors themselves say which and how (weights.c); what must be known
 * here is the size of a block, and that it is nothing else. */
static int read_quantised(struct ps_arch *a, const struct ps_json *root, struct ps_err *err)
{
    const struct ps_json *quant = ps_json_get(root, "quantization_config");
    const char *method = "?", *format = "";
    int rc;
    if (!quant)
        return 0;
    a->quantised = true;
    if ((rc = ps_json_get_string(quant, "quant_method", "?", &method, err)) < 0 ||
        (rc = ps_json_get_string(quant, "format", "", &format, err)) < 0)
        return rc;
    if (strcmp(method, "fp8") == 0)
        return read_scale_block(a, ps_json_get(quant, "weight_block_size"), err);
    if (strcmp(method, "fbgemm_fp8") == 0 || strcmp(method, "mxfp4") == 0)
        return 0;
    if (strcmp(method, "compressed-tensors") != 0)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "weights quantised by \"%.40s\" are not supported: config.json: use fp8, "
                          "compressed-tensors, mxfp4, or the f32, f16 or bf16 model",
                          method);
    if (strcmp(format, "float-quantized") != 0 && strcmp(format, "naive-quantized") != 0)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "compressed-tensors format \"%.40s\" is not supported: config.json: this "
                          "build has float-quantized",
                          format);
    const struct ps_json *groups = ps_json_get(quant, "config_groups");
    for (const struct ps_json *g = groups ? groups->child : NULL; g && rc == 0; g = g->next)
        if (ps_json_get(g, "weights"))
            rc = read_scale_block(a, ps_json_get(ps_json_get(g, "weights"), "block_structure"), err);
    return rc;
}

int ps_arch_read(struct ps_arch **out, const char *config_json, size_t len, struct ps_err *err)
{
    static const struct ps_json_limits LIMITS = {.max_bytes = 4u << 20,
                                                 .max_depth = 32,
                                                 .max_values = 200000,
                                                 .python_words = true};
    struct ps_json *root = NULL;
    const struct family *family = NULL;
    struct ps_arch *a = ps_calloc(1, sizeof *a);
    if (!a)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: reading config.json");
    int rc = ps_json_parse(&root, config_json, len, &LIMITS, err);
    if (rc < 0)
        goto out;
    if ((rc = find_family(&family, a, root, err)) < 0 || (rc = read_shapes(a, root, err)) < 0 ||
        (rc = read_quantised(a, root, err)) < 0)
        goto out;
    a->wants_qk_norm = family->qk_norm;
    if ((rc = read_rope(a, root, err)) < 0 || (rc = read_windows(a, family, root, err)) < 0)
        goto out;
    *out = a;
    a = NULL;
out:
    if (rc < 0 && err &&
        strncmp(err->text, "JSON:", 5) == 0) { /* the reader's: it knows the key and not the file */
        ps_err_prefix(err, "config.json");
        ps_err_advise(err, "fetch it again");
    }
    ps_json_free(root);
    ps_arch_free(a);
    return rc;
}

uint64_t ps_arch_positions(const struct ps_arch *a)
{
    double stretched =
        a->rope.kind == PS_ROPE_YARN ? a->rope.factor * a->rope.original_max_position : 0;
    return stretched > a->max_position && stretched < UINT32_MAX ? (uint64_t)stretched
                                                                 : a->max_position;
}

void ps_arch_free(struct ps_arch *a)
{
    if (!a)
        return;
    ps_free(a->inv_freq);
    ps_free(a->window);
    ps_free(a);
}
