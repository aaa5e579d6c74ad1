/* The fake device: queues, memory, the order of calls. In: calls of a runtime under test; out: the same calls run
 * late on two threads, or the text of what the runtime did wrong. What a call computes: fake_device_run.c.
 *
 * Order. Each stream numbers its commands. A stream knows up to which number the other one was done when it got
 * here (from wait_mark), the host knows it of both (from await, reached, sync); what either knows is ordered.
 * `records` holds what the commands touched that the other stream does not know of yet. With two streams that is
 * all of a vector clock.
 *
 * One lock, one condition: nothing here is about speed. */
#include "tests/support/fake_device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/size.h"
#include "proto/quant.h"
#include "tests/support/fake_device_internal.h"

#define RING        1024
#define MAX_TOUCHES 48
#define MAX_RECORDS 65536

const char *const fake_op_names[FAKE_N_OPS] = {"copy_in", "copy_out",  "copy_within", "fill",
                                               "mark",    "wait_mark", "decode",      "act_pack",
                                               "matmul",  "kv_store",  "attention",   "rmsnorm",
                                               "swiglu",  "rope",      "add_bias",    "to_f32"};
static const char *const stream_names[2] = {"copy", "compute"};

struct config {
    uint64_t vram, host, copy_rate, op_us, lost, codecs;
    uint64_t fail_alloc, fail_shared, fail_pin, fail_open;
    uint64_t fail_call[FAKE_N_OPS], fail_late[FAKE_N_OPS]; /* 0: never, else which call of it */
};

struct area {
    struct area *next;
    uint8_t *p;
    uint64_t bytes;
    bool shared;
};

struct touch {
    const uint8_t *p;
    uint64_t bytes;
    bool writes;
};

struct record {
    struct touch t;
    uint64_t seq;
    enum fake_op op;
};

struct mark {
    bool set;
    enum ps_stream s;
    uint64_t seq,
        of_other; /* reached when its stream has done seq; the other had then done of_other */
    double ms, model_ms;
};

struct stream {
    struct ps_device *d;
    pthread_t thread;
    struct fake_command *ring; /* [RING], by seq */
    uint64_t queued, done;     /* seq of the last command of each kind */
    uint64_t of_other;         /* the other stream's seq that this one has waited for */
    struct record *records;    /* [MAX_RECORDS] */
    size_t n_records;
    bool busy;
    double model_ms; /* when what is queued would be done */
};

struct ps_device {
    struct config cfg;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t changed;
    bool closing;
    struct stream s[2];
    uint64_t host_knows[2];
    double host_model_ms;
    struct mark *marks;
    uint32_t n_marks;
    struct area *areas, *pins;
    uint64_t calls[FAKE_N_OPS], n_allocs, n_shared, n_pins, executed;
    int failed;
    char failed_text[PS_ERR_TEXT_MAX / 2];
    struct fake_device_trace trace;
    uint64_t waiting;       /* operations queued and not done */
    uint64_t busy_since_ns; /* of the present combination of busy streams */
};

static char configured[512];
static bool is_configured;

/* ---- errors ---- */

__attribute__((format(printf, 3, 4))) static int fail_locked(struct ps_device *d, int code,
                                                             const char *fmt, ...)
{
    if (d->failed)
        return d->failed;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d->failed_text, sizeof d->failed_text, fmt, ap);
    va_end(ap);
    d->failed = code;
    pthread_cond_broadcast(&d->changed);
    return code;
}

static int status_locked(struct ps_device *d, struct ps_err *err)
{
    return d->failed ? ps_err_set(err, d->failed, "device", "fake device: %s", d->failed_text) : 0;
}

static int unlock(struct ps_device *d, int rc)
{
    pthread_mutex_unlock(&d->lock);
    return rc;
}

/* ---- configuration ---- */

static bool op_by_name(enum fake_op *out, const char *name, size_t len)
{
    for (int i = 0; i < FAKE_N_OPS; i++)
        if (strlen(fake_op_names[i]) == len && memcmp(fake_op_names[i], name, len) == 0) {
            *out = (enum fake_op)i;
            return true;
        }
    return false;
}

/* "matmul:3" */
static bool set_nth(uint64_t *of_op, const char *value)
{
    const char *colon = strchr(value, ':');
    enum fake_op op;
    if (!colon || !op_by_name(&op, value, (size_t)(colon - value)))
        return false;
    of_op[op] = strtoull(colon + 1, NULL, 10);
    return of_op[op] > 0;
}

static bool set_size(uint64_t *out, const char *value)
{
    struct ps_size size;
    if (ps_size_parse(&size, value, "fake device", NULL) != 0 || size.kind != PS_SIZE_BYTES)
        return false;
    *out = size.bytes;
    return true;
}

static bool set_count(uint64_t *out, const char *value)
{
    char *end;
    *out = strtoull(value, &end, 10);
    return end != value && !*end;
}

static bool set_word(struct config *c, const char *key, const char *value)
{
    const struct {
        const char *key;
        uint64_t *at;
        bool (*set)(uint64_t *out, const char *value);
    } words[] = {{"vram", &c->vram, set_size},         {"host", &c->host, set_size},
                 {"copy", &c->copy_rate, set_size},    {"op", &c->op_us, set_count},
                 {"lost", &c->lost, set_count},        {"codecs", &c->codecs, set_count},
                 {"alloc", &c->fail_alloc, set_count}, {"shared", &c->fail_shared, set_count},
                 {"pin", &c->fail_pin, set_count},     {"open", &c->fail_open, set_count},
                 {"fail", c->fail_call, set_nth},      {"late", c->fail_late, set_nth}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(words[i].key, key) == 0)
            return words[i].set(words[i].at, value);
    return false;
}

