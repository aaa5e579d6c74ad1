/* Request planning. See range_plan.h. */
#include "fetcher/range_plan.h"

uint64_t ps_plan_join_bound(uint64_t queued_bytes, unsigned slots)
{
    uint64_t share = queued_bytes / (slots ? slots : 1);
    return share < PS_REQUEST_MAX_BYTES ? share : PS_REQUEST_MAX_BYTES;
}

bool ps_plan_joins(struct ps_span have, struct ps_span next, uint64_t bound)
{
    return have.to == next.from && next.to > next.from && next.to - have.from <= bound;
}

size_t ps_plan_split(struct ps_span whole, unsigned slots, uint64_t least, struct ps_span *out,
                     size_t cap)
{
    uint64_t bytes = whole.to - whole.from;
    if (bytes == 0 || cap == 0)
        return 0;
    uint64_t pieces = slots ? slots : 1;
    if (least > 0 && pieces > bytes / least)
        pieces = bytes / least ? bytes / least : 1;
    if (bytes / pieces > PS_REQUEST_MAX_BYTES)
        pieces = (bytes + PS_REQUEST_MAX_BYTES - 1) / PS_REQUEST_MAX_BYTES;
    if (pieces > cap)
        pieces = cap;
    uint64_t each = (bytes + pieces - 1) / pieces;
    size_t n = 0;
    for (uint64_t at = whole.from; at < whole.to; n++) {
        uint64_t end = whole.to - at > each ? at + each : whole.to;
        out[n] = (struct ps_span){at, end};
        at = end;
    }
    return n;
}

struct ps_span ps_plan_align(struct ps_span s, uint64_t align)
{
    uint64_t to = s.to + (align - 1);
    return (struct ps_span){s.from & ~(align - 1), to & ~(align - 1)};
}
