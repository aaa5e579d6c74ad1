/* Writing to S3: what is sent, what a refusal becomes, that no upload stays open. */
#include "tests/support/test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "fetcher/s3_upload.h"
#include "tests/support/loopback.h"

#define BODY_BYTES 200000u

static uint8_t body[BODY_BYTES];
static uint8_t body_sum;

struct stage {
    struct bad_server *server;
    struct ps_s3_writer *w;
    uint64_t live;
};

static void begin(struct stage *b, const struct bad_rule *rules, size_t n)
{
    char text[64];
    struct ps_err err = {0};
    b->live = ps_alloc_live_count();
    b->server = bad_server_start(rules, n, "", 0);
    snprintf(text, sizeof text, "http://127.0.0.1:%u", bad_server_port(b->server));
    setenv("AWS_ENDPOINT_URL", text, 1);
    const struct ps_store_options o = {.net_deadline_s = 3};
    assert_ok(ps_s3_writer_open(&b->w, "s3://bucket/dir", &o, &err), &err);
}

static void end(struct stage *b)
{
    ps_s3_writer_close(b->w);
    loopback_end(b->server, b->live);
}

static struct bad_seen seen_at(struct stage *b, size_t i)
{
    return loopback_seen(b->server, i);
}

static void is_request(struct stage *b, size_t i, const char *method, const char *query)
{
    struct bad_seen s = seen_at(b, i);
    assert_string_equal(s.method, method);
    assert_string_equal(s.path, "/bucket/dir/a%20b");
    assert_string_equal(s.query, query);
    assert_non_null(strstr(s.authorization, "AWS4-HMAC-SHA256 Credential=AKIA/"));
}

static void is_body(struct stage *b, size_t i)
{
    uint8_t hash[PS_SHA256_BYTES];
    char hex[2 * PS_SHA256_BYTES + 1];
    struct bad_seen s = seen_at(b, i);
    ps_sha256_once(body, BODY_BYTES, hash);
    ps_hex_encode(hash, sizeof hash, hex);
    assert_int_equal(s.body_bytes, BODY_BYTES);
    assert_int_equal(s.body_sum, body_sum);
    assert_string_equal(s.content_sha256, hex);
}

static void test_put(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {{.times = 1,
                                             .kind = BAD_STATUS,
                                             .status = 503,
                                             .body = "<Error><Code>SlowDown</Code></Error>"},
                                            {.after = 1, .times = 1, .kind = BAD_CLOSE},
                                            {.after = 2,
                                             .times = 1,
                                             .kind = BAD_STATUS,
                                             .status = 301,
                                             .header = "x-amz-bucket-region: eu-west-1\r\n"},
                                            {.kind = BAD_STATUS, .status = 200}};
    struct stage b;
    struct ps_err err = {0};
    begin(&b, rules, TEST_COUNT(rules));
    assert_ok(ps_s3_put(b.w, "a b", body, BODY_BYTES, &err), &err);
    assert_int_equal(bad_server_requests(b.server), 4);
    for (size_t i = 0; i < 4; i++) {
        is_request(&b, i, "PUT", "");
        is_body(&b, i);
    }
    assert_non_null(strstr(seen_at(&b, 3).authorization, "/eu-west-1/s3/"));
    assert_ok(ps_s3_put(b.w, "a b", "", 0, &err), &err);
    assert_int_equal(seen_at(&b, 4).body_bytes, 0);
    end(&b);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        struct bad_rule rule;
        int rc;
        const char *says;
        unsigned requests;
    } cases[] = {
        {{.kind = BAD_STATUS, .status = 403, .body = "<Error><Code>AccessDenied</Code></Error>"},
         PS_EREFUSED,
         "AccessDenied",
         1},
        {{.kind = BAD_STATUS, .status = 403, .body = "<Error><Code>InvalidAccessKeyId</Code></Error>"},
         PS_EREFUSED,
         "InvalidAccessKeyId",
         1},
        {{.kind = BAD_STATUS, .status = 409}, PS_EREFUSED, "refused to write", 1},
        {{.kind = BAD_STATUS, .status = 500}, PS_ENET, "server error", 0},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct stage b;
        struct ps_err err = {0};
        begin(&b, &cases[i].rule, 1);
        assert_int_equal(ps_s3_put(b.w, "a b", body, 100, &err), cases[i].rc);
        if (!strstr(err.text, cases[i].says) || !strstr(err.text, "s3://bucket/dir"))
            fail_msg("%s", err.text);
        if (cases[i].requests)
            assert_int_equal(bad_server_requests(b.server), cases[i].requests);
        end(&b);
    }
}

