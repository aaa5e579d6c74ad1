/* Matrix products of a device against the reference, for every type of weights: lengths with all kinds of tails, panels
 * cut anywhere, rows at any address, special values; and the bits of C[t][r], which must be a matter of A[t] and W[r]
 * alone. Under emulation twice in ctest: as compute capability 9.0 (tensor cores) and 7.5 (plain arithmetic).
 * ctest-timeout: 600 */
#include "tests/gpu/test_device.h"

#include "proto/quant.h"

static const enum ps_dtype types[] = {PS_BF16,  PS_F16,    PS_F32,  PS_F8_E4M3,
                                      PS_Q8B64, PS_NF4B64, PS_MXFP4};
#define N_TYPES (sizeof types / sizeof types[0])

/* ---- matrices ---- */

/* How the scales of F8_E4M3 lie; 0: none. */
struct geometry {
    size_t rows, cols;
};

struct mat {
    enum ps_dtype t;
    size_t K, rows, stride, shift;
    uint8_t *bytes; /* the rows; their end is the end of device memory too */
    float *w;       /* [rows][K], what they mean */
    uint8_t *scales;
    size_t scale_bytes, scale_ld;
    struct geometry g;
    const uint8_t *on_device, *scales_on_device;
};

static size_t row_bytes(enum ps_dtype t, size_t K)
{
    size_t n = ps_dtype_bytes(t);
    return n ? n * K : ps_quant_row_bytes(t, K);
}

static void make_plain(struct mat *m, uint8_t *row, float *w, uint64_t *seed)
{
    for (size_t k = 0; k < m->K; k++) {
        uint8_t *at = row + k * kt_size(m->t);
        kt_put(at, m->t, kt_gauss(seed));
        w[k] = m->t == PS_F32    ? ps_load_f32(at)
               : m->t == PS_BF16 ? ps_bf16_to_f32(ps_load_u16(at))
                                 : ps_f16_to_f32(ps_load_u16(at));
    }
}

/* Codes of all values under scales of about one (Q8B64: a hundredth). */
static void make_blocks(struct mat *m, uint8_t *row, float *w, uint64_t *seed)
{
    size_t codes = ps_quant_code_bytes(m->t, m->K);
    memset(row, 0, ps_quant_row_bytes(m->t, m->K));
    for (size_t i = 0; i < codes; i++)
        row[i] = (uint8_t)kt_next(seed);
    for (size_t b = 0; b * 64 < m->K; b++) {
        float unit = m->t == PS_Q8B64 ? 0.01f : 1.0f;
        uint16_t h = ps_f32_to_f16(unit * (0.5f + (float)(kt_next(seed) >> 40) * 0x1p-24f));
        memcpy(row + codes + 2 * b, &h, 2);
        for (size_t k = b * 64; k < m->K && k < b * 64 + 64; k++) {
            uint8_t byte = row[ps_nf4_byte_at(b, k % 32)];
            float v = m->t == PS_Q8B64 ? (float)(int8_t)row[k]
                                       : ps_nf4_values[k % 64 < 32 ? byte & 15 : byte >> 4];
            w[k] = v * ps_f16_to_f32(h);
        }
    }
}

static void make_f8(struct mat *m, size_t r, uint8_t *row, float *w, uint64_t *seed)
{
    for (size_t k = 0; k < m->K; k++) {
        do
            row[k] = (uint8_t)kt_next(seed);
        while ((row[k] & 0x7f) == 0x7f);
        float scale = 1;
        if (m->scales)
            scale = ps_load_f32(m->scales + (r / m->g.rows * m->scale_ld + k / m->g.cols) * 4);
        w[k] = ps_e4m3_to_f32(row[k]) * scale;
    }
}

static void make_mxfp4(struct mat *m, size_t r, uint8_t *row, float *w, uint64_t *seed)
{
    for (size_t i = 0; i < ps_quant_row_bytes(m->t, m->K); i++)
        row[i] = (uint8_t)kt_next(seed);
    for (size_t k = 0; k < m->K; k++)
        w[k] = ps_e2m1_values[row[k / 2] >> k % 2 * 4 & 15] *
               ps_e8m0_to_f32(m->scales[r * m->scale_ld + k / 32]);
}

