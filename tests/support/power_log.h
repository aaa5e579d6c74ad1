/* Power loss without pulling a plug: what a program did to a folder is logged call by call, and any moment of it
 * is made again in another folder as a disk might have kept it.
 *
 * What survives: all that was written to a file before its last finished fsync or fdatasync, and a write to a file
 * opened with O_DSYNC. Every 512-byte sector written since then, and of the call under way, may be there or not.
 * Changes of names, sizes and holes are kept in order (a journal): up to some moment after the last sync of any
 * file. Files changed through a mapping are sampled at each sync; any mixture of their samples may be found.
 *
 * The test program itself holds the shims (functions named as the C library's) and tells this log; nothing here is
 * named like a function of the C library, so that it can be linked anywhere. Any thread may note; replays are one
 * at a time and not while something is noted. */
#ifndef PS_TESTS_SUPPORT_POWER_LOG_H
#define PS_TESTS_SUPPORT_POWER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Notes from now on what happens to files under `dir`; `mapped` (nullable): a file in it that is changed by a
 * mapping. */
void power_start(const char *dir, const char *mapped);
void power_stop(void);
void power_free(void);
size_t power_n_ops(void);

/* To be called by the shims after a call that worked. Files elsewhere are passed over. */
void power_wrote(int fd, const void *bytes, size_t n, off_t at);
void power_sized(int fd, off_t size);
void power_punched(int fd, off_t at, off_t n);
void power_synced(int fd);
/* Names: of the directory dir_fd, or from the root. Before the call. */
void power_renames(int old_dir, const char *old_name, int new_dir, const char *new_name);
void power_unlinks(int dir_fd, const char *name);

/* Makes `to` (empty or absent) what the disk might hold when the power went before call `at` (0 to power_n_ops) was
 * finished; `seed` chooses among the possibilities, 0 loses all that may be lost, 1 keeps all that was done. */
void power_replay(const char *to, size_t at, uint64_t seed);
/* Whether some sync of a file of this name was finished before call `at`. */
bool power_was_synced(const char *name, size_t at);
bool power_was_renamed(const char *to); /* something got this name */
/* How many calls there were of each kind, on one line. */
void power_print(void);

#endif
