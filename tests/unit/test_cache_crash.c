/* kill -9 of a writing process at many moments, then reopening: no wrong byte, no leaked block, no more than
 * the budget.
 * ctest-timeout: 900 */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "base/alloc.h"
#include "cache/budget.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define CAP    (256u << 10)
#define BUDGET (6ull << 20)
#define ROUNDS 60
#define KEYS   400
#define KILLS  200 /* of two */

static _Atomic bool die_in_commit;

/* LMDB's pwrite, before the C library's: armed, it kills this process as soon as the header in the file names the
 * new commit. LMDB waits for the disk in that very call, and only afterwards tells readers of the commit: a kill
 * during the wait leaves exactly this. */
__attribute__((visibility("default"))) ssize_t lmdb_pwrite(int fd, const void *buf, size_t bytes,
                                                           off_t at) __asm__("pwrite");
ssize_t lmdb_pwrite(int fd, const void *buf, size_t bytes, off_t at)
{
    const ssize_t n = syscall(SYS_pwrite64, fd, buf, bytes, at);
    if (atomic_load(&die_in_commit) && bytes < 512 && at < 2 * 4096)
        kill(getpid(), SIGKILL);
    return n;
}

static size_t size_of(uint64_t number)
{
    return crash_extent_size(number, 1, 60000);
}

/* A child can't tell its parent more than a status: the reason goes to stderr. */
static int child_failed(int status, const char *what, uint64_t number, int rc,
                        const struct ps_err *err)
{
    fprintf(stderr, "    writer %d: %s (%llu): %s (%d): %s\n", (int)getpid(), what,
            (unsigned long long)number, ps_err_name(rc), rc, err->code ? err->text : "(no text)");
    return status;
}

/* Two models in turn, each more than fits: writes, publishes, evicts, aborts until somebody ends it. */
static int child(const char *dir, uint64_t seed, uint64_t budget)
{
    const struct ps_cache_options o = {.budget_bytes = budget};
    uint8_t *buf = ps_alloc_pages(CAP, 4096);
    struct ps_err err = {.code = 0};
    struct ps_cache *c = NULL;
    int rc = ps_cache_open(&c, dir, &o, NULL, &err);
    if (rc != 0)
        return child_failed(6, "open", 0, rc, &err);
    for (uint64_t turn = seed;; turn++) {
        uint8_t id[PS_SHA256_BYTES];
        uint32_t m;
        crash_model_id(turn % 2, id);
        rc = ps_cache_model_open(c, id, "label", 1, &m, &err);
        if (rc != 0)
            return child_failed(7, "model", turn, rc, &err);
        uint8_t keys[8][PS_SHA256_BYTES];
        for (uint64_t i = 0; i < 8; i++)
            crash_extent_key((turn % 2) * KEYS + (turn * 8 + i) % KEYS, keys[i]);
        /* What the plan doesn't name gives way, so that every turn evicts. */
        rc = ps_cache_set_plan(c, m, (const uint8_t(*)[PS_SHA256_BYTES])keys, 8, &err);
        if (rc != 0)
            return child_failed(8, "plan", turn, rc, &err);
        for (uint64_t i = 0; i < 60; i++) {
            const uint64_t number = (turn % 2) * KEYS + (turn * 8 + i) % KEYS;
            rc = crash_store_err(c, m, number, 0, buf, size_of(number), &err);
            if (rc != 0 && rc != PS_EBUDGET && rc != PS_EAGAIN)
                return child_failed(3, "store", number, rc, &err);
            err = (struct ps_err){.code = 0};
            rc = crash_load(c, number, buf, size_of(number), CAP);
            if (rc == PS_EFAIL)
                return child_failed(4, "WRONG BYTES", number, rc, &err);
            if (rc != 0 && rc != PS_ENOTFOUND && rc != PS_EAGAIN)
                return child_failed(9, "load", number, rc, &err);
        }
        rc = turn % 3 == 0 ? ps_cache_flush(c, &err) : 0;
        if (rc != 0)
            return child_failed(5, "flush", turn, rc, &err);
    }
}

