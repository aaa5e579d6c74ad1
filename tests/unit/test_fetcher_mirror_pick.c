/* Which source is asked next, for how long, and what a list of mirrors may name. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "fetcher/mirror_list.h"
#include "fetcher/mirror_pick.h"
#include "fetcher/net_space.h"
#include "tests/support/test.h"

#define S PS_NS_PER_S

static void test_order_and_avoidance(void **state)
{
    (void)state;
    struct ps_mirror_health h[3] = {{0}};
    assert_int_equal(ps_mirror_pick(h, 3, 7, 0, 0, 0), 0);
    assert_int_equal(ps_mirror_pick(h, 3, 7, 1, 0, 0), 1);
    assert_int_equal(ps_mirror_pick(h, 3, 7, 7, 0, 0), -1);
    assert_int_equal(ps_mirror_pick(h, 3, 6, 0, 0, 0), 1);
    assert_int_equal(ps_mirror_pick(h, 3, 7, 0, 1, 0), 1);
    assert_int_equal(ps_mirror_pick(h, 3, 7, 6, 1, 0), 0); /* nobody else is left */
    ps_mirror_failed(&h[0], 100 * S);
    assert_int_equal(ps_mirror_pick(h, 3, 7, 0, 0, 101 * S), 1);
    assert_int_equal(ps_mirror_pick(h, 3, 1, 0, 0, 101 * S), 0); /* alone, he is asked however he does */
    assert_int_equal(ps_mirror_pick(h, 3, 7, 0, 0, 105 * S), 0); /* his time is up: one may look */
    h[0].in_flight = 1;
    assert_int_equal(ps_mirror_pick(h, 3, 7, 0, 0, 105 * S), 1); /* and one does */
    h[0].in_flight = 0;
    ps_mirror_worked(&h[0]);
    h[0].in_flight = 5;
    assert_int_equal(ps_mirror_pick(h, 3, 7, 0, 0, 105 * S), 0);
    /* of those that fail, the one whose time is up first */
    h[0] = h[1] = h[2] = (struct ps_mirror_health){0};
    ps_mirror_failed(&h[0], 3 * S);
    ps_mirror_failed(&h[1], 1 * S);
    ps_mirror_failed(&h[2], 2 * S);
    assert_int_equal(ps_mirror_pick(h, 3, 7, 0, 0, 4 * S), 1);
}

static void test_avoidance_doubles(void **state)
{
    (void)state;
    struct ps_mirror_health h = {0};
    uint64_t now = 1000 * S, last = 0;
    for (unsigned i = 0; i < 10; i++) {
        ps_mirror_failed(&h, now);
        ps_mirror_failed(&h, now + 1); /* what was under way with it does not count again */
        assert_int_equal(h.failures, i + 1);
        uint64_t span = h.avoid_until_ns - now;
        assert_true(span >= last && span <= PS_MIRROR_AVOID_MAX);
        assert_true(i == 0 || span == 2 * last || span == PS_MIRROR_AVOID_MAX);
        last = span;
        now = h.avoid_until_ns;
    }
    assert_int_equal(last, PS_MIRROR_AVOID_MAX);
}

static void test_patience(void **state)
{
    (void)state;
    assert_int_equal(ps_mirror_patience_ns(120 * S, 0, false), 120 * S);
    assert_int_equal(ps_mirror_patience_ns(120 * S, 1, false), 5 * S);
    assert_int_equal(ps_mirror_patience_ns(120 * S, 1, true), 3 * S);
    assert_int_equal(ps_mirror_patience_ns(6 * S, 2, false), 2 * S);
    assert_int_equal(ps_mirror_patience_ns(S / 2, 1, false), S);
}

static void check_space(const char *host, enum ps_net_space want)
{
    enum ps_net_space got = ps_net_space_of_host(host);
    if (got != want)
        fail_msg("%s: %d, not %d", host, (int)got, (int)want);
}

