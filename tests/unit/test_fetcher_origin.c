/* The seam between the http store and a scheme: a scripted origin says when it is ready, where
 * objects lie and what cures a refusal; the server shows what that led to.
 *
 * ctest-timeout: 120 */
#include "tests/support/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "fetcher/http_fetch.h"
#include "fetcher/http_origin.h"
#include "tests/support/loopback.h"

#define CONTENT_BYTES 100000u

static uint8_t content[CONTENT_BYTES];

/* ---- a scripted origin ---- */

struct script {
    struct ps_http_origin base;
    unsigned port;
    /* how it behaves */
    bool errands;        /* nothing goes without one */
    bool gives_place;    /* prepare names a place of its own, good for a minute */
    bool hangs;          /* prepare waits for the stop */
    unsigned fail_first; /* so many errands fail with fail_code */
    int fail_code;
    enum ps_retry_class fail_class;
    enum ps_http_cure cure_with;
    unsigned life_s;
    /* what happened */
    atomic_uint prepares, signs, signs_away, cures;
    atomic_uint version;                 /* of the "credentials": goes into the header */
    _Atomic uint64_t fresh;              /* 1: errands have nothing to do */
    char seen_header[64], seen_body[16]; /* by the last cure */
};

static int script_locate(struct ps_http_origin *base, const char *object, struct ps_uri *out,
                         struct ps_err *err)
{
    const struct script *o = (const struct script *)base;
    char text[128];
    snprintf(text, sizeof text, "http://127.0.0.1:%u/front/%s", o->port, object);
    return ps_uri_parse(out, text, err);
}

static char *script_label(struct ps_http_origin *base, const char *object)
{
    char text[64];
    (void)base;
    snprintf(text, sizeof text, "script://%s", object);
    return ps_strdup(text);
}

static int script_sign(struct ps_http_origin *base, struct ps_http_request *q)
{
    struct script *o = (struct script *)base;
    atomic_fetch_add(q->home ? &o->signs : &o->signs_away, 1);
    if (!q->home)
        return 0;
    q->ticket = atomic_load(&o->version);
    ps_http_headers_add(q->headers, "Authorization: Key %u %llu-%llu", (unsigned)q->ticket,
                        (unsigned long long)q->from, (unsigned long long)q->to);
    return 0;
}

static enum ps_http_cure script_cure(struct ps_http_origin *base, const struct ps_http_answer *a,
                                     struct ps_judgement *judge)
{
    struct script *o = (struct script *)base;
    if (a->status != 403 && a->status != 301)
        return PS_HTTP_CURE_NONE;
    snprintf(o->seen_header, sizeof o->seen_header, "%s", a->headers[0]);
    snprintf(o->seen_body, sizeof o->seen_body, "%.*s", (int)a->body_bytes, a->body);
    judge->what = "the script refuses";
    judge->verdict = PS_REPLY_REFUSE;
    judge->code = PS_EREFUSED;
    judge->hint = "rewrite it";
    atomic_fetch_add(&o->cures, 1);
    if (o->cure_with != PS_HTTP_CURE_NONE && a->ticket == atomic_load(&o->version))
        atomic_fetch_add(&o->version, 1);
    if (o->cure_with == PS_HTTP_CURE_PREPARE)
        atomic_store(&o->fresh, 0);
    return o->cure_with;
}

static unsigned script_redirected(struct ps_http_origin *base, const struct ps_http_answer *a,
                                  const struct ps_uri *target)
{
    assert_true(a->status == 302 && a->home);
    assert_string_equal(target->path, "/away");
    return ((struct script *)base)->life_s;
}

static enum ps_http_ready script_ready(struct ps_http_origin *base, const char *object,
                                       const struct ps_http_place *place, uint64_t now_ns)
{
    struct script *o = (struct script *)base;
    (void)object;
    if (!o->errands)
        return PS_HTTP_READY;
    if (o->gives_place)
        return place->known && now_ns < place->until_ns ? PS_HTTP_READY : PS_HTTP_WAIT;
    return atomic_load(&o->fresh) ? PS_HTTP_READY : PS_HTTP_WAIT;
}

