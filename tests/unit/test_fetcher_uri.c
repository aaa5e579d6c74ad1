/* Addresses: kinds, parts, object names below a base, redirects, and what may be shown. */
#include "tests/support/test.h"

#include <string.h>

#include "base/alloc.h"
#include "fetcher/path_hint.h"
#include "fetcher/store.h"
#include "fetcher/uri.h"

static void test_kinds(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum ps_uri_kind kind;
    } cases[] = {
        {"/models/x", PS_URI_PATH},   {"models/x", PS_URI_PATH},    {"./a:b", PS_URI_PATH},
        {"C:\\models", PS_URI_PATH},  {"file:///m", PS_URI_FILE},   {"FILE:///m", PS_URI_FILE},
        {"http://h/", PS_URI_HTTP},   {"HTTPS://h/", PS_URI_HTTP},  {"s3://b/k", PS_URI_S3},
        {"hf://org/name", PS_URI_HF}, {"ftp://h/", PS_URI_UNKNOWN}, {"httpx://h/", PS_URI_UNKNOWN},
        {"://x", PS_URI_PATH},        {"1http://x", PS_URI_PATH},   {"http:/h", PS_URI_PATH},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++)
        assert_int_equal(ps_uri_kind(cases[i].text), cases[i].kind);
}

static void test_parts(void **state)
{
    (void)state;
    struct ps_uri u;
    struct ps_err err = {0};
    assert_ok(ps_uri_parse(&u, "http://us%40er:p%3Ass@Host.Example:8080/a%20b/c?sig=1&x=%2F", &err),
              &err);
    assert_string_equal(u.scheme, "http");
    assert_string_equal(u.user, "us@er");
    assert_string_equal(u.password, "p:ss");
    assert_string_equal(u.host, "host.example");
    assert_int_equal(u.port, 8080);
    assert_string_equal(u.path, "/a%20b/c");
    assert_string_equal(u.query, "sig=1&x=%2F");
    ps_uri_deinit(&u);
    assert_ok(ps_uri_parse(&u, "https://[::1]/", &err), &err);
    assert_string_equal(u.host, "[::1]");
    assert_int_equal(u.port, 443);
    assert_null(u.user);
    assert_null(u.query);
    ps_uri_deinit(&u);
}

static void test_malformed(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "http://",         "http:///x",
        "http://h:99999/", "http://h:0/",
        "http://h:x/",     "http://h/%zz",
        "http://h/%2",     "http://h/?a=%",
        "http://a b/",     "http://h\x01/",
        "http://u:%gg@h/", "http://[::1/",
        "http://?x",       "http://secret:pw@:80/",
        "http://a%2561/",  "http://%25/",
        "http://%30/",
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct ps_uri u = {.port = 77};
        struct ps_err err = {0};
        if (ps_uri_parse(&u, bad[i], &err) != PS_EUSAGE)
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(u.port, 77); /* untouched */
        assert_null(strstr(err.text, "secret"));
    }
}

static void enter(const char *base, const char *name, const char *request, const char *label)
{
    struct ps_uri u;
    struct ps_err err = {0};
    assert_ok(ps_uri_parse(&u, base, &err), &err);
    assert_ok(ps_uri_enter(&u, name, &err), &err);
    char *got = ps_uri_request(&u), *shown = ps_uri_label(&u);
    assert_string_equal(got, request);
    assert_string_equal(shown, label);
    ps_free(got);
    ps_free(shown);
    ps_uri_deinit(&u);
}

static void test_objects(void **state)
{
    (void)state;
    enter("http://h/m", "config.json", "http://h/m/config.json", "http://h/m/config.json");
    enter("http://h/m/", "a/b", "http://h/m/a/b", "http://h/m/a/b");
    enter("http://h", "x", "http://h/x", "http://h/x");
    enter("http://u:p@h:81/m?sig=S", "x", "http://h:81/m/x?sig=S", "http://h:81/m/x");
    enter("http://h:80/m", "x", "http://h/m/x", "http://h/m/x");
    enter("http://h/m", "a b?c#d%e+\xc3\xa9", "http://h/m/a%20b%3Fc%23d%25e%2B%C3%A9",
          "http://h/m/a%20b%3Fc%23d%25e%2B%C3%A9");
}

