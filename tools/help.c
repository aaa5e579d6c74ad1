/* --help and usage, made of the tables. Pure: text into a buffer. See options.h. */
#include "tools/options.h"

#include <stdio.h>
#include <string.h>

#define WIDTH       80
#define HELP_COLUMN 30

/* Words of `text` from `column` on, broken at WIDTH, further lines indented. */
static void wrap(struct ps_strbuf *b, const char *text, size_t column, size_t indent)
{
    while (*text) {
        size_t n = strcspn(text, " ");

        if (column + n > WIDTH && column > indent) {
            ps_strbuf_printf(b, "\n%*s", (int)indent, "");
            column = indent;
        }
        ps_strbuf_append(b, text, n);
        column += n;
        text += n;
        if (*text == ' ') {
            text++;
            if (column + 1 + strcspn(text, " ") <= WIDTH) {
                ps_strbuf_puts(b, " ");
                column++;
            } else {
                ps_strbuf_printf(b, "\n%*s", (int)indent, "");
                column = indent;
            }
        }
    }
    ps_strbuf_puts(b, "\n");
}

static void write_option(struct ps_strbuf *b, const struct ps_opt_spec *s)
{
    char left[96], help[512];
    int n = snprintf(left, sizeof left, "  %s%s%s--%s%s%s", s->letter ? "-" : "    ",
                     s->letter ? s->letter : "", s->letter ? ", " : "", s->name, s->arg ? " " : "",
                     s->arg ? s->arg : "");

    snprintf(help, sizeof help, "%s%s%s%s%s%s%s", s->help, s->choices ? ": " : "",
             s->choices ? s->choices : "", s->dflt ? " (default " : "", s->dflt ? s->dflt : "",
             s->dflt ? ")" : "",
             s->kind == PS_OPT_LIST && !strstr(s->help, "several") ? " (may be given several times)"
                                                                   : "");
    ps_strbuf_puts(b, left);
    if (n >= HELP_COLUMN) {
        ps_strbuf_printf(b, "\n%*s", HELP_COLUMN, "");
        n = HELP_COLUMN;
    } else {
        ps_strbuf_printf(b, "%*s", HELP_COLUMN - n, "");
    }
    wrap(b, help, HELP_COLUMN, HELP_COLUMN);
}

static void write_group(struct ps_strbuf *b, enum ps_command command, enum ps_opt_group g)
{
    const struct ps_opt_spec *s;
    bool titled = false;

    for (size_t i = 0; (s = ps_option_at(i)); i++) {
        if (s->group != g || !s->help || !(s->commands & PS_ON(command)))
            continue;
        if (!titled)
            ps_strbuf_printf(b, "\n%s:\n", ps_option_group_title(g));
        titled = true;
        write_option(b, s);
    }
}

static void write_examples(struct ps_strbuf *b, const char *examples)
{
    ps_strbuf_puts(b, strchr(examples, '\n') == examples + strlen(examples) - 1 ? "\nExample:\n"
                                                                                : "\nExamples:\n");
    while (*examples) {
        size_t n = strcspn(examples, "\n");

        ps_strbuf_printf(b, "  %.*s\n", (int)n, examples);
        examples += n + (examples[n] == '\n');
    }
}

static void write_exit_statuses(struct ps_strbuf *b)
{
    ps_strbuf_puts(b,
                   "\nExit status:\n"
                   "  0 success   1 failure, or something that Penstock can't do   2 usage\n"
                   "  3 source unreachable, missing or refused   4 damaged data   5 out of budget\n"
                   "  130 interrupted\n");
}

static void write_command(struct ps_strbuf *b, const struct ps_command_spec *c)
{
    ps_strbuf_printf(b, "penstock %s: %s\n\nUsage: penstock %s %s%s\n\n", c->name, c->summary,
                     c->name, c->args, *c->args ? " [OPTION...]" : "");
    wrap(b, c->about, 0, 0);
    write_examples(b, c->examples);
    for (int g = 0; g < PS_GROUP_COUNT; g++)
        write_group(b, c->id, (enum ps_opt_group)g);
    if (c->takes_model || c->id == PS_CMD_SPLIT) {
        ps_strbuf_puts(b, "\n");
        wrap(
            b,
            "MODEL is a folder, the http, https or s3 address of one (s3://bucket/prefix; keys, "
            "region "
            "and endpoint as for the AWS command line), or hf://org/name[@revision] on the Hugging "
            "Face "
            "Hub (HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_OFFLINE as its own tools read them). "
            "Sizes are bytes, or take K, M, G, T (powers of 1024) or a percentage of the model. "
            "Every "
            "option can be set by PENSTOCK_<OPTION> too (PENSTOCK_CTX_SIZE); the option wins.",
            0, 0);
    }
    write_exit_statuses(b);
}

static void write_overview(struct ps_strbuf *b)
{
    const struct ps_command_spec *c;

    ps_strbuf_puts(
        b, "Penstock runs language models larger than disk, RAM and VRAM: their weights stay on a\n"
           "server and stream through a bounded cache.\n\n"
           "Usage: penstock COMMAND [ARGUMENT...] [OPTION...]\n\nCommands:\n");
    for (int i = 1; i < PS_CMD_COUNT; i++)
        if ((c = ps_command_get((enum ps_command)i)))
            ps_strbuf_printf(b, "  %-12s %s\n", c->name, c->summary);
    write_examples(
        b, "penstock run https://models.example/llama-3.1-8b -p \"Once upon a time\" -n 64\n"
           "penstock plan https://models.example/llama-3.1-70b --disk 40G --ram 8G\n");
    ps_strbuf_puts(b, "\n`penstock help COMMAND` explains a command and its options.\n");
    write_exit_statuses(b);
}

void ps_help_write(struct ps_strbuf *b, const struct ps_command_spec *command)
{
    if (command)
        write_command(b, command);
    else
        write_overview(b);
}

void ps_usage_write(struct ps_strbuf *b)
{
    const struct ps_command_spec *c;
    const char *comma = "";

    ps_strbuf_puts(b, "usage: penstock COMMAND [ARGUMENT...] [OPTION...]\ncommands: ");
    for (int i = 1; i < PS_CMD_COUNT; i++)
        if ((c = ps_command_get((enum ps_command)i))) {
            ps_strbuf_printf(b, "%s%s", comma, c->name);
            comma = " ";
        }
    ps_strbuf_puts(b, "\n`penstock --help` says more.\n");
}
