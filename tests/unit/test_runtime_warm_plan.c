/* Which extents a warm-up asks for: by layers, by bytes in the plan's order, without what is held; and how many
 * requests that takes. */
#include "tests/support/test.h"

#include <string.h>

#include "base/alloc.h"
#include "runtime/warm_plan.h"

#define N   12u
#define KIB 1024u

/* Twelve extents of 100 KiB, one tensor each, one behind the other in one object: layers 0 0 1 1 2 2 3 3 4 4, and two
 * that lie outside. */
static struct ps_extent extents[N];
static struct ps_tensor tensors[N];
static struct ps_map map;
static bool held[N];

static const uint32_t ranked[] = {10, 6, 3, 0, 7, 1, 4, 11, 2, 9}; /* without 5 and 8 */
static const uint32_t order[] = {0, 1, 2, 3, 4, 5,
                                 6, 7, 8, 9, 0}; /* the first once more, as tied weights are */

static bool is_held(const void *user, uint32_t extent)
{
    return ((const bool *)user)[extent];
}

static int setup(void **state)
{
    (void)state;
    memset(held, 0, sizeof held);
    for (uint32_t i = 0; i < N; i++) {
        tensors[i] = (struct ps_tensor){.layer = i < 10 ? (int32_t)(i / 2) : -1};
        extents[i] =
            (struct ps_extent){.tensor = i, .offset = 100u * KIB * i, .stored_bytes = 100 * KIB};
    }
    map = (struct ps_map){.extents = extents, .n_extents = N, .tensors = tensors, .n_tensors = N};
    return 0;
}

static struct ps_warm_input input(void)
{
    return (struct ps_warm_input){.map = &map,
                                  .ranked = ranked,
                                  .n_ranked = TEST_COUNT(ranked),
                                  .order = order,
                                  .n_order = TEST_COUNT(order),
                                  .layer_first = -1,
                                  .layer_last = -1,
                                  .max_bytes = UINT64_MAX,
                                  .is_held = is_held,
                                  .user = held};
}

static void expect(const struct ps_warm_input *in, const uint32_t *want, uint32_t n,
                   uint64_t wanted_kib, uint64_t present_kib)
{
    struct ps_warm_list list = {0};
    struct ps_err err = {0};
    assert_ok(ps_warm_choose(&list, in, &err), &err);
    assert_int_equal(list.n, n);
    if (n > 0)
        assert_memory_equal(list.extents, want, n * sizeof *want);
    assert_int_equal(list.bytes, (uint64_t)n * 100 * KIB);
    assert_int_equal(list.bytes_wanted, wanted_kib * KIB);
    assert_int_equal(list.bytes_present, present_kib * KIB);
    ps_warm_list_deinit(&list);
}

static void test_everything(void **state)
{
    (void)state;
    static const uint32_t all[] = {0, 1, 2, 3, 4, 6, 7, 9, 10, 11}, rest[] = {1, 2, 4, 6, 7, 9, 10};
    struct ps_warm_input in = input();
    expect(&in, all, TEST_COUNT(all), 1000, 0);
    held[0] = held[3] = held[11] = held[5] = true; /* the plan has no 5 */
    expect(&in, rest, TEST_COUNT(rest), 1000, 300);
    memset(held, 1, sizeof held);
    expect(&in, NULL, 0, 1000, 1000);
}

static void test_layers(void **state)
{
    (void)state;
    static const uint32_t some[] = {2, 3, 4}, one[] = {9};
    struct ps_warm_input in = input();
    in.layer_first = 1;
    in.layer_last = 2;
    expect(&in, some, TEST_COUNT(some), 300, 0);
    in.layer_first = in.layer_last = 4;
    expect(&in, one, TEST_COUNT(one), 100, 0);
    in.layer_first = in.layer_last = 0;
    held[1] = true;
    expect(&in, (const uint32_t[]){0}, 1, 200, 100);
}

