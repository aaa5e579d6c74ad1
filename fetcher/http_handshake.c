/* What servers ask for in a TLS handshake, which libcurl does not tell. */
#include <string.h>
#include <openssl/ssl.h>
#include "fetcher/http_internal.h"

static int on_certificate_asked(SSL *ssl, void *user)
{
    struct http_transfer *t = user;
    (void)ssl;
    t->asked_certificate = true;
    return 1;
}

/* A handshake is over before the transfer that began it; later ones on its connection see no other. */
static CURLcode on_tls_context(CURL *easy, void *context, void *user)
{
    (void)easy;
    SSL_CTX_set_cert_cb(context, on_certificate_asked, user);
    return CURLE_OK;
}

void http_watch_handshakes(struct http_transfer *t)
{
    const char *library = curl_version_info(CURLVERSION_NOW)->ssl_version;
    if (!library || strncmp(library, "OpenSSL/", 8) != 0)
        return; /* its contexts are another's: then only what the server says counts */
    (void)curl_easy_setopt(t->easy, CURLOPT_SSL_CTX_FUNCTION, on_tls_context);
    (void)curl_easy_setopt(t->easy, CURLOPT_SSL_CTX_DATA, t);
}
