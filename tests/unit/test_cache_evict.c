/* What leaves first, and what never leaves. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/alloc.h"
#include "cache/evict.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define BUDGET (4ull << 20)
#define EACH   32768u
#define CAP    65536u

static _Alignas(4096) uint8_t buf[CAP];

/* ---- the order, pure ---- */

static void test_score(void **state)
{
    (void)state;
    const struct ps_evict_facts other = {.use_order = 5, .rank = 10},
                                older = {.use_order = 4, .rank = 10},
                                behind = {.use_order = 5, .rank = 11}, pinned = {.pinned = true},
                                planned = {.own = true, .has_plan = true, .planned = true},
                                unplanned = {.own = true, .has_plan = true, .use_order = 1},
                                no_plan = {.own = true}, live = {.live_elsewhere = true},
                                greedy = {.live_elsewhere = true, .above_share = true},
                                lower = {.live_elsewhere = true, .relation = -1, .use_order = 99},
                                higher = {.relation = 1},
                                foreign_wanted = {.use_order = 1, .planned = true};
    assert_true(ps_evict_score(&older) < ps_evict_score(&other));
    assert_true(ps_evict_score(&behind) < ps_evict_score(&other));
    assert_true(ps_evict_score(&other) < ps_evict_score(&unplanned));
    assert_true(ps_evict_score(&unplanned) < ps_evict_score(&greedy));
    assert_true(ps_evict_score(&greedy) < PS_EVICT_KEEP);
    assert_true(ps_evict_score(&lower) < ps_evict_score(&older)); /* also while others use it */
    const struct ps_evict_facts *keep[] = {&pinned, &planned, &no_plan,
                                           &live,   &higher,  &foreign_wanted};
    for (size_t i = 0; i < TEST_COUNT(keep); i++) {
        struct ps_evict_facts f = *keep[i];
        assert_true(ps_evict_score(&f) == PS_EVICT_KEEP);
        f.shrinking = true;
        assert_true(ps_evict_score(&f) < PS_EVICT_KEEP);
        assert_true(ps_evict_score(&f) > ps_evict_score(&greedy));
    }
    struct ps_evict_facts p = pinned, q = planned;
    p.shrinking = q.shrinking = true;
    assert_true(ps_evict_score(&q) < ps_evict_score(&p)); /* pins go last */
}

static void test_lowest_of_many(void **state)
{
    (void)state;
    struct ps_evict_victim items[10];
    struct ps_evict_list l = {.items = items, .cap = 10};
    struct ps_keyed_record k = {.rec = {.bytes = 1}};
    for (uint32_t i = 0; i < 1000; i++) {
        k.rec.slot = i * 7 % 1000;
        ps_evict_offer(&l, k.rec.slot, &k);
        ps_evict_offer(&l, PS_EVICT_KEEP, &k);
    }
    ps_evict_sort(&l);
    assert_int_equal(l.n, 10);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(l.items[i].score, i);
        assert_int_equal(l.items[i].kept.rec.slot, i);
    }
}

/* ---- on a folder ---- */

static void pin(struct ps_cache *c, uint64_t number, bool pinned)
{
    uint8_t id[PS_SHA256_BYTES];
    crash_model_id(number, id);
    assert_int_equal(ps_cache_pin(c, id, pinned, NULL), 0);
}

/* Stores extents [from, from + n) of a model in an opening of its own; how many were admitted. */
static unsigned fill(uint64_t model, uint64_t from, unsigned n)
{
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = crash_model(c, model);
    unsigned ok = 0;
    for (unsigned i = 0; i < n; i++) {
        const int rc = crash_store(c, m, from + i, 0, buf, EACH);
        assert_true(rc == 0 || rc == PS_EBUDGET);
        ok += rc == 0;
    }
    ps_cache_close(c);
    return ok;
}

static unsigned held(struct ps_cache *c, uint64_t from, unsigned n)
{
    unsigned k = 0;
    for (unsigned i = 0; i < n; i++)
        k += crash_holds(c, from + i);
    return k;
}

