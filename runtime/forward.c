/* The block, written once for all families. */
#include "runtime/forward.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"

static const char *const ORIGIN = "forward";

struct ps_forward {
    struct ps_forward_options o;
    uint32_t q_dim, kv_dim;
    uint8_t *bytes; /* one allocation, carved below */
    size_t total_bytes;
    float *x;  /* [T][hidden] residual stream */
    float *xn; /* [T][hidden] normed */
    float *q, *k, *v;
    float *att;       /* [T][q_dim] */
    float *gate, *up; /* [T][inter] */
    float *cos, *sin;
    float *vec;     /* one vector as float32 */
    float *scratch; /* attention */
    uint32_t *pos;
    uint8_t *packed;
    size_t packed_bytes;
    struct ps_act *chunks; /* prepared activations, ubatch rows each */
    uint32_t n_chunks;
    /* progress of a prompt's sweep */
    uint64_t done_bytes, total_bytes_per_sweep, told_ns;
    bool telling;
    /* what `packed` holds now */
    const float *packed_of;
    enum ps_dtype packed_for;
};

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint64_t align64(uint64_t n)
{
    return (n + 63) / 64 * 64;
}

static int check_interrupt(const struct ps_forward *f, struct ps_err *err)
{
    if (f->o.interrupt && atomic_load(f->o.interrupt))
        return ps_err_set(err, PS_EINTERRUPTED, ORIGIN, "interrupted");
    return 0;
}

/* Largest packed form of any input of this model, all chunks together. */
static uint64_t packed_bytes(const struct ps_arch *a, const struct ps_backend *b, uint32_t rows,
                             uint32_t ubatch)
{
    static const enum ps_dtype TYPES[] = {PS_F32, PS_F16, PS_BF16};
    uint32_t k = max_u32(max_u32(a->hidden, a->inter), a->n_heads * a->head_dim);
    uint64_t most = 0;
    for (size_t i = 0; i < 3; i++) {
        uint64_t full = rows / ubatch, rest = rows % ubatch;
        uint64_t n = full * align64(b->act_bytes(TYPES[i], ubatch, k));
        n += rest ? align64(b->act_bytes(TYPES[i], rest, k)) : 0;
        most = n > most ? n : most;
    }
    return most + 64;
}

static uint32_t longest_vector(const struct ps_arch *a)
{
    return max_u32(max_u32(a->hidden, a->inter), a->n_heads * a->head_dim);
}

/* Lays the buffers out; with base == NULL only counts. */
static uint64_t carve(struct ps_forward *f, uint8_t *base, const struct ps_arch *a,
                      const struct ps_backend *b, uint32_t rows, uint32_t ubatch, unsigned threads)
{
    uint64_t at = 0, T = rows, q_dim = (uint64_t)a->n_heads * a->head_dim,
             kv_dim = (uint64_t)a->n_kv_heads * a->head_dim;
    struct {
        void **p;
        uint64_t bytes;
    } parts[] = {
        {(void **)&f->x, T * a->hidden * 4},
        {(void **)&f->xn, T * a->hidden * 4},
        {(void **)&f->q, T * q_dim * 4},
        {(void **)&f->k, T * kv_dim * 4},
        {(void **)&f->v, T * kv_dim * 4},
        {(void **)&f->att, T * q_dim * 4},
        {(void **)&f->gate, T * a->inter * 4},
        {(void **)&f->up, T * a->inter * 4},
        {(void **)&f->cos, T * a->rot_dim * 2},
        {(void **)&f->sin, T * a->rot_dim * 2},
        {(void **)&f->vec, longest_vector(a) * 4ull},
        {(void **)&f->scratch, ps_attn_scratch_floats(threads, a->head_dim) * 4ull},
        {(void **)&f->pos, T * 4},
        {(void **)&f->packed, packed_bytes(a, b, rows, ubatch)},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (base)
            *parts[i].p = base + at;
        at += align64(parts[i].bytes + 64); /* room for a vector load past the end */
    }
    return at;
}

static uint32_t effective_ubatch(uint32_t ubatch, uint32_t max_rows)
{
    uint32_t u = ubatch ? ubatch : 512;
    return u < max_rows ? u : max_rows;
}

