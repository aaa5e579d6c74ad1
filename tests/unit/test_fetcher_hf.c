/* The Hub, as far as it is pure: addresses, settings, headers, links, refusals. */
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "fetcher/hf_ref.h"
#include "fetcher/hf_reply.h"
#include "fetcher/hf_settings.h"
#include "fetcher/store.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define SHA    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void test_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *repo, *revision, *folder;
    } cases[] = {
        {"hf://org/name", "org/name", "main", ""},
        {"hf://org/name/", "org/name", "main", ""},
        {"HF://org/name", "org/name", "main", ""},
        {"hf://models/org/name", "org/name", "main", ""},
        {"hf://gpt2", "gpt2", "main", ""},
        {"hf://gpt2@v1.0", "gpt2", "v1.0", ""},
        {"hf://org/name@" COMMIT, "org/name", COMMIT, ""},
        {"hf://org/name:v1", "org/name", "v1", ""},
        {"hf://org/name@a%2Fb", "org/name", "a/b", ""},
        {"hf://org/name@refs/pr/7", "org/name", "refs/pr/7", ""},
        {"hf://org/name@refs/pr/7/sub", "org/name", "refs/pr/7", "sub"},
        {"hf://org/name@refs%2Fconvert%2Fx/sub/er", "org/name", "refs/convert/x", "sub/er"},
        {"hf://org/name/sub/er/", "org/name", "main", "sub/er"},
        {"hf://o-r.g/n_a.me-1.5B@main/x y", "o-r.g/n_a.me-1.5B", "main", "x y"},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_hf_ref r;
        struct ps_err err = {0};
        assert_ok(ps_hf_ref_parse(&r, cases[i].text, &err), &err);
        assert_string_equal(r.repo, cases[i].repo);
        assert_string_equal(r.revision, cases[i].revision);
        assert_string_equal(r.folder, cases[i].folder);
        ps_hf_ref_deinit(&r);
    }
}

static void test_malformed(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "hf://",
        "hf:///name",
        "hf://org/@main",
        "hf://org//name",
        "hf://-org/x",
        "hf://org/na me",
        "hf://org/a--b",
        "hf://org/a..b",
        "hf://org/x.",
        "hf://org/x.git",
        "hf://org/x@",
        "hf://org/x@a b",
        "hf://org/x@%",
        "hf://org/x@%00",
        "hf://org/x@..",
        "hf://org/x@main/../y",
        "hf://org/x?a",
        "hf://org/x#a",
        "hf://org/x@a%2F..%2Fb",
        "hf://u:p@h/x",
        "hf://datasets/o/n",
        "hf://spaces/o/n",
        "hf://org/\xc3\xa9",
        "hf://org/x@refs/pr/",
        "hf://org/"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaa",
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct ps_hf_ref r = {0};
        struct ps_err err = {0};
        if (ps_hf_ref_parse(&r, bad[i], &err) != PS_EUSAGE)
            fail_msg("%s was taken for %s @ %s / %s", bad[i], r.repo, r.revision, r.folder);
        assert_non_null(strstr(err.text, "hf://org/name[@revision]"));
        assert_null(r.repo);
    }
}

static void same(char *heap, const char *want)
{
    assert_non_null(heap);
    assert_string_equal(heap, want);
    ps_free(heap);
}

/* What is shown means the same when it is given again, and nothing else does. */
static void test_labels(void **state)
{
    static const char *const shown[] = {"hf://org/name",           "hf://gpt2",
                                        "hf://gpt2@main/x",        "hf://org/name@a%2Fb",
                                        "hf://org/name@a/b",       "hf://org/name@refs/pr/7/sub",
                                        "hf://org/name@v%231",     "hf://org/name/50%25 @x",
                                        "hf://org/name@a%40b/c:d", "hf://org/name@%72efs/pr/7"};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(shown); i++) {
        struct ps_hf_ref r;
        struct ps_err err = {0};
        assert_ok(ps_hf_ref_parse(&r, shown[i], &err), &err);
        same(ps_hf_label(&r), shown[i]);
        ps_hf_ref_deinit(&r);
    }
}

