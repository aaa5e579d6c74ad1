/* The hard limit: bounds that hold for any numbers, and a folder that never passes its budget while more is
 * written than fits.
 * ctest-timeout: 600 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "cache/budget.h"
#include "cache/index.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define CAP (1u << 20)

static _Alignas(4096) uint8_t buf[CAP];

static uint64_t random_u64(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void test_classes(void **state)
{
    (void)state;
    assert_int_equal(ps_budget_class(0), -1);
    assert_int_equal(ps_budget_class(1), 0);
    assert_int_equal(ps_budget_class(4096), 0);
    assert_int_equal(ps_budget_class(4097), 1);
    assert_int_equal(ps_budget_class(PS_CACHE_EXTENT_MAX), PS_CACHE_CLASSES - 1);
    assert_int_equal(ps_budget_class((uint64_t)PS_CACHE_EXTENT_MAX + 1), -1);
    assert_int_equal(ps_budget_round(0), 0);
    assert_int_equal(ps_budget_round(1), 4096);
    assert_int_equal(ps_budget_round(8192), 8192);
    assert_int_equal(ps_budget_claims(0), PS_CACHE_CLAIMS_MIN);
    assert_int_equal(ps_budget_claims(UINT64_MAX), PS_CACHE_CLAIMS_MAX);
    assert_true(ps_budget_least() < (512u << 10));
}

/* A folder with the budget of n extents of S bytes in all has S usable, and admits each of them to the last. */
static void test_budget_for_holds_all(void **state)
{
    (void)state;
    uint64_t seed = 0x1234567;
    for (int round = 0; round < 20000; round++) {
        const uint64_t n = 1 + random_u64(&seed) % (1ull << (random_u64(&seed) % 21));
        const uint64_t each = 1 + random_u64(&seed) % (1ull << (1 + random_u64(&seed) % 23));
        const uint64_t stored = n * each;
        struct ps_budget_state s = {.budget_bytes = ps_budget_for(stored, n)};
        s.other_bytes = ps_budget_fixed_bytes(s.budget_bytes);
        assert_true(ps_budget_usable(&s, n, 0, 0) >= stored);
        /* All but the last extent are in, each padded as badly as can be; the last one asks. */
        const uint64_t padded = ps_budget_round(each);
        s.n_extents = n - 1;
        s.extent_bytes = (n - 1) * padded;
        assert_true(ps_budget_charge(&s, 1, padded) <= s.budget_bytes);
        s.n_inflight = n - 1;
        s.inflight_bytes = s.extent_bytes;
        s.n_extents = s.extent_bytes = 0;
        assert_true(ps_budget_charge(&s, 1, padded) <= s.budget_bytes);
    }
}

/* What a budget leaves beside the extents does not grow with it: the plan takes what the disk has not off what is
 * left. */
static void test_budget_beyond_any_disk(void **state)
{
    (void)state;
    for (int shift = 30; shift < 63; shift++) {
        const struct ps_budget_state s = {.budget_bytes = 1ull << shift};
        const uint64_t usable = ps_budget_usable(&s, 1000, 0, 0);
        assert_in_range(s.budget_bytes - usable, 4u << 20, 6u << 20);
    }
}

static void test_bounds_grow(void **state)
{
    (void)state;
    uint64_t index = 0, maps = 0, whole = 0, fixed = 0;
    for (uint64_t n = 1; n < 5000000; n = n + 1 + n / 50) {
        assert_true(ps_budget_index_bytes(n) >= index);
        assert_true(ps_budget_slab_overhead(n, n << 18) >= maps);
        assert_true(ps_budget_for(n << 18, n) > whole);
        assert_true(ps_budget_fixed_bytes(n << 12) >= fixed);
        index = ps_budget_index_bytes(n);
        maps = ps_budget_slab_overhead(n, n << 18);
        whole = ps_budget_for(n << 18, n);
        fixed = ps_budget_fixed_bytes(n << 12);
    }
    printf("    bound of the index: %.1f bytes per extent at 1,000,000\n",
           (double)ps_budget_index_bytes(1000000) / 1e6);
    assert_true(ps_budget_index_bytes(1000000) < 150u * 1000000u);
    assert_true(ps_budget_for(UINT64_MAX, 5) == UINT64_MAX); /* saturates */
}

