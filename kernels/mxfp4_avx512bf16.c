/* MXFP4 for vdpbf16ps: what quant_impl.h asks for, with values as bf16, of which one look-up gives 32. The values are
 * exact in bf16, the activations hi + lo halves as for bf16 weights (bf16_avx512bf16.c): the same precision, half the
 * instructions before the products.
 *
 * Order of additions within a group: for each of its four vectors the pairs of words with the hi halves, then with the
 * lo halves. */
#include "kernels/vec_avx512.h"

#include "kernels/dots_avx512.h"
#include "kernels/quant_avx512bf16.h"
#include "kernels/quant_avx512_scale.h"

#define Q_VECS_MOST 4
#define Q_VECS(t)   4

/* A word holds four codes, vector i takes the i-th. A look-up minds five bits, so the table stands there twice. */
MM_INLINE void q_load(q_vec *w, enum ps_dtype t, const uint8_t *p, int group)
{
    __m512i values = _mm512_castps_si512(v_load(ps_e2m1_values));
    __m256i once = _mm512_cvtepi32_epi16(_mm512_srli_epi32(values, 16));
    const __m512i table = _mm512_broadcast_i64x4(once);
    __m512i codes = _mm512_loadu_si512(p);
    (void)t, (void)group;
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        w[i] = (__m512bh)_mm512_permutexvar_epi16(i ? _mm512_srli_epi16(codes, (unsigned)(4 * i))
                                                    : codes,
                                                  table);
}

/* The element that comes out as number j: word j % 32 of vector j / 32. */
MM_INLINE size_t q_place(enum ps_dtype t, size_t j)
{
    size_t i = j / 32, word = j % 32;
    return q_nibble_at(t, word * 2 + i / 2, i % 2);
}

#define Q_SET_CLASS
#include "kernels/quant_impl.h"

Q_KERNELS(ps_mxfp4_avx512bf16, PS_MXFP4)

void ps_mxfp4_pack_avx512bf16(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to)
{
    q_pack_columns(act, t0, t1, to);
}
