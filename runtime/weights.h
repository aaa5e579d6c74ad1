/* Names to roles: which tensor of the map plays which part in the forward pass, with its shape checked once
 * against the descriptor. Immutable. */
#ifndef PS_RUNTIME_WEIGHTS_H
#define PS_RUNTIME_WEIGHTS_H
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
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

struct ps_weights {
    uint32_t embed; /* gathered */
    uint32_t norm;  /* final norm */
    uint32_t head;  /* == embed when tied */
    uint32_t n_layers;
    uint32_t (*layer)[PS_W_ROLES]; /* PS_NO_TENSOR where the model has none */
};
/* The element types that a model's tensors may have: what buffers are sized for. */
bool ps_weights_takes(enum ps_dtype t);
/* PS_EDATA names a missing tensor or a wrong shape; PS_EUNSUPPORTED an element type other than f32, f16, bf16. */
int ps_weights_bind(struct ps_weights **out, const struct ps_map *map, const struct ps_arch *arch,
                    struct ps_err *err);
void ps_weights_free(struct ps_weights *w);

/* Extents in the order in which one sweep uses them (embedding rows, gathered, are not in it): *order is ps_free'd
 * by the caller. */
int ps_weights_order(uint32_t **order, uint32_t *n, const struct ps_weights *w,
                     const struct ps_map *map, struct ps_err *err);
#endif
