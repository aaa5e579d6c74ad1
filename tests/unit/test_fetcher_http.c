/* The http store against a server that misbehaves: the right bytes or the right code, each
 * within a time limit.
 *
 * ctest-timeout: 240 */
#include "tests/support/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "fetcher/store.h"
#include "tests/support/loopback.h"

#define CONTENT_BYTES 300000u
#define LIMIT_S       20.0 /* generous: sanitizers on a busy machine */

static uint8_t content[CONTENT_BYTES];

static int setup(void **state)
{
    (void)state;
    loopback_fill(content, CONTENT_BYTES);
    return 0;
}

/* ---- one source against one server ---- */

struct bench {
    struct bad_server *server;
    struct ps_source *source;
    struct ps_stats stats;
    uint64_t start_ns;
    uint64_t live;
};

static void begin_at(struct bench *b, const struct bad_rule *rules, size_t n,
                     struct ps_store_options o, const char *login, const char *query)
{
    char address[256];
    struct ps_err err = {0};
    memset(b, 0, sizeof *b);
    b->live = ps_alloc_live_count();
    b->server = bad_server_start(rules, n, content, CONTENT_BYTES);
    snprintf(address, sizeof address, "http://%s127.0.0.1:%u/m%s", login,
             bad_server_port(b->server), query);
    o.stats = &b->stats;
    assert_ok(ps_store_open(&b->source, address, &o, &err), &err);
    b->start_ns = ps_now_ns();
}

static void begin(struct bench *b, const struct bad_rule *rules, size_t n, struct ps_store_options o)
{
    begin_at(b, rules, n, o, "", "");
}

static void end(struct bench *b)
{
    double took = ps_seconds_since(b->start_ns);
    ps_source_close(b->source);
    loopback_end(b->server, b->live);
    if (took > LIMIT_S)
        fail_msg("took %.1f s", took);
}

static struct bad_seen seen_at(struct bench *b, size_t i)
{
    return loopback_seen(b->server, i);
}

static const struct ps_store_options quick = {.net_deadline_s = 6, .net_stall_s = 1, .connections = 4};

/* Reads [offset, offset + n) with or without its hash and checks the outcome. */
static void read_one(struct bench *b, uint64_t offset, uint64_t n, bool hashed, int want,
                     const char *says)
{
    uint8_t sha[PS_SHA256_BYTES];
    struct ps_err err = {0};
    uint8_t *buf = malloc(n + 1);
    assert_non_null(buf);
    memset(buf, 0x5a, n + 1);
    ps_sha256_once(content + offset, n, sha);
    int rc = ps_source_read(b->source, "x.bin", offset, buf, n, hashed ? sha : NULL, &err);
    if (rc != want)
        fail_msg("%d, not %d: %s", rc, want, err.text);
    if (rc == 0)
        assert_memory_equal(buf, content + offset, n);
    else if (!strstr(err.text, says) || !strstr(err.text, "x.bin") || strchr(err.text, '\n'))
        fail_msg("text: %s", err.text);
    assert_int_equal(buf[n], 0x5a);
    free(buf);
}

static void one_rule(const struct bad_rule *rule, bool hashed, int want, const char *says,
                     unsigned requests)
{
    struct bench b;
    struct ps_store_options o = quick;
    if (want == PS_ENET)
        o.net_deadline_s = 2; /* those fail at the deadline */
    begin(&b, rule, 1, o);
    read_one(&b, 1000, 200000, hashed, want, says);
    if (requests && bad_server_requests(b.server) != requests)
        fail_msg("%zu requests, not %u", bad_server_requests(b.server), requests);
    /* A request cut at the deadline may never have reached the server. */
    if (want != PS_ENET)
        assert_int_equal(ps_stat_get(&b.stats.requests), bad_server_requests(b.server));
    end(&b);
}

/* ---- right replies in all their forms ---- */

static void test_right_replies(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {
        {.kind = BAD_NONE},
        {.kind = BAD_NO_LENGTH},
        {.kind = BAD_CHUNKED},
        {.kind = BAD_STAR_TOTAL},
        {.kind = BAD_EARLY_HINTS},
        {.kind = BAD_NONE, .header = "ETag: W/\"weak\"\r\n"},
        {.kind = BAD_NONE, .header = "Content-Encoding: identity\r\n"},
    };
    for (size_t i = 0; i < TEST_COUNT(rules); i++) {
        one_rule(&rules[i], false, 0, "", 1);
        one_rule(&rules[i], true, 0, "", 1);
    }
}

