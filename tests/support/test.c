/* Helpers of the unit tests: temporary directories, allocation failures, test data. */
#include "tests/support/test.h"

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/host.h"

void test_assert_ok(int rc, const struct ps_err *err, const char *expr, const char *file, int line)
{
    if (rc == 0)
        return;
    print_error("%s: %s (%d): %s\n", expr, ps_err_name(rc), rc,
                err && err->code ? err->text : "(no text)");
    _fail(file, line);
}

unsigned test_every_alloc_failure(int (*fn)(void *user), void *user)
{
    enum { MAX_RUNS = 100000 };
    for (unsigned n = 1; n < MAX_RUNS; n++) {
        uint64_t before = ps_alloc_live_count();
        ps_alloc_fail_at(n);
        int rc = fn(user);
        ps_alloc_fail_at(0);
        if (ps_alloc_live_count() != before)
            fail_msg("allocation %u failing leaves %lld behind", n,
                     (long long)(ps_alloc_live_count() - before));
        if (rc == 0)
            return n - 1;
        if (rc != PS_ENOMEM)
            fail_msg("allocation %u failing gives %s (%d)", n, ps_err_name(rc), rc);
    }
    fail_msg("still failing after %d runs", MAX_RUNS);
    return 0;
}

void test_temp_dir(char *path, size_t cap)
{
    const char *base = getenv("TMPDIR");
    int n = snprintf(path, cap, "%s/penstock-test-XXXXXX", base && *base ? base : "/tmp");
    assert_true(n > 0 && (size_t)n < cap);
    assert_non_null(mkdtemp(path));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void test_remove_tree(const char *path)
{
    assert_int_equal(nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

char test_dir[256];

int test_dir_setup(void **state)
{
    (void)state;
    test_temp_dir(test_dir, sizeof test_dir);
    return 0;
}

int test_dir_teardown(void **state)
{
    (void)state;
    test_remove_tree(test_dir);
    return 0;
}

void test_write_file(const char *path, const void *bytes, size_t len)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s", path);
    char *slash = strrchr(dir, '/');
    struct ps_err err = {0};
    if (slash && slash != dir) {
        *slash = '\0';
        assert_ok(ps_mkdir_p(dir, 0755, &err), &err);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    close(fd);
}

bool test_data_path(char *path, size_t cap, const char *name)
{
    const char *base = getenv("PENSTOCK_TEST_DATA");
    int n = snprintf(path, cap, "%s/%s", base ? base : "../shared/data", name);
    if (n > 0 && (size_t)n < cap && access(path, R_OK) == 0)
        return true;
    print_message("skipped: test data %s is absent\n", name);
    return false;
}
