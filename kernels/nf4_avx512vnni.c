/* NF4B64 by vpdpwssd, which adds two products of int16 to an int32 per lane. A part of the backend in
 * dots_avx512.c.
 *
 * Values are whole multiples of 2^-11, of which one look-up gives 32. The activations of each lane (eight, for 128
 * codes) are fixed-point numbers of 16 bits under a scale that is a power of two: half the products that hi + lo
 * halves of bf16 take, and products bind here. What is rounded is at most 2^-15 of the largest of the eight:
 * measured relative rms error of a product of 4096 2e-5 (hi + lo halves 2e-6, f32 FMA 2e-7; the codes themselves
 * are 8e-2 from their weights). Eight and not 64, because an activation that is far larger than its neighbours is
 * no rarity. A lane's sum is at most 8 * 2^11 * 2^15 < 2^31: exact, in whatever order.
 *
 * Order of additions: lane l of a sum's accumulator takes, for each 128 codes, the exact sum of what quant_order.h
 * puts into bytes 4l .. 4l + 3, rounded to float32, times the scale of its activations (exact), times that of the
 * weights by one FMA; then v_sum's tree, then the factor. A lane's activations of which one is not finite make the
 * sum a NaN.
 *
 * Packed activations: for each 128 elements, per column the scales of the 16 lanes (float32), then four times 32
 * words in the order in which the codes come out. */
#include "kernels/vec_avx512.h"

#include "kernels/dots_avx512.h"
#include "kernels/quant_order.h"

#define GROUP       128 /* codes of 64 bytes, of two blocks */
#define GROUP_BYTES (64 + 2 * GROUP)
#define GROUPS      8 /* of which the scales fill a register */
#define STEP        (GROUP * GROUPS)
#define VECS        4
#define NF4_SIDE    2 /* rows of one column side by side: they share what is read of the activations */
#define UNIT        0x1p-11f

/* A look-up minds five bits, so the table stands there twice. */
MM_INLINE __m512i table_of_values(void)
{
    __m512i whole = _mm512_cvtps_epi32(v_mul(v_load(ps_nf4_values), v_set1(1 / UNIT)));
    return _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(whole));
}

/* A word holds four codes, vector i takes the i-th. */
MM_INLINE void look_up(__m512i *w, __m512i table, const uint8_t *p)
{
    __m512i codes = _mm512_loadu_si512(p);
    w[0] = _mm512_permutexvar_epi16(codes, table);
    w[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), table);
    w[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), table);
    w[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 12), table);
}

/* The scales of some rows for GROUPS groups: of each group four floats, first, first, second, second block, as the
 * lanes of any 128 bits want them; of the groups with even numbers, then of the odd ones. */
struct scales {
    _Alignas(64) float of[MM_ROWS][2][2 * GROUPS];
};

MM_INLINE void scales_at(struct scales *s, const uint8_t *rows, size_t stride, size_t blocks, int R)
{
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        vf v = v_load_f16_n(rows + (size_t)r * stride, blocks);
        v_store(s->of[r][0], _mm512_unpacklo_ps(v, v));
        v_store(s->of[r][1], _mm512_unpackhi_ps(v, v));
    }
}

MM_INLINE vf scale_of(const struct scales *s, int r, size_t group)
{
    return _mm512_broadcast_f32x4(_mm_load_ps(s->of[r][group % 2] + group / 2 * 4));
}

/* Group g of the P rows from r0 on and all columns. */
MM_INLINE void multiply(vf (*acc)[MM_ROWS], const struct scales *s, __m512i table, size_t g,
                        const uint8_t *codes, size_t stride, const uint8_t *a, int r0, int P, int C)
{
    __m512i w[NF4_SIDE][VECS], sum[NF4_SIDE];
#pragma GCC unroll 2
    for (int r = 0; r < P; r++)
        look_up(w[r], table, codes + (size_t)(r0 + r) * stride);
#pragma GCC unroll 4
    for (int c = 0; c < C; c++, a += GROUP_BYTES) {
#pragma GCC unroll 4
        for (int i = 0; i < VECS; i++) {
            __m512i x = _mm512_loadu_si512(a + 64 + i * 64);
#pragma GCC unroll 2
            for (int r = 0; r < P; r++)
                sum[r] = _mm512_dpwssd_epi32(i ? sum[r] : _mm512_setzero_si512(), w[r][i], x);
        }
#pragma GCC unroll 2
        for (int r = 0; r < P; r++)
            acc[c][r0 + r] = v_fma(v_mul(_mm512_cvtepi32_ps(sum[r]), v_load_f32(a)),
                                   scale_of(s, r0 + r, g), acc[c][r0 + r]);
    }
}

