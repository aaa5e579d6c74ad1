/* Several sessions and other calls on one engine, through the public interface, on the CPU and on the fake device: each
 * may have all planned anew, under the feet of the others. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/host.h"
#include "penstock/penstock.h"
#include "runtime/engine.h"
#include "tests/support/test.h"

enum { MOST = 64, MOST_ROWS = 1024 };
static const char *const DEVICES[] = {"cpu", "fake"};

static char trace_path[64];

static void models_folder(char out[4096])
{
    const char *dir = getenv("PENSTOCK_SOURCE_DIR");
    snprintf(out, 4096, "%s/models", dir ? dir : ".");
}

static struct ps_engine *open_model(const char *model, const char *cache, const char *device,
                                    const char *ram, const char *vram)
{
    struct ps_engine *e = NULL;
    struct ps_error err = {0};
    struct ps_engine_options o = {.struct_size = sizeof o,
                                  .model = model,
                                  .cache_dir = cache,
                                  .disk = cache ? "100%" : "0", /* probes are not saved then */
                                  .without_tokenizer = 1,
                                  .threads = 1,
                                  .ctx_size = 16,
                                  .max_rows = 4,
                                  .ram = ram,
                                  .device = device,
                                  .vram = vram};
    if (ps_engine_open(&e, &o, &err) < 0)
        fail_msg("%s: %s", device, err.text);
    return e;
}

static struct ps_engine *open_engine(const char *device, const char *ram, const char *vram)
{
    char folder[4096], model[4200];
    models_folder(folder);
    snprintf(model, sizeof model, "%s/kjv", folder);
    return open_model(model, NULL, device, ram, vram);
}

/* The fake writes down what a device did when it is closed. Returns the most memory that was taken of it. */
static uint64_t close_engine(struct ps_engine *e, const char *device)
{
    char *text = NULL;
    size_t n;
    ps_engine_close(e);
    if (strcmp(device, "fake") != 0)
        return 0;
    assert_int_equal(ps_file_read(&text, &n, trace_path, 65536, NULL), 0);
    static const char *const NONE[] = {"\"live_bytes\": 0,", "\"live_allocs\": 0,",
                                       "\"pinned_bytes\": 0,", "\"races\": 0,"};
    for (size_t i = 0; i < sizeof NONE / sizeof NONE[0]; i++)
        if (!strstr(text, NONE[i]))
            fail_msg("not %s: %s", NONE[i], text);
    const char *peak = strstr(text, "\"peak_bytes\": ");
    assert_non_null(peak);
    uint64_t most = strtoull(peak + strlen("\"peak_bytes\": "), NULL, 10);
    ps_free(text);
    unlink(trace_path);
    return most;
}

static struct ps_session *new_session(struct ps_engine *e, uint32_t ctx)
{
    struct ps_session_options o = {.struct_size = sizeof o, .ctx_size = ctx};
    struct ps_session *s = NULL;
    struct ps_error err = {0};
    if (ps_session_new(&s, e, &o, &err) < 0)
        fail_msg("a session of %u: %s", ctx, err.text);
    return s;
}

struct ids {
    uint32_t id[MOST];
    size_t n;
};

static int on_token(void *user, const char *text, size_t len, uint32_t id)
{
    struct ids *t = user;
    (void)text, (void)len;
    assert_true(t->n < MOST);
    t->id[t->n++] = id;
    return 0;
}

/* Four ids after a prompt of n, appended to what `t` holds. */
static void generate(struct ids *t, struct ps_session *s, size_t n)
{
    uint32_t prompt[MOST];
    struct ps_error err = {0};
    struct ps_generate_options o = {.struct_size = sizeof o, .n_predict = 4, .ignore_eos = 1};
    for (size_t i = 0; i < n; i++)
        prompt[i] = (uint32_t)(3 + 7 * i);
    if (ps_session_generate(s, prompt, n, &o, on_token, t, &err) < 0)
        fail_msg("%zu rows: %s", n, err.text);
}

static int logits(struct ps_engine *e, size_t n, float **out)
{
    uint32_t ids[MOST_ROWS], vocab;
    struct ps_error err = {0};
    assert_true(n <= MOST_ROWS);
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)(3 + i);
    ps_engine_logits(e, ids, n, NULL, 0, &vocab, &err);
    float *all = malloc(n * vocab * sizeof *all);
    int rc = ps_engine_logits(e, ids, n, all, n * vocab, &vocab, &err);
    if (out)
        *out = all;
    else
        free(all);
    return rc;
}

