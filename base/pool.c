/* The compute threads: one data-parallel job comes in, every thread runs its share, the call returns when all are
 * done.
 *
 * A decode sweep runs thousands of such jobs per second, a few microseconds apart. Waking a sleeping thread costs
 * about 50 us, so a worker spins for about that long before it sleeps (the classic competitive choice: at worst
 * twice the best). It does not spin where the threads outnumber the CPUs: it would burn the time of the thread it
 * waits for.
 *
 * Other processes may want the CPUs too, and then a worker is not there when a job begins, or burns what the others
 * could use. So nobody waits for a worker that has not come: a share is whoever's takes it first, the caller does what
 * is left when its own is done, and waits for those alone that are inside. And a worker that has spun for a few
 * microseconds offers its CPU to others between looks, which costs nothing where nobody wants it. */
#include "base/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/thread.h"

enum { SPIN_NS = 50000, SPIN_ALONE_NS = 4000, CACHE_LINE = 64 };
#define DOOR_OPEN 0x80000000u /* else the number of workers inside */

typedef void (*job_fn)(void *user, unsigned index, unsigned threads);

struct worker {
    struct ps_pool *pool;
    pthread_t thread;
    unsigned index;
};

struct ps_pool {
    unsigned threads;
    unsigned started; /* workers that exist: threads - 1, less only while ps_pool_new fails */
    uint64_t spin_ns;
    void (*on_thread_start)(void *user);
    void *on_thread_start_user;
    job_fn fn; /* written by the driving thread before the door opens, read by workers inside */
    void *fn_user;
    _Atomic uint8_t *claimed; /* [threads]: whose share somebody has taken; cleared while nobody is inside */
    atomic_bool stop;
    /* Each on its own cache line: workers poll one while others write the next. */
    alignas(CACHE_LINE) _Atomic uint32_t generation; /* futex: one more per job */
    alignas(CACHE_LINE) _Atomic uint32_t sleepers; /* workers that are, or are about to be, in futex wait */
    alignas(CACHE_LINE) _Atomic uint32_t door; /* futex: DOOR_OPEN while a job may be entered, and how many have */
    alignas(CACHE_LINE) _Atomic uint32_t caller_sleeps;
    struct worker *workers;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Polls until *word differs from (or, with `equal`, equals) `value`; false after spin_ns. After SPIN_ALONE_NS it lets
 * others run between two looks. */
static bool spin(_Atomic uint32_t *word, uint32_t value, bool equal, uint64_t spin_ns)
{
    if ((atomic_load_explicit(word, memory_order_acquire) == value) == equal)
        return true;
    if (!spin_ns)
        return false;
    uint64_t start_ns = ps_now_ns(), spun_ns = 0;
    do {
        for (int i = 0; i < 32; i++) {
            cpu_relax();
            if ((atomic_load_explicit(word, memory_order_acquire) == value) == equal)
                return true;
        }
        if (spun_ns > SPIN_ALONE_NS)
            sched_yield();
    } while ((spun_ns = ps_now_ns() - start_ns) < spin_ns);
    return false;
}

/* Returns the generation after `seen` that is the present one. */
static uint32_t wait_for_job(struct ps_pool *p, uint32_t seen)
{
    if (!spin(&p->generation, seen, false, p->spin_ns)) {
        /* Sequentially consistent on both sides: either run() sees the sleeper and wakes it, or the sleeper sees the
         * new generation and does not sleep. */
        atomic_fetch_add(&p->sleepers, 1);
        while (atomic_load(&p->generation) == seen)
            futex_wait(&p->generation, seen);
        atomic_fetch_sub(&p->sleepers, 1);
    }
    return atomic_load(&p->generation);
}

/* The shares that nobody has taken, one's own first. */
static void take_shares(struct ps_pool *p, unsigned own)
{
    for (unsigned k = 0; k < p->threads; k++) {
        unsigned i = own + k < p->threads ? own + k : own + k - p->threads;
        if (!atomic_load_explicit(&p->claimed[i], memory_order_relaxed) &&
            !atomic_exchange_explicit(&p->claimed[i], 1, memory_order_relaxed))
            p->fn(p->fn_user, i, p->threads);
    }
}

/* Whatever job is going on: a worker that was held up may find a later one than it was called for, or none. */
static bool enter(struct ps_pool *p)
{
    uint32_t door = atomic_load(&p->door);
    while (door & DOOR_OPEN)
        if (atomic_compare_exchange_weak(&p->door, &door, door + 1))
            return true;
    return false;
}

static void leave(struct ps_pool *p)
{
    if (atomic_fetch_sub(&p->door, 1) == 1 && atomic_load(&p->caller_sleeps))
        futex_wake(&p->door, 1);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct ps_pool *p = w->pool;
    if (p->on_thread_start)
        p->on_thread_start(p->on_thread_start_user);
    uint32_t seen = 0; /* the generation when ps_pool_new made it */
    for (;;) {
        seen = wait_for_job(p, seen);
        if (atomic_load(&p->stop))
            return NULL;
        if (!enter(p))
            continue;
        take_shares(p, w->index);
        leave(p);
    }
}

static void publish(struct ps_pool *p)
{
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers))
        futex_wake(&p->generation, INT_MAX);
}

