/* What every scale that is tried for a block of NF4 costs a weight. A block of 64 takes the scale whose costs add up to
 * the least: 64 look-ups and additions for 32 candidates, where rounding all weights under each of them takes twenty
 * times as long. The weight is known to the choice as one of 255 steps of the block's largest; what that loses is a
 * thousandth of the error (0.0840 of Gaussian weights, 0.0839 if exact).
 *
 * The candidates are the largest magnitude times +-(1 - c / 50), c = 0 .. 15: fewer large weights reach their value
 * under a smaller scale, and all others find finer steps. Turned over, NF4 has eight values below zero and seven above:
 * a tenth less squared error on trained weights, for the sign bit that float16 has anyway. */
#ifndef PS_KERNELS_CODEC_QUANT_COSTS_H
#define PS_KERNELS_CODEC_QUANT_COSTS_H
#include <stdint.h>

#define PS_NF4_SCALES 32

struct ps_nf4_costs {
    /* Squared errors in parts of 2^-17 of the largest weight's square. Rows by the weight's step as int8 (never -128),
     * so that its byte is the index. */
    _Alignas(64) uint16_t of[256][PS_NF4_SCALES];
    float scales[PS_NF4_SCALES]; /* in parts of the largest weight */
};
/* Made once; the same numbers on every machine. Any thread. */
const struct ps_nf4_costs *ps_nf4_costs(void);
#endif
