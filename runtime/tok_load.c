/* tokenizer.json in, a filled tokenizer out. The file is read as a stream: vocabulary, merges
 * and added tokens go straight into their tables; the small parts (normalizer, pre_tokenizer,
 * post_processor, decoder) are written out again, each into a buffer of its own, and parsed as
 * trees by tok_config.c once the stream has ended. */
#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "base/log.h"
#include "runtime/tok_internal.h"

#define PART_MAX       (4u << 20) /* bytes of one small part */
#define PART_DEPTH     24u        /* its nesting; the writer holds 32 levels */
#define ADDED_TEXT_MAX (64u << 20)
#define ADDED_LEN_MAX                                                                              \
    65536u /* one added token: matching costs its length at every place where it could begin */

static const char *const part_names[] = {"normalizer", "pre_tokenizer", "post_processor", "decoder"};
enum { PARTS = 4 };

enum section { IN_NOTHING, IN_MODEL, IN_ADDED, IN_PART };
enum field {
    FIELD_OTHER,
    FIELD_TYPE,
    FIELD_VOCAB,
    FIELD_MERGES,
    FIELD_DROPOUT,
    FIELD_TEXT,
    FIELD_FLAG
};

struct loader {
    struct ps_tokenizer *t;
    bool merges_only; /* second pass: they came before what they need */
    enum section section;
    struct ps_strbuf part[PARTS];
    struct ps_json_writer writer;
    /* model */
    enum field field;
    char **text_to;
    bool *flag_to;
    bool has_model, has_type, vocab_done, vocab_is_list, prefix_known, merges_late, has_merges;
    uint32_t rank;
    struct ps_strbuf name, left, joined; /* a vocabulary key; a merge's first half; a merge's result */
    bool have_left;
    unsigned n_parts; /* strings in a merge given as an array */
    /* added tokens */
    struct ps_tok_added one;
    int64_t one_id;
    char one_key[16];
    bool one_has_content, one_normalized_set;
};

static int bad(struct ps_err *err, const char *what)
{
    return ps_err_set(err, PS_EDATA, "tokenizer", "tokenizer.json: %s: fetch the model again", what);
}

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, "tokenizer",
                      "tokenizer.json: not enough memory: give more with --ram");
}

static bool is(const struct ps_json_event *ev, const char *word)
{
    return ev->len == strlen(word) && !memcmp(ev->s, word, ev->len);
}

/* ---- small parts, copied ---- */

static int copy_event(struct loader *l, const struct ps_json_event *ev, struct ps_err *err)
{
    struct ps_json_writer *w = &l->writer;
    if (ev->depth > PART_DEPTH)
        return bad(err, "nested too deeply");
    switch (ev->kind) {
    case PS_JSON_NULL: ps_jw_null(w); break;
    case PS_JSON_BOOL: ps_jw_bool(w, ev->boolean); break;
    case PS_JSON_INT: ps_jw_int(w, ev->integer); break;
    case PS_JSON_DOUBLE: ps_jw_double(w, ev->number); break;
    case PS_JSON_STRING: ps_jw_string(w, ev->s, ev->len); break;
    case PS_JSON_OBJECT: ps_jw_object(w); break;
    case PS_JSON_OBJECT_END: ps_jw_object_end(w); break;
    case PS_JSON_ARRAY: ps_jw_array(w); break;
    case PS_JSON_ARRAY_END: ps_jw_array_end(w); break;
    case PS_JSON_KEY: {
        char key[512]; /* the longest are names of special tokens */
        if (ev->len >= sizeof key)
            return bad(err, "a name over 511 bytes");
        snprintf(key, sizeof key, "%.*s", (int)ev->len, ev->s);
        ps_jw_key(w, key);
        break;
    }
    }
    if (!ps_strbuf_ok(w->b)) {
        if (w->b->len + 6 * ev->len + 16 <
            PART_MAX) /* what the longest escape could have needed was there */
            return no_memory(err);
        return bad(err, "normalizer, pre_tokenizer, post_processor or decoder over 4 MiB");
    }
    return 0;
}

/* ---- model ---- */

static int unsupported_model(const char *kind, size_t len, struct ps_err *err)
{
    return ps_err_set(
        err, PS_EUNSUPPORTED,
        "tokenizer", "tokenizer.json: model kind '%.*s' is not supported: BPE is (byte-level or SentencePiece-style)",
        (int)(len > 40 ? 40 : len), kind);
}

