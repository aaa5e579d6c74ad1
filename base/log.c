/* Log lines and redaction: printf lines come in from every module, goes out one write() per line on stderr, with
 * nothing secret in it. Errors take their text through the same door (log_format.h). */
#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log_format.h"
#include "base/utf8.h"

static const char *const level_names[] = {"error", "warn", "info", "debug", "trace"};

static _Atomic int log_level = PS_LOG_WARN;
static _Atomic(void (*)(void)) hook_before;
static _Atomic(void (*)(void)) hook_after;

bool ps_log_enabled(enum ps_log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

void ps_log_set_level(enum ps_log_level level)
{
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

int ps_log_init_from_env(void)
{
    const char *word = getenv("PENSTOCK_LOG");
    if (!word || !*word)
        return 0;
    for (int i = 0; i <= PS_LOG_TRACE; i++) {
        if (strcasecmp(word, level_names[i]) == 0) {
            ps_log_set_level((enum ps_log_level)i);
            return 0;
        }
    }
    return PS_EUSAGE;
}

void ps_log_set_hooks(void (*before)(void), void (*after)(void))
{
    atomic_store(&hook_before, before);
    atomic_store(&hook_after, after);
}

/* stderr may be a pipe that takes part of a line; a reader that went away is not worth an error. */
static void write_all(const char *s, size_t n)
{
    while (n) {
        ssize_t w = write(STDERR_FILENO, s, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return;
        s += w;
        n -= (size_t)w;
    }
}

void ps_log(enum ps_log_level level, const char *area, const char *fmt, ...)
{
    if (!ps_log_enabled(level))
        return;
    int saved_errno = errno;
    char line[2048];
    int n = snprintf(line, sizeof(line), "penstock: %s: %s: ", level_names[level], area);
    size_t head = n > 0 && (size_t)n < sizeof(line) / 2 ? (size_t)n : 0;
    va_list ap;
    va_start(ap, fmt);
    ps_log_vformat(line + head, sizeof(line) - head - 1, fmt, ap);
    va_end(ap);
    size_t len = strlen(line);
    line[len] = '\n';

    void (*before)(void) = atomic_load(&hook_before);
    void (*after)(void) = atomic_load(&hook_after);
    if (before)
        before();
    write_all(line, len + 1);
    if (after)
        after();
    errno = saved_errno;
}

/* ---- redaction ---- */

/* Puts `with` in place of text[at .. at + old_len); what does not fit into cap falls off the end. Returns the offset
 * behind the replacement. */
static size_t replace(char *text, size_t cap, size_t at, size_t old_len, const char *with)
{
    size_t new_len = strlen(with);
    size_t tail = strlen(text + at + old_len);
    if (new_len > cap - 1 - at)
        new_len = cap - 1 - at;
    if (tail > cap - 1 - at - new_len)
        tail = cap - 1 - at - new_len;
    memmove(text + at + new_len, text + at + old_len, tail);
    memcpy(text + at, with, new_len);
    text[at + new_len + tail] = '\0';
    return at + new_len;
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* Where a word begins: not in the middle of a longer one. */
static bool at_word_start(const char *text, size_t i)
{
    return i == 0 || !is_word(text[i - 1]);
}

static size_t span_token(const char *s)
{
    return strcspn(s, " \t\r\n\"'<>,;");
}

/* //user:pass@host -> //host */
static void redact_userinfo(char *text, size_t cap)
{
    for (size_t i = 0; text[i]; i++) {
        if (text[i] != '/' || text[i + 1] != '/')
            continue;
        size_t start = i + 2;
        size_t authority = strcspn(text + start, "/?# \t\r\n\"'<>");
        for (size_t n = authority; n > 0; n--) {
            if (text[start + n - 1] == '@') {
                replace(text, cap, start, n, "");
                break;
            }
        }
        i = start - 1;
    }
}

/* "user:pass@host" where nobody wrote "//": parts of what is no address, as of a path. */
static void redact_bare_userinfo(char *text, size_t cap)
{
    static const char end[] = "/ \t\r\n\"'<>,;";
    bool address = false;
    for (size_t i = 0; text[i];) {
        size_t part = strcspn(text + i, end), colon = strcspn(text + i, ":");
        address = address || (colon < part && strncmp(text + i + colon, "://", 3) == 0);
        for (size_t n = address ? 0 : part; n > colon + 1; n--) {
            if (text[i + n - 1] == '@') {
                i = replace(text, cap, i, n - 1, "[redacted]");
                part = strcspn(text + i, end);
                break;
            }
        }
        i += part;
        address = address && text[i] == '/';
        i += text[i] != '\0';
    }
}

/* The values of one address's query, from behind its '?': names stay, because they say what kind of address it was.
 * Returns the offset behind the query. */
static size_t redact_query(char *text, size_t cap, size_t i)
{
    static const char stop[] = "& \t\r\n\"'<>#";
    while (text[i] && !strchr(stop + 1, text[i])) {
        size_t name = strcspn(text + i, "=& \t\r\n\"'<>#");
        i += name;
        if (text[i] == '=') {
            i++;
            size_t value = strcspn(text + i, stop);
            size_t end = i + value;
            /* Punctuation of the sentence around the address: "GET https://h/p?x=y: 403". */
            if (value && text[end] != '&' && strchr(":,;)", text[end - 1]))
                value--;
            i = replace(text, cap, i, value, "...");
            i += strcspn(text + i, stop);
        }
        if (text[i] == '&')
            i++;
    }
    return i;
}

static void redact_queries(char *text, size_t cap)
{
    for (size_t i = 0; text[i]; i++) {
        if (strncmp(text + i, "://", 3) != 0)
            continue;
        i += 3;
        i += strcspn(text + i, "? \t\r\n\"'<>#");
        if (text[i] == '?')
            i = redact_query(text, cap, i + 1);
        if (!text[i])
            return;
    }
}

/* "X-Amz-Signature=...", "x-amz-security-token: ...", "Signature=..." of an Authorization header. */
static void redact_amz(char *text, size_t cap)
{
    for (size_t i = 0; text[i]; i++) {
        if (!at_word_start(text, i))
            continue;
        bool amz = strncasecmp(text + i, "X-Amz-", 6) == 0;
        if (!amz && strncmp(text + i, "Signature=", 10) != 0)
            continue;
        size_t at = i + strspn(text + i, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                         "0123456789-");
        if (text[at] != '=' && text[at] != ':')
            continue;
        at++;
        at += strspn(text + at, " ");
        size_t value = strcspn(text + at, "& \t\r\n\"'<>,;");
        if (value)
            i = replace(text, cap, at, value, "[redacted]") - 1;
    }
}

/* "Bearer xxx", "Basic xxx", in any case. */
static void redact_authorization(char *text, size_t cap)
{
    static const char *const schemes[] = {"Bearer ", "Basic "};
    for (size_t i = 0; text[i]; i++) {
        if (!at_word_start(text, i))
            continue;
        for (size_t k = 0; k < 2; k++) {
            size_t n = strlen(schemes[k]);
            if (strncasecmp(text + i, schemes[k], n) != 0)
                continue;
            size_t value = span_token(text + i + n);
            if (value)
                i = replace(text, cap, i + n, value, "[redacted]") - 1;
            break;
        }
    }
}

static size_t span_alnum(const char *s, bool upper_only)
{
    size_t n = 0;
    while (isdigit((unsigned char)s[n]) ||
           (upper_only ? isupper((unsigned char)s[n]) : isalpha((unsigned char)s[n])))
        n++;
    return n;
}

/* Tokens that give themselves away by their form. The least lengths keep words such as "hf_models" readable. */
static void redact_tokens(char *text, size_t cap)
{
    for (size_t i = 0; text[i]; i++) {
        if (!at_word_start(text, i))
            continue;
        size_t n = 0;
        if (strncmp(text + i, "hf_", 3) == 0) {
            n = span_alnum(text + i + 3, false);
            n = n >= 10 ? n + 3 : 0;
        } else if (strncmp(text + i, "AKIA", 4) == 0 || strncmp(text + i, "ASIA", 4) == 0) {
            n = span_alnum(text + i + 4, true);
            n = n >= 12 ? n + 4 : 0;
        }
        if (n)
            i = replace(text, cap, i, n, "[redacted]") - 1;
    }
}

void ps_redact(char *text, size_t cap)
{
    redact_userinfo(text, cap);
    redact_bare_userinfo(text, cap);
    redact_amz(text, cap);
    redact_queries(text, cap); /* after redact_amz: inside an address "..." is enough */
    redact_authorization(text, cap);
    redact_tokens(text, cap);
}

/* ---- formatting ---- */

static void make_printable(char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
    }
}

/* The longest prefix of s[0..n) of at most `max` bytes that ends at a character. */
static size_t cut_at_character(const char *s, size_t n, size_t max)
{
    if (n <= max)
        return n;
    size_t cut = max;
    while (cut > 0 && max - cut < PS_UTF8_MAX && ((unsigned char)s[cut] & 0xc0) == 0x80)
        cut--;
    return cut;
}

void ps_log_vformat(char *out, size_t cap, const char *fmt, va_list ap)
{
    int saved_errno = errno;
    char scratch[4096]; /* larger than any line of ours, so that redaction sees whole secrets */
    int n = vsnprintf(scratch, sizeof(scratch), fmt, ap);
    if (n < 0) {
        snprintf(scratch, sizeof(scratch), "(message could not be formatted)");
    } else if ((size_t)n >= sizeof(scratch)) {
        /* The last word may be half a secret that no pattern knows any more. */
        char *space = strrchr(scratch, ' ');
        *(space ? space : scratch) = '\0';
    }
    ps_redact(scratch, sizeof(scratch));
    make_printable(scratch);
    size_t len = cut_at_character(scratch, strlen(scratch), cap - 1);
    memcpy(out, scratch, len);
    out[len] = '\0';
    errno = saved_errno;
}