/* ---- broken twice, then fine: the right bytes come, and only what was missing is asked for again ---- */

static void test_recovers(void **state)
{
    (void)state;
    static const enum bad_kind kinds[] = {BAD_TRUNCATE, BAD_NO_LENGTH_SHORT, BAD_CHUNKED_CUT,
                                          BAD_RESET,    BAD_STALL,           BAD_CLOSE};
    for (size_t i = 0; i < TEST_COUNT(kinds); i++) {
        const struct bad_rule rule = {.kind = kinds[i], .times = 2};
        struct bench b;
        begin(&b, &rule, 1, quick);
        read_one(&b, 1000, 200000, true, 0, "");
        assert_int_equal(bad_server_requests(b.server), 3);
        assert_int_equal(ps_stat_get(&b.stats.retries), 2);
        if (kinds[i] == BAD_TRUNCATE || kinds[i] == BAD_STALL) {
            struct bad_seen last = seen_at(&b, 2);
            assert_int_equal(last.from, 1000 + 100000 + 50000); /* the tail alone */
            assert_int_equal(last.to, 201000);
            assert_string_equal(last.if_match, "\"v1\"");
            assert_int_equal(ps_stat_get(&b.stats.bytes_net), 200000);
        }
        end(&b);
    }
}

static void test_server_errors_pass(void **state)
{
    (void)state;
    static const int statuses[] = {500, 502, 503, 504, 408, 429};
    for (size_t i = 0; i < TEST_COUNT(statuses); i++) {
        const struct bad_rule rule = {.kind = BAD_STATUS, .status = statuses[i], .times = 2};
        one_rule(&rule, true, 0, "", 3);
    }
}

static void test_bad_once_is_refetched(void **state)
{
    (void)state;
    static const enum bad_kind kinds[] = {BAD_FLIP, BAD_WRONG_RANGE, BAD_NO_RANGE, BAD_MULTIPART,
                                          BAD_GZIP, BAD_LONG_LENGTH, BAD_LONG};
    for (size_t i = 0; i < TEST_COUNT(kinds); i++) {
        const struct bad_rule rule = {.kind = kinds[i], .times = 1};
        one_rule(&rule, true, 0, "", 2);
    }
}

/* ---- wrong for good: the right code, and soon ---- */

static void test_bad_for_good(void **state)
{
    (void)state;
    static const struct {
        struct bad_rule rule;
        int want;
        unsigned requests; /* 0: any */
        const char *says;
    } cases[] = {
        {{.kind = BAD_FLIP}, PS_EDATA, 2, "SHA-256"},
        {{.kind = BAD_WRONG_RANGE}, PS_EDATA, 2, "another range"},
        {{.kind = BAD_NO_RANGE}, PS_EDATA, 2, "Content-Range"},
        {{.kind = BAD_MULTIPART}, PS_EDATA, 2, "multipart"},
        {{.kind = BAD_GZIP}, PS_EDATA, 2, "encoded"},
        {{.kind = BAD_LONG_LENGTH}, PS_EDATA, 2, "Content-Length"},
        {{.kind = BAD_LONG}, PS_EDATA, 2, "more bytes"},
        {{.kind = BAD_WHOLE}, PS_EREFUSED, 1, "ignores Range"},
        {{.kind = BAD_STATUS, .status = 401}, PS_EREFUSED, 1, "401"},
        {{.kind = BAD_STATUS, .status = 403}, PS_EREFUSED, 1, "403"},
        {{.kind = BAD_STATUS, .status = 404}, PS_ENOTFOUND, 1, "404"},
        {{.kind = BAD_STATUS, .status = 410}, PS_ENOTFOUND, 1, "410"},
        {{.kind = BAD_STATUS, .status = 412}, PS_EDATA, 1, "changed"},
        {{.kind = BAD_STATUS, .status = 416}, PS_EDATA, 1, "shorter"},
        {{.kind = BAD_STATUS, .status = 429, .header = "Retry-After: 60\r\n"}, PS_ENET, 1, "60 s"},
        {{.kind = BAD_STATUS, .status = 429, .header = "RateLimit: \"x\";r=0;t=60\r\n"},
         PS_ENET,
         1,
         "60 s"},
        {{.kind = BAD_STATUS, .status = 503}, PS_ENET, 0, "503"},
        {{.kind = BAD_STATUS, .status = 302}, PS_EDATA, 2, "Location"},
        {{.kind = BAD_SILENT}, PS_ENET, 0, "stalled"},
        {{.kind = BAD_CLOSE}, PS_ENET, 0, "tries"},
        {{.kind = BAD_GARBAGE}, PS_ENET, 0, "tries"},
        {{.kind = BAD_DRIP}, PS_ENET, 0, "deadline"},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        print_message("case %zu\n", i);
        one_rule(&cases[i].rule, true, cases[i].want, cases[i].says, cases[i].requests);
    }
}

