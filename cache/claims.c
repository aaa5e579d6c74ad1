/* The claims table. In: reservations and evictions of this process; out: what all processes have under way. */
#include "cache/claims.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <linux/futex.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "base/alloc.h"
#include "cache/owner.h"

#define ORIGIN     "cache"
#define TABLE_NAME "claims"
#define MAGIC      0x31736d69616c6370ull /* "pclaims1" */

/* The file: this header and the process table in three pages, then the claims, then the heads of both hash tables. */
struct header {
    uint64_t magic; /* written last */
    uint32_t n_claims;
    _Atomic uint32_t damaged;
    pthread_mutex_t mutex;
    uint32_t free_head;
    uint32_t hint[PS_CACHE_CLASSES];
    uint32_t fresh[PS_CACHE_CLASSES];
    uint32_t in_class[PS_CACHE_CLASSES];
    _Atomic uint32_t changes; /* a futex: claims that went */
    /* What governs, or did last; outlives the processes and, in fresh tables, the file. 0: nobody knows. */
    _Atomic uint64_t budget_bytes;
};
#define PROCESSES_AT 4096u
#define CLAIMS_AT    (3u * 4096u)

_Static_assert(sizeof(struct ps_claim) == 64, "claims are shared between builds");
_Static_assert(sizeof(struct ps_claim_process) == 128, "claims are shared between builds");
_Static_assert(sizeof(struct header) <= PROCESSES_AT, "header page");
_Static_assert(PROCESSES_AT + PS_CACHE_PROCESSES * sizeof(struct ps_claim_process) <= CLAIMS_AT,
               "process pages");

struct ps_claims {
    size_t bytes;
    uint32_t n_claims; /* checked copy: the mapped one could change under us */
    uint32_t self;     /* PS_CLAIM_NONE until joined */
    int lock_fd;       /* borrowed */
    struct header *head;
    struct ps_claim_process *processes;
    struct ps_claim *claims;
    uint32_t *by_key, *by_slot;
};

static bool locked_by_other(int lock_fd, short type, off_t start, off_t len)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    /* Unknown counts as alive: the worst that follows is a folder that is not compacted. */
    return fcntl(lock_fd, F_GETLK, &l) != 0 || l.l_type != F_UNLCK;
}

bool ps_claims_any_process(int lock_fd)
{
    return locked_by_other(lock_fd, F_WRLCK, PS_CLAIM_LOCK_PROCESS, PS_CACHE_PROCESSES);
}

bool ps_claims_any_reader(int lock_fd)
{
    return locked_by_other(lock_fd, F_WRLCK, PS_CLAIM_LOCK_READER, 1);
}

static uint32_t key_bucket(const struct ps_claims *t, const uint8_t *key)
{
    uint32_t h; /* keys are hashes already */
    memcpy(&h, key, sizeof h);
    return h % t->n_claims;
}

static uint32_t slot_bucket(const struct ps_claims *t, int cls, uint32_t slot)
{
    return (slot * 2654435761u + (uint32_t)cls * 40503u) % t->n_claims;
}

static void unlink_from(struct ps_claims *t, uint32_t *head, uint32_t claim, bool by_key)
{
    for (uint32_t *at = head; *at != PS_CLAIM_NONE;) {
        struct ps_claim *c = &t->claims[*at];
        uint32_t *next = by_key ? &c->next_key : &c->next_slot;
        if (*at == claim) {
            *at = *next;
            return;
        }
        at = next;
    }
}

static void link_claim(struct ps_claims *t, uint32_t claim)
{
    struct ps_claim *c = &t->claims[claim];
    uint32_t *slot_head = &t->by_slot[slot_bucket(t, c->cls, c->slot)];
    c->next_slot = *slot_head;
    *slot_head = claim;
    if (c->has_key) {
        uint32_t *key_head = &t->by_key[key_bucket(t, c->key)];
        c->next_key = *key_head;
        *key_head = claim;
    }
    t->head->in_class[c->cls]++;
}

/* Adds (sign 1) or takes away (-1, as two's complement) a claim in its process's sums. */
static void count_claim(struct ps_claims *t, const struct ps_claim *c, uint64_t sign)
{
    struct ps_claim_process *p = &t->processes[c->process];
    const uint64_t bytes = ps_budget_round(c->bytes) * sign;
    if (c->state == PS_CLAIM_FILLING) {
        p->filling_bytes += bytes;
        p->n_filling += (uint32_t)sign;
    } else if (c->state == PS_CLAIM_PUBLISHING) {
        p->publishing_bytes += bytes;
        p->n_publishing += (uint32_t)sign;
    } else if (c->state == PS_CLAIM_EVICTING) {
        p->evicting_bytes += bytes;
        p->n_evicting += (uint32_t)sign;
    }
}

