/* Splitting: order, both codecs, the same tree every time, and being stopped, killed, or out of room at any point. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/host.h"
#include "base/strbuf.h"
#include "kernels/codec/codec.h"
#include "proto/layout.h"
#include "tests/support/fake_source.h"
#include "tests/support/test.h"

/* The program's sources are no library, so the parts under test are taken in whole. */
#include "tools/split.c"
#include "tools/split_folder.c"
#include "tools/split_journal.c"
#include "tools/split_pack.c"
#include "tools/split_plan.c"
#include "tools/split_policy.c"
#include "tools/split_report.c"
#include "tools/split_s3.c"
#include "tools/split_tree.c"

/* ---- A model to split ---- */

struct tensor_spec {
    const char *name;
    unsigned rows, cols; /* of bytes */
    const char *dtype;
    unsigned each; /* bytes of one */
};

static const struct tensor_spec in_a[] = {
    {"model.embed_tokens.weight", 700, 1000, "U8", 1},
    {"model.layers.1.mlp.up_proj.weight", 300, 1000, "U8", 1},
    {"model.layers.0.self_attn.q_proj.weight", 900, 1000, "U8", 1},
    {"model.layers.0.input_layernorm.weight", 1, 1000, "U8", 1},
    {"model.layers.0.self_attn.q_proj.bias", 1, 900, "U8", 1},
    {"model.layers.0.odd_thing", 0, 8, "U8", 1},
};
static const struct tensor_spec in_b[] = {
    {"model.norm.weight", 1, 1000, "U8", 1},
    {"model.layers.1.self_attn.k_proj.weight", 41, 9001, "U8", 1},
    {"lm_head.weight", 700, 1000, "U8", 1},
};

/* Half of the blocks shrink, half don't. */
static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    uint64_t x = 0x9E3779B97F4A7C15ull * (seed + 1);
    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (i >> 18) % 2 == 0 && seed % 3 != 0 ? (uint8_t)(i / 64) : (uint8_t)(x >> 32);
    }
}

/* Numbers whose exponents say little: the upper two bytes of each as bf16 has them. */
static void fill_weights(uint8_t *p, size_t n, unsigned each, uint32_t seed)
{
    fill(p, n, 3 * seed);
    for (size_t i = 0; i < n; i += each) {
        uint8_t *top = p + i + each - 2;
        unsigned e = 120 - (unsigned)__builtin_ctz(top[0] | 1u << 8);
        top[0] = (uint8_t)((top[0] & 0x7f) | e << 7);
        top[1] = (uint8_t)((top[1] & 0x80) | e >> 1);
    }
}

static void put_file(struct ps_source *s, const char *name, const struct tensor_spec *t, unsigned n,
                     unsigned version)
{
    struct ps_strbuf b;
    size_t at = 0;
    ps_strbuf_init(&b, 1 << 26);
    ps_strbuf_append(&b, "\0\0\0\0\0\0\0", 8);
    for (unsigned i = 0; i < n; i++) {
        size_t bytes = (size_t)t[i].rows * t[i].cols;
        ps_strbuf_printf(&b,
                         "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%u,%u],\"data_offsets\":[%zu,%zu]}",
                         i ? ',' : '{', t[i].name, t[i].dtype, t[i].rows, t[i].cols / t[i].each, at,
                         at + bytes);
        at += bytes;
    }
    ps_strbuf_puts(&b, "}");
    uint64_t header = b.len - 8;
    for (unsigned i = 0; i < n; i++) {
        size_t bytes = (size_t)t[i].rows * t[i].cols;
        uint8_t *data = ps_malloc(bytes);
        if (t[i].each > 1)
            fill_weights(data, bytes, t[i].each, i + version);
        else
            fill(data, bytes, i + version);
        ps_strbuf_append(&b, data, bytes);
        ps_free(data);
    }
    assert_true(ps_strbuf_ok(&b));
    for (int i = 0; i < 8; i++)
        b.data[i] = (char)(header >> (8 * i));
    fake_source_put(s, name, b.data, b.len, version);
    ps_strbuf_deinit(&b);
}

