/* Errors, log lines and redaction. */
#include "tests/support/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"

static void test_set_returns_code_and_text(void **state)
{
    (void)state;
    struct ps_err err = {0};
    errno = EBUSY;
    int rc = ps_err_set(&err, PS_EDATA, "proto", "shard %d: bad length", 3);
    assert_int_equal(rc, PS_EDATA);
    assert_int_equal(err.code, PS_EDATA);
    assert_string_equal(err.origin, "proto");
    assert_string_equal(err.text, "shard 3: bad length");
    assert_int_equal(errno, EBUSY);
    assert_int_equal(ps_err_set(NULL, PS_EIO, "x", "nobody listens"), PS_EIO);
}

static void test_control_characters_are_replaced(void **state)
{
    (void)state;
    struct ps_err err = {0};
    ps_err_set(&err, PS_EDATA, "x", "a\nb\x1b[31m\x7f\tz");
    assert_string_equal(err.text, "a?b?[31m??z");
}

static void test_long_text_is_cut_at_a_character(void **state)
{
    (void)state;
    struct ps_err err = {0};
    char big[2000] = "";
    for (size_t i = 0; i + 2 < sizeof(big); i += 2)
        memcpy(big + i, "\xc3\xa9", 3); /* e acute, two bytes */
    ps_err_set(&err, PS_EDATA, "x", "%s", big);
    assert_int_equal(strlen(err.text), PS_ERR_TEXT_MAX - 2); /* 511 is odd: no half character */
    ps_err_set(&err, PS_EDATA, "x", "z%s", big);
    assert_int_equal(strlen(err.text), PS_ERR_TEXT_MAX - 1);
}

static void test_prefix(void **state)
{
    (void)state;
    struct ps_err err = {0};
    ps_err_set(&err, PS_ENET, "fetcher", "timed out");
    assert_int_equal(ps_err_prefix(&err, "layer %d", 7), PS_ENET);
    assert_string_equal(err.text, "layer 7: timed out");
    assert_string_equal(err.origin, "fetcher");
    ps_err_set(&err, PS_EIO, "x", "again: %s", err.text); /* an argument inside the output */
    assert_string_equal(err.text, "again: layer 7: timed out");
}

static void test_place(void **state)
{
    (void)state;
    struct ps_err err = {0};
    ps_err_place(NULL, "a.json");
    ps_err_advise(NULL, "fetch it again");
    ps_err_advise(&err, "fetch it again"); /* no error, nothing to do */
    assert_string_equal(err.text, "");
    ps_err_place(&err, "a.json");
    assert_int_equal(err.code, 0);
    ps_err_set(&err, PS_EDATA, "json", "line 3: a comma is missing");
    ps_err_place(&err, "a.json");
    ps_err_place(&err, "a.json");
    assert_string_equal(err.text, "a.json: line 3: a comma is missing");
    ps_err_advise(&err, "fetch it again");
    assert_string_equal(err.text, "a.json: line 3: a comma is missing: fetch it again");
    assert_int_equal(err.code, PS_EDATA);
}

static void test_place_files(void **state)
{
    (void)state;
    static const int of_files[] = {PS_EDATA, PS_ENOTFOUND, PS_EUNSUPPORTED};
    static const int others[] = {PS_ENET, PS_EUSAGE, PS_ENOMEM, PS_EINTERRUPTED};
    struct ps_err err = {0};
    for (size_t i = 0; i < sizeof of_files / sizeof *of_files; i++) {
        ps_err_set(&err, of_files[i], "x", "config.json: wrong");
        ps_err_place_files(&err, of_files[i], "http://host/m");
        assert_string_equal(err.text, "http://host/m: config.json: wrong");
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        ps_err_set(&err, others[i], "x", "timed out");
        ps_err_place_files(&err, others[i], "http://host/m");
        assert_string_equal(err.text, "timed out");
    }
    ps_err_place_files(&err, 0, "http://host/m"); /* an error that did not count in the end */
    assert_string_equal(err.text, "timed out");
}

