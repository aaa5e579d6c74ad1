/* Fuzz target: addresses. The first byte chooses what the rest is: an address that a user wrote, the Location of a
 * redirect from http or https, the name of an object below a base, a file:// address. Checks that what is sent and
 * what is shown mean the same place, that no secret is shown, and that no redirect carries one elsewhere. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "fetcher/uri.h"
#include "proto/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same_text(const char *a, const char *b)
{
    return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static void check_uri(const struct ps_uri *u)
{
    struct ps_uri again, copy;
    char *request = ps_uri_request(u), *label = ps_uri_label(u);
    PS_ASSERT(strcmp(u->scheme, "http") == 0 || strcmp(u->scheme, "https") == 0);
    PS_ASSERT(u->host[0] && !strpbrk(u->host, "/@?# ") && u->path[0] == '/');
    PS_ASSERT(u->port >= 1 && u->port <= 65535);
    if (request) { /* what goes out can be read again, and means the same */
        for (const char *p = request; *p; p++)
            PS_ASSERT((unsigned char)*p > 0x20 && *p != 0x7f);
        PS_ASSERT(ps_uri_parse(&again, request, NULL) == 0);
        PS_ASSERT(ps_uri_same_origin(u, &again));
        PS_ASSERT(same_text(u->path, again.path) && same_text(u->query, again.query));
        PS_ASSERT(!again.user && !again.password);
        ps_uri_deinit(&again);
    }
    if (label)
        PS_ASSERT(!strpbrk(label, "?#") &&
                  !strchr(label + strlen(u->scheme) + 3 + strlen(u->host), ' '));
    PS_ASSERT(ps_uri_copy(&copy, u, NULL) == 0 && ps_uri_same_origin(u, &copy));
    PS_ASSERT(same_text(u->user, copy.user) && same_text(u->password, copy.password));
    ps_uri_deinit(&copy);
    ps_free(request);
    ps_free(label);
}

static void check_address(const char *text)
{
    struct ps_uri u;
    struct ps_err err = {0};
    int rc = ps_uri_parse(&u, text, &err);
    PS_ASSERT(rc == 0 || (rc == PS_EUSAGE && err.text[0]));
    if (rc == 0) {
        PS_ASSERT(ps_uri_kind(text) == PS_URI_HTTP);
        check_uri(&u);
        ps_uri_deinit(&u);
    }
}

static void check_redirect(const char *from_text, const char *location)
{
    struct ps_uri from, to;
    PS_ASSERT(ps_uri_parse(&from, from_text, NULL) == 0);
    int rc = ps_uri_resolve(&to, &from, location, NULL);
    PS_ASSERT(rc == 0 || rc == PS_EREFUSED || rc == PS_EDATA);
    if (rc == 0) {
        PS_ASSERT(!to.user && !to.password);
        PS_ASSERT(strcmp(from.scheme, "https") != 0 || strcmp(to.scheme, "https") == 0);
        check_uri(&to);
        ps_uri_deinit(&to);
    }
    ps_uri_deinit(&from);
}

/* An object's name stays below its base, whatever stands in it. */
static void check_name(const char *name)
{
    struct ps_uri u;
    PS_ASSERT(ps_uri_parse(&u, "https://h/base?sig=a%2Fb", NULL) == 0);
    if (ps_name_ok(name, strlen(name)) && ps_uri_enter(&u, name, NULL) == 0) {
        PS_ASSERT(strncmp(u.path, "/base/", 6) == 0 && !strpbrk(u.path, "?#\\"));
        PS_ASSERT(strcmp(u.query, "sig=a%2Fb") == 0);
        check_uri(&u);
    }
    ps_uri_deinit(&u);
}

static void check_file(const char *text)
{
    char *path = NULL;
    if (ps_uri_kind(text) != PS_URI_FILE)
        return;
    int rc = ps_uri_file_path(&path, text, NULL);
    PS_ASSERT(rc == 0 ? path[0] == '/' && strlen(path) < strlen(text) : !path);
    ps_free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    char *text = ps_strndup((const char *)data + 1, size - 1);
    switch (data[0] % 5) {
    case 0: check_address(text); break;
    case 1: check_redirect("http://u:p@h:8080/a/b?q=1", text); break;
    case 2: check_redirect("https://h/a/b", text); break;
    case 3: check_name(text); break;
    default: check_file(text); break;
    }
    ps_free(text);
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