static void make_scales(struct mat *m, uint64_t *seed)
{
    if (m->t == PS_MXFP4) {
        m->scale_ld = (m->K + 31) / 32 + m->rows % 3;
        m->scale_bytes = m->rows * m->scale_ld;
    } else if (m->g.rows) {
        m->scale_ld = (m->K + m->g.cols - 1) / m->g.cols + m->rows % 3;
        m->scale_bytes = ((m->rows - 1) / m->g.rows + 1) * m->scale_ld * 4;
    }
    m->scales = m->scale_bytes ? malloc(m->scale_bytes) : NULL;
    for (size_t i = 0; i < m->scale_bytes / (m->t == PS_MXFP4 ? 1 : 4); i++) {
        float s = 0.5f + (float)(kt_next(seed) >> 40) * 0x1p-24f;
        if (m->t == PS_MXFP4)
            m->scales[i] = (uint8_t)(124 + kt_next(seed) % 7);
        else
            memcpy(m->scales + 4 * i, &s, 4);
    }
}

static void make_rows(struct mat *m, uint64_t seed)
{
    for (size_t r = 0; r < m->rows; r++) {
        uint8_t *row = m->bytes + r * m->stride;
        float *w = m->w + r * m->K;
        switch (m->t) {
        case PS_Q8B64:
        case PS_NF4B64: make_blocks(m, row, w, &seed); break;
        case PS_F8_E4M3: make_f8(m, r, row, w, &seed); break;
        case PS_MXFP4: make_mxfp4(m, r, row, w, &seed); break;
        default: make_plain(m, row, w, &seed);
        }
    }
}

static size_t mat_bytes(const struct mat *m)
{
    return (m->rows - 1) * m->stride + row_bytes(m->t, m->K);
}

static void mat_upload(struct td *td, struct mat *m, size_t shift)
{
    m->shift = shift;
    m->on_device = td_put_shifted(td, m->bytes, mat_bytes(m), shift);
    m->scales_on_device = m->scales ? td_put(td, m->scales, m->scale_bytes) : NULL;
}

/* Rows of ordinary numbers. extra: bytes between one row and the next. */
static struct mat mat_new(struct td *td, enum ps_dtype t, size_t rows, size_t K, size_t extra,
                          struct geometry g)
{
    struct mat m = {.t = t, .K = K, .rows = rows, .stride = row_bytes(t, K) + extra, .g = g};
    uint64_t seed = K * 131 + rows;
    m.bytes = calloc(1, mat_bytes(&m));
    m.w = malloc(rows * K * 4);
    make_scales(&m, &seed);
    make_rows(&m, seed);
    mat_upload(td, &m, 0);
    return m;
}

static void mat_free(struct mat *m)
{
    free(m->bytes), free(m->w), free(m->scales);
}

/* Rows [r0, r1) as a panel, in host or device memory. */
static struct ps_matrix panel(const struct mat *m, bool device, size_t r0, size_t r1)
{
    const uint8_t *rows = device ? m->on_device : m->bytes;
    return (struct ps_matrix){.type = m->t,
                              .K = m->K,
                              .data = rows + r0 * m->stride,
                              .row_stride = m->stride,
                              .n_rows = r1 - r0,
                              .row0 = r0,
                              .scales = device ? m->scales_on_device : m->scales,
                              .scale_ld = m->scale_ld,
                              .scale_rows = m->g.rows,
                              .scale_cols = m->g.cols};
}

/* ---- products ---- */

