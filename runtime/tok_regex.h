/* Regular expressions of tokenizer.json: the dialect of Oniguruma's Ruby syntax that
 * pre-tokenizers are written in, over UTF-8 and the measured classes of tok_unicode.h.
 *
 * An engine of our own because a word cut differently gives other tokens, and PCRE2 differs from
 * the reference in Unicode version, \s, $, class intersection (&&) and interval quantifiers
 * ({1,3}+ is a loop there, not possessive), and its JIT is refused where memory is never both
 * writable and executable. It backtracks like Oniguruma (leftmost, first alternative wins), on a
 * heap stack with a step budget, so that no pattern and no text can hang it. Groups do not
 * capture; back references, \G, \K, \X and look-behind of unfixed length are refused by name.
 *
 * A compiled regex is immutable and may be used by many threads; a ps_regex_run belongs to one
 * call. */
#ifndef PS_RUNTIME_TOK_REGEX_H
#define PS_RUNTIME_TOK_REGEX_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

struct ps_regex;
/* PS_EUNSUPPORTED names what the dialect lacks here, PS_EDATA a malformed pattern. */
int ps_regex_new(struct ps_regex **out, const char *pattern, size_t len, struct ps_err *err);
void ps_regex_free(struct ps_regex *re);
uint64_t ps_regex_memory_bytes(const struct ps_regex *re);

struct ps_regex_frame {
    uint32_t pc, kind;
    size_t pos, floor;
};
struct ps_regex_run {
    struct ps_regex_frame *stack;
    size_t n, cap;
    uint64_t steps; /* budget left; the caller sets it once for a whole text */
    size_t marks[16];
};
void ps_regex_run_init(struct ps_regex_run *run, uint64_t steps);
void ps_regex_run_deinit(struct ps_regex_run *run);

/* Walks over the matches of one text, as the library's iterator does: an empty match right after
 * a match is skipped. */
struct ps_regex_iter {
    const char *text;
    size_t len, next, last_end;
    bool any;
};
void ps_regex_iter_init(struct ps_regex_iter *it, const char *text, size_t len);
/* 1 and the match; 0 at the end; PS_EDATA when the budget is spent, PS_ENOMEM. `text` must be
 * valid UTF-8. */
int ps_regex_next(const struct ps_regex *re, struct ps_regex_run *run, struct ps_regex_iter *it,
                  size_t *start, size_t *end);
#endif
