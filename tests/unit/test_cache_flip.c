/* A cleanly closed cache in which a bit has flipped, or a file was cut, emptied, doubled or exchanged; and folders that
 * are no caches. No signal, no wrong byte, nothing above the budget; at most everything is fetched again.
 * The exhaustive run over every bit is test_cache_flip_all.c.
 * ctest-timeout: 300 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/hash.h"
#include "base/log.h"
#include "cache/index_check.h"
#include "cache/index.h"
#include "cache/index_rows.h"
#include "tests/support/cache_image.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

static struct image img;

static int setup(void **state)
{
    test_dir_setup(state);
    image_make_cache(test_dir);
    image_load(&img, test_dir);
    return 0;
}

static int teardown(void **state)
{
    image_free(&img);
    return test_dir_teardown(state);
}

/* In a process of its own, because some of this used to end in a signal: puts the image back, flips, looks. */
static int trial_child(const char *folder, uint64_t at, uint64_t mask_and_allowed)
{
    ps_log_set_level(PS_LOG_ERROR);
    if (mask_and_allowed >> 8)
        image_flip(folder, "index/data.mdb", at, (uint8_t)(mask_and_allowed >> 8));
    return image_trial(folder, (unsigned)(mask_and_allowed & 255)) ? 0 : 1;
}

static void trial(uint64_t at, uint8_t mask, unsigned allowed)
{
    image_restore(&img, test_dir);
    if (!crash_wait(crash_spawn("trial", test_dir, at, (uint64_t)mask << 8 | allowed)))
        fail_msg("byte %llu of data.mdb, bits %02x", (unsigned long long)at, mask);
}

/* The newer meta page. */
static uint64_t meta_at(void)
{
    const uint8_t *b = image_find(&img, "index/data.mdb")->bytes;
    uint64_t a, c;
    memcpy(&a, b + 16 + 128, sizeof a);
    memcpy(&c, b + 4096 + 16 + 128, sizeof c);
    return a > c ? 0 : 4096;
}

static uint64_t find_bytes(const void *what, size_t n, uint64_t from)
{
    const struct image_file *f = image_find(&img, "index/data.mdb");
    for (uint64_t i = from; i + n <= f->size; i++) /* beyond n lie zeros */
        if (memcmp(f->bytes + i, what, n) == 0)
            return i;
    return UINT64_MAX;
}

static void test_untouched(void **state)
{
    (void)state;
    trial(0, 0, IMAGE_KEPT | IMAGE_WHOLE);
}

/* (a) Flags, page size, last page and the like of a meta page: LMDB asserted. */
static void test_meta_pages(void **state)
{
    (void)state;
    static const uint8_t offsets[] = {10, 16, 20, 24, 32,  40,  44,  46,
                                      80, 88, 92, 94, 128, 136, 137, 144};
    for (size_t i = 0; i < sizeof offsets; i++)
        for (int page = 0; page < 2; page++)
            trial((uint64_t)page * 4096 + offsets[i], i % 2 ? 0x01 : 0x80,
                  IMAGE_REFUSED | IMAGE_KEPT);
}

/* (b) A damaged page under a read-only command: heads of all pages. The walk accepts those that nothing leads to. */
static void test_read_only_walks(void **state)
{
    (void)state;
    const struct image_file *f = image_find(&img, "index/data.mdb");
    static const uint8_t offsets[] = {0, 10, 12, 14, 16, 17};
    for (uint64_t page = 2; page < f->size / 4096; page++)
        for (size_t i = 0; i < sizeof offsets; i++)
            trial(page * 4096 + offsets[i], i % 2 ? 0xff : 0x40, IMAGE_REFUSED | IMAGE_KEPT);
}

/* (c) A counter that claims more or less than there is, put there as a writer would: with its checksums. */
static int lie_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    (void)err;
    struct ps_index_meta *m = ps_index_write_meta(w);
    switch (*(const int *)user) {
    case 0: m->classes[0].bytes += 1u << 20; break;
    case 1: m->classes[0].bytes = 0; break;
    case 2: m->classes[1].used ^= 1; break;
    case 3: m->classes[0].high = 0; break;
    default: m->n_extents++; break;
    }
    return 0;
}

