/* Products with many rows of activations, where arithmetic binds. In: panels of weights, packed activations; out:
 * C.
 *
 * A block is 128 rows of weights and 32 or 64 of activations: eight warps, or twice eight, one of which has 16
 * rows and 32 columns' worth of sums and goes through the slices of K one after the other. Weights go from global
 * memory into registers, the next ones taking the places of those that are used up; activations through shared
 * memory, the next group on its way while this one is multiplied. What binds then is L2: each byte of weights
 * comes once per 64 activations, each activation once per 128 rows. */
#ifndef PS_KERNELS_CUDA_MATMUL_MANY_H
#define PS_KERNELS_CUDA_MATMUL_MANY_H
#include "kernels/cuda/matmul_tensor.h"

#define MM_MANY      8u /* n8 tiles of a warp */
#define MM_MANY_ROWS (8u * MM_ROWS)
#define MM_MANY_B                                                                                  \
    (MM_MANY * 2u * MM_TILE_BYTES) /* shared bytes of a group's activations for eight warps */
#define MM_MANY_RUN (MM_MANY * 4u * MM_THREADS * 4u) /* and of their sums */

/* The walk: the stages of slice 0, of slice 1, ... */
struct mm_walk {
    uint32_t slice, stage;
};

PS_DEVICE void mm_next(mm_walk &w, uint32_t n_stages)
{
    w.stage += MM_SLICES;
    if (w.stage >= n_stages)
        w.stage = ++w.slice;
}

PS_DEVICE bool mm_ended(const mm_walk &w, uint32_t n_stages)
{
    return w.slice >= MM_SLICES || w.stage >= n_stages;
}

/* 16 bytes from global to shared memory, on their way while the warp goes on; there behind mm_copies_done and a
 * barrier. */
PS_DEVICE void mm_copy(uint8_t *shared, const uint8_t *global)
{
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 800
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(to), "l"(global) : "memory");
#endif
#else
    memcpy(shared, global, 16);
#endif
}

PS_DEVICE void mm_copies_done()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

/* A warp's share of a group's activations: one n8 tile. Tiles behind the last stay as they are: nobody stores what they
 * give. */
PS_DEVICE void mm_fetch_b(uint8_t *shared, const mm_args &a, uint32_t chunk, uint32_t tile0)
{
    uint32_t lane = threadIdx.x % PS_WARP, warp = threadIdx.x / PS_WARP, tile = tile0 + warp;
    uint8_t *to = shared + warp * 2 * MM_TILE_BYTES + lane * 16;
    const uint8_t *from =
        a.packed + ((size_t)chunk * a.n_act_tiles + tile) * MM_TILE_BYTES + lane * 16;
    if (tile >= a.n_act_tiles)
        return;
    mm_copy(to, from);
    mm_copy(to + MM_TILE_BYTES, from + (size_t)a.n_act_tiles * MM_TILE_BYTES);
}

/* Vector j of a stage in place of what lies at word `to` of the raw bytes. */
template <int TYPE>
PS_DEVICE void mm_refill(mm_raw<TYPE> &r, int to, int j, const mm_rows &rows, uint32_t stage)
{
    int at = (int)(stage * MM_STAGE_BYTES) + j * mm_type<TYPE>::VECTOR * 4;
    MM_UNROLL
    for (int h = 0; h < 2; h++)
        mm_load_one<TYPE, false, false>(r.w[h] + to, rows.w[h] + at, rows.end - at);
}

/* The vectors that are of no more use behind group i of a stage of one or two. */
template <int TYPE>
PS_DEVICE void mm_refill_behind(mm_raw<TYPE> &r, int i, const mm_rows &rows, uint32_t stage)
{
    if constexpr (mm_type<TYPE>::GROUPS == 1)
        mm_refill(r, 0, 0, rows, stage);
    mm_refill(r, mm_type<TYPE>::GROUPS == 1 ? 4 : 4 * i, mm_type<TYPE>::GROUPS == 1 ? 1 : i, rows,
              stage);
}

/* Of a stage of four groups: what group i used goes, the next group's bytes and scales come to the front, and the free
 * places are filled. So the groups can be a loop; unrolled they take more registers than there are. */
