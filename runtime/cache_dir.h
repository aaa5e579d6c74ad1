/* Where the disk cache lies. */
#ifndef PS_RUNTIME_CACHE_DIR_H
#define PS_RUNTIME_CACHE_DIR_H
#include "base/err.h"

/* `given` (--cache) if it is not empty, else $PENSTOCK_CACHE, else $XDG_CACHE_HOME/penstock, else
 * ~/.cache/penstock. *out: heap, the caller's. PS_EUSAGE where none of them is known: a cache in the root folder
 * is nobody's wish. */
int ps_cache_dir_find(char **out, const char *given, struct ps_err *err);
#endif