static int read_config(struct config *c, struct ps_err *err)
{
    const char *env = getenv("PENSTOCK_FAKE_DEVICE");
    char text[sizeof configured], *rest = NULL;
    snprintf(text, sizeof text, "%s", is_configured ? configured : env ? env : "");
    *c = (struct config){.vram = 1u << 30, .codecs = fake_codecs()};
    for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        char *value = strchr(word, '=');
        if (value)
            *value++ = '\0';
        if (!value || !set_word(c, word, value))
            return ps_err_set(err, PS_EUSAGE, "device",
                              "fake device: can't read '%s%s%s' of its configuration", word,
                              value ? "=" : "", value ? value : "");
    }
    return 0;
}

void fake_device_configure(const char *config)
{
    is_configured = config != NULL;
    snprintf(configured, sizeof configured, "%s", config ? config : "");
}

/* ---- what calls touch ---- */

static struct touch reads(const void *p, uint64_t bytes)
{
    return (struct touch){p, bytes, false};
}

static struct touch writes(const void *p, uint64_t bytes)
{
    return (struct touch){p, bytes, true};
}

/* Rows of floats. */
static uint64_t span(size_t rows, size_t ld, size_t width)
{
    return ((rows - 1) * ld + width) * sizeof(float);
}

static bool overlap(const struct touch *a, const struct touch *b)
{
    return a->p < b->p + b->bytes && b->p < a->p + a->bytes;
}

static const struct area *area_around(const struct area *list, const void *p, uint64_t bytes)
{
    const uint8_t *b = p;
    for (const struct area *a = list; a; a = a->next)
        if (b >= a->p && bytes <= a->bytes && (uint64_t)(b - a->p) <= a->bytes - bytes)
            return a;
    return NULL;
}

static void forget_records(struct ps_device *d, enum ps_stream s)
{
    struct stream *st = &d->s[s];
    uint64_t known = d->s[!s].of_other > d->host_knows[s] ? d->s[!s].of_other : d->host_knows[s];
    size_t kept = 0;
    for (size_t i = 0; i < st->n_records; i++)
        if (st->records[i].seq > known)
            st->records[kept++] = st->records[i];
    st->n_records = kept;
}

static int check_touch(struct ps_device *d, enum ps_stream s, enum fake_op op, const struct touch *t)
{
    uint64_t known = d->s[s].of_other > d->host_knows[!s] ? d->s[s].of_other : d->host_knows[!s];
    if (!area_around(d->areas, t->p, t->bytes))
        return fail_locked(
            d, PS_EFAIL, "%s %s %llu bytes at %p, which is not inside one allocation of the device",
            fake_op_names[op], t->writes ? "writes" : "reads", (unsigned long long)t->bytes,
            (const void *)t->p);
    for (size_t i = 0; i < d->s[!s].n_records; i++) {
        const struct record *r = &d->s[!s].records[i];
        if (r->seq <= known || (!t->writes && !r->t.writes) || !overlap(t, &r->t))
            continue;
        d->trace.races++;
        return fail_locked(d, PS_EFAIL,
                           "race: %s on the %s stream %s memory that %s (call %llu of the %s "
                           "stream) %s, and no mark "
                           "orders the two",
                           fake_op_names[op], stream_names[s], t->writes ? "writes" : "reads",
                           fake_op_names[r->op], (unsigned long long)r->seq, stream_names[!s],
                           r->t.writes ? "writes" : "reads");
    }
    return 0;
}

static void add_records(struct ps_device *d, enum ps_stream s, const struct fake_command *c,
                        const struct touch *t, size_t n)
{
    struct stream *st = &d->s[s];
    if (st->n_records + n > MAX_RECORDS)
        forget_records(d, s);
    PS_ASSERT(st->n_records + n <= MAX_RECORDS); /* more than any test queues without waiting */
    for (size_t i = 0; i < n; i++)
        st->records[st->n_records++] = (struct record){t[i], c->seq, c->op};
}

/* ---- queues ---- */

/* Counts a call and fails it if that was asked for. */
static int begin_call(struct ps_device *d, enum fake_op op, struct fake_command *c)
{
    *c = (struct fake_command){.op = op};
    pthread_mutex_lock(&d->lock);
    uint64_t nth = ++d->calls[op];
    if (op > FAKE_WAIT_MARK)
        d->trace.calls++;
    if (!d->failed && nth == d->cfg.fail_call[op])
        fail_locked(d, PS_EFAIL, "%s: failed as it was called (as configured)", fake_op_names[op]);
    c->fails = nth == d->cfg.fail_late[op];
    return unlock(d, d->failed);
}

static bool is_copy(enum fake_op op)
{
    return op == FAKE_COPY_IN || op == FAKE_COPY_OUT || op == FAKE_COPY_WITHIN;
}

static uint64_t duration_ns(const struct config *cfg, const struct fake_command *c)
{
    if (is_copy(c->op))
        return cfg->copy_rate ? (uint64_t)((double)c->u.copy.bytes * 1e9 / (double)cfg->copy_rate)
                              : 0;
    return c->op > FAKE_WAIT_MARK ? cfg->op_us * 1000 : 0;
}

static void later(double *at, double ms)
{
    *at = *at > ms ? *at : ms;
}

static void model_locked(struct ps_device *d, enum ps_stream s, const struct fake_command *c)
{
    double ms = (double)duration_ns(&d->cfg, c) * 1e-6;
    later(&d->s[s].model_ms, d->host_model_ms);
    d->s[s].model_ms += ms;
    *(s == PS_STREAM_COPY ? &d->trace.model_copy_ms : &d->trace.model_compute_ms) += ms;
    later(&d->trace.model_run_ms, d->s[s].model_ms);
}

