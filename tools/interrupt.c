/* See interrupt.h. */
#include "tools/interrupt.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "tools/progress.h"

volatile sig_atomic_t ps_interrupt_seen;

static struct {
    pthread_mutex_t lock; /* guards fn and user; held while fn runs */
    void (*fn)(void *user, int signo);
    void *user;
} watcher = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* A closed terminal ends a run as Ctrl-C does, unless `nohup` asked that it doesn't. */
static void signal_set(sigset_t *set)
{
    struct sigaction hup;

    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN)
        sigaddset(set, SIGHUP);
}

static void end_now(void)
{
    ps_progress_stop();
    fputs("penstock: interrupted\n", stderr);
    _exit(PS_EXIT_INTERRUPTED);
}

static void *watch(void *unused)
{
    sigset_t set;
    int signo;

    (void)unused;
    signal_set(&set);
    while (sigwait(&set, &signo) == 0) {
        /* Before the lock: the first signal's function may be what hangs. */
        if (ps_interrupt_seen)
            _exit(PS_EXIT_INTERRUPTED);
        ps_interrupt_seen = 1;
        pthread_mutex_lock(&watcher.lock);
        if (!watcher.fn)
            end_now();
        watcher.fn(watcher.user, signo);
        pthread_mutex_unlock(&watcher.lock);
    }
    return NULL;
}

/* A shell without job control starts background jobs with SIGINT ignored. A blocked signal is
 * queued and taken by sigwait even so: `kill -INT` must stop a run that a script started. */
int ps_interrupt_start(struct ps_err *err)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t set;
    int rc;

    signal(SIGPIPE, SIG_IGN);
    signal_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    rc = pthread_create(&thread, &attr, watch, NULL);
    pthread_attr_destroy(&attr);
    if (rc)
        return ps_err_set(err, PS_EIO, "interrupt", "can't start a thread: %s", strerror(rc));
    return 0;
}

/* A signal that came in before its function was set must not be lost: the caller sees it in
 * ps_interrupt_seen. */
void ps_interrupt_set(void (*fn)(void *user, int signo), void *user)
{
    pthread_mutex_lock(&watcher.lock);
    watcher.fn = fn;
    watcher.user = user;
    pthread_mutex_unlock(&watcher.lock);
}
