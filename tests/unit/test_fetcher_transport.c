/* What the http store does about links that are not healthy, each against a scripted server: slow connections,
 * what a layer waits for, servers that ask for less, names with many addresses, old connections, a rate limit.
 *
 * ctest-timeout: 240 */
#include "tests/support/test.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "fetcher/store.h"
#include "tests/support/bad_server.h"

#define CONTENT_BYTES (8u << 20)
#define PIECE         (256u << 10)
#define PIECES        (CONTENT_BYTES / PIECE)

static uint8_t *content;

static int setup(void **state)
{
    (void)state;
    content = malloc(CONTENT_BYTES);
    assert_non_null(content);
    for (size_t i = 0; i < CONTENT_BYTES; i++)
        content[i] = (uint8_t)((i * 2654435761u) >> 13);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(content);
    return 0;
}

/* ---- one source, its server, and the pieces of the content ---- */

struct bench {
    struct bad_server *server;
    struct ps_source *source;
    struct ps_stats stats;
    struct ps_rate_limit *limit;
    uint64_t live;
    struct ps_range r[PIECES];
    uint8_t sha[PIECES][PS_SHA256_BYTES];
    uint8_t *buf;
    _Atomic unsigned ok, failed;
};

static void on_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct bench *b = r->user;
    if (rc != 0 && rc != PS_ECANCELLED)
        print_message("%d: %s\n", rc, err ? err->text : "");
    atomic_fetch_add(rc == 0 ? &b->ok : &b->failed, 1);
}

/* The server is there and may still be told more; connect() opens the source. */
static struct bench *begin(const struct bad_rule *rules, size_t n)
{
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->live = ps_alloc_live_count();
    b->buf = calloc(1, CONTENT_BYTES);
    assert_non_null(b->buf);
    b->server = bad_server_start(rules, n, content, CONTENT_BYTES);
    return b;
}

static void open_at(struct bench *b, const char *host, struct ps_store_options o)
{
    char address[128];
    struct ps_err err = {0};
    o.stats = &b->stats;
    o.net_deadline_s = o.net_deadline_s ? o.net_deadline_s : 30;
    snprintf(address, sizeof address, "http://%s:%u/m", host, bad_server_port(b->server));
    assert_ok(ps_store_open(&b->source, address, &o, &err), &err);
}

static void ask(struct bench *b, unsigned i)
{
    uint64_t at = (uint64_t)i * PIECE;
    ps_sha256_once(content + at, PIECE, b->sha[i]);
    b->r[i] = (struct ps_range){.object = "x.bin",
                                .offset = at,
                                .bytes = PIECE,
                                .buf = b->buf + at,
                                .priority = i,
                                .sha256 = b->sha[i],
                                .alone = true,
                                .done = on_done,
                                .user = b};
    assert_int_equal(ps_source_submit(b->source, &b->r[i], NULL), 0);
}

static void wait_for(struct bench *b, unsigned n)
{
    for (int i = 0; i < 60000 && b->ok + b->failed < n; i++)
        usleep(1000);
    assert_int_equal(b->failed, 0);
    assert_int_equal(b->ok, n);
}

static void all(struct bench *b)
{
    for (unsigned i = 0; i < PIECES; i++)
        ask(b, i);
    wait_for(b, PIECES);
    assert_memory_equal(b->buf, content, CONTENT_BYTES);
}

static void end(struct bench *b)
{
    ps_source_close(b->source);
    ps_rate_limit_free(b->limit);
    bad_server_stop(b->server);
    free(b->buf);
    assert_int_equal(ps_alloc_live_count(), b->live);
    free(b);
}

/* ---- slow connections ---- */

static unsigned first_two_crawl(unsigned connection)
{
    return connection < 2 ? 30000 : 4000000;
}

static void test_escape(void **state)
{
    (void)state;
    struct bench *b = begin(NULL, 0);
    bad_server_pace(b->server, first_two_crawl);
    open_at(b, "127.0.0.1", (struct ps_store_options){.connections = 8});
    uint64_t t0 = ps_now_ns();
    all(b); /* two pieces would take 8.7 s each */
    assert_true(ps_seconds_since(t0) < 8);
    assert_in_range(ps_stat_get(&b->stats.escapes), 1, 6);
    /* Only what was missing was asked for again. */
    assert_int_equal(ps_stat_get(&b->stats.bytes_net), CONTENT_BYTES);
    assert_in_range(ps_stat_get(&b->stats.requests), PIECES + 1, PIECES + 6);
    assert_in_range(ps_stat_get(&b->stats.conns_opened), 9, 16);
    end(b);
}

