/* The index in LMDB. In: keys and records; out: records, counters, free slots. The only file that includes lmdb.h. */
#include "cache/index_lmdb.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "base/alloc.h"
#include "cache/index_rows.h"
#include "cache/owner.h"

#define ORIGIN      "cache"
#define PATH_BYTES  4096
#define SLOTS_BITS  PS_ROWS_SLOTS_BITS
#define SLOTS_BYTES PS_ROWS_SLOTS_BYTES
#define READ_POOL                                                                                  \
    6           /* ended read transactions kept for reuse: no allocation and no lock per lookup */
#define TRIES 8 /* map growth and its like, per call */

_Static_assert(sizeof(struct ps_record) == 24, "records are on disk");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "records are stored as they lie in memory");

struct ps_index {
    MDB_env *env; /* NULL after a failed reopen */
    MDB_dbi extents, slots, info;
    struct ps_index_options options;
    /* The gate: shared by transactions, exclusive for what LMDB forbids beside them (changing the map,
     * reopening). Not an rwlock: those that are inside must be able to come in again, and to hold the claims
     * table on either side of it, while somebody waits for exclusive use. They stay microseconds, so that use
     * comes to its turn. */
    pthread_mutex_t gate_lock;
    pthread_cond_t gate_changed;
    unsigned inside;          /* gate_lock */
    bool exclusive;           /* gate_lock */
    MDB_txn *pool[READ_POOL]; /* gate_lock; ended, reset */
    size_t n_pool;
    int data_fd; /* ours, for its size: usable under any lock */
    char dir[PATH_BYTES];
};

struct ps_index_write {
    struct ps_index *ix;
    MDB_txn *txn;
    int mdb_rc; /* first failure of LMDB: decides whether the body runs again */
    struct ps_index_meta meta;
};

static bool disk_is_full(const struct ps_index *ix)
{
    struct statvfs v;
    return statvfs(ix->dir, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize < (1u << 20);
}

static int lmdb_error(const struct ps_index *ix, int rc, const char *what, struct ps_err *err)
{
    switch (rc) {
    case ENOMEM: return ps_err_set(err, PS_ENOMEM, ORIGIN, "index: %s: out of memory", what);
    case ENOENT:
        return ps_err_set(err, PS_ENOTFOUND, ORIGIN, "index: %s: no index in %s", what, ix->dir);
    case EAGAIN: /* two processes with one pid: LMDB's reader table takes them for one (measured) */
        return ps_err_set(err, PS_EINUSE, ORIGIN,
                          "index: %s: shared with another PID namespace (container): let both "
                          "share one PID namespace, "
                          "or give each its own --cache",
                          what);
    case MDB_VERSION_MISMATCH:
        return ps_err_set(
            err, PS_EUNSUPPORTED, ORIGIN,
            "index: %s: written by another version of LMDB than %d.%d: use another --cache", what,
            MDB_VERSION_MAJOR, MDB_VERSION_MINOR);
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_PAGE_NOTFOUND:
    case MDB_NOTFOUND:
    case MDB_INCOMPATIBLE:
    case MDB_BAD_VALSIZE:
        return ps_err_set(err, PS_EDATA, ORIGIN, "index: %s: damaged: %s", what, mdb_strerror(rc));
    case MDB_READERS_FULL:
        return ps_err_set(err, PS_EINUSE, ORIGIN, "index: %s: too many readers at once", what);
    case ENOSPC:
    case EDQUOT:
        return ps_err_set(err, PS_ENOSPC, ORIGIN,
                          "index: %s: no room on the file system of the cache", what);
    default: break;
    }
    /* A full disk arrives as EIO from mdb_txn_commit (measured on 0.9.24). */
    if (rc == EIO && disk_is_full(ix))
        return ps_err_set(err, PS_ENOSPC, ORIGIN,
                          "index: %s: no room on the file system of the cache", what);
    return ps_err_set(err, PS_EIO, ORIGIN, "index: %s: %s", what, mdb_strerror(rc));
}

/* ---- opening ---- */

static void enter_locked(struct ps_index *ix)
{
    while (ix->exclusive)
        pthread_cond_wait(&ix->gate_changed, &ix->gate_lock);
    ix->inside++;
}

static void leave_locked(struct ps_index *ix)
{
    if (--ix->inside == 0)
        pthread_cond_broadcast(&ix->gate_changed);
}

static void enter(struct ps_index *ix)
{
    pthread_mutex_lock(&ix->gate_lock);
    enter_locked(ix);
    pthread_mutex_unlock(&ix->gate_lock);
}

static void leave(struct ps_index *ix)
{
    pthread_mutex_lock(&ix->gate_lock);
    leave_locked(ix);
    pthread_mutex_unlock(&ix->gate_lock);
}

/* Waits until no transaction is open, and ends those kept for reuse. */
static void close_gate(struct ps_index *ix)
{
    pthread_mutex_lock(&ix->gate_lock);
    while (ix->exclusive || ix->inside > 0)
        pthread_cond_wait(&ix->gate_changed, &ix->gate_lock);
    ix->exclusive = true;
    while (ix->n_pool > 0)
        mdb_txn_abort(ix->pool[--ix->n_pool]);
    pthread_mutex_unlock(&ix->gate_lock);
}

static void open_gate(struct ps_index *ix)
{
    pthread_mutex_lock(&ix->gate_lock);
    ix->exclusive = false;
    pthread_cond_broadcast(&ix->gate_changed);
    pthread_mutex_unlock(&ix->gate_lock);
}

static int env_open(struct ps_index *ix, MDB_env **out)
{
    MDB_env *env = NULL;
    int rc = mdb_env_create(&env);
    if (rc != 0)
        return rc;
    /* NOTLS ties reader slots to transactions, not to threads. No WRITEMAP: a full disk would be SIGBUS. */
    unsigned flags = MDB_NOTLS | (ix->options.read_only ? MDB_RDONLY : 0) |
                     (ix->options.unlocked ? MDB_NOLOCK : 0);
    rc = mdb_env_set_maxdbs(env, 4);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(env, PS_CACHE_READERS);
    if (rc == 0)
        rc = mdb_env_set_mapsize(env, (size_t)ix->options.map_bytes);
    if (rc == 0)
        rc = mdb_env_open(env, ix->dir, flags, 0600);
    if (rc != 0)
        mdb_env_close(env);
    else
        *out = env;
    return rc;
}

/* A file shorter than its own last page would be SIGBUS at the first touch. */
static int check_length(struct ps_index *ix, struct ps_err *err)
{
    MDB_envinfo info;
    MDB_stat ms;
    struct stat st;
    int fd;
    int rc = mdb_env_info(ix->env, &info);
    if (rc == 0)
        rc = mdb_env_stat(ix->env, &ms);
    if (rc == 0)
        rc = mdb_env_get_fd(ix->env, &fd);
    if (rc != 0)
        return lmdb_error(ix, rc, "open", err);
    if (fstat(fd, &st) != 0)
        return ps_err_set(err, PS_EIO, ORIGIN, "index: stat: %s", strerror(errno));
    if (ms.ms_psize != PS_CACHE_GRAIN ||
        (uint64_t)st.st_size < ((uint64_t)info.me_last_pgno + 1) * ms.ms_psize)
        return ps_err_set(err, PS_EDATA, ORIGIN, "index: damaged: shorter than its own page count");
    return 0;
}

static int open_tables(struct ps_index *ix, MDB_txn *txn, unsigned flags)
{
    int rc = mdb_dbi_open(txn, "info", flags, &ix->info);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "extents", flags, &ix->extents);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "slots", flags | MDB_INTEGERKEY, &ix->slots);
    return rc;
}

