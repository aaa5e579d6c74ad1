/* What s3_upload.c and s3_manage.c share: a request to S3 that is tried until it succeeds or is hopeless. Private to
 * fetcher/. */
#ifndef PS_FETCHER_S3_UPLOAD_INTERNAL_H
#define PS_FETCHER_S3_UPLOAD_INTERNAL_H
#include <pthread.h>

#include "base/hash.h"
#include "fetcher/http_fetch.h"
#include "fetcher/s3_upload.h"

#define PS_S3_UPLOAD_ID_MAX 1024

struct ps_http_origin;

struct ps_s3_writer {
    struct ps_http_origin *origin;
    struct ps_store_options opt;
    atomic_bool never; /* prepare wants something to look at */
};

struct ps_s3_upload {
    struct ps_s3_writer *w;
    char *object;
    char id[PS_S3_UPLOAD_ID_MAX];
    pthread_mutex_t lock;
    char *etags[PS_S3_PARTS_MAX]; /* lock */
    unsigned parts;               /* lock: the highest number so far */
};

struct ps_s3_call {
    struct ps_s3_writer *w;
    const char *method, *object, *query;  /* object NULL: the bucket; query: escaped, nullable */
    const char *copy_source, *copy_range; /* nullable */
    size_t max_reply_bytes;               /* 0: 64 KiB */
    unsigned timeout_s;                   /* 0: by the length of the body */
    bool stubborn;                        /* an interrupt does not end it: cleaning up */
    const void *body;
    size_t bytes;
    char hash[2 * PS_SHA256_BYTES + 1];
    const char *const *keep; /* reply headers that the caller wants, after the origin's own two */
    unsigned cures;
};

/* One request until it succeeds or is hopeless. 0: *r is to be freed. */
int ps_s3_call(struct ps_s3_call *c, struct ps_fetch_reply *r, struct ps_err *err);
/* "partNumber=N&uploadId=ID" of an upload, without the number for 0. Heap, NULL without memory. */
char *ps_s3_upload_query(const char *id, unsigned number);
/* Notes a part's ETag, which is the upload's from now on. PS_EDATA: it is none. */
int ps_s3_upload_note(struct ps_s3_upload *u, unsigned number, char *etag, struct ps_err *err);
#endif
