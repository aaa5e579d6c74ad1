/* Slab files: only what was written is allocated, a punched slot gives it back, a short or missing file is damage. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "cache/budget.h"
#include "cache/slab.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define CAP (32u << 20)

static _Alignas(4096) uint8_t buf[CAP];

static struct ps_slabs *open_slabs(bool read_only, bool direct)
{
    struct ps_slabs *s = NULL;
    const int fd = open(test_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ps_slabs_open(&s, fd, read_only, direct, NULL), 0);
    return s;
}

static void store(struct ps_slabs *s, uint64_t number, uint32_t slot, size_t bytes)
{
    struct ps_err err = {.code = 0};
    const int cls = ps_budget_class(bytes);
    assert_ok(ps_slab_extend(s, cls, slot, &err), &err);
    crash_extent_fill(number, buf, bytes);
    assert_ok(ps_slab_write(s, cls, slot, buf, bytes, &err), &err);
}

static void expect(struct ps_slabs *s, uint64_t number, uint32_t slot, size_t bytes)
{
    struct ps_err err = {.code = 0};
    for (size_t shift = 0; shift < 2; shift++) { /* aligned and not */
        memset(buf, 0xee, bytes + 8);
        assert_ok(ps_slab_read(s, ps_budget_class(bytes), slot, buf + shift, bytes, CAP - shift, &err),
                  &err);
        assert_true(crash_extent_equal(number, buf + shift, bytes));
    }
    assert_ok(ps_slab_read(s, ps_budget_class(bytes), slot, buf, bytes, bytes, &err),
              &err); /* no room for whole grains */
    assert_true(crash_extent_equal(number, buf, bytes));
}

static void round_trips(bool direct)
{
    static const size_t sizes[] = {
        1,     4095,   4096,   4097,    8192,    65535,           262144,
        65537, 262145, 999999, 1048576, 8388608, 16777215 - 4095, 16777216};
    struct ps_slabs *s = open_slabs(false, direct);
    for (size_t i = 0; i < TEST_COUNT(sizes); i++)
        for (uint32_t slot = 0; slot < 40; slot += 13)
            store(s, i * 100 + slot, slot, sizes[i]);
    /* The last of each class and slot wins; sizes of one class share slots. */
    for (size_t i = 0; i < TEST_COUNT(sizes); i++) {
        bool last = true;
        for (size_t j = i + 1; j < TEST_COUNT(sizes); j++)
            last = last && ps_budget_class(sizes[j]) != ps_budget_class(sizes[i]);
        for (uint32_t slot = 0; slot < 40 && last; slot += 13)
            expect(s, i * 100 + slot, slot, sizes[i]);
    }
    ps_slabs_close(s);
}

static void test_round_trips_direct(void **state)
{
    (void)state;
    round_trips(true);
}

static void test_round_trips_buffered(void **state)
{
    (void)state;
    round_trips(false);
}

static void test_allocation(void **state)
{
    (void)state;
    struct ps_slabs *s = open_slabs(false, true);
    assert_int_equal(ps_slabs_allocated_bytes(s), 0);
    store(s, 1, 900, 600000); /* a 1 MiB slot, far out */
    const uint64_t first = ps_slabs_allocated_bytes(s);
    assert_true(first >= ps_budget_round(600000) && first <= ps_budget_round(600000) + 8192);
    for (uint32_t slot = 0; slot < 20; slot++)
        store(s, slot, slot, 10000);
    assert_int_equal(ps_slab_sync(s, ps_budget_class(10000), NULL), 0);
    const uint64_t all = ps_slabs_allocated_bytes(s);
    assert_true(all <= first + 20 * ps_budget_round(10000) + ps_budget_slab_overhead(20, 20 * 12288));
    for (uint32_t slot = 0; slot < 20; slot++)
        if (slot != 7)
            ps_slab_punch(s, ps_budget_class(10000), slot);
    ps_slab_punch(s, ps_budget_class(600000), 900);
    expect(s, 7, 7, 10000);
    assert_true(ps_slabs_allocated_bytes(s) <= ps_budget_round(10000) + 3 * 4096);
    ps_slab_truncate(s, ps_budget_class(10000), 8);
    expect(s, 7, 7, 10000);
    ps_slab_truncate(s, ps_budget_class(10000), 0);
    assert_int_equal(ps_slab_read(s, ps_budget_class(10000), 7, buf, 10000, CAP, NULL), PS_EDATA);
    ps_slabs_close(s);
}

static void test_damage(void **state)
{
    (void)state;
    char path[300];
    struct ps_slabs *s = open_slabs(false, true);
    assert_int_equal(ps_slab_read(s, 3, 0, buf, 20000, CAP, NULL), PS_EDATA); /* no file */
    store(s, 5, 3, 20000);
    snprintf(path, sizeof path, "%s/3.slab", test_dir);
    assert_int_equal(truncate(path, 3 * 32768 + 9000), 0);
    assert_int_equal(ps_slab_read(s, 3, 3, buf, 20000, CAP, NULL), PS_EDATA);
    assert_int_equal(ps_slab_read(s, 3, 3, buf + 1, 20000, CAP - 1, NULL), PS_EDATA);
    ps_slabs_close(s);
}

static void test_read_only(void **state)
{
    (void)state;
    struct ps_slabs *s = open_slabs(false, true);
    store(s, 9, 2, 5000);
    ps_slabs_close(s);
    s = open_slabs(true, true);
    expect(s, 9, 2, 5000);
    assert_int_equal(ps_slab_write(s, ps_budget_class(5000), 2, buf, 5000, NULL), PS_EIO);
    ps_slabs_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trips_direct, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_round_trips_buffered, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_allocation, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_damage, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_read_only, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
