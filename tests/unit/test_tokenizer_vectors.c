/* Real vocabularies against published token ids: every case of the vectors in the test data,
 * byte for byte. */
#include "tests/unit/test_tokenizer_common.h"

static struct ps_tokenizer *open_named(const char *name)
{
    char rel[160], path[512];
    snprintf(rel, sizeof rel, "tokenizers/%s/tokenizer.json", name);
    return test_data_path(path, sizeof path, rel) ? tok_open_file(path) : NULL;
}

static char *read_vector(const char *name, size_t *len)
{
    char rel[160], path[512];
    char *s = NULL;
    snprintf(rel, sizeof rel, "tokenizers/vectors/%s", name);
    if (!test_data_path(path, sizeof path, rel) || ps_file_read(&s, len, path, 1 << 20, NULL))
        return NULL;
    return s;
}

/* Numbers of one line, whatever separates them. */
static size_t numbers(const char *line, size_t len, uint32_t *out, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        if (line[i] < '0' || line[i] > '9') {
            i++;
            continue;
        }
        uint32_t v = 0;
        for (; i < len && line[i] >= '0' && line[i] <= '9'; i++)
            v = v * 10 + (uint32_t)(line[i] - '0');
        assert_true(n < cap);
        out[n++] = v;
    }
    return n;
}

static bool check(struct ps_tokenizer *t, const char *text, size_t len, const uint32_t *want, size_t n)
{
    struct tok_ids got = tok_encode(t, text, len, PS_TOK_PARSE_SPECIAL);
    bool same = tok_same_ids(&got, want, n);
    if (!same) {
        printf("  text: %.*s\n", (int)len, text);
        tok_print_ids("want", want, n);
        tok_print_ids("got ", got.v, got.n);
    }
    ps_free(got.v);
    return same;
}

/* small_input.txt: \n is a newline, \s a space, \x nothing. In place; returns the new length. */
static size_t unescape(char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '\\' && i + 1 < len && strchr("nsx", s[i + 1])) {
            i++;
            if (s[i] != 'x')
                s[n++] = s[i] == 'n' ? '\n' : ' ';
        } else {
            s[n++] = s[i];
        }
    }
    return n;
}

static char *next_line(char **at, char *end, size_t *len)
{
    while (*at < end && **at == '\n')
        ++*at;
    if (*at >= end)
        return NULL;
    char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));
    stop = stop ? stop : end;
    *len = (size_t)(stop - line);
    *at = stop;
    return line;
}

static unsigned check_small(const char *vectors, const char *model)
{
    uint32_t want[4096];
    char name[64];
    size_t in_len = 0, out_len = 0, a, b;
    snprintf(name, sizeof name, "small_tokens_%s.txt", vectors);
    char *in = read_vector("small_input.txt", &in_len), *out = read_vector(name, &out_len);
    struct ps_tokenizer *t = in && out ? open_named(model) : NULL;
    char *p = in, *q = out, *line, *ids;
    unsigned cases = 0, wrong = 0;
    while (t && (line = next_line(&p, in + in_len, &a)) && (ids = next_line(&q, out + out_len, &b))) {
        size_t n = numbers(ids, b, want, TEST_COUNT(want));
        wrong += !check(t, line, unescape(line, a), want, n);
        cases++;
    }
    if (t) {
        assert_int_equal(cases, 20);
        printf("%s: %u cases, %u wrong\n", vectors, cases, wrong);
        assert_int_equal(wrong, 0);
    }
    ps_tokenizer_close(t);
    ps_free(in);
    ps_free(out);
    return cases;
}

static void test_small(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"gpt2", "gpt2"},           {"gpt_neox", "gpt_neox"},     {"mpt", "mpt"},
        {"gpt_oss", "gpt-oss"},     {"llama32", "Llama-3.1"},     {"mistral2410", "Mistral-Nemo"},
        {"r1", "DeepSeek-V3"},      {"llama2", "TinyLlama-1.1B"}, {"mistral01", "mistral01"},
        {"mistral03", "mistral03"}, {"gemma3", "gemma-3"},
    };
    unsigned n = 0;
    for (size_t i = 0; i < TEST_COUNT(pairs); i++)
        n += check_small(pairs[i][0], pairs[i][1]);
    if (!n)
        skip();
}

static unsigned check_ggml(const char *vectors, const char *model)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    uint32_t want[4096];
    char name[64];
    size_t in_len = 0, out_len = 0;
    snprintf(name, sizeof name, "ggml-vocab-%s.gguf.inp", vectors);
    char *in = read_vector(name, &in_len);
    snprintf(name, sizeof name, "ggml-vocab-%s.gguf.out", vectors);
    char *out = read_vector(name, &out_len);
    struct ps_tokenizer *t = in && out ? open_named(model) : NULL;
    unsigned cases = 0, wrong = 0;
    for (char *p = in, *q = out, *end; t && p; cases++) {
        char *stop = memmem(p, (size_t)(in + in_len - p), mark, sizeof mark - 1);
        end = stop ? stop : in + in_len;
        char *eol = strchr(q, '\n');
        eol = eol ? eol : out + out_len;
        size_t n = numbers(q, (size_t)(eol - q), want, TEST_COUNT(want));
        wrong += !check(t, p, (size_t)(end - p), want, n);
        p = stop ? stop + sizeof mark - 1 : NULL;
        q = *eol ? eol + 1 : eol;
    }
    if (t) {
        printf("%s: %u cases, %u wrong\n", vectors, cases, wrong);
        assert_true(cases >= 40);
        assert_int_equal(wrong, 0);
    }
    ps_tokenizer_close(t);
    ps_free(in);
    ps_free(out);
    return cases;
}

static void test_ggml(void **state)
{
    (void)state;
    unsigned n = check_ggml("llama-bpe", "Llama-3.1") + check_ggml("qwen2", "Qwen3") +
                 check_ggml("gpt-2", "gpt2") + check_ggml("llama-spm", "TinyLlama-1.1B") +
                 check_ggml("phi-3", "phi-3");
    if (!n)
        skip();
}

/* A whole book through a real vocabulary comes back as it was. */
static void test_round_trip(void **state)
{
    (void)state;
    static const char *const models[] = {"Llama-3.1", "gpt-oss", "mistral03"};
    char path[512];
    char *text = NULL;
    size_t len = 0, back_len;
    if (!test_data_path(path, sizeof path, "text/pride_and_prejudice.txt"))
        skip();
    assert_ok(ps_file_read(&text, &len, path, 1 << 24, NULL), NULL);
    for (size_t i = 0; i < TEST_COUNT(models); i++) {
        struct ps_tokenizer *t = open_named(models[i]);
        if (!t)
            continue;
        struct tok_ids ids = tok_encode(t, text, len, PS_TOK_PARSE_SPECIAL);
        char *back = tok_decode(t, ids.v, ids.n, false, &back_len);
        assert_int_equal(back_len, len);
        assert_memory_equal(back, text, len);
        ps_free(back);
        ps_free(ids.v);
        ps_tokenizer_close(t);
    }
    ps_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_ggml),
        cmocka_unit_test(test_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
