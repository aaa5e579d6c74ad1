/* The layers' arithmetic on the CPU: panels come from the scheduler as they lie, the kernels multiply them on a pool of
 * threads. */
#include <string.h>

#include "base/alloc.h"
#include "runtime/compute.h"

static const char *const ORIGIN = "forward";

struct host {
    struct ps_compute c;
    const struct ps_backend *backend;
    struct ps_pool *pool;
    uint8_t *bytes; /* one allocation, carved below */
    size_t total_bytes;
    size_t T;
    float *cos, *sin; /* [T][rot_dim / 2] */
    float *vec;       /* one vector as float32 */
    float *scratch;   /* attention */
    uint32_t *pos;
    uint8_t *packed;
    size_t packed_bytes;
    uint8_t *scales;       /* of the matrix at work, where they lie apart from it */
    float *up;             /* [ubatch][rows of a panel]: where rows.up is not */
    struct ps_act *chunks; /* prepared activations, ubatch rows each */
    uint32_t n_chunks;
    /* what `packed` holds now, if that is all rows of it */
    const float *packed_of;
    enum ps_dtype packed_for;
};

static uint64_t align64(uint64_t n)
{
    return (n + 63) / 64 * 64;
}

/* Largest packed form of any input of this model: of `rows` rows, ubatch at a time. */
static uint64_t packed_bytes(const struct ps_compute_options *o, const struct ps_backend *b,
                             uint32_t rows)
{
    const struct ps_arch *a = o->arch;
    uint32_t ubatch = o->ubatch;
    uint32_t k = ps_arch_widest(a);
    uint64_t most = 0;
    for (enum ps_dtype t = PS_F32; t <= PS_DTYPE_LAST; t++) {
        uint64_t full = rows / ubatch, rest = rows % ubatch;
        if (!ps_weights_has(o->weights, t))
            continue;
        uint64_t n = full * align64(b->act_bytes(t, ubatch, k));
        n += rest ? align64(b->act_bytes(t, rest, k)) : 0;
        most = n > most ? n : most;
    }
    return most + 64;
}

/* Most rows of a panel of an up matrix; 0: its products have to lie whole, because a bias follows them. */
static uint32_t gated_rows(const struct ps_compute_options *o)
{
    uint32_t most = 0;
    for (uint32_t l = 0; l < o->weights->n_layers; l++) {
        const struct ps_tensor *t = &o->map->tensors[o->weights->layer[l][PS_W_UP]];
        if (o->weights->layer[l][PS_W_UP_BIAS] != PS_NO_TENSOR)
            return 0;
        for (uint32_t i = 0; i < t->n_extents; i++) {
            uint32_t n = o->map->extents[t->first_extent + i].n_rows;
            most = n > most ? n : most;
        }
    }
    return most;
}

/* Lays the buffers out; with base == NULL only counts. */
static uint64_t carve(struct host *h, uint8_t *base, const struct ps_compute_options *o,
                      const struct ps_backend *b, unsigned threads)
{
    const struct ps_arch *a = o->arch;
    uint32_t up_rows = o->small ? gated_rows(o) : 0;
    uint64_t T = o->max_rows, at = ps_rows_carve(&h->c.rows, base, a, T, up_rows > 0);
    h->packed_bytes = packed_bytes(o, b, o->small ? o->ubatch : o->max_rows);
    const struct {
        void **p;
        uint64_t bytes;
    } parts[] = {
        {(void **)&h->cos, T * a->rot_dim * 2},
        {(void **)&h->sin, T * a->rot_dim * 2},
        {(void **)&h->vec, ps_arch_widest(a) * 4ull},
        {(void **)&h->scratch, ps_attn_scratch_floats(threads, a->head_dim) * 4ull},
        {(void **)&h->pos, T * 4},
        {(void **)&h->packed, h->packed_bytes},
        {(void **)&h->scales, o->weights->scale_bytes},
        {(void **)&h->up, (uint64_t)o->ubatch * up_rows * 4},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (base)
            *parts[i].p = base + at;
        at += align64(parts[i].bytes + 64); /* room for a vector load past the end */
    }
    return at;
}

/* Chunks that are there at once. */
static uint32_t n_chunks(const struct ps_compute_options *o)
{
    return o->small ? 1 : (o->max_rows + o->ubatch - 1) / o->ubatch;
}

uint64_t ps_compute_host_bytes(const struct ps_compute_options *o, const struct ps_backend *b,
                               unsigned threads)
{
    struct host none;
    return carve(&none, NULL, o, b, threads) + (uint64_t)n_chunks(o) * sizeof(struct ps_act);
}

/* One input, and its product with one matrix. */
struct product {
    const float *in;
    size_t n, K;
    float *out;
    size_t ldc;
    bool add, gated; /* gated: out = silu(out) * product */
};

