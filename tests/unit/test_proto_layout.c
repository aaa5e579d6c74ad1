/* Opening models: plain folders of one file and of many, pre-split trees, and everything that may
 * stand in the way. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/host.h"
#include "base/strbuf.h"
#include "proto/layout.h"
#include "tests/support/fake_source.h"
#include "tests/support/test.h"

static const char config_text[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"tie_word_embeddings\":false}";
static const char page[] = "<!DOCTYPE html><html><body>app</body></html>                 ";

/* Puts a safetensors file with U8 tensors of `rows` x 8 each into the source. `pad` spaces make its header long. */
static void put_file(struct ps_source *s, const char *name, const char *const *tensors, unsigned n,
                     unsigned rows, size_t pad, unsigned version)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, 1 << 26);
    ps_strbuf_append(&b, "\0\0\0\0\0\0\0", 8);
    ps_strbuf_puts(&b, "{");
    for (unsigned i = 0; i < n; i++)
        ps_strbuf_printf(&b, "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[%u,8],\"data_offsets\":[%u,%u]}",
                         i ? "," : "", tensors[i], rows, i * rows * 8, (i + 1) * rows * 8);
    for (size_t i = 0; i < pad; i++)
        ps_strbuf_puts(&b, " ");
    ps_strbuf_puts(&b, "}");
    uint64_t header = b.len - 8;
    for (unsigned i = 0; i < n * rows; i++)
        ps_strbuf_append(&b, "01234567", 8);
    assert_true(ps_strbuf_ok(&b));
    for (int i = 0; i < 8; i++)
        b.data[i] = (char)(header >> (8 * i));
    fake_source_put(s, name, b.data, b.len, version);
    ps_strbuf_deinit(&b);
}

static void put_text(struct ps_source *s, const char *name, const char *text)
{
    fake_source_put(s, name, text, strlen(text), 1);
}

static const char *const all_tensors[] = {"model.embed_tokens.weight", "model.layers.0.w",
                                          "model.layers.1.w", "lm_head.weight"};

static struct ps_source *single_file_model(void)
{
    struct ps_source *s = fake_source_new();
    put_text(s, "config.json", config_text);
    put_file(s, "model.safetensors", all_tensors, 4, 4, 0, 1);
    return s;
}

static const char two_files_index[] =
    "{\"metadata\":{\"total_size\":1,\"x\":[{}]},\"weight_map\":{"
    "\"lm_head.weight\":\"b.safetensors\",\"model.layers.1.w\":\"b.safetensors\","
    "\"model.embed_tokens.weight\":\"a.safetensors\",\"model.layers.0.w\":\"a.safetensors\"}}";

static struct ps_source *two_file_model(void)
{
    static const char *const in_b[] = {"model.layers.1.w", "lm_head.weight", "model.layers.0.w"};
    struct ps_source *s = fake_source_new();
    put_text(s, "config.json", config_text);
    put_text(s, "model.safetensors.index.json", two_files_index);
    put_file(s, "a.safetensors", all_tensors, 2, 4, 0, 1);
    put_file(s, "b.safetensors", in_b, 3, 4, 0,
             1); /* the third also lies in a, which the index prefers */
    return s;
}

static int open_code(struct ps_source *s, struct ps_err *err)
{
    struct ps_model_files f = {0};
    int rc = ps_model_files_open(&f, s, err);
    if (rc != 0)
        assert_null(f.map);
    ps_model_files_close(&f);
    return rc;
}

