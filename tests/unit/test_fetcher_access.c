/* Credentials for http(s): which header lines may be sent, what a .netrc says, what goes before what. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fetcher/access.h"
#include "fetcher/netrc.h"
#include "tests/support/test.h"

static bool may_be_sent(const char *line)
{
    return ps_access_header_fault(line, strlen(line)) == NULL;
}

static void test_header_lines(void **state)
{
    (void)state;
    static const char *const good[] = {
        "A: b",    "X-Api-Key: a:b, c", "A:",        "A;",      "A: \xc3\xbc",
        "A: b\tc", "Authorization: x",  "If: (<x>)", "Hosts: a"};
    static const char *const bad[] = {"",
                                      "A",
                                      ": b",
                                      " A: b",
                                      "A : b",
                                      "A\x01: b",
                                      "A: b\r",
                                      "A: b\nB: c",
                                      "A: b\x7f",
                                      "A: \x1b[2J",
                                      "RANGE: bytes=0-1",
                                      "host: x",
                                      "If-Match: *",
                                      "if-range: x",
                                      "Connection: close",
                                      "TE: trailers",
                                      "Content-Length: 1",
                                      "Transfer-Encoding: chunked",
                                      "Accept-Encoding: gzip",
                                      "Proxy-Authorization: Basic x"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(may_be_sent(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(may_be_sent(bad[i]));
    assert_non_null(ps_access_header_fault("A: b\0c", 6));
    char *longest = malloc(PS_ACCESS_LINE_MAX + 2);
    memset(longest, 'b', PS_ACCESS_LINE_MAX + 1);
    longest[0] = 'A';
    longest[1] = ':';
    assert_null(ps_access_header_fault(longest, PS_ACCESS_LINE_MAX));
    assert_non_null(ps_access_header_fault(longest, PS_ACCESS_LINE_MAX + 1));
    free(longest);
}

/* "login password" of the entry, "-" for none. */
static void check_netrc(const char *text, const char *host, const char *login, const char *want)
{
    struct ps_netrc_login l;
    char got[2 * PS_NETRC_WORD_MAX + 2] = "-";
    if (ps_netrc_find(&l, text, strlen(text), host, login))
        snprintf(got, sizeof got, "%s %s", l.login, l.password);
    assert_string_equal(got, want);
}

static void test_netrc(void **state)
{
    (void)state;
    const char *text = "machine a login u password p\n"
                       "machine B\n\tlogin u2\n\tpassword p2\n"
                       "# machine c login no password no\n"
                       "machine c password \"with \\\"blanks\\\" \\\\ and\\ttab\" login \"u 3\"\n"
                       "macdef m\nmachine a login evil password evil\n\n"
                       "machine d login u4\n"
                       "machine d login u5 password p5\n"
                       "machine d login u6 account x password p6\n"
                       "default login anonymous password me\n";
    check_netrc(text, "a", NULL, "u p");
    check_netrc(text, "b", NULL, "u2 p2");
    check_netrc(text, "c", NULL, "u 3 with \"blanks\" \\ and\ttab");
    check_netrc(text, "d", NULL, "u5 p5");
    check_netrc(text, "d", "u6", "u6 p6");
    check_netrc(text, "d", "u4", "-");
    check_netrc(text, "e", NULL, "anonymous me");
    check_netrc(text, "e", "anonymous", "anonymous me");
    check_netrc("machine a login u password p", "ab", NULL, "-");
    check_netrc("machine a password p", "a", NULL, " p");
    check_netrc("machine a login", "a", NULL, "-");
    check_netrc("machine", "a", NULL, "-");
    check_netrc("machine a login u password", "a", NULL, "-");
    check_netrc("machine a login u password \"p", "a", NULL, "u p");
    check_netrc("machine a login u password #p#1 # comment password no\n", "a", NULL, "u #p#1");
    check_netrc("machine a login #u password\t#", "a", NULL, "#u #");
    check_netrc("machine a login u # password no\npassword p", "a", NULL, "u p");
    check_netrc("machine a login\n#no\nu password\r\n  # no\n\t#no\n p\n", "a", NULL, "u p");
    check_netrc("machine a login u password\n#no", "a", NULL, "-");
    check_netrc("#machine a login u password no\nmachine #a login u password p", "#a", NULL, "u p");
    static const char nul[] = "machine a login u password p\0q\n";
    struct ps_netrc_login l;
    assert_false(ps_netrc_find(&l, nul, sizeof nul - 1, "a", NULL)); /* not cut to "p" */
    check_netrc("machine a login u password \"p\\", "a", NULL, "u p\\");
    check_netrc("macdef x", "a", NULL, "-");
    check_netrc("", "a", NULL, "-");
}

