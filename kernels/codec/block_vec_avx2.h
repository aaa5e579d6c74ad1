/* Block codecs, the inner loops in AVX2: what wh_piece_impl.h and xc34_piece_impl.h ask for, and weights from their
 * planes. The AVX-512 files take from here what AVX-512 does no better. */
#ifndef PS_KERNELS_BLOCK_VEC_AVX2_H
#define PS_KERNELS_BLOCK_VEC_AVX2_H
#ifdef __AVX2__
#include <immintrin.h>
#include <string.h>

#include "kernels/codec/block.h"

static inline __m128i load8(const uint8_t *p)
{
    return _mm_loadl_epi64((const __m128i *)(const void *)p);
}

static inline __m128i load16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

static inline __m256i load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

static inline void store32(uint8_t *p, __m256i v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, v);
}

/* Bit i of 32 to byte i: 0x00 or 0xff. */
static inline __m256i spread32(uint32_t bits)
{
    const __m256i byte_of =
        _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i x = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte_of);
    return _mm256_cmpeq_epi8(_mm256_and_si256(x, bit_of), bit_of);
}

/* ---- WH ---- */

/* How eight weights are dealt out by eight bits: byte j of deal[bits] is where weight j comes from, 0..7 being the
 * next zeros and 8..15 the next ones. */
#define BIT(m, j)      ((m) >> (j)&1u)
#define ONES1(m)       BIT(m, 0)
#define ONES2(m)       (ONES1(m) + BIT(m, 1))
#define ONES3(m)       (ONES2(m) + BIT(m, 2))
#define ONES4(m)       (ONES3(m) + BIT(m, 3))
#define ONES5(m)       (ONES4(m) + BIT(m, 4))
#define ONES6(m)       (ONES5(m) + BIT(m, 5))
#define ONES7(m)       (ONES6(m) + BIT(m, 6))
#define PLACE(m, j, k) ((uint64_t)(BIT(m, j) ? 8 + (k) : (j) - (k)) << 8 * (j))
#define DEAL(m)                                                                                    \
    (PLACE(m, 0, 0) | PLACE(m, 1, ONES1(m)) | PLACE(m, 2, ONES2(m)) | PLACE(m, 3, ONES3(m)) |      \
     PLACE(m, 4, ONES4(m)) | PLACE(m, 5, ONES5(m)) | PLACE(m, 6, ONES6(m)) | PLACE(m, 7, ONES7(m)))
#define BY4(f, m)  f((m)), f((m) + 1), f((m) + 2), f((m) + 3)
#define BY16(f, m) BY4(f, m), BY4(f, (m) + 4), BY4(f, (m) + 8), BY4(f, (m) + 12)
#define BY64(f, m) BY16(f, m), BY16(f, (m) + 16), BY16(f, (m) + 32), BY16(f, (m) + 48)
#define BY256(f)   BY64(f, 0u), BY64(f, 64u), BY64(f, 128u), BY64(f, 192u)
static const uint64_t deal[256] = {BY256(DEAL)};

/* The other way: where the weights whose bits are set stand among eight, one after the other. */
#define TAKE(m, j, k) ((uint64_t)(BIT(m, j) ? (j) : 0) << 8 * (k))
#define PACK(m)                                                                                    \
    (TAKE(m, 1, ONES1(m)) | TAKE(m, 2, ONES2(m)) | TAKE(m, 3, ONES3(m)) | TAKE(m, 4, ONES4(m)) |   \
     TAKE(m, 5, ONES5(m)) | TAKE(m, 6, ONES6(m)) | TAKE(m, 7, ONES7(m)))
static const uint64_t pack[256] = {BY256(PACK)};

/* In byte j the ones of bytes 0..j. */
static inline uint64_t ones_up_to(uint64_t word)
{
    word -= word >> 1 & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return word * 0x0101010101010101u;
}

static inline void merge_nodes_by_eight(uint8_t *out, const uint8_t *bits, size_t n,
                                        const uint8_t *zeros, const uint8_t *ones,
                                        struct ps_ahead *ahead)
{
    for (size_t i = 0; i < n; i += 64) {
        ps_ahead_step(ahead);
        uint64_t word = ps_wh_word(bits + i / 8), up_to = ones_up_to(word), before = up_to << 8;
#pragma GCC unroll 8
        for (unsigned j = 0; j < 8; j++) {
            size_t k = before >> 8 * j & 255;
            __m128i both = _mm_castps_si128(
                _mm_loadh_pi(_mm_castsi128_ps(load8(zeros + 8 * j - k)), (const void *)(ones + k)));
            __m128i from = load8((const uint8_t *)&deal[word >> 8 * j & 255]);
            _mm_storel_epi64((void *)(out + i + 8 * j), _mm_shuffle_epi8(both, from));
        }
        ones += up_to >> 56;
        zeros += 64 - (up_to >> 56);
    }
}

