/* The tokenizer on small fixtures whose expected ids and texts the Python library computed
 * (tests/scripts/make_tokenizer_fixtures.py), on hostile files, on invalid text, and without
 * memory. */
#include "tests/unit/test_tokenizer_common.h"

#include <dirent.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "runtime/tok_internal.h"

static void fixture_path(char *path, size_t cap, const char *name)
{
    const char *root = getenv("PENSTOCK_SOURCE_DIR");
    snprintf(path, cap, "%s/tests/fixtures/tokenizers/%s", root ? root : ".", name);
}

static struct ps_tokenizer *open_fixture(const char *name)
{
    char file[300], path[600];
    snprintf(file, sizeof file, "%s.tokenizer.json", name);
    fixture_path(path, sizeof path, file);
    return tok_open_file(path);
}

static size_t numbers(const struct ps_json *list, uint32_t *out, size_t cap)
{
    size_t n = 0;
    assert_non_null(list);
    for (const struct ps_json *v = list->child; v; v = v->next) {
        assert_true(n < cap);
        out[n++] = (uint32_t)v->integer;
    }
    return n;
}

static bool same_text(struct ps_tokenizer *t, const uint32_t *ids, size_t n, bool special,
                      const struct ps_json *want)
{
    size_t len;
    char *s = tok_decode(t, ids, n, special, &len);
    bool same = len == want->len && !memcmp(s, want->s, len);
    if (!same)
        printf("  want [%s]\n  got  [%s]\n", want->s, s);
    ps_free(s);
    return same;
}

static bool check_case(struct ps_tokenizer *t, const struct ps_json *c)
{
    uint32_t ids[2048], post[2048];
    const struct ps_json *text = ps_json_get(c, "text");
    size_t n = numbers(ps_json_get(c, "ids"), ids, 2048),
           n_post = numbers(ps_json_get(c, "post"), post, 2048);
    struct tok_ids a = tok_encode(t, text->s, text->len, PS_TOK_PARSE_SPECIAL);
    struct tok_ids b = tok_encode(t, text->s, text->len, PS_TOK_PARSE_SPECIAL | PS_TOK_ADD_SPECIAL);
    bool same = tok_same_ids(&a, ids, n) && tok_same_ids(&b, post, n_post);
    if (!same) {
        printf("  text: %s\n", text->s);
        tok_print_ids("want", ids, n);
        tok_print_ids("got ", a.v, a.n);
    }
    same &= same_text(t, ids, n, false, ps_json_get(c, "plain")) &&
            same_text(t, ids, n, true, ps_json_get(c, "all"));
    ps_free(a.v);
    ps_free(b.v);
    return same;
}

static unsigned check_fixture(const char *name)
{
    char file[300], path[600];
    char *json = NULL;
    size_t len;
    struct ps_json *cases = NULL;
    struct ps_err err = {0};
    unsigned wrong = 0, n = 0;
    struct ps_tokenizer *t = open_fixture(name);
    snprintf(file, sizeof file, "%s.cases.json", name);
    fixture_path(path, sizeof path, file);
    assert_ok(ps_file_read(&json, &len, path, 1 << 24, &err), &err);
    assert_ok(ps_json_parse(&cases, json, len, NULL, &err), &err);
    for (const struct ps_json *c = cases->child; c; c = c->next, n++)
        wrong += !check_case(t, c);
    if (wrong)
        printf("%s: %u of %u cases wrong\n", name, wrong, n);
    assert_true(n >= 10);
    ps_json_free(cases);
    ps_free(json);
    ps_tokenizer_close(t);
    return wrong;
}

static void test_fixtures(void **state)
{
    (void)state;
    char path[600], name[256];
    unsigned n = 0, wrong = 0;
    fixture_path(path, sizeof path, ".");
    DIR *d = opendir(path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char *dot = strstr(e->d_name, ".tokenizer.json");
        if (!dot)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(dot - e->d_name), e->d_name);
        wrong += check_fixture(name);
        n++;
    }
    closedir(d);
    printf("%u fixtures\n", n);
    assert_true(n >= 35);
    assert_int_equal(wrong, 0);
    assert_int_equal(ps_alloc_live_count(), 0);
}

/* Bytes of an emoji come one token at a time: nothing until it is whole, U+FFFD when it never
 * gets whole. */
