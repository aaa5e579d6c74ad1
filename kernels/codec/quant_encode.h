/* Rows of weights to rows of Q8B64 and NF4B64 (layouts: proto/quant.h). For `penstock split` and for tests; nothing
 * here runs while a model does.
 *
 * Functions of the row alone: the same bytes and the same error figures on every machine, whatever instructions it
 * has. */
#ifndef PS_KERNELS_CODEC_QUANT_ENCODE_H
#define PS_KERNELS_CODEC_QUANT_ENCODE_H
#include <stddef.h>
#include "proto/dtype.h"
#include "proto/quant_error.h"

/* Encodes n_rows rows of K weights of type F32, F16 or BF16, one behind the other at any address, into n_rows *
 * ps_quant_row_bytes(t, K) bytes at `out`, and says in *error what that cost: sums in float32 inside each block of
 * 64 weights, in double over blocks, in their order.
 *
 * Q8B64: no code is clamped: |w - w'| <= scale / 2. The least scale is max|w| / 127 rounded up to float16; of
 * sixteen from there to 1.06 times that, the one with the least squared error. NF4B64: of thirty-two scales,
 * +-max|w| * (1 - t / 50), t = 0 .. 15, rounded to float16, the one with the least squared error (the weights
 * being taken as 255 steps for the choice: quant_costs.h), and for each weight the nearest value (the quotient is
 * a product with the inverse). NF4 has seven values below zero and eight above: a negative scale turns it over.
 *
 * PS_EUNSUPPORTED, `out` then partly written and *error untouched: another type; a weight that is infinite or NaN;
 * a block whose scale is beyond float16 (weights of more than 8.3e6 for Q8B64, 65504 for NF4B64). The caller keeps
 * such rows as they are. */
int ps_quant_rows_encode(void *out, enum ps_dtype t, enum ps_dtype from, const void *rows,
                         size_t n_rows, size_t K, struct ps_quant_error *error);
/* The same with one table of instructions (quant_ops.h): what tests compare. */
struct ps_quant_ops;
int ps_quant_rows_encode_by(void *out, enum ps_dtype t, enum ps_dtype from, const void *rows,
                            size_t n_rows, size_t K, const struct ps_quant_ops *ops,
                            struct ps_quant_error *error);
/* One row of float32. */
int ps_quant_row_encode(void *out, enum ps_dtype t, const float *w, size_t K);
#endif
