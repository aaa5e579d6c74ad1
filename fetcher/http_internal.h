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
 * Address, headers and cures are the origin's (http_origin.h): one implementation per scheme. Which
 * request goes when: every host has a window of requests (aimd.h) and a memory of how fast its
 * transfers were (pace.h). http_pace.c drops a transfer that is slow beside its siblings;
 * http_hedge.c asks a second time for what a layer waits for; http_conn.c ends connections that have
 * lived long enough. done() is always called by a finisher, so that a slow callback never holds up a socket. The
 * lock is never held while calling libcurl's transfer functions or a callback. */
#ifndef PS_FETCHER_HTTP_INTERNAL_H
#define PS_FETCHER_HTTP_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>
#include <curl/curl.h>
#include "fetcher/aimd.h"
#include "fetcher/http_origin.h"
#include "fetcher/pace.h"
#include "fetcher/range_heap.h"
#include "fetcher/range_plan.h"

#define PS_HTTP_MAX_CONNECTIONS 256
#define PS_HTTP_MAX_NET_THREADS 4
#define PS_HTTP_FINISHERS       2
#define PS_HTTP_MAX_HOPS        5
#define PS_HTTP_OBJECT_BUCKETS  256
/* 256 to 512 KiB measured best; libcurl's own 16 KiB costs system calls */
#define PS_HTTP_RECEIVE_BUFFER_BYTES (512l << 10)
#define PS_HTTP_HOSTS                16 /* redirects lead to a few; what comes after shares the last one's place */
#define PS_HTTP_HOST_KEY_BYTES       272 /* "host:port" */

/* Where the bytes of a blocking get or head go: the size is not known before the reply. Touched
 * by one thread at a time: the net thread until done(), then the one that waits. */
struct http_sink {
    char *data;
    size_t len, cap;
    uint64_t max;  /* data never grows beyond this */
    bool growable; /* get: data is ours; head: data is the caller's and cap is fixed */
    const struct ps_terms *terms; /* borrowed: how the question is put */
    uint64_t total;
};

enum http_errand_state { HTTP_ERRAND_NONE, HTTP_ERRAND_QUEUED, HTTP_ERRAND_RUNNING };

/* A server as a user knows it: what a name and a port lead to. */
struct http_host {
    char key[PS_HTTP_HOST_KEY_BYTES]; /* set once */
    /* store lock */
    struct ps_aimd aimd;
    struct ps_pace_host pace;
    unsigned active;        /* requests in flight */
    _Atomic uint64_t bytes; /* of bodies */
    atomic_bool answered;   /* some reply has come from it */
};

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
    struct http_host *host; /* that it was asked from last; NULL: not yet */
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
    bool awaited; /* a layer waits for it */
    /* whoever has the job: net thread while ACTIVE, finisher while FINISHING, else under the
     * store lock */
    uint64_t have; /* bytes at the front of the buffer that have arrived: a resumed request asks for the rest */
    uint64_t first_ns, not_before_ns;
    uint64_t unreached_ns; /* since when it has met nobody but hosts that never answered; 0: it has */
    unsigned attempts;     /* requests made */
    unsigned failures;     /* in a row without a new byte */
    const char *last_what, *last_hint; /* the failure before */
    unsigned bad_replies;              /* replies that broke the protocol, and wrong hashes */
    unsigned escapes;                  /* times it was taken off a slow connection */
    struct http_transfer *hedge; /* net thread: asks a second time for what is missing of it */
    unsigned hedges;             /* net thread: times that was done */
    unsigned cures;              /* times it went back for fresh credentials or a fresh address */
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
    struct http_host *host;
    struct ps_pace pace;
    struct http_conn *conn; /* the connection that answers; NULL: not known yet */
    /* A second request for the end of another transfer's job writes into the same buffer: identical bytes, by the same
     * thread. `jobs` is then the stand-in below, until either is through. */
    struct http_transfer *hedge_of; /* the other; NULL: an ordinary transfer */
    struct http_job *hedged;        /* its job */
    struct http_job stand_in;
    struct ps_range stand_in_range;
    bool asked_certificate; /* in a handshake of this attempt the server wanted one of ours */
    bool rescue;            /* its first job was taken off a slow connection */
    bool lost; /* what it brings is there already: it ends at once and writes nothing any more */
    uint64_t started_ns, last_ns; /* begin of the request; last sign of life */
    char curl_text[CURL_ERROR_SIZE];
};

/* One connection of a net thread, known by its local port. Net thread only. */
struct http_conn {
    long port; /* 0: free */
    uint64_t born_ns, end_ns, bytes, last_ns;
};

struct http_net {
    struct http_store *store;
    pthread_t thread;
    CURLM *multi;
    CURLM *rest;    /* with a rate limit: without transfers, so that a wait in it reads no socket */
    unsigned slots; /* at most this many transfers at once */
    struct http_transfer *transfers;
    struct http_conn *conns; /* [2 * slots] */
    uint64_t pace_ns,
        hedge_ns; /* net thread: when siblings are compared again, when what is awaited is looked at */
    bool pace_wakes;      /* net thread: there are siblings to compare with */
    bool hedge_due;       /* net thread: one is late, and waits for a free slot */
    uint64_t awaits_seen; /* net thread */
    uint64_t random;      /* xorshift state for jitter; net thread */
    unsigned active;      /* store lock */
    bool wake_sent;       /* store lock: a wakeup is under way, no second one needed */
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
    struct http_host hosts[PS_HTTP_HOSTS];
    unsigned n_hosts;
    struct http_host *recent_host; /* asked last: where an object that was never asked for is likely to lie */
    uint64_t hedge_in_flight;  /* bytes that second requests may still cost */
    uint64_t hedge_on_the_way; /* that ended ones may have cost unseen */
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

