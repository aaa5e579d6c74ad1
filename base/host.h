/* What this machine has: free memory (cgroup limits included), CPU features, file-system room. Pure reads of
 * /proc, /sys and cpuid; no state. */
#ifndef PS_BASE_HOST_H
#define PS_BASE_HOST_H
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

uint64_t ps_host_free_memory_bytes(
    void); /* min(MemAvailable, cgroup v1/v2 limit - usage); reclaimable cache is free */
uint64_t ps_host_rss_bytes(void);      /* resident now (VmRSS) */
uint64_t ps_host_rss_peak_bytes(void); /* VmHWM */
unsigned ps_host_cpus(void);           /* usable CPUs: affinity and cgroup quota */
/* Bytes of the last cache that CPU 0 shares with its neighbours; 0: not known. Of /sys, because sysconf counts the
 * caches of all sockets on some processors. */
uint64_t ps_host_last_cache_bytes(void);
struct ps_cpu_features {
    bool popcnt, avx2, fma, f16c, bmi2, avx512f, avx512bw, avx512vl, avx512_bf16, avx512_vbmi,
        avx512_vbmi2, avx512_vnni, amx_tile, amx_bf16, amx_int8;
    bool neon;
};
const struct ps_cpu_features *ps_host_cpu(void); /* computed once; OS support (XCR0) already checked */
/* Room on the file system that holds `path` (or its nearest existing parent). */
int ps_host_disk_free(const char *path, uint64_t *free_bytes, uint64_t *total_bytes,
                      struct ps_err *err);
/* What kind of network file system (or FUSE) an f_type of statfs stands for: "NFS", "SMB"...; NULL: none that is known.
 * Locks and shared mappings can't be trusted on them. Pure. Numbers: linux/magic.h and each project's own headers. */
const char *ps_host_network_fs_name(uint64_t f_type);
/* The same of the file system that holds `path` (or its nearest existing parent). */
const char *ps_host_network_fs(const char *path);
bool ps_host_is_network_fs(const char *path);

/* Whole small file into memory (caller frees *out with ps_free; NUL added). PS_ENOTFOUND, PS_EDATA when over max. */
int ps_file_read(char **out, size_t *len, const char *path, size_t max_bytes, struct ps_err *err);
/* mkdir -p with the given mode for the last component (0755 for parents). */
int ps_mkdir_p(const char *path, unsigned mode, struct ps_err *err);
#endif
