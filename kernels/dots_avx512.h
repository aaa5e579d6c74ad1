/* The parts of dots_avx512.c: micro-kernels and how their activations are packed, a file for each type of weights and
 * instruction. */
#ifndef PS_KERNELS_DOTS_AVX512_H
#define PS_KERNELS_DOTS_AVX512_H
#include "kernels/matmul_drive.h"

const struct ps_micro_set *ps_bf16_set(size_t T);
void ps_bf16_pack(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to);
extern const struct ps_micro_set ps_mxfp4_avx512bf16;
void ps_mxfp4_pack_avx512bf16(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to);
extern const struct ps_micro_set ps_f8_avx512bf16vbmi;
void ps_f8_pack_avx512bf16vbmi(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to);
extern const struct ps_micro_set ps_q8_avx512vnni;
void ps_q8_pack_avx512vnni(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to);
extern const struct ps_micro_set ps_nf4_avx512vnni;
void ps_nf4_pack_avx512vnni(const struct ps_act *act, size_t t0, size_t t1, uint8_t *to);
#endif
