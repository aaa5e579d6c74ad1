/* A prefix on S3 as destination of a split. Comes in: bytes of shards and small files. Goes out: objects, without
 * a copy on this machine.
 *
 * A shard's name follows from its index, which is known last. Its parts therefore gather in a fixed pool of
 * buffers; a shard that is whole before the pool is empty goes up under its final name, beside the next shard's
 * making. A larger one is sent on as a multipart upload of a temporary object, which the store copies to its name
 * itself (no bytes come back). The first parts wait in either case: head and index stand in front and come last.
 *
 * Nothing is visible before it is whole: uploads that are not completed are aborted, by this run or, after a kill,
 * by the next one, which finds them, and temporary objects, by listing.
 *
 * Two splits into one prefix at once: whoever begins later takes the prefix over. Each has a number of its own, in
 * the name of its temporary object and in the journal. The earlier one finds another journal than it wrote, at the
 * latest before its manifest, and ends without touching anything more; what is left to chance is the moment between
 * that look and the manifest. (Not If-Match: stores differ in what they support for PUT, and a PUT that is tried again
 * after a lost reply would refuse itself.) */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "fetcher/s3_upload.h"
#include "fetcher/store.h"
#include "proto/manifest.h"
#include "proto/parallel.h"
#include "tools/split_tree_impl.h"

#define S3_ORIGIN    "split"
#define PART_MIN     (8ull << 20)
#define PART_ALIGN   (1ull << 20)
#define PARTS_WANTED 9000u /* of the 10,000 that a shard may have */
#define BUFFERS_MIN  4u
#define BUFFERS_MAX  256u
#define SMALL_MAX    (256u << 20)
#define TEMP_BEGINS  PS_SPLIT_JOURNAL ".shard" /* and the run's number behind it */
#define RUN_CHARS    16u
#define SHARDS       "shards/"

struct part {
    uint8_t *buf; /* NULL: sent already */
    size_t len;
};

/* What is sent beside the making of the next parts: some parts of an upload, or a whole shard. */
struct job {
    struct s3_tree *t;
    struct ps_s3_upload *upload; /* nullable: a whole shard under `name` */
    char name[sizeof SHARDS + PS_SPLIT_NAME_MAX];
    struct part *parts; /* owned */
    unsigned n, first_number;
    uint32_t shard;
    struct ps_split_done done;
    int rc;
    struct ps_err err;
};

struct s3_tree {
    struct ps_split_tree base;
    struct ps_s3_writer *w;
    struct ps_source *back; /* the same place, for reading */
    const struct ps_split_place *place;
    struct ps_strbuf journal; /* as this run wrote it last */
    char run[RUN_CHARS + 1], temp_name[sizeof TEMP_BEGINS + 1 + RUN_CHARS];
    size_t part_bytes;
    uint8_t *buffers[BUFFERS_MAX];
    unsigned n_buffers;

    pthread_mutex_t lock;
    pthread_cond_t freed;
    uint8_t *free[BUFFERS_MAX]; /* lock */
    unsigned n_free;            /* lock */
    bool job_over;              /* lock */

    pthread_t thread;
    bool running; /* a job that nobody has joined */
    struct job job;

    /* the present shard */
    bool open;
    struct part *parts;
    unsigned n_parts, cap_parts, head_parts,
        sent;                  /* parts in [head_parts, sent) have been handed on */
    struct ps_s3_upload *temp; /* nullable */
    uint64_t size;
};

static int s3_no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, S3_ORIGIN, "out of memory");
}

/* ---- sending ---- */

static void release_part(struct s3_tree *t, struct part *p)
{
    pthread_mutex_lock(&t->lock);
    if (p->buf)
        t->free[t->n_free++] = p->buf;
    p->buf = NULL;
    pthread_cond_signal(&t->freed);
    pthread_mutex_unlock(&t->lock);
}

struct sending {
    struct job *job;
    struct ps_s3_upload *upload;
};

static int send_part(void *user, uint32_t i, struct ps_err *err)
{
    const struct sending *s = user;
    struct part *p = &s->job->parts[i];
    int rc = ps_s3_upload_part(s->upload, s->job->first_number + i, p->buf, p->len, err);
    release_part(s->job->t, p);
    return rc;
}

