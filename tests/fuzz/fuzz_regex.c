/* Fuzz target: a pre-tokenizer's pattern, a zero byte, and a text (at most 256 bytes). Matches stand in the text, in
 * order, at borders of characters; the budget of steps ends every search. */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/utf8.h"
#include "runtime/tok_regex.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool at_border(const char *text, size_t len, size_t at)
{
    return at == len || ((unsigned char)text[at] & 0xc0) != 0x80;
}

static void search(const struct ps_regex *re, const char *text, size_t len)
{
    struct ps_regex_run run;
    struct ps_regex_iter it;
    size_t start, end, before = 0, matches = 0;
    ps_regex_run_init(&run, 100000);
    ps_regex_iter_init(&it, text, len);
    int rc;
    while ((rc = ps_regex_next(re, &run, &it, &start, &end)) == 1) {
        PS_ASSERT(start <= end && end <= len && start >= before);
        PS_ASSERT(at_border(text, len, start) && at_border(text, len, end));
        PS_ASSERT(++matches <= len + 1);
        before = end;
    }
    PS_ASSERT(rc == 0 || rc == PS_EDATA || rc == PS_ENOMEM);
    ps_regex_run_deinit(&run);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fixed[] = "The wheel's  turns 12 times\r\n\n e\xcc\x81 \xe6\xb0\xb4 \xc7\x85";
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    const char *pattern = (const char *)data, *text = zero ? (const char *)zero + 1 : fixed;
    size_t pattern_len = zero ? (size_t)(zero - data) : size;
    size_t len = zero ? size - pattern_len - 1 : sizeof fixed - 1;
    struct ps_regex *re = NULL;
    struct ps_err err = {0};
    if (ps_utf8_check(pattern, pattern_len) != pattern_len)
        return 0; /* patterns come out of the JSON reader, which refuses it */
    int rc = ps_regex_new(&re, pattern, pattern_len, &err);
    if (rc == 0) {
        len = len < 256 ? len : 256;
        search(re, text, ps_utf8_check(text, len));
        ps_regex_free(re);
    } else {
        PS_ASSERT(!re && err.code == rc && err.text[0]);
    }
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
