/* The execution model that the kernels are written for, real or emulated. Under nvcc this is CUDA itself; in a
 * host build the same sources run on a small emulation: grid, block, shared memory, barriers, warp shuffles and
 * votes, and the tensor-core step as a function. It is for tests on small shapes: one OS thread, every CUDA thread
 * a fiber.
 *
 * The emulation takes the threads of a block in another order after every barrier, so that a missing one shows; a
 * barrier that some thread of its group never reaches ends the program with a message. Dynamic shared memory
 * begins as NaNs. What it can't show: races inside a warp between barriers that happen to come out right, memory
 * ordering between blocks, and the order of additions inside a tensor core.
 *
 * Kernels use: threadIdx, blockIdx, blockDim, gridDim, PS_SHARED, PS_SHARED_DYNAMIC, __syncthreads, __syncwarp,
 * the *_sync shuffles and votes, atomicAdd/Or/Max on 32-bit integers, simt_mma_bf16, and the plain integer and
 * float intrinsics below. They are launched by PS_LAUNCH from ordinary functions, which are the same sources too. */
#ifndef PS_KERNELS_CUDA_SIMT_H
#define PS_KERNELS_CUDA_SIMT_H
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PS_WARP 32u
#define PS_FULL 0xffffffffu

#if defined(__CUDACC__)

#include <cuda_runtime.h>

typedef cudaStream_t simt_stream;

#define PS_SHARED __shared__
/* `name` is an array of bytes, 16-byte aligned; one such block per kernel. */
#define PS_SHARED_DYNAMIC(name) extern __shared__ __align__(16) uint8_t name[]
#define PS_KERNEL               __global__ void
#define PS_DEVICE               static __device__ __forceinline__
/* 0 or the error of the launch. Over 48 KiB of dynamic shared memory are asked for as CUDA wants it. */
#define PS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    simt_launch((const void *)(kernel), (size_t)(shared_bytes),                                    \
                [&]() { (kernel)<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__); })

template <typename F> static inline int simt_launch(const void *kernel, size_t shared_bytes, F go)
{
    if (shared_bytes > 48u * 1024) {
        cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)shared_bytes);
        if (e != cudaSuccess)
            return (int)e;
    }
    go();
    return (int)cudaGetLastError();
}

/* D = A.B + D for one 16 x 8 x 16 tile: the fragment layout of PTX mma.m16n8k16 (row, col). With g = lane / 4 and t =
 * lane % 4: a0 = A[g][2t, 2t+1], a1 = A[g+8][2t, 2t+1], a2 = A[g][2t+8, 2t+9], a3 = A[g+8][2t+8, 2t+9]; b0 = B[2t,
 * 2t+1][g], b1 = B[2t+8, 2t+9][g]; d0, d1 = D[g][2t, 2t+1]; d2, d3 = D[g+8][2t, 2t+1]. The lower k stands in the
 * lower half of a word. Needs compute capability 8.0. */
PS_DEVICE void simt_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    __trap();
#endif
}

PS_DEVICE uint32_t simt_float_bits(float f)
{
    return __float_as_uint(f);
}
PS_DEVICE float simt_bits_float(uint32_t u)
{
    return __uint_as_float(u);
}

#else /* ---- emulation: simt_emulate.cc ---- */

#include <functional>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct uint2 {
    uint32_t x, y;
};
struct uint4 {
    uint32_t x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
static inline uint2 make_uint2(uint32_t x, uint32_t y)
{
    return {x, y};
}
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    return {x, y, z, w};
}
static inline float2 make_float2(float x, float y)
{
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

typedef void *simt_stream;

/* The thread that runs now. */
struct simt_thread {
    dim3 thread, block, block_dim, grid_dim;
    unsigned lane, warp;
};
extern simt_thread *simt_now;
extern uint8_t *simt_dynamic;

#define threadIdx (simt_now->thread)
#define blockIdx  (simt_now->block)
#define blockDim  (simt_now->block_dim)
#define gridDim   (simt_now->grid_dim)

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __constant__
#define PS_SHARED               static
#define PS_SHARED_DYNAMIC(name) uint8_t *name = simt_dynamic
#define PS_KERNEL               static void
#define PS_DEVICE               static inline

#define PS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    ((void)(stream), simt_run((grid), (block), (shared_bytes), [&]() { (kernel)(__VA_ARGS__); }))

/* Runs every block, one after another. 0, or -1 for a shape that no GPU takes. */
int simt_run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &body);

