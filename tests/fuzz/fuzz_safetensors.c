/* libFuzzer: the safetensors header reader. The first byte says whether the file's size is known. */
#include <stdlib.h>

#include "base/err.h"
#include "proto/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ps_st_header *h = NULL;
    if (size == 0)
        return 0;
    uint64_t file_bytes = data[0] & 1 ? size - 1 : 0;
    if (ps_st_parse(&h, data + 1, size - 1, file_bytes, NULL) != 0)
        return 0;
    uint64_t at = h->header_bytes;
    for (uint32_t i = 0; i < h->n_tensors; i++) {
        PS_ASSERT(h->tensors[i].begin == at && h->tensors[i].end >= at);
        at = h->tensors[i].end;
    }
    PS_ASSERT(at == h->file_bytes);
    ps_st_free(h);
    return 0;
}
