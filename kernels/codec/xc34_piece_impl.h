/* One piece of an XC34 plane, for vectors. Comes in: codes, nibbles and bare exponents, written by anyone. Goes out:
 * exponents.
 *
 * A segment's escapes are looked up first, all in a row; then every 64 codes take from that row as many as they
 * need. What both add up to is compared at the end, and until then the buffers have room for the worst.
 *
 * Whoever includes this has defined
 *     xc_escapes(out, nibbles, count, book, bare)       exponents of nibbles; returns the end of `bare`
 *     xc_group(e, words, full, book, escapes)           64 exponents; returns the end of `escapes`
 * where `full` has a bit for every weight that there is. Both may read XC_OVER bytes beyond each input and write as
 * much beyond the output. */
#ifndef PS_KERNELS_XC34_PIECE_IMPL_H
#define PS_KERNELS_XC34_PIECE_IMPL_H
#include <string.h>

#include "kernels/codec/xc34.h"

#define XC_OVER        64u
#define XC_GROUP       64u
#define XC_GROUP_BYTES 24u

struct xc_row {
    uint8_t nibbles[PS_XC34_SEGMENT / 2 + 1 + XC_OVER];
    uint8_t bare[PS_XC34_SEGMENT + 2 * XC_OVER]; /* a vector of escapes may take 64 too many */
    uint8_t escapes[PS_XC34_SEGMENT + 2 * XC_OVER];
};

/* Fills row->escapes and tells where they begin. NULL: nibbles and bare exponents do not add up. */
static const uint8_t *xc_look_up(struct xc_row *row, const struct ps_xc34 *x,
                                 const struct ps_xc34_span *s)
{
    size_t first = s->nibble / 2, end = (s->nibble_end + 1) / 2, skip = s->nibble % 2;
    size_t n_bare = s->bare_end - s->bare;
    memcpy(row->nibbles, x->plane + x->head.nibbles_at + first, end - first);
    memset(row->nibbles + end - first, 0, XC_OVER);
    memcpy(row->bare, x->plane + x->head.bare_at + s->bare, n_bare);
    if (end == first) /* an empty segment: its nibbles would be the neighbours' */
        return n_bare == 0 ? row->escapes : NULL;
    if (skip)
        row->nibbles[0] &= 0xf0;
    if (s->nibble_end % 2)
        row->nibbles[end - first - 1] &= 0x0f;
    size_t count = skip + s->nibble_end - s->nibble;
    const uint8_t *bare_end =
        xc_escapes(row->escapes, row->nibbles, count, x->plane + PS_XC34_SHORT, row->bare);
    return bare_end == row->bare + n_bare ? row->escapes + skip : NULL;
}

static bool xc_segment(const struct ps_xc34 *x, size_t segment, uint8_t *e, struct ps_ahead *ahead)
{
    struct xc_row row;
    struct ps_xc34_span s;
    if (!ps_xc34_span(&s, x, segment))
        return false;
    const uint8_t *escapes = xc_look_up(&row, x, &s);
    if (!escapes)
        return false;
    const uint8_t *end = escapes + (s.nibble_end - s.nibble);
    size_t first = segment * PS_XC34_SEGMENT, i = 0;
    size_t n = x->n - first < PS_XC34_SEGMENT ? x->n - first : PS_XC34_SEGMENT;
    const uint8_t *group = x->plane + x->head.groups_at + first / XC_GROUP * XC_GROUP_BYTES;
    for (; i + XC_GROUP <= n; i += XC_GROUP, group += XC_GROUP_BYTES) {
        ps_ahead_step(ahead);
        escapes = xc_group(e + i, group, ~0ull, x->plane, escapes);
    }
    if (i < n)
        escapes = xc_group(e + i, group, ~0ull >> (XC_GROUP - (n - i)), x->plane, escapes);
    return escapes == end;
}

static bool xc_piece(const struct ps_xc34 *x, size_t piece, uint8_t *e, struct ps_ahead ahead)
{
    size_t per = PS_BLOCK_PIECE / PS_XC34_SEGMENT, first = piece * per;
    for (size_t k = 0; k < per && first + k < ps_xc34_segments(x->n); k++)
        if (!xc_segment(x, first + k, e + k * PS_XC34_SEGMENT, &ahead))
            return false;
    return true;
}
#endif
