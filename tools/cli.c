/* See cli.h. */
#include "tools/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "base/size.h"
#include "proto/layout.h"
#include "runtime/trust_files.h"
#include "tools/interrupt.h"
#include "tools/pretty.h"
#include "tools/progress.h"
#include "tools/textio.h"

int ps_cli_error(struct ps_err *err, const struct ps_error *e)
{
    int code = e->code < 0 ? e->code : PS_EFAIL;

    if (ps_err_exit_status(code) != e->exit_status)
        code = e->exit_status == 2     ? PS_EUSAGE
               : e->exit_status == 3   ? PS_ENET
               : e->exit_status == 4   ? PS_EDATA
               : e->exit_status == 5   ? PS_EBUDGET
               : e->exit_status == 130 ? PS_EINTERRUPTED
                                       : PS_EFAIL;
    return ps_err_set(err, code, "engine", "%s", e->text);
}

static bool is_none(const struct ps_size *vram)
{
    return vram->kind == PS_SIZE_DEFAULT || (vram->kind == PS_SIZE_BYTES && vram->bytes == 0) ||
           (vram->kind == PS_SIZE_PERCENT && vram->percent <= 0);
}

/* Device memory for the CPU: a mistake, unless it is a variable that an option overrules. */
static int check_vram(const struct ps_opts *o, const struct ps_size *vram, struct ps_err *err)
{
    if (is_none(vram) || !o->device || strcmp(o->device, "cpu") != 0 ||
        ps_opts_origin(o, "vram") < ps_opts_origin(o, "device"))
        return 0;
    return ps_err_set(
        err, PS_EUSAGE, "cli",
        "--device cpu with --vram %s: the CPU has no device memory: leave one of them "
        "out",
        o->vram);
}

/* Where layers are computed: what --device says, else a GPU where another option speaks of one. Never chosen by
 * what the machine happens to have: another place rounds otherwise, and the same command would write another text. */
static const char *device_of(const struct ps_opts *o, const struct ps_size *vram)
{
    bool none = is_none(vram);

    if (o->gpu_layers == 0) {
        if (!none || (o->device && strcmp(o->device, "cpu") != 0))
            ps_log(PS_LOG_WARN, "cli",
                   "-ngl 0: every layer is computed on the CPU: %s is not used: leave -ngl out or "
                   "give a number of layers",
                   o->device && strcmp(o->device, "cpu") != 0 ? "--device" : "--vram");
        return "cpu";
    }
    if (o->device)
        return o->device;
    return !none || o->gpu_layers > 0 ? "cuda" : "cpu";
}

/* What stands for one thing under several names: an option beats the variable of another one. An Authorization among
 * the headers is seen where it is written out; one in an @FILE beside a token is refused when that is read. */
static bool has_authorization(const struct ps_opts *o)
{
    static const char name[] = "Authorization:";

    for (size_t i = 0; i < o->header.n; i++)
        if (strncasecmp(o->header.items[i], name, sizeof name - 1) == 0)
            return true;
    return false;
}

static const char *token_of(const struct ps_opts *o, bool file)
{
    const enum ps_opt_origin t = ps_opts_origin(o, "bearer"), f = ps_opts_origin(o, "bearer-file");

    if (ps_opts_origin(o, "header") > (t > f ? t : f) && has_authorization(o))
        return NULL;
    if (file)
        return t > f ? NULL : o->bearer_file;
    return f > t ? NULL : o->bearer;
}

/* PENSTOCK_HEADER is one header: where that gives way none is left. */
static size_t n_headers(const struct ps_opts *o)
{
    const enum ps_opt_origin h = ps_opts_origin(o, "header");
    const bool token = ps_opts_origin(o, "bearer") > h || ps_opts_origin(o, "bearer-file") > h;

    return token && has_authorization(o) ? 0 : o->header.n;
}

/* PENSTOCK_KEY is that of PENSTOCK_CERT: a certificate given as an option brings its own, in its file or by --key. */
static const char *key_of(const struct ps_opts *o)
{
    return ps_opts_origin(o, "cert") > ps_opts_origin(o, "key") ? NULL : o->key;
}

static void fill_access(struct ps_access_options *a, const struct ps_opts *o)
{
    *a = (struct ps_access_options){
        .bearer = token_of(o, false),
        .bearer_file = token_of(o, true),
        .headers = o->header.items,
        .n_headers = n_headers(o),
        .netrc = o->netrc,
        .netrc_file = o->netrc_file,
        .ca_file = o->cacert,
        .cert_file = o->cert,
        .key_file = key_of(o),
    };
}

static void fill_source(struct ps_source_options *s, const struct ps_opts *o)
{
    *s = (struct ps_source_options){
        .struct_size = sizeof *s,
        .netrc = o->netrc,
        .bearer = token_of(o, false),
        .bearer_file = token_of(o, true),
        .headers = o->header.items,
        .n_headers = (uint32_t)n_headers(o),
        .netrc_file = o->netrc_file,
        .cert = o->cert,
        .key = key_of(o),
        .cacert = o->cacert,
        .mirrors = o->mirror.items,
        .n_mirrors = (uint32_t)o->mirror.n,
    };
}