static int script_prepare(struct ps_http_origin *base, struct ps_http_errand *e, struct ps_err *err)
{
    struct script *o = (struct script *)base;
    unsigned nth = atomic_fetch_add(&o->prepares, 1);
    while (o->hangs && !atomic_load(e->stop))
        usleep(1000);
    if (o->hangs)
        return PS_ECANCELLED;
    usleep(20000); /* all ranges of a test have been submitted by then */
    if (nth < o->fail_first) {
        e->cls = o->fail_class;
        return ps_err_set(err, o->fail_code, "test", "no key: %s: find it", e->object);
    }
    if (o->gives_place) {
        char text[128];
        snprintf(text, sizeof text, "http://127.0.0.1:%u/place?n=%u", o->port, nth);
        e->place.known = ps_uri_parse(&e->place.uri, text, err) == 0;
        e->place.until_ns = ps_now_ns() + 60 * PS_NS_PER_S;
    }
    atomic_store(&o->fresh, 1);
    return 0;
}

static void script_free(struct ps_http_origin *base)
{
    (void)base; /* the test's */
}

static const char *const script_headers[] = {"x-why", NULL};
static const struct ps_http_origin_ops script_ops = {
    .scheme = "script",
    .headers = script_headers,
    .locate = script_locate,
    .label = script_label,
    .sign = script_sign,
    .cure = script_cure,
    .redirected = script_redirected,
    .ready = script_ready,
    .prepare = script_prepare,
    .free = script_free,
};

struct stage {
    struct bad_server *server;
    struct ps_source *source;
    struct ps_stats stats;
    uint64_t live;
};

static void begin(struct stage *b, struct script *o, const struct bad_rule *rules, size_t n)
{
    static char label[] = "script://";
    struct ps_err err = {0};
    memset(b, 0, sizeof *b);
    b->live = ps_alloc_live_count();
    b->server = bad_server_start(rules, n, content, CONTENT_BYTES);
    o->base.ops = &script_ops;
    o->base.label = label;
    o->port = bad_server_port(b->server);
    const struct ps_store_options opt = {.net_deadline_s = 4,
                                         .net_stall_s = 1,
                                         .connections = 4,
                                         .stats = &b->stats};
    assert_ok(ps_http_store_start(&b->source, &o->base, &opt, &err), &err);
}

static void end(struct stage *b)
{
    ps_source_close(b->source);
    loopback_end(b->server, b->live);
}

static struct bad_seen seen_at(struct stage *b, size_t i)
{
    return loopback_seen(b->server, i);
}

static void read_one(struct stage *b, uint64_t offset, int want, const char *says)
{
    char buf[1000];
    struct ps_err err = {0};
    int rc = ps_source_read(b->source, "x.bin", offset, buf, sizeof buf, NULL, &err);
    if (rc != want || (rc != 0 && !strstr(err.text, says)))
        fail_msg("%d, not %d: %s", rc, want, err.text);
    if (rc == 0)
        assert_memory_equal(buf, content + offset, sizeof buf);
}

/* ---- errands ---- */

struct many {
    atomic_uint done, good;
};

static void on_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct many *m = r->user;
    (void)err;
    if (rc == 0)
        atomic_fetch_add(&m->good, 1);
    atomic_fetch_add(&m->done, 1);
}

static void await(const atomic_uint *n, unsigned want)
{
    uint64_t start_ns = ps_now_ns();
    while (atomic_load(n) < want && ps_seconds_since(start_ns) < 20)
        usleep(1000);
    assert_int_equal(atomic_load(n), want);
}

static void test_one_errand_for_all(void **state)
{
    (void)state;
    enum { N = 24 };
    static char buf[N][500];
    static const char *const names[3] = {"a", "b", "c"};
    struct script o = {.errands = true};
    struct ps_range ranges[N];
    struct many m = {0};
    struct stage b;
    begin(&b, &o, NULL, 0);
    for (unsigned i = 0; i < N; i++) {
        ranges[i] = (struct ps_range){.object = names[i % 3],
                                      .offset = i * 1000,
                                      .bytes = sizeof buf[i],
                                      .buf = buf[i],
                                      .done = on_done,
                                      .user = &m};
        assert_int_equal(ps_source_submit(b.source, &ranges[i], NULL), 0);
    }
    await(&m.done, N);
    assert_int_equal(m.good, N);
    /* Two threads may have set out before the first one came back. */
    assert_in_range(o.prepares, 1, 2);
    assert_int_equal(o.signs, bad_server_requests(b.server));
    for (unsigned i = 0; i < N; i++)
        assert_memory_equal(buf[i], content + i * 1000, sizeof buf[i]);
    assert_non_null(strstr(seen_at(&b, 0).authorization, "Key 0 "));
    end(&b);
}

