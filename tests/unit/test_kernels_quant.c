/* Rows encoded as Q8B64 and NF4B64: the bounds that the formulas promise, the choice of scales, what is refused. And
 * the reference's products with every block-scaled type against sums written out here. */
#include "test_kernels_common.h"

#include "kernels/codec/quant_encode.h"
#include "kernels/codec/quant_middles.h"
#include "kernels/codec/quant_ops.h"
#include "proto/quant.h"

static float scale_of(const uint8_t *row, enum ps_dtype t, size_t K, size_t block)
{
    return ps_f16_to_f32(ps_load_u16(row + ps_quant_code_bytes(t, K) + 2 * block));
}

static float decoded(const uint8_t *row, enum ps_dtype t, size_t K, size_t k)
{
    float s = scale_of(row, t, K, k / 64);
    if (t == PS_Q8B64)
        return (float)(int8_t)row[k] * s;
    /* two blocks in 64 bytes, eight of each by turns */
    size_t at = k / 128 * 64 + k % 32 / 8 * 16 + (k % 128 >= 64 ? 8 : 0) + k % 8;
    unsigned byte = row[at], high = k % 64 >= 32;
    return ps_nf4_values[high ? byte >> 4 : byte & 15] * s;
}

static uint8_t *encoded(enum ps_dtype t, const float *w, size_t K)
{
    uint8_t *row = malloc(ps_quant_row_bytes(t, K));
    memset(row, 0xff, ps_quant_row_bytes(t, K));
    assert_int_equal(ps_quant_row_encode(row, t, w, K), 0);
    return row;
}

static float largest(const float *w, size_t K, size_t block)
{
    float max = 0;
    for (size_t k = block * 64; k < K && k < block * 64 + 64; k++)
        max = fmaxf(max, fabsf(w[k]));
    return max;
}

static const size_t lengths[] = {1, 2, 63, 64, 65, 127, 128, 200, 576, 1000};
static const float sizes[] = {1e-6f, 1e-4f, 0.02f, 1.0f, 3000.0f};

static void test_q8_bounds(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            size_t K = lengths[i];
            float w[1000];
            kt_fill(w, K, K + j);
            for (size_t k = 0; k < K; k++)
                w[k] *= sizes[j];
            uint8_t *row = encoded(PS_Q8B64, w, K);
            for (size_t b = 0; b * 64 < K; b++) {
                double s = (double)scale_of(row, PS_Q8B64, K, b), a = (double)largest(w, K, b);
                assert_true(s * 127 >= a); /* nothing is clamped */
                assert_true(s <= 1.06 * a / 127 * (1 + 0x1p-9) + 0x1p-23);
            }
            for (size_t k = 0; k < K; k++) { /* half a step, and what the float division rounds */
                double s = (double)scale_of(row, PS_Q8B64, K, k / 64);
                double e = fabs((double)decoded(row, PS_Q8B64, K, k) - (double)w[k]);
                assert_true(e <= s / 2 * (1 + 1e-5));
                assert_true((int8_t)row[k] != -128);
            }
            free(row);
        }
}

/* Squared error of weights in double, each taking the nearest value under a scale. */
static double nf4_error2(const float *w, size_t n, double scale)
{
    double sum = 0;
    for (size_t k = 0; k < n; k++) {
        double least = INFINITY;
        for (int q = 0; q < 16; q++)
            least = fmin(least, fabs((double)ps_nf4_values[q] * scale - (double)w[k]));
        sum += least * least;
    }
    return sum;
}

/* Every weight takes the nearest value, every block one of the thirty-two scales that are promised, and, though the
 * choice sees only steps of the weights, hardly a worse one than the best. */
