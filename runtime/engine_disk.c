/* The disk cache of one engine. In: what --disk says, what the file system and the folder hold; out: a budget, and
 * a cache that is looked at until a plan is made that fits, and opened then. Opening shrinks a folder to its
 * budget, so a run that is refused must not have come so far. */
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/host.h"
#include "base/log.h"
#include "base/minmax.h"
#include "runtime/cache_dir.h"
#include "runtime/disk_budget.h"
#include "runtime/engine.h"

static const char *const ORIGIN = "engine";
#define MIB (1ull << 20)
#define GIB (1ull << 30)

static bool dir_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int disk_state(struct ps_disk_state *d, const char *cache_dir, struct ps_err *err)
{
    uint64_t total;
    memset(d, 0, sizeof *d);
    ps_cache_peek(cache_dir, &d->held_bytes, &d->last_bytes);
    return ps_host_disk_free(cache_dir, &d->free_bytes, &total, err);
}

static uint64_t budget_for_all(const struct ps_engine *e)
{
    const struct ps_map *m = e->files.map;
    return ps_cache_budget_for(m->stored_bytes + ps_kept_room(m->stored_bytes), m->n_extents);
}

bool ps_engine_has_room_for_all(const struct ps_engine *e)
{
    return e->cache && e->disk_room_bytes >= budget_for_all(e);
}

static int disk_budget(const struct ps_engine *e, const struct ps_disk_state *d, uint64_t *out,
                       struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    switch (e->disk.kind) {
    case PS_SIZE_BYTES:
        *out = ps_min_u64(e->disk.bytes, INT64_MAX); /* the largest number means no limit at all */
        return 0;
    case PS_SIZE_PERCENT: {
        double share = e->disk.percent / 100;
        *out = e->disk.percent <= 0
                   ? 0
                   : ps_cache_budget_for((uint64_t)(share * (double)m->stored_bytes) +
                                             (share >= 1 ? ps_kept_room(m->stored_bytes) : 0),
                                         (uint64_t)(share * (double)m->n_extents) + 1);
        return 0;
    }
    case PS_SIZE_ALL: *out = budget_for_all(e); return 0;
    case PS_SIZE_MIN:
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "--disk: \"min\" is not a size: use 0, 20G or 25%%");
    case PS_SIZE_DEFAULT: break;
    }
    *out = ps_disk_default(d);
    return 0;
}

/* Tells the cache what this model is, and how large each of its layers. */
static int open_cache_model(struct ps_engine *e, struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    const uint32_t n_layers = e->arch->n_layers;
    uint64_t *part_bytes = ps_calloc((size_t)n_layers + 1, sizeof *part_bytes);
    if (!part_bytes)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (uint32_t i = 0; i < m->n_extents; i++) {
        const int32_t layer = m->tensors[m->extents[i].tensor].layer;
        part_bytes[layer >= 0 && (uint32_t)layer < n_layers ? layer + 1 : 0] +=
            m->extents[i].stored_bytes;
    }
    const struct ps_cache_model_options o = {.id = m->model_id,
                                             .source_label = e->source->label,
                                             .n_layers = n_layers,
                                             .part_bytes = part_bytes,
                                             .has_priority = e->o.has_priority,
                                             .priority = e->o.priority};
    const int rc = ps_cache_model_open_as(e->cache, &o, &e->cache_model, err);
    ps_free(part_bytes);
    return rc;
}

static uint64_t min_free_bytes(const struct ps_engine *e)
{
    return e->min_free.kind == PS_SIZE_BYTES ? e->min_free.bytes : GIB;
}

/* A cache that can't be used is no reason not to run: the model streams. A budget that the user gave and that
 * can't work is one. */
static int open_for_writing(struct ps_engine *e, struct ps_err *err)
{
    struct ps_cache_options co = {
        .budget_bytes = e->disk_budget_bytes,
        .min_free_bytes = min_free_bytes(e),
        .stats = &e->stats,
    };
    struct ps_err ce = {0};
    int rc = ps_cache_open(&e->cache, e->cache_dir, &co, NULL, &ce);
    if (rc == 0) {
        rc = ps_cache_model_open(e->cache, e->files.map->model_id, e->source->label,
                                 e->arch->n_layers, &e->cache_model, &ce);
        if (rc < 0) {
            ps_cache_close(e->cache);
            e->cache = NULL;
        }
    }
    if (rc == PS_EIO || rc == PS_ENOSPC || rc == PS_EDATA || rc == PS_EINUSE ||
        rc == PS_ENOTFOUND || (rc == PS_EBUDGET && e->disk.kind == PS_SIZE_DEFAULT)) {
        ps_log(PS_LOG_WARN, "cache", "going on without a disk cache: %s", ce.text);
        e->cache_err = ce;
        if (rc == PS_ENOTFOUND) /* the folder went away; as a status it would say that of the model */
            e->cache_err.code = PS_EIO;
        return 0;
    }
    if (rc < 0) {
        if (err)
            *err = ce;
        return rc;
    }
    return open_cache_model(e, err);
}

int ps_engine_open_cache(struct ps_engine *e, struct ps_err *err)
{
    if (e->tokenizer_started) /* which may be reading from what is looked at */
        (void)ps_engine_need_tokenizer(e, NULL);
    e->cache_opened = true;
    if (!e->cache_dir || (e->disk_budget_bytes == 0 && e->disk.kind == PS_SIZE_DEFAULT))
        return 0; /* nothing is free, and nothing is there */
    /* --disk 0 makes no index; a folder from an earlier run is opened all the same, because it has to shrink */
    if (e->disk_budget_bytes == 0)
        return dir_exists(e->cache_dir) ? ps_cache_clear(e->cache_dir, err) : 0;
    return open_for_writing(e, err);
}