/* What two sessions say that have an engine each. */
static void alone(struct ids *a, struct ids *b, const char *device)
{
    struct ps_engine *e = open_engine(device, NULL, "50%");
    struct ps_session *s = new_session(e, 32);
    memset(a, 0, sizeof *a);
    memset(b, 0, sizeof *b);
    generate(a, s, 4);
    generate(a, s, 3);
    ps_session_free(s);
    close_engine(e, device);
    e = open_engine(device, NULL, "50%");
    s = new_session(e, 64);
    generate(b, s, 12);
    generate(b, s, 20);
    ps_session_free(s);
    close_engine(e, device);
}

static void test_two_sessions(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof DEVICES / sizeof DEVICES[0]; i++) {
        struct ids want_a, want_b, a = {0}, b = {0};
        alone(&want_a, &want_b, DEVICES[i]);
        struct ps_engine *e = open_engine(DEVICES[i], NULL, "50%");
        struct ps_session *s = new_session(e, 32);
        generate(&a, s, 4);
        struct ps_session *t = new_session(e, 64); /* more than was planned */
        generate(&b, t, 12);
        generate(&a, s, 3);
        generate(&b, t, 20);
        ps_session_free(s);
        ps_session_free(t);
        close_engine(e, DEVICES[i]);
        assert_memory_equal(&a, &want_a, sizeof a);
        assert_memory_equal(&b, &want_b, sizeof b);
    }
}

/* A cache of a group: the figures beside it are the group's, whatever the umask; in any other folder the user's
 * alone. */
static void test_probes_of_a_group(void **state)
{
    (void)state;
    static const struct {
        mode_t folder, file;
    } cases[] = {{02770, 0660}, {0700, 0600}};
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        char dir[] = "/tmp/penstock-probes-XXXXXX", path[64];
        const struct ps_probes p = {.link_bytes_s = 5, .wall_s = 7};
        struct ps_probes q = {0};
        struct stat st;
        assert_non_null(mkdtemp(dir));
        assert_int_equal(chmod(dir, cases[i].folder), 0);
        const mode_t before = umask(077);
        assert_true(ps_probes_save(&p, dir));
        umask(before);
        snprintf(path, sizeof path, "%s/probes.json", dir);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, cases[i].file);
        ps_probes_load(&q, dir);
        assert_true(q.link_bytes_s == 5 && q.wall_s == 7);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rmdir(dir), 0);
    }
}

static void test_logits_and_probes_between(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof DEVICES / sizeof DEVICES[0]; i++) {
        struct ids want, unused, got = {0};
        struct ps_error err = {0};
        float *first, *second;
        char *json = NULL;
        alone(&want, &unused, DEVICES[i]);
        struct ps_engine *e = open_engine(DEVICES[i], NULL, "50%");
        struct ps_session *s = new_session(e, 32);
        generate(&got, s, 4);
        assert_int_equal(logits(e, 3, &first), 0);
        assert_int_equal(logits(e, 40, &second), 0);
        assert_memory_equal(first, second, sizeof *first * 16);
        assert_int_equal(ps_engine_probe_json(&json, e, 0.1, &err), 0);
        generate(&got, s, 3);
        assert_memory_equal(&got, &want, sizeof got);
        ps_string_free(json);
        free(first);
        free(second);
        ps_session_free(s);
        close_engine(e, DEVICES[i]);
    }
}

/* What does not fit is refused, and is not asked for again by those who come next. */
static void test_too_much(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof DEVICES / sizeof DEVICES[0]; i++) {
        struct ids want, unused, got = {0};
        struct ps_session *large = NULL;
        struct ps_session_options o = {.struct_size = sizeof o, .ctx_size = 1u << 20};
        struct ps_error err = {0};
        alone(&want, &unused, DEVICES[i]);
        struct ps_engine *e = open_engine(DEVICES[i], "24M", "24M");
        struct ps_session *s = new_session(e, 32);
        generate(&got, s, 4);
        assert_true(ps_session_new(&large, e, &o, &err) < 0);
        assert_int_equal(err.exit_status, 5);
        generate(&got, s, 3);
        assert_memory_equal(&got, &want, sizeof got);
        ps_session_free(s);
        s = new_session(e, 32);
        ps_session_free(s);
        close_engine(e, DEVICES[i]);
    }
}

