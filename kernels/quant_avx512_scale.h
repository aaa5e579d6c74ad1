/* Scales of a block's weights, lane by lane, in AVX-512: see quant_impl.h. */
#ifndef PS_KERNELS_QUANT_AVX512_SCALE_H
#define PS_KERNELS_QUANT_AVX512_SCALE_H
#include "kernels/quant_order.h"

/* Four e8m0, four lanes each: exponents to their place; 0 and 255 (NaN) have a mantissa. */
MM_INLINE vf q_scale_e8m0(const uint8_t *p)
{
    const __m128i spread = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    uint32_t four;
    memcpy(&four, p, sizeof four);
    __m512i e = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(_mm_cvtsi32_si128((int)four), spread));
    __mmask16 ends =
        _mm512_testn_epi32_mask(_mm512_add_epi32(e, _mm512_set1_epi32(1)), _mm512_set1_epi32(0xfe));
    __m512i bits = _mm512_slli_epi32(e, 23);
    return _mm512_castsi512_ps(_mm512_mask_or_epi32(bits, ends, bits, _mm512_set1_epi32(0x400000)));
}

MM_INLINE vf q_scale(enum ps_dtype t, const uint8_t *p, int group)
{
    (void)group;
    if (t == PS_Q8B64)
        return _mm512_cvtph_ps(_mm256_set1_epi16((short)ps_load_u16(p)));
    if (t == PS_F8_E4M3)
        return p ? v_set1(ps_load_f32(p) * 256.0f) : v_set1(256.0f);
    if (t == PS_MXFP4)
        return q_scale_e8m0(p);
    const __m256i twice = _mm256_set1_epi64x(0x0302030201000100); /* first, first, second, second */
    uint32_t two;
    memcpy(&two, p, sizeof two);
    return _mm512_cvtph_ps(_mm256_shuffle_epi8(_mm256_set1_epi32((int)two), twice));
}
#endif
