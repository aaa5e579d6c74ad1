/* Limits to hold a network figure against: plain sockets that receive the same objects and throw
 * them away, and memcpy. */
#ifndef PS_TOOLS_BENCH_RECV_H
#define PS_TOOLS_BENCH_RECV_H
#include "proto/map.h"

/* Bytes per second that `connections` blocking sockets receive from an http:// address within
 * `seconds`, each asking for the whole of one object after the other. PS_EUNSUPPORTED for other
 * schemes, or where nothing came. Blocks. */
int ps_bench_recv(double *bytes_s, const char *address, const struct ps_map *map,
                  unsigned connections, double seconds);
double ps_bench_memcpy(void); /* bytes per second of one thread, source and destination far larger than caches */
#endif
