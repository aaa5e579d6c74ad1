/* What the user gives for an http(s) server to let him in: a bearer token, headers, a login from a
 * .netrc, a client certificate, a CA. Comes in: options, files. Goes out: what goes with a request
 * to the model's own origin (scheme, host and port as written), and nowhere else: http_plain.c.
 *
 * Nothing here is ever printed: messages name the option or the file and the line, never what it
 * holds. Set once, then read by any thread. */
#ifndef PS_FETCHER_ACCESS_H
#define PS_FETCHER_ACCESS_H
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"
#include "fetcher/uri.h"

#define PS_ACCESS_HEADERS_MAX    64u
#define PS_ACCESS_LINE_MAX       8192u /* of a header; tokens of some identity providers reach 6 KB */
#define PS_ACCESS_FILE_MAX_BYTES (64u << 10)

struct ps_access_options {
    const char *bearer;      /* nullable: a token */
    const char *bearer_file; /* nullable: a file that holds it; surrounding blanks do not count */
    const char *const *headers; /* "Name: value", or "@FILE" for a file of such lines, as curl's -H */
    size_t n_headers;
    bool netrc;             /* ~/.netrc may be read */
    const char *netrc_file; /* nullable: this one, which has to exist */
    const char *ca_file;    /* nullable: in place of SSL_CERT_FILE and of every other setting */
    const char *cert_file, *key_file; /* nullable: PEM; the key may stand in cert_file */
};

struct ps_access {
    char **headers; /* n_headers lines ready to be sent, the token's Authorization included */
    size_t n_headers;
    bool has_authorization; /* one of them is "Authorization" */
    char *user, *password;  /* NULL: no login */
    char *ca_file, *cert_file, *key_file;
};

/* Reads the files; `uri` (nullable: no http address, so only the CA counts) is whom it is for, and
 * its own userinfo goes before a .netrc. PS_EUSAGE for a file that can't be read and for a line or
 * token that can't be sent (control characters, no name, a header that is ours to decide). */
int ps_access_load(struct ps_access **out, const struct ps_access_options *o,
                   const struct ps_uri *uri, struct ps_err *err);
void ps_access_free(struct ps_access *a); /* nullable; wipes what was secret */

/* Does it hold something that only http(s) addresses make use of? */
bool ps_access_has_secrets(const struct ps_access_options *o);

/* May all of these addresses be opened with it? PS_EUSAGE, naming the option, where it holds something secret and the
 * http(s) addresses are of more than one scheme, host and port. Addresses that can't be read are no matter here. */
int ps_access_one_server(const struct ps_access_options *o, const char *const *addresses, size_t n,
                         struct ps_err *err);

/* Pure: why this header line can't be sent, or NULL. */
const char *ps_access_header_fault(const char *line, size_t len);
#endif