static void test_names(void **state)
{
    (void)state;
    struct ps_hf_ref r;
    struct ps_err err = {0};
    assert_ok(ps_hf_ref_parse(&r, "hf://org/name@refs/pr/1/a b", &err), &err);
    same(ps_hf_label(&r), "hf://org/name@refs/pr/1/a b");
    same(ps_hf_files_address(&r, "https://h", r.revision),
         "https://h/org/name/resolve/refs%2Fpr%2F1/a%20b");
    same(ps_hf_page_address(&r, "https://h/p"), "https://h/p/org/name");
    same(ps_hf_cache_path(&r, "/c"), "/c/models--org--name");
    ps_hf_ref_deinit(&r);
    assert_ok(ps_hf_ref_parse(&r, "hf://gpt2", &err), &err);
    same(ps_hf_files_address(&r, "https://h", COMMIT), "https://h/gpt2/resolve/" COMMIT);
    same(ps_hf_cache_path(&r, "/c"), "/c/models--gpt2");
    ps_hf_ref_deinit(&r);
    assert_true(ps_hf_is_commit(COMMIT));
    assert_false(ps_hf_is_commit("main"));
    assert_false(ps_hf_is_commit("0123456789ABCDEF0123456789abcdef01234567"));
}

/* ---- settings ---- */

static const char *const *vars; /* name, value, name, value ..., NULL */

static char *fake_env(const char *name)
{
    for (size_t i = 0; vars[i]; i += 2)
        if (strcmp(vars[i], name) == 0)
            return (char *)(uintptr_t)vars[i + 1];
    return NULL;
}

static void read_settings(struct ps_hf_settings *s, const char *const *v)
{
    struct ps_err err = {0};
    vars = v;
    assert_ok(ps_hf_settings_read(s, fake_env, &err), &err);
}

static void test_settings_default(void **state)
{
    (void)state;
    static const char *const home[] = {"HOME", "/nonexistent", NULL};
    static const char *const none[] = {NULL};
    struct ps_hf_settings s;
    read_settings(&s, home);
    assert_string_equal(s.endpoint, "https://huggingface.co");
    assert_true(s.is_public);
    assert_null(s.token);
    assert_false(s.token_withheld || s.offline);
    assert_string_equal(s.hub_cache, "/nonexistent/.cache/huggingface/hub");
    assert_string_equal(s.token_from, "/nonexistent/.cache/huggingface/token");
    ps_hf_settings_deinit(&s);
    read_settings(&s, none);
    assert_null(s.hub_cache);
    ps_hf_settings_deinit(&s);
}

static void test_settings_places(void **state)
{
    (void)state;
    static const char *const xdg[] = {"HOME", "/h", "XDG_CACHE_HOME", "/x", NULL};
    static const char *const hf[] = {"HOME", "/h", "XDG_CACHE_HOME", "/x", "HF_HOME", "~/f", NULL};
    static const char *const hub[] = {"HOME", "/h", "HF_HOME", "/f", "HF_HUB_CACHE", "/c", NULL};
    static const char *const old[] = {
        "HUGGINGFACE_HUB_CACHE", "/old", "HF_ENDPOINT", "http://mirror:8080/hf//",
        "HF_HUB_OFFLINE",        "Yes",  NULL};
    struct ps_hf_settings s;
    read_settings(&s, xdg);
    assert_string_equal(s.hub_cache, "/x/huggingface/hub");
    ps_hf_settings_deinit(&s);
    read_settings(&s, hf);
    assert_string_equal(s.hub_cache, "/h/f/hub");
    assert_string_equal(s.token_from, "/h/f/token");
    ps_hf_settings_deinit(&s);
    read_settings(&s, hub);
    assert_string_equal(s.hub_cache, "/c");
    ps_hf_settings_deinit(&s);
    read_settings(&s, old);
    assert_string_equal(s.hub_cache, "/old");
    assert_string_equal(s.endpoint, "http://mirror:8080/hf");
    assert_true(s.offline);
    assert_false(s.is_public);
    ps_hf_settings_deinit(&s);
}

