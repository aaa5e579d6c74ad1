/* Measures the matrix products: see bench_gemv.h. Memory of a shared machine changes its speed from second to second,
 * so everything that is compared takes turns within milliseconds: a pass of the read probe, the bf16 product, the
 * product in question, each over its own stretch of memory; and what counts is the median of the ratios. No stretch
 * is walked again before far more than the caches hold has passed. Huge pages, as the arena of a sweep has them. */
#include "kernels/bench_gemv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "kernels/kernel_scalar.h"
#include "kernels/kernels_internal.h"
#include "kernels/read_probe.h"
#include "proto/quant.h"

#define MEMORY_BYTES PS_READ_BYTES
#define PANEL_BYTES  ((size_t)8 << 20)
#define BENCH_K      4096
#define MAX_T        512
/* The weights by which `seconds` reckons: 512 MiB of bf16. */
#define WEIGHTS 0x1p28

struct bench {
    const struct ps_backend *be;
    struct ps_pool *pool;
    uint8_t *mem; /* the lower half is bf16, which the probe reads too; the upper one the type in question */
    size_t bytes;
    unsigned variant; /* of the probe: the best at the beginning */
    float *a, *c;
    void *packed;
    void *scales;
};

/* Bytes of a row of BENCH_K weights, and how many rows a panel has. */
static size_t row_bytes(enum ps_dtype t)
{
    size_t quant = ps_quant_row_bytes(t, BENCH_K);
    return quant ? quant : BENCH_K * ps_dtype_bytes(t);
}

static size_t panel_rows(enum ps_dtype t)
{
    return PANEL_BYTES / row_bytes(t);
}

/* Weights about one in size, of both signs, random enough for arithmetic. */
static void fill_row(uint8_t *row, enum ps_dtype t, uint32_t *x)
{
    size_t size = ps_dtype_bytes(t), codes = ps_quant_code_bytes(t, BENCH_K);
    for (size_t i = 0; i < (codes ? codes : BENCH_K); i++) {
        *x = *x * 1664525u + 1013904223u;
        float v = (float)(int32_t)*x * 0x1p-31f;
        uint16_t h = t == PS_BF16 ? ps_f32_to_bf16(v) : ps_f32_to_f16(v);
        if (codes || t == PS_F8_E4M3)
            row[i] = (uint8_t)(*x >> 24 & 0xbf);
        else
            memcpy(row + i * size, t == PS_F32 ? (const void *)&v : (const void *)&h, size);
    }
    for (size_t at = codes; codes && at + 2 <= row_bytes(t); at += 2)
        memcpy(row + at, &(uint16_t){0x2400}, 2); /* 2^-6 */
}

#define OWN_ROWS 64 /* the others repeat them */

static void fill(uint8_t *mem, size_t bytes, enum ps_dtype t)
{
    uint32_t x = 1;
    size_t stride = row_bytes(t), rows = panel_rows(t);
    for (size_t p = 0; p + PANEL_BYTES <= bytes; p += PANEL_BYTES)
        for (size_t r = 0; r < rows; r++)
            if (p == 0 && r < OWN_ROWS)
                fill_row(mem + r * stride, t, &x);
            else
                memcpy(mem + p + r * stride, mem + r % OWN_ROWS * stride, stride);
}

/* Scales of F8_E4M3 and MXFP4: the same for all panels, as they are for a layer's matrices one after the other. */
static void bench_panel(const struct bench *b, const struct ps_act *act, const uint8_t *rows)
{
    size_t n = panel_rows(act->weights);
    struct ps_matrix w = {.type = act->weights,
                          .K = act->K,
                          .data = rows,
                          .row_stride = row_bytes(act->weights),
                          .n_rows = n};
    if (act->weights == PS_F8_E4M3)
        w.scales = b->scales, w.scale_ld = BENCH_K / 128, w.scale_rows = w.scale_cols = 128;
    if (act->weights == PS_MXFP4)
        w.scales = b->scales, w.scale_ld = BENCH_K / PS_MXFP4_BLOCK;
    b->be->matmul(b->pool, act, &w, 1, b->c, n, false);
}