static void opens_a_single_file(void **state)
{
    (void)state;
    struct ps_source *s = single_file_model();
    struct ps_model_files f;
    struct ps_err err = {0};
    assert_ok(ps_model_files_open(&f, s, &err), &err);
    assert_null(f.manifest);
    assert_int_equal(f.config_len, strlen(config_text));
    assert_string_equal(f.config, config_text);
    assert_false(f.map->presplit);
    assert_int_equal(f.map->n_objects, 1);
    assert_string_equal(f.map->objects[0].etag, "\"1\"");
    assert_string_equal(f.map->objects[0].identity, "fake/model.safetensors|1");
    assert_int_equal(f.map->n_tensors, 4);
    int64_t i = ps_map_find(f.map, "model.layers.1.w");
    assert_true(i >= 0);
    uint8_t row[8];
    const struct ps_extent *e = &f.map->extents[f.map->tensors[i].first_extent];
    assert_ok(ps_source_read(s, f.map->objects[e->object].name, e->offset, row, 8, NULL, &err), &err);
    assert_memory_equal(row, "01234567", 8);
    ps_model_files_close(&f);
    ps_source_close(s);
}

static void opens_several_files(void **state)
{
    (void)state;
    struct ps_source *s = two_file_model();
    struct ps_model_files f;
    struct ps_err err = {0};
    assert_ok(ps_model_files_open(&f, s, &err), &err);
    assert_int_equal(f.map->n_objects, 2);
    assert_string_equal(f.map->objects[0].name, "a.safetensors");
    assert_int_equal(f.map->n_tensors, 4); /* the stray copy is ignored */
    int64_t i = ps_map_find(f.map, "model.layers.0.w");
    assert_int_equal(f.map->tensors[i].object, 0);
    ps_model_files_close(&f);
    ps_source_close(s);
}

static void headers_longer_than_the_probe(void **state)
{
    (void)state;
    struct ps_source *s = single_file_model();
    struct ps_err err = {0};
    put_file(s, "model.safetensors", all_tensors, 4, 4, 300000, 1);
    assert_ok(open_code(s, &err), &err);
    put_file(s, "model.safetensors", all_tensors, 4, 4, 300000, 0); /* no size, no ETag, no identity */
    assert_ok(open_code(s, &err), &err);
    ps_source_close(s);
}

static const struct ps_source_ops *plain_ops;
static size_t asked_bytes; /* of the weights' first bytes, last */

static int noting_head(struct ps_source *s, const char *object, const struct ps_terms *terms,
                       void *buf, size_t bytes, size_t *len, struct ps_object_info *info,
                       struct ps_err *err)
{
    asked_bytes = bytes;
    return plain_ops->head(s, object, terms, buf, bytes, len, info, err);
}

/* Four processes that open a model of 7 MB may fetch 2 % more than one: what lies behind the header comes twice. */
static void the_probe_is_as_long_as_the_layers_need(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        size_t least, most;
    } cases[] = {
        {"{\"num_hidden_layers\":5}", 5056, 16384},   /* models/kjv: 5,056 bytes of header */
        {"{\"num_hidden_layers\":18}", 28696, 49152}, /* gemma-3-270m */
        {"{\"num_hidden_layers\":30}", 65536, 65536},
        {"{\"num_hidden_layers\":80}", 65536, 65536},
        {"{\"num_hidden_layers\":1000000000000}", 65536, 65536},
        {"{\"num_hidden_layers\":0}", 65536, 65536},
        {"{\"num_hidden_layers\":\"five\"}", 65536, 65536},
        {"{\"num_hidden_layers\":5,\"num_experts\":64}", 65536, 65536},
        {"{\"num_hidden_layers\":5,\"quantization_config\":{}}", 65536, 65536},
        {"{\"num_hidden_layers\":5,\"text_config\":{}}", 65536, 65536},
        {"{}", 65536, 65536},
    };
    struct ps_source *s = single_file_model();
    struct ps_err err = {0};
    plain_ops = s->ops;
    struct ps_source_ops ops = *plain_ops;
    ops.head = noting_head;
    s->ops = &ops;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        put_text(s, "config.json", cases[i].config);
        assert_ok(open_code(s, &err), &err);
        assert_in_range(asked_bytes, cases[i].least, cases[i].most);
    }
    /* A longer header than was expected costs a question. */
    put_text(s, "config.json", cases[0].config);
    unsigned before = fake_source_requests(s);
    assert_ok(open_code(s, &err), &err);
    const unsigned usual = fake_source_requests(s) - before;
    put_file(s, "model.safetensors", all_tensors, 4, 4, 20000, 1);
    before = fake_source_requests(s);
    assert_ok(open_code(s, &err), &err);
    assert_int_equal(fake_source_requests(s) - before, usual + 1);
    s->ops = plain_ops;
    ps_source_close(s);
}

