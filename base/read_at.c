/* Reading a part of a file whole. Comes in: a descriptor, a range. Goes out: its bytes. */
#include "base/read_at.h"

#include <errno.h>
#include <unistd.h>

int64_t ps_read_at(int fd, void *buf, size_t need, size_t want, uint64_t at)
{
    size_t done = 0;
    while (done < need) {
        const ssize_t n = pread(fd, (char *)buf + done, want - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (int64_t)done;
}
