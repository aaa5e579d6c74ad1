/* The small operations between the products: norms, gates, rotation, biases, stored rows to f32, and the writing
 * of keys and values into their pages. In: activations in device memory; out: the same. Memory binds all of them,
 * so each reads and writes once, neighbours by neighbours.
 *
 * Elements are computed by the same expressions as in cpu_ref.c and kernel_ops.c in float32; only sums over a row
 * (rmsnorm) have an order, and it hangs on the row's length alone: neither on the alignment of the row nor on the
 * number of rows. */
#include "kernels/cuda/launch_ops.h"
#include "kernels/cuda/numbers.h"

namespace
{

const unsigned THREADS = 256;    /* of a block, where nothing speaks for another number */
const unsigned GRID_MAX = 65535; /* along y; kernels loop beyond it */

unsigned div_up(size_t a, size_t b)
{
    return (unsigned)((a + b - 1) / b);
}

unsigned grid_rows(size_t T)
{
    return T < GRID_MAX ? (unsigned)T : GRID_MAX;
}

/* Whether rows that begin at p and are ld floats apart can be read four floats at a time. */
bool fours(const void *p, size_t ld)
{
    return (uintptr_t)p % 16 == 0 && ld % 4 == 0;
}

/* ---- rmsnorm ---- */

struct norm_job {
    float *y;
    const float *x, *w;
    size_t ldy, ldx, T, K;
    float w_offset, eps;
};

/* Rows up to NORM_WARP_MAX, as those of per-head norms, are one warp's; longer ones a block's. A thread fetches
 * NORM_KEEP times four elements at once and keeps the first of them, so a row of up to 8,192 is read once. */
const unsigned NORM_THREADS = 512, NORM_KEEP = 4;
const size_t NORM_WARP_MAX = PS_WARP * NORM_KEEP * 4;

PS_DEVICE float warp_sum(float v)
{
    for (int with = 16; with; with /= 2)
        v += __shfl_xor_sync(PS_FULL, v, with);
    return v;
}

/* x[k .. k + 4), zeros behind K */
template <bool FOURS> PS_DEVICE float4 norm_load(const float *x, size_t k, size_t K)
{
    float4 v = {0, 0, 0, 0};
    if (FOURS) {
        if (k < K)
            v = *(const float4 *)(x + k);
        return v;
    }
    v.x = k < K ? x[k] : 0.0f;
    v.y = k + 1 < K ? x[k + 1] : 0.0f;
    v.z = k + 2 < K ? x[k + 2] : 0.0f;
    v.w = k + 3 < K ? x[k + 3] : 0.0f;
    return v;
}

template <bool FOURS> PS_DEVICE void norm_store(float *y, size_t k, size_t K, float4 v)
{
    if (FOURS) {
        if (k < K)
            *(float4 *)(y + k) = v;
        return;
    }
    if (k < K)
        y[k] = v.x;
    if (k + 1 < K)
        y[k + 1] = v.y;
    if (k + 2 < K)
        y[k + 2] = v.z;
    if (k + 3 < K)
        y[k + 3] = v.w;
}

/* What one of n threads fetches from k on: fours that are 4 n apart. */
template <bool FOURS>
PS_DEVICE void norm_fetch(float4 (&v)[NORM_KEEP], const float *x, size_t k, size_t K, unsigned n)
{
    for (unsigned i = 0; i < NORM_KEEP; i++)
        v[i] = norm_load<FOURS>(x, k + (size_t)i * 4 * n, K);
}

/* The four squares of a step are added in pairs before they join the thread's chain, which has K / (4 n) links; zeros
 * behind the row change nothing. */
PS_DEVICE float norm_squares(float sum, const float4 (&v)[NORM_KEEP])
{
    for (unsigned i = 0; i < NORM_KEEP; i++)
        sum += fmaf(v[i].x, v[i].x, v[i].y * v[i].y) + fmaf(v[i].z, v[i].z, v[i].w * v[i].w);
    return sum;
}

template <bool FOURS>
PS_DEVICE void norm_write(const norm_job &j, float *y, const float4 (&x)[NORM_KEEP],
                          const float4 (&w)[NORM_KEEP], float scale, size_t k, unsigned n)
{
    for (unsigned i = 0; i < NORM_KEEP; i++) {
        float4 v = x[i];
        v.x = v.x * scale * (w[i].x + j.w_offset);
        v.y = v.y * scale * (w[i].y + j.w_offset);
        v.z = v.z * scale * (w[i].z + j.w_offset);
        v.w = v.w * scale * (w[i].w + j.w_offset);
        norm_store<FOURS>(y, k + (size_t)i * 4 * n, j.K, v);
    }
}

PS_DEVICE float norm_scale(const norm_job &j, float sum)
{
    return 1.0f / sqrtf(sum / (float)j.K + j.eps);
}

template <bool FOURS> PS_KERNEL norm_by_warp(norm_job j)
{
    size_t t = blockIdx.x * (size_t)(THREADS / PS_WARP) + threadIdx.x / PS_WARP;
    size_t k = threadIdx.x % PS_WARP * 4;
    float4 x[NORM_KEEP], w[NORM_KEEP];
    if (t >= j.T)
        return;
    norm_fetch<FOURS>(x, j.x + t * j.ldx, k, j.K, PS_WARP);
    norm_fetch<FOURS>(w, j.w, k, j.K, PS_WARP);
    float scale = norm_scale(j, warp_sum(norm_squares(0, x)));
    norm_write<FOURS>(j, j.y + t * j.ldy, x, w, scale, k, PS_WARP);
}

/* x and y may be the same row: a thread reads again and writes only what it alone has read. */
template <bool FOURS> PS_KERNEL norm_by_block(norm_job j)
{
    PS_SHARED float part[NORM_THREADS / PS_WARP];
    const size_t k0 = threadIdx.x * 4, step = NORM_THREADS * NORM_KEEP * 4;
    const float *row = j.x + blockIdx.x * j.ldx;
    float *y = j.y + blockIdx.x * j.ldy;
    float4 x[NORM_KEEP], w[NORM_KEEP], more[NORM_KEEP];
    norm_fetch<FOURS>(x, row, k0, j.K, NORM_THREADS);
    norm_fetch<FOURS>(w, j.w, k0, j.K, NORM_THREADS);
    float sum = norm_squares(0, x);
    for (size_t k = k0 + step; k < j.K; k += step) {
        norm_fetch<FOURS>(more, row, k, j.K, NORM_THREADS);
        sum = norm_squares(sum, more);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % PS_WARP == 0)
        part[threadIdx.x / PS_WARP] = sum;
    __syncthreads();
    unsigned lane = threadIdx.x % PS_WARP;
    sum = warp_sum(lane < NORM_THREADS / PS_WARP ? part[lane] : 0.0f);
    float scale = norm_scale(j, sum);
    norm_write<FOURS>(j, y, x, w, scale, k0, NORM_THREADS);
    for (size_t k = k0 + step; k < j.K; k += step) {
        norm_fetch<FOURS>(x, row, k, j.K, NORM_THREADS);
        norm_fetch<FOURS>(w, j.w, k, j.K, NORM_THREADS);
        norm_write<FOURS>(j, y, x, w, scale, k, NORM_THREADS);
    }
}

/* ---- gates and biases ---- */

struct rows_job {
    float *y;
    const float *a, *b;
    size_t ldy, lda, ldb, T, K;
};

struct op_swiglu {
    /* e^-g is infinite below -88.7 and the quotient then zero, where the truth is below 1e-36. */
    PS_DEVICE float apply(float g, float u)
    {
        return g / (1.0f + expf(-g)) * u;
    }
};

struct op_add {
    PS_DEVICE float apply(float x, float b)
    {
        return x + b;
    }
};

template <typename OP, bool FOURS> PS_KERNEL by_element(rows_job j)
{
    size_t k = (blockIdx.x * (size_t)THREADS + threadIdx.x) * (FOURS ? 4 : 1);
    if (k >= j.K)
        return;
    for (size_t t = blockIdx.y; t < j.T; t += gridDim.y) {
        float *y = j.y + t * j.ldy + k;
        const float *a = j.a + t * j.lda + k, *b = j.b + t * j.ldb + k;
        if (!FOURS) {
            *y = OP::apply(*a, *b);
            continue;
        }
        float4 x = *(const float4 *)a, z = *(const float4 *)b;
        x.x = OP::apply(x.x, z.x);
        x.y = OP::apply(x.y, z.y);
        x.z = OP::apply(x.z, z.z);
        x.w = OP::apply(x.w, z.w);
        *(float4 *)y = x;
    }
}

template <typename OP> int launch_by_element(simt_stream stream, const rows_job &j)
{
    bool by4 = fours(j.y, j.ldy) && fours(j.a, j.lda) && fours(j.b, j.ldb) && j.K % 4 == 0;
    dim3 grid(div_up(j.K, by4 ? 4 * THREADS : THREADS), grid_rows(j.T));
    if (by4)
        return PS_LAUNCH((by_element<OP, true>), grid, dim3(THREADS), 0, stream, j);
    return PS_LAUNCH((by_element<OP, false>), grid, dim3(THREADS), 0, stream, j);
}

/* ---- rope ---- */

struct rope_job {
    float *x;
    size_t ld, T;
    uint32_t n_heads, head_dim, half;
    const float *cos, *sin;
    bool interleaved;
};

/* A thread turns one pair of every row it meets. */
PS_KERNEL rope_pairs(rope_job j)
{
    uint32_t at = blockIdx.x * THREADS + threadIdx.x, h = at / j.half, i = at % j.half;
    if (h >= j.n_heads)
        return;
    for (size_t t = blockIdx.y; t < j.T; t += gridDim.y) {
        float *a = j.x + t * j.ld + (size_t)h * j.head_dim + (j.interleaved ? 2 * i : i);
        float *b = a + (j.interleaved ? 1 : j.half);
        float c = j.cos[t * j.half + i], s = j.sin[t * j.half + i], a0 = *a, b0 = *b;
        *a = a0 * c - b0 * s;
        *b = b0 * c + a0 * s;
    }
}

/* ---- stored rows to f32 ---- */

/* Reads bytes: rows of a file's tensor begin anywhere. A warp's bytes lie together, so the cache makes one fetch of
 * them. */
template <bool BF16> PS_KERNEL halves_to_f32(float *out, const uint8_t *in, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < n;
         i += gridDim.x * (size_t)THREADS) {
        uint32_t h = num_load_u16(in + 2 * i);
        out[i] = BF16 ? num_bf16_f32(h) : num_f16_f32_bits(h);
    }
}

