/* Activations as hi + lo bf16 halves for vdpbf16ps: for each 32 elements 64 bytes of hi halves, then 64 of lo ones. */
#ifndef PS_KERNELS_PACK_AVX512BF16_H
#define PS_KERNELS_PACK_AVX512BF16_H
#include "kernels/matmul_impl.h"

#define STEP 32 /* elements */

/* bf16 of 16 floats, round to nearest even, each in the low half of a 32-bit lane; no NaN or overflow among them */
static inline __m512i round_bf16(__m512i u)
{
    __m512i odd = _mm512_and_epi32(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    return _mm512_srli_epi32(_mm512_add_epi32(u, half), 16);
}

/* The vector form of ps_split_bf16. */
static inline void split(vf x, __m256i *hi, __m256i *lo)
{
    __m512i u = _mm512_castps_si512(x), abs = _mm512_and_epi32(u, _mm512_set1_epi32(INT32_MAX));
    __mmask16 top = _mm512_cmpge_epi32_mask(abs, _mm512_set1_epi32(0x7f7f8000));
    __mmask16 nan = _mm512_cmpgt_epi32_mask(abs, _mm512_set1_epi32(0x7f800000));
    __mmask16 inf = _mm512_cmpge_epi32_mask(abs, _mm512_set1_epi32(0x7f800000));
    __m512i h = _mm512_mask_srli_epi32(round_bf16(u), top, u, 16);
    h = _mm512_mask_or_epi32(h, nan, h, _mm512_set1_epi32(0x40));
    vf rest = v_sub(x, _mm512_castsi512_ps(_mm512_slli_epi32(h, 16)));
    __m512i l = _mm512_maskz_mov_epi32(_knot_mask16(inf), round_bf16(_mm512_castps_si512(rest)));
    *hi = _mm512_cvtepi32_epi16(h);
    *lo = _mm512_cvtepi32_epi16(l);
}

static void pack_column(const float *a, size_t K, uint8_t *to, size_t stride)
{
    for (size_t k = 0; k < K; k += STEP, to += stride)
        for (size_t half = 0; half < 2; half++) {
            size_t from = k + half * VW;
            __m256i hi, lo;
            split(v_load_n(from < K ? a + from : a, from < K ? ps_min_size(K - from, VW) : 0), &hi,
                  &lo);
            _mm256_storeu_si256((__m256i *)(void *)(to + half * 32), hi);
            _mm256_storeu_si256((__m256i *)(void *)(to + 64 + half * 32), lo);
        }
}
#endif
