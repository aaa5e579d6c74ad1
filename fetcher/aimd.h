/* How many requests one host may have at once. Comes in: what became of requests, and how many bytes arrive. Goes
 * out: a window between 1 and the user's --connections. Pure: no clock, no lock, no socket.
 *
 * Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain 1989; Jacobson 1988): a 429 or 503
 * halves the window, once per round trip of complaints; every epoch without one opens it by one. Goodput decides
 * in the same way, but as an experiment: where it has fallen to half, three quarters of the requests are tried for
 * an epoch, and kept only if they bring as much. A link that is healthy starts with all and never sees an
 * experiment; a link that has become slower sees one. */
#ifndef PS_FETCHER_AIMD_H
#define PS_FETCHER_AIMD_H
#include <stdbool.h>
#include <stdint.h>

enum ps_aimd_trial { PS_AIMD_STEADY, PS_AIMD_FEWER, PS_AIMD_MORE };

struct ps_aimd {
    unsigned max, window, least; /* least: smallest window so far */
    uint64_t cut_ns; /* of the last halving: requests begun before it complain of the same */
    uint64_t epoch_ns, epoch_bytes; /* where the present epoch began; epoch_ns 0: not yet */
    unsigned ended;                 /* requests that succeeded in it */
    bool starved; /* in this epoch there was nothing to ask for: it says nothing of the link */
    enum ps_aimd_trial trial;
    unsigned before;        /* window before the trial */
    double bytes_s_before;  /* goodput then */
    double bytes_s;         /* smoothed goodput of steady epochs; 0: unknown */
    unsigned pause, paused; /* epochs between attempts to open; how many have passed */
};

void ps_aimd_init(struct ps_aimd *a, unsigned max);
/* A request that began at started_ns was answered with 429 or 503. */
void ps_aimd_throttled(struct ps_aimd *a, uint64_t started_ns, uint64_t now_ns);
/* A request has succeeded. */
void ps_aimd_succeeded(struct ps_aimd *a);
/* To be called often: `bytes` of this host's bodies have arrived in all; `active` requests are in flight;
 * `waiting`: more would be asked for if the window were larger. True: the window has changed. */
bool ps_aimd_tick(struct ps_aimd *a, uint64_t bytes, unsigned active, bool waiting, uint64_t now_ns);
#endif
