/* What `penstock share` answers, decided from texts and numbers alone: no socket, no file. Pure.
 *
 * Semantics: RFC 9110 sections 13 (conditions, in the order of 13.2.2) and 14 (ranges). Several
 * ranges in one request are answered with the whole file, as the section allows. */
#ifndef PS_TOOLS_SHARE_REQUEST_H
#define PS_TOOLS_SHARE_REQUEST_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define PS_SHARE_PATH_MAX 1024
#define PS_SHARE_ETAG_MAX 80

struct ps_share_headers { /* nullable values of the request's headers */
    const char *range, *if_match, *if_none_match, *if_range, *if_modified_since, *if_unmodified_since;
};
struct ps_share_facts {
    uint64_t bytes;
    const char *etag; /* strong, quotes included */
    time_t mtime;
};
struct ps_share_answer {
    unsigned status; /* 200, 206, 304, 412, 416 */
    uint64_t offset, bytes;
};
/* `get`: false for HEAD, where a range has no meaning. */
void ps_share_decide(struct ps_share_answer *out, const struct ps_share_headers *h,
                     const struct ps_share_facts *f, bool get);

/* The raw path of a request ("/shards/ab%20c") as a relative name in out[PS_SHARE_PATH_MAX] (""
 * for "/"). 0, or the status to answer: 400 for what no honest client sends ("..", "%2e", "%2f",
 * %00, a backslash, an empty part, a control character), 404 for hidden files and names that are
 * too long. */
unsigned ps_share_path(char *out, const char *raw);

/* "shards/<64 hex>.shard", perhaps behind folders: its bytes never change. Its ETag is the
 * name's hash. */
bool ps_share_is_shard(const char *path, char hash[65]);
void ps_share_etag(char out[PS_SHARE_ETAG_MAX], const char *path, uint64_t bytes,
                   const struct timespec *mtime);
const char *ps_share_content_type(const char *path);
/* "Sun, 06 Nov 1994 08:49:37 GMT" */
void ps_share_date(char out[32], time_t t);
#endif
