/* Reads, reservations and writes. In: bytes from a source, already checked; out: the same bytes, checked again.
 *
 * A reservation looks at the folder under the claims lock: what the index holds, what is in flight everywhere,
 * what it can grow to. Only what fits in the smallest live budget gets a slot, so the limit holds before a byte is
 * asked for. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "cache/cache_internal.h"

/* What was evicted for one reservation may be taken by another thread's, several times where extents are large and
 * victims small: there is no end of trying while something can go. */
#define RESERVE_TRIES     64
#define RESERVE_FRUITLESS 4 /* of them without anything evicted */
#define CLAIMS_SPARE                                                                               \
    PS_CACHE_BATCH         /* kept for evictions: a full table must not stop what empties it */
#define LOOKUP_CHUNK  1024 /* keys per read transaction */
#define SLAB_LOOK_PCT 80   /* from here on a reservation also measures the slab files */
#define MEASURE_DEPTH 3

/* ---- the folder's numbers ---- */

struct measure {
    uint64_t all, ours; /* ours: slabs and data.mdb */
};

static bool counted_elsewhere(const char *dir, const char *name)
{
    const size_t n = strlen(name);
    if (strcmp(dir, "slabs") == 0)
        return n > 5 && strcmp(name + n - 5, ".slab") == 0;
    return strcmp(dir, "index") == 0 && strcmp(name, "data.mdb") == 0;
}

/* Takes over dir_fd. Entries that vanish meanwhile are another process's temporaries. */
static void measure_dir(int dir_fd, const char *dir_name, int depth, struct measure *m)
{
    struct stat st;
    if (fstat(dir_fd, &st) == 0)
        m->all += (uint64_t)st.st_blocks * 512u;
    DIR *d = fdopendir(dir_fd);
    if (!d) {
        close(dir_fd);
        return;
    }
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            const int fd = depth > 0 ? openat(dirfd(d), e->d_name,
                                              O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
                                     : -1;
            if (fd >= 0)
                measure_dir(fd, e->d_name, depth - 1, m);
            continue;
        }
        m->all += (uint64_t)st.st_blocks * 512u;
        if (depth == MEASURE_DEPTH - 1 && counted_elsewhere(dir_name, e->d_name))
            m->ours += (uint64_t)st.st_blocks * 512u;
    }
    closedir(d);
}

