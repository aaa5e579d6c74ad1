/* The arithmetic: one table of operations per backend. Row panels of weights come in as they arrive from the
 * scheduler; rows of activations come out. `ref` is the readable truth (kernels/cpu_ref.c); avx2, avx512 (with or
 * without its bf16 dot product) and amx are chosen at run time.
 *
 * Row invariance: for one backend and weight type, the value of C[t][r] is a function of A[t] and W[r] alone: it
 * never depends on T, on the panel's cut, on the number of threads or on its neighbours. Every operation keeps one
 * fixed order of additions along k.
 *
 * Precision: accumulation in float32. With bf16 weights the activations stay float32 (widened FMA) or become hi +
 * lo bf16 halves, about 17 bits (avx512 with its bf16 dot product, amx): relative rms error of a product of 4096
 * 4e-7 and 2.3e-6, where bf16 activations would give 1.8e-3. Those two treat denormal weights and activations as
 * zero. The same holds for four-bit and FP8 weights, whose values are bf16, with the bf16 dot product of avx512; Q8B64
 * codes always meet float32. Codes are multiplied as they lie and scales applied to sums: no weight is ever rounded.
 *
 * Threads: functions taking a ps_pool fork and join on it and are called by one driver thread; the rest are pure. A
 * null pool means the calling thread alone. No allocation inside. */
#ifndef PS_KERNELS_KERNELS_H
#define PS_KERNELS_KERNELS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/pool.h"
#include "kernels/matrix.h"
#include "proto/dtype.h"

/* Activations prepared once per input for use with many panels: layout belongs to the backend. */
struct ps_act {
    const float *a;        /* [T][lda] row-major f32, borrowed */
    size_t T, K, lda;      /* lda in elements */
    enum ps_dtype weights; /* dtype of the matrices that will be multiplied */
    void *packed;          /* caller's storage of at least act_bytes(), 64-byte aligned */
};

/* KV pages: PS_KV_PAGE positions each, K then V, both [kv_head][position][head_dim] so that one head's keys are
 * contiguous. */
#define PS_KV_PAGE 64
struct ps_attn {
    const float *q; /* [T][q_ld]: n_heads * head_dim, rope and qk-norm applied */
    size_t q_ld;
    float *out; /* [T][out_ld]: n_heads * head_dim */
    size_t out_ld;
    size_t T;
    uint32_t n_heads, n_kv_heads, head_dim;
    const uint32_t *pos; /* [T]: position of each row; row t sees positions [max(0, pos+1-window), pos] */
    uint32_t window;      /* 0 = full */
    float scale;          /* applied to q.k */
    float softcap;        /* 0 = none */
    void *const *k_pages; /* page p holds positions [p*PS_KV_PAGE, (p+1)*PS_KV_PAGE) */
    void *const *v_pages;
    enum ps_dtype k_dtype, v_dtype; /* f32, f16 or bf16 each */
    float *scratch;                 /* ps_attn_scratch_floats(pool threads, head_dim) floats */
};
struct ps_backend {
    const char *name; /* "ref", "avx2", "avx512", "amx": the word in bench --json */
    /* Bytes of packed storage for T rows of K elements with weights of this type (0 = none needed). */
    size_t (*act_bytes)(enum ps_dtype weights, size_t T, size_t K);
    /* Fills act->packed from act->a; matmul reads `packed` alone. `ref` packs nothing and reads `a`. */
    void (*act_pack)(struct ps_pool *pool, const struct ps_act *act);
    /* Has matmul for this type of weights: f32, f16, bf16, F8_E4M3, Q8B64, NF4B64, MXFP4. */
    bool (*multiplies)(enum ps_dtype weights);
    /* C[t][w->row0 + r] = w->factor * sum_k A[t][k] * W[r][k] for each of `n` panels w of one matrix (the threads begin
     * and end once), r in [0, w->n_rows), t in [0, T); w->type and w->K are those of `act`. Rows may start at any byte
     * address. C is [T][ldc] f32. If `accumulate`, adds to C (one final f32 addition). Backends other than `ref` take a
     * factor of 1 only with plain numbers, and scale_cols of F8_E4M3 that is a multiple of 64 or at least K. */
    void (*matmul)(struct ps_pool *pool, const struct ps_act *act, const struct ps_matrix *panels,
                   size_t n, float *C, size_t ldc, bool accumulate);
    /* Attention of T query rows against a paged KV: see struct ps_attn. */
    void (*attention)(struct ps_pool *pool, const struct ps_attn *attn);
    /* y[t][i] = x[t][i] / sqrt(mean(x[t]^2) + eps) * (w[i] + w_offset); K elements; x and y may be the same; ld in
     * elements */
    void (*rmsnorm)(struct ps_pool *pool, float *y, size_t ldy, const float *x, size_t ldx,
                    const float *w, float w_offset, size_t T, size_t K, float eps);
    /* y = silu(g) * u, elementwise over T rows of K; y may be g */
    void (*swiglu)(struct ps_pool *pool, float *y, size_t ldy, const float *g, size_t ldg,
                   const float *u, size_t ldu, size_t T, size_t K);
};

size_t ps_attn_scratch_floats(unsigned threads, uint32_t head_dim);

/* Stores K or V of one row into a page: converts n_kv_heads * head_dim floats to kv_dtype (round to nearest even). */
void ps_kv_store(void *page, enum ps_dtype kv_dtype, uint32_t n_kv_heads, uint32_t head_dim,
                 uint32_t slot /* pos % PS_KV_PAGE */, const float *x);
static inline size_t ps_kv_page_bytes(enum ps_dtype kv_dtype, uint32_t n_kv_heads, uint32_t head_dim)
{
    return (size_t)PS_KV_PAGE * n_kv_heads * head_dim * (kv_dtype == PS_F32 ? 4 : 2);
}

/* Rotary embedding, half-split (NeoX) or interleaved pairs: cos/sin tables are [T][rot_dim/2], already scaled. In
 * place. */
void ps_rope(float *x, size_t ld, size_t T, uint32_t n_heads, uint32_t head_dim, uint32_t rot_dim,
             const float *cos, const float *sin, bool interleaved);
/* x[t][i] += y[t][i] */
void ps_add(float *x, size_t ldx, const float *y, size_t ldy, size_t T, size_t K);
void ps_add_bias(float *x, size_t ldx, const float *b, size_t T, size_t K);
/* Row of a stored matrix to f32 (embedding gather, vectors): n elements of f32, f16 or bf16 at any address, or the
 * whole row of n weights in Q8B64 or NF4B64. PS_EUNSUPPORTED for other types. */
int ps_to_f32(float *out, const void *in, enum ps_dtype t, size_t n);

/* Best backend for this CPU; PENSTOCK_BACKEND=ref|avx2|avx512|amx narrows it (PS_EUNSUPPORTED if the CPU can't,
 * PS_EUSAGE if there is no such word). Computed once. ps_backend_thread_start must run on every thread that uses a
 * backend (AMX tile configuration): hand it to ps_pool_new. */
int ps_backend_choose(const struct ps_backend **out, struct ps_err *err);
const struct ps_backend *ps_backend_by_name(const char *name); /* NULL if unknown or not runnable here */
void ps_backend_thread_start(void *backend);
#endif
