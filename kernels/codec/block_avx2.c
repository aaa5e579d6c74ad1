/* Block codecs for CPUs with AVX2: see block.h and block_vec_avx2.h. */
#include "kernels/codec/block_vec_avx2.h"

#define wh_popcount     (uint64_t) __builtin_popcountll
#define wh_merge_leaves merge_leaves_avx2
#define wh_merge_leaf   merge_leaf_by_eight
#define wh_merge_nodes  merge_nodes_by_eight
#define xc_escapes      escapes_avx2
#define xc_group        group_avx2
#include "kernels/codec/wh_piece_impl.h"
#include "kernels/codec/xc34_piece_impl.h"

static void join(uint8_t *weights, enum ps_dtype t, const uint8_t *e,
                 const uint8_t *const rest[PS_BLOCK_MAX_REST], size_t n)
{
    size_t i = 0;
    switch (t) {
    case PS_BF16:
        for (; i + 32 <= n; i += 32)
            join32_bf16(weights + 2 * i, e + i, rest[0] + i);
        break;
    case PS_F32:
        for (; i + 32 <= n; i += 32)
            join32_f32(weights + 4 * i, e, rest, i);
        break;
    case PS_F16:
        for (; i + 32 <= n; i += 32)
            join32_f16(weights + 2 * i, e, rest, i);
        break;
    default:
        for (; i + 32 <= n; i += 32)
            join32_f8(weights + i, e + i, rest[0] + i / 2);
        break;
    }
    join_tail(weights, t, e, rest, i, n);
}

const struct ps_block_ops ps_block_ops_avx2 = {
    .name = "avx2",
    .wh_piece = wh_piece,
    .xc34_piece = xc_piece,
    .wh_deal = deal_by_eight,
    .join = join,
};
