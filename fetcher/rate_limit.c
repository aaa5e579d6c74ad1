/* A token bucket shared by all connections of a run. See rate_limit.h. */
#include "fetcher/rate_limit.h"

#include <pthread.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/size.h"

#define ORIGIN           "fetcher"
#define CREDIT_NS        (PS_NS_PER_S / 20)
#define LEAST_BYTES_S    1024u
#define LEAST_READ_BYTES 1024 /* libcurl takes no smaller buffer */
/* libcurl 7.88 reads up to a hundred times before it lets go of a socket: a small buffer, and little in the
 * socket, keep a round over all connections short. */
#define READS_PER_S      640u
#define SOCKETS_PER_S    4u /* a window for a quarter of a second: round trips are shorter */
#define SOCKET_LEAST     (16 << 10)
#define SOCKET_UNLIMITED (4 << 20) /* the system's own tuning stays below this */

struct ps_rate_limit {
    pthread_mutex_t lock;
    struct ps_rate_bucket bucket; /* lock */
};

void ps_rate_bucket_take(struct ps_rate_bucket *b, uint64_t bytes, uint64_t now_ns)
{
    uint64_t earliest = now_ns > CREDIT_NS ? now_ns - CREDIT_NS : 0;
    if (b->even_ns < earliest)
        b->even_ns = earliest;
    /* In two parts, so that 64 bits hold the product for any size. */
    uint64_t seconds = bytes / b->bytes_per_s, rest = bytes % b->bytes_per_s;
    double part = (double)rest / (double)b->bytes_per_s;
    b->even_ns += seconds * PS_NS_PER_S + (uint64_t)(part * (double)PS_NS_PER_S);
}

int ps_rate_limit_new(struct ps_rate_limit **out, uint64_t bytes_per_s, struct ps_err *err)
{
    struct ps_rate_limit *l = ps_calloc(1, sizeof *l);
    if (!l)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    pthread_mutex_init(&l->lock, NULL);
    l->bucket.bytes_per_s = bytes_per_s;
    *out = l;
    return 0;
}

void ps_rate_limit_free(struct ps_rate_limit *l)
{
    if (!l)
        return;
    pthread_mutex_destroy(&l->lock);
    ps_free(l);
}

int ps_rate_limit_parse(struct ps_rate_limit **out, const char *text, struct ps_err *err)
{
    struct ps_size size;
    int rc = ps_size_parse(&size, text, "--net-limit", err);
    if (rc < 0)
        return rc;
    if (size.kind == PS_SIZE_DEFAULT) {
        *out = NULL;
        return 0;
    }
    if (size.kind != PS_SIZE_BYTES || size.bytes < LEAST_BYTES_S)
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "--net-limit: '%.40s': give bytes per second, such as 20M, at least 1K",
                          text);
    return ps_rate_limit_new(out, size.bytes, err);
}

uint64_t ps_rate_limit_bytes_per_s(const struct ps_rate_limit *l)
{
    return l ? l->bucket.bytes_per_s : 0; /* never changes */
}

void ps_rate_limit_take(struct ps_rate_limit *l, uint64_t bytes, uint64_t now_ns)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    ps_rate_bucket_take(&l->bucket, bytes, now_ns);
    pthread_mutex_unlock(&l->lock);
}

uint64_t ps_rate_limit_ready_ns(struct ps_rate_limit *l)
{
    if (!l)
        return 0;
    pthread_mutex_lock(&l->lock);
    uint64_t at = l->bucket.even_ns;
    pthread_mutex_unlock(&l->lock);
    return at;
}

long ps_rate_limit_read_bytes(const struct ps_rate_limit *l, unsigned connections, long most)
{
    if (!l)
        return most;
    uint64_t each = l->bucket.bytes_per_s / READS_PER_S / (connections ? connections : 1);
    if (each >= (uint64_t)most)
        return most;
    return each > LEAST_READ_BYTES ? (long)each : LEAST_READ_BYTES;
}

int ps_rate_limit_socket_bytes(const struct ps_rate_limit *l, unsigned connections)
{
    if (!l)
        return 0;
    uint64_t each = l->bucket.bytes_per_s / SOCKETS_PER_S / (connections ? connections : 1);
    if (each >= SOCKET_UNLIMITED)
        return 0;
    return each > SOCKET_LEAST ? (int)each : SOCKET_LEAST;
}
