/* Whose folder this is. In: a directory's entries; out: whether we may work in it. */
#include "cache/owner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "cache/claims.h"

#define ORIGIN "cache"
#define TAG    "CACHEDIR.TAG"
/* The first line is the one that backup programs look for (bford.info/cachedir). */
#define TAG_HEAD "Signature: 8a477f597d28d172789f06886806bc55\n# Made by Penstock"
static const char TAG_TEXT[] = TAG_HEAD ": model weights that can be fetched again.\n";
#define TAG_HEAD_BYTES (sizeof TAG_HEAD - 1) /* later versions may say more behind our name */

/* What may lie in a folder before a cache is made in it: the runtime's figures (runtime/engine_probes.c), the lock file
 * and the tag of an opening that was killed, and what mkfs leaves in an empty file system. */
static const char *const beside[] = {"probes.json", "probes.json.tmp", "lock", TAG ".new",
                                     "lost+found"};

static bool begins_with(int dir_fd, const char *name, const char *text, size_t n)
{
    char head[128];
    const int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    const bool yes = fd >= 0 && n <= sizeof head && pread(fd, head, n, 0) == (ssize_t)n &&
                     memcmp(head, text, n) == 0;
    if (fd >= 0)
        close(fd);
    return yes;
}

static bool tag_is_ours(int dir_fd)
{
    return begins_with(dir_fd, TAG, TAG_TEXT, TAG_HEAD_BYTES);
}

/* The beginning of a tag whose writer was killed. */
static bool tag_is_begun(int dir_fd)
{
    struct stat st;
    return fstatat(dir_fd, TAG, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
           (size_t)st.st_size < TAG_HEAD_BYTES &&
           begins_with(dir_fd, TAG, TAG_TEXT, (size_t)st.st_size);
}

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static bool may_lie_beside(int dir_fd, const char *name)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return true;
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++)
        if (strcmp(name, beside[i]) == 0)
            return true;
    if (strncmp(name, "bench.", 6) == 0 &&
        ends_with(name, ".tmp")) /* a killed probe's (runtime/bench.c) */
        return true;
    return strcmp(name, TAG) == 0 && tag_is_begun(dir_fd);
}

/* An unreadable folder counts as full. */
static bool is_empty(int dir_fd)
{
    const int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    bool empty = d != NULL;
    if (!d && fd >= 0)
        close(fd);
    for (struct dirent *e = d ? readdir(d) : NULL; e && empty; e = readdir(d))
        empty = may_lie_beside(dir_fd, e->d_name);
    if (d)
        closedir(d);
    return empty;
}

enum ps_owner ps_owner_of(int dir_fd)
{
    if (tag_is_ours(dir_fd))
        return PS_OWNER_OURS;
    if (ps_claims_is_table(dir_fd) ||
        begins_with(dir_fd, "lock", PS_OWNER_MARK_MAGIC, sizeof PS_OWNER_MARK_MAGIC - 1))
        return PS_OWNER_UNTAGGED;
    if (is_empty(dir_fd))
        return PS_OWNER_EMPTY;
    /* Another process may be making its cache here just now: the tag comes before all the rest. */
    return tag_is_ours(dir_fd) ? PS_OWNER_OURS : PS_OWNER_FOREIGN;
}

static int tag_error(int e, const char *dir, struct ps_err *err)
{
    return ps_err_set(err, e == ENOSPC || e == EDQUOT ? PS_ENOSPC : PS_EIO, ORIGIN,
                      "cache: %s: " TAG ": %s", dir, strerror(e));
}

static bool is_shared(int dir_fd)
{
    struct stat st;
    return fstat(dir_fd, &st) == 0 && (st.st_mode & S_ISGID) && (st.st_mode & S_IWGRP);
}

void ps_owner_share_file(int dir_fd, int fd)
{
    struct stat st;
    if (is_shared(dir_fd) && fstat(fd, &st) == 0 && st.st_uid == geteuid() &&
        (st.st_mode & 0660) != 0660)
        (void)fchmod(fd, 0660);
}

void ps_owner_share_dir(int dir_fd, const char *name)
{
    struct stat st;
    if (is_shared(dir_fd) && fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 02770) != 02770)
        (void)fchmodat(dir_fd, name, 02770, 0);
}

/* In one rename: whoever looks sees the old tag or the new one. Synced before, because the index will be: after power
 * loss a folder that holds the one without the other would be taken for a stranger's. */
static int write_tag_locked(int dir_fd, const char *dir, struct ps_err *err)
{
    static const char new_name[] = TAG ".new";
    (void)unlinkat(dir_fd, new_name, 0);
    const int fd =
        openat(dir_fd, new_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return errno == EROFS || errno == EACCES || errno == EPERM ? 0 : tag_error(errno, dir, err);
    ps_owner_share_file(dir_fd, fd);
    ssize_t n = write(fd, TAG_TEXT, sizeof TAG_TEXT - 1);
    int e = n < 0 ? errno : ENOSPC;
    if (n == (ssize_t)sizeof TAG_TEXT - 1 && fdatasync(fd) != 0) {
        e = errno;
        n = -1;
    }
    close(fd);
    if (n == (ssize_t)sizeof TAG_TEXT - 1 && renameat(dir_fd, new_name, dir_fd, TAG) == 0)
        return 0;
    const int code =
        n == (ssize_t)sizeof TAG_TEXT - 1 ? tag_error(errno, dir, err) : tag_error(e, dir, err);
    (void)unlinkat(dir_fd, new_name, 0);
    return code;
}

/* Several may begin with an empty folder at once, before there is a lock file: the folder itself is locked, and
 * the tag of whoever was first is good for all. */
static int write_tag(int dir_fd, const char *dir, struct ps_err *err)
{
    while (flock(dir_fd, LOCK_EX) != 0 && errno == EINTR) {}
    const int rc = tag_is_ours(dir_fd) ? 0 : write_tag_locked(dir_fd, dir, err);
    (void)flock(dir_fd, LOCK_UN);
    return rc;
}

int ps_owner_check(int dir_fd, const char *dir, bool writes, bool creates, struct ps_err *err)
{
    switch (ps_owner_of(dir_fd)) {
    case PS_OWNER_FOREIGN:
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "cache: %s: holds other files and no cache: left as it is: give --cache "
                          "an empty folder or a new name",
                          dir);
    case PS_OWNER_UNTAGGED:
        if (!writes)
            return 0;
        ps_log(PS_LOG_INFO, ORIGIN, "%s: " TAG " was missing or damaged: written anew", dir);
        return write_tag(dir_fd, dir, err);
    case PS_OWNER_EMPTY: return writes && creates ? write_tag(dir_fd, dir, err) : 0;
    case PS_OWNER_OURS: break;
    }
    return 0;
}

bool ps_owner_lock_is_current(int dir_fd, int lock_fd)
{
    struct stat mine, named;
    return fstat(lock_fd, &mine) == 0 && fstatat(dir_fd, "lock", &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           mine.st_ino == named.st_ino && mine.st_dev == named.st_dev;
}

void ps_owner_remove_dir(int dir_fd, const char *name)
{
    const int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        if (ends_with(e->d_name, ".mdb") || ends_with(e->d_name, ".slab"))
            (void)unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    (void)unlinkat(dir_fd, name, AT_REMOVEDIR);
}
