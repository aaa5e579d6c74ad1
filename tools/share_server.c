/* See share_server.h.
 *
 * One thread per connection: bytes go from the page cache to the socket by sendfile, which blocks while
 * a cold file is read, and one slow disk read must not hold up the other connections of a shared
 * thread. Clients are runs of Penstock with 8 connections each. Measured on loopback, two busy cores,
 * 1.78 GB by 8 parallel readers: 2.72 s, nginx with two workers 2.61 s.
 *
 * What a hostile client can hold: a connection slot (CONNECTIONS_MAX), for as long as it keeps
 * reading. One that sends nothing is dropped after IDLE_S by libmicrohttpd. A header that comes
 * in byte by byte would renew that time for ever (measured), so every connection is watched: it
 * has HEADER_S from its start, or from its last reply, to ask for something. Where more than
 * CROWDED are open, a new one takes the place of the one that has waited longest without a
 * request: 512 idle connections shut everybody out for IDLE_S before. */
#include "tools/share_server.h"

#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "penstock/penstock.h"
#include "tools/share_request.h"

#define CONNECTIONS_MAX 640
#define CROWDED         512u /* the rest is for those that are on their way out */
#define IDLE_S          60u
#define HEADER_S        90u
#define WATCH_S         5

struct connection {
    struct connection *next, *prev;
    int fd;
    uint64_t waiting_since_ns; /* 0: a request is being answered */
    bool shut;                 /* told to go; libmicrohttpd closes it */
};

struct ps_share_server {
    const struct ps_share_folder *folder;
    struct MHD_Daemon *daemon;
    pthread_t watcher;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    struct connection *connections;
    unsigned open; /* connections that were not told to go */
    unsigned busy; /* requests being answered */
    bool stopping;
};

/* ---- the connections ---- */

/* Shut, not closed: the number stays libmicrohttpd's, which sees the end and closes it. */
static void shut_locked(struct ps_share_server *s, struct connection *c)
{
    if (!c->shut)
        s->open--;
    c->shut = true;
    shutdown(c->fd, SHUT_RDWR);
}

static void make_room_locked(struct ps_share_server *s)
{
    struct connection *oldest = NULL;

    for (struct connection *c = s->connections; c; c = c->next)
        if (!c->shut && c->waiting_since_ns &&
            (!oldest || c->waiting_since_ns < oldest->waiting_since_ns))
            oldest = c;
    if (oldest)
        shut_locked(s, oldest);
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct ps_share_server *s = cls;
    struct connection *c = *context;
    const union MHD_ConnectionInfo *info;

    pthread_mutex_lock(&s->lock);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        c = info ? ps_calloc(1, sizeof *c) : NULL;
        if (c) {
            c->fd = info->connect_fd;
            c->waiting_since_ns = ps_now_ns();
            c->next = s->connections;
            if (c->next)
                c->next->prev = c;
            s->connections = c;
            if (++s->open > CROWDED)
                make_room_locked(s);
        }
        *context = c;
    } else if (c) {
        if (c->waiting_since_ns == 0)
            s->busy--;
        if (!c->shut)
            s->open--;
        if (c->prev)
            c->prev->next = c->next;
        else
            s->connections = c->next;
        if (c->next)
            c->next->prev = c->prev;
        *context = NULL;
        ps_free(c);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
}

static void mark(struct ps_share_server *s, struct MHD_Connection *connection, bool busy)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *c = info ? info->socket_context : NULL;

    if (!c)
        return;
    pthread_mutex_lock(&s->lock);
    if (busy && c->waiting_since_ns) {
        c->waiting_since_ns = 0;
        s->busy++;
    } else if (!busy && !c->waiting_since_ns) {
        c->waiting_since_ns = ps_now_ns();
        s->busy--;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Waits for a change or `seconds`, whichever comes first. */
static void wait_locked(struct ps_share_server *s, unsigned seconds)
{
    (void)ps_cond_wait_until(&s->changed, &s->lock, ps_now_ns() + seconds * PS_NS_PER_S);
}

static void *watch(void *arg)
{
    struct ps_share_server *s = arg;
    uint64_t next_ns = 0;

    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        uint64_t now = ps_now_ns();

        if (now >= next_ns) {
            for (struct connection *c = s->connections; c; c = c->next)
                if (c->waiting_since_ns && now - c->waiting_since_ns > HEADER_S * PS_NS_PER_S)
                    shut_locked(s, c);
            next_ns = now + WATCH_S * PS_NS_PER_S;
        }
        wait_locked(s, WATCH_S);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the replies ---- */

static enum MHD_Result send_response(struct MHD_Connection *connection, unsigned status,
                                     struct MHD_Response *response)
{
    enum MHD_Result done;

    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    done = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return done;
}

static enum MHD_Result send_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text,
                                                             MHD_RESPMEM_MUST_COPY);

    if (r) {
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; charset=utf-8");
        if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
            MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    }
    return send_response(connection, status, r);
}

