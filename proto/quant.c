/* Layouts and code values of block-scaled weights: see quant.h. */
#include "proto/quant.h"

#include <math.h>
#include <string.h>

const float ps_nf4_values[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

const float ps_e2m1_values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                  -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

size_t ps_quant_block(enum ps_dtype t)
{
    if (t == PS_Q8B64 || t == PS_NF4B64)
        return PS_QUANT_BLOCK;
    return t == PS_MXFP4 ? PS_MXFP4_BLOCK : 0;
}

/* Bytes of the codes of one block. */
static size_t block_bytes(enum ps_dtype t)
{
    return t == PS_Q8B64 ? 64 : t == PS_NF4B64 ? 32 : 16;
}

static size_t blocks(enum ps_dtype t, size_t K)
{
    size_t block = ps_quant_block(t);
    return block ? K / block + (K % block != 0) : 0;
}

size_t ps_quant_code_bytes(enum ps_dtype t, size_t K)
{
    size_t bytes;
    return __builtin_mul_overflow(blocks(t, K), block_bytes(t), &bytes) ? 0 : bytes;
}

size_t ps_quant_row_bytes(enum ps_dtype t, size_t K)
{
    size_t codes = ps_quant_code_bytes(t, K), scales = t == PS_MXFP4 ? 0 : 2 * blocks(t, K), bytes;
    if (codes == 0 || __builtin_add_overflow(codes, scales + 15, &bytes))
        return 0;
    return bytes / 16 * 16;
}

float ps_e4m3_to_f32(uint8_t b)
{
    int exponent = b >> 3 & 15, mantissa = b & 7;
    if ((b & 0x7f) == 0x7f)
        return NAN;
    float v = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    return b & 0x80 ? -v : v;
}

float ps_e8m0_to_f32(uint8_t b)
{
    return b == 255 ? NAN : ldexpf(1.0f, (int)b - 127);
}