static int send_whole(struct job *j, struct ps_err *err)
{
    struct sending s = {.job = j};
    if (j->n == 1)
        return ps_s3_put(j->t->w, j->name, j->parts[0].buf, j->parts[0].len, err);
    int rc = ps_s3_upload_begin(&s.upload, j->t->w, j->name, err);
    if (rc != 0)
        return rc;
    rc = ps_parallel(j->n, send_part, &s, err);
    if (rc == 0)
        return ps_s3_upload_complete(s.upload, err);
    ps_s3_upload_abort(s.upload);
    return rc;
}

static void *run_job(void *user)
{
    struct job *j = user;
    struct sending s = {.job = j, .upload = j->upload};
    j->rc = j->upload ? ps_parallel(j->n, send_part, &s, &j->err) : send_whole(j, &j->err);
    for (unsigned i = 0; i < j->n; i++)
        release_part(j->t, &j->parts[i]);
    pthread_mutex_lock(&j->t->lock);
    j->t->job_over = true;
    pthread_cond_signal(&j->t->freed);
    pthread_mutex_unlock(&j->t->lock);
    return NULL;
}

/* PS_EFAIL: the journal is another run's by now. A store that lets nobody read can't tell. Asked by a source of its
 * own: `back` takes an object that has changed since it saw it for an error. */
static int check_owner(const struct s3_tree *t, struct ps_err *err)
{
    struct ps_source *now;
    char *text = NULL;
    size_t len = 0;
    int rc = ps_store_open(&now, t->place->dst, t->place->store, err);
    if (rc != 0)
        return rc;
    rc = ps_source_get(now, PS_SPLIT_JOURNAL, PS_SPLIT_JOURNAL_MAX_BYTES, &text, &len, NULL, err);
    ps_source_close(now);
    bool ours = rc == 0 && len == t->journal.len && memcmp(text, t->journal.data, len) == 0;
    if (rc == 0)
        ps_free(text);
    if (ours || rc == PS_EREFUSED)
        return 0;
    return rc != 0 && rc != PS_ENOTFOUND
               ? rc
               : ps_err_set(
                     err, PS_EFAIL, S3_ORIGIN,
                     "another split has taken over %s: let it end; if there is none, run this "
                     "again: what is finished is kept",
                     t->back->label);
}

/* Whoever takes over ends the uploads of the run before: that is then why one fails. */
static int reason(const struct s3_tree *t, int rc, struct ps_err *err)
{
    struct ps_err other;
    if (rc == 0 || rc == PS_EINTERRUPTED || check_owner(t, &other) != PS_EFAIL)
        return rc;
    if (err)
        *err = other;
    return PS_EFAIL;
}

static int put_journal(struct s3_tree *t, struct ps_err *err)
{
    return ps_strbuf_ok(&t->journal)
               ? ps_s3_put(t->w, PS_SPLIT_JOURNAL, t->journal.data, t->journal.len, err)
               : s3_no_memory(err);
}

static int note_finished(struct s3_tree *t, uint32_t shard, const struct ps_split_done *d,
                         struct ps_err *err)
{
    char line[PS_SPLIT_LINE_MAX];
    int rc = check_owner(t, err);
    if (rc != 0)
        return rc;
    ps_split_journal_line(line, sizeof line, shard, d);
    ps_strbuf_puts(&t->journal, line);
    return put_journal(t, err);
}

/* Waits for what is under way, if anything is. */
static int join_job(struct s3_tree *t, struct ps_err *err)
{
    if (!t->running)
        return 0;
    pthread_join(t->thread, NULL);
    t->running = false;
    ps_free(t->job.parts);
    t->job.parts = NULL;
    if (t->job.rc != 0) {
        if (err)
            *err = t->job.err;
        return t->job.rc;
    }
    return t->job.upload ? 0 : note_finished(t, t->job.shard, &t->job.done, err);
}

