/* See warm_list.h. */
#include "tools/warm_list.h"

#include <string.h>
#include "base/alloc.h"

#define BLANKS " \t\r\v\f"

/* The model of one line without blanks at its ends, NULL for none. */
static char *model_of(char *line)
{
    char *begin = line + strspn(line, BLANKS), *end = begin;

    for (char *p = begin; *p; p++) {
        if (*p == '#' && (p == begin || strchr(BLANKS, p[-1])))
            break;
        if (!strchr(BLANKS, *p))
            end = p + 1;
    }
    *end = '\0';
    return begin < end ? begin : NULL;
}

int ps_warm_list_parse(const char ***models, size_t *n, char *text, size_t len, const char *name,
                       struct ps_err *err)
{
    const char **list;
    size_t lines = 1, found = 0;

    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) { /* editors of Windows begin a text so */
        text += 3;
        len -= 3;
    }
    if (memchr(text, '\0', len))
        return ps_err_set(err, PS_EUSAGE, "warm", "%s: holds a NUL: is it a list of models?", name);
    for (size_t i = 0; i < len; i++)
        lines += text[i] == '\n';
    list = ps_calloc(lines, sizeof *list);
    if (!list)
        return ps_err_set(err, PS_ENOMEM, "warm", "%s: out of memory", name);
    for (char *line = text, *next; line; line = next) {
        char *model;

        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        model = model_of(line);
        if (model)
            list[found++] = model;
    }
    if (found == 0) {
        ps_free(list);
        return ps_err_set(err, PS_EUSAGE, "warm", "%s: names no model: write one to a line", name);
    }
    *models = list;
    *n = found;
    return 0;
}
