/* Opening and closing a model: address in, a planned and running scheduler out. Each step is one call below, in
 * the order in which bytes are needed. */
#include "runtime/engine.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/log.h"
#include "fetcher/rate_limit.h"
#include "fetcher/store.h"
#include "runtime/cache_dir.h"
#include "runtime/trust_files.h"

static const char *const ORIGIN = "engine";

const char *ps_version(void)
{
    return PENSTOCK_VERSION;
}

void ps_string_free(char *s)
{
    ps_free(s);
}

void ps_ids_free(uint32_t *ids)
{
    ps_free(ids);
}

int ps_engine_error(struct ps_error *out, int rc, const struct ps_err *err)
{
    if (rc >= 0 || !out)
        return rc;
    out->code = rc;
    out->exit_status = ps_err_exit_status(rc);
    const char *text = err && err->text[0] ? err->text : ps_err_name(rc);
    size_t n = strlen(text) < sizeof out->text - 1 ? strlen(text) : sizeof out->text - 1;
    memcpy(out->text, text, n);
    out->text[n] = 0;
    return rc;
}

static int copy_string(struct ps_engine *e, const char **field, unsigned slot, struct ps_err *err)
{
    if (!*field)
        return 0;
    e->strings[slot] = ps_strdup(*field);
    if (!e->strings[slot])
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    *field = e->strings[slot];
    return 0;
}

/* The caller's struct may be older (shorter) than ours: what it lacks is zero. */
static int copy_options(struct ps_engine *e, const struct ps_engine_options *o, struct ps_err *err)
{
    if (!o || o->struct_size < sizeof(uint32_t) || o->struct_size > sizeof e->o)
        return ps_err_set(
            err, PS_EUSAGE,
            ORIGIN, "ps_engine_options.struct_size is wrong: was this program built for a newer libpenstock?");
    memcpy(&e->o, o, o->struct_size);
    const char **fields[] = {&e->o.model,    &e->o.cache_dir,  &e->o.disk,      &e->o.ram,
                             &e->o.min_free, &e->o.max_egress, &e->o.kv_type_k, &e->o.kv_type_v,
                             &e->o.device,   &e->o.vram,       &e->o.net_limit};
    for (unsigned i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        int rc = copy_string(e, fields[i], i, err);
        if (rc < 0)
            return rc;
    }
    if (!e->o.model || !*e->o.model)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "no model given: name a folder or an address such as http://host/model");
    return 0;
}

static int open_source(struct ps_engine *e, bool direct, struct ps_err *err)
{
    int rc = e->net_limit ? 0 : ps_rate_limit_parse(&e->net_limit, e->o.net_limit, err);
    e->mirrored = e->o.source && e->o.source->n_mirrors > 0;
    /* the tokenizer may wait behind the weights: hence the interrupt */
    return rc < 0 ? rc
                  : ps_engine_source_open(&e->source, &e->o, direct, e->net_limit, &e->stats,
                                          &e->interrupt, err);
}

/* A local model that can't stay in the page cache would only push everything else out of it: such a one is read
 * past it. One that can is read through it, so that the next run starts from memory. */
static int choose_direct(struct ps_engine *e, struct ps_err *err)
{
    /* A hub's files are not opened twice: its branch may have moved in between. */
    if (!e->source->local || strcmp(e->source->ops->scheme, "file") != 0 || e->o.direct_io ||
        e->files.map->stored_bytes < ps_host_free_memory_bytes() / 2)
        return 0;
    ps_source_close(e->source);
    e->source = NULL;
    return open_source(e, true, err);
}

/* Keys first: one that can't be read must not cost a request. */
static int open_files(struct ps_engine *e, struct ps_err *err)
{
    struct ps_trust *trust = NULL;
    int rc = ps_trust_from_files(&trust, e->o.verify_keys, e->o.n_verify_keys, err);
    if (rc == 0)
        rc = open_source(e, e->o.direct_io == 1, err);
    if (rc == 0)
        rc = ps_model_files_open_trusted(&e->files, e->source, trust, err);
    ps_trust_free(trust);
    return rc;
}

