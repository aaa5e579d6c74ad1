/* Opening a source from what the user wrote as MODEL. Comes in: an address and options. Goes
 * out: a struct ps_source.
 *
 * Schemes: a path or file://, http://, https://, s3:// (s3_store.c), hf:// (hf_store.c); any other is PS_EUSAGE.
 * What http needs to be let in comes in the options (access.h); what s3 and hf need, from the environment. */
#ifndef PS_FETCHER_STORE_H
#define PS_FETCHER_STORE_H
#include <stdatomic.h>
#include "base/err.h"
#include "base/size.h"
#include "base/stats.h"
#include "fetcher/access.h"
#include "fetcher/net_space.h"
#include "fetcher/rate_limit.h"
#include "proto/source.h"

enum ps_http_version { PS_HTTP_AUTO, PS_HTTP_1, PS_HTTP_2 };

struct ps_store_options {
    unsigned connections;    /* 0 = 8 */
    unsigned net_deadline_s; /* 0 = 120: longest time that one extent may go without success */
    unsigned net_stall_s;    /* 0 = 20: longest silence on a connection before it is dropped */
    unsigned connect_timeout_s; /* 0 = 12: first contact with a host that does not answer fails within 15 s */
    uint64_t max_egress_bytes; /* 0 = no limit: further requests are PS_EBUDGET once reached */
    enum ps_http_version http;
    unsigned net_threads;   /* 0 = chosen */
    unsigned io_threads;    /* file store: 0 = 2 */
    bool direct_io;         /* file store: O_DIRECT where it works (bypasses the page cache) */
    struct ps_stats *stats; /* nullable; must outlive the source */
    /* Nullable; must outlive the source. Several sources may share it: all of them together keep to it. */
    struct ps_rate_limit *limit;
    /* Extra bytes that second requests for what a layer waits for may cost, in percent of what is fetched. 0 = 2;
     * less: none. */
    int hedge_pct;
    /* http: a connection is given up for a new one, which looks the name up anew, after so long or so many bytes.
     * 0 = 300 s, 32 GiB. */
    unsigned conn_life_ms;
    uint64_t conn_life_bytes;
    /* Nullable; must outlive the source. Once it is not 0, get and head of http end soon with PS_EINTERRUPTED;
     * whoever submits ranges cancels them himself. */
    const atomic_int *interrupt;
    const struct ps_access_options *access; /* nullable; borrowed for the call of ps_store_open */
    /* Other addresses of the same model: http(s), s3, hf, or a folder. Borrowed for the call. */
    const char *const *mirrors;
    size_t n_mirrors;
    bool sole; /* no mirrors, none that the model lists either: what is read lies at this address */
    /* What follows is for a source that is one of several (mirror_store.c). */
    unsigned question_deadline_s; /* http: longest time that a get or head may go without success; 0 = net_deadline_s */
    const atomic_int *stop; /* nullable; must outlive the source: as interrupt */
    bool anonymous;         /* no credentials from the environment, no folder of this machine */
    enum ps_net_space least_space; /* http(s): connect to nothing closer than that */
    _Atomic unsigned *peer_space; /* nullable; must outlive the source: the closest ps_net_space that has answered */
};
/* What --max-egress means as max_egress_bytes. Who says 0 wants no traffic at all, and the store takes 0 for no limit:
 * that becomes one byte, which is never enough. Anything but bytes: no limit. */
static inline uint64_t ps_store_egress_limit(const struct ps_size *s)
{
    return s->kind != PS_SIZE_BYTES ? 0 : s->bytes ? s->bytes : 1;
}

/* The same number as the user wrote it, for messages. */
static inline uint64_t ps_store_egress_told(uint64_t max_egress_bytes)
{
    return max_egress_bytes == 1 ? 0 : max_egress_bytes;
}

/* A remote model may have mirrors (options, or a list beside its manifest): mirror_store.c stands before its store
 * then. No request is made and, for http, no connection opened: that is submit's and get's business. A missing
 * local folder is PS_ENOTFOUND. */
int ps_store_open(struct ps_source **out, const char *address,
                  const struct ps_store_options *options, struct ps_err *err);

/* As ps_err_place_files, for a model whose source bears this label. Whoever has copied the address of a model's page on
 * the Hub hears how it is reached. */
void ps_store_place_files(struct ps_err *err, int rc, const char *label);

/* What a source opened from this address bears as its label, and what the cache lists its model under: one
 * spelling for all that mean the same place (case of the host, default port, slashes at the end), without
 * userinfo, query string or version. A text that is no address stays as it is. Pure: no file, no variable is
 * looked at. PS_EUSAGE: malformed, told without secrets. *out: ps_free. */
int ps_store_label(char **out, const char *address, struct ps_err *err);
#endif
