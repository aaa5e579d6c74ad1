/* The hf:// store. Comes in: ranges and names of files of one repository. Goes out: the same, handed to
 * one of two stores: the file store where the Hub's own cache directory has the file of this commit
 * (whoever has downloaded it once should not pay again), else the http store with the Hub as its
 * origin (hf_origin.h). Which of the two is decided at the first use of each name and never changes.
 *
 * The Hub's cache directory is read, never written: models--org--name/{refs/REVISION, snapshots/COMMIT/FILE ->
 * ../../blobs/HASH}. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "fetcher/hf_origin.h"
#include "fetcher/store_impl.h"

#define ORIGIN  "fetcher"
#define BUCKETS 256u

/* Where a name is read from. */
struct hf_name {
    struct hf_name *next;
    char *name;
    bool held; /* in the Hub's cache */
};

struct hf_store {
    struct ps_source base;
    struct ps_hf_ref ref;
    struct ps_hf_settings settings;
    bool direct_io;
    struct ps_stats *stats;
    struct ps_http_origin *origin; /* net's; NULL offline */
    struct ps_source *net;         /* NULL offline */
    pthread_mutex_t look_lock;     /* held while the commit is asked for */
    bool looked;                   /* look_lock, with the next two */
    int look_rc;
    struct ps_err look_err;
    /* lock; set by look() before the first name is decided */
    pthread_mutex_t lock;
    struct ps_source *files; /* nullable: the snapshot */
    char *snapshot;
    char commit[PS_HF_COMMIT_DIGITS + 1]; /* the snapshot's */
    bool cut_off;                   /* the Hub could not be reached, the snapshot is all there is */
    bool asks_net;                  /* weights come from the network, some or all */
    struct hf_name *names[BUCKETS]; /* entries live until close */
};

/* ---- the Hub's cache directory ---- */

static char *joined(const char *a, const char *b, const char *c)
{
    struct ps_strbuf s;
    ps_strbuf_init(&s, PATH_MAX);
    ps_strbuf_printf(&s, "%s/%s", a, b);
    if (c && *c)
        ps_strbuf_printf(&s, "/%s", c);
    char *path = ps_strbuf_take(&s, NULL);
    ps_strbuf_deinit(&s);
    return path;
}

static bool is_kind(const char *path, mode_t kind)
{
    struct stat st;
    return path && stat(path, &st) == 0 && (st.st_mode & S_IFMT) == kind;
}

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory, or a path that is too long");
}

/* What refs/REVISION says; "" where there is none. */
static int read_ref(const char *repo_dir, const char *revision,
                    char commit[PS_HF_COMMIT_DIGITS + 1], struct ps_err *err)
{
    char text[PS_HF_COMMIT_DIGITS + 2] = "";
    char *path = joined(repo_dir, "refs", revision);
    commit[0] = '\0';
    if (!path)
        return no_memory(err);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    ps_free(path);
    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, " \r\n")] = '\0';
    if (ps_hf_is_commit(text))
        memcpy(commit, text, PS_HF_COMMIT_DIGITS + 1);
    return 0;
}

/* The hash that the Hub's cache knows a file by: the name of the blob that the snapshot's link leads to. */
static int held_content(const struct hf_store *s, const char *name, char *out, size_t cap,
                        struct ps_err *err)
{
    char target[PATH_MAX];
    char *path = joined(s->snapshot, name, NULL);
    if (!path)
        return no_memory(err);
    ssize_t n = readlink(path, target, sizeof target - 1);
    ps_free(path);
    target[n > 0 ? n : 0] = '\0';
    const char *slash = strrchr(target, '/');
    snprintf(out, cap, "%.127s", slash ? slash + 1 : target);
    return 0;
}

/* ---- which state of the repository ---- */

static int offline_error(const struct hf_store *s, const char *name, int code, struct ps_err *err)
{
    return ps_err_set(err, code, ORIGIN,
                      "not in the Hub's cache: %s%s%s: looked in %s; %s, or run `hf download %s`",
                      s->base.label, name ? "/" : "", name ? name : "",
                      s->settings.hub_cache ? s->settings.hub_cache : "no folder (HOME is not set)",
                      s->settings.offline ? "unset HF_HUB_OFFLINE" : "check the network",
                      s->ref.repo);
}

