/* Row invariance of the products: the bits of C[t][r] are a matter of A[t] and W[r] alone. They must not change
 * with T, the panel's cut, the number of threads, the address of the rows, their stride, or the column offset. */
#include "test_kernels_common.h"

#define ROWS  37
#define MAX_T 1024

static const size_t lengths[] = {1, 31, 33, 200, 576};

static void same(const struct ps_backend *be, enum ps_dtype t, size_t K, const char *what, size_t i,
                 const float *got, const float *want, size_t n)
{
    if (memcmp(got, want, n * 4) != 0)
        fail_msg("%s %s K=%zu: %s %zu changes the result", be->name, kt_dtype(t), K, what, i);
}

struct world {
    const struct ps_backend *be;
    enum ps_dtype t;
    size_t K;
    struct kt_matrix m;
    float *a, *want, *got; /* [MAX_T][K], [MAX_T][ROWS] */
};

/* The yardstick: one thread, one row of A and one row of W at a time. */
static void world_init(struct world *w, const struct ps_backend *be, enum ps_dtype t, size_t K)
{
    *w = (struct world){.be = be, .t = t, .K = K, .m = kt_matrix_new(t, ROWS, K, 0, 0, K)};
    w->a = malloc(MAX_T * K * 4);
    w->want = malloc(MAX_T * ROWS * 4);
    w->got = malloc(MAX_T * ROWS * 4);
    kt_fill(w->a, MAX_T * K, 3);
    ps_backend_thread_start((void *)be);
    for (size_t i = 0; i < MAX_T; i++)
        for (size_t r = 0; r < ROWS;
             r += i < 20 ? 1 : ROWS) /* row by row for some: the rest follows from that */
            kt_matmul(be, NULL, w->a + i * K, 1, K, &w->m, r, i < 20 ? r + 1 : ROWS,
                      w->want + i * ROWS, ROWS, r, false);
}

static void world_deinit(struct world *w)
{
    free(w->a), free(w->want), free(w->got);
    kt_matrix_free(&w->m);
}

static void over_T(struct world *w, struct ps_pool *pool)
{
    for (size_t T = 1; T <= MAX_T; T += T < 40 ? 1 : T < 300 ? 61 : 181) {
        memset(w->got, 0, T * ROWS * 4);
        kt_matmul(w->be, pool, w->a, T, w->K, &w->m, 0, ROWS, w->got, ROWS, 0, false);
        same(w->be, w->t, w->K, "T =", T, w->got, w->want, T * ROWS);
    }
    kt_matmul(w->be, pool, w->a, MAX_T, w->K, &w->m, 0, ROWS, w->got, ROWS, 0, false);
    same(w->be, w->t, w->K, "T =", MAX_T, w->got, w->want, MAX_T * ROWS);
}

static void over_cuts(struct world *w, struct ps_pool *pool)
{
    static const size_t Ts[] = {1, 5, 16, 100};
    for (size_t i = 0; i < 4; i++)
        for (size_t cut = 1; cut < ROWS; cut += 3) {
            memset(w->got, 0, Ts[i] * ROWS * 4);
            kt_matmul(w->be, pool, w->a, Ts[i], w->K, &w->m, 0, cut, w->got, ROWS, 0, false);
            kt_matmul(w->be, pool, w->a, Ts[i], w->K, &w->m, cut, ROWS, w->got, ROWS, cut, false);
            same(w->be, w->t, w->K, "panel cut at", cut, w->got, w->want, Ts[i] * ROWS);
        }
}

/* Panels in one call, apart from one another and out of order, one of them empty; a row that no panel has is left
 * alone. */
static void over_panels(struct world *w, struct ps_pool *pool)
{
    static const size_t Ts[] = {1, 3, 16, 40}, cuts[] = {0, 1, 1, 17, 33, 36};
    enum { N = sizeof cuts / sizeof cuts[0] - 1 };
    for (size_t i = 0; i < 4; i++) {
        size_t bytes = w->be->act_bytes(w->t, Ts[i], w->K);
        void *packed = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
        struct ps_act act = {
            .a = w->a, .T = Ts[i], .K = w->K, .lda = w->K, .weights = w->t, .packed = packed};
        struct ps_matrix panels[N];
        for (size_t p = 0; p < N; p++)
            panels[N - 1 - p] = kt_panel(&w->m, cuts[p], cuts[p + 1], cuts[p]);
        w->be->act_pack(pool, &act);
        memset(w->got, 0x55, Ts[i] * ROWS * 4);
        w->be->matmul(pool, &act, panels, N, w->got, ROWS, false);
        for (size_t t = 0; t < Ts[i]; t++) {
            uint32_t left;
            memcpy(&left, &w->got[t * ROWS + ROWS - 1], 4);
            assert_int_equal(left, 0x55555555);
            same(w->be, w->t, w->K, "panels in one call, T =", Ts[i], w->got + t * ROWS,
                 w->want + t * ROWS, ROWS - 1);
        }
        free(packed);
    }
}

