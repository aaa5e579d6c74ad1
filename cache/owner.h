/* Whose folder this is. In: a directory; out: ours, nobody's, or a stranger's.
 *
 * --cache may name any folder, and what a cache finds damaged in its folder it removes. So nothing is made or removed
 * in a folder that is neither empty nor known to be a cache, and in a cache only files with the names that we give.
 * Three things tell ours, because one of them may be the one that is damaged: the tag's text, the head of the claims
 * table, the clean mark in the lock file.
 *
 * Any thread; blocks on the disk. */
#ifndef PS_CACHE_OWNER_H
#define PS_CACHE_OWNER_H

#include <stdbool.h>
#include "base/err.h"

#define PS_OWNER_MARK_MAGIC "plclean3" /* first bytes of a clean mark (recover.c) */

enum ps_owner {
    PS_OWNER_OURS,
    PS_OWNER_UNTAGGED, /* ours, but the tag is missing or damaged */
    PS_OWNER_EMPTY,    /* nothing in it but what may lie beside a cache that was never made */
    PS_OWNER_FOREIGN,
};
enum ps_owner ps_owner_of(int dir_fd);

/* Whether ps_cache_open may use the folder. `writes`: a damaged tag is mended; `creates`: an empty folder is tagged.
 * PS_EUSAGE: foreign; PS_EIO, PS_ENOSPC; where nothing can be written the tag is let be. `dir` is for messages. */
int ps_owner_check(int dir_fd, const char *dir, bool writes, bool creates, struct ps_err *err);

/* A folder that a group shares says so itself: setgid, and the group may write (install -d -m 2770 -g GROUP DIR).
 * What is made in it then belongs to the group, whatever the umask; in any other folder everything is its user's
 * alone.
 *
 * For a file that may just have been made in dir_fd (or below): lets the group read and write it. Only its owner
 * can, and for others there is nothing to do. */
void ps_owner_share_file(int dir_fd, int fd);
/* The same for a directory in dir_fd. */
void ps_owner_share_dir(int dir_fd, const char *name);

/* Whether a lock file that was opened, and locked since, is still the one that others will open: `--disk 0` takes
 * it away while we wait for it. */
bool ps_owner_lock_is_current(int dir_fd, int lock_fd);

/* Removes a directory of ours and the files in it that bear our names; what else lies in it stays, and with it the
 * directory. */
void ps_owner_remove_dir(int dir_fd, const char *name);

#endif
