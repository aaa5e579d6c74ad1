/* Signatures of AWS, version 4. Comes in: a request as it goes on the wire, keys, a time. Goes out:
 * the value of its Authorization header. Pure functions on strings, any thread.
 *
 * Our own because libcurl's (7.88) omits x-amz-content-sha256 and signs keys wrongly that need
 * escapes (facts-stores.md section 5). After "Signature Version 4 signing process" of the AWS
 * General Reference; tested with the vectors that AWS publishes. */
#ifndef PS_FETCHER_S3_SIGN_H
#define PS_FETCHER_S3_SIGN_H
#include <stddef.h>
#include <stdint.h>

#define PS_SIGV4_HEADERS_MAX 16
#define PS_SIGV4_PARAMS_MAX  64
#define PS_SIGV4_DATE_BYTES  17 /* "20130524T000000Z" and a NUL */
#define PS_SIGV4_EMPTY_HASH  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define PS_SIGV4_UNSIGNED    "UNSIGNED-PAYLOAD"
#define PS_SIGV4_AUTH_MAX    1024 /* room for an Authorization value */

struct ps_sigv4_header {
    const char *name; /* lower case */
    const char *value;
};

struct ps_sigv4_request {
    const char *method;
    const char *path;  /* as on the wire, escaped once; taken literally, as S3 does */
    const char *query; /* as on the wire, without '?'; nullable */
    const struct ps_sigv4_header *headers; /* all of them are signed; host and x-amz-date must be there */
    size_t n_headers;
    const char *payload_hash; /* hex SHA-256 of the body, or PS_SIGV4_UNSIGNED */
};

struct ps_sigv4_key {
    const char *access_key, *secret_key;
    const char *region, *service;
    const char *date; /* the value of x-amz-date */
};

/* Writes the Authorization value. PS_ENOMEM, or PS_EDATA where something is longer than its bound. */
int ps_sigv4_authorization(char out[PS_SIGV4_AUTH_MAX], const struct ps_sigv4_request *q,
                           const struct ps_sigv4_key *k);

/* x-amz-date of a time in seconds since 1970. */
void ps_sigv4_date(uint64_t wall_s, char out[PS_SIGV4_DATE_BYTES]);
#endif
