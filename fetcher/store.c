/* From what the user wrote as MODEL to a source. Comes in: an address. Goes out: the store that
 * its scheme names, or an error that says what would do. See store.h. */
#include "fetcher/store.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "fetcher/hf_ref.h"
#include "fetcher/path_hint.h"
#include "fetcher/store_impl.h"
#include "fetcher/uri.h"

#define ORIGIN "fetcher"

int ps_range_check(const struct ps_range *r, struct ps_err *err)
{
    if (!ps_name_ok(r->object, strlen(r->object)))
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "bad object name: %s: names are relative and never climb", r->object);
    if (r->bytes == 0 || !r->buf || !r->done)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "empty range: %s", r->object);
    if (r->bytes > UINT64_MAX - r->offset || r->bytes > SIZE_MAX ||
        (r->object_bytes && r->offset + r->bytes > r->object_bytes))
        return ps_err_set(err, PS_EDATA, ORIGIN, "range beyond the end: %s: offset %llu, %llu bytes",
                          r->object, (unsigned long long)r->offset, (unsigned long long)r->bytes);
    return 0;
}

static int unknown_open(struct ps_source **out, const char *address,
                        const struct ps_store_options *options, struct ps_err *err)
{
    (void)out, (void)options;
    return ps_err_set(err, PS_EUSAGE, ORIGIN,
                      "unknown scheme: %.*s://: use a path, http://, https://, s3:// or hf://",
                      (int)(strstr(address, "://") - address), address);
}

/* One row per scheme: a new store is one file and one line here. */
static int (*const openers[])(struct ps_source **, const char *, const struct ps_store_options *,
                              struct ps_err *) = {
    [PS_URI_PATH] = ps_file_store_open, [PS_URI_FILE] = ps_file_store_open,
    [PS_URI_HTTP] = ps_http_store_open, [PS_URI_S3] = ps_s3_store_open,
    [PS_URI_HF] = ps_hf_store_open,     [PS_URI_UNKNOWN] = unknown_open,
};

/* A CA is checked for every scheme: a typing error must not wait for the first handshake. */
static int check_access(const char *address, const struct ps_access_options *o, struct ps_err *err)
{
    struct ps_access *a = NULL;
    if (!o || ps_uri_kind(address) == PS_URI_HTTP)
        return 0;
    if (ps_access_has_secrets(o))
        ps_log(PS_LOG_WARN,
               "fetcher", "--bearer, --header, --cert and --key are for http(s) addresses: not used for this model");
    int rc = ps_access_load(&a, o, NULL, err);
    ps_access_free(a);
    return rc;
}

int ps_store_open(struct ps_source **out, const char *address,
                  const struct ps_store_options *options, struct ps_err *err)
{
    if (!address || !*address)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "no model given: write a folder or an address");
    enum ps_uri_kind kind = ps_uri_kind(address);
    bool remote = kind == PS_URI_HTTP || kind == PS_URI_S3 || kind == PS_URI_HF;
    return !(options && options->sole) && (remote || (options && options->n_mirrors > 0))
               ? ps_mirror_store_open(out, address, options, err)
               : ps_store_open_one(out, address, options, err);
}

int ps_store_open_one(struct ps_source **out, const char *address,
                      const struct ps_store_options *options, struct ps_err *err)
{
    int rc = check_access(address, options ? options->access : NULL, err);
    if (rc != 0)
        return rc;
    return openers[ps_uri_kind(address)](out, address, options, err);
}

void ps_store_place_files(struct ps_err *err, int rc, const char *label)
{
    char hub[PS_PATH_HINT_MAX_BYTES], advice[PS_PATH_HINT_MAX_BYTES + 64];
    ps_err_place_files(err, rc, label);
    ps_path_hub_hint(hub, sizeof hub, label);
    if (*hub && (rc == PS_ENOTFOUND || rc == PS_EREFUSED || rc == PS_ENET || rc == PS_EDATA)) {
        snprintf(advice, sizeof advice, "the Hub is reached as %s", hub);
        ps_err_advise(err, advice);
    }
}

static int http_label(char **out, const char *address, struct ps_err *err)
{
    struct ps_uri uri = {0};
    int rc = ps_uri_parse(&uri, address, err);
    if (rc == 0 && !(*out = ps_http_plain_label(&uri)))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    ps_uri_deinit(&uri);
    return rc;
}

static int hf_label(char **out, const char *address, struct ps_err *err)
{
    struct ps_hf_ref ref = {0};
    int rc = ps_hf_ref_parse(&ref, address, err);
    if (rc == 0 && !(*out = ps_hf_label(&ref)))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    ps_hf_ref_deinit(&ref);
    return rc;
}

int ps_store_label(char **out, const char *address, struct ps_err *err)
{
    char *label = NULL;
    int rc = 0;
    switch (ps_uri_kind(address)) {
    case PS_URI_HTTP: rc = http_label(&label, address, err); break;
    case PS_URI_S3: rc = ps_s3_address_label(&label, address, err); break;
    case PS_URI_HF: rc = hf_label(&label, address, err); break;
    case PS_URI_UNKNOWN: rc = unknown_open(NULL, address, NULL, err); break;
    case PS_URI_PATH:
        if (!(label = ps_path_label(address)))
            rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
        break;
    case PS_URI_FILE:
        if (!(label = ps_strdup(address)))
            rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    if (rc == 0)
        *out = label;
    return rc;
}
