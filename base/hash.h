/* Hashes. SHA-256 (OpenSSL) is identity; CRC32C (SSE4.2 / ARMv8 instruction with three interleaved
 * streams, table fallback) guards every later read. Thread-safe; a ps_sha256 belongs to one thread at a time. */
#ifndef PS_BASE_HASH_H
#define PS_BASE_HASH_H
#include <stddef.h>
#include <stdint.h>

#define PS_SHA256_BYTES 32

struct ps_sha256; /* streaming state */
int ps_sha256_new(struct ps_sha256 **out);
void ps_sha256_reset(struct ps_sha256 *h);
void ps_sha256_update(struct ps_sha256 *h, const void *data, size_t bytes);
void ps_sha256_final(struct ps_sha256 *h, uint8_t out[PS_SHA256_BYTES]); /* reset before reuse */
void ps_sha256_free(struct ps_sha256 *h);
/* One shot; allocates nothing and can't fail. */
void ps_sha256_once(const void *data, size_t bytes, uint8_t out[PS_SHA256_BYTES]);

/* HMAC-SHA256 (RFC 2104). 0 or PS_ENOMEM. */
int ps_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t bytes,
                   uint8_t out[PS_SHA256_BYTES]);

/* CRC32C (Castagnoli) of data, continuing from `crc` (0 to start): crc32c("123456789") == 0xe3069283. */
uint32_t ps_crc32c(uint32_t crc, const void *data, size_t bytes);
/* The same by tables alone: what a processor without the instruction runs, and what the tests compare with. */
uint32_t ps_crc32c_portable(uint32_t crc, const void *data, size_t bytes);

void ps_hex_encode(const uint8_t *bytes, size_t n,
                   char *out /* 2n+1 */); /* lower case, NUL-terminated */
/* Exactly 2n lower- or upper-case hex digits from `hex`; 0 or PS_EDATA. */
int ps_hex_decode(const char *hex, size_t hex_len, uint8_t *out, size_t n);
#endif
