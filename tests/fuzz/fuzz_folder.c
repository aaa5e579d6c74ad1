/* Fuzz target: a whole plain folder, opened as a model. The input is cut at FF FE FD into config.json, the index, and
 * the headers of three files; an empty piece is a file that is not there. A file ends where its header says that it
 * does, so that a few hundred bytes make a model; beyond the header it is never read. Checks the map: extents lie in
 * their object, cover their tensor row by row, and no name is there twice. */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "proto/layout.h"
#include "proto/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OBJECTS = 5 };
static const char *const names[OBJECTS] = {"config.json", "model.safetensors.index.json",
                                           "model.safetensors", "a.safetensors", "b.safetensors"};

struct object {
    const uint8_t *bytes;
    size_t len;
    uint64_t size; /* what the source says */
};
struct memory {
    struct ps_source base;
    struct object objects[OBJECTS];
};

static const struct object *find(struct ps_source *s, const char *name)
{
    struct memory *m = (struct memory *)s;
    for (int i = 0; i < OBJECTS; i++)
        if (m->objects[i].len > 0 && strcmp(names[i], name) == 0)
            return &m->objects[i];
    return NULL;
}

static void tell(struct ps_object_info *info, const char *name, const struct object *o)
{
    if (!info)
        return;
    memset(info, 0, sizeof *info);
    info->bytes = o->size;
    strncpy(info->identity, name, sizeof info->identity - 1);
}

static int get(struct ps_source *s, const char *name, const struct ps_terms *terms, uint64_t max,
               char **out, size_t *len, struct ps_object_info *info, struct ps_err *err)
{
    (void)terms;
    const struct object *o = find(s, name);
    if (!o)
        return ps_err_set(err, PS_ENOTFOUND, "memory", "not found");
    if (o->len > max)
        return ps_err_set(err, PS_EDATA, "memory", "too large");
    *out = ps_strndup("", 0);
    *out = ps_realloc(*out, o->len + 1);
    memcpy(*out, o->bytes, o->len);
    (*out)[o->len] = '\0';
    *len = o->len;
    tell(info, name, o);
    return 0;
}

static int head(struct ps_source *s, const char *name, const struct ps_terms *terms, void *buf,
                size_t bytes, size_t *len, struct ps_object_info *info, struct ps_err *err)
{
    (void)terms;
    const struct object *o = find(s, name);
    if (!o)
        return ps_err_set(err, PS_ENOTFOUND, "memory", "not found");
    *len = o->len < bytes ? o->len : bytes;
    memcpy(buf, o->bytes, *len);
    tell(info, name, o);
    return 0;
}

static int submit(struct ps_source *s, struct ps_range *r, struct ps_err *err)
{
    const struct object *o = find(s, r->object);
    if (!o || r->offset > o->len || r->bytes > o->len - r->offset)
        return ps_err_set(err, PS_EDATA, "memory", "no such bytes");
    memcpy(r->buf, o->bytes + r->offset, r->bytes);
    r->done(r, 0, NULL);
    return 0;
}

static void cut(struct memory *m, const uint8_t *data, size_t size)
{
    for (int i = 0; i < OBJECTS; i++) {
        const uint8_t *end = size >= 3 ? memmem(data, size, "\xff\xfe\xfd", 3) : NULL;
        struct object *o = &m->objects[i];
        struct ps_st_header *h = NULL;
        o->bytes = data;
        o->len = o->size = end ? (size_t)(end - data) : size;
        if (i >= 2 && ps_st_parse(&h, o->bytes, o->len, 0, NULL) == 0) {
            o->size = h->file_bytes;
            ps_st_free(h);
        }
        data += end ? o->len + 3 : size;
        size -= end ? o->len + 3 : size;
    }
}

static void check_tensor(const struct ps_map *map, uint32_t i)
{
    const struct ps_tensor *t = &map->tensors[i];
    uint64_t row = 0;
    PS_ASSERT(t->object < map->n_objects && ps_map_find(map, t->name) == (int64_t)i);
    for (uint32_t k = 0; k < t->n_extents; k++) {
        const struct ps_extent *e = &map->extents[t->first_extent + k];
        PS_ASSERT(e->tensor == i && e->object == t->object && e->row0 == row && e->n_rows > 0);
        PS_ASSERT(e->stored_bytes <= map->max_stored_bytes &&
                  e->raw_bytes == e->n_rows * t->row_bytes);
        PS_ASSERT(e->offset <= map->objects[e->object].bytes &&
                  e->stored_bytes <= map->objects[e->object].bytes - e->offset);
        row += e->n_rows;
    }
    PS_ASSERT(t->n_extents == 0 || row == t->rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct ps_source_ops ops = {.scheme = "memory",
                                             .submit = submit,
                                             .get = get,
                                             .head = head};
    char label[] = "memory";
    struct memory m = {.base = {.ops = &ops, .label = label}};
    struct ps_model_files f = {0};
    struct ps_err err = {0};
    cut(&m, data, size);
    int rc = ps_model_files_open(&f, &m.base, &err);
    if (rc == 0) {
        PS_ASSERT(f.map && !f.manifest && f.config_len == m.objects[0].len);
        /* Millions of extents of an absurd but possible model: its first tensors will do. */
        for (uint32_t i = 0; i < f.map->n_tensors && i < 64; i++)
            check_tensor(f.map, i);
    } else {
        PS_ASSERT(!f.map && err.code == rc && err.text[0]);
    }
    ps_model_files_close(&f);
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
