/* WH and XC34 blocks: round trips of every kind of weights and length, sizes, ratios, one fixed block byte by byte. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "kernels/codec/block.h"
#include "kernels/codec/codec.h"
#include "tests/support/test.h"
#include "tests/unit/test_kernels_codec_common.h"
#include "tests/unit/test_kernels_codec_tables.h"

enum { MAX_WEIGHTS = 1 << 17 };

static const enum ps_codec codecs[] = {PS_CODEC_WH, PS_CODEC_XC34};
static const enum ps_dtype types[] = {PS_BF16, PS_F16, PS_F32, PS_F8_E4M3};

struct buffers {
    uint8_t *in, *packed, *out;
};

static int new_buffers(void **state)
{
    struct buffers *b = ps_malloc(sizeof *b);
    b->in = ps_malloc(4 * MAX_WEIGHTS);
    b->packed = ps_malloc(4 * MAX_WEIGHTS);
    b->out = ps_malloc(4 * MAX_WEIGHTS);
    *state = b;
    return b->in && b->packed && b->out ? 0 : -1;
}

static int free_buffers(void **state)
{
    struct buffers *b = *state;
    ps_free(b->in);
    ps_free(b->packed);
    ps_free(b->out);
    ps_free(b);
    return 0;
}

static double uniform(uint64_t *x)
{
    return ((double)(next_random(x) >> 11) + 0.5) * 0x1p-53;
}

/* Weights of a trained layer's kind: normal, of deviation sigma. */
static void fill_gaussian(uint8_t *out, enum ps_dtype t, size_t n, double sigma, uint64_t seed)
{
    uint64_t x = seed;
    for (size_t i = 0; i < n; i++) {
        float f = (float)(sigma * sqrt(-2 * log(uniform(&x))) * cos(6.283185307179586 * uniform(&x)));
        uint32_t u;
        memcpy(&u, &f, sizeof u);
        uint32_t sign = u >> 31, exp = u >> 23 & 255, man = u & 0x7fffff;
        if (t == PS_F32) {
            memcpy(out + 4 * i, &u, 4);
        } else if (t == PS_BF16) {
            memcpy(out + 2 * i, (uint8_t *)&u + 2, 2);
        } else if (t == PS_F16) { /* cut off: enough for a test */
            uint16_t h = (uint16_t)(sign << 15 | (exp > 112 ? (exp - 112) << 10 | man >> 13 : 0));
            memcpy(out + 2 * i, &h, 2);
        } else { /* scaled to use the whole range */
            exp += 13;
            out[i] = (uint8_t)(sign << 7 |
                               (exp > 120 ? (exp - 120 < 15 ? exp - 120 : 15) << 3 | man >> 20 : 0));
        }
    }
}

/* Packs and unpacks n weights, by way of codec.h and by every table; returns the packed size. */
static size_t round_trip(struct buffers *b, enum ps_codec c, enum ps_dtype t, size_t n)
{
    struct ps_err err = {0};
    size_t bytes = n * ps_dtype_bytes(t), packed = 0;
    uint8_t *out = ps_malloc(bytes); /* of its exact size: the address sanitizer watches its end */
    uint8_t *in = ps_malloc(bytes), *mid = ps_malloc(bytes);
    memcpy(in, b->in, bytes);
    assert_ok(ps_codec_encode(c, t, in, bytes, mid, &packed, &err), &err);
    assert_true(packed > 0 && packed <= bytes);
    assert_true(packed == bytes || (packed % PS_BLOCK_ALIGN == 0 && packed * 100 <= bytes * 97));
    uint8_t *stored = ps_malloc(packed);
    memcpy(stored, mid, packed);
    memset(out, 0xa5, bytes);
    assert_ok(ps_codec_decode(c, t, stored, packed, out, bytes, &err), &err);
    assert_memory_equal(in, out, bytes);
    assert_int_equal(pack_by_all(mid, c, t, in, bytes), packed < bytes ? packed : 0);
    if (packed < bytes) {
        uint8_t *back;
        assert_memory_equal(mid, stored, packed);
        assert_true(unpack_by_all(&back, c, t, stored, packed, bytes));
        assert_memory_equal(in, back, bytes);
        ps_free(back);
    }
    memcpy(b->packed, stored, packed);
    ps_free(stored);
    ps_free(mid);
    ps_free(in);
    ps_free(out);
    return packed;
}