void __syncthreads();
void __syncwarp(uint32_t mask = PS_FULL);
/* Every lane of `mask` gives a word and gets those of all. Lanes outside have zeros. */
const uint64_t *simt_exchange(uint32_t mask, uint64_t word);

template <typename T> static inline T simt_shuffle(uint32_t mask, T v, unsigned from)
{
    uint64_t word = 0;
    static_assert(sizeof v <= sizeof word, "shuffles take up to 8 bytes");
    memcpy(&word, &v, sizeof v);
    const uint64_t *all = simt_exchange(mask, word);
    T out;
    memcpy(&out, &all[from], sizeof out);
    return out;
}
template <typename T> static inline T __shfl_sync(uint32_t mask, T v, int from, int width = 32)
{
    unsigned lane = simt_now->lane, base = lane / (unsigned)width * (unsigned)width;
    return simt_shuffle(mask, v, base + (unsigned)from % (unsigned)width);
}
template <typename T> static inline T __shfl_xor_sync(uint32_t mask, T v, int with, int width = 32)
{
    unsigned lane = simt_now->lane, from = lane ^ (unsigned)with;
    return simt_shuffle(mask, v, from / (unsigned)width <= lane / (unsigned)width ? from : lane);
}
template <typename T>
static inline T __shfl_up_sync(uint32_t mask, T v, unsigned by, int width = 32)
{
    unsigned lane = simt_now->lane, in = lane % (unsigned)width;
    return simt_shuffle(mask, v, in >= by ? lane - by : lane);
}
template <typename T>
static inline T __shfl_down_sync(uint32_t mask, T v, unsigned by, int width = 32)
{
    unsigned lane = simt_now->lane, in = lane % (unsigned)width;
    return simt_shuffle(mask, v, in + by < (unsigned)width ? lane + by : lane);
}
static inline uint32_t __ballot_sync(uint32_t mask, int p)
{
    const uint64_t *all = simt_exchange(mask, p ? 1 : 0);
    uint32_t bits = 0;
    for (unsigned i = 0; i < PS_WARP; i++)
        bits |= (uint32_t)(mask >> i & 1u & all[i]) << i;
    return bits;
}
static inline int __any_sync(uint32_t mask, int p)
{
    return __ballot_sync(mask, p) != 0;
}
static inline int __all_sync(uint32_t mask, int p)
{
    return __ballot_sync(mask, p) == mask;
}

/* One fiber at a time runs, so a plain operation is atomic. */
template <typename T> static inline T atomicAdd(T *p, T v)
{
    T old = *p;
    *p = old + v;
    return old;
}
template <typename T> static inline T atomicOr(T *p, T v)
{
    T old = *p;
    *p = old | v;
    return old;
}
template <typename T> static inline T atomicMax(T *p, T v)
{
    T old = *p;
    *p = old > v ? old : v;
    return old;
}
static inline void __threadfence()
{
}

void simt_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

static inline uint32_t simt_float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static inline float simt_bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}
template <typename T> static inline T __ldcs(const T *p)
{
    return *p;
}
static inline int __popc(uint32_t x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(uint64_t x)
{
    return __builtin_popcountll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
/* PTX prmt without its sign mode. */
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t s)
{
    uint64_t v = (uint64_t)y << 32 | x;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++)
        out |= (uint32_t)(v >> 8 * (s >> 4 * i & 7u) & 0xffu) << 8 * i;
    return out;
}
template <typename T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}
template <typename T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}
#endif
#endif
