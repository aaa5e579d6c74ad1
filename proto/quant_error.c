/* Figures of rounded weights: see quant_error.h. */
#include "proto/quant_error.h"

#include <math.h>

#include "base/json.h"

void ps_quant_error_add(struct ps_quant_error *sum, const struct ps_quant_error *e)
{
    sum->error2 += e->error2;
    sum->weight2 += e->weight2;
    sum->max_error = fmaxf(sum->max_error, e->max_error);
    sum->max_weight = fmaxf(sum->max_weight, e->max_weight);
}

double ps_quant_error_relative(const struct ps_quant_error *e)
{
    if (e->max_error == 0)
        return 0;
    /* under this, squares of float32 are denormal or gone */
    return e->max_weight < 1e-15f ? 1 : sqrt(e->error2 / e->weight2);
}

double ps_quant_error_limit(enum ps_dtype t)
{
    return t == PS_Q8B64 ? 0.015 : t == PS_NF4B64 ? 0.13 : 0;
}

enum ps_dtype ps_quant_wider(enum ps_dtype t)
{
    return t == PS_NF4B64 ? PS_Q8B64 : PS_DTYPE_NONE;
}

void ps_quant_error_write(struct ps_json_writer *w, const struct ps_quant_error *e)
{
    double relative = ps_quant_error_relative(e);
    ps_jw_kdouble(w, "rel_rmse", relative);
    ps_jw_kdouble(w, "sqnr_db", -20 * log10(relative));
    ps_jw_kdouble(w, "max_error", (double)e->max_error);
    ps_jw_kdouble(w, "max_error_of_absmax",
                  e->max_weight > 0 ? (double)e->max_error / (double)e->max_weight : 0);
}
