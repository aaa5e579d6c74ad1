/* model.safetensors.index.json. Comes in: its bytes. Goes out: tensor names and the files that hold them. */
#include "proto/weight_map.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "proto/map.h"
#include "proto/source.h"

#define ORIGIN    "index"
#define FILE_NAME "model.safetensors.index.json"

enum state { AT_TOP, IN_TOP, AT_MAP, IN_MAP, AT_FILE, AT_OTHER };

struct reader {
    struct ps_weight_map *w;
    struct ps_name_set files; /* over w->files while it is in order of appearance */
    size_t names_len, names_cap;
    uint32_t weights_cap, files_cap;
    enum state state;
    unsigned skip_depth;
    bool found;
};

static int bad(struct ps_err *err, const char *what)
{
    return ps_err_set(err, PS_EDATA, ORIGIN, FILE_NAME ": %s", what);
}

static int no_memory(struct ps_err *err)
{
    return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory for " FILE_NAME);
}

static const char *weight_name_at(const void *user, uint32_t i)
{
    return ((const struct ps_weight_map *)user)->weights[i].name;
}

static const char *file_name_at(const void *user, uint32_t i)
{
    return ((const struct ps_weight_map *)user)->files[i];
}

/* Doubles *p when it is full. */
static int reserve_one(void **p, uint32_t *cap, uint32_t n, size_t each)
{
    if (n < *cap)
        return 0;
    uint32_t bigger = *cap ? *cap * 2 : 64;
    void *q = ps_realloc_array(*p, bigger, each);
    if (!q)
        return PS_ENOMEM;
    *p = q;
    *cap = bigger;
    return 0;
}

/* All texts with their NULs take less room than the JSON that quoted them, so the arena never
 * grows and pointers into it stay. */
static const char *keep(struct reader *r, const struct ps_json_event *ev)
{
    PS_ASSERT(r->names_cap - r->names_len > ev->len);
    char *s = r->w->names + r->names_len;
    memcpy(s, ev->s, ev->len);
    s[ev->len] = '\0';
    r->names_len += ev->len + 1;
    return s;
}

static int begin_weight(struct reader *r, const struct ps_json_event *ev, struct ps_err *err)
{
    struct ps_weight_map *w = r->w;
    if (memchr(ev->s, '\0', ev->len))
        return bad(err, "a tensor name contains a NUL character");
    if (w->n_weights >= PS_MAX_TENSORS)
        return bad(err, "too many tensors");
    if (reserve_one((void **)&w->weights, &r->weights_cap, w->n_weights, sizeof *w->weights) != 0)
        return no_memory(err);
    w->weights[w->n_weights] = (struct ps_weight){.name = keep(r, ev)};
    r->state = AT_FILE;
    return 0;
}

/* Index of a file in order of appearance, new or known. */
static int find_file(struct reader *r, const struct ps_json_event *ev, uint32_t *file,
                     struct ps_err *err)
{
    struct ps_weight_map *w = r->w;
    if (!ps_name_ok(ev->s, ev->len))
        return ps_err_set(err, PS_EDATA, ORIGIN,
                          FILE_NAME ": file name '%.*s' is not allowed: names lie below the folder",
                          (int)(ev->len < 60 ? ev->len : 60), ev->s);
    const char *name = keep(r, ev);
    int64_t known = ps_name_set_find(&r->files, file_name_at, w, name);
    if (known >= 0) {
        r->names_len -= ev->len + 1;
        *file = (uint32_t)known;
        return 0;
    }
    if (w->n_files >= PS_MAX_FILES)
        return bad(err, "too many files");
    if (reserve_one((void **)&w->files, &r->files_cap, w->n_files, sizeof *w->files) != 0)
        return no_memory(err);
    w->files[w->n_files] = name;
    if (ps_name_set_insert(&r->files, file_name_at, w, w->n_files) != 0)
        return no_memory(err);
    *file = w->n_files++;
    return 0;
}

static int end_weight(struct reader *r, const struct ps_json_event *ev, struct ps_err *err)
{
    struct ps_weight_map *w = r->w;
    if (ev->kind != PS_JSON_STRING)
        return bad(err, "weight_map holds something else than file names");
    int rc = find_file(r, ev, &w->weights[w->n_weights].file, err);
    if (rc != 0)
        return rc;
    rc = ps_name_set_insert(&w->by_name, weight_name_at, w, w->n_weights);
    if (rc != 0)
        return rc == PS_EDATA ? bad(err, "lists a tensor twice") : no_memory(err);
    w->n_weights++;
    r->state = IN_MAP;
    return 0;
}

