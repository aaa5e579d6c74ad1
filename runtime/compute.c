/* What the computes share: the layout of activations, interrupts, progress. */
#include "runtime/compute.h"

#include <math.h>

#include "base/clock.h"
#include "kernels/device.h"

static const char *const ORIGIN = "forward";

struct row_part {
    float **p;
    uint64_t width; /* 0: none */
};

/* One behind the other from base + at on: where the last one ends. */
static uint64_t carve_parts(const struct row_part *parts, size_t n, uint8_t *base, uint64_t at,
                            uint64_t T)
{
    for (size_t i = 0; i < n; i++) {
        if (base)
            *parts[i].p = parts[i].width ? (float *)(void *)(base + at) : NULL;
        at += parts[i].width ? ps_device_align(T * parts[i].width * sizeof(float) + 64) : 0;
    }
    return at;
}

uint64_t ps_rows_carve(struct ps_rows *r, uint8_t *base, const struct ps_arch *a, uint64_t T,
                       bool without_up)
{
    uint64_t q_dim = (uint64_t)a->n_heads * a->head_dim,
             kv_dim = (uint64_t)a->n_kv_heads * a->head_dim;
    const struct row_part always[] = {{&r->x, a->hidden}, {&r->xn, a->hidden}};
    const struct row_part attention[] = {{&r->q, q_dim},
                                         {&r->k, kv_dim},
                                         {&r->v, kv_dim},
                                         {&r->att, q_dim}};
    const struct row_part mlp[] = {{&r->gate, a->inter}, {&r->up, without_up ? 0 : a->inter}};
    uint64_t at = carve_parts(always, 2, base, 0, T);
    uint64_t one = carve_parts(attention, 4, base, at, T), other = carve_parts(mlp, 2, base, at, T);
    return one > other ? one : other;
}

uint32_t ps_arch_widest(const struct ps_arch *a)
{
    uint32_t q_dim = a->n_heads * a->head_dim, most = a->hidden > a->inter ? a->hidden : a->inter;
    return q_dim > most ? q_dim : most;
}

struct ps_attn ps_compute_attn(const struct ps_compute *c, const struct ps_kv *kv, uint32_t layer)
{
    const struct ps_arch *a = c->o.arch;
    return (struct ps_attn){
        .q_ld = (size_t)a->n_heads * a->head_dim,
        .out_ld = (size_t)a->n_heads * a->head_dim,
        .n_heads = a->n_heads,
        .n_kv_heads = a->n_kv_heads,
        .head_dim = a->head_dim,
        .window = a->window[layer],
        .scale = 1.0f / sqrtf((float)a->head_dim),
        .k_pages = kv->k_pages + (size_t)layer * kv->n_pages,
        .v_pages = kv->v_pages + (size_t)layer * kv->n_pages,
        .k_dtype = kv->k_dtype,
        .v_dtype = kv->v_dtype,
    };
}

int ps_compute_interrupted(const struct ps_compute *c, struct ps_err *err)
{
    if (c->o.interrupt && atomic_load(c->o.interrupt))
        return ps_err_set(err, PS_EINTERRUPTED, ORIGIN, "interrupted");
    return 0;
}

void ps_compute_tell(struct ps_compute *c, uint64_t weight_bytes)
{
    struct ps_compute_progress *p = c->o.progress;
    p->done_bytes += weight_bytes;
    if (!p->telling || ps_now_ns() - p->told_ns < PS_NS_PER_S / 5)
        return;
    p->told_ns = ps_now_ns();
    p->fn(p->user, p->done_bytes, p->total_bytes);
}
