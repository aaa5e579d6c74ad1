/* Private to proto: what the two ways of making a map (safetensors headers, shard indexes) share. */
#ifndef PS_PROTO_MAP_INTERNAL_H
#define PS_PROTO_MAP_INTERNAL_H
#include "base/err.h"
#include "proto/map.h"

/* Fills dtype, n_dims, shape and the matrix view (rows, cols, row_bytes, block_rows) of *t, and
 * *raw_bytes = rows * row_bytes. t->name is used in messages. PS_EDATA: overflow, unknown type;
 * PS_EUNSUPPORTED: a row longer than PS_MAX_ROW_BYTES. */
int ps_tensor_set_shape(struct ps_tensor *t, enum ps_dtype dtype, const uint64_t *shape,
                        unsigned n_dims, uint64_t *raw_bytes, struct ps_err *err);
/* N of the first path part "layers" or "h" that a decimal part follows, else -1. */
int32_t ps_layer_of_name(const char *name);
/* Name lookup over m->tensors. PS_EDATA names a duplicate. */
int ps_map_index_names(struct ps_map *m, struct ps_err *err);
/* raw_bytes, stored_bytes and the largest extent. */
void ps_map_total(struct ps_map *m);
#endif
