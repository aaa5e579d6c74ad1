/* Products by tensor cores, for compute capability 8.0 and above. The stored weights are the A operand, 16 rows of
 * them; an activation row is two columns of B, its high and its low bf16 half, so an n8 tile holds four. In: rows of
 * weights as they lie, activations as mm_pack left them. Out: C.
 *
 * Two shapes of the same arithmetic (its order: matmul_args.h).
 *
 * `mm_few`, up to 16 rows of activations: memory binds. A block is one tile of 16 rows; its eight warps are the eight
 * slices of K. Together they read 1 KiB of each row at a time, and each keeps DEPTH stages of 2 KiB on their way in
 * registers, next to 24 warps of other blocks: 50 to 100 KB per SM under way, where 3 TB/s and 0.8 us of latency
 * ask for about 20. Small blocks, many of them, so that the last wave is short. Activations come through L1, where
 * they stay from block to block.
 *
 * `mm_many`, more rows: arithmetic binds. A block is 128 rows of weights and 32 of activations; each warp has 16 rows
 * and goes through the slices one after the other. Weights go from global memory into fragments (nobody shares
 * them), activations through shared memory, the next group on its way while this one is multiplied. */
#ifndef PS_KERNELS_CUDA_MATMUL_TENSOR_H
#define PS_KERNELS_CUDA_MATMUL_TENSOR_H
#include "kernels/cuda/matmul_decode.h"
#include "kernels/cuda/matmul_tile.h"

#define MM_DEPTH     2u /* stages under way per warp of mm_few */
#define MM_FEW_MAX   4u /* n8 tiles of its widest form */
#define MM_MANY      8u /* n8 tiles of mm_many */
#define MM_MANY_ROWS (MM_SLICES * MM_ROWS)
#define MM_MANY_B    (MM_MANY * 2u * MM_TILE_BYTES) /* shared bytes of a group's activations */

/* Sums of one warp: MMA's d registers of N n8 tiles. */
template <int N> struct mm_sums {
    float v[N][4];
};

template <int N> PS_DEVICE void mm_clear(mm_sums<N> &s)
{
    MM_UNROLL
    for (int n = 0; n < N; n++)
        MM_UNROLL
    for (int i = 0; i < 4; i++)
        s.v[n][i] = 0.0f;
}

/* ---- rows of a lane ---- */

template <int TYPE> PS_DEVICE mm_rows mm_lane_rows(const mm_args &a, const mm_tile &tile)
{
    uint32_t lane = threadIdx.x % PS_WARP, skip = lane % 4 * mm_type<TYPE>::VECTOR;
    const mm_panel &p = *tile.panel;
    mm_rows rows;
    rows.end = (int)a.code_bytes - (int)skip;
    MM_UNROLL
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t r = min(tile.row + lane / 4 + 8 * h, p.n_rows - 1);
        const uint8_t *row = p.data + r * a.row_stride;
        rows.w[h] = row + skip;
        rows.s[h] = mm_scales_of<TYPE>(a, p, row, r);
    }
    return rows;
}

/* ---- one group ---- */

/* Activations of a group: get(n, c) is what the lane holds of n8 tile n and chunk c, 0 or 1: b0 and b1 of two steps.
 * One of the two below. */
struct mm_global_b {
    const uint8_t *p; /* the lane's, of tile 0 and the group's first chunk */
    size_t tile_bytes;
    int tiles; /* of these the lane's column is a row of activations */

    __device__ __forceinline__ uint4 get(int n, int c) const
    {
        if (n >= tiles)
            return make_uint4(0, 0, 0, 0);
        return __ldg(
            (const uint4 *)(const void *)(p + (size_t)n * tile_bytes + c * (int)MM_TILE_BYTES));
    }
};

/* [n8 tile][chunk][lane] */
struct mm_shared_b {
    const uint8_t *p;

    __device__ __forceinline__ uint4 get(int n, int c) const
    {
        return *(const uint4 *)(const void *)(p + (n * 2 + c) * (int)MM_TILE_BYTES);
    }
};