static void resolve(const char *from, const char *location, int rc, const char *to)
{
    struct ps_uri a, b;
    struct ps_err err = {0};
    assert_ok(ps_uri_parse(&a, from, &err), &err);
    int got = ps_uri_resolve(&b, &a, location, &err);
    if (got != rc)
        fail_msg("%s -> %s gives %d, not %d", from, location, got, rc);
    if (rc == 0) {
        char *text = ps_uri_request(&b);
        assert_string_equal(text, to);
        assert_null(b.user);
        ps_free(text);
        ps_uri_deinit(&b);
    }
    ps_uri_deinit(&a);
}

static void test_redirects(void **state)
{
    (void)state;
    resolve("http://h/a/b?q=1", "c", 0, "http://h/a/c");
    resolve("http://h/a/b?q=1", "/c?x=2", 0, "http://h/c?x=2");
    resolve("http://h/a/b", "../c", 0, "http://h/c");
    resolve("http://h/a/b", "//other:81/c", 0, "http://other:81/c");
    resolve("http://h/a", "https://cdn/x?sig=1", 0, "https://cdn/x?sig=1");
    resolve("http://h/a", "http://u:p@cdn/x", 0, "http://cdn/x");
    resolve("https://h/a", "https://cdn/x", 0, "https://cdn/x");
    resolve("https://h/a", "http://h/a", PS_EREFUSED, NULL);
    resolve("http://h/a", "file:///etc/passwd", PS_EREFUSED, NULL);
    resolve("http://h/a", "ftp://h/a", PS_EREFUSED, NULL);
    resolve("http://h/a", "gopher://h/a", PS_EREFUSED, NULL);
    resolve("http://h/a", "http://h:99999/", PS_EDATA, NULL);
    resolve("http://h/a", "http://h/%zz", PS_EDATA, NULL);
    resolve("http://h/a", "http:///b/c", PS_EDATA, NULL); /* libcurl alone: the host "b" */
    resolve("http://h/a", "//p%x", PS_EDATA, NULL);
}

static void test_origins(void **state)
{
    (void)state;
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        {"http://h/a", "http://H:80/b", true},     {"http://h/", "http://h:81/", false},
        {"http://h/", "https://h:80/", false},     {"https://h/", "https://h:443/", true},
        {"http://h/", "http://h.example/", false},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_uri a, b;
        assert_int_equal(ps_uri_parse(&a, cases[i].a, NULL), 0);
        assert_int_equal(ps_uri_parse(&b, cases[i].b, NULL), 0);
        assert_int_equal(ps_uri_same_origin(&a, &b), cases[i].same);
        ps_uri_deinit(&a);
        ps_uri_deinit(&b);
    }
}

static void test_file_paths(void **state)
{
    (void)state;
    char *path = NULL;
    assert_int_equal(ps_uri_file_path(&path, "file:///a%20b/c", NULL), 0);
    assert_string_equal(path, "/a b/c");
    ps_free(path);
    assert_int_equal(ps_uri_file_path(&path, "file://localhost/x", NULL), 0);
    assert_string_equal(path, "/x");
    ps_free(path);
    assert_int_equal(ps_uri_file_path(&path, "file://elsewhere/x", NULL), PS_EUSAGE);
    assert_int_equal(ps_uri_file_path(&path, "file:///x%0", NULL), PS_EUSAGE);
    assert_int_equal(ps_uri_file_path(&path, "file:///x%00y", NULL), PS_EUSAGE);
}

static void open_fails(const char *address, int rc, const char *says)
{
    struct ps_source *s = NULL;
    struct ps_err err = {0};
    assert_int_equal(ps_store_open(&s, address, NULL, &err), rc);
    assert_null(s);
    if (!strstr(err.text, says))
        fail_msg("%s: %s", address, err.text);
    assert_null(strstr(err.text, "secret"));
}

