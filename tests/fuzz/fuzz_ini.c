/* Fuzz target: configuration files of AWS tools. A value that is found ends, holds no line end, has no blanks at its
 * ends, and stands in a section that is there. */
#include <stdint.h>
#include <string.h>

#include "base/err.h"
#include "fetcher/ini.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const sections[] = {"default", "profile x", "x"};
static const char *const keys[] = {"region", "aws_secret_access_key", "s3.addressing_style", "k"};

static void check_value(const char *v)
{
    const size_t n = strlen(v);
    PS_ASSERT(n > 0 && !strchr(v, '\n'));
    PS_ASSERT(!strchr(" \t\r", v[0]) && !strchr(" \t\r", v[n - 1]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    for (size_t s = 0; s < sizeof sections / sizeof *sections; s++) {
        const bool there = ps_ini_has_section(text, size, sections[s]);
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            char small[8], large[4096];
            const bool fits = ps_ini_get(text, size, sections[s], keys[k], small, sizeof small);
            const bool found = ps_ini_get(text, size, sections[s], keys[k], large, sizeof large);
            PS_ASSERT(there || !found);
            if (found)
                check_value(large);
            if (fits)
                PS_ASSERT(found && strcmp(small, large) == 0);
        }
    }
    return 0;
}
