/* The parts of a tokenizer, shared by the files that read it (tok_load.c, tok_config.c) and
 * those that use it.
 *
 * Text passes: added tokens in the raw text (tok_added.c) -> normalizer (tok_normalize.c) ->
 * added tokens in the normalized text -> pre-tokenizer (tok_pretok.c) -> BPE (tok_bpe.c) ->
 * post-processor (tokenizer.c). The names are those of tokenizer.json; the behaviour is that of
 * the `tokenizers` library. */
#ifndef PS_RUNTIME_TOK_INTERNAL_H
#define PS_RUNTIME_TOK_INTERNAL_H
#include "base/json.h"
#include "base/strbuf.h"
#include "runtime/tok_regex.h"
#include "runtime/tok_unicode.h"
#include "runtime/tokenizer.h"

/* ids and tokens; the largest published vocabulary has 262,208 */
#define PS_TOK_VOCAB_MAX  ((1u << 22) - 1)
#define PS_TOK_MERGES_MAX (1u << 23)
#define PS_TOK_ARENA_MAX  (1u << 30) /* bytes of all token texts */
#define PS_TOK_TEXT_MAX   (1u << 30) /* bytes of one text, also between the stages */
#define PS_TOK_STAGES     32u        /* normalizers, pre-tokenizers or decoders in a sequence */
#define PS_TOK_NONE       UINT32_MAX

/* ---- vocabulary and merges (tok_vocab.c) ---- */

struct ps_tok_vocab {
    char *arena; /* all texts, one after the other */
    size_t arena_len, arena_cap;
    struct ps_tok_text {
        uint32_t off, len;   /* len PS_TOK_NONE: no such id */
    } * text;                /* by id */
    uint32_t n_ids, cap_ids; /* highest id + 1 */
    uint32_t n_tokens;
    uint32_t *slots; /* open addressing: ids with part of the hash, PS_TOK_NONE empty */
    uint32_t n_slots;
    uint64_t seed; /* so that no file can be made of colliding texts */
};
void ps_tok_vocab_deinit(struct ps_tok_vocab *v);
/* PS_EDATA when the id or the text is there already, or too large. */
int ps_tok_vocab_add(struct ps_tok_vocab *v, const char *s, size_t len, uint32_t id,
                     struct ps_err *err);
uint32_t ps_tok_vocab_find(const struct ps_tok_vocab *v, const char *s,
                           size_t len); /* id or PS_TOK_NONE */
static inline bool ps_tok_vocab_get(const struct ps_tok_vocab *v, uint32_t id, const char **s,
                                    size_t *len)
{
    if (id >= v->n_ids || v->text[id].len == PS_TOK_NONE)
        return false;
    *s = v->arena + v->text[id].off;
    *len = v->text[id].len;
    return true;
}

struct ps_tok_merge {
    uint32_t left, right, rank, id; /* left PS_TOK_NONE: empty slot */
};
struct ps_tok_merges {
    struct ps_tok_merge *slots;
    uint32_t n, n_slots;
    uint64_t seed;
};
void ps_tok_merges_deinit(struct ps_tok_merges *m);
/* A later merge of the same pair replaces the earlier one, as in the library. */
int ps_tok_merges_add(struct ps_tok_merges *m, uint32_t left, uint32_t right, uint32_t rank,
                      uint32_t id, struct ps_err *err);
const struct ps_tok_merge *ps_tok_merges_find(const struct ps_tok_merges *m, uint32_t left,
                                              uint32_t right);

/* ---- the BPE model (tok_bpe.c) ---- */

struct ps_tok_bpe {
    struct ps_tok_vocab vocab;
    struct ps_tok_merges merges;
    char *unk_token, *prefix, *suffix; /* nullable; continuing_subword_prefix, end_of_word_suffix */
    bool fuse_unk, byte_fallback, ignore_merges;
    /* derived by ps_tok_bpe_prepare */
    uint32_t unk_id;             /* PS_TOK_NONE: no unk token */
    bool unk_missing;            /* named, but not in the vocabulary: an error once it is needed */
    uint32_t ascii_id[128];      /* of one-character tokens */
    uint32_t byte_char_id[256];  /* of the byte-level character of each byte */
    uint32_t byte_token_id[256]; /* <0x00> ... <0xFF>; all there or byte_all is false */
    bool byte_all;
    uint64_t *joins; /* bitmap over hashed pairs of initial symbols that some merge joins; NULL: anything may join */
    uint32_t join_bits; /* its size, a power of two */
};
/* After loading. `long_pieces`: no pre-tokenizer cuts the text into words, so find out where
 * merges can't reach across. */
int ps_tok_bpe_prepare(struct ps_tok_bpe *m, bool long_pieces, struct ps_err *err);
void ps_tok_bpe_deinit(struct ps_tok_bpe *m);

struct ps_tok_ids {
    uint32_t *v;
    size_t n, cap;
};
int ps_tok_ids_push(struct ps_tok_ids *ids, uint32_t id); /* 0 or PS_ENOMEM */

