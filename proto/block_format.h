/* The stored form of blocks coded by WH and XC34: layout, and the one reader of its heads that the CPU
 * (kernels/codec) and the GPU (kernels/cuda/decode.cu) share, so that both refuse the same blocks.
 *
 * A block holds n weights of one element type: whole rows, so n is any number. The redundancy of trained weights sits
 * in their exponents; sign and mantissa are noise. Weights are therefore taken apart into a plane of exponents, one
 * byte each, which is coded, and planes of the rest, which are stored as they are:
 *
 *     type      exponent          rest planes, in this order
 *     BF16      bits 14..7        8 bits: mantissa << 1 | sign
 *     F32       bits 30..23       8 bits: of the upper half as for BF16; 8 bits: bits 15..8; 8 bits: bits 7..0
 *     F16       bits 14..10       8 bits: bits 7..0; 1 bit: bit 8; 1 bit: bit 9; 1 bit: sign
 *     F8_E4M3   bits 6..3         4 bits: sign << 3 | mantissa
 *
 * Planes of 4 and of 1 bits have the first weight in the lowest bits of a byte; what is left of the last byte repeats
 * the last weight, so that a plane of one value is bytes of one value. All numbers are little-endian, every plane
 * starts at a multiple of 16 from the block's start, and a block's length is a multiple of 16; gaps are zero.
 *
 *     0   u8   PS_BLOCK_VERSION
 *     1   u8   element type, enum ps_dtype
 *     2   u8   codec of the exponent plane: RAW, CONST, or the codec of the extent (WH, XC34)
 *     3   u8   the exponent, where that is CONST, else 0
 *     4   u32  n
 *     8   u32  stored bytes of the exponent plane, rounded up to 16 (0 for CONST)
 *     12  u8 x 4   codecs of the rest planes: RAW or CONST
 *     16  u8 x 4   their byte, where CONST, else 0
 *     20  12 zeros
 *     32  the exponent plane, then the rest planes that are RAW
 *
 * A block that would not get 3 % smaller is stored as the bare weights, and known by its length being that of the
 * weights: a coded block is always shorter. Of other element types all blocks are such.
 *
 * Both codings can be entered anywhere, for the many threads of a GPU: WH every PS_BLOCK_PIECE weights, XC34 every
 * PS_XC34_SEGMENT of them.
 *
 * WH plane: canonical Huffman codes of 1 to 12 bits, one set for the block, laid out as a wavelet tree: instead of
 * codes one behind the other, each inner node of the code tree keeps, as a bitmap, the next bit of every weight that
 * passes through it. A weight's place in a child is the number of equal bits before its own. (Huffman-shaped wavelet
 * trees: Grossi, Gupta, Vitter 2003; Foschini et al. 2006.)
 *
 *     0   u8 x 16   [l]: how many symbols have codes of l bits, l = 1..12, filling the code space; others 0
 *     16  u8 each   the symbols, shortest codes first, ascending among equals; zeros up to a multiple of 4
 *         u32 each  for every piece of 16,384 weights where it ends, from the start of the first: a multiple of 16
 *         zeros up to a multiple of 16, then the pieces
 *
 *     Of the nodes at one depth the leaves come first, in the order of the symbols, then the inner nodes: those two
 *     lists and the counts are the tree. Inner nodes are numbered from the root, depth by depth; node k of a depth
 *     has the children 2k (bit 0) and 2k + 1 at the next one. A piece is the bitmaps of its nodes in that order,
 *     lowest bit of a byte first, each starting on a byte, and zeros up to 16; at most PS_WH_PIECE_MAX_BYTES in all
 *     (a plane of other data stays RAW).
 *
 * XC34 plane: the seven commonest exponents have codes of 3 bits; code 7 is an escape to a nibble for the next
 * fifteen; nibble 15 is an escape to the exponent itself.
 *
 *     0   u8 x 22   the book: exponents of codes 0..6, then of nibbles 0..14; 2 zeros
 *     24  u32       nibbles in all
 *     28  u32       bare exponents in all
 *     32  u32 x 2   for every segment of 4096 weights: nibbles, and bare exponents, before it
 *         zeros up to 16; for every 64 weights three u64: bit i of word j is bit j of weight i's code; 0 after n
 *         zeros up to 16; the nibbles, lower half of a byte first
 *         zeros up to 16; the bare exponents */
#ifndef PS_PROTO_BLOCK_FORMAT_H
#define PS_PROTO_BLOCK_FORMAT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/dtype.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "blocks are read in place: little-endian machines only"
#endif

#define PS_BLOCK_VERSION    1u
#define PS_BLOCK_HEAD_BYTES 32u
#define PS_BLOCK_ALIGN      16u
#define PS_BLOCK_PIECE      16384u /* weights */
#define PS_BLOCK_MAX_REST   4u
#define PS_WH_MAX_BITS      12u
#define PS_WH_MAX_NODES     255u /* inner ones, of 256 symbols */
#define PS_WH_LEAF          0x100u
#define PS_WH_SYMBOLS_AT    16u
#define PS_WH_PIECE_MAX_BYTES                                                                      \
    16384u /* 8 bits a weight: what a GPU's shared memory has room for, twice */
