/* A handful of short-lived threads for blocking requests, so that a model of 162
 * files opens in some twenty round trips and not in 162. */
#ifndef PS_PROTO_PARALLEL_H
#define PS_PROTO_PARALLEL_H
#include <stdint.h>
#include "base/err.h"

/* Calls fn(user, i, err) for i in [0, n) on up to PS_PARALLEL_MAX threads, the caller's among
 * them, in order of i. After a failure no further i is begun; the failure of the smallest i is
 * returned. Works, more slowly, where no thread can be made. */
#define PS_PARALLEL_MAX 8
int ps_parallel(uint32_t n, int (*fn)(void *user, uint32_t i, struct ps_err *err), void *user,
                struct ps_err *err);
#endif
