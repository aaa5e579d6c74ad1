/* Choosing among sources. See mirror_pick.h. */
#include "fetcher/mirror_pick.h"

#include "base/clock.h"

#define AVOID_FIRST_NS  (5 * PS_NS_PER_S)
#define PATIENCE_NS     (5 * PS_NS_PER_S)
#define PROBE_NS        (3 * PS_NS_PER_S)
#define PATIENCE_MIN_NS PS_NS_PER_S

/* It works, or has been left alone for long enough and is not being probed yet. */
static bool fit(const struct ps_mirror_health *h, uint64_t now_ns)
{
    return h->failures == 0 || (now_ns >= h->avoid_until_ns && h->in_flight == 0);
}

static int first_fit(const struct ps_mirror_health *h, unsigned n, uint32_t among, uint64_t now_ns)
{
    for (unsigned i = 0; i < n; i++)
        if ((among >> i & 1) && fit(&h[i], now_ns))
            return (int)i;
    return -1;
}

/* Of those that are to be left alone, the one whose time is up first. */
static int least_bad(const struct ps_mirror_health *h, unsigned n, uint32_t among)
{
    int best = -1;
    for (unsigned i = 0; i < n; i++)
        if ((among >> i & 1) && (best < 0 || h[i].avoid_until_ns < h[best].avoid_until_ns))
            best = (int)i;
    return best;
}

int ps_mirror_pick(const struct ps_mirror_health *h, unsigned n, uint32_t usable, uint32_t tried,
                   uint32_t wary, uint64_t now_ns)
{
    uint32_t left = usable & ~tried;
    int i = first_fit(h, n, left & ~wary, now_ns);
    if (i < 0)
        i = least_bad(h, n, left & ~wary);
    return i >= 0 ? i : least_bad(h, n, left);
}

void ps_mirror_failed(struct ps_mirror_health *h, uint64_t now_ns)
{
    /* those that were under way together fail together, and count once */
    if (h->failures > 0 && now_ns < h->avoid_until_ns)
        return;
    uint64_t span = AVOID_FIRST_NS;
    for (unsigned i = 0; i < h->failures && span < PS_MIRROR_AVOID_MAX; i++)
        span *= 2;
    h->failures++;
    h->avoid_until_ns = now_ns + (span < PS_MIRROR_AVOID_MAX ? span : PS_MIRROR_AVOID_MAX);
}

void ps_mirror_worked(struct ps_mirror_health *h)
{
    h->failures = 0;
    h->avoid_until_ns = 0;
}

uint64_t ps_mirror_patience_ns(uint64_t left_ns, unsigned others, bool failing)
{
    uint64_t share = left_ns / (others + 1), most = failing ? PROBE_NS : PATIENCE_NS;
    if (others == 0)
        return left_ns;
    share = share < most ? share : most;
    return share > PATIENCE_MIN_NS ? share : PATIENCE_MIN_NS;
}
