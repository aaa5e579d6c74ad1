/* warm: fills the disk cache with what the plan keeps there, before anybody asks for it. */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "runtime/engine.h"
#include "runtime/warm_plan.h"
#include "runtime/whole_files.h"

static const char *const ORIGIN = "warm";

struct warming {
    struct ps_engine *e;
    struct ps_warm_options o;
    uint64_t max_bytes;
    struct ps_warm_list list;
    struct ps_whole_files files;
    uint64_t stored; /* bytes of the list that are held in the end */
    uint64_t lost;   /* bytes that were held in the beginning, and no longer are */
    uint64_t bad, t0;
    uint32_t files_kept;
    uint64_t file_requests, file_bytes; /* foreseen */
};

static bool is_held(const void *engine, uint32_t extent)
{
    const struct ps_engine *e = engine;
    return ps_sweep_is_held(e->sweep, extent);
}

/* The planner's own list has the order of use first, then the extents that are only gathered (engine_plan.c). */
static uint32_t extent_of(const struct ps_engine *e, uint32_t planned)
{
    const struct ps_tensor *embed = &e->files.map->tensors[e->weights->embed];
    return planned < e->n_order ? e->order[planned] : embed->first_extent + (planned - e->n_order);
}

static int make_list(struct warming *w, struct ps_err *err)
{
    const struct ps_engine *e = w->e;
    uint32_t *ranked = ps_malloc(sizeof *ranked * ((size_t)e->plan.n_disk + 1));
    if (!ranked)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %u extents", e->plan.n_disk);
    for (uint32_t i = 0; i < e->plan.n_disk; i++)
        ranked[i] = extent_of(e, e->plan.disk_order[i]);
    const struct ps_warm_input in = {.map = e->files.map,
                                     .ranked = ranked,
                                     .n_ranked = e->plan.n_disk,
                                     .order = e->order,
                                     .n_order = e->n_order,
                                     .layer_first = w->o.layer_first,
                                     .layer_last = w->o.layer_last,
                                     .max_bytes = w->max_bytes,
                                     .is_held = is_held,
                                     .user = e};
    int rc = ps_warm_choose(&w->list, &in, err);
    ps_free(ranked);
    return rc;
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
    e->planned = false;                                    /* a session plans anew */
    int rc = e->cache ? ps_cache_flush(e->cache, err) : 0; /* what is written already is then found */
    return rc < 0 ? rc : ps_engine_start_fetching(e, err);
}

/* Less than one extent can't be stored, and the next call would be no further: who warms must not hear that nothing is
 * all that he wanted. */
static int check_progress(const struct warming *w, struct ps_err *err)
{
    char size[24];
    if (w->list.bytes_wanted == 0 && w->e->plan.n_disk > 0)
        return ps_err_set(err, PS_EBUDGET, ORIGIN,
                          "--layers: %d-%d: nothing of these has a place on the disk: give --disk "
                          "more (now %s)",
                          w->o.layer_first, w->o.layer_last,
                          ps_size_format(size, sizeof size, w->e->disk_budget_bytes));
    if (w->list.bytes_wanted == 0)
        return ps_engine_why_no_disk(w->e, err);
    if (w->list.n > 0 || w->list.bytes_present == w->list.bytes_wanted)
        return 0;
    return ps_err_set(err, PS_EUSAGE, ORIGIN,
                      "--bytes: %s: less than one extent of this model (up to %u bytes): give more",
                      ps_size_format(size, sizeof size, w->max_bytes),
                      w->e->files.map->max_stored_bytes);
}

/* Fetches what is missing; the list is made anew. */
static int fetch_missing(struct warming *w, struct ps_err *err)
{
    struct ps_engine *e = w->e;
    int rc = open_disk_only_sweep(e, err);
    if (rc == 0)
        rc = make_list(w, err);
    if (rc == 0)
        rc = check_progress(w, err);
    if (rc < 0 || w->o.dry_run)
        return rc;
    rc = ps_sweep_fetch(e->sweep, w->list.extents, w->list.n, on_fetch, e, err);
    return rc < 0 ? rc : ps_cache_flush(e->cache, err);
}

/* Whole files against the hashes that the hub names, where it names any. Which bytes of a wrong file are wrong
 * nobody can tell: all of the model is dropped and fetched once more, then it is believed. */
