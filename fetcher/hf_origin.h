/* The Hub as an origin of the http store (http_origin.h). Comes in: names of files of one repository.
 * Goes out: where their bytes lie now (most often a signed link on a CDN, kept in memory only), pinned to
 * one commit, each asked for once and again shortly before its link ends.
 *
 * One question per file, not per range: the Hub allows an anonymous address some 3,000 of them in five
 * minutes, and a large model has 100,000 ranges. Protocol: huggingface_hub's file_download.py. */
#ifndef PS_FETCHER_HF_ORIGIN_H
#define PS_FETCHER_HF_ORIGIN_H
#include "fetcher/hf_ref.h"
#include "fetcher/hf_settings.h"
#include "fetcher/http_origin.h"

/* `ref` and `settings` are borrowed and must outlive the origin. */
int ps_hf_origin_new(struct ps_http_origin **out, const struct ps_hf_ref *ref,
                     const struct ps_hf_settings *settings, const struct ps_store_options *options,
                     struct ps_err *err);

/* The commit that the source is pinned to; false as long as no reply has told it. Any thread. */
bool ps_hf_origin_commit(struct ps_http_origin *o, char commit[PS_HF_COMMIT_DIGITS + 1]);

/* What names a file of a known commit in cache keys: its SHA-256, so that every mirror and copy shares them,
 * else commit and path. False: neither is known. Pure. */
bool ps_hf_identity(char *out, size_t cap, const char *content, const char *commit,
                    const char *folder, const char *file);
#endif
