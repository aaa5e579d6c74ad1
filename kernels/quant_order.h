/* What the micro-kernels of block-scaled weights share, the same for all instruction sets: where the weights of 64
 * bytes of codes come from, how a product begins and ends. See quant_impl.h. */
#ifndef PS_KERNELS_QUANT_ORDER_H
#define PS_KERNELS_QUANT_ORDER_H
#include "kernels/kernel_scalar.h"
#include "kernels/matmul_impl.h"
#include "proto/quant.h"

#define Q_CODES 64 /* bytes of a block */

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

/* The scales in the rows that are prefetched; their codes are by the loops. */
static inline void q_ahead_scales(const struct ps_micro *m, enum ps_dtype t)
{
    if (m->n_ahead == 0 || (t != PS_Q8B64 && t != PS_NF4B64))
        return;
    size_t code_bytes = ps_quant_code_bytes(t, m->matrix->K), begin = m->k0 / 64 * 2;
    size_t end = begin + ps_div_up(m->K, 64) * 2;
    for (size_t at = begin; at < end; at += 64) /* `ahead` begins at element k0 */
        mm_ahead(m, code_bytes + at - m->k0 / q_elems(t) * Q_CODES);
}

/* The factor of the whole tensor is the last that a sum meets. */
MM_INLINE void q_finish(const struct ps_micro *m, vf *acc, size_t col, int R)
{
    if (!m->more) {
        vf factor = v_set1(m->matrix->factor != 0 ? m->matrix->factor : 1.0f);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            acc[r] = v_mul(acc[r], factor);
    }
    mm_finish(m, acc, col, R);
}
#endif
