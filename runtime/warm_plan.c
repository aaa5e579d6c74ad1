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
            list->held[list->n_held++] = x;
            continue;
        }
        full = full || bytes > in->max_bytes - list->bytes;
        if (full)
            continue;
        list->bytes += bytes;
        chosen[x] = 1;
    }
}

void ps_warm_list_deinit(struct ps_warm_list *list)
{
    ps_free(list->extents);
    ps_free(list->held);
    *list = (struct ps_warm_list){0};
}

int ps_warm_choose(struct ps_warm_list *list, const struct ps_warm_input *in, struct ps_err *err)
{
    const uint32_t n = in->map->n_extents;
    uint8_t *chosen = ps_calloc((size_t)n + 1, 1);
    uint32_t *extents = ps_malloc(sizeof *extents * ((size_t)n + 1));
    int rc = 0;
    ps_warm_list_deinit(list);
    list->held = ps_malloc(sizeof *list->held * ((size_t)in->n_ranked + 1));
    if (chosen && extents && list->held) {
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

/* The fetcher's queue while a list goes through it. */
struct queue {
    const struct ps_warm_list *list;
    const struct ps_map *map;
    uint32_t connections;
    uint64_t room;                                 /* in the ring, by stored bytes */
    uint32_t entered, asked;                       /* extents so far */
    uint64_t waiting_bytes;                        /* entered, not asked for */
    uint64_t begun, ended;                         /* requests */
    uint64_t asked_bytes[PS_WARM_CONNECTIONS_MAX]; /* of those under way, by number modulo connections */
};

static const struct ps_extent *extent_at(const struct queue *q, uint32_t i)
{
    return &q->map->extents[q->list->extents[i]];
}

/* Begins a request: what stands first, and those of its neighbours that may ride with it. */
static void begin_request(struct queue *q)
{
    const uint64_t bound = ps_plan_join_bound(q->waiting_bytes, q->connections);
    const struct ps_extent *first = extent_at(q, q->asked++), *x;
    struct ps_span have = {first->offset, first->offset + first->stored_bytes};
    for (; q->asked < q->entered; q->asked++) {
        x = extent_at(q, q->asked);
        const struct ps_span next = {x->offset, x->offset + x->stored_bytes};
        if (x->object != first->object || !ps_plan_joins(have, next, bound))
            break;
        have.to = next.to;
    }
    q->waiting_bytes -= have.to - have.from;
    q->asked_bytes[q->begun++ % q->connections] = have.to - have.from;
}

/* What the ring has room for enters; what finds a connection free is asked for at once, alone. */
static void fill_ring(struct queue *q)
{
    while (q->entered < q->list->n && extent_at(q, q->entered)->stored_bytes <= q->room) {
        const uint64_t bytes = extent_at(q, q->entered++)->stored_bytes;
        q->room -= bytes;
        q->waiting_bytes += bytes;
        if (q->begun - q->ended < q->connections)
            begin_request(q);
    }
}

/* The oldest request ends: its connection takes what waits, and then its place in the ring is filled. */
static void end_request(struct queue *q)
{
    const uint64_t bytes = q->asked_bytes[q->ended++ % q->connections];
    if (q->asked < q->entered)
        begin_request(q);
    q->room += bytes;
}

uint64_t ps_warm_requests(const struct ps_warm_list *list, const struct ps_map *map,
                          uint32_t connections, uint64_t ring_bytes)
{
    struct queue q = {.list = list, .map = map, .room = ring_bytes, .connections = connections};
    if (q.connections > PS_WARM_CONNECTIONS_MAX)
        q.connections = PS_WARM_CONNECTIONS_MAX;
    if (q.room < map->max_stored_bytes)
        q.room = map->max_stored_bytes;
    fill_ring(&q);
    while (q.ended < q.begun) {
        end_request(&q);
        fill_ring(&q);
    }
    return q.begun;
}

uint64_t ps_warm_file_requests(uint64_t bytes, uint32_t connections)
{
    struct ps_span pieces[PS_WARM_CONNECTIONS_MAX];
    if (bytes <= PS_GET_FIRST_BYTES)
        return 1;
    return 1 + ps_plan_split((struct ps_span){PS_GET_FIRST_BYTES, bytes}, connections,
                             PS_GET_PIECE_BYTES, pieces, PS_WARM_CONNECTIONS_MAX);
}
