/* A server that misbehaves on request. See bad_server.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* POLLRDHUP, memmem */
#endif
#include "tests/support/bad_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define MAX_CONNECTIONS 512
#define MAX_RULES       32
#define MAX_LISTENERS   4
#ifndef SO_MAX_PACING_RATE
#define SO_MAX_PACING_RATE 47
#endif
#define MAX_SEEN     4096
#define REQUEST_MAX  8192
#define DRIP_MS      20
#define DEFAULT_ETAG "ETag: \"v1\"\r\n"

struct connection {
    struct bad_server *server;
    pthread_t thread;
    int fd; /* server lock; -1 once closed */
    unsigned number, address;
};

struct listener {
    struct bad_server *server;
    int fd;
    unsigned last; /* byte of its address */
    pthread_t acceptor;
};

struct bad_server {
    const struct bad_rule *rules;
    size_t n_rules;
    const char *content;
    size_t bytes;
    struct listener listeners[MAX_LISTENERS];
    unsigned n_listeners;
    unsigned port;
    unsigned (*bytes_s)(unsigned connection);
    unsigned limit;  /* 0: none */
    unsigned active; /* lock */
    size_t refused;  /* lock */
    pthread_mutex_t lock;
    bool stopping;                                  /* lock */
    unsigned matched[MAX_RULES];                    /* lock: requests that each rule has matched */
    struct bad_seen seen[MAX_SEEN];                 /* lock */
    size_t n_seen;                                  /* lock */
    struct connection connections[MAX_CONNECTIONS]; /* lock */
    unsigned n_connections;                         /* lock */
};

/* ---- sending ---- */

static bool send_all(int fd, const void *p, size_t n)
{
    const char *at = p;
    while (n > 0) {
        ssize_t k = send(fd, at, n, MSG_NOSIGNAL);
        if (k <= 0)
            return false;
        at += k;
        n -= (size_t)k;
    }
    return true;
}

__attribute__((format(printf, 2, 3))) static bool send_text(int fd, const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return n > 0 && (size_t)n < sizeof text && send_all(fd, text, (size_t)n);
}

/* Until the peer goes away or the server stops (which shuts the socket down). */
static void wait_for_end(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    poll(&p, 1, 60000);
}

static void drip(int fd, const char *p, size_t n)
{
    struct pollfd gone = {.fd = fd, .events = POLLRDHUP};
    for (size_t i = 0; i < n && send_all(fd, p + i, 1); i++)
        if (poll(&gone, 1, DRIP_MS) != 0)
            return;
}

static void reset(int fd)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

static void send_chunks(int fd, const char *p, size_t n, bool cut)
{
    size_t half = n / 2;
    bool ok = send_text(fd, "%zx\r\n", half) && send_all(fd, p, half) &&
              send_text(fd, "\r\n%zx\r\n", n - half);
    if (ok && cut)
        send_all(fd, p + half, (n - half) / 2);
    else if (ok && send_all(fd, p + half, n - half))
        send_text(fd, "\r\n0\r\nX-Trailer: yes\r\n\r\n");
}

/* ---- answers ---- */

struct answer {
    int fd;
    const struct bad_rule *rule;
    const char *content;
    size_t bytes;
    bool has_range;
    size_t from, to;
};

static const char *extra(const struct answer *a)
{
    return a->rule && a->rule->header ? a->rule->header : "";
}

static const char *etag_line(const struct answer *a)
{
    return strcasestr(extra(a), "etag:") ? "" : DEFAULT_ETAG;
}

static bool has_length(enum bad_kind k)
{
    return k != BAD_NO_LENGTH && k != BAD_NO_LENGTH_SHORT && k != BAD_LONG && k != BAD_CHUNKED &&
           k != BAD_CHUNKED_CUT;
}

static bool send_content_range(const struct answer *a, enum bad_kind k)
{
    size_t shift = k == BAD_WRONG_RANGE ? 1 : 0;
    if (!a->has_range || k == BAD_WHOLE || k == BAD_NO_RANGE)
        return true;
    if (k == BAD_STAR_TOTAL)
        return send_text(a->fd, "Content-Range: bytes %zu-%zu/*\r\n", a->from, a->to - 1);
    return send_text(a->fd, "Content-Range: bytes %zu-%zu/%zu\r\n", a->from + shift,
                     a->to - 1 + shift, a->bytes + (k == BAD_TOTAL ? 7 : 0) + shift);
}

