/* CRC32C (Castagnoli): slab bytes come in on every read, a 32-bit guard goes out.
 *
 * The processor's instruction takes 8 bytes with a latency of three cycles and a throughput of one per cycle, so
 * three streams run side by side and are joined by shifting each over the length of the next. The shift is a
 * multiplication by a constant power of x modulo the polynomial, which is linear: four tables of 256 entries,
 * built at first use. Method: Mark Adler's crc32c.c; Gopal et al., "Fast CRC Computation for iSCSI Polynomial
 * Using CRC32 Instruction", Intel, 2011. */
#include "base/hash.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define CRC_TARGET        __attribute__((target("sse4.2")))
#define CRC_STEP(crc, v)  _mm_crc32_u64((crc), (v))
#define CRC_STEP8(crc, v) _mm_crc32_u8((crc), (v))
typedef uint64_t crc_reg;
#elif defined(__aarch64__)
#include <sys/auxv.h>
#if defined(__clang__) /* arm_acle.h hides them from a file that is compiled for every ARMv8 */
#define CRC_TARGET        __attribute__((target("crc")))
#define CRC_STEP(crc, v)  __builtin_arm_crc32cd((crc), (v))
#define CRC_STEP8(crc, v) __builtin_arm_crc32cb((crc), (v))
#else
#define CRC_TARGET        __attribute__((target("+crc")))
#define CRC_STEP(crc, v)  __builtin_aarch64_crc32cx((crc), (v))
#define CRC_STEP8(crc, v) __builtin_aarch64_crc32cb((crc), (v))
#endif
#define AUXV_HWCAP_CRC32 (1ul << 7)
typedef uint32_t crc_reg;
#endif

#define POLYNOMIAL 0x82f63b78u /* x^32 + x^28 + ... bit-reversed */

/* Bytes per stream. Long blocks amortise the joining; short ones serve what is left. */
enum { LONG_BYTES = 8192, SHORT_BYTES = 256 };

static pthread_once_t tables_once = PTHREAD_ONCE_INIT;
static uint32_t byte_table[8][256];  /* slicing-by-8, where there is no instruction */
static uint32_t long_shift[4][256];  /* over LONG_BYTES zero bytes */
static uint32_t short_shift[4][256]; /* over SHORT_BYTES zero bytes */
static uint32_t (*crc_update)(uint32_t crc, const uint8_t *p,
                              size_t n); /* works on the inverted register */

static uint32_t crc_by_table(uint32_t crc, const uint8_t *p, size_t n)
{
    for (; n >= 8; p += 8, n -= 8) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + 4, 4);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        low = __builtin_bswap32(low);
        high = __builtin_bswap32(high);
#endif
        low ^= crc;
        crc = byte_table[7][low & 255] ^ byte_table[6][low >> 8 & 255] ^
              byte_table[5][low >> 16 & 255] ^ byte_table[4][low >> 24] ^
              byte_table[3][high & 255] ^ byte_table[2][high >> 8 & 255] ^
              byte_table[1][high >> 16 & 255] ^ byte_table[0][high >> 24];
    }
    for (; n; p++, n--)
        crc = byte_table[0][(crc ^ *p) & 255] ^ crc >> 8;
    return crc;
}

#ifdef CRC_STEP
static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint32_t shift(const uint32_t table[4][256], uint32_t crc)
{
    return table[0][crc & 255] ^ table[1][crc >> 8 & 255] ^ table[2][crc >> 16 & 255] ^
           table[3][crc >> 24];
}

/* One block of three streams of `bytes` each. */
CRC_TARGET static inline uint32_t three_streams(uint32_t crc, const uint8_t *p, size_t bytes,
                                                const uint32_t table[4][256])
{
    crc_reg a = crc, b = 0, c = 0;
    for (size_t i = 0; i < bytes; i += 8) {
        a = CRC_STEP(a, load64(p + i));
        b = CRC_STEP(b, load64(p + bytes + i));
        c = CRC_STEP(c, load64(p + 2 * bytes + i));
    }
    uint32_t joined = shift(table, (uint32_t)a) ^ (uint32_t)b;
    return shift(table, joined) ^ (uint32_t)c;
}

CRC_TARGET static uint32_t crc_by_instruction(uint32_t crc, const uint8_t *p, size_t n)
{
    for (; n && (uintptr_t)p % 8; p++, n--)
        crc = CRC_STEP8(crc, *p);
    for (; n >= 3 * LONG_BYTES; p += 3 * LONG_BYTES, n -= 3 * LONG_BYTES)
        crc = three_streams(crc, p, LONG_BYTES, long_shift);
    for (; n >= 3 * SHORT_BYTES; p += 3 * SHORT_BYTES, n -= 3 * SHORT_BYTES)
        crc = three_streams(crc, p, SHORT_BYTES, short_shift);
    crc_reg wide = crc;
    for (; n >= 8; p += 8, n -= 8)
        wide = CRC_STEP(wide, load64(p));
    crc = (uint32_t)wide;
    for (; n; p++, n--)
        crc = CRC_STEP8(crc, *p);
    return crc;
}

static int have_instruction(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("sse4.2");
#else
    return (getauxval(AT_HWCAP) & AUXV_HWCAP_CRC32) != 0;
#endif
}
#endif /* CRC_STEP */

static void build_byte_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
        byte_table[0][i] = crc;
    }
    for (int k = 1; k < 8; k++) {
        for (int i = 0; i < 256; i++) {
            uint32_t crc = byte_table[k - 1][i];
            byte_table[k][i] = byte_table[0][crc & 255] ^ crc >> 8;
        }
    }
}

/* Feeding zero bytes is linear in the register, so the effect on every single bit gives that on every value. */
static void build_shift_table(uint32_t table[4][256], size_t zero_bytes)
{
    static const uint8_t zeros[SHORT_BYTES];
    uint32_t of_bit[32];
    for (int bit = 0; bit < 32; bit++) {
        uint32_t crc = 1u << bit;
        for (size_t n = zero_bytes; n; n -= sizeof(zeros))
            crc = crc_by_table(crc, zeros, sizeof(zeros));
        of_bit[bit] = crc;
    }
    for (int k = 0; k < 4; k++) {
        for (unsigned v = 0; v < 256; v++) {
            uint32_t crc = 0;
            for (int bit = 0; bit < 8; bit++)
                crc ^= v >> bit & 1 ? of_bit[8 * k + bit] : 0;
            table[k][v] = crc;
        }
    }
}

static void build_tables(void)
{
    build_byte_tables();
    crc_update = crc_by_table;
#ifdef CRC_STEP
    if (have_instruction()) {
        build_shift_table(long_shift, LONG_BYTES);
        build_shift_table(short_shift, SHORT_BYTES);
        crc_update = crc_by_instruction;
    }
#endif
}

uint32_t ps_crc32c(uint32_t crc, const void *data, size_t bytes)
{
    pthread_once(&tables_once, build_tables);
    return ~crc_update(~crc, data, bytes);
}

uint32_t ps_crc32c_portable(uint32_t crc, const void *data, size_t bytes)
{
    pthread_once(&tables_once, build_tables);
    return ~crc_by_table(~crc, data, bytes);
}
