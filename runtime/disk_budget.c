/* How large the disk cache may become. Comes in: what the file system and the folder hold. Goes out: budgets. */
#include "runtime/disk_budget.h"

#include "base/minmax.h"

#define DEFAULT_MAX (100ull << 30)
/* What is charged beyond allocated blocks: growth of the index, block maps. */
#define HELD_SLACK(held) ((held) / 16 + (1ull << 20))

uint64_t ps_disk_default(const struct ps_disk_state *d)
{
    const uint64_t half = ps_min_u64((d->free_bytes + d->held_bytes) / 2, DEFAULT_MAX);
    const uint64_t keep =
        d->held_bytes > 0 ? ps_min_u64(d->last_bytes, d->held_bytes + HELD_SLACK(d->held_bytes)) : 0;
    return ps_max_u64(half, keep);
}

uint64_t ps_disk_room(uint64_t budget, const struct ps_disk_state *d, uint64_t min_free)
{
    const uint64_t beside = d->free_bytes > min_free ? d->free_bytes - min_free : 0;
    return ps_min_u64(budget, d->held_bytes + beside);
}
