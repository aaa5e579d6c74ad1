/* Queues a layer's operations on a device. */
#include "runtime/compute_device.h"

#include <string.h>

#include "base/alloc.h"
#include "runtime/row_stash.h"

static const char *const ORIGIN = "device";
/* Most panels of one launch: it costs as much as reading a few megabytes, and one panel may not fill the device. */
#define MERGE 32u
/* Rows of one launch. The default of -ub is made for a CPU's caches; a panel of a few thousand rows of weights fills a
 * large GPU only with more (H100, sweeps of 1024 rows: see SPEED.md). Who asks for fewer gets fewer. */
#define LAUNCH_ROWS    1024u
#define UBATCH_DEFAULT 512u
/* The host queues a layer when the one so many before it is done: an interrupt, or an error, waits for what is
 * queued. Nothing is lost by that. The device has a whole layer before it while the host is woken, and a layer
 * takes the device longer than waking takes, or the host had queued no two ahead anyway; and copies are queued as
 * far as there are slots, well beyond the last layer that is (vram.h), so that the bus does not notice. */
#define LAYERS_AHEAD (PS_COMPUTE_MARKS - 1)
/* Logits of a tied head that are looked at together. */
#define SCORES 4096u
/* Packed rows come in tiles: many launches of a row each would take several times the memory that was planned. */
#define ROWS_ROUND_TO 8u

struct device {
    struct ps_compute c;
    struct ps_device_place at;
    uint32_t mark;  /* our own: behind the logits; the LAYERS_AHEAD that follow: behind layers */
    uint8_t *bytes; /* on the device; carved below */
    float *cos, *sin, *vec, *scratch, *logits;
    uint8_t *kept;             /* rows of a tied head, as `stash` says; NULL: none */
    struct ps_row_stash stash; /* its rows and scores; the bytes are in `kept` */
    float *host_scores;        /* [SCORES] */
    uint32_t *pos;
    uint8_t *packed;
    size_t packed_bytes;
    uint8_t *scales;            /* of the matrix at work, where they lie apart from it */
    uint32_t *host_pos;         /* [max_rows] */
    float *host_cos, *host_sin; /* [max_rows][rot_dim / 2] */
    float *host_x;              /* [max_rows][hidden]: embedding rows on their way in */
    uint32_t *host_ids,
        *host_rows; /* [max_rows]: of those that host_x holds: ids, and which rows they are */
    struct ps_act *chunks; /* ubatch rows each */
    uint32_t n_chunks;
    size_t T;
    uint32_t pos0;
    const float *packed_of;
    enum ps_dtype packed_for;
};

/* A KV cache's device part. */
struct ps_kv_away {
    struct ps_device_place at;
    bool shared;
    void *bytes;
    void *tables; /* [2][n_layers][n_pages] pointers: K, then V */
};

static int told(int rc, struct ps_err *err)
{
    return rc < 0 ? ps_err_set(err, rc, ORIGIN, "the device refuses work: use --device cpu") : 0;
}

/* ---- memory ---- */

/* Packed form of the widest input, all chunks together. */
static uint64_t packed_bytes(const struct ps_device_api *api, struct ps_device *d,
                             const struct ps_compute_options *o)
{
    const struct ps_arch *a = o->arch;
    uint32_t rows = o->max_rows, ubatch = o->ubatch;
    uint32_t k = ps_arch_widest(a);
    uint64_t most = 0;
    for (enum ps_dtype t = PS_F32; t <= PS_DTYPE_LAST; t++) {
        uint64_t full = rows / ubatch, rest = rows % ubatch;
        if (!ps_weights_has(o->weights, t))
            continue;
        uint64_t n = full * ps_device_align(api->act_bytes(d, t, ubatch, k));
        n += rest ? ps_device_align(api->act_bytes(d, t, rest, k)) : 0;
        most = n > most ? n : most;
    }
    return most;
}

static bool is_tied(const struct ps_compute_options *o)
{
    return o->weights->embed == o->weights->head;
}

