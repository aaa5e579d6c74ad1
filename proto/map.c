/* The map and its builder. Comes in: objects and tensors (from safetensors headers; manifest.c
 * makes the map of a pre-split model with the same parts). Goes out: an immutable struct ps_map
 * whose extents everything downstream speaks of. */
#include "proto/map.h"

#include <string.h>

#include "base/alloc.h"
#include "proto/map_internal.h"
#include "proto/name_set.h"
#include "proto/quant.h"
#include "proto/source.h"

#define MAX_OBJECTS (1u << 16)
#define ORIGIN      "proto"

/* What add_tensor knows and the finished map does not need: parallel to m->tensors. */
struct pending {
    uint64_t offset;
    bool gather;
};

struct ps_map_builder {
    struct ps_map *m;
    struct pending *pending;
    uint32_t tensors_cap, objects_cap;
    struct ps_name_set names;
};

static const char *tensor_name_at(const void *user, uint32_t i)
{
    return ((const struct ps_map *)user)->tensors[i].name;
}

static void object_deinit(struct ps_object *o)
{
    ps_free(o->name);
    ps_free(o->etag);
    ps_free(o->identity);
}

void ps_map_free(struct ps_map *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; i < m->n_objects; i++)
        object_deinit(&m->objects[i]);
    for (uint32_t i = 0; i < m->n_tensors; i++)
        ps_free(m->tensors[i].name);
    ps_free(m->objects);
    ps_free(m->tensors);
    ps_free(m->extents);
    ps_free(m->block_bytes);
    ps_free(m->name_hash);
    ps_free(m);
}

int64_t ps_map_find(const struct ps_map *m, const char *name)
{
    const struct ps_name_set view = {.slots = m->name_hash,
                                     .size = m->name_hash_size,
                                     .seed = m->name_seed};
    return ps_name_set_find(&view, tensor_name_at, m, name);
}

static void map_take_names(struct ps_map *m, struct ps_name_set *s)
{
    m->name_hash = s->slots;
    m->name_hash_size = s->size;
    m->name_seed = s->seed;
    s->slots = NULL;
    s->size = s->count = 0;
}

int ps_map_index_names(struct ps_map *m, struct ps_err *err)
{
    struct ps_name_set set;
    ps_name_set_init(&set);
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        int rc = ps_name_set_insert(&set, tensor_name_at, m, i);
        if (rc != 0) {
            ps_name_set_deinit(&set);
            return rc == PS_EDATA
                       ? ps_err_set(err, rc, ORIGIN, "tensor %s: listed twice", m->tensors[i].name)
                       : ps_err_set(err, rc, ORIGIN, "out of memory for tensor names");
        }
    }
    map_take_names(m, &set);
    return 0;
}

uint32_t ps_extent_target(uint64_t stored_bytes)
{
    uint64_t limit = stored_bytes / 64;
    uint32_t target = PS_EXTENT_MIN_BYTES;
    while (target < PS_EXTENT_MAX_BYTES && (uint64_t)target * 2 < limit)
        target *= 2;
    return target;
}

uint32_t ps_extent_rows(uint64_t row_bytes, uint32_t target_bytes)
{
    uint32_t block_rows = ps_block_rows(row_bytes);
    if (row_bytes == 0)
        return block_rows;
    /* row_bytes * block_rows can't overflow: either block_rows is 1 or the product is at most PS_BLOCK_BYTES */
    uint64_t blocks = target_bytes / (row_bytes * block_rows);
    return block_rows * (blocks ? (uint32_t)blocks : 1);
}

static int shape_overflow(const struct ps_tensor *t, struct ps_err *err)
{
    return ps_err_set(err, PS_EDATA, ORIGIN, "tensor %s: its shape overflows", t->name);
}

/* Bytes of a row of `cols` elements. PS_EDATA: no such type; a type of blocks, which only matrices have. */
static int row_bytes_of(uint64_t *out, const struct ps_tensor *t, enum ps_dtype dtype,
                        unsigned n_dims, uint64_t cols, struct ps_err *err)
{
    size_t element = ps_dtype_bytes(dtype);
    if (dtype == PS_Q8B64 || dtype == PS_NF4B64) {
        if (n_dims != 2)
            return ps_err_set(err, PS_EDATA, ORIGIN, "tensor %s: %s of %u dimensions", t->name,
                              ps_dtype_name(dtype), n_dims);
        *out = cols > SIZE_MAX / 2 ? 0 : ps_quant_row_bytes(dtype, (size_t)cols);
        return *out != 0 || cols == 0 ? 0 : shape_overflow(t, err);
    }
    if (element == 0)
        return ps_err_set(err, PS_EDATA, ORIGIN, "tensor %s: unknown element type %d", t->name,
                          (int)dtype);
    return __builtin_mul_overflow(cols, (uint64_t)element, out) ? shape_overflow(t, err) : 0;
}