static size_t chunk_rows(const struct host *h, const struct product *p, size_t k)
{
    size_t left = p->n - k * h->c.o.ubatch;
    return left < h->c.o.ubatch ? left : h->c.o.ubatch;
}

/* Returns the bytes of its packed form. */
static size_t pack_chunk(struct host *h, struct ps_act *act, const struct product *p,
                         enum ps_dtype weights, size_t k, uint8_t *at)
{
    size_t rows = chunk_rows(h, p, k);
    *act = (struct ps_act){.a = p->in + k * h->c.o.ubatch * p->K,
                           .T = rows,
                           .K = p->K,
                           .lda = p->K,
                           .weights = weights,
                           .packed = at};
    size_t bytes = align64(h->backend->act_bytes(weights, rows, p->K));
    PS_ASSERT((size_t)(at - h->packed) + bytes <= h->packed_bytes);
    h->backend->act_pack(h->pool, act);
    return bytes;
}

static bool packs_all(const struct host *h, const struct product *p)
{
    return !h->c.o.small || p->n <= h->c.o.ubatch;
}

/* Prepares all of the input for weights of this type, unless that is what lies there already (q, k and v share one
 * input). Where there is no room for all, each panel packs its chunks anew. */
static void pack(struct host *h, const struct product *p, enum ps_dtype weights)
{
    if (!packs_all(h, p)) {
        h->packed_of = NULL;
        return;
    }
    if (h->packed_of == p->in && h->packed_for == weights)
        return;
    uint8_t *at = h->packed;
    for (size_t k = 0; k * h->c.o.ubatch < p->n; k++)
        at += pack_chunk(h, &h->chunks[k], p, weights, k, at);
    h->packed_of = p->in;
    h->packed_for = weights;
}

/* All rows with some panels, if the product is gated with one. */
static void multiply(struct host *h, const struct product *p, const struct ps_matrix *w, size_t n)
{
    bool anew = !packs_all(h, p);
    for (size_t k = 0; k * h->c.o.ubatch < p->n; k++) {
        float *out = p->out + k * h->c.o.ubatch * p->ldc;
        struct ps_act *act = &h->chunks[anew ? 0 : k];
        if (anew)
            pack_chunk(h, act, p, w->type, k, h->packed);
        if (!p->gated) {
            h->backend->matmul(h->pool, act, w, n, out, p->ldc, p->add);
            continue;
        }
        /* the panel's rows keep their place, which says where their scales are; its products begin at h->up */
        float *up = (float *)((uintptr_t)h->up - w->row0 * sizeof(float));
        h->backend->matmul(h->pool, act, w, 1, up, w->n_rows, false);
        h->backend->swiglu(h->pool, out + w->row0, p->ldc, out + w->row0, p->ldc, h->up, w->n_rows,
                           chunk_rows(h, p, k), w->n_rows);
    }
}

/* An input buffer got new contents. */
static void stale(struct host *h)
{
    h->packed_of = NULL;
}

/* The next token is most likely among the best of these rows: keep those for its embedding. */
static void stash_rows(struct host *h, const struct ps_panel *p, const float *logits)
{
    const struct ps_tensor *t = &h->c.o.map->tensors[p->extent->tensor];
    size_t row_bytes = t->row_bytes;
    if (ps_extent_dtype(h->c.o.map, p->extent) != t->dtype)
        return; /* rows of another size: they are read again */
    for (uint32_t r = 0; r < p->extent->n_rows; r++)
        ps_sweep_stash_offer(h->c.o.sweep, (uint32_t)p->extent->row0 + r,
                             logits[p->extent->row0 + r], p->data + r * row_bytes);
}

/* The scales of a matrix, as the kernels take them, to h->scales; nothing where it has none. */
static int take_scales(struct host *h, const struct ps_bound *b, struct ps_err *err)
{
    const struct ps_map *m = h->c.o.map;
    if (b->scales == PS_NO_TENSOR)
        return 0;
    const struct ps_tensor *s = &m->tensors[b->scales];
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < s->n_extents; i++) {
        struct ps_panel p;
        if ((rc = ps_sweep_next(h->c.o.sweep, s->first_extent + i, &p, err)) < 0)
            return rc;
        size_t first = p.extent->row0 * s->cols, n = p.extent->n_rows * s->cols;
        if (b->type == PS_MXFP4)
            memcpy(h->scales + first, p.data, n);
        else
            rc = ps_to_f32((float *)(void *)h->scales + first, p.data, s->dtype, n);
        ps_compute_tell(&h->c, p.extent->stored_bytes);
        ps_sweep_release(h->c.o.sweep, &p);
    }
    return rc;
}

/* Panels that one kernel call takes, and the rows of activations up to which it does: with more, one panel is work
 * enough, and an interrupt is to be heard. */
#define BATCH      32
#define BATCH_ROWS 32