/* Lays the device memory out; with base == NULL only counts. */
static uint64_t carve(struct device *v, uint8_t *base, const struct ps_device_api *api,
                      struct ps_device *d, const struct ps_compute_options *o)
{
    const struct ps_arch *a = o->arch;
    uint64_t T = o->max_rows, at = ps_rows_carve(&v->c.rows, base, a, T, false);
    uint64_t row_bytes = is_tied(o) ? o->map->tensors[o->weights->head].row_bytes : 0;
    v->packed_bytes = packed_bytes(api, d, o);
    const struct {
        void **p;
        uint64_t bytes;
    } parts[] = {
        {(void **)&v->cos, T * a->rot_dim * 2},
        {(void **)&v->sin, T * a->rot_dim * 2},
        {(void **)&v->vec, ps_arch_widest(a) * 4ull},
        {(void **)&v->scratch,
         api->attn_bytes(d, o->ubatch, a->n_heads, a->head_dim, o->ctx ? o->ctx - 1 : 0)},
        {(void **)&v->pos, T * 4},
        {(void **)&v->packed, v->packed_bytes},
        {(void **)&v->scales, o->weights->scale_bytes},
        {(void **)&v->logits, (uint64_t)o->logit_rows * a->vocab * 4},
        {(void **)&v->kept, PS_STASH_ROWS * row_bytes},
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (base)
            *parts[i].p = base + at;
        at += ps_device_align(parts[i].bytes + 64);
    }
    return at;
}

uint64_t ps_compute_device_bytes(const struct ps_device_api *api, struct ps_device *d,
                                 const struct ps_compute_options *o)
{
    struct device none;
    return carve(&none, NULL, api, d, o);
}

uint32_t ps_compute_device_ubatch(uint32_t ubatch, uint32_t max_rows)
{
    uint32_t u = ubatch && ubatch < UBATCH_DEFAULT ? ubatch : LAUNCH_ROWS;
    u = (u + ROWS_ROUND_TO - 1) / ROWS_ROUND_TO * ROWS_ROUND_TO;
    return u < max_rows ? u : max_rows;
}

uint64_t ps_compute_device_host_bytes(const struct ps_arch *a, uint32_t max_rows)
{
    return (uint64_t)max_rows * (a->hidden * sizeof(float) + a->rot_dim * sizeof(float) + 12) +
           SCORES * sizeof(float);
}

uint64_t ps_kv_table_bytes(uint32_t n_layers, uint32_t positions)
{
    return ps_device_align(2ull * n_layers * (positions / PS_KV_PAGE + 1) * sizeof(void *));
}

int ps_kv_put_away(struct ps_kv *kv, const struct ps_device_place *place, bool shared,
                   struct ps_err *err)
{
    const struct ps_device_api *api = place->api;
    size_t n = (size_t)kv->n_layers * kv->n_pages;
    uint64_t bytes = (uint64_t)(kv->n_layers - kv->host_layers) * kv->n_pages *
                     (kv->k_page_bytes + kv->v_page_bytes);
    struct ps_kv_away *w = ps_calloc(1, sizeof *w);
    if (!w)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    *w = (struct ps_kv_away){.at = *place, .shared = shared};
    kv->away = w;
    int rc = shared ? api->alloc_shared(place->device, &w->bytes, bytes, err)
                    : api->alloc(place->device, &w->bytes, bytes, err);
    if (rc == 0)
        rc = api->alloc(place->device, &w->tables, 2 * n * sizeof(void *), err);
    if (rc == 0) {
        ps_kv_place(kv, kv->host_layers, kv->n_layers, w->bytes);
        uint8_t *tables = w->tables;
        int queued =
            api->copy_in(place->device, PS_STREAM_COMPUTE, tables, kv->k_pages, n * sizeof(void *));
        if (queued == 0)
            queued = api->copy_in(place->device, PS_STREAM_COMPUTE, tables + n * sizeof(void *),
                                  kv->v_pages, n * sizeof(void *));
        rc = api->sync(place->device, err); /* with the device's own words, if it failed */
        if (rc == 0)
            rc = told(queued, err);
    }
    if (rc < 0)
        ps_kv_free_away(kv);
    return rc;
}

void ps_kv_free_away(struct ps_kv *kv)
{
    struct ps_kv_away *w = kv->away;
    if (!w)
        return;
    w->at.api->free(w->at.device, w->tables);
    if (w->shared)
        w->at.api->free_shared(w->at.device, w->bytes);
    else
        w->at.api->free(w->at.device, w->bytes);
    ps_free(w);
    kv->away = NULL;
}

