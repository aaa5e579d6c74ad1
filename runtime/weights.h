/* Names to roles: which tensor of the map plays which part in the forward pass, with its shape checked once
 * against the descriptor. Immutable. */
#ifndef PS_RUNTIME_WEIGHTS_H
#define PS_RUNTIME_WEIGHTS_H
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "kernels/matrix.h"
#include "proto/map.h"
#include "runtime/arch.h"

#define PS_NO_TENSOR UINT32_MAX

/* Order of these is the order of use inside a layer, and so the order in which a sweep asks for them. */
enum ps_role {
    PS_W_ATTN_NORM,
    PS_W_Q,
    PS_W_Q_BIAS,
    PS_W_K,
    PS_W_K_BIAS,
    PS_W_V,
    PS_W_V_BIAS,
    PS_W_Q_NORM,
    PS_W_K_NORM,
    PS_W_O,
    PS_W_O_BIAS,
    PS_W_MLP_NORM,
    PS_W_GATE,
    PS_W_GATE_BIAS,
    PS_W_UP,
    PS_W_UP_BIAS,
    PS_W_DOWN,
    PS_W_DOWN_BIAS,
    PS_W_ROLES,
};

/* A tensor as the kernels see it: the type is not always the one it is stored as (gpt-oss keeps MXFP4 as bytes), and
 * scales may be a tensor of their own. Meaning of the members: kernels/matrix.h. */
struct ps_bound {
    enum ps_dtype type; /* PS_DTYPE_NONE: no role of its own (a tensor of scales, or not used) */
    uint64_t rows, cols;
    uint32_t scales; /* tensor, used just before this one; PS_NO_TENSOR */
    uint64_t scale_ld, scale_rows, scale_cols;
};

struct ps_weights {
    uint32_t embed; /* gathered */
    uint32_t norm;  /* final norm */
    uint32_t head;  /* == embed when tied */
    uint32_t n_layers;
    uint32_t (*layer)[PS_W_ROLES]; /* PS_NO_TENSOR where the model has none */
    struct ps_bound *bound;        /* [tensors of the map] */
    uint32_t types;                /* bits 1 << enum ps_dtype of all matrices */
    uint64_t scale_bytes; /* largest scales of one tensor, as ps_weights_scale_bytes counts them */
};
/* Whether the model has a matrix of this type: what buffers are sized for. */
static inline bool ps_weights_has(const struct ps_weights *w, enum ps_dtype t)
{
    return w->types >> t & 1u;
}
/* Bytes of a bound tensor's scales as the kernels take them (matrix.h): float32, or e8m0 for MXFP4; 0: none apart. */
uint64_t ps_weights_scale_bytes(const struct ps_map *map, const struct ps_bound *b);
/* An extent of a bound tensor as a panel, its rows at `data`. `scales`: the tensor's, as ps_weights_scale_bytes counts
 * them. Panels of one tensor may differ in type: see ps_extent_dtype. */
struct ps_matrix ps_weights_panel(const struct ps_map *map, const struct ps_weights *w,
                                  uint32_t extent, const void *data, const void *scales);
/* The type of such a panel. */
enum ps_dtype ps_weights_type(const struct ps_map *map, const struct ps_weights *w, uint32_t extent);
/* Matrices are f32, f16, bf16, Q8B64, NF4B64; F8_E4M3 with NAME.weight_scale_inv (blocks as config.json says) or
 * NAME.weight_scale (one, one per row, or blocks) beside NAME.weight; MXFP4 as NAME_blocks and NAME_scales in its
 * place. Vectors are f32, f16, bf16; embeddings those, Q8B64 or NF4B64. PS_EDATA names a missing tensor or a wrong
 * shape; PS_EUNSUPPORTED an element type that does not run. */
int ps_weights_bind(struct ps_weights **out, const struct ps_map *map, const struct ps_arch *arch,
                    struct ps_err *err);
void ps_weights_free(struct ps_weights *w);

/* Extents in the order in which one sweep uses them, the scales of a matrix before it (embedding rows, gathered,
 * are not in it): *order is ps_free'd by the caller. */
int ps_weights_order(uint32_t **order, uint32_t *n, const struct ps_weights *w,
                     const struct ps_map *map, struct ps_err *err);
#endif
