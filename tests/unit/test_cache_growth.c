/* The index is as long as its bound says and stays so: while extents come and go, and while somebody who looks into it
 * was taken off his CPU and pins the pages of every commit since. A folder that must shrink gets the spare pages back.
 * ctest-timeout: 300 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include "base/clock.h"
#include "cache/budget.h"
#include "cache/cache_internal.h"
#include "tests/support/cache_image.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define BUDGET (4u << 20)
#define EACH   16384u
#define SOME   16u /* extents per commit */

static _Alignas(4096) uint8_t buf[EACH];

/* Size of the index, which is all allocated. */
static uint64_t index_bytes(void)
{
    char path[300];
    struct stat st;
    snprintf(path, sizeof path, "%s/index/data.mdb", test_dir);
    assert_int_equal(stat(path, &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size);
    return (uint64_t)st.st_size;
}

/* One round: what model `number` wants takes the place of what others had. */
static void store_round(struct ps_cache *c, uint64_t number)
{
    uint8_t keys[SOME][PS_SHA256_BYTES];
    const uint32_t m = crash_model(c, number % 2);
    for (uint64_t i = 0; i < SOME; i++)
        crash_extent_key(number * SOME + i, keys[i]);
    assert_int_equal(ps_cache_set_plan(c, m, (const uint8_t(*)[PS_SHA256_BYTES])keys, SOME, NULL), 0);
    for (uint64_t i = 0; i < SOME; i++)
        assert_int_equal(crash_store(c, m, number * SOME + i, 0, buf, EACH), 0);
    assert_int_equal(ps_cache_flush(c, NULL), 0);
}

static uint64_t extents(struct ps_cache *c)
{
    struct ps_index_meta meta;
    assert_int_equal(ps_index_get_meta(c->index, &meta, NULL), 0);
    return meta.n_extents;
}

static void test_keeps_its_size(void **state)
{
    (void)state;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    uint64_t round = 0, most = 0;
    for (; round < 30; round++) {
        store_round(c, round);
        most = extents(c) > most ? extents(c) : most;
    }
    const uint64_t full = index_bytes();
    assert_int_equal(full, ps_budget_index_bytes(most));
    for (; round < 330; round++) {
        store_round(c, round);
        assert_int_equal(index_bytes(), full);
    }
    ps_cache_close(c);
    assert_int_equal(index_bytes(), full);
    assert_true(crash_folder_bytes(test_dir) <= BUDGET);
}

/* ---- a slow reader ---- */

enum { COMMITS = 40, HOLD_MS = 100, PATIENCE_S = 30 };

struct look {
    struct ps_cache *c;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool looks;    /* lock */
    bool finished; /* lock: the commits are all done, nothing has waited for the reader */
};

/* Holds a snapshot until all commits are done, or for a while where they wait for it. */
static void *look_main(void *user)
{
    struct look *l = user;
    struct ps_index_read r;
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += HOLD_MS * 1000000l;
    end.tv_sec += end.tv_nsec / 1000000000l;
    end.tv_nsec %= 1000000000l;
    assert_int_equal(ps_index_read_begin(&r, l->c->index, NULL), 0);
    pthread_mutex_lock(&l->lock);
    l->looks = true;
    pthread_cond_signal(&l->changed);
    while (!l->finished && pthread_cond_timedwait(&l->changed, &l->lock, &end) == 0) {}
    pthread_mutex_unlock(&l->lock);
    ps_index_read_end(&r);
    return NULL;
}

static void test_waits_for_a_slow_reader(void **state)
{
    (void)state;
    struct look l = {.c = crash_open(test_dir, 8 * BUDGET),
                     .lock = PTHREAD_MUTEX_INITIALIZER,
                     .changed = PTHREAD_COND_INITIALIZER};
    pthread_t thread;
    uint64_t round = 0;
    l.c->readers_ns = PATIENCE_S * PS_NS_PER_S; /* on a busy machine the reader is late */
    while (round < 10) /* room for more: what grows is not held back by the budget */
        store_round(l.c, round++);
    assert_int_equal(pthread_create(&thread, NULL, look_main, &l), 0);
    pthread_mutex_lock(&l.lock);
    while (!l.looks)
        pthread_cond_wait(&l.changed, &l.lock);
    pthread_mutex_unlock(&l.lock);
    for (int i = 0; i < COMMITS; i++)
        (void)crash_model(l.c, round++ % 2);
    pthread_mutex_lock(&l.lock);
    l.finished = true;
    pthread_cond_signal(&l.changed);
    pthread_mutex_unlock(&l.lock);
    pthread_join(thread, NULL);
    assert_int_equal(index_bytes(), ps_budget_index_bytes(extents(l.c)));
    ps_cache_close(l.c);
}

/* ---- shrinking ---- */

/* A second process with a smaller budget, which may compact nothing beside the first: pages of an index that was larger
 * once are worth extents. */
static int child_opens(const char *folder, uint64_t budget)
{
    ps_cache_close(crash_open(folder, budget));
    return 0;
}

static void test_spare_pages_make_room(void **state)
{
    (void)state;
    uint64_t round = 0, freed;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    while (round < 10)
        store_round(c, round++);
    assert_int_equal(ps_cache_evict(c, NULL, &freed, NULL), 0);
    store_round(c, round);
    const uint64_t index = index_bytes(), least = ps_budget_index_bytes(SOME);
    const uint64_t budget =
        crash_folder_bytes(test_dir) - index + least + ps_budget_slab_overhead(SOME, SOME * EACH);
    assert_true(index > least + EACH);
    assert_true(crash_wait(crash_spawn("open", test_dir, budget, 0)));
    assert_int_equal(extents(c), SOME);
    assert_true(index_bytes() <= least);
    assert_true(crash_folder_bytes(test_dir) <= budget);
    ps_cache_close(c);
}

int main(int argc, char **argv)
{
    if (argc == 5)
        return child_opens(argv[2], strtoull(argv[3], NULL, 10));
    image_use_memory();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_keeps_its_size, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_waits_for_a_slow_reader, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_spare_pages_make_room, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
