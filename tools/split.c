/* `penstock split`. Comes in: a source. Goes out: a tree of shards. In between: a fixed ring of
 * buffers that ranges arrive in, a few threads that pack and hash them, and the caller's thread
 * that writes them in order. */
#include "tools/split.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/host.h"
#include "base/json.h"
#include "base/queue.h"
#include "base/thread.h"
#include "fetcher/store.h"
#include "proto/layout.h"
#include "proto/signature.h"
#include "runtime/arch.h"
#include "runtime/weights.h"
#include "tools/split_pack.h"
#include "tools/split_plan.h"
#include "tools/split_policy.h"
#include "tools/split_tree.h"

#define ORIGIN         "split"
#define MAX_THREADS    16u
#define MAX_SLOTS      64u
#define RAM_DEFAULT    (1ull << 30)
#define RAM_OTHERS     (64ull << 20) /* the program, maps, indexes, what the source holds */
#define DATA_ALIGN     4096u
#define WAIT_NS        (100u * 1000 * 1000) /* how soon a stop is noticed */
#define PROGRESS_NS    (250u * 1000 * 1000)
#define FILE_MAX_BYTES (256u << 20)
#define ROUNDING       "rounding 2" /* of another way to round, half a tree is not continued */

/* Small files of a model that stay objects of their own, where they exist. */
static const char *const small_files[] = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "added_tokens.json",
};
#define N_SMALL_FILES (sizeof small_files / sizeof small_files[0])

struct splitter;

/* One extent on its way. Owners in turn: the source (until done), a worker, the caller's thread. */
struct slot {
    struct splitter *s;
    struct ps_range range;
    const struct ps_extent *extent;
    uint8_t *raw, *packed; /* packed: NULL for codec raw */
    uint32_t *block_bytes;
    struct ps_packed p;
    uint8_t sha256[PS_SHA256_BYTES];
    int rc;
    struct ps_err err;
    bool in_flight; /* lock: submitted and not ready yet */
};

struct splitter {
    struct ps_source *src;
    const struct ps_split_options *o;
    struct ps_model_files files;
    struct ps_split_plan *plan;
    struct ps_split_place place;
    struct ps_split_tree *tree;
    struct ps_split_done *done;    /* one per shard */
    const struct ps_extent **todo; /* what must be fetched, in order */
    uint32_t n_todo;
    struct slot *slots;
    uint32_t n_slots;
    size_t raw_cap; /* bytes of each buffer */
    struct ps_queue *arrived;
    pthread_t threads[MAX_THREADS];
    unsigned n_threads;
    pthread_mutex_t lock;
    pthread_cond_t ready;
    bool abandon;  /* lock: what arrives is not worth packing */
    uint32_t next; /* position in todo of the next extent to write */
    uint64_t done_bytes, last_progress_ns;
};

/* A shard while it is written: its index, filled in as extents come. */
struct open_shard {
    struct ps_shard_index index;
    struct ps_shard_extent *extents;
    uint32_t *blocks;
    uint32_t n_extents, n_blocks; /* filled so far */
    uint32_t tensor;              /* of the extent that comes next, or before it */
    uint64_t data_begin, at, raw_bytes;
};

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
}

static uint32_t blocks_of(const struct ps_map *m, const struct ps_extent *e)
{
    uint32_t per = m->tensors[e->tensor].block_rows;
    return e->n_rows / per + (e->n_rows % per != 0);
}

/* ---- Packing: on the workers ---- */

static const uint8_t *stored_of(const struct slot *s)
{
    return s->p.in_place ? s->raw : s->packed;
}

static void work_on(struct slot *s)
{
    const struct splitter *all = s->s;
    const struct ps_tensor *t = &all->files.map->tensors[s->extent->tensor];
    pthread_mutex_lock(&s->s->lock);
    bool abandon = all->abandon;
    pthread_mutex_unlock(&s->s->lock);
    if (s->rc != 0 || abandon)
        return;
    s->rc = ps_split_pack(&s->p, all->o->packing.codec, ps_split_quant_of(t, all->o->packing.quant),
                          t, s->extent, s->raw, s->packed, s->block_bytes, &s->err);
    if (s->rc == 0)
        ps_sha256_once(stored_of(s), s->p.stored_bytes, s->sha256);
}

