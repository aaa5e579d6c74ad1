/* Which extents a warm-up asks for. See warm_plan.h. */
#include "runtime/warm_plan.h"

#include "base/alloc.h"
#include "fetcher/range_plan.h"

static bool in_layers(const struct ps_warm_input *in, uint32_t extent)
{
    const struct ps_map *m = in->map;
    const int32_t layer = m->tensors[m->extents[extent].tensor].layer;
    return (in->layer_first < 0 && in->layer_last < 0) ||
           (layer >= in->layer_first && layer <= in->layer_last);
}

/* The first that does not fit ends it: what comes behind matters less. */
static void mark(struct ps_warm_list *list, const struct ps_warm_input *in, uint8_t *chosen)
{
    bool full = false;
    for (uint32_t i = 0; i < in->n_ranked; i++) {
        const uint32_t x = in->ranked[i];
        const uint64_t bytes = in->map->extents[x].stored_bytes;
        if (!in_layers(in, x))
            continue;
        list->bytes_wanted += bytes;
        if (in->is_held(in->user, x)) {
            list->bytes_present += bytes;
            continue;
        }
        full = full || bytes > in->max_bytes - list->bytes;
        if (full)
            continue;
        list->bytes += bytes;
        chosen[x] = 1;
    }
}

int ps_warm_choose(struct ps_warm_list *list, const struct ps_warm_input *in, struct ps_err *err)
{
    const uint32_t n = in->map->n_extents;
    uint8_t *chosen = ps_calloc((size_t)n + 1, 1);
    uint32_t *extents = ps_malloc(sizeof *extents * ((size_t)n + 1));
    int rc = 0;
    ps_free(list->extents);
    *list = (struct ps_warm_list){0};
    if (chosen && extents) {
        mark(list, in, chosen);
        for (uint32_t i = 0; i < in->n_order; i++) {
            if (chosen[in->order[i]])
                extents[list->n++] = in->order[i];
            chosen[in->order[i]] = 0; /* a tied tensor is walked over once more */
        }
        for (uint32_t x = 0; x < n; x++)
            if (chosen[x])
                extents[list->n++] = x;
        list->extents = extents;
        extents = NULL;
    } else {
        rc = ps_err_set(err, PS_ENOMEM, "warm", "out of memory: %u extents", n);
    }
    ps_free(extents);
    ps_free(chosen);
    return rc;
}

uint64_t ps_warm_requests(const struct ps_warm_list *list, const struct ps_map *map,
                          uint32_t connections)
{
    const uint64_t bound = ps_plan_join_bound(list->bytes, connections);
    struct ps_span have = {0, 0};
    uint32_t object = 0;
    uint64_t n = 0;
    for (uint32_t i = 0; i < list->n; i++) {
        const struct ps_extent *x = &map->extents[list->extents[i]];
        const struct ps_span next = {x->offset, x->offset + x->stored_bytes};
        if (n > 0 && x->object == object && ps_plan_joins(have, next, bound)) {
            have.to = next.to;
            continue;
        }
        have = next;
        object = x->object;
        n++;
    }
    return n;
}
