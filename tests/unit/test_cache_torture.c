/* The Nth allocation (LMDB's and the C library's too), pread, pwrite, writev, fdatasync, ftruncate or fallocate
 * fails, ours or LMDB's, or the Nth call of LMDB, with each of its kinds of error, once, for every N of a scenario
 * that opens, writes, reads, evicts, verifies and closes. The scenario may fail, in good order; afterwards the
 * cache opens, holds no wrong byte, verifies clean, and lies within its budget. ctest-timeout: 300 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/log.h"
#include "tests/support/cache_image.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define BYTES  9000u
#define STORED 6u

/* ---- the shim: these names come before the C library's, for LMDB too ---- */

enum call {
    CALL_PREAD,
    CALL_PWRITE,
    CALL_WRITEV,
    CALL_SYNC,
    CALL_TRUNCATE,
    CALL_ALLOCATE,
    CALL_LMDB,
    CALL_MALLOC,
    CALLS
};
static const char *const call_names[CALLS] = {"pread",     "pwrite",    "writev", "fdatasync",
                                              "ftruncate", "fallocate", "LMDB",   "malloc"};
static _Atomic int64_t seen[CALLS]; /* calls since armed */
static _Atomic int64_t fail_at[CALLS];
static _Atomic int fail_errno;

static bool fails_now(enum call call)
{
    const int64_t n = atomic_fetch_add(&seen[call], 1) + 1;
    if (n != atomic_load(&fail_at[call]))
        return false;
    errno = atomic_load(&fail_errno);
    return true;
}

#define VISIBLE __attribute__((visibility("default")))

/* Our code is built with 64-bit offsets and calls the one name, LMDB the other. */
VISIBLE ssize_t shim_pread(int fd, void *buf, size_t n, off_t at) __asm__("pread");
ssize_t shim_pread(int fd, void *buf, size_t n, off_t at)
{
    return fails_now(CALL_PREAD) ? -1 : syscall(SYS_pread64, fd, buf, n, at);
}

VISIBLE ssize_t shim_pread64(int fd, void *buf, size_t n, off_t at) __asm__("pread64");
ssize_t shim_pread64(int fd, void *buf, size_t n, off_t at)
{
    return shim_pread(fd, buf, n, at);
}

VISIBLE ssize_t shim_pwrite(int fd, const void *buf, size_t n, off_t at) __asm__("pwrite");
ssize_t shim_pwrite(int fd, const void *buf, size_t n, off_t at)
{
    return fails_now(CALL_PWRITE) ? -1 : syscall(SYS_pwrite64, fd, buf, n, at);
}

VISIBLE ssize_t shim_pwrite64(int fd, const void *buf, size_t n, off_t at) __asm__("pwrite64");
ssize_t shim_pwrite64(int fd, const void *buf, size_t n, off_t at)
{
    return shim_pwrite(fd, buf, n, at);
}

VISIBLE ssize_t shim_writev(int fd, const struct iovec *v, int n) __asm__("writev");
ssize_t shim_writev(int fd, const struct iovec *v, int n)
{
    return fails_now(CALL_WRITEV) ? -1 : syscall(SYS_writev, fd, v, n);
}

