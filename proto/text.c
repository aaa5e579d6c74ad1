/* Text from remote bytes. Comes in: bytes of unknown origin. Goes out: a verdict. */
#include "proto/text.h"

#include "base/utf8.h"

bool ps_text_ok(const char *s, size_t len)
{
    if (ps_utf8_check(s, len) != len)
        return false;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < 0x20 || c == 0x7F)
            return false;
        if (c == 0xC2 &&
            (unsigned char)s[i + 1] <= 0x9F) /* U+0080..U+009F; valid UTF-8 has a byte there */
            return false;
    }
    return true;
}

bool ps_text_is_markup(const char *s, size_t len)
{
    size_t i = 0;
    if (len >= 3 && (unsigned char)s[0] == 0xEF && (unsigned char)s[1] == 0xBB &&
        (unsigned char)s[2] == 0xBF)
        i = 3; /* byte order mark */
    while (i < len && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r' || s[i] == '\n'))
        i++;
    /* a tag, a declaration or a comment: a binary length may begin with '<' too */
    if (len - i < 2 || s[i] != '<')
        return false;
    const char c = (char)(s[i + 1] | 0x20);
    return (c >= 'a' && c <= 'z') || s[i + 1] == '!' || s[i + 1] == '?';
}
