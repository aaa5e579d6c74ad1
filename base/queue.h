/* Bounded multi-producer multi-consumer queue of pointers: the only way in which threads hand work to each other.
 * Fixed ring allocated at creation; order is first in, first out. All functions are thread-safe. */
#ifndef PS_BASE_QUEUE_H
#define PS_BASE_QUEUE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ps_queue;
int ps_queue_new(struct ps_queue **out, size_t capacity); /* 0 or PS_ENOMEM */
void ps_queue_free(struct ps_queue *q);            /* must be empty or its items owned elsewhere */
int ps_queue_push(struct ps_queue *q, void *item); /* blocks while full; PS_ECANCELLED once closed */
int ps_queue_try_push(struct ps_queue *q,
                      void *item); /* PS_EAGAIN when full, PS_ECANCELLED once closed */
int ps_queue_pop(struct ps_queue *q,
                 void **item); /* blocks while empty; PS_ECANCELLED when closed and empty */
/* timeout_ns from now; PS_EAGAIN on timeout. */
int ps_queue_pop_timed(struct ps_queue *q, void **item, uint64_t timeout_ns);
void ps_queue_close(struct ps_queue *q); /* wakes everyone; items already inside can still be popped */
size_t ps_queue_length(struct ps_queue *q);
#endif
