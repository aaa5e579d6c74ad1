/* The index: records, slots and counters stay in step; damage is found; a full map grows; a thousand shapes of
 * garbage do no harm.
 * ctest-timeout: 600 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/host.h"
#include "cache/budget.h"
#include "cache/index_check.h"
#include "cache/index.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

static struct ps_index *open_index(uint64_t map_bytes)
{
    const struct ps_index_options o = {.map_bytes = map_bytes};
    struct ps_index *ix = NULL;
    struct ps_err err = {.code = 0};
    assert_ok(ps_index_open(&ix, test_dir, &o, &err), &err);
    return ix;
}

static struct ps_record record_of(uint64_t number, uint32_t slot)
{
    return (struct ps_record){.slot = slot,
                              .bytes = (uint32_t)(1 + number % 4096),
                              .crc32c = (uint32_t)number * 7,
                              .rank = (uint32_t)number,
                              .layer = (int16_t)(number % 80),
                              .model = 3,
                              .cls = 0};
}

struct span {
    uint64_t from, to;
    bool remove;
};

static int change_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    const struct span *s = user;
    int rc = 0;
    for (uint64_t i = s->from; i < s->to && rc == 0; i++) {
        uint8_t key[PS_SHA256_BYTES];
        const struct ps_record rec = record_of(i, (uint32_t)i);
        crash_extent_key(i, key);
        rc = s->remove ? ps_index_write_remove(w, key, &rec, err)
                       : ps_index_write_add(w, key, &rec, err);
    }
    return rc;
}

static int change(struct ps_index *ix, uint64_t from, uint64_t to, bool remove)
{
    struct span s = {.from = from, .to = to, .remove = remove};
    return ps_index_update(ix, change_body, &s, NULL);
}

static bool never_busy(void *user, int cls, uint32_t slot)
{
    (void)user;
    (void)cls;
    (void)slot;
    return false;
}

static void test_records_and_slots(void **state)
{
    (void)state;
    struct ps_index *ix = open_index(64u << 20);
    struct ps_index_meta meta;
    struct ps_index_read r;
    uint32_t slot;
    uint8_t key[PS_SHA256_BYTES];
    struct ps_record rec;
    assert_int_equal(change(ix, 0, 10000, false), 0);
    assert_int_equal(change(ix, 5000, 5001, false), PS_EAGAIN); /* there already */
    assert_int_equal(change(ix, 4096, 4099, true), 0);
    assert_int_equal(change(ix, 4096, 4097, true), PS_ENOTFOUND);
    ps_index_close(ix);
    ix = open_index(64u << 20);
    assert_int_equal(ps_index_get_meta(ix, &meta, NULL), 0);
    assert_int_equal(meta.n_extents, 9997);
    assert_int_equal(meta.classes[0].used, 9997);
    assert_int_equal(meta.classes[0].high, 10000);
    assert_int_equal(meta.classes[0].bytes, 9997 * 4096);
    assert_int_equal(ps_index_read_begin(&r, ix, NULL), 0);
    assert_int_equal(ps_index_read_free_slot(&r, 0, 0, 10000, never_busy, NULL, &slot), 0);
    assert_int_equal(slot, 4096);
    assert_int_equal(ps_index_read_free_slot(&r, 0, 4098, 10000, never_busy, NULL, &slot), 0);
    assert_int_equal(slot, 4098);
    assert_int_equal(ps_index_read_free_slot(&r, 0, 4099, 10000, never_busy, NULL, &slot),
                     PS_ENOTFOUND);
    assert_int_equal(ps_index_read_free_slot(&r, 0, 4099, 10005, never_busy, NULL, &slot), 0);
    assert_int_equal(slot, 10000);
    assert_int_equal(ps_index_read_free_slot(&r, 1, 17, 20, never_busy, NULL, &slot), 0);
    assert_int_equal(slot, 17);
    assert_true(ps_index_read_slot_used(&r, 0, 4095));
    assert_false(ps_index_read_slot_used(&r, 0, 4096));
    ps_index_read_end(&r);
    for (uint64_t i = 0; i < 10000; i++) {
        crash_extent_key(i, key);
        const struct ps_record want = record_of(i, (uint32_t)i);
        if (i >= 4096 && i < 4099)
            assert_int_equal(ps_index_get(ix, key, &rec, NULL), PS_ENOTFOUND);
        else
            assert_int_equal(ps_index_get(ix, key, &rec, NULL), 0);
        assert_true((i >= 4096 && i < 4099) || memcmp(&rec, &want, sizeof rec) == 0);
    }
    assert_int_equal(change(ix, 0, 4096, true), 0);
    assert_int_equal(change(ix, 4099, 10000, true), 0);
    assert_int_equal(ps_index_get_meta(ix, &meta, NULL), 0);
    assert_int_equal(meta.n_extents, 0);
    assert_int_equal(meta.classes[0].bytes, 0);
    assert_int_equal(meta.classes[0].high, 0);
    ps_index_close(ix);
}

