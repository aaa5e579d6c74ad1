/* Small files in the cache: of several who want one, the first fetches it and the others get it from him, in the
 * version that the source has now; and nobody is kept waiting by one who is killed, stopped or told nothing.
 * ctest-timeout: 120 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "runtime/kept_files.h"
#include "tests/support/crash_cache.h"
#include "tests/support/fake_source.h"
#include "tests/support/test.h"

#define NAME      "tokenizer.json"
#define BUDGET    (64u << 20)
#define BIG_BYTES (5u << 20) /* two parts */
#define MAX_BYTES (64u << 20)
#define PATIENCE  30 /* seconds until a test gives up */

static void pause_ms(long ms)
{
    const struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static void name_of(char path[300], const char *folder, const char *what)
{
    snprintf(path, 300, "%s.%s", folder, what);
}

static void say(const char *folder, const char *what)
{
    char path[300];
    name_of(path, folder, what);
    test_write_file(path, "x", 1);
}

static bool was_said(const char *folder, const char *what)
{
    char path[300];
    name_of(path, folder, what);
    return access(path, F_OK) == 0;
}

static void unsay(const char *folder, const char *what)
{
    char path[300];
    name_of(path, folder, what);
    unlink(path);
}

static bool hears(const char *folder, const char *what)
{
    const uint64_t start_ns = ps_now_ns();
    while (!was_said(folder, what) && ps_seconds_since(start_ns) < PATIENCE)
        pause_ms(2);
    return was_said(folder, what);
}

/* ---- a source that counts, and that may be slow ---- */

static struct ps_source_ops counting_ops;
static const struct ps_source_ops *plain_ops;
static atomic_uint n_gets, n_heads;
static const char *slow_folder; /* what is asked for comes when "go" is said there */

static int counting_get(struct ps_source *s, const char *object, const struct ps_terms *terms,
                        uint64_t max, char **out, size_t *len, struct ps_object_info *info,
                        struct ps_err *err)
{
    atomic_fetch_add(&n_gets, 1);
    const int rc = plain_ops->get(s, object, terms, max, out, len, info, err);
    if (slow_folder) {
        say(slow_folder, "asked");
        (void)hears(slow_folder, "go");
    }
    return rc;
}

static int counting_head(struct ps_source *s, const char *object, const struct ps_terms *terms,
                         void *buf, size_t bytes, size_t *len, struct ps_object_info *info,
                         struct ps_err *err)
{
    atomic_fetch_add(&n_heads, 1);
    return plain_ops->head(s, object, terms, buf, bytes, len, info, err);
}

/* Bytes that differ from version to version. */
static void fill(char *bytes, size_t len, unsigned version)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)('a' + (i / 7 + i % 13 + version) % 23);
}

static void put_version(struct ps_source *s, size_t len, unsigned version, bool named)
{
    char *bytes = ps_malloc(len);
    assert_non_null(bytes);
    fill(bytes, len, version);
    fake_source_put(s, NAME, bytes, len, named ? version : 0);
    ps_free(bytes);
}

struct fixture {
    struct ps_source *source;
    struct ps_model_files files; /* of a plain folder */
    struct ps_kept kept;
};

static void begin(struct fixture *f, const char *folder, size_t len, unsigned version, bool named)
{
    memset(f, 0, sizeof *f);
    f->source = fake_source_new();
    plain_ops = f->source->ops;
    counting_ops = *plain_ops;
    counting_ops.get = counting_get;
    counting_ops.head = counting_head;
    f->source->ops = &counting_ops;
    atomic_store(&n_gets, 0);
    atomic_store(&n_heads, 0);
    put_version(f->source, len, version, named);
    f->kept = (struct ps_kept){.source = f->source,
                               .files = &f->files,
                               .cache = crash_open(folder, BUDGET),
                               .shares = true};
    f->kept.model = crash_model(f->kept.cache, 1);
}

static void end(struct fixture *f)
{
    ps_cache_close(f->kept.cache);
    ps_source_close(f->source);
}

/* Whether these are the bytes of that version. */
static bool is_version(const char *bytes, size_t len, size_t want_len, unsigned version)
{
    char *want = ps_malloc(want_len);
    assert_non_null(want);
    fill(want, want_len, version);
    const bool same = len == want_len && memcmp(bytes, want, len) == 0 && bytes[len] == '\0';
    ps_free(want);
    return same;
}

static void assert_gets(const struct ps_kept *k, size_t want_len, unsigned version)
{
    struct ps_err err = {0};
    char *bytes = NULL;
    size_t len = 0;
    assert_ok(ps_kept_get(&bytes, &len, k, NAME, MAX_BYTES, &err), &err);
    assert_true(is_version(bytes, len, want_len, version));
    ps_free(bytes);
}

/* ---- the first ---- */

