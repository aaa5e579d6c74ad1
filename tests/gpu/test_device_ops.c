/* The small operations of a device against their CPU forms: the same bits where one rounding decides, a few units in
 * the last place where a sum or an exponential does; and the same bits whatever else is in the call. */
#include "tests/gpu/test_device.h"

/* What kernel_ops.c computes without a backend's help is exact or rounds each operation once: bits must agree. */

static void test_to_f32(void **state)
{
    struct td *td = *state;
    const enum ps_dtype types[] = {PS_BF16, PS_F16, PS_F32};
    const size_t n = 65536;
    uint8_t *in = malloc(4 * n);
    float *want = malloc(4 * n), *got = malloc(4 * n);
    for (size_t t = 0; t < 3; t++) {
        uint64_t seed = t;
        for (size_t i = 0; i < n; i++) { /* every half there is; floats of any bits */
            uint16_t h = (uint16_t)i;
            uint32_t u = (uint32_t)kt_next(&seed);
            memcpy(in + i * kt_size(types[t]), types[t] == PS_F32 ? (void *)&u : (void *)&h,
                   kt_size(types[t]));
        }
        assert_int_equal(ps_to_f32(want, in, types[t], n), 0);
        for (size_t shift = 0; shift < 5; shift++) {
            size_t some = n - 37 * shift;
            float *out = td_alloc(td, 4 * some);
            void *p = td_put_shifted(td, in, some * kt_size(types[t]), shift);
            td_ok(td, td->api->to_f32(td->d, out, p, types[t], some));
            td_get(td, got, out, 4 * some);
            assert_memory_equal(got, want, 4 * some);
        }
        td_free_all(td);
    }
    float *out = td_alloc(td, 64);
    assert_int_equal(td->api->to_f32(td->d, out, out, PS_I64, 1), PS_EUNSUPPORTED);
    free(in), free(want), free(got);
}

/* Normal numbers, and every so often one that is hard to round or not a number. */
static void fill_hard(float *x, size_t n, uint64_t seed)
{
    static const uint32_t hard[] = {0x7fc00000, 0xff800001, 0x7f800000, 0xff800000, 0x00000001,
                                    0x80000000, 0x477fefff, 0x477ff000, 0x387fffff, 0x33000000,
                                    0x33000001, 0x7f7fffff, 0x3f808000, 0x3f818000, 0x3f801000,
                                    0x3f803000, 0xff7f8000, 0x7fffffff};
    kt_fill(x, n, seed);
    for (size_t i = 0; i < n; i += 3)
        x[i] = ps_bits_f32(hard[(i / 3 + seed) % (sizeof hard / sizeof hard[0])]);
}

static void store_case(struct td *td, enum ps_dtype k_dtype, enum ps_dtype v_dtype, uint32_t heads,
                       uint32_t dim)
{
    const uint32_t pos[] = {200, 0, 63, 64, 127, 128, 5};
    enum { T = 7, PAGES = 4 };
    size_t n = (size_t)heads * dim, k_bytes = ps_kv_page_bytes(k_dtype, heads, dim);
    size_t v_bytes = ps_kv_page_bytes(v_dtype, heads, dim);
    float *k = malloc(T * n * 4), *v = malloc(T * n * 4);
    uint8_t *want = malloc(PAGES * (k_bytes + v_bytes)), *got = malloc(PAGES * (k_bytes + v_bytes));
    uint8_t *pages = td_alloc(td, PAGES * (k_bytes + v_bytes));
    void *table[2 * PAGES];
    memset(want, 0xff, PAGES * (k_bytes + v_bytes));
    fill_hard(k, T * n, 1), fill_hard(v, T * n, 2);
    for (size_t p = 0; p < PAGES; p++) {
        table[p] = pages + p * k_bytes;
        table[PAGES + p] = pages + PAGES * k_bytes + p * v_bytes;
    }
    for (size_t t = 0; t < T; t++) {
        size_t p = pos[t] / PS_KV_PAGE, slot = pos[t] % PS_KV_PAGE;
        ps_kv_store(want + p * k_bytes, k_dtype, heads, dim, (uint32_t)slot, k + t * n);
        ps_kv_store(want + PAGES * k_bytes + p * v_bytes, v_dtype, heads, dim, (uint32_t)slot,
                    v + t * n);
    }
    void **on_device = td_put(td, table, sizeof table);
    struct ps_device_kv kv = {.k_pages = on_device,
                              .v_pages = on_device + PAGES,
                              .k_dtype = k_dtype,
                              .v_dtype = v_dtype,
                              .n_kv_heads = heads,
                              .head_dim = dim};
    td_ok(td, td->api->kv_store(td->d, &kv, td_put(td, pos, sizeof pos), T,
                                td_put(td, k, T * n * 4), td_put(td, v, T * n * 4)));
    td_get(td, got, pages, PAGES * (k_bytes + v_bytes));
    assert_memory_equal(got, want, PAGES * (k_bytes + v_bytes));
    td_free_all(td);
    free(k), free(v), free(want), free(got);
}

