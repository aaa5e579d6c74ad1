/* What goes first when room is needed. Pure functions: facts in, an order out.
 *
 * The plan decides what is worth keeping (design.md "Why eviction is a plan"); here is only the order in which
 * the rest leaves: other models by last use, then what the plan of this process's models does not name. A model
 * that another live process works on keeps its fair share, or two processes would evict each other's extents
 * forever. Within a model the highest rank goes first, so that a smaller budget leaves the front of the plan in
 * place. */
#ifndef PS_CACHE_EVICT_H
#define PS_CACHE_EVICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "cache/index_lmdb.h"

#define PS_EVICT_KEEP UINT64_MAX

struct ps_evict_facts {
    bool own;      /* this process works on the extent's model */
    bool has_plan; /* own, and a plan was set for it */
    bool planned;  /* some plan of this process names the extent */
    bool pinned;
    bool live_elsewhere; /* another live process works on it */
    bool above_share;    /* live_elsewhere: holds more than its fair share */
    bool shrinking;      /* the folder is over its limit: anything may go, in this order */
    uint16_t use_order;  /* of the model: 0 = least recently used */
    uint32_t rank;       /* of the extent in its plan */
};
/* Lower goes first; PS_EVICT_KEEP stays. */
uint64_t ps_evict_score(const struct ps_evict_facts *f);

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
