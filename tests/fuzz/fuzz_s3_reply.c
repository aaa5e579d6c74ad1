/* Fuzz target: error pages as a hostile S3 may send them. The first two bytes choose status and state of the
 * request. Checks what must hold of any advice: a region that may become part of a host name, text without
 * control characters, words for every refusal. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"
#include "fetcher/s3_reply.h"
#include "fetcher/xml_scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *xml, size_t n, const char *name)
{
    char small[8], large[256];
    bool fits = ps_xml_text(xml, n, name, small, sizeof small);
    bool found = ps_xml_text(xml, n, name, large, sizeof large);
    PS_ASSERT(memchr(small, '\0', sizeof small) && memchr(large, '\0', sizeof large));
    PS_ASSERT(found || (!fits && large[0] == '\0'));
    if (fits)
        PS_ASSERT(strcmp(small, large) == 0);
    for (const char *p = large; *p; p++)
        PS_ASSERT((unsigned char)*p >= 0x20 && *p != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int statuses[] = {301, 307, 400, 401, 403, 404, 500, 503};
    if (size < 2)
        return 0;
    const char *xml = (const char *)data + 2;
    const size_t n = size - 2;
    static const char *const names[] = {"Code", "Region", "Endpoint", "ServerTime",
                                        "SecretAccessKey"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_text(xml, n, names[i]);
    struct ps_judgement j = {.verdict = data[1] & 4 ? PS_REPLY_REDIRECT : PS_REPLY_REFUSE,
                             .cls = PS_RETRY_FATAL,
                             .code = PS_EREFUSED,
                             .what = "refused",
                             .hint = "ask"};
    const struct ps_s3_answer a = {
        .status = statuses[data[0] % 8],
        .region_header = data[1] & 8 ? "eu-west-2" : "",
        .date_header = data[1] & 16 ? "Sun, 06 Nov 1994 08:49:37 GMT" : "",
        .body = xml,
        .body_bytes = n,
        .wall_s = 784111777,
        .region = "us-east-1",
        .offset_s = data[1] & 32 ? 5000 : 0,
        .unsigned_request = data[1] & 1,
        .stale = data[1] & 2,
    };
    const struct ps_s3_advice v = ps_s3_judge(&a, &j);
    if (v.action == PS_S3_SET_REGION)
        PS_ASSERT(ps_s3_region_ok(v.region) && strcmp(v.region, a.region) != 0);
    if (v.action == PS_S3_NEW_KEYS)
        PS_ASSERT(!a.unsigned_request && v.code[0]);
    PS_ASSERT(j.code < 0 && j.what && j.hint);
    return 0;
}
