/* Opening a folder, whatever state it is in. In: a directory; out: an index, slabs and claims that agree,
 * within the budget.
 *
 * Everything here runs under the folder's open lock (flock on `lock`), because LMDB can fail when two processes
 * open or close at the same time. Who is alone (no live process, no read-only user) may also repair: throw away
 * a damaged index, make the claims table anew, write a compacted index. A cache is disposable: doubt is
 * resolved by fetching again. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/host.h"
#include "base/log.h"
#include "cache/cache_internal.h"
#include "cache/index_check.h"
#include "cache/owner.h"

/* Longer than a write that is under way takes on a disk that works. */
#define SETTLE_NS      (2 * PS_NS_PER_S)
#define SETTLE_LOOK_MS 200

#define MAP_BYTES_MIN (256ull << 20)
#define MAP_BYTES_MAX (64ull << 30)
/* Slabs may differ from the recorded sums by the file system's own blocks; more than this is a leak. */
#define LEAK_SLACK_BYTES (256ull << 10)

/* ---- layout ---- */

static int sys_error(struct ps_cache *c, int e, const char *what, struct ps_err *err)
{
    const int code = e == ENOSPC || e == EDQUOT ? PS_ENOSPC : PS_EIO;
    return ps_err_set(err, code, PS_CACHE_ORIGIN, "cache: %s: %s: %s", c->dir, what, strerror(e));
}

static bool not_writable(int e)
{
    return e == EROFS || e == EACCES || e == EPERM;
}

static int make_dir(struct ps_cache *c, const char *name, struct ps_err *err)
{
    if (mkdirat(c->dir_fd, name, 0700) != 0)
        return errno == EEXIST ? 0 : sys_error(c, errno, name, err);
    ps_owner_share_dir(c->dir_fd, name);
    return 0;
}

static void index_path(const struct ps_cache *c, char out[PS_CACHE_PATH_MAX + 32], const char *name)
{
    snprintf(out, PS_CACHE_PATH_MAX + 32, "%s/%s", c->dir, name);
}

static int make_layout(struct ps_cache *c, struct ps_err *err)
{
    int rc = make_dir(c, "index", err);
    if (rc == 0)
        rc = make_dir(c, "slabs", err);
    return rc;
}

static bool direct_wanted(void)
{
    const char *v = getenv("PENSTOCK_CACHE_DIRECT");
    return !v || strcmp(v, "0") != 0;
}

