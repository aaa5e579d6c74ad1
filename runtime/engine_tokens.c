/* The tokenizer of an engine: read on a thread of its own while the first weights are on their way. */
#include <string.h>

#include "base/alloc.h"
#include "fetcher/store.h"
#include "runtime/engine.h"
#include "runtime/trust_files.h"

static const char *const ORIGIN = "tokenizer";
#define TOKENIZER_MAX_BYTES (128ull << 20)
#define SMALL_MAX_BYTES     (4ull << 20)

enum { JSON, CONFIG, GENERATION, SPECIAL, MODEL, N };
const char *const ps_tokenizer_names[] = {
    [JSON] = "tokenizer.json",
    [CONFIG] = "tokenizer_config.json",
    [GENERATION] = "generation_config.json",
    [SPECIAL] = "special_tokens_map.json",
    [MODEL] = "config.json",
    NULL,
};

uint64_t ps_tokenizer_max_bytes(const char *name)
{
    return strcmp(name, ps_tokenizer_names[JSON]) == 0 ? TOKENIZER_MAX_BYTES : SMALL_MAX_BYTES;
}

/* Nullable small file: absent is fine, unless the manifest lists it (a mirror that left it out would decide how
 * the text ends); unreadable is not. */
static int small_file(char **out, size_t *len, const struct ps_kept *k, const char *name,
                      struct ps_err *err)
{
    int rc = ps_kept_get(out, len, k, name, SMALL_MAX_BYTES, err);
    if ((rc == PS_ENOTFOUND || rc == PS_EREFUSED) && !ps_kept_is_listed(k, name)) {
        *out = NULL;
        *len = 0;
        return 0;
    }
    return rc;
}

/* A model without tokenizer.json may have one of the older kinds: said by name, since "add the file" alone would not
 * tell how. */
static int no_tokenizer(const struct ps_kept *k, struct ps_err *err)
{
    static const char *const older[] = {"tokenizer.model", "vocab.json"};
    for (size_t i = 0; i < sizeof older / sizeof older[0]; i++) {
        char *text = NULL;
        size_t len;
        int rc = ps_kept_get(&text, &len, k, older[i], TOKENIZER_MAX_BYTES, NULL);
        ps_free(text);
        if (rc == 0)
            return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                              "no tokenizer.json, and %s is a kind that is not read: make the file "
                              "with transformers (save_pretrained of its fast tokenizer)",
                              older[i]);
    }
    return ps_err_set(err, PS_ENOTFOUND, ORIGIN,
                      "no tokenizer.json: %s: add the file, or give token ids (logits --tokens)",
                      k->source->label);
}

int ps_tokenizer_from_source(struct ps_tokenizer **out, const struct ps_kept *k, struct ps_err *err)
{
    char *text[N] = {0};
    size_t len[N] = {0};
    int rc =
        ps_kept_get(&text[JSON], &len[JSON], k, ps_tokenizer_names[JSON], TOKENIZER_MAX_BYTES, err);
    if (rc == PS_ENOTFOUND)
        rc = no_tokenizer(k, err);
    for (int i = CONFIG; rc == 0 && i < N; i++)
        rc = small_file(&text[i], &len[i], k, ps_tokenizer_names[i], err);
    if (rc == 0) {
        struct ps_tokenizer_files tf = {
            text[JSON],      len[JSON],     text[CONFIG], len[CONFIG], text[GENERATION],
            len[GENERATION], text[SPECIAL], len[SPECIAL], text[MODEL], len[MODEL],
        };
        rc = ps_tokenizer_open(out, &tf, err);
    }
    if (rc == PS_EDATA || rc == PS_EUNSUPPORTED)
        ps_err_place(err, k->source->label);
    for (int i = 0; i < N; i++)
        ps_free(text[i]);
    return rc;
}

struct ps_kept ps_engine_kept(const struct ps_engine *e)
{
    return (struct ps_kept){.source = e->source,
                            .files = &e->files,
                            .cache = e->cache,
                            .model = e->cache_model,
                            .shares = ps_engine_has_room_for_all(e),
                            .interrupt = &e->interrupt};
}

static void *tokenizer_main(void *engine)
{
    struct ps_engine *e = engine;
    struct ps_kept k = ps_engine_kept(e);
    struct ps_cache *looked = NULL;
    if (e->tokenizer_looks && ps_engine_look_at_cache(&looked, &k.model, e, NULL) == 0)
        k.cache = looked;
    e->tokenizer_rc = ps_tokenizer_from_source(&e->tokenizer, &k, &e->tokenizer_err);
    ps_cache_close(looked);
    return NULL;
}

int ps_engine_start_tokenizer(struct ps_engine *e, struct ps_err *err)
{
    if (pthread_create(&e->tokenizer_thread, NULL, tokenizer_main, e) != 0)
        return ps_err_set(err, PS_EFAIL, ORIGIN,
                          "can't start a thread: check the limit on processes");
    e->tokenizer_started = true;
    return 0;
}