/* C of `n` panels, T rows of `ld` floats, which hold `c` before. */
static void product(struct td *td, const struct mat *m, const float *a, size_t T, size_t lda,
                    const struct ps_matrix *panels, size_t n, float *c, size_t ld, bool accumulate)
{
    const struct ps_device_api *api = td->api;
    size_t bytes = api->act_bytes(td->d, m->t, T, m->K), before = td->n_allocs;
    float *C = td_put(td, c, T * ld * 4);
    struct ps_act act = {.a = td_put(td, a, ((T - 1) * lda + m->K) * 4),
                         .T = T,
                         .K = m->K,
                         .lda = lda,
                         .weights = m->t,
                         .packed = td_alloc(td, bytes)};
    assert_true(api->multiplies(td->d, m->t) && bytes > 0);
    td_ok(td, api->act_pack(td->d, &act));
    td_ok(td, api->matmul(td->d, &act, panels, n, C, ld, accumulate));
    td_get(td, c, C, T * ld * 4);
    while (td->n_allocs > before)
        api->free(td->d, td->allocs[--td->n_allocs]);
}

/* All rows at once, C exactly as wide as they. */
static void whole(struct td *td, const struct mat *m, const float *a, size_t T, float *c)
{
    struct ps_matrix p = panel(m, true, 0, m->rows);
    memset(c, 0xff, T * m->rows * 4);
    product(td, m, a, T, m->K, &p, 1, c, m->rows, false);
}

static bool tensor_cores(const struct td *td, enum ps_dtype t)
{
    return t != PS_F32 && strcmp(td->info.arch, "sm_80") >= 0;
}

/* What may be lost, of each product: an activation as hi + lo bf16 is within 2^-17 = 7.6e-6 of itself (half a unit
 * of a low half that is at most half a unit of the high one), on the average of normal numbers 2.3e-6. The rest is
 * exact or summed in float32, where a tensor core cuts off instead of rounding: a few units of 2^-24 for each 64
 * products, fewer than 2e-6 in all. Plain arithmetic: float32 throughout. each: no sum is further off than this
 * times sum |a||w|. rms: errors of different activations are independent, so together they grow like sqrt(sum (a
 * w)^2); this shows a low half dropped anywhere, which `each` would not. */
struct bounds {
    double each, rms;
};

static struct bounds bounds_of(const struct td *td, enum ps_dtype t)
{
    if (!tensor_cores(td, t))
        return (struct bounds){1e-6, 5e-7};
    return (struct bounds){1e-5, 4.5e-6};
}

static void compare(const struct td *td, const struct mat *m, const float *a, size_t T, size_t lda,
                    const float *got, const float *want, size_t ld, double factor)
{
    struct bounds b = bounds_of(td, m->t);
    double errors = 0, worst = 0, n = (double)(T * m->rows);
    for (size_t t = 0; t < T; t++)
        for (size_t r = 0; r < m->rows; r++) {
            double sum = 1e-30, squares = 1e-60;
            for (size_t k = 0; k < m->K; k++) {
                double p = (double)a[t * lda + k] * (double)m->w[r * m->K + k] * factor;
                sum += fabs(p), squares += p * p;
            }
            double e = fabs((double)got[t * ld + r] - (double)want[t * ld + r]);
            double round = fabs((double)want[t * ld + r]) * 0x1p-24; /* of an accumulation */
            worst = fmax(worst, (e - round) / sum);
            errors += e * e / squares;
            if (!(e - round <= b.each * sum))
                fail_msg("%s T=%zu K=%zu rows=%zu: C[%zu][%zu] is %g, not %g: off by %.3g",
                         ps_dtype_name(m->t), T, m->K, m->rows, t, r, (double)got[t * ld + r],
                         (double)want[t * ld + r], e / sum);
        }
    if (n >= 16 && T * m->K >= 256 && !(sqrt(errors / n) <= b.rms))
        fail_msg("%s T=%zu K=%zu rows=%zu: rms %.3g", ps_dtype_name(m->t), T, m->K, m->rows,
                 sqrt(errors / n));
    if (getenv("PENSTOCK_TEST_PRINT"))
        print_message("%-8s T=%-4zu K=%-5zu rows=%-4zu worst %.2g, rms %.2g\n", ps_dtype_name(m->t),
                      T, m->K, m->rows, worst, sqrt(errors / n));
}

