/* F8_E4M3 for vdpbf16ps: what quant_impl.h asks for. Every e4m3 is a bf16, of which two look-ups among 128 bytes
 * give the halves of 64; activations as hi + lo halves (bf16_avx512bf16.c). Half the instructions of the way over
 * float16.
 *
 * Order of additions within a block of 64: the pairs of words of either vector with the hi halves, then with the
 * lo ones; a vector holds eight elements of each sixteen. */
#include "kernels/vec_avx512.h"

#include "kernels/dots_avx512.h"
#include "kernels/quant_avx512bf16.h"
#include "kernels/quant_order.h"

#define Q_VECS_MOST 2
#define Q_VECS(t)   2

/* bf16 of e4m3 without its sign: denormals by hand, the others have the same mantissa and another bias. */
#define BITS(m)                                                                                    \
    ((m) == 127 ? 0x7fc0                                                                           \
     : (m) >= 8 ? ((m) << 4) + 0x3c00                                                              \
     : (m) == 0 ? 0                                                                                \
     : (m) == 1 ? 0x3b00                                                                           \
     : (m) < 4  ? 0x3b00 + 0x40 * (m)                                                              \
                : 0x3c00 + 0x20 * ((m)-4))
#define LOW(m)     (BITS(m) & 255)
#define HIGH(m)    (BITS(m) >> 8)
#define FOUR(f, m) f(m), f((m) + 1), f((m) + 2), f((m) + 3)
#define SOME(f, m) FOUR(f, m), FOUR(f, (m) + 4), FOUR(f, (m) + 8), FOUR(f, (m) + 12)
#define TABLE(f)                                                                                   \
    {                                                                                              \
        SOME(f, 0), SOME(f, 16), SOME(f, 32), SOME(f, 48), SOME(f, 64), SOME(f, 80), SOME(f, 96),  \
            SOME(f, 112)                                                                           \
    }
static const uint8_t low_bytes[128] = TABLE(LOW), high_bytes[128] = TABLE(HIGH);

MM_INLINE __m512i look_up(__m512i codes, const uint8_t *table)
{
    return _mm512_permutex2var_epi8(_mm512_loadu_si512(table), codes, _mm512_loadu_si512(table + 64));
}

MM_INLINE void q_load(q_vec *w, enum ps_dtype t, const uint8_t *p, int group)
{
    const __m512i sign = _mm512_set1_epi8((char)0x80);
    __m512i codes = _mm512_loadu_si512(p);
    __m512i low = look_up(codes, low_bytes), high = look_up(codes, high_bytes);
    (void)t, (void)group;
    high = _mm512_ternarylogic_epi32(high, codes, sign, 0xf8); /* high | (codes & sign) */
    w[0] = (__m512bh)_mm512_unpacklo_epi8(low, high);
    w[1] = (__m512bh)_mm512_unpackhi_epi8(low, high);
}

MM_INLINE vf q_scale(enum ps_dtype t, const uint8_t *p, int group)
{
    (void)t, (void)group;
    return v_set1(p ? ps_load_f32(p) : 1.0f);
}

/* The element that comes out as number j: word j % 32 of vector j / 32. */
MM_INLINE size_t q_place(enum ps_dtype t, size_t j)
{
    size_t word = j % 32;
    (void)t;
    return word / 8 * 16 + j / 32 * 8 + word % 8;
}

#define Q_SET_CLASS
#include "kernels/quant_impl.h"

Q_KERNELS(ps_f8_avx512bf16vbmi, PS_F8_E4M3)

void ps_f8_pack_avx512bf16vbmi(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to)
{
    q_pack_columns(act, t0, t1, to);
}