static void test_least_recently_used_model_first(void **state)
{
    (void)state;
    assert_int_equal(fill(1, 1000, 30), 30);
    assert_int_equal(fill(2, 2000, 30), 30);
    assert_int_equal(fill(1, 1030, 1), 1); /* model 1 is now the younger */
    assert_int_equal(fill(3, 3000, 65), 65);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const unsigned one = held(c, 1000, 31), two = held(c, 2000, 30);
    printf("    kept: %u of the younger model, %u of the older\n", one, two);
    assert_int_equal(held(c, 3000, 65), 65);
    assert_true(two < 30);
    assert_true(one == 31 || two == 0);
    ps_cache_close(c);
    assert_int_equal(fill(4, 4000, 90), 90); /* everything else goes */
}

static void test_pinned_stays(void **state)
{
    (void)state;
    assert_int_equal(fill(1, 1000, 40), 40);
    assert_int_equal(fill(2, 2000, 40), 40);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    pin(c, 1, true);
    uint8_t id[PS_SHA256_BYTES];
    crash_model_id(99, id);
    assert_int_equal(ps_cache_pin(c, id, true, NULL), PS_ENOTFOUND);
    ps_cache_close(c);
    const unsigned ok = fill(3, 3000, 120);
    c = crash_open(test_dir, BUDGET);
    assert_int_equal(held(c, 1000, 40), 40);
    assert_int_equal(held(c, 2000, 40), 0);
    assert_true(ok < 120 && ok > 40);
    assert_int_equal(held(c, 3000, 120), ok);
    /* The usable share knows of the pin. */
    crash_model(c, 3);
    assert_true(ps_cache_usable_bytes(c, 80) < BUDGET - 40 * EACH);
    pin(c, 1, false);
    assert_true(ps_cache_usable_bytes(c, 80) > BUDGET - 40 * EACH - (900u << 10));
    ps_cache_close(c);
    assert_int_equal(fill(4, 4000, 90), 90);
}

static void set_plan(struct ps_cache *c, uint32_t m, uint64_t from, size_t n)
{
    uint8_t(*keys)[PS_SHA256_BYTES] = ps_malloc(n * PS_SHA256_BYTES);
    for (size_t i = 0; i < n; i++)
        crash_extent_key(from + i, keys[i]);
    assert_int_equal(ps_cache_set_plan(c, m, (const uint8_t(*)[PS_SHA256_BYTES])keys, n, NULL), 0);
    ps_free(keys);
}

static void test_plan_is_kept(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = crash_model(c, 1);
    unsigned ok = 0;
    for (unsigned i = 0; i < 200; i++)
        ok += crash_store(c, m, i, 0, buf, EACH) == 0;
    assert_int_equal(held(c, 0, 200),
                     0 + held(c, 0, ok)); /* the first that came; without a plan none of them goes */
    assert_true(ok > 60 && ok < 128);
    set_plan(c, m, ok - 20, 90); /* 20 that are there, 70 that are not */
    for (unsigned i = ok; i < ok + 70; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, EACH), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    assert_int_equal(held(c, ok - 20, 90), 90);
    /* Others come into each other's place or not at all, as the batches fall; nothing planned leaves. */
    for (unsigned i = 5000; i < 5100; i++) {
        const int rc = crash_store(c, m, i, 0, buf, EACH);
        assert_true(rc == 0 || rc == PS_EBUDGET);
    }
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    assert_int_equal(held(c, ok - 20, 90), 90);
    assert_true(held(c, 5000, 100) < 60);
    ps_cache_close(c);
}

/* Extents of another model that our plan names (a shared hash) stay. */
static void test_shared_extent_is_kept(void **state)
{
    (void)state;
    assert_int_equal(fill(1, 1000, 60), 60);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = crash_model(c, 2);
    set_plan(c, m, 1050, 100); /* 1050..1059 are model 1's */
    for (unsigned i = 1060; i < 1140; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, EACH), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    assert_int_equal(held(c, 1050, 90), 90);
    assert_true(held(c, 1000, 50) < 50);
    ps_cache_close(c);
}

