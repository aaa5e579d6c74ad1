/* The small files that a run reads beside the weights (tokenizer and its settings), kept in the disk cache, so
 * that a later run fetches next to nothing, and of several that begin together one fetches what all wait for: a
 * tokenizer.json has up to 33 MB, 6 % of a model of 0.5 GB. warm keeps them all; a run keeps what it fetches and
 * is no trifle, where the cache has room for all of the model beside it.
 *
 * A copy is found by the version of its file, never by its name alone. Of a pre-split model the manifest tells the
 * SHA-256; elsewhere the server is asked for the first bytes, and with them for its ETag or commit: what changed
 * is fetched anew. Where a server names no version (no strong ETag) nothing is kept, and nobody waits. The first
 * questions to a model (manifest, config.json, index and headers of its files) are asked at every start all the
 * same: they are how a changed model is noticed, and they come before the size of the cache is known, which may be
 * a share of the model's. Copies count inside --disk as extents of the model that no plan names: weights that need
 * the room push them out. */
#ifndef PS_RUNTIME_KEPT_FILES_H
#define PS_RUNTIME_KEPT_FILES_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/cache.h"
#include "proto/layout.h"
#include "proto/source.h"

struct ps_kept { /* all borrowed */
    struct ps_source *source;
    const struct ps_model_files *files; /* NULL: a folder that may hold no model, and nothing is kept */
    struct ps_cache *cache;             /* nullable */
    uint32_t model;                     /* in the cache */
    bool shares; /* what is fetched is kept, and others who fetch it are waited for */
    const atomic_int *interrupt; /* nullable; ends a wait for others */
};

/* The manifest names this file: it belongs to the model, and a server that has it not is no reason to go on without. */
bool ps_kept_is_listed(const struct ps_kept *k, const char *name);
/* Like ps_model_files_get, from the cache where it holds this version, or where another process is about to put it.
 * PS_EINTERRUPTED. Any thread; blocks. */
int ps_kept_get(char **out, size_t *len, const struct ps_kept *k, const char *name,
                uint64_t max_bytes, struct ps_err *err);
/* Fetches the file and keeps it, unless it is kept already. A file that the model has not (and does not list), or that
 * can't be kept, is no error. *kept: whether it is in the cache now (to be published by ps_cache_flush). */
int ps_kept_store(bool *kept, const struct ps_kept *k, const char *name, uint64_t max_bytes,
                  struct ps_err *err);
/* What files take in the cache: an extent for each of their parts. Zeroed at first. */
struct ps_kept_extents {
    uint8_t (*keys)[PS_SHA256_BYTES];
    uint64_t *bytes; /* of each */
    size_t n;
};
void ps_kept_extents_deinit(struct ps_kept_extents *x);
/* Asks what ps_kept_store asks first, and fetches nothing: *bytes is the length of what it would fetch, 0 if that
 * is nothing (kept already, or not to be kept); *again: it would ask once more behind it. What the file takes when it
 * is kept, now or then, is added to *all. */
int ps_kept_foresee(uint64_t *bytes, bool *again, struct ps_kept_extents *all,
                    const struct ps_kept *k, const char *name, uint64_t max_bytes,
                    struct ps_err *err);
/* What --disk 100% has to hold of them beside a model of so many bytes: a guess, made before anything of them is
 * known. */
uint64_t ps_kept_room(uint64_t stored_bytes);
#endif