static int read_model(struct ps_engine *e, struct ps_err *err)
{
    int rc;
    if ((rc = open_files(e, err)) < 0 || (rc = choose_direct(e, err)) < 0)
        return rc;
    if ((rc = ps_arch_read(&e->arch, e->files.config, e->files.config_len, err)) < 0 ||
        (rc = ps_weights_bind(&e->weights, e->files.map, e->arch, err)) < 0)
        return rc;
    return ps_weights_order(&e->order, &e->n_order, e->weights, e->files.map, err);
}

/* What is wrong with a file says which model's it is. */
static int open_model(struct ps_engine *e, struct ps_err *err)
{
    const int rc = read_model(e, err);
    if (e->source)
        ps_store_place_files(err, rc, e->source->label);
    return rc;
}

static int open_compute(struct ps_engine *e, struct ps_err *err)
{
    int rc = ps_backend_choose(&e->backend, err);
    unsigned threads = e->o.threads ? e->o.threads : ps_host_cpus();
    if (rc < 0)
        return rc;
    return ps_pool_new(&e->pool, threads, ps_backend_thread_start, (void *)(uintptr_t)e->backend,
                       err);
}

/* What a run will do, for those who look for why it does that. */
static void tell_opened(const struct ps_engine *e)
{
    const struct ps_map *m = e->files.map;
    const struct ps_plan *p = &e->plan;
    if (!ps_log_enabled(PS_LOG_DEBUG))
        return; /* measuring a folder is not for nothing */
    ps_log(PS_LOG_DEBUG, ORIGIN, "%s: %s, %u layers, %llu bytes in %u extents", e->source->label,
           m->presplit ? "pre-split" : "a plain folder", e->arch->n_layers,
           (unsigned long long)m->stored_bytes, m->n_extents);
    if (e->cache)
        ps_log(PS_LOG_DEBUG, ORIGIN, "cache: %s: %llu bytes taken of %llu", e->cache_dir,
               (unsigned long long)ps_cache_allocated_bytes(e->cache),
               (unsigned long long)e->disk_budget_bytes);
    ps_log(
        PS_LOG_DEBUG, ORIGIN,
        "plan: %llu bytes a sweep, of these %llu over the network and %llu from disk; %llu bytes "
        "of weights in RAM beside %llu of all else; bound by %s",
        (unsigned long long)p->bytes_per_sweep, (unsigned long long)p->bytes_net_per_sweep,
        (unsigned long long)p->bytes_disk_per_sweep, (unsigned long long)p->ram_weight_bytes,
        (unsigned long long)p->ram_fixed_bytes, p->binds);
}

static void set_estimate(struct ps_engine *e)
{
    const uint32_t ctx = e->o.ctx_size ? e->o.ctx_size : 256;
    e->estimate = (struct ps_need){.ctx = ctx,
                                   .rows = e->o.max_rows ? e->o.max_rows : ctx,
                                   .ubatch = e->o.ubatch};
}

/* The first plan of who wants weights at once. *later: there is none yet. What is too much for an estimate may be
 * enough for the text itself, once its tokens are counted, and the other way round: a session says exactly what is
 * missing, and what it may refuse must not have cost anything. "min", too, is the least for the text, not for a
 * guess. */
static int plan_at_once(struct ps_engine *e, bool *later, struct ps_err *err)
{
    struct ps_need most = e->estimate;
    most.ctx = e->o.ctx_most > most.ctx ? e->o.ctx_most : most.ctx;
    most.rows = e->o.rows_most > most.rows ? e->o.rows_most : most.rows;
    const struct ps_need one = {.ctx = 1, .rows = 1, .ubatch = e->o.ubatch};
    const bool guessed = e->o.ctx_most > 0,
               least = e->ram.kind == PS_SIZE_MIN || e->vram.kind == PS_SIZE_MIN;
    const int fits = e->o.without_tokenizer ? 0 : ps_engine_check_plan(e, &most);
    *later = (fits == 0 && guessed && least && !e->o.without_tokenizer) ||
             (fits == PS_EBUDGET && (guessed || ps_engine_check_plan(e, &one) == 0));
    if (!*later)
        return ps_engine_replan(e, err);
    if (fits == 0) { /* whatever the text is: so the tokenizer may be kept */
        const int rc = ps_engine_open_cache(e, err);
        if (rc < 0)
            return rc;
    }
    e->plan.predicted_s_per_token = -1; /* not known */
    return 0;
}

