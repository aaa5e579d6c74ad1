/* Q8B64 by vpdpbusd, which adds four products of an unsigned and a signed byte to an int32 per lane: no conversion
 * of weights, and one of sums per block. A part of the backend in dots_avx512.c.
 *
 * The activations of a block are fixed-point numbers of 23 bits, under a scale that is a power of two: X = 2^16 D2
 * + 2^8 D1 + D0, D2 a signed byte, D1 and D0 unsigned ones. Only D2 wants its partner unsigned, so it meets code +
 * 128; the packed activations hold what makes up for that. A lane's sum of four products is at most 4 * 128 *
 * (2^22 - 1) < 2^31: exact, in whatever order. Measured error of a product of 4096: relative rms 3.4e-7, at most
 * 1.1e-6 of the root of the sum of squared terms (by f32 FMA 1.6e-7 and 6.6e-7).
 *
 * Order of additions: lane l of a sum's accumulator takes, block by block, the exact sum of codes times X of the
 * elements 4l .. 4l + 3, rounded to float32, times both scales by one FMA; then v_sum's tree, then the factor. The
 * product of the scales is exact. A block of activations of which one is not finite makes the sum a NaN.
 *
 * Packed activations: for each 16 blocks, per column their 16 scales (float32), then for each block 64 bytes of
 * what a lane's sum starts with (int32) and 64 of D2, of D1 and of D0. */
#include "kernels/vec_avx512.h"

#include <math.h>

#include "kernels/dots_avx512.h"
#include "kernels/quant_order.h"

#define BLOCK       64
#define BLOCKS      16 /* of which the scales fill a register */
#define STEP        (BLOCK * BLOCKS)
#define BLOCK_BYTES 256
#define STEP_BYTES  (64 + BLOCKS * BLOCK_BYTES)
#define Q8_SIDE     4 /* rows side by side: their sums' steps have to wait for one another */

/* Products of the scales of some rows with those of the columns, for BLOCKS blocks. */
struct scales {
    _Alignas(64) float of[Q_DOT_COLS][MM_ROWS][BLOCKS];
};

MM_INLINE void scales_at(struct scales *s, const uint8_t *rows, size_t stride, const uint8_t *a,
                         size_t n, int R, int C)
{
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        vf of_row = v_load_f16_n(rows + (size_t)r * stride, n);
#pragma GCC unroll 4
        for (int c = 0; c < C; c++)
            v_store(s->of[c][r], v_mul(of_row, v_load_f32(a + c * STEP_BYTES)));
    }
}

/* Block b of the P rows from r0 on and all columns. */
MM_INLINE void block(vf (*acc)[MM_ROWS], const struct scales *s, size_t b, const uint8_t *codes,
                     size_t stride, const uint8_t *a, int r0, int P, int C)
{
    __m512i w[Q8_SIDE], plus_128[Q8_SIDE], sum[Q8_SIDE];
#pragma GCC unroll 4
    for (int r = 0; r < P; r++) {
        w[r] = _mm512_loadu_si512(codes + (size_t)(r0 + r) * stride);
        plus_128[r] = _mm512_xor_si512(w[r], _mm512_set1_epi8((char)0x80));
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; c++, a += STEP_BYTES) {
        __m512i start = _mm512_loadu_si512(a), d2 = _mm512_loadu_si512(a + 64);
        __m512i d1 = _mm512_loadu_si512(a + 128), d0 = _mm512_loadu_si512(a + 192);
#pragma GCC unroll 4
        for (int r = 0; r < P; r++)
            sum[r] = _mm512_dpbusd_epi32(start, plus_128[r], d2);
#pragma GCC unroll 4
        for (int r = 0; r < P; r++)
            sum[r] = _mm512_dpbusd_epi32(_mm512_slli_epi32(sum[r], 8), d1, w[r]);
#pragma GCC unroll 4
        for (int r = 0; r < P; r++)
            sum[r] = _mm512_dpbusd_epi32(_mm512_slli_epi32(sum[r], 8), d0, w[r]);
#pragma GCC unroll 4
        for (int r = 0; r < P; r++)
            acc[c][r0 + r] =
                v_fma(_mm512_cvtepi32_ps(sum[r]), v_set1(s->of[c][r0 + r][b]), acc[c][r0 + r]);
    }
}

