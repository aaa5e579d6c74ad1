/* Reading argv and the environment by the tables. See options.h.
 *
 * Options may stand anywhere, before or after the command and its arguments; "--" ends them. A
 * value is the next argument whatever it begins with (`-p -hello`), as getopt does it. Flags
 * take a value only as --flag=off, which lets an option overrule a variable. */
#include "tools/options.h"

#include <stdio.h>
#include <string.h>
#include "base/alloc.h"

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

struct reader {
    struct ps_opts *o;
    char **argv;
    int argc, at; /* at: the argument being read */
    struct ps_err *err;
};

/* The table's names nearest to an unknown one, or NULL where none is near: a third of the
 * letters may be wrong. */
static const char *nearest_option(const char *word)
{
    const struct ps_opt_spec *s;
    const char *best = NULL;
    unsigned bound = 1 + (unsigned)strlen(word) / 3, d;

    for (size_t i = 0; (s = ps_option_at(i)); i++) {
        const char *names[] = {s->help ? s->name : NULL, s->alias};

        for (size_t k = 0; k < 2; k++)
            if (names[k] && (d = ps_word_distance(word, names[k])) < bound) {
                bound = d;
                best = names[k];
            }
    }
    return best;
}

static const char *nearest_command(const char *word)
{
    const struct ps_command_spec *c;
    const char *best = NULL;
    unsigned bound = 1 + (unsigned)strlen(word) / 3, d;

    for (int i = 1; i < PS_CMD_COUNT; i++)
        if ((c = ps_command_get((enum ps_command)i)) &&
            (d = ps_word_distance(word, c->name)) < bound) {
            bound = d;
            best = c->name;
        }
    return best;
}

/* `spelled` is an option of the table to which something hangs that is not the way to give it a value; what it is isn't
 * told: of -H it is a secret. */
static int wrong_value(const char *spelled, const struct ps_opt_spec *s, struct ps_err *err)
{
    if (s->kind == PS_OPT_FLAG)
        return ps_err_set(err, PS_EUSAGE, "options",
                          "%s: it takes no value: write %s, or --%s=off to turn it off", spelled,
                          spelled, s->name);
    return ps_err_set(err, PS_EUSAGE, "options", "%s: its value is the next word: write %s %s",
                      spelled, spelled, s->arg);
}

static int unknown_option(const char *arg, struct ps_err *err)
{
    char word[64];
    const char *near;
    /* no more than a name can be: what hangs on may be a secret */
    size_t dashes = strspn(arg, "-"), n = strspn(arg + dashes, NAME_CHARS);

    snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : sizeof word - 1), arg + dashes);
    for (char *p = word; *p; p++)
        *p = *p == '_' ? '-' : *p; /* --n_predict */
    near = nearest_option(word);
    if (near && strlen(near) == n && memcmp(near, arg + dashes, n) == 0) {
        char spelled[72];

        snprintf(spelled, sizeof spelled, "--%s", near);
        return wrong_value(spelled, ps_option_at((size_t)ps_option_find_long(near, n)), err);
    }
    if (near)
        return ps_err_set(err, PS_EUSAGE, "options", "%.*s: unknown option: did you mean --%s?",
                          (int)(dashes + n), arg, near);
    return ps_err_set(err, PS_EUSAGE, "options", "%.*s: unknown option: see penstock --help",
                      (int)(dashes + n), arg);
}

/* "-n=1" is how long options take their values. */
static int unknown_letter(const char *arg, struct ps_err *err)
{
    const char *equals = strchr(arg, '=');
    char letter[16];

    if (equals && (size_t)(equals - arg) < sizeof letter) {
        snprintf(letter, sizeof letter, "%.*s", (int)(equals - arg), arg);
        const int row = ps_option_find_letter(letter + 1);
        if (row >= 0)
            return wrong_value(letter, ps_option_at((size_t)row), err);
    }
    return unknown_option(arg, err);
}

static int take_value(struct reader *r, int row, const char *spelled, const char *attached)
{
    const struct ps_opt_spec *s = ps_option_at((size_t)row);
    const char *text = attached;

    if (!text && s->kind == PS_OPT_FLAG)
        text = "1";
    else if (!text && r->at + 1 < r->argc)
        text = r->argv[++r->at];
    if (!text)
        return ps_err_set(r->err, PS_EUSAGE, "options", "%s: its value is missing: give %s %s",
                          spelled, spelled, s->arg);
    r->o->origin[row] = PS_FROM_ARGV;
    return ps_option_set(r->o, s, text, spelled, r->err);
}

