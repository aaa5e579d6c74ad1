/* One folder, several users: a group that shares it (setgid), each with a umask of its own; and images that nobody
 * can write: without rights, and on a file system that is mounted read-only. Needs root to become others: else
 * skipped. ctest-timeout: 120 */
#include <errno.h>
#include <ftw.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/alloc.h"
#include "cache/budget.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define BUDGET (8u << 20)
#define CAP    65536u
#define GROUP  48123
#define OTHERS 48999
#define EACH   20000u

/* ---- a group ---- */

static bool become(uid_t uid, gid_t gid)
{
    return setgroups(0, NULL) == 0 && setgid(gid) == 0 && setuid(uid) == 0;
}

/* As a user of the group: what others have stored can be read, evicted and added to, with an index that is written anew
 * now and then (a smaller budget). 0, or what went wrong. */
static int member(const char *folder, uid_t uid, uint64_t from)
{
    if (!become(uid, GROUP))
        return 20;
    umask(077);
    uint8_t *buf = ps_alloc_pages(CAP, 4096);
    struct ps_cache *c = NULL;
    struct ps_err err = {.code = 0};
    const struct ps_cache_options o = {.budget_bytes = BUDGET};
    if (ps_cache_open(&c, folder, &o, NULL, &err) != 0 || ps_cache_is_read_only(c)) {
        fprintf(stderr, "%s\n", err.text);
        return 21;
    }
    const uint32_t m = crash_model(c, uid);
    uint64_t others =
        0; /* bit i - from: another member was just storing it, and may not be done when we look */
    for (uint64_t i = from; i < from + 40; i++) {
        const int rc = crash_store(c, m, i, 0, buf, EACH + (size_t)(i % 3) * 9000);
        if (rc == PS_EAGAIN)
            others |= 1ull << (i - from);
        else if (rc != 0)
            return 22;
    }
    if (ps_cache_flush(c, NULL) != 0)
        return 23;
    for (uint64_t i = 0; i < from + 40; i++) {
        const int rc = crash_load(c, i, buf, EACH + (size_t)(i % 3) * 9000, CAP);
        const bool ours = i >= from && !(others >> (i - from) & 1);
        if (rc != 0 && (rc != PS_ENOTFOUND || ours))
            return 24;
    }
    uint64_t checked, bad;
    if (ps_cache_verify(c, false, true, NULL, NULL, &checked, &bad, NULL) != 0 || bad > 0)
        return 25;
    ps_cache_close(c);
    return 0;
}

/* Someone who is not of the group. */
static int stranger(const char *folder)
{
    struct ps_cache *c = NULL;
    const struct ps_cache_options o = {.budget_bytes = BUDGET};
    if (!become(OTHERS, OTHERS))
        return 20;
    return ps_cache_open(&c, folder, &o, NULL, NULL) == PS_EIO ? 0 : 26;
}

static int outcome(int pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static int check_mode(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)at;
    if (type == FTW_D && st->st_gid == GROUP && (st->st_mode & 07777) == 02770)
        return 0;
    if (type == FTW_F && st->st_gid == GROUP && (st->st_mode & 0777) == 0660)
        return 0;
    print_error("%s: mode %o, group %u\n", path, (unsigned)st->st_mode, (unsigned)st->st_gid);
    return 1;
}

static bool is_root(void)
{
    if (geteuid() == 0)
        return true;
    printf("    skipped: not root, so nobody else can be\n");
    return false;
}

static void test_group(void **state)
{
    (void)state;
    if (!is_root())
        skip();
    assert_int_equal(chown(test_dir, 0, GROUP), 0);
    assert_int_equal(chmod(test_dir, 02770), 0);
    assert_int_equal(outcome(crash_spawn("member", test_dir, 48001, 0)), 0);
    assert_int_equal(nftw(test_dir, check_mode, 16, FTW_PHYS), 0);
    assert_int_equal(outcome(crash_spawn("member", test_dir, 48002, 20)), 0);
    /* Three at once, two of them the same user's. */
    const int pids[3] = {crash_spawn("member", test_dir, 48001, 30),
                         crash_spawn("member", test_dir, 48002, 50),
                         crash_spawn("member", test_dir, 48002, 60)};
    for (int i = 0; i < 3; i++)
        assert_int_equal(outcome(pids[i]), 0);
    assert_int_equal(outcome(crash_spawn("stranger", test_dir, 0, 0)), 0);
    assert_int_equal(nftw(test_dir, check_mode, 16, FTW_PHYS), 0);
    assert_true(crash_folder_bytes(test_dir) <= BUDGET);
}

