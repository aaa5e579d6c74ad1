/* WH: the exponent plane of a block as a wavelet tree of Huffman codes (proto/block_format.h has the layout and
 * where the idea comes from). Pure; no allocation: scratch lies on the stack, under 64 KiB. */
#ifndef PS_KERNELS_CODEC_WH_H
#define PS_KERNELS_CODEC_WH_H
#include "kernels/codec/planes.h"

/* An opened plane: borrowed bytes, and its tree. */
struct ps_wh {
    const uint8_t *plane;
    size_t bytes, n;
    struct ps_wh_tree tree;
    uint16_t child[PS_WH_MAX_NODES][2]; /* as ps_wh_child() says */
};

/* Writes the plane of `s`, whose exponents occur `counts[e]` times, at least two different ones. Returns its length, or
 * 0 if that would be over `cap`. The same bytes on every machine. */
size_t ps_wh_encode(uint8_t *out, size_t cap, const struct ps_planes_source *s,
                    const uint32_t counts[256]);
/* False: not a WH plane of n weights. */
bool ps_wh_open(struct ps_wh *w, const uint8_t *plane, size_t bytes, size_t n);
/* Exponents of piece `piece`: PS_BLOCK_PIECE of them, in the last the rest. False: the bitmaps do not add up. */
bool ps_wh_piece(const struct ps_wh *w, size_t piece, uint8_t *e);
#endif
