/* What a scheme decides about requests: address, headers, and what an unwelcome reply means. Comes
 * in: the name of an object, the reply to an attempt. Goes out: where to ask, with which headers,
 * and whether asking again differently would help. The http store (http_internal.h) does the rest
 * the same for every scheme: queue, retries, checks of replies, redirects, connections.
 *
 * An origin is made by the scheme's opener and belongs to the store from ps_http_store_start on.
 * Its operations meet threads as follows; none of them may call back into the store:
 *
 *   locate, ready             any thread, under the store's lock: quick, no I/O
 *   sign, cure, redirected    net threads, several at once, no lock held: quick, no I/O
 *   prepare                   errand threads (http_errand.c), no lock held: the one that may block
 *   identity                  any thread, under the store's lock: quick, no I/O
 *   free                      once, when every thread has ended
 *
 * What they share (credentials, a region, a commit) the origin guards by a lock of its own, which
 * is always taken inside the store's. */
#ifndef PS_FETCHER_HTTP_ORIGIN_H
#define PS_FETCHER_HTTP_ORIGIN_H
#include <stdatomic.h>
#include "fetcher/reply.h"
#include "fetcher/store.h"
#include "fetcher/uri.h"

#define PS_HTTP_MAX_CURES                                                                          \
    3 /* of one transfer or job: region, clock and credentials may each be wrong */
#define PS_HTTP_ERROR_BODY_BYTES 4096u /* what cure sees of an error page */
#define PS_HTTP_ERRANDS_MAX      4u    /* threads for them, at most */
#define PS_HTTP_ORIGIN_HEADERS   6u    /* most headers that an origin may ask to see */
#define PS_HTTP_HEADER_VALUE_MAX 256u  /* a longer value counts as absent */

struct ps_http_origin;

