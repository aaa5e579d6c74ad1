/* Models, facts and maintenance: what `penstock cache` shows and does. In: questions; out: answers from the index. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/alloc.h"
#include "base/log.h"
#include "cache/cache_internal.h"
#include "cache/shares.h"

#define SCAN_CHUNK  256u
#define EVICT_CHUNK 4096u /* records sorted by slot at a time */
#define REPAIRS_MAX 3 /* passes of a repairing check: dropping one record may show another wrong */

/* ---- models ---- */

struct model_job {
    const struct ps_cache_model_options *o;
    uint16_t number;
};

static void set_label(struct ps_model *m, const char *label)
{
    const size_t n = strnlen(label, PS_INDEX_LABEL_MAX - 1);
    memset(m->label, 0, sizeof m->label);
    memcpy(m->label, label, n);
}

static int model_open_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    struct model_job *j = user;
    struct ps_model m = {.number = 0};
    int rc = ps_index_write_get_model(w, j->o->id, 0, &m, err);
    if (rc == PS_ENOTFOUND) {
        memset(&m, 0, sizeof m);
        memcpy(m.id, j->o->id, sizeof m.id);
        rc = ps_index_write_free_number(w, &m.number, err);
    }
    if (rc == 0 && j->o->part_bytes)
        rc = ps_index_write_parts(w, m.number, j->o->part_bytes, (size_t)j->o->n_layers + 1, err);
    if (rc != 0)
        return rc;
    set_label(&m, j->o->source_label ? j->o->source_label : "");
    m.n_layers = j->o->n_layers;
    if (j->o->has_priority)
        m.priority = (int8_t)j->o->priority;
    m.last_use = ++ps_index_write_meta(w)->use_clock;
    j->number = m.number;
    return ps_index_write_put_model(w, &m, err);
}

/* They were chosen under other pins, priorities or models in use. */
static void forget_victims(struct ps_cache *c)
{
    pthread_mutex_lock(&c->lock);
    c->plan_generation++;
    pthread_mutex_unlock(&c->lock);
}

static int model_open_job(struct ps_cache *c, void *user, struct ps_err *err)
{
    const int rc = ps_writer_update(c, 1, model_open_body, user, err);
    forget_victims(c);
    return rc;
}

/* Tells the other processes that this one works on the model. */
static int announce_model(struct ps_cache *c, uint16_t number, struct ps_err *err)
{
    int rc = 0;
    ps_claims_lock(c->claims);
    struct ps_claim_process *self = ps_claims_process_locked(c->claims, ps_claims_self(c->claims));
    uint32_t i = 0;
    while (i < self->n_models && self->models[i] != number)
        i++;
    if (i == PS_CLAIM_MODELS)
        rc = PS_EFAIL;
    else if (i == self->n_models)
        self->models[self->n_models++] = number;
    ps_claims_unlock(c->claims);
    return rc == 0 ? 0
                   : ps_err_set(err, rc, PS_CACHE_ORIGIN, "cache: more than %d models at once",
                                PS_CLAIM_MODELS);
}

static int find_by_id(struct ps_cache *c, const uint8_t *id, struct ps_model *out, struct ps_err *err)
{
    struct ps_model *models = NULL;
    size_t n = 0;
    int rc = ps_index_models(c->index, &models, &n, err);
    if (rc != 0)
        return rc;
    rc = PS_ENOTFOUND;
    for (size_t i = 0; i < n && rc != 0; i++)
        if (memcmp(models[i].id, id, PS_SHA256_BYTES) == 0) {
            *out = models[i];
            rc = 0;
        }
    ps_free(models);
    return rc;
}

static void start_counting(struct ps_cache *c, uint16_t number)
{
    for (int i = 0; i < PS_CLAIM_MODELS; i++) {
        uint32_t unused = PS_CACHE_NO_MODEL;
        if (atomic_load(&c->used[i].model) == number ||
            atomic_compare_exchange_strong(&c->used[i].model, &unused, number))
            return;
    }
}