/* Has asked for the file, and waits for it until "go". Named: by the source, with a version. */
static int child_leads(const char *folder, uint64_t len, uint64_t version)
{
    struct fixture f;
    char *bytes = NULL;
    size_t n = 0;
    begin(&f, folder, len, (unsigned)(version & 0xff), version < 0x100);
    slow_folder = folder;
    const int rc = ps_kept_get(&bytes, &n, &f.kept, NAME, MAX_BYTES, NULL);
    const bool right = rc == 0 && is_version(bytes, n, len, (unsigned)(version & 0xff));
    ps_free(bytes);
    if (hears(folder, "end"))
        end(&f);
    return right ? 0 : 2;
}

#define UNNAMED 0x100

static int lead(size_t len, unsigned version)
{
    unsay(test_dir, "asked");
    unsay(test_dir, "go");
    unsay(test_dir, "end");
    const int pid = crash_spawn("lead", test_dir, len, version);
    assert_true(hears(test_dir, "asked"));
    return pid;
}

static void leave_nothing(void)
{
    unsay(test_dir, "asked");
    unsay(test_dir, "go");
    unsay(test_dir, "end");
}

static void let_end(int pid)
{
    say(test_dir, "go");
    say(test_dir, "end");
    assert_true(crash_wait(pid));
    leave_nothing();
}

/* ---- the second, on a thread of its own ---- */

struct second {
    pthread_t thread;
    const struct ps_kept *kept;
    char *bytes;
    size_t len;
    int rc;
    atomic_bool done;
};

static void *second_main(void *user)
{
    struct second *s = user;
    s->rc = ps_kept_get(&s->bytes, &s->len, s->kept, NAME, MAX_BYTES, NULL);
    atomic_store(&s->done, true);
    return NULL;
}

static void start_second(struct second *s, const struct ps_kept *k)
{
    memset(s, 0, sizeof *s);
    s->kept = k;
    assert_int_equal(pthread_create(&s->thread, NULL, second_main, s), 0);
    const uint64_t start_ns = ps_now_ns();
    while (atomic_load(&n_heads) == 0 && ps_seconds_since(start_ns) < PATIENCE)
        pause_ms(2);
    pause_ms(20); /* it waits by now, or it never will */
}

static void join_second(struct second *s, size_t want_len, unsigned version)
{
    pthread_join(s->thread, NULL);
    assert_int_equal(s->rc, 0);
    assert_true(is_version(s->bytes, s->len, want_len, version));
    ps_free(s->bytes);
}

/* ---- tests ---- */

static void one_fetches_for_two(void **state)
{
    (void)state;
    struct fixture f;
    struct second s;
    const int pid = lead(BIG_BYTES, 1);
    begin(&f, test_dir, BIG_BYTES, 1, true);
    start_second(&s, &f.kept);
    assert_false(atomic_load(&s.done));
    const uint64_t start_ns = ps_now_ns();
    say(test_dir, "go");
    join_second(&s, BIG_BYTES, 1);
    printf("    %.0f ms behind the first\n", 1000 * ps_seconds_since(start_ns));
    assert_int_equal(atomic_load(&n_gets), 0);
    assert_int_equal(atomic_load(&n_heads), 1);
    assert_gets(&f.kept, BIG_BYTES, 1); /* and so does who comes later */
    assert_int_equal(atomic_load(&n_gets), 0);
    assert_int_equal(atomic_load(&n_heads), 2);
    end(&f);
    let_end(pid);
    uint64_t checked, bad;
    struct ps_cache *c = crash_open(test_dir, BUDGET);
    assert_int_equal(ps_cache_verify(c, true, false, NULL, NULL, &checked, &bad, NULL), 0);
    assert_int_equal(checked, 3); /* two parts and the mark: nothing is left of the turn */
    assert_int_equal(bad, 0);
    ps_cache_close(c);
}

static void goes_on_without_the_first(int how)
{
    struct fixture f;
    struct second s;
    const int pid = lead(BIG_BYTES, 1);
    begin(&f, test_dir, BIG_BYTES, 1, true);
    start_second(&s, &f.kept);
    assert_false(atomic_load(&s.done));
    kill(pid, how);
    const uint64_t start_ns = ps_now_ns();
    join_second(&s, BIG_BYTES, 1);
    const double seconds = ps_seconds_since(start_ns);
    printf("    %.2f s\n", seconds);
    assert_true(seconds < 15); /* 0.25 and 6, not the deadline of a claim */
    assert_int_equal(atomic_load(&n_gets), 1);
    assert_int_equal(atomic_load(&n_heads), 1);
    if (how == SIGSTOP) {
        kill(pid, SIGCONT);
        let_end(pid); /* what it has got is kept already: no harm */
    } else {
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        leave_nothing();
    }
    assert_gets(&f.kept, BIG_BYTES, 1);
    assert_int_equal(atomic_load(&n_gets), 1); /* what the second fetched was kept in its place */
    end(&f);
}