static int put_meta(struct ps_index *ix, MDB_txn *txn, struct ps_index_meta *meta)
{
    char name[] = PS_ROWS_META;
    MDB_val k = {.mv_size = sizeof name - 1, .mv_data = name}, v = {.mv_size = sizeof *meta};
    ps_rows_seal_meta(meta);
    const int rc = mdb_put(txn, ix->info, &k, &v, MDB_RESERVE);
    if (rc == 0)
        memcpy(v.mv_data, meta, sizeof *meta);
    return rc;
}

/* Checked each time: the budget rests on these counters. */
static int get_meta(const struct ps_index *ix, MDB_txn *txn, struct ps_index_meta *meta,
                    struct ps_err *err)
{
    char name[] = PS_ROWS_META;
    MDB_val k = {.mv_size = sizeof name - 1, .mv_data = name}, v;
    uint32_t format;
    const int rc = mdb_get(txn, ix->info, &k, &v);
    if (rc != 0)
        return lmdb_error(ix, rc, "counters", err);
    const int code = ps_rows_read_meta(v.mv_data, v.mv_size, meta, &format);
    if (code == PS_EUNSUPPORTED)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "cache: %s: made by a newer Penstock (format %u, this one knows %u): "
                          "upgrade, or use another "
                          "--cache",
                          ix->dir, format, PS_INDEX_FORMAT);
    return code == 0 ? 0 : ps_err_set(err, code, ORIGIN, "index: damaged: counters");
}

static int create_tables(struct ps_index *ix, struct ps_err *err)
{
    struct ps_index_meta meta = {.format = PS_INDEX_FORMAT};
    MDB_txn *txn;
    int rc = mdb_txn_begin(ix->env, NULL, 0, &txn);
    if (rc != 0)
        return lmdb_error(ix, rc, "create", err);
    rc = open_tables(ix, txn, MDB_CREATE);
    if (rc == 0)
        rc = put_meta(ix, txn, &meta);
    if (rc != 0)
        mdb_txn_abort(txn);
    else
        rc = mdb_txn_commit(txn);
    return rc == 0 ? 0 : lmdb_error(ix, rc, "create", err);
}

/* Table handles and version; creates the tables of an empty environment. */
static int adopt_tables(struct ps_index *ix, struct ps_err *err)
{
    MDB_txn *txn;
    MDB_stat ms;
    struct ps_index_meta meta;
    int code, rc = mdb_env_stat(ix->env, &ms);
    if (rc == 0 && ms.ms_entries == 0)
        return ix->options.read_only ? lmdb_error(ix, ENOENT, "open", err) : create_tables(ix, err);
    if (rc == 0)
        rc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0)
        return lmdb_error(ix, rc, "open", err);
    rc = mdb_dbi_open(txn, "info", 0, &ix->info);
    if (rc != 0)
        goto damaged;
    code = get_meta(ix, txn, &meta, err); /* before the other tables: a newer format may lack them */
    if (code != 0) {
        mdb_txn_abort(txn);
        return code;
    }
    rc = open_tables(ix, txn, 0);
    if (rc != 0)
        goto damaged;
    rc = mdb_stat(txn, ix->extents, &ms);
    if (rc != 0 || ms.ms_entries != meta.n_extents)
        goto damaged;
    rc = mdb_txn_commit(txn); /* keeps the handles */
    return rc == 0 ? 0 : lmdb_error(ix, rc, "open", err);
