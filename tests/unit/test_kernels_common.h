/* What the kernel tests share: numbers, matrices at the very end of readable memory, one call that does a whole
 * product. */
#ifndef PS_TESTS_TEST_KERNELS_COMMON_H
#define PS_TESTS_TEST_KERNELS_COMMON_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/pool.h"
#include "kernels/kernel_scalar.h"
#include "kernels/codec/quant_encode.h"
#include "kernels/kernels_internal.h"
#include "proto/quant.h"

#define KT_MAX_THREADS 3

/* All types of weights; the first three are plain numbers. */
static const enum ps_dtype kt_types[] = {PS_F32,    PS_F16,   PS_BF16,   PS_Q8B64,
                                         PS_NF4B64, PS_MXFP4, PS_F8_E4M3};
#define KT_TYPES 7
#define KT_PLAIN 3

/* splitmix64: the same numbers on every machine */
static inline uint64_t kt_next(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Roughly normal, variance about one: a sum of four uniforms. */
static inline float kt_gauss(uint64_t *s)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(kt_next(s) >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7f;
}

static inline void kt_fill(float *x, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        x[i] = kt_gauss(&seed);
}

static inline size_t kt_size(enum ps_dtype t)
{
    return t == PS_F32 ? 4 : 2;
}

static inline void kt_put(uint8_t *at, enum ps_dtype t, float v)
{
    uint16_t h = t == PS_BF16 ? ps_f32_to_bf16(v) : ps_f32_to_f16(v);
    memcpy(at, t == PS_F32 ? (const void *)&v : (const void *)&h, kt_size(t));
}

/* `bytes` of memory whose last byte is followed by a page that faults. */
struct kt_guard {
    uint8_t *map, *p;
    size_t map_bytes;
};

static inline struct kt_guard kt_guard_new(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    struct kt_guard g = {.map_bytes = body + page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + body, page, PROT_NONE), 0);
    g.p = g.map + body - bytes;
    return g;
}

static inline void kt_guard_free(struct kt_guard *g)
{
    munmap(g->map, g->map_bytes);
}

/* A matrix of `rows` x K in `t`, its end at the end of readable memory if shift is 0, else `shift` bytes before it. The
 * scales of types that keep them apart are there for a few rows more, and end with their memory too. */
struct kt_matrix {
    struct kt_guard g, scales;
    const uint8_t *w;
    enum ps_dtype t;
    size_t rows, K, stride, row_bytes;
};

#define KT_SCALE_ROWS 16 /* of F8_E4M3 */
#define KT_SCALE_COLS 64
#define KT_MORE_ROWS  8

static inline size_t kt_row_bytes(enum ps_dtype t, size_t K)
{
    size_t quant = ps_quant_row_bytes(t, K);
    return quant ? quant : K * ps_dtype_bytes(t);
}

/* Weights about one in size. */
static inline void kt_fill_row(uint8_t *row, enum ps_dtype t, size_t K, uint64_t *seed)
{
    float *w = malloc(K * sizeof *w);
    for (size_t k = 0; k < K; k++)
        w[k] = kt_gauss(seed);
    if (t == PS_Q8B64 || t == PS_NF4B64)
        assert_int_equal(ps_quant_row_encode(row, t, w, K), 0);
    else if (t == PS_MXFP4 || t == PS_F8_E4M3)
        for (size_t i = 0; i < kt_row_bytes(t, K); i++) {
            uint8_t b = (uint8_t)kt_next(seed);
            row[i] = t == PS_MXFP4 ? b : (uint8_t)((b & 0x80) | (b & 0x3f)); /* below two */
        }
    else
        for (size_t k = 0; k < K; k++)
            kt_put(row + k * kt_size(t), t, w[k]);
    free(w);
}

static inline void kt_fill_scales(struct kt_matrix *m, uint64_t *seed)
{
    size_t rows = m->rows + KT_MORE_ROWS;
    size_t n = m->t == PS_MXFP4
                   ? rows * ((m->K + 31) / 32)
                   : (rows / KT_SCALE_ROWS + 1) * ((m->K + KT_SCALE_COLS - 1) / KT_SCALE_COLS);
    m->scales = kt_guard_new(n * (m->t == PS_MXFP4 ? 1 : 4));
    for (size_t i = 0; i < n; i++) {
        float f = 0.75f + (float)(kt_next(seed) >> 40) * 0x1p-24f;
        if (m->t == PS_MXFP4)
            m->scales.p[i] = (uint8_t)(124 + kt_next(seed) % 3);
        else
            memcpy(m->scales.p + 4 * i, &f, 4);
    }
}

