/* Retry decisions. See retry.h. */
#include "fetcher/retry.h"

#include "base/clock.h"

#define MS       1000000ull
#define EARLY_NS (10 * MS) /* libcurl's timeout may come up to a millisecond before its time */
#define FIRST_CONTACT_TRIES                                                                        \
    4u                     /* with the delays below: about two seconds for a host that refuses */
#define BAD_REPLY_TRIES 2u /* "refetched once" */

struct backoff {
    uint64_t base_ns, cap_ns;
};

static struct backoff backoff_of(enum ps_retry_class cls)
{
    switch (cls) {
    case PS_RETRY_CONNECT: return (struct backoff){400 * MS, 5000 * MS};
    case PS_RETRY_TRANSPORT: return (struct backoff){100 * MS, 5000 * MS};
    case PS_RETRY_SERVER: return (struct backoff){250 * MS, 10000 * MS};
    case PS_RETRY_THROTTLE: return (struct backoff){500 * MS, 20000 * MS};
    case PS_RETRY_REPLY: return (struct backoff){50 * MS, 50 * MS};
    case PS_RETRY_FATAL: break;
    }
    return (struct backoff){0, 0};
}

/* Full jitter: uniform in [0, min(cap, base * 2^(failures-1))]. */
static uint64_t jittered(struct backoff b, unsigned failures, uint64_t random)
{
    uint64_t span = b.base_ns;
    for (unsigned i = 1; i < failures && span < b.cap_ns; i++)
        span *= 2;
    if (span > b.cap_ns)
        span = b.cap_ns;
    return span ? random % (span + 1) : 0;
}

static bool exhausted(const struct ps_retry_in *in)
{
    if (in->cls == PS_RETRY_FATAL || in->elapsed_ns >= in->deadline_ns)
        return true;
    if (in->cls == PS_RETRY_REPLY && in->bad_replies >= BAD_REPLY_TRIES)
        return true;
    if (in->cls != PS_RETRY_CONNECT || (!in->first_contact && in->unreached_ns == 0))
        return false;
    /* Another try may take as long as those before: a name server that is silent costs ten seconds each time. */
    uint64_t spent_ns = in->first_contact ? in->elapsed_ns : in->unreached_ns;
    uint64_t next_ns = in->failures > 0 ? spent_ns / in->failures : 0;
    /* A redirect may lead to another host next time: no bound of tries for it. */
    return (in->first_contact && in->failures >= FIRST_CONTACT_TRIES) ||
           spent_ns + next_ns + EARLY_NS >= in->connect_limit_ns;
}

struct ps_retry_out ps_retry_decide(const struct ps_retry_in *in)
{
    const struct ps_retry_out stop = {.again = false};
    if (exhausted(in))
        return stop;
    uint64_t left = in->deadline_ns - in->elapsed_ns;
    if (in->retry_after_ns > 0) {
        /* Waiting for something that comes too late only keeps the user waiting. A little
         * jitter, so that the ranges that were sent away together do not come back together. */
        if (in->retry_after_ns >= left)
            return stop;
        uint64_t extra = in->random % (250 * MS);
        uint64_t slack = left - in->retry_after_ns;
        return (struct ps_retry_out){true, in->retry_after_ns + (extra < slack ? extra : 0)};
    }
    uint64_t delay = jittered(backoff_of(in->cls), in->failures, in->random);
    /* A last attempt shortly before the end beats giving up early. */
    if (delay >= left)
        delay = left / 2;
    return (struct ps_retry_out){true, delay};
}

bool ps_retry_overdue(uint64_t elapsed_ns, uint64_t deadline_ns, uint64_t attempt_ns,
                      uint64_t attempt_bytes, uint64_t trickle_bytes_s)
{
    if (elapsed_ns < deadline_ns)
        return false;
    /* An attempt that began after the deadline (its range had to wait for a free connection)
     * gets a second. */
    if (elapsed_ns - attempt_ns >= deadline_ns && attempt_ns < PS_NS_PER_S)
        return false;
    uint64_t seconds = attempt_ns / PS_NS_PER_S + 1;
    return attempt_bytes / seconds < trickle_bytes_s;
}
