/* See run_report.h. */
#include "tools/run_report.h"

#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "base/json.h"
#include "tools/pretty.h"

/* The members of an object as text, without its braces. */
static const char *members(const char *object, size_t *len)
{
    const char *begin = strchr(object, '{'), *end = strrchr(object, '}');

    *len = begin && end > begin + 1 ? (size_t)(end - begin - 1) : 0;
    return begin ? begin + 1 : object;
}

static bool says_error(const char *stats)
{
    struct ps_json *root = NULL;
    bool found;

    if (!stats || ps_json_parse(&root, stats, strlen(stats), NULL, NULL) < 0)
        return false;
    found = ps_json_get(root, "error") != NULL;
    ps_json_free(root);
    return found;
}

void ps_run_report_json(struct ps_strbuf *b, const struct ps_run_report *r)
{
    struct ps_json_writer w;
    struct ps_strbuf own;
    const char *theirs = "", *ours;
    size_t n_theirs = 0, n_ours;

    ps_strbuf_init(&own, b->max);
    ps_jw_init(&w, &own);
    ps_jw_object(&w);
    if (r->text) {
        ps_jw_key(&w, "text");
        ps_jw_string(&w, r->text, r->text_len);
    }
    if (r->seed)
        ps_jw_kuint(&w, "seed", *r->seed);
    if (r->rc < 0 && !says_error(r->stats)) {
        ps_jw_kstring(&w, "error", r->error);
        ps_jw_kint(&w, "exit", ps_err_exit_status(r->rc));
    }
    ps_jw_object_end(&w);
    ours = members(own.data, &n_ours);
    if (r->stats)
        theirs = members(r->stats, &n_theirs);
    ps_strbuf_puts(b, "{");
    ps_strbuf_append(b, ours, n_ours);
    ps_strbuf_puts(b, n_ours && n_theirs ? "," : "");
    ps_strbuf_append(b, theirs, n_theirs);
    ps_strbuf_puts(b, "}");
    if (!ps_strbuf_ok(&own))
        b->failed = true;
    ps_strbuf_deinit(&own);
}

static double value(const struct ps_json *o, const char *key)
{
    const struct ps_json *v = ps_json_get(o, key);

    return !v                          ? -1
           : v->kind == PS_JSON_INT    ? (double)v->integer
           : v->kind == PS_JSON_DOUBLE ? v->number
                                       : -1;
}

static void put(struct ps_strbuf *b, const char *before, const struct ps_json *o, const char *key,
                const char *after)
{
    const struct ps_json *v = ps_json_get(o, key);
    char text[64];

    if (v)
        ps_strbuf_printf(b, "%s%s%s", before, ps_pretty_value(text, sizeof text, key, v), after);
}

static void speed_line(struct ps_strbuf *b, const struct ps_json *s)
{
    char predicted[32], took[32];
    double tok_s = value(s, "decode_tok_s"), plan = value(s, "plan_predicted_s_per_token");

    put(b, "", s, "tokens_generated", " tokens after a prompt of ");
    put(b, "", s, "tokens_prompt", "");
    if (value(s, "ttft_s") >= 0)
        put(b, "; the first after ", s, "ttft_s", "");
    if (tok_s > 0) {
        ps_strbuf_printf(b, ", then %.3g tok/s (%s per token", tok_s,
                         ps_pretty_seconds(took, sizeof took, 1 / tok_s));
        if (plan >= 0)
            ps_strbuf_printf(b, ", planned %s", ps_pretty_seconds(predicted, sizeof predicted, plan));
        ps_strbuf_puts(b, ")");
    }
}

static void bytes_line(struct ps_strbuf *b, const struct ps_json *s)
{
    put(b, "\nweights: ", s, "bytes_net", " from the network");
    put(b, ", ", s, "bytes_disk_read", " from disk");
    put(b, ", ", s, "bytes_ram_hit", " from RAM");
    put(b, ", ", s, "bytes_vram_hit", " from VRAM");
    put(b, ", ", s, "bytes_to_device", " over the bus");
    if (value(s, "hit_ratio") >= 0)
        ps_strbuf_printf(b, "; %.1f %% hits", 100 * value(s, "hit_ratio"));
    if (value(s, "link_busy_pct") > 0)
        put(b, "; link busy ", s, "link_busy_pct", "");
    put(b, "; at most ", s, "rss_bytes_max", " resident");
    put(b, ", ", s, "vram_bytes_max", " of VRAM");
}

void ps_run_report_summary(struct ps_strbuf *b, const struct ps_run_report *r)
{
    struct ps_json *s = NULL;

    if (!r->stats || ps_json_parse(&s, r->stats, strlen(r->stats), NULL, NULL) < 0)
        return;
    speed_line(b, s);
    if (r->seed)
        ps_strbuf_printf(b, "; seed %llu", (unsigned long long)*r->seed);
    bytes_line(b, s);
    ps_strbuf_puts(b, "\n");
    ps_json_free(s);
}
