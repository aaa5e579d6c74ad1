/* Taking a cache away: what `--disk 0` does to the folder of an earlier run. In: a directory; out: the same
 * without index, slabs and claims. What is not the cache's own stays (the tag, figures of past runs). */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "cache/cache.h"
#include "cache/cache_internal.h"
#include "cache/claims.h"
#include "cache/owner.h"

static int clear_locked(int dir_fd, int lock_fd, const char *dir, struct ps_err *err)
{
    if (ps_claims_any_process(lock_fd) || ps_claims_any_reader(lock_fd))
        return ps_err_set(
            err, PS_EBUDGET, PS_CACHE_ORIGIN,
            "cache: %s is in use by another process: --disk 0 can't empty it: stop that process or "
            "name another --cache",
            dir);
    ps_owner_remove_dir(dir_fd, "index");
    ps_owner_remove_dir(dir_fd, "index.new");
    ps_owner_remove_dir(dir_fd, "slabs");
    (void)unlinkat(dir_fd, "claims", 0);
    (void)unlinkat(dir_fd, "lock", 0); /* last: who waits for it opens a fresh one */
    return 0;
}

/* The lock file, locked, or -1: there never was a cache, or another one has just taken it away. The lock of a file that
 * is gone keeps nobody from a cache that was made anew meanwhile. */
static int lock_of(int dir_fd)
{
    for (;;) {
        const int fd = openat(dir_fd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            return -1;
        while (flock(fd, LOCK_EX) != 0 && errno == EINTR) {}
        if (ps_owner_lock_is_current(dir_fd, fd))
            return fd;
        close(fd);
    }
}

int ps_cache_clear(const char *dir, struct ps_err *err)
{
    const int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return errno == ENOENT
                   ? 0
                   : ps_err_set(err, PS_EIO, PS_CACHE_ORIGIN, "cache: %s: %s", dir, strerror(errno));
    int rc = 0;
    const enum ps_owner owner = ps_owner_of(dir_fd);
    const bool ours = owner == PS_OWNER_OURS || owner == PS_OWNER_UNTAGGED;
    const int lock_fd = !ours ? -1 : lock_of(dir_fd);
    if (lock_fd >= 0) {
        if (owner == PS_OWNER_UNTAGGED) /* what else tells that it is ours goes now */
            (void)ps_owner_check(dir_fd, dir, true, true, NULL);
        rc = clear_locked(dir_fd, lock_fd, dir, err);
        close(lock_fd);
    }
    close(dir_fd);
    return rc;
}
