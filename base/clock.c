/* Monotonic time, from the kernel's clock to nanoseconds. */
#include "base/clock.h"

#include <time.h>

static struct timespec read_clock(clockid_t id)
{
    struct timespec t = {0};
    clock_gettime(id, &t); /* cannot fail for these two clocks */
    return t;
}

uint64_t ps_now_ns(void)
{
    struct timespec t = read_clock(CLOCK_MONOTONIC);
    return (uint64_t)t.tv_sec * PS_NS_PER_S + (uint64_t)t.tv_nsec;
}

double ps_seconds_since(uint64_t start_ns)
{
    uint64_t now_ns = ps_now_ns();
    return now_ns > start_ns ? (double)(now_ns - start_ns) / 1e9 : 0.0;
}

uint64_t ps_wall_s(void)
{
    return (uint64_t)read_clock(CLOCK_REALTIME).tv_sec;
}
