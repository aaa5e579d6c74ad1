/* libFuzzer: a shard's index. What is accepted must lie inside the shard, and be writable again. */
#include "base/alloc.h"
#include "base/err.h"
#include "proto/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensor(const struct ps_shard_tensor *t, uint64_t begin, uint64_t end)
{
    uint64_t row = 0;
    for (uint32_t k = 0; k < t->n_extents; k++) {
        const struct ps_shard_extent *e = &t->extents[k];
        PS_ASSERT(e->offset >= begin && e->stored_bytes <= end && e->offset <= end - e->stored_bytes);
        PS_ASSERT(e->row0 == row && e->n_rows > 0);
        row += e->n_rows;
        uint64_t sum = 0;
        for (uint32_t b = 0; b < e->n_blocks; b++)
            sum += e->block_bytes[b];
        PS_ASSERT(e->codec == PS_CODEC_RAW ? e->n_blocks == 0 : sum == e->stored_bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint64_t object_bytes = 1u << 24;
    struct ps_shard_index *x = NULL, *again = NULL;
    char *bytes;
    size_t len;
    if (ps_shard_index_decode(&x, data, size, object_bytes, NULL) != 0)
        return 0;
    for (uint32_t i = 0; i < x->n_tensors; i++)
        check_tensor(&x->tensors[i], PS_SHARD_HEAD_BYTES + size, object_bytes);
    PS_ASSERT(ps_shard_index_encode(x, &bytes, &len, NULL) == 0);
    if (len <= size) { /* a shorter one leaves the data where it may be */
        PS_ASSERT(ps_shard_index_decode(&again, bytes, len, object_bytes, NULL) == 0);
        ps_shard_index_free(again);
    }
    ps_free(bytes);
    ps_shard_index_free(x);
    return 0;
}
