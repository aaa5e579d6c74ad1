/* The block, written once for all families and for every place of computing. */
#include "runtime/forward.h"

#include "base/alloc.h"

static const char *const ORIGIN = "forward";

struct ps_forward {
    struct ps_forward_options o;
    struct ps_compute *host,
        *device; /* either may be NULL; layers before o.device_layer are the host's */
    struct ps_compute_progress progress;
};

/* The default of -ub, and the fewest rows that are still worth a kernel call: a panel is then read from memory once for
 * so many. */
#define UBATCH_DEFAULT 512u
#define UBATCH_LEAST   16u

bool ps_forward_chunks(struct ps_chunks *out, uint32_t ubatch, uint32_t max_rows, uint32_t step)
{
    uint32_t u = ubatch ? ubatch : UBATCH_DEFAULT;
    if (step >= 2 && (ubatch || step > 31 || (u >>= step - 1) < UBATCH_LEAST))
        return false;
    *out = (struct ps_chunks){.rows = u < max_rows ? u : max_rows, .small = step > 0};
    return true;
}

static bool all_on_host(const struct ps_forward_options *o)
{
    return !o->device.api;
}

static bool some_on_host(const struct ps_forward_options *o)
{
    return all_on_host(o) || o->device_layer > 0;
}

int ps_forward_new(struct ps_forward **out, const struct ps_forward_options *o, struct ps_err *err)
{
    struct ps_forward *f = ps_calloc(1, sizeof *f);
    if (!f)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    f->o = *o;
    f->progress = (struct ps_compute_progress){.fn = o->progress, .user = o->progress_user};
    for (uint32_t i = 0; i < o->map->n_extents; i++)
        if (o->weights->embed == o->weights->head || o->map->extents[i].tensor != o->weights->embed)
            f->progress.total_bytes += o->map->extents[i].stored_bytes;
    struct ps_compute_options co = {
        .arch = o->arch,
        .weights = o->weights,
        .map = o->map,
        .sweep = o->sweep,
        .max_rows = o->max_rows,
        .ubatch = o->chunks.rows < o->max_rows ? o->chunks.rows : o->max_rows,
        .small = o->chunks.small,
        .logit_rows = o->all_logits ? o->max_rows : 1,
        .ctx = o->ctx,
        .host_gathers = some_on_host(o),
        .interrupt = o->interrupt,
        .progress = &f->progress,
    };
    int rc = 0;
    if (some_on_host(o))
        rc = ps_compute_host_new(&f->host, &co, o->backend, o->pool, err);
    co.ubatch = ps_compute_device_ubatch(o->ubatch, o->max_rows);
    if (rc == 0 && !all_on_host(o))
        rc = ps_compute_device_new(&f->device, &co, &o->device, err);
    if (rc < 0) {
        ps_forward_free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void ps_forward_free(struct ps_forward *f)
{
    if (!f)
        return;
    if (f->host)
        f->host->ops->free(f->host);
    if (f->device)
        f->device->ops->free(f->device);
    ps_free(f);
}

/* Matrix and its bias, in the order in which the sweep brings them. */
static int linear(struct ps_compute *c, const uint32_t *w, enum ps_role role, const float *in,
                  size_t T, float *out, size_t n_out, bool add, struct ps_err *err)
{
    int rc = c->ops->matrix(c, w[role], in, T, out, n_out, add, err);
    if (rc < 0 || w[role + 1] == PS_NO_TENSOR)
        return rc;
    return c->ops->bias(c, w[role + 1], out, T, n_out, err);
}

static int attention(struct ps_compute *c, struct ps_kv *kv, const uint32_t *w, uint32_t layer,
                     size_t T, struct ps_err *err)
{
    const struct ps_arch *a = c->o.arch;
    const struct ps_rows *r = &c->rows;
    size_t q_dim = (size_t)a->n_heads * a->head_dim, kv_dim = (size_t)a->n_kv_heads * a->head_dim;
    int rc;
    if ((rc = c->ops->norm(c, w[PS_W_ATTN_NORM], r->xn, r->x, T, a->hidden, err)) < 0 ||
        (rc = linear(c, w, PS_W_Q, r->xn, T, r->q, q_dim, false, err)) < 0 ||
        (rc = linear(c, w, PS_W_K, r->xn, T, r->k, kv_dim, false, err)) < 0 ||
        (rc = linear(c, w, PS_W_V, r->xn, T, r->v, kv_dim, false, err)) < 0)
        return rc;
    /* heads lie side by side, so a per-head norm is a norm of T * heads short rows */
    if (w[PS_W_Q_NORM] != PS_NO_TENSOR &&
        (rc = c->ops->norm(c, w[PS_W_Q_NORM], r->q, r->q, T * a->n_heads, a->head_dim, err)) < 0)
        return rc;
    if (w[PS_W_K_NORM] != PS_NO_TENSOR &&
        (rc = c->ops->norm(c, w[PS_W_K_NORM], r->k, r->k, T * a->n_kv_heads, a->head_dim, err)) < 0)
        return rc;
    if ((rc = c->ops->rope(c, r->q, a->n_heads, err)) < 0 ||
        (rc = c->ops->rope(c, r->k, a->n_kv_heads, err)) < 0 ||
        (rc = c->ops->kv_put(c, kv, layer, err)) < 0 ||
        (rc = c->ops->attention(c, kv, layer, err)) < 0)
        return rc;
    return linear(c, w, PS_W_O, r->att, T, r->x, a->hidden, true, err);
}

static int mlp(struct ps_compute *c, const uint32_t *w, size_t T, struct ps_err *err)
{
    const struct ps_arch *a = c->o.arch;
    const struct ps_rows *r = &c->rows;
    int rc;
    if ((rc = c->ops->norm(c, w[PS_W_MLP_NORM], r->xn, r->x, T, a->hidden, err)) < 0 ||
        (rc = linear(c, w, PS_W_GATE, r->xn, T, r->gate, a->inter, false, err)) < 0)
        return rc;
    if (!r->up)
        rc = c->ops->gated(c, w[PS_W_UP], r->xn, T, err);
    else if ((rc = linear(c, w, PS_W_UP, r->xn, T, r->up, a->inter, false, err)) == 0)
        rc = c->ops->swiglu(c, err);
    if (rc < 0)
        return rc;
    return linear(c, w, PS_W_DOWN, r->gate, T, r->x, a->hidden, true, err);
}

/* Layers [first, end) where `c` computes. */
static int layers(struct ps_forward *f, struct ps_compute *c, struct ps_kv *kv, uint32_t first,
                  uint32_t end, size_t T, struct ps_err *err)
{
    int rc = 0;
    for (uint32_t l = first; rc == 0 && l < end; l++) {
        rc = attention(c, kv, f->o.weights->layer[l], l, T, err);
        if (rc == 0)
            rc = mlp(c, f->o.weights->layer[l], T, err);
    }
    return rc;
}

/* The residual stream after the last layer, in the compute that *last is set to. */
static int body(struct ps_forward *f, struct ps_compute **last, struct ps_kv *kv,
                const uint32_t *ids, size_t T, uint32_t pos0, struct ps_err *err)
{
    struct ps_compute *c = f->host ? f->host : f->device;
    uint32_t n = f->o.arch->n_layers, split = f->device ? f->o.device_layer : n;
    int rc;
    *last = c;
    if ((rc = c->ops->begin(c, pos0, T, true, err)) < 0 || (rc = c->ops->gather(c, ids, err)) < 0)
        return rc;
    if (f->host && (rc = layers(f, f->host, kv, 0, split, T, err)) < 0)
        return rc;
    if (!f->device)
        return 0;
    if (f->host && ((rc = f->device->ops->begin(f->device, pos0, T, false, err)) < 0 ||
                    (rc = f->device->ops->put_x(f->device, f->host->ops->host_x(f->host), err)) < 0))
        return rc;
    *last = f->device;
    return layers(f, f->device, kv, split, n, T, err);
}

/* The last `rows` rows through the final norm and the head. */
static int head(struct ps_forward *f, struct ps_compute *c, size_t T, size_t rows, float *logits,
                struct ps_err *err)
{
    size_t hidden = f->o.arch->hidden;
    const struct ps_rows *r = &c->rows;
    int rc =
        c->ops->norm(c, f->o.weights->norm, r->xn, r->x + (T - rows) * hidden, rows, hidden, err);
    return rc < 0 ? rc : c->ops->logits(c, r->xn, rows, logits, err);
}

int ps_forward_sweep(struct ps_forward *f, struct ps_kv *kv, const uint32_t *ids, size_t T,
                     uint32_t pos0, float *logits, bool all, struct ps_err *err)
{
    struct ps_compute *c;
    PS_ASSERT(T >= 1 && T <= f->o.max_rows && pos0 + T <= ps_kv_capacity(kv));
    PS_ASSERT(!all || f->o.all_logits);
    f->progress.telling = f->o.progress && pos0 == 0;
    f->progress.done_bytes = 0;
    int rc = body(f, &c, kv, ids, T, pos0, err);
    if (rc == 0)
        rc = head(f, c, T, all ? T : 1, logits, err);
    if (rc == 0)
        kv->length = pos0 + (uint32_t)T;
    else if (f->device)
        rc = ps_compute_device_abandon(f->device, rc, err);
    return rc;
}
