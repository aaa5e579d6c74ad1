/* penstock(1), made of the tables: `penstock --man` prints it, deploy/man/penstock.1 is its copy.
 * Pure. See options.h.
 *
 * Plain man(7) macros, which groff and mandoc both read. No date: the same source gives the same
 * page. */
#include "tools/options.h"

#include <stdio.h>
#include <string.h>
#include "penstock/penstock.h"

/* Text as troff data: a dash is a minus (to be copied), a leading dot or quote is no request. */
static void escape(struct ps_strbuf *b, const char *text)
{
    for (size_t i = 0; text[i]; i++) {
        if ((text[i] == '.' || text[i] == '\'') && (i == 0 || text[i - 1] == '\n'))
            ps_strbuf_puts(b, "\\&");
        if (text[i] == '-')
            ps_strbuf_puts(b, "\\-");
        else if (text[i] == '\\')
            ps_strbuf_puts(b, "\\e");
        else
            ps_strbuf_append(b, text + i, 1);
    }
}

static void paragraph(struct ps_strbuf *b, const char *text)
{
    ps_strbuf_puts(b, ".PP\n");
    escape(b, text);
    ps_strbuf_puts(b, "\n");
}

static void write_names(struct ps_strbuf *b, const struct ps_opt_spec *s)
{
    char name[64];

    ps_strbuf_puts(b, ".TP\n");
    if (s->letter) {
        ps_strbuf_puts(b, "\\fB\\-");
        escape(b, s->letter);
        ps_strbuf_puts(b, "\\fR, ");
    }
    ps_strbuf_puts(b, "\\fB\\-\\-");
    escape(b, s->name);
    ps_strbuf_puts(b, "\\fR");
    if (s->alias) {
        ps_strbuf_puts(b, ", \\fB\\-\\-");
        escape(b, s->alias);
        ps_strbuf_puts(b, "\\fR");
    }
    if (s->arg)
        ps_strbuf_printf(b, " \\fI%s\\fR", s->arg);
    if (s->commands != 0xffffffffu && s->commands)
        ps_strbuf_printf(b, " (%s)", ps_option_env_name(name, sizeof name, s));
    ps_strbuf_puts(b, "\n");
}

static void write_applies(struct ps_strbuf *b, const struct ps_opt_spec *s)
{
    const struct ps_command_spec *c;
    const char *comma = " Of: ";

    if (s->commands == 0xffffffffu || !s->commands)
        return;
    for (int i = 1; i < PS_CMD_COUNT; i++)
        if ((s->commands & PS_ON(i)) && (c = ps_command_get((enum ps_command)i))) {
            ps_strbuf_printf(b, "%s%s", comma, c->name);
            comma = ", ";
        }
    ps_strbuf_puts(b, ".");
}

static void write_option(struct ps_strbuf *b, const struct ps_opt_spec *s)
{
    write_names(b, s);
    escape(b, s->help);
    if (s->choices) {
        ps_strbuf_puts(b, ": ");
        escape(b, s->choices);
    }
    if (s->dflt) {
        ps_strbuf_puts(b, " (default ");
        escape(b, s->dflt);
        ps_strbuf_puts(b, ")");
    }
    ps_strbuf_puts(b, ".");
    write_applies(b, s);
    ps_strbuf_puts(b, "\n");
}

static void write_options(struct ps_strbuf *b)
{
    const struct ps_opt_spec *s;

    ps_strbuf_puts(b, ".SH OPTIONS\n");
    paragraph(b, "Options may stand before or after the arguments, as --name value or "
                 "--name=value; -- ends them. "
                 "The variable in parentheses sets the same; the option wins. Sizes are bytes, or "
                 "take K, M, G, T "
                 "(powers of 1024) or a percentage of the model.");
    for (int g = 0; g < PS_GROUP_COUNT; g++) {
        ps_strbuf_puts(b, ".SS ");
        escape(b, g == PS_GROUP_COMMAND ? "Of single commands"
                                        : ps_option_group_title((enum ps_opt_group)g));
        ps_strbuf_puts(b, "\n");
        for (size_t i = 0; (s = ps_option_at(i)); i++)
            if ((int)s->group == g && s->help)
                write_option(b, s);
    }
}

static void write_commands(struct ps_strbuf *b)
{
    const struct ps_command_spec *c;

    ps_strbuf_puts(b, ".SH COMMANDS\n");
    for (int i = 1; i < PS_CMD_COUNT; i++) {
        c = ps_command_get((enum ps_command)i);
        if (!c)
            continue;
        ps_strbuf_printf(b, ".TP\n\\fBpenstock %s\\fR ", c->name);
        escape(b, c->args);
        ps_strbuf_puts(b, "\n");
        escape(b, c->about);
        ps_strbuf_puts(b, "\n");
    }
}

