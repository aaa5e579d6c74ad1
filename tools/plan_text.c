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
}