/* As if the zeros came from a row of that one symbol. */
static inline void merge_leaf_by_eight(uint8_t *out, const uint8_t *bits, size_t n, uint8_t zero,
                                       const uint8_t *ones, struct ps_ahead *ahead)
{
    const __m128 zeros = _mm_castsi128_ps(_mm_set1_epi8((char)zero));
    for (size_t i = 0; i < n; i += 64) {
        ps_ahead_step(ahead);
        uint64_t word = ps_wh_word(bits + i / 8), up_to = ones_up_to(word), before = up_to << 8;
#pragma GCC unroll 8
        for (unsigned j = 0; j < 8; j++) {
            size_t k = before >> 8 * j & 255;
            __m128i both = _mm_castps_si128(_mm_loadh_pi(zeros, (const void *)(ones + k)));
            __m128i from = load8((const uint8_t *)&deal[word >> 8 * j & 255]);
            _mm_storel_epi64((void *)(out + i + 8 * j), _mm_shuffle_epi8(both, from));
        }
        ones += up_to >> 56;
    }
}

static inline void merge_leaves_avx2(uint8_t *out, const uint8_t *bits, size_t n, uint8_t zero,
                                     uint8_t one)
{
    const __m256i zeros = _mm256_set1_epi8((char)zero), flip = _mm256_set1_epi8((char)(zero ^ one));
    for (size_t i = 0; i < n; i += 32) {
        uint32_t word = (uint32_t)ps_wh_word(bits + i / 8);
        store32(out + i, _mm256_xor_si256(zeros, _mm256_and_si256(spread32(word), flip)));
    }
}

/* Bits [0, n) of a word to a bitmap, n <= 64. */
static inline void put_bits(uint8_t *bits, uint64_t word, size_t n)
{
    if (n == 64)
        memcpy(bits, &word, sizeof word);
    else
        memcpy(bits, &word, (n + 7) / 8);
}

/* The ranks among 64 whose bit is set. Returns their end. */
static inline uint8_t *pack_by_eight(uint8_t *out, const uint8_t *ranks, uint64_t word)
{
    uint64_t up_to = ones_up_to(word), before = up_to << 8;
#pragma GCC unroll 8
    for (unsigned j = 0; j < 8; j++) {
        __m128i from = load8((const uint8_t *)&pack[word >> 8 * j & 255]);
        _mm_storel_epi64((void *)(out + (before >> 8 * j & 255)),
                         _mm_shuffle_epi8(load8(ranks + 8 * j), from));
    }
    return out + (up_to >> 56);
}

static inline uint32_t from_middle_on(const uint8_t *ranks, __m256i middle)
{
    __m256i x = load32(ranks);
    return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(x, middle), x));
}

static inline size_t deal_by_eight(uint8_t *bits, const uint8_t *ranks, size_t n, uint8_t middle,
                                   uint8_t *zeros, uint8_t *ones)
{
    const __m256i from = _mm256_set1_epi8((char)middle);
    size_t sum = 0;
    for (size_t i = 0; i < n; i += 64) {
        size_t m = n - i < 64 ? n - i : 64;
        uint64_t word =
            from_middle_on(ranks + i, from) | (uint64_t)from_middle_on(ranks + i + 32, from) << 32;
        word &= ~0ull >> (64 - m);
        put_bits(bits + i / 8, word, m);
        if (zeros)
            zeros = pack_by_eight(zeros, ranks + i, ~word);
        if (ones)
            ones = pack_by_eight(ones, ranks + i, word);
        sum += (size_t)__builtin_popcountll(word);
    }
    return sum;
}

/* ---- XC34 ---- */

static inline __m256i book_of(const uint8_t *book)
{
    return _mm256_broadcastsi128_si256(load16(book));
}

/* 32 nibbles of 16 bytes. */
static inline __m256i nibbles32(__m128i bytes)
{
    __m256i x = _mm256_cvtepu8_epi16(bytes);
    return _mm256_and_si256(_mm256_or_si256(x, _mm256_slli_epi16(x, 4)), _mm256_set1_epi8(15));
}

static inline const uint8_t *escapes_avx2(uint8_t *out, const uint8_t *nibbles, size_t count,
                                          const uint8_t *book, const uint8_t *bare)
{
    const __m256i looked_up = book_of(book), escape = _mm256_set1_epi8(PS_XC34_LONG);
    for (size_t i = 0; i < count; i += 32) {
        __m256i x = nibbles32(load16(nibbles + i / 2));
        uint32_t mask = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, escape));
        store32(out + i, _mm256_shuffle_epi8(looked_up, x));
        for (; mask; mask &= mask - 1)
            out[i + (size_t)__builtin_ctz(mask)] = *bare++;
    }
    return bare;
}

