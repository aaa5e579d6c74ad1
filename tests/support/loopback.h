/* What every test of a store against bad_server.h needs before and after. One thread. */
#ifndef PS_TESTS_LOOPBACK_H
#define PS_TESTS_LOOPBACK_H
#include <stddef.h>
#include <stdint.h>
#include "tests/support/bad_server.h"

/* A proxy of the environment must not stand between us and the loopback. First thing in main(). */
void loopback_no_proxies(void);

/* Bytes in which any two places differ. */
void loopback_fill(uint8_t *bytes, size_t n);

/* The server's i-th request; fails the test where there were fewer. */
struct bad_seen loopback_seen(struct bad_server *s, size_t i);

/* Stops the server and checks that what was allocated since `live` (ps_alloc_live_count() before it was started)
 * is free again. The client is closed first. */
void loopback_end(struct bad_server *s, uint64_t live);
#endif
