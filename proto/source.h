/* A source of bytes: one model's objects behind file, http, s3 or hf. This is all that the
 * cache, the split and the runtime know of the network.
 *
 * An object is named by a relative name inside the source ("config.json",
 * "model-00001-of-00002.safetensors", "shards/ab12...shard"); ps_name_ok() is checked by everyone
 * who takes a name from remote bytes, so that no remote name ever climbs out of its base.
 *
 * Threads: every function may be called from any thread unless said otherwise. Completion
 * callbacks run on one of the source's own threads (never inside submit), must be quick (enqueue
 * and return) and may call submit. */
#ifndef PS_PROTO_SOURCE_H
#define PS_PROTO_SOURCE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/stats.h"

struct ps_source;

/* One range of one object, delivered whole and checked, or failed. The storage (this struct, buf,
 * name) belongs to the submitter and must live until done() has been called: exactly once per
 * accepted request, also after a cancel. */
struct ps_range {
    const char *object; /* relative name; borrowed */
    uint64_t offset;
    uint64_t bytes;        /* > 0 */
    void *buf;             /* room for `bytes` */
    const uint8_t *sha256; /* nullable: 32 bytes; a mismatch is refetched once, then PS_EDATA */
    /* Nullable strong ETag that a reply must carry if it carries one: else PS_EDATA "changed under way". */
    const char *etag;
    uint64_t object_bytes; /* total size if known, else 0; a reply that says otherwise is PS_EDATA */
    uint64_t priority;     /* smaller is asked first (position in consumption order) */
    bool elsewhere; /* others can be asked for it: a server that answers that it is failing is not waited for */
    bool alone; /* never joined with a neighbour in one request: a piece of what is waited for */
    uint64_t deadline_ns; /* 0: the source's; else the longest time that this range may go without success */
    void (*done)(struct ps_range *r, int rc, const struct ps_err *err);
    void *user;
    /* private to the source from submit until done */
    struct ps_range *next;
    void *impl;
};

/* On what terms a blocking question is put. */
struct ps_terms {
    bool elsewhere; /* as in struct ps_range */
    /* Nullable, from any thread: soon after it is set the call ends, with PS_ECANCELLED unless its outcome was
     * there. */
    const atomic_bool *withdrawn;
};

struct ps_object_info {
    uint64_t bytes; /* total size, 0 if the server would not say */
    char etag[128]; /* "" if none; strong ETags only, quotes included */
    char identity[256]; /* what names this version for cache keys: never contains a query string or a secret */
};

/* One of several places, for statistics. */
struct ps_source_part {
    const char *label; /* printable; lives as long as the source */
    uint64_t bytes;    /* delivered */
    uint64_t failures; /* ranges and objects that had to be asked for elsewhere, or again */
    bool listed;       /* named by the model (mirrors.json), not by the user */
};

struct ps_source_ops {
    const char *scheme;
    /* Hands the range to the source. 0: done() will be called. Negative: it will not. Never blocks
     * on the network. The source coalesces queued ranges that touch (same object, offset + bytes
     * == next offset) into one request when that pays. */
    int (*submit)(struct ps_source *s, struct ps_range *r, struct ps_err *err);
    /* Asks for an early end: done() is still called, with PS_ECANCELLED unless the bytes had arrived. */
    void (*cancel)(struct ps_source *s, struct ps_range *r);
    /* Nullable; a hint. The submitter can do nothing before this range has arrived (a layer waits for it): the
     * source may ask for its missing part a second time where it is late. Any number of times, from submit on,
     * also when done() has been called, as long as the storage lives. Never blocks on the network. A source made
     * of other sources hands it on. */
    void (*await)(struct ps_source *s, struct ps_range *r);
    /* Blocking: a whole small object of at most max_bytes (config, tokenizer, manifest) into fresh
     * memory (ps_free). A NUL is put behind it. Fills *info (nullable). PS_ENOTFOUND, PS_EREFUSED,
     * PS_ENET, PS_EDATA (larger than max), PS_ECANCELLED (withdrawn). */
    int (*get)(struct ps_source *s, const char *object, const struct ps_terms *terms,
               uint64_t max_bytes, char **out, size_t *len, struct ps_object_info *info,
               struct ps_err *err);
    /* Blocking: the first `bytes` of an object (less if it is shorter) with its info; for headers.
     * *len tells how many came. */
    int (*head)(struct ps_source *s, const char *object, const struct ps_terms *terms, void *buf,
                size_t bytes, size_t *len, struct ps_object_info *info, struct ps_err *err);
    /* For local sources: path of the object (heap, ps_free) so that it can be read directly; NULL
     * op or PS_EUNSUPPORTED otherwise. */
    int (*local_path)(struct ps_source *s, const char *object, char **path, struct ps_err *err);
    /* Nullable. What came of this object last was found wrong by its reader, who had the means (a hash of
     * his own): true if it can be had from elsewhere, and will be. */
    bool (*distrust)(struct ps_source *s, const char *object);
    /* Nullable: the i-th of the places that this source reads from. False: there is none. */
    bool (*part)(struct ps_source *s, unsigned i, struct ps_source_part *out);
    /* Cancels what is in flight, waits for every done(), joins threads, frees. */
    void (*close)(struct ps_source *s);
};

/* Every implementation embeds this as its first member. */
struct ps_source {
    const struct ps_source_ops *ops;
    char *label; /* printable address: redacted, no userinfo, no query */
    /* true: no disk cache is used (contract.md --disk). A hub's store learns it while headers are read. */
    atomic_bool local;
    bool is_public; /* a hub that serves everybody: what is fetched again and again is at others' cost */
};

static inline int ps_source_submit(struct ps_source *s, struct ps_range *r, struct ps_err *err)
{
    return s->ops->submit(s, r, err);
}
static inline void ps_source_cancel(struct ps_source *s, struct ps_range *r)
{
    s->ops->cancel(s, r);
}
static inline void ps_source_await(struct ps_source *s, struct ps_range *r)
{
    if (s->ops->await)
        s->ops->await(s, r);
}
static inline int ps_source_get(struct ps_source *s, const char *object, uint64_t max, char **out,
                                size_t *len, struct ps_object_info *info, struct ps_err *err)
{
    const struct ps_terms terms = {.withdrawn = NULL};
    return s->ops->get(s, object, &terms, max, out, len, info, err);
}
static inline int ps_source_head(struct ps_source *s, const char *object, void *buf, size_t bytes,
                                 size_t *len, struct ps_object_info *info, struct ps_err *err)
{
    const struct ps_terms terms = {.withdrawn = NULL};
    return s->ops->head(s, object, &terms, buf, bytes, len, info, err);
}
static inline bool ps_source_distrust(struct ps_source *s, const char *object)
{
    return s->ops->distrust && s->ops->distrust(s, object);
}
static inline void ps_source_close(struct ps_source *s)
{
    if (s)
        s->ops->close(s);
}
/* Blocking convenience over submit: one range, waits for done. Any thread but a source's own. (proto/source.c) */
int ps_source_read(struct ps_source *s, const char *object, uint64_t offset, void *buf,
                   uint64_t bytes, const uint8_t *sha256, struct ps_err *err);

/* The same for a range that also states etag, object_bytes or priority; done and user are
 * overwritten. (proto/source.c) */
int ps_source_read_range(struct ps_source *s, struct ps_range *r, struct ps_err *err);

/* A relative object name from remote bytes: 1..255 bytes per part, 1024 in all, no empty, "." or
 * ".." part, no leading '/', no backslash, no control character, valid UTF-8. */
bool ps_name_ok(const char *name, size_t len);
#endif