uint64_t ps_forward_bytes(const struct ps_arch *a, const struct ps_backend *b, uint32_t max_rows,
                          uint32_t ubatch, unsigned threads)
{
    struct ps_forward none;
    return carve(&none, NULL, a, b, max_rows, effective_ubatch(ubatch, max_rows), threads);
}

int ps_forward_new(struct ps_forward **out, const struct ps_forward_options *o, struct ps_err *err)
{
    struct ps_forward *f = ps_calloc(1, sizeof *f);
    if (!f)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    const struct ps_arch *a = o->arch;
    unsigned threads = ps_pool_threads(o->pool);
    f->o = *o;
    f->o.ubatch = effective_ubatch(o->ubatch, o->max_rows);
    f->q_dim = a->n_heads * a->head_dim;
    f->kv_dim = a->n_kv_heads * a->head_dim;
    f->total_bytes = carve(f, NULL, a, o->backend, o->max_rows, f->o.ubatch, threads);
    f->bytes = ps_alloc_pages(f->total_bytes, 4096);
    f->n_chunks = (o->max_rows + f->o.ubatch - 1) / f->o.ubatch;
    f->chunks = ps_calloc(f->n_chunks, sizeof *f->chunks);
    if (!f->bytes || !f->chunks) {
        ps_forward_free(f);
        return ps_err_set(err, PS_EBUDGET, ORIGIN,
                          "no memory for the activations of %u rows: use a shorter prompt",
                          o->max_rows);
    }
    carve(f, f->bytes, a, o->backend, o->max_rows, f->o.ubatch, threads);
    f->packed_bytes = packed_bytes(a, o->backend, o->max_rows, f->o.ubatch);
    for (uint32_t i = 0; i < o->map->n_extents; i++)
        if (o->weights->embed == o->weights->head || o->map->extents[i].tensor != o->weights->embed)
            f->total_bytes_per_sweep += o->map->extents[i].stored_bytes;
    *out = f;
    return 0;
}

void ps_forward_free(struct ps_forward *f)
{
    if (!f)
        return;
    if (f->bytes)
        ps_free_pages(f->bytes, f->total_bytes);
    ps_free(f->chunks);
    ps_free(f);
}

/* Prepares in[T][K] for weights of this type, unless that is what lies there already (q, k and v share one input). */
static void pack(struct ps_forward *f, const float *in, size_t T, size_t K, enum ps_dtype weights)
{
    if (f->packed_of == in && f->packed_for == weights)
        return;
    uint8_t *p = f->packed;
    uint32_t u = f->o.ubatch;
    for (size_t t = 0, c = 0; t < T; t += u, c++) {
        size_t n = T - t < u ? T - t : u;
        struct ps_act *act = &f->chunks[c];
        *act =
            (struct ps_act){.a = in + t * K, .T = n, .K = K, .lda = K, .weights = weights, .packed = p};
        p += align64(f->o.backend->act_bytes(weights, n, K));
        f->o.backend->act_pack(f->o.pool, act);
    }
    PS_ASSERT((size_t)(p - f->packed) <= f->packed_bytes);
    f->packed_of = in;
    f->packed_for = weights;
}

/* The input buffer got new contents. */
static void stale(struct ps_forward *f)
{
    f->packed_of = NULL;
}

/* A prompt's sweep may take as long as a download: its caller hears of it. */
static void tell(struct ps_forward *f, uint64_t bytes)
{
    f->done_bytes += bytes;
    if (!f->telling || ps_now_ns() - f->told_ns < PS_NS_PER_S / 5)
        return;
    f->told_ns = ps_now_ns();
    f->o.progress(f->o.progress_user, f->done_bytes, f->total_bytes_per_sweep);
}

/* The next token is most likely among the best of these rows: keep those for its embedding. */
static void stash_rows(struct ps_forward *f, const struct ps_panel *p, size_t row_bytes,
                       const float *logits)
{
    for (uint32_t r = 0; r < p->extent->n_rows; r++)
        ps_sweep_stash_offer(f->o.sweep, (uint32_t)p->extent->row0 + r, logits[p->extent->row0 + r],
                             p->data + r * row_bytes);
}

