/* See power_log.h. */
#include "tests/support/power_log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "tests/support/test.h"

#define SECTOR    512u
#define FILES_MAX 64u
#define NAME_MAX_ 128u

enum kind { WRITE, MAPPED, SIZE, PUNCH, CREATE, RENAME, UNLINK, SYNC, KINDS };
static const char *const kind_names[KINDS] = {"write",  "mapped", "size",   "punch",
                                              "create", "rename", "unlink", "sync"};

struct op {
    enum kind kind;
    bool direct; /* WRITE through O_DSYNC */
    unsigned file;
    char *bytes; /* WRITE, MAPPED: heap */
    uint64_t at, n;
    char name[NAME_MAX_], to[NAME_MAX_]; /* CREATE, RENAME, UNLINK: below the folder */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool on; /* lock, as all below */
static char root[256], mapped_name[NAME_MAX_];
static struct op *ops;
static size_t n_ops, cap_ops;
static struct {
    dev_t dev;
    ino_t ino;
} files[FILES_MAX];
static unsigned n_files;

static struct op *add_locked(enum kind kind, unsigned file)
{
    if (n_ops == cap_ops) {
        cap_ops = cap_ops ? cap_ops * 2 : 1024;
        ops = realloc(ops, cap_ops * sizeof *ops);
        assert_non_null(ops);
    }
    struct op *o = &ops[n_ops++];
    memset(o, 0, sizeof *o);
    o->kind = kind;
    o->file = file;
    return o;
}

/* The name below the folder of what a descriptor (or a name in a directory) stands for; false: elsewhere. */
static bool name_below(int fd, const char *name, char out[NAME_MAX_])
{
    char link[64], path[512];
    ssize_t n = 0;
    if (!name || name[0] != '/') {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        n = readlink(link, path, sizeof path - 1);
        if (n <= 0)
            return false;
    }
    path[n] = 0;
    if (name && (size_t)snprintf(path + n, sizeof path - (size_t)n, "%s%s", n > 0 ? "/" : "",
                                 name) >= sizeof path - (size_t)n)
        return false;
    const size_t k = strlen(root);
    if (strncmp(path, root, k) != 0 || path[k] != '/' || strlen(path + k + 1) >= NAME_MAX_)
        return false;
    strcpy(out, path + k + 1);
    return true;
}

/* The file behind a descriptor, noted as created where it is new. -1: not ours. */
static int file_locked(int fd)
{
    char name[NAME_MAX_];
    struct stat st;
    if (!on || fstat(fd, &st) != 0 || !name_below(fd, NULL, name))
        return -1;
    for (unsigned i = n_files; i-- > 0;) /* an inode number may come again: the latest */
        if (files[i].dev == st.st_dev && files[i].ino == st.st_ino)
            return (int)i;
    assert_true(n_files < FILES_MAX);
    files[n_files].dev = st.st_dev;
    files[n_files].ino = st.st_ino;
    strcpy(add_locked(CREATE, n_files)->name, name);
    return (int)n_files++;
}

static char *copy(const void *bytes, size_t n)
{
    char *p = malloc(n > 0 ? n : 1);
    assert_non_null(p);
    memcpy(p, bytes, n);
    return p;
}

void power_wrote(int fd, const void *bytes, size_t n, off_t at)
{
    const int e = errno;
    pthread_mutex_lock(&lock);
    const int file = file_locked(fd);
    if (file >= 0) {
        struct op *o = add_locked(WRITE, (unsigned)file);
        o->direct = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
        o->bytes = copy(bytes, n);
        o->n = n;
        o->at = (uint64_t)at;
    }
    pthread_mutex_unlock(&lock);
    errno = e;
}

static void note(int fd, enum kind kind, off_t at, off_t n)
{
    const int e = errno;
    pthread_mutex_lock(&lock);
    const int file = file_locked(fd);
    if (file >= 0) {
        struct op *o = add_locked(kind, (unsigned)file);
        o->at = (uint64_t)at;
        o->n = (uint64_t)n;
    }
    pthread_mutex_unlock(&lock);
    errno = e;
}

void power_sized(int fd, off_t size)
{
    note(fd, SIZE, size, 0);
}

void power_punched(int fd, off_t at, off_t n)
{
    note(fd, PUNCH, at, n);
}

static void sample_mapped(void)
{
    char path[512];
    static char bytes[1 << 20];
    if (!mapped_name[0])
        return;
    snprintf(path, sizeof path, "%s/%s", root, mapped_name);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    pthread_mutex_lock(&lock);
    const ssize_t n = (ssize_t)syscall(SYS_pread64, fd, bytes, sizeof bytes, 0);
    const int file = n > 0 ? file_locked(fd) : -1;
    if (file >= 0) {
        struct op *o = add_locked(MAPPED, (unsigned)file);
        o->bytes = copy(bytes, (size_t)n);
        o->n = (uint64_t)n;
    }
    pthread_mutex_unlock(&lock);
    close(fd);
}

void power_synced(int fd)
{
    const int e = errno;
    note(fd, SYNC, 0, 0);
    pthread_mutex_lock(&lock);
    const bool sample = on;
    pthread_mutex_unlock(&lock);
    if (sample)
        sample_mapped();
    errno = e;
}

void power_renames(int old_dir, const char *old_name, int new_dir, const char *new_name)
{
    char from[NAME_MAX_], to[NAME_MAX_];
    pthread_mutex_lock(&lock);
    if (on && name_below(old_dir, old_name, from) && name_below(new_dir, new_name, to)) {
        struct op *o = add_locked(RENAME, 0);
        strcpy(o->name, from);
        strcpy(o->to, to);
    }
    pthread_mutex_unlock(&lock);
}

void power_unlinks(int dir_fd, const char *name)
{
    char gone[NAME_MAX_];
    char path[512];
    struct stat st;
    pthread_mutex_lock(&lock);
    if (on && name_below(dir_fd, name, gone)) {
        strcpy(add_locked(UNLINK, 0)->name, gone);
        snprintf(path, sizeof path, "%s/%s", root, gone);
        if (lstat(path, &st) == 0) /* its number may be given out again */
            for (unsigned i = 0; i < n_files; i++)
                if (files[i].dev == st.st_dev && files[i].ino == st.st_ino)
                    files[i].ino = 0;
    }
    pthread_mutex_unlock(&lock);
}

void power_start(const char *dir, const char *mapped)
{
    pthread_mutex_lock(&lock);
    snprintf(root, sizeof root, "%s", dir);
    snprintf(mapped_name, sizeof mapped_name, "%s", mapped ? mapped : "");
    on = true;
    pthread_mutex_unlock(&lock);
}

void power_stop(void)
{
    pthread_mutex_lock(&lock);
    on = false;
    pthread_mutex_unlock(&lock);
}

void power_free(void)
{
    for (size_t i = 0; i < n_ops; i++)
        free(ops[i].bytes);
    free(ops);
    ops = NULL;
    n_ops = cap_ops = n_files = 0;
}

size_t power_n_ops(void)
{
    return n_ops;
}

void power_print(void)
{
    unsigned n[KINDS] = {0};
    for (size_t i = 0; i < n_ops; i++)
        n[ops[i].kind]++;
    printf("    %zu calls:", n_ops);
    for (int k = 0; k < KINDS; k++)
        printf(" %u %s", n[k], kind_names[k]);
    printf("\n");
}

/* ---- replay ---- */

struct replay {
    const char *to;
    size_t at,
        journal; /* calls before `at` were made; of names, sizes and holes those before `journal` count */
    uint64_t random, seed;
    struct {
        size_t synced;        /* writes before this call survive */
        char name[NAME_MAX_]; /* "": none now */
        int fd;               /* an unnamed file is kept: it may be renamed into place */
    } f[FILES_MAX];
};

static uint64_t next_random(struct replay *r)
{
    r->random ^= r->random << 13;
    r->random ^= r->random >> 7;
    r->random ^= r->random << 17;
    return r->random;
}

/* Of what may be lost. */
static bool survives(struct replay *r)
{
    return r->seed == 1 || (r->seed != 0 && next_random(r) % 2);
}

static void find_synced(struct replay *r)
{
    size_t last = 0;
    for (size_t i = 0; i < r->at; i++)
        if (ops[i].kind == SYNC)
            r->f[ops[i].file].synced = last = i + 1;
    r->journal = r->seed == 0   ? last
                 : r->seed == 1 ? r->at
                                : last + (size_t)(next_random(r) % (r->at - last + 1));
}

static void make_parents(const struct replay *r, const char *name)
{
    char path[512];
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(path, sizeof path, "%s/%.*s", r->to, (int)(slash - name), name);
        (void)mkdir(path, 0700);
    }
}

