/* A shard's index. Comes in: its bytes, already checked against the manifest's hash, yet written
 * by anyone. Goes out: tensors and extents that lie inside the shard, do not overlap and cover
 * their tensors exactly. Also the writing direction, for the split. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "proto/manifest.h"
#include "proto/manifest.pb-c.h"
#include "proto/map_internal.h"
#include "proto/pb_alloc.h"

#define ORIGIN     "shard"
#define MAX_NAME   65535u
#define MAX_LAYERS 1000000

static int bad(struct ps_err *err, const char *tensor, const char *what)
{
    return ps_err_set(err, PS_EDATA, ORIGIN, "shard index: %s%s%s", tensor ? tensor : "",
                      tensor ? ": " : "", what);
}

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for a shard index");
}

void ps_shard_index_free(struct ps_shard_index *x)
{
    if (!x)
        return;
    ps_free(x->arena);
    ps_free(x);
}

/* ---- Reading ---- */

/* One allocation holds everything that the index needs; these are the parts still free in it. */
struct arena {
    struct ps_shard_tensor *tensors;
    struct ps_shard_extent *extents;
    uint32_t *blocks;
    char *names;
};

struct totals {
    size_t tensors, extents, blocks, name_bytes;
};

/* List lengths must agree with each other before anything trusts one of them. */
static int check_lists(const Ps__Wire__Tensor *w, struct ps_err *err)
{
    size_t n = w->n_n_rows;
    if (w->name.len > MAX_NAME || (w->name.len != 0 && memchr(w->name.data, '\0', w->name.len)))
        return bad(err, NULL, "a tensor name is not allowed");
    if (w->n_stored != n || w->n_shape > PS_MAX_DIMS)
        return bad(err, NULL, "its lists do not fit each other");
    if ((w->n_offset != n && w->n_offset != 1) || (w->n_codec != n && w->n_codec > 1))
        return bad(err, NULL, "its lists do not fit each other");
    if (w->n_extent_dtype != 0 && w->n_extent_dtype != n)
        return bad(err, NULL, "its lists do not fit each other");
    if (n == 0 ? w->n_block_bytes != 0 : w->n_offset == 0)
        return bad(err, NULL, "its lists do not fit each other");
    size_t hash_bytes = w->has_sha256 ? w->sha256.len : 0;
    if (hash_bytes % PS_SHA256_BYTES != 0 || hash_bytes / PS_SHA256_BYTES != n)
        return bad(err, NULL, "it lacks hashes");
    return 0;
}

static int count_totals(struct totals *t, const Ps__Wire__ShardIndex *w, struct ps_err *err)
{
    memset(t, 0, sizeof *t);
    if (w->layer < -1 || w->layer >= MAX_LAYERS)
        return bad(err, NULL, "absurd layer number");
    for (size_t i = 0; i < w->n_tensors; i++) {
        int rc = check_lists(w->tensors[i], err);
        if (rc != 0)
            return rc;
        t->tensors++;
        t->extents += w->tensors[i]->n_n_rows;
        t->blocks += w->tensors[i]->n_block_bytes;
        t->name_bytes += w->tensors[i]->name.len + 1;
    }
    if (t->tensors > PS_MAX_TENSORS || t->extents > PS_MAX_EXTENTS)
        return bad(err, NULL, "too many tensors or extents");
    return 0;
}

/* Every count is bounded by the 64 MiB of the wire form, so these sums can't overflow. */
static int arena_new(struct ps_shard_index *x, struct arena *a, const struct totals *t)
{
    size_t tensors = t->tensors * sizeof *a->tensors, extents = t->extents * sizeof *a->extents;
    size_t blocks = t->blocks * sizeof *a->blocks;
    char *p = ps_calloc(1, tensors + extents + blocks + t->name_bytes + 1);
    if (!p)
        return PS_ENOMEM;
    x->arena = p;
    /* ordered by alignment: the first two hold 8-byte members, their sizes are multiples of 8 */
    a->tensors = (struct ps_shard_tensor *)(void *)p;
    a->extents = (struct ps_shard_extent *)(void *)(p + tensors);
    a->blocks = (uint32_t *)(void *)(p + tensors + extents);
    a->names = p + tensors + extents + blocks;
    return 0;
}

/* Blocks of a coded extent: block_rows rows each, counted from its first row, none larger than it
 * would be unpacked. */