static inline struct kt_matrix kt_matrix_new(enum ps_dtype t, size_t rows, size_t K,
                                             size_t extra_stride, size_t shift, uint64_t seed)
{
    struct kt_matrix m = {.t = t, .rows = rows, .K = K, .row_bytes = kt_row_bytes(t, K)};
    m.stride = m.row_bytes + extra_stride;
    size_t bytes = (rows - 1) * m.stride + m.row_bytes;
    m.g = kt_guard_new(bytes + shift);
    m.w = m.g.p;
    for (size_t r = 0; r < rows; r++)
        kt_fill_row(m.g.p + r * m.stride, t, K, &seed);
    if (t == PS_MXFP4 || t == PS_F8_E4M3)
        kt_fill_scales(&m, &seed);
    return m;
}

/* Rows [r0, r1) as a panel whose first is row `row0` of the whole matrix. */
static inline struct ps_matrix kt_panel(const struct kt_matrix *m, size_t r0, size_t r1, size_t row0)
{
    return (struct ps_matrix){.type = m->t,
                              .K = m->K,
                              .data = m->w + r0 * m->stride,
                              .row_stride = m->stride,
                              .n_rows = r1 - r0,
                              .row0 = row0,
                              .scales = m->scales.p,
                              .scale_ld = m->t == PS_MXFP4
                                              ? (m->K + 31) / 32
                                              : (m->K + KT_SCALE_COLS - 1) / KT_SCALE_COLS,
                              .scale_rows = KT_SCALE_ROWS,
                              .scale_cols = KT_SCALE_COLS};
}

static inline void kt_matrix_free(struct kt_matrix *m)
{
    kt_guard_free(&m->g);
    if (m->scales.map)
        kt_guard_free(&m->scales);
}

/* Backends that run here, ref first; the plain AVX-512 one too where its name stands for another. */
#define KT_BACKENDS 5
static inline size_t kt_backends(const struct ps_backend *out[KT_BACKENDS])
{
    static const char *const names[] = {"ref", "avx2", "avx512", "amx"};
    size_t n = 0;
    for (size_t i = 0; i < 4; i++)
        if ((out[n] = ps_backend_by_name(names[i])))
            n++;
#if PS_KERNELS_X86
    if (ps_backend_by_name("avx512") == &ps_cpu_avx512_dots)
        out[n++] = &ps_cpu_avx512;
#endif
    return n;
}

static inline struct ps_pool *kt_pool(unsigned threads, const struct ps_backend *be)
{
    struct ps_pool *pool = NULL;
    assert_int_equal(ps_pool_new(&pool, threads, ps_backend_thread_start, (void *)be, NULL), 0);
    return pool;
}

/* C = A W^T in one go: packs A (T x K, lda apart; placed as given) and multiplies the rows [r0, r1) of m. */
static inline void kt_matmul(const struct ps_backend *be, struct ps_pool *pool, const float *a,
                             size_t T, size_t lda, const struct kt_matrix *m, size_t r0, size_t r1,
                             float *C, size_t ldc, size_t col0, bool accumulate)
{
    size_t bytes = be->act_bytes(m->t, T, m->K);
    void *packed = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL;
    struct ps_act act = {.a = a, .T = T, .K = m->K, .lda = lda, .weights = m->t, .packed = packed};
    be->act_pack(pool, &act);
    struct ps_matrix w = kt_panel(m, r0, r1, col0);
    be->matmul(pool, &act, &w, 1, C, ldc, accumulate);
    free(packed);
}

/* Root mean square of the difference over that of the truth. */
static inline double kt_rel_rms(const float *got, const float *want, size_t n)
{
    double e = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        e += d * d;
        s += (double)want[i] * (double)want[i];
    }
    return sqrt(e / (s > 0 ? s : 1));
}

static inline const char *kt_dtype(enum ps_dtype t)
{
    return ps_dtype_name(t);
}
#endif
