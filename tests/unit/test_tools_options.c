/* The option table and what is made of it: parsing, environment, errors, distances, estimates.
 * The tool's sources are included, because a program has no library to link. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "tools/command_table.c"
#include "tools/option_table.c"
#include "tools/option_value.c"
#include "tools/word_distance.c"
#include "tools/options.c"

#define MAX_ARGS 32

static const char *env_names[4], *env_values[4];

static const char *fake_env(const char *name)
{
    for (size_t i = 0; i < 4 && env_names[i]; i++)
        if (strcmp(env_names[i], name) == 0)
            return env_values[i];
    return NULL;
}

static void set_env(const char *name, const char *value)
{
    memset(env_names, 0, sizeof env_names);
    env_names[0] = name;
    env_values[0] = value;
}

/* Words separated by '|', so that empty ones can be written. */
static int parse(struct ps_opts *o, const char *line, struct ps_err *err)
{
    static char storage[512];
    char *argv[MAX_ARGS + 1] = {storage};
    int argc = 1;

    snprintf(storage, sizeof storage, "penstock%s%s", *line ? "|" : "", line);
    for (char *p = storage; (p = strchr(p, '|')); argc++) {
        *p++ = '\0';
        argv[argc] = p;
    }
    memset(err, 0, sizeof *err);
    return ps_opts_parse(o, argc, argv, fake_env, err);
}

static void test_table_is_sound(void **state)
{
    const struct ps_opt_spec *s, *t;

    (void)state;
    for (size_t i = 0; (s = ps_option_at(i)); i++) {
        assert_true(s->field < sizeof(struct ps_opts));
        assert_true((s->kind == PS_OPT_CHOICE) == (s->choices != NULL));
        assert_true((s->kind == PS_OPT_FLAG) == (s->arg == NULL));
        assert_true(s->kind != PS_OPT_INT || s->lo < s->hi);
        assert_true(!s->help || (strlen(s->help) > 8 && s->help[strlen(s->help) - 1] != '.'));
        for (size_t k = 0; (t = ps_option_at(k)); k++) {
            if (k == i)
                continue;
            assert_string_not_equal(s->name, t->name);
            assert_true(s->field != t->field);
            assert_true(!s->letter || !t->letter || strcmp(s->letter, t->letter) != 0);
            assert_true(!s->alias || strcmp(s->alias, t->name) != 0);
        }
    }
    for (int c = 1; c < PS_CMD_COUNT; c++) {
        const struct ps_command_spec *spec = ps_command_get((enum ps_command)c);
        assert_non_null(spec);
        assert_ptr_equal(spec ? ps_command_find(spec->name) : NULL, spec);
    }
    assert_null(ps_command_get(PS_CMD_NONE));
}

static void test_defaults(void **state)
{
    struct ps_err err;
    struct ps_opts o;

    (void)state;
    set_env(NULL, NULL);
    assert_int_equal(parse(&o, "run|m", &err), 0);
    assert_int_equal(o.command, PS_CMD_RUN);
    assert_int_equal(o.n_args, 1);
    assert_string_equal(o.args[0], "m");
    assert_int_equal(o.n_predict, 256);
    assert_true(o.temp == 0.8 && o.top_p == 0.95 && o.min_p == 0.05 && o.repeat_penalty == 1);
    assert_int_equal(o.top_k, 40);
    assert_int_equal(o.seed, -1);
    assert_int_equal(o.layers.first, -1);
    assert_null(o.prompt);
    assert_null(o.disk);
    assert_int_equal(ps_opts_origin(&o, "temp"), PS_FROM_DEFAULT);
    ps_opts_deinit(&o);
}

static void test_spellings(void **state)
{
    static const char *const lines[] = {
        "run|m|-n|5|-p|x",        "-n|5|run|m|-p|x",
        "run|-n|5|m|-p|x",        "run|-p|x|--n-predict=5|m",
        "run|--predict|5|-p|x|m", "run|-p|x|-n|5|--|m",
        "run|-m|m|-p|x|-n|5",     "run|--model=m|-n|5|-p|x",
        "run|m|-n|9|-n|5|-p|x",   "run|m|--predict=5|--prompt=x",
    };
    struct ps_err err;
    struct ps_opts o;

    (void)state;
    set_env(NULL, NULL);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (parse(&o, lines[i], &err) < 0)
            fail_msg("%s: %s", lines[i], err.text);
        assert_int_equal(o.command, PS_CMD_RUN);
        assert_int_equal(o.n_args, 1);
        assert_string_equal(o.args[0], "m");
        assert_string_equal(o.prompt, "x");
        assert_int_equal(o.n_predict, 5);
        ps_opts_deinit(&o);
    }
}