/* The real thing: a folder of exactly that budget takes all extents, and never passes it. */
static void hold_all(uint64_t n, size_t min_bytes, size_t max_bytes)
{
    uint64_t stored = 0;
    char sub[300];
    snprintf(sub, sizeof sub, "%s/%llu", test_dir, (unsigned long long)n);
    for (uint64_t i = 0; i < n; i++)
        stored += crash_extent_size(i, min_bytes, max_bytes);
    const uint64_t budget = ps_cache_budget_for(stored, n);
    struct ps_cache *c = crash_open(sub, budget);
    const uint32_t m = crash_model(c, 1);
    struct crash_watch *w = crash_watch_start(sub);
    assert_true(ps_cache_usable_bytes(c, n) >= stored);
    for (uint64_t i = 0; i < n; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, crash_extent_size(i, min_bytes, max_bytes)), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    for (uint64_t i = 0; i < n; i++)
        assert_true(crash_holds(c, i));
    assert_int_equal(ps_cache_model_bytes(c, m), stored);
    const uint64_t most = crash_watch_stop(w);
    printf("    %llu extents, %llu bytes: budget %llu, most %llu\n", (unsigned long long)n,
           (unsigned long long)stored, (unsigned long long)budget, (unsigned long long)most);
    assert_true(most <= budget);
    assert_true(ps_cache_allocated_peak_bytes(c) <= budget);
    ps_cache_close(c);
    assert_true(crash_folder_bytes(sub) <= budget);
}

static void test_real_folder_holds_all(void **state)
{
    (void)state;
    hold_all(1, 100, 100);
    hold_all(3, 4096, 4096);
    hold_all(40, 200000, 262144);
    hold_all(300, 1, 70000);
    hold_all(3000, 1, 9000);
    hold_all(20, 500000, 1000000);
}

/* Twice as much as fits: the rest is refused, the limit holds at every moment. */
static void test_never_exceeded(void **state)
{
    (void)state;
    const uint64_t budget = 8u << 20;
    struct ps_cache *c = crash_open(test_dir, budget);
    const uint32_t m = crash_model(c, 1);
    struct crash_watch *w = crash_watch_start(test_dir);
    uint64_t refused = 0, stored = 0;
    for (uint64_t i = 0; i < 400; i++) {
        const size_t n = crash_extent_size(i, 1, 100000);
        const int rc = crash_store(c, m, i, 0, buf, n);
        assert_true(rc == 0 || rc == PS_EBUDGET);
        refused += rc != 0;
        stored += rc == 0 ? n : 0;
    }
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    assert_true(refused > 0);
    assert_true(stored > budget / 2);
    assert_int_equal(ps_cache_model_bytes(c, m), stored);
    ps_cache_close(c);
    const uint64_t most = crash_watch_stop(w);
    printf("    budget %llu, most %llu, stored %llu, refused %llu\n", (unsigned long long)budget,
           (unsigned long long)most, (unsigned long long)stored, (unsigned long long)refused);
    assert_true(most <= budget);
}

static int child_writes(const char *folder, uint64_t seed, uint64_t budget)
{
    struct ps_cache *c = crash_open(folder, budget);
    const uint32_t m = crash_model(c, seed);
    for (uint64_t i = 0; i < 300; i++)
        (void)crash_store(c, m, seed * 1000 + i, 0, buf, crash_extent_size(i, 1, 100000));
    ps_cache_close(c);
    return 0;
}

/* Two processes with different budgets, both writing more than fits: the smaller budget governs both. */
static void test_two_processes(void **state)
{
    (void)state;
    int pids[2];
    const uint64_t small = 6u << 20;
    struct ps_cache *c =
        crash_open(test_dir, small); /* a live process's budget governs from before they begin */
    for (uint64_t i = 0; i < 2; i++)
        pids[i] = crash_spawn("write", test_dir, i + 1, i == 0 ? small : 64u << 20);
    struct crash_watch *w = crash_watch_start(test_dir);
    assert_true(crash_wait(pids[0]));
    assert_true(crash_wait(pids[1]));
    const uint64_t most = crash_watch_stop(w);
    printf("    two processes: smaller budget %llu, most %llu\n", (unsigned long long)small,
           (unsigned long long)most);
    assert_true(most <= small);
    uint64_t checked, bad;
    assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(bad, 0);
    assert_true(checked > 20);
    ps_cache_close(c);
}

/* Holds a snapshot of the index open until it is killed: no page freed since can be used again. */
static int child_reads(const char *folder)
{
    char path[300];
    struct ps_index *ix = NULL;
    struct ps_index_read r;
    const struct ps_index_options o = {.read_only = true, .map_bytes = 64u << 20};
    snprintf(path, sizeof path, "%s/index", folder);
    if (ps_index_open(&ix, path, &o, NULL) != 0 || ps_index_read_begin(&r, ix, NULL) != 0)
        return 2;
    snprintf(path, sizeof path, "%s.ready", folder);
    test_write_file(path, "x", 1);
    for (;;)
        pause();
}

/* A stopped process pins the index's free pages and the file would grow with every commit: the limit holds all
 * the same, and once the process is gone everything works again. */