static void test_kv_store(void **state)
{
    struct td *td = *state;
    const enum ps_dtype types[] = {PS_F32, PS_F16, PS_BF16};
    for (size_t k = 0; k < 3; k++)
        for (size_t v = 0; v < 3; v++)
            store_case(td, types[k], types[v], k == v ? 1 : 3, k == v ? 20 : 96);
    struct ps_device_kv kv = {(void *const *)1, (void *const *)1, PS_F32, PS_F8_E4M3, 1, 8};
    const uint32_t *pos = td_alloc(td, 4);
    const float *x = td_alloc(td, 32);
    assert_int_equal(td->api->kv_store(td->d, &kv, pos, 1, x, x), PS_EUNSUPPORTED);
}

static void rope_case(struct td *td, size_t T, uint32_t heads, uint32_t dim, uint32_t rot,
                      bool interleaved)
{
    size_t ld = (size_t)heads * dim + 3, n = T * ld, m = T * rot / 2;
    float *want = malloc(n * 4), *got = malloc(n * 4), *c = malloc(m * 4), *s = malloc(m * 4);
    kt_fill(want, n, dim), kt_fill(c, m, 1), kt_fill(s, m, 2);
    float *x = td_put(td, want, n * 4);
    td_ok(td, td->api->rope(td->d, x, ld, T, heads, dim, rot, td_put(td, c, m * 4),
                            td_put(td, s, m * 4), interleaved));
    ps_rope(want, ld, T, heads, dim, rot, c, s, interleaved);
    td_get(td, got, x, n * 4);
    assert_memory_equal(got, want, n * 4);
    td_free_all(td);
    free(want), free(got), free(c), free(s);
}

static void test_rope(void **state)
{
    struct td *td = *state;
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        rope_case(td, 1, 1, 2, 2, interleaved);
        rope_case(td, 3, 2, 5, 4, interleaved);
        rope_case(td, 7, 5, 80, 32, interleaved);
        rope_case(td, 2, 4, 96, 96, interleaved);
        rope_case(td, td_size(td, 9, 1024), (uint32_t)td_size(td, 3, 64), 128, 128, interleaved);
    }
    if (td->real)
        rope_case(td, 70001, 1, 2, 2, false); /* more rows than a grid has along y */
}

static void bias_case(struct td *td, size_t T, size_t K, size_t ld)
{
    size_t n = T * ld;
    float *want = malloc(n * 4), *got = malloc(n * 4), *b = malloc(K * 4);
    kt_fill(want, n, K), kt_fill(b, K, 3);
    float *x = td_put(td, want, n * 4);
    td_ok(td, td->api->add_bias(td->d, x, ld, td_put(td, b, K * 4), T, K));
    ps_add_bias(want, ld, b, T, K);
    td_get(td, got, x, n * 4);
    assert_memory_equal(got, want, n * 4);
    td_free_all(td);
    free(want), free(got), free(b);
}

static void test_add_bias(void **state)
{
    struct td *td = *state;
    bias_case(td, 1, 1, 1);
    bias_case(td, 3, 33, 35);
    bias_case(td, 5, 64, 64);
    bias_case(td, 5, 2052, 2056);
    bias_case(td, td_size(td, 2, 1024), 8192, 8192);
}

/* Largest |got - want| / |want|. */
static double worst(const float *got, const float *want, size_t n)
{
    double w = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)want[i]) / (fabs((double)want[i]) + 1e-30);
        w = e > w || isnan(e) ? e : w;
    }
    return w;
}

/* One call for all rows, and each row by itself, in place, where rows begin at odd addresses. */
static void norm_case(struct td *td, size_t T, size_t K, size_t ld, float w_offset)
{
    const struct ps_backend *ref = ps_backend_by_name("ref");
    size_t n = T * ld, odd = K + 1;
    float *x = malloc(n * 4), *w = malloc(K * 4), *want = malloc(n * 4), *got = malloc(n * 4);
    float *one = malloc(T * odd * 4), *alone = malloc(T * odd * 4);
    kt_fill(x, n, K), kt_fill(w, K, 2);
    memset(want, 0xff, n * 4);
    ref->rmsnorm(NULL, want, ld, x, ld, w, w_offset, T, K, 1e-5f);
    for (size_t t = 0; t < T; t++)
        memcpy(one + t * odd, x + t * ld, K * 4);
    float *dx = td_put(td, x, n * 4), *dy = td_alloc(td, n * 4), *dw = td_put(td, w, K * 4);
    float *dz = td_put_shifted(td, one, (T * odd - 1) * 4, 4);
    td_ok(td, td->api->rmsnorm(td->d, dy, ld, dx, ld, dw, w_offset, T, K, 1e-5f));
    td_get(td, got, dy, n * 4);
    for (size_t t = 0; t < T; t += T / 5 + 1) {
        float *row = dz + t * odd;
        td_ok(td, td->api->rmsnorm(td->d, row, K, row, K, dw, w_offset, 1, K, 1e-5f));
    }
    td_get(td, alone, dz, (T * odd - 1) * 4);
    for (size_t t = 0; t < T; t++) {
        /* Half of the sum's error, at most 2^-25 for each of about 9 levels of the tree and as many links of the chain,
         * which don't all go one way, and four roundings behind it. */
        double e = worst(got + t * ld, want + t * ld, K);
        if (!(e < 5e-7))
            fail_msg("T %zu K %zu row %zu: off by %.3g", T, K, t, e);
        if (t % (T / 5 + 1) == 0)
            assert_memory_equal(alone + t * odd, got + t * ld, K * 4);
    }
    td_free_all(td);
    free(x), free(w), free(want), free(got), free(one), free(alone);
}

