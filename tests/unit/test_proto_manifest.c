/* Manifest and shard index: round trips, everything that must be refused, speed, damaged bytes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "proto/manifest.h"
#include "proto/quant.h"
#include "tests/support/test.h"

/* ---- A small pre-split model made by hand ---- */

struct sample {
    struct ps_shard_index index[2];
    struct ps_shard_tensor tensors[3];
    struct ps_shard_extent extents[5];
    uint32_t blocks[3];
    struct ps_manifest_file files[2];
    struct ps_manifest_shard shards[2];
    struct ps_manifest m;
    char *bytes[2]; /* heads and encoded indexes */
    size_t len[2];
};

static void set_hash(uint8_t h[PS_SHA256_BYTES], int v)
{
    memset(h, v, PS_SHA256_BYTES);
}

/* Shard 0: an embedding of 300 rows of 1,024 bytes in two raw extents. Shard 1, layer 0: a norm,
 * and a matrix of 600 rows of 1,024 bytes whose first extent (one block and a half) is lz4. */
static void sample_init(struct sample *s)
{
    memset(s, 0, sizeof *s);
    s->tensors[0] = (struct ps_shard_tensor){.name = (char *)"model.embed_tokens.weight",
                                             .dtype = PS_BF16,
                                             .n_dims = 2,
                                             .shape = {300, 512},
                                             .extents = &s->extents[0],
                                             .n_extents = 2};
    s->extents[0] = (struct ps_shard_extent){
        .offset = 4096, .row0 = 0, .n_rows = 256, .stored_bytes = 262144, .raw_bytes = 262144};
    s->extents[1] = (struct ps_shard_extent){.offset = 4096 + 262144,
                                             .row0 = 256,
                                             .n_rows = 44,
                                             .stored_bytes = 45056,
                                             .raw_bytes = 45056};
    s->tensors[1] =
        (struct ps_shard_tensor){.name = (char *)"model.layers.0.input_layernorm.weight",
                                 .dtype = PS_F32,
                                 .n_dims = 1,
                                 .shape = {25},
                                 .extents = &s->extents[2],
                                 .n_extents = 1};
    s->extents[2] =
        (struct ps_shard_extent){.offset = 4096, .n_rows = 1, .stored_bytes = 100, .raw_bytes = 100};
    s->tensors[2] = (struct ps_shard_tensor){.name = (char *)"model.layers.0.mlp.up_proj.weight",
                                             .dtype = PS_BF16,
                                             .n_dims = 2,
                                             .shape = {600, 512},
                                             .extents = &s->extents[3],
                                             .n_extents = 2};
    s->blocks[0] = 1000;
    s->blocks[1] = 131072; /* 128 rows that did not shrink */
    s->extents[3] = (struct ps_shard_extent){.offset = 4200,
                                             .n_rows = 384,
                                             .stored_bytes = 132072,
                                             .raw_bytes = 393216,
                                             .codec = PS_CODEC_LZ4,
                                             .block_bytes = s->blocks,
                                             .n_blocks = 2};
    s->extents[4] = (struct ps_shard_extent){.offset = 4200 + 132072 + 8,
                                             .row0 = 384,
                                             .n_rows = 216,
                                             .stored_bytes = 216 * 1024,
                                             .raw_bytes = 216 * 1024};
    for (int i = 0; i < 5; i++)
        set_hash(s->extents[i].sha256, 0x10 + i);
    s->index[0] = (struct ps_shard_index){.layer = -1, .tensors = &s->tensors[0], .n_tensors = 1};
    s->index[1] = (struct ps_shard_index){.layer = 0, .tensors = &s->tensors[1], .n_tensors = 2};
    s->files[0] = (struct ps_manifest_file){.name = (char *)"config.json", .bytes = 2};
    s->files[1] = (struct ps_manifest_file){.name = (char *)"tokenizer.json", .bytes = 77};
    s->m = (struct ps_manifest){.source_label = (char *)"org/name@c0ffee",
                                .architecture = (char *)"LlamaForCausalLM",
                                .codec = (char *)"lz4",
                                .raw_bytes = 300 * 1024 + 100 + 600 * 1024,
                                .stored_bytes = 300 * 1024 + 100 + 132072 + 216 * 1024,
                                .n_tensors = 3,
                                .n_extents = 5,
                                .extent_target_bytes = PS_EXTENT_MIN_BYTES,
                                .files = s->files,
                                .n_files = 2,
                                .shards = s->shards,
                                .n_shards = 2};
    s->shards[0] =
        (struct ps_manifest_shard){.bytes = 4096 + 300 * 1024, .layer = -1, .n_extents = 2};
    s->shards[1] =
        (struct ps_manifest_shard){.bytes = 4200 + 132072 + 8 + 216 * 1024, .n_extents = 3};
}

