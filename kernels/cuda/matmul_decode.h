/* Stored weights to operands of the tensor cores. In: 128 bytes of each of 16 rows, as they lie; out: fragments of A
 * for simt_mma_bf16, one step of 16 places of K at a time.
 *
 * With g = lane / 4 and t = lane % 4 a lane holds rows g and g + 8 and loads vectors of 16 bytes from
 * each, lanes t side by side. Which k stands at which place of a step is free as long as the activations follow
 * (mm_k_of): every type takes the order in which its bytes come apart with the least work.
 *
 *     bf16, f16   a word is two neighbours; exact, f16 as hi + lo bf16
 *     Q8B64       bytes 0 and 2, then 1 and 3 of a word, exact in bf16
 *     F8_E4M3     the same
 *     NF4B64      a byte is weights i and i + 32: one look-up in a table of pairs, exact in bf16
 *     MXFP4       nibbles 0 and 4, 1 and 5, ... of a word; the scale is a power of two and goes into the weight,
 *                 exactly (beyond bf16's range, weights over 3.4e38 and under 2^-133, infinity and zero)
 *
 * Not a number: a bf16 or f16 weight that is infinite may come out as NaN (it meets a low half of zero), never as a
 * finite sum. The NaN codes of F8_E4M3 and MXFP4's scale 255 make the row's sum NaN. */
#ifndef PS_KERNELS_CUDA_MATMUL_DECODE_H
#define PS_KERNELS_CUDA_MATMUL_DECODE_H
#include "kernels/cuda/matmul_args.h"
#include "kernels/cuda/numbers.h"

/* STAGE_K: weights in 128 bytes; GROUPS: of 64 in that; VECTOR: bytes of a lane's load; SCALES: words that hold the
 * scales of a stage of one row; TWO: a weight is hi + lo; TABLE: bytes of shared memory for look-ups. */
template <int TYPE> struct mm_type;
template <> struct mm_type<PS_BF16> {
    enum { STAGE_K = 64, GROUPS = 1, VECTOR = 16, SCALES = 0, TWO = 0, TABLE = 0 };
};
template <> struct mm_type<PS_F16> {
    enum { STAGE_K = 64, GROUPS = 1, VECTOR = 16, SCALES = 0, TWO = 1, TABLE = 0 };
};
template <> struct mm_type<PS_Q8B64> {
    enum { STAGE_K = 128, GROUPS = 2, VECTOR = 16, SCALES = 1, TWO = 0, TABLE = 0 };
};
template <> struct mm_type<PS_F8_E4M3> {
    enum { STAGE_K = 128, GROUPS = 2, VECTOR = 16, SCALES = 2, TWO = 0, TABLE = 0 };
};
/* 256 entries of 4 bytes, 32 copies: lane l reads copy l, which lies in bank l. */
template <> struct mm_type<PS_NF4B64> {
    enum { STAGE_K = 256, GROUPS = 4, VECTOR = 16, SCALES = 2, TWO = 0, TABLE = 256 * 32 * 4 };
};
template <> struct mm_type<PS_MXFP4> {
    enum { STAGE_K = 256, GROUPS = 4, VECTOR = 16, SCALES = 2, TWO = 0, TABLE = 0 };
};

/* The k of place i (0 .. 7) of lane t in a chunk: where its two steps' halves come from. */
PS_DEVICE uint32_t mm_k_of(enum ps_dtype type, uint32_t chunk, uint32_t t, uint32_t i)
{
    switch (type) {
    case PS_Q8B64:
    case PS_F8_E4M3: /* word 2 * (chunk % 2) + i / 4: bytes 0, 2, 1, 3 */
        return chunk / 2 * 64 + t * 16 + chunk % 2 * 8 + i / 4 * 4 + (i % 4 * 2 + i % 4 / 2) % 4;
    case PS_NF4B64: /* byte 4 * (chunk % 2) + i / 2: low, high half */
        return chunk / 2 * 64 + t * 8 + chunk % 2 * 4 + i / 2 + i % 2 * 32;
    case PS_MXFP4: /* lane t has a block of its own; word chunk % 4: nibbles 0, 4, 1, 5, ... */
        return chunk / 4 * 128 + t * 32 + chunk % 4 * 8 + i / 2 + i % 2 * 4;
    default: return chunk * 32 + t * 8 + i;
    }
}

/* ---- loads ---- */

