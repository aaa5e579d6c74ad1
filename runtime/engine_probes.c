/* Rates of this machine's links, measured and remembered: what the plan predicts with. Every run leaves what it
 * saw; doctor measures on purpose. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/json.h"
#include "base/log.h"
#include "cache/owner.h"
#include "fetcher/rate_limit.h"
#include "kernels/read_probe.h"
#include "runtime/bench.h"
#include "runtime/device_probe.h"
#include "runtime/engine.h"

static const char *const ORIGIN = "probe";
static const char FILE_NAME[] = "probes.json";
#define LEARN_MIN_BYTES      (16ull << 20) /* less than this says more about latency than about a rate */
#define LEARN_MIN_S          0.05
#define LIMIT_BINDS          0.8 /* of --net-limit: who comes so near is held back by it */
#define DISK_PROBE_BYTES     (64ull << 20)
#define DISK_PROBE_MIN_BYTES (8ull << 20)

static char *probe_path(const char *dir, const char *suffix)
{
    struct ps_strbuf b;
    if (!dir) /* there is no cache folder */
        return NULL;
    ps_strbuf_init(&b, 8192);
    ps_strbuf_printf(&b, "%s/%s%s", dir, FILE_NAME, suffix);
    char *p = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return p;
}

void ps_probes_load(struct ps_probes *p, const char *dir)
{
    struct ps_probes v = {0};
    struct ps_json *root = NULL;
    char *text = NULL, *path = probe_path(dir, "");
    size_t len;
    int64_t wall = 0;
    /* Figures are advice: a file that can't be read or believed is as good as none. */
    if (path && ps_file_read(&text, &len, path, 65536, NULL) == 0 &&
        ps_json_parse(&root, text, len, NULL, NULL) == 0 &&
        ps_json_get_double(root, "link_bytes_s", 0, &v.link_bytes_s, NULL) == 0 &&
        ps_json_get_double(root, "disk_read_bytes_s", 0, &v.disk_bytes_s, NULL) == 0 &&
        ps_json_get_double(root, "ram_bytes_s", 0, &v.ram_bytes_s, NULL) == 0 &&
        ps_json_get_double(root, "bus_bytes_s", 0, &v.bus_bytes_s, NULL) == 0 &&
        ps_json_get_double(root, "vram_bytes_s", 0, &v.vram_bytes_s, NULL) == 0 &&
        ps_json_get_int(root, "measured_at", 0, &wall, NULL) == 0 && wall >= 0) {
        v.wall_s = (uint64_t)wall;
        *p = v;
    }
    ps_json_free(root);
    ps_free(text);
    ps_free(path);
}

/* What was never measured is 0 in the file, and null for who reads it. */
static void write_rate(struct ps_json_writer *w, const char *key, double bytes_s, bool told)
{
    ps_jw_key(w, key);
    if (told && bytes_s <= 0)
        ps_jw_null(w);
    else
        ps_jw_double(w, bytes_s);
}

static void write_probes(struct ps_json_writer *w, const struct ps_probes *p, bool told)
{
    ps_jw_object(w);
    write_rate(w, "link_bytes_s", p->link_bytes_s, told);
    write_rate(w, "disk_read_bytes_s", p->disk_bytes_s, told);
    write_rate(w, "ram_bytes_s", p->ram_bytes_s, told);
    write_rate(w, "bus_bytes_s", p->bus_bytes_s, told);
    write_rate(w, "vram_bytes_s", p->vram_bytes_s, told);
    ps_jw_kuint(w, "measured_at", p->wall_s);
    ps_jw_object_end(w);
}

bool ps_probes_save(const struct ps_probes *p, const char *dir)
{
    struct ps_strbuf b;
    bool ok = false;
    struct ps_json_writer w;
    ps_strbuf_init(&b, 4096);
    ps_jw_init(&w, &b);
    write_probes(&w, p, false);
    char *tmp = probe_path(dir, ".tmp"), *path = probe_path(dir, "");
    int fd = tmp && path && ps_strbuf_ok(&b)
                 ? open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)
                 : -1;
    if (fd >= 0) {
        const int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir_fd >= 0) {
            ps_owner_share_file(dir_fd, fd); /* who shares the cache shares its figures */
            close(dir_fd);
        }
        ok = write(fd, b.data, b.len) == (ssize_t)b.len;
        close(fd);
        ok = ok && rename(tmp, path) == 0;
        if (!ok)
            unlink(tmp);
    }
    ps_free(tmp);
    ps_free(path);
    ps_strbuf_deinit(&b);
    return ok;
}

/* ---- the link, which --net-limit may hold back ---- */

static double limit_bytes_s(const struct ps_engine *e)
{
    return (double)ps_rate_limit_bytes_per_s(e->net_limit);
}

/* No more than was allowed: what the sockets held already, and the limit's credit of a twentieth of a second, come at
 * the link's own speed and would make a short transfer look faster. */
