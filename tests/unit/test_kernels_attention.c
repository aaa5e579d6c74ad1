/* Attention of every backend against the reference, and the same bits however the rows are cut, shared out and
 * threaded. */
#include "test_kernels_common.h"

struct at_case {
    uint32_t n_heads, n_kv_heads, head_dim, window;
    float softcap;
    enum ps_dtype k, v;
    size_t n_pos; /* positions stored */
};

struct at_world {
    struct at_case c;
    void **k, **v;
    size_t n_pages;
    float *q; /* of all positions */
    size_t q_ld;
};

static struct at_world world_new(const struct at_case *c)
{
    struct at_world w = {.c = *c, .n_pages = (c->n_pos + PS_KV_PAGE - 1) / PS_KV_PAGE};
    size_t k_bytes = ps_kv_page_bytes(c->k, c->n_kv_heads, c->head_dim);
    size_t v_bytes = ps_kv_page_bytes(c->v, c->n_kv_heads, c->head_dim);
    size_t n = (size_t)c->n_kv_heads * c->head_dim;
    float *x = malloc(n * 4);
    w.k = malloc(w.n_pages * sizeof *w.k), w.v = malloc(w.n_pages * sizeof *w.v);
    for (size_t p = 0; p < w.n_pages; p++) { /* what was never stored is NaN: it must not matter */
        memset(w.k[p] = malloc(k_bytes), 0xff, k_bytes);
        memset(w.v[p] = malloc(v_bytes), 0xff, v_bytes);
    }
    for (size_t p = 0; p < c->n_pos; p++) {
        kt_fill(x, n, 2 * p + 1);
        ps_kv_store(w.k[p / PS_KV_PAGE], c->k, c->n_kv_heads, c->head_dim, p % PS_KV_PAGE, x);
        kt_fill(x, n, 2 * p + 2);
        ps_kv_store(w.v[p / PS_KV_PAGE], c->v, c->n_kv_heads, c->head_dim, p % PS_KV_PAGE, x);
    }
    free(x);
    w.q_ld = (size_t)c->n_heads * c->head_dim + 1;
    w.q = malloc(c->n_pos * w.q_ld * 4);
    kt_fill(w.q, c->n_pos * w.q_ld, 77);
    return w;
}

static void world_free(struct at_world *w)
{
    for (size_t p = 0; p < w->n_pages; p++)
        free(w->k[p]), free(w->v[p]);
    free(w->k), free(w->v), free(w->q);
}

/* Rows of the positions [from, to) in chunks of `chunk`; out has n_heads * head_dim + 2 floats a row. */
static void attend(const struct at_world *w, const struct ps_backend *be, struct ps_pool *pool,
                   size_t from, size_t to, size_t chunk, float *out)
{
    size_t out_ld = (size_t)w->c.n_heads * w->c.head_dim + 2;
    size_t floats = ps_attn_scratch_floats(ps_pool_threads(pool), w->c.head_dim);
    float *scratch = malloc(floats * 4);
    memset(scratch, 0xff, floats * 4);
    for (size_t p = from; p < to; p += chunk) {
        size_t T = to - p < chunk ? to - p : chunk;
        uint32_t *pos = malloc(T * sizeof *pos);
        for (size_t t = 0; t < T; t++)
            pos[t] = (uint32_t)(p + t);
        struct ps_attn a = {.q = w->q + p * w->q_ld,
                            .q_ld = w->q_ld,
                            .out = out + (p - from) * out_ld,
                            .out_ld = out_ld,
                            .T = T,
                            .n_heads = w->c.n_heads,
                            .n_kv_heads = w->c.n_kv_heads,
                            .head_dim = w->c.head_dim,
                            .pos = pos,
                            .window = w->c.window,
                            .scale = 1.0f / sqrtf((float)w->c.head_dim),
                            .softcap = w->c.softcap,
                            .k_pages = w->k,
                            .v_pages = w->v,
                            .k_dtype = w->c.k,
                            .v_dtype = w->c.v,
                            .scratch = scratch};
        be->attention(pool, &a);
        free(pos);
    }
    free(scratch);
}

