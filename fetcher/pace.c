/* Slow against its siblings? See pace.h. */
#include "fetcher/pace.h"

#include <string.h>

#include "base/clock.h"

#define MS 1000000ull
/* A small body that lay ready in the socket came in no time at all: its rate is no evidence of a fast link. */
#define SHORTEST_NS    (5 * MS)
#define SAMPLE_LIFE_NS (3 * PS_NS_PER_S)
#define SAMPLES_LEAST  3u
#define SLOW_FRACTION  0.25 /* of the median: what escapes */
#define RAMPING        1.5 /* faster by this than a window ago: a young connection, on its way up */
#define ESCAPE_GAIN    2.0 /* so many times sooner on another connection, or it stays */
#define ESCAPES_MOST   3u  /* of the same bytes: then they come from where they come */
#define PAUSE_LEAST_NS (20 * MS)
#define PAUSE_MOST_NS  (30 * PS_NS_PER_S)
#define SILENT_LEAST_NS                                                                            \
    (2 * PS_NS_PER_S) /* without a first byte: what AWS advises before asking again */
#define SILENT_TIMES   10.0
#define HEDGE_GAIN     2.0
#define HEDGE_SLACK_NS (10 * MS)
#define HEDGE_LOOK_NS  (20 * MS) /* the shortest piece of time that says something of a rate */
#define SILENCE_NS                                                                                 \
    (30 * MS) /* and so many times the usual gap between portions: something is stuck */
#define SILENCE_GAPS   10u
#define HEDGE_BLIND_NS (200 * MS) /* how long one waits without any sibling to compare with */

void ps_pace_begin(struct ps_pace *p, uint64_t now_ns)
{
    memset(p, 0, sizeof *p);
    p->started_ns = now_ns;
    p->recent = p->before = -1;
}

void ps_pace_bytes(struct ps_pace *p, uint64_t bytes, uint64_t now_ns)
{
    if (p->first_ns == 0)
        p->first_ns = p->mark_ns = now_ns;
    p->bytes += bytes;
    p->arrivals++;
    p->last_ns = now_ns;
}

void ps_pace_look(struct ps_pace *p, uint64_t now_ns)
{
    if (p->first_ns == 0 || now_ns - p->mark_ns < PS_PACE_WINDOW_NS)
        return;
    p->before = p->recent;
    p->recent =
        (double)(p->bytes - p->mark_bytes) * (double)PS_NS_PER_S / (double)(now_ns - p->mark_ns);
    p->mark_ns = now_ns;
    p->mark_bytes = p->bytes;
}

void ps_pace_first_byte(struct ps_pace_host *h, uint64_t wait_ns)
{
    double w = (double)wait_ns;
    if (!h->wait_known) {
        h->wait_known = true;
        h->wait_ns = w;
        h->wait_dev_ns = w / 2;
        return;
    }
    double off = w > h->wait_ns ? w - h->wait_ns : h->wait_ns - w;
    h->wait_dev_ns = 0.75 * h->wait_dev_ns + 0.25 * off;
    h->wait_ns = 0.875 * h->wait_ns + 0.125 * w;
}

void ps_pace_ended(struct ps_pace_host *h, const struct ps_pace *p, unsigned active, uint64_t now_ns)
{
    if (p->first_ns == 0 || p->bytes == 0)
        return;
    uint64_t ns = now_ns - p->first_ns;
    if (ns < SHORTEST_NS)
        ns = SHORTEST_NS;
    h->rate[h->next] = (double)p->bytes * (double)PS_NS_PER_S / (double)ns;
    h->at_ns[h->next] = now_ns;
    h->active[h->next] = active ? active : 1;
    h->next = (h->next + 1) % PS_PACE_SAMPLES;
}

static void insert_sorted(double *v, size_t n, double x)
{
    while (n > 0 && v[n - 1] > x) {
        v[n] = v[n - 1];
        n--;
    }
    v[n] = x;
}

static double shared_among(double rate, unsigned then, unsigned now)
{
    return then < now ? rate * then / now : rate;
}

double ps_pace_median(const struct ps_pace_host *h, const struct ps_pace *const *live, size_t n,
                      unsigned active, uint64_t now_ns)
{
    double v[PS_PACE_SAMPLES + 64];
    size_t k = 0;
    for (unsigned i = 0; i < PS_PACE_SAMPLES; i++)
        if (h->at_ns[i] && now_ns - h->at_ns[i] <= SAMPLE_LIFE_NS)
            insert_sorted(v, k, shared_among(h->rate[i], h->active[i], active)), k++;
    for (size_t i = 0; i < n && k < sizeof v / sizeof *v; i++)
        if (live[i]->recent >= 0)
            insert_sorted(v, k, live[i]->recent), k++;
    return k < SAMPLES_LEAST ? 0 : v[k / 2];
}

