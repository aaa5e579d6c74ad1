/* mirrors.json, which may stand beside a manifest: where else the same bytes are. Comes in: its bytes,
 * from a server that may be anybody's. Goes out: addresses that may be asked. Pure, any thread.
 *
 *     {"mirrors": ["https://host/prefix", {"url": "s3://bucket/prefix"}]}     or the list alone
 *
 * Read leniently: what is unknown, malformed or not allowed is passed over. Allowed are http, https, s3
 * and hf, without userinfo, and no host closer to us than the server that sent the list (net_space.h):
 * a list must not make anybody read his own folders or ask services of his own network. */
#ifndef PS_FETCHER_MIRROR_LIST_H
#define PS_FETCHER_MIRROR_LIST_H
#include <stddef.h>
#include "base/err.h"
#include "fetcher/net_space.h"

#define PS_MIRRORS_NAME      "mirrors.json"
#define PS_MIRRORS_MAX_BYTES (64u << 10)
#define PS_MIRRORS_LIST_MAX  8u /* of one list */

struct ps_mirror_list {
    char *items[PS_MIRRORS_LIST_MAX];
    size_t n, passed_over;
};

/* Why an address of a list is not used, or NULL. */
const char *ps_mirror_fault(const char *address, enum ps_net_space least);
/* PS_EDATA where it is no JSON, or none of the forms above. Free with ps_mirror_list_deinit. */
int ps_mirror_list_parse(struct ps_mirror_list *out, const char *text, size_t bytes,
                         enum ps_net_space least, struct ps_err *err);
void ps_mirror_list_deinit(struct ps_mirror_list *l);
#endif
