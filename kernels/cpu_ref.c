/* The readable truth: every operation as plain loops, sums in double in one fixed order. In: what kernels.h says.
 * Out: the numbers that the other backends are tested against. Slow on purpose; nothing here may be clever. */
#include <math.h>

#include "kernels/kernel_scalar.h"
#include "kernels/kernels_internal.h"
#include "proto/quant.h"

static float element(const uint8_t *row, enum ps_dtype t, size_t k)
{
    if (t == PS_BF16)
        return ps_bf16_to_f32(ps_load_u16(row + 2 * k));
    if (t == PS_F16)
        return ps_f16_to_f32(ps_load_u16(row + 2 * k));
    return ps_load_f32(row + 4 * k);
}

static size_t ref_act_bytes(enum ps_dtype weights, size_t T, size_t K)
{
    (void)weights, (void)T, (void)K;
    return 0;
}

static void ref_act_pack(struct ps_pool *pool, const struct ps_act *act)
{
    (void)pool, (void)act;
}

/* The float16 scale of weight k in a row that carries its own. */
static double row_scale(const struct ps_matrix *w, const uint8_t *row, size_t k)
{
    size_t at = ps_quant_code_bytes(w->type, w->K) + k / PS_QUANT_BLOCK * 2;
    return (double)ps_f16_to_f32(ps_load_u16(row + at));
}

static double nf4_weight(const struct ps_matrix *w, const uint8_t *row, size_t k)
{
    uint8_t byte = row[ps_nf4_byte_at(k / PS_QUANT_BLOCK, k % 32)];
    unsigned code = k % PS_QUANT_BLOCK < 32 ? byte & 15u : byte >> 4;
    return (double)ps_nf4_values[code] * row_scale(w, row, k);
}

static double mxfp4_weight(const struct ps_matrix *w, const uint8_t *row, size_t r, size_t k)
{
    const uint8_t *scales = w->scales;
    unsigned code = k % 2 ? row[k / 2] >> 4 : row[k / 2] & 15u;
    uint8_t scale = scales[(w->row0 + r) * w->scale_ld + k / PS_MXFP4_BLOCK];
    return (double)ps_e2m1_values[code] * (double)ps_e8m0_to_f32(scale);
}

static double f8_weight(const struct ps_matrix *w, const uint8_t *row, size_t r, size_t k)
{
    const uint8_t *scales = w->scales;
    double scale = 1;
    if (scales) {
        size_t i = (w->row0 + r) / w->scale_rows * w->scale_ld + k / w->scale_cols;
        scale = (double)ps_load_f32(scales + 4 * i);
    }
    return (double)ps_e4m3_to_f32(row[k]) * scale;
}

/* W[r][k] as matrix.h and quant.h define it. */
static double weight(const struct ps_matrix *w, size_t r, size_t k)
{
    const uint8_t *row = (const uint8_t *)w->data + r * w->row_stride;
    switch (w->type) {
    case PS_Q8B64: return (double)(int8_t)row[k] * row_scale(w, row, k);
    case PS_NF4B64: return nf4_weight(w, row, k);
    case PS_MXFP4: return mxfp4_weight(w, row, r, k);
    case PS_F8_E4M3: return f8_weight(w, row, r, k);
    default: return (double)element(row, w->type, k);
    }
}

struct product {
    const struct ps_act *act;
    const struct ps_matrix *w;
    float *C;
    size_t ldc;
    bool accumulate;
};

static void matmul_rows(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct product *p = user;
    const struct ps_act *act = p->act;
    double factor = p->w->factor != 0 ? (double)p->w->factor : 1;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        for (size_t t = 0; t < act->T; t++) {
            const float *a = act->a + t * act->lda;
            double sum = 0;
            for (size_t k = 0; k < act->K; k++)
                sum += (double)a[k] * weight(p->w, r, k);
            float *c = p->C + t * p->ldc + p->w->row0 + r, out = (float)(sum * factor);
            *c = p->accumulate ? *c + out : out;
        }
}

static void ref_matmul(struct ps_pool *pool, const struct ps_act *act, const struct ps_matrix *panels,
                       size_t n, float *C, size_t ldc, bool accumulate)
{
    for (const struct ps_matrix *w = panels; w < panels + n; w++) {
        struct product p = {act, w, C, ldc, accumulate};
        PS_ASSERT(ps_all_weights(w->type) && w->type == act->weights && w->K == act->K);
        ps_fork_for(pool, w->n_rows, 8, matmul_rows, &p);
    }
}

static float score(const struct ps_attn *a, const float *q, const uint8_t *k)
{
    double s = 0;
    for (uint32_t d = 0; d < a->head_dim; d++)
        s += (double)q[d] * (double)element(k, a->k_dtype, d);
    s *= (double)a->scale;
    return (float)(a->softcap > 0 ? (double)a->softcap * tanh(s / (double)a->softcap) : s);
}