static bool send_headers(const struct answer *a, enum bad_kind k, size_t length)
{
    bool partial = a->has_range && k != BAD_WHOLE;
    if (k == BAD_EARLY_HINTS &&
        !send_text(
            a->fd,
            "HTTP/1.1 103 Early Hints\r\nContent-Range: bytes 1-2/3\r\nETag: \"hint\"\r\n\r\n"))
        return false;
    if (!send_text(a->fd, "HTTP/1.1 %s\r\n%s%s", partial ? "206 Partial Content" : "200 OK",
                   etag_line(a), extra(a)) ||
        !send_content_range(a, k))
        return false;
    if (k == BAD_MULTIPART &&
        !send_text(a->fd, "Content-Type: multipart/byteranges; boundary=x\r\n"))
        return false;
    if (k == BAD_GZIP && !send_text(a->fd, "Content-Encoding: gzip\r\n"))
        return false;
    if (k == BAD_CHUNKED || k == BAD_CHUNKED_CUT)
        return send_text(a->fd, "Transfer-Encoding: chunked\r\n\r\n");
    if (has_length(k))
        return send_text(a->fd, "Content-Length: %zu\r\n\r\n", length);
    return send_text(a->fd, "Connection: close\r\n\r\n");
}

/* Returns whether the connection may live on. */
static bool send_body(const struct answer *a, enum bad_kind k, const char *p, size_t n)
{
    static const char more[64] = "surplus";
    switch (k) {
    case BAD_TRUNCATE:
    case BAD_NO_LENGTH_SHORT: send_all(a->fd, p, n / 2); return false;
    case BAD_RESET:
        send_all(a->fd, p, n / 2);
        usleep(50000); /* a reset overtakes what the peer has not read yet */
        reset(a->fd);
        return false;
    case BAD_STALL:
        send_all(a->fd, p, n / 2);
        wait_for_end(a->fd);
        return false;
    case BAD_DRIP: drip(a->fd, p, n); return false;
    case BAD_CHUNKED: send_chunks(a->fd, p, n, false); return true;
    case BAD_CHUNKED_CUT: send_chunks(a->fd, p, n, true); return false;
    case BAD_NO_LENGTH: send_all(a->fd, p, n); return false;
    case BAD_LONG:
    case BAD_LONG_LENGTH:
        (void)(send_all(a->fd, p, n) && send_all(a->fd, more, sizeof more));
        return k != BAD_LONG;
    default: return send_all(a->fd, p, n);
    }
}

static bool send_status(const struct answer *a)
{
    const char *body = a->rule->body ? a->rule->body : "no\n";
    return send_text(a->fd, "HTTP/1.1 %d Scripted\r\n%sContent-Length: %zu\r\n\r\n%s",
                     a->rule->status, extra(a), strlen(body), body);
}

static bool send_flipped(const struct answer *a, const char *p, size_t n)
{
    char *copy = malloc(n);
    if (!copy)
        abort();
    memcpy(copy, p, n);
    copy[n / 2] ^= 1;
    bool ok = send_headers(a, BAD_FLIP, n) && send_all(a->fd, copy, n);
    free(copy);
    return ok;
}

static bool give_answer(const struct answer *a)
{
    enum bad_kind k = a->rule ? a->rule->kind : BAD_NONE;
    bool whole = !a->has_range || k == BAD_WHOLE;
    const char *p = whole ? a->content : a->content + a->from;
    size_t n = whole ? a->bytes : a->to - a->from;
    if (k == BAD_STATUS)
        return send_status(a);
    if (k == BAD_CLOSE)
        return false;
    if (k == BAD_GARBAGE) {
        send_text(a->fd, "220 mail.example ESMTP\r\n\r\n");
        return false;
    }
    if (k == BAD_SILENT) {
        wait_for_end(a->fd);
        return false;
    }
    if (a->has_range && !whole && a->from >= a->to)
        return send_text(
            a->fd, "HTTP/1.1 416 No\r\nContent-Range: bytes */%zu\r\nContent-Length: 0\r\n\r\n",
            a->bytes);
    if (k == BAD_FLIP)
        return send_flipped(a, p, n);
    return send_headers(a, k, n + (k == BAD_LONG_LENGTH ? 64 : 0)) && send_body(a, k, p, n);
}

/* ---- requests ---- */

static void header_value(const char *request, const char *name, char *out, size_t cap)
{
    const char *p = strcasestr(request, name);
    out[0] = '\0';
    if (!p)
        return;
    p += strlen(name);
    size_t n = strcspn(p, "\r\n");
    snprintf(out, cap, "%.*s", (int)n, p);
}

