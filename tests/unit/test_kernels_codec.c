/* The block codec: round trips, blocks that do not shrink, damaged blocks. */
#include <string.h>

#include "base/alloc.h"
#include "kernels/codec/codec.h"
#include "tests/support/test.h"
#include "tests/unit/test_kernels_codec_common.h"

enum { N = 100000 };

static size_t pack_block(enum ps_codec c, const uint8_t *in, size_t n, uint8_t *out)
{
    size_t packed = 0;
    struct ps_err err = {0};
    assert_ok(ps_codec_encode(c, PS_BF16, in, n, out, &packed, &err), &err);
    assert_true(packed > 0 && packed <= n);
    return packed;
}

static void what_shrinks_and_what_does_not(void **state)
{
    (void)state;
    uint8_t *in = ps_malloc(N), *packed = ps_malloc(N), *out = ps_malloc(N);
    uint64_t x = 1;
    struct ps_err err = {0};
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < N; i++)
            in[i] = kind ? (uint8_t)(next_random(&x) >> 24) : (uint8_t)(i / 100);
        size_t n = pack_block(PS_CODEC_LZ4, in, N, packed);
        assert_true(kind ? n == N : n < N / 10);
        assert_ok(ps_codec_decode(PS_CODEC_LZ4, PS_BF16, packed, n, out, N, &err), &err);
        assert_memory_equal(in, out, N);
        n = pack_block(PS_CODEC_RAW, in, N, packed);
        assert_int_equal(n, N);
        assert_ok(ps_codec_decode(PS_CODEC_RAW, PS_BF16, packed, n, out, N, &err), &err);
        assert_memory_equal(in, out, N);
    }
    for (size_t n = 1; n < 40; n++) /* the shortest blocks */
        assert_ok(ps_codec_decode(PS_CODEC_LZ4, PS_BF16, packed,
                                  pack_block(PS_CODEC_LZ4, in, n, packed), out, n, &err),
                  &err);
    ps_free(in);
    ps_free(packed);
    ps_free(out);
}

static void wrong_blocks(void **state)
{
    (void)state;
    uint8_t in[1000] = {0}, packed[1000], out[2000];
    size_t n = pack_block(PS_CODEC_LZ4, in, sizeof in, packed);
    struct ps_err err = {0};
    assert_int_equal(ps_codec_decode(PS_CODEC_LZ4, PS_BF16, packed, n - 1, out, 1000, &err),
                     PS_EDATA);
    assert_int_equal(ps_codec_decode(PS_CODEC_LZ4, PS_BF16, packed, n, out, 999, &err), PS_EDATA);
    assert_int_equal(ps_codec_decode(PS_CODEC_LZ4, PS_BF16, packed, n, out, 1001, &err), PS_EDATA);
    assert_int_equal(ps_codec_decode(PS_CODEC_LZ4, PS_BF16, packed, 0, out, 1000, &err), PS_EDATA);
    assert_int_equal(ps_codec_decode(PS_CODEC_RAW, PS_BF16, packed, 10, out, 11, &err), PS_EDATA);
    assert_int_equal(ps_codec_decode((enum ps_codec)7, PS_BF16, packed, 10, out, 10, &err),
                     PS_EUNSUPPORTED);
    assert_int_equal(ps_codec_encode((enum ps_codec)7, PS_BF16, in, 10, out, &n, &err),
                     PS_EUNSUPPORTED);
    assert_int_equal(ps_codec_encode(PS_CODEC_LZ4, PS_BF16, in, 0, out, &n, &err), PS_EFAIL);
}

/* Whatever the bytes, nothing outside of the output is written (the address sanitizer watches). */
static void random_blocks_do_no_harm(void **state)
{
    (void)state;
    uint64_t x = 3;
    for (int round = 0; round < 20000; round++) {
        uint8_t in[64];
        size_t in_bytes = 1 + next_random(&x) % sizeof in, out_bytes = 1 + next_random(&x) % 300;
        uint8_t *out = ps_malloc(out_bytes);
        for (size_t i = 0; i < in_bytes; i++)
            in[i] = (uint8_t)(next_random(&x) >> 24);
        int rc = ps_codec_decode(PS_CODEC_LZ4, PS_BF16, in, in_bytes, out, out_bytes, NULL);
        assert_true(rc == 0 || rc == PS_EDATA);
        ps_free(out);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(what_shrinks_and_what_does_not),
    cmocka_unit_test(wrong_blocks),
    cmocka_unit_test(random_blocks_do_no_harm),
};

TEST_MAIN(tests)