static void test_no_server(void **state)
{
    (void)state;
    struct bench b;
    begin(&b, NULL, 0, quick);
    bad_server_stop(b.server); /* the port is free now, and nobody listens */
    read_one(&b, 0, 10, false, PS_ENET, "connection refused");
    assert_true(ps_seconds_since(b.start_ns) < 15);
    ps_source_close(b.source);
}

static void test_unknown_host(void **state)
{
    (void)state;
    struct ps_source *s;
    struct ps_err err = {0};
    char buf[4];
    uint64_t start = ps_now_ns();
    assert_ok(ps_store_open(&s, "http://user:hunter2@no-such-host.invalid/m?sig=hunter3", NULL, &err),
              &err);
    assert_string_equal(s->label, "http://no-such-host.invalid/m");
    assert_int_equal(ps_source_read(s, "x", 0, buf, 4, NULL, &err), PS_ENET);
    assert_null(strstr(err.text, "hunter"));
    assert_true(ps_seconds_since(start) < 15);
    ps_source_close(s);
}

/* ---- versions ---- */

static void test_etag_changes(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {
        {.after = 1, .kind = BAD_NONE, .header = "ETag: \"v2\"\r\n"}};
    struct bench b;
    begin(&b, rules, 1, quick);
    read_one(&b, 0, 1000, false, 0, "");
    read_one(&b, 1000, 1000, false, PS_EDATA, "changed under way");
    assert_string_equal(seen_at(&b, 0).if_match, "");
    assert_string_equal(seen_at(&b, 1).if_match, "\"v1\"");
    end(&b);
}

static void test_weak_etag_is_not_sent(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {{.times = 2,
                                             .kind = BAD_NONE,
                                             .header = "ETag: W/\"w1\"\r\n"},
                                            {.kind = BAD_NONE, .header = "ETag: W/\"w2\"\r\n"}};
    struct bench b;
    begin(&b, rules, 2, quick);
    read_one(&b, 0, 1000, false, 0, "");
    read_one(&b, 1000, 1000, false, 0, "");
    read_one(&b, 2000, 1000, false, PS_EDATA, "changed under way");
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(seen_at(&b, i).if_match, "");
    end(&b);
}

/* A change in the middle of one range: the resumed tail must not be glued to bytes of another
 * version. */
static void test_changes_inside_a_range(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {{.times = 1, .kind = BAD_TRUNCATE},
                                            {.kind = BAD_NONE, .header = "ETag: \"v2\"\r\n"}};
    struct bench b;
    begin(&b, rules, 2, quick);
    read_one(&b, 0, 100000, false, PS_EDATA, "changed under way");
    end(&b);
}

static void test_size_changes(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {{.after = 1, .kind = BAD_TOTAL}};
    struct bench b;
    begin(&b, rules, 1, quick);
    read_one(&b, 0, 1000, false, 0, "");
    read_one(&b, 1000, 1000, false, PS_EDATA, "changed under way");
    end(&b);
}

static void wait_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    (void)err;
    atomic_store((_Atomic int *)r->user, rc == 0 ? 1 : rc);
}

static int wait_for(_Atomic int *flag)
{
    for (int i = 0; i < 20000 && atomic_load(flag) == 0; i++)
        usleep(1000);
    int v = atomic_load(flag);
    return v == 1 ? 0 : v == 0 ? PS_EFAIL : v;
}

static void test_callers_expectations(void **state)
{
    (void)state;
    struct bench b;
    char buf[100];
    begin(&b, NULL, 0, quick);
    static const struct {
        const char *etag;
        uint64_t object_bytes;
        int want;
    } cases[] = {{"\"v1\"", CONTENT_BYTES, 0},
                 {"\"v0\"", 0, PS_EDATA},
                 {NULL, CONTENT_BYTES + 1, PS_EDATA}};
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        _Atomic int flag = 0;
        struct ps_range r = {.object = "x.bin",
                             .bytes = sizeof buf,
                             .buf = buf,
                             .etag = cases[i].etag,
                             .object_bytes = cases[i].object_bytes,
                             .done = wait_done,
                             .user = &flag};
        assert_int_equal(ps_source_submit(b.source, &r, NULL), 0);
        assert_int_equal(wait_for(&flag), cases[i].want);
    }
    assert_string_equal(seen_at(&b, 1).if_match, "\"v0\"");
    struct ps_range beyond = {.object = "x.bin",
                              .offset = 10,
                              .bytes = 100,
                              .buf = buf,
                              .object_bytes = 50,
                              .done = wait_done};
    assert_int_equal(ps_source_submit(b.source, &beyond, NULL), PS_EDATA);
    struct ps_range climbs = {.object = "../x", .bytes = 100, .buf = buf, .done = wait_done};
    assert_int_equal(ps_source_submit(b.source, &climbs, NULL), PS_EDATA);
    end(&b);
}

