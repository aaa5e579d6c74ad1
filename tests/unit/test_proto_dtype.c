/* Element types, names of objects, text from remote bytes. */
#include <string.h>

#include "proto/dtype.h"
#include "proto/source.h"
#include "proto/text.h"
#include "tests/support/test.h"

static void names_and_sizes_agree(void **state)
{
    (void)state;
    static const struct {
        enum ps_dtype t;
        const char *name;
        size_t bytes;
    } want[] = {
        {PS_F32, "F32", 4},         {PS_F16, "F16", 2},         {PS_BF16, "BF16", 2},
        {PS_F64, "F64", 8},         {PS_I64, "I64", 8},         {PS_F8_E4M3, "F8_E4M3", 1},
        {PS_F8_E5M2, "F8_E5M2", 1}, {PS_F8_E8M0, "F8_E8M0", 1}, {PS_I32, "I32", 4},
        {PS_I16, "I16", 2},         {PS_I8, "I8", 1},           {PS_U64, "U64", 8},
        {PS_U32, "U32", 4},         {PS_U16, "U16", 2},         {PS_U8, "U8", 1},
        {PS_BOOL, "BOOL", 1},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        assert_string_equal(ps_dtype_name(want[i].t), want[i].name);
        assert_int_equal(ps_dtype_bytes(want[i].t), want[i].bytes);
        assert_int_equal(ps_dtype_from_name(want[i].name, strlen(want[i].name)), want[i].t);
    }
}

/* They have names to be shown, but no element size, and no header may name them. */
static void block_types_are_no_elements(void **state)
{
    (void)state;
    static const struct {
        enum ps_dtype t;
        const char *name;
    } want[] = {{PS_Q8B64, "Q8B64"}, {PS_NF4B64, "NF4B64"}, {PS_MXFP4, "MXFP4"}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        assert_string_equal(ps_dtype_name(want[i].t), want[i].name);
        assert_int_equal(ps_dtype_bytes(want[i].t), 0);
        assert_int_equal(ps_dtype_from_name(want[i].name, strlen(want[i].name)), PS_DTYPE_NONE);
    }
}

static void unknown_types_are_unknown(void **state)
{
    (void)state;
    assert_int_equal(ps_dtype_bytes(PS_DTYPE_NONE), 0);
    assert_int_equal(ps_dtype_bytes((enum ps_dtype)20), 0);
    assert_int_equal(ps_dtype_bytes((enum ps_dtype) - 1), 0);
    assert_string_equal(ps_dtype_name((enum ps_dtype)400000000), "?");
    assert_int_equal(ps_dtype_from_name("f32", 3), PS_DTYPE_NONE);
    assert_int_equal(ps_dtype_from_name("F32x", 4), PS_DTYPE_NONE);
    assert_int_equal(ps_dtype_from_name("F3", 2), PS_DTYPE_NONE);
    assert_int_equal(ps_dtype_from_name("", 0), PS_DTYPE_NONE);
    assert_string_equal(ps_codec_name(PS_CODEC_RAW), "raw");
    assert_string_equal(ps_codec_name(PS_CODEC_LZ4), "lz4");
    assert_string_equal(ps_codec_name(PS_CODEC_CONST), "const");
    assert_string_equal(ps_codec_name(PS_CODEC_WH), "wh");
    assert_string_equal(ps_codec_name(PS_CODEC_XC34), "xc34");
    assert_string_equal(ps_codec_name((enum ps_codec)99), "?");
    assert_int_equal(ps_codec_from_name("xc34"), PS_CODEC_XC34);
    assert_int_equal(ps_codec_from_name("const"), -1); /* a plane's, not an extent's */
    assert_int_equal(ps_codec_from_name(""), -1);
    assert_true(ps_codec_known(PS_CODEC_WH));
    assert_false(ps_codec_known(PS_CODEC_CONST));
    assert_false(ps_codec_known(5));
}

static bool name_ok(const char *s)
{
    return ps_name_ok(s, strlen(s));
}

static void good_object_names(void **state)
{
    (void)state;
    static const char *const good[] = {
        "config.json",         "shards/ab.shard",        "a",     "...",    "a/..b",
        "model 1.safetensors", "\xc3\xa9t\xc3\xa9.json", "a%2fb", ".hidden"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(name_ok(good[i]));
}

static void bad_object_names(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "/",
                                      "/a",
                                      "a/",
                                      "a//b",
                                      "..",
                                      "../a",
                                      "a/../b",
                                      "a/..",
                                      ".",
                                      "./a",
                                      "a/./b",
                                      "a\\b",
                                      "a\nb",
                                      "a\x7f",
                                      "\x1b[0m",
                                      "\xff",
                                      "\xc0\xaf",
                                      "a\xc2",
                                      "a\xc2\x85",
                                      "\xed\xa0\x80",
                                      "\xf4\x90\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(name_ok(bad[i]));
    assert_false(ps_name_ok("a\0b", 3));
}

static void lengths_of_object_names(void **state)
{
    (void)state;
    char s[1100];
    memset(s, 'a', sizeof s);
    assert_true(ps_name_ok(s, 255));
    assert_false(ps_name_ok(s, 256));
    for (size_t i = 200; i < sizeof s; i += 201)
        s[i] = '/';
    assert_true(ps_name_ok(s, 1024));
    assert_false(ps_name_ok(s, 1025));
}

static void web_pages_are_recognised(void **state)
{
    (void)state;
    assert_true(ps_text_is_markup("<!doctype html>", 15));
    assert_true(ps_text_is_markup("\xef\xbb\xbf\r\n <html>", 12));
    assert_false(ps_text_is_markup("{}", 2));
    assert_false(ps_text_is_markup("", 0));
    assert_false(ps_text_is_markup("  ", 2));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(names_and_sizes_agree),
    cmocka_unit_test(unknown_types_are_unknown),
    cmocka_unit_test(block_types_are_no_elements),
    cmocka_unit_test(good_object_names),
    cmocka_unit_test(bad_object_names),
    cmocka_unit_test(lengths_of_object_names),
    cmocka_unit_test(web_pages_are_recognised),
};

TEST_MAIN(tests)