static int change_file(void *user, const struct ps_range *r)
{
    (void)r;
    put_file(user, "model.safetensors", all_tensors, 4, 4, 300000, 2);
    return 0;
}

static void a_file_that_changes_between_two_reads(void **state)
{
    (void)state;
    struct ps_source *s = single_file_model();
    put_file(s, "model.safetensors", all_tensors, 4, 4, 300000, 1);
    fake_source_set_hook(s, change_file, s);
    assert_int_equal(open_code(s, NULL), PS_EDATA);
    ps_source_close(s);
}

static void id_of(struct ps_source *s, uint8_t id[PS_SHA256_BYTES])
{
    struct ps_model_files f;
    struct ps_err err = {0};
    assert_ok(ps_model_files_open(&f, s, &err), &err);
    memcpy(id, f.map->model_id, PS_SHA256_BYTES);
    ps_model_files_close(&f);
}

static void the_id_follows_what_matters(void **state)
{
    (void)state;
    struct ps_source *s = two_file_model();
    uint8_t id[4][PS_SHA256_BYTES], again[PS_SHA256_BYTES];
    id_of(s, id[0]);
    id_of(s, again);
    assert_memory_equal(id[0], again, sizeof again);
    put_file(s, "a.safetensors", all_tensors, 2, 4, 0, 2); /* another version, same bytes */
    id_of(s, id[1]);
    put_file(s, "a.safetensors", all_tensors, 2, 4, 1, 2); /* another header */
    id_of(s, id[2]);
    put_text(s, "config.json", "{}");
    id_of(s, id[3]);
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < a; b++)
            assert_memory_not_equal(id[a], id[b], PS_SHA256_BYTES);
    ps_source_close(s);
}

/* ---- Gathered embeddings ---- */

static uint32_t embedding_extents(const char *config, bool head)
{
    static const char *const tensors[] = {"model.embed_tokens.weight", "lm_head.weight"};
    struct ps_source *s = fake_source_new();
    struct ps_model_files f;
    struct ps_err err = {0};
    put_text(s, "config.json", config);
    put_file(s, "model.safetensors", tensors, head ? 2 : 1, 4000000, 0, 1);
    assert_ok(ps_model_files_open(&f, s, &err), &err);
    assert_true(f.map->extent_target_bytes > PS_EXTENT_MIN_BYTES || !head);
    uint32_t rows = f.map->extents[0].n_rows;
    ps_model_files_close(&f);
    ps_source_close(s);
    return rows;
}

static void only_untied_embeddings_are_gathered(void **state)
{
    (void)state;
    const uint32_t small = PS_EXTENT_MIN_BYTES / 8;
    assert_int_equal(embedding_extents("{\"tie_word_embeddings\":false}", true), small);
    assert_int_equal(embedding_extents("{}", true), small);
    assert_int_equal(embedding_extents("{\"tie_word_embeddings\":null}", true), small);
    assert_true(embedding_extents("{\"tie_word_embeddings\":true}", true) > small);
    assert_true(embedding_extents("{\"text_config\":{\"tie_word_embeddings\":true}}", true) > small);
    assert_int_equal(embedding_extents("{\"text_config\":{\"tie_word_embeddings\":false}}", true),
                     small);
}

/* ---- What stands in the way ---- */

