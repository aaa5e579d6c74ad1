/* How large a cache becomes that nobody gave a size, and what of a size the file system has. */
#include "tests/support/test.h"

#include "runtime/disk_budget.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static void test_half(void **state)
{
    (void)state;
    const struct ps_disk_state empty = {.free_bytes = 40 * GIB};
    assert_int_equal(ps_disk_default(&empty), 20 * GIB);
    const struct ps_disk_state large = {.free_bytes = 900 * GIB};
    assert_int_equal(ps_disk_default(&large), 100 * GIB);
    const struct ps_disk_state none = {0};
    assert_int_equal(ps_disk_default(&none), 0);
}

/* A run that fills its cache leaves the next one the same limit. */
static void test_steady(void **state)
{
    (void)state;
    for (uint64_t held = 0; held <= 20 * GIB; held += GIB) {
        const struct ps_disk_state d = {.free_bytes = 40 * GIB - held,
                                        .held_bytes = held,
                                        .last_bytes = 20 * GIB};
        assert_int_equal(ps_disk_default(&d), 20 * GIB);
    }
}

/* What --disk let in stays, with room for what is charged beside the blocks, and no more than that. */
static void test_keeps(void **state)
{
    (void)state;
    struct ps_disk_state d = {.free_bytes = GIB, .held_bytes = 8 * GIB, .last_bytes = 30 * GIB};
    assert_int_equal(ps_disk_default(&d), 8 * GIB + GIB / 2 + MIB);
    d.last_bytes = 8 * GIB + MIB;
    assert_int_equal(ps_disk_default(&d), 8 * GIB + MIB);
    d.free_bytes = 0; /* a full disk takes nothing away */
    assert_int_equal(ps_disk_default(&d), 8 * GIB + MIB);
    d.last_bytes = 0;
    assert_int_equal(ps_disk_default(&d), 4 * GIB);
}

static void test_room(void **state)
{
    (void)state;
    struct ps_disk_state d = {.free_bytes = 10 * GIB, .held_bytes = 2 * GIB};
    assert_int_equal(ps_disk_room(5 * GIB, &d, GIB), 5 * GIB);
    assert_int_equal(ps_disk_room(50 * GIB, &d, GIB), 11 * GIB);
    d.free_bytes = GIB / 2;
    assert_int_equal(ps_disk_room(50 * GIB, &d, GIB), 2 * GIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half),
        cmocka_unit_test(test_steady),
        cmocka_unit_test(test_keeps),
        cmocka_unit_test(test_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
