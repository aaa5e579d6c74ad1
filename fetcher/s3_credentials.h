/* Keys for S3. Comes in: the environment, the AWS files, the services that hand out temporary keys.
 * Goes out: one set of keys with its end of life, or the knowledge that there is none.
 *
 * The order is that of the AWS command line: AWS_ACCESS_KEY_ID and friends; web identity
 * (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN); the profile's keys in ~/.aws/credentials, then
 * ~/.aws/config; the container's endpoint; the metadata service of EC2 (version 2 only, by itself;
 * not asked with AWS_EC2_METADATA_DISABLED=true). A source that is configured but fails is an
 * error, not a reason to try the next: other keys would be somebody else's. Where no source is
 * configured, requests go out unsigned, and the refusal of a private bucket says what to set. */
#ifndef PS_FETCHER_S3_CREDENTIALS_H
#define PS_FETCHER_S3_CREDENTIALS_H
#include <stdatomic.h>
#include <stdint.h>
#include "base/err.h"
#include "base/stats.h"
#include "fetcher/rate_limit.h"
#include "fetcher/retry.h"

enum ps_s3_key_source {
    PS_S3_KEYS_NONE, /* nothing configured: unsigned */
    PS_S3_KEYS_ENV,
    PS_S3_KEYS_WEB_IDENTITY,
    PS_S3_KEYS_PROFILE,
    PS_S3_KEYS_CONTAINER,
    PS_S3_KEYS_EC2,
};

struct ps_s3_keys {
    enum ps_s3_key_source source;
    char access[128];
    char secret[248];
    char token[8192];   /* "" for long-term keys */
    uint64_t expires_s; /* since 1970; 0: never */
};

struct ps_s3_key_ask {
    const char *region;          /* for STS */
    const char *ca_file;         /* nullable */
    const atomic_bool *stop;     /* nullable */
    struct ps_stats *stats;      /* nullable */
    struct ps_rate_limit *limit; /* nullable */
    enum ps_s3_key_source last; /* where the keys before came from: it is still expected to answer */
};

/* Blocking, for minutes at worst; any thread. On failure *cls says whether asking again may help:
 * PS_EREFUSED, PS_ENET, PS_EDATA, PS_EIO, PS_ENOMEM, PS_ECANCELLED. */
int ps_s3_keys_fetch(struct ps_s3_keys *out, const struct ps_s3_key_ask *ask,
                     enum ps_retry_class *cls, struct ps_err *err);
const char *ps_s3_key_source_name(enum ps_s3_key_source s); /* for messages: "the environment" */

/* "2026-01-02T03:04:05Z", also with a fraction: seconds since 1970; 0 if it is none. */
uint64_t ps_s3_parse_time(const char *text);
#endif
