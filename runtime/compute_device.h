/* The layers' arithmetic on a device: see compute.h. Panels come from the ring in its memory (vram.h); every operation
 * is queued, and the host waits for logits alone. */
#ifndef PS_RUNTIME_COMPUTE_DEVICE_H
#define PS_RUNTIME_COMPUTE_DEVICE_H
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "kernels/device.h"
#include "runtime/compute.h"
#include "runtime/kv.h"
#include "runtime/vram.h"

struct ps_device_place {
    const struct ps_device_api *api; /* NULL: no device */
    struct ps_device *device;
    struct ps_vram *vram;
    uint32_t mark; /* from here on PS_COMPUTE_MARKS are free for the compute */
};
#define PS_COMPUTE_MARKS 3u

/* Rows of one launch where `ubatch` were asked for (0: nothing was): a GPU wants more at once than a CPU. Never changes
 * a result. */
uint32_t ps_compute_device_ubatch(uint32_t ubatch, uint32_t max_rows);
/* Device bytes that ps_compute_device_new allocates: of arch, weights, map, max_rows, ubatch, logit_rows and ctx.
 * Asks the device for the sizes of its packed forms. */
uint64_t ps_compute_device_bytes(const struct ps_device_api *api, struct ps_device *d,
                                 const struct ps_compute_options *o);
/* Host bytes of its staging. */
uint64_t ps_compute_device_host_bytes(const struct ps_arch *a, uint32_t max_rows);
int ps_compute_device_new(struct ps_compute **out, const struct ps_compute_options *o,
                          const struct ps_device_place *place, struct ps_err *err);
/* After the error rc inside a sweep: the ring gives its panels back, nothing is under way any more. Returns rc; if the
 * device has failed, its own code and, in *err, its own words: the call that stumbled over that knows neither. */
int ps_compute_device_abandon(struct ps_compute *c, int rc, struct ps_err *err);

/* Device bytes of the page tables of a KV cache, and its memory for layers [kv->host_layers, n_layers): on the
 * device, or (shared) in host memory that it reads over the bus. */
uint64_t ps_kv_table_bytes(uint32_t n_layers, uint32_t positions);
int ps_kv_put_away(struct ps_kv *kv, const struct ps_device_place *place, bool shared,
                   struct ps_err *err);
void ps_kv_free_away(struct ps_kv *kv); /* before ps_kv_deinit; nothing to do where none is */
#endif
