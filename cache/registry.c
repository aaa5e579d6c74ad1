/* Opening and closing: one environment per process and folder, counted.
 *
 * LMDB must not be opened twice by one process, and closing any descriptor of a lock file drops the process's
 * POSIX locks on it. So the folder is looked up by device and inode before anything in it is opened. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/host.h"
#include "base/thread.h"
#include "cache/cache_internal.h"

/* A look into the index takes microseconds; one that was interrupted goes on when its thread has a CPU again. */
#define READERS_NS (PS_NS_PER_S / 5)

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ps_cache *open_caches; /* registry_lock */

static struct ps_cache *find_open_locked(const struct stat *st)
{
    const pid_t pid = getpid(); /* a forked child sees its parent's entries: not its own */
    for (struct ps_cache *c = open_caches; c; c = c->next)
        if (c->dev == st->st_dev && c->ino == st->st_ino && c->pid == pid)
            return c;
    return NULL;
}

/* A second user in this process: the smaller budget and the larger floor hold from now on. */
static int share_locked(struct ps_cache *c, const struct ps_cache_options *o, struct ps_err *err)
{
    if (c->read_only && !o->read_only)
        return ps_err_set(err, PS_EFAIL, PS_CACHE_ORIGIN,
                          "cache: %s is open read-only in this process", c->dir);
    c->users++;
    if (c->read_only || o->read_only)
        return 0;
    ps_claims_lock(c->claims);
    struct ps_claim_process *self = ps_claims_process_locked(c->claims, ps_claims_self(c->claims));
    if (o->budget_bytes < self->budget_bytes)
        self->budget_bytes = o->budget_bytes;
    if (o->min_free_bytes > self->min_free_bytes)
        self->min_free_bytes = o->min_free_bytes;
    ps_claims_unlock(c->claims);
    return 0;
}

static int init_sync(struct ps_cache *c)
{
    int rc = pthread_mutex_init(&c->lock, NULL);
    if (rc == 0)
        rc = ps_cond_init(&c->wake);
    if (rc == 0)
        rc = pthread_cond_init(&c->done, NULL);
    return rc;
}

static struct ps_cache *new_cache(const char *dir, const struct stat *st, int dir_fd,
                                  struct ps_stats *stats)
{
    struct ps_cache *c = ps_calloc(1, sizeof *c);
    if (!c)
        return NULL;
    if (init_sync(c) != 0) {
        ps_free(c);
        return NULL;
    }
    memcpy(c->dir, dir, strlen(dir) + 1);
    c->dev = st->st_dev;
    c->ino = st->st_ino;
    c->pid = getpid();
    c->users = 1;
    c->dir_fd = dir_fd;
    c->lock_fd = -1;
    c->stats = stats;
    c->readers_ns = READERS_NS;
    for (int i = 0; i < PS_CLAIM_MODELS; i++)
        c->plans[i].model = PS_CACHE_NO_MODEL;
    for (int i = 0; i < PS_CLAIM_MODELS; i++)
        atomic_init(&c->used[i].model, PS_CACHE_NO_MODEL);
    return c;
}

static void free_cache(struct ps_cache *c)
{
    for (int i = 0; i < PS_CLAIM_MODELS; i++)
        ps_free(c->plans[i].keys);
    while (c->unused) {
        struct ps_cache_ticket *t = c->unused;
        c->unused = t->next;
        ps_free(t);
    }
    ps_free(c->victims.items);
    close(c->dir_fd);
    pthread_cond_destroy(&c->wake);
    pthread_cond_destroy(&c->done);
    pthread_mutex_destroy(&c->lock);
    ps_free(c);
}

static int open_new_locked(struct ps_cache **out, const char *dir, const struct stat *st,
                           int dir_fd, const struct ps_cache_options *o, struct ps_err *err)
{
    struct ps_cache *c = new_cache(dir, st, dir_fd, o->stats);
    if (!c) {
        close(dir_fd);
        return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "cache: out of memory");
    }
    int rc = ps_recover_open(c, o, err);
    if (rc == 0 && !c->read_only) {
        rc = ps_writer_start(c, err);
        if (rc != 0)
            ps_recover_close(c);
    }
    if (rc != 0) {
        free_cache(c);
        return rc;
    }
    c->next = open_caches;
    open_caches = c;
    *out = c;
    return 0;
}

/* A descriptor of the folder, which is made if that is asked for. */
static int open_dir(const char *dir, const struct ps_cache_options *o, struct ps_err *err)
{
    if (strlen(dir) > PS_CACHE_PATH_MAX)
        return ps_err_set(err, PS_EUSAGE, PS_CACHE_ORIGIN, "cache: path too long");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && !o->must_exist && !o->read_only) {
        const int rc = ps_mkdir_p(dir, 0700, err);
        if (rc != 0)
            return rc;
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    if (fd >= 0)
        return fd;
    return ps_err_set(err, errno == ENOENT ? PS_ENOTFOUND : PS_EIO, PS_CACHE_ORIGIN,
                      "cache: %s: %s", dir, strerror(errno));
}

int ps_cache_open(struct ps_cache **out, const char *dir, const struct ps_cache_options *options,
                  uint64_t *least_bytes, struct ps_err *err)
{
    struct stat st;
    int rc = options->read_only ? 0 : ps_cache_check_budget(options->budget_bytes, least_bytes, err);
    if (rc != 0)
        return rc;
    const int fd = open_dir(dir, options, err);
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) != 0) {
        close(fd);
        return ps_err_set(err, PS_EIO, PS_CACHE_ORIGIN, "cache: %s: %s", dir, strerror(errno));
    }
    pthread_mutex_lock(&registry_lock);
    struct ps_cache *c = find_open_locked(&st);
    if (c) {
        close(fd);
        rc = share_locked(c, options, err);
        if (rc == 0)
            *out = c;
    } else {
        rc = open_new_locked(out, dir, &st, fd, options, err);
    }
    pthread_mutex_unlock(&registry_lock);
    return rc;
}

void ps_cache_close(struct ps_cache *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&registry_lock);
    if (--c->users > 0) {
        pthread_mutex_unlock(&registry_lock);
        return;
    }
    struct ps_cache **at = &open_caches;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    /* Still under the registry's lock: opening the same folder meanwhile would break LMDB's locks. */
    if (!c->read_only)
        ps_writer_stop(c);
    ps_recover_close(c);
    free_cache(c);
    pthread_mutex_unlock(&registry_lock);
}