static struct ps_source *model(unsigned version)
{
    static const char config[] = "{\"architectures\":[\"LlamaForCausalLM\"]}";
    struct ps_source *s = fake_source_new();
    struct ps_strbuf b;
    ps_strbuf_init(&b, 1 << 20);
    for (int f = 0; f < 2; f++) {
        const struct tensor_spec *t = f ? in_b : in_a;
        for (size_t i = 0; i < (f ? TEST_COUNT(in_b) : TEST_COUNT(in_a)); i++)
            ps_strbuf_printf(&b, "%s\"%s\":\"%s.safetensors\"", b.len ? "," : "{\"weight_map\":{",
                             t[i].name, f ? "b" : "a");
    }
    ps_strbuf_puts(&b, "}}");
    fake_source_put(s, "model.safetensors.index.json", b.data, b.len, 1);
    ps_strbuf_deinit(&b);
    fake_source_put(s, "config.json", config, strlen(config), 1);
    fake_source_put(s, "tokenizer.json", "{\"a\":1}", 7, 1);
    fake_source_put(s, "README.md", "no", 2, 1);
    put_file(s, "a.safetensors", in_a, TEST_COUNT(in_a), version);
    put_file(s, "b.safetensors", in_b, TEST_COUNT(in_b), version);
    return s;
}

/* ---- Looking at trees ---- */

static void hash_dir(struct ps_sha256 *h, const char *path, const char *sub, struct ps_source *into,
                     unsigned *n_files)
{
    char dir[512], name[600], file[1200];
    struct dirent **list;
    snprintf(dir, sizeof dir, "%s/%s", path, sub);
    int n = scandir(dir, &list, NULL, alphasort);
    assert_true(n >= 0);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s%s%s", sub, sub[0] ? "/" : "", list[i]->d_name);
        snprintf(file, sizeof file, "%s/%s", path, name);
        bool skip = strcmp(list[i]->d_name, ".") == 0 || strcmp(list[i]->d_name, "..") == 0;
        if (!skip && strcmp(name, "shards") == 0)
            hash_dir(h, path, name, into, n_files);
        else if (!skip) {
            char *bytes;
            size_t len;
            struct ps_err err = {0};
            assert_ok(ps_file_read(&bytes, &len, file, 64 << 20, &err), &err);
            ps_sha256_update(h, name, strlen(name) + 1);
            ps_sha256_update(h, bytes, len);
            if (into)
                fake_source_put(into, name, bytes, len, 1);
            ps_free(bytes);
            ++*n_files;
        }
        (free)(list[i]); /* lint-allow: heap, scandir's own */
    }
    (free)(list); /* lint-allow: heap, scandir's own */
}

/* Hash over all names and bytes; the files also go into a source, if one is given. */
static unsigned hash_tree(const char *path, uint8_t hash[PS_SHA256_BYTES], struct ps_source *into)
{
    struct ps_sha256 *h;
    unsigned n = 0;
    assert_int_equal(ps_sha256_new(&h), 0);
    hash_dir(h, path, "", into, &n);
    ps_sha256_final(h, hash);
    ps_sha256_free(h);
    return n;
}

/* Inode and time of every shard: what is untouched keeps both. */
static uint64_t stamp_of_shards(const char *path, unsigned *n)
{
    char dir[512];
    uint64_t sum = 0;
    struct dirent **list;
    snprintf(dir, sizeof dir, "%s/shards", path);
    int found = scandir(dir, &list, NULL, alphasort);
    *n = 0;
    for (int i = 0; i < found; i++) {
        char file[1024];
        struct stat st;
        snprintf(file, sizeof file, "%s/%s", dir, list[i]->d_name);
        if (list[i]->d_name[0] != '.' && stat(file, &st) == 0) {
            sum = sum * 31 + (uint64_t)st.st_ino * 1000003 + (uint64_t)st.st_mtim.tv_nsec;
            ++*n;
        }
        (free)(list[i]); /* lint-allow: heap, scandir's own */
    }
    if (found >= 0)
        (free)(list); /* lint-allow: heap, scandir's own */
    return sum;
}

static int split(struct ps_source *s, const char *dst, enum ps_codec codec, unsigned threads,
                 struct ps_err *err)
{
    const struct ps_split_options o = {.dst = dst,
                                       .packing = {codec, PS_DTYPE_NONE},
                                       .threads = threads,
                                       .source_label = "org/name@c0ffee"};
    return ps_split(s, &o, NULL, err);
}

/* The tree that an undisturbed split gives. */
static void reference_tree(enum ps_codec codec, unsigned version, uint8_t hash[PS_SHA256_BYTES])
{
    char dir[256];
    struct ps_err err = {0};
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(version);
    assert_ok(split(s, dir, codec, 2, &err), &err);
    hash_tree(dir, hash, NULL);
    ps_source_close(s);
    test_remove_tree(dir);
}

/* ---- Order ---- */

