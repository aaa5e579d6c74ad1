/* The sweep scheduler over a source in memory: right bytes in the right order from every tier, each range asked
 * for once a sweep, failures told at the extent they belong to, a sweep that was given up does not spoil the next.
 * ctest-labels: threads */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "runtime/plan.h"
#include "runtime/row_stash.h"
#include "runtime/sweep.h"
#include "tests/support/fake_source.h"
#include "tests/support/test.h"

enum {
    ROWS = 64,
    COLS = 1024,
    TENSORS = 12,
    SWEEPS = 4
}; /* 64 x 1024 f32 = 256 KiB: one extent each */

struct world {
    struct ps_source *source;
    struct ps_map *map;
    struct ps_stats stats;
    uint32_t order[TENSORS];
    uint8_t tier[TENSORS];
    unsigned asked[TENSORS]; /* hook, on the source's thread */
    int fail_tensor;         /* fails once */
    float *bytes;
    atomic_int interrupt;
};

static float value(uint32_t tensor, uint32_t row, uint32_t col)
{
    return (float)(tensor * 1000 + row) + (float)col / COLS;
}

static int on_range(void *user, const struct ps_range *r)
{
    struct world *w = user;
    uint32_t t = (uint32_t)(r->offset / (ROWS * COLS * 4));
    w->asked[t]++;
    if (w->fail_tensor == (int)t) {
        w->fail_tensor = -1;
        return PS_ENET;
    }
    return 0;
}

static void make_world(struct world *w)
{
    struct ps_map_builder *b = NULL;
    struct ps_err err = {0};
    uint32_t object;
    uint8_t id[32] = {1};
    size_t each = ROWS * COLS;
    memset(w, 0, sizeof *w);
    w->fail_tensor = -1;
    w->bytes = malloc(TENSORS * each * 4);
    for (uint32_t t = 0; t < TENSORS; t++)
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t c = 0; c < COLS; c++)
                w->bytes[t * each + r * COLS + c] = value(t, r, c);
    w->source = fake_source_new();
    fake_source_put(w->source, "m", w->bytes, TENSORS * each * 4, 1);
    fake_source_set_hook(w->source, on_range, w);
    assert_ok(ps_map_builder_new(&b), NULL);
    assert_ok(ps_map_add_object(b, "m", TENSORS * each * 4, NULL, "m1", &object, &err), &err);
    for (uint32_t t = 0; t < TENSORS; t++) {
        char name[32];
        snprintf(name, sizeof name, "t%u", t);
        assert_ok(ps_map_add_tensor(b, name, PS_F32, (uint64_t[]){ROWS, COLS}, 2, object,
                                    t * each * 4, false, &err),
                  &err);
        w->order[t] = t;
    }
    assert_ok(ps_map_builder_finish(&w->map, b, id, &err), &err);
    assert_int_equal(w->map->n_extents, TENSORS);
}

static void end_world(struct world *w)
{
    ps_map_free(w->map);
    ps_source_close(w->source);
    free(w->bytes);
}

/* The last tensor plays the embedding: not in the order. */
static struct ps_sweep *open_sweep(struct world *w, uint32_t ring, uint32_t n_order)
{
    struct ps_sweep *s = NULL;
    struct ps_err err = {0};
    struct ps_sweep_options o = {
        .map = w->map,
        .source = w->source,
        .order = w->order,
        .n_order = n_order,
        .tier = w->tier,
        .ring_slots = ring,
        .gather_tensor = TENSORS - 1,
        .gather_slots = 1,
        .stats = &w->stats,
        .interrupt = &w->interrupt,
    };
    assert_ok(ps_sweep_open(&s, &o, &err), &err);
    return s;
}

static void check_panel(const struct ps_panel *p, uint32_t tensor)
{
    const float *f = (const float *)(const void *)p->data;
    assert_int_equal(p->extent->tensor, tensor);
    for (uint32_t r = 0; r < ROWS; r += 7)
        assert_true(f[r * COLS + 5] == value(tensor, r, 5));
}