#define PS_XC34_SEGMENT     4096u /* weights */
#define PS_XC34_BOOK        22u
#define PS_XC34_SHORT       7u  /* codes of 3 bits; the next is the escape */
#define PS_XC34_LONG        15u /* nibbles; the next is the escape */
#define PS_XC34_SEGMENTS_AT 32u

#if defined(__CUDACC__)
#define PS_BLOCK_FN static __host__ __device__ inline
#else
#define PS_BLOCK_FN static inline
#endif

PS_BLOCK_FN size_t ps_block_align(size_t bytes)
{
    return (bytes + PS_BLOCK_ALIGN - 1) / PS_BLOCK_ALIGN * PS_BLOCK_ALIGN;
}

PS_BLOCK_FN uint32_t ps_block_u32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Bytes of one weight of a type that has planes; 0 for the others. */
PS_BLOCK_FN unsigned ps_block_weight_bytes(enum ps_dtype t)
{
    return t == PS_BF16 || t == PS_F16 ? 2 : t == PS_F32 ? 4 : t == PS_F8_E4M3 ? 1 : 0;
}

/* Bits of a weight in rest plane `p`; 0: there is no such plane. */
PS_BLOCK_FN unsigned ps_block_rest_bits(enum ps_dtype t, unsigned p)
{
    switch (t) {
    case PS_BF16: return p == 0 ? 8 : 0;
    case PS_F32: return p < 3 ? 8 : 0;
    case PS_F16: return p == 0 ? 8 : p < 4 ? 1 : 0;
    case PS_F8_E4M3: return p == 0 ? 4 : 0;
    default: return 0;
    }
}

PS_BLOCK_FN size_t ps_block_rest_bytes(enum ps_dtype t, unsigned p, size_t n)
{
    return (n * ps_block_rest_bits(t, p) + 7) / 8;
}

/* A block's planes by their place from its start. */
struct ps_block_head {
    size_t n;
    uint8_t codec;    /* of the exponents: RAW, CONST, WH, XC34 */
    uint8_t exponent; /* CONST */
    size_t plane_at, plane_bytes;
    bool rest_const[PS_BLOCK_MAX_REST];
    uint8_t rest_byte[PS_BLOCK_MAX_REST];
    size_t rest_at[PS_BLOCK_MAX_REST];
};

/* Reads the head of a block of `in_bytes` that must hold `out_bytes` of weights coded by `codec`. False: it does not.
 * On success every plane lies inside the block; what is inside of a coded plane is still to be checked. */
PS_BLOCK_FN bool ps_block_head_read(struct ps_block_head *h, const uint8_t *in, size_t in_bytes,
                                    enum ps_codec codec, enum ps_dtype t, size_t out_bytes)
{
    unsigned each = ps_block_weight_bytes(t);
    if (each == 0 || in_bytes < PS_BLOCK_HEAD_BYTES || in_bytes >= out_bytes ||
        in[0] != PS_BLOCK_VERSION || in[1] != (unsigned)t)
        return false;
    for (unsigned i = 20; i < PS_BLOCK_HEAD_BYTES; i++)
        if (in[i] != 0)
            return false;
    h->n = ps_block_u32(in + 4);
    h->codec = in[2];
    h->exponent = in[3];
    h->plane_at = PS_BLOCK_HEAD_BYTES;
    h->plane_bytes = ps_block_u32(in + 8);
    if (h->n != out_bytes / each || out_bytes % each != 0 || h->plane_bytes % PS_BLOCK_ALIGN != 0)
        return false;
    if (h->codec == PS_CODEC_CONST || h->codec == PS_CODEC_RAW) {
        if (h->plane_bytes != (h->codec == PS_CODEC_RAW ? ps_block_align(h->n) : 0))
            return false;
    } else if (h->codec != (unsigned)codec) {
        return false;
    }
    size_t at = h->plane_at + h->plane_bytes;
    for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++) {
        size_t bytes = ps_block_rest_bytes(t, p, h->n);
        h->rest_const[p] = in[12 + p] == PS_CODEC_CONST;
        h->rest_byte[p] = in[16 + p];
        h->rest_at[p] = at;
        if (in[12 + p] != PS_CODEC_RAW && (in[12 + p] != PS_CODEC_CONST || bytes == 0))
            return false;
        at += h->rest_const[p] ? 0 : ps_block_align(bytes);
    }
    return at == in_bytes;
}

/* Place of a WH tree: for every depth the symbols above it and the inner nodes above it. */
struct ps_wh_tree {
    unsigned n_symbols; /* inner nodes: n_symbols - 1 */
    uint8_t leaves[PS_WH_MAX_BITS + 1];
    uint16_t leaves_before[PS_WH_MAX_BITS + 2], nodes_before[PS_WH_MAX_BITS + 2];
};

