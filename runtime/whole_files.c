/* Hashing whole files out of cache and source. See whole_files.h. */
#include "runtime/whole_files.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"

static const char *const ORIGIN = "warm";
#define PIECE_BYTES (1u << 20) /* what lies between extents is read in such pieces */

struct hashing {
    struct ps_whole_files *w;
    struct ps_sha256 *hash;
    uint8_t *buf;
    size_t buf_bytes;
    const struct ps_extent **sorted; /* of one object, by offset */
    uint64_t done, total;
};

static bool wanted_hash(const struct ps_object *o, uint8_t out[PS_SHA256_BYTES])
{
    static const char prefix[] = "sha256:";
    const size_t n = sizeof prefix - 1;
    return o->identity && o->bytes && strncmp(o->identity, prefix, n) == 0 &&
           ps_hex_decode(o->identity + n, strlen(o->identity + n), out, PS_SHA256_BYTES) == 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct ps_extent *x = *(const struct ps_extent *const *)a,
                           *y = *(const struct ps_extent *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static uint32_t sort_extents(struct hashing *h, uint32_t object)
{
    const struct ps_map *m = h->w->map;
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_extents; i++)
        if (m->extents[i].object == object)
            h->sorted[n++] = &m->extents[i];
    qsort(h->sorted, n, sizeof(struct ps_extent *), by_offset);
    return n;
}

static int from_source(struct hashing *h, const struct ps_object *o, uint64_t from, size_t n,
                       struct ps_err *err)
{
    struct ps_range r = {.object = o->name,
                         .offset = from,
                         .bytes = n,
                         .buf = h->buf,
                         .etag = o->etag,
                         .object_bytes = o->bytes};
    return ps_source_read_range(h->w->source, &r, err);
}

/* Hashes [*at, *at + n), of which `e` (nullable) is the extent that lies just there. */
static int take(struct hashing *h, const struct ps_object *o, const struct ps_extent *e,
                uint64_t *at, size_t n, struct ps_err *err)
{
    struct ps_whole_files *w = h->w;
    if (w->interrupt && atomic_load(w->interrupt))
        return ps_err_set(err, PS_EINTERRUPTED, ORIGIN, "interrupted");
    int rc = e && w->cache ? ps_cache_read(w->cache, e->key, h->buf, n, h->buf_bytes, NULL)
                           : PS_ENOTFOUND;
    if (rc != 0)
        rc = from_source(h, o, *at, n, err);
    if (rc != 0)
        return rc;
    ps_sha256_update(h->hash, h->buf, n);
    *at += n;
    h->done += n;
    if (w->progress)
        w->progress(w->user, h->done, h->total);
    return 0;
}

static int take_upto(struct hashing *h, const struct ps_object *o, uint64_t *at, uint64_t end,
                     struct ps_err *err)
{
    int rc = 0;
    while (rc == 0 && *at < end)
        rc = take(h, o, NULL, at, end - *at < PIECE_BYTES ? (size_t)(end - *at) : PIECE_BYTES, err);
    return rc;
}

static int hash_object(struct hashing *h, uint32_t object, uint8_t got[PS_SHA256_BYTES],
                       struct ps_err *err)
{
    const struct ps_object *o = &h->w->map->objects[object];
    uint32_t n = sort_extents(h, object);
    uint64_t at = 0;
    int rc = 0;
    ps_sha256_reset(h->hash);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        if (h->sorted[i]->offset < at)
            continue; /* shared bytes: read as part of what lies between */
        rc = take_upto(h, o, &at, h->sorted[i]->offset, err);
        if (rc == 0)
            rc = take(h, o, h->sorted[i], &at, h->sorted[i]->stored_bytes, err);
    }
    if (rc == 0)
        rc = take_upto(h, o, &at, o->bytes, err);
    if (rc == 0)
        ps_sha256_final(h->hash, got);
    return rc;
}

static int check_object(struct hashing *h, uint32_t object, struct ps_err *err)
{
    struct ps_whole_files *w = h->w;
    const struct ps_object *o = &w->map->objects[object];
    uint8_t want[PS_SHA256_BYTES], got[PS_SHA256_BYTES];
    if (!wanted_hash(o, want))
        return 0;
    int rc = hash_object(h, object, got, err);
    if (rc != 0)
        return rc;
    w->checked++;
    if (memcmp(want, got, sizeof got) == 0)
        return 0;
    ps_log(PS_LOG_WARN, ORIGIN, "%s: its SHA-256 is not the one that %s names", o->name,
           w->source->label);
    if (w->bad++ == 0)
        w->first_bad = o->name;
    return 0;
}

static int hashing_init(struct hashing *h, struct ps_whole_files *w)
{
    const struct ps_map *m = w->map;
    uint8_t unused[PS_SHA256_BYTES];
    h->w = w;
    for (uint32_t i = 0; i < m->n_objects; i++)
        if (wanted_hash(&m->objects[i], unused))
            h->total += m->objects[i].bytes;
    h->buf_bytes = m->max_stored_bytes > PIECE_BYTES ? m->max_stored_bytes : PIECE_BYTES;
    h->buf_bytes = (h->buf_bytes + 4095) / 4096 * 4096;
    h->buf = ps_alloc_pages(h->buf_bytes, 4096);
    h->sorted = ps_malloc(sizeof(struct ps_extent *) * ((size_t)m->n_extents + 1));
    return h->buf && h->sorted && ps_sha256_new(&h->hash) == 0 ? 0 : PS_ENOMEM;
}

int ps_whole_files_check(struct ps_whole_files *w, struct ps_err *err)
{
    struct hashing h = {0};
    int rc = hashing_init(&h, w);
    w->checked = w->bad = 0;
    w->first_bad = NULL;
    if (rc != 0)
        rc = ps_err_set(err, rc, ORIGIN, "out of memory: %zu bytes", h.buf_bytes);
    if (rc == 0 && w->progress && h.total > 0)
        w->progress(w->user, 0, h.total);
    for (uint32_t i = 0; i < w->map->n_objects && rc == 0 && h.total > 0; i++)
        rc = check_object(&h, i, err);
    ps_sha256_free(h.hash);
    ps_free(h.sorted);
    if (h.buf)
        ps_free_pages(h.buf, h.buf_bytes);
    return rc;
}