static void test_incremental(void **state)
{
    (void)state;
    struct ps_tokenizer *t = open_fixture("gpt2");
    struct ps_detok *d = NULL;
    struct ps_strbuf b;
    struct tok_ids ids = tok_encode(t, "\xf0\x9f\x98\x80", 4, PS_TOK_PARSE_SPECIAL);
    assert_true(ids.n > 1);
    ps_strbuf_init(&b, 1 << 16);
    assert_int_equal(ps_detok_new(&d, t, false), 0);
    for (unsigned round = 0; round < 2; round++) {
        for (size_t i = 0; i + 1 < ids.n; i++) {
            assert_int_equal(ps_detok_put(d, ids.v[i], &b), 0);
            assert_int_equal(b.len, 0);
        }
        assert_int_equal(ps_detok_put(d, ids.v[ids.n - 1], &b), 0);
        assert_string_equal(b.data, "\xf0\x9f\x98\x80");
        ps_strbuf_reset(&b);
        assert_int_equal(ps_detok_finish(d, false, &b), 0); /* nothing pending; ready for another text */
        assert_int_equal(b.len, 0);
    }
    assert_int_equal(ps_detok_put(d, ids.v[0], &b), 0);
    assert_int_equal(ps_detok_finish(d, false, &b), 0);
    assert_string_equal(b.data, "\xef\xbf\xbd");
    ps_strbuf_reset(&b);
    assert_int_equal(ps_detok_put(d, ids.v[0], &b), 0);
    assert_int_equal(ps_detok_finish(d, true, &b),
                     0); /* more was to come: a longer text goes on otherwise */
    assert_int_equal(b.len, 0);
    assert_int_equal(ps_detok_put(d, 999999, &b), 0); /* no such id: nothing */
    ps_detok_free(d);
    ps_detok_free(NULL);
    ps_strbuf_deinit(&b);
    ps_free(ids.v);
    ps_tokenizer_close(t);
}

static void check_primed(struct ps_tokenizer *t, const char *prompt, const char *next,
                         const char *want)
{
    struct ps_detok *d = NULL;
    struct ps_strbuf b;
    struct tok_ids p =
        tok_encode(t, prompt, strlen(prompt), PS_TOK_PARSE_SPECIAL | PS_TOK_ADD_SPECIAL);
    struct tok_ids n = tok_encode(t, next, strlen(next), 0);
    ps_strbuf_init(&b, 1 << 16);
    assert_int_equal(ps_detok_new(&d, t, false), 0);
    assert_int_equal(ps_detok_prime(d, p.v, p.n), 0);
    for (size_t i = 0; i < n.n; i++)
        assert_int_equal(ps_detok_put(d, n.v[i], &b), 0);
    assert_int_equal(ps_detok_finish(d, false, &b), 0);
    assert_string_equal(b.data, want);
    ps_detok_free(d);
    ps_strbuf_deinit(&b);
    ps_free(p.v);
    ps_free(n.v);
}

static void test_prime(void **state)
{
    (void)state;
    struct ps_tokenizer *t = open_fixture("llama2");
    check_primed(t, "", "water", "water"); /* the start of the text: its space is the tokenizer's own */
    check_primed(t, "the", "water", " water");
    check_primed(t, "<0x41>", "\xe6\xb0\xb4", " \xe6\xb0\xb4");
    ps_tokenizer_close(t);
    t = open_fixture("metaspace");
    check_primed(t, "the", "water", " water");
    ps_tokenizer_close(t);
}

/* Byte tokens that are no UTF-8: one U+FFFD per byte, and complete characters at once. */
static void test_byte_tokens(void **state)
{
    (void)state;
    struct ps_tokenizer *t = open_fixture("gemma");
    const char *s;
    size_t len;
    uint32_t byte[256] = {0}, found = 0;
    for (uint32_t id = 0; id < ps_tokenizer_vocab(t); id++) {
        unsigned v;
        if (ps_tokenizer_piece(t, id, &s, &len) && len == 6 && sscanf(s, "<0x%2X>", &v) == 1) {
            byte[v] = id;
            found++;
        }
    }
    assert_int_equal(found, 256);
    const uint32_t bad[] = {byte[0xe6], byte[0xb0], byte[0x41], byte[0xff],
                            byte[0xe6], byte[0xb0], byte[0xb4]};
    char *text = tok_decode(t, bad, 7, false, &len);
    assert_string_equal(text, "\xef\xbf\xbd\xef\xbf\xbd"
                              "A\xef\xbf\xbd\xe6\xb0\xb4");
    ps_free(text);
    ps_tokenizer_close(t);
}

