/* The mirror store's helper and workers. Comes in: objects of a plain folder that another source is to deliver;
 * the list of mirrors beside a manifest. Goes out: whether that source holds the same version; more sources.
 *
 * What is proved of an object without a known hash: the same size; the same content hash where both name one (the
 * Hub's SHA-256 of LFS files), else the same header (names, types, shapes and places of all tensors) and the same
 * bytes as the reference in a few samples, spread over the weights. That the rest is the same is not proved: two
 * versions trained from one another differ nearly everywhere, so samples tell them apart, but one that differs in
 * a single tensor may pass. Without samples nothing is proved. Pre-split models have no such gap. */
#include "fetcher/mirror_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "fetcher/mirror_list.h"

#define ORIGIN "fetcher"

/* ---- what the reference says ---- */

void mirror_note_head_locked(struct mirror_object *o, const void *head, size_t bytes,
                             const struct ps_object_info *info)
{
    if (o->head_known && o->head_bytes >= bytes)
        return;
    ps_sha256_once(head, bytes, o->head_sha);
    o->head_bytes = bytes;
    o->bytes = info->bytes;
    memcpy(o->identity, info->identity, sizeof o->identity);
    o->head_known = true;
}

/* ---- proofs ---- */

/* "sha256:...": names that say what the bytes are, wherever they lie. */
static bool same_content(const char *a, const char *b)
{
    return strncmp(a, "sha256:", 7) == 0 && strcmp(a, b) == 0;
}

static int differs(const char *what, const char *label, const char *object)
{
    ps_log(PS_LOG_WARN, ORIGIN, "%s is no mirror of this model: %s: another %s", label, object, what);
    return PS_EDATA;
}

static int compare_head(struct ps_source *s, const struct mirror_object *o, bool *same_hash,
                        struct ps_err *err)
{
    struct ps_object_info info;
    uint8_t sha[PS_SHA256_BYTES];
    size_t len;
    char *head = ps_malloc(o->head_bytes);
    int rc = head ? ps_source_head(s, o->name, head, o->head_bytes, &len, &info, err) : PS_ENOMEM;
    if (rc == 0) {
        ps_sha256_once(head, len, sha);
        *same_hash = same_content(o->identity, info.identity);
        if (o->bytes && info.bytes && o->bytes != info.bytes)
            rc = differs("size", s->label, o->name);
        else if (len != o->head_bytes || memcmp(sha, o->head_sha, sizeof sha) != 0)
            rc = differs("header", s->label, o->name);
    }
    ps_free(head);
    return rc;
}

struct asked {
    struct mirror_store *m;
    bool done; /* lock */
    int rc;    /* lock */
};

static void on_sample(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct asked *a = r->user;
    struct mirror_store *m = a->m;
    (void)err;
    pthread_mutex_lock(&m->lock);
    a->rc = rc;
    a->done = true;
    pthread_cond_broadcast(&m->wanted);
    pthread_mutex_unlock(&m->lock);
}

/* Reads a range on a worker's thread, which has to end soon when the store closes. */
static int read_sample(struct mirror_store *m, struct ps_source *s, struct ps_range *r)
{
    struct asked a = {.m = m};
    bool withdrawn = false;
    r->done = on_sample;
    r->user = &a;
    int rc = ps_source_submit(s, r, NULL);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&m->lock);
    while (!a.done) {
        if (m->closing && !withdrawn)
            ps_source_cancel(s, r);
        withdrawn = m->closing;
        pthread_cond_wait(&m->wanted, &m->lock);
    }
    rc = a.rc;
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static int compare_sample(struct mirror_store *m, struct ps_source *s,
                          const struct mirror_object *o, const struct mirror_sample *want)
{
    uint8_t got[PS_MIRROR_SAMPLE_BYTES];
    struct ps_range r = {.object = o->name,
                         .offset = want->offset,
                         .bytes = want->bytes,
                         .buf = got,
                         .object_bytes = o->bytes,
                         .deadline_ns = 10 * PS_NS_PER_S};
    int rc = read_sample(m, s, &r);
    if (rc == 0 && memcmp(got, want->data, want->bytes) != 0)
        rc = differs("content", s->label, o->name);
    return rc;
}

/* Samples from the reference, spread over the weights, taken while it still answers: what it delivers first are rows
 * of the embedding, which two versions may well share. */
