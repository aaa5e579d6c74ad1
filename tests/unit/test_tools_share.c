/* What `penstock share` answers: paths, ranges, conditions, the limits of the folder, progress
 * and report texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "tools/share_folder.c"
#include "tools/share_request.c"

#define TAG "\"1-2\""

static struct ps_share_answer decide(struct ps_share_headers h, uint64_t bytes, bool get)
{
    struct ps_share_facts f = {.bytes = bytes, .etag = TAG, .mtime = 784111777}; /* 1994-11-06 08:49:37 */
    struct ps_share_answer a;

    ps_share_decide(&a, &h, &f, get);
    return a;
}

static void test_ranges(void **state)
{
    static const struct {
        const char *range;
        unsigned status;
        uint64_t offset, bytes;
    } rows[] = {
        {"bytes=0-0", 206, 0, 1},
        {"bytes=0-99", 206, 0, 100},
        {"bytes=10-19", 206, 10, 10},
        {"bytes=90-1000", 206, 90, 10},
        {"bytes=99-", 206, 99, 1},
        {"bytes=0-", 206, 0, 100},
        {"bytes=-1", 206, 99, 1},
        {"bytes=-100", 206, 0, 100},
        {"bytes=-101", 206, 0, 100},
        {"bytes= 5-6 ", 206, 5, 2},
        {"bytes=0-18446744073709551615", 206, 0, 100},
        {"bytes=0-99999999999999999999999", 206, 0, 100},
        {"bytes=100-", 416, 0, 100},
        {"bytes=100-200", 416, 0, 100},
        {"bytes=99999999999999999999-", 416, 0, 100},
        {"bytes=-0", 416, 0, 100},
        {"bytes=5-4", 200, 0, 100},
        {"bytes=", 200, 0, 100},
        {"bytes=-", 200, 0, 100},
        {"bytes=a-b", 200, 0, 100},
        {"bytes=1-2x", 200, 0, 100},
        {"bytes=--1", 200, 0, 100},
        {"bytes=0-1,3-4", 200, 0, 100},
        {"lines=1-2", 200, 0, 100},
        {"", 200, 0, 100},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ps_share_answer a =
            decide((struct ps_share_headers){.range = rows[i].range}, 100, true);

        if (a.status != rows[i].status)
            fail_msg("%s: %u", rows[i].range, a.status);
        if (a.status == 206) {
            assert_int_equal(a.offset, rows[i].offset);
            assert_int_equal(a.bytes, rows[i].bytes);
        }
    }
    assert_int_equal(decide((struct ps_share_headers){.range = "bytes=0-0"}, 100, false).status, 200);
    assert_int_equal(decide((struct ps_share_headers){.range = "bytes=0-0"}, 0, true).status, 416);
    assert_int_equal(decide((struct ps_share_headers){.range = "bytes=-1"}, 0, true).status, 416);
}

static void test_conditions(void **state)
{
    static const char now[] = "Sun, 06 Nov 1994 08:49:37 GMT",
                      before[] = "Sun, 06 Nov 1994 08:49:36 GMT";
    static const struct {
        struct ps_share_headers h;
        unsigned status;
    } rows[] = {
        {{.if_match = TAG}, 200},
        {{.if_match = "*"}, 200},
        {{.if_match = "\"x\", " TAG}, 200},
        {{.if_match = "W/" TAG}, 412},
        {{.if_match = "\"x\""}, 412},
        {{.if_match = ""}, 412},
        {{.if_match = "1-2"}, 412},
        {{.if_match = "\"x\"", .range = "bytes=0-1"}, 412},
        {{.if_unmodified_since = now}, 200},
        {{.if_unmodified_since = before}, 412},
        {{.if_unmodified_since = "yesterday"}, 200},
        {{.if_match = TAG, .if_unmodified_since = before}, 200},
        {{.if_none_match = TAG}, 304},
        {{.if_none_match = "W/" TAG}, 304},
        {{.if_none_match = "*"}, 304},
        {{.if_none_match = "\"x\""}, 200},
        {{.if_none_match = "\"x\",W/\"y\" , " TAG, .range = "bytes=0-1"}, 304},
        {{.if_modified_since = now}, 304},
        {{.if_modified_since = before}, 200},
        {{.if_none_match = "\"x\"", .if_modified_since = now}, 200},
        {{.if_range = TAG, .range = "bytes=0-1"}, 206},
        {{.if_range = "\"x\"", .range = "bytes=0-1"}, 200},
        {{.if_range = "W/" TAG, .range = "bytes=0-1"}, 200},
        {{.if_range = now, .range = "bytes=0-1"}, 206},
        {{.if_range = before, .range = "bytes=0-1"}, 200},
        {{.if_range = "\"x\"", .range = "bytes=500-"}, 200},
        {{.if_range = TAG, .range = "bytes=500-"}, 416},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (decide(rows[i].h, 100, true).status != rows[i].status)
            fail_msg("row %zu: %u", i, decide(rows[i].h, 100, true).status);
}

static void test_paths(void **state)
{
    static const struct {
        const char *raw;
        unsigned status;
        const char *path;
    } rows[] = {
        {"/", 0, ""},
        {"/a", 0, "a"},
        {"/a/b.json", 0, "a/b.json"},
        {"/a%20b", 0, "a b"},
        {"/a%C3%A9", 0, "a\xc3\xa9"},
        {"/a..b", 0, "a..b"},
        {"", 400, NULL},
        {"a", 400, NULL},
        {"//etc", 400, NULL},
        {"/a//b", 400, NULL},
        {"/..", 400, NULL},
        {"/../x", 400, NULL},
        {"/a/../b", 400, NULL},
        {"/a/./b", 400, NULL},
        {"/%2e%2e/x", 400, NULL},
        {"/.%2e/x", 400, NULL},
        {"/%2E", 400, NULL},
        {"/a%2fb", 400, NULL},
        {"/a%5cb", 400, NULL},
        {"/a\\b", 400, NULL},
        {"/a%00", 400, NULL},
        {"/a%0a", 400, NULL},
        {"/a%", 400, NULL},
        {"/a%1", 400, NULL},
        {"/a%zz", 400, NULL},
        {"/.git", 404, NULL},
        {"/a/.b", 404, NULL},
        {"/a/", 404, NULL},
        {"/...", 404, NULL},
    };
    char out[PS_SHARE_PATH_MAX], longest[PS_SHARE_PATH_MAX + 300];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        unsigned status = ps_share_path(out, rows[i].raw);

        if (status != rows[i].status)
            fail_msg("%s: %u", rows[i].raw, status);
        if (rows[i].path)
            assert_string_equal(out, rows[i].path);
    }
    memset(longest, 'a', sizeof longest);
    longest[0] = '/';
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(ps_share_path(out, longest), 404);
    longest[300] = '\0';
    assert_int_equal(ps_share_path(out, longest), 404);
}