int ps_cache_model_open_as(struct ps_cache *c, const struct ps_cache_model_options *o,
                           uint32_t *model, struct ps_err *err)
{
    if (c->read_only) {
        struct ps_model m;
        const int rc = find_by_id(c, o->id, &m, err);
        if (rc == 0 || rc == PS_ENOTFOUND)
            *model = rc == 0 ? m.number : PS_CACHE_NO_MODEL;
        return rc == PS_ENOTFOUND ? 0 : rc;
    }
    if (o->has_priority &&
        (o->priority < PS_CACHE_PRIORITY_MIN || o->priority > PS_CACHE_PRIORITY_MAX))
        return ps_err_set(err, PS_EUSAGE, PS_CACHE_ORIGIN, "priority %d: from %d to %d",
                          o->priority, PS_CACHE_PRIORITY_MIN, PS_CACHE_PRIORITY_MAX);
    struct model_job j = {.o = o};
    int rc = ps_writer_call(c, model_open_job, &j, err);
    if (rc == PS_ENOSPC || rc == PS_EIO) {
        /* Its last use can't be noted, but what is kept of it can be read: a full disk is no reason to fetch it
         * all again. */
        struct ps_model m;
        if (find_by_id(c, o->id, &m, NULL) == 0) {
            j.number = m.number;
            rc = 0;
            if (err)
                memset(err, 0, sizeof *err);
        }
    }
    if (rc == 0)
        rc = announce_model(c, j.number, err);
    if (rc != 0)
        return rc;
    start_counting(c, j.number);
    *model = j.number;
    return 0;
}

int ps_cache_model_open(struct ps_cache *c, const uint8_t model_id[PS_SHA256_BYTES],
                        const char *source_label, uint32_t n_layers, uint32_t *model,
                        struct ps_err *err)
{
    const struct ps_cache_model_options o = {.id = model_id,
                                             .source_label = source_label,
                                             .n_layers = n_layers};
    return ps_cache_model_open_as(c, &o, model, err);
}

uint64_t ps_cache_model_bytes(struct ps_cache *c, uint32_t model)
{
    struct ps_index_read r;
    struct ps_model m;
    uint64_t bytes = 0;
    if (model >= PS_INDEX_MODELS_MAX || ps_index_read_begin(&r, c->index, NULL) != 0)
        return 0;
    if (ps_index_read_model(&r, (uint16_t)model, &m) == 0)
        bytes = m.bytes;
    ps_index_read_end(&r);
    return bytes;
}

/* ---- the share of the budget ---- */

uint64_t ps_cache_usable_bytes(struct ps_cache *c, uint64_t n_extents)
{
    struct ps_index_meta meta;
    struct ps_budget_state s;
    struct ps_shares *l = NULL;
    uint64_t kept_n = 0, kept_bytes = 0;
    if (c->read_only || ps_index_get_meta(c->index, &meta, NULL) != 0 ||
        ps_shares_new(&l, c, NULL) != 0)
        return 0;
    ps_cache_measure(c);
    ps_claims_lock(c->claims);
    ps_cache_state_locked(c, &meta, &s);
    ps_claims_unlock(c->claims);
    for (size_t i = 0; i < l->n; i++) {
        const struct ps_model *m = &l->models[i];
        const uint64_t kept = ps_shares_kept_bytes(l, m);
        if (kept == 0)
            continue;
        kept_bytes += kept;
        kept_n += kept == m->padded_bytes
                      ? m->n_extents
                      : (uint64_t)((double)m->n_extents * (double)kept / (double)m->padded_bytes);
    }
    ps_shares_free(l);
    return ps_budget_usable(&s, n_extents, kept_n, kept_bytes);
}

/* ---- facts ---- */

/* Calls fn for every record, a chunk at a time and outside of any transaction; stops at its first error. */
static int each_record(struct ps_cache *c,
                       int (*fn)(void *user, const struct ps_keyed_record *k, struct ps_err *err),
                       void *user, struct ps_err *err)
{
    struct ps_keyed_record chunk[SCAN_CHUNK];
    uint8_t after[PS_SHA256_BYTES];
    size_t n = SCAN_CHUNK;
    for (bool first = true; n == SCAN_CHUNK; first = false) {
        int rc = ps_cache_note(c, ps_index_scan(c->index, first ? NULL : after, chunk, SCAN_CHUNK,
                                                &n, err));
        for (size_t i = 0; i < n && rc == 0; i++)
            rc = fn(user, &chunk[i], err);
        if (rc != 0)
            return rc;
        if (n > 0)
            memcpy(after, chunk[n - 1].key, sizeof after);
    }
    return 0;
}