/* Hands parts [from, to) of the present shard over; no job may be running. */
static int start_job(struct s3_tree *t, struct job *j, unsigned from, unsigned to, struct ps_err *err)
{
    j->t = t;
    j->n = to - from;
    j->first_number = from + 1;
    j->parts = ps_calloc(j->n, sizeof *j->parts);
    if (!j->parts)
        return s3_no_memory(err);
    memcpy(j->parts, t->parts + from, j->n * sizeof *j->parts);
    for (unsigned i = from; i < to; i++)
        t->parts[i].buf = NULL;
    t->job = *j;
    t->job_over = false;
    if (pthread_create(&t->thread, NULL, run_job, &t->job) != 0)
        run_job(&t->job); /* slower, but it goes on */
    else
        t->running = true;
    if (t->running)
        return 0;
    t->running = false;
    ps_free(t->job.parts);
    if (t->job.rc != 0 && err)
        *err = t->job.err;
    if (t->job.rc != 0)
        return t->job.rc;
    return t->job.upload ? 0 : note_finished(t, t->job.shard, &t->job.done, err);
}

/* ---- the present shard ---- */

/* All full parts but those that wait for the index go to the temporary object. */
static int spill(struct s3_tree *t, struct ps_err *err)
{
    int rc = t->temp ? 0 : ps_s3_upload_begin(&t->temp, t->w, t->temp_name, err);
    if (rc != 0)
        return rc;
    unsigned from = t->sent;
    if (from >= t->n_parts)
        return ps_err_set(err, PS_EBUDGET, S3_ORIGIN,
                          "--ram: too little for a shard's index: give more");
    struct job j = {.upload = t->temp};
    t->sent = t->n_parts;
    return start_job(t, &j, from, t->n_parts, err);
}

static int take_buffer(struct s3_tree *t, uint8_t **out, struct ps_err *err)
{
    for (;;) {
        pthread_mutex_lock(&t->lock);
        while (t->running && t->n_free == 0 && !t->job_over)
            pthread_cond_wait(&t->freed, &t->lock);
        uint8_t *buf = t->n_free > 0 ? t->free[--t->n_free] : NULL;
        pthread_mutex_unlock(&t->lock);
        if (buf) {
            *out = buf;
            return 0;
        }
        int rc = t->running ? join_job(t, err) : spill(t, err);
        if (rc != 0)
            return rc;
    }
}

static int add_part(struct s3_tree *t, struct ps_err *err)
{
    if (t->n_parts == t->cap_parts) {
        unsigned cap = t->cap_parts ? 2 * t->cap_parts : 64;
        struct part *p = ps_realloc_array(t->parts, cap, sizeof *p);
        if (!p)
            return s3_no_memory(err);
        t->parts = p;
        t->cap_parts = cap;
    }
    uint8_t *buf = NULL;
    int rc = take_buffer(t, &buf, err);
    if (rc == 0)
        t->parts[t->n_parts++] = (struct part){.buf = buf};
    return rc;
}

static void drop_parts(struct s3_tree *t)
{
    for (unsigned i = 0; i < t->n_parts; i++)
        release_part(t, &t->parts[i]);
    t->n_parts = t->sent = 0;
    t->open = false;
    if (t->temp)
        ps_s3_upload_abort(t->temp);
    t->temp = NULL;
}

static int s3_begin(struct ps_split_tree *base, uint64_t data_begin, struct ps_err *err)
{
    struct s3_tree *t = (struct s3_tree *)base;
    PS_ASSERT(!t->open);
    t->open = true;
    t->size = data_begin;
    t->head_parts = (unsigned)((data_begin + t->part_bytes - 1) / t->part_bytes);
    t->sent = t->head_parts;
    for (uint64_t left = data_begin; left > 0;) {
        int rc = add_part(t, err);
        if (rc != 0)
            return rc;
        struct part *p = &t->parts[t->n_parts - 1];
        p->len = left < t->part_bytes ? (size_t)left : t->part_bytes;
        memset(p->buf, 0, p->len); /* the gap behind the index */
        left -= p->len;
    }
    return 0;
}