/* A key of the model object: where its value goes. */
static void model_key(struct loader *l, const struct ps_json_event *ev)
{
    struct ps_tok_bpe *m = &l->t->bpe;
    const struct {
        const char *name;
        char **text;
        bool *flag;
    } keys[] = {
        {"unk_token", &m->unk_token, NULL},         {"continuing_subword_prefix", &m->prefix, NULL},
        {"end_of_word_suffix", &m->suffix, NULL},   {"fuse_unk", NULL, &m->fuse_unk},
        {"byte_fallback", NULL, &m->byte_fallback}, {"ignore_merges", NULL, &m->ignore_merges},
    };
    l->field = is(ev, "type")      ? FIELD_TYPE
               : is(ev, "vocab")   ? FIELD_VOCAB
               : is(ev, "merges")  ? FIELD_MERGES
               : is(ev, "dropout") ? FIELD_DROPOUT
                                   : FIELD_OTHER;
    if (l->field == FIELD_MERGES && !l->merges_only)
        l->merges_late = !l->vocab_done || !l->prefix_known;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (is(ev, keys[i].name)) {
            l->text_to = keys[i].text;
            l->flag_to = keys[i].flag;
            l->field = keys[i].text ? FIELD_TEXT : FIELD_FLAG;
            l->prefix_known |= i == 1;
        }
}

/* A value directly inside the model object. */
static int model_value(struct loader *l, const struct ps_json_event *ev, struct ps_err *err)
{
    bool null = ev->kind == PS_JSON_NULL;
    switch (l->field) {
    case FIELD_TYPE:
        if (ev->kind != PS_JSON_STRING)
            return bad(err, "model type is no string");
        l->has_type = true;
        return is(ev, "BPE") ? 0 : unsupported_model(ev->s, ev->len, err);
    case FIELD_VOCAB:
        l->vocab_is_list = ev->kind == PS_JSON_ARRAY;
        if (ev->kind != PS_JSON_OBJECT && ev->kind != PS_JSON_ARRAY)
            return bad(err, "vocab is no object");
        return 0;
    case FIELD_MERGES:
        if (ev->kind != PS_JSON_ARRAY)
            return bad(err, "merges is no array");
        l->has_merges = true;
        return 0;
    case FIELD_DROPOUT:
        if (null || ((ev->kind == PS_JSON_INT || ev->kind == PS_JSON_DOUBLE) && ev->number == 0))
            return 0;
        return ps_err_set(
            err, PS_EUNSUPPORTED,
            "tokenizer", "tokenizer.json: model dropout is not supported (it makes tokens random): set it to null");
    case FIELD_TEXT:
        if (null || (ev->kind == PS_JSON_STRING && ev->len == 0))
            return 0;
        if (ev->kind != PS_JSON_STRING || memchr(ev->s, 0, ev->len))
            return bad(err, "a text of the model is no string");
        *l->text_to = ps_strndup(ev->s, ev->len);
        return *l->text_to ? 0 : no_memory(err);
    case FIELD_FLAG:
        if (!null && ev->kind != PS_JSON_BOOL)
            return bad(err, "a flag of the model is no boolean");
        *l->flag_to = !null && ev->boolean;
        return 0;
    default: return 0;
    }
}

static int vocab_event(struct loader *l, const struct ps_json_event *ev, struct ps_err *err)
{
    if (l->vocab_is_list)
        return 0;
    if (ev->kind == PS_JSON_KEY) {
        ps_strbuf_reset(&l->name);
        ps_strbuf_append(&l->name, ev->s, ev->len);
        return ps_strbuf_ok(&l->name) ? 0 : no_memory(err);
    }
    if (ev->kind != PS_JSON_INT || ev->integer < 0 || ev->integer >= PS_TOK_VOCAB_MAX)
        return bad(err, "a token id in vocab is no number below 4194303");
    return ps_tok_vocab_add(&l->t->bpe.vocab, l->name.data, l->name.len, (uint32_t)ev->integer, err);
}

static int add_merge(struct loader *l, const char *a, size_t a_len, const char *b, size_t b_len,
                     struct ps_err *err)
{
    struct ps_tok_bpe *m = &l->t->bpe;
    size_t skip = m->prefix ? strlen(m->prefix) : 0;
    uint32_t left = ps_tok_vocab_find(&m->vocab, a, a_len),
             right = ps_tok_vocab_find(&m->vocab, b, b_len);
    ps_strbuf_reset(&l->joined);
    ps_strbuf_append(&l->joined, a, a_len);
    if (b_len >= skip)
        ps_strbuf_append(&l->joined, b + skip, b_len - skip);
    if (!ps_strbuf_ok(&l->joined))
        return no_memory(err);
    uint32_t id =
        b_len < skip ? PS_TOK_NONE : ps_tok_vocab_find(&m->vocab, l->joined.data, l->joined.len);
    if (left == PS_TOK_NONE || right == PS_TOK_NONE || id == PS_TOK_NONE)
        return ps_err_set(
            err, PS_EDATA,
            "tokenizer", "tokenizer.json: merge %u uses a token that is not in the vocabulary: fetch the model again",
            l->rank);
    return ps_tok_merges_add(&m->merges, left, right, l->rank++, id, err);
}

