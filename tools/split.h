/* `penstock split` without its command line: any model folder, near or far, becomes a tree of
 * compressed, hashed shards.
 *
 * Streams: ranges of the source are read in order of use, packed, and written behind each other;
 * neither the model nor a shard is ever held. The same input
 * gives the same tree on every machine. A run that was killed is taken up by the next one:
 * finished shards are kept as they are, and nothing temporary stays behind.
 *
 * Blocking; one call per destination at a time. Threads of its own hash and pack. */
#ifndef PS_TOOLS_SPLIT_H
#define PS_TOOLS_SPLIT_H
#include <signal.h>
#include <stdint.h>
#include "base/err.h"
#include "proto/dtype.h"
#include "proto/source.h"

#define PS_SPLIT_RAM_MIN UINT64_MAX

struct ps_split_options {
    /* s3://bucket/prefix, or a directory, made if missing. Must be empty, a finished tree, or an interrupted split. */
    const char *dst;
    const struct ps_store_options *store; /* of the destination's network; nullable */
    struct ps_packing packing;
    /* Most memory for everything; 0 = 1 GiB, PS_SPLIT_RAM_MIN the least that works. PS_EBUDGET where that is too
     * little */
    uint64_t ram_bytes;
    unsigned threads; /* that hash and pack; 0 = one per CPU, at most 16 */
    /* Called on the caller's thread, a few times a second at most and at the end of every shard;
     * nullable. Bytes are those of the source's tensors. Shards count from 0. */
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes, uint32_t shard,
                     uint32_t n_shards);
    void *user;
    const char *sign_key; /* nullable: a private key (PEM) to sign the manifest with */
    const char *source_label; /* provenance kept in the manifest, e.g. "org/name@commit"; NULL or "" = none */
    /* Nullable: non-zero asks for an end: PS_EINTERRUPTED, and the next run goes on from there. */
    const volatile sig_atomic_t *stop;
};
/* Fills model_id (nullable) with the SHA-256 of the manifest written. Errors of the source as they
 * come; PS_ENOSPC: no room, temporary files are removed, finished shards stay; PS_EUSAGE: dst
 * holds something else; PS_EUNSUPPORTED: src is pre-split. */
int ps_split(struct ps_source *src, const struct ps_split_options *o, uint8_t model_id[32],
             struct ps_err *err);
#endif
