/* Ed25519 over manifests, by OpenSSL: see signature.h. */
#include "proto/signature.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/strbuf.h"

#define ORIGIN          "signature"
#define SIGNATURE_BYTES 64
#define PUBLIC_BYTES    32
#define BEGINS          "penstock-signature "
#define VERSION         1u
#define MAX_KEYS        64u
#define LINE_CHARS      256

struct ps_trust {
    EVP_PKEY *keys[MAX_KEYS];
    char ids[MAX_KEYS][PS_KEY_ID_CHARS + 1];
    unsigned n;
};

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
}

static bool key_id(const EVP_PKEY *key, char id[PS_KEY_ID_CHARS + 1])
{
    uint8_t raw[PUBLIC_BYTES], sha[PS_SHA256_BYTES];
    size_t n = sizeof raw;
    if (EVP_PKEY_get_base_id(key) != EVP_PKEY_ED25519 ||
        EVP_PKEY_get_raw_public_key(key, raw, &n) != 1 || n != sizeof raw)
        return false;
    ps_sha256_once(raw, n, sha);
    ps_hex_encode(sha, PS_KEY_ID_CHARS / 2, id);
    return true;
}

/* No passphrase is ever asked for on the terminal. */
static int no_passphrase(char *buf, int size, int rwflag, void *user)
{
    (void)buf, (void)size, (void)rwflag, (void)user;
    return -1;
}

static EVP_PKEY *read_pem(const char *pem, bool is_private)
{
    size_t n = strlen(pem);
    BIO *b = n <= PS_KEY_MAX_BYTES ? BIO_new_mem_buf(pem, (int)n) : NULL;
    EVP_PKEY *key = !b           ? NULL
                    : is_private ? PEM_read_bio_PrivateKey(b, NULL, no_passphrase, NULL)
                                 : PEM_read_bio_PUBKEY(b, NULL, no_passphrase, NULL);
    BIO_free(b);
    return key;
}

static char *write_pem(EVP_PKEY *key, bool is_private)
{
    BIO *b = BIO_new(BIO_s_mem());
    char *bytes, *text = NULL;
    bool ok = b && (is_private ? PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL)
                               : PEM_write_bio_PUBKEY(b, key)) == 1;
    long n = ok ? BIO_get_mem_data(b, &bytes) : 0;
    if (n > 0)
        text = ps_strndup(bytes, (size_t)n);
    BIO_free(b);
    return text;
}

int ps_key_generate(char **private_pem, char **public_pem, char id[PS_KEY_ID_CHARS + 1],
                    struct ps_err *err)
{
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (!key || !key_id(key, id)) {
        EVP_PKEY_free(key);
        return ps_err_set(err, PS_EFAIL, ORIGIN, "OpenSSL can't make an Ed25519 key");
    }
    char *secret = write_pem(key, true), *open = write_pem(key, false);
    EVP_PKEY_free(key);
    if (!secret || !open) {
        ps_free(secret);
        ps_free(open);
        return no_memory(err);
    }
    *private_pem = secret;
    *public_pem = open;
    return 0;
}

/* ---- making ---- */

static bool sign(uint8_t out[SIGNATURE_BYTES], EVP_PKEY *key, const void *bytes, size_t len)
{
    size_t n = SIGNATURE_BYTES;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestSignInit(c, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestSign(c, out, &n, bytes, len) == 1 && n == SIGNATURE_BYTES;
    EVP_MD_CTX_free(c);
    return ok;
}

struct line {
    char key[PS_KEY_ID_CHARS + 1], model[2 * PS_SHA256_BYTES + 1], sig[2 * SIGNATURE_BYTES + 1];
};

/* The next line by Ed25519 at or behind *p; false: there is none. */
static bool next_line(struct line *l, const char **p, const char *end)
{
    while (*p < end) {
        char text[LINE_CHARS];
        const char *stop = memchr(*p, '\n', (size_t)(end - *p));
        size_t n = (size_t)((stop ? stop : end) - *p);
        const char *from = *p;
        *p = stop ? stop + 1 : end;
        if (n >= sizeof text)
            continue;
        memcpy(text, from, n);
        text[n] = '\0';
        if (sscanf(text, "ed25519 %16[0-9a-f] %64[0-9a-f] %128[0-9a-f]", l->key, l->model, l->sig) ==
            3)
            return true;
    }
    return false;
}

/* The version that the first line states; 0: it is no such line. */
static unsigned version_of(const char *text, size_t len)
{
    const size_t begin = strlen(BEGINS);
    unsigned version = 0;
    size_t n = begin;
    if (len < begin || memcmp(text, BEGINS, begin) != 0)
        return 0;
    for (; n < len && n < begin + 9 && text[n] >= '0' && text[n] <= '9'; n++)
        version = 10 * version + (unsigned)(text[n] - '0');
    return n < len && text[n] == '\n' ? version : 0;
}

static void model_id(char hex[2 * PS_SHA256_BYTES + 1], const void *manifest, size_t len)
{
    uint8_t sha[PS_SHA256_BYTES];
    ps_sha256_once(manifest, len, sha);
    ps_hex_encode(sha, sizeof sha, hex);
}

bool ps_signature_names(const char *text, const void *manifest, size_t manifest_len)
{
    char model[2 * PS_SHA256_BYTES + 1];
    struct line l;
    if (version_of(text, strlen(text)) != VERSION)
        return false;
    model_id(model, manifest, manifest_len);
    for (const char *p = text, *end = text + strlen(text); next_line(&l, &p, end);)
        if (strcmp(l.model, model) == 0)
            return true;
    return false;
}

int ps_signature_make(char **out, size_t *len, const char *private_pem, const void *manifest,
                      size_t manifest_len, struct ps_err *err)
{
    uint8_t sig[SIGNATURE_BYTES];
    struct line l;
    struct ps_strbuf b;
    EVP_PKEY *key = read_pem(private_pem, true);
    if (!key || !key_id(key, l.key)) {
        EVP_PKEY_free(key);
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "--sign: no private Ed25519 key without a passphrase: make one with "
                          "`penstock keygen`");
    }
    bool ok = sign(sig, key, manifest, manifest_len);
    EVP_PKEY_free(key);
    if (!ok)
        return ps_err_set(err, PS_EFAIL, ORIGIN, "OpenSSL can't sign");
    model_id(l.model, manifest, manifest_len);
    ps_hex_encode(sig, sizeof sig, l.sig);
    ps_strbuf_init(&b, 2 * PS_SIGNATURE_MAX_BYTES);
    ps_strbuf_printf(&b, BEGINS "%u\n", VERSION);
    ps_strbuf_printf(&b, "ed25519 %s %s %s\n", l.key, l.model, l.sig);
    char *text = ps_strbuf_ok(&b) ? ps_strbuf_take(&b, len) : NULL;
    ps_strbuf_deinit(&b);
    if (!text)
        return no_memory(err);
    *out = text;
    return 0;
}