static void test_errand_fails(void **state)
{
    (void)state;
    struct script o = {.errands = true,
                       .fail_first = 1000,
                       .fail_code = PS_EREFUSED,
                       .fail_class = PS_RETRY_FATAL};
    struct stage b;
    begin(&b, &o, NULL, 0);
    read_one(&b, 0, PS_EREFUSED, "no key: x.bin: find it");
    assert_int_equal(o.prepares, 1);
    assert_int_equal(bad_server_requests(b.server), 0);
    end(&b);
    o = (struct script){.errands = true,
                        .fail_first = 2,
                        .fail_code = PS_ENET,
                        .fail_class = PS_RETRY_TRANSPORT};
    begin(&b, &o, NULL, 0);
    read_one(&b, 0, 0, "");
    assert_int_equal(o.prepares, 3);
    end(&b);
    o = (struct script){.errands = true,
                        .fail_first = 1000,
                        .fail_code = PS_ENET,
                        .fail_class = PS_RETRY_SERVER};
    uint64_t start_ns = ps_now_ns();
    begin(&b, &o, NULL, 0);
    read_one(&b, 0, PS_ENET, "no key: x.bin: find it"); /* at the deadline */
    assert_true(ps_seconds_since(start_ns) >= 3.5 && ps_seconds_since(start_ns) < 15);
    end(&b);
}

static void test_close_during_an_errand(void **state)
{
    (void)state;
    struct script o = {.errands = true, .hangs = true};
    struct many m = {0};
    struct stage b;
    char buf[2][100];
    begin(&b, &o, NULL, 0);
    struct ps_range ranges[2];
    for (unsigned i = 0; i < 2; i++) {
        ranges[i] = (struct ps_range){
            .object = "x", .offset = i, .bytes = 100, .buf = buf[i], .done = on_done, .user = &m};
        assert_int_equal(ps_source_submit(b.source, &ranges[i], NULL), 0);
    }
    await(&o.prepares, 1);
    ps_source_cancel(b.source, &ranges[0]);
    await(&m.done, 1);
    end(&b);
    assert_int_equal(m.done, 2);
    assert_int_equal(m.good, 0);
}

static void test_place_of_an_errand(void **state)
{
    (void)state;
    static const struct bad_rule expired = {
        .path = "/place", .after = 2, .times = 1, .kind = BAD_STATUS, .status = 403};
    struct script o = {.errands = true, .gives_place = true};
    struct stage b;
    begin(&b, &o, &expired, 1);
    for (unsigned i = 0; i < 4; i++)
        read_one(&b, i * 1000, 0, "");
    assert_int_equal(o.prepares, 2); /* the third range met the 403 */
    assert_int_equal(o.signs, 0);
    assert_string_equal(seen_at(&b, 0).query, "n=0");
    assert_string_equal(seen_at(&b, 4).query, "n=1");
    assert_string_equal(seen_at(&b, 0).authorization, "");
    end(&b);
}

/* ---- cures ---- */