static void every_bf16_pattern(void **state)
{
    struct buffers *b = *state;
    for (size_t k = 0; k < TEST_COUNT(codecs); k++) {
        for (uint32_t i = 0; i < 65536; i++) {
            uint16_t x = (uint16_t)i;
            memcpy(b->in + 2 * i, &x, 2);
        }
        round_trip(b, codecs[k], PS_BF16, 65536);
        /* the same among weights, a sixteenth of them at a time, so that the blocks are coded: NaN payloads and
         * denormals too */
        for (uint32_t r = 0; r < 16; r++) {
            fill_gaussian(b->in, PS_BF16, MAX_WEIGHTS, 0.02, 1 + r);
            for (uint32_t i = 0; i < 4096; i++) {
                uint16_t x = (uint16_t)(i * 16 + r);
                memcpy(b->in + 2 * (i * 31 % MAX_WEIGHTS), &x, 2);
            }
            assert_true(round_trip(b, codecs[k], PS_BF16, MAX_WEIGHTS) < 2 * MAX_WEIGHTS);
        }
    }
}

static void every_length(void **state)
{
    static const size_t lengths[] = {1,     2,     7,     8,     9,     63,    64,
                                     65,    1023,  1025,  4095,  4096,  4097,  8191,
                                     16383, 16384, 16385, 20480, 40001, 131071};
    struct buffers *b = *state;
    for (size_t k = 0; k < TEST_COUNT(codecs) * TEST_COUNT(types); k++) {
        enum ps_codec c = codecs[k % 2];
        enum ps_dtype t = types[k / 2];
        fill_gaussian(b->in, t, MAX_WEIGHTS, 0.02, 3 + k);
        for (size_t i = 0; i < TEST_COUNT(lengths); i++)
            round_trip(b, c, t, lengths[i]);
        for (size_t n = 1; n < 300; n++)
            round_trip(b, c, t, n);
    }
}

static void random_bytes_stay_as_they_are(void **state)
{
    struct buffers *b = *state;
    uint64_t x = 9;
    for (size_t i = 0; i < 4 * MAX_WEIGHTS; i++)
        b->in[i] = (uint8_t)(next_random(&x) >> 24);
    for (size_t k = 0; k < TEST_COUNT(codecs) * TEST_COUNT(types); k++) {
        enum ps_dtype t = types[k / 2];
        assert_int_equal(round_trip(b, codecs[k % 2], t, 50000), 50000 * ps_dtype_bytes(t));
    }
}

static void constants_vanish(void **state)
{
    static const uint8_t bytes[] = {0, 0x3f, 0x80, 0xff};
    struct buffers *b = *state;
    for (size_t k = 0; k < TEST_COUNT(codecs) * TEST_COUNT(types); k++) {
        for (size_t v = 0; v < sizeof bytes; v++) {
            memset(b->in, bytes[v], 4 * MAX_WEIGHTS);
            assert_int_equal(round_trip(b, codecs[k % 2], types[k / 2], 50001), PS_BLOCK_HEAD_BYTES);
        }
    }
}

/* Planes of one value inside others: floats that were bf16, exponents of one value, signs of one. */
static void constant_planes(void **state)
{
    struct buffers *b = *state;
    for (size_t k = 0; k < TEST_COUNT(codecs); k++) {
        enum ps_codec c = codecs[k];
        fill_gaussian(b->in, PS_F32, 60000, 0.02, 5);
        size_t whole = round_trip(b, c, PS_F32, 60000);
        for (size_t i = 0; i < 60000; i++)
            memset(b->in + 4 * i, 0, 2);
        assert_in_range(whole - round_trip(b, c, PS_F32, 60000), 120000, 120032);
        for (size_t i = 0; i < 60000; i++)
            b->in[4 * i + 2] |= 0x80, b->in[4 * i + 3] = 0xbf; /* one exponent, random mantissas */
        assert_in_range(round_trip(b, c, PS_F32, 60000), 60032, 60064);
        fill_gaussian(b->in, PS_F16, 60001, 0.02, 6);
        whole = round_trip(b, c, PS_F16, 60001);
        for (size_t i = 0; i < 60001; i++)
            b->in[2 * i + 1] |= 0x80;
        assert_in_range(whole - round_trip(b, c, PS_F16, 60001), 7501, 7520);
    }
}

