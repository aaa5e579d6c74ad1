/* Rows of weights in, rows of 8-bit and 4-bit codes with a scale per 64 weights out: see quant_encode.h. What a block
 * costs lies in quant_block_impl.h; here are the layout of a row, the ends of rows, and what is refused. */
#include "kernels/codec/quant_encode.h"

#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "kernels/codec/quant_ops.h"
#include "kernels/kernel_scalar.h"
#include "proto/quant.h"

#define BLOCK    PS_QUANT_BLOCK
#define F16_MAX  65504.0f
#define INF_BITS 0x7f800000u

/* The least float16 of which 127 reach `largest`; one that is no number: there is none. The division rounds, so the
 * neighbour is asked. */
static uint16_t q8_scale(float largest)
{
    uint16_t h = ps_f32_to_f16(largest / 127.0f);
    while (h > 0 && (double)ps_f16_to_f32((uint16_t)(h - 1)) * 127 >= (double)largest)
        h--;
    while (h < 0x7c00 && (double)ps_f16_to_f32(h) * 127 < (double)largest)
        h++;
    return h;
}

static void put_nf4(uint8_t *codes, size_t b, const uint8_t q[BLOCK])
{
    uint8_t bytes[BLOCK / 2];
    for (size_t i = 0; i < BLOCK / 2; i++)
        bytes[i] = (uint8_t)(q[i] | q[i + BLOCK / 2] << 4);
    for (size_t i = 0; i < BLOCK / 2; i += 8) /* eight bytes stay together: see quant.h */
        memcpy(codes + ps_nf4_byte_at(b, i), bytes + i, 8);
}

/* Block b of a row. False: not all weights are finite, or no scale of float16 serves. */
static bool put_block(uint8_t *codes, size_t b, uint16_t *scale, enum ps_dtype t,
                      const float x[BLOCK], const struct ps_quant_ops *ops,
                      struct ps_quant_error *error)
{
    struct ps_quant_block_sums sums;
    uint8_t q[BLOCK];
    uint32_t bits = ops->largest(x);
    float largest = ps_bits_f32(bits);
    if (bits >= INF_BITS)
        return false;
    if (t == PS_Q8B64) {
        *scale = q8_scale(largest);
        if (*scale >= 0x7c00)
            return false;
        ops->q8(codes + b * BLOCK, scale, x, &sums);
    } else {
        if (largest > F16_MAX)
            return false;
        ops->nf4(q, scale, x, largest, &sums);
        put_nf4(codes, b, q);
    }
    const struct ps_quant_error e = {(double)sums.error2, (double)sums.weight2, sums.max_error,
                                     largest};
    ps_quant_error_add(error, &e);
    return true;
}

/* Up to 64 weights, filled up with zeros. */
static void load_block(float x[BLOCK], enum ps_dtype t, const uint8_t *weights, size_t n,
                       const struct ps_quant_ops *ops)
{
    uint8_t last[BLOCK * sizeof(float)];
    if (n < BLOCK) {
        memset(last, 0, sizeof last);
        weights = memcpy(last, weights, n * ps_dtype_bytes(t));
    }
    ops->load(x, t, weights);
}

static bool put_row(uint8_t *codes, enum ps_dtype t, enum ps_dtype from, const uint8_t *weights,
                    size_t K, const struct ps_quant_ops *ops, struct ps_quant_error *error)
{
    size_t code_bytes = ps_quant_code_bytes(t, K), each = ps_dtype_bytes(from);
    uint8_t *scales = codes + code_bytes;
    memset(scales, 0, ps_quant_row_bytes(t, K) - code_bytes);
    if (t == PS_NF4B64) /* the half of a pair that may be left */
        memset(codes + (K - 1) / (2 * BLOCK) * BLOCK, PS_NF4_ZERO * 0x11, BLOCK);
    for (size_t k = 0; k < K; k += BLOCK) {
        float x[BLOCK];
        uint16_t scale;
        load_block(x, from, weights + k * each, K - k < BLOCK ? K - k : BLOCK, ops);
        if (!put_block(codes, k / BLOCK, &scale, t, x, ops, error))
            return false;
        memcpy(scales + k / BLOCK * 2, &scale, 2);
    }
    return true;
}

int ps_quant_rows_encode_by(void *out, enum ps_dtype t, enum ps_dtype from, const void *rows,
                            size_t n_rows, size_t K, const struct ps_quant_ops *ops,
                            struct ps_quant_error *error)
{
    size_t row_bytes = ps_quant_row_bytes(t, K), each = ps_dtype_bytes(from);
    struct ps_quant_error sum = {0};
    if ((t != PS_Q8B64 && t != PS_NF4B64) || row_bytes == 0 ||
        (from != PS_F32 && from != PS_F16 && from != PS_BF16))
        return PS_EUNSUPPORTED;
    for (size_t r = 0; r < n_rows; r++)
        if (!put_row((uint8_t *)out + r * row_bytes, t, from, (const uint8_t *)rows + r * K * each,
                     K, ops, &sum))
            return PS_EUNSUPPORTED;
    *error = sum;
    return 0;
}

int ps_quant_rows_encode(void *out, enum ps_dtype t, enum ps_dtype from, const void *rows,
                         size_t n_rows, size_t K, struct ps_quant_error *error)
{
    return ps_quant_rows_encode_by(out, t, from, rows, n_rows, K, ps_quant_ops(), error);
}

int ps_quant_row_encode(void *out, enum ps_dtype t, const float *w, size_t K)
{
    struct ps_quant_error error;
    return ps_quant_rows_encode(out, t, PS_F32, w, 1, K, &error);
}
