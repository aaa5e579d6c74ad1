/* Rows of float32 weights to rows of Q8B64 and NF4B64 (layouts: proto/quant.h). For `penstock split` and for tests;
 * nothing here runs while a model does.
 *
 * Both are functions of the row alone: the same bytes on every machine and for every cut of the matrix. */
#ifndef PS_KERNELS_CODEC_QUANT_ENCODE_H
#define PS_KERNELS_CODEC_QUANT_ENCODE_H
#include <stddef.h>
#include "proto/dtype.h"

/* Encodes K weights at `w` into ps_quant_row_bytes(t, K) bytes at `out`.
 *
 * Q8B64: scale = max|w| / 127 rounded up to float16, so that no code is clamped: |w - w'| <= scale / 2. NF4B64: of
 * the seventeen scales max|w| * (1 - t / 50), t = 0 .. 16, rounded to float16, the one with the least squared error
 * (the first of several), and for each weight the nearest value.
 *
 * PS_EUNSUPPORTED, `out` then partly written: another type; a weight that is infinite or NaN; a block whose scale is
 * beyond float16 (weights of more than 8.3e6 for Q8B64, 65504 for NF4B64). The caller keeps such a tensor as it is, or
 * divides it by a power of two and says so in ps_matrix.factor; the same helps weights so small (under 1e-5) that
 * float16 scales get coarse. */
int ps_quant_row_encode(void *out, enum ps_dtype t, const float *w, size_t K);
#endif