static int check_files(struct warming *w, struct ps_err *err)
{
    struct ps_engine *e = w->e;
    struct ps_whole_files *f = &w->files;
    uint64_t freed;
    *f = (struct ps_whole_files){.map = e->files.map,
                                 .source = e->source,
                                 .cache = e->cache,
                                 .interrupt = &e->interrupt,
                                 .progress = on_verify,
                                 .user = e};
    int rc = ps_whole_files_check(f, err);
    if (rc != 0 || f->bad == 0)
        return rc;
    ps_engine_stop_sweep(e);
    rc = ps_cache_evict(e->cache, e->files.map->model_id, &freed, err);
    if (rc == 0)
        rc = fetch_missing(w, err);
    if (rc == 0)
        rc = ps_whole_files_check(f, err);
    if (rc == 0 && f->bad)
        rc = ps_err_set(
            err, PS_EDATA,
            ORIGIN, "wrong bytes (SHA-256 differs, also after a refetch): %s: %s: compare it with its origin",
            f->first_bad, e->source->label);
    return rc;
}

/* The hashes of a pre-split model are those of its extents, checked on arrival; a part of a model is no whole file. */
static bool has_files_to_check(const struct warming *w)
{
    return w->o.check && !w->o.dry_run && !w->e->files.map->presplit && w->o.layer_first < 0 &&
           w->o.layer_last < 0 && w->max_bytes == UINT64_MAX;
}

/* The caller's struct may be older (shorter) than ours: what it lacks is zero. */
static int take_options(struct warming *w, const struct ps_warm_options *options, struct ps_err *err)
{
    const struct ps_map *m = w->e->files.map;
    const uint32_t layers = w->e->arch->n_layers;
    struct ps_size size;
    if (options && options->struct_size > sizeof w->o)
        return ps_err_set(
            err, PS_EUSAGE,
            ORIGIN, "ps_warm_options.struct_size is wrong: was this program built for a newer libpenstock?");
    if (options)
        memcpy(&w->o, options, options->struct_size);
    int rc = ps_size_parse(&size, w->o.bytes, "--bytes", err);
    if (rc < 0)
        return rc;
    w->max_bytes = size.kind == PS_SIZE_BYTES ? size.bytes
                   : size.kind == PS_SIZE_PERCENT
                       ? (uint64_t)(size.percent / 100 * (double)m->stored_bytes)
                       : UINT64_MAX;
    if (w->o.layer_first >= 0 && (uint32_t)w->o.layer_last >= layers)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "--layers: %d-%d: the model has the layers 0-%u",
                          w->o.layer_first, w->o.layer_last, layers - 1);
    return 0;
}

/* Behind the weights, which matter more where the room is short. */
static int keep_files(struct warming *w, struct ps_err *err)
{
    const struct ps_kept k = ps_engine_kept(w->e);
    int rc = 0;
    struct ps_err ke = {0};
    for (const char *const *name = ps_tokenizer_names; rc == 0 && *name; name++) {
        bool kept = false;
        if (strcmp(*name, "config.json") == 0)
            continue; /* came with the model */
        rc = ps_kept_store(&kept, &k, *name, ps_tokenizer_max_bytes(*name), &ke);
        w->files_kept += kept;
    }
    if (rc == 0 ||
        rc == PS_EBUDGET) /* --max-egress was enough for the weights: they are what was asked for */
        return ps_cache_flush(w->e->cache, err);
    if (err)
        *err = ke;
    return rc;
}

/* Asks for the files as keep_files does, whose questions count as they come; what would follow them is foreseen. */
static int foresee_files(struct warming *w, struct ps_err *err)
{
    const struct ps_kept k = ps_engine_kept(w->e);
    const uint32_t connections = w->e->o.connections ? w->e->o.connections : 8;
    int rc = 0;
    for (const char *const *name = ps_tokenizer_names; rc == 0 && *name; name++) {
        uint64_t bytes = 0;
        bool again = false;
        if (strcmp(*name, "config.json") == 0)
            continue;
        rc = ps_kept_foresee(&bytes, &again, &w->e->files_foreseen, &k, *name,
                             ps_tokenizer_max_bytes(*name), err);
        if (bytes)
            w->file_requests += ps_warm_file_requests(bytes, connections) + again;
        w->file_bytes += bytes;
    }
    return rc == PS_EBUDGET ? 0 : rc; /* --max-egress, as there */
}

/* Bytes of n extents that are on the disk now. */
static int count_on_disk(uint64_t *bytes, const struct warming *w, const uint32_t *extents,
                         uint32_t n, struct ps_err *err)
{
    const struct ps_map *m = w->e->files.map;
    uint8_t(*keys)[PS_SHA256_BYTES] = ps_malloc((size_t)n * PS_SHA256_BYTES + 1);
    uint8_t *present = ps_calloc((size_t)n / 8 + 1, 1);
    uint64_t sum = 0;
    int rc = keys && present ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %u extents", n);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        memcpy(keys[i], m->extents[extents[i]].key, PS_SHA256_BYTES);
    if (rc == 0 && n > 0)
        rc = ps_cache_lookup(w->e->cache, (const uint8_t(*)[PS_SHA256_BYTES])keys, n, present, err);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        if (present[i / 8] >> (i % 8) & 1)
            sum += m->extents[extents[i]].stored_bytes;
    if (rc == 0)
        *bytes = sum;
    ps_free(keys);
    ps_free(present);
    return rc;
}

