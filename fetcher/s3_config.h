/* What the environment and the AWS configuration files say about S3: profile, region, endpoint,
 * addressing. Comes in: AWS_* variables, ~/.aws/config, ~/.aws/credentials. Goes out: settings with
 * the meaning that the AWS command line gives them. Reads files; keeps nothing open. */
#ifndef PS_FETCHER_S3_CONFIG_H
#define PS_FETCHER_S3_CONFIG_H
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

#define PS_S3_FILE_MAX_BYTES (1u << 20)
#define PS_S3_VALUE_MAX      2048
#define PS_S3_NAME_MAX       128
#define PS_S3_REGION_MAX     64

/* Both files as they are now, and which profile counts. */
struct ps_s3_files {
    char *config, *credentials; /* "" where the file is missing */
    size_t config_bytes, credentials_bytes;
    char profile[PS_S3_NAME_MAX];
    bool explicit_profile; /* AWS_PROFILE was set */
};

/* Value of an environment variable, NULL if unset or empty; and whether it says yes. */
const char *ps_s3_env(const char *name);
bool ps_s3_env_true(const char *name);

/* PS_EREFUSED where AWS_PROFILE names a profile that neither file has, PS_EIO for an unreadable
 * file, PS_ENOMEM. */
int ps_s3_files_load(struct ps_s3_files *out, struct ps_err *err);
void ps_s3_files_deinit(struct ps_s3_files *f);
/* A setting of the profile, the credentials file first. False: not there. */
bool ps_s3_profile_get(const struct ps_s3_files *f, const char *profile, const char *key, char *out,
                       size_t cap);

/* The address that the user gave for a service ("s3", "sts"), in AWS's order: AWS_ENDPOINT_URL_<SERVICE>,
 * AWS_ENDPOINT_URL, what the profile's [services NAME] says of it, the profile's for all services. *out (heap) stays
 * as it is where there is none, or AWS_IGNORE_CONFIGURED_ENDPOINT_URLS is set. 0 or PS_ENOMEM. */
int ps_s3_endpoint(char **out, const struct ps_s3_files *f, const char *service);

/* A small file into fresh memory with a NUL behind it (ps_free, secrets may be in it).
 * PS_ENOTFOUND, PS_EIO, PS_EDATA if longer than max, PS_ENOMEM. */
int ps_s3_read_file(const char *path, size_t max, char **out, size_t *bytes, struct ps_err *err);

enum ps_s3_style { PS_S3_STYLE_AUTO, PS_S3_STYLE_PATH, PS_S3_STYLE_VIRTUAL };

struct ps_s3_config {
    char region[PS_S3_REGION_MAX]; /* us-east-1 where nobody says */
    char *endpoint;                /* heap; NULL: AWS's own */
    enum ps_s3_style style;
    bool dualstack, fips;
    bool requester_pays; /* AWS_REQUEST_PAYER=requester */
    bool anonymous;      /* PENSTOCK_NO_SIGN_REQUEST or AWS_NO_SIGN_REQUEST */
    char *ca_file;       /* heap; AWS_CA_BUNDLE or ca_bundle of the profile; NULL: as for https */
};

int ps_s3_config_load(struct ps_s3_config *out, struct ps_err *err);
void ps_s3_config_deinit(struct ps_s3_config *c);

/* A region becomes part of host names: lower-case letters, digits and '-', at most 32. */
bool ps_s3_region_ok(const char *region);
#endif
