/* The mirror store over sources in memory that stop where a test wants them to.
 * ctest-labels: threads */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ps_store_open_one fake_open_one
#include "fetcher/mirror_store.c"
#undef ps_store_open_one

#include "tests/support/fake_source.h"
#include "tests/support/test.h"

enum { SOURCES = 3, BYTES = 64 << 10, PIECE = 4096, PATIENCE_S = 20 };

/* A fake source, with doors in front of some of its operations. */
struct place {
    struct ps_source *s;
    struct ps_source_ops inner, ops;
};

static struct place places[SOURCES];
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* lock */
    bool hold_submit; /* of the first place: until the test lets it go, and a while longer if it is not closed */
    bool entered, in_submit;    /* the same: somebody has been in it; is in it */
    bool hold_head, in_head;    /* of the second place */
    bool closed, closed_inside; /* the first place */
    unsigned fails;             /* ranges of the second place that will fail */
} door = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* Waits for a change; false when the time is over. */
static bool wait_locked(pthread_cond_t *c, pthread_mutex_t *lock, long ms)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return pthread_cond_timedwait(c, lock, &t) == 0;
}

static int submit(struct ps_source *s, struct ps_range *r, struct ps_err *err)
{
    pthread_mutex_lock(&door.lock);
    bool held = s == places[0].s && door.hold_submit, closed;
    if (held) {
        door.entered = door.in_submit = true;
        pthread_cond_broadcast(&door.changed);
        while (door.hold_submit && wait_locked(&door.changed, &door.lock, PATIENCE_S * 1000))
            continue;
        while (!door.closed && wait_locked(&door.changed, &door.lock, 300))
            continue;
        door.in_submit = false;
    }
    closed = door.closed;
    pthread_mutex_unlock(&door.lock);
    return held && closed ? PS_ENET : places[0].inner.submit(s, r, err);
}

static int head(struct ps_source *s, const char *object, const struct ps_terms *terms, void *buf,
                size_t bytes, size_t *len, struct ps_object_info *info, struct ps_err *err)
{
    pthread_mutex_lock(&door.lock);
    if (s == places[1].s && door.hold_head) {
        door.in_head = true;
        pthread_cond_broadcast(&door.changed);
        while (door.hold_head && wait_locked(&door.changed, &door.lock, PATIENCE_S * 1000))
            continue;
    }
    pthread_mutex_unlock(&door.lock);
    return places[0].inner.head(s, object, terms, buf, bytes, len, info, err);
}

static void close_place(struct ps_source *s)
{
    pthread_mutex_lock(&door.lock);
    if (s == places[0].s) {
        door.closed = true;
        door.closed_inside = door.in_submit;
        pthread_cond_broadcast(&door.changed);
    }
    pthread_mutex_unlock(&door.lock);
    places[0].inner.close(s);
}

static int on_range(void *user, const struct ps_range *r)
{
    (void)user, (void)r;
    pthread_mutex_lock(&door.lock);
    const bool fail = door.fails > 0;
    door.fails -= fail;
    pthread_mutex_unlock(&door.lock);
    return fail ? PS_ENET : 0;
}

int fake_open_one(struct ps_source **out, const char *address,
                  const struct ps_store_options *options, struct ps_err *err)
{
    (void)options, (void)err;
    *out = places[address[0] - 'a'].s;
    return 0;
}

