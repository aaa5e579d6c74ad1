/* The map: extent rule, builder checks, keys, lookup, speed. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "proto/map.h"
#include "tests/support/test.h"

static const uint8_t some_id[PS_SHA256_BYTES] = {1, 2, 3};

static struct ps_map_builder *new_builder(uint64_t object_bytes, const char *identity)
{
    struct ps_map_builder *b;
    uint32_t object;
    assert_int_equal(ps_map_builder_new(&b), 0);
    assert_int_equal(ps_map_add_object(b, "model.safetensors", object_bytes, "\"e\"", identity,
                                       &object, NULL),
                     0);
    assert_int_equal(object, 0);
    return b;
}

static int add2(struct ps_map_builder *b, const char *name, uint64_t rows, uint64_t cols,
                uint64_t offset, bool gather, struct ps_err *err)
{
    const uint64_t shape[2] = {rows, cols};
    return ps_map_add_tensor(b, name, PS_BF16, shape, 2, 0, offset, gather, err);
}

static struct ps_map *finish(struct ps_map_builder *b)
{
    struct ps_map *m;
    assert_int_equal(ps_map_builder_finish(&m, b, some_id, NULL), 0);
    return m;
}

static void extent_target_rule(void **state)
{
    (void)state;
    const uint64_t k = 1024, m = k * k, g = m * k;
    assert_int_equal(ps_extent_target(0), 256 * k);
    assert_int_equal(ps_extent_target(16 * m), 256 * k);
    assert_int_equal(ps_extent_target(32 * m), 256 * k); /* 512 KiB is not below 512 KiB */
    assert_int_equal(ps_extent_target(32 * m + 64), 512 * k);
    assert_int_equal(ps_extent_target(500 * m), 4 * m);
    assert_int_equal(ps_extent_target(16 * g), 8 * m);
    assert_int_equal(ps_extent_target(UINT64_MAX), 8 * m);
}

static void extent_rows_rule(void **state)
{
    (void)state;
    const uint32_t k = 1024;
    assert_int_equal(ps_extent_rows(8192, 256 * k), 32);
    assert_int_equal(ps_extent_rows(8192, 8192 * k), 1024);
    /* 3000-byte rows: 87 rows a block, 261,000 bytes; 4 blocks in 1 MiB */
    assert_int_equal(ps_extent_rows(3000, 1024 * k), 4 * 87);
    /* a row longer than a block is a block; longer than the target it is still an extent */
    assert_int_equal(ps_extent_rows(300 * k, 1024 * k), 3);
    assert_int_equal(ps_extent_rows(2048 * k, 256 * k), 1);
    assert_int_equal(ps_extent_rows(1, 256 * k), 256 * k);
    assert_true(ps_extent_rows(0, 256 * k) >= 1);
}

/* Rows of quantised weights have a layout: their shape counts weights, their bytes are quant.h's. */
static void quantised_rows(void **state)
{
    (void)state;
    struct ps_map_builder *b = new_builder(100 << 20, "id");
    const uint64_t shape[2] = {700, 200}, none[2] = {3, 0}, absurd[2] = {1, UINT64_MAX};
    struct ps_err err = {0};
    assert_int_equal(ps_map_add_tensor(b, "q8", PS_Q8B64, shape, 2, 0, 16, false, NULL), 0);
    assert_int_equal(ps_map_add_tensor(b, "nf4", PS_NF4B64, shape, 2, 0, 1 << 20, false, NULL), 0);
    assert_int_equal(ps_map_add_tensor(b, "empty", PS_Q8B64, none, 2, 0, 0, false, NULL), 0);
    assert_int_equal(ps_map_add_tensor(b, "x", PS_Q8B64, absurd, 2, 0, 0, false, &err), PS_EDATA);
    assert_int_equal(ps_map_add_tensor(b, "x", PS_NF4B64, absurd, 2, 0, 0, false, &err), PS_EDATA);
    assert_int_equal(ps_map_add_tensor(b, "x", PS_MXFP4, shape, 2, 0, 0, false, &err), PS_EDATA);
    struct ps_map *m = finish(b);
    assert_int_equal(m->tensors[0].row_bytes, 272); /* 4 blocks of 64, 4 scales, up to 16 */
    assert_int_equal(m->tensors[0].cols, 200);
    assert_int_equal(m->tensors[1].row_bytes, 144);
    assert_int_equal(m->tensors[2].n_extents, 0);
    assert_int_equal(m->raw_bytes, 700 * (272 + 144));
    ps_map_free(m);
}