uint64_t ps_cache_measure(struct ps_cache *c)
{
    struct measure m = {0};
    const int fd = openat(c->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        measure_dir(fd, "", MEASURE_DEPTH, &m);
    atomic_store(&c->other_bytes, m.all - m.ours);
    uint64_t peak = atomic_load(&c->peak_bytes);
    while (m.all > peak && !atomic_compare_exchange_weak(&c->peak_bytes, &peak, m.all)) {}
    return m.all;
}

void ps_cache_peek(const char *dir, uint64_t *allocated_bytes, uint64_t *last_budget_bytes)
{
    struct measure m = {0};
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *allocated_bytes = *last_budget_bytes = 0;
    if (fd < 0)
        return;
    if (faccessat(fd, "index/data.mdb", F_OK, AT_EACCESS) != 0) {
        close(fd);
        return;
    }
    *last_budget_bytes = ps_claims_last_budget(fd);
    measure_dir(fd, "", MEASURE_DEPTH, &m);
    *allocated_bytes = m.all;
}

void ps_cache_state_locked(struct ps_cache *c, const struct ps_index_meta *meta,
                           struct ps_budget_state *s)
{
    uint64_t floor;
    memset(s, 0, sizeof *s);
    ps_claims_limits_locked(c->claims, &s->budget_bytes, &floor, &s->index_growing_bytes);
    s->other_bytes = atomic_load(&c->other_bytes);
    s->index_file_bytes = ps_index_file_bytes(c->index);
    s->n_extents = meta->n_extents;
    for (int i = 0; i < PS_CACHE_CLASSES; i++)
        s->extent_bytes += meta->classes[i].bytes;
    ps_claims_sum_locked(c->claims, meta->committed, &s->inflight_bytes, &s->n_inflight);
    /* Thirteen stat calls guard against file systems that need more than the bound; far from the limit they tell
     * nothing. */
    if (ps_budget_charge(s, 0, 0) / SLAB_LOOK_PCT * 100 >= s->budget_bytes)
        s->slab_file_bytes = ps_slabs_allocated_bytes(c->slabs);
}

int ps_cache_note(struct ps_cache *c, int code)
{
    if (code == PS_EDATA && c->claims)
        ps_claims_set_damaged(c->claims);
    return code;
}

void ps_cache_disk_full(struct ps_cache *c)
{
    atomic_store(&c->full_until_ns, ps_now_ns() + PS_CACHE_FULL_NS);
    if (!atomic_exchange(&c->full_logged, true))
        ps_log(PS_LOG_WARN, PS_CACHE_ORIGIN,
               "no room on the file system of %s: streaming without caching", c->dir);
}

bool ps_cache_is_read_only(const struct ps_cache *c)
{
    return c->read_only;
}

bool ps_cache_was_rebuilt(const struct ps_cache *c)
{
    return c->rebuilt;
}

uint64_t ps_cache_allocated_bytes(struct ps_cache *c)
{
    return ps_cache_measure(c);
}

uint64_t ps_cache_allocated_peak_bytes(struct ps_cache *c)
{
    ps_cache_measure(c);
    return atomic_load(&c->peak_bytes);
}

uint64_t ps_cache_budget_for(uint64_t stored_bytes, uint64_t n_extents)
{
    return ps_budget_for(stored_bytes, n_extents);
}

/* ---- the plan ---- */

static uint64_t key_prefix(const uint8_t *key)
{
    uint64_t p = 0;
    for (int i = 0; i < 8; i++)
        p = p << 8 | key[i];
    return p;
}

static int by_prefix(const void *a, const void *b)
{
    const uint64_t x = ((const struct ps_plan_key *)a)->prefix,
                   y = ((const struct ps_plan_key *)b)->prefix;
    return x < y ? -1 : x > y;
}

static bool find_in_plan(const struct ps_plan *p, uint64_t prefix, uint32_t *rank)
{
    size_t lo = 0, hi = p->n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (p->keys[mid].prefix < prefix)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == p->n || p->keys[lo].prefix != prefix)
        return false;
    *rank = p->keys[lo].rank;
    return true;
}

bool ps_plan_find(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES], uint32_t *rank)
{
    const uint64_t prefix = key_prefix(key);
    bool found = false;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < PS_CLAIM_MODELS && !found; i++)
        if (c->plans[i].model != PS_CACHE_NO_MODEL)
            found = find_in_plan(&c->plans[i], prefix, rank);
    pthread_mutex_unlock(&c->lock);
    return found;
}

int ps_cache_set_plan(struct ps_cache *c, uint32_t model, const uint8_t (*keys)[PS_SHA256_BYTES],
                      size_t n, struct ps_err *err)
{
    if (model == PS_CACHE_NO_MODEL)
        return 0;
    struct ps_plan_key *sorted = ps_malloc(n > 0 ? n * sizeof *sorted : 1);
    if (!sorted)
        return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "plan: out of memory");
    for (size_t i = 0; i < n; i++)
        sorted[i] = (struct ps_plan_key){.prefix = key_prefix(keys[i]), .rank = (uint32_t)i};
    if (n > 1)
        qsort(sorted, n, sizeof *sorted, by_prefix);
    struct ps_plan *at = NULL;
    struct ps_plan_key *old = sorted;
    pthread_mutex_lock(&c->lock);
    for (int i = PS_CLAIM_MODELS - 1; i >= 0; i--)
        if (c->plans[i].model == PS_CACHE_NO_MODEL && !at)
            at = &c->plans[i];
    for (int i = 0; i < PS_CLAIM_MODELS; i++)
        if (c->plans[i].model == model)
            at = &c->plans[i];
    if (at) {
        old = at->keys;
        *at = (struct ps_plan){.model = model, .keys = sorted, .n = n};
        c->plan_generation++;
    }
    pthread_mutex_unlock(&c->lock);
    ps_free(old);
    return at ? 0
              : ps_err_set(err, PS_EFAIL, PS_CACHE_ORIGIN, "plan: more than %d models at once",
                           PS_CLAIM_MODELS);
}