/* One product against the reference, with room around it in C that must stay as it was. */
static void check(struct td *td, const struct mat *m, size_t T, float factor, bool accumulate)
{
    size_t lda = m->K + 3, ld = m->rows + 5, K = m->K;
    float *a = malloc(T * lda * 4), *want = malloc(T * ld * 4), *got = malloc(T * ld * 4);
    struct ps_matrix host = panel(m, false, 0, m->rows), dev = panel(m, true, 0, m->rows);
    host.factor = dev.factor = factor;
    kt_fill(a, T * lda, T * 7 + K);
    if (accumulate)
        kt_fill(want, T * ld, 99);
    else
        memset(want, 0xff, T * ld * 4);
    memcpy(got, want, T * ld * 4);
    struct ps_act act = {.a = a, .T = T, .K = K, .lda = lda, .weights = m->t};
    struct ps_pool *pool = kt_pool(2, ps_backend_by_name("ref"));
    ps_backend_by_name("ref")->matmul(pool, &act, &host, 1, want, ld, accumulate);
    ps_pool_free(pool);
    product(td, m, a, T, lda, &dev, 1, got, ld, accumulate);
    compare(td, m, a, T, lda, got, want, ld, factor != 0 ? (double)factor : 1);
    for (size_t t = 0; t < T; t++)
        assert_memory_equal(got + t * ld + m->rows, want + t * ld + m->rows, 5 * 4);
    free(a), free(want), free(got);
}

static void same(enum ps_dtype t, size_t K, const char *what, size_t i, const float *got,
                 const float *want, size_t n)
{
    if (memcmp(got, want, n * 4) != 0)
        fail_msg("%s K=%zu: %s %zu changes the result", ps_dtype_name(t), K, what, i);
}

static const struct geometry blocks128 = {128, 128}, none = {0, 0};

/* ---- tests ---- */

static void test_lengths(void **state)
{
    static const size_t Ks[] = {1,   2,   3,   7,   8,   15,  16,   17,   31,   32,
                                33,  48,  63,  64,  65,  95,  96,   100,  127,  128,
                                129, 160, 192, 200, 255, 256, 257,  320,  384,  448,
                                511, 512, 513, 520, 576, 640, 2880, 4096, 4099, 14336};
    struct td *td = *state;
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t j = 0; j < td_size(td, 36, 40); j++) {
            struct mat m = mat_new(td, types[i], 5, Ks[j], 0, j % 2 ? blocks128 : none);
            check(td, &m, td_size(td, j % 5 == 0 ? 5 : 1 + j % 3, 6), 0, j % 2);
            mat_free(&m);
            td_free_all(td);
        }
}

static void test_long_rows(void **state)
{
    static const size_t Ks[] = {1536, 2048, 2880};
    struct td *td = *state;
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t j = 0; j < 3; j++) {
            struct mat m = mat_new(td, types[i], td_size(td, 16, 200), Ks[j], 0, blocks128);
            check(td, &m, td_size(td, 1, 7), 0.25f, false);
            check(td, &m, td_size(td, 18, 40), 0, true);
            mat_free(&m);
            td_free_all(td);
        }
}

static void test_row_counts(void **state)
{
    struct td *td = *state;
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t rows = 1; rows <= 140; rows += td_size(td, rows < 18 ? 1 : 13, 1)) {
            struct mat m = mat_new(td, types[i], rows, 80, 0, blocks128);
            check(td, &m, 1 + rows % 4, 0, rows % 2);
            mat_free(&m);
            td_free_all(td);
        }
}

static void test_many_columns(void **state)
{
    static const size_t Ts[] = {2, 5, 9, 17, 33, 4, 8, 16, 32, 100, 128, 512, 1024};
    struct td *td = *state;
    for (size_t i = 0; i < N_TYPES; i++) {
        struct mat m =
            mat_new(td, types[i], td_size(td, 19, 150), td_size(td, 96, 512), 0, blocks128);
        for (size_t j = 0; j < td_size(td, 9, 13); j++)
            check(td, &m, Ts[j], 0, false);
        mat_free(&m);
        td_free_all(td);
    }
}

