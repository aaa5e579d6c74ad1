/* What the user asked for. Comes in: argv and the environment. Goes out: one struct ps_opts that
 * the commands read.
 *
 * There is one table of options (option_table.c) and one of commands (command_table.c). Parsing,
 * --help, the variables PENSTOCK_<LONG NAME>, the man page and shell completion are all made from
 * them, so that none can lag behind another.
 *
 * Pure code: no I/O, one thread. Strings in struct ps_opts point into argv and the environment. */
#ifndef PS_TOOLS_OPTIONS_H
#define PS_TOOLS_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/strbuf.h"

enum ps_command {
    PS_CMD_NONE,
    PS_CMD_RUN,
    PS_CMD_CHAT,
    PS_CMD_SERVE,
    PS_CMD_PLAN,
    PS_CMD_DOCTOR,
    PS_CMD_SPLIT,
    PS_CMD_KEYGEN,
    PS_CMD_WARM,
    PS_CMD_SHARE,
    PS_CMD_CACHE,
    PS_CMD_INSPECT,
    PS_CMD_LOGITS,
    PS_CMD_TOKENIZE,
    PS_CMD_BENCH,
    PS_CMD_COMPLETION,
    PS_CMD_VERSION,
    PS_CMD_HELP,
    PS_CMD_COUNT
};
#define PS_ON(command) (1u << (command))

struct ps_command_spec {
    enum ps_command id;
    const char *name;
    const char *args;     /* synopsis behind the name: "MODEL [TEXT]" */
    const char *summary;  /* half a line */
    const char *about;    /* a paragraph or two */
    const char *examples; /* lines without indentation, each ended by a newline */
    const char *words;    /* choices of the first argument, "ls|stat", or NULL */
    unsigned min_args, max_args;
    bool takes_model; /* the first argument is a model, which --model may give as well */
};

enum ps_opt_kind {
    PS_OPT_FLAG,   /* bool */
    PS_OPT_INT,    /* int64_t within [lo, hi] */
    PS_OPT_REAL,   /* double within [lo, hi] */
    PS_OPT_TEXT,   /* const char * */
    PS_OPT_FILE,   /* const char *, completed as a file */
    PS_OPT_DIR,    /* const char *, completed as a folder */
    PS_OPT_SIZE,   /* const char *, checked by ps_size_parse */
    PS_OPT_CHOICE, /* const char *, one of `choices` */
    PS_OPT_LIST,   /* struct ps_opt_list: may be given several times */
    PS_OPT_LAYERS, /* struct ps_opt_layers: "A-B" or "A" */
};
enum ps_opt_group {
    PS_GROUP_COMMAND, /* what only this command has */
    PS_GROUP_TEXT,
    PS_GROUP_SAMPLING,
    PS_GROUP_BUDGET,
    PS_GROUP_NETWORK,
    PS_GROUP_COMPUTE,
    PS_GROUP_OUTPUT,
    PS_GROUP_COUNT
};
enum {
    PS_OPT_SIZE_SHARE = 1, /* 25% */
    PS_OPT_SIZE_MIN = 2,
    PS_OPT_SIZE_ALL = 4,
};
struct ps_opt_spec {
    const char *name;    /* "n-predict": gives --n-predict and PENSTOCK_N_PREDICT */
    const char *alias;   /* another long name, or NULL */
    const char *letter;  /* short name without its dash ("n", "ub"), or NULL */
    const char *arg;     /* the word that stands for the value in help; NULL for flags */
    const char *help;    /* one sentence, no final stop; "(default ...)" is added from dflt */
    const char *dflt;    /* parsed like a value given by the user; NULL: zero */
    const char *choices; /* "auto|h1|h2" */
    enum ps_opt_kind kind;
    enum ps_opt_group group;
    uint32_t commands; /* PS_ON bits */
    size_t field;      /* offset in struct ps_opts */
    int64_t lo, hi;    /* INT and REAL; SIZE: lo is what it takes beside bytes, PS_OPT_SIZE_ bits */
};