static void test_exit_statuses(void **state)
{
    (void)state;
    static const struct {
        int code, status;
    } cases[] = {
        {PS_OK, 0},        {PS_EFAIL, 1},          {PS_EUNSUPPORTED, 1},
        {PS_ENOMEM, 5},    {PS_EUSAGE, 2},         {PS_ENET, 3},
        {PS_ENOTFOUND, 3}, {PS_EREFUSED, 3},       {PS_EDATA, 4},
        {PS_EBUDGET, 5},   {PS_EINTERRUPTED, 130}, {PS_EIO, 1},
        {PS_ENOSPC, 5},    {PS_EINUSE, 1},         {-9999, 1},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++)
        assert_int_equal(ps_err_exit_status(cases[i].code), cases[i].status);
    for (int code = 0; code >= PS_EINUSE; code--)
        assert_string_not_equal(ps_err_name(code), "unknown");
    assert_string_equal(ps_err_name(PS_EDATA), "data");
    assert_string_equal(ps_err_name(-999), "unknown");
}

static void check_redacted(const char *in, const char *want)
{
    char text[1024];
    snprintf(text, sizeof(text), "%s", in);
    ps_redact(text, sizeof(text));
    assert_string_equal(text, want);
    ps_redact(text, sizeof(text)); /* a second pass finds nothing */
    assert_string_equal(text, want);
}

static void test_redaction_cases(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"plain text, 12:30, a@b.c, x=1&y=2", "plain text, 12:30, a@b.c, x=1&y=2"},
        {"GET https://h.example/p?tok=secret&n=1: 403",
         "GET https://h.example/p?tok=...&n=...: 403"},
        {"(http://h/p?a=secret)", "(http://h/p?a=...)"},
        {"http://user:pass@h:80/p", "http://h:80/p"},
        {"https://tok@h/p https://u:p@w@i/q", "https://h/p https://i/q"},
        {"no such folder: user:p@ss@h/p, a:b/c@d", "no such folder: [redacted]@h/p, a:b/c@d"},
        {"http:/user:pass@h/p at 12:30 'u:p@h'", "http:/[redacted]@h/p at 12:30 '[redacted]@h'"},
        {"s3://b/k:x@y and file:///u:p@h hf://o/n:r@s",
         "s3://b/k:x@y and file:///u:p@h hf://o/n:r@s"},
        {"s3://b/k?versionId=abc#frag", "s3://b/k?versionId=...#frag"},
        {"http://h/p?flag&b=", "http://h/p?flag&b=..."},
        {"Authorization: Bearer abc.def-123", "Authorization: Bearer [redacted]"},
        {"authorization: bearer abc", "authorization: bearer [redacted]"},
        {"Proxy-Authorization: Basic dXNlcjpwYXNz", "Proxy-Authorization: Basic [redacted]"},
        {"token hf_abcdefghijklmnopqrstuvwxyzABCDEFGH!", "token [redacted]!"},
        {"file /data/hf_models/x hf_store.c", "file /data/hf_models/x hf_store.c"},
        {"key AKIAIOSFODNN7EXAMPLE.", "key [redacted]."},
        {"ASIAIOSFODNN7EXAMPLE", "[redacted]"},
        {"XAKIAIOSFODNN7EXAMPLE", "XAKIAIOSFODNN7EXAMPLE"},
        {"x-amz-security-token: FwoGZ/+=, next", "x-amz-security-token: [redacted], next"},
        {"/p?X-Amz-Signature=0123&X-Amz-Date=2",
         "/p?X-Amz-Signature=[redacted]&X-Amz-Date=[redacted]"},
        {"https://h/p?X-Amz-Signature=0123", "https://h/p?X-Amz-Signature=..."},
        {"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/2025/us, SignedHeaders=host, "
         "Signature=fe5f",
         "AWS4-HMAC-SHA256 Credential=[redacted]/2025/us, SignedHeaders=host, "
         "Signature=[redacted]"},
        {"", ""},
        {"//", "//"},
        {"https://", "https://"},
        {"https://h?", "https://h?"},
        {"Bearer ", "Bearer "},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++)
        check_redacted(cases[i][0], cases[i][1]);
}

static void test_redaction_stays_inside_its_buffer(void **state)
{
    (void)state;
    /* "a=1" grows to "a=...": every capacity from the exact fit on must hold, and what falls off is the end. */
    static const char in[] = "http://h/?a=1&b=2 Bearer x";
    for (size_t cap = sizeof(in); cap < sizeof(in) + 20; cap++) {
        char text[64];
        memset(text, 'Z', sizeof(text));
        memcpy(text, in, sizeof(in));
        ps_redact(text, cap);
        assert_true(strlen(text) < cap);
        for (size_t i = cap; i < sizeof(text); i++)
            assert_int_equal(text[i], 'Z');
        assert_null(strstr(text, "=1"));
        assert_null(strstr(text, "Bearer x"));
    }
}