/* ---- waiting as asked ---- */

static void test_retry_after(void **state)
{
    (void)state;
    const struct bad_rule rule = {.kind = BAD_STATUS,
                                  .status = 429,
                                  .header = "Retry-After: 2\r\n",
                                  .times = 1};
    struct bench b;
    begin(&b, &rule, 1, quick);
    read_one(&b, 0, 1000, true, 0, "");
    uint64_t gap = seen_at(&b, 1).at_ns - seen_at(&b, 0).at_ns;
    assert_in_range(gap, 1900000000u, 6000000000u);
    end(&b);
}

/* ---- redirects and credentials ---- */

static void test_redirect_keeps_credentials_at_home(void **state)
{
    (void)state;
    char header[128];
    struct bench away, b;
    begin(&away, NULL, 0, quick);
    snprintf(header, sizeof header, "Location: http://evil:pw@127.0.0.1:%u/moved/x.bin?sig=S\r\n",
             bad_server_port(away.server));
    const struct bad_rule rules[] = {
        {.path = "/m/x.bin", .kind = BAD_STATUS, .status = 302, .header = "Location: /same/x.bin\r\n"},
        {.path = "/same/x.bin", .kind = BAD_STATUS, .status = 307, .header = header}};
    begin_at(&b, rules, 2, quick, "us:er%20pw@", "?key=K");
    read_one(&b, 100, 5000, true, 0, "");
    read_one(&b, 9000, 5000, true, 0, ""); /* goes straight to the remembered target */
    assert_int_equal(bad_server_requests(b.server), 2);
    assert_int_equal(bad_server_requests(away.server), 2);
    assert_string_equal(seen_at(&b, 0).authorization, "Basic dXM6ZXIgcHc=");
    assert_string_equal(seen_at(&b, 0).query, "key=K");
    assert_string_equal(seen_at(&b, 1).authorization, "Basic dXM6ZXIgcHc=");
    assert_string_equal(seen_at(&b, 0).accept_encoding, "identity");
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(seen_at(&away, i).authorization, "");
        assert_string_equal(seen_at(&away, i).path, "/moved/x.bin");
        assert_string_equal(seen_at(&away, i).query, "sig=S");
    }
    end(&b);
    end(&away);
}

static void test_expired_target(void **state)
{
    (void)state;
    char header[128];
    const struct bad_rule expired = {
        .path = "/signed", .after = 1, .times = 1, .kind = BAD_STATUS, .status = 403};
    struct bench away, b;
    begin(&away, &expired, 1, quick);
    snprintf(header, sizeof header, "Location: http://127.0.0.1:%u/signed\r\n",
             bad_server_port(away.server));
    const struct bad_rule rule = {.kind = BAD_STATUS, .status = 302, .header = header};
    begin(&b, &rule, 1, quick);
    read_one(&b, 0, 1000, true, 0, "");
    read_one(&b, 1000, 1000, true, 0, ""); /* 403 at the target: asks the front door again */
    assert_int_equal(bad_server_requests(b.server), 2);
    assert_int_equal(bad_server_requests(away.server), 3);
    end(&b);
    end(&away);
}

static void test_redirect_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        const char *says;
        unsigned requests;
    } cases[] = {
        {"Location: /m/x.bin\r\n", "too many redirects", 6},
        {"Location: file:///etc/passwd\r\n", "scheme", 1},
        {"Location: ftp://127.0.0.1/x\r\n", "scheme", 1},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        const struct bad_rule rule = {.kind = BAD_STATUS, .status = 301, .header = cases[i].header};
        one_rule(&rule, false, PS_EREFUSED, cases[i].says, cases[i].requests);
    }
}

/* ---- whole objects and heads ---- */

