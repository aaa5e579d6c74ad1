/* A .netrc file: logins by host. Comes in: its bytes, a host, perhaps a login. Goes out: login and password. Pure
 * functions on bytes, any thread.
 *
 * The format is that of ftp(1) as curl reads it: "machine HOST login NAME password WORD", "default" for every
 * other host, "macdef" up to an empty line, '#' in front of a word begins a comment unless it is the value behind
 * a keyword in the same line, "quoted words" with \" \\ \n \r \t in them. Hosts compare without regard to case. */
#ifndef PS_FETCHER_NETRC_H
#define PS_FETCHER_NETRC_H
#include <stdbool.h>
#include <stddef.h>

#define PS_NETRC_MAX_BYTES (256u << 10)
#define PS_NETRC_WORD_MAX  1024u

struct ps_netrc_login {
    char login[PS_NETRC_WORD_MAX], password[PS_NETRC_WORD_MAX];
};

/* The first entry for `host` (IPv6 without brackets) that has a password and, where `login` is given
 * (nullable), that login. False: none, or a word that is too long or holds a NUL: it is never cut. */
bool ps_netrc_find(struct ps_netrc_login *out, const char *text, size_t bytes, const char *host,
                   const char *login);
#endif
