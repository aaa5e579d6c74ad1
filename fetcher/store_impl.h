/* What the stores share and the table in store.c points at. Private to fetcher/. */
#ifndef PS_FETCHER_STORE_IMPL_H
#define PS_FETCHER_STORE_IMPL_H
#include "fetcher/store.h"

int ps_http_store_open(struct ps_source **out, const char *address,
                       const struct ps_store_options *options, struct ps_err *err);
int ps_s3_store_open(struct ps_source **out, const char *address,
                     const struct ps_store_options *options, struct ps_err *err);
/* The source of one address alone. */
int ps_store_open_one(struct ps_source **out, const char *address,
                      const struct ps_store_options *options, struct ps_err *err);
int ps_mirror_store_open(struct ps_source **out, const char *address,
                         const struct ps_store_options *options, struct ps_err *err);
struct ps_http_origin;
/* Of the options: stats, limit, anonymous, and the CA of access. */
int ps_s3_origin_new(struct ps_http_origin **out, const char *address,
                     const struct ps_store_options *options, struct ps_err *err);
/* The labels of sources by address, and of a parsed one; heap, NULL or PS_ENOMEM when out of memory. */
struct ps_uri;
char *ps_http_plain_label(const struct ps_uri *u);
int ps_s3_address_label(char **out, const char *address, struct ps_err *err);
/* Heap, NULL without memory: what every key of an S3 origin begins with, "" or "dir/"; and an object as
 * x-amz-copy-source has it. */
char *ps_s3_origin_prefix(const struct ps_http_origin *o);
char *ps_s3_origin_source(const struct ps_http_origin *o, const char *object);
int ps_file_store_open(struct ps_source **out, const char *address,
                       const struct ps_store_options *options, struct ps_err *err);

int ps_hf_store_open(struct ps_source **out, const char *address,
                     const struct ps_store_options *options, struct ps_err *err);

/* What every store demands of a range before it takes it. 0, PS_EDATA (bad name, beyond the
 * object) or PS_EUSAGE (no bytes). */
int ps_range_check(const struct ps_range *r, struct ps_err *err);
#endif
