/* Every bit of the index of a small cache, flipped one at a time: the check's verdict on each, and a whole trial
 * (tests/support/cache_image.h) of every one that it accepts in a page in use, and of a sample of the others, whose
 * fate is the same path each time. Then a larger index, sampled.
 * ctest-labels: slow
 * ctest-timeout: 900 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/log.h"
#include "cache/budget.h"
#include "cache/index_check.h"
#include "cache/index.h"
#include "tests/support/cache_image.h"
#include "tests/support/crash_cache.h"
#include "tests/support/test.h"

#define PAGE         4096u
#define META_END     152u
#define META_TXNID   144u
#define REFUSED_EACH 101u /* one refused flip of so many is tried for real */
#define UNUSED_EACH  211u /* and one in bytes that nothing leads to */

/* Sanitizers make a verdict twenty times slower: a part of the bits then. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRIDE 37u
#else
#define STRIDE 1u
#endif

struct count {
    uint64_t refused, accepted, tried;
};

static bool accepts(uint8_t *bytes, size_t n, uint64_t at, uint8_t mask)
{
    bytes[at] ^= mask;
    const int rc = ps_index_check(bytes, n, NULL);
    bytes[at] ^= mask;
    return rc == 0;
}

static unsigned u16(const uint8_t *p)
{
    return (unsigned)(p[0] | p[1] << 8);
}

/* Whether LMDB ever looks at a byte of this page: not if the page can call itself another, nor between pointers and
 * nodes, nor behind what a header holds. */
static bool is_used(const uint8_t *page, bool live, unsigned at)
{
    const unsigned flags = u16(page + 10);
    if (flags == 8)
        return at < META_END;
    return live && !((flags == 1 || flags == 2) && at >= u16(page + 12) && at < u16(page + 14));
}

static bool try_bit(const struct image *img, const char *folder, uint64_t at, uint8_t mask,
                    bool accepted)
{
    image_restore(img, folder);
    image_flip(folder, "index/data.mdb", at, mask);
    /* The number of a commit, smaller by two: the state before it is the last one, and as good. */
    const bool older = at < 2 * PAGE && at % PAGE >= META_TXNID && at % PAGE < META_TXNID + 8;
    if (image_trial(folder, !accepted ? IMAGE_REFUSED
                            : older   ? IMAGE_KEPT | IMAGE_OLDER
                                      : IMAGE_KEPT))
        return true;
    fprintf(stderr, "    byte %llu (page %llu + %llu), bit %02x, %s\n", (unsigned long long)at,
            (unsigned long long)(at / PAGE), (unsigned long long)(at % PAGE), mask,
            accepted ? "accepted" : "refused");
    return false;
}

static bool flip_page(const struct image *img, const char *folder, uint8_t *bytes, size_t n,
                      uint64_t page, struct count *c)
{
    const bool live = page < 2 || !accepts(bytes, n, page * PAGE, 1);
    for (uint64_t bit = page % STRIDE; bit < 8 * PAGE; bit += STRIDE) {
        const uint64_t at = page * PAGE + bit / 8;
        const uint8_t mask = (uint8_t)(1u << bit % 8);
        const bool yes = accepts(bytes, n, at, mask);
        const uint64_t turn = yes ? c->accepted++ : c->refused++;
        const unsigned each = !yes                                          ? REFUSED_EACH
                              : is_used(bytes + page * PAGE, live, bit / 8) ? 1
                                                                            : UNUSED_EACH;
        if (turn % each != 0)
            continue;
        c->tried++;
        if (!try_bit(img, folder, at, mask, yes))
            return false;
    }
    return true;
}

/* One page, in a process of its own: a signal must not end the test without a word. */
static int page_child(const char *folder, uint64_t page)
{
    struct image img;
    struct count c = {0};
    ps_log_set_level(PS_LOG_ERROR);
    image_load(&img, folder);
    const struct image_file *f = image_find(&img, "index/data.mdb");
    const bool ok = flip_page(&img, folder, f->bytes, f->size, page, &c);
    printf("    page %llu: %llu flips refused, %llu accepted, %llu tried\n",
           (unsigned long long)page, (unsigned long long)c.refused, (unsigned long long)c.accepted,
           (unsigned long long)c.tried);
    image_restore(&img, folder);
    image_free(&img);
    return ok ? 0 : 1;
}

