/* The plain origin: http and https addresses as the user wrote them. Comes in: a base address.
 * Goes out: the address of each object below it, with the base's query string, and the login that
 * stood in the address. Nothing in it ever changes, so it needs no lock. */
#include "fetcher/http_origin.h"

#include <string.h>

#include "base/alloc.h"
#include "fetcher/store_impl.h"

#define ORIGIN "fetcher"

struct plain_origin {
    struct ps_http_origin base;
    struct ps_uri uri;
};

static int plain_locate(struct ps_http_origin *base, const char *object, struct ps_uri *out,
                        struct ps_err *err)
{
    const struct plain_origin *o = (const struct plain_origin *)base;
    struct ps_uri uri;
    int rc = ps_uri_copy(&uri, &o->uri, err);
    if (rc != 0)
        return rc;
    rc = ps_uri_enter(&uri, object, err);
    if (rc != 0) {
        ps_uri_deinit(&uri);
        return rc;
    }
    *out = uri;
    return 0;
}

static char *plain_label(struct ps_http_origin *base, const char *object)
{
    struct ps_uri uri;
    if (plain_locate(base, object, &uri, NULL) != 0)
        return NULL;
    char *label = ps_uri_label(&uri);
    ps_uri_deinit(&uri);
    return label;
}

static int plain_sign(struct ps_http_origin *base, struct ps_http_request *q)
{
    const struct plain_origin *o = (const struct plain_origin *)base;
    if (!q->home || !o->uri.user)
        return 0;
    q->user = o->uri.user;
    q->password = o->uri.password ? o->uri.password : "";
    return 0;
}

static void plain_free(struct ps_http_origin *base)
{
    struct plain_origin *o = (struct plain_origin *)base;
    ps_uri_deinit(&o->uri);
    ps_free(o->base.label);
    ps_free(o);
}

static const struct ps_http_origin_ops plain_ops = {
    .scheme = "http",
    .locate = plain_locate,
    .label = plain_label,
    .sign = plain_sign,
    .free = plain_free,
};

/* The base without slashes at its end, so that "label/object" reads well. */
char *ps_http_plain_label(const struct ps_uri *u)
{
    char *label = ps_uri_label(u);
    for (size_t n = label ? strlen(label) : 0; n > 0 && label[n - 1] == '/'; n--)
        label[n - 1] = '\0';
    return label;
}

int ps_http_plain_new(struct ps_http_origin **out, struct ps_uri *uri, struct ps_err *err)
{
    struct plain_origin *o = ps_calloc(1, sizeof *o);
    if (!o) {
        ps_uri_deinit(uri);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    o->base.ops = &plain_ops;
    o->uri = *uri;
    memset(uri, 0, sizeof *uri);
    o->base.label = ps_http_plain_label(&o->uri);
    if (!o->base.label) {
        plain_free(&o->base);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    }
    *out = &o->base;
    return 0;
}