static void test_open(void **state)
{
    (void)state;
    open_fails("hf://org/na me", PS_EUSAGE, "malformed address");
    open_fails("gopher://secret:x@h/", PS_EUSAGE, "unknown scheme: gopher://");
    open_fails("http://secret:x@h:99999/?secret", PS_EUSAGE, "malformed address");
    open_fails("", PS_EUSAGE, "no model given");
    open_fails("/nonexistent/penstock", PS_ENOTFOUND, "/nonexistent/penstock");
    open_fails("file:///nonexistent/penstock", PS_ENOTFOUND, "/nonexistent/penstock");
    open_fails("file:/nonexistent/penstock", PS_ENOTFOUND,
               "did you mean file:///nonexistent/penstock?");
}

static int build_object(void *user)
{
    (void)user;
    struct ps_uri u, v = {0};
    int rc = ps_uri_parse(&u, "http://u:p@h:81/m?sig=S", NULL);
    if (rc != 0)
        return rc;
    rc = ps_uri_enter(&u, "a b", NULL);
    if (rc == 0)
        rc = ps_uri_resolve(&v, &u, "https://cdn/x?y", NULL);
    ps_uri_deinit(&u);
    if (rc != 0)
        return rc;
    rc = ps_uri_copy(&u, &v, NULL);
    ps_uri_deinit(&v);
    if (rc != 0)
        return rc;
    char *text = ps_uri_request(&u);
    rc = text ? 0 : PS_ENOMEM;
    ps_free(text);
    ps_uri_deinit(&u);
    return rc;
}

/* One label for all spellings of a place, the one that its source bears, and nothing secret in it. */
static void test_labels(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"http://u:p@HOST.Example:80/m//?sig=geheim", "http://host.example/m"},
        {"HTTPS://host:443/", "https://host"},
        {"http://host:8080/a%20b/", "http://host:8080/a%20b"},
        {"s3://Bucket/some/Key//?versionId=geheim", "s3://Bucket/some/Key"},
        {"s3://bucket", "s3://bucket"},
        {"hf://org/name:main/", "hf://org/name"},
        {"hf://models/org/name@v1/sub", "hf://org/name@v1/sub"},
        {"3f2a", "3f2a"},
    };
    static const char *const bad[] = {"http://u:geheim@/m", "ftp://u:geheim@h/m", "hf://",
                                      "s3:///?versionId=geheim"};
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_err err = {0};
        struct ps_source *src = NULL;
        char *label = NULL;
        assert_ok(ps_store_label(&label, cases[i][0], &err), &err);
        assert_string_equal(label, cases[i][1]);
        if (ps_uri_kind(label) != PS_URI_PATH) {
            assert_ok(ps_store_open(&src, cases[i][0], NULL, &err), &err);
            assert_string_equal(src->label, label);
            ps_source_close(src);
        }
        ps_free(label);
    }
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct ps_err err = {0};
        char *label = NULL;
        assert_int_equal(ps_store_label(&label, bad[i], &err), PS_EUSAGE);
        assert_null(label);
        assert_null(strstr(err.text, "geheim"));
    }
}

