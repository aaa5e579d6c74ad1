/* Whole models against logits computed elsewhere: the committed fixtures (by transformers,
 * tests/scripts/make_model_fixtures.py) on every backend that this CPU runs, and the tiny families of the shared
 * data where it is there. Straight from the folder: header, plan, scheduler, kernels. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/host.h"
#include "base/json.h"
#include "kernels/kernels.h"
#include "penstock/penstock.h"
#include "tests/support/test.h"

#define MAX_IDS 256

static const char *source_dir(void)
{
    const char *d = getenv("PENSTOCK_SOURCE_DIR");
    return d ? d : ".";
}

static char *read_text(const char *dir, const char *name, size_t *len)
{
    char path[5000], *out = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(ps_file_read(&out, len, path, 64u << 20, NULL), 0);
    return out;
}

static size_t parse_ids(uint32_t *ids, const char *text)
{
    size_t n = 0;
    for (char *end; *text && *text != '\n' && n < MAX_IDS; text = *end == ',' ? end + 1 : end)
        ids[n++] = (uint32_t)strtoul(text, &end, 10);
    return n;
}

static struct ps_engine *open_model(const char *dir, const char *ram)
{
    struct ps_engine_options o = {.struct_size = sizeof o,
                                  .model = dir,
                                  .without_tokenizer = 1,
                                  .threads = 2,
                                  .kv_type_k = "f32",
                                  .kv_type_v = "f32",
                                  .ram = ram};
    struct ps_engine *e = NULL;
    struct ps_error err = {0};
    if (ps_engine_open(&e, &o, &err) < 0)
        fail_msg("%s: %s", dir, err.text);
    return e;
}

/* Largest difference must stay within `bound`, and the greedy token be the same at every position (but where the
 * reference itself is undecided by less than the bound). */
