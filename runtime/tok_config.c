/* The small parts of tokenizer.json and the configuration files beside it, as JSON trees in;
 * stages and special ids out. */
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "runtime/tok_internal.h"

#define FILE_MAX ((size_t)64 << 20)
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static int bad(struct ps_err *err, const char *what)
{
    return ps_err_set(err, PS_EDATA, "tokenizer", "tokenizer.json: %s: fetch the model again", what);
}

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, "tokenizer",
                      "tokenizer.json: not enough memory: give more with --ram");
}

static int unsupported(struct ps_err *err, const char *part, const char *kind, const char *known)
{
    return ps_err_set(err, PS_EUNSUPPORTED, "tokenizer",
                      "tokenizer.json: %s '%.40s' is not supported: %s are", part, kind, known);
}

static int type_of(const struct ps_json *o, const char **type, struct ps_err *err)
{
    int rc = ps_json_get_string(o, "type", NULL, type, err);
    if (!rc && !*type)
        return bad(err, "a normalizer, pre_tokenizer, post_processor or decoder without a type");
    return rc;
}

/* A string member, with its length (it may hold NUL bytes). */
static int get_text(const struct ps_json *o, const char *key, char **out, size_t *len,
                    struct ps_err *err)
{
    const struct ps_json *v = ps_json_get(o, key);
    if (!v || v->kind != PS_JSON_STRING)
        return bad(err, "a text is missing in a normalizer, pre_tokenizer or decoder");
    *out = ps_malloc(v->len + 1);
    if (!*out)
        return no_memory(err);
    memcpy(*out, v->s, v->len);
    (*out)[v->len] = 0;
    *len = v->len;
    return 0;
}

/* A string of exactly one character. */
static int get_char(const struct ps_json *o, const char *key, char out[4], unsigned *len,
                    struct ps_err *err)
{
    const struct ps_json *v = ps_json_get(o, key);
    if (!v || v->kind != PS_JSON_STRING || !v->len || (ps_utf8_decode(v->s, len), *len != v->len))
        return bad(err, "a text of one character is missing in a pre_tokenizer or decoder");
    memcpy(out, v->s, *len);
    return 0;
}

/* {"String": ...} or {"Regex": ...} */
static int get_pattern(const struct ps_json *o, struct ps_tok_pattern *out, struct ps_err *err)
{
    const struct ps_json *p = ps_json_get(o, "pattern"), *re = ps_json_get(p, "Regex");
    if (re && re->kind == PS_JSON_STRING)
        return ps_regex_new(&out->regex, re->s, re->len, err);
    int rc = get_text(p, "String", &out->literal, &out->literal_len, err);
    if (!rc && !out->literal_len)
        return unsupported(err, "pattern", "", "patterns that aren't empty");
    return rc;
}

/* Calls add for o itself, or for every member of its list if its type is Sequence. */
static int each(struct ps_tokenizer *t, const struct ps_json *o, const char *list, unsigned depth,
                int (*add)(struct ps_tokenizer *, const struct ps_json *, const char *,
                           struct ps_err *),
                struct ps_err *err)
{
    const char *type;
    int rc = type_of(o, &type, err);
    if (rc || strcmp(type, "Sequence") != 0)
        return rc ? rc : add(t, o, type, err);
    const struct ps_json *v = ps_json_get(o, list);
    if (!v || v->kind != PS_JSON_ARRAY || depth > 8)
        return bad(err, "a Sequence without its list");
    for (v = v->child; v && !rc; v = v->next)
        rc = each(t, v, list, depth + 1, add, err);
    return rc;
}

static int stage(size_t *n, struct ps_err *err)
{
    if (*n >= PS_TOK_STAGES)
        return bad(err, "too many stages in a Sequence");
    ++*n;
    return 0;
}

