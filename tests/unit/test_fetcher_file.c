/* The file store: exact ranges with and without direct I/O, links, what is missing or damaged,
 * order, cancelling, closing. */
#include "tests/support/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "fetcher/store.h"

#define BIG_BYTES (9u * 1024 * 1024 + 123)

static char dir[256];
static uint8_t *big;

static int setup(void **state)
{
    (void)state;
    char path[512], target[512];
    test_temp_dir(dir, sizeof dir);
    big = malloc(BIG_BYTES);
    if (!big)
        return -1;
    for (size_t i = 0; i < BIG_BYTES; i++)
        big[i] = (uint8_t)((i * 2654435761u) >> 13);
    snprintf(path, sizeof path, "%s/sub/big.bin", dir);
    test_write_file(path, big, BIG_BYTES);
    snprintf(path, sizeof path, "%s/config.json", dir);
    test_write_file(path, "{}\n", 3);
    snprintf(path, sizeof path, "%s/empty", dir);
    test_write_file(path, "", 0);
    snprintf(path, sizeof path, "%s/link.bin", dir);
    snprintf(target, sizeof target, "%s/sub/big.bin", dir);
    return symlink(target, path);
}

static int teardown(void **state)
{
    (void)state;
    test_remove_tree(dir);
    free(big);
    return 0;
}

static struct ps_source *open_store(bool direct_io, struct ps_stats *stats)
{
    struct ps_source *s = NULL;
    struct ps_err err = {0};
    const struct ps_store_options o = {.direct_io = direct_io, .io_threads = 3, .stats = stats};
    assert_ok(ps_store_open(&s, dir, &o, &err), &err);
    assert_true(s->local);
    return s;
}

static void check_range(struct ps_source *s, const char *name, uint64_t offset, uint64_t bytes,
                        size_t shift)
{
    struct ps_err err = {0};
    uint8_t *buf = ps_alloc_pages(bytes + 8192, 4096);
    assert_non_null(buf);
    memset(buf, 0xee, bytes + 8192);
    assert_ok(ps_source_read(s, name, offset, buf + shift, bytes, NULL, &err), &err);
    assert_memory_equal(buf + shift, big + offset, bytes);
    assert_int_equal(buf[shift + bytes], 0xee); /* not a byte more */
    ps_free_pages(buf, bytes + 8192);
}

static void ranges(bool direct_io)
{
    struct ps_stats stats = {0};
    struct ps_source *s = open_store(direct_io, &stats);
    static const struct {
        uint64_t offset, bytes;
    } cases[] = {
        {0, 1},
        {0, 4096},
        {4096, 8192},
        {1, 4095},
        {4095, 2},
        {12345, 1000000},
        {0, BIG_BYTES},
        {1, BIG_BYTES - 1},
        {8192, 4194304},
        {BIG_BYTES - 1, 1},
        {BIG_BYTES - 5000, 5000},
        {4096, BIG_BYTES - 4096},
    };
    uint64_t sum = 0;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        check_range(s, "sub/big.bin", cases[i].offset, cases[i].bytes, 0);
        check_range(s, "link.bin", cases[i].offset, cases[i].bytes, 3);
        sum += 2 * cases[i].bytes;
    }
    assert_int_equal(ps_stat_get(&stats.bytes_disk_read), sum);
    ps_source_close(s);
}

static void test_ranges(void **state)
{
    (void)state;
    ranges(false);
}

static void test_ranges_direct(void **state)
{
    (void)state;
    ranges(true);
}

static void test_whole_objects(void **state)
{
    (void)state;
    struct ps_source *s = open_store(false, NULL);
    struct ps_err err = {0};
    struct ps_object_info info;
    char *text = NULL, head[100];
    size_t len = 99;
    assert_ok(ps_source_get(s, "config.json", 100, &text, &len, &info, &err), &err);
    assert_int_equal(len, 3);
    assert_string_equal(text, "{}\n");
    assert_int_equal(info.bytes, 3);
    assert_string_equal(info.etag, "");
    assert_non_null(strstr(info.identity, "config.json"));
    ps_free(text);
    assert_ok(ps_source_get(s, "empty", 100, &text, &len, NULL, &err), &err);
    assert_int_equal(len, 0);
    assert_string_equal(text, "");
    ps_free(text);
    text = NULL;
    assert_int_equal(ps_source_get(s, "config.json", 2, &text, &len, NULL, &err), PS_EDATA);
    assert_null(text);
    assert_ok(ps_source_head(s, "sub/big.bin", head, sizeof head, &len, &info, &err), &err);
    assert_int_equal(len, sizeof head);
    assert_int_equal(info.bytes, BIG_BYTES);
    assert_memory_equal(head, big, sizeof head);
    assert_ok(ps_source_head(s, "config.json", head, sizeof head, &len, &info, &err), &err);
    assert_int_equal(len, 3);
    char *path = NULL;
    assert_int_equal(s->ops->local_path(s, "sub/big.bin", &path, &err), 0);
    assert_int_equal(access(path, R_OK), 0);
    ps_free(path);
    ps_source_close(s);
}

