/* What the tokenizer tests share: opening from files, encoding, decoding, comparing. */
#ifndef PS_TESTS_UNIT_TEST_TOKENIZER_COMMON_H
#define PS_TESTS_UNIT_TEST_TOKENIZER_COMMON_H
#include "tests/support/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/host.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "runtime/tokenizer.h"

static inline struct ps_tokenizer *tok_open_text(const char *json, size_t len)
{
    struct ps_tokenizer *t = NULL;
    struct ps_err err = {0};
    assert_ok(ps_tokenizer_open(&t,
                                &(struct ps_tokenizer_files){.tokenizer_json = json,
                                                             .tokenizer_json_len = len},
                                &err),
              &err);
    return t;
}

static inline struct ps_tokenizer *tok_open_file(const char *path)
{
    char *json = NULL;
    size_t len = 0;
    struct ps_err err = {0};
    assert_ok(ps_file_read(&json, &len, path, (size_t)1 << 30, &err), &err);
    struct ps_tokenizer *t = tok_open_text(json, len);
    ps_free(json);
    return t;
}

struct tok_ids {
    uint32_t *v;
    size_t n;
};

static inline struct tok_ids tok_encode(struct ps_tokenizer *t, const char *s, size_t len,
                                        unsigned flags)
{
    struct tok_ids r = {NULL, 0};
    struct ps_err err = {0};
    assert_ok(ps_tokenize(t, s, len, flags, &r.v, &r.n, &err), &err);
    return r;
}

/* The text of ids, NUL-terminated, fed one by one; free with ps_free. */
static inline char *tok_decode(struct ps_tokenizer *t, const uint32_t *ids, size_t n, bool special,
                               size_t *len)
{
    struct ps_detok *d = NULL;
    struct ps_strbuf b;
    assert_int_equal(ps_detok_new(&d, t, special), 0);
    ps_strbuf_init(&b, (size_t)1 << 28);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ps_detok_put(d, ids[i], &b), 0);
    assert_int_equal(ps_detok_finish(d, false, &b), 0);
    ps_detok_free(d);
    char *s = ps_strbuf_take(&b, len);
    assert_non_null(s);
    return s;
}

static inline bool tok_same_ids(const struct tok_ids *got, const uint32_t *want, size_t n)
{
    return got->n == n && (n == 0 || !memcmp(got->v, want, n * sizeof *want));
}

static inline void tok_print_ids(const char *what, const uint32_t *v, size_t n)
{
    printf("  %s:", what);
    for (size_t i = 0; i < n; i++)
        printf(" %u", v[i]);
    printf("\n");
}
#endif
