/* The strict check of replies: a table of what servers send and what must come of it. */
#include "tests/support/test.h"

#include <string.h>

#include "base/clock.h"
#include "fetcher/reply.h"

static void feed(struct ps_reply *r, const char *text, uint64_t wall_s)
{
    ps_reply_init(r);
    while (*text) {
        const char *end = strchr(text, '\n');
        size_t n = end ? (size_t)(end - text) + 1 : strlen(text);
        ps_reply_line(r, text, n, wall_s);
        text += n;
    }
}

static void test_content_range(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok, satisfied;
        uint64_t from, to, total;
    } cases[] = {
        {"bytes 0-99/1000", true, true, 0, 100, 1000},
        {"bytes 5-5/6", true, true, 5, 6, 6},
        {"Bytes 0-0/*", true, true, 0, 1, 0},
        {"bytes */500", true, false, 0, 0, 500},
        {"  bytes  1-2/3 ", true, true, 1, 3, 3},
        {"bytes */*", false, false, 0, 0, 0},
        {"bytes 0-99/99", false, false, 0, 0, 0},
        {"bytes 9-5/100", false, false, 0, 0, 0},
        {"bytes 0-18446744073709551615/*", false, false, 0, 0, 0},
        {"bytes 0-99999999999999999999/*", false, false, 0, 0, 0},
        {"bytes -5/10", false, false, 0, 0, 0},
        {"bytes 0-/10", false, false, 0, 0, 0},
        {"bytes 0-9", false, false, 0, 0, 0},
        {"bytes=0-9/10", false, false, 0, 0, 0},
        {"bytes 0-9/10,", false, false, 0, 0, 0},
        {"bytes 0-9/10 x", false, false, 0, 0, 0},
        {"bytes 0 -9/10", false, false, 0, 0, 0},
        {"bytes +0-9/10", false, false, 0, 0, 0},
        {"items 0-9/10", false, false, 0, 0, 0},
        {"", false, false, 0, 0, 0},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_content_range r = {.total = 4711};
        int rc = ps_content_range_parse(&r, cases[i].text, strlen(cases[i].text));
        if (rc != (cases[i].ok ? 0 : PS_EDATA))
            fail_msg("\"%s\": %d", cases[i].text, rc);
        if (rc != 0) {
            assert_int_equal(r.total, 4711); /* untouched */
            continue;
        }
        assert_int_equal(r.satisfied, cases[i].satisfied);
        assert_int_equal(r.from, cases[i].from);
        assert_int_equal(r.to, cases[i].to);
        assert_int_equal(r.total, cases[i].total);
    }
}

struct verdict_case {
    const char *headers;
    enum ps_verdict verdict;
    int code; /* REFUSE */
    enum ps_retry_class cls;
};

static void check(const struct verdict_case *c, const struct ps_ask *ask)
{
    struct ps_reply r;
    feed(&r, c->headers, 0);
    struct ps_judgement j = ps_reply_judge(&r, ask);
    if (j.verdict != c->verdict)
        fail_msg("verdict %d, not %d: %s", (int)j.verdict, (int)c->verdict, c->headers);
    if (j.verdict == PS_REPLY_REFUSE && (j.code != c->code || j.cls != c->cls || !j.what || !j.hint))
        fail_msg("code %d class %d: %s", j.code, (int)j.cls, c->headers);
}

#define P        "HTTP/1.1 206 Partial Content\r\n"
#define OK_RANGE "Content-Range: bytes 100-199/1000\r\n"

