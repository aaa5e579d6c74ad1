/* The fake device: that it computes, and that it catches what it is there to catch.
 * ctest-libs: ps_fake_device
 * ctest-labels: threads */
#include "tests/support/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "tests/support/fake_device.h"

#define N 4096 /* bytes of the buffers here */

struct fixture {
    const struct ps_device_api *api;
    struct ps_device *d;
    uint8_t *host, *slot; /* N bytes pinned; N of the device */
    struct ps_err err;
};

static void open_with(struct fixture *f, const char *config)
{
    struct ps_device_options o = {.n_marks = 8};
    *f = (struct fixture){.api = fake_device()};
    fake_device_configure(config);
    assert_ok(f->api->open(&f->d, &o, &f->err), &f->err);
    f->host = ps_alloc_pages(N, 4096);
    memset(f->host, 1, N);
    assert_ok(f->api->pin(f->d, f->host, N, &f->err), &f->err);
    assert_ok(f->api->alloc(f->d, (void **)&f->slot, N, &f->err), &f->err);
}

static void close_all(struct fixture *f)
{
    f->api->free(f->d, f->slot);
    f->api->unpin(f->d, f->host);
    f->api->close(f->d);
    ps_free_pages(f->host, N);
    fake_device_configure(NULL);
    assert_int_equal(ps_alloc_live_count(), 0);
}

static void expect_failure(struct fixture *f, int code, const char *word)
{
    assert_int_equal(f->api->sync(f->d, &f->err), code);
    if (!strstr(f->err.text, word))
        fail_msg("'%s' is not in: %s", word, f->err.text);
}

static void test_copies_and_an_operation(void **state)
{
    (void)state;
    struct fixture f;
    float *x = NULL, *w = NULL, got[6], in[6] = {1, 2, 3, 4, 5, 6}, bias[3] = {10, 20, 30};
    open_with(&f, "copy=10M,op=100");
    assert_ok(f.api->alloc(f.d, (void **)&x, sizeof in, &f.err), &f.err);
    assert_ok(f.api->alloc(f.d, (void **)&w, sizeof bias, &f.err), &f.err);
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, x, in, sizeof in), 0);
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, w, bias, sizeof bias), 0);
    memset(in, 0, sizeof in); /* pageable memory is free again */
    assert_int_equal(f.api->mark(f.d, PS_STREAM_COPY, 0), 0);
    assert_int_equal(f.api->wait_mark(f.d, PS_STREAM_COMPUTE, 0), 0);
    assert_int_equal(f.api->add_bias(f.d, x, 3, w, 2, 3), 0);
    assert_int_equal(f.api->copy_out(f.d, PS_STREAM_COMPUTE, got, x, sizeof got), 0);
    static const float want[6] = {11, 22, 33, 14, 25, 36};
    assert_memory_equal(got, want, sizeof want); /* pageable: complete when it returned */
    f.api->free(f.d, x);
    f.api->free(f.d, w);
    close_all(&f);
}

static void test_a_missing_mark_is_a_race(void **state)
{
    (void)state;
    struct fixture f;
    open_with(&f, NULL);
    float *out = NULL;
    assert_ok(f.api->alloc(f.d, (void **)&out, 4 * N, &f.err), &f.err);
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N), 0);
    assert_int_equal(f.api->mark(f.d, PS_STREAM_COPY, 0), 0);
    /* Nothing waits for mark 0. */
    assert_int_equal(f.api->to_f32(f.d, out, f.slot, PS_F32, N / 4), PS_EFAIL);
    expect_failure(&f, PS_EFAIL, "race: to_f32 on the compute stream reads memory that copy_in");
    f.api->free(f.d, out);
    close_all(&f);
}

/* The slot is filled anew while a kernel may still read it; with the mark it is fine, and so when the host has
 * waited. */
