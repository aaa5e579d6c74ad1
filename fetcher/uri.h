/* Addresses. Comes in: what the user wrote as MODEL, or a Location that a server sent. Goes out:
 * the parts of an http(s) address, the address of one object below it, and a form that may be
 * shown to people.
 *
 * Parsing is libcurl's own (curl_url), so that what we check is what libcurl will connect to:
 * two parsers that disagree about where the host ends are how credentials leak. Pure functions,
 * any thread; strings belong to the struct. */
#ifndef PS_FETCHER_URI_H
#define PS_FETCHER_URI_H
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"

#define PS_URI_MAX_BYTES                                                                           \
    8192 /* signed addresses reach 3 KB; a longer one is an error, not a bigger buffer */

enum ps_uri_kind {
    PS_URI_PATH,    /* no "scheme://" in front */
    PS_URI_FILE,    /* file:// */
    PS_URI_HTTP,    /* http:// or https:// */
    PS_URI_S3,      /* s3:// */
    PS_URI_HF,      /* hf:// */
    PS_URI_UNKNOWN, /* any other scheme */
};

struct ps_uri {
    char *scheme; /* "http" or "https" */
    char *user;   /* decoded, NULL if none; never printed */
    char *password;
    char *host; /* lower case, IPv6 in brackets */
    unsigned port;
    bool port_given;
    char *path;  /* starts with '/', percent-encoded as it goes on the wire */
    char *query; /* without '?', NULL if none; never printed: signatures live here */
};

enum ps_uri_kind ps_uri_kind(const char *text);

/* An http or https address. PS_EUSAGE for anything malformed (no host, bad port, a '%' without
 * two hex digits, control characters); the message never quotes userinfo or query. *out is
 * untouched on failure. */
int ps_uri_parse(struct ps_uri *out, const char *text, struct ps_err *err);
void ps_uri_deinit(struct ps_uri *u); /* also fine on a zeroed struct */
int ps_uri_copy(struct ps_uri *out, const struct ps_uri *u, struct ps_err *err);

/* Appends text with everything escaped but RFC 3986 unreserved characters and, with keep_slash, '/':
 * upper-case hex, the form that signatures of S3 demand. */
struct ps_strbuf;
void ps_uri_escape(struct ps_strbuf *b, const char *text, bool keep_slash);

/* Moves *u to the object `name` below it: percent-encodes the name, keeps the query string of
 * the base. */
int ps_uri_enter(struct ps_uri *u, const char *name, struct ps_err *err);

/* Where a redirect from `from` to `location` leads (RFC 3986 section 5). Userinfo in `location`
 * is dropped. PS_EREFUSED for a scheme other than http or https, and for a step down from https
 * to http; PS_EDATA for a malformed location. */
int ps_uri_resolve(struct ps_uri *out, const struct ps_uri *from, const char *location,
                   struct ps_err *err);

bool ps_uri_same_origin(const struct ps_uri *a, const struct ps_uri *b); /* scheme, host and port */

/* Heap strings (ps_free), NULL when out of memory: what libcurl is given (no userinfo), and what
 * people see (no query). */
char *ps_uri_request(const struct ps_uri *u);
char *ps_uri_label(const struct ps_uri *u);

/* The path of a file:// address, decoded (heap). PS_EUSAGE if it names another host or is
 * malformed. */
int ps_uri_file_path(char **out, const char *text, struct ps_err *err);
#endif