/* What was taken for a folder, and isn't there. */
static void test_forgotten_schemes(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"user:geheim@127.0.0.1/nope", "[redacted]@127.0.0.1/nope", "http://127.0.0.1/nope"},
        {"geheim@host/m?sig=geheim", "[redacted]@host/m?...", "http://host/m"},
        {"http:/user:geheim@127.0.0.1/nope", "http:/[redacted]@127.0.0.1/nope",
         "http://127.0.0.1/nope"},
        {"https:user:ge/heim@h:80/x", "https:[redacted]@h:80/x", "https://h:80/x"},
        {"user:ge/h@eim@host", "[redacted]@host", "http://host"},
        {"user:ge#heim@host/m", "[redacted]@host/m", "http://host/m"},
        {"user:ge?heim@host/m", "[redacted]", ""},
        {"http:/user:ge?heim@host/m", "http:/[redacted]", ""},
        {"host?sig=ge@heim/x", "[redacted]", ""},
        {"user:geheim@host/m?sig=ge@heim", "[redacted]", ""},
        {"localhost:18470/x@y", "localhost:18470/x@y", "http://localhost:18470/x@y"},
        {"example.org/model?sig=geheim", "example.org/model?...", "http://example.org/model"},
        {"10.0.0.1/m", "10.0.0.1/m", "http://10.0.0.1/m"},
        {"http:/host/x", "http:/host/x", "http://host/x"},
        {"huggingface.co/org/name/tree/main?x=geheim", "huggingface.co/org/name/tree/main?...",
         "hf://org/name"},
        {"http:/hf.co/org/name", "http:/hf.co/org/name", "hf://org/name"},
        {"hf.co/datasets/x", "hf.co/datasets/x", "http://hf.co/datasets/x"},
        {"hf:org/name@v1", "hf:org/name@v1", "hf://org/name@v1"},
        {"org/name", "org/name", "hf://org/name"},
        {"org/name.v2@main", "org/name.v2@main", "hf://org/name.v2@main"},
        {"./org/name", "./org/name", ""},
        {"/srv/models/x", "/srv/models/x", ""},
        {"../x", "../x", ""},
        {"model", "model", ""},
        {"a/b/c", "a/b/c", ""},
        {"", "", ""},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        char hint[PS_PATH_HINT_MAX_BYTES];
        struct ps_err err = {0};
        char *shown = ps_path_conceal(cases[i][0]);
        assert_string_equal(shown, cases[i][1]);
        ps_path_hint(hint, sizeof hint, cases[i][0]);
        assert_string_equal(hint, cases[i][2]);
        assert_int_equal(ps_path_missing(&err, cases[i][0]), PS_ENOTFOUND);
        assert_null(strstr(err.text, "geheim"));
        assert_null(strstr(err.text, "heim@"));
        assert_null(strstr(err.text, "@heim"));
        assert_true(!*hint == !strstr(err.text, "did you mean"));
        ps_free(shown);
    }
}

/* The address that a browser shows of a model's page. */
static void test_pages_of_the_hub(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"https://huggingface.co/org/name", "hf://org/name"},
        {"https://huggingface.co/org/name/", "hf://org/name"},
        {"http://HF.co/org/na_me-1.5B", "hf://org/na_me-1.5B"},
        {"https://huggingface.co/org/name/tree/main", "hf://org/name"},
        {"https://huggingface.co/org/name/tree/main/sub/folder/", "hf://org/name/sub/folder"},
        {"https://huggingface.co/org/name/resolve/v1.0/", "hf://org/name@v1.0"},
        {"https://huggingface.co/org/name/resolve/abc/sub", "hf://org/name@abc/sub"},
        {"https://huggingface.co/org/name/tree/mainly", "hf://org/name@mainly"},
        {"https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "hf://org/name"},
        {"https://huggingface.co/org/name/tree", "hf://org/name"},
        {"https://huggingface.co/org/name/blob/main/config.json", "hf://org/name"},
        {"https://huggingface.co/org/name/discussions", "hf://org/name"},
        {"https://huggingface.co/org/name?library=x", "hf://org/name"},
        {"https://user:geheim@huggingface.co/org/name#readme", "hf://org/name"},
        {"https://huggingface.co/org", ""},
        {"https://huggingface.co/", ""},
        {"https://huggingface.co", ""},
        {"https://huggingface.co/models/org", ""},
        {"https://huggingface.co/datasets/org/name", ""},
        {"https://huggingface.co/org/na%20me", ""},
        {"https://huggingface.co:8443/org/name", ""},
        {"https://cdn.huggingface.co/org/name", ""},
        {"https://huggingface.co.example/org/name", ""},
        {"https://example.org/huggingface.co/org/name", ""},
        {"hf://org/name", ""},
        {"huggingface.co/org/name", ""}, /* a path, whose hint is another's business */
        {"", ""},
    };
    char hint[PS_PATH_HINT_MAX_BYTES];
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        ps_path_hub_hint(hint, sizeof hint, cases[i][0]);
        assert_string_equal(hint, cases[i][1]);
    }
    ps_path_hub_hint(hint, 13, cases[0][0]); /* never cut: half a name is another model's */
    assert_string_equal(hint, "");
    ps_path_hub_hint(hint, 14, cases[0][0]);
    assert_string_equal(hint, cases[0][1]);
}

static void test_memory(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(build_object, NULL) > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_objects),
        cmocka_unit_test(test_redirects),
        cmocka_unit_test(test_origins),
        cmocka_unit_test(test_file_paths),
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_forgotten_schemes),
        cmocka_unit_test(test_pages_of_the_hub),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