static void test_scan(void **state)
{
    (void)state;
    struct ps_index *ix = open_index(64u << 20);
    struct ps_keyed_record recs[7];
    uint8_t last[PS_SHA256_BYTES];
    size_t n = 7, total = 0;
    assert_int_equal(change(ix, 0, 500, false), 0);
    for (bool first = true; n == 7; first = false) {
        assert_int_equal(ps_index_scan(ix, first ? NULL : last, recs, 7, &n, NULL), 0);
        for (size_t i = 0; i < n; i++) {
            assert_true((first && i == 0) || memcmp(recs[i].key, last, sizeof last) > 0);
            memcpy(last, recs[i].key, sizeof last);
        }
        total += n;
    }
    assert_int_equal(total, 500);
    ps_index_close(ix);
}

/* A failed body leaves nothing. */
static int failing_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    assert_int_equal(change_body(w, user, err), 0);
    return PS_EFAIL;
}

static void test_failed_update_leaves_nothing(void **state)
{
    (void)state;
    struct ps_index *ix = open_index(64u << 20);
    struct ps_index_meta meta;
    struct span s = {.from = 0, .to = 50};
    assert_int_equal(ps_index_update(ix, failing_body, &s, NULL), PS_EFAIL);
    assert_int_equal(ps_index_get_meta(ix, &meta, NULL), 0);
    assert_int_equal(meta.n_extents, 0);
    assert_int_equal(change(ix, 0, 50, false), 0);
    ps_index_close(ix);
}

static void test_full_map_grows(void **state)
{
    (void)state;
    struct ps_index *ix = open_index(64u << 10);
    struct ps_index_meta meta;
    for (uint64_t i = 0; i < 4000; i += 100)
        assert_int_equal(change(ix, i, i + 100, false), 0);
    for (uint64_t i = 0; i < 4000; i += 100)
        assert_int_equal(change(ix, i, i + 100, true), 0);
    assert_int_equal(ps_index_get_meta(ix, &meta, NULL), 0);
    assert_int_equal(meta.n_extents, 0);
    ps_index_close(ix);
}

static int child_grows(const char *folder)
{
    snprintf(test_dir, sizeof test_dir, "%s", folder);
    struct ps_index *ix = open_index(64u << 20);
    int rc = 0;
    for (uint64_t i = 1000; i < 9000 && rc == 0; i += 500)
        rc = change(ix, i, i + 500, false);
    ps_index_close(ix);
    return rc == 0 ? 0 : 1;
}