static void test_errors_hold_no_half_secret(void **state)
{
    (void)state;
    struct ps_err err = {0};
    char url[5000] = "https://h/p?sig=";
    memset(url + strlen(url), 's', 4900);
    ps_err_set(&err, PS_ENET, "fetcher", "GET %s: 403", url);
    assert_null(strstr(err.text, "sss"));
    /* The user's password would end behind the scratch buffer, its '@' unseen. */
    char long_user[6000] = "https://user:";
    memset(long_user + strlen(long_user), 'p', 5900);
    ps_err_set(&err, PS_ENET, "fetcher", "GET %s@h/: 403", long_user);
    assert_null(strstr(err.text, "ppp"));
}

/* What fn writes to stderr. */
static void capture_stderr(void (*fn)(void), char *out, size_t cap)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    int saved = dup(STDERR_FILENO);
    assert_int_equal(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
    close(fds[1]);
    fn();
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t n = read(fds[0], out, cap - 1);
    out[n > 0 ? n : 0] = '\0';
    close(fds[0]);
}

static unsigned hook_calls;

static void count_hook(void)
{
    hook_calls++;
}

static void log_some(void)
{
    ps_log(PS_LOG_WARN, "fetcher", "retry %d of %s", 2, "https://u:p@h/x?sig=abc");
    ps_log(PS_LOG_DEBUG, "fetcher", "not at this level");
}

static void log_long(void)
{
    char big[4000];
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    ps_log(PS_LOG_ERROR, "area", "%s", big);
}

static void test_log_lines(void **state)
{
    (void)state;
    char out[8192];
    ps_log_set_level(PS_LOG_INFO);
    assert_true(ps_log_enabled(PS_LOG_WARN));
    assert_false(ps_log_enabled(PS_LOG_DEBUG));
    ps_log_set_hooks(count_hook, count_hook);
    hook_calls = 0;
    capture_stderr(log_some, out, sizeof(out));
    ps_log_set_hooks(NULL, NULL);
    assert_string_equal(out, "penstock: warn: fetcher: retry 2 of https://h/x?sig=...\n");
    assert_int_equal(hook_calls, 2);

    capture_stderr(log_long, out, sizeof(out));
    assert_true(strlen(out) <= 2048);
    assert_int_equal(out[strlen(out) - 1], '\n');
}

static void test_level_from_environment(void **state)
{
    (void)state;
    setenv("PENSTOCK_LOG", "trace", 1);
    assert_int_equal(ps_log_init_from_env(), 0);
    assert_true(ps_log_enabled(PS_LOG_TRACE));
    setenv("PENSTOCK_LOG", "loud", 1);
    assert_int_equal(ps_log_init_from_env(), PS_EUSAGE);
    assert_true(ps_log_enabled(PS_LOG_TRACE)); /* left alone */
    setenv("PENSTOCK_LOG", "ERROR", 1);
    assert_int_equal(ps_log_init_from_env(), 0);
    assert_false(ps_log_enabled(PS_LOG_WARN));
    unsetenv("PENSTOCK_LOG");
    assert_int_equal(ps_log_init_from_env(), 0);
    ps_log_set_level(PS_LOG_WARN);
}

static void test_assert_aborts(void **state)
{
    (void)state;
    PS_ASSERT(1 + 1 == 2);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        ps_assert_failed(__FILE__, __LINE__, "on purpose");
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_set_returns_code_and_text),
    cmocka_unit_test(test_control_characters_are_replaced),
    cmocka_unit_test(test_long_text_is_cut_at_a_character),
    cmocka_unit_test(test_prefix),
    cmocka_unit_test(test_place),
    cmocka_unit_test(test_place_files),
    cmocka_unit_test(test_exit_statuses),
    cmocka_unit_test(test_redaction_cases),
    cmocka_unit_test(test_redaction_stays_inside_its_buffer),
    cmocka_unit_test(test_errors_hold_no_half_secret),
    cmocka_unit_test(test_log_lines),
    cmocka_unit_test(test_level_from_environment),
    cmocka_unit_test(test_assert_aborts),
};
TEST_MAIN(tests)
