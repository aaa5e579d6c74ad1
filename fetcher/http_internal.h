/* The parts of the http store that its files share. One picture:
 *
 *   submit, get, head          net threads (net_loop.c)                    finishers (http_finish.c)
 *   ------------------         ------------------------------------        -------------------------
 *   job -> waiting heap  --->  batch of touching jobs -> one transfer  --> SHA-256 -> done()
 *             ^                   |  reply check, bytes scattered into           |
 *             |                   |  the callers' buffers                        |
 *             +-- after a delay --+ (broken: only the missing tail)              |
 *             +---- errand -------+ (no credentials or address yet, or stale)    |
 *             +------------------------- wrong hash, once -----------------------+
 *
 * Address, headers and cures are the origin's (http_origin.h): one implementation per scheme.
 * done() is always called by a finisher, so that a slow callback never holds up a socket. The
 * lock is never held while calling libcurl's transfer functions or a callback. */
#ifndef PS_FETCHER_HTTP_INTERNAL_H
#define PS_FETCHER_HTTP_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>
#include <curl/curl.h>
#include "fetcher/http_origin.h"
#include "fetcher/range_heap.h"
#include "fetcher/range_plan.h"

#define PS_HTTP_MAX_CONNECTIONS 256
#define PS_HTTP_MAX_NET_THREADS 4
#define PS_HTTP_FINISHERS       2
#define PS_HTTP_MAX_HOPS        5
#define PS_HTTP_OBJECT_BUCKETS  256
#define PS_HTTP_MAX_CURES                                                                          \
    3 /* of one transfer or job: region, clock and credentials may each be wrong */

/* Where the bytes of a blocking get or head go: the size is not known before the reply. Touched
 * by one thread at a time: the net thread until done(), then the one that waits. */
struct http_sink {
    char *data;
    size_t len, cap;
    uint64_t max;  /* data never grows beyond this */
    bool growable; /* get: data is ours; head: data is the caller's and cap is fixed */
    uint64_t total;
};

enum http_errand_state { HTTP_ERRAND_NONE, HTTP_ERRAND_QUEUED, HTTP_ERRAND_RUNNING };

/* One object of the source. Made at its first use, lives until close. */
struct http_object {
    struct http_object *next; /* bucket chain, set once */
    char *name;               /* set once */
    char *where;              /* set once: printable address */
    /* store lock: what the first reply said; later replies must agree */
    bool known;
    uint64_t total; /* 0: the server would not say */
    char etag[PS_ETAG_MAX];
    bool etag_weak;
    char last_modified[40];
    /* store lock: where redirects led, so that they are followed once per object and not once
     * per range */
    struct ps_http_place place;
    /* store lock */
    enum http_errand_state errand;
    struct http_object *next_errand;
    uint64_t renew_after_ns;
};

enum http_job_state { HTTP_WAITING, HTTP_DELAYED, HTTP_PREPARING, HTTP_ACTIVE, HTTP_FINISHING };

/* A submitted range on its way. Owned by the store; recycled through a free list. */
struct http_job {
    struct ps_heap_item order; /* first member: the heap hands this back */
    struct ps_range *r;
    struct http_object *obj;
    struct http_sink *sink; /* nullable: open-ended read of get and head */
    struct http_job *next;  /* in a transfer, the delayed, preparing, finish or free list */
    /* store lock */
    enum http_job_state state;
    bool cancelled;
    /* whoever has the job: net thread while ACTIVE, finisher while FINISHING, else under the
     * store lock */
    uint64_t have; /* bytes at the front of the buffer that have arrived: a resumed request asks for the rest */
    uint64_t first_ns, not_before_ns;
    unsigned attempts;                 /* requests made */
    unsigned failures;                 /* in a row without a new byte */
    const char *last_what, *last_hint; /* the failure before */
    unsigned bad_replies;              /* replies that broke the protocol, and wrong hashes */
    unsigned cures; /* times it went back for fresh credentials or a fresh address */
    int rc;
    struct ps_err err;
};

struct http_net;

struct ps_http_headers {
    struct curl_slist *list;
    bool failed;
};

/* A slot for one request in flight; its easy handle is kept for the next one. Net thread only. */
struct http_transfer {
    CURL *easy;
    struct http_net *net;
    bool live;
    struct http_job *jobs; /* not yet delivered, in order of offset */
    struct http_object *obj;
    struct ps_uri uri; /* where this request goes: the object, or where redirects led */
    bool trusted;      /* all hops so far stayed on the origin that the credentials belong to */
    bool from_cache;   /* started at a remembered place */
    uint64_t place_until_ns;
    bool plain_retry; /* that place failed; now going through the front door again */
    unsigned hops, cures;
    unsigned target_life_s; /* of the last redirect followed */
    struct ps_http_headers headers;
    uint64_t ticket;   /* sign's */
    uint64_t from, to; /* asked: [from, to) */
    uint64_t pos;      /* offset of the next body byte */
    uint64_t body_to;  /* where the accepted body ends; UINT64_MAX if unstated */
    uint64_t reserved; /* of max_egress_bytes */
    uint64_t body_bytes, drained;
    struct ps_reply reply;
    struct ps_judgement judge;
    /* for the origin: headers that it asked for, and the beginning of an error page */
    char seen[PS_HTTP_ORIGIN_HEADERS][PS_HTTP_HEADER_VALUE_MAX];
    char page[PS_HTTP_ERROR_BODY_BYTES];
    size_t page_bytes;
    char ask_etag[PS_ETAG_MAX]; /* what the reply must carry if it carries one */
    bool ask_strong;            /* it may go into If-Match */
    char ask_modified[40];
    uint64_t ask_object_bytes;
    bool judged, receiving, overflow, no_room, no_memory, no_address, over_budget;
    uint64_t started_ns, last_ns; /* begin of the request; last sign of life */
    char curl_text[CURL_ERROR_SIZE];
};

