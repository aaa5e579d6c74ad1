/* The HTTP server behind `penstock share`: libmicrohttpd with its own threads. The one home of
 * <microhttpd.h>. */
#ifndef PS_TOOLS_SHARE_SERVER_H
#define PS_TOOLS_SHARE_SERVER_H
#include "base/err.h"
#include "tools/share_folder.h"

struct ps_share_server;
/* Serves on a listening socket, which it takes over. Returns at once. `folder` must outlive the
 * server. */
int ps_share_server_start(struct ps_share_server **out, int listen_fd,
                          const struct ps_share_folder *folder, struct ps_err *err);
/* Takes no new connection, lets running replies end for at most grace_s seconds, ends the rest,
 * frees. */
void ps_share_server_stop(struct ps_share_server *s, unsigned grace_s);
#endif
