/* Block-scaled weights whose values are exact in bf16, for vdpbf16ps: the part of what quant_impl.h asks for that
 * does not depend on how codes become values. A step takes a vector of 32 values and the hi and lo halves of 32
 * activations (pack_avx512bf16.h); all vectors of a block are one group. */
#ifndef PS_KERNELS_QUANT_AVX512BF16_H
#define PS_KERNELS_QUANT_AVX512BF16_H
#include "kernels/pack_avx512bf16.h"

typedef __m512bh q_vec;
#define Q_GROUPS(t)  1
#define Q_STEP_BYTES 128 /* hi, lo */

MM_INLINE vf q_step(vf sum, q_vec w, const uint8_t *a, int i)
{
    const uint8_t *at = a + i * Q_STEP_BYTES;
    sum = _mm512_dpbf16_ps(sum, w, (__m512bh)_mm512_loadu_si512(at));
    return _mm512_dpbf16_ps(sum, w, (__m512bh)_mm512_loadu_si512(at + 64));
}

static inline void q_pack_block(uint8_t *to, const float *ordered, size_t n)
{
    pack_column(ordered, n, to, Q_STEP_BYTES);
}

#endif
