/* The commands that ask an engine for facts: plan, doctor, inspect MODEL, bench
 * gemv|codec|disk. */
#include "tools/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/hash.h"
#include "base/json.h"
#include "fetcher/rate_limit.h"
#include "proto/layout.h"
#include "runtime/cache_dir.h"
#include "tools/bench_net.h"
#include "tools/inspect_content.h"
#include "tools/inspect_diff.h"
#include "tools/inspect_file.h"
#include "tools/plan_text.h"
#include "tools/pretty.h"
#include "tools/progress.h"
#include "tools/textio.h"

static int open_for_facts(struct ps_engine **out, struct ps_engine_options *e, struct ps_err *err)
{
    e->headers_only = 1;
    e->without_tokenizer = 1;
    e->look_only = 1;
    return ps_cli_engine_open(out, e, err);
}

/* Tokens of the text that `run` would read. They are counted, not guessed: a guess would call a --ram too small that is
 * enough. */
static int count_tokens(uint32_t *n, const struct ps_engine_options *e, const struct ps_opts *o,
                        struct ps_err *err)
{
    struct ps_error error = {0};
    uint32_t *ids = NULL;
    char *text = NULL;
    size_t len = 0, count = 0;
    int rc = ps_cli_prompt(&text, &len, o, err);

    if (rc == 0 && ps_tokenize_from(e, text, len, o->no_bos ? 2 : 3, &ids, &count, &error) < 0)
        rc = ps_cli_error(err, &error);
    ps_ids_free(ids);
    ps_free(text);
    *n = count > 0 ? (uint32_t)count : 1;
    return rc;
}

/* What `run` with the same -p, -f, -n and -c would plan for. Without any of them: the engine's
 * default. */
static int plan_size(struct ps_engine_options *e, const struct ps_opts *o, struct ps_err *err)
{
    const bool has_text = ps_opts_origin(o, "prompt") || ps_opts_origin(o, "file");
    int rc = ps_cli_check_predict(o, err);

    if (rc == 0 && has_text)
        rc = count_tokens(&e->max_rows, e, o, err);

    if (e->ctx_size == 0 && (has_text || ps_opts_origin(o, "n-predict")))
        e->ctx_size = e->max_rows + (uint32_t)o->n_predict;
    if (e->max_rows > e->ctx_size)
        e->max_rows = e->ctx_size;
    return rc;
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

    if (rc == 0 && !o->probe && ps_opts_origin(o, "seconds") == PS_FROM_ARGV)
        rc = ps_err_set(err, PS_EUSAGE, "plan",
                        "--seconds: says how long to measure: say --probe, or leave it out");
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
    struct ps_engine_options e;
    struct ps_engine *engine = NULL;
    char *json;
    int rc = ps_cli_engine_options(&e, o, err);

    e.disk = "0"; /* facts alone: nothing is kept */
    e.ram = "min";
    if (rc == 0)
        rc = open_for_facts(&engine, &e, err);
    if (rc < 0)
        return rc;
    json = ps_engine_inspect_json(engine, o->extents);
    rc = ps_cli_print_json(o, json, err);
    ps_string_free(json);
    ps_cli_engine_close(engine);
    return rc;
}

struct side {
    struct ps_source *src;
    struct ps_rate_limit *limit;
    char *label;
    struct ps_model_files files;
};

static int open_side(struct side *s, const char *address, const struct ps_opts *o, struct ps_err *err)
{
    struct ps_store_options so = {0};
    int rc = ps_cli_store_options(&so, o, err);

    s->limit = so.limit;
    if (rc == 0)
        rc = ps_store_label(&s->label, address, err);
    if (rc == 0)
        rc = ps_store_open(&s->src, address, &so, err);
    if (rc == 0)
        rc = ps_cli_model_files(&s->files, s->src, o, err);
    return rc;
}