static void one_sweep(struct ps_sweep *s, uint32_t n_order)
{
    struct ps_err err = {0};
    struct ps_panel p;
    ps_sweep_begin(s, false);
    for (uint32_t i = 0; i < n_order; i++) {
        assert_ok(ps_sweep_next(s, i, &p, &err), &err);
        check_panel(&p, i);
        ps_sweep_release(s, &p);
    }
}

static void test_streams_in_order_and_once_a_sweep(void **state)
{
    (void)state;
    for (uint32_t ring = 1; ring <= 24; ring += 5) {
        struct world w;
        make_world(&w);
        struct ps_sweep *s = open_sweep(&w, ring, TENSORS - 1);
        for (int k = 0; k < SWEEPS; k++) {
            ps_sweep_allow(s, k + 1 < SWEEPS ? 2 : 1);
            one_sweep(s, TENSORS - 1);
        }
        ps_sweep_close(s);
        for (int t = 0; t < TENSORS - 1; t++)
            assert_int_equal(w.asked[t],
                             SWEEPS); /* not one more: the look-ahead stopped at the last sweep */
        end_world(&w);
    }
}

static void test_what_is_kept_in_ram_is_asked_for_once(void **state)
{
    (void)state;
    struct world w;
    make_world(&w);
    for (int t = 0; t < TENSORS - 1; t += 2)
        w.tier[t] = PS_TIER_RAM;
    struct ps_sweep *s = open_sweep(&w, 3, TENSORS - 1);
    for (int k = 0; k < SWEEPS; k++) {
        ps_sweep_allow(s, k + 1 < SWEEPS ? 2 : 1);
        one_sweep(s, TENSORS - 1);
    }
    ps_sweep_close(s);
    for (int t = 0; t < TENSORS - 1; t++)
        assert_int_equal(w.asked[t], t % 2 ? SWEEPS : 1);
    assert_int_equal(ps_stat_get(&w.stats.extents_from_ram), (SWEEPS - 1) * 6);
    end_world(&w);
}

/* Held beside the one before it; what would have to be waited for, or takes a slot, is not given. */
static void test_residents_are_taken_together(void **state)
{
    (void)state;
    struct world w;
    struct ps_err err = {0};
    struct ps_panel a, b;
    make_world(&w);
    w.tier[1] = w.tier[2] = w.tier[3] = PS_TIER_RAM;
    struct ps_sweep *s = open_sweep(&w, 2, TENSORS - 1);
    one_sweep(s, TENSORS - 1);
    ps_sweep_begin(s, false);
    assert_false(ps_sweep_next_resident(s, 0, &a));
    assert_ok(ps_sweep_next(s, 0, &a, &err), &err);
    check_panel(&a, 0);
    ps_sweep_release(s, &a);
    assert_ok(ps_sweep_next(s, 1, &a, &err), &err);
    assert_true(ps_sweep_next_resident(s, 2, &b));
    check_panel(&a, 1);
    check_panel(&b, 2);
    ps_sweep_release(s, &a);
    assert_true(ps_sweep_next_resident(s, 3, &a));
    assert_false(ps_sweep_next_resident(s, 4, &a));
    ps_sweep_release(s, &b);
    for (uint32_t i = 4; i < TENSORS - 1; i++) {
        assert_ok(ps_sweep_next(s, i, &a, &err), &err);
        check_panel(&a, i);
        ps_sweep_release(s, &a);
    }
    ps_sweep_close(s);
    assert_int_equal(ps_stat_get(&w.stats.extents_from_ram), 3);
    end_world(&w);
}

static void check_gather(struct ps_sweep *s, const uint32_t *rows, size_t n, uint32_t tensor)
{
    struct ps_err err = {0};
    float *out = calloc(n * COLS, sizeof *out);
    assert_ok(ps_sweep_gather(s, rows, n, out, COLS, &err), &err);
    for (size_t i = 0; i < n; i++)
        assert_true(out[i * COLS + 3] == value(tensor, rows[i], 3));
    free(out);
}