static bool plausible(const struct ps_claim *c)
{
    return c->state > PS_CLAIM_FREE && c->state <= PS_CLAIM_EVICTING && c->cls < PS_CACHE_CLASSES &&
           c->process < PS_CACHE_PROCESSES && c->bytes <= PS_CACHE_EXTENT_MAX;
}

/* Claims are the truth; chains, sums and the free list follow from them. Runs after a process died inside the lock. */
static void rebuild_locked(struct ps_claims *t)
{
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++) {
        struct ps_claim_process *q = &t->processes[p];
        q->filling_bytes = q->publishing_bytes = q->evicting_bytes = 0;
        q->n_filling = q->n_publishing = q->n_evicting = 0;
    }
    memset(t->head->in_class, 0, sizeof t->head->in_class);
    t->head->free_head = PS_CLAIM_NONE;
    for (uint32_t i = 0; i < t->n_claims; i++)
        t->by_key[i] = t->by_slot[i] = PS_CLAIM_NONE;
    for (uint32_t i = t->n_claims; i-- > 0;) {
        struct ps_claim *c = &t->claims[i];
        if (plausible(c)) {
            link_claim(t, i);
            count_claim(t, c, 1);
        } else {
            c->state = PS_CLAIM_FREE;
            c->next_slot = t->head->free_head;
            t->head->free_head = i;
        }
    }
}

static int init_mutex(pthread_mutex_t *m)
{
    pthread_mutexattr_t a;
    int rc = pthread_mutexattr_init(&a);
    if (rc != 0)
        return rc;
    rc = pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    if (rc == 0)
        rc = pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    if (rc == 0)
        rc = pthread_mutex_init(m, &a);
    pthread_mutexattr_destroy(&a);
    return rc;
}

static void map_parts(struct ps_claims *t, void *base)
{
    t->head = base;
    t->processes = (struct ps_claim_process *)(void *)((char *)base + PROCESSES_AT);
    t->claims = (struct ps_claim *)(void *)((char *)base + CLAIMS_AT);
    t->by_key = (uint32_t *)(void *)(t->claims + t->n_claims);
    t->by_slot = t->by_key + t->n_claims;
}

static bool read_header(struct header *h, int fd)
{
    return pread(fd, h, sizeof *h, 0) == (ssize_t)sizeof *h && h->magic == MAGIC;
}

uint64_t ps_claims_last_budget(int dir_fd)
{
    struct header h;
    uint64_t budget = 0;
    const int fd = openat(dir_fd, TABLE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd >= 0 && read_header(&h, fd))
        budget = h.budget_bytes;
    if (fd >= 0)
        close(fd);
    return budget;
}

/* Size and number of claims of an existing table; 0 when the file is none. */
static uint32_t stored_claims(int fd)
{
    struct header h;
    struct stat st;
    if (fstat(fd, &st) != 0 || !read_header(&h, fd))
        return 0;
    if (h.n_claims < PS_CACHE_CLAIMS_MIN || h.n_claims > PS_CACHE_CLAIMS_MAX ||
        (uint64_t)st.st_size != ps_budget_claims_bytes(h.n_claims))
        return 0;
    return h.n_claims;
}

