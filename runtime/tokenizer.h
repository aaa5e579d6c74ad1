/* Text to token ids and back, as Hugging Face `tokenizers` does it for tokenizer.json.
 * Byte-level BPE (GPT-2, Llama 3, Qwen, ...) with its pre-tokenizer regexes, and
 * SentencePiece-style BPE with byte fallback (Llama 2, Mistral, Phi-3, Gemma). Another kind is
 * PS_EUNSUPPORTED, named.
 *
 * The file is read by the streaming reader: no DOM. A tokenizer is immutable after opening and
 * may be used by many threads at once; an incremental decoder belongs to one thread. */
#ifndef PS_RUNTIME_TOKENIZER_H
#define PS_RUNTIME_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/strbuf.h"

struct ps_tokenizer;
/* tokenizer_json: whole file. The others are nullable small JSON texts beside it. All are read
 * during the open only. End-of-text ids come from generation_config, else config, else
 * tokenizer_config's (special_tokens_map's) eos_token. The beginning-of-text id: bos_token of
 * those two, else what the post-processor begins with, else bos_token_id of generation_config or
 * config. add_bos_token and add_eos_token count only where tokenizer.json has no post-processor,
 * for the reference library knows that file alone. Its truncation and padding are ignored: a
 * prompt is never cut. */
struct ps_tokenizer_files {
    const char *tokenizer_json;
    size_t tokenizer_json_len;
    const char *tokenizer_config;
    size_t tokenizer_config_len;
    const char *generation_config;
    size_t generation_config_len;
    const char *special_tokens_map;
    size_t special_tokens_map_len;
    const char *config; /* config.json: eos_token_id, bos_token_id */
    size_t config_len;
};
/* PS_EUNSUPPORTED names what is not supported (model kind, stage, pattern) and what is;
 * PS_EDATA: a damaged file; PS_ENOMEM. Takes a fifth of a second for 128k tokens. */
int ps_tokenizer_open(struct ps_tokenizer **out, const struct ps_tokenizer_files *files,
                      struct ps_err *err);
void ps_tokenizer_close(struct ps_tokenizer *t);

enum {
    PS_TOK_ADD_SPECIAL = 1, /* what the file's post-processor and add_bos_token add */
    PS_TOK_PARSE_SPECIAL = 2, /* text of special tokens becomes those tokens: the default everywhere */
};
/* Appends ids to *ids (grown with ps_realloc, NULL to start; *n counts; untouched on failure). Bytes that are not
 * UTF-8 become the tokens of these bytes: in byte-level BPE, and where byte fallback has a token for each byte;
 * U+FFFD elsewhere, and in a text that also holds characters of U+10FE80 to U+10FEFF. At most 512 MiB of text
 * (PS_EUSAGE). PS_EDATA when a pattern of the file backtracks without end on this text. Any length takes O(n log
 * n); some 10 MB/s on one core for prose. */
int ps_tokenize(struct ps_tokenizer *t, const char *text, size_t len, unsigned flags,
                uint32_t **ids, size_t *n, struct ps_err *err);

/* Incremental decoding: bytes that are complete UTF-8 after this token go to out; an incomplete character is held
 * back (finish emits U+FFFD, or drops it where the stream was cut: there more was to come). Special tokens give
 * nothing unless show_special; an id that does not exist gives nothing. The first-token space rule of
 * SentencePiece decoders is applied at the start of the stream. PS_ENOMEM also when out is full. After finish, the
 * decoder is ready for another stream. */
struct ps_detok;
int ps_detok_new(struct ps_detok **out, struct ps_tokenizer *t, bool show_special);
void ps_detok_free(struct ps_detok *d);
/* Feeds prompt ids without output, so that what follows is decoded in its context (leading-space
 * rules): call before the first put. */
int ps_detok_prime(struct ps_detok *d, const uint32_t *ids, size_t n);
int ps_detok_put(struct ps_detok *d, uint32_t id, struct ps_strbuf *out);
int ps_detok_finish(struct ps_detok *d, bool cut, struct ps_strbuf *out);

uint32_t ps_tokenizer_vocab(const struct ps_tokenizer *t); /* ids are below this */
bool ps_tokenizer_is_special(const struct ps_tokenizer *t, uint32_t id);
bool ps_tokenizer_is_eos(const struct ps_tokenizer *t, uint32_t id);
int64_t ps_tokenizer_bos(const struct ps_tokenizer *t); /* -1 if none */
/* Text of one token as stored (may be partial UTF-8); false if there is no such id. Borrowed. */
bool ps_tokenizer_piece(const struct ps_tokenizer *t, uint32_t id, const char **s, size_t *len);
uint64_t ps_tokenizer_memory_bytes(const struct ps_tokenizer *t);
#endif