static void test_cures(void **state)
{
    (void)state;
    static const struct bad_rule once = {.times = 1,
                                         .kind = BAD_STATUS,
                                         .status = 403,
                                         .header = "X-Why: because\r\n"};
    static const struct bad_rule always = {.kind = BAD_STATUS, .status = 403};
    for (int how = PS_HTTP_CURE_AGAIN; how <= PS_HTTP_CURE_PREPARE; how++) {
        struct script o = {.errands = true, .cure_with = (enum ps_http_cure)how};
        struct stage b;
        begin(&b, &o, &once, 1);
        read_one(&b, 0, 0, "");
        assert_int_equal(o.prepares, how == PS_HTTP_CURE_PREPARE ? 2 : 1);
        assert_string_equal(o.seen_header, "because");
        assert_string_equal(o.seen_body, "no\n");
        assert_non_null(strstr(seen_at(&b, 0).authorization, "Key 0 0-1000"));
        assert_non_null(strstr(seen_at(&b, 1).authorization, "Key 1 0-1000"));
        end(&b);
        o = (struct script){.errands = true, .cure_with = (enum ps_http_cure)how};
        begin(&b, &o, &always, 1);
        read_one(&b, 0, PS_EREFUSED, "the script refuses");
        assert_int_equal(bad_server_requests(b.server), 4);
        end(&b);
    }
}

static void test_cure_words(void **state)
{
    (void)state;
    static const struct bad_rule moved = {.kind = BAD_STATUS,
                                          .status = 301,
                                          .header = "Location: /elsewhere\r\n"};
    struct script o = {.cure_with = PS_HTTP_CURE_NONE};
    struct stage b;
    begin(&b, &o, &moved, 1);
    read_one(&b, 0, PS_EREFUSED, "the script refuses: script://x.bin: rewrite it");
    assert_int_equal(bad_server_requests(b.server), 1); /* the redirect was not followed */
    end(&b);
}

static void test_redirect_life(void **state)
{
    (void)state;
    static const struct bad_rule away = {.path = "/front/x.bin",
                                         .kind = BAD_STATUS,
                                         .status = 302,
                                         .header = "Location: /away\r\n"};
    for (unsigned life_s = 0; life_s <= 60; life_s += 60) {
        struct script o = {.life_s = life_s};
        struct stage b;
        begin(&b, &o, &away, 1);
        read_one(&b, 0, 0, "");
        read_one(&b, 1000, 0, "");
        assert_int_equal(bad_server_requests(b.server), life_s ? 3 : 4);
        end(&b);
    }
}

static void test_identity(void **state)
{
    (void)state;
    struct script o = {.life_s = 0};
    struct stage b;
    struct ps_object_info info;
    struct ps_err err = {0};
    char buf[10];
    size_t len;
    begin(&b, &o, NULL, 0);
    assert_ok(ps_source_head(b.source, "x.bin", buf, sizeof buf, &len, &info, &err), &err);
    assert_string_equal(info.identity, "script|\"v1\"|100000|script://x.bin");
    end(&b);
}

/* ---- small exchanges ---- */

static int fetch(struct ps_fetch_reply *r, unsigned port, const char *path,
                 enum ps_retry_class *cls, struct ps_err *err)
{
    static const char *const keep[] = {"x-why", "etag", NULL};
    static const char *const headers[] = {"Authorization: me", NULL};
    char url[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%u%s", port, path);
    const struct ps_fetch f = {.url = url,
                               .headers = headers,
                               .keep = keep,
                               .where = "the test",
                               .max_bytes = CONTENT_BYTES};
    return ps_http_fetch(r, &f, cls, err);
}

static void test_fetch(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {
        {.path = "/hint", .kind = BAD_EARLY_HINTS},
        {.path = "/no", .kind = BAD_STATUS, .status = 403, .header = "X-Why: so\r\n"},
        {.path = "/long", .kind = BAD_LONG},
        {.path = "/cut", .kind = BAD_TRUNCATE}};
    struct bad_server *s = bad_server_start(rules, TEST_COUNT(rules), content, CONTENT_BYTES);
    unsigned port = bad_server_port(s);
    uint64_t live = ps_alloc_live_count();
    struct ps_fetch_reply r;
    struct ps_err err = {0};
    struct bad_seen seen;
    enum ps_retry_class cls;
    assert_ok(fetch(&r, port, "/hint", &cls, &err), &err);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.body.len, CONTENT_BYTES);
    assert_memory_equal(r.body.data, content, CONTENT_BYTES);
    assert_null(r.values[0]);
    assert_string_equal(r.values[1], "\"v1\"");
    ps_fetch_reply_deinit(&r);
    assert_true(bad_server_seen(s, 0, &seen));
    assert_string_equal(seen.authorization, "me");
    assert_ok(fetch(&r, port, "/no", &cls, &err), &err);
    assert_int_equal(r.status, 403);
    assert_string_equal(r.values[0], "so");
    assert_string_equal(r.body.data, "no\n");
    ps_fetch_reply_deinit(&r);
    assert_int_equal(fetch(&r, port, "/long", &cls, &err), PS_EDATA);
    assert_int_equal(cls, PS_RETRY_FATAL);
    assert_int_equal(fetch(&r, port, "/cut", &cls, &err), PS_ENET);
    assert_int_equal(cls, PS_RETRY_TRANSPORT);
    bad_server_stop(s);
    assert_int_equal(fetch(&r, port, "/", &cls, &err), PS_ENET);
    assert_int_equal(cls, PS_RETRY_CONNECT);
    assert_non_null(strstr(err.text, "can't connect: the test"));
    assert_int_equal(ps_alloc_live_count(), live);
}