static void test_token(void **state)
{
    (void)state;
    char dir[256], file[300], home[300];
    test_temp_dir(dir, sizeof dir);
    snprintf(file, sizeof file, "%s/mine", dir);
    snprintf(home, sizeof home, "%s/token", dir);
    test_write_file(file, " hf_fromfile\n\n", 14);
    test_write_file(home, "hf_fromhome\r\n", 13);
    const char *const from_home[] = {"HF_HOME", dir, NULL};
    const char *const from_file[] = {"HF_HOME", dir, "HF_TOKEN_PATH", file, NULL};
    const char *const from_env[] = {"HF_HOME", dir, "HF_TOKEN_PATH", file, "HF_TOKEN",
                                    "hf_env ", NULL};
    const char *const empty[] = {"HF_HOME", dir, "HF_TOKEN", "", NULL};
    const char *const held[] = {"HF_TOKEN", "hf_env", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", NULL};
    const struct {
        const char *const *v;
        const char *token;
        bool held;
    } cases[] = {{from_home, "hf_fromhome", false},
                 {from_file, "hf_fromfile", false},
                 {from_env, "hf_env", false},
                 {empty, "hf_fromhome", false},
                 {held, NULL, true}};
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_hf_settings s;
        read_settings(&s, cases[i].v);
        if (cases[i].token)
            assert_string_equal(s.token, cases[i].token);
        else
            assert_null(s.token);
        assert_int_equal(s.token_withheld, cases[i].held);
        ps_hf_settings_deinit(&s);
    }
    test_remove_tree(dir);
}

static void refused_settings(const char *name, const char *value, const char *says)
{
    const char *const v[] = {name, value, NULL};
    struct ps_hf_settings s = {0};
    struct ps_err err = {0};
    vars = v;
    assert_int_equal(ps_hf_settings_read(&s, fake_env, &err), PS_EUSAGE);
    assert_non_null(strstr(err.text, says));
    assert_null(strstr(err.text, "secret"));
    assert_null(s.endpoint);
}

static void test_settings_refused(void **state)
{
    (void)state;
    refused_settings("HF_ENDPOINT", "mirror", "HF_ENDPOINT");
    refused_settings("HF_ENDPOINT", "ftp://mirror", "HF_ENDPOINT");
    refused_settings("HF_ENDPOINT", "https://u:secret@h", "HF_ENDPOINT");
    refused_settings("HF_ENDPOINT", "https://h/?secret", "HF_ENDPOINT");
    refused_settings("HF_TOKEN", "hf_secret\r\nX-Evil: 1", "HF_TOKEN");
    refused_settings("HF_TOKEN", "hf_secret secret", "HF_TOKEN");
}

/* ---- replies ---- */

static void test_facts(void **state)
{
    (void)state;
    struct ps_hf_facts f = {0};
    ps_hf_facts_put(&f, "etag", "\"short\"");
    ps_hf_facts_put(&f, "x-linked-etag", "\"" SHA "\"");
    ps_hf_facts_put(&f, "etag", "W/\"other\""); /* the linked one has the say, in any order */
    ps_hf_facts_put(&f, "x-linked-size", "269060552");
    ps_hf_facts_put(&f, "x-repo-commit", COMMIT);
    ps_hf_facts_put(&f, "x-error-code", NULL);
    ps_hf_facts_put(&f, "location", "/x");
    ps_hf_facts_put(&f, "date", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_string_equal(f.content, SHA);
    assert_true(f.linked && ps_hf_content_is_sha256(f.content));
    assert_true(f.has_bytes);
    assert_int_equal(f.bytes, 269060552);
    assert_string_equal(f.commit, COMMIT);
    assert_int_equal(f.date_s, 784111777);
}

static void test_odd_facts(void **state)
{
    (void)state;
    struct ps_hf_facts f = {0};
    char longer[400];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ps_hf_facts_put(&f, "x-error-code", "EntryNotFound");
    ps_hf_facts_put(&f, "x-error-message", longer);
    ps_hf_facts_put(&f, "x-repo-commit", "main");
    ps_hf_facts_put(&f, "x-linked-size", "12x");
    ps_hf_facts_put(&f, "x-linked-etag", "\"\"");
    ps_hf_facts_put(&f, "etag", "W/\"abc\"");
    ps_hf_facts_put(&f, "date", "yesterday");
    assert_string_equal(f.error_code, "EntryNotFound");
    assert_string_equal(f.error_message, "");
    assert_string_equal(f.commit, "");
    assert_string_equal(f.content, "abc");
    assert_false(f.has_bytes || f.linked || f.date_s || ps_hf_content_is_sha256(f.content));
}

static void test_links(void **state)
{
    (void)state;
    static const struct {
        const char *query;
        uint64_t until;
    } cases[] = {
        {NULL, 0},
        {"", 0},
        {"a=b&c", 0},
        {"X-Amz-Algorithm=x&X-Amz-Date=19700101T000100Z&X-Amz-Expires=3600&X-Amz-Signature=s", 3660},
        {"x-amz-expires=5&x-amz-date=19700101T000010Z", 15},
        {"X-Amz-Date=19700101T000100Z", 0},
        {"X-Amz-Date=yesterday&X-Amz-Expires=3600", 0},
        {"X-Goog-Date=19700101T000010Z&X-Goog-Expires=7", 17},
        {"Expires=1788000000&Policy=p_&Signature=s_&Key-Pair-Id=k", 1788000000},
        {"NotExpires=5&Expires=", 0},
        {"Expires=99999999999999999999", 0},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++)
        assert_int_equal(ps_signed_until(cases[i].query), cases[i].until);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *code, *message;
        enum ps_hf_refusal want;
    } cases[] = {
        {401, "RepoNotFound", "Invalid username or password.", PS_HF_NO_REPO},
        {401, "", "", PS_HF_NO_REPO},
        {401, "GatedRepo", "Access to model x is restricted.", PS_HF_GATED},
        {403, "GatedRepo", "", PS_HF_GATED},
        {401, "", "Invalid credentials in Authorization header", PS_HF_BAD_TOKEN},
        {404, "RepoNotFound", "Repository not found", PS_HF_NO_REPO},
        {404, "RevisionNotFound", "Invalid rev id: x", PS_HF_NO_REVISION},
        {404, "EntryNotFound", "Entry not found", PS_HF_NO_FILE},
        {404, "", "", PS_HF_NO_FILE},
        {403, "", "Access to this resource is disabled.", PS_HF_DISABLED},
        {403, "", "", PS_HF_FORBIDDEN},
        {429, "", "", PS_HF_OTHER},
        {416, "", "", PS_HF_OTHER},
        {503, "RepoNotFound", "", PS_HF_OTHER},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct ps_hf_facts f = {0};
        snprintf(f.error_code, sizeof f.error_code, "%s", cases[i].code);
        snprintf(f.error_message, sizeof f.error_message, "%s", cases[i].message);
        assert_int_equal(ps_hf_refusal_of(cases[i].status, &f), cases[i].want);
    }
    for (int r = 0; r < PS_HF_REFUSALS; r++)
        assert_int_equal(ps_hf_refusal_code((enum ps_hf_refusal)r),
                         r == PS_HF_NO_FILE ? PS_ENOTFOUND : PS_EREFUSED);
}

