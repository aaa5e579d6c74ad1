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
};

/* Weights about one in size, of both signs: a repeated megabyte, random enough for arithmetic. */
static void fill(uint8_t *mem, size_t bytes, enum ps_dtype t)
{
    uint32_t x = 1;
    size_t first = ps_min_size(bytes, 1 << 20), size = ps_dtype_bytes(t);
    for (size_t i = 0; i < first; i += size) {
        x = x * 1664525u + 1013904223u;
        float v = (float)(int32_t)x * 0x1p-31f;
        uint16_t h = t == PS_BF16 ? ps_f32_to_bf16(v) : ps_f32_to_f16(v);
        memcpy(mem + i, t == PS_F32 ? (const void *)&v : (const void *)&h, size);
    }
    for (size_t i = first; i < bytes; i += first)
        memcpy(mem + i, mem, ps_min_size(first, bytes - i));
}

static void bench_panel(const struct bench *b, const struct ps_act *act, const uint8_t *rows,
                        size_t stride, size_t n)
{
    struct ps_matrix w = {
        .type = act->weights, .K = act->K, .data = rows, .row_stride = stride, .n_rows = n};
    b->be->matmul(b->pool, act, &w, b->c, n, false);
}

static void one_pass(const struct bench *b, enum ps_dtype t, size_t T, struct best *best)
{
    size_t stride = BENCH_K * ps_dtype_bytes(t), step = PANEL_BYTES / stride;
    struct ps_act act = {
        .a = b->a, .T = T, .K = BENCH_K, .lda = BENCH_K, .weights = t, .packed = b->packed};
    for (size_t at = 0; at < b->bytes; at += STRETCH) {
        uint64_t start = ps_now_ns();
        b->be->act_pack(b->pool, &act);
        for (size_t p = at; p < ps_min_size(at + STRETCH, b->bytes); p += PANEL_BYTES)
            bench_panel(b, &act, b->mem + p, stride, step);
        best->s[at / STRETCH] = fmin(best->s[at / STRETCH], ps_seconds_since(start));
    }
}

static struct ps_bench_row result(const struct bench *b, enum ps_dtype t, unsigned T,
                                  const struct best *best)
{
    double seconds = best_sum(best, b->bytes);
    double weights = (double)b->bytes / (double)ps_dtype_bytes(t);
    return (struct ps_bench_row){
        .dtype = t == PS_BF16  ? "bf16"
                 : t == PS_F16 ? "f16"
                               : "f32",
        .t = T,
        .seconds = seconds,
        .gb_s = (double)b->bytes / seconds / 1e9,
        .gflops = 2.0 * T * weights / seconds / 1e9,
    };
}

#define N_T    6
#define ROUNDS 4

/* All rows and the probe take turns, so that a disturbance of some seconds does not fall on one of them alone. */
static size_t run_all(const struct bench *b, struct ps_bench_row *rows, size_t cap, double *limit_gb_s)
{
    static const enum ps_dtype types[] = {PS_BF16, PS_F16, PS_F32};
    static const unsigned Ts[N_T] = {1, 4, 16, 64, 128, 512};
    struct ps_read_best limit;
    struct best best[3][N_T];
    size_t n = 0;
    ps_read_best_init(&limit);
    for (size_t i = 0; i < 3 * N_T; i++)
        best_init(&best[i / N_T][i % N_T]);
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < 3; i++) {
            fill(b->mem, b->bytes, types[i]);
            ps_read_try_all(b->pool, b->mem, b->bytes, &limit);
            for (size_t j = 0; j < N_T; j++)
                for (int pass = 0; pass < (Ts[j] < 64 ? 4 : 1); pass++)
                    one_pass(b, types[i], Ts[j], &best[i][j]);
        }
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < N_T && n < cap; j++)
            rows[n++] = result(b, types[i], Ts[j], &best[i][j]);
    *limit_gb_s = ps_read_best_gb_s(&limit, b->bytes, NULL);
    return n;
}

int ps_bench_gemv(struct ps_bench_row *rows, size_t cap, size_t *n, double *limit_gb_s,
                  unsigned threads, struct ps_err *err)
{
    struct bench b = {0};
    size_t a_bytes = (size_t)MAX_T * BENCH_K * sizeof(float), packed_bytes = 0;
    size_t c_bytes = (size_t)MAX_T * (PANEL_BYTES / BENCH_K / 2) * sizeof(float);
    int rc = ps_backend_choose(&b.be, err);
    if (rc)
        return rc;
    /* a quarter of what is free leaves room for the program around; the reference takes minutes for a full matrix */
    b.bytes = ps_min_size(MATRIX_BYTES, ps_host_free_memory_bytes() / 4) / PANEL_BYTES * PANEL_BYTES;
    if (b.be == &ps_cpu_ref || b.bytes == 0)
        b.bytes = PANEL_BYTES;
    for (enum ps_dtype t = PS_F32; t <= PS_BF16; t++)
        packed_bytes = ps_max_size(packed_bytes, b.be->act_bytes(t, MAX_T, BENCH_K) + 4096);
    rc = ps_pool_new(&b.pool, threads, ps_backend_thread_start, (void *)b.be, err);
    if (rc)
        return rc;
    b.mem = ps_alloc_pages(b.bytes, 4096);
    b.a = ps_alloc_pages(a_bytes, 4096);
    b.c = ps_alloc_pages(c_bytes, 4096);
    b.packed = ps_alloc_pages(packed_bytes, 4096);
    if (!b.mem || !b.a || !b.c || !b.packed) {
        rc = ps_err_set(err, PS_ENOMEM, "kernels", "bench gemv: no %zu MiB of memory: free some",
                        (b.bytes + a_bytes + c_bytes + packed_bytes) >> 20);
        goto out;
    }
    for (size_t i = 0; i < (size_t)MAX_T * BENCH_K; i++)
        b.a[i] = (float)(i * 2654435761u % 2048) / 1024.0f - 1.0f;
    double limit = 0;
    size_t done = run_all(&b, rows, cap, &limit);
    *n = done;
    *limit_gb_s = limit;
out:
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
