/* How far a long piece of work is, on stderr. On a terminal one line that redraws itself, with rate
 * and time left; elsewhere a plain line every ten seconds, so that short work prints nothing.
 *
 * One display per process. All functions are thread-safe: log lines of other threads clear the
 * line and redraw it. */
#ifndef PS_TOOLS_PROGRESS_H
#define PS_TOOLS_PROGRESS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void ps_progress_init(bool quiet); /* once, before the first update */
/* `what` is a static word; a new word starts a new line. total 0: unknown. Cheap enough to call
 * at any rate. The signature suits ps_engine_options.progress; user is ignored. */
void ps_progress_update(void *user, const char *what, uint64_t done, uint64_t total);
void ps_progress_end(void); /* clears the line; updates after it start anew */
void ps_progress_stop(
    void); /* clears the line and shows nothing more (text is being written to the same terminal) */

/* Pure: the line for a terminal of `columns`, without line control; 0: for a log, whole and without a bar. Returns its
 * length. */
size_t ps_progress_format(char *out, size_t cap, unsigned columns, const char *what, uint64_t done,
                          uint64_t total, double bytes_s);
#endif
