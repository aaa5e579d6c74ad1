/* See plan_text.h. */
#include "tools/plan_text.h"

#include <string.h>
#include "base/size.h"
#include "tools/pretty.h"

static double get(const struct ps_json *o, const char *key)
{
    const struct ps_json *v = ps_json_get(o, key);

    return !v                          ? -1
           : v->kind == PS_JSON_INT    ? (double)v->integer
           : v->kind == PS_JSON_DOUBLE ? v->number
                                       : -1;
}

static const char *text(char *out, size_t cap, const struct ps_json *o, const char *key)
{
    const struct ps_json *v = ps_json_get(o, key);

    return v ? ps_pretty_value(out, cap, key, v) : "-";
}

static void share(struct ps_strbuf *b, const struct ps_json *p, const char *key)
{
    double part = get(p, key), all = get(p, "stored_bytes");

    if (part >= 0 && all > 0)
        ps_strbuf_printf(b, " (%.0f %% of the model)", 100 * part / all);
}

static void tiers(struct ps_strbuf *b, const struct ps_json *p)
{
    char v[80];

    ps_strbuf_printf(b, "on disk        %s", text(v, sizeof v, p, "disk_bytes"));
    share(b, p, "disk_bytes");
    if (get(p, "disk_budget_bytes") >= 0)
        ps_strbuf_printf(b, ", budget %s", text(v, sizeof v, p, "disk_budget_bytes"));
    ps_strbuf_printf(b, "\nin RAM         %s", text(v, sizeof v, p, "ram_bytes"));
    share(b, p, "ram_bytes");
    if (get(p, "ram_budget_bytes") >= 0)
        ps_strbuf_printf(b, ", budget %s", text(v, sizeof v, p, "ram_budget_bytes"));
    ps_strbuf_printf(b, ", least that works %s\n", text(v, sizeof v, p, "ram_min_bytes"));
    if (get(p, "vram_bytes") < 0)
        return;
    ps_strbuf_printf(b, "in VRAM        %s", text(v, sizeof v, p, "vram_bytes"));
    share(b, p, "vram_bytes");
    ps_strbuf_printf(b, ", budget %s", text(v, sizeof v, p, "vram_budget_bytes"));
    ps_strbuf_printf(b, ", least that works %s", text(v, sizeof v, p, "vram_min_bytes"));
    ps_strbuf_printf(b, "; %s layers on ", text(v, sizeof v, p, "device_layers"));
    ps_strbuf_printf(b, "%s\n", text(v, sizeof v, p, "device"));
}

static void sweep(struct ps_strbuf *b, const struct ps_json *p)
{
    char v[80];

    ps_strbuf_printf(b, "each sweep     %s", text(v, sizeof v, p, "bytes_per_sweep"));
    ps_strbuf_printf(b, ": %s from the network", text(v, sizeof v, p, "bytes_net_per_sweep"));
    ps_strbuf_printf(b, ", %s from disk", text(v, sizeof v, p, "bytes_disk_per_sweep"));
    if (get(p, "bytes_bus_per_sweep") >= 0)
        ps_strbuf_printf(b, ", %s over the bus", text(v, sizeof v, p, "bytes_bus_per_sweep"));
    ps_strbuf_puts(b, "\n");
}

static void prediction(struct ps_strbuf *b, const struct ps_json *p)
{
    double s = get(p, "predicted_s_per_token"), age = get(p, "probe_age_s");
    char v[80];

    if (s < 0) {
        ps_strbuf_puts(b, "predicted      unknown: nothing has been measured yet: `penstock plan "
                          "--probe` or `penstock "
                          "doctor` measures\n");
        return;
    }
    ps_strbuf_printf(b, "predicted      %s per token", ps_pretty_seconds(v, sizeof v, s));
    ps_strbuf_printf(b, "; what binds: %s", text(v, sizeof v, p, "binds"));
    if (age >= 0)
        ps_strbuf_printf(b, " (measured %s ago)", ps_pretty_seconds(v, sizeof v, age));
    ps_strbuf_puts(b, "\n");
}

static void cost(struct ps_strbuf *b, const struct ps_json *p)
{
    if (get(p, "price_per_gb") < 0)
        return;
    ps_strbuf_printf(b, "traffic costs  %.4g to fill the disk, %.4g each sweep, at %.4g per GB\n",
                     get(p, "egress_cost_to_fill"), get(p, "egress_cost_per_sweep"),
                     get(p, "price_per_gb"));
}

int ps_plan_add_price(struct ps_strbuf *out, const char *json, double price_per_gb, struct ps_err *err)
{
    struct ps_json *p = NULL;
    const char *end = strrchr(json, '}');
    struct ps_json_writer w;
    int rc = ps_json_parse(&p, json, strlen(json), NULL, err);

    if (rc < 0)
        return rc;
    if (price_per_gb > 0) {
        ps_strbuf_append(out, json, (size_t)(end - json));
        ps_strbuf_puts(out, ",\"egress_cost_to_fill\":");
        ps_jw_init(&w, out);
        ps_jw_double(&w, get(p, "disk_bytes") / 1e9 * price_per_gb);
        ps_strbuf_puts(out, ",\"egress_cost_per_sweep\":");
        ps_jw_init(&w, out);
        ps_jw_double(&w, get(p, "bytes_net_per_sweep") / 1e9 * price_per_gb);
        ps_strbuf_puts(out, ",\"price_per_gb\":");
        ps_jw_init(&w, out);
        ps_jw_double(&w, price_per_gb);
        json = end;
    }
    ps_strbuf_puts(out, json);
    ps_json_free(p);
    return ps_strbuf_ok(out) ? 0 : ps_err_set(err, PS_ENOMEM, "plan", "out of memory");
}

void ps_plan_text_write(struct ps_strbuf *b, const struct ps_json *p)
{
    char v[80];

    ps_strbuf_printf(b, "model          %s\n", text(v, sizeof v, p, "model_id"));
    ps_strbuf_printf(b, "size           %s", text(v, sizeof v, p, "model_bytes"));
    ps_strbuf_printf(b, ", stored in %s", text(v, sizeof v, p, "stored_bytes"));
    ps_strbuf_printf(b, ": %s layers", text(v, sizeof v, p, "layers"));
    ps_strbuf_printf(b, ", %s extents", text(v, sizeof v, p, "extents"));
    ps_strbuf_printf(b, " of %s\n", text(v, sizeof v, p, "extent_bytes"));
    tiers(b, p);
    sweep(b, p);
    prediction(b, p);
    cost(b, p);
}
