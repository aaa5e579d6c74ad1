/* What differs between two models. */
#ifndef PS_TOOLS_INSPECT_DIFF_H
#define PS_TOOLS_INSPECT_DIFF_H
#include "base/err.h"
#include "base/json.h"
#include "proto/map.h"

/* What hashes tell of a tensor: those of plain folders' extents name a file, not its bytes; those of two splits
 * tell of one stored form, cut alike (encoding is deterministic), and nothing of raw beside wh. Index in a of the
 * tensor that has the name, type and shape of b's tensor `t`, and of which they don't tell whether it holds the
 * same; -1: they do. Pure. */
int64_t ps_inspect_unknown(const struct ps_map *a, const struct ps_map *b, uint32_t t);

/* What reading has told of them. */
enum ps_content { PS_CONTENT_NOT_READ, PS_CONTENT_SAME, PS_CONTENT_CHANGED };

/* Members of an open object: "same" (null where that can't be told), "tensors" {"same", "changed", "only_a", "only_b",
 * "not_compared": of one type and shape, of which hashes tell nothing and that were not read}, "extents_b",
 * "extents_shared", "bytes_b", "bytes_shared" and "bytes_new" (what a run of b fetches behind one of a that kept
 * everything), "layers" (those with something new; -1: embedding, norm, head) and "changes" (a line a tensor, with
 * `all`; else the first hundred). Extents are the same where their hashes are: those of plain folders have none
 * and are known for the same only in the same version of the same file. content: nullable, of each tensor of b. Pure;
 * PS_ENOMEM. */
int ps_inspect_diff(struct ps_json_writer *w, const struct ps_map *a, const struct ps_map *b,
                    const enum ps_content *content, bool all, struct ps_err *err);
#endif