static void nothing_there(void **state)
{
    (void)state;
    struct ps_source *s = fake_source_new();
    struct ps_err err = {0};
    assert_int_equal(open_code(s, &err), PS_ENOTFOUND);
    assert_non_null(strstr(err.text, "fake://model"));
    assert_non_null(strstr(err.text, "penstock.manifest"));
    assert_non_null(strstr(err.text, "config.json"));
    put_text(s, "config.json", config_text);
    assert_int_equal(open_code(s, &err), PS_ENOTFOUND);
    assert_non_null(strstr(err.text, "model.safetensors.index.json"));
    ps_source_close(s);
}

static void pages_instead_of_objects(void **state)
{
    (void)state;
    struct ps_source *s = single_file_model();
    struct ps_err err = {0};
    fake_source_set_page(s, page);
    assert_ok(open_code(s, &err), &err);
    fake_source_remove(s, "model.safetensors");
    assert_int_equal(open_code(s, &err), PS_ENOTFOUND);
    fake_source_remove(s, "config.json");
    assert_int_equal(open_code(s, &err), PS_ENOTFOUND);
    ps_source_close(s);
    s = two_file_model();
    fake_source_set_page(s, page);
    assert_ok(open_code(s, &err), &err);
    fake_source_remove(s, "b.safetensors");
    assert_int_equal(open_code(s, &err), PS_ENOTFOUND);
    assert_non_null(strstr(err.text, "b.safetensors"));
    ps_source_close(s);
}

static void refusals(void **state)
{
    (void)state;
    struct ps_source *s = single_file_model();
    struct ps_err err = {0};
    fake_source_fail(s, "penstock.manifest", PS_EREFUSED);
    fake_source_fail(s, "model.safetensors.index.json", PS_EREFUSED);
    assert_ok(open_code(s, &err), &err);
    fake_source_fail(s, "config.json", PS_EREFUSED);
    assert_int_equal(open_code(s, &err), PS_EREFUSED);
    fake_source_fail(s, "config.json", PS_ENOTFOUND);
    assert_int_equal(open_code(s, &err), PS_EREFUSED);
    fake_source_fail(s, "penstock.manifest", PS_ENET);
    fake_source_fail(s, "config.json", 0);
    assert_int_equal(open_code(s, &err), PS_ENET);
    fake_source_fail(s, "penstock.manifest", 0);
    fake_source_fail(s, "model.safetensors", PS_EREFUSED);
    assert_int_equal(open_code(s, &err), PS_EREFUSED);
    fake_source_fail(s, "model.safetensors.index.json", PS_ENET);
    assert_int_equal(open_code(s, &err), PS_ENET);
    ps_source_close(s);
}

static void indexes_that_lie(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"weight_map\":{}}",
        "{\"weight_map\":[]}",
        "{\"weight_map\":{\"a\":1}}",
        "{\"weight_map\":{\"a\":\"../b.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"/b.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"\"}}",
        "{\"weight_map\":{\"model.layers.1.w\":\"a.safetensors\"}}",
        "{\"weight_map\":{\"model.layers.0.w\":\"a.safetensors\",\"nowhere\":\"a.safetensors\"}}",
        "{\"weight_map\":{\"model.layers.0.w\":\"a.safetensors\",\"model.layers.0.w\":\"b."
        "safetensors\"}}",
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct ps_source *s = two_file_model();
        struct ps_err err = {0};
        put_text(s, "model.safetensors.index.json", bad[i]);
        if (open_code(s, &err) != PS_EDATA)
            fail_msg("index %zu was not refused (%s)", i, err.text);
        ps_source_close(s);
    }
    struct ps_source *s = two_file_model();
    struct ps_err err = {0};
    put_text(s, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"none.safetensors\"}}");
    assert_int_equal(open_code(s, &err), PS_ENOTFOUND);
    assert_non_null(strstr(err.text, "none.safetensors"));
    put_text(s, "model.safetensors.index.json", two_files_index);
    put_text(s, "a.safetensors", "12345");
    assert_int_equal(open_code(s, &err), PS_EDATA);
    assert_non_null(strstr(err.text, "a.safetensors"));
    put_text(s, "config.json", "{\"tie_word_embeddings\":7}");
    assert_int_equal(open_code(s, &err), PS_EDATA);
    ps_source_close(s);
}

