/* The tile instructions that cpu_amx.c uses, in plain C, for machines without AMX: a test compiles cpu_amx.c with
 * PS_AMX_EMULATE=1. Follows Intel's Instruction Set Reference, TDPBF16PS: per dest row, pairs are summed by FMA in
 * two chains (even and odd elements) along k, both chains are added, then the destination; inputs and results that
 * are denormal count as zero, rounding is to nearest even. All tiles are 16 rows of 64 bytes. */
#ifndef PS_KERNELS_AMX_EMULATE_H
#define PS_KERNELS_AMX_EMULATE_H
#include <math.h>

#include "kernels/kernel_scalar.h"

struct ps_tile {
    uint8_t row[16][64];
};
static _Thread_local struct ps_tile ps_tiles[8];

static inline float ps_flush(float f)
{
    return ps_f32_bits(f) & 0x7f800000u ? f : copysignf(0.0f, f);
}

static inline void ps_tile_dpbf16ps(int dst, int a, int b)
{
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float even = 0, odd = 0, old;
            for (int k = 0; k < 16; k++) {
                const uint8_t *x = ps_tiles[a].row[m] + 4 * k, *y = ps_tiles[b].row[k] + 4 * n;
                even = ps_flush(fmaf(ps_flush(ps_bf16_to_f32(ps_load_u16(x))),
                                     ps_flush(ps_bf16_to_f32(ps_load_u16(y))), even));
                odd = ps_flush(fmaf(ps_flush(ps_bf16_to_f32(ps_load_u16(x + 2))),
                                    ps_flush(ps_bf16_to_f32(ps_load_u16(y + 2))), odd));
            }
            old = ps_flush(ps_load_f32(ps_tiles[dst].row[m] + 4 * n));
            old = ps_flush(old + ps_flush(even + odd));
            memcpy(ps_tiles[dst].row[m] + 4 * n, &old, 4);
        }
}

static inline void ps_tile_loadd(int dst, const void *base, size_t stride)
{
    for (size_t i = 0; i < 16; i++)
        memcpy(ps_tiles[dst].row[i], (const uint8_t *)base + i * stride, 64);
}

static inline void ps_tile_stored(int src, void *base, size_t stride)
{
    for (size_t i = 0; i < 16; i++)
        memcpy((uint8_t *)base + i * stride, ps_tiles[src].row[i], 64);
}

static inline void ps_tile_zero(int dst)
{
    memset(&ps_tiles[dst], 0, sizeof ps_tiles[dst]);
}

#define _tile_loadd(dst, base, stride)  ps_tile_loadd(dst, base, stride)
#define _tile_stored(src, base, stride) ps_tile_stored(src, base, stride)
#define _tile_zero(dst)                 ps_tile_zero(dst)
#define _tile_dpbf16ps(dst, a, b)       ps_tile_dpbf16ps(dst, a, b)
#endif
