/* Attention of a device: against the reference, and the same bits whichever rows share a call, whether chunks are
 * spread over the device or walked by a block, and whatever lies in places that a row does not see. */
#include "tests/gpu/test_device.h"

struct at_case {
    uint32_t n_heads, n_kv_heads, head_dim, window;
    float softcap;
    enum ps_dtype k, v;
    size_t n_pos; /* positions stored */
};

/* A KV on the host and on the device, and queries for the last n_q positions. */
struct at_world {
    struct at_case c;
    size_t first_page, n_pages; /* those before first_page are not there */
    void **k, **v;              /* host */
    void **dk, **dv;            /* device: tables */
    uint8_t *k_pages, *v_pages; /* device: pages first_page .. n_pages - 1, in reverse */
    size_t k_bytes, v_bytes;    /* of a page */
    size_t n_q, q_ld, out_ld;
    float *q, *dq;
};

static size_t place(const struct at_world *w, size_t page)
{
    return w->n_pages - 1 - page;
}

static void world_pages(struct td *td, struct at_world *w)
{
    size_t n = w->n_pages - w->first_page;
    void **table = malloc(w->n_pages * sizeof *table);
    w->k_pages = td_alloc(td, n * w->k_bytes);
    w->v_pages = td_alloc(td, n * w->v_bytes);
    for (int values = 0; values < 2; values++) {
        memset(table, 0xfe, w->n_pages * sizeof *table); /* addresses of nothing */
        for (size_t p = w->first_page; p < w->n_pages; p++)
            table[p] = values ? w->v_pages + place(w, p) * w->v_bytes
                              : w->k_pages + place(w, p) * w->k_bytes;
        void **on_device = td_put(td, table, w->n_pages * sizeof *table);
        if (values)
            w->dv = on_device;
        else
            w->dk = on_device;
    }
    free(table);
}

/* The host's pages to the device. */
static void world_upload(struct td *td, struct at_world *w)
{
    for (size_t p = w->first_page; p < w->n_pages; p++) {
        td_ok(td, td->api->copy_in(td->d, PS_STREAM_COMPUTE, w->k_pages + place(w, p) * w->k_bytes,
                                   w->k[p], w->k_bytes));
        td_ok(td, td->api->copy_in(td->d, PS_STREAM_COMPUTE, w->v_pages + place(w, p) * w->v_bytes,
                                   w->v[p], w->v_bytes));
    }
}

/* What was never stored is NaN: it must not matter. */
static struct at_world world_new(struct td *td, const struct at_case *c, size_t n_q)
{
    struct at_world w = {.c = *c, .n_pages = (c->n_pos + PS_KV_PAGE - 1) / PS_KV_PAGE, .n_q = n_q};
    size_t n = (size_t)c->n_kv_heads * c->head_dim, seen = n_q + c->window;
    w.k_bytes = ps_kv_page_bytes(c->k, c->n_kv_heads, c->head_dim);
    w.v_bytes = ps_kv_page_bytes(c->v, c->n_kv_heads, c->head_dim);
    if (c->window && c->n_pos > seen)
        w.first_page = (c->n_pos - seen) / PS_KV_PAGE;
    float *x = malloc(n * 4);
    w.k = calloc(w.n_pages, sizeof *w.k), w.v = calloc(w.n_pages, sizeof *w.v);
    for (size_t p = w.first_page; p < w.n_pages; p++) {
        memset(w.k[p] = malloc(w.k_bytes), 0xff, w.k_bytes);
        memset(w.v[p] = malloc(w.v_bytes), 0xff, w.v_bytes);
    }
    for (size_t p = w.first_page * PS_KV_PAGE; p < c->n_pos; p++) {
        kt_fill(x, n, 2 * p + 1);
        ps_kv_store(w.k[p / PS_KV_PAGE], c->k, c->n_kv_heads, c->head_dim, p % PS_KV_PAGE, x);
        kt_fill(x, n, 2 * p + 2);
        ps_kv_store(w.v[p / PS_KV_PAGE], c->v, c->n_kv_heads, c->head_dim, p % PS_KV_PAGE, x);
    }
    free(x);
    w.q_ld = (size_t)c->n_heads * c->head_dim + 1;
    w.out_ld = (size_t)c->n_heads * c->head_dim + 2;
    w.q = malloc(n_q * w.q_ld * 4);
    kt_fill(w.q, n_q * w.q_ld, 77);
    w.dq = td_put(td, w.q, n_q * w.q_ld * 4);
    world_pages(td, &w);
    world_upload(td, &w);
    return w;
}

