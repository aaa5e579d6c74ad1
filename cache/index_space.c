/* The room in the index's file: how much of it is free, making it longer, trimming and compacting it. */
#include "cache/index_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
    ps_index_enter(ix);
    if (ix->env)
        (void)mdb_reader_check(ix->env, &dead);
    ps_index_leave(ix);
    return dead;
}

int ps_index_copy_compact(struct ps_index *ix, const char *to, struct ps_err *err)
{
    ps_index_enter(ix);
    const int rc = ix->env ? mdb_env_copy2(ix->env, to, MDB_CP_COMPACT) : EIO;
    ps_index_leave(ix);
    return rc == 0 ? 0 : ps_index_error(ix, rc, "compact", err);
}