/* Literals are const here; nothing of these structs is freed. */
#define TEXT(s) ((char *)(uintptr_t)(s))

static void hint(enum ps_hf_refusal r, const struct ps_hf_settings *s, const char *says,
                 const char *too)
{
    struct ps_hf_ref ref = {.repo = TEXT("org/name"), .revision = TEXT("v9"), .folder = TEXT("")};
    char *text = ps_hf_refusal_hint(r, &ref, s);
    assert_non_null(text);
    if (!strstr(text, says) || !strstr(text, too) || strstr(text, "secret"))
        fail_msg("%s", text);
    ps_free(text);
    assert_non_null(ps_hf_refusal_what(r));
}

static void test_hints(void **state)
{
    (void)state;
    const struct ps_hf_settings out = {.endpoint = TEXT("https://h"),
                                       .token_from = TEXT("/home/token")},
                                in = {.endpoint = TEXT("https://h"),
                                      .token = TEXT("secret"),
                                      .token_from = TEXT("HF_TOKEN")},
                                held = {.endpoint = TEXT("https://h"), .token_withheld = true};
    hint(PS_HF_NO_REPO, &out, "spelling of org/name", "set HF_TOKEN");
    hint(PS_HF_NO_REPO, &in, "spelling of org/name", "token in HF_TOKEN");
    hint(PS_HF_GATED, &out, "licence at https://h/org/name", "set HF_TOKEN");
    hint(PS_HF_GATED, &in, "licence at https://h/org/name", "no access yet");
    hint(PS_HF_GATED, &held, "licence", "unset HF_HUB_DISABLE_IMPLICIT_TOKEN");
    hint(PS_HF_NO_REVISION, &out, "'v9'", "org/name");
    hint(PS_HF_BAD_TOKEN, &in, "https://h/settings/tokens", "HF_TOKEN");
    hint(PS_HF_FORBIDDEN, &in, "right to read", "org/name");
    hint(PS_HF_FORBIDDEN, &out, "set HF_TOKEN", "org/name");
    hint(PS_HF_DISABLED, &out, "another copy", "");
    hint(PS_HF_NO_FILE, &out, "revision", "");
}

