/* Taking a cache away: what `--disk 0` does to the folder of an earlier run. In: a directory; out: the same
 * without index, slabs and claims. What is not the cache's own stays (the tag, figures of past runs). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "cache/cache.h"
#include "cache/cache_internal.h"
#include "cache/claims.h"

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Removes a directory of ours and in it only what we make: somebody may have pointed --cache at a folder of his own. */
static void clear_dir(int dir_fd, const char *name, const char *suffix)
{
    const int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        if (ends_with(e->d_name, suffix))
            (void)unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    (void)unlinkat(dir_fd, name, AT_REMOVEDIR); /* stays where something else lies in it */
}

static int clear_locked(int dir_fd, int lock_fd, const char *dir, struct ps_err *err)
{
    if (ps_claims_any_process(lock_fd) || ps_claims_any_reader(lock_fd))
        return ps_err_set(
            err, PS_EBUDGET, PS_CACHE_ORIGIN,
            "cache: %s is in use by another process: --disk 0 can't empty it: stop that process or "
            "name another --cache",
            dir);
    clear_dir(dir_fd, "index", ".mdb");
    clear_dir(dir_fd, "index.new", ".mdb");
    clear_dir(dir_fd, "slabs", ".slab");
    (void)unlinkat(dir_fd, "claims", 0);
    (void)unlinkat(dir_fd, "lock", 0); /* last: who waits for it opens a fresh one */
    return 0;
}

int ps_cache_clear(const char *dir, struct ps_err *err)
{
    const int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return errno == ENOENT
                   ? 0
                   : ps_err_set(err, PS_EIO, PS_CACHE_ORIGIN, "cache: %s: %s", dir, strerror(errno));
    int rc = 0;
    const bool ours = faccessat(dir_fd, "CACHEDIR.TAG", F_OK, 0) == 0 &&
                      faccessat(dir_fd, "index/data.mdb", F_OK, 0) == 0;
    const int lock_fd = !ours ? -1 : openat(dir_fd, "lock", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (lock_fd >= 0) { /* no lock file: there never was a cache */
        while (flock(lock_fd, LOCK_EX) != 0 && errno == EINTR) {}
        rc = clear_locked(dir_fd, lock_fd, dir, err);
        close(lock_fd);
    }
    close(dir_fd);
    return rc;
}
