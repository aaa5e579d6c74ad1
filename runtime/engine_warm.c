/* warm: fills the disk cache with what the plan keeps there, before anybody asks for it. */
#include "base/alloc.h"
#include "base/clock.h"
#include "runtime/engine.h"
#include "runtime/whole_files.h"

static const char *const ORIGIN = "warm";

struct warm_list {
    uint32_t *extents;
    uint32_t n;
    uint64_t bytes_wanted, bytes_present;
};

static bool in_layers(const struct ps_tensor *t, const struct ps_warm_options *o)
{
    return (o->layer_first < 0 && o->layer_last < 0) ||
           (t->layer >= o->layer_first && t->layer <= o->layer_last);
}

static void consider(struct warm_list *list, const struct ps_engine *e,
                     const struct ps_warm_options *o, uint32_t x)
{
    const struct ps_map *m = e->files.map;
    if (!(e->tier[x] & PS_TIER_DISK) || !in_layers(&m->tensors[m->extents[x].tensor], o))
        return;
    list->bytes_wanted += m->extents[x].stored_bytes;
    if (ps_sweep_is_held(e->sweep, x))
        list->bytes_present += m->extents[x].stored_bytes;
    else
        list->extents[list->n++] = x;
}

/* In order of use, gathered rows last: an interrupted warm leaves what a run needs first. */
static int make_list(struct warm_list *list, const struct ps_engine *e,
                     const struct ps_warm_options *o, struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    list->extents = ps_malloc(sizeof *list->extents * ((size_t)m->n_extents + 1));
    if (!list->extents)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %u extents", m->n_extents);
    for (uint32_t i = 0; i < e->n_order; i++)
        consider(list, e, o, e->order[i]);
    const struct ps_tensor *t = &m->tensors[e->weights->embed];
    for (uint32_t i = 0; e->weights->embed != e->weights->head && i < t->n_extents; i++)
        consider(list, e, o, t->first_extent + i);
    return 0;
}

static void on_fetch(void *user, uint64_t done, uint64_t total)
{
    struct ps_engine *e = user;
    if (e->o.progress)
        e->o.progress(e->o.progress_user, "warm", done, total);
}

static void on_verify(void *user, uint64_t done, uint64_t total)
{
    struct ps_engine *e = user;
    if (e->o.progress)
        e->o.progress(e->o.progress_user, "verify", done, total);
}

/* Weights must not go to the RAM arena on their way to the disk, and none to a device. */
static int open_disk_only_sweep(struct ps_engine *e, struct ps_err *err)
{
    ps_engine_stop_sweep(e);
    for (uint32_t i = 0; i < e->files.map->n_extents; i++)
        e->tier[i] &= (uint8_t) ~(PS_TIER_RAM | PS_TIER_VRAM);
    e->planned = false;                     /* a session plans anew */
    int rc = ps_cache_flush(e->cache, err); /* what is written already is then found */
    return rc < 0 ? rc : ps_engine_start_fetching(e, err);
}

/* Fetches what is missing; *list is made anew. */
static int fetch_missing(struct ps_engine *e, const struct ps_warm_options *o,
                         struct warm_list *list, struct ps_err *err)
{
    ps_free(list->extents);
    *list = (struct warm_list){0};
    int rc = open_disk_only_sweep(e, err);
    if (rc == 0)
        rc = make_list(list, e, o, err);
    if (rc == 0 && !o->dry_run)
        rc = ps_sweep_fetch(e->sweep, list->extents, list->n, on_fetch, e, err);
    if (rc == 0 && !o->dry_run)
        rc = ps_cache_flush(e->cache, err);
    return rc;
}

/* Whole files against the hashes that the hub names, where it names any. Which bytes of a wrong file are wrong
 * nobody can tell: all of the model is dropped and fetched once more, then it is believed. */
