/* Round trips: what was put comes back, from this process and after reopening; what is not right never does. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/strbuf.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define BUDGET (64ull << 20)
#define CAP    (1u << 20)

static char dir[256];
static uint8_t *buf; /* CAP bytes, page-aligned */

static int setup(void **state)
{
    (void)state;
    test_temp_dir(dir, sizeof dir);
    buf = ps_alloc_pages(CAP, 4096);
    return buf ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    ps_free_pages(buf, CAP);
    test_remove_tree(dir);
    return 0;
}

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
    struct ps_cache *c = crash_open(dir, BUDGET);
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
        c = crash_open(dir, BUDGET);
    }
    ps_cache_close(c);
}

/* What was put is readable at once, long before its batch is committed: the next sweep asks for it while this one
 * runs. */
static void test_readable_before_it_is_published(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(dir, BUDGET);
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
    struct ps_cache *c = crash_open(dir, BUDGET);
    const uint32_t m = open_model(c, 1);
    assert_int_equal(crash_store(c, m, 7, 0, buf, 5000), 0);
    const uint64_t start = ps_now_ns();
    while (!crash_holds(c, 7) && ps_seconds_since(start) < 5)
        usleep(10000);
    assert_true(crash_holds(c, 7));
    for (uint64_t i = 100; i < 110; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, 5000), 0);
    ps_cache_close(c); /* publishes */
    c = crash_open(dir, BUDGET);
    for (uint64_t i = 100; i < 110; i++)
        assert_int_equal(crash_load(c, i, buf, 5000, CAP), 0);
    ps_cache_close(c);
}

static void test_claims_and_repeats(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(dir, BUDGET);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readable_before_it_is_published, setup, teardown),
        cmocka_unit_test_setup_teardown(test_published_without_flush, setup, teardown),
        cmocka_unit_test_setup_teardown(test_claims_and_repeats, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