static void path_of(const struct replay *r, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s", r->to, name);
}

static void apply_create(struct replay *r, const struct op *o)
{
    char path[512];
    make_parents(r, o->name);
    path_of(r, o->name, path);
    (void)unlink(path);
    r->f[o->file].fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(r->f[o->file].fd >= 0);
    strcpy(r->f[o->file].name, o->name);
}

static void apply_name(struct replay *r, const struct op *o)
{
    char from[512], to[512];
    path_of(r, o->name, from);
    path_of(r, o->to, to);
    if (o->kind == UNLINK)
        (void)unlink(from);
    else
        (void)rename(from, to);
}

/* Sectors one by one; `sure`: all of them. */
static void apply_write(struct replay *r, const struct op *o, bool sure)
{
    const int fd = r->f[o->file].fd;
    for (uint64_t done = 0; fd >= 0 && done < o->n;) {
        uint64_t n = SECTOR - (o->at + done) % SECTOR;
        n = n < o->n - done ? n : o->n - done;
        if (sure) /* at once */
            n = o->n - done;
        if (sure || survives(r))
            assert_int_equal(syscall(SYS_pwrite64, fd, o->bytes + done, n, (off_t)(o->at + done)),
                             (ssize_t)n);
        done += n;
    }
}

static void apply(struct replay *r, size_t i)
{
    const struct op *o = &ops[i];
    const int fd = o->kind == RENAME || o->kind == UNLINK ? -1 : r->f[o->file].fd;
    const bool journalled = i < r->journal;
    switch (o->kind) {
    case WRITE:
        /* The call under way is never sure. */
        apply_write(r, o, i + 1 < r->at && (o->direct || i < r->f[o->file].synced));
        break;
    case MAPPED: apply_write(r, o, false); break;
    case SIZE:
        if (journalled && fd >= 0)
            assert_int_equal(syscall(SYS_ftruncate, fd, (off_t)o->at), 0);
        break;
    case PUNCH:
        if (journalled && fd >= 0)
            (void)syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          (off_t)o->at, (off_t)o->n);
        break;
    case CREATE:
        if (journalled)
            apply_create(r, o);
        break;
    case RENAME:
    case UNLINK:
        if (journalled)
            apply_name(r, o);
        break;
    case SYNC:
    case KINDS: break;
    }
}