static void write_examples(struct ps_strbuf *b)
{
    const struct ps_command_spec *c;

    ps_strbuf_puts(b, ".SH EXAMPLES\n.nf\n");
    for (int i = 1; i < PS_CMD_COUNT; i++)
        if ((c = ps_command_get((enum ps_command)i)) && i != PS_CMD_CHAT && i != PS_CMD_SERVE)
            escape(b, c->examples);
    ps_strbuf_puts(b, ".fi\n");
}

static void write_statuses(struct ps_strbuf *b)
{
    static const struct {
        int status;
        const char *when;
    } rows[] = {
        {0, "Success."},
        {1, "Something that Penstock can't do: an architecture, a kind of tokenizer, a tensor "
            "type; or a local "
            "failure."},
        {2, "Usage: an unknown option or scheme, a malformed address, a token id out of range."},
        {3, "The source is unreachable, missing or refused, still failing at the deadline, or "
            "serves no ranges."},
        {4, "Bytes that are not what they should be and stay so after a refetch; `cache verify` "
            "that found some."},
        {5, "A budget is too small, or a disk has no room for what was demanded."},
        {130, "Interrupted."},
    };

    ps_strbuf_puts(b, ".SH EXIT STATUS\n");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ps_strbuf_printf(b, ".TP\n\\fB%d\\fR\n", rows[i].status);
        escape(b, rows[i].when);
        ps_strbuf_puts(b, "\n");
    }
}

static void write_environment(struct ps_strbuf *b)
{
    ps_strbuf_puts(b, ".SH ENVIRONMENT\n");
    paragraph(b, "Every option as PENSTOCK_<OPTION>, with _ for -; flags take 1, true, on, yes or "
                 "0, false, off, no. "
                 "XDG_CACHE_HOME and HOME place the cache; http_proxy, https_proxy, no_proxy and "
                 "SSL_CERT_FILE are "
                 "honoured; NO_COLOR, TERM and COLUMNS shape the progress display.");
    paragraph(b,
              "s3://bucket/prefix takes the rest of the address as the literal key; a version is "
              "named by ?versionId= behind it. Keys come from AWS_ACCESS_KEY_ID, "
              "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; AWS_WEB_IDENTITY_TOKEN_FILE with "
              "AWS_ROLE_ARN; the profile (AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE, "
              "AWS_CONFIG_FILE); the container's endpoint (AWS_CONTAINER_CREDENTIALS_FULL_URI or "
              "_RELATIVE_URI); EC2's metadata service, unless AWS_EC2_METADATA_DISABLED is true: "
              "the first that is configured. Where none is, or with AWS_NO_SIGN_REQUEST=yes, "
              "requests are not signed. AWS_REGION (else AWS_DEFAULT_REGION, the profile, "
              "us-east-1), AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_CA_BUNDLE and "
              "AWS_REQUEST_PAYER=requester mean what they mean elsewhere; the path style is used "
              "with endpoints of one's own and for buckets with dots, unless the profile's s3 "
              "addressing_style says otherwise.");
    paragraph(
        b, "hf://org/name[@revision][/folder] is a repository of the Hugging Face Hub. HF_TOKEN, "
           "HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE and "
           "HF_HUB_DISABLE_IMPLICIT_TOKEN mean what they mean to the Hub's own tools; files that "
           "these have downloaded are read from their cache directory.");
}

void ps_man_write(struct ps_strbuf *b)
{
    ps_strbuf_puts(b, ".\\\" Made by `penstock --man` from the option table: do not edit.\n");
    ps_strbuf_printf(b, ".TH PENSTOCK 1 \"\" \"penstock %s\" \"User Commands\"\n", PENSTOCK_VERSION);
    ps_strbuf_puts(
        b,
        ".SH NAME\npenstock \\- run language models whose weights stay on a server\n"
        ".SH SYNOPSIS\n\\fBpenstock\\fR \\fICOMMAND\\fR [\\fIARGUMENT\\fR...] [\\fIOPTION\\fR...]\n"
        ".SH DESCRIPTION\n");
    paragraph(b,
              "Penstock runs language models larger than disk, RAM and VRAM: it streams their "
              "weights by ranges "
              "from a folder, a web server or the Hugging Face Hub through a bounded disk "
              "cache. MODEL is a folder of "
              "safetensors files "
              "with config.json, a model made by `penstock split`, the http, https or s3 address "
              "of either, or hf://org/name[@revision] on the Hugging Face Hub.");
    write_commands(b);
    write_options(b);
    write_environment(b);
    write_statuses(b);
    write_examples(b);
}