/* The file stays open between reads, and is written to in place: what it was at first is not what it is. */
static void test_changed_in_place(void **state)
{
    (void)state;
    struct ps_source *s = open_store(false, NULL);
    struct ps_err err = {0};
    struct ps_object_info was, is;
    struct stat st;
    char *path = NULL, byte;
    size_t len;
    assert_ok(ps_source_head(s, "config.json", &byte, 1, &len, &was, &err), &err);
    assert_ok(ps_source_head(s, "config.json", &byte, 1, &len, &is, &err), &err);
    assert_string_equal(was.identity, is.identity);
    assert_int_equal(s->ops->local_path(s, "config.json", &path, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    const struct timespec later[2] = {st.st_atim, {st.st_mtim.tv_sec, st.st_mtim.tv_nsec ^ 1}};
    assert_int_equal(utimensat(AT_FDCWD, path, later, 0), 0);
    ps_free(path);
    assert_ok(ps_source_head(s, "config.json", &byte, 1, &len, &is, &err), &err);
    assert_string_not_equal(was.identity, is.identity);
    ps_source_close(s);
}

static void read_fails(struct ps_source *s, const char *name, uint64_t offset, uint64_t bytes,
                       const uint8_t *sha, int rc, const char *says)
{
    char buf[64];
    struct ps_err err = {0};
    int got = ps_source_read(s, name, offset, buf, bytes, sha, &err);
    if (got != rc || !strstr(err.text, says))
        fail_msg("%s: %d %s", name, got, err.text);
}

static void test_failures(void **state)
{
    (void)state;
    struct ps_source *s = open_store(false, NULL);
    uint8_t sha[PS_SHA256_BYTES];
    char buf[64], fifo[512];
    struct ps_err err = {0};
    read_fails(s, "nope.bin", 0, 10, NULL, PS_ENOTFOUND, "nope.bin");
    read_fails(s, "config.json/x", 0, 1, NULL, PS_ENOTFOUND, "config.json/x");
    read_fails(s, "sub", 0, 1, NULL, PS_EDATA, "not a regular file");
    read_fails(s, "config.json", 0, 4, NULL, PS_EDATA, "truncated");
    read_fails(s, "config.json", 3, 1, NULL, PS_EDATA, "truncated");
    read_fails(s, "config.json", UINT64_MAX - 1, 2, NULL, PS_EDATA, "beyond");
    read_fails(s, "../config.json", 0, 1, NULL, PS_EDATA, "bad object name");
    read_fails(s, "/etc/hostname", 0, 1, NULL, PS_EDATA, "bad object name");
    memset(sha, 7, sizeof sha);
    read_fails(s, "config.json", 0, 3, sha, PS_EDATA, "SHA-256");
    ps_sha256_once("{}\n", 3, sha);
    assert_ok(ps_source_read(s, "config.json", 0, buf, 3, sha, &err), &err);
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    read_fails(s, "fifo", 0, 1, NULL, PS_EDATA, "not a regular file"); /* and it does not hang */
    ps_source_close(s);
    snprintf(fifo, sizeof fifo, "%s/config.json", dir);
    assert_int_equal(ps_store_open(&s, fifo, NULL, &err), PS_EUSAGE);
}

static void test_many_files(void **state)
{
    (void)state;
    char path[512], name[64];
    struct ps_source *s = open_store(false, NULL);
    for (int round = 0; round < 2; round++)
        for (unsigned i = 0; i < 300; i++) { /* more than are kept open */
            uint32_t got = 0;
            struct ps_err err = {0};
            snprintf(name, sizeof name, "many/%u", i);
            snprintf(path, sizeof path, "%s/%s", dir, name);
            if (round == 0)
                test_write_file(path, &i, sizeof i);
            assert_ok(ps_source_read(s, name, 0, &got, sizeof got, NULL, &err), &err);
            assert_int_equal(got, i);
        }
    ps_source_close(s);
}

static _Atomic unsigned n_ok, n_cancelled, n_other;

static void count_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    (void)r;
    (void)err;
    _Atomic unsigned *which = rc == 0 ? &n_ok : rc == PS_ECANCELLED ? &n_cancelled : &n_other;
    atomic_fetch_add(which, 1);
}

static void test_cancel_and_close(void **state)
{
    (void)state;
    enum { N = 200 };
    static struct ps_range r[N];
    uint64_t live = ps_alloc_live_count();
    char *buf = malloc((size_t)N * 65536);
    assert_non_null(buf);
    struct ps_source *s = open_store(true, NULL);
    n_ok = n_cancelled = n_other = 0;
    for (unsigned i = 0; i < N; i++) {
        r[i] = (struct ps_range){.object = "sub/big.bin",
                                 .offset = i * 4097ull,
                                 .bytes = 65536,
                                 .buf = buf + (size_t)i * 65536,
                                 .priority = N - i,
                                 .done = count_done};
        assert_int_equal(ps_source_submit(s, &r[i], NULL), 0);
    }
    for (unsigned i = 0; i < N; i += 2)
        ps_source_cancel(s, &r[i]);
    ps_source_close(s);
    assert_int_equal(n_ok + n_cancelled, N);
    assert_int_equal(n_other, 0);
    assert_int_equal(ps_alloc_live_count(), live);
    free(buf);
}

static int open_and_read(void *user)
{
    (void)user;
    struct ps_source *s;
    char buf[3];
    struct ps_err err = {0};
    const struct ps_store_options o = {.io_threads = 1, .direct_io = true};
    int rc = ps_store_open(&s, dir, &o, &err);
    if (rc != 0)
        return rc;
    rc = ps_source_read(s, "config.json", 0, buf, 3, NULL, &err);
    char *text = NULL;
    size_t len;
    if (rc == 0)
        rc = ps_source_get(s, "config.json", 10, &text, &len, NULL, &err);
    if (rc == 0)
        ps_free(text);
    ps_source_close(s);
    return rc;
}

static void test_memory(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(open_and_read, NULL) >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),           cmocka_unit_test(test_ranges_direct),
        cmocka_unit_test(test_whole_objects),    cmocka_unit_test(test_changed_in_place),
        cmocka_unit_test(test_failures),         cmocka_unit_test(test_many_files),
        cmocka_unit_test(test_cancel_and_close), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
