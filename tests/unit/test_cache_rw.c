/* Round trips: what was put comes back, from this process and after reopening; what is not right never does. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/strbuf.h"
#include "cache/index.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define BUDGET (64ull << 20)
#define CAP    (1u << 20)

static _Alignas(4096) uint8_t buf[CAP];

static uint32_t open_model(struct ps_cache *c, uint64_t number)
{
    uint8_t id[PS_SHA256_BYTES];
    uint32_t model;
    struct ps_err err = {.code = 0};
    crash_model_id(number, id);
    assert_ok(ps_cache_model_open(c, id, "hf://org/name", 12, &model, &err), &err);
    return model;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct ps_err err = {.code = 0};
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = open_model(c, 1);
    uint64_t total = 0;
    for (uint64_t i = 0; i < 150; i++) {
        const size_t n = crash_extent_size(i, 1, 300000);
        assert_int_equal(crash_store(c, m, i, (int32_t)(i % 12), buf, n), 0);
        total += n;
    }
    assert_ok(ps_cache_flush(c, &err), &err);
    assert_int_equal(ps_cache_model_bytes(c, m), total);
    for (int again = 0; again < 2; again++) {
        for (uint64_t i = 0; i < 150; i++) {
            const size_t n = crash_extent_size(i, 1, 300000);
            assert_true(crash_holds(c, i));
            assert_int_equal(crash_load(c, i, buf, n, CAP), 0);         /* past the page cache */
            assert_int_equal(crash_load(c, i, buf + 1, n, CAP - 1), 0); /* through it */
        }
        assert_false(crash_holds(c, 150));
        assert_int_equal(crash_load(c, 150, buf, 10, CAP), PS_ENOTFOUND);
        ps_cache_close(c);
        c = crash_open(test_dir, BUDGET);
    }
    ps_cache_close(c);
}

/* What was put is readable at once, long before its batch is committed: the next sweep asks for it while this one
 * runs. */
static void test_readable_before_it_is_published(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = open_model(c, 1);
    for (uint64_t i = 0; i < 500; i++) {
        const size_t n = crash_extent_size(i, 1, 30000);
        assert_int_equal(crash_store(c, m, i, 0, buf, n), 0);
        assert_int_equal(crash_load(c, i, buf, n, CAP), 0);
        assert_int_equal(crash_load(c, i / 2, buf, crash_extent_size(i / 2, 1, 30000), CAP), 0);
    }
    ps_cache_close(c);
}

static void test_published_without_flush(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = open_model(c, 1);
    assert_int_equal(crash_store(c, m, 7, 0, buf, 5000), 0);
    const uint64_t start = ps_now_ns();
    while (!crash_holds(c, 7) && ps_seconds_since(start) < 5)
        usleep(10000);
    assert_true(crash_holds(c, 7));
    for (uint64_t i = 100; i < 110; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, 5000), 0);
    ps_cache_close(c); /* publishes */
    c = crash_open(test_dir, BUDGET);
    for (uint64_t i = 100; i < 110; i++)
        assert_int_equal(crash_load(c, i, buf, 5000, CAP), 0);
    ps_cache_close(c);
}

static void test_claims_and_repeats(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = open_model(c, 1);
    struct ps_cache_ticket *t, *u = (void *)1;
    uint8_t key[PS_SHA256_BYTES];
    crash_extent_key(5, key);
    assert_int_equal(ps_cache_reserve(&t, c, m, key, 0, 9000, NULL), 0);
    assert_int_equal(ps_cache_reserve(&u, c, m, key, 0, 9000, NULL), PS_EAGAIN);
    assert_ptr_equal(u, (void *)1);
    ps_cache_abort(t);
    assert_int_equal(crash_store(c, m, 5, 0, buf, 9000), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    assert_int_equal(ps_cache_reserve(&u, c, m, key, 0, 9000, NULL), PS_EAGAIN); /* held */
    assert_int_equal(ps_cache_reserve(&u, c, m, key, 0, 0, NULL), PS_EBUDGET);
    assert_int_equal(ps_cache_reserve(&u, c, m, key, 0, (16u << 20) + 1, NULL), PS_EBUDGET);
    crash_extent_key(6, key);
    assert_int_equal(ps_cache_reserve(&t, c, m, key, 0, 9000, NULL), 0);
    assert_int_equal(ps_cache_put(t, buf, 8999, NULL), PS_EUSAGE);
    assert_false(crash_holds(c, 6));
    ps_cache_close(c);
}

/* ---- damage ---- */

static void store_some(unsigned n)
{
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = open_model(c, 1);
    for (unsigned i = 0; i < n; i++) {
        const int rc = crash_store(c, m, i, (int32_t)i, buf, 20000);
        assert_true(rc == 0 || rc == PS_EAGAIN); /* there already */
    }
    ps_cache_close(c);
}

static void slab_path(char path[300], size_t bytes)
{
    int cls = 0;
    while ((4096u << cls) < bytes)
        cls++;
    snprintf(path, 300, "%s/slabs/%d.slab", test_dir, cls);
}

static void flip_byte(const char *path, off_t at)
{
    const int fd = open(path, O_RDWR);
    uint8_t b;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, at), 1);
    b ^= 0x10;
    assert_int_equal(pwrite(fd, &b, 1, at), 1);
    close(fd);
}

