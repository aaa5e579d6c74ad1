/* What differs between two models. */
#ifndef PS_TOOLS_INSPECT_DIFF_H
#define PS_TOOLS_INSPECT_DIFF_H
#include "base/err.h"
#include "base/json.h"
#include "proto/map.h"

/* Members of an open object: "same" (null where that can't be told), "tensors" {"same", "changed", "only_a", "only_b",
 * "not_compared": of one type and shape, but not both with hashes}, "extents_b",
 * "extents_shared", "bytes_b", "bytes_shared" and "bytes_new" (what a run of b fetches behind one of a that kept
 * everything), "layers" (those with something new; -1: embedding, norm, head) and "changes" (a line a tensor, with
 * `all`; else the first hundred). Extents are the same where their hashes are: those of plain folders have none
 * and are known for the same only in the same version of the same file. Pure; PS_ENOMEM. */
int ps_inspect_diff(struct ps_json_writer *w, const struct ps_map *a, const struct ps_map *b,
                    bool all, struct ps_err *err);
#endif