/* out[T][ldc] (+)= in[T][K] * W^T, W arriving as panels. */
static int matrix(struct ps_forward *f, uint32_t tensor, const float *in, size_t T, float *out,
                  size_t ldc, bool add, struct ps_err *err)
{
    const struct ps_tensor *t = &f->o.map->tensors[tensor];
    pack(f, in, T, t->cols, t->dtype);
    size_t n_chunks = (T + f->o.ubatch - 1) / f->o.ubatch;
    bool keep_rows = tensor == f->o.weights->embed && T == 1; /* a tied head */
    if (keep_rows)
        ps_sweep_stash_clear(f->o.sweep);
    for (uint32_t i = 0; i < t->n_extents; i++) {
        struct ps_panel p;
        int rc = ps_sweep_next(f->o.sweep, t->first_extent + i, &p, err);
        if (rc < 0)
            return rc;
        if ((rc = check_interrupt(f, err)) < 0) { /* a long prompt spends seconds on one panel */
            ps_sweep_release(f->o.sweep, &p);
            return rc;
        }
        for (size_t c = 0; c < n_chunks; c++)
            f->o.backend->matmul(f->o.pool, &f->chunks[c], p.data, t->row_bytes, p.extent->n_rows,
                                 out + c * f->o.ubatch * ldc, ldc, p.extent->row0, add);
        if (keep_rows)
            stash_rows(f, &p, t->row_bytes, out);
        tell(f, p.extent->stored_bytes);
        ps_sweep_release(f->o.sweep, &p);
    }
    return 0;
}

/* A norm weight or bias as float32 in f->vec. */
static int vector(struct ps_forward *f, uint32_t tensor, struct ps_err *err)
{
    const struct ps_tensor *t = &f->o.map->tensors[tensor];
    struct ps_panel p;
    int rc = ps_sweep_next(f->o.sweep, t->first_extent, &p, err);
    if (rc < 0)
        return rc;
    rc = ps_to_f32(f->vec, p.data, t->dtype, t->cols);
    ps_sweep_release(f->o.sweep, &p);
    return rc;
}

static int norm(struct ps_forward *f, uint32_t tensor, float *out, const float *in, size_t T,
                size_t K, struct ps_err *err)
{
    int rc = vector(f, tensor, err);
    if (rc == 0)
        f->o.backend->rmsnorm(f->o.pool, out, K, in, K, f->vec, 0.0f, T, K, f->o.arch->rms_eps);
    stale(f);
    return rc;
}

static int bias(struct ps_forward *f, uint32_t tensor, float *x, size_t T, size_t K,
                struct ps_err *err)
{
    if (tensor == PS_NO_TENSOR)
        return 0;
    int rc = vector(f, tensor, err);
    if (rc == 0)
        ps_add_bias(x, K, f->vec, T, K);
    return rc;
}

/* Matrix and its bias, in the order in which the sweep brings them. */
static int linear(struct ps_forward *f, const uint32_t *w, enum ps_role role, const float *in,
                  size_t T, float *out, size_t n_out, bool add, struct ps_err *err)
{
    int rc = matrix(f, w[role], in, T, out, n_out, add, err);
    return rc < 0 ? rc : bias(f, w[role + 1], out, T, n_out, err);
}