#define ID "<R><UploadId>u/1 &amp;</UploadId></R>"

struct part_job {
    struct ps_s3_upload *u;
    unsigned number;
    int rc;
};

static void *send_part(void *arg)
{
    struct part_job *j = arg;
    j->rc = ps_s3_upload_part(j->u, j->number, body, BODY_BYTES, NULL);
    return NULL;
}

static void test_parts(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {
        {.times = 1, .kind = BAD_STATUS, .status = 200, .body = ID},
        {.after = 4,
         .times = 1,
         .kind = BAD_STATUS,
         .status = 200, /* an error in a 200 */
         .body = "<Error><Code>InternalError</Code></Error>"},
        {.kind = BAD_STATUS, .status = 200, .header = "ETag: \"p\"\r\n", .body = "<Ok/>"}};
    struct stage b;
    struct ps_err err = {0};
    struct ps_s3_upload *u;
    struct part_job jobs[3];
    pthread_t threads[3];
    begin(&b, rules, TEST_COUNT(rules));
    assert_ok(ps_s3_upload_begin(&u, b.w, "a b", &err), &err);
    is_request(&b, 0, "POST", "uploads=");
    for (unsigned i = 0; i < 3; i++) {
        jobs[i] = (struct part_job){u, i + 1, -1};
        assert_int_equal(pthread_create(&threads[i], NULL, send_part, &jobs[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(jobs[i].rc, 0);
        is_body(&b, i + 1);
        assert_non_null(strstr(seen_at(&b, i + 1).query, "&uploadId=u%2F1%20%26"));
    }
    assert_ok(ps_s3_upload_complete(u, &err), &err);
    assert_int_equal(bad_server_requests(b.server), 6);
    is_request(&b, 4, "POST", "uploadId=u%2F1%20%26");
    is_request(&b, 5, "POST", "uploadId=u%2F1%20%26");
    end(&b);
}

static void test_abort(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {
        {.times = 1, .kind = BAD_STATUS, .status = 200, .body = ID},
        {.after = 2,
         .times = 1,
         .kind = BAD_STATUS,
         .status = 400,
         .body = "<Error><Code>InvalidPart</Code></Error>"},
        {.kind = BAD_STATUS, .status = 200, .header = "ETag: \"p\"\r\n", .body = "<Ok/>"}};
    struct stage b;
    struct ps_err err = {0};
    struct ps_s3_upload *u;
    begin(&b, rules, TEST_COUNT(rules));
    assert_ok(ps_s3_upload_begin(&u, b.w, "a b", &err), &err);
    assert_ok(ps_s3_upload_part(u, 1, body, BODY_BYTES, &err), &err);
    assert_int_equal(ps_s3_upload_complete(u, &err), PS_EREFUSED);
    assert_int_equal(bad_server_requests(b.server), 4);
    is_request(&b, 3, "DELETE", "uploadId=u%2F1%20%26");
    end(&b);
}

static void test_interrupt(void **state)
{
    (void)state;
    static const struct bad_rule busy = {.kind = BAD_STATUS, .status = 503};
    atomic_int interrupt = 1;
    struct stage b;
    struct ps_err err = {0};
    struct ps_s3_writer *w;
    begin(&b, &busy, 1);
    const struct ps_store_options o = {.interrupt = &interrupt};
    assert_ok(ps_s3_writer_open(&w, "s3://bucket/dir", &o, &err), &err);
    assert_int_equal(ps_s3_put(w, "a b", body, 100, &err), PS_EINTERRUPTED);
    ps_s3_writer_close(w);
    end(&b);
}

static int setup(void **state)
{
    static const char *const gone[] = {"http_proxy",        "https_proxy",
                                       "all_proxy",         "ALL_PROXY",
                                       "HTTPS_PROXY",       "AWS_PROFILE",
                                       "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3",
                                       "AWS_REGION",        "AWS_DEFAULT_REGION",
                                       "AWS_CONFIG_FILE",   "AWS_SHARED_CREDENTIALS_FILE"};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(gone); i++)
        unsetenv(gone[i]);
    setenv("HOME", "/nonexistent", 1);
    setenv("AWS_ACCESS_KEY_ID", "AKIA", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
    for (size_t i = 0; i < BODY_BYTES; i++)
        body_sum = (uint8_t)(body_sum + (body[i] = (uint8_t)(i * 2654435761u >> 9)));
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put),       cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_parts),     cmocka_unit_test(test_abort),
        cmocka_unit_test(test_interrupt),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