/* Asked: bytes [100, 200) of an object of 1000 whose ETag is "v1". */
static void test_ranges(void **state)
{
    (void)state;
    static const struct verdict_case cases[] = {
        {P OK_RANGE "Content-Length: 100\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P OK_RANGE "\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P "content-range: BYTES 100-199/*\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {"HTTP/2 206 \r\n" OK_RANGE "\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P OK_RANGE "ETag: \"v1\"\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P OK_RANGE "ETag: W/\"v1\"\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P OK_RANGE "ETag: unquoted\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P OK_RANGE "Content-Encoding: identity\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P OK_RANGE OK_RANGE "\r\n", PS_REPLY_ACCEPT, 0, 0},
        {"HTTP/1.1 103 Early Hints\r\nContent-Range: bytes 0-0/1\r\n\r\n" P OK_RANGE "\r\n",
         PS_REPLY_ACCEPT, 0, 0},
        /* the wrong bytes */
        {P "\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P "Content-Range: bytes 101-200/1000\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P "Content-Range: bytes 99-199/1000\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P "Content-Range: bytes 100-150/1000\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P "Content-Range: bytes 100-299/1000\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P "Content-Range: bytes */1000\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P "Content-Range: nonsense\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P OK_RANGE "Content-Range: bytes 0-99/1000\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA,
         PS_RETRY_REPLY},
        {P OK_RANGE "Content-Length: 99\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P OK_RANGE "Content-Length: 100\r\nContent-Length: 101\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA,
         PS_RETRY_REPLY},
        {P OK_RANGE "Content-Length: -1\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P OK_RANGE "Content-Encoding: gzip\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {P "Content-Type: multipart/byteranges; boundary=x\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA,
         PS_RETRY_REPLY},
        /* another version */
        {P OK_RANGE "ETag: \"v2\"\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_FATAL},
        {P OK_RANGE "ETag: W/\"v2\"\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_FATAL},
        {P "Content-Range: bytes 100-199/1001\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_FATAL},
        {"HTTP/1.1 412 No\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_FATAL},
        {"HTTP/1.1 416 No\r\nContent-Range: bytes */50\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA,
         PS_RETRY_FATAL},
        {P "Content-Range: bytes 100-149/150\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_FATAL},
        /* no ranges */
        {"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", PS_REPLY_REFUSE, PS_EREFUSED,
         PS_RETRY_FATAL},
        {"HTTP/1.1 200 OK\r\n\r\n", PS_REPLY_REFUSE, PS_EREFUSED, PS_RETRY_FATAL},
        /* statuses */
        {"HTTP/1.1 401 No\r\n\r\n", PS_REPLY_REFUSE, PS_EREFUSED, PS_RETRY_FATAL},
        {"HTTP/1.1 403 No\r\n\r\n", PS_REPLY_REFUSE, PS_EREFUSED, PS_RETRY_FATAL},
        {"HTTP/1.1 404 No\r\n\r\n", PS_REPLY_REFUSE, PS_ENOTFOUND, PS_RETRY_FATAL},
        {"HTTP/1.1 410 No\r\n\r\n", PS_REPLY_REFUSE, PS_ENOTFOUND, PS_RETRY_FATAL},
        {"HTTP/1.1 400 No\r\n\r\n", PS_REPLY_REFUSE, PS_EREFUSED, PS_RETRY_FATAL},
        {"HTTP/1.1 408 No\r\n\r\n", PS_REPLY_REFUSE, PS_ENET, PS_RETRY_TRANSPORT},
        {"HTTP/1.1 429 No\r\n\r\n", PS_REPLY_REFUSE, PS_ENET, PS_RETRY_THROTTLE},
        {"HTTP/1.1 503 No\r\n\r\n", PS_REPLY_REFUSE, PS_ENET, PS_RETRY_THROTTLE},
        {"HTTP/1.1 500 No\r\n\r\n", PS_REPLY_REFUSE, PS_ENET, PS_RETRY_SERVER},
        {"HTTP/1.1 502 No\r\n\r\n", PS_REPLY_REFUSE, PS_ENET, PS_RETRY_SERVER},
        {"HTTP/1.1 204 No\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {"HTTP/1.1 304 No\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {"HTTP/1.1 xyz\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", PS_REPLY_REDIRECT, 0, 0},
        {"HTTP/1.1 302 Found\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
    };
    const struct ps_ask ask = {.from = 100, .to = 200, .object_bytes = 1000, .etag = "\"v1\""};
    for (size_t i = 0; i < TEST_COUNT(cases); i++)
        check(&cases[i], &ask);
}

/* Asked: the whole of an object of 100 bytes. */
static void test_whole(void **state)
{
    (void)state;
    static const struct verdict_case cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {"HTTP/1.1 200 OK\r\n\r\n", PS_REPLY_ACCEPT, 0, 0}, /* counted as it comes */
        {"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_FATAL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n", PS_REPLY_REFUSE, PS_EREFUSED,
         PS_RETRY_FATAL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Encoding: br\r\n\r\n", PS_REPLY_REFUSE,
         PS_EDATA, PS_RETRY_REPLY},
        {P "Content-Range: bytes 0-99/100\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
    };
    const struct ps_ask ask = {.from = 0, .to = 100};
    for (size_t i = 0; i < TEST_COUNT(cases); i++)
        check(&cases[i], &ask);
    /* No length, but the object is known to be larger (found by fuzz_http_reply). */
    const struct ps_ask front = {.from = 0, .to = 100, .object_bytes = 102};
    const struct verdict_case whole = {"HTTP/1.1 200 OK\r\n\r\n", PS_REPLY_REFUSE, PS_EREFUSED,
                                       PS_RETRY_FATAL};
    check(&whole, &front);
}

/* Asked: up to 1000 bytes from the front of an object of unknown size; a whole object of up to
 * 5000 is fine too. */
static void test_open_end(void **state)
{
    (void)state;
    static const struct verdict_case cases[] = {
        {P "Content-Range: bytes 0-999/4000\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P "Content-Range: bytes 0-49/50\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P "Content-Range: bytes 0-49/*\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {P "Content-Range: bytes 0-49/60\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_REPLY},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", PS_REPLY_ACCEPT, 0, 0},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5001\r\n\r\n", PS_REPLY_REFUSE, PS_EREFUSED,
         PS_RETRY_FATAL},
        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", PS_REPLY_EMPTY, 0, 0},
        {"HTTP/1.1 416 No\r\nContent-Range: bytes */0\r\n\r\n", PS_REPLY_EMPTY, 0, 0},
        {"HTTP/1.1 416 No\r\nContent-Range: bytes */7\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA,
         PS_RETRY_FATAL},
        {"HTTP/1.1 416 No\r\n\r\n", PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_FATAL},
    };
    const struct ps_ask ask = {.from = 0, .to = 1000, .open_end = true, .whole_max = 5000};
    for (size_t i = 0; i < TEST_COUNT(cases); i++)
        check(&cases[i], &ask);
}

static void test_last_modified(void **state)
{
    (void)state;
    const struct ps_ask ask = {.from = 100,
                               .to = 200,
                               .last_modified = "Sun, 06 Nov 1994 08:49:37 GMT"};
    const struct verdict_case same = {P OK_RANGE
                                      "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n",
                                      PS_REPLY_ACCEPT, 0, 0};
    const struct verdict_case other = {P OK_RANGE
                                       "Last-Modified: Sun, 06 Nov 1994 08:49:38 GMT\r\n\r\n",
                                       PS_REPLY_REFUSE, PS_EDATA, PS_RETRY_FATAL};
    check(&same, &ask);
    check(&other, &ask);
}

static void test_etags(void **state)
{
    (void)state;
    struct ps_reply r;
    char line[400] = "ETag: \"";
    feed(&r, P "ETag: \"a-b/c\"\r\n\r\n", 0);
    assert_string_equal(r.etag, "\"a-b/c\"");
    assert_false(r.etag_weak);
    feed(&r, P "etag:W/\"x\"  \r\n\r\n", 0);
    assert_string_equal(r.etag, "\"x\"");
    assert_true(r.etag_weak);
    feed(&r, P "ETag: \"a b\"\r\n\r\n", 0); /* a space is no etagc: it must not reach If-Match */
    assert_string_equal(r.etag, "");
    feed(&r, P "ETag: \"a\"\r\nETag: \"b\"\r\n\r\n", 0);
    assert_true(r.malformed);
    memset(line + 7, 'x', 300);
    memcpy(line + 307, "\"\r\n", 4);
    ps_reply_init(&r);
    ps_reply_line(&r, line, strlen(line), 0);
    assert_string_equal(r.etag, "");
}

static uint64_t wait_of(const char *headers, uint64_t wall_s)
{
    struct ps_reply r;
    feed(&r, headers, wall_s);
    return r.retry_after_ns / PS_NS_PER_S;
}

static void test_waits(void **state)
{
    (void)state;
#define T "HTTP/1.1 429 Slow\r\n"
    const uint64_t then = 784111777; /* Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 */
    assert_int_equal(wait_of(T "Retry-After: 17\r\n\r\n", 0), 17);
    assert_int_equal(wait_of(T "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n", then - 30), 30);
    assert_int_equal(wait_of(T "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n", then + 5), 0);
    assert_int_equal(wait_of(T "Retry-After: Sun, 99 Nov 1994 08:49:37 GMT\r\n\r\n", 0), 0);
    assert_int_equal(wait_of(T "Retry-After: soon\r\n\r\n", 0), 0);
    assert_int_equal(wait_of(T "Retry-After: 99999999999999999\r\n\r\n", 0), 31536000);
    assert_int_equal(wait_of(T "RateLimit: \"resolvers\";r=0;t=37\r\n\r\n", 0), 37);
    assert_int_equal(wait_of(T "RateLimit: \"resolvers\";r=5;t=37\r\n\r\n", 0), 0);
    assert_int_equal(wait_of(T "RateLimit: \"resolvers\"; t=9; r=0\r\nRetry-After: 3\r\n\r\n", 0), 9);
    assert_int_equal(wait_of(T "X-RateLimit-Reset: 7\r\n\r\n", 0), 7);
    assert_int_equal(wait_of(T "x-ratelimit-reset: 7\r\nx-ratelimit-remaining: 2\r\n\r\n", 0), 0);
    assert_int_equal(wait_of(T "RateLimit-Remaining: 0\r\nRateLimit-Reset: 8\r\n\r\n", 0), 8);
    assert_int_equal(wait_of(T "X-RateLimit-Reset: 1700000009\r\nX-RateLimit-Remaining: 0\r\n\r\n",
                             1700000000),
                     9);
    assert_int_equal(wait_of(T "X-RateLimit-Reset: 1700000009\r\n\r\n", 1800000000), 0);
    assert_int_equal(wait_of(T "X-RateLimit-Reset: soon\r\n\r\n", 0), 0);
    assert_int_equal(wait_of("HTTP/1.1 503 Busy\r\nX-RateLimit-Reset: 7\r\n\r\n", 0), 0);
#undef T
}

static void test_trailers_are_ignored(void **state)
{
    (void)state;
    struct ps_reply r;
    feed(&r, P OK_RANGE "\r\nContent-Range: bytes 0-0/1\r\nHTTP/1.1 404 x\r\n\r\n", 0);
    assert_true(r.complete);
    assert_int_equal(r.status, 206);
    assert_int_equal(r.range.from, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_content_range), cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_whole),         cmocka_unit_test(test_open_end),
        cmocka_unit_test(test_last_modified), cmocka_unit_test(test_etags),
        cmocka_unit_test(test_waits),         cmocka_unit_test(test_trailers_are_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
