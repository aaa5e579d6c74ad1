/* Reader of safetensors headers. Comes in: the first bytes of a file. Goes out: its tensors with
 * their places in that file. The checks are those of huggingface/safetensors
 * (SafeTensors::read_metadata and Metadata::validate), names with NUL refused besides. */
#include "proto/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

#define ORIGIN "safetensors"

enum state {
    AT_TOP,       /* before the top object */
    IN_TOP,       /* a tensor's name, "__metadata__", or the end */
    AT_METADATA,  /* value of "__metadata__" */
    IN_METADATA,  /* a key, or the end */
    AT_META_TEXT, /* value of a metadata key */
    AT_TENSOR,    /* value of a tensor's name */
    IN_TENSOR,    /* "dtype", "shape", "data_offsets", or the end */
    AT_DTYPE,
    AT_SHAPE,
    IN_SHAPE,
    AT_OFFSETS,
    IN_OFFSETS,
    IN_UNKNOWN, /* value of a member that we don't know: skipped as the reference does */
    AFTER_TOP,
};

struct reader {
    enum state state;
    struct ps_st_header *h;
    uint32_t cap; /* of h->tensors */
    char *names;  /* arena: all names with their NULs are shorter than the JSON that spelt them */
    size_t names_len, names_cap;
    struct ps_st_tensor t; /* the one being read; begin and end still relative to the data */
    unsigned n_offsets;
    bool has_dtype, has_shape;
    unsigned skip_depth;
};

static int malformed(const struct reader *r, struct ps_err *err, const char *what)
{
    const char *where = r->t.name ? r->t.name : "header";
    return ps_err_set(err, PS_EDATA, ORIGIN, "%s: %s", where, what);
}

int ps_st_header_bytes(uint64_t *out, const void *first8, size_t len, uint64_t file_bytes,
                       struct ps_err *err)
{
    if (len < 8 || (file_bytes != 0 && file_bytes < 8))
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "shorter than the 8 bytes that every safetensors file begins with");
    const uint8_t *p = first8;
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | p[i];
    if (n > PS_SAFETENSORS_MAX_HEADER)
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          "states a header of %llu bytes, at most %llu are allowed",
                          (unsigned long long)n, PS_SAFETENSORS_MAX_HEADER);
    if (file_bytes != 0 && 8 + n > file_bytes)
        return ps_err_set(err, PS_EDATA, ORIGIN, "states a header of %llu bytes, the file has %llu",
                          (unsigned long long)n, (unsigned long long)file_bytes);
    *out = 8 + n;
    return 0;
}

/* JSON integers as the reference takes them (usize): digits only, so neither -0 nor 1.0 nor 1e3. */
static int read_u64(const struct ps_json_event *ev, uint64_t *out)
{
    if ((ev->kind != PS_JSON_INT && ev->kind != PS_JSON_DOUBLE) || ev->len == 0)
        return PS_EDATA;
    uint64_t v = 0;
    for (size_t i = 0; i < ev->len; i++) {
        if (ev->s[i] < '0' || ev->s[i] > '9' || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(ev->s[i] - '0'), &v))
            return PS_EDATA;
    }
    *out = v;
    return 0;
}

static bool is_text(const struct ps_json_event *ev, const char *s)
{
    return ev->len == strlen(s) && memcmp(ev->s, s, ev->len) == 0;
}

static int begin_tensor(struct reader *r, const struct ps_json_event *ev, struct ps_err *err)
{
    if (memchr(ev->s, '\0', ev->len))
        return malformed(r, err, "a tensor name contains a NUL character");
    if (r->h->n_tensors >= PS_MAX_TENSORS)
        return malformed(r, err, "too many tensors");
    PS_ASSERT(r->names_cap - r->names_len > ev->len);
    char *name = r->names + r->names_len;
    memcpy(name, ev->s, ev->len);
    name[ev->len] = '\0';
    r->names_len += ev->len + 1;
    memset(&r->t, 0, sizeof r->t);
    r->t.name = name;
    r->n_offsets = 0;
    r->has_dtype = r->has_shape = false;
    r->state = AT_TENSOR;
    return 0;
}

/* begin and end must span exactly what dtype and shape say (the reference's TensorInvalidInfo and
 * ValidationOverflow). */
static int check_size(const struct reader *r, struct ps_err *err)
{
    uint64_t n = ps_dtype_bytes(r->t.dtype);
    for (unsigned i = 0; i < r->t.n_dims; i++)
        if (__builtin_mul_overflow(n, r->t.shape[i], &n))
            return malformed(r, err, "its shape overflows");
    if (r->t.end < r->t.begin || r->t.end - r->t.begin != n)
        return malformed(r, err, "its offsets do not fit its shape and type");
    return 0;
}