static unsigned all_crawl(unsigned connection)
{
    (void)connection;
    return 800000;
}

static void test_a_slow_link_is_left_alone(void **state)
{
    (void)state;
    struct bench *b = begin(NULL, 0);
    bad_server_pace(b->server, all_crawl);
    open_at(b, "127.0.0.1", (struct ps_store_options){.connections = 8});
    all(b);
    assert_int_equal(ps_stat_get(&b->stats.escapes), 0);
    assert_int_equal(ps_stat_get(&b->stats.requests), PIECES);
    assert_int_equal(ps_stat_get(&b->stats.conns_opened), 8);
    assert_int_equal(ps_stat_get(&b->stats.window_min), 0); /* never below --connections */
    end(b);
}

/* ---- second requests ---- */

#define STUCK (PIECES - 1)

/* Everything but one piece arrives; that one is asked for, stops half way, and a layer waits for it. */
static struct bench *one_stuck(const struct bad_rule *rules, size_t n, int hedge_pct, unsigned stall_s)
{
    struct bench *b = begin(rules, n);
    open_at(b, "127.0.0.1",
            (struct ps_store_options){.connections = 4,
                                      .hedge_pct = hedge_pct,
                                      .net_stall_s = stall_s});
    for (unsigned i = 0; i < STUCK; i++)
        ask(b, i);
    wait_for(b, STUCK);
    ask(b, STUCK);
    ps_source_await(b->source, &b->r[STUCK]);
    return b;
}

static void test_hedge(void **state)
{
    (void)state;
    static const struct bad_rule rule = {.after = STUCK, .times = 1, .kind = BAD_STALL};
    struct bench *b = one_stuck(&rule, 1, 2, 20);
    uint64_t t0 = ps_now_ns();
    wait_for(b, PIECES);
    assert_true(ps_seconds_since(t0) < 10); /* else after the stall limit of 20 s */
    assert_memory_equal(b->buf, content, CONTENT_BYTES);
    assert_int_equal(ps_stat_get(&b->stats.hedges), 1);
    assert_int_equal(ps_stat_get(&b->stats.hedges_won), 1);
    assert_int_equal(ps_stat_get(&b->stats.bytes_net), CONTENT_BYTES);
    /* Nothing came twice, unless this machine was so busy that even the headers were late. */
    bool late = ps_stat_get(&b->stats.bytes_hedged) > 0;
    assert_true(ps_stat_get(&b->stats.bytes_hedged) <= PIECE / 2);
    struct bad_seen seen = {.from = 0};
    assert_true(bad_server_seen(b->server, PIECES, &seen));
    assert_int_equal(seen.from,
                     CONTENT_BYTES - (late ? PIECE : PIECE / 2)); /* what was missing, alone */
    assert_int_equal(seen.to, CONTENT_BYTES);
    assert_string_equal(seen.if_match, "\"v1\"");
    end(b);
}

static void test_hedge_keeps_to_its_budget(void **state)
{
    (void)state;
    static const struct bad_rule rule = {.after = STUCK, .times = 1, .kind = BAD_STALL};
    static const int budgets[] = {-1, 1}; /* none; 1 % of 8 MiB, which is less than half a piece */
    for (size_t i = 0; i < TEST_COUNT(budgets); i++) {
        struct bench *b = one_stuck(&rule, 1, budgets[i], 1);
        wait_for(b, PIECES);
        assert_memory_equal(b->buf, content, CONTENT_BYTES);
        assert_int_equal(ps_stat_get(&b->stats.hedges), 0);
        end(b);
    }
}

/* The second request is no better: the first one's failure hands the piece to it, then its own to a third. */
static void test_both_are_stuck(void **state)
{
    (void)state;
    static const struct bad_rule rule = {.after = STUCK, .times = 2, .kind = BAD_STALL};
    struct bench *b = one_stuck(&rule, 1, 2, 1);
    wait_for(b, PIECES);
    assert_memory_equal(b->buf, content, CONTENT_BYTES);
    /* Its bytes count once another took its place, and there may be no more: unless this machine was so busy that it
     * had brought none. */
    assert_in_range(ps_stat_get(&b->stats.hedges), 1, 2);
    assert_int_equal(ps_stat_get(&b->stats.bytes_net), CONTENT_BYTES);
    end(b);
}