void power_replay(const char *to, size_t at, uint64_t seed)
{
    struct replay r = {.to = to, .at = at, .seed = seed};
    r.random = seed * 0x9e3779b97f4a7c15ull ^ (at + 1) * 0xd1342543de82ef95ull;
    r.random |= r.random == 0;
    for (unsigned i = 0; i < FILES_MAX; i++)
        r.f[i].fd = -1;
    (void)mkdir(to, 0700);
    find_synced(&r);
    for (size_t i = 0; i < at; i++)
        apply(&r, i);
    for (unsigned i = 0; i < FILES_MAX; i++)
        if (r.f[i].fd >= 0)
            close(r.f[i].fd);
}

bool power_was_synced(const char *name, size_t at)
{
    char now[FILES_MAX][NAME_MAX_] = {{0}};
    for (size_t i = 0; i < at; i++) {
        if (ops[i].kind == CREATE)
            strcpy(now[ops[i].file], ops[i].name);
        if (ops[i].kind == SYNC && i + 1 < at && strcmp(now[ops[i].file], name) == 0)
            return true;
    }
    return false;
}

bool power_was_renamed(const char *to)
{
    for (size_t i = 0; i < n_ops; i++)
        if (ops[i].kind == RENAME && strcmp(ops[i].to, to) == 0)
            return true;
    return false;
}
