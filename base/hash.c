/* SHA-256 and hex: extents and small files come in, their identities go out. CRC32C is in crc32c.c. */
#include "base/hash.h"

#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/err.h"

struct ps_sha256 {
    EVP_MD_CTX *ctx;
};

static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256; /* written once in fetch(), never freed: it lives as long as OpenSSL */
static pthread_key_t thread_ctx_key;
static bool thread_ctx_key_ok;

static void free_thread_ctx(void *ctx)
{
    EVP_MD_CTX_free(ctx);
}

static void fetch(void)
{
    /* Fetched once: EVP_sha256() makes OpenSSL 3 look the algorithm up again at every init, about 100 ns and a lock. */
    sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
    thread_ctx_key_ok = pthread_key_create(&thread_ctx_key, free_thread_ctx) == 0;
}

static void start(EVP_MD_CTX *ctx)
{
    /* Cannot fail for a fetched digest; if it does, no answer is better than a wrong one. */
    PS_ASSERT(EVP_DigestInit_ex2(ctx, sha256, NULL) == 1);
}

static void finish(EVP_MD_CTX *ctx, uint8_t out[PS_SHA256_BYTES])
{
    PS_ASSERT(EVP_DigestFinal_ex(ctx, out, NULL) == 1);
}

int ps_sha256_new(struct ps_sha256 **out)
{
    pthread_once(&fetch_once, fetch);
    struct ps_sha256 *h = ps_malloc(sizeof(*h));
    if (!h)
        return PS_ENOMEM;
    h->ctx = sha256 ? EVP_MD_CTX_new() : NULL;
    if (!h->ctx) {
        ps_free(h);
        return PS_ENOMEM;
    }
    start(h->ctx);
    *out = h;
    return 0;
}

void ps_sha256_reset(struct ps_sha256 *h)
{
    start(h->ctx);
}

void ps_sha256_update(struct ps_sha256 *h, const void *data, size_t bytes)
{
    PS_ASSERT(EVP_DigestUpdate(h->ctx, data, bytes) == 1);
}

void ps_sha256_final(struct ps_sha256 *h, uint8_t out[PS_SHA256_BYTES])
{
    finish(h->ctx, out);
}

void ps_sha256_free(struct ps_sha256 *h)
{
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    ps_free(h);
}

/* This thread's context, freed by the key's destructor when the thread ends. */
static EVP_MD_CTX *thread_ctx(void)
{
    pthread_once(&fetch_once, fetch);
    PS_ASSERT(sha256 && thread_ctx_key_ok);
    EVP_MD_CTX *ctx = pthread_getspecific(thread_ctx_key);
    if (!ctx) {
        ctx = EVP_MD_CTX_new();
        PS_ASSERT(ctx); /* a hundred bytes on a thread's first call; there is no way to report it from here */
        pthread_setspecific(thread_ctx_key, ctx);
    }
    return ctx;
}

void ps_sha256_once(const void *data, size_t bytes, uint8_t out[PS_SHA256_BYTES])
{
    EVP_MD_CTX *ctx = thread_ctx();
    start(ctx);
    PS_ASSERT(EVP_DigestUpdate(ctx, data, bytes) == 1);
    finish(ctx, out);
}

int ps_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t bytes,
                   uint8_t out[PS_SHA256_BYTES])
{
    unsigned n = 0;
    if (key_bytes > INT_MAX)
        return PS_EDATA;
    pthread_once(&fetch_once, fetch);
    return sha256 && HMAC(sha256, key, (int)key_bytes, data, bytes, out, &n) ? 0 : PS_ENOMEM;
}

void ps_hex_encode(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int ps_hex_decode(const char *hex, size_t hex_len, uint8_t *out, size_t n)
{
    if (hex_len != 2 * n)
        return PS_EDATA;
    for (size_t i = 0; i < hex_len; i++) {
        if (hex_value(hex[i]) < 0) /* before the first write: a failed call leaves `out` alone */
            return PS_EDATA;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(hex_value(hex[2 * i]) << 4 | hex_value(hex[2 * i + 1]));
    return 0;
}
