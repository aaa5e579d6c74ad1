/* A plain folder of safetensors files. Comes in: config.json and a source. Goes out: a map made
 * from the files' headers, of which every byte range was checked, and a model id that changes when
 * any file does. */
#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/json.h"
#include "proto/layout_internal.h"
#include "proto/parallel.h"
#include "proto/safetensors.h"
#include "proto/text.h"
#include "proto/weight_map.h"

#define ORIGIN          "layout"
#define INDEX_NAME      "model.safetensors.index.json"
#define SINGLE_NAME     "model.safetensors"
#define INDEX_MAX_BYTES (64u << 20)
/* One request gets the whole header of nearly every file: 64 KiB hold some 500 tensors, a shard of
 * a large model has 3 to 100. Of a model in one file config.json tells how many layers to expect: 9 to 18
 * tensors each, at 100 to 130 bytes. What comes beyond the header comes again as weights: of a model of 7 MB
 * that is 1 % for each process that opens it. */
#define PROBE_MAX_BYTES   65536u
#define PROBE_BASE_BYTES  3072u
#define PROBE_LAYER_BYTES 2304u

struct file {
    const char *name; /* borrowed */
    struct ps_object_info info;
    struct ps_st_header *header;
    uint8_t header_sha256[PS_SHA256_BYTES];
};

/* What config.json says that matters here. */
struct told {
    enum { TYING_UNSAID, TIED, UNTIED } tying;
    size_t probe_bytes; /* expected of the header of a model in one file */
};

struct folder {
    struct ps_source *src;
    struct ps_weight_map *weights; /* NULL: one file, all of whose tensors count */
    struct file *files;
    uint32_t n_files;
    struct told told;
    /* Held while a header beyond the probe is in memory: one at a time, however many files lie. */
    pthread_mutex_t long_header;
};

/* ---- What config.json says ---- */

/* Experts and scales are tensors of their own: how many, nobody guesses here. */
static size_t expected_header(const struct ps_json *text)
{
    static const char *const many[] = {"quantization_config", "num_experts", "num_local_experts",
                                       "n_routed_experts"};
    int64_t layers = 0;
    for (size_t i = 0; i < sizeof many / sizeof many[0]; i++)
        if (ps_json_get(text, many[i]))
            return PROBE_MAX_BYTES;
    if (ps_json_get_int(text, "num_hidden_layers", 0, &layers, NULL) != 0 || layers <= 0 ||
        layers > PROBE_MAX_BYTES / PROBE_LAYER_BYTES)
        return PROBE_MAX_BYTES;
    const size_t bytes = PROBE_BASE_BYTES + (size_t)layers * PROBE_LAYER_BYTES;
    return bytes < PROBE_MAX_BYTES ? bytes : PROBE_MAX_BYTES;
}

static int read_config(struct told *out, const char *config, size_t len, struct ps_err *err)
{
    const struct ps_json_limits limits = {.python_words = true};
    struct ps_json *root;
    int rc = ps_json_parse(&root, config, len, &limits, err);
    if (rc != 0) {
        ps_err_prefix(err, "config.json");
        ps_err_advise(err, "fetch it again");
        return rc;
    }
    static const char key[] = "tie_word_embeddings";
    /* Models with a vision tower keep the text model's settings one level down. */
    const struct ps_json *inner = ps_json_get(root, "text_config");
    const struct ps_json *from = ps_json_get(root, key) ? root : inner;
    bool tied = false;
    rc = ps_json_get_bool(from, key, false, &tied, err);
    if (rc == 0) {
        out->tying = !ps_json_get(from, key) ? TYING_UNSAID : tied ? TIED : UNTIED;
        out->probe_bytes = inner ? PROBE_MAX_BYTES /* towers */ : expected_header(root);
    }
    ps_json_free(root);
    return rc;
}

/* ---- Headers ---- */

static int prefixed(const struct file *f, struct ps_err *err, int rc)
{
    if (rc != 0 && err && err->code != 0)
        ps_err_prefix(err, "%s", f->name);
    return rc;
}

static int parse_header(struct file *f, const uint8_t *bytes, size_t need, struct ps_err *err)
{
    int rc = ps_st_parse(&f->header, bytes, need, f->info.bytes, err);
    if (rc == 0)
        ps_sha256_once(bytes, need, f->header_sha256);
    return prefixed(f, err, rc);
}

/* The rest of a header that is longer than the probe; the ETag says that both halves are of one version. */
static int read_long_header(struct folder *d, struct file *f, const uint8_t *probe, size_t have,
                            size_t need, struct ps_err *err)
{
    uint8_t *bytes = ps_malloc(need);
    if (!bytes)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "%s: out of memory for a header of %zu bytes",
                          f->name, need);
    memcpy(bytes, probe, have);
    struct ps_range r = {.object = f->name,
                         .offset = have,
                         .bytes = need - have,
                         .buf = bytes + have,
                         .etag = f->info.etag[0] ? f->info.etag : NULL,
                         .object_bytes = f->info.bytes};
    int rc = ps_source_read_range(d->src, &r, err);
    if (rc == 0)
        rc = parse_header(f, bytes, need, err);
    ps_free(bytes);
    return rc;
}

