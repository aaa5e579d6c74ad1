/* Binds checkpoint names to roles and lays down the order of use. */
#include "runtime/weights.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "proto/quant.h"

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

static bool is_plain(enum ps_dtype t)
{
    return t == PS_F32 || t == PS_F16 || t == PS_BF16;
}

/* What a role needs of its tensor. */
struct want {
    const char *name;
    bool required;
    bool gathered; /* rows are widened one by one, without scales */
    uint64_t rows, cols;
};

struct binder {
    struct ps_weights *w;
    const struct ps_map *m;
    const struct ps_arch *a;
};

static int wrong_shape(const struct ps_tensor *t, uint64_t rows, uint64_t cols, struct ps_err *err)
{
    return ps_err_set(
        err, PS_EDATA,
        ORIGIN, "tensor %s is %llu x %llu but config.json says %llu x %llu: the files do not belong together",
        t->name, (unsigned long long)t->rows, (unsigned long long)t->cols, (unsigned long long)rows,
        (unsigned long long)cols);
}

static int wrong_type(const struct ps_tensor *t, const struct want *n, struct ps_err *err)
{
    return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN, "tensor %s has type %s: this build runs %s there",
                      t->name, ps_dtype_name(t->dtype),
                      n->rows == 1  ? "F32, F16 and BF16"
                      : n->gathered ? "F32, F16, BF16, Q8B64 and NF4B64"
                                    : "F32, F16, BF16, Q8B64, NF4B64 and F8_E4M3 with scales");
}

/* Finds `name` with or without the "model." in front (base models are saved without). */
static int64_t find(const struct ps_map *m, const char *name)
{
    int64_t i = ps_map_find(m, name);
    return i >= 0 || strncmp(name, "model.", 6) != 0 ? i : ps_map_find(m, name + 6);
}

/* The tensor NAME + ending, where n->name is NAME.weight; -1: none. */
static int64_t beside(const struct ps_map *m, const struct want *n, const char *ending)
{
    static const char tail[] = ".weight";
    char name[160];
    size_t len = strlen(n->name), stem = len - (sizeof tail - 1);
    if (len < sizeof tail || strcmp(n->name + stem, tail) != 0)
        return -1;
    snprintf(name, sizeof name, "%.*s%s", (int)stem, n->name, ending);
    return find(m, name);
}

static uint64_t div_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* Reads the shape of a tensor of scales: one for all, one for a row, or one for a block of the size that config.json
 * says. Kernels take blocks of a multiple of 64 columns. */
static bool take_f8_scales(struct ps_bound *b, const struct ps_tensor *s, const struct ps_arch *a)
{
    uint64_t n = s->rows * s->cols, rows = a->scale_block_rows, cols = a->scale_block_cols;
    if (n == 1) {
        b->scale_rows = SIZE_MAX, b->scale_cols = b->cols, b->scale_ld = 1;
    } else if (rows && s->rows == div_up(b->rows, rows) && s->cols == div_up(b->cols, cols)) {
        b->scale_rows = rows, b->scale_cols = cols, b->scale_ld = s->cols;
    } else if (n == b->rows) {
        b->scale_rows = 1, b->scale_cols = b->cols, b->scale_ld = 1;
    } else {
        return false;
    }
    return b->scale_cols % 64 == 0 || b->scale_cols >= b->cols;
}

static int bind_f8(struct ps_bound *b, const struct binder *x, const struct want *n,
                   struct ps_err *err)
{
    int64_t i = beside(x->m, n, ".weight_scale_inv");
    if (i < 0)
        i = beside(x->m, n, ".weight_scale");
    if (i < 0)
        return ps_err_set(
            err, x->a->quantised ? PS_EDATA : PS_EUNSUPPORTED, ORIGIN,
            "tensor %s is F8_E4M3 but has no weight_scale_inv or weight_scale beside it: %s", n->name,
            x->a->quantised ? "is the model complete?"
                            : "config.json says nothing of quantised weights");
    const struct ps_tensor *s = &x->m->tensors[i];
    if (!is_plain(s->dtype))
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "tensor %s has type %s: scales are F32, F16 or BF16 in this build",
                          s->name, ps_dtype_name(s->dtype));
    if (!take_f8_scales(b, s, x->a))
        return ps_err_set(
            err, PS_EUNSUPPORTED, ORIGIN,
            "tensor %s is %llu x %llu: scales of a matrix of %llu x %llu are one, one "
            "per row, or one per block of config.json (%u x %u), a multiple of 64 columns",
            s->name, (unsigned long long)s->rows, (unsigned long long)s->cols,
            (unsigned long long)b->rows, (unsigned long long)b->cols, x->a->scale_block_rows,
            x->a->scale_block_cols);
    b->type = PS_F8_E4M3;
    b->scales = (uint32_t)i;
    return 0;
}

