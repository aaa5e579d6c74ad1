/* hf:// addresses. Comes in: what the user wrote as MODEL. Goes out: repository, revision and
 * folder, and the names that the Hub and its cache directory make of them.
 *
 * The grammar is that of huggingface_hub, hf://[models/]ID[@REVISION][/FOLDER], and KServe's
 * ":REVISION". ID is "org/name", or "name" for the few old repositories without an owner. A '/'
 * inside a revision is written %2F, except in refs/pr/N and refs/convert/NAME. Pure functions, any
 * thread; strings belong to the struct. */
#ifndef PS_FETCHER_HF_REF_H
#define PS_FETCHER_HF_REF_H
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

#define PS_HF_COMMIT_DIGITS 40

struct ps_hf_ref {
    char *repo;     /* "org/name" or "name" */
    char *revision; /* branch, tag or commit, decoded; "main" where none is given */
    char *folder;   /* inside the repository, without slashes at its ends; "" for its root */
};

/* PS_EUSAGE says what is wrong; *out is untouched then. */
int ps_hf_ref_parse(struct ps_hf_ref *out, const char *address, struct ps_err *err);
void ps_hf_ref_deinit(struct ps_hf_ref *r); /* also fine on a zeroed struct */

/* A full commit id: it names one state of the repository for ever, nothing has to be asked. */
bool ps_hf_is_commit(const char *revision);

/* Heap strings (ps_free), NULL when out of memory. */
/* What people see, and give to `cache evict`: hf://org/name[@revision][/folder], without the revision "main". */
char *ps_hf_label(const struct ps_hf_ref *r);
char *ps_hf_files_address(const struct ps_hf_ref *r, const char *endpoint, const char *revision);
char *ps_hf_revision_address(const struct ps_hf_ref *r, const char *endpoint);
char *ps_hf_page_address(const struct ps_hf_ref *r,
                         const char *endpoint); /* for people: the model's page */
char *ps_hf_cache_path(const struct ps_hf_ref *r,
                       const char *hub_cache); /* its folder in the Hub's cache */
#endif
