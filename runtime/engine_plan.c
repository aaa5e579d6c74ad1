/* The plan of one engine: what the user wrote, what the machine has, and what the model needs become the input of the
 * pure planner. */
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/log.h"
#include "runtime/engine.h"

static const char *const ORIGIN = "engine";
#define MIB          (1ull << 20)
#define RING_MIN     8u
#define GATHER_SLOTS 2u
/* Beside weights and rows: one transfer buffer a connection, tables of the map and index, the vocabulary's
 * strings. The program text and its libraries are inside the 64 MiB that the contract grants over --ram. */
#define NET_BUFFER_BYTES   (640u * 1024)
#define EXTENT_TABLE_BYTES 200u
#define TOKEN_BYTES        160u

/* ---- the planner's input ---- */

/* What is there whatever the sessions need. */
static uint64_t fixed_bytes(const struct ps_engine *e)
{
    uint64_t connections = e->o.connections ? e->o.connections : 8;
    /* who only asks what a run would take has opened none, and is told what a run takes */
    bool tokenizer = !e->o.without_tokenizer || e->o.headers_only;
    uint64_t n = tokenizer ? (uint64_t)e->arch->vocab * TOKEN_BYTES : 0;
    n += (uint64_t)e->files.map->n_extents * EXTENT_TABLE_BYTES;
    n += e->source->local ? 0 : connections * NET_BUFFER_BYTES * (e->mirrored ? 2 : 1);
    return n + (e->gpu.api ? e->gpu.info.host_bytes : 0);
}

static bool is_vector(const struct ps_map *m, uint32_t extent)
{
    const struct ps_tensor *t = &m->tensors[m->extents[extent].tensor];
    return t->n_dims <= 1;
}

/* Extents in order of use, then those that are only gathered: the planner's index -> extent index in *which. */
static uint32_t list_extents(const struct ps_engine *e, struct ps_plan_extent *list, uint32_t *which)
{
    const struct ps_map *m = e->files.map;
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_order; i++) {
        const struct ps_extent *x = &m->extents[e->order[i]];
        which[n] = e->order[i];
        list[n++] = (struct ps_plan_extent){.stored_bytes = x->stored_bytes,
                                            .raw_bytes = x->raw_bytes,
                                            .swept = true,
                                            .vector = is_vector(m, e->order[i]),
                                            .device = ps_engine_on_device(e, i),
                                            .coded = ps_engine_stays_coded(e, x)};
    }
    if (e->weights->embed == e->weights->head)
        return n;
    const struct ps_tensor *t = &m->tensors[e->weights->embed];
    for (uint32_t i = 0; i < t->n_extents; i++) {
        const struct ps_extent *x = &m->extents[t->first_extent + i];
        which[n] = t->first_extent + i;
        list[n++] =
            (struct ps_plan_extent){.stored_bytes = x->stored_bytes, .raw_bytes = x->raw_bytes};
    }
    return n;
}

static struct ps_plan_rates rates_of(const struct ps_engine *e)
{
    const struct ps_probes *p = &e->probes;
    return (struct ps_plan_rates){.link = ps_engine_link_rate(e),
                                  .disk = p->disk_bytes_s,
                                  .ram = p->ram_bytes_s,
                                  .bus = p->bus_bytes_s,
                                  .vram = p->vram_bytes_s,
                                  .age_s = ps_engine_probe_age_s(e)};
}

/* --ram as bytes. The default is what helps, at most 80 % of what is free, where that can be told: memory that is not
 * there ends in an OOM kill, long after the prompt was taken. A percentage is of the model's stored bytes, on top of
 * what has to be there in any case. least: without hurry, in the smallest chunks; roomy: in chunks as large as they are
 * useful. */
static uint64_t ram_budget(const struct ps_engine *e, const struct ps_plan_input *in,
                           uint64_t least, uint64_t roomy)
{
    uint64_t all = roomy + (uint64_t)(in->ring_slots_want - in->ring_slots_min) * in->slot_bytes * 4;
    for (uint32_t i = 0; i < in->n_extents; i++)
        all += in->extents[i].raw_bytes + 4096;
    uint64_t free80 = e->ram_free_bytes / 5 * 4;
    switch (e->ram.kind) {
    case PS_SIZE_BYTES: return e->ram.bytes;
    case PS_SIZE_PERCENT:
        return roomy + (uint64_t)(e->ram.percent / 100 * (double)e->files.map->raw_bytes);
    case PS_SIZE_MIN: return least;
    case PS_SIZE_ALL:
    case PS_SIZE_DEFAULT: break;
    }
    return all < free80 ? all : free80 ? free80 : least;
}

