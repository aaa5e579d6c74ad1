/* The bounded queue: order, bounds, closing, time limits, and many threads at once. */
#include "tests/support/test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/queue.h"

static void *number(uintptr_t n)
{
    return (void *)n; /* the queue never looks behind its pointers */
}

static struct ps_queue *make(size_t capacity)
{
    struct ps_queue *q = NULL;
    assert_int_equal(ps_queue_new(&q, capacity), 0);
    return q;
}

static void test_order_and_bound(void **state)
{
    (void)state;
    struct ps_queue *q = make(3);
    void *item = NULL;
    for (uintptr_t round = 0; round < 5; round++) { /* the ring wraps */
        for (uintptr_t i = 1; i <= 3; i++)
            assert_int_equal(ps_queue_push(q, number(10 * round + i)), 0);
        assert_int_equal(ps_queue_length(q), 3);
        assert_int_equal(ps_queue_try_push(q, number(99)), PS_EAGAIN);
        for (uintptr_t i = 1; i <= 3; i++) {
            assert_int_equal(ps_queue_pop(q, &item), 0);
            assert_ptr_equal(item, number(10 * round + i));
        }
        assert_int_equal(ps_queue_length(q), 0);
        assert_int_equal(ps_queue_try_push(q, number(7)), 0);
        assert_int_equal(ps_queue_pop(q, &item), 0);
    }
    ps_queue_free(q);
    ps_queue_free(NULL);
}

static void test_close_lets_the_rest_out(void **state)
{
    (void)state;
    struct ps_queue *q = make(4);
    void *item = number(42);
    ps_queue_push(q, number(1));
    ps_queue_push(q, number(2));
    ps_queue_close(q);
    assert_int_equal(ps_queue_push(q, number(3)), PS_ECANCELLED);
    assert_int_equal(ps_queue_try_push(q, number(3)), PS_ECANCELLED);
    assert_int_equal(ps_queue_pop(q, &item), 0);
    assert_ptr_equal(item, number(1));
    assert_int_equal(ps_queue_pop_timed(q, &item, 0), 0);
    assert_ptr_equal(item, number(2));
    assert_int_equal(ps_queue_pop(q, &item), PS_ECANCELLED);
    assert_int_equal(ps_queue_pop_timed(q, &item, PS_NS_PER_S), PS_ECANCELLED);
    assert_ptr_equal(item, number(2)); /* outputs of a failed call are untouched */
    ps_queue_free(q);
}

static void test_timeout(void **state)
{
    (void)state;
    struct ps_queue *q = make(1);
    void *item = NULL;
    uint64_t start_ns = ps_now_ns();
    assert_int_equal(ps_queue_pop_timed(q, &item, 20000000), PS_EAGAIN);
    assert_true(ps_now_ns() - start_ns >= 20000000);
    assert_int_equal(ps_queue_pop_timed(q, &item, 0), PS_EAGAIN);
    ps_queue_push(q, number(5));
    assert_int_equal(ps_queue_pop_timed(q, &item, UINT64_MAX), 0);
    assert_ptr_equal(item, number(5));
    ps_queue_free(q);
}

static int create(void *user)
{
    (void)user;
    struct ps_queue *q;
    int rc = ps_queue_new(&q, 100);
    if (rc == 0)
        ps_queue_free(q);
    return rc;
}

static void test_alloc_failure(void **state)
{
    (void)state;
    assert_int_equal(test_every_alloc_failure(create, NULL), 1);
    struct ps_queue *q = NULL;
    volatile size_t absurd = SIZE_MAX / 4;
    assert_int_equal(ps_queue_new(&q, absurd), PS_ENOMEM);
    assert_null(q);
}

enum { PRODUCERS = 3, CONSUMERS = 3, PER_PRODUCER = 20000 };

struct stress {
    struct ps_queue *q;
    _Atomic uint64_t sum, count;
    _Atomic unsigned next_producer;
};

static void *produce(void *user)
{
    struct stress *s = user;
    uintptr_t base = (uintptr_t)atomic_fetch_add(&s->next_producer, 1) * PER_PRODUCER;
    for (uintptr_t i = 1; i <= PER_PRODUCER; i++) {
        if (i % 7 == 0 && ps_queue_try_push(s->q, number(base + i)) == 0)
            continue;
        if (ps_queue_push(s->q, number(base + i)) != 0)
            return s;
    }
    return NULL;
}

static void *consume(void *user)
{
    struct stress *s = user;
    uintptr_t last[PRODUCERS] = {0};
    for (uint64_t n = 0;; n++) {
        void *item;
        int rc = n % 5 ? ps_queue_pop(s->q, &item) : ps_queue_pop_timed(s->q, &item, 1000000);
        if (rc == PS_EAGAIN)
            continue;
        if (rc != 0)
            return NULL;
        uintptr_t v = (uintptr_t)item;
        uintptr_t producer = (v - 1) / PER_PRODUCER;
        if (v <= last[producer]) /* one consumer sees each producer's items in their order */
            return s;
        last[producer] = v;
        atomic_fetch_add(&s->sum, v);
        atomic_fetch_add(&s->count, 1);
    }
}

static void test_many_threads(void **state)
{
    (void)state;
    struct stress s = {.q = make(8)};
    pthread_t producers[PRODUCERS], consumers[CONSUMERS];
    void *bad;
    for (int i = 0; i < CONSUMERS; i++)
        assert_int_equal(pthread_create(&consumers[i], NULL, consume, &s), 0);
    for (int i = 0; i < PRODUCERS; i++)
        assert_int_equal(pthread_create(&producers[i], NULL, produce, &s), 0);
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(producers[i], &bad);
        assert_null(bad);
    }
    ps_queue_close(s.q);
    for (int i = 0; i < CONSUMERS; i++) {
        pthread_join(consumers[i], &bad);
        assert_null(bad);
    }
    uint64_t total = PRODUCERS * PER_PRODUCER;
    assert_int_equal(s.count, total);
    assert_int_equal(s.sum, total * (total + 1) / 2);
    ps_queue_free(s.q);
}

static void *push_until_closed(void *user)
{
    return ps_queue_push(user, number(2)) == PS_ECANCELLED ? NULL : user;
}

static void test_close_wakes_a_blocked_producer(void **state)
{
    (void)state;
    struct ps_queue *q = make(1);
    pthread_t t;
    void *bad;
    ps_queue_push(q, number(1));
    assert_int_equal(pthread_create(&t, NULL, push_until_closed, q), 0);
    ps_queue_close(q);
    pthread_join(t, &bad);
    assert_null(bad);
    ps_queue_free(q);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_order_and_bound), cmocka_unit_test(test_close_lets_the_rest_out),
    cmocka_unit_test(test_timeout),         cmocka_unit_test(test_alloc_failure),
    cmocka_unit_test(test_many_threads),    cmocka_unit_test(test_close_wakes_a_blocked_producer),
};
TEST_MAIN(tests)
