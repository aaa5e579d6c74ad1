/* A fixed set of compute threads that run one data-parallel job at a time (fork, join). The caller's thread takes
 * part as index 0, so `threads` = 1 spawns nothing. Workers spin briefly, then sleep on a futex: the gap between
 * two panels of a sweep is microseconds. One thread drives a pool at a time. */
#ifndef PS_BASE_POOL_H
#define PS_BASE_POOL_H
#include <stddef.h>
#include "base/err.h"

struct ps_pool;
/* `on_thread_start` (nullable) runs once on every worker and on the caller's thread (AMX needs a per-thread tile
 * configuration). threads >= 1. */
int ps_pool_new(struct ps_pool **out, unsigned threads, void (*on_thread_start)(void *user),
                void *user, struct ps_err *err);
void ps_pool_free(struct ps_pool *p);
unsigned ps_pool_threads(const struct ps_pool *p);
/* Calls fn(user, index, threads) once for each index 0..threads-1 and returns when all have returned. Each thread takes
 * its own index first, and that of a thread which has not come (another process has its CPU) when its own is done: what
 * belongs to an index (scratch memory) is used by one thread at a time. */
void ps_pool_run(struct ps_pool *p, void (*fn)(void *user, unsigned index, unsigned threads),
                 void *user);
/* Dynamic form: fn(user, i) for i in [0, n), handed out in order in chunks of `grain`. */
void ps_pool_for(struct ps_pool *p, size_t n, size_t grain,
                 void (*fn)(void *user, size_t begin, size_t end, unsigned thread), void *user);
#endif
