/* Decoding of stored blocks on a device, against what was packed and against the CPU's decoder: all codecs and
 * types, odd lengths, rows that leave blocks at odd addresses, more blocks than a launch holds, damaged blocks. */
#include "tests/gpu/test_device.h"

#include "kernels/codec/codec.h"
#include "tests/support/test.h"
#include "tests/unit/test_kernels_codec_common.h"

static const enum ps_codec codecs[] = {PS_CODEC_WH, PS_CODEC_XC34};
static const enum ps_dtype types[] = {PS_BF16, PS_F16, PS_F32, PS_F8_E4M3};

enum { GUARD = 512, GUARD_BYTE = 0x5a };

/* An extent: raw and stored bytes, one block behind the other. */
struct extent {
    enum ps_codec codec;
    enum ps_dtype type;
    uint8_t *raw, *stored;
    uint32_t *in_bytes;
    uint32_t n_blocks;
    size_t block_bytes, raw_bytes, stored_bytes;
};

static void extent_pack(struct extent *e)
{
    e->n_blocks = (uint32_t)((e->raw_bytes + e->block_bytes - 1) / e->block_bytes);
    e->in_bytes = malloc(e->n_blocks * sizeof *e->in_bytes);
    e->stored = malloc(e->raw_bytes);
    e->stored_bytes = 0;
    for (uint32_t b = 0; b < e->n_blocks; b++) {
        size_t at = b * e->block_bytes, left = e->raw_bytes - at, packed = 0;
        assert_int_equal(ps_codec_encode(e->codec, e->type, e->raw + at,
                                         left < e->block_bytes ? left : e->block_bytes,
                                         e->stored + e->stored_bytes, &packed, NULL),
                         0);
        e->in_bytes[b] = (uint32_t)packed;
        e->stored_bytes += packed;
    }
}

static void extent_new(struct extent *e, enum ps_codec c, enum ps_dtype t, size_t block_weights,
                       size_t weights, uint64_t *x)
{
    size_t each = ps_dtype_bytes(t);
    *e = (struct extent){.codec = c,
                         .type = t,
                         .raw = malloc(weights * each),
                         .block_bytes = block_weights * each,
                         .raw_bytes = weights * each};
    fill_weights(e->raw, t, weights, x);
}

static void extent_free(struct extent *e)
{
    free(e->raw);
    free(e->stored);
    free(e->in_bytes);
}

/* Decodes on the device to `shift` bytes behind a boundary; what comes out into `got`. */
static void device_decode(struct td *td, const struct extent *e, size_t shift, uint8_t *got)
{
    size_t around = e->raw_bytes + shift + 2 * GUARD;
    uint8_t *host = malloc(around), *in = td_put(td, e->stored, e->stored_bytes);
    memset(host, GUARD_BYTE, around);
    uint8_t *out = td_put(td, host, around);
    struct ps_device_blocks b = {.codec = e->codec,
                                 .dtype = e->type,
                                 .in = in,
                                 .out = out + GUARD + shift,
                                 .in_bytes = e->in_bytes,
                                 .n_blocks = e->n_blocks,
                                 .block_bytes = e->block_bytes,
                                 .raw_bytes = e->raw_bytes};
    td_ok(td, td->api->decode(td->d, &b));
    td_ok(td, td->api->copy_out(td->d, PS_STREAM_COMPUTE, host, out, around));
    td->api->sync(td->d, NULL); /* of a damaged block: for the caller to see */
    for (size_t i = 0; i < around; i++)
        if (i < GUARD + shift || i >= GUARD + shift + e->raw_bytes)
            assert_int_equal(host[i], GUARD_BYTE);
    memcpy(got, host + GUARD + shift, e->raw_bytes);
    free(host);
    td_free_all(td);
}

static void check_extent(struct td *td, struct extent *e, size_t shift)
{
    uint8_t *got = malloc(e->raw_bytes);
    extent_pack(e);
    device_decode(td, e, shift, got);
    td_sync(td);
    for (size_t i = 0; i < e->raw_bytes; i++)
        if (got[i] != e->raw[i])
            fail_msg("%s of %s, %zu bytes in blocks of %zu: byte %zu is %02x instead of %02x",
                     ps_codec_name(e->codec), ps_dtype_name(e->type), e->raw_bytes, e->block_bytes,
                     i, got[i], e->raw[i]);
    free(got);
    extent_free(e);
}

