/* See bench_net.h.
 *
 * One pass asks the fetcher for the model's extents in their order, with as many bytes on the
 * way as a sweep would have, and throws them away; a second one has every SHA-256 checked, where
 * a pre-split model names them. The limit is what plain sockets receive from the same server
 * with the same number of connections (bench_recv.c), measured between the two. */
#include "tools/bench_net.h"

#include <pthread.h>
#include <string.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/json.h"
#include "kernels/kernels.h"
#include "proto/layout.h"
#include "tools/bench_recv.h"
#include "tools/cli.h"
#include "tools/progress.h"

#define WINDOW_BYTES ((uint64_t)64 << 20) /* on the way at once, at most */
#define WINDOW_MAX   64

struct pass {
    struct ps_source *src;
    const struct ps_map *map;
    bool hashed;
    uint64_t until_ns;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t freed;
    struct ps_range ranges[WINDOW_MAX];
    bool busy[WINDOW_MAX];
    unsigned n_slots, n_busy;
    uint64_t bytes;
    int rc;
    struct ps_err err;
};

static void on_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct pass *p = r->user;

    pthread_mutex_lock(&p->lock);
    p->busy[r - p->ranges] = false;
    p->n_busy--;
    if (rc == 0) {
        p->bytes += r->bytes;
    } else if (p->rc == 0) {
        p->rc = rc;
        if (err)
            p->err = *err;
    }
    pthread_cond_signal(&p->freed);
    pthread_mutex_unlock(&p->lock);
}

/* A free slot, or -1 once the pass is to end. *bytes: what has come so far. */
static int take_slot(struct pass *p, uint64_t *bytes)
{
    int slot = -1;

    pthread_mutex_lock(&p->lock);
    while (p->rc == 0 && p->n_busy == p->n_slots)
        pthread_cond_wait(&p->freed, &p->lock);
    if (p->rc == 0 && ps_now_ns() < p->until_ns)
        for (unsigned i = 0; i < p->n_slots && slot < 0; i++)
            if (!p->busy[i])
                slot = (int)i;
    if (slot >= 0) {
        p->busy[slot] = true;
        p->n_busy++;
    }
    *bytes = p->bytes;
    pthread_mutex_unlock(&p->lock);
    return slot;
}

static void ask(struct pass *p, int slot, const struct ps_extent *x, uint64_t n)
{
    const struct ps_object *object = &p->map->objects[x->object];
    struct ps_range *r = &p->ranges[slot];
    struct ps_err err = {0};
    void *buf = r->buf;
    int rc;

    *r = (struct ps_range){.object = object->name,
                           .offset = x->offset,
                           .bytes = x->stored_bytes,
                           .buf = buf,
                           .sha256 = p->hashed ? x->key : NULL,
                           .etag = object->etag,
                           .object_bytes = object->bytes,
                           .priority = n,
                           .done = on_done,
                           .user = p};
    rc = ps_source_submit(p->src, r, &err);
    if (rc < 0)
        on_done(r, rc, &err);
}

