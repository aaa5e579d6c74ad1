/* Products of every backend that runs here against the reference: sizes with all kinds of tails, all weight types,
 * rows that end where readable memory ends, special values. */
#include "test_kernels_common.h"

#include "base/host.h"

/* Bounds of the rms error relative to the rms that the sums are expected to have, sqrt(K) (a few sums may happen
 * to be small). f32 sums of K products lose about 2^-24 sqrt(K / lanes): 1e-6 is generous. By dot products of bf16 the
 * weights meet activations of hi + lo halves, each within 2^-17 or so: 1e-5 (measured 3e-6; plain bf16: 2e-3). Those of
 * NF4B64 are fixed-point numbers of 16 bits there: where the largest of eight is below four, what is rounded has an rms
 * of 2^-13 / sqrt(12) at most, 3.5e-5. */
static double bound(const struct ps_backend *be, enum ps_dtype t)
{
    bool amx = strcmp(be->name, "amx") == 0, dots = be == ps_backend_by_name("avx512") || amx;
    if (t == PS_NF4B64 && dots && ps_host_cpu()->avx512_vnni)
        return 4e-5;
    return dots && (t == PS_BF16 || t == PS_MXFP4 || t == PS_F8_E4M3) ? 1e-5 : 1e-6;
}

static void check(const struct ps_backend *be, struct ps_pool *pool, enum ps_dtype t, size_t T,
                  size_t K, size_t rows, bool accumulate)
{
    const struct ps_backend *ref = ps_backend_by_name("ref");
    size_t ldc = rows + 5, lda = K + 3;
    struct kt_matrix m = kt_matrix_new(t, rows, K, 0, 0, K * 131 + rows);
    struct kt_guard a = kt_guard_new(((T - 1) * lda + K) * 4);
    float *want = malloc(T * ldc * 4), *got = malloc(T * ldc * 4);
    kt_fill((float *)(void *)a.p, (T - 1) * lda + K, T * 7 + K);
    kt_fill(want, T * ldc, 99);
    memcpy(got, want, T * ldc * 4);
    kt_matmul(ref, pool, (float *)(void *)a.p, T, lda, &m, 0, rows, want, ldc, 2, accumulate);
    kt_matmul(be, pool, (float *)(void *)a.p, T, lda, &m, 0, rows, got, ldc, 2, accumulate);
    double e = 0;
    for (size_t i = 0; i < T * ldc; i++)
        e += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
    e = sqrt(e / (double)(T * rows) / (double)K);
    if (!(e <= bound(be, t)))
        fail_msg("%s %s T=%zu K=%zu rows=%zu: relative rms %.3g", be->name, kt_dtype(t), T, K, rows,
                 e);
    for (size_t i = 0; i < T; i++) { /* its neighbours in C are left alone */
        assert_memory_equal(got + i * ldc, want + i * ldc, 8);
        assert_memory_equal(got + i * ldc + rows + 2, want + i * ldc + rows + 2, 12);
    }
    free(want), free(got);
    kt_guard_free(&a);
    kt_matrix_free(&m);
}

static void each_backend(void (*fn)(const struct ps_backend *be, struct ps_pool *pool))
{
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    for (size_t b = 0; b < n; b++) {
        struct ps_pool *pool = kt_pool(2, be[b]);
        fn(be[b], pool);
        ps_pool_free(pool);
    }
}

static void lengths(const struct ps_backend *be, struct ps_pool *pool)
{
    static const size_t K[] = {1,  2,  7,  8,  9,  15,  16,  17,   31,
                               32, 33, 63, 64, 65, 100, 576, 1536, 4099};
    static const size_t T[] = {1, 2, 3, 5, 6, 7, 8, 9, 17};
    for (size_t t = 0; t < KT_TYPES; t++)
        for (size_t k = 0; k < sizeof K / sizeof K[0]; k++)
            for (size_t i = 0; i < sizeof T / sizeof T[0]; i++)
                check(be, pool, kt_types[t], T[i], K[k], 5, i & 1);
}

static void row_counts(const struct ps_backend *be, struct ps_pool *pool)
{
    for (size_t t = 0; t < KT_TYPES; t++)
        for (size_t rows = 1; rows <= 40; rows++) {
            check(be, pool, kt_types[t], 1, 70, rows, rows & 1);
            check(be, pool, kt_types[t], 2 + rows % 13, 70, rows, rows & 1);
        }
}

static void many_columns(const struct ps_backend *be, struct ps_pool *pool)
{
    static const size_t T[] = {16, 31, 32, 33, 64, 128, 200, 512, 1024};
    for (size_t t = 0; t < KT_TYPES; t++)
        for (size_t i = 0; i < sizeof T / sizeof T[0]; i++) {
            check(be, pool, kt_types[t], T[i], 136, 37, false);
            check(be, pool, kt_types[t], T[i], 72, 3, true);
        }
}

static void test_lengths(void **state)
{
    (void)state;
    each_backend(lengths);
}

