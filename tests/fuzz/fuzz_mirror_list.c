/* Fuzz target: mirrors.json, which a server sends. The first byte says how far away that server is. Addresses that
 * come out are of a scheme that a list may name, carry no login, and lead no closer to us than the server is. */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "fetcher/mirror_list.h"
#include "fetcher/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_http(const char *address, enum ps_net_space least)
{
    struct ps_uri u;
    PS_ASSERT(ps_uri_parse(&u, address, NULL) == 0);
    const enum ps_net_space space = ps_net_space_of_host(u.host);
    PS_ASSERT(!u.user && !u.password);
    PS_ASSERT(least == PS_SPACE_ANY || space == PS_SPACE_ANY || space >= least);
    ps_uri_deinit(&u);
}

static void check_address(const char *address, enum ps_net_space least)
{
    const enum ps_uri_kind kind = ps_uri_kind(address);
    PS_ASSERT(kind == PS_URI_HTTP || kind == PS_URI_S3 || kind == PS_URI_HF);
    PS_ASSERT(strlen(address) <= PS_URI_MAX_BYTES);
    for (const char *p = address; *p; p++)
        PS_ASSERT((unsigned char)*p >= 0x20 && *p != 0x7f);
    if (kind == PS_URI_HTTP)
        check_http(address, least);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const enum ps_net_space least = (enum ps_net_space)(data[0] % (PS_SPACE_PUBLIC + 1));
    struct ps_mirror_list l = {.n = PS_MIRRORS_LIST_MAX + 1};
    struct ps_err err = {0};
    const int rc = ps_mirror_list_parse(&l, (const char *)data + 1, size - 1, least, &err);
    if (rc == 0) {
        PS_ASSERT(l.n <= PS_MIRRORS_LIST_MAX);
        for (size_t i = 0; i < l.n; i++)
            check_address(l.items[i], least);
        ps_mirror_list_deinit(&l);
    } else {
        PS_ASSERT(rc == PS_EDATA && err.code == rc && err.text[0]);
        PS_ASSERT(l.n == PS_MIRRORS_LIST_MAX + 1);
    }
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