/* `arg` begins with a dash and is more than one dash. */
static int take_option(struct reader *r, char *arg)
{
    char spelled[80];
    size_t n = strcspn(arg, "=");
    int row;

    if (arg[1] != '-') {
        row = ps_option_find_letter(arg + 1);
        return row < 0 ? unknown_letter(arg, r->err) : take_value(r, row, arg, NULL);
    }
    row = ps_option_find_long(arg + 2, n - 2);
    if (row < 0)
        return unknown_option(arg, r->err);
    if (!arg[n])
        return take_value(r, row, arg, NULL);
    snprintf(spelled, sizeof spelled, "%.*s", (int)n, arg);
    return take_value(r, row, spelled, arg + n + 1);
}

static int find_command(struct reader *r)
{
    const char *word = r->o->args[0], *near;
    const struct ps_command_spec *c = ps_command_find(word);

    if (!c) {
        near = nearest_command(word);
        if (near)
            return ps_err_set(r->err, PS_EUSAGE, "options",
                              "%s: unknown command: did you mean `%s`?", word, near);
        return ps_err_set(r->err, PS_EUSAGE, "options", "%s: unknown command: see penstock --help",
                          word);
    }
    r->o->command = c->id;
    r->o->n_args--;
    memmove(r->o->args, r->o->args + 1, r->o->n_args * sizeof *r->o->args);
    return 0;
}

/* The first pass: options take their values, everything else is put by in order. The first mistake is the one that is
 * told; the rest is read all the same, because a --stats behind it names the file that is to tell of the failure. */
static int read_arguments(struct reader *r)
{
    struct ps_err *const told = r->err;
    bool ended = false;
    int first = 0;

    for (r->at = 1; r->at < r->argc; r->at++) {
        char *arg = r->argv[r->at];
        int rc = 0;

        if (!ended && strcmp(arg, "--") == 0)
            ended = true;
        else if (!ended && arg[0] == '-' && arg[1])
            rc = take_option(r, arg);
        else
            r->o->args[r->o->n_args++] = arg;
        if (rc < 0 && first == 0) {
            first = rc;
            r->err = NULL;
        }
    }
    r->err = told;
    return first;
}

/* An option that this command does not have is a mistake: it would be ignored silently. */
static int check_applicable(const struct reader *r)
{
    const struct ps_command_spec *c = ps_command_get(r->o->command);
    const struct ps_opt_spec *s;

    for (size_t i = 0; (s = ps_option_at(i)); i++)
        if (r->o->origin[i] == PS_FROM_ARGV && !(s->commands & PS_ON(c->id)))
            return ps_err_set(r->err, PS_EUSAGE, "options",
                              "--%s: not an option of `%s`: see penstock %s --help", s->name,
                              c->name, c->name);
    return 0;
}

/* An empty variable counts as unset, but for the key: an empty one must not pass for a check that was made. Only
 * the options of the command that runs are read. */
static int read_environment(struct ps_opts *o, const char *(*get_env)(const char *),
                            struct ps_err *err)
{
    const struct ps_opt_spec *s;
    const char *text;
    char name[64];
    int rc;

    for (size_t i = 0; (s = ps_option_at(i)); i++) {
        if (o->origin[i] != PS_FROM_DEFAULT || !(s->commands & PS_ON(o->command)) || !s->help ||
            strcmp(s->name, "help") == 0)
            continue;
        text = get_env(ps_option_env_name(name, sizeof name, s));
        if (!text || (!*text && strcmp(s->name, "verify-key") != 0))
            continue;
        rc = ps_option_set(o, s, text, name, err);
        if (rc < 0)
            return rc;
        o->origin[i] = PS_FROM_ENV;
    }
    return 0;
}

static int set_defaults(struct ps_opts *o, struct ps_err *err)
{
    const struct ps_opt_spec *s;
    int rc = 0;

    memset(o, 0, sizeof *o);
    o->layers.first = o->layers.last = -1;
    for (size_t i = 0; rc == 0 && (s = ps_option_at(i)); i++)
        if (s->dflt)
            rc = ps_option_set(o, s, s->dflt, s->name, err);
    return rc;
}

