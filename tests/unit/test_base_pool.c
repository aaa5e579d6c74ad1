/* The compute pool: every index runs once per job, every job ends before the next begins, whatever the thread count. */
#include "tests/support/test.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/pool.h"

enum { MAX_THREADS = 8 };

struct tally {
    unsigned calls[MAX_THREADS]; /* plain: one index writes each, ps_pool_run orders the jobs */
    unsigned threads;
};

static void count_call(void *user, unsigned index, unsigned threads)
{
    struct tally *t = user;
    t->calls[index]++;
    if (index == 0)
        t->threads = threads;
}

static void test_every_index_runs_once(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= MAX_THREADS; threads++) {
        struct ps_pool *p = NULL;
        struct ps_err err = {0};
        assert_ok(ps_pool_new(&p, threads, NULL, NULL, &err), &err);
        assert_int_equal(ps_pool_threads(p), threads);
        struct tally t = {0};
        for (unsigned job = 1; job <= 300; job++) {
            ps_pool_run(p, count_call, &t);
            assert_int_equal(t.threads, threads);
            for (unsigned i = 0; i < threads; i++)
                assert_int_equal(t.calls[i], job);
        }
        ps_pool_free(p);
    }
}

static void test_workers_wake_from_sleep(void **state)
{
    (void)state;
    struct ps_pool *p = NULL;
    assert_int_equal(ps_pool_new(&p, 4, NULL, NULL, NULL), 0);
    struct tally t = {0};
    for (unsigned job = 1; job <= 20; job++) {
        struct timespec nap = {.tv_nsec = 1000000}; /* far longer than they spin */
        nanosleep(&nap, NULL);
        ps_pool_run(p, count_call, &t);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(t.calls[i], job);
    }
    ps_pool_free(p);
}

enum { ITEMS = 1000 };

struct ranges {
    unsigned char hit[ITEMS];
    size_t n, grain;
    _Atomic size_t total;
    _Atomic bool bad;
};

static void mark_range(void *user, size_t begin, size_t end, unsigned thread)
{
    struct ranges *r = user;
    if (begin >= end || end > r->n || end - begin > r->grain || begin % r->grain || thread >= 3)
        atomic_store(&r->bad, true);
    for (size_t i = begin; i < end; i++)
        r->hit[i]++;
    atomic_fetch_add(&r->total, end - begin);
}

static void test_ranges_cover_everything_once(void **state)
{
    (void)state;
    struct ps_pool *p = NULL;
    assert_int_equal(ps_pool_new(&p, 3, NULL, NULL, NULL), 0);
    static const size_t sizes[] = {0, 1, 2, 3, 7, 64, 999, 1000};
    static const size_t grains[] = {1, 2, 7, 100, 1000, 5000};
    for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
        for (size_t g = 0; g < TEST_COUNT(grains); g++) {
            struct ranges r = {.n = sizes[s], .grain = grains[g]};
            ps_pool_for(p, r.n, r.grain, mark_range, &r);
            assert_false(r.bad);
            assert_int_equal(r.total, r.n);
            for (size_t i = 0; i < ITEMS; i++)
                assert_int_equal(r.hit[i], i < r.n);
        }
    }
    ps_pool_free(p);
}

static void count_huge(void *user, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    atomic_fetch_add((_Atomic size_t *)user, end - begin);
}

static void test_range_end_does_not_wrap(void **state)
{
    (void)state;
    struct ps_pool *p = NULL;
    assert_int_equal(ps_pool_new(&p, 2, NULL, NULL, NULL), 0);
    _Atomic size_t total = 0;
    ps_pool_for(p, SIZE_MAX, SIZE_MAX / 3, count_huge, &total);
    assert_true(total == SIZE_MAX);
    ps_pool_free(p);
}

static void note_start(void *user)
{
    atomic_fetch_add((_Atomic unsigned *)user, 1);
}