/* Under --net-limit a question waits until what came before it is paid for, and its own answer is paid for in turn. */
static void test_fetch_keeps_to_the_limit(void **state)
{
    (void)state;
    enum { BYTES_S = 4 * CONTENT_BYTES };
    struct bad_server *s = bad_server_start(NULL, 0, content, CONTENT_BYTES);
    struct ps_rate_limit *limit = NULL;
    struct ps_fetch_reply r;
    struct ps_err err = {0};
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", bad_server_port(s));
    assert_ok(ps_rate_limit_new(&limit, BYTES_S, &err), &err);
    const struct ps_fetch f = {.url = url, .where = "x", .max_bytes = CONTENT_BYTES, .limit = limit};
    const uint64_t began_ns = ps_now_ns();
    for (int i = 0; i < 3; i++) {
        assert_ok(ps_http_fetch(&r, &f, NULL, &err), &err);
        ps_fetch_reply_deinit(&r);
    }
    /* a quarter of a second each, but for a credit of a twentieth and the last, which is owed still */
    const uint64_t took_ns = ps_now_ns() - began_ns;
    assert_true(took_ns > 2 * PS_NS_PER_S / 4 - PS_NS_PER_S / 20);
    assert_true(ps_rate_limit_ready_ns(limit) > ps_now_ns());
    atomic_int interrupt = 1;
    struct ps_fetch gone = f;
    gone.interrupt = &interrupt; /* also while it waits */
    assert_int_equal(ps_http_fetch(&r, &gone, NULL, &err), PS_EINTERRUPTED);
    bad_server_stop(s);
    ps_rate_limit_free(limit);
}

static void test_fetch_stops(void **state)
{
    (void)state;
    static const struct bad_rule silent = {.kind = BAD_SILENT};
    struct bad_server *s = bad_server_start(&silent, 1, content, CONTENT_BYTES);
    char url[64];
    atomic_bool stop = true;
    atomic_int interrupt = 1;
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", bad_server_port(s));
    struct ps_fetch_reply r;
    const struct ps_fetch stopped = {.url = url, .where = "x", .stop = &stop};
    const struct ps_fetch interrupted = {.url = url, .where = "x", .interrupt = &interrupt};
    const struct ps_fetch late = {.url = url, .where = "x", .timeout_s = 1};
    struct ps_err err = {0};
    assert_int_equal(ps_http_fetch(&r, &stopped, NULL, &err), PS_ECANCELLED);
    assert_int_equal(ps_http_fetch(&r, &interrupted, NULL, &err), PS_EINTERRUPTED);
    assert_int_equal(ps_http_fetch(&r, &late, NULL, &err), PS_ENET);
    bad_server_stop(s);
}

static int setup(void **state)
{
    (void)state;
    loopback_fill(content, CONTENT_BYTES);
    return 0;
}

int main(void)
{
    loopback_no_proxies();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_errand_for_all),
        cmocka_unit_test(test_errand_fails),
        cmocka_unit_test(test_close_during_an_errand),
        cmocka_unit_test(test_place_of_an_errand),
        cmocka_unit_test(test_cures),
        cmocka_unit_test(test_cure_words),
        cmocka_unit_test(test_redirect_life),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_fetch_keeps_to_the_limit),
        cmocka_unit_test(test_fetch_stops),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