static void test_row_counts(void **state)
{
    (void)state;
    each_backend(row_counts);
}

static void test_many_columns(void **state)
{
    (void)state;
    each_backend(many_columns);
}

#if PS_KERNELS_X86
/* CPUs that have one kind of dot products and not the other: types go their ways one by one. */
static void test_fewer_features(void **state)
{
    const struct ps_backend *be = ps_backend_by_name("avx512");
    const uintptr_t at = (uintptr_t)ps_host_cpu(); /* read at every product */
    struct ps_cpu_features *cpu = (struct ps_cpu_features *)at, all = *cpu;
    (void)state;
    if (!be || !all.avx512_vnni || !all.avx512_bf16)
        skip();
    struct ps_pool *pool = kt_pool(2, be);
    for (int i = 0; i < 3; i++) {
        cpu->avx512_bf16 = i == 1;
        cpu->avx512_vnni = i == 0;
        cpu->avx512_vbmi = i == 2;
        assert_true((ps_backend_by_name("avx512") == &ps_cpu_avx512) == (i == 2));
        for (size_t t = 0; t < KT_TYPES; t++) {
            check(be, pool, kt_types[t], 1, 576, 13, false);
            check(be, pool, kt_types[t], 7, 130, 5, true);
        }
    }
    *cpu = all;
    ps_pool_free(pool);
}
#endif

/* One weight and one activation, the rest zeros: what must come out. */
static float one_product(const struct ps_backend *be, enum ps_dtype t, float w, float x, size_t K,
                         size_t at)
{
    struct kt_matrix m = kt_matrix_new(t, 4, K, 0, 0, 1);
    float *a = calloc(K, 4), c[4];
    memset(m.g.p, 0, 4 * m.stride);
    for (size_t r = 0; r < 4; r++)
        kt_put(m.g.p + r * m.stride + at * kt_size(t), t, w);
    a[at] = x;
    kt_matmul(be, NULL, a, 1, K, &m, 0, 4, c, 4, 0, false);
    for (size_t r = 1; r < 4; r++)
        assert_memory_equal(c, c + r, 4);
    free(a);
    kt_matrix_free(&m);
    return c[0];
}

static void special(const struct ps_backend *be, struct ps_pool *pool)
{
    (void)pool;
    ps_backend_thread_start((void *)be);
    for (size_t i = 0; i < KT_PLAIN; i++)
        for (size_t K = 1; K < 70; K += 23) {
            enum ps_dtype t = kt_types[i];
            assert_true(one_product(be, t, 1.5f, 2.0f, K, K - 1) == 3.0f);
            assert_true(one_product(be, t, 0.0f, 2.0f, K, 0) == 0.0f);
            assert_true(one_product(be, t, 2.0f, INFINITY, K, 0) == INFINITY || K > 1);
            assert_true(isnan(one_product(be, t, NAN, 1.0f, K, K - 1)));
            assert_true(isnan(one_product(be, t, 1.0f, NAN, K, K / 2)));
            /* close to the largest float: rounding to bf16 would give infinity */
            float big = one_product(be, t, 0.5f, 3.4e38f, K, K / 2);
            assert_true(fabsf(big / 1.7e38f - 1) < 1e-4f);
            big = one_product(be, t, -1.0f, 3.4e38f, K, K - 1);
            assert_true(fabsf(big / -3.4e38f - 1) < 1e-4f);
        }
    assert_true(one_product(be, PS_F16, 0x1p-24f, 0x1p24f, 9, 3) == 1.0f); /* f16 denormal */
    assert_true(one_product(be, PS_F16, 65504.0f, 1.0f, 40, 39) == 65504.0f);
}

static void test_special(void **state)
{
    (void)state;
    each_backend(special);
}

/* hi + lo keeps what bf16 activations alone would lose: a regression here is easily a silent one. */
static void precision(const struct ps_backend *be, struct ps_pool *pool)
{
    const struct ps_backend *ref = ps_backend_by_name("ref");
    struct kt_matrix m = kt_matrix_new(PS_BF16, 64, 4096, 0, 0, 5);
    float *a = malloc(4096 * 4), want[64], got[64];
    kt_fill(a, 4096, 6);
    kt_matmul(ref, pool, a, 1, 4096, &m, 0, 64, want, 64, 0, false);
    kt_matmul(be, pool, a, 1, 4096, &m, 0, 64, got, 64, 0, false);
    print_message("%s: bf16, K=4096: relative rms error %.2g\n", be->name, kt_rel_rms(got, want, 64));
    assert_true(kt_rel_rms(got, want, 64) < 1e-5);
    free(a);
    kt_matrix_free(&m);
}

static void test_precision(void **state)
{
    (void)state;
    each_backend(precision);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_row_counts),
        cmocka_unit_test(test_many_columns),
#if PS_KERNELS_X86
        cmocka_unit_test(test_fewer_features),
#endif
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