/* The operands A of the two steps of a chunk. */
template <int TYPE> struct mm_a {
    uint32_t hi[2][4], lo[2][4];
};

template <int TYPE, int N, typename B>
PS_DEVICE void mm_multiply(mm_sums<N> &acc, const mm_a<TYPE> &w, const B &b, int chunk)
{
    MM_UNROLL
    for (int n = 0; n < N; n++) {
        uint4 v = b.get(n, chunk);
        const uint32_t pair[2][2] = {{v.x, v.y}, {v.z, v.w}};
        MM_UNROLL
        for (int step = 0; step < 2; step++) {
            simt_mma_bf16(acc.v[n], w.hi[step], pair[step]);
            if constexpr (mm_type<TYPE>::TWO != 0)
                simt_mma_bf16(acc.v[n], w.lo[step], pair[step]);
        }
    }
}

template <int TYPE, int N>
PS_DEVICE void mm_add_scaled(mm_sums<N> &sum, const mm_sums<N> &acc, float s0, float s1)
{
    MM_UNROLL
    for (int n = 0; n < N; n++)
        MM_UNROLL
    for (int i = 0; i < 4; i++) {
        float s = i < 2 ? s0 : s1;
        if constexpr (mm_type<TYPE>::SCALES == 0 || TYPE == PS_MXFP4)
            sum.v[n][i] += acc.v[n][i];
        else
            sum.v[n][i] = fmaf(s, acc.v[n][i], sum.v[n][i]);
    }
}

/* Group `group` of a stage. */
template <int TYPE, int N, typename B>
PS_DEVICE void mm_group(mm_sums<N> &sum, const mm_raw<TYPE> &r, int group, const B &b, mm_decoder &d)
{
    mm_sums<N> acc;
    mm_clear(acc);
    MM_UNROLL
    for (int chunk = 0; chunk < 2; chunk++) {
        mm_a<TYPE> w;
        for (int step = 0; step < 2; step++)
            mm_decode<TYPE>(w.hi[step], w.lo[step], r, group * 4 + chunk * 2 + step, d);
        mm_multiply(acc, w, b, chunk);
    }
    mm_add_scaled<TYPE>(sum, acc, mm_scale(r, 0, group), mm_scale(r, 1, group));
}

/* All ones in the halves whose k lies in [first, end): `k` and k + 2 of a pair of bytes. */
PS_DEVICE uint32_t mm_mask(uint32_t k, uint32_t first, uint32_t end)
{
    return (k >= first && k < end ? 0xffffu : 0) | (k + 2 >= first && k + 2 < end ? 0xffff0000u : 0);
}

/* Where the scale that holds at `first` ends, inside the group that begins at k0. What lies beyond K is of no
 * weight and goes with the last scale. */
PS_DEVICE uint32_t mm_scale_end(const mm_args &a, uint32_t first, uint32_t k0)
{
    uint32_t end = (first / a.scale_cols + 1) * a.scale_cols;
    return end < a.K ? min(end, k0 + MM_GROUP) : k0 + MM_GROUP;
}

/* Zeros in place of the weights that another scale than that of [first, end) belongs to. */
PS_DEVICE void mm_keep(mm_a<PS_F8_E4M3> &w, uint32_t k, uint32_t first, uint32_t end)
{
    MM_UNROLL
    for (uint32_t step = 0; step < 2; step++) {
        uint32_t even = mm_mask(k + step * 4, first, end),
                 odd = mm_mask(k + step * 4 + 1, first, end);
        w.hi[step][0] &= even, w.hi[step][1] &= even;
        w.hi[step][2] &= odd, w.hi[step][3] &= odd;
    }
}

/* F8_E4M3 whose scales may change inside a group, which begins at k0: once for each scale that meets it. With one
 * scale the arithmetic is mm_group's. */
