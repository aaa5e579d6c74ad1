/* Bounds of the cache folder. In: counts and sizes; out: allocated bytes, worst case. */
#include "cache/budget.h"

#include "base/minmax.h"

#define PAGE 4096u

/* Index node sizes: 8 header + 2 pointer + 32 key, + 24 record in a leaf. A page offers 4080 bytes. LMDB splits a full
 * page in the middle, so half of that is the least after random inserts; keys are hashes, hence random. */
#define LEAF_RECORDS_WORST 30u
#define BRANCH_NODES_WORST 48u
#define BITMAPS_PER_PAGE   3u /* 512-byte bitmaps of 4096 slots, half-full pages */
#define SLOTS_PER_BITMAP   4096u
#define EXTENTS_STEP_MAX   4096u /* 600 KB of index */
#define COMMITS_KEPT                                                                               \
    3u /* pages freed by the last two commits can't be reused yet, and one is being written */

/* Directories (the folder itself, index, slabs), tag, lock, LMDB's lock file; one spare block per file for file systems
 * that allocate early. */
#define FIXED_BYTES (3u * PAGE + PAGE + PAGE + 8u * PAGE + 4u * PAGE)

/* A block map entry of ext4 takes 12 bytes; its tree's leaves are at least half full. Two per extent, one more
 * per MiB. */
#define MAP_ENTRY_BYTES 24u

static uint64_t div_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

