/* Whether tensors of two models are the same once decoded: read from both, whatever form either stores them in. */
#ifndef PS_TOOLS_INSPECT_CONTENT_H
#define PS_TOOLS_INSPECT_CONTENT_H
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/map.h"
#include "proto/source.h"

struct ps_content_side {
    const struct ps_map *map;
    struct ps_source *source; /* open; borrowed */
    const uint32_t *tensors;  /* [n] of the map */
};

/* same[i] (caller's, [n]): tensor i of one side holds what tensor i of the other does, to the bit. Both have one
 * shape and one type; rows that a split has left in a wider type are others. Reads both sides' weights once, in
 * order and ahead, and holds a few extents of each; every hash that is known is checked. progress (nullable):
 * bytes of both sides, done and in all. Blocks. Errors of reading; PS_ENOMEM. */
int ps_inspect_content(bool *same, const struct ps_content_side *a, const struct ps_content_side *b,
                       uint32_t n,
                       void (*progress)(void *user, const char *what, uint64_t done, uint64_t total),
                       struct ps_err *err);
#endif
