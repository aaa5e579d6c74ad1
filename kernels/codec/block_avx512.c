/* Block codecs for CPUs with AVX-512 but without the byte expansion of VBMI2 (Skylake, Cascade Lake): what has to be
 * dealt out is, as with AVX2, eight at a time. */
#include "kernels/codec/block_vec_avx512.h"

/* The escapes are patched in. */
static inline const uint8_t *group_avx512(uint8_t *e, const uint8_t *group, uint64_t full,
                                          const uint8_t *book, const uint8_t *escapes)
{
    uint64_t a = ps_wh_word(group), b = ps_wh_word(group + 8), c = ps_wh_word(group + 16);
    _mm512_storeu_si512(e, short_exponents(a, b, c, book));
    uint64_t mask = a & b & c & full;
    for (; mask; mask &= mask - 1)
        e[__builtin_ctzll(mask)] = *escapes++;
    return escapes;
}

#define wh_popcount     (uint64_t) __builtin_popcountll
#define wh_merge_leaves merge_leaves_avx512
#define wh_merge_leaf   merge_leaf_by_eight
#define wh_merge_nodes  merge_nodes_by_eight
#define xc_escapes      escapes_avx2
#define xc_group        group_avx512
#include "kernels/codec/wh_piece_impl.h"
#include "kernels/codec/xc34_piece_impl.h"

const struct ps_block_ops ps_block_ops_avx512 = {
    .name = "avx512",
    .wh_piece = wh_piece,
    .xc34_piece = xc_piece,
    .wh_deal = deal_by_eight,
    .join = join_avx512,
};
