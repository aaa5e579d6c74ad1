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

int ps_warm_held_note(struct ps_warm_held *h, const char *facts, struct ps_err *err)
{
    struct ps_json *root = NULL;
    int rc = ps_json_parse(&root, facts, strlen(facts), NULL, err);
    const char *id = rc == 0 ? id_of(root) : NULL;
    struct ps_warm_model *m = id ? find(h, id) : NULL;

    if (id && !m) {
        m = ps_realloc_array(h->models, h->n + 1, sizeof *m);
        if (m) {
            h->models = m;
            m = &h->models[h->n++];
            memcpy(m->id, id, sizeof m->id);
        } else {
            rc = ps_err_set(err, PS_ENOMEM, "warm", "out of memory");
        }
    }
    if (m)
        m->bytes = number(root, "bytes_present") + number(root, "bytes_fetched");
    ps_json_free(root);
    return rc;
}

int ps_warm_held_lost(size_t *lost, const struct ps_warm_held *h, const char *facts, size_t bytes,
                      struct ps_err *err)
{
    struct ps_json *root = NULL;
    int rc = ps_json_parse(&root, facts, bytes, NULL, err);
    const struct ps_json *list = rc == 0 ? ps_json_get(root, "models") : NULL;
    size_t whole = 0;

    if (rc < 0)
        return rc;
    for (const struct ps_json *m = list ? list->child : NULL; m; m = m->next) {
        const char *id = id_of(m);
        const struct ps_warm_model *noted = id ? find(h, id) : NULL;

        whole += noted && number(m, "bytes") >= noted->bytes;
    }
    ps_json_free(root);
    *lost = h->n - whole;
    return 0;
}

void ps_warm_held_deinit(struct ps_warm_held *h)
{
    ps_free(h->models);
    memset(h, 0, sizeof *h);
}
