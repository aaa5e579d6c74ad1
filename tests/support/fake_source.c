/* A source in memory: tests put objects in, the code under test asks for them. */
#include "tests/support/fake_source.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "tests/support/test.h"

enum { MAX_OBJECTS = 512 };

struct object {
    char name[256];
    uint8_t *bytes; /* NULL: only faults are known of it */
    size_t len;
    unsigned version;
    int fail;
    unsigned corrupt;
};

struct fake {
    struct ps_source base;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct object objects[MAX_OBJECTS]; /* lock */
    unsigned n_objects;                 /* lock */
    unsigned requests;                  /* lock */
    const char *page;                   /* lock */
    int (*hook)(void *user, const struct ps_range *r);
    void *hook_user;
    struct ps_range *head, *tail; /* lock: submitted, not yet delivered */
    bool stopping;                /* lock */
    pthread_t thread;
};

static struct object *find(struct fake *f, const char *name)
{
    for (unsigned i = 0; i < f->n_objects; i++)
        if (strcmp(f->objects[i].name, name) == 0)
            return &f->objects[i];
    return NULL;
}

static struct object *find_or_add(struct fake *f, const char *name)
{
    struct object *o = find(f, name);
    if (o)
        return o;
    assert_true(f->n_objects < MAX_OBJECTS);
    o = &f->objects[f->n_objects++];
    memset(o, 0, sizeof(*o));
    snprintf(o->name, sizeof(o->name), "%s", name);
    return o;
}

static void fill_info(const struct object *o, struct ps_object_info *info)
{
    memset(info, 0, sizeof(*info));
    if (o->version == 0)
        return;
    info->bytes = o->len;
    snprintf(info->etag, sizeof(info->etag), "\"%u\"", o->version);
    snprintf(info->identity, sizeof(info->identity), "fake/%.200s|%u", o->name, o->version);
}

/* Copies [offset, offset + bytes) of an object, or of the page that stands in for it. *got is less
 * where it ends earlier. */
static int copy_out(struct fake *f, const char *name, uint64_t offset, void *buf, uint64_t bytes,
                    size_t *got, struct ps_object_info *info, struct ps_err *err)
{
    struct object page = {.bytes = (uint8_t *)(uintptr_t)f->page,
                          .len = f->page ? strlen(f->page) : 0};
    struct object *o = find(f, name);
    f->requests++;
    if (o && o->fail)
        return ps_err_set(err, o->fail, "fake", "%s: told to fail", name);
    if (!o || !o->bytes)
        o = f->page ? &page : NULL;
    if (!o)
        return ps_err_set(err, PS_ENOTFOUND, "fake", "%s: not found", name);
    uint64_t n = offset >= o->len ? 0 : o->len - offset < bytes ? o->len - offset : bytes;
    if (n)
        memcpy(buf, o->bytes + offset, n);
    if (n && o->corrupt) {
        ((uint8_t *)buf)[n - 1] ^= 1;
        o->corrupt--;
    }
    *got = (size_t)n;
    if (info)
        fill_info(o, info);
    return 0;
}

static size_t length_of(struct fake *f, const char *name)
{
    const struct object *o = find(f, name);
    return o && o->bytes ? o->len : f->page ? strlen(f->page) : 0;
}

static int fake_get(struct ps_source *s, const char *name, const struct ps_terms *terms, uint64_t max,
                    char **out, size_t *len, struct ps_object_info *info, struct ps_err *err)
{
    (void)terms;
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    size_t size = length_of(f, name);
    int rc = 0;
    char *bytes = NULL;
    if (size > max)
        rc = ps_err_set(err, PS_EDATA, "fake", "%s: too large", name);
    else if (size != 0 && !(bytes = ps_malloc(size + 1)))
        rc = ps_err_set(err, PS_ENOMEM, "fake", "%s: out of memory", name);
    if (rc == 0)
        rc = copy_out(f, name, 0, bytes, size, &size, info, err);
    pthread_mutex_unlock(&f->lock);
    if (rc == 0 && !bytes && !(bytes = ps_malloc(1)))
        rc = ps_err_set(err, PS_ENOMEM, "fake", "%s: out of memory", name);
    if (rc != 0) {
        ps_free(bytes);
        return rc;
    }
    bytes[size] = '\0';
    *out = bytes;
    *len = size;
    return 0;
}

static int fake_head(struct ps_source *s, const char *name, const struct ps_terms *terms, void *buf,
                     size_t bytes, size_t *len, struct ps_object_info *info, struct ps_err *err)
{
    (void)terms;
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    int rc = copy_out(f, name, 0, buf, bytes, len, info, err);
    pthread_mutex_unlock(&f->lock);
    return rc;
}

