/* Layouts and code values of block-scaled weights: see quant.h. */
#include "proto/quant.h"

#include <math.h>
#include <string.h>

const float ps_nf4_values[16] = {
    -0x1p0f,     -0x1.64p-1f, -0x1.0cp-1f, -0x1.94p-2f, -0x1.24p-2f, -0x1.7ap-3f,
    -0x1.74p-4f, 0.0f,        0x1.46p-4f,  0x1.4ap-3f,  0x1.f8p-3f,  0x1.5ap-2f,
    0x1.c4p-2f,  0x1.2p-1f,   0x1.72p-1f,  0x1p0f,
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
    size_t n = blocks(t, K), bytes;
    if (t == PS_NF4B64)
        n += n % 2; /* blocks lie in pairs */
    return __builtin_mul_overflow(n, block_bytes(t), &bytes) ? 0 : bytes;
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
