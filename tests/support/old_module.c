/* A device module whose interface has another number: what the loader must refuse. */
#include "kernels/device.h"

__attribute__((visibility("default"))) const struct ps_device_api *ps_device_module(void);

const struct ps_device_api *ps_device_module(void)
{
    static const struct ps_device_api api = {.abi = PS_DEVICE_ABI + 41, .kind = "old"};
    return &api;
}