template <int TYPE>
PS_DEVICE void mm_shift(mm_raw<TYPE> &r, int i, const mm_rows &rows, uint32_t stage, bool load)
{
    MM_UNROLL
    for (int h = 0; h < 2; h++) {
        MM_UNROLL
        for (int j = 0; j < 6; j++)
            r.w[h][j] = r.w[h][j + 2];
        if (TYPE == PS_NF4B64) {
            r.s[h][0] = r.s[h][0] >> 16 | r.s[h][1] << 16;
            r.s[h][1] >>= 16;
        } else if (i % 2) {
            r.s[h][0] = r.s[h][1];
        }
    }
    if (load && i % 2)
        mm_refill(r, 4, i / 2, rows, stage);
}

/* The sums of the slices so far rest in shared memory, each thread's own. */
PS_DEVICE void mm_add_slice(float *run, mm_sums<MM_MANY> &sum, bool first)
{
    MM_UNROLL
    for (uint32_t i = 0; i < MM_MANY * 4; i++) {
        float *to = run + i * blockDim.x + threadIdx.x;
        *to = first ? sum.v[i / 4][i % 4] : *to + sum.v[i / 4][i % 4];
    }
    mm_clear(sum);
}

PS_DEVICE void mm_store_many(const float *run, const mm_args &a, const mm_tile &tile, uint32_t tile0)
{
    uint32_t lane = threadIdx.x % PS_WARP;
    for (uint32_t i = 0; i < MM_MANY * 2; i++) { /* n8 tile i / 2, its rows g or g + 8 */
        const float *from = run + 2 * i * blockDim.x + threadIdx.x;
        mm_store(a, tile, lane / 4 + i % 2 * 8, (tile0 + i / 2) * MM_COLS + lane % 4,
                 from[0] + from[blockDim.x]);
    }
}

/* What a warp goes through K with. */
template <int TYPE> struct mm_march {
    mm_rows rows;
    mm_decoder d;
    mm_sums<MM_MANY> sum;
    uint8_t *b; /* the block's activations of one group, and of the next */
    float *run;
    uint32_t tile0, turn; /* first n8 tile of the block; which of the two is used now */
    int tiles;            /* n8 tiles that there are from the warp's first on */
    mm_walk at,
        ahead; /* `ahead` is what is loaded next: as many stages further as there are buffers */
};

PS_DEVICE uint8_t *mm_b_of_turn(uint8_t *b, uint32_t turn)
{
    return b + turn * (blockDim.x / MM_THREADS * MM_MANY_B);
}

/* Group i of the stage at m.at, whose bytes are in r; they are replaced by those of the stage ahead as they are
 * used up, so that these have a group's time to come at least. */
template <int TYPE>
PS_DEVICE void mm_many_group(mm_march<TYPE> &m, mm_raw<TYPE> &r, int i, mm_walk next,
                             const mm_args &a)
{
    const int GROUPS = mm_type<TYPE>::GROUPS;
    const uint32_t skip = threadIdx.x / MM_THREADS * MM_MANY_B + threadIdx.x % PS_WARP * 16;
    bool more = i + 1 < GROUPS, load = !mm_ended(m.ahead, a.n_stages);
    mm_shared_b b = {mm_b_of_turn(m.b, m.turn) + skip, m.tiles};
    uint32_t group = more ? m.at.stage * GROUPS + (uint32_t)i + 1 : next.stage * GROUPS;
    m.turn ^= 1;
    if (more || !mm_ended(next, a.n_stages))
        mm_fetch_b(mm_b_of_turn(m.b, m.turn), a, group * 2, m.tile0);
    if constexpr (GROUPS > 2) {
        mm_group(m.sum, r, 0, b, m.d);
        mm_shift(r, i, m.rows, m.ahead.stage, load);
    } else {
        mm_group(m.sum, r, i, b, m.d);
        if (load)
            mm_refill_behind(r, i, m.rows, m.ahead.stage);
    }
    mm_copies_done();
    __syncthreads();
}

/* Word by word: of a memcpy of the two rows' four words nvcc 13.0 lost the second row's, for F8_E4M3 alone (its PTX
 * never set them again after the first stage). */
template <int TYPE> PS_DEVICE void mm_take_scales(mm_raw<TYPE> &r, const mm_raw<TYPE> &from)
{
    const int WORDS = mm_type<TYPE>::SCALES;
    MM_UNROLL
    for (int i = 0; i < WORDS; i++)
        r.s[0][i] = from.s[0][i], r.s[1][i] = from.s[1][i];
}