/* Exponents that are hard on the coders: two of them, all 256 evenly, a tree of the deepest kind, pieces that
 * differ. */
static void hard_exponents(void **state)
{
    struct buffers *b = *state;
    for (size_t k = 0; k < TEST_COUNT(codecs); k++) {
        for (unsigned kind = 0; kind < 6; kind++) {
            uint64_t x = 11;
            for (size_t i = 0; i < MAX_WEIGHTS; i++) {
                unsigned zeros = (unsigned)__builtin_ctzll(next_random(&x) | 1ull << 40);
                unsigned r = (unsigned)(next_random(&x) >> 40);
                unsigned e = kind == 0   ? i == 77777
                             : kind == 1 ? r % 2
                             : kind == 2 ? r % 256
                             : kind == 3 ? zeros
                             : kind == 4 ? (i < 20000 ? r % 200 : 7)
                                         : (i % 5000 == 0 ? r % 256 : 100 + r % 3);
                /* mantissa and sign of one value: coding the exponents is then all that is gained or lost */
                uint16_t w = (uint16_t)(e << 7 | (kind == 2 ? 0 : r >> 8 & 127));
                memcpy(b->in + 2 * i, &w, 2);
            }
            size_t packed = round_trip(b, codecs[k], PS_BF16, MAX_WEIGHTS);
            /* kind 4 has a piece of over 8 bits a weight, which WH does not code */
            bool coded = kind != 4 || codecs[k] != PS_CODEC_WH;
            assert_true(coded == (packed < 2 * MAX_WEIGHTS));
        }
    }
}

static void ratios(void **state)
{
    struct buffers *b = *state;
    static const struct {
        enum ps_codec codec;
        enum ps_dtype type;
        double at_least;
    } want[] = {
        {PS_CODEC_WH, PS_BF16, 1.49},    {PS_CODEC_XC34, PS_BF16, 1.43},
        {PS_CODEC_WH, PS_F32, 1.19},     {PS_CODEC_XC34, PS_F32, 1.17},
        {PS_CODEC_WH, PS_F16, 1.16},     {PS_CODEC_XC34, PS_F16, 1.12},
        {PS_CODEC_WH, PS_F8_E4M3, 1.17}, {PS_CODEC_XC34, PS_F8_E4M3, 1.08},
    };
    for (size_t i = 0; i < TEST_COUNT(want); i++) {
        fill_gaussian(b->in, want[i].type, MAX_WEIGHTS, 0.02, 17);
        double raw = (double)(MAX_WEIGHTS * ps_dtype_bytes(want[i].type));
        double ratio = raw / (double)round_trip(b, want[i].codec, want[i].type, MAX_WEIGHTS);
        if (ratio < want[i].at_least)
            fail_msg("%s of %s: %.4f instead of %.4f", ps_codec_name(want[i].codec),
                     ps_dtype_name(want[i].type), ratio, want[i].at_least);
    }
}

/* Types without planes, and bytes that are no whole number of weights, are stored as they are. */
static void other_types(void **state)
{
    struct buffers *b = *state;
    struct ps_err err = {0};
    memset(b->in, 0, 4000);
    for (size_t k = 0; k < TEST_COUNT(codecs); k++) {
        assert_int_equal(round_trip(b, codecs[k], PS_I32, 1000), 4000);
        assert_int_equal(round_trip(b, codecs[k], PS_F8_E5M2, 1000), 1000);
        size_t packed = 0;
        assert_ok(ps_codec_encode(codecs[k], PS_BF16, b->in, 1001, b->packed, &packed, &err), &err);
        assert_int_equal(packed, 1001);
    }
}