/* Enough of both for the widest shape on a large GPU; and rows of it alone. On a GPU small shapes too are large enough
 * for mm_many: sanitizers see it nowhere else. */
static void test_wide(void **state)
{
    struct td *td = *state;
    size_t rows = td->real ? 1100 : 130, T = td_size(td, td->real ? 140 : 40, 1024), K = 192;
    size_t at = T / 2;
    for (size_t i = 0; i < N_TYPES; i++) {
        struct mat m = mat_new(td, types[i], rows, K, 0, blocks128);
        float *a = malloc(T * K * 4), *c = malloc(T * rows * 4), *few = malloc(12 * rows * 4);
        check(td, &m, T, 0, false);
        kt_fill(a, T * K, 8);
        whole(td, &m, a, T, c);
        whole(td, &m, a + at * K, 1, few);
        same(types[i], K, "T =", T, c + at * rows, few, rows);
        whole(td, &m, a, 12, few);
        same(types[i], K, "T =", 12, few, c, 12 * rows);
        free(a), free(c), free(few);
        mat_free(&m);
        td_free_all(td);
    }
}

/* Rows of an odd number of bytes, at odd addresses. */
static void test_any_address(void **state)
{
    struct td *td = *state;
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t shift = 1; shift <= 8; shift += td_size(td, 3, 1)) {
            struct mat m = mat_new(td, types[i], 9, 200, shift * 3, blocks128);
            mat_upload(td, &m, shift);
            check(td, &m, 1 + shift, 0, false);
            mat_free(&m);
            td_free_all(td);
        }
}

static void test_f8_geometries(void **state)
{
    static const struct geometry g[] = {{1, 1000}, {SIZE_MAX, SIZE_MAX},
                                        {3, 64},   {128, 128},
                                        {7, 192},  {2, 16},
                                        {5, 48},   {1, 100},
                                        {4, 37},   {9, 1}};
    struct td *td = *state;
    for (size_t i = 0; i < sizeof g / sizeof g[0]; i++) {
        struct mat m = mat_new(td, PS_F8_E4M3, 20, 209, i % 2 ? 15 : 0, g[i]);
        check(td, &m, 3, 2.0f, false);
        mat_free(&m);
        m = mat_new(td, PS_F8_E4M3, 20, 208, 0, g[i]);
        check(td, &m, 3, 0, false);
        mat_free(&m);
        td_free_all(td);
    }
}

/* Row t of A alone, with all rows of W at once and with single ones. */
static void alone(struct td *td, const struct mat *m, const float *a, size_t t, const float *want)
{
    size_t rows = m->rows, step = rows / td_size(td, 3, 9);
    float *got = malloc(rows * 4);
    whole(td, m, a + t * m->K, 1, got);
    same(m->t, m->K, "T = 1 at row", t, got, want + t * rows, rows);
    for (size_t r = 0; r < rows && t < 2; r += step) {
        struct ps_matrix p = panel(m, true, r, r + 1);
        product(td, m, a + t * m->K, 1, m->K, &p, 1, got, rows, false);
        same(m->t, m->K, "without its neighbours, row", r, got + r, want + t * rows + r, 1);
    }
    free(got);
}

static void over_addresses_and_cuts(struct td *td, struct mat *m, const float *a, size_t T,
                                    const float *want)
{
    size_t rows = m->rows;
    float *got = malloc(T * rows * 4);
    for (size_t shift = 1; shift < 16; shift += td_size(td, 7, 1)) {
        const uint8_t *before = m->on_device;
        mat_upload(td, m, shift);
        whole(td, m, a, T, got);
        same(m->t, m->K, "an address off by", shift, got, want, T * rows);
        m->on_device = before;
    }
    for (size_t cut = 1; cut < rows; cut += td_size(td, 7, 9)) {
        struct ps_matrix p[2] = {panel(m, true, cut, rows), panel(m, true, 0, cut)};
        memset(got, 0xff, T * rows * 4);
        product(td, m, a, T, m->K, p, 2, got, rows, false);
        same(m->t, m->K, "a cut after", cut, got, want, T * rows);
    }
    free(got);
}

