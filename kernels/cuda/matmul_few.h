/* Products with up to 16 rows of activations, where memory binds. In: panels of weights, packed activations; out:
 * C.
 *
 * A block is one tile of 16 rows; its eight warps are the eight slices of K. Together they read 1 KiB of each row
 * at a time, and each keeps two stages of 2 KiB on their way in registers, next to the 16 warps of two other
 * blocks: 50 to 100 KB per SM under way, where 3 TB/s and 0.8 us of latency ask for about 20. Small blocks, many
 * of them, so that the last wave is short; with a table to fill, as many as run at once, which share the tiles.
 * Activations come through L1, where they stay from block to block. */
#ifndef PS_KERNELS_CUDA_MATMUL_FEW_H
#define PS_KERNELS_CUDA_MATMUL_FEW_H
#include "kernels/cuda/matmul_tensor.h"

#define MM_DEPTH   2u /* stages under way per warp */
#define MM_FEW_MAX 4u /* n8 tiles of the widest form */

/* Where a lane finds its activations. */
struct mm_lane_b {
    const uint8_t *p; /* of the first tile and the next group's first chunk */
    uint32_t chunk_bytes;
    int tiles; /* of these the lane's column is a row of activations */
};

template <int TYPE> PS_DEVICE mm_lane_b mm_find_b(const mm_args &a, uint32_t tile0, uint32_t stage)
{
    uint32_t lane = threadIdx.x % PS_WARP, chunk_bytes = a.n_act_tiles * MM_TILE_BYTES;
    int left = (int)a.T - (int)(tile0 * MM_COLS + lane / 8);
    const uint8_t *p = a.packed + (size_t)(stage * mm_type<TYPE>::GROUPS * 2) * chunk_bytes;
    mm_lane_b b = {p + tile0 * MM_TILE_BYTES + lane * 16, chunk_bytes, (left + 3) / 4};
    mm_pin(b.p);
    mm_pin(b.chunk_bytes);
    return b;
}

/* The activations of the next group. Lanes whose column no activation has load nothing: with T = 1 a quarter of the
 * bytes move. */
template <int N> PS_DEVICE void mm_load_b(mm_register_b<N> &b, mm_lane_b &at)
{
    MM_UNROLL
    for (int c = 0; c < 2; c++, at.p += at.chunk_bytes) {
        MM_UNROLL
        for (int n = 0; n < N; n++) {
            b.v[c][n] = make_uint4(0, 0, 0, 0);
            if (n < at.tiles)
                b.v[c][n] = __ldg((const uint4 *)(const void *)(at.p + n * (int)MM_TILE_BYTES));
        }
    }
}

/* Four-bit weights under few activations: four groups to a stage, so that activations are loaded four times as
 * often for each byte of weights, and waiting for them is what binds. Each group's are then loaded during the one
 * before, and the registers for that come from the stages under way: one, and three blocks per SM (H100, T = 1:
 * NF4B64 0.75 -> 0.88, MXFP4 0.71 -> 0.80 of a copy's bandwidth; SPEED.md has what else was tried). */
template <int TYPE, int N> PS_DEVICE constexpr bool mm_four_bits()
{
    return N == 1 && mm_type<TYPE>::GROUPS > 2;
}

template <int TYPE, int N, bool ANY>
PS_DEVICE void mm_stage(mm_sums<N> &sum, const mm_raw<TYPE> &r, const mm_rows &rows, uint32_t stage,
                        mm_lane_b &at, const mm_args &a, mm_decoder &d)
{
    const bool AHEAD = mm_four_bits<TYPE, N>();
    mm_register_b<N> b[2];
    if (AHEAD)
        mm_load_b(b[0], at);
    MM_UNROLL
    for (uint32_t i = 0; i < mm_type<TYPE>::GROUPS; i++) {
        uint32_t k0 = stage * mm_type<TYPE>::STAGE_K + i * MM_GROUP, now = AHEAD ? i % 2 : 0;
        if (!AHEAD)
            mm_load_b(b[0], at);
        else if (i + 1 < mm_type<TYPE>::GROUPS)
            mm_load_b(b[(i + 1) % 2], at);
        if constexpr (ANY && TYPE == PS_F8_E4M3)
            mm_group_cut(sum, r, rows, k0, (int)i, b[now], a, d);
        else
            mm_group(sum, r, (int)i, b[now], d);
    }
}

