/* Layouts of block-scaled rows and the values of their codes. */
#include <math.h>
#include <string.h>

#include "proto/quant.h"
#include "tests/support/test.h"

static void sizes_of_rows(void **state)
{
    (void)state;
    static const struct {
        size_t K, q8, nf4, mxfp4;
    } want[] = {
        {1, 80, 80, 16},      {63, 80, 80, 32},         {64, 80, 80, 32},
        {65, 144, 80, 48},    {512, 528, 272, 256},     {576, 608, 352, 288},
        {640, 672, 352, 320}, {2880, 2976, 1568, 1440}, {4096, 4224, 2176, 2048},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        assert_int_equal(ps_quant_row_bytes(PS_Q8B64, want[i].K), want[i].q8);
        assert_int_equal(ps_quant_row_bytes(PS_NF4B64, want[i].K), want[i].nf4);
        assert_int_equal(ps_quant_row_bytes(PS_MXFP4, want[i].K), want[i].mxfp4);
    }
    assert_int_equal(ps_quant_code_bytes(PS_Q8B64, 65), 128);
    assert_int_equal(ps_quant_code_bytes(PS_NF4B64, 65), 64);
    assert_int_equal(ps_quant_code_bytes(PS_MXFP4, 65), 48);
}

static void sizes_that_are_none(void **state)
{
    (void)state;
    static const enum ps_dtype blocks[] = {PS_Q8B64, PS_NF4B64, PS_MXFP4};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(ps_quant_row_bytes(blocks[i], 0), 0);
        assert_int_equal(ps_quant_code_bytes(blocks[i], 0), 0);
        size_t most = ps_quant_row_bytes(blocks[i], SIZE_MAX); /* fits for four bits a weight */
        assert_true(most == 0 || most > SIZE_MAX / 2);
    }
    assert_int_equal(ps_quant_row_bytes(PS_Q8B64, SIZE_MAX), 0);
    assert_int_equal(ps_quant_row_bytes(PS_Q8B64, SIZE_MAX - 64), 0);
    assert_int_equal(ps_quant_row_bytes(PS_BF16, 64), 0);
    assert_int_equal(ps_quant_row_bytes(PS_F8_E4M3, 64), 0);
    assert_int_equal(ps_quant_row_bytes((enum ps_dtype)77, 64), 0);
    assert_int_equal(ps_quant_block(PS_F32), 0);
    assert_int_equal(ps_quant_block(PS_NF4B64), 64);
    assert_int_equal(ps_quant_block(PS_MXFP4), 32);
}

/* Against the format's words: sign, four bits of exponent with bias 7, three of mantissa. */
static void e4m3_values(void **state)
{
    (void)state;
    for (unsigned b = 0; b < 256; b++) {
        float v = ps_e4m3_to_f32((uint8_t)b);
        unsigned e = b >> 3 & 15, m = b & 7;
        double want = e ? (1 + m / 8.0) * pow(2, (int)e - 7) : m / 8.0 * pow(2, -6);
        if (e == 15 && m == 7)
            assert_true(isnan(v));
        else
            assert_true((double)v == (b & 128 ? -want : want) && !!signbit(v) == b >> 7);
    }
    assert_true(ps_e4m3_to_f32(0x7e) == 448.0f && ps_e4m3_to_f32(1) == 0x1p-9f);
}

static void e8m0_values(void **state)
{
    (void)state;
    assert_true(ps_e8m0_to_f32(127) == 1.0f && ps_e8m0_to_f32(130) == 8.0f);
    assert_true(ps_e8m0_to_f32(0) == 0x1p-127f && ps_e8m0_to_f32(254) == 0x1p127f);
    assert_true(isnan(ps_e8m0_to_f32(255)));
}

/* The place that a share p > 1/2 of a normal distribution lies below. */
static double quantile(double p)
{
    double low = 0, high = 8;
    for (int i = 0; i < 60; i++) {
        double x = (low + high) / 2;
        *(erfc(-x / sqrt(2)) / 2 < p ? &low : &high) = x;
    }
    return low;
}

/* To eight bits. */
static double rounded(double x)
{
    int e;
    double m = frexp(x, &e);
    return ldexp(rint(ldexp(m, 8)), e - 8);
}

/* The paper's construction: `n` quantiles from this share down towards 1/2, as parts of the largest; eight above zero,
 * seven below. Then bf16. */
static double nf4_level(int i, int n)
{
    const double top = 0.9677083;
    return rounded(quantile(top - (top - 0.5) * i / n) / quantile(top));
}

static void nf4_table(void **state)
{
    (void)state;
    assert_true(ps_nf4_values[PS_NF4_ZERO] == 0);
    for (int i = 0; i < 8; i++)
        assert_true((double)ps_nf4_values[15 - i] == nf4_level(i, 8));
    for (int i = 0; i < 7; i++)
        assert_true((double)ps_nf4_values[i] == -nf4_level(i, 7));
}

static void e2m1_table(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        int e = i >> 1, m = i & 1;
        float want = e ? (1 + (float)m / 2) * ldexpf(1, e - 1) : (float)m / 2;
        assert_true(ps_e2m1_values[i] == want && ps_e2m1_values[i + 8] == -want);
        assert_true(signbit(ps_e2m1_values[i + 8]));
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(sizes_of_rows), cmocka_unit_test(sizes_that_are_none),
    cmocka_unit_test(e4m3_values),   cmocka_unit_test(e8m0_values),
    cmocka_unit_test(nf4_table),     cmocka_unit_test(e2m1_table),
};

TEST_MAIN(tests)
