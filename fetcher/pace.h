/* Is a transfer slow for its kind? Comes in: when and how many bytes arrived, for it and for its siblings on the
 * same host. Goes out: drop it and ask for the rest on another connection; or ask a second time for what a layer
 * waits for. Pure: no clock, no lock, no socket.
 *
 * Everything is relative to the siblings: where the whole link is slow they are slow too, and nothing happens. A
 * front with many servers behind one name hands out connections that differ by a factor of eight and keep to it
 * (facts-stores.md section 3); the tail of a fleet is cut by asking twice (Dean and Barroso, "The Tail at Scale",
 * 2013). */
#ifndef PS_FETCHER_PACE_H
#define PS_FETCHER_PACE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PS_PACE_WINDOW_NS 200000000ull /* a rate is measured over one of these at least */
#define PS_PACE_SAMPLES   16u          /* transfers that have ended and are remembered */

/* One transfer's progress. */
struct ps_pace {
    uint64_t started_ns, first_ns; /* asked; first byte of the body, 0: none yet */
    uint64_t bytes, arrivals,
        last_ns; /* of the body so far; in so many portions; when the last one came */
    uint64_t mark_ns, mark_bytes; /* where the present window began */
    double recent,
        before; /* bytes per second of the last whole window and of the one before; below 0: none */
};
void ps_pace_begin(struct ps_pace *p, uint64_t now_ns);
void ps_pace_bytes(struct ps_pace *p, uint64_t bytes, uint64_t now_ns); /* so many more */
void ps_pace_look(struct ps_pace *p,
                  uint64_t now_ns); /* closes windows: call it at least once a window */

/* What ended transfers of one host tell. */
struct ps_pace_host {
    double rate[PS_PACE_SAMPLES];
    uint64_t at_ns[PS_PACE_SAMPLES];  /* 0: empty */
    unsigned active[PS_PACE_SAMPLES]; /* requests in flight then */
    unsigned next;
    double wait_ns,
        wait_dev_ns; /* from request to first byte, and its mean deviation (as TCP's round trip, RFC 6298) */
    bool wait_known;
    /* Escapes are bounded in time: one that did not help doubles the pause before the next. */
    uint64_t escape_after_ns, escape_pause_ns;
};
void ps_pace_first_byte(struct ps_pace_host *h, uint64_t wait_ns);
/* `active`: requests in flight on this host, itself included. */
void ps_pace_ended(struct ps_pace_host *h, const struct ps_pace *p, unsigned active, uint64_t now_ns);

/* Median of the rates of `live` siblings that have one, and of those that ended lately. 0: fewer than three are
 * known. `active` requests are in flight now: a rate from a time with fewer counts for that much less, because they may
 * share the link; one transfer alone says nothing of eight together. */
double ps_pace_median(const struct ps_pace_host *h, const struct ps_pace *const *live, size_t n,
                      unsigned active, uint64_t now_ns);

/* Should it be dropped, with `missing` bytes of it to come? `escapes`: how often what it carries has been dropped
 * already. */
bool ps_pace_escapes(const struct ps_pace *p, const struct ps_pace_host *h, double median,
                     uint64_t missing, unsigned escapes, uint64_t now_ns);
void ps_pace_escaped(struct ps_pace_host *h, uint64_t now_ns); /* it was; helped or not is told by: */
void ps_pace_escape_helped(struct ps_pace_host *h, bool helped);

/* A layer waits for `missing` bytes of it. 0: ask a second time now; else look again then. */
uint64_t ps_pace_hedge_ns(const struct ps_pace *p, const struct ps_pace_host *h, double median,
                          uint64_t missing, uint64_t now_ns);

/* May second requests cost `bytes` more? `pct` percent of what has arrived, with what has been spent on them so far. */
bool ps_hedge_affordable(uint64_t arrived, uint64_t spent, uint64_t bytes, int pct);
#endif