/* The yardstick is the product of the largest T. */
static void invariant(struct td *td, struct mat *m, const size_t *Ts, size_t n_Ts)
{
    size_t T = Ts[n_Ts - 1], K = m->K, rows = m->rows;
    float *a = malloc(T * K * 4), *want = malloc(T * rows * 4), *got = malloc(T * rows * 4);
    kt_fill(a, T * K, 3);
    whole(td, m, a, T, want);
    for (size_t t = 0; t < T; t += t < 2 ? 1 : td_size(td, T - 3, 37))
        alone(td, m, a, t, want);
    for (size_t i = 0; i + 1 < n_Ts; i++) {
        whole(td, m, a, Ts[i], got);
        same(m->t, K, "T =", Ts[i], got, want, Ts[i] * rows);
    }
    over_addresses_and_cuts(td, m, a, Ts[1], want);
    free(a), free(want), free(got);
}

static void test_invariance(void **state)
{
    static const size_t small[] = {1, 2, 4, 5, 8, 9, 16, 17, 32, 33};
    static const size_t large[] = {1,  2,  3,  4,  5,  7,  8,   9,   15, 16,
                                   17, 31, 32, 33, 64, 65, 128, 200, 512};
    static const size_t Ks[] = {40, 1030, 2400, 4096, 14336};
    struct td *td = *state;
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t j = 0; j < td_size(td, 3, 5); j++) {
            bool f8 = types[i] == PS_F8_E4M3 && j == 1;
            struct mat m = mat_new(td, types[i], td_size(td, 18, 135), Ks[j], 0,
                                   f8 ? (struct geometry){2, 72} : blocks128);
            if (td->real && !td->small)
                invariant(td, &m, large, 19);
            else
                invariant(td, &m, small, j ? 8 : 10);
            mat_free(&m);
            td_free_all(td);
        }
}

/* Resident runs and ring slots: rows of one matrix in many places, more than go into one launch. */
static void test_many_panels(void **state)
{
    struct td *td = *state;
    for (size_t i = 0; i < N_TYPES; i++) {
        enum { ROWS = 120, T = 2, K = 40 };
        struct mat m = mat_new(td, types[i], ROWS, K, 0, blocks128);
        struct ps_matrix p[ROWS];
        float a[T * K], want[T * ROWS], got[T * ROWS];
        size_t n = 0;
        kt_fill(a, T * K, 3);
        whole(td, &m, a, T, want);
        for (size_t r = 0; r < ROWS; n++) { /* 0 to 2 rows each, every other one copied elsewhere */
            size_t rows = n % 3 < ROWS - r ? n % 3 : ROWS - r;
            p[n] = panel(&m, true, r, r + rows);
            if (n % 2 && rows)
                p[n].data = td_put_shifted(td, m.bytes + r * m.stride,
                                           (rows - 1) * m.stride + row_bytes(m.t, K), n % 5);
            r += rows;
        }
        assert_true(n > 100);
        memset(got, 0xff, sizeof got);
        product(td, &m, a, T, K, p, n, got, ROWS, false);
        same(m.t, K, "panels:", n, got, want, T * ROWS);
        mat_free(&m);
        td_free_all(td);
    }
}

/* ---- special values ---- */

/* One weight of a type that holds `w` as it is, the rest zeros; one activation, the rest zeros. */
static float one_product(struct td *td, enum ps_dtype t, float w, float x, size_t K, size_t at)
{
    enum { ROWS = 3 };
    struct mat m = {.t = t, .K = K, .rows = ROWS, .stride = row_bytes(t, K)};
    float *a = calloc(K, 4), c[ROWS];
    m.bytes = calloc(1, mat_bytes(&m));
    for (size_t r = 0; r < ROWS; r++)
        kt_put(m.bytes + r * m.stride + at * kt_size(t), t, w);
    a[at] = x;
    mat_upload(td, &m, 0);
    whole(td, &m, a, 1, c);
    assert_memory_equal(c, c + 1, 8);
    free(a), free(m.bytes);
    td_free_all(td);
    return c[0];
}

