/* What is waited for is asked for in pieces: every byte once, right bytes, a failed or wrong piece told like a failed
 * or wrong extent.
 * ctest-labels: threads */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "runtime/plan.h"
#include "runtime/row_stash.h"
#include "runtime/sweep.h"
#include "tests/support/fake_source.h"
#include "tests/support/test.h"

enum { ROWS = 512, COLS = 1024, TENSORS = 4, PIECES = 8 };
#define EXTENT_BYTES                                                                               \
    ((uint64_t)ROWS * COLS * 4) /* 2 MiB: one extent each, eight pieces of 256 KiB */

struct world {
    struct ps_source *source;
    struct ps_map *map;
    struct ps_stats stats;
    uint32_t order[TENSORS];
    uint8_t tier[TENSORS];
    uint8_t *bytes;
    atomic_int interrupt;
    /* hook, on the source's thread */
    unsigned pieces[TENSORS], whole[TENSORS];
    uint64_t asked_bytes[TENSORS];
    int fail_piece; /* of tensor 0, once; -1: none */
};

static int on_range(void *user, const struct ps_range *r)
{
    struct world *w = user;
    uint32_t t = (uint32_t)(r->offset / EXTENT_BYTES);
    assert_int_equal(t, (r->offset + r->bytes - 1) / EXTENT_BYTES);
    assert_int_equal(r->alone, r->bytes < EXTENT_BYTES);
    w->asked_bytes[t] += r->bytes;
    if (r->bytes == EXTENT_BYTES) {
        w->whole[t]++;
        return 0;
    }
    if (t == 0 && (int)w->pieces[0] == w->fail_piece) {
        w->fail_piece = -1;
        return PS_ENET;
    }
    w->pieces[t]++;
    return 0;
}

/* A model of this size would have extents of 256 KiB. */
static void one_extent_each(struct ps_map *m)
{
    assert_true(m->n_extents >= TENSORS);
    for (uint32_t t = 0; t < TENSORS; t++) {
        m->tensors[t].first_extent = t;
        m->tensors[t].n_extents = 1;
        m->extents[t] = (struct ps_extent){.offset = t * EXTENT_BYTES,
                                           .n_rows = ROWS,
                                           .stored_bytes = EXTENT_BYTES,
                                           .raw_bytes = EXTENT_BYTES,
                                           .tensor = t,
                                           .object = m->extents[0].object,
                                           .codec = m->extents[0].codec};
    }
    m->n_extents = TENSORS;
    m->max_stored_bytes = m->max_raw_bytes = EXTENT_BYTES;
}

static void make_map(struct world *w, bool hashed)
{
    struct ps_map_builder *b = NULL;
    struct ps_err err = {0};
    uint32_t object;
    uint8_t id[32] = {1};
    assert_ok(ps_map_builder_new(&b), NULL);
    assert_ok(ps_map_add_object(b, "m", TENSORS * EXTENT_BYTES, NULL, "m1", &object, &err), &err);
    for (uint32_t t = 0; t < TENSORS; t++) {
        char name[32];
        snprintf(name, sizeof name, "t%u", t);
        assert_ok(ps_map_add_tensor(b, name, PS_F32, (uint64_t[]){ROWS, COLS}, 2, object,
                                    t * EXTENT_BYTES, false, &err),
                  &err);
        w->order[t] = t;
    }
    assert_ok(ps_map_builder_finish(&w->map, b, id, &err), &err);
    one_extent_each(w->map);
    for (uint32_t i = 0; hashed && i < TENSORS; i++) {
        struct ps_extent *e = &w->map->extents[i];
        e->hashed = true;
        ps_sha256_once(w->bytes + e->offset, e->stored_bytes, e->key);
    }
}

static void make_world(struct world *w, bool hashed)
{
    memset(w, 0, sizeof *w);
    w->fail_piece = -1;
    w->bytes = malloc(TENSORS * EXTENT_BYTES);
    for (uint64_t i = 0; i < TENSORS * EXTENT_BYTES; i++)
        w->bytes[i] = (uint8_t)(i * 2654435761u >> 24);
    w->source = fake_source_new();
    fake_source_put(w->source, "m", w->bytes, TENSORS * EXTENT_BYTES, 1);
    fake_source_set_hook(w->source, on_range, w);
    make_map(w, hashed);
}

static void end_world(struct world *w)
{
    ps_map_free(w->map);
    ps_source_close(w->source);
    free(w->bytes);
}

