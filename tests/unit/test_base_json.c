/* The JSON reader, its tree, and the writer: what is accepted, what is refused, limits, and running out of memory. */
#include "tests/support/test.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/host.h"
#include "base/json.h"
#include "base/utf8.h"

static int parse(struct ps_json **out, const char *text, struct ps_err *err)
{
    return ps_json_parse(out, text, strlen(text), NULL, err);
}

static void test_values(void **state)
{
    (void)state;
    struct ps_err err = {0};
    struct ps_json *root = NULL;
    assert_ok(parse(&root,
                    " {\"i\": -7, \"big\": 9223372036854775807, \"min\":-9223372036854775808,"
                    "\"over\":9223372036854775808, \"d\":1.5e3, \"t\":true,\"f\":false,\"n\":null,"
                    "\"s\":\"a\\u00e9\\ud83d\\ude00\\n\\\"\", \"a\":[1,[],{}], \"\":0, \"z\":-0} ",
                    &err),
              &err);
    assert_int_equal(root->kind, PS_JSON_OBJECT);
    assert_int_equal(root->n_children, 12);
    assert_int_equal(ps_json_get(root, "i")->integer, -7);
    assert_true(ps_json_get(root, "i")->number == -7.0);
    assert_true(ps_json_get(root, "big")->integer == INT64_MAX);
    assert_true(ps_json_get(root, "min")->integer == INT64_MIN);
    const struct ps_json *over = ps_json_get(root, "over");
    assert_int_equal(over->kind, PS_JSON_DOUBLE);
    assert_string_equal(over->s, "9223372036854775808");
    assert_true(over->number == 9223372036854775808.0);
    assert_true(ps_json_get(root, "d")->number == 1500.0);
    assert_true(ps_json_get(root, "t")->boolean);
    assert_false(ps_json_get(root, "f")->boolean);
    assert_null(ps_json_get(root, "n")); /* null counts as absent */
    assert_string_equal(ps_json_get(root, "s")->s, "a\xc3\xa9\xf0\x9f\x98\x80\n\"");
    assert_int_equal(ps_json_get(root, "a")->n_children, 3);
    assert_int_equal(ps_json_get(root, "a")->child->next->kind, PS_JSON_ARRAY);
    assert_non_null(ps_json_get(root, ""));
    assert_int_equal(ps_json_get(root, "z")->integer, 0);
    assert_null(ps_json_get(root, "absent"));
    assert_null(ps_json_get(NULL, "x"));
    assert_null(ps_json_get(ps_json_get(root, "i"), "x"));
    ps_json_free(root);
    ps_json_free(NULL);
}

static void test_top_level_scalars(void **state)
{
    (void)state;
    static const char *const texts[] = {"1", "-1.5", "\"x\"", "null", "true", "[]", "{}", " \n0\t"};
    for (size_t i = 0; i < TEST_COUNT(texts); i++) {
        struct ps_err err = {0};
        struct ps_json *root = NULL;
        assert_ok(parse(&root, texts[i], &err), &err);
        ps_json_free(root);
    }
}

static void refuse(const void *bytes, size_t len, const struct ps_json_limits *limits)
{
    struct ps_err err = {0};
    struct ps_json *root = NULL;
    uint64_t live = ps_alloc_live_count();
    int rc = ps_json_parse(&root, bytes, len, limits, &err);
    if (rc != PS_EDATA)
        fail_msg("'%.*s' gives %d, not PS_EDATA", (int)len, (const char *)bytes, rc);
    assert_null(root);
    assert_int_equal(err.code, PS_EDATA);
    assert_non_null(strstr(err.text, "JSON"));
    assert_int_equal(ps_alloc_live_count(), live);
}