/* The format is a promise: the same bytes on every machine and in every later version. */
static void bytes_are_fixed(void **state)
{
    static const char *const want[] = {
        "6a48ad5e9d12ca14f9885a50cb38f4dd801de045387081eb7ee6810b479a00bd",
        "a49a5dfa183ebe6cb97eb8fa2e89288f4b74c9f3391980b45f51f7e18b8d4e92"};
    struct buffers *b = *state;
    uint64_t x = 99;
    for (size_t i = 0; i < 70000; i++) { /* integers only: no libm in the promise */
        unsigned e = 120 - (unsigned)__builtin_ctzll(next_random(&x) | 1ull << 30);
        uint16_t w = (uint16_t)(e << 7 | (next_random(&x) >> 20 & 0x807f));
        memcpy(b->in + 2 * i, &w, 2);
    }
    for (size_t k = 0; k < TEST_COUNT(codecs); k++) {
        uint8_t hash[PS_SHA256_BYTES];
        char hex[2 * PS_SHA256_BYTES + 1];
        size_t packed = round_trip(b, codecs[k], PS_BF16, 70000);
        ps_sha256_once(b->packed, packed, hash);
        ps_hex_encode(hash, sizeof hash, hex);
        assert_string_equal(hex, want[k]);
    }
}

static void fixed_small_block(void **state)
{
    /* 64 weights of 1.0 and 2.0 with mantissas 0: worked out by hand from proto/block_format.h */
    struct buffers *b = *state;
    for (size_t i = 0; i < 64; i++) {
        uint16_t w = i % 4 == 3 ? 0x4000 : 0x3f80; /* exponents 128 and 127 */
        memcpy(b->in + 2 * i, &w, 2);
    }
    uint8_t want[32 + 32 + 16] = {
        [0] = PS_BLOCK_VERSION, [1] = PS_BF16,   [2] = PS_CODEC_WH, [4] = 64, [8] = 48,
        [12] = PS_CODEC_CONST, /* rest: 0 */
        [32 + 1] = 2,          /* two codes of one bit */
        [32 + 16] = 127,        [32 + 17] = 128, [32 + 20] = 16 /* where the only piece ends */};
    memset(want + 64, 0x88, 8);
    assert_int_equal(round_trip(b, PS_CODEC_WH, PS_BF16, 64), sizeof want);
    assert_memory_equal(b->packed, want, sizeof want);
}

/* Exactly the tables whose instructions the CPU has can be named, and no wish makes the choice a slower or an
 * impossible one. */
static void tables_of_this_cpu(void **state)
{
    (void)state;
    assert_non_null(table(0));
    assert_null(ps_block_ops_by_name("sse9"));
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("popcnt");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    bool vbmi = avx512 && __builtin_cpu_supports("avx512vbmi") &&
                __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2");
    assert_int_equal(table(1) != NULL, avx2);
    assert_int_equal(table(2) != NULL, avx512);
    assert_int_equal(table(3) != NULL, vbmi);
#endif
    const struct ps_block_ops *best = NULL;
    for (size_t i = 0; i < TEST_COUNT(table_names); i++)
        best = table(i) ? table(i) : best;
    const char *backend = getenv("PENSTOCK_BACKEND");
    if (!backend)
        assert_ptr_equal(ps_block_ops(), best);
    else if (strcmp(backend, "ref") == 0)
        assert_ptr_equal(ps_block_ops(), table(0));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, new_buffers, free_buffers)
static const struct CMUnitTest tests[] = {
    TEST(every_bf16_pattern),
    TEST(every_length),
    TEST(random_bytes_stay_as_they_are),
    TEST(constants_vanish),
    TEST(constant_planes),
    TEST(hard_exponents),
    TEST(ratios),
    TEST(other_types),
    TEST(bytes_are_fixed),
    TEST(fixed_small_block),
    cmocka_unit_test(tables_of_this_cpu),
};

TEST_MAIN(tests)
