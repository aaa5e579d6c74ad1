/* Which models of a list have lost weights to later ones, shared ones included. */
#include "tools/warm_held.c"

#include "base/alloc.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

enum { BYTES = 5000 };

/* Extents from..to of model `number`, of which the cache counts those as its own that it stores. */
static void store(struct ps_cache *c, uint64_t number, uint64_t from, uint64_t to)
{
    static uint8_t buf[8192];
    const uint32_t m = crash_model(c, number);
    for (uint64_t i = from; i <= to; i++)
        if (!crash_holds(c, i))
            assert_int_equal(crash_store(c, m, i, 0, buf, BYTES), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
}

static void note(struct ps_warm_held *h, struct ps_cache *c, uint64_t number, uint64_t from,
                 uint64_t to)
{
    uint8_t id[PS_SHA256_BYTES], keys[16][PS_SHA256_BYTES];
    size_t n = 0;
    for (uint64_t i = from; i <= to; i++)
        crash_extent_key(i, keys[n++]);
    crash_model_id(number, id);
    assert_int_equal(ps_warm_held_note(h, id, "label", (const uint8_t(*)[PS_SHA256_BYTES])keys, n,
                                       c, NULL),
                     0);
}

static size_t lost(struct ps_warm_held *h, struct ps_cache *c)
{
    size_t n = 99;
    assert_int_equal(ps_warm_held_lost(&n, h, c, NULL), 0);
    return n;
}

static void evict(struct ps_cache *c, uint64_t number)
{
    uint8_t id[PS_SHA256_BYTES];
    uint64_t freed;
    crash_model_id(number, id);
    assert_int_equal(ps_cache_evict(c, id, &freed, NULL), 0);
}

/* The second shares two of its four extents with the first, the third all of its two, the fourth none. */
static void test_held(void **state)
{
    (void)state;
    struct ps_warm_held h = {0};
    struct ps_cache *c = crash_open(test_dir, 64u << 20);
    assert_int_equal(lost(&h, c), 0);
    store(c, 1, 1, 4);
    note(&h, c, 1, 1, 5); /* the fifth was not kept: it can't be lost */
    store(c, 2, 3, 6);
    note(&h, c, 2, 3, 6);
    note(&h, c, 3, 1, 2);
    store(c, 4, 7, 8);
    note(&h, c, 4, 7, 8);
    note(&h, c, 1, 1, 5);
    assert_int_equal(h.n, 4);
    assert_int_equal(h.models[0].n, 5); /* the second has brought it */
    assert_int_equal(lost(&h, c), 0);
    evict(c, 4);
    assert_int_equal(lost(&h, c), 1);
    evict(c, 1); /* 1 to 4 go, as its own: the second and the third miss some of them */
    assert_int_equal(lost(&h, c), 4);
    store(c, 1, 1, 4);
    assert_int_equal(lost(&h, c), 1);
    note(&h, c, 4, 7, 8); /* nothing any more */
    assert_int_equal(lost(&h, c), 0);
    ps_warm_held_deinit(&h);
    ps_cache_close(c);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct ps_warm_held h = {0};
    struct ps_cache *c = crash_open(test_dir, 64u << 20);
    uint8_t id[PS_SHA256_BYTES], key[1][PS_SHA256_BYTES];
    const uint8_t(*keys)[PS_SHA256_BYTES] = (const uint8_t(*)[PS_SHA256_BYTES])key;
    int64_t nth = 1;
    store(c, 1, 1, 1);
    crash_extent_key(1, key[0]);
    crash_model_id(1, id);
    for (int rc = PS_ENOMEM; rc != 0 && nth < 50; nth++) {
        ps_alloc_fail_at(nth);
        rc = ps_warm_held_note(&h, id, "label", keys, 1, c, NULL);
        ps_alloc_fail_at(0);
        assert_true(rc == 0 || rc == PS_ENOMEM);
        assert_int_equal(h.n, rc == 0);
    }
    assert_in_range(nth, 3, 49);
    assert_int_equal(h.models[0].n, 1);
    ps_warm_held_deinit(&h);
    ps_cache_close(c);
}

/* Extents that models share take room once; what is said to hold all does. */
static void test_wanted(void **state)
{
    (void)state;
    struct ps_warm_wanted w = {0};
    uint8_t keys[40][PS_SHA256_BYTES];
    uint64_t bytes[40];
    for (uint64_t i = 0; i < 40; i++) {
        crash_extent_key(i, keys[i]);
        bytes[i] = 1 + i * 1000;
    }
    const uint8_t(*k)[PS_SHA256_BYTES] = (const uint8_t(*)[PS_SHA256_BYTES])keys;
    uint64_t padded = 0;
    for (size_t i = 0; i < 40; i++)
        padded += ps_budget_round(bytes[i]);
    assert_int_equal(ps_warm_wanted_add(&w, k, bytes, 30, NULL), 0);
    assert_int_equal(ps_warm_wanted_add(&w, k + 10, bytes + 10, 30, NULL), 0);
    assert_int_equal(ps_warm_wanted_add(&w, k, bytes, 40, NULL), 0);
    assert_int_equal(w.n, 40);
    assert_int_equal(w.padded_bytes, padded);
    const uint64_t budget = ps_warm_wanted_budget(&w);
    ps_warm_wanted_deinit(&w);
    struct ps_cache *c = crash_open(test_dir, budget);
    const uint32_t m = crash_model(c, 1);
    uint8_t *buf = ps_alloc_pages(65536, 4096);
    for (uint64_t i = 0; i < 40; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, bytes[i]), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    for (uint64_t i = 0; i < 40; i++)
        assert_true(crash_holds(c, i));
    ps_cache_close(c);
    ps_free_pages(buf, 65536);
}

/* What is pinned takes room beside the list, what the list names of it once; what is not pinned takes none. */
static void test_wanted_beside_pins(void **state)
{
    (void)state;
    struct ps_warm_wanted w = {0};
    struct ps_cache *c = crash_open(test_dir, 64u << 20);
    uint8_t keys[6][PS_SHA256_BYTES], id[PS_SHA256_BYTES];
    uint64_t bytes[6] = {BYTES, BYTES, BYTES, BYTES, BYTES, BYTES};
    const uint8_t(*k)[PS_SHA256_BYTES] = (const uint8_t(*)[PS_SHA256_BYTES])keys;
    for (uint64_t i = 0; i < 6; i++)
        crash_extent_key(3 + i, keys[i]);
    store(c, 1, 1, 5);
    store(c, 2, 6, 7);
    crash_model_id(1, id);
    assert_int_equal(ps_warm_wanted_look(&w, NULL, 0, NULL), 0); /* no cache yet */
    assert_int_equal(ps_warm_wanted_look(&w, c, 0, NULL), 0);
    assert_int_equal(w.n_kept, 0);
    assert_int_equal(ps_cache_pin(c, id, true, NULL), 0);
    assert_int_equal(ps_warm_wanted_look(&w, c, 0, NULL), 0);
    assert_int_equal(w.n_kept, 5);
    assert_int_equal(w.kept_bytes, 5 * 8192);
    assert_int_equal(ps_warm_wanted_add(&w, k, bytes, 6, NULL), 0); /* 3 to 8: three of the pinned */
    assert_int_equal(ps_warm_wanted_look(&w, c, 0, NULL), 0);
    assert_int_equal(w.n_kept, 2);
    assert_int_equal(w.kept_bytes, 2 * 8192);
    assert_int_equal(ps_warm_wanted_budget(&w), ps_cache_budget_for(8 * (8192 - 4095), 8));
    /* so does what has a higher priority, for those of a lower one */
    const struct ps_cache_model_options o = {.id = id,
                                             .n_layers = 1,
                                             .has_priority = true,
                                             .priority = 5};
    uint32_t number;
    assert_int_equal(ps_cache_pin(c, id, false, NULL), 0);
    assert_int_equal(ps_cache_model_open_as(c, &o, &number, NULL), 0);
    assert_int_equal(ps_cache_priority(c, number), 5);
    assert_int_equal(ps_cache_priority(c, number + 7), 0);
    assert_int_equal(ps_warm_wanted_look(&w, c, 4, NULL), 0);
    assert_int_equal(w.n_kept, 2);
    assert_int_equal(ps_warm_wanted_look(&w, c, 5, NULL), 0);
    assert_int_equal(w.n_kept, 0);
    const uint64_t all = ps_cache_usable_for(c, number, 4, 64u << 20, 9);
    const uint64_t beside = ps_cache_usable_for(c, number + 7, 4, 64u << 20, 9);
    assert_true(all >= beside + 5 * 8192);
    assert_int_equal(ps_cache_usable_for(c, number + 7, 5, 64u << 20, 9), all);
    ps_warm_wanted_deinit(&w);
    ps_cache_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_held, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_wanted, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_wanted_beside_pins, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
