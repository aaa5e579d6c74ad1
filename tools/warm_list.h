/* Lists of models for `warm --from-file`: one to a line, '#' begins a comment at the start of a line or behind a blank
 * (an address may hold one). Pure. */
#ifndef PS_TOOLS_WARM_LIST_H
#define PS_TOOLS_WARM_LIST_H
#include <stddef.h>
#include "base/err.h"

/* Cuts `text` (changed: NULs are put behind the models) into models, in their order. *models (ps_free) points into it.
 * PS_EUSAGE: a NUL in the text, or no model at all; `name` is for the message. PS_ENOMEM. */
int ps_warm_list_parse(const char ***models, size_t *n, char *text, size_t len, const char *name,
                       struct ps_err *err);
#endif
