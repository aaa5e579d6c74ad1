/* What the Hub's replies say beyond HTTP. Comes in: headers, the status, the address of a signed
 * link. Goes out: which state of the repository answered, the file's own hash and size, how long a
 * link lives, and, where the Hub refuses, why, and what the user can do about it. Pure functions.
 *
 * The headers are those that huggingface_hub reads (file_download.py, utils/_http.py). */
#ifndef PS_FETCHER_HF_REPLY_H
#define PS_FETCHER_HF_REPLY_H
#include <stdbool.h>
#include <stdint.h>
#include "fetcher/hf_ref.h"
#include "fetcher/hf_settings.h"
#include "fetcher/reply.h"

struct ps_hf_facts {
    char error_code[32]; /* X-Error-Code */
    char error_message[160]; /* X-Error-Message: remote text, shown only where nothing better is known */
    char commit[PS_HF_COMMIT_DIGITS + 1]; /* X-Repo-Commit, "" if none or malformed */
    /* X-Linked-Etag, else ETag, without quotes: SHA-256 of a large (LFS, Xet) file, git's SHA-1 of a small one. */
    char content[PS_ETAG_MAX];
    bool linked; /* content came from X-Linked-Etag: it names the file whatever this reply was */
    bool has_bytes;
    uint64_t bytes;  /* X-Linked-Size */
    uint64_t date_s; /* Date, 0 if none: expiry is told by the server's clock, not by ours */
};

/* The headers that are read, in lower case, NULL-terminated: what ps_fetch is asked to keep. */
extern const char *const ps_hf_headers[];
enum { PS_HF_HEADER_LOCATION = 0 }; /* its place in the list */
/* Takes the value of one of those headers (nullable). Zero the struct first. Values may come in any order. */
void ps_hf_facts_put(struct ps_hf_facts *f, const char *name, const char *value);
bool ps_hf_content_is_sha256(const char *content);

/* When a signed link ends, in seconds since 1970; 0 if its query does not say. Knows X-Amz-Date with
 * X-Amz-Expires (S3), X-Goog-*, and Expires (CloudFront, and S3 of old). */
uint64_t ps_signed_until(const char *query);

enum ps_hf_refusal {
    PS_HF_OTHER, /* nothing of the Hub's own: the status speaks for itself */
    PS_HF_NO_REPO,
    PS_HF_GATED,
    PS_HF_NO_REVISION,
    PS_HF_NO_FILE,
    PS_HF_DISABLED,
    PS_HF_BAD_TOKEN,
    PS_HF_FORBIDDEN,
    PS_HF_REFUSALS, /* how many */
};

enum ps_hf_refusal ps_hf_refusal_of(int status, const struct ps_hf_facts *f);
const char *ps_hf_refusal_what(enum ps_hf_refusal r); /* static */
/* PS_ENOTFOUND for a missing file alone: whoever asks for a file that may be missing goes on then. */
int ps_hf_refusal_code(enum ps_hf_refusal r);
/* What to do, for this repository and with or without a token. Heap; NULL when out of memory. */
char *ps_hf_refusal_hint(enum ps_hf_refusal r, const struct ps_hf_ref *ref,
                         const struct ps_hf_settings *settings);
#endif
