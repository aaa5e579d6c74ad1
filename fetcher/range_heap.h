/* A queue of waiting ranges in the order in which they are to be asked: smallest priority first,
 * first come first served among equals. A binary heap, so that a look-ahead of a hundred
 * thousand ranges submitted out of order costs logarithms. Not thread-safe: the store's lock
 * guards it. */
#ifndef PS_FETCHER_RANGE_HEAP_H
#define PS_FETCHER_RANGE_HEAP_H
#include <stddef.h>
#include <stdint.h>

/* Embedded in the store's job as its first member. */
struct ps_heap_item {
    uint64_t priority;
    uint64_t seq;
    size_t at; /* position in the heap, kept by it */
};

struct ps_heap {
    struct ps_heap_item **items;
    size_t n, cap;
};

/* Makes room for n items in all, so that pushes up to that number can't fail: 0 or PS_ENOMEM. */
int ps_heap_reserve(struct ps_heap *h, size_t n);
void ps_heap_push(struct ps_heap *h, struct ps_heap_item *it); /* room was reserved */
struct ps_heap_item *ps_heap_top(const struct ps_heap *h);     /* NULL when empty */
struct ps_heap_item *ps_heap_pop(struct ps_heap *h);           /* NULL when empty */
void ps_heap_remove(struct ps_heap *h, struct ps_heap_item *it);
void ps_heap_deinit(struct ps_heap *h);
#endif
