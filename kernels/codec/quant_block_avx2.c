/* Blocks of Q8B64 and NF4B64, sixteen weights in two registers. */
#include <immintrin.h>
#include <math.h>

#include "kernels/codec/quant_costs.h"
#include "kernels/codec/quant_middles.h"
#include "kernels/codec/quant_ops.h"
#include "kernels/kernel_scalar.h"

typedef struct {
    __m256 a, b; /* lanes 0 .. 7, lanes 8 .. 15 */
} lanes;
typedef struct {
    __m256i a, b;
} ints;

static inline lanes vset(float v)
{
    return (lanes){_mm256_set1_ps(v), _mm256_set1_ps(v)};
}
static inline lanes vload(const float *p)
{
    return (lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
static inline lanes vmul(lanes x, lanes y)
{
    return (lanes){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
static inline lanes vadd(lanes x, lanes y)
{
    return (lanes){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
static inline lanes vsub(lanes x, lanes y)
{
    return (lanes){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
static inline lanes vdiv(lanes x, lanes y)
{
    return (lanes){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
static inline lanes vmaxabs(lanes max, lanes x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (lanes){_mm256_max_ps(max.a, _mm256_andnot_ps(sign, x.a)),
                   _mm256_max_ps(max.b, _mm256_andnot_ps(sign, x.b))};
}
static inline lanes vround(lanes x)
{
    return (lanes){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                   _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline lanes vclamp(lanes x, float least, float most)
{
    const __m256 lo = _mm256_set1_ps(least), hi = _mm256_set1_ps(most);
    return (lanes){_mm256_min_ps(_mm256_max_ps(x.a, lo), hi),
                   _mm256_min_ps(_mm256_max_ps(x.b, lo), hi)};
}
static inline float vfold(lanes x)
{
    __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
static inline float vmost(lanes x)
{
    __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

/* Two times q, and one more where y is above. */
static inline __m256i twice_and(__m256i q, __m256 y, __m256 middle)
{
    __m256i above = _mm256_castps_si256(_mm256_cmp_ps(y, middle, _CMP_GT_OQ));
    return _mm256_sub_epi32(_mm256_add_epi32(q, q), above);
}
/* Halving: eight middles fit a register, so the first two steps need no look-up by lane. */
static inline __m256i search8(__m256 y)
{
    const __m256 third =
        _mm256_setr_ps(nf4_middles[1], nf4_middles[5], nf4_middles[9], nf4_middles[13], 0, 0, 0, 0);
    const __m256 last =
        _mm256_setr_ps(nf4_middles[0], nf4_middles[2], nf4_middles[4], nf4_middles[6],
                       nf4_middles[8], nf4_middles[10], nf4_middles[12], nf4_middles[14]);
    __m256 above = _mm256_cmp_ps(y, _mm256_set1_ps(nf4_middles[7]), _CMP_GT_OQ);
    __m256i q = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_castps_si256(above));
    q = twice_and(q, y,
                  _mm256_blendv_ps(_mm256_set1_ps(nf4_middles[3]), _mm256_set1_ps(nf4_middles[11]),
                                   above));
    q = twice_and(q, y, _mm256_permutevar8x32_ps(third, q));
    return twice_and(q, y, _mm256_permutevar8x32_ps(last, q));
}
static inline ints vsearch(lanes y)
{
    return (ints){search8(y.a), search8(y.b)};
}
static inline __m256 values8(__m256i q)
{
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(ps_nf4_values), q);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(ps_nf4_values + 8), q);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(q, 28)));
}
static inline lanes vvalues(ints q)
{
    return (lanes){values8(q.a), values8(q.b)};
}
static inline ints vints(lanes x)
{
    return (ints){_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
static inline void vbytes(uint8_t *out, ints q)
{
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(q.a, q.b), 0xd8);
    _mm_storeu_si128((__m128i *)(void *)out, _mm_packs_epi16(_mm256_castsi256_si128(words),
                                                             _mm256_extracti128_si256(words, 1)));
}
static inline void vhalves(uint16_t *out, lanes x)
{
    _mm_storeu_si128((__m128i *)(void *)out,
                     _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(void *)(out + 8),
                     _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vcosts(uint16_t sums[PS_NF4_SCALES], const uint8_t at[PS_QUANT_BLOCK],
                          const struct ps_nf4_costs *costs)
{
    __m256i a = _mm256_setzero_si256(), b = a;
    for (size_t i = 0; i < PS_QUANT_BLOCK; i++) {
        const __m256i *row = (const __m256i *)(const void *)costs->of[at[i]];
        a = _mm256_adds_epu16(a, _mm256_load_si256(row));
        b = _mm256_adds_epu16(b, _mm256_load_si256(row + 1));
    }
    _mm256_storeu_si256((__m256i *)(void *)sums, a);
    _mm256_storeu_si256((__m256i *)(void *)(sums + 16), b);
}
static inline __m256 widen8(enum ps_dtype t, const uint8_t *weights)
{
    if (t == PS_F32)
        return _mm256_loadu_ps((const float *)(const void *)weights);
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)weights);
    return t == PS_F16 ? _mm256_cvtph_ps(h)
                       : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline void vwiden(float *out, enum ps_dtype t, const uint8_t *weights)
{
    _mm256_storeu_ps(out, widen8(t, weights));
    _mm256_storeu_ps(out + 8, widen8(t, weights + (t == PS_F32 ? 32 : 16)));
}

#include "kernels/codec/quant_block_impl.h"

extern const struct ps_quant_ops ps_quant_ops_avx2;
QUANT_TABLE(ps_quant_ops_avx2, "avx2");