static void close_side(struct side *s)
{
    ps_source_close(s->src);
    ps_rate_limit_free(s->limit);
    ps_free(s->label);
    ps_model_files_close(&s->files);
}

static const char *codec_of(const struct side *s)
{
    return s->files.manifest ? s->files.manifest->codec : "raw";
}

/* The label and never the address, which may hold a password or a signature. */
static void write_side(struct ps_json_writer *w, const char *key, const struct side *s)
{
    char hex[2 * PS_SHA256_BYTES + 1];

    ps_hex_encode(s->files.map->model_id, PS_SHA256_BYTES, hex);
    ps_jw_key(w, key);
    ps_jw_object(w);
    ps_jw_kstring(w, "model", s->label);
    ps_jw_kstring(w, "model_id", hex);
    ps_jw_kstring(w, "codec", codec_of(s));
    ps_jw_kuint(w, "stored_bytes", s->files.map->stored_bytes);
    ps_jw_kbool(w, "hashed", s->files.map->presplit);
    ps_jw_object_end(w);
}

/* Said where people read it: the JSON has "not_compared" and "hashed". */
static void say_what_was_not_compared(const struct side *a, const struct side *b, uint32_t n)
{
    const struct side *const sides[] = {a, b};
    const bool hashed = a->files.map->presplit && b->files.map->presplit;
    if (n == 0)
        return;
    for (size_t i = 0; i < 2; i++)
        if (!sides[i]->files.map->presplit)
            fprintf(stderr, "penstock: inspect: %s is a plain folder, without hashes\n",
                    sides[i]->label);
    if (hashed)
        fprintf(stderr,
                "penstock: inspect: stored in different forms (%s, %s), whose hashes tell "
                "nothing of each other\n",
                codec_of(a), codec_of(b));
    fprintf(stderr,
            "penstock: inspect: the content of %u tensors was not compared: --content "
            "reads them from both\n",
            n);
}

/* What hashes don't tell of, as indexes of both sides. */
struct unknown {
    uint32_t *a, *b, n;
    bool *same;
    enum ps_content *content; /* of b's tensors */
};

static int find_unknown(struct unknown *u, const struct ps_map *a, const struct ps_map *b,
                        struct ps_err *err)
{
    const size_t n = (size_t)b->n_tensors + 1;
    u->a = ps_calloc(n, sizeof *u->a);
    u->b = ps_calloc(n, sizeof *u->b);
    u->same = ps_calloc(n, sizeof *u->same);
    u->content = ps_calloc(n, sizeof *u->content);
    if (!u->a || !u->b || !u->same || !u->content)
        return ps_err_set(err, PS_ENOMEM, "inspect", "out of memory");
    for (uint32_t i = 0; i < b->n_tensors; i++) {
        const int64_t at = ps_inspect_unknown(a, b, i);
        if (at < 0)
            continue;
        u->a[u->n] = (uint32_t)at;
        u->b[u->n++] = i;
    }
    return 0;
}

static int read_unknown(struct unknown *u, const struct side *a, const struct side *b,
                        struct ps_err *err)
{
    const struct ps_content_side x = {a->files.map, a->src, u->a}, y = {b->files.map, b->src, u->b};
    int rc = ps_inspect_content(u->same, &x, &y, u->n, ps_progress_update, err);

    for (uint32_t i = 0; i < u->n && rc == 0; i++)
        u->content[u->b[i]] = u->same[i] ? PS_CONTENT_SAME : PS_CONTENT_CHANGED;
    u->n = rc == 0 ? 0 : u->n;
    return rc;
}

static void free_unknown(struct unknown *u)
{
    ps_free(u->a);
    ps_free(u->b);
    ps_free(u->same);
    ps_free(u->content);
}

