/* libpenstock_emulated_device.so: the kernels run by emulation, as a module that the program loads through
 * PENSTOCK_DEVICE_MODULE. */
#include "kernels/cuda/device_emulated.h"

__attribute__((visibility("default"))) const struct ps_device_api *ps_device_module(void);

const struct ps_device_api *ps_device_module(void)
{
    return ps_emulated_device();
}
