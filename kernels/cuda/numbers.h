/* Single numbers inside GPU kernels: bf16 and f16 to and from f32, and f32 as two bf16 halves. The same bits as
 * kernel_scalar.h gives on the CPU, so that what one side stored the other reads, and so that operands split on either
 * side multiply alike. Everything is integer arithmetic or one IEEE operation; nothing depends on flags of the compiler
 * but on denormals being kept, nvcc's default.
 *
 * num_f16_f32 uses the GPU's own conversion, which gives every NaN the same payload; num_f16_f32_bits keeps the
 * payload. All other values agree. */
#ifndef PS_KERNELS_CUDA_NUMBERS_H
#define PS_KERNELS_CUDA_NUMBERS_H
#include "kernels/cuda/simt.h"

/* Bytes at any address. */
PS_DEVICE uint32_t num_load_u16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

PS_DEVICE uint32_t num_load_u32(const uint8_t *p)
{
    return num_load_u16(p) | num_load_u16(p + 2) << 16;
}

/* Halves of a word stand in the low 16 bits of what the functions below take and return. */

PS_DEVICE float num_bf16_f32(uint32_t h)
{
    return simt_bits_float(h << 16);
}

/* Two bf16 of one word, as they lie in memory: the first in the lower half. */
PS_DEVICE float num_bf16_lo_f32(uint32_t word)
{
    return simt_bits_float(word << 16);
}

PS_DEVICE float num_bf16_hi_f32(uint32_t word)
{
    return simt_bits_float(word & 0xffff0000u);
}

/* Round to nearest even; a NaN stays a (quiet) NaN. */
PS_DEVICE uint32_t num_f32_bf16(float f)
{
    uint32_t u = simt_float_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return u >> 16 | 0x40u;
    return (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}

PS_DEVICE float num_f16_f32_bits(uint32_t h)
{
    uint32_t sign = (h & 0x8000u) << 16, exp = h >> 10 & 0x1fu, man = h & 0x3ffu;
    if (exp == 0x1fu)
        return simt_bits_float(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0u));
    if (exp)
        return simt_bits_float(sign | (exp + 112u) << 23 | man << 13);
    float f = (float)man * 0x1p-24f; /* zero and denormals: exact */
    return simt_bits_float(simt_float_bits(f) | sign);
}

PS_DEVICE float num_f16_f32(uint32_t h)
{
#if defined(__CUDACC__)
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((uint16_t)h));
    return f;
#else
    return num_f16_f32_bits(h & 0xffffu);
#endif
}

PS_DEVICE float num_f16_lo_f32(uint32_t word)
{
    return num_f16_f32(word & 0xffffu);
}

PS_DEVICE float num_f16_hi_f32(uint32_t word)
{
    return num_f16_f32(word >> 16);
}

/* Round to nearest even, overflow to infinity, denormals kept. */
PS_DEVICE uint32_t num_f32_f16(float f)
{
    uint32_t u = simt_float_bits(f), a = u & 0x7fffffffu, sign = u >> 16 & 0x8000u;
    if (a > 0x7f800000u)
        return sign | 0x7e00u | (a >> 13 & 0x3ffu);
    if (a >= 0x477ff000u) /* 65520 and above */
        return sign | 0x7c00u;
    if (a < 0x38800000u) /* below 2^-14: the addition rounds to multiples of 2^-24 */
        return sign | (simt_float_bits(simt_bits_float(a) + 0.5f) - 0x3f000000u);
    a += 0xfffu + (a >> 13 & 1u);
    return sign | (a - 0x38000000u) >> 13;
}

/* a as hi + lo, about 17 of its 24 bits: what ps_split_bf16 of kernel_scalar.h gives. */
PS_DEVICE void num_split_bf16(float a, uint32_t *hi, uint32_t *lo)
{
    uint32_t u = simt_float_bits(a), abs = u & 0x7fffffffu;
    if (abs >= 0x7f800000u) {
        *hi = u >> 16 | (abs > 0x7f800000u ? 0x40u : 0u);
        *lo = 0;
        return;
    }
    *hi = abs >= 0x7f7f8000u ? u >> 16 : num_f32_bf16(a);
    *lo = num_f32_bf16(a - num_bf16_f32(*hi));
}

/* ps_nf4_values, which are bf16 numbers. */
static __constant__ const uint32_t num_nf4[16] = {
    0xbf80, 0xbf32, 0xbf06, 0xbeca, 0xbe92, 0xbe3d, 0xbdba, 0x0000,
    0x3da3, 0x3e25, 0x3e7c, 0x3ead, 0x3ee2, 0x3f10, 0x3f39, 0x3f80,
};
#endif