damaged:
    mdb_txn_abort(txn);
    return lmdb_error(ix, rc != 0 ? rc : MDB_CORRUPTED, "open", err);
}

/* With the group that shares the folder, if one does. */
static void share(const struct ps_index *ix, int fd)
{
    const int dir_fd = open(ix->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return;
    ps_owner_share_file(dir_fd, fd);
    close(dir_fd);
}

/* The reader table is mapped, and a store into a hole of it on a full disk would be SIGBUS: allocate it whole.
 * Before the environment is opened, because closing any descriptor of this file drops LMDB's fcntl locks on it. */
static int prepare_lock_file(const struct ps_index *ix, struct ps_err *err)
{
    char path[PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/lock.mdb", ix->dir);
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return lmdb_error(ix, errno, "lock file", err);
    share(ix, fd);
    const int rc = posix_fallocate(fd, 0, PS_INDEX_LOCK_BYTES);
    close(fd);
    return rc == 0 || rc == EOPNOTSUPP ? 0 : lmdb_error(ix, rc, "lock file", err);
}

static int open_env(struct ps_index *ix, struct ps_err *err)
{
    int code = ix->options.read_only ? 0 : prepare_lock_file(ix, err);
    if (code != 0)
        return code;
    int rc = env_open(ix, &ix->env);
    /* An empty file: whoever made it could not write its first pages. LMDB would write them now, and may not. */
    if (rc == EBADF && ix->options.read_only)
        rc = ENOENT;
    if (rc != 0)
        return lmdb_error(ix, rc, "open", err);
    code = check_length(ix, err);
    if (code == 0)
        code = adopt_tables(ix, err);
    if (code != 0) {
        mdb_env_close(ix->env);
        ix->env = NULL;
    }
    return code;
}

/* Data file, to ask for its size. LMDB locks only its other file, so closing this one harms nothing. */
static int open_data_fd(struct ps_index *ix, struct ps_err *err)
{
    char path[PATH_BYTES + 16];
    snprintf(path, sizeof path, "%s/data.mdb", ix->dir);
    ix->data_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (ix->data_fd < 0)
        return lmdb_error(ix, errno, "open", err);
    if (!ix->options.read_only)
        share(ix, ix->data_fd);
    return 0;
}

int ps_index_open(struct ps_index **out, const char *dir, const struct ps_index_options *options,
                  struct ps_err *err)
{
    if (strlen(dir) >= PATH_BYTES)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "cache: path too long");
    struct ps_index *ix = ps_calloc(1, sizeof *ix);
    if (!ix)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "index: out of memory");
    memcpy(ix->dir, dir, strlen(dir) + 1);
    ix->options = *options;
    ix->data_fd = -1;
    pthread_mutex_init(&ix->gate_lock, NULL);
    pthread_cond_init(&ix->gate_changed, NULL);
    int code = open_env(ix, err);
    if (code == 0)
        code = open_data_fd(ix, err);
    if (code != 0) {
        ps_index_close(ix);
        return code;
    }
    *out = ix;
    return 0;
}

void ps_index_close(struct ps_index *ix)
{
    if (!ix)
        return;
    close_gate(ix);
    if (ix->env)
        mdb_env_close(ix->env);
    if (ix->data_fd >= 0)
        close(ix->data_fd);
    pthread_mutex_destroy(&ix->gate_lock);
    pthread_cond_destroy(&ix->gate_changed);
    ps_free(ix);
}

/* ---- what LMDB wants nobody else to do meanwhile ---- */

/* Another process has grown the map. */
static int adopt_map(struct ps_index *ix)
{
    close_gate(ix);
    const int rc = ix->env ? mdb_env_set_mapsize(ix->env, 0) : EIO;
    open_gate(ix);
    return rc;
}

static int grow_map(struct ps_index *ix)
{
    close_gate(ix);
    MDB_envinfo info;
    int rc = ix->env ? mdb_env_info(ix->env, &info) : EIO;
    if (rc == 0)
        rc = mdb_env_set_mapsize(ix->env, info.me_mapsize * 2);
    open_gate(ix);
    return rc;
}

/* After a failed write of LMDB's own header the environment refuses everything. */
static int reopen(struct ps_index *ix, struct ps_err *err)
{
    close_gate(ix);
    if (ix->env)
        mdb_env_close(ix->env);
    ix->env = NULL;
    const int code = open_env(ix, err);
    open_gate(ix);
    return code;
}

/* Whether the call may be tried again: the reason is gone. */
static bool mended(struct ps_index *ix, int rc)
{
    if (rc == MDB_MAP_FULL)
        return grow_map(ix) == 0;
    if (rc == MDB_MAP_RESIZED)
        return adopt_map(ix) == 0;
    if (rc == MDB_PANIC)
        return reopen(ix, NULL) == 0;
    if (rc == MDB_READERS_FULL)
        return ps_index_check_readers(ix) > 0;
    return false;
}

/* ---- reading ---- */

/* Comes in, with an ended transaction to use again if there is one. */
static MDB_txn *enter_for_read(struct ps_index *ix)
{
    pthread_mutex_lock(&ix->gate_lock);
    enter_locked(ix);
    MDB_txn *txn = ix->n_pool > 0 ? ix->pool[--ix->n_pool] : NULL;
    pthread_mutex_unlock(&ix->gate_lock);
    return txn;
}

