/* Room in the scheduler's ring: runs of bytes of one region, taken in order of use and given back in nearly the same
 * order. Extents differ in size by a factor of thousands (a norm, a panel of 8 MiB); slots for the largest would bound
 * the look-ahead by their number instead of its bytes.
 *
 * Next fit from where the last run ended: with runs given back in order it is a ring; one that is held longer (its
 * write to the cache goes on) is stepped over. Pure; the caller locks. */
#ifndef PS_RUNTIME_RING_SPACE_H
#define PS_RUNTIME_RING_SPACE_H
#include <stdbool.h>
#include <stdint.h>

struct ps_ring_run {
    uint64_t from, to;
};

struct ps_ring_space {
    uint64_t bytes, cursor;
    struct ps_ring_run *runs; /* those taken, by address; [cap] */
    uint32_t n, cap;
};

/* Room for `runs` runs in a region of `bytes`. PS_ENOMEM. */
int ps_ring_space_init(struct ps_ring_space *r, uint64_t bytes, uint32_t runs);
void ps_ring_space_deinit(struct ps_ring_space *r);
/* A run of `bytes` (> 0) at *at. False: no room now. */
bool ps_ring_space_take(struct ps_ring_space *r, uint64_t bytes, uint64_t *at);
/* Gives back the run that was taken at `at`. */
void ps_ring_space_give(struct ps_ring_space *r, uint64_t at);
#endif