void ps_cache_count_use(struct ps_cache *c, uint32_t model, uint64_t bytes)
{
    for (int i = 0; i < PS_CLAIM_MODELS; i++)
        if (atomic_load(&c->used[i].model) == model)
            atomic_fetch_add(&c->used[i].bytes, bytes);
}

/* ---- reading ---- */

int ps_cache_lookup(struct ps_cache *c, const uint8_t (*keys)[PS_SHA256_BYTES], size_t n,
                    uint8_t *present, struct ps_err *err)
{
    struct ps_record rec;
    memset(present, 0, (n + 7) / 8);
    for (size_t start = 0; start < n; start += LOOKUP_CHUNK) {
        const size_t end = n - start > LOOKUP_CHUNK ? start + LOOKUP_CHUNK : n;
        struct ps_index_read r;
        int rc = ps_index_read_begin(&r, c->index, err);
        if (rc != 0)
            return ps_cache_note(c, rc);
        for (size_t i = start; i < end && (rc == 0 || rc == PS_ENOTFOUND); i++) {
            rc = ps_index_read_get(&r, keys[i], &rec, err);
            if (rc == 0)
                present[i / 8] |= (uint8_t)(1u << (i % 8));
        }
        ps_index_read_end(&r);
        if (rc != 0 && rc != PS_ENOTFOUND)
            return ps_cache_note(c, rc);
    }
    return 0;
}

static int drop_job(struct ps_cache *c, void *user, struct ps_err *err)
{
    uint64_t freed = 0;
    return ps_writer_evict(c, user, 1, false, &freed, err);
}

static bool same_record(const struct ps_record *a, const struct ps_record *b)
{
    return a->cls == b->cls && a->slot == b->slot && a->bytes == b->bytes && a->crc32c == b->crc32c;
}

/* PS_EDATA: not what the record says. */
static int read_slot(struct ps_cache *c, const struct ps_record *rec, void *buf, size_t bytes,
                     size_t buf_cap, struct ps_err *err)
{
    if (rec->bytes != bytes)
        return ps_err_set(err, PS_EDATA, PS_CACHE_ORIGIN,
                          "cache: holds %u bytes of an extent of %zu", rec->bytes, bytes);
    const int rc = ps_slab_read(c->slabs, rec->cls, rec->slot, buf, bytes, buf_cap, err);
    if (rc != 0)
        return rc;
    if (ps_crc32c(0, buf, bytes) != rec->crc32c)
        return ps_err_set(err, PS_EDATA, PS_CACHE_ORIGIN,
                          "cache: slab %d slot %u: checksum differs: fetched again", rec->cls,
                          rec->slot);
    return 0;
}

/* A record, in the index or on its way there. Between the two looks a batch may have moved from the one to the
 * other. */
static int find_record(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES],
                       struct ps_record *rec, struct ps_err *err)
{
    const int rc = ps_index_get(c->index, key, rec, err);
    if (rc != PS_ENOTFOUND || c->read_only)
        return rc;
    return ps_writer_find_pending(c, key, rec) ? 0 : ps_index_get(c->index, key, rec, err);
}

int ps_cache_read(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES], void *buf, size_t bytes,
                  size_t buf_cap, struct ps_err *err)
{
    struct ps_keyed_record k, before;
    int rc = find_record(c, key, &k.rec, err);
    if (rc != 0)
        return ps_cache_note(c, rc);
    rc = read_slot(c, &k.rec, buf, bytes, buf_cap, err);
    /* Wrong bytes may be an eviction that came between: its commit precedes its punch, so a second look tells. The same
     * record twice with wrong bytes twice is damage. */
    for (int i = 0; i < 2 && rc == PS_EDATA; i++) {
        before.rec = k.rec;
        rc = find_record(c, key, &k.rec, err);
        if (rc != 0)
            return ps_cache_note(c, rc);
        rc = read_slot(c, &k.rec, buf, bytes, buf_cap, err);
        if (rc == PS_EDATA && same_record(&before.rec, &k.rec))
            break;
    }
    if (rc == 0 && c->stats)
        ps_stat_add(&c->stats->bytes_disk_read, bytes);
    if (rc == 0)
        ps_cache_count_use(c, k.rec.model, bytes);
    if (rc != PS_EDATA)
        return rc;
    if (c->stats)
        ps_stat_add(&c->stats->corrupt_reads, 1);
    memcpy(k.key, key, PS_SHA256_BYTES);
    if (!c->read_only)
        (void)ps_writer_call(c, drop_job, &k, NULL);
    return PS_EDATA;
}