static void test_nf4_bounds(void **state)
{
    double taken = 0, best = 0, plain = 0, upright = 0;
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        size_t K = lengths[i];
        float w[1000];
        kt_fill(w, K, K);
        uint8_t *row = encoded(PS_NF4B64, w, K);
        for (size_t b = 0; b * 64 < K; b++) {
            size_t n = K - b * 64 < 64 ? K - b * 64 : 64;
            const float *block = w + b * 64;
            float a = largest(w, K, b), s = scale_of(row, PS_NF4B64, K, b);
            double least[2] = {INFINITY, INFINITY}, error2 = 0;
            bool promised = false;
            for (int c = 0; c < 32; c++) {
                float part = (float)((50 - c % 16) / (c < 16 ? 50.0 : -50.0));
                float scale = ps_f16_to_f32(ps_f32_to_f16(a * part));
                promised |= scale == s;
                least[c / 16] = fmin(least[c / 16], nf4_error2(block, n, (double)scale));
            }
            assert_true(promised);
            for (size_t k = b * 64; k < b * 64 + n; k++) {
                double d = fabs((double)decoded(row, PS_NF4B64, K, k) - (double)w[k]);
                assert_true(d <= 0.301 * (double)a); /* the largest weight under the smallest scale */
                error2 += d * d;
            }
            assert_true(fabs(error2 - nf4_error2(block, n, (double)s)) <= 1e-5 * error2 + 1e-12);
            taken += error2;
            best += fmin(least[0], least[1]);
            upright += least[0];
            plain += nf4_error2(block, n, (double)ps_f16_to_f32(ps_f32_to_f16(a)));
        }
        free(row);
    }
    print_message("squared error %.4f of the best scale's, %.4f of the best above zero, %.4f of "
                  "the largest's\n",
                  taken / best, taken / upright, taken / plain);
    assert_true(taken <= 1.005 * best && taken <= 0.97 * upright);
}

/* relRMSE of Gaussian weights: the figures that the choice of these formats rests on (0.0071 and 0.093 with rows of
 * different size, here rows are alike). */
static void test_errors_of_gaussian_rows(void **state)
{
    enum { K = 4096 };
    static float w[K];
    (void)state;
    uint64_t seed = 3;
    for (size_t k = 0; k < K; k++) { /* Box and Muller: tails matter to a largest magnitude */
        double u = ((double)(kt_next(&seed) >> 11) + 1) * 0x1p-53, v = (double)(kt_next(&seed) >> 11);
        w[k] = (float)(0.02 * sqrt(-2 * log(u)) * cos(v * 0x1p-53 * 6.283185307179586));
    }
    for (int i = 0; i < 2; i++) {
        enum ps_dtype t = i ? PS_NF4B64 : PS_Q8B64;
        double e = 0, sum = 0;
        uint8_t *row = encoded(t, w, K);
        for (size_t k = 0; k < K; k++) {
            double d = (double)decoded(row, t, K, k) - (double)w[k];
            e += d * d, sum += (double)w[k] * (double)w[k];
        }
        print_message("%s: relative rms error %.4f\n", ps_dtype_name(t), sqrt(e / sum));
        assert_true(sqrt(e / sum) < (i ? 0.085 : 0.0058));
        free(row);
    }
}

static void test_special_blocks(void **state)
{
    float w[130] = {0};
    (void)state;
    for (int i = 0; i < 2; i++) {
        enum ps_dtype t = i ? PS_NF4B64 : PS_Q8B64;
        memset(w, 0, sizeof w);
        w[70] = -0.0f;
        w[129] = 3.0f; /* the last block is short */
        uint8_t *row = encoded(t, w, 130);
        size_t codes = ps_quant_code_bytes(t, 130), all = ps_quant_row_bytes(t, 130);
        assert_true(scale_of(row, t, 130, 0) == 0 && scale_of(row, t, 130, 1) == 0);
        for (size_t k = 0; k < 129; k++)
            assert_true(decoded(row, t, 130, k) == 0);
        assert_true(fabsf(decoded(row, t, 130, 129) / 3 - 1) < 1e-3f);
        for (size_t k = 130; k < 192; k++) /* behind the end: weights of zero */
            assert_true(decoded(row, t, 192 - 62, k) == 0);
        for (size_t at = codes + 6; at < all; at++)
            assert_int_equal(row[at], 0);
        free(row);
    }
    w[129] = 0;
    w[1] = 1e-9f; /* far below a float16: the scale is the least one, or zero */
    uint8_t *row = encoded(PS_Q8B64, w, 130);
    assert_true(scale_of(row, PS_Q8B64, 130, 0) == 0x1p-24f && row[1] == 0);
    free(row);
    row = encoded(PS_NF4B64, w, 130);
    assert_true(decoded(row, PS_NF4B64, 130, 1) == 0);
    free(row);
}

