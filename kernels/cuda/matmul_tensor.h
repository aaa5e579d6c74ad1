/* The arithmetic of products by tensor cores, for compute capability 8.0 and above. The stored weights are the A
 * operand, 16 rows of them; an activation row is two columns of B, its high and its low bf16 half, so an n8 tile
 * holds four. In: raw bytes of a stage in registers, activations as mm_pack left them. Out: sums of a slice.
 *
 * Two kernels of different shape do it: matmul_few.h, where memory binds, and matmul_many.h, where arithmetic
 * does. The order of additions (matmul_args.h) is made here and is theirs. */
#ifndef PS_KERNELS_CUDA_MATMUL_TENSOR_H
#define PS_KERNELS_CUDA_MATMUL_TENSOR_H
#include "kernels/cuda/matmul_tables.h"
#include "kernels/cuda/matmul_tile.h"

/* Sums of one warp: MMA's d registers of N n8 tiles. */
template <int N> struct mm_sums {
    float v[N][4];
};

template <int N> PS_DEVICE void mm_clear(mm_sums<N> &s)
{
    MM_UNROLL
    for (int n = 0; n < N; n++)
        s.v[n][0] = s.v[n][1] = s.v[n][2] = s.v[n][3] = 0.0f;
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
        mm_pin(rows.w[h]);
        if (TYPE == PS_MXFP4 || TYPE == PS_F8_E4M3)
            mm_pin(rows.s[h]);
    }
    return rows;
}

/* ---- one group ---- */

/* Activations of a group: get(n, c) is what the lane holds of n8 tile n and chunk c, 0 or 1: b0 and b1 of two steps.
 * In registers for few tiles, in shared memory for many. */
template <int N> struct mm_register_b {
    uint4 v[2][N];

    __device__ __forceinline__ uint4 get(int n, int c) const
    {
        return v[c][n];
    }
};

/* [n8 tile][chunk][lane] */
struct mm_shared_b {
    const uint8_t *p;
    int tiles; /* that there are from the first on: the same in a warp */

    __device__ __forceinline__ uint4 get(int n, int c) const
    {
        return *(const uint4 *)(const void *)(p + (n * 2 + c) * (int)MM_TILE_BYTES);
    }
};

PS_DEVICE void mm_step(float (&acc)[4], const uint32_t (&a)[4], const uint4 &b, int step)
{
    const uint32_t pair[2] = {step % 2 ? b.z : b.x, step % 2 ? b.w : b.y};
    simt_mma_bf16(acc, a, pair);
}

template <int TYPE> PS_DEVICE float mm_add_scaled(float sum, float acc, float scale)
{
    if constexpr (mm_type<TYPE>::SCALES == 0 || TYPE == PS_MXFP4)
        return sum + acc;
    else
        return fmaf(scale, acc, sum);
}

/* The operand A of step `step` of a stage. One part to a weight: rows g and g + 8 are the lane's two. Two parts
 * (`h` says for which of the lane's rows): rows g are the high parts of eight rows of weights, rows g + 8 their
 * low parts. */
template <int TYPE>
PS_DEVICE void mm_operand(uint32_t (&a)[4], const mm_raw<TYPE> &r, int h, int step, mm_decoder &d)
{
    if constexpr (mm_type<TYPE>::TWO != 0) {
        mm_decode_two(a, r, h, step);
    } else {
        uint32_t low[2], high[2]; /* row g, row g + 8 */
        mm_decode<TYPE>(low, r, 0, step, d);
        mm_decode<TYPE>(high, r, 1, step, d);
        a[0] = low[0], a[1] = high[0], a[2] = low[1], a[3] = high[1];
    }
}

/* Adds the group's sum of one n8 tile: two rows of two columns, or of two parts one row of two columns, high and low
 * parts added before the scale. */
template <int TYPE>
PS_DEVICE void mm_add_group(float (&sum)[4], const float (&acc)[4], int h, const float (&scale)[2])
{
    if constexpr (mm_type<TYPE>::TWO != 0) {
        sum[2 * h] = mm_add_scaled<TYPE>(sum[2 * h], acc[0] + acc[2], scale[h]);
        sum[2 * h + 1] = mm_add_scaled<TYPE>(sum[2 * h + 1], acc[1] + acc[3], scale[h]);
    } else {
        MM_UNROLL
        for (int i = 0; i < 4; i++)
            sum[i] = mm_add_scaled<TYPE>(sum[i], acc[i], scale[i / 2]);
    }
}

/* Group `group` of a stage for few tiles: operands are decoded when they are needed. */
template <int TYPE, int N, typename B>
PS_DEVICE void mm_group_few(mm_sums<N> &sum, const mm_raw<TYPE> &r, int group, const B &b, int h,
                            const float (&scale)[2], mm_decoder &d)
{
    mm_sums<N> acc;
    mm_clear(acc);
    MM_UNROLL
    for (int step = 0; step < 4; step++) {
        uint32_t a[4];
        mm_operand<TYPE>(a, r, h, group * 4 + step, d);
        MM_UNROLL
        for (int n = 0; n < N; n++)
            mm_step(acc.v[n], a, b.get(n, step / 2), step);
    }
    MM_UNROLL
    for (int n = 0; n < N; n++)
        mm_add_group<TYPE>(sum.v[n], acc.v[n], h, scale);
}