static uint64_t add_sat(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

uint64_t ps_budget_round(uint64_t bytes)
{
    const uint64_t grains = div_up(bytes, PS_CACHE_GRAIN);
    return grains > UINT64_MAX / PS_CACHE_GRAIN ? UINT64_MAX : grains * PS_CACHE_GRAIN;
}

int ps_budget_class(uint64_t bytes)
{
    if (bytes == 0 || bytes > PS_CACHE_EXTENT_MAX)
        return -1;
    int cls = 0;
    while (ps_budget_class_bytes(cls) < bytes)
        cls++;
    return cls;
}

uint64_t ps_budget_class_bytes(int cls)
{
    return (uint64_t)PS_CACHE_GRAIN << cls;
}

uint32_t ps_budget_claims(uint64_t budget_bytes)
{
    uint32_t n = PS_CACHE_CLAIMS_MIN;
    /* One claim per 64 KiB of budget: a small folder must not be eaten by its own bookkeeping. */
    while (n < PS_CACHE_CLAIMS_MAX && (uint64_t)n * 65536u < budget_bytes)
        n *= 2;
    return n;
}

uint64_t ps_budget_claims_bytes(uint32_t claims)
{
    /* Header and process table (3 pages), claims of 64 bytes, two hash heads of 4 bytes each. */
    return ps_budget_round(3u * PAGE + (uint64_t)claims * (64u + 8u));
}

/* Levels above the leaves, and pages of all levels, of a tree with n records. */
static uint64_t tree_pages(uint64_t n, uint64_t *depth)
{
    uint64_t level = ps_max_u64(div_up(n, LEAF_RECORDS_WORST), 1);
    uint64_t pages = level;
    *depth = 1;
    while (level > 1) {
        level = div_up(level, BRANCH_NODES_WORST);
        pages += level;
        (*depth)++;
    }
    return pages;
}

static uint64_t bitmap_pages(uint64_t n)
{
    return div_up(n / SLOTS_PER_BITMAP + ps_min_u64(n, PS_CACHE_CLASSES), BITMAPS_PER_PAGE) + 1;
}

static uint64_t dirty_pages(uint64_t n, uint64_t batch)
{
    uint64_t depth;
    const uint64_t tree = tree_pages(n, &depth);
    const uint64_t records = ps_min_u64(batch * (depth + 1), tree + depth + 1);
    const uint64_t maps = ps_min_u64(2 * batch, bitmap_pages(n)) + 1;
    /* Root of roots, counters and models (3), the free list's own path (3) and its id lists. */
    return records + maps + 7 + records / 256;
}

uint64_t ps_budget_index_dirty_bytes(uint64_t n_extents, uint64_t batch)
{
    return dirty_pages(n_extents, batch) * PAGE;
}

/* Up to a sixteenth more, at least to a multiple of 16 and at most of EXTENTS_STEP_MAX. */
static uint64_t step_up(uint64_t n)
{
    uint64_t step = 16;
    while (step < EXTENTS_STEP_MAX && step * 16 < n)
        step *= 2;
    return ps_max_u64(div_up(n, step), 1) * step;
}

uint64_t ps_budget_index_bytes(uint64_t n_extents)
{
    uint64_t depth;
    const uint64_t n = step_up(n_extents);
    const uint64_t live = tree_pages(n, &depth) + bitmap_pages(n) + 2 + 6;
    return (live + COMMITS_KEPT * dirty_pages(n, PS_CACHE_BATCH)) * PAGE;
}

uint64_t ps_budget_slab_overhead(uint64_t n_extents, uint64_t slab_bytes)
{
    if (n_extents == 0)
        return 0;
    const uint64_t files = ps_min_u64(n_extents, PS_CACHE_CLASSES);
    const uint64_t entries = 2 * n_extents + slab_bytes / (1024u * 1024u);
    return ps_budget_round(files * PAGE + entries * MAP_ENTRY_BYTES);
}

uint64_t ps_budget_fixed_bytes(uint64_t budget_bytes)
{
    return FIXED_BYTES + ps_budget_claims_bytes(ps_budget_claims(budget_bytes));
}

/* The maps of a folder depend on its size, which they are part of: their share is below 1/1000 of their own growth. */
static uint64_t for_extents(uint64_t padded_bytes, uint64_t n_extents)
{
    const uint64_t base =
        add_sat(padded_bytes, ps_budget_index_bytes(n_extents) + ps_budget_fixed_bytes(UINT64_MAX));
    const uint64_t maps = ps_budget_slab_overhead(n_extents, base);
    const uint64_t whole = add_sat(base, maps + maps / 1024 + 2 * PAGE);
    return add_sat(padded_bytes,
                   ps_budget_index_bytes(n_extents) + ps_budget_slab_overhead(n_extents, whole));
}

/* The claims table grows with the budget that it is part of: charge the table of the next larger budget. */
static uint64_t with_fixed(uint64_t bytes)
{
    const uint64_t most = add_sat(bytes, ps_budget_fixed_bytes(UINT64_MAX));
    return add_sat(bytes, ps_budget_fixed_bytes(most));
}

uint64_t ps_budget_least(void)
{
    return with_fixed(for_extents(PS_CACHE_GRAIN, 1));
}

/* n extents of S bytes in all take at most one grain less a byte of padding each. */
static uint64_t padded(uint64_t stored_bytes, uint64_t n_extents)
{
    return ps_budget_round(add_sat(stored_bytes, n_extents * (PS_CACHE_GRAIN - 1)));
}

uint64_t ps_budget_for(uint64_t stored_bytes, uint64_t n_extents)
{
    return with_fixed(for_extents(padded(stored_bytes, n_extents), n_extents));
}

uint64_t ps_budget_charge(const struct ps_budget_state *s, uint64_t add_n, uint64_t add_bytes)
{
    const uint64_t n = s->n_extents + s->n_inflight + add_n;
    const uint64_t bytes = s->extent_bytes + s->inflight_bytes + add_bytes;
    const uint64_t index =
        ps_max_u64(s->index_file_bytes + s->index_growing_bytes, ps_budget_index_bytes(n));
    const uint64_t slabs =
        ps_max_u64(bytes + ps_budget_slab_overhead(n, bytes), s->slab_file_bytes + add_bytes);
    return s->other_bytes + index + slabs;
}

uint64_t ps_budget_usable(const struct ps_budget_state *s, uint64_t n_extents, uint64_t kept_n,
                          uint64_t kept_bytes)
{
    const uint64_t n = n_extents + kept_n;
    const uint64_t index = ps_max_u64(s->index_file_bytes, ps_budget_index_bytes(n));
    /* The overhead of what will lie in the slabs is not known yet; that of a full folder is its upper bound, and
     * so is that of the largest extents: by its maps alone a budget beyond any disk would leave nothing of what
     * this one has. */
    const uint64_t maps =
        ps_budget_slab_overhead(n, ps_min_u64(s->budget_bytes, n * PS_CACHE_EXTENT_MAX));
    const uint64_t padding = n_extents * (PS_CACHE_GRAIN - 1);
    const uint64_t taken = add_sat(add_sat(s->other_bytes + index + maps, kept_bytes), padding);
    return s->budget_bytes > taken ? s->budget_bytes - taken : 0;
}
