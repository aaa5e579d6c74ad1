/* Bounded queue: pointers come in from any thread, go out in order to any thread; a full queue holds the producer back,
 * which is what bounds the memory of everything in flight. */
#include "base/queue.h"

#include <pthread.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/thread.h"

struct ps_queue {
    pthread_mutex_t lock;
    pthread_cond_t not_empty, not_full;
    size_t capacity;
    size_t head, length; /* lock */
    bool closed;         /* lock */
    void *items[];       /* lock */
};

int ps_queue_new(struct ps_queue **out, size_t capacity)
{
    PS_ASSERT(capacity > 0);
    size_t bytes;
    if (__builtin_mul_overflow(capacity, sizeof(void *), &bytes) ||
        __builtin_add_overflow(bytes, sizeof(struct ps_queue), &bytes))
        return PS_ENOMEM;
    struct ps_queue *q = ps_malloc(bytes);
    if (!q)
        return PS_ENOMEM;
    pthread_mutex_init(&q->lock, NULL);
    ps_cond_init(&q->not_empty);
    ps_cond_init(&q->not_full);
    q->capacity = capacity;
    q->head = 0;
    q->length = 0;
    q->closed = false;
    *out = q;
    return 0;
}

void ps_queue_free(struct ps_queue *q)
{
    if (!q)
        return;
    pthread_cond_destroy(&q->not_full);
    pthread_cond_destroy(&q->not_empty);
    pthread_mutex_destroy(&q->lock);
    ps_free(q);
}

static void put_locked(struct ps_queue *q, void *item)
{
    q->items[(q->head + q->length) % q->capacity] = item;
    q->length++;
    pthread_cond_signal(&q->not_empty);
}

static void *take_locked(struct ps_queue *q)
{
    void *item = q->items[q->head];
    q->head = (q->head + 1) % q->capacity;
    q->length--;
    pthread_cond_signal(&q->not_full);
    return item;
}

int ps_queue_push(struct ps_queue *q, void *item)
{
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    while (q->length == q->capacity && !q->closed)
        pthread_cond_wait(&q->not_full, &q->lock);
    if (q->closed)
        rc = PS_ECANCELLED;
    else
        put_locked(q, item);
    pthread_mutex_unlock(&q->lock);
    return rc;
}

int ps_queue_try_push(struct ps_queue *q, void *item)
{
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    if (q->closed)
        rc = PS_ECANCELLED;
    else if (q->length == q->capacity)
        rc = PS_EAGAIN;
    else
        put_locked(q, item);
    pthread_mutex_unlock(&q->lock);
    return rc;
}

int ps_queue_pop(struct ps_queue *q, void **item)
{
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    while (q->length == 0 && !q->closed)
        pthread_cond_wait(&q->not_empty, &q->lock);
    if (q->length == 0)
        rc = PS_ECANCELLED;
    else
        *item = take_locked(q);
    pthread_mutex_unlock(&q->lock);
    return rc;
}

static uint64_t deadline_after(uint64_t timeout_ns)
{
    /* A century stands for "for ever": larger sums overflow. */
    const uint64_t century_ns = 100ull * 366 * 86400 * PS_NS_PER_S;
    return ps_now_ns() + (timeout_ns < century_ns ? timeout_ns : century_ns);
}

int ps_queue_pop_timed(struct ps_queue *q, void **item, uint64_t timeout_ns)
{
    const uint64_t until_ns = deadline_after(timeout_ns);
    int rc = 0;
    pthread_mutex_lock(&q->lock);
    while (q->length == 0 && !q->closed)
        if (!ps_cond_wait_until(&q->not_empty, &q->lock, until_ns))
            break;
    /* An item that came together with the timeout counts. */
    if (q->length > 0)
        *item = take_locked(q);
    else
        rc = q->closed ? PS_ECANCELLED : PS_EAGAIN;
    pthread_mutex_unlock(&q->lock);
    return rc;
}

void ps_queue_close(struct ps_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->not_empty);
    pthread_cond_broadcast(&q->not_full);
    pthread_mutex_unlock(&q->lock);
}

size_t ps_queue_length(struct ps_queue *q)
{
    pthread_mutex_lock(&q->lock);
    size_t length = q->length;
    pthread_mutex_unlock(&q->lock);
    return length;
}