/* 32 exponents of codes of 3 bits. */
static inline __m256i short_exponents32(uint64_t a, uint64_t b, uint64_t c, const uint8_t *book)
{
    __m256i x = _mm256_and_si256(spread32((uint32_t)a), _mm256_set1_epi8(1)),
            y = _mm256_and_si256(spread32((uint32_t)b), _mm256_set1_epi8(2)),
            z = _mm256_and_si256(spread32((uint32_t)c), _mm256_set1_epi8(4));
    return _mm256_shuffle_epi8(book_of(book), _mm256_or_si256(_mm256_or_si256(x, y), z));
}

static inline const uint8_t *group_avx2(uint8_t *e, const uint8_t *group, uint64_t full,
                                        const uint8_t *book, const uint8_t *escapes)
{
    uint64_t a = ps_wh_word(group), b = ps_wh_word(group + 8), c = ps_wh_word(group + 16);
    store32(e, short_exponents32(a, b, c, book));
    store32(e + 32, short_exponents32(a >> 32, b >> 32, c >> 32, book));
    uint64_t mask = a & b & c & full;
    for (; mask; mask &= mask - 1)
        e[__builtin_ctzll(mask)] = *escapes++;
    return escapes;
}

/* ---- Weights from their planes ---- */

/* Bytes a0 b0 a1 b1 ... of 32 and 32. */
static inline void interleave(__m256i out[2], __m256i a, __m256i b)
{
    a = _mm256_permute4x64_epi64(a, 0xd8);
    b = _mm256_permute4x64_epi64(b, 0xd8);
    out[0] = _mm256_unpacklo_epi8(a, b);
    out[1] = _mm256_unpackhi_epi8(a, b);
}

/* bf16 numbers, or upper halves of floats, of 32 exponents and rotated bytes. */
static inline void unrotate32(__m256i out[2], const uint8_t *e, const uint8_t *r)
{
    interleave(out, load32(r), load32(e));
    for (int k = 0; k < 2; k++)
        out[k] = _mm256_or_si256(_mm256_srli_epi16(out[k], 1), _mm256_slli_epi16(out[k], 15));
}

static inline void join32_bf16(uint8_t *out, const uint8_t *e, const uint8_t *r)
{
    __m256i x[2];
    unrotate32(x, e, r);
    store32(out, x[0]);
    store32(out + 32, x[1]);
}

static inline void join32_f32(uint8_t *out, const uint8_t *e, const uint8_t *const *rest, size_t at)
{
    __m256i high[2], low[2];
    unrotate32(high, e + at, rest[0] + at);
    interleave(low, load32(rest[2] + at), load32(rest[1] + at));
    for (int k = 0; k < 2; k++) {
        __m256i a = _mm256_unpacklo_epi16(low[k], high[k]),
                b = _mm256_unpackhi_epi16(low[k], high[k]);
        store32(out + 64 * k, _mm256_permute2x128_si256(a, b, 0x20));
        store32(out + 64 * k + 32, _mm256_permute2x128_si256(a, b, 0x31));
    }
}

static inline __m256i bits32(const uint8_t *plane, size_t at, unsigned to)
{
    uint32_t bits;
    memcpy(&bits, plane + at / 8, sizeof bits);
    return _mm256_and_si256(spread32(bits), _mm256_set1_epi8((char)to));
}

static inline void join32_f16(uint8_t *out, const uint8_t *e, const uint8_t *const *rest, size_t at)
{
    __m256i x[2], low = _mm256_or_si256(bits32(rest[1], at, 1), bits32(rest[2], at, 2));
    __m256i exponent = _mm256_and_si256(load32(e + at), _mm256_set1_epi8(31));
    __m256i high = _mm256_or_si256(_mm256_slli_epi16(exponent, 2), bits32(rest[3], at, 0x80));
    interleave(x, load32(rest[0] + at), _mm256_or_si256(high, low));
    store32(out, x[0]);
    store32(out + 32, x[1]);
}

static inline void join32_f8(uint8_t *out, const uint8_t *e, const uint8_t *nibbles)
{
    __m256i x = nibbles32(load16(nibbles));
    __m256i exponent = _mm256_and_si256(load32(e), _mm256_set1_epi8(15));
    __m256i sign = _mm256_and_si256(x, _mm256_set1_epi8(8)),
            mantissa = _mm256_and_si256(x, _mm256_set1_epi8(7));
    x = _mm256_or_si256(_mm256_slli_epi16(sign, 4), _mm256_slli_epi16(exponent, 3));
    store32(out, _mm256_or_si256(x, mantissa));
}

/* The last n - i weights, in plain C. i is a multiple of 8. */
static inline void join_tail(uint8_t *weights, enum ps_dtype t, const uint8_t *e,
                             const uint8_t *const rest[PS_BLOCK_MAX_REST], size_t i, size_t n)
{
    const uint8_t *from[PS_BLOCK_MAX_REST];
    if (i == n)
        return;
    for (unsigned p = 0; p < PS_BLOCK_MAX_REST; p++)
        from[p] = rest[p] + ps_block_rest_bytes(t, p, i);
    ps_planes_join(weights + i * ps_block_weight_bytes(t), t, e + i, from, n - i);
}
#endif
#endif