static void order_of_use(void **state)
{
    (void)state;
    static const char *const names[] = {
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.10.mlp.experts.10.up_proj.weight",
        "model.layers.10.mlp.experts.2.down_proj.weight",
        "model.layers.10.mlp.experts.2.gate_proj.weight",
        "model.layers.10.mlp.gate.weight",
        "model.layers.2.unknown.b",
        "model.layers.2.mlp.down_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.2.mlp.gate_proj.weight",
        "model.layers.2.post_attention_layernorm.weight",
        "model.layers.2.self_attn.o_proj.weight",
        "model.layers.2.self_attn.k_norm.weight",
        "model.layers.2.self_attn.q_norm.weight",
        "model.layers.2.self_attn.v_proj.weight",
        "model.layers.2.self_attn.k_proj.weight",
        "model.layers.2.self_attn.q_proj.weight",
        "model.layers.2.self_attn.q_proj.bias",
        "model.layers.2.input_layernorm.weight",
        "model.layers.2.another",
        "model.embed_tokens.weight",
    };
    static const uint32_t want[] = {20, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9,
                                    8,  7,  19, 6,  5,  4,  3,  2,  1,  0};
    const uint64_t shape[2] = {2, 2};
    for (int tied = 0; tied < 2; tied++) {
        struct ps_map_builder *b;
        struct ps_map *m;
        struct ps_split_plan *p;
        struct ps_err err = {0};
        uint32_t object;
        assert_int_equal(ps_map_builder_new(&b), 0);
        assert_int_equal(ps_map_add_object(b, "x", 0, NULL, "id", &object, NULL), 0);
        for (size_t i = 0; i < TEST_COUNT(names); i++)
            assert_int_equal(ps_map_add_tensor(b, tied && i == 0 ? "z.weight" : names[i], PS_U8,
                                               shape, 2, 0, i * 4, false, NULL),
                             0);
        assert_int_equal(ps_map_builder_finish(&m, b, (const uint8_t[PS_SHA256_BYTES]){0}, NULL), 0);
        assert_ok(ps_split_plan_new(&p, m, &err), &err);
        if (!tied) {
            assert_int_equal(p->n_shards, 4);
            assert_int_equal(p->shards[0].layer, -1);
            assert_int_equal(p->shards[0].n_tensors, 1);
            assert_int_equal(p->shards[1].layer, 2);
            assert_int_equal(p->shards[1].n_tensors, 14);
            assert_int_equal(p->shards[2].layer, 10);
            assert_int_equal(p->shards[3].layer, -1);
            for (size_t i = 0; i < TEST_COUNT(names); i++)
                assert_int_equal(p->tensors[i], want[i]);
        } else { /* the embedding is the head: behind the final norm */
            assert_int_equal(p->n_shards, 3);
            assert_int_equal(p->shards[2].layer, -1);
            assert_int_equal(p->shards[2].n_tensors, 3);
            assert_int_equal(p->tensors[18], 1);
            assert_int_equal(p->tensors[19], 20);
        }
        ps_split_plan_free(p);
        ps_map_free(m);
    }
}

/* ---- What comes out is what went in ---- */

static void read_tensor(uint8_t *out, struct ps_source *s, const struct ps_map *m, const char *name)
{
    int64_t i = ps_map_find(m, name);
    struct ps_err err = {0};
    assert_true(i >= 0);
    const struct ps_tensor *t = &m->tensors[i];
    for (uint32_t k = 0; k < t->n_extents; k++) {
        const struct ps_extent *e = &m->extents[t->first_extent + k];
        uint8_t *stored = ps_malloc(e->stored_bytes), *in = stored;
        assert_ok(ps_source_read(s, m->objects[e->object].name, e->offset, stored, e->stored_bytes,
                                 e->hashed ? e->key : NULL, &err),
                  &err);
        if (e->codec == PS_CODEC_RAW)
            memcpy(out, stored, e->raw_bytes);
        size_t left = e->raw_bytes;
        for (uint32_t b = 0; b < e->n_blocks; b++) {
            size_t n = t->block_rows * t->row_bytes < left ? t->block_rows * t->row_bytes : left;
            uint32_t bytes = m->block_bytes[e->first_block + b];
            assert_ok(ps_codec_decode((enum ps_codec)e->codec, t->dtype, in, bytes,
                                      out + (e->raw_bytes - left), n, &err),
                      &err);
            in += bytes;
            left -= n;
        }
        out += e->raw_bytes;
        ps_free(stored);
    }
}