static int queue_locked(struct ps_device *d, enum ps_stream s, struct fake_command *c,
                        const struct touch *t, size_t n)
{
    struct stream *st = &d->s[s];
    for (size_t i = 0; i < n && !d->failed; i++)
        check_touch(d, s, c->op, &t[i]);
    while (!d->failed && st->queued - st->done >= RING)
        pthread_cond_wait(&d->changed, &d->lock);
    if (d->failed)
        return d->failed;
    c->seq = ++st->queued;
    st->ring[c->seq % RING] = *c;
    add_records(d, s, c, t, n);
    model_locked(d, s, c);
    d->waiting += c->op > FAKE_WAIT_MARK;
    if (d->waiting > d->trace.most_waiting)
        d->trace.most_waiting = d->waiting;
    pthread_cond_broadcast(&d->changed);
    return 0;
}

static int queue(struct ps_device *d, enum ps_stream s, struct fake_command *c,
                 const struct touch *t, size_t n)
{
    pthread_mutex_lock(&d->lock);
    return unlock(d, queue_locked(d, s, c, t, n));
}

static void pause_ns(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / PS_NS_PER_S), .tv_nsec = (long)(ns % PS_NS_PER_S)};
    while (ns && nanosleep(&t, &t) != 0)
        ;
}

static uint64_t sum_bytes(const void *p, uint64_t n)
{
    const uint8_t *b = p;
    uint64_t sum = 0xcbf29ce484222325u, word;
    for (; n >= 8; n -= 8, b += 8) {
        memcpy(&word, b, 8);
        sum = (sum ^ word) * 0x100000001b3u;
    }
    for (; n; n--)
        sum = (sum ^ *b++) * 0x100000001b3u;
    return sum;
}

/* On the thread of the stream, without the lock. Returns what went wrong, or NULL. */
static const char *execute(const struct config *cfg, const struct fake_command *c, int *code)
{
    *code = c->op == FAKE_DECODE ? PS_EDATA : PS_EFAIL;
    if (c->op == FAKE_COPY_IN || c->op == FAKE_COPY_WITHIN)
        memset(c->u.copy.to, 0xff, c->u.copy.bytes);
    pause_ns(duration_ns(cfg, c));
    if (c->fails)
        return "failed as it ran (as configured)";
    if (fake_run(c) != 0)
        return "a block does not decode";
    if (is_copy(c->op) && c->u.copy.summed &&
        sum_bytes(c->u.copy.to, c->u.copy.bytes) != c->u.copy.sum)
        return "its source was written over before the copy was done";
    return NULL;
}

static void set_busy(struct ps_device *d, struct stream *st, bool busy)
{
    uint64_t now = ps_now_ns();
    double ms = (double)(now - d->busy_since_ns) * 1e-6;
    d->trace.copy_busy_ms += d->s[0].busy ? ms : 0;
    d->trace.compute_busy_ms += d->s[1].busy ? ms : 0;
    d->trace.both_busy_ms += d->s[0].busy && d->s[1].busy ? ms : 0;
    d->busy_since_ns = now;
    st->busy = busy;
}

static void run_next_locked(struct ps_device *d, struct stream *st)
{
    struct fake_command *c = &st->ring[(st->done + 1) % RING];
    struct stream *other = &d->s[st == &d->s[0]];
    if (c->op == FAKE_WAIT_MARK) {
        while (!d->failed && other->done < c->u.mark.of_other)
            pthread_cond_wait(&d->changed, &d->lock);
    } else if (c->op == FAKE_MARK) {
        d->marks[c->u.mark.mark].ms = (double)ps_now_ns() * 1e-6;
    } else if (!d->failed) {
        int code = 0;
        set_busy(d, st, true);
        pthread_mutex_unlock(&d->lock);
        const char *wrong = execute(&d->cfg, c, &code);
        pthread_mutex_lock(&d->lock);
        set_busy(d, st, false);
        if (wrong)
            fail_locked(d, code, "%s: %s", fake_op_names[c->op], wrong);
    }
    if (is_copy(c->op))
        ps_free(c->u.copy.staged);
    st->done++;
    d->waiting -= c->op > FAKE_WAIT_MARK;
    if (++d->executed == d->cfg.lost)
        fail_locked(d, PS_EFAIL, "the device was lost (as configured)");
    pthread_cond_broadcast(&d->changed);
}

