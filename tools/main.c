/* The penstock program: options in, one command run, one line of error and an exit status out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/log.h"
#include "base/strbuf.h"
#include "penstock/penstock.h"
#include "tools/cli.h"
#include "tools/interrupt.h"
#include "tools/options.h"
#include "tools/progress.h"
#include "tools/textio.h"

#define HELP_MAX (1u << 20)

typedef int (*command_fn)(const struct ps_opts *o, struct ps_err *err);

static int cmd_later(const struct ps_opts *o, struct ps_err *err)
{
    return ps_err_set(err, PS_EUNSUPPORTED, "main",
                      "%s: not yet: it comes in a later release: `penstock run` is here",
                      ps_command_get(o->command)->name);
}

static int cmd_version(const struct ps_opts *o, struct ps_err *err)
{
    if (o->json)
        return ps_out_line("{\"version\":\"" PENSTOCK_VERSION "\"}", err);
    return ps_out_line("penstock " PENSTOCK_VERSION, err);
}

static int print_help(const struct ps_command_spec *c, struct ps_err *err)
{
    struct ps_strbuf b;
    int rc;

    ps_strbuf_init(&b, HELP_MAX);
    ps_help_write(&b, c);
    rc = ps_out_strbuf(&b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static int cmd_help(const struct ps_opts *o, struct ps_err *err)
{
    const struct ps_command_spec *c = o->n_args ? ps_command_find(o->args[0]) : NULL;

    if (o->n_args && !c)
        return ps_err_set(err, PS_EUSAGE, "main", "%s: unknown command: see penstock --help",
                          o->args[0]);
    return print_help(c, err);
}

static int cmd_completion(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_strbuf b;
    int rc;

    ps_strbuf_init(&b, HELP_MAX);
    rc = ps_completion_write(&b, o->args[0], err);
    if (rc == 0)
        rc = ps_out_strbuf(&b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static int print_man(struct ps_err *err)
{
    struct ps_strbuf b;
    int rc;

    ps_strbuf_init(&b, HELP_MAX);
    ps_man_write(&b);
    rc = ps_out_strbuf(&b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static const command_fn commands[PS_CMD_COUNT] = {
    [PS_CMD_RUN] = ps_cmd_run,       [PS_CMD_CHAT] = cmd_later,
    [PS_CMD_SERVE] = cmd_later,      [PS_CMD_PLAN] = ps_cmd_plan,
    [PS_CMD_DOCTOR] = ps_cmd_doctor, [PS_CMD_SPLIT] = ps_cmd_split,
    [PS_CMD_WARM] = ps_cmd_warm,     [PS_CMD_SHARE] = ps_cmd_share,
    [PS_CMD_CACHE] = ps_cmd_cache,   [PS_CMD_INSPECT] = ps_cmd_inspect,
    [PS_CMD_LOGITS] = ps_cmd_logits, [PS_CMD_TOKENIZE] = ps_cmd_tokenize,
    [PS_CMD_BENCH] = ps_cmd_bench,   [PS_CMD_COMPLETION] = cmd_completion,
    [PS_CMD_KEYGEN] = ps_cmd_keygen, [PS_CMD_VERSION] = cmd_version,
    [PS_CMD_HELP] = cmd_help,
};

static void set_log_level(const char *word)
{
    static const char *const words[] = {"error", "warn", "info", "debug", "trace"};

    for (int i = 0; i <= PS_LOG_TRACE; i++)
        if (strcmp(word, words[i]) == 0)
            ps_log_set_level((enum ps_log_level)i);
}

/* `penstock` alone. */
static int print_usage(struct ps_err *err)
{
    struct ps_strbuf b;

    ps_strbuf_init(&b, HELP_MAX);
    ps_usage_write(&b);
    fputs(b.data, stderr);
    ps_strbuf_deinit(&b);
    return ps_err_set(err, PS_EUSAGE, "main", "%s", "");
}

static int run_command(const struct ps_opts *o, struct ps_err *err)
{
    int rc = ps_interrupt_start(err);

    if (rc < 0)
        return rc;
    set_log_level(o->log);
    ps_progress_init(o->quiet);
    return commands[o->command](o, err);
}

static const char *get_env(const char *name)
{
    return getenv(name);
}

static int dispatch(struct ps_opts *o, int argc, char **argv, struct ps_err *err)
{
    int rc = ps_opts_parse(o, argc, argv, get_env, err);

    if (rc < 0 && o->command == PS_CMD_RUN)
        ps_cmd_run_refused(o, rc, err->text);
    if (rc < 0)
        return rc;
    if (o->man)
        return print_man(err);
    if (o->help)
        return print_help(ps_command_get(o->command), err);
    if (o->version)
        return cmd_version(o, err);
    if (o->command == PS_CMD_NONE)
        return print_usage(err);
    return run_command(o, err);
}

int main(int argc, char **argv)
{
    struct ps_err err = {0};
    struct ps_opts o;
    int rc = dispatch(&o, argc, argv, &err);

    ps_progress_end();
    if (rc >= 0) {
        ps_opts_deinit(&o);
        return 0;
    }
    /* A function that failed without saying why is a fault of ours: say at least what kind. */
    if (err.code == 0)
        ps_err_set(&err, rc, "main", "failed (%s)", ps_err_name(rc));
    ps_opts_deinit(&o);
    if (err.text[0] && strcmp(err.text, PS_OUT_NOBODY_READS) != 0) /* `| head` is no fault to speak of */
        fprintf(stderr, "penstock: %s\n", err.text);
    return ps_err_exit_status(rc);
}
