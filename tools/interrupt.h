/* SIGINT and SIGTERM. The first one calls what the running command has set, the second ends the
 * process at once.
 *
 * The signals are blocked in every thread and taken by a thread of their own with sigwait, so
 * that what a command does then is ordinary code (writing the statistics of a run that is still
 * opening its model), not a signal handler. */
#ifndef PS_TOOLS_INTERRUPT_H
#define PS_TOOLS_INTERRUPT_H
#include <signal.h>
#include <stdbool.h>
#include "base/err.h"

#define PS_EXIT_INTERRUPTED 130

/* Before any other thread exists. Also ignores SIGPIPE: a closed stdout is an error of a write. */
int ps_interrupt_start(struct ps_err *err);
/* What the first signal does, on the watcher's thread; NULL (the start): end the process with
 * status 130. When this returns, the function set before is not running and will not run. */
void ps_interrupt_set(void (*fn)(void *user, int signo), void *user);
/* Set by the first signal; ps_split polls it. */
extern volatile sig_atomic_t ps_interrupt_seen;
#endif
