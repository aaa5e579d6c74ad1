/* The destination of a split: a directory that holds, at every moment, either a finished tree or
 * one that the next run can finish. Not thread-safe.
 *
 * A journal (.penstock-split) says which shards are finished. Order of a shard: data and index,
 * fsync, journal line, fsync, rename: so a shard with its final name is always in the journal, and
 * a line without its shard counts for nothing. The manifest comes last, by rename; then whatever
 * it does not name is removed, then the journal. */
#ifndef PS_TOOLS_SPLIT_TREE_H
#define PS_TOOLS_SPLIT_TREE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"

struct ps_split_tree;

struct ps_split_done { /* what the manifest will say of a shard */
    bool done;
    uint64_t bytes, stored_bytes, raw_bytes;
    uint32_t index_bytes, n_extents;
    uint8_t index_sha256[PS_SHA256_BYTES];
};
/* Makes or takes up `dst`. `key` names source, codec and plan: a journal of another key is
 * dropped. done[n_shards] is filled with the shards that are finished already. PS_EUSAGE: the
 * directory holds something else, or another split runs in it. */
int ps_split_tree_open(struct ps_split_tree **out, const char *dst,
                       const uint8_t key[PS_SHA256_BYTES], struct ps_split_done *done,
                       uint32_t n_shards, struct ps_err *err);
/* PS_EUSAGE if `dst` holds a finished split with another config.json: of another model, which is not to be lost by a
 * slip. A new version of the same model, or another codec, may take its place. */
int ps_split_tree_check_model(const char *dst, const void *config, size_t len, struct ps_err *err);
void ps_split_tree_close(struct ps_split_tree *t); /* nullable; removes temporary files */

/* Begins a shard in a temporary file. One at a time; close without finish removes it. */
int ps_split_tree_begin(struct ps_split_tree *t, struct ps_err *err);
int ps_split_tree_finish_shard(struct ps_split_tree *t, uint32_t shard,
                               const struct ps_split_done *d, struct ps_err *err);
/* All of bytes at offset of the present shard. PS_ENOSPC, PS_EIO. */
int ps_split_tree_write(struct ps_split_tree *t, const void *bytes, size_t len, uint64_t offset,
                        struct ps_err *err);

/* A small file under its own name: written beside, renamed; left untouched where it is the same already. */
int ps_split_tree_put(struct ps_split_tree *t, const char *name, const void *bytes, size_t len,
                      struct ps_err *err);
/* The manifest, then the cleaning. */
int ps_split_tree_seal(struct ps_split_tree *t, const void *manifest, size_t len,
                       const struct ps_split_done *done, uint32_t n_shards, struct ps_err *err);
#endif
