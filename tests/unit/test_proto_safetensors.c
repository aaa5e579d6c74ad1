/* The safetensors header reader: what must load, what must be refused, and whatever else may come. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/host.h"
#include "base/json.h"
#include "proto/safetensors.h"
#include "tests/support/test.h"

struct text {
    char bytes[4096];
    size_t len;
};

/* A header of the given JSON. */
static struct text header_of(const char *json)
{
    struct text t = {.len = 8 + strlen(json)};
    uint64_t n = strlen(json);
    for (int i = 0; i < 8; i++)
        t.bytes[i] = (char)(n >> (8 * i));
    memcpy(t.bytes + 8, json, n);
    return t;
}

static int parse_json(const char *json, struct ps_err *err)
{
    struct text t = header_of(json);
    struct ps_st_header *h = NULL;
    int rc = ps_st_parse(&h, t.bytes, t.len, 0, err);
    assert_true((rc == 0) == (h != NULL));
    ps_st_free(h);
    return rc;
}

static void reads_tensors_in_file_order(void **state)
{
    (void)state;
    struct text t =
        header_of("{\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
                  "\"__metadata__\":{\"format\":\"pt\"},"
                  "\"z\":{\"data_offsets\":[4,4],\"shape\":[0,9],\"dtype\":\"I64\"},"
                  "\"a.\\u00e9\":{\"shape\":[],\"dtype\":\"I32\",\"data_offsets\":[0,4]}}");
    struct ps_st_header *h;
    struct ps_err err = {0};
    assert_ok(ps_st_parse(&h, t.bytes, t.len, t.len + 28, &err), &err);
    assert_int_equal(h->n_tensors, 3);
    assert_int_equal(h->header_bytes, t.len);
    assert_int_equal(h->file_bytes, t.len + 28);
    assert_string_equal(h->tensors[0].name, "a.\xc3\xa9");
    assert_int_equal(h->tensors[0].n_dims, 0);
    assert_int_equal(h->tensors[0].begin, t.len);
    assert_string_equal(h->tensors[1].name, "z");
    assert_int_equal(h->tensors[1].end, h->tensors[1].begin);
    assert_string_equal(h->tensors[2].name, "b");
    assert_int_equal(h->tensors[2].dtype, PS_F32);
    assert_int_equal(h->tensors[2].shape[1], 3);
    assert_int_equal(h->tensors[2].begin, t.len + 4);
    assert_int_equal(h->tensors[2].end, t.len + 28);
    ps_st_free(h);
}

static void accepts(void **state)
{
    (void)state;
    static const char *const good[] = {
        "{}",
        "\t\n{}\r ",
        "{\"__metadata__\":null}",
        "{\"__metadata__\":{}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3],\"extra\":{\"x\":[1,{\"y\":"
        "2}]},\"n\":null}}",
        "{\"\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[0,1]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[0,18446744073709551615],\"data_offsets\":[0,0]}}",
    };
    for (size_t i = 0; i < TEST_COUNT(good); i++) {
        struct ps_err err = {0};
        assert_ok(parse_json(good[i], &err), &err);
    }
}

static void refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{}{}",
        "{} x",
        "{\"a\":1}",
        "{\"a\":[]}",
        "{\"a\":{}}",
        "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":{\"a\":{}}}",
        "{\"__metadata__\":[]}",
        "{\"__metadata__\":\"x\"}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,3]}}",
        "{\"a\":{\"shape\":[3],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"Q8B64\",\"shape\":[3],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"MXFP4\",\"shape\":[3],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"u8\",\"shape\":[3],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":7,\"shape\":[3],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":3,\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[\"3\"],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[[3]],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3.0],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3e0],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[-3],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[-0],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[3,0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
        "{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
        "{\"a\":{\"dtype\":\"F64\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551615],\"data_offsets\":[0,"
        "18446744073709551615]}}",
        "{\"a\xff\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct ps_err err = {0};
        if (parse_json(bad[i], &err) != PS_EDATA)
            fail_msg("not refused as damaged: %s (%s)", bad[i], err.text);
        assert_int_equal(err.code, PS_EDATA);
    }
    assert_int_equal(parse_json("{\"a\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[0,1]}}",
                                NULL),
                     PS_EUNSUPPORTED);
    assert_int_equal(
        parse_json(
            "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", NULL),
        PS_EUNSUPPORTED);
}

static void header_length_is_checked_first(void **state)
{
    (void)state;
    uint64_t n = 0;
    const uint8_t max[8] = {0x00, 0xe1, 0xf5, 0x05}, over[8] = {0x01, 0xe1, 0xf5, 0x05},
                  absurd[8] = {2, 0, 0, 0, 0, 0, 0, 0x80};
    assert_int_equal(ps_st_header_bytes(&n, max, 8, 0, NULL), 0);
    assert_int_equal(n, 100000008);
    assert_int_equal(ps_st_header_bytes(&n, over, 8, 0, NULL), PS_EDATA);
    assert_int_equal(ps_st_header_bytes(&n, absurd, 8, 0, NULL), PS_EDATA);
    assert_int_equal(ps_st_header_bytes(&n, max, 7, 0, NULL), PS_EDATA);
    assert_int_equal(ps_st_header_bytes(&n, max, 8, 100000007, NULL), PS_EDATA);
    assert_int_equal(n, 100000008);
}