/* The cache itself is asked: what this process has put there, and what it found, another one with a smaller --disk may
 * have evicted since. */
static int count_stored(struct warming *w, struct ps_err *err)
{
    uint64_t still = 0;
    int rc = count_on_disk(&w->stored, w, w->list.extents, w->list.n, err);
    if (rc == 0)
        rc = count_on_disk(&still, w, w->list.held, w->list.n_held, err);
    if (rc == 0)
        w->lost = w->list.bytes_present - still;
    return rc;
}

/* Stored bytes of what was asked for, whether the plan has room for them or not. */
static uint64_t asked_bytes(const struct warming *w)
{
    const struct ps_map *m = w->e->files.map;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < m->n_extents; i++) {
        const int32_t layer = m->tensors[m->extents[i].tensor].layer;
        if (w->o.layer_first < 0 || (layer >= w->o.layer_first && layer <= w->o.layer_last))
            sum += m->extents[i].stored_bytes;
    }
    return sum;
}

/* All of the model that the plan keeps is there, and nobody asked for a part. */
static bool has_all(const struct warming *w, uint64_t stored)
{
    return w->o.layer_first < 0 && w->o.layer_last < 0 &&
           w->list.bytes_present - w->lost + stored == w->list.bytes_wanted;
}

static int warm(struct warming *w, struct ps_err *err)
{
    struct ps_engine *e = w->e;
    uint64_t checked = 0;
    const bool looks =
        w->o.dry_run && e->o.look_only && !e->source->local && e->disk_budget_bytes > 0;
    if (!looks && !e->source->local && e->cache_err.code)
        return ps_engine_why_no_disk(e, err);
    if (!looks && (!e->cache || ps_cache_is_read_only(e->cache)))
        return ps_err_set(
            err, PS_EUSAGE, ORIGIN,
            e->source->local
                ? "the model is a local folder, which needs no cache: %s"
                : "there is no disk cache to fill: %s: use --disk and a writable --cache",
            e->source->label);
    int rc = w->o.check && e->cache ? ps_cache_verify(e->cache, true, !w->o.dry_run, on_verify, e,
                                                      &checked, &w->bad, err)
                                    : 0;
    if (rc == 0)
        rc = fetch_missing(w, err);
    if (rc == 0 && has_files_to_check(w))
        rc = check_files(w, err);
    if (rc == 0 && !w->o.dry_run)
        rc = count_stored(w, err);
    if (rc == 0 && has_all(w, w->o.dry_run ? w->list.bytes : w->stored))
        rc = w->o.dry_run ? foresee_files(w, err) : keep_files(w, err);
    return rc;
}

static void put_known(struct ps_json_writer *w, const char *key, bool known, double value)
{
    ps_jw_key(w, key);
    if (known)
        ps_jw_double(w, value);
    else
        ps_jw_null(w);
}

/* What it would take. The rate is that of the last run or probe on this machine, whose age stands beside it, or
 * --net-limit where that is less. */
static void write_estimate(struct ps_json_writer *jw, const struct warming *w)
{
    const struct ps_probes *p = &w->e->probes;
    const double rate = ps_engine_link_rate(w->e);
    const struct ps_map *m = w->e->files.map;
    const uint32_t connections = w->e->o.connections ? w->e->o.connections : 8;
    const uint64_t ring_bytes = (uint64_t)w->e->plan.ring_slots * m->max_stored_bytes;
    ps_jw_kbool(jw, "dry_run", true);
    ps_jw_kuint(jw, "bytes_to_fetch", w->list.bytes);
    ps_jw_kuint(jw, "file_bytes_to_fetch", w->file_bytes);
    /* A dry run has asked, up to here, what a real one asks beside the weights and files themselves. */
    ps_jw_kuint(jw, "requests",
                ps_stat_get(&w->e->stats.requests) + w->file_requests +
                    ps_warm_requests(&w->list, m, connections, ring_bytes));
    put_known(jw, "predicted_seconds", rate > 0,
              rate > 0 ? (double)(w->list.bytes + w->file_bytes) / rate : 0);
    put_known(jw, "probed_link_bytes_s", p->link_bytes_s > 0, p->link_bytes_s);
    put_known(jw, "probe_age_s", p->link_bytes_s > 0 && p->wall_s, ps_engine_probe_age_s(w->e));
}

