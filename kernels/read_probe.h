/* How fast this machine reads its memory: the limit beside which decoding is measured, and what the plan reckons
 * with. Plain loops over memory far larger than the caches, in several forms (1, 2 or 4 streams, several prefetch
 * distances), because none is the best everywhere. Called by one thread, which drives the pool. */
#ifndef PS_KERNELS_READ_PROBE_H
#define PS_KERNELS_READ_PROBE_H
#include <stdatomic.h>
#include <stddef.h>

#include "base/err.h"
#include "base/pool.h"

#define PS_READ_BYTES    ((size_t)512 << 20) /* memory that a probe walks */
#define PS_READ_STRETCH  ((size_t)32 << 20)  /* timed alone */
#define PS_READ_VARIANTS 15

/* Best seconds of each stretch, by variant. */
struct ps_read_best {
    double s[PS_READ_VARIANTS][PS_READ_BYTES / PS_READ_STRETCH];
};

void ps_read_best_init(struct ps_read_best *best);
/* One pass over mem[0..bytes), at most PS_READ_BYTES, with each variant; keeps each stretch's best. */
void ps_read_try_all(struct ps_pool *pool, const void *mem, size_t bytes, struct ps_read_best *best);
/* 10^9 bytes per second of the best variant, which goes to *variant (nullable). */
double ps_read_best_gb_s(const struct ps_read_best *best, size_t bytes, unsigned *variant);
/* Seconds of one pass over mem[0..bytes) with one variant. */
double ps_read_pass(struct ps_pool *pool, const void *mem, size_t bytes, unsigned variant);

/* The rate alone, over memory of its own. PS_ENOMEM; PS_EINTERRUPTED soon after *interrupt (nullable) is not 0. */
int ps_read_bandwidth(double *gb_s, unsigned threads, const atomic_int *interrupt,
                      struct ps_err *err);
#endif
