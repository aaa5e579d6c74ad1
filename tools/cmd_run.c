/* `penstock run`: a prompt in, text out. Order: read the prompt, open the engine (which starts
 * to fetch), tokenise while bytes arrive, reserve KV for what is needed, generate. */
#include "tools/cli.h"

#include <float.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "tools/interrupt.h"
#include "tools/progress.h"
#include "tools/run_report.h"
#include "tools/textio.h"

#define REPORT_MAX ((size_t)1 << 30)
#define TEXT_MAX   ((size_t)256 << 20)

struct run {
    const struct ps_opts *o;
    char *prompt;
    size_t prompt_len;
    struct ps_engine *engine;
    struct ps_session *session;
    uint32_t *ids;
    size_t n_ids;
    uint64_t seed;
    struct ps_strbuf text; /* with --json: what stdout would have shown */
    bool tells_stats;      /* --stats names what can be written */
    bool began;            /* a token has been written */
    bool shares_terminal;  /* text and progress would meet on one screen */
    struct ps_err out_err; /* of a write to stdout; code 0: none */
};

static void write_stats(const struct run *r, int rc, const char *error, struct ps_err *err)
{
    struct ps_run_report report = {.rc = rc, .error = error, .seed = r->engine ? &r->seed : NULL};
    struct ps_strbuf b;
    char *stats = r->engine ? ps_engine_stats_json(r->engine) : NULL;

    ps_strbuf_init(&b, REPORT_MAX);
    report.stats = stats;
    ps_run_report_json(&b, &report);
    ps_strbuf_puts(&b, "\n");
    if (!ps_strbuf_ok(&b))
        ps_err_set(err, PS_ENOMEM, "run", "%s: out of memory", r->o->stats);
    else
        ps_text_write_file(r->o->stats, b.data, b.len, err);
    ps_strbuf_deinit(&b);
    ps_string_free(stats);
}

/* The last words of a run that is interrupted before it has an engine. */
static void interrupted_early(void *user)
{
    const struct run *r = user;

    if (r->o->stats)
        write_stats(r, PS_EINTERRUPTED, "interrupted", NULL);
}

static int open_engine(struct run *r, struct ps_err *err)
{
    struct ps_engine_options e;
    uint32_t rows = ps_cli_estimate_tokens(r->prompt_len), most = ps_cli_most_tokens(r->prompt_len);
    int rc = ps_cli_check_predict(r->o, err);

    if (rc == 0)
        rc = ps_cli_engine_options(&e, r->o, err);

    if (rc < 0)
        return rc;
    e.ctx_most = e.ctx_size ? e.ctx_size : most + (uint32_t)r->o->n_predict;
    if (e.ctx_size == 0)
        e.ctx_size = rows + (uint32_t)r->o->n_predict;
    e.max_rows = rows < e.ctx_size ? rows : e.ctx_size;
    e.rows_most = most < e.ctx_most ? most : e.ctx_most;
    e.headers_only = r->o->n_predict == 0; /* nothing is computed, so no weight is fetched ahead */
    return ps_cli_engine_open(&r->engine, &e, err);
}

static int make_session(struct run *r, struct ps_err *err)
{
    struct ps_session_options so = {.struct_size = sizeof so};
    struct ps_error error = {0};
    uint32_t flags = r->o->no_bos ? 2 : 3;

    if (ps_engine_tokenize(r->engine, r->prompt, r->prompt_len, flags, &r->ids, &r->n_ids, &error) < 0)
        return ps_cli_error(err, &error);
    if (r->o->ctx_size > 0 && r->n_ids > (uint64_t)r->o->ctx_size)
        return ps_err_set(err, PS_EUSAGE, "run",
                          "--ctx-size %lld: the prompt has %zu tokens: raise it or leave it out",
                          (long long)r->o->ctx_size, r->n_ids);
    if (r->n_ids == 0)
        return ps_err_set(err, PS_EUSAGE, "run",
                          "the prompt is empty, and nothing is added to it: give some text");
    so.ctx_size = r->o->ctx_size ? (uint32_t)r->o->ctx_size
                                 : (uint32_t)(r->n_ids + (uint64_t)r->o->n_predict);
    so.max_rows = (uint32_t)r->n_ids;
    if (ps_session_new(&r->session, r->engine, &so, &error) < 0)
        return ps_cli_error(err, &error);
    return 0;
}

/* Text to where it belongs. Non-zero: stdout is gone and the generation may end. */
static int show(struct run *r, const char *text, size_t len)
{
    if (r->o->json) {
        ps_strbuf_append(&r->text, text, len);
        return ps_strbuf_ok(&r->text)
                   ? 0
                   : ps_err_set(&r->out_err, PS_ENOMEM, "run", "the text is longer than 256 MiB");
    }
    if (!r->began && r->shares_terminal)
        ps_progress_stop();
    r->began = true;
    return len ? ps_out_write(text, len, &r->out_err) : 0;
}

static int on_token(void *user, const char *text, size_t len, uint32_t id)
{
    (void)id;
    return show(user, text, len);
}

static uint64_t choose_seed(const struct ps_opts *o)
{
    uint32_t drawn = 0;

    if (o->seed >= 0)
        return (uint64_t)o->seed;
    if (o->temp <= 0)
        return 0; /* nothing is drawn */
    if (getrandom(&drawn, sizeof drawn, GRND_NONBLOCK) != (ssize_t)sizeof drawn)
        drawn = (uint32_t)(ps_now_ns() ^ (uint64_t)getpid() << 16);
    return drawn;
}

