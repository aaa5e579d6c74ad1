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
#include "kernels/kernels.h"

#define KT_MAX_THREADS 3

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

/* A matrix of `rows` x K in `t`, its end at the end of readable memory if shift is 0, else `shift` bytes before it. */
struct kt_matrix {
    struct kt_guard g;
    const uint8_t *w;
    enum ps_dtype t;
    size_t rows, K, stride;
};

static inline struct kt_matrix kt_matrix_new(enum ps_dtype t, size_t rows, size_t K,
                                             size_t extra_stride, size_t shift, uint64_t seed)
{
    struct kt_matrix m = {.t = t, .rows = rows, .K = K, .stride = K * kt_size(t) + extra_stride};
    size_t bytes = (rows - 1) * m.stride + K * kt_size(t);
    m.g = kt_guard_new(bytes + shift);
    m.w = m.g.p;
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < K; k++)
            kt_put(m.g.p + r * m.stride + k * kt_size(t), t, kt_gauss(&seed));
    return m;
}

static inline void kt_matrix_free(struct kt_matrix *m)
{
    kt_guard_free(&m->g);
}

/* Backends that run here, ref first. */
static inline size_t kt_backends(const struct ps_backend *out[4])
{
    static const char *const names[] = {"ref", "avx2", "avx512", "amx"};
    size_t n = 0;
    for (size_t i = 0; i < 4; i++)
        if ((out[n] = ps_backend_by_name(names[i])))
            n++;
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
    struct ps_matrix w = {.type = m->t,
                          .K = m->K,
                          .data = m->w + r0 * m->stride,
                          .row_stride = m->stride,
                          .n_rows = r1 - r0,
                          .row0 = col0};
    be->matmul(pool, &act, &w, C, ldc, accumulate);
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
    return t == PS_F32 ? "f32" : t == PS_F16 ? "f16" : "bf16";
}
#endif