int ps_tensor_set_shape(struct ps_tensor *t, enum ps_dtype dtype, const uint64_t *shape,
                        unsigned n_dims, uint64_t *raw_bytes, struct ps_err *err)
{
    if (n_dims > PS_MAX_DIMS)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "tensor %s: %u dimensions, at most %d are supported", t->name, n_dims,
                          PS_MAX_DIMS);
    uint64_t rows = n_dims >= 2 ? shape[0] : 1, cols = 1, row_bytes = 0, total;
    for (unsigned i = n_dims >= 2 ? 1 : 0; i < n_dims; i++)
        if (__builtin_mul_overflow(cols, shape[i], &cols))
            return shape_overflow(t, err);
    int rc = row_bytes_of(&row_bytes, t, dtype, n_dims, cols, err);
    if (rc != 0)
        return rc;
    if (__builtin_mul_overflow(rows, row_bytes, &total) || total > INT64_MAX)
        return shape_overflow(t, err);
    if (total != 0 && row_bytes > PS_MAX_ROW_BYTES)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "tensor %s: rows of %llu bytes, at most %u are supported", t->name,
                          (unsigned long long)row_bytes, PS_MAX_ROW_BYTES);
    t->dtype = dtype;
    t->n_dims = (uint8_t)n_dims;
    memset(t->shape, 0, sizeof t->shape);
    if (n_dims > 0)
        memcpy(t->shape, shape, n_dims * sizeof shape[0]);
    t->rows = rows;
    t->cols = cols;
    t->row_bytes = row_bytes;
    t->block_rows = ps_block_rows(row_bytes);
    *raw_bytes = total;
    return 0;
}

/* Decimal number that fills [s, s + len), below 10^6: more layers than any model, fewer than any overflow. */
static int32_t layer_number(const char *s, size_t len)
{
    if (len == 0 || len > 6)
        return -1;
    int32_t v = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        v = v * 10 + (s[i] - '0');
    }
    return v;
}

int32_t ps_layer_of_name(const char *name)
{
    for (const char *part = name; part;) {
        const char *dot = strchr(part, '.');
        size_t len = dot ? (size_t)(dot - part) : strlen(part);
        bool before_number =
            (len == 6 && memcmp(part, "layers", 6) == 0) || (len == 1 && part[0] == 'h');
        if (dot && before_number) {
            const char *end = strchr(dot + 1, '.');
            int32_t n = end ? layer_number(dot + 1, (size_t)(end - dot - 1)) : -1;
            if (n >= 0)
                return n;
        }
        part = dot ? dot + 1 : NULL;
    }
    return -1;
}

int ps_map_builder_new(struct ps_map_builder **out)
{
    struct ps_map_builder *b = ps_calloc(1, sizeof *b);
    if (!b)
        return PS_ENOMEM;
    b->m = ps_calloc(1, sizeof *b->m);
    if (!b->m) {
        ps_free(b);
        return PS_ENOMEM;
    }
    ps_name_set_init(&b->names);
    *out = b;
    return 0;
}

void ps_map_builder_free(struct ps_map_builder *b)
{
    if (!b)
        return;
    ps_map_free(b->m);
    ps_free(b->pending);
    ps_name_set_deinit(&b->names);
    ps_free(b);
}

/* Room for one more element behind *p, doubling. */
static int reserve_one(void **p, uint32_t *cap, uint32_t n, size_t each)
{
    if (n < *cap)
        return 0;
    uint32_t bigger = *cap ? *cap * 2 : 16;
    void *q = ps_realloc_array(*p, bigger, each);
    if (!q)
        return PS_ENOMEM;
    *p = q;
    *cap = bigger;
    return 0;
}

/* A copy of s, or NULL for NULL; *failed is set when memory runs out, so that several copies need one check. */
static char *copy_text(const char *s, bool *failed)
{
    char *copy = s ? ps_strdup(s) : NULL;
    *failed |= s && !copy;
    return copy;
}

int ps_map_add_object(struct ps_map_builder *b, const char *name, uint64_t bytes, const char *etag,
                      const char *identity, uint32_t *index, struct ps_err *err)
{
    struct ps_map *m = b->m;
    if (!ps_name_ok(name, strlen(name)))
        return ps_err_set(err, PS_EDATA, ORIGIN, "object name %.200s is not allowed", name);
    if (m->n_objects >= MAX_OBJECTS)
        return ps_err_set(err, PS_EDATA, ORIGIN, "more than %u objects", MAX_OBJECTS);
    if (reserve_one((void **)&m->objects, &b->objects_cap, m->n_objects, sizeof *m->objects) != 0)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for objects");
    bool failed = false;
    struct ps_object o = {.name = copy_text(name, &failed), .bytes = bytes};
    o.etag = copy_text(etag && etag[0] ? etag : NULL, &failed);
    o.identity = copy_text(identity && identity[0] ? identity : NULL, &failed);
    if (failed) {
        object_deinit(&o);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for objects");
    }
    m->objects[m->n_objects] = o;
    *index = m->n_objects++;
    return 0;
}