static void *stream_main(void *user)
{
    struct stream *st = user;
    struct ps_device *d = st->d;
    pthread_mutex_lock(&d->lock);
    while (!d->closing || st->done < st->queued) {
        if (st->done < st->queued)
            run_next_locked(d, st);
        else
            pthread_cond_wait(&d->changed, &d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* The host waits until a stream has done `seq`. */
static void wait_locked(struct ps_device *d, enum ps_stream s, uint64_t seq)
{
    while (!d->failed && d->s[s].done < seq)
        pthread_cond_wait(&d->changed, &d->lock);
    if (!d->failed && d->host_knows[s] < seq)
        d->host_knows[s] = seq;
}

/* A device that has failed may still be in the middle of a call: until it is not, what the call touches must stay. */
static void quiet_locked(struct ps_device *d)
{
    while (d->failed && (d->s[0].busy || d->s[1].busy))
        pthread_cond_wait(&d->changed, &d->lock);
}

static void sync_locked(struct ps_device *d)
{
    for (int s = 0; s < 2; s++)
        wait_locked(d, (enum ps_stream)s, d->s[s].queued);
    later(&d->host_model_ms, d->trace.model_run_ms);
}

/* ---- memory ---- */

static int new_area(struct ps_device *d, void **out, uint64_t bytes, bool shared, struct ps_err *err)
{
    PS_ASSERT(bytes > 0);
    pthread_mutex_lock(&d->lock);
    bool told = shared ? ++d->n_shared == d->cfg.fail_shared : ++d->n_allocs == d->cfg.fail_alloc;
    if (told || (!shared && bytes > d->cfg.vram - d->trace.live_bytes))
        return unlock(d, ps_err_set(err, PS_EBUDGET, "device",
                                    "fake device: no room for %llu bytes (%llu in use)",
                                    (unsigned long long)bytes,
                                    (unsigned long long)d->trace.live_bytes));
    struct area *a = ps_malloc(sizeof *a);
    uint8_t *p = ps_alloc_pages(bytes, 4096);
    if (!a || !p) {
        ps_free(a);
        ps_free_pages(p, bytes);
        return unlock(d, ps_err_set(err, PS_ENOMEM, "device", "no memory for a fake device"));
    }
    memset(p, 0xff, bytes);
    *a = (struct area){d->areas, p, bytes, shared};
    d->areas = a;
    *(shared ? &d->trace.shared_bytes : &d->trace.live_bytes) += bytes;
    d->trace.peak_bytes =
        d->trace.live_bytes > d->trace.peak_bytes ? d->trace.live_bytes : d->trace.peak_bytes;
    d->trace.live_allocs++;
    d->trace.n_allocs++;
    *out = p;
    return unlock(d, 0);
}

static void drop_area(struct ps_device *d, struct area **at)
{
    struct area *a = *at;
    *at = a->next;
    *(a->shared ? &d->trace.shared_bytes : &d->trace.live_bytes) -= a->bytes;
    d->trace.live_allocs--;
    ps_free_pages(a->p, a->bytes);
    ps_free(a);
}

static void free_area(struct ps_device *d, void *p, bool shared)
{
    if (!p)
        return;
    pthread_mutex_lock(&d->lock);
    sync_locked(d);
    quiet_locked(d);
    struct area **at = &d->areas;
    while (*at && (*at)->p != p)
        at = &(*at)->next;
    PS_ASSERT(*at && (*at)->shared == shared); /* not from alloc, or freed twice */
    drop_area(d, at);
    pthread_mutex_unlock(&d->lock);
}

static int dev_alloc(struct ps_device *d, void **out, uint64_t bytes, struct ps_err *err)
{
    return new_area(d, out, bytes, false, err);
}

static void dev_free(struct ps_device *d, void *p)
{
    free_area(d, p, false);
}

static int dev_alloc_shared(struct ps_device *d, void **out, uint64_t bytes, struct ps_err *err)
{
    return new_area(d, out, bytes, true, err);
}

static void dev_free_shared(struct ps_device *d, void *p)
{
    free_area(d, p, true);
}

static int dev_pin(struct ps_device *d, void *host, uint64_t bytes, struct ps_err *err)
{
    PS_ASSERT(bytes > 0 && (uintptr_t)host % 4096 == 0 && bytes % 4096 == 0);
    struct touch t = reads(host, bytes);
    pthread_mutex_lock(&d->lock);
    if (++d->n_pins == d->cfg.fail_pin)
        return unlock(d, ps_err_set(err, PS_EBUDGET, "device",
                                    "fake device: can't page-lock (as configured)"));
    for (const struct area *a = d->pins; a; a = a->next) {
        struct touch old = reads(a->p, a->bytes);
        PS_ASSERT(!overlap(&t, &old)); /* CUDA refuses to pin a page twice */
    }
    struct area *a = ps_malloc(sizeof *a);
    if (!a)
        return unlock(d, ps_err_set(err, PS_ENOMEM, "device", "no memory for a fake device"));
    *a = (struct area){d->pins, host, bytes, false};
    d->pins = a;
    d->trace.n_pins++;
    d->trace.pinned_bytes += bytes;
    return unlock(d, 0);
}

/* No copy that is still to be done may come from memory that loses its lock. */
static void check_unpin(struct ps_device *d, const struct area *a)
{
    struct touch pin = reads(a->p, a->bytes);
    for (int s = 0; s < 2; s++)
        for (uint64_t seq = d->s[s].done + 1; seq <= d->s[s].queued; seq++) {
            const struct fake_command *c = &d->s[s].ring[seq % RING];
            struct touch t = reads(c->op == FAKE_COPY_IN ? c->u.copy.from : c->u.copy.to, c->bytes);
            if ((c->op == FAKE_COPY_IN || c->op == FAKE_COPY_OUT) && !c->u.copy.staged &&
                overlap(&t, &pin))
                fail_locked(d, PS_EFAIL, "unpin: a copy of this memory is still to be done");
        }
}

static void dev_unpin(struct ps_device *d, void *host)
{
    pthread_mutex_lock(&d->lock);
    struct area **at = &d->pins;
    while (*at && (*at)->p != host)
        at = &(*at)->next;
    struct area *a = *at;
    PS_ASSERT(a); /* not pinned, or not its beginning */
    if (!d->failed)
        check_unpin(d, a);
    quiet_locked(d);
    *at = a->next;
    d->trace.pinned_bytes -= a->bytes;
    ps_free(a);
    pthread_mutex_unlock(&d->lock);
}

/* ---- copies ---- */

/* Counts the copy and says whether its side on the host is pinned. */
static bool note_copy(struct ps_device *d, const void *host, uint64_t bytes, bool in)
{
    pthread_mutex_lock(&d->lock);
    bool pinned = area_around(d->pins, host, bytes) || area_around(d->areas, host, bytes);
    d->trace.pageable_copies += !pinned;
    *(in ? &d->trace.copies_in : &d->trace.copies_out) += 1;
    *(in ? &d->trace.copy_in_bytes : &d->trace.copy_out_bytes) += bytes;
    pthread_mutex_unlock(&d->lock);
    return pinned;
}

static int dev_copy_in(struct ps_device *d, enum ps_stream s, void *to, const void *host,
                       uint64_t bytes)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_COPY_IN, &c);
    if (rc || bytes == 0)
        return rc;
    c.u.copy = (__typeof__(c.u.copy)){.to = to, .from = host, .bytes = bytes};
    c.bytes = bytes;
    if (note_copy(d, host, bytes, true)) {
        c.u.copy.summed = true;
        c.u.copy.sum = sum_bytes(host, bytes);
    } else {
        c.u.copy.staged = ps_malloc(bytes);
        if (!c.u.copy.staged)
            return PS_ENOMEM;
        memcpy(c.u.copy.staged, host, bytes);
    }
    struct touch t = writes(to, bytes);
    rc = queue(d, s, &c, &t, 1);
    if (rc)
        ps_free(c.u.copy.staged);
    return rc;
}

static int dev_copy_out(struct ps_device *d, enum ps_stream s, void *host, const void *from,
                        uint64_t bytes)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_COPY_OUT, &c);
    if (rc || bytes == 0)
        return rc;
    c.u.copy = (__typeof__(c.u.copy)){.to = host, .from = from, .bytes = bytes};
    c.bytes = bytes;
    bool pinned = note_copy(d, host, bytes, false);
    memset(host, 0xff, bytes); /* whoever reads before the await sees NaNs */
    struct touch t = reads(from, bytes);
    pthread_mutex_lock(&d->lock);
    rc = queue_locked(d, s, &c, &t, 1);
    if (rc == 0 && !pinned) {
        wait_locked(d, s, c.seq);
        later(&d->host_model_ms, d->s[s].model_ms);
        quiet_locked(d); /* `host` may be freed when this returns */
        rc = d->failed;
    }
    return unlock(d, rc);
}

