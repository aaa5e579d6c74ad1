/* Binds checkpoint names to roles and lays down the order of use. */
#include "runtime/weights.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

static const char *const ORIGIN = "weights";

enum need { OPTIONAL, REQUIRED, QK_NORM };
enum dim { D_ONE, D_HIDDEN, D_INTER, D_Q, D_KV, D_HEAD };

static const struct role_row {
    const char *suffix;
    enum need need;
    enum dim rows, cols;
} ROLES[PS_W_ROLES] = {
    [PS_W_ATTN_NORM] = {"input_layernorm.weight", REQUIRED, D_ONE, D_HIDDEN},
    [PS_W_Q] = {"self_attn.q_proj.weight", REQUIRED, D_Q, D_HIDDEN},
    [PS_W_Q_BIAS] = {"self_attn.q_proj.bias", OPTIONAL, D_ONE, D_Q},
    [PS_W_K] = {"self_attn.k_proj.weight", REQUIRED, D_KV, D_HIDDEN},
    [PS_W_K_BIAS] = {"self_attn.k_proj.bias", OPTIONAL, D_ONE, D_KV},
    [PS_W_V] = {"self_attn.v_proj.weight", REQUIRED, D_KV, D_HIDDEN},
    [PS_W_V_BIAS] = {"self_attn.v_proj.bias", OPTIONAL, D_ONE, D_KV},
    [PS_W_Q_NORM] = {"self_attn.q_norm.weight", QK_NORM, D_ONE, D_HEAD},
    [PS_W_K_NORM] = {"self_attn.k_norm.weight", QK_NORM, D_ONE, D_HEAD},
    [PS_W_O] = {"self_attn.o_proj.weight", REQUIRED, D_HIDDEN, D_Q},
    [PS_W_O_BIAS] = {"self_attn.o_proj.bias", OPTIONAL, D_ONE, D_HIDDEN},
    [PS_W_MLP_NORM] = {"post_attention_layernorm.weight", REQUIRED, D_ONE, D_HIDDEN},
    [PS_W_GATE] = {"mlp.gate_proj.weight", REQUIRED, D_INTER, D_HIDDEN},
    [PS_W_GATE_BIAS] = {"mlp.gate_proj.bias", OPTIONAL, D_ONE, D_INTER},
    [PS_W_UP] = {"mlp.up_proj.weight", REQUIRED, D_INTER, D_HIDDEN},
    [PS_W_UP_BIAS] = {"mlp.up_proj.bias", OPTIONAL, D_ONE, D_INTER},
    [PS_W_DOWN] = {"mlp.down_proj.weight", REQUIRED, D_HIDDEN, D_INTER},
    [PS_W_DOWN_BIAS] = {"mlp.down_proj.bias", OPTIONAL, D_ONE, D_HIDDEN},
};

static uint64_t dim_of(const struct ps_arch *a, enum dim d)
{
    switch (d) {
    case D_ONE: return 1;
    case D_HIDDEN: return a->hidden;
    case D_INTER: return a->inter;
    case D_Q: return (uint64_t)a->n_heads * a->head_dim;
    case D_KV: return (uint64_t)a->n_kv_heads * a->head_dim;
    case D_HEAD: return a->head_dim;
    }
    return 0;
}

bool ps_weights_takes(enum ps_dtype t)
{
    return t == PS_F32 || t == PS_F16 || t == PS_BF16;
}

static int check_tensor(const struct ps_map *m, uint32_t i, uint64_t rows, uint64_t cols,
                        struct ps_err *err)
{
    const struct ps_tensor *t = &m->tensors[i];
    if (t->rows != rows || t->cols != cols)
        return ps_err_set(
            err, PS_EDATA,
            ORIGIN, "tensor %s is %llu x %llu but config.json says %llu x %llu: the files do not belong together",
            t->name, (unsigned long long)t->rows, (unsigned long long)t->cols,
            (unsigned long long)rows, (unsigned long long)cols);
    if (!ps_weights_takes(t->dtype))
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "tensor %s has type %s: this build runs F32, F16 and BF16", t->name,
                          ps_dtype_name(t->dtype));
    return 0;
}

/* Finds `name` with or without the "model." in front (base models are saved without). */
static int64_t find(const struct ps_map *m, const char *name)
{
    int64_t i = ps_map_find(m, name);
    return i >= 0 || strncmp(name, "model.", 6) != 0 ? i : ps_map_find(m, name + 6);
}

