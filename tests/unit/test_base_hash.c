/* SHA-256, CRC32C and hex against published vectors and against slower ways to the same number. */
#include "tests/support/test.h"

#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"

static void assert_sha(const void *data, size_t n, const char *want)
{
    uint8_t digest[PS_SHA256_BYTES];
    char hex[2 * PS_SHA256_BYTES + 1];
    ps_sha256_once(data, n, digest);
    ps_hex_encode(digest, sizeof(digest), hex);
    assert_string_equal(hex, want);
}

/* FIPS 180-2, appendix B. */
static const char sha_empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char sha_abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char sha_448[] = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
static const char sha_million_a[] =
    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

static void test_sha256_vectors(void **state)
{
    (void)state;
    assert_sha("", 0, sha_empty);
    assert_sha("abc", 3, sha_abc);
    assert_sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, sha_448);
    char *a = ps_malloc(1000000);
    memset(a, 'a', 1000000);
    assert_sha(a, 1000000, sha_million_a);
    ps_free(a);
}

static void test_sha256_stream(void **state)
{
    (void)state;
    struct ps_sha256 *h = NULL;
    assert_int_equal(ps_sha256_new(&h), 0);
    char a[997];
    memset(a, 'a', sizeof(a));
    for (int round = 0; round < 2; round++) {
        size_t left = 1000000;
        while (left) {
            size_t n = left < sizeof(a) ? left : sizeof(a);
            ps_sha256_update(h, a, n);
            left -= n;
        }
        uint8_t digest[PS_SHA256_BYTES];
        char hex[2 * PS_SHA256_BYTES + 1];
        ps_sha256_final(h, digest);
        ps_hex_encode(digest, sizeof(digest), hex);
        assert_string_equal(hex, sha_million_a);
        ps_sha256_reset(h);
        ps_sha256_update(h, "forgotten", 9);
        ps_sha256_reset(h);
    }
    ps_sha256_free(h);
    ps_sha256_free(NULL);
}

static int new_and_free(void *user)
{
    (void)user;
    struct ps_sha256 *h;
    int rc = ps_sha256_new(&h);
    if (rc == 0)
        ps_sha256_free(h);
    return rc;
}

static void test_sha256_alloc_failure(void **state)
{
    (void)state;
    assert_int_equal(test_every_alloc_failure(new_and_free, NULL), 1);
}

static void *hash_on_thread(void *user)
{
    (void)user;
    uint8_t a[PS_SHA256_BYTES], b[PS_SHA256_BYTES];
    ps_sha256_once("abc", 3, a);
    for (int i = 0; i < 100; i++) {
        ps_sha256_once("abc", 3, b);
        if (memcmp(a, b, sizeof(a)) != 0)
            return user;
    }
    return NULL;
}

static void test_sha256_threads(void **state)
{
    (void)state;
    pthread_t t[4];
    int mark;
    void *bad;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, hash_on_thread, &mark), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], &bad);
        assert_null(bad);
    }
}

/* RFC 3720, B.4, and the customary check value. */
static void test_crc32c_vectors(void **state)
{
    (void)state;
    uint8_t buf[32];
    assert_int_equal(ps_crc32c(0, "", 0), 0);
    assert_int_equal(ps_crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(ps_crc32c_portable(0, "123456789", 9), 0xe3069283);
    memset(buf, 0, sizeof(buf));
    assert_int_equal(ps_crc32c(0, buf, sizeof(buf)), 0x8a9136aa);
    memset(buf, 0xff, sizeof(buf));
    assert_int_equal(ps_crc32c(0, buf, sizeof(buf)), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        buf[i] = (uint8_t)i;
    assert_int_equal(ps_crc32c(0, buf, sizeof(buf)), 0x46dd794e);
    for (int i = 0; i < 32; i++)
        buf[i] = (uint8_t)(31 - i);
    assert_int_equal(ps_crc32c(0, buf, sizeof(buf)), 0x113fdb5c);
}

static uint32_t crc_bit_by_bit(uint32_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
    }
    return ~crc;
}

static void test_crc32c_all_ways_agree(void **state)
{
    (void)state;
    enum { BYTES = 80000 };
    uint8_t *buf = ps_malloc(BYTES);
    uint32_t seed = 1;
    for (size_t i = 0; i < BYTES; i++) {
        seed = seed * 1664525u + 1013904223u;
        buf[i] = (uint8_t)(seed >> 24);
    }
    /* Around the short and the long block of the interleaved way, at every alignment. */
    static const size_t sizes[] = {1,    7,     8,     63,    255,   256,   767,   768,  769,
                                   1543, 24575, 24576, 24577, 25344, 49152, 50000, 73735};
    for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
        for (size_t at = 0; at < 9; at++) {
            uint32_t want = crc_bit_by_bit(0x1234, buf + at, sizes[s]);
            assert_int_equal(ps_crc32c(0x1234, buf + at, sizes[s]), want);
            assert_int_equal(ps_crc32c_portable(0x1234, buf + at, sizes[s]), want);
        }
    }
    uint32_t whole = ps_crc32c(0, buf, BYTES);
    for (size_t cut = 0; cut <= BYTES; cut += 1777)
        assert_int_equal(ps_crc32c(ps_crc32c(0, buf, cut), buf + cut, BYTES - cut), whole);
    buf[40000] ^= 1;
    assert_int_not_equal(ps_crc32c(0, buf, BYTES), whole);
    ps_free(buf);
}

static void test_hex(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x00, 0x1f, 0xa0, 0xff};
    char hex[9];
    uint8_t back[4] = {9, 9, 9, 9};
    ps_hex_encode(bytes, 4, hex);
    assert_string_equal(hex, "001fa0ff");
    assert_int_equal(ps_hex_decode("001fa0f", 7, back, 4), PS_EDATA);
    assert_int_equal(ps_hex_decode("001fa0ff00", 10, back, 4), PS_EDATA);
    assert_int_equal(ps_hex_decode("001fa0fg", 8, back, 4), PS_EDATA);
    assert_int_equal(back[0], 9); /* untouched so far */
    assert_int_equal(ps_hex_decode("001FA0ff", 8, back, 4), 0);
    assert_memory_equal(back, bytes, 4);
    assert_int_equal(ps_hex_decode("", 0, back, 0), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_sha256_vectors),
    cmocka_unit_test(test_sha256_stream),
    cmocka_unit_test(test_sha256_alloc_failure),
    cmocka_unit_test(test_sha256_threads),
    cmocka_unit_test(test_crc32c_vectors),
    cmocka_unit_test(test_crc32c_all_ways_agree),
    cmocka_unit_test(test_hex),
};
TEST_MAIN(tests)
