/* A folder as destination of a split. Comes in: bytes of shards and small files. Goes out: a tree on disk that
 * survives a kill at any point. Order of a shard: data and index, fsync, journal line, fsync, rename: so a shard
 * with its final name is always in the journal. Where it replaces one of that name, the line comes last. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/host.h"
#include "base/read_at.h"
#include "base/strbuf.h"
#include "proto/manifest.h"
#include "tools/split_tree_impl.h"

#define ORIGIN      "split"
#define TEMP_PREFIX ".tmp-"
#define TEMP_FILE   ".tmp-file"
#define TEMP_SHARD  ".tmp-shard"

struct folder {
    struct ps_split_tree base;
    char *path;
    int dir, shards; /* directories; the lock lies on the first */
    int journal;     /* open for appending, -1 before */
    int fd;          /* shard being written, -1 = none */
};

static int disk_error(const struct folder *t, const char *doing, const char *name, struct ps_err *err)
{
    int e = errno;
    if (e == ENOSPC || e == EDQUOT)
        return ps_err_set(
            err, PS_ENOSPC, ORIGIN,
            "no room: %s %s/%s: free some space and run again: finished shards are kept", doing,
            t->path, name);
    return ps_err_set(err, PS_EIO, ORIGIN, "%s %s/%s: %s", doing, t->path, name, strerror(e));
}

static int write_all(int fd, const void *bytes, size_t len, off_t offset)
{
    const char *p = bytes;
    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        len -= (size_t)n;
        offset += n;
    }
    return 0;
}

/* ---- Names ---- */

static bool is_temp(const char *name)
{
    return strncmp(name, TEMP_PREFIX, sizeof TEMP_PREFIX - 1) == 0;
}

/* ---- Looking at the directory ---- */

/* Calls fn for every entry of a directory until it returns false. A directory that can't be read has no entries. */
static void each_entry(int dir, bool (*fn)(int dir, const char *name, void *user), void *user)
{
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (!d) {
        if (copy >= 0)
            close(copy);
        return;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && !fn(dir, e->d_name, user))
            break;
    closedir(d);
}

static bool find_stranger(int dir, const char *name, void *user)
{
    char *stranger = user;
    (void)dir;
    if (is_temp(name) || strcmp(name, "lost+found") == 0)
        return true;
    snprintf(stranger, PS_SPLIT_NAME_MAX, "%.*s", PS_SPLIT_NAME_MAX - 1, name);
    return false;
}

static bool exists(int dir, const char *name)
{
    return faccessat(dir, name, F_OK, 0) == 0;
}

/* A split writes only into an empty directory or into a split: the source given as destination must not be harmed. */
static int check_ours(const struct folder *t, struct ps_err *err)
{
    char stranger[PS_SPLIT_NAME_MAX] = "";
    if (exists(t->dir, PS_SPLIT_JOURNAL) || exists(t->dir, PS_MANIFEST_NAME))
        return 0;
    each_entry(t->dir, find_stranger, stranger);
    if (stranger[0])
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "%s holds something else than a split (%s): name an empty directory",
                          t->path, stranger);
    return 0;
}

static bool remove_temp(int dir, const char *name, void *user)
{
    (void)user;
    if (is_temp(name))
        unlinkat(dir, name, 0);
    return true;
}

static void remove_temps(const struct folder *t)
{
    each_entry(t->dir, remove_temp, NULL);
    if (t->shards >= 0)
        each_entry(t->shards, remove_temp, NULL);
}

/* ---- Journal ---- */

/* Whether the shard lies there as the line says: size, and the hash of its index, which was written last. That proves
 * that it was finished, as all of it was on disk before its line: not that its data have kept every bit since. */
