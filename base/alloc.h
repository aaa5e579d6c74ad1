/* The one door to the heap: countable, bounded in tests, failable.
 *
 * All modules allocate through here. Tests arm ps_alloc_fail_at(n) so that the n-th call from then on returns
 * NULL; every caller must survive that. Thread-safe. Memory from here is freed with ps_free only. */
#ifndef PS_BASE_ALLOC_H
#define PS_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

void *ps_malloc(size_t bytes); /* NULL on failure; bytes == 0 gives a unique pointer */
void *ps_calloc(size_t count, size_t bytes_each); /* zeroed; overflow of the product gives NULL */
void *ps_realloc(void *p, size_t bytes);
void *ps_realloc_array(void *p, size_t count, size_t bytes_each); /* checked product */
char *ps_strdup(const char *s);
char *ps_strndup(const char *s, size_t n);
void ps_free(void *p);

/* `bytes` of page-backed memory aligned to `align` (a power of two, >= 4096 recommended for direct I/O), straight from
 * mmap, so that freeing gives it back to the system at once. Aligned to PS_HUGE_PAGE it asks for huge pages too, for
 * memory that is read whole again and again. NULL on failure. Free with ps_free_pages(p, bytes). */
#define PS_HUGE_PAGE ((size_t)2 << 20)
void *ps_alloc_pages(size_t bytes, size_t align);
void ps_free_pages(void *p, size_t bytes);

uint64_t ps_alloc_live_bytes(void); /* bytes now allocated through here (pages included) */
uint64_t ps_alloc_live_count(void); /* allocations now alive: zero at the end of a leak-free test */
void ps_alloc_fail_at(int64_t nth); /* tests: the nth allocation from now fails once (1 = the next); 0 disarms */

#endif
