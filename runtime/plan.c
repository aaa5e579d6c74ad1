/* Residency as arithmetic. See plan.h for the reasons. */
#include "runtime/plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

static const char *const ORIGIN = "plan";
#define PAGE 4096u

static uint64_t padded(uint64_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
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
        uint64_t b_ = padded(in->extents[i].stored_bytes);                                         \
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

static void place_ram(struct ps_plan *p, const struct ps_plan_input *in, const uint32_t *ranked,
                      uint32_t n_ranked, uint64_t room)
{
    for (uint32_t k = n_ranked; k-- > 0;) {
        uint64_t b = padded(in->extents[ranked[k]].raw_bytes);
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
            rest += padded(in->extents[i].raw_bytes);
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
        if (p->tier[i] & PS_TIER_RAM)
            continue;
        if ((p->tier[i] & PS_TIER_DISK) || in->local)
            p->bytes_disk_per_sweep += e->stored_bytes;
        else
            p->bytes_net_per_sweep += e->stored_bytes;
    }
}

/* The tiers are pipelined, so the slowest alone decides. RAM carries every byte through the arithmetic. */
static void predict(struct ps_plan *p, const struct ps_plan_input *in)
{
    const struct ps_plan_rates *r = &in->rates;
    p->binds = "unknown";
    p->predicted_s_per_token = -1;
    uint64_t net = p->bytes_net_per_sweep + (p->bytes_net_per_sweep ? in->gather_bytes_per_sweep : 0);
    if ((net && r->link <= 0) || (p->bytes_disk_per_sweep && r->disk <= 0) || r->ram <= 0)
        return;
    double t_net = net ? (double)net / r->link : 0;
    double t_disk = p->bytes_disk_per_sweep ? (double)p->bytes_disk_per_sweep / r->disk : 0;
    double t_ram = (double)p->bytes_per_sweep / r->ram;
    p->predicted_s_per_token = t_ram;
    p->binds = "ram";
    if (t_disk > p->predicted_s_per_token) {
        p->predicted_s_per_token = t_disk;
        p->binds = "disk";
    }
    if (t_net > p->predicted_s_per_token) {
        p->predicted_s_per_token = t_net;
        p->binds = "link";
    }
}

int ps_plan_make(struct ps_plan *out, const struct ps_plan_input *in, struct ps_err *err)
{
    memset(out, 0, sizeof *out);
    uint32_t *ranked = ps_malloc(sizeof *ranked * ((size_t)in->n_extents + 1));
    uint32_t *where = ps_malloc(sizeof *where * ((size_t)in->n_extents + 1));
    out->tier = ps_calloc((size_t)in->n_extents + 1, 1);
    out->disk_order = ps_malloc(sizeof *out->disk_order * ((size_t)in->n_extents + 1));
    int rc = 0;
    uint32_t n = 0;
    uint64_t vectors = 0;
    if (!ranked || !where || !out->tier || !out->disk_order) {
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory: planning %u extents", in->n_extents);
        goto out;
    }
    for (uint32_t i = 0; i < in->n_extents; i++) {
        if (rankable(&in->extents[i]))
            where[n++] = i;
        if (in->extents[i].vector) {
            vectors += padded(in->extents[i].raw_bytes);
            out->tier[i] |= PS_TIER_RAM;
        }
    }
    if ((rc = ps_plan_rank(ranked, n)) < 0) {
        ps_err_set(err, rc, ORIGIN, "out of memory: planning");
        goto out;
    }
    for (uint32_t k = 0; k < n; k++)
        ranked[k] = where[ranked[k]];

    uint64_t base = in->fixed_bytes + vectors + in->gather_bytes;
    out->ram_min_bytes = base + (uint64_t)in->ring_slots_min * in->slot_bytes;
    place_disk(out, in, ranked, n);
    if (in->ram_bytes < out->ram_min_bytes) {
        rc = ps_err_set(err, PS_EBUDGET, ORIGIN,
                        "--ram is too small: %llu bytes given: the least that works here is %llu",
                        (unsigned long long)in->ram_bytes, (unsigned long long)out->ram_min_bytes);
        out->ring_slots = in->ring_slots_min;
        goto count;
    }
    /* Weights that stay are worth more than a longer ring, but a ring of eight can't hide a slow link: the ring
     * gets at most a quarter. */
    uint64_t spare = in->ram_bytes - out->ram_min_bytes;
    uint64_t more = in->slot_bytes ? spare / 4 / in->slot_bytes : 0;
    uint64_t want =
        in->ring_slots_want > in->ring_slots_min ? in->ring_slots_want - in->ring_slots_min : 0;
    out->ring_slots = in->ring_slots_min + (uint32_t)(more < want ? more : want);
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