static void test_refused(void **state)
{
    float w[70] = {1, 2, 3};
    uint8_t row[256];
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        w[66] = bad[i];
        assert_int_equal(ps_quant_row_encode(row, PS_Q8B64, w, 70), PS_EUNSUPPORTED);
        assert_int_equal(ps_quant_row_encode(row, PS_NF4B64, w, 70), PS_EUNSUPPORTED);
    }
    w[66] = 70000.0f;
    assert_int_equal(ps_quant_row_encode(row, PS_Q8B64, w, 70), 0);
    assert_int_equal(ps_quant_row_encode(row, PS_NF4B64, w, 70), PS_EUNSUPPORTED);
    w[66] = 127 * 65504.0f;
    assert_int_equal(ps_quant_row_encode(row, PS_Q8B64, w, 70), 0);
    w[66] = 1e7f;
    assert_int_equal(ps_quant_row_encode(row, PS_Q8B64, w, 70), PS_EUNSUPPORTED);
    w[66] = 0;
    assert_int_equal(ps_quant_row_encode(row, PS_MXFP4, w, 64), PS_EUNSUPPORTED);
    assert_int_equal(ps_quant_row_encode(row, PS_BF16, w, 64), PS_EUNSUPPORTED);
    assert_int_equal(ps_quant_row_encode(row, PS_Q8B64, w, 0), PS_EUNSUPPORTED);
}

/* Largest magnitudes around every float16: rounding up must neither clamp nor waste a step, and what is chosen beyond
 * that loses nothing. */
static void test_q8_scale_is_near_the_least(void **state)
{
    (void)state;
    for (unsigned h = 1; h < 0x7bff; h += 7)
        for (int d = -1; d <= 1; d++) {
            float w[1] = {ps_bits_f32(ps_f32_bits(ps_f16_to_f32((uint16_t)h) * 127) + (uint32_t)d)};
            uint8_t *row = encoded(PS_Q8B64, w, 1);
            uint16_t least = (uint16_t)(d > 0 ? h + 1 : h);
            float s = scale_of(row, PS_Q8B64, 1, 0), first = ps_f16_to_f32(least);
            assert_true(s >= first);
            assert_true(s <= ps_f16_to_f32(ps_f32_to_f16(first * 1.06f)));
            assert_int_equal(row[0], (int)rint((double)w[0] / (double)s));
            double lost = fabs((double)decoded(row, PS_Q8B64, 1, 0) - (double)w[0]);
            double at_first = fabs(rint((double)w[0] / (double)first) * (double)first - (double)w[0]);
            assert_true(lost <= at_first + 1e-6 * (double)w[0]);
            free(row);
        }
}

/* Weights of bf16 lie on a grid of their own: the scale that meets it loses less than the least one. */
static void test_q8_scale_meets_the_grid(void **state)
{
    enum { K = 64 * 200 };
    static float w[K];
    uint64_t seed = 11;
    double at_least = 0;
    (void)state;
    for (size_t k = 0; k < K; k++) /* trained weights: heavier tails than Gauss */
        w[k] = ps_bf16_to_f32(ps_f32_to_bf16(0.02f * kt_gauss(&seed) * (k % 64 < 3 ? 2.0f : 1.0f)));
    uint8_t *row = malloc(ps_quant_row_bytes(PS_Q8B64, K));
    struct ps_quant_error e;
    assert_int_equal(ps_quant_rows_encode(row, PS_Q8B64, PS_F32, w, 1, K, &e), 0);
    for (size_t b = 0; b < K / 64; b++) {
        double s = (double)largest(w, K, b) / 127;
        for (size_t k = b * 64; k < b * 64 + 64; k++)
            at_least += pow(rint((double)w[k] / s) * s - (double)w[k], 2);
    }
    print_message("squared error %.3f of the least scale's\n", e.error2 / at_least);
    assert_true(e.error2 < 0.9 * at_least);
    free(row);
}