static void test_counters_are_counted(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/index", test_dir);
    for (int lie = 0; lie < 5; lie++) {
        const struct ps_index_options o = {.map_bytes = 64u << 20};
        struct ps_index *ix = NULL;
        image_restore(&img, test_dir);
        assert_int_equal(ps_index_open(&ix, path, &o, NULL), 0);
        assert_int_equal(ps_index_update(ix, lie_body, &lie, NULL), 0);
        ps_index_close(ix);
        if (!crash_wait(crash_spawn("trial", test_dir, 0, IMAGE_REFUSED)))
            fail_msg("lie %d", lie);
    }
}

/* And one that has flipped on the disk. */
static void test_flipped_counters(void **state)
{
    (void)state;
    struct ps_index_meta meta;
    const struct ps_index_options o = {.map_bytes = 64u << 20};
    struct ps_index *ix = NULL;
    char path[300];
    snprintf(path, sizeof path, "%s/index", test_dir);
    assert_int_equal(ps_index_open(&ix, path, &o, NULL), 0);
    assert_int_equal(ps_index_get_meta(ix, &meta, NULL), 0);
    ps_index_close(ix);
    uint64_t at = UINT64_MAX; /* older copies of it lie in free pages: all of them get their turn */
    unsigned n = 0;
    for (uint64_t from = 0; (from = find_bytes(&meta, sizeof meta, from)) != UINT64_MAX; from++) {
        at = from;
        n++;
        for (size_t i = 0; i < sizeof meta; i += 11)
            trial(at + i, (uint8_t)(1u << (i % 8)), IMAGE_REFUSED | IMAGE_KEPT);
    }
    assert_true(n > 0);
}

/* (f) A newer version, and a version byte that has flipped. */
static void rewrite_format(uint32_t format, uint32_t check, bool both)
{
    struct image_file *f = image_find(&img, "index/data.mdb");
    struct ps_index_meta m = {.format = PS_INDEX_FORMAT};
    ps_rows_seal_meta(&m);
    uint32_t head[2] = {m.format, m.format_check};
    for (uint64_t at = 0; (at = find_bytes(head, sizeof head, at)) != UINT64_MAX; at++) {
        memcpy(f->bytes + at, &format, 4);
        if (both)
            memcpy(f->bytes + at + 4, &check, 4);
    }
}

static void test_version(void **state)
{
    (void)state;
    const struct ps_cache_options o = {.budget_bytes = IMAGE_BUDGET}, ro = {.read_only = true};
    struct ps_index_meta newer = {.format = PS_INDEX_FORMAT + 1};
    struct ps_cache *c = NULL;
    struct ps_err err = {.code = 0};
    ps_rows_seal_meta(&newer);
    struct ps_index_meta out;
    uint32_t format;
    assert_int_equal(ps_rows_read_meta(&newer, sizeof newer, &out, &format), PS_EUNSUPPORTED);
    assert_int_equal(format, PS_INDEX_FORMAT + 1);
    newer.format ^= 0x10000;
    assert_int_equal(ps_rows_read_meta(&newer, sizeof newer, &out, NULL), PS_EDATA);
    newer.format ^= 0x10000;

    rewrite_format(newer.format, newer.format_check, true);
    image_restore(&img, test_dir);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ps_cache_open(&c, test_dir, i == 0 ? &ro : &o, NULL, &err), PS_EUNSUPPORTED);
        assert_non_null(strstr(err.text, "newer"));
        assert_int_equal(ps_err_exit_status(err.code), 1);
    }
    image_free(&img);
    image_load(&img, test_dir); /* nothing was thrown away: it opens again once its number is ours */
    struct ps_index_meta ours = {.format = PS_INDEX_FORMAT};
    ps_rows_seal_meta(&ours);
    struct image_file *f = image_find(&img, "index/data.mdb");
    for (uint64_t at = 0; (at = find_bytes(&newer, 8, at)) != UINT64_MAX; at++)
        memcpy(f->bytes + at, &ours, 8);
    trial(0, 0, IMAGE_KEPT | IMAGE_WHOLE);

    rewrite_format(PS_INDEX_FORMAT ^ 0x20, 0, false);
    trial(0, 0, IMAGE_REFUSED);
}

/* LMDB's own version, in one of its two headers: damage, not another LMDB. */
static void test_layout_version(void **state)
{
    (void)state;
    trial(16 + 4, 0x02, IMAGE_REFUSED);
    trial(4096 + 16 + 4, 0x02, IMAGE_REFUSED);
}

/* (e) Two records in one slot: dropping one used to make the other wrong, behind the check's back. One repair is
 * enough. */