/* ---- reserving ---- */

static bool slot_busy(void *user, int cls, uint32_t slot)
{
    return ps_claims_slot_busy_locked(user, cls, slot);
}

/* A slot that neither the index nor a claim holds: the next free one after the last given out, or a new one at the
 * end. */
static int pick_slot_locked(struct ps_cache *c, struct ps_index_read *r,
                            const struct ps_index_meta *meta, int cls, uint32_t *slot)
{
    uint32_t *hint = ps_claims_hint_locked(c->claims, cls),
             *fresh = ps_claims_fresh_locked(c->claims, cls);
    if (*fresh < meta->classes[cls].high)
        *fresh = meta->classes[cls].high;
    int rc = PS_ENOTFOUND;
    if (meta->classes[cls].used + ps_claims_in_class_locked(c->claims, cls) < *fresh) {
        const uint32_t from = *hint < *fresh ? *hint : 0;
        rc = ps_index_read_free_slot(r, cls, from, *fresh, slot_busy, c->claims, slot);
        if (rc == PS_ENOTFOUND)
            rc = ps_index_read_free_slot(r, cls, 0, from, slot_busy, c->claims, slot);
    }
    if (rc == PS_ENOTFOUND) {
        if (*fresh == UINT32_MAX >> 1)
            return PS_EBUDGET;
        *slot = (*fresh)++;
        rc = 0;
    }
    *hint = *slot + 1;
    return rc;
}

/* Bytes to free before `add` more may come: 0 when they fit. */
static uint64_t shortage_locked(struct ps_cache *c, const struct ps_index_meta *meta, uint64_t add)
{
    struct ps_budget_state s;
    uint64_t budget, floor, growing, missing = 0;
    ps_cache_state_locked(c, meta, &s);
    const uint64_t charge = ps_budget_charge(&s, 1, add);
    if (charge > s.budget_bytes)
        missing = charge - s.budget_bytes;
    ps_claims_limits_locked(c->claims, &budget, &floor, &growing);
    /* Whatever the floor: the commit that makes these bytes useful must find room too. */
    const uint64_t commit = ps_budget_index_dirty_bytes(meta->n_extents + 1, PS_CACHE_BATCH);
    struct statvfs v;
    if (fstatvfs(c->dir_fd, &v) == 0) {
        const uint64_t avail = (uint64_t)v.f_bavail * v.f_frsize;
        const uint64_t want = (floor > commit ? floor : commit) + s.inflight_bytes + add;
        if (avail < want && want - avail > missing)
            missing = want - avail;
    }
    return missing;
}

static bool table_is_full_locked(struct ps_cache *c)
{
    uint32_t used = 0;
    for (int i = 0; i < PS_CACHE_CLASSES; i++)
        used += ps_claims_in_class_locked(c->claims, i);
    return used + CLAIMS_SPARE >= ps_claims_count(c->claims);
}

/* With key, rec.bytes and rec.cls set: claims a slot. PS_EBUDGET with *need > 0: free that much and try again;
 * with *need 0: the table is full of claims. */
