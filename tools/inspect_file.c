/* See inspect_file.h. Reads heads and indexes alone, however large the file. */
#include "tools/inspect_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/read_at.h"
#include "proto/manifest.h"
#include "proto/safetensors.h"

struct input {
    const char *path;
    int fd;
    uint64_t bytes;
    uint8_t head[PS_SHARD_HEAD_BYTES];
    size_t head_len;
};

bool ps_inspect_is_file(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

/* The first n bytes of the file; *out: ps_free. */
static int read_head(void **out, const struct input *in, uint64_t n, struct ps_err *err)
{
    char *buf;
    int64_t got;

    if (n > in->bytes)
        return ps_err_set(err, PS_EDATA, "inspect",
                          "%s: cut short: its header says %llu bytes, the file has %llu", in->path,
                          (unsigned long long)n, (unsigned long long)in->bytes);
    buf = ps_malloc(n + 1);
    if (!buf)
        return ps_err_set(err, PS_ENOMEM, "inspect", "%s: out of memory", in->path);
    got = ps_read_at(in->fd, buf, n, n, 0);
    if (got == (int64_t)n) {
        *out = buf;
        return 0;
    }
    ps_err_set(err, PS_EIO, "inspect", "%s: %s", in->path, got < 0 ? strerror(errno) : "cut short");
    ps_free(buf);
    return PS_EIO;
}

static void write_shape(struct ps_json_writer *w, const uint64_t *shape, unsigned n_dims)
{
    ps_jw_key(w, "shape");
    ps_jw_array(w);
    for (unsigned i = 0; i < n_dims; i++)
        ps_jw_uint(w, shape[i]);
    ps_jw_array_end(w);
}

/* ---- safetensors ---- */

static void write_header(struct ps_json_writer *w, const struct ps_st_header *h)
{
    ps_jw_kuint(w, "header_bytes", h->header_bytes);
    ps_jw_kuint(w, "tensor_count", h->n_tensors);
    ps_jw_key(w, "tensors");
    ps_jw_array(w);
    for (uint32_t i = 0; i < h->n_tensors; i++) {
        const struct ps_st_tensor *t = &h->tensors[i];

        ps_jw_object(w);
        ps_jw_kstring(w, "name", t->name);
        ps_jw_kstring(w, "dtype", ps_dtype_name(t->dtype));
        write_shape(w, t->shape, t->n_dims);
        ps_jw_kuint(w, "offset", t->begin);
        ps_jw_kuint(w, "stored_bytes", t->end - t->begin);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
}

static int inspect_safetensors(struct ps_json_writer *w, const struct input *in, struct ps_err *err)
{
    struct ps_st_header *h = NULL;
    void *head = NULL;
    uint64_t n;
    int rc = ps_st_header_bytes(&n, in->head, in->head_len, in->bytes, err);

    if (rc == 0)
        rc = read_head(&head, in, n, err);
    if (rc == 0)
        rc = ps_st_parse(&h, head, n, in->bytes, err);
    if (rc == 0)
        write_header(w, h);
    ps_st_free(h);
    ps_free(head);
    return rc;
}

/* ---- shard ---- */

static void write_shard_extents(struct ps_json_writer *w, const struct ps_shard_tensor *t)
{
    char hex[2 * PS_SHA256_BYTES + 1];

    ps_jw_key(w, "extent_list");
    ps_jw_array(w);
    for (uint32_t i = 0; i < t->n_extents; i++) {
        const struct ps_shard_extent *x = &t->extents[i];

        ps_hex_encode(x->sha256, PS_SHA256_BYTES, hex);
        ps_jw_object(w);
        ps_jw_kuint(w, "offset", x->offset);
        ps_jw_kuint(w, "stored_bytes", x->stored_bytes);
        ps_jw_kuint(w, "rows", x->n_rows);
        ps_jw_kstring(w, "codec", ps_codec_name((enum ps_codec)x->codec));
        ps_jw_kstring(w, "sha256", hex);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
}

static void write_shard(struct ps_json_writer *w, const struct ps_shard_index *x, bool extents)
{
    ps_jw_kint(w, "layer", x->layer);
    ps_jw_kuint(w, "tensor_count", x->n_tensors);
    ps_jw_key(w, "tensors");
    ps_jw_array(w);
    for (uint32_t i = 0; i < x->n_tensors; i++) {
        const struct ps_shard_tensor *t = &x->tensors[i];
        uint64_t stored = 0;

        for (uint32_t k = 0; k < t->n_extents; k++)
            stored += t->extents[k].stored_bytes;
        ps_jw_object(w);
        ps_jw_kstring(w, "name", t->name);
        ps_jw_kstring(w, "dtype", ps_dtype_name(t->dtype));
        write_shape(w, t->shape, t->n_dims);
        ps_jw_kuint(w, "stored_bytes", stored);
        ps_jw_kuint(w, "extents", t->n_extents);
        if (extents)
            write_shard_extents(w, t);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
}

static uint32_t le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int inspect_shard(struct ps_json_writer *w, const struct input *in, bool extents,
                         struct ps_err *err)
{
    uint32_t version = le32(in->head + 8), index_bytes = le32(in->head + 12);
    struct ps_shard_index *x = NULL;
    char hex[2 * PS_SHA256_BYTES + 1];
    uint8_t sha256[PS_SHA256_BYTES];
    void *head = NULL;
    int rc;

    if (version != PS_FORMAT_VERSION)
        return ps_err_set(err, PS_EUNSUPPORTED, "inspect",
                          "%s: shard format %u: this program reads format %d", in->path, version,
                          PS_FORMAT_VERSION);
    rc = read_head(&head, in, (uint64_t)PS_SHARD_HEAD_BYTES + index_bytes, err);
    if (rc == 0)
        rc = ps_shard_index_decode(&x, (char *)head + PS_SHARD_HEAD_BYTES, index_bytes, in->bytes,
                                   err);
    if (rc == 0) {
        ps_sha256_once((char *)head + PS_SHARD_HEAD_BYTES, index_bytes, sha256);
        ps_hex_encode(sha256, sizeof sha256, hex);
        ps_jw_kstring(w, "index_sha256", hex);
        write_shard(w, x, extents);
    }
    ps_shard_index_free(x);
    ps_free(head);
    return rc;
}

/* ---- manifest ---- */

static void write_manifest(struct ps_json_writer *w, const struct ps_manifest *m)
{
    char hex[2 * PS_SHA256_BYTES + 1];

    ps_hex_encode(m->id, sizeof m->id, hex);
    ps_jw_kstring(w, "model_id", hex);
    ps_jw_kuint(w, "format_version", m->version);
    ps_jw_kstring(w, "provenance", m->source_label);
    ps_jw_kstring(w, "architecture", m->architecture);
    ps_jw_kstring(w, "codec", m->codec);
    ps_jw_kuint(w, "model_bytes", m->raw_bytes);
    ps_jw_kuint(w, "stored_bytes", m->stored_bytes);
    ps_jw_kuint(w, "tensors", m->n_tensors);
    ps_jw_kuint(w, "extents", m->n_extents);
    ps_jw_kuint(w, "extent_bytes", m->extent_target_bytes);
    ps_jw_key(w, "files");
    ps_jw_array(w);
    for (uint32_t i = 0; i < m->n_files; i++) {
        ps_hex_encode(m->files[i].sha256, PS_SHA256_BYTES, hex);
        ps_jw_object(w);
        ps_jw_kstring(w, "name", m->files[i].name);
        ps_jw_kuint(w, "bytes", m->files[i].bytes);
        ps_jw_kstring(w, "sha256", hex);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
    ps_jw_key(w, "shards");
    ps_jw_array(w);
    for (uint32_t i = 0; i < m->n_shards; i++) {
        ps_jw_object(w);
        ps_jw_kstring(w, "name", m->shards[i].name);
        ps_jw_kuint(w, "bytes", m->shards[i].bytes);
        ps_jw_kint(w, "layer", m->shards[i].layer);
        ps_jw_kuint(w, "extents", m->shards[i].n_extents);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
}

static int inspect_manifest(struct ps_json_writer *w, const struct input *in, struct ps_err *err)
{
    struct ps_manifest *m = NULL;
    void *bytes = NULL;
    int rc;

    if (in->bytes > PS_MANIFEST_MAX_BYTES)
        return ps_err_set(err, PS_EDATA, "inspect", "%s: too large for a manifest", in->path);
    rc = read_head(&bytes, in, in->bytes, err);
    if (rc == 0)
        rc = ps_manifest_decode(&m, bytes, in->bytes, err);
    if (rc == 0)
        write_manifest(w, m);
    ps_manifest_free(m);
    ps_free(bytes);
    return rc;
}

/* ---- file ---- */

static bool has_suffix(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && strcmp(s + n - m, end) == 0;
}

static int inspect(struct ps_json_writer *w, const struct input *in, bool extents, struct ps_err *err)
{
    if (in->head_len == sizeof in->head && memcmp(in->head, "PSSHARD1", 8) == 0) {
        ps_jw_kstring(w, "kind", "shard");
        return inspect_shard(w, in, extents, err);
    }
    if (has_suffix(in->path, PS_MANIFEST_NAME)) {
        ps_jw_kstring(w, "kind", "manifest");
        return inspect_manifest(w, in, err);
    }
    if (has_suffix(in->path, ".safetensors")) {
        ps_jw_kstring(w, "kind", "safetensors");
        return inspect_safetensors(w, in, err);
    }
    return ps_err_set(err, PS_EUNSUPPORTED, "inspect",
                      "%s: neither a .safetensors file nor a shard nor a %s", in->path,
                      PS_MANIFEST_NAME);
}

int ps_inspect_file(struct ps_strbuf *out, const char *path, bool extents, struct ps_err *err)
{
    struct input in = {.path = path, .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    struct ps_json_writer w;
    struct stat st;
    int64_t n;
    int rc;

    if (in.fd < 0 || fstat(in.fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        rc = ps_err_set(err, PS_ENOTFOUND, "inspect", "%s: %s", path,
                        in.fd < 0 ? strerror(errno) : "not a regular file");
    } else {
        in.bytes = (uint64_t)st.st_size;
        n = ps_read_at(in.fd, in.head, sizeof in.head, sizeof in.head, 0);
        in.head_len = n > 0 ? (size_t)n : 0;
        ps_jw_init(&w, out);
        ps_jw_object(&w);
        ps_jw_kstring(&w, "file", path);
        ps_jw_kuint(&w, "file_bytes", in.bytes);
        rc = inspect(&w, &in, extents, err);
        ps_jw_object_end(&w);
    }
    if (rc < 0 && err && err->code == rc && !strstr(err->text, path))
        ps_err_prefix(err, "%s", path);
    if (in.fd >= 0)
        close(in.fd);
    return rc;
}