static void test_special(void **state)
{
    struct td *td = *state;
    for (size_t i = 0; i < 3; i++)
        for (size_t K = 1; K < 70; K += 23) {
            enum ps_dtype t = types[i];
            assert_true(one_product(td, t, 1.5f, 2.0f, K, K - 1) == 3.0f);
            assert_true(one_product(td, t, 0.0f, 2.0f, K, 0) == 0.0f);
            assert_true(one_product(td, t, -0.0f, 2.0f, K, 0) == 0.0f);
            assert_false(isfinite(one_product(td, t, 2.0f, INFINITY, K, 0)));
            assert_false(isfinite(one_product(td, t, INFINITY, 2.0f, K, K - 1)));
            assert_true(isnan(one_product(td, t, NAN, 1.0f, K, K - 1)));
            assert_true(isnan(one_product(td, t, 1.0f, NAN, K, K / 2)));
            float big = one_product(td, t, 0.5f, 3.4e38f, K, K / 2);
            assert_true(fabsf(big / 1.7e38f - 1) < 1e-5f);
            big = one_product(td, t, -1.0f, 3.4e38f, K, K - 1);
            assert_true(fabsf(big / -3.4e38f - 1) < 1e-5f);
        }
    assert_true(one_product(td, PS_F16, 0x1p-24f, 0x1p24f, 9, 3) == 1.0f); /* f16 denormals */
    assert_true(one_product(td, PS_F16, 0x3ffp-24f, 0x1p24f, 9, 3) == 1023.0f);
    assert_true(one_product(td, PS_F16, 65504.0f, 1.0f, 40, 39) == 65504.0f);
    assert_true(one_product(td, PS_BF16, 1e30f, 1.0f, 40, 3) == ps_bf16_to_f32(ps_f32_to_bf16(1e30f)));
    /* what becomes of a bf16 denormal in a tensor core is not specified: a number or zero */
    float tiny = one_product(td, PS_BF16, 0x1p-130f, 0x1p100f, 40, 3);
    assert_true(tiny == 0x1p-30f || tiny == 0.0f);
}

/* Every code of a block type comes out as its value: one row per code, one activation of 1. */
static void all_codes(struct td *td, enum ps_dtype t, size_t K)
{
    enum { ROWS = 256 };
    struct mat m = mat_new(td, t, ROWS, K, 0, none);
    float *a = calloc(K, 4), *c = malloc(ROWS * 4);
    size_t at = K - 1, place = t == PS_F8_E4M3 || t == PS_Q8B64 ? at
                               : t == PS_MXFP4                  ? at / 2
                                                                : ps_nf4_byte_at(at / 64, at % 32);
    for (size_t r = 0; r < ROWS; r++)
        m.bytes[r * m.stride + place] = (uint8_t)r;
    mat_upload(td, &m, 0);
    a[at] = 1.0f;
    whole(td, &m, a, 1, c);
    for (size_t r = 0; r < ROWS; r++) {
        double want;
        if (t == PS_F8_E4M3) {
            want = (double)ps_e4m3_to_f32((uint8_t)r);
        } else if (t == PS_MXFP4) {
            want = (double)ps_e2m1_values[at % 2 ? r >> 4 : r & 15] *
                   (double)ps_e8m0_to_f32(m.scales[r * m.scale_ld + at / 32]);
        } else {
            double s = (double)ps_f16_to_f32(
                ps_load_u16(m.bytes + r * m.stride + ps_quant_code_bytes(t, K) + at / 64 * 2));
            want = s * (t == PS_Q8B64 ? (double)(int8_t)r
                                      : (double)ps_nf4_values[at % 64 < 32 ? r & 15 : r >> 4]);
        }
        if (isnan(want) ? !isnan(c[r]) : !(fabs((double)c[r] - want) <= 1e-7 * fabs(want)))
            fail_msg("%s: code %zu is %.9g, not %.9g", ps_dtype_name(t), r, (double)c[r], want);
    }
    free(a), free(c);
    mat_free(&m);
    td_free_all(td);
}