static void parse_request(const char *request, struct bad_seen *seen)
{
    char target[512] = "", range[64];
    memset(seen, 0, sizeof *seen);
    sscanf(request, "%7s %511s", seen->method, target);
    char *query = strchr(target, '?');
    if (query) {
        *query = '\0';
        snprintf(seen->query, sizeof seen->query, "%.255s", query + 1);
    }
    snprintf(seen->path, sizeof seen->path, "%.255s", target);
    header_value(request, "\r\nRange: bytes=", range, sizeof range);
    unsigned long long from = 0, last = 0;
    seen->has_range = sscanf(range, "%llu-%llu", &from, &last) == 2;
    seen->from = from;
    seen->to = seen->has_range ? last + 1 : 0;
    header_value(request, "\r\nIf-Match: ", seen->if_match, sizeof seen->if_match);
    header_value(request, "\r\nAuthorization: ", seen->authorization, sizeof seen->authorization);
    header_value(request, "\r\nAccept-Encoding: ", seen->accept_encoding,
                 sizeof seen->accept_encoding);
    header_value(request, "\r\nx-amz-content-sha256: ", seen->content_sha256,
                 sizeof seen->content_sha256);
    header_value(request, "\r\nContent-Length: ", range, sizeof range);
    seen->body_bytes = strtoull(range, NULL, 10);
    seen->at_ns = ps_now_ns();
}

/* The first rule whose turn it is. */
static const struct bad_rule *rule_for_locked(struct bad_server *s, const char *path)
{
    const struct bad_rule *chosen = NULL;
    for (size_t i = 0; i < s->n_rules && i < MAX_RULES; i++) {
        const struct bad_rule *r = &s->rules[i];
        if (r->path && strcmp(r->path, path) != 0)
            continue;
        unsigned nth = s->matched[i]++;
        if (!chosen && nth >= r->after && (r->times == 0 || nth < r->after + r->times))
            chosen = r;
    }
    return chosen;
}

static const struct bad_rule *record(struct bad_server *s, const struct bad_seen *seen)
{
    pthread_mutex_lock(&s->lock);
    if (s->n_seen < MAX_SEEN)
        s->seen[s->n_seen++] = *seen;
    const struct bad_rule *rule = rule_for_locked(s, seen->path);
    pthread_mutex_unlock(&s->lock);
    return rule;
}

/* The body of a request: `have` bytes of it came with the headers. */
static bool read_body(int fd, const char *first, size_t have, struct bad_seen *seen)
{
    char buf[65536];
    for (size_t i = 0; i < have; i++)
        seen->body_sum = (uint8_t)(seen->body_sum + (uint8_t)first[i]);
    for (uint64_t n = have; n < seen->body_bytes;) {
        ssize_t k = recv(fd, buf, sizeof buf, 0);
        if (k <= 0)
            return false;
        for (ssize_t i = 0; i < k; i++)
            seen->body_sum = (uint8_t)(seen->body_sum + (uint8_t)buf[i]);
        n += (uint64_t)k;
    }
    return true;
}

/* Reads up to the empty line, and what came with it: *bytes in all. False: the peer left. */
static bool read_request(int fd, char *request, size_t *bytes)
{
    size_t n = 0;
    while (n < REQUEST_MAX - 1) {
        ssize_t k = recv(fd, request + n, REQUEST_MAX - 1 - n, 0);
        if (k <= 0)
            return false;
        n += (size_t)k;
        request[n] = '\0';
        *bytes = n;
        if (strstr(request, "\r\n\r\n"))
            return true;
    }
    return false;
}

static bool enter(struct bad_server *s)
{
    pthread_mutex_lock(&s->lock);
    bool ok = s->limit == 0 || s->active < s->limit;
    s->active += ok;
    s->refused += !ok;
    pthread_mutex_unlock(&s->lock);
    return ok;
}

static void leave(struct bad_server *s)
{
    pthread_mutex_lock(&s->lock);
    s->active--;
    pthread_mutex_unlock(&s->lock);
}

