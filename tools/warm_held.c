/* See warm_held.h. */
#include "tools/warm_held.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cache/budget.h"

/* Which keys are held, a bit each; *present: ps_free. */
static int look(uint8_t **present, const uint8_t (*keys)[PS_SHA256_BYTES], size_t n,
                struct ps_cache *cache, struct ps_err *err)
{
    uint8_t *bits = ps_calloc(n / 8 + 1, 1);
    if (!bits)
        return ps_err_set(err, PS_ENOMEM, "warm", "out of memory");
    const int rc = n ? ps_cache_lookup(cache, keys, n, bits, err) : 0;
    if (rc < 0)
        ps_free(bits);
    else
        *present = bits;
    return rc;
}

static bool is_present(const uint8_t *present, size_t i)
{
    return present[i / 8] >> (i % 8) & 1;
}

/* The one of this id, a new one if there is none; NULL without memory. */
static struct ps_warm_model *find(struct ps_warm_held *h, const uint8_t id[PS_SHA256_BYTES],
                                  const char *label)
{
    for (size_t i = 0; i < h->n; i++)
        if (memcmp(h->models[i].id, id, PS_SHA256_BYTES) == 0)
            return &h->models[i];
    struct ps_warm_model *more = ps_realloc_array(h->models, h->n + 1, sizeof *more);
    if (!more)
        return NULL;
    h->models = more;
    char *copy = ps_strdup(label);
    if (!copy)
        return NULL;
    more = &more[h->n++];
    *more = (struct ps_warm_model){.label = copy};
    memcpy(more->id, id, PS_SHA256_BYTES);
    return more;
}

int ps_warm_held_note(struct ps_warm_held *h, const uint8_t id[PS_SHA256_BYTES], const char *label,
                      const uint8_t (*keys)[PS_SHA256_BYTES], size_t n, struct ps_cache *cache,
                      struct ps_err *err)
{
    uint8_t *present = NULL;
    const int rc = look(&present, keys, n, cache, err);
    if (rc < 0)
        return rc;
    uint8_t(*held)[PS_SHA256_BYTES] = ps_malloc(n * PS_SHA256_BYTES + 1);
    struct ps_warm_model *m = held ? find(h, id, label) : NULL;
    if (m) {
        ps_free(m->keys);
        m->keys = held;
        m->n = 0;
        for (size_t i = 0; i < n; i++)
            if (is_present(present, i))
                memcpy(held[m->n++], keys[i], PS_SHA256_BYTES);
    } else {
        ps_free(held);
    }
    ps_free(present);
    return m ? 0 : ps_err_set(err, PS_ENOMEM, "warm", "out of memory");
}

int ps_warm_held_lost(size_t *lost, struct ps_warm_held *h, struct ps_cache *cache, struct ps_err *err)
{
    size_t n = 0;
    for (size_t i = 0; i < h->n; i++) {
        struct ps_warm_model *m = &h->models[i];
        uint8_t *present = NULL;
        bool all = true;
        const int rc = look(&present, (const uint8_t(*)[PS_SHA256_BYTES])m->keys, m->n, cache, err);
        if (rc < 0)
            return rc;
        for (size_t k = 0; k < m->n && all; k++)
            all = is_present(present, k);
        ps_free(present);
        m->lost = !all;
        n += m->lost;
    }
    *lost = n;
    return 0;
}

void ps_warm_held_deinit(struct ps_warm_held *h)
{
    for (size_t i = 0; i < h->n; i++) {
        ps_free(h->models[i].keys);
        ps_free(h->models[i].label);
    }
    ps_free(h->models);
    memset(h, 0, sizeof *h);
}

static int by_key(const void *a, const void *b)
{
    return memcmp(a, b, PS_SHA256_BYTES);
}

static bool wanted_has(const struct ps_warm_wanted *w, size_t n, const uint8_t *key)
{
    return n > 0 && bsearch(key, w->keys, n, PS_SHA256_BYTES, by_key);
}

int ps_warm_wanted_add(struct ps_warm_wanted *w, const uint8_t (*keys)[PS_SHA256_BYTES],
                       const uint64_t *bytes, size_t n, struct ps_err *err)
{
    const size_t before = w->n;
    uint8_t(*more)[PS_SHA256_BYTES] = ps_realloc_array(w->keys, before + n + 1, PS_SHA256_BYTES);
    if (!more)
        return ps_err_set(err, PS_ENOMEM, "warm", "out of memory");
    w->keys = more;
    for (size_t i = 0; i < n; i++) {
        if (wanted_has(w, before, keys[i]))
            continue;
        memcpy(w->keys[w->n++], keys[i], PS_SHA256_BYTES);
        w->padded_bytes += ps_budget_round(bytes[i]);
    }
    qsort(w->keys, w->n, PS_SHA256_BYTES, by_key);
    return 0;
}

int ps_warm_wanted_look(struct ps_warm_wanted *w, struct ps_cache *cache, int priority,
                        struct ps_err *err)
{
    return cache ? ps_cache_kept_beside(&w->n_kept, &w->kept_bytes, cache, priority,
                                        (const uint8_t(*)[PS_SHA256_BYTES])w->keys, w->n, err)
                 : 0;
}

uint64_t ps_warm_wanted_budget(const struct ps_warm_wanted *w)
{
    const uint64_t n = w->n + w->n_kept, bytes = w->padded_bytes + w->kept_bytes;
    const uint64_t most = n * (PS_CACHE_GRAIN - 1); /* an empty one has no padding */
    /* which reckons with the worst padding; how much it is, is known here */
    return ps_cache_budget_for(bytes > most ? bytes - most : 0, n);
}

void ps_warm_wanted_deinit(struct ps_warm_wanted *w)
{
    ps_free(w->keys);
    memset(w, 0, sizeof *w);
}