/* Bytes held of each part of a model: [0] outside of its layers, then layer by layer; and of files beside them. */
struct held_parts {
    struct {
        uint64_t *bytes; /* made when first needed */
        size_t n;
        uint64_t files_bytes;
    } of[PS_INDEX_MODELS_MAX]; /* by model number */
};

static int note_part(void *user, const struct ps_keyed_record *k, struct ps_err *err)
{
    struct held_parts *h = user;
    if (k->rec.model >= PS_INDEX_MODELS_MAX)
        return 0;
    if (k->rec.layer == PS_CACHE_LAYER_FILE) {
        h->of[k->rec.model].files_bytes += k->rec.bytes;
        return 0;
    }
    uint64_t **bytes = &h->of[k->rec.model].bytes;
    size_t *n = &h->of[k->rec.model].n;
    const size_t part = k->rec.layer < 0 ? 0 : (size_t)k->rec.layer + 1;
    if (part >= *n) {
        const size_t want = part + 64;
        uint64_t *more = ps_realloc_array(*bytes, want, sizeof *more);
        if (!more)
            return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "cache: out of memory");
        memset(more + *n, 0, (want - *n) * sizeof *more);
        *bytes = more;
        *n = want;
    }
    (*bytes)[part] += k->rec.bytes;
    return 0;
}

static void describe_part(struct ps_json_writer *w, long long layer, uint64_t held, uint64_t all)
{
    ps_jw_object(w);
    ps_jw_key(w, "layer");
    ps_jw_int(w, layer);
    ps_jw_kuint(w, "held_bytes", held);
    ps_jw_kuint(w, "bytes", all);
    ps_jw_object_end(w);
}

static void describe_parts(struct ps_json_writer *w, const uint64_t *held, size_t n_held,
                           const uint64_t *all, size_t n_all)
{
    const size_t n = n_all > n_held ? n_all : n_held;
    ps_jw_key(w, "layers");
    ps_jw_array(w);
    for (size_t i = 1; i < n_held; i++)
        if (held[i] > 0)
            ps_jw_uint(w, i - 1);
    ps_jw_array_end(w);
    ps_jw_key(w, "resident");
    ps_jw_array(w);
    for (size_t k = 1; k <= n; k++) { /* what lies outside of layers comes last */
        const size_t i = k < n ? k : 0;
        const uint64_t h = i < n_held ? held[i] : 0, a = i < n_all ? all[i] : 0;
        if (h > 0 || a > 0)
            describe_part(w, (long long)i - 1, h, a);
    }
    ps_jw_array_end(w);
}

/* Versions of before files had a layer of their own kept them outside of layers, among the weights. What is more than
 * the weights there can be is theirs. */
static void set_old_files_apart(struct held_parts *h, uint16_t number, const uint64_t *all,
                                size_t n_all)
{
    if (n_all == 0 || h->of[number].n == 0 || h->of[number].bytes[0] <= all[0])
        return;
    h->of[number].files_bytes += h->of[number].bytes[0] - all[0];
    h->of[number].bytes[0] = all[0];
}

static int describe_model(struct ps_cache *c, struct ps_json_writer *w, const struct ps_model *m,
                          struct held_parts *h, struct ps_err *err)
{
    char id[2 * PS_SHA256_BYTES + 1];
    uint64_t *all = NULL, total = 0;
    size_t n_all = 0;
    const int rc = ps_index_parts(c->index, m->number, &all, &n_all, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n_all; i++)
        total += all[i];
    set_old_files_apart(h, m->number, all, n_all);
    ps_hex_encode(m->id, PS_SHA256_BYTES, id);
    ps_jw_object(w);
    ps_jw_kstring(w, "model_id", id);
    ps_jw_kstring(w, "source", m->label);
    ps_jw_kuint(w, "bytes", m->bytes);
    ps_jw_kuint(w, "files_bytes", h->of[m->number].files_bytes);
    ps_jw_kuint(w, "stored_bytes", total);
    ps_jw_kbool(w, "pinned", m->pinned != 0);
    ps_jw_key(w, "priority");
    ps_jw_int(w, m->priority);
    describe_parts(w, h->of[m->number].bytes, h->of[m->number].n, all, n_all);
    ps_jw_object_end(w);
    ps_free(all);
    return 0;
}

