/* Counts by duration. See histogram.h. */
#include "base/histogram.h"

#define FIRST_SHIFT 14u /* 16 us: less is no wait */
#define PER_OCTAVE  8u

unsigned ps_histogram_bucket(uint64_t ns)
{
    if (ns <= 1ull << FIRST_SHIFT)
        return 0;
    unsigned octave = 63u - (unsigned)__builtin_clzll(ns - 1);
    uint64_t low = 1ull << octave;
    unsigned part = (unsigned)((ns - 1 - low) >> (octave - 3));
    unsigned bucket = 1 + (octave - FIRST_SHIFT) * PER_OCTAVE + part;
    return bucket < PS_HISTOGRAM_BUCKETS ? bucket : PS_HISTOGRAM_BUCKETS - 1;
}

uint64_t ps_histogram_upper_ns(unsigned bucket)
{
    if (bucket == 0)
        return 1ull << FIRST_SHIFT;
    unsigned octave = FIRST_SHIFT + (bucket - 1) / PER_OCTAVE, part = (bucket - 1) % PER_OCTAVE;
    return (1ull << octave) + ((uint64_t)(part + 1) << (octave - 3));
}

void ps_histogram_add(struct ps_histogram *h, uint64_t ns)
{
    atomic_fetch_add_explicit(&h->count[ps_histogram_bucket(ns)], 1, memory_order_relaxed);
}

uint64_t ps_histogram_quantile_ns(const struct ps_histogram *h, double q)
{
    uint64_t total = 0, seen = 0;
    for (unsigned i = 0; i < PS_HISTOGRAM_BUCKETS; i++)
        total += atomic_load_explicit(&h->count[i], memory_order_relaxed);
    if (total == 0)
        return 0;
    double want = q * (double)total;
    for (unsigned i = 0; i < PS_HISTOGRAM_BUCKETS; i++) {
        seen += atomic_load_explicit(&h->count[i], memory_order_relaxed);
        if (seen > 0 && (double)seen >= want)
            return i == 0 ? 0 : ps_histogram_upper_ns(i);
    }
    return ps_histogram_upper_ns(PS_HISTOGRAM_BUCKETS - 1);
}