static void world_free(struct td *td, struct at_world *w)
{
    for (size_t p = 0; p < w->n_pages; p++)
        free(w->k[p]), free(w->v[p]);
    free(w->k), free(w->v), free(w->q);
    td_free_all(td);
}

static struct ps_attn attn_of(const struct at_world *w, size_t T)
{
    return (struct ps_attn){.q_ld = w->q_ld,
                            .out_ld = w->out_ld,
                            .T = T,
                            .n_heads = w->c.n_heads,
                            .n_kv_heads = w->c.n_kv_heads,
                            .head_dim = w->c.head_dim,
                            .window = w->c.window,
                            .scale = 1.0f / sqrtf((float)w->c.head_dim),
                            .softcap = w->c.softcap,
                            .k_dtype = w->c.k,
                            .v_dtype = w->c.v};
}

/* Position of the i-th query, unless a test says otherwise. */
static uint32_t pos_of(const struct at_world *w, size_t i)
{
    return (uint32_t)(w->c.n_pos - w->n_q + i);
}

static void ref_attend(const struct at_world *w, const uint32_t *pos, size_t T, float *out)
{
    struct ps_attn a = attn_of(w, T);
    float scratch[4096];
    assert_true(ps_attn_scratch_floats(1, 8) > 0);
    a.q = w->q, a.out = out, a.pos = pos;
    a.k_pages = w->k, a.v_pages = w->v;
    a.scratch = scratch; /* ref keeps nothing */
    ps_backend_by_name("ref")->attention(NULL, &a);
}

/* Rows [i0, i0 + T) of the queries in one call. `longest`: what the host says of the largest position. The scratch
 * is as large as asked for, to the byte: the emulated device guards its end. */
static void attend(struct td *td, const struct at_world *w, const uint32_t *pos, size_t i0,
                   size_t T, uint32_t longest, float *out)
{
    struct ps_attn a = attn_of(w, T);
    size_t bytes = td->api->attn_bytes(td->d, T, w->c.n_heads, w->c.head_dim, longest);
    size_t before = td->n_allocs;
    a.q = w->dq + i0 * w->q_ld;
    a.out = td_alloc(td, T * w->out_ld * 4);
    a.pos = td_put(td, pos + i0, T * sizeof *pos);
    a.k_pages = w->dk, a.v_pages = w->dv;
    a.scratch = bytes ? td_alloc(td, bytes) : NULL;
    td_ok(td, td->api->attention(td->d, &a, longest));
    td_get(td, out, a.out, T * w->out_ld * 4);
    while (td->n_allocs > before)
        td->api->free(td->d, td->allocs[--td->n_allocs]);
}

/* Rows of out_ld, of which the last two floats belong to nobody. */
static double rel_rms(const struct at_world *w, const float *got, const float *want, size_t T)
{
    double e = 0, s = 0;
    size_t n = (size_t)w->c.n_heads * w->c.head_dim;
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < n; i++) {
            double d = (double)got[t * w->out_ld + i] - (double)want[t * w->out_ld + i];
            e += d * d;
            s += (double)want[t * w->out_ld + i] * (double)want[t * w->out_ld + i];
        }
    return sqrt(e / s);
}

static void same_rows(const struct at_world *w, const float *a, const float *b, size_t T,
                      const char *what, size_t first)
{
    size_t n = (size_t)w->c.n_heads * w->c.head_dim;
    for (size_t t = 0; t < T; t++)
        if (memcmp(a + t * w->out_ld, b + t * w->out_ld, n * 4) != 0)
            fail_msg("heads %u/%u dim %u window %u: row %zu differs: %s", w->c.n_heads,
                     w->c.n_kv_heads, w->c.head_dim, w->c.window, first + t, what);
}

static float *floats(const struct at_world *w)
{
    return calloc(w->n_q * w->out_ld, 4);
}

/* A case: all rows at once, the first n_ref of them against the reference; then some of them in smaller calls, bit by
 * bit. */