/* Without the group's bits nothing changes: all is the user's alone. */
static void test_private(void **state)
{
    (void)state;
    struct stat st;
    char path[300];
    uint8_t *buf = ps_alloc_pages(CAP, 4096);
    const mode_t before = umask(0);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    assert_int_equal(crash_store(c, crash_model(c, 1), 1, 0, buf, EACH), 0);
    ps_cache_close(c);
    umask(before);
    const char *names[] = {"lock",  "claims",         "CACHEDIR.TAG",   "index",
                           "slabs", "index/data.mdb", "index/lock.mdb", "slabs/3.slab"};
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", test_dir, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 077, 0);
    }
    ps_free_pages(buf, CAP);
}

/* ---- images ---- */

static void fill(unsigned n)
{
    uint8_t *buf = ps_alloc_pages(CAP, 4096);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = crash_model(c, 1);
    for (uint64_t i = 0; i < n; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, EACH), 0);
    ps_cache_close(c);
    ps_free_pages(buf, CAP);
}

/* Reads all of it as it is, adds nothing. */
static int reads_all(const char *folder, uint64_t n)
{
    uint8_t *buf = ps_alloc_pages(CAP, 4096), key[PS_SHA256_BYTES];
    struct ps_cache_ticket *t;
    struct ps_cache *c = NULL;
    struct ps_err err = {.code = 0};
    uint64_t checked = 0, bad = 0;
    const struct ps_cache_options o = {.budget_bytes = BUDGET};
    if (ps_cache_open(&c, folder, &o, NULL, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return 30;
    }
    crash_extent_key(n, key);
    if (!ps_cache_is_read_only(c) || ps_cache_reserve(&t, c, 0, key, 0, 100, NULL) != PS_EBUDGET)
        return 31;
    for (uint64_t i = 0; i < n; i++)
        if (crash_load(c, i, buf, EACH, CAP) != 0)
            return 32;
    if (ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL) != 0 || checked != n || bad)
        return 33;
    ps_cache_close(c);
    return 0;
}

static int without_rights(const char *folder, uint64_t n)
{
    return become(OTHERS, OTHERS) ? reads_all(folder, n) : 20;
}

/* In a mount namespace of its own; 77 where that is not permitted. */
static int mounted_read_only(const char *folder, uint64_t n)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount(folder, folder, NULL, MS_BIND, NULL) != 0 ||
        mount(NULL, folder, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) != 0)
        return 77;
    return reads_all(folder, n);
}

static int take_rights(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)at;
    return type == FTW_F || type == FTW_D || type == FTW_DP
               ? chmod(path, (st->st_mode & 0555) | 0444 | (S_ISDIR(st->st_mode) ? 0111 : 0))
               : 0;
}

static void test_image_without_rights(void **state)
{
    (void)state;
    if (!is_root())
        skip();
    fill(20);
    assert_int_equal(nftw(test_dir, take_rights, 16, FTW_PHYS), 0); /* chmod -R a-w,a+rX */
    const uint64_t before = crash_folder_bytes(test_dir);
    for (int i = 0; i < 2; i++)
        assert_int_equal(outcome(crash_spawn("rights", test_dir, 20, 0)), 0);
    assert_int_equal(crash_folder_bytes(test_dir), before);
}

static void test_image_mounted_read_only(void **state)
{
    (void)state;
    if (!is_root())
        skip();
    fill(20);
    const int rc = outcome(crash_spawn("mounted", test_dir, 20, 0));
    if (rc == 77) {
        printf("    skipped: no mount namespaces here\n");
        skip();
    }
    assert_int_equal(rc, 0);
}

static int child_main(char **argv)
{
    const uint64_t a = strtoull(argv[3], NULL, 10), b = strtoull(argv[4], NULL, 10);
    if (strcmp(argv[1], "member") == 0)
        return member(argv[2], (uid_t)a, b);
    if (strcmp(argv[1], "stranger") == 0)
        return stranger(argv[2]);
    if (strcmp(argv[1], "rights") == 0)
        return without_rights(argv[2], a);
    return mounted_read_only(argv[2], a);
}

int main(int argc, char **argv)
{
    if (argc == 5)
        return child_main(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_group, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_private, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_image_without_rights, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_image_mounted_read_only, test_dir_setup,
                                        test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
