/* WH, unpacking, scalar. Comes in: bitmaps of a wavelet tree, written by anyone. Goes out: exponents, a piece at a
 * time.
 *
 * Sizes go down the tree: a node with k ones has k weights in its right child. Weights come up: a node's sequence
 * is its children's, merged by its bitmap. Nodes of one depth together have no more weights than the piece, so two
 * buffers serve the whole tree. */
#include <string.h>

#include "kernels/codec/wh.h"

static uint64_t load64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* The last bits of a bitmap: fewer than 64. */
static uint64_t load_tail(const uint8_t *p, size_t bits)
{
    uint64_t x = 0;
    memcpy(&x, p, (bits + 7) / 8);
    return bits ? x & ~0ull >> (64 - bits) : 0;
}

/* Without the instruction (baseline x86-64) the compiler would call a function per word. */
static inline uint64_t popcount64(uint64_t x)
{
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return x * 0x0101010101010101u >> 56;
}

static size_t count_ones(const uint8_t *bits, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i + 64 <= n; i += 64)
        sum += popcount64(load64(bits + i / 8));
    return sum + popcount64(load_tail(bits + n / 64 * 8, n % 64));
}

/* ---- Merging ---- */

/* A bit of every byte from the bits of one: 0x00 or 0xff. */
static inline uint64_t spread(uint8_t bits)
{
    uint64_t x = bits * 0x0101010101010101u & 0x8040201008040201u;
    x = (x + 0x7f7f7f7f7f7f7f7fu) >> 7 &
        0x0101010101010101u; /* the byte is 0 or one bit: no carry leaves it */
    return x * 0xff;
}

static void merge_leaves(uint8_t *out, const uint8_t *bits, size_t n, uint8_t zero, uint8_t one)
{
    uint64_t zeros = zero * 0x0101010101010101u, flip = (zero ^ one) * 0x0101010101010101u;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t x = zeros ^ (spread(bits[i / 8]) & flip);
        memcpy(out + i, &x, sizeof x);
    }
    for (; i < n; i++)
        out[i] = bits[i / 8] >> i % 8 & 1 ? one : zero;
}

/* The commonest case: of n weights all are `zero` but those whose bit is set. */
static void merge_leaf(uint8_t *out, const uint8_t *bits, size_t n, uint8_t zero, const uint8_t *ones)
{
    memset(out, zero, n);
    for (size_t i = 0; i < n; i += 64) {
        uint64_t word = n - i >= 64 ? load64(bits + i / 8) : load_tail(bits + i / 8, n - i);
        for (; word; word &= word - 1)
            out[i + (size_t)__builtin_ctzll(word)] = *ones++;
    }
}

/* Reads a byte beyond the end of either side, and drops it. */
static void merge_nodes(uint8_t *out, const uint8_t *bits, size_t n, const uint8_t *zeros,
                        const uint8_t *ones)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i += 64) {
        size_t m = n - i < 64 ? n - i : 64;
        uint64_t word = m == 64 ? load64(bits + i / 8) : load_tail(bits + i / 8, m);
        for (size_t j = i; j < i + m; j++, word >>= 1) {
            uint8_t bit = word & 1, a = zeros[j - k], b = ones[k];
            out[j] =
                a ^ ((a ^ b) & (uint8_t)-bit); /* a branch would be mispredicted half of the time */
            k += bit;
        }
    }
}

/* ---- A piece ---- */

struct nodes {
    uint32_t bits_at[PS_WH_MAX_NODES]; /* bytes, from the piece's start */
    uint16_t size[PS_WH_MAX_NODES];    /* weights */
    uint16_t at[PS_WH_MAX_NODES];      /* where its weights go in its depth's buffer */
};

/* From the root down, in the order of storage. False: the bitmaps are not `bytes` long. */
static bool measure(struct nodes *t, const struct ps_wh *w, const uint8_t *bits, size_t bytes,
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
            size_t ones = count_ones(bits + at, size);
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

static void merge(uint8_t *out, const uint16_t child[2], const uint8_t *bits, const struct nodes *t,
                  size_t n, const uint8_t *below)
{
    unsigned l = child[0], r = child[1];
    if (r & PS_WH_LEAF)
        merge_leaves(out, bits, n, (uint8_t)l, (uint8_t)r);
    else if (l & PS_WH_LEAF)
        merge_leaf(out, bits, n, (uint8_t)l, below + t->at[r]);
    else
        merge_nodes(out, bits, n, below + t->at[l], below + t->at[r]);
}

bool ps_wh_piece(const struct ps_wh *w, size_t piece, uint8_t *e)
{
    uint8_t buffer[2][PS_BLOCK_PIECE + 8];
    struct nodes t;
    size_t begin, bytes, first = piece * PS_BLOCK_PIECE;
    size_t n = w->n - first < PS_BLOCK_PIECE ? w->n - first : PS_BLOCK_PIECE;
    if (!ps_wh_piece_place(&begin, &bytes, &w->tree, w->plane, w->bytes, w->n, piece) ||
        !measure(&t, w, w->plane + begin, bytes, n))
        return false;
    for (unsigned d = PS_WH_MAX_BITS; d-- > 0;)
        for (unsigned v = w->tree.nodes_before[d]; v < w->tree.nodes_before[d + 1]; v++)
            merge(d ? buffer[d % 2] + t.at[v] : e, w->child[v], w->plane + begin + t.bits_at[v], &t,
                  t.size[v], buffer[(d + 1) % 2]);
    return true;
}

bool ps_wh_open(struct ps_wh *w, const uint8_t *plane, size_t bytes, size_t n)
{
    if (bytes < PS_WH_SYMBOLS_AT || !ps_wh_tree_read(&w->tree, plane) ||
        ps_wh_bitmaps_at(w->tree.n_symbols, n) > bytes)
        return false;
    w->plane = plane;
    w->bytes = bytes;
    w->n = n;
    for (unsigned v = 0; v + 1 < w->tree.n_symbols; v++)
        for (unsigned bit = 0; bit < 2; bit++)
            w->child[v][bit] = (uint16_t)ps_wh_child(&w->tree, plane + PS_WH_SYMBOLS_AT, v, bit);
    return true;
}
