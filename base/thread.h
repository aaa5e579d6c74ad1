/* Threads of our own. */
#ifndef PS_BASE_THREAD_H
#define PS_BASE_THREAD_H
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* pthread_create for a thread that takes no signals: they belong to the thread that drives the program, and a
 * SIGPIPE becomes EPIPE. Returns 0 or an errno. The caller joins it. */
int ps_thread_start(pthread_t *thread, void *(*run)(void *), void *user);

/* A condition whose waits do not jump with the wall clock. 0 or an errno. pthread_cond_destroy ends it. */
int ps_cond_init(pthread_cond_t *cond);
/* Waits on such a condition until ps_now_ns() is `until_ns` at the latest. False: that time has come. As with every
 * condition, it may also return without a cause. */
bool ps_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until_ns);
#endif
