/* What a list of models should leave on the disk, against what lies there at its end: models that are warmed later
 * may take the room of earlier ones. Both are what the cache counts as the model's own: an extent that several
 * models share is counted once, with the one that stored it. Comes in: facts of `warm` and of `cache ls` as JSON.
 * Pure, one thread. */
#ifndef PS_TOOLS_WARM_HELD_H
#define PS_TOOLS_WARM_HELD_H
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct ps_warm_held {
    struct ps_warm_model {
        char id[65];
        uint64_t bytes; /* of weights, its own, on the disk when its turn was over */
    } * models;         /* each once */
    size_t n;
};

/* Notes what is held of the model that `facts` of its warming name; `cache` are the facts of `cache ls` after its turn.
 * PS_ENOMEM, PS_EDATA. */
int ps_warm_held_note(struct ps_warm_held *h, const char *facts, const char *cache, size_t bytes,
                      struct ps_err *err);
/* How many of the models have lost bytes since, by the facts of `cache ls` now. PS_ENOMEM, PS_EDATA. */
int ps_warm_held_lost(size_t *lost, const struct ps_warm_held *h, const char *cache, size_t bytes,
                      struct ps_err *err);
void ps_warm_held_deinit(struct ps_warm_held *h);
#endif