/* NAME_blocks, bytes of [rows][blocks of 32][16], and NAME_scales, bytes of [rows][blocks]. */
static int bind_mxfp4(uint32_t *out, struct ps_bound *b, const struct binder *x,
                      const struct want *n, struct ps_err *err)
{
    int64_t i = beside(x->m, n, "_blocks"), k = beside(x->m, n, "_scales");
    uint64_t blocks = div_up(n->cols, PS_MXFP4_BLOCK);
    if (i < 0 || k < 0)
        return PS_ENOTFOUND;
    const struct ps_tensor *t = &x->m->tensors[i], *s = &x->m->tensors[k];
    if (t->dtype != PS_U8 || s->dtype != PS_U8)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "tensor %s has type %s: MXFP4 is stored as U8",
                          t->dtype != PS_U8 ? t->name : s->name,
                          ps_dtype_name(t->dtype != PS_U8 ? t->dtype : s->dtype));
    if (t->rows != n->rows || t->cols != blocks * 16)
        return wrong_shape(t, n->rows, blocks * 16, err);
    if (s->rows != n->rows || s->cols != blocks)
        return wrong_shape(s, n->rows, blocks, err);
    b->type = PS_MXFP4;
    b->scales = (uint32_t)k;
    b->scale_ld = blocks;
    *out = (uint32_t)i;
    return 0;
}

static int bind_found(struct ps_bound *b, const struct binder *x, const struct want *n, uint32_t i,
                      struct ps_err *err)
{
    const struct ps_tensor *t = &x->m->tensors[i];
    bool matrix = n->rows != 1;
    if (t->rows != n->rows || t->cols != n->cols)
        return wrong_shape(t, n->rows, n->cols, err);
    if (matrix && !n->gathered && t->dtype == PS_F8_E4M3)
        return bind_f8(b, x, n, err);
    if (!is_plain(t->dtype) && !(matrix && (t->dtype == PS_Q8B64 || t->dtype == PS_NF4B64)))
        return wrong_type(t, n, err);
    b->type = t->dtype;
    return 0;
}

static int bind_one(uint32_t *out, const struct binder *x, const struct want *n, struct ps_err *err)
{
    struct ps_bound b = {.rows = n->rows, .cols = n->cols, .scales = PS_NO_TENSOR};
    int64_t i = find(x->m, n->name);
    uint32_t tensor = (uint32_t)i;
    *out = PS_NO_TENSOR;
    int rc = i >= 0                         ? bind_found(&b, x, n, tensor, err)
             : n->rows != 1 && !n->gathered ? bind_mxfp4(&tensor, &b, x, n, err)
                                            : PS_ENOTFOUND;
    if (rc == PS_ENOTFOUND)
        return n->required ? ps_err_set(err, PS_EDATA, ORIGIN,
                                        "tensor %s is missing: is the model complete?", n->name)
                           : 0;
    if (rc < 0)
        return rc;
    uint64_t scale_bytes = ps_weights_scale_bytes(x->m, &b);
    x->w->bound[tensor] = b;
    const struct ps_tensor *t = &x->m->tensors[tensor];
    for (uint32_t e = t->first_extent; n->rows != 1 && e < t->first_extent + t->n_extents; e++)
        x->w->types |= 1u << ps_weights_type(x->m, x->w, e);
    if (scale_bytes > x->w->scale_bytes)
        x->w->scale_bytes = scale_bytes;
    *out = tensor;
    return 0;
}

uint64_t ps_weights_scale_bytes(const struct ps_map *map, const struct ps_bound *b)
{
    if (b->scales == PS_NO_TENSOR)
        return 0;
    const struct ps_tensor *s = &map->tensors[b->scales];
    return s->rows * s->cols * (b->type == PS_MXFP4 ? 1 : sizeof(float));
}

