/* The manifest. Comes in: bytes of penstock.manifest, of unknown origin. Goes out: a checked
 * struct ps_manifest, and the map of a pre-split model once its shard indexes are there. Also the
 * writing direction, for the split. */
#include "proto/manifest.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "proto/manifest.pb-c.h"
#include "proto/map_internal.h"
#include "proto/name_set.h"
#include "proto/pb_alloc.h"
#include "proto/source.h"
#include "proto/text.h"

#define ORIGIN         "manifest"
#define MAX_FILES      256u
#define MAX_SHARDS     65536u
#define MAX_LAYERS     1000000
#define MAX_LABEL      1024u
#define VERSION_TAG    0x08 /* field 1, varint: what every manifest begins with */
#define SHARD_NAME_MAX 80
#define MAX_INDEX_SUM  (1ull << 30) /* of all shards: PS_MAX_EXTENTS of 40 bytes each are 0.7 GB */

static const char shard_magic[8] = {'P', 'S', 'S', 'H', 'A', 'R', 'D', '1'};

static int bad(struct ps_err *err, const char *what)
{
    return ps_err_set(err, PS_EDATA, ORIGIN, "%s: %s", PS_MANIFEST_NAME, what);
}

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for %s", PS_MANIFEST_NAME);
}

static int newer(struct ps_err *err, const char *what, uint64_t version)
{
    return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                      "%s was made by a newer Penstock (format version %llu, this one reads %d)",
                      what, (unsigned long long)version, PS_FORMAT_VERSION);
}

void ps_manifest_free(struct ps_manifest *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; m->files && i < m->n_files; i++)
        ps_free(m->files[i].name);
    for (uint32_t i = 0; m->shards && i < m->n_shards; i++)
        ps_free(m->shards[i].name);
    ps_free(m->files);
    ps_free(m->shards);
    ps_free(m->source_label);
    ps_free(m->architecture);
    ps_free(m->codec);
    ps_free(m);
}

char *ps_shard_name(const uint8_t index_sha256[PS_SHA256_BYTES])
{
    char hex[2 * PS_SHA256_BYTES + 1], name[SHARD_NAME_MAX];
    ps_hex_encode(index_sha256, PS_SHA256_BYTES, hex);
    snprintf(name, sizeof name, "shards/%s.shard", hex);
    return ps_strdup(name);
}

/* ---- What must hold of a manifest, read or to be written ---- */

static int check_files(const struct ps_manifest *m, struct ps_err *err)
{
    if (m->n_files > MAX_FILES)
        return bad(err, "lists too many files");
    for (uint32_t i = 0; i < m->n_files; i++) {
        const struct ps_manifest_file *f = &m->files[i];
        if (!ps_name_ok(f->name, strlen(f->name)))
            return bad(err, "lists a file whose name is not allowed");
        if (f->bytes > INT64_MAX)
            return bad(err, "states an absurd file size");
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(m->files[k].name, f->name) == 0)
                return ps_err_set(err, PS_EDATA, ORIGIN, "%s: lists %s twice", PS_MANIFEST_NAME,
                                  f->name);
    }
    return 0;
}

/* One shard alone. 32 bytes of hash per extent lie in the index, which bounds the number of
 * extents by bytes that really exist. */
static int check_shard(const struct ps_manifest_shard *s, struct ps_err *err)
{
    if (s->layer < -1 || s->layer >= MAX_LAYERS)
        return bad(err, "states an absurd layer number");
    if (s->index_bytes == 0 || s->index_bytes > PS_SHARD_INDEX_MAX_BYTES || s->bytes > INT64_MAX ||
        (uint64_t)s->index_bytes + PS_SHARD_HEAD_BYTES > s->bytes)
        return bad(err, "states absurd shard sizes");
    if ((uint64_t)s->n_extents * PS_SHA256_BYTES > s->index_bytes)
        return bad(err, "states more extents than a shard's index can hold");
    return 0;
}