static int begin_txn(struct ps_index *ix, MDB_txn *txn, MDB_txn **out)
{
    if (txn) {
        if (mdb_txn_renew(txn) == 0) {
            *out = txn;
            return 0;
        }
        mdb_txn_abort(txn);
    }
    return mdb_txn_begin(ix->env, NULL, MDB_RDONLY, out);
}

int ps_index_read_begin(struct ps_index_read *r, struct ps_index *ix, struct ps_err *err)
{
    int rc = EIO;
    for (int i = 0; i < TRIES; i++) {
        MDB_txn *txn;
        MDB_txn *ended = enter_for_read(ix);
        rc = ix->env ? begin_txn(ix, ended, &txn) : EIO;
        if (rc == 0) {
            r->ix = ix;
            r->txn = txn;
            return 0;
        }
        leave(ix);
        if (!mended(ix, rc))
            break;
    }
    return lmdb_error(ix, rc, "read", err);
}

void ps_index_read_end(struct ps_index_read *r)
{
    struct ps_index *ix = r->ix;
    mdb_txn_reset(r->txn); /* the snapshot ends here, whatever becomes of the handle */
    pthread_mutex_lock(&ix->gate_lock);
    if (ix->n_pool < READ_POOL)
        ix->pool[ix->n_pool++] = r->txn;
    else
        mdb_txn_abort(r->txn); /* before leaving: it is LMDB's until then */
    leave_locked(ix);
    pthread_mutex_unlock(&ix->gate_lock);
    r->txn = NULL;
}

int ps_index_read_meta(struct ps_index_read *r, struct ps_index_meta *meta, struct ps_err *err)
{
    return get_meta(r->ix, r->txn, meta, err);
}

static int get_record(const struct ps_index *ix, MDB_txn *txn, const uint8_t *key,
                      struct ps_record *rec, struct ps_err *err)
{
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)key}, v;
    const int rc = mdb_get(txn, ix->extents, &k, &v);
    if (rc == MDB_NOTFOUND)
        return PS_ENOTFOUND;
    if (rc != 0)
        return lmdb_error(ix, rc, "read", err);
    struct ps_record got;
    if (v.mv_size != sizeof got)
        return lmdb_error(ix, MDB_CORRUPTED, "read", err);
    memcpy(&got, v.mv_data, sizeof got);
    if (!ps_rows_record_is_sane(&got))
        return lmdb_error(ix, MDB_CORRUPTED, "read", err);
    *rec = got;
    return 0;
}

int ps_index_read_get(struct ps_index_read *r, const uint8_t key[PS_SHA256_BYTES],
                      struct ps_record *rec, struct ps_err *err)
{
    return get_record(r->ix, r->txn, key, rec, err);
}

int ps_index_get(struct ps_index *ix, const uint8_t key[PS_SHA256_BYTES], struct ps_record *rec,
                 struct ps_err *err)
{
    struct ps_index_read r;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0)
        return code;
    code = ps_index_read_get(&r, key, rec, err);
    ps_index_read_end(&r);
    return code;
}

int ps_index_get_meta(struct ps_index *ix, struct ps_index_meta *meta, struct ps_err *err)
{
    struct ps_index_read r;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0)
        return code;
    code = ps_index_read_meta(&r, meta, err);
    ps_index_read_end(&r);
    return code;
}

/* The bitmap that covers a slot, borrowed until the transaction goes on; NULL when all its slots are free. */
static int get_bitmap(const struct ps_index *ix, MDB_txn *txn, int cls, uint32_t slot,
                      const uint8_t **bits)
{
    uint32_t id = ps_rows_bitmap_key(cls, slot);
    MDB_val k = {.mv_size = sizeof id, .mv_data = &id}, v;
    const int rc = mdb_get(txn, ix->slots, &k, &v);
    *bits = NULL;
    if (rc == 0 && v.mv_size == SLOTS_BYTES)
        *bits = v.mv_data;
    return rc == MDB_NOTFOUND ? 0 : rc == 0 && !*bits ? MDB_CORRUPTED : rc;
}

static bool bit_is_set(const uint8_t *bits, uint32_t slot)
{
    const uint32_t i = slot % SLOTS_BITS;
    return bits && (bits[i / 8] >> (i % 8) & 1);
}

bool ps_index_read_slot_used(struct ps_index_read *r, int cls, uint32_t slot)
{
    const uint8_t *bits;
    /* Unreadable counts as used: nobody writes there. */
    return get_bitmap(r->ix, r->txn, cls, slot, &bits) != 0 || bit_is_set(bits, slot);
}

int ps_index_read_free_slot(struct ps_index_read *r, int cls, uint32_t from, uint32_t to,
                            bool (*busy)(void *user, int cls, uint32_t slot), void *user,
                            uint32_t *slot)
{
    for (uint32_t at = from; at < to;) {
        const uint8_t *bits;
        if (get_bitmap(r->ix, r->txn, cls, at, &bits) != 0)
            return PS_EDATA;
        const uint32_t end =
            (at / SLOTS_BITS + 1) * SLOTS_BITS < to ? (at / SLOTS_BITS + 1) * SLOTS_BITS : to;
        for (; at < end; at++) {
            if (bits && at % 8 == 0 && bits[at % SLOTS_BITS / 8] == 0xff) {
                at += 7; /* the loop adds the eighth; past `end` only where `end` was not a multiple of 8 */
                continue;
            }
            if (!bit_is_set(bits, at) && !busy(user, cls, at)) {
                *slot = at;
                return 0;
            }
        }
    }
    return PS_ENOTFOUND;
}