static void sample_reference(struct mirror_store *m, struct mirror_object *o)
{
    uint8_t got[PS_MIRROR_SAMPLE_BYTES];
    pthread_mutex_lock(&m->lock);
    struct ps_source *s = m->sources[m->reference].s;
    const uint64_t bytes = o->bytes, head = o->head_bytes;
    const uint64_t room = bytes > head ? bytes - head : 0;
    if (!o->samples)
        o->samples = ps_calloc(PS_MIRROR_SAMPLES, sizeof *o->samples);
    bool going = s && o->samples && room > sizeof got;
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; going && i < PS_MIRROR_SAMPLES; i++) {
        struct ps_range r = {.object = o->name,
                             .offset = head + room / (PS_MIRROR_SAMPLES + 1) * (i + 1),
                             .bytes = sizeof got,
                             .buf = got,
                             .object_bytes = bytes,
                             .deadline_ns = 3 * PS_NS_PER_S};
        if (r.offset + r.bytes > bytes)
            r.offset = bytes - r.bytes;
        going = read_sample(m, s, &r) == 0;
        if (!going)
            break;
        pthread_mutex_lock(&m->lock);
        struct mirror_sample *to = &o->samples[o->n_samples++];
        to->offset = r.offset;
        to->bytes = sizeof got;
        memcpy(to->data, got, sizeof got);
        pthread_mutex_unlock(&m->lock);
    }
    pthread_mutex_lock(&m->lock);
    o->sampled = true; /* whoever has waited for them goes on */
    pthread_cond_broadcast(&m->wanted);
    pthread_mutex_unlock(&m->lock);
}

/* A copy of what is known of the object: the lock is not held while others are asked. */
static int copy_object(struct mirror_object *to, const struct mirror_object *from)
{
    *to = *from;
    to->samples = NULL;
    if (from->n_samples == 0)
        return 0;
    to->samples = ps_calloc(PS_MIRROR_SAMPLES, sizeof *to->samples);
    if (!to->samples)
        return PS_ENOMEM;
    memcpy(to->samples, from->samples, from->n_samples * sizeof *to->samples);
    return 0;
}

static int prove(struct mirror_store *m, struct mirror_object *o, unsigned at, struct ps_err *err)
{
    bool same_hash = false;
    struct ps_source *s = mirror_open(m, at, err);
    if (!s)
        return PS_ENET;
    if (!o->head_known)
        return ps_err_set(err, PS_EDATA, ORIGIN, "%s: nothing is known of it to compare", o->name);
    int rc = compare_head(s, o, &same_hash, err);
    if (rc != 0 || same_hash)
        return rc;
    if (o->n_samples == 0) /* equal headers are no proof: checkpoints of one training share theirs */
        return ps_err_set(err, PS_ENET, ORIGIN,
                          "%s: the first address fell silent before its weights could be compared",
                          o->name);
    for (unsigned i = 0; i < o->n_samples && rc == 0; i++)
        rc = compare_sample(m, s, o, &o->samples[i]);
    return rc;
}

static void prove_for(struct mirror_store *m, struct mirror_object *o, unsigned at)
{
    struct mirror_object copy;
    struct ps_err err = {0};
    pthread_mutex_lock(&m->lock);
    int rc = copy_object(&copy, o);
    pthread_mutex_unlock(&m->lock);
    if (rc == 0)
        rc = prove(m, &copy, at, &err);
    pthread_mutex_lock(&m->lock);
    if (rc == 0)
        o->proven |= 1u << at;
    else if (rc == PS_ENET) /* may pass, and is no proof of anything */
        ps_mirror_failed(&m->health[at], ps_now_ns());
    else
        o->wary |= 1u << at;
    for (struct mirror_job *j = m->live; j && rc != 0; j = j->next)
        if (j->state == MIRROR_PARKED && j->o == o && j->at == at) {
            j->unproved = true;
            j->lasting |= rc == PS_ENET;
        }
    m->look = true;
    pthread_cond_broadcast(&m->wanted);
    pthread_mutex_unlock(&m->lock);
    ps_free(copy.samples);
    if (rc != 0 && !atomic_load(&m->stop))
        mirror_count_failure(m, at, rc, &err);
}

/* ---- the list ---- */

static void read_list(struct mirror_store *m)
{
    struct ps_mirror_list l;
    struct ps_err err = {0};
    char *text = NULL;
    size_t bytes = 0;
    pthread_mutex_lock(&m->lock);
    struct ps_source *s = m->sources[m->reference].s;
    pthread_mutex_unlock(&m->lock);
    if (s->local ||
        ps_source_get(s, PS_MIRRORS_NAME, PS_MIRRORS_MAX_BYTES, &text, &bytes, NULL, &err) != 0)
        return; /* most have none */
    unsigned space = atomic_load(&m->peer_space);
    int rc = ps_mirror_list_parse(&l, text, bytes,
                                  space == PS_SPACE_ANY ? PS_SPACE_PUBLIC : (enum ps_net_space)space,
                                  &err);
    ps_free(text);
    if (rc != 0) {
        ps_log(PS_LOG_WARN, ORIGIN, "%s is passed over: %s", PS_MIRRORS_NAME, err.text);
        return;
    }
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < l.n; i++)
        if (mirror_add_locked(m, l.items[i], true) != 0)
            break;
    unsigned n = m->n;
    pthread_mutex_unlock(&m->lock);
    ps_log(PS_LOG_INFO, ORIGIN, "%s: %zu mirrors, %zu passed over; %u addresses in all",
           PS_MIRRORS_NAME, l.n, l.passed_over, n);
    ps_mirror_list_deinit(&l);
}

