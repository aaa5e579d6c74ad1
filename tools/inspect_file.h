/* What one local file of a model holds, as a JSON object: a .safetensors header, a shard's
 * index, a manifest. */
#ifndef PS_TOOLS_INSPECT_FILE_H
#define PS_TOOLS_INSPECT_FILE_H
#include <stdbool.h>
#include "base/err.h"
#include "base/strbuf.h"

bool ps_inspect_is_file(const char *path); /* an existing file that is no folder */
/* PS_EDATA for damaged files, PS_EUNSUPPORTED for other kinds. */
int ps_inspect_file(struct ps_strbuf *out, const char *path, bool extents, struct ps_err *err);
#endif
