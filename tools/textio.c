/* See textio.h. */
#include "tools/textio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"

#define TEXT_MAX ((size_t)256 << 20)

static int write_code(int e)
{
    return e == ENOSPC || e == EDQUOT ? PS_ENOSPC : PS_EIO;
}

int ps_out_write(const char *text, size_t len, struct ps_err *err)
{
    errno = 0;
    if (fwrite(text, 1, len, stdout) == len && fflush(stdout) == 0)
        return 0;
    if (errno == EPIPE) {
        ps_err_set(err, PS_EIO, "stdout", PS_OUT_NOBODY_READS);
        return PS_EIO;
    }
    return ps_err_set(err, write_code(errno), "stdout", "stdout: %s",
                      errno ? strerror(errno) : "can't be written");
}

int ps_out_line(const char *text, struct ps_err *err)
{
    int rc = ps_out_write(text, strlen(text), err);

    return rc < 0 ? rc : ps_out_write("\n", 1, err);
}

int ps_out_strbuf(struct ps_strbuf *b, struct ps_err *err)
{
    if (!ps_strbuf_ok(b))
        return ps_err_set(err, PS_ENOMEM, "stdout", "out of memory for the output");
    return ps_out_write(b->data, b->len, err);
}

static int read_all(struct ps_strbuf *b, int fd, const char *name, struct ps_err *err)
{
    char chunk[16384];
    ssize_t n;

    while ((n = read(fd, chunk, sizeof chunk)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ps_err_set(err, PS_EUSAGE, "textio", "%s: %s", name, strerror(errno));
        ps_strbuf_append(b, chunk, (size_t)n);
        if (!ps_strbuf_ok(b))
            return ps_err_set(err, PS_EUSAGE, "textio", "%s: longer than 256 MiB", name);
    }
    return 0;
}

int ps_text_read(char **out, size_t *len, const char *path, struct ps_err *err)
{
    struct ps_strbuf b;
    int fd, rc;

    if (path && strcmp(path, "-") == 0)
        path = NULL;
    fd = path ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;

    if (fd < 0)
        return ps_err_set(err, PS_EUSAGE, "textio", "%s: %s", path, strerror(errno));
    ps_strbuf_init(&b, TEXT_MAX);
    rc = read_all(&b, fd, path ? path : "stdin", err);
    if (path)
        close(fd);
    if (rc == 0) {
        char *text = ps_strbuf_take(&b, len);

        if (text)
            *out = text;
        else
            rc = ps_err_set(err, PS_ENOMEM, "textio", "out of memory for the text");
    }
    ps_strbuf_deinit(&b);
    return rc;
}

static int write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

/* "/dev/stderr" and its like are what this process has open: opened by name, a log file behind them would be written
 * from its start, and a rename would put a file into the place of the device. -1: another name. */
static int fd_by_name(const char *path)
{
    const char *digits = strncmp(path, "/dev/fd/", 8) == 0 ? path + 8 : NULL;
    char *end;
    long fd;

    if (strcmp(path, "/dev/stdout") == 0)
        return STDOUT_FILENO;
    if (strcmp(path, "/dev/stderr") == 0)
        return STDERR_FILENO;
    if (!digits || *digits < '0' || *digits > '9')
        return -1;
    fd = strtol(digits, &end, 10);
    return *end || fd > INT_MAX ? -1 : (int)fd;
}

static int write_error(const char *path, int e, struct ps_err *err)
{
    return ps_err_set(err, write_code(e), "textio", "%s: can't be written: %s", path, strerror(e));
}

/* Where the bytes of a result file go. */
struct target {
    char name[PATH_MAX];           /* behind symbolic links, which stay what they are */
    char temporary[PATH_MAX + 32]; /* beside it, on the same file system */
    bool direct; /* no regular file (a pipe, /dev/null), or a link to what is not there yet */
    bool exists;
};

/* 0 or -errno. */
static int find_target(struct target *t, const char *path)
{
    struct stat st;

    if (!*path)
        return -ENOENT;
    if (strlen(path) >= sizeof t->name)
        return -ENAMETOOLONG;
    t->exists = stat(path, &st) == 0;
    if (t->exists && S_ISDIR(st.st_mode))
        return -EISDIR;
    t->direct = t->exists ? !S_ISREG(st.st_mode) : lstat(path, &st) == 0;
    if (t->direct || !t->exists)
        memcpy(t->name, path, strlen(path) + 1);
    else if (!realpath(path, t->name))
        return -errno;
    snprintf(t->temporary, sizeof t->temporary, "%s.%ld.tmp", t->name, (long)getpid());
    return 0;
}

static int open_target(const struct target *t)
{
    const int flags = t->direct && t->exists ? 0 : O_CREAT | O_TRUNC;
    const int fd = open(t->direct ? t->name : t->temporary, O_WRONLY | O_CLOEXEC | flags, 0666);

    return fd < 0 ? -errno : fd;
}

static int write_target(const struct target *t, const void *bytes, size_t len)
{
    int fd = open_target(t), rc;

    if (fd < 0)
        return fd;
    rc = write_all(fd, bytes, len);
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && !t->direct && rename(t->temporary, t->name) < 0)
        rc = -errno;
    if (rc < 0 && !t->direct)
        unlink(t->temporary);
    return rc;
}

int ps_text_write_file(const char *path, const void *bytes, size_t len, struct ps_err *err)
{
    struct target t;
    int fd = fd_by_name(path), rc;

    if (fd >= 0) {
        rc = write_all(fd, bytes, len);
    } else {
        rc = find_target(&t, path);
        if (rc == 0)
            rc = write_target(&t, bytes, len);
    }
    return rc < 0 ? write_error(path, -rc, err) : 0;
}

/* Opening is the proof, but not of a pipe: that would wait for its reader. */
static int try_target(const char *path)
{
    struct target t;
    int fd = fd_by_name(path), rc;

    if (fd >= 0)
        return fcntl(fd, F_GETFD) < 0 ? -errno : 0;
    rc = find_target(&t, path);
    if (rc < 0)
        return rc;
    if (t.direct && t.exists)
        return access(path, W_OK) < 0 ? -errno : 0;
    fd = open_target(&t);
    if (fd < 0)
        return fd;
    close(fd);
    if (!t.direct)
        return unlink(t.temporary) < 0 ? -errno : 0;
    /* What the link names is there now, and was not: its real name, for the link shall stay. */
    return realpath(path, t.name) && unlink(t.name) == 0 ? 0 : -errno;
}

int ps_text_check_file(const char *option, const char *path, struct ps_err *err)
{
    const int rc = try_target(path);

    if (rc == 0)
        return 0;
    return ps_err_set(err, write_code(-rc) == PS_ENOSPC ? PS_ENOSPC : PS_EUSAGE, "textio",
                      "%s: %s: can't be written: %s: name a file in a folder of yours", option,
                      path, strerror(-rc));
}
