/* The KV cache of one session: pages of PS_KV_PAGE positions per layer, K and V apart. Reserved whole up front
 * (contract.md -c), so that a generation that starts can finish. Pages are what later tiers move; nothing outside
 * sees more than page pointers. Layers that a device computes have theirs where it wants them (compute_device.h): their
 * pointers are then not for the host to follow.
 *
 * One thread at a time. */
#ifndef PS_RUNTIME_KV_H
#define PS_RUNTIME_KV_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "proto/dtype.h"

struct ps_kv {
    uint32_t n_layers, n_kv_heads, head_dim, n_pages; /* n_pages per layer */
    enum ps_dtype k_dtype, v_dtype;
    size_t k_page_bytes, v_page_bytes;
    uint32_t host_layers; /* the first of them lie in `bytes` */
    uint8_t *bytes;
    size_t total_bytes;
    struct ps_kv_away *away;   /* of the rest; NULL if there is none */
    void **k_pages, **v_pages; /* [n_layers][n_pages] */
    uint32_t length;           /* positions written in every layer */
};
uint64_t ps_kv_bytes(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t positions,
                     enum ps_dtype k, enum ps_dtype v);
/* Memory for the first host_layers layers; the pages of the others are for ps_kv_place. */
int ps_kv_init(struct ps_kv *kv, uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim,
               uint32_t positions, uint32_t host_layers, enum ps_dtype k, enum ps_dtype v,
               struct ps_err *err);
/* Gives layers [first, end) their pages, one behind the other from `base` on: ps_kv_bytes(end - first, ...) bytes. */
void ps_kv_place(struct ps_kv *kv, uint32_t first, uint32_t end, uint8_t *base);
void ps_kv_deinit(struct ps_kv *kv);             /* what lies away is freed before */
uint32_t ps_kv_capacity(const struct ps_kv *kv); /* positions */
/* Stores the K and V rows of position `pos`: n_kv_heads * head_dim floats each. */
void ps_kv_put(struct ps_kv *kv, uint32_t layer, uint32_t pos, const float *k, const float *v);
/* "f32", "f16", "bf16"; NULL gives dflt. PS_EUSAGE names the option. */
int ps_kv_dtype_parse(enum ps_dtype *out, const char *text, enum ps_dtype dflt, const char *option,
                      struct ps_err *err);
#endif