static void test_netrc_long_words(void **state)
{
    (void)state;
    static const char before[] = "machine a login u password ";
    char text[4096];
    struct ps_netrc_login l;
    for (size_t n = PS_NETRC_WORD_MAX - 2; n < PS_NETRC_WORD_MAX + 2; n++) {
        memcpy(text, before, sizeof before - 1);
        memset(text + sizeof before - 1, 'x', n);
        assert_int_equal(ps_netrc_find(&l, text, sizeof before - 1 + n, "a", NULL),
                         n < PS_NETRC_WORD_MAX);
    }
}

static struct ps_access *load(const struct ps_access_options *o, const char *address)
{
    struct ps_access *a = NULL;
    struct ps_uri uri;
    struct ps_err err = {0};
    assert_int_equal(ps_uri_parse(&uri, address, &err), 0);
    int rc = ps_access_load(&a, o, &uri, &err);
    ps_uri_deinit(&uri);
    if (rc != 0)
        assert_true(rc == PS_EUSAGE && err.text[0] != '\0');
    return a;
}

static char *netrc_file(const char *text)
{
    static char path[] = "/tmp/penstock-netrc-XXXXXX";
    memcpy(path + sizeof path - 7, "XXXXXX", 6);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

static void test_what_goes_before_what(void **state)
{
    (void)state;
    const char *const authorization[] = {"authorization: x"}, *const other[] = {"X-A: b"};
    char *file = netrc_file("machine host login u password p\nmachine ::1 login six password p\n");
    struct ps_access *a = load(&(struct ps_access_options){.netrc_file = file}, "https://HOST/m");
    assert_string_equal(a->user, "u");
    assert_string_equal(a->password, "p");
    ps_access_free(a);
    a = load(&(struct ps_access_options){.netrc_file = file}, "http://[::1]:80/m");
    assert_string_equal(a->user, "six");
    ps_access_free(a);
    a = load(&(struct ps_access_options){.netrc_file = file}, "https://u:other@host/m");
    assert_null(a->user); /* the address has it all */
    ps_access_free(a);
    a = load(&(struct ps_access_options){.netrc_file = file}, "https://v@host/m");
    assert_null(a->user); /* another user's password is not his */
    ps_access_free(a);
    a = load(&(struct ps_access_options){.netrc_file = file,
                                         .bearer = " t \n",
                                         .headers = other,
                                         .n_headers = 1},
             "https://host/m");
    assert_null(a->user);
    assert_int_equal(a->n_headers, 2);
    assert_string_equal(a->headers[1], "Authorization: Bearer t");
    assert_true(a->has_authorization);
    ps_access_free(a);
    assert_null(
        load(&(struct ps_access_options){.bearer = "t", .headers = authorization, .n_headers = 1},
             "https://host/m"));
    assert_null(load(&(struct ps_access_options){.bearer = ""}, "https://host/m"));
    assert_null(load(&(struct ps_access_options){.netrc_file = "/nonexistent"}, "https://host/m"));
    assert_null(load(&(struct ps_access_options){.ca_file = "/"}, "https://host/m"));
    unlink(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_lines),
        cmocka_unit_test(test_netrc),
        cmocka_unit_test(test_netrc_long_words),
        cmocka_unit_test(test_what_goes_before_what),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
