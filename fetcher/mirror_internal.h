/* The parts of the mirror store that its files share. One picture:
 *
 *   submit ──▶ dispatch: pick a source ──▶ its store ──▶ came: done()
 *                 ▲         │ not proven to hold the same bytes: parked until the helper has looked
 *                 │         ▼
 *                 └── failed: that source is left alone for a while, the next one is picked;
 *                     what else waits there moves as well
 *
 * What blocks on a source has a thread of its own, a worker, from when it is first wanted: proofs that this
 * source holds the same, samples of the reference, its list of mirrors. So a slow mirror holds up nobody
 * else's proof. The helper starts workers and goes on with what they, or the egress limit, held up; it never
 * blocks. Lock order: a store's own lock is taken inside ours (cancel), never the other way round; submit and
 * done() of the stores run without ours. */
#ifndef PS_FETCHER_MIRROR_INTERNAL_H
#define PS_FETCHER_MIRROR_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>
#include "base/hash.h"
#include "fetcher/mirror_pick.h"
#include "fetcher/store.h"

#define PS_MIRROR_SAMPLES      8u
#define PS_MIRROR_SAMPLE_BYTES 2048u

struct mirror_source {
    char *address;       /* may hold a login; never printed */
    bool listed;         /* by mirrors.json */
    struct ps_source *s; /* open_lock; NULL until it is first needed */
    bool broken;         /* open_lock: can't be opened */
    struct mirror_store *m;
    pthread_t worker; /* the helper's, and close's after it */
    bool works;       /* the same: its worker has been started */
    /* lock */
    bool compared, same_config; /* its config.json with the reference's */
    char *label;                /* set when it is opened */
    uint64_t bytes, failed;
};

/* A piece of an object as the reference has it, to hold others against. */
struct mirror_sample {
    uint64_t offset;
    uint32_t bytes;
    uint8_t data[PS_MIRROR_SAMPLE_BYTES];
};

struct mirror_object {
    struct mirror_object *next; /* set once */
    char *name;                 /* set once */
    /* lock */
    uint32_t wary,
        proven; /* bits of sources: see mirror_pick.h; holds the same version for all that is known */
    int last;   /* who delivered last, -1: nobody */
    bool head_known;
    uint64_t bytes, head_bytes;
    uint8_t head_sha[PS_SHA256_BYTES];
    char identity[256];
    struct mirror_sample *samples; /* heap, PS_MIRROR_SAMPLES of them */
    unsigned n_samples;
    bool sampled; /* all that can be had of them is there */
};

enum mirror_state { MIRROR_FREE, MIRROR_MOVING, MIRROR_ASKED, MIRROR_PARKED, MIRROR_HELD };

/* A range on its way. Owned by the store; recycled, never freed before it closes. */
struct mirror_job {
    struct ps_range inner;
    struct mirror_store *m;
    struct mirror_job *next, *prev; /* lock: of the live ones */
    /* lock */
    struct ps_range *outer;
    struct mirror_object *o;
    enum mirror_state state;
    uint64_t turn; /* changes with every dispatch: who looks again knows whether it is the same one */
    unsigned at;
    uint32_t tried;
    bool cancelled, move; /* asked to end; to be asked for elsewhere */
    bool unproved;        /* parked, and the source could not show that it holds the same */
    bool awaited;         /* a layer waits for it: whoever is asked is told */
    bool lasting;         /* in this round somebody failed in a way that may pass */
    uint64_t began_ns, round_ns;
    int rc; /* of the failure that will be told if all fail */
    struct ps_err err;
};

struct mirror_store {
    struct ps_source base;
    struct ps_source_ops ops; /* with the scheme of the first source */
    struct ps_store_options opt;
    char *ca_file, *netrc_file; /* of the access options, for mirrors */
    bool netrc;
    struct ps_stats *stats, own_stats;
    atomic_int stop;
    _Atomic unsigned peer_space; /* of the first source */
    pthread_mutex_t open_lock;

    pthread_mutex_t lock;
    /* lock */
    struct mirror_source sources[PS_MIRRORS_MAX];
    struct ps_mirror_health health[PS_MIRRORS_MAX];
    _Atomic unsigned n; /* grows, under the lock */
    struct mirror_object *objects;
    struct mirror_job *live, *free_jobs;
    uint64_t in_flight_bytes;
    int reference;   /* whose versions name things: the first that delivered; -1 */
    bool silent;     /* a question to it has come to nothing, and no other has since */
    bool has_config; /* it has given its config.json, whose hash this is: */
    uint8_t config_sha[PS_SHA256_BYTES];
    bool presplit;    /* hashes prove everything */
    bool spare_first; /* a hub for everybody, and somebody else can give the weights */
    bool list_wanted, list_asked, closing;
    bool look;           /* for the helper: a range that was parked or held may go on */
    unsigned submitting; /* threads that are about to use the store of a source: close waits for them */
    pthread_cond_t wanted; /* something of the above has changed for the helper, a worker, or close */
    pthread_t helper;
    bool helper_runs;
};

/* mirror_store.c. _locked: with the store's lock. */
uint64_t mirror_deadline_ns(const struct mirror_store *m); /* of what names none itself */
struct mirror_object *mirror_object_locked(struct mirror_store *m, const char *name);
/* The open store of a source, or NULL: it can't be opened. */
struct ps_source *mirror_open(struct mirror_store *m, unsigned i, struct ps_err *err);
int mirror_add_locked(struct mirror_store *m, const char *address, bool listed);
/* A hub's store learns whether its files are local when it is first asked for a header: by a head for a folder, by a
 * range for a pre-split model. Behind either, the whole source is what the reference is. */
void mirror_note_local_locked(struct mirror_store *m);
void mirror_count_failure(struct mirror_store *m, unsigned i, int rc, const struct ps_err *err);

/* mirror_job.c: ranges. */
int mirror_submit(struct ps_source *base, struct ps_range *r, struct ps_err *err);
void mirror_cancel(struct ps_source *base, struct ps_range *r);
void mirror_await(struct ps_source *base, struct ps_range *r);
/* Goes on with what a source, or the egress limit, held up; ends what was cancelled. From the helper, or after a
 * range has ended. */
void mirror_go_on(struct mirror_store *m);

/* mirror_prove.c: the helper and the workers. */
int mirror_helper_start(struct mirror_store *m, struct ps_err *err);
/* Waits until they have ended, which they do once the store is closing. */
void mirror_helper_join(struct mirror_store *m);
void mirror_note_head_locked(struct mirror_object *o, const void *head, size_t bytes,
                             const struct ps_object_info *info);
#endif