static void test_malformed(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{a:1}",
        "{'a':1}",
        "{1:1}",
        "{\"a\":1 \"b\":2}",
        "nul",
        "nulL",
        "True",
        "NaN",
        "Infinity",
        "-Infinity",
        "+1",
        "01",
        "-",
        "-a",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "1_000",
        "\"",
        "\"abc",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\",
        "\\",
        "\"a\nb\"",
        "\"a\tb\"",
        "// c\n1",
        "/* c */ 1",
        "1 /* c */",
        "1 2",
        "{} {}",
        "[] x",
        "[]]",
        "{\"a\":1}}",
        "\xef\xbb\xbf{}",
        "[1e400]",
        "[-1e400]",
        /* surrogates that stand alone */
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\ud800\"",
        "\"\\ud800x\"",
        "\"\\udc00\\ud800\"",
        "\"\\ud83d\\n\\ude00\"",
        "{\"\\udfff\":1}",
        /* UTF-8 that is none */
        "\"\x80\"",
        "\"\xc3\"",
        "\"\xc0\xaf\"",
        "\"\xe0\x80\xaf\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xff\"",
        "\xff",
        "\"\xf0\x9f\x98\"",
        /* keys twice, in every spelling */
        "{\"a\":1,\"a\":1}",
        "{\"a\":1,\"b\":2,\"\\u0061\":3}",
        "[{\"x\":{\"k\":1,\"k\":{}}}]",
        "{\"\":1,\"\":2}",
    };
    for (size_t i = 0; i < TEST_COUNT(texts); i++)
        refuse(texts[i], strlen(texts[i]), NULL);
    refuse("\"a\0b\"", 5, NULL); /* a raw NUL */
    refuse("[1]\0", 4, NULL);
    refuse("{\"a\\u0000b\":1}", 14, NULL); /* in a key of the tree: C strings could not tell it apart */
}

static void test_same_key_in_different_objects(void **state)
{
    (void)state;
    struct ps_err err = {0};
    struct ps_json *root = NULL;
    assert_ok(parse(&root, "{\"a\":{\"a\":{\"a\":1},\"b\":2},\"b\":[{\"a\":1},{\"a\":2}],\"A\":0}",
                    &err),
              &err);
    ps_json_free(root);
}

static void test_nul_inside_a_string(void **state)
{
    (void)state;
    struct ps_err err = {0};
    struct ps_json *root = NULL;
    assert_ok(parse(&root, "{\"s\":\"a\\u0000b\"}", &err), &err);
    assert_int_equal(ps_json_get(root, "s")->len, 3);
    assert_memory_equal(ps_json_get(root, "s")->s, "a\0b", 4);
    const char *s = NULL;
    assert_int_equal(ps_json_get_string(root, "s", NULL, &s, &err), PS_EDATA);
    assert_null(s);
    ps_json_free(root);
}

/* n keys in one object; the last one equals the first where `duplicate` is set. */
static char *many_keys(unsigned n, bool duplicate, size_t *len)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, 64 << 20);
    ps_strbuf_puts(&b, "{");
    for (unsigned i = 0; i < n; i++)
        ps_strbuf_printf(&b, "%s\"key%u\":%u", i ? "," : "", duplicate && i == n - 1 ? 0 : i, i);
    ps_strbuf_puts(&b, "}");
    return ps_strbuf_take(&b, len);
}

static int count_event(void *user, const struct ps_json_event *ev, struct ps_err *err)
{
    (void)err;
    unsigned *counts = user;
    counts[ev->kind]++;
    return 0;
}

static void test_many_keys(void **state)
{
    (void)state;
    static const unsigned sizes[] = {2, 11, 12, 13, 100, 5000, 100000};
    for (size_t i = 0; i < TEST_COUNT(sizes); i++) {
        size_t len;
        struct ps_err err = {0};
        unsigned counts[PS_JSON_KEY + 1] = {0};
        char *text = many_keys(sizes[i], false, &len);
        assert_ok(ps_json_read(text, len, NULL, count_event, counts, &err), &err);
        assert_int_equal(counts[PS_JSON_KEY], sizes[i]);
        assert_int_equal(counts[PS_JSON_INT], sizes[i]);
        ps_free(text);
        text = many_keys(sizes[i], true, &len);
        assert_int_equal(ps_json_read(text, len, NULL, count_event, counts, &err), PS_EDATA);
        assert_non_null(strstr(err.text, "'key0' twice"));
        ps_free(text);
    }
}

