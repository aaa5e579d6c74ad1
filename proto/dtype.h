/* Element types of stored tensors. Pure values; the layouts of quantised types: quant.h. */
#ifndef PS_PROTO_DTYPE_H
#define PS_PROTO_DTYPE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Values are part of the shard format: never renumber. */
enum ps_dtype {
    PS_DTYPE_NONE = 0,
    PS_F32 = 1,
    PS_F16 = 2,
    PS_BF16 = 3,
    PS_F64 = 4,
    PS_F8_E4M3 = 5,
    PS_F8_E5M2 = 6,
    PS_F8_E8M0 = 7,
    PS_I64 = 8,
    PS_I32 = 9,
    PS_I16 = 10,
    PS_I8 = 11,
    PS_U64 = 12,
    PS_U32 = 13,
    PS_U16 = 14,
    PS_U8 = 15,
    PS_BOOL = 16,
    /* Blocks of weights with a common scale: a row has a layout, not an element a size. See quant.h. */
    PS_Q8B64 = 17,
    PS_NF4B64 = 18,
    PS_MXFP4 = 19,
};
#define PS_DTYPE_LAST PS_MXFP4
/* Bytes of one element; 0 for an unknown value and for the types of blocks. */
size_t ps_dtype_bytes(enum ps_dtype t);
/* safetensors spelling ("BF16", "F8_E4M3"), "?" if unknown. */
const char *ps_dtype_name(enum ps_dtype t);
/* The type that a safetensors header calls so; PS_DTYPE_NONE if unknown. It never is one of the types of blocks,
 * which have a name but are not safetensors': a header that says "Q8B64" is malformed. */
enum ps_dtype ps_dtype_from_name(const char *s, size_t len);

/* Codec of a stored extent. Part of the format: never renumber. CONST is a mode of planes inside WH and XC34 blocks; no
 * extent has it. */
enum ps_codec {
    PS_CODEC_RAW = 0,
    PS_CODEC_LZ4 = 1,
    PS_CODEC_CONST = 2,
    PS_CODEC_WH = 3,
    PS_CODEC_XC34 = 4,
};
/* Whether an extent may have it, and their names for messages. */
bool ps_codec_known(uint32_t c);
#define PS_CODECS_KNOWN "raw, lz4, wh, xc34"
/* By name; -1: no extent has such a codec. */
int ps_codec_from_name(const char *name);
const char *ps_codec_name(enum ps_codec c); /* "raw", "lz4", ..., "?" if unknown */

/* How a split stores a model, as `--codec` and the manifest name it: a codec for everything, or a type that linear
 * weights are rounded to, while the rest keeps its bits and is coded by WH. */
struct ps_packing {
    enum ps_codec codec;
    enum ps_dtype quant; /* PS_Q8B64, PS_NF4B64; PS_DTYPE_NONE: nothing is rounded */
};
#define PS_PACKINGS_KNOWN "raw, lz4, wh, xc34, q8b64, nf4b64"
/* False: there is no such packing. */
bool ps_packing_from_name(struct ps_packing *out, const char *name);
const char *ps_packing_name(const struct ps_packing *p);
#endif