/* "a b" as one string. */
static int merge_line(struct loader *l, const struct ps_json_event *ev, struct ps_err *err)
{
    if (ev->len >= 8 && !memcmp(ev->s, "#version", 8))
        return 0;
    const char *space = memchr(ev->s, ' ', ev->len);
    size_t a = space ? (size_t)(space - ev->s) : 0;
    if (!space || memchr(space + 1, ' ', ev->len - a - 1))
        return bad(err, "a merge is not two tokens with a space between");
    return add_merge(l, ev->s, a, space + 1, ev->len - a - 1, err);
}

static int merges_event(struct loader *l, const struct ps_json_event *ev, struct ps_err *err)
{
    if (l->merges_late && !l->merges_only)
        return 0;
    if (ev->depth == 3 && ev->kind == PS_JSON_STRING)
        return merge_line(l, ev, err);
    if (ev->depth == 3 && ev->kind == PS_JSON_ARRAY) {
        l->n_parts = 0;
        return 0;
    }
    if (ev->depth == 3 && ev->kind == PS_JSON_ARRAY_END)
        return l->n_parts == 2 ? 0 : bad(err, "a merge is not two tokens");
    if (ev->depth != 4 || ev->kind != PS_JSON_STRING)
        return bad(err, "a merge is neither a string nor two strings");
    if (++l->n_parts == 2)
        return add_merge(l, l->left.data, l->left.len, ev->s, ev->len, err);
    ps_strbuf_reset(&l->left);
    ps_strbuf_append(&l->left, ev->s, ev->len);
    return ps_strbuf_ok(&l->left) ? 0 : no_memory(err);
}

static int model_event(struct loader *l, const struct ps_json_event *ev, struct ps_err *err)
{
    if (ev->depth == 1) {
        if (ev->kind == PS_JSON_KEY)
            model_key(l, ev);
        else if (ev->kind != PS_JSON_OBJECT && ev->kind != PS_JSON_OBJECT_END)
            return bad(err, "model is no object");
        return 0;
    }
    bool closes = ev->kind == PS_JSON_OBJECT_END || ev->kind == PS_JSON_ARRAY_END;
    if (ev->depth == 2 && closes) {
        l->vocab_done |= l->field == FIELD_VOCAB;
        return 0;
    }
    if (l->merges_only)
        return l->field == FIELD_MERGES && ev->depth > 2 ? merges_event(l, ev, err) : 0;
    if (ev->depth == 2 && ev->kind != PS_JSON_KEY)
        return model_value(l, ev, err);
    if (l->field == FIELD_VOCAB)
        return vocab_event(l, ev, err);
    return l->field == FIELD_MERGES ? merges_event(l, ev, err) : 0;
}

/* ---- added tokens ---- */

static int added_field(struct loader *l, const struct ps_json_event *ev, struct ps_err *err)
{
    struct ps_tok_added *o = &l->one;
    struct ps_strbuf *arena = &l->t->added.arena;
    const char *k = l->one_key;
    if (!strcmp(k, "id")) {
        if (ev->kind != PS_JSON_INT || ev->integer < 0 || ev->integer >= PS_TOK_VOCAB_MAX)
            return bad(err, "the id of an added token is no number below 4194303");
        l->one_id = ev->integer;
        return 0;
    }
    if (!strcmp(k, "content")) {
        if (ev->kind != PS_JSON_STRING || ev->len > ADDED_LEN_MAX)
            return bad(err, "the content of an added token is no string, or over 65536 bytes");
        o->off = (uint32_t)arena->len;
        o->len = (uint32_t)ev->len;
        l->one_has_content = true;
        ps_strbuf_append(arena, ev->s, ev->len);
        return ps_strbuf_ok(arena) ? 0 : no_memory(err);
    }
    bool *flag = !strcmp(k, "single_word")  ? &o->single_word
                 : !strcmp(k, "lstrip")     ? &o->lstrip
                 : !strcmp(k, "rstrip")     ? &o->rstrip
                 : !strcmp(k, "normalized") ? &o->normalized
                 : !strcmp(k, "special")    ? &o->special
                                            : NULL;
    if (!flag)
        return 0;
    if (ev->kind != PS_JSON_BOOL)
        return bad(err, "a flag of an added token is no boolean");
    *flag = ev->boolean;
    l->one_normalized_set |= flag == &o->normalized;
    return 0;
}