static void test_thread_start_hook(void **state)
{
    (void)state;
    _Atomic unsigned starts = 0;
    struct tally t = {0};
    struct ps_pool *p = NULL;
    assert_int_equal(ps_pool_new(&p, 5, note_start, &starts, NULL), 0);
    ps_pool_run(p, count_call, &t);
    assert_true(starts >= 1 && starts <= 5); /* nobody waits for a worker that has not come yet */
    ps_pool_free(p);
    assert_int_equal(starts, 5);
    starts = 0;
    assert_int_equal(ps_pool_new(&p, 1, note_start, &starts, NULL), 0);
    assert_int_equal(starts, 1);
    ps_pool_free(p);
    ps_pool_free(NULL);
}

struct gate {
    pthread_t caller;
    _Atomic unsigned waiting;
    atomic_bool open;
};

static void wait_at_gate(void *user)
{
    struct gate *g = user;
    if (pthread_equal(pthread_self(), g->caller))
        return;
    atomic_fetch_add(&g->waiting, 1);
    while (!atomic_load(&g->open))
        sched_yield();
}

/* A worker that does not get a CPU, here: one that is held up at its start, keeps nobody waiting. */
static void test_held_up_workers(void **state)
{
    (void)state;
    struct gate g = {.caller = pthread_self()};
    struct tally t = {0};
    struct ps_pool *p = NULL;
    assert_int_equal(ps_pool_new(&p, 4, wait_at_gate, &g, NULL), 0);
    while (atomic_load(&g.waiting) < 3)
        sched_yield();
    alarm(20); /* instead of a hang */
    for (unsigned job = 1; job <= 100; job++) {
        ps_pool_run(p, count_call, &t);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(t.calls[i], job);
    }
    atomic_store(&g.open, true);
    for (unsigned job = 101; job <= 300; job++) { /* late ones join in */
        ps_pool_run(p, count_call, &t);
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(t.calls[i], job);
    }
    alarm(0);
    ps_pool_free(p);
}

static int create(void *user)
{
    (void)user;
    struct ps_pool *p;
    int rc = ps_pool_new(&p, 2, NULL, NULL, NULL);
    if (rc == 0)
        ps_pool_free(p);
    return rc;
}

static void test_creation_failures(void **state)
{
    (void)state;
    struct ps_pool *p = NULL;
    assert_int_equal(ps_pool_new(&p, 0, NULL, NULL, NULL), PS_EUSAGE);
    assert_int_equal(ps_pool_new(&p, 1000000, NULL, NULL, NULL), PS_EUSAGE);
    assert_null(p);
    assert_int_equal(test_every_alloc_failure(create, NULL), 3);
}

/* Pools come and go while jobs of very different length run: the order of generation, pending and sleepers is what the
 * thread sanitizer and a lost wake-up would show. */
static void busy(void *user, size_t begin, size_t end, unsigned thread)
{
    (void)thread;
    uint64_t *sums = user;
    for (size_t i = begin; i < end; i++) {
        for (size_t k = 0; k < i * 7 % 200; k++)
            sums[i] += k;
        if (i % 97 == 0)
            sched_yield();
    }
}

static void test_stress(void **state)
{
    (void)state;
    uint64_t sums[256];
    for (int round = 0; round < 40; round++) {
        struct ps_pool *p = NULL;
        assert_int_equal(ps_pool_new(&p, 1 + (unsigned)round % 6, NULL, NULL, NULL), 0);
        memset(sums, 0, sizeof(sums));
        for (int job = 0; job < 100; job++)
            ps_pool_for(p, TEST_COUNT(sums), 1 + (size_t)job % 9, busy, sums);
        for (size_t i = 0; i < TEST_COUNT(sums); i++) {
            uint64_t n = i * 7 % 200;
            assert_int_equal(sums[i], 100 * (n ? n * (n - 1) / 2 : 0));
        }
        ps_pool_free(p);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_every_index_runs_once),
    cmocka_unit_test(test_workers_wake_from_sleep),
    cmocka_unit_test(test_ranges_cover_everything_once),
    cmocka_unit_test(test_range_end_does_not_wrap),
    cmocka_unit_test(test_thread_start_hook),
    cmocka_unit_test(test_held_up_workers),
    cmocka_unit_test(test_creation_failures),
    cmocka_unit_test(test_stress),
};
TEST_MAIN(tests)
