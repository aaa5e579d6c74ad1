/* Sizes as users write and read them. */
#include "tests/support/test.h"

#include <string.h>

#include "base/size.h"

static void test_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"0", 0},
        {"12", 12},
        {"12B", 12},
        {"1K", 1024},
        {"1k", 1024},
        {"1KB", 1024},
        {"1KiB", 1024},
        {"3M", 3ull << 20},
        {"20G", 20ull << 30},
        {"20gib", 20ull << 30},
        {"1.5G", 3ull << 29},
        {"0.5K", 512},
        {"1.0001K", 1024},
        {"1.123456789K", 1150}, /* 1150.4 */
        {"2T", 2ull << 40},
        {"16777215T", 16777215ull << 40},
        {"18446744073709551615", UINT64_MAX},
        {"007", 7},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_size s;
        struct ps_err err = {0};
        assert_ok(ps_size_parse(&s, cases[i].text, "--disk", &err), &err);
        assert_int_equal(s.kind, PS_SIZE_BYTES);
        assert_int_equal(s.bytes, cases[i].bytes);
    }
}

static void test_words_and_percent(void **state)
{
    (void)state;
    struct ps_size s;
    static const char *const nothing[] = {"0", "0K", "0%"}, *const some[] = {"1", "0.5%", "min",
                                                                             "all", ""};
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        assert_int_equal(ps_size_parse(&s, nothing[i], "x", NULL), 0);
        assert_true(ps_size_is_nothing(&s));
    }
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        assert_int_equal(ps_size_parse(&s, some[i], "x", NULL), 0);
        assert_false(ps_size_is_nothing(&s));
    }
    assert_int_equal(ps_size_parse(&s, NULL, "x", NULL), 0);
    assert_int_equal(s.kind, PS_SIZE_DEFAULT);
    assert_int_equal(ps_size_parse(&s, "", "x", NULL), 0);
    assert_int_equal(s.kind, PS_SIZE_DEFAULT);
    assert_int_equal(ps_size_parse(&s, "min", "x", NULL), 0);
    assert_int_equal(s.kind, PS_SIZE_MIN);
    assert_int_equal(ps_size_parse(&s, "ALL", "x", NULL), 0);
    assert_int_equal(s.kind, PS_SIZE_ALL);
    assert_int_equal(ps_size_parse(&s, "25%", "x", NULL), 0);
    assert_int_equal(s.kind, PS_SIZE_PERCENT);
    assert_true(s.percent == 25.0);
    assert_int_equal(ps_size_parse(&s, "12.5%", "x", NULL), 0);
    assert_true(s.percent == 12.5);
    assert_int_equal(ps_size_parse(&s, "100000%", "x", NULL), 0);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "-1",
        "+1",
        " 1",
        "1 ",
        "1 G",
        "G",
        "1.G",
        ".5G",
        "1.5",
        "1.5B",
        "1X",
        "1GG",
        "1Gi",
        "1KiBs",
        "0x10",
        "1e3",
        "1,5G",
        "100001%",
        "5%%",
        "minimum",
        "16777216T",
        "18446744073709551616",
        "99999999999999999999999G",
        "nan",
        "%",
        "1.2.3G",
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_size s = {.bytes = 77};
        struct ps_err err = {0};
        assert_int_equal(ps_size_parse(&s, cases[i], "--disk", &err), PS_EUSAGE);
        assert_int_equal(s.bytes, 77);
        assert_non_null(strstr(err.text, "--disk"));
    }
}

static void test_format(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {12, "12 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {1536, "1.5 KiB"},
        {820 << 10, "820 KiB"},
        {(1023ull << 10) + 900, "1.0 MiB"}, /* not 1024 KiB */
        {3ull << 29, "1.5 GiB"},
        {99ull << 40, "99.0 TiB"},
        {100ull << 40, "100 TiB"},
        {UINT64_MAX, "16.0 EiB"},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        char out[24];
        assert_string_equal(ps_size_format(out, sizeof(out), cases[i].bytes), cases[i].text);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_bytes),
    cmocka_unit_test(test_words_and_percent),
    cmocka_unit_test(test_refused),
    cmocka_unit_test(test_format),
};
TEST_MAIN(tests)
