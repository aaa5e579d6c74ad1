/* Weights in device memory: what the plan keeps there stays, the rest passes through a ring of slots.
 *
 *     sweep (host ring, RAM arena) --copy stream--> resident arena | ring slot --compute stream--> matmul
 *
 * The order of use is known, so copies run ahead of the kernels as far as there are slots, over the end of a sweep into
 * the next. The host queues and does not wait: a slot is filled again behind a mark that the kernels which read it will
 * reach. It waits only for bytes to arrive in host memory, and for old copies, whose host slots the scheduler needs.
 * Compressed extents cross the bus as stored and are decoded into the slot, or into their resident place, on arrival.
 *
 * Everything is allocated when it is opened. One thread, that of the forward pass; ps_pins_* also I/O threads. */
#ifndef PS_RUNTIME_VRAM_H
#define PS_RUNTIME_VRAM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/stats.h"
#include "kernels/device.h"
#include "proto/map.h"
#include "runtime/sweep.h"

/* ---- page-locked parts of the scheduler's memory ---- */

struct ps_pins;
int ps_pins_new(struct ps_pins **out, const struct ps_device_api *api, struct ps_device *device,
                uint32_t most, struct ps_err *err);
void ps_pins_free(struct ps_pins *p); /* nullable; unpins what is left */
/* Locks these pages. A refusal costs speed alone and is told once. Any thread; fits struct ps_sweep_options.landed. */
void ps_pins_add(void *pins, void *p, size_t bytes);
/* Unlocks all, before the memory goes away. */
void ps_pins_clear(void *pins);

/* ---- the ring and the residents ---- */

struct ps_vram;

struct ps_vram_options {
    const struct ps_device_api *api;
    struct ps_device *device;
    const struct ps_map *map;
    struct ps_sweep *sweep;
    const uint32_t *order; /* [n_order], borrowed, as the scheduler's */
    uint32_t n_order;
    const uint8_t *tier;      /* [map->n_extents]: bits of enum ps_tier, borrowed */
    uint32_t first_position;  /* in the order: what lies before it is used on the host */
    uint32_t slots;           /* at least PS_VRAM_SLOTS_MIN */
    uint32_t consumer_codecs; /* as the scheduler's */
    struct ps_stats *stats;
};
/* Half of them may be with the kernels while the other half is filled; three extents of 8 MiB are a matrix of a small
 * model's, which one launch then takes; and small panels take a slot too. */
#define PS_VRAM_SLOTS_MIN 8u

/* Device bytes of one ring slot: room for a raw extent and, where extents are decoded here, for a stored one. */
uint64_t ps_vram_slot_bytes(const struct ps_map *map, uint32_t consumer_codecs);
/* Marks of the device that a ring needs: 0 .. n - 1 are its own. */
uint32_t ps_vram_marks(uint32_t slots);

int ps_vram_open(struct ps_vram **out, const struct ps_vram_options *o, struct ps_err *err);
void ps_vram_close(struct ps_vram *v); /* nullable; before the scheduler is closed */

/* A sweep begins; new_sweep: the scheduler too is put at its start (nothing was used on the host before). */
void ps_vram_begin(struct ps_vram *v, bool new_sweep);
/* The device address of the next extent's rows, which kernels queued from now on may read. */
int ps_vram_next(struct ps_vram *v, uint32_t extent, const void **rows, struct ps_err *err);
/* All work on the extents taken so far is queued: their slots may be filled again behind it. */
int ps_vram_release(struct ps_vram *v);
/* May another extent be taken before the others are released? Not while half of the slots are out: a launch over many
 * extents costs less than many, but the bus needs the other half. */
bool ps_vram_may_take(const struct ps_vram *v);
/* Queues what copies it can without waiting, and gives the host slots of those that are done back. Where the host
 * computes the first layers, the last call of a sweep comes after the device was waited for: the host needs all of
 * them. */
int ps_vram_look_ahead(struct ps_vram *v, struct ps_err *err);
/* After an error inside a sweep: waits for the device, gives all panels back. */
void ps_vram_abandon(struct ps_vram *v);
/* Where an extent lies for good, or NULL. */
const void *ps_vram_resident(const struct ps_vram *v, uint32_t extent);
#endif
