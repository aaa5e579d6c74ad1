/* The device of one engine: which, how much of its memory, and what of the model it computes. Fixed when the model is
 * opened: a layer computed elsewhere rounds otherwise, so neither a budget nor the number of rows may choose. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "runtime/engine.h"

static const char *const ORIGIN = "device";
#define MIB 1024ull * 1024
/* Left free on the device where nothing was said: its driver and its desktop take memory too. */
#define VRAM_MARGIN_BYTES (256 * MIB)
/* Ring and residents; of each session activations, KV and page tables: a driver gives each of them whole large
 * pages. */
#define N_ALLOCATIONS         2
#define N_SESSION_ALLOCATIONS 3
#define ALLOCATION_ROUNDS_TO  (2 * MIB)
#define VRAM_SLOTS_WANT       24u
#define VRAM_SLOTS_MOST       32u

/* "cuda" or "cuda:1" to kind and index. */
static int parse_device(const char *text, char *kind, size_t cap, uint32_t *index, struct ps_err *err)
{
    const char *colon = strchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : strlen(text);
    char *end = NULL;
    unsigned long i = colon ? strtoul(colon + 1, &end, 10) : 0;
    bool ok = n > 0 && n < cap &&
              (!colon || (end != colon + 1 && *end == 0 && colon[1] != '-' && i < 1024));
    if (!ok)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "--device: \"%.40s\": use cpu, cuda or cuda:N",
                          text);
    memcpy(kind, text, n);
    kind[n] = 0;
    *index = (uint32_t)i;
    return 0;
}

/* The types of all matrices, which the device must have a product for. */
static int check_types(const struct ps_engine *e, struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    for (uint32_t i = 0; i < e->n_order; i++) {
        const struct ps_tensor *t = &m->tensors[m->extents[e->order[i]].tensor];
        enum ps_dtype type = ps_weights_type(m, e->weights, e->order[i]);
        if (e->weights->bound[t - m->tensors].type == PS_DTYPE_NONE)
            continue; /* scales */
        if (t->n_dims > 1 && !e->gpu.api->multiplies(e->gpu.device, type))
            return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                              "%s can't multiply %s (tensor %s): use --device cpu",
                              e->gpu.info.name, ps_dtype_name(type), t->name);
    }
    return 0;
}

/* Where in the order of use the device's layers begin. */
static uint32_t first_position(const struct ps_engine *e, uint32_t layer)
{
    const struct ps_map *m = e->files.map;
    uint32_t i = 0;
    while (i < e->n_order && m->tensors[m->extents[e->order[i]].tensor].layer >= 0 &&
           (uint32_t)m->tensors[m->extents[e->order[i]].tensor].layer < layer)
        i++;
    return i;
}

int ps_engine_open_device(struct ps_engine *e, struct ps_err *err)
{
    const char *text = e->o.device && *e->o.device ? e->o.device : "cpu";
    struct ps_device_options o = {.n_marks = ps_vram_marks(VRAM_SLOTS_MOST) + PS_COMPUTE_MARKS};
    char kind[32];
    int rc = ps_size_parse(&e->vram, e->o.vram, "--vram", err);
    if (rc == 0)
        rc = parse_device(text, kind, sizeof kind, &o.index, err);
    if (rc < 0)
        return rc;
    e->gpu.first_layer = e->arch->n_layers;
    e->gpu.first_position = e->n_order;
    if (strcmp(kind, "cpu") == 0)
        return strlen(text) == 3 ? 0
                                 : ps_err_set(err, PS_EUSAGE, ORIGIN,
                                              "--device: \"%.40s\": use cpu, cuda or cuda:N", text);
    if ((rc = ps_device_load(&e->gpu.api, kind, err)) < 0)
        return rc;
    if ((rc = e->gpu.api->open(&e->gpu.device, &o, err)) < 0) {
        e->gpu.api = NULL;
        return rc;
    }
    e->gpu.api->info(e->gpu.device, &e->gpu.info);
    uint32_t n = e->arch->n_layers, wanted = e->o.gpu_layers > 0 ? (uint32_t)e->o.gpu_layers : n;
    e->gpu.first_layer = wanted < n ? n - wanted : 0;
    e->gpu.first_position = first_position(e, e->gpu.first_layer);
    ps_log(PS_LOG_INFO, ORIGIN, "%s (%s), %llu MiB free; its driver takes %llu MiB of host memory",
           e->gpu.info.name, e->gpu.info.arch, (unsigned long long)(e->gpu.info.free_bytes / (MIB)),
           (unsigned long long)(e->gpu.info.host_bytes / (MIB)));
    return check_types(e, err);
}

