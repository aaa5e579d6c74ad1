/* Opening a model. Comes in: a source. Goes out: its map, its config and, where it is pre-split, its manifest. */
#include "proto/layout.h"

#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "proto/layout_internal.h"
#include "proto/parallel.h"
#include "proto/signature.h"
#include "proto/text.h"

#define ORIGIN      "layout"
#define CONFIG_NAME PS_CONFIG_NAME

#define WRONG_MAX 16 /* sources of one model */

/* Is it worth while to ask again for what came wrong? Once in any case: one bad transfer is no damage; then as long as
 * there is somebody else to ask. */
static bool ask_again(struct ps_source *src, const char *object, int attempt)
{
    bool elsewhere = ps_source_distrust(src, object);
    return attempt == 0 || (elsewhere && attempt < WRONG_MAX);
}

/* True: a web page came. */
static bool fetch_once(struct ps_fetched *f, struct ps_source *src, const char *name,
                       uint64_t max_bytes, const atomic_bool *withdrawn)
{
    const struct ps_terms terms = {.withdrawn = withdrawn};
    f->rc = src->ops->get(src, name, &terms, max_bytes, &f->bytes, &f->len, &f->info, &f->err);
    if (f->rc != 0 || !ps_text_is_markup(f->bytes, f->len))
        return false;
    ps_fetched_deinit(f);
    f->rc = ps_err_set(&f->err, PS_ENOTFOUND, ORIGIN,
                       "%s: the server answered with a web page instead: check the address", name);
    return true;
}

void ps_fetch(struct ps_fetched *f, struct ps_source *src, const char *name, uint64_t max_bytes,
              const atomic_bool *withdrawn)
{
    for (int attempt = 0; fetch_once(f, src, name, max_bytes, withdrawn) && attempt < WRONG_MAX;
         attempt++)
        if (!ps_source_distrust(src, name)) /* nobody else who might have it */
            break;
}

void ps_fetched_deinit(struct ps_fetched *f)
{
    ps_free(f->bytes);
    f->bytes = NULL;
}

bool ps_fetched_is_missing(const struct ps_fetched *f)
{
    return f->rc == PS_ENOTFOUND || f->rc == PS_EREFUSED;
}

static int fail_as(const struct ps_fetched *f, struct ps_err *err)
{
    if (err)
        *err = f->err;
    return f->rc;
}

/* ---- Pre-split ---- */

static const struct ps_manifest_file *find_file(const struct ps_manifest *m, const char *name)
{
    for (uint32_t i = 0; i < m->n_files; i++)
        if (strcmp(m->files[i].name, name) == 0)
            return &m->files[i];
    return NULL;
}

static bool file_matches(const struct ps_manifest_file *f, const char *bytes, size_t len)
{
    uint8_t sha[PS_SHA256_BYTES];
    if (len != f->bytes)
        return false;
    ps_sha256_once(bytes, len, sha);
    return memcmp(sha, f->sha256, sizeof sha) == 0;
}

/* Fetches a file until it has the manifest's hash. */
static int get_checked(char **out, size_t *len, struct ps_source *src,
                       const struct ps_manifest_file *f, struct ps_err *err)
{
    for (int attempt = 0;; attempt++) {
        char *bytes;
        size_t n;
        int rc = ps_source_get(src, f->name, f->bytes, &bytes, &n, NULL, err);
        if (rc != 0)
            return rc;
        if (file_matches(f, bytes, n)) {
            *out = bytes;
            *len = n;
            return 0;
        }
        ps_free(bytes);
        if (!ask_again(src, f->name, attempt))
            break;
    }
    return ps_err_set(err, PS_EDATA, ORIGIN,
                      "%s: has another hash than %s says: was the model split again?", f->name,
                      PS_MANIFEST_NAME);
}

struct index_job {
    struct ps_source *src;
    const struct ps_manifest *m;
    struct ps_shard_index **indexes;
};

