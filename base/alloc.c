/* The one door to the heap: malloc and mmap behind counters and an armed failure. Nothing else in the tree calls malloc
 * (tests/lint/lint.py checks that). */
#include "base/alloc.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Atomic uint64_t live_bytes;
static _Atomic uint64_t live_count;
static _Atomic int64_t fail_countdown; /* > 0: armed */

static bool must_fail(void)
{
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0)
        return false;
    /* Threads that race past zero find a negative count, which reads as disarmed: exactly one of them fails. */
    return atomic_fetch_sub_explicit(&fail_countdown, 1, memory_order_relaxed) == 1;
}

static void count_in(uint64_t bytes)
{
    atomic_fetch_add_explicit(&live_bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&live_count, 1, memory_order_relaxed);
}

static void count_out(uint64_t bytes)
{
    atomic_fetch_sub_explicit(&live_bytes, bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&live_count, 1, memory_order_relaxed);
}

void *ps_malloc(size_t bytes)
{
    if (must_fail() || bytes > PTRDIFF_MAX)
        return NULL;
    void *p = malloc(bytes ? bytes : 1);
    if (p)
        count_in(malloc_usable_size(p));
    return p;
}

void *ps_calloc(size_t count, size_t bytes_each)
{
    size_t bytes;
    if (must_fail() || __builtin_mul_overflow(count, bytes_each, &bytes) || bytes > PTRDIFF_MAX)
        return NULL;
    void *p = calloc(1, bytes ? bytes : 1);
    if (p)
        count_in(malloc_usable_size(p));
    return p;
}

void *ps_realloc(void *p, size_t bytes)
{
    if (!p)
        return ps_malloc(bytes);
    if (must_fail() || bytes > PTRDIFF_MAX)
        return NULL;
    uint64_t before = malloc_usable_size(p);
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q)
        return NULL;
    /* One wrapping addition, so that no reader sees the sum without either block. */
    atomic_fetch_add_explicit(&live_bytes, malloc_usable_size(q) - before, memory_order_relaxed);
    return q;
}

void *ps_realloc_array(void *p, size_t count, size_t bytes_each)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, bytes_each, &bytes))
        return NULL;
    return ps_realloc(p, bytes);
}

char *ps_strdup(const char *s)
{
    return ps_strndup(s, strlen(s));
}

char *ps_strndup(const char *s, size_t n)
{
    n = strnlen(s, n);
    char *copy = ps_malloc(n + 1);
    if (!copy)
        return NULL;
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

void ps_free(void *p)
{
    if (!p)
        return;
    count_out(malloc_usable_size(p));
    free(p);
}

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* 0 where the rounded size overflows. */
static size_t round_to_pages(size_t bytes)
{
    size_t page = page_size();
    if (bytes > PTRDIFF_MAX - page)
        return 0;
    return bytes ? (bytes + page - 1) / page * page : page;
}

void *ps_alloc_pages(size_t bytes, size_t align)
{
    size_t page = page_size();
    size_t size = round_to_pages(bytes);
    if (must_fail() || !size || (align & (align - 1)) || align > PTRDIFF_MAX - size)
        return NULL;
    /* mmap aligns to a page; for more, map too much and give the ends back. */
    size_t extra = align > page ? align - page : 0;
    char *map = mmap(NULL, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    size_t head = extra ? (align - (uintptr_t)map % align) % align : 0;
    if (head)
        munmap(map, head);
    if (extra > head)
        munmap(map + head + size, extra - head);
    if (align >= PS_HUGE_PAGE)
        (void)madvise(map + head, size, MADV_HUGEPAGE); /* a system without them has refused, no more */
    count_in(size);
    return map + head;
}

void ps_free_pages(void *p, size_t bytes)
{
    if (!p)
        return;
    size_t size = round_to_pages(bytes);
    munmap(p, size);
    count_out(size);
}

uint64_t ps_alloc_live_bytes(void)
{
    return atomic_load_explicit(&live_bytes, memory_order_relaxed);
}

uint64_t ps_alloc_live_count(void)
{
    return atomic_load_explicit(&live_count, memory_order_relaxed);
}

void ps_alloc_fail_at(int64_t nth)
{
    atomic_store_explicit(&fail_countdown, nth, memory_order_relaxed);
}