static const char *status_text(unsigned status)
{
    switch (status) {
    case 400: return "bad request\n";
    case 403: return "this file can't be read\n";
    case 405: return "GET and HEAD alone\n";
    case 412: return "the file is another one now\n";
    default: return "no such file\n";
    }
}

static void add_file_headers(struct MHD_Response *r, const char *path, const struct ps_share_facts *f)
{
    char date[32], hash[65];

    ps_share_date(date, f->mtime);
    MHD_add_response_header(r, MHD_HTTP_HEADER_ETAG, f->etag);
    MHD_add_response_header(r, MHD_HTTP_HEADER_LAST_MODIFIED, date);
    MHD_add_response_header(r, MHD_HTTP_HEADER_ACCEPT_RANGES, "bytes");
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, ps_share_content_type(path));
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL,
                            ps_share_is_shard(path, hash)
                                ? "public, max-age=31536000, immutable, no-transform"
                                : "no-cache");
}

static struct MHD_Response *empty_response(void)
{
    return MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result send_range_error(struct MHD_Connection *connection, const char *path,
                                        const struct ps_share_facts *f)
{
    struct MHD_Response *r = empty_response();
    char range[64];

    snprintf(range, sizeof range, "bytes */%llu", (unsigned long long)f->bytes);
    if (r) {
        add_file_headers(r, path, f);
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_RANGE, range);
    }
    return send_response(connection, MHD_HTTP_RANGE_NOT_SATISFIABLE, r);
}

/* The response owns the descriptor and closes it, also where its creation fails after this
 * point. */
static enum MHD_Result send_bytes(struct MHD_Connection *connection, const char *path,
                                  const struct ps_share_facts *f, const struct ps_share_answer *a,
                                  int fd)
{
    struct MHD_Response *r;
    char range[96];

    if (a->bytes == 0) {
        close(fd);
        r = empty_response();
    } else {
        r = MHD_create_response_from_fd_at_offset64(a->bytes, fd, a->offset);
        if (!r)
            close(fd);
    }
    if (!r)
        return MHD_NO;
    add_file_headers(r, path, f);
    if (a->status == 206) {
        snprintf(range, sizeof range, "bytes %llu-%llu/%llu", (unsigned long long)a->offset,
                 (unsigned long long)(a->offset + a->bytes - 1), (unsigned long long)f->bytes);
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_RANGE, range);
    }
    return send_response(connection, a->status, r);
}

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

static enum MHD_Result answer_file(struct ps_share_server *s, struct MHD_Connection *connection,
                                   const char *path, bool get)
{
    struct ps_share_headers h = {
        .range = header(connection, MHD_HTTP_HEADER_RANGE),
        .if_match = header(connection, MHD_HTTP_HEADER_IF_MATCH),
        .if_none_match = header(connection, MHD_HTTP_HEADER_IF_NONE_MATCH),
        .if_range = header(connection, MHD_HTTP_HEADER_IF_RANGE),
        .if_modified_since = header(connection, MHD_HTTP_HEADER_IF_MODIFIED_SINCE),
        .if_unmodified_since = header(connection, MHD_HTTP_HEADER_IF_UNMODIFIED_SINCE),
    };
    char etag[PS_SHARE_ETAG_MAX];
    struct ps_share_facts f = {.etag = etag};
    struct ps_share_answer a;
    struct MHD_Response *r;
    struct stat st;
    int fd = ps_share_folder_file(s->folder, path, &st);

    if (fd < 0)
        return send_text(connection, (unsigned)-fd, status_text((unsigned)-fd));
    f.bytes = (uint64_t)st.st_size;
    f.mtime = st.st_mtim.tv_sec;
    ps_share_etag(etag, path, f.bytes, &st.st_mtim);
    ps_share_decide(&a, &h, &f, get);
    ps_log(PS_LOG_DEBUG, "share", "%s %s: %u, %llu bytes at %llu", get ? "GET" : "HEAD", path,
           a.status, (unsigned long long)a.bytes, (unsigned long long)a.offset);
    if (a.status == 200 || a.status == 206)
        return send_bytes(connection, path, &f, &a, fd);
    close(fd);
    if (a.status == 416)
        return send_range_error(connection, path, &f);
    if (a.status == 412)
        return send_text(connection, 412, status_text(412));
    r = empty_response();
    if (r)
        add_file_headers(r, path, &f);
    return send_response(connection, a.status, r);
}

