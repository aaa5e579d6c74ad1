/* Sixteen floats at once: the names in which ops_impl.h, attention_impl.h and matmul_impl.h are written, said in
 * AVX-512. Each operation is lane-wise or has one fixed order, so a lane's result never depends on where in the
 * vector it lies. */
#ifndef PS_KERNELS_VEC_AVX512_H
#define PS_KERNELS_VEC_AVX512_H
#ifdef __AVX512F__
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define VW 16
typedef __m512 vf;

/* n in [0, 16]; lanes from n on are neither read nor written, and load as zero. */
static inline __mmask16 v_mask(size_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

static inline vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline vf v_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(v_mask(n), p);
}

static inline void v_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

static inline void v_store_n(float *p, vf v, size_t n)
{
    _mm512_mask_storeu_ps(p, v_mask(n), v);
}

static inline vf v_widen_bf16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* 16-bit and f32 elements at any byte address. */
static inline vf v_load_bf16(const uint8_t *p)
{
    return v_widen_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vf v_load_bf16_n(const uint8_t *p, size_t n)
{
    return v_widen_bf16(_mm256_maskz_loadu_epi16(v_mask(n), p));
}

static inline vf v_load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vf v_load_f16_n(const uint8_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_mask(n), p));
}

static inline vf v_load_f32(const uint8_t *p)
{
    return _mm512_loadu_ps(p);
}

static inline vf v_load_f32_n(const uint8_t *p, size_t n)
{
    return _mm512_maskz_loadu_ps(v_mask(n), p);
}

static inline vf v_set1(float f)
{
    return _mm512_set1_ps(f);
}

static inline vf v_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c, rounded once */
static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* c - a * b, rounded once */
static inline vf v_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

/* If either is a NaN, the result is b. */
static inline vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

static inline vf v_abs(vf a)
{
    return _mm512_abs_ps(a);
}

/* |mag| with the sign of sgn */
static inline vf v_copysign(vf mag, vf sgn)
{
    const __m512i top = _mm512_set1_epi32(INT32_MIN);
    return _mm512_castsi512_ps(_mm512_or_epi32(_mm512_andnot_epi32(top, _mm512_castps_si512(mag)),
                                               _mm512_and_epi32(top, _mm512_castps_si512(sgn))));
}

/* a < b ? x : y */
static inline vf v_select_lt(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

/* Lanes whose number (from `base` on) is in [lo, hi) keep v, the others get `other`. */
static inline vf v_keep_range(vf v, int base, int lo, int hi, vf other)
{
    __m512i i =
        _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(base));
    __mmask16 in = _mm512_cmpge_epi32_mask(i, _mm512_set1_epi32(lo)) &
                   _mm512_cmplt_epi32_mask(i, _mm512_set1_epi32(hi));
    return _mm512_mask_blend_ps(in, other, v);
}

static inline vf v_round(vf v)
{
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* v * 2^n for integral n */
static inline vf v_scale2(vf v, vf n)
{
    return _mm512_scalef_ps(v, n);
}

/* Sum of the lanes in one order: i with i+8, then i+4, i+2, i+1. v_sum4 gives the same bits for each of four. */
static inline float v_sum(vf v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v),
                             _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

static inline __m128 v_sum4(vf a, vf b, vf c, vf d)
{
    vf ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    vf cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    vf v = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e));
    v = _mm512_add_ps(v, _mm512_permute_ps(v, 0xb1));
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(first, v));
}

static inline float v_max_lane(vf v)
{
    return _mm512_reduce_max_ps(v);
}

/* m[i] lane j becomes m[j] lane i */
static inline void v_transpose(vf m[16])
{
    vf a[16], b[16];
    for (int i = 0; i < 8; i++) {
        a[2 * i] = _mm512_unpacklo_ps(m[2 * i], m[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps(m[2 * i], m[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            __m512d x = _mm512_castps_pd(a[4 * i + j]), y = _mm512_castps_pd(a[4 * i + 2 + j]);
            b[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            b[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    for (int j = 0; j < 4; j++) { /* b[4i+j]: 128-bit lane l holds columns 4l+j of rows 4i..4i+3 */
        vf p = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88);
        vf q = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
        vf r = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
        vf s = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
        m[j] = _mm512_shuffle_f32x4(p, r, 0x88);
        m[4 + j] = _mm512_shuffle_f32x4(q, s, 0x88);
        m[8 + j] = _mm512_shuffle_f32x4(p, r, 0xdd);
        m[12 + j] = _mm512_shuffle_f32x4(q, s, 0xdd);
    }
}
#endif
#endif