static int add_norm(struct ps_tokenizer *t, const struct ps_json *o, const char *type,
                    struct ps_err *err)
{
    static const char *const names[] = {"NFC",          "NFD",     "NFKC",     "NFKD",
                                        "Lowercase",    "Prepend", "Replace",  "Strip",
                                        "StripAccents", "Nmt",     "ByteLevel"};
    struct ps_tok_norm *d = &t->norm[t->n_norm < PS_TOK_STAGES ? t->n_norm : 0];
    size_t k = 0, n = sizeof names / sizeof *names;
    while (k < n && strcmp(type, names[k]) != 0)
        k++;
    if (k == n)
        return unsupported(
            err, "normalizer",
            type, "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents, Nmt, ByteLevel");
    int rc = stage(&t->n_norm, err);
    if (rc)
        return rc;
    d->kind = (enum ps_tok_norm_kind)k;
    if (d->kind == PS_NORM_PREPEND)
        return get_text(o, "prepend", &d->text, &d->text_len, err);
    if (d->kind == PS_NORM_STRIP) {
        rc = ps_json_get_bool(o, "strip_left", false, &d->left, err);
        return rc ? rc : ps_json_get_bool(o, "strip_right", false, &d->right, err);
    }
    if (d->kind == PS_NORM_REPLACE) {
        rc = get_pattern(o, &d->pattern, err);
        return rc ? rc : get_text(o, "content", &d->text, &d->text_len, err);
    }
    return 0;
}

static int get_behavior(const struct ps_json *o, const char *dflt, enum ps_tok_behavior *out,
                        struct ps_err *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *s;
    int rc = ps_json_get_string(o, "behavior", dflt, &s, err);
    for (unsigned i = 0; !rc && s && i < 5; i++)
        if (!strcmp(s, names[i])) {
            *out = (enum ps_tok_behavior)i;
            return 0;
        }
    return rc ? rc : bad(err, "unknown behavior of a pre_tokenizer");
}

static int config_metaspace(const struct ps_json *o, char rep[4], unsigned *rep_len,
                            enum ps_tok_scheme *scheme, bool *split, struct ps_err *err)
{
    const char *s;
    bool prefix = true;
    int rc = get_char(o, "replacement", rep, rep_len, err);
    if (!rc)
        rc = ps_json_get_string(o, "prepend_scheme", "always", &s, err);
    if (!rc)
        rc = ps_json_get_bool(o, "add_prefix_space", true, &prefix, err);
    if (!rc && split)
        rc = ps_json_get_bool(o, "split", true, split, err);
    if (rc)
        return rc;
    *scheme = !prefix || !strcmp(s, "never") ? PS_PREPEND_NEVER
              : !strcmp(s, "first")          ? PS_PREPEND_FIRST
                                             : PS_PREPEND_ALWAYS;
    if (strcmp(s, "never") != 0 && strcmp(s, "first") != 0 && strcmp(s, "always") != 0)
        return bad(err, "unknown prepend_scheme of Metaspace");
    return 0;
}

static int config_pre(struct ps_tok_pre *d, const struct ps_json *o, struct ps_err *err)
{
    int64_t length = 5;
    int rc;
    switch (d->kind) {
    case PS_PRE_BYTE_LEVEL:
        rc = ps_json_get_bool(o, "add_prefix_space", true, &d->add_prefix_space, err);
        if (!rc)
            rc = ps_json_get_bool(o, "use_regex", true, &d->use_regex, err);
        d->behavior = PS_SPLIT_ISOLATED;
        if (!rc && d->use_regex)
            rc = ps_regex_new(&d->pattern.regex, GPT2_PATTERN, sizeof GPT2_PATTERN - 1, err);
        return rc;
    case PS_PRE_SPLIT:
        rc = get_pattern(o, &d->pattern, err);
        if (!rc)
            rc = get_behavior(o, NULL, &d->behavior, err);
        return rc ? rc : ps_json_get_bool(o, "invert", false, &d->invert, err);
    case PS_PRE_METASPACE:
        return config_metaspace(o, d->rep, &d->rep_len, &d->scheme, &d->split, err);
    case PS_PRE_DIGITS: return ps_json_get_bool(o, "individual_digits", false, &d->individual, err);
    case PS_PRE_PUNCTUATION: return get_behavior(o, "Isolated", &d->behavior, err);
    case PS_PRE_DELIMITER: return get_char(o, "delimiter", d->rep, &d->rep_len, err);
    case PS_PRE_FIXED_LENGTH:
        rc = ps_json_get_int(o, "length", 5, &length, err);
        d->length = (uint32_t)length;
        return rc                                 ? rc
               : length < 1 || length > INT32_MAX ? bad(err, "bad length of FixedLength")
                                                  : 0;
    default: return 0;
    }
}