static void run_case(struct td *td, const struct at_case *c, size_t n_q, size_t n_ref)
{
    static const size_t Ts[] = {1, 2, 5, 16, 33, 64};
    struct at_world w = world_new(td, c, n_q);
    float *want = floats(&w), *all = floats(&w), *some = floats(&w);
    uint32_t *pos = malloc(n_q * sizeof *pos), last = pos_of(&w, n_q - 1);
    for (size_t i = 0; i < n_q; i++)
        pos[i] = pos_of(&w, i);
    attend(td, &w, pos, 0, n_q, last, all);
    ref_attend(&w, pos, n_ref, want);
    double e = rel_rms(&w, all, want, n_ref);
    /* float32 chains of head_dim products and of a chunk's positions, e^x within 2 units in the last place */
    if (!(e < 1e-6))
        fail_msg("heads %u/%u dim %u pos %zu: relative rms error %.3g", c->n_heads, c->n_kv_heads,
                 c->head_dim, c->n_pos, e);
    for (size_t i = 0; i < sizeof Ts / sizeof Ts[0] && Ts[i] < n_q; i++)
        for (size_t side = 0; side < 2; side++) {
            size_t T = Ts[i], from = side ? n_q - T : (n_q - T) / 2;
            attend(td, &w, pos, from, T, pos[from + T - 1], some);
            same_rows(&w, some, all + from * w.out_ld, T, "in a smaller call", from);
        }
    free(want), free(all), free(some), free(pos);
    world_free(td, &w);
}

static const struct at_case cases[] = {
    {4, 4, 64, 0, 0, PS_BF16, PS_BF16, 200},     {8, 2, 128, 0, 0, PS_F16, PS_F16, 150},
    {4, 1, 80, 0, 30.0f, PS_F32, PS_F32, 131},   {6, 2, 96, 70, 0, PS_BF16, PS_BF16, 330},
    {3, 3, 33, 5, 0, PS_F32, PS_F32, 90},        {71, 1, 64, 0, 0, PS_BF16, PS_BF16, 140},
    {2, 1, 256, 64, 50.0f, PS_F16, PS_F16, 290}, {1, 1, 8, 1, 0, PS_F32, PS_F32, 130},
    {7, 1, 20, 0, 0, PS_BF16, PS_F16, 470},      {14, 2, 64, 0, 0, PS_F32, PS_F16, 129},
    {4, 2, 40, 100, 0, PS_F32, PS_BF16, 300},    {3, 1, 48, 9, 0, PS_BF16, PS_F32, 133},
    {2, 2, 512, 0, 0, PS_BF16, PS_F32, 135},     {8, 1, 192, 130, 0, PS_F16, PS_BF16, 260},
    {4, 4, 128, 200, 0, PS_BF16, PS_BF16, 520},  {16, 2, 128, 0, 0, PS_BF16, PS_BF16, 390},
    {7, 7, 104, 0, 20.0f, PS_F16, PS_F32, 193},  {1, 1, 1, 0, 0, PS_BF16, PS_BF16, 65},
    {5, 1, 264, 300, 0, PS_F32, PS_BF16, 400},   {2, 1, 65, 0, 0, PS_F16, PS_BF16, 257},
    {3, 1, 130, 64, 0, PS_F32, PS_F16, 320},
};
#define N_CASES (sizeof cases / sizeof cases[0])

static void test_against_ref(void **state)
{
    struct td *td = *state;
    for (size_t i = 0; i < N_CASES; i++) {
        size_t cost = (size_t)cases[i].n_heads * cases[i].n_pos;
        size_t n_q = td_size(td, cost > 4000 ? 18 : 70, 70);
        n_q = n_q < cases[i].n_pos ? n_q : cases[i].n_pos;
        run_case(td, &cases[i], n_q, n_q);
    }
}

/* What a GPU can do and the emulation can't: thousands of positions, many rows. */
static void test_large(void **state)
{
    struct td *td = *state;
    static const struct at_case large[] = {
        {32, 8, 128, 0, 0, PS_BF16, PS_BF16, 5000},
        {64, 8, 128, 0, 0, PS_F16, PS_F16, 3000},
        {8, 8, 64, 0, 0, PS_F32, PS_F32, 4500},
        {16, 8, 256, 1024, 50.0f, PS_BF16, PS_BF16, 6000},
        {32, 4, 128, 4096, 0, PS_BF16, PS_F16, 40000},
    };
    if (!td->real || td->small)
        skip();
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++)
        run_case(td, &large[i], 66, 3);
}

