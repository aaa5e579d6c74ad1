/* Sampling. */
#include "runtime/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"

struct candidate {
    float logit;
    uint32_t id;
};

struct ps_sampler {
    struct ps_sampler_options o;
    uint32_t vocab;
    struct candidate *c; /* [vocab] */
    double *p;           /* [vocab] */
};

int ps_sampler_new(struct ps_sampler **out, const struct ps_sampler_options *o, uint32_t vocab,
                   struct ps_err *err)
{
    struct ps_sampler *s = ps_calloc(1, sizeof *s);
    if (s) {
        s->c = ps_calloc(vocab, sizeof *s->c);
        s->p = ps_calloc(vocab, sizeof *s->p);
    }
    if (!s || !s->c || !s->p) {
        ps_sampler_free(s);
        return ps_err_set(err, PS_ENOMEM, "sampler", "out of memory: vocabulary of %u", vocab);
    }
    s->o = *o;
    s->vocab = vocab;
    *out = s;
    return 0;
}

void ps_sampler_free(struct ps_sampler *s)
{
    if (!s)
        return;
    ps_free(s->c);
    ps_free(s->p);
    ps_free(s);
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

double ps_sampler_uniform(uint64_t seed, uint64_t position)
{
    return (double)(mix(mix(seed) ^ position) >> 11) * 0x1p-53;
}

static uint32_t greedy(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* Each id in the window is penalised once, however often it occurred (as Hugging Face and llama.cpp do). */
static void penalise(const struct ps_sampler *s, float *logits, const uint32_t *history, size_t n)
{
    float r = s->o.repeat_penalty;
    if (r <= 0 || r == 1.0f)
        return;
    size_t window = s->o.repeat_last_n ? s->o.repeat_last_n : 64;
    size_t from = n > window ? n - window : 0;
    for (size_t i = from; i < n; i++) {
        size_t j = from;
        while (j < i && history[j] != history[i])
            j++;
        if (j == i && history[i] < s->vocab)
            logits[history[i]] =
                logits[history[i]] > 0 ? logits[history[i]] / r : logits[history[i]] * r;
    }
}

static int better(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Puts v into the hole at `at` of the heap c[0..k) whose root is the worst kept. */
static void sift(struct candidate *c, uint32_t k, uint32_t at, struct candidate v)
{
    while (2 * at + 1 < k) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < k && better(&c[child + 1], &c[child]) > 0)
            child++;
        if (better(&c[child], &v) <= 0)
            break;
        c[at] = c[child];
        at = child;
    }
    c[at] = v;
}

/* Sorts the k best to the front. A heap of k keeps the usual top-40 of a 256k vocabulary from costing a whole sort. */
static uint32_t top(struct candidate *c, uint32_t n, uint32_t k)
{
    if (k == 0 || k >= n) {
        qsort(c, n, sizeof *c, better);
        return n;
    }
    for (uint32_t h = k / 2; h-- > 0;)
        sift(c, k, h, c[h]);
    for (uint32_t i = k; i < n; i++)
        if (better(&c[i], &c[0]) < 0)
            sift(c, k, 0, c[i]);
    qsort(c, k, sizeof *c, better);
    return k;
}

uint32_t ps_sampler_pick(struct ps_sampler *s, float *logits, const uint32_t *history,
                         size_t n_history, uint64_t position)
{
    penalise(s, logits, history, n_history);
    if (s->o.temp <= 0 || s->o.top_k == 1)
        return greedy(logits, s->vocab);
    for (uint32_t i = 0; i < s->vocab; i++)
        s->c[i] = (struct candidate){logits[i], i};
    uint32_t n = top(s->c, s->vocab, s->o.top_k);
    float best = s->c[0].logit;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += s->p[i] = exp((double)s->c[i].logit - best);
    if (s->o.top_p > 0 && s->o.top_p < 1) {
        double mass = 0, need = s->o.top_p * sum;
        uint32_t keep = 0;
        while (keep < n && mass < need)
            mass += s->p[keep++];
        n = keep ? keep : 1;
    }
    if (s->o.min_p > 0) {
        uint32_t keep = 1;
        while (keep < n && s->p[keep] >= s->o.min_p)
            keep++;
        n = keep;
    }
    sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += s->p[i] = exp(((double)s->c[i].logit - best) / s->o.temp);
    double u = ps_sampler_uniform(s->o.seed, position) * sum;
    for (uint32_t i = 0; i < n; i++) {
        u -= s->p[i];
        if (u < 0)
            return s->c[i].id;
    }
    return s->c[n - 1].id;
}