static int check_shards(const struct ps_manifest *m, struct ps_err *err)
{
    if (m->n_shards == 0 || m->n_shards > MAX_SHARDS)
        return bad(err, "lists no shards, or too many");
    uint64_t extents = 0, data = 0, index = 0;
    for (uint32_t i = 0; i < m->n_shards; i++) {
        const struct ps_manifest_shard *s = &m->shards[i];
        int rc = check_shard(s, err);
        if (rc != 0)
            return rc;
        extents += s->n_extents;
        index += s->index_bytes;
        if (__builtin_add_overflow(data, s->bytes - s->index_bytes - PS_SHARD_HEAD_BYTES, &data))
            return bad(err, "shard sizes overflow");
    }
    if (extents != m->n_extents)
        return bad(err, "the extents of its shards do not add up");
    if (index > MAX_INDEX_SUM)
        return bad(err, "states absurd index sizes");
    if (m->stored_bytes > data)
        return bad(err, "states more stored bytes than its shards hold");
    return 0;
}

static const char *shard_hash_at(const void *user, uint32_t i)
{
    return ((const struct ps_manifest *)user)->shards[i].name;
}

/* Two shards of one name would be one object. Names exist only after decoding: the writer's come
 * from the same hashes. */
static int check_shard_names(const struct ps_manifest *m, struct ps_err *err)
{
    struct ps_name_set set;
    ps_name_set_init(&set);
    int rc = 0;
    for (uint32_t i = 0; i < m->n_shards && rc == 0; i++)
        rc = ps_name_set_insert(&set, shard_hash_at, m, i);
    ps_name_set_deinit(&set);
    return rc == 0 ? 0 : rc == PS_EDATA ? bad(err, "lists a shard twice") : no_memory(err);
}

static int check_codec(const char *codec, struct ps_err *err)
{
    struct ps_packing packing;
    if (ps_packing_from_name(&packing, codec))
        return 0;
    return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                      "%s: codec %.32s is not known to this version (known: %s)", PS_MANIFEST_NAME,
                      codec, PS_PACKINGS_KNOWN);
}

static int check_manifest(const struct ps_manifest *m, struct ps_err *err)
{
    const char *const texts[] = {m->source_label, m->architecture, m->codec};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (strlen(texts[i]) > MAX_LABEL || !ps_text_ok(texts[i], strlen(texts[i])))
            return bad(err, "holds text that is not allowed");
    if (m->raw_bytes > INT64_MAX || m->source_bytes > INT64_MAX || m->n_tensors > PS_MAX_TENSORS ||
        m->n_extents > PS_MAX_EXTENTS)
        return bad(err, "states absurd sizes");
    if (m->extent_target_bytes < PS_EXTENT_MIN_BYTES || m->extent_target_bytes > PS_EXTENT_MAX_BYTES)
        return bad(err, "states an absurd extent size");
    int rc = check_codec(m->codec, err);
    if (rc == 0)
        rc = check_files(m, err);
    if (rc == 0)
        rc = check_shards(m, err);
    return rc;
}

/* ---- Reading ---- */

/* The version comes first, so that a manifest of the future is named as such even if nothing else
 * of it can be read. */
static int read_version(const uint8_t *p, size_t len, uint64_t *version, struct ps_err *err)
{
    uint64_t v = 0;
    if (len < 2 || p[0] != VERSION_TAG)
        return bad(err, "is not a manifest: check the address, or split the model again");
    for (size_t i = 1; i < len && i <= 9; i++) {
        v |= (uint64_t)(p[i] & 0x7F) << (7 * (i - 1));
        if (!(p[i] & 0x80)) {
            *version = v;
            return 0;
        }
    }
    return bad(err, "is not a manifest: check the address, or split the model again");
}

/* NUL-terminated copy of a wire text; PS_EDATA if a NUL is inside. */
static int take_text(char **out, const ProtobufCBinaryData *d, struct ps_err *err)
{
    if (d->len != 0 && memchr(d->data, '\0', d->len))
        return bad(err, "holds text that is not allowed");
    *out = ps_strndup(d->len ? (const char *)d->data : "", d->len);
    return *out ? 0 : no_memory(err);
}