static int get_model(const struct ps_index *ix, MDB_txn *txn, uint16_t number, struct ps_model *model)
{
    uint8_t name[3];
    ps_rows_model_key(number, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name}, v;
    const int rc = mdb_get(txn, ix->info, &k, &v);
    if (rc != 0)
        return rc == MDB_NOTFOUND ? PS_ENOTFOUND : PS_EDATA;
    return ps_rows_read_model(v.mv_data, v.mv_size, model);
}

int ps_index_read_model(struct ps_index_read *r, uint16_t number, struct ps_model *model)
{
    return get_model(r->ix, r->txn, number, model);
}

int ps_index_scan(struct ps_index *ix, const uint8_t *after, struct ps_keyed_record *recs,
                  size_t cap, size_t *n, struct ps_err *err)
{
    struct ps_index_read r;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0)
        return code;
    MDB_cursor *cursor;
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)after}, v;
    size_t got = 0;
    int rc = mdb_cursor_open(r.txn, ix->extents, &cursor);
    if (rc == 0) {
        rc = mdb_cursor_get(cursor, &k, &v, after ? MDB_SET_RANGE : MDB_FIRST);
        if (rc == 0 && after && k.mv_size == PS_SHA256_BYTES &&
            memcmp(k.mv_data, after, PS_SHA256_BYTES) == 0)
            rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT);
        for (; rc == 0 && got < cap; rc = got < cap ? mdb_cursor_get(cursor, &k, &v, MDB_NEXT) : 0) {
            if (k.mv_size != PS_SHA256_BYTES || v.mv_size != sizeof recs->rec) {
                rc = MDB_CORRUPTED;
                break;
            }
            memcpy(recs[got].key, k.mv_data, PS_SHA256_BYTES);
            memcpy(&recs[got].rec, v.mv_data, sizeof recs->rec);
            if (ps_rows_record_is_sane(&recs[got].rec))
                got++;
        }
        mdb_cursor_close(cursor);
    }
    ps_index_read_end(&r);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return lmdb_error(ix, rc, "scan", err);
    *n = got;
    return 0;
}

