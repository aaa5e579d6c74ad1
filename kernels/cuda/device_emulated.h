/* The table of the emulated device, for test programs that link it: see device_emulated.cc. */
#ifndef PS_KERNELS_CUDA_DEVICE_EMULATED_H
#define PS_KERNELS_CUDA_DEVICE_EMULATED_H
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

const struct ps_device_api *ps_emulated_device(void);

#ifdef __cplusplus
}
#endif
#endif