int ps_cache_describe(struct ps_cache *c, struct ps_json_writer *w, struct ps_err *err)
{
    struct ps_model *models = NULL;
    size_t n = 0;
    struct held_parts *h = ps_calloc(1, sizeof *h);
    if (!h)
        return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "cache: out of memory");
    int rc = ps_index_models(c->index, &models, &n, err);
    if (rc == 0)
        rc = each_record(c, note_part, h, err);
    if (rc == 0) {
        ps_jw_key(w, "models");
        ps_jw_array(w);
        for (size_t i = 0; i < n && rc == 0; i++)
            if (models[i].number < PS_INDEX_MODELS_MAX &&
                (models[i].n_extents > 0 || models[i].pinned))
                rc = describe_model(c, w, &models[i], h, err);
        ps_jw_array_end(w);
        ps_jw_kuint(w, "budget_bytes", ps_claims_last_budget(c->dir_fd));
        ps_jw_kuint(w, "allocated_bytes", ps_cache_allocated_bytes(c));
    }
    for (size_t i = 0; i < PS_INDEX_MODELS_MAX; i++)
        ps_free(h->of[i].bytes);
    ps_free(h);
    ps_free(models);
    return rc;
}

/* ---- pins ---- */

struct pin_job {
    const uint8_t *id;
    bool pinned;
};

static int pin_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    const struct pin_job *j = user;
    struct ps_model m;
    const int rc = ps_index_write_get_model(w, j->id, 0, &m, err);
    if (rc != 0)
        return rc;
    m.pinned = j->pinned;
    return ps_index_write_put_model(w, &m, err);
}

static int pin_job(struct ps_cache *c, void *user, struct ps_err *err)
{
    const int rc = ps_writer_update(c, 1, pin_body, user, err);
    forget_victims(c);
    return rc;
}

static int read_only_error(const struct ps_cache *c, struct ps_err *err)
{
    return ps_err_set(err, PS_EIO, PS_CACHE_ORIGIN, "cache: %s can't be written", c->dir);
}

int ps_cache_pin(struct ps_cache *c, const uint8_t model_id[PS_SHA256_BYTES], bool pinned,
                 struct ps_err *err)
{
    struct pin_job j = {.id = model_id, .pinned = pinned};
    if (c->read_only)
        return read_only_error(c, err);
    const int rc = ps_writer_call(c, pin_job, &j, err);
    return rc == PS_ENOTFOUND ? ps_err_set(err, rc, PS_CACHE_ORIGIN, "cache: holds no such model")
                              : rc;
}

/* ---- eviction by hand ---- */

struct evict_job {
    const uint8_t *id;
    bool doomed[PS_INDEX_MODELS_MAX];
    struct ps_cache *c;
    struct ps_keyed_record recs[EVICT_CHUNK];
    size_t n;
    uint64_t freed;
};

/* In the order of their slots: neighbours give their blocks back in one call. */
static int evict_flush(struct evict_job *j, struct ps_err *err)
{
    int rc = 0;
    qsort(j->recs, j->n, sizeof j->recs[0], ps_writer_by_slot);
    for (size_t i = 0; i < j->n && rc == 0; i += PS_CACHE_BATCH)
        rc = ps_writer_evict(j->c, j->recs + i, j->n - i < PS_CACHE_BATCH ? j->n - i : PS_CACHE_BATCH,
                             false, &j->freed, err);
    j->n = 0;
    return rc;
}

static int evict_record(void *user, const struct ps_keyed_record *k, struct ps_err *err)
{
    struct evict_job *j = user;
    if (k->rec.model < PS_INDEX_MODELS_MAX && !j->doomed[k->rec.model])
        return 0;
    j->recs[j->n++] = *k;
    return j->n == EVICT_CHUNK ? evict_flush(j, err) : 0;
}

/* Rows of models of which nothing is left and that no process works on. */
static int forget_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    struct evict_job *j = user;
    for (uint32_t number = 0; number < PS_INDEX_MODELS_MAX; number++) {
        struct ps_model m;
        int rc = j->doomed[number] ? ps_index_write_get_model(w, NULL, (uint16_t)number, &m, err)
                                   : PS_ENOTFOUND;
        if (rc == 0 && m.n_extents == 0 && !m.pinned)
            rc = ps_index_write_remove_model(w, (uint16_t)number, err);
        if (rc != 0 && rc != PS_ENOTFOUND)
            return rc;
    }
    return 0;
}