static void test_gather(void **state)
{
    (void)state;
    struct world w;
    make_world(&w);
    struct ps_sweep *s = open_sweep(&w, 4, TENSORS - 1);
    const uint32_t rows[] = {63, 0, 5, 5, 17, 0};
    ps_sweep_allow(s, 2);
    check_gather(s, rows, 6, TENSORS - 1);
    assert_int_equal(w.asked[TENSORS - 1], 1); /* six rows, one extent, one request */
    one_sweep(s, TENSORS - 1);
    check_gather(s, rows + 2, 1, TENSORS - 1);
    assert_int_equal(w.asked[TENSORS - 1], 2);
    ps_sweep_close(s);
    end_world(&w);
}

/* A tied model: the gathered matrix is the last of the order too. Kept in RAM it is asked for once by whoever
 * comes first. */
static void test_gather_of_a_tied_matrix(void **state)
{
    (void)state;
    struct world w;
    make_world(&w);
    w.tier[TENSORS - 1] = PS_TIER_RAM;
    struct ps_sweep *s = open_sweep(&w, 4, TENSORS);
    const uint32_t rows[] = {1, 2};
    for (int k = 0; k < SWEEPS; k++) {
        ps_sweep_allow(s, 2);
        ps_sweep_begin(s, false);
        check_gather(s, rows, 2, TENSORS - 1);
        one_sweep(s, TENSORS);
    }
    ps_sweep_close(s);
    assert_int_equal(w.asked[TENSORS - 1], 1);
    end_world(&w);
}

/* A tied matrix that is streamed: rows kept while the head passed by cost no second request. */
static void test_stashed_rows_are_not_asked_for(void **state)
{
    (void)state;
    struct world w;
    make_world(&w);
    struct ps_sweep *s = open_sweep(&w, 4, TENSORS);
    const uint32_t rows[] = {60, 1};
    ps_sweep_allow(s, 1);
    one_sweep(s, TENSORS);
    assert_int_equal(w.asked[TENSORS - 1], 1);
    const uint8_t *head = (const uint8_t *)(w.bytes + (size_t)(TENSORS - 1) * ROWS * COLS);
    for (uint32_t r = 0; r < ROWS; r++)
        ps_sweep_stash_offer(s, r, (float)r, head + r * COLS * 4);
    check_gather(s, rows, 2, TENSORS - 1);
    assert_int_equal(w.asked[TENSORS - 1], 1);
    ps_sweep_stash_clear(s);
    check_gather(s, rows, 1, TENSORS - 1);
    assert_int_equal(w.asked[TENSORS - 1], 2);
    ps_sweep_close(s);
    end_world(&w);
}

/* The best scores stay, whatever order they come in. */
static void test_stash_keeps_the_best(void **state)
{
    (void)state;
    struct ps_row_stash st;
    uint32_t data;
    assert_int_equal(ps_row_stash_init(&st, sizeof data), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        data = i * 389 % 1000;
        ps_row_stash_offer(&st, data, (float)data, (const uint8_t *)&data);
    }
    for (uint32_t i = 0; i < 1000; i++) {
        const uint8_t *found = ps_row_stash_find(&st, i);
        assert_int_equal(found != NULL, i >= 1000 - PS_STASH_ROWS);
        if (found)
            assert_memory_equal(found, &i, sizeof i);
    }
    ps_row_stash_deinit(&st);
}

/* Everything fits: all of it waits in the arena for the consumer, and a gather must still find room to pass. */
static void test_gather_passes_a_full_look_ahead(void **state)
{
    (void)state;
    struct world w;
    make_world(&w);
    memset(w.tier, PS_TIER_RAM, TENSORS - 1);
    struct ps_sweep *s = open_sweep(&w, 1, TENSORS - 1);
    const uint32_t rows[] = {9};
    ps_sweep_allow(s, 3);
    for (int k = 0; k < SWEEPS; k++) {
        check_gather(s, rows, 1, TENSORS - 1);
        one_sweep(s, TENSORS - 1);
    }
    ps_sweep_close(s);
    end_world(&w);
}