/* Headers of one attempt; appends latch a failure, so one check at the end is enough. */
struct ps_http_headers;
void ps_http_headers_add(struct ps_http_headers *h, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* One attempt that is about to go out. */
struct ps_http_request {
    const char *method;       /* "GET" */
    const char *payload_hash; /* nullable: hex SHA-256 of the body; no body */
    const char *object;
    /* Nullable: S3's server-side copy, "/bucket/key" escaped and "bytes=a-b". They go out and are signed. */
    const char *copy_source, *copy_range;
    const struct ps_uri *uri;
    uint64_t from, to; /* [from, to), goes out as Range */
    /* The address is the one that locate gave, or redirects have not left its scheme, host and
     * port. Credentials go nowhere else: sign returns without a header where this is false. */
    bool home;
    /* sign's: */
    struct ps_http_headers *headers;
    const char *user, *password;      /* nullable, borrowed for the call: Basic authorization */
    const char *cert_file, *key_file; /* nullable, borrowed for the call: of the client */
    uint64_t ticket;                  /* comes back in the answer: which credentials were used */
};

/* The headers and the beginning of the body of a reply that brought no bytes of the object. */
struct ps_http_answer {
    int status;
    const char *object;
    bool home;
    uint64_t ticket;
    /* Values in the order of ops->headers, "" where absent or too long. */
    const char (*headers)[PS_HTTP_HEADER_VALUE_MAX];
    const char *body; /* not NUL-terminated */
    size_t body_bytes;
    uint64_t wall_s;
    unsigned cures; /* how often this request or its ranges were cured before */
};

enum ps_http_cure {
    PS_HTTP_CURE_NONE,    /* the judgement holds (cure may have put better words into it) */
    PS_HTTP_CURE_AGAIN,   /* at once: locate and sign will do differently now */
    PS_HTTP_CURE_PREPARE, /* after an errand: ready will answer WAIT until prepare has run */
};

enum ps_http_ready {
    PS_HTTP_READY,
    PS_HTTP_RENEW, /* usable, but an errand should renew it in the background */
    PS_HTTP_WAIT,  /* nothing may be asked before prepare has run */
};

/* Where an object is found for a while, other than where locate says: set by redirects, or by
 * prepare. */
struct ps_http_place {
    bool known;
    struct ps_uri uri; /* owned */
    bool home;
    uint64_t until_ns;
};

/* prepare's arguments and results beside its error. */
struct ps_http_errand {
    const char *object;
    const atomic_bool *stop; /* set when the source closes: return soon, with PS_ECANCELLED */
    uint64_t started_ns;
    /* Results. Class and wait count after a failure; FATAL unless set. */
    enum ps_retry_class cls;
    uint64_t retry_after_ns;
    struct ps_http_place place; /* optional; ownership of the uri moves to the store */
    uint64_t object_bytes;      /* 0: unknown */
    bool new_tags; /* the bytes are the same as before for sure; this place may tag them otherwise */
};

struct ps_http_origin_ops {
    const char *scheme; /* in front of identities: "http", "s3" */
    /* NULL-terminated lower-case names of headers that cure and redirected want to see; nullable. */
    const char *const *headers;
    /* The address of an object. PS_ENOMEM, or PS_EDATA for a name that has none. For S3 NULL is the bucket itself. */
    int (*locate)(struct ps_http_origin *o, const char *object, struct ps_uri *out,
                  struct ps_err *err);
    /* The address as people know it, for messages and identities: no query, no secret. Heap; NULL
     * when out of memory. Must not depend on anything that changes. */
    char *(*label)(struct ps_http_origin *o, const char *object);
    /* Nullable: no authorization. 0 or PS_ENOMEM. */
    int (*sign)(struct ps_http_origin *o, struct ps_http_request *q);
    /* Nullable: nothing can be cured. Asked about refusals and redirects, before these take effect;
     * *judge may be changed. */
    enum ps_http_cure (*cure)(struct ps_http_origin *o, const struct ps_http_answer *a,
                              struct ps_judgement *judge);
    /* Nullable: 300. A redirect to `target` is being followed: for how many seconds it may be
     * remembered once it has proved good (0: not at all). The answer is the redirecting reply. */
    unsigned (*redirected)(struct ps_http_origin *o, const struct ps_http_answer *a,
                           const struct ps_uri *target);
    /* Both or none: what has to be fetched before objects can be asked for. `place` is what is
     * remembered of this object; an expired one is not shown. */
    enum ps_http_ready (*ready)(struct ps_http_origin *o, const char *object,
                                const struct ps_http_place *place, uint64_t now_ns);
    int (*prepare)(struct ps_http_origin *o, struct ps_http_errand *e, struct ps_err *err);
    /* Errands at once; 0 is 2: one may hang in a slow lookup while another object's goes through. More
     * where every object has an errand of its own. */
    unsigned errand_threads;
    /* Nullable: "scheme|version|bytes|label". What names this version of an object in the cache. */
    void (*identity)(struct ps_http_origin *o, const char *object, const char *version,
                     uint64_t bytes, char *out, size_t cap);
    void (*free)(struct ps_http_origin *o);
};

/* Every origin embeds this as its first member. */
struct ps_http_origin {
    const struct ps_http_origin_ops *ops;
    char *label; /* printable address of the whole source, no '/' at its end; heap, the origin's */
    const char *ca_file; /* nullable, the origin's: trusted in place of SSL_CERT_FILE */
};

/* The default of ops->identity, for those who name another place: "scheme|version|bytes|where", the
 * place as a hash where it is too long. */
void ps_http_identity(char *out, size_t cap, const char *scheme, const char *version,
                      uint64_t bytes, const char *where);

/* Makes a source of an origin. The origin is the store's (freed), also on failure. */
int ps_http_store_start(struct ps_source **out, struct ps_http_origin *origin,
                        const struct ps_store_options *options, struct ps_err *err);

/* The first implementation: http and https as written, userinfo as Basic authorization, the query
 * string of the base with every object. Takes the uri (also on failure). `access` nullable, borrowed
 * for the call. */
int ps_http_plain_new(struct ps_http_origin **out, struct ps_uri *uri,
                      const struct ps_access_options *access, struct ps_err *err);
#endif
