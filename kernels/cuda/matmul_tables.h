/* Values of four-bit codes for the kernels, and the table of pairs that tensor-core kernels look them up in. In:
 * nothing but proto/quant.h's numbers; out: shared memory of a block. */
#ifndef PS_KERNELS_CUDA_MATMUL_TABLES_H
#define PS_KERNELS_CUDA_MATMUL_TABLES_H
#include "kernels/cuda/matmul_decode.h"

/* Entry b: the weights of the low and of the high half of b, in that order. A thread makes one entry and writes its 32
 * copies, four at a time, each lane beginning at other banks. */
template <int TYPE> PS_DEVICE void mm_fill_table(uint8_t *table)
{
    if constexpr (mm_type<TYPE>::TABLE != 0)
        if (threadIdx.x < 256) {
            uint32_t pair = num_nf4[threadIdx.x % 16] | num_nf4[threadIdx.x / 16] << 16;
            MM_UNROLL
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t at = threadIdx.x * 128 + (i + threadIdx.x) % 8 * 16;
                *(uint4 *)(void *)(table + at) = make_uint4(pair, pair, pair, pair);
            }
        }
}
#endif
