/* Attention over paged keys and values, written once in the names of vec_*.h (include ops_impl.h first).
 *
 * Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867; blocks as in FlashAttention, arXiv:2205.14135)
 * whose blocks are the KV pages, fixed by position. For one (row, head): within a page a key's score is one chain
 * of FMAs along head_dim; the page's exponentials are summed by slot; values are added slot by slot. So the result
 * depends on the row's query and its pages alone, whatever T, the chunk, the number of threads and the grouping
 * below are.
 *
 * Grouping: a task is some rows times some query heads of one kv head. It converts each page to f32 once (keys
 * transposed, so that a vector holds one dimension of many keys) and lets all its queries use it. */
#ifndef PS_KERNELS_ATTENTION_IMPL_H
#define PS_KERNELS_ATTENTION_IMPL_H
#ifdef VW
#include <math.h>

#include "kernels/kernels_internal.h"

#define PAGE_VECS (PS_KV_PAGE / VW)
#define AT_Q      4 /* queries at once in the inner loops */
#define AT_V      4 /* vectors at once */
#define AT_DIRECT 8 /* queries of a task up to which pages are used as they are */

struct at_query {
    size_t first, end; /* positions seen */
    const float *q;
    float *out;
    float *acc, *score; /* [dim_pad], [PS_KV_PAGE] of this thread's scratch */
    float max, sum;
};

struct at_job {
    const struct ps_attn *a;
    size_t group;           /* query heads of a kv head */
    size_t rows, heads;     /* of one task */
    size_t n_rows, n_heads; /* tasks along each */
    size_t dim_pad;
};

static vf at_load(const uint8_t *p, enum ps_dtype t, size_t i, size_t n)
{
    if (n >= VW)
        return t == PS_BF16  ? v_load_bf16(p + 2 * i)
               : t == PS_F16 ? v_load_f16(p + 2 * i)
                             : v_load_f32(p + 4 * i);
    return t == PS_BF16  ? v_load_bf16_n(p + 2 * i, n)
           : t == PS_F16 ? v_load_f16_n(p + 2 * i, n)
                         : v_load_f32_n(p + 4 * i, n);
}

/* keys[d][slot] from the slots [lo, hi) of a page, widened to whole vectors of slots */
static void at_keys(float *keys, const uint8_t *page, enum ps_dtype t, size_t dim, size_t lo,
                    size_t hi)
{
    size_t row_bytes = dim * (t == PS_F32 ? 4 : 2);
    for (size_t s = lo / VW * VW; s < hi; s += VW)
        for (size_t d = 0; d < dim; d += VW) {
            vf m[VW];
            for (size_t i = 0; i < VW; i++)
                m[i] = at_load(page + (s + i) * row_bytes, t, d, dim - d);
            v_transpose(m);
            for (size_t i = 0; i < VW && d + i < dim; i++)
                v_store(keys + (d + i) * PS_KV_PAGE + s, m[i]);
        }
}

/* values[slot][dim_pad], zeros behind dim */
static void at_values(float *values, const uint8_t *page, enum ps_dtype t, size_t dim,
                      size_t dim_pad, size_t lo, size_t hi)
{
    size_t row_bytes = dim * (t == PS_F32 ? 4 : 2);
    for (size_t s = lo; s < hi; s++)
        for (size_t d = 0; d < dim_pad; d += VW)
            v_store(values + s * dim_pad + d,
                    d < dim ? at_load(page + s * row_bytes, t, d, dim - d) : v_zero());
}

