/* The map of a model: which tensors exist, in which object their bytes lie, and the extents in
 * which those bytes travel. Built once from a manifest (pre-split) or from safetensors headers
 * (straight from a folder), then immutable and shared by all threads. Everything downstream (plan,
 * cache, scheduler, kernels) speaks of extents by their index in here.
 *
 * An extent is a run of whole rows of one tensor, contiguous in its object: unit of range request,
 * cache slot, hash, and a panel for the kernels. design.md "Words" has the size rule. 1-D tensors
 * are one row. */
#ifndef PS_PROTO_MAP_H
#define PS_PROTO_MAP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/hash.h"
#include "proto/dtype.h"
#include "proto/quant_error.h"

#define PS_MAX_DIMS 8
/* Decoded size of a block, at most, unless one row is longer. */
#define PS_BLOCK_BYTES      (256u * 1024u)
#define PS_EXTENT_MIN_BYTES (256u * 1024u)
#define PS_EXTENT_MAX_BYTES (8u * 1024u * 1024u)
#define PS_MAX_TENSORS      (1u << 20)
#define PS_MAX_EXTENTS      (1u << 24)
#define PS_MAX_ROW_BYTES    (64u * 1024u * 1024u) /* a longer row can't be an extent: refused */

struct ps_object {
    char *name;     /* relative, ps_name_ok */
    uint64_t bytes; /* total size, 0 unknown */
    char *etag;     /* nullable */
    char *identity; /* nullable: input of cache keys where no hash is known */
};

struct ps_tensor {
    char *name; /* as in the checkpoint: "model.layers.0.self_attn.q_proj.weight" */
    enum ps_dtype dtype;
    uint8_t n_dims;
    uint64_t shape[PS_MAX_DIMS];
    /* Matrix view: rows = shape[0], cols = product of the rest; 1-D: 1 x n; 0-D: 1 x 1. */
    uint64_t rows, cols;
    uint64_t row_bytes;  /* of dtype: cols * element size, or ps_quant_row_bytes */
    uint32_t block_rows; /* rows per block: max(1, PS_BLOCK_BYTES / row_bytes) */
    uint32_t object;
    int32_t layer;                    /* N of "layers.N." / "h.N.", -1 where there is none */
    uint32_t first_extent, n_extents; /* n_extents = 0 for a zero-sized tensor */
    bool rounded;                     /* when it was split: error says how far */
    struct ps_quant_error error;
};

struct ps_extent {
    uint64_t offset; /* in the object */
    uint64_t row0;   /* first row */
    uint32_t n_rows;
    uint32_t stored_bytes; /* as fetched and cached */
    uint32_t raw_bytes;    /* n_rows * row_bytes */
    uint32_t tensor;
    uint32_t object;
    uint32_t first_block; /* into block_bytes; codec RAW: no blocks, n_blocks = 0 */
    uint32_t n_blocks;
    uint8_t codec; /* enum ps_codec */
    /* enum ps_dtype of its rows: the tensor's, or a wider one where rounding to that would have cost too much
     * (proto/manifest.h). Ask ps_extent_dtype. */
    uint8_t dtype;
    bool hashed;                  /* sha256 of the stored bytes is known beforehand (= key) */
    uint8_t key[PS_SHA256_BYTES]; /* cache key; SHA-256 of the stored bytes where hashed */
};

struct ps_map {
    uint8_t model_id[PS_SHA256_BYTES]; /* SHA-256 of the manifest's bytes (real or synthesised) */
    bool presplit;
    struct ps_object *objects;
    uint32_t n_objects;
    struct ps_tensor *tensors;
    uint32_t n_tensors;
    struct ps_extent *extents;
    uint32_t n_extents;
    uint32_t *block_bytes; /* stored bytes of each block, extent after extent */
    uint32_t n_blocks;
    uint64_t raw_bytes;    /* sum over tensors */
    uint64_t stored_bytes; /* sum over extents */
    uint32_t extent_target_bytes;
    uint32_t max_stored_bytes, max_raw_bytes; /* largest extent */
    /* private: name lookup */
    uint32_t *name_hash;
    uint32_t name_hash_size;
    uint64_t name_seed;
};

/* Type of an extent's rows, bytes of one, and how many of them a block has at most. */
static inline enum ps_dtype ps_extent_dtype(const struct ps_map *m, const struct ps_extent *e)
{
    return e->dtype ? (enum ps_dtype)e->dtype : m->tensors[e->tensor].dtype;
}
static inline uint64_t ps_extent_row_bytes(const struct ps_extent *e)
{
    return e->n_rows ? e->raw_bytes / e->n_rows : 0;
}
static inline uint32_t ps_block_rows(uint64_t row_bytes)
{
    return row_bytes == 0 || row_bytes > PS_BLOCK_BYTES ? 1 : (uint32_t)(PS_BLOCK_BYTES / row_bytes);
}

void ps_map_free(struct ps_map *m);
/* Tensor index by exact name, or -1. O(1). */
int64_t ps_map_find(const struct ps_map *m, const char *name);

/* The extent size rule (design.md): largest power of two below stored_bytes / 64, clamped to [256 KiB, 8 MiB]. */
uint32_t ps_extent_target(uint64_t stored_bytes);
/* Rows of one extent for a tensor of rows of `row_bytes`: a whole number of blocks, at least one
 * row, at most target bytes where a row allows it. */
uint32_t ps_extent_rows(uint64_t row_bytes, uint32_t target_bytes);

/* Building. The builder takes tensors in order; after finish the map is immutable. */
struct ps_map_builder;
int ps_map_builder_new(struct ps_map_builder **out);
void ps_map_builder_free(struct ps_map_builder *b); /* nullable */
/* Returns the object's index through *index. Strings are copied. */
int ps_map_add_object(struct ps_map_builder *b, const char *name, uint64_t bytes, const char *etag,
                      const char *identity, uint32_t *index, struct ps_err *err);
/* A tensor whose raw bytes lie at [offset, offset + size) of `object`; duplicates by name are
 * PS_EDATA, as are overflowing shapes and ranges beyond the object. `gather` marks an untied
 * embedding (256 KiB extents). */
int ps_map_add_tensor(struct ps_map_builder *b, const char *name, enum ps_dtype dtype,
                      const uint64_t *shape, unsigned n_dims, uint32_t object, uint64_t offset,
                      bool gather, struct ps_err *err);
/* Cuts every tensor into extents, derives keys from (identity, offset, length), computes totals.
 * Takes the builder's contents; model_id is copied. The builder is freed in every case. */
int ps_map_builder_finish(struct ps_map **out, struct ps_map_builder *b,
                          const uint8_t model_id[PS_SHA256_BYTES], struct ps_err *err);
#endif
