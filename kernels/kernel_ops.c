/* The small operations between the matrix products, the same code for every backend: rotary embedding, additions,
 * stored rows to f32, and the writing of keys and values into their pages. Each output depends on its own inputs
 * only. */
#include "kernels/kernel_scalar.h"
#include "kernels/kernels_internal.h"
#include "proto/quant.h"

/* Rotation of pairs (Su et al. 2021, arXiv:2104.09864); the half-split pairing is GPT-NeoX's, the interleaved one
 * GPT-J's. */
void ps_rope(float *x, size_t ld, size_t T, uint32_t n_heads, uint32_t head_dim, uint32_t rot_dim,
             const float *cos, const float *sin, bool interleaved)
{
    uint32_t half = rot_dim / 2, step = interleaved ? 2 : 1, apart = interleaved ? 1 : half;
    for (size_t t = 0; t < T; t++, cos += half, sin += half)
        for (uint32_t h = 0; h < n_heads; h++) {
            float *v = x + t * ld + (size_t)h * head_dim;
            for (uint32_t i = 0; i < half; i++) {
                float *a = v + (size_t)i * step, *b = a + apart;
                float a0 = *a, b0 = *b;
                *a = a0 * cos[i] - b0 * sin[i];
                *b = b0 * cos[i] + a0 * sin[i];
            }
        }
}

void ps_add(float *x, size_t ldx, const float *y, size_t ldy, size_t T, size_t K)
{
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < K; i++)
            x[t * ldx + i] += y[t * ldy + i];
}

void ps_add_bias(float *x, size_t ldx, const float *b, size_t T, size_t K)
{
    ps_add(x, ldx, b, 0, T, K);
}

/* Q8B64 and NF4B64; the products are exact (8 bits of value times 11 of scale). */
static void quant_to_f32(float *out, const uint8_t *row, enum ps_dtype t, size_t n)
{
    const uint8_t *scales = row + ps_quant_code_bytes(t, n);
    for (size_t k = 0; k < n; k++) {
        float scale = ps_f16_to_f32(ps_load_u16(scales + k / PS_QUANT_BLOCK * 2)), v;
        if (t == PS_Q8B64) {
            v = (float)(int8_t)row[k];
        } else {
            uint8_t byte = row[ps_nf4_byte_at(k / PS_QUANT_BLOCK, k % 32)];
            v = ps_nf4_values[k % PS_QUANT_BLOCK < 32 ? byte & 15 : byte >> 4];
        }
        out[k] = v * scale;
    }
}

int ps_to_f32(float *out, const void *in, enum ps_dtype t, size_t n)
{
    const uint8_t *p = in;
    switch (t) {
    case PS_F32: memcpy(out, p, n * 4); return 0;
    case PS_BF16:
        for (size_t i = 0; i < n; i++)
            out[i] = ps_bf16_to_f32(ps_load_u16(p + 2 * i));
        return 0;
    case PS_F16:
        for (size_t i = 0; i < n; i++)
            out[i] = ps_f16_to_f32(ps_load_u16(p + 2 * i));
        return 0;
    case PS_Q8B64:
    case PS_NF4B64: quant_to_f32(out, p, t, n); return 0;
    default: return PS_EUNSUPPORTED;
    }
}

void ps_kv_store(void *page, enum ps_dtype kv_dtype, uint32_t n_kv_heads, uint32_t head_dim,
                 uint32_t slot, const float *x)
{
    PS_ASSERT(slot < PS_KV_PAGE);
    for (uint32_t h = 0; h < n_kv_heads; h++, x += head_dim) {
        size_t at = ((size_t)h * PS_KV_PAGE + slot) * head_dim;
        if (kv_dtype == PS_F32) {
            memcpy((float *)page + at, x, head_dim * sizeof *x);
            continue;
        }
        PS_ASSERT(kv_dtype == PS_BF16 || kv_dtype == PS_F16);
        uint16_t *to = (uint16_t *)page + at;
        if (kv_dtype == PS_BF16)
            for (uint32_t d = 0; d < head_dim; d++)
                to[d] = ps_f32_to_bf16(x[d]);
        else
            for (uint32_t d = 0; d < head_dim; d++)
                to[d] = ps_f32_to_f16(x[d]);
    }
}

/* See at_task in attention_impl.h: a page of keys and one of values as f32, the sums of all queries of a task, and
 * the scores of the four that are at work. */
size_t ps_attn_thread_floats(uint32_t head_dim)
{
    size_t dim_pad = ps_round_up(head_dim, 16);
    return (2 * PS_KV_PAGE + PS_ATTN_TASK) * dim_pad + 4 * PS_KV_PAGE;
}

size_t ps_attn_scratch_floats(unsigned threads, uint32_t head_dim)
{
    return threads * ps_attn_thread_floats(head_dim);
}
