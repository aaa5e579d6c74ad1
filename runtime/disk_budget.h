/* How large the disk cache may become: pure decisions. Comes in: what the file system and the folder hold. Goes out:
 * budgets in bytes. */
#ifndef PS_RUNTIME_DISK_BUDGET_H
#define PS_RUNTIME_DISK_BUDGET_H
#include <stdint.h>

struct ps_disk_state {
    uint64_t free_bytes; /* of the file system, for us */
    uint64_t held_bytes; /* allocated by the cache folder */
    uint64_t last_bytes; /* the budget that governed the folder last; 0: nobody knows */
};

/* Without --disk: half of what would be free if the folder were empty, at most 100 GiB. So what is cached counts
 * as free, or every run would leave less room than the one before. What an earlier, larger budget has let in
 * stays: a run that was told nothing throws nothing away. */
uint64_t ps_disk_default(const struct ps_disk_state *d);

/* What of `budget` the file system can hold beside `min_free` bytes that are left to others. */
uint64_t ps_disk_room(uint64_t budget, const struct ps_disk_state *d, uint64_t min_free);
#endif