static void test_every_bit(void **state)
{
    (void)state;
    struct image img;
    image_make_cache(test_dir);
    image_load(&img, test_dir);
    const uint64_t pages = image_find(&img, "index/data.mdb")->size / PAGE;
    for (uint64_t page = 0; page < pages; page++) {
        image_restore(&img, test_dir);
        if (!crash_wait(crash_spawn("page", test_dir, page, 0)))
            fail_msg("page %llu", (unsigned long long)page);
    }
    image_free(&img);
}

/* ---- a larger index: branch pages, many bitmaps, a long free list ---- */

#define MANY   12000u
#define SAMPLE (1500u / (STRIDE > 1 ? 10 : 1))

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
        const struct ps_record rec = {.slot = (uint32_t)i, .bytes = 4000, .crc32c = (uint32_t)i};
        crash_extent_key(i, key);
        rc = s->remove ? ps_index_write_remove(w, key, &rec, err)
                       : ps_index_write_add(w, key, &rec, err);
    }
    return rc;
}

static void make_index(const char *dir)
{
    const struct ps_index_options o = {.map_bytes = 64u << 20};
    struct ps_index *ix = NULL;
    assert_int_equal(ps_index_open(&ix, dir, &o, NULL), 0);
    for (uint64_t i = 0; i < MANY; i += 100) {
        struct span s = {.from = i, .to = i + 100};
        assert_int_equal(ps_index_update(ix, change_body, &s, NULL), 0);
    }
    struct span s = {.from = 1000, .to = 5000, .remove = true};
    assert_int_equal(ps_index_update(ix, change_body, &s, NULL), 0);
    ps_index_close(ix);
}

/* What the check accepts, LMDB works on: reads, a scan, changes all over the tree. */
static void use_index(const char *dir)
{
    const struct ps_index_options o = {.map_bytes = 64u << 20};
    struct ps_index *ix = NULL;
    struct ps_keyed_record recs[64];
    size_t n;
    if (ps_index_open(&ix, dir, &o, NULL) != 0)
        return;
    for (uint64_t i = 0; i < MANY; i += 7) {
        uint8_t key[PS_SHA256_BYTES];
        struct ps_record rec;
        crash_extent_key(i, key);
        (void)ps_index_get(ix, key, &rec, NULL);
    }
    (void)ps_index_scan(ix, NULL, recs, 64, &n, NULL);
    struct span out = {.from = 6000, .to = 7000, .remove = true}, in = {.from = 20000, .to = 21000};
    (void)ps_index_update(ix, change_body, &out, NULL);
    (void)ps_index_update(ix, change_body, &in, NULL);
    ps_index_close(ix);
}

static int sample_child(const char *dir, uint64_t seed)
{
    char path[300];
    struct count c = {0};
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    FILE *in = fopen(path, "rb");
    static uint8_t bytes[16u << 20];
    const size_t n = in ? fread(bytes, 1, sizeof bytes, in) : 0;
    if (in)
        fclose(in);
    for (unsigned i = 0; i < SAMPLE; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        uint64_t at = seed % n;
        at = i % 2 ? at
                   : at / PAGE * PAGE + at % 80; /* half of them where a page's head and pointers lie */
        const uint8_t mask = (uint8_t)(1u << (seed >> 60) % 8);
        if (!accepts(bytes, n, at, mask)) {
            c.refused++;
            continue;
        }
        c.accepted++;
        if (c.accepted % 4 != 0)
            continue;
        c.tried++;
        bytes[at] ^= mask;
        test_write_file(path, bytes, n);
        bytes[at] ^= mask;
        use_index(dir);
    }
    printf("    %u flips of %zu bytes: %llu refused, %llu accepted, %llu of them used\n", SAMPLE, n,
           (unsigned long long)c.refused, (unsigned long long)c.accepted,
           (unsigned long long)c.tried);
    return n > 0 && c.refused > SAMPLE / 10 ? 0 : 1;
}

static void test_larger_index(void **state)
{
    (void)state;
    make_index(test_dir);
    assert_true(crash_wait(crash_spawn("sample", test_dir, 88172645463325252ull, 0)));
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "page") == 0)
        return page_child(argv[2], strtoull(argv[3], NULL, 10));
    if (argc == 5 && strcmp(argv[1], "sample") == 0)
        return sample_child(argv[2], strtoull(argv[3], NULL, 10));
    image_use_memory();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_bit, test_dir_setup, test_dir_teardown),
        cmocka_unit_test_setup_teardown(test_larger_index, test_dir_setup, test_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