/* Closes the door and waits for those inside. */
static void wait_for_workers(struct ps_pool *p)
{
    if (atomic_fetch_and(&p->door, ~DOOR_OPEN) == DOOR_OPEN || spin(&p->door, 0, true, p->spin_ns))
        return;
    atomic_store(&p->caller_sleeps, 1);
    uint32_t left;
    while ((left = atomic_load(&p->door)) != 0)
        futex_wait(&p->door, left);
    atomic_store(&p->caller_sleeps, 0);
}

static int create_worker(struct worker *w)
{
    int e = ps_thread_start(&w->thread, worker_main, w);
    if (!e)
        pthread_setname_np(w->thread, "ps-compute");
    return e;
}

int ps_pool_new(struct ps_pool **out, unsigned threads, void (*on_thread_start)(void *user),
                void *user, struct ps_err *err)
{
    if (threads < 1 || threads > 4096)
        return ps_err_set(err, PS_EUSAGE, "base", "%u threads: use 1 to 4096", threads);
    /* calloc aligns to 16, the cache-line fields need 64: pages give both and are never freed into the heap's way. */
    struct ps_pool *p = ps_alloc_pages(sizeof(*p), 4096);
    struct worker *workers = ps_calloc(threads, sizeof(*workers));
    _Atomic uint8_t *claimed = ps_calloc(threads, sizeof *claimed);
    if (!p || !workers || !claimed) {
        ps_free(workers);
        ps_free((void *)claimed);
        ps_free_pages(p, sizeof(*p));
        return ps_err_set(err, PS_ENOMEM, "base", "no memory for %u threads", threads);
    }
    p->threads = threads;
    p->workers = workers;
    p->claimed = claimed;
    p->spin_ns = threads <= ps_host_cpus() ? SPIN_NS : 0;
    p->on_thread_start = on_thread_start;
    p->on_thread_start_user = user;
    for (unsigned i = 1; i < threads; i++) {
        struct worker *w = &workers[i];
        w->pool = p;
        w->index = i;
        int e = create_worker(w);
        if (e) {
            ps_pool_free(p);
            return ps_err_set(err, PS_EFAIL, "base", "cannot start thread %u of %u: %s", i, threads,
                              strerror(e));
        }
        p->started++;
    }
    if (on_thread_start)
        on_thread_start(user);
    *out = p;
    return 0;
}

void ps_pool_free(struct ps_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    publish(p);
    for (unsigned i = 1; i <= p->started; i++)
        pthread_join(p->workers[i].thread, NULL);
    ps_free(p->workers);
    ps_free((void *)p->claimed);
    ps_free_pages(p, sizeof(*p));
}

unsigned ps_pool_threads(const struct ps_pool *p)
{
    return p->threads;
}

void ps_pool_run(struct ps_pool *p, job_fn fn, void *user)
{
    if (p->threads == 1) {
        fn(user, 0, 1);
        return;
    }
    p->fn = fn;
    p->fn_user = user;
    for (unsigned i = 0; i < p->threads; i++)
        atomic_store_explicit(&p->claimed[i], 0, memory_order_relaxed);
    atomic_store(&p->door, DOOR_OPEN);
    publish(p);
    take_shares(p, 0);
    wait_for_workers(p);
}

struct range_job {
    void (*fn)(void *user, size_t begin, size_t end, unsigned thread);
    void *user;
    size_t n, grain;
    alignas(CACHE_LINE) _Atomic size_t next; /* in grains, so that it cannot wrap */
};

static void run_ranges(void *user, unsigned index, unsigned threads)
{
    (void)threads;
    struct range_job *job = user;
    size_t grains = job->n / job->grain + (job->n % job->grain != 0);
    for (;;) {
        size_t k = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (k >= grains)
            return;
        size_t begin = k * job->grain;
        size_t end = job->n - begin > job->grain ? begin + job->grain : job->n;
        job->fn(job->user, begin, end, index);
    }
}

void ps_pool_for(struct ps_pool *p, size_t n, size_t grain,
                 void (*fn)(void *user, size_t begin, size_t end, unsigned thread), void *user)
{
    if (n == 0)
        return;
    struct range_job job = {.fn = fn, .user = user, .n = n, .grain = grain ? grain : 1};
    if (n <= job.grain || p->threads == 1)
        run_ranges(&job, 0, 1); /* waking others for one piece costs more than the piece */
    else
        ps_pool_run(p, run_ranges, &job);
}