/* Another process has grown the file beyond our map. */
static void test_map_of_another_process(void **state)
{
    (void)state;
    struct ps_index *ix = open_index(256u << 10);
    struct ps_index_meta meta;
    uint8_t key[PS_SHA256_BYTES];
    struct ps_record rec;
    assert_int_equal(change(ix, 0, 100, false), 0);
    assert_true(crash_wait(crash_spawn("grow", test_dir, 0, 0)));
    crash_extent_key(8000, key);
    assert_int_equal(ps_index_get(ix, key, &rec, NULL), 0);
    assert_int_equal(rec.slot, 8000);
    assert_int_equal(change(ix, 9000, 9100, false), 0);
    assert_int_equal(ps_index_get_meta(ix, &meta, NULL), 0);
    assert_int_equal(meta.n_extents, 8200);
    ps_index_close(ix);
}

/* The bound of the budget against the real file: fill, churn, shrink. */
static void test_file_stays_within_bound(void **state)
{
    (void)state;
    struct ps_index *ix = open_index(256u << 20);
    uint64_t most_pct = 0;
    for (uint64_t n = 0; n < 12000; n += PS_CACHE_BATCH) {
        assert_int_equal(change(ix, n, n + PS_CACHE_BATCH, false), 0);
        const uint64_t bound = ps_budget_index_bytes(n + PS_CACHE_BATCH),
                       real = ps_index_file_bytes(ix);
        assert_true(real <= bound);
        most_pct = real * 100 / bound > most_pct ? real * 100 / bound : most_pct;
    }
    for (uint64_t round = 0; round < 100; round++) { /* as many in as out */
        const uint64_t out = round * 32;
        assert_int_equal(change(ix, out, out + 32, true), 0);
        assert_int_equal(change(ix, 12032 + out, 12032 + out + 32, false), 0);
        const uint64_t bound = ps_budget_index_bytes(12032), real = ps_index_file_bytes(ix);
        assert_true(real <= bound);
        most_pct = real * 100 / bound > most_pct ? real * 100 / bound : most_pct;
    }
    printf("    at most %llu %% of the bound, %.1f bytes per extent\n",
           (unsigned long long)most_pct, (double)ps_index_file_bytes(ix) / 12032);
    ps_index_close(ix);
}

/* ---- damage ---- */

static char *load_file(const char *path, size_t *len)
{
    char *bytes = NULL;
    assert_int_equal(ps_file_read(&bytes, len, path, 64u << 20, NULL), 0);
    return bytes;
}

static void make_index_file(char path[300])
{
    struct ps_index *ix = open_index(64u << 20);
    for (uint64_t i = 0; i < 1500; i += 100)
        assert_int_equal(change(ix, i, i + 100, false), 0);
    for (uint64_t i = 200; i < 600; i += 100)
        assert_int_equal(change(ix, i, i + 100, true), 0);
    ps_index_close(ix);
    snprintf(path, 300, "%s/data.mdb", test_dir);
}

static void test_check_accepts_good(void **state)
{
    (void)state;
    char path[300];
    struct ps_err err = {.code = 0};
    assert_int_equal(ps_index_check_file("/nonexistent/data.mdb", NULL), PS_ENOTFOUND);
    make_index_file(path);
    assert_ok(ps_index_check_file(path, &err), &err);
}