static int read_index_once(struct index_job *j, uint32_t i, struct ps_err *err)
{
    const struct ps_manifest_shard *s = &j->m->shards[i];
    size_t n = (size_t)PS_SHARD_HEAD_BYTES + s->index_bytes;
    uint8_t *bytes = ps_malloc(n);
    if (!bytes)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for the index of %s", s->name);
    struct ps_range r = {
        .object = s->name, .bytes = n, .buf = bytes, .object_bytes = s->bytes, .priority = i};
    const void *index;
    int rc = ps_source_read_range(j->src, &r, err);
    if (rc == 0)
        rc = ps_manifest_check_index(j->m, i, bytes, n, &index, err);
    if (rc == 0)
        rc = ps_shard_index_decode(&j->indexes[i], index, s->index_bytes, s->bytes, err);
    if (rc == PS_EDATA)
        ps_err_place(err, s->name);
    ps_free(bytes);
    return rc;
}

static int read_index(void *user, uint32_t i, struct ps_err *err)
{
    const struct index_job *j = user;
    int rc = read_index_once(user, i, err);
    for (int attempt = 0; rc == PS_EDATA && ask_again(j->src, j->m->shards[i].name, attempt);
         attempt++)
        rc = read_index_once(user, i, err);
    return rc;
}

static int open_shards(struct ps_map **map, struct ps_source *src, const struct ps_manifest *m,
                       struct ps_err *err)
{
    struct index_job j = {.src = src, .m = m};
    j.indexes = ps_calloc(m->n_shards, sizeof(struct ps_shard_index *));
    if (!j.indexes)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for %u shards", m->n_shards);
    int rc = ps_parallel(m->n_shards, read_index, &j, err);
    if (rc == 0)
        rc = ps_map_from_manifest(map, m, j.indexes, err);
    for (uint32_t i = 0; i < m->n_shards; i++)
        ps_shard_index_free(j.indexes[i]);
    ps_free(j.indexes);
    return rc;
}

/* The config that came with the manifest, or a second copy if that one is wrong. */
static int take_config(struct ps_model_files *f, struct ps_roots *r, struct ps_err *err)
{
    const struct ps_manifest_file *listed = find_file(f->manifest, CONFIG_NAME);
    if (!listed)
        return ps_err_set(err, PS_EDATA, ORIGIN, "%s lists no %s", PS_MANIFEST_NAME, CONFIG_NAME);
    if (listed->bytes > PS_CONFIG_MAX_BYTES)
        return ps_err_set(err, PS_EDATA, ORIGIN, "%s is absurdly large", CONFIG_NAME);
    if (r->config.rc != 0)
        return fail_as(&r->config, err);
    if (!file_matches(listed, r->config.bytes, r->config.len)) {
        (void)ps_source_distrust(r->src, CONFIG_NAME);
        return get_checked(&f->config, &f->config_len, r->src, listed, err);
    }
    f->config = r->config.bytes;
    f->config_len = r->config.len;
    r->config.bytes = NULL;
    return 0;
}

/* Before a byte of the manifest is believed. */
static int check_signature(struct ps_roots *r, const struct ps_trust *trust, struct ps_err *err)
{
    struct ps_fetched sig = {0};
    ps_fetch(&sig, r->src, PS_SIGNATURE_NAME, PS_SIGNATURE_MAX_BYTES, NULL);
    int rc = sig.rc == 0 || ps_fetched_is_missing(&sig)
                 ? ps_trust_check(trust, r->manifest.bytes, r->manifest.len, sig.bytes, sig.len, err)
                 : fail_as(&sig, err);
    ps_fetched_deinit(&sig);
    if (rc != 0)
        ps_err_prefix(err, "%s", r->src->label);
    return rc;
}

/* The manifest that came, or, where that one can't be believed, another copy of it. Which of the two is wrong, manifest
 * or signature, nobody can tell: both are asked for elsewhere. */
