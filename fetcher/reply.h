/* The strict check of an HTTP reply to a range request. Comes in: header lines, what was asked.
 * Goes out: a judgement. Pure functions on bytes and integers, so that they are tested and
 * fuzzed without a socket.
 *
 * Why it exists: libcurl 7.88 reports success for a 200 instead of a 206, for another
 * Content-Range and for a short body without a length (facts-stores.md section 3). RFC 9110
 * sections 14 (ranges), 8.8 (validators), 10.2.3 (Retry-After). */
#ifndef PS_FETCHER_REPLY_H
#define PS_FETCHER_REPLY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fetcher/retry.h"

#define PS_ETAG_MAX     128
#define PS_LOCATION_MAX 8192

struct ps_content_range {
    bool satisfied;    /* false: "bytes" with '*' in place of the range (416) */
    uint64_t from, to; /* [from, to): `to` is one past the last byte */
    bool total_known;
    uint64_t total;
};

/* The value of a Content-Range header. 0 or PS_EDATA. */
int ps_content_range_parse(struct ps_content_range *out, const char *value, size_t len);

/* An IMF-fixdate ("Sun, 06 Nov 1994 08:49:37 GMT") in seconds since 1970. */
bool ps_http_date(const char *value, size_t len, uint64_t *out);

/* What the headers of one reply said. Fixed size: nothing here grows with what a server sends. */
struct ps_reply {
    int status;    /* 0 before the first status line */
    bool complete; /* the empty line has come */
    bool malformed; /* a header that matters is unreadable or stands there twice with different values */
    bool has_length, has_range, encoded, multipart;
    uint64_t length; /* Content-Length */
    struct ps_content_range range;
    char etag[PS_ETAG_MAX]; /* opaque tag with quotes, without W/; "" if none or too long */
    bool etag_weak;
    char last_modified[40];
    char encoding[24];
    char location[PS_LOCATION_MAX];
    uint64_t retry_after_ns; /* the longest that Retry-After or a RateLimit header asks for; 0 if none does */
    uint64_t reset_s; /* [X-]RateLimit-Reset, from now */
    bool remaining_known;
    uint64_t remaining; /* [X-]RateLimit-Remaining */
};

void ps_reply_init(struct ps_reply *r);
/* Feeds one header line (with or without its line end). A status line starts over, so that 1xx
 * replies vanish. `wall_s` is for Retry-After dates. Lines after the empty line (trailers) are
 * ignored. */
void ps_reply_line(struct ps_reply *r, const char *line, size_t len, uint64_t wall_s);

struct ps_ask {
    uint64_t from, to;     /* asked bytes [from, to) */
    bool open_end;         /* a shorter object is fine (headers, whole small objects) */
    uint64_t whole_max;    /* with open_end: a 200 of up to this many bytes is fine */
    uint64_t object_bytes; /* total size if known, else 0 */
    const char *etag; /* nullable: opaque tag with quotes that the reply must repeat if it carries one */
    const char *last_modified; /* nullable; only looked at when the reply has no ETag */
};

enum ps_verdict {
    PS_REPLY_ACCEPT,   /* the body is what was asked: read it */
    PS_REPLY_EMPTY,    /* the object has no bytes */
    PS_REPLY_REDIRECT, /* see location */
    PS_REPLY_REFUSE,   /* see cls, code, what */
};

struct ps_judgement {
    enum ps_verdict verdict;
    /* ACCEPT */
    uint64_t from, to; /* what the body holds; `to` may be UINT64_MAX (200 without a length) */
    bool length_stated; /* Content-Length equals to - from: the transport itself notices a short or long body */
    uint64_t total; /* size of the object, 0 if the server would not say */
    /* REFUSE */
    enum ps_retry_class cls;
    int code;         /* PS_E... once asking again is pointless */
    const char *what; /* static: "server ignores Range" */
    const char *hint; /* static: what to do */
    bool stop_now; /* the body is long or worthless: drop the connection instead of draining it */
};

struct ps_judgement ps_reply_judge(const struct ps_reply *r, const struct ps_ask *ask);
#endif
