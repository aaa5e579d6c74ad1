/* Signatures: keys as texts, who is trusted, what is refused, and that no text breaks the reader. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "proto/signature.h"
#include "tests/support/test.h"

struct pair {
    char *secret, *open;
    char id[PS_KEY_ID_CHARS + 1];
    struct ps_trust *trust;
};

static struct pair new_pair(void)
{
    struct pair p;
    struct ps_err err = {0};
    assert_ok(ps_key_generate(&p.secret, &p.open, p.id, &err), &err);
    assert_int_equal(ps_trust_new(&p.trust), 0);
    assert_ok(ps_trust_add(p.trust, p.open, "key", &err), &err);
    return p;
}

static void free_pair(struct pair *p)
{
    ps_free(p->secret);
    ps_free(p->open);
    ps_trust_free(p->trust);
}

static const char manifest[] = "not a manifest, but bytes";
#define LEN (sizeof manifest - 1)

static void signed_and_trusted(void **state)
{
    (void)state;
    struct pair a = new_pair(), b = new_pair();
    struct ps_err err = {0};
    char *text;
    size_t len;
    assert_string_not_equal(a.id, b.id);
    assert_ok(ps_signature_make(&text, &len, a.secret, manifest, LEN, &err), &err);
    assert_int_equal(strlen(text), len);
    assert_non_null(strstr(text, a.id));
    assert_ok(ps_trust_check(a.trust, manifest, LEN, text, len, &err), &err);
    assert_int_equal(ps_trust_check(b.trust, manifest, LEN, text, len, &err), PS_EDATA);
    assert_non_null(strstr(err.text, a.id));
    assert_ok(ps_trust_add(b.trust, a.open, "other", &err), &err); /* two keys, one of which signed */
    assert_ok(ps_trust_check(b.trust, manifest, LEN, text, len, &err), &err);
    assert_int_equal(ps_trust_check(a.trust, manifest, LEN - 1, text, len, &err), PS_EDATA);
    assert_int_equal(ps_trust_check(a.trust, manifest, LEN, NULL, 0, &err), PS_EDATA);
    assert_non_null(strstr(err.text, "not signed"));
    assert_true(ps_signature_names(text, manifest, LEN));
    assert_false(ps_signature_names(text, manifest, LEN - 1));
    ps_free(text);
    free_pair(&a);
    free_pair(&b);
}

/* Every bit of the object: none but that of the last newline may be flipped unnoticed. */
static void every_flip_is_noticed(void **state)
{
    (void)state;
    struct pair a = new_pair();
    char *text;
    size_t len;
    assert_int_equal(ps_signature_make(&text, &len, a.secret, manifest, LEN, NULL), 0);
    size_t number = (size_t)(strchr(text, '\n') - text) - 1; /* another one is another version */
    for (size_t bit = 0; bit < 8 * (len - 1); bit++) {
        text[bit / 8] ^= (char)(1 << bit % 8);
        int rc = ps_trust_check(a.trust, manifest, LEN, text, len, NULL);
        if (rc != PS_EDATA && (bit / 8 != number || rc != PS_EUNSUPPORTED) &&
            text[bit / 8] != ' ' && text[bit / 8] != '\t')
            fail_msg("bit %zu of %zu: %d", bit, 8 * len, rc);
        text[bit / 8] ^= (char)(1 << bit % 8);
    }
    for (size_t n = 0; n + 1 < len; n++) /* cut off anywhere */
        assert_int_equal(ps_trust_check(a.trust, manifest, LEN, text, n, NULL), PS_EDATA);
    ps_free(text);
    free_pair(&a);
}

/* A valid line counts under its own version alone. */
static void versions(void **state)
{
    static const struct {
        const char *head;
        int rc;
    } cases[] = {
        {"penstock-signature 1\n", 0},
        {"penstock-signature 2\n", PS_EUNSUPPORTED},
        {"penstock-signature 10\n", PS_EUNSUPPORTED},
        {"penstock-signature 999999999\n", PS_EUNSUPPORTED},
        {"penstock-signature 0\n", PS_EDATA},
        {"penstock-signature 1 \n", PS_EDATA},
        {"penstock-signature one\n", PS_EDATA},
        {"penstock-signature 1", PS_EDATA},
        {"penstock-signature 1000000000000000000000000000\n", PS_EDATA},
        {"", PS_EDATA},
    };
    (void)state;
    struct pair a = new_pair();
    struct ps_err err = {0};
    char *text, other[1024];
    size_t len;
    assert_int_equal(ps_signature_make(&text, &len, a.secret, manifest, LEN, NULL), 0);
    const char *line = strchr(text, '\n') + 1;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        int n = snprintf(other, sizeof other, "%s%s", cases[i].head, line);
        int rc = ps_trust_check(a.trust, manifest, LEN, other, (size_t)n, &err);
        if (rc != cases[i].rc)
            fail_msg("'%s': %d", cases[i].head, rc);
        assert_int_equal(ps_signature_names(other, manifest, LEN), rc == 0);
        if (rc == PS_EUNSUPPORTED)
            assert_non_null(strstr(err.text, "newer"));
    }
    ps_free(text);
    free_pair(&a);
}

static void what_is_no_key(void **state)
{
    (void)state;
    struct pair a = new_pair();
    static const char rsa[] =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n";
    char *text;
    size_t len;
    struct ps_err err = {0};
    assert_int_equal(ps_trust_add(a.trust, "", "empty", &err), PS_EUSAGE);
    assert_int_equal(ps_trust_add(a.trust, a.secret, "private", &err), PS_EUSAGE);
    assert_int_equal(ps_trust_add(a.trust, rsa, "x25519", &err), PS_EUSAGE);
    assert_non_null(strstr(err.text, "x25519"));
    assert_int_equal(ps_signature_make(&text, &len, a.open, manifest, LEN, &err), PS_EUSAGE);
    assert_int_equal(ps_signature_make(&text, &len, "junk", manifest, LEN, &err), PS_EUSAGE);
    free_pair(&a);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(signed_and_trusted),
    cmocka_unit_test(every_flip_is_noticed),
    cmocka_unit_test(versions),
    cmocka_unit_test(what_is_no_key),
};

TEST_MAIN(tests)
