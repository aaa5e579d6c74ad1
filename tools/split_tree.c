/* Which kind of destination an address names, and the way to it. */
#include "tools/split_tree.h"

#include <string.h>

#include "base/alloc.h"
#include "base/strbuf.h"
#include "proto/manifest.h"
#include "proto/signature.h"
#include "tools/split_tree_impl.h"

bool ps_split_place_is_remote(const struct ps_split_place *p)
{
    return strncmp(p->dst, "s3://", 5) == 0;
}

int ps_split_tree_open(struct ps_split_tree **out, const struct ps_split_place *place,
                       const uint8_t key[PS_SHA256_BYTES], struct ps_split_done *done,
                       uint32_t n_shards, uint64_t max_shard_bytes, struct ps_err *err)
{
    if (ps_split_place_is_remote(place))
        return ps_split_s3_open(out, place, key, done, n_shards, max_shard_bytes, err);
    if (strstr(place->dst, "://"))
        return ps_err_set(err, PS_EUSAGE, "split",
                          "%s: a split is written to a folder or to s3://bucket/prefix", place->dst);
    return ps_split_folder_open(out, place->dst, key, done, n_shards, err);
}

/* A damaged manifest is no finished split's. */
static int check_codec(const struct ps_split_found *f, const char *codec, struct ps_err *err)
{
    struct ps_manifest *m;
    int rc = ps_manifest_decode(&m, f->manifest, f->manifest_len, NULL);
    if (rc != 0)
        return rc == PS_ENOMEM ? ps_err_set(err, rc, "split", "out of memory") : 0;
    if (strcmp(m->codec, codec) != 0)
        rc = ps_err_set(err, PS_EUSAGE, "split",
                        "%s holds a finished split with --codec %s: name another place for %s, or "
                        "remove it: who reads it now would find its shards gone",
                        f->where, m->codec, codec);
    ps_manifest_free(m);
    return rc;
}

int ps_split_tree_check_model(const struct ps_split_place *place, const void *config, size_t len,
                              const char *codec, struct ps_err *err)
{
    struct ps_split_found f = {0};
    bool remote = ps_split_place_is_remote(place);
    int rc = remote ? ps_split_s3_look(&f, place, err) : ps_split_folder_look(&f, place->dst, err);
    if (rc == 0 && f.manifest && f.config &&
        (f.config_len != len || memcmp(f.config, config, len) != 0))
        rc = ps_err_set(err, PS_EUSAGE, "split",
                        "%s holds a split of another model: name an empty %s, or remove it",
                        f.where, remote ? "prefix" : "directory");
    if (rc == 0 && f.manifest)
        rc = check_codec(&f, codec, err);
    ps_free(f.where);
    ps_free(f.manifest);
    ps_free(f.config);
    return rc;
}

void ps_split_tree_close(struct ps_split_tree *t)
{
    if (t)
        t->ops->close(t);
}

int ps_split_tree_begin(struct ps_split_tree *t, uint64_t data_begin, struct ps_err *err)
{
    return t->ops->begin(t, data_begin, err);
}

int ps_split_tree_write(struct ps_split_tree *t, const void *bytes, size_t len, uint64_t offset,
                        struct ps_err *err)
{
    return t->ops->write(t, bytes, len, offset, err);
}

int ps_split_tree_finish_shard(struct ps_split_tree *t, uint32_t shard,
                               const struct ps_split_done *d, struct ps_err *err)
{
    return t->ops->finish_shard(t, shard, d, err);
}

int ps_split_tree_put(struct ps_split_tree *t, const char *name, const void *bytes, size_t len,
                      struct ps_err *err)
{
    return t->ops->put(t, name, bytes, len, err);
}

/* The signatures that hold while the manifest changes: the new one's and whatever was there. */
static int put_both(struct ps_split_tree *t, const char *signature, const char *old,
                    struct ps_err *err)
{
    struct ps_strbuf b;
    const char *lines = strchr(old, '\n');
    ps_strbuf_init(&b, 2 * PS_SIGNATURE_MAX_BYTES);
    ps_strbuf_puts(&b, signature);
    ps_strbuf_puts(&b, lines ? lines + 1 : "");
    int rc = ps_strbuf_ok(&b) ? t->ops->put(t, PS_SIGNATURE_NAME, b.data, b.len, err)
                              : ps_err_set(err, PS_ENOMEM, "split", "out of memory");
    ps_strbuf_deinit(&b);
    return rc;
}

int ps_split_tree_seal(struct ps_split_tree *t, const void *manifest, size_t len,
                       const char *signature, const struct ps_split_done *done, uint32_t n_shards,
                       struct ps_err *err)
{
    char *old = t->ops->get(t, PS_SIGNATURE_NAME, PS_SIGNATURE_MAX_BYTES);
    bool change = signature && (!old || strcmp(old, signature) != 0);
    int rc = change ? put_both(t, signature, old ? old : "", err) : 0;
    if (rc == 0)
        rc = t->ops->seal(t, manifest, len, done, n_shards, err);
    if (rc == 0 && change)
        rc = t->ops->put(t, PS_SIGNATURE_NAME, signature, strlen(signature), err);
    if (rc == 0 && !signature && old && !ps_signature_names(old, manifest, len))
        rc = t->ops->remove(t, PS_SIGNATURE_NAME, err); /* of a manifest that is gone */
    ps_free(old);
    return rc;
}
