/* See read_probe.h. In: memory. Out: bytes per second, what `penstock bench gemv` and the plan take for the limit. */
#include "kernels/read_probe.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "kernels/kernel_scalar.h"
#include "kernels/kernels_internal.h"

#define DISTANCES    5 /* variants are streams 1, 2, 4 times these */
#define ENOUGH_S     0.3
#define LEAST_BYTES  ((size_t)128 << 20)
#define THREAD_BYTES ((size_t)64 << 20)

struct probe {
    const uint8_t *mem;
    size_t bytes;
    size_t distance; /* prefetched so far ahead; 0: not at all */
    unsigned streams;
    uint64_t sums[64][8]; /* by thread, a cache line each: keeps the loads alive */
};

/* One thread's share, in `streams` runs side by side. */
static void read_share(void *user, unsigned index, unsigned threads)
{
    struct probe *p = user;
    size_t run = p->bytes / 64 / threads / p->streams * 64;
    const uint8_t *from = p->mem + run * p->streams * index;
    uint64_t sum[4][8] = {{0}};
    for (size_t at = 0; at < run; at += 64)
        for (unsigned s = 0; s < p->streams; s++) {
            const uint8_t *line = from + s * run + at;
            uint64_t word[8];
            if (p->distance)
                __builtin_prefetch(line + p->distance);
            memcpy(word, line, sizeof word);
            for (int i = 0; i < 8; i++)
                sum[s][i] += word[i];
        }
    for (int i = 0; i < 8; i++)
        p->sums[index % 64][i] = sum[0][i] + sum[1][i] + sum[2][i] + sum[3][i];
}

double ps_read_pass(struct ps_pool *pool, const void *mem, size_t bytes, unsigned variant)
{
    static const size_t distances[DISTANCES] = {0, 512, 1024, 2048, 4096};
    struct probe p = {.mem = mem,
                      .bytes = bytes,
                      .distance = distances[variant % DISTANCES],
                      .streams = 1u << variant / DISTANCES};
    uint64_t start = ps_now_ns();
    ps_fork(pool, read_share, &p);
    return ps_seconds_since(start);
}

void ps_read_best_init(struct ps_read_best *best)
{
    for (size_t i = 0; i < PS_READ_VARIANTS; i++)
        for (size_t j = 0; j < PS_READ_BYTES / PS_READ_STRETCH; j++)
            best->s[i][j] = INFINITY;
}

static void try_one(struct ps_pool *pool, const void *mem, size_t bytes, struct ps_read_best *best,
                    unsigned variant)
{
    for (size_t at = 0; at < bytes; at += PS_READ_STRETCH) {
        double *s = &best->s[variant][at / PS_READ_STRETCH];
        *s = fmin(*s, ps_read_pass(pool, (const uint8_t *)mem + at,
                                   ps_min_size(PS_READ_STRETCH, bytes - at), variant));
    }
}

void ps_read_try_all(struct ps_pool *pool, const void *mem, size_t bytes, struct ps_read_best *best)
{
    bytes = ps_min_size(bytes, PS_READ_BYTES);
    for (unsigned i = 0; i < PS_READ_VARIANTS; i++)
        try_one(pool, mem, bytes, best, i);
}

double ps_read_best_gb_s(const struct ps_read_best *best, size_t bytes, unsigned *variant)
{
    double rate = 0;
    bytes = ps_min_size(bytes, PS_READ_BYTES);
    for (unsigned i = 0; i < PS_READ_VARIANTS; i++) {
        double seconds = 0;
        for (size_t j = 0; j < ps_div_up(bytes, PS_READ_STRETCH); j++)
            seconds += best->s[i][j];
        if ((double)bytes / seconds / 1e9 <= rate)
            continue;
        rate = (double)bytes / seconds / 1e9;
        if (variant)
            *variant = i;
    }
    return rate;
}

/* A pass with every variant, then more while time is left: where reading is slow a pass is long, and says as much. */
static int measure(double *gb_s, struct ps_pool *pool, const void *mem, size_t bytes,
                   const atomic_int *interrupt, struct ps_err *err)
{
    struct ps_read_best best;
    uint64_t start_ns = ps_now_ns();
    ps_read_best_init(&best);
    for (unsigned i = 0;
         i < 3 * PS_READ_VARIANTS && (i < PS_READ_VARIANTS || ps_seconds_since(start_ns) < ENOUGH_S);
         i++) {
        if (interrupt && atomic_load(interrupt))
            return ps_err_set(err, PS_EINTERRUPTED, "kernels", "interrupted");
        try_one(pool, mem, bytes, &best, i % PS_READ_VARIANTS);
    }
    *gb_s = ps_read_best_gb_s(&best, bytes, NULL);
    return 0;
}

/* Far more than the last cache holds, and than those of all cores that the threads may run on; and no more: to write
 * pages for the first time takes longer than to read them with every variant. */
static size_t probe_bytes(unsigned threads)
{
    uint64_t cache = ps_host_last_cache_bytes();
    size_t bytes = ps_max_size(LEAST_BYTES, threads * THREAD_BYTES);
    bytes = ps_max_size(bytes, cache > 0 && cache < PS_READ_BYTES ? 4 * cache : PS_READ_BYTES);
    bytes = ps_min_size(ps_min_size(bytes, PS_READ_BYTES), ps_host_free_memory_bytes() / 4);
    return bytes / PS_READ_STRETCH * PS_READ_STRETCH;
}

int ps_read_bandwidth(double *gb_s, unsigned threads, const atomic_int *interrupt, struct ps_err *err)
{
    size_t bytes = probe_bytes(threads);
    struct ps_pool *pool = NULL;
    int rc = ps_pool_new(&pool, threads, NULL, NULL, err);
    if (rc)
        return rc;
    void *mem = bytes ? ps_alloc_pages(bytes, PS_HUGE_PAGE) : NULL;
    if (mem) {
        memset(mem, 1, bytes); /* pages that nobody wrote are one page of zeros */
        rc = measure(gb_s, pool, mem, bytes, interrupt, err);
        ps_free_pages(mem, bytes);
    } else {
        rc = ps_err_set(err, PS_ENOMEM, "kernels", "no memory to measure its bandwidth: free some");
    }
    ps_pool_free(pool);
    return rc;
}