static int open_slabs(struct ps_cache *c, struct ps_err *err)
{
    const int fd = openat(c->dir_fd, "slabs", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return sys_error(c, errno, "slabs", err);
    const int rc = ps_slabs_open(&c->slabs, fd, c->read_only, direct_wanted(), err);
    if (rc != 0)
        close(fd);
    return rc;
}

/* ---- the clean mark ---- */

/* The sum of data.mdb when the last process closed it, in the lock file. A file with that sum is the one that was
 * closed, whatever its name, time or disk: it needs no walk. Any other is one that a process died over, or damage;
 * the walk tells (index_check.h). The mark is never taken back: what it says of an older file stays true. */
struct clean_mark {
    char magic[8];
    struct ps_index_sum sum;
    uint32_t check; /* of all before it */
    uint32_t reserved;
};

static uint32_t mark_check(const struct clean_mark *m)
{
    return ps_crc32c(0, m, offsetof(struct clean_mark, check));
}

static bool read_mark(const struct ps_cache *c, struct clean_mark *m)
{
    return c->lock_fd >= 0 && pread(c->lock_fd, m, sizeof *m, 0) == (ssize_t)sizeof *m &&
           memcmp(m->magic, PS_OWNER_MARK_MAGIC, sizeof m->magic) == 0 && mark_check(m) == m->check;
}

static void leave_mark(struct ps_cache *c)
{
    char path[PS_CACHE_PATH_MAX + 32];
    struct clean_mark m = {.reserved = 0};
    memcpy(m.magic, PS_OWNER_MARK_MAGIC, sizeof m.magic);
    index_path(c, path, "index/data.mdb");
    if (ps_index_sum_file(&m.sum, path, NULL) != 0)
        return;
    m.check = mark_check(&m);
    (void)pwrite(c->lock_fd, &m, sizeof m, 0); /* none, or half of one: then the next opening walks */
}

/* ---- the index ---- */

static uint64_t map_bytes(uint64_t budget)
{
    /* Address space for an index of 4 KiB extents, twice: deletes in a full map can fail (measured), so it is
     * never full. */
    const uint64_t want = budget / 8;
    return want < MAP_BYTES_MIN ? MAP_BYTES_MIN : want > MAP_BYTES_MAX ? MAP_BYTES_MAX : want;
}

static void throw_away(struct ps_cache *c)
{
    ps_owner_remove_dir(c->dir_fd, "index");
    ps_owner_remove_dir(c->dir_fd, "slabs");
    (void)unlinkat(c->dir_fd, "claims", 0);
}

static int try_index(struct ps_cache *c, uint64_t budget, struct ps_err *err)
{
    char path[PS_CACHE_PATH_MAX + 32];
    const struct ps_index_options o = {.read_only = c->read_only,
                                       .unlocked = c->unlocked,
                                       .map_bytes = map_bytes(budget)};
    index_path(c, path, "index");
    return ps_index_open(&c->index, path, &o, err);
}

/* Before LMDB sees the file, and only while no process can write it. */
static int check_index(struct ps_cache *c, struct ps_err *err)
{
    char path[PS_CACHE_PATH_MAX + 32];
    struct clean_mark then;
    struct ps_index_sum now = {.bytes = 0};
    const bool marked = read_mark(c, &then);
    index_path(c, path, "index/data.mdb");
    int rc = ps_index_sum_head(&now, path, err);
    if (rc != 0)
        return rc == PS_ENOTFOUND ? 0 : rc;
    if (now.bytes == 0) /* LMDB fills it, but what it held before is gone: say so */
        return !marked ? 0 : ps_err_set(err, PS_EDATA, PS_CACHE_ORIGIN, "index: damaged: emptied");
    /* Any commit since has changed the headers: then the rest need not be read twice. */
    if (marked && now.bytes == then.sum.bytes && now.head == then.sum.head)
        rc = ps_index_sum_file(&now, path, err);
    if (rc != 0 || (marked && memcmp(&now, &then.sum, sizeof now) == 0))
        return rc;
    return ps_index_check_file(path, err);
}

static void start_anew(struct ps_cache *c)
{
    ps_log(PS_LOG_WARN, PS_CACHE_ORIGIN, "%s: the index was damaged: starting with an empty cache",
           c->dir);
    throw_away(c);
    c->rebuilt = true;
}

/* `no_process`: nobody writes; `alone`: nobody reads either, so that it may be repaired. */
static int open_index(struct ps_cache *c, uint64_t budget, bool no_process, bool alone,
                      struct ps_err *err)
{
    int rc = no_process ? check_index(c, err) : 0;
    if (rc == 0)
        rc = try_index(c, budget, err);
    if (rc != PS_EDATA)
        return rc;
    if (!alone)
        return ps_err_set(
            err, PS_EDATA, PS_CACHE_ORIGIN,
            "cache: %s: the index is damaged and in use: stop the other processes and start again",
            c->dir);
    start_anew(c);
    rc = make_layout(c, err);
    return rc == 0 ? try_index(c, budget, err) : rc;
}

/* ---- claims of the dead ---- */

/* The slot of a claim belongs to the index if its bitmap says so; else its blocks are nobody's. */
static void settle_slot(struct ps_cache *c, struct ps_index_read *r, const struct ps_claim *claim)
{
    if (!ps_index_read_slot_used(r, claim->cls, claim->slot))
        ps_slab_punch(c->slabs, claim->cls, claim->slot);
}

static unsigned settle_process_locked(struct ps_cache *c, struct ps_index_read *r, uint32_t process)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < ps_claims_count(c->claims); i++) {
        const struct ps_claim *claim = ps_claims_get_locked(c->claims, i);
        if (claim->state == PS_CLAIM_FREE || claim->process != process)
            continue;
        settle_slot(c, r, claim);
        ps_claims_remove_locked(c->claims, i);
        n++;
    }
    return n;
}

static bool is_dead_locked(struct ps_cache *c, uint32_t process)
{
    return ps_claims_process_locked(c->claims, process)->used &&
           !ps_claims_alive_locked(c->claims, process);
}

