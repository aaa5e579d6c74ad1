/* Two maps side by side: see inspect_diff.h. */
#include "tools/inspect_diff.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define LISTED_MAX 100u

enum change { SAME, CHANGED, ONLY_A, ONLY_B, NOT_COMPARED, N_CHANGES };
static const char *const change_names[] = {"same", "changed", "only_a", "only_b", "not_compared"};

struct layer_sum {
    int32_t layer;
    uint32_t tensors, extents_new;
    uint64_t bytes, bytes_new;
};

struct diff {
    const struct ps_map *a, *b;
    const enum ps_content *content; /* nullable, of b's tensors */
    const uint8_t **keys;           /* of a's extents, sorted */
    uint32_t counts[N_CHANGES];
    uint64_t extents_shared, bytes_shared;
    struct layer_sum *layers; /* of b, one a tensor at most */
    uint32_t n_layers;
};

static int by_key(const void *x, const void *y)
{
    return memcmp(*(const uint8_t *const *)x, *(const uint8_t *const *)y, PS_SHA256_BYTES);
}

static bool a_has(const struct diff *d, const uint8_t *key)
{
    return d->a->n_extents != 0 &&
           bsearch(&key, d->keys, d->a->n_extents, sizeof *d->keys, by_key) != NULL;
}

static bool same_shape(const struct ps_tensor *x, const struct ps_tensor *y)
{
    return x->dtype == y->dtype && x->n_dims == y->n_dims &&
           memcmp(x->shape, y->shape, sizeof x->shape) == 0;
}

/* The same rows, and stored alike. */
static bool same_form(const struct ps_map *a, const struct ps_extent *x, const struct ps_map *b,
                      const struct ps_extent *y)
{
    return x->row0 == y->row0 && x->n_rows == y->n_rows && x->codec == y->codec &&
           ps_extent_dtype(a, x) == ps_extent_dtype(b, y);
}

/* By keys, of two tensors of one type and shape. */
static enum change compare_keys(const struct ps_map *a, const struct ps_tensor *x,
                                const struct ps_map *b, const struct ps_tensor *y)
{
    bool same = x->n_extents == y->n_extents;
    for (uint32_t e = 0; e < x->n_extents && e < y->n_extents; e++) {
        const struct ps_extent *p = &a->extents[x->first_extent + e],
                               *q = &b->extents[y->first_extent + e];
        if (memcmp(p->key, q->key, PS_SHA256_BYTES) == 0)
            continue;
        if (p->hashed && q->hashed && same_form(a, p, b, q))
            return CHANGED;
        same = false;
    }
    return same ? SAME : NOT_COMPARED;
}

static enum change compare(const struct ps_map *a, const struct ps_map *b, uint32_t t)
{
    const struct ps_tensor *y = &b->tensors[t];
    int64_t i = ps_map_find(a, y->name);
    if (i < 0)
        return ONLY_B;
    const struct ps_tensor *x = &a->tensors[i];
    return same_shape(x, y) ? compare_keys(a, x, b, y) : CHANGED;
}

int64_t ps_inspect_unknown(const struct ps_map *a, const struct ps_map *b, uint32_t t)
{
    return compare(a, b, t) == NOT_COMPARED ? ps_map_find(a, b->tensors[t].name) : -1;
}

/* The layer's sum; tensors of one layer need not be neighbours. */
static struct layer_sum *layer_of(struct diff *d, int32_t layer)
{
    for (uint32_t i = d->n_layers; i-- > 0;)
        if (d->layers[i].layer == layer)
            return &d->layers[i];
    d->layers[d->n_layers] = (struct layer_sum){.layer = layer};
    return &d->layers[d->n_layers++];
}

static uint64_t count_extents(struct diff *d, const struct ps_tensor *t, enum change c)
{
    struct layer_sum *l = layer_of(d, t->layer);
    uint64_t fresh = 0;
    for (uint32_t e = 0; e < t->n_extents; e++) {
        const struct ps_extent *x = &d->b->extents[t->first_extent + e];
        l->bytes += x->stored_bytes;
        if (a_has(d, x->key)) {
            d->extents_shared++;
            d->bytes_shared += x->stored_bytes;
        } else {
            l->extents_new++;
            l->bytes_new += x->stored_bytes;
            fresh += x->stored_bytes;
        }
    }
    l->tensors += c == CHANGED || c == ONLY_B;
    return fresh;
}