static int take_blocks(struct ps_shard_extent *e, const struct ps_tensor *shape,
                       const Ps__Wire__Tensor *w, size_t *next_block, struct arena *a)
{
    uint32_t n = e->n_rows / shape->block_rows + (e->n_rows % shape->block_rows != 0);
    if (n > w->n_block_bytes - *next_block)
        return PS_EDATA;
    uint64_t sum = 0, rows_left = e->n_rows;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t rows = rows_left < shape->block_rows ? rows_left : shape->block_rows;
        uint32_t bytes = w->block_bytes[*next_block + i];
        if (bytes == 0 || bytes > rows * shape->row_bytes)
            return PS_EDATA;
        a->blocks[i] = bytes;
        sum += bytes;
        rows_left -= rows;
    }
    if (sum != e->stored_bytes)
        return PS_EDATA;
    e->block_bytes = a->blocks;
    e->n_blocks = n;
    a->blocks += n;
    *next_block += n;
    return 0;
}

/* What the types of blocks may be widened to, and their place in that order; 0: not a type of an extent. */
static unsigned width_of(enum ps_dtype t)
{
    switch (t) {
    case PS_NF4B64: return 1;
    case PS_Q8B64: return 2;
    case PS_F32:
    case PS_F16:
    case PS_BF16: return 3;
    default: return 0;
    }
}

/* The tensor as one extent has it: its type, and its rows and blocks in that type. */
static int extent_shape(struct ps_tensor *out, const struct ps_tensor *shape,
                        const Ps__Wire__Tensor *w, size_t i, struct ps_err *err)
{
    *out = *shape;
    if (w->n_extent_dtype == 0 || w->extent_dtype[i] == (uint32_t)shape->dtype)
        return 0;
    unsigned width = width_of((enum ps_dtype)w->extent_dtype[i]);
    if (shape->dtype != PS_Q8B64 && shape->dtype != PS_NF4B64)
        return bad(err, shape->name, "its extents have other types than its own");
    if (width <= width_of(shape->dtype))
        return bad(err, shape->name, "an extent has a type that its tensor can't have");
    uint64_t raw_bytes;
    return ps_tensor_set_shape(out, (enum ps_dtype)w->extent_dtype[i], shape->shape, shape->n_dims,
                               &raw_bytes, err);
}

/* Where an extent begins: stated for each, or behind the one before. */
static uint64_t extent_offset(const Ps__Wire__Tensor *w, size_t i,
                              const struct ps_shard_extent *before)
{
    if (w->n_offset > 1 || i == 0)
        return w->offset[i];
    return before->offset + before->stored_bytes; /* that one's end has been checked */
}

static int take_extent(struct ps_shard_extent *e, const struct ps_tensor *shape,
                       const Ps__Wire__Tensor *w, size_t i, uint64_t row0, uint64_t data_begin,
                       uint64_t data_end, struct ps_err *err)
{
    uint64_t rows = w->n_rows[i];
    if (rows == 0 || rows > shape->rows - row0)
        return bad(err, shape->name, "its extents do not cover its rows");
    uint64_t raw =
        rows * shape->row_bytes; /* at most rows * row_bytes of the shape, which was checked */
    if (raw > PS_EXTENT_MAX_BYTES && rows > 1)
        return bad(err, shape->name, "an extent is too large");
    uint64_t offset = extent_offset(w, i, e - 1);
    uint32_t stored = w->stored[i];
    if (stored == 0 || offset < data_begin || offset > data_end || stored > data_end - offset)
        return bad(err, shape->name, "an extent lies outside of the shard");
    e->offset = offset;
    e->row0 = row0;
    e->n_rows = (uint32_t)rows;
    e->stored_bytes = stored;
    e->raw_bytes = (uint32_t)raw; /* one row is at most PS_MAX_ROW_BYTES */
    e->dtype = (uint8_t)shape->dtype;
    memcpy(e->sha256, w->sha256.data + i * PS_SHA256_BYTES, PS_SHA256_BYTES);
    uint32_t codec = w->n_codec == 0 ? PS_CODEC_RAW : w->codec[w->n_codec == 1 ? 0 : i];
    if (!ps_codec_known(codec))
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                          "shard index: %s: codec %u is not known to this version (known: %s)",
                          shape->name, codec, PS_CODECS_KNOWN);
    e->codec = (uint8_t)codec;
    return 0;
}