VISIBLE int shim_fdatasync(int fd) __asm__("fdatasync");
int shim_fdatasync(int fd)
{
    return fails_now(CALL_SYNC) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

VISIBLE int shim_ftruncate64(int fd, off_t size) __asm__("ftruncate64");
int shim_ftruncate64(int fd, off_t size)
{
    return fails_now(CALL_TRUNCATE) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

VISIBLE int shim_fallocate64(int fd, int mode, off_t at, off_t n) __asm__("fallocate64");
int shim_fallocate64(int fd, int mode, off_t at, off_t n)
{
    return fails_now(CALL_ALLOCATE) ? -1 : (int)syscall(SYS_fallocate, fd, mode, at, n);
}

/* Reports by its value, not by errno. */
VISIBLE int shim_posix_fallocate64(int fd, off_t at, off_t n) __asm__("posix_fallocate64");
int shim_posix_fallocate64(int fd, off_t at, off_t n)
{
    if (fails_now(CALL_ALLOCATE))
        return errno;
    return syscall(SYS_fallocate, fd, 0, at, n) == 0 ? 0 : errno;
}

/* What the index calls of LMDB, itself then left alone. Named by LMDB's header, found in its library. */
#define LMDB_CALL(name, args, ...)                                                                 \
    VISIBLE int name args                                                                          \
    {                                                                                              \
        static int(*real) args;                                                                    \
        if (!real)                                                                                 \
            real = (int(*) args)(uintptr_t)dlsym(RTLD_NEXT, #name);                                \
        return fails_now(CALL_LMDB) ? errno : real(__VA_ARGS__);                                   \
    }
LMDB_CALL(mdb_env_create, (MDB_env * *env), env)
LMDB_CALL(mdb_env_set_maxdbs, (MDB_env * env, MDB_dbi dbs), env, dbs)
LMDB_CALL(mdb_env_set_maxreaders, (MDB_env * env, unsigned int readers), env, readers)
LMDB_CALL(mdb_env_set_mapsize, (MDB_env * env, size_t size), env, size)
LMDB_CALL(mdb_env_open, (MDB_env * env, const char *path, unsigned int flags, mdb_mode_t mode), env,
          path, flags, mode)
LMDB_CALL(mdb_env_info, (MDB_env * env, MDB_envinfo *info), env, info)
LMDB_CALL(mdb_env_stat, (MDB_env * env, MDB_stat *stat), env, stat)
LMDB_CALL(mdb_env_get_fd, (MDB_env * env, mdb_filehandle_t *fd), env, fd)
LMDB_CALL(mdb_env_copy2, (MDB_env * env, const char *path, unsigned int flags), env, path, flags)
LMDB_CALL(mdb_txn_begin, (MDB_env * env, MDB_txn *parent, unsigned int flags, MDB_txn **txn), env,
          parent, flags, txn)
LMDB_CALL(mdb_txn_renew, (MDB_txn * txn), txn)
LMDB_CALL(mdb_dbi_open, (MDB_txn * txn, const char *name, unsigned int flags, MDB_dbi *dbi), txn,
          name, flags, dbi)
LMDB_CALL(mdb_stat, (MDB_txn * txn, MDB_dbi dbi, MDB_stat *stat), txn, dbi, stat)
LMDB_CALL(mdb_get, (MDB_txn * txn, MDB_dbi dbi, MDB_val *key, MDB_val *data), txn, dbi, key, data)
LMDB_CALL(mdb_put, (MDB_txn * txn, MDB_dbi dbi, MDB_val *key, MDB_val *data, unsigned int flags),
          txn, dbi, key, data, flags)
LMDB_CALL(mdb_del, (MDB_txn * txn, MDB_dbi dbi, MDB_val *key, MDB_val *data), txn, dbi, key, data)
LMDB_CALL(mdb_cursor_open, (MDB_txn * txn, MDB_dbi dbi, MDB_cursor **cursor), txn, dbi, cursor)
LMDB_CALL(mdb_cursor_get, (MDB_cursor * cursor, MDB_val *key, MDB_val *data, MDB_cursor_op op),
          cursor, key, data, op)
LMDB_CALL(mdb_reader_check, (MDB_env * env, int *dead), env, dead)

/* A commit that fails ends the transaction all the same. */
VISIBLE int mdb_txn_commit(MDB_txn *txn)
{
    static int (*real)(MDB_txn *);
    if (!real)
        real = (int (*)(MDB_txn *))(uintptr_t)dlsym(RTLD_NEXT, "mdb_txn_commit");
    if (!fails_now(CALL_LMDB))
        return real(txn);
    const int error = errno;
    mdb_txn_abort(txn);
    return error;
}

/* Sanitizers have their own; there ps_alloc_fail_at has to do (test_allocations). */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHIMS CALL_MALLOC
#else
#define SHIMS CALLS
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t each);
void *__libc_realloc(void *p, size_t n);

static bool no_memory(void)
{
    const int before = errno;
    if (fails_now(CALL_MALLOC)) {
        errno = ENOMEM;
        return true;
    }
    errno = before;
    return false;
}

VISIBLE void *shim_malloc(size_t n) __asm__("malloc");
void *shim_malloc(size_t n)
{
    return no_memory() ? NULL : __libc_malloc(n);
}

VISIBLE void *shim_calloc(size_t n, size_t each) __asm__("calloc");
void *shim_calloc(size_t n, size_t each)
{
    return no_memory() ? NULL : __libc_calloc(n, each);
}

VISIBLE void *shim_realloc(void *p, size_t n) __asm__("realloc");
void *shim_realloc(void *p, size_t n)
{
    return no_memory() ? NULL : __libc_realloc(p, n);
}
#endif

static void arm(int call, int64_t nth, int error)
{
    for (int i = 0; i < CALLS; i++) {
        atomic_store(&seen[i], 0);
        atomic_store(&fail_at[i], i == call ? nth : 0);
    }
    atomic_store(&fail_errno, error);
}

/* ---- the scenario ---- */

static uint8_t buf[16384];

static bool bad_read; /* wrong bytes were given out as right */

static void read_all(struct ps_cache *c)
{
    for (uint64_t i = 0; i < 2 * STORED; i++)
        bad_read = bad_read || crash_load(c, i, buf, BYTES, sizeof buf) == PS_EFAIL;
}

static void write_some(struct ps_cache *c, uint64_t first)
{
    uint8_t id[PS_SHA256_BYTES];
    uint32_t model;
    crash_model_id(first, id);
    if (ps_cache_model_open(c, id, "torture", 1, &model, NULL) != 0)
        return;
    for (uint64_t i = first; i < first + STORED; i++)
        (void)crash_store(c, model, i, 0, buf, BYTES);
    (void)ps_cache_flush(c, NULL);
}

static void scenario(void)
{
    const struct ps_cache_options o = {.budget_bytes = IMAGE_BUDGET};
    struct ps_cache *c = NULL;
    uint64_t freed, checked, bad;
    uint8_t id[PS_SHA256_BYTES];
    if (ps_cache_open(&c, test_dir, &o, NULL, NULL) != 0)
        return;
    write_some(c, 0);
    read_all(c);
    crash_model_id(0, id);
    (void)ps_cache_evict(c, id, &freed, NULL);
    write_some(c, STORED);
    (void)ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL);
    read_all(c);
    ps_cache_close(c);
}

/* With nothing failing any more. */
static void inspect(const char *what, int64_t n)
{
    const struct ps_cache_options o = {.budget_bytes = IMAGE_BUDGET};
    struct ps_cache *c = NULL;
    struct ps_err err = {.code = 0};
    uint64_t checked, bad = 0;
    const int rc = ps_cache_open(&c, test_dir, &o, NULL, &err);
    if (rc != 0 || bad_read)
        fail_msg("%s %lld: %s", what, (long long)n, rc != 0 ? err.text : "WRONG BYTES");
    read_all(c);
    write_some(c, 0);
    if (ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, &err) != 0 || bad > 0 || bad_read)
        fail_msg("%s %lld: verify: %llu wrong %s", what, (long long)n, (unsigned long long)bad,
                 err.text);
    if (checked < STORED)
        fail_msg("%s %lld: holds %llu", what, (long long)n, (unsigned long long)checked);
    ps_cache_close(c);
    if (crash_folder_bytes(test_dir) > IMAGE_BUDGET)
        fail_msg("%s %lld: over the budget", what, (long long)n);
}

