/* WH, packing. Comes in: the weights of a block. Goes out: the tree of their exponents' codes and its bitmaps. Integers
 * only and ties broken by the symbol, so that every machine writes the same bytes. */
#include <string.h>

#include "kernels/codec/wh.h"

/* Symbols are ranked as they are stored, which is the order of their codes too: the weights of a node have ranks of
 * one range, and those from `middle` on go to its right child. */
struct code {
    uint8_t bits[256];  /* by symbol: length of the code, 0: no such exponent */
    uint16_t rank[256]; /* by symbol; that length in the upper byte */
    uint8_t counts[16]; /* as stored */
    uint8_t symbols[256];
    uint8_t middle[PS_WH_MAX_NODES];
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

static void find_middles(struct code *c)
{
    uint8_t least[PS_WH_MAX_NODES]; /* rank that the node has */
    for (unsigned v = c->tree.n_symbols - 1; v-- > 0;) {
        unsigned l = ps_wh_child(&c->tree, c->symbols, v, 0),
                 r = ps_wh_child(&c->tree, c->symbols, v, 1);
        least[v] = l & PS_WH_LEAF ? (uint8_t)c->rank[l & 0xff] : least[l];
        c->middle[v] = r & PS_WH_LEAF ? (uint8_t)c->rank[r & 0xff] : least[r];
    }
}

/* False: a count does not fit its byte (256 symbols of 8 bits: nothing to gain). */
static bool make_code(struct code *c, const uint32_t counts[256])
{
    uint8_t sorted[256];
    unsigned per_length[PS_WH_MAX_BITS + 1] = {0}, n = sort_symbols(sorted, counts), k = 0;
    memset(c, 0, sizeof *c);
    limited_lengths(c->bits, sorted, counts, n);
    for (unsigned l = 1; l <= PS_WH_MAX_BITS; l++) {
        for (unsigned s = 0; s < 256; s++) {
            if (c->bits[s] != l)
                continue;
            c->rank[s] = (uint16_t)(l << 8 | k);
            c->symbols[k++] = (uint8_t)s;
            per_length[l]++;
        }
        if (per_length[l] > UINT8_MAX)
            return false;
        c->counts[l] = (uint8_t)per_length[l];
    }
    if (!ps_wh_tree_read(&c->tree, c->counts))
        return false;
    find_middles(c);
    return true;
}

/* ---- The bitmaps ---- */

size_t ps_wh_deal(uint8_t *bits, const uint8_t *ranks, size_t n, uint8_t middle, uint8_t *zeros,
                  uint8_t *ones)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i += 8) {
        size_t m = n - i < 8 ? n - i : 8;
        unsigned byte = 0;
        for (size_t j = 0; j < m; j++) {
            uint8_t r = ranks[i + j];
            unsigned bit = r >= middle;
            if (zeros) /* without a branch on the bit, which would be mispredicted half of the time */
                zeros[i + j - k] = r;
            if (ones)
                ones[k] = r;
            k += bit;
            byte |= bit << j;
        }
        bits[i / 8] = (uint8_t)byte;
    }
    return k;
}

struct level {
    uint8_t ranks[PS_BLOCK_PIECE + PS_PLANES_OVER]; /* weights of its inner nodes, node after node */
    uint16_t size[PS_WH_MAX_NODES];                 /* weights of each */
    size_t n;
    unsigned nodes;
};

static void append_node(struct level *l, const uint8_t *ranks, size_t n)
{
    if (ranks != l->ranks + l->n)
        memcpy(l->ranks + l->n, ranks, n);
    l->n += n;
    l->size[l->nodes++] = (uint16_t)n;
}

/* The bitmaps of one depth, and what is left for the next. Returns their end. */
static uint8_t *put_level(uint8_t *at, struct level *next, const struct level *l, unsigned d,
                          const struct code *c, ps_wh_deal_fn deal)
{
    uint8_t ones[PS_BLOCK_PIECE + PS_PLANES_OVER];
    const uint8_t *ranks = l->ranks, *middle = c->middle + c->tree.nodes_before[d];
    next->n = next->nodes = 0;
    for (unsigned k = 0; k < l->nodes; k++) {
        size_t n = l->size[k];
        bool left = 2 * k >= c->tree.leaves[d + 1], right = 2 * k + 1 >= c->tree.leaves[d + 1];
        uint8_t *zeros = next->ranks + next->n; /* in place */
        size_t n_ones = deal(at, ranks, n, middle[k], left ? zeros : NULL, right ? ones : NULL);
        if (left)
            append_node(next, zeros, n - n_ones);
        if (right)
            append_node(next, ones, n_ones);
        at += (n + 7) / 8;
        ranks += n;
    }
    return at;
}

/* Exponents to their ranks, in place. Returns the room that the bitmaps of the piece need at most. */
static size_t rank_piece(uint8_t *e, size_t n, const struct code *c)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned rank = c->rank[e[i]];
        e[i] = (uint8_t)rank;
        bits += rank >> 8;
    }
    return ps_block_align(bits / 8 + c->tree.n_symbols);
}

/* Writes a piece whose exponents are in a->ranks. Returns its length, or 0: over `cap`, or too long for its kind. */
static size_t put_piece(uint8_t *out, size_t cap, struct level *a, struct level *b,
                        const struct code *c, ps_wh_deal_fn deal)
{
    uint8_t *at = out;
    if (rank_piece(a->ranks, a->n, c) > (cap < PS_WH_PIECE_MAX_BYTES ? cap : PS_WH_PIECE_MAX_BYTES))
        return 0;
    a->nodes = 1;
    a->size[0] = (uint16_t)a->n;
    for (unsigned d = 0; a->nodes; d++) {
        at = put_level(at, b, a, d, c, deal);
        struct level *t = a;
        a = b;
        b = t;
    }
    size_t bytes = ps_block_align((size_t)(at - out));
    memset(at, 0, bytes - (size_t)(at - out));
    return bytes;
}

size_t ps_wh_encode(uint8_t *out, size_t cap, const struct ps_planes_source *s,
                    const uint32_t counts[256], ps_wh_deal_fn deal)
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
        ps_planes_exponents(a.ranks, s, first, a.n);
        size_t bytes = put_piece(out + at, cap - at, &a, &b, &c, deal);
        if (bytes == 0)
            return 0;
        at += bytes;
        uint32_t end = (uint32_t)(at - base);
        memcpy(ends, &end, sizeof end);
    }
    return at;
}