/* Asks the Hub which commit the revision is: by a file that every model has. */
static int ask_commit(struct hf_store *s, char commit[PS_HF_COMMIT_DIGITS + 1], struct ps_err *err)
{
    char byte;
    size_t len;
    int rc = ps_source_head(s->net, "config.json", &byte, 1, &len, NULL, err);
    if (rc == 0 || rc == PS_ENOTFOUND)
        rc = 0;
    if (rc == 0 && !ps_hf_origin_commit(s->origin, commit))
        commit[0] = '\0'; /* a mirror that does not tell */
    return rc;
}

static void go_on_without(struct hf_store *s, const char *repo_dir, const struct ps_err *why)
{
    ps_log(PS_LOG_WARN, "fetcher", "the Hub does not answer (%s): going on with its cache: %s",
           why->text, repo_dir);
    pthread_mutex_lock(&s->lock);
    s->cut_off = true;
    pthread_mutex_unlock(&s->lock);
}

/* With a snapshot at hand, files that it lacks (a model has no manifest, say) must not fail for want of a network. */
static void cut_off_if_silent(struct hf_store *s, const char *repo_dir, const char *commit)
{
    struct ps_err why = {0};
    char told[PS_HF_COMMIT_DIGITS + 1];
    char *snapshot = joined(repo_dir, "snapshots", commit);
    bool held = s->net && is_kind(snapshot, S_IFDIR);
    ps_free(snapshot);
    if (held && ask_commit(s, told, &why) == PS_ENET)
        go_on_without(s, repo_dir, &why);
}

/* The commit whose snapshot may be used, "" for none. */
static int find_commit(struct hf_store *s, const char *repo_dir,
                       char commit[PS_HF_COMMIT_DIGITS + 1], struct ps_err *err)
{
    struct ps_err why = {0};
    commit[0] = '\0';
    if (ps_hf_is_commit(s->ref.revision)) {
        memcpy(commit, s->ref.revision, PS_HF_COMMIT_DIGITS + 1);
        cut_off_if_silent(s, repo_dir, commit);
        return 0;
    }
    if (!s->net)
        return read_ref(repo_dir, s->ref.revision, commit, err);
    int rc = ask_commit(s, commit, &why);
    if (rc == PS_ENET && read_ref(repo_dir, s->ref.revision, commit, NULL) == 0 && commit[0]) {
        go_on_without(s, repo_dir, &why);
        return 0;
    }
    if (rc != 0 && err)
        *err = why;
    return rc;
}

static int open_snapshot(struct hf_store *s, const char *repo_dir, const char *commit,
                         struct ps_err *err)
{
    char *snapshots = joined(repo_dir, "snapshots", commit);
    char *dir = snapshots ? joined(snapshots, s->ref.folder[0] ? s->ref.folder : ".", NULL) : NULL;
    ps_free(snapshots);
    if (!dir)
        return no_memory(err);
    const struct ps_store_options o = {.direct_io = s->direct_io, .stats = s->stats};
    struct ps_source *files = NULL;
    int rc = is_kind(dir, S_IFDIR) ? ps_file_store_open(&files, dir, &o, err) : 0;
    if (!files) {
        ps_free(dir);
        return rc;
    }
    ps_log(PS_LOG_INFO, "fetcher", "%s: files of %s are read from the Hub's cache", s->base.label,
           dir);
    pthread_mutex_lock(&s->lock);
    s->files = files;
    s->snapshot = dir;
    memcpy(s->commit, commit, sizeof s->commit);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int look_in_cache(struct hf_store *s, struct ps_err *err)
{
    char commit[PS_HF_COMMIT_DIGITS + 1] = "";
    char *repo_dir = s->settings.hub_cache ? ps_hf_cache_path(&s->ref, s->settings.hub_cache) : NULL;
    int rc = s->settings.hub_cache && !repo_dir ? no_memory(err) : 0;
    if (is_kind(repo_dir, S_IFDIR)) {
        rc = find_commit(s, repo_dir, commit, err);
        if (rc == 0 && commit[0])
            rc = open_snapshot(s, repo_dir, commit, err);
    }
    ps_free(repo_dir);
    return rc == 0 && !s->net && !s->files ? offline_error(s, NULL, PS_EREFUSED, err) : rc;
}

/* Once per source, before its first file. Its outcome holds for all: the retries are behind it. */
static int look(struct hf_store *s, struct ps_err *err)
{
    pthread_mutex_lock(&s->look_lock);
    if (!s->looked)
        s->look_rc = look_in_cache(s, &s->look_err);
    s->looked = true;
    int rc = s->look_rc;
    if (rc != 0 && err)
        *err = s->look_err;
    pthread_mutex_unlock(&s->look_lock);
    return rc;
}

/* ---- which store ---- */

static struct hf_name **bucket_of(struct hf_store *s, const char *name)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return &s->names[h % BUCKETS];
}