/* Page tables of one layer, in device memory. */
static void *const *tables_of(const struct ps_kv *kv, uint32_t layer, bool values)
{
    void *const *tables = kv->away->tables;
    return tables + (size_t)(values ? kv->n_layers : 0) * kv->n_pages + (size_t)layer * kv->n_pages;
}

/* ---- weights ---- */

/* Prepares in[n][K] for weights of this type, unless that is what lies there already. */
static int pack(struct device *v, const float *in, size_t n, size_t K, enum ps_dtype weights)
{
    if (v->packed_of == in && v->packed_for == weights)
        return 0;
    uint8_t *p = v->packed;
    uint32_t u = v->c.o.ubatch;
    int rc = 0;
    for (size_t t = 0, i = 0; rc == 0 && t < n; t += u, i++) {
        size_t rows = n - t < u ? n - t : u;
        struct ps_act *act = &v->chunks[i];
        *act = (struct ps_act){
            .a = in + t * K, .T = rows, .K = K, .lda = K, .weights = weights, .packed = p};
        p += ps_device_align(v->at.api->act_bytes(v->at.device, weights, rows, K));
        rc = v->at.api->act_pack(v->at.device, act);
    }
    PS_ASSERT((size_t)(p - v->packed) <= v->packed_bytes);
    v->packed_of = in;
    v->packed_for = weights;
    return rc;
}

static void stale(struct device *v)
{
    v->packed_of = NULL;
}

struct product {
    float *out;
    size_t ldc;
    bool add;
    size_t n_chunks;
    struct ps_matrix panels[MERGE];
    bool passing[MERGE]; /* of a tied head: gone before the next token's embedding is taken from it */
    size_t n_panels;
};

static int multiply(struct device *v, const struct product *p)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && p->n_panels && i < p->n_chunks; i++)
        rc = v->at.api->matmul(v->at.device, &v->chunks[i], p->panels, p->n_panels,
                               p->out + i * v->c.o.ubatch * p->ldc, p->ldc, p->add);
    return rc;
}

/* Scores of the panel's rows, and a copy of those that are among the best so far, before the panel is gone. */
static int keep_best(struct device *v, const struct ps_matrix *panel, const float *logits)
{
    const struct ps_device_api *api = v->at.api;
    int rc = 0;
    for (size_t r = 0, n; rc == 0 && r < panel->n_rows; r += n) {
        n = panel->n_rows - r < SCORES ? panel->n_rows - r : SCORES;
        rc = api->copy_out(v->at.device, PS_STREAM_COMPUTE, v->host_scores,
                           logits + panel->row0 + r, n * sizeof *logits);
        for (size_t i = 0; rc == 0 && i < n; i++)
            ps_row_stash_place(&v->stash, (uint32_t)(panel->row0 + r + i), v->host_scores[i]);
    }
    for (uint32_t i = 0; rc == 0 && i < v->stash.n; i++) {
        size_t row = v->stash.row[i] - panel->row0; /* of an earlier panel: beyond the end */
        if (row < panel->n_rows)
            rc = api->copy_within(v->at.device, PS_STREAM_COMPUTE, v->kept + i * panel->row_stride,
                                  (const uint8_t *)panel->data + row * panel->row_stride,
                                  panel->row_stride);
    }
    return rc;
}

/* The panels taken so far; their slots may be filled again behind this. */
static int launch(struct device *v, struct product *p)
{
    int rc = multiply(v, p);
    for (size_t i = 0; rc == 0 && i < p->n_panels; i++)
        if (p->passing[i])
            rc = keep_best(v, &p->panels[i], p->out);
    p->n_panels = 0;
    return rc < 0 ? rc : ps_vram_release(v->at.vram);
}

/* The scales of a matrix, as the kernels take them, to v->scales; nothing where it has none. Those of the matrix before
 * are not needed any more: the stream works in order. */
