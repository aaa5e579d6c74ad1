/* The file store: ranges of the files of a folder. Comes in: ranges. Goes out: their bytes, read
 * by a few I/O threads in order of priority, checked, and told by done(). The disk below is its
 * own cache: no disk cache is put on top (contract.md --disk). */
#include "fetcher/file_internal.h"

#include <signal.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/strbuf.h"
#include "fetcher/uri.h"

#define ORIGIN         "fetcher"
#define MAX_IO_THREADS 64u
#define HASH_TRIES                                                                                 \
    2 /* a wrong hash is read once more: the second read says whether it was memory or the file */

/* A submitted range. Recycled through a free list. */
struct file_job {
    struct ps_heap_item order; /* first member */
    struct ps_range *r;
    struct file_job *next; /* free list */
    bool waiting;          /* store lock: still in the heap */
    bool cancelled;        /* store lock */
};

struct file_store;

struct file_worker {
    struct file_store *store;
    pthread_t thread;
    void *bounce; /* nullable: only with direct I/O */
};

struct file_store {
    struct ps_source base;
    char *path;
    struct file_table files;
    struct ps_stats *stats; /* nullable */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct ps_heap waiting;     /* lock */
    struct file_job *free_jobs; /* lock */
    size_t live_jobs;           /* lock */
    uint64_t seq;               /* lock */
    bool closing;               /* lock */
    unsigned n_workers;
    struct file_worker workers[MAX_IO_THREADS];
};

/* A short file was most likely never copied whole; what has grown is another one. */
static int wrong_size(const struct file_store *s, const struct ps_range *r, uint64_t bytes,
                      struct ps_err *err)
{
    const unsigned long long is = bytes, was = r->object_bytes;
    if (is < was)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "file is truncated: %s/%s: %llu bytes, needs %llu: copy it again",
                          s->base.label, r->object, is, was);
    return ps_err_set(err, PS_EDATA, ORIGIN,
                      "file changed under way: %s/%s: %llu bytes, was %llu: start again",
                      s->base.label, r->object, is, was);
}

static int read_range(struct file_store *s, const struct ps_range *r, void *bounce, struct ps_err *err)
{
    struct file_entry *e;
    int rc = file_acquire(&s->files, &e, s->base.label, r->object, err);
    if (rc != 0)
        return rc;
    if (r->object_bytes && r->object_bytes != e->bytes)
        rc = wrong_size(s, r, e->bytes, err);
    else
        rc = file_read_at(e, r->offset, r->buf, r->bytes, bounce, s->base.label, err);
    file_release(&s->files, e);
    if (rc == 0 && s->stats)
        ps_stat_add(&s->stats->bytes_disk_read, r->bytes);
    return rc;
}

static int read_checked(struct file_store *s, const struct ps_range *r, void *bounce,
                        struct ps_err *err)
{
    uint8_t got[PS_SHA256_BYTES];
    for (int i = 0; i < HASH_TRIES; i++) {
        int rc = read_range(s, r, bounce, err);
        if (rc != 0 || !r->sha256)
            return rc;
        ps_sha256_once(r->buf, r->bytes, got);
        if (memcmp(got, r->sha256, sizeof got) == 0)
            return 0;
    }
    return ps_err_set(err, PS_EDATA, ORIGIN,
                      "wrong bytes (SHA-256 differs): %s/%s: the file is damaged: copy it again",
                      s->base.label, r->object);
}

static struct file_job *next_job(struct file_store *s, bool *cancelled)
{
    pthread_mutex_lock(&s->lock);
    while (s->waiting.n == 0 && !s->closing)
        pthread_cond_wait(&s->cond, &s->lock);
    struct file_job *j = (struct file_job *)ps_heap_pop(&s->waiting);
    if (j) {
        j->waiting = false;
        *cancelled = j->cancelled || s->closing;
    }
    pthread_mutex_unlock(&s->lock);
    return j;
}

static void recycle(struct file_store *s, struct file_job *j)
{
    pthread_mutex_lock(&s->lock);
    j->r->impl = NULL;
    j->next = s->free_jobs;
    s->free_jobs = j;
    s->live_jobs--;
    pthread_mutex_unlock(&s->lock);
}