static void says_what_it_takes(void **state)
{
    struct td *td = *state;
    struct ps_device_blocks b = {.codec = PS_CODEC_LZ4, .dtype = PS_BF16, .n_blocks = 1};
    uint32_t bytes = 64;
    b.in = td_alloc(td, 64);
    b.out = td_alloc(td, 64);
    b.in_bytes = &bytes;
    b.block_bytes = b.raw_bytes = 64;
    assert_int_equal(td->info.codecs, 1u << PS_CODEC_WH | 1u << PS_CODEC_XC34);
    assert_int_equal(td->api->decode(td->d, &b), PS_EUNSUPPORTED);
    b.codec = PS_CODEC_WH;
    b.dtype = PS_I8;
    assert_int_equal(td->api->decode(td->d, &b), PS_EUNSUPPORTED);
    td_sync(td);
}

static void every_type(void **state)
{
    struct td *td = *state;
    uint64_t x = 1;
    for (size_t k = 0; k < TEST_COUNT(codecs) * TEST_COUNT(types); k++) {
        struct extent e;
        size_t n = td_size(td, 21111, 131072);
        extent_new(&e, codecs[k % 2], types[k / 2], n, td_size(td, 40000, 4000000), &x);
        check_extent(td, &e, 0);
    }
}

static void every_length(void **state)
{
    static const size_t lengths[] = {300,  1023, 1024,  1025,  4088,  4095,  4096,
                                     4097, 8191, 12289, 16383, 16384, 16385, 32769};
    struct td *td = *state;
    uint64_t x = 2;
    for (size_t i = 0; i < TEST_COUNT(lengths); i++) {
        for (size_t k = 0; k < TEST_COUNT(codecs); k++) {
            struct extent e;
            extent_new(&e, codecs[k], PS_BF16, lengths[i], lengths[i], &x);
            check_extent(td, &e, 0);
        }
    }
}

/* Rows of odd lengths: a bare block leaves the next at an odd address, and each block's output begins at one. */
static void odd_addresses(void **state)
{
    struct td *td = *state;
    uint64_t x = 3;
    for (size_t k = 0; k < TEST_COUNT(codecs) * TEST_COUNT(types); k++) {
        struct extent e;
        size_t each = ps_dtype_bytes(types[k / 2]), block = 4097;
        extent_new(&e, codecs[k % 2], types[k / 2], block, 4 * block + 777, &x);
        for (size_t i = 0; i < block * each; i++) /* no coding for the second block */
            e.raw[block * each + i] = (uint8_t)(next_random(&x) >> 24);
        check_extent(td, &e, each);
    }
}

static void constants_and_bare_planes(void **state)
{
    struct td *td = *state;
    uint64_t x = 4;
    for (size_t k = 0; k < TEST_COUNT(codecs) * 5; k++) {
        struct extent e;
        enum ps_dtype t = k / 2 < 2   ? PS_BF16
                          : k / 2 < 3 ? PS_F32
                          : k / 2 < 4 ? PS_F16
                                      : PS_F8_E4M3;
        size_t n = 17000;
        extent_new(&e, codecs[k % 2], t, n, n, &x);
        if (k / 2 == 0) { /* one value */
            memset(e.raw, 0x3f, e.raw_bytes);
        } else if (k / 2 == 1) { /* exponents all over, mantissas of one value */
            for (size_t i = 0; i < n; i++) {
                uint16_t w = (uint16_t)((next_random(&x) >> 24 & 255) << 7 | 5);
                memcpy(e.raw + 2 * i, &w, 2);
            }
        } else if (t == PS_F32) { /* was bf16 */
            for (size_t i = 0; i < n; i++)
                memset(e.raw + 4 * i, 0, 2);
        } else if (t == PS_F16) { /* signs and a mantissa bit of one value */
            for (size_t i = 0; i < n; i++)
                e.raw[2 * i + 1] = (uint8_t)((e.raw[2 * i + 1] | 0x80) & ~1);
        } else {
            memset(e.raw, 0xb7, e.raw_bytes);
        }
        check_extent(td, &e, 0);
    }
}

