/* S3's error codes. See s3_reply.h. */
#include "fetcher/s3_reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "fetcher/s3_credentials.h"
#include "fetcher/xml_scan.h"

/* A correction smaller than this would not have made the server refuse. */
#define CLOCK_MATTERS_S 60

static const struct {
    const char *code;
    enum ps_retry_class cls;
    int rc;
    const char *what, *hint;
} known[] = {
    {"AccessDenied", PS_RETRY_FATAL, PS_EREFUSED, "access denied (AccessDenied)",
     "these AWS keys may not read it: check AWS_PROFILE and the bucket's policy; a requester-pays "
     "bucket wants AWS_REQUEST_PAYER=requester"},
    {"InvalidAccessKeyId", PS_RETRY_FATAL, PS_EREFUSED, "unknown access key (InvalidAccessKeyId)",
     "check AWS_ACCESS_KEY_ID or the profile, and that they belong to this endpoint"},
    {"SignatureDoesNotMatch", PS_RETRY_FATAL, PS_EREFUSED, "wrong signature (SignatureDoesNotMatch)",
     "check AWS_SECRET_ACCESS_KEY; a proxy that rewrites requests does this, too"},
    {"ExpiredToken", PS_RETRY_FATAL, PS_EREFUSED, "AWS keys have expired (ExpiredToken)",
     "get fresh ones: log in again"},
    {"InvalidToken", PS_RETRY_FATAL, PS_EREFUSED, "AWS session token is wrong (InvalidToken)",
     "check AWS_SESSION_TOKEN: it belongs to one pair of keys"},
    {"TokenRefreshRequired", PS_RETRY_FATAL, PS_EREFUSED,
     "AWS keys are stale (TokenRefreshRequired)", "get fresh ones: log in again"},
    {"RequestTimeTooSkewed", PS_RETRY_FATAL, PS_EREFUSED,
     "the clock is wrong (RequestTimeTooSkewed)", "set this machine's clock"},
    {"NoSuchKey", PS_RETRY_FATAL, PS_ENOTFOUND, "no such object (NoSuchKey)",
     "check the address: S3 takes names literally"},
    /* Refused, not missing: a file that may be missing is passed over in silence, a bucket may not. */
    {"NoSuchBucket", PS_RETRY_FATAL, PS_EREFUSED, "no such bucket (NoSuchBucket)",
     "check the bucket's name, and AWS_ENDPOINT_URL if it is not at AWS"},
    {"NoSuchVersion", PS_RETRY_FATAL, PS_ENOTFOUND, "no such version (NoSuchVersion)",
     "check versionId"},
    {"InvalidBucketName", PS_RETRY_FATAL, PS_ENOTFOUND, "no bucket's name (InvalidBucketName)",
     "check the address"},
    {"AllAccessDisabled", PS_RETRY_FATAL, PS_EREFUSED, "bucket is closed (AllAccessDisabled)",
     "ask its owner"},
    {"AccountProblem", PS_RETRY_FATAL, PS_EREFUSED, "AWS account has a problem (AccountProblem)",
     "ask its owner"},
    {"InvalidObjectState", PS_RETRY_FATAL, PS_EREFUSED, "object is archived (InvalidObjectState)",
     "restore it from Glacier first"},
    {"AuthorizationHeaderMalformed", PS_RETRY_FATAL, PS_EREFUSED,
     "signed for the wrong region (AuthorizationHeaderMalformed)", "set AWS_REGION"},
    {"PermanentRedirect", PS_RETRY_FATAL, PS_EREFUSED, "bucket is in another region",
     "set AWS_REGION"},
    {"RequestTimeout", PS_RETRY_TRANSPORT, PS_ENET, "server gave up waiting (RequestTimeout)",
     "try again later"},
    {"SlowDown", PS_RETRY_THROTTLE, PS_ENET, "server is busy (SlowDown)", "try again later"},
    {"ServiceUnavailable", PS_RETRY_THROTTLE, PS_ENET, "server is busy (ServiceUnavailable)",
     "try again later"},
    {"InternalError", PS_RETRY_SERVER, PS_ENET, "server error (InternalError)", "try again later"},
};

static bool is_one_of(const char *code, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(code, *list) == 0)
            return true;
    return false;
}