static int write_diff(struct ps_strbuf *text, const struct side *a, const struct side *b,
                      const struct unknown *u, const struct ps_opts *o, struct ps_err *err)
{
    struct ps_json_writer w;
    int rc;

    ps_jw_init(&w, text);
    ps_jw_object(&w);
    write_side(&w, "a", a);
    write_side(&w, "b", b);
    rc = ps_inspect_diff(&w, a->files.map, b->files.map, u->content, o->extents, err);
    ps_jw_object_end(&w);
    return rc;
}

static int inspect_two(const struct ps_opts *o, struct ps_err *err)
{
    struct side a = {0}, b = {0};
    struct unknown u = {0};
    struct ps_strbuf text;
    int rc = ps_cli_one_server(o, o->args, 2, err);

    if (rc == 0)
        rc = open_side(&a, o->args[0], o, err);
    if (rc == 0)
        rc = open_side(&b, o->args[1], o, err);
    if (rc == 0)
        rc = find_unknown(&u, a.files.map, b.files.map, err);
    if (rc == 0 && o->content)
        rc = read_unknown(&u, &a, &b, err);
    ps_strbuf_init(&text, (size_t)1 << 30);
    if (rc == 0)
        rc = write_diff(&text, &a, &b, &u, o, err);
    if (rc == 0)
        rc = ps_cli_print_json(o, ps_strbuf_ok(&text) ? text.data : NULL, err);
    if (rc == 0 && !o->json)
        say_what_was_not_compared(&a, &b, u.n);
    ps_strbuf_deinit(&text);
    free_unknown(&u);
    close_side(&a);
    close_side(&b);
    return rc;
}

int ps_cmd_inspect(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_strbuf b;
    int rc;

    if (o->diff != (o->n_args == 2))
        return ps_err_set(err, PS_EUSAGE, "inspect",
                          o->diff
                              ? "--diff: the second model is missing: usage: penstock inspect "
                                "--diff A B"
                              : "'%s' is one argument too many: to compare two models say --diff",
                          o->args[o->n_args - 1]);
    if (o->content && !o->diff)
        return ps_err_set(err, PS_EUSAGE, "inspect",
                          "--content: compares two models: say --diff A B");
    if (o->diff)
        return inspect_two(o, err);
    if (ps_inspect_is_file(o->args[0]) && o->verify_keys.n)
        return ps_err_set(err, PS_EUSAGE, "inspect",
                          "--verify-key: name the model, not one of its files");
    if (!ps_inspect_is_file(o->args[0]))
        return inspect_model(o, err);
    ps_strbuf_init(&b, (size_t)1 << 30);
    rc = ps_inspect_file(&b, o->args[0], o->extents, err);
    if (rc == 0)
        rc = ps_cli_print_json(o, ps_strbuf_ok(&b) ? b.data : NULL, err);
    ps_strbuf_deinit(&b);
    return rc;
}

/* What only `bench net` reads would be ignored. */
static int check_bench_options(const struct ps_opts *o, const char *what, struct ps_err *err)
{
    const struct ps_opt_spec *s;

    if (ps_opts_origin(o, "seconds") == PS_FROM_ARGV)
        return ps_err_set(err, PS_EUSAGE, "bench",
                          "%s: --seconds: only `bench net` takes it: the others measure as long as "
                          "they need",
                          what);
    for (size_t i = 0; (s = ps_option_at(i)); i++)
        if (s->group == PS_GROUP_NETWORK && o->origin[i] == PS_FROM_ARGV)
            return ps_err_set(err, PS_EUSAGE, "bench",
                              "%s: --%s: only `bench net` takes it: the others need no network",
                              what, s->name);
    return 0;
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
    rc = check_bench_options(o, what, err);
    if (rc == 0)
        rc = ps_cache_dir_find(&dir, o->cache, err);
    if (rc == 0 && ps_bench_json(&json, what, (uint32_t)o->threads, dir, &error) < 0)
        rc = ps_cli_error(err, &error);
    else if (rc == 0)
        rc = ps_cli_print_json(o, json, err);
    ps_string_free(json);
    ps_free(dir);
    return rc;
}