static int dev_copy_within(struct ps_device *d, enum ps_stream s, void *to, const void *from,
                           uint64_t bytes)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_COPY_WITHIN, &c);
    if (rc || bytes == 0)
        return rc;
    c.u.copy = (__typeof__(c.u.copy)){.to = to, .from = from, .bytes = bytes};
    struct touch t[] = {writes(to, bytes), reads(from, bytes)};
    PS_ASSERT(!overlap(&t[0], &t[1]));
    return queue(d, s, &c, t, 2);
}

static int dev_fill(struct ps_device *d, enum ps_stream s, void *to, uint8_t byte, uint64_t bytes)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_FILL, &c);
    if (rc || bytes == 0)
        return rc;
    c.u.copy = (__typeof__(c.u.copy)){.to = to, .byte = byte, .bytes = bytes};
    struct touch t = writes(to, bytes);
    return queue(d, s, &c, &t, 1);
}

/* ---- marks ---- */

static int dev_mark(struct ps_device *d, enum ps_stream s, uint32_t mark)
{
    struct fake_command c;
    PS_ASSERT(mark < d->n_marks);
    int rc = begin_call(d, FAKE_MARK, &c);
    if (rc)
        return rc;
    c.u.mark.mark = mark;
    pthread_mutex_lock(&d->lock);
    rc = queue_locked(d, s, &c, NULL, 0);
    if (rc == 0)
        d->marks[mark] = (struct mark){true, s, c.seq, d->s[s].of_other, 0, d->s[s].model_ms};
    return unlock(d, rc);
}

static int dev_wait_mark(struct ps_device *d, enum ps_stream s, uint32_t mark)
{
    struct fake_command c;
    PS_ASSERT(mark < d->n_marks);
    int rc = begin_call(d, FAKE_WAIT_MARK, &c);
    if (rc)
        return rc;
    pthread_mutex_lock(&d->lock);
    const struct mark *m = &d->marks[mark];
    if (m->set && m->s != s) {
        c.u.mark.of_other = m->seq;
        rc = queue_locked(d, s, &c, NULL, 0);
        if (d->s[s].of_other < m->seq)
            d->s[s].of_other = m->seq;
        later(&d->s[s].model_ms, m->model_ms);
    }
    return unlock(d, rc);
}

static void await_locked(struct ps_device *d, const struct mark *m)
{
    if (!m->set)
        return;
    wait_locked(d, m->s, m->seq);
    if (!d->failed && d->host_knows[!m->s] < m->of_other)
        d->host_knows[!m->s] = m->of_other;
    later(&d->host_model_ms, m->model_ms);
}

static int dev_await(struct ps_device *d, uint32_t mark, struct ps_err *err)
{
    PS_ASSERT(mark < d->n_marks);
    pthread_mutex_lock(&d->lock);
    await_locked(d, &d->marks[mark]);
    return unlock(d, status_locked(d, err));
}

static int dev_reached(struct ps_device *d, uint32_t mark, struct ps_err *err)
{
    PS_ASSERT(mark < d->n_marks);
    pthread_mutex_lock(&d->lock);
    const struct mark *m = &d->marks[mark];
    int rc = status_locked(d, err);
    if (rc == 0 && (!m->set || d->s[m->s].done >= m->seq)) {
        await_locked(d, m);
        rc = 1;
    }
    return unlock(d, rc);
}

static int dev_elapsed_ms(struct ps_device *d, uint32_t from, uint32_t to, float *out)
{
    PS_ASSERT(from < d->n_marks && to < d->n_marks);
    pthread_mutex_lock(&d->lock);
    PS_ASSERT(d->marks[from].set && d->marks[to].set);
    *out = (float)(d->marks[to].ms - d->marks[from].ms);
    return unlock(d, d->failed);
}

