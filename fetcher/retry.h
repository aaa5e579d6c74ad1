/* What to do after a failed attempt. Comes in: the class of the failure and the history of one
 * range. Goes out: a delay, or "give up". Pure functions on integers: no clock, no random
 * source, no socket.
 *
 * Classes and full jitter follow aws-c-s3 and AWS's "Exponential backoff and jitter"; the total
 * deadline replaces a count of attempts, because what a user can judge is how long he waits. */
#ifndef PS_FETCHER_RETRY_H
#define PS_FETCHER_RETRY_H
#include <stdbool.h>
#include <stdint.h>

enum ps_retry_class {
    PS_RETRY_FATAL,     /* asking again can't help */
    PS_RETRY_CONNECT,   /* host unknown, refused or silent: no bytes were exchanged */
    PS_RETRY_TRANSPORT, /* broken, stalled or truncated transfer; 408 */
    PS_RETRY_SERVER,    /* 500, 502, 504 and other 5xx */
    PS_RETRY_THROTTLE,  /* 429, 503: the server asks for less */
    PS_RETRY_REPLY, /* a reply that breaks the protocol, or bytes with a wrong hash: once more, then believe it */
};

struct ps_retry_in {
    enum ps_retry_class cls;
    unsigned failures; /* failed attempts in a row without a new byte, this one included: 1, 2, ... */
    unsigned bad_replies;    /* of all attempts, those of class PS_RETRY_REPLY, this one included */
    uint64_t elapsed_ns;     /* since the first attempt at this range began */
    uint64_t deadline_ns;    /* longest elapsed_ns */
    uint64_t retry_after_ns; /* what the server asked for, 0 if nothing */
    bool first_contact;      /* no host of this source has ever answered */
    uint64_t unreached_ns; /* how long this range has met nobody but hosts that never answered, 0 if not */
    /* For these two: longest time spent on a host that never answers, the next try included. */
    uint64_t connect_limit_ns;
    uint64_t random; /* 64 uniform bits */
};

struct ps_retry_out {
    bool again;
    uint64_t delay_ns;
};

struct ps_retry_out ps_retry_decide(const struct ps_retry_in *in);

/* Should a transfer that is still running be cut off at its deadline? One that moves, if slowly,
 * is left alone: a slow link is no failure. Below `trickle_bytes_s` over its life (4 KiB/s) it counts as stuck (a
 * server that drips a byte a second never ends otherwise). */
#define PS_RETRY_TRICKLE_BYTES_PER_S 4096u
bool ps_retry_overdue(uint64_t elapsed_ns, uint64_t deadline_ns, uint64_t attempt_ns,
                      uint64_t attempt_bytes, uint64_t trickle_bytes_s);
#endif