static int all_at_once(void *user)
{
    struct ps_hf_ref r;
    struct ps_hf_settings s;
    (void)user;
    int rc = ps_hf_ref_parse(&r, "hf://org/name@v1/sub", NULL);
    if (rc != 0)
        return rc;
    char *text = ps_hf_files_address(&r, "https://h", r.revision);
    rc = text ? ps_hf_settings_read(&s, fake_env, NULL) : PS_ENOMEM;
    ps_free(text);
    if (rc == 0) {
        text = ps_hf_refusal_hint(PS_HF_GATED, &r, &s);
        rc = text ? 0 : PS_ENOMEM;
        ps_free(text);
        ps_hf_settings_deinit(&s);
    }
    ps_hf_ref_deinit(&r);
    return rc;
}

static void test_memory(void **state)
{
    static const char *const v[] = {"HF_TOKEN",     "hf_x", "HF_ENDPOINT", "https://h",
                                    "HF_HUB_CACHE", "/c",   NULL};
    (void)state;
    vars = v;
    assert_true(test_every_alloc_failure(all_at_once, NULL) > 10);
}

/* ---- the store, offline ---- */

/* A file of the Hub's cache by way of the store: no network, every allocation fails once. */
static int read_offline(void *user)
{
    struct ps_source *s;
    struct ps_object_info info;
    char buf[2], *text = NULL;
    size_t len;
    (void)user;
    int rc = ps_store_open(&s, "hf://org/name", NULL, NULL);
    if (rc != 0)
        return rc;
    rc = ps_source_get(s, "config.json", 10, &text, &len, NULL, NULL);
    if (rc == 0)
        rc = ps_source_head(s, "w.safetensors", buf, sizeof buf, &len, &info, NULL);
    if (rc == 0) {
        assert_int_equal(len, 2);
        assert_string_equal(info.identity, "sha256:" SHA);
        assert_string_equal(info.etag, "");
        assert_true(s->local);
        rc = ps_source_read(s, "w.safetensors", 1, buf, 2, NULL, NULL);
    }
    ps_free(text);
    ps_source_close(s);
    return rc;
}

static void fill_cache(const char *dir)
{
    char path[600], link[600];
    snprintf(path, sizeof path, "%s/models--org--name/refs/main", dir);
    test_write_file(path, COMMIT "\n", 41);
    snprintf(path, sizeof path, "%s/models--org--name/blobs/" SHA, dir);
    test_write_file(path, "xyz", 3);
    snprintf(path, sizeof path, "%s/models--org--name/snapshots/" COMMIT "/config.json", dir);
    test_write_file(path, "{}", 2);
    snprintf(link, sizeof link, "%s/models--org--name/snapshots/" COMMIT "/w.safetensors", dir);
    assert_int_equal(symlink("../../blobs/" SHA, link), 0);
}

static void offline_fails(const char *address, const char *name, int want, const char *says)
{
    struct ps_source *s;
    struct ps_err err = {0};
    char buf[1];
    size_t len;
    assert_ok(ps_store_open(&s, address, NULL, &err), &err);
    assert_int_equal(ps_source_head(s, name, buf, 1, &len, NULL, &err), want);
    if (!strstr(err.text, says))
        fail_msg("%s", err.text);
    ps_source_close(s);
}

static void test_offline(void **state)
{
    (void)state;
    char dir[256];
    test_temp_dir(dir, sizeof dir);
    fill_cache(dir);
    setenv("HF_HUB_OFFLINE", "1", 1);
    setenv("HF_HUB_CACHE", dir, 1);
    setenv("HF_ENDPOINT", "http://127.0.0.1:1", 1);
    assert_int_equal(read_offline(NULL), 0);
    assert_true(test_every_alloc_failure(read_offline, NULL) > 10);
    offline_fails("hf://org/name", "other.safetensors", PS_ENOTFOUND, "HF_HUB_OFFLINE");
    offline_fails("hf://org/name", "../blobs/" SHA, PS_ENOTFOUND, "not in the Hub's cache");
    offline_fails("hf://org/name@v1", "config.json", PS_EREFUSED, "hf download org/name");
    offline_fails("hf://org/none", "config.json", PS_EREFUSED, "not in the Hub's cache");
    test_remove_tree(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_settings_default),
        cmocka_unit_test(test_settings_places),
        cmocka_unit_test(test_token),
        cmocka_unit_test(test_settings_refused),
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_odd_facts),
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_hints),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_offline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