template <int N>
PS_DEVICE void mm_group_cut(mm_sums<N> &sum, const mm_raw<PS_F8_E4M3> &r, const mm_rows &rows,
                            uint32_t k0, int group, const mm_global_b &b, const mm_args &a,
                            mm_decoder &d)
{
    uint32_t t = threadIdx.x % 4, next;
    for (uint32_t first = k0; first < k0 + MM_GROUP; first = next) {
        mm_sums<N> acc;
        mm_clear(acc);
        next = mm_scale_end(a, first, k0);
        MM_UNROLL
        for (int chunk = 0; chunk < 2; chunk++) {
            mm_a<PS_F8_E4M3> w;
            for (int step = 0; step < 2; step++)
                mm_decode<PS_F8_E4M3>(w.hi[step], w.lo[step], r, group * 4 + chunk * 2 + step, d);
            mm_keep(w, k0 + t * 16 + (uint32_t)chunk * 8, first, next);
            mm_multiply(acc, w, b, chunk);
        }
        uint32_t k = min(first, a.K - 1);
        mm_add_scaled<PS_F8_E4M3>(sum, acc, mm_load_f8_scale(rows.s[0], k, true, a),
                                  mm_load_f8_scale(rows.s[1], k, true, a));
    }
}

/* A row with a NaN among its codes: its lanes' sums become NaN. */
template <int N> PS_DEVICE void mm_poison(mm_sums<N> &sum, mm_decoder &d)
{
    MM_UNROLL
    for (int h = 0; h < 2; h++) {
        uint32_t bits = d.nan[h];
        bits |= __shfl_xor_sync(PS_FULL, bits, 1);
        bits |= __shfl_xor_sync(PS_FULL, bits, 2);
        d.nan[h] = 0;
        if (!(bits & 0x80808080u))
            continue;
        MM_UNROLL
        for (int n = 0; n < N; n++)
            sum.v[n][2 * h] = sum.v[n][2 * h + 1] = simt_bits_float(0x7fc00000u);
    }
}

/* ---- the table of NF4B64 ---- */

/* ps_nf4_values as hi | lo << 16, both bf16; hi + lo is within 2^-17 of each. */
static __constant__ const uint32_t mm_nf4[16] = {
    0x0000bf80u, 0xba67bf32u, 0xbad6bf06u, 0xb9cabecau, 0x3a3bbe92u, 0xb955be3du,
    0xb971bdbau, 0x00000000u, 0xb7203da3u, 0xb9543e25u, 0x379c3e7cu, 0x37ce3eadu,
    0xba373ee2u, 0x38f53f10u, 0x399e3f39u, 0x00003f80u,
};

/* Entry b: the words of weights (low half of b, high half of b), high parts then low parts. */
template <int TYPE> PS_DEVICE void mm_fill_table(uint8_t *table)
{
    if constexpr (mm_type<TYPE>::TABLE != 0)
        for (uint32_t i = threadIdx.x; i < 256 * 16; i += MM_THREADS) {
            uint32_t first = mm_nf4[i / 16 % 16], second = mm_nf4[i / 256];
            uint2 *to = (uint2 *)(void *)(table + i * 8);
            *to = make_uint2(__byte_perm(first, second, 0x5410), __byte_perm(first, second, 0x7632));
        }
}

PS_DEVICE mm_decoder mm_new_decoder(const uint8_t *table)
{
    return {table, threadIdx.x % 16 * 8, {0, 0}};
}

/* ---- few rows of activations ---- */

/* Activations from tile0 on, chunk 0. Lanes whose column no activation has load nothing: with T = 1 a quarter of the
 * bytes move. */
PS_DEVICE mm_global_b mm_lane_b(const mm_args &a, uint32_t tile0)
{
    uint32_t lane = threadIdx.x % PS_WARP;
    int left = (int)a.T - (int)(tile0 * MM_COLS + lane / 8);
    size_t tile_bytes = (size_t)a.chunks * MM_TILE_BYTES;
    return {a.packed + tile0 * tile_bytes + lane * 16, tile_bytes, (left + 3) / 4};
}

