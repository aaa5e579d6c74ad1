/* Fuzz target: .netrc files. Comes in: a host, a login (empty: none is asked for), then the file, each line ending at
 * a newline. A login that is found is one that was asked for, and whole: words end, none is cut. */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "fetcher/netrc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *take_line(const uint8_t **p, const uint8_t *end)
{
    const uint8_t *stop = memchr(*p, '\n', (size_t)(end - *p));
    char *line = ps_strndup((const char *)*p, (size_t)((stop ? stop : end) - *p));
    *p = stop ? stop + 1 : end;
    return line;
}

/* A word without quotes and escapes stands in the file as it is. */
static void check_word(const char *word, const char *text, size_t bytes)
{
    const size_t n = strlen(word);
    PS_ASSERT(n < PS_NETRC_WORD_MAX);
    if (n > 0 && !strpbrk(word, "\"\\\r\n\t") && !memchr(text, '\\', bytes))
        PS_ASSERT(memmem(text, bytes, word, n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *p = data, *end = data + size;
    char *host = take_line(&p, end), *login = take_line(&p, end);
    const char *text = (const char *)p;
    const size_t bytes = (size_t)(end - p);
    struct ps_netrc_login any, same;
    const bool found = ps_netrc_find(&any, text, bytes, host, NULL);
    if (found) {
        check_word(any.login, text, bytes);
        check_word(any.password, text, bytes);
        if (any.login[0])
            PS_ASSERT(ps_netrc_find(&same, text, bytes, host, any.login) &&
                      strcmp(same.login, any.login) == 0 && strcmp(same.password, any.password) == 0);
    }
    if (ps_netrc_find(&same, text, bytes, host, login))
        PS_ASSERT(found && login[0] && strcmp(same.login, login) == 0);
    ps_free(login);
    ps_free(host);
    return 0;
}