static inline __attribute__((always_inline)) void at_scores_n(const struct at_query *q,
                                                              const float *keys, size_t dim,
                                                              size_t lo, size_t hi, int nq)
{
    for (size_t s = lo / (VW * AT_V) * (VW * AT_V); s < hi; s += VW * AT_V) {
        vf acc[AT_Q][AT_V];
        for (int i = 0; i < nq; i++)
            for (int v = 0; v < AT_V; v++)
                acc[i][v] = v_zero();
        for (size_t d = 0; d < dim; d++) {
            vf k[AT_V];
            for (int v = 0; v < AT_V; v++)
                k[v] = v_load(keys + d * PS_KV_PAGE + s + (size_t)v * VW);
            for (int i = 0; i < nq; i++) {
                vf x = v_set1(q[i].q[d]);
                for (int v = 0; v < AT_V; v++)
                    acc[i][v] = v_fma(x, k[v], acc[i][v]);
            }
        }
        for (int i = 0; i < nq; i++)
            for (int v = 0; v < AT_V; v++)
                v_store(q[i].score + s + v * VW, acc[i][v]);
    }
}

static void at_scores(const struct at_query *q, const float *keys, size_t dim, size_t lo, size_t hi,
                      int nq)
{
    switch (nq) {
    case 1: at_scores_n(q, keys, dim, lo, hi, 1); break;
    case 2: at_scores_n(q, keys, dim, lo, hi, 2); break;
    case 3: at_scores_n(q, keys, dim, lo, hi, 3); break;
    default: at_scores_n(q, keys, dim, lo, hi, 4); break;
    }
}

/* The same chains straight from the page, for so few queries that storing the transposed keys would not pay. Then
 * memory binds: what comes next, the page's values, is prefetched (and from at_add the next page's keys). */
static inline __attribute__((always_inline)) void at_direct_n(const struct at_query *q,
                                                              const uint8_t *page,
                                                              const uint8_t *ahead, enum ps_dtype t,
                                                              size_t dim, size_t lo, size_t hi,
                                                              int nq, int distinct)
{
    size_t size = t == PS_F32 ? 4 : 2, row_bytes = dim * size;
    for (size_t s = lo / VW * VW; s < hi; s += VW) {
        vf acc[AT_Q];
        for (int i = 0; i < nq; i++)
            acc[i] = v_zero();
        for (size_t d = 0; d < dim; d += VW) {
            size_t n = ps_min_size(dim - d, VW);
            vf m[VW];
            for (size_t i = 0; i < VW; i++) {
                m[i] = at_load(page + (s + i) * row_bytes, t, d, n);
                if (d * size % 64 == 0)
                    __builtin_prefetch(ahead + (s + i) * row_bytes + d * size, 0, 2);
            }
            v_transpose(m);
            if (n == VW)
                for (size_t i = 0; i < VW; i++)
                    for (int j = 0; j < nq; j++)
                        acc[j] = v_fma(v_set1(q[j < distinct ? j : 0].q[d + i]), m[i], acc[j]);
            else
                for (size_t i = 0; i < n; i++)
                    for (int j = 0; j < nq; j++)
                        acc[j] = v_fma(v_set1(q[j < distinct ? j : 0].q[d + i]), m[i], acc[j]);
        }
        for (int i = 0; i < distinct; i++)
            v_store(q[i].score + s, acc[i]);
    }
}

static void at_direct(const struct at_query *q, const uint8_t *page, const uint8_t *ahead,
                      enum ps_dtype t, size_t dim, size_t lo, size_t hi, int nq)
{
    if (t == PS_BF16)
        nq == 1 ? at_direct_n(q, page, ahead, PS_BF16, dim, lo, hi, 1, 1)
                : at_direct_n(q, page, ahead, PS_BF16, dim, lo, hi, AT_Q, nq);
    else if (t == PS_F16)
        nq == 1 ? at_direct_n(q, page, ahead, PS_F16, dim, lo, hi, 1, 1)
                : at_direct_n(q, page, ahead, PS_F16, dim, lo, hi, AT_Q, nq);
    else
        nq == 1 ? at_direct_n(q, page, ahead, PS_F32, dim, lo, hi, 1, 1)
                : at_direct_n(q, page, ahead, PS_F32, dim, lo, hi, AT_Q, nq);
}

/* Scores to weights: q->score becomes exp(score - max), zero outside the slots [lo, hi) that the row sees. Returns
 * the factor by which what was summed before shrinks. Slots not seen may hold anything, NaNs too. */
