/* Who uses which model now, and what that leaves for others. In: models of the index, the claims table; out: facts for
 * eviction (evict.h) and for the share of the budget that a process may plan with. */
#ifndef PS_CACHE_SHARES_H
#define PS_CACHE_SHARES_H

#include <stdbool.h>
#include <stdint.h>
#include "cache/cache_internal.h"

struct ps_shares {
    struct ps_model *models; /* those whose extents go first stand first */
    size_t n;
    uint16_t place[PS_INDEX_MODELS_MAX]; /* by number: place in models + 1, 0 unknown */
    bool own[PS_INDEX_MODELS_MAX],
        elsewhere[PS_INDEX_MODELS_MAX]; /* used by this, by another live process */
    int priority; /* ours: the highest of the models that this process uses, 0 without one */
    uint64_t share_bytes; /* what each model in use of our priority may keep against the others */
};

/* A snapshot; ps_shares_free. PS_ENOMEM and what the index says. Takes the claims table. */
int ps_shares_new(struct ps_shares **out, struct ps_cache *c, struct ps_err *err);
void ps_shares_free(struct ps_shares *s);
/* NULL: unknown. Borrowed. */
const struct ps_model *ps_shares_model(const struct ps_shares *s, uint32_t number);
/* Bytes of a model of others that stay whatever we want: all of it, its share, or nothing. Pure. */
uint64_t ps_shares_kept_bytes(const struct ps_shares *s, const struct ps_model *m);

#endif
