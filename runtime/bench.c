/* bench: each stage beside its limit, in one run, because these machines differ from minute to minute. */
#include "runtime/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/json.h"
#include "cache/owner.h"
#include "kernels/bench_codec.h"
#include "kernels/bench_gemv.h"
#include "kernels/kernels.h"
#include "runtime/engine.h"

static const char *const ORIGIN = "bench";
#define CHUNK      (4u << 20)
#define DISK_BYTES (512ull << 20)

/* The limit, and the beginning of the rows. */
static void put_limit(struct ps_json_writer *w, const char *name, double gb_s)
{
    ps_jw_key(w, "limit");
    ps_jw_object(w);
    ps_jw_kstring(w, "name", name);
    ps_jw_kdouble(w, "gb_s", gb_s);
    ps_jw_object_end(w);
    ps_jw_key(w, "rows");
    ps_jw_array(w);
}

/* ---- disk ---- */

struct disk_test {
    int fd;
    const char *dir;
    uint64_t bytes;
    const atomic_int *interrupt;
    _Atomic uint64_t next; /* of the readers: where the next chunk begins */
    atomic_int failed;     /* of the readers: the first code */
};

static int disk_failed(const struct disk_test *t, int e, struct ps_err *err)
{
    const bool full = e == ENOSPC || e == EDQUOT;
    return ps_err_set(err, full ? PS_ENOSPC : PS_EIO, ORIGIN, "the disk test failed: %s: %s%s",
                      t->dir, strerror(e), full ? ": it writes a test file: make room" : "");
}

static bool is_interrupted(const struct disk_test *t)
{
    return t->interrupt && atomic_load(t->interrupt);
}

static int interrupted(struct ps_err *err)
{
    return ps_err_set(err, PS_EINTERRUPTED, ORIGIN, "interrupted");
}

static int write_whole(struct disk_test *t, uint8_t *buf, struct ps_err *err)
{
    for (uint64_t at = 0; at < t->bytes; at += CHUNK) {
        if (is_interrupted(t))
            return interrupted(err);
        const ssize_t n = pwrite(t->fd, buf, CHUNK, (off_t)at);
        if (n != (ssize_t)CHUNK)
            return disk_failed(t, n < 0 ? errno : ENOSPC, err);
    }
    if (fdatasync(t->fd) != 0)
        return disk_failed(t, errno, err);
    return 0;
}

/* Chunks of the file, whichever is next, until all are read. */
static void *read_chunks(void *user)
{
    struct disk_test *t = user;
    uint8_t *buf = ps_alloc_pages(CHUNK, 4096);
    int rc = buf ? 0 : ENOMEM;
    while (rc == 0 && !is_interrupted(t)) {
        const uint64_t at = atomic_fetch_add(&t->next, CHUNK);
        if (at >= t->bytes)
            break;
        const ssize_t n = pread(t->fd, buf, CHUNK, (off_t)at);
        rc = n == (ssize_t)CHUNK ? 0 : n < 0 ? errno : EIO;
    }
    int none = 0;
    if (rc != 0)
        atomic_compare_exchange_strong(&t->failed, &none, rc);
    if (buf)
        ps_free_pages(buf, CHUNK);
    return NULL;
}

static int read_whole(struct disk_test *t, double *bytes_s, unsigned readers, struct ps_err *err)
{
    pthread_t threads[PS_BENCH_DISK_READERS];
    unsigned n = 0;
    const uint64_t t0 = ps_now_ns();
    atomic_store(&t->next, 0);
    while (n + 1 < readers && pthread_create(&threads[n], NULL, read_chunks, t) == 0)
        n++;
    read_chunks(t);
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    *bytes_s = (double)t->bytes / ps_seconds_since(t0);
    if (is_interrupted(t))
        return interrupted(err);
    const int e = atomic_load(&t->failed);
    return e == 0 ? 0 : disk_failed(t, e, err);
}

static int time_disk(struct ps_bench_disk *out, struct disk_test *t, bool deep, struct ps_err *err)
{
    uint8_t *buf = ps_alloc_pages(CHUNK, 4096);
    if (!buf)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (size_t i = 0; i < CHUNK; i++)
        buf[i] = (uint8_t)(i * 2654435761u >> 13);
    const uint64_t t0 = ps_now_ns();
    int rc = write_whole(t, buf, err);
    out->write_bytes_s = (double)t->bytes / ps_seconds_since(t0);
    ps_free_pages(buf, CHUNK);
    posix_fadvise(t->fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)fcntl(t->fd, F_SETFL, O_DIRECT); /* tmpfs and some others have no direct reads */
    if (rc == 0)
        rc = read_whole(t, &out->read_bytes_s, 1, err);
    if (rc == 0 && deep)
        rc = read_whole(t, &out->read_deep_bytes_s, PS_BENCH_DISK_READERS, err);
    return rc;
}

/* A file without a name in the folder, or one that loses its name at once. */
static int open_test_file(int dir_fd, const char *dir, struct ps_err *err)
{
    char name[64];
    int fd = openat(dir_fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
        snprintf(name, sizeof name, "bench.%ld.tmp", (long)getpid());
        fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd >= 0)
            unlinkat(dir_fd, name, 0);
    }
    if (fd < 0)
        return ps_err_set(err, errno == ENOSPC || errno == EDQUOT ? PS_ENOSPC : PS_EIO, ORIGIN,
                          "can't create a test file: %s: %s", dir, strerror(errno));
    return fd;
}