/* As many sessions as the budgets hold; the next is refused, and told what would do. */
static size_t fill(struct ps_session **list, size_t most, struct ps_engine *e, uint32_t ctx)
{
    struct ps_session_options o = {.struct_size = sizeof o, .ctx_size = ctx};
    struct ps_error err = {0};
    size_t n = 0;
    while (n < most && ps_session_new(&list[n], e, &o, &err) == 0)
        n++;
    assert_true(n < most);
    assert_int_equal(err.exit_status, 5);
    if (!strstr(err.text, "the least that works here is "))
        fail_msg("no least in: %s", err.text);
    return n;
}

/* All that live together stay within --ram and --vram, whatever comes: a session, a longer prompt, logits. */
static void test_budget_of_all(void **state)
{
    (void)state;
    const uint64_t budget = 32u << 20, apart = 1u << 20; /* arch, map, threads: no part of a plan */
    for (size_t i = 0; i < sizeof DEVICES / sizeof DEVICES[0]; i++) {
        struct ps_session *list[16];
        struct ids want = {0}, got[16] = {0};
        struct ps_engine *e = open_engine(DEVICES[i], NULL, "50%");
        list[0] = new_session(e, 2048);
        generate(&want, list[0], 20);
        generate(&want, list[0], 3);
        ps_session_free(list[0]);
        close_engine(e, DEVICES[i]);
        e = open_engine(DEVICES[i], "32M", "32M");
        size_t n = fill(list, 16, e, 2048);
        assert_true(n >= 2);
        for (size_t k = 0; k < n; k++)
            generate(&got[k], list[k], 20);
        int rc = logits(e, 600, NULL); /* 7 MB of results beside what they take */
        assert_true(rc == 0 || rc == PS_EBUDGET);
        assert_true(ps_alloc_live_bytes() <= budget + apart);
        ps_session_free(list[0]);
        ps_session_free(list[1]);
        assert_int_equal(logits(e, 40, NULL), 0);
        list[0] = new_session(e, 2048);
        got[0].n = 0;
        generate(&got[0], list[0], 20);
        generate(&got[0], list[0], 3);
        assert_memory_equal(&got[0], &want, sizeof want);
        for (size_t k = 2; k < n; k++) {
            generate(&got[k], list[k], 3);
            assert_memory_equal(&got[k], &want, sizeof want);
        }
        assert_true(ps_alloc_live_bytes() <= budget + apart);
        for (size_t k = 0; k < n; k++)
            if (k != 1)
                ps_session_free(list[k]);
        assert_true(close_engine(e, DEVICES[i]) <= budget);
    }
}

/* With the least RAM a prompt is worked on in small chunks: the same logits to the bit. */
static void test_small_chunks(void **state)
{
    (void)state;
    enum { ROWS = 40 };
    const uint32_t ubatch[] = {0, 0, 1, 7, 16, 39, 512};
    float *want = NULL;
    for (size_t i = 0; i < sizeof ubatch / sizeof ubatch[0]; i++) {
        char folder[4096], model[4200];
        struct ps_engine *e = NULL;
        float *got;
        models_folder(folder);
        snprintf(model, sizeof model, "%s/kjv", folder);
        struct ps_engine_options o = {.struct_size = sizeof o,
                                      .model = model,
                                      .without_tokenizer = 1,
                                      .threads = 2,
                                      .ctx_size = ROWS,
                                      .headers_only = 1,
                                      .ubatch = ubatch[i],
                                      .ram = i ? "min" : NULL};
        assert_int_equal(ps_engine_open(&e, &o, NULL), 0);
        assert_int_equal(logits(e, ROWS, &got), 0);
        if (!want)
            want = got;
        else
            assert_memory_equal(got, want, sizeof *got * ROWS * 3072);
        if (got != want)
            free(got);
        ps_engine_close(e);
    }
    free(want);
}