static void test_a_slot_still_in_use(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        struct fixture f;
        float *out = NULL;
        open_with(&f, "op=2000");
        assert_ok(f.api->alloc(f.d, (void **)&out, 4 * N, &f.err), &f.err);
        assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N), 0);
        assert_int_equal(f.api->mark(f.d, PS_STREAM_COPY, 0), 0);
        assert_int_equal(f.api->wait_mark(f.d, PS_STREAM_COMPUTE, 0), 0);
        assert_int_equal(f.api->to_f32(f.d, out, f.slot, PS_F32, N / 4), 0);
        assert_int_equal(f.api->mark(f.d, PS_STREAM_COMPUTE, 1), 0);
        if (how == 1)
            assert_int_equal(f.api->wait_mark(f.d, PS_STREAM_COPY, 1), 0);
        if (how == 2)
            assert_ok(f.api->await(f.d, 1, &f.err), &f.err);
        int rc = f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N);
        assert_int_equal(rc, how == 0 ? PS_EFAIL : 0);
        if (how == 0)
            expect_failure(&f, PS_EFAIL,
                           "race: copy_in on the copy stream writes memory that to_f32");
        else
            assert_ok(f.api->sync(f.d, &f.err), &f.err);
        struct fake_device_trace t;
        fake_device_trace(f.d, &t);
        assert_int_equal(t.races, how == 0);
        f.api->free(f.d, out);
        close_all(&f);
    }
}

/* Marks carry what their stream knew: the host that waits for a mark of the compute stream knows of the copies that
 * stream had waited for. */
static void test_knowledge_is_passed_on(void **state)
{
    (void)state;
    struct fixture f;
    open_with(&f, "copy=20M");
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N), 0);
    assert_int_equal(f.api->mark(f.d, PS_STREAM_COPY, 0), 0);
    assert_int_equal(f.api->wait_mark(f.d, PS_STREAM_COMPUTE, 0), 0);
    assert_int_equal(f.api->mark(f.d, PS_STREAM_COMPUTE, 1), 0);
    assert_ok(f.api->await(f.d, 1, &f.err), &f.err);
    assert_int_equal(f.api->fill(f.d, PS_STREAM_COMPUTE, f.slot, 0, N), 0);
    assert_ok(f.api->sync(f.d, &f.err), &f.err);
    close_all(&f);
}

static void test_a_source_written_over(void **state)
{
    (void)state;
    struct fixture f;
    const char *sanitizer = getenv("PENSTOCK_SANITIZE");
    if (sanitizer && strcmp(sanitizer, "thread") == 0)
        skip(); /* it would be right to complain */
    /* The copy is kept waiting by another in front of it, for 0.4 s, until its source has been written over. */
    open_with(&f, "copy=10K");
    uint8_t *first = NULL;
    assert_ok(f.api->alloc(f.d, (void **)&first, N, &f.err), &f.err);
    assert_int_equal(f.api->fill(f.d, PS_STREAM_COMPUTE, first, 0, N), 0);
    assert_int_equal(f.api->copy_within(f.d, PS_STREAM_COMPUTE, f.slot, first, N), 0);
    assert_int_equal(f.api->mark(f.d, PS_STREAM_COMPUTE, 0), 0);
    assert_int_equal(f.api->wait_mark(f.d, PS_STREAM_COPY, 0), 0);
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N), 0);
    memset(f.host, 2, N);
    expect_failure(&f, PS_EFAIL, "copy_in: its source was written over");
    f.api->free(f.d, first);
    close_all(&f);
}

static void test_addresses_and_memory(void **state)
{
    (void)state;
    struct fixture f;
    void *p = NULL;
    open_with(&f, "vram=1M,alloc=3,host=5M");
    struct ps_device_info info;
    f.api->info(f.d, &info);
    assert_int_equal(info.memory_bytes, 1 << 20);
    assert_int_equal(info.free_bytes, (1 << 20) - N);
    assert_int_equal(info.host_bytes, 5 << 20);
    assert_int_equal(f.api->alloc(f.d, &p, (1 << 20) - N + 1, &f.err), PS_EBUDGET);
    assert_int_equal(f.api->alloc(f.d, &p, 1, &f.err), PS_EBUDGET); /* the third */
    assert_ok(f.api->alloc(f.d, &p, (1 << 20) - N, &f.err), &f.err);
    assert_int_equal(f.api->fill(f.d, PS_STREAM_COPY, f.slot + 1, 0, N), PS_EFAIL);
    expect_failure(&f, PS_EFAIL, "not inside one allocation");
    f.api->free(f.d, p);
    close_all(&f);
}