static void *work(void *user)
{
    struct splitter *s = user;
    void *item;
    while (ps_queue_pop(s->arrived, &item) == 0) {
        struct slot *slot = item;
        work_on(slot);
        pthread_mutex_lock(&s->lock);
        slot->in_flight = false;
        pthread_cond_signal(&s->ready);
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

/* On the source's thread. The queue has room for every slot: the push never waits. */
static void range_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct slot *slot = r->user;
    slot->rc = rc;
    if (rc != 0 && err)
        slot->err = *err;
    PS_ASSERT(ps_queue_push(slot->s->arrived, slot) == 0);
}

/* ---- The ring: on the caller's thread ---- */

/* Asks for the extent at position `at` of the list, in the slot that belongs to it. Beyond the end: nothing to do. */
static int ask(struct splitter *s, uint32_t at, struct ps_err *err)
{
    if (at >= s->n_todo)
        return 0;
    struct slot *slot = &s->slots[at % s->n_slots];
    const struct ps_extent *e = s->todo[at];
    const struct ps_object *o = &s->files.map->objects[e->object];
    slot->extent = e;
    slot->rc = 0;
    slot->err.code = 0;
    slot->range = (struct ps_range){.object = o->name,
                                    .offset = e->offset,
                                    .bytes = e->raw_bytes,
                                    .buf = slot->raw,
                                    .etag = o->etag,
                                    .object_bytes = o->bytes,
                                    .priority = at,
                                    .done = range_done,
                                    .user = slot};
    pthread_mutex_lock(&s->lock);
    slot->in_flight = true;
    pthread_mutex_unlock(&s->lock);
    int rc = ps_source_submit(s->src, &slot->range, err);
    if (rc != 0) {
        pthread_mutex_lock(&s->lock);
        slot->in_flight = false;
        pthread_mutex_unlock(&s->lock);
    }
    return rc;
}

static bool stop_wanted(const struct splitter *s)
{
    /* set by a signal or by another thread */
    return s->o->stop && __atomic_load_n(s->o->stop, __ATOMIC_RELAXED);
}

/* Waits until the slot is ready, or, if `heed_stop`, until a stop is asked for. */
static void wait_ready(struct splitter *s, struct slot *slot, bool heed_stop)
{
    pthread_mutex_lock(&s->lock);
    while (slot->in_flight && !(heed_stop && stop_wanted(s)))
        (void)ps_cond_wait_until(&s->ready, &s->lock, ps_now_ns() + WAIT_NS);
    pthread_mutex_unlock(&s->lock);
}

/* After a failure: withdraws what is in flight and waits for it, because its buffers are about to go. */
static void abandon_all(struct splitter *s)
{
    pthread_mutex_lock(&s->lock);
    s->abandon = true;
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < s->n_slots; i++) {
        pthread_mutex_lock(&s->lock);
        bool in_flight = s->slots[i].in_flight;
        pthread_mutex_unlock(&s->lock);
        if (in_flight) /* harmless where done() has just been called */
            ps_source_cancel(s->src, &s->slots[i].range);
    }
    for (uint32_t i = 0; i < s->n_slots; i++)
        wait_ready(s, &s->slots[i], false);
}

static void tell_progress(struct splitter *s, uint32_t shard, bool now)
{
    if (!s->o->progress || (!now && ps_now_ns() - s->last_progress_ns < PROGRESS_NS))
        return;
    s->last_progress_ns = ps_now_ns();
    s->o->progress(s->o->user, s->done_bytes, s->files.map->raw_bytes, shard, s->plan->n_shards);
}

/* ---- One shard ---- */

static void shard_deinit(struct open_shard *x)
{
    ps_free(x->index.tensors);
    ps_free(x->extents);
    ps_free(x->blocks);
}

static const struct ps_tensor *plan_tensor(const struct splitter *s,
                                           const struct ps_split_shard *plan, uint32_t i)
{
    return &s->files.map->tensors[s->plan->tensors[plan->first_tensor + i]];
}

