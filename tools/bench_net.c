/* See bench_net.h. */
#include "tools/bench_net.h"

int ps_bench_net(const struct ps_opts *o, struct ps_err *err)
{
    (void)o;
    return ps_err_set(err, PS_EUNSUPPORTED, "bench", "net: not yet: it comes in a later release");
}