/* Calls fn for each model until it returns false. */
static int each_model(const struct ps_index *ix, MDB_txn *txn,
                      bool (*fn)(void *user, const struct ps_model *m), void *user)
{
    MDB_cursor *cursor;
    uint8_t first[3] = {'m', 0, 0};
    MDB_val k = {.mv_size = sizeof first, .mv_data = first}, v;
    int rc = mdb_cursor_open(txn, ix->info, &cursor);
    if (rc != 0)
        return rc;
    rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    for (; rc == 0; rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) {
        struct ps_model m;
        if (k.mv_size != 3)
            continue; /* "meta" and the parts sort among them */
        if (ps_rows_read_model(v.mv_data, v.mv_size, &m) != 0) {
            rc = MDB_CORRUPTED;
            break;
        }
        if (!fn(user, &m))
            break;
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

struct model_list {
    struct ps_model *models;
    size_t n, cap;
};

static bool list_model(void *user, const struct ps_model *m)
{
    struct model_list *l = user;
    if (l->n < l->cap)
        l->models[l->n++] = *m;
    return l->n < l->cap;
}

int ps_index_models(struct ps_index *ix, struct ps_model **models, size_t *n, struct ps_err *err)
{
    struct ps_index_read r;
    struct model_list l = {.cap = 0};
    MDB_stat ms;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0)
        return code;
    int rc = mdb_stat(r.txn, ix->info, &ms);
    if (rc == 0) {
        l.cap = ms.ms_entries < PS_INDEX_MODELS_MAX ? ms.ms_entries : PS_INDEX_MODELS_MAX;
        l.models = ps_calloc(l.cap + 1, sizeof *l.models);
        rc = l.models ? each_model(ix, r.txn, list_model, &l) : ENOMEM;
    }
    ps_index_read_end(&r);
    if (rc != 0) {
        ps_free(l.models);
        return lmdb_error(ix, rc, "models", err);
    }
    *models = l.models;
    *n = l.n;
    return 0;
}

static int get_parts(const struct ps_index *ix, MDB_txn *txn, uint16_t number, unsigned row,
                     struct ps_rows_parts *parts)
{
    uint8_t name[5];
    ps_rows_parts_key(number, row, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name}, v;
    const int rc = mdb_get(txn, ix->info, &k, &v);
    if (rc != 0)
        return rc;
    return ps_rows_read_parts(v.mv_data, v.mv_size, parts) == 0 ? 0 : MDB_CORRUPTED;
}

int ps_index_parts(struct ps_index *ix, uint16_t number, uint64_t **bytes, size_t *n,
                   struct ps_err *err)
{
    struct ps_index_read r;
    struct ps_rows_parts parts;
    uint64_t *all = ps_malloc(sizeof *all); /* never NULL, also without parts */
    size_t got = 0;
    int rc = all ? 0 : ENOMEM;
    int code = ps_index_read_begin(&r, ix, err);
    if (code != 0) {
        ps_free(all);
        return code;
    }
    for (unsigned row = 0; rc == 0 && got < PS_INDEX_PARTS_MAX; row++) {
        rc = get_parts(ix, r.txn, number, row, &parts);
        if (rc != 0)
            break;
        uint64_t *more = ps_realloc_array(all, got + parts.n + 1, sizeof *more);
        if (!more) {
            rc = ENOMEM;
            break;
        }
        all = more;
        memcpy(all + got, parts.bytes, parts.n * sizeof *all);
        got += parts.n;
    }
    ps_index_read_end(&r);
    if (rc != 0 && rc != MDB_NOTFOUND) {
        ps_free(all);
        return lmdb_error(ix, rc, "layers", err);
    }
    *bytes = all;
    *n = got;
    return 0;
}

/* ---- writing ---- */

static int fail(struct ps_index_write *w, int rc, const char *what, struct ps_err *err)
{
    if (w->mdb_rc == 0)
        w->mdb_rc = rc;
    return lmdb_error(w->ix, rc, what, err);
}

struct ps_index_meta *ps_index_write_meta(struct ps_index_write *w)
{
    return &w->meta;
}

static int set_slot(struct ps_index_write *w, int cls, uint32_t slot, bool used, struct ps_err *err)
{
    const uint8_t *old;
    uint8_t bits[SLOTS_BYTES] = {0};
    uint32_t id = ps_rows_bitmap_key(cls, slot);
    MDB_val k = {.mv_size = sizeof id, .mv_data = &id}, v = {.mv_size = sizeof bits, .mv_data = bits};
    int rc = get_bitmap(w->ix, w->txn, cls, slot, &old);
    if (rc != 0)
        return fail(w, rc, "slots", err);
    if (old)
        memcpy(bits, old, sizeof bits);
    const uint32_t i = slot % SLOTS_BITS;
    if (bit_is_set(bits, slot) == used) /* claims make this impossible: the file lies */
        return fail(w, MDB_CORRUPTED, "slots", err);
    bits[i / 8] ^= (uint8_t)(1u << (i % 8));
    static const uint8_t none[SLOTS_BYTES];
    rc = memcmp(bits, none, sizeof bits) == 0 ? mdb_del(w->txn, w->ix->slots, &k, NULL)
                                              : mdb_put(w->txn, w->ix->slots, &k, &v, 0);
    return rc == 0 ? 0 : fail(w, rc, "slots", err);
}

/* Counts a record in (sign 1) or out (-1, two's complement) of the totals and of its model. */
static int count_record(struct ps_index_write *w, const struct ps_record *rec, uint64_t sign,
                        struct ps_err *err)
{
    const uint64_t padded = ps_budget_round(rec->bytes);
    w->meta.n_extents += sign;
    w->meta.classes[rec->cls].bytes += padded * sign;
    w->meta.classes[rec->cls].used += (uint32_t)sign;
    if (w->meta.classes[rec->cls].used == 0)
        w->meta.classes[rec->cls].high = 0;
    else if (w->meta.classes[rec->cls].high <= rec->slot)
        w->meta.classes[rec->cls].high = rec->slot + 1;
    struct ps_model m;
    const int code = get_model(w->ix, w->txn, rec->model, &m);
    if (code != 0) /* its row is gone: nobody asks for its sums */
        return code == PS_ENOTFOUND ? 0 : fail(w, MDB_CORRUPTED, "model", err);
    m.bytes += rec->bytes * sign;
    m.padded_bytes += padded * sign;
    m.n_extents += sign;
    return ps_index_write_put_model(w, &m, err);
}

int ps_index_write_add(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                       const struct ps_record *rec, struct ps_err *err)
{
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)key};
    MDB_val v = {.mv_size = sizeof *rec, .mv_data = (void *)(uintptr_t)rec};
    const int rc = mdb_put(w->txn, w->ix->extents, &k, &v, MDB_NOOVERWRITE);
    if (rc == MDB_KEYEXIST)
        return PS_EAGAIN;
    if (rc != 0)
        return fail(w, rc, "add", err);
    const int code = set_slot(w, rec->cls, rec->slot, true, err);
    return code != 0 ? code : count_record(w, rec, 1, err);
}

int ps_index_write_remove(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                          const struct ps_record *rec, struct ps_err *err)
{
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)key};
    struct ps_record now;
    int code = get_record(w->ix, w->txn, key, &now, err);
    if (code != 0)
        return code;
    if (now.cls != rec->cls || now.slot != rec->slot)
        return PS_ENOTFOUND;
    const int rc = mdb_del(w->txn, w->ix->extents, &k, NULL);
    if (rc != 0)
        return fail(w, rc, "remove", err);
    code = set_slot(w, now.cls, now.slot, false, err);
    return code != 0 ? code : count_record(w, &now, (uint64_t)-1, err);
}

int ps_index_write_flags(struct ps_index_write *w, const uint8_t key[PS_SHA256_BYTES],
                         uint8_t flags, struct ps_err *err)
{
    struct ps_record rec;
    const int code = get_record(w->ix, w->txn, key, &rec, err);
    if (code != 0)
        return code;
    rec.flags = flags;
    MDB_val k = {.mv_size = PS_SHA256_BYTES, .mv_data = (void *)(uintptr_t)key};
    MDB_val v = {.mv_size = sizeof rec, .mv_data = &rec};
    const int rc = mdb_put(w->txn, w->ix->extents, &k, &v, 0);
    return rc == 0 ? 0 : fail(w, rc, "flags", err);
}

struct model_search {
    const uint8_t *id;
    struct ps_model found;
    bool ok;
    uint8_t taken[PS_INDEX_MODELS_MAX / 8];
};

static bool match_model(void *user, const struct ps_model *m)
{
    struct model_search *s = user;
    if (m->number < PS_INDEX_MODELS_MAX)
        s->taken[m->number / 8] |= (uint8_t)(1u << (m->number % 8));
    if (!s->id || memcmp(m->id, s->id, PS_SHA256_BYTES) != 0)
        return true;
    s->found = *m;
    s->ok = true;
    return false;
}