/* The sums of one slice to shared memory: [slice][column pair][row], hi and lo side by side. */
template <int N> PS_DEVICE void mm_put_slice(float2 *shared, const mm_sums<N> &sum)
{
    uint32_t lane = threadIdx.x % PS_WARP, slice = threadIdx.x / PS_WARP;
    MM_UNROLL
    for (uint32_t n = 0; n < N; n++) {
        float2 *to = shared + ((slice * N + n) * MM_COLS + lane % 4) * MM_ROWS + lane / 4;
        to[0] = make_float2(sum.v[n][0], sum.v[n][1]);
        to[8] = make_float2(sum.v[n][2], sum.v[n][3]);
    }
}

/* What a block does at a time: a tile of rows and N tiles of activations. Those of one tile of rows follow one another,
 * so that all but the first find the weights in L2. */
struct mm_work {
    mm_tile tile;
    uint32_t tile0;
};

template <int N> PS_DEVICE mm_work mm_find_work(const mm_args &a, uint32_t i)
{
    uint32_t t = a.col_blocks == 1 ? i : i / a.col_blocks;
    return {mm_find_tile(a, t, MM_ROWS), (i - t * a.col_blocks) * N};
}

template <int N>
PS_DEVICE void mm_add_slices(const float2 *shared, const mm_args &a, const mm_work &work)
{
    for (uint32_t i = threadIdx.x; i < N * MM_COLS * MM_ROWS; i += MM_THREADS) {
        float2 sum = shared[i];
        MM_UNROLL
        for (uint32_t s = 1; s < MM_SLICES; s++)
            if (s < a.n_stages) {
                float2 v = shared[s * N * MM_COLS * MM_ROWS + i];
                sum.x += v.x, sum.y += v.y;
            }
        mm_store(a, work.tile, i % MM_ROWS, work.tile0 * MM_COLS + i / MM_ROWS, sum.x + sum.y);
    }
}

/* Stages under way per warp. One where arithmetic is long and registers are short. */
template <int TYPE, int N, bool ANY> PS_DEVICE constexpr uint32_t mm_depth()
{
    return ANY || mm_four_bits<TYPE, N>() ||
                   (N > 2 && (mm_type<TYPE>::TWO != 0 || mm_type<TYPE>::GROUPS > 2))
               ? 1
               : MM_DEPTH;
}

/* The warp's first stages of a tile are on their way behind this. */
template <int TYPE, int N, bool ANY>
PS_DEVICE void mm_begin(mm_raw<TYPE> (&raw)[mm_depth<TYPE, N, ANY>()], const mm_rows &rows,
                        const mm_args &a)
{
    const uint32_t DEPTH = mm_depth<TYPE, N, ANY>(), stage = threadIdx.x / PS_WARP;
    MM_UNROLL
    for (uint32_t j = 0; j < DEPTH; j++)
        if (stage + j * MM_SLICES < a.n_stages)
            mm_load<TYPE, ANY>(raw[j], rows, stage + j * MM_SLICES, a);
}