static int probe_header(struct folder *d, struct file *f, uint8_t *probe, size_t probe_bytes,
                        const atomic_bool *withdrawn, struct ps_err *err)
{
    const struct ps_terms terms = {.withdrawn = withdrawn};
    size_t have = 0;
    uint64_t need;
    int rc = d->src->ops->head(d->src, f->name, &terms, probe, probe_bytes, &have, &f->info, err);
    if (rc != 0)
        return rc;
    rc = ps_st_header_bytes(&need, probe, have, f->info.bytes, err);
    if (rc != 0 && ps_text_is_markup((const char *)probe, have))
        return ps_err_set(err, PS_ENOTFOUND, ORIGIN,
                          "%s: the server answered with a web page instead", f->name);
    if (rc != 0)
        return prefixed(f, err, rc);
    if (need <= have)
        return parse_header(f, probe, (size_t)need, err);
    if (have < probe_bytes && f->info.bytes != 0 && f->info.bytes > have)
        return ps_err_set(err, PS_EDATA, ORIGIN, "%s: the first bytes came short", f->name);
    pthread_mutex_lock(&d->long_header);
    rc = read_long_header(d, f, probe, have, (size_t)need, err);
    pthread_mutex_unlock(&d->long_header);
    return rc;
}

static int read_header(void *user, uint32_t i, struct ps_err *err)
{
    struct folder *d = user;
    uint8_t *probe = ps_malloc(PROBE_MAX_BYTES);
    if (!probe)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for headers");
    int rc = probe_header(d, &d->files[i], probe, PROBE_MAX_BYTES, NULL, err);
    ps_free(probe);
    return rc;
}

/* ---- Which files ---- */

static int name_files(struct folder *d, struct ps_err *err)
{
    d->n_files = d->weights ? d->weights->n_files : 1;
    d->files = ps_calloc(d->n_files, sizeof *d->files);
    if (!d->files)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for %u files", d->n_files);
    for (uint32_t i = 0; i < d->n_files; i++)
        d->files[i].name = d->weights ? d->weights->files[i] : SINGLE_NAME;
    return 0;
}

struct first_look {
    struct folder *d;
    struct ps_fetched index;
    struct file single;
    atomic_bool no_single; /* it is not needed any more */
    int single_rc;
    struct ps_err single_err;
};

/* Index and single file are asked for at the same time: whichever is missing costs no round trip. */
static int look(void *user, uint32_t i, struct ps_err *err)
{
    struct first_look *l = user;
    (void)err; /* either may be missing */
    if (i == 0) {
        ps_fetch(&l->index, l->d->src, INDEX_NAME, INDEX_MAX_BYTES, NULL);
        if (!ps_fetched_is_missing(&l->index)) /* it decides, whatever comes of the other */
            atomic_store(&l->no_single, true);
        return 0;
    }
    uint8_t *probe = ps_malloc(PROBE_MAX_BYTES);
    l->single_rc = probe
                       ? probe_header(l->d, &l->single, probe, l->d->told.probe_bytes,
                                      &l->no_single, &l->single_err)
                       : ps_err_set(&l->single_err, PS_ENOMEM, ORIGIN, "out of memory for headers");
    ps_free(probe);
    return 0;
}

static int open_indexed(struct folder *d, const struct ps_fetched *index, struct ps_err *err)
{
    int rc = ps_weight_map_parse(&d->weights, index->bytes, index->len, err);
    if (rc == 0)
        rc = name_files(d, err);
    if (rc == 0)
        rc = ps_parallel(d->n_files, read_header, d, err);
    return rc;
}

static int open_single(struct folder *d, struct first_look *l, struct ps_err *err)
{
    if (l->single_rc == PS_ENOTFOUND)
        return ps_err_set(err, PS_ENOTFOUND, ORIGIN, "no weights at %s: looked for %s and %s",
                          d->src->label, INDEX_NAME, SINGLE_NAME);
    if (l->single_rc != 0) {
        if (err)
            *err = l->single_err;
        return l->single_rc;
    }
    int rc = name_files(d, err);
    if (rc == 0) {
        d->files[0] = l->single;
        l->single.header = NULL;
    }
    return rc;
}

static int read_headers(struct folder *d, struct ps_err *err)
{
    struct first_look l = {.d = d, .single = {.name = SINGLE_NAME}};
    int rc = ps_parallel(2, look, &l, err);
    if (rc == 0) {
        if (l.index.rc == 0) {
            rc = open_indexed(d, &l.index, err);
        } else if (ps_fetched_is_missing(&l.index)) {
            rc = open_single(d, &l, err);
        } else {
            rc = l.index.rc;
            if (err)
                *err = l.index.err;
        }
    }
    ps_st_free(l.single.header);
    ps_fetched_deinit(&l.index);
    return rc;
}

/* ---- The map ---- */

static bool has_suffix(const char *name, const char *suffix)
{
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && strcmp(name + n - k, suffix) == 0 && (n == k || name[n - k - 1] == '.');
}

