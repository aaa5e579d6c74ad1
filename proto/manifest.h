/* The manifest of a pre-split model, its shard indexes, and the map that they give.
 *
 * Chain of trust: SHA-256 of the manifest's bytes is the model's id; the manifest holds the
 * SHA-256 of every shard's index and of every small file (config, tokenizer); an index holds the
 * SHA-256 of every extent. Encoded with protobuf (manifest.proto).
 *
 * Objects of a pre-split tree: "penstock.manifest", "shards/<64 hex>.shard" (name = SHA-256 of the
 * shard's index, so content decides it), config and tokenizer files under their own names. A
 * shard: 16 bytes ("PSSHARD1", u32 version little-endian, u32 index bytes), the index, zero
 * padding to 4096, then stored blocks; extents in order of use. Pure code over bytes. */
#ifndef PS_PROTO_MANIFEST_H
#define PS_PROTO_MANIFEST_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "proto/map.h"

#define PS_MANIFEST_NAME         "penstock.manifest"
#define PS_FORMAT_VERSION        1
#define PS_MANIFEST_MAX_BYTES    (64u << 20)
#define PS_SHARD_HEAD_BYTES      16
#define PS_SHARD_INDEX_MAX_BYTES (64u << 20)

struct ps_manifest_file { /* config.json, tokenizer.json, ... */
    char *name;
    uint64_t bytes;
    uint8_t sha256[PS_SHA256_BYTES];
};
struct ps_manifest_shard {
    char *name;           /* object name */
    uint64_t bytes;       /* whole object */
    uint32_t index_bytes; /* of the encoded index, at offset PS_SHARD_HEAD_BYTES */
    uint8_t index_sha256[PS_SHA256_BYTES];
    int32_t layer; /* -1: embedding, head, final norm */
    uint32_t n_extents;
};
struct ps_manifest {
    uint32_t version;
    uint8_t id[PS_SHA256_BYTES]; /* SHA-256 of the encoded bytes */
    char *source_label; /* provenance: "org/name@commit" or "" ; no time, host or local path */
    char *architecture; /* config.json architectures[0] */
    char *codec;        /* a packing (proto/dtype.h): "wh", "nf4b64" */
    uint64_t raw_bytes, stored_bytes;
    uint64_t source_bytes; /* of the weights before any were rounded; raw_bytes where none was */
    uint32_t n_tensors, n_extents, extent_target_bytes;
    struct ps_manifest_file *files;
    uint32_t n_files;
    struct ps_manifest_shard *shards; /* in order of use: embedding, layer 0.., final norm and head */
    uint32_t n_shards;
};
/* A newer version is PS_EUNSUPPORTED by name; every other flaw (overflow, absurd counts, bad
 * names, wrong sums) PS_EDATA. */
int ps_manifest_decode(struct ps_manifest **out, const void *bytes, size_t len, struct ps_err *err);
/* Deterministic bytes; fills m->id. */
int ps_manifest_encode(struct ps_manifest *m, char **bytes, size_t *len, struct ps_err *err);
void ps_manifest_free(struct ps_manifest *m);

/* A decoded shard index: tensors and their extents, offsets absolute in the shard object. */
struct ps_shard_extent {
    uint64_t offset;
    uint64_t row0;
    uint32_t n_rows, stored_bytes, raw_bytes;
    uint8_t codec;
    /* enum ps_dtype; 0 and the tensor's are the same. Of a tensor of Q8B64 or NF4B64 an extent may have a wider
     * type, F32, F16 or BF16 included: there rounding cost more than the limit. */
    uint8_t dtype;
    uint8_t sha256[PS_SHA256_BYTES];
    uint32_t *block_bytes; /* codec != RAW */
    uint32_t n_blocks;
};
struct ps_shard_tensor {
    char *name;
    enum ps_dtype dtype;
    bool rounded; /* error says how far; dtype is Q8B64 or NF4B64 */
    struct ps_quant_error error;
    uint8_t n_dims;
    uint64_t shape[PS_MAX_DIMS];
    struct ps_shard_extent *extents;
    uint32_t n_extents;
};
struct ps_shard_index {
    int32_t layer;
    struct ps_shard_tensor *tensors;
    uint32_t n_tensors;
    /* Private: after decoding everything above lies in it; NULL in an index that its maker owns. */
    void *arena;
};
/* object_bytes: the shard's size from the manifest; extents must lie in [index end, object_bytes),
 * must not overlap, must cover each tensor's rows in order without a gap, and raw_bytes must equal
 * n_rows * row bytes; the sum of block_bytes must equal stored_bytes. */
int ps_shard_index_decode(struct ps_shard_index **out, const void *bytes, size_t len,
                          uint64_t object_bytes, struct ps_err *err);
int ps_shard_index_encode(const struct ps_shard_index *x, char **bytes, size_t *len,
                          struct ps_err *err);
void ps_shard_index_free(struct ps_shard_index *x); /* of a decoded index; nullable */

/* Writing a shard: object name of an index's hash (heap, NULL without memory), and the 16 bytes in
 * front of the index. */
char *ps_shard_name(const uint8_t index_sha256[PS_SHA256_BYTES]);
void ps_shard_head_write(uint8_t head[PS_SHARD_HEAD_BYTES], uint32_t index_bytes);

/* The map of a pre-split model: indexes[i] belongs to m->shards[i]; their SHA-256 has been checked
 * by the caller through ps_manifest_check_index. */
int ps_map_from_manifest(struct ps_map **out, const struct ps_manifest *m,
                         struct ps_shard_index *const *indexes, struct ps_err *err);
/* First PS_SHARD_HEAD_BYTES + index_bytes of a shard: magic, version, length and hash must match;
 * *index points into bytes. */
int ps_manifest_check_index(const struct ps_manifest *m, uint32_t shard, const void *bytes,
                            size_t len, const void **index, struct ps_err *err);
#endif