/* What was planned for a session that then found no memory is no burden to the next. */
static void test_failed_session_is_forgotten(void **state)
{
    (void)state;
    struct ids want, unused, got = {0};
    struct ps_session *s = NULL;
    struct ps_session_options o = {.struct_size = sizeof o, .ctx_size = 4096};
    struct ps_error err = {0};
    char *before, *after;
    alone(&want, &unused, "fake");
    struct ps_engine *e = open_engine("fake", NULL, "24M");
    ps_session_free(new_session(e, 32));
    before = ps_engine_plan_json(e);
    int64_t nth = 1;
    for (; nth < 200; nth++) {
        ps_alloc_fail_at(nth);
        int rc = ps_session_new(&s, e, &o, &err);
        ps_alloc_fail_at(0);
        if (rc == 0)
            break;
        s = new_session(e, 32);
        after = ps_engine_plan_json(e);
        assert_string_equal(after, before);
        ps_string_free(after);
        ps_session_free(s);
    }
    assert_true(nth > 10 && nth < 200);
    ps_session_free(s);
    s = new_session(e, 32);
    generate(&got, s, 4);
    generate(&got, s, 3);
    assert_memory_equal(&got, &want, sizeof got);
    ps_session_free(s);
    ps_string_free(before);
    close_engine(e, "fake");
}

/* `penstock share` of the models: its address. */
static pid_t share(char address[128])
{
    char folder[4096], line[512] = "";
    int out[2];
    models_folder(folder);
    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], STDOUT_FILENO);
        dup2(out[1], STDERR_FILENO);
        execl(getenv("PENSTOCK"), "penstock", "share", folder, "--port", "0", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    for (size_t n = 0; n + 1 < sizeof line && !strchr(line, '\n'); n++)
        if (read(out[0], line + n, 1) != 1)
            fail_msg("penstock share: %s", line);
    close(out[0]);
    const char *at = strstr(line, "http://");
    if (!at || sscanf(at, "%127[^ ]", address) != 1)
        fail_msg("penstock share: %s", line);
    return pid;
}

/* Filling the cache plans nothing into RAM or VRAM, and gives back what was there. */
struct said {
    char text[256];
    size_t len;
};

static int on_text(void *user, const char *text, size_t len, uint32_t id)
{
    struct said *t = user;
    (void)id;
    assert_true(t->len + len < sizeof t->text);
    memcpy(t->text + t->len, text, len);
    t->len += len;
    return 0;
}

/* nth: of its allocations fails. */
static int say(struct said *t, struct ps_engine *e, int64_t nth, struct ps_error *error)
{
    static const uint32_t prompt[] = {0, 300, 301};
    struct ps_generate_options o = {.struct_size = sizeof o, .n_predict = 6, .ignore_eos = 1};
    struct ps_session *s = new_session(e, 32);
    *t = (struct said){0};
    ps_alloc_fail_at(nth);
    int rc = ps_session_generate(s, prompt, 3, &o, on_text, t, error);
    ps_alloc_fail_at(0);
    ps_session_free(s);
    return rc;
}

