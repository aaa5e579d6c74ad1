/* A window of requests per host. See aimd.h. */
#include "fetcher/aimd.h"

#include <string.h>

#include "base/clock.h"

/* Long enough that a handful of 8 MiB parts ends in it on a slow connection, and requests per second, which servers
 * count, are seen. */
#define EPOCH_NS   PS_NS_PER_S
#define COLLAPSED  0.5  /* of the usual goodput: fewer requests are tried */
#define AS_GOOD    0.95 /* of the goodput before: fewer do as well */
#define WORSE      0.9  /* more brought less */
#define PAUSE_MOST 64u

void ps_aimd_init(struct ps_aimd *a, unsigned max)
{
    memset(a, 0, sizeof *a);
    a->max = a->window = a->least = max ? max : 1;
    a->pause = 1;
}

static void next_epoch(struct ps_aimd *a, uint64_t bytes, uint64_t now_ns)
{
    a->epoch_ns = now_ns;
    a->epoch_bytes = bytes;
    a->ended = 0;
    a->starved = false;
}

static void set_window(struct ps_aimd *a, unsigned window)
{
    a->window = window > a->max ? a->max : window ? window : 1;
    if (a->window < a->least)
        a->least = a->window;
}

void ps_aimd_throttled(struct ps_aimd *a, uint64_t started_ns, uint64_t now_ns)
{
    if (a->cut_ns != 0 && started_ns < a->cut_ns)
        return;
    set_window(a, a->window / 2);
    a->cut_ns = now_ns;
    a->trial = PS_AIMD_STEADY;
    a->bytes_s = 0; /* what was usual with more requests says nothing now */
    a->epoch_ns = 0;
}

void ps_aimd_succeeded(struct ps_aimd *a)
{
    a->ended++;
}

static void begin_trial(struct ps_aimd *a, enum ps_aimd_trial trial, unsigned window, double bytes_s)
{
    a->trial = trial;
    a->before = a->window;
    a->bytes_s_before = bytes_s;
    set_window(a, window);
}

static void steady(struct ps_aimd *a, double bytes_s)
{
    if (a->bytes_s > 0 && bytes_s < COLLAPSED * a->bytes_s && a->window > 1) {
        begin_trial(a, PS_AIMD_FEWER, a->window - (a->window + 3) / 4, bytes_s);
        return;
    }
    a->bytes_s = a->bytes_s > 0 ? 0.75 * a->bytes_s + 0.25 * bytes_s : bytes_s;
    if (a->window < a->max && ++a->paused >= a->pause) {
        a->paused = 0;
        begin_trial(a, PS_AIMD_MORE, a->window + 1, bytes_s);
    }
}

static void judge_trial(struct ps_aimd *a, double bytes_s)
{
    bool fewer = a->trial == PS_AIMD_FEWER;
    bool keep = fewer ? bytes_s >= AS_GOOD * a->bytes_s_before : bytes_s >= WORSE * a->bytes_s_before;
    a->trial = PS_AIMD_STEADY;
    if (!keep)
        set_window(a, a->before);
    a->bytes_s = keep ? bytes_s : a->bytes_s_before;
    if (!fewer)
        a->pause = keep ? 1 : a->pause * 2 > PAUSE_MOST ? PAUSE_MOST : a->pause * 2;
}

bool ps_aimd_tick(struct ps_aimd *a, uint64_t bytes, unsigned active, bool waiting, uint64_t now_ns)
{
    unsigned window = a->window;
    if (a->epoch_ns == 0) {
        next_epoch(a, bytes, now_ns);
        return false;
    }
    if (!waiting && active < window)
        a->starved = true;
    /* An experiment counts from when the requests are as many as it says. */
    if (a->trial == PS_AIMD_FEWER && active > window) {
        next_epoch(a, bytes, now_ns);
        return false;
    }
    if (now_ns - a->epoch_ns < EPOCH_NS || a->ended < window)
        return false;
    double bytes_s =
        (double)(bytes - a->epoch_bytes) * (double)PS_NS_PER_S / (double)(now_ns - a->epoch_ns);
    bool told = !a->starved;
    next_epoch(a, bytes, now_ns);
    if (told && a->trial == PS_AIMD_STEADY)
        steady(a, bytes_s);
    else if (told)
        judge_trial(a, bytes_s);
    return a->window != window;
}
