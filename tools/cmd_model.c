/* The commands that ask an engine for facts: plan, doctor, inspect MODEL, bench
 * gemv|codec|disk. */
#include "tools/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/json.h"
#include "tools/bench_net.h"
#include "tools/inspect_file.h"
#include "tools/plan_text.h"
#include "tools/pretty.h"
#include "tools/progress.h"
#include "tools/textio.h"

static int open_for_facts(struct ps_engine **out, struct ps_engine_options *e, struct ps_err *err)
{
    e->headers_only = 1;
    e->without_tokenizer = 1;
    return ps_cli_engine_open(out, e, err);
}

/* What `run` with the same -p, -f, -n and -c would plan for. Without any of them: the engine's
 * default. */
static int plan_size(struct ps_engine_options *e, const struct ps_opts *o, struct ps_err *err)
{
    bool has_text = ps_opts_origin(o, "prompt") || ps_opts_origin(o, "file");
    char *text = NULL;
    size_t len = 0;
    int rc;

    if (has_text) {
        rc = ps_cli_text(&text, &len, o, NULL, err);
        if (rc < 0)
            return rc;
        ps_free(text);
        e->max_rows = ps_cli_estimate_tokens(len);
    }
    if (e->ctx_size == 0 && (has_text || ps_opts_origin(o, "n-predict")))
        e->ctx_size = e->max_rows + (uint32_t)o->n_predict;
    if (e->max_rows > e->ctx_size)
        e->max_rows = e->ctx_size;
    return 0;
}

static int print_plan_text(const struct ps_json *root, struct ps_err *err)
{
    struct ps_strbuf b;
    int rc;

    ps_progress_end();
    ps_strbuf_init(&b, 1 << 20);
    ps_plan_text_write(&b, root);
    rc = ps_out_strbuf(&b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static int print_plan(const struct ps_opts *o, const char *json, struct ps_err *err)
{
    struct ps_json *root = NULL;
    struct ps_strbuf priced;
    int rc;

    if (!json)
        return ps_cli_print_json(o, json, err);
    ps_strbuf_init(&priced, 1 << 20);
    rc = ps_plan_add_price(&priced, json, o->price_per_gb, err);
    if (rc == 0 && o->json)
        rc = ps_cli_print_json(o, priced.data, err);
    else if (rc == 0)
        rc = ps_json_parse(&root, priced.data, priced.len, NULL, err);
    if (root)
        rc = print_plan_text(root, err);
    ps_strbuf_deinit(&priced);
    ps_json_free(root);
    return rc;
}

int ps_cmd_plan(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_engine_options e;
    struct ps_engine *engine = NULL;
    struct ps_error error = {0};
    char *json = NULL;
    int rc = ps_cli_engine_options(&e, o, err);

    if (rc == 0)
        rc = plan_size(&e, o, err);
    if (rc == 0)
        rc = open_for_facts(&engine, &e, err);
    if (rc < 0)
        return rc;
    if (o->probe && ps_engine_probe_json(&json, engine, o->seconds, &error) < 0)
        rc = ps_cli_error(err, &error);
    ps_string_free(json);
    if (rc == 0) {
        json = ps_engine_plan_json(engine);
        rc = print_plan(o, json, err);
        ps_string_free(json);
    }
    ps_cli_engine_close(engine);
    return rc;
}

int ps_cmd_doctor(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_engine_options e;
    struct ps_engine *engine = NULL;
    struct ps_error error = {0};
    char *json = NULL;
    int rc = ps_cli_engine_options(&e, o, err);

    if (rc == 0)
        rc = open_for_facts(&engine, &e, err);
    if (rc < 0)
        return rc;
    if (ps_engine_probe_json(&json, engine, o->seconds, &error) < 0)
        rc = ps_cli_error(err, &error);
    else
        rc = ps_cli_print_json(o, json, err);
    ps_string_free(json);
    ps_cli_engine_close(engine);
    return rc;
}

static int inspect_model(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_engine_options e = {.struct_size = sizeof e,
                                  .model = o->args[0],
                                  .disk = "0", /* facts alone: nothing is kept */
                                  .ram = "min",
                                  .http_version = o->http,
                                  .max_egress = o->max_egress,
                                  .net_limit = o->net_limit,
                                  .connections = (uint32_t)o->connections,
                                  .net_deadline_s = (uint32_t)o->net_deadline,
                                  .net_stall_s = (uint32_t)o->net_stall};
    struct ps_engine *engine = NULL;
    char *json;
    int rc = open_for_facts(&engine, &e, err);

    if (rc < 0)
        return rc;
    json = ps_engine_inspect_json(engine, o->extents);
    rc = ps_cli_print_json(o, json, err);
    ps_string_free(json);
    ps_cli_engine_close(engine);
    return rc;
}

int ps_cmd_inspect(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_strbuf b;
    int rc;

    if (!ps_inspect_is_file(o->args[0]))
        return inspect_model(o, err);
    ps_strbuf_init(&b, (size_t)1 << 30);
    rc = ps_inspect_file(&b, o->args[0], o->extents, err);
    if (rc == 0)
        rc = ps_cli_print_json(o, ps_strbuf_ok(&b) ? b.data : NULL, err);
    ps_strbuf_deinit(&b);
    return rc;
}

int ps_cmd_bench(const struct ps_opts *o, struct ps_err *err)
{
    const char *what = o->args[0];
    struct ps_error error = {0};
    char *json = NULL, *dir = NULL;
    int rc;

    if (strcmp(what, "net") == 0)
        return ps_bench_net(o, err);
    if (o->n_args > 1)
        return ps_err_set(err, PS_EUSAGE, "bench", "%s: '%s' is one argument too many", what,
                          o->args[1]);
    rc = ps_cli_cache_dir(&dir, o, err);
    if (rc == 0 && ps_bench_json(&json, what, (uint32_t)o->threads, dir, &error) < 0)
        rc = ps_cli_error(err, &error);
    else if (rc == 0)
        rc = ps_cli_print_json(o, json, err);
    ps_string_free(json);
    ps_free(dir);
    return rc;
}