/* ---- tables of instructions ---- */

/* Weights of every size and sign, blocks of zeros, weights exactly between two values, denormals. */
static void fill_hard(float *w, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t r = kt_next(&seed);
        float size = ldexpf(1, (int)((i / 64 * 7) % 60) - 45);
        w[i] = i / 64 % 11 == 3   ? 0.0f
               : i / 64 % 11 == 5 ? nf4_middles[r % 15] * size * (r % 64 == 0 ? 1.0f : 0.5f)
               : i / 64 % 11 == 7 ? ps_bits_f32((uint32_t)(r >> 41) | (uint32_t)(r & 1) << 31)
                                  : kt_gauss(&seed) * size;
    }
}

static void narrow(uint8_t *out, enum ps_dtype t, const float *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        kt_put(out + i * kt_size(t), t, w[i]);
}

static void test_tables_agree(void **state)
{
    enum { ROWS = 5, MOST = 4096 };
    static const enum ps_dtype from[] = {PS_F32, PS_F16, PS_BF16}, to[] = {PS_Q8B64, PS_NF4B64};
    static const size_t Ks[] = {1, 63, 64, 65, 190, 576, MOST};
    static float w[ROWS * MOST];
    static uint8_t in[ROWS * MOST * 4 + 1];
    int tables = 0;
    (void)state;
    fill_hard(w, ROWS * MOST, 77);
    for (size_t f = 0; f < 3; f++)
        for (size_t t = 0; t < 2; t++)
            for (size_t k = 0; k < sizeof Ks / sizeof Ks[0]; k++) {
                size_t K = Ks[k], bytes = ROWS * ps_quant_row_bytes(to[t], K);
                uint8_t *want = malloc(bytes), *got = malloc(bytes);
                struct ps_quant_error e, other;
                narrow(in + 1, from[f], w, ROWS * K);
                assert_int_equal(ps_quant_rows_encode_by(want, to[t], from[f], in + 1, ROWS, K,
                                                         ps_quant_ops_by_name("scalar"), &e),
                                 0);
                for (int n = 0; n < 2; n++) {
                    const struct ps_quant_ops *ops = ps_quant_ops_by_name(n ? "avx512" : "avx2");
                    if (!ops)
                        continue;
                    tables++;
                    memset(got, 0xee, bytes);
                    memset(&other, 0xee, sizeof other);
                    assert_int_equal(ps_quant_rows_encode_by(got, to[t], from[f], in + 1, ROWS, K,
                                                             ops, &other),
                                     0);
                    assert_memory_equal(want, got, bytes);
                    assert_memory_equal(&e, &other, sizeof e);
                }
                free(want), free(got);
            }
    print_message("%d comparisons\n", tables);
}

/* Middles lie between the values that the layout names, and the figures are those of what was written. */
static void test_figures(void **state)
{
    enum { K = 640 };
    float w[K];
    (void)state;
    for (int q = 0; q < 15; q++)
        assert_true((double)nf4_middles[q] ==
                    ((double)ps_nf4_values[q] + (double)ps_nf4_values[q + 1]) / 2);
    kt_fill(w, K, 9);
    for (int i = 0; i < 2; i++) {
        enum ps_dtype t = i ? PS_NF4B64 : PS_Q8B64;
        struct ps_quant_error e;
        uint8_t *row = malloc(ps_quant_row_bytes(t, K));
        double error2 = 0, weight2 = 0, most = 0;
        assert_int_equal(ps_quant_rows_encode(row, t, PS_F32, w, 1, K, &e), 0);
        for (size_t k = 0; k < K; k++) {
            double d = (double)w[k] - (double)decoded(row, t, K, k);
            error2 += d * d, weight2 += (double)w[k] * (double)w[k];
            most = fmax(most, fabs(d));
        }
        assert_true(fabs(e.error2 / error2 - 1) < 1e-5 && fabs(e.weight2 / weight2 - 1) < 1e-6);
        assert_true(fabs((double)e.max_error / most - 1) < 1e-5);
        assert_true(e.max_weight == fmaxf(largest(w, K, 0), e.max_weight));
        assert_true(fabs(ps_quant_error_relative(&e) / sqrt(error2 / weight2) - 1) < 1e-5);
        free(row);
    }
}