/* Multiplies weights per second: all panels of one stretch. */
static double product_rate(const struct bench *b, enum ps_dtype t, unsigned T, const uint8_t *mem,
                           size_t panels)
{
    struct ps_act act = {
        .a = b->a, .T = T, .K = BENCH_K, .lda = BENCH_K, .weights = t, .packed = b->packed};
    uint64_t start = ps_now_ns();
    b->be->act_pack(b->pool, &act);
    for (size_t p = 0; p < panels; p++)
        bench_panel(b, &act, mem + p * PANEL_BYTES);
    return (double)(panels * panel_rows(t) * BENCH_K) / ps_seconds_since(start);
}

static const struct {
    enum ps_dtype type;
    const char *name;
} types[] = {{PS_BF16, "bf16"},     {PS_F16, "f16"},     {PS_F32, "f32"},   {PS_Q8B64, "q8b64"},
             {PS_NF4B64, "nf4b64"}, {PS_MXFP4, "mxfp4"}, {PS_F8_E4M3, "f8"}};
#define N_TYPES (sizeof types / sizeof types[0])

static const unsigned Ts[] = {1, 4, 16, 64, 128, 512};
#define N_T    (sizeof Ts / sizeof Ts[0])
#define ROUNDS 3
#define TURNS  16 /* most that a row has in a round */

/* What the turns of one row have measured. */
struct samples {
    size_t n;
    double weights_s[ROUNDS * TURNS], limit[ROUNDS * TURNS], share[ROUNDS * TURNS],
        per_weight[ROUNDS * TURNS];
};

/* Where arithmetic binds, the neighbours' use of memory matters little and a turn takes long: few of them, of one
 * panel. The reference takes seconds for a panel. */
static unsigned turns_of(const struct bench *b, unsigned T)
{
    if (b->be == &ps_cpu_ref)
        return 1;
    return T < 64 ? TURNS : T < 512 ? 4 : 2;
}

static const uint8_t *next_stretch(const uint8_t *half, size_t *next, size_t n, size_t stretch)
{
    return half + (*next)++ % n * stretch;
}

/* Turns of one row. Reading is timed just before and just after the product; in between it was as fast as their mean
 * says. */
static void take_turns(const struct bench *b, enum ps_dtype t, unsigned T, struct samples *s)
{
    const size_t half = b->bytes / 2, stretch = ps_min_size(PS_READ_STRETCH, half);
    const size_t n = half / stretch, panels = T < 64 ? stretch / PANEL_BYTES : 1;
    const double bytes_per_weight = (double)row_bytes(t) / BENCH_K;
    size_t at = 0, typed_at = 0;
    for (unsigned i = 0; i < turns_of(b, T); i++, s->n++) {
        double before =
            ps_read_pass(b->pool, next_stretch(b->mem, &at, n, stretch), stretch, b->variant);
        double rate =
            product_rate(b, t, T, next_stretch(b->mem + half, &typed_at, n, stretch), panels);
        double after =
            ps_read_pass(b->pool, next_stretch(b->mem, &at, n, stretch), stretch, b->variant);
        double bf16 = product_rate(b, PS_BF16, T, next_stretch(b->mem, &at, n, stretch), panels);
        s->weights_s[s->n] = rate;
        s->limit[s->n] = 2 * (double)stretch / (before + after);
        s->share[s->n] = rate * bytes_per_weight / s->limit[s->n];
        s->per_weight[s->n] = rate / bf16;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Sorts them. */
static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

static struct ps_bench_row result(size_t type, unsigned T, struct samples *s)
{
    double weights_s = median(s->weights_s, s->n);
    return (struct ps_bench_row){
        .dtype = types[type].name,
        .t = T,
        .seconds = WEIGHTS / weights_s,
        .gb_s = weights_s * (double)row_bytes(types[type].type) / BENCH_K / 1e9,
        .gflops = 2.0 * T * weights_s / 1e9,
        .limit_gb_s = median(s->limit, s->n) / 1e9,
        .share = median(s->share, s->n),
        .per_weight = median(s->per_weight, s->n),
    };
}

/* All rows in several rounds, so that a disturbance of some seconds does not fall on one of them alone. */
static size_t run_all(struct bench *b, struct ps_bench_row *rows, size_t cap, double *limit_gb_s)
{
    const size_t half = b->bytes / 2;
    static_assert(N_TYPES * N_T == PS_BENCH_GEMV_ROWS, "as the header says");
    struct samples samples[N_TYPES][N_T] = {0};
    struct ps_read_best best;
    double limits[PS_BENCH_GEMV_ROWS];
    size_t n = 0;
    fill(b->mem, half, PS_BF16);
    ps_read_best_init(&best);
    ps_read_try_all(b->pool, b->mem, half, &best);
    ps_read_best_gb_s(&best, half, &b->variant);
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < N_TYPES; i++) {
            fill(b->mem + half, half, types[i].type);
            for (size_t j = 0; j < N_T; j++)
                take_turns(b, types[i].type, Ts[j], &samples[i][j]);
        }
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t j = 0; j < N_T && n < cap; j++, n++) {
            rows[n] = result(i, Ts[j], &samples[i][j]);
            limits[n] = rows[n].limit_gb_s;
        }
    *limit_gb_s = n ? median(limits, n) : 0;
    return n;
}