bool ps_claims_is_table(int dir_fd)
{
    uint64_t magic = 0;
    const int fd = openat(dir_fd, TABLE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    const bool yes =
        fd >= 0 && pread(fd, &magic, sizeof magic, 0) == (ssize_t)sizeof magic && magic == MAGIC;
    if (fd >= 0)
        close(fd);
    return yes;
}

/* A table left by an older boot or a crash may still be mapped by a forked child of the dead: a new file, not
 * the old one wiped. Allocated whole, so that a full disk is an error here and not SIGBUS later. */
static int make_file(int dir_fd, uint32_t n_claims, struct ps_err *err)
{
    (void)unlinkat(dir_fd, TABLE_NAME, 0);
    const int fd =
        openat(dir_fd, TABLE_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return ps_err_set(err, errno == ENOSPC ? PS_ENOSPC : PS_EIO, ORIGIN, "claims: create: %s",
                          strerror(errno));
    ps_owner_share_file(dir_fd, fd);
    const int rc = posix_fallocate(fd, 0, (off_t)ps_budget_claims_bytes(n_claims));
    if (rc != 0) {
        close(fd);
        (void)unlinkat(dir_fd, TABLE_NAME, 0);
        return ps_err_set(err, rc == ENOSPC || rc == EDQUOT ? PS_ENOSPC : PS_EIO, ORIGIN,
                          "claims: allocate: %s", strerror(rc));
    }
    return fd;
}

static int init_table(struct ps_claims *t, struct ps_err *err)
{
    const int rc = init_mutex(&t->head->mutex);
    if (rc != 0)
        return ps_err_set(err, PS_EFAIL, ORIGIN, "claims: no process-shared robust mutex: %s",
                          strerror(rc));
    t->head->n_claims = t->n_claims;
    rebuild_locked(t);
    t->head->magic = MAGIC;
    return 0;
}

int ps_claims_open(struct ps_claims **out, int dir_fd, int lock_fd, bool fresh, uint32_t n_claims,
                   struct ps_err *err)
{
    struct ps_claims *t = ps_calloc(1, sizeof *t);
    if (!t)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "claims: out of memory");
    void *base = NULL;
    int rc = 0;
    const uint64_t budget = fresh ? ps_claims_last_budget(dir_fd) : 0;
    const int fd = fresh ? make_file(dir_fd, n_claims, err)
                         : openat(dir_fd, TABLE_NAME, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        rc = fresh ? fd
                   : ps_err_set(err, errno == ENOENT ? PS_ENOTFOUND : PS_EIO, ORIGIN, "claims: %s",
                                strerror(errno));
        goto out;
    }
    t->n_claims = fresh ? n_claims : stored_claims(fd);
    if (t->n_claims == 0) {
        rc = ps_err_set(err, PS_EDATA, ORIGIN, "claims: not a claims table");
        goto out;
    }
    t->bytes = (size_t)ps_budget_claims_bytes(t->n_claims);
    t->self = PS_CLAIM_NONE;
    t->lock_fd = lock_fd;
    base = mmap(NULL, t->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "claims: map: %s", strerror(errno));
        goto out;
    }
    map_parts(t, base);
    rc = fresh ? init_table(t, err) : 0;
    if (rc == 0 && fresh)
        t->head->budget_bytes = budget;
    if (rc != 0)
        munmap(base, t->bytes);
out:
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        *out = t;
    else
        ps_free(t);
    return rc;
}

void ps_claims_close(struct ps_claims *t)
{
    if (!t)
        return;
    munmap(t->head, t->bytes);
    ps_free(t);
}

void ps_claims_lock(struct ps_claims *t)
{
    const int rc = pthread_mutex_lock(&t->head->mutex);
    if (rc == EOWNERDEAD) {
        rebuild_locked(t);
        pthread_mutex_consistent(&t->head->mutex);
        return;
    }
    PS_ASSERT(rc == 0);
}

void ps_claims_unlock(struct ps_claims *t)
{
    pthread_mutex_unlock(&t->head->mutex);
}

static uint64_t own_pid_namespace(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* Field 22 of /proc/self/stat: clock ticks since boot. 0 where there is no /proc: it only names the process. */
static uint64_t own_start_ticks(void)
{
    char text[1024];
    unsigned long long ticks = 0;
    const int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    const char *p = strrchr(text, ')'); /* the name before it may hold anything */
    for (int field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    return p && sscanf(p, "%llu", &ticks) == 1 ? ticks : 0;
}

bool ps_claims_alive_locked(struct ps_claims *t, uint32_t process)
{
    if (!t->processes[process].used)
        return false;
    return process == t->self ||
           locked_by_other(t->lock_fd, F_WRLCK, PS_CLAIM_LOCK_PROCESS + (off_t)process, 1);
}

static int check_namespaces_locked(struct ps_claims *t, uint64_t own, struct ps_err *err)
{
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++) {
        const struct ps_claim_process *q = &t->processes[p];
        if (q->pid_namespace != own && ps_claims_alive_locked(t, p))
            return ps_err_set(err, PS_EINUSE, ORIGIN,
                              "cache: in use by process %u of another PID namespace (container): "
                              "let both share one PID "
                              "namespace, or give each its own --cache",
                              q->pid);
    }
    return 0;
}

static int take_number_locked(struct ps_claims *t, uint32_t *number)
{
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++) {
        if (t->processes[p].used) /* also the dead's: their claims are collected first */
            continue;
        struct flock l = {.l_type = F_WRLCK,
                          .l_whence = SEEK_SET,
                          .l_start = PS_CLAIM_LOCK_PROCESS + (off_t)p,
                          .l_len = 1};
        if (fcntl(t->lock_fd, F_SETLK, &l) == 0) {
            *number = p;
            return 0;
        }
    }
    return PS_EBUDGET;
}

