/* The index as an environment of LMDB: opening and closing it, the gate before it, and what mends a refused call. */
#include "cache/index_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "base/alloc.h"
#include "cache/owner.h"

_Static_assert(sizeof(struct ps_record) == 24, "records are on disk");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "records are stored as they lie in memory");

static bool disk_is_full(const struct ps_index *ix)
{
    struct statvfs v;
    return statvfs(ix->dir, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize < (1u << 20);
}

int ps_index_error(const struct ps_index *ix, int rc, const char *what, struct ps_err *err)
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

/* ---- the gate ---- */

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

void ps_index_enter(struct ps_index *ix)
{
    pthread_mutex_lock(&ix->gate_lock);
    enter_locked(ix);
    pthread_mutex_unlock(&ix->gate_lock);
}

void ps_index_leave(struct ps_index *ix)
{
    pthread_mutex_lock(&ix->gate_lock);
    leave_locked(ix);
    pthread_mutex_unlock(&ix->gate_lock);
}

MDB_txn *ps_index_enter_for_read(struct ps_index *ix)
{
    pthread_mutex_lock(&ix->gate_lock);
    enter_locked(ix);
    MDB_txn *txn = ix->n_pool > 0 ? ix->pool[--ix->n_pool] : NULL;
    pthread_mutex_unlock(&ix->gate_lock);
    return txn;
}

void ps_index_leave_after_read(struct ps_index *ix, MDB_txn *txn)
{
    pthread_mutex_lock(&ix->gate_lock);
    if (ix->n_pool < READ_POOL)
        ix->pool[ix->n_pool++] = txn;
    else
        mdb_txn_abort(txn); /* before leaving: it is LMDB's until then */
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

/* ---- opening ---- */

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
        return ps_index_error(ix, rc, "open", err);
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

static int create_tables(struct ps_index *ix, struct ps_err *err)
{
    struct ps_index_meta meta = {.format = PS_INDEX_FORMAT};
    MDB_txn *txn;
    int rc = mdb_txn_begin(ix->env, NULL, 0, &txn);
    if (rc != 0)
        return ps_index_error(ix, rc, "create", err);
    rc = open_tables(ix, txn, MDB_CREATE);
    if (rc == 0)
        rc = ps_index_store_meta(ix, txn, &meta);
    if (rc != 0)
        mdb_txn_abort(txn);
    else
        rc = mdb_txn_commit(txn);
    return rc == 0 ? 0 : ps_index_error(ix, rc, "create", err);
}

/* Table handles and version; creates the tables of an empty environment. */
static int adopt_tables(struct ps_index *ix, struct ps_err *err)
{
    MDB_txn *txn;
    MDB_stat ms;
    struct ps_index_meta meta;
    int code, rc = mdb_env_stat(ix->env, &ms);
    if (rc == 0 && ms.ms_entries == 0)
        return ix->options.read_only ? ps_index_error(ix, ENOENT, "open", err)
                                     : create_tables(ix, err);
    if (rc == 0)
        rc = mdb_txn_begin(ix->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0)
        return ps_index_error(ix, rc, "open", err);
    rc = mdb_dbi_open(txn, "info", 0, &ix->info);
    if (rc != 0)
        goto damaged;
    code = ps_index_load_meta(ix, txn, &meta,
                              err); /* before the other tables: a newer format may lack them */
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
    return rc == 0 ? 0 : ps_index_error(ix, rc, "open", err);
damaged:
    mdb_txn_abort(txn);
    return ps_index_error(ix, rc != 0 ? rc : MDB_CORRUPTED, "open", err);
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
        return ps_index_error(ix, errno, "lock file", err);
    share(ix, fd);
    const int rc = posix_fallocate(fd, 0, PS_INDEX_LOCK_BYTES);
    close(fd);
    return rc == 0 || rc == EOPNOTSUPP ? 0 : ps_index_error(ix, rc, "lock file", err);
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
        return ps_index_error(ix, rc, "open", err);
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
        return ps_index_error(ix, errno, "open", err);
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

bool ps_index_mended(struct ps_index *ix, int rc)
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