int ps_index_write_get_model(struct ps_index_write *w, const uint8_t *id, uint16_t number,
                             struct ps_model *model, struct ps_err *err)
{
    if (!id)
        return get_model(w->ix, w->txn, number, model);
    struct model_search s = {.id = id};
    const int rc = each_model(w->ix, w->txn, match_model, &s);
    if (rc != 0)
        return fail(w, rc, "models", err);
    if (!s.ok)
        return PS_ENOTFOUND;
    *model = s.found;
    return 0;
}

int ps_index_write_free_number(struct ps_index_write *w, uint16_t *number, struct ps_err *err)
{
    struct model_search s = {.id = NULL};
    const int rc = each_model(w->ix, w->txn, match_model, &s);
    if (rc != 0)
        return fail(w, rc, "models", err);
    for (unsigned i = 0; i < PS_INDEX_MODELS_MAX; i++)
        if (!(s.taken[i / 8] >> (i % 8) & 1)) {
            *number = (uint16_t)i;
            return 0;
        }
    return ps_err_set(err, PS_EBUDGET, ORIGIN, "cache: holds %u models already: evict some",
                      PS_INDEX_MODELS_MAX);
}

int ps_index_write_put_model(struct ps_index_write *w, const struct ps_model *model,
                             struct ps_err *err)
{
    struct ps_model sealed = *model;
    uint8_t name[3];
    ps_rows_seal_model(&sealed);
    ps_rows_model_key(model->number, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name};
    MDB_val v = {.mv_size = sizeof sealed, .mv_data = &sealed};
    const int rc = mdb_put(w->txn, w->ix->info, &k, &v, 0);
    return rc == 0 ? 0 : fail(w, rc, "model", err);
}

/* Removes the rows of parts from `row` on. */
static int cut_parts(struct ps_index_write *w, uint16_t number, unsigned row, struct ps_err *err)
{
    for (int rc = 0; rc == 0; row++) {
        uint8_t name[5];
        ps_rows_parts_key(number, row, name);
        MDB_val k = {.mv_size = sizeof name, .mv_data = name};
        rc = mdb_del(w->txn, w->ix->info, &k, NULL);
        if (rc != 0 && rc != MDB_NOTFOUND)
            return fail(w, rc, "layers", err);
    }
    return 0;
}

static int put_parts(struct ps_index_write *w, uint16_t number, unsigned row,
                     struct ps_rows_parts *parts, struct ps_err *err)
{
    struct ps_rows_parts old;
    uint8_t name[5];
    const size_t bytes = ps_rows_seal_parts(parts);
    if (get_parts(w->ix, w->txn, number, row, &old) == 0 && old.n == parts->n &&
        memcmp(&old, parts, bytes) == 0)
        return 0;
    ps_rows_parts_key(number, row, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name};
    MDB_val v = {.mv_size = bytes, .mv_data = parts};
    const int rc = mdb_put(w->txn, w->ix->info, &k, &v, 0);
    return rc == 0 ? 0 : fail(w, rc, "layers", err);
}

int ps_index_write_parts(struct ps_index_write *w, uint16_t number, const uint64_t *bytes, size_t n,
                         struct ps_err *err)
{
    unsigned row = 0;
    n = n < PS_INDEX_PARTS_MAX ? n : PS_INDEX_PARTS_MAX;
    for (size_t at = 0; at < n; at += PS_ROWS_PARTS, row++) {
        struct ps_rows_parts parts = {.n = 0};
        parts.n = (uint32_t)(n - at < PS_ROWS_PARTS ? n - at : PS_ROWS_PARTS);
        memcpy(parts.bytes, bytes + at, parts.n * sizeof *bytes);
        const int code = put_parts(w, number, row, &parts, err);
        if (code != 0)
            return code;
    }
    return cut_parts(w, number, row, err);
}

int ps_index_write_remove_model(struct ps_index_write *w, uint16_t number, struct ps_err *err)
{
    uint8_t name[3];
    ps_rows_model_key(number, name);
    MDB_val k = {.mv_size = sizeof name, .mv_data = name};
    const int rc = mdb_del(w->txn, w->ix->info, &k, NULL);
    return rc == 0 || rc == MDB_NOTFOUND ? cut_parts(w, number, 0, err) : fail(w, rc, "model", err);
}

/* One attempt. PS_EAGAIN with *mdb_rc set: mend that and try again. */
static int update_once(struct ps_index *ix, ps_index_body body, void *user, int *mdb_rc,
                       struct ps_err *err)
{
    struct ps_index_write w = {.ix = ix};
    if (!ix->env)
        return lmdb_error(ix, EIO, "write", err);
    int rc = mdb_txn_begin(ix->env, NULL, 0, &w.txn);
    if (rc != 0) {
        *mdb_rc = rc;
        return lmdb_error(ix, rc, "write", err);
    }
    int code = get_meta(ix, w.txn, &w.meta, err);
    if (code == 0)
        code = body(&w, user, err);
    if (code == 0 && (rc = put_meta(ix, w.txn, &w.meta)) != 0)
        code = fail(&w, rc, "write", err);
    if (code != 0) {
        mdb_txn_abort(w.txn);
        *mdb_rc = w.mdb_rc;
        return code;
    }
    rc = mdb_txn_commit(w.txn);
    *mdb_rc = rc;
    return rc == 0 ? 0 : lmdb_error(ix, rc, "commit", err);
}