/* Upkeep joins without a limit of its own: it is not what governs. */
static void note_budget_locked(struct ps_claims *t)
{
    uint64_t budget, floor, growing;
    ps_claims_limits_locked(t, &budget, &floor, &growing);
    if (budget != UINT64_MAX)
        t->head->budget_bytes = budget;
}

int ps_claims_join(struct ps_claims *t, uint64_t budget_bytes, uint64_t min_free_bytes,
                   struct ps_err *err)
{
    const uint64_t ns = own_pid_namespace(), ticks = own_start_ticks();
    uint32_t self = 0;
    ps_claims_lock(t);
    int rc = check_namespaces_locked(t, ns, err);
    if (rc == 0 && take_number_locked(t, &self) != 0)
        rc = ps_err_set(err, PS_EBUDGET, ORIGIN,
                        "cache: %d processes use this folder already: give some another --cache",
                        PS_CACHE_PROCESSES);
    if (rc == 0) {
        struct ps_claim_process *p = &t->processes[self];
        memset(p, 0, sizeof *p);
        p->pid_namespace = ns;
        p->start_ticks = ticks;
        p->pid = (uint32_t)getpid();
        p->budget_bytes = budget_bytes;
        p->min_free_bytes = min_free_bytes;
        p->used = 1;
        t->self = self;
        ps_claims_beat(t);
        note_budget_locked(t);
    }
    ps_claims_unlock(t);
    return rc;
}

void ps_claims_leave(struct ps_claims *t)
{
    if (t->self == PS_CLAIM_NONE)
        return;
    ps_claims_lock(t);
    note_budget_locked(t); /* it may have shrunk since */
    t->processes[t->self].used = 0;
    note_budget_locked(t);
    ps_claims_unlock(t);
    struct flock l = {.l_type = F_UNLCK,
                      .l_whence = SEEK_SET,
                      .l_start = PS_CLAIM_LOCK_PROCESS + (off_t)t->self,
                      .l_len = 1};
    (void)fcntl(t->lock_fd, F_SETLK, &l);
    t->self = PS_CLAIM_NONE;
}

uint32_t ps_claims_self(const struct ps_claims *t)
{
    return t->self;
}

struct ps_claim_process *ps_claims_process_locked(struct ps_claims *t, uint32_t process)
{
    return &t->processes[process];
}

uint32_t ps_claims_count(const struct ps_claims *t)
{
    return t->n_claims;
}

const struct ps_claim *ps_claims_get_locked(struct ps_claims *t, uint32_t claim)
{
    return &t->claims[claim];
}

/* Others no longer wait for this claim. Its slot stays its own. */
static void drop_key_locked(struct ps_claims *t, uint32_t claim)
{
    struct ps_claim *c = &t->claims[claim];
    if (!c->has_key)
        return;
    unlink_from(t, &t->by_key[key_bucket(t, c->key)], claim, true);
    c->has_key = 0;
}

void ps_claims_beat(struct ps_claims *t)
{
    if (t->self != PS_CLAIM_NONE)
        atomic_store_explicit(&t->processes[t->self].beat_ns, ps_now_ns(), memory_order_relaxed);
}

uint32_t ps_claims_changes(const struct ps_claims *t)
{
    return atomic_load(&t->head->changes);
}

