/* Writing objects to S3: whole, or in parts that several threads may send at once. Comes in: bytes and
 * names. Goes out: objects, or no trace of them. The other direction than the rest of fetcher/;
 * made for `split` with a destination on S3.
 *
 * Every body is signed with its SHA-256, which the server checks on arrival. Failures that may pass
 * are tried again until net_deadline_s of the options; regions, clocks and keys are cured as in
 * reading. Calls block. A writer and an upload may be used by several threads. */
#ifndef PS_FETCHER_S3_UPLOAD_H
#define PS_FETCHER_S3_UPLOAD_H
#include "fetcher/store.h"

#define PS_S3_PARTS_MAX      10000u
#define PS_S3_PART_MIN_BYTES (5u << 20) /* of every part but the last, says S3 */

struct ps_s3_writer;
struct ps_s3_upload;

/* `address` is s3://bucket/prefix; of the options net_deadline_s, connect_timeout_s, interrupt and
 * stats count. No request is made. Errors as ps_store_open's. */
int ps_s3_writer_open(struct ps_s3_writer **out, const char *address,
                      const struct ps_store_options *options, struct ps_err *err);
void ps_s3_writer_close(struct ps_s3_writer *w); /* no upload may be open */

/* One object in one request (at most 5 GiB). PS_EREFUSED, PS_ENET, PS_EINTERRUPTED, PS_ENOMEM. */
int ps_s3_put(struct ps_s3_writer *w, const char *object, const void *bytes, size_t n,
              struct ps_err *err);

/* One object in parts, numbered from 1 without gaps. Nothing is visible before complete. complete
 * and abort free the upload, complete also when it fails (it aborts then): no parts stay behind
 * that would be billed. */
int ps_s3_upload_begin(struct ps_s3_upload **out, struct ps_s3_writer *w, const char *object,
                       struct ps_err *err);
int ps_s3_upload_part(struct ps_s3_upload *u, unsigned number, const void *bytes, size_t n,
                      struct ps_err *err);
int ps_s3_upload_complete(struct ps_s3_upload *u, struct ps_err *err);
void ps_s3_upload_abort(struct ps_s3_upload *u);

/* ---- s3_manage.c: what a split needs besides ---- */

/* Removes an object; one that is not there counts as removed. An interrupt does not end it. */
int ps_s3_delete(struct ps_s3_writer *w, const char *object, struct ps_err *err);
/* Calls fn for each object whose name (below the writer's prefix) begins with `begins`, until it returns false. */
int ps_s3_list(struct ps_s3_writer *w, const char *begins,
               bool (*fn)(void *user, const char *object), void *user, struct ps_err *err);
/* Aborts every open multipart upload of an object whose name begins with `begins`: what a killed run left behind.
 * *aborted (nullable): how many. */
int ps_s3_abort_uploads(struct ps_s3_writer *w, const char *begins, unsigned *aborted,
                        struct ps_err *err);
/* Copies an object of `bytes` to another name inside the store, in parts of up to 256 MiB; no bytes pass through
 * here. */
int ps_s3_copy(struct ps_s3_writer *w, const char *from, const char *to, uint64_t bytes,
               struct ps_err *err);
#endif
