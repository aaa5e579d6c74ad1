/* The window of requests that a host gets, against simulated servers: one that is healthy, one that says 429 above some
 * number, one whose goodput collapses, a link that becomes slower. */
#include "tests/support/test.h"

#include "fetcher/aimd.h"
#include "fetcher/rate_limit.h"

#define MS 1000000ull
#define S  1000000000ull

/* One tick each 50 ms: `active` requests, each of which succeeds four times a second; goodput of active(n) bytes/s. */
struct world {
    struct ps_aimd a;
    uint64_t now, bytes;
    unsigned changes;
};

static void live(struct world *w, uint64_t seconds, double (*goodput)(unsigned active))
{
    for (uint64_t end = w->now + seconds * S; w->now < end; w->now += 50 * MS) {
        unsigned active = w->a.window;
        w->bytes += (uint64_t)(goodput(active) / 20);
        for (unsigned i = 0; i < active; i++)
            if ((w->now / (50 * MS) + i) % 5 == 0)
                ps_aimd_succeeded(&w->a);
        w->changes += ps_aimd_tick(&w->a, w->bytes, active, true, w->now);
    }
}

static struct world born(unsigned max)
{
    struct world w = {.now = S};
    ps_aimd_init(&w.a, max);
    return w;
}

static double each_20(unsigned n)
{
    return 20e6 * n;
}
static double shared_100(unsigned n)
{
    (void)n;
    return 100e6;
}
static double each_5(unsigned n)
{
    return 5e6 * n;
}
static double shared_30(unsigned n)
{
    (void)n;
    return 30e6;
}
static double best_at_4(unsigned n) /* more of them get in each other's way */
{
    return n <= 4 ? 20e6 * n : 80e6 / (n - 3);
}

static void test_healthy_is_left_alone(void **state)
{
    (void)state;
    struct world w = born(8);
    live(&w, 300, each_20);
    assert_int_equal(w.changes, 0);
    live(&w, 300, shared_100);
    assert_int_equal(w.a.window, 8);
    assert_int_equal(w.a.least, 8);
}

static void test_slower_link_costs_one_trial(void **state)
{
    (void)state;
    struct world w = born(8);
    live(&w, 20, each_20);
    live(&w, 100, each_5); /* each connection is slower: fewer would be worse */
    assert_int_equal(w.a.window, 8);
    assert_true(w.changes <= 2);
    assert_int_equal(w.a.least, 6);
    live(&w, 20, each_20);
    assert_int_equal(w.a.window, 8);
}

static void test_shared_link_gets_slower(void **state)
{
    (void)state;
    struct world w = born(8);
    live(&w, 20, shared_100);
    live(&w, 10, shared_30);
    assert_true(w.a.window >= 6); /* fewer bring as much: not more of them than help */
}

static void test_collapse(void **state)
{
    (void)state;
    struct world w = born(8);
    live(&w, 20, each_20);
    live(&w, 120, best_at_4);
    assert_in_range(w.a.window, 1, 7);
}

static void test_throttled(void **state)
{
    (void)state;
    struct world w = born(8);
    uint64_t began = w.now;
    w.now += S;
    ps_aimd_throttled(&w.a, began, w.now);
    assert_int_equal(w.a.window, 4);
    for (int i = 0; i < 7; i++) /* the others that were under way say the same */
        ps_aimd_throttled(&w.a, began, w.now + 10 * MS);
    assert_int_equal(w.a.window, 4);
    ps_aimd_throttled(&w.a, w.now + S, w.now + 2 * S);
    ps_aimd_throttled(&w.a, w.now + 3 * S, w.now + 4 * S);
    ps_aimd_throttled(&w.a, w.now + 5 * S, w.now + 6 * S);
    assert_int_equal(w.a.window, 1); /* never none */
    w.now += 6 * S;
    live(&w, 30, each_20); /* one more for each good epoch, as an experiment that pays */
    assert_int_equal(w.a.window, 8);
    assert_int_equal(w.a.least, 1);
}

