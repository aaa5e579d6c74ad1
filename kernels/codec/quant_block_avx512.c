/* Blocks of Q8B64 and NF4B64, sixteen weights in a register. */
#include <immintrin.h>
#include <math.h>

#include "kernels/codec/quant_costs.h"
#include "kernels/codec/quant_middles.h"
#include "kernels/codec/quant_ops.h"
#include "kernels/kernel_scalar.h"

typedef __m512 lanes;
typedef __m512i ints;

#define vset  _mm512_set1_ps
#define vload _mm512_loadu_ps
#define vmul  _mm512_mul_ps
#define vadd  _mm512_add_ps
#define vsub  _mm512_sub_ps
#define vdiv  _mm512_div_ps

static inline lanes vmaxabs(lanes max, lanes x)
{
    return _mm512_max_ps(max, _mm512_abs_ps(x));
}
static inline lanes vround(lanes a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline lanes vclamp(lanes a, float least, float most)
{
    return _mm512_min_ps(_mm512_max_ps(a, _mm512_set1_ps(least)), _mm512_set1_ps(most));
}
static inline __m256 upper(lanes a)
{
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
}
static inline float vfold(lanes a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), upper(a));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
static inline float vmost(lanes a)
{
    return _mm512_reduce_max_ps(a);
}
/* Halving: the next middle to compare with is looked up by what is known. */
static inline ints vsearch(lanes y)
{
    const lanes m = _mm512_loadu_ps(nf4_middles);
    ints q = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(y, vset(nf4_middles[7]), _CMP_GT_OQ), 8);
    lanes at = _mm512_permutexvar_ps(_mm512_or_si512(q, _mm512_set1_epi32(3)), m);
    q = _mm512_mask_or_epi32(q, _mm512_cmp_ps_mask(y, at, _CMP_GT_OQ), q, _mm512_set1_epi32(4));
    at = _mm512_permutexvar_ps(_mm512_or_si512(q, _mm512_set1_epi32(1)), m);
    q = _mm512_mask_or_epi32(q, _mm512_cmp_ps_mask(y, at, _CMP_GT_OQ), q, _mm512_set1_epi32(2));
    at = _mm512_permutexvar_ps(q, m);
    return _mm512_mask_or_epi32(q, _mm512_cmp_ps_mask(y, at, _CMP_GT_OQ), q, _mm512_set1_epi32(1));
}
static inline lanes vvalues(ints q)
{
    return _mm512_permutexvar_ps(q, _mm512_loadu_ps(ps_nf4_values));
}
#define vints _mm512_cvtps_epi32
static inline void vbytes(uint8_t *out, ints q)
{
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8(q));
}
static inline void vhalves(uint16_t *out, lanes a)
{
    _mm256_storeu_si256((__m256i *)(void *)out,
                        _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vcosts(uint16_t sums[PS_NF4_SCALES], const uint8_t at[PS_QUANT_BLOCK],
                          const struct ps_nf4_costs *costs)
{
    __m512i a = _mm512_setzero_si512(), b = a;
    for (size_t i = 0; i < PS_QUANT_BLOCK; i += 2) {
        a = _mm512_adds_epu16(a, _mm512_load_si512(costs->of[at[i]]));
        b = _mm512_adds_epu16(b, _mm512_load_si512(costs->of[at[i + 1]]));
    }
    _mm512_storeu_si512(sums, _mm512_adds_epu16(a, b));
}
static inline void vwiden(float *out, enum ps_dtype t, const uint8_t *weights)
{
    lanes a;
    if (t == PS_F32) {
        a = _mm512_loadu_ps(weights);
    } else {
        __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)weights);
        a = t == PS_F16 ? _mm512_cvtph_ps(h)
                        : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
    }
    _mm512_storeu_ps(out, a);
}

#include "kernels/codec/quant_block_impl.h"

extern const struct ps_quant_ops ps_quant_ops_avx512;
QUANT_TABLE(ps_quant_ops_avx512, "avx512");
