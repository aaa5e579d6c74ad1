/* See ring_space.h. In: sizes. Out: places in the ring. */
#include "runtime/ring_space.h"

#include <string.h>

#include "base/alloc.h"
#include "base/err.h"

int ps_ring_space_init(struct ps_ring_space *r, uint64_t bytes, uint32_t runs)
{
    *r = (struct ps_ring_space){.bytes = bytes, .cap = runs};
    r->runs = ps_calloc((size_t)runs + 1, sizeof *r->runs);
    return r->runs ? 0 : PS_ENOMEM;
}

void ps_ring_space_deinit(struct ps_ring_space *r)
{
    ps_free(r->runs);
    *r = (struct ps_ring_space){0};
}

/* The first gap of `bytes` in [from, to); its place among the runs goes to *index. */
static bool find(const struct ps_ring_space *r, uint64_t from, uint64_t to, uint64_t bytes,
                 uint64_t *at, uint32_t *index)
{
    uint64_t free_from = from;
    for (uint32_t i = 0; i < r->n; i++) {
        if (r->runs[i].to <= free_from)
            continue;
        uint64_t free_to = r->runs[i].from < to ? r->runs[i].from : to;
        if (free_to >= free_from && free_to - free_from >= bytes) {
            *at = free_from;
            *index = i;
            return true;
        }
        free_from = r->runs[i].to;
    }
    *at = free_from;
    *index = r->n;
    return free_from <= to && to - free_from >= bytes;
}

bool ps_ring_space_take(struct ps_ring_space *r, uint64_t bytes, uint64_t *at)
{
    uint64_t place;
    uint32_t i;
    PS_ASSERT(bytes > 0);
    if (r->n == r->cap || bytes > r->bytes)
        return false;
    if (!find(r, r->cursor, r->bytes, bytes, &place, &i) && !find(r, 0, r->bytes, bytes, &place, &i))
        return false;
    memmove(&r->runs[i + 1], &r->runs[i], (r->n - i) * sizeof *r->runs);
    r->runs[i] = (struct ps_ring_run){place, place + bytes};
    r->n++;
    r->cursor = place + bytes;
    *at = place;
    return true;
}

void ps_ring_space_give(struct ps_ring_space *r, uint64_t at)
{
    uint32_t i = 0;
    while (i < r->n && r->runs[i].from != at)
        i++;
    PS_ASSERT(i < r->n);
    r->n--;
    memmove(&r->runs[i], &r->runs[i + 1], (r->n - i) * sizeof *r->runs);
}