/* What a server had begun to send when it was cut may be on its way: another half piece would be too much for 3 % of
 * 8 MiB, though nobody has seen a byte twice. */
static void test_what_is_on_the_way_counts(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {{.after = STUCK - 1, .times = 2, .kind = BAD_STALL}};
    struct bench *b = begin(rules, 1);
    open_at(b, "127.0.0.1",
            (struct ps_store_options){.connections = 4, .hedge_pct = 3, .net_stall_s = 2});
    for (unsigned i = 0; i < STUCK - 1; i++)
        ask(b, i);
    wait_for(b, STUCK - 1);
    for (unsigned i = STUCK - 1; i <= STUCK; i++) {
        ask(b, i);
        ps_source_await(b->source, &b->r[i]);
    }
    wait_for(b, PIECES);
    assert_memory_equal(b->buf, content, CONTENT_BYTES);
    assert_int_equal(ps_stat_get(&b->stats.hedges), 1);
    assert_int_equal(ps_stat_get(&b->stats.hedges_won), 1);
    end(b);
}

/* The second request is not even answered: a third takes its place, long before any limit on silence. */
static void test_a_late_hedge_is_replaced(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {{.after = STUCK, .times = 1, .kind = BAD_STALL},
                                            {.after = STUCK + 1, .times = 1, .kind = BAD_SILENT}};
    struct bench *b = one_stuck(rules, 2, 2, 20);
    uint64_t t0 = ps_now_ns();
    wait_for(b, PIECES);
    assert_true(ps_seconds_since(t0) < 10);
    assert_memory_equal(b->buf, content, CONTENT_BYTES);
    assert_in_range(ps_stat_get(&b->stats.hedges), 2, 3);
    assert_int_equal(ps_stat_get(&b->stats.hedges_won), 1);
    assert_int_equal(ps_stat_get(&b->stats.bytes_net), CONTENT_BYTES);
    assert_true(ps_stat_get(&b->stats.bytes_hedged) <= PIECE / 2);
    end(b);
}

/* The second request is refused: the first goes on as if it had never been. */
static void test_hedge_is_refused(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {
        {.after = STUCK, .times = 1, .kind = BAD_STALL},
        {.after = STUCK + 1, .times = 1, .kind = BAD_STATUS, .status = 404}};
    struct bench *b = one_stuck(rules, 2, 2, 20);
    wait_for(b, PIECES);
    assert_memory_equal(b->buf, content, CONTENT_BYTES);
    /* A refusal brings nothing, so another may be asked for within the same 2 %. */
    assert_int_equal(ps_stat_get(&b->stats.hedges), 2);
    assert_int_equal(ps_stat_get(&b->stats.hedges_won), 1);
    end(b);
}

/* The second request breaks off half way: its bytes were for nothing, and count. */
static void test_a_broken_hedge_counts(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {{.after = STUCK, .times = 1, .kind = BAD_STALL},
                                            {.after = STUCK + 1, .times = 1, .kind = BAD_TRUNCATE}};
    struct bench *b = one_stuck(rules, 2, 5, 3);
    wait_for(b, PIECES);
    assert_memory_equal(b->buf, content, CONTENT_BYTES);
    assert_in_range(ps_stat_get(&b->stats.hedges), 1, 2);
    assert_in_range(ps_stat_get(&b->stats.bytes_hedged), PIECE / 8, PIECE);
    end(b);
}

static void test_cancel_and_close_with_hedges(void **state)
{
    (void)state;
    static const struct bad_rule rule = {.after = STUCK, .kind = BAD_STALL};
    for (int close = 0; close < 2; close++) {
        struct bench *b = one_stuck(&rule, 1, 2, 20);
        while (ps_stat_get(&b->stats.hedges) == 0)
            usleep(1000);
        usleep(20000);
        if (close) {
            ps_source_close(b->source);
            b->source = NULL;
        } else
            ps_source_cancel(b->source, &b->r[STUCK]);
        for (int i = 0; i < 10000 && b->failed == 0; i++)
            usleep(1000);
        assert_int_equal(b->failed, 1);
        end(b);
    }
}

/* Everything goes wrong at once (wrong bytes only once: twice for the same piece would be believed), everything is
 * awaited, second requests cost what they like: the bytes are right. */
