/* The limit of --net-limit: so many bytes per second over all connections of a run, whatever the store. Comes in:
 * bytes that have arrived. Goes out: the time before which no more may be read.
 *
 * A token bucket in the form of a clock (the "virtual scheduling" of ATM's generic cell rate algorithm): every
 * byte moves the time at which the bucket is even again. Nothing sleeps here: a net thread that is told to wait
 * leaves its sockets unread, and TCP itself slows the sender down. */
#ifndef PS_FETCHER_RATE_LIMIT_H
#define PS_FETCHER_RATE_LIMIT_H
#include <stdint.h>
#include "base/err.h"

/* The pure part: no lock, no clock of its own. */
struct ps_rate_bucket {
    uint64_t bytes_per_s; /* > 0 */
    uint64_t even_ns;     /* when what has arrived is paid for */
};
/* What arrived at now_ns. Unused time counts for at most a twentieth of a second. */
void ps_rate_bucket_take(struct ps_rate_bucket *b, uint64_t bytes, uint64_t now_ns);

/* One limit shared by any number of sources; any thread. */
struct ps_rate_limit;
int ps_rate_limit_new(struct ps_rate_limit **out, uint64_t bytes_per_s, struct ps_err *err);
void ps_rate_limit_free(struct ps_rate_limit *l); /* nullable; sources that use it are closed */
/* What a user wrote for --net-limit: NULL or "" gives *out = NULL, no limit. PS_EUSAGE for a percentage or less than
 * 1 KiB a second, which would be a standstill. */
int ps_rate_limit_parse(struct ps_rate_limit **out, const char *text, struct ps_err *err);
uint64_t ps_rate_limit_bytes_per_s(const struct ps_rate_limit *l);
/* All nullable l: no limit. take: `bytes` have arrived. ready: reading may go on from this time on (0: at once). */
void ps_rate_limit_take(struct ps_rate_limit *l, uint64_t bytes, uint64_t now_ns);
uint64_t ps_rate_limit_ready_ns(struct ps_rate_limit *l);
/* How much one read of one of `connections`, and how much the socket of one may hold (0: as the system does), so that a
 * round over all of them is a short debt. */
int ps_rate_limit_socket_bytes(const struct ps_rate_limit *l, unsigned connections);
long ps_rate_limit_read_bytes(const struct ps_rate_limit *l, unsigned connections, long most);
#endif