/* A smaller budget leaves the front of the plan. */
static void test_shrink_keeps_front_of_plan(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = crash_model(c, 1);
    set_plan(c, m, 0, 90);
    for (unsigned i = 0; i < 90; i++)
        assert_int_equal(crash_store(c, m, i, 0, buf, EACH), 0);
    ps_cache_close(c);
    c = crash_open(test_dir, BUDGET / 2);
    const unsigned left = held(c, 0, 90);
    assert_true(left > 20 && left < 60);
    assert_int_equal(held(c, 0, left), left);
    ps_cache_close(c);
}

static uint32_t open_model_as(struct ps_cache *c, uint64_t number, int priority)
{
    uint8_t id[PS_SHA256_BYTES];
    uint32_t model;
    crash_model_id(number, id);
    const struct ps_cache_model_options o = {.id = id,
                                             .source_label = "label",
                                             .n_layers = 1,
                                             .has_priority = true,
                                             .priority = priority};
    assert_int_equal(ps_cache_model_open_as(c, &o, &model, NULL), 0);
    return model;
}

/* Fills as far as it is let, as a model of some priority (the number behind the role). 0: something was taken. */
static int child_works(const char *role, const char *folder, uint64_t model, uint64_t from)
{
    snprintf(test_dir, sizeof test_dir, "%s", folder);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = open_model_as(c, model, atoi(role + strlen("work")));
    unsigned ok = 0;
    for (unsigned i = 0; i < 120; i++)
        ok += crash_store(c, m, from + i, 0, buf, EACH) == 0;
    ps_cache_close(c);
    return ok > 0 ? 0 : 1;
}

/* A process that works on a model of a higher priority takes what ours holds, and one of a lower priority gets nothing
 * of it; the room that a plan may count on says so beforehand. */
static void test_priorities(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = crash_model(c, 1);
    for (unsigned i = 0; i < 120; i++)
        (void)crash_store(c, m, 1000 + i, 0, buf, EACH);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    const unsigned before = held(c, 1000, 120);
    const uint64_t usable = ps_cache_usable_bytes(c, 120);
    assert_false(crash_wait(crash_spawn("work-5", test_dir, 2, 2000)));
    assert_int_equal(held(c, 1000, 120), before);
    assert_int_equal(held(c, 2000, 120), 0);
    assert_int_equal(ps_cache_usable_bytes(c, 120), usable);
    assert_true(crash_wait(crash_spawn("work7", test_dir, 3, 3000)));
    const unsigned left = held(c, 1000, 120), taken = held(c, 3000, 120);
    printf("    alone %u; beside a higher one %u, that one %u\n", before, left, taken);
    assert_true(taken >= before - 2 && left <= 2);
    const uint64_t now = ps_cache_usable_bytes(c, 120);
    assert_true(now < usable - taken * EACH + (512u << 10)); /* it is gone now, and still stays */
    assert_int_equal(crash_store(c, m, 5000, 0, buf, EACH), PS_EBUDGET);
    /* As long as ours is the lower one. */
    (void)open_model_as(c, 1, 8);
    assert_int_equal(crash_store(c, m, 5000, 0, buf, EACH), 0);
    assert_true(held(c, 3000, 120) < taken);
    uint8_t id[PS_SHA256_BYTES];
    uint32_t model = 77;
    crash_model_id(1, id);
    const struct ps_cache_model_options wrong = {.id = id, .has_priority = true, .priority = 101};
    assert_int_equal(ps_cache_model_open_as(c, &wrong, &model, NULL), PS_EUSAGE);
    assert_int_equal(model, 77);
    ps_cache_close(c);
    c = crash_open(test_dir, 2u << 20); /* a smaller limit: the lowest go first, the highest last */
    assert_int_equal(held(c, 1000, 120), left);
    ps_cache_close(c);
}

/* ---- what is worth more, pure ---- */

