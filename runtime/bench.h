/* Stages measured against their own limits: what `penstock bench` prints and doctor uses. Blocking; seconds each. */
#ifndef PS_RUNTIME_BENCH_H
#define PS_RUNTIME_BENCH_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

struct ps_bench_disk {
    double write_bytes_s; /* one after the other, synced at the end */
    double read_bytes_s; /* the same bytes, one after the other, past the page cache where the file system can */
    double read_deep_bytes_s; /* PS_BENCH_DISK_READERS at once: what the disk can give; 0 if it was not asked for */
};
#define PS_BENCH_DISK_READERS 4

/* Writes and reads a file of `bytes` (rounded down to 4 MiB) in the cache folder `dir`, which is made if it is
 * missing; the file has no name, so that nothing is left of it whatever happens. `deep`: the third figure too.
 * *interrupt (nullable) is looked at all the time: PS_EINTERRUPTED. PS_EUSAGE: the folder holds other things than
 * a cache; PS_ENOSPC, PS_EIO. */
int ps_bench_disk(struct ps_bench_disk *out, const char *dir, uint64_t bytes, bool deep,
                  const atomic_int *interrupt, struct ps_err *err);
#endif
