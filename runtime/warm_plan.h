/* What a warm-up asks for: the extents that the plan keeps on disk, narrowed by layers and by bytes. Pure
 * functions over the map; no I/O. */
#ifndef PS_RUNTIME_WARM_PLAN_H
#define PS_RUNTIME_WARM_PLAN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/map.h"

struct ps_warm_input {
    const struct ps_map *map;
    const uint32_t *ranked; /* extents that belong on the disk, those that matter most first: the plan's order */
    uint32_t n_ranked;
    const uint32_t *order; /* extents in the order of their use in a sweep; some may be named in neither list */
    uint32_t n_order;
    int32_t layer_first, layer_last; /* inclusive; both -1: all, and what lies outside of layers */
    uint64_t max_bytes;              /* most stored bytes to ask for; UINT64_MAX: all */
    bool (*is_held)(const void *user, uint32_t extent);
    const void *user;
};

struct ps_warm_list {
    uint32_t *extents; /* to ask for, in order of use, then what no sweep walks over; ps_free */
    uint32_t n;
    uint64_t bytes;         /* of these */
    uint64_t bytes_wanted;  /* of the model and the layers, on disk in the end */
    uint64_t bytes_present; /* of these, held already: */
    uint32_t *held;         /* ps_free */
    uint32_t n_held;
};

/* Which extents are asked for is decided in the plan's order, so that a part is the part that helps most and the next
 * call goes on where this one stopped; how, in order of use, so that who is interrupted has what a run needs first.
 * PS_ENOMEM. Frees what *list held before. */
int ps_warm_choose(struct ps_warm_list *list, const struct ps_warm_input *in, struct ps_err *err);
void ps_warm_list_deinit(struct ps_warm_list *list);

#define PS_WARM_CONNECTIONS_MAX 256u

/* About how many requests the weights of the list take over so many connections (> 0) and through a ring of so many
 * bytes, which is all that can wait at once: neighbours that wait are asked for together (fetcher/range_plan.h), so a
 * small ring means more requests. */
uint64_t ps_warm_requests(const struct ps_warm_list *list, const struct ps_map *map,
                          uint32_t connections, uint64_t ring_bytes);
/* The same of a whole file beside them. */
uint64_t ps_warm_file_requests(uint64_t bytes, uint32_t connections);
#endif