static void test_one_repair(void **state)
{
    (void)state;
    /* The slot number of a record, flipped so that it names its neighbour's. */
    struct ps_index *ix = NULL;
    const struct ps_index_options o = {.map_bytes = 64u << 20};
    struct ps_keyed_record recs[IMAGE_EXTENTS];
    size_t n = 0;
    char path[300];
    snprintf(path, sizeof path, "%s/index", test_dir);
    assert_int_equal(ps_index_open(&ix, path, &o, NULL), 0);
    assert_int_equal(ps_index_scan(ix, NULL, recs, IMAGE_EXTENTS, &n, NULL), 0);
    ps_index_close(ix);
    for (size_t i = 0; i < n; i++)
        for (uint64_t from = 0; (from = find_bytes(&recs[i], sizeof recs[i], from)) != UINT64_MAX;
             from++)
            trial(from + PS_SHA256_BYTES, 1, IMAGE_REFUSED | IMAGE_KEPT);
}

/* Cut, emptied, zeroed, doubled, exchanged with an older state. */
static void write_index(const void *bytes, size_t n)
{
    char path[300];
    image_restore(&img, test_dir);
    snprintf(path, sizeof path, "%s/index/data.mdb", test_dir);
    test_write_file(path, bytes, n);
}

static void spawn_trial(const char *what, unsigned allowed)
{
    if (!crash_wait(crash_spawn("trial", test_dir, 0, allowed)))
        fail_msg("index %s", what);
}

static void test_whole_files(void **state)
{
    (void)state;
    const struct image_file *f = image_find(&img, "index/data.mdb");
    uint8_t *twice = calloc(2, f->size);
    for (size_t n = 0; n < f->n; n += 1 + f->n / 40) {
        memcpy(twice, f->bytes, f->n);
        write_index(twice, n);
        spawn_trial("cut", IMAGE_REFUSED);
    }
    write_index(f->bytes, (f->n + 4095) / 4096 * 4096); /* what was never used may be missing */
    spawn_trial("cut behind its last page", IMAGE_KEPT | IMAGE_WHOLE);
    memcpy(twice, f->bytes, f->n);
    memcpy(twice + f->size, f->bytes, f->n);
    write_index(twice, 2 * f->size);
    spawn_trial("doubled", IMAGE_KEPT | IMAGE_WHOLE);
    memset(twice, 0, f->size);
    write_index(twice, f->size);
    spawn_trial("zeroed", IMAGE_REFUSED);
    for (size_t page = 0; page < f->size / 4096; page++) {
        memcpy(twice, f->bytes, f->n);
        memset(twice + f->n, 0, f->size - f->n);
        memset(twice + page * 4096, 0, 4096);
        write_index(twice, f->size);
        spawn_trial("with a page zeroed", IMAGE_REFUSED | IMAGE_KEPT);
        memcpy(twice + page * 4096, f->bytes + (page == 2 ? 3 : 2) * 4096, 4096);
        write_index(twice, f->size);
        spawn_trial("with a page twice", IMAGE_REFUSED | IMAGE_KEPT);
    }
    free(twice);
}

/* The other files: the cache is the same afterwards. */
static int other_child(const char *folder, uint64_t file, uint64_t stride)
{
    static const char *const names[] = {"CACHEDIR.TAG", "lock", "claims", "index/lock.mdb"};
    struct image all;
    ps_log_set_level(PS_LOG_ERROR);
    image_load(&all, folder);
    const struct image_file *f = image_find(&all, names[file]);
    for (uint64_t bit = 0; bit < 8 * f->n; bit += stride) {
        image_restore(&all, folder);
        image_flip(folder, names[file], bit / 8, (uint8_t)(1u << bit % 8));
        /* One byte of the table says that somebody met damage: believed. */
        const unsigned allowed = IMAGE_KEPT | (file == 2 ? IMAGE_REFUSED : IMAGE_WHOLE);
        if (!image_trial(folder, allowed)) {
            fprintf(stderr, "    %s: bit %llu\n", names[file], (unsigned long long)bit);
            return 1;
        }
    }
    image_restore(&all, folder);
    image_free(&all);
    return 0;
}

static void test_other_files(void **state)
{
    (void)state;
    static const uint64_t strides[] = {7, 7, 1499, 599};
    for (uint64_t file = 0; file < TEST_COUNT(strides); file++)
        assert_true(crash_wait(crash_spawn("other", test_dir, file, strides[file])));
}

