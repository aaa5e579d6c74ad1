/* Paged keys and values. */
#include "runtime/kv.h"

#include <string.h>

#include "base/alloc.h"
#include "kernels/kernels.h"

static uint32_t pages_for(uint32_t positions)
{
    return positions / PS_KV_PAGE + (positions % PS_KV_PAGE != 0);
}

uint64_t ps_kv_bytes(uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim, uint32_t positions,
                     enum ps_dtype k, enum ps_dtype v)
{
    return (uint64_t)n_layers * pages_for(positions) *
           (ps_kv_page_bytes(k, n_kv_heads, head_dim) + ps_kv_page_bytes(v, n_kv_heads, head_dim));
}

void ps_kv_place(struct ps_kv *kv, uint32_t first, uint32_t end, uint8_t *base)
{
    for (size_t i = (size_t)first * kv->n_pages; i < (size_t)end * kv->n_pages; i++) {
        kv->k_pages[i] = base;
        base += kv->k_page_bytes;
        kv->v_pages[i] = base;
        base += kv->v_page_bytes;
    }
}

int ps_kv_init(struct ps_kv *kv, uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim,
               uint32_t positions, uint32_t host_layers, enum ps_dtype k, enum ps_dtype v,
               struct ps_err *err)
{
    memset(kv, 0, sizeof *kv);
    kv->n_layers = n_layers;
    kv->n_kv_heads = n_kv_heads;
    kv->head_dim = head_dim;
    kv->n_pages = pages_for(positions);
    kv->host_layers = host_layers;
    kv->k_dtype = k;
    kv->v_dtype = v;
    kv->k_page_bytes = ps_kv_page_bytes(k, n_kv_heads, head_dim);
    kv->v_page_bytes = ps_kv_page_bytes(v, n_kv_heads, head_dim);
    kv->total_bytes = ps_kv_bytes(host_layers, n_kv_heads, head_dim, positions, k, v);
    size_t n = (size_t)n_layers * kv->n_pages;
    kv->bytes = kv->total_bytes ? ps_alloc_pages(kv->total_bytes, 4096) : NULL;
    kv->k_pages = ps_calloc(n + 1, sizeof *kv->k_pages);
    kv->v_pages = ps_calloc(n + 1, sizeof *kv->v_pages);
    if ((kv->total_bytes && !kv->bytes) || !kv->k_pages || !kv->v_pages) {
        ps_kv_deinit(kv);
        return ps_err_set(err, PS_EBUDGET, "kv",
                          "no memory for a KV cache of %u positions: use a smaller -c or -n",
                          positions);
    }
    ps_kv_place(kv, 0, host_layers, kv->bytes);
    return 0;
}

void ps_kv_deinit(struct ps_kv *kv)
{
    if (kv->bytes)
        ps_free_pages(kv->bytes, kv->total_bytes);
    ps_free(kv->k_pages);
    ps_free(kv->v_pages);
    memset(kv, 0, sizeof *kv);
}

uint32_t ps_kv_capacity(const struct ps_kv *kv)
{
    return kv->n_pages * PS_KV_PAGE;
}

void ps_kv_put(struct ps_kv *kv, uint32_t layer, uint32_t pos, const float *k, const float *v)
{
    PS_ASSERT(layer < kv->host_layers && pos / PS_KV_PAGE < kv->n_pages);
    size_t page = (size_t)layer * kv->n_pages + pos / PS_KV_PAGE;
    ps_kv_store(kv->k_pages[page], kv->k_dtype, kv->n_kv_heads, kv->head_dim, pos % PS_KV_PAGE, k);
    ps_kv_store(kv->v_pages[page], kv->v_dtype, kv->n_kv_heads, kv->head_dim, pos % PS_KV_PAGE, v);
}

int ps_kv_dtype_parse(enum ps_dtype *out, const char *text, enum ps_dtype dflt, const char *option,
                      struct ps_err *err)
{
    static const struct {
        const char *name;
        enum ps_dtype t;
    } TYPES[] = {{"f32", PS_F32}, {"f16", PS_F16}, {"bf16", PS_BF16}};
    if (!text || !*text) {
        *out = dflt;
        return 0;
    }
    for (size_t i = 0; i < sizeof TYPES / sizeof TYPES[0]; i++) {
        if (strcmp(TYPES[i].name, text) == 0) {
            *out = TYPES[i].t;
            return 0;
        }
    }
    return ps_err_set(err, PS_EUSAGE, "kv", "%s: unknown type \"%.20s\": use f32, f16 or bf16",
                      option, text);
}
