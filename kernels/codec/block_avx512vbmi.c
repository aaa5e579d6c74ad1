/* Block codecs for CPUs with AVX-512 and VBMI2 (Ice Lake, Zen 4 and later): 64 weights are dealt out by one byte
 * expansion for each side. */
#include "kernels/codec/block_vec_avx512.h"

static inline size_t ones_of(uint64_t word)
{
    return (size_t)__builtin_popcountll(word);
}

/* What is to be expanded, loaded whole. The compiler would make the load part of the expansion, which then reads no
 * more than it needs and takes a hundred cycles on Zen 4. */
static inline __m512i to_expand(const uint8_t *p)
{
    __m512i x = _mm512_loadu_si512(p);
    __asm__("" : "+v"(x));
    return x;
}

static inline void merge_leaf_expand(uint8_t *out, const uint8_t *bits, size_t n, uint8_t zero,
                                     const uint8_t *ones, struct ps_ahead *ahead)
{
    const __m512i zeros = _mm512_set1_epi8((char)zero);
    for (size_t i = 0; i < n; i += 64) {
        uint64_t word = ps_wh_word(bits + i / 8);
        ps_ahead_step(ahead);
        _mm512_storeu_si512(out + i, _mm512_mask_expand_epi8(zeros, word, to_expand(ones)));
        ones += ones_of(word);
    }
}

static inline void merge_nodes_expand(uint8_t *out, const uint8_t *bits, size_t n,
                                      const uint8_t *zeros, const uint8_t *ones,
                                      struct ps_ahead *ahead)
{
    for (size_t i = 0; i < n; i += 64) {
        uint64_t word = ps_wh_word(bits + i / 8);
        ps_ahead_step(ahead);
        __m512i x = _mm512_maskz_expand_epi8(~word, to_expand(zeros));
        _mm512_storeu_si512(out + i, _mm512_mask_expand_epi8(x, word, to_expand(ones)));
        ones += ones_of(word);
        zeros += 64 - ones_of(word);
    }
}

/* Compressed in a register and stored whole: compressing into memory takes a hundred cycles on Zen 4. */
static size_t deal_compress(uint8_t *bits, const uint8_t *ranks, size_t n, uint8_t middle,
                            uint8_t *zeros, uint8_t *ones)
{
    const __m512i from = _mm512_set1_epi8((char)middle);
    size_t sum = 0;
    for (size_t i = 0; i < n; i += 64) {
        size_t m = n - i < 64 ? n - i : 64;
        __m512i x = load64(ranks + i);
        uint64_t word = _mm512_cmpge_epu8_mask(x, from) & ~0ull >> (64 - m);
        put_bits(bits + i / 8, word, m);
        if (zeros) {
            _mm512_storeu_si512(zeros, _mm512_maskz_compress_epi8(~word, x));
            zeros += 64 - ones_of(word);
        }
        if (ones) {
            _mm512_storeu_si512(ones, _mm512_maskz_compress_epi8(word, x));
            ones += ones_of(word);
        }
        sum += ones_of(word);
    }
    return sum;
}

static inline const uint8_t *escapes_expand(uint8_t *out, const uint8_t *nibbles, size_t count,
                                            const uint8_t *book, const uint8_t *bare)
{
    const __m512i looked_up = _mm512_broadcast_i32x4(load16(book)),
                  escape = _mm512_set1_epi8(PS_XC34_LONG);
    for (size_t i = 0; i < count; i += 64) {
        __m512i x = nibbles64(load32(nibbles + i / 2));
        uint64_t mask = _mm512_cmpeq_epi8_mask(x, escape);
        x = _mm512_shuffle_epi8(looked_up, x);
        _mm512_storeu_si512(out + i, _mm512_mask_expand_epi8(x, mask, to_expand(bare)));
        bare += ones_of(mask);
    }
    return bare;
}

static inline const uint8_t *group_expand(uint8_t *e, const uint8_t *group, uint64_t full,
                                          const uint8_t *book, const uint8_t *escapes)
{
    uint64_t a = ps_wh_word(group), b = ps_wh_word(group + 8), c = ps_wh_word(group + 16);
    uint64_t mask = a & b & c & full;
    __m512i x = short_exponents(a, b, c, book);
    _mm512_storeu_si512(e, _mm512_mask_expand_epi8(x, mask, to_expand(escapes)));
    return escapes + ones_of(mask);
}

#define wh_popcount     ones_of
#define wh_merge_leaves merge_leaves_avx512
#define wh_merge_leaf   merge_leaf_expand
#define wh_merge_nodes  merge_nodes_expand
#define xc_escapes      escapes_expand
#define xc_group        group_expand
#include "kernels/codec/wh_piece_impl.h"
#include "kernels/codec/xc34_piece_impl.h"

const struct ps_block_ops ps_block_ops_avx512vbmi = {
    .name = "avx512vbmi",
    .wh_piece = wh_piece,
    .xc34_piece = xc_piece,
    .wh_deal = deal_compress,
    .join = join_avx512,
};
