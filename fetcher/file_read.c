/* Open files of a folder and exact reads of them. Comes in: a name, a range. Goes out: bytes in
 * the caller's buffer. Blocking, on the threads of file_store.c or of a caller of get and head. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* O_DIRECT */
#endif
#include "fetcher/file_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/read_at.h"
#include "fetcher/path_hint.h"
#include "fetcher/range_plan.h"

#define ORIGIN "fetcher"
#define MAX_OPEN_FILES                                                                             \
    128u /* of the usual limit of 1024; large models have up to a few hundred shards */

static int open_failure(const char *label, const char *name, struct ps_err *err)
{
    int e = errno;
    if (e == ENOENT || e == ENOTDIR)
        return ps_err_set(err, PS_ENOTFOUND, ORIGIN, "no such file: %s/%s: check the folder", label,
                          name);
    if (e == EACCES || e == EPERM)
        return ps_err_set(err, PS_EREFUSED, ORIGIN, "no permission: %s/%s: check the file's mode",
                          label, name);
    return ps_err_set(err, PS_EIO, ORIGIN, "%s: %s/%s: check the disk", strerror(e), label, name);
}

int file_table_init(struct file_table *t, const char *path, bool direct_io, struct ps_err *err)
{
    memset(t, 0, sizeof *t);
    t->direct_io = direct_io;
    t->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->dir_fd < 0) {
        int e = errno;
        if (e == ENOENT)
            return ps_path_missing(err, path);
        if (e == ENOTDIR)
            return ps_err_set(err, PS_EUSAGE, ORIGIN,
                              "not a folder: %s: give the folder that holds config.json", path);
        if (e == EACCES)
            return ps_err_set(err, PS_EREFUSED, ORIGIN,
                              "no permission: %s: check the folder's mode", path);
        return ps_err_set(err, PS_EIO, ORIGIN, "%s: %s: check the path", strerror(e), path);
    }
    pthread_mutex_init(&t->lock, NULL);
    return 0;
}

static void entry_free(struct file_entry *e)
{
    if (e->fd >= 0)
        close(e->fd);
    if (e->direct_fd >= 0)
        close(e->direct_fd);
    ps_free(e->name);
    ps_free(e);
}

void file_table_deinit(struct file_table *t)
{
    while (t->entries) {
        struct file_entry *e = t->entries;
        t->entries = e->next;
        PS_ASSERT(e->users == 0);
        entry_free(e);
    }
    close(t->dir_fd);
    pthread_mutex_destroy(&t->lock);
}