/* Takes extent `first` of the tensor and, where panels are small work, those behind it that lie in memory and are
 * of its type. Returns their number. */
static int take_panels(struct host *h, const struct ps_tensor *t, uint32_t first,
                       const struct product *p, struct ps_panel *panels, struct ps_err *err)
{
    struct ps_sweep *sweep = h->c.o.sweep;
    const struct ps_extent *extents = &h->c.o.map->extents[t->first_extent];
    uint32_t n = 1, most = p->n > BATCH_ROWS || p->gated ? 1 : BATCH;
    int rc = ps_sweep_next(sweep, t->first_extent + first, &panels[0], err);
    if (rc < 0)
        return rc;
    enum ps_dtype type = ps_extent_dtype(h->c.o.map, &extents[first]);
    while (n < most && first + n < t->n_extents &&
           ps_extent_dtype(h->c.o.map, &extents[first + n]) == type &&
           ps_sweep_next_resident(sweep, t->first_extent + first + n, &panels[n]))
        n++;
    return (int)n;
}

static int each_panel(struct host *h, uint32_t tensor, const struct product *p, struct ps_err *err)
{
    struct ps_compute *c = &h->c;
    const struct ps_tensor *t = &c->o.map->tensors[tensor];
    int rc = take_scales(h, &c->o.weights->bound[tensor], err);
    if (rc < 0)
        return rc;
    bool keep_rows = tensor == c->o.weights->embed && p->n == 1; /* a tied head */
    if (keep_rows)
        ps_sweep_stash_clear(c->o.sweep);
    for (uint32_t i = 0; rc == 0 && i < t->n_extents;) {
        struct ps_panel panels[BATCH];
        struct ps_matrix w[BATCH];
        int n = take_panels(h, t, i, p, panels, err);
        if (n < 0)
            return n;
        for (int k = 0; k < n; k++, i++)
            w[k] = ps_weights_panel(c->o.map, c->o.weights, t->first_extent + i, panels[k].data,
                                    h->scales);
        rc = ps_compute_interrupted(c, err); /* a long prompt spends seconds on one panel */
        if (rc == 0) {
            pack(h, p, w[0].type);
            multiply(h, p, w, (size_t)n);
        }
        for (int k = 0; k < n; k++) {
            if (rc == 0 && keep_rows)
                stash_rows(h, &panels[k], p->out);
            if (rc == 0)
                ps_compute_tell(c, panels[k].extent->stored_bytes);
            ps_sweep_release(c->o.sweep, &panels[k]);
        }
    }
    return rc;
}

static int host_matrix(struct ps_compute *c, uint32_t tensor, const float *in, size_t n, float *out,
                       size_t ldc, bool add, struct ps_err *err)
{
    const struct product p = {
        .in = in, .n = n, .K = c->o.weights->bound[tensor].cols, .out = out, .ldc = ldc, .add = add};
    return each_panel((struct host *)c, tensor, &p, err);
}

/* A norm weight or bias as float32 in h->vec. */
static int vector(struct host *h, uint32_t tensor, struct ps_err *err)
{
    const struct ps_tensor *t = &h->c.o.map->tensors[tensor];
    struct ps_panel p;
    int rc = ps_sweep_next(h->c.o.sweep, t->first_extent, &p, err);
    if (rc < 0)
        return rc;
    rc = ps_to_f32(h->vec, p.data, t->dtype, t->cols);
    ps_sweep_release(h->c.o.sweep, &p);
    return rc;
}

static int host_norm(struct ps_compute *c, uint32_t tensor, float *out, const float *in, size_t n,
                     size_t K, struct ps_err *err)
{
    struct host *h = (struct host *)c;
    int rc = vector(h, tensor, err);
    if (rc == 0)
        h->backend->rmsnorm(h->pool, out, K, in, K, h->vec, 0.0f, n, K, c->o.arch->rms_eps);
    stale(h);
    return rc;
}

static int host_bias(struct ps_compute *c, uint32_t tensor, float *x, size_t n, size_t K,
                     struct ps_err *err)
{
    struct host *h = (struct host *)c;
    int rc = vector(h, tensor, err);
    if (rc == 0)
        ps_add_bias(x, K, h->vec, n, K);
    return rc;
}

static int host_begin(struct ps_compute *c, uint32_t pos0, size_t T, bool new_sweep,
                      struct ps_err *err)
{
    struct host *h = (struct host *)c;
    (void)err;
    h->T = T;
    for (size_t t = 0; t < T; t++)
        h->pos[t] = pos0 + (uint32_t)t;
    ps_rope_tables(h->cos, h->sin, c->o.arch, h->pos, T);
    stale(h);
    if (new_sweep)
        ps_sweep_begin(c->o.sweep, false);
    return 0;
}

