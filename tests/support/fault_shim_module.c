/* LD_PRELOAD: one kind of call fails at its Nth time, or from then on. Comes in: PENSTOCK_SHIM, "kind:N:errno" or
 * "kind:N+:errno"; kinds: malloc, pread, pwrite, sync, truncate (and fallocate), mmap. PENSTOCK_SHIM_UNDER: only
 * files below this folder count (memory has none). Goes out: with PENSTOCK_SHIM_COUNT=FILE, how often each kind
 * was called, one "kind n" a line.
 *
 * It stands between every library and the system: LMDB's writes fail here as ours do, and libcurl's memory as
 * well. A short write or read counts one call. Any thread. */
#undef _FILE_OFFSET_BITS /* both names of each call are defined here */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { K_MALLOC, K_PREAD, K_PWRITE, K_SYNC, K_TRUNCATE, K_MMAP, KINDS };
static const char *const names[KINDS] = {"malloc", "pread", "pwrite", "sync", "truncate", "mmap"};

static _Atomic long counts[KINDS];
static int armed = -1; /* kind */
static long at;
static bool for_ever;
static int with;
static const char *under;
static _Atomic bool ready;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t each);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

__attribute__((constructor)) static void arm(void)
{
    const char *text = getenv("PENSTOCK_SHIM");
    under = getenv("PENSTOCK_SHIM_UNDER");
    for (int k = 0; text && k < KINDS; k++) {
        const size_t n = strlen(names[k]);
        if (strncmp(text, names[k], n) == 0 && text[n] == ':') {
            char *end;
            armed = k;
            at = strtol(text + n + 1, &end, 10);
            for_ever = *end == '+';
            end += for_ever;
            with = *end == ':' ? (int)strtol(end + 1, NULL, 10) : EIO;
        }
    }
    atomic_store(&ready, true);
}

__attribute__((destructor)) static void report(void)
{
    const char *path = getenv("PENSTOCK_SHIM_COUNT");
    char text[512];
    int len = 0;
    if (!path)
        return;
    atomic_store(&ready, false);
    for (int k = 0; k < KINDS; k++)
        len += snprintf(text + len, sizeof text - (size_t)len, "%s %ld\n", names[k],
                        atomic_load(&counts[k]));
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd >= 0 && write(fd, text, (size_t)len) == len)
        close(fd);
}

static bool fails(enum kind k)
{
    if (!atomic_load_explicit(&ready, memory_order_relaxed))
        return false;
    const long n = atomic_fetch_add(&counts[k], 1) + 1;
    if ((int)k != armed || (for_ever ? n < at : n != at))
        return false;
    errno = with;
    return true;
}

/* Of a file below the folder. */
static bool file_fails(enum kind k, int fd)
{
    char link[64], path[4096];
    if (under) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        const int saved = errno;
        const ssize_t n = readlink(link, path, sizeof path - 1);
        errno = saved;
        if (n < 0 || strncmp(path, under, strlen(under)) != 0)
            return false;
    }
    return fails(k);
}

void *malloc(size_t n)
{
    return fails(K_MALLOC) ? (errno = ENOMEM, NULL) : __libc_malloc(n);
}

void *calloc(size_t n, size_t each)
{
    return fails(K_MALLOC) ? (errno = ENOMEM, NULL) : __libc_calloc(n, each);
}

void *realloc(void *p, size_t n)
{
    return fails(K_MALLOC) ? (errno = ENOMEM, NULL) : __libc_realloc(p, n);
}

int posix_memalign(void **out, size_t align, size_t n)
{
    if (fails(K_MALLOC))
        return ENOMEM;
    *out = __libc_memalign(align, n);
    return *out ? 0 : ENOMEM;
}

#define NEXT(type, name)                                                                           \
    static type next;                                                                              \
    if (!next)                                                                                     \
    next = (type)dlsym(RTLD_NEXT, name)

typedef ssize_t (*pread_fn)(int, void *, size_t, off_t);
typedef ssize_t (*pwrite_fn)(int, const void *, size_t, off_t);
typedef ssize_t (*pwritev_fn)(int, const struct iovec *, int, off_t);
typedef ssize_t (*writev_fn)(int, const struct iovec *, int);
typedef int (*fd_fn)(int);
typedef int (*truncate_fn)(int, off_t);
typedef int (*fallocate_fn)(int, int, off_t, off_t);
typedef void *(*mmap_fn)(void *, size_t, int, int, int, off_t);
typedef int (*posix_fallocate_fn)(int, off_t, off_t);

ssize_t pread64(int fd, void *buf, size_t n, off_t offset)
{
    NEXT(pread_fn, "pread64");
    return file_fails(K_PREAD, fd) ? -1 : next(fd, buf, n, offset);
}

ssize_t pread(int fd, void *buf, size_t n, off_t offset) __attribute__((alias("pread64")));

ssize_t pwrite64(int fd, const void *buf, size_t n, off_t offset)
{
    NEXT(pwrite_fn, "pwrite64");
    return file_fails(K_PWRITE, fd) ? -1 : next(fd, buf, n, offset);
}

ssize_t pwrite(int fd, const void *buf, size_t n, off_t offset) __attribute__((alias("pwrite64")));

ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t offset)
{
    NEXT(pwritev_fn, "pwritev64");
    return file_fails(K_PWRITE, fd) ? -1 : next(fd, v, n, offset);
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t offset)
    __attribute__((alias("pwritev64")));

ssize_t writev(int fd, const struct iovec *v, int n)
{
    NEXT(writev_fn, "writev");
    return under && file_fails(K_PWRITE, fd) ? -1 : next(fd, v, n);
}

int fdatasync(int fd)
{
    NEXT(fd_fn, "fdatasync");
    return file_fails(K_SYNC, fd) ? -1 : next(fd);
}

int fsync(int fd)
{
    NEXT(fd_fn, "fsync");
    return file_fails(K_SYNC, fd) ? -1 : next(fd);
}

int ftruncate64(int fd, off_t n)
{
    NEXT(truncate_fn, "ftruncate64");
    return file_fails(K_TRUNCATE, fd) ? -1 : next(fd, n);
}

int ftruncate(int fd, off_t n) __attribute__((alias("ftruncate64")));

int fallocate64(int fd, int mode, off_t offset, off_t n)
{
    NEXT(fallocate_fn, "fallocate64");
    return file_fails(K_TRUNCATE, fd) ? -1 : next(fd, mode, offset, n);
}

int fallocate(int fd, int mode, off_t offset, off_t n) __attribute__((alias("fallocate64")));

void *mmap64(void *p, size_t n, int prot, int flags, int fd, off_t offset)
{
    NEXT(mmap_fn, "mmap64");
    const bool mine = fd >= 0 ? under && file_fails(K_MMAP, fd) : !under && fails(K_MMAP);
    return mine ? MAP_FAILED : next(p, n, prot, flags, fd, offset);
}

void *mmap(void *p, size_t n, int prot, int flags, int fd, off_t offset)
    __attribute__((alias("mmap64")));

int posix_fallocate64(int fd, off_t offset, off_t n)
{
    NEXT(posix_fallocate_fn, "posix_fallocate64");
    return file_fails(K_TRUNCATE, fd) ? with : next(fd, offset, n);
}

int posix_fallocate(int fd, off_t offset, off_t n) __attribute__((alias("posix_fallocate64")));
