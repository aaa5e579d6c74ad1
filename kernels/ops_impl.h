/* rmsnorm and swiglu, and the exponential that attention shares, written once in the names of vec_*.h. A backend's
 * file includes its vec_*.h first, then this. */
#ifndef PS_KERNELS_OPS_IMPL_H
#define PS_KERNELS_OPS_IMPL_H
#ifdef VW
#include <math.h>

#include "kernels/kernels_internal.h"

/* e^x within about 1.5 ulp: Cody and Waite's reduction, the polynomial of Cephes' expf. One polynomial in every
 * lane and every tail: libm's expf may differ between builds, and a vector library's between its vector and its
 * remainder loop. -inf gives 0, overflow +inf, NaN stays. */
static inline vf v_exp(vf x)
{
    x = v_max(v_set1(-104.0f), x); /* operand order: a NaN in x survives */
    x = v_min(v_set1(89.0f), x);
    vf n = v_round(v_mul(x, v_set1(1.44269504088896341f)));
    vf r = v_fnma(n, v_set1(0.693359375f), x);
    r = v_fnma(n, v_set1(-2.12194440e-4f), r);
    vf y = v_set1(1.9875691500e-4f);
    y = v_fma(y, r, v_set1(1.3981999507e-3f));
    y = v_fma(y, r, v_set1(8.3334519073e-3f));
    y = v_fma(y, r, v_set1(4.1665795894e-2f));
    y = v_fma(y, r, v_set1(1.6666665459e-1f));
    y = v_fma(y, r, v_set1(5.0000001201e-1f));
    y = v_fma(y, v_mul(r, r), v_add(r, v_set1(1.0f)));
    return v_scale2(y, n);
}

/* tanh: Cephes' odd polynomial near zero, (1-e)/(1+e) with e = exp(-2|x|) beyond. */
static inline vf v_tanh(vf x)
{
    vf a = v_abs(x), e = v_exp(v_mul(a, v_set1(-2.0f))), one = v_set1(1.0f);
    vf far = v_copysign(v_div(v_sub(one, e), v_add(one, e)), x);
    vf z = v_mul(x, x), y = v_set1(-5.70498872745e-3f);
    y = v_fma(y, z, v_set1(2.06390887954e-2f));
    y = v_fma(y, z, v_set1(-5.37397155531e-2f));
    y = v_fma(y, z, v_set1(1.33314422036e-1f));
    y = v_fma(y, z, v_set1(-3.33332819422e-1f));
    return v_select_lt(a, v_set1(0.625f), v_fma(v_mul(y, z), x, x), far);
}

/* Four partial sums, vector i of the row going to sum i % 4: enough to hide the latency of an addition. */
static float sum_of_squares(const float *x, size_t K)
{
    vf s[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
    size_t i = 0;
    for (; i + 4 * VW <= K; i += 4 * VW)
        for (unsigned j = 0; j < 4; j++) {
            vf v = v_load(x + i + j * VW);
            s[j] = v_fma(v, v, s[j]);
        }
    for (unsigned j = 0; i < K; j++, i += VW) {
        vf v = v_load_n(x + i, ps_min_size(K - i, VW));
        s[j] = v_fma(v, v, s[j]);
    }
    return v_sum(v_add(v_add(s[0], s[1]), v_add(s[2], s[3])));
}

static void rmsnorm_rows(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct ps_rows_job *j = user;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        const float *x = j->x + t * j->ldx;
        float *y = j->y + t * j->ldy;
        vf scale = v_set1(1.0f / sqrtf(sum_of_squares(x, j->K) / (float)j->K + j->eps));
        vf offset = v_set1(j->w_offset);
        for (size_t i = 0; i < j->K; i += VW) {
            size_t n = ps_min_size(j->K - i, VW);
            vf w = v_add(v_load_n(j->w + i, n), offset);
            v_store_n(y + i, v_mul(v_mul(v_load_n(x + i, n), scale), w), n);
        }
    }
}

static void op_rmsnorm(struct ps_pool *pool, float *y, size_t ldy, const float *x, size_t ldx,
                       const float *w, float w_offset, size_t T, size_t K, float eps)
{
    struct ps_rows_job j = {
        .y = y, .x = x, .w = w, .ldy = ldy, .ldx = ldx, .K = K, .w_offset = w_offset, .eps = eps};
    ps_fork_for(pool, T, ps_div_up(PS_FORK_MIN, K + 1), rmsnorm_rows, &j);
}

#define PS_SWIGLU_CHUNK 4096 /* columns of one task, so that a single row is shared out too */

static void swiglu_chunks(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct ps_rows_job *j = user;
    size_t per_row = ps_div_up(j->K, PS_SWIGLU_CHUNK);
    (void)thread;
    for (size_t c = begin; c < end; c++) {
        size_t t = c / per_row, from = c % per_row * PS_SWIGLU_CHUNK;
        size_t to = ps_min_size(j->K, from + PS_SWIGLU_CHUNK);
        const float *g = j->x + t * j->ldx, *u = j->w + t * j->ldw;
        float *y = j->y + t * j->ldy;
        for (size_t i = from; i < to; i += VW) {
            size_t n = ps_min_size(to - i, VW);
            vf v = v_load_n(g + i, n);
            vf silu = v_div(v, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), v))));
            v_store_n(y + i, v_mul(silu, v_load_n(u + i, n)), n);
        }
    }
}

static void op_swiglu(struct ps_pool *pool, float *y, size_t ldy, const float *g, size_t ldg,
                      const float *u, size_t ldu, size_t T, size_t K)
{
    struct ps_rows_job j = {.y = y, .x = g, .w = u, .ldy = ldy, .ldx = ldg, .ldw = ldu, .K = K};
    size_t chunk = ps_min_size(K, PS_SWIGLU_CHUNK);
    ps_fork_for(pool, T * ps_div_up(K, PS_SWIGLU_CHUNK), ps_div_up(PS_FORK_MIN / 4, chunk + 1),
                swiglu_chunks, &j);
}
#endif
#endif