static void pause_us(uint64_t us)
{
    const struct timespec t = {.tv_sec = (time_t)(us / 1000000),
                               .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

static void wait_killed(int pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    /* Had it ended by itself, it would have found an error. */
    if (WIFEXITED(status))
        print_error("writer %d ended by itself, status %d\n", pid, WEXITSTATUS(status));
    else if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        print_error("writer %d ended by itself, signal %d\n", pid, WTERMSIG(status));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void kill_and_wait(int pid)
{
    kill(pid, SIGKILL);
    wait_killed(pid);
}

/* Reopens and looks at everything. Returns how many extents survived. */
static uint64_t inspect(const char *dir)
{
    uint8_t *buf = ps_alloc_pages(CAP, 4096);
    struct ps_err err = {.code = 0};
    struct ps_cache *c = crash_open(dir, BUDGET);
    uint64_t checked, bad, held = 0, padded = 0;
    assert_ok(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, &err), &err);
    assert_int_equal(bad, 0);
    for (uint64_t i = 0; i < 2 * KEYS; i++) {
        const int rc = crash_load(c, i, buf, size_of(i), CAP);
        assert_true(rc == 0 || rc == PS_ENOTFOUND);
        held += rc == 0;
        padded += rc == 0 ? ps_budget_round(size_of(i)) : 0;
    }
    assert_int_equal(held, checked);
    /* Nothing is in flight: what the slabs hold beyond the extents is the file system's own. */
    char slabs[300];
    snprintf(slabs, sizeof slabs, "%s/slabs", dir);
    const uint64_t slab_bytes = crash_folder_bytes(slabs);
    assert_true(slab_bytes <= padded + ps_budget_slab_overhead(held, padded) + 4096);
    assert_true(slab_bytes >= padded);
    assert_true(crash_folder_bytes(dir) <= BUDGET);
    ps_cache_close(c);
    ps_free_pages(buf, CAP);
    return held;
}

static void test_kill_one(void **state)
{
    (void)state;
    uint64_t held = 0, most = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        const int pid = crash_spawn("write", test_dir, round, BUDGET);
        pause_us(2000 + crash_extent_size(round, 0, 250000));
        const uint64_t now = crash_folder_bytes(test_dir);
        most = now > most ? now : most;
        kill_and_wait(pid);
        assert_true(crash_folder_bytes(test_dir) <= BUDGET);
        held += inspect(test_dir);
    }
    printf("    %d kills: %.0f extents held on average, at most %llu of %llu bytes\n", ROUNDS,
           (double)held / ROUNDS, (unsigned long long)most, (unsigned long long)BUDGET);
    assert_true(held > 0);
}

/* Two share the folder, and at random moments one of them, or both, are killed; whoever comes next looks at every
 * byte. */
static void test_kill_two(void **state)
{
    (void)state;
    int pids[2];
    uint64_t seen = 0;
    struct crash_watch *w = crash_watch_start(test_dir);
    for (uint64_t i = 0; i < 2; i++)
        pids[i] = crash_spawn("write", test_dir, 5000 + i, BUDGET);
    for (uint64_t round = 0; round < KILLS;) {
        const uint64_t which = crash_extent_size(round, 7, 9); /* 8: both */
        pause_us((unsigned)crash_extent_size(round, 100, 90000));
        for (uint64_t i = 0; i < 2; i++) {
            if (which < 8 && which % 2 != i)
                continue;
            kill_and_wait(pids[i]);
            round++;
        }
        struct ps_cache *c = crash_open(test_dir, BUDGET);
        uint64_t checked, bad;
        assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
        assert_int_equal(bad, 0);
        seen += checked;
        ps_cache_close(c);
        for (uint64_t i = 0; i < 2; i++)
            if (which >= 8 || which % 2 == i)
                pids[i] = crash_spawn("write", test_dir, 6000 + 2 * round + i, BUDGET);
    }
    for (int i = 0; i < 2; i++)
        kill_and_wait(pids[i]);
    const uint64_t most = crash_watch_stop(w);
    printf("    %d kills of two: %llu extents looked at, at most %llu of %llu bytes\n", KILLS,
           (unsigned long long)seen, (unsigned long long)most, (unsigned long long)BUDGET);
    assert_true(most <= BUDGET);
    assert_true(inspect(test_dir) > 0);
}

/* One of three is killed again and again; the others find their way, and the slots of the dead. */
static void test_kill_among_others(void **state)
{
    (void)state;
    int others[2];
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    for (uint64_t i = 0; i < 2; i++)
        others[i] = crash_spawn("write", test_dir, 1000 * i, BUDGET);
    struct crash_watch *w = crash_watch_start(test_dir);
    for (uint64_t round = 0; round < 25; round++) {
        const int pid = crash_spawn("write", test_dir, round, BUDGET);
        pause_us(2000 + crash_extent_size(round, 0, 200000));
        kill_and_wait(pid);
        uint64_t checked, bad;
        assert_int_equal(ps_cache_verify(c, false, false, NULL, NULL, &checked, &bad, NULL), 0);
        assert_int_equal(bad, 0);
    }
    for (int i = 0; i < 2; i++)
        kill_and_wait(others[i]);
    ps_cache_close(c);
    const uint64_t most = crash_watch_stop(w);
    printf("    three processes: at most %llu of %llu bytes\n", (unsigned long long)most,
           (unsigned long long)BUDGET);
    assert_true(most <= BUDGET);
    assert_true(inspect(test_dir) > 0);
}

#define ONE_BYTES 200000u /* more than the blocks that empty slabs may keep */

/* Publishes an extent (what 0) or evicts it (what 1), and dies in the commit. One only: a slow machine's writer does
 * not wait for a second. */
static int die_child(const char *dir, uint64_t what)
{
    uint8_t *buf = ps_alloc_pages(CAP, 4096);
    struct ps_err err = {.code = 0};
    uint64_t freed;
    struct ps_cache *c = crash_open(dir, BUDGET);
    const uint32_t m = crash_model(c, 0);
    atomic_store(&die_in_commit, true);
    int rc = what == 0 ? crash_store_err(c, m, 0, 0, buf, ONE_BYTES, &err)
                       : ps_cache_evict(c, NULL, &freed, &err);
    if (rc == 0)
        rc = ps_cache_flush(c, &err);
    return child_failed(1, "commit", what, rc, &err);
}

/* Opens beside the parent, which settles what the dead have left, and finds `want` extents whole. */
static int look_child(const char *dir, uint64_t want)
{
    uint8_t *buf = ps_alloc_pages(CAP, 4096);
    struct ps_err err = {.code = 0};
    uint64_t checked = 0, bad = 0;
    struct ps_cache *c = crash_open(dir, BUDGET);
    int rc = ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, &err);
    if (rc != 0 || bad != 0 || checked != want)
        return child_failed(1, "verify", checked, rc, &err);
    rc = crash_load(c, 0, buf, ONE_BYTES, CAP);
    if (rc != (want == 1 ? 0 : PS_ENOTFOUND))
        return child_failed(2, "load", 0, rc, &err);
    ps_cache_close(c);
    return 0;
}

