/* WH, packing. Comes in: the weights of a block. Goes out: the tree of their exponents' codes and its bitmaps. Integers
 * only and ties broken by the symbol, so that every machine writes the same bytes. */
#include <string.h>

#include "kernels/codec/wh.h"

struct code {
    uint8_t bits[256];  /* length of the code, 0: no such exponent */
    uint16_t path[256]; /* the code, its first bit being bit 11 */
    uint8_t counts[16]; /* as stored */
    uint8_t symbols[256];
    struct ps_wh_tree tree;
};

/* ---- The code ---- */

/* Symbols that occur, the rarest first. */
static unsigned sort_symbols(uint8_t *sorted, const uint32_t counts[256])
{
    unsigned n = 0;
    for (unsigned s = 0; s < 256; s++) {
        if (counts[s] == 0)
            continue;
        unsigned i = n++;
        for (; i > 0 && counts[sorted[i - 1]] > counts[s]; i--)
            sorted[i] = sorted[i - 1];
        sorted[i] = (uint8_t)s;
    }
    return n;
}

/* Huffman's construction with two queues: leaves in order of weight, and the nodes made of them, which come in that
 * order by themselves. Returns the longest code. */
static unsigned code_lengths(uint8_t bits[256], const uint8_t *sorted, const uint32_t *weights,
                             unsigned n)
{
    uint64_t weight[511];
    uint16_t parent[511];
    uint8_t depth[511];
    unsigned leaf = 0, node = n, last = n;
    for (unsigned i = 0; i < n; i++)
        weight[i] = weights[i];
    for (; last < 2 * n - 1; last++) {
        weight[last] = 0;
        for (int k = 0; k < 2; k++) {
            bool take_leaf = leaf < n && (node == last || weight[leaf] <= weight[node]);
            unsigned least = take_leaf ? leaf++ : node++;
            weight[last] += weight[least];
            parent[least] = (uint16_t)last;
        }
    }
    unsigned longest = 0;
    depth[last - 1] = 0;
    for (unsigned i = last - 1; i-- > 0;) {
        depth[i] = (uint8_t)(depth[parent[i]] + 1);
        if (i < n)
            bits[sorted[i]] = depth[i];
        longest = depth[i] > longest ? depth[i] : longest;
    }
    return longest;
}

/* Codes of at most 12 bits. Where the best are longer, the counts are drawn together until they fit: what that costs
 * falls on symbols of one in some thousands. */
static void limited_lengths(uint8_t bits[256], const uint8_t *sorted, const uint32_t counts[256],
                            unsigned n)
{
    uint32_t weights[256];
    for (unsigned i = 0; i < n; i++)
        weights[i] = counts[sorted[i]];
    while (code_lengths(bits, sorted, weights, n) > PS_WH_MAX_BITS)
        for (unsigned i = 0; i < n; i++)
            weights[i] = weights[i] / 2 + 1;
}

/* False: a count does not fit its byte (256 symbols of 8 bits: nothing to gain). */
static bool make_code(struct code *c, const uint32_t counts[256])
{
    uint8_t sorted[256];
    unsigned per_length[PS_WH_MAX_BITS + 1] = {0}, n = sort_symbols(sorted, counts), k = 0, next = 0;
    memset(c, 0, sizeof *c);
    limited_lengths(c->bits, sorted, counts, n);
    for (unsigned l = 1; l <= PS_WH_MAX_BITS; l++) {
        next *= 2;
        for (unsigned s = 0; s < 256; s++) {
            if (c->bits[s] != l)
                continue;
            c->symbols[k++] = (uint8_t)s;
            c->path[s] = (uint16_t)(next++ << (PS_WH_MAX_BITS - l));
            per_length[l]++;
        }
        if (per_length[l] > UINT8_MAX)
            return false;
        c->counts[l] = (uint8_t)per_length[l];
    }
    return ps_wh_tree_read(&c->tree, c->counts);
}

/* ---- The bitmaps ---- */