static int open_all(struct ps_engine *e, const struct ps_engine_options *o, struct ps_err *err)
{
    bool later = false;
    int rc;
    if ((rc = copy_options(e, o, err)) < 0)
        return rc;
    if ((rc = ps_kv_dtype_parse(&e->k_type, e->o.kv_type_k, PS_F16, "-ctk", err)) < 0 ||
        (rc = ps_kv_dtype_parse(&e->v_type, e->o.kv_type_v, PS_F16, "-ctv", err)) < 0)
        return rc;
    if ((rc = open_model(e, err)) < 0)
        return rc;
    /* Who needs one says what is missing. */
    (void)ps_cache_dir_find(&e->cache_dir, e->o.cache_dir, NULL);
    ps_probes_load(&e->probes, e->cache_dir);
    if ((rc = open_compute(e, err)) < 0 || (rc = ps_engine_open_device(e, err)) < 0 ||
        (rc = ps_engine_budgets(e, err)) < 0)
        return rc;
    e->waits = e->o.headers_only;
    set_estimate(e);
    if (e->o.look_only && (rc = ps_engine_look_at_cache(&e->cache, &e->cache_model, e, err)) < 0)
        return rc;
    rc = e->o.headers_only ? ps_engine_replan(e, err) : plan_at_once(e, &later, err);
    if (rc < 0)
        return rc;
    /* Behind the cache, which may hold its files; beside the first weights. */
    e->tokenizer_looks = !e->cache_opened;
    if (!e->o.without_tokenizer && (rc = ps_engine_start_tokenizer(e, err)) < 0)
        return rc;
    if (later)
        return 0;
    tell_opened(e);
    if (!e->o.headers_only) {
        if (e->o.progress) /* what comes before the prompt is read counts from here, too */
            e->o.progress(e->o.progress_user, "prefill", 0, e->plan.bytes_per_sweep);
        rc = ps_engine_start_sweep(e, err);
        if (rc == 0)
            ps_sweep_allow(e->sweep,
                           1); /* the first extents are on their way while the tokenizer is still being read */
    }
    return rc;
}

int ps_engine_open(struct ps_engine **out, const struct ps_engine_options *options,
                   struct ps_error *error)
{
    struct ps_err err = {0};
    ps_log_init_from_env();
    struct ps_engine *e = ps_calloc(1, sizeof *e);
    if (!e)
        return ps_engine_error(error, PS_ENOMEM, NULL);
    e->opened_ns = ps_now_ns();
    int rc = open_all(e, options, &err);
    e->o.source = NULL; /* borrowed while opening */
    if (rc < 0) {
        ps_engine_close(e);
        return ps_engine_error(error, rc, &err);
    }
    *out = e;
    return 0;
}

void ps_engine_close(struct ps_engine *e)
{
    if (!e)
        return;
    ps_engine_learn_rates(e);
    ps_engine_stop_sweep(e);
    ps_engine_close_device(e);
    if (e->tokenizer_started && !e->tokenizer_joined)
        pthread_join(e->tokenizer_thread, NULL);
    ps_tokenizer_close(e->tokenizer);
    ps_kept_extents_deinit(&e->files_foreseen);
    if (e->cache)
        ps_cache_close(e->cache);
    ps_source_close(e->source);
    ps_rate_limit_free(e->net_limit);
    ps_pool_free(e->pool);
    ps_plan_deinit(&e->plan);
    ps_weights_free(e->weights);
    ps_arch_free(e->arch);
    ps_model_files_close(&e->files);
    ps_free(e->order);
    ps_free(e->tier);
    ps_free(e->cache_dir);
    for (size_t i = 0; i < sizeof e->strings / sizeof e->strings[0]; i++)
        ps_free(e->strings[i]);
    ps_free(e);
}

void ps_engine_interrupt(struct ps_engine *e)
{
    atomic_store(&e->interrupt, 1);
}
