/* Sampling: greedy ties, filters, the distribution that comes out, and random numbers keyed by position. */
#include <math.h>
#include <string.h>

#include "runtime/sampler.h"
#include "tests/support/test.h"

#define V 1000

static uint32_t pick(struct ps_sampler_options o, const float *logits, uint32_t vocab,
                     uint64_t position)
{
    struct ps_sampler *s = NULL;
    float copy[V];
    memcpy(copy, logits, vocab * sizeof *copy);
    assert_int_equal(ps_sampler_new(&s, &o, vocab, NULL), 0);
    uint32_t id = ps_sampler_pick(s, copy, NULL, 0, position);
    ps_sampler_free(s);
    return id;
}

static void test_greedy_ties_go_to_the_lowest_id(void **state)
{
    (void)state;
    float l[5] = {1, 7, 7, 7, 0};
    assert_int_equal(pick((struct ps_sampler_options){.temp = 0}, l, 5, 0), 1);
    assert_int_equal(pick((struct ps_sampler_options){.temp = 5, .top_k = 1}, l, 5, 9), 1);
}

static void test_repetition_penalty(void **state)
{
    (void)state;
    struct ps_sampler_options o = {.temp = 0, .repeat_penalty = 2, .repeat_last_n = 3};
    struct ps_sampler *s = NULL;
    uint32_t history[] = {0, 3, 1, 1, 1};
    assert_int_equal(ps_sampler_new(&s, &o, 4, NULL), 0);
    float a[4] = {3.9f, 4, 2.5f, 1};
    assert_int_equal(ps_sampler_pick(s, a, history, 5, 5),
                     0); /* 1 halves once, though it occurs three times; 0 is out of the window */
    assert_true(a[1] == 2 && a[0] == 3.9f);
    float b[4] = {-5, -1, -1.5f, -9};
    assert_int_equal(ps_sampler_pick(s, b, history, 5, 5), 2); /* a negative logit moves down, not up */
    ps_sampler_free(s);
}

/* Frequencies of many draws against the exact distribution. */
static void check_distribution(struct ps_sampler_options o, const float *l, uint32_t n,
                               const double *want)
{
    enum { DRAWS = 40000 };
    unsigned count[16] = {0};
    struct ps_sampler *s = NULL;
    assert_int_equal(ps_sampler_new(&s, &o, n, NULL), 0);
    for (unsigned i = 0; i < DRAWS; i++) {
        float copy[16];
        memcpy(copy, l, n * sizeof *copy);
        count[ps_sampler_pick(s, copy, NULL, 0, i)]++;
    }
    ps_sampler_free(s);
    for (uint32_t i = 0; i < n; i++) {
        double p = (double)count[i] / DRAWS;
        if (want[i] == 0)
            assert_int_equal(count[i], 0);
        assert_true(fabs(p - want[i]) <
                    5 * sqrt(0.25 / DRAWS)); /* five standard deviations at the widest */
    }
}

static void test_distributions(void **state)
{
    (void)state;
    float l[4] = {logf(0.5f), logf(0.3f), logf(0.15f), logf(0.05f)};
    check_distribution((struct ps_sampler_options){.temp = 1, .seed = 7}, l, 4,
                       (double[]){0.5, 0.3, 0.15, 0.05});
    check_distribution((struct ps_sampler_options){.temp = 1, .top_k = 2, .seed = 7}, l, 4,
                       (double[]){0.625, 0.375, 0, 0});
    check_distribution((struct ps_sampler_options){.temp = 1, .top_p = 0.79f, .seed = 8}, l, 4,
                       (double[]){0.625, 0.375, 0, 0});
    check_distribution((struct ps_sampler_options){.temp = 1, .min_p = 0.2f, .seed = 9}, l, 4,
                       (double[]){0.5263, 0.3158, 0.1579, 0});
    double z = 0.25 + 0.09 + 0.0225 + 0.0025;
    check_distribution((struct ps_sampler_options){.temp = 0.5f, .seed = 3}, l, 4,
                       (double[]){0.25 / z, 0.09 / z, 0.0225 / z, 0.0025 / z});
}

static void test_random_numbers_are_keyed_by_position(void **state)
{
    (void)state;
    float l[V];
    for (int i = 0; i < V; i++)
        l[i] = sinf((float)i);
    struct ps_sampler_options o = {.temp = 1, .top_k = 40, .seed = 42};
    unsigned changed = 0;
    for (uint64_t p = 0; p < 100; p++) {
        assert_int_equal(pick(o, l, V, p), pick(o, l, V, p)); /* no stream to advance */
        changed += pick(o, l, V, p) != pick(o, l, V, p + 1);
    }
    assert_true(changed > 80);
    o.seed = 43;
    unsigned other = 0;
    for (uint64_t p = 0; p < 100; p++)
        other += pick(o, l, V, p) !=
                 pick((struct ps_sampler_options){.temp = 1, .top_k = 40, .seed = 42}, l, V, p);
    assert_true(other > 80);
}

static void test_top_k_equals_a_full_sort(void **state)
{
    (void)state;
    float l[V];
    for (int i = 0; i < V; i++)
        l[i] = (float)((i * 7919) % 501) / 50; /* many equal values */
    for (uint32_t k = 1; k < 60; k += 7) {
        struct ps_sampler_options o = {.temp = 1, .top_k = k, .seed = k};
        unsigned above = 0;
        for (uint64_t p = 0; p < 50; p++) {
            uint32_t id = pick(o, l, V, p);
            above = 0;
            for (uint32_t i = 0; i < V; i++)
                above += l[i] > l[id] || (l[i] == l[id] && i < id);
            assert_true(above < k);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_ties_go_to_the_lowest_id),
        cmocka_unit_test(test_repetition_penalty),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_random_numbers_are_keyed_by_position),
        cmocka_unit_test(test_top_k_equals_a_full_sort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
