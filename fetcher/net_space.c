/* Address spaces. See net_space.h. */
#include "fetcher/net_space.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

struct block4 {
    uint32_t net;
    unsigned bits;
    enum ps_net_space space;
};

/* RFC 6890 and its registry; the first that fits counts. */
static const struct block4 blocks4[] = {
    {0x00000000, 8, PS_SPACE_FORBIDDEN},  /* this network */
    {0x0a000000, 8, PS_SPACE_PRIVATE},    /* 10/8 */
    {0x646464c8, 32, PS_SPACE_FORBIDDEN}, /* 100.100.100.200: metadata of Alibaba Cloud */
    {0x64400000, 10, PS_SPACE_PRIVATE},   /* 100.64/10, RFC 6598 */
    {0x7f000000, 8, PS_SPACE_LOOPBACK},   /* 127/8 */
    {0xa9fe0000, 16, PS_SPACE_FORBIDDEN}, /* 169.254/16: link-local, metadata */
    {0xac100000, 12, PS_SPACE_PRIVATE},   /* 172.16/12 */
    {0xc0000000, 24, PS_SPACE_FORBIDDEN}, /* 192.0.0/24: protocol assignments, metadata of Oracle */
    {0xc0a80000, 16, PS_SPACE_PRIVATE},   /* 192.168/16 */
    {0xc6120000, 15, PS_SPACE_PRIVATE},   /* 198.18/15: benchmarks of networks */
    {0xa83f8110, 32, PS_SPACE_FORBIDDEN}, /* 168.63.129.16: platform services of Azure */
    {0xe0000000, 3, PS_SPACE_FORBIDDEN},  /* multicast, reserved, broadcast */
};

static enum ps_net_space space4(uint32_t a)
{
    for (size_t i = 0; i < sizeof blocks4 / sizeof *blocks4; i++)
        if (((a ^ blocks4[i].net) >> (32 - blocks4[i].bits)) == 0)
            return blocks4[i].space;
    return PS_SPACE_PUBLIC;
}

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static enum ps_net_space space6(const uint8_t a[16])
{
    static const uint8_t zero[16], one[16] = {[15] = 1}, mapped[12] = {[10] = 0xff, [11] = 0xff};
    static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    static const uint8_t aws_metadata[16] = {0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, [15] = 0x54};
    if (memcmp(a, one, 16) == 0)
        return PS_SPACE_LOOPBACK;
    if (memcmp(a, zero, 16) == 0 || memcmp(a, aws_metadata, 16) == 0)
        return PS_SPACE_FORBIDDEN;
    if (memcmp(a, mapped, 12) == 0 || memcmp(a, nat64, 12) == 0 || memcmp(a, zero, 12) == 0)
        return space4(big_endian(a + 12));
    if (a[0] == 0x20 && a[1] == 0x02) /* 6to4 */
        return space4(big_endian(a + 2));
    if ((a[0] & 0xfe) == 0xfc)
        return PS_SPACE_PRIVATE;
    if (a[0] == 0xff || (a[0] == 0xfe && (a[1] & 0x80) != 0)) /* multicast, link-local, site-local */
        return PS_SPACE_FORBIDDEN;
    return PS_SPACE_PUBLIC;
}

enum ps_net_space ps_net_space_of(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, a, sizeof in);
        return space4(ntohl(in.sin_addr.s_addr));
    }
    if (a->sa_family == AF_INET6) {
        struct sockaddr_in6 in;
        memcpy(&in, a, sizeof in);
        return space6(in.sin6_addr.s6_addr);
    }
    return PS_SPACE_FORBIDDEN;
}

static bool ends_with(const char *host, size_t n, const char *end)
{
    size_t k = strlen(end);
    return n >= k && strncasecmp(host + n - k, end, k) == 0 && (n == k || host[n - k - 1] == '.');
}

enum ps_net_space ps_net_space_of_host(const char *host)
{
    char text[INET6_ADDRSTRLEN + 1];
    uint8_t six[16];
    struct in_addr four;
    size_t n = strlen(host), open = n > 2 && host[0] == '[' && host[n - 1] == ']';
    if (n - 2 * open < sizeof text) {
        memcpy(text, host + open, n - 2 * open);
        text[n - 2 * open] = '\0';
        if (inet_pton(AF_INET6, text, six) == 1)
            return space6(six);
        if (inet_aton(text, &four)) /* "127.1" and "0x7f000001" as well: resolvers take them */
            return space4(ntohl(four.s_addr));
    }
    if (open)
        return PS_SPACE_FORBIDDEN; /* with a zone: link-local */
    if (n > 0 && host[n - 1] == '.')
        n--;
    if (ends_with(host, n, "localhost"))
        return PS_SPACE_LOOPBACK;
    if (ends_with(host, n, "metadata.google.internal") || ends_with(host, n, "metadata") ||
        ends_with(host, n, "instance-data"))
        return PS_SPACE_FORBIDDEN;
    return PS_SPACE_ANY;
}

bool ps_net_space_allowed(enum ps_net_space space, enum ps_net_space least)
{
    return least == PS_SPACE_ANY || space == PS_SPACE_ANY ||
           (space != PS_SPACE_FORBIDDEN && space >= least);
}
