/* The AMX backend's algorithm, its own source compiled against a software model of the tile instructions: layout,
 * tails, hi and lo, row invariance. What this can't show is that the real instructions do what the model does. */
#include "test_kernels_common.h"

#define PS_AMX_EMULATE 1
#include "kernels/cpu_amx.c"

static const struct ps_backend *const be = &ps_cpu_amx_emulated;

static void test_against_ref(void **state)
{
    static const size_t Ks[] = {1, 2, 7, 31, 32, 33, 64, 100, 576},
                        Ts[] = {1, 2, 7, 8, 9, 16, 17, 24, 40};
    const struct ps_backend *ref = ps_backend_by_name("ref");
    (void)state;
    for (size_t i = 0; i < 9; i++)
        for (size_t j = 0; j < 9; j++)
            for (size_t rows = 1; rows <= 40; rows += 1 + (i * 7 + j * 3) % 12) {
                size_t T = Ts[j], K = Ks[i];
                struct kt_matrix m = kt_matrix_new(PS_BF16, rows, K, rows % 3, 0, K);
                struct kt_guard a = kt_guard_new(T * K * 4);
                float *want = calloc(T * rows, 4), *got = calloc(T * rows, 4);
                kt_fill((float *)(void *)a.p, T * K, T);
                kt_matmul(ref, NULL, (float *)(void *)a.p, T, K, &m, 0, rows, want, rows, 0, j & 1);
                kt_matmul(be, NULL, (float *)(void *)a.p, T, K, &m, 0, rows, got, rows, 0, j & 1);
                for (size_t k = 0; k < T * rows; k++)
                    assert_true(fabsf(got[k] - want[k]) < 5e-5f * sqrtf((float)K));
                free(want), free(got);
                kt_guard_free(&a);
                kt_matrix_free(&m);
            }
}

static void test_precision(void **state)
{
    const struct ps_backend *ref = ps_backend_by_name("ref");
    struct kt_matrix m = kt_matrix_new(PS_BF16, 32, 4096, 0, 0, 5);
    float a[4096], want[32], got[32];
    (void)state;
    kt_fill(a, 4096, 6);
    kt_matmul(ref, NULL, a, 1, 4096, &m, 0, 32, want, 32, 0, false);
    kt_matmul(be, NULL, a, 1, 4096, &m, 0, 32, got, 32, 0, false);
    print_message("amx emulated: bf16, K=4096: relative rms error %.2g\n", kt_rel_rms(got, want, 32));
    assert_true(kt_rel_rms(got, want, 32) < 1e-5);
    kt_matrix_free(&m);
}

static void test_invariance(void **state)
{
    enum { rows = 37, K = 70, max_T = 50 };
    struct kt_matrix m = kt_matrix_new(PS_BF16, rows, K, 0, 0, 1);
    float *a = malloc(max_T * K * 4), want[max_T][rows], got[max_T][rows];
    (void)state;
    kt_fill(a, max_T * K, 2);
    for (size_t t = 0; t < max_T; t++)
        for (size_t r = 0; r < rows; r++)
            kt_matmul(be, NULL, a + t * K, 1, K, &m, r, r + 1, want[t], rows, r, false);
    for (unsigned threads = 1; threads <= 2; threads++) {
        struct ps_pool *pool = kt_pool(threads, NULL);
        for (size_t T = 1; T <= max_T; T++) {
            size_t cut = 1 + T % (rows - 1);
            struct kt_matrix n = kt_matrix_new(PS_BF16, rows, K, T % 5, T % 64, 1);
            memset(got, 0, sizeof got);
            kt_matmul(be, pool, a, T, K, &m, 0, rows, got[0], rows, 0, false);
            assert_memory_equal(got, want, T * rows * 4);
            memset(got, 0, sizeof got);
            kt_matmul(be, pool, a, T, K, &n, 0, cut, got[0], rows, 0, false);
            kt_matmul(be, pool, a, T, K, &n, cut, rows, got[0], rows, cut, false);
            assert_memory_equal(got, want, T * rows * 4);
            kt_matrix_free(&n);
        }
        ps_pool_free(pool);
    }
    free(a);
    kt_matrix_free(&m);
}

/* Long rows and many columns: the sums rest in memory between stretches of K. */
static void test_long_rows(void **state)
{
    enum { rows = 20, K = 4200, T = 24 };
    struct kt_matrix m = kt_matrix_new(PS_BF16, rows, K, 0, 0, 1);
    float *a = malloc((size_t)T * K * 4), want[T][rows], got[T][rows];
    (void)state;
    kt_fill(a, (size_t)T * K, 2);
    for (size_t t = 0; t < T; t++)
        kt_matmul(be, NULL, a + t * K, 1, K, &m, 0, rows, want[t], rows, 0, false);
    kt_matmul(be, NULL, a, T, K, &m, 0, rows, got[0], rows, 0, false);
    assert_memory_equal(got, want, sizeof want);
    free(a);
    kt_matrix_free(&m);
}

/* The model itself: a product worked out by hand, and denormals as zero. */
static void test_model(void **state)
{
    uint8_t a[1024] = {0}, b[1024] = {0};
    float c[16][16];
    (void)state;
    kt_put(a + 3 * 64, PS_BF16, 2.0f), kt_put(a + 3 * 64 + 2, PS_BF16, 3.0f); /* row 3: k = 0, 1 */
    kt_put(a + 3 * 64 + 62, PS_BF16, 5.0f);                                   /* k = 31 */
    kt_put(b + 7 * 4, PS_BF16, 10.0f), kt_put(b + 7 * 4 + 2, PS_BF16, 100.0f); /* column 7: k = 0, 1 */
    kt_put(b + 15 * 64 + 7 * 4 + 2, PS_BF16, 1000.0f);
    kt_put(b + 8 * 4, PS_BF16, 0x1p-130f); /* column 8 */
    _tile_zero(0);
    _tile_loadd(1, a, 64);
    _tile_loadd(2, b, 64);
    _tile_dpbf16ps(0, 1, 2);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, c, 64);
    assert_true(c[3][7] == 2 * (20.0f + 300.0f + 5000.0f));
    assert_true(c[3][8] == 0 && c[2][7] == 0 && c[3][6] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model),     cmocka_unit_test(test_against_ref),
        cmocka_unit_test(test_precision), cmocka_unit_test(test_invariance),
        cmocka_unit_test(test_long_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
