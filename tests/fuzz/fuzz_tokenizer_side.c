/* Fuzz target: the small files beside tokenizer.json. The input is cut at zero bytes into tokenizer_config.json,
 * generation_config.json, special_tokens_map.json and config.json; an empty piece is a file that is not there. */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/log.h"
#include "runtime/tokenizer.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    ps_log_set_level(PS_LOG_ERROR);
    return 0;
}

static const char tokenizer[] =
    "{\"version\":\"1.0\",\"added_tokens\":["
    "{\"id\":4,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true},"
    "{\"id\":5,\"content\":\"</s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false,\"special\":true}],"
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
    "\"trim_offsets\":true,\"use_regex\":false},\"post_processor\":null,"
    "\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"c\":3},\"merges\":[\"a "
    "b\"]}}";

static const char *piece(const uint8_t **p, size_t *left, size_t *len)
{
    const uint8_t *start = *p, *zero = *left ? memchr(start, 0, *left) : NULL;
    *len = zero ? (size_t)(zero - start) : *left;
    *left -= *len + (zero ? 1 : 0);
    *p = start + *len + (zero ? 1 : 0);
    return *len ? (const char *)start : NULL;
}

static void use(struct ps_tokenizer *t)
{
    uint32_t *ids = NULL;
    size_t n = 0;
    const uint32_t vocab = ps_tokenizer_vocab(t);
    PS_ASSERT(ps_tokenize(t, "<s>abc</s>", 10, PS_TOK_ADD_SPECIAL | PS_TOK_PARSE_SPECIAL, &ids, &n,
                          NULL) == 0);
    for (size_t i = 0; i < n; i++)
        PS_ASSERT(ids[i] < vocab);
    const int64_t bos = ps_tokenizer_bos(t);
    PS_ASSERT(bos >= -1 && bos <= UINT32_MAX);
    for (uint32_t i = 0; i < vocab; i++)
        (void)(ps_tokenizer_is_eos(t, i) || ps_tokenizer_is_special(t, i));
    ps_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ps_tokenizer_files f = {.tokenizer_json = tokenizer,
                                   .tokenizer_json_len = sizeof tokenizer - 1};
    struct ps_tokenizer *t = NULL;
    struct ps_err err = {0};
    f.tokenizer_config = piece(&data, &size, &f.tokenizer_config_len);
    f.generation_config = piece(&data, &size, &f.generation_config_len);
    f.special_tokens_map = piece(&data, &size, &f.special_tokens_map_len);
    f.config = piece(&data, &size, &f.config_len);
    if (ps_tokenizer_open(&t, &f, &err) == 0)
        use(t);
    else
        PS_ASSERT(!t && err.code < 0 && err.text[0]);
    ps_tokenizer_close(t);
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