/* What names this version for cache keys. A path too long for the field is hashed. */
static void make_identity(char *out, size_t cap, const struct stat *st, const char *name)
{
    int n = snprintf(out, cap, "file|%llu|%lld.%09ld|%s", (unsigned long long)st->st_size,
                     (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec, name);
    if (n > 0 && (size_t)n < cap)
        return;
    uint8_t hash[PS_SHA256_BYTES];
    char hex[2 * PS_SHA256_BYTES + 1];
    ps_sha256_once(name, strlen(name), hash);
    ps_hex_encode(hash, sizeof hash, hex);
    snprintf(out, cap, "file|%llu|%lld.%09ld|sha256:%s", (unsigned long long)st->st_size,
             (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec, hex);
}

int file_identify(const struct file_entry *e, char *out, size_t cap, const char *label,
                  struct ps_err *err)
{
    struct stat st;
    if (fstat(e->fd, &st) != 0)
        return open_failure(label, e->name, err);
    make_identity(out, cap, &st, e->name);
    return 0;
}

/* Symbolic links are followed: the snapshot folders of a Hugging Face cache consist of them.
 * O_NONBLOCK keeps a FIFO from hanging us; it means nothing for regular files. */
static int entry_open(struct file_table *t, struct file_entry **out, const char *label,
                      const char *name, struct ps_err *err)
{
    struct stat st;
    struct file_entry *e = ps_calloc(1, sizeof *e);
    if (!e)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    e->direct_fd = -1;
    e->fd = openat(t->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc = 0;
    if (e->fd < 0 || fstat(e->fd, &st) != 0)
        rc = open_failure(label, name, err);
    else if (!S_ISREG(st.st_mode))
        rc = ps_err_set(err, PS_EDATA, ORIGIN, "not a regular file: %s/%s: check the folder", label,
                        name);
    else if (!(e->name = ps_strdup(name)))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc != 0) {
        entry_free(e);
        return rc;
    }
    e->bytes = (uint64_t)st.st_size;
    if (t->direct_io)
        e->direct_fd = openat(t->dir_fd, name,
                              O_RDONLY | O_CLOEXEC | O_DIRECT); /* -1 (EINVAL) on tmpfs and the like */
    *out = e;
    return 0;
}

static struct file_entry *find_locked(struct file_table *t, const char *name)
{
    for (struct file_entry **link = &t->entries; *link; link = &(*link)->next) {
        struct file_entry *e = *link;
        if (strcmp(e->name, name) != 0)
            continue;
        *link = e->next;
        e->next = t->entries;
        t->entries = e;
        return e;
    }
    return NULL;
}

/* Takes the least recently used file that nobody reads out of the table. */
static struct file_entry *evict_locked(struct file_table *t)
{
    struct file_entry **victim = NULL;
    for (struct file_entry **link = &t->entries; *link; link = &(*link)->next)
        if ((*link)->users == 0)
            victim = link;
    if (!victim || t->n <= MAX_OPEN_FILES)
        return NULL;
    struct file_entry *e = *victim;
    *victim = e->next;
    t->n--;
    return e;
}

int file_acquire(struct file_table *t, struct file_entry **out, const char *label, const char *name,
                 struct ps_err *err)
{
    int rc = 0;
    struct file_entry *old = NULL;
    pthread_mutex_lock(&t->lock); /* held over open(): two threads must not open the same file twice */
    struct file_entry *e = find_locked(t, name);
    if (!e) {
        rc = entry_open(t, &e, label, name, err);
        if (e) {
            e->next = t->entries;
            t->entries = e;
            t->n++;
            e->users = 1; /* not to be evicted at once */
            old = evict_locked(t);
            e->users = 0;
        }
    }
    if (e) {
        e->users++;
        *out = e;
    }
    pthread_mutex_unlock(&t->lock);
    if (old)
        entry_free(old);
    return rc;
}

void file_release(struct file_table *t, struct file_entry *e)
{
    pthread_mutex_lock(&t->lock);
    e->users--;
    pthread_mutex_unlock(&t->lock);
}

/* Direct I/O of an arbitrary range: whole aligned blocks into the bounce buffer, the wanted part
 * copied out; straight into the caller's memory where file offset and address are both aligned. */
static int64_t read_direct(int fd, uint64_t offset, void *buf, uint64_t bytes, void *bounce)
{
    uint64_t done = 0;
    while (done < bytes) {
        uint64_t at = offset + done, left = bytes - done;
        char *to = (char *)buf + done;
        if (at % PS_FILE_ALIGN == 0 && (uintptr_t)to % PS_FILE_ALIGN == 0 && left >= PS_FILE_ALIGN) {
            uint64_t whole = left - left % PS_FILE_ALIGN;
            int64_t n = ps_read_at(fd, to, whole, whole, at);
            if (n < 0)
                return -1;
            done += (uint64_t)n;
            if ((uint64_t)n < whole)
                return (int64_t)done;
            continue;
        }
        struct ps_span s = ps_plan_align((struct ps_span){at, at + left}, PS_FILE_ALIGN);
        uint64_t want = s.to - s.from < PS_FILE_BOUNCE_BYTES ? s.to - s.from : PS_FILE_BOUNCE_BYTES;
        uint64_t skip = at - s.from, need = skip + left < want ? skip + left : want;
        int64_t n = ps_read_at(fd, bounce, need, want, s.from);
        if (n < 0)
            return -1;
        uint64_t useful = (uint64_t)n > skip ? (uint64_t)n - skip : 0;
        if (useful > left)
            useful = left;
        memcpy(to, (char *)bounce + skip, useful);
        done += useful;
        if ((uint64_t)n < need)
            break;
    }
    return (int64_t)done;
}

int file_read_at(const struct file_entry *e, uint64_t offset, void *buf, uint64_t bytes,
                 void *bounce, const char *label, struct ps_err *err)
{
    int64_t n = -1;
    errno = 0;
    if (offset > e->bytes || bytes > e->bytes - offset)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "file is truncated: %s/%s: %llu bytes, needs %llu: copy it again", label,
                          e->name, (unsigned long long)e->bytes,
                          (unsigned long long)(offset + bytes));
    if (bounce && e->direct_fd >= 0)
        n = read_direct(e->direct_fd, offset, buf, bytes, bounce);
    /* Some file systems accept O_DIRECT at open and refuse it at read. */
    if (n < 0 && (errno == 0 || errno == EINVAL))
        n = ps_read_at(e->fd, buf, bytes, bytes, offset);
    if (n < 0)
        return ps_err_set(err, PS_EIO, ORIGIN, "%s: %s/%s: check the disk", strerror(errno), label,
                          e->name);
    if ((uint64_t)n < bytes)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "file was truncated under way: %s/%s: copy it again", label, e->name);
    return 0;
}
