/* The small operations and the conversions. */
#include "test_kernels_common.h"

static void test_conversions(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) { /* every 16-bit number goes to f32 and back unchanged */
        float b = ps_bf16_to_f32((uint16_t)h), f = ps_f16_to_f32((uint16_t)h);
        if (isnan(b))
            assert_true(isnan(ps_bf16_to_f32(ps_f32_to_bf16(b))));
        else
            assert_int_equal(ps_f32_to_bf16(b), h);
        if (isnan(f))
            assert_true(isnan(ps_f16_to_f32(ps_f32_to_f16(f))));
        else
            assert_int_equal(ps_f32_to_f16(f), h);
    }
    assert_int_equal(ps_f32_to_bf16(ps_bits_f32(0x3f808000)), 0x3f80); /* ties to even */
    assert_int_equal(ps_f32_to_bf16(ps_bits_f32(0x3f818000)), 0x3f82);
    assert_int_equal(ps_f32_to_bf16(ps_bits_f32(0x3f808001)), 0x3f81);
    assert_int_equal(ps_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(ps_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(ps_f32_to_f16(-0x1p-25f), 0x8000); /* half of the least denormal: ties to even */
    assert_int_equal(ps_f32_to_f16(0x1.8p-25f), 1);
    assert_int_equal(ps_f32_to_f16(0x1p-14f - 0x1p-26f), 0x0400);
    assert_int_equal(ps_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(ps_f32_to_f16(1.0f + 0x3p-11f), 0x3c02);
}

static void test_split(void **state)
{
    uint64_t seed = 4;
    uint16_t hi, lo;
    (void)state;
    for (int i = 0; i < 200000; i++) {
        float a = ps_bits_f32((uint32_t)kt_next(&seed));
        ps_split_bf16(a, &hi, &lo);
        float h = ps_bf16_to_f32(hi), l = ps_bf16_to_f32(lo);
        if (isnan(a))
            assert_true(isnan(h) && l == 0);
        else if (fabsf(a) > 1e-30f) /* below, lo runs into the denormals */
            assert_true(fabs(((double)h + (double)l) / (double)a - 1) < 0x1p-16);
    }
    ps_split_bf16(-INFINITY, &hi, &lo);
    assert_true(ps_bf16_to_f32(hi) == -INFINITY && lo == 0);
}

static void test_to_f32(void **state)
{
    uint8_t buf[64];
    float out[9];
    const enum ps_dtype types[] = {PS_F32, PS_F16, PS_BF16};
    (void)state;
    for (size_t t = 0; t < 3; t++)
        for (size_t at = 0; at < 5; at++) {
            for (size_t i = 0; i < 9; i++)
                kt_put(buf + at + i * kt_size(types[t]), types[t], (float)i - 3.5f);
            assert_int_equal(ps_to_f32(out, buf + at, types[t], 9), 0);
            for (size_t i = 0; i < 9; i++)
                assert_true(out[i] == (float)i - 3.5f);
        }
    assert_int_equal(ps_to_f32(out, buf, PS_I64, 1), PS_EUNSUPPORTED);
}

static void test_rope(void **state)
{
    const float c[4] = {0.5f, 2, 1, 0}, s[4] = {1, 3, 0, 1};
    float x[2][10] = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}};
    (void)state;
    ps_rope(x[0], 10, 2, 2, 5, 4, c, s,
            false); /* two rows, heads of 5, of which 4 turn: (0, 2) and (1, 3) */
    assert_true(x[0][0] == 0.5f * 1 - 1 * 3 && x[0][2] == 0.5f * 3 + 1 * 1);
    assert_true(x[0][1] == 2 * 2 - 3 * 4 && x[0][3] == 2 * 4 + 3 * 2);
    assert_true(x[0][4] == 5 && x[0][9] == 10);
    assert_true(x[0][5] == 0.5f * 6 - 8 && x[1][0] == 1 && x[1][1] == -4 && x[1][3] == 2);
    float y[5] = {1, 2, 3, 4, 5};
    ps_rope(y, 5, 1, 1, 5, 4, c, s, true); /* (0, 1) and (2, 3) */
    assert_true(y[0] == 0.5f * 1 - 2 && y[1] == 0.5f * 2 + 1 && y[2] == 2 * 3 - 3 * 4 &&
                y[3] == 8 + 9 && y[4] == 5);
}

static void test_add(void **state)
{
    float x[2][3] = {{1, 2, 9}, {3, 4, 9}};
    const float y[2][2] = {{10, 20}, {30, 40}}, b[2] = {0.5f, 0.25f};
    (void)state;
    ps_add(x[0], 3, y[0], 2, 2, 2);
    assert_true(x[0][0] == 11 && x[0][1] == 22 && x[1][0] == 33 && x[1][1] == 44 && x[0][2] == 9);
    ps_add_bias(x[0], 3, b, 2, 2);
    assert_true(x[0][0] == 11.5f && x[1][1] == 44.25f && x[1][2] == 9);
}

