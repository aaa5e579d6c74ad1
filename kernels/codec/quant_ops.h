/* One block of 64 weights to codes and a scale: the inner loops of quant_encode.c, one table per instruction set. All
 * give the same bytes and the same error figures: sums run over sixteen lanes whatever the registers hold, weight i in
 * lane i % 16, and are folded 8, 4, 2, 1. Private to kernels/codec and its tests. */
#ifndef PS_KERNELS_CODEC_QUANT_OPS_H
#define PS_KERNELS_CODEC_QUANT_OPS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/dtype.h"
#include "proto/quant.h"

struct ps_quant_block_sums { /* of one block, in float32 */
    float error2, weight2, max_error;
};
struct ps_quant_ops {
    const char *name;
    /* Sixty-four weights of F32, F16 or BF16 at any address as float32. */
    void (*load)(float x[PS_QUANT_BLOCK], enum ps_dtype t, const uint8_t *weights);
    /* The bits of the largest magnitude; from 0x7f800000 on not all are finite. */
    uint32_t (*largest)(const float x[PS_QUANT_BLOCK]);
    /* Codes as int8. *scale: in, the least float16 that reaches the largest; out, the one taken, at most 1.06 times
     * that. Zeros for a scale of 0. */
    void (*q8)(uint8_t codes[PS_QUANT_BLOCK], uint16_t *scale, const float x[PS_QUANT_BLOCK],
               struct ps_quant_block_sums *sums);
    /* Codes (0 .. 15) under the cheapest scale of quant_costs.h, and that scale as float16. */
    void (*nf4)(uint8_t codes[PS_QUANT_BLOCK], uint16_t *scale, const float x[PS_QUANT_BLOCK],
                float largest, struct ps_quant_block_sums *sums);
};
/* The table for this CPU, narrowed as ps_block_ops() is. Found once. */
const struct ps_quant_ops *ps_quant_ops(void);
/* "scalar", "avx2", "avx512"; NULL: not on this CPU. */
const struct ps_quant_ops *ps_quant_ops_by_name(const char *name);
#endif