static void test_failure_is_told_and_survived(void **state)
{
    (void)state;
    struct world w;
    make_world(&w);
    struct ps_sweep *s = open_sweep(&w, 4, TENSORS - 1);
    struct ps_err err = {0};
    struct ps_panel p;
    w.fail_tensor = 3;
    ps_sweep_allow(s, 2);
    ps_sweep_begin(s, false);
    for (uint32_t i = 0; i < 3; i++) {
        assert_ok(ps_sweep_next(s, i, &p, &err), &err);
        ps_sweep_release(s, &p);
    }
    assert_int_equal(ps_sweep_next(s, 3, &p, &err), PS_ENET);
    one_sweep(s, TENSORS - 1); /* begin() drops what the abandoned sweep had asked for */
    one_sweep(s, TENSORS - 1);
    ps_sweep_close(s);
    end_world(&w);
}

static void test_interrupt_and_close_under_way(void **state)
{
    (void)state;
    struct world w;
    make_world(&w);
    struct ps_sweep *s = open_sweep(&w, 4, TENSORS - 1);
    ps_sweep_allow(s, 2);
    ps_sweep_close(s); /* with everything in flight: no leak, no late callback */
    s = open_sweep(&w, 2, TENSORS - 1);
    one_sweep(s, TENSORS - 1);
    ps_sweep_close(s);
    end_world(&w);
    assert_int_equal(ps_alloc_live_count(), 0);
}

/* A source whose first submit is overtaken by a cancel, and which delivers nothing unless it is cancelled after. */
struct slow_source {
    struct ps_source base;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned cancels; /* lock */
    bool accepted;    /* lock */
    bool started;     /* lock */
};

