/* See loopback.h. */
#include "tests/support/loopback.h"

#include <stdlib.h>

#include "base/alloc.h"
#include "tests/support/test.h"

void loopback_no_proxies(void)
{
    static const char *const proxies[] = {"http_proxy", "https_proxy", "all_proxy", "ALL_PROXY",
                                          "HTTPS_PROXY"};
    for (size_t i = 0; i < TEST_COUNT(proxies); i++)
        unsetenv(proxies[i]);
}

void loopback_fill(uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)((i * 2654435761u) >> 9);
}

struct bad_seen loopback_seen(struct bad_server *s, size_t i)
{
    struct bad_seen seen = {.from = 0};
    assert_true(bad_server_seen(s, i, &seen));
    return seen;
}

void loopback_end(struct bad_server *s, uint64_t live)
{
    bad_server_stop(s);
    assert_int_equal(ps_alloc_live_count(), live);
}
