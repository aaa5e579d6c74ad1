/* Slab files: where the bytes lie. One sparse file per slot class, `slabs/<class>.slab`; slot i of class c is
 * the byte range [i << (12 + c), (i + 1) << (12 + c)). Only the part of a slot that was written is allocated,
 * and a freed slot is punched.
 *
 * Nobody here knows what a slot holds: index.h says which are in use, claims.c which are being filled or
 * emptied. Threads: all functions are thread-safe; two callers never work on one slot (its claim sees to that). */
#ifndef PS_CACHE_SLAB_H
#define PS_CACHE_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct ps_slabs;

/* `dir_fd` is the slabs directory; ownership moves here on success. `direct`: read past the page cache where
 * buffers allow. */
int ps_slabs_open(struct ps_slabs **out, int dir_fd, bool read_only, bool direct, struct ps_err *err);
void ps_slabs_close(struct ps_slabs *s);

/* Makes the file of the class long enough for the slot (sparse: costs nothing). Call it with the claims table
 * locked: file sizes only ever grow, and two processes must not set them at the same time. */
int ps_slab_extend(struct ps_slabs *s, int cls, uint32_t slot, struct ps_err *err);

/* Blocks on disk. PS_ENOSPC, PS_EIO. Starts write-back, so that a later sync finds little left to do. */
int ps_slab_write(struct ps_slabs *s, int cls, uint32_t slot, const void *buf, size_t bytes,
                  struct ps_err *err);
/* Exactly `bytes` into buf. PS_EDATA when the file or the slot is shorter or unreadable: damage, not failure. A
 * buf aligned to 4096 with room for whole grains (buf_cap) is read past the page cache. */
int ps_slab_read(struct ps_slabs *s, int cls, uint32_t slot, void *buf, size_t bytes,
                 size_t buf_cap, struct ps_err *err);
/* Data sync of one class. PS_ENOSPC where delayed allocation fails only now. */
int ps_slab_sync(struct ps_slabs *s, int cls, struct ps_err *err);
/* Gives the blocks of a slot back. Best effort: what stays allocated shows in ps_slabs_allocated_bytes. */
void ps_slab_punch(struct ps_slabs *s, int cls, uint32_t slot);
/* The same for `count` neighbours in one call: a punch can cost milliseconds, whatever its length. */
void ps_slab_punch_run(struct ps_slabs *s, int cls, uint32_t first, uint32_t count);
/* Forgets the page cache of a slot that has been synced (only with direct reads: nobody would use it). */
void ps_slab_drop_pages(struct ps_slabs *s, int cls, uint32_t slot, size_t bytes);

/* Gives back everything from slot `first` on (recovery: slots that were never recorded). */
void ps_slab_truncate(struct ps_slabs *s, int cls, uint32_t first);
/* st_blocks of all slab files. */
uint64_t ps_slabs_allocated_bytes(struct ps_slabs *s);

#endif
