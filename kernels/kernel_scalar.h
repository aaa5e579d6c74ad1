/* Single numbers: bf16 and f16 to and from f32, by bits, the same on every machine. Bytes of a weight row may lie
 * at any address, so loads go through memcpy. Used by the reference backend, the tails of the others, and the small
 * operations. */
#ifndef PS_KERNELS_KERNEL_SCALAR_H
#define PS_KERNELS_KERNEL_SCALAR_H
#include <stdint.h>
#include <string.h>

static inline float ps_bits_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t ps_f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float ps_bf16_to_f32(uint16_t h)
{
    return ps_bits_f32((uint32_t)h << 16);
}

/* Round to nearest even; a NaN stays a (quiet) NaN instead of rounding up to infinity. */
static inline uint16_t ps_f32_to_bf16(float f)
{
    uint32_t u = ps_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* a as hi + lo, both bf16: hi is a rounded (cut off where rounding would give infinity), lo what is left, rounded.
 * Infinities and NaNs have lo = 0. Leaves about 17 of the 24 bits. */
static inline void ps_split_bf16(float a, uint16_t *hi, uint16_t *lo)
{
    uint32_t u = ps_f32_bits(a), abs = u & 0x7fffffffu;
    if (abs >= 0x7f800000u) {
        *hi = (uint16_t)(u >> 16 | (abs > 0x7f800000u ? 0x40u : 0));
        *lo = 0;
        return;
    }
    *hi = abs >= 0x7f7f8000u ? (uint16_t)(u >> 16) : ps_f32_to_bf16(a);
    *lo = ps_f32_to_bf16(a - ps_bf16_to_f32(*hi));
}

static inline float ps_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 0x1fu, man = h & 0x3ffu;
    if (exp == 0x1fu) /* the quiet bit is set as vcvtph2ps does */
        return ps_bits_f32(sign | 0x7f800000u | man << 13 | (man ? 0x400000u : 0));
    if (exp)
        return ps_bits_f32(sign | (exp + 112u) << 23 | man << 13);
    float f = (float)man * 0x1p-24f; /* zero and denormals: exact */
    return sign ? -f : f;
}

/* Round to nearest even, overflow to infinity, denormals kept. */
static inline uint16_t ps_f32_to_f16(float f)
{
    uint32_t u = ps_f32_bits(f), a = u & 0x7fffffffu;
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) /* below 2^-14: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded by the FPU */
        return (uint16_t)(sign | (ps_f32_bits(ps_bits_f32(a) + 0.5f) - 0x3f000000u));
    a += 0xfffu + ((a >> 13) & 1u);
    return (uint16_t)(sign | ((a - 0x38000000u) >> 13));
}

static inline uint16_t ps_load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float ps_load_f32(const void *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}
#endif
