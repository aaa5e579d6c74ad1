/* `penstock keygen`: a key pair to sign models with. The private key is written for its owner's eyes alone, and no
 * file is ever replaced. */
#include "tools/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "proto/signature.h"

static int write_new(const char *path, const char *text, unsigned mode, struct ps_err *err)
{
    size_t n = strlen(text);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return ps_err_set(err, errno == EEXIST ? PS_EUSAGE : PS_EIO, "keygen", "%s: %s%s", path,
                          strerror(errno),
                          errno == EEXIST ? ": name another file: a key is never replaced" : "");
    bool ok = write(fd, text, n) == (ssize_t)n && fsync(fd) == 0;
    int e = errno;
    close(fd);
    if (ok)
        return 0;
    unlink(path);
    return ps_err_set(err, e == ENOSPC ? PS_ENOSPC : PS_EIO, "keygen", "%s: %s", path, strerror(e));
}

static int print_key(const struct ps_opts *o, const char *path, const char *pub, const char *id,
                     struct ps_err *err)
{
    struct ps_json_writer w;
    struct ps_strbuf b;
    ps_strbuf_init(&b, 1 << 16);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "key", path);
    ps_jw_kstring(&w, "public_key", pub);
    ps_jw_kstring(&w, "key_id", id);
    ps_jw_object_end(&w);
    int rc = ps_cli_print_json(o, ps_strbuf_ok(&b) ? b.data : NULL, err);
    ps_strbuf_deinit(&b);
    return rc;
}

int ps_cmd_keygen(const struct ps_opts *o, struct ps_err *err)
{
    char *secret = NULL, *open_text = NULL, id[PS_KEY_ID_CHARS + 1];
    const char *path = o->args[0];
    struct ps_strbuf pub;
    ps_strbuf_init(&pub, 1 << 16);
    ps_strbuf_printf(&pub, "%s.pub", path);
    int rc = ps_strbuf_ok(&pub) ? ps_key_generate(&secret, &open_text, id, err)
                                : ps_err_set(err, PS_ENOMEM, "keygen", "out of memory");
    if (rc == 0 && access(pub.data, F_OK) == 0)
        rc = ps_err_set(err, PS_EUSAGE, "keygen", "%s exists: name another file", pub.data);
    if (rc == 0)
        rc = write_new(path, secret, 0600, err);
    if (rc == 0) {
        rc = write_new(pub.data, open_text, 0644, err);
        if (rc != 0)
            unlink(path);
    }
    if (rc == 0)
        rc = print_key(o, path, pub.data, id, err);
    if (secret)
        explicit_bzero(secret, strlen(secret));
    ps_free(secret);
    ps_free(open_text);
    ps_strbuf_deinit(&pub);
    return rc;
}
