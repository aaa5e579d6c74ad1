/* Fuzz target: what services that hand out AWS keys answer: JSON of the metadata service and of a container's
 * endpoint (first byte even), XML of STS (odd). Keys that are accepted can go into a header as they are. */
#include <stdint.h>
#include <string.h>

#include "fetcher/s3_credentials.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_part(const char *text, size_t cap)
{
    PS_ASSERT(memchr(text, '\0', cap));
    for (; *text; text++)
        PS_ASSERT((unsigned char)*text > 0x20 && *text != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ps_s3_keys k = {0};
    struct ps_err err = {0};
    if (size < 1)
        return 0;
    const char *text = (const char *)data + 1;
    int rc = data[0] & 1 ? keys_of_sts(&k, text, size - 1, &err)
                         : keys_of_json(&k, PS_S3_KEYS_EC2, text, size - 1, &err);
    if (rc == 0) {
        PS_ASSERT(k.access[0] && k.secret[0]);
        check_part(k.access, sizeof k.access);
        check_part(k.secret, sizeof k.secret);
        check_part(k.token, sizeof k.token);
    } else {
        PS_ASSERT(err.code == rc && err.text[0]);
    }
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