/* A whole prompt, walked by blocks, against some of its rows alone. */
static void test_prompt(void **state)
{
    struct td *td = *state;
    const struct at_case c = {32, 8, 128, 0, 0, PS_BF16, PS_BF16, 2048};
    const size_t n_q = 1024;
    if (!td->real || td->small)
        skip();
    struct at_world w = world_new(td, &c, n_q);
    float *all = floats(&w), *some = floats(&w), *want = floats(&w);
    uint32_t pos[1024];
    for (size_t i = 0; i < n_q; i++)
        pos[i] = pos_of(&w, i);
    attend(td, &w, pos, 0, n_q, pos[n_q - 1], all);
    for (size_t i = 0; i < n_q; i += 93) {
        attend(td, &w, pos, i, 1, pos[i], some);
        same_rows(&w, some, all + i * w.out_ld, 1, "alone", i);
    }
    ref_attend(&w, pos, 8, want);
    double e = rel_rms(&w, all, want, 8);
    if (!(e < 1e-6))
        fail_msg("relative rms error %.3g", e);
    free(all), free(some), free(want);
    world_free(td, &w);
}

/* Rows of one call may stand anywhere in the text, in any order. */
static void test_scattered_rows(void **state)
{
    struct td *td = *state;
    const struct at_case c = {6, 2, 24, 150, 0, PS_BF16, PS_BF16, 400};
    uint32_t pos[] = {399, 0, 128, 127, 260, 64, 63, 390, 1, 255};
    enum { T = sizeof pos / sizeof pos[0] };
    struct at_case all_stored = c;
    all_stored.window = 0; /* so that every page is there */
    struct at_world w = world_new(td, &all_stored, T);
    w.c.window = c.window;
    float *all = floats(&w), *one = floats(&w), *want = floats(&w);
    attend(td, &w, pos, 0, T, 399, all);
    ref_attend(&w, pos, T, want);
    assert_true(rel_rms(&w, all, want, T) < 1e-6);
    for (size_t i = 0; i < T; i++) {
        attend(td, &w, pos, i, 1, pos[i], one);
        same_rows(&w, one, all + i * w.out_ld, 1, "alone", i);
    }
    free(all), free(one), free(want);
    world_free(td, &w);
}

/* Chunks of another length begin at 4,096 and 32,768: rows across both, by one call and alone. Pages before the window
 * are not there. */
static void test_chunk_lengths(void **state)
{
    struct td *td = *state;
    static const size_t ends[] = {4400, 33100};
    for (size_t i = 0; i < 2; i++) {
        struct at_case c = {2, 1, 16, 700, 0, PS_BF16, PS_BF16, ends[i]};
        run_case(td, &c, 20, 20);
    }
}

/* More scratch than there may be: rows go in batches. A host that says more than the truth of the largest position asks
 * for as much. */
static void test_batches(void **state)
{
    struct td *td = *state;
    const struct at_case c = {4, 1, 264, 0, 0, PS_F16, PS_BF16, 200};
    struct at_world w = world_new(td, &c, 4);
    float *few = floats(&w), *batched = floats(&w);
    uint32_t pos[4], longest = 3000000;
    size_t one = td->api->attn_bytes(td->d, 1, 4, 264, longest);
    assert_true(one > td->api->attn_bytes(td->d, 4, 4, 264, longest) / 4);
    for (size_t i = 0; i < 4; i++)
        pos[i] = pos_of(&w, i);
    attend(td, &w, pos, 0, 4, 199, few);
    attend(td, &w, pos, 0, 4, td->real ? longest : 1000000, batched);
    same_rows(&w, few, batched, 4, "in batches", 0);
    free(few), free(batched);
    world_free(td, &w);
}

static void test_scratch_grows(void **state)
{
    struct td *td = *state;
    size_t last = 0;
    for (uint32_t max_pos = 0; max_pos < 200000; max_pos += 997) {
        size_t bytes = td->api->attn_bytes(td->d, 16, 64, 128, max_pos);
        assert_true(bytes >= last);
        assert_true(td->api->attn_bytes(td->d, 17, 64, 128, max_pos) >= bytes);
        assert_true(td->api->attn_bytes(td->d, 1024, 64, 128, max_pos) >= bytes);
        last = bytes;
    }
    assert_true(last > 0 && last <= 64u << 20);
}