static void *worker_main(void *arg)
{
    struct file_worker *w = arg;
    struct file_store *s = w->store;
    struct file_job *j;
    bool cancelled;
    while ((j = next_job(s, &cancelled)) != NULL) {
        struct ps_range *r = j->r;
        struct ps_err err = {0};
        int rc = cancelled ? ps_err_set(&err, PS_ECANCELLED, ORIGIN,
                                        "cancelled: %s: the request was withdrawn", r->object)
                           : read_checked(s, r, w->bounce, &err);
        recycle(s, j);
        r->done(r, rc, rc != 0 ? &err : NULL);
    }
    return NULL;
}

static struct file_job *take_job_locked(struct file_store *s)
{
    struct file_job *j = s->free_jobs;
    if (ps_heap_reserve(&s->waiting, s->live_jobs + 1) != 0)
        return NULL;
    if (j)
        s->free_jobs = j->next;
    else if (!(j = ps_malloc(sizeof *j)))
        return NULL;
    memset(j, 0, sizeof *j);
    s->live_jobs++;
    return j;
}

static int file_submit(struct ps_source *base, struct ps_range *r, struct ps_err *err)
{
    struct file_store *s = (struct file_store *)base;
    int rc = ps_range_check(r, err);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&s->lock);
    struct file_job *j = s->closing ? NULL : take_job_locked(s);
    if (j) {
        j->r = r;
        j->waiting = true;
        j->order.priority = r->priority;
        j->order.seq = s->seq++;
        r->impl = j;
        ps_heap_push(&s->waiting, &j->order);
        pthread_cond_signal(&s->cond);
    } else if (s->closing)
        rc = ps_err_set(err, PS_ECANCELLED, ORIGIN, "%s: the source is closing", r->object);
    else
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %s: ask for fewer ranges at once",
                        r->object);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

/* A waiting job is moved to the front, where a worker ends it: done() runs on our threads only. */
static void file_cancel(struct ps_source *base, struct ps_range *r)
{
    struct file_store *s = (struct file_store *)base;
    pthread_mutex_lock(&s->lock);
    struct file_job *j = r->impl;
    if (j && j->waiting && !j->cancelled) {
        j->cancelled = true;
        ps_heap_remove(&s->waiting, &j->order);
        j->order.priority = 0;
        ps_heap_push(&s->waiting, &j->order);
    }
    pthread_mutex_unlock(&s->lock);
}

static int fill_info(const struct file_store *s, const struct file_entry *e,
                     struct ps_object_info *info, struct ps_err *err)
{
    if (!info)
        return 0;
    memset(info, 0, sizeof *info);
    info->bytes = e->bytes;
    return file_identify(e, info->identity, sizeof info->identity, s->base.label, err);
}

static int check_name(const char *object, struct ps_err *err)
{
    return ps_name_ok(object, strlen(object))
               ? 0
               : ps_err_set(err, PS_EDATA, ORIGIN, "bad object name: %s", object);
}

/* Small, and waited for: read on the caller's thread, through the page cache. */
static int read_front(struct file_store *s, const struct file_entry *e, void *buf, uint64_t bytes,
                      struct ps_err *err)
{
    int rc = file_read_at(e, 0, buf, bytes, NULL, s->base.label, err);
    if (rc == 0 && s->stats)
        ps_stat_add(&s->stats->bytes_disk_read, bytes);
    return rc;
}

static int file_get(struct ps_source *base, const char *object, const struct ps_terms *terms,
                    uint64_t max_bytes, char **out, size_t *len, struct ps_object_info *info,
                    struct ps_err *err)
{
    (void)terms; /* a file is there at once */
    struct file_store *s = (struct file_store *)base;
    struct file_entry *e;
    int rc = check_name(object, err);
    if (rc == 0)
        rc = file_acquire(&s->files, &e, s->base.label, object, err);
    if (rc != 0)
        return rc;
    char *data = NULL;
    if (e->bytes > max_bytes)
        rc = ps_err_set(
            err, PS_EDATA, ORIGIN,
            "object is larger than %llu bytes: %s/%s: it is not the file that was expected",
            (unsigned long long)max_bytes, s->base.label, object);
    else if (!(data = ps_malloc(e->bytes + 1)))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %s: %llu bytes", object,
                        (unsigned long long)e->bytes);
    else
        rc = read_front(s, e, data, e->bytes, err);
    if (rc == 0)
        rc = fill_info(s, e, info, err);
    if (rc == 0) {
        data[e->bytes] = '\0';
        *out = data;
        *len = (size_t)e->bytes;
    } else
        ps_free(data);
    file_release(&s->files, e);
    return rc;
}

