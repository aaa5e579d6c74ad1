/* One piece of a WH plane: the walk over its tree that all instruction sets share. Comes in: bitmaps, written by
 * anyone. Goes out: exponents.
 *
 * Sizes go down the tree: a node with k ones has k weights in its right child. Weights come up: a node's sequence
 * is its children's, merged by its bitmap. Nodes of one depth together have no more weights than the piece, so two
 * buffers serve the whole tree.
 *
 * Whoever includes this has defined, for 64 bits and for n weights,
 *     wh_popcount(word)
 *     wh_merge_leaves(out, bits, n, zero, one)          both children are leaves
 *     wh_merge_leaf(out, bits, n, zero, ones, ahead)    the left one is
 *     wh_merge_nodes(out, bits, n, zeros, ones, ahead)  none is
 * They work in words of 64 weights: beyond n they may take what bits they find for bits, read up to WH_OVER bytes
 * beyond each sequence and write up to 63 (PS_PLANES_OVER) beyond `out`. Nodes of a depth are merged from left to
 * right, so that the right neighbour overwrites what was too much. */
#ifndef PS_KERNELS_WH_PIECE_IMPL_H
#define PS_KERNELS_WH_PIECE_IMPL_H
#include "kernels/codec/wh.h"

#define WH_OVER      128u /* 64 weights that the last word counts too many, and a vector from there */
#define WH_BITS_OVER 16u /* the last word of a bitmap, or two */

struct wh_nodes {
    uint32_t bits_at[PS_WH_MAX_NODES]; /* bytes, from the piece's start */
    uint16_t size[PS_WH_MAX_NODES];    /* weights */
    uint16_t at[PS_WH_MAX_NODES];      /* where its weights go in its depth's buffer */
};

static inline size_t wh_count_ones(const uint8_t *bits, size_t n)
{
    size_t sum = 0, i = 0;
    for (; i + 64 <= n; i += 64)
        sum += (size_t)wh_popcount(ps_wh_word(bits + i / 8));
    return i == n ? sum
                  : sum + (size_t)wh_popcount(ps_wh_word(bits + i / 8) & ~0ull >> (64 - (n - i)));
}

/* From the root down, in the order of storage. False: the bitmaps are not `bytes` long. */
static bool wh_measure(struct wh_nodes *t, const struct ps_wh *w, const uint8_t *bits, size_t bytes,
                       size_t n)
{
    size_t at = 0;
    t->size[0] = (uint16_t)n;
    t->at[0] = 0;
    for (unsigned d = 0; d < PS_WH_MAX_BITS; d++) {
        uint32_t below = 0; /* weights in inner nodes of the next depth */
        for (unsigned v = w->tree.nodes_before[d]; v < w->tree.nodes_before[d + 1]; v++) {
            size_t size = t->size[v], len = (size + 7) / 8;
            if (len > bytes - at)
                return false;
            size_t ones = wh_count_ones(bits + at, size);
            t->bits_at[v] = (uint32_t)at;
            at += len;
            for (unsigned bit = 0; bit < 2; bit++) {
                unsigned c = w->child[v][bit];
                if (c & PS_WH_LEAF)
                    continue;
                t->size[c] = (uint16_t)(bit ? ones : size - ones);
                t->at[c] = (uint16_t)below;
                below += t->size[c];
            }
        }
    }
    return ps_block_align(at) == bytes;
}

static inline void wh_merge(uint8_t *out, const uint16_t child[2], const uint8_t *bits, size_t n,
                            const struct wh_nodes *t, const uint8_t *below, struct ps_ahead *ahead)
{
    unsigned l = child[0], r = child[1];
    if (r & PS_WH_LEAF)
        wh_merge_leaves(out, bits, n, (uint8_t)l, (uint8_t)r);
    else if (l & PS_WH_LEAF)
        wh_merge_leaf(out, bits, n, (uint8_t)l, below + t->at[r], ahead);
    else
        wh_merge_nodes(out, bits, n, below + t->at[l], below + t->at[r], ahead);
}

static bool wh_piece(const struct ps_wh *w, size_t piece, uint8_t *e, struct ps_ahead ahead)
{
    uint8_t buffer[2][PS_BLOCK_PIECE + WH_OVER], last[PS_WH_PIECE_MAX_BYTES + WH_BITS_OVER];
    struct wh_nodes t;
    size_t begin, bytes, first = piece * PS_BLOCK_PIECE;
    size_t n = w->n - first < PS_BLOCK_PIECE ? w->n - first : PS_BLOCK_PIECE;
    if (!ps_wh_piece_place(&begin, &bytes, &w->tree, w->plane, w->bytes, w->n, piece))
        return false;
    const uint8_t *bits = w->plane + begin;
    if (w->bytes - begin - bytes < WH_BITS_OVER) { /* nothing to read too much of */
        bits = memcpy(last, bits, bytes);
        memset(last + bytes, 0, WH_BITS_OVER);
    }
    if (!wh_measure(&t, w, bits, bytes, n))
        return false;
    for (unsigned d = PS_WH_MAX_BITS; d-- > 0;)
        for (unsigned v = w->tree.nodes_before[d]; v < w->tree.nodes_before[d + 1]; v++)
            wh_merge(d ? buffer[d % 2] + t.at[v] : e, w->child[v], bits + t.bits_at[v], t.size[v],
                     &t, buffer[(d + 1) % 2], &ahead);
    return true;
}
#endif