static void test_all_at_once(void **state)
{
    (void)state;
    static const struct bad_rule rules[] = {
        {.after = 5, .times = 6, .kind = BAD_RESET},
        {.after = 9, .times = 3, .kind = BAD_STALL},
        {.after = 14, .times = 1, .kind = BAD_FLIP},
        {.after = 17, .times = 4, .kind = BAD_TRUNCATE},
        {.after = 45, .times = 4, .kind = BAD_STATUS, .status = 503},
        {.after = 27, .times = 3, .kind = BAD_SILENT},
        {.after = 31, .times = 4, .kind = BAD_STALL},
        {.after = 36, .times = 3, .kind = BAD_CHUNKED},
        {.after = 40, .times = 4, .kind = BAD_CLOSE},
    };
    for (unsigned threads = 1; threads <= 2; threads++) {
        struct bench *b = begin(rules, TEST_COUNT(rules));
        open_at(b, "127.0.0.1",
                (struct ps_store_options){.connections = 6,
                                          .net_threads = threads,
                                          .net_stall_s = 1,
                                          .hedge_pct = 100,
                                          .conn_life_bytes = 1u << 20});
        for (unsigned i = 0; i < PIECES; i++) {
            ask(b, i);
            ps_source_await(b->source, &b->r[i]);
        }
        wait_for(b, PIECES);
        assert_memory_equal(b->buf, content, CONTENT_BYTES);
        end(b);
    }
}

/* ---- servers that ask for less ---- */

static unsigned two_mb(unsigned connection)
{
    (void)connection;
    return 2000000;
}

static void test_a_server_with_a_limit(void **state)
{
    (void)state;
    struct bench *b = begin(NULL, 0);
    bad_server_limit(b->server, 3);
    bad_server_pace(b->server, two_mb);
    open_at(b, "127.0.0.1", (struct ps_store_options){.connections = 16});
    all(b);
    assert_in_range(ps_stat_get(&b->stats.window_min), 1, 4);
    assert_in_range(ps_stat_get(&b->stats.requests_at_once_max), 4, 16);
    /* Thirteen of the first sixteen are refused, whatever one does; then it has understood. */
    assert_in_range(bad_server_refused(b->server), 1, 30);
    end(b);
}

/* ---- names and connections ---- */

/* Stands before the C library's for libcurl, too: a name of four addresses, always told in the same order. */
__attribute__((visibility("default"))) int getaddrinfo(const char *node, const char *service,
                                                       const struct addrinfo *hints,
                                                       struct addrinfo **res);
__attribute__((visibility("default"))) void freeaddrinfo(struct addrinfo *res);

static _Atomic unsigned lookups;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **res)
{
    struct addrinfo *first = NULL, **link = &first;
    unsigned n = strcmp(node, "127.0.0.1") == 0 ? 1 : strcmp(node, "many.test") == 0 ? 4 : 0;
    (void)hints;
    lookups++;
    for (unsigned i = 1; i <= n; i++) {
        struct addrinfo *a = calloc(1, sizeof *a + sizeof(struct sockaddr_in));
        struct sockaddr_in *at = (struct sockaddr_in *)(void *)(a + 1);
        at->sin_family = AF_INET;
        at->sin_addr.s_addr = htonl((127u << 24) | i);
        at->sin_port = htons((uint16_t)(service ? atoi(service) : 0));
        a->ai_family = AF_INET;
        a->ai_socktype = SOCK_STREAM;
        a->ai_addrlen = sizeof *at;
        a->ai_addr = (struct sockaddr *)at;
        *link = a;
        link = &a->ai_next;
    }
    *res = first;
    return first ? 0 : EAI_NONAME;
}

void freeaddrinfo(struct addrinfo *res)
{
    while (res) {
        struct addrinfo *next = res->ai_next;
        free(res);
        res = next;
    }
}

/* One name, four addresses: the connections of a run use all of them. By chance alone, 24 connections leave one
 * out once in 250 times; in three runs, once in 16 million. */
static void test_addresses_are_spread(void **state)
{
    (void)state;
    bool used[5] = {false};
    for (int run = 0; run < 3; run++) {
        struct bench *b = begin(NULL, 0);
        for (unsigned last = 2; last <= 4; last++)
            bad_server_also(b->server, last);
        bad_server_pace(b->server, two_mb);
        open_at(b, "many.test", (struct ps_store_options){.connections = 24});
        all(b);
        struct bad_seen seen;
        for (size_t i = 0; bad_server_seen(b->server, i, &seen); i++)
            used[seen.address] = true;
        end(b);
    }
    if (lookups == 0)
        fail_msg("the look-up was not ours: this test proves nothing here");
    assert_true(used[1] && used[2] && used[3] && used[4]);
}

