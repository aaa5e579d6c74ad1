/* `penstock tokenize` and `penstock logits`: ids out, ids in. */
#include "tools/cli.h"

#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "base/json.h"
#include "tools/progress.h"
#include "runtime/engine.h"
#include "tools/textio.h"

#define IDS_MAX  (1u << 24)
#define JSON_MAX ((size_t)8 << 30)
#define TOP      5

static void write_ids(struct ps_strbuf *b, const uint32_t *ids, size_t n, bool json)
{
    const char *between = json ? "," : " ";

    ps_strbuf_puts(b, json ? "{\"tokens\":[" : "");
    for (size_t i = 0; i < n; i++)
        ps_strbuf_printf(b, "%s%u", i ? between : "", ids[i]);
    ps_strbuf_puts(b, json ? "]}\n" : "\n");
}

int ps_cmd_tokenize(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_engine_options e;
    struct ps_error error = {0};
    struct ps_strbuf b;
    uint32_t *ids = NULL;
    char *text = NULL;
    size_t len = 0, n = 0;
    int rc = ps_cli_engine_options(&e, o, err);

    if (rc == 0)
        rc = ps_cli_text(&text, &len, o, o->n_args > 1 ? o->args[1] : NULL, err);
    if (rc < 0)
        return rc;
    if (ps_tokenize_from(&e, text, len, o->no_bos ? 2 : 3, &ids, &n, &error) < 0)
        rc = ps_cli_error(err, &error);
    ps_free(text);
    if (rc == 0) {
        ps_strbuf_init(&b, (size_t)4 << 30);
        write_ids(&b, ids, n, o->json);
        rc = ps_out_strbuf(&b, err);
        ps_strbuf_deinit(&b);
    }
    ps_ids_free(ids);
    return rc;
}

static int check_out(const struct ps_opts *o, struct ps_err *err)
{
    if (!o->out)
        return 0;
    if (strcmp(o->out, "-") != 0)
        return ps_text_check_file("--out", o->out, err);
    return o->json ? ps_err_set(err, PS_EUSAGE, "logits",
                                "--out - with --json: both go to stdout: give one of them")
                   : 0;
}

/* "1,15043,3186": digits and single commas alone. */
static int parse_ids(uint32_t **out, size_t *n, const char *text, struct ps_err *err)
{
    size_t count = 1, at = 0;
    uint32_t *ids;

    for (const char *p = text; *p; p++)
        count += *p == ',';
    if (count > IDS_MAX)
        return ps_err_set(err, PS_EUSAGE, "logits", "--tokens: more than %u ids", IDS_MAX);
    ids = ps_malloc(count * sizeof *ids);
    if (!ids)
        return ps_err_set(err, PS_ENOMEM, "logits", "out of memory for the ids");
    for (const char *p = text; at < count; p++) {
        size_t digits = strspn(p, "0123456789");
        uint64_t v = 0;

        for (size_t i = 0; i < digits && v <= UINT32_MAX; i++)
            v = v * 10 + (uint64_t)(p[i] - '0');
        if (digits == 0 || v > UINT32_MAX || (p[digits] && p[digits] != ',')) {
            ps_free(ids);
            return ps_err_set(err, PS_EUSAGE, "logits",
                              "--tokens: '%.*s' is no token id: give ids separated by commas",
                              (int)strcspn(p, ","), p);
        }
        ids[at++] = (uint32_t)v;
        p += digits;
    }
    *out = ids;
    *n = count;
    return 0;
}

/* Row by row: the text takes three times the room of the numbers, and --ram counts those alone. */
static int write_logits_json(struct ps_strbuf *b, const float *logits, size_t n, uint32_t vocab,
                             struct ps_err *err)
{
    struct ps_json_writer w;
    int rc = 0;

    ps_jw_init(&w, b);
    ps_jw_object(&w);
    ps_jw_kuint(&w, "vocab", vocab);
    ps_jw_kuint(&w, "positions", n);
    ps_jw_key(&w, "logits");
    ps_jw_array(&w);
    for (size_t i = 0; i < n && rc == 0; i++) {
        ps_jw_array(&w);
        for (uint32_t k = 0; k < vocab; k++)
            ps_jw_double(&w, (double)logits[i * vocab + k]);
        ps_jw_array_end(&w);
        rc = ps_out_strbuf(b, err);
        ps_strbuf_reset(b);
    }
    ps_jw_array_end(&w);
    ps_jw_object_end(&w);
    ps_strbuf_puts(b, "\n");
    return rc;
}

