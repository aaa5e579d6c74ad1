/* Which models of a list have lost weights to later ones, by what the cache says of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tools/warm_held.c"

#define A      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B      "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C      "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
#define TOLD_A "{\"model_id\":\"" A "\",\"bytes\":110,\"files_bytes\":10}"

static void note_one(struct ps_warm_held *h, const char *id, const char *cache)
{
    char facts[128];

    snprintf(facts, sizeof facts, "{\"model_id\":\"%s\",\"bytes_present\":100}", id);
    assert_int_equal(ps_warm_held_note(h, facts, cache, strlen(cache), NULL), 0);
}

static size_t lost(const struct ps_warm_held *h, const char *cache)
{
    size_t n = 99;

    assert_int_equal(ps_warm_held_lost(&n, h, cache, strlen(cache), NULL), 0);
    return n;
}

/* B has one extent of its own, C shares all of them: it isn't among the cache's models. */
static void test_held(void **state)
{
    static const char first[] = "{\"models\":[" TOLD_A "]}";
    static const char all[] =
        "{\"models\":[" TOLD_A ",{\"model_id\":\"" B "\",\"bytes\":25,\"files_bytes\":5}]}";
    static const struct {
        const char *cache;
        size_t lost;
    } ends[] = {
        {all, 0},
        {first, 1},
        {"{\"models\":[]}", 2},
        /* files went, no weights */
        {"{\"models\":[{\"model_id\":\"" A "\",\"bytes\":100,\"files_bytes\":0},{\"model_id\":\"" B
         "\",\"bytes\":20,\"files_bytes\":0}]}",
         0},
        /* files came, weights went */
        {"{\"models\":[{\"model_id\":\"" A "\",\"bytes\":110,\"files_bytes\":11},{\"model_id\":\"" B
         "\",\"bytes\":25,\"files_bytes\":5}]}",
         1},
    };
    struct ps_warm_held h = {0};

    (void)state;
    note_one(&h, A, first);
    note_one(&h, B, all);
    note_one(&h, C, all);
    note_one(&h, A, all);
    assert_int_equal(h.n, 3);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        assert_int_equal(lost(&h, ends[i].cache), ends[i].lost);
    ps_warm_held_deinit(&h);
}

static void test_malformed(void **state)
{
    static const char facts[] = "{\"model_id\":\"" A "\"}";
    struct ps_warm_held h = {0};
    size_t n;

    (void)state;
    assert_int_equal(ps_warm_held_note(&h, facts, "{", 1, NULL), PS_EDATA);
    assert_int_equal(ps_warm_held_note(&h, "{", "{}", 2, NULL), PS_EDATA);
    assert_int_equal(h.n, 0);
    assert_int_equal(ps_warm_held_lost(&n, &h, "{", 1, NULL), PS_EDATA);
    ps_warm_held_deinit(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_malformed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
