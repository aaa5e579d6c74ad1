/* The residency plan as arithmetic: budgets are kept, tiers are disjoint while they can be, a changed budget moves
 * only the difference, what is missing is spread evenly. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "runtime/plan.h"
#include "tests/support/test.h"

#define N     1000
#define BYTES (1u << 20)

static struct ps_plan_extent extents[N];

static struct ps_plan_input input(uint64_t disk, uint64_t ram)
{
    for (int i = 0; i < N; i++)
        extents[i] =
            (struct ps_plan_extent){.stored_bytes = BYTES, .raw_bytes = BYTES, .swept = true};
    return (struct ps_plan_input){
        .extents = extents,
        .n_extents = N,
        .disk_bytes = disk,
        .ram_bytes = ram,
        .fixed_bytes = 10 * BYTES,
        .slot_bytes = BYTES,
        .ring_slots_min = 8,
        .ring_slots_want = 16,
        .gather_bytes = BYTES,
    };
}

static uint64_t total(const struct ps_plan *p, uint8_t tier)
{
    uint64_t n = 0;
    for (int i = 0; i < N; i++)
        n += (p->tier[i] & tier) ? extents[i].stored_bytes : 0;
    return n;
}

static void test_budgets_are_kept(void **state)
{
    (void)state;
    for (uint64_t disk = 0; disk <= 1100; disk += 137) {
        for (uint64_t ram = 19; ram <= 1200; ram += 211) {
            struct ps_plan_input in = input(disk * BYTES, ram * BYTES);
            struct ps_plan p;
            assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
            assert_true(total(&p, PS_TIER_DISK) <= disk * BYTES);
            assert_true(p.ram_fixed_bytes + p.ram_weight_bytes <= ram * BYTES);
            assert_int_equal(p.ram_weight_bytes, total(&p, PS_TIER_RAM));
            uint64_t streamed = 0;
            for (int i = 0; i < N; i++)
                streamed += p.tier[i] == PS_TIER_NET ? BYTES : 0;
            assert_int_equal(p.bytes_net_per_sweep, streamed);
            assert_int_equal(p.bytes_per_sweep, (uint64_t)N * BYTES);
            ps_plan_deinit(&p);
        }
    }
}

static void test_tiers_are_disjoint_while_they_can_be(void **state)
{
    (void)state;
    struct ps_plan_input in = input(400ull * BYTES, 500ull * BYTES);
    struct ps_plan p;
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    for (int i = 0; i < N; i++)
        assert_int_not_equal(p.tier[i], PS_TIER_DISK | PS_TIER_RAM);
    ps_plan_deinit(&p);
}

static void test_changed_budget_moves_only_the_difference(void **state)
{
    (void)state;
    struct ps_plan small, large;
    struct ps_plan_input in = input(250ull * BYTES, 100ull * BYTES);
    assert_int_equal(ps_plan_make(&small, &in, NULL), 0);
    in = input(500ull * BYTES, 300ull * BYTES);
    assert_int_equal(ps_plan_make(&large, &in, NULL), 0);
    for (int i = 0; i < N; i++) {
        assert_true(!(small.tier[i] & PS_TIER_DISK) || (large.tier[i] & PS_TIER_DISK));
        assert_true(!(small.tier[i] & PS_TIER_RAM) || (large.tier[i] & PS_TIER_RAM));
    }
    assert_int_equal(total(&small, PS_TIER_DISK), 250ull * BYTES);
    assert_int_equal(total(&large, PS_TIER_DISK), 500ull * BYTES);
    ps_plan_deinit(&small);
    ps_plan_deinit(&large);
}

/* In any window of 50 consecutive extents the share on disk is the whole share, give or take three. */
static void test_missing_is_spread_evenly(void **state)
{
    (void)state;
    for (int share = 10; share <= 90; share += 10) {
        struct ps_plan_input in = input((uint64_t)share * 10 * BYTES, 100ull * BYTES);
        struct ps_plan p;
        assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
        for (int at = 0; at + 50 <= N; at++) {
            int n = 0;
            for (int i = at; i < at + 50; i++)
                n += (p.tier[i] & PS_TIER_DISK) != 0;
            assert_in_range(n, share / 2 - 3, share / 2 + 3);
        }
        ps_plan_deinit(&p);
    }
}

static void test_too_small_names_the_least(void **state)
{
    (void)state;
    struct ps_plan_input in = input(0, 18ull * BYTES);
    struct ps_plan p;
    struct ps_err err = {0};
    assert_int_equal(ps_plan_make(&p, &in, &err), PS_EBUDGET);
    assert_int_equal(p.ram_min_bytes, 19ull * BYTES);
    assert_non_null(strstr(err.text, "19922944"));
    ps_plan_deinit(&p);
    in.ram_bytes = p.ram_min_bytes;
    assert_int_equal(ps_plan_make(&p, &in, &err), 0);
    assert_int_equal(p.ring_slots, 8);
    ps_plan_deinit(&p);
}