/* The plan's first, asked for in order of use; call after call the same order, until all is there. */
static void test_bytes(void **state)
{
    (void)state;
    struct ps_warm_input in = input();
    struct ps_err err = {0};
    in.max_bytes = 350 * KIB;
    expect(&in, (const uint32_t[]){3, 6, 10}, 3, 1000, 0);
    in.max_bytes = 400 * KIB;
    expect(&in, (const uint32_t[]){0, 3, 6, 10}, 4, 1000, 0);
    in.max_bytes = 100 * KIB - 1;
    expect(&in, NULL, 0, 1000, 0);
    in.max_bytes = 0;
    expect(&in, NULL, 0, 1000, 0);
    in.max_bytes = 200 * KIB;
    for (size_t call = 0; call < 5; call++) {
        struct ps_warm_list list = {0};
        assert_ok(ps_warm_choose(&list, &in, &err), &err);
        assert_int_equal(list.n, 2);
        assert_true(list.extents[0] == ranked[2 * call] || list.extents[1] == ranked[2 * call]);
        held[list.extents[0]] = held[list.extents[1]] = true;
        ps_warm_list_deinit(&list);
    }
    expect(&in, NULL, 0, 1000, 1000);
}

/* A smaller extent behind one that does not fit is not taken before its turn. */
static void test_bytes_in_turn(void **state)
{
    (void)state;
    struct ps_warm_input in = input();
    extents[6].stored_bytes = 300 * KIB;
    extents[3].stored_bytes = 1 * KIB;
    in.max_bytes = 200 * KIB;
    expect(&in, (const uint32_t[]){10}, 1, 1101, 0);
}

static void test_requests(void **state)
{
    (void)state;
    uint32_t all[N];
    for (uint32_t i = 0; i < N; i++)
        all[i] = i;
    struct ps_warm_list list = {.extents = all, .n = N, .bytes = 1200 * KIB};
    const uint64_t all_of_it = 1200 * KIB;
    map.max_stored_bytes = 100 * KIB;
    /* What finds a connection free goes alone, the rest together while it waits. */
    assert_int_equal(ps_warm_requests(&list, &map, 1, all_of_it), 2);
    assert_int_equal(ps_warm_requests(&list, &map, 4, all_of_it), 11); /* 4; 2 of 8 waiting; 6 */
    assert_int_equal(ps_warm_requests(&list, &map, 100, all_of_it), 12);
    /* No more waits than the ring holds: three at once, of which one is under way. */
    assert_int_equal(ps_warm_requests(&list, &map, 1, 300 * KIB), 8);
    assert_int_equal(ps_warm_requests(&list, &map, 1, 0), 12);
    extents[6].object = extents[7].object = 1; /* another file in between */
    assert_int_equal(ps_warm_requests(&list, &map, 1, all_of_it), 4);
    extents[1].offset += 1; /* a gap on both sides */
    assert_int_equal(ps_warm_requests(&list, &map, 1, all_of_it), 5);
    list.n = 0;
    list.bytes = 0;
    assert_int_equal(ps_warm_requests(&list, &map, 8, all_of_it), 0);
    for (uint32_t i = 0; i < N; i++) /* a request has at most 8 MiB */
        extents[i] = (struct ps_extent){.offset = (uint64_t)i * (3u << 20), .stored_bytes = 3u << 20};
    map.max_stored_bytes = 3u << 20;
    list.n = N;
    list.bytes = (uint64_t)N * (3u << 20);
    assert_int_equal(ps_warm_requests(&list, &map, 1, list.bytes), 7);
}

static int choose(void *user)
{
    const struct ps_warm_input in = input();
    struct ps_warm_list list = {0};
    (void)user;
    const int rc = ps_warm_choose(&list, &in, NULL);
    ps_warm_list_deinit(&list);
    return rc;
}

static void test_memory(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(choose, NULL) >= 2);
}

/* The first MiB tells the size; the rest is spread over the connections, in pieces that are worth a request. */
static void test_file_requests(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        uint32_t connections;
        uint64_t requests;
    } cases[] = {
        {1, 8, 1},       {1 << 20, 8, 1},  {(1 << 20) + 1, 8, 2}, {3 << 20, 8, 3},
        {3 << 20, 1, 2}, {33 << 20, 8, 9}, {33 << 20, 1, 5}, /* no request is larger than 8 MiB */
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++)
        assert_int_equal(ps_warm_file_requests(cases[i].bytes, cases[i].connections),
                         cases[i].requests);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_everything, setup),
        cmocka_unit_test_setup(test_layers, setup),
        cmocka_unit_test_setup(test_bytes, setup),
        cmocka_unit_test_setup(test_bytes_in_turn, setup),
        cmocka_unit_test_setup(test_requests, setup),
        cmocka_unit_test(test_file_requests),
        cmocka_unit_test_setup(test_memory, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
