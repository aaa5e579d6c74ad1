/* The folder that is shared: opens files by relative names and never one that lies elsewhere.
 * Thread-safe. */
#ifndef PS_TOOLS_SHARE_FOLDER_H
#define PS_TOOLS_SHARE_FOLDER_H
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include "base/err.h"

struct ps_share_folder {
    int fd;
};
int ps_share_folder_open(struct ps_share_folder *f, const char *dir, struct ps_err *err);
void ps_share_folder_close(struct ps_share_folder *f);
/* A regular file for reading, its facts in *st; or minus the status to answer (404, 403). `name`
 * has passed ps_share_path. Symbolic links are followed if what they lead to lies in the folder,
 * unhidden, or, where the folder is a snapshot of a Hugging Face cache (models--x/snapshots/y),
 * in that entry's blobs. */
int ps_share_folder_file(const struct ps_share_folder *f, const char *name, struct stat *st);
/* Whether it is a model itself, of either form; and half a sentence on what the folder is: "a pre-split model". */
bool ps_share_folder_is_model(const struct ps_share_folder *f);
const char *ps_share_folder_kind(const struct ps_share_folder *f);

/* Pure: does the real path `file` lie below the real path `root` or its blobs? */
int ps_share_beneath(const char *root, const char *file);
#endif
