/* WH and XC34 blocks that someone else wrote: cut, flipped, random. Whatever the bytes, a block is refused or
 * gives some weights; nothing outside of it is read and nothing outside of the output written (the address
 * sanitizer watches). */
#include <string.h>

#include "base/alloc.h"
#include "kernels/codec/codec.h"
#include "proto/block_format.h"
#include "tests/support/test.h"
#include "tests/unit/test_kernels_codec_common.h"
#include "tests/unit/test_kernels_codec_tables.h"

static const enum ps_codec codecs[] = {PS_CODEC_WH, PS_CODEC_XC34};
static const enum ps_dtype types[] = {PS_BF16, PS_F16, PS_F32, PS_F8_E4M3};

static size_t pack_block(uint8_t *out, enum ps_codec c, enum ps_dtype t, size_t n, uint64_t seed)
{
    size_t bytes = n * ps_dtype_bytes(t), packed = 0;
    uint8_t *in = ps_malloc(bytes);
    struct ps_err err = {0};
    fill_weights(in, t, n, &seed);
    assert_ok(ps_codec_encode(c, t, in, bytes, out, &packed, &err), &err);
    assert_true(packed < bytes);
    ps_free(in);
    return packed;
}

/* Unpacks from and to buffers of the exact sizes, by way of codec.h and by every table. */
static int unpack_exact(enum ps_codec c, enum ps_dtype t, const uint8_t *in, size_t in_bytes,
                        size_t out_bytes)
{
    uint8_t *block = ps_malloc(in_bytes ? in_bytes : 1), *out = ps_malloc(out_bytes);
    struct ps_err err = {0};
    memcpy(block, in, in_bytes);
    int rc = ps_codec_decode(c, t, block, in_bytes, out, out_bytes, &err);
    assert_true(rc == 0 || rc == PS_EDATA);
    assert_true(rc == 0 || err.text[0]);
    if (in_bytes != out_bytes && ps_codec_known((uint32_t)c)) {
        uint8_t *weights;
        assert_int_equal(unpack_by_all(&weights, c, t, in, in_bytes, out_bytes), rc == 0);
        if (rc == 0)
            assert_memory_equal(out, weights, out_bytes);
        ps_free(weights);
    }
    ps_free(block);
    ps_free(out);
    return rc;
}

static void cut_blocks(void **state)
{
    (void)state;
    uint8_t *block = ps_malloc(4 * 5000);
    for (size_t k = 0; k < TEST_COUNT(codecs) * TEST_COUNT(types); k++) {
        enum ps_codec c = codecs[k % 2];
        enum ps_dtype t = types[k / 2];
        size_t bytes = pack_block(block, c, t, 1500, k + 1), raw = 1500 * ps_dtype_bytes(t);
        assert_int_equal(unpack_exact(c, t, block, bytes, raw), 0);
        for (size_t n = 0; n < bytes; n++)
            assert_int_equal(unpack_exact(c, t, block, n, raw), PS_EDATA);
        for (size_t n = raw - 8; n <= raw + 8; n++)
            if (n != raw)
                assert_int_equal(unpack_exact(c, t, block, bytes, n), PS_EDATA);
        assert_int_equal(unpack_exact(codecs[1 - k % 2], t, block, bytes, raw), PS_EDATA);
        assert_int_equal(unpack_exact(c, t == PS_BF16 ? PS_F16 : PS_BF16, block, bytes, raw),
                         PS_EDATA);
        assert_int_equal(unpack_exact(c, PS_U8, block, bytes, raw), PS_EDATA);
    }
    ps_free(block);
}

