/* The plain origin: http and https addresses as the user wrote them. Comes in: a base address.
 * Goes out: the address of each object below it, with the base's query string, the login that stood
 * in the address, and what the user gave besides (access.h), to its own origin alone. Nothing in it
 * ever changes, so it needs no lock. */
#include "fetcher/http_origin.h"

#include <string.h>

#include "base/alloc.h"
#include "fetcher/store_impl.h"

#define ORIGIN "fetcher"

struct plain_origin {
    struct ps_http_origin base;
    struct ps_uri uri;
    struct ps_access *access; /* nullable */
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
    const struct ps_access *a = o->access;
    if (!q->home)
        return 0;
    bool login = a && a->user;
    for (size_t i = 0; a && i < a->n_headers; i++)
        ps_http_headers_add(q->headers, "%s", a->headers[i]);
    if (a) {
        q->cert_file = a->cert_file;
        q->key_file = a->key_file;
    }
    if (a && a->has_authorization)
        return 0;
    q->user = login ? a->user : o->uri.user;
    q->password = login ? a->password : o->uri.password;
    if (q->user && !q->password)
        q->password = "";
    return 0;
}

static void plain_free(struct ps_http_origin *base)
{
    struct plain_origin *o = (struct plain_origin *)base;
    ps_uri_deinit(&o->uri);
    ps_access_free(o->access);
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

int ps_http_plain_new(struct ps_http_origin **out, struct ps_uri *uri,
                      const struct ps_access_options *access, struct ps_err *err)
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
    int rc = o->base.label ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc == 0 && access)
        rc = ps_access_load(&o->access, access, &o->uri, err);
    if (rc != 0) {
        plain_free(&o->base);
        return rc;
    }
    *out = &o->base;
    return 0;
}
