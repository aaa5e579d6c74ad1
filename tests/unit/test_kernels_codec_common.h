/* What the codec tests share, on the CPU and on a device: random numbers, and weights whose codes have all lengths. */
#ifndef PS_TESTS_TEST_KERNELS_CODEC_COMMON_H
#define PS_TESTS_TEST_KERNELS_CODEC_COMMON_H
#include <stdint.h>
#include <string.h>

#include "proto/dtype.h"

/* xorshift64: the same numbers on every machine; *x is not zero */
static inline uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* n weights whose exponents are geometric: codes of all lengths and both escapes occur. */
static inline void fill_weights(uint8_t *p, enum ps_dtype t, size_t n, uint64_t *x)
{
    size_t each = ps_dtype_bytes(t);
    for (size_t i = 0; i < n; i++) {
        uint64_t r = next_random(x);
        unsigned zeros = (unsigned)__builtin_ctzll(next_random(x) | 1ull << 40), e = 120 - zeros;
        memcpy(p + i * each, &r, each);
        uint8_t *top = p + (i + 1) * each - 1;
        if (t == PS_BF16 || t == PS_F32) {
            top[0] = (uint8_t)((top[0] & 0x80) | e >> 1);
            top[-1] = (uint8_t)((top[-1] & 0x7f) | e << 7);
        } else if (t == PS_F16) {
            top[0] = (uint8_t)((top[0] & 0x83) | (zeros < 31 ? 31 - zeros : 0) << 2);
        } else {
            top[0] = (uint8_t)((top[0] & 0x87) | (zeros < 15 ? 15 - zeros : 0) << 3);
        }
    }
}
#endif