void ps_claims_announce(struct ps_claims *t)
{
    atomic_fetch_add(&t->head->changes, 1);
    (void)syscall(SYS_futex, &t->head->changes, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void ps_claims_wait(struct ps_claims *t, uint32_t seen, uint64_t ns)
{
    const struct timespec most = {.tv_sec = (time_t)(ns / PS_NS_PER_S),
                                  .tv_nsec = (long)(ns % PS_NS_PER_S)};
    (void)syscall(SYS_futex, &t->head->changes, FUTEX_WAIT, seen, &most, NULL, 0);
}

/* Not stopped. */
static bool at_work(struct ps_claims *t, const struct ps_claim *c, uint64_t now_ns)
{
    const uint64_t beat =
        atomic_load_explicit(&t->processes[c->process].beat_ns, memory_order_relaxed);
    return c->process == t->self || now_ns < beat + PS_CLAIM_STOPPED_NS;
}

uint32_t ps_claims_find_key_locked(struct ps_claims *t, const uint8_t key[PS_SHA256_BYTES],
                                   uint64_t now_ns)
{
    uint32_t at = t->by_key[key_bucket(t, key)];
    while (at != PS_CLAIM_NONE) {
        const struct ps_claim *c = &t->claims[at];
        const uint32_t next = c->next_key;
        if (memcmp(c->key, key, PS_SHA256_BYTES) == 0) {
            if (now_ns < c->deadline_ns && at_work(t, c, now_ns) &&
                ps_claims_alive_locked(t, c->process))
                return at;
            drop_key_locked(t, at);
        }
        at = next;
    }
    return PS_CLAIM_NONE;
}

bool ps_claims_slot_busy_locked(struct ps_claims *t, int cls, uint32_t slot)
{
    uint32_t at = t->by_slot[slot_bucket(t, cls, slot)];
    for (; at != PS_CLAIM_NONE; at = t->claims[at].next_slot)
        if (t->claims[at].slot == slot && t->claims[at].cls == cls)
            return true;
    return false;
}

uint32_t ps_claims_add_locked(struct ps_claims *t, enum ps_claim_state state, const uint8_t *key,
                              int cls, uint32_t slot, uint32_t bytes, uint64_t deadline_ns)
{
    const uint32_t i = t->head->free_head;
    if (i == PS_CLAIM_NONE)
        return PS_CLAIM_NONE;
    struct ps_claim *c = &t->claims[i];
    t->head->free_head = c->next_slot;
    c->has_key = key != NULL;
    if (key)
        memcpy(c->key, key, PS_SHA256_BYTES);
    c->deadline_ns = deadline_ns;
    c->slot = slot;
    c->bytes = bytes;
    c->cls = (uint8_t)cls;
    c->process = (uint8_t)t->self;
    atomic_signal_fence(memory_order_seq_cst); /* death in the middle: either no claim or a whole one */
    c->state = (uint8_t)state;
    link_claim(t, i);
    count_claim(t, c, 1);
    return i;
}

void ps_claims_set_state_locked(struct ps_claims *t, uint32_t claim, enum ps_claim_state state)
{
    struct ps_claim *c = &t->claims[claim];
    count_claim(t, c, (uint64_t)-1);
    c->state = (uint8_t)state;
    count_claim(t, c, 1);
}

void ps_claims_remove_locked(struct ps_claims *t, uint32_t claim)
{
    struct ps_claim *c = &t->claims[claim];
    PS_ASSERT(c->state != PS_CLAIM_FREE);
    drop_key_locked(t, claim);
    unlink_from(t, &t->by_slot[slot_bucket(t, c->cls, c->slot)], claim, false);
    count_claim(t, c, (uint64_t)-1);
    t->head->in_class[c->cls]--;
    c->state = PS_CLAIM_FREE;
    c->next_slot = t->head->free_head;
    t->head->free_head = claim;
}

void ps_claims_sum_locked(struct ps_claims *t, const uint64_t committed[PS_CACHE_PROCESSES],
                          uint64_t *bytes, uint64_t *count)
{
    *bytes = *count = 0;
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++) {
        const struct ps_claim_process *q = &t->processes[p];
        if (!q->used)
            continue;
        /* A committed batch has moved its new extents into the index's sums and its evicted ones out of them. */
        const bool done = q->batch != 0 && committed[p] >= q->batch;
        *bytes += q->filling_bytes + (done ? q->evicting_bytes : q->publishing_bytes);
        *count += q->n_filling + (done ? 0 : q->n_publishing);
    }
}

void ps_claims_limits_locked(struct ps_claims *t, uint64_t *budget_bytes, uint64_t *min_free_bytes,
                             uint64_t *index_growing_bytes)
{
    *budget_bytes = UINT64_MAX;
    *min_free_bytes = *index_growing_bytes = 0;
    for (uint32_t p = 0; p < PS_CACHE_PROCESSES; p++) {
        const struct ps_claim_process *q = &t->processes[p];
        if (!q->used)
            continue;
        if (q->budget_bytes < *budget_bytes)
            *budget_bytes = q->budget_bytes;
        if (q->min_free_bytes > *min_free_bytes)
            *min_free_bytes = q->min_free_bytes;
        *index_growing_bytes += q->index_growing_bytes;
    }
}

uint32_t *ps_claims_hint_locked(struct ps_claims *t, int cls)
{
    return &t->head->hint[cls];
}

uint32_t *ps_claims_fresh_locked(struct ps_claims *t, int cls)
{
    return &t->head->fresh[cls];
}

uint32_t ps_claims_in_class_locked(struct ps_claims *t, int cls)
{
    return t->head->in_class[cls];
}

void ps_claims_set_damaged(struct ps_claims *t)
{
    atomic_store(&t->head->damaged, 1);
}

bool ps_claims_damaged(const struct ps_claims *t)
{
    return atomic_load(&t->head->damaged) != 0;
}
