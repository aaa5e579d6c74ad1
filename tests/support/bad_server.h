/* A loopback HTTP server that misbehaves on request. Comes in: a table of rules (which request,
 * how to answer). Goes out: right answers to ranges of one block of content, except where a rule
 * says otherwise, and a record of what was asked.
 *
 * Every path serves the same content. Threads of its own; port chosen by the system; nothing
 * leaves 127.0.0.1. The rules must outlive the server. Functions may be called from any thread. */
#ifndef PS_TESTS_SUPPORT_BAD_SERVER_H
#define PS_TESTS_SUPPORT_BAD_SERVER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum bad_kind {
    BAD_NONE,            /* a right answer (with `header` added, if any) */
    BAD_NO_LENGTH,       /* right, but ended by closing instead of Content-Length */
    BAD_CHUNKED,         /* right, chunked, with a trailer */
    BAD_STAR_TOTAL,      /* right, "bytes a-b/ *" */
    BAD_EARLY_HINTS,     /* right, after a 103 with misleading headers */
    BAD_TRUNCATE,        /* half of the announced body, then closes */
    BAD_NO_LENGTH_SHORT, /* half of the body, no length, closes */
    BAD_CHUNKED_CUT,     /* closes inside a chunk */
    BAD_RESET,           /* half of the body, then a TCP reset */
    BAD_STALL,           /* half of the body, then silence */
    BAD_SILENT,          /* no answer at all */
    BAD_CLOSE,           /* closes without an answer */
    BAD_DRIP,            /* a byte every 20 ms */
    BAD_LONG,            /* no length, more bytes than asked for */
    BAD_LONG_LENGTH,     /* Content-Length and body larger than Content-Range */
    BAD_WHOLE,           /* 200 with everything */
    BAD_WRONG_RANGE,     /* Content-Range shifted by one byte */
    BAD_NO_RANGE,        /* 206 without Content-Range */
    BAD_TOTAL,           /* another total size */
    BAD_MULTIPART,       /* multipart/byteranges */
    BAD_GZIP,            /* Content-Encoding: gzip */
    BAD_FLIP,            /* one byte of the body is wrong */
    BAD_GARBAGE,         /* not HTTP */
    BAD_STATUS,          /* `status`, with `header` */
};

struct bad_rule {
    const char *path; /* exact path; NULL: any */
    unsigned after;   /* first so many matching requests are not touched */
    unsigned times;   /* then so many are; 0: all of them */
    enum bad_kind kind;
    int status;       /* BAD_STATUS */
    const char *body; /* BAD_STATUS: nullable, in place of "no\n" */
    const char *header; /* nullable: header lines, each ended by \r\n; an ETag here replaces the usual one */
};

struct bad_seen {
    char method[8];
    uint64_t body_bytes;     /* of the request, by its Content-Length; read and forgotten */
    uint8_t body_sum;        /* its bytes added up */
    char content_sha256[72]; /* x-amz-content-sha256 */
    char path[256];
    char query[256];
    bool has_range;
    uint64_t from, to; /* asked bytes [from, to) */
    char if_match[128];
    char authorization[128];
    char accept_encoding[64];
    unsigned connection; /* 0, 1, ... in order of arrival */
    unsigned address;    /* last byte of the address that was connected to */
    uint64_t at_ns;
};

struct bad_server;
struct bad_server *bad_server_start(const struct bad_rule *rules, size_t n_rules,
                                    const void *content, size_t bytes);
void bad_server_stop(struct bad_server *s);
/* All three before the first client. pace: bytes per second of a connection, by its number; the kernel spaces what
 * is sent. limit: 503 (without Retry-After) to a request that finds so many others in the works. also: at the same
 * port of 127.0.0.LAST, too. */
void bad_server_pace(struct bad_server *s, unsigned (*bytes_s)(unsigned connection));
void bad_server_limit(struct bad_server *s, unsigned requests_at_once);
void bad_server_also(struct bad_server *s, unsigned last);
size_t bad_server_refused(struct bad_server *s); /* by the limit */
unsigned bad_server_port(const struct bad_server *s);
size_t bad_server_requests(struct bad_server *s); /* how many so far */
bool bad_server_seen(struct bad_server *s, size_t i, struct bad_seen *out);
#endif
