/* Residency as arithmetic. See plan.h for the reasons. */
#include "runtime/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "kernels/device.h"

static const char *const ORIGIN = "plan";
#define PAGE 4096u

static uint64_t padded(uint64_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* What it takes of RAM, and of device memory (whose allocator aligns to less than a page). */
static uint64_t ram_bytes(const struct ps_plan_extent *e)
{
    return padded(e->coded ? e->stored_bytes : e->raw_bytes);
}

static uint64_t vram_bytes(const struct ps_plan_extent *e)
{
    return ps_device_align(e->raw_bytes);
}

struct ranked {
    uint32_t key, index;
};

static int by_key(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

int ps_plan_rank(uint32_t *out, uint32_t n)
{
    struct ranked *r = ps_malloc(sizeof *r * ((size_t)n + 1));
    if (!r)
        return PS_ENOMEM;
    /* 2^32 / golden ratio: multiples of it, modulo 2^32, fall evenly into [0, 1) at every prefix length. Things
     * ordered by that value are spread evenly over the positions whatever share is taken. */
    for (uint32_t i = 0; i < n; i++)
        r[i] = (struct ranked){.key = i * 2654435769u, .index = i};
    qsort(r, n, sizeof *r, by_key);
    for (uint32_t i = 0; i < n; i++)
        out[i] = r[i].index;
    ps_free(r);
    return 0;
}

static bool rankable(const struct ps_plan_extent *e)
{
    return e->swept && !e->vector;
}

/* Vectors first (a few KiB a layer, needed before anything else), then matrices by rank, then gathered rows in
 * their own order. */
static void place_disk(struct ps_plan *p, const struct ps_plan_input *in, const uint32_t *ranked,
                       uint32_t n_ranked)
{
    uint64_t room = in->disk_bytes;
    if (in->local)
        return;
#define TAKE(i)                                                                                    \
    do {                                                                                           \
        uint64_t b_ = in->extents[i].stored_bytes;                                                 \
        if (b_ <= room) {                                                                          \
            room -= b_;                                                                            \
            p->disk_weight_bytes += b_;                                                            \
            p->tier[i] |= PS_TIER_DISK;                                                            \
            p->disk_order[p->n_disk++] = (i);                                                      \
        } else {                                                                                   \
            room = 0; /* keep the prefix property: a larger budget keeps a superset */             \
        }                                                                                          \
    } while (0)
    for (uint32_t i = 0; i < in->n_extents; i++)
        if (in->extents[i].vector)
            TAKE(i);
    for (uint32_t k = 0; k < n_ranked; k++)
        TAKE(ranked[k]);
    for (uint32_t i = 0; i < in->n_extents; i++)
        if (!in->extents[i].swept && !in->extents[i].vector)
            TAKE(i);
#undef TAKE
}

/* From the back of the ranking until the first that does not fit. */
static void place_vram(struct ps_plan *p, const struct ps_plan_input *in, const uint32_t *ranked,
                       uint32_t n_ranked, uint64_t room)
{
    for (uint32_t k = n_ranked; k-- > 0;) {
        const struct ps_plan_extent *e = &in->extents[ranked[k]];
        if (!e->device)
            continue;
        if (vram_bytes(e) > room)
            break;
        room -= vram_bytes(e);
        p->vram_weight_bytes += vram_bytes(e);
        p->tier[ranked[k]] |= PS_TIER_VRAM;
    }
}

static void place_ram(struct ps_plan *p, const struct ps_plan_input *in, const uint32_t *ranked,
                      uint32_t n_ranked, uint64_t room)
{
    for (uint32_t k = n_ranked; k-- > 0;) {
        uint64_t b = ram_bytes(&in->extents[ranked[k]]);
        if (p->tier[ranked[k]] & PS_TIER_VRAM)
            continue;
        if (b > room)
            break;
        room -= b;
        p->ram_weight_bytes += b;
        p->tier[ranked[k]] |= PS_TIER_RAM;
    }
    /* gathered rows last, and only as a whole matrix: a part of an embedding saves nothing predictable */
    uint64_t rest = 0;
    for (uint32_t i = 0; i < in->n_extents; i++)
        if (!in->extents[i].swept && !in->extents[i].vector)
            rest += ram_bytes(&in->extents[i]);
    if (rest == 0 || rest > room)
        return;
    for (uint32_t i = 0; i < in->n_extents; i++)
        if (!in->extents[i].swept && !in->extents[i].vector)
            p->tier[i] |= PS_TIER_RAM;
    p->ram_weight_bytes += rest;
}

static void count_sweep(struct ps_plan *p, const struct ps_plan_input *in)
{
    for (uint32_t i = 0; i < in->n_extents; i++) {
        const struct ps_plan_extent *e = &in->extents[i];
        if (!e->swept)
            continue;
        p->bytes_per_sweep += e->stored_bytes;
        *(e->device ? &p->device_bytes_per_sweep : &p->host_bytes_per_sweep) += e->raw_bytes;
        if (p->tier[i] & PS_TIER_VRAM)
            continue;
        if (e->device)
            p->bytes_bus_per_sweep += e->coded ? e->stored_bytes : e->raw_bytes;
        if (p->tier[i] & PS_TIER_RAM)
            continue;
        if ((p->tier[i] & PS_TIER_DISK) || in->local)
            p->bytes_disk_per_sweep += e->stored_bytes;
        else
            p->bytes_net_per_sweep += e->stored_bytes;
    }
}

/* The tiers are pipelined, so the slowest alone decides. RAM carries every byte that the CPU computes with, VRAM every
 * byte that the device does: decoded ones, where link and disk carry them as stored. A token is one row, which memory
 * binds and never arithmetic. */
static void predict(struct ps_plan *p, const struct ps_plan_input *in)
{
    const struct ps_plan_rates *r = &in->rates;
    const struct {
        const char *name;
        uint64_t bytes;
        double rate;
    } links[] = {
        {"ram", p->host_bytes_per_sweep, r->ram},
        {"vram", p->device_bytes_per_sweep, r->vram},
        {"bus", p->bytes_bus_per_sweep, r->bus},
        {"disk", p->bytes_disk_per_sweep, r->disk},
        {"link", p->bytes_net_per_sweep + (p->bytes_net_per_sweep ? in->gather_bytes_per_sweep : 0),
         r->link},
    };
    double most = -1;
    const char *binds = "unknown";
    p->binds = binds;
    p->predicted_s_per_token = -1;
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++) {
        if (!links[i].bytes)
            continue;
        if (links[i].rate <= 0)
            return;
        double t = (double)links[i].bytes / links[i].rate;
        if (t > most) {
            most = t;
            binds = links[i].name;
        }
    }
    p->predicted_s_per_token = most;
    p->binds = binds;
}

/* Slots beyond the least: weights that stay are worth more than a longer ring, but a short ring can't hide a slow
 * link, so the ring gets at most a quarter of what is spare. */
static uint32_t ring_slots(uint64_t spare, uint64_t slot_bytes, uint32_t least, uint32_t want)
{
    uint64_t more = slot_bytes ? spare / 4 / slot_bytes : 0;
    uint64_t wanted = want > least ? want - least : 0;
    return least + (uint32_t)(more < wanted ? more : wanted);
}

/* The device's share. `vectors`: bytes of norms and biases that live there. */
static int plan_vram(struct ps_plan *p, const struct ps_plan_input *in, const uint32_t *ranked,
                     uint32_t n, uint64_t vectors, struct ps_err *err)
{
    p->vram_slots = in->vram_slots_min;
    p->vram_min_bytes =
        in->vram_fixed_bytes + vectors + (uint64_t)in->vram_slots_min * in->vram_slot_bytes;
    if (in->vram_bytes < p->vram_min_bytes)
        return ps_err_set(
            err, PS_EBUDGET, ORIGIN,
            "--vram is too small: %llu bytes given: the least that works here is %llu",
            (unsigned long long)in->vram_bytes, (unsigned long long)p->vram_min_bytes);
    p->vram_slots = ring_slots(in->vram_bytes - p->vram_min_bytes, in->vram_slot_bytes,
                               in->vram_slots_min, in->vram_slots_want);
    p->vram_fixed_bytes = in->vram_fixed_bytes + (uint64_t)p->vram_slots * in->vram_slot_bytes;
    place_vram(p, in, ranked, n, in->vram_bytes - p->vram_fixed_bytes - vectors);
    p->vram_weight_bytes += vectors;
    return 0;
}

/* Ranks the matrices; vectors are placed at once: *in_ram and *in_vram are their bytes. */
static int rank(struct ps_plan *p, const struct ps_plan_input *in, uint32_t *ranked,
                uint32_t *where, uint32_t *n, uint64_t *in_ram, uint64_t *in_vram)
{
    *n = 0;
    *in_ram = *in_vram = 0;
    for (uint32_t i = 0; i < in->n_extents; i++) {
        const struct ps_plan_extent *e = &in->extents[i];
        if (rankable(e))
            where[(*n)++] = i;
        if (!e->vector)
            continue;
        *(e->device ? in_vram : in_ram) += e->device ? vram_bytes(e) : padded(e->raw_bytes);
        p->tier[i] |= e->device ? PS_TIER_VRAM : PS_TIER_RAM;
    }
    int rc = ps_plan_rank(ranked, *n);
    for (uint32_t k = 0; rc == 0 && k < *n; k++)
        ranked[k] = where[ranked[k]];
    return rc;
}

int ps_plan_make(struct ps_plan *out, const struct ps_plan_input *in, struct ps_err *err)
{
    memset(out, 0, sizeof *out);
    uint32_t *ranked = ps_malloc(sizeof *ranked * ((size_t)in->n_extents + 1));
    uint32_t *where = ps_malloc(sizeof *where * ((size_t)in->n_extents + 1));
    out->tier = ps_calloc((size_t)in->n_extents + 1, 1);
    out->disk_order = ps_malloc(sizeof *out->disk_order * ((size_t)in->n_extents + 1));
    uint32_t n = 0;
    uint64_t vectors = 0, device_vectors = 0;
    int rc = PS_ENOMEM;
    if (ranked && where && out->tier && out->disk_order)
        rc = rank(out, in, ranked, where, &n, &vectors, &device_vectors);
    if (rc < 0) {
        ps_err_set(err, rc, ORIGIN, "out of memory: planning %u extents", in->n_extents);
        goto out;
    }
    uint64_t base = in->fixed_bytes + vectors + in->gather_bytes;
    out->ram_min_bytes = base + (uint64_t)in->ring_slots_min * in->slot_bytes;
    out->ring_slots = in->ring_slots_min;
    place_disk(out, in, ranked, n);
    if (in->has_device && (rc = plan_vram(out, in, ranked, n, device_vectors, err)) < 0)
        goto count;
    if (in->ram_bytes < out->ram_min_bytes) {
        rc = ps_err_set(err, PS_EBUDGET, ORIGIN,
                        "--ram is too small: %llu bytes given: the least that works here is %llu",
                        (unsigned long long)in->ram_bytes, (unsigned long long)out->ram_min_bytes);
        goto count;
    }
    out->ring_slots = ring_slots(in->ram_bytes - out->ram_min_bytes, in->slot_bytes,
                                 in->ring_slots_min, in->ring_slots_want);
    out->ram_fixed_bytes = base - vectors + (uint64_t)out->ring_slots * in->slot_bytes;
    place_ram(out, in, ranked, n, in->ram_bytes - out->ram_fixed_bytes - vectors);
    out->ram_weight_bytes += vectors;
count:
    count_sweep(out, in);
    predict(out, in);
out:
    ps_free(ranked);
    ps_free(where);
    return rc;
}

void ps_plan_deinit(struct ps_plan *p)
{
    ps_free(p->tier);
    ps_free(p->disk_order);
    p->tier = NULL;
    p->disk_order = NULL;
}