static struct mirror_store *open_places(unsigned n, const char *const *objects)
{
    static const char *const mirrors[] = {"b", "c"};
    static uint8_t data[BYTES];
    const struct ps_store_options o = {.mirrors = mirrors, .n_mirrors = n - 1};
    struct ps_source *s = NULL;
    for (size_t i = 0; i < BYTES; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    door.closed = door.closed_inside = false;
    for (unsigned i = 0; i < n; i++) {
        struct place *p = &places[i];
        p->s = fake_source_new();
        for (const char *const *name = objects; *name; name++)
            fake_source_put(p->s, *name, data, BYTES, 1);
        p->inner = p->ops = *p->s->ops;
        p->ops.submit = submit;
        p->ops.head = head;
        p->ops.close = close_place;
        p->s->ops = &p->ops;
    }
    fake_source_set_hook(places[1].s, on_range, NULL);
    assert_ok(ps_mirror_store_open(&s, "a", &o, NULL), NULL);
    return (struct mirror_store *)s;
}

static void ask_for(struct mirror_store *m, const char *object)
{
    char *text = NULL;
    size_t len;
    assert_ok(ps_source_get(&m->base, object, BYTES, &text, &len, NULL, NULL), NULL);
    ps_free(text);
}

struct waiting {
    struct ps_range r;
    uint8_t buf[PIECE];
    bool done; /* door.lock */
    int rc;    /* door.lock */
};

static void on_done(struct ps_range *r, int rc, const struct ps_err *err)
{
    struct waiting *w = r->user;
    (void)err;
    pthread_mutex_lock(&door.lock);
    w->rc = rc;
    w->done = true;
    pthread_cond_broadcast(&door.changed);
    pthread_mutex_unlock(&door.lock);
}

static void ask_range(struct mirror_store *m, struct waiting *w, const char *object)
{
    memset(w, 0, sizeof *w);
    w->r = (struct ps_range){.object = object,
                             .offset = BYTES / 2,
                             .bytes = PIECE,
                             .buf = w->buf,
                             .done = on_done,
                             .user = w};
    assert_ok(ps_source_submit(&m->base, &w->r, NULL), NULL);
}

static void set(bool *flag, bool value)
{
    pthread_mutex_lock(&door.lock);
    *flag = value;
    pthread_cond_broadcast(&door.changed);
    pthread_mutex_unlock(&door.lock);
}

/* Waits until *flag; false: it took too long. */
static bool comes_true(const bool *flag)
{
    pthread_mutex_lock(&door.lock);
    while (!*flag && wait_locked(&door.changed, &door.lock, PATIENCE_S * 1000))
        continue;
    const bool came = *flag;
    pthread_mutex_unlock(&door.lock);
    return came;
}

/* A range that has failed at one source is handed to another on the first one's thread; that other must still be there,
 * also if the store is closed meanwhile. */
static void test_close_while_a_range_moves(void **state)
{
    (void)state;
    static const char *const objects[] = {PS_MANIFEST_NAME, "o", NULL};
    struct mirror_store *m = open_places(2, objects);
    static struct waiting w;
    ask_for(m, PS_MANIFEST_NAME); /* hashes prove everything: no proofs */
    ask_range(m, &w, "o");
    assert_true(comes_true(&w.done) && w.rc == 0);
    assert_true(ps_source_distrust(&m->base, "o")); /* so the second is asked before the first */
    door.fails = 1;
    set(&door.hold_submit, true);
    ask_range(m, &w, "o");
    assert_true(comes_true(&door.entered));
    set(&door.hold_submit, false);
    ps_source_close(&m->base);
    assert_true(w.done);
    assert_true(door.closed && !door.closed_inside);
    assert_int_equal(ps_alloc_live_count(), 0);
}

static int last_giver(struct mirror_store *m, const char *object)
{
    pthread_mutex_lock(&m->lock);
    const struct mirror_object *o = mirror_object_locked(m, object);
    const int last = o ? o->last : -1;
    pthread_mutex_unlock(&m->lock);
    return last;
}

/* A manifest that its reader found wrong proves nothing, and is asked for elsewhere whoever is the reference. */
static void test_distrusted_manifest(void **state)
{
    (void)state;
    static const char *const objects[] = {PS_MANIFEST_NAME, "config.json", NULL};
    struct mirror_store *m = open_places(2, objects);
    ask_for(m, "config.json");
    ask_for(m, PS_MANIFEST_NAME);
    assert_true(m->presplit && m->reference == 0);
    assert_true(ps_source_distrust(&m->base, PS_MANIFEST_NAME));
    assert_false(m->presplit);
    ask_for(m, PS_MANIFEST_NAME);
    assert_true(m->presplit && last_giver(m, PS_MANIFEST_NAME) == 1);
    assert_false(ps_source_distrust(&m->base, PS_MANIFEST_NAME));
    assert_false(m->presplit);
    assert_false(ps_source_distrust(&m->base, "config.json")); /* the reference alone has it */
    ps_source_close(&m->base);
    assert_int_equal(ps_alloc_live_count(), 0);
}

/* A server that answers what it lacks with a page: that makes no model pre-split, and nobody the reference. */
static void test_page(void **state)
{
    (void)state;
    static const char *const objects[] = {"config.json", NULL};
    struct mirror_store *m = open_places(2, objects);
    fake_source_remove(places[0].s, "config.json");
    fake_source_set_page(places[0].s, "<!DOCTYPE html><title>log in</title>");
    ask_for(m, PS_MANIFEST_NAME);
    assert_true(!m->presplit && m->reference < 0);
    ask_for(m, "config.json");
    assert_true(m->reference < 0 && last_giver(m, "config.json") == 0);
    assert_true(ps_source_distrust(&m->base, "config.json"));
    ask_for(m, "config.json");
    assert_true(m->reference == 1 && last_giver(m, "config.json") == 1);
    ps_source_close(&m->base);

    m = open_places(2, objects); /* nobody has it, but one gives a page: asked twice, no more */
    fake_source_set_page(places[0].s, "<!DOCTYPE html><title>log in</title>");
    ask_for(m, "tokenizer.json");
    assert_true(ps_source_distrust(&m->base, "tokenizer.json"));
    ask_for(m, "tokenizer.json");
    assert_false(ps_source_distrust(&m->base, "tokenizer.json"));
    ps_source_close(&m->base);
    assert_int_equal(ps_alloc_live_count(), 0);
}

static struct mirror_object *object_sampled(struct mirror_store *m, const char *name)
{
    char bytes[PIECE];
    size_t len;
    assert_ok(ps_source_head(&m->base, name, bytes, sizeof bytes, &len, NULL, NULL), NULL);
    pthread_mutex_lock(&m->lock);
    struct mirror_object *o = mirror_object_locked(m, name);
    while (!o->sampled && wait_locked(&m->wanted, &m->lock, PATIENCE_S * 1000))
        continue;
    assert_int_equal(o->n_samples, PS_MIRROR_SAMPLES);
    pthread_mutex_unlock(&m->lock);
    return o;
}

/* One mirror that does not answer while it is to prove itself must not keep another from doing so. */
static void test_proofs_are_independent(void **state)
{
    (void)state;
    static const char *const objects[] = {"config.json", "one", "two", NULL};
    struct mirror_store *m = open_places(3, objects);
    static struct waiting one, two;
    ask_for(m, "config.json");
    (void)object_sampled(m, "one");
    struct mirror_object *o = object_sampled(m, "two");
    pthread_mutex_lock(&m->lock);
    o->wary |= 1u << 1; /* the second lacks it */
    pthread_mutex_unlock(&m->lock);
    fake_source_fail(places[0].s, "one", PS_ENET);
    fake_source_fail(places[0].s, "two", PS_ENET);
    set(&door.hold_head, true);
    ask_range(m, &one, "one");
    assert_true(comes_true(&door.in_head));
    ask_range(m, &two, "two");
    const bool came = comes_true(&two.done);
    pthread_mutex_lock(&door.lock);
    const bool slow = !one.done;
    door.hold_head = false;
    pthread_cond_broadcast(&door.changed);
    pthread_mutex_unlock(&door.lock);
    assert_true(came && two.rc == 0 && slow);
    assert_true(comes_true(&one.done) && one.rc == 0);
    ps_source_close(&m->base);
    assert_int_equal(ps_alloc_live_count(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_close_while_a_range_moves),
        cmocka_unit_test(test_distrusted_manifest),
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_proofs_are_independent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