/* ---- trusting ---- */

int ps_trust_new(struct ps_trust **out)
{
    *out = ps_calloc(1, sizeof **out);
    return *out ? 0 : PS_ENOMEM;
}

void ps_trust_free(struct ps_trust *t)
{
    for (unsigned i = 0; t && i < t->n; i++)
        EVP_PKEY_free(t->keys[i]);
    ps_free(t);
}

int ps_trust_add(struct ps_trust *t, const char *pem, const char *what, struct ps_err *err)
{
    if (t->n == MAX_KEYS)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "--verify-key: at most %u keys", MAX_KEYS);
    EVP_PKEY *key = read_pem(pem, false);
    if (!key || !key_id(key, t->ids[t->n])) {
        EVP_PKEY_free(key);
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "--verify-key: %s is no public Ed25519 key: give the .pub file that "
                          "`penstock keygen` made",
                          what);
    }
    t->keys[t->n++] = key;
    return 0;
}

static bool fits(EVP_PKEY *key, const char *hex, const void *bytes, size_t len)
{
    uint8_t sig[SIGNATURE_BYTES];
    if (ps_hex_decode(hex, strlen(hex), sig, sizeof sig) != 0)
        return false;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestVerify(c, sig, sizeof sig, bytes, len) == 1;
    EVP_MD_CTX_free(c);
    return ok;
}

int ps_trust_check(const struct ps_trust *t, const void *manifest, size_t manifest_len,
                   const char *text, size_t text_len, struct ps_err *err)
{
    char model[2 * PS_SHA256_BYTES + 1], signer[PS_KEY_ID_CHARS + 1] = "";
    struct line l;
    bool wrong = false;
    if (!text)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "the model is not signed: there is no %s: split it with --sign, or leave "
                          "--verify-key out",
                          PS_SIGNATURE_NAME);
    unsigned version = version_of(text, text_len);
    if (version > VERSION)
        return ps_err_set(
            err, PS_EUNSUPPORTED, ORIGIN,
            "%s was made by a newer Penstock (version %u, this one reads %u): update, or "
            "leave --verify-key out",
            PS_SIGNATURE_NAME, version, VERSION);
    if (version == 0)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "wrong signature: %s does not begin as a signature does: was it changed?",
                          PS_SIGNATURE_NAME);
    model_id(model, manifest, manifest_len);
    for (const char *p = text, *end = text + text_len; next_line(&l, &p, end);) {
        if (strcmp(l.model, model) != 0)
            continue;
        memcpy(signer, l.key, sizeof signer);
        for (unsigned i = 0; i < t->n; i++)
            if (strcmp(t->ids[i], l.key) == 0 && fits(t->keys[i], l.sig, manifest, manifest_len))
                return 0;
            else
                wrong |= strcmp(t->ids[i], l.key) == 0;
    }
    if (wrong)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "wrong signature: %s: the signature of key %s does not fit the manifest",
                          PS_SIGNATURE_NAME, signer);
    if (signer[0])
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "signed by a key that is not trusted: %s names key %s: give its public "
                          "key by --verify-key if it is yours",
                          PS_SIGNATURE_NAME, signer);
    return ps_err_set(err, PS_EDATA, ORIGIN,
                      "wrong signature: %s holds none of this manifest: was the model changed?",
                      PS_SIGNATURE_NAME);
}