static int shard_alloc(struct open_shard *x, const struct splitter *s,
                       const struct ps_split_shard *plan, struct ps_err *err)
{
    uint64_t n_blocks = 0;
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const struct ps_tensor *t = plan_tensor(s, plan, i);
        for (uint32_t e = 0; e < t->n_extents; e++)
            n_blocks += blocks_of(s->files.map, &s->files.map->extents[t->first_extent + e]);
    }
    x->index.tensors = ps_calloc(plan->n_tensors, sizeof *x->index.tensors);
    x->extents = ps_calloc(plan->n_extents, sizeof *x->extents);
    x->blocks = ps_calloc(n_blocks, sizeof *x->blocks);
    return x->index.tensors && x->extents && x->blocks ? 0 : no_memory(err);
}

/* The largest values that an extent's fields can get. Its offset is where it could lie at the latest. */
static void worst_extent(struct open_shard *x, const struct splitter *s, const struct ps_extent *e)
{
    struct ps_shard_extent *to = &x->extents[x->n_extents++];
    *to = (struct ps_shard_extent){.offset = x->at,
                                   .row0 = e->row0,
                                   .n_rows = e->n_rows,
                                   .stored_bytes = e->raw_bytes,
                                   .raw_bytes = e->raw_bytes};
    x->at += e->raw_bytes;
    if (s->o->packing.codec == PS_CODEC_RAW)
        return;
    to->codec = (uint8_t)s->o->packing.codec;
    to->block_bytes = &x->blocks[x->n_blocks];
    to->n_blocks = blocks_of(s->files.map, e);
    for (uint32_t b = 0; b < to->n_blocks; b++)
        x->blocks[x->n_blocks++] = (uint32_t)s->raw_cap;
}

static void worst_index(struct open_shard *x, const struct splitter *s,
                        const struct ps_split_shard *plan)
{
    x->index.layer = plan->layer;
    x->index.n_tensors = plan->n_tensors;
    x->at = (uint64_t)PS_SHARD_INDEX_MAX_BYTES + DATA_ALIGN;
    for (uint32_t i = 0; i < plan->n_tensors; i++) {
        const struct ps_tensor *t = plan_tensor(s, plan, i);
        struct ps_shard_tensor *to = &x->index.tensors[i];
        *to = (struct ps_shard_tensor){.name = t->name,
                                       .dtype = t->dtype,
                                       .n_dims = t->n_dims,
                                       .extents = &x->extents[x->n_extents],
                                       .n_extents = t->n_extents};
        memcpy(to->shape, t->shape, sizeof to->shape);
        for (uint32_t k = 0; k < t->n_extents; k++)
            worst_extent(x, s, &s->files.map->extents[t->first_extent + k]);
    }
}

/* Decides where the data begins: data is written before its index is known, and the index stands
 * in front. A worst index, encoded, tells how much room the real one can need; where extents of
 * both codecs mix it also lists a codec for each. */
