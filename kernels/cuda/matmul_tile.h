/* Where the rows of a tile lie and where its sums go: what all matmul kernels share. A launch numbers its tiles through
 * the panels (mm_count_tiles); no tile crosses from one panel into the next. */
#ifndef PS_KERNELS_CUDA_MATMUL_TILE_H
#define PS_KERNELS_CUDA_MATMUL_TILE_H
#include "kernels/cuda/matmul_args.h"

struct mm_tile {
    const struct mm_panel *panel;
    uint32_t row; /* first, in the panel */
};

/* Panels are mostly of one size: the guess is right then, and a step at a time mends it where it is not. */
PS_DEVICE mm_tile mm_find_tile(const mm_args &a, uint32_t tile, uint32_t rows)
{
    uint32_t i = min(tile / a.first_tiles, a.n_panels - 1);
    while (i + 1 < a.n_panels && tile >= a.panels[i + 1].first_tile)
        i++;
    while (tile < a.panels[i].first_tile)
        i--;
    return {&a.panels[i], (tile - a.panels[i].first_tile) * rows};
}

template <int TYPE>
PS_DEVICE const uint8_t *mm_scales_of(const mm_args &a, const mm_panel &p, const uint8_t *row,
                                      uint32_t r)
{
    size_t at = p.row0 + r;
    if (TYPE == PS_Q8B64 || TYPE == PS_NF4B64)
        return row + a.code_bytes;
    if (TYPE == PS_MXFP4)
        return p.scales + at * a.scale_ld;
    if (TYPE == PS_F8_E4M3 && p.scales)
        return p.scales + at / a.scale_rows * a.scale_ld * 4;
    return NULL;
}

/* One finished sum: row r of a tile, activation row t. What lies outside of the panel or of C is dropped. */
PS_DEVICE void mm_store(const mm_args &a, const mm_tile &tile, uint32_t r, uint32_t t, float sum)
{
    if (tile.row + r >= tile.panel->n_rows || t >= a.T)
        return;
    float *c = a.C + t * a.ldc + tile.panel->row0 + tile.row + r;
    sum *= a.factor;
    *c = a.accumulate ? *c + sum : sum;
}
#endif