static bool serve_one(struct connection *c, int fd)
{
    char request[REQUEST_MAX];
    struct bad_seen seen;
    struct bad_server *s = c->server;
    size_t bytes;
    if (!read_request(fd, request, &bytes))
        return false;
    parse_request(request, &seen);
    const char *body = strstr(request, "\r\n\r\n") + 4;
    if (!read_body(fd, body, bytes - (size_t)(body - request), &seen))
        return false;
    seen.connection = c->number;
    seen.address = c->address;
    struct answer a = {.fd = fd, .content = s->content, .bytes = s->bytes, .has_range = seen.has_range};
    a.rule = record(s, &seen);
    a.from = seen.from < s->bytes ? (size_t)seen.from : s->bytes;
    a.to = seen.to < s->bytes ? (size_t)seen.to : s->bytes;
    if (!enter(s))
        return send_text(fd, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
    bool ok = give_answer(&a);
    leave(s);
    return ok;
}

static void *connection_main(void *arg)
{
    struct connection *c = arg;
    int fd = c->fd; /* set before the thread began */
    while (serve_one(c, fd))
        ;
    pthread_mutex_lock(&c->server->lock);
    close(fd);
    c->fd = -1;
    pthread_mutex_unlock(&c->server->lock);
    return NULL;
}

static void *acceptor_main(void *arg)
{
    struct listener *l = arg;
    struct bad_server *s = l->server;
    int one = 1;
    for (;;) {
        int fd = accept(l->fd, NULL, NULL);
        if (fd < 0)
            return NULL;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        pthread_mutex_lock(&s->lock);
        if (s->stopping || s->n_connections == MAX_CONNECTIONS) {
            pthread_mutex_unlock(&s->lock);
            close(fd);
            continue;
        }
        struct connection *c = &s->connections[s->n_connections];
        *c = (struct connection){.server = s, .fd = fd, .number = s->n_connections, .address = l->last};
        if (s->bytes_s) {
            unsigned rate = s->bytes_s(c->number);
            int small = 16 << 10; /* what has been sent is soon there */
            setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
            setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate);
        }
        if (pthread_create(&c->thread, NULL, connection_main, c) != 0)
            abort();
        s->n_connections++;
        pthread_mutex_unlock(&s->lock);
    }
}

void bad_server_also(struct bad_server *s, unsigned last)
{
    struct listener *l = &s->listeners[s->n_listeners];
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)s->port),
                             .sin_addr.s_addr = htonl((127u << 24) | last)};
    socklen_t len = sizeof at;
    if (s->n_listeners == MAX_LISTENERS)
        abort();
    *l = (struct listener){.server = s,
                           .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
                           .last = last};
    if (l->fd < 0 || bind(l->fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(l->fd, 64) != 0 || getsockname(l->fd, (struct sockaddr *)&at, &len) != 0)
        abort();
    s->port = ntohs(at.sin_port);
    s->n_listeners++;
    if (pthread_create(&l->acceptor, NULL, acceptor_main, l) != 0)
        abort();
}

void bad_server_pace(struct bad_server *s, unsigned (*bytes_s)(unsigned connection))
{
    s->bytes_s = bytes_s;
}

void bad_server_limit(struct bad_server *s, unsigned requests_at_once)
{
    s->limit = requests_at_once;
}

size_t bad_server_refused(struct bad_server *s)
{
    pthread_mutex_lock(&s->lock);
    size_t n = s->refused;
    pthread_mutex_unlock(&s->lock);
    return n;
}

struct bad_server *bad_server_start(const struct bad_rule *rules, size_t n_rules,
                                    const void *content, size_t bytes)
{
    struct bad_server *s = calloc(1, sizeof *s);
    if (!s || n_rules > MAX_RULES)
        abort();
    s->rules = rules;
    s->n_rules = n_rules;
    s->content = content;
    s->bytes = bytes;
    pthread_mutex_init(&s->lock, NULL);
    bad_server_also(s, 1);
    return s;
}

void bad_server_stop(struct bad_server *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    for (unsigned i = 0; i < s->n_connections; i++)
        if (s->connections[i].fd >= 0)
            shutdown(s->connections[i].fd, SHUT_RDWR);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->n_listeners; i++) {
        shutdown(s->listeners[i].fd, SHUT_RDWR); /* wakes accept() */
        pthread_join(s->listeners[i].acceptor, NULL);
        close(s->listeners[i].fd);
    }
    for (unsigned i = 0; i < s->n_connections; i++)
        pthread_join(s->connections[i].thread, NULL);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

unsigned bad_server_port(const struct bad_server *s)
{
    return s->port;
}

size_t bad_server_requests(struct bad_server *s)
{
    pthread_mutex_lock(&s->lock);
    size_t n = s->n_seen;
    pthread_mutex_unlock(&s->lock);
    return n;
}

bool bad_server_seen(struct bad_server *s, size_t i, struct bad_seen *out)
{
    pthread_mutex_lock(&s->lock);
    bool there = i < s->n_seen;
    if (there)
        *out = s->seen[i];
    pthread_mutex_unlock(&s->lock);
    return there;
}
