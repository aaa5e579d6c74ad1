/* What the backends share with one another and with backend.c; nobody outside kernels/ includes this. */
#ifndef PS_KERNELS_KERNELS_INTERNAL_H
#define PS_KERNELS_KERNELS_INTERNAL_H
#include "kernels/kernels.h"

#if defined(__x86_64__)
#define PS_KERNELS_X86 1
#else
#define PS_KERNELS_X86 0
#endif

extern const struct ps_backend ps_cpu_ref;
#if PS_KERNELS_X86
extern const struct ps_backend ps_cpu_avx2;
extern const struct ps_backend ps_cpu_avx512;
extern const struct ps_backend ps_cpu_avx512_dots; /* also called "avx512": by dot products what the CPU can */
extern const struct ps_backend ps_cpu_amx;

/* Asks the kernel once per process for the AMX tile state; 0 or PS_EUNSUPPORTED. */
int ps_amx_permit(void);
void ps_amx_thread_start(void);
#endif

static inline size_t ps_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t ps_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline size_t ps_div_up(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static inline size_t ps_round_up(size_t a, size_t b)
{
    return ps_div_up(a, b) * b;
}

/* Elements below which an elementwise operation is done by the caller alone: a fork and join costs a few
 * microseconds. */
#define PS_FORK_MIN 32768

static inline unsigned ps_threads_of(const struct ps_pool *pool)
{
    return pool ? ps_pool_threads(pool) : 1;
}

/* Fork-join forms that take a null pool as "this thread alone". */
static inline void ps_fork(struct ps_pool *pool, void (*fn)(void *, unsigned, unsigned), void *user)
{
    if (ps_threads_of(pool) == 1)
        fn(user, 0, 1);
    else
        ps_pool_run(pool, fn, user);
}

static inline void ps_fork_for(struct ps_pool *pool, size_t n, size_t grain,
                               void (*fn)(void *, size_t, size_t, unsigned), void *user)
{
    if (n == 0)
        return;
    if (ps_threads_of(pool) == 1 || n <= grain)
        fn(user, 0, n, 0);
    else
        ps_pool_for(pool, n, grain, fn, user);
}

/* One row of work of the row-wise operations, the same arguments for all backends. */
struct ps_rows_job {
    float *y;
    const float *x, *w;
    size_t ldy, ldx, ldw, K;
    float w_offset, eps;
};

struct ps_matmul_job {
    const struct ps_act *act;
    const struct ps_matrix *panels;
    size_t n;
    float *C;
    size_t ldc;
    bool accumulate;
};

/* One number per element and nothing else. */
static inline bool ps_plain_weights(enum ps_dtype t)
{
    return t == PS_F32 || t == PS_F16 || t == PS_BF16;
}

/* Those, and codes with scales: the types that every backend multiplies. */
static inline bool ps_all_weights(enum ps_dtype t)
{
    return ps_plain_weights(t) || t == PS_F8_E4M3 || t == PS_Q8B64 || t == PS_NF4B64 || t == PS_MXFP4;
}

static inline struct ps_matmul_job ps_matmul_job(const struct ps_act *act,
                                                 const struct ps_matrix *panels, size_t n, float *C,
                                                 size_t ldc, bool accumulate)
{
    for (const struct ps_matrix *w = panels; w < panels + n; w++) {
        PS_ASSERT(ps_all_weights(w->type) && w->type == act->weights && w->K == act->K);
        PS_ASSERT(!ps_plain_weights(w->type) || w->factor == 0 || w->factor == 1);
        PS_ASSERT(w->type != PS_F8_E4M3 || !w->scales || w->scale_cols >= w->K ||
                  w->scale_cols % 64 == 0);
    }
    return (struct ps_matmul_job){act, panels, n, C, ldc, accumulate};
}

/* For the table of a backend that has products of its own: all other operations are those of `other`. */
#define PS_OPS_OF(other)                                                                           \
    static void attention(struct ps_pool *pool, const struct ps_attn *a)                           \
    {                                                                                              \
        (other).attention(pool, a);                                                                \
    }                                                                                              \
    static void rmsnorm(struct ps_pool *pool, float *y, size_t ldy, const float *x, size_t ldx,    \
                        const float *w, float w_offset, size_t T, size_t K, float eps)             \
    {                                                                                              \
        (other).rmsnorm(pool, y, ldy, x, ldx, w, w_offset, T, K, eps);                             \
    }                                                                                              \
    static void swiglu(struct ps_pool *pool, float *y, size_t ldy, const float *g, size_t ldg,     \
                       const float *u, size_t ldu, size_t T, size_t K)                             \
    {                                                                                              \
        (other).swiglu(pool, y, ldy, g, ldg, u, ldu, T, K);                                        \
    }

/* Query rows (of all heads) that one attention task carries through the pages. */
#define PS_ATTN_TASK 64

/* Per-thread floats of attention scratch; ps_attn_scratch_floats is threads times this. */
size_t ps_attn_thread_floats(uint32_t head_dim);

/* Positions that row `pos` sees: [*first, *end). */
static inline void ps_attn_span(const struct ps_attn *a, size_t t, size_t *first, size_t *end)
{
    *end = (size_t)a->pos[t] + 1;
    *first = a->window && *end > a->window ? *end - a->window : 0;
}
#endif