static bool shard_is_whole(const struct folder *t, const struct ps_split_done *d)
{
    char name[PS_SPLIT_NAME_MAX];
    uint8_t sha[PS_SHA256_BYTES];
    struct stat st;
    ps_split_shard_file(name, d->index_sha256);
    int fd = openat(t->shards, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool whole = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == d->bytes &&
                 d->index_bytes <= PS_SHARD_INDEX_MAX_BYTES;
    void *index = whole ? ps_malloc(d->index_bytes) : NULL;
    whole = index && ps_read_at(fd, index, d->index_bytes, d->index_bytes, PS_SHARD_HEAD_BYTES) ==
                         (int64_t)d->index_bytes;
    if (whole) {
        ps_sha256_once(index, d->index_bytes, sha);
        whole = memcmp(sha, d->index_sha256, sizeof sha) == 0;
    }
    ps_free(index);
    close(fd);
    return whole;
}

static void take_line(const struct folder *t, const char *line, struct ps_split_done *done,
                      uint32_t n_shards)
{
    struct ps_split_done d;
    uint32_t shard;
    if (ps_split_journal_parse(line, &shard, &d) && shard < n_shards && shard_is_whole(t, &d))
        done[shard] = d;
}

/* Shards of a split of something else are in the way, unless a manifest still names them. */
static void drop_line(const struct folder *t, const char *line)
{
    const char *hex = strrchr(line, ' ');
    uint8_t sha[PS_SHA256_BYTES];
    char name[PS_SPLIT_NAME_MAX];
    if (!hex || ps_hex_decode(hex + 1, strlen(hex + 1), sha, sizeof sha) != 0 ||
        exists(t->dir, PS_MANIFEST_NAME))
        return;
    ps_split_shard_file(name, sha);
    unlinkat(t->shards, name, 0);
}

static int read_journal(const struct folder *t, const char *head, struct ps_split_done *done,
                        uint32_t n_shards, struct ps_err *err)
{
    struct ps_strbuf path;
    char *text = NULL;
    size_t len = 0;
    ps_strbuf_init(&path, 1 << 16);
    ps_strbuf_printf(&path, "%s/" PS_SPLIT_JOURNAL, t->path);
    int rc = ps_strbuf_ok(&path)
                 ? ps_file_read(&text, &len, path.data, PS_SPLIT_JOURNAL_MAX_BYTES, err)
                 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    ps_strbuf_deinit(&path);
    if (rc != 0)
        return rc == PS_ENOTFOUND ? 0 : rc;
    bool same = strncmp(text, head, strlen(head)) == 0;
    /* A line that a kill cut off has no newline, and counts for nothing. */
    char *line = strchr(text, '\n');
    for (char *end; line && (end = strchr(line + 1, '\n')) != NULL; line = end) {
        *end = '\0';
        if (same)
            take_line(t, line + 1, done, n_shards);
        else
            drop_line(t, line + 1);
    }
    ps_free(text);
    return 0;
}

static int folder_put(struct ps_split_tree *base, const char *name, const void *bytes, size_t len,
                      struct ps_err *err);

/* Writes the journal anew with what was found to be true, beside the old one, so that a cut-off
 * line never stays in the middle. */
static int write_journal(struct folder *t, const char *head, const struct ps_split_done *done,
                         uint32_t n_shards, struct ps_err *err)
{
    struct ps_strbuf b;
    ps_strbuf_init(&b, PS_SPLIT_JOURNAL_MAX_BYTES);
    ps_strbuf_puts(&b, head);
    for (uint32_t i = 0; i < n_shards; i++) {
        char line[256];
        if (done[i].done && ps_split_journal_line(line, sizeof line, i, &done[i]) > 0)
            ps_strbuf_puts(&b, line);
    }
    int rc = ps_strbuf_ok(&b) ? folder_put(&t->base, PS_SPLIT_JOURNAL, b.data, b.len, err)
                              : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for the journal");
    ps_strbuf_deinit(&b);
    if (rc != 0)
        return rc;
    t->journal = openat(t->dir, PS_SPLIT_JOURNAL, O_WRONLY | O_APPEND | O_CLOEXEC);
    return t->journal < 0 ? disk_error(t, "open", PS_SPLIT_JOURNAL, err) : 0;
}

/* ---- Opening ---- */

static int open_directories(struct folder *t, struct ps_err *err)
{
    int rc = ps_mkdir_p(t->path, 0755, err);
    if (rc != 0)
        return rc;
    t->dir = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->dir < 0)
        return disk_error(t, "open", "", err);
    if (flock(t->dir, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK
                   ? ps_err_set(err, PS_EUSAGE, ORIGIN,
                                "%s: another split is writing there: wait for its end", t->path)
                   : disk_error(t, "lock", "", err);
    rc = check_ours(t, err);
    if (rc != 0)
        return rc;
    /* The journal comes before anything else: it says that the directory is ours. */
    if (!exists(t->dir, PS_SPLIT_JOURNAL) && !exists(t->dir, PS_MANIFEST_NAME)) {
        rc = folder_put(&t->base, PS_SPLIT_JOURNAL, "\n", 1, err);
        if (rc != 0)
            return rc;
    }
    if (mkdirat(t->dir, "shards", 0755) != 0 && errno != EEXIST)
        return disk_error(t, "make", "shards", err);
    t->shards = openat(t->dir, "shards", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return t->shards < 0 ? disk_error(t, "open", "shards", err) : 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void folder_close(struct ps_split_tree *base)
{
    struct folder *t = (struct folder *)base;
    if (t->fd >= 0)
        unlinkat(t->shards, TEMP_SHARD, 0);
    close_fd(&t->fd);
    close_fd(&t->journal);
    close_fd(&t->shards);
    close_fd(&t->dir);
    ps_free(t->path);
    ps_free(t);
}

/* ---- Writing ---- */

static int folder_begin(struct ps_split_tree *base, uint64_t data_begin, struct ps_err *err)
{
    struct folder *t = (struct folder *)base;
    (void)data_begin;
    PS_ASSERT(t->fd < 0);
    t->fd = openat(t->shards, TEMP_SHARD, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (t->fd < 0)
        return disk_error(t, "make", "shards/" TEMP_SHARD, err);
    return 0;
}

static int folder_write(struct ps_split_tree *base, const void *bytes, size_t len, uint64_t offset,
                        struct ps_err *err)
{
    struct folder *t = (struct folder *)base;
    PS_ASSERT(t->fd >= 0);
    return write_all(t->fd, bytes, len, (off_t)offset) == 0
               ? 0
               : disk_error(t, "write", "shards/" TEMP_SHARD, err);
}

static int append_journal(struct folder *t, uint32_t shard, const struct ps_split_done *d,
                          struct ps_err *err)
{
    char line[256];
    int n = ps_split_journal_line(line, sizeof line, shard, d);
    PS_ASSERT(n > 0 && (size_t)n < sizeof line);
    ssize_t wrote = write(t->journal, line, (size_t)n);
    if (wrote >= 0 && wrote != n)
        errno = ENOSPC;
    if (wrote != n || fdatasync(t->journal) != 0)
        return disk_error(t, "write", PS_SPLIT_JOURNAL, err);
    return 0;
}

static int folder_finish_shard(struct ps_split_tree *base, uint32_t shard,
                               const struct ps_split_done *d, struct ps_err *err)
{
    struct folder *t = (struct folder *)base;
    char name[PS_SPLIT_NAME_MAX];
    PS_ASSERT(t->fd >= 0);
    ps_split_shard_file(name, d->index_sha256);
    if (fsync(t->fd) != 0)
        return disk_error(t, "write", "shards/" TEMP_SHARD, err);
    /* A finished tree is split again. What is there may be damaged: a line is written once it is gone. */
    bool replaces = exists(t->shards, name);
    int rc = replaces ? 0 : append_journal(t, shard, d, err);
    if (rc != 0)
        return rc;
    if (renameat(t->shards, TEMP_SHARD, t->shards, name) != 0)
        return disk_error(t, "rename", name, err);
    close_fd(&t->fd);
    if (fsync(t->shards) != 0)
        return disk_error(t, "sync", "shards", err);
    return replaces ? append_journal(t, shard, d, err) : 0;
}

static bool same_content(const struct folder *t, const char *name, const void *bytes, size_t len)
{
    struct stat st;
    int fd = openat(t->dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool same = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == len;
    char *old = same ? ps_malloc(len) : NULL;
    same = old && ps_read_at(fd, old, len, len, 0) == (int64_t)len && memcmp(old, bytes, len) == 0;
    ps_free(old);
    close(fd);
    return same;
}

static void look_for(char **text, size_t *len, const char *dst, const char *name, size_t max_bytes)
{
    struct ps_strbuf path;
    ps_strbuf_init(&path, 1 << 16);
    ps_strbuf_printf(&path, "%s/%s", dst, name);
    if (!ps_strbuf_ok(&path) || ps_file_read(text, len, path.data, max_bytes, NULL) != 0)
        *text = NULL; /* none, or one that is told of when the folder is opened for writing */
    ps_strbuf_deinit(&path);
}

int ps_split_folder_look(struct ps_split_found *f, const char *dst, struct ps_err *err)
{
    f->where = ps_strdup(dst);
    if (!f->where)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    look_for(&f->manifest, &f->manifest_len, dst, PS_MANIFEST_NAME, PS_MANIFEST_MAX_BYTES);
    look_for(&f->config, &f->config_len, dst, "config.json", PS_SPLIT_CONFIG_MAX_BYTES);
    return 0;
}

static int folder_put(struct ps_split_tree *base, const char *name, const void *bytes, size_t len,
                      struct ps_err *err)
{
    struct folder *t = (struct folder *)base;
    if (same_content(t, name, bytes, len))
        return 0;
    int rc = 0;
    int fd = openat(t->dir, TEMP_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return disk_error(t, "make", name, err);
    if (write_all(fd, bytes, len, 0) != 0 || fsync(fd) != 0 ||
        renameat(t->dir, TEMP_FILE, t->dir, name) != 0) {
        rc = disk_error(t, "write", name, err);
        unlinkat(t->dir, TEMP_FILE, 0);
    } else if (fsync(t->dir) != 0) {
        rc = disk_error(t, "sync", name, err);
    }
    close(fd);
    return rc;
}

struct keep {
    const struct ps_split_done *done;
    uint32_t n;
};

static bool remove_unnamed(int dir, const char *name, void *user)
{
    const struct keep *k = user;
    uint8_t sha[PS_SHA256_BYTES];
    if (ps_split_is_shard_file(name, sha) && !ps_split_names_shard(k->done, k->n, sha))
        unlinkat(dir, name, 0);
    return true;
}

static int folder_seal(struct ps_split_tree *base, const void *manifest, size_t len,
                       const struct ps_split_done *done, uint32_t n_shards, struct ps_err *err)
{
    struct folder *t = (struct folder *)base;
    struct keep keep = {done, n_shards};
    int rc = folder_put(&t->base, PS_MANIFEST_NAME, manifest, len, err);
    if (rc != 0)
        return rc;
    each_entry(t->shards, remove_unnamed, &keep);
    remove_temps(t);
    if (unlinkat(t->dir, PS_SPLIT_JOURNAL, 0) != 0 || fsync(t->dir) != 0)
        return disk_error(t, "remove", PS_SPLIT_JOURNAL, err);
    return 0;
}

static char *folder_get(struct ps_split_tree *base, const char *name, size_t max_bytes)
{
    const struct folder *t = (struct folder *)base;
    struct ps_strbuf path;
    char *text = NULL;
    size_t len;
    ps_strbuf_init(&path, 1 << 16);
    ps_strbuf_printf(&path, "%s/%s", t->path, name);
    if (ps_strbuf_ok(&path) && ps_file_read(&text, &len, path.data, max_bytes, NULL) != 0)
        text = NULL;
    ps_strbuf_deinit(&path);
    return text;
}

static int folder_remove(struct ps_split_tree *base, const char *name, struct ps_err *err)
{
    const struct folder *t = (struct folder *)base;
    return unlinkat(t->dir, name, 0) == 0 || errno == ENOENT ? 0 : disk_error(t, "remove", name, err);
}

static const struct ps_split_tree_ops folder_ops = {
    .close = folder_close,
    .begin = folder_begin,
    .write = folder_write,
    .finish_shard = folder_finish_shard,
    .put = folder_put,
    .get = folder_get,
    .remove = folder_remove,
    .seal = folder_seal,
};

int ps_split_folder_open(struct ps_split_tree **out, const char *dst,
                         const uint8_t key[PS_SHA256_BYTES], struct ps_split_done *done,
                         uint32_t n_shards, struct ps_err *err)
{
    char head[PS_SPLIT_NAME_MAX];
    struct folder *t = ps_calloc(1, sizeof *t);
    if (t)
        t->path = ps_strdup(dst);
    if (!t || !t->path) {
        ps_free(t);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    t->base.ops = &folder_ops;
    t->dir = t->shards = t->journal = t->fd = -1;
    ps_split_journal_head(head, key);
    int rc = open_directories(t, err);
    if (rc == 0) {
        remove_temps(t);
        rc = read_journal(t, head, done, n_shards, err);
    }
    if (rc == 0)
        rc = write_journal(t, head, done, n_shards, err);
    if (rc != 0) {
        folder_close(&t->base);
        return rc;
    }
    *out = &t->base;
    return 0;
}