static void test_limits(void **state)
{
    (void)state;
    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    struct ps_err err = {0};
    struct ps_json *root = NULL;
    assert_ok(ps_json_parse(&root, deep + 36, 128, NULL, &err), &err); /* 64 is the default */
    ps_json_free(root);
    refuse(deep + 35, 130, NULL);
    assert_ok(ps_json_parse(&root, deep, 200, &(struct ps_json_limits){.max_depth = 100}, &err),
              &err);
    ps_json_free(root);
    refuse(deep + 97, 6, &(struct ps_json_limits){.max_depth = 2});
    refuse("[1,2,3]", 7, &(struct ps_json_limits){.max_bytes = 6});
    refuse("[1,2,3]", 7, &(struct ps_json_limits){.max_values = 3});
    assert_ok(ps_json_parse(&root, "[1,2,3]", 7, &(struct ps_json_limits){.max_values = 4}, &err),
              &err);
    ps_json_free(root);
    refuse("\"abcd\"", 6, &(struct ps_json_limits){.max_string = 3});
    refuse("{\"abcd\":1}", 10, &(struct ps_json_limits){.max_string = 3});
    char number[700];
    memset(number, '1', sizeof(number));
    refuse(number, sizeof(number), NULL);
}

static void test_error_names_the_place(void **state)
{
    (void)state;
    struct ps_err err = {0};
    struct ps_json *root = NULL;
    assert_int_equal(parse(&root, "{\"a\": x}", &err), PS_EDATA);
    assert_non_null(strstr(err.text, "at byte "));
    assert_int_equal(parse(&root, "[1, \"\xff\"]", &err), PS_EDATA);
    assert_string_equal(err.text, "JSON: invalid UTF-8 at byte 5");
    assert_int_equal(parse(&root, "[\"\\ud800\"]", &err), PS_EDATA);
    assert_string_equal(err.text, "JSON: unpaired surrogate escape at byte 2");
}

static int stop_at_third(void *user, const struct ps_json_event *ev, struct ps_err *err)
{
    (void)ev;
    unsigned *n = user;
    return ++*n == 3 ? ps_err_set(err, 4711, "test", "enough") : 0;
}

static void test_callback_stops(void **state)
{
    (void)state;
    struct ps_err err = {0};
    unsigned n = 0;
    assert_int_equal(ps_json_read("[1,2,3,4]", 9, NULL, stop_at_third, &n, &err), 4711);
    assert_int_equal(n, 3);
    assert_string_equal(err.text, "enough");
}

struct trace {
    char text[512];
    size_t len;
};

static int trace_event(void *user, const struct ps_json_event *ev, struct ps_err *err)
{
    (void)err;
    struct trace *t = user;
    t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "%c%u%.*s ",
                               "nbidsOo[]k"[ev->kind], ev -> depth, (int)ev -> len,
                               ev -> s ? ev -> s : "");
    return 0;
}

static void test_event_order_and_depth(void **state)
{
    (void)state;
    static const char text[] = "{\"a\":[1,{\"b\":null}],\"c\":\"x\"}";
    struct trace t = {0};
    struct ps_err err = {0};
    assert_ok(ps_json_read(text, strlen(text), NULL, trace_event, &t, &err), &err);
    assert_string_equal(t.text, "O0 k0a [1 i21 O2 k2b n3 o2 ]1 k0c s1x o0 ");
}