static int claim_slot_locked(struct ps_cache *c, struct ps_index_read *r, struct ps_cache_ticket *t,
                             uint64_t *need, struct ps_err *err)
{
    struct ps_index_meta meta;
    struct ps_record held;
    int rc = ps_index_read_get(r, t->key, &held, err);
    if (rc != PS_ENOTFOUND)
        return rc == 0 ? PS_EAGAIN : rc; /* another process was first: look again */
    rc = ps_index_read_meta(r, &meta, err);
    if (rc != 0)
        return rc;
    *need = shortage_locked(c, &meta, ps_budget_round(t->rec.bytes));
    if (*need > 0)
        return PS_EBUDGET;
    if (table_is_full_locked(c))
        return PS_EBUDGET;
    rc = pick_slot_locked(c, r, &meta, t->rec.cls, &t->rec.slot);
    if (rc == 0)
        rc = ps_slab_extend(c->slabs, t->rec.cls, t->rec.slot, err);
    if (rc != 0)
        return rc;
    t->claim = ps_claims_add_locked(c->claims, PS_CLAIM_FILLING, t->key, t->rec.cls, t->rec.slot,
                                    t->rec.bytes, ps_now_ns() + PS_CACHE_CLAIM_NS);
    PS_ASSERT(t->claim != PS_CLAIM_NONE); /* the table was not full */
    return 0;
}

static int try_reserve(struct ps_cache *c, struct ps_cache_ticket *t, uint64_t *need,
                       struct ps_err *err)
{
    struct ps_index_read r;
    int rc;
    *need = 0;
    ps_claims_lock(c->claims);
    if (ps_claims_find_key_locked(c->claims, t->key, ps_now_ns()) != PS_CLAIM_NONE) {
        rc = PS_EAGAIN;
    } else {
        /* Begun under the lock: whatever was committed before its claim went is visible. */
        rc = ps_index_read_begin(&r, c->index, err);
        if (rc == 0) {
            rc = claim_slot_locked(c, &r, t, need, err);
            ps_index_read_end(&r);
        }
    }
    ps_claims_unlock(c->claims);
    return rc;
}

struct room_job {
    uint64_t need, freed;
};

static int room_job(struct ps_cache *c, void *user, struct ps_err *err)
{
    struct room_job *j = user;
    return ps_writer_make_room(c, j->need, false, &j->freed, err);
}

static bool nothing_to_evict(struct ps_cache *c)
{
    pthread_mutex_lock(&c->lock);
    const bool yes =
        c->no_victims_generation == c->plan_generation && ps_now_ns() < c->no_victims_until_ns;
    pthread_mutex_unlock(&c->lock);
    return yes;
}

/* True when another attempt makes sense. *freed: bytes evicted for it, which others may take before us. */
static bool make_room(struct ps_cache *c, uint64_t need, uint64_t *freed)
{
    struct room_job j = {.need = need};
    *freed = 0;
    /* First the dead: their claims, and a budget that may be smaller than ours. */
    if (ps_recover_dead(c) > 0)
        return true;
    if (need == 0) /* too many claims: publishing ours frees some */
        return ps_writer_call(c, ps_writer_flush, NULL, NULL) == 0;
    if (nothing_to_evict(c))
        return false;
    if (ps_writer_call(c, room_job, &j, NULL) != 0)
        return false;
    *freed = j.freed;
    return j.freed > 0;
}

static struct ps_cache_ticket *new_ticket(struct ps_cache *c)
{
    pthread_mutex_lock(&c->lock);
    struct ps_cache_ticket *t = c->unused;
    if (t)
        c->unused = t->next;
    pthread_mutex_unlock(&c->lock);
    if (!t)
        t = ps_malloc(sizeof *t);
    if (t)
        memset(t, 0, sizeof *t);
    return t;
}