static void sample_encode(struct sample *s)
{
    for (int i = 0; i < 2; i++) {
        char *index;
        size_t n;
        struct ps_err err = {0};
        assert_ok(ps_shard_index_encode(&s->index[i], &index, &n, &err), &err);
        s->bytes[i] = ps_malloc(n + PS_SHARD_HEAD_BYTES);
        s->len[i] = n + PS_SHARD_HEAD_BYTES;
        ps_shard_head_write((uint8_t *)s->bytes[i], (uint32_t)n);
        memcpy(s->bytes[i] + PS_SHARD_HEAD_BYTES, index, n);
        ps_sha256_once(index, n, s->shards[i].index_sha256);
        s->shards[i].index_bytes = (uint32_t)n;
        ps_free(index);
    }
}

static void sample_deinit(struct sample *s)
{
    ps_free(s->bytes[0]);
    ps_free(s->bytes[1]);
}

static int decode_index(const struct sample *s, int i, struct ps_shard_index **x, struct ps_err *err)
{
    return ps_shard_index_decode(x, s->bytes[i] + PS_SHARD_HEAD_BYTES,
                                 s->len[i] - PS_SHARD_HEAD_BYTES, s->shards[i].bytes, err);
}

/* ---- Round trips ---- */

static void manifest_round_trip(void **state)
{
    (void)state;
    struct sample s;
    sample_init(&s);
    sample_encode(&s);
    char *bytes, *again;
    size_t len, len2;
    struct ps_err err = {0};
    struct ps_manifest *m;
    assert_ok(ps_manifest_encode(&s.m, &bytes, &len, &err), &err);
    assert_ok(ps_manifest_decode(&m, bytes, len, &err), &err);
    assert_int_equal(m->version, 1);
    assert_string_equal(m->source_label, "org/name@c0ffee");
    assert_string_equal(m->architecture, "LlamaForCausalLM");
    assert_string_equal(m->codec, "lz4");
    assert_int_equal(m->raw_bytes, s.m.raw_bytes);
    assert_int_equal(m->n_files, 2);
    assert_string_equal(m->files[1].name, "tokenizer.json");
    assert_int_equal(m->files[1].bytes, 77);
    assert_int_equal(m->n_shards, 2);
    assert_int_equal(m->shards[0].layer, -1);
    assert_int_equal(m->shards[1].layer, 0);
    assert_memory_equal(m->shards[1].index_sha256, s.shards[1].index_sha256, PS_SHA256_BYTES);
    assert_int_equal(strlen(m->shards[0].name), strlen("shards/.shard") + 64);
    assert_int_equal(strncmp(m->shards[0].name, "shards/", 7), 0);
    uint8_t id[PS_SHA256_BYTES];
    ps_sha256_once(bytes, len, id);
    assert_memory_equal(m->id, id, sizeof id);
    assert_memory_equal(s.m.id, id, sizeof id);
    assert_ok(ps_manifest_encode(m, &again, &len2, &err), &err);
    assert_int_equal(len, len2);
    assert_memory_equal(bytes, again, len);
    ps_free(again);
    ps_free(bytes);
    ps_manifest_free(m);
    sample_deinit(&s);
}