/* What one call of ps_tokenize works in; grows, freed at its end. */
struct ps_tok_symbol {
    uint32_t id, rank, next, prev, merged;
};
/* Bytes that are no text travel as private characters, U+10FE80 to U+10FEFF, from the front of the pipeline to their
 * tokens: to the stages between they are symbols. The byte, or -1. */
#define PS_TOK_CARRIED 0x10fe00u
static inline int ps_tok_carried_byte(uint32_t c)
{
    return c >= PS_TOK_CARRIED + 0x80 && c <= PS_TOK_CARRIED + 0xff ? (int)(c - PS_TOK_CARRIED) : -1;
}
struct ps_tok_bpe_work {
    bool carried; /* the text holds such characters */
    struct ps_tok_symbol *sym;
    size_t n_sym, cap_sym;
    uint64_t *heap;
    size_t n_heap, cap_heap;
    struct ps_strbuf mapped; /* a word in byte-level characters */
    struct ps_tok_word {
        const char *s; /* in the caller's text */
        uint32_t len, n;
        size_t at; /* its ids in the output */
    } * cache;
};
void ps_tok_bpe_work_init(struct ps_tok_bpe_work *w);
void ps_tok_bpe_work_deinit(struct ps_tok_bpe_work *w);
/* One piece to ids. `raw_bytes`: the piece is text whose bytes still stand for byte-level
 * characters. */
int ps_tok_bpe_encode(const struct ps_tok_bpe *m, struct ps_tok_bpe_work *w, const char *s,
                      size_t len, bool raw_bytes, struct ps_tok_ids *ids, struct ps_err *err);
/* UTF-8 of the byte-level character that stands for a byte, 1 or 2 bytes; returns how many. */
unsigned ps_tok_byte_char(uint8_t byte, char out[2]);
int ps_tok_char_byte(uint32_t c); /* the byte, or -1 when c stands for none */

/* ---- text stages (tok_normalize.c, tok_pretok.c) ---- */

struct ps_tok_pattern {
    char *literal; /* either this */
    size_t literal_len;
    struct ps_regex *regex; /* or this */
};
void ps_tok_pattern_deinit(struct ps_tok_pattern *p);
struct ps_tok_match_iter {
    const struct ps_tok_pattern *p;
    struct ps_regex_iter it;
};
void ps_tok_match_init(struct ps_tok_match_iter *m, const struct ps_tok_pattern *p, const char *s,
                       size_t len);
int ps_tok_match_next(struct ps_tok_match_iter *m, struct ps_regex_run *run, size_t *start,
                      size_t *end);

enum ps_tok_norm_kind {
    PS_NORM_NFC,
    PS_NORM_NFD,
    PS_NORM_NFKC,
    PS_NORM_NFKD,
    PS_NORM_LOWERCASE,
    PS_NORM_PREPEND,
    PS_NORM_REPLACE,
    PS_NORM_STRIP,
    PS_NORM_STRIP_ACCENTS,
    PS_NORM_NMT,
    PS_NORM_BYTE_LEVEL,
};
struct ps_tok_norm {
    enum ps_tok_norm_kind kind;
    bool left, right; /* Strip */
    struct ps_tok_pattern pattern;
    char *text; /* Prepend, Replace */
    size_t text_len;
};
/* Applies n normalizers to s; the result is in *out (its old content is dropped; tmp is
 * scratch). *at_zero is cleared when characters at the front were removed. */
int ps_tok_normalize(const struct ps_tok_norm *norms, size_t n, const char *s, size_t len,
                     struct ps_strbuf *out, struct ps_strbuf *tmp, struct ps_regex_run *run,
                     bool *at_zero, struct ps_err *err);

enum ps_tok_pre_kind {
    PS_PRE_BYTE_LEVEL,
    PS_PRE_SPLIT,
    PS_PRE_METASPACE,
    PS_PRE_DIGITS,
    PS_PRE_PUNCTUATION,
    PS_PRE_WHITESPACE,
    PS_PRE_WHITESPACE_SPLIT,
    PS_PRE_BERT,
    PS_PRE_DELIMITER,
    PS_PRE_FIXED_LENGTH,
};
enum ps_tok_behavior {
    PS_SPLIT_REMOVED,
    PS_SPLIT_ISOLATED,
    PS_SPLIT_PREVIOUS,
    PS_SPLIT_NEXT,
    PS_SPLIT_CONTIGUOUS
};
enum ps_tok_scheme { PS_PREPEND_ALWAYS, PS_PREPEND_FIRST, PS_PREPEND_NEVER };
struct ps_tok_pre {
    enum ps_tok_pre_kind kind;
    enum ps_tok_behavior behavior;
    bool invert;
    bool add_prefix_space, use_regex; /* ByteLevel; its regex is in pattern */
    bool individual;                  /* Digits */
    bool split;                       /* Metaspace */
    enum ps_tok_scheme scheme;
    uint32_t length; /* FixedLength, in characters */
    struct ps_tok_pattern pattern;
    char rep[4]; /* Metaspace */
    unsigned rep_len;
};