/* A launch holds 64 blocks. */
static void many_blocks(void **state)
{
    struct td *td = *state;
    uint64_t x = 5;
    for (size_t k = 0; k < TEST_COUNT(codecs); k++) {
        struct extent e;
        size_t block = td_size(td, 640, 131072);
        extent_new(&e, codecs[k], PS_BF16, block, 130 * block + 333, &x);
        check_extent(td, &e, 0);
    }
}

/* ---- Damaged blocks: each time on a device of its own, since what goes wrong sticks ---- */

static void check_damaged(const struct td *td, const struct extent *e)
{
    struct td own = *td;
    struct ps_err err = {0};
    struct ps_device_options o = {.index = 0, .n_marks = 1};
    uint8_t *got = malloc(e->raw_bytes), *want = malloc(e->raw_bytes);
    own.n_allocs = 0;
    assert_ok(own.api->open(&own.d, &o, &err), &err);
    device_decode(&own, e, 0, got);
    int cpu =
        ps_codec_decode(e->codec, e->type, e->stored, e->stored_bytes, want, e->raw_bytes, NULL);
    int rc = own.api->sync(own.d, &err);
    assert_true(cpu == 0 || cpu == PS_EDATA);
    assert_int_equal(rc, cpu);
    if (rc == 0)
        assert_memory_equal(got, want, e->raw_bytes);
    else
        assert_non_null(strstr(err.text, "block 0"));
    own.api->close(own.d);
    free(got);
    free(want);
}

static void damaged_blocks(void **state)
{
    struct td *td = *state;
    uint64_t x = 6;
    size_t rounds = td->real ? 2 : 60;
    for (size_t k = 0; k < TEST_COUNT(codecs) * TEST_COUNT(types); k++) {
        struct extent e;
        size_t weights = k < 2 ? 20000 : 4500; /* two pieces, or one */
        extent_new(&e, codecs[k % 2], types[k / 2], weights, weights, &x);
        extent_pack(&e);
        assert_true(e.stored_bytes < e.raw_bytes);
        uint8_t *good = malloc(e.stored_bytes);
        memcpy(good, e.stored, e.stored_bytes);
        size_t whole = e.stored_bytes, front = 160;
        for (size_t i = 0; i < rounds; i++) {
            memcpy(e.stored, good, whole);
            size_t span = i % 2 ? front : whole;
            for (size_t n = i % 7; n > 0; n--)
                e.stored[next_random(&x) % span] ^= (uint8_t)(1u << next_random(&x) % 8);
            if (i % 7 == 0)
                e.stored_bytes = 1 + next_random(&x) % whole;
            e.in_bytes[0] = (uint32_t)e.stored_bytes;
            check_damaged(td, &e);
            e.stored_bytes = whole;
        }
        free(good);
        extent_free(&e);
    }
}

/* The number in the message is that of the extent, over launches too. */
static void names_the_block(void **state)
{
    const struct td *td = *state;
    struct td own = *td;
    struct ps_err err = {0};
    struct ps_device_options o = {.index = 0, .n_marks = 1};
    struct extent e;
    uint64_t x = 7;
    extent_new(&e, PS_CODEC_WH, PS_BF16, 640, 70 * 640, &x);
    extent_pack(&e);
    size_t at = 0;
    for (size_t i = 0; i < 67; i++)
        at += e.in_bytes[i];
    e.stored[at] ^= 1;
    uint8_t *got = malloc(e.raw_bytes);
    own.n_allocs = 0;
    assert_ok(own.api->open(&own.d, &o, &err), &err);
    device_decode(&own, &e, 0, got);
    assert_int_equal(own.api->sync(own.d, &err), PS_EDATA);
    assert_non_null(strstr(err.text, "block 67 "));
    for (size_t i = 0; i < e.raw_bytes; i++) /* the others are what they were */
        if (i / e.block_bytes != 67)
            assert_int_equal(got[i], e.raw[i]);
    own.api->close(own.d);
    free(got);
    extent_free(&e);
}

TD_MAIN(cmocka_unit_test(says_what_it_takes), cmocka_unit_test(every_type),
        cmocka_unit_test(every_length), cmocka_unit_test(odd_addresses),
        cmocka_unit_test(constants_and_bare_planes), cmocka_unit_test(many_blocks),
        cmocka_unit_test(damaged_blocks), cmocka_unit_test(names_the_block))