static void get_is(struct bench *b, uint64_t max, int want)
{
    struct ps_err err = {0};
    struct ps_object_info info = {0};
    char *text = NULL;
    size_t len = 0;
    int rc = ps_source_get(b->source, "x.bin", max, &text, &len, &info, &err);
    if (rc != want)
        fail_msg("get: %d, not %d: %s", rc, want, err.text);
    if (rc != 0) {
        assert_null(text);
        return;
    }
    assert_int_equal(len, CONTENT_BYTES);
    assert_memory_equal(text, content, CONTENT_BYTES);
    assert_int_equal(text[len], 0);
    assert_int_equal(info.bytes, CONTENT_BYTES);
    ps_free(text);
}

static void test_get(void **state)
{
    (void)state;
    static const struct bad_rule fine[] = {
        {.kind = BAD_NONE},
        {.kind = BAD_WHOLE},
        {.kind = BAD_NO_LENGTH},
        {.kind = BAD_CHUNKED},
        {.kind = BAD_STAR_TOTAL},
        {.kind = BAD_EARLY_HINTS},
        {.kind = BAD_TRUNCATE, .times = 3},
        {.kind = BAD_RESET, .times = 1},
        {.kind = BAD_STALL, .times = 1},
        {.kind = BAD_LONG, .times = 1},
        {.kind = BAD_STATUS, .status = 503, .times = 2},
    };
    for (size_t i = 0; i < TEST_COUNT(fine); i++) {
        struct bench b;
        begin(&b, &fine[i], 1, quick);
        get_is(&b, CONTENT_BYTES, 0);
        end(&b);
    }
    struct bench b;
    begin(&b, NULL, 0, quick);
    get_is(&b, CONTENT_BYTES - 1, PS_EDATA);
    get_is(&b, 10, PS_EDATA);
    end(&b);
    static const struct bad_rule bad[] = {{.kind = BAD_GZIP}, {.kind = BAD_STATUS, .status = 404}};
    begin(&b, &bad[0], 1, quick);
    get_is(&b, CONTENT_BYTES, PS_EDATA);
    end(&b);
    begin(&b, &bad[1], 1, quick);
    get_is(&b, CONTENT_BYTES, PS_ENOTFOUND);
    end(&b);
}

/* More than one chunk: the tail comes in parallel. */
static void test_get_large(void **state)
{
    (void)state;
    enum { LARGE = 5 * 1024 * 1024 + 17 };
    uint8_t *large = malloc(LARGE);
    char address[64], *text = NULL;
    size_t len;
    struct ps_err err = {0};
    struct ps_source *s;
    const struct bad_rule rule = {.after = 2, .times = 2, .kind = BAD_TRUNCATE};
    assert_non_null(large);
    for (size_t i = 0; i < LARGE; i++)
        large[i] = (uint8_t)((i * 40503u) >> 7);
    struct bad_server *server = bad_server_start(&rule, 1, large, LARGE);
    snprintf(address, sizeof address, "http://127.0.0.1:%u", bad_server_port(server));
    assert_ok(ps_store_open(&s, address, &quick, &err), &err);
    assert_ok(ps_source_get(s, "t.json", LARGE, &text, &len, NULL, &err), &err);
    assert_int_equal(len, LARGE);
    assert_memory_equal(text, large, LARGE);
    assert_true(bad_server_requests(server) >= 5);
    ps_free(text);
    ps_source_close(s);
    bad_server_stop(server);
    free(large);
}

static void test_head(void **state)
{
    (void)state;
    struct bench b;
    struct ps_err err = {0};
    struct ps_object_info info;
    static char buf[CONTENT_BYTES + 10];
    size_t len;
    begin(&b, NULL, 0, quick);
    assert_ok(ps_source_head(b.source, "x.bin", buf, 1000, &len, &info, &err), &err);
    assert_int_equal(len, 1000);
    assert_int_equal(info.bytes, CONTENT_BYTES);
    assert_string_equal(info.etag, "\"v1\"");
    assert_memory_equal(buf, content, 1000);
    assert_int_equal(ps_stat_get(&b.stats.bytes_net), 1000);
    assert_ok(ps_source_head(b.source, "x.bin", buf, sizeof buf, &len, &info, &err), &err);
    assert_int_equal(len, CONTENT_BYTES);
    assert_memory_equal(buf, content, CONTENT_BYTES);
    end(&b);
    const struct bad_rule whole = {.kind = BAD_WHOLE};
    begin(&b, &whole, 1, quick);
    assert_int_equal(ps_source_head(b.source, "x.bin", buf, 1000, &len, &info, &err), PS_EREFUSED);
    assert_ok(ps_source_head(b.source, "x.bin", buf, sizeof buf, &len, &info, &err), &err);
    assert_int_equal(len, CONTENT_BYTES);
    end(&b);
}