template <int TYPE, int N, bool ANY>
PS_DEVICE void mm_stage(mm_sums<N> &sum, const mm_raw<TYPE> &r, const mm_rows &rows, uint32_t stage,
                        const mm_global_b &b0, const mm_args &a, mm_decoder &d)
{
    MM_UNROLL
    for (uint32_t i = 0; i < mm_type<TYPE>::GROUPS; i++) {
        uint32_t group = stage * mm_type<TYPE>::GROUPS + i;
        mm_global_b b = b0;
        b.p += (size_t)group * 2 * MM_TILE_BYTES;
        if constexpr (ANY && TYPE == PS_F8_E4M3)
            mm_group_cut(sum, r, rows, group * MM_GROUP, (int)i, b, a, d);
        else
            mm_group(sum, r, (int)i, b, d);
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

template <int N>
PS_DEVICE void mm_add_slices(const float2 *shared, const mm_args &a, const mm_tile &tile,
                             uint32_t tile0)
{
    uint32_t used = min(a.n_stages, MM_SLICES);
    for (uint32_t i = threadIdx.x; i < N * MM_COLS * MM_ROWS; i += MM_THREADS) {
        float2 sum = shared[i];
        for (uint32_t s = 1; s < used; s++) {
            float2 v = shared[s * N * MM_COLS * MM_ROWS + i];
            sum.x += v.x, sum.y += v.y;
        }
        mm_store(a, tile, i % MM_ROWS, tile0 * MM_COLS + i / MM_ROWS, sum.x + sum.y);
    }
}

template <int TYPE, int N, bool ANY>
PS_KERNEL __launch_bounds__(MM_THREADS, N == 1 ? 3 : 2) mm_few(const mm_args a)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    PS_SHARED_DYNAMIC(shared);
    float2 *slices = (float2 *)(void *)(shared + mm_type<TYPE>::TABLE);
    mm_decoder d = mm_new_decoder(shared);
    uint32_t slice = threadIdx.x / PS_WARP, tile0 = blockIdx.y * N;
    const mm_global_b b = mm_lane_b(a, tile0);
    bool table = mm_type<TYPE>::TABLE != 0; /* still to be filled: behind the first loads */
    for (uint32_t i = blockIdx.x; i < a.n_tiles; i += gridDim.x) {
        mm_tile tile = mm_find_tile(a, i, MM_ROWS);
        mm_rows rows = mm_lane_rows<TYPE>(a, tile);
        mm_raw<TYPE> raw[MM_DEPTH];
        mm_sums<N> sum;
        mm_clear(sum);
        MM_UNROLL
        for (uint32_t j = 0; j < MM_DEPTH; j++)
            if (slice + j * MM_SLICES < a.n_stages)
                mm_load<TYPE, ANY>(raw[j], rows, slice + j * MM_SLICES, a);
        if (table) {
            mm_fill_table<TYPE>(shared);
            __syncthreads();
            table = false;
        }
        for (uint32_t stage = slice; stage < a.n_stages; stage += MM_DEPTH * MM_SLICES)
            MM_UNROLL
        for (uint32_t j = 0; j < MM_DEPTH; j++) {
            uint32_t s = stage + j * MM_SLICES, next = s + MM_DEPTH * MM_SLICES;
            if (s < a.n_stages)
                mm_stage<TYPE, N, ANY>(sum, raw[j], rows, s, b, a, d);
            if (next < a.n_stages)
                mm_load<TYPE, ANY>(raw[j], rows, next, a);
        }
        if constexpr (TYPE == PS_F8_E4M3)
            mm_poison(sum, d);
        mm_put_slice(slices, sum);
        __syncthreads();
        mm_add_slices<N>(slices, a, tile, tile0);
        __syncthreads();
    }
#endif
}

/* ---- many rows of activations ---- */

/* The walk of mm_many: the groups of slice 0, of slice 1, ... */
struct mm_walk {
    uint32_t slice, stage;
};

PS_DEVICE bool mm_next(mm_walk &w, uint32_t n_stages)
{
    w.stage += MM_SLICES;
    if (w.stage < n_stages)
        return true;
    w.stage = ++w.slice;
    return w.slice < MM_SLICES && w.stage < n_stages;
}

/* A warp's share of a group's activations: one n8 tile. */
PS_DEVICE void mm_fetch_b(uint4 (&b)[2], const mm_args &a, uint32_t chunk, uint32_t tile0)
{
    uint32_t lane = threadIdx.x % PS_WARP, tile = tile0 + threadIdx.x / PS_WARP;
    const uint8_t *p = a.packed + ((size_t)tile * a.chunks + chunk) * MM_TILE_BYTES + lane * 16;
    MM_UNROLL
    for (uint32_t i = 0; i < 2; i++) {
        b[i] = make_uint4(0, 0, 0, 0);
        if (tile * MM_COLS < a.T)
            b[i] = __ldg((const uint4 *)(const void *)(p + i * MM_TILE_BYTES));
    }
}

PS_DEVICE void mm_put_b(uint8_t *shared, const uint4 (&b)[2])
{
    uint32_t lane = threadIdx.x % PS_WARP, tile = threadIdx.x / PS_WARP;
    uint8_t *to = shared + tile * 2 * MM_TILE_BYTES + lane * 16;
    *(uint4 *)(void *)to = b[0];
    *(uint4 *)(void *)(to + MM_TILE_BYTES) = b[1];
}

/* The sums of the slices so far rest in shared memory, each thread's own. */
PS_DEVICE void mm_add_slice(float *run, mm_sums<MM_MANY> &sum, bool first)
{
    MM_UNROLL
    for (uint32_t n = 0; n < MM_MANY; n++)
        MM_UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        float *to = run + (n * 4 + i) * MM_THREADS + threadIdx.x;
        *to = first ? sum.v[n][i] : *to + sum.v[n][i];
    }
    mm_clear(sum);
}