/* Whether the Nth call of this kind came. */
static bool one_round(int call, int64_t n, int error)
{
    test_dir_setup(NULL);
    arm(call, n, error);
    if (call < 0)
        ps_alloc_fail_at(n);
    scenario();
    const bool came = call < 0 ? true : atomic_load(&seen[call]) >= n;
    ps_alloc_fail_at(0);
    arm(-1, 0, 0);
    inspect(call < 0 ? "allocation" : call_names[call], n);
    test_dir_teardown(NULL);
    return came;
}

static void every_call(int error)
{
    for (int call = 0; call < SHIMS; call++) {
        int64_t n = 1;
        while (n <= 1000 && one_round(call, n, error))
            n++;
        printf("    %s: each of %lld failed\n", call_names[call], (long long)n - 1);
        assert_true(n > 1 && n <= 1000);
    }
}

/* What only LMDB says, each at every call, wherever it may be said or not. */
static void test_lmdb_errors(void **state)
{
    static const int errors[] = {MDB_CORRUPTED,   MDB_PAGE_NOTFOUND, MDB_MAP_FULL,
                                 MDB_MAP_RESIZED, MDB_READERS_FULL,  MDB_PANIC,
                                 MDB_BAD_TXN,     MDB_NOTFOUND,      ENOMEM};
    /* ten times slower under a sanitizer, and little of what they look at differs between the errors */
    const size_t kinds = SHIMS == CALLS ? sizeof errors / sizeof errors[0] : 2;
    (void)state;
    for (size_t i = 0; i < kinds; i++) {
        int64_t n = 1;
        while (n <= 1000 && one_round(CALL_LMDB, n, errors[i]))
            n++;
        printf("    LMDB, %s: each of %lld failed\n", mdb_strerror(errors[i]), (long long)n - 1);
        assert_true(n > 1 && n <= 1000);
    }
}

static void test_io_errors(void **state)
{
    (void)state;
    every_call(EIO);
}

static void test_full_disk(void **state)
{
    (void)state;
    every_call(ENOSPC);
}

static void test_allocations(void **state)
{
    (void)state;
    const uint64_t live = ps_alloc_live_count();
    for (int64_t n = 1; n <= 60; n++)
        (void)one_round(-1, n, 0);
    assert_int_equal(ps_alloc_live_count(), live);
}

int main(void)
{
    image_use_memory();
    ps_log_set_level(PS_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allocations),
        cmocka_unit_test(test_io_errors),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_lmdb_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