static void small_files(void **state)
{
    (void)state;
    struct ps_source *s = single_file_model();
    struct ps_model_files f;
    struct ps_err err = {0};
    char *bytes = NULL;
    size_t len;
    put_text(s, "tokenizer.json", "{\"x\":1}");
    fake_source_fail(s, "hidden.json", PS_EREFUSED);
    assert_ok(ps_model_files_open(&f, s, &err), &err);
    assert_ok(ps_model_files_get(&bytes, &len, &f, s, "tokenizer.json", 100, &err), &err);
    assert_string_equal(bytes, "{\"x\":1}");
    ps_free(bytes);
    assert_int_equal(ps_model_files_get(&bytes, &len, &f, s, "tokenizer.json", 3, &err), PS_EDATA);
    assert_int_equal(ps_model_files_get(&bytes, &len, &f, s, "chat_template.jinja", 100, &err),
                     PS_ENOTFOUND);
    assert_int_equal(ps_model_files_get(&bytes, &len, &f, s, "hidden.json", 100, &err), PS_ENOTFOUND);
    fake_source_set_page(s, page);
    assert_int_equal(ps_model_files_get(&bytes, &len, &f, s, "tokenizer_config.json", 100, &err),
                     PS_ENOTFOUND);
    unsigned before = fake_source_requests(s);
    assert_ok(ps_model_files_get(&bytes, &len, &f, s, "config.json", 1, &err), &err);
    assert_string_equal(bytes, config_text);
    assert_int_equal(fake_source_requests(s), before);
    ps_free(bytes);
    ps_model_files_close(&f);
    ps_source_close(s);
}

/* ---- Pre-split ---- */

enum { SHARDS = 11 };

/* A tree of SHARDS shards with one tensor of 4 x 8 bytes each. */
static struct ps_source *presplit_model(char *first_shard, size_t cap)
{
    struct ps_source *s = fake_source_new();
    struct ps_manifest_file files[2] = {{.name = (char *)"config.json", .bytes = strlen(config_text)},
                                        {.name = (char *)"tokenizer.json", .bytes = 2}};
    struct ps_manifest_shard shards[SHARDS] = {0};
    struct ps_err err = {0};
    ps_sha256_once(config_text, strlen(config_text), files[0].sha256);
    ps_sha256_once("{}", 2, files[1].sha256);
    put_text(s, "config.json", config_text);
    put_text(s, "tokenizer.json", "{}");
    for (int i = 0; i < SHARDS; i++) {
        char name[64], *index, object[4096 + 32] = {0};
        size_t len;
        snprintf(name, sizeof name, "model.layers.%d.w", i);
        struct ps_shard_extent e = {.offset = 4096, .n_rows = 4, .stored_bytes = 32, .raw_bytes = 32};
        memset(object + 4096, i, 32);
        ps_sha256_once(object + 4096, 32, e.sha256);
        struct ps_shard_tensor t = {
            .name = name, .dtype = PS_U8, .n_dims = 2, .shape = {4, 8}, .extents = &e, .n_extents = 1};
        const struct ps_shard_index x = {.layer = i, .tensors = &t, .n_tensors = 1};
        assert_ok(ps_shard_index_encode(&x, &index, &len, &err), &err);
        ps_shard_head_write((uint8_t *)object, (uint32_t)len);
        memcpy(object + PS_SHARD_HEAD_BYTES, index, len);
        shards[i] = (struct ps_manifest_shard){.bytes = sizeof object,
                                               .index_bytes = (uint32_t)len,
                                               .layer = i,
                                               .n_extents = 1};
        ps_sha256_once(index, len, shards[i].index_sha256);
        char *shard = ps_shard_name(shards[i].index_sha256);
        fake_source_put(s, shard, object, sizeof object, 1);
        if (i == 0)
            snprintf(first_shard, cap, "%s", shard);
        ps_free(shard);
        ps_free(index);
    }
    struct ps_manifest m = {.source_label = (char *)"",
                            .architecture = (char *)"LlamaForCausalLM",
                            .codec = (char *)"raw",
                            .raw_bytes = 32 * SHARDS,
                            .stored_bytes = 32 * SHARDS,
                            .n_tensors = SHARDS,
                            .n_extents = SHARDS,
                            .extent_target_bytes = PS_EXTENT_MIN_BYTES,
                            .files = files,
                            .n_files = 2,
                            .shards = shards,
                            .n_shards = SHARDS};
    char *bytes;
    size_t len;
    assert_ok(ps_manifest_encode(&m, &bytes, &len, &err), &err);
    fake_source_put(s, PS_MANIFEST_NAME, bytes, len, 1);
    ps_free(bytes);
    return s;
}

