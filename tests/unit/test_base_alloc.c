/* The heap's counters and failures, string buffers, the clock and the counters of a run. */
#include "tests/support/test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/stats.h"
#include "base/strbuf.h"

static void test_counters(void **state)
{
    (void)state;
    uint64_t bytes = ps_alloc_live_bytes(), count = ps_alloc_live_count();
    char *a = ps_malloc(1000);
    char *b = ps_calloc(10, 100);
    void *c = ps_malloc(0), *d = ps_malloc(0);
    assert_non_null(c);
    assert_ptr_not_equal(c, d);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(b[i], 0);
    assert_int_equal(ps_alloc_live_count(), count + 4);
    assert_true(ps_alloc_live_bytes() >= bytes + 2000);
    memset(a, 7, 1000);
    a = ps_realloc(a, 100000);
    assert_int_equal(a[999], 7);
    assert_int_equal(ps_alloc_live_count(), count + 4);
    assert_true(ps_alloc_live_bytes() >= bytes + 101000);
    a = ps_realloc_array(a, 10, 10);
    assert_int_equal(a[99], 7);
    ps_free(a);
    ps_free(b);
    ps_free(c);
    ps_free(d);
    ps_free(NULL);
    assert_int_equal(ps_alloc_live_count(), count);
    assert_int_equal(ps_alloc_live_bytes(), bytes);
}

static void test_overflow_is_refused(void **state)
{
    (void)state;
    /* volatile: the compiler would warn about sizes that it can see. */
    volatile size_t half = SIZE_MAX / 2 + 2;
    assert_null(ps_calloc(half, 2));
    assert_null(ps_realloc_array(NULL, half, 2));
    assert_null(ps_malloc(half));
    assert_null(ps_alloc_pages(SIZE_MAX - 4, 4096));
    assert_null(ps_alloc_pages(4096, 3 * 4096)); /* no power of two */
}

static void test_strings(void **state)
{
    (void)state;
    char *a = ps_strdup("abc");
    char *b = ps_strndup("abcdef", 2);
    char *c = ps_strndup("ab", 100);
    assert_string_equal(a, "abc");
    assert_string_equal(b, "ab");
    assert_string_equal(c, "ab");
    ps_free(a);
    ps_free(b);
    ps_free(c);
}

static void test_armed_failure_happens_once(void **state)
{
    (void)state;
    ps_alloc_fail_at(3);
    void *a = ps_malloc(1), *b = ps_malloc(1);
    assert_null(ps_malloc(1));
    void *c = ps_malloc(1);
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    ps_alloc_fail_at(1);
    assert_null(ps_realloc(a, 100)); /* a stays valid */
    ps_alloc_fail_at(1);
    assert_null(ps_alloc_pages(4096, 4096));
    ps_alloc_fail_at(1);
    ps_alloc_fail_at(0);
    void *d = ps_malloc(1);
    assert_non_null(d);
    ps_free(a);
    ps_free(b);
    ps_free(c);
    ps_free(d);
}

static void test_pages_are_aligned_and_returned(void **state)
{
    (void)state;
    uint64_t bytes = ps_alloc_live_bytes();
    static const size_t aligns[] = {1, 4096, 65536, 2 << 20};
    for (size_t i = 0; i < TEST_COUNT(aligns); i++) {
        size_t size = 5000 + 4096 * i;
        uint8_t *p = ps_alloc_pages(size, aligns[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % (aligns[i] < 4096 ? 4096 : aligns[i]), 0);
        for (size_t k = 0; k < size; k++)
            assert_int_equal(p[k], 0);
        memset(p, 1, size);
        assert_true(ps_alloc_live_bytes() >= bytes + size);
        ps_free_pages(p, size);
        assert_int_equal(ps_alloc_live_bytes(), bytes);
    }
    ps_free_pages(NULL, 1);
}

/* The flags of the mapping that begins at p say whether it asked for huge pages. */
static bool wants_huge_pages(const void *p)
{
    char line[512], start[32];
    bool found = false, huge = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    assert_non_null(f);
    int n = snprintf(start, sizeof start, "%lx-", (unsigned long)(uintptr_t)p);
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, start, (size_t)n) == 0)
            found = true;
        else if (found && strncmp(line, "VmFlags:", 8) == 0) {
            huge = strstr(line, " hg") != NULL;
            break;
        }
    }
    fclose(f);
    assert_true(found);
    return huge;
}

