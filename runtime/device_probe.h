/* What a device's two links give: the bus into its memory, and that memory through its arithmetic. The figures that the
 * plan predicts with. */
#ifndef PS_RUNTIME_DEVICE_PROBE_H
#define PS_RUNTIME_DEVICE_PROBE_H
#include "base/err.h"
#include "kernels/device.h"

/* Bytes per second of copies from page-locked memory, and of bf16 weights through a product with one row. Takes up to a
 * few hundred megabytes of device memory for a moment, never more than most_bytes; where there is not enough to say
 * anything, the figures stay as they are. Uses `mark`. Blocks for about a tenth of a second. */
int ps_device_probe(double *bus_bytes_s, double *vram_bytes_s, const struct ps_device_api *api,
                    struct ps_device *d, uint32_t mark, uint64_t most_bytes, struct ps_err *err);
#endif