PS_DEVICE void mm_store_many(const float *run, const mm_args &a, const mm_tile &tile, uint32_t tile0)
{
    uint32_t lane = threadIdx.x % PS_WARP;
    for (uint32_t n = 0; n < MM_MANY; n++)
        for (uint32_t h = 0; h < 2; h++) {
            const float *from = run + (n * 4 + 2 * h) * MM_THREADS + threadIdx.x;
            mm_store(a, tile, lane / 4 + 8 * h, (tile0 + n) * MM_COLS + lane % 4,
                     from[0] + from[MM_THREADS]);
        }
}

template <int TYPE> PS_KERNEL __launch_bounds__(MM_THREADS, 2) mm_many(const mm_args a)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    const uint32_t GROUPS = mm_type<TYPE>::GROUPS;
    PS_SHARED_DYNAMIC(shared);
    uint8_t *b_shared = shared + mm_type<TYPE>::TABLE;
    float *run = (float *)(void *)(b_shared + 2 * MM_MANY_B);
    mm_decoder d = mm_new_decoder(shared);
    uint32_t tile0 = blockIdx.y * MM_MANY, turn = 0;
    mm_tile tile = mm_find_tile(a, blockIdx.x, MM_MANY_ROWS);
    tile.row += threadIdx.x / PS_WARP * MM_ROWS;
    mm_rows rows = mm_lane_rows<TYPE>(a, tile);
    mm_raw<TYPE> raw, next_raw;
    mm_sums<MM_MANY> sum;
    uint4 fetched[2];
    mm_walk at = {0, 0};
    mm_clear(sum);
    mm_load<TYPE, false>(raw, rows, 0, a);
    mm_fetch_b(fetched, a, 0, tile0);
    mm_fill_table<TYPE>(shared);
    mm_put_b(b_shared, fetched);
    __syncthreads();
    for (bool more = true; more;) {
        mm_walk next = at;
        more = mm_next(next, a.n_stages);
        if (more)
            mm_load<TYPE, false>(next_raw, rows, next.stage, a);
        MM_UNROLL
        for (uint32_t i = 0; i < GROUPS; i++, turn ^= 1) {
            bool fetch = more || i + 1 < GROUPS;
            uint32_t chunk =
                i + 1 < GROUPS ? (at.stage * GROUPS + i + 1) * 2 : next.stage * GROUPS * 2;
            mm_shared_b b = {b_shared + turn * MM_MANY_B + threadIdx.x % PS_WARP * 16};
            if (fetch)
                mm_fetch_b(fetched, a, chunk, tile0);
            mm_group(sum, raw, (int)i, b, d);
            if (fetch)
                mm_put_b(b_shared + (turn ^ 1) * MM_MANY_B, fetched);
            __syncthreads();
        }
        if (!more || next.slice != at.slice) {
            if constexpr (TYPE == PS_F8_E4M3)
                mm_poison(sum, d);
            mm_add_slice(run, sum, at.slice == 0);
        }
        raw = next_raw;
        at = next;
    }
    mm_store_many(run, a, tile, tile0);