static int check_files(struct ps_engine *e, const struct ps_warm_options *o, struct warm_list *list,
                       struct ps_whole_files *w, struct ps_err *err)
{
    uint64_t freed;
    *w = (struct ps_whole_files){.map = e->files.map,
                                 .source = e->source,
                                 .cache = e->cache,
                                 .interrupt = &e->interrupt,
                                 .progress = on_verify,
                                 .user = e};
    int rc = ps_whole_files_check(w, err);
    if (rc != 0 || w->bad == 0)
        return rc;
    ps_engine_stop_sweep(e);
    rc = ps_cache_evict(e->cache, e->files.map->model_id, &freed, err);
    if (rc == 0)
        rc = fetch_missing(e, o, list, err);
    if (rc == 0)
        rc = ps_whole_files_check(w, err);
    if (rc == 0 && w->bad)
        rc = ps_err_set(
            err, PS_EDATA,
            ORIGIN, "wrong bytes (SHA-256 differs, also after a refetch): %s: %s: compare it with its origin",
            w->first_bad, e->source->label);
    return rc;
}

/* The hashes of a pre-split model are those of its extents, checked on arrival; a part of the layers is no whole
 * file. */
static bool has_files_to_check(const struct ps_engine *e, const struct ps_warm_options *o)
{
    return o->check && !o->dry_run && !e->files.map->presplit && o->layer_first < 0 &&
           o->layer_last < 0;
}

static int warm(struct ps_engine *e, const struct ps_warm_options *o, struct warm_list *list,
                uint64_t *bad, struct ps_whole_files *w, struct ps_err *err)
{
    uint64_t checked = 0;
    int rc = 0;
    if (!e->cache)
        return ps_err_set(
            err, PS_EUSAGE, ORIGIN,
            e->source->local
                ? "the model is a local folder, which needs no cache: %s"
                : "there is no disk cache to fill: %s: use --disk and a writable --cache",
            e->source->label);
    if (o->check)
        rc = ps_cache_verify(e->cache, true, true, on_verify, e, &checked, bad, err);
    if (rc == 0)
        rc = fetch_missing(e, o, list, err);
    if (rc == 0 && has_files_to_check(e, o))
        rc = check_files(e, o, list, w, err);
    return rc;
}

int ps_engine_warm(char **json, struct ps_engine *e, const struct ps_warm_options *options,
                   struct ps_error *error)
{
    struct ps_err err = {0};
    struct ps_warm_options o = {.layer_first = -1, .layer_last = -1};
    struct warm_list list = {0};
    struct ps_whole_files files = {0};
    struct ps_strbuf b;
    struct ps_json_writer w;
    uint64_t bad = 0, t0 = ps_now_ns(), missing = 0, fetched = 0;
    if (options && options->struct_size == sizeof o)
        o = *options;
    int rc = warm(e, &o, &list, &bad, &files, &err);
    for (uint32_t i = 0; rc == 0 && i < list.n; i++) {
        bool held = ps_sweep_is_held(e->sweep, list.extents[i]);
        *(held ? &fetched : &missing) += e->files.map->extents[list.extents[i]].stored_bytes;
    }
    ps_strbuf_init(&b, 1u << 20);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kuint(&w, "bytes_wanted", list.bytes_wanted);
    ps_jw_kuint(&w, "bytes_present", list.bytes_present);
    ps_jw_kuint(&w, "bytes_fetched", fetched);
    ps_jw_kuint(&w, "bytes_missing", missing);
    ps_jw_kuint(&w, "extents", list.n);
    ps_jw_kuint(&w, "bad_extents_dropped", bad);
    ps_jw_kuint(&w, "files_checked", files.checked);
    ps_jw_kdouble(&w, "seconds", ps_seconds_since(t0));
    ps_jw_kbool(&w, "complete", missing == 0);
    ps_jw_object_end(&w);
    ps_free(list.extents);
    if (rc == 0 && !o.dry_run && missing)
        rc = ps_err_set(
            &err, PS_ENOSPC, ORIGIN,
            "the disk took only a part: %llu bytes are missing: make room or use a smaller --disk",
            (unsigned long long)missing);
    if (rc == 0)
        *json = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return ps_engine_error(error, rc, &err);
}
