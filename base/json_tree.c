/* The tree form of JSON: events of the streaming reader come in, nodes in one arena go out. For documents whose
 * size the caller has bounded: a config, an index, an option object. */
#include "base/json.h"

#include <stdalign.h>
#include <string.h>

#include "base/alloc.h"

enum { CHUNK_BYTES = 16384 };

struct chunk {
    struct chunk *next;
    size_t used, size; /* of data */
    alignas(16) char data[];
};

/* The root node stands first in the first chunk, so that the root's address finds the arena. */
struct builder {
    struct chunk *first, *last;
    struct ps_json **parents;    /* open containers, by depth */
    struct ps_json **last_child; /* of each */
    unsigned capacity;           /* of both */
    const char *key;             /* of the member whose value comes next */
    struct ps_json *root;
};

static void *arena_alloc(struct builder *b, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    struct chunk *c = b->last;
    if (!c || c->size - c->used < bytes) {
        size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        c = ps_malloc(sizeof(*c) + size);
        if (!c)
            return NULL;
        *c = (struct chunk){.size = size};
        if (b->last)
            b->last->next = c;
        else
            b->first = c;
        b->last = c;
    }
    void *p = c->data + c->used;
    c->used += bytes;
    return p;
}

static char *arena_string(struct builder *b, const char *s, size_t len)
{
    char *copy = arena_alloc(b, len + 1);
    if (copy) {
        memcpy(copy, s, len);
        copy[len] = '\0';
    }
    return copy;
}

static void free_chunks(struct chunk *c)
{
    while (c) {
        struct chunk *next = c->next;
        ps_free(c);
        c = next;
    }
}

/* Room to remember one more open container. */
static int reserve_depth(struct builder *b, unsigned depth)
{
    if (depth < b->capacity)
        return 0;
    unsigned n = b->capacity ? b->capacity * 2 : 8;
    struct ps_json **p = ps_realloc_array(b->parents, n, sizeof(*p));
    if (!p)
        return PS_ENOMEM;
    b->parents = p;
    p = ps_realloc_array(b->last_child, n, sizeof(*p));
    if (!p)
        return PS_ENOMEM;
    b->last_child = p;
    b->capacity = n;
    return 0;
}

static void attach(struct builder *b, struct ps_json *node, unsigned depth)
{
    if (depth == 0) {
        b->root = node;
        return;
    }
    struct ps_json *parent = b->parents[depth - 1];
    struct ps_json **last = &b->last_child[depth - 1];
    if (*last)
        (*last)->next = node;
    else
        parent->child = node;
    *last = node;
    parent->n_children++;
}

static int add_node(struct builder *b, const struct ps_json_event *ev)
{
    struct ps_json *node = arena_alloc(b, sizeof(*node));
    if (!node)
        return PS_ENOMEM;
    *node = (struct ps_json){.kind = ev->kind,
                             .boolean = ev->boolean,
                             .integer = ev->integer,
                             .number = ev->number,
                             .len = ev->len,
                             .key = b->key};
    b->key = NULL;
    if (ev->s && !(node->s = arena_string(b, ev->s, ev->len)))
        return PS_ENOMEM;
    attach(b, node, ev->depth);
    if (ev->kind == PS_JSON_OBJECT || ev->kind == PS_JSON_ARRAY) {
        if (reserve_depth(b, ev->depth))
            return PS_ENOMEM;
        b->parents[ev->depth] = node;
        b->last_child[ev->depth] = NULL;
    }
    return 0;
}

static int on_event(void *user, const struct ps_json_event *ev, struct ps_err *err)
{
    struct builder *b = user;
    int rc = 0;
    switch (ev->kind) {
    case PS_JSON_KEY:
        /* ps_json_get compares C strings: a key with a NUL inside would pass for a shorter one. */
        if (memchr(ev->s, '\0', ev->len))
            return ps_err_set(err, PS_EDATA, "base", "JSON: key with a NUL character");
        b->key = arena_string(b, ev->s, ev->len);
        rc = b->key ? 0 : PS_ENOMEM;
        break;
    case PS_JSON_OBJECT_END:
    case PS_JSON_ARRAY_END: break;
    default: rc = add_node(b, ev); break;
    }
    return rc ? ps_err_set(err, rc, "base", "JSON: no memory for the document") : 0;
}

int ps_json_parse(struct ps_json **out, const void *bytes, size_t len,
                  const struct ps_json_limits *limits, struct ps_err *err)
{
    struct builder b = {0};
    int rc = ps_json_read(bytes, len, limits, on_event, &b, err);
    ps_free(b.parents);
    ps_free(b.last_child);
    if (rc) {
        free_chunks(b.first);
        return rc;
    }
    PS_ASSERT((char *)b.root == b.first->data);
    *out = b.root;
    return 0;
}

void ps_json_free(struct ps_json *root)
{
    if (root)
        free_chunks((struct chunk *)((char *)root - offsetof(struct chunk, data)));
}

const struct ps_json *ps_json_get(const struct ps_json *o, const char *key)
{
    if (!o || o->kind != PS_JSON_OBJECT)
        return NULL;
    for (const struct ps_json *m = o->child; m; m = m->next) {
        if (strcmp(m->key, key) == 0)
            return m->kind == PS_JSON_NULL ? NULL : m;
    }
    return NULL;
}

static int wrong_type(struct ps_err *err, const char *key, const char *want)
{
    return ps_err_set(err, PS_EDATA, "base", "JSON: \"%s\" is not %s", key, want);
}

int ps_json_get_int(const struct ps_json *o, const char *key, int64_t dflt, int64_t *out,
                    struct ps_err *err)
{
    const struct ps_json *m = ps_json_get(o, key);
    if (!m) {
        *out = dflt;
        return 0;
    }
    if (m->kind == PS_JSON_INT) {
        *out = m->integer;
        return 0;
    }
    /* Configs write 1e6 and 4096.0 where they mean integers. Up to 2^53 a double says exactly which. */
    const double exact = 9007199254740992.0;
    if (m->kind == PS_JSON_DOUBLE && m->number >= -exact && m->number <= exact &&
        (double)(int64_t)m->number == m->number) {
        *out = (int64_t)m->number;
        return 0;
    }
    return wrong_type(err, key, "a 64-bit integer");
}

int ps_json_get_double(const struct ps_json *o, const char *key, double dflt, double *out,
                       struct ps_err *err)
{
    const struct ps_json *m = ps_json_get(o, key);
    if (m && m->kind != PS_JSON_DOUBLE && m->kind != PS_JSON_INT)
        return wrong_type(err, key, "a number");
    *out = m ? m->number : dflt;
    return 0;
}

int ps_json_get_bool(const struct ps_json *o, const char *key, bool dflt, bool *out,
                     struct ps_err *err)
{
    const struct ps_json *m = ps_json_get(o, key);
    if (m && m->kind != PS_JSON_BOOL)
        return wrong_type(err, key, "true or false");
    *out = m ? m->boolean : dflt;
    return 0;
}

int ps_json_get_string(const struct ps_json *o, const char *key, const char *dflt, const char **out,
                       struct ps_err *err)
{
    const struct ps_json *m = ps_json_get(o, key);
    if (m && m->kind != PS_JSON_STRING)
        return wrong_type(err, key, "a string");
    /* The caller sees a C string: one with a NUL inside would silently be another. */
    if (m && strlen(m->s) != m->len)
        return wrong_type(err, key, "a string without NUL characters");
    *out = m ? m->s : dflt;
    return 0;
}
