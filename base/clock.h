/* Monotonic time. Nothing in Penstock measures an interval with the wall clock. Thread-safe, no state. */
#ifndef PS_BASE_CLOCK_H
#define PS_BASE_CLOCK_H
#include <stdint.h>
#define PS_NS_PER_S 1000000000ull
uint64_t ps_now_ns(void);                   /* CLOCK_MONOTONIC */
double ps_seconds_since(uint64_t start_ns); /* now - start, in seconds */
uint64_t ps_wall_s(void); /* seconds since 1970, for records that outlive the process */
#endif
