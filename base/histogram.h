/* Durations counted in buckets that grow by an eighth of a doubling, so that a quantile is right to 9 % whatever the
 * scale. Any thread may add; a reader sees a moment's counts. */
#ifndef PS_BASE_HISTOGRAM_H
#define PS_BASE_HISTOGRAM_H
#include <stdatomic.h>
#include <stdint.h>

#define PS_HISTOGRAM_BUCKETS 225u /* up to 16 us, then 28 doublings: over an hour */

struct ps_histogram {
    _Atomic uint64_t count[PS_HISTOGRAM_BUCKETS];
};
unsigned ps_histogram_bucket(uint64_t ns);
uint64_t ps_histogram_upper_ns(unsigned bucket); /* the longest duration in it */
void ps_histogram_add(struct ps_histogram *h, uint64_t ns);
/* The least duration that a share of at least `q` (0..1) of all does not exceed, rounded up to its bucket; 0
 * without any. Nearest rank: of 100 durations, q = 0.99 is the 99th. */
uint64_t ps_histogram_quantile_ns(const struct ps_histogram *h, double q);
#endif
