/* Counters that a run reports (contract.md "run --stats"). One instance per engine, plain atomics, any thread. */
#ifndef PS_BASE_STATS_H
#define PS_BASE_STATS_H
#include <stdatomic.h>
#include <stdint.h>
#include "base/histogram.h"

struct ps_stats {
    _Atomic uint64_t bytes_net;          /* body bytes received, metadata included */
    _Atomic uint64_t bytes_disk_read;    /* weight bytes read from cache slabs or local files */
    _Atomic uint64_t bytes_disk_written; /* weight bytes written to slabs */
    _Atomic uint64_t bytes_ram_hit;      /* weight bytes used from RAM without any read */
    _Atomic uint64_t bytes_vram_hit;  /* weight bytes used from device memory, not copied again */
    _Atomic uint64_t bytes_to_device; /* weight bytes that crossed the bus, as they crossed it */
    _Atomic uint64_t bytes_hedged;    /* extra bytes of hedged requests, not in bytes_net */
    _Atomic uint64_t requests, retries;
    _Atomic uint64_t extents_used, extents_from_net, extents_from_disk, extents_from_ram;
    _Atomic uint64_t corrupt_reads;      /* cached bytes that failed their CRC and were refetched */
    _Atomic uint64_t link_busy_ns;       /* time with at least one transfer moving */
    _Atomic uint64_t sweep_ns, stall_ns; /* wall time in sweeps; of it, waiting for weights */
    _Atomic uint64_t hedges,
        hedges_won; /* second requests for what a layer waits for; those that came first */
    _Atomic uint64_t escapes; /* transfers dropped because their siblings were faster by far */
    _Atomic uint64_t conns_opened,
        conns_retired; /* connections; of them, ended for their age or bytes */
    _Atomic uint64_t requests_at_once_max,
        window_min;                 /* in flight; least that a host was held to (0: never) */
    struct ps_histogram layer_wait; /* per layer and sweep: how long the consumer waited for its weights */
    _Atomic uint64_t first_request_ns, first_weight_request_ns; /* ps_now_ns stamps, 0 = none yet */
};
static inline void ps_stat_add(_Atomic uint64_t *c, uint64_t v)
{
    atomic_fetch_add_explicit(c, v, memory_order_relaxed);
}
static inline uint64_t ps_stat_get(const _Atomic uint64_t *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}
#endif