static void test_empty_object(void **state)
{
    (void)state;
    char address[64], *text = NULL, buf[8];
    size_t len = 5;
    struct ps_err err = {0};
    struct ps_source *s;
    struct bad_server *server = bad_server_start(NULL, 0, content, 0);
    snprintf(address, sizeof address, "http://127.0.0.1:%u", bad_server_port(server));
    assert_ok(ps_store_open(&s, address, &quick, &err), &err);
    assert_ok(ps_source_get(s, "empty", 100, &text, &len, NULL, &err), &err);
    assert_int_equal(len, 0);
    assert_string_equal(text, "");
    ps_free(text);
    len = 5;
    assert_ok(ps_source_head(s, "empty", buf, sizeof buf, &len, NULL, &err), &err);
    assert_int_equal(len, 0);
    ps_source_close(s);
    bad_server_stop(server);
}

/* ---- many ranges at once ---- */

enum { MANY = 100, PIECE = 2999 };

struct crowd {
    struct ps_range r[MANY];
    uint8_t buf[MANY][PIECE];
    uint8_t sha[MANY][PS_SHA256_BYTES];
    _Atomic unsigned ok, cancelled, failed;
};

static void crowd_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct crowd *c = r->user;
    (void)err;
    atomic_fetch_add(rc == 0 ? &c->ok : rc == PS_ECANCELLED ? &c->cancelled : &c->failed, 1);
}

static struct crowd *crowd_start(struct bench *b, bool hashed)
{
    struct crowd *c = calloc(1, sizeof *c);
    assert_non_null(c);
    for (unsigned i = 0; i < MANY; i++) {
        uint64_t at = (uint64_t)i * PIECE;
        ps_sha256_once(content + at, PIECE, c->sha[i]);
        c->r[i] = (struct ps_range){.object = "x.bin",
                                    .offset = at,
                                    .bytes = PIECE,
                                    .buf = c->buf[i],
                                    .priority = i,
                                    .sha256 = hashed ? c->sha[i] : NULL,
                                    .done = crowd_done,
                                    .user = c};
        assert_int_equal(ps_source_submit(b->source, &c->r[i], NULL), 0);
    }
    return c;
}

static bool crowd_wait(struct crowd *c)
{
    for (int i = 0; i < 20000; i++) {
        if (c->ok + c->cancelled + c->failed == MANY)
            return true;
        usleep(1000);
    }
    return false;
}

static void test_joining(void **state)
{
    (void)state;
    /* Ranges pile up behind the first request, which stalls; later ones break in the middle. */
    static const struct bad_rule rules[] = {{.times = 1, .kind = BAD_STALL},
                                            {.after = 1, .times = 3, .kind = BAD_TRUNCATE}};
    struct bench b;
    struct ps_store_options o = quick;
    o.connections = 1;
    begin(&b, rules, 2, o);
    struct crowd *c = crowd_start(&b, true);
    assert_true(crowd_wait(c));
    assert_int_equal(c->ok, MANY);
    for (unsigned i = 0; i < MANY; i++)
        assert_memory_equal(c->buf[i], content + (size_t)i * PIECE, PIECE);
    assert_true(bad_server_requests(b.server) < MANY / 10); /* 100 ranges, about six requests */
    assert_int_equal(ps_stat_get(&b.stats.bytes_net), MANY * PIECE);
    assert_int_equal(seen_at(&b, 0).from, 0); /* earliest first */
    end(&b);
    free(c);
}

static void test_two_net_threads(void **state)
{
    (void)state;
    const struct bad_rule rule = {.after = 3, .times = 4, .kind = BAD_RESET};
    struct bench b;
    struct ps_store_options o = quick;
    o.net_threads = 2;
    begin(&b, &rule, 1, o);
    struct crowd *c = crowd_start(&b, true);
    assert_true(crowd_wait(c));
    assert_int_equal(c->ok, MANY);
    for (unsigned i = 0; i < MANY; i++)
        assert_memory_equal(c->buf[i], content + (size_t)i * PIECE, PIECE);
    end(&b);
    free(c);
}

static void test_connections_are_reused(void **state)
{
    (void)state;
    struct bench b;
    begin(&b, NULL, 0, quick);
    for (unsigned i = 0; i < 30; i++)
        read_one(&b, i * 100, 100, false, 0, "");
    assert_int_equal(seen_at(&b, 29).connection, 0);
    end(&b);
}

