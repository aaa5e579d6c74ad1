/* The parts of host.c that read /proc and /sys, with the root they read under as an argument, so that tests can
 * show them another machine. "" is the real root. */
#ifndef PS_BASE_HOST_PROBE_H
#define PS_BASE_HOST_PROBE_H
#include <stdint.h>

uint64_t ps_host_probe_free_memory(const char *root);
/* CPUs that the cgroup's quota allows, rounded up; 0 = no quota. */
unsigned ps_host_probe_quota_cpus(const char *root);
uint64_t ps_host_probe_last_cache(const char *root); /* bytes; 0 = not known */
#endif
