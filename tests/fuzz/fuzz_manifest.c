/* libFuzzer: the manifest. What is accepted must be writable again and come back as it was. */
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "proto/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ps_manifest *m = NULL, *again = NULL;
    char *bytes;
    size_t len;
    if (ps_manifest_decode(&m, data, size, NULL) != 0)
        return 0;
    PS_ASSERT(ps_manifest_encode(m, &bytes, &len, NULL) == 0);
    PS_ASSERT(ps_manifest_decode(&again, bytes, len, NULL) == 0);
    PS_ASSERT(memcmp(m->id, again->id, sizeof m->id) == 0);
    ps_free(bytes);
    ps_manifest_free(m);
    ps_manifest_free(again);
    return 0;
}