static int take_hash(uint8_t out[PS_SHA256_BYTES], const ProtobufCBinaryData *d, struct ps_err *err)
{
    if (d->len != PS_SHA256_BYTES)
        return bad(err, "holds a hash of a wrong length");
    memcpy(out, d->data, PS_SHA256_BYTES);
    return 0;
}

static int take_files(struct ps_manifest *m, const Ps__Wire__Manifest *w, struct ps_err *err)
{
    if (w->n_files > MAX_FILES)
        return bad(err, "lists too many files");
    m->files = ps_calloc(w->n_files, sizeof *m->files);
    if (!m->files)
        return no_memory(err);
    m->n_files = (uint32_t)w->n_files;
    for (uint32_t i = 0; i < m->n_files; i++) {
        int rc = take_text(&m->files[i].name, &w->files[i]->name, err);
        if (rc == 0)
            rc = take_hash(m->files[i].sha256, &w->files[i]->sha256, err);
        if (rc != 0)
            return rc;
        m->files[i].bytes = w->files[i]->size;
    }
    return 0;
}

static int take_shards(struct ps_manifest *m, const Ps__Wire__Manifest *w, struct ps_err *err)
{
    if (w->n_shards > MAX_SHARDS)
        return bad(err, "lists too many shards");
    m->shards = ps_calloc(w->n_shards, sizeof *m->shards);
    if (!m->shards)
        return no_memory(err);
    m->n_shards = (uint32_t)w->n_shards;
    for (uint32_t i = 0; i < m->n_shards; i++) {
        const Ps__Wire__Shard *from = w->shards[i];
        struct ps_manifest_shard *s = &m->shards[i];
        s->bytes = from->size;
        s->index_bytes = from->index_size;
        s->layer = from->layer;
        s->n_extents = from->n_extents;
        int rc = take_hash(s->index_sha256, &from->index_sha256, err);
        if (rc != 0)
            return rc;
        s->name = ps_shard_name(s->index_sha256);
        if (!s->name)
            return no_memory(err);
    }
    return 0;
}

static int take_manifest(struct ps_manifest *m, const Ps__Wire__Manifest *w, struct ps_err *err)
{
    if (w->version != PS_FORMAT_VERSION) /* stated twice, differently */
        return bad(err, "is not a manifest: check the address, or split the model again");
    m->version = w->version;
    m->raw_bytes = w->raw_bytes;
    m->stored_bytes = w->stored_bytes;
    m->source_bytes = w->has_source_bytes ? w->source_bytes : w->raw_bytes;
    m->n_tensors = w->n_tensors;
    m->n_extents = w->n_extents;
    m->extent_target_bytes = w->extent_target_bytes;
    int rc = take_text(&m->source_label, &w->source_label, err);
    if (rc == 0)
        rc = take_text(&m->architecture, &w->architecture, err);
    if (rc == 0)
        rc = take_text(&m->codec, &w->codec, err);
    if (rc == 0)
        rc = take_files(m, w, err);
    if (rc == 0)
        rc = take_shards(m, w, err);
    return rc;
}

int ps_manifest_decode(struct ps_manifest **out, const void *bytes, size_t len, struct ps_err *err)
{
    uint64_t version = 0;
    if (len > PS_MANIFEST_MAX_BYTES)
        return bad(err, "is absurdly large");
    int rc = read_version(bytes, len, &version, err);
    if (rc != 0)
        return rc;
    if (version > PS_FORMAT_VERSION)
        return newer(err, PS_MANIFEST_NAME, version);
    struct ps_pb_alloc pb;
    ps_pb_alloc_init(&pb, len);
    Ps__Wire__Manifest *w = ps__wire__manifest__unpack(&pb.allocator, len, bytes);
    if (!w)
        return pb.out_of_memory ? no_memory(err) : bad(err, "is damaged");
    struct ps_manifest *m = ps_calloc(1, sizeof *m);
    rc = m ? take_manifest(m, w, err) : no_memory(err);
    ps__wire__manifest__free_unpacked(w, &pb.allocator);
    if (rc == 0)
        rc = check_manifest(m, err);
    if (rc == 0)
        rc = check_shard_names(m, err);
    if (rc != 0) {
        ps_manifest_free(m);
        return rc;
    }
    ps_sha256_once(bytes, len, m->id);
    *out = m;
    return 0;
}