static void test_flipped_byte(void **state)
{
    (void)state;
    char path[300];
    struct ps_stats stats;
    memset(&stats, 0, sizeof stats);
    store_some(10);
    slab_path(path, 20000);
    flip_byte(path, 3 * 32768 + 19999);
    flip_byte(path, 7 * 32768 + 25000); /* beyond the extent: nobody's */
    const struct ps_cache_options o = {.budget_bytes = BUDGET, .stats = &stats};
    struct ps_cache *c = NULL;
    uint64_t checked, bad;
    assert_int_equal(ps_cache_open(&c, test_dir, &o, NULL, NULL), 0);
    assert_int_equal(ps_cache_verify(c, false, false, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(checked, 10);
    assert_int_equal(bad, 1);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(crash_load(c, i, buf, 20000, CAP), i == 3 ? PS_EDATA : 0);
    assert_int_equal(ps_stat_get(&stats.corrupt_reads), 1);
    assert_false(crash_holds(c, 3)); /* dropped: it will be fetched again */
    assert_int_equal(crash_load(c, 3, buf, 20000, CAP), PS_ENOTFOUND);
    assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(checked, 9);
    assert_int_equal(bad, 0);
    const uint32_t m = open_model(c, 1);
    assert_int_equal(crash_store(c, m, 3, 3, buf, 20000), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    assert_int_equal(crash_load(c, 3, buf, 20000, CAP), 0);
    assert_int_equal(crash_load(c, 4, buf, 19999, CAP), PS_EDATA); /* not the size that was asked for */
    ps_cache_close(c);
}

static void test_verify_repairs(void **state)
{
    (void)state;
    char path[300];
    store_some(80);
    slab_path(path, 20000);
    for (int i = 0; i < 80; i += 3)
        flip_byte(path, i * 32768 + i * 200);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    uint64_t checked, bad;
    assert_int_equal(ps_cache_verify(c, true, true, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(checked, 80);
    assert_int_equal(bad, 27);
    assert_int_equal(ps_cache_verify(c, true, true, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(checked, 53);
    assert_int_equal(bad, 0);
    ps_cache_close(c);
}

/* Where the key is the hash of the bytes, a deep check sees what a forged CRC would hide: the flag is set by
 * the first. */
static void test_deep_verify(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = open_model(c, 1);
    struct ps_cache_ticket *t;
    uint8_t key[PS_SHA256_BYTES];
    uint64_t checked, bad;
    for (uint64_t i = 0; i < 70; i++) { /* half by content, half by place */
        crash_extent_fill(i, buf, 5000);
        if (i % 2 == 0)
            ps_sha256_once(buf, 5000, key);
        else
            crash_extent_key(i, key);
        assert_int_equal(ps_cache_reserve(&t, c, m, key, 0, 5000, NULL), 0);
        assert_int_equal(ps_cache_put(t, buf, 5000, NULL), 0);
    }
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
        assert_int_equal(checked, 70);
        assert_int_equal(bad, 0);
    }
    ps_cache_close(c);
}

static void test_truncated_slab(void **state)
{
    (void)state;
    char path[300];
    store_some(10);
    slab_path(path, 20000);
    assert_int_equal(truncate(path, 5 * 32768 + 1000), 0);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(crash_load(c, i, buf, 20000, CAP), i >= 5 ? PS_EDATA : 0);
    const uint32_t m = open_model(c, 1);
    for (uint64_t i = 5; i < 10; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, 20000), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(crash_load(c, i, buf, 20000, CAP), 0);
    ps_cache_close(c);
    assert_int_equal(unlink(path), 0);
    c = crash_open(test_dir, BUDGET);
    assert_int_equal(crash_load(c, 0, buf, 20000, CAP), PS_EDATA);
    ps_cache_close(c);
}

static void test_garbage_index(void **state)
{
    (void)state;
    char path[300];
    struct stat st;
    for (int kind = 0; kind < 6; kind++) {
        store_some(50);
        snprintf(path, sizeof path, "%s/index/data.mdb", test_dir);
        assert_int_equal(stat(path, &st), 0);
        crash_extent_fill(999, buf, CAP);
        if (kind == 0)
            test_write_file(path, buf, 300000);
        else if (kind == 1)
            test_write_file(path, "", 0);
        else if (kind == 2)
            assert_int_equal(truncate(path, 3 * 4096), 0);
        else if (kind == 3)
            test_write_file(path, buf, 10);
        else if (kind == 4)
            for (off_t at = 2 * 4096; at < st.st_size; at += 4096)
                flip_byte(path, at + 12);
        else
            flip_byte(path, 4096 + 16);                    /* magic of the second meta page */
        struct ps_cache *c = crash_open(test_dir, BUDGET); /* never a crash, at most an empty cache */
        const uint32_t m = open_model(c, 1);
        for (uint64_t i = 0; i < 50; i++) {
            const int rc = crash_load(c, i, buf, 20000, CAP);
            assert_int_equal(rc, PS_ENOTFOUND);
            assert_int_equal(crash_store(c, m, i, 0, buf, 20000), 0);
        }
        assert_int_equal(ps_cache_flush(c, NULL), 0);
        for (uint64_t i = 0; i < 50; i++)
            assert_int_equal(crash_load(c, i, buf, 20000, CAP), 0);
        assert_true(crash_folder_bytes(test_dir) < 3u << 20); /* nothing of the old slabs is left */
        ps_cache_close(c);
    }
}

static int newer_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    (void)user;
    (void)err;
    ps_index_write_meta(w)->format = PS_INDEX_FORMAT + 41;
    return 0;
}

static void test_newer_version(void **state)
{
    (void)state;
    char path[300], text[32];
    struct ps_err err = {.code = 0};
    struct ps_index *ix = NULL;
    const struct ps_index_options io = {.map_bytes = 64u << 20};
    store_some(5);
    snprintf(path, sizeof path, "%s/index", test_dir);
    assert_int_equal(ps_index_open(&ix, path, &io, NULL), 0);
    assert_int_equal(ps_index_update(ix, newer_body, NULL, NULL), 0);
    ps_index_close(ix);
    const uint64_t before = crash_folder_bytes(test_dir);
    struct ps_cache *c = NULL;
    const struct ps_cache_options o = {.budget_bytes = BUDGET};
    assert_int_equal(ps_cache_open(&c, test_dir, &o, NULL, &err), PS_EUNSUPPORTED);
    snprintf(text, sizeof text, "format %u", PS_INDEX_FORMAT + 41);
    assert_non_null(strstr(err.text, text));
    assert_null(c);
    assert_int_equal(crash_folder_bytes(test_dir), before); /* untouched */
}

/* ---- other file systems and modes ---- */

static int as_nobody(const char *folder)
{
    snprintf(test_dir, sizeof test_dir, "%s", folder);
    if (setgid(65534) != 0 || setuid(65534) != 0)
        return 77;
    struct ps_cache_ticket *t;
    struct ps_cache *c = NULL;
    uint8_t key[PS_SHA256_BYTES];
    const struct ps_cache_options o = {.budget_bytes = BUDGET};
    if (ps_cache_open(&c, test_dir, &o, NULL, NULL) != 0)
        return 1;
    crash_extent_key(100, key);
    if (!ps_cache_is_read_only(c) || ps_cache_reserve(&t, c, 0, key, 0, 100, NULL) != PS_EBUDGET)
        return 2;
    for (uint64_t i = 0; i < 10; i++)
        if (crash_load(c, i, buf, 20000, CAP) != 0)
            return 3;
    ps_cache_close(c);
    return 0;
}

static void test_another_users_cache(void **state)
{
    (void)state;
    char path[300];
    if (geteuid() != 0)
        skip();
    store_some(10);
    const char *readable[] = {"", "/index", "/slabs"};
    for (size_t i = 0; i < TEST_COUNT(readable); i++) {
        snprintf(path, sizeof path, "%s%s", test_dir, readable[i]);
        assert_int_equal(chmod(path, 0755), 0);
    }
    const char *files[] = {"/lock", "/index/data.mdb", "/index/lock.mdb", "/slabs/3.slab"};
    for (size_t i = 0; i < TEST_COUNT(files); i++) {
        snprintf(path, sizeof path, "%s%s", test_dir, files[i]);
        assert_int_equal(chmod(path, 0644), 0);
    }
    assert_true(crash_wait(crash_spawn("nobody", test_dir, 0, 0)));
    struct ps_cache *c = crash_open(test_dir, BUDGET); /* and while its owner has it open */
    assert_true(crash_wait(crash_spawn("nobody", test_dir, 0, 0)));
    ps_cache_close(c);
}

static void test_read_only_option(void **state)
{
    (void)state;
    struct ps_cache *c = NULL, *d = NULL;
    const struct ps_cache_options o = {.read_only = true}, w = {.budget_bytes = BUDGET};
    uint64_t checked, bad;
    char path[300];
    assert_int_equal(ps_cache_open(&c, test_dir, &o, NULL, NULL), PS_ENOTFOUND);
    snprintf(path, sizeof path, "%s/none", test_dir);
    assert_int_equal(ps_cache_open(&c, path, &o, NULL, NULL), PS_ENOTFOUND);
    assert_int_not_equal(access(path, F_OK), 0);
    const struct ps_cache_options must = {.budget_bytes = BUDGET, .must_exist = true};
    assert_int_equal(ps_cache_open(&c, test_dir, &must, NULL, NULL), PS_ENOTFOUND);
    store_some(10);
    const uint64_t before = crash_folder_bytes(test_dir);
    assert_int_equal(ps_cache_open(&c, test_dir, &o, NULL, NULL), 0);
    assert_true(ps_cache_is_read_only(c));
    assert_int_equal(ps_cache_open(&d, test_dir, &w, NULL, NULL), PS_EFAIL); /* in the same process */
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(crash_load(c, i, buf, 20000, CAP), 0);
    assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(checked, 10);
    assert_int_equal(ps_cache_verify(c, true, true, NULL, NULL, &checked, &bad, NULL), PS_EIO);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    uint32_t m;
    uint8_t id[PS_SHA256_BYTES];
    crash_model_id(1, id);
    assert_int_equal(ps_cache_model_open(c, id, "x", 1, &m, NULL), 0);
    assert_int_equal(ps_cache_model_bytes(c, m), 200000);
    crash_model_id(2, id);
    assert_int_equal(ps_cache_model_open(c, id, "x", 1, &m, NULL), 0);
    assert_int_equal(ps_cache_model_bytes(c, m), 0);
    ps_cache_close(c);
    assert_int_equal(crash_folder_bytes(test_dir), before);
}

/* Mounts a small tmpfs; false where that is not permitted. */
static bool mount_small(const char *path, const char *size)
{
    char options[64];
    snprintf(options, sizeof options, "size=%s", size);
    return mkdir(path, 0700) == 0 && mount("tmpfs", path, "tmpfs", 0, options) == 0;
}

#define TRIED 200

/* kept[i]: the i-th was taken. Room may come back while others are published, so the refused ones need not be the
 * last. */
static unsigned store_until_refused(struct ps_cache *c, uint32_t m, bool kept[TRIED])
{
    unsigned stored = 0, refused = 0;
    for (uint64_t i = 0; i < TRIED; i++) {
        const int rc = crash_store(c, m, i, 0, buf, 20000);
        assert_true(rc == 0 || rc == PS_EBUDGET);
        kept[i] = rc == 0;
        stored += rc == 0;
        refused += rc != 0;
    }
    assert_true(refused > 50);
    return stored;
}

/* Takes all that is left on a file system. */
static void fill_disk(const char *folder)
{
    char path[400];
    snprintf(path, sizeof path, "%s/ballast", folder);
    const int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    while (write(fd, buf, 4096) > 0) {}
    close(fd);
}

static void check_all(const char *folder, unsigned want)
{
    struct ps_cache *c = crash_open(folder, BUDGET);
    uint64_t checked, bad;
    assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(checked, want);
    assert_int_equal(bad, 0);
    ps_cache_close(c);
}

static void test_full_disk(void **state)
{
    (void)state;
    char path[300];
    struct ps_cache_ticket *tickets[3];
    uint8_t key[PS_SHA256_BYTES];
    snprintf(path, sizeof path, "%s/small", test_dir);
    if (!mount_small(path, "3m"))
        skip();
    struct ps_cache *c = crash_open(path, BUDGET);
    const uint32_t m = open_model(c, 1);
    /* Reservations see the end coming: nothing fails, and all that was stored is kept. */
    bool kept[TRIED];
    const unsigned stored = store_until_refused(c, m, kept);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    printf("    a disk of 3 MiB: %u extents of 20,000 bytes\n", stored);
    assert_true(stored > 60);
    /* Somebody else fills it between a reservation and its bytes. */
    for (unsigned i = 0; i < 3; i++) {
        crash_extent_key(1000 + i, key);
        assert_int_equal(ps_cache_reserve(&tickets[i], c, m, key, 0, 1000, NULL), 0);
    }
    assert_int_equal(ps_cache_put(tickets[0], buf, 1000, NULL), 0);
    fill_disk(path);
    assert_int_equal(ps_cache_put(tickets[1], buf, 1000, NULL), PS_ENOSPC);
    assert_int_equal(ps_cache_put(tickets[2], buf, 1000, NULL), PS_ENOSPC);
    assert_int_equal(crash_store(c, m, 2000, 0, buf, 100), PS_EBUDGET); /* no asking again and again */
    const int flushed = ps_cache_flush(c, NULL); /* the index may find no room either */
    assert_true(flushed == 0 || flushed == PS_ENOSPC);
    for (uint64_t i = 0; i < TRIED; i++)
        assert_int_equal(crash_load(c, i, buf, 20000, CAP), kept[i] ? 0 : PS_ENOTFOUND);
    ps_cache_close(c);
    snprintf(path + strlen(path), 20, "/ballast");
    assert_int_equal(unlink(path), 0);
    *strrchr(path, '/') = 0;
    check_all(path, stored + (flushed == 0 ? 1 : 0));
    assert_int_equal(umount(path), 0);
}

static void test_floor(void **state)
{
    (void)state;
    char path[300];
    struct ps_cache *c = NULL;
    const struct ps_cache_options o = {.budget_bytes = BUDGET, .min_free_bytes = 1u << 20};
    snprintf(path, sizeof path, "%s/small", test_dir);
    if (!mount_small(path, "3m"))
        skip();
    assert_int_equal(ps_cache_open(&c, path, &o, NULL, NULL), 0);
    bool kept[TRIED];
    assert_true(store_until_refused(c, open_model(c, 1), kept) > 30);
    ps_cache_close(c);
    assert_true(crash_folder_bytes(path) <= 2u << 20);
    assert_int_equal(umount(path), 0);
}

/* Too little room even to begin: an error, not SIGBUS. */
static void test_no_room_to_open(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/small", test_dir);
    for (int kib = 8; kib <= 256; kib += 8) {
        char size[16];
        snprintf(size, sizeof size, "%dk", kib);
        rmdir(path);
        if (!mount_small(path, size))
            skip();
        const struct ps_cache_options o = {.budget_bytes = BUDGET};
        struct ps_cache *c = NULL;
        const int rc = ps_cache_open(&c, path, &o, NULL, NULL);
        assert_true(rc == 0 || rc == PS_ENOSPC);
        if (rc == 0) {
            uint8_t id[PS_SHA256_BYTES];
            uint32_t m;
            crash_model_id(1, id);
            const int opened = ps_cache_model_open(c, id, "x", 1, &m, NULL);
            assert_true(opened == 0 || opened == PS_ENOSPC);
            if (opened == 0)
                (void)crash_store(c, m, 1, 0, buf, 20000);
            ps_cache_close(c);
        }
        assert_int_equal(umount(path), 0);
    }
}

static void test_buffered_reads(void **state)
{
    setenv("PENSTOCK_CACHE_DIRECT", "0", 1);
    test_round_trip(state);
    unsetenv("PENSTOCK_CACHE_DIRECT");
}

/* ---- every allocation fails once ---- */

static int open_and_close(void *user)
{
    const struct ps_cache_options o = {.budget_bytes = BUDGET};
    struct ps_cache *c = NULL;
    (void)user;
    const int rc = ps_cache_open(&c, test_dir, &o, NULL, NULL);
    if (rc == 0)
        ps_cache_close(c);
    return rc;
}

static int whole_life(void *user)
{
    static uint64_t number;
    const struct ps_cache_options o = {.budget_bytes = BUDGET};
    struct ps_cache *c = NULL;
    uint8_t id[PS_SHA256_BYTES], key[1][PS_SHA256_BYTES];
    uint32_t m;
    (void)user;
    number++;
    crash_model_id(1, id);
    crash_extent_key(number, key[0]);
    int rc = ps_cache_open(&c, test_dir, &o, NULL, NULL);
    if (rc != 0)
        return rc;
    rc = ps_cache_model_open(c, id, "label", 1, &m, NULL);
    if (rc == 0)
        rc = ps_cache_set_plan(c, m, (const uint8_t(*)[PS_SHA256_BYTES])key, 1, NULL);
    if (rc == 0)
        rc = crash_store(c, m, number, 0, buf, 20000);
    if (rc == 0)
        rc = ps_cache_flush(c, NULL);
    if (rc == 0)
        rc = crash_load(c, number, buf, 20000, CAP);
    if (rc == 0) {
        uint64_t checked, bad;
        rc = ps_cache_verify(c, false, false, NULL, NULL, &checked, &bad, NULL);
    }
    ps_cache_close(c);
    return rc;
}

static void test_allocation_failures(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(open_and_close, NULL) >= 4);
    assert_true(test_every_alloc_failure(whole_life, NULL) >= 7);
}

static int describe(void *user)
{
    struct ps_strbuf b;
    struct ps_json_writer w;
    ps_strbuf_init(&b, 1 << 20);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    int rc = ps_cache_describe(user, &w, NULL);
    ps_jw_object_end(&w);
    if (rc == 0 && !ps_strbuf_ok(&b))
        rc = PS_ENOMEM;
    ps_strbuf_deinit(&b);
    return rc;
}

/* What is told of the cache; ps_json_free. */
static struct ps_json *described(struct ps_cache *c)
{
    struct ps_strbuf b;
    struct ps_json_writer w;
    struct ps_json *j = NULL;
    ps_strbuf_init(&b, 1 << 20);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    assert_int_equal(ps_cache_describe(c, &w, NULL), 0);
    ps_jw_object_end(&w);
    assert_int_equal(ps_json_parse(&j, b.data, b.len, NULL, NULL), 0);
    ps_strbuf_deinit(&b);
    return j;
}

/* Every layer with what it has and what is held of it: 12 layers of which one extent is held, 200 in all, so that their
 * sizes take several rows; told again with fewer, the rest is forgotten. */
static void check_parts(struct ps_cache *c)
{
    uint8_t id[PS_SHA256_BYTES];
    uint64_t part_bytes[201];
    for (unsigned told = 201; told > 0; told = told == 201 ? 13 : 0) {
        uint32_t m;
        for (unsigned i = 0; i < 201; i++)
            part_bytes[i] = 40000 + i;
        crash_model_id(1, id);
        const struct ps_cache_model_options o = {.id = id,
                                                 .source_label = "label",
                                                 .n_layers = told - 1,
                                                 .part_bytes = part_bytes};
        assert_int_equal(ps_cache_model_open_as(c, &o, &m, NULL), 0);
        struct ps_json *j = described(c);
        const struct ps_json *at = ps_json_get(ps_json_get(j, "models")->child, "resident")->child;
        unsigned n = 0;
        for (; at; at = at->next, n++) {
            int64_t layer, held, all;
            assert_int_equal(ps_json_get_int(at, "layer", 0, &layer, NULL), 0);
            assert_int_equal(ps_json_get_int(at, "held_bytes", 0, &held, NULL), 0);
            assert_int_equal(ps_json_get_int(at, "bytes", 0, &all, NULL), 0);
            assert_int_equal(layer, n + 1 == told ? -1 : (int64_t)n);
            assert_int_equal(all, 40000 + layer + 1);
            assert_int_equal(held, layer >= 0 && layer < 12 ? 20000 : 0);
        }
        assert_int_equal(n, told);
        ps_json_free(j);
    }
}

static void test_describe(void **state)
{
    (void)state;
    store_some(12);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    struct ps_json *j = described(c);
    const struct ps_json *models = ps_json_get(j, "models");
    assert_int_equal(models->n_children, 1);
    int64_t v;
    assert_int_equal(ps_json_get_int(models->child, "bytes", 0, &v, NULL), 0);
    assert_int_equal(v, 12 * 20000);
    const struct ps_json *layers = ps_json_get(models->child, "layers");
    assert_int_equal(layers->n_children, 12);
    assert_int_equal(layers->child->next->integer, 1);
    assert_int_equal(ps_json_get_int(j, "budget_bytes", 0, &v, NULL), 0);
    assert_int_equal(v, BUDGET);
    assert_int_equal(ps_json_get_int(j, "allocated_bytes", 0, &v, NULL), 0);
    assert_int_equal(v, crash_folder_bytes(test_dir));
    ps_json_free(j);
    check_parts(c);
    assert_true(test_every_alloc_failure(describe, c) >= 3);
    ps_cache_close(c);
}

static int64_t number_of(const struct ps_json *o, const char *key)
{
    int64_t v = -1;
    assert_int_equal(ps_json_get_int(o, key, -1, &v, NULL), 0);
    return v;
}

/* Files that an older version kept among the weights outside of layers, beside one that is kept as files are now: no
 * part holds more than it has. Of a part whose size nobody told nothing is known. */
static void test_describe_old_files(void **state)
{
    (void)state;
    uint8_t id[PS_SHA256_BYTES];
    const uint64_t part_bytes[2] = {9000, 4000};
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    uint32_t m = crash_model(c, 1);
    crash_model_id(1, id);
    for (int64_t i = 0; i < 3; i++) /* 4000 of weights of the layer, 5000 + 4000 outside */
        assert_int_equal(crash_store(c, m, (uint64_t)i, i == 0 ? 0 : -1, buf, i == 1 ? 5000 : 4000),
                         0);
    assert_int_equal(crash_store(c, m, 3, -1, buf, 700), 0); /* an old file */
    assert_int_equal(crash_store(c, m, 4, PS_CACHE_LAYER_FILE, buf, 60), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    for (int told = 0; told < 2; told++) {
        const struct ps_cache_model_options o = {.id = id,
                                                 .source_label = "label",
                                                 .n_layers = 1,
                                                 .part_bytes = part_bytes};
        if (told)
            assert_int_equal(ps_cache_model_open_as(c, &o, &m, NULL), 0);
        struct ps_json *j = described(c);
        const struct ps_json *model = ps_json_get(j, "models")->child;
        const struct ps_json *layer = ps_json_get(model, "resident")->child;
        assert_int_equal(number_of(model, "bytes"), 13760);
        assert_int_equal(number_of(model, "files_bytes"), told ? 760 : 60);
        assert_int_equal(number_of(layer, "held_bytes"), 4000);
        assert_int_equal(number_of(layer->next, "held_bytes"), told ? 9000 : 9700);
        ps_json_free(j);
    }
    ps_cache_close(c);
}

int main(int argc, char **argv)
{
    if (argc == 5)
        return as_nobody(argv[2]);
    (void)argv;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_buffered_reads, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_readable_before_it_is_published, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_published_without_flush, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_claims_and_repeats, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_flipped_byte, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_verify_repairs, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_deep_verify, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_truncated_slab, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_garbage_index, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_newer_version, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_another_users_cache, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_read_only_option, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_floor, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_no_room_to_open, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_allocation_failures, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_describe, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_describe_old_files, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
