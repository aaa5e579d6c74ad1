/* Block codecs. Comes in: one stored block, checked by its hash yet written by anyone. Goes out: rows of weights. */
#include "kernels/codec/codec.h"

#include <limits.h>
#include <lz4.h>
#include <string.h>

#include "kernels/codec/block.h"

#define ORIGIN "codec"

static int unknown(enum ps_codec c, struct ps_err *err)
{
    return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                      "codec %d is not known to this version (known: %s)", (int)c, PS_CODECS_KNOWN);
}

static int decode_lz4(const void *in, size_t in_bytes, void *out, size_t out_bytes, struct ps_err *err)
{
    if (in_bytes > INT_MAX || out_bytes > INT_MAX)
        return ps_err_set(err, PS_EDATA, ORIGIN, "a block of %zu bytes is too large", out_bytes);
    /* A result other than out_bytes means that the block is damaged or that the index lies. */
    int n = LZ4_decompress_safe(in, out, (int)in_bytes, (int)out_bytes);
    if (n < 0 || (size_t)n != out_bytes)
        return ps_err_set(err, PS_EDATA, ORIGIN, "an lz4 block of %zu bytes does not unpack to %zu",
                          in_bytes, out_bytes);
    return 0;
}

static int decode_planes(enum ps_codec c, enum ps_dtype t, const void *in, size_t in_bytes,
                         void *out, size_t out_bytes, struct ps_err *err)
{
    if (!ps_block_decode(ps_block_ops(), c, t, in, in_bytes, out, out_bytes))
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "a block of %zu bytes does not unpack by %s to %zu of type %s", in_bytes,
                          ps_codec_name(c), out_bytes, ps_dtype_name(t));
    return 0;
}

int ps_codec_decode(enum ps_codec c, enum ps_dtype t, const void *in, size_t in_bytes, void *out,
                    size_t out_bytes, struct ps_err *err)
{
    if (!ps_codec_known((uint32_t)c))
        return unknown(c, err);
    if (in_bytes == out_bytes) {
        memcpy(out, in, in_bytes);
        return 0;
    }
    if (c == PS_CODEC_RAW)
        return ps_err_set(err, PS_EDATA, ORIGIN, "a raw block has %zu bytes instead of %zu",
                          in_bytes, out_bytes);
    if (c == PS_CODEC_LZ4)
        return decode_lz4(in, in_bytes, out, out_bytes, err);
    return decode_planes(c, t, in, in_bytes, out, out_bytes, err);
}

int ps_codec_encode(enum ps_codec c, enum ps_dtype t, const void *in, size_t in_bytes, void *out,
                    size_t *out_bytes, struct ps_err *err)
{
    if (!ps_codec_known((uint32_t)c))
        return unknown(c, err);
    if (in_bytes == 0 || in_bytes > 1u << 30)
        return ps_err_set(err, PS_EFAIL, ORIGIN, "can't pack a block of %zu bytes", in_bytes);
    size_t n = 0;
    if (c == PS_CODEC_LZ4) /* what does not get 3 % smaller does not fit, and gives 0 */
        n = (size_t)LZ4_compress_default(in, out, (int)in_bytes,
                                         (int)(in_bytes - (in_bytes * 3 + 99) / 100));
    else if (c != PS_CODEC_RAW)
        n = ps_block_encode(ps_block_ops(), c, t, in, in_bytes, out);
    if (n == 0)
        memcpy(out, in, in_bytes);
    *out_bytes = n ? n : in_bytes;
    return 0;
}