enum ps_dtype ps_weights_type(const struct ps_map *map, const struct ps_weights *w, uint32_t extent)
{
    const struct ps_extent *e = &map->extents[extent];
    enum ps_dtype stored = ps_extent_dtype(map, e);
    return stored != map->tensors[e->tensor].dtype ? stored : w->bound[e->tensor].type;
}

struct ps_matrix ps_weights_panel(const struct ps_map *map, const struct ps_weights *w,
                                  uint32_t extent, const void *data, const void *scales)
{
    const struct ps_extent *e = &map->extents[extent];
    const struct ps_bound *b = &w->bound[e->tensor];
    return (struct ps_matrix){.type = ps_weights_type(map, w, extent),
                              .K = b->cols,
                              .data = data,
                              .row_stride = ps_extent_row_bytes(e),
                              .n_rows = e->n_rows,
                              .row0 = e->row0,
                              .scales = b->scales == PS_NO_TENSOR ? NULL : scales,
                              .scale_ld = b->scale_ld,
                              .scale_rows = b->scale_rows,
                              .scale_cols = b->scale_cols};
}

static int bind_layer(uint32_t *roles, uint32_t layer, const struct binder *x, struct ps_err *err)
{
    const struct ps_arch *a = x->a;
    char name[128];
    for (int r = 0; r < PS_W_ROLES; r++) {
        const struct role_row *row = &ROLES[r];
        bool required = row->need == REQUIRED || (row->need == QK_NORM && a->wants_qk_norm);
        roles[r] = PS_NO_TENSOR;
        if (row->need == QK_NORM && !a->wants_qk_norm)
            continue;
        snprintf(name, sizeof name, "model.layers.%u.%s", layer, row->suffix);
        struct want n = {.name = name,
                         .required = required,
                         .rows = dim_of(a, row->rows),
                         .cols = dim_of(a, row->cols)};
        int rc = bind_one(&roles[r], x, &n, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Tied checkpoints keep one matrix under either name (TinyStories-656K stores only the head); a checkpoint without
 * a head is tied unless its config says that it is not: then something is missing. */
static int bind_ends(struct ps_weights *w, const struct binder *x, struct ps_err *err)
{
    const struct ps_arch *a = x->a;
    struct want norm = {"model.norm.weight", true, false, 1, a->hidden};
    struct want embed = {"model.embed_tokens.weight", false, true, a->vocab, a->hidden};
    struct want head = {"lm_head.weight", false, false, a->vocab, a->hidden};
    int rc = bind_one(&w->norm, x, &norm, err);
    if (rc == 0)
        rc = bind_one(&w->embed, x, &embed, err);
    if (rc == 0) {
        head.gathered = w->embed == PS_NO_TENSOR; /* one matrix under the other name */
        rc = bind_one(&w->head, x, &head, err);
    }
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
    if (w) {
        w->layer = ps_calloc(arch->n_layers, sizeof *w->layer);
        w->bound = ps_calloc((size_t)map->n_tensors + 1, sizeof *w->bound);
    }
    if (!w || !w->layer || !w->bound) {
        ps_err_set(err, rc, ORIGIN, "out of memory: binding weights");
        goto out;
    }
    const struct binder x = {w, map, arch};
    w->n_layers = arch->n_layers;
    rc = bind_ends(w, &x, err);
    for (uint32_t l = 0; rc == 0 && l < arch->n_layers; l++)
        rc = bind_layer(w->layer[l], l, &x, err);
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
    ps_free(w->bound);
    ps_free(w);
}

static void push_extents(uint32_t *order, uint32_t *n, const struct ps_tensor *t)
{
    for (uint32_t i = 0; i < t->n_extents; i++)
        order[(*n)++] = t->first_extent + i;
}

static void push_tensor(uint32_t *order, uint32_t *n, const struct ps_weights *w,
                        const struct ps_map *m, uint32_t tensor)
{
    if (tensor == PS_NO_TENSOR)
        return;
    if (w->bound[tensor].scales != PS_NO_TENSOR)
        push_extents(order, n, &m->tensors[w->bound[tensor].scales]);
    push_extents(order, n, &m->tensors[tensor]);
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
            push_tensor(o, n, w, map, w->layer[l][r]);
    push_tensor(o, n, w, map, w->norm);
    push_tensor(o, n, w, map, w->head);
    *order = o;
    return 0;
}
