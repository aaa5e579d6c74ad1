/* Codes of block-scaled weights to registers of eight floats: what quant_impl.h asks for, in AVX2.
 *
 * Four-bit codes are looked up as the two bytes of a bf16, by two byte shuffles; put together they are words, and the
 * even and the odd ones of those the upper halves of floats. */
#ifndef PS_KERNELS_QUANT_AVX2_H
#define PS_KERNELS_QUANT_AVX2_H
#include "kernels/quant_order.h"

typedef vf q_vec;
#define Q_VECS_MOST  8
#define Q_VECS(t)    8
#define Q_GROUPS(t)  ((t) == PS_NF4B64 || (t) == PS_MXFP4 ? 2 : 1)
#define Q_STEP_BYTES 32

MM_INLINE vf q_step(vf sum, vf w, const uint8_t *a, int i)
{
    return v_fma(w, v_load((const float *)(const void *)(a + i * Q_STEP_BYTES)), sum);
}

/* e4m3 as a float16 is 2^-8 of its value, exactly; the one NaN pattern of either sign has to be said. */
MM_INLINE vf q_f8(const uint8_t *p)
{
    const __m128i nan = _mm_set1_epi16(0x3f80);
    __m128i s = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)p));
    s = _mm_and_si128(_mm_slli_epi16(s, 7), _mm_set1_epi16((short)0xbfff));
    __m128i bad = _mm_cmpeq_epi16(_mm_and_si128(s, nan), nan);
    return _mm256_cvtph_ps(_mm_or_si128(s, _mm_and_si128(bad, _mm_set1_epi16(0x7e00))));
}

/* The low (shift 0) or high bytes of the bf16 that the four-bit codes mean. */
MM_INLINE __m256i q_table(enum ps_dtype t, int shift)
{
    const float *values = t == PS_NF4B64 ? ps_nf4_values : ps_e2m1_values;
    uint8_t b[16];
    for (int i = 0; i < 16; i++)
        b[i] = (uint8_t)(ps_f32_bits(values[i]) >> (16 + shift));
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)b));
}

/* Codes (one a byte) of 32 weights: those in the lower or upper eight bytes of either half, as two vectors. */
MM_INLINE void q_look_up(vf *w, __m256i codes, __m256i low, __m256i high, bool upper)
{
    __m256i l = _mm256_shuffle_epi8(low, codes), h = _mm256_shuffle_epi8(high, codes);
    __m256i words = upper ? _mm256_unpackhi_epi8(l, h) : _mm256_unpacklo_epi8(l, h);
    w[0] = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    w[1] = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000)));
}

/* Values of one group: of NF4B64 one of the two blocks, of MXFP4 the two in 32 bytes. */
MM_INLINE void q_load(vf *w, enum ps_dtype t, const uint8_t *p, int group)
{
    if (t == PS_F8_E4M3 || t == PS_Q8B64) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            w[i] = t == PS_F8_E4M3 ? q_f8(p + i * 8)
                                   : _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(
                                         (const __m128i *)(const void *)(p + i * 8))));
        return;
    }
    const __m256i low = q_table(t, 0), high = q_table(t, 8), nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        int half = t == PS_NF4B64 ? i : group;
        bool upper = t == PS_NF4B64 ? group : i;
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(p + half * 32));
        q_look_up(w + i * 4, _mm256_and_si256(b, nibble), low, high, upper);
        q_look_up(w + i * 4 + 2, _mm256_and_si256(_mm256_srli_epi16(b, 4), nibble), low, high, upper);
    }
}

/* The element that comes out as number j: lane j % 8 of vector j / 8. */
MM_INLINE size_t q_place(enum ps_dtype t, size_t j)
{
    size_t group = j / 64, i = j / 32 % 2, nibble = j / 16 % 2, word = j % 8 * 2 + j / 8 % 2;
    size_t half = t == PS_NF4B64 ? i : group, upper = t == PS_NF4B64 ? group : i;
    if (q_elems(t) == 64)
        return j;
    return q_nibble_at(t, half * 32 + word / 8 * 16 + upper * 8 + word % 8, nibble);
}

static inline float q_e8m0(uint8_t b)
{
    return ps_bits_f32((uint32_t)b << 23 | (b == 0 || b == 255 ? 0x400000u : 0));
}

MM_INLINE vf q_scale(enum ps_dtype t, const uint8_t *p, int group)
{
    if (t == PS_F8_E4M3)
        return p ? v_set1(ps_load_f32(p) * 256.0f) : v_set1(256.0f);
    if (t == PS_MXFP4)
        return _mm256_set_m128(_mm_set1_ps(q_e8m0(p[group * 2 + 1])),
                               _mm_set1_ps(q_e8m0(p[group * 2])));
    return _mm256_cvtph_ps(_mm_set1_epi16((short)ps_load_u16(p + group * 2)));
}

static inline void q_pack_block(uint8_t *to, const float *ordered, size_t n)
{
    memcpy(to, ordered, n * sizeof *ordered);
}
#endif