static bool any_dead(struct ps_cache *c)
{
    bool any = false;
    ps_claims_lock(c->claims);
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES && !any; p++)
        any = is_dead_locked(c, p);
    ps_claims_unlock(c->claims);
    return any;
}

struct dead_job {
    struct ps_cache *c;
    unsigned n;
};

static void settle_dead(void *user)
{
    struct dead_job *j = user;
    struct ps_cache *c = j->c;
    struct ps_index_read r;
    ps_claims_lock(c->claims);
    if (ps_index_read_begin(&r, c->index, NULL) == 0) {
        for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++) {
            if (!is_dead_locked(c, p))
                continue;
            j->n += 1 + settle_process_locked(c, &r, p);
            ps_claims_process_locked(c->claims, p)->used = 0;
        }
        ps_index_read_end(&r);
    }
    ps_claims_unlock(c->claims);
}

/* Only with commits paused do the bitmaps tell what the dead have published and evicted. Whoever dies meanwhile holds
 * no commit open: the lock is ours. */
unsigned ps_recover_dead(struct ps_cache *c)
{
    struct dead_job j = {.c = c};
    if (any_dead(c))
        (void)ps_index_pause_commits(c->index, settle_dead, &j, NULL);
    if (j.n > 0)
        ps_claims_announce(c->claims);
    return j.n;
}

/* ---- the claims table ---- */

/* All claims of a table that no live process uses. */
static int settle_old_table(struct ps_cache *c, struct ps_err *err)
{
    struct ps_index_read r;
    int rc = ps_claims_open(&c->claims, c->dir_fd, c->lock_fd, false, 0, err);
    if (rc != 0)
        return rc == PS_ENOTFOUND || rc == PS_EDATA ? 0 : rc;
    const bool damaged = ps_claims_damaged(c->claims);
    rc = damaged ? PS_EDATA : ps_index_read_begin(&r, c->index, err);
    if (rc == 0) {
        /* Not through the mutex: what a reboot has left of it is anyone's guess. The claims are read as they lie. */
        for (uint32_t i = 0; i < ps_claims_count(c->claims); i++) {
            const struct ps_claim *claim = ps_claims_get_locked(c->claims, i);
            if (claim->state != PS_CLAIM_FREE && claim->cls < PS_CACHE_CLASSES)
                settle_slot(c, &r, claim);
        }
        ps_index_read_end(&r);
    }
    ps_claims_close(c->claims);
    c->claims = NULL;
    return rc;
}

/* Upkeep has no limit of its own, and the folder that it opens has one: a table for the largest would take a full
 * folder beyond it. */
static uint32_t claims_for(const struct ps_cache *c, const struct ps_cache_options *o)
{
    return ps_budget_claims(o->budget_bytes == UINT64_MAX ? ps_claims_last_budget(c->dir_fd)
                                                          : o->budget_bytes);
}

static int open_claims(struct ps_cache *c, const struct ps_cache_options *o, bool alone,
                       struct ps_err *err)
{
    int rc = ps_claims_open(&c->claims, c->dir_fd, c->lock_fd, alone, claims_for(c, o), err);
    /* On a full disk whoever wants to remove something must get in: the old table's blocks are enough for a small
     * one. */
    if (rc == PS_ENOSPC && alone)
        rc = ps_claims_open(&c->claims, c->dir_fd, c->lock_fd, alone, PS_CACHE_CLAIMS_MIN, err);
    if (rc != 0)
        return rc;
    (void)ps_recover_dead(c);
    return ps_claims_join(c->claims, o->budget_bytes, o->min_free_bytes, err);
}

/* ---- leaks and size ---- */

/* Slots that the index calls free but that still have blocks: possible after power loss, when the claims are gone. */
static void punch_leaks(struct ps_cache *c, const struct ps_index_meta *meta)
{
    struct ps_index_read r;
    uint64_t recorded = 0, n = 0;
    for (int i = 0; i < PS_CACHE_CLASSES; i++) {
        recorded += meta->classes[i].bytes;
        n += meta->classes[i].used;
        ps_slab_truncate(c->slabs, i, meta->classes[i].high);
    }
    if (ps_slabs_allocated_bytes(c->slabs) <=
            recorded + ps_budget_slab_overhead(n, recorded) + LEAK_SLACK_BYTES ||
        ps_index_read_begin(&r, c->index, NULL) != 0)
        return;
    for (int i = 0; i < PS_CACHE_CLASSES; i++)
        for (uint32_t slot = 0; slot < meta->classes[i].high; slot++)
            if (!ps_index_read_slot_used(&r, i, slot))
                ps_slab_punch(c->slabs, i, slot);
    ps_index_read_end(&r);
}