static int dev_sync(struct ps_device *d, struct ps_err *err)
{
    pthread_mutex_lock(&d->lock);
    sync_locked(d);
    quiet_locked(d);
    return unlock(d, status_locked(d, err));
}

/* ---- operations ---- */

static int dev_decode(struct ps_device *d, const struct ps_device_blocks *b)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_DECODE, &c);
    PS_ASSERT(b->n_blocks && (uintptr_t)b->in % 16 == 0);
    const uint8_t *in = b->in;
    uint8_t *out = b->out;
    uint64_t left = b->raw_bytes;
    for (uint32_t i = 0; i < b->n_blocks && rc == 0; i += FAKE_BLOCKS) {
        uint32_t n = b->n_blocks - i < FAKE_BLOCKS ? b->n_blocks - i : FAKE_BLOCKS;
        uint64_t stored = 0, raw = left < n * b->block_bytes ? left : n * b->block_bytes;
        for (uint32_t k = 0; k < n; k++)
            stored += c.u.decode.in_bytes[k] = b->in_bytes[i + k];
        c.u.decode.b = *b;
        c.u.decode.b.in = in;
        c.u.decode.b.out = out;
        c.u.decode.b.n_blocks = n;
        c.u.decode.b.raw_bytes = raw;
        struct touch t[] = {reads(in, stored), writes(out, raw)};
        rc = queue(d, PS_STREAM_COMPUTE, &c, t, 2);
        in += stored;
        out += raw;
        left -= raw;
    }
    return rc;
}

static bool dev_multiplies(struct ps_device *d, enum ps_dtype weights)
{
    (void)d;
    return fake_multiplies(weights);
}

static size_t dev_act_bytes(struct ps_device *d, enum ps_dtype weights, size_t T, size_t K)
{
    (void)d;
    return fake_act_bytes(weights, T, K);
}

static int dev_act_pack(struct ps_device *d, const struct ps_act *act)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_ACT_PACK, &c);
    if (rc)
        return rc;
    PS_ASSERT((uintptr_t)act->packed % 256 == 0 && act->T && act->K && act->lda >= act->K);
    c.u.mm.act = *act;
    struct touch t[] = {reads(act->a, span(act->T, act->lda, act->K)),
                        writes(act->packed, fake_act_bytes(act->weights, act->T, act->K))};
    return queue(d, PS_STREAM_COMPUTE, &c, t, 2);
}

/* Scales that stand apart from the rows: which of them a panel reads. */
static struct touch reads_scales(const struct ps_matrix *p)
{
    bool bytes =
        p->type != PS_F8_E4M3; /* MXFP4: one byte each, 32 columns, a row of its own for each row */
    size_t rows = bytes ? 1 : p->scale_rows, cols = bytes ? 32 : p->scale_cols, each = bytes ? 1 : 4;
    size_t first = p->row0 / rows, last = (p->row0 + p->n_rows - 1) / rows;
    return reads((const uint8_t *)p->scales + first * p->scale_ld * each,
                 ((last - first) * p->scale_ld + (p->K + cols - 1) / cols) * each);
}

static size_t touches_of_panel(struct touch *t, const struct fake_command *c,
                               const struct ps_matrix *p)
{
    size_t n = 0, elem = ps_dtype_bytes(p->type);
    size_t last = elem ? p->K * elem : ps_quant_row_bytes(p->type, p->K);
    t[n++] = reads(p->data, (p->n_rows - 1) * p->row_stride + last);
    t[n++] = writes(c->u.mm.C + p->row0, span(c->u.mm.act.T, c->u.mm.ldc, p->n_rows));
    if (p->scales)
        t[n++] = reads_scales(p);
    return n;
}

static int dev_matmul(struct ps_device *d, const struct ps_act *act, const struct ps_matrix *panels,
                      size_t n, float *C, size_t ldc, bool accumulate)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_MATMUL, &c);
    c.u.mm.act = *act;
    c.u.mm.C = C;
    c.u.mm.ldc = ldc;
    c.u.mm.accumulate = accumulate;
    for (size_t i = 0; i < n && rc == 0; i += c.u.mm.n) {
        struct touch t[1 + 3 * FAKE_PANELS];
        size_t n_touches = 0;
        t[n_touches++] = reads(act->packed, fake_act_bytes(act->weights, act->T, act->K));
        c.u.mm.n = n - i < FAKE_PANELS ? n - i : FAKE_PANELS;
        for (size_t k = 0; k < c.u.mm.n; k++) {
            const struct ps_matrix *p = &panels[i + k];
            PS_ASSERT(p->type == act->weights && p->K == act->K && fake_multiplies(p->type) &&
                      p->n_rows);
            PS_ASSERT(p->row_stride == panels[0].row_stride && p->row0 + p->n_rows <= ldc);
            c.u.mm.panels[k] = *p;
            n_touches += touches_of_panel(t + n_touches, &c, p);
        }
        rc = queue(d, PS_STREAM_COMPUTE, &c, t, n_touches);
    }
    return rc;
}

static int dev_kv_store(struct ps_device *d, const struct ps_device_kv *kv, const uint32_t *pos,
                        size_t T, const float *k, const float *v)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_KV_STORE, &c);
    if (rc)
        return rc;
    c.u.kv = (__typeof__(c.u.kv)){*kv, pos, T, k, v};
    uint64_t bytes = T * kv->n_kv_heads * kv->head_dim * sizeof(float);
    struct touch t[] = {reads(pos, T * sizeof *pos), reads(k, bytes), reads(v, bytes),
                        reads(kv->k_pages, sizeof(void *)), reads(kv->v_pages, sizeof(void *))};
    return queue(d, PS_STREAM_COMPUTE, &c, t, 5);
}