static double patience_ns(const struct ps_pace_host *h)
{
    return h->wait_ns + 4 * h->wait_dev_ns;
}

/* How long the missing bytes take on a new connection. */
static double anew_ns(const struct ps_pace_host *h, double median, uint64_t missing)
{
    return 2 * h->wait_ns + (double)missing / median * (double)PS_NS_PER_S;
}

static bool too_slow(const struct ps_pace *p, const struct ps_pace_host *h, double median,
                     uint64_t missing)
{
    if (p->before < 0) /* less than two windows */
        return false;
    double best = p->recent > p->before ? p->recent : p->before;
    if (best >= SLOW_FRACTION * median || p->recent > RAMPING * p->before)
        return false;
    double own_ns = best > 0 ? (double)missing / best * (double)PS_NS_PER_S : 1e18;
    return own_ns > ESCAPE_GAIN * anew_ns(h, median, missing);
}

bool ps_pace_escapes(const struct ps_pace *p, const struct ps_pace_host *h, double median,
                     uint64_t missing, unsigned escapes, uint64_t now_ns)
{
    if (median <= 0 || missing == 0 || escapes >= ESCAPES_MOST || now_ns < h->escape_after_ns)
        return false;
    if (p->first_ns != 0)
        return too_slow(p, h, median, missing);
    double silent = (double)(now_ns - p->started_ns);
    return h->wait_known && silent > (double)SILENT_LEAST_NS &&
           silent > SILENT_TIMES * patience_ns(h);
}

void ps_pace_escaped(struct ps_pace_host *h, uint64_t now_ns)
{
    if (h->escape_pause_ns < PAUSE_LEAST_NS)
        h->escape_pause_ns = PAUSE_LEAST_NS;
    h->escape_after_ns = now_ns + h->escape_pause_ns;
}

void ps_pace_escape_helped(struct ps_pace_host *h, bool helped)
{
    h->escape_pause_ns = helped ? PAUSE_LEAST_NS : h->escape_pause_ns * 2;
    if (h->escape_pause_ns > PAUSE_MOST_NS)
        h->escape_pause_ns = PAUSE_MOST_NS;
}

/* Without a first byte: as long as such waits usually take, and a little more. */
static uint64_t headers_due_ns(const struct ps_pace *p, const struct ps_pace_host *h)
{
    double wait = h->wait_known ? 2 * patience_ns(h) : (double)HEDGE_BLIND_NS;
    return p->started_ns + (uint64_t)wait + HEDGE_SLACK_NS;
}

/* When silence in the middle of a body will have lasted too long to be chance. */
static uint64_t silence_due_ns(const struct ps_pace *p, const struct ps_pace_host *h)
{
    uint64_t gap = (p->last_ns - p->first_ns) / (p->arrivals > 1 ? p->arrivals - 1 : 1);
    return p->last_ns + SILENCE_NS + SILENCE_GAPS * gap + (uint64_t)(2 * h->wait_ns);
}

uint64_t ps_pace_hedge_ns(const struct ps_pace *p, const struct ps_pace_host *h, double median,
                          uint64_t missing, uint64_t now_ns)
{
    if (p->first_ns == 0) {
        uint64_t due = headers_due_ns(p, h);
        return now_ns >= due ? 0 : due;
    }
    if (median <= 0) /* nothing to compare with: only silence tells */
        return now_ns + HEDGE_LOOK_NS;
    uint64_t ns = now_ns - p->mark_ns, silence_ns = silence_due_ns(p, h);
    if (now_ns >= silence_ns)
        return 0;
    if (ns < HEDGE_LOOK_NS)
        return p->mark_ns + HEDGE_LOOK_NS;
    double bytes = (double)(p->bytes - p->mark_bytes),
           rate = bytes * (double)PS_NS_PER_S / (double)ns;
    /* A window that has just begun is little evidence beside the one before. */
    if (p->recent > rate && ns < PS_PACE_WINDOW_NS) {
        double part = (double)ns / (double)PS_PACE_WINDOW_NS;
        rate = part * rate + (1 - part) * p->recent;
    }
    double own_ns = rate > 0 ? (double)missing / rate * (double)PS_NS_PER_S : 1e18;
    if (own_ns > HEDGE_GAIN * anew_ns(h, median, missing) + (double)HEDGE_SLACK_NS)
        return 0;
    return now_ns + HEDGE_LOOK_NS;
}

bool ps_hedge_affordable(uint64_t arrived, uint64_t spent, uint64_t bytes, int pct)
{
    return pct > 0 && spent + bytes <= arrived / 100 * (uint64_t)pct;
}