static void round_trip(enum ps_codec codec)
{
    char dir[256];
    uint8_t hash[PS_SHA256_BYTES], id[PS_SHA256_BYTES];
    struct ps_err err = {0};
    struct ps_model_files before, after;
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(1), *tree = fake_source_new();
    const struct ps_split_options o = {.dst = dir,
                                       .packing = {codec, PS_DTYPE_NONE},
                                       .threads = 2,
                                       .source_label = "org/name@c0ffee"};
    assert_ok(ps_split(s, &o, id, &err), &err);
    assert_int_equal(hash_tree(dir, hash, tree),
                     3 + 4); /* manifest, config, tokenizer; four shards; nothing else */
    assert_ok(ps_model_files_open(&before, s, &err), &err);
    assert_ok(ps_model_files_open(&after, tree, &err), &err);
    assert_true(after.map->presplit);
    assert_memory_equal(after.map->model_id, id, sizeof id);
    assert_string_equal(after.manifest->architecture, "LlamaForCausalLM");
    assert_string_equal(after.manifest->source_label, "org/name@c0ffee");
    assert_int_equal(after.map->n_tensors, before.map->n_tensors);
    assert_int_equal(after.map->raw_bytes, before.map->raw_bytes);
    assert_true(codec == PS_CODEC_RAW ? after.map->stored_bytes == after.map->raw_bytes
                                      : after.map->stored_bytes < after.map->raw_bytes);
    for (uint32_t i = 0; i < before.map->n_tensors; i++) {
        const struct ps_tensor *t = &before.map->tensors[i];
        size_t n = (size_t)(t->rows * t->row_bytes);
        uint8_t *x = ps_calloc(1, n + 1), *y = ps_calloc(1, n + 1);
        read_tensor(x, s, before.map, t->name);
        read_tensor(y, tree, after.map, t->name);
        assert_memory_equal(x, y, n + 1);
        ps_free(x);
        ps_free(y);
    }
    ps_model_files_close(&before);
    ps_model_files_close(&after);
    ps_source_close(s);
    ps_source_close(tree);
    test_remove_tree(dir);
}

static void raw_round_trip(void **state)
{
    (void)state;
    round_trip(PS_CODEC_RAW);
}

static void lz4_round_trip(void **state)
{
    (void)state;
    round_trip(PS_CODEC_LZ4);
}

static struct ps_source *model_of_weights(void)
{
    static const struct tensor_spec t[] = {
        {"model.layers.0.q", 900, 1000, "BF16", 2}, {"model.layers.0.k", 41, 9002, "BF16", 2},
        {"model.layers.0.v", 300, 1000, "F32", 4},  {"model.layers.0.o", 300, 1000, "U8", 1},
        {"model.layers.0.norm", 1, 14, "BF16", 2},
    };
    struct ps_source *s = fake_source_new();
    fake_source_put(s, "config.json", "{}", 2, 1);
    put_file(s, "model.safetensors", t, TEST_COUNT(t), 1);
    return s;
}

/* What coding by planes makes smaller is coded; other types, and what is too short, stays raw. */
static void round_trip_of_weights(enum ps_codec codec)
{
    char dir[256];
    uint8_t hash[PS_SHA256_BYTES], again[PS_SHA256_BYTES];
    struct ps_err err = {0};
    struct ps_model_files before, after;
    struct ps_source *s = model_of_weights(), *tree = fake_source_new();
    test_temp_dir(dir, sizeof dir);
    assert_ok(split(s, dir, codec, 1, &err), &err);
    hash_tree(dir, hash, tree);
    assert_ok(ps_model_files_open(&before, s, &err), &err);
    assert_ok(ps_model_files_open(&after, tree, &err), &err);
    assert_string_equal(after.manifest->codec, ps_codec_name(codec));
    for (uint32_t i = 0; i < after.map->n_tensors; i++) {
        const struct ps_tensor *t = &after.map->tensors[i];
        size_t n = (size_t)(t->rows * t->row_bytes);
        uint8_t *x = ps_calloc(1, n), *y = ps_calloc(1, n);
        read_tensor(x, s, before.map, t->name);
        read_tensor(y, tree, after.map, t->name);
        assert_memory_equal(x, y, n);
        bool coded = t->dtype != PS_U8 && n > 14;
        for (uint32_t k = 0; k < t->n_extents; k++)
            assert_int_equal(after.map->extents[t->first_extent + k].codec,
                             coded ? codec : PS_CODEC_RAW);
        ps_free(x);
        ps_free(y);
    }
    test_remove_tree(dir);
    test_temp_dir(dir, sizeof dir);
    assert_ok(split(s, dir, codec, 4, &err), &err);
    hash_tree(dir, again, NULL);
    assert_memory_equal(hash, again, sizeof hash);
    ps_model_files_close(&before);
    ps_model_files_close(&after);
    ps_source_close(s);
    ps_source_close(tree);
    test_remove_tree(dir);
}