static int s3_write(struct ps_split_tree *base, const void *bytes, size_t len, uint64_t offset,
                    struct ps_err *err)
{
    struct s3_tree *t = (struct s3_tree *)base;
    const uint8_t *from = bytes;
    bool behind = offset == t->size;
    PS_ASSERT(behind || offset + len <= (uint64_t)t->head_parts * t->part_bytes);
    while (len > 0) {
        size_t i = (size_t)(offset / t->part_bytes), at = (size_t)(offset % t->part_bytes);
        int rc = i >= t->n_parts ? add_part(t, err) : 0;
        if (rc != 0)
            return rc;
        size_t n = t->part_bytes - at < len ? t->part_bytes - at : len;
        memcpy(t->parts[i].buf + at, from, n);
        if (behind)
            t->parts[i].len = at + n;
        from += n;
        offset += n;
        len -= n;
    }
    if (behind)
        t->size = offset;
    return 0;
}

/* The temporary object gets its last parts, the first ones among them, and its name. */
static int finish_spilled(struct s3_tree *t, const char *name, struct ps_err *err)
{
    struct job head = {.upload = t->temp}, tail = {.upload = t->temp};
    int rc = start_job(t, &head, 0, t->head_parts, err);
    if (rc == 0)
        rc = join_job(t, err);
    if (rc == 0 && t->sent < t->n_parts)
        rc = start_job(t, &tail, t->sent, t->n_parts, err);
    if (rc == 0)
        rc = join_job(t, err);
    if (rc != 0)
        return rc;
    struct ps_s3_upload *u = t->temp;
    t->temp = NULL; /* complete frees it, also when it fails */
    rc = ps_s3_upload_complete(u, err);
    if (rc == 0)
        rc = ps_s3_copy(t->w, t->temp_name, name, t->size, err);
    ps_s3_delete(t->w, t->temp_name, rc == 0 ? err : NULL);
    return rc;
}

static int s3_finish_shard(struct ps_split_tree *base, uint32_t shard,
                           const struct ps_split_done *d, struct ps_err *err)
{
    struct s3_tree *t = (struct s3_tree *)base;
    struct job j = {.shard = shard, .done = *d};
    char file[PS_SPLIT_NAME_MAX];
    ps_split_shard_file(file, d->index_sha256);
    snprintf(j.name, sizeof j.name, SHARDS "%s", file);
    PS_ASSERT(t->size == d->bytes);
    int rc = join_job(t, err);
    if (rc == 0 && t->temp) {
        rc = finish_spilled(t, j.name, err);
        if (rc == 0)
            rc = note_finished(t, shard, d, err);
    } else if (rc == 0) {
        rc = start_job(t, &j, 0, t->n_parts, err);
    }
    drop_parts(t);
    return reason(t, rc, err);
}

/* ---- small objects ---- */

static bool is_same(struct s3_tree *t, const char *name, const void *bytes, size_t len)
{
    char *old;
    size_t n;
    if (ps_source_get(t->back, name, SMALL_MAX, &old, &n, NULL, NULL) != 0)
        return false;
    bool same = n == len && memcmp(old, bytes, len) == 0;
    ps_free(old);
    return same;
}

static int s3_put(struct ps_split_tree *base, const char *name, const void *bytes, size_t len,
                  struct ps_err *err)
{
    struct s3_tree *t = (struct s3_tree *)base;
    return is_same(t, name, bytes, len) ? 0 : ps_s3_put(t->w, name, bytes, len, err);
}

/* ---- seal ---- */

struct leftover {
    const struct ps_split_done *done; /* NULL: whatever is listed goes */
    uint32_t n;
    char **names; /* gathered first: a list that changes under way may skip */
    size_t n_names, cap;
    bool failed;
};

static bool is_named(const struct leftover *l, const char *object)
{
    uint8_t sha[PS_SHA256_BYTES];
    return l->done && (!ps_split_is_shard_file(object + strlen(SHARDS), sha) ||
                       ps_split_names_shard(l->done, l->n, sha));
}

static bool gather_unnamed(void *user, const char *object)
{
    struct leftover *l = user;
    if (is_named(l, object))
        return true;
    if (l->n_names == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        char **names = ps_realloc_array(l->names, cap, sizeof *names);
        if (!names) {
            l->failed = true;
            return false;
        }
        l->names = names;
        l->cap = cap;
    }
    l->names[l->n_names] = ps_strdup(object);
    l->failed |= !l->names[l->n_names];
    l->n_names += l->names[l->n_names] != NULL;
    return !l->failed;
}

