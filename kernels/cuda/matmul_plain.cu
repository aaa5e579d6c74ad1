/* Products without tensor cores: f32 weights on every device, all types where there is no bf16 MMA (compute capability
 * 7.5). In: rows of weights as they lie, activations as float32 rows padded with zeros. Out: C.
 *
 * A warp takes four rows of weights and up to eight of activations. A *granule* is eight weights of a row (of NF4B64
 * four bytes: weights i .. i + 3 and i + 32 .. i + 35 of a block); lane l takes granules l, l + 32, ... in rising order
 * and adds their products one by one with fmaf; at last the lanes' sums are added by halves (lane l and l xor 16, 8, 4,
 * 2, 1). That order is the same for every T and every cut. A weight is decoded to float32 first, its scale multiplied
 * in. */
#include "kernels/cuda/matmul_tables.h"
#include "kernels/cuda/matmul_tile.h"

#define MM_PLAIN_ROWS 4u
#define MM_PLAIN_COLS 8

namespace
{

/* Bytes of a granule; all in one vector where rows are aligned (f32: two). */
template <int TYPE> struct plain_type {
    enum {
        BYTES = TYPE == PS_F32                           ? 32
                : TYPE == PS_BF16 || TYPE == PS_F16      ? 16
                : TYPE == PS_Q8B64 || TYPE == PS_F8_E4M3 ? 8
                                                         : 4
    };
};

struct plain_row {
    const uint8_t *w, *s;
};

/* The words of a granule, zeros behind the end of the row. */
template <int TYPE>
PS_DEVICE void load_words(uint32_t (&w)[8], const mm_args &a, const uint8_t *row, uint32_t granule)
{
    const int BYTES = plain_type<TYPE>::BYTES;
    /* of NF4B64, four bytes of block granule / 8: see quant.h */
    int at = TYPE == PS_NF4B64 ? (int)(granule / 16 * 64 + granule % 8 / 2 * 16 +
                                       granule / 8 % 2 * 8 + granule % 2 * 4)
                               : (int)granule * BYTES;
    int left = (int)a.code_bytes - at;
    if (a.aligned && left >= BYTES) {
        MM_UNROLL
        for (int i = 0; i < BYTES; i += 16)
            if constexpr (BYTES >= 16)
                mm_load_vector(w + i / 4, row + at + i, 16);
            else if constexpr (BYTES == 8)
                mm_load_vector(w, row + at, 8);
            else
                w[0] = __ldg((const uint32_t *)(const void *)(row + at));
        return;
    }
    MM_UNROLL
    for (int i = 0; i < BYTES / 4; i++)
        w[i] = mm_load_bytes(row + at + 4 * i, left - 4 * i);
}

PS_DEVICE float from_e4m3(uint32_t b)
{
    if ((b & 0x7f) == 0x7f)
        return simt_bits_float(0x7fc00000u);
    return simt_bits_float((b & 0x7fu) << 20 | (b & 0x80u) << 24) * 0x1p120f;
}

PS_DEVICE float from_e2m1(uint32_t b)
{
    return simt_bits_float((b & 7u) << 22 | (b & 8u) << 28) * 0x1p126f;
}

PS_DEVICE float from_e8m0(uint32_t b)
{
    return simt_bits_float(b == 255 ? 0x7fc00000u : b == 0 ? 0x400000u : b << 23);
}

/* Weight i of a granule that lies in words w. */
template <int TYPE> PS_DEVICE float code_of(const uint32_t (&w)[8], int i)
{
    if constexpr (TYPE == PS_F32)
        return simt_bits_float(w[i]);
    else if constexpr (TYPE == PS_BF16)
        return num_bf16_f32(w[i / 2] >> 16 * (i % 2) & 0xffffu);
    else if constexpr (TYPE == PS_F16)
        return num_f16_f32(w[i / 2] >> 16 * (i % 2) & 0xffffu);
    else if constexpr (TYPE == PS_Q8B64)
        return (float)(int8_t)(w[i / 4] >> 8 * (i % 4) & 0xffu);
    else if constexpr (TYPE == PS_F8_E4M3)
        return from_e4m3(w[i / 4] >> 8 * (i % 4) & 0xffu);
    else if constexpr (TYPE == PS_NF4B64)
        return num_bf16_f32(num_nf4[w[0] >> (8 * (i % 4) + i / 4 * 4) & 15u]);
    else
        return from_e2m1(w[0] >> 4 * i & 15u);
}

/* The scale of weight i of a granule. */
template <int TYPE>
PS_DEVICE float scale_of(const mm_args &a, const uint8_t *s, uint32_t granule, uint32_t i)
{
    if constexpr (TYPE == PS_Q8B64 || TYPE == PS_NF4B64)
        return num_f16_f32(num_load_u16(s + granule / 8 * 2));
    else if constexpr (TYPE == PS_MXFP4)
        return from_e8m0(s[granule / 4]);
    else
        return mm_any_f8_scale(s, min(granule * 8 + i, a.K - 1), a);
}

template <int TYPE>
PS_DEVICE void load_granule(float (&out)[8], const mm_args &a, const plain_row &row, uint32_t granule)
{
    uint32_t w[8];
    float scale = 1.0f;
    load_words<TYPE>(w, a, row.w, granule);
    if constexpr (TYPE == PS_Q8B64 || TYPE == PS_NF4B64 || TYPE == PS_MXFP4)
        scale = scale_of<TYPE>(a, row.s, granule, 0);
    MM_UNROLL
    for (int i = 0; i < 8; i++) {
        if constexpr (TYPE == PS_F8_E4M3)
            scale = scale_of<TYPE>(a, row.s, granule, (uint32_t)i);
        out[i] = code_of<TYPE>(w, i) * scale;
    }
}

/* The eight activations that meet a granule. */
template <int TYPE> PS_DEVICE void load_act(float (&x)[8], const float *act, uint32_t granule)
{
    uint32_t first = granule * 8, second = first + 4;
    if (TYPE == PS_NF4B64) {
        first = granule / 8 * 64 + granule % 8 * 4;
        second = first + 32;
    }
    float4 u = *(const float4 *)(const void *)(act + first);
    float4 v = *(const float4 *)(const void *)(act + second);
    x[0] = u.x, x[1] = u.y, x[2] = u.z, x[3] = u.w;
    x[4] = v.x, x[5] = v.y, x[6] = v.z, x[7] = v.w;
}

template <int N>
PS_DEVICE void add_products(float (&sum)[MM_PLAIN_ROWS][N], const float (&w)[MM_PLAIN_ROWS][8],
                            const float (&x)[8], int n)
{
    MM_UNROLL
    for (uint32_t r = 0; r < MM_PLAIN_ROWS; r++) {
        MM_UNROLL
        for (int i = 0; i < 8; i++)
            sum[r][n] = fmaf(w[r][i], x[i], sum[r][n]);
    }
}

/* Every lane gets the whole sum; lane r * N + n keeps that of row r and column n. */
template <int N>
PS_DEVICE void store_sums(const float (&sum)[MM_PLAIN_ROWS][N], const mm_args &a,
                          const mm_tile &tile, uint32_t t0)
{
    uint32_t lane = threadIdx.x % PS_WARP;
    float mine = 0.0f;
    MM_UNROLL
    for (uint32_t i = 0; i < MM_PLAIN_ROWS * N; i++) {
        float v = sum[i / N][i % N];
        MM_UNROLL
        for (int with = 16; with; with /= 2)
            v += __shfl_xor_sync(PS_FULL, v, with);
        mine = lane == i ? v : mine;
    }
    if (lane < MM_PLAIN_ROWS * N)
        mm_store(a, tile, lane / N, t0 + lane % N, mine);
}

template <int TYPE, int N>
PS_DEVICE void multiply(const mm_args &a, const mm_tile &tile, uint32_t t0)
{
    const float *act = (const float *)(const void *)a.packed + (size_t)t0 * a.act_ld;
    float sum[MM_PLAIN_ROWS][N] = {};
    plain_row rows[MM_PLAIN_ROWS];
    MM_UNROLL
    for (uint32_t i = 0; i < MM_PLAIN_ROWS; i++) {
        uint32_t r = min(tile.row + i, tile.panel->n_rows - 1);
        rows[i].w = tile.panel->data + r * a.row_stride;
        rows[i].s = mm_scales_of<TYPE>(a, *tile.panel, rows[i].w, r);
    }
    for (uint32_t granule = threadIdx.x % PS_WARP; granule < a.n_granules; granule += PS_WARP) {
        float w[MM_PLAIN_ROWS][8];
        MM_UNROLL
        for (uint32_t i = 0; i < MM_PLAIN_ROWS; i++)
            load_granule<TYPE>(w[i], a, rows[i], granule);
        MM_UNROLL
        for (int n = 0; n < N; n++)
            if (t0 + (uint32_t)n < a.T) {
                float x[8];
                load_act<TYPE>(x, act + (size_t)n * a.act_ld, granule);
                add_products<N>(sum, w, x, n);
            }
    }
    store_sums<N>(sum, a, tile, t0);
}

template <int TYPE, int N> PS_KERNEL __launch_bounds__(MM_THREADS) mm_plain(const mm_args a)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if (TYPE != PS_F32) /* matmul_tensor.h has it */
        return;
#endif
    uint32_t i = blockIdx.x * (MM_THREADS / PS_WARP) + threadIdx.x / PS_WARP;
    if (i < a.n_tiles)
        multiply<TYPE, N>(a, mm_find_tile(a, i, MM_PLAIN_ROWS), blockIdx.y * N);
}

template <int TYPE> int launch(struct mm_launch *l)
{
    const uint32_t warps = MM_THREADS / PS_WARP;
    mm_count_tiles(&l->args, MM_PLAIN_ROWS);
    uint32_t blocks = (l->args.n_tiles + warps - 1) / warps;
    auto kernel = l->args.T == 1 ? mm_plain<TYPE, 1> : mm_plain<TYPE, MM_PLAIN_COLS>;
    dim3 grid(blocks, (l->args.T + MM_PLAIN_COLS - 1) / MM_PLAIN_COLS);
    return PS_LAUNCH(kernel, grid, dim3(MM_THREADS), 0, l->stream, l->args);
}

} // namespace

int mm_launch_plain(struct mm_launch *l, enum ps_dtype t)
{
    switch (t) {
    case PS_F32: return launch<PS_F32>(l);
    case PS_F16: return launch<PS_F16>(l);
    case PS_BF16: return launch<PS_BF16>(l);
    case PS_F8_E4M3: return launch<PS_F8_E4M3>(l);
    case PS_Q8B64: return launch<PS_Q8B64>(l);
    case PS_NF4B64: return launch<PS_NF4B64>(l);
    default: return launch<PS_MXFP4>(l);
    }
}