static float at_softmax(struct at_query *q, const struct ps_attn *a, int lo, int hi)
{
    vf s[PAGE_VECS], top = v_set1(-INFINITY), sum = v_zero();
    for (int v = 0; v < PAGE_VECS; v++) {
        s[v] = v_mul(v_load(q->score + v * VW), v_set1(a->scale));
        if (a->softcap > 0)
            s[v] = v_mul(v_tanh(v_div(s[v], v_set1(a->softcap))), v_set1(a->softcap));
        s[v] = v_keep_range(s[v], v * VW, lo, hi, v_set1(-INFINITY));
        top = v_max(top, s[v]);
    }
    float max = v_max_lane(top);
    max = max > q->max ? max : q->max;
    for (int v = 0; v < PAGE_VECS; v++) {
        s[v] = v_exp(v_sub(s[v], v_set1(max)));
        v_store(q->score + v * VW, s[v]);
        sum = v_add(sum, s[v]);
    }
    float shrink[VW];
    v_store(shrink, v_exp(v_set1(q->max - max)));
    q->sum = q->sum * shrink[0] + v_sum(sum);
    q->max = max;
    return shrink[0];
}

/* Values as they are added: rows of a page, or what at_values made of them. */
struct at_rows {
    const uint8_t *p;
    enum ps_dtype t;
    size_t dim, row_bytes;
    const uint8_t *ahead; /* laid out alike, needed next; or NULL */
};

/* acc = acc * shrink + sum over slots [lo, hi) of weight * value, slot by slot; nv vectors from dimension d on, the
 * last of n elements */
static inline __attribute__((always_inline)) void at_add_n(const struct at_query *q,
                                                           const float *shrink,
                                                           const struct at_rows *rows,
                                                           enum ps_dtype t, size_t lo, size_t hi,
                                                           int nq, int nv, size_t d, size_t n)
{
    vf acc[AT_Q][AT_V];
    for (int i = 0; i < nq; i++)
        for (int v = 0; v < nv; v++)
            acc[i][v] = v_mul(v_load(q[i].acc + d + v * VW), v_set1(shrink[i]));
    for (size_t s = lo; s < hi; s++) {
        vf x[AT_V];
        if (rows->ahead)
            for (size_t i = 0; i < (size_t)nv * VW * (t == PS_F32 ? 4 : 2); i += 64)
                __builtin_prefetch(rows->ahead + s * rows->row_bytes + d * (t == PS_F32 ? 4 : 2) + i,
                                   0, 2);
        for (int v = 0; v < nv; v++)
            x[v] = at_load(rows->p + s * rows->row_bytes, t, d + (size_t)v * VW, n);
        for (int i = 0; i < nq; i++) {
            vf w = v_set1(q[i].score[s]);
            for (int v = 0; v < nv; v++)
                acc[i][v] = v_fma(w, x[v], acc[i][v]);
        }
    }
    for (int i = 0; i < nq; i++)
        for (int v = 0; v < nv; v++)
            v_store(q[i].acc + d + v * VW, acc[i][v]);
}

static inline __attribute__((always_inline)) void at_add_t(const struct at_query *q,
                                                           const float *shrink,
                                                           const struct at_rows *rows,
                                                           enum ps_dtype t, size_t lo, size_t hi,
                                                           int nq)
{
    size_t d = 0;
    for (; d + AT_V * VW <= rows->dim; d += AT_V * VW)
        at_add_n(q, shrink, rows, t, lo, hi, nq, AT_V, d, VW);
    for (; d < rows->dim; d += VW)
        at_add_n(q, shrink, rows, t, lo, hi, nq, 1, d, ps_min_size(rows->dim - d, VW));
}

