/* Blocks of codecs WH and XC34 as a whole: the head, the exponent plane by its codec, the rest planes
 * (proto/block_format.h). Pure, no allocation: at most 128 KiB of stack. */
#ifndef PS_KERNELS_CODEC_BLOCK_H
#define PS_KERNELS_CODEC_BLOCK_H
#include "kernels/codec/planes.h"
#include "kernels/codec/wh.h"
#include "kernels/codec/xc34.h"

/* The inner loops, one table per instruction set. All tables give the same bytes and refuse the same planes; the scalar
 * one is the truth that others are tested against. */
struct ps_block_ops {
    const char *name;
    bool (*wh_piece)(const struct ps_wh *w, size_t piece, uint8_t *e, struct ps_ahead ahead);
    bool (*xc34_piece)(const struct ps_xc34 *x, size_t piece, uint8_t *e, struct ps_ahead ahead);
    ps_wh_deal_fn wh_deal;
    void (*join)(uint8_t *weights, enum ps_dtype t, const uint8_t *e,
                 const uint8_t *const rest[PS_BLOCK_MAX_REST], size_t n);
};
extern const struct ps_block_ops ps_block_ops_scalar;
/* The table for this CPU; PENSTOCK_BACKEND=ref|avx2|avx512 narrows it as it does the arithmetic. Found once. */
const struct ps_block_ops *ps_block_ops(void);
/* "scalar", "avx2", "avx512", "avx512vbmi". NULL: no such table, or this CPU can't run it. */
const struct ps_block_ops *ps_block_ops_by_name(const char *name);

/* Unpacks a coded block (shorter than its weights). False: it is none of `codec` and `t` with out_bytes of weights. */
bool ps_block_decode(const struct ps_block_ops *ops, enum ps_codec codec, enum ps_dtype t,
                     const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes);
/* Packs a block into at most 97 % of its bytes. Returns its length, or 0 if that can't be done; up to in_bytes of `out`
 * are written in any case. */
size_t ps_block_encode(const struct ps_block_ops *ops, enum ps_codec codec, enum ps_dtype t,
                       const uint8_t *in, size_t in_bytes, uint8_t *out);
#endif
