/* Fuzz target: header lines and Content-Range values as a hostile server may send them, and the
 * judgement over them. The first 4 bytes choose what was asked. Checks what must hold for any
 * accepted reply. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"
#include "fetcher/reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ps_ask ask_from(const uint8_t *d)
{
    struct ps_ask ask = {.from = d[0],
                         .to = (uint64_t)d[0] + 1 + d[1],
                         .open_end = d[2] & 1,
                         .whole_max = d[3]};
    if (d[2] & 2)
        ask.object_bytes = ask.to + (d[2] >> 4);
    if (d[2] & 4)
        ask.etag = "\"v1\"";
    if (d[2] & 8)
        ask.last_modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    return ask;
}

static void check_accepted(const struct ps_reply *r, const struct ps_ask *ask,
                           const struct ps_judgement *j)
{
    PS_ASSERT(r->status == 200 || r->status == 206);
    PS_ASSERT(!r->malformed && !r->encoded && !r->multipart);
    if (ask->open_end) {
        PS_ASSERT(j->from == ask->from || (r->status == 200 && j->from == 0));
        PS_ASSERT(r->status == 200 ? j->to <= ask->whole_max || j->to == UINT64_MAX
                                   : j->to <= ask->to);
    } else {
        PS_ASSERT(j->from == ask->from && j->to == ask->to);
    }
    if (j->length_stated)
        PS_ASSERT(r->has_length && r->length == j->to - j->from);
    if (ask->object_bytes && j->total)
        PS_ASSERT(j->total == ask->object_bytes);
}

static void feed_lines(struct ps_reply *r, const char *p, size_t n)
{
    ps_reply_init(r);
    while (n > 0) {
        const char *end = memchr(p, '\n', n);
        size_t len = end ? (size_t)(end - p) + 1 : n;
        ps_reply_line(r, p, len, 784111777);
        p += len;
        n -= len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ps_content_range range;
    struct ps_reply reply;
    if (size < 4)
        return 0;
    if (ps_content_range_parse(&range, (const char *)data + 4, size - 4) == 0 && range.satisfied) {
        PS_ASSERT(range.from < range.to);
        PS_ASSERT(!range.total_known || range.to <= range.total);
    }
    feed_lines(&reply, (const char *)data + 4, size - 4);
    PS_ASSERT(memchr(reply.etag, '\0', sizeof reply.etag) &&
              memchr(reply.location, '\0', sizeof reply.location));
    PS_ASSERT(!reply.etag[0] || (reply.etag[0] == '"' && reply.etag[strlen(reply.etag) - 1] == '"'));
    const struct ps_ask ask = ask_from(data);
    struct ps_judgement j = ps_reply_judge(&reply, &ask);
    if (j.verdict == PS_REPLY_ACCEPT)
        check_accepted(&reply, &ask, &j);
    if (j.verdict == PS_REPLY_REFUSE)
        PS_ASSERT(j.code < 0 && j.what && j.hint);
    return 0;
}
