/* Slow against its siblings: when a transfer is dropped, when something is asked for a second time. Pure decisions on
 * scripted clocks. */
#include "tests/support/test.h"

#include "fetcher/pace.h"

#define MS 1000000ull
#define MB 1000000ull
#define S  1000000000ull

/* A transfer that began at 1 s, had its first byte 5 ms later and then `bytes_s` until `until_ns`, looked at every
 * 10 ms. */
static struct ps_pace moving(uint64_t bytes_s, uint64_t until_ns)
{
    struct ps_pace p;
    ps_pace_begin(&p, S);
    for (uint64_t at = S + 5 * MS; at <= until_ns; at += 10 * MS) {
        ps_pace_bytes(&p, bytes_s / 100, at);
        ps_pace_look(&p, at);
    }
    return p;
}

static struct ps_pace_host host_of(uint64_t bytes_s, unsigned n, uint64_t now_ns)
{
    struct ps_pace_host h = {.wait_known = false};
    for (unsigned i = 0; i < n; i++) {
        struct ps_pace p;
        ps_pace_begin(&p, now_ns - S);
        ps_pace_bytes(&p, bytes_s, now_ns - S);
        ps_pace_ended(&h, &p, 8, now_ns);
    }
    for (unsigned i = 0; i < 20; i++)
        ps_pace_first_byte(&h, 5 * MS);
    return h;
}

static void test_rates(void **state)
{
    (void)state;
    struct ps_pace p = moving(20 * MB, S + 505 * MS);
    assert_true(p.recent > 19e6 && p.recent < 21.5e6);
    assert_true(p.before > 19e6 && p.before < 22.5e6);
    p = moving(20 * MB, S + 150 * MS);
    assert_true(p.recent < 0); /* no whole window yet */
}

static void test_median(void **state)
{
    (void)state;
    uint64_t now = 3 * S;
    struct ps_pace_host h = host_of(20 * MB, 2, now);
    assert_true(ps_pace_median(&h, NULL, 0, 8, now) == 0); /* two are no evidence */
    struct ps_pace fast = moving(10 * MB, S + 600 * MS), young = moving(10 * MB, S + 100 * MS);
    const struct ps_pace *live[] = {&fast, &young};
    double m = ps_pace_median(&h, live, 2, 8, now);
    assert_true(m > 19e6 && m < 21e6); /* of 10, 20, 20; the young one does not count yet */
    /* Rates from a time with eight requests say as much of two, but of sixteen only half. */
    h = host_of(20 * MB, 8, now);
    m = ps_pace_median(&h, NULL, 0, 2, now);
    assert_true(m > 19e6 && m < 21e6);
    m = ps_pace_median(&h, NULL, 0, 16, now);
    assert_true(m > 9e6 && m < 11e6);
    assert_true(ps_pace_median(&h, live, 2, 8, now + 4 * S) == 0); /* what ended is forgotten */
}

static void test_escape(void **state)
{
    (void)state;
    uint64_t now = S + 700 * MS;
    struct ps_pace_host h = host_of(20 * MB, 8, now);
    double median = ps_pace_median(&h, NULL, 0, 8, now);
    struct ps_pace crawling = moving(2 * MB, now), half = moving(10 * MB, now),
                   young = moving(2 * MB, S + 300 * MS);
    assert_true(ps_pace_escapes(&crawling, &h, median, 6 * MB, 0, now));
    assert_false(ps_pace_escapes(&half, &h, median, 6 * MB, 0, now));
    assert_false(ps_pace_escapes(&young, &h, median, 6 * MB, 0, now)); /* one window is too little */
    assert_false(ps_pace_escapes(&crawling, &h, median, 10000, 0, now));  /* nearly there */
    assert_false(ps_pace_escapes(&crawling, &h, median, 6 * MB, 3, now)); /* it had its chances */
    assert_false(ps_pace_escapes(&crawling, &h, 0, 6 * MB, 0, now));      /* no siblings */
    assert_false(ps_pace_escapes(&crawling, &h, 2.5e6, 6 * MB, 0, now)); /* all are slow: the link is */
    struct ps_pace ramping = crawling;
    ramping.recent = 3e6; /* TCP opens its window */
    ramping.before = 1e6;
    assert_false(ps_pace_escapes(&ramping, &h, median, 6 * MB, 0, now));
}

