/* Slab files. In: slots and bytes; out: bytes, or the news that they are damaged. */
#include "cache/slab.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/read_at.h"
#include "cache/budget.h"
#include "cache/owner.h"

#define ORIGIN "cache"
/* Files grow in steps so that their size is not a journal entry per extent. Sparse: a step allocates nothing. */
#define GROW_STEP_BYTES (64ull << 20)

struct class_file {
    _Atomic int fd;        /* buffered, -1 until first used */
    _Atomic int direct_fd; /* O_DIRECT, -1 until first used, NO_DIRECT where the file system refuses */
    _Atomic uint64_t size_bytes; /* known length; the file may be longer by another process's hand */
};
#define NO_DIRECT (-2)

struct ps_slabs {
    int dir_fd;
    bool read_only, direct;
    pthread_mutex_t open_lock; /* opening of class files */
    struct class_file files[PS_CACHE_CLASSES];
};

static int io_error(struct ps_err *err, int e, const char *what, int cls)
{
    if (e == ENOSPC || e == EDQUOT)
        return ps_err_set(err, PS_ENOSPC, ORIGIN,
                          "%s slab %d: no room on the file system of the cache", what, cls);
    return ps_err_set(err, PS_EIO, ORIGIN, "%s slab %d: %s", what, cls, strerror(e));
}

static void class_name(char out[24], int cls)
{
    snprintf(out, 24, "%d.slab", cls);
}

int ps_slabs_open(struct ps_slabs **out, int dir_fd, bool read_only, bool direct, struct ps_err *err)
{
    struct ps_slabs *s = ps_calloc(1, sizeof *s);
    if (!s)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "slabs: out of memory");
    s->dir_fd = dir_fd;
    s->read_only = read_only;
    s->direct = direct;
    for (int c = 0; c < PS_CACHE_CLASSES; c++) {
        atomic_init(&s->files[c].fd, -1);
        atomic_init(&s->files[c].direct_fd, direct ? -1 : NO_DIRECT);
    }
    pthread_mutex_init(&s->open_lock, NULL);
    *out = s;
    return 0;
}

void ps_slabs_close(struct ps_slabs *s)
{
    if (!s)
        return;
    for (int c = 0; c < PS_CACHE_CLASSES; c++) {
        if (atomic_load(&s->files[c].fd) >= 0)
            close(atomic_load(&s->files[c].fd));
        if (atomic_load(&s->files[c].direct_fd) >= 0)
            close(atomic_load(&s->files[c].direct_fd));
    }
    close(s->dir_fd);
    pthread_mutex_destroy(&s->open_lock);
    ps_free(s);
}

/* The buffered descriptor of a class, opened on first use; negative errno. */
static int class_fd(struct ps_slabs *s, int cls, bool create)
{
    int fd = atomic_load(&s->files[cls].fd);
    if (fd >= 0)
        return fd;
    pthread_mutex_lock(&s->open_lock);
    fd = atomic_load(&s->files[cls].fd);
    if (fd < 0) {
        char name[24];
        class_name(name, cls);
        const int mode = s->read_only ? O_RDONLY : O_RDWR | (create ? O_CREAT : 0);
        fd = openat(s->dir_fd, name, mode | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0) {
            fd = -errno;
        } else {
            if (create)
                ps_owner_share_file(s->dir_fd, fd);
            atomic_store(&s->files[cls].fd, fd);
        }
    }
    pthread_mutex_unlock(&s->open_lock);
    return fd;
}