static void test_fading(void **state)
{
    (void)state;
    const uint64_t day = PS_EVICT_HALF_S, tera = 1ull << 40;
    assert_int_equal(ps_evict_faded(tera, 0), tera);
    assert_int_equal(ps_evict_faded(tera, day), tera / 2);
    assert_int_equal(ps_evict_faded(tera, 3 * day), tera / 8);
    assert_int_equal(ps_evict_faded(UINT64_MAX, 64 * day), 0);
    assert_int_equal(ps_evict_faded(1, day), 0);
    uint64_t before = UINT64_MAX;
    for (uint64_t age = 0; age < 70 * day; age += 5000) { /* falls, near the curve */
        const uint64_t now = ps_evict_faded(UINT64_MAX, age);
        assert_true(now <= before);
        before = now;
    }
    assert_true(ps_evict_faded(1000000, day / 2) > 707107 &&
                ps_evict_faded(1000000, day / 2) < 750001);
}

static void test_worth(void **state)
{
    (void)state;
    const uint64_t now = 1000 * PS_EVICT_HALF_S;
    assert_int_equal(ps_evict_worth(0, 100), 0);
    assert_int_equal(ps_evict_worth(100, 0), 0);
    assert_true(ps_evict_worth(UINT64_MAX, 1) >= 60);
    assert_true(ps_evict_worth(100, 100) == ps_evict_worth(99, 100)); /* about equal */
    assert_true(ps_evict_worth(400, 100) > ps_evict_worth(100, 100));
    struct ps_model used = {.padded_bytes = 100, .saved_bytes = 10000, .saved_at_s = now, .last_use = 1},
                    idle = {.padded_bytes = 100, .saved_bytes = 100, .saved_at_s = now, .last_use = 2};
    /* Used a hundred times, though not last; a week later they are alike, and the last use decides. */
    assert_true(ps_evict_model_before(&idle, &used, now));
    assert_false(ps_evict_model_before(&used, &idle, now));
    used.saved_bytes = 100;
    assert_true(ps_evict_model_before(&used, &idle, now));
    /* A model of four times the size with the same use is worth less a byte. */
    used =
        (struct ps_model){.padded_bytes = 400, .saved_bytes = 400, .saved_at_s = now, .last_use = 9};
    idle.saved_bytes = 400;
    assert_true(ps_evict_model_before(&used, &idle, now));
    /* A priority beats all use; a wall clock that was set back does no harm. */
    used.priority = 1;
    assert_true(ps_evict_model_before(&idle, &used, now));
    assert_true(ps_evict_model_before(&idle, &used, now - 999));
}

/* Two models that nobody uses: the one that was read more stays, though the other was used last. */
static void test_used_model_stays(void **state)
{
    (void)state;
    assert_int_equal(fill(1, 1000, 30), 30);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    (void)crash_model(c, 1);
    for (unsigned k = 0; k < 20; k++)
        for (unsigned i = 0; i < 30; i++)
            assert_int_equal(crash_load(c, 1000 + i, buf, EACH, CAP), 0);
    ps_cache_close(c);
    assert_int_equal(fill(2, 2000, 30), 30);
    assert_true(fill(3, 3000, 80) >= 60);
    c = crash_open(test_dir, BUDGET);
    const unsigned one = held(c, 1000, 30), two = held(c, 2000, 30);
    printf("    of 30: %u of the model that is used, %u of the other\n", one, two);
    assert_true(one > two && one >= 20);
    ps_cache_close(c);
}

/* Two live processes: neither pushes the other below its share. */
static void test_live_model_keeps_its_share(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    const uint32_t m = crash_model(c, 1);
    for (unsigned i = 0; i < 120; i++)
        (void)crash_store(c, m, 1000 + i, 0, buf, EACH);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
    const unsigned before = held(c, 1000, 120);
    assert_true(crash_wait(crash_spawn("work0", test_dir, 2, 2000)));
    const unsigned ours = held(c, 1000, 120), theirs = held(c, 2000, 120);
    printf("    alone %u, then %u and %u\n", before, ours, theirs);
    assert_true(ours * EACH > BUDGET / 2 - (512u << 10));
    assert_true(theirs > 20);
    ps_cache_close(c);
}

/* ---- large extents into the place of small ones, from several threads ---- */

