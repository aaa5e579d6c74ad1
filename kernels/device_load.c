/* Finds and loads the module that drives a device. In: a kind ("cuda") and, from the environment, maybe a path;
 * out: the module's table, or one line that says why there is none.
 *
 * Only three places are looked at: what PENSTOCK_DEVICE_MODULE names, the folders beside the file that this code
 * was loaded from, and the installation's. Never the current directory, and never the linker's search path, on
 * which LD_LIBRARY_PATH or a package could put a file of that name. */
#include <dlfcn.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/device.h"

/* Where `cmake --install` puts modules: in full, and as seen from the program's folder, which holds if the installation
 * was moved. */
#ifndef PENSTOCK_MODULE_DIR
#define PENSTOCK_MODULE_DIR      "/usr/local/lib/penstock"
#define PENSTOCK_MODULE_FROM_BIN "/../lib/penstock"
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const struct ps_device_api *loaded; /* under lock; a module is never unloaded */
static char loaded_kind[32];               /* under lock: what was asked for when it was */

/* The folder of the file that holds this function: the program, or libpenstock.so in somebody else's. dladdr would give
 * the name as it was typed, which may be relative; the kernel's list has it in full. */
static bool own_folder(char *out, size_t cap)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return false;
    char line[PATH_MAX + 128];
    bool found = false;
    while (!found && fgets(line, sizeof line, maps)) {
        uintptr_t begin, end, here = (uintptr_t)&own_folder;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &begin, &end) != 2 || here < begin || here >= end)
            continue;
        char *path = strchr(line, '/'), *slash = strrchr(line, '/');
        if (!path || (size_t)(slash - path) >= cap)
            break;
        memcpy(out, path, (size_t)(slash - path));
        out[slash - path] = '\0';
        found = true;
    }
    fclose(maps);
    return found;
}

/* Where lib<file> may lie, seen from a folder: beside it, under it or its neighbour in an installation, and in a build
 * tree from the program and from the tests. */
static const char *const beside[] = {"", "/penstock", PENSTOCK_MODULE_FROM_BIN, "/kernels/cuda",
                                     "/../kernels/cuda"};

static bool find_module(char *out, size_t cap, const char *kind)
{
    char folder[PATH_MAX];
    if (own_folder(folder, sizeof folder))
        for (size_t i = 0; i < sizeof beside / sizeof beside[0]; i++) {
            int n = snprintf(out, cap, "%s%s/libpenstock_%s.so", folder, beside[i], kind);
            if (n > 0 && (size_t)n < cap && access(out, R_OK) == 0)
                return true;
        }
    int n = snprintf(out, cap, "%s/libpenstock_%s.so", PENSTOCK_MODULE_DIR, kind);
    return n > 0 && (size_t)n < cap && access(out, R_OK) == 0;
}

static int no_module(const char *kind, struct ps_err *err)
{
    if (strcmp(kind, "cuda") != 0) /* more likely a slip than a module that somebody forgot to install */
        return ps_err_set(err, PS_EUSAGE, "device", "--device: \"%.40s\": use cpu, cuda or cuda:N",
                          kind);
    return ps_err_set(
        err, PS_EUNSUPPORTED, "device",
        "this build has no %s module (libpenstock_%s.so): build Penstock where the CUDA toolkit "
        "(12.4 or later) is installed, or run on the CPU",
        kind, kind);
}

static int open_module(const struct ps_device_api **out, const char *path, struct ps_err *err)
{
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module)
        return ps_err_set(err, PS_EUNSUPPORTED, "device", "the device module can't be loaded: %s",
                          dlerror());
    ps_device_module_fn entry;
    *(void **)&entry = dlsym(module, PS_DEVICE_SYMBOL);
    const struct ps_device_api *api = entry ? entry() : NULL;
    int rc = 0;
    if (!api)
        rc = ps_err_set(err, PS_EUNSUPPORTED, "device", "%s is not a device module of Penstock",
                        path);
    else if (api->abi != PS_DEVICE_ABI)
        rc = ps_err_set(
            err, PS_EUNSUPPORTED,
            "device", "%s is of another version of Penstock (interface %u, wanted %u): build or install both together",
            path, api->abi, PS_DEVICE_ABI);
    if (rc)
        dlclose(module);
    else
        *out = api;
    return rc;
}

static int load_locked(const char *kind, struct ps_err *err)
{
    char path[PATH_MAX];
    const char *named = secure_getenv("PENSTOCK_DEVICE_MODULE");
    if (named && *named) {
        if (!strchr(named, '/')) /* dlopen would go and search for it */
            return ps_err_set(err, PS_EUSAGE, "device",
                              "PENSTOCK_DEVICE_MODULE=%s: give a path with a slash in it", named);
    } else if (find_module(path, sizeof path, kind)) {
        named = path;
    } else {
        return no_module(kind, err);
    }
    return open_module(&loaded, named, err);
}

int ps_device_load(const struct ps_device_api **out, const char *kind, struct ps_err *err)
{
    PS_ASSERT(strlen(kind) < sizeof loaded_kind && !strchr(kind, '/'));
    int rc = 0;
    pthread_mutex_lock(&lock);
    if (loaded && strcmp(loaded_kind, kind) != 0)
        rc = ps_err_set(err, PS_EUNSUPPORTED, "device",
                        "this process has loaded the %s module already", loaded_kind);
    else if (!loaded)
        rc = load_locked(kind, err);
    if (rc == 0) {
        snprintf(loaded_kind, sizeof loaded_kind, "%s", kind);
        *out = loaded;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}