void ps_engine_close_device(struct ps_engine *e)
{
    if (e->gpu.api)
        e->gpu.api->close(e->gpu.device);
    e->gpu.api = NULL;
    e->gpu.device = NULL;
}

bool ps_engine_on_device(const struct ps_engine *e, uint32_t position)
{
    return e->gpu.api && position >= e->gpu.first_position;
}

/* Codecs that extents keep on their way to the device. The CPU's layers need theirs decoded, and one scheduler serves
 * both. */
static uint32_t device_codecs(const struct ps_engine *e)
{
    return e->gpu.api && e->gpu.first_layer == 0 ? e->gpu.info.codecs : 0;
}

bool ps_engine_stays_coded(const struct ps_engine *e, const struct ps_extent *x)
{
    return (device_codecs(e) >> x->codec & 1u) && x->tensor != e->weights->embed;
}

/* ---- budget ---- */

uint64_t ps_engine_device_bytes(const struct ps_engine *e, const struct ps_need *n)
{
    const struct ps_arch *a = e->arch;
    if (!e->gpu.api)
        return 0;
    const struct ps_compute_options o = {
        .arch = a,
        .weights = e->weights,
        .map = e->files.map,
        .max_rows = n->rows,
        .ubatch = ps_compute_device_ubatch(n->ubatch, n->rows),
        .logit_rows = n->all_logits ? n->rows : 1,
        .ctx = n->ctx,
    };
    uint64_t bytes = ps_compute_device_bytes(e->gpu.api, e->gpu.device, &o);
    bytes += e->o.no_kv_offload ? 0
                                : ps_kv_bytes(a->n_layers - e->gpu.first_layer, a->n_kv_heads,
                                              a->head_dim, n->ctx, e->k_type, e->v_type);
    return bytes + ps_kv_table_bytes(a->n_layers, n->ctx) +
           N_SESSION_ALLOCATIONS * ALLOCATION_ROUNDS_TO;
}

static uint64_t vram_budget(const struct ps_engine *e, const struct ps_plan_input *in, uint64_t least)
{
    uint64_t all =
        least + (uint64_t)(in->vram_slots_want - in->vram_slots_min) * in->vram_slot_bytes * 4;
    uint64_t weights = 0;
    for (uint32_t i = 0; i < in->n_extents; i++)
        weights += in->extents[i].device ? in->extents[i].raw_bytes + 256ull : 0;
    all += weights;
    uint64_t left =
        e->gpu.info.free_bytes > VRAM_MARGIN_BYTES ? e->gpu.info.free_bytes - VRAM_MARGIN_BYTES : 0;
    switch (e->vram.kind) {
    case PS_SIZE_BYTES: return e->vram.bytes;
    case PS_SIZE_PERCENT: return least + (uint64_t)(e->vram.percent / 100 * (double)weights);
    case PS_SIZE_MIN: return least;
    case PS_SIZE_ALL:
    case PS_SIZE_DEFAULT: break;
    }
    if (left < least && least <= e->gpu.info.free_bytes)
        left = least; /* the margin is worth less than a run */
    return all < left ? all : left;
}

