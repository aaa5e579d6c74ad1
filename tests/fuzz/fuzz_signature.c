/* Fuzz target: penstock.manifest.sig, the signatures beside a manifest. A text is believed only if it holds the one
 * signature that the trusted key made of this manifest: Ed25519 gives no second one. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "proto/signature.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MANIFEST "manifest of a fuzz target"
#define MODEL    "6e0838a2f933e6a36b68950c98fce81ce298db0b7569571982d04dab1d8e0df6"
#define SIGNATURE                                                                                  \
    "dbaa340a31da9a8cf6e0423555b31eba905829275af330098843e2d160abc5ea"                             \
    "d3a5fed9576c900748e38e48fe263f256b0c3eaed44e5f2d1472b9018527df0e"

/* Its private half is nowhere any more. */
static const char public_key[] = "-----BEGIN PUBLIC KEY-----\n"
                                 "MCowBQYDK2VwAyEA1LvG/xfxViiWa8id3KBq71qbNdCVlqUZvGEaR4jVW9k=\n"
                                 "-----END PUBLIC KEY-----\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t n = strlen(MANIFEST);
    struct ps_err err = {0};
    struct ps_trust *trust;
    char *text = ps_calloc(1, size + 1);
    memcpy(text, data, size);
    PS_ASSERT(ps_trust_new(&trust) == 0 && ps_trust_add(trust, public_key, "the key", NULL) == 0);
    const int rc = ps_trust_check(trust, MANIFEST, n, text, size, &err);
    if (rc == 0)
        PS_ASSERT(memmem(data, size, SIGNATURE, strlen(SIGNATURE)));
    else
        PS_ASSERT((rc == PS_EDATA || rc == PS_EUNSUPPORTED) && err.code == rc && err.text[0]);
    const bool names = ps_signature_names(text, MANIFEST, n);
    PS_ASSERT(!names || strstr(text, MODEL));
    if (strlen(text) == size) /* else it ends sooner for who takes it for a C string */
        PS_ASSERT(names ? rc != PS_EUNSUPPORTED && !strstr(err.text, "holds none") : rc != 0);
    ps_trust_free(trust);
    ps_free(text);
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