static void wh_round_trip(void **state)
{
    (void)state;
    round_trip_of_weights(PS_CODEC_WH);
}

static void xc34_round_trip(void **state)
{
    (void)state;
    round_trip_of_weights(PS_CODEC_XC34);
}

static void same_input_same_tree(void **state)
{
    (void)state;
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    struct ps_err err = {0};
    reference_tree(PS_CODEC_LZ4, 1, want);
    for (unsigned threads = 1; threads <= 4; threads += 3) {
        char dir[256];
        test_temp_dir(dir, sizeof dir);
        struct ps_source *s = model(1);
        assert_ok(split(s, dir, PS_CODEC_LZ4, threads, &err), &err);
        hash_tree(dir, got, NULL);
        assert_memory_equal(got, want, sizeof got);
        ps_source_close(s);
        test_remove_tree(dir);
    }
}

/* ---- Disturbances ---- */

struct trouble {
    int at;   /* the range that is hit, counted from 1 */
    int code; /* what it fails with; 0: see the hooks */
    int seen;
    volatile sig_atomic_t stop;
};

static int fail_one(void *user, const struct ps_range *r)
{
    struct trouble *t = user;
    (void)r;
    return ++t->seen == t->at ? t->code : 0;
}

static int stop_at(void *user, const struct ps_range *r)
{
    struct trouble *t = user;
    (void)r;
    if (++t->seen == t->at)
        __atomic_store_n(&t->stop, 1, __ATOMIC_RELAXED);
    return 0;
}

static int kill_at(void *user, const struct ps_range *r)
{
    struct trouble *t = user;
    (void)r;
    if (++t->seen == t->at)
        raise(SIGKILL);
    return 0;
}

static void assert_no_temps(const char *dir)
{
    char cmd[512];
    struct dirent **list;
    snprintf(cmd, sizeof cmd, "%s/shards", dir);
    int n = scandir(cmd, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        assert_int_equal(strncmp(list[i]->d_name, ".tmp", 4) == 0, 0);
        (free)(list[i]); /* lint-allow: heap, scandir's own */
    }
    if (n >= 0)
        (free)(list); /* lint-allow: heap, scandir's own */
}

static void a_failed_range_and_a_second_run(void **state)
{
    (void)state;
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    reference_tree(PS_CODEC_LZ4, 1, want);
    for (int at = 1; at <= 16; at += 3) {
        char dir[256];
        unsigned n1, n2;
        struct ps_err err = {0};
        struct trouble t = {.at = at, .code = PS_ENET};
        test_temp_dir(dir, sizeof dir);
        struct ps_source *s = model(1);
        fake_source_set_hook(s, fail_one, &t);
        int rc = split(s, dir, PS_CODEC_LZ4, 2, &err);
        if (t.seen >= at)
            assert_int_equal(rc, PS_ENET);
        assert_no_temps(dir);
        uint64_t stamp = stamp_of_shards(dir, &n1);
        fake_source_set_hook(s, NULL, NULL);
        unsigned before = fake_source_requests(s);
        assert_ok(split(s, dir, PS_CODEC_LZ4, 2, &err), &err);
        if (n1 == 4) { /* all were there: nothing was read but heads and small files, nothing was written */
            assert_int_equal(stamp_of_shards(dir, &n2), stamp);
            assert_true(fake_source_requests(s) - before < 40);
        }
        hash_tree(dir, got, NULL);
        assert_memory_equal(got, want, sizeof got);
        ps_source_close(s);
        test_remove_tree(dir);
    }
}

static void finished_shards_are_not_read_again(void **state)
{
    (void)state;
    char dir[256];
    struct ps_err err = {0};
    struct trouble t = {.at = 12, .code = PS_ENET}, count = {0};
    unsigned n;
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(1);
    fake_source_set_hook(s, fail_one, &t);
    assert_int_equal(split(s, dir, PS_CODEC_RAW, 1, &err), PS_ENET);
    stamp_of_shards(dir, &n);
    assert_int_equal(n, 2); /* of 3 and 6 extents; 17 in all */
    fake_source_set_hook(s, fail_one, &count);
    assert_ok(split(s, dir, PS_CODEC_RAW, 1, &err), &err);
    assert_int_equal(count.seen, 17 - 9);
    ps_source_close(s);
    test_remove_tree(dir);
}

