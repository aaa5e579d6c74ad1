/* The order of a split: which tensor goes into which shard, and in which order. Pure code over a map. */
#ifndef PS_TOOLS_SPLIT_PLAN_H
#define PS_TOOLS_SPLIT_PLAN_H
#include <stdint.h>
#include "base/err.h"
#include "proto/map.h"

struct ps_split_shard {
    int32_t layer;         /* -1: embedding, or final norm and head */
    uint32_t first_tensor; /* into plan->tensors */
    uint32_t n_tensors;
    uint32_t n_extents;
    uint64_t raw_bytes;
};
struct ps_split_plan {
    uint32_t *tensors; /* indexes into the map, in order of use */
    uint32_t n_tensors;
    struct ps_split_shard *shards;
    uint32_t n_shards;
};
/* Shards: embedding (where it is not tied to the head), each layer, final norm and head. Inside a
 * layer: input norm, q, k, v, their norms, o, post norm, router, gate, up, down, then each
 * expert's tensors together, then everything else by name. A tied embedding stands with the final
 * norm, where it is streamed as the head. PS_EDATA for a map without tensors. */
int ps_split_plan_new(struct ps_split_plan **out, const struct ps_map *m, struct ps_err *err);
void ps_split_plan_free(struct ps_split_plan *p); /* nullable */
#endif