template <int TYPE>
PS_DEVICE void mm_many_stage(mm_march<TYPE> &m, mm_raw<TYPE> &r, mm_walk next, const mm_args &a)
{
    const int GROUPS = mm_type<TYPE>::GROUPS;
    mm_raw<TYPE> scales = {};
    if (!mm_ended(m.ahead, a.n_stages)) {
        mm_load_stage_scales<TYPE, false>(scales, 0, m.rows, m.ahead.stage, a);
        mm_load_stage_scales<TYPE, false>(scales, 1, m.rows, m.ahead.stage, a);
    }
    if constexpr (GROUPS > 2) {
        MM_NO_UNROLL
        for (int i = 0; i < GROUPS; i++)
            mm_many_group(m, r, i, next, a);
    } else {
        MM_UNROLL
        for (int i = 0; i < GROUPS; i++)
            mm_many_group(m, r, i, next, a);
    }
    mm_take_scales(r, scales);
    if (!mm_ended(next, a.n_stages) && next.slice == m.at.slice)
        return;
    if constexpr (TYPE == PS_F8_E4M3)
        mm_poison(m.sum, m.d);
    mm_add_slice(m.run, m.sum, m.at.slice == 0);
}

/* Blocks of columns of one tile of rows follow one another, so that all but the first find the weights in L2. */
template <int TYPE> PS_KERNEL __launch_bounds__(2 * MM_THREADS) mm_many(const mm_args a)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    const int BUFFERS = mm_type<TYPE>::GROUPS == 1 ? 2 : 1;
    const uint32_t sides = blockDim.x / MM_THREADS, warp = threadIdx.x / PS_WARP;
    PS_SHARED_DYNAMIC(shared);
    mm_tile tile = mm_find_tile(a, blockIdx.x / a.col_blocks, MM_MANY_ROWS);
    tile.row += warp % 8 * MM_ROWS;
    mm_march<TYPE> m;
    m.rows = mm_lane_rows<TYPE>(a, tile);
    m.d = mm_new_decoder(shared, a);
    m.b = shared + mm_type<TYPE>::TABLE;
    m.run = (float *)(void *)(m.b + 2 * sides * MM_MANY_B);
    m.tile0 = blockIdx.x % a.col_blocks * sides * MM_MANY, m.turn = 0;
    m.tiles = (int)a.n_act_tiles - (int)(m.tile0 + warp / 8 * MM_MANY);
    m.at = m.ahead = {0, 0};
    mm_clear(m.sum);
    mm_fetch_b(m.b, a, 0, m.tile0);
    mm_raw<TYPE> raw[BUFFERS] = {};
    MM_UNROLL
    for (int j = 0; j < BUFFERS; j++, mm_next(m.ahead, a.n_stages))
        if (!mm_ended(m.ahead, a.n_stages))
            mm_load<TYPE, false>(raw[j], m.rows, m.ahead.stage, a);
    mm_fill_table<TYPE>(shared);
    mm_copies_done();
    __syncthreads();
    while (!mm_ended(m.at, a.n_stages)) {
        MM_UNROLL
        for (int j = 0; j < BUFFERS; j++)
            if (!mm_ended(m.at, a.n_stages)) {
                mm_walk next = m.at;
                mm_next(next, a.n_stages);
                mm_many_stage<TYPE>(m, raw[j], next, a);
                m.at = next;
                mm_next(m.ahead, a.n_stages);
            }
    }
    mm_store_many(m.run, a, tile, m.tile0 + warp / 8 * MM_MANY);
#endif
}

template <int TYPE> static inline size_t mm_many_shared(uint32_t sides)
{
    return mm_type<TYPE>::TABLE + sides * (2 * MM_MANY_B + MM_MANY_RUN);
}

/* Blocks that mm_many has with `sides` times eight warps. */
static inline uint64_t mm_many_blocks(const struct mm_args *a, uint32_t sides)
{
    uint32_t cols = sides * MM_MANY * MM_COLS;
    return (uint64_t)a->n_tiles * ((a->T + cols - 1) / cols);
}

/* The wide form where it still gives every processor a block. */
template <int TYPE> static inline int mm_launch_many(struct mm_launch *l)
{
    auto kernel = mm_many<TYPE>;
    bool wide = l->args.T > MM_MANY * MM_COLS && mm_many_blocks(&l->args, 2) >= mm_processors() &&
                mm_many_shared<TYPE>(2) <= mm_shared_limit();
    uint32_t sides = wide ? 2 : 1, blocks = (uint32_t)mm_many_blocks(&l->args, sides);
    l->args.col_blocks = blocks / l->args.n_tiles;
    return PS_LAUNCH(kernel, dim3(blocks), dim3(sides * MM_THREADS), mm_many_shared<TYPE>(sides),
                     l->stream, l->args);
}
#endif
