/* One extent of a split: from the source's bytes to what is stored. Pure; any thread. */
#ifndef PS_TOOLS_SPLIT_PACK_H
#define PS_TOOLS_SPLIT_PACK_H
#include "base/err.h"
#include "proto/map.h"

struct ps_packed {
    enum ps_codec codec; /* RAW where no block shrank, and of rounded rows */
    enum ps_dtype dtype; /* of the rows now */
    uint32_t raw_bytes;  /* of the rows in that type */
    uint32_t stored_bytes;
    uint32_t n_blocks; /* 0 for RAW */
    bool in_place;     /* what is stored is what was given: nothing was written to `out` */
    struct ps_quant_error error; /* of rounded rows; weight2 and max_weight also where rounding was given up */
};
/* Packs extent `e` of tensor `t`, whose e->raw_bytes lie at `raw`, into `out` (room for as many). Rows are rounded to
 * `quant` (ps_split_quant_of) or, where that would cost more than ps_quant_error_limit or can't be done, to the next
 * wider type, at last not at all; then blocks are coded by `codec`. block_bytes: room for one per block of the tensor's
 * own type. Depends on nothing but these bytes. */
int ps_split_pack(struct ps_packed *p, enum ps_codec codec, enum ps_dtype quant,
                  const struct ps_tensor *t, const struct ps_extent *e, const void *raw, void *out,
                  uint32_t *block_bytes, struct ps_err *err);
#endif