/* The last tensor plays the embedding: not in the order. */
static struct ps_sweep *open_sweep(struct world *w)
{
    struct ps_sweep *s = NULL;
    struct ps_err err = {0};
    struct ps_sweep_options o = {
        .map = w->map,
        .source = w->source,
        .order = w->order,
        .n_order = TENSORS - 1,
        .tier = w->tier,
        .ring_slots = 3,
        .gather_tensor = TENSORS - 1,
        .gather_slots = 1,
        .stats = &w->stats,
        .interrupt = &w->interrupt,
    };
    assert_ok(ps_sweep_open(&s, &o, &err), &err);
    return s;
}

static int take(struct ps_sweep *s, const struct world *w, uint32_t extent, struct ps_err *err)
{
    struct ps_panel p;
    int rc = ps_sweep_next(s, extent, &p, err);
    if (rc < 0)
        return rc;
    assert_memory_equal(p.data, w->bytes + extent * EXTENT_BYTES, EXTENT_BYTES);
    ps_sweep_release(s, &p);
    return 0;
}

static void sweep_all(struct ps_sweep *s, const struct world *w)
{
    struct ps_err err = {0};
    ps_sweep_begin(s, false);
    for (uint32_t i = 0; i < TENSORS - 1; i++)
        assert_ok(take(s, w, i, &err), &err);
}

static void test_cold_link_begins_with_pieces(void **state)
{
    (void)state;
    struct world w;
    make_world(&w, true);
    struct ps_sweep *s = open_sweep(&w);
    sweep_all(s, &w);
    assert_int_equal(w.pieces[0], PIECES);
    for (uint32_t t = 0; t < TENSORS - 1; t++)
        assert_int_equal(w.asked_bytes[t], EXTENT_BYTES);
    ps_sweep_close(s);
    end_world(&w);
}

static void test_local_source_is_asked_whole(void **state)
{
    (void)state;
    struct world w;
    make_world(&w, false);
    w.source->local = true;
    struct ps_sweep *s = open_sweep(&w);
    sweep_all(s, &w);
    for (uint32_t t = 0; t < TENSORS - 1; t++)
        assert_int_equal(w.whole[t], 1);
    ps_sweep_close(s);
    end_world(&w);
}

static void test_gather_comes_in_pieces(void **state)
{
    (void)state;
    struct world w;
    struct ps_err err = {0};
    static float out[COLS];
    make_world(&w, false);
    struct ps_sweep *s = open_sweep(&w);
    assert_ok(ps_sweep_gather(s, (uint32_t[]){3}, 1, out, COLS, &err), &err);
    assert_memory_equal(out, w.bytes + (TENSORS - 1) * EXTENT_BYTES + 3 * COLS * 4, sizeof out);
    assert_int_equal(w.pieces[TENSORS - 1], PIECES);
    ps_sweep_close(s);
    end_world(&w);
}

static void test_failed_piece_fails_its_extent_once(void **state)
{
    (void)state;
    for (int piece = 0; piece < PIECES; piece++) {
        struct world w;
        struct ps_err err = {0};
        make_world(&w, false);
        w.fail_piece = piece;
        struct ps_sweep *s = open_sweep(&w);
        ps_sweep_begin(s, false);
        assert_int_equal(take(s, &w, 0, &err), PS_ENET);
        sweep_all(s, &w);
        ps_sweep_close(s);
        end_world(&w);
    }
}

static void test_wrong_piece_is_asked_for_again_whole(void **state)
{
    (void)state;
    struct world w;
    make_world(&w, true);
    fake_source_corrupt(w.source, "m", 1);
    struct ps_sweep *s = open_sweep(&w);
    sweep_all(s, &w);
    /* whose piece came first, and was wrong, is chance */
    unsigned whole = 0;
    uint64_t asked_bytes = 0;
    for (uint32_t t = 0; t < TENSORS - 1; t++) {
        whole += w.whole[t];
        asked_bytes += w.asked_bytes[t];
    }
    assert_int_equal(whole, 1);
    assert_int_equal(asked_bytes, TENSORS * EXTENT_BYTES);
    ps_sweep_close(s);
    end_world(&w);
}

static void test_wrong_bytes_that_stay_are_an_error(void **state)
{
    (void)state;
    struct world w;
    struct ps_err err = {0};
    make_world(&w, true);
    fake_source_corrupt(w.source, "m", 1000);
    struct ps_sweep *s = open_sweep(&w);
    ps_sweep_begin(s, false);
    assert_int_equal(take(s, &w, 0, &err), PS_EDATA);
    ps_sweep_close(s);
    end_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cold_link_begins_with_pieces),
        cmocka_unit_test(test_local_source_is_asked_whole),
        cmocka_unit_test(test_gather_comes_in_pieces),
        cmocka_unit_test(test_failed_piece_fails_its_extent_once),
        cmocka_unit_test(test_wrong_piece_is_asked_for_again_whole),
        cmocka_unit_test(test_wrong_bytes_that_stay_are_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