static int shard_init(struct open_shard *x, const struct splitter *s,
                      const struct ps_split_shard *plan, struct ps_err *err)
{
    char *bytes;
    size_t len;
    memset(x, 0, sizeof *x);
    int rc = shard_alloc(x, s, plan, err);
    if (rc != 0)
        return rc;
    worst_index(x, s, plan);
    rc = ps_shard_index_encode(&x->index, &bytes, &len, err);
    if (rc != 0)
        return rc;
    ps_free(bytes);
    uint64_t bound = PS_SHARD_HEAD_BYTES + len;
    if (s->o->packing.codec != PS_CODEC_RAW)
        bound += plan->n_extents + 8ull * plan->n_tensors;
    if (s->o->packing.quant != PS_DTYPE_NONE) /* types of extents, errors */
        bound += plan->n_extents + 64ull * plan->n_tensors;
    x->data_begin = x->at = (bound + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    x->n_extents = x->n_blocks = 0;
    return 0;
}

/* The narrowest type of a tensor's extents is the tensor's: where all had to keep a wider one, it was not rounded. */
static void finish_tensor(struct ps_shard_tensor *t, enum ps_dtype own)
{
    enum ps_dtype least = own;
    for (uint32_t i = 0; i < t->n_extents; i++) {
        enum ps_dtype d = (enum ps_dtype)t->extents[i].dtype;
        if (d == PS_NF4B64 || (d == PS_Q8B64 && least != PS_NF4B64))
            least = d;
    }
    t->dtype = least;
    t->rounded = least != own;
}

/* Notes a written extent in the index. Extents come in order, so a tensor's last one closes it. */
static void note_extent(struct splitter *s, struct open_shard *x, const struct slot *slot)
{
    const struct ps_tensor *own = &s->files.map->tensors[slot->extent->tensor];
    struct ps_shard_extent *to = &x->extents[x->n_extents++];
    while (to >= x->index.tensors[x->tensor].extents + x->index.tensors[x->tensor].n_extents)
        x->tensor++;
    struct ps_shard_tensor *t = &x->index.tensors[x->tensor];
    to->offset = x->at;
    to->stored_bytes = slot->p.stored_bytes;
    to->raw_bytes = slot->p.raw_bytes;
    to->codec = (uint8_t)slot->p.codec;
    to->dtype = (uint8_t)slot->p.dtype;
    to->n_blocks = slot->p.n_blocks;
    to->block_bytes = slot->p.n_blocks ? &x->blocks[x->n_blocks] : NULL;
    if (slot->p.n_blocks)
        memcpy(to->block_bytes, slot->block_bytes, slot->p.n_blocks * sizeof slot->block_bytes[0]);
    memcpy(to->sha256, slot->sha256, sizeof to->sha256);
    ps_quant_error_add(&t->error, &slot->p.error);
    x->n_blocks += slot->p.n_blocks;
    x->at += slot->p.stored_bytes;
    x->raw_bytes += slot->p.raw_bytes;
    if (to + 1 == t->extents + t->n_extents)
        finish_tensor(t, own->dtype);
}

static int put_extent(struct splitter *s, struct open_shard *x, const struct slot *slot,
                      struct ps_err *err)
{
    int rc = ps_split_tree_write(s->tree, stored_of(slot), slot->p.stored_bytes, x->at, err);
    if (rc == 0)
        note_extent(s, x, slot);
    return rc;
}

static int copy_extents(struct splitter *s, struct open_shard *x, uint32_t shard, struct ps_err *err)
{
    while (x->n_extents < s->plan->shards[shard].n_extents) {
        struct slot *slot = &s->slots[s->next % s->n_slots];
        wait_ready(s, slot, true);
        if (stop_wanted(s))
            return ps_err_set(err, PS_EINTERRUPTED, ORIGIN,
                              "interrupted: run again to go on from here");
        if (slot->rc != 0) {
            if (err)
                *err = slot->err;
            return slot->rc;
        }
        int rc = put_extent(s, x, slot, err);
        if (rc != 0)
            return rc;
        s->done_bytes += slot->extent->raw_bytes;
        tell_progress(s, shard, false);
        rc = ask(s, s->next + s->n_slots, err);
        if (rc != 0)
            return rc;
        s->next++;
    }
    return 0;
}

/* Head and index go in front of the data that is already there. */
static int finish_shard(struct splitter *s, struct open_shard *x, uint32_t shard, struct ps_err *err)
{
    struct ps_split_done *d = &s->done[shard];
    uint8_t head[PS_SHARD_HEAD_BYTES];
    char *index;
    size_t len;
    int rc = ps_shard_index_encode(&x->index, &index, &len, err);
    if (rc != 0)
        return rc;
    PS_ASSERT(PS_SHARD_HEAD_BYTES + len <= x->data_begin);
    *d = (struct ps_split_done){.bytes = x->at,
                                .stored_bytes = x->at - x->data_begin,
                                .raw_bytes = x->raw_bytes,
                                .index_bytes = (uint32_t)len,
                                .n_extents = x->n_extents};
    ps_sha256_once(index, len, d->index_sha256);
    ps_shard_head_write(head, d->index_bytes);
    rc = ps_split_tree_write(s->tree, head, sizeof head, 0, err);
    if (rc == 0)
        rc = ps_split_tree_write(s->tree, index, len, sizeof head, err);
    if (rc == 0 && d->stored_bytes == 0) { /* no data to make the file as long as it says */
        static const uint8_t zero;
        rc = ps_split_tree_write(s->tree, &zero, 1, x->at - 1, err);
    }
    ps_free(index);
    if (rc == 0)
        rc = ps_split_tree_finish_shard(s->tree, shard, d, err);
    d->done = rc == 0;
    return rc;
}

static int write_shard(struct splitter *s, uint32_t shard, struct ps_err *err)
{
    struct open_shard x;
    int rc = shard_init(&x, s, &s->plan->shards[shard], err);
    if (rc == 0)
        rc = ps_split_tree_begin(s->tree, x.data_begin, err);
    if (rc == 0)
        rc = copy_extents(s, &x, shard, err);
    if (rc == 0)
        rc = finish_shard(s, &x, shard, err);
    shard_deinit(&x);
    return rc;
}

/* ---- All shards ---- */

/* Extents of unfinished shards, in order, and the bytes that finished ones already account for. */
static int list_todo(struct splitter *s, struct ps_err *err)
{
    const struct ps_map *m = s->files.map;
    s->todo = ps_calloc(m->n_extents, sizeof(const struct ps_extent *));
    if (!s->todo)
        return no_memory(err);
    for (uint32_t i = 0; i < s->plan->n_shards; i++) {
        const struct ps_split_shard *plan = &s->plan->shards[i];
        if (s->done[i].done) {
            s->done_bytes += plan->raw_bytes;
            continue;
        }
        for (uint32_t k = 0; k < plan->n_tensors; k++) {
            const struct ps_tensor *t = plan_tensor(s, plan, k);
            for (uint32_t e = 0; e < t->n_extents; e++)
                s->todo[s->n_todo++] = &m->extents[t->first_extent + e];
        }
    }
    return 0;
}

static uint32_t most_blocks(const struct ps_map *m)
{
    uint32_t most = 1;
    for (uint32_t i = 0; i < m->n_extents; i++)
        if (blocks_of(m, &m->extents[i]) > most)
            most = blocks_of(m, &m->extents[i]);
    return most;
}

/* For weights on their way. An eighth is left: allocators, stacks and buffers of sockets round up. */
static uint64_t buffer_bytes(const struct splitter *s)
{
    uint64_t ram = s->o->ram_bytes ? s->o->ram_bytes : RAM_DEFAULT;
    if (ram == PS_SPLIT_RAM_MIN)
        return ram;
    return ram > RAM_OTHERS ? (ram - RAM_OTHERS) / 8 * 7 : 0;
}

static int make_slots(struct splitter *s, struct ps_err *err)
{
    bool packs = s->o->packing.codec != PS_CODEC_RAW;
    uint32_t blocks = most_blocks(s->files.map);
    s->raw_cap = ((size_t)s->files.map->max_raw_bytes + DATA_ALIGN) / DATA_ALIGN * DATA_ALIGN;
    uint64_t ram = s->o->ram_bytes ? s->o->ram_bytes : RAM_DEFAULT,
             each = s->raw_cap * (packs ? 2 : 1);
    uint64_t n = ram > RAM_OTHERS ? (ram - RAM_OTHERS) / 2 / each : 0;
    if (ram == PS_SPLIT_RAM_MIN)
        n = 2;
    if (n < 2)
        return ps_err_set(err, PS_EBUDGET, ORIGIN,
                          "--ram: too little: splitting this model needs at least %llu MiB",
                          (unsigned long long)((RAM_OTHERS + 4 * each + 4 * each / 7) >> 20) + 1);
    n = n > MAX_SLOTS ? MAX_SLOTS : n;
    s->slots = ps_calloc(n, sizeof *s->slots);
    if (!s->slots || ps_queue_new(&s->arrived, n) != 0)
        return no_memory(err);
    s->n_slots = (uint32_t)n;
    for (uint32_t i = 0; i < s->n_slots; i++) {
        struct slot *slot = &s->slots[i];
        slot->s = s;
        slot->raw = ps_alloc_pages(s->raw_cap, DATA_ALIGN);
        slot->packed = packs ? ps_alloc_pages(s->raw_cap, DATA_ALIGN) : NULL;
        slot->block_bytes = ps_calloc(blocks, sizeof *slot->block_bytes);
        if (!slot->raw || (packs && !slot->packed) || !slot->block_bytes)
            return no_memory(err);
    }
    return 0;
}

static void free_slots(struct splitter *s)
{
    for (uint32_t i = 0; i < s->n_slots; i++) {
        struct slot *slot = &s->slots[i];
        if (slot->raw)
            ps_free_pages(slot->raw, s->raw_cap);
        if (slot->packed)
            ps_free_pages(slot->packed, s->raw_cap);
        ps_free(slot->block_bytes);
    }
    ps_free(s->slots);
    ps_queue_free(s->arrived);
}

static int start_threads(struct splitter *s, struct ps_err *err)
{
    unsigned n = s->o->threads ? s->o->threads : ps_host_cpus();
    n = n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
    while (s->n_threads < n && pthread_create(&s->threads[s->n_threads], NULL, work, s) == 0)
        s->n_threads++;
    return s->n_threads ? 0 : ps_err_set(err, PS_EFAIL, ORIGIN, "can't start a thread");
}

static void stop_threads(struct splitter *s)
{
    if (s->arrived)
        ps_queue_close(s->arrived);
    for (unsigned i = 0; i < s->n_threads; i++)
        pthread_join(s->threads[i], NULL);
}

static int copy_shards(struct splitter *s, struct ps_err *err)
{
    int rc = 0;
    for (uint32_t i = 0; i < s->n_slots && rc == 0; i++)
        rc = ask(s, i, err);
    for (uint32_t i = 0; i < s->plan->n_shards && rc == 0; i++) {
        if (s->done[i].done)
            continue;
        rc = write_shard(s, i, err);
        if (rc == 0)
            tell_progress(s, i, true);
    }
    if (rc != 0)
        abandon_all(s);
    return rc;
}

static int run_pipeline(struct splitter *s, struct ps_err *err)
{
    int rc = list_todo(s, err);
    if (rc == 0)
        rc = start_threads(s, err);
    if (rc == 0)
        tell_progress(s, 0, true); /* what an earlier run has done is none of this one's rate */
    if (rc == 0)
        rc = copy_shards(s, err);
    stop_threads(s);
    return rc;
}

/* ---- Around it ---- */

/* Names what is being split: the source's id (which follows every file's version), the codec, and
 * the shards that result. A journal of another key is no use. */
static int journal_key(uint8_t key[PS_SHA256_BYTES], const struct splitter *s, struct ps_err *err)
{
    struct ps_sha256 *h;
    if (ps_sha256_new(&h) != 0)
        return no_memory(err);
    ps_sha256_update(h, s->files.map->model_id, PS_SHA256_BYTES);
    const char *packing = ps_packing_name(&s->o->packing);
    ps_sha256_update(h, packing, strlen(packing) + 1);
    if (s->o->packing.quant != PS_DTYPE_NONE)
        ps_sha256_update(h, ROUNDING, sizeof ROUNDING);
    for (uint32_t i = 0; i < s->plan->n_tensors; i++) {
        const char *name = s->files.map->tensors[s->plan->tensors[i]].name;
        ps_sha256_update(h, name, strlen(name) + 1);
    }
    for (uint32_t i = 0; i < s->plan->n_shards; i++)
        ps_sha256_update(h, &s->plan->shards[i].n_tensors, sizeof s->plan->shards[i].n_tensors);
    ps_sha256_final(h, key);
    ps_sha256_free(h);
    return 0;
}

static int copy_small_files(struct splitter *s, struct ps_manifest *m, struct ps_err *err)
{
    for (size_t i = 0; i < N_SMALL_FILES; i++) {
        char *bytes;
        size_t len;
        int rc =
            ps_model_files_get(&bytes, &len, &s->files, s->src, small_files[i], FILE_MAX_BYTES, err);
        if (rc == PS_ENOTFOUND)
            continue;
        if (rc != 0)
            return rc;
        struct ps_manifest_file *f = &m->files[m->n_files];
        f->bytes = len;
        ps_sha256_once(bytes, len, f->sha256);
        rc = ps_split_tree_put(s->tree, small_files[i], bytes, len, err);
        ps_free(bytes);
        if (rc != 0)
            return rc;
        f->name = ps_strdup(small_files[i]);
        if (!f->name)
            return no_memory(err);
        m->n_files++;
    }
    return 0;
}

/* A folder that changed while it was read would give a mixture of two models. */
static int check_unchanged(const struct splitter *s, struct ps_err *err)
{
    for (uint32_t i = 0; i < s->files.map->n_objects; i++) {
        const struct ps_object *o = &s->files.map->objects[i];
        struct ps_object_info info;
        uint8_t first;
        size_t len;
        int rc = ps_source_head(s->src, o->name, &first, 1, &len, &info, err);
        if (rc != 0)
            return rc;
        if (o->identity && strcmp(info.identity, o->identity) != 0)
            return ps_err_set(err, PS_EDATA, ORIGIN, "%s changed while it was split: run again",
                              o->name);
    }
    return 0;
}

/* architectures[0] of config.json; "" where there is none. */
static char *architecture_of(const struct ps_model_files *f)
{
    const struct ps_json_limits limits = {.python_words = true};
    struct ps_json *root;
    if (ps_json_parse(&root, f->config, f->config_len, &limits, NULL) != 0)
        return ps_strdup("");
    const struct ps_json *list = ps_json_get(root, "architectures");
    const struct ps_json *first = list && list->kind == PS_JSON_ARRAY ? list->child : NULL;
    char *name = ps_strdup(first && first->kind == PS_JSON_STRING ? first->s : "");
    ps_json_free(root);
    return name;
}

static int init_manifest(struct ps_manifest **out, const struct splitter *s, struct ps_err *err)
{
    const struct ps_map *map = s->files.map;
    struct ps_manifest *m = ps_calloc(1, sizeof *m);
    if (!m)
        return no_memory(err);
    m->source_label = ps_strdup(s->o->source_label ? s->o->source_label : "");
    m->architecture = architecture_of(&s->files);
    m->codec = ps_strdup(ps_packing_name(&s->o->packing));
    m->files = ps_calloc(N_SMALL_FILES, sizeof *m->files);
    m->shards = ps_calloc(s->plan->n_shards, sizeof *m->shards);
    m->source_bytes = map->raw_bytes;
    m->n_tensors = map->n_tensors;
    m->n_extents = map->n_extents;
    m->extent_target_bytes = map->extent_target_bytes;
    if (!m->source_label || !m->architecture || !m->codec || !m->files || !m->shards) {
        ps_manifest_free(m);
        return no_memory(err);
    }
    *out = m;
    return 0;
}

static int seal(struct splitter *s, struct ps_manifest *m, struct ps_err *err)
{
    char *bytes;
    size_t len;
    m->n_shards = s->plan->n_shards;
    for (uint32_t i = 0; i < m->n_shards; i++) {
        const struct ps_split_done *d = &s->done[i];
        m->stored_bytes += d->stored_bytes;
        m->raw_bytes += d->raw_bytes;
        m->shards[i] = (struct ps_manifest_shard){.bytes = d->bytes,
                                                  .index_bytes = d->index_bytes,
                                                  .layer = s->plan->shards[i].layer,
                                                  .n_extents = d->n_extents};
        memcpy(m->shards[i].index_sha256, d->index_sha256, PS_SHA256_BYTES);
    }
    int rc = ps_manifest_encode(m, &bytes, &len, err);
    if (rc != 0)
        return rc;
    char *signature = NULL;
    size_t signature_len = 0;
    if (s->o->sign_key)
        rc = ps_signature_make(&signature, &signature_len, s->o->sign_key, bytes, len, err);
    if (rc == 0)
        rc = ps_split_tree_seal(s->tree, bytes, len, signature, s->done, m->n_shards, err);
    ps_free(signature);
    ps_free(bytes);
    return rc;
}

/* What `run` would say of a model whose architecture runs here is said before hours of work, not behind them (a
 * matrix of a type that nothing multiplies, one that is missing or of another shape). Other architectures are
 * split all the same: the format does not know them. */
static int check_model(const struct splitter *s, struct ps_err *err)
{
    struct ps_arch *arch = NULL;
    struct ps_weights *weights = NULL;
    int rc = ps_arch_read(&arch, s->files.config, s->files.config_len, NULL);
    if (rc != 0)
        return rc == PS_ENOMEM ? no_memory(err) : 0;
    rc = ps_weights_bind(&weights, s->files.map, arch, err);
    if (rc != 0)
        ps_err_place(err, s->src->label);
    ps_weights_free(weights);
    ps_arch_free(arch);
    return rc;
}

static int open_source(struct splitter *s, struct ps_err *err)
{
    int rc = ps_model_files_open(&s->files, s->src, err);
    ps_store_place_files(err, rc, s->src->label);
    if (rc != 0)
        return rc;
    if (s->files.manifest)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "%s is split already: name the model that it was made from", s->src->label);
    if ((rc = check_model(s, err)) != 0)
        return rc;
    return ps_split_plan_new(&s->plan, s->files.map, err);
}