/* --model stands for the first argument; from the environment only where that argument is
 * missing. */
static void place_model(struct ps_opts *o, const struct ps_command_spec *c)
{
    enum ps_opt_origin from = ps_opts_origin(o, "model");

    if (!c->takes_model || from == PS_FROM_DEFAULT ||
        (from == PS_FROM_ENV && o->n_args >= c->min_args))
        return;
    memmove(o->args + 1, o->args, o->n_args * sizeof *o->args);
    o->args[0] = o->model;
    o->n_args++;
}

static int check_arguments(const struct ps_opts *o, const struct ps_command_spec *c,
                           struct ps_err *err)
{
    if (o->n_args < c->min_args)
        return ps_err_set(err, PS_EUSAGE, "options", "%s: %s is missing: usage: penstock %s %s",
                          c->name, c->takes_model ? "MODEL" : "an argument", c->name, c->args);
    if (o->n_args > c->max_args)
        return ps_err_set(err, PS_EUSAGE, "options",
                          "%s: '%s' is one argument too many: usage: penstock %s %s", c->name,
                          o->args[c->max_args], c->name, c->args);
    for (size_t i = 0; i < o->n_args && i < c->min_args; i++)
        if (!*o->args[i])
            return ps_err_set(err, PS_EUSAGE, "options",
                              "%s: an argument is empty: usage: penstock %s %s", c->name, c->name,
                              c->args);
    if (c->words && !ps_choice_has(c->words, o->args[0]))
        return ps_err_set(err, PS_EUSAGE, "options", "%s: '%s' is none of %s", c->name, o->args[0],
                          c->words);
    return 0;
}

/* After a mistake: the command, and where its failure is to be written. */
static void find_stats(struct ps_opts *o, const char *(*get_env)(const char *))
{
    const struct ps_command_spec *c = o->n_args > 0 ? ps_command_find(o->args[0]) : NULL;
    const char *text = get_env("PENSTOCK_STATS");

    if (c && o->command == PS_CMD_NONE)
        o->command = c->id;
    if (!o->stats && text && *text)
        o->stats = text;
}

static int read_all(struct reader *r, const char *(*get_env)(const char *name))
{
    struct ps_opts *o = r->o;
    const struct ps_command_spec *c;
    int rc = read_arguments(r);

    if (rc == 0 && o->n_args > 0)
        rc = find_command(r);
    if (rc < 0 || o->help || o->version || o->man)
        return rc;
    c = ps_command_get(o->command);
    if (!c)
        return 0; /* the caller prints the short usage */
    rc = check_applicable(r);
    if (rc == 0)
        rc = read_environment(o, get_env, r->err);
    if (rc < 0)
        return rc;
    place_model(o, c);
    return check_arguments(o, c, r->err);
}

int ps_opts_parse(struct ps_opts *o, int argc, char **argv,
                  const char *(*get_env)(const char *name), struct ps_err *err)
{
    struct reader r = {.o = o, .argv = argv, .argc = argc, .err = err};
    int rc = set_defaults(o, err);

    if (rc < 0)
        return rc;
    o->args = ps_calloc((size_t)argc + 2, sizeof *o->args); /* + --model */
    if (!o->args)
        return ps_err_set(err, PS_ENOMEM, "options", "out of memory");
    rc = read_all(&r, get_env);
    if (rc < 0)
        find_stats(o, get_env);
    return rc;
}

void ps_opts_deinit(struct ps_opts *o)
{
    ps_free(o->args);
    ps_free(o->stop.items);
    ps_free(o->header.items);
    ps_free(o->mirror.items);
    ps_free(o->verify_keys.items);
    o->verify_keys.items = NULL;
    o->args = NULL;
    o->stop.items = o->header.items = o->mirror.items = NULL;
}

enum ps_opt_origin ps_opts_origin(const struct ps_opts *o, const char *name)
{
    int row = ps_option_find_long(name, strlen(name));

    return row < 0 ? PS_FROM_DEFAULT : (enum ps_opt_origin)o->origin[row];
}