MM_INLINE void dot(const struct ps_micro *m, int R, int C)
{
    const int P = R < Q8_SIDE ? R : Q8_SIDE;
    const size_t stride = m->row_stride, code_bytes = ps_quant_code_bytes(PS_Q8B64, m->matrix->K);
    const uint8_t *a = m->a, *row_scales = m->w + code_bytes - m->k0 + m->k0 / BLOCK * 2;
    struct scales s;
    vf acc[MM_COLS][MM_ROWS];
    mm_begin(m, acc, R, C);
    q_ahead_scales(m, PS_Q8B64);
    for (size_t k = 0; k < m->K; k += STEP, a += C * STEP_BYTES) {
        size_t n = ps_min_size(BLOCKS, ps_div_up(m->K - k, BLOCK));
        scales_at(&s, row_scales + k / BLOCK * 2, stride, a, n, R, C);
        for (size_t b = 0; b < n; b++) {
            mm_ahead(m, k + b * BLOCK);
#pragma GCC unroll 2
            for (int r = 0; r < R; r += P)
                block(acc, &s, b, m->w + k + b * BLOCK, stride, a + 64 + b * BLOCK_BYTES, r, P, C);
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < C; c++)
        q_finish(m, acc[c], (size_t)c, R);
}

Q_DOT_KERNELS(ps_q8_avx512vnni, STEP, STEP_BYTES)

/* The scale of a block whose largest magnitude has these bits: it leaves 22 bits before the point, after rounding to
 * the nearest integer (which may carry: 2 is half a unit). Never so small that its product with a float16 would be
 * rounded: blocks below 2^-79 keep multiples of 2^-100. */
static float scale_for(uint32_t largest)
{
    size_t exponent = ps_max_size((largest + 2) >> 23, 127 - 79);
    return largest >= 0x7f800000 ? NAN : ps_bits_f32((uint32_t)(exponent - 21) << 23);
}

/* The first n elements at a, the others zero; returns the scale. */
static float pack_one(uint8_t *to, const float *a, size_t n)
{
    const __m512i magnitude = _mm512_set1_epi32(INT32_MAX);
    __m512i largest = _mm512_setzero_si512();
    vf x[4];
    for (size_t i = 0; i < 4; i++) {
        size_t from = ps_min_size(n, i * VW);
        x[i] = v_load_n(a + from, ps_min_size(n - from, VW));
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(x[i]), magnitude));
    }
    float scale = scale_for((uint32_t)_mm512_reduce_max_epi32(largest));
    for (size_t i = 0; i < 4; i++) {
        __m512i X = _mm512_cvtps_epi32(v_div(x[i], v_set1(scale)));
        __m128i *d = (__m128i *)(void *)(to + 64 + i * VW);
        _mm_storeu_si128(d, _mm512_cvtepi32_epi8(_mm512_srai_epi32(X, 16)));
        _mm_storeu_si128(d + 4, _mm512_cvtepi32_epi8(_mm512_srli_epi32(X, 8)));
        _mm_storeu_si128(d + 8, _mm512_cvtepi32_epi8(X));
    }
    __m512i too_much = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8((char)0x80),
                                           _mm512_loadu_si512(to + 64));
    _mm512_storeu_si512(to, _mm512_sub_epi32(_mm512_setzero_si512(), too_much));
    return scale;
}

void ps_q8_pack_avx512vnni(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to)
{
    for (size_t k = 0; k < act->K; k += STEP)
        for (size_t t = t0; t < t1; t++, to += STEP_BYTES) {
            const float *a = act->a + t * act->lda;
            float scales[BLOCKS] = {0};
            for (size_t i = k, b = 0; i < act->K && b < BLOCKS; i += BLOCK, b++)
                scales[b] =
                    pack_one(to + 64 + b * BLOCK_BYTES, a + i, ps_min_size(act->K - i, BLOCK));
            memcpy(to, scales, sizeof scales);
        }
}