int ps_cli_check_predict(const struct ps_opts *o, struct ps_err *err)
{
    return o->n_predict < 0 && o->ctx_size == 0
               ? ps_err_set(err, PS_EUSAGE, "options",
                            "-n -1: how far? KV is reserved up front: give -c N, too")
               : 0;
}

int ps_cli_engine_options(struct ps_engine_options *e, const struct ps_opts *o, struct ps_err *err)
{
    static struct ps_source_options source; /* the main thread's, for the engine that is opened next */
    struct ps_size vram;
    int rc = ps_size_parse(&vram, o->vram, "--vram", err);

    if (rc == 0)
        rc = check_vram(o, &vram, err);
    if (rc < 0)
        return rc;
    memset(e, 0, sizeof *e);
    e->struct_size = sizeof *e;
    e->threads = (uint32_t)o->threads;
    e->model = o->args[0];
    e->cache_dir = o->cache;
    e->disk = o->disk;
    e->ram = o->ram;
    e->min_free = o->min_free;
    e->max_egress = o->max_egress;
    e->http_version = o->http;
    e->connections = (uint32_t)o->connections;
    e->net_deadline_s = (uint32_t)o->net_deadline;
    e->net_stall_s = (uint32_t)o->net_stall;
    e->net_limit = o->net_limit;
    e->hedge_pct = o->hedge ? (int32_t)o->hedge : -1;
    e->kv_type_k = o->cache_type_k;
    e->kv_type_v = o->cache_type_v;
    e->ctx_size = (uint32_t)o->ctx_size;
    e->ubatch = (uint32_t)o->ubatch_size;
    e->direct_io = strcmp(o->direct_io, "on") == 0 ? 1 : strcmp(o->direct_io, "off") == 0 ? 2 : 0;
    e->progress = ps_progress_update;
    e->device = device_of(o, &vram);
    e->vram = o->vram;
    e->gpu_layers = o->gpu_layers > 0 ? (int32_t)o->gpu_layers : 0;
    e->no_kv_offload = o->no_kv_offload;
    fill_source(&source, o);
    e->source = &source;
    e->verify_keys = o->verify_keys.items;
    e->n_verify_keys = (uint32_t)o->verify_keys.n;
    e->has_priority = ps_opts_origin(o, "priority") != PS_FROM_DEFAULT;
    e->priority = (int32_t)o->priority;
    return 0;
}

static struct {
    void (*fn)(void *user);
    void *user;
} early; /* written before end_early is set as what a signal does */

/* Reading a prompt can't be interrupted, and ps_engine_open has no handle yet that could be; a process that ends at any
 * point costs the cache nothing. */
static void end_early(void *user, int signo)
{
    (void)user;
    (void)signo;
    ps_progress_stop();
    if (early.fn)
        early.fn(early.user);
    fputs("penstock: interrupted\n", stderr);
    _exit(PS_EXIT_INTERRUPTED);
}

static void interrupt_engine(void *user, int signo)
{
    (void)signo;
    ps_engine_interrupt(user);
}

void ps_cli_interrupt_early(void (*fn)(void *user), void *user)
{
    early.fn = fn;
    early.user = user;
    ps_interrupt_set(end_early, NULL);
}

int ps_cli_engine_open(struct ps_engine **out, const struct ps_engine_options *e, struct ps_err *err)
{
    struct ps_error error = {0};
    int rc = ps_engine_open(out, e, &error);

    if (rc < 0)
        return ps_cli_error(err, &error);
    ps_interrupt_set(interrupt_engine, *out);
    return 0;
}

void ps_cli_engine_close(struct ps_engine *engine)
{
    ps_interrupt_set(NULL, NULL);
    ps_engine_close(engine);
}

int ps_cli_store_options(struct ps_store_options *s, const struct ps_opts *o, struct ps_err *err)
{
    static struct ps_access_options access; /* the main thread's, for the source that is opened next */
    struct ps_size limit = {.kind = PS_SIZE_DEFAULT};
    int rc = ps_size_parse(&limit, o->max_egress, "--max-egress", err);

    if (rc < 0)
        return rc;
    if (limit.kind != PS_SIZE_DEFAULT && limit.kind != PS_SIZE_BYTES)
        return ps_err_set(err, PS_EUSAGE, "cli", "--max-egress: '%s': give bytes here, such as 20G",
                          o->max_egress);
    memset(s, 0, sizeof *s);
    s->connections = (unsigned)o->connections;
    s->net_deadline_s = (unsigned)o->net_deadline;
    s->net_stall_s = (unsigned)o->net_stall;
    s->hedge_pct = o->hedge ? (int)o->hedge : -1;
    s->max_egress_bytes = ps_store_egress_limit(&limit);
    fill_access(&access, o);
    s->access = &access;
    s->mirrors = o->mirror.items;
    s->n_mirrors = o->mirror.n;
    s->http = strcmp(o->http, "h1") == 0   ? PS_HTTP_1
              : strcmp(o->http, "h2") == 0 ? PS_HTTP_2
                                           : PS_HTTP_AUTO;
    return ps_rate_limit_parse(&s->limit, o->net_limit, err);
}

