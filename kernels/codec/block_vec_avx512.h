/* Block codecs, the inner loops in AVX-512 with byte and word instructions (BW, VL), which every such server has; the
 * byte expansion of VBMI2 is in block_avx512vbmi.c alone. */
#ifndef PS_KERNELS_BLOCK_VEC_AVX512_H
#define PS_KERNELS_BLOCK_VEC_AVX512_H
#ifdef __AVX512BW__
#include "kernels/codec/block_vec_avx2.h"

static inline void merge_leaves_avx512(uint8_t *out, const uint8_t *bits, size_t n, uint8_t zero,
                                       uint8_t one)
{
    const __m512i zeros = _mm512_set1_epi8((char)zero), ones = _mm512_set1_epi8((char)one);
    for (size_t i = 0; i < n; i += 64)
        _mm512_storeu_si512(out + i, _mm512_mask_mov_epi8(zeros, ps_wh_word(bits + i / 8), ones));
}

/* 64 exponents of codes of 3 bits. */
static inline __m512i short_exponents(uint64_t a, uint64_t b, uint64_t c, const uint8_t *book)
{
    const __m512i one = _mm512_set1_epi8(1), two = _mm512_set1_epi8(2), four = _mm512_set1_epi8(4);
    __m512i x = _mm512_maskz_mov_epi8(a, one);
    x = _mm512_mask_add_epi8(x, b, x, two);
    x = _mm512_mask_add_epi8(x, c, x, four);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load16(book)), x);
}

static inline __m512i nibbles64(__m256i bytes)
{
    __m512i x = _mm512_cvtepu8_epi16(bytes);
    return _mm512_and_si512(_mm512_or_si512(x, _mm512_slli_epi16(x, 4)), _mm512_set1_epi8(15));
}

/* ---- Weights from their planes ---- */

static inline __m512i load64(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}

/* 32 words with `low` in their lower bytes and `high` in their upper ones. */
static inline __m512i words32(const uint8_t *low, const uint8_t *high)
{
    __m512i a = _mm512_cvtepu8_epi16(load32(low)), b = _mm512_cvtepu8_epi16(load32(high));
    return _mm512_or_si512(a, _mm512_slli_epi16(b, 8));
}

/* bf16 numbers, or upper halves of floats, of 32 exponents and rotated bytes. */
static inline __m512i unrotated32(const uint8_t *e, const uint8_t *r)
{
    __m512i x = words32(r, e);
    return _mm512_or_si512(_mm512_srli_epi16(x, 1), _mm512_slli_epi16(x, 15));
}

static inline void join64_bf16(uint8_t *out, const uint8_t *e, const uint8_t *r)
{
    _mm512_storeu_si512(out, unrotated32(e, r));
    _mm512_storeu_si512(out + 64, unrotated32(e + 32, r + 32));
}

static inline void join64_f32(uint8_t *out, const uint8_t *e, const uint8_t *const *rest, size_t at)
{
    for (size_t i = at; i < at + 64; i += 32, out += 128) {
        __m512i high = unrotated32(e + i, rest[0] + i), low = words32(rest[2] + i, rest[1] + i);
        __m512i a = _mm512_unpacklo_epi16(low, high), b = _mm512_unpackhi_epi16(low, high);
        const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                      second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        _mm512_storeu_si512(out, _mm512_permutex2var_epi64(a, first, b));
        _mm512_storeu_si512(out + 64, _mm512_permutex2var_epi64(a, second, b));
    }
}

static inline __mmask64 mask64(const uint8_t *plane, size_t at)
{
    return ps_wh_word(plane + at / 8);
}

static inline void join64_f16(uint8_t *out, const uint8_t *e, const uint8_t *const *rest, size_t at)
{
    __m512i x = _mm512_slli_epi16(_mm512_and_si512(load64(e + at), _mm512_set1_epi8(31)), 2);
    x = _mm512_mask_add_epi8(x, mask64(rest[1], at), x, _mm512_set1_epi8(1));
    x = _mm512_mask_add_epi8(x, mask64(rest[2], at), x, _mm512_set1_epi8(2));
    x = _mm512_mask_add_epi8(x, mask64(rest[3], at), x, _mm512_set1_epi8((char)0x80));
    __m256i half[2] = {_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)};
    for (size_t k = 0; k < 2; k++) {
        __m512i high = _mm512_slli_epi16(_mm512_cvtepu8_epi16(half[k]), 8);
        __m512i low = _mm512_cvtepu8_epi16(load32(rest[0] + at + 32 * k));
        _mm512_storeu_si512(out + 64 * k, _mm512_or_si512(high, low));
    }
}

static inline void join64_f8(uint8_t *out, const uint8_t *e, const uint8_t *nibbles)
{
    __m512i x = nibbles64(load32(nibbles));
    __m512i exponent = _mm512_and_si512(load64(e), _mm512_set1_epi8(15));
    __m512i sign = _mm512_and_si512(x, _mm512_set1_epi8(8)),
            mantissa = _mm512_and_si512(x, _mm512_set1_epi8(7));
    x = _mm512_or_si512(_mm512_slli_epi16(sign, 4), _mm512_slli_epi16(exponent, 3));
    _mm512_storeu_si512(out, _mm512_or_si512(x, mantissa));
}

static inline void join_avx512(uint8_t *weights, enum ps_dtype t, const uint8_t *e,
                               const uint8_t *const rest[PS_BLOCK_MAX_REST], size_t n)
{
    size_t i = 0;
    switch (t) {
    case PS_BF16:
        for (; i + 64 <= n; i += 64)
            join64_bf16(weights + 2 * i, e + i, rest[0] + i);
        break;
    case PS_F32:
        for (; i + 64 <= n; i += 64)
            join64_f32(weights + 4 * i, e, rest, i);
        break;
    case PS_F16:
        for (; i + 64 <= n; i += 64)
            join64_f16(weights + 2 * i, e, rest, i);
        break;
    default:
        for (; i + 64 <= n; i += 64)
            join64_f8(weights + i, e + i, rest[0] + i / 2);
        break;
    }
    join_tail(weights, t, e, rest, i, n);
}
#endif
#endif
