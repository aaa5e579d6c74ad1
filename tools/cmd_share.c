/* `penstock share`: listens, says where, serves until it is told to stop. */
#include "tools/cli.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/json.h"
#include "tools/interrupt.h"
#include "tools/share_server.h"
#include "tools/textio.h"

#define STOP_GRACE_S 10
#define BACKLOG      128

struct listener {
    int fd;
    char address[256]; /* "127.0.0.1:8420", "[::1]:8420" */
    bool loopback;
};

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24) == 127;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

/* The address that a client would use, port 0 resolved. */
static void name_address(struct listener *l, const char *host)
{
    struct sockaddr_storage bound;
    socklen_t n = sizeof bound;
    char port[16] = "0", name[200];
    bool any;

    if (getsockname(l->fd, (struct sockaddr *)&bound, &n) == 0)
        getnameinfo((struct sockaddr *)&bound, n, NULL, 0, port, sizeof port, NI_NUMERICSERV);
    any = strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
    if (!any || gethostname(name, sizeof name) < 0)
        snprintf(name, sizeof name, "%s", host);
    name[sizeof name - 1] = '\0';
    snprintf(l->address, sizeof l->address, strchr(name, ':') ? "[%s]:%s" : "%s:%s", name, port);
}

static int listen_on(struct listener *l, const struct addrinfo *a)
{
    int one = 1;

    l->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        return -errno;
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(l->fd, a->ai_addr, a->ai_addrlen) == 0 && listen(l->fd, BACKLOG) == 0) {
        l->loopback = is_loopback(a->ai_addr);
        return 0;
    }
    one = -errno;
    close(l->fd);
    l->fd = -1;
    return one;
}

static int open_listener(struct listener *l, const struct ps_opts *o, struct ps_err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    const char *host = o->host;
    char port[16];
    int rc;

    snprintf(port, sizeof port, "%d", (int)o->port);
    rc = getaddrinfo(host, port, &hints, &list);
    if (rc != 0)
        return ps_err_set(err, PS_EUSAGE, "share", "--host %s: %s", host, gai_strerror(rc));
    rc = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a && rc < 0; a = a->ai_next)
        rc = listen_on(l, a);
    freeaddrinfo(list);
    if (rc < 0)
        return ps_err_set(err, PS_EIO, "share", "%s port %s: %s%s", host, port, strerror(-rc),
                          rc == -EADDRINUSE ? ": choose another --port, or 0 for any" : "");
    name_address(l, host);
    return 0;
}

static int announce(const struct ps_opts *o, const struct listener *l,
                    const struct ps_share_folder *folder, struct ps_err *err)
{
    const bool is_model = ps_share_folder_is_model(folder);
    struct ps_json_writer w;
    struct ps_strbuf b;
    char url[300];
    int rc;

    snprintf(url, sizeof url, "http://%s", l->address);
    if (!o->quiet || (o->port == 0 && !o->json)) /* a port that was chosen is known from here alone */
        fprintf(stderr, "sharing %s at %s/ (stop with Ctrl-C): penstock run %s%s\n", o->args[0],
                url, url, is_model ? "" : "/FOLDER (it is no model itself)");
    if (!l->loopback)
        fprintf(stderr,
                "penstock: warning: whoever reaches %s can read %s: there is no authentication\n",
                l->address, o->args[0]);
    if (!o->json)
        return 0;
    ps_strbuf_init(&b, 1 << 16);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "url", url);
    ps_jw_kstring(&w, "dir", o->args[0]);
    ps_jw_object_end(&w);
    ps_strbuf_puts(&b, "\n");
    rc = ps_out_strbuf(&b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

struct stopper {
    sem_t told;
    int signo;
};

static void tell(void *user, int signo)
{
    struct stopper *s = user;

    s->signo = signo;
    sem_post(&s->told);
}

static int wait_for_signal(struct stopper *s)
{
    while (sem_wait(&s->told) < 0 && errno == EINTR)
        continue;
    return s->signo;
}

static int serve(const struct ps_opts *o, struct listener *l, const struct ps_share_folder *folder,
                 struct ps_err *err)
{
    struct ps_share_server *server = NULL;
    struct stopper stopper = {.signo = SIGTERM};
    int rc = ps_share_server_start(&server, l->fd, folder, err);
    int signo = SIGTERM;

    if (rc < 0)
        return rc;
    /* Before the announcement: whoever reads it may send a signal at once. */
    sem_init(&stopper.told, 0, 0);
    ps_interrupt_set(tell, &stopper);
    rc = announce(o, l, folder, err);
    if (rc == 0)
        signo = wait_for_signal(&stopper);
    ps_share_server_stop(server, rc == 0 ? STOP_GRACE_S : 0);
    ps_interrupt_set(NULL, NULL);
    sem_destroy(&stopper.told);
    if (rc < 0)
        return rc;
    /* A service manager's SIGTERM is the normal end; Ctrl-C is an interruption, without a word. */
    return signo == SIGTERM ? 0 : ps_err_set(err, PS_EINTERRUPTED, "share", "%s", "");
}

int ps_cmd_share(const struct ps_opts *o, struct ps_err *err)
{
    struct listener l = {.fd = -1};
    struct ps_share_folder folder;
    int rc = ps_share_folder_open(&folder, o->args[0], err);

    if (rc < 0)
        return rc;
    rc = open_listener(&l, o, err);
    if (rc == 0)
        rc = serve(o, &l, &folder, err);
    ps_share_folder_close(&folder);
    return rc;
}