static void test_cancel(void **state)
{
    (void)state;
    const struct bad_rule rule = {.kind = BAD_SILENT};
    struct bench b;
    begin(&b, &rule, 1, (struct ps_store_options){.connections = 2});
    struct crowd *c = crowd_start(&b, false);
    while (bad_server_requests(b.server) == 0)
        usleep(1000);
    for (unsigned i = 0; i < MANY; i++)
        ps_source_cancel(b.source, &c->r[i]);
    assert_true(crowd_wait(c)); /* long before the stall limit of 20 s */
    assert_int_equal(c->cancelled, MANY);
    end(&b);
    free(c);
}

static void *interrupt_soon(void *flag)
{
    usleep(50000);
    atomic_store((atomic_int *)flag, 1);
    return NULL;
}

/* A blocking read that waits for its first chunk, or for one of the pieces of its tail. */
static void test_interrupt(void **state)
{
    (void)state;
    static uint8_t large[3u << 20];
    for (unsigned after = 0; after < 2; after++) {
        const struct bad_rule rule = {.after = after, .kind = BAD_SILENT};
        atomic_int flag = 0;
        struct ps_err err = {0};
        struct ps_source *source = NULL;
        struct bad_server *server = bad_server_start(&rule, 1, large, sizeof large);
        const struct ps_store_options o = {.connections = 2, .interrupt = &flag};
        pthread_t thread;
        char address[64], *out = NULL;
        size_t len = 0;
        snprintf(address, sizeof address, "http://127.0.0.1:%u/m", bad_server_port(server));
        assert_ok(ps_store_open(&source, address, &o, &err), &err);
        uint64_t start_ns = ps_now_ns();
        assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, &flag), 0);
        assert_int_equal(ps_source_get(source, "x.bin", sizeof large, &out, &len, NULL, &err),
                         PS_EINTERRUPTED);
        assert_string_equal(err.text, "interrupted");
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(ps_source_get(source, "y.bin", 100, &out, &len, NULL, &err),
                         PS_EINTERRUPTED);           /* and any later one */
        assert_true(ps_seconds_since(start_ns) < 3); /* not the stall limit of 20 s */
        ps_source_close(source);
        bad_server_stop(server);
    }
}

static void *withdraw_soon(void *flag)
{
    usleep(50000);
    atomic_store((atomic_bool *)flag, true);
    return NULL;
}

/* One question that nobody wants answered any more: it ends, and others do not. */
static void test_withdrawn(void **state)
{
    (void)state;
    static uint8_t large[3u << 20];
    enum { FIRST_CHUNK, TAIL, HEAD, N };
    for (unsigned k = 0; k < N; k++) {
        const struct bad_rule rule = {.after = k == TAIL, .times = 1, .kind = BAD_SILENT};
        atomic_bool flag = false;
        const struct ps_terms terms = {.withdrawn = &flag};
        struct ps_err err = {0};
        struct ps_source *s = NULL;
        struct bad_server *server = bad_server_start(&rule, 1, large, sizeof large);
        const struct ps_store_options o = {.connections = 2, .hedge_pct = -1};
        pthread_t thread;
        char address[64], first[100], *out = NULL;
        size_t len = 0;
        snprintf(address, sizeof address, "http://127.0.0.1:%u/m", bad_server_port(server));
        assert_ok(ps_store_open(&s, address, &o, &err), &err);
        uint64_t start_ns = ps_now_ns();
        assert_int_equal(pthread_create(&thread, NULL, withdraw_soon, &flag), 0);
        int rc = k == HEAD ? s->ops->head(s, "x.bin", &terms, first, sizeof first, &len, NULL, &err)
                           : s->ops->get(s, "x.bin", &terms, sizeof large, &out, &len, NULL, &err);
        assert_int_equal(rc, PS_ECANCELLED);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(ps_seconds_since(start_ns) < 3); /* not the stall limit of 20 s */
        assert_ok(ps_source_get(s, "y.bin", sizeof large, &out, &len, NULL, &err), &err);
        ps_free(out);
        ps_source_close(s);
        bad_server_stop(server);
    }
}

