/* libpenstock_fake_device.so: the fake device as a module that the program loads through PENSTOCK_DEVICE_MODULE. */
#include "tests/support/fake_device.h"

__attribute__((visibility("default"))) const struct ps_device_api *ps_device_module(void);

const struct ps_device_api *ps_device_module(void)
{
    return fake_device();
}