/* The O_DIRECT descriptor of a class, or a negative number: then the buffered one serves. */
static int class_direct_fd(struct ps_slabs *s, int cls)
{
    int fd = atomic_load(&s->files[cls].direct_fd);
    if (fd != -1)
        return fd;
    pthread_mutex_lock(&s->open_lock);
    fd = atomic_load(&s->files[cls].direct_fd);
    if (fd == -1) {
        char name[24];
        class_name(name, cls);
        fd = openat(s->dir_fd, name, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            fd = NO_DIRECT;
        atomic_store(&s->files[cls].direct_fd, fd);
    }
    pthread_mutex_unlock(&s->open_lock);
    return fd;
}

static off_t slot_offset(int cls, uint32_t slot)
{
    return (off_t)((uint64_t)slot * ps_budget_class_bytes(cls));
}

int ps_slab_extend(struct ps_slabs *s, int cls, uint32_t slot, struct ps_err *err)
{
    const uint64_t need = ((uint64_t)slot + 1) * ps_budget_class_bytes(cls);
    if (need <= atomic_load(&s->files[cls].size_bytes))
        return 0;
    const int fd = class_fd(s, cls, true);
    if (fd < 0)
        return io_error(err, -fd, "open", cls);
    struct stat st;
    if (fstat(fd, &st) != 0)
        return io_error(err, errno, "stat", cls);
    uint64_t size = (uint64_t)st.st_size;
    if (size < need) {
        size = (need + GROW_STEP_BYTES - 1) / GROW_STEP_BYTES * GROW_STEP_BYTES;
        if (ftruncate(fd, (off_t)size) != 0)
            return io_error(err, errno, "extend", cls);
    }
    atomic_store(&s->files[cls].size_bytes, size);
    return 0;
}

int ps_slab_write(struct ps_slabs *s, int cls, uint32_t slot, const void *buf, size_t bytes,
                  struct ps_err *err)
{
    const int fd = class_fd(s, cls, true);
    if (fd < 0)
        return io_error(err, -fd, "open", cls);
    const off_t start = slot_offset(cls, slot);
    size_t done = 0;
    while (done < bytes) {
        const ssize_t n = pwrite(fd, (const char *)buf + done, bytes - done, start + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return io_error(err, n == 0 ? ENOSPC : errno, "write", cls);
        done += (size_t)n;
    }
    (void)sync_file_range(fd, start, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
    return 0;
}

int ps_slab_read(struct ps_slabs *s, int cls, uint32_t slot, void *buf, size_t bytes,
                 size_t buf_cap, struct ps_err *err)
{
    const size_t whole = (size_t)ps_budget_round(bytes);
    const off_t start = slot_offset(cls, slot);
    if (s->direct && (uintptr_t)buf % PS_CACHE_GRAIN == 0 && buf_cap >= whole) {
        const int fd = class_direct_fd(s, cls);
        /* A failed direct read is no verdict yet: the device may want a larger alignment. */
        if (fd >= 0 && ps_read_at(fd, buf, bytes, whole, (uint64_t)start) >= (int64_t)bytes)
            return 0;
    }
    const int fd = class_fd(s, cls, false);
    if (fd >= 0 && ps_read_at(fd, buf, bytes, bytes, (uint64_t)start) == (int64_t)bytes)
        return 0;
    if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
        return io_error(err, -fd, "open", cls);
    return ps_err_set(err, PS_EDATA, ORIGIN, "slab %d slot %u: shorter than recorded or unreadable",
                      cls, slot);
}

int ps_slab_sync(struct ps_slabs *s, int cls, struct ps_err *err)
{
    const int fd = class_fd(s, cls, false);
    if (fd < 0)
        return io_error(err, -fd, "open", cls);
    if (fdatasync(fd) != 0)
        return io_error(err, errno, "sync", cls);
    return 0;
}

void ps_slab_punch_run(struct ps_slabs *s, int cls, uint32_t first, uint32_t count)
{
    const int fd = class_fd(s, cls, false);
    if (fd < 0)
        return;
    (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, slot_offset(cls, first),
                    (off_t)(ps_budget_class_bytes(cls) * count));
}

void ps_slab_punch(struct ps_slabs *s, int cls, uint32_t slot)
{
    ps_slab_punch_run(s, cls, slot, 1);
}

void ps_slab_drop_pages(struct ps_slabs *s, int cls, uint32_t slot, size_t bytes)
{
    const int fd = atomic_load(&s->files[cls].fd);
    if (s->direct && fd >= 0)
        (void)posix_fadvise(fd, slot_offset(cls, slot), (off_t)ps_budget_round(bytes),
                            POSIX_FADV_DONTNEED);
}

void ps_slab_truncate(struct ps_slabs *s, int cls, uint32_t first)
{
    const int fd = class_fd(s, cls, false);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size <= slot_offset(cls, first))
        return;
    if (ftruncate(fd, slot_offset(cls, first)) == 0)
        atomic_store(&s->files[cls].size_bytes, (uint64_t)slot_offset(cls, first));
}

uint64_t ps_slabs_allocated_bytes(struct ps_slabs *s)
{
    uint64_t bytes = 0;
    for (int c = 0; c < PS_CACHE_CLASSES; c++) {
        struct stat st;
        char name[24];
        const int fd = atomic_load(&s->files[c].fd);
        class_name(name, c);
        if (fd >= 0 ? fstat(fd, &st) == 0 : fstatat(s->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            bytes += (uint64_t)st.st_blocks * 512u;
    }
    return bytes;
}