static void a_stop_and_a_second_run(void **state)
{
    (void)state;
    char dir[256];
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    struct ps_err err = {0};
    struct trouble t = {.at = 5};
    const struct ps_split_options o = {.dst = dir,
                                       .packing = {PS_CODEC_LZ4, PS_DTYPE_NONE},
                                       .threads = 2,
                                       .source_label = "org/name@c0ffee",
                                       .stop = &t.stop};
    reference_tree(PS_CODEC_LZ4, 1, want);
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(1);
    fake_source_set_hook(s, stop_at, &t);
    assert_int_equal(ps_split(s, &o, NULL, &err), PS_EINTERRUPTED);
    assert_no_temps(dir);
    t.stop = 0;
    assert_ok(ps_split(s, &o, NULL, &err), &err);
    hash_tree(dir, got, NULL);
    assert_memory_equal(got, want, sizeof got);
    ps_source_close(s);
    test_remove_tree(dir);
}

static void kill_9_and_a_second_run(void **state)
{
    (void)state;
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    reference_tree(PS_CODEC_LZ4, 1, want);
    for (int round = 0; round < 12; round++) {
        char dir[256];
        struct ps_err err = {0};
        test_temp_dir(dir, sizeof dir);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct trouble t = {.at = 1 + round * 2};
            struct ps_source *s = model(1);
            if (round < 8)
                fake_source_set_hook(s, kill_at, &t);
            _exit(split(s, dir, PS_CODEC_LZ4, 2, NULL) == 0 ? 0 : 1);
        }
        if (round >= 8) { /* anywhere: also between journal, rename and manifest */
            struct timespec pause = {.tv_nsec = 5000000L * (round - 7)};
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
            kill(child, SIGKILL);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        struct ps_source *s = model(1);
        assert_ok(split(s, dir, PS_CODEC_LZ4, 2, &err), &err);
        hash_tree(dir, got, NULL);
        assert_memory_equal(got, want, sizeof got);
        ps_source_close(s);
        test_remove_tree(dir);
    }
}

static void a_torn_journal_and_a_lost_shard(void **state)
{
    (void)state;
    char dir[256], file[512], *journal;
    size_t len;
    unsigned n;
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    struct ps_err err = {0};
    struct trouble t = {.at = 9, .code = PS_ENET};
    reference_tree(PS_CODEC_RAW, 1, want);
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(1);
    fake_source_set_hook(s, fail_one, &t);
    assert_int_equal(split(s, dir, PS_CODEC_RAW, 1, &err), PS_ENET);
    fake_source_set_hook(s, NULL, NULL);
    snprintf(file, sizeof file, "%s/.penstock-split", dir);
    assert_ok(ps_file_read(&journal, &len, file, 1 << 20, &err), &err);
    test_write_file(file, journal, len - 10);
    ps_free(journal);
    snprintf(file, sizeof file, "%s/shards/.tmp-shard", dir);
    test_write_file(file, "left behind", 11);
    assert_ok(split(s, dir, PS_CODEC_RAW, 1, &err), &err);
    hash_tree(dir, got, NULL);
    assert_memory_equal(got, want, sizeof got);
    stamp_of_shards(dir, &n);
    assert_int_equal(n, 4);
    ps_source_close(s);
    test_remove_tree(dir);
}

/* ---- Trees that are there already ---- */

/* Of its data: size and index stay right. */
static void flip_last_byte_of_a_shard(const char *path)
{
    char dir[512], file[1024] = "", *bytes;
    size_t len;
    struct dirent *e;
    snprintf(dir, sizeof dir, "%s/shards", path);
    DIR *d = opendir(dir);
    assert_non_null(d);
    while (!file[0] && (e = readdir(d)) != NULL)
        if (e->d_name[0] != '.')
            snprintf(file, sizeof file, "%s/%s", dir, e->d_name);
    closedir(d);
    assert_ok(ps_file_read(&bytes, &len, file, 1 << 26, NULL), NULL);
    bytes[len - 1] ^= 1;
    test_write_file(file, bytes, len);
    ps_free(bytes);
}

static void a_finished_tree_again(void **state)
{
    (void)state;
    char dir[256];
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    struct ps_err err = {0};
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(1);
    assert_ok(split(s, dir, PS_CODEC_RAW, 2, &err), &err);
    hash_tree(dir, want, NULL);
    flip_last_byte_of_a_shard(dir);
    hash_tree(dir, got, NULL);
    assert_memory_not_equal(got, want, sizeof got);
    assert_ok(split(s, dir, PS_CODEC_RAW, 2, &err), &err);
    hash_tree(dir, got, NULL);
    assert_memory_equal(got, want, sizeof got);
    ps_source_close(s);
    /* another codec: whoever reads the tree keeps its shards */
    s = model(2);
    assert_int_equal(split(s, dir, PS_CODEC_LZ4, 2, &err), PS_EUSAGE);
    assert_non_null(strstr(err.text, "--codec raw: name another place for lz4"));
    hash_tree(dir, got, NULL);
    assert_memory_equal(got, want, sizeof got);
    /* another version of the model: the old shards go */
    memset(&err, 0, sizeof err);
    assert_ok(split(s, dir, PS_CODEC_RAW, 2, &err), &err);
    reference_tree(PS_CODEC_RAW, 2, want);
    hash_tree(dir, got, NULL);
    assert_memory_equal(got, want, sizeof got);
    ps_source_close(s);
    test_remove_tree(dir);
}