#endif
}

/* ---- launches ---- */

/* Multiprocessors of the current device. */
static inline unsigned mm_processors()
{
#if defined(__CUDACC__)
    int device = 0, n = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device) == cudaSuccess && n > 0)
        return (unsigned)n;
#endif
    return 1;
}

/* Tiles one after the other in a block share its table; still sixteen blocks per processor where there are as many
 * tiles, so that they end together. */
template <int TYPE> static inline unsigned mm_few_blocks(uint32_t n_tiles)
{
    uint32_t each = mm_type<TYPE>::TABLE != 0 ? 1 + n_tiles / (16 * mm_processors()) : 1;
    return (n_tiles + each - 1) / each;
}

template <int TYPE, int N, bool ANY> static inline int mm_launch_few(struct mm_launch *l)
{
    auto kernel = mm_few<TYPE, N, ANY>;
    size_t shared = mm_type<TYPE>::TABLE + MM_SLICES * N * MM_COLS * MM_ROWS * sizeof(float2);
    mm_count_tiles(&l->args, MM_ROWS);
    dim3 grid(mm_few_blocks<TYPE>(l->args.n_tiles), (l->args.T + N * MM_COLS - 1) / (N * MM_COLS));
    return PS_LAUNCH(kernel, grid, dim3(MM_THREADS), shared, l->stream, l->args);
}

template <int TYPE> static inline int mm_launch_many(struct mm_launch *l)
{
    auto kernel = mm_many<TYPE>;
    size_t run = MM_MANY * 4 * MM_THREADS * sizeof(float);
    size_t shared = mm_type<TYPE>::TABLE + 2 * MM_MANY_B + run;
    dim3 grid(l->args.n_tiles, (l->args.T + MM_MANY * MM_COLS - 1) / (MM_MANY * MM_COLS));
    return PS_LAUNCH(kernel, grid, dim3(MM_THREADS), shared, l->stream, l->args);
}

/* The shape is free: no sum depends on it. mm_many wants enough blocks to keep half of the processors busy. */
template <int TYPE> static inline int mm_launch_type(struct mm_launch *l)
{
    uint32_t T = l->args.T;
    if (l->any)
        return mm_launch_few<TYPE, MM_FEW_MAX, true>(l);
    if (T > MM_FEW_MAX * MM_COLS) {
        mm_count_tiles(&l->args, MM_MANY_ROWS);
        uint64_t blocks =
            (uint64_t)l->args.n_tiles * ((T + MM_MANY * MM_COLS - 1) / (MM_MANY * MM_COLS));
        if (2 * blocks >= mm_processors())
            return mm_launch_many<TYPE>(l);
    }
    if (T <= MM_COLS)
        return mm_launch_few<TYPE, 1, false>(l);
    if (T <= 2 * MM_COLS)
        return mm_launch_few<TYPE, 2, false>(l);
    return mm_launch_few<TYPE, MM_FEW_MAX, false>(l);
}
#endif
