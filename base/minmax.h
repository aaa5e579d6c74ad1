/* The smaller and the larger of two. Pure. */
#ifndef PS_BASE_MINMAX_H
#define PS_BASE_MINMAX_H
#include <stdint.h>

static inline uint64_t ps_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t ps_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
#endif