static void views_and_extents(void **state)
{
    (void)state;
    struct ps_map_builder *b = new_builder(100 << 20, "id");
    const uint64_t one[1] = {5000}, three[3] = {4, 6, 8}, empty[2] = {0, 7};
    assert_int_equal(ps_map_add_tensor(b, "norm.weight", PS_F32, one, 1, 0, 1, false, NULL), 0);
    assert_int_equal(ps_map_add_tensor(b, "model.layers.3.e", PS_F16, three, 3, 0, 30001, false, NULL),
                     0);
    assert_int_equal(ps_map_add_tensor(b, "none", PS_F16, empty, 2, 0, 40000, false, NULL), 0);
    assert_int_equal(ps_map_add_tensor(b, "scalar", PS_F64, NULL, 0, 0, 40001, false, NULL), 0);
    assert_int_equal(add2(b, "model.layers.12.w", 1000, 1024, 50001, false, NULL), 0);
    struct ps_map *m = finish(b);
    assert_int_equal(m->n_tensors, 5);
    assert_int_equal(m->tensors[0].rows, 1);
    assert_int_equal(m->tensors[0].cols, 5000);
    assert_int_equal(m->tensors[0].n_extents, 1);
    assert_int_equal(m->tensors[1].rows, 4);
    assert_int_equal(m->tensors[1].row_bytes, 96);
    assert_int_equal(m->tensors[1].layer, 3);
    assert_int_equal(m->tensors[2].n_extents, 0);
    assert_int_equal(m->tensors[3].row_bytes, 8);
    assert_int_equal(m->tensors[3].layer, -1);
    const struct ps_tensor *w = &m->tensors[4];
    assert_int_equal(w->layer, 12);
    assert_int_equal(w->block_rows, 128);
    assert_int_equal(w->n_extents, 8); /* 128 rows of 2 KiB each, 104 in the last */
    uint64_t row = 0;
    for (uint32_t i = 0; i < w->n_extents; i++) {
        const struct ps_extent *e = &m->extents[w->first_extent + i];
        assert_int_equal(e->row0, row);
        assert_int_equal(e->offset, 50001 + row * 2048);
        assert_int_equal(e->raw_bytes, e->n_rows * 2048);
        assert_int_equal(e->stored_bytes, e->raw_bytes);
        assert_int_equal(e->tensor, 4);
        assert_false(e->hashed);
        row += e->n_rows;
    }
    assert_int_equal(row, 1000);
    assert_int_equal(m->raw_bytes, 20000 + 384 + 8 + 2048000);
    assert_int_equal(m->stored_bytes, m->raw_bytes);
    assert_int_equal(m->max_raw_bytes, 262144);
    assert_int_equal(m->extent_target_bytes, PS_EXTENT_MIN_BYTES);
    ps_map_free(m);
}

static void layers_of_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t layer;
    } want[] = {{"model.layers.0.mlp.up_proj.weight", 0},
                {"transformer.h.31.ln_1.bias", 31},
                {"h.7.attn.bias", 7},
                {"lm_head.weight", -1},
                {"model.layers.weight", -1},
                {"model.layers.x.weight", -1},
                {"model.layers.12", -1},
                {"model.players.3.w", -1},
                {"layers.99999999999.w", -1},
                {"layers.-1.w", -1},
                {"layers..w", -1},
                {"", -1},
                {"a.h.h.5.w", 5}};
    const uint64_t shape[1] = {1};
    struct ps_map_builder *b = new_builder(0, "id");
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        assert_int_equal(ps_map_add_tensor(b, want[i].name, PS_U8, shape, 1, 0, i, false, NULL), 0);
    struct ps_map *m = finish(b);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        assert_int_equal(m->tensors[i].layer, want[i].layer);
    ps_map_free(m);
}