static void test_values(void **state)
{
    struct ps_err err;
    struct ps_opts o;

    (void)state;
    set_env(NULL, NULL);
    assert_int_equal(
        parse(&o, "run|m|-p||--stop|a|--stop=--b|--json|--echo=off|-ctk|f32|-ub|7|--temp=1e-1|-s|0|--disk|25%",
              &err),
        0);
    assert_string_equal(o.prompt, "");
    assert_int_equal(ps_opts_origin(&o, "prompt"), PS_FROM_ARGV);
    assert_int_equal(o.stop.n, 2);
    assert_string_equal(o.stop.items[1], "--b");
    assert_true(o.json && !o.echo);
    assert_string_equal(o.cache_type_k, "f32");
    assert_int_equal(o.ubatch_size, 7);
    assert_true(o.temp == 0.1);
    assert_int_equal(o.seed, 0);
    assert_string_equal(o.disk, "25%");
    ps_opts_deinit(&o);
    assert_int_equal(parse(&o, "warm|m|--layers|3-10", &err), 0);
    assert_int_equal(o.layers.first, 3);
    assert_int_equal(o.layers.last, 10);
    ps_opts_deinit(&o);
    assert_int_equal(parse(&o, "warm|m|--layers|4", &err), 0);
    assert_true(o.layers.first == 4 && o.layers.last == 4);
    ps_opts_deinit(&o);
    assert_int_equal(parse(&o, "run|m|-p|-n", &err), 0); /* a value is taken whatever it begins with */
    assert_string_equal(o.prompt, "-n");
    ps_opts_deinit(&o);
}

static void test_mistakes(void **state)
{
    static const struct {
        const char *line, *says;
    } rows[] = {
        {"run|m|--tmp|0", "did you mean --temp?"},
        {"run|m|--n_predict|3", "did you mean --n-predict?"},
        {"run|m|-x", "-x: unknown option"},
        {"run|m|-n5", "-n5: unknown option"},
        {"rnu|m", "did you mean `run`?"},
        {"run", "MODEL is missing"},
        {"run|", "argument is empty"},
        {"split|a", "an argument is missing"},
        {"run|a|b", "one argument too many"},
        {"run|m|-n", "its value is missing"},
        {"run|m|-n|", "not a whole number"},
        {"run|m|-n|+5", "not a whole number"},
        {"run|m|-n|5 ", "not a whole number"},
        {"run|m|-n|16777217", "out of range"},
        {"run|m|-s|-2", "out of range"},
        {"run|m|-s|9223372036854775808", "out of range"},
        {"run|m|--temp|inf", "not a number"},
        {"run|m|--temp|0x1", "not a number"},
        {"run|m|--temp|1e999", "not a number"},
        {"run|m|--top-p|1.01", "out of range"},
        {"run|m|--http|h", "none of auto|h1|h2"},
        {"run|m|--disk|", "size is empty"},
        {"run|m|--stop|", "text is empty"},
        {"run|m|--json=2", "neither on nor off"},
        {"plan|m|--temp|0", "not an option of `plan`"},
        {"warm|m|--layers|-1-2", "no range of layers"},
        {"warm|m|--layers|3-2", "no range of layers"},
        {"warm|m|--layers|1-99999999999", "no range of layers"},
        {"cache|l", "none of ls|"},
    };
    struct ps_err err;
    struct ps_opts o;

    (void)state;
    set_env(NULL, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int rc = parse(&o, rows[i].line, &err);

        if (rc != PS_EUSAGE || !strstr(err.text, rows[i].says))
            fail_msg("%s: %d, %s", rows[i].line, rc, err.text);
        ps_opts_deinit(&o);
    }
}