static int attention(struct ps_forward *f, struct ps_kv *kv, const uint32_t *w, uint32_t layer,
                     size_t T, struct ps_err *err)
{
    const struct ps_arch *a = f->o.arch;
    int rc;
    if ((rc = norm(f, w[PS_W_ATTN_NORM], f->xn, f->x, T, a->hidden, err)) < 0 ||
        (rc = linear(f, w, PS_W_Q, f->xn, T, f->q, f->q_dim, false, err)) < 0 ||
        (rc = linear(f, w, PS_W_K, f->xn, T, f->k, f->kv_dim, false, err)) < 0 ||
        (rc = linear(f, w, PS_W_V, f->xn, T, f->v, f->kv_dim, false, err)) < 0)
        return rc;
    /* heads lie side by side, so a per-head norm is a norm of T * heads short rows */
    if (w[PS_W_Q_NORM] != PS_NO_TENSOR &&
        (rc = norm(f, w[PS_W_Q_NORM], f->q, f->q, T * a->n_heads, a->head_dim, err)) < 0)
        return rc;
    if (w[PS_W_K_NORM] != PS_NO_TENSOR &&
        (rc = norm(f, w[PS_W_K_NORM], f->k, f->k, T * a->n_kv_heads, a->head_dim, err)) < 0)
        return rc;
    ps_rope(f->q, f->q_dim, T, a->n_heads, a->head_dim, a->rot_dim, f->cos, f->sin, false);
    ps_rope(f->k, f->kv_dim, T, a->n_kv_heads, a->head_dim, a->rot_dim, f->cos, f->sin, false);
    for (size_t t = 0; t < T; t++)
        ps_kv_put(kv, layer, f->pos[t], f->k + t * f->kv_dim, f->v + t * f->kv_dim);
    struct ps_attn attn = {
        .q = f->q,
        .q_ld = f->q_dim,
        .out = f->att,
        .out_ld = f->q_dim,
        .T = T,
        .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads,
        .head_dim = a->head_dim,
        .pos = f->pos,
        .window = a->window[layer],
        .scale = 1.0f / sqrtf((float)a->head_dim),
        .k_pages = kv->k_pages + (size_t)layer * kv->n_pages,
        .v_pages = kv->v_pages + (size_t)layer * kv->n_pages,
        .k_dtype = kv->k_dtype,
        .v_dtype = kv->v_dtype,
        .scratch = f->scratch,
    };
    /* in chunks, so that an interrupt is heard; a row's result depends on the row alone */
    for (size_t t = 0; t < T; t += f->o.ubatch) {
        attn.q = f->q + t * f->q_dim;
        attn.out = f->att + t * f->q_dim;
        attn.pos = f->pos + t;
        attn.T = T - t < f->o.ubatch ? T - t : f->o.ubatch;
        f->o.backend->attention(f->o.pool, &attn);
        if ((rc = check_interrupt(f, err)) < 0)
            return rc;
    }
    stale(f);
    return linear(f, w, PS_W_O, f->att, T, f->x, a->hidden, true, err);
}

static int mlp(struct ps_forward *f, const uint32_t *w, size_t T, struct ps_err *err)
{
    const struct ps_arch *a = f->o.arch;
    int rc;
    if ((rc = norm(f, w[PS_W_MLP_NORM], f->xn, f->x, T, a->hidden, err)) < 0 ||
        (rc = linear(f, w, PS_W_GATE, f->xn, T, f->gate, a->inter, false, err)) < 0 ||
        (rc = linear(f, w, PS_W_UP, f->xn, T, f->up, a->inter, false, err)) < 0)
        return rc;
    f->o.backend->swiglu(f->o.pool, f->gate, a->inter, f->gate, a->inter, f->up, a->inter, T,
                         a->inter);
    stale(f);
    return linear(f, w, PS_W_DOWN, f->gate, T, f->x, a->hidden, true, err);
}

int ps_forward_sweep(struct ps_forward *f, struct ps_kv *kv, const uint32_t *ids, size_t T,
                     uint32_t pos0, float *logits, bool all, struct ps_err *err)
{
    const struct ps_arch *a = f->o.arch;
    const struct ps_weights *w = f->o.weights;
    PS_ASSERT(T >= 1 && T <= f->o.max_rows && pos0 + T <= ps_kv_capacity(kv));
    int rc = ps_sweep_begin(f->o.sweep, err);
    for (size_t t = 0; t < T; t++)
        f->pos[t] = pos0 + (uint32_t)t;
    f->telling = f->o.progress && pos0 == 0;
    f->done_bytes = 0;
    stale(f);
    if (rc == 0)
        rc = ps_sweep_gather(f->o.sweep, ids, T, f->x, a->hidden, err);
    ps_rope_tables(f->cos, f->sin, a, f->pos, T);
    for (uint32_t l = 0; rc == 0 && l < a->n_layers; l++) {
        rc = attention(f, kv, w->layer[l], l, T, err);
        if (rc == 0)
            rc = mlp(f, w->layer[l], T, err);
    }
    if (rc < 0)
        return rc;
    size_t rows = all ? T : 1;
    if ((rc = norm(f, w->norm, f->xn, f->x + (T - rows) * a->hidden, rows, a->hidden, err)) < 0 ||
        (rc = matrix(f, w->head, f->xn, rows, logits, a->vocab, false, err)) < 0)
        return rc;
    kv->length = pos0 + (uint32_t)T;
    return 0;
}