static void spare_live(struct ps_cache *c, bool doomed[PS_INDEX_MODELS_MAX])
{
    ps_claims_lock(c->claims);
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++) {
        const struct ps_claim_process *q = ps_claims_process_locked(c->claims, p);
        for (uint32_t i = 0; q->used && i < q->n_models && i < PS_CLAIM_MODELS; i++)
            if (q->models[i] < PS_INDEX_MODELS_MAX)
                doomed[q->models[i]] = false;
    }
    ps_claims_unlock(c->claims);
}

static int choose_doomed(struct ps_cache *c, struct evict_job *j, struct ps_err *err)
{
    struct ps_model *models = NULL;
    size_t n = 0, hits = 0;
    const int rc = ps_index_models(c->index, &models, &n, err);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        /* Named by its id, a pinned model goes too; "all" means all that is not pinned. */
        const bool hit =
            j->id ? memcmp(models[i].id, j->id, PS_SHA256_BYTES) == 0 : !models[i].pinned;
        if (hit && models[i].number < PS_INDEX_MODELS_MAX) {
            j->doomed[models[i].number] = true;
            hits++;
        }
    }
    ps_free(models);
    if (j->id && hits == 0)
        return ps_err_set(err, PS_ENOTFOUND, PS_CACHE_ORIGIN, "cache: holds no such model");
    return 0;
}

static int evict_job_run(struct ps_cache *c, void *user, struct ps_err *err)
{
    struct evict_job *j = user;
    int rc = ps_writer_flush(c, NULL, err);
    if (rc == 0)
        rc = choose_doomed(c, j, err);
    if (rc == 0)
        rc = each_record(c, evict_record, j, err);
    if (rc == 0)
        rc = evict_flush(j, err);
    if (rc != 0)
        return rc;
    spare_live(c, j->doomed);
    return ps_writer_update(c, 1, forget_body, j, err);
}

int ps_cache_evict(struct ps_cache *c, const uint8_t *model_id, uint64_t *freed_bytes,
                   struct ps_err *err)
{
    if (c->read_only)
        return read_only_error(c, err);
    struct evict_job *j = ps_calloc(1, sizeof *j);
    if (!j)
        return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "cache: out of memory");
    j->id = model_id;
    j->c = c;
    const int rc = ps_writer_call(c, evict_job_run, j, err);
    if (rc == 0 && freed_bytes)
        *freed_bytes = j->freed;
    ps_free(j);
    return rc;
}

/* ---- verification ---- */

struct verification {
    struct ps_cache *c;
    bool deep, repair;
    void (*progress)(void *user, uint64_t done, uint64_t total);
    void *user;
    uint64_t done_bytes, total_bytes, checked, bad;
    uint8_t *buf;
    struct ps_keyed_record hashed[PS_CACHE_BATCH];
    size_t n_hashed;
};

/* Records whose key has turned out to be the hash of their bytes, flagged a batch at a time: a commit takes
 * milliseconds. */
static int flag_body(struct ps_index_write *w, void *user, struct ps_err *err)
{
    const struct verification *v = user;
    for (size_t i = 0; i < v->n_hashed; i++) {
        const struct ps_keyed_record *k = &v->hashed[i];
        const int rc =
            ps_index_write_flags(w, k->key, (uint8_t)(k->rec.flags | PS_RECORD_HASHED), err);
        if (rc != 0 && rc != PS_ENOTFOUND)
            return rc;
    }
    return 0;
}

static int flag_job(struct ps_cache *c, void *user, struct ps_err *err)
{
    const struct verification *v = user;
    return ps_writer_update(c, v->n_hashed, flag_body, user, err);
}

/* A flag that could not be written is found again by the next deep check. */
static void flag_hashed(struct verification *v)
{
    if (v->n_hashed > 0)
        (void)ps_writer_call(v->c, flag_job, v, NULL);
    v->n_hashed = 0;
}