/* Both arrays grow together; capacity counts only when both have it. */
static int reserve_tensor(struct ps_map_builder *b)
{
    uint32_t cap = b->tensors_cap;
    int rc = reserve_one((void **)&b->m->tensors, &cap, b->m->n_tensors, sizeof *b->m->tensors);
    if (rc != 0)
        return rc;
    return reserve_one((void **)&b->pending, &b->tensors_cap, b->m->n_tensors, sizeof *b->pending);
}

static int check_place(const struct ps_map *m, const struct ps_tensor *t, uint64_t offset,
                       uint64_t bytes, struct ps_err *err)
{
    const struct ps_object *o = &m->objects[t->object];
    uint64_t end;
    if (__builtin_add_overflow(offset, bytes, &end) || end > INT64_MAX ||
        (o->bytes != 0 && end > o->bytes))
        return ps_err_set(err, PS_EDATA, ORIGIN, "tensor %s: its bytes reach beyond the end of %s",
                          t->name, o->name);
    return 0;
}

int ps_map_add_tensor(struct ps_map_builder *b, const char *name, enum ps_dtype dtype,
                      const uint64_t *shape, unsigned n_dims, uint32_t object, uint64_t offset,
                      bool gather, struct ps_err *err)
{
    struct ps_map *m = b->m;
    PS_ASSERT(object < m->n_objects);
    if (m->n_tensors >= PS_MAX_TENSORS)
        return ps_err_set(err, PS_EDATA, ORIGIN, "more than %u tensors", PS_MAX_TENSORS);
    struct ps_tensor t = {.name = ps_strdup(name), .object = object, .layer = ps_layer_of_name(name)};
    if (!t.name || reserve_tensor(b) != 0) {
        ps_free(t.name);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for tensors");
    }
    uint64_t raw_bytes;
    int rc = ps_tensor_set_shape(&t, dtype, shape, n_dims, &raw_bytes, err);
    if (rc == 0)
        rc = check_place(m, &t, offset, raw_bytes, err);
    if (rc == 0 && __builtin_add_overflow(m->raw_bytes, raw_bytes, &m->raw_bytes))
        rc = shape_overflow(&t, err);
    if (rc == 0) {
        m->tensors[m->n_tensors] = t;
        b->pending[m->n_tensors] = (struct pending){.offset = offset, .gather = gather};
        rc = ps_name_set_insert(&b->names, tensor_name_at, m, m->n_tensors);
        if (rc == PS_EDATA)
            ps_err_set(err, rc, ORIGIN, "tensor %s: listed twice", name);
        else if (rc != 0)
            ps_err_set(err, rc, ORIGIN, "out of memory for tensor names");
    }
    if (rc != 0) {
        ps_free(t.name);
        return rc;
    }
    m->n_tensors++;
    return 0;
}

static uint32_t tensor_extent_rows(const struct ps_map_builder *b, uint32_t tensor)
{
    uint32_t target = b->pending[tensor].gather ? PS_EXTENT_MIN_BYTES : b->m->extent_target_bytes;
    return ps_extent_rows(b->m->tensors[tensor].row_bytes, target);
}

/* Says how many extents every tensor has; their sum is checked before anything of that size is allocated. */
static int count_extents(struct ps_map_builder *b, struct ps_err *err)
{
    struct ps_map *m = b->m;
    uint64_t total = 0;
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        struct ps_tensor *t = &m->tensors[i];
        uint32_t per = tensor_extent_rows(b, i);
        uint64_t n = t->row_bytes == 0 ? 0 : t->rows / per + (t->rows % per != 0);
        if (n > PS_MAX_EXTENTS || (total += n) > PS_MAX_EXTENTS)
            return ps_err_set(err, PS_EDATA, ORIGIN, "more than %u extents", PS_MAX_EXTENTS);
        t->first_extent = (uint32_t)(total - n);
        t->n_extents = (uint32_t)n;
    }
    m->n_extents = (uint32_t)total;
    return 0;
}