static int slow_submit(struct ps_source *base, struct ps_range *r, struct ps_err *err)
{
    struct slow_source *s = (struct slow_source *)base;
    (void)err;
    (void)r;
    pthread_mutex_lock(&s->lock);
    s->started = true;
    pthread_cond_broadcast(&s->changed);
    while (s->cancels == 0)
        pthread_cond_wait(&s->changed, &s->lock);
    s->accepted = true; /* what came before was a cancel of nothing */
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void slow_cancel(struct ps_source *base, struct ps_range *r)
{
    struct slow_source *s = (struct slow_source *)base;
    pthread_mutex_lock(&s->lock);
    bool known = s->accepted;
    s->accepted = false;
    s->cancels++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (known)
        r->done(r, PS_ECANCELLED, NULL);
}

/* Closing must not wait for a range that was on its way to the source when the source was told to stop. */
static void test_close_while_a_range_is_submitted(void **state)
{
    (void)state;
    static const struct ps_source_ops ops = {.scheme = "slow",
                                             .submit = slow_submit,
                                             .cancel = slow_cancel};
    struct slow_source slow = {.base = {.ops = &ops},
                               .lock = PTHREAD_MUTEX_INITIALIZER,
                               .changed = PTHREAD_COND_INITIALIZER};
    struct world w;
    make_world(&w);
    struct ps_source *real = w.source;
    w.source = &slow.base;
    struct ps_sweep *s = open_sweep(&w, 1, TENSORS - 1); /* one slot: one range */
    ps_sweep_allow(s, 1);
    pthread_mutex_lock(&slow.lock);
    while (!slow.started)
        pthread_cond_wait(&slow.changed, &slow.lock);
    pthread_mutex_unlock(&slow.lock);
    alarm(20); /* without the second cancel this waits for ever */
    ps_sweep_close(s);
    alarm(0);
    assert_int_equal(slow.cancels, 2);
    w.source = real;
    end_world(&w);
}

struct told {
    uint64_t first, last, total;
    int n;
};

static void tell(void *user, uint64_t done, uint64_t total)
{
    struct told *t = user;
    if (t->n++ == 0)
        t->first = done;
    assert_true(t->n < 2 || done > t->last);
    t->last = done;
    t->total = total;
}

static void test_fetch_past_the_consumer(void **state)
{
    (void)state;
    struct world w;
    struct ps_err err = {0};
    struct told told = {0};
    make_world(&w);
    struct ps_sweep *s = open_sweep(&w, 3, TENSORS - 1);
    assert_ok(ps_sweep_fetch(s, w.order, TENSORS, tell, &told, &err), &err);
    assert_int_equal(told.n, 1 + TENSORS);
    assert_int_equal(told.first,
                     0); /* a rate reckoned from the first arrival on is above that of the link */
    assert_int_equal(told.last, told.total);
    for (int t = 0; t < TENSORS; t++)
        assert_int_equal(w.asked[t], 1);
    w.fail_tensor = 4;
    assert_int_equal(ps_sweep_fetch(s, w.order, TENSORS, NULL, NULL, &err), PS_ENET);
    one_sweep(s, TENSORS - 1);
    ps_sweep_close(s);
    end_world(&w);
}

/* A source that sends wrong bytes for pieces, and does so while it is told of the first of them; the whole it sends
 * right. All bytes are zero. */
struct wrong_pieces {
    struct ps_source base;
    pthread_mutex_t lock;
    struct ps_range *held[16]; /* lock */
    unsigned n;                /* lock */
    pthread_t threads[2];
    unsigned n_threads; /* lock */
    /* Relaxed, so that only the scheduler's own locks put its threads in order for the thread sanitizer. */
    atomic_uint whole, changed;
};

static void *send_pieces(void *arg)
{
    struct wrong_pieces *s = arg;
    for (unsigned i = 0; i < s->n; i++) {
        memset(s->held[i]->buf, 0xff, s->held[i]->bytes);
        s->held[i]->done(s->held[i], 0, NULL);
    }
    return NULL;
}

static void *send_whole(void *arg)
{
    struct ps_range *r = arg;
    memset(r->buf, 0, r->bytes);
    r->done(r, 0, NULL);
    return NULL;
}

static int wrong_submit(struct ps_source *base, struct ps_range *r, struct ps_err *err)
{
    struct wrong_pieces *s = (struct wrong_pieces *)base;
    (void)err;
    if (r->alone) {
        pthread_mutex_lock(&s->lock);
        s->held[s->n++] = r;
        pthread_mutex_unlock(&s->lock);
        return 0;
    }
    pthread_create(&s->threads[1], NULL, send_whole, r);
    atomic_store_explicit(&s->whole, 1, memory_order_relaxed);
    return 0;
}

static void wrong_await(struct ps_source *base, struct ps_range *r)
{
    struct wrong_pieces *s = (struct wrong_pieces *)base;
    const uint64_t bytes = r->bytes, until_ns = ps_now_ns() + 20 * PS_NS_PER_S;
    pthread_mutex_lock(&s->lock);
    const bool first = s->n_threads == 0;
    s->n_threads += first;
    pthread_mutex_unlock(&s->lock);
    if (!first)
        return;
    pthread_create(&s->threads[0], NULL, send_pieces, s);
    while (!atomic_load_explicit(&s->whole, memory_order_relaxed) && ps_now_ns() < until_ns)
        continue;
    atomic_store_explicit(&s->changed, r->bytes != bytes || !r->alone, memory_order_relaxed);
}

static void wrong_cancel(struct ps_source *base, struct ps_range *r)
{
    (void)base;
    (void)r;
}

/* What a source is told of stays what it was while it is told, also if it came wrong and is asked for again. */
static void test_wrong_pieces_while_the_source_is_told(void **state)
{
    (void)state;
    enum { EXTENTS = 65, BYTES = 512 << 10 };
    static const struct ps_source_ops ops = {.scheme = "wrong",
                                             .submit = wrong_submit,
                                             .cancel = wrong_cancel,
                                             .await = wrong_await};
    struct wrong_pieces wrong = {.base = {.ops = &ops}, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct ps_map_builder *b = NULL;
    struct ps_map *map = NULL;
    struct ps_sweep *s = NULL;
    struct ps_stats stats = {0};
    struct ps_err err = {0};
    struct ps_panel p;
    uint32_t object;
    const uint8_t id[32] = {2}, tier[EXTENTS] = {0};
    const uint64_t shape[] = {EXTENTS * 128, COLS};
    assert_ok(ps_map_builder_new(&b), NULL);
    assert_ok(ps_map_add_object(b, "m", (uint64_t)EXTENTS * BYTES, NULL, "m1", &object, &err), &err);
    assert_ok(ps_map_add_tensor(b, "t", PS_F32, shape, 2, object, 0, false, &err), &err);
    assert_ok(ps_map_builder_finish(&map, b, id, &err), &err);
    assert_int_equal(map->n_extents, EXTENTS);
    assert_int_equal(map->extents[0].stored_bytes, BYTES);
    uint8_t *zeros = calloc(1, BYTES);
    ps_sha256_once(zeros, BYTES, map->extents[0].key);
    map->extents[0].hashed = true;
    free(zeros);
    const struct ps_sweep_options o = {.map = map,
                                       .source = &wrong.base,
                                       .order = (uint32_t[]){0},
                                       .n_order = 1,
                                       .tier = tier,
                                       .ring_slots = 1,
                                       .gather_tensor = 0,
                                       .gather_slots = 1,
                                       .stats = &stats};
    assert_ok(ps_sweep_open(&s, &o, &err), &err);
    ps_sweep_allow(s, 1);
    ps_sweep_begin(s, false);
    assert_ok(ps_sweep_next(s, 0, &p, &err), &err);
    assert_int_equal(p.data[BYTES - 1], 0);
    ps_sweep_release(s, &p);
    assert_int_equal(wrong.n, 2);
    assert_int_equal(wrong.changed, 0);
    for (int i = 0; i < 2; i++)
        pthread_join(wrong.threads[i], NULL);
    ps_sweep_close(s);
    ps_map_free(map);
}

/* A source that sends nothing before it has been told that `expected` ranges are waited for, or some time is over. */
struct layer_source {
    struct ps_source base;
    pthread_mutex_t lock;
    struct ps_range *held[16]; /* lock */
    unsigned n, n_awaited;     /* lock */
    bool awaited[16];          /* lock: by number of the extent */
    unsigned expected;
    size_t extent_bytes;
};

static int layer_submit(struct ps_source *base, struct ps_range *r, struct ps_err *err)
{
    struct layer_source *s = (struct layer_source *)base;
    (void)err;
    pthread_mutex_lock(&s->lock);
    s->held[s->n++] = r;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void layer_await(struct ps_source *base, struct ps_range *r)
{
    struct layer_source *s = (struct layer_source *)base;
    pthread_mutex_lock(&s->lock);
    bool *a = &s->awaited[r->offset / s->extent_bytes];
    s->n_awaited += !*a;
    *a = true;
    pthread_mutex_unlock(&s->lock);
}

static void *layer_main(void *arg)
{
    struct layer_source *s = arg;
    const uint64_t until_ns = ps_now_ns() + 2 * PS_NS_PER_S;
    for (bool all = false; !all && ps_now_ns() < until_ns; sched_yield()) {
        pthread_mutex_lock(&s->lock);
        all = s->n_awaited >= s->expected;
        pthread_mutex_unlock(&s->lock);
    }
    for (unsigned i = 0; i < s->n; i++) {
        memset(s->held[i]->buf, 0, s->held[i]->bytes);
        s->held[i]->done(s->held[i], 0, NULL);
    }
    return NULL;
}

/* Of the layer that the arithmetic stands at, the source is told all that is missing, and of the next one nothing. */
static void test_all_of_a_layer_is_waited_for(void **state)
{
    (void)state;
    enum { BYTES = 64 << 10, IN_ORDER = 5, EXTENTS = 6 };
    static const char *const names[EXTENTS] = {"layers.0.a", "layers.0.b", "layers.0.c",
                                               "layers.1.a", "layers.1.b", "embedding"};
    static const struct ps_source_ops ops = {.scheme = "layer",
                                             .submit = layer_submit,
                                             .cancel = wrong_cancel,
                                             .await = layer_await};
    struct layer_source source = {.base = {.ops = &ops},
                                  .lock = PTHREAD_MUTEX_INITIALIZER,
                                  .expected = 3,
                                  .extent_bytes = BYTES};
    struct ps_map_builder *b = NULL;
    struct ps_map *map = NULL;
    struct ps_sweep *s = NULL;
    struct ps_stats stats = {0};
    struct ps_err err = {0};
    struct ps_panel p;
    uint32_t object;
    pthread_t sender;
    const uint8_t id[32] = {3}, tier[EXTENTS] = {0};
    assert_ok(ps_map_builder_new(&b), NULL);
    assert_ok(ps_map_add_object(b, "m", EXTENTS * BYTES, NULL, "m1", &object, &err), &err);
    for (uint64_t i = 0; i < EXTENTS; i++)
        assert_ok(ps_map_add_tensor(b, names[i], PS_F32, (uint64_t[]){16, COLS}, 2, object,
                                    i * BYTES, false, &err),
                  &err);
    assert_ok(ps_map_builder_finish(&map, b, id, &err), &err);
    assert_int_equal(map->n_extents, EXTENTS);
    const struct ps_sweep_options o = {.map = map,
                                       .source = &source.base,
                                       .order = (uint32_t[]){0, 1, 2, 3, 4},
                                       .n_order = IN_ORDER,
                                       .tier = tier,
                                       .ring_slots = IN_ORDER,
                                       .gather_tensor = EXTENTS - 1,
                                       .gather_slots = 1,
                                       .stats = &stats};
    assert_ok(ps_sweep_open(&s, &o, &err), &err);
    ps_sweep_allow(s, 1);
    ps_sweep_begin(s, false);
    const uint64_t until_ns = ps_now_ns() + 20 * PS_NS_PER_S;
    for (bool all = false; !all && ps_now_ns() < until_ns; sched_yield()) {
        pthread_mutex_lock(&source.lock);
        all = source.n == IN_ORDER;
        pthread_mutex_unlock(&source.lock);
    }
    assert_int_equal(pthread_create(&sender, NULL, layer_main, &source), 0);
    assert_ok(ps_sweep_next(s, 0, &p, &err), &err);
    pthread_join(sender, NULL);
    ps_sweep_release(s, &p);
    for (unsigned i = 0; i < EXTENTS; i++)
        assert_int_equal(source.awaited[i], i < source.expected);
    ps_sweep_close(s);
    ps_map_free(map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_in_order_and_once_a_sweep),
        cmocka_unit_test(test_what_is_kept_in_ram_is_asked_for_once),
        cmocka_unit_test(test_residents_are_taken_together),
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_gather_of_a_tied_matrix),
        cmocka_unit_test(test_stashed_rows_are_not_asked_for),
        cmocka_unit_test(test_stash_keeps_the_best),
        cmocka_unit_test(test_gather_passes_a_full_look_ahead),
        cmocka_unit_test(test_failure_is_told_and_survived),
        cmocka_unit_test(test_interrupt_and_close_under_way),
        cmocka_unit_test(test_close_while_a_range_is_submitted),
        cmocka_unit_test(test_fetch_past_the_consumer),
        cmocka_unit_test(test_wrong_pieces_while_the_source_is_told),
        cmocka_unit_test(test_all_of_a_layer_is_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