static void flipped_bits(void **state)
{
    (void)state;
    uint8_t *block = ps_malloc(4 * 20000);
    for (size_t k = 0; k < TEST_COUNT(codecs) * 2; k++) {
        enum ps_codec c = codecs[k % 2];
        enum ps_dtype t = k < 2 ? PS_BF16 : PS_F16;
        size_t n = 1500, bytes = pack_block(block, c, t, n, 5), refused = 0;
        for (size_t bit = 0; bit < 8 * bytes; bit++) {
            block[bit / 8] ^= (uint8_t)(1u << bit % 8);
            refused += unpack_exact(c, t, block, bytes, n * 2) != 0;
            block[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        assert_true(refused > 8 * 20); /* most of the head, at the least */
    }
    ps_free(block);
}

/* Heads that hold, with anything behind them. */
static void random_planes(void **state)
{
    (void)state;
    uint64_t x = 77;
    uint8_t *block = ps_malloc(4 * 40000);
    for (int round = 0; round < 4000; round++) {
        enum ps_codec c = codecs[round % 2];
        enum ps_dtype t = types[round / 2 % 4];
        size_t n = round % 20 ? 1500 + next_random(&x) % 900 : 16000 + next_random(&x) % 18000;
        size_t bytes = pack_block(block, c, t, n, (uint64_t)round + 1);
        size_t damage = 1 + next_random(&x) % 40, span = round % 3 ? 96 : bytes - 32;
        for (size_t i = 0; i < damage; i++) {
            size_t at = 32 + next_random(&x) % (span < bytes - 32 ? span : bytes - 32);
            block[at] = (uint8_t)(next_random(&x) >> 24);
        }
        unpack_exact(c, t, block, bytes, n * ps_dtype_bytes(t));
    }
    ps_free(block);
}

/* Tables of segments, nibbles and bare exponents that contradict one another, changed by one and by much. */
static void wrong_xc34_tables(void **state)
{
    (void)state;
    enum { N = 3 * PS_XC34_SEGMENT + 100, RAW = 2 * N };
    static const uint32_t add[] = {1, 2, (uint32_t)-1, 4096, 0x10000, 0x80000000u};
    uint8_t *block = ps_malloc(RAW);
    size_t bytes = pack_block(block, PS_CODEC_XC34, PS_BF16, N, 9), refused = 0, tried = 0;
    for (size_t at = 32 + 24; at < 32 + PS_XC34_SEGMENTS_AT + 8 * 4; at += 4) {
        uint32_t was = ps_block_u32(block + at);
        for (size_t k = 0; k < TEST_COUNT(add); k++) {
            uint32_t now = was + add[k];
            memcpy(block + at, &now, sizeof now);
            refused += unpack_exact(PS_CODEC_XC34, PS_BF16, block, bytes, RAW) != 0;
            tried++;
        }
        memcpy(block + at, &was, sizeof was);
    }
    assert_int_equal(refused, tried);
    ps_free(block);
}

/* Trees that are none: too full, unfinished, of one leaf, of too many nodes, with codes of 13 bits. */
static void wrong_trees(void **state)
{
    (void)state;
    static const uint8_t trees[][16] = {
        {0},
        {0, 1},
        {0, 3},
        {0, 1, 1},
        {0, 1, 1, 1},
        {0, 2, 1},
        {1, 2},
        {0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2},
        {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255},
        {0, 0, 0, 0, 0, 0, 0, 0, 255, 2}, /* 257 leaves */
    };
    struct ps_wh_tree w;
    for (size_t i = 0; i < TEST_COUNT(trees); i++)
        assert_false(ps_wh_tree_read(&w, trees[i]));
    static const uint8_t deepest[16] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2};
    assert_true(ps_wh_tree_read(&w, deepest));
    assert_int_equal(w.n_symbols, 13);
    static const uint8_t widest[16] = {0, 0, 0, 0, 0, 0, 0, 1, 253, 2, 0}; /* 256 leaves */
    assert_true(ps_wh_tree_read(&w, widest));
    assert_int_equal(w.n_symbols, 256);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(cut_blocks),    cmocka_unit_test(flipped_bits),
    cmocka_unit_test(random_planes), cmocka_unit_test(wrong_xc34_tables),
    cmocka_unit_test(wrong_trees),
};

TEST_MAIN(tests)
