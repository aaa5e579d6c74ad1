/* What both devices that run our kernels have in common: the CUDA one (device_cuda.cu) and the emulated one that tests
 * load (device_emulated.cc). Each derives its own struct from this; device_ops.cu, the arithmetic half of the table,
 * knows no more than what stands here.
 *
 * Threads: one at a time, as device.h says of everything but pinning. */
#ifndef PS_KERNELS_CUDA_DEVICE_STATE_H
#define PS_KERNELS_CUDA_DEVICE_STATE_H
#include "kernels/cuda/simt.h"
#include "kernels/device.h"

struct ps_device {
    simt_stream compute; /* every kernel is launched here */
    unsigned arch;       /* compute capability: 75, 80, 86, 89, 90 ... */
    /* One word that kernels and the host see: 0, or what a kernel found wrong with a stored block, 1 + its index.
     * Kernels only ever store to it; whoever waits looks at it. */
    uint32_t *fault;
    int failed;            /* sticky PS_E code, 0 while all is well */
    char failed_text[256]; /* "CUDA: attention: unspecified launch failure: ..." */
};

/* Fills in decode and all that stands below it in struct ps_device_api. */
void ps_device_fill_ops(struct ps_device_api *api);
/* Bits for ps_device_info.codecs. */
uint32_t ps_device_codecs(void);

/* Makes `code` the device's sticky error unless it has one; returns the sticky code. */
int ps_device_fail(struct ps_device *d, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* What has gone wrong so far, put into *err: 0 or the sticky code. Looks at `fault` as well. */
int ps_device_status(struct ps_device *d, struct ps_err *err);
/* Makes the device the calling thread's: before anything is launched. */
void ps_device_enter(struct ps_device *d);
/* The text of a launcher's error: each implementation has its own. */
const char *ps_device_launch_text(int launch_error);

#endif
