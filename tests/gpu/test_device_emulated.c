/* What the emulated device is strict about, whichever device is tested otherwise: each misuse ends a child process. */
#include "tests/gpu/test_device.h"

#include <fcntl.h>
#include <sys/wait.h>

static struct ps_device *open_emulated(void)
{
    struct ps_device_options o = {.n_marks = 2};
    struct ps_device *d = NULL;
    struct ps_err err = {0};
    assert_int_equal(ps_emulated_device()->open(&d, &o, &err), 0);
    return d;
}

/* Whether a process that does this comes to its end. */
static bool survives(void (*misuse)(const struct ps_device_api *api, struct ps_device *d, uint8_t *p))
{
    pid_t pid = fork();
    int status = 0;
    assert_true(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(null, 2); /* the last words are expected */
        const struct ps_device_api *api = ps_emulated_device();
        struct ps_device *d = open_emulated();
        void *p = NULL;
        if (api->alloc(d, &p, 1000, NULL) != 0)
            _exit(0);
        misuse(api, d, p);
        api->free(d, p);
        api->close(d);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status == 0;
}

static void no_misuse(const struct ps_device_api *api, struct ps_device *d, uint8_t *p)
{
    api->fill(d, PS_STREAM_COMPUTE, p, 0, 1000);
}

/* As a kernel would: no call sees the address. */
static void write_behind(const struct ps_device_api *api, struct ps_device *d, uint8_t *p)
{
    (void)api, (void)d;
    ((volatile uint8_t *)p)[1000] = 0;
}

static void write_in_front(const struct ps_device_api *api, struct ps_device *d, uint8_t *p)
{
    (void)api, (void)d;
    ((volatile uint8_t *)p)[-1] = 0;
}

static void copy_too_much(const struct ps_device_api *api, struct ps_device *d, uint8_t *p)
{
    uint8_t host[1001] = {0};
    api->copy_in(d, PS_STREAM_COPY, p, host, sizeof host);
}

static void free_the_unknown(const struct ps_device_api *api, struct ps_device *d, uint8_t *p)
{
    api->free(d, p + 256);
}

static void free_as_shared(const struct ps_device_api *api, struct ps_device *d, uint8_t *p)
{
    api->free_shared(d, p);
}

static void pin_twice(const struct ps_device_api *api, struct ps_device *d, uint8_t *p)
{
    (void)p;
    void *host = ps_alloc_pages(8192, 4096);
    api->pin(d, host, 8192, NULL);
    api->pin(d, (uint8_t *)host + 4096, 4096, NULL);
}

static void mark_beyond(const struct ps_device_api *api, struct ps_device *d, uint8_t *p)
{
    (void)p;
    api->mark(d, PS_STREAM_COPY, 2);
}

static void test_misuse_ends_the_program(void **state)
{
    (void)state;
    assert_true(survives(no_misuse));
    assert_false(survives(write_behind));
    assert_false(survives(write_in_front));
    assert_false(survives(copy_too_much));
    assert_false(survives(free_the_unknown));
    assert_false(survives(free_as_shared));
    assert_false(survives(pin_twice));
    assert_false(survives(mark_beyond));
}

static void test_what_the_environment_says(void **state)
{
    (void)state;
    struct ps_device_info info;
    struct ps_err err = {0};
    void *p = NULL;
    const struct ps_device_api *api = ps_emulated_device();
    setenv("PENSTOCK_EMULATED_ARCH", "75", 1);
    setenv("PENSTOCK_EMULATED_VRAM_MB", "2", 1);
    struct ps_device *d = open_emulated();
    unsetenv("PENSTOCK_EMULATED_ARCH");
    unsetenv("PENSTOCK_EMULATED_VRAM_MB");
    api->info(d, &info);
    assert_string_equal(info.arch, "sm_75");
    assert_int_equal(info.memory_bytes, 2 << 20);
    assert_int_equal(api->alloc(d, &p, (2 << 20) + 1, &err), PS_EBUDGET);
    assert_int_equal(api->alloc(d, &p, 2 << 20, &err), 0);
    assert_int_equal(api->alloc_shared(d, &p, 4096, &err), 0); /* the host's memory */
    uint64_t live = ps_alloc_live_count();
    assert_true(live > 0);
    api->close(d); /* frees what was not freed */
    assert_true(ps_alloc_live_count() < live);
    struct ps_device_options second = {.index = 1};
    assert_int_equal(api->open(&d, &second, &err), PS_EUNSUPPORTED);
}

static int open_and_close(void *user)
{
    (void)user;
    struct ps_device_options o = {.n_marks = 2};
    struct ps_device *d = NULL;
    void *p = NULL;
    int rc = ps_emulated_device()->open(&d, &o, NULL);
    if (rc == 0)
        rc = ps_emulated_device()->alloc(d, &p, 100, NULL);
    ps_emulated_device()->close(d);
    return rc;
}

static void test_memory_that_is_refused(void **state)
{
    (void)state;
    for (int n = 1; n < 20; n++) {
        uint64_t before = ps_alloc_live_count();
        ps_alloc_fail_at(n);
        int rc = open_and_close(NULL);
        ps_alloc_fail_at(0);
        assert_int_equal(ps_alloc_live_count(), before);
        assert_true(rc == 0 || rc == PS_ENOMEM);
        if (rc == 0)
            return;
    }
    fail();
}

TD_MAIN(cmocka_unit_test(test_misuse_ends_the_program),
        cmocka_unit_test(test_what_the_environment_says),
        cmocka_unit_test(test_memory_that_is_refused))
