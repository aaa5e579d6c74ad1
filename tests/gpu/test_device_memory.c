/* Memory, copies and marks of a device: what device.h promises of them, on whichever device PENSTOCK_TEST_DEVICE
 * names. */
#include "tests/gpu/test_device.h"

static void test_copies_there_and_back(void **state)
{
    struct td *td = *state;
    static const size_t sizes[] = {1, 3, 255, 256, 257, 4096, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i];
        uint64_t seed = i;
        uint8_t *a = malloc(n), *b = malloc(n);
        for (size_t k = 0; k < n; k++)
            a[k] = (uint8_t)kt_next(&seed);
        memset(b, 0, n);
        void *p = td_put_shifted(td, a, n, i);
        td_get(td, b, p, n);
        assert_memory_equal(a, b, n);
        free(a);
        free(b);
    }
}

static void test_fresh_memory_is_filled(void **state)
{
    struct td *td = *state;
    float got[64];
    float *p = td_alloc(td, sizeof got);
    td_get(td, got, p, sizeof got);
    for (size_t i = 0; i < 64; i++)
        assert_true(isnan(got[i]));
}

static void test_marks_order_the_streams(void **state)
{
    struct td *td = *state;
    const struct ps_device_api *api = td->api;
    struct ps_err err = {0};
    uint32_t one = 1, two = 2, got = 0;
    uint32_t *p = td_alloc(td, 4);
    td_sync(td); /* the fill of td_alloc is on the compute stream */
    td_ok(td, api->copy_in(td->d, PS_STREAM_COPY, p, &one, 4));
    td_ok(td, api->mark(td->d, PS_STREAM_COPY, 0));
    td_ok(td, api->wait_mark(td->d, PS_STREAM_COMPUTE, 0));
    td_ok(td, api->copy_out(td->d, PS_STREAM_COMPUTE, &got, p, 4));
    td_ok(td, api->mark(td->d, PS_STREAM_COMPUTE, 1));
    td_ok(td, api->wait_mark(td->d, PS_STREAM_COPY, 1));
    td_ok(td, api->copy_in(td->d, PS_STREAM_COPY, p, &two, 4));
    td_ok(td, api->mark(td->d, PS_STREAM_COPY, 0));
    assert_int_equal(api->await(td->d, 0, &err), 0);
    assert_int_equal(api->reached(td->d, 0, &err), 1);
    assert_int_equal(got, 1);
    td_get(td, &got, p, 4);
    assert_int_equal(got, 2);
    float ms = -1;
    td_ok(td, api->elapsed_ms(td->d, 1, 0, &ms));
    assert_true(ms >= 0);
}

static void test_too_much_memory(void **state)
{
    struct td *td = *state;
    struct ps_err err = {0};
    void *p = (void *)1;
    uint64_t too_much = td->info.memory_bytes + (1u << 20);
    assert_int_equal(td->api->alloc(td->d, &p, too_much, &err), PS_EBUDGET);
    assert_true(p == (void *)1 && err.text[0]);
    td_sync(td); /* and the device goes on */
}

static void test_pinned_and_shared(void **state)
{
    struct td *td = *state;
    struct ps_err err = {0};
    size_t n = 1 << 16;
    uint8_t *host = ps_alloc_pages(n, 4096), *got = malloc(n);
    uint64_t seed = 7;
    for (size_t i = 0; i < n; i++)
        host[i] = (uint8_t)kt_next(&seed);
    assert_int_equal(td->api->pin(td->d, host, n, &err), 0);
    uint8_t *p = td_put(td, host, n);
    td_get(td, got, p, n);
    assert_memory_equal(got, host, n);
    td->api->unpin(td->d, host);
    ps_free_pages(host, n);

    uint32_t *shared = NULL;
    assert_int_equal(td->api->alloc_shared(td->d, (void **)&shared, 4096, &err), 0);
    memset(shared, 0, 4096);
    td_ok(td, td->api->fill(td->d, PS_STREAM_COMPUTE, shared, 3, 8));
    td_sync(td);
    assert_int_equal(shared[1], 0x03030303u);
    assert_int_equal(shared[2], 0);
    td->api->free_shared(td->d, shared);
    free(got);
}

TD_MAIN(cmocka_unit_test(test_copies_there_and_back), cmocka_unit_test(test_fresh_memory_is_filled),
        cmocka_unit_test(test_marks_order_the_streams), cmocka_unit_test(test_too_much_memory),
        cmocka_unit_test(test_pinned_and_shared))