static void at_add(const struct at_query *q, const float *shrink, const struct at_rows *rows,
                   size_t lo, size_t hi, int nq)
{
    int step = nq == AT_Q ? AT_Q : 1;
    for (int i = 0; i < nq; i += step) {
        if (rows->t == PS_BF16)
            step == 1 ? at_add_t(q + i, shrink + i, rows, PS_BF16, lo, hi, 1)
                      : at_add_t(q, shrink, rows, PS_BF16, lo, hi, AT_Q);
        else if (rows->t == PS_F16)
            step == 1 ? at_add_t(q + i, shrink + i, rows, PS_F16, lo, hi, 1)
                      : at_add_t(q, shrink, rows, PS_F16, lo, hi, AT_Q);
        else
            step == 1 ? at_add_t(q + i, shrink + i, rows, PS_F32, lo, hi, 1)
                      : at_add_t(q, shrink, rows, PS_F32, lo, hi, AT_Q);
    }
}

/* Slots of page p that a query sees; false if none. */
static bool at_slots(const struct at_query *q, size_t p, size_t *lo, size_t *hi)
{
    size_t base = p * PS_KV_PAGE;
    *lo = q->first > base ? q->first - base : 0;
    *hi = q->end > base ? ps_min_size(q->end - base, PS_KV_PAGE) : 0;
    return *lo < *hi;
}

/* One page for a few queries: its keys transposed in `keys`, or, that being NULL, as they are in `page`. Queries
 * that see the same slots share the loops. */
static void at_page(struct at_query *q, int nq, const struct ps_attn *a, const float *keys,
                    const uint8_t *page, const struct at_rows *values, size_t p)
{
    size_t lo[AT_Q], hi[AT_Q], min_lo = PS_KV_PAGE, max_hi = 0;
    float shrink[AT_Q];
    bool same = true;
    for (int i = 0; i < nq; i++) {
        if (!at_slots(&q[i], p, &lo[i], &hi[i]))
            lo[i] = hi[i] = 0;
        else {
            min_lo = ps_min_size(min_lo, lo[i]);
            max_hi = hi[i] > max_hi ? hi[i] : max_hi;
        }
        same = same && lo[i] == lo[0] && hi[i] == hi[0];
    }
    if (max_hi == 0)
        return;
    if (keys)
        at_scores(q, keys, a->head_dim, min_lo, max_hi, nq);
    else
        at_direct(q, page, values->p, a->k_dtype, a->head_dim, min_lo, max_hi, nq);
    for (int i = 0; i < nq; i++)
        if (lo[i] < hi[i])
            shrink[i] = at_softmax(&q[i], a, (int)lo[i], (int)hi[i]);
    if (same)
        at_add(q, shrink, values, lo[0], hi[0], nq);
    else
        for (int i = 0; i < nq; i++)
            if (lo[i] < hi[i])
                at_add(q + i, shrink + i, values, lo[i], hi[i], 1);
}