/* Weights in the Hub's cache alone make a local model, for which no disk cache is used; one file from the network is
 * enough to want one. Noted when headers are read: before anybody asks. */
static void note_weights_locked(struct hf_store *s, bool held)
{
    s->asks_net |= !held;
    if (s->base.local == s->asks_net)
        s->base.local = !s->asks_net;
}

static struct hf_name *find_locked(struct hf_store *s, const char *name)
{
    struct hf_name *n = *bucket_of(s, name);
    while (n && strcmp(n->name, name) != 0)
        n = n->next;
    return n;
}

/* Decides where a name is read from, for good: a cancel has to reach the store that took the range. NULL when out of
 * memory. */
static struct hf_name *decide_locked(struct hf_store *s, const char *name)
{
    struct hf_name *n = ps_calloc(1, sizeof *n), **bucket = bucket_of(s, name);
    char *copy = n ? ps_strdup(name) : NULL, *path = NULL;
    if (!copy) {
        ps_free(n);
        return NULL;
    }
    if (s->files && ps_name_ok(name, strlen(name)) && !(path = joined(s->snapshot, name, NULL))) {
        ps_free(copy);
        ps_free(n);
        return NULL;
    }
    *n = (struct hf_name){.next = *bucket, .name = copy, .held = is_kind(path, S_IFREG)};
    ps_free(path);
    return *bucket = n;
}

/* The store that has it, or the error that none can. `weights`: it is a shard, which is read by range from the
 * beginning. */
static int choose(struct hf_store *s, const char *name, bool weights, struct ps_source **out,
                  bool *held, struct ps_err *err)
{
    pthread_mutex_lock(&s->lock);
    struct hf_name *n = find_locked(s, name);
    if (!n && (n = decide_locked(s, name)) && weights)
        note_weights_locked(s, n->held);
    bool net = s->net && !s->cut_off;
    *held = n && n->held;
    pthread_mutex_unlock(&s->lock);
    if (!n)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    *out = *held ? s->files : s->net;
    return *held || net ? 0 : offline_error(s, name, PS_ENOTFOUND, err);
}

static int name_version(struct hf_store *s, const char *name, bool held,
                        struct ps_object_info *info, struct ps_err *err)
{
    char content[128];
    if (!info)
        return 0;
    info->etag[0] = '\0'; /* the CDN's, not the file's: another host may give another */
    int rc = held ? held_content(s, name, content, sizeof content, err) : 0;
    if (held && rc == 0)
        (void)ps_hf_identity(info->identity, sizeof info->identity, content, s->commit,
                             s->ref.folder, name);
    return rc;
}

/* ---- the doors ---- */

static int hf_submit(struct ps_source *base, struct ps_range *r, struct ps_err *err)
{
    struct ps_source *from;
    bool held;
    int rc = choose((struct hf_store *)base, r->object, true, &from, &held, err);
    return rc == 0 ? ps_source_submit(from, r, err) : rc;
}

/* The source that was handed this range; NULL: none was. */
static struct ps_source *handed_to(struct hf_store *s, const struct ps_range *r)
{
    pthread_mutex_lock(&s->lock);
    const struct hf_name *n = find_locked(s, r->object);
    struct ps_source *from = !n ? NULL : n->held ? s->files : s->net;
    pthread_mutex_unlock(&s->lock);
    return from;
}

static void hf_cancel(struct ps_source *base, struct ps_range *r)
{
    struct ps_source *from = handed_to((struct hf_store *)base, r);
    if (from)
        ps_source_cancel(from, r);
}

static void hf_await(struct ps_source *base, struct ps_range *r)
{
    struct ps_source *from = handed_to((struct hf_store *)base, r);
    if (from)
        ps_source_await(from, r);
}

