/* A cache that is only looked at: what plan, doctor, inspect and a dry run may know of it. In: a budget that somebody
 * thinks of; out: what a run with it would find, nothing being changed. */
#include "base/alloc.h"
#include "base/minmax.h"
#include "cache/cache_internal.h"

int ps_cache_check_budget(uint64_t budget_bytes, uint64_t *least_bytes, struct ps_err *err)
{
    const uint64_t least = ps_budget_least();
    if (least_bytes)
        *least_bytes = least;
    if (budget_bytes >= least)
        return 0;
    return ps_err_set(err, PS_EBUDGET, PS_CACHE_ORIGIN,
                      "cache: a budget of %llu bytes holds no index: give --disk at least %llu",
                      (unsigned long long)budget_bytes, (unsigned long long)least);
}

int ps_cache_priority(struct ps_cache *c, uint32_t model)
{
    struct ps_index_read r;
    struct ps_model m;
    int priority = 0;
    if (model >= PS_INDEX_MODELS_MAX || ps_index_read_begin(&r, c->index, NULL) != 0)
        return 0;
    if (ps_index_read_model(&r, (uint16_t)model, &m) == 0)
        priority = m.priority;
    ps_index_read_end(&r);
    return priority;
}

/* As eviction sees it (evict.h), where nobody else is at work. */
static bool stays(const struct ps_model *m, int priority)
{
    return m->pinned || m->priority > priority;
}

uint64_t ps_cache_usable_for(struct ps_cache *c, uint32_t model, int priority,
                             uint64_t budget_bytes, uint64_t n_extents)
{
    const struct ps_budget_state s = {.budget_bytes = budget_bytes,
                                      .other_bytes = ps_budget_fixed_bytes(budget_bytes)};
    struct ps_model *models = NULL;
    uint64_t kept_n = 0, kept_bytes = 0;
    size_t n = 0;
    if (c && ps_index_models(c->index, &models, &n, NULL) != 0)
        n = 0;
    for (size_t i = 0; i < n; i++)
        if (models[i].number != model && stays(&models[i], priority)) {
            kept_n += models[i].n_extents;
            kept_bytes += models[i].padded_bytes;
        }
    ps_free(models);
    return ps_budget_usable(&s, n_extents, kept_n, kept_bytes);
}

/* Takes away of the extents that stay those that are named. */
static int leave_out(uint64_t *n_extents, uint64_t *padded_bytes, struct ps_cache *c,
                     const bool *staying, const uint8_t (*keys)[PS_SHA256_BYTES], size_t n,
                     struct ps_err *err)
{
    struct ps_record rec;
    for (size_t i = 0; i < n; i++) {
        const int rc = ps_index_get(c->index, keys[i], &rec, err);
        if (rc == PS_ENOTFOUND)
            continue;
        if (rc != 0)
            return ps_cache_note(c, rc);
        if (rec.model >= PS_INDEX_MODELS_MAX || !staying[rec.model] || *n_extents == 0)
            continue;
        --*n_extents; /* at most what was counted, though others may have changed that since */
        *padded_bytes -= ps_min_u64(*padded_bytes, ps_budget_round(rec.bytes));
    }
    return 0;
}

int ps_cache_kept_beside(uint64_t *n_extents, uint64_t *padded_bytes, struct ps_cache *c,
                         int priority, const uint8_t (*keys)[PS_SHA256_BYTES], size_t n,
                         struct ps_err *err)
{
    bool staying[PS_INDEX_MODELS_MAX] = {false};
    struct ps_model *models = NULL;
    uint64_t count = 0, bytes = 0;
    size_t n_models = 0;
    int rc = ps_index_models(c->index, &models, &n_models, err);
    for (size_t i = 0; rc == 0 && i < n_models; i++)
        if (stays(&models[i], priority) && models[i].number < PS_INDEX_MODELS_MAX) {
            staying[models[i].number] = true;
            count += models[i].n_extents;
            bytes += models[i].padded_bytes;
        }
    if (rc == 0 && count > 0)
        rc = leave_out(&count, &bytes, c, staying, keys, n, err);
    ps_free(models);
    if (rc == 0) {
        *n_extents = count;
        *padded_bytes = bytes;
    }
    return rc;
}
