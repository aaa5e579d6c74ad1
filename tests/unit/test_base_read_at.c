/* A part of a file, whatever the kernel gives at once: short reads, signals, the file's end, a broken disk. */
#include "tests/support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/read_at.h"

enum { BYTES = 1000 };
static uint8_t bytes[BYTES];

/* What the calls to come do: at most so many bytes each, and which of them fails how. */
static struct {
    size_t most;
    int calls, fails_at, error;
} kernel;

/* In the place of the C library's, under whatever name its headers give it. */
ssize_t pread(int fd, void *buf, size_t n, off_t offset)
{
    if (++kernel.calls == kernel.fails_at) {
        errno = kernel.error;
        return -1;
    }
    return syscall(SYS_pread64, fd, buf, n < kernel.most ? n : kernel.most, offset);
}

static int open_file(void)
{
    char path[300];
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    snprintf(path, sizeof path, "%s/file", test_dir);
    test_write_file(path, bytes, BYTES);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* Reads with at most `most` bytes a call, the second of which meets `error` (0: none). */
static int64_t get(uint8_t *buf, size_t need, size_t want, uint64_t at, size_t most, int error)
{
    const int fd = open_file();
    memset(buf, 0xee, 2 * BYTES);
    memset(&kernel, 0, sizeof kernel);
    kernel.most = most;
    kernel.fails_at = error ? 2 : 0;
    kernel.error = error;
    const int64_t n = ps_read_at(fd, buf, need, want, at);
    const int e = errno;
    close(fd);
    if (n > 0)
        assert_memory_equal(buf, bytes + at, (size_t)n);
    for (size_t i = want; i < 2 * BYTES; i++)
        assert_int_equal(buf[i], 0xee); /* never more than was wanted */
    errno = e;
    return n;
}

static void test_whole(void **state)
{
    (void)state;
    uint8_t buf[2 * BYTES];
    assert_int_equal(get(buf, BYTES, BYTES, 0, BYTES, 0), BYTES);
    assert_int_equal(kernel.calls, 1);
    assert_int_equal(get(buf, 300, 300, 650, BYTES, 0), 300);
    assert_int_equal(get(buf, 0, 0, 0, BYTES, 0), 0);
    assert_int_equal(kernel.calls, 0);
}

static void test_short_reads_and_signals(void **state)
{
    (void)state;
    uint8_t buf[2 * BYTES];
    assert_int_equal(get(buf, BYTES, BYTES, 0, 1, 0), BYTES);
    assert_int_equal(kernel.calls, BYTES);
    assert_int_equal(get(buf, 500, 500, 100, 70, EINTR), 500);
    assert_int_equal(kernel.calls, 9);
}

/* What follows the needed bytes is taken as it comes, and not waited for. */
static void test_more_than_needed(void **state)
{
    (void)state;
    uint8_t buf[2 * BYTES];
    assert_int_equal(get(buf, 150, 400, 0, BYTES, 0), 400);
    assert_int_equal(get(buf, 150, 400, 0, 100, 0), 200);
    assert_int_equal(get(buf, 100, 512, 900, BYTES, 0), 100); /* the file ends in between */
    assert_int_equal(kernel.calls, 1);
}

static void test_end_is_no_failure(void **state)
{
    (void)state;
    uint8_t buf[2 * BYTES];
    assert_int_equal(get(buf, 200, 200, 900, 30, 0), 100);
    assert_int_equal(get(buf, 200, 200, BYTES, 30, 0), 0);
    assert_int_equal(get(buf, 200, 200, 5000, 30, 0), 0);
    assert_int_equal(get(buf, 200, 200, 0, 30, EIO), -1);
    assert_int_equal(errno, EIO);
    kernel.fails_at = 0;
    assert_int_equal(ps_read_at(-1, buf, 1, 1, 0), -1);
    assert_int_equal(errno, EBADF);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whole, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_short_reads_and_signals, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_more_than_needed, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_end_is_no_failure, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