struct ps_opt_list {
    const char **items;
    size_t n;
};
struct ps_opt_layers {
    int32_t first, last; /* inclusive; both -1: all */
};

#define PS_OPT_MAX 128 /* most rows in the option table */

struct ps_opts {
    enum ps_command command;
    const char **args; /* what follows the command, --model put in front where it stands for the argument */
    size_t n_args;
    unsigned char origin[PS_OPT_MAX]; /* by row of the table: enum ps_opt_origin */

    const char *model, *prompt, *file, *cache, *disk, *ram, *vram, *min_free, *max_egress, *http,
        *device;
    const char *bearer, *bearer_file, *netrc_file, *cacert, *cert, *key;
    const char *bytes, *from_file, *net_limit;
    const char *cache_type_k, *cache_type_v, *stats, *log, *tokens, *out, *codec, *host, *direct_io;
    int64_t n_predict, ctx_size, ubatch_size, threads, seed, top_k, repeat_last_n;
    int64_t gpu_layers, priority, connections, net_deadline, net_stall, hedge, port;
    double temp, top_p, min_p, repeat_penalty, seconds, price_per_gb;
    bool no_kv_offload, ignore_eos, echo, special, no_bos, json, quiet, check, dry_run, repair,
        probe, extents, all;
    bool help, version, man, netrc;
    struct ps_opt_list stop, header, mirror, verify_keys;
    const char *sign;
    bool diff, content, delete_source;
    struct ps_opt_layers layers;
};
enum ps_opt_origin { PS_FROM_DEFAULT, PS_FROM_ENV, PS_FROM_ARGV };

/* The tables. */
const struct ps_opt_spec *ps_option_at(size_t i); /* NULL behind the last row */
const char *ps_option_group_title(enum ps_opt_group g);
const struct ps_command_spec *ps_command_get(enum ps_command c); /* NULL for PS_CMD_NONE and beyond */
const struct ps_command_spec *ps_command_find(const char *name); /* NULL if there is none */
/* Long name ("temp"), alias, or short name ("n") to row; -1 if unknown. */
int ps_option_find_long(const char *name, size_t len);
int ps_option_find_letter(const char *letter);
/* "PENSTOCK_N_PREDICT" into out; returns out. */
char *ps_option_env_name(char *out, size_t cap, const struct ps_opt_spec *s);

/* Reads argv (argv[0] is skipped), then for what is not given there the environment through
 * `get_env`. PS_EUSAGE names the option; o->command and o->stats are set even then, wherever they
 * stand, so that `run` can write down the failure. --help and --version end the checks early: the
 * caller looks at o->help first. Free with ps_opts_deinit in every case. */
int ps_opts_parse(struct ps_opts *o, int argc, char **argv,
                  const char *(*get_env)(const char *name), struct ps_err *err);
void ps_opts_deinit(struct ps_opts *o);
/* Where the value of this option (long name) comes from. */
enum ps_opt_origin ps_opts_origin(const struct ps_opts *o, const char *name);

/* Sets one option's field from text; `spelled` ("--temp", "PENSTOCK_TEMP") names it in errors. */
int ps_option_set(struct ps_opts *o, const struct ps_opt_spec *s, const char *text,
                  const char *spelled, struct ps_err *err);
/* Is `word` one of "a|b|c"? */
bool ps_choice_has(const char *choices, const char *word);
/* Edits (insert, delete, replace, swap neighbours) that make b of a: at most 32 bytes of each
 * are looked at. */
unsigned ps_word_distance(const char *a, const char *b);

/* Texts made of the tables. command NULL: the overview. */
void ps_help_write(struct ps_strbuf *b, const struct ps_command_spec *command);
void ps_usage_write(struct ps_strbuf *b); /* the few lines that `penstock` alone prints */
void ps_man_write(struct ps_strbuf *b);   /* penstock(1), troff man macros */
int ps_completion_write(struct ps_strbuf *b, const char *shell, struct ps_err *err);
#endif