    _Atomic unsigned n_awaited; /* jobs that a layer waits for */
    _Atomic uint64_t awaits;    /* times that one was told */
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
void http_wake_net(struct http_net *n); /* any thread */

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
struct http_transfer *http_net_free_slot(struct http_net *n); /* net thread; NULL: all are taken */
/* How long --net-limit needs for what all sockets may hold: each is read that often. 0 without a limit. */
uint64_t http_round_ns(const struct http_store *s);
void http_net_join(struct http_net *n); /* the store is closing */
void http_net_deinit(struct http_net *n); /* all net threads and finishers have ended: they wake each other */

/* http_host.c */
/* May one more request for this object begin? */
bool http_host_open_locked(const struct http_store *s, const struct http_object *o);
void http_host_enter_locked(struct http_transfer *t); /* t->uri is chosen; also when a redirect changes it */
void http_host_leave_locked(struct http_transfer *t);
void http_host_first_byte(struct http_transfer *t, uint64_t now_ns);
void http_host_throttled(struct http_transfer *t, uint64_t now_ns);
void http_host_succeeded(struct http_transfer *t, uint64_t now_ns);

/* http_pace.c: net thread. Drops transfers that are slow beside their siblings; returns when to look again. */
uint64_t http_pace_look(struct http_net *n, uint64_t now_ns);
/* Median rate of the siblings of t; 0: too few are known. */
double http_pace_median(const struct http_net *n, const struct http_transfer *t, uint64_t now_ns);

/* http_hedge.c: net thread. */
uint64_t http_hedge_look(struct http_net *n,
                         uint64_t now_ns); /* asks again for what is late; when to look again */
uint64_t http_hedge_spent_locked(const struct http_store *s); /* bytes, seen or not; store lock */
void http_hedge_won(struct http_transfer *h); /* the second request has brought everything */
void http_hedge_drop(struct http_job *j);     /* it is not needed any more, or must not go on */
void http_hedge_failed(struct http_transfer *h); /* the second request itself was refused, or broke off */
void http_hedge_drop_all(struct http_transfer *t); /* those of its jobs */
/* Its first request has failed: the second one, if there is one, carries the job from here on. */
bool http_hedge_takes_over(const struct http_transfer *t, struct http_job *j);
static inline bool http_is_stand_in(const struct http_transfer *t, const struct http_job *j)
{
    return j == &t->stand_in;
}

/* http_conn.c: net thread. */
void http_conn_answered(struct http_transfer *t, uint64_t now_ns); /* headers are coming in */
void http_conn_carried(struct http_transfer *t, uint64_t bytes);
void http_conn_abandon(struct http_transfer *t); /* its connection is not used again */

/* http_queue.c: which jobs are asked for next, and what becomes of them when a request fails. */
bool http_take_batch(struct http_store *s, struct http_transfer *t,
                     uint64_t now_ns); /* fills t; false: nothing to start */
/* Fills h to ask again for what is missing of j, which t carries. False: not now (no budget, the host is busy). */
bool http_take_hedge(struct http_store *s, struct http_transfer *h, struct http_transfer *t,
                     struct http_job *j, uint64_t now_ns);
uint64_t http_next_start_ns(struct http_store *s); /* when a delayed job comes due; UINT64_MAX if none */
void http_settle_egress(struct http_store *s, struct http_transfer *t);
/* One of a failed request's jobs: queues it again or finishes it. */
struct http_failure {
    enum ps_retry_class cls;
    int code;
    const char *what, *hint; /* static, unless cls is PS_RETRY_FATAL */
    uint64_t retry_after_ns;
    bool deadline;                /* cut off at the deadline: an earlier failure says better why */
    bool borrowed;                /* what is a whole message that does not outlive the call */
    const struct http_host *host; /* whom the request was sent to; NULL: it never left */
    uint64_t started_ns;          /* when */
};
void http_job_failed(struct http_store *s, struct http_job *j, const struct http_failure *f,
                     uint64_t now_ns, uint64_t random);
/* Where the next attempt begins: a remembered place, else (or with `front`) what locate says. On
 * failure the transfer knows why. */
void http_choose_address_locked(struct http_transfer *t, bool front, uint64_t now_ns);
uint64_t http_random(struct http_net *n);

/* The jobs of a request that was not at fault wait again, without a delay. `slow`: it was taken off a slow
 * connection. */
void http_requeue_jobs(struct http_transfer *t, bool slow);
extern const struct http_failure http_superseded,
    http_escaped; /* reasons to cut that are no failures */

/* http_failure.c: what libcurl says of a failed request, when the reply itself did not decide. Net thread. */
extern const struct http_failure http_out_of_memory, http_cut_short;
struct http_failure http_failure_of(struct http_transfer *t, CURLcode rc);

/* http_handshake.c */
void http_watch_handshakes(struct http_transfer *t); /* once per transfer: notes what servers ask for */

/* http_transfer.c: one request from start to end. */
int http_transfer_init(struct http_transfer *t, struct http_net *n, struct ps_err *err);
void http_transfer_deinit(struct http_transfer *t);
bool http_transfer_begin(struct http_transfer *t); /* a batch was taken; false: failed before it began */
/* The handle has left the multi. `cut`: why we stopped it, else NULL. May begin again at a
 * redirect's target. */
void http_transfer_end(struct http_transfer *t, CURLcode rc, const struct http_failure *cut);
#endif
