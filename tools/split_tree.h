/* The destination of a split: a folder or a prefix on S3 that holds, at every moment, either a finished tree or
 * one that the next run can finish. Not thread-safe.
 *
 * A journal (.penstock-split, split_journal.h) says which shards are finished; a shard gets its final name only
 * when it is whole, a line without its shard counts for nothing. The manifest comes last; then whatever it does
 * not name is removed, then the journal. */
#ifndef PS_TOOLS_SPLIT_TREE_H
#define PS_TOOLS_SPLIT_TREE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"
#include "tools/split.h"

struct ps_split_tree;
struct ps_store_options;

struct ps_split_done { /* what the manifest will say of a shard */
    bool done;
    uint64_t bytes, stored_bytes, raw_bytes;
    uint32_t index_bytes, n_extents;
    uint8_t index_sha256[PS_SHA256_BYTES];
};
/* Where to write, and what an S3 prefix needs beside: the network's options (nullable), memory for parts under way. */
struct ps_split_place {
    const char *dst; /* a path, or s3://bucket/prefix */
    const struct ps_store_options *store;
    uint64_t ram_bytes; /* PS_SPLIT_RAM_MIN: the least that works */
};
bool ps_split_place_is_remote(const struct ps_split_place *p);
/* Makes or takes up `dst`; `place` must outlive the tree. `key` names source, codec and plan: a journal of another
 * key is dropped. done[n_shards] is filled with the shards that are finished already; max_shard_bytes: no shard
 * will be longer. PS_EUSAGE: the place holds something else, or another split runs in that folder. */
int ps_split_tree_open(struct ps_split_tree **out, const struct ps_split_place *place,
                       const uint8_t key[PS_SHA256_BYTES], struct ps_split_done *done,
                       uint32_t n_shards, uint64_t max_shard_bytes, struct ps_err *err);
#define PS_SPLIT_CONFIG_MAX_BYTES (16u << 20)
/* PS_EUSAGE if the place holds a finished split with another config.json (of another model, which is not to be lost by
 * a slip) or of another codec (whose readers would find its shards gone). A new version of the same model may take its
 * place. */
int ps_split_tree_check_model(const struct ps_split_place *place, const void *config, size_t len,
                              const char *codec, struct ps_err *err);
/* Nullable; removes what is unfinished (temporary files, open uploads). */
void ps_split_tree_close(struct ps_split_tree *t);

/* Begins a shard whose data begin at data_begin. One at a time; close without finish removes it. */
int ps_split_tree_begin(struct ps_split_tree *t, uint64_t data_begin, struct ps_err *err);
/* All of bytes at offset of the present shard: from data_begin on without gaps, at last head and index in front.
 * PS_ENOSPC, PS_EIO, and what a store answers, also to what was written before. */
int ps_split_tree_write(struct ps_split_tree *t, const void *bytes, size_t len, uint64_t offset,
                        struct ps_err *err);
/* On S3 the shard may still be under way; the next call, or seal, waits for it. */
int ps_split_tree_finish_shard(struct ps_split_tree *t, uint32_t shard,
                               const struct ps_split_done *d, struct ps_err *err);

/* A small file under its own name, whole or not at all; left untouched where it is the same already. */
int ps_split_tree_put(struct ps_split_tree *t, const char *name, const void *bytes, size_t len,
                      struct ps_err *err);
/* Signature (nullable) and manifest, then the cleaning. A reader finds a signature that fits at every moment: the
 * new one stands beside the old one until the manifest has changed. */
int ps_split_tree_seal(struct ps_split_tree *t, const void *manifest, size_t len,
                       const char *signature, const struct ps_split_done *done, uint32_t n_shards,
                       struct ps_err *err);
#endif
