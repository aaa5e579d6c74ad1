/* Where bytes come from: the public options as those of the stores. Comes in: engine options. Goes out: an open
 * source. */
#include <string.h>

#include "base/size.h"
#include "fetcher/store.h"
#include "runtime/engine.h"

static const char *const ORIGIN = "engine";

static int http_version(enum ps_http_version *out, const char *text, struct ps_err *err)
{
    *out = PS_HTTP_AUTO;
    if (!text || !*text || strcmp(text, "auto") == 0)
        return 0;
    if (strcmp(text, "h1") != 0 && strcmp(text, "h2") != 0)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "--http: unknown value \"%.20s\": use auto, h1 or h2", text);
    *out = text[1] == '1' ? PS_HTTP_1 : PS_HTTP_2;
    return 0;
}

/* The caller's struct may be older (shorter) than ours: what it lacks is zero. */
static int read_source_options(struct ps_source_options *out, const struct ps_engine_options *o,
                               struct ps_err *err)
{
    memset(out, 0, sizeof *out);
    if (!o->source)
        return 0;
    if (o->source->struct_size < sizeof(uint32_t) || o->source->struct_size > sizeof *out)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "ps_source_options.struct_size is wrong");
    memcpy(out, o->source, o->source->struct_size);
    if ((out->n_headers > 0 && !out->headers) || (out->n_mirrors > 0 && !out->mirrors))
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "%u headers and %u mirrors, but none of them is given", out->n_headers,
                          out->n_mirrors);
    return 0;
}

int ps_engine_source_open(struct ps_source **out, const struct ps_engine_options *o, bool direct,
                          struct ps_rate_limit *limit, struct ps_stats *stats,
                          const atomic_int *interrupt, struct ps_err *err)
{
    struct ps_size egress;
    struct ps_source_options s;
    int rc = read_source_options(&s, o, err);
    const struct ps_access_options access = {
        .bearer = s.bearer,
        .bearer_file = s.bearer_file,
        .headers = s.headers,
        .n_headers = s.n_headers,
        .netrc = s.netrc != 0,
        .netrc_file = s.netrc_file,
        .ca_file = s.cacert,
        .cert_file = s.cert,
        .key_file = s.key,
    };
    struct ps_store_options so = {
        .connections = o->connections,
        .net_deadline_s = o->net_deadline_s,
        .net_stall_s = o->net_stall_s,
        .direct_io = direct,
        .stats = stats,
        .interrupt = interrupt,
        .hedge_pct = o->hedge_pct,
        .limit = limit,
        .access = &access,
        .mirrors = s.mirrors,
        .n_mirrors = s.n_mirrors,
    };
    if (rc == 0)
        rc = ps_size_parse(&egress, o->max_egress, "--max-egress", err);
    if (rc == 0 && egress.kind != PS_SIZE_DEFAULT && egress.kind != PS_SIZE_BYTES)
        rc = ps_err_set(err, PS_EUSAGE, ORIGIN, "--max-egress: give a size such as 20G");
    if (rc == 0)
        rc = http_version(&so.http, o->http_version, err);
    if (rc != 0)
        return rc;
    so.max_egress_bytes = ps_store_egress_limit(&egress);
    return ps_store_open(out, o->model, &so, err);
}