static void test_rmsnorm(void **state)
{
    struct td *td = *state;
    static const size_t Ks[] = {1,   2,   5,   31,  63,  64,  80,   96,   127,
                                128, 256, 511, 512, 513, 576, 2047, 2048, 4097};
    for (size_t i = 0; i < sizeof Ks / sizeof Ks[0]; i++) {
        norm_case(td, 5, Ks[i], Ks[i] + 3, 1.0f);
        norm_case(td, 11, Ks[i], (Ks[i] + 3) / 4 * 4, 0);
    }
    norm_case(td, td_size(td, 70, 65536), 128, 128, 0); /* queries of many heads */
    norm_case(td, td_size(td, 2, 1024), 8192, 8192, 0);
    norm_case(td, 2, 40001, 40001, 0);
}

static void swiglu_case(struct td *td, size_t T, size_t K, size_t ld)
{
    const struct ps_backend *ref = ps_backend_by_name("ref");
    size_t n = T * ld;
    float *g = malloc(n * 4), *u = malloc(n * 4), *want = malloc(n * 4), *got = malloc(n * 4);
    kt_fill(g, n, K), kt_fill(u, n, 2);
    for (size_t i = 0; i < n; i += 3) /* from far below to far above */
        g[i] *= 40.0f;
    memcpy(want, g, n * 4);
    ref->swiglu(NULL, want, ld, want, ld, u, ld, T, K);
    float *dg = td_put(td, g, n * 4), *du = td_put(td, u, n * 4), *one = td_alloc(td, 4), alone;
    for (size_t i = 0; i < 5; i++) { /* by itself: the same bits */
        size_t at = (i * 7919) % T * ld + (i * 104729) % K;
        td_ok(td, td->api->swiglu(td->d, one, 1, dg + at, 1, du + at, 1, 1, 1));
        td_get(td, &alone, one, 4);
        td_ok(td, td->api->swiglu(td->d, dg + at, 1, dg + at, 1, du + at, 1, 1, 1));
        td_get(td, got, dg, n * 4);
        assert_memory_equal(&alone, got + at, 4);
        td_ok(td, td->api->copy_in(td->d, PS_STREAM_COMPUTE, dg, g, n * 4));
    }
    td_ok(td, td->api->swiglu(td->d, dg, ld, dg, ld, du, ld, T, K)); /* in place */
    td_get(td, got, dg, n * 4);
    for (size_t i = 0; i < n; i++) {
        /* e^x within 2 units in the last place and three roundings; e^89 is infinite and the result then zero */
        if (!(fabsf(got[i] - want[i]) <= 5e-7f * fabsf(want[i]) + 1e-35f))
            fail_msg("T %zu K %zu: g %a u %a: %a, not %a", T, K, g[i], u[i], got[i], want[i]);
    }
    td_free_all(td);
    free(g), free(u), free(want), free(got);
}

static void test_swiglu(void **state)
{
    struct td *td = *state;
    swiglu_case(td, 1, 1, 1);
    swiglu_case(td, 3, 31, 33);
    swiglu_case(td, 3, 576, 576);
    swiglu_case(td, 2, 4097, 4100);
    swiglu_case(td, td_size(td, 2, 512), 28672, 28672);
    float g[4] = {-INFINITY, INFINITY, NAN, -200.0f}, u[4] = {1, 2, 1, 1}, y[4];
    float *dg = td_put(td, g, 16);
    td_ok(td, td->api->swiglu(td->d, dg, 4, dg, 4, td_put(td, u, 16), 4, 1, 4));
    td_get(td, y, dg, 16);
    assert_true(isnan(y[0]) && y[1] == INFINITY && isnan(y[2]) && y[3] == 0);
}

TD_MAIN(cmocka_unit_test(test_to_f32), cmocka_unit_test(test_kv_store), cmocka_unit_test(test_rope),
        cmocka_unit_test(test_add_bias), cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_swiglu))
