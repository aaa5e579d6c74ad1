/* bench: each stage beside its limit, in one run, because these machines differ from minute to minute. */
#include "runtime/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/json.h"
#include "kernels/bench_codec.h"
#include "kernels/bench_gemv.h"
#include "kernels/kernels.h"
#include "runtime/engine.h"

static const char *const ORIGIN = "bench";
#define CHUNK (4u << 20)

/* ---- disk ---- */

static int whole_io(int fd, uint8_t *buf, uint64_t bytes, bool write_side)
{
    for (uint64_t at = 0; at < bytes; at += CHUNK) {
        ssize_t n = write_side ? pwrite(fd, buf, CHUNK, (off_t)at) : pread(fd, buf, CHUNK, (off_t)at);
        if (n != (ssize_t)CHUNK)
            return n < 0 && errno == ENOSPC ? PS_ENOSPC : PS_EIO;
    }
    return 0;
}

static int timed_disk(double *read_bytes_s, double *write_bytes_s, const char *path, uint64_t bytes,
                      uint8_t *buf, struct ps_err *err)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return ps_err_set(err, PS_EIO, ORIGIN, "can't create a test file: %s: %s", path,
                          strerror(errno));
    uint64_t t0 = ps_now_ns();
    int rc = whole_io(fd, buf, bytes, true);
    if (rc == 0 && fdatasync(fd) != 0)
        rc = PS_EIO;
    *write_bytes_s = (double)bytes / ps_seconds_since(t0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    fd = rc == 0 ? open(path, O_RDONLY | O_DIRECT | O_CLOEXEC) : -1;
    if (rc == 0 && fd < 0) /* tmpfs and some others have no direct reads */
        fd = open(path, O_RDONLY | O_CLOEXEC);
    t0 = ps_now_ns();
    if (rc == 0)
        rc = fd < 0 ? PS_EIO : whole_io(fd, buf, bytes, false);
    *read_bytes_s = (double)bytes / ps_seconds_since(t0);
    if (fd >= 0)
        close(fd);
    return rc < 0 ? ps_err_set(err, rc, ORIGIN, "the disk test failed: %s: is there room?", path) : 0;
}

int ps_bench_disk(double *read_bytes_s, double *write_bytes_s, const char *dir, uint64_t bytes,
                  struct ps_err *err)
{
    struct ps_strbuf path;
    uint8_t *buf = ps_alloc_pages(CHUNK, 4096);
    ps_strbuf_init(&path, 8192);
    ps_strbuf_printf(&path, "%s/bench.%ld.tmp", dir, (long)getpid());
    int rc = buf && ps_strbuf_ok(&path) ? ps_mkdir_p(dir, 0700, err)
                                        : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc == 0) {
        for (size_t i = 0; i < CHUNK; i++)
            buf[i] = (uint8_t)(i * 2654435761u >> 13);
        rc = timed_disk(read_bytes_s, write_bytes_s, path.data, bytes / CHUNK * CHUNK, buf, err);
        unlink(path.data);
    }
    ps_strbuf_deinit(&path);
    if (buf)
        ps_free_pages(buf, CHUNK);
    return rc;
}

static int bench_disk(struct ps_json_writer *w, const char *dir, struct ps_err *err)
{
    double r = 0, wr = 0;
    int rc = ps_bench_disk(&r, &wr, dir && *dir ? dir : ".", 512ull << 20, err);
    if (rc < 0)
        return rc;
    ps_jw_key(w, "rows");
    ps_jw_array(w);
    ps_jw_object(w);
    ps_jw_kstring(w, "op", "read_direct");
    ps_jw_kdouble(w, "gb_s", r / 1e9);
    ps_jw_object_end(w);
    ps_jw_object(w);
    ps_jw_kstring(w, "op", "write_sync");
    ps_jw_kdouble(w, "gb_s", wr / 1e9);
    ps_jw_object_end(w);
    ps_jw_array_end(w);
    return 0;
}

/* ---- codec and gemv ---- */

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
