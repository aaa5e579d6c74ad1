/* Eight floats at once: the names of vec_avx512.h said in AVX2, FMA and F16C. AVX2 can't mask 16-bit loads; such
 * tails go through a small zeroed buffer. */
#ifndef PS_KERNELS_VEC_AVX2_H
#define PS_KERNELS_VEC_AVX2_H
#ifdef __AVX2__
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VW 8
typedef __m256 vf;

static inline __m256i v_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline vf v_load_n(const float *p, size_t n)
{
    return _mm256_maskload_ps(p, v_mask(n));
}

static inline void v_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}

static inline void v_store_n(float *p, vf v, size_t n)
{
    _mm256_maskstore_ps(p, v_mask(n), v);
}

static inline vf v_widen_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline vf v_load_bf16(const uint8_t *p)
{
    return v_widen_bf16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vf v_load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vf v_load_f32(const uint8_t *p)
{
    return _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vf v_load_bf16_n(const uint8_t *p, size_t n)
{
    uint8_t b[16] = {0};
    memcpy(b, p, 2 * n);
    return v_load_bf16(b);
}

static inline vf v_load_f16_n(const uint8_t *p, size_t n)
{
    uint8_t b[16] = {0};
    memcpy(b, p, 2 * n);
    return v_load_f16(b);
}

static inline vf v_load_f32_n(const uint8_t *p, size_t n)
{
    uint8_t b[32] = {0};
    memcpy(b, p, 4 * n);
    return v_load_f32(b);
}

static inline vf v_set1(float f)
{
    return _mm256_set1_ps(f);
}

static inline vf v_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vf v_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}

static inline vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

static inline vf v_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

static inline vf v_copysign(vf mag, vf sgn)
{
    const vf top = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(top, mag), _mm256_and_ps(top, sgn));
}

static inline vf v_select_lt(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

static inline vf v_keep_range(vf v, int base, int lo, int hi, vf other)
{
    __m256i i = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(base));
    __m256i out = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lo), i),
                                  _mm256_cmpgt_epi32(i, _mm256_set1_epi32(hi - 1)));
    return _mm256_blendv_ps(v, other, _mm256_castsi256_ps(out));
}

static inline vf v_round(vf v)
{
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* In two halves, because 2^n alone may lie outside the normal numbers. |n| < 250. */
static inline vf v_scale2(vf v, vf n)
{
    __m256i i = _mm256_cvtps_epi32(n), h = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
    __m256i p = _mm256_slli_epi32(_mm256_add_epi32(h, bias), 23);
    __m256i q = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, h), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(v, _mm256_castsi256_ps(p)), _mm256_castsi256_ps(q));
}

/* Sum of the lanes in one order: i with i+4, then i+2, i+1. */
static inline float v_sum(vf v)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

static inline __m128 v_sum4(vf a, vf b, vf c, vf d)
{
    vf ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    vf cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    vf v = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    v = _mm256_add_ps(v, _mm256_permute_ps(v, 0xb1)); /* low half a.c., high half b.d. */
    const __m256i first = _mm256_setr_epi32(0, 4, 2, 6, 0, 4, 2, 6);
    return _mm256_castps256_ps128(_mm256_permutevar8x32_ps(v, first));
}

static inline float v_max_lane(vf v)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

static inline void v_transpose(vf m[8])
{
    vf a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_ps(m[2 * i], m[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(m[2 * i], m[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            vf x = a[4 * i + j], y = a[4 * i + 2 + j];
            b[4 * i + 2 * j] = _mm256_shuffle_ps(x, y, 0x44);
            b[4 * i + 2 * j + 1] = _mm256_shuffle_ps(x, y, 0xee);
        }
    for (int j = 0; j < 4; j++) { /* b[4i+j]: 128-bit lane l holds columns 4l+j of rows 4i..4i+3 */
        m[j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x20);
        m[4 + j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x31);
    }
}
#endif
#endif
