/* Threads of our own. */
#ifndef PS_BASE_THREAD_H
#define PS_BASE_THREAD_H
#include <pthread.h>

/* pthread_create for a thread that takes no signals: they belong to the thread that drives the program, and a
 * SIGPIPE becomes EPIPE. Returns 0 or an errno. The caller joins it. */
int ps_thread_start(pthread_t *thread, void *(*run)(void *), void *user);
#endif