int ps_index_update(struct ps_index *ix, ps_index_body body, void *user, struct ps_err *err)
{
    int code = PS_EIO;
    for (int i = 0; i < TRIES; i++) {
        int mdb_rc = 0;
        enter(ix);
        code = update_once(ix, body, user, &mdb_rc, err);
        leave(ix);
        if (code == 0 || !mended(ix, mdb_rc))
            break;
    }
    return code;
}

/* Taking LMDB's write lock over from a dead process is what brings its readers up to date. */
int ps_index_pause_commits(struct ps_index *ix, void (*fn)(void *user), void *user, struct ps_err *err)
{
    int rc = EIO;
    for (int i = 0; i < TRIES; i++) {
        MDB_txn *txn;
        enter(ix);
        rc = ix->env ? mdb_txn_begin(ix->env, NULL, 0, &txn) : EIO;
        if (rc == 0) {
            if (fn)
                fn(user);
            mdb_txn_abort(txn);
        }
        leave(ix);
        if (rc == 0)
            return 0;
        if (!mended(ix, rc))
            break;
    }
    return lmdb_error(ix, rc, "write", err);
}

/* ---- size and upkeep ---- */

struct oldest_reader {
    uint64_t txnid;
};

/* LMDB tells its readers as text: "pid thread txnid" per line, "-" for one without a snapshot. */
static int parse_reader(const char *line, void *user)
{
    struct oldest_reader *o = user;
    unsigned long long txnid;
    int pid;
    char thread[32];
    if (sscanf(line, "%d %31s %llu", &pid, thread, &txnid) == 3 && txnid < o->txnid)
        o->txnid = txnid;
    return 0;
}

/* Pages of the free list that no reader can see, up to `enough`; *pinned: that one can. */
static uint64_t free_pages(struct ps_index_write *w, uint64_t enough, bool *pinned)
{
    const uint64_t last_commit = mdb_txn_id(w->txn) - 1;
    struct oldest_reader o = {.txnid = last_commit};
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val k, v;
    uint64_t pages = 0;
    int dead;
    (void)mdb_reader_check(w->ix->env, &dead); /* the killed must not pin pages until the next upkeep */
    (void)mdb_reader_list(w->ix->env, parse_reader, &o);
    *pinned = o.txnid < last_commit;
    /* The free list (table 0) may only be read from a read transaction; its snapshot is the state that this
     * write began with. */
    if (mdb_txn_begin(w->ix->env, NULL, MDB_RDONLY, &txn) != 0)
        return 0;
    if (mdb_cursor_open(txn, 0, &cursor) == 0) {
        while (pages < enough && mdb_cursor_get(cursor, &k, &v, MDB_NEXT) == 0) {
            uint64_t id, n;
            if (k.mv_size != sizeof id || v.mv_size < sizeof n)
                break;
            memcpy(&id, k.mv_data, sizeof id);
            memcpy(&n, v.mv_data, sizeof n);
            if (id >= o.txnid || n > v.mv_size / sizeof n)
                break;
            pages += n;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    return pages;
}

/* Pages of the file, and how many of them LMDB has ever used. */
static bool count_pages(const struct ps_index *ix, uint64_t *pages, uint64_t *used)
{
    MDB_envinfo info;
    struct stat st;
    if (mdb_env_info(ix->env, &info) != 0 || fstat(ix->data_fd, &st) != 0)
        return false;
    *used = (uint64_t)info.me_last_pgno + 1;
    *pages = (uint64_t)st.st_size / PS_CACHE_GRAIN;
    return true;
}

uint64_t ps_index_write_spare_bytes(struct ps_index_write *w, uint64_t enough, bool *pinned)
{
    const uint64_t want = (enough + PS_CACHE_GRAIN - 1) / PS_CACHE_GRAIN;
    uint64_t pages, used, spare = 0;
    *pinned = false;
    if (count_pages(w->ix, &pages, &used) && pages > used)
        spare = pages - used;
    if (spare < want)
        spare += free_pages(w, want - spare, pinned);
    return (spare < want ? spare : want) * PS_CACHE_GRAIN;
}

void ps_index_write_extend(struct ps_index_write *w, uint64_t bytes)
{
    struct stat st;
    int fd;
    if (mdb_env_get_fd(w->ix->env, &fd) == 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size < bytes)
        (void)fallocate(fd, 0, 0, (off_t)bytes);
}

static void trim(void *user)
{
    const struct ps_index *ix = user;
    uint64_t pages, used;
    int fd;
    /* No snapshot reaches beyond the last page: it never moves down. */
    if (mdb_env_get_fd(ix->env, &fd) == 0 && count_pages(ix, &pages, &used) && used < pages)
        (void)!ftruncate(fd, (off_t)(used * PS_CACHE_GRAIN));
}

void ps_index_trim(struct ps_index *ix)
{
    (void)ps_index_pause_commits(ix, trim, ix, NULL);
}

uint64_t ps_index_file_bytes(struct ps_index *ix)
{
    struct stat st;
    return fstat(ix->data_fd, &st) == 0 ? (uint64_t)st.st_blocks * 512u : 0;
}

int ps_index_check_readers(struct ps_index *ix)
{
    int dead = 0;
    enter(ix);
    if (ix->env)
        (void)mdb_reader_check(ix->env, &dead);
    leave(ix);
    return dead;
}

int ps_index_copy_compact(struct ps_index *ix, const char *to, struct ps_err *err)
{
    enter(ix);
    const int rc = ix->env ? mdb_env_copy2(ix->env, to, MDB_CP_COMPACT) : EIO;
    leave(ix);
    return rc == 0 ? 0 : lmdb_error(ix, rc, "compact", err);
}
