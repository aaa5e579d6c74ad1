/* XC34: the exponent plane of a block in codes of 3 bits, with escapes to nibbles and to bytes
 * (proto/block_format.h has the layout). Nearly fixed in width, hence fast. Pure; no allocation. */
#ifndef PS_KERNELS_CODEC_XC34_H
#define PS_KERNELS_CODEC_XC34_H
#include "kernels/codec/planes.h"

/* An opened plane: borrowed bytes, and where its parts lie. */
struct ps_xc34 {
    const uint8_t *plane;
    size_t n;
    struct ps_xc34_head head;
};

/* As ps_wh_encode. */
size_t ps_xc34_encode(uint8_t *out, size_t cap, const struct ps_planes_source *s,
                      const uint32_t counts[256]);
/* Escapes of one segment: nibbles [nibble, nibble_end), bare exponents [bare, bare_end) of the plane's. */
struct ps_xc34_span {
    size_t nibble, nibble_end, bare, bare_end;
};

bool ps_xc34_open(struct ps_xc34 *x, const uint8_t *plane, size_t bytes, size_t n);
/* What the table says of a segment. False: that can't be. */
bool ps_xc34_span(struct ps_xc34_span *s, const struct ps_xc34 *x, size_t segment);
/* As ps_wh_piece. */
bool ps_xc34_piece(const struct ps_xc34 *x, size_t piece, uint8_t *e, struct ps_ahead ahead);
#endif