/* Killed between the commit on disk and LMDB's word of it to its readers: what was published is kept, what was
 * evicted gives its blocks back. */
static void test_kill_in_commit(void **state)
{
    (void)state;
    char slabs[300];
    uint64_t checked, bad;
    snprintf(slabs, sizeof slabs, "%s/slabs", test_dir);
    struct ps_cache *c =
        crash_open(test_dir, BUDGET); /* alone, opening would begin with the last commit */
    for (uint64_t what = 0; what < 2; what++) {
        const uint64_t left = what == 0 ? 1 : 0;
        wait_killed(crash_spawn("die", test_dir, what, 0));
        assert_true(crash_wait(crash_spawn("look", test_dir, left, 0)));
        (void)crash_model(c, 1); /* a commit: from here on all see the last one */
        assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
        assert_int_equal(bad, 0);
        assert_int_equal(checked, left);
    }
    assert_true(crash_folder_bytes(slabs) < ONE_BYTES);
    ps_cache_close(c);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "die") == 0)
        return die_child(argv[2], strtoull(argv[3], NULL, 10));
    if (argc == 5 && strcmp(argv[1], "look") == 0)
        return look_child(argv[2], strtoull(argv[3], NULL, 10));
    if (argc == 5)
        return child(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kill_in_commit, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_kill_one, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_kill_two, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_kill_among_others, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