int ps_engine_need_tokenizer(struct ps_engine *e, struct ps_err *err)
{
    if (!e->tokenizer_started)
        return ps_err_set(err, PS_EUSAGE, ORIGIN, "the engine was opened without a tokenizer");
    if (!e->tokenizer_joined)
        pthread_join(e->tokenizer_thread, NULL);
    e->tokenizer_joined = true;
    if (e->tokenizer_rc < 0 && err)
        *err = e->tokenizer_err;
    return e->tokenizer_rc;
}

/* An id that the model has no row for is the files' fault, not that of who typed the prompt. */
static int check_ids(const struct ps_engine *e, const uint32_t *ids, size_t n, struct ps_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= e->arch->vocab)
            return ps_err_set(
                err, PS_EDATA, ORIGIN,
                "tokenizer.json gives id %u, the model's vocabulary ends at %u: is it the "
                "model's tokenizer?",
                ids[i], e->arch->vocab - 1);
    return 0;
}

/* An empty prompt is the beginning of a text, also where the tokenizer puts nothing before one. */
static int begin_empty(const struct ps_tokenizer *t, uint32_t **ids, size_t *n, struct ps_err *err)
{
    const int64_t bos = ps_tokenizer_bos(t);
    if (bos < 0)
        return 0;
    uint32_t *one = ps_realloc_array(*ids, 1, sizeof *one);
    if (!one)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    one[0] = (uint32_t)bos;
    *ids = one;
    *n = 1;
    return 0;
}

int ps_engine_tokenize(struct ps_engine *e, const char *text, size_t len, uint32_t flags,
                       uint32_t **ids, size_t *n, struct ps_error *error)
{
    struct ps_err err = {0};
    uint32_t *list = NULL;
    size_t count = 0;
    int rc = ps_engine_need_tokenizer(e, &err);
    if (rc == 0)
        rc = ps_tokenize(e->tokenizer, text, len, flags, &list, &count, &err);
    if (rc == 0 && count == 0 && (flags & PS_TOK_ADD_SPECIAL))
        rc = begin_empty(e->tokenizer, &list, &count, &err);
    if (rc == 0)
        rc = check_ids(e, list, count, &err);
    if (rc < 0) {
        ps_free(list);
        return ps_engine_error(error, rc, &err);
    }
    *ids = list;
    *n = count;
    return 0;
}

int ps_tokenize_only(const char *model, const char *text, size_t len, uint32_t flags,
                     uint32_t **ids, size_t *n, struct ps_error *error)
{
    return ps_tokenize_trusted(model, NULL, 0, text, len, flags, ids, n, error);
}

int ps_tokenize_trusted(const char *model, const char *const *keys, size_t n_keys, const char *text,
                        size_t len, uint32_t flags, uint32_t **ids, size_t *n, struct ps_error *error)
{
    const struct ps_engine_options o = {.struct_size = sizeof o,
                                        .model = model,
                                        .verify_keys = keys,
                                        .n_verify_keys = (uint32_t)n_keys};
    return ps_tokenize_from(&o, text, len, flags, ids, n, error);
}

/* The tokenizer alone, checked against the manifest where there is one; with keys, of a model that its owner signed. */
static int open_tokenizer(struct ps_tokenizer **out, struct ps_source *src,
                          const struct ps_trust *trust, struct ps_err *err)
{
    struct ps_model_files files = {0};
    int rc = ps_model_files_open_small(&files, src, trust, err);
    const struct ps_kept k = {.source = src, .files = files.manifest ? &files : NULL};
    if (rc == 0)
        rc = ps_tokenizer_from_source(out, &k, err);
    ps_store_place_files(err, rc, src->label);
    ps_model_files_close(&files);
    return rc;
}

int ps_tokenize_from(const struct ps_engine_options *options, const char *text, size_t len,
                     uint32_t flags, uint32_t **ids, size_t *n, struct ps_error *error)
{
    struct ps_err err = {0};
    struct ps_engine_options o = {0};
    struct ps_trust *trust = NULL;
    struct ps_rate_limit *limit = NULL;
    struct ps_source *src = NULL;
    struct ps_tokenizer *t = NULL;
    uint32_t *list = NULL;
    size_t count = 0;
    int rc = 0;
    if (!options || options->struct_size < sizeof(uint32_t) || options->struct_size > sizeof o)
        rc = ps_err_set(&err, PS_EUSAGE, "engine", "ps_engine_options.struct_size is wrong");
    else
        memcpy(&o, options, options->struct_size);
    if (rc == 0)
        rc = ps_trust_from_files(&trust, o.verify_keys, o.n_verify_keys, &err);
    if (rc == 0)
        rc = ps_rate_limit_parse(&limit, o.net_limit, &err);
    if (rc == 0)
        rc = ps_engine_source_open(&src, &o, false, limit, NULL, NULL, &err);
    if (rc == 0)
        rc = open_tokenizer(&t, src, trust, &err);
    if (rc == 0)
        rc = ps_tokenize(t, text, len, flags, &list, &count, &err);
    ps_tokenizer_close(t);
    ps_source_close(src);
    ps_rate_limit_free(limit);
    ps_trust_free(trust);
    if (rc < 0) {
        ps_free(list);
        return ps_engine_error(error, rc, &err);
    }
    *ids = list;
    *n = count;
    return 0;
}