static void an_interrupted_split_of_something_else(void **state)
{
    (void)state;
    char dir[256];
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    struct ps_err err = {0};
    struct trouble t = {.at = 9, .code = PS_ENET};
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(1);
    fake_source_set_hook(s, fail_one, &t);
    assert_int_equal(split(s, dir, PS_CODEC_RAW, 1, &err), PS_ENET);
    ps_source_close(s);
    s = model(2);
    assert_ok(split(s, dir, PS_CODEC_LZ4, 2, &err), &err);
    reference_tree(PS_CODEC_LZ4, 2, want);
    hash_tree(dir, got, NULL);
    assert_memory_equal(got, want, sizeof got);
    ps_source_close(s);
    test_remove_tree(dir);
}

static void what_is_refused(void **state)
{
    (void)state;
    char dir[256], file[512];
    uint8_t hash[PS_SHA256_BYTES];
    struct ps_err err = {0};
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(1), *tree;
    snprintf(file, sizeof file, "%s/model.safetensors", dir);
    test_write_file(file, "precious", 8);
    assert_int_equal(split(s, dir, PS_CODEC_RAW, 1, &err), PS_EUSAGE);
    assert_non_null(strstr(err.text, "model.safetensors"));
    assert_int_equal(unlink(file), 0);
    int lock = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(lock, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(split(s, dir, PS_CODEC_RAW, 1, &err), PS_EUSAGE);
    close(lock);
    assert_ok(split(s, dir, PS_CODEC_RAW, 1, &err), &err);
    tree = fake_source_new();
    hash_tree(dir, hash, tree);
    assert_int_equal(split(tree, dir, PS_CODEC_RAW, 1, &err), PS_EUNSUPPORTED);
    ps_source_close(tree);
    ps_source_close(s);
    test_remove_tree(dir);
}

static int swap_file(void *user, const struct ps_range *r)
{
    (void)r;
    put_file(user, "b.safetensors", in_b, TEST_COUNT(in_b), 7);
    return 0;
}

static void a_source_that_changes_under_way(void **state)
{
    (void)state;
    char dir[256], file[512];
    struct ps_err err = {0};
    test_temp_dir(dir, sizeof dir);
    struct ps_source *s = model(1);
    fake_source_set_hook(s, swap_file, s);
    assert_int_equal(split(s, dir, PS_CODEC_RAW, 1, &err), PS_EDATA);
    snprintf(file, sizeof file, "%s/penstock.manifest", dir);
    assert_int_equal(access(file, F_OK), -1);
    ps_source_close(s);
    test_remove_tree(dir);
}

/* ---- A source that is to be deleted ---- */

static void write_model(const char *dir, unsigned version)
{
    static const char *const names[] = {"config.json", "model.safetensors.index.json",
                                        "a.safetensors", "b.safetensors"};
    struct ps_source *s = model(version);
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        char file[512], *bytes;
        size_t len;
        snprintf(file, sizeof file, "%s/%s", dir, names[i]);
        assert_ok(ps_source_get(s, names[i], 1 << 26, &bytes, &len, NULL, NULL), NULL);
        test_write_file(file, bytes, len);
        ps_free(bytes);
    }
    ps_source_close(s);
}