/* "bucket.s3.eu-west-1.amazonaws.com" and the older "bucket.s3-eu-west-1.amazonaws.com". */
static bool region_of_endpoint(const char *endpoint, char out[PS_S3_REGION_MAX])
{
    const char *end = strstr(endpoint, ".amazonaws.com");
    if (!end)
        return false;
    const char *from = end;
    while (from > endpoint && from[-1] != '.')
        from--;
    if (strncmp(from, "s3-", 3) == 0)
        from += 3;
    size_t n = (size_t)(end - from);
    if (n == 0 || n >= PS_S3_REGION_MAX || (n == 2 && strncmp(from, "s3", 2) == 0))
        return false;
    memcpy(out, from, n);
    out[n] = '\0';
    return true;
}

/* Where the bucket is, if the reply says so. */
static bool says_region(const struct ps_s3_answer *a, char out[PS_S3_REGION_MAX])
{
    char endpoint[256];
    bool said = false;
    if (a->status != 400 && (a->status < 300 || a->status > 399))
        return false;
    if (a->region_header[0])
        said = snprintf(out, PS_S3_REGION_MAX, "%s", a->region_header) < PS_S3_REGION_MAX;
    if (!said)
        said = ps_xml_text(a->body, a->body_bytes, "Region", out, PS_S3_REGION_MAX);
    if (!said && ps_xml_text(a->body, a->body_bytes, "Endpoint", endpoint, sizeof endpoint))
        said = region_of_endpoint(endpoint, out);
    return said && ps_s3_region_ok(out);
}

/* By how much the server's clock is ahead of ours. */
static bool clock_offset(const struct ps_s3_answer *a, int64_t *out)
{
    char text[40];
    uint64_t server = 0;
    if (!ps_http_date(a->date_header, strlen(a->date_header), &server)) {
        if (!ps_xml_text(a->body, a->body_bytes, "ServerTime", text, sizeof text))
            return false;
        server = ps_s3_parse_time(text);
    }
    if (server == 0)
        return false;
    *out = (int64_t)server - (int64_t)a->wall_s;
    return llabs(*out - a->offset_s) >= CLOCK_MATTERS_S;
}

static enum ps_s3_action action_for(const struct ps_s3_answer *a, struct ps_s3_advice *v)
{
    static const char *const keys[] = {"ExpiredToken",         "ExpiredTokenException",
                                       "TokenRefreshRequired", "InvalidToken",
                                       "InvalidAccessKeyId",   NULL};
    bool about_keys = is_one_of(v->code, keys) && !a->unsigned_request;
    bool about_clock = strcmp(v->code, "RequestTimeTooSkewed") == 0;
    bool about_region = says_region(a, v->region);
    if (about_region && strcmp(v->region, a->region) != 0)
        return PS_S3_SET_REGION;
    if (a->stale && (about_keys || about_clock || about_region))
        return PS_S3_AGAIN;
    if (about_clock && clock_offset(a, &v->offset_s))
        return PS_S3_SET_CLOCK;
    return about_keys ? PS_S3_NEW_KEYS : PS_S3_GIVE_UP;
}

static void put_words(const struct ps_s3_answer *a, const char *code, struct ps_judgement *judge)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(code, known[i].code) == 0) {
            judge->verdict = PS_REPLY_REFUSE;
            judge->cls = known[i].cls;
            judge->code = known[i].rc;
            judge->what = known[i].what;
            judge->hint = known[i].hint;
        }
    if (a->unsigned_request && (a->status == 401 || a->status == 403))
        judge->hint =
            "asked without AWS keys, because none were found or AWS_NO_SIGN_REQUEST is set: "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE";
}

struct ps_s3_advice ps_s3_judge(const struct ps_s3_answer *a, struct ps_judgement *judge)
{
    struct ps_s3_advice v = {.action = PS_S3_GIVE_UP};
    ps_xml_text(a->body, a->body_bytes, "Code", v.code, sizeof v.code);
    v.action = action_for(a, &v);
    /* A redirect that can be followed is followed: without keys where it leads to another host. */
    if (v.action == PS_S3_GIVE_UP && judge->verdict == PS_REPLY_REFUSE)
        put_words(a, v.code, judge);
    return v;
}