/* The bytes that ids stand for, before any decoder looks at them. */
static size_t bytes_of(struct ps_tokenizer *t, const struct tok_ids *ids, bool byte_level,
                       char *out, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) {
        const char *s;
        size_t len;
        unsigned v, k;
        assert_true(ps_tokenizer_piece(t, ids->v[i], &s, &len));
        assert_true(n + len <= cap);
        if (!byte_level && len == 6 && sscanf(s, "<0x%2X>", &v) == 1) {
            out[n++] = (char)v;
            continue;
        }
        for (size_t at = 0; at < len; at += k) {
            const uint32_t c = ps_utf8_decode(s + at, &k);
            const int byte = byte_level ? ps_tok_char_byte(c) : c == 0x2581 ? ' ' : -1;
            if (byte >= 0)
                out[n++] = (char)byte;
            for (unsigned j = 0; byte < 0 && j < k; j++)
                out[n++] = s[at + j];
        }
    }
    return n;
}

/* Bytes that are no text have tokens of their own, and the text around them has those that it always has. */
static void check_bytes_kept(const char *fixture, bool byte_level)
{
    static const char *const bad[] = {"a\xff\xfe b",  "\xc3",
                                      "\xe2\x82x",    "\xed\xa0\x80",
                                      "\xf0\x9f\x98", "\xc0\x80 12",
                                      "\xff",         "\xf0\x9f\x98\x80\xf0 x"};
    struct ps_tokenizer *t = open_fixture(fixture);
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        char got[256];
        struct tok_ids a = tok_encode(t, bad[i], strlen(bad[i]), 0);
        size_t n = bytes_of(t, &a, byte_level, got, sizeof got);
        size_t skip = !byte_level && n > 0 && got[0] == ' '; /* the space that is put before a text */
        if (n - skip != strlen(bad[i]) || memcmp(got + skip, bad[i], n - skip) != 0)
            fail_msg("%s, text %zu: other bytes", fixture, i);
        ps_free(a.v);
    }
    ps_tokenizer_close(t);
}

