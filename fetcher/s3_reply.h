/* What an unwelcome reply of S3 means. Comes in: status, two headers, the beginning of the XML page,
 * and what the request was made with. Goes out: what to change before asking again, or words for
 * people. Pure function on bytes and integers.
 *
 * Codes after "Error responses" of the Amazon S3 API reference; Ceph, MinIO, R2 and GCS use the
 * same ones. */
#ifndef PS_FETCHER_S3_REPLY_H
#define PS_FETCHER_S3_REPLY_H
#include <stdbool.h>
#include <stdint.h>
#include "fetcher/reply.h"
#include "fetcher/s3_config.h"

#define PS_S3_CODE_MAX 64

struct ps_s3_answer {
    int status;
    const char *region_header; /* x-amz-bucket-region, "" if none */
    const char *date_header;   /* Date, "" if none */
    const char *body;          /* XML, or anything else */
    size_t body_bytes;
    uint64_t wall_s; /* our clock */
    /* what the request was made with */
    const char *region;
    int64_t offset_s;
    bool unsigned_request;
    bool stale; /* region, clock or keys have changed since: it need not be believed */
};

enum ps_s3_action {
    PS_S3_GIVE_UP,
    PS_S3_AGAIN,      /* with what is known by now */
    PS_S3_SET_REGION, /* to `region` */
    PS_S3_SET_CLOCK,  /* our clock is off by -offset_s seconds */
    PS_S3_NEW_KEYS,
};

struct ps_s3_advice {
    enum ps_s3_action action;
    char region[PS_S3_REGION_MAX];
    int64_t offset_s;
    char code[PS_S3_CODE_MAX]; /* the server's, "" if none */
};

/* Also puts better words, and a better class, into *judge where the code is known. */
struct ps_s3_advice ps_s3_judge(const struct ps_s3_answer *a, struct ps_judgement *judge);
#endif