static int host_gather(struct ps_compute *c, const uint32_t *ids, struct ps_err *err)
{
    struct host *h = (struct host *)c;
    return ps_sweep_gather(c->o.sweep, ids, h->T, c->rows.x, c->o.arch->hidden, err);
}

static int host_rope(struct ps_compute *c, float *x, uint32_t n_heads, struct ps_err *err)
{
    struct host *h = (struct host *)c;
    const struct ps_arch *a = c->o.arch;
    (void)err;
    ps_rope(x, (size_t)n_heads * a->head_dim, h->T, n_heads, a->head_dim, a->rot_dim, h->cos,
            h->sin, false);
    return 0;
}

static int host_kv_put(struct ps_compute *c, struct ps_kv *kv, uint32_t layer, struct ps_err *err)
{
    struct host *h = (struct host *)c;
    size_t kv_dim = (size_t)c->o.arch->n_kv_heads * c->o.arch->head_dim;
    (void)err;
    for (size_t t = 0; t < h->T; t++)
        ps_kv_put(kv, layer, h->pos[t], c->rows.k + t * kv_dim, c->rows.v + t * kv_dim);
    return 0;
}

static int host_attention(struct ps_compute *c, struct ps_kv *kv, uint32_t layer, struct ps_err *err)
{
    struct host *h = (struct host *)c;
    struct ps_attn attn = ps_compute_attn(c, kv, layer);
    size_t q_dim = attn.q_ld;
    attn.scratch = h->scratch;
    /* in chunks, so that an interrupt is heard; a row's result depends on the row alone */
    for (size_t t = 0; t < h->T; t += c->o.ubatch) {
        attn.q = c->rows.q + t * q_dim;
        attn.out = c->rows.att + t * q_dim;
        attn.pos = h->pos + t;
        attn.T = h->T - t < c->o.ubatch ? h->T - t : c->o.ubatch;
        h->backend->attention(h->pool, &attn);
        int rc = ps_compute_interrupted(c, err);
        if (rc < 0)
            return rc;
    }
    stale(h);
    return 0;
}

static int host_swiglu(struct ps_compute *c, struct ps_err *err)
{
    struct host *h = (struct host *)c;
    size_t K = c->o.arch->inter;
    (void)err;
    h->backend->swiglu(h->pool, c->rows.gate, K, c->rows.gate, K, c->rows.up, K, h->T, K);
    stale(h);
    return 0;
}

static int host_gated(struct ps_compute *c, uint32_t tensor, const float *in, size_t n,
                      struct ps_err *err)
{
    struct host *h = (struct host *)c;
    const struct product p = {.in = in,
                              .n = n,
                              .K = c->o.weights->bound[tensor].cols,
                              .out = c->rows.gate,
                              .ldc = c->o.arch->inter,
                              .gated = true};
    int rc = each_panel(h, tensor, &p, err);
    stale(h);
    return rc;
}

static int host_logits(struct ps_compute *c, const float *in, size_t n, float *out, struct ps_err *err)
{
    return host_matrix(c, c->o.weights->head, in, n, out, c->o.arch->vocab, false, err);
}

static const float *host_x(struct ps_compute *c)
{
    return c->rows.x;
}

static void host_free(struct ps_compute *c)
{
    struct host *h = (struct host *)c;
    if (h->bytes)
        ps_free_pages(h->bytes, h->total_bytes);
    ps_free(h->chunks);
    ps_free(h);
}

static const struct ps_compute_ops HOST = {
    .free = host_free,
    .begin = host_begin,
    .gather = host_gather,
    .norm = host_norm,
    .matrix = host_matrix,
    .bias = host_bias,
    .rope = host_rope,
    .kv_put = host_kv_put,
    .attention = host_attention,
    .swiglu = host_swiglu,
    .gated = host_gated,
    .logits = host_logits,
    .host_x = host_x,
};

int ps_compute_host_new(struct ps_compute **out, const struct ps_compute_options *o,
                        const struct ps_backend *backend, struct ps_pool *pool, struct ps_err *err)
{
    struct host *h = ps_calloc(1, sizeof *h);
    if (!h)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    unsigned threads = ps_pool_threads(pool);
    h->c.ops = &HOST;
    h->c.o = *o;
    h->backend = backend;
    h->pool = pool;
    h->total_bytes = carve(h, NULL, o, backend, threads);
    h->bytes = ps_alloc_pages(h->total_bytes, 4096);
    h->n_chunks = n_chunks(o);
    h->chunks = ps_calloc(h->n_chunks, sizeof *h->chunks);
    if (!h->bytes || !h->chunks) {
        host_free(&h->c);
        return ps_err_set(err, PS_EBUDGET, ORIGIN,
                          "no memory for the activations of %u rows: use a shorter prompt",
                          o->max_rows);
    }
    carve(h, h->bytes, o, backend, threads);
    *out = &h->c;
    return 0;
}