/* The slice of this warp of 16 rows, behind mm_begin. */
template <int TYPE, int N, bool ANY>
PS_DEVICE void mm_slice(mm_sums<N> &sum, mm_raw<TYPE> (&raw)[mm_depth<TYPE, N, ANY>()],
                        const mm_rows &rows, uint32_t tile0, const mm_args &a, const uint8_t *table)
{
    const uint32_t DEPTH = mm_depth<TYPE, N, ANY>(), AHEAD = DEPTH * MM_SLICES;
    uint32_t stage = threadIdx.x / PS_WARP;
    mm_decoder d = mm_new_decoder(table, a);
    mm_lane_b b = mm_find_b<TYPE>(a, tile0, stage);
    for (; stage < a.n_stages; stage += AHEAD) {
        MM_UNROLL
        for (uint32_t j = 0; j < DEPTH; j++) {
            uint32_t s = stage + j * MM_SLICES;
            if (s < a.n_stages) {
                mm_stage<TYPE, N, ANY>(sum, raw[j], rows, s, b, a, d);
                b.p += (size_t)((MM_SLICES - 1) * mm_type<TYPE>::GROUPS * 2) * b.chunk_bytes;
            }
            if (s + AHEAD < a.n_stages)
                mm_load<TYPE, ANY>(raw[j], rows, s + AHEAD, a);
        }
    }
    if constexpr (TYPE == PS_F8_E4M3)
        mm_poison(sum, d);
}

/* Thread blocks of a processor at once. */
template <int TYPE, int N> constexpr int mm_few_blocks()
{
    return N == 1 ? 3 : 2;
}

/* Types with a table: a block goes through its share of the work, the weights of the next piece on their way while the
 * sums of this one are added up. Others: one piece to a block. */
template <int TYPE, int N, bool ANY>
PS_KERNEL __launch_bounds__(MM_THREADS, mm_few_blocks<TYPE, N>()) mm_few(const mm_args a)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    PS_SHARED_DYNAMIC(shared);
    const bool TABLE = mm_type<TYPE>::TABLE != 0;
    float2 *slices = (float2 *)(void *)(shared + mm_type<TYPE>::TABLE);
    uint32_t i = blockIdx.x;
    mm_rows rows = mm_lane_rows<TYPE>(a, mm_find_work<N>(a, i).tile);
    mm_raw<TYPE> raw[mm_depth<TYPE, N, ANY>()] = {};
    mm_begin<TYPE, N, ANY>(raw, rows, a);
    if (TABLE) {
        mm_fill_table<TYPE>(shared);
        __syncthreads();
    }
    for (bool more = true; more; i += gridDim.x) {
        mm_sums<N> sum;
        mm_clear(sum);
        mm_slice<TYPE, N, ANY>(sum, raw, rows, mm_find_work<N>(a, i).tile0, a, shared);
        more = TABLE && i + gridDim.x < a.n_tiles * a.col_blocks;
        if (more) {
            rows = mm_lane_rows<TYPE>(a, mm_find_work<N>(a, i + gridDim.x).tile);
            mm_begin<TYPE, N, ANY>(raw, rows, a);
        }
        mm_put_slice(slices, sum);
        __syncthreads();
        mm_add_slices<N>(slices, a, mm_find_work<N>(a, i));
        if (more)
            __syncthreads();
    }
#endif
}

/* A table of 32 KiB pays for itself over many tiles: only as many blocks as run at once. */
template <int TYPE, int N, bool ANY> static inline int mm_launch_few(struct mm_launch *l)
{
    auto kernel = mm_few<TYPE, N, ANY>;
    size_t shared = mm_type<TYPE>::TABLE + MM_SLICES * N * MM_COLS * MM_ROWS * sizeof(float2);
    mm_count_tiles(&l->args, MM_ROWS);
    l->args.col_blocks = (l->args.T + N * MM_COLS - 1) / (N * MM_COLS);
    uint32_t work = l->args.n_tiles * l->args.col_blocks;
    uint32_t fit = min((uint32_t)mm_few_blocks<TYPE, N>(), (uint32_t)(mm_shared_limit() / shared));
    uint32_t at_once = mm_processors() * max(fit, 1u);
    uint32_t blocks = mm_type<TYPE>::TABLE != 0 && at_once < work ? at_once : work;
    return PS_LAUNCH(kernel, dim3(blocks), dim3(MM_THREADS), shared, l->stream, l->args);
}
#endif
