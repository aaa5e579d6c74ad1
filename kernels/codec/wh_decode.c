/* WH, unpacking, in plain C. Comes in: bitmaps of a wavelet tree, written by anyone. Goes out: exponents, a piece at a
 * time. */
#include "kernels/codec/wh.h"

/* Without the instruction (baseline x86-64) the compiler would call a function per word. */
static inline uint64_t wh_popcount(uint64_t x)
{
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return x * 0x0101010101010101u >> 56;
}

/* A bit of every byte from the bits of one: 0x00 or 0xff. */
static inline uint64_t spread(uint8_t bits)
{
    uint64_t x = bits * 0x0101010101010101u & 0x8040201008040201u;
    x = (x + 0x7f7f7f7f7f7f7f7fu) >> 7 &
        0x0101010101010101u; /* the byte is 0 or one bit: no carry leaves it */
    return x * 0xff;
}

static void wh_merge_leaves(uint8_t *out, const uint8_t *bits, size_t n, uint8_t zero, uint8_t one)
{
    uint64_t zeros = zero * 0x0101010101010101u, flip = (zero ^ one) * 0x0101010101010101u;
    for (size_t i = 0; i < n; i += 8) {
        uint64_t x = zeros ^ (spread(bits[i / 8]) & flip);
        memcpy(out + i, &x, sizeof x);
    }
}

/* The commonest case: of n weights all are `zero` but those whose bit is set. */
static void wh_merge_leaf(uint8_t *out, const uint8_t *bits, size_t n, uint8_t zero,
                          const uint8_t *ones, struct ps_ahead *ahead)
{
    (void)ahead; /* plain C is slower than any memory */
    uint64_t zeros = zero * 0x0101010101010101u;
    for (size_t i = 0; i < n; i += 64) {
        uint64_t word = ps_wh_word(bits + i / 8);
        for (size_t k = 0; k < 64; k += 8)
            memcpy(out + i + k, &zeros, sizeof zeros);
        for (; word; word &= word - 1)
            out[i + (size_t)__builtin_ctzll(word)] = *ones++;
    }
}

static void wh_merge_nodes(uint8_t *out, const uint8_t *bits, size_t n, const uint8_t *zeros,
                           const uint8_t *ones, struct ps_ahead *ahead)
{
    (void)ahead;
    size_t k = 0;
    for (size_t i = 0; i < n; i += 64) {
        uint64_t word = ps_wh_word(bits + i / 8);
        for (size_t j = i; j < i + 64; j++, word >>= 1) {
            uint8_t bit = word & 1, a = zeros[j - k], b = ones[k];
            out[j] =
                a ^ ((a ^ b) & (uint8_t)-bit); /* a branch would be mispredicted half of the time */
            k += bit;
        }
    }
}

#include "kernels/codec/wh_piece_impl.h"

bool ps_wh_piece(const struct ps_wh *w, size_t piece, uint8_t *e, struct ps_ahead ahead)
{
    return wh_piece(w, piece, e, ahead);
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