static void test_vectors_and_gathered_rows(void **state)
{
    (void)state;
    struct ps_plan_input in = input(3ull * BYTES, 30ull * BYTES);
    extents[5] =
        (struct ps_plan_extent){.stored_bytes = 100, .raw_bytes = 100, .swept = true, .vector = true};
    extents[N - 1].swept = false;
    struct ps_plan p;
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_int_equal(p.tier[5], PS_TIER_RAM | PS_TIER_DISK); /* first on disk, always in RAM */
    assert_int_equal(p.tier[N - 1], PS_TIER_NET);            /* last in line */
    assert_int_equal(p.bytes_per_sweep, (uint64_t)(N - 2) * BYTES + 100);
    ps_plan_deinit(&p);
    in = input(2000ull * BYTES, 30ull * BYTES);
    extents[N - 1].swept = false;
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_int_equal(p.tier[N - 1], PS_TIER_DISK); /* room for everything keeps everything */
    ps_plan_deinit(&p);
}

static void test_prediction_names_what_binds(void **state)
{
    (void)state;
    struct ps_plan_input in = input(500ull * BYTES, 30ull * BYTES);
    struct ps_plan p;
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_true(p.predicted_s_per_token < 0);
    assert_string_equal(p.binds, "unknown");
    ps_plan_deinit(&p);
    in.rates = (struct ps_plan_rates){.link = 1e8, .disk = 1e9, .ram = 1e10};
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_string_equal(p.binds, "link");
    assert_true(p.predicted_s_per_token > 4.5 && p.predicted_s_per_token < 5.5);
    ps_plan_deinit(&p);
    in.rates.link = 1e12;
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_string_equal(p.binds, "disk");
    ps_plan_deinit(&p);
}

static struct ps_plan_input device_input(uint64_t disk, uint64_t ram, uint64_t vram);

/* The CPU and the device compute with decoded bytes, whatever their size on the way: 1000 extents of 1 MiB, stored
 * in half of that, the last 400 of them on the device. */
static void test_prediction_of_compressed(void **state)
{
    (void)state;
    struct ps_plan_input in = device_input(0, 2000ull * BYTES, 2000ull * BYTES);
    struct ps_plan p;
    for (int i = 0; i < N; i++) {
        extents[i].stored_bytes = BYTES / 2;
        extents[i].device = i >= 600;
    }
    in.rates = (struct ps_plan_rates){.ram = 1e9, .vram = 1e12};
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_int_equal(p.bytes_per_sweep, 500ull * BYTES);
    assert_int_equal(p.host_bytes_per_sweep, 600ull * BYTES);
    assert_int_equal(p.device_bytes_per_sweep, 400ull * BYTES);
    assert_string_equal(p.binds, "ram");
    double off = p.predicted_s_per_token - 600.0 * BYTES / 1e9;
    assert_true(off < 1e-9 && off > -1e-9);
    ps_plan_deinit(&p);
    in.rates = (struct ps_plan_rates){.ram = 1e12, .vram = 1e9};
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_string_equal(p.binds, "vram");
    ps_plan_deinit(&p);
}

static void test_local_source_has_no_disk_tier(void **state)
{
    (void)state;
    struct ps_plan_input in = input(500ull * BYTES, 119ull * BYTES);
    in.local = true;
    struct ps_plan p;
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_int_equal(total(&p, PS_TIER_DISK), 0);
    assert_int_equal(p.bytes_net_per_sweep, 0);
    assert_int_equal(p.bytes_disk_per_sweep + p.ram_weight_bytes, (uint64_t)N * BYTES);
    ps_plan_deinit(&p);
}

/* A device takes what it computes with; its memory, RAM and what is streamed are disjoint. */
static struct ps_plan_input device_input(uint64_t disk, uint64_t ram, uint64_t vram)
{
    struct ps_plan_input in = input(disk, ram);
    for (int i = 0; i < N; i++)
        extents[i].device = true;
    in.has_device = true;
    in.vram_bytes = vram;
    in.vram_fixed_bytes = 5 * BYTES;
    in.vram_slot_bytes = BYTES;
    in.vram_slots_min = 3;
    in.vram_slots_want = 8;
    return in;
}

