/* The ring of device memory behind the scheduler, on the fake device, which finds a forgotten mark and a slot
 * filled too early by itself: right bytes in the right order from every tier, nothing copied twice that stays,
 * sweeps that run on into one another, one that is given up, a device that is lost. ctest-labels: threads
 * ctest-libs: ps_runtime ps_fake_device */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "runtime/plan.h"
#include "runtime/sweep.h"
#include "runtime/vram.h"
#include "tests/support/fake_device.h"
#include "tests/support/fake_source.h"
#include "tests/support/test.h"

enum {
    ROWS = 64,
    COLS = 1024,
    TENSORS = 12,
    ORDER = TENSORS - 1, /* the last one plays the embedding */
    SWEEPS = 4,
    BYTES = ROWS * COLS * 4, /* one extent each */
    MARKS = 64,
};

struct world {
    const struct ps_device_api *api;
    struct ps_device *device;
    struct ps_source *source;
    struct ps_map *map;
    struct ps_pins *pins;
    struct ps_sweep *sweep;
    struct ps_vram *vram;
    struct ps_stats stats;
    uint32_t order[TENSORS];
    uint8_t tier[TENSORS];
    float *bytes;
    float *out; /* on the device: what the extents of a sweep held, one behind the other */
    float *got; /* the same on the host */
};

static float value(uint32_t tensor, uint32_t row, uint32_t col)
{
    return (float)(tensor * 1000 + row) + (float)col / COLS;
}

static void make_map(struct world *w)
{
    struct ps_map_builder *b = NULL;
    struct ps_err err = {0};
    uint32_t object;
    uint8_t id[32] = {1};
    w->bytes = malloc((size_t)TENSORS * BYTES);
    for (uint32_t t = 0; t < TENSORS; t++)
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t c = 0; c < COLS; c++)
                w->bytes[(t * ROWS + r) * COLS + c] = value(t, r, c);
    w->source = fake_source_new();
    fake_source_put(w->source, "m", w->bytes, (size_t)TENSORS * BYTES, 1);
    assert_ok(ps_map_builder_new(&b), NULL);
    assert_ok(ps_map_add_object(b, "m", (uint64_t)TENSORS * BYTES, NULL, "m1", &object, &err), &err);
    for (uint32_t t = 0; t < TENSORS; t++) {
        char name[32];
        snprintf(name, sizeof name, "t%u", t);
        assert_ok(ps_map_add_tensor(b, name, PS_F32, (uint64_t[]){ROWS, COLS}, 2, object,
                                    (uint64_t)t * BYTES, false, &err),
                  &err);
        w->order[t] = t;
    }
    assert_ok(ps_map_builder_finish(&w->map, b, id, &err), &err);
    assert_int_equal(w->map->n_extents, TENSORS);
}

static void make_world(struct world *w, const char *config)
{
    struct ps_err err = {0};
    void *out = NULL;
    memset(w, 0, sizeof *w);
    make_map(w);
    fake_device_configure(config);
    w->api = fake_device();
    assert_ok(w->api->open(&w->device, &(struct ps_device_options){.n_marks = MARKS}, &err), &err);
    assert_ok(w->api->alloc(w->device, &out, (uint64_t)ORDER * BYTES, &err), &err);
    w->out = out;
    w->got = malloc((size_t)ORDER * BYTES);
}

static void start(struct world *w, uint32_t host_slots, uint32_t slots, uint32_t first_position)
{
    struct ps_err err = {0};
    void *at;
    size_t n;
    assert_ok(ps_pins_new(&w->pins, w->api, w->device, TENSORS + 1, &err), &err);
    struct ps_sweep_options so = {
        .map = w->map,
        .source = w->source,
        .order = w->order,
        .n_order = ORDER,
        .tier = w->tier,
        .ring_slots = host_slots,
        .gather_tensor = TENSORS - 1,
        .gather_slots = 1,
        .landed = ps_pins_add,
        .closing = ps_pins_clear,
        .landed_user = w->pins,
        .stats = &w->stats,
    };
    assert_ok(ps_sweep_open(&w->sweep, &so, &err), &err);
    ps_sweep_slots(w->sweep, &at, &n);
    ps_pins_add(w->pins, at, n);
    struct ps_vram_options vo = {
        .api = w->api,
        .device = w->device,
        .map = w->map,
        .sweep = w->sweep,
        .order = w->order,
        .n_order = ORDER,
        .tier = w->tier,
        .first_position = first_position,
        .slots = slots,
        .stats = &w->stats,
    };
    assert_ok(ps_vram_open(&w->vram, &vo, &err), &err);
}

static void end_world(struct world *w)
{
    struct fake_device_trace trace;
    fake_device_trace(w->device, &trace);
    ps_vram_close(w->vram);
    ps_sweep_close(w->sweep);
    ps_pins_free(w->pins);
    w->api->free(w->device, w->out);
    assert_int_equal(trace.races, 0);
    fake_device_trace(w->device, &trace);
    assert_int_equal(trace.live_bytes, 0);
    assert_int_equal(trace.pinned_bytes, 0);
    w->api->close(w->device);
    fake_device_configure(NULL);
    ps_map_free(w->map);
    ps_source_close(w->source);
    free(w->bytes);
    free(w->got);
}

