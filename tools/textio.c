/* See textio.h. */
#include "tools/textio.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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

int ps_text_write_file(const char *path, const void *bytes, size_t len, struct ps_err *err)
{
    char temporary[4096];
    struct stat st;
    bool direct = stat(path, &st) == 0 && !S_ISREG(st.st_mode);
    const char *name = direct ? path : temporary;
    int fd = fd_by_name(path), rc;

    if (fd >= 0) {
        rc = write_all(fd, bytes, len);
        return rc < 0 ? write_error(path, -rc, err) : 0;
    }
    if (snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >=
        (int)sizeof temporary)
        return ps_err_set(err, PS_EUSAGE, "textio", "%s: the name is too long", path);
    fd = open(name, O_WRONLY | O_CLOEXEC | (direct ? 0 : O_CREAT | O_TRUNC), 0666);
    if (fd < 0)
        return write_error(path, errno, err);
    rc = write_all(fd, bytes, len);
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && !direct && rename(temporary, path) < 0)
        rc = -errno;
    if (rc < 0) {
        if (!direct)
            unlink(temporary);
        return write_error(path, -rc, err);
    }
    return 0;
}
