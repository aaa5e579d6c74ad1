/* Weights taken apart into a plane of exponents and planes of the rest, and put together again: proto/block_format.h
 * says which bits go where. Pure; any alignment. */
#ifndef PS_KERNELS_CODEC_PLANES_H
#define PS_KERNELS_CODEC_PLANES_H
#include "proto/block_format.h"

/* Weights per call, at most: what lies on the stack between the steps stays in the L1 cache. */
#define PS_PLANES_CHUNK 1024u

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