/* Reads the 16 counts. False: they are no tree of at least two leaves. */
PS_BLOCK_FN bool ps_wh_tree_read(struct ps_wh_tree *w, const uint8_t *counts)
{
    unsigned nodes = 1, leaves_before = 0, nodes_before = 0;
    for (unsigned d = 0; d < 16; d++) {
        if ((d == 0 || d > PS_WH_MAX_BITS) && counts[d] != 0)
            return false;
        if (d > PS_WH_MAX_BITS)
            continue;
        if (d > 0) { /* two children for every node of the depth above */
            if (counts[d] > 2 * nodes)
                return false;
            nodes = 2 * nodes - counts[d];
        }
        w->leaves[d] = counts[d];
        w->leaves_before[d] = (uint16_t)leaves_before;
        w->nodes_before[d] = (uint16_t)nodes_before;
        leaves_before += counts[d];
        nodes_before += nodes;
        if (nodes_before > PS_WH_MAX_NODES)
            return false;
    }
    w->leaves_before[PS_WH_MAX_BITS + 1] = (uint16_t)leaves_before;
    w->nodes_before[PS_WH_MAX_BITS + 1] = (uint16_t)nodes_before;
    w->n_symbols = leaves_before;
    return nodes == 0;
}

/* Child `bit` of inner node `v`: the number of an inner node, which is larger than v, or PS_WH_LEAF | symbol. */
PS_BLOCK_FN unsigned ps_wh_child(const struct ps_wh_tree *w, const uint8_t *symbols, unsigned v,
                                 unsigned bit)
{
    unsigned d = 0;
    while (v >= w->nodes_before[d + 1])
        d++;
    unsigned k = 2 * (v - w->nodes_before[d]) + bit;
    if (k < w->leaves[d + 1])
        return PS_WH_LEAF | symbols[w->leaves_before[d + 1] + k];
    return w->nodes_before[d + 1] + k - w->leaves[d + 1];
}

PS_BLOCK_FN size_t ps_wh_pieces(size_t n)
{
    return (n + PS_BLOCK_PIECE - 1) / PS_BLOCK_PIECE;
}
PS_BLOCK_FN size_t ps_wh_ends_at(unsigned n_symbols)
{
    return (PS_WH_SYMBOLS_AT + n_symbols + 3) / 4 * 4;
}
PS_BLOCK_FN size_t ps_wh_bitmaps_at(unsigned n_symbols, size_t n)
{
    return ps_block_align(ps_wh_ends_at(n_symbols) + 4 * ps_wh_pieces(n));
}

/* Where the bitmaps of a piece lie in the plane. False: outside of it, or too many. */
PS_BLOCK_FN bool ps_wh_piece_place(size_t *at, size_t *bytes, const struct ps_wh_tree *w,
                                   const uint8_t *plane, size_t plane_bytes, size_t n, size_t piece)
{
    size_t base = ps_wh_bitmaps_at(w->n_symbols, n);
    if (base > plane_bytes)
        return false;
    const uint8_t *ends = plane + ps_wh_ends_at(w->n_symbols);
    size_t begin = piece ? ps_block_u32(ends + 4 * (piece - 1)) : 0,
           end = ps_block_u32(ends + 4 * piece);
    bool last = piece + 1 == ps_wh_pieces(n);
    if (begin > end || end > plane_bytes - base || (last && end != plane_bytes - base) ||
        end - begin > PS_WH_PIECE_MAX_BYTES || begin % PS_BLOCK_ALIGN != 0 ||
        end % PS_BLOCK_ALIGN != 0)
        return false;
    *at = base + begin;
    *bytes = end - begin;
    return true;
}

struct ps_xc34_head {
    size_t n_nibbles, n_bare;
    size_t groups_at, nibbles_at, bare_at; /* from the start of the plane */
};

PS_BLOCK_FN size_t ps_xc34_segments(size_t n)
{
    return (n + PS_XC34_SEGMENT - 1) / PS_XC34_SEGMENT;
}

/* Where the parts of a plane of n weights lie; returns its length. */
PS_BLOCK_FN size_t ps_xc34_layout(struct ps_xc34_head *x, size_t n, size_t n_nibbles, size_t n_bare)
{
    x->n_nibbles = n_nibbles;
    x->n_bare = n_bare;
    x->groups_at = ps_block_align(PS_XC34_SEGMENTS_AT + 8 * ps_xc34_segments(n));
    x->nibbles_at = ps_block_align(x->groups_at + (n + 63) / 64 * 24);
    x->bare_at = ps_block_align(x->nibbles_at + (n_nibbles + 1) / 2);
    return ps_block_align(x->bare_at + n_bare);
}

PS_BLOCK_FN bool ps_xc34_head_read(struct ps_xc34_head *x, const uint8_t *plane, size_t plane_bytes,
                                   size_t n)
{
    if (plane_bytes < PS_XC34_SEGMENTS_AT)
        return false;
    size_t n_nibbles = ps_block_u32(plane + 24), n_bare = ps_block_u32(plane + 28);
    return n_nibbles <= n && n_bare <= n_nibbles &&
           ps_xc34_layout(x, n, n_nibbles, n_bare) == plane_bytes;
}
#endif