/* Removes what begins so and is not named. PS_EREFUSED: the store does not list. */
static int remove_objects(struct s3_tree *t, const char *begins, const struct ps_split_done *done,
                          uint32_t n, struct ps_err *err)
{
    struct leftover l = {.done = done, .n = n};
    int rc = ps_s3_list(t->w, begins, gather_unnamed, &l, err);
    if (rc == 0 && l.failed)
        rc = s3_no_memory(err);
    for (size_t i = 0; i < l.n_names; i++) {
        if (rc == 0)
            rc = ps_s3_delete(t->w, l.names[i], err);
        ps_free(l.names[i]);
    }
    ps_free(l.names);
    return rc;
}

/* A store that lets nobody list keeps old shards: the tree is whole all the same. */
static int remove_leftovers(struct s3_tree *t, const struct ps_split_done *done, uint32_t n,
                            struct ps_err *err)
{
    int rc = remove_objects(t, SHARDS, done, n, err);
    if (rc != PS_EREFUSED)
        return rc;
    ps_log(PS_LOG_WARN, S3_ORIGIN,
           "the store does not list: shards of an earlier split, if any, were left");
    return 0;
}

static int s3_seal(struct ps_split_tree *base, const void *manifest, size_t len,
                   const struct ps_split_done *done, uint32_t n_shards, struct ps_err *err)
{
    struct s3_tree *t = (struct s3_tree *)base;
    int rc = reason(t, join_job(t, err), err);
    if (rc == 0)
        rc = check_owner(t, err); /* the tree would name shards that the other one removes */
    if (rc == 0)
        rc = s3_put(base, PS_MANIFEST_NAME, manifest, len, err);
    if (rc == 0)
        rc = remove_leftovers(t, done, n_shards, err);
    if (rc == 0)
        rc = ps_s3_delete(t->w, PS_SPLIT_JOURNAL, err);
    return rc;
}

/* ---- opening ---- */

static bool note_any(void *user, const char *object)
{
    snprintf(user, PS_SPLIT_NAME_MAX, "%.*s", PS_SPLIT_NAME_MAX - 1, object);
    return false;
}

/* A journal or a manifest says that the prefix is ours; otherwise it must be empty. */
static int check_prefix(struct s3_tree *t, bool has_journal, struct ps_err *err)
{
    char stranger[PS_SPLIT_NAME_MAX] = "", *bytes;
    size_t len;
    int rc = has_journal ? 0
                         : ps_source_get(t->back, PS_MANIFEST_NAME, PS_MANIFEST_MAX_BYTES, &bytes,
                                         &len, NULL, err);
    if (rc == 0 && !has_journal)
        ps_free(bytes);
    if (rc == 0)
        return 0;
    if (rc != PS_ENOTFOUND && rc != PS_EREFUSED)
        return rc;
    rc = ps_s3_list(t->w, "", note_any, stranger, err);
    if (rc == PS_EREFUSED) {
        ps_log(PS_LOG_WARN, S3_ORIGIN, "the store does not list: whether %s is empty can't be told",
               t->back->label);
        return 0;
    }
    if (rc == 0 && stranger[0])
        return ps_err_set(err, PS_EUSAGE, S3_ORIGIN,
                          "%s holds something else than a split (%s): name an empty prefix",
                          t->back->label, stranger);
    return rc;
}

static bool shard_is_there(struct s3_tree *t, const struct ps_split_done *d)
{
    char file[PS_SPLIT_NAME_MAX], name[sizeof SHARDS + PS_SPLIT_NAME_MAX];
    struct ps_object_info info;
    uint8_t sha[PS_SHA256_BYTES];
    size_t len, n = (size_t)PS_SHARD_HEAD_BYTES + d->index_bytes;
    ps_split_shard_file(file, d->index_sha256);
    snprintf(name, sizeof name, SHARDS "%s", file);
    uint8_t *head = d->index_bytes <= PS_SHARD_INDEX_MAX_BYTES ? ps_malloc(n) : NULL;
    bool there = head && ps_source_head(t->back, name, head, n, &len, &info, NULL) == 0 &&
                 len == n && info.bytes == d->bytes;
    if (there) {
        ps_sha256_once(head + PS_SHARD_HEAD_BYTES, d->index_bytes, sha);
        there = memcmp(sha, d->index_sha256, sizeof sha) == 0;
    }
    ps_free(head);
    return there;
}