/* ---- products of the reference ---- */

static const struct ps_backend *ref(void)
{
    return ps_backend_by_name("ref");
}

static void multiply(const struct ps_matrix *w, const float *a, float *c)
{
    struct ps_act act = {.a = a, .T = 1, .K = w->K, .lda = w->K, .weights = w->type};
    assert_true(ref()->multiplies(w->type));
    ref()->matmul(NULL, &act, w, 1, c, 8, false);
}

static void test_ref_quantised_rows(void **state)
{
    enum { K = 200 };
    float w[K], a[K], c[8] = {0};
    (void)state;
    kt_fill(w, K, 1), kt_fill(a, K, 2);
    for (int i = 0; i < 2; i++) {
        enum ps_dtype t = i ? PS_NF4B64 : PS_Q8B64;
        uint8_t *row = encoded(t, w, K);
        struct ps_matrix m = {.type = t,
                              .K = K,
                              .data = row,
                              .row_stride = ps_quant_row_bytes(t, K),
                              .n_rows = 1,
                              .row0 = 3,
                              .factor = 0.5f};
        double sum = 0;
        for (size_t k = 0; k < K; k++)
            sum += (double)decoded(row, t, K, k) * (double)a[k];
        multiply(&m, a, c);
        assert_true(fabs((double)c[3] - sum / 2) < 1e-6);
        free(row);
    }
}

static void test_ref_f8(void **state)
{
    enum { K = 50, ROWS = 7 };
    uint8_t w[ROWS][K];
    float a[K], c[8], scales[3][6];
    uint64_t seed = 5;
    (void)state;
    kt_fill(a, K, 2), kt_fill(scales[0], 18, 3);
    for (size_t i = 0; i < sizeof w; i++)
        w[i / K][i % K] = (uint8_t)(kt_next(&seed) & 0xf7);
    struct ps_matrix m = {.type = PS_F8_E4M3,
                          .K = K,
                          .data = w[0],
                          .row_stride = K,
                          .n_rows = 7,
                          .row0 = 1,
                          .scales = scales,
                          .scale_ld = 6,
                          .scale_rows = 3,
                          .scale_cols = 9};
    multiply(&m, a, c);
    for (size_t r = 0; r < 7; r++) {
        double sum = 0;
        for (size_t k = 0; k < K; k++)
            sum +=
                (double)ps_e4m3_to_f32(w[r][k]) * (double)scales[(r + 1) / 3][k / 9] * (double)a[k];
        assert_true((float)sum == c[r + 1]);
    }
    m.scale_rows = SIZE_MAX, m.scale_cols = K, m.scale_ld = 1; /* one scale in all */
    multiply(&m, a, c);
    float one = c[1];
    m.scales = NULL;
    m.factor = scales[0][0];
    multiply(&m, a, c);
    assert_true(fabsf(c[1] / one - 1) < 1e-6f);
}

