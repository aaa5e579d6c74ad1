/* Values of four-bit codes for the kernels, and the table of pairs that tensor-core kernels look them up in. In:
 * nothing but proto/quant.h's numbers; out: shared memory of a block. */
#ifndef PS_KERNELS_CUDA_MATMUL_TABLES_H
#define PS_KERNELS_CUDA_MATMUL_TABLES_H
#include "kernels/cuda/matmul_decode.h"

/* ps_nf4_values, which are bf16 numbers. */
static __constant__ const uint32_t mm_nf4[16] = {
    0xbf80, 0xbf32, 0xbf06, 0xbeca, 0xbe92, 0xbe3d, 0xbdba, 0x0000,
    0x3da3, 0x3e25, 0x3e7c, 0x3ead, 0x3ee2, 0x3f10, 0x3f39, 0x3f80,
};

/* Entry b: the weights of the low and of the high half of b, in that order. A thread makes one entry and writes its 32
 * copies, four at a time, each lane beginning at other banks. */
template <int TYPE> PS_DEVICE void mm_fill_table(uint8_t *table)
{
    if constexpr (mm_type<TYPE>::TABLE != 0)
        if (threadIdx.x < 256) {
            uint32_t pair = mm_nf4[threadIdx.x % 16] | mm_nf4[threadIdx.x / 16] << 16;
            MM_UNROLL
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t at = threadIdx.x * 128 + (i + threadIdx.x) % 8 * 16;
                *(uint4 *)(void *)(table + at) = make_uint4(pair, pair, pair, pair);
            }
        }
}
#endif