/* Weights pass once: they do not stay in L1, and L2 fetches whole lines of what lanes take in halves. */
PS_DEVICE void mm_load_vector(uint32_t *out, const uint8_t *p, int bytes)
{
#if defined(__CUDACC__)
    if (bytes == 16)
        asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "l"(p));
    else
        asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];"
                     : "=r"(out[0]), "=r"(out[1])
                     : "l"(p));
#else
    memcpy(out, __builtin_assume_aligned(p, 8), (size_t)bytes);
#endif
}

/* A word at any address, of which `left` bytes may be read; the rest is zero. */
PS_DEVICE uint32_t mm_load_bytes(const uint8_t *p, int left)
{
    uint32_t w = 0;
    for (int i = 0; i < 4; i++)
        if (i < left)
            w |= (uint32_t)__ldg(p + i) << 8 * i;
    return w;
}

/* Keeps a value in its register: the compiler would rather work a pointer out again for every load. */
template <typename T> PS_DEVICE void mm_pin(T &value)
{
#if defined(__CUDACC__)
    if constexpr (sizeof value == 8)
        asm volatile("" : "+l"(value));
    else
        asm volatile("" : "+r"(value));
#else
    (void)value;
#endif
}

/* Rows of a lane: row g and row g + 8 of a tile. Rows behind the end of a panel are its last one again; their sums
 * are dropped. */
struct mm_rows {
    const uint8_t *w[2]; /* at the lane's first byte */
    const uint8_t *s[2]; /* scales that do not lie in the row */
    int end;             /* bytes of codes from w on */
};

template <int TYPE> struct mm_raw {
    uint32_t w[2][8];
    uint32_t s[2][mm_type<TYPE>::SCALES != 0 ? mm_type<TYPE>::SCALES : 1];
};

/* The vector at p. FULL: all of it is there; else zeros where nothing is left. */
template <int TYPE, bool ANY, bool FULL>
PS_DEVICE void mm_load_one(uint32_t *to, const uint8_t *p, int left)
{
    const int VECTOR = mm_type<TYPE>::VECTOR;
    if constexpr (FULL) {
        mm_load_vector(to, p, VECTOR);
    } else {
        MM_UNROLL
        for (int i = 0; i < VECTOR; i += 4)
            to[i / 4] = ANY ? mm_load_bytes(p + i, left - i) : 0;
        if (!ANY && left > 0)
            mm_load_vector(to, p, VECTOR);
    }
}

/* The vectors of a stage of one row. */
template <int TYPE, bool ANY, bool FULL>
PS_DEVICE void mm_load_row(uint32_t (&row)[8], const uint8_t *w, int left)
{
    const int VECTOR = mm_type<TYPE>::VECTOR;
    MM_UNROLL
    for (int j = 0; j < 32 / VECTOR; j++)
        mm_load_one<TYPE, ANY, FULL>(row + j * VECTOR / 4, w + j * VECTOR * 4, left - j * VECTOR * 4);
}

PS_DEVICE uint32_t mm_load_scales(const uint8_t *p, bool any)
{
    return any ? mm_load_bytes(p, 4) : __ldg((const uint32_t *)(const void *)p);
}

/* 2^(b - 127) as bf16, twice. Its exponent is the byte; the ends are not numbers of that form. */
PS_DEVICE uint32_t mm_e8m0(uint32_t b)
{
    uint32_t h = b == 255 ? 0x7fffu : b == 0 ? 0x40u : b << 7;
    return h * 0x10001u;
}

/* The scale of a row at column k. A power of two of columns goes with each, or all of a row's: no division. */
PS_DEVICE float mm_load_f8_scale(const uint8_t *p, uint32_t k, const mm_args &a)
{
    return p ? __ldg((const float *)(const void *)(p + (size_t)(k >> a.scale_shift) * 4)) : 1.0f;
}

/* The same for any number of columns and any address. */
PS_DEVICE float mm_any_f8_scale(const uint8_t *p, uint32_t k, const mm_args &a)
{
    return p ? simt_bits_float(mm_load_bytes(p + (size_t)(k / a.scale_cols) * 4, 4)) : 1.0f;
}