static void test_ref_mxfp4(void **state)
{
    enum { K = 70, ROW = 48 };
    uint8_t w[2][ROW], scales[2][3] = {{127, 120, 130}, {0, 126, 128}};
    float a[K], c[8];
    uint64_t seed = 6;
    (void)state;
    kt_fill(a, K, 2);
    for (size_t i = 0; i < sizeof w; i++)
        w[i / ROW][i % ROW] = (uint8_t)kt_next(&seed);
    struct ps_matrix m = {.type = PS_MXFP4,
                          .K = K,
                          .data = w[1],
                          .row_stride = ROW,
                          .n_rows = 1,
                          .row0 = 1,
                          .scales = scales,
                          .scale_ld = 3};
    double sum = 0;
    for (size_t k = 0; k < K; k++) {
        unsigned code = w[1][k / 2] >> (k % 2 * 4) & 15;
        sum += (double)ps_e2m1_values[code] * ldexp(1, scales[1][k / 32] - 127) * (double)a[k];
    }
    multiply(&m, a, c);
    assert_true((float)sum == c[1]);
    scales[1][2] = 255;
    multiply(&m, a, c);
    assert_true(isnan(c[1]));
}

/* ---- products of all backends ---- */

/* A product of one row with every backend, the last of which `use` is told. */
static void each_product(const struct ps_matrix *w, const float *a,
                         void (*use)(const struct ps_backend *be, float got, double want, double size),
                         double want, double size)
{
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    for (size_t b = 0; b < n; b++) {
        float c[8];
        size_t bytes = be[b]->act_bytes(w->type, 1, w->K);
        void *packed = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
        struct ps_act act = {
            .a = a, .T = 1, .K = w->K, .lda = w->K, .weights = w->type, .packed = packed};
        ps_backend_thread_start((void *)be[b]);
        be[b]->act_pack(NULL, &act);
        be[b]->matmul(NULL, &act, w, 1, c, 8, false);
        use(be[b], c[0], want, size);
        free(packed);
    }
}

static void is_near(const struct ps_backend *be, float got, double want, double size)
{
    if (!(fabs((double)got - want) <= 1e-6 * size))
        fail_msg("%s: %g, not %g", be->name, (double)got, want);
}

static void is_not_finite(const struct ps_backend *be, float got, double want, double size)
{
    (void)want, (void)size;
    if (isfinite(got))
        fail_msg("%s: %g from an activation that is not finite", be->name, (double)got);
}

/* Where the sums of integers in a block are as large as they come: the code that no encoder of ours writes, against
 * the largest float below a power of two. Then blocks that are far apart in size, and an empty one. */
static void test_q8_extremes(void **state)
{
    enum { K = 6 * 64 };
    static const float sizes_of[6] = {0x1.fffffep0f, 0x1.fffffep90f, 0, 0x1p-95f, 0x1p-100f, 3};
    uint8_t row[K + 16] = {0};
    float a[K];
    (void)state;
    for (int sign = -1; sign <= 1; sign += 2)
        for (size_t only = 0; only < 6; only++) {
            double want = 0, squares = 0;
            for (size_t k = 0; k < K; k++) {
                row[k] = k % 64 < 60 ? 0x80 : 0x7f;
                a[k] = k / 64 == only ? (float)sign * sizes_of[k / 64] : 0;
                want += (double)(int8_t)row[k] * 0.5 * (double)a[k];
                squares += 64.0 * 64.0 * (double)a[k] * (double)a[k];
            }
            for (size_t b = 0; b < 6; b++)
                memcpy(row + K + 2 * b, &(uint16_t){0x3800}, 2); /* 0.5 */
            struct ps_matrix m = {
                .type = PS_Q8B64, .K = K, .data = row, .row_stride = sizeof row, .n_rows = 1};
            each_product(&m, a, is_near, want, sqrt(squares));
            a[only * 64 + 7] = only % 2 ? NAN : INFINITY;
            each_product(&m, a, is_not_finite, 0, 0);
        }
}

/* The same for NF4B64: values of one, all of one sign, against the largest number of 16 bits and the largest float
 * that is rounded up beyond it. An activation that is far larger than the others of its block leaves them their
 * bits. */
