/* The residency plan: which extents live in VRAM, which in RAM, which on disk, which are streamed every sweep. A
 * pure function of sizes and budgets: no I/O, no clock, no state, so that it is tested without a model.
 *
 * Decoding reads the layers in a cycle. With room for C of N the optimum is a fixed subset, kept for ever, the
 * rest streamed past the cache without writing it (LRU on a cycle hits never). One low-discrepancy order
 * (multiples of the golden ratio, after Weyl) ranks the extents: the disk takes from its front, RAM from its back,
 * so the tiers are disjoint while they can be, what is missing is spread evenly over the layers, and a changed
 * budget moves only the difference. With a GPU its memory takes from the back first, RAM what comes before that:
 * the bus then has the same work everywhere in a sweep. */
#ifndef PS_RUNTIME_PLAN_H
#define PS_RUNTIME_PLAN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

/* Bits: DISK with RAM or with VRAM is possible, RAM with VRAM is not. */
enum ps_tier { PS_TIER_NET = 0, PS_TIER_DISK = 1, PS_TIER_RAM = 2, PS_TIER_VRAM = 4 };

struct ps_plan_extent {
    uint32_t stored_bytes, raw_bytes;
    bool swept;  /* used once in every sweep */
    bool vector; /* norm or bias: always in RAM (or VRAM), first on disk */
    bool device; /* used on the device: may live in VRAM, crosses the bus where it does not */
    bool coded;  /* RAM keeps it as stored */
};

struct ps_plan_rates { /* bytes per second, 0 = unknown */
    double link, disk, ram;
    double bus, vram; /* into device memory; device memory through its arithmetic */
    double age_s;     /* of the oldest figure */
};

struct ps_plan_input {
    const struct ps_plan_extent *extents; /* in order of use; gathered-only extents (untied embedding) last */
    uint32_t n_extents;
    bool local;           /* the source is a local folder: no disk tier */
    uint64_t disk_bytes;  /* stored bytes that the disk has room for: padding is off already */
    uint64_t ram_bytes;   /* the whole budget */
    uint64_t fixed_bytes; /* KV, activations, tokenizer, map, program: needed whatever is resident */
    uint64_t slot_bytes;  /* one ring slot */
    uint32_t ring_slots_min, ring_slots_want;
    bool has_device;
    uint64_t vram_bytes;       /* the whole budget */
    uint64_t vram_fixed_bytes; /* KV, activations: needed whatever is resident */
    uint64_t vram_slot_bytes;
    uint32_t vram_slots_min, vram_slots_want;
    uint64_t gather_bytes;           /* largest extent of the gathered matrix x gather slots */
    uint64_t gather_bytes_per_sweep; /* expected, for the prediction */
    struct ps_plan_rates rates;
};

struct ps_plan {
    uint8_t *tier; /* [n_extents] bits of enum ps_tier, indexed like the input */
    uint32_t *disk_order; /* [n_disk]: what is kept on disk, in order of admission: the cache shrinks from the end */
    uint32_t n_disk;
    uint64_t ram_min_bytes;     /* the least budget that works */
    uint64_t ram_fixed_bytes;   /* fixed + ring + gather, as planned */
    uint64_t ram_weight_bytes;  /* resident weights */
    uint64_t disk_weight_bytes; /* padded */
    uint32_t ring_slots;
    uint64_t vram_min_bytes, vram_fixed_bytes, vram_weight_bytes; /* as those of RAM */
    uint32_t vram_slots;
    uint64_t bytes_per_sweep;                              /* stored bytes used by one sweep */
    uint64_t bytes_net_per_sweep, bytes_disk_per_sweep;    /* steady state */
    uint64_t bytes_bus_per_sweep;                          /* into device memory, as they cross */
    uint64_t host_bytes_per_sweep, device_bytes_per_sweep; /* decoded: what each computes with */
    double predicted_s_per_token;                          /* < 0: unknown (no probes) */
    const char *binds; /* "link", "disk", "ram", "bus", "vram", "unknown" */
};

/* PS_EBUDGET when ram_bytes is below ram_min_bytes or vram_bytes below vram_min_bytes; the figures in *out are
 * filled even then. Free with ps_plan_deinit. */
int ps_plan_make(struct ps_plan *out, const struct ps_plan_input *in, struct ps_err *err);
void ps_plan_deinit(struct ps_plan *p);

/* Rank order of n things: out[i] is the position of the i-th best. Deterministic. */
int ps_plan_rank(uint32_t *out, uint32_t n);
#endif
