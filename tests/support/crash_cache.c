/* Extents by number, and a folder's size. */
#include "tests/support/crash_cache.h"

#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "tests/support/test.h"

void crash_extent_key(uint64_t number, uint8_t key[PS_SHA256_BYTES])
{
    ps_sha256_once(&number, sizeof number, key);
}

void crash_model_id(uint64_t number, uint8_t id[PS_SHA256_BYTES])
{
    crash_extent_key(number ^ 0x6d6f64656c000000ull, id);
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

size_t crash_extent_size(uint64_t number, size_t min_bytes, size_t max_bytes)
{
    return min_bytes + (size_t)(mix(number) % (max_bytes - min_bytes + 1));
}

void crash_extent_fill(uint64_t number, void *buf, size_t bytes)
{
    uint8_t *p = buf;
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t v = mix(number * 0x100000001b3ull + i);
        memcpy(p + i, &v, bytes - i < 8 ? bytes - i : 8);
    }
}

bool crash_extent_equal(uint64_t number, const void *buf, size_t bytes)
{
    const uint8_t *p = buf;
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t v = mix(number * 0x100000001b3ull + i);
        if (memcmp(p + i, &v, bytes - i < 8 ? bytes - i : 8) != 0)
            return false;
    }
    return true;
}

static _Thread_local uint64_t walked_bytes;

static int add_blocks(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)path;
    (void)at;
    if (type != FTW_NS)
        walked_bytes += (uint64_t)st->st_blocks * 512u;
    return 0;
}

uint64_t crash_folder_bytes(const char *dir)
{
    walked_bytes = 0;
    (void)nftw(dir, add_blocks, 16, FTW_PHYS);
    return walked_bytes;
}

struct ps_cache *crash_open(const char *dir, uint64_t budget_bytes)
{
    const struct ps_cache_options o = {.budget_bytes = budget_bytes};
    struct ps_cache *c = NULL;
    struct ps_err err = {.code = 0};
    assert_ok(ps_cache_open(&c, dir, &o, NULL, &err), &err);
    return c;
}

uint32_t crash_model(struct ps_cache *c, uint64_t number)
{
    uint8_t id[PS_SHA256_BYTES];
    uint32_t model = 0;
    struct ps_err err = {.code = 0};
    crash_model_id(number, id);
    assert_ok(ps_cache_model_open(c, id, "label", 1, &model, &err), &err);
    return model;
}

int crash_store_err(struct ps_cache *c, uint32_t model, uint64_t number, int32_t layer, void *buf,
                    size_t bytes, struct ps_err *err)
{
    uint8_t key[PS_SHA256_BYTES];
    struct ps_cache_ticket *t;
    crash_extent_key(number, key);
    const int rc = ps_cache_reserve(&t, c, model, key, layer, bytes, err);
    if (rc != 0)
        return rc;
    crash_extent_fill(number, buf, bytes);
    return ps_cache_put(t, buf, bytes, err);
}

int crash_store(struct ps_cache *c, uint32_t model, uint64_t number, int32_t layer, void *buf,
                size_t bytes)
{
    return crash_store_err(c, model, number, layer, buf, bytes, NULL);
}

int crash_load(struct ps_cache *c, uint64_t number, void *buf, size_t bytes, size_t cap)
{
    uint8_t key[PS_SHA256_BYTES];
    crash_extent_key(number, key);
    const int rc = ps_cache_read(c, key, buf, bytes, cap, NULL);
    if (rc != 0)
        return rc;
    return crash_extent_equal(number, buf, bytes) ? 0 : PS_EFAIL;
}

bool crash_holds(struct ps_cache *c, uint64_t number)
{
    uint8_t key[1][PS_SHA256_BYTES], present = 0;
    crash_extent_key(number, key[0]);
    return ps_cache_lookup(c, (const uint8_t(*)[PS_SHA256_BYTES])key, 1, &present, NULL) == 0 &&
           present == 1;
}

int crash_spawn(const char *role, const char *dir, uint64_t a, uint64_t b)
{
    char first[24], second[24];
    snprintf(first, sizeof first, "%llu", (unsigned long long)a);
    snprintf(second, sizeof second, "%llu", (unsigned long long)b);
    fflush(NULL);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody writing behind */
        execl("/proc/self/exe", "test", role, dir, first, second, (char *)NULL);
        _exit(126);
    }
    return pid;
}

bool crash_wait(int pid)
{
    int status;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct crash_watch {
    char dir[512];
    pthread_t thread;
    _Atomic bool stop;
    uint64_t most; /* of the thread, until joined */
};

static void *watch_main(void *user)
{
    struct crash_watch *w = user;
    while (!atomic_load(&w->stop)) {
        const uint64_t now = crash_folder_bytes(w->dir);
        w->most = now > w->most ? now : w->most;
        const struct timespec pause = {.tv_nsec = 200 * 1000};
        nanosleep(&pause, NULL);
    }
    return NULL;
}

struct crash_watch *crash_watch_start(const char *dir)
{
    struct crash_watch *w = calloc(1, sizeof *w);
    assert_non_null(w);
    strncpy(w->dir, dir, sizeof w->dir - 1);
    assert_int_equal(pthread_create(&w->thread, NULL, watch_main, w), 0);
    return w;
}

uint64_t crash_watch_stop(struct crash_watch *w)
{
    atomic_store(&w->stop, true);
    pthread_join(w->thread, NULL);
    const uint64_t now = crash_folder_bytes(w->dir), most = now > w->most ? now : w->most;
    free(w);
    return most;
}