/* Whatever a few changed bytes do to the file: the check refuses it, or LMDB works on it without harm. */
static void test_random_damage(void **state)
{
    (void)state;
    char path[300];
    size_t len;
    uint64_t seed = 88172645463325252ull, refused = 0, opened = 0;
    make_index_file(path);
    char *good = load_file(path, &len), *bad = ps_malloc(len);
    for (int round = 0; round < 600; round++) {
        memcpy(bad, good, len);
        const int flips = 1 + round % 4;
        for (int i = 0; i < flips; i++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            /* Half of them near the head of a page, where a change matters most. */
            size_t at = seed % len;
            at = round % 2 ? at : at / 4096 * 4096 + at % 64;
            bad[at] = (char)(bad[at] ^ (char)(1 + (seed >> 40) % 255));
        }
        if (ps_index_check(bad, len, NULL) != 0) {
            refused++;
            continue;
        }
        test_write_file(path, bad, len);
        const struct ps_index_options o = {.map_bytes = 64u << 20};
        struct ps_index *ix = NULL;
        if (ps_index_open(&ix, test_dir, &o, NULL) != 0)
            continue;
        opened++;
        struct ps_keyed_record recs[64];
        size_t n;
        (void)ps_index_scan(ix, NULL, recs, 64, &n, NULL);
        for (uint64_t i = 0; i < 1500; i++) {
            uint8_t key[PS_SHA256_BYTES];
            struct ps_record rec;
            crash_extent_key(i, key);
            (void)ps_index_get(ix, key, &rec, NULL);
        }
        (void)change(ix, 2000, 2050, false);
        (void)change(ix, 700, 730, true);
        ps_index_close(ix);
    }
    printf("    600 damaged files: %llu refused by the check, %llu opened\n",
           (unsigned long long)refused, (unsigned long long)opened);
    assert_true(refused > 100);
    ps_free(good);
    ps_free(bad);
}

static void test_truncated(void **state)
{
    (void)state;
    char path[300];
    size_t len;
    make_index_file(path);
    char *good = load_file(path, &len);
    for (size_t cut = 1; cut < len; cut += 1 + len / 150)
        assert_int_equal(ps_index_check(good, cut, NULL), PS_EDATA);
    assert_int_equal(truncate(path, (off_t)(len / 2)), 0);
    const struct ps_index_options o = {.map_bytes = 64u << 20};
    struct ps_index *ix = NULL;
    assert_int_equal(ps_index_open(&ix, test_dir, &o, NULL), PS_EDATA);
    ps_free(good);
}

/* ---- speed, printed ---- */

static void test_speed(void **state)
{
    (void)state;
    enum { N = 102400 };
    struct ps_index *ix = open_index(256u << 20);
    uint64_t start = ps_now_ns();
    for (uint64_t i = 0; i < N;
         i += i < N - 6400 ? 1000 : PS_CACHE_BATCH) /* big steps for speed, then as in life */
        assert_int_equal(change(ix, i, i + (i < N - 6400 ? 1000 : PS_CACHE_BATCH), false), 0);
    const double fill = ps_seconds_since(start);
    ps_index_close(ix);
    start = ps_now_ns();
    ix = open_index(256u << 20);
    const double open_s = ps_seconds_since(start);
    uint8_t(*keys)[PS_SHA256_BYTES] = ps_malloc((size_t)N * PS_SHA256_BYTES);
    for (uint64_t i = 0; i < N; i++)
        crash_extent_key(i * 7919 % N, keys[i]);
    struct ps_record rec;
    for (uint64_t i = 0; i < N; i++) /* maps the pages */
        assert_int_equal(ps_index_get(ix, keys[i], &rec, NULL), 0);
    start = ps_now_ns();
    for (uint64_t i = 0; i < N; i++)
        assert_int_equal(ps_index_get(ix, keys[i], &rec, NULL), 0);
    const double get = ps_seconds_since(start);
    char path[300];
    snprintf(path, sizeof path, "%s/data.mdb", test_dir);
    start = ps_now_ns();
    assert_int_equal(ps_index_check_file(path, NULL), 0);
    const double check = ps_seconds_since(start);
    printf("    %d records: fill %.2f s, open %.2f ms, lookup %.2f us, %.1f bytes each, page check "
           "%.1f ms\n",
           N, fill, open_s * 1e3, get / N * 1e6, (double)ps_index_file_bytes(ix) / N, check * 1e3);
    ps_free(keys);
    ps_index_close(ix);
}

int main(int argc, char **argv)
{
    if (argc == 5)
        return child_grows(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_records_and_slots, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_scan, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_failed_update_leaves_nothing, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_full_map_grows, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_map_of_another_process, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_file_stays_within_bound, test_dir_setup,
                                        test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_check_accepts_good, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_random_damage, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_truncated, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_speed, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
