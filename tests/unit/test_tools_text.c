/* Texts for people: values with their units, tables, progress lines, the report of a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "tools/pretty.c"
#include "tools/progress.c"
#define put     report_put
#define members report_members
#include "tools/run_report.c"
#undef put
#undef members

static struct ps_json *read_json(const char *text)
{
    struct ps_json *root = NULL;

    assert_int_equal(ps_json_parse(&root, text, strlen(text), NULL, NULL), 0);
    return root;
}

static void test_values(void **state)
{
    static const struct {
        const char *key, *json, *text;
    } rows[] = {
        {"ram_bytes", "1536", "1.5 KiB"},
        {"bytes_net", "0", "0 B"},
        {"bytes_net_per_sweep", "1024", "1.0 KiB"},
        {"link_bytes_s", "1048576.5", "1.0 MiB/s"},
        {"link_busy_pct", "12.345", "12.3 %"},
        {"ttft_s", "0.25", "250 ms"},
        {"predicted_s_per_token", "61", "61.00 s"},
        {"seconds", "7260", "2.0 h"},
        {"seconds", "130", "2 min 10 s"},
        {"ttft_s", "0", "0 ms"},
        {"gb_s", "28.123", "28.12"},
        {"decode_tok_s", "2.5", "2.5/s"},
        {"layers", "32", "32"},
        {"ratio", "1.23456", "1.235"},
        {"shape", "[32000,4096]", "32000x4096"},
        {"shape", "[]", ""},
        {"layers", "[0,1,2]", "0 1 2"},
        {"pinned", "true", "yes"},
        {"x", "null", "-"},
        {"same", "null", "can't be told"},
        {"link_bytes_s", "null", "not measured"},
        {"name", "\"a\\u0007b\\u001b[31m\"", "a?b?[31m"},
    };
    char out[64];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ps_json *v = read_json(rows[i].json);

        ps_pretty_value(out, sizeof out, rows[i].key, v);
        if (strcmp(out, rows[i].text) != 0)
            fail_msg("%s %s: '%s', not '%s'", rows[i].key, rows[i].json, out, rows[i].text);
        ps_json_free(v);
    }
}

static void test_object(void **state)
{
    struct ps_json *o = read_json(
        "{\"model_id\":\"x\",\"probe_age_s\":2,\"rows\":[{\"name\":\"long name\",\"gb_s\":1.5},"
        "{\"name\":\"b\",\"gb_s\":22,\"more\":[{\"k\":1}]}],\"in\":{\"a\":1},\"none\":[]}");
    struct ps_strbuf b;

    (void)state;
    ps_strbuf_init(&b, 1 << 16);
    ps_pretty_write(&b, o);
    assert_string_equal(b.data,
                        "model id   x\nprobe age  2.00 s\nnone       \nrows:\n  name        GB/s\n"
                        "  long name   1.50\n  b          22.00\n      k\n      1\nin:\n  a  1\n");
    ps_strbuf_deinit(&b);
    ps_json_free(o);
}

static void test_progress_line(void **state)
{
    char line[256];

    (void)state;
    for (unsigned width = 0; width < 200; width++) {
        size_t n =
            ps_progress_format(line, sizeof line, width, "prefill", 3u << 20, 12u << 20, 1 << 20);

        assert_int_equal(n, strlen(line));
        assert_true(width < 10 || n < width);
    }
    ps_progress_format(line, sizeof line, 80, "fetch", 3u << 20, 12u << 20, 1 << 20);
    assert_non_null(strstr(line, " 25 %"));
    assert_non_null(strstr(line, "0:09 left"));
    ps_progress_format(line, sizeof line, 0, "warm", 3u << 20, 12u << 20, 1 << 20);
    assert_string_equal(line, "warm  25 %  3.0 MiB of 12.0 MiB  1.0 MiB/s  0:09 left");
    ps_progress_format(line, sizeof line, 80, "fetch", 5, 0, 0);
    assert_string_equal(line, "fetch  5 B  0 B/s");
    ps_progress_format(line, sizeof line, 80, "fetch", 20, 10, 0);
    assert_non_null(strstr(line, "100 %"));
    ps_progress_format(line, 16, 80, "fetch", 1, 10, 0); /* no room: cut, not overrun */
    assert_int_equal(strlen(line), 15);
}

