/* What goes first when room is needed. Pure functions: facts in, an order out.
 *
 * The plan decides what is worth keeping (design.md "Why eviction is a plan"); here is only the order in which
 * the rest leaves:
 *
 *   1. extents of models with a lower priority than ours, whoever uses them;
 *   2. extents of models with our priority that nobody uses now;
 *   3. what the plan of this process's models does not name;
 *   4. what another live process's model of our priority holds beyond its fair share: below it two processes would
 *      evict each other's extents forever.
 *
 * Pinned models and those of a higher priority make room for nobody; only where the folder must shrink may they go,
 * last of all. Among the models of one step the lowest priority goes first, then the least bytes saved per byte held,
 * then the least recently used; within a model the highest rank, so that a smaller budget leaves the front of the plan
 * in place.
 *
 * Bytes saved: every byte that is read from the cache was not fetched. A model's sum of them, and of the bytes that
 * were fetched into the cache once, fades by half in a day without use; divided by the bytes that it holds it says how
 * often a byte kept for it spares the link. Models within a factor of two count as equal. */
#ifndef PS_CACHE_EVICT_H
#define PS_CACHE_EVICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cache/index.h"

#define PS_EVICT_KEEP UINT64_MAX

struct ps_evict_facts {
    bool own;      /* this process works on the extent's model */
    bool has_plan; /* own, and a plan was set for it */
    bool planned;  /* some plan of this process names the extent */
    bool pinned;
    int relation;        /* of its model's priority to ours: < 0 lower, > 0 higher */
    bool live_elsewhere; /* another live process works on it */
    bool above_share;    /* live_elsewhere: holds more than its fair share */
    bool shrinking;      /* the folder is over its limit: anything may go, in this order */
    uint16_t use_order;  /* of the model: 0 goes first (ps_evict_model_before) */
    uint32_t rank;       /* of the extent in its plan */
};
/* Lower goes first; PS_EVICT_KEEP stays. */
uint64_t ps_evict_score(const struct ps_evict_facts *f);

#define PS_EVICT_HALF_S 86400u /* after so many seconds without use half of what was saved counts */

/* What is left of a sum of saved bytes after a time without use. */
uint64_t ps_evict_faded(uint64_t saved_bytes, uint64_t age_s);
/* How often held bytes have been used lately, in steps of a factor of two: log2 of 24 x saved / held; 0 for nothing. */
unsigned ps_evict_worth(uint64_t saved_bytes, uint64_t held_bytes);
/* Whether the extents of model a go before those of b, `now_s` on the wall clock. A strict order but for equals. */
bool ps_evict_model_before(const struct ps_model *a, const struct ps_model *b, uint64_t now_s);

/* The n lowest scores of any number of candidates, in a fixed space: a heap whose top is the best one to lose. */
struct ps_evict_victim {
    uint64_t score;
    struct ps_keyed_record kept;
};
struct ps_evict_list {
    struct ps_evict_victim *items; /* owner's, cap of them */
    size_t n, cap;
};
void ps_evict_offer(struct ps_evict_list *l, uint64_t score, const struct ps_keyed_record *rec);
/* Whether a score is that of an extent beyond the fair share of a live process: of those only the excess may go. */
bool ps_evict_is_share(uint64_t score);
void ps_evict_sort(struct ps_evict_list *l); /* lowest score first; no offers afterwards */

#endif