static int add_pre(struct ps_tokenizer *t, const struct ps_json *o, const char *type,
                   struct ps_err *err)
{
    static const char *const names[] = {"ByteLevel",          "Split",
                                        "Metaspace",          "Digits",
                                        "Punctuation",        "Whitespace",
                                        "WhitespaceSplit",    "BertPreTokenizer",
                                        "CharDelimiterSplit", "FixedLength"};
    size_t k = 0, n = sizeof names / sizeof *names;
    if (!strcmp(type, "Delimiter"))
        type = "CharDelimiterSplit";
    while (k < n && strcmp(type, names[k]) != 0)
        k++;
    if (k == n)
        return unsupported(
            err, "pre_tokenizer", type,
            "ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit, "
            "BertPreTokenizer, CharDelimiterSplit, FixedLength");
    struct ps_tok_pre *d = &t->pre[t->n_pre < PS_TOK_STAGES ? t->n_pre : 0];
    int rc = stage(&t->n_pre, err);
    if (rc)
        return rc;
    d->kind = (enum ps_tok_pre_kind)k;
    return config_pre(d, o, err);
}

static int config_dec(struct ps_tok_dec *d, const struct ps_json *o, struct ps_err *err)
{
    int64_t start = 0, stop = 0;
    enum ps_tok_scheme scheme;
    int rc;
    switch (d->kind) {
    case PS_DEC_REPLACE:
        rc = get_pattern(o, &d->pattern, err);
        return rc ? rc : get_text(o, "content", &d->text, &d->text_len, err);
    case PS_DEC_STRIP:
        rc = get_char(o, "content", d->ch, &d->ch_len, err);
        if (!rc)
            rc = ps_json_get_int(o, "start", 0, &start, err);
        if (!rc)
            rc = ps_json_get_int(o, "stop", 0, &stop, err);
        if (!rc && (start < 0 || start > 65536 || stop < 0 || stop > 65536))
            return bad(err, "bad counts of the decoder Strip");
        d->start = (uint32_t)start;
        d->stop = (uint32_t)stop;
        return rc;
    case PS_DEC_METASPACE:
        rc = config_metaspace(o, d->ch, &d->ch_len, &scheme, NULL, err);
        d->prepend = !rc && scheme != PS_PREPEND_NEVER;
        return rc;
    case PS_DEC_BPE: return get_text(o, "suffix", &d->text, &d->text_len, err);
    default: return 0;
    }
}

static int add_dec(struct ps_tokenizer *t, const struct ps_json *o, const char *type,
                   struct ps_err *err)
{
    static const char *const names[] = {"ByteLevel", "ByteFallback", "Fuse",      "Replace",
                                        "Strip",     "Metaspace",    "BPEDecoder"};
    size_t k = 0, n = sizeof names / sizeof *names;
    while (k < n && strcmp(type, names[k]) != 0)
        k++;
    if (k == n)
        return unsupported(err, "decoder", type,
                           "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, BPEDecoder");
    struct ps_tok_dec *d = &t->dec[t->n_dec < PS_TOK_STAGES ? t->n_dec : 0];
    int rc = stage(&t->n_dec, err);
    if (rc)
        return rc;
    d->kind = (enum ps_tok_dec_kind)k;
    return config_dec(d, o, err);
}

/* ---- post-processor: ids before and after the text ---- */

static int push_id(uint32_t **v, size_t *n, int64_t id, struct ps_err *err)
{
    if (id < 0 || id >= PS_TOK_VOCAB_MAX || *n >= 1024)
        return bad(err, "an id of a special token is out of range (tokenizer.json, config.json or "
                        "generation_config.json)");
    uint32_t *m = ps_realloc_array(*v, *n + 1, sizeof *m);
    if (!m)
        return no_memory(err);
    m[(*n)++] = (uint32_t)id;
    *v = m;
    return 0;
}

static int template_token(struct ps_tokenizer *t, const struct ps_json *o,
                          const struct ps_json *special, bool after, struct ps_err *err)
{
    const char *name = NULL;
    int rc = ps_json_get_string(special, "id", NULL, &name, err);
    const struct ps_json *ids = NULL;
    if (!rc && name)
        ids = ps_json_get(ps_json_get(ps_json_get(o, "special_tokens"), name), "ids");
    if (rc || !ids || ids->kind != PS_JSON_ARRAY)
        return rc ? rc : bad(err, "a token of TemplateProcessing without ids");
    for (const struct ps_json *v = ids->child; v && !rc; v = v->next)
        rc = v->kind != PS_JSON_INT ? bad(err, "a token id of TemplateProcessing is no number")
             : after                ? push_id(&t->after, &t->n_after, v->integer, err)
                                    : push_id(&t->before, &t->n_before, v->integer, err);
    return rc;
}