/* One node: writes its bitmap and deals its weights out to its children. Returns the number of ones. */
static size_t part(uint8_t *bits, const uint8_t *e, size_t n, const uint16_t *path, unsigned shift,
                   uint8_t *zeros, uint8_t *ones)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i += 8) {
        size_t m = n - i < 8 ? n - i : 8;
        unsigned byte = 0;
        for (size_t j = 0; j < m; j++) {
            uint8_t s = e[i + j];
            unsigned bit = path[s] >> shift & 1u;
            zeros[i + j - k] = s;
            ones[k] = s;
            k += bit;
            byte |= bit << j;
        }
        bits[i / 8] = (uint8_t)byte;
    }
    return k;
}

struct level {
    uint8_t e[PS_BLOCK_PIECE];      /* weights of its inner nodes, node after node */
    uint16_t size[PS_WH_MAX_NODES]; /* weights of each */
    size_t n;
    unsigned nodes;
};

static void append_node(struct level *l, const uint8_t *e, size_t n)
{
    if (e != l->e + l->n)
        memcpy(l->e + l->n, e, n);
    l->n += n;
    l->size[l->nodes++] = (uint16_t)n;
}

/* The bitmaps of one depth, and what is left for the next. Returns their end. */
static uint8_t *put_level(uint8_t *at, struct level *next, const struct level *l, unsigned d,
                          const struct code *c)
{
    uint8_t ones[PS_BLOCK_PIECE];
    const uint8_t *e = l->e;
    next->n = next->nodes = 0;
    for (unsigned k = 0; k < l->nodes; k++) {
        size_t n = l->size[k];
        uint8_t *zeros = next->e + next->n; /* in place, should they stay */
        size_t n_ones = part(at, e, n, c->path, PS_WH_MAX_BITS - 1 - d, zeros, ones);
        if (2 * k >= c->tree.leaves[d + 1])
            append_node(next, zeros, n - n_ones);
        if (2 * k + 1 >= c->tree.leaves[d + 1])
            append_node(next, ones, n_ones);
        at += (n + 7) / 8;
        e += n;
    }
    return at;
}

/* Room that the bitmaps of a piece need at most. */
static size_t piece_bound(const struct code *c, const uint8_t *e, size_t n)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < n; i++)
        bits += c->bits[e[i]];
    return ps_block_align(bits / 8 + c->tree.n_symbols);
}

/* Writes a piece whose exponents are in a->e. Returns its length, or 0: over `cap`, or too long for its kind. */
static size_t put_piece(uint8_t *out, size_t cap, struct level *a, struct level *b,
                        const struct code *c)
{
    uint8_t *at = out;
    if (piece_bound(c, a->e, a->n) > (cap < PS_WH_PIECE_MAX_BYTES ? cap : PS_WH_PIECE_MAX_BYTES))
        return 0;
    a->nodes = 1;
    a->size[0] = (uint16_t)a->n;
    for (unsigned d = 0; a->nodes; d++) {
        at = put_level(at, b, a, d, c);
        struct level *t = a;
        a = b;
        b = t;
    }
    size_t bytes = ps_block_align((size_t)(at - out));
    memset(at, 0, bytes - (size_t)(at - out));
    return bytes;
}

size_t ps_wh_encode(uint8_t *out, size_t cap, const struct ps_planes_source *s,
                    const uint32_t counts[256])
{
    struct code c;
    struct level a, b;
    if (!make_code(&c, counts))
        return 0;
    size_t base = ps_wh_bitmaps_at(c.tree.n_symbols, s->n), at = base;
    if (base > cap)
        return 0;
    memset(out, 0, base);
    memcpy(out, c.counts, sizeof c.counts);
    memcpy(out + PS_WH_SYMBOLS_AT, c.symbols, c.tree.n_symbols);
    uint8_t *ends = out + ps_wh_ends_at(c.tree.n_symbols);
    for (size_t first = 0; first < s->n; first += PS_BLOCK_PIECE, ends += 4) {
        a.n = s->n - first < PS_BLOCK_PIECE ? s->n - first : PS_BLOCK_PIECE;
        ps_planes_exponents(a.e, s, first, a.n);
        size_t bytes = put_piece(out + at, cap - at, &a, &b, &c);
        if (bytes == 0)
            return 0;
        at += bytes;
        uint32_t end = (uint32_t)(at - base);
        memcpy(ends, &end, sizeof end);
    }
    return at;
}
