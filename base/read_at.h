/* Reading a part of a file whole. */
#ifndef PS_BASE_READ_AT_H
#define PS_BASE_READ_AT_H
#include <stddef.h>
#include <stdint.h>

/* Reads from offset `at` into buf until at least `need` bytes are there, `want` (>= need) at most: a kernel may
 * give less than was asked for, and a signal may come between. need < want is for direct reads of whole blocks,
 * whose last one may end behind the end of the file: from there no other could begin. Returns the number of bytes,
 * less than need only at the file's end; -1 with errno if a read fails. Any thread; blocks. */
int64_t ps_read_at(int fd, void *buf, size_t need, size_t want, uint64_t at);
#endif
