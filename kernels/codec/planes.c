/* Planes of weights, scalar. Comes in: weights as a model has them. Goes out: exponents for a coder, the rest for the
 * block; and back. */
#include "kernels/codec/planes.h"

#include <string.h>

static inline uint16_t load16(const uint8_t *p)
{
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

void ps_planes_exponents(uint8_t *restrict e, const struct ps_planes_source *s, size_t first, size_t n)
{
    const uint8_t *in = s->weights + first * ps_block_weight_bytes(s->type);
    switch (s->type) {
    case PS_BF16:
        for (size_t i = 0; i < n; i++)
            e[i] = (uint8_t)(load16(in + 2 * i) >> 7);
        return;
    case PS_F32:
        for (size_t i = 0; i < n; i++)
            e[i] = (uint8_t)(load16(in + 4 * i + 2) >> 7);
        return;
    case PS_F16:
        for (size_t i = 0; i < n; i++)
            e[i] = in[2 * i + 1] >> 2 & 31;
        return;
    default:
        for (size_t i = 0; i < n; i++)
            e[i] = in[i] >> 3 & 15;
        return;
    }
}

/* Mantissa and sign of a bf16 number, or of the upper half of a float. */
static inline uint8_t rotated(uint16_t x)
{
    return (uint8_t)(x << 1 | x >> 15);
}

static inline uint16_t unrotated(uint8_t e, uint8_t r)
{
    return (uint16_t)(e << 7 | r >> 1 | (r & 1) << 15);
}

/* Mantissas and signs of 16-bit numbers, one every `each` bytes. `restrict`, here and below: or the compiler would
 * think that what is written is read again, and go byte by byte. */
static void take_rotated(uint8_t *restrict out, const uint8_t *in, size_t n, size_t each)
{
    for (size_t i = 0; out && i < n; i++)
        out[i] = rotated(load16(in + each * i));
}

/* Byte `at` of every `each` bytes. */
static void take_bytes(uint8_t *restrict out, const uint8_t *in, size_t n, size_t each, size_t at)
{
    for (size_t i = 0; out && i < n; i++)
        out[i] = in[each * i + at];
}

/* Bit `bit` of the upper byte of every 16-bit weight; the last byte is filled up with the last weight's. */
static void take_bits(uint8_t *restrict out, const uint8_t *in, size_t n, unsigned bit)
{
    size_t i = 0;
    for (; out && i + 8 <= n; i += 8) {
        uint64_t x[2];
        memcpy(x, in + 2 * i, sizeof x);
        for (int k = 0; k < 2; k++) /* four bits from 16 apart to one beside the other */
            x[k] = (x[k] >> (8 + bit) & 0x0001000100010001u) * 0x1000200040008000u >> 60;
        out[i / 8] = (uint8_t)(x[0] | x[1] << 4);
    }
    if (!out || i == n)
        return;
    unsigned byte = 0;
    for (size_t k = 0; k < 8; k++)
        byte |= (in[2 * (i + k < n ? i + k : n - 1) + 1] >> bit & 1u) << k;
    out[i / 8] = (uint8_t)byte;
}

static uint8_t nibble_of_f8(uint8_t x)
{
    return (uint8_t)(x >> 4 & 8) | (x & 7);
}

void ps_planes_rest(uint8_t *const rest[PS_BLOCK_MAX_REST], const struct ps_planes_source *s,
                    size_t first, size_t n)
{
    const uint8_t *in = s->weights + first * ps_block_weight_bytes(s->type);
    switch (s->type) {
    case PS_BF16: take_rotated(rest[0], in, n, 2); return;
    case PS_F32:
        take_rotated(rest[0], in + 2, n, 4);
        take_bytes(rest[1], in, n, 4, 1);
        take_bytes(rest[2], in, n, 4, 0);
        return;
    case PS_F16:
        take_bytes(rest[0], in, n, 2, 0);
        take_bits(rest[1], in, n, 0);
        take_bits(rest[2], in, n, 1);
        take_bits(rest[3], in, n, 7);
        return;
    default:
        for (size_t i = 0; rest[0] && i < n; i += 2) {
            unsigned hi = nibble_of_f8(in[i + 1 < n ? i + 1 : i]);
            rest[0][i / 2] = (uint8_t)(nibble_of_f8(in[i]) | hi << 4);
        }
        return;
    }
}

static void join_f16(uint8_t *weights, const uint8_t *e, const uint8_t *const *rest, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned at = i % 8, m8 = rest[1][i / 8] >> at & 1u, m9 = rest[2][i / 8] >> at & 1u,
                 sign = rest[3][i / 8] >> at & 1u;
        weights[2 * i] = rest[0][i];
        weights[2 * i + 1] = (uint8_t)(sign << 7 | (e[i] & 31u) << 2 | m9 << 1 | m8);
    }
}

static void join_f8(uint8_t *weights, const uint8_t *e, const uint8_t *rest, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned nibble = rest[i / 2] >> 4 * (i % 2) & 15u;
        weights[i] = (uint8_t)((nibble & 8) << 4 | (e[i] & 15u) << 3 | (nibble & 7));
    }
}

void ps_planes_join(uint8_t *weights, enum ps_dtype t, const uint8_t *e,
                    const uint8_t *const rest[PS_BLOCK_MAX_REST], size_t n)
{
    const uint8_t *restrict r = rest[0];
    switch (t) {
    case PS_BF16:
        for (size_t i = 0; i < n; i++) {
            uint16_t x = unrotated(e[i], r[i]);
            memcpy(weights + 2 * i, &x, sizeof x);
        }
        return;
    case PS_F32:
        for (size_t i = 0; i < n; i++) {
            uint32_t x =
                (uint32_t)unrotated(e[i], r[i]) << 16 | (uint32_t)rest[1][i] << 8 | rest[2][i];
            memcpy(weights + 4 * i, &x, sizeof x);
        }
        return;
    case PS_F16: join_f16(weights, e, rest, n); return;
    default: join_f8(weights, e, r, n); return;
    }
}
