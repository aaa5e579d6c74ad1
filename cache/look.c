/* A cache that is only looked at: what plan, doctor, inspect and a dry run may know of it. In: a budget that somebody
 * thinks of; out: what a run with it would find, nothing being changed. */
#include "base/alloc.h"
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

uint64_t ps_cache_usable_for(struct ps_cache *c, uint32_t model, uint64_t budget_bytes,
                             uint64_t n_extents)
{
    const struct ps_budget_state s = {.budget_bytes = budget_bytes,
                                      .other_bytes = ps_budget_fixed_bytes(budget_bytes)};
    struct ps_model *models = NULL;
    uint64_t pinned_n = 0, pinned_bytes = 0;
    size_t n = 0;
    if (c && ps_index_models(c->index, &models, &n, NULL) != 0)
        n = 0;
    for (size_t i = 0; i < n; i++)
        if (models[i].pinned && models[i].number != model) {
            pinned_n += models[i].n_extents;
            pinned_bytes += models[i].padded_bytes;
        }
    ps_free(models);
    return ps_budget_usable(&s, n_extents, pinned_n, pinned_bytes);
}