static void gathered_embedding_has_small_extents(void **state)
{
    (void)state;
    struct ps_map_builder *b = new_builder(0, "id");
    assert_int_equal(add2(b, "model.embed_tokens.weight", 100000, 4096, 0, true, NULL), 0);
    assert_int_equal(add2(b, "lm_head.weight", 100000, 4096, 1 << 30, false, NULL), 0);
    struct ps_map *m = finish(b);
    assert_int_equal(m->extent_target_bytes, 8 << 20);
    assert_int_equal(m->extents[0].n_rows, 32);
    assert_int_equal(m->extents[m->tensors[1].first_extent].n_rows, 1024);
    ps_map_free(m);
}

static void lookup_by_name(void **state)
{
    (void)state;
    struct ps_map_builder *b = new_builder(0, "id");
    char name[32];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "t.%d", i);
        assert_int_equal(add2(b, name, 1, 1, (uint64_t)i * 2, false, NULL), 0);
    }
    struct ps_map *m = finish(b);
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "t.%d", i);
        assert_int_equal(ps_map_find(m, name), i);
    }
    assert_int_equal(ps_map_find(m, "t.3000"), -1);
    assert_int_equal(ps_map_find(m, ""), -1);
    ps_map_free(m);
    b = NULL;
    assert_int_equal(ps_map_builder_new(&b), 0);
    m = finish(b);
    assert_int_equal(ps_map_find(m, "x"), -1);
    ps_map_free(m);
}

static void builder_refuses(void **state)
{
    (void)state;
    struct ps_map_builder *b = new_builder(1000, "id");
    struct ps_err err = {0};
    uint32_t object;
    const uint64_t huge[3] = {2, UINT64_MAX / 2 + 1, 1}, nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    const uint64_t wide[2] = {1, 40u << 20}, big[2] = {1ull << 40, 1ull << 22};
    assert_int_equal(ps_map_add_object(b, "../x", 1, NULL, NULL, &object, &err), PS_EDATA);
    assert_int_equal(add2(b, "a", 10, 10, 0, false, &err), 0);
    assert_int_equal(add2(b, "a", 10, 10, 200, false, &err), PS_EDATA);
    assert_non_null(strstr(err.text, "twice"));
    assert_int_equal(add2(b, "b", 10, 10, 801, false, &err), PS_EDATA);
    assert_int_equal(add2(b, "b", 10, 10, UINT64_MAX - 10, false, &err), PS_EDATA);
    assert_int_equal(ps_map_add_tensor(b, "c", PS_F32, huge, 3, 0, 0, false, &err), PS_EDATA);
    assert_int_equal(ps_map_add_tensor(b, "c", PS_F32, big, 2, 0, 0, false, &err), PS_EDATA);
    assert_int_equal(ps_map_add_tensor(b, "c", PS_F32, nine, 9, 0, 0, false, &err), PS_EUNSUPPORTED);
    assert_int_equal(ps_map_add_tensor(b, "c", PS_BF16, wide, 2, 0, 0, false, &err), PS_EUNSUPPORTED);
    assert_int_equal(ps_map_add_tensor(b, "c", (enum ps_dtype)77, nine, 1, 0, 0, false, &err),
                     PS_EDATA);
    assert_int_equal(add2(b, "b", 10, 10, 800, false, &err), 0);
    struct ps_map *m = finish(b);
    assert_int_equal(m->n_tensors, 2);
    ps_map_free(m);
}

static void too_many_extents_are_refused_before_memory(void **state)
{
    (void)state;
    struct ps_map_builder *b = new_builder(0, "id");
    struct ps_map *m = NULL;
    struct ps_err err = {0};
    assert_int_equal(add2(b, "a", 1ull << 40, 1 << 20, 0, false, &err), 0);
    assert_int_equal(ps_map_builder_finish(&m, b, some_id, &err), PS_EDATA);
    assert_null(m);
}