static void opens_a_presplit_model(void **state)
{
    (void)state;
    char shard[128], *bytes;
    size_t len;
    struct ps_source *s = presplit_model(shard, sizeof shard);
    struct ps_model_files f;
    struct ps_err err = {0};
    put_file(s, "model.safetensors", all_tensors, 4, 4, 0, 1); /* the manifest wins */
    assert_ok(ps_model_files_open(&f, s, &err), &err);
    assert_non_null(f.manifest);
    assert_true(f.map->presplit);
    assert_int_equal(f.map->n_tensors, SHARDS);
    assert_string_equal(f.config, config_text);
    for (uint32_t i = 0; i < f.map->n_extents; i++) {
        const struct ps_extent *e = &f.map->extents[i];
        uint8_t data[32];
        assert_ok(ps_source_read(s, f.map->objects[e->object].name, e->offset, data, 32, e->key, &err),
                  &err);
        assert_int_equal(data[0], i);
    }
    fake_source_corrupt(s, "tokenizer.json", 1);
    assert_ok(ps_model_files_get(&bytes, &len, &f, s, "tokenizer.json", 100, &err), &err);
    ps_free(bytes);
    fake_source_corrupt(s, "tokenizer.json", 2);
    assert_int_equal(ps_model_files_get(&bytes, &len, &f, s, "tokenizer.json", 100, &err), PS_EDATA);
    assert_int_equal(ps_model_files_get(&bytes, &len, &f, s, "tokenizer.json", 1, &err), PS_EDATA);
    put_text(s, "unlisted.json", "{}");
    assert_int_equal(ps_model_files_get(&bytes, &len, &f, s, "unlisted.json", 100, &err),
                     PS_ENOTFOUND);
    ps_model_files_close(&f);
    ps_source_close(s);
}

static void one_bad_transfer_is_no_damage(void **state)
{
    (void)state;
    char shard[128];
    struct ps_source *s = presplit_model(shard, sizeof shard);
    struct ps_err err = {0};
    fake_source_corrupt(s, shard, 1);
    fake_source_corrupt(s, "config.json", 1);
    assert_ok(open_code(s, &err), &err);
    fake_source_corrupt(s, shard, 2);
    assert_int_equal(open_code(s, &err), PS_EDATA);
    assert_non_null(strstr(err.text, shard));
    fake_source_corrupt(s, shard, 0);
    fake_source_corrupt(s, "config.json", 4);
    assert_int_equal(open_code(s, &err), PS_EDATA);
    fake_source_corrupt(s, "config.json", 0);
    fake_source_remove(s, shard);
    assert_int_equal(open_code(s, &err), PS_ENOTFOUND);
    assert_non_null(strstr(err.text, shard));
    ps_source_close(s);
}

