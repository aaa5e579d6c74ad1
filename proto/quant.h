/* How rows of block-scaled weights lie: the layouts of Q8B64, NF4B64, MXFP4 and the values of their codes. Pure
 * functions of a type and a length; kernels multiply such rows as they lie, shards carry them as they are.
 *
 * A row stands for itself (codes, then scales), so that a panel may be cut after any row:
 *
 *     Q8B64    nb * 64 codes (int8), then nb scales (float16), then zeros up to a multiple of 16 bytes
 *     NF4B64   ceil(nb / 2) * 64 bytes of codes, then nb scales (float16), then zeros up to a multiple of 16 bytes
 *     MXFP4    ceil(K / 32) * 16 bytes of codes; its scales (e8m0, one per 32 weights) lie elsewhere
 *
 * with nb = ceil(K / 64). The weight of Q8B64 is code * scale, of NF4B64 value[code] * scale; scales may be negative.
 * Byte i of a block of NF4B64 holds code i in its low half and code i + 32 in its high half, so that a register of
 * bytes unpacks into two runs; two blocks share 64 bytes, eight of one and eight of the other by turns, so that four
 * lanes with a load of 16 bytes each hold both, a quarter of either (half the loads that a GPU would need for blocks
 * one behind the other; on a CPU a register holds both anyway). MXFP4 (OCP Microscaling Formats 1.0, as gpt-oss stores
 * it) holds an even element and the odd one behind it.
 * What lies beyond K in the last block multiplies zeros: codes of weight zero.
 *
 * NF4: the sixteen values of Dettmers et al. 2023, arXiv:2305.14314, each rounded to the nearest bf16 (ties to even).
 * Such a value is exact in one bf16 operand; with the float32 ones every product by tensor cores or bf16 dot products
 * would be two, of a high and a low part, and every look-up twice as wide. A value moves by 0.32 % of itself at most,
 * where four bits leave an error of 9 %. The codes of bitsandbytes mean its float32 values: they are not these. */
#ifndef PS_PROTO_QUANT_H
#define PS_PROTO_QUANT_H
#include <stddef.h>
#include <stdint.h>
#include "proto/dtype.h"

#define PS_QUANT_BLOCK 64u /* Q8B64, NF4B64 */
#define PS_MXFP4_BLOCK 32u
#define PS_NF4_ZERO    7u /* the code of 0.0 */

extern const float ps_nf4_values[16];
extern const float ps_e2m1_values[16]; /* bit 3 is the sign */

/* Where byte i (0 .. 31) of block b of NF4B64 lies in its row. */
static inline size_t ps_nf4_byte_at(size_t b, size_t i)
{
    return b / 2 * 64 + i / 8 * 16 + b % 2 * 8 + i % 8;
}

/* Weights that share a scale; 0 for types without. */
size_t ps_quant_block(enum ps_dtype t);
/* Where the scales begin in a row of K weights: the bytes of its codes. 0 if `t` has no such layout, K is 0, or the
 * size does not fit. */
size_t ps_quant_code_bytes(enum ps_dtype t, size_t K);
/* Bytes of a row of K weights, a multiple of 16; 0 as above. */
size_t ps_quant_row_bytes(enum ps_dtype t, size_t K);

/* FP8 of the OCP 8-bit specification: no infinities, 0x7f and 0xff are NaN. */
float ps_e4m3_to_f32(uint8_t b);
/* 2^(b - 127); 255 is NaN. */
float ps_e8m0_to_f32(uint8_t b);
#endif
