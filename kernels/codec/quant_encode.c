/* Float32 rows in, rows of 8-bit and 4-bit codes with a scale per 64 weights out: see quant_encode.h. Plain loops:
 * the search of the scale costs seventeen passes over a block that lies in registers and L1. */
#include "kernels/codec/quant_encode.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/err.h"
#include "kernels/kernel_scalar.h"
#include "proto/quant.h"

#define BLOCK      PS_QUANT_BLOCK
#define CANDIDATES 17
#define F16_MAX    65504.0f

/* One block, filled up with zeros behind the end of the row, and its largest magnitude. False: not all finite. */
static bool read_block(float x[BLOCK], const float *w, size_t n, float *largest)
{
    float max = 0;
    memset(x, 0, BLOCK * sizeof x[0]);
    memcpy(x, w, n * sizeof x[0]);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]))
            return false;
        max = fmaxf(max, fabsf(x[i]));
    }
    *largest = max;
    return true;
}

/* The least float16 of which 127 reach `largest`. The division rounds, so the neighbour is asked. */
static bool q8_scale(float largest, uint16_t *scale)
{
    uint16_t h = ps_f32_to_f16(largest / 127.0f);
    while (h > 0 && (double)ps_f16_to_f32((uint16_t)(h - 1)) * 127 >= (double)largest)
        h--;
    while (h < 0x7c00 && (double)ps_f16_to_f32(h) * 127 < (double)largest)
        h++;
    *scale = h;
    return h < 0x7c00;
}

/* Block b of the row whose codes begin at `codes`; false: no scale of float16 serves. */
static bool q8_block(uint8_t *codes, size_t b, uint16_t *scale, const float x[BLOCK], float largest)
{
    if (!q8_scale(largest, scale))
        return false;
    float s = ps_f16_to_f32(*scale);
    for (size_t i = 0; i < BLOCK; i++) {
        float q = s > 0 ? rintf(x[i] / s) : 0.0f;
        codes[b * BLOCK + i] = (uint8_t)(int8_t)fminf(fmaxf(q, -127.0f), 127.0f);
    }
    return true;
}

/* The nearest value; of two as near, the lower. */
static unsigned nf4_nearest(float x)
{
    unsigned q = 0;
    while (q < 15 && (double)x > ((double)ps_nf4_values[q] + (double)ps_nf4_values[q + 1]) / 2)
        q++;
    return q;
}

/* Codes of a block under one scale, and their squared error. */
static double nf4_try(uint8_t q[BLOCK], const float x[BLOCK], float s)
{
    double error = 0;
    for (size_t i = 0; i < BLOCK; i++) {
        q[i] = (uint8_t)(s > 0 ? nf4_nearest(x[i] / s) : PS_NF4_ZERO);
        double d = (double)x[i] - (double)ps_nf4_values[q[i]] * (double)s;
        error += d * d;
    }
    return error;
}

static bool nf4_block(uint8_t *codes, size_t b, uint16_t *scale, const float x[BLOCK], float largest)
{
    uint8_t q[BLOCK], best[BLOCK] = {0};
    double least = INFINITY;
    if (largest > F16_MAX)
        return false;
    for (int t = 0; t < CANDIDATES; t++) {
        uint16_t h = ps_f32_to_f16((float)((double)largest * (50 - t) / 50));
        double error = nf4_try(q, x, ps_f16_to_f32(h));
        if (error < least) {
            least = error;
            *scale = h;
            memcpy(best, q, sizeof best);
        }
    }
    for (size_t i = 0; i < BLOCK / 2; i++)
        codes[ps_nf4_byte_at(b, i)] = (uint8_t)(best[i] | best[i + BLOCK / 2] << 4);
    return true;
}

int ps_quant_row_encode(void *out, enum ps_dtype t, const float *w, size_t K)
{
    size_t code_bytes = ps_quant_code_bytes(t, K);
    uint8_t *codes = out, *scales = codes + code_bytes;
    if ((t != PS_Q8B64 && t != PS_NF4B64) || code_bytes == 0)
        return PS_EUNSUPPORTED;
    memset(scales, 0, ps_quant_row_bytes(t, K) - code_bytes);
    if (t == PS_NF4B64) /* the half of a pair that may be left */
        memset(codes, PS_NF4_ZERO * 0x11, code_bytes);
    for (size_t k = 0; k < K; k += BLOCK) {
        float x[BLOCK], largest;
        uint16_t scale;
        if (!read_block(x, w + k, K - k < BLOCK ? K - k : BLOCK, &largest))
            return PS_EUNSUPPORTED;
        if (!(t == PS_Q8B64 ? q8_block : nf4_block)(codes, k / BLOCK, &scale, x, largest))
            return PS_EUNSUPPORTED;
        memcpy(scales + k / BLOCK * 2, &scale, 2);
    }
    return 0;
}
