/* Cache folders in memory, and what a damaged one must still do. */
#include "tests/support/cache_image.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/host.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define FILL_BYTES 120000u
#define FILL_N     (IMAGE_BUDGET / FILL_BYTES + 1)

static const char *const names[] = {"CACHEDIR.TAG",   "lock",           "claims",
                                    "index/data.mdb", "index/lock.mdb", "slabs/0.slab",
                                    "slabs/1.slab",   "slabs/2.slab",   "slabs/5.slab"};

void image_use_memory(void)
{
    if (access("/dev/shm", W_OK) == 0)
        (void)setenv("TMPDIR", "/dev/shm", 1);
}

static size_t size_of(uint64_t number)
{
    return crash_extent_size(number, 1, IMAGE_EXTENT_CAP - 64);
}

static uint32_t open_model(struct ps_cache *c, uint64_t number)
{
    uint8_t id[PS_SHA256_BYTES];
    uint32_t model = UINT32_MAX;
    crash_model_id(number, id);
    const uint64_t parts[5] = {1, 2, 3, 4, 5};
    const struct ps_cache_model_options o = {.id = id,
                                             .source_label = "a model of the test",
                                             .n_layers = 4,
                                             .part_bytes = parts};
    (void)ps_cache_model_open_as(c, &o, &model, NULL);
    return model;
}

void image_make_cache(const char *dir)
{
    static uint8_t buf[IMAGE_EXTENT_CAP];
    uint64_t freed;
    struct ps_cache *c = crash_open(dir, IMAGE_BUDGET);
    for (int round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < IMAGE_EXTENTS; i++) {
            const uint32_t model = open_model(c, i % 2);
            assert_int_equal(crash_store(c, model, i, (int32_t)(i % 4), buf, size_of(i)), 0);
            if (i % 5 == 0)
                assert_int_equal(ps_cache_flush(c, NULL), 0);
        }
        if (round == 0)
            assert_int_equal(ps_cache_evict(c, NULL, &freed, NULL), 0);
    }
    ps_cache_close(c);
}

/* ---- images ---- */

static void load_file(struct image_file *f, const char *path, const char *name, const struct stat *st)
{
    const size_t most = st->st_size < (off_t)(4u << 20) ? (size_t)st->st_size : 4u << 20;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    snprintf(f->name, sizeof f->name, "%s", name);
    f->size = (uint64_t)st->st_size;
    f->bytes = malloc(most + 1);
    assert_non_null(f->bytes);
    assert_int_equal(pread(fd, f->bytes, most, 0), (ssize_t)most);
    for (f->n = most; f->n > 0 && f->bytes[f->n - 1] == 0;)
        f->n--;
    close(fd);
}

void image_load(struct image *img, const char *dir)
{
    memset(img, 0, sizeof *img);
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        char path[400];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (lstat(path, &st) == 0 && S_ISREG(st.st_mode))
            load_file(&img->files[img->n_files++], path, names[i], &st);
    }
}

void image_free(struct image *img)
{
    for (size_t i = 0; i < img->n_files; i++)
        free(img->files[i].bytes);
    img->n_files = 0;
}

struct image_file *image_find(struct image *img, const char *name)
{
    for (size_t i = 0; i < img->n_files; i++)
        if (strcmp(img->files[i].name, name) == 0)
            return &img->files[i];
    return NULL;
}

static void restore_file(const struct image_file *f, const char *path)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || pwrite(fd, f->bytes, f->n, 0) != (ssize_t)f->n ||
        ftruncate(fd, (off_t)f->size) != 0) {
        perror(path);
        exit(3);
    }
    close(fd);
}

void image_restore(const struct image *img, const char *dir)
{
    char path[400];
    static const char *const folders[] = {"", "/index", "/slabs"};
    for (size_t i = 0; i < TEST_COUNT(folders); i++) {
        snprintf(path, sizeof path, "%s%s", dir, folders[i]);
        (void)mkdir(path, 0700);
    }
    for (size_t i = 0; i < img->n_files; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, img->files[i].name);
        restore_file(&img->files[i], path);
    }
}

void image_flip(const char *dir, const char *name, uint64_t at, uint8_t mask)
{
    char path[400];
    uint8_t byte = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    bool ok = fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1;
    byte ^= mask;
    ok = ok && pwrite(fd, &byte, 1, (off_t)at) == 1;
    if (!ok) {
        perror(path);
        exit(3);
    }
    close(fd);
}

/* ---- trials ---- */

static bool fails(const char *what, int rc, const struct ps_err *err)
{
    fprintf(stderr, "    %s: %s (%d): %s\n", what, ps_err_name(rc), rc,
            err && err->code ? err->text : "(no text)");
    return false;
}