static void test_nf4_extremes(void **state)
{
    enum { K = 6 * 128, CODES = K / 2 };
    static const float sizes_of[6] = {0x1.fffcp0f, 0x1.fffffep90f, 0, 0x1p-92f, 0x1.fffcp-20f, 3};
    uint8_t row[CODES + 2 * K / 64];
    float a[K];
    (void)state;
    for (size_t b = 0; b < K / 64; b++)
        memcpy(row + CODES + 2 * b, &(uint16_t){0x3800}, 2); /* 0.5 */
    struct ps_matrix m = {.type = PS_NF4B64, .K = K, .data = row, .row_stride = sizeof row, .n_rows = 1};
    for (int sign = -1; sign <= 1; sign += 2)
        for (size_t only = 0; only < 6; only++) {
            double want = 0, squares = 0;
            memset(row, sign < 0 ? 0x00 : 0xff, CODES);
            for (size_t k = 0; k < K; k++) {
                a[k] = k / 128 == only ? sizes_of[k / 128] : 0;
                want += sign * 0.5 * (double)a[k];
                squares += (double)a[k] * (double)a[k];
            }
            each_product(&m, a, is_near, want, sqrt(squares));
            a[only * 128 + 7] = only % 2 ? NAN : INFINITY;
            each_product(&m, a, is_not_finite, 0, 0);
        }
    memset(a, 0, sizeof a);
    a[5] = 1024, a[16] = 0x1.8p-9f; /* the sum of both is a float32 */
    each_product(&m, a, is_near, 0.5 * (1024 + (double)a[16]), 0);
}

/* ---- weight by weight ---- */

/* Activations of one at k, zeros elsewhere: the weight itself, which no backend may round. */
static void each_weight(const struct ps_backend *be, const struct ps_matrix *w, size_t K)
{
    float *a = calloc(K, 4), want[8], got[8];
    size_t bytes = be->act_bytes(w->type, 1, K);
    void *packed = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    struct ps_act act = {.a = a, .T = 1, .K = K, .lda = K, .weights = w->type, .packed = packed};
    for (size_t k = 0; k < K; k++) {
        a[k] = 1;
        ref()->matmul(NULL, &act, w, 1, want, 8, false);
        be->act_pack(NULL, &act);
        be->matmul(NULL, &act, w, 1, got, 8, false);
        for (size_t r = w->row0; r < w->row0 + w->n_rows; r++)
            if (!(got[r] == want[r] || (isnan(got[r]) && isnan(want[r]))))
                fail_msg("%s %s: weight %zu of row %zu is %a, not %a", be->name,
                         ps_dtype_name(w->type), k, r, (double)got[r], (double)want[r]);
        a[k] = 0;
    }
    free(packed);
    free(a);
}

static void each_weight_of_all(const struct ps_matrix *w, size_t K)
{
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    for (size_t b = 0; b < n; b++) {
        ps_backend_thread_start((void *)be[b]);
        each_weight(be[b], w, K);
    }
}

/* All codes of e4m3, NaN among them (alone in its row: a sum that meets it is NaN), under every kind of scales. */
static void test_every_f8(void **state)
{
    enum { K = 256 };
    static const uint8_t nan[2] = {0x7f, 0xff};
    uint8_t w[3][K];
    float scales[6] = {1, 0.3f, -7e-5f, 1e9f, 3, 0x1p-100f};
    (void)state;
    for (size_t k = 0; k < K; k++)
        w[0][k] = w[1][k] = (uint8_t)(k % 128 == 127 ? 1 : k), w[2][k] = (uint8_t)~w[0][k];
    w[2][0] = w[2][128] = 0;
    struct ps_matrix m = {.type = PS_F8_E4M3,
                          .K = K,
                          .data = w,
                          .row_stride = K,
                          .n_rows = 3,
                          .scales = scales,
                          .scale_ld = 2,
                          .scale_rows = 1,
                          .scale_cols = 128};
    each_weight_of_all(&m, K);
    m.scale_ld = 1, m.scale_cols = K;
    each_weight_of_all(&m, K);
    m.scale_rows = SIZE_MAX;
    each_weight_of_all(&m, K);
    m.scales = NULL, m.factor = 0.37f;
    each_weight_of_all(&m, K);
    m = (struct ps_matrix){.type = PS_F8_E4M3, .K = 1, .data = nan, .row_stride = 1, .n_rows = 2};
    each_weight_of_all(&m, 1);
}

