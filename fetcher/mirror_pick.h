/* Which of several sources is asked next. Comes in: how each has done lately, which were tried already.
 * Goes out: one of them, and how long it may try. Pure functions on integers.
 *
 * Sources are asked in their order: who is named first is preferred while he works. One that failed is
 * left alone for a while that doubles with each failure; then a single range goes there, and all go
 * there again once that has come. */
#ifndef PS_FETCHER_MIRROR_PICK_H
#define PS_FETCHER_MIRROR_PICK_H
#include <stdbool.h>
#include <stdint.h>

#define PS_MIRRORS_MAX      16u /* sources of one model, the first included */
#define PS_MIRROR_AVOID_MAX 60000000000ull

struct ps_mirror_health {
    unsigned failures; /* in a row */
    uint64_t avoid_until_ns;
    unsigned in_flight;
};

/* The next one that is in `usable` and not in `tried` (bits), or -1. `wary`: the bits of those that are not to be asked
 * for this object unless nobody else is left (they lacked it, or their bytes were wrong). */
int ps_mirror_pick(const struct ps_mirror_health *h, unsigned n, uint32_t usable, uint32_t tried,
                   uint32_t wary, uint64_t now_ns);
void ps_mirror_failed(struct ps_mirror_health *h, uint64_t now_ns);
void ps_mirror_worked(struct ps_mirror_health *h);

/* How long a try may last: all that is left where nobody else can be asked; else an equal share of it, five seconds at
 * most, three for a source that has just been failing. */
uint64_t ps_mirror_patience_ns(uint64_t left_ns, unsigned others, bool failing);
#endif
