/* The blocking helper over ps_source, and the check of remote names. Comes in: one range to read,
 * or a name from remote bytes. */
#include "proto/source.h"

#include <pthread.h>
#include <string.h>

#include "proto/text.h"

#define NAME_MAX_BYTES      1024
#define NAME_PART_MAX_BYTES 255

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    bool finished;     /* lock */
    int rc;            /* lock */
    struct ps_err err; /* lock */
};

/* Runs on the source's thread. Signals while it holds the lock: the waiter's stack frame may go
 * away as soon as the lock is released, so nothing of it is touched afterwards. */
static void waiter_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct waiter *w = r->user;
    pthread_mutex_lock(&w->lock);
    w->rc = rc;
    if (rc != 0 && err)
        w->err = *err;
    w->finished = true;
    pthread_cond_signal(&w->arrived);
    pthread_mutex_unlock(&w->lock);
}

int ps_source_read_range(struct ps_source *s, struct ps_range *r, struct ps_err *err)
{
    if (r->bytes == 0)
        return 0;
    struct waiter w = {.finished = false};
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.arrived, NULL);
    r->done = waiter_done;
    r->user = &w;
    int rc = ps_source_submit(s, r, err);
    if (rc == 0) {
        pthread_mutex_lock(&w.lock);
        while (!w.finished)
            pthread_cond_wait(&w.arrived, &w.lock);
        rc = w.rc;
        pthread_mutex_unlock(&w.lock);
        if (rc != 0 && err) {
            if (w.err.code != 0)
                *err = w.err;
            else
                ps_err_set(err, rc, "source", "%s: the read failed", r->object);
        }
    }
    pthread_cond_destroy(&w.arrived);
    pthread_mutex_destroy(&w.lock);
    return rc;
}

int ps_source_read(struct ps_source *s, const char *object, uint64_t offset, void *buf,
                   uint64_t bytes, const uint8_t *sha256, struct ps_err *err)
{
    struct ps_range r = {
        .object = object, .offset = offset, .bytes = bytes, .buf = buf, .sha256 = sha256};
    return ps_source_read_range(s, &r, err);
}

static bool name_part_ok(const char *part, size_t len)
{
    if (len == 0 || len > NAME_PART_MAX_BYTES)
        return false;
    return !(len == 1 && part[0] == '.') && !(len == 2 && part[0] == '.' && part[1] == '.');
}

bool ps_name_ok(const char *name, size_t len)
{
    if (len == 0 || len > NAME_MAX_BYTES || !ps_text_ok(name, len) || memchr(name, '\\', len))
        return false;
    for (size_t begin = 0;;) {
        const char *slash = memchr(name + begin, '/', len - begin);
        size_t end = slash ? (size_t)(slash - name) : len;
        if (!name_part_ok(name + begin, end - begin))
            return false;
        if (!slash)
            return true;
        begin = end + 1;
    }
}
