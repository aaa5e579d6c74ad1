/* Binary heap over (priority, seq). See range_heap.h. */
#include "fetcher/range_heap.h"

#include <stdbool.h>
#include "base/alloc.h"
#include "base/err.h"

#define HEAP_MAX_ITEMS                                                                             \
    (1u << 22) /* 4 million waiting ranges: a caller that forgot to bound its look-ahead */

static bool before(const struct ps_heap_item *a, const struct ps_heap_item *b)
{
    return a->priority != b->priority ? a->priority < b->priority : a->seq < b->seq;
}

static void place(struct ps_heap *h, struct ps_heap_item *it, size_t at)
{
    h->items[at] = it;
    it->at = at;
}

static void sift_up(struct ps_heap *h, struct ps_heap_item *it, size_t at)
{
    while (at > 0 && before(it, h->items[(at - 1) / 2])) {
        place(h, h->items[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    place(h, it, at);
}

static void sift_down(struct ps_heap *h, struct ps_heap_item *it, size_t at)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && before(h->items[child + 1], h->items[child]))
            child++;
        if (!before(h->items[child], it))
            break;
        place(h, h->items[child], at);
        at = child;
    }
    place(h, it, at);
}

int ps_heap_reserve(struct ps_heap *h, size_t n)
{
    if (n <= h->cap)
        return 0;
    if (n > HEAP_MAX_ITEMS)
        return PS_ENOMEM;
    size_t cap = h->cap ? h->cap : 64;
    while (cap < n)
        cap *= 2;
    struct ps_heap_item **items = ps_realloc_array(h->items, cap, sizeof *items);
    if (!items)
        return PS_ENOMEM;
    h->items = items;
    h->cap = cap;
    return 0;
}

void ps_heap_push(struct ps_heap *h, struct ps_heap_item *it)
{
    PS_ASSERT(h->n < h->cap);
    sift_up(h, it, h->n++);
}

struct ps_heap_item *ps_heap_top(const struct ps_heap *h)
{
    return h->n > 0 ? h->items[0] : NULL;
}

void ps_heap_remove(struct ps_heap *h, struct ps_heap_item *it)
{
    size_t at = it->at;
    PS_ASSERT(at < h->n && h->items[at] == it);
    struct ps_heap_item *last = h->items[--h->n];
    if (last == it)
        return;
    if (at > 0 && before(last, h->items[(at - 1) / 2]))
        sift_up(h, last, at);
    else
        sift_down(h, last, at);
}

struct ps_heap_item *ps_heap_pop(struct ps_heap *h)
{
    struct ps_heap_item *top = ps_heap_top(h);
    if (top)
        ps_heap_remove(h, top);
    return top;
}

void ps_heap_deinit(struct ps_heap *h)
{
    ps_free(h->items);
    h->items = NULL;
    h->n = h->cap = 0;
}