static int deliver(struct fake *f, struct ps_range *r, struct ps_err *err)
{
    struct ps_object_info info;
    size_t got;
    int rc = f->hook ? f->hook(f->hook_user, r) : 0;
    if (rc != 0)
        return ps_err_set(err, rc, "fake", "%s: the hook said so", r->object);
    pthread_mutex_lock(&f->lock);
    rc = copy_out(f, r->object, r->offset, r->buf, r->bytes, &got, &info, err);
    pthread_mutex_unlock(&f->lock);
    if (rc != 0)
        return rc;
    if (got != r->bytes || (r->object_bytes && info.bytes && info.bytes != r->object_bytes))
        return ps_err_set(err, PS_EDATA, "fake", "%s: has another size", r->object);
    if (r->etag && info.etag[0] && strcmp(r->etag, info.etag) != 0)
        return ps_err_set(err, PS_EDATA, "fake", "%s: changed under way", r->object);
    uint8_t sha[PS_SHA256_BYTES];
    ps_sha256_once(r->buf, r->bytes, sha);
    if (r->sha256 && memcmp(sha, r->sha256, sizeof(sha)) != 0)
        return ps_err_set(err, PS_EDATA, "fake", "%s: wrong hash", r->object);
    return 0;
}

static void *serve(void *user)
{
    struct fake *f = user;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (!f->head && !f->stopping)
            pthread_cond_wait(&f->wake, &f->lock);
        struct ps_range *r = f->head;
        if (!r)
            break;
        f->head = r->next;
        if (!f->head)
            f->tail = NULL;
        pthread_mutex_unlock(&f->lock);
        struct ps_err err = {0};
        int rc = deliver(f, r, &err);
        r->done(r, rc, &err);
        pthread_mutex_lock(&f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

static int fake_submit(struct ps_source *s, struct ps_range *r, struct ps_err *err)
{
    struct fake *f = (struct fake *)s;
    (void)err;
    pthread_mutex_lock(&f->lock);
    r->next = NULL;
    if (f->tail)
        f->tail->next = r;
    else
        f->head = r;
    f->tail = r;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static void fake_cancel(struct ps_source *s, struct ps_range *r)
{
    (void)s;
    (void)r; /* it is delivered soon enough */
}

static int fake_local_path(struct ps_source *s, const char *name, char **path, struct ps_err *err)
{
    (void)s;
    (void)path;
    return ps_err_set(err, PS_EUNSUPPORTED, "fake", "%s: has no path", name);
}

static void fake_close(struct ps_source *s)
{
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    for (unsigned i = 0; i < f->n_objects; i++)
        ps_free(f->objects[i].bytes);
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->lock);
    ps_free(f);
}

struct ps_source *fake_source_new(void)
{
    static const struct ps_source_ops ops = {.scheme = "fake",
                                             .submit = fake_submit,
                                             .cancel = fake_cancel,
                                             .get = fake_get,
                                             .head = fake_head,
                                             .local_path = fake_local_path,
                                             .close = fake_close};
    static char label[] = "fake://model";
    struct fake *f = ps_calloc(1, sizeof(*f));
    assert_non_null(f);
    f->base.ops = &ops;
    f->base.label = label;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->wake, NULL);
    assert_int_equal(pthread_create(&f->thread, NULL, serve, f), 0);
    return &f->base;
}

void fake_source_put(struct ps_source *s, const char *name, const void *bytes, size_t len,
                     unsigned version)
{
    struct fake *f = (struct fake *)s;
    uint8_t *copy = ps_malloc(len);
    assert_non_null(copy);
    memcpy(copy, bytes, len);
    pthread_mutex_lock(&f->lock);
    struct object *o = find_or_add(f, name);
    ps_free(o->bytes);
    o->bytes = copy;
    o->len = len;
    o->version = version;
    pthread_mutex_unlock(&f->lock);
}

void fake_source_remove(struct ps_source *s, const char *name)
{
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    struct object *o = find_or_add(f, name);
    ps_free(o->bytes);
    o->bytes = NULL;
    pthread_mutex_unlock(&f->lock);
}

void fake_source_fail(struct ps_source *s, const char *name, int code)
{
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    find_or_add(f, name)->fail = code;
    pthread_mutex_unlock(&f->lock);
}

void fake_source_corrupt(struct ps_source *s, const char *name, unsigned times)
{
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    find_or_add(f, name)->corrupt = times;
    pthread_mutex_unlock(&f->lock);
}

void fake_source_set_page(struct ps_source *s, const char *html)
{
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    f->page = html;
    pthread_mutex_unlock(&f->lock);
}

void fake_source_set_hook(struct ps_source *s, int (*hook)(void *user, const struct ps_range *r),
                          void *user)
{
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    f->hook_user = user;
    f->hook = hook;
    pthread_mutex_unlock(&f->lock);
}

unsigned fake_source_requests(struct ps_source *s)
{
    struct fake *f = (struct fake *)s;
    pthread_mutex_lock(&f->lock);
    unsigned n = f->requests;
    pthread_mutex_unlock(&f->lock);
    return n;
}
