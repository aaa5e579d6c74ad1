/* libFuzzer: blocks of WH and XC34. The first byte chooses codec, element type and direction. Unpacking: every table
 * of inner loops that the CPU runs gives the same verdict and the same weights, and those, packed again, come back.
 * Packing: any bytes must come through, and all tables write the same block. */
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "kernels/codec/block.h"
#include "kernels/codec/codec.h"
#include "proto/block_format.h"

#define MAX_BYTES (1u << 18)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const tables[] = {"scalar", "avx2", "avx512", "avx512vbmi"};
#define N_TABLES (sizeof tables / sizeof tables[0])

/* Returns whether the block is one; `out` then holds its weights. */
static bool unpack_by_all(enum ps_codec c, enum ps_dtype t, const uint8_t *block, size_t size,
                          uint8_t *out, size_t bytes)
{
    bool ok = ps_block_decode(&ps_block_ops_scalar, c, t, block, size, out, bytes);
    for (size_t i = 1; i < N_TABLES; i++) {
        const struct ps_block_ops *ops = ps_block_ops_by_name(tables[i]);
        if (!ops)
            continue;
        uint8_t *other = ps_malloc(bytes);
        PS_ASSERT(ps_block_decode(ops, c, t, block, size, other, bytes) == ok);
        PS_ASSERT(!ok || memcmp(out, other, bytes) == 0);
        ps_free(other);
    }
    return ok;
}

static void pack_by_all(enum ps_codec c, enum ps_dtype t, const uint8_t *weights, size_t bytes,
                        const uint8_t *packed, size_t n)
{
    uint8_t *other = ps_malloc(bytes);
    for (size_t i = 0; i < N_TABLES; i++) {
        const struct ps_block_ops *ops = ps_block_ops_by_name(tables[i]);
        size_t m = ops ? ps_block_encode(ops, c, t, weights, bytes, other) : 0;
        if (ops)
            PS_ASSERT(m ? m == n && memcmp(packed, other, m) == 0 : n == bytes);
    }
    ps_free(other);
}

static void there_and_back(enum ps_codec c, enum ps_dtype t, const uint8_t *weights, size_t bytes)
{
    uint8_t *packed = ps_malloc(bytes), *back = ps_malloc(bytes);
    size_t n = 0;
    PS_ASSERT(ps_codec_encode(c, t, weights, bytes, packed, &n, NULL) == 0 && n <= bytes);
    pack_by_all(c, t, weights, bytes, packed, n);
    uint8_t *exact = ps_malloc(n);
    memcpy(exact, packed, n);
    PS_ASSERT(ps_codec_decode(c, t, exact, n, back, bytes, NULL) == 0);
    PS_ASSERT(memcmp(weights, back, bytes) == 0);
    PS_ASSERT(n == bytes || unpack_by_all(c, t, exact, n, back, bytes));
    ps_free(exact);
    ps_free(packed);
    ps_free(back);
}

static void unpack(enum ps_codec c, enum ps_dtype t, const uint8_t *block, size_t size)
{
    if (size < PS_BLOCK_HEAD_BYTES)
        return;
    size_t bytes = (size_t)ps_block_u32(block + 4) * ps_block_weight_bytes(t);
    if (bytes == 0 || bytes > MAX_BYTES || bytes <= size)
        return;
    uint8_t *out = ps_malloc(bytes);
    if (unpack_by_all(c, t, block, size, out, bytes))
        there_and_back(c, t, out, bytes);
    ps_free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum ps_dtype types[] = {PS_BF16, PS_F16, PS_F32, PS_F8_E4M3};
    if (size < 2)
        return 0;
    enum ps_codec c = data[0] & 1 ? PS_CODEC_WH : PS_CODEC_XC34;
    enum ps_dtype t = types[data[0] >> 1 & 3];
    if (data[0] & 8)
        there_and_back(c, t, data + 1, size - 1);
    else
        unpack(c, t, data + 1, size - 1);
    return 0;
}