/* A server that refuses above five requests at once: the window hovers there and most requests succeed. */
static void test_finds_a_limit(void **state)
{
    (void)state;
    struct world w = born(16);
    uint64_t over = 0, all = 0;
    for (unsigned second = 0; second < 200; second++) {
        unsigned active = w.a.window;
        if (active > 5) {
            ps_aimd_throttled(&w.a, w.now, w.now + MS);
            over++;
        }
        all++;
        live(&w, 1, each_20);
    }
    assert_in_range(w.a.window, 2, 6);
    assert_true(over * 3 < all);
}

static void test_nothing_to_ask_for_tells_nothing(void **state)
{
    (void)state;
    struct world w = born(8);
    live(&w, 20, each_20);
    for (uint64_t end = w.now + 60 * S; w.now < end;
         w.now += 50 * MS) { /* the ring is full: little is asked for */
        w.bytes += 10000;
        ps_aimd_succeeded(&w.a);
        assert_false(ps_aimd_tick(&w.a, w.bytes, 1, false, w.now));
    }
    assert_int_equal(w.a.window, 8);
}

static void test_rate_bucket(void **state)
{
    (void)state;
    struct ps_rate_bucket b = {.bytes_per_s = 1000000};
    uint64_t now = 100 * S, got = 0;
    for (uint64_t end = now + 10 * S; now < end; now += MS) /* takes 20000 whenever it may */
        if (b.even_ns <= now) {
            ps_rate_bucket_take(&b, 20000, now);
            got += 20000;
        }
    assert_in_range(got, 9900000, 10120000);
    /* Idle time is worth a twentieth of a second, no more. */
    now += 1000 * S;
    got = 0;
    while (b.even_ns <= now) {
        ps_rate_bucket_take(&b, 10000, now);
        got += 10000;
    }
    assert_in_range(got, 50000, 70000);
    struct ps_rate_bucket slow = {.bytes_per_s = 1024};
    ps_rate_bucket_take(&slow, 1ull << 40, S); /* no overflow: 34 years */
    assert_true(slow.even_ns > 1000000000ull * S);
}

static void test_rate_limit_parse(void **state)
{
    (void)state;
    struct ps_rate_limit *l = NULL;
    struct ps_err err = {0};
    assert_ok(ps_rate_limit_parse(&l, NULL, &err), &err);
    assert_null(l);
    assert_int_equal(ps_rate_limit_parse(&l, "25%", &err), PS_EUSAGE);
    assert_int_equal(ps_rate_limit_parse(&l, "0", &err), PS_EUSAGE);
    assert_int_equal(ps_rate_limit_parse(&l, "nonsense", &err), PS_EUSAGE);
    assert_ok(ps_rate_limit_parse(&l, "20M", &err), &err);
    assert_int_equal(ps_rate_limit_bytes_per_s(l), 20u << 20);
    assert_in_range(ps_rate_limit_read_bytes(l, 8, 512 << 10), 1024, 64 << 10);
    assert_in_range(ps_rate_limit_socket_bytes(l, 8), 256 << 10, 1 << 20);
    assert_int_equal(ps_rate_limit_socket_bytes(NULL, 8), 0);
    assert_int_equal(ps_rate_limit_read_bytes(NULL, 8, 512 << 10), 512 << 10);
    ps_rate_limit_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_healthy_is_left_alone),
        cmocka_unit_test(test_slower_link_costs_one_trial),
        cmocka_unit_test(test_shared_link_gets_slower),
        cmocka_unit_test(test_collapse),
        cmocka_unit_test(test_throttled),
        cmocka_unit_test(test_finds_a_limit),
        cmocka_unit_test(test_nothing_to_ask_for_tells_nothing),
        cmocka_unit_test(test_rate_bucket),
        cmocka_unit_test(test_rate_limit_parse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
