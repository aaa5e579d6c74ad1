/* Character classes and letter case for the tokenizer, as the reference library's engines see
 * them.
 *
 * Text is cut into words by regex classes; one character in another class gives other tokens.
 * PCRE2 and utf8proc of the distribution carry other Unicode versions than the library (and
 * PCRE2's \s matches U+180E), so the tables here were measured on the library itself
 * (tests/scripts/make_tokenizer_fixtures.py unicode). Constant data, pure functions. */
#ifndef PS_RUNTIME_TOK_UNICODE_H
#define PS_RUNTIME_TOK_UNICODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PS_UC_MAX 0x10ffffu

struct ps_uc_script {
    const char *name; /* lower case, no separators */
    const uint32_t *ranges;
    size_t n; /* pairs */
};

/* tok_unicode_data.c, generated */
extern const uint32_t ps_uc_gc[];
extern const unsigned ps_uc_gc_len;
extern const uint32_t ps_uc_other_alphabetic[], ps_uc_lower_extra[], ps_uc_upper_extra[];
extern const unsigned ps_uc_other_alphabetic_len, ps_uc_lower_extra_len, ps_uc_upper_extra_len;
extern const uint32_t ps_uc_numeric_extra[], ps_uc_punct_xor[], ps_uc_accent_xor[], ps_uc_nf_inert[];
extern const unsigned ps_uc_numeric_extra_len, ps_uc_punct_xor_len, ps_uc_accent_xor_len,
    ps_uc_nf_inert_len;
extern const uint32_t ps_uc_lower[], ps_uc_fold[];
extern const unsigned ps_uc_lower_len, ps_uc_fold_len;
extern const struct ps_uc_script ps_uc_scripts[]; /* ends with a NULL name */

/* A set of code points: sorted, disjoint, non-adjacent ranges. Zero-initialised is empty; a
 * failed allocation latches. */
struct ps_uc_set {
    uint32_t *r; /* lo, hi, lo, hi, ... */
    size_t n, cap;
    bool failed;
};
void ps_uc_set_deinit(struct ps_uc_set *s);
void ps_uc_set_add(struct ps_uc_set *s, uint32_t lo, uint32_t hi);
void ps_uc_set_add_ranges(struct ps_uc_set *s, const uint32_t *pairs, size_t n);
void ps_uc_set_union(struct ps_uc_set *s, const struct ps_uc_set *other);
void ps_uc_set_negate(struct ps_uc_set *s);
void ps_uc_set_intersect(struct ps_uc_set *s, const struct ps_uc_set *other);
/* Adds every character that equals a member without regard to case. */
void ps_uc_set_fold(struct ps_uc_set *s);
bool ps_uc_set_has(const struct ps_uc_set *s, uint32_t c);
/* Adds the class of a property or bracket name ("L", "Lu", "Han", "alpha", ...; case, '_', '-'
 * and ' ' ignored). False if there is no such name. */
bool ps_uc_set_add_named(struct ps_uc_set *s, const char *name, size_t len);
/* The classes of \s, \d, \w, \h by letter. */
void ps_uc_set_add_escape(struct ps_uc_set *s, char letter);

/* A set compiled for lookup in constant time: 256-character blocks, shared when equal. */
struct ps_uc_class {
    uint16_t *block; /* PS_UC_MAX / 256 + 1 numbers */
    uint64_t (*bits)[4];
    size_t n_blocks;
};
int ps_uc_class_build(struct ps_uc_class *out, const struct ps_uc_set *s); /* 0 or PS_ENOMEM */
void ps_uc_class_free(struct ps_uc_class *c);
static inline bool ps_uc_class_has(const struct ps_uc_class *c, uint32_t cp)
{
    const uint64_t *b = c->bits[c->block[cp >> 8]];
    return b[(cp >> 6) & 3] >> (cp & 63) & 1;
}

bool ps_uc_is_space(uint32_t c); /* White_Space */
bool ps_uc_is_word(uint32_t c); /* \w of the added-token rules: alphabetic, mark, digit, connector, join control */
bool ps_uc_is_numeric(uint32_t c);   /* of the Digits rule */
bool ps_uc_is_punct(uint32_t c);     /* of the Punctuation rule */
bool ps_uc_is_combining(uint32_t c); /* of the StripAccents rule */
/* Lower case of c into out (1 or 2 code points); returns how many. */
unsigned ps_uc_lower_of(uint32_t c, uint32_t out[2]);
/* The library does not normalize this character, though utf8proc would. */
bool ps_uc_nf_is_inert(uint32_t c);

/* Decodes the character at s, which must be valid UTF-8; *len gets its bytes. */
static inline uint32_t ps_utf8_decode(const char *s, unsigned *len)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *len = 1;
        return u[0];
    }
    if (u[0] < 0xe0) {
        *len = 2;
        return (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
    }
    if (u[0] < 0xf0) {
        *len = 3;
        return (u[0] & 0xfu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
    }
    *len = 4;
    return (u[0] & 7u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 | (u[3] & 0x3fu);
}
unsigned ps_utf8_encode(uint32_t c, char out[4]); /* bytes written; c must be a scalar value */
#endif