static void test_spaces(void **state)
{
    (void)state;
    static const char *const publics[] = {"1.1.1.1",           "8.8.8.8",        "172.15.0.1",
                                          "172.32.0.1",        "100.63.0.1",     "169.253.1.1",
                                          "[2606:4700::1111]", "223.255.255.255"};
    static const char *const privates[] = {"10.0.0.1",          "172.16.0.1", "172.31.255.255",
                                           "192.168.1.1",       "100.64.0.1", "[fd12::1]",
                                           "[::ffff:10.0.0.1]", "fc00::1"};
    static const char *const loops[] = {"127.0.0.1",  "127.255.1.2",        "127.1",
                                        "0x7f000001", "2130706433",         "017700000001",
                                        "[::1]",      "[::ffff:127.0.0.1]", "localhost",
                                        "LOCALHOST.", "a.localhost"};
    static const char *const forbidden[] = {"169.254.169.254",
                                            "169.254.0.1",
                                            "0xa9fea9fe",
                                            "2852039166",
                                            "[fe80::1]",
                                            "[fe80::1%25eth0]",
                                            "0.0.0.0",
                                            "0",
                                            "[::]",
                                            "224.0.0.1",
                                            "255.255.255.255",
                                            "[ff02::1]",
                                            "100.100.100.200",
                                            "168.63.129.16",
                                            "192.0.0.192",
                                            "[fd00:ec2::254]",
                                            "[::ffff:169.254.169.254]",
                                            "[64:ff9b::a9fe:a9fe]",
                                            "[2002:a9fe:a9fe::1]",
                                            "metadata.google.internal",
                                            "Metadata.Google.Internal.",
                                            "metadata",
                                            "instance-data"};
    static const char *const names[] = {"example.org", "notlocalhost", "metadata.example.org",
                                        "10.0.0.1.example.org"};
    for (size_t i = 0; i < sizeof publics / sizeof *publics; i++)
        check_space(publics[i], PS_SPACE_PUBLIC);
    for (size_t i = 0; i < sizeof privates / sizeof *privates; i++)
        check_space(privates[i], PS_SPACE_PRIVATE);
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++)
        check_space(loops[i], PS_SPACE_LOOPBACK);
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
        check_space(forbidden[i], PS_SPACE_FORBIDDEN);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_space(names[i], PS_SPACE_ANY);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xa9fea9fe)};
    assert_int_equal(ps_net_space_of((struct sockaddr *)&in), PS_SPACE_FORBIDDEN);
    struct sockaddr other = {.sa_family = AF_UNIX};
    assert_int_equal(ps_net_space_of(&other), PS_SPACE_FORBIDDEN);
    for (int least = PS_SPACE_LOOPBACK; least <= PS_SPACE_PUBLIC; least++)
        for (int space = PS_SPACE_FORBIDDEN; space <= PS_SPACE_PUBLIC; space++)
            assert_int_equal(ps_net_space_allowed((enum ps_net_space)space, (enum ps_net_space)least),
                             space != PS_SPACE_FORBIDDEN && space >= least);
}

static void check_fault(const char *address, enum ps_net_space least, bool fault)
{
    if ((ps_mirror_fault(address, least) != NULL) != fault)
        fail_msg("%s: %s", address, fault ? "allowed" : ps_mirror_fault(address, least));
}

static void test_what_a_list_may_name(void **state)
{
    (void)state;
    static const char *const never[] = {"/etc",
                                        "file:///etc/passwd",
                                        "ftp://host/x",
                                        "relative",
                                        "http://",
                                        "http://u:p@host/",
                                        "https://u@host/",
                                        "http://169.254.169.254/",
                                        "https://[fe80::1]/",
                                        "http://host\n/x",
                                        "http://0/",
                                        "gopher://x",
                                        "http://metadata.google.internal/computeMetadata"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        for (int least = PS_SPACE_LOOPBACK; least <= PS_SPACE_PUBLIC; least++)
            check_fault(never[i], (enum ps_net_space)least, true);
    check_fault("https://host.example/prefix?sig=x", PS_SPACE_PUBLIC, false);
    check_fault("s3://bucket/prefix", PS_SPACE_PUBLIC, false);
    check_fault("hf://org/name@rev", PS_SPACE_PUBLIC, false);
    check_fault("http://127.0.0.1:1/", PS_SPACE_PUBLIC, true);
    check_fault("http://127.0.0.1:1/", PS_SPACE_PRIVATE, true);
    check_fault("http://127.0.0.1:1/", PS_SPACE_LOOPBACK, false);
    check_fault("http://10.1.2.3/", PS_SPACE_PUBLIC, true);
    check_fault("http://10.1.2.3/", PS_SPACE_PRIVATE, false);
    check_fault("http://localhost/", PS_SPACE_PUBLIC, true);
    check_fault("http://2130706433/", PS_SPACE_PUBLIC, true);
}

static void check_list(const char *text, int rc, size_t n, size_t passed_over)
{
    struct ps_mirror_list l = {.n = 0};
    struct ps_err err = {0};
    assert_int_equal(ps_mirror_list_parse(&l, text, strlen(text), PS_SPACE_PUBLIC, &err), rc);
    assert_int_equal(l.n, n);
    assert_int_equal(l.passed_over, passed_over);
    ps_mirror_list_deinit(&l);
}

static void test_lists(void **state)
{
    (void)state;
    check_list("[]", 0, 0, 0);
    check_list("{\"mirrors\": []}", 0, 0, 0);
    check_list("[\"https://a/b\", \"s3://c\"]", 0, 2, 0);
    check_list("{\"version\": 9, \"mirrors\": [{\"url\": \"https://a\", \"priority\": 3}, 7, null, "
               "\"/etc\", {\"uri\": 1}]}",
               0, 1, 4);
    check_list("[\"https://a\\u0000b\"]", 0, 0, 1);
    check_list("[\"h://1\",\"https://a1\",\"https://a2\",\"https://a3\",\"https://a4\",\"https://"
               "5\",\"https://a6\",\"https://a7\","
               "\"https://a8\",\"https://a9\",\"https://a10\"]",
               0, 8, 3);
    check_list("{\"mirrors\": \"https://a\"}", PS_EDATA, 0, 0);
    check_list("{}", PS_EDATA, 0, 0);
    check_list("3", PS_EDATA, 0, 0);
    check_list("", PS_EDATA, 0, 0);
    check_list("[[[[[[[[[[[[]]]]]]]]]]]]", PS_EDATA, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_avoidance),
        cmocka_unit_test(test_avoidance_doubles),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_spaces),
        cmocka_unit_test(test_what_a_list_may_name),
        cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
