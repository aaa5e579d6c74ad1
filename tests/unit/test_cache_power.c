/* Power loss at every call: what the cache and LMDB write, cut, punch and sync is logged, and each moment of it is
 * made again with the sectors that nobody had synced kept, lost or torn (power_log.h). Every state must open, hold
 * no wrong byte and no record without its bytes, and lie within its budget; once an index was synced, it is never
 * found damaged. PENSTOCK_POWER_WHOLE=1: every call with 12 states each, instead of a sample. ctest-timeout: 900 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/log.h"
#include "cache/budget.h"
#include "tests/support/cache_image.h"
#include "tests/support/crash_cache.h"
#include "tests/support/power_log.h"
#include "tests/support/test.h"

#define BUDGET (1u << 20)
#define LARGE  (4u << 20)
#define CAP    65536u
#define KEYS   60u

/* ---- the shims: these names come before the C library's, for LMDB too ---- */

#define VISIBLE __attribute__((visibility("default")))

VISIBLE ssize_t shim_pwrite(int fd, const void *buf, size_t n, off_t at) __asm__("pwrite");
ssize_t shim_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    const ssize_t done = syscall(SYS_pwrite64, fd, buf, n, at);
    if (done > 0)
        power_wrote(fd, buf, (size_t)done, at);
    return done;
}

VISIBLE ssize_t shim_pwrite64(int fd, const void *buf, size_t n, off_t at) __asm__("pwrite64");
ssize_t shim_pwrite64(int fd, const void *buf, size_t n, off_t at)
{
    return shim_pwrite(fd, buf, n, at);
}

VISIBLE ssize_t shim_write(int fd, const void *buf, size_t n) __asm__("write");
ssize_t shim_write(int fd, const void *buf, size_t n)
{
    const off_t at = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    const ssize_t done = syscall(SYS_write, fd, buf, n);
    if (done > 0 && at >= 0)
        power_wrote(fd, buf, (size_t)done, at);
    return done;
}

/* Each piece as a write of its own: they may survive one without the other. */
static void wrote_pieces(int fd, const struct iovec *v, int n, ssize_t done, off_t at)
{
    for (int i = 0; i < n && done > 0; i++) {
        const size_t k = v[i].iov_len < (size_t)done ? v[i].iov_len : (size_t)done;
        power_wrote(fd, v[i].iov_base, k, at);
        at += (off_t)k;
        done -= (ssize_t)k;
    }
}

VISIBLE ssize_t shim_writev(int fd, const struct iovec *v, int n) __asm__("writev");
ssize_t shim_writev(int fd, const struct iovec *v, int n)
{
    const off_t at = (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    const ssize_t done = syscall(SYS_writev, fd, v, n);
    if (at >= 0)
        wrote_pieces(fd, v, n, done, at);
    return done;
}

VISIBLE ssize_t shim_pwritev(int fd, const struct iovec *v, int n, off_t at) __asm__("pwritev");
ssize_t shim_pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    const ssize_t done = syscall(SYS_pwritev, fd, v, n, at, 0);
    wrote_pieces(fd, v, n, done, at);
    return done;
}

VISIBLE ssize_t shim_pwritev64(int fd, const struct iovec *v, int n, off_t at) __asm__("pwritev64");
ssize_t shim_pwritev64(int fd, const struct iovec *v, int n, off_t at)
{
    return shim_pwritev(fd, v, n, at);
}

VISIBLE int shim_fdatasync(int fd) __asm__("fdatasync");
int shim_fdatasync(int fd)
{
    const int rc = (int)syscall(SYS_fdatasync, fd);
    if (rc == 0)
        power_synced(fd);
    return rc;
}

VISIBLE int shim_fsync(int fd) __asm__("fsync");
int shim_fsync(int fd)
{
    const int rc = (int)syscall(SYS_fsync, fd);
    if (rc == 0)
        power_synced(fd);
    return rc;
}

VISIBLE int shim_ftruncate64(int fd, off_t size) __asm__("ftruncate64");
int shim_ftruncate64(int fd, off_t size)
{
    const int rc = (int)syscall(SYS_ftruncate, fd, size);
    if (rc == 0)
        power_sized(fd, size);
    return rc;
}