static void test_three_tiers(void **state)
{
    (void)state;
    struct ps_plan_input in = device_input(400ull * BYTES, 219ull * BYTES, 113ull * BYTES);
    struct ps_plan p;
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_int_equal(p.vram_slots, 8);
    assert_int_equal(p.vram_weight_bytes, 100ull * BYTES);
    assert_int_equal(total(&p, PS_TIER_VRAM), 100ull * BYTES);
    assert_true(p.vram_fixed_bytes + p.vram_weight_bytes <= in.vram_bytes);
    for (int i = 0; i < N; i++)
        assert_true((p.tier[i] & (PS_TIER_RAM | PS_TIER_VRAM)) != (PS_TIER_RAM | PS_TIER_VRAM));
    assert_int_equal(total(&p, PS_TIER_DISK), 400ull * BYTES);
    assert_int_equal(p.bytes_bus_per_sweep, 900ull * BYTES);
    assert_int_equal(p.bytes_disk_per_sweep, 400ull * BYTES); /* 100 + 192 of 1000 are above it */
    /* what is not in device memory is spread: any tenth of the model has its share */
    for (int part = 0; part < 10; part++) {
        int there = 0;
        for (int i = part * N / 10; i < (part + 1) * N / 10; i++)
            there += (p.tier[i] & PS_TIER_VRAM) != 0;
        assert_in_range(there, 8, 12);
    }
    ps_plan_deinit(&p);
}

static void test_larger_vram_keeps_what_was_there(void **state)
{
    (void)state;
    struct ps_plan_input in = device_input(0, 219ull * BYTES, 113ull * BYTES);
    struct ps_plan small, large;
    assert_int_equal(ps_plan_make(&small, &in, NULL), 0);
    in.vram_bytes = 500ull * BYTES;
    assert_int_equal(ps_plan_make(&large, &in, NULL), 0);
    for (int i = 0; i < N; i++)
        if (small.tier[i] & PS_TIER_VRAM)
            assert_true(large.tier[i] & PS_TIER_VRAM);
    ps_plan_deinit(&small);
    ps_plan_deinit(&large);
}

static void test_vram_too_small_names_the_least(void **state)
{
    (void)state;
    struct ps_plan_input in = device_input(0, 219ull * BYTES, 7ull * BYTES);
    struct ps_err err = {0};
    struct ps_plan p;
    assert_int_equal(ps_plan_make(&p, &in, &err), PS_EBUDGET);
    assert_int_equal(p.vram_min_bytes, 8ull * BYTES);
    assert_non_null(strstr(err.text, "--vram"));
    assert_non_null(strstr(err.text, "8388608"));
    ps_plan_deinit(&p);
    in.vram_bytes = p.vram_min_bytes;
    assert_int_equal(ps_plan_make(&p, &in, &err), 0);
    assert_int_equal(p.vram_weight_bytes, 0);
    ps_plan_deinit(&p);
}

/* Layers on the CPU never go to the device, and coded extents take their stored size in RAM and on the bus. */
static void test_some_on_the_host_some_coded(void **state)
{
    (void)state;
    struct ps_plan_input in = device_input(0, 2000ull * BYTES, 100ull * BYTES);
    for (int i = 0; i < N; i++) {
        extents[i].device = i >= N / 2;
        extents[i].coded = i >= N / 2;
        extents[i].stored_bytes = i >= N / 2 ? BYTES / 2 : BYTES;
    }
    struct ps_plan p;
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    uint64_t bus = 0;
    for (int i = 0; i < N; i++) {
        assert_true(i >= N / 2 || !(p.tier[i] & PS_TIER_VRAM));
        bus += i >= N / 2 && !(p.tier[i] & PS_TIER_VRAM) ? BYTES / 2 : 0;
    }
    assert_int_equal(p.bytes_bus_per_sweep, bus);
    assert_int_equal(p.ram_weight_bytes, (uint64_t)N / 2 * BYTES + bus);
    ps_plan_deinit(&p);
    in.rates = (struct ps_plan_rates){.disk = 1e9, .ram = 1e12, .bus = 1e9, .vram = 1e12};
    assert_int_equal(ps_plan_make(&p, &in, NULL), 0);
    assert_string_equal(p.binds, "bus");
    ps_plan_deinit(&p);
}

static int plan_once(void *user)
{
    struct ps_plan_input in = input(500ull * BYTES, 119ull * BYTES);
    struct ps_plan p;
    (void)user;
    int rc = ps_plan_make(&p, &in, NULL);
    ps_plan_deinit(&p);
    return rc;
}

static void test_allocation_failures(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(plan_once, NULL) >= 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets_are_kept),
        cmocka_unit_test(test_tiers_are_disjoint_while_they_can_be),
        cmocka_unit_test(test_changed_budget_moves_only_the_difference),
        cmocka_unit_test(test_missing_is_spread_evenly),
        cmocka_unit_test(test_too_small_names_the_least),
        cmocka_unit_test(test_vectors_and_gathered_rows),
        cmocka_unit_test(test_prediction_names_what_binds),
        cmocka_unit_test(test_prediction_of_compressed),
        cmocka_unit_test(test_local_source_has_no_disk_tier),
        cmocka_unit_test(test_three_tiers),
        cmocka_unit_test(test_larger_vram_keeps_what_was_there),
        cmocka_unit_test(test_vram_too_small_names_the_least),
        cmocka_unit_test(test_some_on_the_host_some_coded),
        cmocka_unit_test(test_allocation_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