struct http_net {
    struct http_store *store;
    pthread_t thread;
    CURLM *multi;
    unsigned slots; /* at most this many transfers at once */
    struct http_transfer *transfers;
    uint64_t random; /* xorshift state for jitter; net thread */
    unsigned active; /* store lock */
    bool wake_sent;  /* store lock: a wakeup is under way, no second one needed */
    bool started;
};

struct http_store {
    struct ps_source base;
    struct ps_store_options opt; /* defaults filled in */
    struct ps_http_origin *origin;
    char *ca_file, *ca_dir;
    struct ps_stats *stats; /* opt.stats or own_stats */
    struct ps_stats own_stats;

    pthread_mutex_t lock;
    /* lock */
    struct ps_heap waiting;
    uint64_t waiting_bytes;
    struct http_job *delayed;
    struct http_job *preparing; /* until an errand has run */
    struct http_object *errand_head, **errand_tail;
    pthread_cond_t errand_cond; /* with lock */
    struct http_job *free_jobs;
    size_t live_jobs;
    uint64_t seq;
    uint64_t hold_until_ns;    /* 429 with Retry-After: nothing is started before this */
    uint64_t egress_used;      /* body bytes received, against max_egress_bytes */
    uint64_t egress_in_flight; /* asked for and not yet settled */
    bool host_seen;            /* some reply has come from here */
    bool closing;
    struct http_object *objects[PS_HTTP_OBJECT_BUCKETS];

    unsigned n_nets;
    struct http_net nets[PS_HTTP_MAX_NET_THREADS];

    pthread_mutex_t finish_lock;
    pthread_cond_t finish_cond;
    struct http_job *finish_head, **finish_tail; /* finish_lock */
    bool finish_stop;                            /* finish_lock */
    unsigned n_finishers;
    pthread_t finishers[PS_HTTP_FINISHERS];

    atomic_bool stop_errands;
    unsigned n_errand_threads;
    pthread_t errand_threads[PS_HTTP_ERRANDS_MAX];

    _Atomic unsigned receiving; /* transfers inside an accepted body */
    _Atomic uint64_t last_body_ns;
};

/* http_store.c */
void http_wake_locked(struct http_store *s); /* wakes one net thread that has a free slot */
void http_wake_all_locked(struct http_store *s);
void http_now_waiting_locked(struct http_store *s, struct http_job *j); /* into the waiting heap */
uint64_t http_job_from(const struct http_job *j); /* first byte still missing, as an offset in the object */
uint64_t http_job_to(const struct http_job *j);
uint64_t http_job_deadline_ns(const struct http_store *s, const struct http_job *j);

/* http_finish.c */
int http_finish_start(struct http_store *s, struct ps_err *err);
void http_finish_stop(struct http_store *s);
/* Hands a job whose fate is known to the finishers. `err` nullable. _locked: the caller holds
 * the store's lock. */
void http_finish_push(struct http_store *s, struct http_job *j, int rc, const struct ps_err *err);
void http_finish_push_locked(struct http_store *s, struct http_job *j, int rc,
                             const struct ps_err *err);

/* http_errand.c */
int http_errand_start(struct http_store *s, struct ps_err *err);
void http_errand_stop(struct http_store *s); /* the store is closing */
/* May this object be asked for now? Sends for what is missing, or due for renewal. */
bool http_ready_locked(struct http_store *s, struct http_object *o, uint64_t now_ns);
void http_prepare_locked(struct http_store *s, struct http_job *j); /* until the errand has run */

/* net_loop.c */
int http_net_start(struct http_store *s, struct http_net *n, unsigned slots, struct ps_err *err);
void http_net_join(struct http_net *n); /* the store is closing */
void http_net_deinit(struct http_net *n); /* all net threads and finishers have ended: they wake each other */

/* http_queue.c: which jobs are asked for next, and what becomes of them when a request fails. */
bool http_take_batch(struct http_store *s, struct http_transfer *t,
                     uint64_t now_ns);             /* fills t; false: nothing to start */
uint64_t http_next_start_ns(struct http_store *s); /* when a delayed job comes due; UINT64_MAX if none */
void http_settle_egress(struct http_store *s, struct http_transfer *t);
/* One of a failed request's jobs: queues it again or finishes it. */
struct http_failure {
    enum ps_retry_class cls;
    int code;
    const char *what, *hint; /* static, unless cls is PS_RETRY_FATAL */
    uint64_t retry_after_ns;
    bool deadline; /* cut off at the deadline: an earlier failure says better why */
    bool borrowed; /* what is a whole message that does not outlive the call */
};
void http_job_failed(struct http_store *s, struct http_job *j, const struct http_failure *f,
                     uint64_t now_ns, uint64_t random);
/* Where the next attempt begins: a remembered place, else (or with `front`) what locate says. On
 * failure the transfer knows why. */
void http_choose_address_locked(struct http_transfer *t, bool front, uint64_t now_ns);
uint64_t http_random(struct http_net *n);

/* http_transfer.c: one request from start to end. */
int http_transfer_init(struct http_transfer *t, struct http_net *n, struct ps_err *err);
void http_transfer_deinit(struct http_transfer *t);
bool http_transfer_begin(struct http_transfer *t); /* a batch was taken; false: failed before it began */
/* The handle has left the multi. `cut`: why we stopped it, else NULL. May begin again at a
 * redirect's target. */
void http_transfer_end(struct http_transfer *t, CURLcode rc, const struct http_failure *cut);
#endif
