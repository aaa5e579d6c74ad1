/* Stored blocks to weights on the device: codecs WH and XC34 (proto/block_format.h), all element types that they
 * know. */
#ifndef PS_KERNELS_CUDA_LAUNCH_DECODE_H
#define PS_KERNELS_CUDA_LAUNCH_DECODE_H
#include "kernels/cuda/simt.h"
#include "kernels/device.h"

/* Whether blocks of this codec and type are decoded here. */
bool ps_launch_decode_takes(enum ps_codec c, enum ps_dtype t);
/* Queues the decoding of `b`. A block that is damaged puts 1 + its index into *fault (device or mapped memory); its
 * weights are then undefined, and nothing outside of its output has been written. Returns 0, the launch's error, or
 * PS_EUNSUPPORTED. */
int ps_launch_decode(simt_stream stream, const struct ps_device_blocks *b, uint32_t *fault);
#endif
