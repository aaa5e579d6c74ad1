/* See bench_recv.h. */
#include "tools/bench_recv.h"

#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"

#define CHUNK       (1u << 20)
#define READERS_MAX 256
#define COPY_BYTES  ((size_t)128 << 20)

struct reading {
    const struct ps_map *map;
    char host[256], port[16], path[1024], query[1024];
    uint64_t until_ns;
    _Atomic uint64_t bytes;
    _Atomic unsigned next; /* object to ask for */
};

/* "http://host:port/path?query" in parts. Userinfo is left to the fetcher: such an address has
 * no plain limit. */
static bool split_address(struct reading *r, const char *address)
{
    const char *p, *end;
    size_t n;

    if (strncmp(address, "http://", 7) != 0 || strpbrk(address, "@[ "))
        return false;
    p = address + 7;
    n = strcspn(p, ":/?");
    if (n == 0 || n >= sizeof r->host)
        return false;
    snprintf(r->host, sizeof r->host, "%.*s", (int)n, p);
    p += n;
    snprintf(r->port, sizeof r->port, "80");
    if (*p == ':') {
        n = strcspn(p + 1, "/?");
        snprintf(r->port, sizeof r->port, "%.*s", (int)(n < 6 ? n : 6), p + 1);
        p += 1 + n;
    }
    end = strchr(p, '?');
    n = end ? (size_t)(end - p) : strlen(p);
    while (n > 0 && p[n - 1] == '/')
        n--;
    if (n >= sizeof r->path || (end && strlen(end) >= sizeof r->query))
        return false;
    snprintf(r->path, sizeof r->path, "%.*s", (int)n, p);
    snprintf(r->query, sizeof r->query, "%s", end ? end : "");
    return true;
}

static int dial(const struct reading *r)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    struct timeval patience = {.tv_sec = 5};
    int fd = -1;

    if (getaddrinfo(r->host, r->port, &hints, &list) != 0)
        return -1;
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd;
}

static bool request(const struct reading *r, int fd, const char *object)
{
    char text[4096];
    int n = snprintf(text, sizeof text,
                     "GET %s/%s%s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n", r->path,
                     object, r->query, r->host, r->port);

    return n > 0 && (size_t)n < sizeof text && send(fd, text, (size_t)n, MSG_NOSIGNAL) == n;
}

/* One connection and one object at a time, until time is up. The header's few bytes count as
 * well: they are nothing. */
static void *read_objects(void *arg)
{
    struct reading *r = arg;
    char *buf = ps_malloc(CHUNK);

    while (buf && ps_now_ns() < r->until_ns) {
        unsigned i = atomic_fetch_add(&r->next, 1) % r->map->n_objects;
        uint64_t got = 0;
        ssize_t n = 0;
        int fd = dial(r);

        if (fd >= 0 && request(r, fd, r->map->objects[i].name))
            while (ps_now_ns() < r->until_ns && (n = recv(fd, buf, CHUNK, 0)) > 0) {
                if (got == 0 && (n < 12 || memcmp(buf + 8, " 200", 4) != 0))
                    break;
                got += (uint64_t)n;
            }
        if (fd >= 0)
            close(fd);
        atomic_fetch_add(&r->bytes, got);
        if (got == 0)
            break; /* refused: no limit can be measured */
    }
    ps_free(buf);
    return NULL;
}

int ps_bench_recv(double *bytes_s, const char *address, const struct ps_map *map,
                  unsigned connections, double seconds)
{
    struct reading r = {.map = map};
    pthread_t threads[READERS_MAX];
    unsigned n = 0;
    uint64_t start = ps_now_ns();

    if (map->n_objects == 0 || !split_address(&r, address))
        return PS_EUNSUPPORTED;
    r.until_ns = start + (uint64_t)(seconds * (double)PS_NS_PER_S);
    while (n < connections && n < READERS_MAX &&
           pthread_create(&threads[n], NULL, read_objects, &r) == 0)
        n++;
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    if (atomic_load(&r.bytes) == 0)
        return PS_EUNSUPPORTED;
    *bytes_s = (double)atomic_load(&r.bytes) / ps_seconds_since(start);
    return 0;
}

double ps_bench_memcpy(void)
{
    char *from = ps_alloc_pages(COPY_BYTES, 4096), *to = ps_alloc_pages(COPY_BYTES, 4096);
    double best = 0;

    if (from && to) {
        memset(from, 1, COPY_BYTES);
        memset(to, 2, COPY_BYTES);
        for (int i = 0; i < 5; i++) {
            uint64_t start = ps_now_ns();
            double rate;

            memcpy(to, from, COPY_BYTES);
            from[i] = to[COPY_BYTES - 1]; /* the copy is used */
            rate = (double)COPY_BYTES / ps_seconds_since(start);
            best = rate > best ? rate : best;
        }
    }
    if (from)
        ps_free_pages(from, COPY_BYTES);
    if (to)
        ps_free_pages(to, COPY_BYTES);
    return best;
}