static void test_failures_as_configured(void **state)
{
    (void)state;
    struct fixture f;
    open_with(&f, "fail=fill:2");
    assert_int_equal(f.api->fill(f.d, PS_STREAM_COPY, f.slot, 0, N), 0);
    assert_int_equal(f.api->fill(f.d, PS_STREAM_COPY, f.slot, 0, N), PS_EFAIL);
    expect_failure(&f, PS_EFAIL, "fill: failed as it was called");
    close_all(&f);

    open_with(&f, "late=copy_in:1,copy=1M");
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N), 0);
    assert_int_equal(f.api->mark(f.d, PS_STREAM_COPY, 3), 0);
    assert_int_equal(f.api->await(f.d, 3, &f.err), PS_EFAIL);
    expect_failure(&f, PS_EFAIL, "copy_in: failed as it ran");
    assert_int_equal(f.api->fill(f.d, PS_STREAM_COPY, f.slot, 0, N), PS_EFAIL); /* sticky */
    close_all(&f);

    open_with(&f, "lost=2");
    int rc = 0;
    for (int i = 0; i < 4; i++)
        rc = f.api->fill(f.d, PS_STREAM_COPY, f.slot, 0, N);
    assert_true(rc == 0 || rc == PS_EFAIL); /* whether it is known yet */
    assert_int_equal(f.api->mark(f.d, PS_STREAM_COPY, 0) == 0 ? f.api->await(f.d, 0, &f.err)
                                                              : PS_EFAIL,
                     PS_EFAIL);
    expect_failure(&f, PS_EFAIL, "lost");
    assert_int_equal(f.api->reached(f.d, 0, &f.err), PS_EFAIL);
    close_all(&f);

    struct ps_device_options o = {.n_marks = 1};
    fake_device_configure("speed=9");
    assert_int_equal(f.api->open(&f.d, &o, &f.err), PS_EUSAGE);
    fake_device_configure("fail=sing:1");
    assert_int_equal(f.api->open(&f.d, &o, &f.err), PS_EUSAGE);
    fake_device_configure(NULL);
}

static void test_unpinning_under_a_copy(void **state)
{
    (void)state;
    struct fixture f;
    open_with(&f, "copy=100K");
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N), 0);
    f.api->unpin(f.d, f.host);
    expect_failure(&f, PS_EFAIL, "unpin");
    assert_ok(f.api->pin(f.d, f.host, N, &f.err), &f.err);
    close_all(&f);
}

/* Two streams at work at the same time, and that the trace tells. */
static void test_overlap_is_measured(void **state)
{
    (void)state;
    struct fixture f;
    struct fake_device_trace t;
    uint8_t *other = NULL;
    open_with(&f, "copy=40K"); /* 0.1 s each */
    assert_ok(f.api->alloc(f.d, (void **)&other, 2 * N, &f.err), &f.err);
    assert_int_equal(f.api->fill(f.d, PS_STREAM_COMPUTE, other, 0, 2 * N), 0);
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N), 0);
    assert_int_equal(f.api->copy_within(f.d, PS_STREAM_COMPUTE, other, other + N, N), 0);
    assert_ok(f.api->sync(f.d, &f.err), &f.err);
    fake_device_trace(f.d, &t);
    assert_true(t.copy_busy_ms >= 99 && t.compute_busy_ms >= 99 && t.both_busy_ms > 0);
    assert_true(t.model_copy_ms == t.model_compute_ms && t.model_run_ms == t.model_copy_ms);
    /* Behind a mark of the other stream nothing runs beside it. */
    assert_int_equal(f.api->copy_in(f.d, PS_STREAM_COPY, f.slot, f.host, N), 0);
    assert_int_equal(f.api->mark(f.d, PS_STREAM_COPY, 0), 0);
    assert_int_equal(f.api->wait_mark(f.d, PS_STREAM_COMPUTE, 0), 0);
    assert_int_equal(f.api->copy_within(f.d, PS_STREAM_COMPUTE, other, f.slot, N), 0);
    assert_ok(f.api->sync(f.d, &f.err), &f.err);
    fake_device_trace(f.d, &t);
    assert_true(fabs(t.model_run_ms - 1.5 * t.model_copy_ms) < 1e-6);
    assert_int_equal(t.copies_in, 2);
    assert_int_equal(t.copy_in_bytes, 2 * N);
    assert_int_equal(t.pageable_copies, 0);
    assert_int_equal(t.peak_bytes, 3 * N);
    f.api->free(f.d, other);
    close_all(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_copies_and_an_operation),
                                       cmocka_unit_test(test_a_missing_mark_is_a_race),
                                       cmocka_unit_test(test_a_slot_still_in_use),
                                       cmocka_unit_test(test_knowledge_is_passed_on),
                                       cmocka_unit_test(test_a_source_written_over),
                                       cmocka_unit_test(test_addresses_and_memory),
                                       cmocka_unit_test(test_failures_as_configured),
                                       cmocka_unit_test(test_unpinning_under_a_copy),
                                       cmocka_unit_test(test_overlap_is_measured)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