/* Widens extent i of the order into its place of `out`: a kernel that reads the rows. */
static int use(struct world *w, uint32_t i, struct ps_err *err)
{
    const void *rows;
    int rc = ps_vram_next(w->vram, w->order[i], &rows, err);
    if (rc == 0)
        rc = w->api->to_f32(w->device, w->out + (size_t)i * ROWS * COLS, rows, PS_F32, ROWS * COLS);
    if (rc == 0)
        rc = ps_vram_release(w->vram);
    return rc < 0 ? rc : ps_vram_look_ahead(w->vram, err);
}

static void check_out(struct world *w, uint32_t first)
{
    struct ps_err err = {0};
    assert_ok(w->api->mark(w->device, PS_STREAM_COMPUTE, MARKS - 1), NULL);
    assert_ok(w->api->await(w->device, MARKS - 1, &err), &err);
    size_t at = (size_t)first * ROWS * COLS;
    assert_ok(w->api->copy_out(w->device, PS_STREAM_COMPUTE, w->got + at, w->out + at,
                               (uint64_t)(ORDER - first) * BYTES),
              NULL);
    assert_ok(w->api->sync(w->device, &err), &err);
    assert_memory_equal(w->got + at, w->bytes + at, (size_t)(ORDER - first) * BYTES);
    assert_ok(w->api->fill(w->device, PS_STREAM_COMPUTE, w->out, 0xff, (uint64_t)ORDER * BYTES),
              NULL);
}

static void one_sweep(struct world *w)
{
    struct ps_err err = {0};
    ps_vram_begin(w->vram, true);
    for (uint32_t i = 0; i < ORDER; i++)
        assert_ok(use(w, i, &err), &err);
    check_out(w, 0);
}

static void place(struct world *w, unsigned vram, unsigned ram)
{
    for (uint32_t i = 0; i < ORDER; i++)
        w->tier[i] = i * 5 % ORDER < vram         ? PS_TIER_VRAM
                     : i * 5 % ORDER < vram + ram ? PS_TIER_RAM
                                                  : 0;
}

static void test_every_tier_and_ring(void **state)
{
    (void)state;
    static const char *const speeds[] = {"", "copy=400M", "op=300", "copy=800M,op=100"};
    for (unsigned k = 0; k < 16; k++) {
        struct world w;
        unsigned vram = k * 3 % 12, ram = k * 7 % (12 - vram);
        make_world(&w, speeds[k % 4]);
        place(&w, vram, ram);
        start(&w, 1 + k % 5, 8 + k % 4, 0);
        ps_sweep_allow(w.sweep, SWEEPS);
        for (int i = 0; i < SWEEPS; i++)
            one_sweep(&w);
        uint64_t stays = vram < ORDER ? vram : ORDER;
        assert_int_equal(ps_stat_get(&w.stats.bytes_to_device),
                         (stays + SWEEPS * (ORDER - stays)) * BYTES);
        assert_int_equal(ps_stat_get(&w.stats.bytes_vram_hit), (SWEEPS - 1) * stays * BYTES);
        end_world(&w);
    }
}

/* Extents are taken until no more may be, then used, then released together: what one launch over several panels
 * does. */
static void sweep_in_groups(struct world *w)
{
    struct ps_err err = {0};
    const void *rows[ORDER];
    uint32_t used = 0;
    ps_vram_begin(w->vram, true);
    for (uint32_t i = 0; i < ORDER; i++) {
        assert_ok(ps_vram_next(w->vram, w->order[i], &rows[i], &err), &err);
        assert_ok(ps_vram_look_ahead(w->vram, &err), &err);
        if (ps_vram_may_take(w->vram) && i + 1 < ORDER)
            continue;
        for (; used <= i; used++)
            assert_ok(w->api->to_f32(w->device, w->out + (size_t)used * ROWS * COLS, rows[used],
                                     PS_F32, ROWS * COLS),
                      &err);
        assert_ok(ps_vram_release(w->vram), &err);
    }
    check_out(w, 0);
}

static void test_taken_in_groups(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 8; k++) {
        struct world w;
        make_world(&w, k % 2 ? "copy=400M" : "op=200");
        place(&w, k, k % 3);
        start(&w, 1 + k % 4, 8 + k, 0);
        ps_sweep_allow(w.sweep, SWEEPS);
        for (int i = 0; i < SWEEPS; i++)
            sweep_in_groups(&w);
        assert_int_equal(ps_stat_get(&w.stats.bytes_to_device), (k + SWEEPS * (ORDER - k)) * BYTES);
        end_world(&w);
    }
}

/* Copies and kernels each take time; together they take little more than the longer. The fake's own clock decides, not
 * this test's: how long both streams were busy at once. */