static int publish_plan(struct ps_engine *e, const uint32_t *which, uint32_t n, struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    memset(e->tier, 0, m->n_extents);
    for (uint32_t i = 0; i < n; i++)
        e->tier[which[i]] = e->plan.tier[i];
    if (!e->cache || ps_cache_is_read_only(e->cache))
        return 0;
    uint8_t(*keys)[PS_SHA256_BYTES] = ps_malloc((size_t)n * PS_SHA256_BYTES + 1);
    if (!keys)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: planning");
    size_t k = 0;
    for (; k < e->plan.n_disk; k++)
        memcpy(keys[k], m->extents[which[e->plan.disk_order[k]]].key, PS_SHA256_BYTES);
    int rc =
        ps_cache_set_plan(e->cache, e->cache_model, (const uint8_t(*)[PS_SHA256_BYTES])keys, k, err);
    ps_free(keys);
    return rc;
}

static uint32_t ring_want(uint64_t slot_bytes)
{
    uint64_t n = slot_bytes ? 128 * MIB / slot_bytes : RING_MIN;
    return n < 16 ? 16 : n > 96 ? 96 : (uint32_t)n;
}

/* Chooses the budget and, within it, the largest chunks for `wanted`. in->fixed_bytes comes without those. */
static int choose_chunks(struct ps_engine *e, struct ps_plan_input *in, struct ps_need *wanted,
                         uint64_t *least, uint32_t *step, struct ps_err *err)
{
    struct ps_plan probe; /* the least comes out of a plan without a budget */
    int rc = ps_plan_make(&probe, in, NULL);
    uint64_t without = probe.ram_min_bytes, roomy = 0;
    ps_plan_deinit(&probe);
    if (rc < 0 && rc != PS_EBUDGET)
        return ps_err_set(err, rc, ORIGIN, "out of memory: planning");
    *least = UINT64_MAX; /* of a few rows, smaller chunks may take more than all at once */
    for (uint32_t i = 0; ps_engine_need_step(e, wanted, i); i++) {
        const uint64_t bytes = without + wanted->host_bytes;
        *least = bytes < *least ? bytes : *least;
        roomy = i == 0 ? bytes : roomy;
    }
    in->ram_bytes = ram_budget(e, in, *least, roomy);
    for (*step = 0; ps_engine_need_step(e, wanted, *step); ++*step)
        if (without + wanted->host_bytes <= in->ram_bytes || wanted->host_bytes == *least - without)
            break;
    in->fixed_bytes += wanted->host_bytes;
    const bool unasked = e->ram.kind == PS_SIZE_DEFAULT || e->ram.kind == PS_SIZE_ALL;
    if (unasked && in->ram_bytes < *least)
        return ps_err_set(err, PS_EBUDGET, ORIGIN,
                          "not enough memory: %llu bytes may be used (80 %% of what is free): the "
                          "least that works "
                          "here is %llu: use a smaller -c or -n, or say --ram",
                          (unsigned long long)in->ram_bytes, (unsigned long long)*least);
    return 0;
}

static int make_plan(struct ps_plan *out, struct ps_engine *e, struct ps_plan_input *in,
                     const struct ps_reserved *beside, struct ps_need *wanted, uint32_t *step,
                     struct ps_err *err)
{
    uint64_t least = 0;
    in->fixed_bytes = fixed_bytes(e) + beside->host_bytes;
    ps_engine_need_step(e, wanted,
                        0); /* chunks are the CPU's alone: this is what the device is asked for */
    int rc = ps_engine_plan_device(e, in, beside->device_bytes + wanted->device_bytes, err);
    if (rc == 0)
        rc = choose_chunks(e, in, wanted, &least, step, err);
    if (rc == 0)
        rc = ps_plan_make(out, in, err);
    if (rc == 0)
        out->ram_min_bytes = least;
    return rc;
}

/* The planner's input but for what sessions need, and what it points into. */
struct planning {
    struct ps_plan_input in;
    struct ps_plan_extent *list;
    uint32_t *which; /* extent indexes, by those of the list */
};

static void planning_deinit(struct planning *p)
{
    ps_free(p->list);
    ps_free(p->which);
}