static void test_close_under_way(void **state)
{
    (void)state;
    static const enum bad_kind kinds[] = {BAD_STALL, BAD_SILENT, BAD_DRIP, BAD_NONE, BAD_CLOSE};
    for (size_t i = 0; i < TEST_COUNT(kinds); i++) {
        const struct bad_rule rule = {.kind = kinds[i]};
        struct bench b;
        begin(&b, &rule, 1,
              (struct ps_store_options){.connections = 3,
                                        .net_threads = 3,
                                        .max_egress_bytes = 100 * CONTENT_BYTES});
        struct crowd *c = crowd_start(&b, true);
        usleep(20000);
        end(&b); /* every done() is called before close returns */
        assert_int_equal(c->ok + c->cancelled + c->failed, MANY);
        assert_int_equal(c->failed, 0);
        free(c);
    }
}

/* ---- budget ---- */

static void test_max_egress(void **state)
{
    (void)state;
    struct bench b;
    struct ps_store_options o = quick;
    o.max_egress_bytes = 10000;
    begin(&b, NULL, 0, o);
    read_one(&b, 0, 6000, false, 0, "");
    read_one(&b, 0, 6000, false, PS_EBUDGET, "--max-egress");
    read_one(&b, 0, 4000, false, 0, "");
    read_one(&b, 0, 1, false, PS_EBUDGET, "--max-egress");
    assert_int_equal(ps_stat_get(&b.stats.bytes_net), 10000);
    get_is(&b, CONTENT_BYTES, PS_EBUDGET);
    end(&b);
    o.max_egress_bytes = CONTENT_BYTES; /* exactly enough, in parallel */
    begin(&b, NULL, 0, o);
    struct crowd *c = crowd_start(&b, true);
    assert_true(crowd_wait(c));
    assert_int_equal(c->ok, MANY);
    end(&b);
    free(c);
    begin(&b, NULL, 0, o);
    get_is(&b, CONTENT_BYTES, 0);
    assert_true(ps_stat_get(&b.stats.bytes_net) <= o.max_egress_bytes);
    end(&b);
}

static void test_stats(void **state)
{
    (void)state;
    struct bench b;
    begin(&b, NULL, 0, quick);
    uint64_t before = ps_now_ns();
    read_one(&b, 0, 200000, false, 0, "");
    assert_int_equal(ps_stat_get(&b.stats.bytes_net), 200000);
    assert_int_equal(ps_stat_get(&b.stats.requests), 1);
    assert_int_equal(ps_stat_get(&b.stats.retries), 0);
    assert_true(ps_stat_get(&b.stats.first_request_ns) >= before - PS_NS_PER_S);
    assert_true(ps_stat_get(&b.stats.link_busy_ns) > 0);
    assert_true(ps_stat_get(&b.stats.link_busy_ns) < ps_now_ns() - before);
    end(&b);
}

static int open_and_read(void *user)
{
    struct ps_source *s;
    struct ps_err err = {0};
    char buf[100], *text;
    size_t len;
    int rc = ps_store_open(&s, user, &quick, &err);
    if (rc != 0)
        return rc;
    rc = ps_source_read(s, "x.bin", 0, buf, sizeof buf, NULL, &err);
    if (rc == 0)
        rc = ps_source_get(s, "x.bin", CONTENT_BYTES, &text, &len, NULL, &err);
    if (rc == 0)
        ps_free(text);
    ps_source_close(s);
    return rc;
}

static void test_memory(void **state)
{
    (void)state;
    char address[128];
    struct bad_server *server = bad_server_start(NULL, 0, content, CONTENT_BYTES);
    snprintf(address, sizeof address, "http://u:p@127.0.0.1:%u/m?q", bad_server_port(server));
    assert_true(test_every_alloc_failure(open_and_read, address) >= 10);
    bad_server_stop(server);
}

int main(void)
{
    loopback_no_proxies();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right_replies),
        cmocka_unit_test(test_recovers),
        cmocka_unit_test(test_server_errors_pass),
        cmocka_unit_test(test_bad_once_is_refetched),
        cmocka_unit_test(test_bad_for_good),
        cmocka_unit_test(test_no_server),
        cmocka_unit_test(test_unknown_host),
        cmocka_unit_test(test_etag_changes),
        cmocka_unit_test(test_weak_etag_is_not_sent),
        cmocka_unit_test(test_changes_inside_a_range),
        cmocka_unit_test(test_size_changes),
        cmocka_unit_test(test_callers_expectations),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_redirect_keeps_credentials_at_home),
        cmocka_unit_test(test_expired_target),
        cmocka_unit_test(test_redirect_refusals),
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_get_large),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_empty_object),
        cmocka_unit_test(test_joining),
        cmocka_unit_test(test_two_net_threads),
        cmocka_unit_test(test_connections_are_reused),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_withdrawn),
        cmocka_unit_test(test_close_under_way),
        cmocka_unit_test(test_max_egress),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
