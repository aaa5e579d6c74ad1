/* Completion scripts for bash, zsh and fish, made of the tables. Pure. See options.h. */
#include "tools/options.h"

#include <stdio.h>
#include <string.h>

static bool shown(const struct ps_opt_spec *s)
{
    return s->help && s->commands;
}

/* "a|b" as "a b" */
static void write_words(struct ps_strbuf *b, const char *choices)
{
    for (const char *p = choices; *p; p++)
        ps_strbuf_append(b, *p == '|' ? " " : p, 1);
}

static void write_command_names(struct ps_strbuf *b)
{
    for (int i = 1; i < PS_CMD_COUNT; i++)
        ps_strbuf_printf(b, "%s%s", i > 1 ? " " : "", ps_command_get((enum ps_command)i)->name);
}

/* ---- bash ---- */

static void bash_option_names(struct ps_strbuf *b, enum ps_command command)
{
    const struct ps_opt_spec *s;

    for (size_t i = 0; (s = ps_option_at(i)); i++) {
        if (!shown(s) || !(s->commands & PS_ON(command)))
            continue;
        if (s->letter)
            ps_strbuf_printf(b, " -%s", s->letter);
        ps_strbuf_printf(b, " --%s", s->name);
    }
}

static void bash_values(struct ps_strbuf *b)
{
    const struct ps_opt_spec *s;

    for (size_t i = 0; (s = ps_option_at(i)); i++) {
        if (!shown(s) || s->kind == PS_OPT_FLAG)
            continue;
        ps_strbuf_puts(b, "        ");
        if (s->letter)
            ps_strbuf_printf(b, "-%s | ", s->letter);
        if (s->alias)
            ps_strbuf_printf(b, "--%s | ", s->alias);
        ps_strbuf_printf(b, "--%s) ", s->name);
        if (s->kind == PS_OPT_FILE || s->kind == PS_OPT_DIR) {
            ps_strbuf_printf(b, "mapfile -t COMPREPLY < <(compgen -%c -- \"$cur\"); ",
                             s->kind == PS_OPT_FILE ? 'f' : 'd');
        } else if (s->choices) {
            ps_strbuf_puts(b, "mapfile -t COMPREPLY < <(compgen -W \"");
            write_words(b, s->choices);
            ps_strbuf_puts(b, "\" -- \"$cur\"); ");
        }
        ps_strbuf_puts(b, "return ;;\n");
    }
}

static void bash_commands(struct ps_strbuf *b)
{
    const struct ps_command_spec *c;

    for (int i = 1; i < PS_CMD_COUNT; i++) {
        c = ps_command_get((enum ps_command)i);
        ps_strbuf_printf(b, "        %s) opts=\"", c->name);
        bash_option_names(b, c->id);
        ps_strbuf_puts(b, "\"; words=\"");
        if (c->words)
            write_words(b, c->words);
        else if (c->id == PS_CMD_HELP)
            write_command_names(b);
        ps_strbuf_puts(b, "\" ;;\n");
    }
}

static void write_bash(struct ps_strbuf *b)
{
    ps_strbuf_puts(
        b, "# bash completion of penstock, made by `penstock completion bash`\n"
           "# shellcheck shell=bash\n"
           "_penstock() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
           "    local i command=\"\" opts words\n"
           "    COMPREPLY=()\n"
           "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
           "        case ${COMP_WORDS[i]} in -*) ;; *) command=${COMP_WORDS[i]}; break ;; esac\n"
           "    done\n"
           "    case $prev in\n");
    bash_values(b);
    ps_strbuf_puts(b, "    esac\n    case $command in\n");
    bash_commands(b);
    ps_strbuf_puts(b, "        *) opts=\"--help --version\"; words=\"");
    write_command_names(b);
    ps_strbuf_puts(b, "\" ;;\n    esac\n"
                      "    if [[ $cur == -* ]]; then\n"
                      "        mapfile -t COMPREPLY < <(compgen -W \"$opts\" -- \"$cur\")\n"
                      "    else\n"
                      "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\"\n"
                      "            [[ -n $command ]] && compgen -f -- \"$cur\")\n"
                      "    fi\n"
                      "}\n"
                      "complete -o filenames -F _penstock penstock\n");
}

/* ---- zsh ---- */

/* Inside single quotes and an _arguments specification: brackets and colons end it, a quote ends
 * the word. */
static void zsh_text(struct ps_strbuf *b, const char *text)
{
    for (; *text; text++) {
        if (*text == '\'')
            ps_strbuf_puts(b, "'\\''");
        else if (strchr("[]:\\", *text))
            ps_strbuf_printf(b, "\\%c", *text);
        else
            ps_strbuf_append(b, text, 1);
    }
}

static void zsh_option(struct ps_strbuf *b, const struct ps_opt_spec *s)
{
    const char *star = s->kind == PS_OPT_LIST ? "*" : "";

    ps_strbuf_puts(b, "            ");
    if (s->letter)
        ps_strbuf_printf(b, "%s'(-%s --%s)'{-%s,--%s}'[", star, s->letter, s->name, s->letter,
                         s->name);
    else
        ps_strbuf_printf(b, "'%s--%s[", star, s->name);
    zsh_text(b, s->help);
    ps_strbuf_puts(b, "]");
    if (s->kind != PS_OPT_FLAG) {
        ps_strbuf_printf(b, ":%s:", s->arg);
        if (s->choices) {
            ps_strbuf_puts(b, "(");
            write_words(b, s->choices);
            ps_strbuf_puts(b, ")");
        } else if (s->kind == PS_OPT_FILE) {
            ps_strbuf_puts(b, "_files");
        } else if (s->kind == PS_OPT_DIR) {
            ps_strbuf_puts(b, "_files -/");
        }
    }
    ps_strbuf_puts(b, "' \\\n");
}