static int take_scales(struct device *v, const struct ps_bound *b, struct ps_err *err)
{
    const struct ps_map *m = v->c.o.map;
    if (b->scales == PS_NO_TENSOR)
        return 0;
    const struct ps_tensor *s = &m->tensors[b->scales];
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < s->n_extents; i++) {
        const struct ps_extent *e = &m->extents[s->first_extent + i];
        size_t first = e->row0 * s->cols, n = e->n_rows * s->cols;
        const void *rows;
        if ((rc = ps_vram_next(v->at.vram, s->first_extent + i, &rows, err)) < 0)
            return rc;
        if (b->type == PS_MXFP4)
            rc = v->at.api->copy_within(v->at.device, PS_STREAM_COMPUTE, v->scales + first, rows, n);
        else
            rc = v->at.api->to_f32(v->at.device, (float *)(void *)v->scales + first, rows, s->dtype,
                                   n);
        rc = told(rc < 0 ? rc : ps_vram_release(v->at.vram), err);
        ps_compute_tell(&v->c, e->stored_bytes);
    }
    return rc;
}

static int device_matrix(struct ps_compute *c, uint32_t tensor, const float *in, size_t n,
                         float *out, size_t ldc, bool add, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    const struct ps_tensor *t = &c->o.map->tensors[tensor];
    struct product p = {.out = out,
                        .ldc = ldc,
                        .add = add,
                        .n_chunks = (n + c->o.ubatch - 1) / c->o.ubatch};
    bool keep_rows = tensor == c->o.weights->embed && n == 1; /* a tied head */
    int rc = take_scales(v, &c->o.weights->bound[tensor], err);
    if (keep_rows)
        ps_row_stash_clear(&v->stash);
    for (uint32_t i = 0; rc == 0 && i < t->n_extents; i++) {
        uint32_t x = t->first_extent + i;
        enum ps_dtype type = ps_weights_type(c->o.map, c->o.weights, x);
        const void *rows;
        if (p.n_panels && type != p.panels[0].type && (rc = told(launch(v, &p), err)) < 0)
            return rc;
        if ((rc = ps_compute_interrupted(c, err)) < 0 ||
            (rc = told(pack(v, in, n, c->o.weights->bound[tensor].cols, type), err)) < 0 ||
            (rc = ps_vram_next(v->at.vram, x, &rows, err)) < 0)
            return rc;
        p.passing[p.n_panels] = keep_rows && !ps_sweep_stays(c->o.sweep, x) && type == t->dtype;
        p.panels[p.n_panels++] = ps_weights_panel(c->o.map, c->o.weights, x, rows, v->scales);
        if (!ps_vram_may_take(v->at.vram) || p.n_panels == MERGE || i + 1 == t->n_extents)
            rc = told(launch(v, &p), err);
        if (rc == 0)
            rc = ps_vram_look_ahead(v->at.vram, err);
        ps_compute_tell(c, c->o.map->extents[x].stored_bytes);
    }
    return rc;
}

/* A norm weight or bias as float32 in v->vec. */
static int vector(struct device *v, uint32_t tensor, struct ps_err *err)
{
    const struct ps_tensor *t = &v->c.o.map->tensors[tensor];
    const void *rows;
    int rc = ps_vram_next(v->at.vram, t->first_extent, &rows, err);
    if (rc == 0)
        rc = told(v->at.api->to_f32(v->at.device, v->vec, rows, t->dtype, t->cols), err);
    if (rc == 0)
        rc = told(ps_vram_release(v->at.vram), err);
    return rc;
}

/* ---- operations ---- */

static int device_begin(struct ps_compute *c, uint32_t pos0, size_t T, bool new_sweep,
                        struct ps_err *err)
{
    struct device *v = (struct device *)c;
    const struct ps_device_api *api = v->at.api;
    size_t angles = T * c->o.arch->rot_dim / 2 * sizeof(float);
    v->T = T;
    v->pos0 = pos0;
    for (size_t t = 0; t < T; t++)
        v->host_pos[t] = pos0 + (uint32_t)t;
    ps_rope_tables(v->host_cos, v->host_sin, c->o.arch, v->host_pos, T);
    stale(v);
    int rc = api->copy_in(v->at.device, PS_STREAM_COMPUTE, v->pos, v->host_pos, T * sizeof *v->pos);
    if (rc == 0)
        rc = api->copy_in(v->at.device, PS_STREAM_COMPUTE, v->cos, v->host_cos, angles);
    if (rc == 0)
        rc = api->copy_in(v->at.device, PS_STREAM_COMPUTE, v->sin, v->host_sin, angles);
    ps_vram_begin(v->at.vram, new_sweep);
    return told(rc, err);
}