/* The derivation is part of what caches on disk hold: it must never change. */
static void key_derivation_is_fixed(void **state)
{
    (void)state;
    struct ps_map_builder *b = new_builder(0, "org/name@c0ffee/model.safetensors");
    assert_int_equal(add2(b, "a", 3, 5, 0x0102030405, false, NULL), 0);
    struct ps_map *m = finish(b);
    uint8_t text[128] = "penstock-extent-1";
    size_t n = 18;
    memcpy(text + n, "org/name@c0ffee/model.safetensors", 34);
    n += 34;
    const uint8_t place[16] = {5, 4, 3, 2, 1, 0, 0, 0, 30};
    memcpy(text + n, place, 16);
    uint8_t want[PS_SHA256_BYTES];
    ps_sha256_once(text, n + 16, want);
    assert_memory_equal(m->extents[0].key, want, sizeof want);
    ps_map_free(m);
}

/* Without an identity two models must not share keys. */
static void keys_without_identity_hold_for_one_model(void **state)
{
    (void)state;
    static const uint8_t other_id[PS_SHA256_BYTES] = {9};
    struct ps_map *m[2];
    for (int i = 0; i < 2; i++) {
        struct ps_map_builder *b = new_builder(0, NULL);
        assert_int_equal(add2(b, "a", 3, 5, 0, false, NULL), 0);
        assert_int_equal(ps_map_builder_finish(&m[i], b, i ? other_id : some_id, NULL), 0);
    }
    assert_memory_not_equal(m[0]->extents[0].key, m[1]->extents[0].key, PS_SHA256_BYTES);
    ps_map_free(m[0]);
    ps_map_free(m[1]);
}

static void a_hundred_thousand_extents_are_quick(void **state)
{
    (void)state;
    struct ps_map_builder *b = new_builder(
        0,
        "https://host.example/some/longer/prefix/model-00001-of-00162.safetensors|\"etag-etag\"|9");
    char name[64];
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight", i);
        assert_int_equal(add2(b, name, 409600, 1024, (uint64_t)i << 30, false, NULL), 0);
    }
    uint64_t start = ps_now_ns();
    struct ps_map *m = finish(b);
    double s = ps_seconds_since(start);
    assert_true(m->n_extents >= 100000);
    print_message("%u extents in %.1f ms\n", m->n_extents, s * 1e3);
    assert_true(s < 2.0); /* far above what it takes (25 ms): sanitizers and busy machines count too */
    ps_map_free(m);
}

static int build_some(void *user)
{
    struct ps_map_builder *b;
    struct ps_map *m;
    uint32_t object;
    char name[32];
    int rc = ps_map_builder_new(&b);
    (void)user;
    if (rc != 0)
        return rc;
    rc = ps_map_add_object(b, "x", 0, "\"e\"", "id", &object, NULL);
    for (int i = 0; i < 100 && rc == 0; i++) {
        snprintf(name, sizeof name, "layers.%d.w", i);
        rc = add2(b, name, 600, 1024, (uint64_t)i << 24, false, NULL);
    }
    if (rc != 0) {
        ps_map_builder_free(b);
        return rc;
    }
    rc = ps_map_builder_finish(&m, b, some_id, NULL);
    if (rc == 0)
        ps_map_free(m);
    return rc;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(build_some, NULL) > 100);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(extent_target_rule),
    cmocka_unit_test(extent_rows_rule),
    cmocka_unit_test(quantised_rows),
    cmocka_unit_test(views_and_extents),
    cmocka_unit_test(layers_of_names),
    cmocka_unit_test(gathered_embedding_has_small_extents),
    cmocka_unit_test(lookup_by_name),
    cmocka_unit_test(builder_refuses),
    cmocka_unit_test(too_many_extents_are_refused_before_memory),
    cmocka_unit_test(key_derivation_is_fixed),
    cmocka_unit_test(keys_without_identity_hold_for_one_model),
    cmocka_unit_test(a_hundred_thousand_extents_are_quick),
    cmocka_unit_test(every_allocation_may_fail),
};

TEST_MAIN(tests)