VISIBLE int shim_ftruncate(int fd, off_t size) __asm__("ftruncate");
int shim_ftruncate(int fd, off_t size)
{
    return shim_ftruncate64(fd, size);
}

VISIBLE int shim_fallocate64(int fd, int mode, off_t at, off_t n) __asm__("fallocate64");
int shim_fallocate64(int fd, int mode, off_t at, off_t n)
{
    const int rc = (int)syscall(SYS_fallocate, fd, mode, at, n);
    if (rc == 0 && (mode & FALLOC_FL_PUNCH_HOLE))
        power_punched(fd, at, n);
    else if (rc == 0)
        power_sized(fd, at + n);
    return rc;
}

VISIBLE int shim_posix_fallocate64(int fd, off_t at, off_t n) __asm__("posix_fallocate64");
int shim_posix_fallocate64(int fd, off_t at, off_t n)
{
    if (syscall(SYS_fallocate, fd, 0, at, n) != 0)
        return errno;
    power_sized(fd, at + n);
    return 0;
}

VISIBLE int shim_renameat(int od, const char *o, int nd, const char *n) __asm__("renameat");
int shim_renameat(int od, const char *o, int nd, const char *n)
{
    power_renames(od, o, nd, n);
    return (int)syscall(SYS_renameat2, od, o, nd, n, 0);
}

VISIBLE int shim_unlinkat(int fd, const char *name, int flags) __asm__("unlinkat");
int shim_unlinkat(int fd, const char *name, int flags)
{
    if (flags == 0)
        power_unlinks(fd, name);
    return (int)syscall(SYS_unlinkat, fd, name, flags);
}

/* ---- what is done ---- */

static char again[300];
static _Alignas(4096) uint8_t buf[CAP];

static bool tiny; /* the extents of the second scenario */

static size_t size_of(uint64_t number)
{
    return crash_extent_size(number, 1, tiny ? 4000 : 40000);
}

static uint32_t open_model(struct ps_cache *c, uint64_t number)
{
    uint8_t id[PS_SHA256_BYTES];
    const uint64_t parts[3] = {1, 2, 3};
    uint32_t model;
    crash_model_id(number, id);
    const struct ps_cache_model_options o = {.id = id,
                                             .source_label = "label",
                                             .n_layers = 2,
                                             .part_bytes = parts};
    assert_int_equal(ps_cache_model_open_as(c, &o, &model, NULL), 0);
    return model;
}

static void store(struct ps_cache *c, uint32_t m, uint64_t from, unsigned n)
{
    for (uint64_t i = from; i < from + n; i++) {
        const int rc = crash_store(c, m, i, 0, buf, size_of(i));
        assert_true(rc == 0 || rc == PS_EBUDGET || rc == PS_EAGAIN);
        if (i % 7 == 6)
            (void)ps_cache_flush(c, NULL);
    }
    assert_int_equal(ps_cache_flush(c, NULL), 0);
}