int ps_bench_disk(struct ps_bench_disk *out, const char *dir, uint64_t bytes, bool deep,
                  const atomic_int *interrupt, struct ps_err *err)
{
    struct disk_test t = {.dir = dir, .bytes = bytes / CHUNK * CHUNK, .interrupt = interrupt};
    struct ps_bench_disk got = {0};
    int rc = ps_mkdir_p(dir, 0700, err);
    if (rc < 0)
        return rc;
    const int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return disk_failed(&t, errno, err);
    rc = ps_owner_check(dir_fd, dir, false, false, err);
    if (rc == 0)
        rc = t.fd = open_test_file(dir_fd, dir, err);
    close(dir_fd);
    if (rc < 0)
        return rc;
    rc = time_disk(&got, &t, deep, err);
    close(t.fd);
    if (rc == 0)
        *out = got;
    return rc;
}

static void put_disk_row(struct ps_json_writer *w, const char *op, double bytes_s,
                         double limit_bytes_s)
{
    ps_jw_object(w);
    ps_jw_kstring(w, "op", op);
    ps_jw_kdouble(w, "gb_s", bytes_s / 1e9);
    ps_jw_kdouble(w, "of_limit_pct", limit_bytes_s > 0 ? 100 * bytes_s / limit_bytes_s : 0);
    ps_jw_object_end(w);
}

/* The limit is what the disk gave at best, to one reader or to several at once. */
static int bench_disk(struct ps_json_writer *w, const char *dir, struct ps_err *err)
{
    struct ps_bench_disk d = {0};
    int rc = ps_bench_disk(&d, dir && *dir ? dir : ".", DISK_BYTES, true, NULL, err);
    if (rc < 0)
        return rc;
    const double limit = d.read_bytes_s > d.read_deep_bytes_s ? d.read_bytes_s : d.read_deep_bytes_s;
    put_limit(w, "read_direct", limit / 1e9);
    put_disk_row(w, "read_direct", d.read_bytes_s, limit);
    put_disk_row(w, "write_sync", d.write_bytes_s, limit);
    ps_jw_array_end(w);
    return 0;
}

/* ---- codec and gemv ---- */

static int bench_codec(struct ps_json_writer *w, unsigned threads, struct ps_err *err)
{
    struct ps_bench_codec_row rows[PS_BENCH_CODEC_ROWS];
    size_t n = 0;
    double limit = 0;
    int rc = ps_bench_codec(rows, PS_BENCH_CODEC_ROWS, &n, &limit, threads, err);
    if (rc < 0)
        return rc;
    put_limit(w, "memcpy", limit);
    for (size_t i = 0; i < n; i++) {
        ps_jw_object(w);
        ps_jw_kstring(w, "codec", rows[i].codec);
        ps_jw_kstring(w, "dtype", rows[i].dtype);
        ps_jw_kdouble(w, "ratio", rows[i].ratio);
        ps_jw_kdouble(w, "decode_gb_s", rows[i].decode_gb_s);
        ps_jw_kdouble(w, "encode_gb_s", rows[i].encode_gb_s);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
    return 0;
}

static int bench_gemv(struct ps_json_writer *w, unsigned threads, struct ps_err *err)
{
    struct ps_bench_row rows[64];
    size_t n = 0;
    double limit = 0;
    int rc = ps_bench_gemv(rows, sizeof rows / sizeof rows[0], &n, &limit, threads, err);
    if (rc < 0)
        return rc;
    put_limit(w, "read", limit);
    for (size_t i = 0; i < n; i++) {
        ps_jw_object(w);
        ps_jw_kstring(w, "dtype", rows[i].dtype);
        ps_jw_kuint(w, "t", rows[i].t);
        ps_jw_kdouble(w, "seconds", rows[i].seconds);
        ps_jw_kdouble(w, "gb_s", rows[i].gb_s);
        ps_jw_kdouble(w, "gflops", rows[i].gflops);
        ps_jw_kdouble(w, "limit_gb_s", rows[i].limit_gb_s);
        ps_jw_kdouble(w, "share", rows[i].share);
        ps_jw_kdouble(w, "per_weight", rows[i].per_weight);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
    return 0;
}

int ps_bench_json(char **out, const char *what, uint32_t threads, const char *dir,
                  struct ps_error *error)
{
    struct ps_err err = {0};
    struct ps_strbuf b;
    struct ps_json_writer w;
    const struct ps_backend *backend = NULL;
    unsigned n = threads ? threads : ps_host_cpus();
    ps_strbuf_init(&b, 1u << 20);
    ps_jw_init(&w, &b);
    what = what ? what : "";
    int rc = ps_backend_choose(&backend, &err);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "bench", what);
    ps_jw_kuint(&w, "threads", n);
    ps_jw_kstring(&w, "cpu", backend ? backend->name : "ref");
    if (rc == 0)
        rc = strcmp(what, "gemv") == 0    ? bench_gemv(&w, n, &err)
             : strcmp(what, "codec") == 0 ? bench_codec(&w, n, &err)
             : strcmp(what, "disk") == 0
                 ? bench_disk(&w, dir, &err)
                 : ps_err_set(&err, PS_EUSAGE, ORIGIN,
                              "unknown bench \"%.20s\": use gemv, codec, net or disk", what);
    ps_jw_object_end(&w);
    if (rc == 0)
        *out = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return ps_engine_error(error, rc, &err);
}
