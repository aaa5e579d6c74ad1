/* Where the weights of 64 bytes of codes come from, the same for all instruction sets: see quant_impl.h. */
#ifndef PS_KERNELS_QUANT_ORDER_H
#define PS_KERNELS_QUANT_ORDER_H
#include "kernels/kernel_scalar.h"
#include "kernels/matmul_impl.h"
#include "proto/quant.h"

/* Weights of a block. */
MM_INLINE size_t q_elems(enum ps_dtype t)
{
    return t == PS_NF4B64 || t == PS_MXFP4 ? 128 : 64;
}

/* Element that code `nibble` of byte `byte` of a block of four-bit weights is. */
MM_INLINE size_t q_nibble_at(enum ps_dtype t, size_t byte, size_t nibble)
{
    if (t == PS_MXFP4)
        return byte * 2 + nibble;
    return byte / 8 % 2 * 64 + nibble * 32 + byte / 16 * 8 + byte % 8;
}
#endif