static double link_seen(const struct ps_engine *e, uint64_t bytes, uint64_t busy_ns)
{
    const double limit = limit_bytes_s(e);
    const double seen = busy_ns ? (double)bytes * 1e9 / (double)busy_ns : 0;
    return limit > 0 && seen > limit ? limit : seen;
}

double ps_engine_link_seen(const struct ps_engine *e)
{
    return link_seen(e, ps_stat_get(&e->stats.bytes_net), ps_stat_get(&e->stats.link_busy_ns));
}

double ps_engine_probe_age_s(const struct ps_engine *e)
{
    const uint64_t now_s = ps_wall_s();
    return e->probes.wall_s && now_s > e->probes.wall_s ? (double)(now_s - e->probes.wall_s) : 0;
}

double ps_engine_link_rate(const struct ps_engine *e)
{
    const double limit = limit_bytes_s(e), link = e->probes.link_bytes_s;
    return limit > 0 && (link <= 0 || link > limit) ? limit : link;
}

/* What is remembered of the link: where the limit was what bound, a higher rate of before says more. */
static double link_to_keep(const struct ps_engine *e, double seen, double before)
{
    const bool limit_bound = limit_bytes_s(e) > 0 && seen >= LIMIT_BINDS * limit_bytes_s(e);
    return limit_bound && before > seen ? before : seen;
}

/* Rate at which the CPU's arithmetic took the weights while it did not wait for them: decode alone, because a prompt's
 * rows share one pass. */
static double seen_ram_rate(const struct ps_engine *e)
{
    if (e->gpu.api)
        return 0;
    double decode_s =
        e->run.decode_s - (double)(ps_stat_get(&e->stats.stall_ns) - e->run.stall_ns_at_first) / 1e9;
    return e->run.tokens_generated > 4 && decode_s > LEARN_MIN_S
               ? (double)e->plan.host_bytes_per_sweep * (double)(e->run.tokens_generated - 1) / decode_s
               : 0;
}

void ps_engine_learn_rates(struct ps_engine *e)
{
    if (!e->source || !e->cache || ps_cache_is_read_only(e->cache))
        return;
    uint64_t net = ps_stat_get(&e->stats.bytes_net);
    double busy_s = (double)ps_stat_get(&e->stats.link_busy_ns) / 1e9, ram = seen_ram_rate(e);
    bool enough = !e->source->local && net >= LEARN_MIN_BYTES && busy_s >= LEARN_MIN_S;
    if (!enough && ram <= 0)
        return;
    e->learned =
        e->probes; /* link_use_pct compares with the rate known before the run, so that one stays */
    if (enough)
        e->learned.link_bytes_s = link_to_keep(e, ps_engine_link_seen(e), e->probes.link_bytes_s);
    e->learned.ram_bytes_s = ram > 0 ? ram : e->learned.ram_bytes_s;
    e->learned.wall_s = ps_wall_s();
    ps_probes_save(&e->learned, e->cache_dir);
}

/* ---- on purpose: doctor, plan --probe ---- */

static void probe_progress(void *user, uint64_t done, uint64_t total)
{
    struct ps_engine *e = user;
    if (e->o.progress)
        e->o.progress(e->o.progress_user, "fetch", done, total);
}

/* The first extents of the model until the time is up, through the scheduler's own path but past the cache. */
static int probe_link(struct ps_engine *e, double seconds, struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    uint64_t net0 = ps_stat_get(&e->stats.bytes_net), busy0 = ps_stat_get(&e->stats.link_busy_ns),
             t0 = ps_now_ns();
    uint32_t at = 0, batch = 16;
    uint64_t done = 0;
    uint8_t *none = ps_calloc((size_t)m->n_extents + 1, 1);
    struct ps_sweep *s = NULL;
    struct ps_sweep_options so = {.map = m,
                                  .source = e->source,
                                  .order = e->order,
                                  .n_order = e->n_order,
                                  .tier = none,
                                  .ring_slots = 16,
                                  .gather_tensor = e->weights->embed,
                                  .gather_slots = 1,
                                  .stats = &e->stats,
                                  .interrupt = &e->interrupt};
    int rc = none ? ps_sweep_open(&s, &so, err) : PS_ENOMEM;
    while (rc == 0 && at < e->n_order && ps_seconds_since(t0) < seconds) {
        uint32_t n = e->n_order - at < batch ? e->n_order - at : batch;
        rc = ps_sweep_fetch(s, e->order + at, n, NULL, NULL, err);
        for (uint32_t i = 0; i < n; i++)
            done += m->extents[e->order[at + i]].stored_bytes;
        at += n;
        probe_progress(e, done, m->stored_bytes);
    }
    ps_sweep_close(s);
    ps_free(none);
    const uint64_t busy_ns = ps_stat_get(&e->stats.link_busy_ns) - busy0;
    if (rc == 0 && busy_ns > 0)
        e->probes.link_bytes_s = link_seen(e, ps_stat_get(&e->stats.bytes_net) - net0, busy_ns);
    return rc;
}