static void test_shards(void **state)
{
    char hash[65], name[128], etag[PS_SHARE_ETAG_MAX];
    struct timespec t = {.tv_sec = 255, .tv_nsec = 1};

    (void)state;
    memset(hash, 'b', 64);
    hash[64] = '\0';
    snprintf(name, sizeof name, "shards/%s.shard", hash);
    assert_true(ps_share_is_shard(name, hash));
    ps_share_etag(etag, name, 5, &t);
    assert_int_equal(strlen(etag), 66);
    snprintf(name, sizeof name, "a/b/shards/%s.shard", hash);
    assert_true(ps_share_is_shard(name, hash));
    snprintf(name, sizeof name, "xshards/%s.shard", hash);
    assert_false(ps_share_is_shard(name, hash));
    snprintf(name, sizeof name, "shards/%.63s.shard", hash);
    assert_false(ps_share_is_shard(name, hash));
    snprintf(name, sizeof name, "shards/%s.shard.tmp", hash);
    assert_false(ps_share_is_shard(name, hash));
    snprintf(name, sizeof name, "%s.shard", hash);
    assert_false(ps_share_is_shard(name, hash));
    assert_false(ps_share_is_shard("shards/B", hash));
    ps_share_etag(etag, "config.json", 5, &t);
    assert_string_equal(etag, "\"5-ff00000001\"");
}

static void test_beneath(void **state)
{
    static const struct {
        const char *root, *file;
        int ok;
    } rows[] = {
        {"/srv/m", "/srv/m/a", 1},
        {"/srv/m", "/srv/m/a/b", 1},
        {"/srv/m", "/srv/m", 0},
        {"/srv/m", "/srv/mm/a", 0},
        {"/srv/m", "/srv/a", 0},
        {"/srv/m", "/srv/m/.a", 0},
        {"/srv/m", "/srv/m/b/.a/c", 0},
        {"/", "/a", 1},
        {"/.cache/m", "/.cache/m/a", 1},
        {"/h/models--a--b/snapshots/1", "/h/models--a--b/blobs/2", 1},
        {"/h/models--a--b/snapshots/1", "/h/models--a--b/snapshots/2/x", 0},
        {"/h/models--a--b/snapshots/1", "/h/models--c/blobs/2", 0},
        {"/h/models--a--b/snapshots/1", "/h/models--a--b/blobs/.x", 0},
        {"/h/other/snapshots/1", "/h/other/blobs/2", 0},
        {"/models--a/snapshots/1", "/models--a/blobs/2", 1},
        {"/snapshots/1", "/blobs/2", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (ps_share_beneath(rows[i].root, rows[i].file) != rows[i].ok)
            fail_msg("%s %s", rows[i].root, rows[i].file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges),  cmocka_unit_test(test_conditions),
        cmocka_unit_test(test_paths),   cmocka_unit_test(test_shards),
        cmocka_unit_test(test_beneath),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