static void index_round_trip(void **state)
{
    (void)state;
    struct sample s;
    sample_init(&s);
    sample_encode(&s);
    struct ps_shard_index *x;
    struct ps_err err = {0};
    assert_ok(decode_index(&s, 1, &x, &err), &err);
    assert_int_equal(x->layer, 0);
    assert_int_equal(x->n_tensors, 2);
    const struct ps_shard_tensor *t = &x->tensors[1];
    assert_string_equal(t->name, "model.layers.0.mlp.up_proj.weight");
    assert_int_equal(t->dtype, PS_BF16);
    assert_int_equal(t->shape[0], 600);
    assert_int_equal(t->n_extents, 2);
    assert_int_equal(t->extents[0].offset, 4200);
    assert_int_equal(t->extents[0].codec, PS_CODEC_LZ4);
    assert_int_equal(t->extents[0].n_blocks, 2);
    assert_int_equal(t->extents[0].block_bytes[1], 131072);
    assert_int_equal(t->extents[1].offset, 4200 + 132072 + 8);
    assert_int_equal(t->extents[1].row0, 384);
    assert_int_equal(t->extents[1].codec, PS_CODEC_RAW);
    assert_int_equal(t->extents[1].n_blocks, 0);
    assert_memory_equal(t->extents[1].sha256, s.extents[4].sha256, PS_SHA256_BYTES);
    char *again;
    size_t len;
    assert_ok(ps_shard_index_encode(x, &again, &len, &err), &err);
    assert_int_equal(len + PS_SHARD_HEAD_BYTES, s.len[1]);
    assert_memory_equal(again, s.bytes[1] + PS_SHARD_HEAD_BYTES, len);
    ps_free(again);
    ps_shard_index_free(x);
    sample_deinit(&s);
}

static int open_sample(struct ps_map **map, struct sample *s, struct ps_err *err)
{
    char *bytes;
    size_t len;
    struct ps_manifest *m = NULL;
    struct ps_shard_index *x[2] = {NULL, NULL};
    int rc = ps_manifest_encode(&s->m, &bytes, &len, err);
    if (rc != 0)
        return rc;
    rc = ps_manifest_decode(&m, bytes, len, err);
    for (uint32_t i = 0; i < 2 && rc == 0; i++) {
        const void *index;
        rc = ps_manifest_check_index(m, i, s->bytes[i], s->len[i], &index, err);
        if (rc == 0)
            rc = decode_index(s, (int)i, &x[i], err);
    }
    if (rc == 0)
        rc = ps_map_from_manifest(map, m, x, err);
    ps_shard_index_free(x[0]);
    ps_shard_index_free(x[1]);
    ps_manifest_free(m);
    ps_free(bytes);
    return rc;
}

static void map_of_the_sample(void **state)
{
    (void)state;
    struct sample s;
    sample_init(&s);
    sample_encode(&s);
    struct ps_map *m;
    struct ps_err err = {0};
    assert_ok(open_sample(&m, &s, &err), &err);
    assert_true(m->presplit);
    assert_int_equal(m->n_objects, 2);
    assert_int_equal(m->n_tensors, 3);
    assert_int_equal(m->n_extents, 5);
    assert_int_equal(m->n_blocks, 2);
    assert_int_equal(m->extents[3].tensor, 2);
    assert_int_equal(m->extents[3].object, 1);
    assert_int_equal(m->block_bytes[m->extents[3].first_block + 1], 131072);
    assert_true(m->extents[0].hashed);
    assert_memory_equal(m->extents[4].key, s.extents[4].sha256, PS_SHA256_BYTES);
    assert_int_equal(ps_map_find(m, "model.layers.0.mlp.up_proj.weight"), 2);
    assert_int_equal(m->tensors[2].layer, 0);
    assert_int_equal(m->raw_bytes, s.m.raw_bytes);
    assert_int_equal(m->stored_bytes, s.m.stored_bytes);
    assert_int_equal(m->max_stored_bytes, 262144);
    assert_int_equal(m->max_raw_bytes, 393216);
    assert_memory_equal(m->model_id, s.m.id, PS_SHA256_BYTES);
    ps_map_free(m);
    sample_deinit(&s);
}

/* ---- What must be refused ---- */

static void newer_versions_are_named(void **state)
{
    (void)state;
    /* version 7 and then a field that no reader of version 1 can parse */
    static const uint8_t future[] = {0x08, 0x07, 0x17, 0xff, 0xff};
    static const uint8_t far_future[] = {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    struct ps_manifest *m = NULL;
    struct ps_err err = {0};
    assert_int_equal(ps_manifest_decode(&m, future, sizeof future, &err), PS_EUNSUPPORTED);
    assert_non_null(
        strstr(err.text, "made by a newer Penstock (format version 7, this one reads 1)"));
    assert_int_equal(ps_manifest_decode(&m, far_future, sizeof far_future, &err), PS_EUNSUPPORTED);
    assert_null(m);
    struct sample s;
    sample_init(&s);
    sample_encode(&s);
    s.bytes[1][8] = 2;
    struct ps_map *map = NULL;
    assert_int_equal(open_sample(&map, &s, &err), PS_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "newer"));
    sample_deinit(&s);
}

