/* One small HTTP exchange, blocking: tokens, credentials, a Hub's answers about a repository. Comes
 * in: a method, an address, headers, perhaps a body. Goes out: the status, the headers asked for
 * and a bounded body. Not for weights: those go through the store, which checks and retries.
 *
 * Any thread; every call has a handle of its own. Redirects are not followed: credentials may be
 * in the headers, so the caller decides. No proxy for link-local and loopback addresses where
 * `direct` is set: metadata services answer only there. */
#ifndef PS_FETCHER_HTTP_FETCH_H
#define PS_FETCHER_HTTP_FETCH_H
#include <stdatomic.h>
#include "base/err.h"
#include "base/stats.h"
#include "base/strbuf.h"
#include "fetcher/rate_limit.h"
#include "fetcher/retry.h"

#define PS_FETCH_HEADERS   8u
#define PS_FETCH_VALUE_MAX 8192u

/* Idle connections of one asker, so that one question after another to the same host needs no new
 * handshake. Any thread. */
struct ps_fetch_lines;
int ps_fetch_lines_new(struct ps_fetch_lines **out); /* 0 or PS_ENOMEM */
void ps_fetch_lines_free(struct ps_fetch_lines *l);  /* nullable; no exchange may be under way */

struct ps_fetch {
    const char *method;         /* NULL: GET (POST with a body) */
    const char *url;            /* no userinfo */
    const char *const *headers; /* nullable, NULL-terminated lines "Name: value" */
    const void *body;           /* nullable */
    size_t body_bytes;
    size_t max_bytes;                      /* 0 = 64 KiB; a longer answer is PS_EDATA */
    unsigned timeout_s, connect_timeout_s; /* 0 = 30, 12 */
    bool direct;
    const atomic_bool *stop;      /* nullable: PS_ECANCELLED soon after it is set */
    const atomic_int *interrupt;  /* nullable: PS_EINTERRUPTED soon after it is not 0 */
    struct ps_fetch_lines *lines; /* nullable: a connection for this exchange alone */
    struct ps_stats *stats;       /* nullable: requests and bytes_net are counted */
    /* Nullable: the answer counts, and a question waits until what came before it is paid for. */
    struct ps_rate_limit *limit;
    const char *ca_file; /* nullable: in place of SSL_CERT_FILE */
    const char *where;   /* printable: for messages */
    /* Names of reply headers to keep (lower case), at most PS_FETCH_HEADERS, NULL-terminated; nullable. */
    const char *const *keep;
};

struct ps_fetch_reply {
    int status;
    struct ps_strbuf body;
    char *values[PS_FETCH_HEADERS]; /* in the order of keep; NULL where absent or too long */
    uint64_t retry_after_ns;
};

/* 0 whenever a whole reply came, whatever its status; *out must then be freed with
 * ps_fetch_reply_deinit. Otherwise PS_ENET, PS_EDATA, PS_ECANCELLED, PS_EINTERRUPTED or PS_ENOMEM, and
 * *cls (nullable) says whether asking again could help. */
int ps_http_fetch(struct ps_fetch_reply *out, const struct ps_fetch *f, enum ps_retry_class *cls,
                  struct ps_err *err);
void ps_fetch_reply_deinit(struct ps_fetch_reply *r);

/* libcurl is initialised, once per process. */
int ps_http_curl_ready(struct ps_err *err);
/* SSL_CERT_FILE (else CURL_CA_BUNDLE) and SSL_CERT_DIR into heap strings, NULL where unset. False:
 * out of memory. */
bool ps_http_ca_from_env(char **file, char **dir);
#endif