/* Our journal: our number, and of `text` the lines of shards. done: nullable, filled with those that are there, and the
 * others are left out. */
static void take_journal(struct s3_tree *t, const char *text, const char *head,
                         struct ps_split_done *done, uint32_t n_shards)
{
    char line[PS_SPLIT_LINE_MAX];
    ps_strbuf_reset(&t->journal);
    ps_strbuf_puts(&t->journal, head);
    ps_strbuf_printf(&t->journal, "run %s\n", t->run);
    if (strncmp(text, head, strlen(head)) != 0)
        return; /* of another split: its shards go when this one is sealed */
    for (const char *p = text + strlen(head), *end; (end = strchr(p, '\n')); p = end + 1) {
        struct ps_split_done d;
        uint32_t shard;
        size_t n = (size_t)(end - p) + 1;
        if (n >= sizeof line)
            continue;
        memcpy(line, p, n);
        line[n] = '\0';
        if (!ps_split_journal_parse(line, &shard, &d) || shard >= n_shards ||
            (done && !shard_is_there(t, &d)))
            continue;
        if (done)
            done[shard] = d;
        ps_strbuf_puts(&t->journal, line);
    }
}

/* What a killed run left open costs money until it is ended. */
static int end_old_uploads(struct s3_tree *t, struct ps_err *err)
{
    static const char *const ours[] = {SHARDS, PS_SPLIT_JOURNAL};
    unsigned n = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < 2; i++)
        rc = ps_s3_abort_uploads(t->w, ours[i], &n, err);
    if (rc == 0)
        rc = remove_objects(t, TEMP_BEGINS, NULL, 0, err);
    if (rc != PS_EREFUSED && rc != PS_ENOTFOUND)
        return rc;
    ps_log(
        PS_LOG_WARN, S3_ORIGIN,
        "the store does not list: an upload or temporary object of a killed split, if any, stays");
    return 0;
}

static int take_up(struct s3_tree *t, const uint8_t key[PS_SHA256_BYTES],
                   struct ps_split_done *done, uint32_t n_shards, struct ps_err *err)
{
    char head[PS_SPLIT_NAME_MAX], *text = NULL;
    size_t len;
    ps_split_journal_head(head, key);
    int rc =
        ps_source_get(t->back, PS_SPLIT_JOURNAL, PS_SPLIT_JOURNAL_MAX_BYTES, &text, &len, NULL, err);
    bool found = rc == 0;
    /* stores that hide what is not there say 403; a key that may do nothing at all fails when it writes */
    if (rc == 0 || rc == PS_ENOTFOUND || rc == PS_EREFUSED)
        rc = check_prefix(t, found, err);
    /* Our number first, so that an earlier run which still lives sees why its uploads end. */
    if (rc == 0 && found) {
        take_journal(t, text, head, NULL, n_shards);
        rc = put_journal(t, err);
        if (rc == 0)
            rc = end_old_uploads(t, err);
    }
    if (rc == 0) {
        take_journal(t, found ? text : "", head, done, n_shards);
        rc = put_journal(t, err);
    }
    ps_free(text);
    return rc;
}