/* What a later row stores, be it infinite or not a number, is nothing to an earlier one in the same call. */
static void test_later_positions_do_not_matter(void **state)
{
    struct td *td = *state;
    static const enum ps_dtype types[] = {PS_F32, PS_F16, PS_BF16};
    for (size_t i = 0; i < 3; i++) {
        const struct at_case c = {2, 1, 40, 0, 0, types[i], types[i], 205};
        struct at_world w = world_new(td, &c, 6);
        float *before = floats(&w), *after = floats(&w), bad[40];
        uint32_t pos[6];
        for (size_t k = 0; k < 6; k++)
            pos[k] = pos_of(&w, k);
        attend(td, &w, pos, 0, 6, pos[5], before);
        for (size_t d = 0; d < 40; d++)
            bad[d] = d % 3 == 0 ? INFINITY : d % 3 == 1 ? NAN : -INFINITY;
        ps_kv_store(w.k[3], c.k, 1, 40, 204 % PS_KV_PAGE, bad);
        ps_kv_store(w.v[3], c.v, 1, 40, 204 % PS_KV_PAGE, bad);
        world_upload(td, &w);
        attend(td, &w, pos, 0, 6, pos[5], after);
        same_rows(&w, before, after, 5, "after a later row went wrong", 0);
        assert_true(isnan(after[5 * w.out_ld]));
        free(before), free(after);
        world_free(td, &w);
    }
}

/* Scores far apart: nothing overflows, and the row attends to its largest. */
static void test_extreme_scores(void **state)
{
    struct td *td = *state;
    const struct at_case c = {1, 1, 16, 0, 0, PS_F32, PS_F32, 330};
    for (uint32_t best = 0; best < 330; best += 47) {
        struct at_world w = world_new(td, &c, 1);
        uint32_t pos = 329;
        float k[16], v[16], *out = floats(&w);
        for (uint32_t p = 0; p < c.n_pos; p++) {
            for (size_t d = 0; d < 16; d++)
                k[d] = p == best ? 1e4f : -1e4f + (float)p, v[d] = (float)p;
            ps_kv_store(w.k[p / PS_KV_PAGE], c.k, 1, 16, p % PS_KV_PAGE, k);
            ps_kv_store(w.v[p / PS_KV_PAGE], c.v, 1, 16, p % PS_KV_PAGE, v);
        }
        for (size_t d = 0; d < 16; d++)
            w.q[d] = 10.0f;
        td_ok(td, td->api->copy_in(td->d, PS_STREAM_COMPUTE, w.dq, w.q, 64));
        world_upload(td, &w);
        attend(td, &w, &pos, 0, 1, pos, out);
        for (size_t d = 0; d < 16; d++)
            assert_true(out[d] == (float)best);
        free(out);
        world_free(td, &w);
    }
}

static void test_refuses(void **state)
{
    struct td *td = *state;
    const struct at_case c = {1, 1, 16, 0, 0, PS_F32, PS_F32, 3};
    struct at_world w = world_new(td, &c, 1);
    struct ps_attn a = attn_of(&w, 1);
    uint32_t pos = 2;
    a.q = w.dq, a.out = td_alloc(td, 4096), a.pos = td_put(td, &pos, 4);
    a.k_pages = w.dk, a.v_pages = w.dv;
    a.k_dtype = PS_F8_E4M3;
    assert_int_equal(td->api->attention(td->d, &a, 2), PS_EUNSUPPORTED);
    a.k_dtype = PS_F32, a.head_dim = 520;
    assert_int_equal(td->api->attention(td->d, &a, 2), PS_EUNSUPPORTED);
    world_free(td, &w);
}

TD_MAIN(cmocka_unit_test(test_against_ref), cmocka_unit_test(test_large),
        cmocka_unit_test(test_prompt), cmocka_unit_test(test_scattered_rows),
        cmocka_unit_test(test_chunk_lengths), cmocka_unit_test(test_batches),
        cmocka_unit_test(test_scratch_grows), cmocka_unit_test(test_later_positions_do_not_matter),
        cmocka_unit_test(test_extreme_scores), cmocka_unit_test(test_refuses))