static int take_manifest(struct ps_model_files *f, struct ps_roots *r, const struct ps_trust *trust,
                         struct ps_err *err)
{
    for (int attempt = 0;; attempt++) {
        int rc = trust ? check_signature(r, trust, err) : 0;
        if (rc == 0)
            rc = ps_manifest_decode(&f->manifest, r->manifest.bytes, r->manifest.len, err);
        if (rc == PS_EDATA && trust)
            (void)ps_source_distrust(r->src, PS_SIGNATURE_NAME);
        if (rc != PS_EDATA || !ask_again(r->src, PS_MANIFEST_NAME, attempt))
            return rc;
        ps_fetched_deinit(&r->manifest);
        ps_roots_fetch_manifest(r);
        if (r->manifest.rc != 0)
            return rc; /* what came before is told: it was wrong */
    }
}

static int open_presplit(struct ps_model_files *f, struct ps_roots *r, const struct ps_trust *trust,
                         struct ps_err *err)
{
    int rc = take_manifest(f, r, trust, err);
    if (rc == 0)
        rc = take_config(f, r, err);
    if (rc == 0)
        rc = open_shards(&f->map, r->src, f->manifest, err);
    return rc;
}

/* ---- Plain folder ---- */

static int open_folder(struct ps_model_files *f, struct ps_roots *r, struct ps_err *err)
{
    if (r->config.rc == PS_ENOTFOUND)
        return ps_err_set(err, PS_ENOTFOUND, ORIGIN, "no model at %s: looked for %s and %s",
                          r->src->label, PS_MANIFEST_NAME, CONFIG_NAME);
    if (r->config.rc != 0)
        return fail_as(&r->config, err);
    f->config = r->config.bytes;
    f->config_len = r->config.len;
    r->config.bytes = NULL;
    return ps_folder_open(&f->map, r->src, f->config, f->config_len, err);
}

static int fail_unsigned(const struct ps_roots *r, struct ps_err *err)
{
    return ps_err_set(err, PS_EDATA, ORIGIN,
                      "%s: not a split model, so nobody signed it: split it with --sign, or "
                      "leave --verify-key out",
                      r->src->label);
}

static int open_kind(struct ps_model_files *f, struct ps_roots *r, const struct ps_trust *trust,
                     struct ps_err *err)
{
    if (r->manifest.rc == 0)
        return open_presplit(f, r, trust, err);
    if (trust && r->config.rc == 0)
        return fail_unsigned(r, err);
    /* Stores that hide what does not exist say 403: believable only where something else may be read. */
    if (r->manifest.rc == PS_ENOTFOUND || (r->manifest.rc == PS_EREFUSED && r->config.rc == 0))
        return open_folder(f, r, err);
    if (r->manifest.rc == PS_ECANCELLED)
        return fail_as(&r->config, err);
    int rc = fail_as(&r->manifest, err);
    if (rc == PS_EREFUSED && r->config.rc == PS_ECANCELLED)
        ps_err_advise(err, CONFIG_NAME " has not come either");
    return rc;
}

/* The end of every opening: files that are whole become the caller's. */
static int hand_out(struct ps_model_files *out, struct ps_model_files *f, struct ps_roots *r, int rc)
{
    ps_fetched_deinit(&r->manifest);
    ps_fetched_deinit(&r->config);
    if (rc == 0)
        *out = *f;
    else
        ps_model_files_close(f);
    return rc;
}

int ps_model_files_open(struct ps_model_files *out, struct ps_source *src, struct ps_err *err)
{
    return ps_model_files_open_trusted(out, src, NULL, err);
}

int ps_model_files_open_trusted(struct ps_model_files *out, struct ps_source *src,
                                const struct ps_trust *trust, struct ps_err *err)
{
    struct ps_model_files f = {0};
    struct ps_roots r = {.src = src};
    int rc = ps_roots_fetch(&r, err);
    if (rc == 0)
        rc = open_kind(&f, &r, trust, err);
    return hand_out(out, &f, &r, rc);
}

static int open_small(struct ps_model_files *f, struct ps_roots *r, const struct ps_trust *trust,
                      struct ps_err *err)
{
    ps_roots_fetch_manifest(r);
    if (trust && r->manifest.rc == PS_ENOTFOUND)
        return fail_unsigned(r, err);
    if (!trust && ps_fetched_is_missing(&r->manifest))
        return 0;
    if (r->manifest.rc != 0)
        return fail_as(&r->manifest, err);
    int rc = take_manifest(f, r, trust, err);
    if (rc == 0) {
        ps_roots_fetch_config(r);
        rc = take_config(f, r, err);
    }
    return rc;
}