static void test_huge_pages_by_alignment(void **state)
{
    (void)state;
    const size_t size = 2 * PS_HUGE_PAGE;
    uint8_t *huge = ps_alloc_pages(size, PS_HUGE_PAGE);
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK) == 0)
        assert_true(wants_huge_pages(huge));
    ps_free_pages(huge, size);
}

static void test_strbuf_grows_to_its_maximum(void **state)
{
    (void)state;
    struct ps_strbuf b;
    ps_strbuf_init(&b, 300);
    assert_string_equal(b.data, "");
    ps_strbuf_puts(&b, "abc");
    ps_strbuf_append(&b, "\0d", 2);
    ps_strbuf_append(&b, NULL, 0);
    assert_int_equal(b.len, 5);
    assert_memory_equal(b.data, "abc\0d", 6);
    ps_strbuf_printf(&b, "%0280d", 1);
    assert_true(ps_strbuf_ok(&b));
    assert_int_equal(b.len, 285);
    assert_int_equal(b.data[285], '\0');
    ps_strbuf_append(&b, "0123456789abcde", 15); /* exactly full */
    assert_true(ps_strbuf_ok(&b));
    assert_int_equal(b.len, 300);
    ps_strbuf_puts(&b, "x");
    assert_false(ps_strbuf_ok(&b));
    assert_int_equal(b.len, 300);
    ps_strbuf_puts(&b, ""); /* latched */
    assert_false(ps_strbuf_ok(&b));
    assert_null(ps_strbuf_take(&b, NULL));
    assert_true(ps_strbuf_ok(&b)); /* left empty */
    ps_strbuf_puts(&b, "again");
    assert_string_equal(b.data, "again");
    ps_strbuf_reset(&b);
    assert_string_equal(b.data, "");
    ps_strbuf_deinit(&b);
    ps_strbuf_deinit(&b);
}

static void test_strbuf_take(void **state)
{
    (void)state;
    struct ps_strbuf b;
    size_t len = 99;
    ps_strbuf_init(&b, 1000);
    char *s = ps_strbuf_take(&b, &len); /* empty: still a heap string */
    assert_string_equal(s, "");
    assert_int_equal(len, 0);
    ps_free(s);
    ps_strbuf_printf(&b, "%s-%d", "x", 5);
    s = ps_strbuf_take(&b, &len);
    assert_string_equal(s, "x-5");
    assert_int_equal(len, 3);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
    ps_free(s);
}

static int build_string(void *user)
{
    (void)user;
    struct ps_strbuf b;
    ps_strbuf_init(&b, 1 << 20);
    for (int i = 0; i < 2000; i++)
        ps_strbuf_printf(&b, "%d,", i);
    ps_strbuf_printf(&b, "%0900d", 1);
    char *s = ps_strbuf_take(&b, NULL);
    if (!s)
        return PS_ENOMEM;
    ps_free(s);
    return 0;
}

static void test_strbuf_alloc_failures(void **state)
{
    (void)state;
    assert_true(test_every_alloc_failure(build_string, NULL) >= 8);
}

static void test_clock(void **state)
{
    (void)state;
    uint64_t a = ps_now_ns();
    uint64_t b = ps_now_ns();
    assert_true(b >= a);
    assert_true(ps_seconds_since(a) >= 0.0 && ps_seconds_since(a) < 60.0);
    assert_true(ps_seconds_since(UINT64_MAX) == 0.0); /* the future is no negative interval */
    assert_true(ps_wall_s() > 1600000000u);
}

static void test_stats(void **state)
{
    (void)state;
    struct ps_stats s = {0};
    ps_stat_add(&s.bytes_net, 5);
    ps_stat_add(&s.bytes_net, 6);
    assert_int_equal(ps_stat_get(&s.bytes_net), 11);
    assert_int_equal(ps_stat_get(&s.retries), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_counters),
    cmocka_unit_test(test_overflow_is_refused),
    cmocka_unit_test(test_strings),
    cmocka_unit_test(test_armed_failure_happens_once),
    cmocka_unit_test(test_pages_are_aligned_and_returned),
    cmocka_unit_test(test_huge_pages_by_alignment),
    cmocka_unit_test(test_strbuf_grows_to_its_maximum),
    cmocka_unit_test(test_strbuf_take),
    cmocka_unit_test(test_strbuf_alloc_failures),
    cmocka_unit_test(test_clock),
    cmocka_unit_test(test_stats),
};
TEST_MAIN(tests)
