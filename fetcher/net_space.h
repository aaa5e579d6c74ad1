/* How far away an address is: the world, a private network, this machine, or nowhere that weights come
 * from. Comes in: a socket address, or a host as written. Goes out: its space. Pure, any thread.
 *
 * What a file from a server names must not lead closer to us than that server is itself, or a stranger
 * could have us ask services of our own network. The order of spaces is that of the Private Network
 * Access draft of the WICG; what is never asked are the addresses of metadata services. */
#ifndef PS_FETCHER_NET_SPACE_H
#define PS_FETCHER_NET_SPACE_H
#include <stdbool.h>

enum ps_net_space {
    PS_SPACE_ANY,       /* unknown; as a bound: no bound */
    PS_SPACE_FORBIDDEN, /* link-local, unspecified, multicast, reserved; metadata services of clouds */
    PS_SPACE_LOOPBACK,
    PS_SPACE_PRIVATE, /* RFC 1918, shared (RFC 6598), unique local */
    PS_SPACE_PUBLIC,
};

struct sockaddr;
enum ps_net_space ps_net_space_of(const struct sockaddr *a);
/* Of an address written as text ("10.0.0.1", "[::1]", "::1"); "localhost" and names below it are loopback, well-known
 * names of metadata services forbidden; any other name is PS_SPACE_ANY: only its address will tell. */
enum ps_net_space ps_net_space_of_host(const char *host);
/* May an address of this space be asked where `least` is the closest that is allowed? */
bool ps_net_space_allowed(enum ps_net_space space, enum ps_net_space least);
#endif