static void file_size_must_be_the_implied_one(void **state)
{
    (void)state;
    struct text t = header_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}");
    struct ps_st_header *h = NULL;
    assert_int_equal(ps_st_parse(&h, t.bytes, t.len, t.len + 2, NULL), PS_EDATA);
    assert_int_equal(ps_st_parse(&h, t.bytes, t.len, t.len + 4, NULL), PS_EDATA);
    assert_int_equal(ps_st_parse(&h, t.bytes, t.len - 1, t.len + 3, NULL), PS_EDATA);
    assert_null(h);
    assert_int_equal(ps_st_parse(&h, t.bytes, t.len, t.len + 3, NULL), 0);
    ps_st_free(h);
}

/* The files of huggingface/safetensors' own tests, with its verdicts. */
static void agrees_with_the_reference(void **state)
{
    (void)state;
    char path[512], file[1024], *json, *bytes;
    size_t json_len, len;
    struct ps_err err = {0};
    struct ps_json *list;
    if (!test_data_path(path, sizeof path, "safetensors"))
        skip();
    snprintf(file, sizeof file, "%s/manifest.json", path);
    assert_ok(ps_file_read(&json, &json_len, file, 1 << 20, &err), &err);
    assert_ok(ps_json_parse(&list, json, json_len, NULL, &err), &err);
    unsigned n = 0;
    for (const struct ps_json *c = list->child; c; c = c->next, n++) {
        const char *name, *expect;
        assert_ok(ps_json_get_string(c, "file", "", &name, &err), &err);
        assert_ok(ps_json_get_string(c, "expect", "", &expect, &err), &err);
        snprintf(file, sizeof file, "%s/%s", path, name);
        assert_ok(ps_file_read(&bytes, &len, file, 64 << 20, &err), &err);
        struct ps_st_header *h = NULL;
        int rc = ps_st_parse(&h, bytes, len, len, &err);
        if (rc != (strcmp(expect, "ok") == 0 ? 0 : PS_EDATA))
            fail_msg("%s: expected %s, got %d (%s)", name, expect, rc, err.text);
        ps_st_free(h);
        ps_free(bytes);
    }
    assert_true(n >= 19);
    ps_json_free(list);
    ps_free(json);
}

static const char sample[] =
    "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"},"
    "\"model.layers.0.w\":{\"dtype\":\"BF16\",\"shape\":[16,8],\"data_offsets\":[0,256]},"
    "\"model.layers.1.w\":{\"dtype\":\"F32\",\"shape\":[4,4,4],\"data_offsets\":[256,512]},"
    "\"norm\":{\"dtype\":\"F32\",\"shape\":[8],\"data_offsets\":[512,544]}}   ";

static int parse_sample(void *user)
{
    struct text *t = user;
    struct ps_st_header *h;
    int rc = ps_st_parse(&h, t->bytes, t->len, t->len + 544, NULL);
    if (rc == 0)
        ps_st_free(h);
    return rc;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    struct text t = header_of(sample);
    assert_true(test_every_alloc_failure(parse_sample, &t) >= 3);
}

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* Whatever is accepted must hold together: places in order, inside the file, as large as shape and type say. */
static void check_header(const struct ps_st_header *h)
{
    uint64_t at = h->header_bytes;
    for (uint32_t i = 0; i < h->n_tensors; i++) {
        uint64_t n = ps_dtype_bytes(h->tensors[i].dtype);
        for (unsigned d = 0; d < h->tensors[i].n_dims; d++)
            n *= h->tensors[i].shape[d];
        assert_int_equal(h->tensors[i].begin, at);
        assert_int_equal(h->tensors[i].end - at, n);
        at = h->tensors[i].end;
    }
    assert_int_equal(at, h->file_bytes);
}

static void mutations_never_break_it(void **state)
{
    (void)state;
    static const char spice[] = "{}[]\",:0123456789-.eE\\u\xff\xc3";
    const struct text good = header_of(sample);
    uint64_t x = 0x9E3779B97F4A7C15ull, before = ps_alloc_live_count();
    unsigned accepted = 0;
    for (int round = 0; round < 20000; round++) {
        struct text t = good;
        unsigned edits = 1 + (unsigned)(next_random(&x) % 3);
        for (unsigned e = 0; e < edits; e++) {
            size_t at = next_random(&x) % t.len;
            uint64_t r = next_random(&x);
            if (r % 4 == 0)
                t.bytes[at] = (char)(r >> 8);
            else if (r % 4 == 1)
                t.bytes[at] = spice[(r >> 8) % (sizeof spice - 1)];
            else if (r % 4 == 2)
                memmove(t.bytes + at, t.bytes + at + 1, t.len - at - 1);
            else if (r % 64 == 3)
                t.len = 1 + at;
        }
        struct ps_st_header *h = NULL;
        int rc = ps_st_parse(&h, t.bytes, t.len, 0, NULL);
        assert_true(rc == 0 || rc == PS_EDATA || rc == PS_EUNSUPPORTED);
        if (rc == 0) {
            check_header(h);
            accepted++;
        }
        ps_st_free(h);
    }
    assert_true(accepted > 0);
    assert_int_equal(ps_alloc_live_count(), before);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(reads_tensors_in_file_order),
    cmocka_unit_test(accepts),
    cmocka_unit_test(refuses),
    cmocka_unit_test(header_length_is_checked_first),
    cmocka_unit_test(file_size_must_be_the_implied_one),
    cmocka_unit_test(agrees_with_the_reference),
    cmocka_unit_test(every_allocation_may_fail),
    cmocka_unit_test(mutations_never_break_it),
};

TEST_MAIN(tests)
