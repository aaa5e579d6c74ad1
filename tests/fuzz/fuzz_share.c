/* Fuzz target: a client's request to `penstock share`. The input is lines: the raw path, Range, If-Match,
 * If-None-Match, If-Range, If-Modified-Since, If-Unmodified-Since; an empty line is a header that is not there. */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "proto/source.h"
#include "tools/share_request.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_path(const char *raw)
{
    char path[PS_SHARE_PATH_MAX], hash[65], etag[PS_SHARE_ETAG_MAX];
    unsigned status = ps_share_path(path, raw);
    const struct timespec t = {.tv_sec = 784111777, .tv_nsec = 5};
    PS_ASSERT(status == 0 || status == 400 || status == 404);
    if (status != 0)
        return;
    PS_ASSERT(memchr(path, '\0', sizeof path) && path[0] != '/' && path[0] != '.');
    PS_ASSERT(!strstr(path, "..") || !strstr(path, "/../"));
    for (const char *p = path; *p; p++)
        PS_ASSERT((unsigned char)*p >= 0x20 && *p != '\\' &&
                  !(p[0] == '/' && (p[1] == '/' || p[1] == '.')));
    ps_share_etag(etag, path, 4096, &t);
    PS_ASSERT(etag[0] == '"' && etag[strlen(etag) - 1] == '"');
    if (ps_share_is_shard(path, hash))
        PS_ASSERT(strlen(hash) == 64 && strspn(hash, "0123456789abcdef") == 64);
    PS_ASSERT(ps_share_content_type(path)[0]);
}

static void check_answer(const struct ps_share_headers *h, uint64_t bytes, bool get)
{
    const struct ps_share_facts f = {.bytes = bytes, .etag = "\"v1\"", .mtime = 784111777};
    struct ps_share_answer a = {0};
    ps_share_decide(&a, h, &f, get);
    switch (a.status) {
    case 200: PS_ASSERT(a.offset == 0 && a.bytes == bytes); break;
    case 206:
        PS_ASSERT(get && h->range && a.bytes > 0 && a.offset < bytes && a.bytes <= bytes - a.offset);
        break;
    case 304: PS_ASSERT(h->if_none_match || h->if_modified_since); break;
    case 412: PS_ASSERT(h->if_match || h->if_unmodified_since); break;
    default: PS_ASSERT(a.status == 416 && get && h->range); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = ps_strndup((const char *)data, size), *rest = text;
    const char *line[7];
    for (int i = 0; i < 7; i++) {
        line[i] = strsep(&rest, "\n");
        line[i] = line[i] && *line[i] ? line[i] : NULL;
    }
    check_path(line[0] ? line[0] : "/");
    const struct ps_share_headers h = {line[1], line[2], line[3], line[4], line[5], line[6]};
    static const uint64_t sizes[] = {0, 1, 1000, UINT64_MAX};
    for (int i = 0; i < 8; i++)
        check_answer(&h, sizes[i / 2], i & 1);
    ps_free(text);
    return 0;
}