static void test_progress_rate(void **state)
{
    (void)state;
    shown.off = false;
    start_locked("warm", 0, PS_NS_PER_S);
    rate_locked(0, PS_NS_PER_S);
    assert_true(shown.bytes_s == 0);
    rate_locked(3u << 20, PS_NS_PER_S + PS_NS_PER_S / 2); /* a burst of what was asked for at once */
    assert_true(shown.bytes_s == 6u << 20);
    rate_locked(8u << 20, 3 * PS_NS_PER_S);
    assert_true(shown.bytes_s == 4u << 20);
    start_locked("split", 100u << 20, 5 * PS_NS_PER_S); /* an earlier run has done so much */
    rate_locked(102u << 20, 6 * PS_NS_PER_S);
    assert_true(shown.bytes_s == 2u << 20);
    shown.off = true;
}

static void check_report(const struct ps_run_report *r, const char *want)
{
    struct ps_strbuf b;
    struct ps_json *o;

    ps_strbuf_init(&b, 1 << 16);
    ps_run_report_json(&b, r);
    assert_string_equal(b.data, want);
    o = read_json(b.data);
    ps_json_free(o);
    ps_strbuf_deinit(&b);
}

static void test_report_json(void **state)
{
    uint64_t seed = 7;

    (void)state;
    check_report(&(struct ps_run_report){.rc = 0}, "{}");
    check_report(&(struct ps_run_report){.rc = PS_EBUDGET, .error = "too \"small\""},
                 "{\"error\":\"too \\\"small\\\"\",\"exit\":5}");
    check_report(
        &(struct ps_run_report){.stats = "{\"a\":{}}", .text = "x\ny", .text_len = 3, .seed = &seed},
        "{\"text\":\"x\\ny\",\"seed\":7,\"a\":{}}");
    check_report(&(struct ps_run_report){.stats = "{\"a\":1}",
                                         .rc = PS_EINTERRUPTED,
                                         .error = "interrupted"},
                 "{\"error\":\"interrupted\",\"exit\":130,\"a\":1}");
    /* what the engine has said is not said twice: duplicate keys would be refused */
    check_report(&(struct ps_run_report){.stats = "{\"error\":\"e\",\"exit\":3}",
                                         .rc = PS_ENET,
                                         .error = "f"},
                 "{\"error\":\"e\",\"exit\":3}");
    check_report(&(struct ps_run_report){.stats = "{}"}, "{}");
}

static void test_report_summary(void **state)
{
    struct ps_run_report r = {
        .stats = "{\"tokens_generated\":3,\"tokens_prompt\":5,\"ttft_s\":1.5,\"decode_tok_s\":2,"
                 "\"plan_predicted_s_per_token\":0.25,\"bytes_net\":2048,\"hit_ratio\":0.5}"};
    struct ps_strbuf b;

    (void)state;
    ps_strbuf_init(&b, 1 << 16);
    ps_run_report_summary(&b, &r);
    assert_string_equal(
        b.data,
        "3 tokens after a prompt of 5; the first after 1.50 s, then 2 tok/s (500 ms per token, "
        "planned 250 ms)\nweights: 2.0 KiB from the network; 50.0 % hits\n");
    ps_strbuf_reset(&b);
    r.stats = "{}";
    ps_run_report_summary(&b, &r);
    r.stats = "nonsense";
    ps_run_report_summary(&b, &r);
    r.stats = NULL;
    ps_run_report_summary(&b, &r);
    assert_true(ps_strbuf_ok(&b));
    ps_strbuf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),        cmocka_unit_test(test_object),
        cmocka_unit_test(test_progress_line), cmocka_unit_test(test_progress_rate),
        cmocka_unit_test(test_report_json),   cmocka_unit_test(test_report_summary),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