static int file_head(struct ps_source *base, const char *object, const struct ps_terms *terms,
                     void *buf, size_t bytes, size_t *len, struct ps_object_info *info,
                     struct ps_err *err)
{
    (void)terms; /* a file is there at once */
    struct file_store *s = (struct file_store *)base;
    struct file_entry *e;
    int rc = check_name(object, err);
    if (rc == 0)
        rc = file_acquire(&s->files, &e, s->base.label, object, err);
    if (rc != 0)
        return rc;
    size_t want = e->bytes < bytes ? (size_t)e->bytes : bytes;
    rc = read_front(s, e, buf, want, err);
    if (rc == 0)
        rc = fill_info(s, e, info, err);
    if (rc == 0)
        *len = want;
    file_release(&s->files, e);
    return rc;
}

static int file_local_path(struct ps_source *base, const char *object, char **path, struct ps_err *err)
{
    struct file_store *s = (struct file_store *)base;
    int rc = check_name(object, err);
    if (rc != 0)
        return rc;
    struct ps_strbuf b;
    ps_strbuf_init(&b, 8192);
    ps_strbuf_printf(&b, "%s/%s", s->path, object);
    char *joined = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    if (!joined)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory, or path too long: %s", object);
    *path = joined;
    return 0;
}

static void file_close(struct ps_source *base)
{
    struct file_store *s = (struct file_store *)base;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->n_workers; i++) {
        pthread_join(s->workers[i].thread, NULL);
        ps_free_pages(s->workers[i].bounce, PS_FILE_BOUNCE_BYTES);
    }
    PS_ASSERT(s->live_jobs == 0);
    while (s->free_jobs) {
        struct file_job *j = s->free_jobs;
        s->free_jobs = j->next;
        ps_free(j);
    }
    file_table_deinit(&s->files);
    ps_heap_deinit(&s->waiting);
    pthread_cond_destroy(&s->cond);
    pthread_mutex_destroy(&s->lock);
    ps_free(s->base.label);
    ps_free(s->path);
    ps_free(s);
}

static const struct ps_source_ops file_ops = {
    .scheme = "file",
    .submit = file_submit,
    .cancel = file_cancel,
    .get = file_get,
    .head = file_head,
    .local_path = file_local_path,
    .close = file_close,
};

static int start_worker(struct file_store *s, bool direct_io, struct ps_err *err)
{
    struct file_worker *w = &s->workers[s->n_workers];
    w->store = s;
    w->bounce = direct_io ? ps_alloc_pages(PS_FILE_BOUNCE_BYTES, PS_FILE_ALIGN) : NULL;
    if (direct_io && !w->bounce)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
        ps_free_pages(w->bounce, PS_FILE_BOUNCE_BYTES);
        return ps_err_set(err, PS_EFAIL, ORIGIN, "can't start a thread: raise the limit of threads");
    }
    s->n_workers++;
    return 0;
}

static int start_workers(struct file_store *s, const struct ps_store_options *options,
                         struct ps_err *err)
{
    unsigned n = options && options->io_threads ? options->io_threads : 2;
    sigset_t all, before;
    int rc = 0;
    sigfillset(&all); /* signals belong to the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < n && i < MAX_IO_THREADS && rc == 0; i++)
        rc = start_worker(s, options && options->direct_io, err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* Trailing slashes go, so that joined names read well; "/" stays. */
static void trim(char *path)
{
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = '\0';
}

int ps_file_store_open(struct ps_source **out, const char *address,
                       const struct ps_store_options *options, struct ps_err *err)
{
    char *path = NULL;
    int rc = 0;
    if (ps_uri_kind(address) == PS_URI_FILE)
        rc = ps_uri_file_path(&path, address, err);
    else if (!(path = ps_strdup(address)))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc != 0)
        return rc;
    trim(path);
    struct file_store *s = ps_calloc(1, sizeof *s);
    char *label = s ? ps_strdup(path) : NULL;
    if (!label)
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    else
        rc = file_table_init(&s->files, path, options && options->direct_io, err);
    if (rc != 0) {
        ps_free(label);
        ps_free(s);
        ps_free(path);
        return rc;
    }
    s->base = (struct ps_source){.ops = &file_ops, .label = label, .local = true};
    s->path = path;
    s->stats = options ? options->stats : NULL;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->cond, NULL);
    rc = start_workers(s, options, err);
    if (rc != 0) {
        file_close(&s->base);
        return rc;
    }
    *out = &s->base;
    return 0;
}