int ps_cache_reserve(struct ps_cache_ticket **out, struct ps_cache *c, uint32_t model,
                     const uint8_t key[PS_SHA256_BYTES], int32_t layer, size_t bytes,
                     struct ps_err *err)
{
    const int cls = ps_budget_class(bytes);
    uint64_t need = 0;
    if (c->read_only || cls < 0 || model >= PS_INDEX_MODELS_MAX ||
        ps_now_ns() < atomic_load(&c->full_until_ns))
        return PS_EBUDGET;
    struct ps_cache_ticket *t = new_ticket(c);
    if (!t)
        return ps_err_set(err, PS_ENOMEM, PS_CACHE_ORIGIN, "reserve: out of memory");
    t->cache = c;
    memcpy(t->key, key, PS_SHA256_BYTES);
    t->rec.bytes = (uint32_t)bytes;
    t->rec.cls = (uint8_t)cls;
    t->rec.model = (uint16_t)model;
    t->rec.layer = (int16_t)(layer < INT16_MIN || layer > INT16_MAX ? -1 : layer);
    if (!ps_plan_find(c, key, &t->rec.rank))
        t->rec.rank = UINT32_MAX;
    int rc = PS_EBUDGET;
    for (int i = 0, fruitless = 0; i < RESERVE_TRIES; i++) {
        uint64_t freed;
        rc = try_reserve(c, t, &need, err);
        if (rc != PS_EBUDGET || fruitless >= RESERVE_FRUITLESS)
            break;
        if (make_room(c, need, &freed))
            fruitless += freed == 0;
        else
            fruitless = RESERVE_FRUITLESS; /* one more look: others may have evicted the last of it */
    }
    if (rc == 0) {
        *out = t;
        ps_writer_note_ticket(c);
        return 0;
    }
    if (rc == PS_ENOSPC)
        ps_cache_disk_full(c);
    ps_ticket_recycle(c, t);
    return ps_cache_note(c, rc);
}

/* ---- waiting for others ---- */

int ps_cache_look(struct ps_cache *c, const uint8_t key[PS_SHA256_BYTES])
{
    struct ps_record rec;
    if (find_record(c, key, &rec, NULL) == 0)
        return 0;
    if (c->read_only)
        return PS_ENOTFOUND;
    ps_claims_lock(c->claims);
    const bool claimed = ps_claims_find_key_locked(c->claims, key, ps_now_ns()) != PS_CLAIM_NONE;
    ps_claims_unlock(c->claims);
    if (claimed)
        return PS_EAGAIN;
    return find_record(c, key, &rec, NULL) == 0 ? 0 : PS_ENOTFOUND; /* published in between */
}

uint32_t ps_cache_changes(struct ps_cache *c)
{
    return c->read_only ? 0 : ps_claims_changes(c->claims);
}

void ps_cache_wait(struct ps_cache *c, uint32_t seen, uint64_t ns)
{
    if (c->read_only)
        return;
    atomic_fetch_add(&c->n_waiting, 1);
    ps_claims_wait(c->claims, seen, ns);
    atomic_fetch_sub(&c->n_waiting, 1);
}

void ps_cache_wake(struct ps_cache *c)
{
    if (!c->read_only)
        ps_claims_announce(c->claims);
}

/* ---- writing ---- */

int ps_cache_put(struct ps_cache_ticket *t, const void *buf, size_t bytes, struct ps_err *err)
{
    struct ps_cache *c = t->cache;
    int rc;
    if (bytes != t->rec.bytes)
        rc = ps_err_set(err, PS_EUSAGE, PS_CACHE_ORIGIN, "put: %zu bytes for a reservation of %u",
                        bytes, t->rec.bytes);
    else
        rc = ps_slab_write(c->slabs, t->rec.cls, t->rec.slot, buf, bytes, err);
    if (rc != 0) {
        if (rc == PS_ENOSPC)
            ps_cache_disk_full(c);
        ps_ticket_drop(c, t);
        return rc;
    }
    t->rec.crc32c = ps_crc32c(0, buf, bytes);
    if (c->stats)
        ps_stat_add(&c->stats->bytes_disk_written, bytes);
    ps_cache_count_use(c, t->rec.model, bytes);
    ps_writer_push(c, t);
    return 0;
}

void ps_cache_abort(struct ps_cache_ticket *t)
{
    ps_ticket_drop(t->cache, t);
}

void ps_cache_hasten(struct ps_cache *c)
{
    if (c->read_only)
        return;
    pthread_mutex_lock(&c->lock);
    if (c->n_pending > 0) {
        c->hurry = true;
        pthread_cond_signal(&c->wake);
    }
    pthread_mutex_unlock(&c->lock);
}

int ps_cache_flush(struct ps_cache *c, struct ps_err *err)
{
    return c->read_only ? 0 : ps_writer_call(c, ps_writer_flush, NULL, err);
}