static void zsh_command(struct ps_strbuf *b, const struct ps_command_spec *c)
{
    const struct ps_opt_spec *s;

    ps_strbuf_printf(b, "        %s) _arguments \\\n", c->name);
    for (size_t i = 0; (s = ps_option_at(i)); i++)
        if (shown(s) && (s->commands & PS_ON(c->id)))
            zsh_option(b, s);
    ps_strbuf_puts(b, "            ");
    if (c->words || c->id == PS_CMD_HELP) {
        ps_strbuf_puts(b, "'1:what:(");
        if (c->words)
            write_words(b, c->words);
        else
            write_command_names(b);
        ps_strbuf_puts(b, ")' ");
    }
    ps_strbuf_puts(b, "'*:argument:_files' ;;\n");
}

static void write_zsh(struct ps_strbuf *b)
{
    ps_strbuf_puts(
        b, "#compdef penstock\n# zsh completion of penstock, made by `penstock completion zsh`\n"
           "_penstock() {\n    local context state line\n    local -a commands\n    commands=(\n");
    for (int i = 1; i < PS_CMD_COUNT; i++) {
        ps_strbuf_printf(b, "        '%s:", ps_command_get((enum ps_command)i)->name);
        zsh_text(b, ps_command_get((enum ps_command)i)->summary);
        ps_strbuf_puts(b, "'\n");
    }
    ps_strbuf_puts(b, "    )\n    _arguments -C '(-h --help)'{-h,--help}'[Print help]' "
                      "'--version[Print the version]' \\\n"
                      "        '1:command:->command' '*::argument:->arguments'\n"
                      "    case $state in\n    command) _describe command commands ;;\n"
                      "    arguments)\n        case $line[1] in\n");
    for (int i = 1; i < PS_CMD_COUNT; i++)
        zsh_command(b, ps_command_get((enum ps_command)i));
    ps_strbuf_puts(b, "        esac ;;\n    esac\n}\n"
                      "if [[ $funcstack[1] == _penstock ]]; then _penstock \"$@\"; else compdef "
                      "_penstock penstock; fi\n");
}

/* ---- fish ---- */

static void fish_text(struct ps_strbuf *b, const char *text)
{
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            ps_strbuf_puts(b, "\\");
        ps_strbuf_append(b, text, 1);
    }
}

static void fish_option(struct ps_strbuf *b, const struct ps_opt_spec *s)
{
    ps_strbuf_puts(b, "complete -c penstock -n '__fish_seen_subcommand_from");
    for (int i = 1; i < PS_CMD_COUNT; i++)
        if (s->commands & PS_ON(i))
            ps_strbuf_printf(b, " %s", ps_command_get((enum ps_command)i)->name);
    ps_strbuf_puts(b, "'");
    if (s->letter)
        ps_strbuf_printf(b, " -%c %s", s->letter[1] ? 'o' : 's', s->letter);
    ps_strbuf_printf(b, " -l %s", s->name);
    if (s->kind == PS_OPT_FILE || s->kind == PS_OPT_DIR)
        ps_strbuf_puts(b, " -r -F");
    else if (s->kind != PS_OPT_FLAG)
        ps_strbuf_puts(b, " -x");
    if (s->choices) {
        ps_strbuf_puts(b, " -a '");
        write_words(b, s->choices);
        ps_strbuf_puts(b, "'");
    }
    ps_strbuf_puts(b, " -d '");
    fish_text(b, s->help);
    ps_strbuf_puts(b, "'\n");
}

static void write_fish(struct ps_strbuf *b)
{
    const struct ps_opt_spec *s;
    const struct ps_command_spec *c;

    ps_strbuf_puts(
        b, "# fish completion of penstock, made by `penstock completion fish`\n"
           "complete -c penstock -n __fish_use_subcommand -l version -d 'Print the version'\n"
           "complete -c penstock -n __fish_use_subcommand -s h -l help -d 'Print help'\n");
    for (int i = 1; i < PS_CMD_COUNT; i++) {
        c = ps_command_get((enum ps_command)i);
        ps_strbuf_printf(b, "complete -c penstock -n __fish_use_subcommand -f -a %s -d '", c->name);
        fish_text(b, c->summary);
        ps_strbuf_puts(b, "'\n");
        if (c->words || c->id == PS_CMD_HELP) {
            ps_strbuf_printf(b, "complete -c penstock -n '__fish_seen_subcommand_from %s' -a '",
                             c->name);
            if (c->words)
                write_words(b, c->words);
            else
                write_command_names(b);
            ps_strbuf_puts(b, "'\n");
        }
    }
    for (size_t i = 0; (s = ps_option_at(i)); i++)
        if (shown(s))
            fish_option(b, s);
}

int ps_completion_write(struct ps_strbuf *b, const char *shell, struct ps_err *err)
{
    if (strcmp(shell, "bash") == 0)
        write_bash(b);
    else if (strcmp(shell, "zsh") == 0)
        write_zsh(b);
    else if (strcmp(shell, "fish") == 0)
        write_fish(b);
    else
        return ps_err_set(err, PS_EUSAGE, "completion", "%s: unknown shell: give bash, zsh or fish",
                          shell);
    return 0;
}
