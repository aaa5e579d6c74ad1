/* Where the disk cache lies. Comes in: an option and the environment. Goes out: a path. */
#include "runtime/cache_dir.h"

#include <stdlib.h>

#include "base/strbuf.h"

#define ORIGIN         "cache"
#define PATH_BYTES_MAX 4096u

int ps_cache_dir_find(char **out, const char *given, struct ps_err *err)
{
    struct ps_strbuf b;
    const char *own = given && *given ? given : getenv("PENSTOCK_CACHE");
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    ps_strbuf_init(&b, PATH_BYTES_MAX);
    if (own && *own)
        ps_strbuf_puts(&b, own);
    else if (xdg && *xdg == '/') /* the XDG specification: relative paths are to be ignored */
        ps_strbuf_printf(&b, "%s/penstock", xdg);
    else if (home && *home)
        ps_strbuf_printf(&b, "%s/.cache/penstock", home);
    else
        return ps_err_set(err, PS_EUSAGE, ORIGIN,
                          "no cache folder: neither XDG_CACHE_HOME nor HOME is set: give --cache");
    const bool fits = ps_strbuf_ok(&b);
    *out = fits ? ps_strbuf_take(&b, NULL) : NULL;
    ps_strbuf_deinit(&b);
    if (*out)
        return 0;
    return fits ? ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory")
                : ps_err_set(err, PS_EUSAGE, ORIGIN, "the name of the cache folder is too long");
}
