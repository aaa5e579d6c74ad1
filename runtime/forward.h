/* The forward pass: one sweep over all layers with T rows, driven by the descriptor. Rows of weights come in as
 * panels from the scheduler, in the order of weights.c; logits go out. Prefill is layer-major: all T rows pass
 * through a panel before the next one arrives, so a prompt of any length costs one sweep.
 *
 * What a layer computes stands in forward.c; where it is computed is compute.h's business: on the CPU, on a device, or
 * the first layers here and the rest there. Where is fixed when the model starts: another backend rounds otherwise.
 *
 * One thread at a time; the pool's threads work inside. No allocation after init. */
#ifndef PS_RUNTIME_FORWARD_H
#define PS_RUNTIME_FORWARD_H
#include <stdatomic.h>
#include <stdint.h>
#include "base/err.h"
#include "base/pool.h"
#include "runtime/compute.h"
#include "runtime/compute_device.h"
#include "runtime/kv.h"

struct ps_forward;

struct ps_forward_options {
    const struct ps_arch *arch;
    const struct ps_weights *weights;
    const struct ps_map *map;
    const struct ps_backend *backend;
    struct ps_pool *pool;
    struct ps_sweep *sweep;
    struct ps_device_place device; /* api NULL: all on the CPU */
    uint32_t device_layer;         /* the first layer that the device computes */
    uint32_t max_rows;             /* most T of a call */
    struct ps_chunks chunks;       /* on the CPU */
    uint32_t ubatch;               /* rows per kernel call on a device; 0: its own choice */
    uint32_t ctx;                  /* positions of the KV cache */
    bool all_logits;               /* a call may ask for the logits of every row */
    const atomic_int *interrupt;
    /* Nullable: bytes of weights used so far in this sweep and in all of it, a few times a second while a prompt
     * is worked on. */
    void (*progress)(void *user, uint64_t done, uint64_t total);
    void *progress_user;
};
/* Ways to work on max_rows rows on the CPU, each taking less memory than the one before: `step` counts from 0. Where
 * `ubatch` rows at once were asked for it stays with those; else (0) they are 512 and fewer. False: there is no such
 * step. */
bool ps_forward_chunks(struct ps_chunks *out, uint32_t ubatch, uint32_t max_rows, uint32_t step);
int ps_forward_new(struct ps_forward **out, const struct ps_forward_options *o, struct ps_err *err);
void ps_forward_free(struct ps_forward *f);

/* One sweep: ids[T] at positions pos0.., appended to kv. logits: [vocab] of the last row, or [T][vocab] when
 * `all`. T <= max_rows. */
int ps_forward_sweep(struct ps_forward *f, struct ps_kv *kv, const uint32_t *ids, size_t T,
                     uint32_t pos0, float *logits, bool all, struct ps_err *err);
#endif
