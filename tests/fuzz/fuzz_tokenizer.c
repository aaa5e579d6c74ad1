/* Fuzz target: a hostile tokenizer.json, then a hostile text for it. The input is the file, a
 * zero byte, and the text; without a zero byte the text is fixed. Checks what must hold for any
 * file that opens: ids are below the vocabulary size, the text of any ids is valid UTF-8, and
 * what is encoded without the special tokens' rules decodes without a crash. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/log.h"
#include "base/utf8.h"
#include "runtime/tokenizer.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    ps_log_set_level(PS_LOG_ERROR); /* a file may claim other ids than it gets, a warning each */
    return 0;
}

static void decode(struct ps_tokenizer *t, const uint32_t *ids, size_t n, bool special)
{
    struct ps_detok *d = NULL;
    struct ps_strbuf b;
    if (ps_detok_new(&d, t, special))
        return;
    ps_strbuf_init(&b, (size_t)1 << 24);
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) {
        rc = ps_detok_put(d, ids[i], &b);
        PS_ASSERT(rc || ps_utf8_check(b.data, b.len) == b.len);
    }
    if (!rc && !ps_detok_finish(d, false, &b))
        PS_ASSERT(ps_utf8_check(b.data, b.len) == b.len);
    ps_strbuf_deinit(&b);
    ps_detok_free(d);
}

static void use(struct ps_tokenizer *t, const char *text, size_t len)
{
    for (unsigned flags = 0; flags < 4; flags++) {
        uint32_t *ids = NULL;
        size_t n = 0;
        if (ps_tokenize(t, text, len, flags, &ids, &n, NULL) == 0) {
            for (size_t i = 0; i < n; i++)
                PS_ASSERT(ids[i] < ps_tokenizer_vocab(t));
            decode(t, ids, n, flags & 1);
        } else {
            PS_ASSERT(!ids && !n);
        }
        ps_free(ids);
    }
    uint32_t any[64];
    for (uint32_t i = 0; i < 64; i++)
        any[i] = i * 7 % 67;
    decode(t, any, 64, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char fixed[] =
        "<s>The wheel  turns 12 times\r\n\n e\xcc\x81 \xe6\xb0\xb4 \xff</s>aab";
    const uint8_t *zero = memchr(data, 0, size);
    const char *text = zero ? (const char *)zero + 1 : fixed;
    size_t text_len = zero ? (size_t)(data + size - zero - 1) : sizeof fixed - 1;
    const struct ps_tokenizer_files f = {.tokenizer_json = (const char *)data,
                                         .tokenizer_json_len = zero ? (size_t)(zero - data) : size};
    struct ps_tokenizer *t = NULL;
    if (ps_tokenizer_open(&t, &f, NULL) == 0)
        use(t, text, text_len > 4096 ? 4096 : text_len);
    ps_tokenizer_close(t);
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