/* Bytes over the limit. `compacted`: as if the index had its least size, where the caller can give it that. */
static int excess(struct ps_cache *c, bool compacted, uint64_t *bytes, struct ps_err *err)
{
    struct ps_index_meta meta;
    struct ps_budget_state s;
    const int rc = ps_index_get_meta(c->index, &meta, err);
    if (rc != 0)
        return rc;
    ps_cache_measure(c);
    ps_claims_lock(c->claims);
    ps_cache_state_locked(c, &meta, &s);
    ps_claims_unlock(c->claims);
    if (compacted)
        s.index_file_bytes = 0; /* the bound for its extents is charged instead */
    const uint64_t charge = ps_budget_charge(&s, 0, 0);
    *bytes = charge > s.budget_bytes ? charge - s.budget_bytes : 0;
    return 0;
}

/* Evicts until the folder fits, or nothing is left. */
static int shrink(struct ps_cache *c, bool compacted, uint64_t *over, struct ps_err *err)
{
    uint64_t freed = 1;
    int rc = excess(c, compacted, over, err);
    if (rc == 0 && *over > 0 && !compacted) {
        ps_index_trim(c->index);
        rc = excess(c, compacted, over, err);
    }
    while (rc == 0 && *over > 0 && freed > 0) {
        rc = ps_writer_make_room(c, *over, true, &freed, err);
        if (rc == 0)
            rc = excess(c, compacted, over, err);
    }
    return rc;
}

/* LMDB's copy lies in the page cache. A name that reaches the disk before it would be an index of zeros after
 * power loss, and everything would be fetched again. */
static int sync_copy(struct ps_cache *c, struct ps_err *err)
{
    const int fd = openat(c->dir_fd, "index.new/data.mdb", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    const int e = fd < 0 || fdatasync(fd) != 0 ? errno : 0;
    if (fd >= 0) {
        ps_owner_share_file(c->dir_fd, fd);
        close(fd);
    }
    return e == 0 ? 0 : sys_error(c, e, "index.new", err);
}

/* A new generation of the index: a compacted copy beside it, then one rename. The caller is alone and holds the
 * open lock. */
static int compact(struct ps_cache *c, uint64_t budget, struct ps_err *err)
{
    char path[PS_CACHE_PATH_MAX + 32];
    int rc = make_dir(c, "index.new", err);
    index_path(c, path, "index.new");
    if (rc == 0)
        rc = ps_index_copy_compact(c->index, path, err);
    if (rc == 0)
        rc = sync_copy(c, err);
    ps_cache_measure(c);
    if (rc == 0) {
        ps_index_close(c->index);
        c->index = NULL;
        if (renameat(c->dir_fd, "index.new/data.mdb", c->dir_fd, "index/data.mdb") != 0)
            rc = sys_error(c, errno, "index.new", err);
    }
    ps_owner_remove_dir(c->dir_fd, "index.new");
    if (!c->index) {
        const int opened = try_index(c, budget, rc == 0 ? err : NULL);
        rc = rc == 0 ? opened : rc;
        ps_cache_measure(c);
    }
    return rc;
}

/* What other processes had in flight when our smaller limit began to count lands within moments, and can be evicted
 * only then: each of their commits is a reason to look again, for a bounded time. */
static int shrink_beside_others(struct ps_cache *c, uint64_t *over, struct ps_err *err)
{
    char path[PS_CACHE_PATH_MAX + 32], event[4096];
    struct pollfd commits = {.fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), .events = POLLIN};
    const uint64_t start_ns = ps_now_ns();
    index_path(c, path, "index/data.mdb");
    if (commits.fd >= 0)
        (void)inotify_add_watch(commits.fd, path, IN_MODIFY); /* before the first look */
    int rc = shrink(c, false, over, err);
    while (rc == 0 && *over > 0 && ps_now_ns() - start_ns < SETTLE_NS &&
           poll(&commits, 1, SETTLE_LOOK_MS) >= 0) {
        while (read(commits.fd, event, sizeof event) > 0) {}
        rc = shrink(c, false, over, err);
    }
    if (commits.fd >= 0)
        close(commits.fd);
    return rc;
}