static void test_invalid_utf8(void **state)
{
    (void)state;
    check_bytes_kept("llama3", true);
    check_bytes_kept("gpt2", true);
    check_bytes_kept("llama2", false);
    /* A vocabulary without the bytes that never stand in text. */
    static const char few[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\xc3\xaf\":1,\"\xc2\xbf\":2,"
        "\"\xc2\xbd\":3},\"merges\":[]},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}}";
    static const uint32_t replaced[] = {0, 1, 2, 3};
    struct ps_tokenizer *small = tok_open_text(few, sizeof few - 1);
    struct tok_ids lost = tok_encode(small, "a\xff", 2, 0);
    assert_true(tok_same_ids(&lost, replaced, 4));
    ps_free(lost.v);
    ps_tokenizer_close(small);
    /* With the characters that would carry such bytes in the same text, U+FFFD stands for them. */
    static const char bad[] = "\xf4\x8f\xba\x80\xff", good[] = "\xf4\x8f\xba\x80\xef\xbf\xbd";
    struct ps_tokenizer *t = open_fixture("llama3");
    struct tok_ids a = tok_encode(t, bad, strlen(bad), 0), b = tok_encode(t, good, strlen(good), 0);
    assert_true(tok_same_ids(&a, b.v, b.n));
    ps_free(a.v);
    ps_free(b.v);
    ps_tokenizer_close(t);
}

/* Ids are appended; special text is left alone when asked; flags are independent. */
static void test_flags(void **state)
{
    (void)state;
    struct ps_tokenizer *t = open_fixture("llama3");
    uint32_t *ids = NULL;
    size_t n = 0;
    struct ps_err err = {0};
    assert_ok(ps_tokenize(t, "<s>", 3, PS_TOK_PARSE_SPECIAL, &ids, &n, &err), &err);
    assert_int_equal(n, 1);
    assert_true(ps_tokenizer_is_special(t, ids[0]));
    assert_ok(ps_tokenize(t, "<s>", 3, 0, &ids, &n, &err), &err);
    assert_true(n > 2);
    assert_false(ps_tokenizer_is_special(t, ids[1]));
    size_t before = n;
    assert_ok(ps_tokenize(t, "", 0, PS_TOK_ADD_SPECIAL, &ids, &n, &err), &err);
    assert_int_equal(n, before + 2);
    assert_int_equal(ids[before], ids[0]);
    assert_int_equal(ps_tokenizer_bos(t), ids[0]); /* what the template begins with */
    ps_free(ids);
    assert_true(ps_tokenizer_memory_bytes(t) > 10000);
    ps_tokenizer_close(t);
    ps_tokenizer_close(NULL);
}

/* Long texts without a place to cut: no quadratic time, and nothing lost. */
static void test_long(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2", "llama2", "deepseek", "mistral"};
    const size_t len = 1000000;
    char *s = ps_malloc(len);
    assert_non_null(s);
    for (unsigned kind = 0; kind < 4; kind++) {
        uint32_t x = 1;
        for (size_t i = 0; i < len; i++) {
            x = x * 1664525u + 1013904223u;
            s[i] = kind == 0   ? 'e'
                   : kind == 1 ? ' '
                   : kind == 2 ? (char)('a' + (x >> 24) % 26)
                   : (i & 1)   ? 'h'
                               : 't';
        }
        for (size_t k = 0; k < TEST_COUNT(names); k++) {
            if (kind == 1 && k == 3)
                continue; /* by its rules the first of the spaces is the tokenizer's own */
            struct ps_tokenizer *t = open_fixture(names[k]);
            size_t back_len;
            uint64_t start = ps_now_ns();
            struct tok_ids ids = tok_encode(t, s, len, PS_TOK_PARSE_SPECIAL);
            assert_true(ps_seconds_since(start) < 60);
            char *back = tok_decode(t, ids.v, ids.n, false, &back_len);
            assert_int_equal(back_len, len);
            assert_memory_equal(back, s, len);
            ps_free(back);
            ps_free(ids.v);
            ps_tokenizer_close(t);
        }
    }
    ps_free(s);
}

static void *encode_many(void *user)
{
    for (unsigned i = 0; i < 200; i++) {
        struct tok_ids ids =
            tok_encode(user, "The wheel turns 42 times, she'd said.", 37, PS_TOK_PARSE_SPECIAL);
        ps_free(ids.v);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    struct ps_tokenizer *t = open_fixture("o200k");
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_many, t), 0);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ps_tokenizer_close(t);
}

/* ---- files that must be refused ---- */

#define MODEL(rest)                                                                                \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<unk>\":3},\"merges\":["   \
    "\"a b\"]" rest
#define PARTS(parts) MODEL("},") parts "}"