static void test_reader_that_never_ends(void **state)
{
    (void)state;
    const uint64_t budget = 3u << 20;
    char ready[300];
    struct ps_cache *c = crash_open(test_dir, budget);
    const uint32_t m = crash_model(c, 1), n = crash_model(c, 2);
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, 4096), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    const int pid = crash_spawn("read", test_dir, 0, 0);
    snprintf(ready, sizeof ready, "%s.ready", test_dir);
    while (access(ready, F_OK) != 0)
        usleep(2000);
    unlink(ready);
    struct crash_watch *w = crash_watch_start(test_dir);
    unsigned refused = 0, turns = 0;
    for (uint64_t i = 100; i < 800; i++) { /* a commit for each */
        const int rc = crash_store(c, m, i, 0, buf, 4096);
        assert_true(rc == 0 || rc == PS_EBUDGET);
        const int flushed = ps_cache_flush(c, NULL);
        assert_true(flushed == 0 || flushed == PS_EBUDGET);
        refused += rc != 0 || flushed != 0;
        turns++;
    }
    const uint64_t most = crash_watch_stop(w);
    printf("    pinned pages: %u of %u refused, at most %llu of %llu bytes\n", refused, turns,
           (unsigned long long)most, (unsigned long long)budget);
    assert_true(most <= budget);
    assert_true(refused > 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    ps_cache_close(c);
    c = crash_open(test_dir,
                   budget); /* clears the dead reader, and compacts the index if that is what it takes */
    (void)n;
    const uint32_t again = crash_model(c, 1);
    uint64_t freed;
    uint8_t id[PS_SHA256_BYTES];
    crash_model_id(1, id);
    assert_int_equal(ps_cache_evict(c, id, &freed, NULL), 0);
    for (uint64_t i = 2000; i < 2100; i++)
        assert_int_equal(crash_store(c, again, i, 0, buf, 4096), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    ps_cache_close(c);
    assert_true(crash_folder_bytes(test_dir) <= budget);
}

static uint64_t count_held(struct ps_cache *c, uint64_t n)
{
    uint64_t held = 0;
    for (uint64_t i = 0; i < n; i++)
        held += crash_holds(c, i);
    return held;
}

static void test_shrinks_when_reopened(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, 64u << 20);
    const uint32_t m = crash_model(c, 1);
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, crash_extent_size(i, 1, 30000)), 0);
    ps_cache_close(c);
    const uint64_t budgets[] = {9u << 20, 5u << 20, 2u << 20, 1u << 20, ps_budget_least()};
    uint64_t before = 1000;
    for (size_t i = 0; i < TEST_COUNT(budgets); i++) {
        c = crash_open(test_dir, budgets[i]);
        const uint64_t held = count_held(c, 1000);
        printf("    budget %llu: %llu extents kept, %llu bytes allocated\n",
               (unsigned long long)budgets[i], (unsigned long long)held,
               (unsigned long long)crash_folder_bytes(test_dir));
        assert_true(crash_folder_bytes(test_dir) <= budgets[i]);
        assert_true(held < before);
        assert_true(i >= 3 || held > 0);
        uint64_t checked, bad;
        assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
        assert_int_equal(bad, 0);
        assert_int_equal(checked, held);
        before = held;
        ps_cache_close(c);
        assert_true(crash_folder_bytes(test_dir) <= budgets[i]);
    }
    c = crash_open(test_dir, 64u << 20); /* and it can be used again */
    crash_model(c, 1);
    for (uint64_t i = 0; i < 1000; i++) {
        const int rc = crash_store(c, m, i, 0, buf, crash_extent_size(i, 1, 30000));
        assert_true(rc == 0 || rc == PS_EAGAIN);
    }
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    assert_int_equal(count_held(c, 1000), 1000);
    ps_cache_close(c);
}

/* Who pins, verifies or evicts has no budget of his own, and takes a full folder not beyond that of its last run. */
static void test_upkeep_of_a_full_folder(void **state)
{
    (void)state;
    enum { FULL = 4u << 20 };
    uint8_t id[PS_SHA256_BYTES];
    uint64_t checked, bad;
    struct ps_cache *c = crash_open(test_dir, FULL);
    const uint32_t m = crash_model(c, 1);
    for (uint64_t i = 0; i < 1000; i++)
        (void)crash_store(c, m, i, 0, buf, 8192);
    ps_cache_close(c);
    assert_in_range(crash_folder_bytes(test_dir), FULL - (128u << 10), FULL);
    for (int i = 0; i < 3; i++) {
        c = crash_open(test_dir, UINT64_MAX);
        assert_int_equal(ps_cache_find_model(c, "label", id, NULL), 0);
        assert_int_equal(ps_cache_pin(c, id, i % 2 == 0, NULL), 0);
        assert_int_equal(ps_cache_verify(c, true, true, NULL, NULL, &checked, &bad, NULL), 0);
        assert_true(checked > 0 && bad == 0);
        assert_true(crash_folder_bytes(test_dir) <= FULL);
        ps_cache_close(c);
        assert_true(crash_folder_bytes(test_dir) <= FULL);
    }
}