static int generate(struct run *r, struct ps_err *err)
{
    const struct ps_opts *o = r->o;
    struct ps_generate_options g = {
        .struct_size = sizeof g,
        .n_predict = (uint32_t)o->n_predict, /* -1: the context ends it */
        .seed = r->seed,
        .temp = (float)o->temp,
        .top_k = (uint32_t)o->top_k,
        /* the library's 0 is "off"; on a command line it is the smallest share: the best token alone */
        .top_p = o->top_p > 0 ? (float)o->top_p : FLT_MIN,
        .min_p = (float)o->min_p,
        .repeat_penalty = o->repeat_last_n ? (float)o->repeat_penalty : 1, /* the library's 0 is 64 */
        .repeat_last_n = (uint32_t)o->repeat_last_n,
        .ignore_eos = o->ignore_eos,
        .special = o->special,
        .stop = o->stop.items,
        .n_stop = (uint32_t)o->stop.n,
    };
    struct ps_error error = {0};

    if (o->echo && show(r, r->prompt, r->prompt_len) < 0)
        return r->out_err.code;
    if (ps_session_generate(r->session, r->ids, r->n_ids, &g, on_token, r, &error) < 0)
        return ps_cli_error(err, &error);
    return 0;
}

/* A name that can't be written would cost the figures at the end. Other programs write a "-" to stdout, and that
 * is where the text goes. */
static int check_stats(const struct ps_opts *o, struct ps_err *err)
{
    if (!o->stats)
        return 0;
    if (strcmp(o->stats, "-") != 0)
        return ps_text_check_file("--stats", o->stats, err);
    return ps_err_set(err, PS_EUSAGE, "run",
                      "--stats -: stdout is for the text: use --json (text and figures in one "
                      "object) or --stats /dev/stderr");
}

/* Everything that has a text to write; what follows is done after failures too. */
static int work(struct run *r, struct ps_err *err)
{
    int rc = check_stats(r->o, err);

    r->tells_stats = rc == 0 && r->o->stats;
    if (rc == 0)
        rc = ps_cli_prompt(&r->prompt, &r->prompt_len, r->o, err);
    if (rc == 0)
        rc = open_engine(r, err);
    if (rc == 0)
        rc = make_session(r, err);
    if (rc == 0)
        rc = generate(r, err);
    if ((rc == 0 || r->began) && !r->o->json && !r->out_err.code)
        ps_out_write("\n", 1, &r->out_err);
    if (r->out_err.code && (rc == 0 || rc == r->out_err.code)) {
        rc = r->out_err.code;
        *err = r->out_err;
    }
    return rc;
}

static int print_json(struct run *r, int rc, const char *error, struct ps_err *err)
{
    struct ps_run_report report = {
        .text = r->text.data, .text_len = r->text.len, .seed = &r->seed, .rc = rc, .error = error};
    struct ps_strbuf b;
    char *stats = ps_engine_stats_json(r->engine);
    int out_rc;

    ps_strbuf_init(&b, REPORT_MAX);
    report.stats = stats;
    ps_run_report_json(&b, &report);
    ps_strbuf_puts(&b, "\n");
    out_rc = ps_out_strbuf(&b, err);
    ps_strbuf_deinit(&b);
    ps_string_free(stats);
    return out_rc;
}

static void print_summary(const struct run *r)
{
    struct ps_run_report report = {.seed = r->o->seed < 0 && r->o->temp > 0 ? &r->seed : NULL};
    struct ps_strbuf b;
    char *stats = ps_engine_stats_json(r->engine);

    ps_strbuf_init(&b, REPORT_MAX);
    report.stats = stats;
    ps_run_report_summary(&b, &report);
    if (ps_strbuf_ok(&b))
        fputs(b.data, stderr);
    ps_strbuf_deinit(&b);
    ps_string_free(stats);
}

/* A result file that can't be written is a failure of its own only where there is no other. */
static int report(struct run *r, int rc, struct ps_err *err)
{
    struct ps_err other = {0};

    if (r->o->json && r->session && r->out_err.code == 0)
        print_json(r, rc, err->text, &other);
    if (r->tells_stats)
        write_stats(r, rc, err->text, &other);
    if (r->session && !r->o->quiet && (rc == 0 || rc == PS_EINTERRUPTED))
        print_summary(r);
    if (rc == 0 && other.code) {
        *err = other;
        rc = other.code;
    }
    return rc;
}

static void let_end(void *user, int signo)
{
    (void)user;
    (void)signo;
}

void ps_cmd_run_refused(const struct ps_opts *o, int rc, const char *error)
{
    const struct run r = {.o = o};

    if (o->stats && check_stats(o, NULL) == 0)
        write_stats(&r, rc, error, NULL);
}

int ps_cmd_run(const struct ps_opts *o, struct ps_err *err)
{
    struct run r = {.o = o, .seed = choose_seed(o)};
    int rc;

    ps_cli_interrupt_early(interrupted_early, &r);
    r.shares_terminal = isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
    ps_strbuf_init(&r.text, TEXT_MAX);
    rc = work(&r, err);
    ps_progress_end();
    if (!r.engine) /* two threads must not write the statistics; what is left to do is short */
        ps_interrupt_set(let_end, NULL);
    rc = report(&r, rc, err);
    ps_strbuf_deinit(&r.text);
    ps_session_free(r.session);
    ps_ids_free(r.ids);
    if (r.engine)
        ps_cli_engine_close(r.engine);
    ps_free(r.prompt);
    return rc;
}