/* Scales of a stage for row h, as words that mm_scale takes apart; those of MXFP4 as they are, a byte each. */
template <int TYPE, bool ANY>
PS_DEVICE void mm_load_stage_scales(mm_raw<TYPE> &r, int h, const mm_rows &rows, uint32_t stage,
                                    const mm_args &a)
{
    if constexpr (TYPE == PS_Q8B64 || TYPE == PS_NF4B64) {
        const uint32_t WORDS = mm_type<TYPE>::SCALES;
        const uint8_t *p = rows.w[h] + rows.end + stage * WORDS * 4;
        if constexpr (!ANY && WORDS == 2) {
            uint2 two = __ldg((const uint2 *)(const void *)p);
            r.s[h][0] = two.x, r.s[h][1] = two.y;
        } else {
            MM_UNROLL
            for (uint32_t i = 0; i < WORDS; i++)
                r.s[h][i] = mm_load_scales(p + 4 * i, ANY);
        }
    } else if constexpr (TYPE == PS_F8_E4M3 && !ANY) {
        MM_UNROLL
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t k = min(stage * mm_type<TYPE>::STAGE_K + i * MM_GROUP, a.K - 1);
            r.s[h][i] = simt_float_bits(mm_load_f8_scale(rows.s[h], k, a));
        }
    } else if constexpr (TYPE == PS_MXFP4) { /* behind the end: the last, for weights of zero */
        uint32_t t = threadIdx.x % 4, last = (a.K - 1) / 32;
        MM_UNROLL
        for (uint32_t i = 0; i < 2; i++)
            r.s[h][i] = __ldg(rows.s[h] + min(stage * 8 + i * 4 + t, last));
    }
}

template <int TYPE, bool ANY>
PS_DEVICE void mm_load(mm_raw<TYPE> &r, const mm_rows &rows, uint32_t stage, const mm_args &a)
{
    uint32_t at = stage * MM_STAGE_BYTES;
    const uint8_t *w[2] = {rows.w[0] + at, rows.w[1] + at};
    if (!ANY && stage < a.full_stages) {
        mm_load_row<TYPE, ANY, true>(r.w[0], w[0], 0);
        mm_load_row<TYPE, ANY, true>(r.w[1], w[1], 0);
    } else {
        mm_load_row<TYPE, ANY, false>(r.w[0], w[0], rows.end - (int)at);
        mm_load_row<TYPE, ANY, false>(r.w[1], w[1], rows.end - (int)at);
    }
    mm_load_stage_scales<TYPE, ANY>(r, 0, rows, stage, a);
    mm_load_stage_scales<TYPE, ANY>(r, 1, rows, stage, a);
}

/* The scale of group `i` of a stage for row h of the lane; 1 for types that have none. */
template <int TYPE> PS_DEVICE float mm_scale(const mm_raw<TYPE> &r, int h, int i)
{
    if (TYPE == PS_Q8B64 || TYPE == PS_NF4B64) {
        uint32_t word = r.s[h][i / 2];
        return i % 2 ? num_f16_hi_f32(word) : num_f16_lo_f32(word);
    }
    return TYPE == PS_F8_E4M3 ? simt_bits_float(r.s[h][i]) : 1.0f;
}

/* ---- decoding ---- */

/* x * y + z of two bf16 pairs, each rounded once. */
PS_DEVICE uint32_t mm_fma2(uint32_t x, uint32_t y, uint32_t z)
{
#if defined(__CUDACC__)
    uint32_t d = 0;
#if __CUDA_ARCH__ >= 800
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(x), "r"(y), "r"(z));
#endif
    return d;
#else
    double lo = (double)num_bf16_lo_f32(x) * (double)num_bf16_lo_f32(y) + (double)num_bf16_lo_f32(z);
    double hi = (double)num_bf16_hi_f32(x) * (double)num_bf16_hi_f32(y) + (double)num_bf16_hi_f32(z);
    return num_f32_bf16((float)lo) | num_f32_bf16((float)hi) << 16;
#endif
}

#define MM_ZEROS 0x80008000u /* -0, twice: x * y + -0 keeps the sign of a product that is zero */

/* Two int8, in bits 0-7 and 16-23 of `x`. 128 + the low seven bits is a bf16 by its bits alone; less 128, or 256
 * where the sign is set, which again are bits put together. Every number here is exact in bf16. `base` is 128,
 * twice: in a register, because an instruction has room for one constant. */
PS_DEVICE uint32_t mm_from_int8(uint32_t x, uint32_t base)
{
    return mm_fma2((x & 0x00800080u) | base, 0xbf80bf80u, (x & 0x007f007fu) | base);
}

/* Two e4m3, in bits 0-7 and 16-23: their bits moved into place are the number times 2^-120. */
PS_DEVICE uint32_t mm_from_e4m3(uint32_t x)
{
    return mm_fma2((x << 4 & 0x07f007f0u) | (x << 8 & 0x80008000u), 0x7b807b80u, MM_ZEROS);
}

