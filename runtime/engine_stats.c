/* What a run reports: the names of contract.md "run --stats", each from a counter, none estimated. */
#include "base/alloc.h"
#include "base/host.h"
#include "runtime/engine.h"

#define JSON_MAX (256u << 20)

static double per(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void write_tokens(const struct ps_engine *e, struct ps_json_writer *w)
{
    const struct ps_run_facts *r = &e->run;
    ps_jw_kuint(w, "tokens_prompt", r->tokens_prompt);
    ps_jw_kuint(w, "tokens_generated", r->tokens_generated);
    ps_jw_key(w, "ttft_s");
    if (r->tokens_generated > 0)
        ps_jw_double(w, r->ttft_s);
    else
        ps_jw_null(w); /* no first token */
    ps_jw_kdouble(w, "decode_tok_s",
                  r->tokens_generated > 1 ? per((double)(r->tokens_generated - 1), r->decode_s) : 0);
    ps_jw_kuint(w, "sweeps", r->sweeps);
    ps_jw_kdouble(w, "tokens_per_sweep", per((double)r->tokens_generated, (double)r->sweeps));
}

static void write_bytes(struct ps_engine *e, struct ps_json_writer *w)
{
    const struct ps_stats *s = &e->stats;
    uint64_t used = ps_stat_get(&s->extents_used), net = ps_stat_get(&s->extents_from_net);
    double sweep_s = (double)ps_stat_get(&s->sweep_ns) / 1e9,
           busy_s = (double)ps_stat_get(&s->link_busy_ns) / 1e9;
    double bytes_net = (double)ps_stat_get(&s->bytes_net);
    ps_jw_kuint(w, "bytes_net", ps_stat_get(&s->bytes_net));
    ps_jw_kuint(w, "bytes_disk_read", ps_stat_get(&s->bytes_disk_read));
    ps_jw_kuint(w, "bytes_disk_written", ps_stat_get(&s->bytes_disk_written));
    ps_jw_kuint(w, "bytes_ram_hit", ps_stat_get(&s->bytes_ram_hit));
    if (e->gpu.api) {
        ps_jw_kuint(w, "bytes_vram_hit", ps_stat_get(&s->bytes_vram_hit));
        ps_jw_kuint(w, "bytes_to_device", ps_stat_get(&s->bytes_to_device));
        ps_jw_kuint(w, "vram_bytes_max", e->run.vram_bytes);
    }
    ps_jw_kuint(w, "bytes_hedged", ps_stat_get(&s->bytes_hedged));
    ps_jw_kuint(w, "requests", ps_stat_get(&s->requests));
    ps_jw_kuint(w, "retries", ps_stat_get(&s->retries));
    ps_jw_kuint(w, "hedges", ps_stat_get(&s->hedges));
    ps_jw_kuint(w, "hedges_won", ps_stat_get(&s->hedges_won));
    ps_jw_kuint(w, "escapes", ps_stat_get(&s->escapes));
    ps_jw_kuint(w, "connections_opened", ps_stat_get(&s->conns_opened));
    ps_jw_kuint(w, "connections_retired", ps_stat_get(&s->conns_retired));
    ps_jw_kuint(w, "requests_at_once_max", ps_stat_get(&s->requests_at_once_max));
    ps_jw_kuint(w, "window_min", ps_stat_get(&s->window_min));
    ps_jw_kdouble(w, "hit_ratio", used ? (used > net ? (double)(used - net) / (double)used : 0) : 0);
    ps_jw_kdouble(w, "link_bytes_s", ps_engine_link_seen(e));
    ps_jw_kdouble(w, "link_busy_pct",
                  sweep_s > 0 ? 100 * (busy_s < sweep_s ? busy_s / sweep_s : 1) : 0);
    ps_jw_key(w, "link_use_pct");
    if (ps_engine_link_rate(e) > 0 && sweep_s > 0)
        ps_jw_double(w, 100 * bytes_net / (sweep_s * ps_engine_link_rate(e)));
    else
        ps_jw_null(w);
    ps_jw_kdouble(w, "stall_s", (double)ps_stat_get(&s->stall_ns) / 1e9);
    ps_jw_kdouble(w, "layer_wait_p50_s", (double)ps_histogram_quantile_ns(&s->layer_wait, 0.5) / 1e9);
    ps_jw_kdouble(w, "layer_wait_p99_s",
                  (double)ps_histogram_quantile_ns(&s->layer_wait, 0.99) / 1e9);
    ps_jw_kdouble(w, "layer_wait_max_s", (double)ps_histogram_quantile_ns(&s->layer_wait, 1) / 1e9);
    ps_jw_kdouble(w, "sweep_s", sweep_s);
    ps_jw_kuint(w, "corrupt_reads", ps_stat_get(&s->corrupt_reads));
    ps_jw_kuint(w, "cache_bytes", e->cache ? ps_cache_model_bytes(e->cache, e->cache_model) : 0);
    ps_jw_kuint(w, "cache_bytes_max", e->cache ? ps_cache_allocated_peak_bytes(e->cache) : 0);
    ps_jw_kuint(w, "rss_bytes_max", ps_host_rss_peak_bytes());
    uint64_t first = ps_stat_get(&s->first_request_ns),
             weight = ps_stat_get(&s->first_weight_request_ns);
    ps_jw_kdouble(w, "first_request_s",
                  first > e->opened_ns ? (double)(first - e->opened_ns) / 1e9 : 0);
    ps_jw_kdouble(w, "first_weight_request_s",
                  weight > e->opened_ns ? (double)(weight - e->opened_ns) / 1e9 : 0);
    ps_jw_kstring(w, "backend", e->backend->name);
    ps_jw_kuint(w, "threads", ps_pool_threads(e->pool));
}

/* Where the bytes came from, if there was a choice. */
static void write_parts(struct ps_source *s, struct ps_json_writer *w)
{
    struct ps_source_part p;
    if (!s->ops->part || !s->ops->part(s, 0, &p))
        return;
    ps_jw_key(w, "mirrors");
    ps_jw_array(w);
    for (unsigned i = 0; s->ops->part(s, i, &p); i++) {
        ps_jw_object(w);
        ps_jw_kstring(w, "source", p.label);
        ps_jw_kuint(w, "bytes", p.bytes);
        ps_jw_kuint(w, "failures", p.failures);
        ps_jw_kbool(w, "listed", p.listed);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
}

char *ps_engine_stats_json(struct ps_engine *e)
{
    struct ps_strbuf b;
    struct ps_json_writer w;
    char id[2 * PS_SHA256_BYTES + 1];
    if (e->cache)
        ps_cache_flush(e->cache, NULL); /* so that cache_bytes is what a reader of the folder finds */
    ps_strbuf_init(&b, JSON_MAX);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_hex_encode(e->files.map->model_id, PS_SHA256_BYTES, id);
    ps_jw_kstring(&w, "model_id", id);
    write_tokens(e, &w);
    write_bytes(e, &w);
    write_parts(e->source, &w);
    ps_jw_key(&w, "plan");
    ps_engine_write_plan(e, &w);
    ps_jw_key(&w, "plan_predicted_s_per_token");
    if (e->plan.predicted_s_per_token < 0)
        ps_jw_null(&w);
    else
        ps_jw_double(&w, e->plan.predicted_s_per_token);
    if (e->run.error.code < 0) {
        ps_jw_kstring(&w, "error", e->run.error.text);
        ps_jw_kint(&w, "exit", ps_err_exit_status(e->run.error.code));
    }
    ps_jw_object_end(&w);
    char *out = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return out;
}

char *ps_engine_plan_json(struct ps_engine *e)
{
    struct ps_strbuf b;
    struct ps_json_writer w;
    ps_strbuf_init(&b, JSON_MAX);
    ps_jw_init(&w, &b);
    ps_engine_write_plan(e, &w);
    char *out = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return out;
}

/* What rounding cost, and how many extents kept a wider type because of it. */
static void write_rounding(struct ps_json_writer *w, const struct ps_map *m,
                           const struct ps_tensor *t)
{
    uint32_t widened = 0;
    if (!t->rounded)
        return;
    for (uint32_t k = 0; k < t->n_extents; k++)
        widened += ps_extent_dtype(m, &m->extents[t->first_extent + k]) != t->dtype;
    ps_jw_key(w, "rounding");
    ps_jw_object(w);
    ps_quant_error_write(w, &t->error);
    ps_jw_kuint(w, "widened_extents", widened);
    ps_jw_object_end(w);
}

static void write_tensor(struct ps_json_writer *w, const struct ps_map *m, uint32_t i, bool extents)
{
    const struct ps_tensor *t = &m->tensors[i];
    char key[2 * PS_SHA256_BYTES + 1];
    uint64_t stored = 0;
    ps_jw_object(w);
    ps_jw_kstring(w, "name", t->name);
    ps_jw_kstring(w, "dtype", ps_dtype_name(t->dtype));
    ps_jw_key(w, "shape");
    ps_jw_array(w);
    for (unsigned d = 0; d < t->n_dims; d++)
        ps_jw_uint(w, t->shape[d]);
    ps_jw_array_end(w);
    ps_jw_kstring(w, "object", m->objects[t->object].name);
    for (uint32_t k = 0; k < t->n_extents; k++)
        stored += m->extents[t->first_extent + k].stored_bytes;
    ps_jw_kuint(w, "stored_bytes", stored);
    ps_jw_kstring(w, "codec",
                  t->n_extents ? ps_codec_name((enum ps_codec)m->extents[t->first_extent].codec)
                               : "raw");
    ps_jw_kuint(w, "extents", t->n_extents);
    write_rounding(w, m, t);
    if (extents) {
        ps_jw_key(w, "extent_list");
        ps_jw_array(w);
        for (uint32_t k = 0; k < t->n_extents; k++) {
            const struct ps_extent *x = &m->extents[t->first_extent + k];
            ps_hex_encode(x->key, PS_SHA256_BYTES, key);
            ps_jw_object(w);
            ps_jw_kuint(w, "offset", x->offset);
            ps_jw_kuint(w, "stored_bytes", x->stored_bytes);
            ps_jw_kuint(w, "rows", x->n_rows);
            ps_jw_kstring(w, "dtype", ps_dtype_name(ps_extent_dtype(m, x)));
            ps_jw_kstring(w, x->hashed ? "sha256" : "key", key);
            ps_jw_object_end(w);
        }
        ps_jw_array_end(w);
    }
    ps_jw_object_end(w);
}

char *ps_engine_inspect_json(struct ps_engine *e, int extents)
{
    const struct ps_map *m = e->files.map;
    struct ps_strbuf b;
    struct ps_json_writer w;
    char id[2 * PS_SHA256_BYTES + 1];
    ps_strbuf_init(&b, JSON_MAX);
    ps_jw_init(&w, &b);
    ps_hex_encode(m->model_id, PS_SHA256_BYTES, id);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "model_id", id);
    ps_jw_kstring(&w, "source", e->source->label);
    ps_jw_kstring(&w, "architecture", e->arch->name);
    ps_jw_kbool(&w, "presplit", m->presplit);
    if (e->files.manifest) {
        ps_jw_kuint(&w, "format_version", e->files.manifest->version);
        ps_jw_kstring(&w, "codec", e->files.manifest->codec);
        ps_jw_kstring(&w, "provenance", e->files.manifest->source_label);
    }
    ps_jw_kuint(&w, "model_bytes", m->raw_bytes);
    ps_jw_kuint(&w, "stored_bytes", m->stored_bytes);
    ps_jw_kuint(&w, "layers", e->arch->n_layers);
    ps_jw_kuint(&w, "extents", m->n_extents);
    ps_jw_kuint(&w, "extent_bytes", m->extent_target_bytes);
    ps_jw_key(&w, "objects");
    ps_jw_array(&w);
    for (uint32_t i = 0; i < m->n_objects; i++) {
        ps_jw_object(&w);
        ps_jw_kstring(&w, "name", m->objects[i].name);
        ps_jw_kuint(&w, "bytes", m->objects[i].bytes);
        ps_jw_object_end(&w);
    }
    ps_jw_array_end(&w);
    ps_jw_key(&w, "tensors");
    ps_jw_array(&w);
    for (uint32_t i = 0; i < m->n_tensors; i++)
        write_tensor(&w, m, i, extents != 0);
    ps_jw_array_end(&w);
    ps_jw_object_end(&w);
    char *out = ps_strbuf_take(&b, NULL);
    ps_strbuf_deinit(&b);
    return out;
}
