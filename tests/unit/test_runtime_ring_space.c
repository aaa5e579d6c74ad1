/* Room in the ring: runs never overlap, are used up in turn, and come back whatever the order. */
#include <stdlib.h>
#include <string.h>

#include "runtime/ring_space.h"
#include "tests/support/test.h"

static void test_runs_in_turn_make_a_ring(void **state)
{
    (void)state;
    struct ps_ring_space r;
    uint64_t at[4], again;
    assert_int_equal(ps_ring_space_init(&r, 400, 8), 0);
    for (int i = 0; i < 4; i++) {
        assert_true(ps_ring_space_take(&r, 100, &at[i]));
        assert_int_equal(at[i], 100 * i);
    }
    assert_false(ps_ring_space_take(&r, 1, &again));
    for (int lap = 0; lap < 3; lap++)
        for (int i = 0; i < 4; i++) {
            ps_ring_space_give(&r, at[i]);
            assert_true(ps_ring_space_take(&r, 100, &again));
            assert_int_equal(again, at[i]);
        }
    ps_ring_space_deinit(&r);
}

static void test_all_of_it_and_not_more(void **state)
{
    (void)state;
    struct ps_ring_space r;
    uint64_t at;
    assert_int_equal(ps_ring_space_init(&r, 400, 8), 0);
    assert_false(ps_ring_space_take(&r, 401, &at));
    assert_true(ps_ring_space_take(&r, 150, &at));
    ps_ring_space_give(&r, at);
    /* the cursor stands at 150: what does not fit behind it fits from the start, over the cursor */
    assert_true(ps_ring_space_take(&r, 400, &at));
    assert_int_equal(at, 0);
    ps_ring_space_deinit(&r);
}

static void test_number_of_runs_is_bounded(void **state)
{
    (void)state;
    struct ps_ring_space r;
    uint64_t at;
    assert_int_equal(ps_ring_space_init(&r, 400, 2), 0);
    assert_true(ps_ring_space_take(&r, 1, &at));
    assert_true(ps_ring_space_take(&r, 1, &at));
    assert_false(ps_ring_space_take(&r, 1, &at));
    ps_ring_space_deinit(&r);
}

/* Against a map of bytes: what is taken was free, and where nothing is taken there was no gap. */
static void test_any_order_against_a_map_of_bytes(void **state)
{
    (void)state;
    enum { BYTES = 64, RUNS = 16, STEPS = 20000 };
    struct ps_ring_space r;
    uint8_t map[BYTES] = {0};
    uint64_t at[RUNS], len[RUNS];
    unsigned n = 0;
    assert_int_equal(ps_ring_space_init(&r, BYTES, RUNS), 0);
    srand(1);
    for (int step = 0; step < STEPS; step++) {
        uint64_t want = 1 + (uint64_t)rand() % 20, got;
        if (n < RUNS && rand() % 2 && ps_ring_space_take(&r, want, &got)) {
            assert_true(got + want <= BYTES);
            for (uint64_t i = 0; i < want; i++)
                assert_int_equal(map[got + i], 0);
            memset(map + got, 1, want);
            at[n] = got;
            len[n++] = want;
        } else if (n > 0) {
            unsigned i = (unsigned)rand() % n;
            ps_ring_space_give(&r, at[i]);
            memset(map + at[i], 0, len[i]);
            at[i] = at[--n];
            len[i] = len[n];
        }
        assert_int_equal(r.n, n);
    }
    ps_ring_space_deinit(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_in_turn_make_a_ring),
        cmocka_unit_test(test_all_of_it_and_not_more),
        cmocka_unit_test(test_number_of_runs_is_bounded),
        cmocka_unit_test(test_any_order_against_a_map_of_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