/* Numbers that no two runs share. */
static int draw_run(struct s3_tree *t, struct ps_err *err)
{
    uint8_t drawn[RUN_CHARS / 2];
    if (getrandom(drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn)
        return ps_err_set(err, PS_EIO, S3_ORIGIN, "no random numbers from the system");
    ps_hex_encode(drawn, sizeof drawn, t->run);
    snprintf(t->temp_name, sizeof t->temp_name, TEMP_BEGINS ".%s", t->run);
    return 0;
}

static int make_buffers(struct s3_tree *t, uint64_t ram_bytes, uint64_t max_shard_bytes,
                        struct ps_err *err)
{
    uint64_t part = max_shard_bytes / PARTS_WANTED;
    part = part < PART_MIN ? PART_MIN : (part + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
    uint64_t n = ram_bytes == PS_SPLIT_RAM_MIN ? BUFFERS_MIN : ram_bytes / part;
    if (n < BUFFERS_MIN)
        return ps_err_set(err, PS_EBUDGET, S3_ORIGIN,
                          "--ram: too little for parts of %llu MiB on their way to S3: give %llu "
                          "MiB more",
                          (unsigned long long)(part >> 20),
                          (unsigned long long)(((BUFFERS_MIN * part - ram_bytes) >> 20) * 3 + 1));
    t->part_bytes = (size_t)part;
    n = n > BUFFERS_MAX ? BUFFERS_MAX : n;
    for (; t->n_buffers < n; t->n_buffers++) {
        uint8_t *buf = ps_alloc_pages(t->part_bytes, 4096);
        if (!buf)
            return s3_no_memory(err);
        t->buffers[t->n_buffers] = t->free[t->n_free++] = buf;
    }
    return 0;
}

static void s3_close(struct ps_split_tree *base)
{
    struct s3_tree *t = (struct s3_tree *)base;
    join_job(t, NULL); /* what was finished is worth keeping */
    drop_parts(t);
    ps_s3_writer_close(t->w);
    ps_source_close(t->back);
    for (unsigned i = 0; i < t->n_buffers; i++)
        ps_free_pages(t->buffers[i], t->part_bytes);
    ps_free(t->parts);
    ps_strbuf_deinit(&t->journal);
    pthread_cond_destroy(&t->freed);
    pthread_mutex_destroy(&t->lock);
    ps_free(t);
}

static char *s3_get(struct ps_split_tree *base, const char *name, size_t max_bytes)
{
    char *text;
    size_t len;
    return ps_source_get(((struct s3_tree *)base)->back, name, max_bytes, &text, &len, NULL, NULL) == 0
               ? text
               : NULL;
}

static int s3_remove(struct ps_split_tree *base, const char *name, struct ps_err *err)
{
    return ps_s3_delete(((struct s3_tree *)base)->w, name, err);
}

static const struct ps_split_tree_ops s3_ops = {
    .close = s3_close,
    .begin = s3_begin,
    .write = s3_write,
    .finish_shard = s3_finish_shard,
    .put = s3_put,
    .get = s3_get,
    .remove = s3_remove,
    .seal = s3_seal,
};

int ps_split_s3_open(struct ps_split_tree **out, const struct ps_split_place *place,
                     const uint8_t key[PS_SHA256_BYTES], struct ps_split_done *done,
                     uint32_t n_shards, uint64_t max_shard_bytes, struct ps_err *err)
{
    struct s3_tree *t = ps_calloc(1, sizeof *t);
    if (!t)
        return s3_no_memory(err);
    t->base.ops = &s3_ops;
    t->place = place;
    ps_strbuf_init(&t->journal, PS_SPLIT_JOURNAL_MAX_BYTES);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->freed, NULL);
    int rc = draw_run(t, err);
    if (rc == 0)
        rc = ps_s3_writer_open(&t->w, place->dst, place->store, err);
    if (rc == 0)
        rc = ps_store_open(&t->back, place->dst, place->store, err);
    if (rc == 0)
        rc = make_buffers(t, place->ram_bytes, max_shard_bytes, err);
    if (rc == 0)
        rc = take_up(t, key, done, n_shards, err);
    if (rc != 0) {
        s3_close(&t->base);
        return rc;
    }
    *out = &t->base;
    return 0;
}

int ps_split_s3_look(struct ps_split_found *f, const struct ps_split_place *place, struct ps_err *err)
{
    struct ps_source *s;
    int rc = ps_store_open(&s, place->dst, place->store, err);
    if (rc != 0)
        return rc;
    f->where = ps_strdup(s->label);
    if (!f->where)
        rc = s3_no_memory(err);
    else if (ps_source_get(s, PS_MANIFEST_NAME, PS_MANIFEST_MAX_BYTES, &f->manifest,
                           &f->manifest_len, NULL, NULL) != 0)
        f->manifest = NULL;
    else if (ps_source_get(s, "config.json", PS_SPLIT_CONFIG_MAX_BYTES, &f->config, &f->config_len,
                           NULL, NULL) != 0)
        f->config = NULL;
    ps_source_close(s);
    return rc;
}
