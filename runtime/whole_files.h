/* Are the files of a plain model, as the cache and the source give them, the ones that their hub names by SHA-256?
 * Comes in: a map whose objects' identities may hold such a hash, the cache, the source. Goes out: which files
 * differ.
 *
 * A plain folder has no hash per extent: what arrived first is what the cache's CRC32C guards. The hash of the
 * whole file is the only proof that it was right, and needs every byte of it: from the cache what is held, the
 * rest from the source. */
#ifndef PS_RUNTIME_WHOLE_FILES_H
#define PS_RUNTIME_WHOLE_FILES_H
#include <stdatomic.h>
#include "cache/cache.h"
#include "proto/map.h"
#include "proto/source.h"

struct ps_whole_files {
    const struct ps_map *map;
    struct ps_source *source;
    struct ps_cache *cache;      /* nullable */
    const atomic_int *interrupt; /* nullable: not 0 ends it with PS_EINTERRUPTED */
    void (*progress)(void *user, uint64_t done, uint64_t total); /* nullable */
    void *user;
    /* Results. */
    uint32_t checked, bad;
    const char *first_bad; /* name of an object of the map */
};

/* Reads and hashes; blocks. 0 also where files differ: see bad. */
int ps_whole_files_check(struct ps_whole_files *w, struct ps_err *err);
#endif
