/* Measures the matrix products: see bench_gemv.h. The matrix lies in plain memory and is walked in stretches of 32
 * MiB, several times; the time is the sum of each stretch's best, because whatever else runs on the machine can
 * only slow them, and rarely spares a whole pass. The probe of the bandwidth is treated in the same way. */
#include "kernels/bench_gemv.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "kernels/kernel_scalar.h"
#include "kernels/kernels_internal.h"
#include "kernels/read_probe.h"
#include "proto/quant.h"

#define MATRIX_BYTES PS_READ_BYTES
#define PANEL_BYTES  ((size_t)8 << 20)
#define STRETCH      PS_READ_STRETCH
#define BENCH_K      4096
#define MAX_T        512

/* Best seconds of each stretch, summed as the passes go. */
struct best {
    double s[MATRIX_BYTES / STRETCH];
};

static void best_init(struct best *b)
{
    for (size_t i = 0; i < MATRIX_BYTES / STRETCH; i++)
        b->s[i] = INFINITY;
}

static double best_sum(const struct best *b, size_t bytes)
{
    double sum = 0;
    for (size_t i = 0; i < ps_div_up(bytes, STRETCH); i++)
        sum += b->s[i];
    return sum;
}

struct bench {
    const struct ps_backend *be;
    struct ps_pool *pool;
    uint8_t *mem;
    size_t bytes;
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

/* How much of the memory is used: of types smaller than bf16 as many weights as of bf16. */
static size_t bytes_of(const struct bench *b, enum ps_dtype t)
{
    size_t panels = b->bytes / PANEL_BYTES, of_bf16 = BENCH_K * 2;
    if (row_bytes(t) < of_bf16)
        panels = ps_max_size(1, panels * row_bytes(t) / of_bf16);
    return panels * PANEL_BYTES;
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

static void fill(const struct bench *b, enum ps_dtype t)
{
    uint32_t x = 1;
    size_t stride = row_bytes(t), rows = panel_rows(t);
    for (size_t p = 0; p < bytes_of(b, t); p += PANEL_BYTES)
        for (size_t r = 0; r < rows; r++)
            if (p == 0 && r < OWN_ROWS)
                fill_row(b->mem + r * stride, t, &x);
            else
                memcpy(b->mem + p + r * stride, b->mem + r % OWN_ROWS * stride, stride);
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
    b->be->matmul(b->pool, act, &w, b->c, n, false);
}

static void one_pass(const struct bench *b, enum ps_dtype t, size_t T, struct best *best)
{
    struct ps_act act = {
        .a = b->a, .T = T, .K = BENCH_K, .lda = BENCH_K, .weights = t, .packed = b->packed};
    for (size_t at = 0; at < bytes_of(b, t); at += STRETCH) {
        uint64_t start = ps_now_ns();
        b->be->act_pack(b->pool, &act);
        for (size_t p = at; p < ps_min_size(at + STRETCH, bytes_of(b, t)); p += PANEL_BYTES)
            bench_panel(b, &act, b->mem + p);
        best->s[at / STRETCH] = fmin(best->s[at / STRETCH], ps_seconds_since(start));
    }
}

static const struct {
    enum ps_dtype type;
    const char *name;
} types[] = {{PS_BF16, "bf16"},     {PS_F16, "f16"},     {PS_F32, "f32"},   {PS_Q8B64, "q8b64"},
             {PS_NF4B64, "nf4b64"}, {PS_MXFP4, "mxfp4"}, {PS_F8_E4M3, "f8"}};
#define N_TYPES (sizeof types / sizeof types[0])

static struct ps_bench_row result(const struct bench *b, size_t type, unsigned T,
                                  const struct best *best)
{
    enum ps_dtype t = types[type].type;
    size_t rows = bytes_of(b, t) / PANEL_BYTES * panel_rows(t);
    double seconds = best_sum(best, bytes_of(b, t));
    return (struct ps_bench_row){
        .dtype = types[type].name,
        .t = T,
        .seconds = seconds,
        .gb_s = (double)(rows * row_bytes(t)) / seconds / 1e9,
        .gflops = 2.0 * T * (double)(rows * BENCH_K) / seconds / 1e9,
    };
}

#define N_T    6
#define ROUNDS 4
/* Arithmetic binds from here on, and the neighbours' use of memory matters little: fewer passes. */
#define MANY        128
#define MANY_ROUNDS 2

/* All rows and the probe take turns, so that a disturbance of some seconds does not fall on one of them alone. */
static size_t run_all(const struct bench *b, struct ps_bench_row *rows, size_t cap, double *limit_gb_s)
{
    static const unsigned Ts[N_T] = {1, 4, 16, 64, 128, 512};
    struct ps_read_best limit;
    struct best best[N_TYPES][N_T];
    size_t n = 0;
    ps_read_best_init(&limit);
    for (size_t i = 0; i < N_TYPES * N_T; i++)
        best_init(&best[i / N_T][i % N_T]);
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < N_TYPES; i++) {
            fill(b, types[i].type);
            ps_read_try_all(b->pool, b->mem, b->bytes, &limit);
            for (size_t j = 0; j < N_T; j++)
                for (int pass = 0; pass < (Ts[j] < 64 ? 4 : 1); pass++)
                    if (Ts[j] < MANY || round < MANY_ROUNDS)
                        one_pass(b, types[i].type, Ts[j], &best[i][j]);
        }
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t j = 0; j < N_T && n < cap; j++)
            rows[n++] = result(b, i, Ts[j], &best[i][j]);
    *limit_gb_s = ps_read_best_gb_s(&limit, b->bytes, NULL);
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
    b.bytes = ps_min_size(MATRIX_BYTES, ps_host_free_memory_bytes() / 4) / PANEL_BYTES * PANEL_BYTES;
    if (b.be == &ps_cpu_ref || b.bytes == 0)
        b.bytes = PANEL_BYTES;
    for (size_t i = 0; i < N_TYPES; i++)
        packed_bytes =
            ps_max_size(packed_bytes, b.be->act_bytes(types[i].type, MAX_T, BENCH_K) + 4096);
    rc = ps_pool_new(&b.pool, threads, ps_backend_thread_start, (void *)b.be, err);
    if (rc)
        return rc;
    b.mem = ps_alloc_pages(b.bytes, 4096);
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