static bool read_all(struct ps_cache *c, uint64_t *held)
{
    static uint8_t buf[IMAGE_EXTENT_CAP];
    *held = 0;
    for (uint64_t i = 0; i < IMAGE_EXTENTS; i++) {
        const int rc = crash_load(c, i, buf, size_of(i), sizeof buf);
        if (rc != 0 && rc != PS_ENOTFOUND && rc != PS_EDATA)
            return fails(rc == PS_EFAIL ? "WRONG BYTES" : "read", rc, NULL);
        *held += rc == 0;
    }
    return true;
}

static int describe(struct ps_cache *c, struct ps_err *err)
{
    struct ps_json_writer w;
    struct ps_strbuf b;
    ps_strbuf_init(&b, 1u << 20);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    const int rc = ps_cache_describe(c, &w, err);
    ps_strbuf_deinit(&b);
    return rc;
}

/* What `cache ls` and `cache verify` do. */
static bool look(const char *dir, unsigned allowed)
{
    const struct ps_cache_options o = {.read_only = true, .must_exist = true};
    struct ps_cache *c = NULL;
    struct ps_err err = {.code = 0};
    uint64_t checked, bad = 0, held;
    int rc = ps_cache_open(&c, dir, &o, NULL, &err);
    if (rc == PS_EDATA && allowed & IMAGE_REFUSED)
        return strstr(err.text, "--repair") || fails("no advice", rc, &err);
    if (rc != 0 || !(allowed & IMAGE_KEPT))
        return fails("read-only open", rc, &err);
    rc = describe(c, &err);
    bool ok = rc == 0 || fails("describe", rc, &err);
    rc = ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, &err);
    ok = ok && (rc == 0 || fails("verify, read-only", rc, &err));
    ok = ok && read_all(c, &held);
    /* A key that has flipped and still lies in order hides its extent; no more than that one. */
    ok = ok && (allowed & IMAGE_OLDER || held + bad + 1 >= IMAGE_EXTENTS ||
                fails("lost some", (int)held, NULL));
    ok = ok &&
         (!(allowed & IMAGE_WHOLE) || held == IMAGE_EXTENTS || fails("not whole", (int)held, NULL));
    ps_cache_close(c);
    return ok;
}

/* More than fits, of a model of its own that may evict the others. Few and large: each handoff to the writer costs. */
static bool fill(struct ps_cache *c)
{
    static uint8_t buf[FILL_BYTES];
    struct ps_err err = {.code = 0};
    const uint32_t model = open_model(c, 7);
    if (model == UINT32_MAX)
        return fails("model", -1, NULL);
    for (uint64_t i = 1000; i < 1000 + FILL_N; i++) {
        const int rc = crash_store_err(c, model, i, 0, buf, FILL_BYTES, &err);
        if (rc != 0 && rc != PS_EBUDGET)
            return fails("store", rc, &err);
        err.code = 0;
    }
    const int rc = ps_cache_flush(c, &err);
    return rc == 0 || fails("flush", rc, &err);
}

static bool repaired(struct ps_cache *c, bool repair, const char *what)
{
    struct ps_err err = {.code = 0};
    uint64_t checked, bad = 0;
    const int rc = ps_cache_verify(c, true, repair, NULL, NULL, &checked, &bad, &err);
    if (rc != 0)
        return fails(what, rc, &err);
    return repair || bad == 0 || fails(what, (int)bad, NULL);
}

static bool work(const char *dir, unsigned allowed)
{
    const struct ps_cache_options o = {.budget_bytes = IMAGE_BUDGET};
    struct ps_cache *c = NULL;
    struct ps_err err = {.code = 0};
    uint64_t held = 0;
    const int rc = ps_cache_open(&c, dir, &o, NULL, &err);
    if (rc != 0)
        return fails("open", rc, &err);
    bool ok = allowed & (ps_cache_was_rebuilt(c) ? IMAGE_REFUSED : IMAGE_KEPT) ||
              fails("emptied or kept against expectation", ps_cache_was_rebuilt(c), NULL);
    ok = ok && read_all(c, &held) && repaired(c, true, "repair") &&
         repaired(c, false, "after repair");
    ok = ok && fill(c);
    ps_cache_close(c);
    if (ok && crash_folder_bytes(dir) > IMAGE_BUDGET)
        return fails("over the budget", (int)crash_folder_bytes(dir), NULL);
    return ok;
}

bool image_trial(const char *dir, unsigned allowed)
{
    return look(dir, allowed) && work(dir, allowed);
}
