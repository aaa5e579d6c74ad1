/* Retry decisions: delays by class, limits, what the server asks for, and slow transfers at
 * their deadline. */
#include "tests/support/test.h"

#include "base/clock.h"
#include "fetcher/retry.h"

#define S PS_NS_PER_S

static struct ps_retry_in base_case(enum ps_retry_class cls)
{
    return (struct ps_retry_in){.cls = cls,
                                .failures = 1,
                                .elapsed_ns = S,
                                .deadline_ns = 120 * S,
                                .connect_limit_ns = 12 * S,
                                .random = UINT64_MAX};
}

static void test_classes(void **state)
{
    (void)state;
    struct ps_retry_in in = base_case(PS_RETRY_FATAL);
    assert_false(ps_retry_decide(&in).again);
    for (int cls = PS_RETRY_CONNECT; cls <= PS_RETRY_THROTTLE; cls++) {
        in = base_case((enum ps_retry_class)cls);
        in.failures = 40; /* any number, as long as there is time */
        assert_true(ps_retry_decide(&in).again);
        in.elapsed_ns = in.deadline_ns;
        assert_false(ps_retry_decide(&in).again);
    }
}

static void test_jitter(void **state)
{
    (void)state;
    static const struct {
        enum ps_retry_class cls;
        uint64_t base_ms, cap_ms;
    } cases[] = {
        {PS_RETRY_CONNECT, 400, 5000},
        {PS_RETRY_TRANSPORT, 100, 5000},
        {PS_RETRY_SERVER, 250, 10000},
        {PS_RETRY_THROTTLE, 500, 20000},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        uint64_t most = 0;
        for (unsigned failures = 1; failures < 20; failures++) {
            uint64_t span = cases[i].base_ms << (failures - 1);
            span = (span < cases[i].cap_ms ? span : cases[i].cap_ms) * 1000000;
            for (uint64_t k = 0; k < 200; k++) {
                struct ps_retry_in in = base_case(cases[i].cls);
                in.failures = failures;
                in.random = k * 0x9e3779b97f4a7c15ull;
                struct ps_retry_out out = ps_retry_decide(&in);
                assert_true(out.again);
                assert_true(out.delay_ns <= span);
                most = out.delay_ns > most ? out.delay_ns : most;
            }
        }
        assert_true(most > cases[i].cap_ms * 900000); /* the whole span is used */
    }
}

static void test_retry_after(void **state)
{
    (void)state;
    struct ps_retry_in in = base_case(PS_RETRY_THROTTLE);
    in.retry_after_ns = 7 * S;
    struct ps_retry_out out = ps_retry_decide(&in);
    assert_true(out.again);
    assert_in_range(out.delay_ns, 7 * S, 7 * S + S / 4);
    in.retry_after_ns = 119 * S; /* exactly at the deadline: too late */
    assert_false(ps_retry_decide(&in).again);
    in.retry_after_ns = UINT64_MAX;
    assert_false(ps_retry_decide(&in).again);
}

static void test_late_attempt(void **state)
{
    (void)state;
    struct ps_retry_in in = base_case(PS_RETRY_THROTTLE);
    in.failures = 30;
    in.elapsed_ns = in.deadline_ns - S / 10;
    struct ps_retry_out out = ps_retry_decide(&in);
    assert_true(out.again);
    assert_true(in.elapsed_ns + out.delay_ns < in.deadline_ns);
}

static void test_first_contact(void **state)
{
    (void)state;
    struct ps_retry_in in = base_case(PS_RETRY_CONNECT);
    in.first_contact = true;
    in.failures = 3;
    assert_true(ps_retry_decide(&in).again);
    in.failures = 4;
    assert_false(ps_retry_decide(&in).again);
    in.failures = 1;
    in.elapsed_ns = 12 * S; /* one try that hung until the connect timeout */
    assert_false(ps_retry_decide(&in).again);
    in.elapsed_ns = 7 * S; /* one more of that length would end too late */
    assert_false(ps_retry_decide(&in).again);
    in.failures = 2;
    assert_true(ps_retry_decide(&in).again);
    in.first_contact = false; /* a host that has answered before may be restarting */
    assert_true(ps_retry_decide(&in).again);
    in.elapsed_ns = 60 * S;
    in.failures = 9;
    in.unreached_ns =
        9 * S; /* where a redirect leads: time counts, since it leads there, and no tries */
    assert_true(ps_retry_decide(&in).again);
    in.unreached_ns = 11 * S;
    assert_false(ps_retry_decide(&in).again);
    in.cls = PS_RETRY_TRANSPORT;
    assert_true(ps_retry_decide(&in).again);
}

static void test_bad_reply_once(void **state)
{
    (void)state;
    struct ps_retry_in in = base_case(PS_RETRY_REPLY);
    in.bad_replies = 1;
    in.failures = 9;
    assert_true(ps_retry_decide(&in).again);
    in.bad_replies = 2;
    assert_false(ps_retry_decide(&in).again);
}

static void test_overdue(void **state)
{
    (void)state;
    assert_false(ps_retry_overdue(119 * S, 120 * S, 119 * S, 0, 4096));
    assert_true(ps_retry_overdue(120 * S, 120 * S, 120 * S, 0, 4096));
    assert_true(ps_retry_overdue(120 * S, 120 * S, 120 * S, 100 * 1024, 4096)); /* drips */
    assert_false(ps_retry_overdue(120 * S, 120 * S, 120 * S, 1024 * 1024, 4096)); /* slow, but it moves */
    assert_true(ps_retry_overdue(5 * S, 5 * S, 4 * S, 10, 4096));
    assert_false(ps_retry_overdue(6 * S, 5 * S, S / 2, 0,
                                  4096)); /* begun after the deadline: a second of grace */
    assert_true(ps_retry_overdue(7 * S, 5 * S, S + S / 2, 0, 4096));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),       cmocka_unit_test(test_jitter),
        cmocka_unit_test(test_retry_after),   cmocka_unit_test(test_late_attempt),
        cmocka_unit_test(test_first_contact), cmocka_unit_test(test_bad_reply_once),
        cmocka_unit_test(test_overdue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
