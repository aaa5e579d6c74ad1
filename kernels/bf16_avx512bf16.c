/* bf16 weights by vdpbf16ps, which multiplies two pairs of bf16 and adds both to a float per lane. The weights are
 * exact; the activations would lose 16 bits, so each is split into hi + lo (kernel_scalar.h) and costs two
 * instructions per 64 bytes of weights: still under memory bandwidth at T = 1, and the same arithmetic rate as f32
 * FMA. Measured relative rms error of a product of 4096: 3e-6 (bf16 activations alone 1.8e-3, f32 FMA 2e-7).
 *
 * Order of additions: lane l of a sum's accumulator takes, for each 32 elements from k on, the pair (k + 2l, k +
 * 2l + 1) of the hi halves, then of the lo halves; the last step is padded with zeros; then v_sum's tree. The
 * instruction treats denormal inputs and results as zero, whatever MXCSR says.
 *
 * Packed activations (matmul_drive.h): for each 32 elements, per column 64 bytes of hi halves, then 64 of lo
 * halves. */
#include "kernels/vec_avx512.h"

#include "kernels/dots_avx512.h"
#include "kernels/matmul_impl.h"
#include "kernels/pack_avx512bf16.h"

MM_INLINE void dot_step(vf (*acc)[MM_ROWS], const __m512bh *w, const uint8_t *a, int R, int C)
{
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
        __m512bh hi = (__m512bh)_mm512_loadu_si512(a + c * 128);
        __m512bh lo = (__m512bh)_mm512_loadu_si512(a + c * 128 + 64);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            acc[c][r] = _mm512_dpbf16_ps(acc[c][r], w[r], hi);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            acc[c][r] = _mm512_dpbf16_ps(acc[c][r], w[r], lo);
    }
}

MM_INLINE void dot(const struct ps_micro *m, int R, int C)
{
    vf acc[MM_COLS][MM_ROWS];
    __m512bh w[MM_ROWS];
    const uint8_t *a = m->a;
    size_t k = 0;
    mm_begin(m, acc, R, C);
    for (; k + STEP <= m->K; k += STEP, a += C * 128) {
        mm_ahead(m, k * 2);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            w[r] = (__m512bh)_mm512_loadu_si512(m->w + (size_t)r * m->row_stride + 2 * k);
        dot_step(acc, w, a, R, C);
    }
    if (k < m->K) {
        __mmask32 left = (1u << (m->K - k)) - 1u;
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            w[r] = (__m512bh)_mm512_maskz_loadu_epi16(left, m->w + (size_t)r * m->row_stride + 2 * k);
        dot_step(acc, w, a, R, C);
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; c++)
        mm_finish(m, acc[c], (size_t)c, R);
}

#define DOT(R, C)                                                                                  \
    static void dot_##R##x##C(const struct ps_micro *m)                                            \
    {                                                                                              \
        dot(m, R, C);                                                                              \
    }
DOT(8, 1)
DOT(6, 1)
DOT(6, 2)
DOT(6, 3)
DOT(6, 4)
DOT(4, 1)
DOT(4, 2)
DOT(4, 3)
DOT(4, 4)
DOT(4, 5)
DOT(4, 6)
DOT(1, 1)
DOT(1, 2)
DOT(1, 3)
DOT(1, 4)
DOT(1, 5)
DOT(1, 6)

static void run(const struct ps_micro *m)
{
    static const mm_fn eight[] = {NULL, dot_8x1};
    static const mm_fn six[] = {NULL, dot_6x1, dot_6x2, dot_6x3, dot_6x4};
    static const mm_fn four[] = {NULL, dot_4x1, dot_4x2, dot_4x3, dot_4x4, dot_4x5, dot_4x6};
    static const mm_fn one[] = {NULL, dot_1x1, dot_1x2, dot_1x3, dot_1x4, dot_1x5, dot_1x6};
    static const struct mm_fns fns = {.rows = {[8] = eight, [6] = six, [4] = four, [1] = one}};
    mm_run(m, &fns);
}

/* Up to 16 columns: the activations lie in L2 and pass at every handful; six rows take a third less of its
 * bandwidth than four (T = 8: 32 to 36 GB/s, T = 16: 361 to 384 GFLOP/s). A single column walks eight rows at once:
 * more reads in flight (about 5 % while memory is slow). With more columns six long rows crowd L1. */
static const struct ps_micro_set few = {
    .run = run,
    .rows = 6,
    .cols = 4,
    .rows_narrow = 8,
    .narrow = 1,
    .k_step = STEP,
    .step_bytes = STEP * 4,
    .pad_cols = 1,
    .sum_floats = VW,
    .even = true,
};

static const struct ps_micro_set many = {
    .run = run,
    .rows = 4,
    .cols = 6,
    .k_step = STEP,
    .step_bytes = STEP * 4,
    .pad_cols = 1,
    .sum_floats = VW,
    .even = true,
};

const struct ps_micro_set *ps_bf16_set(size_t T)
{
    return T <= 16 ? &few : &many;
}

void ps_bf16_pack(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to)
{
    for (size_t t = t0; t < t1; t++)
        pack_column(act->a + t * act->lda, act->K, to + (t - t0) * 128, (t1 - t0) * 128);
}
