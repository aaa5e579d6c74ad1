/* The disk cache against its bars, without a model and without a network:
 *
 *     bench_cache index DIR N          N extents in the index: bytes each, look-up, opening
 *     bench_cache churn DIR SECONDS    two processes evict and refill at their budget: exceeded? does the index grow?
 *     bench_cache cycle DIR            cyclic use with room for 0.1, 0.5 and 0.9 of N extents: hit ratio
 *
 * DIR must not exist; it is left behind. Prints one JSON object; status 1 where a bar is missed. */
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "cache/budget.h"
#include "cache/cache.h"
#include "cache/index.h"
#include "runtime/plan.h"

#define INDEX_MAP  (1ull << 30)
#define BATCH      PS_CACHE_BATCH
#define CHURN_DISK (48ull << 20)
#define CHURN_MIN  (64u << 10)
#define CHURN_MAX  (256u << 10)

static void need(int rc, const struct ps_err *err, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "bench_cache: %s: %s\n", what, err->text);
    exit(2);
}

static void key_of(uint64_t n, uint8_t key[PS_SHA256_BYTES])
{
    ps_sha256_once(&n, sizeof n, key);
}

static struct ps_cache *open_cache(const char *dir, uint64_t budget)
{
    const struct ps_cache_options o = {.budget_bytes = budget};
    struct ps_cache *c = NULL;
    struct ps_err err = {0};
    need(ps_cache_open(&c, dir, &o, NULL, &err), &err, dir);
    return c;
}

static uint32_t open_model(struct ps_cache *c, uint64_t number)
{
    uint8_t id[PS_SHA256_BYTES];
    uint32_t model;
    struct ps_err err = {0};
    key_of(number, id);
    need(ps_cache_model_open(c, id, "bench", 1, &model, &err), &err, "model");
    return model;
}

/* ---- index ---- */

struct step {
    uint64_t from, to;
};