static void test_connections_end(void **state)
{
    (void)state;
    static const struct ps_store_options lives[] = {{.connections = 1, .conn_life_ms = 20},
                                                    {.connections = 1, .conn_life_bytes = PIECE * 4}};
    for (size_t i = 0; i < TEST_COUNT(lives); i++) {
        struct bench *b = begin(NULL, 0);
        bad_server_pace(b->server, i == 0 ? two_mb : NULL);
        open_at(b, "127.0.0.1", lives[i]);
        for (unsigned k = 0; k < 16; k++) {
            ask(b, k);
            wait_for(b, k + 1);
        }
        assert_in_range(ps_stat_get(&b->stats.conns_retired), 2, 16);
        assert_int_equal(ps_stat_get(&b->stats.retries), 0); /* nobody notices */
        struct bad_seen seen = {.from = 0};
        assert_true(bad_server_seen(b->server, 15, &seen));
        assert_in_range(seen.connection, 2, 15);
        end(b);
    }
}

/* ---- the rate limit ---- */

static void test_rate_limit(void **state)
{
    (void)state;
    struct bench *b = begin(NULL, 0);
    struct ps_err err = {0};
    assert_ok(ps_rate_limit_new(&b->limit, 6u << 20, &err), &err);
    open_at(b, "127.0.0.1", (struct ps_store_options){.connections = 8, .limit = b->limit});
    uint64_t t0 = ps_now_ns();
    all(b); /* 8 MiB at 6 MiB/s: 1.33 s */
    double took = ps_seconds_since(t0);
    assert_true(took > 1.2);
    assert_true(took < 10);
    t0 = ps_now_ns();
    char *whole = NULL;
    size_t n = 0;
    assert_ok(ps_source_get(b->source, "y.bin", CONTENT_BYTES, &whole, &n, NULL, &err), &err);
    assert_int_equal(n, CONTENT_BYTES);
    assert_memory_equal(whole, content, CONTENT_BYTES);
    ps_free(whole);
    assert_true(ps_seconds_since(t0) > 1.2); /* blocking reads keep to it */
    end(b);
}

/* In debt for long, and closed: nobody sleeps through that. */
static void test_rate_limit_hears(void **state)
{
    (void)state;
    struct bench *b = begin(NULL, 0);
    struct ps_err err = {0};
    assert_ok(ps_rate_limit_new(&b->limit, 1024, &err), &err);
    open_at(b, "127.0.0.1", (struct ps_store_options){.connections = 8, .limit = b->limit});
    for (unsigned i = 0; i < PIECES; i++)
        ask(b, i);
    while (ps_stat_get(&b->stats.bytes_net) == 0)
        usleep(1000);
    ps_rate_limit_take(b->limit, 100u << 20, ps_now_ns());
    usleep(50000);
    uint64_t t0 = ps_now_ns();
    ps_source_cancel(b->source, &b->r[PIECES - 1]);
    ps_source_cancel(b->source, &b->r[0]);
    for (int i = 0; i < 5000 && b->failed < 2; i++)
        usleep(1000);
    assert_int_equal(b->failed, 2);
    ps_source_close(b->source);
    assert_true(ps_seconds_since(t0) < 5);
    b->source = NULL;
    end(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape),
        cmocka_unit_test(test_a_slow_link_is_left_alone),
        cmocka_unit_test(test_hedge),
        cmocka_unit_test(test_hedge_keeps_to_its_budget),
        cmocka_unit_test(test_both_are_stuck),
        cmocka_unit_test(test_a_late_hedge_is_replaced),
        cmocka_unit_test(test_what_is_on_the_way_counts),
        cmocka_unit_test(test_hedge_is_refused),
        cmocka_unit_test(test_a_broken_hedge_counts),
        cmocka_unit_test(test_cancel_and_close_with_hedges),
        cmocka_unit_test(test_all_at_once),
        cmocka_unit_test(test_a_server_with_a_limit),
        cmocka_unit_test(test_addresses_are_spread),
        cmocka_unit_test(test_connections_end),
        cmocka_unit_test(test_rate_limit),
        cmocka_unit_test(test_rate_limit_hears),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
