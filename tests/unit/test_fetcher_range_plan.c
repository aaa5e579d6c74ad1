/* Joining, splitting and aligning ranges; the order of waiting ranges. */
#include "tests/support/test.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "fetcher/range_heap.h"
#include "fetcher/range_plan.h"

#define MIB (1ull << 20)

static void test_join(void **state)
{
    (void)state;
    const struct ps_span have = {100, 200};
    assert_true(ps_plan_joins(have, (struct ps_span){200, 300}, 200));
    assert_false(ps_plan_joins(have, (struct ps_span){200, 301}, 200));  /* bound */
    assert_false(ps_plan_joins(have, (struct ps_span){201, 300}, 1000)); /* gap */
    assert_false(ps_plan_joins(have, (struct ps_span){199, 300}, 1000)); /* overlap */
    assert_false(ps_plan_joins(have, (struct ps_span){0, 100}, 1000));   /* in front */
}

static void test_bound(void **state)
{
    (void)state;
    assert_int_equal(ps_plan_join_bound(0, 8), 0);
    assert_int_equal(ps_plan_join_bound(8 * MIB, 8), MIB);
    assert_int_equal(ps_plan_join_bound(1000 * MIB, 8), PS_REQUEST_MAX_BYTES);
    assert_int_equal(ps_plan_join_bound(MIB, 0), MIB);
}

static void check_split(uint64_t from, uint64_t to, unsigned slots, uint64_t least, size_t cap)
{
    struct ps_span out[64];
    size_t n = ps_plan_split((struct ps_span){from, to}, slots, least, out, cap);
    assert_true(n >= 1 && n <= cap);
    assert_int_equal(out[0].from, from);
    assert_int_equal(out[n - 1].to, to);
    for (size_t i = 0; i < n; i++) {
        assert_true(out[i].to > out[i].from);
        if (i > 0)
            assert_int_equal(out[i].from, out[i - 1].to);
        if (i + 1 < n)
            assert_true(out[i].to - out[i].from >= least);
        if ((to - from) / cap < PS_REQUEST_MAX_BYTES)
            assert_true(out[i].to - out[i].from <= PS_REQUEST_MAX_BYTES);
    }
}

static void test_split(void **state)
{
    (void)state;
    struct ps_span none;
    assert_int_equal(ps_plan_split((struct ps_span){5, 5}, 8, 1, &none, 1), 0);
    check_split(0, 1, 8, MIB, 64);
    check_split(MIB, 11 * MIB + 3, 8, MIB, 64);
    check_split(7, 500 * MIB, 8, MIB, 64);
    check_split(0, 4000 * MIB, 8, MIB, 64);
    check_split(1, 10 * MIB, 3, 0, 2);
    for (unsigned i = 0; i < 2000; i++)
        check_split(i * 31, i * 31 + 1 + (uint64_t)i * i * 977, 1 + i % 33,
                    (uint64_t)(i % 5) * 65536, 1 + i % 64);
}

static void test_align(void **state)
{
    (void)state;
    struct ps_span s = ps_plan_align((struct ps_span){1, 4097}, 4096);
    assert_int_equal(s.from, 0);
    assert_int_equal(s.to, 8192);
    s = ps_plan_align((struct ps_span){4096, 8192}, 4096);
    assert_int_equal(s.from, 4096);
    assert_int_equal(s.to, 8192);
}

static void test_heap_order(void **state)
{
    (void)state;
    enum { N = 3000 };
    static struct ps_heap_item items[N];
    struct ps_heap h = {0};
    assert_int_equal(ps_heap_reserve(&h, N), 0);
    unsigned x = 1;
    for (unsigned i = 0; i < N; i++) {
        x = x * 1103515245u + 12345u;
        items[i] = (struct ps_heap_item){.priority = (x >> 16) % 50, .seq = i};
        ps_heap_push(&h, &items[i]);
    }
    for (unsigned i = 0; i < N; i += 3)
        ps_heap_remove(&h, &items[i]);
    uint64_t priority = 0, seq = 0;
    for (size_t left = h.n; left > 0; left--) {
        struct ps_heap_item *it = ps_heap_pop(&h);
        assert_true(it->seq % 3 != 0);
        assert_true(it->priority > priority || (it->priority == priority && it->seq >= seq));
        priority = it->priority;
        seq = it->seq;
    }
    assert_null(ps_heap_pop(&h));
    assert_null(ps_heap_top(&h));
    ps_heap_deinit(&h);
}

static int grow_heap(void *user)
{
    (void)user;
    struct ps_heap h = {0};
    int rc = ps_heap_reserve(&h, 1000);
    ps_heap_deinit(&h);
    return rc;
}

static void test_heap_memory(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(grow_heap, NULL) >= 1);
    struct ps_heap h = {0};
    assert_int_equal(ps_heap_reserve(&h, (size_t)1 << 40),
                     PS_ENOMEM); /* every growable thing has a maximum */
    ps_heap_deinit(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_join),       cmocka_unit_test(test_bound),
        cmocka_unit_test(test_split),      cmocka_unit_test(test_align),
        cmocka_unit_test(test_heap_order), cmocka_unit_test(test_heap_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