static void test_copies_run_beside_kernels(void **state)
{
    (void)state;
    struct world w;
    struct fake_device_trace before, after;
    make_world(&w, "copy=50M,op=5000"); /* 5 ms each: 256 KiB at 50 MB/s */
    start(&w, 8, 8, 0);
    ps_sweep_allow(w.sweep, SWEEPS);
    one_sweep(&w);
    fake_device_trace(w.device, &before);
    for (int i = 1; i < SWEEPS; i++)
        one_sweep(&w);
    fake_device_trace(w.device, &after);
    double copy = after.copy_busy_ms - before.copy_busy_ms,
           both = after.both_busy_ms - before.both_busy_ms;
    assert_true(both >= 0.7 * copy);
    end_world(&w);
}

static void test_a_given_up_sweep(void **state)
{
    (void)state;
    for (uint32_t stop = 0; stop < ORDER; stop += 2) {
        struct world w;
        struct ps_err err = {0};
        make_world(&w, "copy=400M");
        place(&w, 4, 3);
        start(&w, 3, 8, 0);
        ps_sweep_allow(w.sweep, SWEEPS);
        one_sweep(&w);
        ps_vram_begin(w.vram, true);
        for (uint32_t i = 0; i < stop; i++)
            assert_ok(use(&w, i, &err), &err);
        ps_vram_abandon(w.vram);
        one_sweep(&w);
        one_sweep(&w);
        end_world(&w);
    }
}

/* The first extents are used on the host, the rest on the device. */
static void test_shared_with_the_host(void **state)
{
    (void)state;
    struct world w;
    struct ps_err err = {0};
    const uint32_t split = 4;
    make_world(&w, "copy=400M");
    place(&w, 3, 3);
    for (uint32_t i = 0; i < split; i++)
        w.tier[i] = i < 2 ? PS_TIER_RAM
                          : 0; /* ready at once: tempting for a look-ahead that is not its own */
    start(&w, 4, 8, split);
    ps_sweep_allow(w.sweep, SWEEPS);
    for (int k = 0; k < SWEEPS; k++) {
        ps_sweep_begin(w.sweep, false);
        for (uint32_t i = 0; i < split; i++) {
            struct ps_panel p;
            assert_ok(ps_sweep_next(w.sweep, i, &p, &err), &err);
            assert_memory_equal(p.data, w.bytes + (size_t)i * ROWS * COLS, BYTES);
            ps_sweep_release(w.sweep, &p);
        }
        ps_vram_begin(w.vram, false);
        for (uint32_t i = split; i < ORDER; i++)
            assert_ok(use(&w, i, &err), &err);
        check_out(&w, split);
        assert_ok(ps_vram_look_ahead(w.vram, &err), &err);
    }
    assert_int_equal(ps_stat_get(&w.stats.extents_used),
                     SWEEPS * ORDER); /* no panel of the host's was taken */
    end_world(&w);
}

static void test_a_lost_device_ends_every_wait(void **state)
{
    (void)state;
    for (unsigned after = 1; after < 60; after += 4) {
        struct world w;
        struct ps_err err = {0};
        char config[64];
        int rc = 0;
        snprintf(config, sizeof config, "copy=400M,lost=%u", after);
        make_world(&w, config);
        place(&w, 4, 3);
        start(&w, 2, 8, 0);
        ps_sweep_allow(w.sweep, SWEEPS);
        for (int k = 0; rc == 0 && k < SWEEPS; k++) {
            ps_vram_begin(w.vram, true);
            for (uint32_t i = 0; rc == 0 && i < ORDER; i++)
                rc = use(&w, i, &err);
            if (rc == 0)
                rc = w.api->mark(w.device, PS_STREAM_COMPUTE, MARKS - 1);
            if (rc == 0)
                rc = w.api->await(w.device, MARKS - 1, &err);
        }
        assert_true(rc < 0);
        ps_vram_abandon(w.vram);
        end_world(&w);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    for (unsigned nth = 2; nth <= 3; nth++) { /* the ring, the residents; the first is the test's own */
        struct world w;
        struct ps_err err = {0};
        char config[64];
        snprintf(config, sizeof config, "alloc=%u", nth);
        make_world(&w, config);
        place(&w, 4, 0);
        struct ps_vram_options vo = {.api = w.api,
                                     .device = w.device,
                                     .map = w.map,
                                     .order = w.order,
                                     .n_order = ORDER,
                                     .tier = w.tier,
                                     .slots = 8,
                                     .stats = &w.stats};
        assert_int_equal(ps_vram_open(&w.vram, &vo, &err), PS_EBUDGET);
        assert_null(w.vram);
        end_world(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_tier_and_ring),
        cmocka_unit_test(test_taken_in_groups),
        cmocka_unit_test(test_copies_run_beside_kernels),
        cmocka_unit_test(test_a_given_up_sweep),
        cmocka_unit_test(test_shared_with_the_host),
        cmocka_unit_test(test_a_lost_device_ends_every_wait),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
