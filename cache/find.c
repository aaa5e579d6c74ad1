/* From what a user writes to the model that he means. In: an address, or the first digits of an id; out: the id, or an
 * error that names those that it might be. */
#include <string.h>
#include <strings.h>
#include "base/alloc.h"
#include "base/strbuf.h"
#include "cache/cache_internal.h"

#define PREFIX_MIN 4u /* shortest prefix of a model id that is enough */
#define NAMED_MAX  3u /* candidates that an error names: a label takes up to 155 bytes of its 511 */
#define LABEL_MAX  80 /* bytes of it that are shown there */
#define ID_SHOWN   12 /* digits of an id, as many as `cache ls` shows */

/* How a text fits a model, the better the higher. */
enum fit { FIT_NOT, FIT_SHORT, FIT_YES };

static enum fit fit_of(const struct ps_model *m, const char *text, size_t n)
{
    char id[2 * PS_SHA256_BYTES + 1];
    ps_hex_encode(m->id, PS_SHA256_BYTES, id);
    size_t label = n;
    while (label > 0 && text[label - 1] == '/')
        label--;
    label = label < PS_INDEX_LABEL_MAX
                ? label
                : PS_INDEX_LABEL_MAX - 1; /* as it was cut when it was stored */
    if (label > 0 && strncmp(m->label, text, label) == 0 && m->label[label] == '\0')
        return FIT_YES;
    if (n == 0 || n > 2 * PS_SHA256_BYTES || strncasecmp(id, text, n) != 0)
        return FIT_NOT;
    return n >= PREFIX_MIN ? FIT_YES : FIT_SHORT;
}

/* Among those that fit alike the ones that `cache ls` shows: of another nothing is left but a row in the index. */
static unsigned worth_of(const struct ps_model *m, const char *text)
{
    const enum fit fit = fit_of(m, text, strlen(text));
    return fit == FIT_NOT ? 0 : 2 * (unsigned)fit + (m->n_extents > 0 || m->pinned);
}

/* Moves those that fit best to the front. Returns how many, 0 if none fits. */
static size_t take_best(struct ps_model *models, size_t n, const char *text)
{
    unsigned best = 1;
    size_t hits = 0;
    for (size_t i = 0; i < n; i++) {
        const struct ps_model m = models[i];
        const unsigned worth = worth_of(&m, text);
        if (worth < best)
            continue;
        if (worth > best)
            hits = 0;
        best = worth;
        models[i] = models[hits];
        models[hits++] = m;
    }
    return hits;
}

static int say_which(const struct ps_model *hits, size_t n, const char *text, struct ps_err *err)
{
    struct ps_strbuf b;
    char id[2 * PS_SHA256_BYTES + 1];
    ps_strbuf_init(&b, PS_ERR_TEXT_MAX);
    for (size_t i = 0; i < n && i < NAMED_MAX; i++) {
        ps_hex_encode(hits[i].id, PS_SHA256_BYTES, id);
        ps_strbuf_printf(&b, "%s%.*s (%.*s)", i > 0 ? ", " : "", ID_SHOWN, id, LABEL_MAX,
                         hits[i].label);
    }
    if (n > NAMED_MAX)
        ps_strbuf_printf(&b, " and %zu more", n - NAMED_MAX);
    if (n > 1)
        ps_err_set(err, PS_EUSAGE, PS_CACHE_ORIGIN,
                   "cache: %.80s is ambiguous: it may be %s: give the first digits of one id, at "
                   "least %u",
                   text, b.data, PREFIX_MIN);
    else
        ps_err_set(err, PS_EUSAGE, PS_CACHE_ORIGIN,
                   "cache: %s is too short: it may be %s: give at least %u digits of its id", text,
                   b.data, PREFIX_MIN);
    ps_strbuf_deinit(&b);
    return PS_EUSAGE;
}

int ps_cache_find_model(struct ps_cache *c, const char *text, uint8_t model_id[PS_SHA256_BYTES],
                        struct ps_err *err)
{
    struct ps_model *models = NULL;
    size_t n = 0;
    int rc = ps_index_models(c->index, &models, &n, err);
    if (rc != 0)
        return rc;
    const size_t hits = take_best(models, n, text);
    if (hits == 0)
        rc = ps_err_set(err, PS_ENOTFOUND, PS_CACHE_ORIGIN,
                        "cache: holds no model %s: see penstock cache ls", text);
    else if (hits == 1 && fit_of(&models[0], text, strlen(text)) == FIT_YES)
        memcpy(model_id, models[0].id, PS_SHA256_BYTES);
    else
        rc = say_which(models, hits, text, err);
    ps_free(models);
    return rc;
}
