/* What a list of models should leave on the disk, against what lies there at its end: models that are warmed later
 * may take the room of earlier ones. By the keys of their extents, because what several models share is counted in
 * the cache as that of one of them, and missed by all. Comes in: a cache and keys; goes out: a number. One thread;
 * blocks on the disk for a look into the index. */
#ifndef PS_TOOLS_WARM_HELD_H
#define PS_TOOLS_WARM_HELD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cache/cache.h"

struct ps_warm_held {
    struct ps_warm_model {
        uint8_t id[PS_SHA256_BYTES];
        uint8_t (*keys)[PS_SHA256_BYTES]; /* of what was on the disk when its turn was over: 32 bytes an extent */
        size_t n;
        char *label; /* of its source */
        bool lost;   /* as ps_warm_held_lost found */
    } * models;      /* each once */
    size_t n;
};

/* Notes of the model `id`, told to users as `label`, which of its n keys are held now, in place of what was noted
 * before. PS_ENOMEM, or what kept the cache from telling. */
int ps_warm_held_note(struct ps_warm_held *h, const uint8_t id[PS_SHA256_BYTES], const char *label,
                      const uint8_t (*keys)[PS_SHA256_BYTES], size_t n, struct ps_cache *cache,
                      struct ps_err *err);
/* Marks which of the models have lost extents since, and counts them. Errors as above. */
int ps_warm_held_lost(size_t *lost, struct ps_warm_held *h, struct ps_cache *cache,
                      struct ps_err *err);
/* What the models of a dry run would leave on the disk, each extent once, and what lies there beside it for good. */
struct ps_warm_wanted {
    uint8_t (*keys)[PS_SHA256_BYTES]; /* sorted */
    size_t n;
    uint64_t padded_bytes;
    uint64_t n_kept, kept_bytes; /* as ps_warm_wanted_look found; padded */
};
/* Adds what the plan has room for of one more model, or its small files: n keys, and the stored bytes of each.
 * PS_ENOMEM. */
int ps_warm_wanted_add(struct ps_warm_wanted *w, const uint8_t (*keys)[PS_SHA256_BYTES],
                       const uint64_t *bytes, size_t n, struct ps_err *err);
/* Notes what was not added and is pinned, or of a higher priority than this: nothing that is warmed takes its room.
 * cache: nullable, there is none yet. PS_ENOMEM, or what kept the cache from telling. */
int ps_warm_wanted_look(struct ps_warm_wanted *w, struct ps_cache *cache, int priority,
                        struct ps_err *err);
/* The --disk that holds all that was added, and what stays beside it. */
uint64_t ps_warm_wanted_budget(const struct ps_warm_wanted *w);
void ps_warm_wanted_deinit(struct ps_warm_wanted *w);
void ps_warm_held_deinit(struct ps_warm_held *h);
#endif