static int take_extents(struct ps_shard_tensor *t, const struct ps_tensor *shape,
                        const Ps__Wire__Tensor *w, uint64_t data_begin, uint64_t data_end,
                        struct arena *a, struct ps_err *err)
{
    size_t next_block = 0;
    uint64_t row = 0;
    t->extents = a->extents;
    for (size_t i = 0; i < w->n_n_rows; i++, a->extents++) {
        struct ps_shard_extent *e = a->extents;
        struct ps_tensor own;
        int rc = extent_shape(&own, shape, w, i, err);
        if (rc == 0)
            rc = take_extent(e, &own, w, i, row, data_begin, data_end, err);
        if (rc != 0)
            return rc;
        if (e->codec == PS_CODEC_RAW ? e->stored_bytes != e->raw_bytes
                                     : take_blocks(e, &own, w, &next_block, a) != 0)
            return bad(err, shape->name, "the bytes of an extent do not add up");
        row += e->n_rows;
        t->n_extents++;
    }
    if ((shape->row_bytes != 0 && row != shape->rows) || next_block != w->n_block_bytes)
        return bad(err, shape->name, "its extents do not cover its rows");
    return 0;
}

/* Comparisons that a NaN fails. */
static int take_error(struct ps_shard_tensor *t, const Ps__Wire__Tensor *w, struct ps_err *err)
{
    if (!w->error)
        return 0;
    t->rounded = true;
    t->error = (struct ps_quant_error){.error2 = w->error->error2,
                                       .weight2 = w->error->weight2,
                                       .max_error = w->error->max_error,
                                       .max_weight = w->error->max_weight};
    bool sane = t->error.error2 >= 0 && t->error.error2 <= DBL_MAX && t->error.weight2 >= 0 &&
                t->error.weight2 <= DBL_MAX && t->error.max_error >= 0 &&
                t->error.max_error <= FLT_MAX && t->error.max_weight >= 0 &&
                t->error.max_weight <= FLT_MAX;
    return sane && (t->dtype == PS_Q8B64 || t->dtype == PS_NF4B64)
               ? 0
               : bad(err, t->name, "states an absurd error");
}

static int take_tensor(struct ps_shard_tensor *t, const Ps__Wire__Tensor *w, uint64_t data_begin,
                       uint64_t data_end, struct arena *a, struct ps_err *err)
{
    t->name = a->names; /* the arena is zeroed: the NUL is there */
    if (w->name.len != 0)
        memcpy(t->name, w->name.data, w->name.len);
    a->names += w->name.len + 1;
    struct ps_tensor shape = {.name = t->name};
    uint64_t raw_bytes;
    int rc = ps_tensor_set_shape(&shape, (enum ps_dtype)w->dtype, w->shape, (unsigned)w->n_shape,
                                 &raw_bytes, err);
    if (rc != 0)
        return rc;
    if (raw_bytes == 0 && w->n_n_rows != 0)
        return bad(err, t->name, "is empty but has extents");
    if (raw_bytes == 0)
        shape.row_bytes = 0; /* no rows, or rows of nothing */
    t->dtype = shape.dtype;
    t->n_dims = shape.n_dims;
    rc = take_error(t, w, err);
    if (rc != 0)
        return rc;
    memcpy(t->shape, shape.shape, sizeof t->shape);
    return take_extents(t, &shape, w, data_begin, data_end, a, err);
}

struct span {
    uint64_t begin, end;
};

