/* Stages measured against their own limits: what `penstock bench` prints and doctor uses. Blocking; seconds each. */
#ifndef PS_RUNTIME_BENCH_H
#define PS_RUNTIME_BENCH_H
#include <stdint.h>
#include "base/err.h"

/* Sequential write then direct read (page cache bypassed where the file system allows) of a file of `bytes` in
 * dir, which is removed. */
int ps_bench_disk(double *read_bytes_s, double *write_bytes_s, const char *dir, uint64_t bytes,
                  struct ps_err *err);
#endif
