/* See cache_text.h. */
#include "tools/cache_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/size.h"

#define BAR 20

struct part {
    int64_t layer, held, all;
};

static int64_t number(const struct ps_json *o, const char *key)
{
    const struct ps_json *v = ps_json_get(o, key);

    return v && v->kind == PS_JSON_INT ? v->integer : 0;
}

static const char *string(const struct ps_json *o, const char *key)
{
    const struct ps_json *v = ps_json_get(o, key);

    return v && v->kind == PS_JSON_STRING ? v->s : "";
}

static const char *size(char *out, size_t cap, int64_t bytes)
{
    return ps_size_format(out, cap, bytes > 0 ? (uint64_t)bytes : 0);
}

/* Share in tenths of a percent, -1 unknown. All but all is not all. */
static int64_t share(int64_t held, int64_t all)
{
    int64_t s = all > 0 ? (int64_t)(1000.0 * (double)held / (double)all) : -1;

    return s >= 1000 && held < all ? 999 : s;
}

static void bar(struct ps_strbuf *b, int64_t tenths)
{
    int64_t full = tenths * BAR / 1000;

    if (tenths > 0 && full == 0)
        full = 1; /* something */
    ps_strbuf_puts(b, "[");
    for (int64_t i = 0; i < BAR; i++)
        ps_strbuf_puts(b, i < full ? "#" : ".");
    ps_strbuf_puts(b, "]");
}

static void part_line(struct ps_strbuf *b, const struct part *first, const struct part *last,
                      int64_t held, int64_t all)
{
    char name[48], h[32], a[32];
    int64_t tenths = share(held, all);

    if (first->layer < 0)
        snprintf(name, sizeof name, "outside of layers");
    else if (first->layer == last->layer)
        snprintf(name, sizeof name, "layer %" PRId64, first->layer);
    else
        snprintf(name, sizeof name, "layers %" PRId64 "-%" PRId64, first->layer, last->layer);
    ps_strbuf_printf(b, "    %-18s ", name);
    if (tenths < 0) { /* the model was never opened by a version that tells */
        ps_strbuf_printf(b, "%s\n", size(h, sizeof h, held));
        return;
    }
    bar(b, tenths);
    ps_strbuf_printf(b, " %5.1f %%  %s of %s\n", (double)tenths / 10, size(h, sizeof h, held),
                     size(a, sizeof a, all));
}

static struct part part_of(const struct ps_json *o)
{
    return (struct part){number(o, "layer"), number(o, "held_bytes"), number(o, "bytes")};
}

/* Layers that follow one another and are held alike, to a percent. */
static bool joins(const struct part *a, const struct part *b)
{
    return a->layer >= 0 && b->layer == a->layer + 1 &&
           share(a->held, a->all) / 10 == share(b->held, b->all) / 10 &&
           (share(a->held, a->all) == 1000) == (share(b->held, b->all) == 1000);
}

static void parts(struct ps_strbuf *b, const struct ps_json *resident)
{
    for (const struct ps_json *at = resident ? resident->child : NULL; at;) {
        const struct part first = part_of(at);
        struct part last = first;
        int64_t held = first.held, all = first.all;

        for (at = at->next; at; at = at->next) {
            const struct part next = part_of(at);

            if (!joins(&last, &next))
                break;
            held += next.held;
            all += next.all;
            last = next;
        }
        part_line(b, &first, &last, held, all);
    }
}

static void model(struct ps_strbuf *b, const struct ps_json *m)
{
    char held[32], all[32];
    int64_t files = number(m, "files_bytes"), weights = number(m, "bytes") - files;
    int64_t stored = number(m, "stored_bytes");
    const struct ps_json *pinned = ps_json_get(m, "pinned");

    ps_strbuf_printf(b, "%.12s  %s", string(m, "model_id"), size(held, sizeof held, weights));
    if (stored > 0)
        ps_strbuf_printf(b, " of %s (%.1f %%)", size(all, sizeof all, stored),
                         (double)share(weights, stored) / 10);
    if (files > 0)
        ps_strbuf_printf(b, ", files %s", size(held, sizeof held, files));
    if (number(m, "priority") != 0)
        ps_strbuf_printf(b, ", priority %" PRId64, number(m, "priority"));
    if (pinned && pinned->kind == PS_JSON_BOOL && pinned->boolean)
        ps_strbuf_puts(b, ", pinned");
    ps_strbuf_printf(b, "  %s\n", string(m, "source"));
    parts(b, ps_json_get(m, "resident"));
}

int ps_cache_text(struct ps_strbuf *out, const char *json, size_t len, struct ps_err *err)
{
    struct ps_json *j = NULL;
    char a[32], l[32];
    int rc = ps_json_parse(&j, json, len, NULL, err);

    if (rc < 0)
        return rc;
    const struct ps_json *models = ps_json_get(j, "models");
    const int64_t limit = number(j, "budget_bytes");

    ps_strbuf_printf(out, "%s: %s", string(j, "dir"),
                     size(a, sizeof a, number(j, "allocated_bytes")));
    if (limit > 0)
        ps_strbuf_printf(out, " of at most %s", size(l, sizeof l, limit));
    ps_strbuf_puts(out, models && models->child ? "\n" : ", no models\n");
    for (const struct ps_json *m = models ? models->child : NULL; m; m = m->next)
        model(out, m);
    ps_json_free(j);
    return 0;
}