PS_KERNEL floats_to_f32(float *out, const uint8_t *in, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < n;
         i += gridDim.x * (size_t)THREADS)
        out[i] = simt_bits_float(num_load_u32(in + 4 * i));
}

/* A row of Q8B64 or NF4B64 of n weights, as proto/quant.h has it. */
template <bool NIBBLES>
PS_KERNEL quants_to_f32(float *out, const uint8_t *in, size_t n, size_t codes)
{
    for (size_t k = blockIdx.x * (size_t)THREADS + threadIdx.x; k < n;
         k += gridDim.x * (size_t)THREADS) {
        float scale = num_f16_f32_bits(num_load_u16(in + codes + k / 64 * 2));
        uint8_t code = in[NIBBLES ? k / 128 * 64 + k % 32 / 8 * 16 + k / 64 % 2 * 8 + k % 8 : k];
        if (NIBBLES)
            out[k] = num_bf16_f32(num_nf4[k % 64 < 32 ? code & 15 : code >> 4]) * scale;
        else
            out[k] = (float)(int8_t)code * scale;
    }
}

/* ---- keys and values into their pages ---- */

struct store_job {
    void *const *k_pages, *const *v_pages;
    const uint32_t *pos;
    const float *k, *v;
    size_t T;
    enum ps_dtype k_dtype, v_dtype;
    uint32_t n_kv_heads, head_dim;
};

