/* The pure parts of the S3 store: signatures against AWS's published vectors, XML, configuration
 * files, the meaning of error codes; and what an address may look like. */
#include "tests/support/test.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/strbuf.h"
#include "fetcher/ini.h"
#include "fetcher/s3_config.h"
#include "fetcher/s3_credentials.h"
#include "fetcher/s3_reply.h"
#include "fetcher/s3_sign.h"
#include "fetcher/store.h"
#include "fetcher/uri.h"
#include "fetcher/xml_scan.h"
#include "tests/support/loopback.h"

/* ---- signatures ---- */

#define SUITE_KEYS "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
#define SUITE_HEADERS                                                                              \
    {"host", "example.amazonaws.com"},                                                             \
    {                                                                                              \
        "x-amz-date", "20150830T123600Z"                                                           \
    }
#define LETTERS "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/* From AWS's signing test suite, version 4: name, path and query in plain characters, more headers,
 * what is signed, signature. */
static const struct {
    const char *name, *method, *path, *query;
    struct ps_sigv4_header headers[6];
    const char *names, *signature;
} suite[] = {
    {"get-vanilla",
     "GET",
     "/",
     NULL,
     {SUITE_HEADERS},
     "host;x-amz-date",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"post-vanilla",
     "POST",
     "/",
     NULL,
     {SUITE_HEADERS},
     "host;x-amz-date",
     "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
    {"get-unreserved",
     "GET",
     "/" LETTERS,
     NULL,
     {SUITE_HEADERS},
     "host;x-amz-date",
     "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
    {"get-utf8",
     "GET",
     "/\xe1\x88\xb4",
     NULL,
     {SUITE_HEADERS},
     "host;x-amz-date",
     "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
    {"get-vanilla-empty-query-key",
     "GET",
     "/",
     "Param1=value1",
     {SUITE_HEADERS},
     "host;x-amz-date",
     "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
    {"get-vanilla-query-order-key-case",
     "GET",
     "/",
     "Param2=value2&Param1=value1",
     {SUITE_HEADERS},
     "host;x-amz-date",
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
    {"get-vanilla-query-order-encoded",
     "GET",
     "/",
     "Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
     {SUITE_HEADERS},
     "host;x-amz-date",
     "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac"},
    {"get-vanilla-utf8-query",
     "GET",
     "/",
     "\xe1\x88\xb4=bar",
     {SUITE_HEADERS},
     "host;x-amz-date",
     "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
    {"get-vanilla-query-unreserved",
     "GET",
     "/",
     LETTERS "=" LETTERS,
     {SUITE_HEADERS},
     "host;x-amz-date",
     "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
    {"get-header-value-trim",
     "GET",
     "/",
     NULL,
     {SUITE_HEADERS, {"my-header1", " value1"}, {"my-header2", " \"a   b   c\""}},
     "host;my-header1;my-header2;x-amz-date",
     "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
    {"get-header-key-duplicate",
     "GET",
     "/",
     NULL,
     {SUITE_HEADERS, {"my-header1", "value2"}, {"my-header1", "value2"}, {"my-header1", "value1"}},
     "host;my-header1;x-amz-date",
     "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
    {"get-header-value-order",
     "GET",
     "/",
     NULL,
     {SUITE_HEADERS,
      {"my-header1", "value4"},
      {"my-header1", "value1"},
      {"my-header1", "value3"},
      {"my-header1", "value2"}},
     "host;my-header1;x-amz-date",
     "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
    {"get-vanilla-with-session-token",
     "GET",
     "/",
     NULL,
     {SUITE_HEADERS,
      {"x-amz-security-token", "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"}},
     "host;x-amz-date;x-amz-security-token",
     "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"},
};

static size_t count_headers(const struct ps_sigv4_header *h, size_t cap)
{
    size_t n = 0;
    while (n < cap && h[n].name)
        n++;
    return n;
}

static void signs_as(const struct ps_sigv4_request *q, const struct ps_sigv4_key *k,
                     const char *scope, const char *names, const char *signature)
{
    char got[PS_SIGV4_AUTH_MAX], want[PS_SIGV4_AUTH_MAX];
    snprintf(want, sizeof want, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
             k->access_key, scope, names, signature);
    assert_int_equal(ps_sigv4_authorization(got, q, k), 0);
    assert_string_equal(got, want);
}

static void test_suite(void **state)
{
    (void)state;
    const struct ps_sigv4_key k = {SUITE_KEYS, "us-east-1", "service", "20150830T123600Z"};
    for (size_t i = 0; i < TEST_COUNT(suite); i++) {
        struct ps_strbuf path;
        ps_strbuf_init(&path, 1000);
        ps_uri_escape(&path, suite[i].path, true);
        const struct ps_sigv4_request q = {.method = suite[i].method,
                                           .path = path.data,
                                           .query = suite[i].query,
                                           .headers = suite[i].headers,
                                           .n_headers = count_headers(suite[i].headers, 6),
                                           .payload_hash = PS_SIGV4_EMPTY_HASH};
        printf("%s\n", suite[i].name);
        signs_as(&q, &k, "20150830/us-east-1/service/aws4_request", suite[i].names,
                 suite[i].signature);
        ps_strbuf_deinit(&path);
    }
}

/* The examples of "Authenticating requests: using the Authorization header" in the S3 API reference. */
static void test_s3_examples(void **state)
{
    (void)state;
    const struct ps_sigv4_key k = {"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
                                   "us-east-1", "s3", "20130524T000000Z"};
    const char *scope = "20130524/us-east-1/s3/aws4_request";
    const struct ps_sigv4_header get[] = {{"host", "examplebucket.s3.amazonaws.com"},
                                          {"range", "bytes=0-9"},
                                          {"x-amz-content-sha256", PS_SIGV4_EMPTY_HASH},
                                          {"x-amz-date", "20130524T000000Z"}};
    struct ps_sigv4_request q = {.method = "GET",
                                 .path = "/test.txt",
                                 .headers = get,
                                 .n_headers = 4,
                                 .payload_hash = PS_SIGV4_EMPTY_HASH};
    signs_as(&q, &k, scope, "host;range;x-amz-content-sha256;x-amz-date",
             "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
    const struct ps_sigv4_header list[] = {get[0], get[2], get[3]};
    q.path = "/";
    q.headers = list;
    q.n_headers = 3;
    q.query = "lifecycle";
    signs_as(&q, &k, scope, "host;x-amz-content-sha256;x-amz-date",
             "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
    q.query = "prefix=J&max-keys=2";
    signs_as(&q, &k, scope, "host;x-amz-content-sha256;x-amz-date",
             "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    const char *put_hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    const struct ps_sigv4_header put[] = {get[0],
                                          {"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                          {"x-amz-content-sha256", put_hash},
                                          get[3],
                                          {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
    const struct ps_sigv4_request p = {.method = "PUT",
                                       .path = "/test%24file.text",
                                       .headers = put,
                                       .n_headers = 5,
                                       .payload_hash = put_hash};
    signs_as(&p, &k, scope, "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
             "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

static void test_sign_bounds(void **state)
{
    (void)state;
    char got[PS_SIGV4_AUTH_MAX], other[PS_SIGV4_AUTH_MAX], date[PS_SIGV4_DATE_BYTES];
    const struct ps_sigv4_header h[] = {SUITE_HEADERS};
    struct ps_sigv4_key k = {SUITE_KEYS, "us-east-1", "s3", "20150830T123600Z"};
    struct ps_sigv4_request q = {"GET", "/", NULL, h, 2, PS_SIGV4_EMPTY_HASH};
    assert_int_equal(ps_sigv4_authorization(got, &q, &k), 0);
    q.payload_hash = PS_SIGV4_UNSIGNED;
    assert_int_equal(ps_sigv4_authorization(other, &q, &k), 0);
    assert_string_not_equal(got, other);
    char query[1000] = "";
    for (int i = 0; i < 100; i++)
        snprintf(query + strlen(query), sizeof query - strlen(query), "a=%d&", i);
    q.query = query;
    assert_int_equal(ps_sigv4_authorization(got, &q, &k), PS_EDATA);
    q.query = NULL;
    k.date = "20150830";
    assert_int_equal(ps_sigv4_authorization(got, &q, &k), PS_EDATA);
    ps_sigv4_date(1440938160, date);
    assert_string_equal(date, "20150830T123600Z");
}

static void test_hmac(void **state)
{
    (void)state;
    /* RFC 4231, test case 2. */
    uint8_t out[PS_SHA256_BYTES];
    char hex[2 * PS_SHA256_BYTES + 1];
    assert_int_equal(ps_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, out), 0);
    ps_hex_encode(out, sizeof out, hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

/* ---- XML ---- */

static void test_xml(void **state)
{
    (void)state;
    static const struct {
        const char *xml, *name, *text; /* NULL: none */
    } cases[] = {
        {"<Error><Code>NoSuchKey</Code></Error>", "Code", "NoSuchKey"},
        {"<?xml version='1.0'?>\n<Error>\n <Code>\n  A B\n </Code>\n</Error>", "Code", "A B"},
        {"<a:Error xmlns:a='x'><a:Code z=\">\">Q</a:Code>", "Code", "Q"},
        {"<Codes>1</Codes><Code >2</Code>", "Code", "2"},
        {"<Code>&lt;&amp;&#65;&#x42;&gt;&quot;&apos;&nbsp;</Code>", "Code", "<&AB>\"'&nbsp;"},
        {"<Code>&#xe9;&#x1F600;&#0;&#xD800;</Code>", "Code", "\xc3\xa9\xf0\x9f\x98\x80??"},
        {"<!-- <Code>no</Code> --><Code>y<!-- n -->es</Code>", "Code", "yes"},
        {"<x a='<Code>no</Code>'/><Code>yes</Code>", "Code", "yes"},
        {"<![CDATA[<Code>no</Code>]]><Code><![CDATA[<b>]]></Code>", "Code", "<b>"},
        {"<Code>\001\x7f\n\t|</Code>", "Code", "??  |"},
        {"<Code/><Code>late</Code>", "Code", NULL},
        {"<Code><b>x</b></Code>", "Code", NULL},
        {"<Code>cut", "Code", NULL},
        {"<Code", "Code", NULL},
        {"<Code>0123456789012345678901234567890123</Code>", "Code", NULL}, /* too long */
        {"", "Code", NULL},
        {"Code", "Code", NULL},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        char out[32] = "before";
        bool found = ps_xml_text(cases[i].xml, strlen(cases[i].xml), cases[i].name, out, sizeof out);
        if (found != (cases[i].text != NULL) || strcmp(out, cases[i].text ? cases[i].text : "") != 0)
            fail_msg("%s: %d '%s'", cases[i].xml, found, out);
    }
}

/* ---- what replies mean ---- */

static struct ps_s3_answer reply(int status, const char *body)
{
    return (struct ps_s3_answer){.status = status,
                                 .region_header = "",
                                 .date_header = "",
                                 .body = body,
                                 .body_bytes = strlen(body),
                                 .wall_s = 1000000000,
                                 .region = "us-east-1"};
}

static struct ps_judgement refusal(void)
{
    return (struct ps_judgement){.verdict = PS_REPLY_REFUSE,
                                 .cls = PS_RETRY_FATAL,
                                 .code = PS_EREFUSED,
                                 .what = "plain",
                                 .hint = "plain"};
}

static void test_regions(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *header, *body, *region;
    } cases[] = {
        {301, "eu-west-1", "", "eu-west-1"},
        {400, "",
         "<Error><Code>AuthorizationHeaderMalformed</Code><Region>ap-south-1</Region></Error>",
         "ap-south-1"},
        {301, "", "<Error><Endpoint>b.s3.eu-west-2.amazonaws.com</Endpoint></Error>", "eu-west-2"},
        {307, "", "<Error><Endpoint>b.s3-us-west-2.amazonaws.com</Endpoint></Error>", "us-west-2"},
        {301, "", "<Error><Endpoint>b.s3.amazonaws.com</Endpoint></Error>", NULL},
        {301, "us-east-1", "", NULL},         /* where it was asked */
        {301, "evil.example.com/", "", NULL}, /* no region */
        {301, "-x", "", NULL},
        {403, "eu-west-1", "", NULL}, /* AWS names the region in every reply */
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_s3_answer a = reply(cases[i].status, cases[i].body);
        struct ps_judgement j = refusal();
        a.region_header = cases[i].header;
        struct ps_s3_advice v = ps_s3_judge(&a, &j);
        assert_int_equal(v.action, cases[i].region ? PS_S3_SET_REGION : PS_S3_GIVE_UP);
        if (cases[i].region)
            assert_string_equal(v.region, cases[i].region);
    }
    struct ps_s3_answer a = reply(301, "");
    struct ps_judgement j = refusal();
    a.region_header = a.region;
    a.stale = true; /* another request found it out meanwhile */
    assert_int_equal(ps_s3_judge(&a, &j).action, PS_S3_AGAIN);
}

static void test_clock(void **state)
{
    (void)state;
    const char *body = "<Error><Code>RequestTimeTooSkewed</Code>"
                       "<ServerTime>2001-09-09T02:46:40Z</ServerTime></Error>";
    struct ps_s3_answer a = reply(403, body);
    struct ps_judgement j = refusal();
    struct ps_s3_advice v = ps_s3_judge(&a, &j);
    assert_int_equal(v.action, PS_S3_SET_CLOCK);
    assert_int_equal(v.offset_s, 3600);
    a.date_header = "Sun, 09 Sep 2001 01:46:00 GMT"; /* goes before */
    v = ps_s3_judge(&a, &j);
    assert_int_equal(v.action, PS_S3_GIVE_UP); /* 40 s off: that is not why */
    assert_non_null(strstr(j.hint, "clock"));
    a.date_header = "Sun, 09 Sep 2001 00:46:40 GMT";
    v = ps_s3_judge(&a, &j);
    assert_int_equal(v.action, PS_S3_SET_CLOCK);
    assert_int_equal(v.offset_s, -3600);
    a.offset_s = -3600; /* done once: it did not help */
    assert_int_equal(ps_s3_judge(&a, &j).action, PS_S3_GIVE_UP);
}

static void test_words(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *code;
        bool is_unsigned;
        enum ps_s3_action action;
        int rc;
        const char *what, *hint;
    } cases[] = {
        {403, "AccessDenied", false, PS_S3_GIVE_UP, PS_EREFUSED, "access denied", "AWS_PROFILE"},
        {403, "AccessDenied", true, PS_S3_GIVE_UP, PS_EREFUSED, "access denied",
         "asked without AWS keys"},
        {403, "SignatureDoesNotMatch", false, PS_S3_GIVE_UP, PS_EREFUSED, "wrong signature",
         "AWS_SECRET_ACCESS_KEY"},
        {403, "InvalidAccessKeyId", false, PS_S3_NEW_KEYS, PS_EREFUSED, "unknown access key",
         "endpoint"},
        {400, "ExpiredToken", false, PS_S3_NEW_KEYS, PS_EREFUSED, "expired", "log in"},
        {404, "NoSuchKey", false, PS_S3_GIVE_UP, PS_ENOTFOUND, "no such object", "address"},
        {404, "NoSuchBucket", false, PS_S3_GIVE_UP, PS_EREFUSED, "no such bucket", "AWS_ENDPOINT_URL"},
        {403, "InvalidObjectState", false, PS_S3_GIVE_UP, PS_EREFUSED, "archived", "Glacier"},
        {400, "RequestTimeout", false, PS_S3_GIVE_UP, PS_ENET, "RequestTimeout", "later"},
        {418, "SomethingNew", false, PS_S3_GIVE_UP, PS_EREFUSED, "plain", "plain"},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        char body[200];
        snprintf(body, sizeof body, "<Error><Code>%s</Code><Message>m</Message></Error>",
                 cases[i].code);
        struct ps_s3_answer a = reply(cases[i].status, body);
        struct ps_judgement j = refusal();
        a.unsigned_request = cases[i].is_unsigned;
        assert_int_equal(ps_s3_judge(&a, &j).action, cases[i].action);
        if (cases[i].action == PS_S3_NEW_KEYS) {
            assert_string_equal(j.what, "plain");
            continue;
        }
        assert_int_equal(j.code, cases[i].rc);
        assert_non_null(strstr(j.what, cases[i].what));
        assert_non_null(strstr(j.hint, cases[i].hint));
    }
}

/* ---- configuration ---- */

static void test_ini(void **state)
{
    (void)state;
    static const char text[] =
        "# comment\n[default]\nregion = us-west-2 ; here\r\n"
        "aws_access_key_id=AKIA=1\n  key=with-blank\n"
        "s3 =\n    addressing_style = path\n    x=1\nempty =\n"
        "[profile  a b]\nregion=eu-west-1\n[b]\nregion = 1\nregion = 2\n"
        "[default]\nlast = #7\n"
        "[profile 'c d']\nregion = r1\n[services \"e\"]\nregion = r2\n[profile 'f]\nregion = r3\n";
    static const struct {
        const char *section, *key, *value;
    } cases[] = {
        {"default", "region", "us-west-2"},
        {"default", "aws_access_key_id", "AKIA=1"},
        {"default", "s3.addressing_style", "path"},
        {"default", "addressing_style", NULL},
        {"default", "s3", NULL},
        {"default", "empty", NULL},
        {"default", "last", "#7"},
        {"profile a b", "region", "eu-west-1"},
        {"a b", "region", NULL},
        {"b", "region", "2"},
        {"c", "region", NULL},
        {"profile c d", "region", "r1"},
        {"services e", "region", "r2"},
        {"profile f", "region", NULL},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        char out[32];
        bool found =
            ps_ini_get(text, sizeof text - 1, cases[i].section, cases[i].key, out, sizeof out);
        if (found != (cases[i].value != NULL) || (found && strcmp(out, cases[i].value) != 0))
            fail_msg("[%s] %s", cases[i].section, cases[i].key);
    }
    assert_true(ps_ini_has_section(text, sizeof text - 1, "profile a b"));
    assert_false(ps_ini_has_section(text, sizeof text - 1, "profile b"));
    char tiny[4];
    assert_false(ps_ini_get(text, sizeof text - 1, "default", "region", tiny, sizeof tiny));
}

static void clear_environment(void)
{
    static const char *const names[] = {"AWS_PROFILE",
                                        "AWS_DEFAULT_PROFILE",
                                        "AWS_REGION",
                                        "AWS_DEFAULT_REGION",
                                        "AWS_ENDPOINT_URL",
                                        "AWS_ENDPOINT_URL_S3",
                                        "AWS_ENDPOINT_URL_STS",
                                        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
                                        "AWS_ACCESS_KEY_ID",
                                        "AWS_SECRET_ACCESS_KEY",
                                        "AWS_SESSION_TOKEN",
                                        "AWS_WEB_IDENTITY_TOKEN_FILE",
                                        "AWS_ROLE_ARN",
                                        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                                        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                                        "AWS_REQUEST_PAYER",
                                        "AWS_NO_SIGN_REQUEST",
                                        "PENSTOCK_NO_SIGN_REQUEST",
                                        "AWS_CA_BUNDLE",
                                        "AWS_CONFIG_FILE",
                                        "AWS_SHARED_CREDENTIALS_FILE"};
    for (size_t i = 0; i < TEST_COUNT(names); i++)
        unsetenv(names[i]);
    setenv("HOME", "/nonexistent", 1);
    setenv("AWS_EC2_METADATA_DISABLED", "true", 1);
}

static void check_endpoint(const char *service, const char *want)
{
    struct ps_s3_files f;
    char *got = NULL;
    assert_int_equal(ps_s3_files_load(&f, NULL), 0);
    assert_int_equal(ps_s3_endpoint(&got, &f, service), 0);
    if (want)
        assert_string_equal(got, want);
    else
        assert_null(got);
    ps_free(got);
    ps_s3_files_deinit(&f);
}

static void test_config(void **state)
{
    (void)state;
    char dir[256], path[300];
    struct ps_s3_config c;
    struct ps_err err = {0};
    clear_environment();
    uint64_t live = ps_alloc_live_count();
    assert_ok(ps_s3_config_load(&c, &err), &err);
    assert_string_equal(c.region, "us-east-1");
    assert_true(!c.endpoint && !c.ca_file && !c.anonymous && !c.requester_pays);
    ps_s3_config_deinit(&c);
    test_temp_dir(dir, sizeof dir);
    static const char config[] =
        "[default]\nregion=us-west-1\n[profile x]\nregion = eu-west-3\n"
        "endpoint_url = http://h:1\ns3 =\n  addressing_style = virtual\n"
        "[profile y]\nservices = local\nendpoint_url = http://h:1\n[services local]\n"
        "sts =\n  endpoint_url = http://h:3\ns3 =\n  endpoint_url = http://own:2\n";
    snprintf(path, sizeof path, "%s/config", dir);
    test_write_file(path, config, sizeof config - 1);
    setenv("AWS_CONFIG_FILE", path, 1);
    setenv("AWS_PROFILE", "x", 1);
    setenv("AWS_REQUEST_PAYER", "requester", 1);
    setenv("AWS_NO_SIGN_REQUEST", "YES", 1);
    assert_ok(ps_s3_config_load(&c, &err), &err);
    assert_string_equal(c.region, "eu-west-3");
    assert_string_equal(c.endpoint, "http://h:1");
    assert_true(c.style == PS_S3_STYLE_VIRTUAL && c.anonymous && c.requester_pays);
    ps_s3_config_deinit(&c);
    setenv("AWS_PROFILE", "y", 1);
    assert_ok(ps_s3_config_load(&c, &err), &err);
    assert_string_equal(c.endpoint, "http://own:2");
    ps_s3_config_deinit(&c);
    check_endpoint("sts", "http://h:3");
    check_endpoint("other", "http://h:1");
    setenv("AWS_ENDPOINT_URL", "http://all:4", 1);
    check_endpoint("sts", "http://all:4");
    setenv("AWS_ENDPOINT_URL_STS", "http://own:5", 1);
    check_endpoint("sts", "http://own:5");
    setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true", 1);
    check_endpoint("sts", NULL);
    unsetenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
    unsetenv("AWS_ENDPOINT_URL_STS");
    assert_ok(ps_s3_config_load(&c, &err), &err);
    assert_string_equal(c.endpoint, "http://all:4");
    ps_s3_config_deinit(&c);
    unsetenv("AWS_ENDPOINT_URL");
    setenv("AWS_REGION", "sa-east-1", 1);
    setenv("AWS_ENDPOINT_URL_S3", "https://other", 1);
    assert_ok(ps_s3_config_load(&c, &err), &err);
    assert_string_equal(c.region, "sa-east-1");
    assert_string_equal(c.endpoint, "https://other");
    ps_s3_config_deinit(&c);
    setenv("AWS_REGION", "a.b/c", 1);
    assert_int_equal(ps_s3_config_load(&c, &err), PS_EUSAGE);
    setenv("AWS_PROFILE", "missing", 1);
    assert_int_equal(ps_s3_config_load(&c, &err), PS_EREFUSED);
    assert_non_null(strstr(err.text, "no such AWS profile: missing"));
    assert_int_equal(ps_alloc_live_count(), live);
    test_remove_tree(dir);
    clear_environment();
}

static void test_time(void **state)
{
    (void)state;
    assert_int_equal(ps_s3_parse_time("2015-08-30T12:36:00Z"), 1440938160);
    assert_int_equal(ps_s3_parse_time("2015-08-30T12:36:00.123Z"), 1440938160);
    assert_int_equal(ps_s3_parse_time("2015-08-30T12:36:00+00:00"), 1440938160);
    assert_int_equal(ps_s3_parse_time("2015-08-30T12:36:00+02:00"), 0);
    assert_int_equal(ps_s3_parse_time("yesterday"), 0);
    assert_int_equal(ps_s3_parse_time(NULL), 0);
}

static int keys(struct ps_s3_keys *k, struct ps_err *err)
{
    const struct ps_s3_key_ask ask = {.region = "us-east-1"};
    enum ps_retry_class cls;
    return ps_s3_keys_fetch(k, &ask, &cls, err);
}

static void test_keys_of_environment_and_files(void **state)
{
    (void)state;
    static struct ps_s3_keys k;
    struct ps_err err = {0};
    char dir[256], path[300];
    clear_environment();
    assert_ok(keys(&k, &err), &err);
    assert_int_equal(k.source, PS_S3_KEYS_NONE);
    test_temp_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/credentials", dir);
    static const char text[] = "[default]\naws_access_key_id = A1\naws_secret_access_key = S1\n"
                               "[t]\naws_access_key_id = A2\naws_secret_access_key = S2\n"
                               "aws_session_token = T2\n[half]\naws_access_key_id = A3\n"
                               "[sso]\nsso_session = x\n";
    test_write_file(path, text, sizeof text - 1);
    setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1);
    assert_ok(keys(&k, &err), &err);
    assert_true(k.source == PS_S3_KEYS_PROFILE && strcmp(k.access, "A1") == 0 && !k.token[0]);
    setenv("AWS_PROFILE", "t", 1);
    assert_ok(keys(&k, &err), &err);
    assert_string_equal(k.secret, "S2");
    assert_string_equal(k.token, "T2");
    setenv("AWS_PROFILE", "half", 1);
    assert_int_equal(keys(&k, &err), PS_EREFUSED);
    assert_non_null(strstr(err.text, "aws_secret_access_key"));
    setenv("AWS_PROFILE", "sso", 1);
    assert_int_equal(keys(&k, &err), PS_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "export-credentials"));
    setenv("AWS_ACCESS_KEY_ID", "A4", 1); /* the environment goes before any profile */
    assert_int_equal(keys(&k, &err), PS_EREFUSED);
    setenv("AWS_SECRET_ACCESS_KEY", "S4", 1);
    assert_ok(keys(&k, &err), &err);
    assert_true(k.source == PS_S3_KEYS_ENV && strcmp(k.access, "A4") == 0);
    setenv("AWS_SESSION_TOKEN", "a\r\nX-Evil: 1", 1);
    assert_int_equal(keys(&k, &err), PS_EREFUSED);
    assert_null(strstr(err.text, "S4"));
    test_remove_tree(dir);
    clear_environment();
}

static void test_container_address(void **state)
{
    (void)state;
    static struct ps_s3_keys k;
    struct ps_err err = {0};
    clear_environment();
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.1.2.3/keys", 1);
    assert_int_equal(keys(&k, &err), PS_EREFUSED);
    assert_non_null(strstr(err.text, "another machine"));
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1.evil.example/keys", 1);
    assert_int_equal(keys(&k, &err), PS_EREFUSED);
    assert_non_null(strstr(err.text, "another machine"));
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "gopher://x", 1);
    assert_int_equal(keys(&k, &err), PS_EREFUSED);
    clear_environment();
}

/* ---- addresses ---- */

static void opens(const char *address, int want, const char *says)
{
    struct ps_source *s = NULL;
    struct ps_err err = {0};
    int rc = ps_store_open(&s, address, NULL, &err);
    if (rc != want || (rc == 0 ? strcmp(s->label, says) != 0 : !strstr(err.text, says)))
        fail_msg("%s: %d %s %s", address, rc, err.text, s ? s->label : "");
    ps_source_close(s);
}

static void test_addresses(void **state)
{
    (void)state;
    clear_environment();
    uint64_t live = ps_alloc_live_count();
    opens("s3://bucket/a/b", 0, "s3://bucket/a/b");
    opens("S3://bucket/a/b/", 0, "s3://bucket/a/b");
    opens("s3://bucket", 0, "s3://bucket");
    opens("s3://bucket/100%25?x=1", 0, "s3://bucket/100%25?x=1"); /* the literal key */
    opens("s3://bucket/a?versionId=abc", 0, "s3://bucket/a");
    opens("s3://my.bucket_OLD/a", 0, "s3://my.bucket_OLD/a");
    opens("s3://", PS_EUSAGE, "bucket's name");
    opens("s3:///key", PS_EUSAGE, "bucket's name");
    opens("s3://user:secret@bucket/key", PS_EUSAGE, "bucket's name");
    opens("s3://b..c/key", PS_EUSAGE, "bucket's name");
    opens("s3://bucket/a\nb", PS_EUSAGE, "control");
    opens("s3://arn:aws:s3:x/key", PS_EUNSUPPORTED, "ARN");
    opens("s3://b--usw2-az1--x-s3/key", PS_EUNSUPPORTED, "directory bucket");
    setenv("AWS_ENDPOINT_URL", "http://user:secret@h", 1);
    opens("s3://bucket/key", PS_EUSAGE, "AWS_ENDPOINT_URL");
    setenv("AWS_ENDPOINT_URL", "ftp://h", 1);
    opens("s3://bucket/key", PS_EUSAGE, "AWS_ENDPOINT_URL");
    clear_environment();
    assert_int_equal(ps_alloc_live_count(), live);
}

static int open_and_close(void *user)
{
    struct ps_source *s;
    int rc = ps_store_open(&s, user, NULL, NULL);
    if (rc == 0)
        ps_source_close(s);
    return rc;
}

static void test_memory(void **state)
{
    (void)state;
    static char address[] = "s3://bucket/a?versionId=1";
    clear_environment();
    setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9", 1);
    assert_true(test_every_alloc_failure(open_and_close, address) >= 10);
    clear_environment();
}

/* ---- many ranges at once: signatures, a cure and the keys are shared by all threads ---- */

#define PIECES      64u
#define PIECE_BYTES 1000u

static void on_piece(struct ps_range *r, int rc, const struct ps_err *err)
{
    (void)err;
    if (rc == 0)
        atomic_fetch_add((atomic_uint *)r->user, 1);
    else
        atomic_fetch_add((atomic_uint *)r->user, 1000);
}

static void test_many_ranges(void **state)
{
    (void)state;
    static uint8_t content[PIECES * PIECE_BYTES], got[PIECES][PIECE_BYTES];
    static const struct bad_rule moved = {.times = 3,
                                          .kind = BAD_STATUS,
                                          .status = 301,
                                          .header = "x-amz-bucket-region: eu-west-1\r\n"};
    char text[64];
    struct ps_source *s;
    struct ps_err err = {0};
    struct ps_range ranges[PIECES];
    struct bad_seen seen;
    atomic_uint done = 0;
    for (size_t i = 0; i < sizeof content; i++)
        content[i] = (uint8_t)(i * 2654435761u >> 13);
    struct bad_server *server = bad_server_start(&moved, 1, content, sizeof content);
    clear_environment();
    snprintf(text, sizeof text, "http://127.0.0.1:%u/base/", bad_server_port(server));
    setenv("AWS_ENDPOINT_URL", text, 1);
    setenv("AWS_ACCESS_KEY_ID", "AKIA", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "secret", 1);
    uint64_t live = ps_alloc_live_count();
    const struct ps_store_options o = {.connections = 8, .net_threads = 2, .net_deadline_s = 20};
    assert_ok(ps_store_open(&s, "s3://bucket/m", &o, &err), &err);
    for (unsigned i = 0; i < PIECES; i++) {
        ranges[i] = (struct ps_range){.object = i % 2 ? "a b" : "c",
                                      .offset = i * PIECE_BYTES,
                                      .bytes = PIECE_BYTES,
                                      .buf = got[i],
                                      .done = on_piece,
                                      .user = &done};
        assert_ok(ps_source_submit(s, &ranges[i], &err), &err);
    }
    for (uint64_t start_ns = ps_now_ns();
         atomic_load(&done) < PIECES && ps_seconds_since(start_ns) < 30;)
        usleep(1000);
    assert_int_equal(atomic_load(&done), PIECES);
    assert_memory_equal(got, content, sizeof content);
    ps_source_close(s);
    assert_int_equal(ps_alloc_live_count(), live);
    for (size_t i = 0; bad_server_seen(server, i, &seen); i++) {
        assert_non_null(strstr(seen.authorization, "AWS4-HMAC-SHA256 Credential=AKIA/"));
        assert_true(strcmp(seen.path, "/base/bucket/m/a%20b") == 0 ||
                    strcmp(seen.path, "/base/bucket/m/c") == 0);
    }
    assert_true(bad_server_seen(server, bad_server_requests(server) - 1, &seen));
    assert_non_null(strstr(seen.authorization, "/eu-west-1/s3/aws4_request"));
    bad_server_stop(server);
    clear_environment();
}

int main(void)
{
    loopback_no_proxies();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suite),
        cmocka_unit_test(test_s3_examples),
        cmocka_unit_test(test_sign_bounds),
        cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_xml),
        cmocka_unit_test(test_regions),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_ini),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_keys_of_environment_and_files),
        cmocka_unit_test(test_container_address),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_many_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
