/* Facts on models in use. In: index and claims; out: a sorted list, a share. */
#include "cache/shares.h"

#include <string.h>
#include "base/alloc.h"
#include "base/clock.h"

/* Insertion: a folder has few models. */
static void sort_models(struct ps_model *models, size_t n, uint64_t now_s)
{
    for (size_t i = 1; i < n; i++) {
        const struct ps_model m = models[i];
        size_t at = i;
        for (; at > 0 && ps_evict_model_before(&m, &models[at - 1], now_s); at--)
            models[at] = models[at - 1];
        models[at] = m;
    }
}

static void note_users(struct ps_cache *c, struct ps_shares *s, uint64_t *budget)
{
    uint64_t floor, growing;
    ps_claims_lock(c->claims);
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++) {
        const struct ps_claim_process *q = ps_claims_process_locked(c->claims, p);
        for (uint32_t i = 0; q->used && i < q->n_models && i < PS_CLAIM_MODELS; i++)
            if (q->models[i] < PS_INDEX_MODELS_MAX)
                (p == ps_claims_self(c->claims) ? s->own : s->elsewhere)[q->models[i]] = true;
    }
    ps_claims_limits_locked(c->claims, budget, &floor, &growing);
    ps_claims_unlock(c->claims);
}

/* What is left of the budget when the higher ones have theirs, by the number of models in use. */
static uint64_t share_of(const struct ps_shares *s, uint64_t budget)
{
    uint64_t n = 0, above = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct ps_model *m = &s->models[i];
        const bool used = s->own[m->number] || s->elsewhere[m->number];
        if (m->priority > s->priority)
            above += m->padded_bytes;
        else if (used && m->priority == s->priority)
            n++;
    }
    return (budget > above ? budget - above : 0) / (n > 0 ? n : 1);
}

int ps_shares_new(struct ps_shares **out, struct ps_cache *c, struct ps_err *err)
{
    uint64_t budget;
    struct ps_shares *s = ps_calloc(1, sizeof *s);
    if (!s)
        return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "cache: out of memory");
    const int rc = ps_index_models(c->index, &s->models, &s->n, err);
    if (rc != 0) {
        ps_free(s);
        return rc;
    }
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++)
        if (s->models[i].number < PS_INDEX_MODELS_MAX)
            s->models[kept++] = s->models[i];
    s->n = kept;
    sort_models(s->models, s->n, ps_wall_s());
    note_users(c, s, &budget);
    bool any = false;
    for (size_t i = 0; i < s->n; i++) {
        const struct ps_model *m = &s->models[i];
        s->place[m->number] = (uint16_t)(i + 1);
        if (s->own[m->number] && (!any || m->priority > s->priority)) {
            s->priority = m->priority;
            any = true;
        }
    }
    s->share_bytes = share_of(s, budget);
    *out = s;
    return 0;
}

void ps_shares_free(struct ps_shares *s)
{
    if (!s)
        return;
    ps_free(s->models);
    ps_free(s);
}

const struct ps_model *ps_shares_model(const struct ps_shares *s, uint32_t number)
{
    return number < PS_INDEX_MODELS_MAX && s->place[number] > 0 ? &s->models[s->place[number] - 1]
                                                                : NULL;
}

uint64_t ps_shares_kept_bytes(const struct ps_shares *s, const struct ps_model *m)
{
    if (s->own[m->number])
        return 0;
    if (m->pinned || m->priority > s->priority)
        return m->padded_bytes;
    if (m->priority < s->priority || !s->elsewhere[m->number])
        return 0;
    return m->padded_bytes < s->share_bytes ? m->padded_bytes : s->share_bytes;
}
