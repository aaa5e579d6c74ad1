/* From logits to the next token id. Order of filters: repetition penalty, top-k, top-p, min-p, temperature (as
 * llama.cpp and Hugging Face users expect of these names). Random numbers are keyed by (seed, position), never
 * drawn from a stream, so that the same text comes whatever the batch, the chunking or a later speculation does.
 * Ties go to the lowest id. One thread at a time. */
#ifndef PS_RUNTIME_SAMPLER_H
#define PS_RUNTIME_SAMPLER_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct ps_sampler_options {
    float temp;           /* <= 0: greedy */
    uint32_t top_k;       /* 0 = off */
    float top_p;          /* outside (0, 1) = off */
    float min_p;          /* <= 0 = off */
    float repeat_penalty; /* 1 or <= 0 = off */
    uint32_t repeat_last_n;
    uint64_t seed;
};
struct ps_sampler;
int ps_sampler_new(struct ps_sampler **out, const struct ps_sampler_options *o, uint32_t vocab,
                   struct ps_err *err);
void ps_sampler_free(struct ps_sampler *s);
/* logits[vocab] (changed in place by the penalty); history: the ids before this position, newest last; position:
 * index of the token to be drawn. */
uint32_t ps_sampler_pick(struct ps_sampler *s, float *logits, const uint32_t *history,
                         size_t n_history, uint64_t position);
/* Uniform in [0, 1) from (seed, position): SplitMix64 of both. Pure. */
double ps_sampler_uniform(uint64_t seed, uint64_t position);
#endif
