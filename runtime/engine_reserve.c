/* What the sessions of an engine take beside the weights. Each says what it needs before it allocates; the plan leaves
 * room for all that live, and is made anew where one more, or a longer prompt, needs more than it left. What does not
 * fit even then is refused, and costs the others nothing: the plan that they run with stays. */
#include "runtime/engine.h"

/* Sampler's list of (logit, id) beside the logits themselves. */
#define SAMPLER_BYTES 16u

static uint64_t host_bytes(const struct ps_engine *e, const struct ps_need *n)
{
    const struct ps_arch *a = e->arch;
    const struct ps_compute_options o = {.arch = a,
                                         .weights = e->weights,
                                         .map = e->files.map,
                                         .max_rows = n->rows,
                                         .ubatch = n->chunks.rows,
                                         .small = n->chunks.small};
    uint64_t bytes =
        ps_kv_bytes(e->gpu.first_layer, a->n_kv_heads, a->head_dim, n->ctx, e->k_type, e->v_type);
    bytes += ps_kv_table_bytes(a->n_layers, n->ctx);
    if (e->gpu.first_layer)
        bytes += ps_compute_host_bytes(&o, e->backend, ps_pool_threads(e->pool));
    bytes += (uint64_t)a->vocab * (sizeof(float) + SAMPLER_BYTES);
    bytes += (uint64_t)n->ctx * sizeof(uint32_t); /* the history */
    return bytes + n->caller_bytes + ps_engine_device_host_bytes(e, n);
}

bool ps_engine_need_step(const struct ps_engine *e, struct ps_need *n, uint32_t step)
{
    if (!ps_forward_chunks(&n->chunks, n->ubatch, n->rows, step))
        return false;
    n->host_bytes = n->ctx ? host_bytes(e, n) : 0;
    n->device_bytes = n->ctx ? ps_engine_device_bytes(e, n) : 0;
    return true;
}

/* All that live, but for `held`. */
static struct ps_reserved others(const struct ps_engine *e, const struct ps_need *held)
{
    struct ps_reserved sum = {0};
    for (const struct ps_need *n = e->needs; n; n = n->next) {
        sum.host_bytes += n == held ? 0 : n->host_bytes;
        sum.device_bytes += n == held ? 0 : n->device_bytes;
    }
    return sum;
}

/* Does the present plan leave room, without smaller chunks than it was made with? */
static bool fits(const struct ps_engine *e, const struct ps_reserved *beside, struct ps_need *n)
{
    for (uint32_t step = 0; step <= e->planned_step && ps_engine_need_step(e, n, step); step++)
        if (beside->host_bytes + n->host_bytes <= e->reserved.host_bytes &&
            beside->device_bytes + n->device_bytes <= e->reserved.device_bytes)
            return true;
    return false;
}

static bool is_linked(const struct ps_engine *e, const struct ps_need *held)
{
    const struct ps_need *n = e->needs;
    while (n && n != held)
        n = n->next;
    return n != NULL;
}

int ps_engine_reserve(struct ps_engine *e, struct ps_need *held, const struct ps_need *wanted,
                      struct ps_err *err)
{
    struct ps_need n = *wanted;
    struct ps_reserved beside = others(e, held);
    e->waits = false;
    const bool stays = e->planned && e->cache_opened && fits(e, &beside, &n);
    int rc = stays ? 0 : ps_engine_plan(e, &beside, &n, err);
    if (rc < 0)
        return rc;
    if ((rc = ps_engine_start_sweep(e, err)) < 0) {
        e->planned = false; /* nobody is to believe it */
        return rc;
    }
    bool linked = is_linked(e, held);
    n.next = linked ? held->next : e->needs;
    *held = n;
    if (!linked)
        e->needs = held;
    return 0;
}

void ps_engine_unreserve(struct ps_engine *e, struct ps_need *held)
{
    for (struct ps_need **at = &e->needs; *at; at = &(*at)->next) {
        if (*at != held)
            continue;
        *at = held->next;
        held->next = NULL;
        return;
    }
}

int ps_engine_replan(struct ps_engine *e, struct ps_err *err)
{
    struct ps_reserved all = others(e, NULL);
    struct ps_need more = e->needs ? (struct ps_need){0} : e->estimate;
    return ps_engine_plan(e, &all, &more, err);
}
