/* What rounding weights to fewer bits costs: the figures that a split measures, keeps in its shard indexes and decides
 * by. Sums are made in a fixed order (kernels/codec/quant_encode.h), so that every machine writes the same. Pure. */
#ifndef PS_PROTO_QUANT_ERROR_H
#define PS_PROTO_QUANT_ERROR_H
#include "proto/dtype.h"

struct ps_json_writer;

struct ps_quant_error {
    double error2,
        weight2; /* sums of squares: of the weight that was less the one that is, of the weight that was */
    float max_error, max_weight; /* largest magnitudes */
};

/* sum += e. */
void ps_quant_error_add(struct ps_quant_error *sum, const struct ps_quant_error *e);
/* Root mean square of the errors over that of the weights, sqrt(error2 / weight2). 0: nothing was lost; 1 where the
 * weights are too small for their squares. */
double ps_quant_error_relative(const struct ps_quant_error *e);
/* The largest relative error that a type may cost: 0.015 for Q8B64, 0.13 for NF4B64, twice and 1.4 times what Gaussian
 * weights lose; 0 for types that lose nothing. */
double ps_quant_error_limit(enum ps_dtype t);
/* The type to take instead where that is passed: Q8B64 for NF4B64; PS_DTYPE_NONE: keep the weights as they are. */
enum ps_dtype ps_quant_wider(enum ps_dtype t);
/* The members "rel_rmse", "sqnr_db" (null where nothing was lost), "max_error", "max_error_of_absmax" of an open JSON
 * object. */
void ps_quant_error_write(struct ps_json_writer *w, const struct ps_quant_error *e);
#endif