static void not_manifests(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "<",
                                      "<!doctype html><html>",
                                      "{}",
                                      "\x08",
                                      "\x08\x01",
                                      "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"};
    struct ps_manifest *m = NULL;
    for (size_t i = 0; i < TEST_COUNT(bad); i++)
        assert_int_equal(ps_manifest_decode(&m, bad[i], strlen(bad[i]), NULL), PS_EDATA);
    assert_int_equal(ps_manifest_decode(&m, "\x08\x00", 2, NULL), PS_EDATA);
    assert_null(m);
}

/* Each case spoils one thing of a good manifest; writer and reader share the check, so trying to
 * write it is enough. */
static void manifest_rules(void **state)
{
    (void)state;
    char long_text[2000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    for (int c = 0; c < 18; c++) {
        struct sample s;
        sample_init(&s);
        sample_encode(&s);
        int want = PS_EDATA;
        switch (c) {
        case 0: s.files[1].name = (char *)"../../etc/passwd"; break;
        case 1: s.files[1].name = (char *)"/etc/passwd"; break;
        case 2: s.files[1].name = (char *)"config.json"; break;
        case 3: s.files[1].bytes = UINT64_MAX; break;
        case 4: s.shards[1].bytes = s.shards[1].index_bytes; break;
        case 5: s.shards[1].bytes = UINT64_MAX; break;
        case 6: s.shards[1].layer = -2; break;
        case 7: s.shards[1].layer = INT32_MAX; break;
        case 8:
            s.shards[1].n_extents = 1u << 20;
            s.m.n_extents = (1u << 20) + 2;
            break;
        case 9: s.m.n_extents++; break;
        case 10: s.m.stored_bytes = 1 << 30; break;
        case 11:
            s.m.n_shards = 0;
            s.m.n_extents = 0;
            break;
        case 12: s.m.extent_target_bytes = 1; break;
        case 13: s.m.source_label = long_text; break;
        case 14: s.m.architecture = (char *)"a\nb"; break;
        case 15:
            s.m.codec = (char *)"nf3b64";
            want = PS_EUNSUPPORTED;
            break;
        case 16: s.m.raw_bytes = UINT64_MAX; break;
        case 17: s.shards[0].index_bytes = 0; break;
        }
        char *bytes;
        size_t len;
        if (ps_manifest_encode(&s.m, &bytes, &len, NULL) != want)
            fail_msg("manifest case %d was not refused", c);
        sample_deinit(&s);
    }
}

static void map_must_fit_the_manifest(void **state)
{
    (void)state;
    for (int c = 0; c < 8; c++) {
        struct sample s;
        sample_init(&s);
        sample_encode(&s);
        switch (c) {
        case 0: s.m.raw_bytes++; break;
        case 1: s.m.stored_bytes--; break;
        case 2: s.m.n_tensors++; break;
        case 3: s.shards[1].layer = 1; break;
        case 4:
            s.shards[1].n_extents = 2;
            s.shards[0].n_extents = 3;
            break;
        case 5: s.bytes[1][40] ^= 1; break;
        case 6: s.bytes[1][0] = 'X'; break;
        case 7: s.bytes[1][12]++; break;
        }
        struct ps_map *map = NULL;
        struct ps_err err = {0};
        if (open_sample(&map, &s, &err) != PS_EDATA)
            fail_msg("case %d was not refused", c);
        assert_null(map);
        sample_deinit(&s);
    }
}

static void one_shard_twice_is_refused(void **state)
{
    (void)state;
    struct sample s;
    sample_init(&s);
    sample_encode(&s);
    s.shards[1] = s.shards[0];
    s.m.n_extents = 4;
    s.m.stored_bytes = 1000;
    struct ps_map *map = NULL;
    struct ps_err err = {0};
    assert_int_equal(open_sample(&map, &s, &err), PS_EDATA);
    assert_non_null(strstr(err.text, "twice"));
    sample_deinit(&s);
}

/* Each case spoils one thing of a good index; the writer does not look, so the reader must. */
static void index_rules(void **state)
{
    (void)state;
    for (int c = 0; c < 24; c++) {
        struct sample s;
        sample_init(&s);
        int want = PS_EDATA;
        switch (c) {
        case 0: s.extents[3].offset = 4195; break; /* overlaps the norm */
        case 1: s.extents[4].offset = 4300; break; /* overlaps its neighbour */
        case 2: s.extents[4].offset++; break;      /* beyond the end */
        case 3: s.extents[2].offset = 0; break;    /* inside the head */
        case 4: s.extents[2].offset = 200; break;  /* inside the index */
        case 5: s.extents[3].offset = UINT64_MAX - 100; break;
        case 6: s.extents[4].n_rows = 215; break;
        case 7: s.extents[4].n_rows = 217; break;
        case 8: s.extents[4].n_rows = 0; break;
        case 9: s.extents[4].n_rows = UINT32_MAX; break;
        case 10: s.extents[4].stored_bytes--; break; /* raw: must be the rows' bytes */
        case 11: s.blocks[0] = 999; break;
        case 12:
            s.blocks[0] = 0;
            s.blocks[1] = 132072;
            break;
        case 13:
            s.blocks[1] = 131073;
            s.blocks[0] = 999;
            break; /* larger than unpacked */
        case 14: s.extents[3].n_blocks = 1; break;
        case 15:
            s.blocks[2] = 5;
            s.extents[3].n_blocks = 3;
            s.extents[3].stored_bytes += 5;
            break;
        case 16: s.tensors[2].shape[0] = 601; break;
        case 17: s.tensors[2].shape[1] = 1ull << 62; break;
        case 18: s.tensors[2].dtype = (enum ps_dtype)200; break;
        case 19:
            s.extents[4].codec = 9;
            want = PS_EUNSUPPORTED;
            break;
        case 20: s.tensors[2].n_extents = 1; break;
        case 21: s.tensors[2].shape[0] = 0; break; /* empty, yet with extents */
        case 22: s.index[1].layer = -2; break;
        case 23: s.extents[2].stored_bytes = 0; break;
        }
        sample_encode(&s);
        struct ps_shard_index *x = NULL;
        struct ps_err err = {0};
        int rc = decode_index(&s, 1, &x, &err);
        if (rc != want)
            fail_msg("index case %d: %d (%s)", c, rc, err.text);
        assert_null(x);
        sample_deinit(&s);
    }
}

/* ---- Rounded weights ---- */

/* The matrix of shard 1 as NF4B64: its first extent so, its second as the bf16 that it was. */
static void sample_round(struct sample *s)
{
    uint32_t row = (uint32_t)ps_quant_row_bytes(PS_NF4B64, 512);
    struct ps_shard_tensor *t = &s->tensors[2];
    t->dtype = PS_NF4B64;
    t->rounded = true;
    t->error = (struct ps_quant_error){0.5, 60.25, 0.125f, 3.0f};
    s->extents[3].codec = PS_CODEC_RAW;
    s->extents[3].n_blocks = 0;
    s->extents[3].raw_bytes = s->extents[3].stored_bytes = 384 * row;
    s->extents[4].dtype = PS_BF16;
    s->extents[4].offset = s->extents[3].offset + s->extents[3].stored_bytes;
    s->shards[1].bytes = s->extents[4].offset + s->extents[4].stored_bytes;
    s->m.codec = (char *)"nf4b64";
    s->m.source_bytes = s->m.raw_bytes;
    s->m.raw_bytes = 300 * 1024 + 100 + 384ull * row + 216 * 1024;
    s->m.stored_bytes = s->m.raw_bytes;
}

static void rounded_round_trip(void **state)
{
    (void)state;
    struct sample s;
    struct ps_shard_index *x[2];
    struct ps_manifest *m;
    struct ps_map *map;
    struct ps_err err = {0};
    char *bytes;
    size_t len;
    sample_init(&s);
    sample_round(&s);
    sample_encode(&s);
    assert_ok(ps_manifest_encode(&s.m, &bytes, &len, &err), &err);
    assert_ok(ps_manifest_decode(&m, bytes, len, &err), &err);
    assert_string_equal(m->codec, "nf4b64");
    assert_int_equal(m->source_bytes, 900 * 1024 + 100);
    for (int i = 0; i < 2; i++)
        assert_ok(decode_index(&s, i, &x[i], &err), &err);
    assert_false(x[1]->tensors[0].rounded);
    assert_ok(ps_map_from_manifest(&map, m, x, &err), &err);
    const struct ps_tensor *t = &map->tensors[2];
    const struct ps_extent *e = &map->extents[t->first_extent];
    assert_int_equal(t->dtype, PS_NF4B64);
    assert_int_equal(t->row_bytes, 272);
    assert_true(t->rounded && t->error.error2 == 0.5 && t->error.weight2 == 60.25);
    assert_true(t->error.max_error == 0.125f && t->error.max_weight == 3.0f);
    assert_int_equal(ps_extent_dtype(map, &e[0]), PS_NF4B64);
    assert_int_equal(ps_extent_row_bytes(&e[0]), 272);
    assert_int_equal(ps_extent_dtype(map, &e[1]), PS_BF16);
    assert_int_equal(ps_extent_row_bytes(&e[1]), 1024);
    assert_int_equal(map->raw_bytes, s.m.raw_bytes);
    ps_map_free(map);
    ps_manifest_free(m);
    for (int i = 0; i < 2; i++)
        ps_shard_index_free(x[i]);
    ps_free(bytes);
    sample_deinit(&s);
}

static void rounded_rules(void **state)
{
    (void)state;
    for (int c = 0; c < 10; c++) {
        struct sample s;
        sample_init(&s);
        sample_round(&s);
        struct ps_shard_tensor *t = &s.tensors[2];
        switch (c) {
        case 0: s.extents[4].dtype = PS_U8; break;    /* not weights */
        case 1: s.extents[4].dtype = PS_MXFP4; break; /* no type of a matrix here */
        case 2: s.extents[4].dtype = 250; break;
        case 3: s.extents[4].dtype = PS_Q8B64; break; /* would be fewer bytes than it has */
        case 4: t->dtype = PS_BF16; break;            /* rounded, but to nothing */
        case 5:                                       /* narrower than its tensor */
            t->dtype = PS_Q8B64;
            s.extents[3].dtype = PS_NF4B64;
            break;
        case 6:
            t->n_dims = 3;
            t->shape[2] = 1;
            break;
        case 7: t->error.error2 = (double)NAN; break;
        case 8: t->error.max_weight = INFINITY; break;
        case 9: t->error.weight2 = -1; break;
        }
        sample_encode(&s);
        struct ps_shard_index *x = NULL;
        struct ps_err err = {0};
        int rc = decode_index(&s, 1, &x, &err);
        if (rc != PS_EDATA)
            fail_msg("case %d: %d (%s)", c, rc, err.text);
        sample_deinit(&s);
    }
}

/* A residual that a later version lists beside the tensors (manifest.proto) does not keep this one from its base. */
static void a_residual_is_passed_over(void **state)
{
    (void)state;
    struct sample s;
    struct ps_shard_index *x;
    struct ps_err err = {0};
    sample_init(&s);
    sample_round(&s);
    sample_encode(&s);
    static const uint8_t residual[] = {3 << 3 | 2, 4, 0x0a, 2, 'w', '1'};
    size_t n = s.len[1] - PS_SHARD_HEAD_BYTES;
    char *bytes = ps_malloc(n + sizeof residual);
    memcpy(bytes, s.bytes[1] + PS_SHARD_HEAD_BYTES, n);
    memcpy(bytes + n, residual, sizeof residual);
    assert_ok(ps_shard_index_decode(&x, bytes, n + sizeof residual, s.shards[1].bytes + 4096, &err),
              &err);
    assert_int_equal(x->n_tensors, 2);
    ps_shard_index_free(x);
    ps_free(bytes);
    sample_deinit(&s);
}

static void odd_orders_are_allowed(void **state)
{
    (void)state;
    struct sample s;
    sample_init(&s);
    /* the second extent before the first, the norm last: the order in a shard is the order of use,
     * not ours to guess */
    s.extents[4].offset = 4096;
    s.extents[3].offset = 4096 + 216 * 1024;
    s.extents[2].offset = 4096 + 216 * 1024 + 132072;
    sample_encode(&s);
    struct ps_shard_index *x;
    struct ps_err err = {0};
    assert_ok(decode_index(&s, 1, &x, &err), &err);
    assert_int_equal(x->tensors[1].extents[1].offset, 4096);
    ps_shard_index_free(x);
    sample_deinit(&s);
}

static void empty_tensors_have_no_extents(void **state)
{
    (void)state;
    struct sample s;
    sample_init(&s);
    s.tensors[0].shape[1] = 0;
    s.tensors[0].n_extents = 0;
    sample_encode(&s);
    struct ps_shard_index *x;
    struct ps_err err = {0};
    assert_ok(decode_index(&s, 0, &x, &err), &err);
    assert_int_equal(x->tensors[0].n_extents, 0);
    ps_shard_index_free(x);
    sample_deinit(&s);
}

/* Two bytes on the wire for each of millions of sub-messages must not become gigabytes. */
static void unpacking_is_bounded(void **state)
{
    (void)state;
    size_t n = 4 << 20;
    char *bytes = ps_malloc(n);
    assert_non_null(bytes);
    memcpy(bytes, "\x08\x01", 2);
    for (size_t i = 2; i < n; i += 2)
        memcpy(bytes + i, "\x5a\x00", 2); /* field 11, length 0 */
    struct ps_manifest *m = NULL;
    uint64_t start = ps_now_ns();
    assert_int_equal(ps_manifest_decode(&m, bytes, n, NULL), PS_EDATA);
    for (size_t i = 0; i < n; i += 2)
        memcpy(bytes + i, "\x28\x01", 2); /* field 5, not packed */
    struct ps_shard_index *x = NULL;
    assert_int_equal(ps_shard_index_decode(&x, bytes, n, 1 << 30, NULL), PS_EDATA);
    assert_true(ps_seconds_since(start) < 5);
    ps_free(bytes);
}

static void a_hundred_thousand_extents_are_quick(void **state)
{
    (void)state;
    enum { TENSORS = 100, EACH = 1000 };
    struct ps_shard_tensor *t = ps_calloc(TENSORS, sizeof *t);
    struct ps_shard_extent *e = ps_calloc(TENSORS * EACH, sizeof *e);
    struct ps_shard_index x = {.layer = 3, .tensors = t, .n_tensors = TENSORS}, *read;
    uint64_t at = 8 << 20;
    for (uint32_t i = 0; i < TENSORS; i++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.3.mlp.experts.%u.w", i);
        t[i] = (struct ps_shard_tensor){.name = ps_strdup(name),
                                        .dtype = PS_BF16,
                                        .n_dims = 2,
                                        .shape = {128 * EACH, 1024},
                                        .extents = e + (size_t)i * EACH,
                                        .n_extents = EACH};
        for (uint32_t k = 0; k < EACH; k++, at += 262144)
            t[i].extents[k] = (struct ps_shard_extent){.offset = at,
                                                       .row0 = 128 * k,
                                                       .n_rows = 128,
                                                       .stored_bytes = 262144,
                                                       .raw_bytes = 262144};
    }
    char *bytes;
    size_t len;
    struct ps_err err = {0};
    assert_ok(ps_shard_index_encode(&x, &bytes, &len, &err), &err);
    uint64_t start = ps_now_ns();
    assert_ok(ps_shard_index_decode(&read, bytes, len, at, &err), &err);
    double s = ps_seconds_since(start);
    print_message("%d extents: %zu bytes, decoded in %.1f ms\n", TENSORS * EACH, len, s * 1e3);
    assert_true(len < TENSORS * EACH * 38);
    assert_true(s < 2.0); /* far above what it takes (5 ms): sanitizers and busy machines count too */
    ps_shard_index_free(read);
    for (uint32_t i = 0; i < TENSORS; i++)
        ps_free(t[i].name);
    ps_free(bytes);
    ps_free(e);
    ps_free(t);
}

/* ---- Memory that runs out, bytes that change ---- */

static int open_and_close(void *user)
{
    struct ps_map *m;
    int rc = open_sample(&m, user, NULL);
    if (rc == 0)
        ps_map_free(m);
    return rc;
}

static int encode_index(void *user)
{
    struct sample *s = user;
    char *bytes;
    size_t len;
    int rc = ps_shard_index_encode(&s->index[1], &bytes, &len, NULL);
    if (rc == 0)
        ps_free(bytes);
    return rc;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    struct sample s;
    sample_init(&s);
    sample_encode(&s);
    assert_true(test_every_alloc_failure(open_and_close, &s) > 20);
    assert_true(test_every_alloc_failure(encode_index, &s) > 5);
    sample_deinit(&s);
}

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* A copy of bytes with a few edits, some of them cutting it off. Its length goes to *len. */
static uint8_t *mutated(const char *bytes, size_t *len, uint64_t *x)
{
    uint8_t *p = ps_malloc(*len);
    memcpy(p, bytes, *len);
    for (unsigned edits = 1 + (unsigned)(next_random(x) % 4); edits > 0; edits--) {
        size_t at = next_random(x) % *len;
        uint64_t r = next_random(x);
        if (r % 3 == 0)
            p[at] = (uint8_t)(r >> 8);
        else if (r % 3 == 1)
            p[at] ^= (uint8_t)(1u << (r >> 8) % 8);
        else if (r % 32 == 2)
            *len = 1 + at;
        else
            p[at] = (uint8_t)(p[at] + (r % 2 ? 1 : 255));
    }
    return p;
}

static void check_index(const struct ps_shard_index *x, uint64_t object_bytes)
{
    for (uint32_t i = 0; i < x->n_tensors; i++)
        for (uint32_t k = 0; k < x->tensors[i].n_extents; k++) {
            const struct ps_shard_extent *e = &x->tensors[i].extents[k];
            assert_true(e->offset >= PS_SHARD_HEAD_BYTES &&
                        e->offset + e->stored_bytes <= object_bytes);
            uint64_t sum = 0;
            for (uint32_t b = 0; b < e->n_blocks; b++)
                sum += e->block_bytes[b];
            assert_int_equal(e->codec == PS_CODEC_RAW ? e->raw_bytes : sum, e->stored_bytes);
        }
}

static void mutations_never_break_them(void **state)
{
    (void)state;
    struct sample s;
    sample_init(&s);
    sample_encode(&s);
    char *bytes;
    size_t len;
    struct ps_err err = {0};
    uint64_t x = 0x9E3779B97F4A7C15ull;
    unsigned good = 0;
    assert_ok(ps_manifest_encode(&s.m, &bytes, &len, &err), &err);
    uint64_t before = ps_alloc_live_count();
    for (int round = 0; round < 20000; round++) {
        struct ps_manifest *m = NULL;
        struct ps_shard_index *index = NULL;
        size_t n = len;
        uint8_t *p = mutated(bytes, &n, &x);
        int rc = ps_manifest_decode(&m, p, n, NULL);
        assert_true(rc == 0 || rc == PS_EDATA || rc == PS_EUNSUPPORTED);
        good += rc == 0;
        ps_manifest_free(m);
        ps_free(p);
        n = s.len[1] - PS_SHARD_HEAD_BYTES;
        p = mutated(s.bytes[1] + PS_SHARD_HEAD_BYTES, &n, &x);
        rc = ps_shard_index_decode(&index, p, n, s.shards[1].bytes, NULL);
        assert_true(rc == 0 || rc == PS_EDATA || rc == PS_EUNSUPPORTED);
        if (rc == 0)
            check_index(index, s.shards[1].bytes);
        good += rc == 0;
        ps_shard_index_free(index);
        ps_free(p);
    }
    assert_true(good > 0);
    assert_int_equal(ps_alloc_live_count(), before);
    ps_free(bytes);
    sample_deinit(&s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(manifest_round_trip),
    cmocka_unit_test(index_round_trip),
    cmocka_unit_test(map_of_the_sample),
    cmocka_unit_test(newer_versions_are_named),
    cmocka_unit_test(not_manifests),
    cmocka_unit_test(manifest_rules),
    cmocka_unit_test(map_must_fit_the_manifest),
    cmocka_unit_test(one_shard_twice_is_refused),
    cmocka_unit_test(index_rules),
    cmocka_unit_test(rounded_round_trip),
    cmocka_unit_test(rounded_rules),
    cmocka_unit_test(a_residual_is_passed_over),
    cmocka_unit_test(odd_orders_are_allowed),
    cmocka_unit_test(empty_tensors_have_no_extents),
    cmocka_unit_test(unpacking_is_bounded),
    cmocka_unit_test(a_hundred_thousand_extents_are_quick),
    cmocka_unit_test(every_allocation_may_fail),
    cmocka_unit_test(mutations_never_break_them),
};

TEST_MAIN(tests)
