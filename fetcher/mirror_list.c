/* Reading mirrors.json. See mirror_list.h. */
#include "fetcher/mirror_list.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/log.h"
#include "fetcher/uri.h"

#define ORIGIN "fetcher"

static const char *http_fault(const char *address, enum ps_net_space least)
{
    struct ps_uri u;
    if (ps_uri_parse(&u, address, NULL) != 0)
        return "malformed address";
    const char *fault = NULL;
    if (u.user || u.password)
        fault = "an address with a login";
    else if (!ps_net_space_allowed(ps_net_space_of_host(u.host), least))
        fault = "a host closer to us than the server that names it";
    ps_uri_deinit(&u);
    return fault;
}

const char *ps_mirror_fault(const char *address, enum ps_net_space least)
{
    for (const char *p = address; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return "control characters";
    switch (ps_uri_kind(address)) {
    case PS_URI_HTTP: return http_fault(address, least);
    case PS_URI_S3:
    case PS_URI_HF: return strlen(address) > PS_URI_MAX_BYTES / 4 ? "malformed address" : NULL;
    default: return "not http, https, s3 or hf";
    }
}

static int add(struct ps_mirror_list *l, const struct ps_json *item, enum ps_net_space least,
               struct ps_err *err)
{
    const struct ps_json *url = item->kind == PS_JSON_STRING ? item : ps_json_get(item, "url");
    const char *fault = "no address";
    if (url && url->kind == PS_JSON_STRING && strlen(url->s) == url->len)
        fault = ps_mirror_fault(url->s, least);
    if (!fault && l->n >= PS_MIRRORS_LIST_MAX)
        fault = "more mirrors than are used";
    if (fault) {
        l->passed_over++;
        ps_log(PS_LOG_INFO, "fetcher", "%s: an entry is passed over: %s", PS_MIRRORS_NAME, fault);
        return 0;
    }
    l->items[l->n] = ps_strdup(url->s);
    if (!l->items[l->n])
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    l->n++;
    return 0;
}

int ps_mirror_list_parse(struct ps_mirror_list *out, const char *text, size_t bytes,
                         enum ps_net_space least, struct ps_err *err)
{
    const struct ps_json_limits limits = {.max_bytes = PS_MIRRORS_MAX_BYTES,
                                          .max_depth = 8,
                                          .max_values = 4096};
    struct ps_mirror_list l = {.n = 0};
    struct ps_json *root;
    int rc = ps_json_parse(&root, text, bytes, &limits, err);
    if (rc != 0)
        return rc;
    const struct ps_json *list = root->kind == PS_JSON_ARRAY ? root : ps_json_get(root, "mirrors");
    if (!list || list->kind != PS_JSON_ARRAY)
        rc = ps_err_set(err, PS_EDATA, ORIGIN, "%s: no list of mirrors in it", PS_MIRRORS_NAME);
    for (const struct ps_json *i = rc == 0 ? list->child : NULL; i && rc == 0; i = i->next)
        rc = add(&l, i, least, err);
    ps_json_free(root);
    if (rc != 0) {
        ps_mirror_list_deinit(&l);
        return rc;
    }
    *out = l;
    return 0;
}

void ps_mirror_list_deinit(struct ps_mirror_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        ps_free(l->items[i]);
    memset(l, 0, sizeof *l);
}