static void test_environment(void **state)
{
    struct ps_err err;
    struct ps_opts o;

    (void)state;
    set_env("PENSTOCK_N_PREDICT", "7");
    assert_int_equal(parse(&o, "run|m", &err), 0);
    assert_int_equal(o.n_predict, 7);
    assert_int_equal(ps_opts_origin(&o, "n-predict"), PS_FROM_ENV);
    ps_opts_deinit(&o);
    assert_int_equal(parse(&o, "run|m|-n|3", &err), 0);
    assert_int_equal(o.n_predict, 3);
    ps_opts_deinit(&o);
    set_env("PENSTOCK_JSON", "yes");
    assert_int_equal(parse(&o, "run|m", &err), 0);
    assert_true(o.json);
    ps_opts_deinit(&o);
    assert_int_equal(parse(&o, "run|m|--json=0", &err), 0);
    assert_false(o.json);
    ps_opts_deinit(&o);
    set_env("PENSTOCK_CACHE_TYPE_K", "f64");
    assert_int_equal(parse(&o, "run|m", &err), PS_EUSAGE);
    assert_non_null(strstr(err.text, "PENSTOCK_CACHE_TYPE_K"));
    ps_opts_deinit(&o);
    assert_int_equal(parse(&o, "share|m", &err), 0); /* not an option of share: not read */
    ps_opts_deinit(&o);
    set_env("PENSTOCK_MODEL", "e");
    assert_int_equal(parse(&o, "run", &err), 0);
    assert_string_equal(o.args[0], "e");
    ps_opts_deinit(&o);
    assert_int_equal(parse(&o, "run|m", &err), 0);
    assert_string_equal(o.args[0], "m");
    assert_int_equal(o.n_args, 1);
    ps_opts_deinit(&o);
    set_env("PENSTOCK_HELP", "1");
    assert_int_equal(parse(&o, "run|m", &err), 0);
    assert_false(o.help);
    ps_opts_deinit(&o);
}

static void test_help_ends_the_checks(void **state)
{
    static const char *const lines[] = {"run|--help", "--help", "-h|run|a|b|c",
                                        "run|a|b|c|--temp|0|-h", "plan|--temp|0|-h"};
    struct ps_err err;
    struct ps_opts o;

    (void)state;
    set_env(NULL, NULL);
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_int_equal(parse(&o, lines[i], &err), 0);
        assert_true(o.help);
        ps_opts_deinit(&o);
    }
    assert_int_equal(parse(&o, "", &err), 0);
    assert_int_equal(o.command, PS_CMD_NONE);
    ps_opts_deinit(&o);
}

/* Whatever allocation fails, the parser says so and leaks nothing. */
static void test_out_of_memory(void **state)
{
    struct ps_err err;
    struct ps_opts o;
    uint64_t live = ps_alloc_live_count();

    (void)state;
    set_env(NULL, NULL);
    for (int n = 1; n <= 3; n++) {
        ps_alloc_fail_at(n);
        assert_int_equal(parse(&o, "run|m|--stop|a|--stop|b", &err), PS_ENOMEM);
        ps_opts_deinit(&o);
        assert_int_equal(ps_alloc_live_count(), live);
    }
    ps_alloc_fail_at(0);
    assert_int_equal(parse(&o, "run|m|--stop|a|--stop|b", &err), 0);
    ps_opts_deinit(&o);
    assert_int_equal(ps_alloc_live_count(), live);
}

static void test_word_distance(void **state)
{
    static const struct {
        const char *a, *b;
        unsigned d;
    } rows[] = {{"", "", 0},           {"abc", "abc", 0}, {"abc", "", 3},    {"tmp", "temp", 1},
                {"tpo-k", "top-k", 1}, {"ca", "abc", 3},  {"run", "rum", 1}, {"seed", "speed", 1}};

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(ps_word_distance(rows[i].a, rows[i].b), rows[i].d);
        assert_int_equal(ps_word_distance(rows[i].b, rows[i].a), rows[i].d);
    }
    assert_true(ps_word_distance("a word that is a good deal longer than thirty-two bytes", "x") <=
                32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_sound),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_help_ends_the_checks),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_word_distance),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