static size_t dev_attn_bytes(struct ps_device *d, size_t T, uint32_t n_heads, uint32_t head_dim,
                             uint32_t max_pos)
{
    (void)d;
    return fake_attn_bytes(T, n_heads, head_dim, max_pos);
}

static int dev_attention(struct ps_device *d, const struct ps_attn *a, uint32_t max_pos)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_ATTENTION, &c);
    if (rc)
        return rc;
    c.u.attn.a = *a;
    c.u.attn.scratch_bytes = fake_attn_bytes(a->T, a->n_heads, a->head_dim, max_pos);
    size_t width = (size_t)a->n_heads * a->head_dim,
           table = (max_pos / PS_KV_PAGE + 1) * sizeof(void *);
    struct touch t[] = {reads(a->q, span(a->T, a->q_ld, width)),
                        writes(a->out, span(a->T, a->out_ld, width)),
                        reads(a->pos, a->T * sizeof *a->pos),
                        writes(a->scratch, c.u.attn.scratch_bytes),
                        reads(a->k_pages, table),
                        reads(a->v_pages, table)};
    return queue(d, PS_STREAM_COMPUTE, &c, t, 6);
}

static int dev_rmsnorm(struct ps_device *d, float *y, size_t ldy, const float *x, size_t ldx,
                       const float *w, float w_offset, size_t T, size_t K, float eps)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_RMSNORM, &c);
    if (rc)
        return rc;
    c.u.rows = (__typeof__(c.u.rows)){
        .y = y, .x = x, .w = w, .ldy = ldy, .ldx = ldx, .T = T, .K = K, .w_offset = w_offset, .eps = eps};
    struct touch t[] = {writes(y, span(T, ldy, K)), reads(x, span(T, ldx, K)),
                        reads(w, K * sizeof *w)};
    return queue(d, PS_STREAM_COMPUTE, &c, t, 3);
}

static int dev_swiglu(struct ps_device *d, float *y, size_t ldy, const float *g, size_t ldg,
                      const float *u, size_t ldu, size_t T, size_t K)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_SWIGLU, &c);
    if (rc)
        return rc;
    c.u.rows = (__typeof__(c.u.rows)){
        .y = y, .x = g, .w = u, .ldy = ldy, .ldx = ldg, .ldw = ldu, .T = T, .K = K};
    struct touch t[] = {writes(y, span(T, ldy, K)), reads(g, span(T, ldg, K)),
                        reads(u, span(T, ldu, K))};
    return queue(d, PS_STREAM_COMPUTE, &c, t, 3);
}

static int dev_rope(struct ps_device *d, float *x, size_t ld, size_t T, uint32_t n_heads,
                    uint32_t head_dim, uint32_t rot_dim, const float *cos, const float *sin,
                    bool interleaved)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_ROPE, &c);
    if (rc)
        return rc;
    c.u.rope = (__typeof__(c.u.rope)){x, ld, T, n_heads, head_dim, rot_dim, cos, sin, interleaved};
    uint64_t table = T * (rot_dim / 2) * sizeof(float);
    struct touch t[] = {writes(x, span(T, ld, (size_t)n_heads * head_dim)), reads(cos, table),
                        reads(sin, table)};
    return queue(d, PS_STREAM_COMPUTE, &c, t, 3);
}

static int dev_add_bias(struct ps_device *d, float *x, size_t ldx, const float *b, size_t T, size_t K)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_ADD_BIAS, &c);
    if (rc)
        return rc;
    c.u.rows = (__typeof__(c.u.rows)){.y = x, .w = b, .ldy = ldx, .T = T, .K = K};
    struct touch t[] = {writes(x, span(T, ldx, K)), reads(b, K * sizeof *b)};
    return queue(d, PS_STREAM_COMPUTE, &c, t, 2);
}

static int dev_to_f32(struct ps_device *d, float *out, const void *in, enum ps_dtype type, size_t n)
{
    struct fake_command c;
    int rc = begin_call(d, FAKE_TO_F32, &c);
    if (rc)
        return rc;
    c.u.f32 = (__typeof__(c.u.f32)){out, in, type, n};
    struct touch t[] = {writes(out, n * sizeof *out), reads(in, n * ps_dtype_bytes(type))};
    return queue(d, PS_STREAM_COMPUTE, &c, t, 2);
}

/* ---- the device ---- */

static void write_trace(struct ps_device *d)
{
    const char *path = getenv("PENSTOCK_FAKE_TRACE");
    FILE *f = path && *path ? fopen(path, "we") : NULL;
    const struct fake_device_trace *t = &d->trace;
    if (!f)
        return;
    fprintf(f, "{\"peak_bytes\": %llu, \"live_bytes\": %llu, \"live_allocs\": %llu, \"n_allocs\": %llu,\n",
            (unsigned long long)t->peak_bytes, (unsigned long long)t->live_bytes,
            (unsigned long long)t->live_allocs, (unsigned long long)t->n_allocs);
    fprintf(f, " \"shared_bytes\": %llu, \"pinned_bytes\": %llu, \"n_pins\": %llu,\n",
            (unsigned long long)t->shared_bytes, (unsigned long long)t->pinned_bytes,
            (unsigned long long)t->n_pins);
    fprintf(f, " \"copies_in\": %llu, \"copy_in_bytes\": %llu, \"copies_out\": %llu, \"copy_out_bytes\": %llu,\n",
            (unsigned long long)t->copies_in, (unsigned long long)t->copy_in_bytes,
            (unsigned long long)t->copies_out, (unsigned long long)t->copy_out_bytes);
    fprintf(f, " \"pageable_copies\": %llu, \"calls\": %llu, \"most_waiting\": %llu, \"races\": %llu,\n",
            (unsigned long long)t->pageable_copies, (unsigned long long)t->calls,
            (unsigned long long)t->most_waiting, (unsigned long long)t->races);
    fprintf(f, " \"copy_busy_ms\": %.3f, \"compute_busy_ms\": %.3f, \"both_busy_ms\": %.3f,\n",
            t->copy_busy_ms, t->compute_busy_ms, t->both_busy_ms);
    fprintf(f, " \"model_copy_ms\": %.3f, \"model_compute_ms\": %.3f, \"model_run_ms\": %.3f,\n",
            t->model_copy_ms, t->model_compute_ms, t->model_run_ms);
    fprintf(f, " \"failed\": %d}\n", d->failed);
    fclose(f);
}