#define LARGE_BUDGET  (20ull << 20)
#define LARGE_COUNT   24u /* 18 MB of the 20 MiB */
#define LARGE_THREADS 24u
#define LARGE_MOST    1769472u
#define LARGE_ROUNDS  8u
#define SMALL         4000u

struct larges {
    struct ps_cache *c;
    uint32_t model;
    uint64_t from;
    atomic_uint next, refused;
};

/* A real model's sizes, mixed as its layers mix them: a small one slips into the room that was made for a large one. */
static size_t large_bytes(unsigned i)
{
    static const size_t sizes[] = {LARGE_MOST, 663552, 221184, 110592};
    return sizes[i % TEST_COUNT(sizes)];
}

static void *store_larges(void *arg)
{
    struct larges *l = arg;
    uint8_t *bytes = ps_malloc(LARGE_MOST);
    for (unsigned i; (i = atomic_fetch_add(&l->next, 1)) < LARGE_COUNT;)
        if (!bytes || crash_store(l->c, l->model, l->from + i, 0, bytes, large_bytes(i)) != 0)
            atomic_fetch_add(&l->refused, 1);
    ps_free(bytes);
    return NULL;
}

/* What one thread evicts for itself another may take first; each asks again as long as something can go, so that a
 * model which fits is held whole, however the threads fall. */
static void test_large_ones_for_small(void **state)
{
    (void)state;
    for (unsigned round = 0; round < LARGE_ROUNDS; round++) {
        struct ps_cache *c = crash_open(test_dir, LARGE_BUDGET);
        const uint32_t small = crash_model(c, 100 + round);
        for (unsigned i = 0; i < SMALL; i++)
            (void)crash_store(c, small, 100000 * (round + 1) + i, 0, buf, EACH);
        ps_cache_close(c);
        c = crash_open(test_dir, LARGE_BUDGET);
        struct larges l = {.c = c, .model = crash_model(c, 200 + round), .from = 1000 * (round + 1)};
        set_plan(c, l.model, l.from, LARGE_COUNT);
        pthread_t t[LARGE_THREADS];
        for (unsigned i = 0; i < LARGE_THREADS; i++)
            assert_int_equal(pthread_create(&t[i], NULL, store_larges, &l), 0);
        for (unsigned i = 0; i < LARGE_THREADS; i++)
            assert_int_equal(pthread_join(t[i], NULL), 0);
        assert_int_equal(l.refused, 0);
        assert_int_equal(ps_cache_flush(c, NULL), 0);
        assert_int_equal(held(c, l.from, LARGE_COUNT), LARGE_COUNT);
        uint64_t freed;
        assert_int_equal(ps_cache_evict(c, NULL, &freed, NULL), 0);
        ps_cache_close(c);
    }
}

static void test_evict_by_hand(void **state)
{
    (void)state;
    uint8_t id[PS_SHA256_BYTES], found[PS_SHA256_BYTES];
    char hex[2 * PS_SHA256_BYTES + 1];
    uint64_t freed = 0;
    fill(1, 1000, 30);
    fill(2, 2000, 20);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    crash_model_id(1, id);
    ps_hex_encode(id, PS_SHA256_BYTES, hex);
    hex[9] = 0;
    assert_int_equal(ps_cache_find_model(c, hex, found, NULL), 0);
    assert_memory_equal(found, id, sizeof id);
    assert_int_equal(ps_cache_find_model(c, "label", found, NULL), PS_EUSAGE);
    assert_int_equal(ps_cache_find_model(c, "nothing", found, NULL), PS_ENOTFOUND);
    pin(c, 1, true);
    assert_int_equal(ps_cache_evict(c, NULL, &freed, NULL), 0); /* all but the pinned */
    assert_int_equal(freed, 20 * EACH);
    assert_int_equal(held(c, 1000, 30), 30);
    assert_int_equal(held(c, 2000, 20), 0);
    assert_int_equal(ps_cache_find_model(c, "label", found, NULL), 0);
    pin(c, 1, false);
    assert_int_equal(ps_cache_evict(c, id, &freed, NULL), 0);
    assert_int_equal(freed, 30 * EACH);
    assert_int_equal(held(c, 1000, 30), 0);
    assert_int_equal(ps_cache_evict(c, id, &freed, NULL), PS_ENOTFOUND);
    assert_int_equal(ps_cache_find_model(c, "label", found, NULL), PS_ENOTFOUND);
    ps_cache_close(c);
}