static void write_work(struct ps_json_writer *jw, const struct warming *w)
{
    struct ps_stats *s = &w->e->stats;
    const double rate = ps_engine_link_seen(w->e);
    ps_jw_kuint(jw, "bytes_net", ps_stat_get(&s->bytes_net));
    ps_jw_kuint(jw, "requests", ps_stat_get(&s->requests));
    ps_jw_kuint(jw, "retries", ps_stat_get(&s->retries));
    put_known(jw, "link_bytes_s", rate > 0, rate);
    ps_jw_kdouble(jw, "seconds", ps_seconds_since(w->t0));
}

static void write_facts(struct ps_json_writer *jw, const struct warming *w, uint64_t fetched)
{
    const struct ps_warm_list *l = &w->list;
    const uint64_t present = l->bytes_present - w->lost,
                   missing = l->bytes_wanted - present - fetched;
    const uint64_t billed =
        w->o.dry_run ? l->bytes + w->file_bytes : ps_stat_get(&w->e->stats.bytes_net);
    char id[2 * PS_SHA256_BYTES + 1];
    ps_hex_encode(w->e->files.map->model_id, PS_SHA256_BYTES, id);
    ps_jw_object(jw);
    ps_jw_kstring(jw, "model_id", id);
    ps_jw_kstring(jw, "source", w->e->source->label);
    ps_jw_kuint(jw, "stored_bytes", asked_bytes(w));
    ps_jw_kuint(jw, "bytes_wanted", l->bytes_wanted);
    ps_jw_kuint(jw, "bytes_present", present);
    ps_jw_kuint(jw, "bytes_fetched", fetched);
    ps_jw_kuint(jw, "bytes_missing", missing);
    ps_jw_kuint(jw, "extents", l->n);
    ps_jw_kuint(jw, "bad_extents_dropped", w->o.dry_run ? 0 : w->bad);
    if (w->o.dry_run && w->o.check)
        ps_jw_kuint(jw, "bad_extents", w->bad);
    ps_jw_kuint(jw, "files_checked", w->files.checked);
    ps_jw_kuint(jw, "files_kept", w->files_kept);
    if (w->o.dry_run)
        write_estimate(jw, w);
    else
        write_work(jw, w);
    if (w->o.price_per_gb > 0)
        ps_jw_kdouble(jw, "egress_cost", (double)billed / 1e9 * w->o.price_per_gb);
    ps_jw_kbool(jw, "complete", missing == 0 && !(w->o.dry_run && w->bad));
    ps_jw_object_end(jw);
}

int ps_engine_keys(uint8_t (**keys)[PS_SHA256_BYTES], size_t *n, const uint8_t **id,
                   const struct ps_engine *e, struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    uint8_t(*list)[PS_SHA256_BYTES] = ps_malloc((size_t)m->n_extents * PS_SHA256_BYTES + 1);
    if (!list)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: %u extents", m->n_extents);
    for (uint32_t i = 0; i < m->n_extents; i++)
        memcpy(list[i], m->extents[i].key, PS_SHA256_BYTES);
    *keys = list;
    *n = m->n_extents;
    *id = m->model_id;
    return 0;
}

int ps_engine_warm(char **json, struct ps_engine *e, const struct ps_warm_options *options,
                   struct ps_error *error)
{
    struct ps_err err = {0};
    struct warming w = {.e = e, .o = {.layer_first = -1, .layer_last = -1}, .t0 = ps_now_ns()};
    struct ps_strbuf b;
    struct ps_json_writer jw;
    int rc = take_options(&w, options, &err);
    e->waits = false;
    ps_kept_extents_deinit(&e->files_foreseen);
    if (rc == 0 && (!e->planned || !e->cache_opened)) /* opening left it to us */
        rc = ps_engine_replan(e, &err);
    if (rc == 0)
        rc = warm(&w, &err);
    if (rc == 0) {
        const uint64_t stored = w.o.dry_run ? 0 : w.stored;
        ps_strbuf_init(&b, 1u << 20);
        ps_jw_init(&jw, &b);
        write_facts(&jw, &w, stored);
        if (!w.o.dry_run && (stored < w.list.bytes || w.lost > 0))
            rc =
                ps_err_set(&err, PS_ENOSPC, ORIGIN,
                           "the disk holds only a part: %llu bytes are missing: make room or use a "
                           "smaller --disk; of several processes on one cache the smallest counts",
                           (unsigned long long)(w.list.bytes - stored + w.lost));
        else if (!(*json = ps_strbuf_take(&b, NULL)))
            rc = ps_err_set(&err, PS_ENOMEM, ORIGIN, "out of memory");
        ps_strbuf_deinit(&b);
    }
    ps_warm_list_deinit(&w.list);
    return ps_engine_error(error, rc, &err);
}