static int fit_budget(struct ps_cache *c, uint64_t budget, bool alone, struct ps_err *err)
{
    uint64_t over;
    int rc = alone ? shrink(c, true, &over, err) : shrink_beside_others(c, &over, err);
    if (rc == 0 && alone)
        rc = excess(c, false, &over, err);
    if (rc == 0 && over > 0 && alone) {
        rc = compact(c, budget, err);
        if (rc != 0 && c->index) { /* then extents must make room instead */
            ps_log(PS_LOG_WARN, PS_CACHE_ORIGIN, "%s: the index could not be compacted: %s", c->dir,
                   err ? err->text : "");
            rc = 0;
        }
        if (rc == 0)
            rc = shrink(c, false, &over, err);
    }
    if (rc != 0 || over == 0)
        return rc;
    return ps_err_set(
        err, PS_EBUDGET, PS_CACHE_ORIGIN, "cache: %s takes %llu bytes more than --disk allows, %s",
        c->dir, (unsigned long long)over,
        alone ? "and nothing more can be evicted: give more, or remove other files there"
              : "and is in use by another process: stop it so that the index can be compacted, or "
                "give more");
}

/* ---- opening and closing ---- */

static int open_lock_file(struct ps_cache *c, const struct ps_cache_options *o, struct ps_err *err)
{
    if (o->must_exist && faccessat(c->dir_fd, "index/data.mdb", F_OK, AT_EACCESS) != 0)
        return ps_err_set(err, PS_ENOTFOUND, PS_CACHE_ORIGIN, "cache: %s holds no cache", c->dir);
    const int rc = ps_owner_check(c->dir_fd, c->dir, !o->read_only, !o->must_exist, err);
    if (rc != 0) /* before anything is made here */
        return rc;
    if (!o->read_only) {
        c->lock_fd = openat(c->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (c->lock_fd >= 0) {
            ps_owner_share_file(c->dir_fd, c->lock_fd);
            return 0;
        }
        if (!not_writable(errno))
            return sys_error(c, errno, "lock", err);
    }
    c->read_only = true;
    c->lock_fd = openat(c->dir_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (c->lock_fd >= 0 || errno == EACCES)
        return 0;
    if (errno == ENOENT) /* no cache: what that means depends on what was asked */
        return ps_err_set(err, o->read_only ? PS_ENOTFOUND : PS_EIO, PS_CACHE_ORIGIN,
                          "cache: %s: %s", c->dir,
                          o->read_only ? "holds no cache" : "can't be written and holds no cache");
    return sys_error(c, errno, "lock", err);
}

static void take_open_lock(struct ps_cache *c)
{
    while (c->lock_fd >= 0 && flock(c->lock_fd, c->read_only ? LOCK_SH : LOCK_EX) != 0 &&
           errno == EINTR) {}
}

static void drop_open_lock(struct ps_cache *c)
{
    if (c->lock_fd >= 0)
        (void)flock(c->lock_fd, LOCK_UN);
}

static int open_read_only(struct ps_cache *c, struct ps_err *err)
{
    struct flock l = {.l_type = F_RDLCK,
                      .l_whence = SEEK_SET,
                      .l_start = PS_CLAIM_LOCK_READER,
                      .l_len = 1};
    if (c->lock_fd >= 0)
        (void)fcntl(c->lock_fd, F_SETLK, &l); /* whoever wants to be alone sees this reader */
    c->unlocked = faccessat(c->dir_fd, "index/lock.mdb", W_OK, AT_EACCESS) != 0;
    int rc = c->lock_fd < 0 || !ps_claims_any_process(c->lock_fd) ? check_index(c, err) : 0;
    if (rc == 0)
        rc = try_index(c, MAP_BYTES_MIN, err);
    if (rc == PS_EDATA)
        return ps_err_set(err, rc, PS_CACHE_ORIGIN,
                          "cache: %s: the index is damaged: penstock cache verify --repair empties "
                          "the cache, and so does the next run: it is filled again",
                          c->dir);
    if (rc == 0)
        rc = open_slabs(c, err);
    if (rc == 0)
        ps_cache_measure(c);
    return rc;
}

static int open_writable(struct ps_cache *c, const struct ps_cache_options *o, struct ps_err *err)
{
    const bool no_process = !ps_claims_any_process(c->lock_fd);
    const bool alone = no_process && !ps_claims_any_reader(c->lock_fd);
    struct ps_index_meta meta;
    if (alone)
        ps_owner_remove_dir(c->dir_fd, "index.new");
    int rc = make_layout(c, err);
    if (rc == 0)
        rc = open_index(c, o->budget_bytes, no_process, alone, err);
    if (rc == 0)
        rc = open_slabs(c, err);
    if (rc == 0 && no_process) /* a read-only user may have kept the last writer's unfinished word */
        rc = ps_index_pause_commits(c->index, NULL, NULL, err);
    if (rc == 0 && no_process)
        rc = settle_old_table(c, err);
    if (rc == 0)
        rc = open_claims(c, o, no_process, err);
    if (rc == 0)
        rc = ps_index_get_meta(c->index, &meta, err);
    if (rc != 0)
        return rc;
    c->batch = meta.committed[ps_claims_self(c->claims)];
    (void)ps_index_check_readers(c->index);
    if (no_process)
        punch_leaks(c, &meta);
    rc = fit_budget(c, o->budget_bytes, alone, err);
    return rc;
}

int ps_recover_open(struct ps_cache *c, const struct ps_cache_options *o, struct ps_err *err)
{
    const char *network = ps_host_network_fs(c->dir);
    if (network)
        return ps_err_set(err, PS_EUNSUPPORTED, PS_CACHE_ORIGIN,
                          "cache: %s lies on a network file system (%s), where locks and mapped "
                          "files can't be trusted: give --cache a directory on a local disk, or "
                          "--disk 0 to run without a cache",
                          c->dir, network);
    int rc = open_lock_file(c, o, err);
    if (rc != 0)
        return rc;
    take_open_lock(c);
    while (c->lock_fd >= 0 && !ps_owner_lock_is_current(c->dir_fd, c->lock_fd)) {
        close(c->lock_fd);
        c->lock_fd = -1;
        rc = open_lock_file(c, o, err);
        if (rc != 0)
            return rc;
        take_open_lock(c);
    }
    rc = c->read_only ? open_read_only(c, err) : open_writable(c, o, err);
    if (rc == PS_EDATA && !c->read_only && c->claims == NULL && c->index &&
        !ps_claims_any_process(c->lock_fd)) {
        /* A running process had met damage that opening does not see. */
        ps_index_close(c->index);
        ps_slabs_close(c->slabs);
        c->index = NULL;
        c->slabs = NULL;
        start_anew(c);
        rc = open_writable(c, o, err);
    }
    drop_open_lock(c);
    if (rc != 0)
        ps_recover_close(c);
    return rc;
}

/* Tickets that their owner never consumed, and what a failed opening left. */
static void leave_claims(struct ps_cache *c)
{
    struct ps_index_read r;
    if (ps_claims_self(c->claims) != PS_CLAIM_NONE && c->index && c->slabs) {
        ps_claims_lock(c->claims);
        if (ps_index_read_begin(&r, c->index, NULL) == 0) {
            settle_process_locked(c, &r, ps_claims_self(c->claims));
            ps_index_read_end(&r);
        }
        ps_claims_unlock(c->claims);
    }
    ps_claims_leave(c->claims);
    ps_claims_announce(c->claims);
    ps_claims_close(c->claims);
    c->claims = NULL;
}

void ps_recover_close(struct ps_cache *c)
{
    take_open_lock(c);
    const bool writer = c->claims != NULL;
    if (writer)
        leave_claims(c);
    ps_index_close(c->index);
    ps_slabs_close(c->slabs);
    c->index = NULL;
    c->slabs = NULL;
    if (writer && !ps_claims_any_process(c->lock_fd))
        leave_mark(c);
    drop_open_lock(c);
    if (c->lock_fd >= 0)
        close(c->lock_fd); /* and with it the process's locks */
    c->lock_fd = -1;
}