static int hf_get(struct ps_source *base, const char *name, const struct ps_terms *terms,
                  uint64_t max_bytes, char **out, size_t *len, struct ps_object_info *info,
                  struct ps_err *err)
{
    struct hf_store *s = (struct hf_store *)base;
    struct ps_source *from;
    char *data;
    bool held;
    int rc = look(s, err);
    if (rc == 0)
        rc = choose(s, name, false, &from, &held, err);
    if (rc == 0)
        rc = from->ops->get(from, name, terms, max_bytes, &data, len, info, err);
    if (rc != 0)
        return rc;
    rc = name_version(s, name, held, info, err);
    if (rc == 0)
        *out = data;
    else
        ps_free(data);
    return rc;
}

static int hf_head(struct ps_source *base, const char *name, const struct ps_terms *terms, void *buf,
                   size_t bytes, size_t *len, struct ps_object_info *info, struct ps_err *err)
{
    struct hf_store *s = (struct hf_store *)base;
    struct ps_source *from;
    bool held;
    int rc = look(s, err);
    if (rc == 0)
        rc = choose(s, name, false, &from, &held, err);
    if (rc == 0)
        rc = from->ops->head(from, name, terms, buf, bytes, len, info, err);
    if (rc == 0)
        rc = name_version(s, name, held, info, err);
    if (rc != 0)
        return rc;
    pthread_mutex_lock(&s->lock);
    note_weights_locked(s, held);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int hf_local_path(struct ps_source *base, const char *name, char **path, struct ps_err *err)
{
    struct hf_store *s = (struct hf_store *)base;
    struct ps_source *from;
    bool held;
    int rc = look(s, err);
    if (rc == 0)
        rc = choose(s, name, false, &from, &held, err);
    if (rc != 0)
        return rc;
    return held ? from->ops->local_path(from, name, path, err)
                : ps_err_set(err, PS_EUNSUPPORTED, ORIGIN, "not a local file: %s/%s", base->label,
                             name);
}

static void hf_close(struct ps_source *base)
{
    struct hf_store *s = (struct hf_store *)base;
    ps_source_close(s->files);
    ps_source_close(s->net); /* and with it the origin, which borrows from us */
    for (unsigned i = 0; i < BUCKETS; i++)
        while (s->names[i]) {
            struct hf_name *n = s->names[i];
            s->names[i] = n->next;
            ps_free(n->name);
            ps_free(n);
        }
    ps_hf_ref_deinit(&s->ref);
    ps_hf_settings_deinit(&s->settings);
    ps_free(s->snapshot);
    ps_free(s->base.label);
    pthread_mutex_destroy(&s->look_lock);
    pthread_mutex_destroy(&s->lock);
    ps_free(s);
}

static const struct ps_source_ops hf_ops = {
    .scheme = "hf",
    .submit = hf_submit,
    .cancel = hf_cancel,
    .await = hf_await,
    .get = hf_get,
    .head = hf_head,
    .local_path = hf_local_path,
    .close = hf_close,
};

static int open_net(struct hf_store *s, const struct ps_store_options *options, struct ps_err *err)
{
    int rc = ps_hf_origin_new(&s->origin, &s->ref, &s->settings, options, err);
    if (rc == 0)
        rc = ps_http_store_start(&s->net, s->origin, options, err);
    return rc;
}

int ps_hf_store_open(struct ps_source **out, const char *address,
                     const struct ps_store_options *options, struct ps_err *err)
{
    struct hf_store *s = ps_calloc(1, sizeof *s);
    if (!s)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    pthread_mutex_init(&s->look_lock, NULL);
    pthread_mutex_init(&s->lock, NULL);
    s->base.ops = &hf_ops;
    s->direct_io = options && options->direct_io;
    s->stats = options ? options->stats : NULL;
    int rc = ps_hf_ref_parse(&s->ref, address, err);
    if (rc == 0)
        rc = ps_hf_settings_read(&s->settings, getenv, err);
    if (rc == 0 && options && options->anonymous)
        ps_hf_settings_forget_user(&s->settings);
    if (rc == 0 && !(s->base.label = ps_hf_label(&s->ref)))
        rc = ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    if (rc == 0 && !s->settings.offline)
        rc = open_net(s, options, err);
    if (rc != 0) {
        hf_close(&s->base);
        return rc;
    }
    s->base.local = s->settings.offline;
    s->base.is_public = s->settings.is_public;
    *out = &s->base;
    return 0;
}