int ps_engine_look_at_cache(struct ps_cache **out, uint32_t *model, struct ps_engine *e,
                            struct ps_err *err)
{
    const struct ps_cache_options co = {.read_only = true, .must_exist = true, .stats = &e->stats};
    struct ps_err ce = {0};
    if (!e->cache_dir || e->source->local || e->disk_budget_bytes == 0)
        return 0;
    int rc = ps_cache_open(out, e->cache_dir, &co, NULL, &ce);
    if (rc == 0)
        return ps_cache_model_open(*out, e->files.map->model_id, e->source->label,
                                   e->arch->n_layers, model, err);
    if (rc == PS_ENOTFOUND || rc == PS_EIO || rc == PS_EINUSE ||
        rc == PS_EDATA) { /* none yet, or one that a run makes anew or goes without */
        ps_log(PS_LOG_INFO, "cache", "nothing is known of a cache: %s", ce.text);
        return 0;
    }
    if (err && ce.code)
        *err = ce;
    return rc;
}

/* Who asks what would be, with more than there is, hears it; in a run the cache says so once it is full. */
static void tell_room(const struct ps_engine *e)
{
    const bool asks = e->o.look_only && e->disk.kind != PS_SIZE_DEFAULT;
    const enum ps_log_level level = asks ? PS_LOG_WARN : PS_LOG_DEBUG;
    if (e->disk_room_bytes < e->disk_budget_bytes)
        ps_log(level, "cache",
               "%s: its file system has room for %llu MiB of the %llu MiB that --disk allows, "
               "beside the %llu MiB of --min-free",
               e->cache_dir, (unsigned long long)(e->disk_room_bytes / MIB),
               (unsigned long long)(e->disk_budget_bytes / MIB),
               (unsigned long long)(min_free_bytes(e) / MIB));
}

/* A --disk that holds no index is refused; where nobody gave one, there is no cache. */
static int check_least(struct ps_engine *e, struct ps_err *err)
{
    struct ps_err ce = {0};
    int rc = e->disk_budget_bytes ? ps_cache_check_budget(e->disk_budget_bytes, NULL, &ce) : 0;
    if (rc < 0 && e->disk.kind == PS_SIZE_DEFAULT) {
        ps_log(e->o.look_only ? PS_LOG_INFO : PS_LOG_WARN, "cache",
               "going on without a disk cache: %s", ce.text);
        e->cache_err = ce;
        e->disk_budget_bytes = e->disk_room_bytes = 0;
        return 0;
    }
    if (rc < 0 && err)
        *err = ce;
    return rc;
}

int ps_engine_budgets(struct ps_engine *e, struct ps_err *err)
{
    int rc;
    if ((rc = ps_size_parse(&e->disk, e->o.disk, "--disk", err)) < 0 ||
        (rc = ps_size_parse(&e->ram, e->o.ram, "--ram", err)) < 0 ||
        (rc = ps_size_parse(&e->min_free, e->o.min_free, "--min-free", err)) < 0)
        return rc;
    e->cache_opened = e->source->local || e->o.look_only; /* there is nothing to open */
    if (e->source->local)
        return 0;
    if (!e->cache_dir)
        return ps_size_is_nothing(&e->disk) ? 0
                                            : ps_cache_dir_find(&e->cache_dir, e->o.cache_dir, err);
    struct ps_disk_state d;
    if ((rc = disk_state(&d, e->cache_dir, err)) < 0 ||
        (rc = disk_budget(e, &d, &e->disk_budget_bytes, err)) < 0)
        return rc;
    e->disk_room_bytes = ps_disk_room(e->disk_budget_bytes, &d, min_free_bytes(e));
    tell_room(e);
    return check_least(e, err);
}

int ps_engine_priority(const struct ps_engine *e)
{
    if (e->o.has_priority)
        return e->o.priority;
    return e->cache ? ps_cache_priority(e->cache, e->cache_model) : 0;
}

uint64_t ps_engine_disk_room(const struct ps_engine *e)
{
    const uint32_t n = e->files.map->n_extents;
    const uint64_t missing = e->disk_budget_bytes - e->disk_room_bytes;
    const bool looks = e->o.look_only || !e->cache_opened;
    uint64_t usable = 0;
    if (looks && !e->source->local && e->disk_budget_bytes > 0)
        usable = ps_cache_usable_for(e->cache, e->cache_model, ps_engine_priority(e),
                                     e->disk_budget_bytes, n);
    else if (e->cache)
        usable = ps_cache_usable_bytes(e->cache, n);
    return usable > missing ? usable - missing : 0;
}

int ps_engine_why_no_disk(const struct ps_engine *e, struct ps_err *err)
{
    char room[24], floor[24], disk[24];
    if (e->cache_err.code)
        return ps_err_set(err, e->cache_err.code, ORIGIN, "there is no disk cache to fill: %s",
                          e->cache_err.text);
    if (e->disk_room_bytes < e->disk_budget_bytes)
        return ps_err_set(err, PS_ENOSPC, ORIGIN,
                          "%s: nothing of the model can be kept: its file system has room for %s "
                          "beside the %s of --min-free: make room, or lower --min-free",
                          e->cache_dir, ps_size_format(room, sizeof room, e->disk_room_bytes),
                          ps_size_format(floor, sizeof floor, min_free_bytes(e)));
    return ps_err_set(err, PS_EBUDGET, ORIGIN,
                      "%s: nothing of the model can be kept: --disk (now %s) has no room for one "
                      "extent beside the index and what is pinned: give more",
                      e->cache_dir, ps_size_format(disk, sizeof disk, e->disk_budget_bytes));
}