/* Two e2m1, in bits 0-3 and 16-19: the same with 2^-126; then the scale. */
PS_DEVICE uint32_t mm_from_e2m1(uint32_t x, uint32_t scale)
{
    uint32_t bits = (x << 6 & 0x01c001c0u) | (x << 12 & 0x80008000u);
    return mm_fma2(mm_fma2(bits, 0x7e807e80u, MM_ZEROS), scale, MM_ZEROS);
}

/* Where a byte's low seven bits are all ones, bit 7 of that byte of the result is set. */
PS_DEVICE uint32_t mm_e4m3_nan(uint32_t w)
{
    return (w & 0x7f7f7f7fu) + 0x01010101u;
}

/* Two f16 as hi + lo: hi is cut off behind 8 bits, so that what is left is exact. */
PS_DEVICE void mm_from_f16(uint32_t w, uint32_t *hi, uint32_t *lo)
{
    float x = num_f16_lo_f32(w), y = num_f16_hi_f32(w);
    uint32_t xb = simt_float_bits(x), yb = simt_float_bits(y);
    float xl = x - simt_bits_float(xb & 0xffff0000u), yl = y - simt_bits_float(yb & 0xffff0000u);
    *hi = __byte_perm(xb, yb, 0x7632);
    *lo = __byte_perm(simt_float_bits(xl), simt_float_bits(yl), 0x7632);
}

/* What decoding needs beside the bytes. */
struct mm_decoder {
#if defined(__CUDACC__)
    uint32_t table; /* NF4B64: the lane's copy of entry 0, an address in shared memory */
#else
    const uint8_t *table;
#endif
    uint32_t base;   /* Q8B64: see mm_from_int8 */
    uint32_t nan[2]; /* F8_E4M3: bits 7, 15, 23, 31 tell that row h had a NaN */
};

PS_DEVICE mm_decoder mm_new_decoder(const uint8_t *table, const mm_args &a)
{
    mm_decoder d;
#if defined(__CUDACC__)
    d.table = (uint32_t)__cvta_generic_to_shared(table) + threadIdx.x % PS_WARP * 4;
#else
    d.table = table + threadIdx.x % PS_WARP * 4;
#endif
    d.base = a.int8_base;
    d.nan[0] = d.nan[1] = 0;
    return d;
}

/* The pair of weights of byte `i` of a word. */
PS_DEVICE uint32_t mm_look_up(const mm_decoder &d, uint32_t w, uint32_t i)
{
    uint32_t at = __byte_perm(w, 0, 0x4440 + i) * 128;
#if defined(__CUDACC__)
    uint32_t pair;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(d.table + at));
    return pair;
#else
    return *(const uint32_t *)(const void *)(d.table + at);
#endif
}

/* Row h of step `step` of a stage, one part to a weight: its pairs of lower and of higher k. */
template <int TYPE>
PS_DEVICE void mm_decode(uint32_t (&pair)[2], const mm_raw<TYPE> &r, int h, int step, mm_decoder &d)
{
    if constexpr (TYPE == PS_BF16) {
        pair[0] = r.w[h][2 * step], pair[1] = r.w[h][2 * step + 1];
    } else if constexpr (TYPE == PS_Q8B64) {
        uint32_t w = r.w[h][step];
        pair[0] = mm_from_int8(w, d.base), pair[1] = mm_from_int8(w >> 8, d.base);
    } else if constexpr (TYPE == PS_F8_E4M3) {
        uint32_t w = r.w[h][step];
        pair[0] = mm_from_e4m3(w), pair[1] = mm_from_e4m3(w >> 8);
        d.nan[h] |= mm_e4m3_nan(w);
    } else if constexpr (TYPE == PS_NF4B64) {
        uint32_t w = r.w[h][step / 2], first = step % 2 * 2;
        pair[0] = mm_look_up(d, w, first), pair[1] = mm_look_up(d, w, first + 1);
    } else {
        uint32_t w = r.w[h][step / 2] >> 8 * (step % 2), scale = mm_e8m0(r.s[h][step / 8]);
        pair[0] = mm_from_e2m1(w, scale), pair[1] = mm_from_e2m1(w >> 4, scale);
    }
}

/* The same of f16, two parts to a weight: high and low part of the lower k, then of the higher. */
PS_DEVICE void mm_decode_two(uint32_t (&parts)[4], const mm_raw<PS_F16> &r, int h, int step)
{
    mm_from_f16(r.w[h][2 * step], &parts[0], &parts[1]);
    mm_from_f16(r.w[h][2 * step + 1], &parts[2], &parts[3]);
}
#endif