static void wait_idle(struct pass *p)
{
    pthread_mutex_lock(&p->lock);
    while (p->n_busy > 0)
        pthread_cond_wait(&p->freed, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static int pass_init(struct pass *p)
{
    uint32_t most = p->map->max_stored_bytes;

    p->n_slots = most ? (unsigned)(WINDOW_BYTES / most) : 0;
    p->n_slots = p->n_slots < 2 ? 2 : p->n_slots > WINDOW_MAX ? WINDOW_MAX : p->n_slots;
    for (unsigned i = 0; i < p->n_slots; i++)
        if (!(p->ranges[i].buf = ps_alloc_pages(most + 1u, 4096)))
            return PS_ENOMEM;
    if (pthread_mutex_init(&p->lock, NULL) || pthread_cond_init(&p->freed, NULL))
        return PS_ENOMEM;
    return 0;
}

static void pass_deinit(struct pass *p)
{
    for (unsigned i = 0; i < WINDOW_MAX; i++)
        if (p->ranges[i].buf)
            ps_free_pages(p->ranges[i].buf, p->map->max_stored_bytes + 1u);
}

/* Bytes per second over about `seconds`; the model begins anew when it has been read to its end. */
static int run_pass(double *bytes_s, struct ps_source *src, const struct ps_map *map, bool hashed,
                    double seconds, struct ps_err *err)
{
    struct pass *p = ps_calloc(1, sizeof *p);
    uint64_t start, bytes;
    int slot, rc;

    if (!p)
        return ps_err_set(err, PS_ENOMEM, "bench", "out of memory");
    p->src = src;
    p->map = map;
    p->hashed = hashed;
    rc = pass_init(p);
    if (rc < 0)
        ps_err_set(err, rc, "bench", "out of memory for the buffers");
    start = ps_now_ns();
    p->until_ns = start + (uint64_t)(seconds * (double)PS_NS_PER_S);
    for (uint64_t n = 0; rc == 0 && (slot = take_slot(p, &bytes)) >= 0; n++) {
        ask(p, slot, &map->extents[n % map->n_extents], n);
        ps_progress_update(NULL, "net", bytes, 0);
    }
    if (rc == 0) {
        wait_idle(p);
        rc = p->rc;
        *bytes_s = (double)p->bytes / ps_seconds_since(start);
        if (rc < 0)
            *err = p->err;
    }
    pass_deinit(p);
    ps_free(p);
    return rc;
}

struct figures {
    double plain, hashed; /* bytes per second of the fetcher */
    double limit;         /* of plain sockets, or of memcpy where the scheme has none */
    const char *limit_name;
    bool has_hashes;
};

static int measure(struct figures *f, struct ps_source *src, const struct ps_map *map,
                   const struct ps_opts *o, struct ps_err *err)
{
    int rc;

    if (map->n_extents == 0)
        return ps_err_set(err, PS_EDATA, "bench", "%s: the model has no tensors", src->label);
    f->has_hashes = map->extents[0].hashed;
    rc = run_pass(&f->plain, src, map, false, o->seconds, err);
    if (rc < 0)
        return rc;
    f->limit_name = "recv";
    if (ps_bench_recv(&f->limit, o->args[1], map, (unsigned)o->connections, o->seconds) < 0) {
        f->limit_name = "memcpy";
        f->limit = ps_bench_memcpy();
    }
    if (f->has_hashes)
        rc = run_pass(&f->hashed, src, map, true, o->seconds, err);
    return rc;
}

static void write_row(struct ps_json_writer *w, const char *check, double bytes_s, double limit)
{
    ps_jw_object(w);
    ps_jw_kstring(w, "check", check);
    ps_jw_kdouble(w, "gb_s", bytes_s / 1e9);
    ps_jw_kdouble(w, "of_limit_pct", limit > 0 ? 100 * bytes_s / limit : 0);
    ps_jw_object_end(w);
}

static int print_figures(const struct ps_opts *o, const struct figures *f, struct ps_err *err)
{
    const struct ps_backend *backend;
    struct ps_json_writer w;
    struct ps_strbuf b;
    int rc = ps_backend_choose(&backend, err);

    if (rc < 0)
        return rc;
    ps_strbuf_init(&b, 1 << 16);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "bench", "net");
    ps_jw_kuint(&w, "threads", o->threads > 0 ? (uint64_t)o->threads : ps_host_cpus());
    ps_jw_kstring(&w, "cpu", backend->name);
    ps_jw_kint(&w, "connections", o->connections);
    ps_jw_key(&w, "limit");
    ps_jw_object(&w);
    ps_jw_kstring(&w, "name", f->limit_name);
    ps_jw_kdouble(&w, "gb_s", f->limit / 1e9);
    ps_jw_object_end(&w);
    ps_jw_key(&w, "rows");
    ps_jw_array(&w);
    write_row(&w, "none", f->plain, f->limit);
    if (f->has_hashes)
        write_row(&w, "sha256", f->hashed, f->limit);
    ps_jw_array_end(&w);
    ps_jw_object_end(&w);
    rc = ps_cli_print_json(o, ps_strbuf_ok(&b) ? b.data : NULL, err);
    ps_strbuf_deinit(&b);
    return rc;
}

int ps_bench_net(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_store_options so = {0};
    struct ps_model_files files = {0};
    struct ps_source *src = NULL;
    struct figures f = {0};
    int rc;

    if (o->n_args < 2)
        return ps_err_set(err, PS_EUSAGE, "bench",
                          "net: MODEL is missing: usage: penstock bench net MODEL");
    rc = ps_cli_store_options(&so, o, err);
    if (rc == 0)
        rc = ps_store_open(&src, o->args[1], &so, err);
    if (rc < 0) {
        ps_rate_limit_free(so.limit);
        return rc;
    }
    rc = ps_cli_model_files(&files, src, o, err);
    if (rc == 0) {
        rc = measure(&f, src, files.map, o, err);
        if (rc == 0)
            rc = print_figures(o, &f, err);
        ps_model_files_close(&files);
    }
    ps_source_close(src);
    ps_rate_limit_free(so.limit);
    return rc;
}