static int end_tensor(struct reader *r, struct ps_err *err)
{
    if (!r->has_dtype || !r->has_shape || r->n_offsets != 2)
        return malformed(r, err, "dtype, shape or data_offsets is missing");
    int rc = check_size(r, err);
    if (rc != 0)
        return rc;
    struct ps_st_header *h = r->h;
    if (h->n_tensors == r->cap) {
        uint32_t cap = r->cap ? r->cap * 2 : 32;
        struct ps_st_tensor *grown = ps_realloc_array(h->tensors, cap, sizeof *grown);
        if (!grown)
            return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for %u tensors", cap);
        h->tensors = grown;
        r->cap = cap;
    }
    h->tensors[h->n_tensors++] = r->t;
    r->t.name = NULL;
    r->state = IN_TOP;
    return 0;
}

static int on_top_member(struct reader *r, const struct ps_json_event *ev, struct ps_err *err)
{
    if (ev->kind == PS_JSON_OBJECT_END) {
        r->state = AFTER_TOP;
        return 0;
    }
    if (!is_text(ev, "__metadata__"))
        return begin_tensor(r, ev, err);
    r->state = AT_METADATA;
    return 0;
}

static int on_tensor_member(struct reader *r, const struct ps_json_event *ev, struct ps_err *err)
{
    if (ev->kind == PS_JSON_OBJECT_END)
        return end_tensor(r, err);
    r->state = is_text(ev, "dtype")          ? AT_DTYPE
               : is_text(ev, "shape")        ? AT_SHAPE
               : is_text(ev, "data_offsets") ? AT_OFFSETS
                                             : IN_UNKNOWN;
    r->skip_depth = 0;
    return 0;
}

/* Types that safetensors has and Penstock can't hold are named as such; anything else is not a safetensors file. */
static int on_dtype(struct reader *r, const struct ps_json_event *ev, struct ps_err *err)
{
    static const char *const others[] = {"F4",  "F6_E2M3",     "F6_E3M2",
                                         "C64", "F8_E4M3FNUZ", "F8_E5M2FNUZ"};
    if (ev->kind != PS_JSON_STRING)
        return malformed(r, err, "dtype is not a text");
    r->t.dtype = ps_dtype_from_name(ev->s, ev->len);
    if (r->t.dtype == PS_DTYPE_NONE) {
        for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
            if (is_text(ev, others[i]))
                return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN,
                                  "%s: tensor type %s is not supported: F64, F32, F16, BF16, "
                                  "F8_E4M3, F8_E5M2, F8_E8M0, whole numbers and BOOL are",
                                  r->t.name, others[i]);
        return ps_err_set(err, PS_EDATA, ORIGIN, "%s: unknown dtype %.*s",
                          r->t.name ? r->t.name : "header", (int)(ev->len < 32 ? ev->len : 32),
                          ev->s);
    }
    r->has_dtype = true;
    r->state = IN_TENSOR;
    return 0;
}

static int on_dimension(struct reader *r, const struct ps_json_event *ev, struct ps_err *err)
{
    if (ev->kind == PS_JSON_ARRAY_END) {
        r->has_shape = true;
        r->state = IN_TENSOR;
        return 0;
    }
    if (r->t.n_dims == PS_MAX_DIMS)
        return ps_err_set(err, PS_EUNSUPPORTED, ORIGIN, "%s: more than %d dimensions", r->t.name,
                          PS_MAX_DIMS);
    if (read_u64(ev, &r->t.shape[r->t.n_dims]) != 0)
        return malformed(r, err, "shape holds something else than sizes");
    r->t.n_dims++;
    return 0;
}

static int on_offset(struct reader *r, const struct ps_json_event *ev, struct ps_err *err)
{
    if (ev->kind == PS_JSON_ARRAY_END) {
        r->state = IN_TENSOR;
        return r->n_offsets == 2 ? 0 : malformed(r, err, "data_offsets needs two numbers");
    }
    if (r->n_offsets == 2 || read_u64(ev, r->n_offsets == 0 ? &r->t.begin : &r->t.end) != 0)
        return malformed(r, err, "data_offsets needs two numbers");
    r->n_offsets++;
    return 0;
}

static int on_unknown(struct reader *r, const struct ps_json_event *ev)
{
    if (ev->kind == PS_JSON_OBJECT || ev->kind == PS_JSON_ARRAY)
        r->skip_depth++;
    else if (ev->kind == PS_JSON_OBJECT_END || ev->kind == PS_JSON_ARRAY_END)
        r->skip_depth--;
    if (r->skip_depth == 0)
        r->state = IN_TENSOR;
    return 0;
}

/* Moves to `next` if the event is of the wanted kind. */
static int expect(struct reader *r, const struct ps_json_event *ev, enum ps_json_kind kind,
                  enum state next, struct ps_err *err, const char *otherwise)
{
    if (ev->kind != kind)
        return malformed(r, err, otherwise);
    r->state = next;
    return 0;
}