static int drop_bad(struct ps_cache *c, void *user, struct ps_err *err)
{
    uint64_t freed = 0;
    return ps_writer_evict(c, user, 1, false, &freed, err);
}

/* Whether the slot holds what its record says. Keys that are no hash of the bytes (plain files without known
 * hashes) can't be told from damaged ones by SHA-256 alone: a key that once was the hash must stay it. */
static int check_slot(struct verification *v, const struct ps_keyed_record *k, bool *good,
                      struct ps_err *err)
{
    uint8_t sha[PS_SHA256_BYTES];
    const int rc = ps_slab_read(v->c->slabs, k->rec.cls, k->rec.slot, v->buf, k->rec.bytes,
                                PS_CACHE_EXTENT_MAX, err);
    if (rc != 0 && rc != PS_EDATA)
        return rc;
    *good = rc == 0 && ps_crc32c(0, v->buf, k->rec.bytes) == k->rec.crc32c;
    if (!*good || !v->deep)
        return 0;
    ps_sha256_once(v->buf, k->rec.bytes, sha);
    const bool equal = memcmp(sha, k->key, sizeof sha) == 0;
    if (k->rec.flags & PS_RECORD_HASHED) {
        *good = equal;
    } else if (equal && !v->c->read_only) {
        v->hashed[v->n_hashed++] = *k;
        if (v->n_hashed == PS_CACHE_BATCH)
            flag_hashed(v);
    }
    return 0;
}

static int verify_record(void *user, const struct ps_keyed_record *k, struct ps_err *err)
{
    struct verification *v = user;
    struct ps_keyed_record now = *k;
    bool good = false;
    int rc = check_slot(v, k, &good, NULL);
    if (rc == 0 && !good) {
        /* Evicted or replaced since the scan: not the extent's fault. */
        if (ps_index_get(v->c->index, k->key, &now.rec, NULL) != 0)
            return 0;
        rc = check_slot(v, &now, &good, err);
    }
    if (rc != 0)
        return rc;
    v->checked++;
    v->done_bytes += k->rec.bytes;
    if (!good) {
        v->bad++;
        ps_log(PS_LOG_WARN, PS_CACHE_ORIGIN, "slab %d slot %u: wrong bytes%s", now.rec.cls,
               now.rec.slot, v->repair ? ": dropped" : "");
        if (v->repair)
            rc = ps_writer_call(v->c, drop_bad, &now, err);
    }
    if (v->progress)
        v->progress(v->user, v->done_bytes, v->total_bytes);
    return rc;
}

static int total_bytes(struct ps_cache *c, uint64_t *bytes, struct ps_err *err)
{
    struct ps_model *models = NULL;
    size_t n = 0;
    const int rc = ps_index_models(c->index, &models, &n, err);
    if (rc != 0)
        return rc;
    *bytes = 0;
    for (size_t i = 0; i < n; i++)
        *bytes += models[i].bytes;
    ps_free(models);
    return 0;
}

int ps_cache_verify(struct ps_cache *c, bool deep, bool repair,
                    void (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                    uint64_t *checked, uint64_t *bad, struct ps_err *err)
{
    struct verification v = {.c = c, .deep = deep, .repair = repair, .progress = progress, .user = user};
    if (repair && c->read_only)
        return read_only_error(c, err);
    int rc = ps_cache_flush(c, err);
    if (rc == 0)
        rc = total_bytes(c, &v.total_bytes, err);
    if (rc != 0)
        return rc;
    v.buf = ps_alloc_pages(PS_CACHE_EXTENT_MAX, PS_CACHE_GRAIN);
    if (!v.buf)
        return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "verify: out of memory");
    uint64_t all_bad = 0, first_checked = 0;
    if (progress)
        progress(user, 0, v.total_bytes);
    for (int i = 0; rc == 0 && i < (repair ? REPAIRS_MAX : 1); i++) {
        v.checked = v.bad = v.done_bytes = 0;
        rc = each_record(c, verify_record, &v, err);
        flag_hashed(&v);
        first_checked = i == 0 ? v.checked : first_checked;
        all_bad += v.bad;
        if (v.bad == 0)
            break;
    }
    ps_free_pages(v.buf, PS_CACHE_EXTENT_MAX);
    if (rc == 0) {
        *checked = first_checked;
        *bad = all_bad;
    }
    return rc;
}
