/* What the commands of the program share. main.c parses, calls one ps_cmd_ function and turns
 * its error into one line on stderr and an exit status. Everything here runs on the main thread. */
#ifndef PS_TOOLS_CLI_H
#define PS_TOOLS_CLI_H
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "fetcher/store.h"
#include "penstock/penstock.h"
#include "tools/options.h"

/* Each returns 0 or a negative code with *err filled. An error without a text is a failure that
 * says nothing more. */
int ps_cmd_run(const struct ps_opts *o, struct ps_err *err);
/* `run` was called with options that are wrong: writes --stats, where it is given, with the error. */
void ps_cmd_run_refused(const struct ps_opts *o, int rc, const char *error);
int ps_cmd_plan(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_doctor(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_keygen(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_split(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_warm(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_share(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_cache(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_inspect(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_logits(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_tokenize(const struct ps_opts *o, struct ps_err *err);
int ps_cmd_bench(const struct ps_opts *o, struct ps_err *err);

/* An error of the public interface as one of ours, with the same exit status. Returns its code. */
int ps_cli_error(struct ps_err *err, const struct ps_error *e);
/* -n -1 goes on until the context is full, as in llama.cpp, and needs a -c to know how large that is. */
int ps_cli_check_predict(const struct ps_opts *o, struct ps_err *err);
/* Fills *e from the options; the caller sets what its command decides (ctx_size, headers_only,
 * ...) before opening. PS_EUSAGE for a device and a --vram that contradict. */
int ps_cli_engine_options(struct ps_engine_options *e, const struct ps_opts *o, struct ps_err *err);
/* From now on, until an engine is open, SIGINT calls `early` (nullable), on a thread of its own, and ends the
 * process. */
void ps_cli_interrupt_early(void (*early)(void *user), void *user);
/* Opens and makes SIGINT interrupt the engine. Until it is open SIGINT does what ps_cli_interrupt_early has set,
 * afterwards too if it can't be opened. */
int ps_cli_engine_open(struct ps_engine **out, const struct ps_engine_options *e, struct ps_err *err);
void ps_cli_engine_close(struct ps_engine *engine);
/* s->limit is the caller's: ps_rate_limit_free once its sources are closed. */
int ps_cli_store_options(struct ps_store_options *s, const struct ps_opts *o, struct ps_err *err);
/* PS_EUSAGE for addresses of several http(s) servers with a token, header or certificate that is for one. */
int ps_cli_one_server(const struct ps_opts *o, const char *const *addresses, size_t n,
                      struct ps_err *err);
/* Opens the files of a model, whose signature must be by one of --verify-key where there are any. */
struct ps_model_files;
int ps_cli_model_files(struct ps_model_files *out, struct ps_source *src, const struct ps_opts *o,
                       struct ps_err *err);

/* The text that -p, -f, `word` (nullable: an argument) or stdin gives. *out: ps_free. PS_EUSAGE
 * where there is none. */
int ps_cli_text(char **out, size_t *len, const struct ps_opts *o, const char *word,
                struct ps_err *err);
/* The text that `run` would go on from: the same, less one final newline where it comes from a file or stdin. */
int ps_cli_prompt(char **out, size_t *len, const struct ps_opts *o, struct ps_err *err);
/* Token positions to plan for before the text has been tokenised. Pure. */
uint32_t ps_cli_estimate_tokens(size_t text_bytes);
/* What they may come to. */
uint32_t ps_cli_most_tokens(size_t text_bytes);

/* Prints a JSON object on stdout: as it is with --json, else as text. NULL is "out of memory". */
int ps_cli_print_json(const struct ps_opts *o, const char *json, struct ps_err *err);
/* The same for what only tells how the work went: --quiet without --json prints nothing. */
int ps_cli_print_summary(const struct ps_opts *o, const char *json, struct ps_err *err);
#endif