/* ---- the workers ---- */

enum errand_kind { ERRAND_NONE, ERRAND_LIST, ERRAND_SAMPLE, ERRAND_PROOF };

struct errand {
    enum errand_kind kind;
    struct mirror_object *o;
};

static struct mirror_object *unsampled_locked(struct mirror_store *m)
{
    for (struct mirror_object *o = m->presplit || m->n == 1 ? NULL : m->objects; o; o = o->next)
        if (o->head_known && !o->sampled)
            return o;
    return NULL;
}

/* A proof needs the reference's samples, and waits for them. */
static struct mirror_object *unproven_locked(struct mirror_store *m, unsigned i)
{
    for (struct mirror_job *j = m->live; j; j = j->next)
        if (j->state == MIRROR_PARKED && j->at == i && !j->cancelled && !j->unproved &&
            !(j->o->proven >> i & 1) && (j->o->sampled || !j->o->head_known))
            return j->o;
    return NULL;
}

/* What is wanted of a source that may take time. */
static struct errand errand_locked(struct mirror_store *m, unsigned i)
{
    struct errand e = {.kind = ERRAND_NONE};
    const bool reference = m->reference == (int)i;
    if (reference && m->list_wanted && !m->list_asked)
        e.kind = ERRAND_LIST;
    else if (reference && (e.o = unsampled_locked(m)) != NULL)
        e.kind = ERRAND_SAMPLE;
    else if ((e.o = unproven_locked(m, i)) != NULL)
        e.kind = ERRAND_PROOF;
    return e;
}

static void *worker_main(void *arg)
{
    const struct mirror_source *s = arg;
    struct mirror_store *m = s->m;
    const unsigned i = (unsigned)(s - m->sources);
    pthread_mutex_lock(&m->lock);
    while (!m->closing) {
        const struct errand e = errand_locked(m, i);
        if (e.kind == ERRAND_NONE) {
            pthread_cond_wait(&m->wanted, &m->lock);
            continue;
        }
        m->list_asked |= e.kind == ERRAND_LIST;
        pthread_mutex_unlock(&m->lock);
        switch (e.kind) {
        case ERRAND_LIST: read_list(m); break;
        case ERRAND_SAMPLE: sample_reference(m, e.o); break;
        default: prove_for(m, e.o, i); break;
        }
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* ---- the helper ---- */

static bool ended_locked(const struct mirror_store *m)
{
    for (const struct mirror_job *j = m->live; j; j = j->next)
        if (j->cancelled && (j->state == MIRROR_PARKED || j->state == MIRROR_HELD))
            return true;
    return false;
}

/* Where the system gives no thread: lists and samples can be done without; what waits for a proof is asked for
 * elsewhere. */
static void forgo_locked(struct mirror_store *m, unsigned i, const struct errand *e)
{
    m->list_asked |= e->kind == ERRAND_LIST;
    if (e->kind == ERRAND_SAMPLE)
        e->o->sampled = true;
    for (struct mirror_job *j = m->live; j && e->kind == ERRAND_PROOF; j = j->next)
        j->unproved |= j->state == MIRROR_PARKED && j->at == i;
    m->look = true;
}

/* Every source of which something is wanted gets its worker, once. */
static void start_workers_locked(struct mirror_store *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        struct mirror_source *s = &m->sources[i];
        for (struct errand e; !s->works && (e = errand_locked(m, i)).kind != ERRAND_NONE;) {
            s->works = ps_thread_start(&s->worker, worker_main, s) == 0;
            if (!s->works)
                forgo_locked(m, i, &e);
        }
    }
}

static void *helper_main(void *arg)
{
    struct mirror_store *m = arg;
    pthread_mutex_lock(&m->lock);
    while (!m->closing) {
        start_workers_locked(m);
        if (!m->look && !ended_locked(m)) {
            pthread_cond_wait(&m->wanted, &m->lock);
            continue;
        }
        m->look = false;
        pthread_mutex_unlock(&m->lock);
        mirror_go_on(m);
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    mirror_go_on(m);
    return NULL;
}

int mirror_helper_start(struct mirror_store *m, struct ps_err *err)
{
    m->helper_runs = ps_thread_start(&m->helper, helper_main, m) == 0;
    return m->helper_runs ? 0
                          : ps_err_set(err, PS_EFAIL, ORIGIN,
                                       "can't start a thread: raise the limit of threads");
}

void mirror_helper_join(struct mirror_store *m)
{
    if (m->helper_runs)
        pthread_join(m->helper, NULL); /* first: it starts workers */
    for (unsigned i = 0; i < m->n; i++)
        if (m->sources[i].works)
            pthread_join(m->sources[i].worker, NULL);
}