/* ---- Writing ---- */

static ProtobufCBinaryData wire_bytes(const void *data, size_t len)
{
    /* protobuf-c has no const; packing only reads */
    return (ProtobufCBinaryData){.len = len, .data = (uint8_t *)(uintptr_t)data};
}

/* Arrays of sub-messages and of pointers to them, as protobuf-c wants them. */
struct wire_lists {
    Ps__Wire__File *files;
    Ps__Wire__File **file_at;
    Ps__Wire__Shard *shards;
    Ps__Wire__Shard **shard_at;
};

static bool wire_lists_init(struct wire_lists *l, const struct ps_manifest *m)
{
    l->files = ps_calloc(m->n_files, sizeof *l->files);
    l->file_at = ps_calloc(m->n_files, sizeof *l->file_at);
    l->shards = ps_calloc(m->n_shards, sizeof *l->shards);
    l->shard_at = ps_calloc(m->n_shards, sizeof *l->shard_at);
    if (!l->files || !l->file_at || !l->shards || !l->shard_at)
        return false;
    for (uint32_t i = 0; i < m->n_files; i++) {
        ps__wire__file__init(&l->files[i]);
        l->files[i].name = wire_bytes(m->files[i].name, strlen(m->files[i].name));
        l->files[i].size = m->files[i].bytes;
        l->files[i].sha256 = wire_bytes(m->files[i].sha256, PS_SHA256_BYTES);
        l->file_at[i] = &l->files[i];
    }
    for (uint32_t i = 0; i < m->n_shards; i++) {
        ps__wire__shard__init(&l->shards[i]);
        l->shards[i].size = m->shards[i].bytes;
        l->shards[i].index_size = m->shards[i].index_bytes;
        l->shards[i].index_sha256 = wire_bytes(m->shards[i].index_sha256, PS_SHA256_BYTES);
        l->shards[i].layer = m->shards[i].layer;
        l->shards[i].n_extents = m->shards[i].n_extents;
        l->shard_at[i] = &l->shards[i];
    }
    return true;
}

static void wire_lists_deinit(struct wire_lists *l)
{
    ps_free(l->files);
    ps_free(l->file_at);
    ps_free(l->shards);
    ps_free(l->shard_at);
}

int ps_manifest_encode(struct ps_manifest *m, char **bytes, size_t *len, struct ps_err *err)
{
    int rc = check_manifest(m, err);
    if (rc != 0)
        return rc;
    struct wire_lists l = {0};
    if (!wire_lists_init(&l, m)) {
        wire_lists_deinit(&l);
        return no_memory(err);
    }
    Ps__Wire__Manifest w;
    ps__wire__manifest__init(&w);
    w.version = m->version = PS_FORMAT_VERSION;
    w.source_label = wire_bytes(m->source_label, strlen(m->source_label));
    w.architecture = wire_bytes(m->architecture, strlen(m->architecture));
    w.codec = wire_bytes(m->codec, strlen(m->codec));
    w.raw_bytes = m->raw_bytes;
    w.stored_bytes = m->stored_bytes;
    w.has_source_bytes = m->source_bytes != 0 && m->source_bytes != m->raw_bytes;
    w.source_bytes = m->source_bytes;
    w.n_tensors = m->n_tensors;
    w.n_extents = m->n_extents;
    w.extent_target_bytes = m->extent_target_bytes;
    w.n_files = m->n_files;
    w.files = l.file_at;
    w.n_shards = m->n_shards;
    w.shards = l.shard_at;
    size_t size = ps__wire__manifest__get_packed_size(&w);
    char *packed = size <= PS_MANIFEST_MAX_BYTES ? ps_malloc(size) : NULL;
    if (packed) {
        ps__wire__manifest__pack(&w, (uint8_t *)packed);
        ps_sha256_once(packed, size, m->id);
        *bytes = packed;
        *len = size;
    }
    wire_lists_deinit(&l);
    return packed ? 0 : no_memory(err);
}