static int added_end(struct loader *l, struct ps_err *err)
{
    struct ps_tok_added_set *a = &l->t->added;
    if (!l->one_has_content || l->one_id < 0)
        return bad(err, "an added token without id or content");
    if (!l->one.len)
        return 0;
    if (!l->one_normalized_set)
        l->one.normalized = !l->one.special;
    l->one.id = (uint32_t)l->one_id;
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 32;
        void *v = cap > PS_TOK_VOCAB_MAX ? NULL : ps_realloc_array(a->v, cap, sizeof *a->v);
        if (!v)
            return cap > PS_TOK_VOCAB_MAX ? bad(err, "too many added tokens") : no_memory(err);
        a->v = v;
        a->cap = cap;
    }
    a->v[a->n++] = l->one;
    return 0;
}

static int added_event(struct loader *l, const struct ps_json_event *ev, struct ps_err *err)
{
    if (ev->depth == 1)
        return ev->kind == PS_JSON_ARRAY || ev->kind == PS_JSON_ARRAY_END
                   ? 0
                   : bad(err, "added_tokens is no array");
    if (ev->depth == 2) {
        switch (ev->kind) {
        case PS_JSON_OBJECT:
            l->one = (struct ps_tok_added){0};
            l->one_id = -1;
            l->one_has_content = l->one_normalized_set = false;
            return 0;
        case PS_JSON_OBJECT_END: return added_end(l, err);
        case PS_JSON_KEY:
            snprintf(l->one_key, sizeof l->one_key, "%.*s", (int)(ev->len > 15 ? 15 : ev->len),
                     ev->s);
            return 0;
        default: return bad(err, "an added token is no object");
        }
    }
    return ev->depth == 3 ? added_field(l, ev, err) : 0;
}

/* ---- the whole file ---- */

static void top_key(struct loader *l, const struct ps_json_event *ev)
{
    l->section = is(ev, "model")                             ? IN_MODEL
                 : is(ev, "added_tokens") && !l->merges_only ? IN_ADDED
                                                             : IN_NOTHING;
    l->has_model |= l->section == IN_MODEL;
    for (unsigned i = 0; i < PARTS && !l->merges_only; i++)
        if (is(ev, part_names[i])) {
            l->section = IN_PART;
            ps_jw_init(&l->writer, &l->part[i]);
        }
}

static int on_event(void *user, const struct ps_json_event *ev, struct ps_err *err)
{
    struct loader *l = user;
    if (ev->depth == 0) {
        if (ev->kind == PS_JSON_KEY)
            top_key(l, ev);
        else if (ev->kind != PS_JSON_OBJECT && ev->kind != PS_JSON_OBJECT_END)
            return bad(err, "no object");
        return 0;
    }
    switch (l->section) {
    case IN_MODEL: return model_event(l, ev, err);
    case IN_ADDED: return added_event(l, ev, err);
    case IN_PART: return copy_event(l, ev, err);
    default: return 0;
    }
}

static int check_model(const struct loader *l, struct ps_err *err)
{
    if (!l->has_model)
        return bad(err, "no model");
    if (l->vocab_is_list)
        return unsupported_model("Unigram", 7, err);
    if (!l->vocab_done)
        return bad(err, "no vocab");
    if (!l->has_merges)
        return l->has_type ? bad(err, "no merges")
                           : unsupported_model("WordPiece or WordLevel", 22, err);
    return 0;
}

static int parse_parts(struct loader *l, struct ps_err *err)
{
    for (unsigned i = 0; i < PARTS; i++) {
        if (!l->part[i].len)
            continue;
        struct ps_json *tree = NULL;
        int rc = ps_json_parse(&tree, l->part[i].data, l->part[i].len, NULL, err);
        if (!rc && tree->kind != PS_JSON_NULL)
            rc = ps_tok_config_part(l->t, part_names[i], tree, err);
        ps_json_free(tree);
        if (rc)
            return rc;
    }
    return 0;
}