static const struct {
    const char *json;
    int code;
    const char *text; /* part of the message */
} refused[] = {
    {"", PS_EDATA, "tokenizer.json: it is empty"},
    {"[]", PS_EDATA, "no object"},
    {"{}", PS_EDATA, "no model"},
    {"{\"model\":null}", PS_EDATA, "model is no object"},
    {"{\"model\":{\"type\":\"BPE\"}}", PS_EDATA, "no vocab"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", PS_EDATA, "no merges"},
    {"{\"model\":{\"vocab\":{\"a\":0}}}", PS_EUNSUPPORTED, "WordPiece or WordLevel"},
    {"{\"model\":{\"vocab\":[[\"a\",0.5]]}}", PS_EUNSUPPORTED, "Unigram"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0.5]]}}", PS_EUNSUPPORTED, "'Unigram'"},
    {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", PS_EUNSUPPORTED, "'WordPiece'"},
    {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}}}", PS_EUNSUPPORTED, "'WordLevel'"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", PS_EDATA,
     "id 0 is given twice"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", PS_EDATA, ""},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", PS_EDATA, "token id"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4194304},\"merges\":[]}}", PS_EDATA, "token id"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":18446744073709551616},\"merges\":[]}}",
     PS_EDATA, "token id"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0.5},\"merges\":[]}}", PS_EDATA, "token id"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":{}},\"merges\":[]}}", PS_EDATA, "token id"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", PS_EDATA, "merge 0"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", PS_EDATA, "two tokens"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}}", PS_EDATA,
     "two tokens"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", PS_EDATA,
     "two tokens"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}}", PS_EDATA,
     "two strings"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[[\"a\",\"a\",\"a\"]]}}",
     PS_EDATA, "merge"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}}", PS_EDATA, "merge"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":{}}}", PS_EDATA, "no array"},
    {MODEL(",\"dropout\":0.1}}"), PS_EUNSUPPORTED, "dropout"},
    {MODEL(",\"unk_token\":5}}"), PS_EDATA, "no string"},
    {MODEL(",\"fuse_unk\":5}}"), PS_EDATA, "no boolean"},
    {PARTS("\"added_tokens\":[{\"id\":9}]"), PS_EDATA, "without id or content"},
    {PARTS("\"added_tokens\":[{\"content\":\"x\"}]"), PS_EDATA, "without id or content"},
    {PARTS("\"added_tokens\":[{\"id\":-1,\"content\":\"x\"}]"), PS_EDATA, "id of an added token"},
    {PARTS("\"added_tokens\":[7]"), PS_EDATA, "no object"},
    {PARTS("\"added_tokens\":{}"), PS_EDATA, "no array"},
    {PARTS("\"added_tokens\":[{\"id\":1,\"content\":\"x\",\"special\":1}]"), PS_EDATA, "no boolean"},
    {PARTS("\"normalizer\":{\"type\":\"Precompiled\"}"), PS_EUNSUPPORTED, "'Precompiled'"},
    {PARTS(
         "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"BertNormalizer\"}]}"),
     PS_EUNSUPPORTED, "'BertNormalizer'"},
    {PARTS("\"normalizer\":{\"type\":\"Sequence\"}"), PS_EDATA, "Sequence"},
    {PARTS("\"normalizer\":{\"type\":\"Prepend\"}"), PS_EDATA, "text is missing"},
    {PARTS("\"normalizer\":{}"), PS_EDATA, "without a type"},
    {PARTS("\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), PS_EUNSUPPORTED, "'UnicodeScripts'"},
    {PARTS("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":"
           "\"Isolated\"}"),
     PS_EDATA, "pattern"},
    {PARTS("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a)\\\\1\"},"
           "\"behavior\":\"Isolated\"}"),
     PS_EUNSUPPORTED, "escape"},
    {PARTS("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{Klingon}\"},"
           "\"behavior\":\"Isolated\"}"),
     PS_EUNSUPPORTED, "Klingon"},
    {PARTS("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?<=a+)\"},\"behavior\":"
           "\"Isolated\"}"),
     PS_EUNSUPPORTED, "look-behind"},
    {PARTS("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a{1000}){1000}\"},"
           "\"behavior\":\"Isolated\"}"),
     PS_EDATA, "too large"},
    {PARTS("\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":"
           "\"Sideways\"}"),
     PS_EDATA, "behavior"},
    {PARTS("\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), PS_EDATA,
     "one character"},
    {PARTS("\"post_processor\":{\"type\":\"Other\"}"), PS_EUNSUPPORTED, "'Other'"},
    {PARTS("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"), PS_EUNSUPPORTED,
     "template"},
    {PARTS("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
           "\"id\":\"x\"}}]}"),
     PS_EDATA, "without ids"},
    {PARTS("\"decoder\":{\"type\":\"CTC\"}"), PS_EUNSUPPORTED, "'CTC'"},
    {PARTS("\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
           "\"ByteFallback\"}]}"),
     PS_EUNSUPPORTED, "after Fuse"},
    {PARTS("\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1}"), PS_EDATA, "Strip"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(refused); i++) {
        struct ps_tokenizer *t = NULL;
        struct ps_err err = {0};
        const struct ps_tokenizer_files f = {.tokenizer_json = refused[i].json,
                                             .tokenizer_json_len = strlen(refused[i].json)};
        int rc = ps_tokenizer_open(&t, &f, &err);
        if (rc != refused[i].code || !strstr(err.text, refused[i].text))
            printf("  %s\n  gave %d: %s\n", refused[i].json, rc, err.text);
        assert_int_equal(rc, refused[i].code);
        assert_non_null(strstr(err.text, refused[i].text));
        assert_null(t);
        assert_int_equal(ps_alloc_live_count(), 0);
    }
}

/* Truncated anywhere, a file is refused and leaves nothing behind. */
static void test_truncated(void **state)
{
    (void)state;
    char path[512];
    char *json = NULL;
    size_t len = 0;
    fixture_path(path, sizeof path, "llama2.tokenizer.json");
    assert_ok(ps_file_read(&json, &len, path, 1 << 24, NULL), NULL);
    while (len > 0 && json[len - 1] == '\n')
        len--;
    for (size_t cut = 1; cut < len; cut += cut < 300 ? 1 : 97) {
        struct ps_tokenizer *t = NULL;
        const struct ps_tokenizer_files f = {.tokenizer_json = json, .tokenizer_json_len = cut};
        assert_int_equal(ps_tokenizer_open(&t, &f, NULL), PS_EDATA);
        assert_null(t);
    }
    ps_free(json);
    assert_int_equal(ps_alloc_live_count(), 0);
}

/* Merges may stand before the vocabulary, and with or without the member that says how they are
 * joined. */
static void test_member_order(void **state)
{
    (void)state;
    static const char *const files[] = {
        "{\"model\":{\"merges\":[[\"a\",\"b\"]],\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"type\":"
        "\"BPE\"}}",
        "{\"model\":{\"continuing_subword_prefix\":null,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"
        "\"merges\":[\"#version: 0.2\","
        "\"a b\"]}}",
        "{\"model\":{\"vocab\":{\"a\":0,\"##b\":1,\"ab\":2},\"merges\":[\"a "
        "##b\"],\"continuing_subword_prefix\":\"##\"}}",
    };
    for (size_t i = 0; i < TEST_COUNT(files); i++) {
        struct ps_tokenizer *t = tok_open_text(files[i], strlen(files[i]));
        struct tok_ids ids = tok_encode(t, "abab", i == 2 ? 2 : 4, 0);
        assert_int_equal(ids.n, i == 2 ? 1 : 2);
        assert_int_equal(ids.v[0], 2);
        ps_free(ids.v);
        ps_tokenizer_close(t);
    }
}

/* A pattern that backtracks exponentially ends with an error, soon. */
static void test_hostile_pattern(void **state)
{
    (void)state;
    static const char json[] = PARTS(
        "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|a)*(?:a|a)*(?:a|a)*c"
        "\"},\"behavior\":\"Isolated\"}");
    struct ps_tokenizer *t = tok_open_text(json, sizeof json - 1);
    char text[200];
    uint32_t *ids = NULL;
    size_t n = 0;
    struct ps_err err = {0};
    memset(text, 'a', sizeof text);
    uint64_t start = ps_now_ns();
    assert_int_equal(ps_tokenize(t, text, sizeof text, 0, &ids, &n, &err), PS_EDATA);
    assert_true(ps_seconds_since(start) < 60);
    assert_non_null(strstr(err.text, "backtracks"));
    assert_null(ids);
    ps_tokenizer_close(t);
}

static struct ps_tokenizer *open_with(const char *parts, const char *config, const char *generation,
                                      const char *model)
{
    char json[2048];
    struct ps_tokenizer *t = NULL;
    struct ps_err err = {0};
    snprintf(json, sizeof json,
             "{\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true},{\"id\":5,"
             "\"content\":\"</s>\",\"special\":true}],"
             "%s\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<unk>\":3},"
             "\"merges\":[]}}",
             parts);
    struct ps_tokenizer_files f = {.tokenizer_json = json, .tokenizer_json_len = strlen(json)};
    f.tokenizer_config = config;
    f.tokenizer_config_len = config ? strlen(config) : 0;
    f.generation_config = generation;
    f.generation_config_len = generation ? strlen(generation) : 0;
    f.config = model;
    f.config_len = model ? strlen(model) : 0;
    assert_ok(ps_tokenizer_open(&t, &f, &err), &err);
    return t;
}

static void test_special_ids(void **state)
{
    (void)state;
    struct ps_tokenizer *t = open_with("", NULL, NULL, NULL);
    assert_int_equal(ps_tokenizer_vocab(t), 6);
    assert_int_equal(ps_tokenizer_bos(t), -1);
    assert_false(ps_tokenizer_is_eos(t, 5));
    assert_true(ps_tokenizer_is_special(t, 4) && !ps_tokenizer_is_special(t, 3));
    ps_tokenizer_close(t);

    t = open_with("",
                  "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},"
                  "\"add_bos_token\":true,\"add_eos_token\":true}",
                  "{\"eos_token_id\":[1,2],\"bos_token_id\":0}", "{\"eos_token_id\":3}");
    assert_int_equal(ps_tokenizer_bos(t), 4);
    assert_true(ps_tokenizer_is_eos(t, 1) && ps_tokenizer_is_eos(t, 2));
    assert_false(ps_tokenizer_is_eos(t, 3) || ps_tokenizer_is_eos(t, 5));
    struct tok_ids ids = tok_encode(t, "a", 1, PS_TOK_ADD_SPECIAL);
    assert_true(tok_same_ids(&ids, (const uint32_t[]){4, 0, 5}, 3));
    ps_free(ids.v);
    ps_tokenizer_close(t);

    /* with a post-processor in tokenizer.json the configuration adds nothing */
    t = open_with("\"post_processor\":{\"type\":\"ByteLevel\"},",
                  "{\"bos_token\":\"<s>\",\"add_bos_token\":true}", NULL,
                  "{\"eos_token_id\":3,\"bos_token_id\":1}");
    ids = tok_encode(t, "a", 1, PS_TOK_ADD_SPECIAL);
    assert_true(tok_same_ids(&ids, (const uint32_t[]){0}, 1));
    assert_true(ps_tokenizer_is_eos(t, 3));
    ps_free(ids.v);
    ps_tokenizer_close(t);

    t = open_with("", "{\"eos_token\":\"</s>\"}", "{\"eos_token_id\":null}",
                  "{\"text_config\":{\"vocab_size\":6},\"bos_token_id\":1}");
    assert_true(ps_tokenizer_is_eos(t, 5));
    assert_int_equal(ps_tokenizer_bos(t), 1);
    ps_tokenizer_close(t);
}

/* ---- no memory ---- */

struct sweep {
    const char *json;
    size_t len;
};

static int open_and_use(void *user)
{
    const struct sweep *s = user;
    struct ps_tokenizer *t = NULL;
    struct ps_detok *d = NULL;
    struct ps_strbuf b;
    uint32_t *ids = NULL;
    size_t n = 0;
    static const char text[] = "<s>The e\xcc\x81 wheel, \xff "
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa</s>";
    static const char config[] = "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}",
                      gen[] = "{\"eos_token_id\":[1,2]}";
    const struct ps_tokenizer_files f = {.tokenizer_json = s->json,
                                         .tokenizer_json_len = s->len,
                                         .tokenizer_config = config,
                                         .tokenizer_config_len = sizeof config - 1,
                                         .generation_config = gen,
                                         .generation_config_len = sizeof gen - 1};
    ps_strbuf_init(&b, 1 << 20);
    int rc = ps_tokenizer_open(&t, &f, NULL);
    if (!rc)
        rc = ps_tokenize(t, text, sizeof text - 1, PS_TOK_ADD_SPECIAL | PS_TOK_PARSE_SPECIAL, &ids,
                         &n, NULL);
    if (!rc)
        rc = ps_tokenize(t, text, 9, 0, &ids, &n, NULL);
    if (!rc)
        rc = ps_detok_new(&d, t, true);
    for (size_t i = 0; i < n && !rc; i++)
        rc = ps_detok_put(d, ids[i], &b);
    if (!rc)
        rc = ps_detok_finish(d, false, &b);
    ps_detok_free(d);
    ps_strbuf_deinit(&b);
    ps_free(ids);
    ps_tokenizer_close(t);
    return rc;
}

static void test_no_memory(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3", "norm0", "llama2", "metaspace", "affixed"};
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        char file[300], path[600];
        char *json = NULL;
        struct sweep s = {0};
        snprintf(file, sizeof file, "%s.tokenizer.json", names[i]);
        fixture_path(path, sizeof path, file);
        assert_ok(ps_file_read(&json, &s.len, path, 1 << 24, NULL), NULL);
        s.json = json;
        unsigned n = test_every_alloc_failure(open_and_use, &s);
        printf("%s: %u allocations failed in turn\n", names[i], n);
        assert_true(n > 30);
        ps_free(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures),     cmocka_unit_test(test_incremental),
        cmocka_unit_test(test_prime),        cmocka_unit_test(test_byte_tokens),
        cmocka_unit_test(test_invalid_utf8), cmocka_unit_test(test_flags),
        cmocka_unit_test(test_long),         cmocka_unit_test(test_threads),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_member_order), cmocka_unit_test(test_hostile_pattern),
        cmocka_unit_test(test_special_ids),  cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