static void put_le64(uint8_t *p, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* Cache keys of one object's extents: SHA-256 of a fixed text, the identity, and where the bytes
 * lie. One buffer per object, of which only the last 16 bytes change: 100,000 keys are one short
 * hash each and nothing else. */
struct key_input {
    uint8_t *bytes; /* heap */
    size_t len;
};

static int key_input_init(struct key_input *k, const struct ps_map *m, const struct ps_object *o)
{
    static const char tag[] = "penstock-extent-1"; /* its NUL is part of it */
    /* Without an identity nothing tells two versions of an object apart but the model's id: the
     * keys then hold for this model alone. */
    char own[2 * PS_SHA256_BYTES + 2] = "";
    if (!o->identity) {
        ps_hex_encode(m->model_id, PS_SHA256_BYTES, own);
        own[2 * PS_SHA256_BYTES] = '/';
        own[2 * PS_SHA256_BYTES + 1] = '\0';
    }
    const char *rest = o->identity ? o->identity : o->name;
    size_t own_len = strlen(own), rest_len = strlen(rest);
    k->len = sizeof tag + own_len + rest_len + 1 + 16;
    k->bytes = ps_malloc(k->len);
    if (!k->bytes)
        return PS_ENOMEM;
    memcpy(k->bytes, tag, sizeof tag);
    memcpy(k->bytes + sizeof tag, own, own_len);
    memcpy(k->bytes + sizeof tag + own_len, rest, rest_len + 1);
    return 0;
}

static void key_derive(struct key_input *k, struct ps_extent *e)
{
    put_le64(k->bytes + k->len - 16, e->offset);
    put_le64(k->bytes + k->len - 8, e->stored_bytes);
    ps_sha256_once(k->bytes, k->len, e->key);
}

static void cut_tensor(struct ps_map_builder *b, uint32_t tensor, struct key_input *key)
{
    struct ps_map *m = b->m;
    const struct ps_tensor *t = &m->tensors[tensor];
    uint64_t row = 0, per = tensor_extent_rows(b, tensor);
    for (uint32_t i = 0; i < t->n_extents; i++, row += per) {
        struct ps_extent *e = &m->extents[t->first_extent + i];
        uint64_t n = t->rows - row < per ? t->rows - row : per;
        e->offset = b->pending[tensor].offset + row * t->row_bytes;
        e->row0 = row;
        e->n_rows = (uint32_t)n;
        e->raw_bytes = e->stored_bytes = (uint32_t)(n * t->row_bytes);
        e->tensor = tensor;
        e->object = t->object;
        e->codec = PS_CODEC_RAW;
        e->dtype = (uint8_t)t->dtype;
        key_derive(key, e);
    }
}

/* Tensors of one object usually follow each other, so the key buffer is remade only where the object changes. */
static int cut_extents(struct ps_map_builder *b)
{
    struct ps_map *m = b->m;
    m->extents = ps_calloc(m->n_extents, sizeof *m->extents);
    if (!m->extents)
        return PS_ENOMEM;
    struct key_input key = {0};
    int rc = 0;
    for (uint32_t i = 0; i < m->n_tensors && rc == 0; i++) {
        if (!key.bytes || m->tensors[i].object != m->tensors[i - 1].object) {
            ps_free(key.bytes);
            key.bytes = NULL;
            rc = key_input_init(&key, m, &m->objects[m->tensors[i].object]);
        }
        if (rc == 0)
            cut_tensor(b, i, &key);
    }
    ps_free(key.bytes);
    return rc;
}

void ps_map_total(struct ps_map *m)
{
    m->raw_bytes = m->stored_bytes = 0;
    m->max_raw_bytes = m->max_stored_bytes = 0;
    for (uint32_t i = 0; i < m->n_extents; i++) {
        const struct ps_extent *e = &m->extents[i];
        m->raw_bytes += e->raw_bytes;
        m->stored_bytes += e->stored_bytes;
        if (e->raw_bytes > m->max_raw_bytes)
            m->max_raw_bytes = e->raw_bytes;
        if (e->stored_bytes > m->max_stored_bytes)
            m->max_stored_bytes = e->stored_bytes;
    }
}

int ps_map_builder_finish(struct ps_map **out, struct ps_map_builder *b,
                          const uint8_t model_id[PS_SHA256_BYTES], struct ps_err *err)
{
    struct ps_map *m = b->m;
    memcpy(m->model_id, model_id, PS_SHA256_BYTES);
    m->extent_target_bytes = ps_extent_target(m->raw_bytes);
    int rc = count_extents(b, err);
    if (rc == 0) {
        rc = cut_extents(b);
        if (rc != 0)
            ps_err_set(err, rc, ORIGIN, "out of memory for %u extents", m->n_extents);
    }
    if (rc == 0) {
        ps_map_total(m);
        map_take_names(m, &b->names);
        *out = m;
        b->m = NULL;
    }
    ps_map_builder_free(b);
    return rc;
}