/* All values under all scales of e8m0. */
static void test_every_mxfp4(void **state)
{
    enum { K = 160, ROW = 80 };
    uint8_t w[2][ROW], scales[2][5];
    (void)state;
    for (size_t i = 0; i < sizeof w; i++)
        w[i / ROW][i % ROW] = (uint8_t)(i * 31 + i / 16);
    struct ps_matrix m = {.type = PS_MXFP4,
                          .K = K,
                          .data = w,
                          .row_stride = ROW,
                          .n_rows = 2,
                          .scales = scales,
                          .scale_ld = 5};
    for (unsigned first = 0; first < 250; first += 7) {
        for (unsigned i = 0; i < 10; i++)
            scales[i / 5][i % 5] = (uint8_t)((first + i) % 254); /* 2^127 times 6 is no float32 */
        each_weight_of_all(&m, K);
    }
    memset(scales, 127, sizeof scales);
    scales[1][4] = 255;
    m.K = 150;
    each_weight_of_all(&m, 150);
}

/* All codes under scales of all sizes, odd numbers of blocks, a factor. */
static void test_every_quantised_code(void **state)
{
    static const uint16_t halfs[] = {0x3c00, 0x0001, 0x03ff, 0x7bff, 0x8400, 0x0000, 0x2e66};
    static const size_t Ks[] = {448, 64, 130, 1};
    (void)state;
    for (size_t i = 0; i < 8; i++) {
        enum ps_dtype t = i & 1 ? PS_NF4B64 : PS_Q8B64;
        size_t K = Ks[i / 2], row = ps_quant_row_bytes(t, K), codes = ps_quant_code_bytes(t, K);
        uint8_t *w = calloc(2, row);
        for (size_t r = 0; r < 2; r++) {
            for (size_t k = 0; k < codes; k++)
                w[r * row + k] = (uint8_t)(k * 37 + r * 5 + 1);
            for (size_t b = 0; b * 64 < K; b++)
                memcpy(w + r * row + codes + 2 * b, &halfs[(b + r) % 7], 2);
        }
        struct ps_matrix m = {
            .type = t, .K = K, .data = w, .row_stride = row, .n_rows = 2, .row0 = 5, .factor = 0.3f};
        each_weight_of_all(&m, K);
        free(w);
    }
}

static void test_who_multiplies(void **state)
{
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    (void)state;
    for (size_t b = 0; b < n; b++) {
        assert_true(be[b]->multiplies(PS_F32) && be[b]->multiplies(PS_F16));
        assert_true(be[b]->multiplies(PS_BF16) && !be[b]->multiplies(PS_I8));
        assert_true(be[b]->multiplies(PS_Q8B64) && be[b]->multiplies(PS_NF4B64));
        assert_true(be[b]->multiplies(PS_F8_E4M3) && be[b]->multiplies(PS_MXFP4));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_q8_bounds),
        cmocka_unit_test(test_nf4_bounds),
        cmocka_unit_test(test_errors_of_gaussian_rows),
        cmocka_unit_test(test_special_blocks),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_q8_scale_is_near_the_least),
        cmocka_unit_test(test_q8_scale_meets_the_grid),
        cmocka_unit_test(test_tables_agree),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_ref_quantised_rows),
        cmocka_unit_test(test_ref_f8),
        cmocka_unit_test(test_ref_mxfp4),
        cmocka_unit_test(test_q8_extremes),
        cmocka_unit_test(test_nf4_extremes),
        cmocka_unit_test(test_every_f8),
        cmocka_unit_test(test_every_mxfp4),
        cmocka_unit_test(test_every_quantised_code),
        cmocka_unit_test(test_who_multiplies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