static void test_getters(void **state)
{
    (void)state;
    struct ps_err err = {0};
    struct ps_json *o = NULL;
    assert_ok(parse(&o, "{\"i\":5,\"d\":2.5,\"whole\":1e6,\"huge\":1e300,\"b\":true,\"s\":\"x\",\"n\":null}",
                    &err),
              &err);
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s = NULL;
    assert_int_equal(ps_json_get_int(o, "i", 1, &i, &err), 0);
    assert_int_equal(i, 5);
    assert_int_equal(ps_json_get_int(o, "whole", 1, &i, &err), 0);
    assert_int_equal(i, 1000000);
    assert_int_equal(ps_json_get_int(o, "absent", 9, &i, &err), 0);
    assert_int_equal(i, 9);
    assert_int_equal(ps_json_get_int(o, "n", 8, &i, &err), 0);
    assert_int_equal(i, 8);
    assert_int_equal(ps_json_get_int(o, "d", 1, &i, &err), PS_EDATA);
    assert_int_equal(ps_json_get_int(o, "huge", 1, &i, &err), PS_EDATA);
    assert_int_equal(ps_json_get_int(o, "s", 1, &i, &err), PS_EDATA);
    assert_int_equal(i, 8);
    assert_non_null(strstr(err.text, "\"s\""));
    assert_int_equal(ps_json_get_double(o, "d", 1, &d, &err), 0);
    assert_true(d == 2.5);
    assert_int_equal(ps_json_get_double(o, "i", 1, &d, &err), 0);
    assert_true(d == 5.0);
    assert_int_equal(ps_json_get_double(o, "b", 1, &d, &err), PS_EDATA);
    assert_int_equal(ps_json_get_bool(o, "b", false, &b, &err), 0);
    assert_true(b);
    assert_int_equal(ps_json_get_bool(o, "i", false, &b, &err), PS_EDATA);
    assert_int_equal(ps_json_get_string(o, "s", "y", &s, &err), 0);
    assert_string_equal(s, "x");
    assert_int_equal(ps_json_get_string(o, "absent", "y", &s, &err), 0);
    assert_string_equal(s, "y");
    assert_int_equal(ps_json_get_string(o, "i", "y", &s, &err), PS_EDATA);
    ps_json_free(o);
}

/* Escapes (yajl's decode buffer), depth, enough keys to grow the set, enough nodes for several arena chunks. */
static char *torture_text(size_t *len)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, 1 << 20);
    ps_strbuf_puts(&b, "{\"deep\":[[[[[[[[[[{\"x\":1}]]]]]]]]]],\"keys\":{");
    for (int i = 0; i < 300; i++)
        ps_strbuf_printf(&b, "\"k\\n%d\":\"\\u00e9 %0100d\",", i, i);
    ps_strbuf_puts(&b, "\"last\":null}}");
    return ps_strbuf_take(&b, len);
}

struct text {
    char *s;
    size_t len;
};

static int parse_text(void *user)
{
    const struct text *t = user;
    struct ps_json *root;
    struct ps_err err = {0};
    int rc = ps_json_parse(&root, t->s, t->len, NULL, &err);
    if (rc == 0)
        ps_json_free(root);
    else if (err.code != rc)
        return -1;
    return rc;
}

static void test_alloc_failures(void **state)
{
    (void)state;
    struct text t;
    t.s = torture_text(&t.len);
    assert_int_equal(parse_text(&t), 0); /* first call: the shared locale */
    assert_true(test_every_alloc_failure(parse_text, &t) > 20);
    ps_free(t.s);
    /* yajl also allocates for the text of a syntax error: out of memory or the error, but never a crash. */
    for (int n = 1; n < 30; n++) {
        struct ps_json *root = NULL;
        uint64_t live = ps_alloc_live_count();
        ps_alloc_fail_at(n);
        int rc = ps_json_parse(&root, "[1,2,{\"\\n\":}]", 13, NULL, NULL);
        ps_alloc_fail_at(0);
        assert_true(rc == PS_ENOMEM || rc == PS_EDATA);
        assert_int_equal(ps_alloc_live_count(), live);
    }
}

static void test_every_prefix_is_refused(void **state)
{
    (void)state;
    static const char text[] =
        "{\"a\":[1,-2.5e3,true,null,\"x\\u00e9\\ud83d\\ude00y\"],\"b\\n\":{\"c\":\"\xc3\xa9\"}}";
    for (size_t n = 0; n < strlen(text); n++) {
        char *copy = ps_malloc(n); /* exact size, so that the sanitizer sees a read beyond it */
        memcpy(copy, text, n);
        refuse(copy, n, NULL);
        ps_free(copy);
    }
}

