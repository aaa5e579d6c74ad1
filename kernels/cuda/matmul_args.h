/* What a matmul kernel is told, and how K is divided: shared by the launchers, the packing of activations and the
 * kernels.
 *
 * The order of additions, one for every T, panel cut and grid. A *group* is 64 places of K (in the order of
 * mm_k_of); its products are summed in accumulators that begin at zero, then added to a *slice*'s sum, multiplied
 * by the group's scale where the type has one. A *stage* is the groups that 128 bytes of a row hold. Stage s belongs to
 * slice s mod MM_SLICES, and a slice takes its stages in rising order. At last the slices' sums are added, slice 0
 * first. The sums of the high and the low halves of an activation stay apart until then; their sum is the product. A
 * weight of two parts (f16) has two accumulators, which are added at the end of a group, before the scale. */
#ifndef PS_KERNELS_CUDA_MATMUL_ARGS_H
#define PS_KERNELS_CUDA_MATMUL_ARGS_H
#include "kernels/cuda/launch_matmul.h"

#define MM_PANELS  64u
#define MM_SLICES  8u /* warps that divide K among themselves; part of the order of additions */
#define MM_THREADS (MM_SLICES * PS_WARP)
#define MM_ROWS    16u /* of weights in a tile of the tensor cores */
#define MM_COLS    4u  /* rows of activations in an n8 tile: each as hi and lo */
#define MM_CHUNK   32u /* places of K that 16 bytes per lane of packed activations hold */
#define MM_GROUP   64u

#define MM_STAGE_BYTES 128u        /* of a row */
#define MM_INT8_BASE   0x43004300u /* 128 as bf16, twice: see mm_from_int8 */
#define MM_TILE_BYTES  512u        /* packed activations of one n8 tile and one chunk */

#if defined(__CUDACC__)
#define MM_UNROLL    _Pragma("unroll")
#define MM_NO_UNROLL _Pragma("unroll 1")
#else
#define MM_UNROLL
#define MM_NO_UNROLL
#endif

struct mm_panel {
    const uint8_t *data, *scales;
    uint32_t row0, n_rows;
    uint32_t first_tile; /* tiles of the panels before it */
};

struct mm_args {
    const uint8_t *packed;
    float *C;
    size_t ldc, row_stride;
    uint32_t T, K;
    uint32_t code_bytes; /* of a row: what may be read of its codes; the scales of Q8B64 and NF4B64 begin there */
    uint32_t n_stages;
    uint32_t full_stages; /* of them: no byte behind the end of a row */
    uint32_t n_act_tiles; /* n8 tiles of packed activations, side by side in each chunk */
    uint32_t n_granules, act_ld, aligned; /* matmul_plain.cu */
    size_t scale_ld;
    uint32_t scale_rows, scale_cols; /* F8_E4M3 */
    uint32_t scale_shift;            /* log2 of scale_cols where it is a power of two */
    uint32_t int8_base;              /* Q8B64: MM_INT8_BASE */
    float factor;
    uint32_t accumulate;
    uint32_t n_panels, n_tiles;
    uint32_t first_tiles; /* of the first panel */
    uint32_t col_blocks; /* blocks that share a tile of rows, each with activation rows of its own */
    struct mm_panel panels[MM_PANELS];
};

/* Weights that 128 bytes of a row hold. */
static inline uint32_t mm_stage_k(enum ps_dtype t)
{
    return t == PS_BF16 || t == PS_F16 ? 64 : t == PS_NF4B64 || t == PS_MXFP4 ? 256 : 128;
}

static inline uint32_t mm_stages(enum ps_dtype t, size_t K)
{
    uint32_t stage = mm_stage_k(t);
    return (uint32_t)((K + stage - 1) / stage);
}

/* One launch of the kernels of a type: `args` complete but for the tiles, `any` if rows or scales are not as the
 * fast kernels want them. */
struct mm_launch {
    simt_stream stream;
    struct mm_args args;
    bool any;
};
int mm_launch_wide(struct mm_launch *l, enum ps_dtype t);    /* bf16, f16 */
int mm_launch_bytes(struct mm_launch *l, enum ps_dtype t);   /* Q8B64, F8_E4M3 */
int mm_launch_nibbles(struct mm_launch *l, enum ps_dtype t); /* NF4B64, MXFP4 */
int mm_launch_plain(struct mm_launch *l, enum ps_dtype t);   /* any type on any device */

/* Numbers the tiles of `rows` rows through the panels. */
static inline void mm_count_tiles(struct mm_args *a, uint32_t rows)
{
    a->n_tiles = 0;
    a->first_tiles = (a->panels[0].n_rows + rows - 1) / rows;
    for (uint32_t i = 0; i < a->n_panels; i++) {
        a->panels[i].first_tile = a->n_tiles;
        a->n_tiles += (a->panels[i].n_rows + rows - 1) / rows;
    }
}
#endif