/* Ties go to the lowest id, as everywhere. */
static void write_top(struct ps_strbuf *b, const float *row, size_t n, uint32_t vocab)
{
    uint32_t best[TOP], found = 0;

    ps_strbuf_printf(b, "%zu positions, vocabulary %u; the likeliest tokens behind the last position:\n",
                     n, vocab);
    while (found < TOP && found < vocab) {
        int64_t top = -1;

        for (uint32_t k = 0; k < vocab; k++) {
            bool used = false;

            for (uint32_t i = 0; i < found; i++)
                used |= best[i] == k;
            if (!used && (top < 0 || row[k] > row[top]))
                top = k;
        }
        best[found++] = (uint32_t)top;
        ps_strbuf_printf(b, "%10u  %.6f\n", (uint32_t)top, (double)row[top]);
    }
}

static int print_logits(const struct ps_opts *o, const float *logits, size_t n, uint32_t vocab,
                        struct ps_err *err)
{
    struct ps_strbuf b;
    int rc = 0;

    ps_progress_end();
    if (o->out && strcmp(o->out, "-") == 0)
        return ps_out_write((const char *)logits, n * vocab * sizeof *logits, err);
    if (o->out)
        rc = ps_text_write_file(o->out, logits, n * vocab * sizeof *logits, err);
    if (rc < 0 || (o->out && !o->json))
        return rc;
    ps_strbuf_init(&b, JSON_MAX);
    if (o->json)
        rc = write_logits_json(&b, logits, n, vocab, err);
    else
        write_top(&b, logits + (n - 1) * vocab, n, vocab);
    if (rc == 0)
        rc = ps_out_strbuf(&b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static int check_ids(const uint32_t *ids, size_t n, uint32_t vocab, struct ps_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= vocab)
            return ps_err_set(err, PS_EUSAGE, "logits",
                              "--tokens: %u is out of range: the vocabulary has %u tokens", ids[i],
                              vocab);
    return 0;
}

static int compute(struct ps_engine *engine, const struct ps_opts *o, const uint32_t *ids, size_t n,
                   struct ps_err *err)
{
    struct ps_error error = {0};
    uint32_t vocab = 0;
    float *logits;
    int rc;

    if (ps_engine_logits(engine, ids, n, NULL, 0, &vocab, &error) < 0)
        return ps_cli_error(err, &error);
    rc = check_ids(ids, n, vocab, err);
    if (rc < 0)
        return rc;
    logits = ps_calloc(n, (size_t)vocab * sizeof *logits);
    if (!logits)
        return ps_err_set(err, PS_ENOMEM, "logits", "out of memory: %zu positions of %u floats", n,
                          vocab);
    if (ps_engine_logits(engine, ids, n, logits, n * vocab, &vocab, &error) < 0)
        rc = ps_cli_error(err, &error);
    else
        rc = print_logits(o, logits, n, vocab, err);
    ps_free(logits);
    return rc;
}

int ps_cmd_logits(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_engine_options e;
    struct ps_engine *engine = NULL;
    uint32_t *ids = NULL;
    size_t n = 0;
    int rc;

    if (!o->tokens)
        return ps_err_set(err, PS_EUSAGE, "logits",
                          "--tokens is missing: give ids separated by commas");
    rc = check_out(o, err);
    if (rc == 0)
        rc = ps_cli_engine_options(&e, o, err);
    if (rc == 0)
        rc = parse_ids(&ids, &n, o->tokens, err);
    if (rc < 0)
        return rc;
    e.without_tokenizer = 1;
    e.headers_only = 1; /* an id out of range costs no weights */
    e.kv_type_k = e.kv_type_k ? e.kv_type_k : "f32";
    e.kv_type_v = e.kv_type_v ? e.kv_type_v : "f32";
    if (e.ctx_size > 0 && e.ctx_size < n)
        rc = ps_err_set(err, PS_EUSAGE, "logits",
                        "--ctx-size %u: --tokens has %zu: raise it or leave it out", e.ctx_size, n);
    e.ctx_size = e.ctx_size ? e.ctx_size : (uint32_t)n;
    e.max_rows = (uint32_t)n;
    if (rc == 0)
        rc = ps_cli_engine_open(&engine, &e, err);
    if (rc == 0) {
        rc = compute(engine, o, ids, n, err);
        ps_cli_engine_close(engine);
    }
    ps_free(ids);
    return rc;
}