static void damaged_and_newer_manifests_are_not_missing(void **state)
{
    (void)state;
    struct ps_source *s = single_file_model();
    struct ps_err err = {0};
    put_text(s, PS_MANIFEST_NAME, "garbage");
    assert_int_equal(open_code(s, &err), PS_EDATA);
    put_text(s, PS_MANIFEST_NAME, "\x08\x09");
    assert_int_equal(open_code(s, &err), PS_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "format version 9"));
    ps_source_close(s);
}

/* ---- Memory ---- */

static int open_close(void *user)
{
    return open_code(user, NULL);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    char shard[128];
    struct ps_source *s = single_file_model();
    assert_true(test_every_alloc_failure(open_close, s) > 15);
    ps_source_close(s);
    s = presplit_model(shard, sizeof shard);
    assert_true(test_every_alloc_failure(open_close, s) > 50);
    ps_source_close(s);
}

/* The index of a real 70B model: 162 files, made up here with the tensors that it names. */
static void a_real_index_of_162_files(void **state)
{
    (void)state;
    char path[512], file[640], *index;
    size_t len;
    struct ps_err err = {0};
    if (!test_data_path(path, sizeof path, "index/Reflection-Llama-3.1-70B"))
        skip();
    snprintf(file, sizeof file, "%s/model.safetensors.index.json", path);
    assert_ok(ps_file_read(&index, &len, file, 1 << 24, &err), &err);
    struct ps_source *s = fake_source_new();
    put_text(s, "config.json", config_text);
    fake_source_put(s, "model.safetensors.index.json", index, len, 1);
    unsigned tensors = 0, files = 0;
    for (int i = 1; i <= 162; i++) {
        char name[64];
        const char *names[64];
        unsigned n = 0;
        snprintf(name, sizeof name, "model-%05d-of-00162.safetensors", i);
        for (char *p = index; (p = strstr(p, name)) != NULL; p++) {
            char *end =
                p; /* "tensor": "file": walk back to the tensor's quotes; NULs end the names, undone below */
            while (*--end != ':')
                ;
            while (*--end != '"')
                ;
            char *begin = end;
            while (*--begin != '"')
                ;
            names[n++] = ps_strndup(begin + 1, (size_t)(end - begin - 1));
        }
        put_file(s, name, names, n, 2, 0, 1);
        tensors += n;
        files += n > 0;
        for (unsigned k = 0; k < n; k++)
            ps_free((char *)(uintptr_t)names[k]);
    }
    struct ps_model_files f;
    assert_ok(ps_model_files_open(&f, s, &err), &err);
    assert_int_equal(f.map->n_objects, files);
    assert_int_equal(f.map->n_tensors, tensors);
    assert_int_equal(tensors, 723);
    ps_model_files_close(&f);
    ps_source_close(s);
    ps_free(index);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(opens_a_single_file),
    cmocka_unit_test(opens_several_files),
    cmocka_unit_test(headers_longer_than_the_probe),
    cmocka_unit_test(the_probe_is_as_long_as_the_layers_need),
    cmocka_unit_test(a_file_that_changes_between_two_reads),
    cmocka_unit_test(the_id_follows_what_matters),
    cmocka_unit_test(only_untied_embeddings_are_gathered),
    cmocka_unit_test(nothing_there),
    cmocka_unit_test(pages_instead_of_objects),
    cmocka_unit_test(refusals),
    cmocka_unit_test(indexes_that_lie),
    cmocka_unit_test(small_files),
    cmocka_unit_test(opens_a_presplit_model),
    cmocka_unit_test(one_bad_transfer_is_no_damage),
    cmocka_unit_test(damaged_and_newer_manifests_are_not_missing),
    cmocka_unit_test(every_allocation_may_fail),
    cmocka_unit_test(a_real_index_of_162_files),
};

TEST_MAIN(tests)