MM_INLINE void dot(const struct ps_micro *m, int R, int C)
{
    const int P = C == 1 && R > 1 ? NF4_SIDE : 1; /* with more columns registers run out */
    const size_t stride = m->row_stride;
    const __m512i table = table_of_values();
    const uint8_t *a = m->a, *rows = (const uint8_t *)m->matrix->data + m->row * stride +
                                     ps_quant_code_bytes(PS_NF4B64, m->matrix->K);
    struct scales s;
    vf acc[MM_COLS][MM_ROWS];
    mm_begin(m, acc, R, C);
    q_ahead_scales(m, PS_NF4B64);
    for (size_t k = 0; k < m->K; k += STEP) {
        size_t left = ps_min_size(STEP, m->K - k);
        scales_at(&s, rows + (m->k0 + k) / PS_QUANT_BLOCK * 2, stride,
                  ps_div_up(left, PS_QUANT_BLOCK), R);
        for (size_t g = 0; g * GROUP < left; g++, a += C * GROUP_BYTES) {
            const uint8_t *codes = m->w + k / 2 + g * Q_CODES;
            mm_ahead(m, k / 2 + g * Q_CODES);
#pragma GCC unroll 4
            for (int r = 0; r < R; r += P)
                multiply(acc, &s, table, g, codes, stride, a, r, P, C);
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; c++)
        q_finish(m, acc[c], (size_t)c, R);
}

Q_DOT_KERNELS(ps_nf4_avx512vnni, GROUP, GROUP_BYTES)

/* What a whole number of a lane's activations is worth where the largest has these bits: a power of two that leaves 15
 * bits before the point, after rounding to the nearest (which may carry: 2^8 is half a unit). Below 2^-80 they are
 * multiples of 2^-94. */
static vf scales_for(__m512i largest)
{
    __m512i e = _mm512_srli_epi32(_mm512_add_epi32(largest, _mm512_set1_epi32(1 << 8)), 23);
    e = _mm512_sub_epi32(_mm512_max_epi32(e, _mm512_set1_epi32(127 - 80)), _mm512_set1_epi32(14));
    __mmask16 bad = _mm512_cmpge_epi32_mask(largest, _mm512_set1_epi32(0x7f800000));
    return _mm512_castsi512_ps(
        _mm512_mask_mov_epi32(_mm512_slli_epi32(e, 23), bad, _mm512_set1_epi32(0x7fc00000)));
}

/* Of powers of two; of a NaN some number. */
static vf inverse(vf power)
{
    return _mm512_castsi512_ps(
        _mm512_sub_epi32(_mm512_set1_epi32(254 << 23), _mm512_castps_si512(power)));
}

/* Float i of the four neighbours in either half of a block that a lane takes: two lanes take eight elements of the
 * first block, the next two of the second (quant_order.h). half: 32 elements of each. */
MM_INLINE vf of_lanes(const vf *first_half, const vf *second_half, int i)
{
    const __m512i eight = _mm512_setr_epi32(0, 4, 16, 20, 8, 12, 24, 28, 0, 4, 16, 20, 8, 12, 24, 28);
    __m512i at = _mm512_add_epi32(eight, _mm512_set1_epi32(i));
    return _mm512_shuffle_f32x4(_mm512_permutex2var_ps(first_half[0], at, second_half[0]),
                                _mm512_permutex2var_ps(first_half[1], at, second_half[1]), 0x44);
}

/* n activations, zeros behind them. */
static void pack_group(const float *a, size_t n, uint8_t *to)
{
    vf in[8], x[2][4]; /* x[nibble][i]: of each lane */
    __m512i largest = _mm512_setzero_si512();
    for (size_t i = 0; i < 8; i++) {
        size_t from = ps_min_size(n, i * VW);
        in[i] = v_load_n(a + from, ps_min_size(n - from, VW));
    }
#pragma GCC unroll 2
    for (int nibble = 0; nibble < 2; nibble++)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            x[nibble][i] = of_lanes(in + 2 * nibble, in + 4 + 2 * nibble, i);
            largest = _mm512_max_epi32(largest, _mm512_castps_si512(v_abs(x[nibble][i])));
        }
    vf scale = scales_for(largest), per_scale = inverse(scale);
    v_store((float *)(void *)to, v_mul(scale, v_set1(UNIT)));
    /* bytes of a lane are codes of elements 0 .. 3, those of vector v are 0 and 2, or 1 and 3 */
#pragma GCC unroll 4
    for (int v = 0; v < VECS; v++) {
        __m512i even = _mm512_cvtps_epi32(v_mul(x[v % 2][v / 2], per_scale));
        __m512i odd = _mm512_cvtps_epi32(v_mul(x[v % 2][v / 2 + 2], per_scale));
        __m512i words = _mm512_mask_blend_epi16(0xaaaaaaaa, even, _mm512_slli_epi32(odd, 16));
        _mm512_storeu_si512(to + 64 + v * 64, words);
    }
}

void ps_nf4_pack_avx512vnni(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to)
{
    for (size_t k = 0; k < act->K; k += GROUP)
        for (size_t t = t0; t < t1; t++, to += GROUP_BYTES)
            pack_group(act->a + t * act->lda + k, act->K - k, to);
}