/* ---- Shards: their heads, and the map of all ---- */

static uint32_t get_le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void ps_shard_head_write(uint8_t head[PS_SHARD_HEAD_BYTES], uint32_t index_bytes)
{
    memcpy(head, shard_magic, sizeof shard_magic);
    for (int i = 0; i < 4; i++) {
        head[8 + i] = (uint8_t)((uint32_t)PS_FORMAT_VERSION >> (8 * i));
        head[12 + i] = (uint8_t)(index_bytes >> (8 * i));
    }
}

int ps_manifest_check_index(const struct ps_manifest *m, uint32_t shard, const void *bytes,
                            size_t len, const void **index, struct ps_err *err)
{
    PS_ASSERT(shard < m->n_shards);
    const struct ps_manifest_shard *s = &m->shards[shard];
    const uint8_t *p = bytes;
    if (len < PS_SHARD_HEAD_BYTES || memcmp(p, shard_magic, sizeof shard_magic) != 0)
        return ps_err_set(err, PS_EDATA, ORIGIN, "%s: is not a shard", s->name);
    if (get_le32(p + 8) > PS_FORMAT_VERSION)
        return newer(err, s->name, get_le32(p + 8));
    if (get_le32(p + 8) == 0 || get_le32(p + 12) != s->index_bytes ||
        len - PS_SHARD_HEAD_BYTES < s->index_bytes)
        return ps_err_set(err, PS_EDATA, ORIGIN, "%s: its head does not fit the manifest", s->name);
    uint8_t sha[PS_SHA256_BYTES];
    ps_sha256_once(p + PS_SHARD_HEAD_BYTES, s->index_bytes, sha);
    if (memcmp(sha, s->index_sha256, sizeof sha) != 0)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "%s: its index has another hash than the manifest says", s->name);
    *index = p + PS_SHARD_HEAD_BYTES;
    return 0;
}

/* How many of everything the indexes hold, checked against the manifest before arrays of that size are made. */
static int count_parts(struct ps_map *m, const struct ps_manifest *man,
                       struct ps_shard_index *const *indexes, struct ps_err *err)
{
    uint64_t tensors = 0, extents = 0, blocks = 0;
    for (uint32_t i = 0; i < man->n_shards; i++) {
        const struct ps_shard_index *x = indexes[i];
        uint64_t in_shard = 0;
        for (uint32_t k = 0; k < x->n_tensors; k++) {
            in_shard += x->tensors[k].n_extents;
            for (uint32_t e = 0; e < x->tensors[k].n_extents; e++)
                blocks += x->tensors[k].extents[e].n_blocks;
        }
        if (in_shard != man->shards[i].n_extents || x->layer != man->shards[i].layer)
            return ps_err_set(err, PS_EDATA, ORIGIN, "%s: its index does not fit the manifest",
                              man->shards[i].name);
        tensors += x->n_tensors;
        extents += in_shard;
    }
    if (tensors != man->n_tensors || extents != man->n_extents || blocks > UINT32_MAX)
        return bad(err, "its counts do not fit its shards");
    m->n_tensors = (uint32_t)tensors;
    m->n_extents = (uint32_t)extents;
    m->n_blocks = (uint32_t)blocks;
    return 0;
}

struct cursor { /* what has been filled so far */
    uint32_t tensors, extents, blocks;
};