static int on_event(void *user, const struct ps_json_event *ev, struct ps_err *err)
{
    struct reader *r = user;
    switch (r->state) {
    case AT_TOP: return expect(r, ev, PS_JSON_OBJECT, IN_TOP, err, "not a JSON object");
    case IN_TOP: return on_top_member(r, ev, err);
    case AT_METADATA:
        if (ev->kind == PS_JSON_NULL)
            return expect(r, ev, PS_JSON_NULL, IN_TOP, err, "");
        return expect(r, ev, PS_JSON_OBJECT, IN_METADATA, err, "__metadata__ is not an object");
    case IN_METADATA: r->state = ev->kind == PS_JSON_OBJECT_END ? IN_TOP : AT_META_TEXT; return 0;
    case AT_META_TEXT:
        return expect(r, ev, PS_JSON_STRING, IN_METADATA, err,
                      "__metadata__ holds something else than text");
    case AT_TENSOR: return expect(r, ev, PS_JSON_OBJECT, IN_TENSOR, err, "not an object");
    case IN_TENSOR: return on_tensor_member(r, ev, err);
    case AT_DTYPE: return on_dtype(r, ev, err);
    case AT_SHAPE: return expect(r, ev, PS_JSON_ARRAY, IN_SHAPE, err, "shape is not a list");
    case IN_SHAPE: return on_dimension(r, ev, err);
    case AT_OFFSETS:
        return expect(r, ev, PS_JSON_ARRAY, IN_OFFSETS, err, "data_offsets is not a list");
    case IN_OFFSETS: return on_offset(r, ev, err);
    case IN_UNKNOWN: return on_unknown(r, ev);
    case AFTER_TOP: break;
    }
    return malformed(r, err, "not one JSON object");
}

static int by_place(const void *a, const void *b)
{
    const struct ps_st_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name); /* zero-sized tensors share a place: names make the order one */
}

/* Data must be covered once, from its first byte to its last: no overlaps, no holes, nothing
 * behind (polyglot files). */
static int check_coverage(struct ps_st_header *h, uint64_t file_bytes, struct ps_err *err)
{
    uint64_t at = 0;
    if (h->n_tensors > 1)
        qsort(h->tensors, h->n_tensors, sizeof h->tensors[0], by_place);
    for (uint32_t i = 0; i < h->n_tensors; i++) {
        struct ps_st_tensor *t = &h->tensors[i];
        if (t->begin != at)
            return ps_err_set(err, PS_EDATA, ORIGIN, "%s: overlaps its neighbour or leaves a hole",
                              t->name);
        at = t->end;
        if (__builtin_add_overflow(t->begin, h->header_bytes, &t->begin) ||
            __builtin_add_overflow(t->end, h->header_bytes, &t->end) || t->end > INT64_MAX)
            return ps_err_set(err, PS_EDATA, ORIGIN, "%s: its offsets overflow", t->name);
    }
    h->file_bytes = h->header_bytes + at;
    if (file_bytes != 0 && file_bytes != h->file_bytes)
        return ps_err_set(err, PS_EDATA, ORIGIN, "the header describes %llu bytes, the file has %llu",
                          (unsigned long long)h->file_bytes, (unsigned long long)file_bytes);
    return 0;
}

int ps_st_parse(struct ps_st_header **out, const void *bytes, size_t len, uint64_t file_bytes,
                struct ps_err *err)
{
    uint64_t need;
    int rc = ps_st_header_bytes(&need, bytes, len, file_bytes, err);
    if (rc != 0)
        return rc;
    if (need > len)
        return ps_err_set(err, PS_EDATA, ORIGIN, "the header is cut off: %zu of %llu bytes", len,
                          (unsigned long long)need);
    size_t json_len = (size_t)need - 8;
    struct reader r = {.state = AT_TOP, .names_cap = json_len + 1};
    r.h = ps_calloc(1, sizeof *r.h);
    r.names = ps_malloc(r.names_cap);
    if (!r.h || !r.names) {
        ps_free(r.names);
        ps_free(r.h);
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for a header of %zu bytes",
                          json_len);
    }
    r.h->impl = r.names;
    r.h->header_bytes = need;
    /* Depth 4 is data_offsets; the rest is for unknown members. */
    const struct ps_json_limits limits = {.max_bytes = PS_SAFETENSORS_MAX_HEADER, .max_depth = 16};
    rc = ps_json_read((const uint8_t *)bytes + 8, json_len, &limits, on_event, &r, err);
    if (rc == 0)
        rc = check_coverage(r.h, file_bytes, err);
    if (rc != 0) {
        ps_st_free(r.h);
        return rc;
    }
    *out = r.h;
    return 0;
}

void ps_st_free(struct ps_st_header *h)
{
    if (!h)
        return;
    ps_free(h->impl);
    ps_free(h->tensors);
    ps_free(h);
}