static void compare(const char *what, const float *got, const float *want, size_t n, size_t vocab,
                    double absolute, double relative)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n * vocab; i++) {
        worst = fmax(worst, fabs((double)got[i] - want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    double bound = absolute > 0 ? absolute : relative * largest;
    printf("%-32s max difference %.2e (bound %.2e)\n", what, worst, bound);
    if (!(worst <= bound))
        fail_msg("%s: logits differ by %g, bound %g", what, worst, bound);
    for (size_t t = 0; t < n; t++) {
        size_t a = 0, b = 0;
        for (size_t v = 1; v < vocab; v++) {
            a = got[t * vocab + v] > got[t * vocab + a] ? v : a;
            b = want[t * vocab + v] > want[t * vocab + b] ? v : b;
        }
        if (a != b && want[t * vocab + b] - want[t * vocab + a] > bound)
            fail_msg("%s: position %zu: greedy token %zu, reference %zu", what, t, a, b);
    }
}

static float *run_logits(const char *dir, const uint32_t *ids, size_t n, uint32_t *vocab,
                         const char *ram)
{
    struct ps_engine *e = open_model(dir, ram);
    struct ps_error err = {0};
    assert_int_equal(ps_engine_logits(e, ids, n, NULL, 0, vocab, &err), 0);
    float *out = calloc(n * *vocab, sizeof *out);
    assert_non_null(out);
    if (ps_engine_logits(e, ids, n, out, n * *vocab, vocab, &err) < 0)
        fail_msg("%s: %s", dir, err.text);
    ps_engine_close(e);
    return out;
}

static void check_fixture(const char *dir, const char *name)
{
    uint32_t ids[MAX_IDS], vocab = 0;
    size_t len, n_tokens;
    char *tokens = read_text(dir, "tokens.txt", &len);
    char *want = read_text(dir, "logits.f32", &len);
    n_tokens = parse_ids(ids, tokens);
    float *got = run_logits(dir, ids, n_tokens, &vocab, NULL);
    assert_int_equal(len, n_tokens * vocab * sizeof(float));
    bool f32 = !strstr(name, "bf16");
    compare(name, got, (const float *)(const void *)want, n_tokens, vocab, f32 ? 1e-4 : 0, 1e-3);
    float *again = run_logits(dir, ids, n_tokens, &vocab, "min");
    assert_memory_equal(got, again, len); /* a smaller budget changes no bit */
    free(got);
    free(again);
    ps_free(tokens);
    ps_free(want);
}

static void test_fixtures(void **state)
{
    (void)state;
    char root[800], dir[1100];
    snprintf(root, sizeof root, "%s/tests/fixtures/models", source_dir());
    DIR *d = opendir(root);
    assert_non_null(d);
    size_t n = 0;
    for (struct dirent *x; (x = readdir(d));) {
        if (x->d_name[0] == '.')
            continue;
        snprintf(dir, sizeof dir, "%s/%s", root, x->d_name);
        check_fixture(dir, x->d_name);
        n++;
    }
    closedir(d);
    assert_true(n >= 12);
}

/* ---- tiny families of the shared data: config and weights lie side by side there, so a folder is laid out for
 * each ---- */

static void link_into(const char *dir, const char *from, const char *name)
{
    char path[5000];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(symlink(from, path), 0);
}

static size_t read_case(const struct ps_json *root, size_t which, uint32_t *ids, float **want,
                        size_t *vocab)
{
    const struct ps_json *s = ps_json_get(root, "sequences")->child,
                         *l = ps_json_get(root, "logits")->child;
    for (; which; which--) {
        s = s->next;
        l = l->next;
    }
    size_t n = 0, at = 0;
    for (const struct ps_json *x = s->child; x; x = x->next)
        ids[n++] = (uint32_t)x->integer;
    *vocab = l->child->n_children;
    *want = calloc(n * *vocab, sizeof **want);
    for (const struct ps_json *row = l->child; row; row = row->next)
        for (const struct ps_json *v = row->child; v; v = v->next)
            (*want)[at++] = (float)v->number;
    return n;
}

static void check_family(const char *data, const char *family, bool bf16)
{
    char dir[] = "/tmp/penstock-test-XXXXXX", path[5000], name[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/models/tiny-families/tiny_%s.safetensors", data, family);
    link_into(dir, path, "model.safetensors");
    snprintf(path, sizeof path, "%s/models/tiny-families/tiny_%s_config.json", data, family);
    link_into(dir, path, "config.json");
    snprintf(name, sizeof name, "models/tiny-families/tiny_%s_logits.json", family);
    size_t len;
    char *text = read_text(data, name, &len);
    struct ps_json *root = NULL;
    assert_int_equal(ps_json_parse(&root, text, len, NULL, NULL), 0);
    for (size_t c = 0; c < ps_json_get(root, "sequences")->n_children; c++) {
        uint32_t ids[MAX_IDS], vocab32;
        size_t vocab;
        float *want, *got;
        size_t n = read_case(root, c, ids, &want, &vocab);
        got = run_logits(dir, ids, n, &vocab32, NULL);
        assert_int_equal(vocab, vocab32);
        compare(family, got, want, n, vocab, bf16 ? 0 : 1e-4, 1e-3);
        free(got);
        free(want);
    }
    ps_json_free(root);
    ps_free(text);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    rmdir(dir);
}

static void test_tiny_families(void **state)
{
    (void)state;
    const char *data = getenv("PENSTOCK_TEST_DATA");
    char probe[1024], absolute[4096];
    snprintf(probe, sizeof probe, "%s/models/tiny-families", data ? data : "../shared/data");
    if (!realpath(probe, absolute)) {
        printf("skipped: no shared test data (PENSTOCK_TEST_DATA)\n");
        skip();
    }
    absolute[strlen(absolute) - strlen("/models/tiny-families")] = 0;
    static const char *const NAMES[] = {"llama", "mistral", "qwen2", "qwen3", "smollm2"};
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++)
        check_family(absolute, NAMES[i], strcmp(NAMES[i], "smollm2") == 0);
}

static int model_tests(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fixtures),
                                       cmocka_unit_test(test_tiny_families)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A process for each backend, because one process settles on one. */
int main(void)
{
    static const char *const BACKENDS[] = {"ref", "avx2", "avx512", "amx"};
    int failed = 0, run = 0;
    for (size_t i = 0; i < TEST_COUNT(BACKENDS); i++) {
        if (!ps_backend_by_name(BACKENDS[i])) {
            printf("skipped: this CPU can't run the %s backend\n", BACKENDS[i]);
            continue;
        }
        printf("backend %s\n", BACKENDS[i]);
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            setenv("PENSTOCK_BACKEND", BACKENDS[i], 1);
            exit(model_tests());
        }
        int status = -1;
        failed += pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
                  WEXITSTATUS(status) != 0;
        run++;
    }
    return failed || !run;
}