static void map_extent(struct ps_map *m, struct cursor *at, const struct ps_shard_extent *from,
                       uint32_t object)
{
    struct ps_extent *e = &m->extents[at->extents++];
    e->offset = from->offset;
    e->row0 = from->row0;
    e->n_rows = from->n_rows;
    e->stored_bytes = from->stored_bytes;
    e->raw_bytes = from->raw_bytes;
    e->tensor = at->tensors;
    e->object = object;
    e->codec = from->codec;
    e->dtype = from->dtype;
    e->hashed = true;
    memcpy(e->key, from->sha256, PS_SHA256_BYTES);
    e->first_block = at->blocks;
    e->n_blocks = from->n_blocks;
    if (from->n_blocks != 0)
        memcpy(m->block_bytes + at->blocks, from->block_bytes,
               from->n_blocks * sizeof from->block_bytes[0]);
    at->blocks += from->n_blocks;
}

static int map_shard(struct ps_map *m, struct cursor *at, const struct ps_shard_index *x,
                     uint32_t object, struct ps_err *err)
{
    for (uint32_t k = 0; k < x->n_tensors; k++) {
        const struct ps_shard_tensor *from = &x->tensors[k];
        struct ps_tensor *t = &m->tensors[at->tensors];
        uint64_t raw_bytes;
        t->name = ps_strdup(from->name);
        if (!t->name)
            return no_memory(err);
        int rc = ps_tensor_set_shape(t, from->dtype, from->shape, from->n_dims, &raw_bytes, err);
        if (rc != 0)
            return rc;
        t->object = object;
        t->layer = ps_layer_of_name(t->name);
        t->first_extent = at->extents;
        t->n_extents = from->n_extents;
        t->rounded = from->rounded;
        t->error = from->error;
        for (uint32_t e = 0; e < from->n_extents; e++)
            map_extent(m, at, &from->extents[e], object);
        at->tensors++;
    }
    return 0;
}

static int map_shards(struct ps_map *m, const struct ps_manifest *man,
                      struct ps_shard_index *const *indexes, struct ps_err *err)
{
    m->objects = ps_calloc(man->n_shards, sizeof *m->objects);
    m->tensors = ps_calloc(m->n_tensors, sizeof *m->tensors);
    m->extents = ps_calloc(m->n_extents, sizeof *m->extents);
    m->block_bytes = ps_calloc(m->n_blocks, sizeof *m->block_bytes);
    if (!m->objects || !m->tensors || !m->extents || !m->block_bytes)
        return no_memory(err);
    struct cursor at = {0};
    for (uint32_t i = 0; i < man->n_shards; i++) {
        struct ps_object *o = &m->objects[i];
        o->name = ps_strdup(man->shards[i].name);
        if (!o->name)
            return no_memory(err);
        o->bytes = man->shards[i].bytes;
        m->n_objects++;
        int rc = map_shard(m, &at, indexes[i], i, err);
        if (rc != 0)
            return rc;
    }
    int rc = ps_map_index_names(m, err);
    if (rc != 0)
        return rc;
    ps_map_total(m);
    if (m->raw_bytes != man->raw_bytes || m->stored_bytes != man->stored_bytes)
        return bad(err, "its totals do not fit its shards");
    return 0;
}

int ps_map_from_manifest(struct ps_map **out, const struct ps_manifest *m,
                         struct ps_shard_index *const *indexes, struct ps_err *err)
{
    struct ps_map *map = ps_calloc(1, sizeof *map);
    if (!map)
        return no_memory(err);
    int rc = count_parts(map, m, indexes, err);
    if (rc == 0)
        rc = map_shards(map, m, indexes, err);
    if (rc != 0) {
        if (!map->tensors)
            map->n_tensors = 0;
        ps_map_free(map);
        return rc;
    }
    memcpy(map->model_id, m->id, PS_SHA256_BYTES);
    map->presplit = true;
    map->extent_target_bytes = m->extent_target_bytes;
    *out = map;
    return 0;
}