/* The extent of the embedding that holds row `id`. */
static const struct ps_extent *extent_of_row(const struct ps_compute *c, uint32_t id, uint32_t *index)
{
    const struct ps_tensor *t = &c->o.map->tensors[c->o.weights->embed];
    /* all but the last extent of a tensor have as many rows as the first */
    *index = t->first_extent + id / c->o.map->extents[t->first_extent].n_rows;
    return &c->o.map->extents[*index];
}

/* Where a row of the embedding lies in device memory, and its type; or NULL. */
static const uint8_t *row_here(const struct device *v, uint32_t id, enum ps_dtype *type)
{
    const struct ps_tensor *t = &v->c.o.map->tensors[v->c.o.weights->embed];
    uint32_t x, kept = ps_row_stash_index(&v->stash, id);
    *type = t->dtype;
    if (kept < PS_STASH_ROWS)
        return v->kept + kept * t->row_bytes;
    const struct ps_extent *e = extent_of_row(&v->c, id, &x);
    const uint8_t *at = ps_vram_resident(v->at.vram, x);
    *type = ps_extent_dtype(v->c.o.map, e);
    return at ? at + (id - e->row0) * ps_extent_row_bytes(e) : NULL;
}

/* Rows that lie in device memory are widened there; returns how many others host_ids and host_rows list. */
static int gather_resident(struct device *v, const uint32_t *ids, size_t *n_others)
{
    size_t hidden = v->c.o.arch->hidden, n = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < v->T; i++) {
        enum ps_dtype type;
        const uint8_t *at = row_here(v, ids[i], &type);
        if (at) {
            rc = v->at.api->to_f32(v->at.device, v->c.rows.x + i * hidden, at, type, hidden);
            continue;
        }
        v->host_ids[n] = ids[i];
        v->host_rows[n++] = (uint32_t)i;
    }
    *n_others = n;
    return rc;
}

static int device_gather(struct ps_compute *c, const uint32_t *ids, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    size_t n, hidden = c->o.arch->hidden;
    int rc = told(gather_resident(v, ids, &n), err);
    if (rc == 0)
        rc = ps_sweep_gather(c->o.sweep, v->host_ids, n, v->host_x, hidden, err);
    for (size_t i = 0, run; rc == 0 && i < n; i += run) {
        for (run = 1; i + run < n && v->host_rows[i + run] == v->host_rows[i] + run;)
            run++;
        rc = told(v->at.api->copy_in(v->at.device, PS_STREAM_COMPUTE,
                                     c->rows.x + v->host_rows[i] * hidden, v->host_x + i * hidden,
                                     run * hidden * sizeof(float)),
                  err);
    }
    return rc;
}

static int device_norm(struct ps_compute *c, uint32_t tensor, float *out, const float *in, size_t n,
                       size_t K, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    int rc = vector(v, tensor, err);
    stale(v);
    if (rc < 0)
        return rc;
    return told(v->at.api->rmsnorm(v->at.device, out, K, in, K, v->vec, 0.0f, n, K,
                                   c->o.arch->rms_eps),
                err);
}

static int device_bias(struct ps_compute *c, uint32_t tensor, float *x, size_t n, size_t K,
                       struct ps_err *err)
{
    struct device *v = (struct device *)c;
    int rc = vector(v, tensor, err);
    return rc < 0 ? rc : told(v->at.api->add_bias(v->at.device, x, K, v->vec, n, K), err);
}

static int device_rope(struct ps_compute *c, float *x, uint32_t n_heads, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    const struct ps_arch *a = c->o.arch;
    return told(v->at.api->rope(v->at.device, x, (size_t)n_heads * a->head_dim, v->T, n_heads,
                                a->head_dim, a->rot_dim, v->cos, v->sin, false),
                err);
}