static void test_escape_without_headers(void **state)
{
    (void)state;
    uint64_t now = 10 * S;
    struct ps_pace_host h = host_of(20 * MB, 8, now);
    struct ps_pace mute;
    ps_pace_begin(&mute, now - S);
    assert_false(ps_pace_escapes(&mute, &h, 20e6, 6 * MB, 0, now));
    ps_pace_begin(&mute, now - 3 * S);
    assert_true(ps_pace_escapes(&mute, &h, 20e6, 6 * MB, 0, now));
    for (unsigned i = 0; i < 40; i++)
        ps_pace_first_byte(&h, S); /* a store that thinks for a second */
    assert_false(ps_pace_escapes(&mute, &h, 20e6, 6 * MB, 0, now));
}

/* Escapes that do not help become rare: a link where they never do sees a handful in an hour, not thousands. */
static void test_escapes_are_bounded(void **state)
{
    (void)state;
    struct ps_pace_host h = host_of(20 * MB, 8, S + 700 * MS);
    struct ps_pace crawling = moving(MB, S + 700 * MS);
    unsigned n = 0;
    for (uint64_t now = S + 700 * MS; now < 601 * S; now += 10 * MS)
        if (ps_pace_escapes(&crawling, &h, 20e6, 6 * MB, 1, now)) {
            ps_pace_escape_helped(&h, false);
            ps_pace_escaped(&h, now);
            n++;
        }
    assert_in_range(n, 5, 40);
    ps_pace_escape_helped(&h, true);
    ps_pace_escaped(&h, 602 * S);
    assert_true(ps_pace_escapes(&crawling, &h, 20e6, 6 * MB, 1, 602 * S + 100 * MS));
}

static void test_hedge(void **state)
{
    (void)state;
    uint64_t now = S + 450 * MS;
    struct ps_pace_host h = host_of(20 * MB, 8, now);
    struct ps_pace fine = moving(20 * MB, now), crawling = moving(2 * MB, now);
    assert_true(ps_pace_hedge_ns(&fine, &h, 20e6, 2 * MB, now) > now);
    assert_int_equal(ps_pace_hedge_ns(&crawling, &h, 20e6, 2 * MB, now), 0);
    assert_true(ps_pace_hedge_ns(&crawling, &h, 2e6, 2 * MB, now) > now); /* so are all */
    assert_true(ps_pace_hedge_ns(&crawling, &h, 20e6, 10000, now) > now); /* it is nearly there */
    /* It stops: soon that is noticed, whatever it did before. */
    uint64_t due = now;
    for (unsigned i = 0; i < 100 && due != 0; i++) {
        uint64_t next = ps_pace_hedge_ns(&fine, &h, 20e6, 2 * MB, due);
        if (next == 0)
            break;
        assert_true(next > due);
        due = next;
    }
    assert_true(due - now > 30 * MS);
    assert_true(due - now < 200 * MS);
}

static void test_hedge_without_headers(void **state)
{
    (void)state;
    struct ps_pace_host h = host_of(20 * MB, 8, 2 * S), unknown = {.wait_known = false};
    struct ps_pace mute;
    ps_pace_begin(&mute, 5 * S);
    uint64_t due = ps_pace_hedge_ns(&mute, &h, 20e6, MB, 5 * S + MS);
    assert_in_range(due, 5 * S + 15 * MS, 5 * S + 60 * MS); /* usually 5 ms */
    assert_int_equal(ps_pace_hedge_ns(&mute, &h, 20e6, MB, due), 0);
    assert_true(ps_pace_hedge_ns(&mute, &unknown, 0, MB, 5 * S + 150 * MS) > 5 * S + 150 * MS);
}

static void test_affordable(void **state)
{
    (void)state;
    assert_true(ps_hedge_affordable(100 * MB, 0, 2 * MB, 2));
    assert_false(ps_hedge_affordable(100 * MB, 1, 2 * MB, 2));
    assert_false(ps_hedge_affordable(100 * MB, 0, 1, 0));
    assert_false(ps_hedge_affordable(100 * MB, 0, 1, -1));
    assert_false(ps_hedge_affordable(0, 0, 1, 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_median),
        cmocka_unit_test(test_escape),
        cmocka_unit_test(test_escape_without_headers),
        cmocka_unit_test(test_escapes_are_bounded),
        cmocka_unit_test(test_hedge),
        cmocka_unit_test(test_hedge_without_headers),
        cmocka_unit_test(test_affordable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