int ps_engine_plan_device(struct ps_engine *e, struct ps_plan_input *in, uint64_t bytes,
                          struct ps_err *err)
{
    if (!e->gpu.api)
        return 0;
    in->has_device = true;
    in->vram_fixed_bytes = bytes + N_ALLOCATIONS * ALLOCATION_ROUNDS_TO;
    in->vram_slot_bytes = ps_vram_slot_bytes(e->files.map, device_codecs(e));
    in->vram_slots_min = PS_VRAM_SLOTS_MIN;
    in->vram_slots_want = VRAM_SLOTS_WANT;
    struct ps_plan probe; /* the least comes out of a plan without a budget */
    int rc = ps_plan_make(&probe, in, NULL);
    uint64_t least = probe.vram_min_bytes;
    ps_plan_deinit(&probe);
    if (rc < 0 && rc != PS_EBUDGET)
        return ps_err_set(err, rc, ORIGIN, "out of memory: planning");
    in->vram_bytes = vram_budget(e, in, least);
    if (e->vram.kind != PS_SIZE_BYTES && least > e->gpu.info.free_bytes)
        return ps_err_set(err, PS_EBUDGET, ORIGIN,
                          "the device has %llu bytes free: the least that works here is %llu: make "
                          "room, or use -ngl, a smaller -c or --device cpu",
                          (unsigned long long)e->gpu.info.free_bytes, (unsigned long long)least);
    return 0;
}

uint64_t ps_engine_device_host_bytes(const struct ps_engine *e, const struct ps_need *n)
{
    const struct ps_arch *a = e->arch;
    if (!e->gpu.api)
        return 0;
    uint64_t kv = e->o.no_kv_offload ? ps_kv_bytes(a->n_layers - e->gpu.first_layer, a->n_kv_heads,
                                                   a->head_dim, n->ctx, e->k_type, e->v_type)
                                     : 0;
    return ps_compute_device_host_bytes(a, n->rows) + kv;
}

/* ---- ring ---- */

int ps_engine_start_pins(struct ps_engine *e, struct ps_sweep_options *so, struct ps_err *err)
{
    if (!e->gpu.api)
        return 0;
    int rc = ps_pins_new(&e->gpu.pins, e->gpu.api, e->gpu.device, e->files.map->n_extents + 1, err);
    if (rc < 0)
        return rc;
    so->consumer_codecs = device_codecs(e);
    so->landed = ps_pins_add;
    so->closing = ps_pins_clear;
    so->landed_user = e->gpu.pins;
    return 0;
}

int ps_engine_start_vram(struct ps_engine *e, struct ps_err *err)
{
    if (!e->gpu.api)
        return 0;
    void *slots;
    size_t bytes;
    ps_sweep_slots(e->sweep, &slots, &bytes);
    ps_pins_add(e->gpu.pins, slots, bytes);
    struct ps_vram_options vo = {
        .api = e->gpu.api,
        .device = e->gpu.device,
        .map = e->files.map,
        .sweep = e->sweep,
        .order = e->order,
        .n_order = e->n_order,
        .tier = e->tier,
        .first_position = e->gpu.first_position,
        .slots = e->plan.vram_slots,
        .consumer_codecs = device_codecs(e),
        .stats = &e->stats,
    };
    return ps_vram_open(&e->gpu.vram, &vo, err);
}

uint64_t ps_engine_device_taken(const struct ps_engine *e)
{
    struct ps_device_info now;
    if (!e->gpu.api)
        return 0;
    e->gpu.api->info(e->gpu.device, &now);
    return e->gpu.info.free_bytes > now.free_bytes ? e->gpu.info.free_bytes - now.free_bytes : 0;
}

struct ps_device_place ps_engine_place(const struct ps_engine *e)
{
    return (struct ps_device_place){.api = e->gpu.api,
                                    .device = e->gpu.device,
                                    .vram = e->gpu.vram,
                                    .mark = ps_vram_marks(VRAM_SLOTS_MOST)};
}
