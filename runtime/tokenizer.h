/* Text to token ids and back, as Hugging Face `tokenizers` does it for tokenizer.json. Byte-level BPE (GPT-2,
 * Llama 3, Qwen, ...) with its pre-tokenizer regexes, and SentencePiece-style BPE with byte fallback (Llama 2,
 * Mistral, Phi-3, Gemma). Another kind is PS_EUNSUPPORTED, named.
 *
 * The file is read by the streaming reader: no DOM. A tokenizer is immutable after opening and may be used by many
 * threads at once; an incremental decoder belongs to one thread. */
#ifndef PS_RUNTIME_TOKENIZER_H
#define PS_RUNTIME_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/strbuf.h"

struct ps_tokenizer;
/* tokenizer_json: whole file. tokenizer_config, generation_config, special_tokens_map, config: nullable small JSON
 * texts (bos/eos, add_bos_token...). */
struct ps_tokenizer_files {
    const char *tokenizer_json;
    size_t tokenizer_json_len;
    const char *tokenizer_config;
    size_t tokenizer_config_len;
    const char *generation_config;
    size_t generation_config_len;
    const char *special_tokens_map;
    size_t special_tokens_map_len;
    const char *config;
    size_t config_len; /* config.json: eos_token_id, bos_token_id */
};
int ps_tokenizer_open(struct ps_tokenizer **out, const struct ps_tokenizer_files *files,
                      struct ps_err *err);
void ps_tokenizer_close(struct ps_tokenizer *t);

enum {
    PS_TOK_ADD_SPECIAL = 1 /* what the file's post-processor and add_bos_token add */,
    PS_TOK_PARSE_SPECIAL = 2 /* text of special tokens
    becomes those tokens: the default everywhere */
};
/* Appends ids to *ids (grown with ps_realloc; *n counts). Invalid UTF-8 in text becomes U+FFFD. */
int ps_tokenize(struct ps_tokenizer *t, const char *text, size_t len, unsigned flags,
                uint32_t **ids, size_t *n, struct ps_err *err);

/* Incremental decoding: bytes that are complete UTF-8 after this token go to out; an incomplete character is held
 * back (finish emits U+FFFD). Special tokens give nothing unless show_special. The first-token space rule of
 * SentencePiece decoders is applied at the start of the stream. */
struct ps_detok;
int ps_detok_new(struct ps_detok **out, struct ps_tokenizer *t, bool show_special);
void ps_detok_free(struct ps_detok *d);
/* Feeds prompt ids without output, so that what follows is decoded in its context (leading-space rules): call
 * before the first put. */
int ps_detok_prime(struct ps_detok *d, const uint32_t *ids, size_t n);
int ps_detok_put(struct ps_detok *d, uint32_t id, struct ps_strbuf *out);
int ps_detok_finish(struct ps_detok *d, struct ps_strbuf *out);

uint32_t ps_tokenizer_vocab(const struct ps_tokenizer *t); /* ids are below this */
bool ps_tokenizer_is_special(const struct ps_tokenizer *t, uint32_t id);
bool ps_tokenizer_is_eos(const struct ps_tokenizer *t,
                         uint32_t id); /* any of generation_config's / config's eos ids */
int64_t ps_tokenizer_bos(const struct ps_tokenizer *t); /* -1 if none */
/* Text of one token as stored (may be partial UTF-8); false if there is no such id. Borrowed. */
bool ps_tokenizer_piece(const struct ps_tokenizer *t, uint32_t id, const char **s, size_t *len);
uint64_t ps_tokenizer_memory_bytes(const struct ps_tokenizer *t);
#endif
