/* `penstock bench net MODEL`: how fast the fetcher takes a model's bytes in, beside a plain
 * reader of the same bytes. */
#ifndef PS_TOOLS_BENCH_NET_H
#define PS_TOOLS_BENCH_NET_H
#include "base/err.h"
#include "tools/options.h"

int ps_bench_net(const struct ps_opts *o, struct ps_err *err);
#endif
