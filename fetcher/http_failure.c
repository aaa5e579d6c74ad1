/* Why a request failed, in a user's words. Comes in: what libcurl says when the reply itself did not decide. Goes
 * out: how it is tried again, the status and the text. */
#include "fetcher/http_internal.h"

#include <errno.h>
#include <string.h>

#define HANDSHAKE_TRIES 3u

const struct http_failure http_out_of_memory = {.cls = PS_RETRY_FATAL,
                                                .code = PS_ENOMEM,
                                                .what = "out of memory",
                                                .hint = "give the machine more memory"};
const struct http_failure http_cut_short = {.cls = PS_RETRY_TRANSPORT,
                                            .code = PS_ENET,
                                            .what = "reply cut short",
                                            .hint = "check the server and the network"};

static struct http_failure connect_failure(struct http_transfer *t, CURLcode rc)
{
    struct http_failure f = {.cls = PS_RETRY_CONNECT,
                             .code = PS_ENET,
                             .what = "can't connect",
                             .hint = "check the address and the network"};
    long os = 0;
    curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &os);
    if (rc == CURLE_COULDNT_RESOLVE_HOST)
        f.what = "host not found", f.hint = "check the name and the network";
    else if (rc == CURLE_COULDNT_RESOLVE_PROXY)
        f.what = "proxy not found", f.hint = "check http_proxy and https_proxy";
    else if (rc == CURLE_OPERATION_TIMEDOUT)
        f.what = "connection timed out", f.hint = "check the address, the network and firewalls";
    else if (os == ECONNREFUSED)
        f.what = "connection refused", f.hint = "is the server running?";
    else if (os == EHOSTUNREACH || os == ENETUNREACH)
        f.what = "no route to host", f.hint = "check the network";
    return f;
}

static const struct http_failure certificate_refused = {
    .cls = PS_RETRY_FATAL,
    .code = PS_EREFUSED,
    .what = "server does not take our client certificate, or wants one",
    .hint = "check --cert and --key"};

/* The server's word on our certificate, where it got through. With TLS 1.3 it comes after the handshake, as an alert
 * where the reply should be. */
static bool alert_refuses_certificate(const struct http_transfer *t)
{
    static const char *const alerts[] = {
        "certificate required",   "bad certificate",     "unknown ca",
        "certificate revoked",    "certificate expired", "certificate unknown",
        "unsupported certificate"};
    if (!strstr(t->curl_text, "alert"))
        return false;
    for (size_t i = 0; i < sizeof alerts / sizeof *alerts; i++)
        if (strstr(t->curl_text, alerts[i]))
            return true;
    return false;
}

/* What always happens and never gets on to a reply is no accident. */
static bool always_fails(const struct http_transfer *t)
{
    return t->jobs && t->jobs->failures >= HANDSHAKE_TRIES - 1 &&
           !atomic_load_explicit(&t->host->answered, memory_order_relaxed);
}

/* That alert is lost where our request is still on its way out when the server closes: libcurl fails to send and
 * reads no more. What is left to see: each time a certificate was asked for, the connection broke. */
static bool always_breaks_once_asked(const struct http_transfer *t)
{
    return t->asked_certificate && always_fails(t);
}

static bool client_certificate_refused(const struct http_transfer *t, CURLcode rc)
{
    bool broken = rc == CURLE_RECV_ERROR || rc == CURLE_SEND_ERROR || rc == CURLE_SSL_CONNECT_ERROR;
    return (broken && alert_refuses_certificate(t)) ||
           ((broken || rc == CURLE_GOT_NOTHING) && always_breaks_once_asked(t));
}

static const struct http_failure no_tls = {.cls = PS_RETRY_FATAL,
                                           .code = PS_ENET,
                                           .what = "server does not speak TLS",
                                           .hint = "is it http:// instead of https://?"};

struct http_failure http_failure_of(struct http_transfer *t, CURLcode rc)
{
    struct http_failure f = http_cut_short;
    curl_off_t connected = 0;
    if (client_certificate_refused(t, rc))
        return certificate_refused;
    switch (rc) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT: return connect_failure(t, rc);
    case CURLE_OPERATION_TIMEDOUT:
        curl_easy_getinfo(t->easy, CURLINFO_CONNECT_TIME_T, &connected);
        if (connected == 0)
            return connect_failure(t, rc);
        f.what = "connection timed out";
        return f;
    case CURLE_PEER_FAILED_VERIFICATION:
        return (struct http_failure){.cls = PS_RETRY_FATAL,
                                     .code = PS_ENET,
                                     .what = "server's certificate is not trusted",
                                     .hint =
                                         "give the CA that signed it by --cacert or SSL_CERT_FILE"};
    case CURLE_SSL_CACERT_BADFILE:
        return (struct http_failure){.cls = PS_RETRY_FATAL,
                                     .code = PS_ENET,
                                     .what = "can't read the CA file",
                                     .hint = "check --cacert, SSL_CERT_FILE and CURL_CA_BUNDLE"};
    case CURLE_SSL_CERTPROBLEM:
        return (struct http_failure){.cls = PS_RETRY_FATAL,
                                     .code = PS_EUSAGE,
                                     .what = "can't use the client certificate",
                                     .hint = "check --cert and --key: PEM, belonging together, the "
                                             "key without a passphrase"};
    case CURLE_OUT_OF_MEMORY:
        /* libcurl says the same of a header beyond its own bound: bytes had come then, and memory had not run out */
        curl_easy_getinfo(t->easy, CURLINFO_STARTTRANSFER_TIME_T, &connected);
        if (connected == 0)
            return http_out_of_memory;
        return (struct http_failure){.cls = PS_RETRY_REPLY,
                                     .code = PS_EDATA,
                                     .what = "a reply whose headers are too long",
                                     .hint = "is this a web server?"};
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return (struct http_failure){.cls = PS_RETRY_TRANSPORT,
                                     .code = PS_ENET,
                                     .what = "unusable address or reply",
                                     .hint = "check the address and the server"};
    case CURLE_SSL_CONNECT_ERROR:
        f.what = "TLS handshake failed";
        /* what OpenSSL says where the first bytes are no TLS */
        if (strstr(t->curl_text, "wrong version number") && always_fails(t))
            f = no_tls;
        return f;
    case CURLE_GOT_NOTHING: f.what = "server closed the connection without a reply"; return f;
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR: f.what = "connection broken"; return f;
    case CURLE_WEIRD_SERVER_REPLY: f.what = "server does not speak HTTP"; return f;
    default: return f;
    }
}
