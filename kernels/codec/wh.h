/* WH: the exponent plane of a block as a wavelet tree of Huffman codes (proto/block_format.h has the layout and
 * where the idea comes from). Pure; no allocation: scratch lies on the stack, under 64 KiB. */
#ifndef PS_KERNELS_CODEC_WH_H
#define PS_KERNELS_CODEC_WH_H
#include <string.h>

#include "kernels/codec/planes.h"

/* An opened plane: borrowed bytes, and its tree. */
struct ps_wh {
    const uint8_t *plane;
    size_t bytes, n;
    struct ps_wh_tree tree;
    uint16_t child[PS_WH_MAX_NODES][2]; /* as ps_wh_child() says */
};

/* Deals the n weights of a node out to its children: `bits` gets a one, `ones` the rank of every weight from `middle`
 * on, `zeros` the ranks of the others; NULL leaves a side out, a leaf's. Returns the number of ones. Sixty-four ranks
 * are stored at a time: PS_PLANES_OVER bytes beyond may be written to either side, and read. */
typedef size_t (*ps_wh_deal_fn)(uint8_t *bits, const uint8_t *ranks, size_t n, uint8_t middle,
                                uint8_t *zeros, uint8_t *ones);
size_t ps_wh_deal(uint8_t *bits, const uint8_t *ranks, size_t n, uint8_t middle, uint8_t *zeros,
                  uint8_t *ones);
/* Writes the plane of `s`, whose exponents occur `counts[e]` times, at least two different ones. Returns its length, or
 * 0 if that would be over `cap`. The same bytes on every machine. */
size_t ps_wh_encode(uint8_t *out, size_t cap, const struct ps_planes_source *s,
                    const uint32_t counts[256], ps_wh_deal_fn deal);
/* False: not a WH plane of n weights. */
bool ps_wh_open(struct ps_wh *w, const uint8_t *plane, size_t bytes, size_t n);
/* Exponents of piece `piece`: PS_BLOCK_PIECE of them, in the last the rest; up to PS_PLANES_OVER bytes beyond may be
 * written. False: the bitmaps do not add up. */
bool ps_wh_piece(const struct ps_wh *w, size_t piece, uint8_t *e, struct ps_ahead ahead);

/* 64 bits of a bitmap. */
static inline uint64_t ps_wh_word(const uint8_t *bits)
{
    uint64_t x;
    memcpy(&x, bits, sizeof x);
    return x;
}
#endif
