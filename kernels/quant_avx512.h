/* Codes of block-scaled weights to registers of sixteen floats: what quant_impl.h asks for, in AVX-512. */
#ifndef PS_KERNELS_QUANT_AVX512_H
#define PS_KERNELS_QUANT_AVX512_H
#include "kernels/quant_avx512_scale.h"

typedef vf q_vec;
#define Q_VECS_MOST  8
#define Q_VECS(t)    ((t) == PS_NF4B64 || (t) == PS_MXFP4 ? 8 : 4)
#define Q_GROUPS(t)  1
#define Q_STEP_BYTES 64 /* of packed activations that meet one vector */

MM_INLINE vf q_step(vf sum, vf w, const uint8_t *a, int i)
{
    return v_fma(w, v_load((const float *)(const void *)(a + i * Q_STEP_BYTES)), sum);
}

/* e4m3 as a float16 is 2^-8 of its value, exactly; the one NaN pattern of either sign has to be said. */
MM_INLINE void q_load_f8(vf *w, const uint8_t *p)
{
    const __m512i nan = _mm512_set1_epi16(0x3f80);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512i s =
            _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(p + i * 32)));
        s = _mm512_and_si512(_mm512_slli_epi16(s, 7), _mm512_set1_epi16((short)0xbfff));
        __mmask32 bad = _mm512_cmpeq_epi16_mask(_mm512_and_si512(s, nan), nan);
        s = _mm512_mask_mov_epi16(s, bad, _mm512_set1_epi16(0x7e00));
        w[2 * i] = _mm512_cvtph_ps(_mm512_castsi512_si256(s));
        w[2 * i + 1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(s, 1));
    }
}

/* Values of one group of a block. Four-bit codes: a lane holds eight of them, vector i takes the i-th; a look-up minds
 * the low four bits alone. */
MM_INLINE void q_load(vf *w, enum ps_dtype t, const uint8_t *p, int group)
{
    (void)group;
    if (t == PS_F8_E4M3) {
        q_load_f8(w, p);
    } else if (t == PS_Q8B64) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            w[i] = _mm512_cvtepi32_ps(
                _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + i * 16))));
    } else {
        const vf table = v_load(t == PS_NF4B64 ? ps_nf4_values : ps_e2m1_values);
        __m512i codes = _mm512_loadu_si512(p);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            w[i] = _mm512_permutexvar_ps(i ? _mm512_srli_epi32(codes, (unsigned)(4 * i)) : codes,
                                         table);
    }
}

/* The element that comes out as number j: lane j % 16 of vector j / 16. */
MM_INLINE size_t q_place(enum ps_dtype t, size_t j)
{
    size_t i = j / 16, lane = j % 16;
    return q_elems(t) == 64 ? j : q_nibble_at(t, lane * 4 + i / 2, i % 2);
}

static inline void q_pack_block(uint8_t *to, const float *ordered, size_t n)
{
    memcpy(to, ordered, n * sizeof *ordered);
}
#endif