static void test_all_codes(void **state)
{
    struct td *td = *state;
    for (size_t i = 3; i < N_TYPES; i++) {
        all_codes(td, types[i], 61);
        all_codes(td, types[i], 100);
    }
}

/* Scales at the ends of their ranges; the largest codes. */
static void test_scales(void **state)
{
    static const uint8_t e8m0[] = {0, 1, 2, 100, 126, 127, 128, 200, 252, 255};
    static const uint16_t f16[] = {0, 1, 0x3ff, 0x400, 0x3c00, 0x7bff, 0x8001, 0x7c00, 0x7e00};
    struct td *td = *state;
    float a[64], c[10];
    for (size_t i = 0; i < 64; i++)
        a[i] = i ? 0.0f : 1.0f;
    struct mat m = mat_new(td, PS_MXFP4, 10, 64, 0, none);
    for (size_t r = 0; r < 10; r++) {
        m.bytes[r * m.stride] = 0x06; /* the first weight is 4 */
        m.scales[r * m.scale_ld] = e8m0[r];
    }
    mat_upload(td, &m, 0);
    whole(td, &m, a, 1, c);
    for (size_t r = 0; r < 9; r++)
        assert_true(c[r] == 4.0f * ps_e8m0_to_f32(e8m0[r]));
    assert_true(isnan(c[9]));
    mat_free(&m);
    for (size_t t = 4; t < 6; t++) {
        m = mat_new(td, types[t], 9, 64, 0, none);
        for (size_t r = 0; r < 9; r++) {
            m.bytes[r * m.stride] = t == 4 ? 0x81 : 0xf0; /* -127; -1 */
            memcpy(m.bytes + r * m.stride + ps_quant_code_bytes(types[t], 64), &f16[r], 2);
        }
        mat_upload(td, &m, 0);
        whole(td, &m, a, 1, c);
        for (size_t r = 0; r < 7; r++)
            assert_true(c[r] == (t == 4 ? -127.0f : -1.0f) * ps_f16_to_f32(f16[r]));
        assert_false(isfinite(c[7]) || isfinite(c[8]));
        mat_free(&m);
    }
}

static void test_shapes_of_nothing(void **state)
{
    struct td *td = *state;
    struct mat m = mat_new(td, PS_BF16, 3, 8, 0, none);
    float a[8], c[3] = {1, 2, 3};
    kt_fill(a, 8, 1);
    struct ps_matrix p = panel(&m, true, 1, 1);
    product(td, &m, a, 1, 8, &p, 1, c, 3, false);
    assert_true(c[0] == 1 && c[1] == 2 && c[2] == 3);
    product(td, &m, a, 1, 8, &p, 0, c, 3, false);
    assert_true(c[0] == 1 && c[1] == 2 && c[2] == 3);
    assert_false(td->api->multiplies(td->d, PS_I8) || td->api->multiplies(td->d, PS_F8_E5M2));
    mat_free(&m);
}

TD_MAIN(cmocka_unit_test(test_lengths), cmocka_unit_test(test_long_rows),
        cmocka_unit_test(test_row_counts), cmocka_unit_test(test_many_columns),
        cmocka_unit_test(test_wide), cmocka_unit_test(test_any_address),
        cmocka_unit_test(test_f8_geometries), cmocka_unit_test(test_invariance),
        cmocka_unit_test(test_many_panels), cmocka_unit_test(test_special),
        cmocka_unit_test(test_all_codes), cmocka_unit_test(test_scales),
        cmocka_unit_test(test_shapes_of_nothing))