int ps_bench_gemv(struct ps_bench_row *rows, size_t cap, size_t *n, double *limit_gb_s,
                  unsigned threads, struct ps_err *err)
{
    struct bench b = {0};
    size_t a_bytes = (size_t)MAX_T * BENCH_K * sizeof(float), packed_bytes = 0;
    size_t c_bytes = (size_t)MAX_T * panel_rows(PS_MXFP4) * sizeof(float); /* the most rows */
    size_t scale_bytes = panel_rows(PS_MXFP4) * (BENCH_K / PS_MXFP4_BLOCK);
    int rc = ps_backend_choose(&b.be, err);
    if (rc)
        return rc;
    /* a quarter of what is free leaves room for the program around; the reference takes minutes for a full matrix */
    b.bytes = ps_min_size(MEMORY_BYTES, ps_host_free_memory_bytes() / 4) / (2 * PANEL_BYTES) *
              (2 * PANEL_BYTES);
    if (b.be == &ps_cpu_ref || b.bytes == 0)
        b.bytes = 2 * PANEL_BYTES;
    for (size_t i = 0; i < N_TYPES; i++)
        packed_bytes =
            ps_max_size(packed_bytes, b.be->act_bytes(types[i].type, MAX_T, BENCH_K) + 4096);
    rc = ps_pool_new(&b.pool, threads, ps_backend_thread_start, (void *)b.be, err);
    if (rc)
        return rc;
    b.mem = ps_alloc_pages(b.bytes, PS_HUGE_PAGE);
    b.a = ps_alloc_pages(a_bytes, 4096);
    b.c = ps_alloc_pages(c_bytes, 4096);
    b.packed = ps_alloc_pages(packed_bytes, 4096);
    b.scales = ps_alloc_pages(scale_bytes, 4096);
    if (!b.mem || !b.a || !b.c || !b.packed || !b.scales) {
        rc = ps_err_set(err, PS_ENOMEM, "kernels", "bench gemv: no %zu MiB of memory: free some",
                        (b.bytes + a_bytes + c_bytes + packed_bytes) >> 20);
        goto out;
    }
    for (size_t i = 0; i < (size_t)MAX_T * BENCH_K; i++)
        b.a[i] = (float)(i * 2654435761u % 2048) / 1024.0f - 1.0f;
    memset(b.scales, 0x3c, scale_bytes); /* as float32 about 0.01, as e8m0 2^-67 */
    double limit = 0;
    size_t done = run_all(&b, rows, cap, &limit);
    *n = done;
    *limit_gb_s = limit;
out:
    if (b.scales)
        ps_free_pages(b.scales, scale_bytes);
    if (b.packed)
        ps_free_pages(b.packed, packed_bytes);
    if (b.c)
        ps_free_pages(b.c, c_bytes);
    if (b.a)
        ps_free_pages(b.a, a_bytes);
    if (b.mem)
        ps_free_pages(b.mem, b.bytes);
    ps_pool_free(b.pool);
    return rc;
}
