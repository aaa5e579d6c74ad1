/* The parts of the file store that its files share: file_store.c (queue, threads, doors) and
 * file_read.c (open files, reads). */
#ifndef PS_FETCHER_FILE_INTERNAL_H
#define PS_FETCHER_FILE_INTERNAL_H
#include <pthread.h>
#include "fetcher/range_heap.h"
#include "fetcher/store_impl.h"

#define PS_FILE_BOUNCE_BYTES                                                                       \
    (4u << 20) /* per thread, only with direct I/O: 1 to 8 MiB read equally fast */
#define PS_FILE_ALIGN 4096u

/* One open file. Kept open between reads; the least recently used one is closed when there are
 * too many. */
struct file_entry {
    struct file_entry *next; /* most recently used first */
    char *name;
    int fd, direct_fd; /* direct_fd -1: no direct I/O on this file system */
    uint64_t bytes;
    unsigned users;
};

struct file_table {
    pthread_mutex_t lock;
    int dir_fd;
    bool direct_io;
    struct file_entry *entries; /* lock */
    unsigned n;                 /* lock */
};

int file_table_init(struct file_table *t, const char *path, bool direct_io, struct ps_err *err);
void file_table_deinit(struct file_table *t);
/* The open file of that name. PS_ENOTFOUND, PS_EREFUSED (no permission), PS_EDATA (not a regular
 * file), PS_EIO. */
int file_acquire(struct file_table *t, struct file_entry **out, const char *label, const char *name,
                 struct ps_err *err);
void file_release(struct file_table *t, struct file_entry *e);
/* Names the version that an open file has now, not when it was opened: it may be written to in
 * place meanwhile. PS_EIO. */
int file_identify(const struct file_entry *e, char *out, size_t cap, const char *label,
                  struct ps_err *err);
/* Exactly [offset, offset + bytes) into buf. `bounce`: PS_FILE_BOUNCE_BYTES aligned to
 * PS_FILE_ALIGN, or NULL for ordinary reads. PS_EDATA when the file ends before. */
int file_read_at(const struct file_entry *e, uint64_t offset, void *buf, uint64_t bytes,
                 void *bounce, const char *label, struct ps_err *err);
#endif