static void found_none(struct ps_cache *c, const char *text, int code, const char *const *says)
{
    uint8_t id[PS_SHA256_BYTES];
    struct ps_err err = {0};
    assert_int_equal(ps_cache_find_model(c, text, id, &err), code);
    assert_int_equal(err.code, code);
    for (; *says; says++)
        if (!strstr(err.text, *says))
            fail_msg("%s: %s lacks %s", text, err.text, *says);
}

static void first_digits(char *out, uint64_t number, size_t digits)
{
    uint8_t id[PS_SHA256_BYTES];
    char hex[2 * PS_SHA256_BYTES + 1];
    crash_model_id(number, id);
    ps_hex_encode(id, PS_SHA256_BYTES, hex);
    memcpy(out, hex, digits);
    out[digits] = '\0';
}

/* What fits several models, or is too short, is told with those that it may be; what nothing is left of is not among
 * them. */
static void test_ambiguous(void **state)
{
    (void)state;
    char a[16], b[16], text[16];
    uint8_t id[PS_SHA256_BYTES], found[PS_SHA256_BYTES];
    uint64_t twin = 2;
    fill(1, 1000, 3);
    first_digits(a, 1, 12);
    for (first_digits(b, twin, 12); memcmp(a, b, 1) != 0; first_digits(b, twin, 12))
        twin++; /* another id that begins with the same digit */
    fill(twin, 2000, 3);
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    found_none(c, "label", PS_EUSAGE, (const char *[]){"label is ambiguous", a, b, "(label)", NULL});
    first_digits(text, 1, 1);
    found_none(c, text, PS_EUSAGE, (const char *[]){"is ambiguous", a, b, "at least 4", NULL});
    found_none(c, "", PS_ENOTFOUND, (const char *[]){"holds no model", NULL});
    found_none(c, "x", PS_ENOTFOUND, (const char *[]){"holds no model x", NULL});
    first_digits(text, 1, 3);
    found_none(c, text, PS_EUSAGE, (const char *[]){a, "at least 4", NULL});
    (void)crash_model(c, twin + 1); /* with nothing in it, as of a run that was stopped at once */
    first_digits(text, twin + 1, 12);
    uint64_t freed;
    crash_model_id(twin, id);
    assert_int_equal(ps_cache_evict(c, id, &freed, NULL), 0);
    crash_model_id(1, id);
    assert_int_equal(ps_cache_find_model(c, "label", found, NULL), 0);
    assert_memory_equal(found, id, sizeof id);
    crash_model_id(twin + 1, id);
    assert_int_equal(ps_cache_find_model(c, text, found, NULL), 0); /* it is there, and may be pinned */
    assert_memory_equal(found, id, sizeof id);
    for (uint64_t i = 2; i < 6; i++) {
        (void)crash_model(c, twin + i);
        pin(c, twin + i, true);
    }
    struct ps_err err = {0};
    assert_int_equal(ps_cache_find_model(c, "label", found, &err), PS_EUSAGE);
    assert_non_null(strstr(err.text, " and 2 more: give"));
    ps_cache_close(c);
}

int main(int argc, char **argv)
{
    if (argc == 5)
        return child_works(argv[1], argv[2], strtoull(argv[3], NULL, 10),
                           strtoull(argv[4], NULL, 10));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_score),
        cmocka_unit_test(test_lowest_of_many),
        cmocka_unit_test(test_fading),
        cmocka_unit_test(test_worth),
        cmocka_unit_test_setup_teardown(test_least_recently_used_model_first, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_pinned_stays, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_plan_is_kept, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_shared_extent_is_kept, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_shrink_keeps_front_of_plan, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_live_model_keeps_its_share, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_large_ones_for_small, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_priorities, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_used_model_stays, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_evict_by_hand, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_ambiguous, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