PS_DEVICE void store_number(void *page, enum ps_dtype t, size_t at, float x)
{
    if (t == PS_F32)
        ((float *)page)[at] = x;
    else
        ((uint16_t *)page)[at] = (uint16_t)(t == PS_BF16 ? num_f32_bf16(x) : num_f32_f16(x));
}

PS_KERNEL store_rows(store_job j)
{
    uint32_t n = j.n_kv_heads * j.head_dim, i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= n)
        return;
    size_t place = (size_t)(i / j.head_dim) * PS_KV_PAGE * j.head_dim + i % j.head_dim;
    for (size_t t = blockIdx.y; t < j.T; t += gridDim.y) {
        uint32_t page = j.pos[t] / PS_KV_PAGE, slot = j.pos[t] % PS_KV_PAGE;
        size_t at = place + (size_t)slot * j.head_dim;
        store_number(j.k_pages[page], j.k_dtype, at, j.k[t * n + i]);
        store_number(j.v_pages[page], j.v_dtype, at, j.v[t * n + i]);
    }
}

bool is_float_type(enum ps_dtype t)
{
    return t == PS_F32 || t == PS_F16 || t == PS_BF16;
}

} // namespace

int ps_launch_rmsnorm(simt_stream stream, float *y, size_t ldy, const float *x, size_t ldx,
                      const float *w, float w_offset, size_t T, size_t K, float eps)
{
    if (T == 0 || K == 0)
        return 0;
    norm_job j = {y, x, w, ldy, ldx, T, K, w_offset, eps};
    bool by4 = fours(y, ldy) && fours(x, ldx) && fours(w, 4) && K % 4 == 0;
    if (K <= NORM_WARP_MAX) {
        dim3 grid(div_up(T, THREADS / PS_WARP));
        if (by4)
            return PS_LAUNCH(norm_by_warp<true>, grid, dim3(THREADS), 0, stream, j);
        return PS_LAUNCH(norm_by_warp<false>, grid, dim3(THREADS), 0, stream, j);
    }
    dim3 grid((unsigned)T);
    if (by4)
        return PS_LAUNCH(norm_by_block<true>, grid, dim3(NORM_THREADS), 0, stream, j);
    return PS_LAUNCH(norm_by_block<false>, grid, dim3(NORM_THREADS), 0, stream, j);
}

