/* What the tests of devices share. The same program runs on the emulation in ctest and on a real GPU from
 * tests/gpu/run.sh: PENSTOCK_TEST_DEVICE is "emulated" (default, linked in) or a kind that ps_device_load knows
 * ("cuda").
 *
 *     static void test_x(void **state)
 *     {
 *         struct td *td = *state;
 *         float *x = td_put(td, host, bytes), *y = td_alloc(td, bytes);
 *         td_ok(td, td->api->rmsnorm(td->d, y, ...));
 *         td_get(td, got, y, bytes);
 *     }
 *     TD_MAIN(cmocka_unit_test(test_x), ...)
 *
 * Memory taken through td_* is freed after each test. Exit status 77 where there is no such device. */
#ifndef PS_TESTS_GPU_TEST_DEVICE_H
#define PS_TESTS_GPU_TEST_DEVICE_H
#include "tests/unit/test_kernels_common.h"

#include "kernels/cuda/device_emulated.h"
#include "kernels/device.h"

#define TD_MARKS      16
#define TD_MAX_ALLOCS 256

struct td {
    const struct ps_device_api *api;
    struct ps_device *d;
    struct ps_device_info info;
    bool real;  /* a GPU: shapes may be large */
    bool small; /* PENSTOCK_TEST_SMALL=1 (run.sh under compute-sanitizer): small ones even there */
    void *allocs[TD_MAX_ALLOCS];
    size_t n_allocs;
};

/* A size for this device: the small one under emulation, the large one on a GPU. */
static inline size_t td_size(const struct td *td, size_t small, size_t large)
{
    return td->real && !td->small ? large : small;
}

static inline void td_check(struct td *td, int rc, const char *what, const char *file, int line)
{
    struct ps_err err = {0};
    if (rc == 0)
        return;
    td->api->sync(td->d, &err);
    print_error("%s: %s (%d): %s\n", what, ps_err_name(rc), rc, err.code ? err.text : "(no text)");
    _fail(file, line);
}
#define td_ok(td, call) td_check((td), (call), #call, __FILE__, __LINE__)

static inline void td_sync(struct td *td)
{
    struct ps_err err = {0};
    if (td->api->sync(td->d, &err) == 0)
        return;
    print_error("sync: %s\n", err.text);
    fail();
}

/* Fresh device memory. Under emulation it holds NaNs; so that a GPU shows the same faults, there too. */
static inline void *td_alloc(struct td *td, size_t bytes)
{
    struct ps_err err = {0};
    void *p = NULL;
    assert_true(td->n_allocs < TD_MAX_ALLOCS);
    if (td->api->alloc(td->d, &p, bytes, &err) != 0)
        fail_msg("alloc: %s", err.text);
    assert_int_equal((uintptr_t)p % 256, 0);
    td->allocs[td->n_allocs++] = p;
    td_ok(td, td->api->fill(td->d, PS_STREAM_COMPUTE, p, 0xff, bytes));
    return p;
}

/* `bytes` of the host, on the device. */
static inline void *td_put(struct td *td, const void *host, size_t bytes)
{
    void *p = td_alloc(td, bytes);
    td_ok(td, td->api->copy_in(td->d, PS_STREAM_COMPUTE, p, host, bytes));
    return p;
}

/* The same, `shift` bytes behind a 256-byte boundary: rows of weights begin anywhere. */
static inline void *td_put_shifted(struct td *td, const void *host, size_t bytes, size_t shift)
{
    uint8_t *p = td_alloc(td, bytes + shift);
    td_ok(td, td->api->copy_in(td->d, PS_STREAM_COMPUTE, p + shift, host, bytes));
    return p + shift;
}

/* Back to the host, after all that was queued on the compute stream. */
static inline void td_get(struct td *td, void *host, const void *from, size_t bytes)
{
    td_ok(td, td->api->copy_out(td->d, PS_STREAM_COMPUTE, host, from, bytes));
    td_sync(td);
}

static inline void td_free_all(struct td *td)
{
    while (td->n_allocs)
        td->api->free(td->d, td->allocs[--td->n_allocs]);
}

static inline int td_after_test(void **state)
{
    struct td *td = *state;
    td_free_all(td);
    return 0;
}

static inline int td_open(struct td *td, struct ps_err *err)
{
    const char *kind = getenv("PENSTOCK_TEST_DEVICE"), *small = getenv("PENSTOCK_TEST_SMALL");
    struct ps_device_options o = {.index = 0, .n_marks = TD_MARKS};
    int rc = 0;
    *td = (struct td){.small = small && *small == '1'};
    if (!kind || !*kind || strcmp(kind, "emulated") == 0)
        td->api = ps_emulated_device();
    else
        rc = ps_device_load(&td->api, kind, err);
    if (rc == 0)
        rc = td->api->open(&td->d, &o, err);
    if (rc == 0)
        td->api->info(td->d, &td->info);
    td->real = rc == 0 && strcmp(td->api->kind, "cuda") == 0;
    return rc;
}

static struct td td_device;

static inline int td_before_all(void **state)
{
    *state = &td_device;
    return 0;
}

static inline int td_run(const char *name, struct CMUnitTest *tests, size_t n)
{
    struct ps_err err = {0};
    if (td_open(&td_device, &err) != 0) {
        fprintf(stderr, "%s: skipped: %s\n", name, err.text);
        return 77;
    }
    for (size_t i = 0; i < n; i++)
        if (!tests[i].teardown_func)
            tests[i].teardown_func = td_after_test;
    printf("%s: on %s (%s, %s)\n", name, td_device.api->kind, td_device.info.name,
           td_device.info.arch);
    int failed = _cmocka_run_group_tests(name, tests, n, td_before_all, NULL);
    td_device.api->close(td_device.d);
    return failed ? 1 : 0;
}

#define TD_MAIN(...)                                                                               \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        struct CMUnitTest tests[] = {__VA_ARGS__};                                                 \
        (void)argc;                                                                                \
        return td_run(argv[0], tests, sizeof tests / sizeof tests[0]);                             \
    }
#endif