/* Whether tensor t of file i belongs to the model. *weight (nullable) gets its entry in the index. */
static bool is_wanted(struct folder *d, uint32_t file, const struct ps_st_tensor *t,
                      struct ps_weight **weight)
{
    if (!d->weights)
        return true;
    struct ps_weight *w = ps_weight_map_find(d->weights, t->name);
    if (weight)
        *weight = w;
    return w && w->file == file;
}

static bool has_head(struct folder *d)
{
    for (uint32_t i = 0; i < d->n_files; i++)
        for (uint32_t k = 0; k < d->files[i].header->n_tensors; k++) {
            const struct ps_st_tensor *t = &d->files[i].header->tensors[k];
            if (has_suffix(t->name, "lm_head.weight") && is_wanted(d, i, t, NULL))
                return true;
        }
    return false;
}

static int add_file(struct folder *d, uint32_t i, bool untied, struct ps_map_builder *b,
                    struct ps_err *err)
{
    const struct file *f = &d->files[i];
    uint32_t object;
    int rc = ps_map_add_object(b, f->name, f->header->file_bytes, f->info.etag, f->info.identity,
                               &object, err);
    for (uint32_t k = 0; k < f->header->n_tensors && rc == 0; k++) {
        const struct ps_st_tensor *t = &f->header->tensors[k];
        struct ps_weight *w = NULL;
        if (!is_wanted(d, i, t, &w))
            continue;
        if (w)
            w->seen = true;
        bool gather = untied && has_suffix(t->name, "embed_tokens.weight");
        rc = prefixed(f, err,
                      ps_map_add_tensor(b, t->name, t->dtype, t->shape, t->n_dims, object, t->begin,
                                        gather, err));
    }
    return rc;
}

static int check_all_seen(const struct folder *d, struct ps_err *err)
{
    for (uint32_t i = 0; d->weights && i < d->weights->n_weights; i++) {
        const struct ps_weight *w = &d->weights->weights[i];
        if (!w->seen)
            return ps_err_set(err, PS_EDATA, ORIGIN,
                              "%s: tensor %s is not in %s, where %s says it is", d->src->label,
                              w->name, d->weights->files[w->file], INDEX_NAME);
    }
    return 0;
}

static void hash_u64(struct ps_sha256 *h, uint64_t v)
{
    uint8_t le[8];
    for (int i = 0; i < 8; i++)
        le[i] = (uint8_t)(v >> (8 * i));
    ps_sha256_update(h, le, sizeof le);
}

static void hash_text(struct ps_sha256 *h, const char *s, size_t len)
{
    hash_u64(h, len); /* the length first: no two lists of texts look the same */
    ps_sha256_update(h, s, len);
}

/* The id of a model without a manifest: everything that decides its map. Headers go in by their
 * own hash, so that none is kept. */
static int model_id(uint8_t out[PS_SHA256_BYTES], const struct folder *d, const char *config,
                    size_t config_len, struct ps_err *err)
{
    static const char tag[] = "penstock-folder-1";
    struct ps_sha256 *h;
    if (ps_sha256_new(&h) != 0)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for the model's id");
    ps_sha256_update(h, tag, sizeof tag);
    hash_text(h, config, config_len);
    hash_u64(h, d->n_files);
    for (uint32_t i = 0; i < d->n_files; i++) {
        const struct file *f = &d->files[i];
        hash_text(h, f->name, strlen(f->name));
        hash_text(h, f->info.identity, strlen(f->info.identity));
        hash_u64(h, f->header->file_bytes);
        ps_sha256_update(h, f->header_sha256, sizeof f->header_sha256);
    }
    ps_sha256_final(h, out);
    ps_sha256_free(h);
    return 0;
}

static int build_map(struct ps_map **out, struct folder *d, const char *config, size_t config_len,
                     struct ps_err *err)
{
    uint8_t id[PS_SHA256_BYTES];
    int rc = model_id(id, d, config, config_len, err);
    if (rc != 0)
        return rc;
    struct ps_map_builder *b;
    if (ps_map_builder_new(&b) != 0)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for the map");
    bool untied = d->told.tying != TIED && has_head(d);
    for (uint32_t i = 0; i < d->n_files && rc == 0; i++)
        rc = add_file(d, i, untied, b, err);
    if (rc == 0)
        rc = check_all_seen(d, err);
    if (rc != 0) {
        ps_map_builder_free(b);
        return rc;
    }
    return ps_map_builder_finish(out, b, id, err);
}

int ps_folder_open(struct ps_map **out, struct ps_source *src, const char *config,
                   size_t config_len, struct ps_err *err)
{
    struct folder d = {.src = src};
    pthread_mutex_init(&d.long_header, NULL);
    int rc = read_config(&d.told, config, config_len, err);
    if (rc == 0)
        rc = read_headers(&d, err);
    if (rc == 0)
        rc = build_map(out, &d, config, config_len, err);
    for (uint32_t i = 0; i < d.n_files && d.files; i++)
        ps_st_free(d.files[i].header);
    ps_free(d.files);
    ps_weight_map_free(d.weights);
    pthread_mutex_destroy(&d.long_header);
    return rc;
}