static int add_template(struct ps_tokenizer *t, const struct ps_json *o, struct ps_err *err)
{
    const struct ps_json *single = ps_json_get(o, "single");
    bool seen = false;
    int rc = 0;
    if (!single || single->kind != PS_JSON_ARRAY)
        return bad(err, "TemplateProcessing without single");
    for (const struct ps_json *v = single->child; v && !rc; v = v->next) {
        const struct ps_json *special = ps_json_get(v, "SpecialToken"),
                             *seq = ps_json_get(v, "Sequence");
        const char *id = NULL;
        if (special) {
            rc = template_token(t, o, special, seen, err);
            continue;
        }
        rc = ps_json_get_string(seq, "id", NULL, &id, err);
        if (!rc && (seen || !id || strcmp(id, "A") != 0))
            return unsupported(err, "post_processor template", id ? id : "",
                               "templates with one sequence A");
        seen = true;
    }
    return !rc && !seen
               ? unsupported(err, "post_processor template", "", "templates with one sequence A")
               : rc;
}

/* ["<s>", 0] */
static int pair_id(const struct ps_json *o, const char *key, int64_t *id, struct ps_err *err)
{
    const struct ps_json *v = ps_json_get(o, key);
    if (!v || v->kind != PS_JSON_ARRAY || v->n_children != 2 || v->child->next->kind != PS_JSON_INT)
        return bad(err, "cls or sep of the post_processor is no [text, id]");
    *id = v->child->next->integer;
    return 0;
}

static int add_post(struct ps_tokenizer *t, const struct ps_json *o, const char *type,
                    struct ps_err *err)
{
    int64_t cls, sep;
    int rc;
    if (!strcmp(type, "ByteLevel"))
        return 0; /* it only trims offsets */
    bool template = !strcmp(type, "TemplateProcessing");
    if (!template && strcmp(type, "RobertaProcessing") != 0 && strcmp(type, "BertProcessing") != 0)
        return unsupported(err, "post_processor", type,
                           "TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing");
    if (t->n_before || t->n_after)
        return unsupported(err, "post_processor", "Sequence",
                           "sequences in which one member adds tokens");
    if (template)
        return add_template(t, o, err);
    rc = pair_id(o, "cls", &cls, err);
    if (!rc)
        rc = pair_id(o, "sep", &sep, err);
    if (!rc)
        rc = push_id(&t->before, &t->n_before, cls, err);
    return rc ? rc : push_id(&t->after, &t->n_after, sep, err);
}

int ps_tok_config_part(struct ps_tokenizer *t, const char *key, const struct ps_json *tree,
                       struct ps_err *err)
{
    if (!strcmp(key, "normalizer"))
        return each(t, tree, "normalizers", 0, add_norm, err);
    if (!strcmp(key, "pre_tokenizer"))
        return each(t, tree, "pretokenizers", 0, add_pre, err);
    if (!strcmp(key, "decoder")) {
        t->has_decoder = true;
        return each(t, tree, "decoders", 0, add_dec, err);
    }
    t->has_post = true;
    return each(t, tree, "processors", 0, add_post, err);
}

/* ---- configuration files ---- */

static int parse_file(struct ps_json **out, const char *text, size_t len, const char *name,
                      struct ps_err *err)
{
    const struct ps_json_limits limits = {.max_bytes = FILE_MAX};
    *out = NULL;
    if (!text || !len)
        return 0;
    int rc = ps_json_parse(out, text, len, &limits, err);
    if (rc)
        ps_err_prefix(err, "%s", name);
    return rc;
}

/* The text of "bos_token": a string, or an object with content. */
static uint32_t token_member(const struct ps_tokenizer *t, const struct ps_json *o, const char *key)
{
    const struct ps_json *v = ps_json_get(o, key);
    if (v && v->kind == PS_JSON_OBJECT)
        v = ps_json_get(v, "content");
    return v && v->kind == PS_JSON_STRING ? ps_tok_find(t, v->s, v->len) : PS_TOK_NONE;
}

static int64_t id_member(const struct ps_json *o, const char *key)
{
    const struct ps_json *v = ps_json_get(o, key);
    if (v && v->kind == PS_JSON_ARRAY)
        v = v->child;
    return v && v->kind == PS_JSON_INT && v->integer >= 0 && v->integer < PS_TOK_VOCAB_MAX
               ? v->integer
               : -1;
}