static int planning_init(struct planning *p, struct ps_engine *e, struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    p->list = ps_calloc((size_t)m->n_extents + 1, sizeof *p->list);
    p->which = ps_calloc((size_t)m->n_extents + 1, sizeof *p->which);
    if (!e->ram_free_bytes)
        e->ram_free_bytes = ps_host_free_memory_bytes();
    if (!p->list || !p->which) {
        planning_deinit(p);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: planning %u extents", m->n_extents);
    }
    p->in = (struct ps_plan_input){
        .extents = p->list,
        .n_extents = list_extents(e, p->list, p->which),
        .local = e->source->local,
        .disk_bytes = ps_engine_disk_room(e),
        .slot_bytes = ps_sweep_slot_bytes(m),
        .ring_slots_min = RING_MIN,
        .gather_bytes = GATHER_SLOTS * ps_sweep_gather_slot_bytes(m, e->weights->embed),
        .gather_bytes_per_sweep = ps_sweep_gather_slot_bytes(m, e->weights->embed),
        .rates = rates_of(e),
    };
    p->in.ring_slots_want = ring_want(p->in.slot_bytes);
    return 0;
}

int ps_engine_check_plan(struct ps_engine *e, const struct ps_need *wanted)
{
    const struct ps_reserved none = {0};
    struct ps_need n = *wanted;
    struct planning p;
    struct ps_plan plan = {0};
    uint32_t step = 0;
    int rc = planning_init(&p, e, NULL);
    if (rc < 0)
        return rc;
    rc = make_plan(&plan, e, &p.in, &none, &n, &step, NULL);
    ps_plan_deinit(&plan);
    planning_deinit(&p);
    return rc;
}

/* The plan in the place of the present one. Takes what it points to. */
static int adopt_plan(struct ps_engine *e, struct ps_plan *plan, const struct planning *p,
                      uint32_t step, struct ps_err *err)
{
    if (!e->tier)
        e->tier = ps_calloc((size_t)e->files.map->n_extents + 1, 1);
    if (!e->tier)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: planning");
    ps_engine_stop_sweep(e); /* it borrows the plan */
    ps_plan_deinit(&e->plan);
    e->plan = *plan;
    *plan = (struct ps_plan){0};
    e->ram_budget_bytes = p->in.ram_bytes;
    e->vram_budget_bytes = p->in.vram_bytes;
    e->planned_step = step;
    const int rc = publish_plan(e, p->which, p->in.n_extents, err);
    e->planned = rc == 0;
    return rc;
}

/* A user who sees every run fetch everything would look for the fault elsewhere. `warm` says it as its error. */
static void tell_no_disk(const struct ps_engine *e, const struct ps_plan *plan)
{
    struct ps_err why = {0};
    if (!e->cache || plan->n_disk > 0 || e->o.headers_only || ps_cache_is_read_only(e->cache))
        return;
    (void)ps_engine_why_no_disk(e, &why);
    ps_log(PS_LOG_WARN, "cache", "%s", why.text);
}

int ps_engine_plan(struct ps_engine *e, const struct ps_reserved *beside, struct ps_need *wanted,
                   struct ps_err *err)
{
    struct planning p;
    struct ps_plan plan = {0};
    uint32_t step = 0;
    int rc = planning_init(&p, e, err);
    if (rc < 0)
        return rc;
    if ((rc = make_plan(&plan, e, &p.in, beside, wanted, &step, err)) < 0)
        goto out;
    if (!e->cache_opened && !e->waits) { /* it fits, whatever the disk holds */
        if ((rc = ps_engine_open_cache(e, err)) < 0)
            goto out;
        ps_plan_deinit(&plan);
        p.in.disk_bytes = ps_engine_disk_room(e);
        if ((rc = make_plan(&plan, e, &p.in, beside, wanted, &step, err)) < 0)
            goto out;
    }
    if (!e->planned && !e->waits)
        tell_no_disk(e, &plan);
    if ((rc = adopt_plan(e, &plan, &p, step, err)) == 0)
        e->reserved = (struct ps_reserved){beside->host_bytes + wanted->host_bytes,
                                           beside->device_bytes + wanted->device_bytes};
out:
    if (rc == PS_EBUDGET && !e->planned) { /* for the result of a run that is refused */
        e->plan.ram_min_bytes = plan.ram_min_bytes;
        e->plan.predicted_s_per_token = -1;
    }
    ps_plan_deinit(&plan);
    planning_deinit(&p);
    return rc;
}