/* The longest that a shard can get: all of it as it is, and an index of the longest. */
static uint64_t max_shard_bytes(const struct splitter *s)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < s->plan->n_shards; i++)
        most = s->plan->shards[i].raw_bytes > most ? s->plan->shards[i].raw_bytes : most;
    return most + PS_SHARD_INDEX_MAX_BYTES + DATA_ALIGN;
}

static int open_destination(struct splitter *s, struct ps_err *err)
{
    uint8_t key[PS_SHA256_BYTES];
    /* Half of what is there for buffers goes to parts on their way to S3. */
    const uint64_t ram = buffer_bytes(s);
    s->place.ram_bytes = ram == PS_SPLIT_RAM_MIN ? ram : ram / 2;
    s->done = ps_calloc(s->plan->n_shards, sizeof *s->done);
    if (!s->done)
        return no_memory(err);
    int rc = journal_key(key, s, err);
    if (rc == 0)
        rc = ps_split_tree_open(&s->tree, &s->place, key, s->done, s->plan->n_shards,
                                max_shard_bytes(s), err);
    return rc;
}

static int split_model(struct splitter *s, uint8_t model_id[PS_SHA256_BYTES], struct ps_err *err)
{
    struct ps_manifest *m = NULL;
    int rc = open_source(s, err);
    if (rc == 0)
        rc = ps_split_tree_check_model(&s->place, s->files.config, s->files.config_len,
                                       ps_packing_name(&s->o->packing), err);
    if (rc == 0)
        rc = make_slots(s, err); /* a --ram too small leaves nothing behind */
    if (rc == 0)
        rc = open_destination(s, err);
    if (rc == 0)
        rc = init_manifest(&m, s, err);
    if (rc == 0)
        rc = copy_small_files(s, m, err);
    if (rc == 0)
        rc = run_pipeline(s, err);
    if (rc == 0)
        rc = check_unchanged(s, err);
    if (rc == 0)
        rc = seal(s, m, err);
    if (rc == 0 && model_id)
        memcpy(model_id, m->id, PS_SHA256_BYTES);
    ps_manifest_free(m);
    return rc;
}

int ps_split(struct ps_source *src, const struct ps_split_options *o,
             uint8_t model_id[PS_SHA256_BYTES], struct ps_err *err)
{
    struct splitter s = {.src = src, .o = o};
    s.place = (struct ps_split_place){.dst = o->dst, .store = o->store};
    pthread_mutex_init(&s.lock, NULL);
    ps_cond_init(&s.ready);
    int rc = split_model(&s, model_id, err);
    ps_split_tree_close(s.tree);
    free_slots(&s);
    ps_free(s.todo);
    ps_free(s.done);
    ps_split_plan_free(s.plan);
    ps_model_files_close(&s.files);
    pthread_cond_destroy(&s.ready);
    pthread_mutex_destroy(&s.lock);
    return rc;
}
