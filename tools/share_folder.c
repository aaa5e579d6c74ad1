/* See share_folder.h.
 *
 * The file is opened first, as a bare handle (O_PATH: no side effect, even on a device), and
 * then asked for its real path through /proc: there is no moment between the check and the use
 * in which a link could be changed. */
#include "tools/share_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "fetcher/path_hint.h"

int ps_share_folder_open(struct ps_share_folder *f, const char *dir, struct ps_err *err)
{
    f->fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->fd < 0 && errno == ENOENT)
        return ps_path_missing(err, dir);
    if (f->fd < 0)
        return ps_err_set(err, PS_ENOTFOUND, "share", "%s: %s", dir, strerror(errno));
    return 0;
}

void ps_share_folder_close(struct ps_share_folder *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

static bool real_path(char out[PATH_MAX], int fd)
{
    char link[64];
    ssize_t n;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, out, PATH_MAX - 1);
    if (n <= 0)
        return false;
    out[n] = '\0';
    return true;
}

/* Behind `root` and a slash, with no hidden part on the way. */
static bool below(const char *root, size_t root_len, const char *file)
{
    if (root_len == 1 && *root == '/')
        root_len = 0;
    if (strncmp(root, file, root_len) != 0 || file[root_len] != '/')
        return false;
    return strstr(file + root_len, "/.") == NULL;
}

/* Length of "…/models--x" in "…/models--x/snapshots/y", or 0. */
static size_t hub_entry(const char *root)
{
    const char *name = strrchr(root, '/'), *entry;
    size_t n = name ? (size_t)(name - root) : 0;

    if (n < 10 || memcmp(name - 10, "/snapshots", 10) != 0)
        return 0;
    n -= 10;
    entry = memrchr(root, '/', n);
    return entry && (strncmp(entry, "/models--", 9) == 0) ? n : 0;
}

int ps_share_beneath(const char *root, const char *file)
{
    char blobs[PATH_MAX];
    size_t n = hub_entry(root);

    if (below(root, strlen(root), file))
        return 1;
    if (n == 0 || n + sizeof "/blobs" > sizeof blobs)
        return 0;
    memcpy(blobs, root, n);
    memcpy(blobs + n, "/blobs", sizeof "/blobs");
    return below(blobs, strlen(blobs), file);
}

static int reopen(int handle, struct stat *st)
{
    char link[64];
    int fd;

    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    fd = open(link, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return errno == EACCES ? -403 : -404;
    if (fstat(fd, st) < 0) {
        close(fd);
        return -404;
    }
    return fd;
}

int ps_share_folder_file(const struct ps_share_folder *f, const char *name, struct stat *st)
{
    char root[PATH_MAX], file[PATH_MAX];
    int handle = openat(f->fd, name, O_PATH | O_CLOEXEC), fd = -404;

    if (handle < 0)
        return errno == EACCES ? -403 : -404;
    if (real_path(root, f->fd) && real_path(file, handle) && ps_share_beneath(root, file) &&
        fstat(handle, st) == 0 && S_ISREG(st->st_mode))
        fd = reopen(handle, st);
    close(handle);
    return fd;
}

static bool has(const struct ps_share_folder *f, const char *name)
{
    return faccessat(f->fd, name, R_OK, 0) == 0;
}

bool ps_share_folder_is_model(const struct ps_share_folder *f)
{
    return has(f, "penstock.manifest") || has(f, "config.json");
}

const char *ps_share_folder_kind(const struct ps_share_folder *f)
{
    if (!ps_share_folder_is_model(f))
        return "a folder";
    return has(f, "penstock.manifest") ? "a pre-split model" : "a model folder";
}