/* Two models in room for about one: what is evicted leaves its slots to what comes. Then by hand, less room, more. */
static void scenario(void)
{
    uint8_t id[PS_SHA256_BYTES];
    uint64_t freed, checked, bad;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    store(c, open_model(c, 1), 0, 30);
    ps_cache_close(c);
    c = crash_open(test_dir, BUDGET);
    store(c, open_model(c, 2), 30, 30);
    crash_model_id(2, id);
    assert_int_equal(ps_cache_pin(c, id, true, NULL), 0);
    assert_int_equal(ps_cache_evict(c, id, &freed, NULL), 0);
    store(c, open_model(c, 1), 10, 30);
    assert_int_equal(ps_cache_verify(c, true, true, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(bad, 0);
    ps_cache_close(c);
    c = crash_open(test_dir, BUDGET / 2);
    ps_cache_close(c);
    c = crash_open(test_dir, BUDGET);
    store(c, open_model(c, 2), 25, 20);
    ps_cache_close(c);
}

/* An index that has grown, and then so little room that it is written anew. Returns the call where that begins. */
static size_t scenario_compact(void)
{
    struct ps_cache *c = crash_open(test_dir, 4 * LARGE);
    const uint32_t m = open_model(c, 1);
    for (uint64_t i = 0; i < 1500; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, size_of(i)), 0);
    ps_cache_close(c);
    const size_t from = power_n_ops();
    c = crash_open(test_dir, ps_budget_least() + 8192);
    ps_cache_close(c);
    return from;
}

/* ---- what must be found ---- */

static bool look_at(size_t at, uint64_t seed, unsigned *held, unsigned *rebuilt)
{
    struct ps_err err = {.code = 0};
    struct ps_cache *c = NULL;
    const struct ps_cache_options o = {.budget_bytes = tiny ? 4 * LARGE : BUDGET};
    uint64_t checked = 0, bad = 0;
    unsigned wrong = 0;
    bool ok = ps_cache_open(&c, again, &o, NULL, &err) == 0;
    if (!ok) {
        print_error("call %zu, state %llu: %s\n", at, (unsigned long long)seed, err.text);
        return false;
    }
    const bool anew = ps_cache_was_rebuilt(c);
    *rebuilt += anew;
    for (uint64_t i = 0; i < KEYS; i++) {
        const int rc = crash_load(c, i, buf, size_of(i), CAP);
        wrong += rc != 0 && rc != PS_ENOTFOUND;
        *held += rc == 0;
    }
    ok = ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL) == 0 && bad == 0 &&
         wrong == 0 && !(anew && power_was_synced("index/data.mdb", at));
    /* It goes on to work, and within its limit. */
    uint8_t id[PS_SHA256_BYTES];
    crash_model_id(2, id);
    (void)ps_cache_pin(c, id, false, NULL); /* or it may be full of what must stay */
    const int rc = crash_store(c, open_model(c, 9), 9000, 0, buf, 20000);
    ok = ok && rc == 0 && ps_cache_flush(c, NULL) == 0 && crash_load(c, 9000, buf, 20000, CAP) == 0;
    ps_cache_close(c);
    const uint64_t bytes = crash_folder_bytes(again);
    if (!ok || bytes > o.budget_bytes)
        print_error("call %zu, state %llu: %u wrong, %llu of %llu bad%s, store %d, %llu bytes\n",
                    at, (unsigned long long)seed, wrong, (unsigned long long)bad,
                    (unsigned long long)checked, anew ? ", index emptied" : "", rc,
                    (unsigned long long)bytes);
    return ok && bytes <= o.budget_bytes;
}

/* Every `step`-th call from `from` on. Returns how many extents were found. */
static unsigned replay_all(size_t from, size_t step, unsigned seeds)
{
    unsigned held = 0, rebuilt = 0, states = 0, failed = 0;
    if (getenv("PENSTOCK_POWER_WHOLE")) {
        step = 1;
        seeds = 12;
    }
    power_stop();
    power_print();
    ps_log_set_level(PS_LOG_ERROR); /* an index that was cut off before it was made is told each time */
    for (size_t at = from; at <= power_n_ops(); at += step)
        for (uint64_t seed = 0; seed < seeds; seed++) {
            snprintf(again, sizeof again, "%s.again", test_dir);
            power_replay(again, at, seed);
            failed += !look_at(at, seed, &held, &rebuilt);
            states++;
            test_remove_tree(again);
        }
    ps_log_set_level(PS_LOG_WARN);
    printf("    %u states: %u extents found right, %u indexes emptied before their first sync\n",
           states, held, rebuilt);
    assert_int_equal(failed, 0);
    return held;
}

static void test_power_loss(void **state)
{
    (void)state;
    power_start(test_dir, "claims");
    scenario();
    assert_true(power_n_ops() > 200);
    assert_true(replay_all(0, 11, 3) > 1000);
}

static void test_power_loss_as_the_index_is_written_anew(void **state)
{
    (void)state;
    tiny = true;
    power_start(test_dir, "claims");
    const size_t from = scenario_compact();
    assert_true(power_was_renamed("index/data.mdb"));
    (void)replay_all(from, 47, 2);
    (void)replay_all(power_n_ops() - 24, 1, 6); /* the copy, and its rename into place */
    tiny = false;
}

static int teardown(void **state)
{
    power_free();
    return test_dir_teardown(state);
}

int main(void)
{
    image_use_memory();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_power_loss, test_dir_setup, teardown),
        cmocka_unit_test_setup_teardown(test_power_loss_as_the_index_is_written_anew,
                                        test_dir_setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
