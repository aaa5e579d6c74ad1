/* How ranges become requests. Pure functions on integers: joining neighbours, splitting a large
 * object, aligning for direct I/O. */
#ifndef PS_FETCHER_RANGE_PLAN_H
#define PS_FETCHER_RANGE_PLAN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 8 MiB: where Run:ai, aws-c-s3 and rclone settled (facts-stores.md section 3); more in one
 * request only means more to ask again when it breaks. */
#define PS_REQUEST_MAX_BYTES (8ull << 20)

/* An object of unknown size is asked for its first so many bytes: nearly every config, and a good probe of the
 * size. The rest comes in pieces of at least as many, over all connections. */
#define PS_GET_FIRST_BYTES (1ull << 20)
#define PS_GET_PIECE_BYTES (1ull << 20)

struct ps_span {
    uint64_t from, to; /* [from, to) */
};

/* Up to how many bytes one request should take, with `queued_bytes` waiting and `slots`
 * connections to share them. A deep queue gives full requests; a shallow one is spread over the
 * connections rather than put on one. */
uint64_t ps_plan_join_bound(uint64_t queued_bytes, unsigned slots);

/* May `next` be asked for in the same request as `have`? They must touch exactly and stay within
 * `bound` together. */
bool ps_plan_joins(struct ps_span have, struct ps_span next, uint64_t bound);

/* Cuts [from, to) into at most `cap` pieces for `slots` connections, none smaller than `least`
 * except the last. Returns how many. */
size_t ps_plan_split(struct ps_span whole, unsigned slots, uint64_t least, struct ps_span *out,
                     size_t cap);

/* The smallest aligned span that covers `s`. `align` is a power of two. */
struct ps_span ps_plan_align(struct ps_span s, uint64_t align);
#endif