static int open_sweep(struct ps_engine *e, bool for_device, struct ps_err *err)
{
    struct ps_sweep_options so = {
        .map = e->files.map,
        .source = e->source,
        .cache = e->cache,
        .cache_model = e->cache_model,
        .order = e->order,
        .n_order = e->n_order,
        .tier = e->tier,
        .ring_slots = e->plan.ring_slots,
        .gather_tensor = e->weights->embed,
        .gather_slots = GATHER_SLOTS,
        .stats = &e->stats,
        .interrupt = &e->interrupt,
    };
    int rc = for_device ? ps_engine_start_pins(e, &so, err) : 0;
    if (rc == 0)
        rc = ps_sweep_open(&e->sweep, &so, err);
    if (rc == 0 && for_device)
        rc = ps_engine_start_vram(e, err);
    if (rc < 0)
        ps_engine_stop_sweep(e);
    return rc;
}

int ps_engine_start_sweep(struct ps_engine *e, struct ps_err *err)
{
    return e->sweep ? 0 : open_sweep(e, e->gpu.api != NULL, err);
}

int ps_engine_start_fetching(struct ps_engine *e, struct ps_err *err)
{
    return open_sweep(e, false, err);
}

void ps_engine_stop_sweep(struct ps_engine *e)
{
    e->sweeps_stopped++;
    ps_vram_close(e->gpu.vram); /* it holds panels */
    e->gpu.vram = NULL;
    ps_sweep_close(e->sweep); /* it unpins what it frees */
    e->sweep = NULL;
    ps_pins_free(e->gpu.pins);
    e->gpu.pins = NULL;
}

/* ---- the plan as facts ---- */

void ps_engine_write_plan(struct ps_engine *e, struct ps_json_writer *w)
{
    const struct ps_map *m = e->files.map;
    const struct ps_plan *p = &e->plan;
    char id[2 * PS_SHA256_BYTES + 1];
    ps_hex_encode(m->model_id, PS_SHA256_BYTES, id);
    ps_jw_object(w);
    ps_jw_kstring(w, "model_id", id);
    ps_jw_kuint(w, "model_bytes", m->raw_bytes);
    ps_jw_kuint(w, "stored_bytes", m->stored_bytes);
    ps_jw_kuint(w, "layers", e->arch->n_layers);
    ps_jw_kuint(w, "extents", m->n_extents);
    ps_jw_kuint(w, "extent_bytes", m->extent_target_bytes);
    ps_jw_kuint(w, "disk_bytes", p->disk_weight_bytes);
    ps_jw_kuint(w, "disk_budget_bytes", e->disk_budget_bytes);
    ps_jw_kuint(w, "ram_bytes", p->ram_weight_bytes);
    ps_jw_kuint(w, "ram_budget_bytes", e->ram_budget_bytes);
    ps_jw_kuint(w, "ram_min_bytes", p->ram_min_bytes);
    ps_jw_kuint(w, "ring_slots", p->ring_slots);
    if (e->gpu.api) {
        ps_jw_kstring(w, "device", e->gpu.info.name);
        ps_jw_kuint(w, "device_layers", e->arch->n_layers - e->gpu.first_layer);
        ps_jw_kuint(w, "vram_bytes", p->vram_weight_bytes);
        ps_jw_kuint(w, "vram_budget_bytes", e->vram_budget_bytes);
        ps_jw_kuint(w, "vram_min_bytes", p->vram_min_bytes);
        ps_jw_kuint(w, "vram_slots", p->vram_slots);
        ps_jw_kuint(w, "bytes_bus_per_sweep", p->bytes_bus_per_sweep);
    }
    ps_jw_kuint(w, "bytes_per_sweep", p->bytes_per_sweep);
    ps_jw_kuint(w, "bytes_net_per_sweep", p->bytes_net_per_sweep);
    ps_jw_kuint(w, "bytes_disk_per_sweep", p->bytes_disk_per_sweep);
    ps_jw_key(w, "predicted_s_per_token");
    if (p->predicted_s_per_token < 0)
        ps_jw_null(w);
    else
        ps_jw_double(w, p->predicted_s_per_token);
    ps_jw_kstring(w, "binds", p->binds);
    ps_jw_key(w, "probe_age_s");
    if (e->probes.wall_s)
        ps_jw_double(w, rates_of(e).age_s);
    else
        ps_jw_null(w);
    ps_jw_object_end(w);
}