static void the_first_is_killed(void **state)
{
    (void)state;
    goes_on_without_the_first(SIGKILL);
}

static void the_first_is_stopped(void **state)
{
    (void)state;
    goes_on_without_the_first(SIGSTOP);
}

/* The first one's request began before the file changed, the second one's after. */
static void the_file_changes_in_between(void **state)
{
    (void)state;
    struct fixture f;
    struct second s;
    const int pid = lead(BIG_BYTES, 1);
    begin(&f, test_dir, BIG_BYTES, 2, true);
    start_second(&s, &f.kept);
    say(test_dir, "go");
    join_second(&s, BIG_BYTES, 2);
    assert_int_equal(atomic_load(&n_gets), 1);
    assert_gets(&f.kept, BIG_BYTES, 2);
    assert_int_equal(atomic_load(&n_gets), 1); /* kept, as the other version is */
    end(&f);
    let_end(pid);
}

/* Where no version is named, nobody waits, and nothing is kept. */
static void without_a_version(void **state)
{
    (void)state;
    struct fixture f;
    const int pid = lead(BIG_BYTES, 1 | UNNAMED);
    begin(&f, test_dir, BIG_BYTES, 2, false);
    assert_gets(&f.kept, BIG_BYTES, 2);
    assert_int_equal(atomic_load(&n_gets), 1);
    let_end(pid);
    assert_gets(&f.kept, BIG_BYTES, 2);
    assert_int_equal(atomic_load(&n_gets), 2);
    assert_int_equal(ps_cache_model_bytes(f.kept.cache, f.kept.model), 0);
    end(&f);
}

/* A small file comes with the answer that names its version: nobody waits for that. */
static void a_small_file(void **state)
{
    (void)state;
    struct fixture f;
    const int pid = lead(300, 1);
    begin(&f, test_dir, 300, 1, true);
    assert_gets(&f.kept, 300, 1);
    assert_int_equal(atomic_load(&n_gets), 0);
    assert_int_equal(atomic_load(&n_heads), 1);
    let_end(pid);
    assert_gets(&f.kept, 300, 1); /* alone: as if there were no cache */
    assert_int_equal(atomic_load(&n_gets), 1);
    assert_int_equal(atomic_load(&n_heads), 1);
    assert_int_equal(ps_cache_model_bytes(f.kept.cache, f.kept.model), 0);
    end(&f);
}

/* Who has no room for all of the model waits for nobody and keeps nothing. */
static void without_room(void **state)
{
    (void)state;
    struct fixture f;
    const int pid = lead(BIG_BYTES, 1);
    begin(&f, test_dir, BIG_BYTES, 1, true);
    f.kept.shares = false;
    assert_gets(&f.kept, BIG_BYTES, 1);
    assert_int_equal(atomic_load(&n_gets), 1);
    assert_int_equal(atomic_load(&n_heads), 0);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    leave_nothing();
    end(&f);
}

/* One alone asks once, and is no slower for it: the version comes with the file. */
static void alone(void **state)
{
    (void)state;
    struct fixture f;
    begin(&f, test_dir, BIG_BYTES, 1, true);
    assert_gets(&f.kept, BIG_BYTES, 1);
    assert_int_equal(atomic_load(&n_gets), 1);
    assert_int_equal(atomic_load(&n_heads), 0);
    put_version(f.source, BIG_BYTES, 2, true);
    assert_gets(&f.kept, BIG_BYTES, 2);
    assert_int_equal(atomic_load(&n_gets), 2);
    assert_int_equal(atomic_load(&n_heads), 1);
    end(&f);
}

static void an_interrupt_ends_the_wait(void **state)
{
    (void)state;
    struct fixture f;
    struct second s;
    atomic_int interrupt = 0;
    const int pid = lead(BIG_BYTES, 1);
    begin(&f, test_dir, BIG_BYTES, 1, true);
    f.kept.interrupt = &interrupt;
    start_second(&s, &f.kept);
    assert_false(atomic_load(&s.done));
    atomic_store(&interrupt, 1);
    pthread_join(s.thread, NULL);
    assert_int_equal(s.rc, PS_EINTERRUPTED);
    assert_int_equal(atomic_load(&n_gets), 0);
    end(&f);
    let_end(pid);
}

#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, test_dir_setup, test_dir_teardown)

int main(int argc, char **argv)
{
    if (argc == 5)
        return child_leads(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
    const struct CMUnitTest tests[] = {
        WITH_FOLDER(one_fetches_for_two),
        WITH_FOLDER(the_first_is_killed),
        WITH_FOLDER(the_first_is_stopped),
        WITH_FOLDER(the_file_changes_in_between),
        WITH_FOLDER(without_a_version),
        WITH_FOLDER(a_small_file),
        WITH_FOLDER(without_room),
        WITH_FOLDER(alone),
        WITH_FOLDER(an_interrupt_ends_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