static void test_decimal_comma_locale(void **state)
{
    (void)state;
    /* Where the machine has such a locale. */
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "fr_FR.UTF-8"))
        print_message("no locale with a decimal comma here\n");
    struct ps_err err = {0};
    struct ps_json *root = NULL;
    assert_ok(parse(&root, "1.5", &err), &err);
    assert_true(root->number == 1.5);
    ps_json_free(root);
    struct ps_strbuf b;
    struct ps_json_writer w;
    ps_strbuf_init(&b, 100);
    ps_jw_init(&w, &b);
    ps_jw_double(&w, 1.5);
    assert_string_equal(b.data, "1.5");
    ps_strbuf_deinit(&b);
    setlocale(LC_NUMERIC, "C");
}

static void test_writer(void **state)
{
    (void)state;
    struct ps_strbuf b;
    struct ps_json_writer w;
    ps_strbuf_init(&b, 10000);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kint(&w, "i", INT64_MIN);
    ps_jw_kuint(&w, "u", UINT64_MAX);
    ps_jw_kdouble(&w, "d", 0.1);
    ps_jw_kdouble(&w, "nan", NAN);
    ps_jw_kdouble(&w, "inf", -INFINITY);
    ps_jw_kstring(&w, "s", "q\"\\\n\x01/\xc3\xa9");
    ps_jw_kstring(&w, "none", NULL);
    ps_jw_kbool(&w, "t", true);
    ps_jw_key(&w, "a");
    ps_jw_array(&w);
    ps_jw_int(&w, 1);
    ps_jw_null(&w);
    ps_jw_array(&w);
    ps_jw_array_end(&w);
    ps_jw_object(&w);
    ps_jw_object_end(&w);
    ps_jw_raw(&w, "{\"r\":1}");
    ps_jw_bool(&w, false);
    ps_jw_array_end(&w);
    ps_jw_key(&w, "bad\xff");
    ps_jw_string(&w, "a\0\xed\xa0\x80z\xf0\x9f", 8);
    ps_jw_object_end(&w);
    assert_true(ps_strbuf_ok(&b));
    assert_string_equal(b.data, "{\"i\":-9223372036854775808,\"u\":18446744073709551615,\"d\":0.1,"
                                "\"nan\":null,\"inf\":null,\"s\":\"q\\\"\\\\\\n\\u0001/\xc3\xa9\","
                                "\"none\":null,\"t\":true,\"a\":[1,null,[],{},{\"r\":1},false],"
                                "\"bad\xef\xbf\xbd\":\"a\\u0000\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                                "z\xef\xbf\xbd\"}");
    struct ps_json *root = NULL;
    struct ps_err err = {0};
    assert_ok(ps_json_parse(&root, b.data, b.len, NULL, &err), &err);
    ps_json_free(root);
    ps_strbuf_deinit(&b);
}

static int write_document(void *user)
{
    (void)user;
    struct ps_strbuf b;
    struct ps_json_writer w;
    ps_strbuf_init(&b, 1 << 20);
    ps_jw_init(&w, &b);
    ps_jw_array(&w);
    for (int i = 0; i < 500; i++)
        ps_jw_int(&w, i);
    ps_jw_array_end(&w);
    int rc = ps_strbuf_ok(&b) ? 0 : PS_ENOMEM;
    ps_strbuf_deinit(&b);
    return rc;
}

static void test_writer_alloc_failures(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(write_document, NULL) >= 5);
}

static void test_utf8_steps(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        size_t n, step;
        bool valid;
    } cases[] = {
        {"a", 1, 1, true},
        {"\xc3\xa9", 2, 2, true},
        {"\xc3", 1, 1, false},
        {"\xc1\xbf", 2, 1, false},
        {"\xe2\x82\xac", 3, 3, true},
        {"\xe2\x82", 2, 2, false},
        {"\xe2\x82x", 3, 2, false},
        {"\xed\x9f\xbf", 3, 3, true},
        {"\xed\xa0\x80", 3, 1, false},
        {"\xf0\x9f\x98\x80", 4, 4, true},
        {"\xf0\x9f\x98", 3, 3, false},
        {"\xf0\x8f\xbf\xbf", 4, 1, false},
        {"\xf4\x8f\xbf\xbf", 4, 4, true},
        {"\xf4\x90\x80\x80", 4, 1, false},
        {"\xf5\x80\x80\x80", 4, 1, false},
        {"\x80", 1, 1, false},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        bool valid = !cases[i].valid;
        assert_int_equal(ps_utf8_step(cases[i].s, cases[i].n, &valid), cases[i].step);
        assert_int_equal(valid, cases[i].valid);
        assert_int_equal(ps_utf8_check(cases[i].s, cases[i].n) == cases[i].n, cases[i].valid);
    }
    assert_int_equal(ps_utf8_check("0123456789abcde\xff", 16), 15);
    assert_int_equal(ps_utf8_check("01234567\xc3\xa9 89abcdef", 18), 18);
}