/* A part of the text: either still text (id PS_TOK_NONE), at off in the current buffer, or an
 * added token. */
struct ps_tok_piece {
    uint32_t off, len, id;
    bool at_zero; /* begins where the original text begins */
};
struct ps_tok_pieces {
    struct ps_tok_piece *v;
    size_t n, cap;
};
int ps_tok_pieces_push(struct ps_tok_pieces *p, struct ps_tok_piece one);

struct ps_tok_work {
    struct ps_strbuf text, next_text, tmp;
    struct ps_tok_pieces pieces, next;
    struct ps_regex_run run;
    struct ps_tok_bpe_work bpe;
};
/* Applies one pre-tokenizer to all pieces of w. `lazy_bytes`: leave out the byte-level mapping
 * (it comes last). */
int ps_tok_pretokenize(const struct ps_tok_pre *pre, struct ps_tok_work *w, bool lazy_bytes,
                       struct ps_err *err);
int ps_tok_text_failed(const struct ps_strbuf *b,
                       struct ps_err *err); /* the PS_E code of a failed buffer */

/* ---- added tokens (tok_added.c) ---- */

struct ps_tok_added {
    uint32_t id, off, len;       /* content in the set's arena */
    uint32_t norm_off, norm_len; /* what is looked for in normalized text */
    bool single_word, lstrip, rstrip, normalized, special;
    bool replaced; /* a later entry has its id */
};
struct ps_tok_added_set {
    struct ps_tok_added *v;
    size_t n, cap;
    struct ps_strbuf arena;
    uint32_t *raw,
        *norm; /* indexes into v, sorted by text: those looked for in raw and in normalized text */
    size_t n_raw, n_norm;
    uint32_t *by_id; /* indexes into v, sorted by id, without the replaced */
    size_t n_by_id;
    uint64_t raw_first[4], norm_first[4]; /* first bytes */
};
void ps_tok_added_deinit(struct ps_tok_added_set *a);
/* Sorts what was collected; ids and normalized texts are set already. */
int ps_tok_added_prepare(struct ps_tok_added_set *a, struct ps_err *err);
const struct ps_tok_added *ps_tok_added_get(const struct ps_tok_added_set *a, uint32_t id);
/* Cuts s (at offset `off` of the buffer that the pieces refer to) at added tokens and appends
 * the pieces. Special tokens only if `special`: else their text is text. */
int ps_tok_added_split(const struct ps_tok_added_set *a, bool normalized, bool special,
                       const char *s, uint32_t off, uint32_t len, bool at_zero,
                       struct ps_tok_pieces *out, struct ps_err *err);

/* ---- decoders (tok_decode.c) ---- */

enum ps_tok_dec_kind {
    PS_DEC_BYTE_LEVEL,
    PS_DEC_BYTE_FALLBACK,
    PS_DEC_FUSE,
    PS_DEC_REPLACE,
    PS_DEC_STRIP,
    PS_DEC_METASPACE,
    PS_DEC_BPE, /* end-of-word suffix to a space */
};
struct ps_tok_dec {
    enum ps_tok_dec_kind kind;
    struct ps_tok_pattern pattern; /* Replace */
    char *text;                    /* Replace: content; BPE: suffix */
    size_t text_len;
    char ch[4]; /* Strip, Metaspace */
    unsigned ch_len;
    uint32_t start, stop; /* Strip */
    bool prepend;         /* Metaspace: prepend_scheme is not never */
};

struct ps_tokenizer;
/* PS_EUNSUPPORTED for an order of decoders that can't be streamed. */
int ps_tok_check_decoders(const struct ps_tokenizer *t, struct ps_err *err);

struct ps_tokenizer {
    struct ps_tok_bpe bpe;
    struct ps_tok_added_set added;
    struct ps_tok_norm norm[PS_TOK_STAGES];
    struct ps_tok_pre pre[PS_TOK_STAGES];
    struct ps_tok_dec dec[PS_TOK_STAGES];
    size_t n_norm, n_pre, n_dec;
    bool has_decoder,
        has_post; /* null in the file: tokens joined with spaces; the configuration's add_bos_token counts */
    uint32_t *before, *after; /* ids that the post-processor puts around a text */
    size_t n_before, n_after;
    uint32_t vocab; /* ids are below */
    int64_t bos;
    uint32_t *eos;
    size_t n_eos;
    uint64_t memory_bytes;
};

/* tok_load.c: tokenizer.json into t. tok_config.c: its small parts, given as parsed JSON. */
int ps_tok_load(struct ps_tokenizer *t, const char *json, size_t len, struct ps_err *err);
int ps_tok_config_part(struct ps_tokenizer *t, const char *key, const struct ps_json *tree,
                       struct ps_err *err);
int ps_tok_config_files(struct ps_tokenizer *t, const struct ps_tokenizer_files *files,
                        struct ps_err *err);
/* Id of an added token's or vocabulary token's text, added tokens first; PS_TOK_NONE. */
uint32_t ps_tok_find(const struct ps_tokenizer *t, const char *s, size_t len);
#endif
