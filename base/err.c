/* Errors: comes in a code and a printf line from any module, goes out one printable, redacted line in the caller's
 * storage and, at the end of the process, its exit status. */
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log_format.h"

int ps_err_set(struct ps_err *err, int code, const char *origin, const char *fmt, ...)
{
    if (!err)
        return code;
    va_list ap;
    va_start(ap, fmt);
    ps_log_vformat(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    err->code = code;
    err->origin = origin;
    return code;
}

int ps_err_prefix(struct ps_err *err, const char *fmt, ...)
{
    if (!err)
        return PS_EFAIL; /* the caller returns its own code then */
    char prefix[PS_ERR_TEXT_MAX / 2];
    va_list ap;
    va_start(ap, fmt);
    ps_log_vformat(prefix, sizeof(prefix), fmt, ap);
    va_end(ap);
    /* ps_err_set formats into scratch memory first, so quoting err->text is safe. */
    return ps_err_set(err, err->code, err->origin, "%s: %s", prefix, err->text);
}

void ps_err_place(struct ps_err *err, const char *where)
{
    if (err && err->code != 0 && !strstr(err->text, where))
        ps_err_prefix(err, "%s", where);
}

void ps_err_advise(struct ps_err *err, const char *remedy)
{
    if (err && err->code != 0)
        ps_err_set(err, err->code, err->origin, "%s: %s", err->text, remedy);
}

void ps_err_place_files(struct ps_err *err, int rc, const char *model)
{
    if (rc == PS_EDATA || rc == PS_ENOTFOUND || rc == PS_EUNSUPPORTED)
        ps_err_place(err, model);
}

int ps_err_exit_status(int code)
{
    switch (code) {
    case PS_OK: return 0;
    case PS_EUSAGE: return 2;
    case PS_ENET:
    case PS_ENOTFOUND:
    case PS_EREFUSED: return 3;
    case PS_EDATA: return 4;
    case PS_ENOMEM:
    case PS_EBUDGET:
    case PS_ENOSPC: return 5;
    case PS_EINTERRUPTED: return 130;
    default: return 1;
    }
}

const char *ps_err_name(int code)
{
    switch (code) {
    case PS_OK: return "ok";
    case PS_EFAIL: return "fail";
    case PS_EUNSUPPORTED: return "unsupported";
    case PS_ENOMEM: return "nomem";
    case PS_EUSAGE: return "usage";
    case PS_ENET: return "net";
    case PS_ENOTFOUND: return "notfound";
    case PS_EREFUSED: return "refused";
    case PS_EDATA: return "data";
    case PS_EBUDGET: return "budget";
    case PS_EINTERRUPTED: return "interrupted";
    case PS_EIO: return "io";
    case PS_ENOSPC: return "nospc";
    case PS_ECANCELLED: return "cancelled";
    case PS_EAGAIN: return "again";
    case PS_EINUSE: return "inuse";
    default: return "unknown";
    }
}

void ps_assert_failed(const char *file, int line, const char *expr)
{
    /* Straight to stderr: the log may be what is broken. */
    fprintf(stderr, "penstock: internal error: %s:%d: %s: please report this\n", file, line, expr);
    abort();
}