static int add_some(struct ps_index_write *w, void *user, struct ps_err *err)
{
    const struct step *s = user;
    for (uint64_t i = s->from; i < s->to; i++) {
        uint8_t key[PS_SHA256_BYTES];
        key_of(i, key);
        const struct ps_record r = {.slot = (uint32_t)i, .bytes = 4000, .cls = 0, .model = 0};
        const int rc = ps_index_write_add(w, key, &r, err);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Median of single look-ups of keys in no order, through the cache as a run does them. */
static double lookup_us(struct ps_cache *c, uint64_t n)
{
    enum { LOOKS = 200000 };
    static uint64_t ns[LOOKS];
    uint64_t x = 88172645463325252ull;
    for (int i = 0; i < LOOKS; i++) {
        uint8_t key[1][PS_SHA256_BYTES], present = 0;
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        key_of(x % n, key[0]);
        const uint64_t t0 = ps_now_ns();
        const int rc = ps_cache_lookup(c, (const uint8_t(*)[PS_SHA256_BYTES])key, 1, &present, NULL);
        ns[i] = ps_now_ns() - t0;
        if (rc != 0 || !(present & 1)) {
            fprintf(stderr, "bench_cache: a key is missing\n");
            exit(2);
        }
    }
    qsort(ns, LOOKS, sizeof ns[0], by_value);
    return (double)ns[LOOKS / 2] / 1e3;
}

static double open_ms(const char *dir, uint64_t n, double *us)
{
    const uint64_t t0 = ps_now_ns();
    struct ps_cache *c = open_cache(dir, UINT64_MAX / 4);
    const double ms = ps_seconds_since(t0) * 1e3;
    if (us)
        *us = lookup_us(c, n);
    ps_cache_close(c);
    return ms;
}

static int index_bar(const char *dir, uint64_t n)
{
    char path[4096];
    struct ps_index *ix = NULL;
    struct ps_err err = {0};
    struct stat st;
    ps_cache_close(open_cache(dir, UINT64_MAX / 4)); /* the folder */
    snprintf(path, sizeof path, "%s/index", dir);
    const struct ps_index_options o = {.map_bytes = INDEX_MAP};
    need(ps_index_open(&ix, path, &o, &err), &err, path);
    for (struct step s = {.from = 0}; s.from < n; s.from = s.to) { /* in steps as in life */
        s.to = s.from + BATCH < n ? s.from + BATCH : n;
        need(ps_index_update(ix, add_some, &s, &err), &err, "add");
    }
    ps_index_close(ix);
    snprintf(path, sizeof path, "%s/index/data.mdb", dir);
    if (stat(path, &st) != 0)
        return 2;
    double us = 0;
    const double unclean = open_ms(dir, n, NULL), clean = open_ms(dir, n, &us);
    const double each = (double)st.st_blocks * 512 / (double)n;
    printf("{\"extents\": %llu, \"bytes_per_extent\": %.1f, \"open_ms\": %.1f, "
           "\"open_after_a_crash_ms\": %.1f, \"lookup_us\": %.2f}\n",
           (unsigned long long)n, each, clean, unclean, us);
    return each <= 150 && clean <= 50 && us <= 5 ? 0 : 1;
}

/* ---- churn ---- */

static size_t churn_size(uint64_t i)
{
    return CHURN_MIN + (size_t)(i * 2654435761u % (CHURN_MAX - CHURN_MIN));
}

/* Keeps replacing what its plan named by what a new one names, as runs of changing models do. */
static void churn(const char *dir, uint64_t seed, double seconds)
{
    uint8_t *buf = ps_alloc_pages(CHURN_MAX, 4096), keys[200][PS_SHA256_BYTES];
    const uint64_t t0 = ps_now_ns();
    struct ps_cache *c = open_cache(dir, CHURN_DISK);
    uint64_t stored = 0, round = 0;
    while (ps_seconds_since(t0) < seconds) {
        const uint32_t m = open_model(c, seed * 2 + round % 2);
        const uint64_t first = seed << 32 | round++ * 100;
        for (uint64_t i = 0; i < 200; i++)
            key_of(first + i, keys[i]);
        (void)ps_cache_set_plan(c, m, (const uint8_t(*)[PS_SHA256_BYTES])keys, 200, NULL);
        for (uint64_t i = 0; i < 200 && ps_seconds_since(t0) < seconds; i++) {
            struct ps_cache_ticket *t;
            const size_t n = churn_size(first + i);
            if (ps_cache_reserve(&t, c, m, keys[i], 0, n, NULL) != 0)
                continue;
            memset(buf, (int)(first + i), n);
            stored += ps_cache_put(t, buf, n, NULL) == 0;
        }
        for (uint64_t i = 0; i < 200; i++) {
            const size_t n = churn_size(first + i);
            if (ps_cache_read(c, keys[i], buf, n, CHURN_MAX, NULL) == 0 &&
                (buf[0] != (uint8_t)(first + i) || buf[n - 1] != (uint8_t)(first + i)))
                _exit(3); /* wrong bytes */
        }
    }
    ps_cache_close(c);
    fprintf(stderr, "bench_cache: process %llu stored %llu extents in %llu rounds\n",
            (unsigned long long)seed, (unsigned long long)stored, (unsigned long long)round);
    _exit(stored > 0 ? 0 : 4);
}

static uint64_t walked, walked_index;

static int add_blocks(const char *path, const struct stat *st, int type, struct FTW *at)
{
    if (type == FTW_NS)
        return 0;
    const uint64_t blocks = (uint64_t)st->st_blocks * 512u, size = (uint64_t)st->st_size;
    walked += blocks;
    if (strcmp(path + at->base, "data.mdb") == 0)
        walked_index += blocks > size ? blocks : size;
    return 0;
}

static void walk(const char *dir)
{
    walked = walked_index = 0;
    (void)nftw(dir, add_blocks, 16, FTW_PHYS);
}

static int churn_bar(const char *dir, double seconds)
{
    pid_t pids[2];
    uint64_t most = 0, tenths[10] = {0}, samples = 0;
    ps_cache_close(open_cache(dir, CHURN_DISK));
    for (uint64_t i = 0; i < 2; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            churn(dir, i + 1, seconds);
        }
    }
    const uint64_t t0 = ps_now_ns();
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    while (ps_seconds_since(t0) < seconds) {
        walk(dir);
        samples++;
        most = walked > most ? walked : most;
        const int tenth = (int)(10 * ps_seconds_since(t0) / seconds);
        uint64_t *index = &tenths[tenth < 9 ? tenth : 9];
        *index = walked_index > *index ? walked_index : *index;
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
    int failed = 0, status;
    for (int i = 0; i < 2; i++)
        failed += waitpid(pids[i], &status, 0) != pids[i] || status != 0;
    uint64_t checked = 0, bad = 0;
    struct ps_cache *c = open_cache(dir, CHURN_DISK);
    failed += ps_cache_verify(c, false, false, NULL, NULL, &checked, &bad, NULL) != 0 || bad > 0;
    ps_cache_close(c);
    printf("{\"seconds\": %.0f, \"samples\": %llu, \"budget_bytes\": %llu, \"folder_bytes_max\": "
           "%llu, "
           "\"extents\": %llu, \"wrong\": %llu, \"index_bytes\": [",
           seconds, (unsigned long long)samples, CHURN_DISK, (unsigned long long)most,
           (unsigned long long)checked, (unsigned long long)bad);
    bool grows = false; /* once it has found its size */
    for (int i = 0; i < 10; i++) {
        printf("%s%llu", i ? ", " : "", (unsigned long long)tenths[i]);
        grows = grows || (i >= 5 && tenths[i] > tenths[4]);
    }
    printf("]}\n");
    return failed == 0 && most <= CHURN_DISK && !grows ? 0 : 1;
}

/* ---- cycle ---- */

enum { CYCLE_N = 400, CYCLE_EACH = 32768, CYCLES = 6 };

/* What a sweep does: read what is there, else fetch it and, where the plan names it, keep it. */
static double hit_ratio(const char *dir, double share, uint64_t *room)
{
    static uint8_t keys[CYCLE_N][PS_SHA256_BYTES];
    uint32_t rank[CYCLE_N];
    bool planned[CYCLE_N] = {false};
    uint8_t *buf = ps_alloc_pages(CYCLE_EACH, 4096), *plan = ps_malloc(sizeof keys);
    const uint64_t c_n = (uint64_t)(share * CYCLE_N);
    struct ps_cache *c = open_cache(dir, ps_cache_budget_for(c_n * CYCLE_EACH, c_n));
    const uint32_t m = open_model(c, 1);
    uint64_t hits = 0;
    *room = ps_cache_usable_bytes(c, c_n) / CYCLE_EACH;
    (void)ps_plan_rank(rank, CYCLE_N);
    for (uint64_t i = 0; i < CYCLE_N; i++)
        key_of(1000 + i, keys[i]);
    for (uint64_t i = 0; i < c_n; i++) {
        planned[rank[i]] = true;
        memcpy(plan + i * PS_SHA256_BYTES, keys[rank[i]], PS_SHA256_BYTES);
    }
    (void)ps_cache_set_plan(c, m, (const uint8_t(*)[PS_SHA256_BYTES])plan, c_n, NULL);
    for (int cycle = 0; cycle < CYCLES; cycle++)
        for (uint64_t i = 0; i < CYCLE_N; i++) {
            struct ps_cache_ticket *t;
            const int rc = ps_cache_read(c, keys[i], buf, CYCLE_EACH, CYCLE_EACH, NULL);
            hits += rc == 0 && cycle > 0;
            if (rc == 0 || !planned[i] ||
                ps_cache_reserve(&t, c, m, keys[i], 0, CYCLE_EACH, NULL) != 0)
                continue;
            memset(buf, (int)i, CYCLE_EACH);
            (void)ps_cache_put(t, buf, CYCLE_EACH, NULL);
        }
    ps_cache_close(c);
    ps_free(plan);
    ps_free_pages(buf, CYCLE_EACH);
    return (double)hits / ((CYCLES - 1) * CYCLE_N);
}

static int cycle_bar(const char *dir)
{
    const double shares[] = {0.1, 0.5, 0.9};
    bool ok = true;
    printf("{\"extents\": %d, \"rows\": [", CYCLE_N);
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        char path[4096];
        uint64_t room;
        snprintf(path, sizeof path, "%s-%zu", dir, i);
        const double hit = hit_ratio(path, shares[i], &room);
        ok = ok && hit >= shares[i] - 1.0 / CYCLE_N - 0.01;
        printf("%s{\"room\": %.1f, \"hit_ratio\": %.4f}", i ? ", " : "", shares[i], hit);
    }
    printf("]}\n");
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc >= 4 && strcmp(argv[1], "index") == 0)
        return index_bar(argv[2], strtoull(argv[3], NULL, 10));
    if (argc >= 4 && strcmp(argv[1], "churn") == 0)
        return churn_bar(argv[2], strtod(argv[3], NULL));
    if (argc >= 3 && strcmp(argv[1], "cycle") == 0)
        return cycle_bar(argv[2]);
    fprintf(stderr, "usage: bench_cache index DIR N | churn DIR SECONDS | cycle DIR\n");
    return 2;
}