/* Rows at every byte offset from a cache line, with odd strides too, ending before an unreadable page. */
static void over_addresses(struct world *w, struct ps_pool *pool)
{
    static const size_t Ts[] = {1, 3, 16, 40};
    for (size_t shift = 0; shift < 67; shift += shift < 9 ? 1 : 5)
        for (size_t i = 0; i < 4; i++) {
            struct kt_matrix m = kt_matrix_new(w->t, ROWS, w->K, shift % 4, shift, w->K);
            kt_matmul(w->be, pool, w->a, Ts[i], w->K, &m, 0, ROWS, w->got, ROWS, 0, false);
            same(w->be, w->t, w->K, "address shift", shift, w->got, w->want, Ts[i] * ROWS);
            kt_matrix_free(&m);
        }
}

/* The finished sum is added once: C + sum, rounded once. */
static void accumulates(struct world *w, struct ps_pool *pool)
{
    for (size_t T = 1; T <= 64; T += 9) {
        kt_fill(w->got, T * ROWS, 8);
        float *sum = malloc(T * ROWS * 4);
        for (size_t i = 0; i < T * ROWS; i++)
            sum[i] = w->got[i] + w->want[i];
        kt_matmul(w->be, pool, w->a, T, w->K, &w->m, 0, ROWS, w->got, ROWS, 0, true);
        same(w->be, w->t, w->K, "accumulating, T =", T, w->got, sum, T * ROWS);
        free(sum);
    }
}

static void test_invariance(void **state)
{
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    (void)state;
    for (size_t b = 0; b < n; b++)
        for (size_t t = 0; t < KT_TYPES; t++)
            for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
                struct world w;
                if (b == 0 && lengths[k] > 100)
                    continue; /* the reference is slow, and plainly invariant */
                world_init(&w, be[b], kt_types[t], lengths[k]);
                for (unsigned threads = 1; threads <= KT_MAX_THREADS; threads++) {
                    struct ps_pool *pool = kt_pool(threads, be[b]);
                    over_T(&w, pool);
                    over_cuts(&w, pool);
                    over_panels(&w, pool);
                    accumulates(&w, pool);
                    if (threads == 1)
                        over_addresses(&w, pool);
                    ps_pool_free(pool);
                }
                world_deinit(&w);
            }
}

/* Where K and T are large, the sums rest in memory between stretches of K. */
static void test_long_rows(void **state)
{
    enum { K = 8300, T = 50, rows = 70 };
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    float *a = malloc((size_t)T * K * 4), want[T][rows], got[T][rows];
    (void)state;
    kt_fill(a, (size_t)T * K, 3);
    for (size_t b = 1; b < n; b++)
        for (size_t t = 0; t < KT_TYPES; t++) {
            struct kt_matrix m = kt_matrix_new(kt_types[t], rows, K, t, 0, K);
            struct ps_pool *pool = kt_pool(2, be[b]);
            for (size_t i = 0; i < T; i++)
                kt_matmul(be[b], pool, a + i * K, 1, K, &m, 0, rows, want[i], rows, 0, false);
            for (size_t i = 7; i <= T; i += i < 20 ? 5 : 9) {
                memset(got, 0, sizeof got);
                kt_matmul(be[b], pool, a, i, K, &m, 0, rows, got[0], rows, 0, false);
                same(be[b], kt_types[t], K, "T =", i, got[0], want[0], i * rows);
                kt_matmul(be[b], pool, a, i, K, &m, 0, 41, got[0], rows, 0, false);
                same(be[b], kt_types[t], K, "T =", i, got[0], want[0], i * rows);
            }
            ps_pool_free(pool);
            kt_matrix_free(&m);
        }
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_invariance),
                                       cmocka_unit_test(test_long_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