static void at_task(const struct at_job *j, size_t kv_head, size_t t0, size_t h0, float *scratch)
{
    const struct ps_attn *a = j->a;
    struct at_query q[PS_ATTN_TASK];
    size_t t1 = ps_min_size(a->T, t0 + j->rows), h1 = ps_min_size(j->group, h0 + j->heads);
    size_t dim = a->head_dim, n = 0, first = SIZE_MAX, end = 0;
    float *keys = scratch, *values = keys + PS_KV_PAGE * j->dim_pad;
    float *acc = values + PS_KV_PAGE * j->dim_pad, *score = acc + PS_ATTN_TASK * j->dim_pad;
    for (size_t t = t0; t < t1; t++)
        for (size_t h = h0; h < h1; h++, n++) {
            size_t at = (kv_head * j->group + h) * dim;
            q[n] = (struct at_query){.q = a->q + t * a->q_ld + at,
                                     .out = a->out + t * a->out_ld + at,
                                     .acc = acc + n * j->dim_pad,
                                     .score = score + n % AT_Q * PS_KV_PAGE,
                                     .max = -INFINITY};
            ps_attn_span(a, t, &q[n].first, &q[n].end);
            first = ps_min_size(first, q[n].first);
            end = q[n].end > end ? q[n].end : end;
            for (size_t d = 0; d < j->dim_pad; d += VW)
                v_store(q[n].acc + d, v_zero());
        }
    size_t k_elem = a->k_dtype == PS_F32 ? 4 : 2, v_elem = a->v_dtype == PS_F32 ? 4 : 2;
    size_t k_bytes = PS_KV_PAGE * dim * k_elem,
           v_bytes = PS_KV_PAGE * dim * v_elem; /* of one head in a page */
    bool direct = n <= AT_DIRECT;
    for (size_t p = first / PS_KV_PAGE; p * PS_KV_PAGE < end; p++) {
        size_t base = p * PS_KV_PAGE, lo = first > base ? first - base : 0;
        size_t hi = ps_min_size(end - base, PS_KV_PAGE);
        const uint8_t *k = (const uint8_t *)a->k_pages[p] + kv_head * k_bytes;
        const uint8_t *v = (const uint8_t *)a->v_pages[p] + kv_head * v_bytes;
        struct at_rows rows = {v, a->v_dtype, dim, dim * v_elem, NULL};
        if ((p + 1) * PS_KV_PAGE < end)
            rows.ahead = (const uint8_t *)a->k_pages[p + 1] + kv_head * k_bytes;
        if (!direct) {
            at_keys(keys, k, a->k_dtype, dim, lo, hi);
            at_values(values, v, a->v_dtype, dim, j->dim_pad, lo, hi);
            rows =
                (struct at_rows){(const uint8_t *)values, PS_F32, j->dim_pad, j->dim_pad * 4, NULL};
        }
        for (size_t i = 0; i < n; i += AT_Q)
            at_page(q + i, (int)ps_min_size(n - i, AT_Q), a, direct ? NULL : keys, k, &rows, p);
    }
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < dim; d += VW)
            v_store_n(q[i].out + d, v_div(v_load(q[i].acc + d), v_set1(q[i].sum)),
                      ps_min_size(dim - d, VW));
}

static void at_tasks(void *user, size_t begin, size_t end, unsigned thread)
{
    const struct at_job *j = user;
    size_t n = j->n_rows * j->n_heads * j->a->n_kv_heads;
    float *scratch = j->a->scratch + thread * ps_attn_thread_floats(j->a->head_dim);
    for (size_t i = begin; i < end; i++) {
        size_t k =
            n - 1 -
            i; /* the last rows see the most: they go first, so that no thread ends with the longest */
        size_t heads = k % j->n_heads, kv_head = k / j->n_heads % j->a->n_kv_heads;
        at_task(j, kv_head, k / j->n_heads / j->a->n_kv_heads * j->rows, heads * j->heads, scratch);
    }
}

static void op_attention(struct ps_pool *pool, const struct ps_attn *a)
{
    PS_ASSERT(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0);
    PS_ASSERT(a->k_dtype == PS_F32 || a->k_dtype == PS_F16 || a->k_dtype == PS_BF16);
    PS_ASSERT(a->v_dtype == PS_F32 || a->v_dtype == PS_F16 || a->v_dtype == PS_BF16);
    if (a->T == 0)
        return;
    struct at_job j = {.a = a, .group = a->n_heads / a->n_kv_heads};
    size_t threads = ps_threads_of(pool), want = threads > 1 ? 2 * threads : 1;
    j.dim_pad = ps_round_up(a->head_dim, 16);
    j.heads = ps_min_size(j.group, PS_ATTN_TASK);
    j.rows = ps_min_size(a->T, PS_ATTN_TASK / j.heads);
    for (;; j.rows > 1 ? (j.rows = ps_div_up(j.rows, 2)) : (j.heads = ps_div_up(j.heads, 2))) {
        j.n_rows = ps_div_up(a->T, j.rows);
        j.n_heads = ps_div_up(j.group, j.heads);
        size_t n = j.n_rows * j.n_heads * a->n_kv_heads;
        if (n >= want || (j.rows == 1 && (j.heads == 1 || n >= threads)))
            break;
    }
    ps_fork_for(pool, j.n_rows * j.n_heads * a->n_kv_heads, 1, at_tasks, &j);
}
#endif
#endif