/* What an added token that is looked for in normalized text looks like there. */
static int normalize_added(struct ps_tokenizer *t, struct ps_tok_added *o, struct ps_tok_work *w,
                           struct ps_err *err)
{
    bool at_zero = true;
    struct ps_strbuf *arena = &t->added.arena;
    o->norm_off = o->off;
    o->norm_len = o->len;
    if (!o->normalized || !t->n_norm)
        return 0;
    int rc = ps_tok_normalize(t->norm, t->n_norm, arena->data + o->off, o->len, &w->text, &w->tmp,
                              &w->run, &at_zero, err);
    if (rc)
        return rc;
    if (w->text.len == o->len && !memcmp(w->text.data, arena->data + o->off, o->len))
        return 0;
    o->norm_off = (uint32_t)arena->len;
    o->norm_len = (uint32_t)w->text.len;
    ps_strbuf_append(arena, w->text.data, w->text.len);
    return ps_strbuf_ok(arena) ? 0 : no_memory(err);
}

/* Gives every added token its id as the library does: that of its text in the vocabulary, else
 * the next free number. The number in the file is only a claim. */
static int settle_added(struct ps_tokenizer *t, struct ps_tok_work *w, struct ps_err *err)
{
    struct ps_tok_vocab seen = {0}; /* text -> index of its last entry */
    struct ps_tok_added_set *a = &t->added;
    uint32_t next = t->bpe.vocab.n_tokens;
    int rc = 0;
    for (uint32_t i = 0; i < a->n && !rc; i++) {
        struct ps_tok_added *o = &a->v[i];
        const char *s = a->arena.data + o->off;
        uint32_t before = ps_tok_vocab_find(&seen, s, o->len), claimed = o->id;
        uint32_t id =
            before != PS_TOK_NONE ? a->v[before].id : ps_tok_vocab_find(&t->bpe.vocab, s, o->len);
        o->id = id != PS_TOK_NONE ? id : next++;
        if (o->id != claimed)
            ps_log(PS_LOG_WARN, "tokenizer", "added token '%.*s' has id %u, not %u as its entry says",
                   (int)(o->len > 64 ? 64 : o->len), s, o->id, claimed);
        if (o->id >= PS_TOK_VOCAB_MAX)
            rc = bad(err, "too many added tokens");
        else if (before == PS_TOK_NONE)
            rc = ps_tok_vocab_add(&seen, s, o->len, i, err);
        if (!rc)
            rc = normalize_added(t, o, w, err);
    }
    ps_tok_vocab_deinit(&seen);
    return rc ? rc : ps_tok_added_prepare(a, err);
}

static bool cuts_words(const struct ps_tokenizer *t)
{
    for (size_t i = 0; i < t->n_pre; i++)
        if (t->pre[i].kind == PS_PRE_BYTE_LEVEL)
            return true;
    return false;
}

static int finish(struct loader *l, struct ps_err *err)
{
    struct ps_tok_work w = {0};
    ps_strbuf_init(&w.text, PS_TOK_TEXT_MAX);
    ps_strbuf_init(&w.tmp, PS_TOK_TEXT_MAX);
    ps_regex_run_init(&w.run, 10000000);
    int rc = check_model(l, err);
    if (!rc)
        rc = parse_parts(l, err);
    if (!rc)
        rc = settle_added(l->t, &w, err);
    if (!rc)
        rc = ps_tok_bpe_prepare(&l->t->bpe, !cuts_words(l->t), err);
    ps_strbuf_deinit(&w.text);
    ps_strbuf_deinit(&w.tmp);
    ps_regex_run_deinit(&w.run);
    return rc;
}

int ps_tok_load(struct ps_tokenizer *t, const char *json, size_t len, struct ps_err *err)
{
    struct loader l = {.t = t};
    const struct ps_json_limits limits = {.max_bytes = (size_t)512 << 20};
    struct ps_strbuf *const buffers[] = {&l.name, &l.left, &l.joined};
    for (unsigned i = 0; i < PARTS; i++)
        ps_strbuf_init(&l.part[i], PART_MAX);
    for (unsigned i = 0; i < 3; i++)
        ps_strbuf_init(buffers[i], PS_TOK_ARENA_MAX);
    ps_strbuf_init(&t->added.arena, ADDED_TEXT_MAX);
    int rc = ps_json_read(json, len, &limits, on_event, &l, err);
    if (!rc && l.merges_late && l.vocab_done) {
        l.merges_only = true;
        rc = ps_json_read(json, len, &limits, on_event, &l, err);
    }
    if (!rc)
        rc = finish(&l, err);
    ps_err_place(err, "tokenizer.json"); /* not even JSON */
    for (unsigned i = 0; i < PARTS; i++)
        ps_strbuf_deinit(&l.part[i]);
    for (unsigned i = 0; i < 3; i++)
        ps_strbuf_deinit(buffers[i]);
    return rc;
}
