/* The loops of quant_ops.h over sixteen lanes. Comes in: weights, and the operations of an instruction set. Goes out: a
 * table. Whoever includes this has defined `lanes` (sixteen float32), `ints` (sixteen int32), and
 *
 *     lanes vset(float), vload(const float *), vmul, vadd, vsub, vdiv, vmaxabs(lanes max, lanes x), vround(lanes)
 *     lanes vclamp(lanes, float least, float most)
 *     float vfold(lanes)        sum: lanes l and l + 8, then 4, 2, 1
 *     float vmost(lanes)        the largest
 *     ints vsearch(lanes y)     how many of nf4_middles[] are less than y
 *     lanes vvalues(ints)       ps_nf4_values[]
 *     ints vints(lanes)         of whole numbers
 *     void vbytes(uint8_t *, ints)                 their lowest bytes
 *     void vhalves(uint16_t *, lanes)              float16, ties to even
 *     void vwiden(float *, enum ps_dtype, const uint8_t *)   sixteen weights as float32
 *
 * The method is that of Dettmers et al. 2023 (arXiv:2305.14314) with a search of the scale by squared error. */
#ifndef PS_KERNELS_QUANT_BLOCK_IMPL_H
#define PS_KERNELS_QUANT_BLOCK_IMPL_H

#define QUANT_STEPS      (PS_QUANT_BLOCK / 16)
#define QUANT_CANDIDATES 17

static void quant_load(float x[PS_QUANT_BLOCK], enum ps_dtype t, const uint8_t *weights)
{
    for (size_t i = 0; i < QUANT_STEPS; i++)
        vwiden(x + 16 * i, t, weights + 16 * i * (t == PS_F32 ? 4 : 2));
}

/* Magnitudes order as their bits do: one pass finds infinities, NaNs and the largest. */
static uint32_t quant_largest(const float x[PS_QUANT_BLOCK])
{
    uint32_t most = 0;
    for (size_t i = 0; i < PS_QUANT_BLOCK; i++) {
        uint32_t bits = ps_f32_bits(x[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most;
}

struct quant_sums {
    lanes error2, weight2, max_error;
};

static inline void quant_count(struct quant_sums *s, lanes x, lanes decoded)
{
    lanes d = vsub(x, decoded);
    s->error2 = vadd(s->error2, vmul(d, d));
    s->weight2 = vadd(s->weight2, vmul(x, x));
    s->max_error = vmaxabs(s->max_error, d);
}

static inline void quant_fold(struct ps_quant_block_sums *out, const struct quant_sums *s)
{
    out->error2 = vfold(s->error2);
    out->weight2 = vfold(s->weight2);
    out->max_error = vmost(s->max_error);
}

static void quant_q8(uint8_t codes[PS_QUANT_BLOCK], const float x[PS_QUANT_BLOCK], float scale,
                     struct ps_quant_block_sums *sums)
{
    struct quant_sums s = {vset(0), vset(0), vset(0)};
    lanes by = vset(scale > 0 ? scale : 1); /* of a scale of 0 all weights are 0 */
    for (size_t i = 0; i < QUANT_STEPS; i++) {
        lanes w = vload(x + 16 * i), q = vclamp(vround(vdiv(w, by)), -127, 127);
        vbytes(codes + 16 * i, vints(q));
        quant_count(&s, w, vmul(q, by));
    }
    quant_fold(sums, &s);
}

/* Squared error under a scale. */
static inline float quant_nf4_error(const lanes x[QUANT_STEPS], float scale)
{
    lanes by = vset(scale), inverse = vset(1.0f / scale), sum = vset(0);
    for (size_t i = 0; i < QUANT_STEPS; i++) {
        lanes d = vsub(x[i], vmul(vvalues(vsearch(vmul(x[i], inverse))), by));
        sum = vadd(sum, vmul(d, d));
    }
    return vfold(sum);
}

/* max|w| * (1 - t / 50), t = 0 .. 16; the first of several that are as good. A scale of 0 makes all codes zero. */
static uint16_t quant_nf4_scale(const lanes x[QUANT_STEPS], float largest)
{
    static const float steps[16] = {0.98f, 0.96f, 0.94f, 0.92f, 0.90f, 0.88f, 0.86f, 0.84f,
                                    0.82f, 0.80f, 0.78f, 0.76f, 0.74f, 0.72f, 0.70f, 0.68f};
    uint16_t scales[QUANT_CANDIDATES], best = 0;
    float least = INFINITY;
    scales[0] = ps_f32_to_f16(largest);
    vhalves(scales + 1, vmul(vset(largest), vload(steps)));
    for (int t = 0; t < QUANT_CANDIDATES; t++) {
        if (scales[t] == 0 || (t > 0 && scales[t] == scales[t - 1]))
            continue;
        float error = quant_nf4_error(x, ps_f16_to_f32(scales[t]));
        if (error < least) {
            least = error;
            best = scales[t];
        }
    }
    return best;
}

static void quant_nf4(uint8_t codes[PS_QUANT_BLOCK], uint16_t *scale, const float x[PS_QUANT_BLOCK],
                      float largest, struct ps_quant_block_sums *sums)
{
    struct quant_sums s = {vset(0), vset(0), vset(0)};
    lanes w[QUANT_STEPS];
    for (size_t i = 0; i < QUANT_STEPS; i++)
        w[i] = vload(x + 16 * i);
    *scale = quant_nf4_scale(w, largest);
    lanes by = vset(ps_f16_to_f32(*scale));
    lanes inverse = vset(*scale ? 1.0f / ps_f16_to_f32(*scale) : 0.0f);
    for (size_t i = 0; i < QUANT_STEPS; i++) {
        ints q = vsearch(vmul(w[i], inverse));
        vbytes(codes + 16 * i, q);
        quant_count(&s, w[i], vmul(vvalues(q), by));
    }
    quant_fold(sums, &s);
}

#define QUANT_TABLE(table, instructions)                                                           \
    const struct ps_quant_ops table = {.name = instructions,                                       \
                                       .load = quant_load,                                         \
                                       .largest = quant_largest,                                   \
                                       .q8 = quant_q8,                                             \
                                       .nf4 = quant_nf4}
#endif