static void write_change(struct ps_json_writer *w, const struct ps_tensor *t, enum change c,
                         uint64_t bytes_new)
{
    ps_jw_object(w);
    ps_jw_kstring(w, "name", t->name);
    ps_jw_kstring(w, "change", change_names[c]);
    ps_jw_kstring(w, "dtype", ps_dtype_name(t->dtype));
    ps_jw_kuint(w, "bytes_new", bytes_new);
    ps_jw_object_end(w);
}

/* Counts everything and lists what changed. */
static void write_changes(struct ps_json_writer *w, struct diff *d, bool all)
{
    uint32_t listed = 0;
    ps_jw_key(w, "changes");
    ps_jw_array(w);
    for (uint32_t i = 0; i < d->b->n_tensors; i++) {
        const struct ps_tensor *t = &d->b->tensors[i];
        enum change c = compare(d->a, d->b, i);
        if (c == NOT_COMPARED && d->content && d->content[i] != PS_CONTENT_NOT_READ)
            c = d->content[i] == PS_CONTENT_SAME ? SAME : CHANGED;
        uint64_t bytes_new = count_extents(d, t, c);
        d->counts[c]++;
        if (c != SAME && (all || listed++ < LISTED_MAX))
            write_change(w, t, c, bytes_new);
    }
    for (uint32_t i = 0; i < d->a->n_tensors; i++) {
        const struct ps_tensor *t = &d->a->tensors[i];
        if (ps_map_find(d->b, t->name) >= 0)
            continue;
        d->counts[ONLY_A]++;
        if (all || listed++ < LISTED_MAX)
            write_change(w, t, ONLY_A, 0);
    }
    ps_jw_array_end(w);
}

static void write_layers(struct ps_json_writer *w, const struct diff *d)
{
    ps_jw_key(w, "layers");
    ps_jw_array(w);
    for (uint32_t i = 0; i < d->n_layers; i++) {
        const struct layer_sum *l = &d->layers[i];
        if (l->bytes_new == 0)
            continue;
        ps_jw_object(w);
        ps_jw_kint(w, "layer", l->layer);
        ps_jw_kuint(w, "tensors_changed", l->tensors);
        ps_jw_kuint(w, "extents_new", l->extents_new);
        ps_jw_kuint(w, "bytes", l->bytes);
        ps_jw_kuint(w, "bytes_new", l->bytes_new);
        ps_jw_object_end(w);
    }
    ps_jw_array_end(w);
}

static void write_sums(struct ps_json_writer *w, const struct diff *d)
{
    const bool differ = d->counts[CHANGED] + d->counts[ONLY_A] + d->counts[ONLY_B] > 0;
    ps_jw_key(w, "same");
    if (!differ && d->counts[NOT_COMPARED] > 0)
        ps_jw_null(w);
    else
        ps_jw_bool(w, !differ);
    ps_jw_key(w, "tensors");
    ps_jw_object(w);
    for (int c = 0; c < N_CHANGES; c++)
        ps_jw_kuint(w, change_names[c], d->counts[c]);
    ps_jw_object_end(w);
    ps_jw_kuint(w, "extents_b", d->b->n_extents);
    ps_jw_kuint(w, "extents_shared", d->extents_shared);
    ps_jw_kuint(w, "bytes_b", d->b->stored_bytes);
    ps_jw_kuint(w, "bytes_shared", d->bytes_shared);
    ps_jw_kuint(w, "bytes_new", d->b->stored_bytes - d->bytes_shared);
}

int ps_inspect_diff(struct ps_json_writer *w, const struct ps_map *a, const struct ps_map *b,
                    const enum ps_content *content, bool all, struct ps_err *err)
{
    struct diff d = {.a = a, .b = b, .content = content};
    d.keys = ps_calloc((size_t)a->n_extents + 1, sizeof *d.keys);
    d.layers = ps_calloc((size_t)b->n_tensors + 1, sizeof *d.layers);
    int rc = d.keys && d.layers ? 0 : ps_err_set(err, PS_ENOMEM, "inspect", "out of memory");
    if (rc == 0) {
        for (uint32_t i = 0; i < a->n_extents; i++)
            d.keys[i] = a->extents[i].key;
        qsort(d.keys, a->n_extents, sizeof *d.keys, by_key);
        write_changes(w, &d, all);
        write_layers(w, &d);
        write_sums(w, &d);
    }
    ps_free(d.keys);
    ps_free(d.layers);
    return rc;
}
