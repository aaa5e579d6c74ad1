/* See progress.h. No colour is ever used, so NO_COLOR holds as it is; TERM=dumb and CI get plain
 * lines. */
#include "tools/progress.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"

#define DRAW_EVERY_NS (PS_NS_PER_S / 8)
#define LINE_EVERY_NS (10 * PS_NS_PER_S)
#define RATE_SPAN_S                                                                                \
    4.0 /* the rate is an average over all of the first this long, and then forgets over about as long */

static struct {
    pthread_mutex_t lock; /* guards everything below */
    bool off, bar, drawn;
    const char *what;
    uint64_t done, total;
    uint64_t drawn_ns, rated_ns, rated_done, started_ns, started_done;
    double bytes_s;
} shown = {.lock = PTHREAD_MUTEX_INITIALIZER, .off = true};

static unsigned columns(void)
{
    const char *text = getenv("COLUMNS");
    struct winsize size;
    long n = text ? strtol(text, NULL, 10) : 0;

    if (n > 0 && n < 10000)
        return (unsigned)n;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

static void format_left(char *out, size_t cap, uint64_t bytes, double bytes_s)
{
    double s = bytes_s > 0 ? (double)bytes / bytes_s : -1;

    if (s < 0 || s > 99 * 3600.0)
        snprintf(out, cap, "-:--");
    else if (s >= 3600)
        snprintf(out, cap, "%d:%02d:%02d", (int)s / 3600, (int)s / 60 % 60, (int)s % 60);
    else
        snprintf(out, cap, "%d:%02d", (int)s / 60, (int)s % 60);
}

size_t ps_progress_format(char *out, size_t cap, unsigned width, const char *what, uint64_t done,
                          uint64_t total, double bytes_s)
{
    char have[24], all[24], rate[24], left[24], tail[128], bar[64];
    unsigned filled, room;
    int n;

    ps_size_format(have, sizeof have, done);
    ps_size_format(rate, sizeof rate, (uint64_t)bytes_s);
    if (total == 0) {
        n = snprintf(out, cap, "%s  %s  %s/s", what, have, rate);
        return n < 0 ? 0 : ((size_t)n < cap ? (size_t)n : cap - 1);
    }
    done = done < total ? done : total;
    ps_size_format(all, sizeof all, total);
    format_left(left, sizeof left, total - done, bytes_s);
    n = snprintf(tail, sizeof tail, "%3d %%  %s of %s  %s/s  %s left",
                 (int)((double)done / (double)total * 100), have, all, rate, left);
    room = strlen(what) + (unsigned)n + 6 < width ? width - (unsigned)strlen(what) - (unsigned)n - 6
                                                  : 0;
    room = room > 40 ? 40 : room;
    filled = (unsigned)((double)done / (double)total * room);
    for (unsigned i = 0; i < room; i++)
        bar[i] = i < filled ? '#' : '-';
    bar[room] = '\0';
    if (room >= 8)
        n = snprintf(out, cap, "%s [%s] %s", what, bar, tail);
    else
        n = snprintf(out, cap, "%s %.*s", what,
                     width == 0                 ? (int)sizeof tail
                     : width > strlen(what) + 2 ? (int)(width - strlen(what) - 2)
                                                : 1,
                     tail);
    return n < 0 ? 0 : ((size_t)n < cap ? (size_t)n : cap - 1);
}

/* One write, so that other writers to the terminal do not land inside. */
static void put(const char *text, size_t n)
{
    ssize_t ignored = write(STDERR_FILENO, text, n);

    (void)ignored;
}

static void clear_locked(void)
{
    if (shown.drawn && shown.bar)
        put("\r\033[K", 4);
    shown.drawn = false;
}

static void draw_locked(void)
{
    char line[256] = "\r", *text = line + 1;
    size_t n = ps_progress_format(text, sizeof line - 8, columns(), shown.what, shown.done,
                                  shown.total, shown.bytes_s);

    n += 1;
    memcpy(line + n, "\033[K", 3);
    put(line, n + 3);
    shown.drawn = true;
}

static void print_line_locked(void)
{
    char line[256] = "penstock: ";
    size_t n = ps_progress_format(line + 10, sizeof line - 12, 0, shown.what, shown.done,
                                  shown.total, shown.bytes_s);

    line[10 + n] = '\n';
    put(line, 11 + n);
}

static void before_log(void)
{
    pthread_mutex_lock(&shown.lock);
    clear_locked();
}

static void after_log(void)
{
    if (shown.what && shown.bar && !shown.off)
        draw_locked();
    pthread_mutex_unlock(&shown.lock);
}

void ps_progress_init(bool quiet)
{
    const char *term = getenv("TERM");

    shown.off = quiet;
    shown.bar = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0 && !getenv("CI");
    if (shown.bar && !quiet)
        ps_log_set_hooks(before_log, after_log);
}

static void start_locked(const char *what, uint64_t done, uint64_t now)
{
    shown.what = what;
    shown.started_ns = shown.rated_ns = now;
    shown.started_done = shown.rated_done = done;
    shown.bytes_s = 0;
    shown.drawn_ns = now; /* the first line comes after a first interval */
}

static double seconds_between(uint64_t begin_ns, uint64_t end_ns)
{
    return (double)(end_ns - begin_ns) / (double)PS_NS_PER_S;
}

static void rate_locked(uint64_t done, uint64_t now)
{
    double span = seconds_between(shown.rated_ns, now), all = seconds_between(shown.started_ns, now);

    if (span < 0.1 || done < shown.rated_done)
        return;
    if (all <= RATE_SPAN_S) /* transfers arrive in bursts: the first one says nothing yet */
        shown.bytes_s = (double)(done - shown.started_done) / all;
    else
        shown.bytes_s +=
            span / (span + RATE_SPAN_S) * ((double)(done - shown.rated_done) / span - shown.bytes_s);
    shown.rated_ns = now;
    shown.rated_done = done;
}

void ps_progress_update(void *user, const char *what, uint64_t done, uint64_t total)
{
    uint64_t now = ps_now_ns();

    (void)user;
    pthread_mutex_lock(&shown.lock);
    if (!shown.off) {
        if (!shown.what || strcmp(shown.what, what) != 0 || done < shown.done)
            start_locked(what, done, now);
        shown.done = done;
        shown.total = total;
        rate_locked(done, now);
        if (now - shown.drawn_ns >= (shown.bar ? DRAW_EVERY_NS : LINE_EVERY_NS)) {
            shown.drawn_ns = now;
            if (shown.bar)
                draw_locked();
            else
                print_line_locked();
        }
    }
    pthread_mutex_unlock(&shown.lock);
}

void ps_progress_end(void)
{
    pthread_mutex_lock(&shown.lock);
    clear_locked();
    shown.what = NULL;
    pthread_mutex_unlock(&shown.lock);
}

void ps_progress_stop(void)
{
    ps_progress_end();
    pthread_mutex_lock(&shown.lock);
    shown.off = true;
    pthread_mutex_unlock(&shown.lock);
}