/* Whichever allocation fails: all of the text, or an error in words after a beginning of it. */
static void test_no_text_is_lost(void **state)
{
    (void)state;
    char folder[4096], model[4200];
    struct ps_engine *e = NULL;
    struct ps_error err = {0};
    struct said want, got;
    models_folder(folder);
    snprintf(model, sizeof model, "%s/kjv", folder);
    struct ps_engine_options o = {.struct_size = sizeof o,
                                  .model = model,
                                  .disk = "0",
                                  .threads = 1,
                                  .ctx_size = 32,
                                  .max_rows = 4};
    if (ps_engine_open(&e, &o, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(say(&want, e, 0, &err), 0);
    assert_true(want.len > 6);
    unsigned failed = 0, whole = 0;
    for (int64_t nth = 1; nth < 300 && whole < 3; nth++) {
        memset(&err, 0, sizeof err);
        int rc = say(&got, e, nth, &err);
        failed += rc < 0;
        whole = rc < 0 ? 0 : whole + 1;
        assert_true(rc < 0 ? err.text[0] && got.len <= want.len : got.len == want.len);
        assert_memory_equal(got.text, want.text, got.len);
    }
    assert_true(failed > 3 && whole == 3);
    ps_engine_close(e);
}

static void test_warm_between(void **state)
{
    (void)state;
    char address[128], model[160], cache[] = "/tmp/penstock-sessions-XXXXXX";
    if (!getenv("PENSTOCK"))
        skip();
    pid_t server = share(address);
    snprintf(model, sizeof model, "%skjv", address);
    assert_non_null(mkdtemp(cache));
    for (size_t i = 0; i < sizeof DEVICES / sizeof DEVICES[0]; i++) {
        struct ids want, unused, got = {0};
        struct ps_error err = {0};
        alone(&want, &unused, DEVICES[i]);
        struct ps_engine *e = open_model(model, cache, DEVICES[i], NULL, "50%");
        struct ps_session *s = new_session(e, 32);
        generate(&got, s, 4);
        for (int k = 0; k < 2; k++) {
            char *json = NULL;
            if (ps_engine_warm(&json, e, NULL, &err) < 0)
                fail_msg("warm: %s", err.text);
            assert_non_null(strstr(json, "\"complete\":true"));
            ps_string_free(json);
        }
        generate(&got, s, 3);
        assert_memory_equal(&got, &want, sizeof got);
        ps_session_free(s);
        close_engine(e, DEVICES[i]);
        char remove[64];
        snprintf(remove, sizeof remove, "rm -rf %s", cache);
        assert_int_equal(system(remove), 0);
    }
    kill(server, SIGTERM);
    waitpid(server, NULL, 0);
}

static void refused(int rc, const struct ps_error *err, const char *word)
{
    if (rc != PS_EUSAGE || !strstr(err->text, word))
        fail_msg("%d, \"%s\" instead of a word on %s", rc, err->text, word);
}

/* What a program gets wrong is told to it as it would be to a user, and leaves the session as it was. */
static void test_wrong_options(void **state)
{
    (void)state;
    struct ps_engine *e = open_engine("cpu", NULL, NULL);
    struct ps_error err = {0};
    struct ps_session *none = NULL;
    for (uint32_t size = 0; size <= 4096; size += 4096) {
        const struct ps_session_options o = {.struct_size = size};
        refused(ps_session_new(&none, e, &o, &err), &err, "struct_size");
        assert_null(none);
    }
    struct ps_session *s = new_session(e, 32);
    const uint32_t prompt[] = {0, 300}, far[] = {1u << 30};
    const struct ps_generate_options good = {.struct_size = sizeof good, .n_predict = 1};
    static const struct {
        const char *word;
        float temp, top_p, min_p, penalty;
    } wrong[] = {
        {"temp", -1, 0, 0, 0},           {"temp", NAN, 0, 0, 0},
        {"temp", INFINITY, 0, 0, 0},     {"top_p", 0, 1.5f, 0, 0},
        {"top_p", 0, -0.5f, 0, 0},       {"min_p", 0, 0, 2, 0},
        {"repeat_penalty", 0, 0, 0, -1}, {"repeat_penalty", 0, 0, 0, NAN},
    };
    for (size_t i = 0; i < TEST_COUNT(wrong); i++) {
        struct ps_generate_options o = good;
        o.temp = wrong[i].temp;
        o.top_p = wrong[i].top_p;
        o.min_p = wrong[i].min_p;
        o.repeat_penalty = wrong[i].penalty;
        refused(ps_session_generate(s, prompt, 2, &o, NULL, NULL, &err), &err, wrong[i].word);
    }
    struct ps_generate_options stops = good;
    stops.n_stop = 2;
    refused(ps_session_generate(s, prompt, 2, &stops, NULL, NULL, &err), &err, "stop");
    stops.n_stop = 1;
    stops.stop = (const char *const[]){NULL};
    refused(ps_session_generate(s, prompt, 2, &stops, NULL, NULL, &err), &err, "stop");
    refused(ps_session_generate(s, prompt, 0, &good, NULL, NULL, &err), &err, "no token ids");
    refused(ps_session_generate(s, NULL, 2, &good, NULL, NULL, &err), &err, "no token ids");
    struct ps_engine *nobody = NULL;
    struct ps_source_options source = {.struct_size = sizeof source, .n_headers = 1};
    struct ps_engine_options lists = {.struct_size = sizeof lists,
                                      .model = "http://127.0.0.1:9/m",
                                      .source = &source};
    refused(ps_engine_open(&nobody, &lists, &err), &err, "headers");
    source.n_headers = 0;
    source.n_mirrors = 1;
    refused(ps_engine_open(&nobody, &lists, &err), &err, "mirrors");
    lists.source = NULL;
    lists.n_verify_keys = 1;
    refused(ps_engine_open(&nobody, &lists, &err), &err, "keys");
    char *json = NULL;
    refused(ps_bench_json(&json, NULL, 1, NULL, &err), &err, "bench");
    refused(ps_session_generate(s, far, 1, &good, NULL, NULL, &err), &err, "out of range");
    assert_int_equal(ps_session_generate(s, prompt, 2, &good, NULL, NULL, &err), 0);
    ps_session_free(s);
    ps_engine_close(e);
}

/* A --ram that holds nothing at all is told at once; one that is too small for 256 tokens may be enough for a few. */
static void test_least_ram_is_told_at_once(void **state)
{
    (void)state;
    char folder[4096], model[4200];
    models_folder(folder);
    snprintf(model, sizeof model, "%s/kjv", folder);
    for (int enough = 0; enough < 2; enough++) {
        struct ps_engine *e = NULL;
        struct ps_error err = {0};
        const struct ps_engine_options o = {.struct_size = sizeof o,
                                            .model = model,
                                            .disk = "0",
                                            .threads = 1,
                                            .ctx_size = 1u << 20,
                                            .max_rows = 4,
                                            .ram = enough ? "60M" : "1"};
        const int rc = ps_engine_open(&e, &o, &err);
        assert_int_equal(rc, enough ? 0 : PS_EBUDGET);
        if (!enough) {
            assert_non_null(strstr(err.text, "least"));
            continue;
        }
        struct ps_session *s = new_session(e, 16);
        ps_session_free(s);
        ps_engine_close(e);
    }
}

/* Without a --ram, what is free counts: a KV cache of twice that is refused and told, not begun and killed. */
static void test_default_ram_is_what_is_free(void **state)
{
    (void)state;
    char folder[4096], model[4200];
    models_folder(folder);
    snprintf(model, sizeof model, "%s/kjv", folder);
    const uint64_t position = 5 * 2 * 2 * 64 * 2; /* layers, K and V, heads, values, bytes */
    const uint64_t ctx = ps_host_free_memory_bytes() * 2 / position;
    assert_in_range(ctx, 1, UINT32_MAX);
    for (int few = 0; few < 2; few++) {
        struct ps_engine *e = NULL;
        struct ps_error err = {0};
        const struct ps_engine_options o = {.struct_size = sizeof o,
                                            .model = model,
                                            .threads = 1,
                                            .headers_only = 1,
                                            .ctx_size = few ? 64 : (uint32_t)ctx,
                                            .max_rows = 4};
        assert_int_equal(ps_engine_open(&e, &o, &err), few ? 0 : PS_EBUDGET);
        if (!few)
            assert_true(strstr(err.text, "least") && strstr(err.text, "80 %"));
        ps_engine_close(e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_sessions),
        cmocka_unit_test(test_logits_and_probes_between),
        cmocka_unit_test(test_too_much),
        cmocka_unit_test(test_budget_of_all),
        cmocka_unit_test(test_small_chunks),
        cmocka_unit_test(test_failed_session_is_forgotten),
        cmocka_unit_test(test_warm_between),
        cmocka_unit_test(test_no_text_is_lost),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_least_ram_is_told_at_once),
        cmocka_unit_test(test_default_ram_is_what_is_free),
        cmocka_unit_test(test_probes_of_a_group),
    };
    const char *module = getenv("PENSTOCK_FAKE_MODULE");
    if (!module)
        return 77;
    snprintf(trace_path, sizeof trace_path, "/tmp/penstock-sessions-%ld", (long)getpid());
    /* Rates that some run saved in the user's own cache would stand in the plans, and get older between two. */
    setenv("PENSTOCK_CACHE", "/nonexistent/penstock", 1);
    setenv("PENSTOCK_DEVICE_MODULE", module, 1);
    setenv("PENSTOCK_FAKE_TRACE", trace_path, 1);
    setenv("PENSTOCK_FAKE_DEVICE", "vram=40M", 1); /* little for the probes to copy */
    setenv("PENSTOCK_BACKEND", "ref", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