/* ---- (d) whose folder ---- */

static int open_rc(const char *folder, struct ps_err *err)
{
    const struct ps_cache_options o = {.budget_bytes = IMAGE_BUDGET};
    struct ps_cache *c = NULL;
    const int rc = ps_cache_open(&c, folder, &o, NULL, err);
    if (rc == 0)
        ps_cache_close(c);
    return rc;
}

static void folder_with(char out[300], const char *name, const char *text)
{
    char path[400];
    test_temp_dir(out, 280);
    snprintf(path, sizeof path, "%s/%s", out, name);
    test_write_file(path, text, strlen(text));
}

static void test_foreign_folders(void **state)
{
    (void)state;
    static const char *const foreign[] = {"letter.txt", "index/data.mdb", "slabs/photo.slab",
                                          "lock.txt",   "CACHEDIR.TAG",   ".hidden"};
    char folder[300], path[400];
    for (size_t i = 0; i < TEST_COUNT(foreign); i++) {
        struct ps_err err = {.code = 0};
        struct stat st;
        folder_with(folder, foreign[i],
                    "Signature: 8a477f597d28d172789f06886806bc55\n# Somebody's\n");
        const uint64_t before = crash_folder_bytes(folder);
        assert_int_equal(open_rc(folder, &err), PS_EUSAGE);
        assert_non_null(strstr(err.text, folder));
        assert_non_null(strstr(err.text, "give --cache"));
        assert_int_equal(ps_cache_clear(folder, NULL), 0);
        snprintf(path, sizeof path, "%s/%s", folder, foreign[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_true(st.st_size > 50);
        assert_int_equal(crash_folder_bytes(folder), before); /* not even a lock file */
        test_remove_tree(folder);
    }
}

static void test_folders_that_serve(void **state)
{
    (void)state;
    static const char *const fine[] = {"probes.json", "lock", "lost+found/x", "bench.77.tmp"};
    char folder[300], path[400];
    struct ps_err err = {.code = 0};
    for (size_t i = 0; i < TEST_COUNT(fine); i++) {
        folder_with(folder, fine[i], "");
        assert_ok(open_rc(folder, &err), &err);
        test_remove_tree(folder);
    }
    /* Ours without a tag, or with half of one. */
    snprintf(path, sizeof path, "%s/CACHEDIR.TAG", test_dir);
    assert_int_equal(unlink(path), 0);
    spawn_trial("of a folder without tag", IMAGE_KEPT | IMAGE_WHOLE);
    assert_int_equal(access(path, F_OK), 0);
    image_restore(&img, test_dir);
    assert_int_equal(truncate(path, 5), 0);
    spawn_trial("of a folder with half a tag", IMAGE_KEPT | IMAGE_WHOLE);
    struct image now;
    image_load(&now, test_dir);
    assert_true(image_find(&now, "CACHEDIR.TAG")->n > 50);
    image_free(&now);
}

/* What a user has put into our folder is never removed, whatever becomes of the index. */
static void test_files_of_others_stay(void **state)
{
    (void)state;
    static const char *const kept[] = {"note", "index/note", "slabs/note"};
    char path[400];
    for (size_t i = 0; i < TEST_COUNT(kept); i++) {
        snprintf(path, sizeof path, "%s/%s", test_dir, kept[i]);
        test_write_file(path, "mine", 4);
    }
    image_flip(test_dir, "index/data.mdb", meta_at() + 16, 0xff);
    assert_int_equal(open_rc(test_dir, NULL), 0);
    assert_int_equal(ps_cache_clear(test_dir, NULL), 0);
    for (size_t i = 0; i < TEST_COUNT(kept); i++) {
        snprintf(path, sizeof path, "%s/%s", test_dir, kept[i]);
        assert_int_equal(access(path, F_OK), 0);
    }
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "trial") == 0)
        return trial_child(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
    if (argc == 5 && strcmp(argv[1], "other") == 0)
        return other_child(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
    image_use_memory();
    ps_log_set_level(PS_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_untouched, setup, teardown),
        cmocka_unit_test_setup_teardown(test_meta_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only_walks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_counters_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flipped_counters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_foreign_folders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_folders_that_serve, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_of_others_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_repair, setup, teardown),
        cmocka_unit_test_setup_teardown(test_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_layout_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whole_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