static int on_other(struct reader *r, const struct ps_json_event *ev)
{
    if (ev->kind == PS_JSON_OBJECT || ev->kind == PS_JSON_ARRAY)
        r->skip_depth++;
    else if (ev->kind == PS_JSON_OBJECT_END || ev->kind == PS_JSON_ARRAY_END)
        r->skip_depth--;
    if (r->skip_depth == 0)
        r->state = IN_TOP;
    return 0;
}

static int on_event(void *user, const struct ps_json_event *ev, struct ps_err *err)
{
    struct reader *r = user;
    switch (r->state) {
    case AT_TOP:
        r->state = IN_TOP;
        return ev->kind == PS_JSON_OBJECT ? 0 : bad(err, "is not a JSON object");
    case IN_TOP:
        if (ev->kind != PS_JSON_KEY)
            return 0; /* the end */
        r->state = ev->len == 10 && memcmp(ev->s, "weight_map", 10) == 0 ? AT_MAP : AT_OTHER;
        r->skip_depth = 0;
        return 0;
    case AT_MAP:
        r->state = IN_MAP;
        r->found = true;
        return ev->kind == PS_JSON_OBJECT ? 0 : bad(err, "weight_map is not an object");
    case IN_MAP:
        if (ev->kind == PS_JSON_KEY)
            return begin_weight(r, ev, err);
        r->state = IN_TOP;
        return 0;
    case AT_FILE: return end_weight(r, ev, err);
    case AT_OTHER: return on_other(r, ev);
    }
    return 0;
}

struct ordered_file {
    const char *name;
    uint32_t was;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct ordered_file *)a)->name, ((const struct ordered_file *)b)->name);
}

/* Name order makes the map, and with it the model's id, independent of the order in the index. */
static int sort_files(struct ps_weight_map *w)
{
    struct ordered_file *order = ps_calloc(w->n_files, sizeof *order);
    uint32_t *now = ps_calloc(w->n_files, sizeof *now);
    if (order && now) {
        for (uint32_t i = 0; i < w->n_files; i++)
            order[i] = (struct ordered_file){w->files[i], i};
        qsort(order, w->n_files, sizeof *order, by_name);
        for (uint32_t i = 0; i < w->n_files; i++) {
            w->files[i] = order[i].name;
            now[order[i].was] = i;
        }
        for (uint32_t i = 0; i < w->n_weights; i++)
            w->weights[i].file = now[w->weights[i].file];
    }
    int rc = order && now ? 0 : PS_ENOMEM;
    ps_free(order);
    ps_free(now);
    return rc;
}

int ps_weight_map_parse(struct ps_weight_map **out, const void *json, size_t len, struct ps_err *err)
{
    struct reader r = {.state = AT_TOP, .names_cap = len + 1};
    r.w = ps_calloc(1, sizeof *r.w);
    if (!r.w)
        return no_memory(err);
    ps_name_set_init(&r.w->by_name);
    ps_name_set_init(&r.files);
    r.w->names = ps_malloc(r.names_cap);
    const struct ps_json_limits limits = {.max_depth = 32};
    int rc = r.w->names ? ps_json_read(json, len, &limits, on_event, &r, err) : no_memory(err);
    ps_err_place(err, FILE_NAME); /* not even JSON */
    if (rc == 0 && (!r.found || r.w->n_weights == 0))
        rc = bad(err, "has no weight_map");
    if (rc == 0 && sort_files(r.w) != 0)
        rc = no_memory(err);
    ps_name_set_deinit(&r.files);
    if (rc != 0) {
        ps_weight_map_free(r.w);
        return rc;
    }
    *out = r.w;
    return 0;
}

void ps_weight_map_free(struct ps_weight_map *w)
{
    if (!w)
        return;
    ps_name_set_deinit(&w->by_name);
    ps_free(w->weights);
    ps_free(w->files);
    ps_free(w->names);
    ps_free(w);
}

struct ps_weight *ps_weight_map_find(struct ps_weight_map *w, const char *tensor)
{
    int64_t i = ps_name_set_find(&w->by_name, weight_name_at, w, tensor);
    return i < 0 ? NULL : &w->weights[i];
}