static int device_kv_put(struct ps_compute *c, struct ps_kv *kv, uint32_t layer, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    const struct ps_device_kv pages = {
        .k_pages = tables_of(kv, layer, false),
        .v_pages = tables_of(kv, layer, true),
        .k_dtype = kv->k_dtype,
        .v_dtype = kv->v_dtype,
        .n_kv_heads = kv->n_kv_heads,
        .head_dim = kv->head_dim,
    };
    return told(v->at.api->kv_store(v->at.device, &pages, v->pos, v->T, c->rows.k, c->rows.v), err);
}

/* Waits for the layer that was queued LAYERS_AHEAD ago. */
static int await_layer(struct device *v, uint32_t layer, struct ps_err *err)
{
    int rc = v->at.api->await(v->at.device, v->mark + 1 + layer % LAYERS_AHEAD, err);
    return rc < 0 ? rc : ps_compute_interrupted(&v->c, err);
}

static int mark_layer(struct device *v, uint32_t layer, struct ps_err *err)
{
    return told(v->at.api->mark(v->at.device, PS_STREAM_COMPUTE, v->mark + 1 + layer % LAYERS_AHEAD),
                err);
}

static int device_attention(struct ps_compute *c, struct ps_kv *kv, uint32_t layer, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    struct ps_attn attn = ps_compute_attn(c, kv, layer);
    size_t q_dim = attn.q_ld;
    int rc = await_layer(v, layer, err);
    attn.k_pages = tables_of(kv, layer, false);
    attn.v_pages = tables_of(kv, layer, true);
    attn.scratch = v->scratch;
    for (size_t t = 0; rc == 0 && t < v->T; t += c->o.ubatch) {
        attn.q = c->rows.q + t * q_dim;
        attn.out = c->rows.att + t * q_dim;
        attn.pos = v->pos + t;
        attn.T = v->T - t < c->o.ubatch ? v->T - t : c->o.ubatch;
        rc = told(v->at.api->attention(v->at.device, &attn, v->pos0 + (uint32_t)(t + attn.T) - 1),
                  err);
        if (rc == 0)
            rc = ps_compute_interrupted(c, err);
    }
    stale(v);
    return rc < 0 ? rc : mark_layer(v, layer, err);
}

static int device_swiglu(struct ps_compute *c, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    size_t K = c->o.arch->inter;
    stale(v);
    return told(v->at.api->swiglu(v->at.device, c->rows.gate, K, c->rows.gate, K, c->rows.up, K,
                                  v->T, K),
                err);
}

/* The ids with the best logits, in no order. */
static size_t best_ids(uint32_t best[PS_STASH_ROWS], const float *logits, uint32_t vocab)
{
    size_t n = 0, worst = 0;
    for (uint32_t id = 0; id < vocab; id++) {
        if (n == PS_STASH_ROWS && !(logits[id] > logits[best[worst]]))
            continue;
        best[n < PS_STASH_ROWS ? n++ : worst] = id;
        for (size_t i = worst = 0; n == PS_STASH_ROWS && i < n; i++)
            worst = logits[best[i]] < logits[best[worst]] ? i : worst;
    }
    return n;
}

/* A tied head that lies here, or has passed, while the CPU takes the embedding rows: it gets those that the next
 * token is most likely among, or it would have to read an extent again for every token. */
static int keep_rows(struct device *v, const float *logits, struct ps_err *err)
{
    const struct ps_tensor *t = &v->c.o.map->tensors[v->c.o.weights->embed];
    uint32_t best[PS_STASH_ROWS];
    size_t n = best_ids(best, logits, v->c.o.arch->vocab);
    int rc = 0;
    ps_sweep_stash_clear(v->c.o.sweep);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        enum ps_dtype type;
        const uint8_t *at = row_here(v, best[i], &type);
        if (!at || type != t->dtype)
            continue;
        rc = v->at.api->copy_out(v->at.device, PS_STREAM_COMPUTE, v->host_x, at, t->row_bytes);
        if (rc == 0)
            ps_sweep_stash_offer(v->c.o.sweep, best[i], logits[best[i]], (const uint8_t *)v->host_x);
    }
    return told(rc, err);
}

