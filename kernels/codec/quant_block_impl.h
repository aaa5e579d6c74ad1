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
 *     void vcosts(uint16_t sums[PS_NF4_SCALES], const uint8_t at[64], const struct ps_nf4_costs *)
 *                               of every candidate, saturating: the order of additions does not matter
 *
 * The method is that of Dettmers et al. 2023 (arXiv:2305.14314) with a search of the scale by squared error. */
#ifndef PS_KERNELS_QUANT_BLOCK_IMPL_H
#define PS_KERNELS_QUANT_BLOCK_IMPL_H

#define QUANT_STEPS (PS_QUANT_BLOCK / 16)

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

/* Squared error under a scale, before rounding in the last place. */
static inline float quant_q8_error(const lanes x[QUANT_STEPS], float scale)
{
    lanes inverse = vset(1.0f / scale), sum = vset(0);
    for (size_t i = 0; i < QUANT_STEPS; i++) {
        lanes y = vmul(x[i], inverse), d = vsub(y, vround(y));
        sum = vadd(sum, vmul(d, d));
    }
    return vfold(sum) * (scale * scale);
}

/* `least` * (1 + t / 250), t = 0 .. 15: none clamps a code. A wider step costs little where it meets the weights' own
 * grid: those of bf16 have 8 bits too. The first of several that are as good. */
static uint16_t quant_q8_scale(const lanes x[QUANT_STEPS], uint16_t least)
{
    static const float steps[16] = {1.000f, 1.004f, 1.008f, 1.012f, 1.016f, 1.020f, 1.024f, 1.028f,
                                    1.032f, 1.036f, 1.040f, 1.044f, 1.048f, 1.052f, 1.056f, 1.060f};
    uint16_t scales[16], best = least;
    float least_error = INFINITY;
    vhalves(scales, vmul(vset(ps_f16_to_f32(least)), vload(steps)));
    for (int t = 0; t < 16 && scales[t] < 0x7c00; t++) {
        if (t > 0 && scales[t] == scales[t - 1])
            continue;
        float error = quant_q8_error(x, ps_f16_to_f32(scales[t]));
        if (error < least_error) {
            least_error = error;
            best = scales[t];
        }
    }
    return best;
}

static void quant_q8(uint8_t codes[PS_QUANT_BLOCK], uint16_t *scale, const float x[PS_QUANT_BLOCK],
                     struct ps_quant_block_sums *sums)
{
    struct quant_sums s = {vset(0), vset(0), vset(0)};
    lanes all[QUANT_STEPS];
    for (size_t i = 0; i < QUANT_STEPS; i++)
        all[i] = vload(x + 16 * i);
    if (*scale > 0)
        *scale = quant_q8_scale(all, *scale);
    lanes by = vset(*scale > 0 ? ps_f16_to_f32(*scale) : 1); /* of a scale of 0 all weights are 0 */
    for (size_t i = 0; i < QUANT_STEPS; i++) {
        lanes w = all[i], q = vclamp(vround(vdiv(w, by)), -127, 127);
        vbytes(codes + 16 * i, vints(q));
        quant_count(&s, w, vmul(q, by));
    }
    quant_fold(sums, &s);
}

/* The first with the least of the sums that the candidates cost. */
static inline int quant_cheapest(const uint16_t sums[PS_NF4_SCALES])
{
    uint16_t least = UINT16_MAX;
    for (int c = 0; c < PS_NF4_SCALES; c++)
        least = sums[c] < least ? sums[c] : least;
    int c = 0;
    while (c < PS_NF4_SCALES - 1 && sums[c] != least)
        c++;
    return c;
}

/* See quant_costs.h. 0, which makes all codes zero, for weights below float16. */
static uint16_t quant_nf4_scale(const lanes x[QUANT_STEPS], float largest)
{
    const struct ps_nf4_costs *costs = ps_nf4_costs();
    uint16_t sums[PS_NF4_SCALES];
    uint8_t at[PS_QUANT_BLOCK];
    if (ps_f32_to_f16(largest) == 0)
        return 0;
    lanes per = vset(127.0f / largest);
    for (size_t i = 0; i < QUANT_STEPS; i++)
        vbytes(at + 16 * i, vints(vround(vmul(x[i], per))));
    vcosts(sums, at, costs);
    return ps_f32_to_f16(largest * costs->scales[quant_cheapest(sums)]);
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
