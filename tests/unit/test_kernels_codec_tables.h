/* Every table of inner loops that this CPU runs, side by side: all must write the same blocks, and give the same
 * verdict and the same weights for any block. */
#ifndef PS_TESTS_TEST_KERNELS_CODEC_TABLES_H
#define PS_TESTS_TEST_KERNELS_CODEC_TABLES_H
#include <string.h>

#include "base/alloc.h"
#include "kernels/codec/block.h"
#include "tests/support/test.h"

static const char *const table_names[] = {"scalar", "avx2", "avx512", "avx512vbmi"};

/* The i-th table; NULL: not on this CPU. The scalar one comes first and always is. */
static inline const struct ps_block_ops *table(size_t i)
{
    return ps_block_ops_by_name(table_names[i]);
}

/* Unpacks from and to memory of the exact sizes, so that the address sanitizer watches the ends. Returns whether all
 * accept the block; *out is then what they make of it, else NULL. */
static inline bool unpack_by_all(uint8_t **out, enum ps_codec c, enum ps_dtype t,
                                 const uint8_t *block, size_t bytes, size_t out_bytes)
{
    uint8_t *in = ps_malloc(bytes ? bytes : 1), *want = ps_malloc(out_bytes);
    memcpy(in, block, bytes);
    bool ok = ps_block_decode(table(0), c, t, in, bytes, want, out_bytes);
    for (size_t i = 1; i < TEST_COUNT(table_names); i++) {
        if (!table(i))
            continue;
        uint8_t *got = ps_malloc(out_bytes);
        memset(got, 0x5a, out_bytes);
        if (ps_block_decode(table(i), c, t, in, bytes, got, out_bytes) != ok)
            fail_msg("%s says the opposite of scalar", table_names[i]);
        if (ok && memcmp(want, got, out_bytes) != 0)
            fail_msg("%s gives other weights than scalar", table_names[i]);
        ps_free(got);
    }
    ps_free(in);
    if (!ok) {
        ps_free(want);
        want = NULL;
    }
    *out = want;
    return ok;
}

/* Packs; returns the length, or 0 if the block does not shrink. */
static inline size_t pack_by_all(uint8_t *out, enum ps_codec c, enum ps_dtype t, const uint8_t *in,
                                 size_t in_bytes)
{
    size_t n = ps_block_encode(table(0), c, t, in, in_bytes, out);
    for (size_t i = 1; i < TEST_COUNT(table_names); i++) {
        if (!table(i))
            continue;
        uint8_t *other = ps_malloc(in_bytes);
        size_t m = ps_block_encode(table(i), c, t, in, in_bytes, other);
        if (m != n || memcmp(out, other, n) != 0)
            fail_msg("%s packs other bytes than scalar", table_names[i]);
        ps_free(other);
    }
    return n;
}
#endif
