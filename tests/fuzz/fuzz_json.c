/* Fuzz target: the JSON reader in both forms, and the writer. Events must nest, strings must be UTF-8, and what the
 * tree holds must come back through the writer as it was. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/json.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct nesting {
    unsigned depth;
    bool nul_key; /* the tree, whose keys are C strings, refuses one */
    uint64_t values;
};

static int on_event(void *user, const struct ps_json_event *ev, struct ps_err *err)
{
    struct nesting *n = user;
    (void)err;
    const bool end = ev->kind == PS_JSON_OBJECT_END || ev->kind == PS_JSON_ARRAY_END;
    n->depth -= end;
    PS_ASSERT(n->depth <= 16 &&
              ev->depth == n->depth - (ev->kind == PS_JSON_KEY)); /* a key has its object's */
    n->nul_key |= ev->kind == PS_JSON_KEY && memchr(ev->s, '\0', ev->len);
    n->depth += ev->kind == PS_JSON_OBJECT || ev->kind == PS_JSON_ARRAY;
    n->values += ev->kind != PS_JSON_KEY && !end;
    if (ev->kind == PS_JSON_STRING || ev->kind == PS_JSON_KEY)
        PS_ASSERT(ps_utf8_check(ev->s, ev->len) == ev->len);
    if (ev->kind == PS_JSON_DOUBLE || ev->kind == PS_JSON_INT)
        PS_ASSERT(isfinite(ev->number));
    return 0;
}

static void write_node(struct ps_json_writer *w, const struct ps_json *v)
{
    switch (v->kind) {
    case PS_JSON_BOOL: ps_jw_bool(w, v->boolean); break;
    case PS_JSON_INT: ps_jw_int(w, v->integer); break;
    case PS_JSON_DOUBLE: ps_jw_double(w, v->number); break;
    case PS_JSON_STRING: ps_jw_string(w, v->s, v->len); break;
    case PS_JSON_OBJECT:
    case PS_JSON_ARRAY: {
        const bool object = v->kind == PS_JSON_OBJECT;
        object ? ps_jw_object(w) : ps_jw_array(w);
        for (const struct ps_json *c = v->child; c; c = c->next) {
            if (object)
                ps_jw_key(w, c->key);
            write_node(w, c);
        }
        object ? ps_jw_object_end(w) : ps_jw_array_end(w);
        break;
    }
    default: ps_jw_null(w); break;
    }
}

/* "1.0" may come back as the integer 1; nine digits of a number are kept. */
static bool same_number(const struct ps_json *a, const struct ps_json *b)
{
    if (a->kind == PS_JSON_INT)
        return b->kind == PS_JSON_INT && a->integer == b->integer;
    return (b->kind == PS_JSON_INT || b->kind == PS_JSON_DOUBLE) &&
           fabs(a->number - b->number) <= 1e-8 * fabs(a->number) + 1e-300;
}

static bool same(const struct ps_json *a, const struct ps_json *b)
{
    if (a->kind == PS_JSON_INT || a->kind == PS_JSON_DOUBLE)
        return same_number(a, b);
    if (a->kind != b->kind || a->n_children != b->n_children)
        return false;
    if (a->kind == PS_JSON_BOOL)
        return a->boolean == b->boolean;
    if (a->kind == PS_JSON_STRING)
        return a->len == b->len && memcmp(a->s, b->s, a->len) == 0;
    const struct ps_json *x = a->child, *y = b->child;
    for (; x && y; x = x->next, y = y->next)
        if (!same(x, y) || (x->key && strcmp(x->key, y->key) != 0))
            return false;
    return !x && !y;
}

static void check_tree(const struct ps_json *root)
{
    struct ps_strbuf b;
    struct ps_json_writer w;
    struct ps_json *again = NULL;
    ps_strbuf_init(&b, (size_t)1 << 24);
    ps_jw_init(&w, &b);
    write_node(&w, root);
    PS_ASSERT(ps_strbuf_ok(&b));
    PS_ASSERT(ps_json_parse(&again, b.data, b.len, NULL, NULL) == 0);
    PS_ASSERT(same(root, again));
    ps_json_free(again);
    ps_strbuf_deinit(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct ps_json_limits limits = {.max_depth = 16,
                                                 .max_string = 4096,
                                                 .max_values = 4096};
    struct nesting n = {0};
    struct ps_json *root = NULL;
    struct ps_err err = {0};
    int events = ps_json_read(data, size, &limits, on_event, &n, &err);
    PS_ASSERT(events == 0 ? n.depth == 0 && n.values >= 1 : err.code == events && err.text[0]);
    int tree = ps_json_parse(&root, data, size, &limits, NULL);
    PS_ASSERT(events != 0 || n.nul_key ? tree != 0 : tree == 0);
    if (tree == 0)
        check_tree(root);
    ps_json_free(root);
    PS_ASSERT(ps_alloc_live_count() == 0);
    return 0;
}