/* Two plain passes over the positions would need their scores kept; the online form needs none: whenever the maximum
 * grows, what was summed so far is scaled down. (Milakov and Gimelshein 2018, arXiv:1805.02867.) */
static void attend(const struct ps_attn *a, size_t t, uint32_t head)
{
    size_t first, end, k_elem = a->k_dtype == PS_F32 ? 4 : 2, v_elem = a->v_dtype == PS_F32 ? 4 : 2;
    size_t kv_head = head / (a->n_heads / a->n_kv_heads);
    const float *q = a->q + t * a->q_ld + (size_t)head * a->head_dim;
    float *out = a->out + t * a->out_ld + (size_t)head * a->head_dim;
    double max = -INFINITY, sum = 0, acc[32];
    ps_attn_span(a, t, &first, &end);
    for (uint32_t d0 = 0; d0 < a->head_dim;
         d0 += 32) { /* 32 outputs at a time: no storage of head_dim doubles */
        uint32_t nd = a->head_dim - d0 < 32 ? a->head_dim - d0 : 32;
        max = -INFINITY, sum = 0;
        memset(acc, 0, sizeof acc);
        for (size_t p = first; p < end; p++) {
            size_t at = (kv_head * PS_KV_PAGE + p % PS_KV_PAGE) * a->head_dim;
            const uint8_t *k = (const uint8_t *)a->k_pages[p / PS_KV_PAGE] + at * k_elem;
            const uint8_t *v = (const uint8_t *)a->v_pages[p / PS_KV_PAGE] + at * v_elem;
            double s = (double)score(a, q, k);
            if (s > max) {
                double down = exp(max - s);
                sum *= down;
                for (uint32_t d = 0; d < nd; d++)
                    acc[d] *= down;
                max = s;
            }
            double e = exp(s - max);
            sum += e;
            for (uint32_t d = 0; d < nd; d++)
                acc[d] += e * (double)element(v, a->v_dtype, d0 + d);
        }
        for (uint32_t d = 0; d < nd; d++)
            out[d0 + d] = (float)(acc[d] / sum);
    }
}

static void attention_tasks(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct ps_attn *a = user;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        attend(a, i / a->n_heads, (uint32_t)(i % a->n_heads));
}

static void ref_attention(struct ps_pool *pool, const struct ps_attn *a)
{
    PS_ASSERT(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0);
    ps_fork_for(pool, a->T * a->n_heads, 1, attention_tasks, (void *)a);
}

static void rmsnorm_rows(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct ps_rows_job *j = user;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        const float *x = j->x + t * j->ldx;
        float *y = j->y + t * j->ldy;
        double sum = 0;
        for (size_t i = 0; i < j->K; i++)
            sum += (double)x[i] * (double)x[i];
        float scale = (float)(1.0 / sqrt(sum / (double)j->K + (double)j->eps));
        for (size_t i = 0; i < j->K; i++)
            y[i] = x[i] * scale * (j->w[i] + j->w_offset);
    }
}

static void ref_rmsnorm(struct ps_pool *pool, float *y, size_t ldy, const float *x, size_t ldx,
                        const float *w, float w_offset, size_t T, size_t K, float eps)
{
    struct ps_rows_job j = {
        .y = y, .x = x, .w = w, .ldy = ldy, .ldx = ldx, .K = K, .w_offset = w_offset, .eps = eps};
    ps_fork_for(pool, T, ps_div_up(PS_FORK_MIN, K + 1), rmsnorm_rows, &j);
}

static void swiglu_rows(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct ps_rows_job *j = user;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        const float *g = j->x + t * j->ldx, *u = j->w + t * j->ldw;
        float *y = j->y + t * j->ldy;
        for (size_t i = 0; i < j->K; i++)
            y[i] = (float)((double)g[i] / (1.0 + exp(-(double)g[i])) * (double)u[i]);
    }
}

static void ref_swiglu(struct ps_pool *pool, float *y, size_t ldy, const float *g, size_t ldg,
                       const float *u, size_t ldu, size_t T, size_t K)
{
    struct ps_rows_job j = {.y = y, .x = g, .w = u, .ldy = ldy, .ldx = ldg, .ldw = ldu, .K = K};
    ps_fork_for(pool, T, ps_div_up(PS_FORK_MIN, K + 1), swiglu_rows, &j);
}

const struct ps_backend ps_cpu_ref = {
    .name = "ref",
    .act_bytes = ref_act_bytes,
    .act_pack = ref_act_pack,
    .multiplies = ps_all_weights,
    .matmul = ref_matmul,
    .attention = ref_attention,
    .rmsnorm = ref_rmsnorm,
    .swiglu = ref_swiglu,
};
