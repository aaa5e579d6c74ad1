/* Codecs of stored blocks: pure functions from bytes to bytes. Which codec an extent has and where
 * its blocks end is the map's knowledge (proto/map.h); here is only how one block is unpacked or
 * packed.
 *
 * LZ4: the block format of lz4.org (no frame). A block that does not get 3 % smaller, whatever the
 * codec, is stored as it is, which is known by its stored size being its unpacked size. `t` is the
 * element type of the weights in the block: raw and lz4 do not look at it. Threads: any, without
 * state. Nothing allocates or blocks.
 *
 * A block has no checksum: extents, the unit of everything that is read, have a SHA-256 in the
 * shard's index and a CRC32C in the cache, both of the stored bytes. */
#ifndef PS_KERNELS_CODEC_CODEC_H
#define PS_KERNELS_CODEC_CODEC_H
#include <stddef.h>
#include "base/err.h"
#include "proto/dtype.h"

/* Unpacks one block: exactly out_bytes come out, or PS_EDATA (the content of out is then
 * undefined, never a byte beyond it is written). `in` may be anything at any address.
 * PS_EUNSUPPORTED for an unknown codec. */
int ps_codec_decode(enum ps_codec c, enum ps_dtype t, const void *in, size_t in_bytes, void *out,
                    size_t out_bytes, struct ps_err *err);
/* Packs one block of in_bytes (1 .. 1 GiB) into out, which has room for in_bytes: *out_bytes <=
 * in_bytes tells how many were written. Deterministic for one version of the library. */
int ps_codec_encode(enum ps_codec c, enum ps_dtype t, const void *in, size_t in_bytes, void *out,
                    size_t *out_bytes, struct ps_err *err);
#endif