static int by_begin(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* The writer puts extents one behind the other, so one pass tells; only another order (experts
 * interleaved) needs the sort. */
static int check_overlaps(const struct ps_shard_extent *e, size_t n, struct ps_err *err)
{
    bool ordered = true;
    for (size_t i = 1; i < n && ordered; i++)
        ordered = e[i].offset >= e[i - 1].offset + e[i - 1].stored_bytes;
    if (ordered)
        return 0;
    struct span *s = ps_malloc(n * sizeof *s);
    if (!s)
        return no_memory(err);
    for (size_t i = 0; i < n; i++)
        s[i] = (struct span){e[i].offset, e[i].offset + e[i].stored_bytes};
    qsort(s, n, sizeof *s, by_begin);
    int rc = 0;
    for (size_t i = 1; i < n && rc == 0; i++)
        if (s[i].begin < s[i - 1].end)
            rc = bad(err, NULL, "extents overlap");
    ps_free(s);
    return rc;
}

static int take_index(struct ps_shard_index *x, const Ps__Wire__ShardIndex *w, uint64_t data_begin,
                      uint64_t data_end, struct ps_err *err)
{
    struct totals totals;
    struct arena a;
    int rc = count_totals(&totals, w, err);
    if (rc != 0)
        return rc;
    if (arena_new(x, &a, &totals) != 0)
        return no_memory(err);
    x->layer = w->layer;
    x->tensors = a.tensors;
    const struct ps_shard_extent *first = a.extents;
    for (size_t i = 0; i < w->n_tensors; i++) {
        rc = take_tensor(&x->tensors[i], w->tensors[i], data_begin, data_end, &a, err);
        if (rc != 0)
            return rc;
        x->n_tensors++;
    }
    return check_overlaps(first, totals.extents, err);
}

int ps_shard_index_decode(struct ps_shard_index **out, const void *bytes, size_t len,
                          uint64_t object_bytes, struct ps_err *err)
{
    if (len > PS_SHARD_INDEX_MAX_BYTES || object_bytes > INT64_MAX ||
        len + PS_SHARD_HEAD_BYTES > object_bytes)
        return bad(err, NULL, "its size is absurd");
    struct ps_pb_alloc pb;
    ps_pb_alloc_init(&pb, len);
    Ps__Wire__ShardIndex *w = ps__wire__shard_index__unpack(&pb.allocator, len, bytes);
    if (!w)
        return pb.out_of_memory ? no_memory(err) : bad(err, NULL, "is damaged");
    struct ps_shard_index *x = ps_calloc(1, sizeof *x);
    int rc = x ? take_index(x, w, len + PS_SHARD_HEAD_BYTES, object_bytes, err) : no_memory(err);
    ps__wire__shard_index__free_unpacked(w, &pb.allocator);
    if (rc != 0) {
        ps_shard_index_free(x);
        return rc;
    }
    *out = x;
    return 0;
}

/* ---- Writing ---- */

/* All lists of all tensors, each tensor taking a slice. */
struct lists {
    Ps__Wire__Tensor *tensors;
    Ps__Wire__Tensor **tensor_at;
    Ps__Wire__Error *errors;
    uint64_t *offset;
    uint32_t *n_rows, *stored, *codec, *dtype, *blocks;
    uint8_t *sha256;
};

static void lists_deinit(struct lists *l)
{
    ps_free(l->tensors);
    ps_free(l->tensor_at);
    ps_free(l->offset);
    ps_free(l->n_rows);
    ps_free(l->stored);
    ps_free(l->codec);
    ps_free(l->dtype);
    ps_free(l->errors);
    ps_free(l->blocks);
    ps_free(l->sha256);
}

static bool lists_init(struct lists *l, const struct ps_shard_index *x)
{
    size_t extents = 0, blocks = 0;
    for (uint32_t i = 0; i < x->n_tensors; i++) {
        extents += x->tensors[i].n_extents;
        for (uint32_t e = 0; e < x->tensors[i].n_extents; e++)
            blocks += x->tensors[i].extents[e].n_blocks;
    }
    l->tensors = ps_calloc(x->n_tensors, sizeof *l->tensors);
    l->tensor_at = ps_calloc(x->n_tensors, sizeof *l->tensor_at);
    l->offset = ps_calloc(extents, sizeof *l->offset);
    l->n_rows = ps_calloc(extents, sizeof *l->n_rows);
    l->stored = ps_calloc(extents, sizeof *l->stored);
    l->codec = ps_calloc(extents, sizeof *l->codec);
    l->dtype = ps_calloc(extents, sizeof *l->dtype);
    l->errors = ps_calloc(x->n_tensors, sizeof *l->errors);
    l->blocks = ps_calloc(blocks, sizeof *l->blocks);
    l->sha256 = ps_calloc(extents, PS_SHA256_BYTES);
    return l->tensors && l->tensor_at && l->offset && l->n_rows && l->stored && l->codec &&
           l->dtype && l->errors && l->blocks && l->sha256;
}

/* One offset says it all where extents touch; one codec (or none: raw) where they agree; no types where all have the
 * tensor's. */
static void shorten_lists(Ps__Wire__Tensor *w)
{
    bool touching = true, one_codec = true, one_type = true;
    for (size_t i = 0; i < w->n_n_rows; i++)
        one_type &= w->extent_dtype[i] == w->dtype;
    if (one_type)
        w->n_extent_dtype = 0;
    for (size_t i = 1; i < w->n_n_rows; i++) {
        touching &= w->offset[i] == w->offset[i - 1] + w->stored[i - 1];
        one_codec &= w->codec[i] == w->codec[0];
    }
    if (touching && w->n_offset > 1)
        w->n_offset = 1;
    if (one_codec && w->n_codec > 0)
        w->n_codec = w->codec[0] == PS_CODEC_RAW ? 0 : 1;
}

/* Fills w from t and moves the lists on to the next tensor's slices. */
static void put_tensor(Ps__Wire__Tensor *w, const struct ps_shard_tensor *t, struct lists *at)
{
    size_t n_blocks = 0;
    ps__wire__tensor__init(w);
    w->name = (ProtobufCBinaryData){.len = strlen(t->name), .data = (uint8_t *)t->name};
    w->dtype = (uint32_t)t->dtype;
    w->n_shape = t->n_dims;
    w->shape = (uint64_t *)(uintptr_t)t->shape; /* packing only reads */
    for (uint32_t i = 0; i < t->n_extents; i++) {
        const struct ps_shard_extent *e = &t->extents[i];
        at->offset[i] = e->offset;
        at->n_rows[i] = e->n_rows;
        at->stored[i] = e->stored_bytes;
        at->codec[i] = e->codec;
        at->dtype[i] = e->dtype ? e->dtype : (uint32_t)t->dtype;
        memcpy(at->sha256 + (size_t)i * PS_SHA256_BYTES, e->sha256, PS_SHA256_BYTES);
        if (e->n_blocks != 0)
            memcpy(at->blocks + n_blocks, e->block_bytes, e->n_blocks * sizeof e->block_bytes[0]);
        n_blocks += e->n_blocks;
    }
    w->n_offset = w->n_n_rows = w->n_stored = w->n_codec = w->n_extent_dtype = t->n_extents;
    w->extent_dtype = at->dtype;
    w->offset = at->offset;
    w->n_rows = at->n_rows;
    w->stored = at->stored;
    w->codec = at->codec;
    w->n_block_bytes = n_blocks;
    w->block_bytes = at->blocks;
    w->has_sha256 = t->n_extents != 0;
    w->sha256 =
        (ProtobufCBinaryData){.len = (size_t)t->n_extents * PS_SHA256_BYTES, .data = at->sha256};
    shorten_lists(w);
    if (t->rounded) {
        ps__wire__error__init(at->errors);
        at->errors->error2 = t->error.error2;
        at->errors->weight2 = t->error.weight2;
        at->errors->max_error = t->error.max_error;
        at->errors->max_weight = t->error.max_weight;
        w->error = at->errors++;
    }
    at->offset += t->n_extents;
    at->n_rows += t->n_extents;
    at->stored += t->n_extents;
    at->codec += t->n_extents;
    at->dtype += t->n_extents;
    at->blocks += n_blocks;
    at->sha256 += (size_t)t->n_extents * PS_SHA256_BYTES;
}

static char *pack_index(const Ps__Wire__ShardIndex *w, size_t *len)
{
    size_t size = ps__wire__shard_index__get_packed_size(w);
    char *packed = ps_malloc(size);
    if (packed)
        *len = ps__wire__shard_index__pack(w, (uint8_t *)packed);
    return packed;
}

int ps_shard_index_encode(const struct ps_shard_index *x, char **bytes, size_t *len,
                          struct ps_err *err)
{
    struct lists l = {0};
    int rc = 0;
    if (lists_init(&l, x)) {
        struct lists at = l;
        for (uint32_t i = 0; i < x->n_tensors; i++) {
            put_tensor(&l.tensors[i], &x->tensors[i], &at);
            l.tensor_at[i] = &l.tensors[i];
        }
        Ps__Wire__ShardIndex w;
        ps__wire__shard_index__init(&w);
        w.layer = x->layer;
        w.n_tensors = x->n_tensors;
        w.tensors = l.tensor_at;
        size_t size = 0;
        char *packed = pack_index(&w, &size);
        if (!packed) {
            rc = no_memory(err);
        } else if (size > PS_SHARD_INDEX_MAX_BYTES) {
            ps_free(packed);
            rc = bad(err, NULL, "would be too large");
        } else {
            *bytes = packed;
            *len = size;
        }
    } else {
        rc = no_memory(err);
    }
    lists_deinit(&l);
    return rc;
}
