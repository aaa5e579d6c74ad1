/* SHA-256 and hex: extents and small files come in, their identities go out. CRC32C is in crc32c.c. */
#include "base/hash.h"

/* The plain calls, on a state that the caller holds: EVP's, that OpenSSL 3 would rather see, allocate at every
 * start, and what is checked everywhere must not fail for want of memory (an allocation that failed there ended
 * the program). They use the same code for the processor. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <pthread.h>

#include "base/alloc.h"
#include "base/err.h"

struct ps_sha256 {
    SHA256_CTX state;
};

static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256; /* of HMAC; written once in fetch(), never freed: it lives as long as OpenSSL */

static void fetch(void)
{
    /* Fetched once: EVP_sha256() makes OpenSSL 3 look the algorithm up again at every init, about 100 ns and a lock. */
    sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
}

int ps_sha256_new(struct ps_sha256 **out)
{
    struct ps_sha256 *h = ps_malloc(sizeof(*h));
    if (!h)
        return PS_ENOMEM;
    ps_sha256_reset(h);
    *out = h;
    return 0;
}

void ps_sha256_reset(struct ps_sha256 *h)
{
    PS_ASSERT(SHA256_Init(&h->state) == 1);
}

void ps_sha256_update(struct ps_sha256 *h, const void *data, size_t bytes)
{
    PS_ASSERT(SHA256_Update(&h->state, data, bytes) == 1);
}

void ps_sha256_final(struct ps_sha256 *h, uint8_t out[PS_SHA256_BYTES])
{
    PS_ASSERT(SHA256_Final(out, &h->state) == 1);
}

void ps_sha256_free(struct ps_sha256 *h)
{
    ps_free(h);
}

void ps_sha256_once(const void *data, size_t bytes, uint8_t out[PS_SHA256_BYTES])
{
    struct ps_sha256 h;
    ps_sha256_reset(&h);
    ps_sha256_update(&h, data, bytes);
    ps_sha256_final(&h, out);
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