static void test_kv_store(void **state)
{
    const enum ps_dtype types[] = {PS_F32, PS_F16, PS_BF16};
    float x[6] = {1, -2, 3, 4, 0.5f, 6}, out[3];
    (void)state;
    for (size_t t = 0; t < 3; t++) {
        size_t bytes = ps_kv_page_bytes(types[t], 2, 3), size = kt_size(types[t]);
        uint8_t *page = calloc(1, bytes);
        assert_int_equal(bytes, PS_KV_PAGE * 6 * size);
        ps_kv_store(page, types[t], 2, 3, 63, x);
        for (size_t h = 0; h < 2; h++) {
            assert_int_equal(ps_to_f32(out, page + (h * PS_KV_PAGE + 63) * 3 * size, types[t], 3), 0);
            assert_memory_equal(out, x + 3 * h, sizeof out);
        }
        free(page);
    }
}

static void test_rmsnorm(void **state)
{
    static const size_t Ks[] = {1, 5, 16, 63, 64, 65, 576, 4096, 40001};
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    (void)state;
    for (size_t b = 0; b < n; b++) {
        struct ps_pool *pool = kt_pool(2, be[b]);
        for (size_t i = 0; i < sizeof Ks / sizeof Ks[0]; i++) {
            size_t K = Ks[i], T = 5, ld = K + 2;
            float *x = malloc(T * ld * 4), *w = malloc(K * 4), *want = calloc(T * ld, 4),
                  *got = calloc(T * ld, 4);
            float *one = calloc(ld, 4);
            kt_fill(x, T * ld, K), kt_fill(w, K, 2);
            be[0]->rmsnorm(pool, want, ld, x, ld, w, 1.0f, T, K, 1e-5f);
            be[b]->rmsnorm(pool, got, ld, x, ld, w, 1.0f, T, K, 1e-5f);
            assert_true(kt_rel_rms(got, want, T * ld) < 5e-7);
            for (size_t t = 0; t < T; t++) { /* alone and at another address: the same bits */
                memcpy(one + 1, x + t * ld, K * 4);
                be[b]->rmsnorm(NULL, one + 1, K, one + 1, K, w, 1.0f, 1, K, 1e-5f);
                assert_memory_equal(one + 1, got + t * ld, K * 4);
            }
            free(x), free(w), free(want), free(got), free(one);
        }
        ps_pool_free(pool);
    }
}

static void test_swiglu(void **state)
{
    static const size_t Ks[] = {1, 7, 16, 31, 576, 4097, 9000, 70001};
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    (void)state;
    for (size_t b = 0; b < n; b++) {
        struct ps_pool *pool = kt_pool(2, be[b]);
        for (size_t i = 0; i < sizeof Ks / sizeof Ks[0]; i++) {
            size_t K = Ks[i], T = 3, ld = K + 1;
            float *g = malloc(T * ld * 4), *u = malloc(T * ld * 4), *want = calloc(T * ld, 4),
                  *got = malloc(T * ld * 4);
            kt_fill(g, T * ld, K), kt_fill(u, T * ld, 2);
            for (size_t k = 0; k < K; k++) /* from far below to far above */
                g[k] *= k % 3 == 0 ? 40.0f : 1.0f;
            be[0]->swiglu(pool, want, ld, g, ld, u, ld, T, K);
            memcpy(got, g, T * ld * 4);
            for (size_t t = 0; t < T; t++)
                got[t * ld + K] = 0;
            be[b]->swiglu(pool, got, ld, got, ld, u, ld, T, K); /* in place */
            for (size_t j = 0; j < T * ld; j++)
                assert_true(fabsf(got[j] - want[j]) <=
                            1e-6f * fabsf(want[j]) + 1e-35f); /* e^89 is infinite */
            for (size_t k = 0; k < K; k += K / 5 + 1) { /* each element by itself: the same bits */
                float one;
                be[b]->swiglu(NULL, &one, 1, g + ld + k, 1, u + ld + k, 1, 1, 1);
                assert_memory_equal(&one, got + ld + k, 4);
            }
            free(g), free(u), free(want), free(got);
        }
        float g[4] = {-INFINITY, INFINITY, NAN, -200.0f}, u[4] = {1, 2, 1, 1}, y[4];
        be[b]->swiglu(pool, y, 4, g, 4, u, 4, 1, 4);
        assert_true(isnan(y[0]) && y[1] == INFINITY && isnan(y[2]) && y[3] == 0);
        ps_pool_free(pool);
    }
}

static void test_backend_names(void **state)
{
    const struct ps_backend *be = NULL;
    (void)state;
    assert_null(ps_backend_by_name("cuda"));
    assert_string_equal(ps_backend_by_name("ref")->name, "ref");
    unsetenv("PENSTOCK_BACKEND");
    assert_int_equal(ps_backend_choose(&be, NULL), 0);
    print_message("backend here: %s\n", be->name);
    assert_ptr_equal(ps_backend_by_name(be->name), be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversions),   cmocka_unit_test(test_split),
        cmocka_unit_test(test_to_f32),        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_add),           cmocka_unit_test(test_kv_store),
        cmocka_unit_test(test_rmsnorm),       cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_backend_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
