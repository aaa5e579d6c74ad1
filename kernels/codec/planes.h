/* Weights taken apart into a plane of exponents and planes of the rest, and put together again: proto/block_format.h
 * says which bits go where. Pure; any alignment. */
#ifndef PS_KERNELS_CODEC_PLANES_H
#define PS_KERNELS_CODEC_PLANES_H
#include "proto/block_format.h"

/* Weights per call, at most: what lies on the stack between the steps stays in the L1 cache. */
#define PS_PLANES_CHUNK 1024u
/* Room behind a buffer of exponents: vectors are stored whole. */
#define PS_PLANES_OVER 64u

/* Memory that will be wanted when a piece's exponents are there. They are made in the L1 cache, while memory would
 * idle: those who make them ask for some of it with every 64 weights. */
struct ps_ahead {
    const uint8_t *in, *out, *out_end;
};
static inline void ps_ahead_step(struct ps_ahead *a)
{
    if (a->out >= a->out_end)
        return;
    __builtin_prefetch(a->out, 1, 2);
    __builtin_prefetch(a->out + 64, 1, 2);
    __builtin_prefetch(a->in, 0, 2);
    a->out += 128;
    a->in += 64;
}

/* The weights of one block, as the encoders read them: several times, in pieces, because they may not allocate. */
struct ps_planes_source {
    enum ps_dtype type;
    const uint8_t *weights;
    size_t n;
};

/* Exponents of weights [first, first + n). */
void ps_planes_exponents(uint8_t *e, const struct ps_planes_source *s, size_t first, size_t n);
/* Rest planes of weights [first, first + n), n <= PS_PLANES_CHUNK, into rest[0..]: NULL leaves one out. `first` is a
 * multiple of 8. */
void ps_planes_rest(uint8_t *const rest[PS_BLOCK_MAX_REST], const struct ps_planes_source *s,
                    size_t first, size_t n);
/* n <= PS_PLANES_CHUNK weights from their exponents and rest planes. */
void ps_planes_join(uint8_t *weights, enum ps_dtype t, const uint8_t *e,
                    const uint8_t *const rest[PS_BLOCK_MAX_REST], size_t n);
#endif
