/* What a split may do to a tensor, by its name and shape alone. Pure.
 *
 * Only the matrices of linear layers are rounded: norms, biases, routers, convolutions and whatever is not known
 * keep every bit; embedding and head get 8 bits at least (rounding norms or embeddings to 4 bits ruins small models);
 * the value projections of attention get one type more than asked for: Q8B64 instead of NF4B64, and all their bits
 * instead of Q8B64 where they have at most half as many rows as columns. Checkpoints that hold few bits already (FP8,
 * MXFP4, packed integers) are carried as they are. */
#ifndef PS_TOOLS_SPLIT_POLICY_H
#define PS_TOOLS_SPLIT_POLICY_H
#include "proto/map.h"

/* The type to round a tensor to where a split was asked for `wanted` (PS_Q8B64, PS_NF4B64, or PS_DTYPE_NONE);
 * PS_DTYPE_NONE: keep it as it is. */
enum ps_dtype ps_split_quant_of(const struct ps_tensor *t, enum ps_dtype wanted);

enum ps_split_kind {
    PS_KIND_EMBEDDING, /* and head */
    PS_KIND_ATTENTION,
    PS_KIND_MLP,
    PS_KIND_EXPERTS,
    PS_KIND_OTHER, /* norms, biases, routers */
    PS_KIND_COUNT
};
enum ps_split_kind ps_split_kind_of(const struct ps_tensor *t);
const char *ps_split_kind_name(enum ps_split_kind k); /* "embedding", ... */
#endif