static const struct at_case cases[] = {
    {4, 4, 64, 0, 0, PS_BF16, PS_BF16, 200},     {8, 2, 128, 0, 0, PS_F16, PS_F16, 150},
    {4, 1, 80, 0, 30.0f, PS_F32, PS_F32, 131},   {6, 2, 96, 70, 0, PS_BF16, PS_BF16, 210},
    {3, 3, 33, 5, 0, PS_F32, PS_F32, 70},        {71, 1, 64, 0, 0, PS_BF16, PS_BF16, 66},
    {2, 1, 256, 64, 50.0f, PS_F16, PS_F16, 129}, {1, 1, 8, 1, 0, PS_F32, PS_F32, 65},
    {14, 2, 64, 0, 0, PS_F32, PS_F32, 1},        {4, 2, 40, 0, 0, PS_F32, PS_F16, 140},
    {4, 4, 48, 9, 0, PS_BF16, PS_F32, 133},
};
#define N_CASES (sizeof cases / sizeof cases[0])

static void test_against_ref(void **state)
{
    const struct ps_backend *be[KT_BACKENDS], *ref = ps_backend_by_name("ref");
    size_t n = kt_backends(be);
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        struct at_world w = world_new(&cases[i]);
        size_t floats = w.c.n_pos * ((size_t)w.c.n_heads * w.c.head_dim + 2);
        float *want = calloc(floats, 4), *got = calloc(floats, 4);
        for (size_t b = 0; b < n; b++) {
            struct ps_pool *pool = kt_pool(2, be[b]);
            if (b == 0)
                attend(&w, ref, pool, 0, w.c.n_pos, w.c.n_pos, want);
            attend(&w, be[b], pool, 0, w.c.n_pos, w.c.n_pos, got);
            double e = kt_rel_rms(got, want, floats);
            if (!(e < 2e-6)) /* f32 sums of up to 256 products and 200 positions; exp within 2 ulp */
                fail_msg("%s case %zu: relative rms error %.3g", be[b]->name, i, e);
            ps_pool_free(pool);
        }
        free(want), free(got);
        world_free(&w);
    }
}

static void test_invariance(void **state)
{
    static const size_t chunks[] = {1, 2, 3, 7, 16, 33, 64, 100};
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        struct at_world w = world_new(&cases[i]);
        size_t floats = w.c.n_pos * ((size_t)w.c.n_heads * w.c.head_dim + 2);
        float *want = calloc(floats, 4), *got = calloc(floats, 4);
        for (size_t b = 1; b < n; b++)
            for (unsigned threads = 1; threads <= KT_MAX_THREADS; threads++) {
                struct ps_pool *pool = kt_pool(threads, be[b]);
                if (threads == 1)
                    attend(&w, be[b], pool, 0, w.c.n_pos, 1, want);
                for (size_t j = 0; j < sizeof chunks / sizeof chunks[0]; j++) {
                    memset(got, 0, floats * 4);
                    attend(&w, be[b], pool, 0, w.c.n_pos, chunks[j], got);
                    if (memcmp(got, want, floats * 4) != 0)
                        fail_msg("%s case %zu chunk %zu threads %u", be[b]->name, i, chunks[j],
                                 threads);
                }
                ps_pool_free(pool);
            }
        free(want), free(got);
        world_free(&w);
    }
}

/* Scores far apart: nothing overflows, and the row attends to its largest. */
static void test_extreme_scores(void **state)
{
    const struct ps_backend *be[KT_BACKENDS];
    size_t n = kt_backends(be);
    const struct at_case c = {1, 1, 16, 0, 0, PS_F32, PS_F32, 130};
    (void)state;
    for (size_t b = 0; b < n; b++) {
        struct ps_pool *pool = kt_pool(1, be[b]);
        struct at_world w = world_new(&c);
        float k[16], v[16], out[18];
        for (size_t p = 0; p < c.n_pos; p++)
            for (size_t d = 0; d < 16; d++) {
                k[d] = p == 100 ? 1e4f : -1e4f + (float)p, v[d] = (float)p;
                if (d == 15) {
                    ps_kv_store(w.k[p / PS_KV_PAGE], c.k, 1, 16, p % PS_KV_PAGE, k);
                    ps_kv_store(w.v[p / PS_KV_PAGE], c.v, 1, 16, p % PS_KV_PAGE, v);
                }
            }
        for (size_t d = 0; d < 16; d++)
            w.q[129 * w.q_ld + d] = 10.0f;
        attend(&w, be[b], pool, 129, 130, 1, out);
        for (size_t d = 0; d < 16; d++)
            assert_true(out[d] == 100.0f);
        world_free(&w);
        ps_pool_free(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_ref),
        cmocka_unit_test(test_invariance),
        cmocka_unit_test(test_extreme_scores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