int ps_model_files_open_small(struct ps_model_files *out, struct ps_source *src,
                              const struct ps_trust *trust, struct ps_err *err)
{
    struct ps_model_files f = {0};
    struct ps_roots r = {.src = src};
    int rc = open_small(&f, &r, trust, err);
    return hand_out(out, &f, &r, rc);
}

void ps_model_files_close(struct ps_model_files *f)
{
    if (!f)
        return;
    ps_map_free(f->map);
    ps_manifest_free(f->manifest);
    ps_free(f->config);
    memset(f, 0, sizeof *f);
}

static int copy_config(char **out, size_t *len, const struct ps_model_files *f, struct ps_err *err)
{
    char *copy = ps_malloc(f->config_len + 1);
    if (!copy)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for %s", CONFIG_NAME);
    memcpy(copy, f->config, f->config_len + 1);
    *out = copy;
    *len = f->config_len;
    return 0;
}

static int get_from_manifest(char **out, size_t *len, const struct ps_model_files *f,
                             struct ps_source *src, const char *name, uint64_t max_bytes,
                             struct ps_err *err)
{
    const struct ps_manifest_file *file = find_file(f->manifest, name);
    if (!file)
        return ps_err_set(err, PS_ENOTFOUND, ORIGIN, "the model at %s has no %s", src->label, name);
    if (file->bytes > max_bytes)
        return ps_err_set(err, PS_EDATA, ORIGIN, "%s: %llu bytes, at most %llu are allowed", name,
                          (unsigned long long)file->bytes, (unsigned long long)max_bytes);
    return get_checked(out, len, src, file, err);
}

int ps_model_files_get(char **out, size_t *len, const struct ps_model_files *f, struct ps_source *src,
                       const char *name, uint64_t max_bytes, struct ps_err *err)
{
    struct ps_object_info info;
    return ps_model_files_get_as(out, len, &info, f, src, name, max_bytes, err);
}

int ps_model_files_get_as(char **out, size_t *len, struct ps_object_info *info,
                          const struct ps_model_files *f, struct ps_source *src, const char *name,
                          uint64_t max_bytes, struct ps_err *err)
{
    memset(info, 0, sizeof *info);
    if (strcmp(name, CONFIG_NAME) == 0)
        return copy_config(out, len, f, err);
    if (f->manifest) {
        (void)ps_model_files_version(f, name, info);
        return get_from_manifest(out, len, f, src, name, max_bytes, err);
    }
    struct ps_fetched got = {0};
    ps_fetch(&got, src, name, max_bytes, NULL);
    if (ps_fetched_is_missing(&got))
        return ps_err_set(err, PS_ENOTFOUND, ORIGIN, "the model at %s has no %s", src->label, name);
    if (got.rc != 0)
        return fail_as(&got, err);
    *out = got.bytes;
    *len = got.len;
    *info = got.info;
    return 0;
}

int ps_model_files_version(const struct ps_model_files *f, const char *name,
                           struct ps_object_info *info)
{
    static const char prefix[] = "sha256:";
    const struct ps_manifest_file *file = f->manifest ? find_file(f->manifest, name) : NULL;
    if (!file)
        return f->manifest ? PS_ENOTFOUND : PS_EUNSUPPORTED;
    memset(info, 0, sizeof *info);
    info->bytes = file->bytes;
    memcpy(info->identity, prefix, sizeof prefix);
    ps_hex_encode(file->sha256, PS_SHA256_BYTES, info->identity + sizeof prefix - 1);
    return 0;
}

bool ps_model_files_fits(const struct ps_model_files *f, const char *name, const void *bytes,
                         size_t len)
{
    const struct ps_manifest_file *file = f->manifest ? find_file(f->manifest, name) : NULL;
    return !f->manifest || (file && file_matches(file, bytes, len));
}