static void test_too_small(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/none", test_dir);
    const struct ps_cache_options o = {.budget_bytes = ps_budget_least() - 1};
    struct ps_cache *c = NULL;
    struct ps_err err;
    uint64_t least = 0;
    assert_int_equal(ps_cache_open(&c, path, &o, &least, &err), PS_EBUDGET);
    assert_int_equal(least, ps_budget_least());
    assert_null(c);
    assert_int_not_equal(access(path, F_OK), 0); /* nothing was made */
    c = crash_open(path, least);
    const uint32_t m = crash_model(c, 1);
    assert_int_equal(crash_store(c, m, 1, 0, buf, 4096), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    assert_true(crash_holds(c, 1));
    assert_true(crash_folder_bytes(path) <= least);
    ps_cache_close(c);
}

static void test_min_free(void **state)
{
    (void)state;
    const struct ps_cache_options o = {.budget_bytes = 8u << 20, .min_free_bytes = UINT64_MAX / 4};
    struct ps_cache *c = NULL;
    assert_int_equal(ps_cache_open(&c, test_dir, &o, NULL, NULL), 0);
    const uint32_t m = crash_model(c, 1);
    assert_int_equal(crash_store(c, m, 1, 0, buf, 4096), PS_EBUDGET);
    ps_cache_close(c);
}

/* Other files in the folder count. */
static void test_foreign_files_count(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/meta/probe", test_dir);
    memset(buf, 1, CAP);
    ps_cache_close(crash_open(test_dir, 3u << 20)); /* a folder of others is not taken: ours first */
    test_write_file(path, buf, CAP);
    struct ps_cache *c = crash_open(test_dir, 3u << 20);
    const uint32_t m = crash_model(c, 1);
    for (uint64_t i = 0; i < 100; i++)
        (void)crash_store(c, m, i, 0, buf, 65536);
    ps_cache_close(c);
    assert_true(crash_folder_bytes(test_dir) <= 3u << 20);
    assert_true(crash_folder_bytes(test_dir) > 2u << 20);
}

/* A file that comes while the cache is full puts the folder over its limit: what is under way is published all the
 * same, because the index has that room already, and extents give way to the file. */
static void test_foreign_file_comes(void **state)
{
    (void)state;
    char path[300];
    const uint64_t budget = 3u << 20;
    uint8_t key[1][PS_SHA256_BYTES];
    struct ps_err err = {.code = 0};
    struct ps_cache *c = crash_open(test_dir, budget);
    const uint32_t m = crash_model(c, 1);
    crash_extent_key(0, key[0]);
    for (uint64_t i = 0; i < 100; i++)
        (void)crash_store(c, m, i, 0, buf, 65536);
    assert_ok(ps_cache_flush(c, &err), &err);
    /* The plan names one of them: the others may be evicted. */
    assert_int_equal(ps_cache_set_plan(c, m, (const uint8_t(*)[PS_SHA256_BYTES])key, 1, NULL), 0);
    assert_int_equal(crash_store(c, m, 100, 0, buf, 65536), 0);
    snprintf(path, sizeof path, "%s/meta/probe", test_dir);
    memset(buf, 1, CAP);
    test_write_file(path, buf, CAP / 2);
    assert_true(ps_cache_allocated_bytes(c) > budget);
    assert_ok(ps_cache_flush(c, &err), &err);
    assert_true(crash_holds(c, 100));
    assert_int_equal(crash_store(c, m, 101, 0, buf, 65536), 0);
    assert_ok(ps_cache_flush(c, &err), &err);
    assert_true(crash_holds(c, 101));
    assert_true(crash_folder_bytes(test_dir) <= budget);
    ps_cache_close(c);
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "read") == 0)
        return child_reads(argv[2]);
    if (argc == 5)
        return child_writes(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_budget_for_holds_all),
        cmocka_unit_test(test_budget_beyond_any_disk),
        cmocka_unit_test(test_bounds_grow),
        cmocka_unit_test_setup_teardown(test_real_folder_holds_all, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_never_exceeded, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_two_processes, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_reader_that_never_ends, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_shrinks_when_reopened, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_upkeep_of_a_full_folder, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_too_small, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_min_free, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_foreign_files_count, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_foreign_file_comes, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