static void free_device(struct ps_device *d)
{
    while (d->areas)
        drop_area(d, &d->areas);
    while (d->pins) {
        struct area *a = d->pins;
        d->pins = a->next;
        ps_free(a);
    }
    for (int s = 0; s < 2; s++) {
        ps_free(d->s[s].ring);
        ps_free(d->s[s].records);
    }
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    ps_free(d->marks);
    ps_free(d);
}

static void stop_streams(struct ps_device *d, int n)
{
    pthread_mutex_lock(&d->lock);
    d->closing = true;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
    for (int s = 0; s < n; s++)
        pthread_join(d->s[s].thread, NULL);
}

static void dev_close(struct ps_device *d)
{
    if (!d)
        return;
    stop_streams(d, 2);
    write_trace(d);
    free_device(d);
}

static struct ps_device *new_device(const struct config *cfg, const struct ps_device_options *o)
{
    struct ps_device *d = ps_calloc(1, sizeof *d);
    bool ok = d != NULL;
    if (!d)
        return NULL;
    d->cfg = *cfg;
    d->n_marks = o->n_marks;
    d->busy_since_ns = ps_now_ns();
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->marks = ps_calloc(o->n_marks + 1, sizeof *d->marks);
    ok = ok && d->marks;
    for (int s = 0; s < 2; s++) {
        d->s[s].d = d;
        d->s[s].ring = ps_calloc(RING, sizeof *d->s[s].ring);
        d->s[s].records = ps_calloc(MAX_RECORDS, sizeof *d->s[s].records);
        ok = ok && d->s[s].ring && d->s[s].records;
    }
    if (ok)
        return d;
    free_device(d);
    return NULL;
}

static int dev_open(struct ps_device **out, const struct ps_device_options *o, struct ps_err *err)
{
    static _Atomic uint64_t opened;
    struct config cfg;
    int rc = read_config(&cfg, err);
    if (rc)
        return rc;
    if (++opened == cfg.fail_open)
        return ps_err_set(err, PS_EUNSUPPORTED, "device", "fake device: no driver (as configured)");
    if (o->index != 0)
        return ps_err_set(err, PS_EUNSUPPORTED, "device",
                          "there is one fake device, number 0; %u was asked for", o->index);
    struct ps_device *d = new_device(&cfg, o);
    if (!d)
        return ps_err_set(err, PS_ENOMEM, "device", "no memory for a fake device");
    for (int s = 0; s < 2; s++)
        if (pthread_create(&d->s[s].thread, NULL, stream_main, &d->s[s]) != 0) {
            stop_streams(d, s);
            free_device(d);
            return ps_err_set(err, PS_EFAIL, "device", "no thread for a fake device");
        }
    *out = d;
    return 0;
}

static void dev_info(struct ps_device *d, struct ps_device_info *out)
{
    pthread_mutex_lock(&d->lock);
    *out = (struct ps_device_info){.name = "fake device",
                                   .arch = "fake",
                                   .memory_bytes = d->cfg.vram,
                                   .free_bytes = d->cfg.vram - d->trace.live_bytes,
                                   .host_bytes = d->cfg.host,
                                   .codecs = (uint32_t)d->cfg.codecs};
    pthread_mutex_unlock(&d->lock);
}

void fake_device_trace(struct ps_device *d, struct fake_device_trace *out)
{
    pthread_mutex_lock(&d->lock);
    *out = d->trace;
    pthread_mutex_unlock(&d->lock);
}

const struct ps_device_api *fake_device(void)
{
    static const struct ps_device_api api = {.abi = PS_DEVICE_ABI,
                                             .kind = "fake",
                                             .open = dev_open,
                                             .close = dev_close,
                                             .info = dev_info,
                                             .alloc = dev_alloc,
                                             .free = dev_free,
                                             .pin = dev_pin,
                                             .unpin = dev_unpin,
                                             .alloc_shared = dev_alloc_shared,
                                             .free_shared = dev_free_shared,
                                             .copy_in = dev_copy_in,
                                             .copy_out = dev_copy_out,
                                             .copy_within = dev_copy_within,
                                             .fill = dev_fill,
                                             .mark = dev_mark,
                                             .wait_mark = dev_wait_mark,
                                             .await = dev_await,
                                             .reached = dev_reached,
                                             .elapsed_ms = dev_elapsed_ms,
                                             .sync = dev_sync,
                                             .decode = dev_decode,
                                             .multiplies = dev_multiplies,
                                             .act_bytes = dev_act_bytes,
                                             .act_pack = dev_act_pack,
                                             .matmul = dev_matmul,
                                             .kv_store = dev_kv_store,
                                             .attn_bytes = dev_attn_bytes,
                                             .attention = dev_attention,
                                             .rmsnorm = dev_rmsnorm,
                                             .swiglu = dev_swiglu,
                                             .rope = dev_rope,
                                             .add_bias = dev_add_bias,
                                             .to_f32 = dev_to_f32};
    return &api;
}