int ps_cli_one_server(const struct ps_opts *o, const char *const *addresses, size_t n,
                      struct ps_err *err)
{
    struct ps_access_options access;

    fill_access(&access, o);
    return ps_access_one_server(&access, addresses, n, err);
}

int ps_cli_model_files(struct ps_model_files *out, struct ps_source *src, const struct ps_opts *o,
                       struct ps_err *err)
{
    struct ps_trust *trust = NULL;
    int rc = ps_trust_from_files(&trust, o->verify_keys.items, o->verify_keys.n, err);
    if (rc == 0)
        rc = ps_model_files_open_trusted(out, src, trust, err);
    ps_store_place_files(err, rc, src->label);
    ps_trust_free(trust);
    return rc;
}

/* Of two that were given at different levels the option beats the variable; at the same level
 * they contradict. */
static int choose_text(const struct ps_opts *o, bool *prompt, bool *file, struct ps_err *err)
{
    enum ps_opt_origin p = ps_opts_origin(o, "prompt"), f = ps_opts_origin(o, "file");

    if (p != PS_FROM_DEFAULT && p == f)
        return ps_err_set(err, PS_EUSAGE, "cli", "--prompt and --file: give one of them");
    *prompt = p > f;
    *file = f > p;
    return 0;
}

int ps_cli_text(char **out, size_t *len, const struct ps_opts *o, const char *word, struct ps_err *err)
{
    bool prompt = false, file = false;
    int rc = choose_text(o, &prompt, &file, err);

    if (rc < 0)
        return rc;
    if (word &&
        (ps_opts_origin(o, "prompt") == PS_FROM_ARGV || ps_opts_origin(o, "file") == PS_FROM_ARGV))
        return ps_err_set(err, PS_EUSAGE, "cli",
                          "'%s': a text is given twice: give it as an argument, by -p or by -f",
                          word);
    if (word || prompt) {
        *out = ps_strdup(word ? word : o->prompt);
        *len = strlen(word ? word : o->prompt);
        return *out ? 0 : ps_err_set(err, PS_ENOMEM, "cli", "out of memory");
    }
    if (!file && isatty(STDIN_FILENO))
        return ps_err_set(err, PS_EUSAGE, "cli",
                          "no text: give -p TEXT or -f FILE, or send it to stdin");
    return ps_text_read(out, len, file ? o->file : NULL, err);
}

/* No token is shorter than a byte, and a few are added. (A normal form may be longer than the text: a few characters of
 * Arabic and of old Hangul, of which no prompt consists.) */
int ps_cli_prompt(char **out, size_t *len, const struct ps_opts *o, struct ps_err *err)
{
    const enum ps_opt_origin p = ps_opts_origin(o, "prompt"), f = ps_opts_origin(o, "file");
    const int rc = ps_cli_text(out, len, o, NULL, err);

    /* Editors end a file with a newline that nobody means, and so does `echo`: llama.cpp drops that of a file, and a
     * prompt must not become another one by being sent through a pipe. */
    if (rc == 0 && (f > p || p == PS_FROM_DEFAULT) && *len > 0 && (*out)[*len - 1] == '\n')
        --*len;
    return rc;
}

uint32_t ps_cli_most_tokens(size_t text_bytes)
{
    return text_bytes > (1u << 24) ? 1u << 24 : (uint32_t)text_bytes + 8;
}

/* Long texts would reserve several times the KV that they need that way; two bytes to a token is more than enough for
 * prose, code and most scripts, and a session that needs more than was planned makes a new plan. */
uint32_t ps_cli_estimate_tokens(size_t text_bytes)
{
    return ps_cli_most_tokens(text_bytes <= 1024 ? text_bytes : 1024 + (text_bytes - 1024) / 2);
}

int ps_cli_print_json(const struct ps_opts *o, const char *json, struct ps_err *err)
{
    struct ps_json *root = NULL;
    struct ps_strbuf b;
    int rc;

    ps_progress_end();
    if (!json)
        return ps_err_set(err, PS_ENOMEM, "cli", "out of memory");
    if (o->json)
        return ps_out_line(json, err);
    rc = ps_json_parse(&root, json, strlen(json), NULL, err);
    if (rc < 0)
        return rc;
    ps_strbuf_init(&b, (size_t)1 << 30);
    ps_pretty_write(&b, root);
    rc = ps_out_strbuf(&b, err);
    ps_strbuf_deinit(&b);
    ps_json_free(root);
    return rc;
}

int ps_cli_print_summary(const struct ps_opts *o, const char *json, struct ps_err *err)
{
    if (json && o->quiet && !o->json)
        return 0;
    return ps_cli_print_json(o, json, err);
}