/* Numbers of eos_token_id, one or a list; 0 found, 1 none. */
static int eos_ids(struct ps_tokenizer *t, const struct ps_json *o, struct ps_err *err)
{
    const struct ps_json *v = ps_json_get(o, "eos_token_id");
    int rc = 0;
    bool list = v && v->kind == PS_JSON_ARRAY;
    for (v = list ? v->child : v; v && !rc; v = list ? v->next : NULL)
        if (v->kind == PS_JSON_INT && v->integer >= 0) /* -1 stands for none in some files */
            rc = push_id(&t->eos, &t->n_eos, v->integer, err);
    return rc ? rc : t->n_eos ? 0 : 1;
}

enum { F_TOKENIZER_CONFIG, F_GENERATION, F_SPECIAL_MAP, F_CONFIG, F_COUNT };

/* generation_config.json decides, as in generate(); then config.json (its text part too), then
 * the tokenizer's own. */
static int find_eos(struct ps_tokenizer *t, struct ps_json *const f[F_COUNT], struct ps_err *err)
{
    const struct ps_json *const order[] = {f[F_GENERATION], f[F_CONFIG],
                                           ps_json_get(f[F_CONFIG], "text_config")};
    for (unsigned i = 0; i < 3; i++) {
        int rc = eos_ids(t, order[i], err);
        if (rc <= 0)
            return rc;
    }
    uint32_t id = token_member(t, f[F_TOKENIZER_CONFIG], "eos_token");
    if (id == PS_TOK_NONE)
        id = token_member(t, f[F_SPECIAL_MAP], "eos_token");
    return id == PS_TOK_NONE ? 0 : push_id(&t->eos, &t->n_eos, id, err);
}

static void find_bos(struct ps_tokenizer *t, struct ps_json *const f[F_COUNT])
{
    uint32_t id = token_member(t, f[F_TOKENIZER_CONFIG], "bos_token");
    if (id == PS_TOK_NONE)
        id = token_member(t, f[F_SPECIAL_MAP], "bos_token");
    t->bos = id != PS_TOK_NONE ? (int64_t)id : t->n_before ? (int64_t)t->before[0] : -1;
    if (t->bos < 0)
        t->bos = id_member(f[F_GENERATION], "bos_token_id");
    if (t->bos < 0)
        t->bos = id_member(f[F_CONFIG], "bos_token_id");
}

/* Without a post-processor, add_bos_token and add_eos_token of the configuration say what is
 * added. With one, they don't: DeepSeek-V3 says add_bos_token and has a ByteLevel
 * post-processor, and the library adds nothing. */
static int add_tokens(struct ps_tokenizer *t, const struct ps_json *config, struct ps_err *err)
{
    bool bos = false, eos = false;
    int rc = 0;
    if (t->has_post || !config)
        return 0;
    const struct ps_json *b = ps_json_get(config, "add_bos_token"),
                         *e = ps_json_get(config, "add_eos_token");
    bos = b && b->kind == PS_JSON_BOOL && b->boolean;
    eos = e && e->kind == PS_JSON_BOOL && e->boolean;
    uint32_t eos_id = token_member(t, config, "eos_token");
    if (bos && t->bos >= 0)
        rc = push_id(&t->before, &t->n_before, t->bos, err);
    if (!rc && eos && eos_id != PS_TOK_NONE)
        rc = push_id(&t->after, &t->n_after, eos_id, err);
    return rc;
}

int ps_tok_config_files(struct ps_tokenizer *t, const struct ps_tokenizer_files *in,
                        struct ps_err *err)
{
    struct ps_json *f[F_COUNT] = {NULL};
    int rc = parse_file(&f[0], in->tokenizer_config, in->tokenizer_config_len,
                        "tokenizer_config.json", err);
    if (!rc)
        rc = parse_file(&f[1], in->generation_config, in->generation_config_len,
                        "generation_config.json", err);
    if (!rc)
        rc = parse_file(&f[2], in->special_tokens_map, in->special_tokens_map_len,
                        "special_tokens_map.json", err);
    if (!rc)
        rc = parse_file(&f[3], in->config, in->config_len, "config.json", err);
    if (!rc)
        rc = find_eos(t, f, err);
    if (!rc) {
        find_bos(t, f);
        rc = add_tokens(t, f[F_TOKENIZER_CONFIG], err);
    }
    for (unsigned i = 0; i < F_COUNT; i++)
        ps_json_free(f[i]);
    return rc;
}
