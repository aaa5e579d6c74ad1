/* See warm_held.h. */
#include "tools/warm_held.h"

#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

static const char *id_of(const struct ps_json *facts)
{
    const struct ps_json *id = ps_json_get(facts, "model_id");

    return id && id->kind == PS_JSON_STRING && id->len == 64 ? id->s : NULL;
}

static uint64_t number(const struct ps_json *facts, const char *key)
{
    const struct ps_json *v = ps_json_get(facts, key);

    return v && v->kind == PS_JSON_INT && v->integer > 0 ? (uint64_t)v->integer : 0;
}

/* The one of this id, else NULL. */
static struct ps_warm_model *find(const struct ps_warm_held *h, const char *id)
{
    for (size_t i = 0; i < h->n; i++)
        if (strcmp(h->models[i].id, id) == 0)
            return &h->models[i];
    return NULL;
}

/* Weights that the cache counts as this model's. A model that shares all of them with others isn't told of: 0. */
static uint64_t held_bytes(const struct ps_json *cache, const char *id)
{
    const struct ps_json *list = ps_json_get(cache, "models");

    for (const struct ps_json *m = list ? list->child : NULL; m; m = m->next) {
        const char *its = id_of(m);

        if (its && strcmp(its, id) == 0)
            return number(m, "bytes") - number(m, "files_bytes");
    }
    return 0;
}

static int note(struct ps_warm_held *h, const char *id, uint64_t bytes, struct ps_err *err)
{
    struct ps_warm_model *m = find(h, id);

    if (!m) {
        m = ps_realloc_array(h->models, h->n + 1, sizeof *m);
        if (!m)
            return ps_err_set(err, PS_ENOMEM, "warm", "out of memory");
        h->models = m;
        m = &h->models[h->n++];
        memcpy(m->id, id, sizeof m->id);
    }
    m->bytes = bytes;
    return 0;
}

int ps_warm_held_note(struct ps_warm_held *h, const char *facts, const char *cache, size_t bytes,
                      struct ps_err *err)
{
    struct ps_json *warmed = NULL, *held = NULL;
    int rc = ps_json_parse(&warmed, facts, strlen(facts), NULL, err);
    const char *id = rc == 0 ? id_of(warmed) : NULL;

    if (id)
        rc = ps_json_parse(&held, cache, bytes, NULL, err);
    if (id && rc == 0)
        rc = note(h, id, held_bytes(held, id), err);
    ps_json_free(held);
    ps_json_free(warmed);
    return rc;
}

int ps_warm_held_lost(size_t *lost, const struct ps_warm_held *h, const char *cache, size_t bytes,
                      struct ps_err *err)
{
    struct ps_json *held = NULL;
    int rc = ps_json_parse(&held, cache, bytes, NULL, err);

    if (rc < 0)
        return rc;
    *lost = 0;
    for (size_t i = 0; i < h->n; i++)
        *lost += held_bytes(held, h->models[i].id) < h->models[i].bytes;
    ps_json_free(held);
    return 0;
}

void ps_warm_held_deinit(struct ps_warm_held *h)
{
    ps_free(h->models);
    memset(h, 0, sizeof *h);
}