/* Real documents, where they are at hand: a big index and a tokenizer with a vocabulary of 128 thousand keys. */
static void test_real_documents(void **state)
{
    (void)state;
    static const char *const names[] = {"models/TinyStories-656K/tokenizer.json",
                                        "models/TinyStories-656K/config.json"};
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        char path[4096];
        if (!test_data_path(path, sizeof(path), names[i]))
            skip();
        char *text;
        size_t len;
        struct ps_err err = {0};
        unsigned counts[PS_JSON_KEY + 1] = {0};
        assert_ok(ps_file_read(&text, &len, path, 100 << 20, &err), &err);
        assert_ok(ps_json_read(text, len, NULL, count_event, counts, &err), &err);
        assert_true(counts[PS_JSON_KEY] > 5);
        ps_free(text);
    }
}

static void test_pythons_words(void **state)
{
    (void)state;
    static const char text[] =
        "{\"a\":[0.0, Infinity,-Infinity ],\"NaN \\\" NaN\":NaN,\"b\":\"Infinity\\\\\",\"c\":1}";
    const struct ps_json_limits words = {.python_words = true};
    struct ps_err err = {0};
    struct ps_json *root = NULL;
    assert_int_equal(ps_json_parse(&root, text, strlen(text), NULL, &err), PS_EDATA);
    assert_ok(ps_json_parse(&root, text, strlen(text), &words, &err), &err);
    const struct ps_json *a = ps_json_get(root, "a")->child;
    double number = 0;
    assert_true(a->kind == PS_JSON_DOUBLE && a->number == 0);
    assert_string_equal(a->next->s, "Infinity");
    assert_string_equal(a->next->next->s, "-Infinity");
    assert_string_equal(ps_json_get(root, "NaN \" NaN")->s, "NaN");
    assert_string_equal(ps_json_get(root, "b")->s, "Infinity\\");
    assert_int_equal(ps_json_get_double(root, "NaN \" NaN", 1, &number, &err),
                     PS_EDATA); /* no number comes of it */
    assert_int_equal(ps_json_get(root, "c")->integer, 1);
    ps_json_free(root);
    static const char *const wrong[] = {"[Nan]",       "[NaNs]",   "[infinity]", "[Infinit",
                                        "[+Infinity]", "{NaN:1}1", "[\"NaN"};
    for (size_t i = 0; i < TEST_COUNT(wrong); i++)
        assert_int_equal(ps_json_parse(&root, wrong[i], strlen(wrong[i]), &words, &err), PS_EDATA);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_values),
    cmocka_unit_test(test_top_level_scalars),
    cmocka_unit_test(test_malformed),
    cmocka_unit_test(test_same_key_in_different_objects),
    cmocka_unit_test(test_nul_inside_a_string),
    cmocka_unit_test(test_many_keys),
    cmocka_unit_test(test_limits),
    cmocka_unit_test(test_error_names_the_place),
    cmocka_unit_test(test_callback_stops),
    cmocka_unit_test(test_event_order_and_depth),
    cmocka_unit_test(test_getters),
    cmocka_unit_test(test_alloc_failures),
    cmocka_unit_test(test_every_prefix_is_refused),
    cmocka_unit_test(test_decimal_comma_locale),
    cmocka_unit_test(test_writer),
    cmocka_unit_test(test_writer_alloc_failures),
    cmocka_unit_test(test_utf8_steps),
    cmocka_unit_test(test_pythons_words),
    cmocka_unit_test(test_real_documents),
};
TEST_MAIN(tests)
