/* Eviction order. In: facts on extents; out: a score, and the lowest of many scores. */
#include "cache/evict.h"

#include <stdlib.h>

enum tier {
    TIER_LOWER,     /* of a lower priority */
    TIER_OTHER,     /* nobody works on that model now */
    TIER_UNPLANNED, /* ours, but no plan wants it */
    TIER_SHARE,     /* a live process's, beyond its share */
    /* Only where the folder must shrink: */
    TIER_LIVE, /* a live process's, within its share */
    TIER_OWN,
    TIER_HIGHER, /* of a higher priority */
    TIER_PINNED,
    TIER_KEEP,
};

static enum tier tier_of(const struct ps_evict_facts *f)
{
    if (f->pinned)
        return f->shrinking ? TIER_PINNED : TIER_KEEP;
    if (f->planned)
        return f->shrinking ? TIER_OWN : TIER_KEEP;
    if (f->own) /* without a plan nothing says what is worth less: a warm-up must not eat its own tail */
        return f->has_plan ? TIER_UNPLANNED : f->shrinking ? TIER_OWN : TIER_KEEP;
    if (f->relation > 0)
        return f->shrinking ? TIER_HIGHER : TIER_KEEP;
    if (f->relation < 0)
        return TIER_LOWER;
    if (!f->live_elsewhere)
        return TIER_OTHER;
    if (f->above_share)
        return TIER_SHARE;
    return f->shrinking ? TIER_LIVE : TIER_KEEP;
}

uint64_t ps_evict_score(const struct ps_evict_facts *f)
{
    const enum tier tier = tier_of(f);
    if (tier == TIER_KEEP)
        return PS_EVICT_KEEP;
    return (uint64_t)tier << 48 | (uint64_t)f->use_order << 32 | (UINT32_MAX - f->rank);
}

uint64_t ps_evict_faded(uint64_t saved_bytes, uint64_t age_s)
{
    const uint64_t halves = age_s / PS_EVICT_HALF_S, rest_s = age_s % PS_EVICT_HALF_S;
    if (halves >= 64)
        return 0;
    saved_bytes >>= halves;
    /* A straight line between the halves: within 6 % of the curve. */
    const uint64_t half = saved_bytes / 2;
    return saved_bytes - half / PS_EVICT_HALF_S * rest_s -
           half % PS_EVICT_HALF_S * rest_s / PS_EVICT_HALF_S;
}

unsigned ps_evict_worth(uint64_t saved_bytes, uint64_t held_bytes)
{
    unsigned worth = 0;
    if (held_bytes == 0)
        return 0;
    uint64_t ratio =
        saved_bytes > UINT64_MAX / 24 ? UINT64_MAX / held_bytes : saved_bytes * 24 / held_bytes;
    for (; ratio > 1; ratio /= 2)
        worth++;
    return worth;
}

static unsigned worth_of(const struct ps_model *m, uint64_t now_s)
{
    const uint64_t age_s = now_s > m->saved_at_s ? now_s - m->saved_at_s : 0;
    return ps_evict_worth(ps_evict_faded(m->saved_bytes, age_s), m->padded_bytes);
}

bool ps_evict_model_before(const struct ps_model *a, const struct ps_model *b, uint64_t now_s)
{
    if (a->priority != b->priority)
        return a->priority < b->priority;
    const unsigned x = worth_of(a, now_s), y = worth_of(b, now_s);
    return x != y ? x < y : a->last_use < b->last_use;
}

bool ps_evict_is_share(uint64_t score)
{
    return score >> 48 == TIER_SHARE;
}

static void swap(struct ps_evict_victim *a, struct ps_evict_victim *b)
{
    const struct ps_evict_victim t = *a;
    *a = *b;
    *b = t;
}

static void sift_down(struct ps_evict_list *l, size_t i)
{
    for (;;) {
        size_t top = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < l->n; child++)
            if (l->items[child].score > l->items[top].score)
                top = child;
        if (top == i)
            return;
        swap(&l->items[i], &l->items[top]);
        i = top;
    }
}

static void sift_up(struct ps_evict_list *l, size_t i)
{
    while (i > 0 && l->items[(i - 1) / 2].score < l->items[i].score) {
        swap(&l->items[i], &l->items[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
}

void ps_evict_offer(struct ps_evict_list *l, uint64_t score, const struct ps_keyed_record *rec)
{
    if (score == PS_EVICT_KEEP || l->cap == 0)
        return;
    const struct ps_evict_victim v = {.score = score, .kept = *rec};
    if (l->n < l->cap) {
        l->items[l->n] = v;
        sift_up(l, l->n++);
    } else if (score < l->items[0].score) {
        l->items[0] = v;
        sift_down(l, 0);
    }
}

static int by_score(const void *a, const void *b)
{
    const uint64_t x = ((const struct ps_evict_victim *)a)->score,
                   y = ((const struct ps_evict_victim *)b)->score;
    return x < y ? -1 : x > y;
}

void ps_evict_sort(struct ps_evict_list *l)
{
    if (l->n > 1)
        qsort(l->items, l->n, sizeof *l->items, by_score);
}