static int probe_memory(struct ps_engine *e, struct ps_err *err)
{
    double gb_s = 0;
    int rc = ps_read_bandwidth(&gb_s, ps_pool_threads(e->pool), &e->interrupt, err);
    if (rc == 0)
        e->probes.ram_bytes_s = gb_s * 1e9;
    return rc == PS_EINTERRUPTED ? rc : 0; /* without memory to spare the old figure stays */
}

/* The test file counts inside --disk like everything else: a folder that is nearly full keeps its old figure. */
static uint64_t disk_room(const struct ps_engine *e)
{
    const uint64_t taken = e->cache ? ps_cache_allocated_bytes(e->cache) : 0;
    const uint64_t room = e->disk_budget_bytes > taken ? (e->disk_budget_bytes - taken) / 2 : 0;
    return room < DISK_PROBE_BYTES ? room : DISK_PROBE_BYTES;
}

static int probe_disk(struct ps_engine *e, struct ps_err *err)
{
    struct ps_bench_disk d = {0};
    const uint64_t bytes = disk_room(e);
    if (bytes < DISK_PROBE_MIN_BYTES) {
        ps_log(PS_LOG_WARN, ORIGIN,
               "the disk was not measured: --disk leaves no room for a test file");
        return 0;
    }
    struct ps_err de = {0};
    int rc = ps_bench_disk(&d, e->cache_dir, bytes, false, &e->interrupt, &de);
    if (rc == 0)
        e->probes.disk_bytes_s = d.read_bytes_s;
    if (rc == PS_EIO ||
        rc == PS_ENOSPC) { /* an image, another user's folder: there is still something to say */
        ps_log(PS_LOG_WARN, ORIGIN, "the disk was not measured: %s", de.text);
        return 0;
    }
    if (rc < 0 && err)
        *err = de;
    return rc;
}

static bool has_disk(const struct ps_engine *e)
{
    return !e->source->local && e->disk_budget_bytes > 0;
}

/* Where a later plan finds them, of whatever model: the folder is made as a run would make it, and one that is not
 * ours is let be. */
static int save(const struct ps_engine *e, const struct ps_probes *p, struct ps_err *err)
{
    int rc = ps_mkdir_p(e->cache_dir, 0700, err);
    if (rc < 0)
        return rc;
    const int dir_fd = open(e->cache_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd >= 0) {
        rc = ps_owner_check(dir_fd, e->cache_dir, false, false, err);
        close(dir_fd);
    }
    if (rc < 0 || (dir_fd >= 0 && ps_probes_save(p, e->cache_dir)))
        return rc;
    return ps_err_set(err, PS_EIO, ORIGIN, "%s: can't be written", e->cache_dir);
}

static void save_measured(const struct ps_engine *e, double link_before)
{
    struct ps_probes kept = e->probes;
    struct ps_err err = {0};
    kept.link_bytes_s = link_to_keep(e, kept.link_bytes_s, link_before);
    if (e->cache_dir && !ps_size_is_nothing(&e->disk) && save(e, &kept, &err) < 0)
        ps_log(PS_LOG_WARN, ORIGIN, "the figures are not saved for later plans: %s", err.text);
}

int ps_engine_probe_json(char **out, struct ps_engine *e, double seconds, struct ps_error *error)
{
    struct ps_err err = {0};
    struct ps_strbuf b;
    struct ps_json_writer w;
    const double link_before = e->probes.link_bytes_s;
    int rc = 0;
    ps_engine_stop_sweep(e); /* it borrows the plan that is made anew below; a session starts the next */
    if (!e->source->local)
        rc = probe_link(e, seconds > 0 ? seconds : 2, &err);
    if (rc == 0 && has_disk(e))
        rc = probe_disk(e, &err);
    if (rc == 0)
        rc = probe_memory(e, &err);
    struct ps_device_place gpu = ps_engine_place(e);
    if (rc == 0 && gpu.api)
        rc = ps_device_probe(&e->probes.bus_bytes_s, &e->probes.vram_bytes_s, gpu.api, gpu.device,
                             gpu.mark, e->vram_budget_bytes, &err);
    e->probes.wall_s = ps_wall_s();
    if (rc == 0)
        save_measured(e, link_before);
    if (rc == 0)
        rc = ps_engine_replan(e, &err);
    if (rc < 0)
        return ps_engine_error(error, rc, &err);
    ps_strbuf_init(&b, 1u << 20);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_key(&w, "probes");
    write_probes(&w, &e->probes, true);
    ps_jw_key(&w, "plan");
    ps_engine_write_plan(e, &w);
    ps_jw_kstring(&w, "binds", e->plan.binds);
    ps_jw_kstring(&w, "backend", e->backend->name);
    ps_jw_kuint(&w, "threads", ps_pool_threads(e->pool));
    ps_jw_kuint(&w, "free_memory_bytes", ps_host_free_memory_bytes());
    ps_jw_object_end(&w);
    *out = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return *out ? 0
                : ps_engine_error(error, ps_err_set(&err, PS_ENOMEM, ORIGIN, "out of memory"), &err);
}