int ps_launch_swiglu(simt_stream stream, float *y, size_t ldy, const float *g, size_t ldg,
                     const float *u, size_t ldu, size_t T, size_t K)
{
    if (T == 0 || K == 0)
        return 0;
    rows_job j = {y, g, u, ldy, ldg, ldu, T, K};
    return launch_by_element<op_swiglu>(stream, j);
}

int ps_launch_add_bias(simt_stream stream, float *x, size_t ldx, const float *b, size_t T, size_t K)
{
    if (T == 0 || K == 0)
        return 0;
    rows_job j = {x, x, b, ldx, ldx, 0, T, K};
    return launch_by_element<op_add>(stream, j);
}

int ps_launch_rope(simt_stream stream, float *x, size_t ld, size_t T, uint32_t n_heads,
                   uint32_t head_dim, uint32_t rot_dim, const float *cos, const float *sin,
                   bool interleaved)
{
    uint32_t half = rot_dim / 2;
    if (T == 0 || n_heads == 0 || half == 0)
        return 0;
    rope_job j = {x, ld, T, n_heads, head_dim, half, cos, sin, interleaved};
    dim3 grid(div_up((size_t)n_heads * half, THREADS), grid_rows(T));
    return PS_LAUNCH(rope_pairs, grid, dim3(THREADS), 0, stream, j);
}

int ps_launch_to_f32(simt_stream stream, float *out, const void *in, enum ps_dtype t, size_t n)
{
    if (!is_float_type(t) && t != PS_Q8B64 && t != PS_NF4B64)
        return PS_EUNSUPPORTED;
    if (n == 0)
        return 0;
    size_t blocks = (n + THREADS - 1) / THREADS;
    dim3 grid(blocks < GRID_MAX ? (unsigned)blocks : GRID_MAX);
    const uint8_t *bytes = (const uint8_t *)in;
    size_t codes = t == PS_Q8B64 ? (n + 63) / 64 * 64 : (n + 127) / 128 * 64;
    if (t == PS_Q8B64)
        return PS_LAUNCH(quants_to_f32<false>, grid, dim3(THREADS), 0, stream, out, bytes, n, codes);
    if (t == PS_NF4B64)
        return PS_LAUNCH(quants_to_f32<true>, grid, dim3(THREADS), 0, stream, out, bytes, n, codes);
    if (t == PS_F32)
        return PS_LAUNCH(floats_to_f32, grid, dim3(THREADS), 0, stream, out, bytes, n);
    if (t == PS_BF16)
        return PS_LAUNCH(halves_to_f32<true>, grid, dim3(THREADS), 0, stream, out, bytes, n);
    return PS_LAUNCH(halves_to_f32<false>, grid, dim3(THREADS), 0, stream, out, bytes, n);
}

int ps_launch_kv_store(simt_stream stream, const struct ps_device_kv *kv, const uint32_t *pos,
                       size_t T, const float *k, const float *v)
{
    if (!is_float_type(kv->k_dtype) || !is_float_type(kv->v_dtype))
        return PS_EUNSUPPORTED;
    if (T == 0)
        return 0;
    store_job j = {kv->k_pages, kv->v_pages,    pos,         k, v, T, kv->k_dtype,
                   kv->v_dtype, kv->n_kv_heads, kv->head_dim};
    dim3 grid(div_up((size_t)kv->n_kv_heads * kv->head_dim, THREADS), grid_rows(T));
    return PS_LAUNCH(store_rows, grid, dim3(THREADS), 0, stream, j);
}