static enum MHD_Result answer_root(struct ps_share_server *s, struct MHD_Connection *connection)
{
    char text[160];

    snprintf(text, sizeof text, "penstock %s shares %s here: penstock run with this address\n",
             PENSTOCK_VERSION, ps_share_folder_kind(s->folder));
    return send_text(connection, 200, text);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload_data,
                                  size_t *upload_data_size, void **context)
{
    struct ps_share_server *s = cls;
    char path[PS_SHARE_PATH_MAX];
    bool get = strcmp(method, MHD_HTTP_METHOD_GET) == 0;
    unsigned status;

    (void)version;
    (void)upload_data;
    if (!*context) { /* the header is complete; the answer may be queued from the next call on */
        *context = s;
        mark(s, connection, true);
        return MHD_YES;
    }
    if (*upload_data_size) { /* a body means nothing here */
        *upload_data_size = 0;
        return MHD_YES;
    }
    if (!get && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return send_text(connection, 405, status_text(405));
    status = ps_share_path(path, url);
    if (status)
        return send_text(connection, status, status_text(status));
    return *path ? answer_file(s, connection, path, get) : answer_root(s, connection);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code)
{
    (void)code;
    if (*context)
        mark(cls, connection, false);
    *context = NULL;
}

/* Escapes are decoded by ps_share_path, which must see %00 and %2f as they came. */
static size_t keep_escapes(void *cls, struct MHD_Connection *connection, char *s)
{
    (void)cls;
    (void)connection;
    return strlen(s);
}

static void on_log(void *cls, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void on_log(void *cls, const char *fmt, va_list ap)
{
    char line[512];

    (void)cls;
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = '\0';
    ps_log(PS_LOG_DEBUG, "share", "%s", line);
}

/* ---- start and stop ---- */

static int init_locks(struct ps_share_server *s)
{
    int rc = ps_cond_init(&s->changed);

    return rc ? rc : pthread_mutex_init(&s->lock, NULL);
}

int ps_share_server_start(struct ps_share_server **out, int listen_fd,
                          const struct ps_share_folder *folder, struct ps_err *err)
{
    struct ps_share_server *s = ps_calloc(1, sizeof *s);
    unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD |
                     MHD_USE_POLL | MHD_USE_ITC | MHD_USE_ERROR_LOG;

    if (!s || init_locks(s)) {
        ps_free(s);
        close(listen_fd);
        return ps_err_set(err, PS_ENOMEM, "share", "out of memory");
    }
    s->folder = folder;
    s->daemon = MHD_start_daemon(flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER,
                                 on_log, NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                                 MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_NOTIFY_COMPLETED,
                                 on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
                                 MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL, MHD_OPTION_END);
    if (!s->daemon || pthread_create(&s->watcher, NULL, watch, s) != 0) {
        if (s->daemon)
            MHD_stop_daemon(s->daemon);
        else
            close(listen_fd);
        ps_free(s);
        return ps_err_set(err, PS_EIO, "share", "the server can't start its threads: %s",
                          strerror(errno));
    }
    *out = s;
    return 0;
}

void ps_share_server_stop(struct ps_share_server *s, unsigned grace_s)
{
    int listen_fd = MHD_quiesce_daemon(s->daemon);
    uint64_t until = ps_now_ns() + grace_s * PS_NS_PER_S;

    pthread_mutex_lock(&s->lock);
    while (s->busy > 0 && ps_now_ns() < until)
        wait_locked(s, 1);
    s->stopping = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->watcher, NULL);
    MHD_stop_daemon(s->daemon);
    if (listen_fd >= 0)
        close(listen_fd);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    ps_free(s);
}