static int device_logits(struct ps_compute *c, const float *in, size_t n, float *out,
                         struct ps_err *err)
{
    struct device *v = (struct device *)c;
    size_t vocab = c->o.arch->vocab;
    int rc = device_matrix(c, c->o.weights->head, in, n, v->logits, vocab, false, err);
    if (rc == 0) /* the bus works on while we wait */
        rc = ps_vram_look_ahead(v->at.vram, err);
    if (rc == 0)
        rc = told(v->at.api->mark(v->at.device, PS_STREAM_COMPUTE, v->mark), err);
    if (rc == 0)
        rc = v->at.api->await(v->at.device, v->mark, err);
    if (rc == 0) /* all copies are done: where the host computes next, it needs its slots back */
        rc = ps_vram_look_ahead(v->at.vram, err);
    if (rc == 0)
        rc = told(v->at.api->copy_out(v->at.device, PS_STREAM_COMPUTE, out, v->logits,
                                      n * vocab * sizeof *out),
                  err);
    if (rc == 0 && n == 1 && c->o.host_gathers && is_tied(&c->o))
        rc = keep_rows(v, out, err);
    return rc;
}

static int device_put_x(struct ps_compute *c, const float *host, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    return told(v->at.api->copy_in(v->at.device, PS_STREAM_COMPUTE, c->rows.x, host,
                                   v->T * c->o.arch->hidden * sizeof *host),
                err);
}

int ps_compute_device_abandon(struct ps_compute *c, int rc, struct ps_err *err)
{
    struct device *v = (struct device *)c;
    struct ps_err e = {0};
    int failed = v->at.api->sync(v->at.device, &e);
    ps_vram_abandon(v->at.vram);
    if (failed == 0 || rc == PS_EINTERRUPTED)
        return rc;
    if (err)
        *err = e;
    return failed;
}

/* ---- life ---- */

static void device_free(struct ps_compute *c)
{
    struct device *v = (struct device *)c;
    v->at.api->free(v->at.device, v->bytes);
    ps_free(v->host_pos);
    ps_free(v->host_cos);
    ps_free(v->host_sin);
    ps_free(v->host_x);
    ps_free(v->host_ids);
    ps_free(v->host_rows);
    ps_free(v->host_scores);
    ps_free(v->chunks);
    ps_free(v);
}

static const struct ps_compute_ops DEVICE = {
    .free = device_free,
    .begin = device_begin,
    .gather = device_gather,
    .norm = device_norm,
    .matrix = device_matrix,
    .bias = device_bias,
    .rope = device_rope,
    .kv_put = device_kv_put,
    .attention = device_attention,
    .swiglu = device_swiglu,
    .logits = device_logits,
    .put_x = device_put_x,
};

static bool alloc_host(struct device *v)
{
    size_t T = v->c.o.max_rows, angles = T * v->c.o.arch->rot_dim / 2 + 1;
    v->host_pos = ps_calloc(T, sizeof *v->host_pos);
    v->host_cos = ps_calloc(angles, sizeof *v->host_cos);
    v->host_sin = ps_calloc(angles, sizeof *v->host_sin);
    v->host_x = ps_calloc(T * v->c.o.arch->hidden, sizeof *v->host_x);
    v->host_ids = ps_calloc(T, sizeof *v->host_ids);
    v->host_rows = ps_calloc(T, sizeof *v->host_rows);
    v->host_scores = ps_calloc(SCORES, sizeof *v->host_scores);
    v->chunks = ps_calloc(v->n_chunks, sizeof *v->chunks);
    return v->host_scores && v->host_pos && v->host_cos && v->host_sin && v->host_x &&
           v->host_ids && v->host_rows && v->chunks;
}

int ps_compute_device_new(struct ps_compute **out, const struct ps_compute_options *o,
                          const struct ps_device_place *place, struct ps_err *err)
{
    struct device *v = ps_calloc(1, sizeof *v);
    if (!v)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    v->c.ops = &DEVICE;
    v->c.o = *o;
    v->at = *place;
    v->mark = place->mark;
    v->n_chunks = (o->max_rows + o->ubatch - 1) / o->ubatch;
    void *bytes = NULL;
    int rc = alloc_host(v) ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc == 0)
        rc = place->api->alloc(place->device, &bytes, carve(v, NULL, place->api, place->device, o),
                               err);
    v->bytes = bytes;
    if (rc < 0) {
        device_free(&v->c);
        return rc;
    }
    carve(v, v->bytes, place->api, place->device, o);
    *out = &v->c;
    return 0;
}