static void only_what_was_split_is_deleted(void **state)
{
    (void)state;
    static const char *const weights[] = {"a.safetensors", "b.safetensors",
                                          "model.safetensors.index.json"};
    char dir[256], file[512], kept[512];
    struct ps_err err = {0};
    struct ps_source *s;
    struct ps_split_doomed *d;
    struct ps_split_report r = {0};
    test_temp_dir(dir, sizeof dir);
    write_model(dir, 1);
    assert_ok(ps_store_open(&s, dir, NULL, &err), &err);
    assert_ok(ps_split_doomed_new(&d, s, &err), &err);
    for (size_t i = 0; i < TEST_COUNT(weights); i++) { /* the same bytes, but another file */
        char *bytes;
        size_t len;
        snprintf(file, sizeof file, "%s/%s", dir, weights[i]);
        snprintf(kept, sizeof kept, "%s/kept", dir);
        assert_int_equal(rename(file, kept), 0);
        assert_int_equal(ps_split_delete_source(&r, d, &err), PS_EDATA);
        assert_non_null(strstr(err.text, weights[i]));
        assert_ok(ps_file_read(&bytes, &len, kept, 1 << 26, &err), &err);
        test_write_file(file, bytes, len);
        ps_free(bytes);
        assert_int_equal(ps_split_delete_source(&r, d, &err), PS_EDATA);
        assert_non_null(strstr(err.text, weights[i]));
        assert_int_equal(rename(kept, file), 0);
    }
    assert_int_equal(r.deleted_files, 0);
    assert_ok(ps_split_delete_source(&r, d, &err), &err);
    assert_int_equal(r.deleted_files, 3);
    for (size_t i = 0; i < TEST_COUNT(weights); i++) {
        snprintf(file, sizeof file, "%s/%s", dir, weights[i]);
        assert_int_equal(access(file, F_OK), -1);
    }
    ps_split_doomed_free(d);
    ps_source_close(s);
    test_remove_tree(dir);
}

/* Without privileges: a user namespace in which this user is root, so that files on a tmpfs can have an owner. */
static bool become_root_of_namespace(void)
{
    char map[64];
    snprintf(map, sizeof map, "0 %u 1", (unsigned)geteuid());
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return false;
    int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, map, strlen(map)) == (ssize_t)strlen(map);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* A file system of 2 MB, in a namespace of the child's own: 77 where that can't be had. */
static int split_in_little_room(const char *dir, size_t room)
{
    char options[64];
    struct ps_err err = {0};
    snprintf(options, sizeof options, "size=%zu", room);
    if (unshare(CLONE_NEWNS) != 0 && !become_root_of_namespace())
        return 77;
    if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", dir, "tmpfs", 0, options) != 0)
        return 77;
    struct ps_source *s = model(1);
    int rc = split(s, dir, PS_CODEC_RAW, 2, &err);
    if (rc != PS_ENOSPC) {
        print_error("expected no room, got %d: %s\n", rc, err.text);
        return 1;
    }
    assert_no_temps(dir);
    if (mount("tmpfs", dir, "tmpfs", MS_REMOUNT, "size=64m") != 0)
        return 77;
    rc = split(s, dir, PS_CODEC_RAW, 2, &err);
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    hash_tree(dir, got, NULL);
    reference_tree(PS_CODEC_RAW, 1, want);
    return rc == 0 && memcmp(want, got, sizeof got) == 0 ? 0 : 2;
}

static void no_room(void **state)
{
    (void)state;
    char dir[256];
    test_temp_dir(dir, sizeof dir);
    pid_t child = fork();
    if (child == 0)
        _exit(split_in_little_room(dir, 2 << 20));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    test_remove_tree(dir);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("skipped: no file system can be mounted here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int split_once(void *user)
{
    char dir[256];
    test_temp_dir(dir, sizeof dir);
    int rc = split(user, dir, PS_CODEC_LZ4, 1, NULL);
    test_remove_tree(dir);
    return rc;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    static const struct tensor_spec few[] = {{"model.norm.weight", 2, 8, "U8", 1},
                                             {"model.layers.0.w", 3, 8, "U8", 1}};
    struct ps_source *s = fake_source_new();
    fake_source_put(s, "config.json", "{}", 2, 1);
    put_file(s, "model.safetensors", few, 2, 1);
    assert_true(test_every_alloc_failure(split_once, s) > 40);
    ps_source_close(s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(order_of_use),
    cmocka_unit_test(raw_round_trip),
    cmocka_unit_test(lz4_round_trip),
    cmocka_unit_test(wh_round_trip),
    cmocka_unit_test(xc34_round_trip),
    cmocka_unit_test(same_input_same_tree),
    cmocka_unit_test(a_failed_range_and_a_second_run),
    cmocka_unit_test(finished_shards_are_not_read_again),
    cmocka_unit_test(a_stop_and_a_second_run),
    cmocka_unit_test(kill_9_and_a_second_run),
    cmocka_unit_test(a_torn_journal_and_a_lost_shard),
    cmocka_unit_test(a_finished_tree_again),
    cmocka_unit_test(an_interrupted_split_of_something_else),
    cmocka_unit_test(what_is_refused),
    cmocka_unit_test(a_source_that_changes_under_way),
    cmocka_unit_test(only_what_was_split_is_deleted),
    cmocka_unit_test(no_room),
    cmocka_unit_test(every_allocation_may_fail),
};

TEST_MAIN(tests)