static int bind_one(uint32_t *out, const struct ps_map *m, const char *name, bool required,
                    uint64_t rows, uint64_t cols, struct ps_err *err)
{
    int64_t i = find(m, name);
    *out = PS_NO_TENSOR;
    if (i < 0)
        return required ? ps_err_set(err, PS_EDATA, ORIGIN,
                                     "tensor %s is missing: is the model complete?", name)
                        : 0;
    int rc = check_tensor(m, (uint32_t)i, rows, cols, err);
    if (rc == 0)
        *out = (uint32_t)i;
    return rc;
}

static int bind_layer(uint32_t *roles, uint32_t layer, const struct ps_map *m,
                      const struct ps_arch *a, struct ps_err *err)
{
    char name[128];
    for (int r = 0; r < PS_W_ROLES; r++) {
        const struct role_row *row = &ROLES[r];
        bool required = row->need == REQUIRED || (row->need == QK_NORM && a->wants_qk_norm);
        roles[r] = PS_NO_TENSOR;
        if (row->need == QK_NORM && !a->wants_qk_norm)
            continue;
        snprintf(name, sizeof name, "model.layers.%u.%s", layer, row->suffix);
        int rc =
            bind_one(&roles[r], m, name, required, dim_of(a, row->rows), dim_of(a, row->cols), err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Tied checkpoints keep one matrix under either name (TinyStories-656K stores only the head); a checkpoint without
 * a head is tied unless its config says that it is not: then something is missing. */
static int bind_ends(struct ps_weights *w, const struct ps_map *m, const struct ps_arch *a,
                     struct ps_err *err)
{
    int rc = bind_one(&w->norm, m, "model.norm.weight", true, 1, a->hidden, err);
    if (rc == 0)
        rc = bind_one(&w->embed, m, "model.embed_tokens.weight", false, a->vocab, a->hidden, err);
    if (rc == 0)
        rc = bind_one(&w->head, m, "lm_head.weight", false, a->vocab, a->hidden, err);
    if (rc < 0)
        return rc;
    if (w->embed == PS_NO_TENSOR && (w->head == PS_NO_TENSOR || !a->tied))
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "tensor model.embed_tokens.weight is missing: is the model complete?");
    if (w->head == PS_NO_TENSOR && a->says_untied)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "tensor lm_head.weight is missing, and config.json says that it is not "
                          "tied: is the model complete?");
    if (w->embed == PS_NO_TENSOR)
        w->embed = w->head;
    if (w->head == PS_NO_TENSOR || a->tied)
        w->head = w->embed;
    return 0;
}

int ps_weights_bind(struct ps_weights **out, const struct ps_map *map, const struct ps_arch *arch,
                    struct ps_err *err)
{
    int rc = PS_ENOMEM;
    struct ps_weights *w = ps_calloc(1, sizeof *w);
    if (w)
        w->layer = ps_calloc(arch->n_layers, sizeof *w->layer);
    if (!w || !w->layer) {
        ps_err_set(err, rc, ORIGIN, "out of memory: binding weights");
        goto out;
    }
    w->n_layers = arch->n_layers;
    rc = bind_ends(w, map, arch, err);
    for (uint32_t l = 0; rc == 0 && l < arch->n_layers; l++)
        rc = bind_layer(w->layer[l], l, map, arch, err);
    if (rc == 0) {
        *out = w;
        w = NULL;
    }
out:
    ps_weights_free(w);
    return rc;
}

void ps_weights_free(struct ps_weights *w)
{
    if (!w)
        return;
    ps_free(w->layer);
    ps_free(w);
}

static void push_tensor(uint32_t *order, uint32_t *n, const struct ps_map *m, uint32_t tensor)
{
    if (tensor == PS_NO_TENSOR)
        return;
    const struct ps_tensor *t = &m->tensors[tensor];
    for (uint32_t i = 0; i < t->n_extents; i++)
        order[(*n)++] = t->first_extent + i;
}

int ps_weights_order(uint32_t **order, uint32_t *n, const struct ps_weights *w,
                     const struct ps_map *map, struct ps_err *err)
{
    uint32_t *o = ps_malloc(sizeof *o * ((size_t)map->n_extents + 1));
    if (!o)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: order of use of %u extents",
                          map->n_extents);
    *n = 0;
    for (uint32_t l = 0; l < w->n_layers; l++)
        for (int r = 0; r < PS_W_ROLES; r++)
            push_tensor(o, n, map, w->layer[l][r]);
    push_tensor(o, n, map, w->norm);
    push_tensor(o, n, map, w->head);
    *order = o;
    return 0;
}
