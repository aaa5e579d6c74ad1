/* A source in memory for tests: objects are put in by name, faults are asked for by name. Ranges
 * are delivered by one thread of its own, as real sources do; get and head run on the caller's
 * thread. Nothing here allocates per range through base/alloc.h. */
#ifndef PS_TESTS_SUPPORT_FAKE_SOURCE_H
#define PS_TESTS_SUPPORT_FAKE_SOURCE_H
#include <stddef.h>
#include <stdint.h>

#include "proto/source.h"

struct ps_source *fake_source_new(void);
/* Copies the bytes; an object of that name is replaced. identity and etag are made from the name
 * and `version` (0: none of either, and no size is told). */
void fake_source_put(struct ps_source *s, const char *name, const void *bytes, size_t len,
                     unsigned version);
void fake_source_remove(struct ps_source *s, const char *name);
/* Every access to the object, present or not, fails with this code; 0 ends that. */
void fake_source_fail(struct ps_source *s, const char *name, int code);
/* The next `times` accesses to the object deliver its bytes with the last one flipped. */
void fake_source_corrupt(struct ps_source *s, const char *name, unsigned times);
/* What a missing object answers instead of PS_ENOTFOUND: a page with status 200. NULL ends that. */
void fake_source_set_page(struct ps_source *s, const char *html);
/* Called on the source's thread before each range is delivered; non-zero fails that range. NULL ends that. */
void fake_source_set_hook(struct ps_source *s, int (*hook)(void *user, const struct ps_range *r),
                          void *user);
/* Accesses so far, by get, head and submit. */
unsigned fake_source_requests(struct ps_source *s);
#endif