/* Tiles [FIRST, FIRST + 4) with the operands of a whole group. */
template <int TYPE, int FIRST, int N, typename B>
PS_DEVICE void mm_four_tiles(mm_sums<N> &sum, const uint32_t (&a)[4][4], const B &b, int h,
                             const float (&scale)[2])
{
    MM_UNROLL
    for (int n = FIRST; n < FIRST + 4; n++) {
        float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        MM_UNROLL
        for (int step = 0; step < 4; step++)
            mm_step(acc, a[step], b.get(n, step / 2), step);
        mm_add_group<TYPE>(sum.v[n], acc, h, scale);
    }
}

/* For many: the group's operands first, then four tiles at a time, which fill the tensor cores and fit into the
 * registers. The same sums. */
template <int TYPE, int N, typename B>
PS_DEVICE void mm_group_many(mm_sums<N> &sum, const mm_raw<TYPE> &r, int group, const B &b, int h,
                             const float (&scale)[2], mm_decoder &d)
{
    uint32_t a[4][4];
    MM_UNROLL
    for (int step = 0; step < 4; step++)
        mm_operand<TYPE>(a[step], r, h, group * 4 + step, d);
    mm_four_tiles<TYPE, 0>(sum, a, b, h, scale);
    if constexpr (N > 4)
        if (b.tiles > 4)
            mm_four_tiles<TYPE, 4>(sum, a, b, h, scale);
}

template <int TYPE, int N, typename B>
PS_DEVICE void mm_group(mm_sums<N> &sum, const mm_raw<TYPE> &r, int group, const B &b, mm_decoder &d)
{
    const float scale[2] = {mm_scale(r, 0, group), mm_scale(r, 1, group)};
    if constexpr (N <= 2) {
        mm_group_few(sum, r, group, b, 0, scale, d);
        if constexpr (mm_type<TYPE>::TWO != 0)
            mm_group_few(sum, r, group, b, 1, scale, d);
    } else {
        mm_group_many(sum, r, group, b, 0, scale, d);
        if constexpr (mm_type<TYPE>::TWO != 0) {
            __syncwarp(); /* or the compiler does both at once and runs out of registers */
            mm_group_many(sum, r, group, b, 1, scale, d);
        }
    }
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

/* F8_E4M3 whose scales may change inside a group, which begins at k0: once for each scale that meets it, zeros in place
 * of the weights that go with another. With one scale the arithmetic is mm_group's. */
template <int N>
PS_DEVICE void mm_group_cut(mm_sums<N> &sum, const mm_raw<PS_F8_E4M3> &r, const mm_rows &rows,
                            uint32_t k0, int group, const mm_register_b<N> &b, const mm_args &args,
                            mm_decoder &d)
{
    uint32_t t = threadIdx.x % 4, next;
    for (uint32_t first = k0; first < k0 + MM_GROUP; first = next) {
        uint32_t k = min(first, args.K - 1);
        const float scale[2] = {mm_any_f8_scale(rows.s[0], k, args),
                                mm_any_f8_scale(rows.s[1], k, args)};
        mm_sums<N> acc;
        mm_clear(acc);
        next = mm_scale_end(args, first, k0);
        MM_UNROLL
        for (int step = 0; step < 4; step++) {
            uint32_t a[4], at = k0 + t * 16 + (uint32_t)step * 4;
            uint32_t even = mm_mask(at, first, next), odd = mm_mask(at + 1, first, next);
            mm_operand<PS_F8_E4M3>(a, r, 0, group * 4 + step, d);
            a[0] &= even, a[1] &= even, a[2] &= odd, a[3] &= odd;
            MM_UNROLL
            for (int n = 0; n < N; n++)
                mm_step(acc.v[n], a, b.get(n, step / 2), step);
        }
        MM_UNROLL
        for (int n = 0; n < N; n++)
            mm_add_group<PS_F8_E4M3>(sum.v[n], acc.v[n], 0, scale);
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

/* Multiprocessors of the current device. Under emulation two, so that small shapes take every path. */
static inline unsigned mm_processors()
{
#if defined(__CUDACC__)
    int device = 0, n = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device) == cudaSuccess && n > 0)
        return (unsigned)n;
#endif
    return 2;
}

/* Shared memory that a block may have on the current device. */
static inline size_t mm_shared_limit()
{
#if defined(__CUDACC__)
    int device = 0, n = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&n, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess)
        return (size_t)n;
    return 48 * 1024;
#else
    return 227 * 1024;
#endif
}
#endif
