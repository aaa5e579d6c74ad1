/* One model at several addresses. Comes in: the user's address, his mirrors, and the list that may stand
 * beside a manifest. Goes out: a source that goes on while one of them works.
 *
 * What is the same everywhere: a pre-split model's bytes are proved by hashes, whoever sends them. A
 * plain folder has none, so whoever answered first is the reference: his names (ETag, commit) name the
 * versions in the cache, small files come from him alone, and weights come from another only if that one
 * holds the same as far as can be told (mirror_prove.c). Credentials for the first address never go to
 * another. */
#include "fetcher/mirror_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "fetcher/mirror_list.h"
#include "fetcher/store_impl.h"
#include "proto/manifest.h"
#include "proto/text.h"

#define ORIGIN           "fetcher"
#define CONFIG_NAME      "config.json" /* every model has one */
#define CONFIG_MAX_BYTES (16u << 20)

/* ---- sources and objects ---- */

uint64_t mirror_deadline_ns(const struct mirror_store *m)
{
    return (m->opt.net_deadline_s ? m->opt.net_deadline_s : 120) * PS_NS_PER_S;
}

struct mirror_object *mirror_object_locked(struct mirror_store *m, const char *name)
{
    for (struct mirror_object *o = m->objects; o; o = o->next)
        if (strcmp(o->name, name) == 0)
            return o;
    struct mirror_object *o = ps_calloc(1, sizeof *o);
    if (o && !(o->name = ps_strdup(name))) {
        ps_free(o);
        o = NULL;
    }
    if (o) {
        o->last = -1;
        o->next = m->objects;
        m->objects = o;
    }
    return o;
}

int mirror_add_locked(struct mirror_store *m, const char *address, bool listed)
{
    struct mirror_source *s = &m->sources[m->n];
    if (m->n >= PS_MIRRORS_MAX)
        return PS_EBUDGET;
    for (unsigned i = 0; i < m->n; i++)
        if (strcmp(m->sources[i].address, address) == 0)
            return 0;
    s->address = ps_strdup(address);
    if (!s->address)
        return PS_ENOMEM;
    s->listed = listed;
    s->m = m;
    m->n++;
    return 0;
}

static int open_at(struct mirror_store *m, unsigned i, struct ps_source **out, struct ps_err *err)
{
    const struct mirror_source *s = &m->sources[i];
    struct ps_access_options access = {.ca_file = m->ca_file};
    struct ps_store_options o = m->opt;
    unsigned space = atomic_load(&m->peer_space);
    if (!s->listed) { /* a .netrc knows hosts: each gets what is his */
        access.netrc = m->netrc;
        access.netrc_file = m->netrc_file;
    } else {
        o.anonymous = true;
        if (ps_uri_kind(s->address) == PS_URI_HTTP)
            o.least_space = space == PS_SPACE_ANY ? PS_SPACE_PUBLIC : (enum ps_net_space)space;
    }
    o.access = &access;
    o.peer_space = NULL;
    return ps_store_open_one(out, s->address, &o, err);
}

struct ps_source *mirror_open(struct mirror_store *m, unsigned i, struct ps_err *err)
{
    struct mirror_source *s = &m->sources[i];
    struct ps_source *opened = NULL;
    struct ps_err why = {0};
    pthread_mutex_lock(&m->open_lock);
    if (!s->s && !s->broken) {
        int rc = open_at(m, i, &opened, &why);
        pthread_mutex_lock(&m->lock);
        s->s = rc == 0 ? opened : NULL;
        s->label = opened ? opened->label : NULL;
        pthread_mutex_unlock(&m->lock);
        s->broken = rc != 0;
        if (rc != 0)
            ps_log(PS_LOG_WARN, ORIGIN, "a mirror is not used: %s", why.text);
    }
    struct ps_source *out = s->s;
    pthread_mutex_unlock(&m->open_lock);
    if (!out)
        ps_err_set(err, PS_ENET, ORIGIN, "%s",
                   why.text[0] ? why.text : "a mirror that can't be opened");
    return out;
}

void mirror_count_failure(struct mirror_store *m, unsigned i, int rc, const struct ps_err *err)
{
    pthread_mutex_lock(&m->lock);
    m->sources[i].failed++;
    bool first = m->sources[i].failed == 1 && m->n > 1;
    const char *label = m->sources[i].label;
    pthread_mutex_unlock(&m->lock);
    ps_log(first ? PS_LOG_WARN : PS_LOG_DEBUG, ORIGIN, "%s fails (%s): asking another mirror",
           label ? label : "a mirror", err && err->text[0] ? err->text : ps_err_name(rc));
}

/* ---- small files and headers ---- */

/* One get or head, as a question that can be put to any source. */
struct question {
    const char *object;
    struct ps_terms terms;
    bool is_get;
    uint64_t max_bytes;
    char *data; /* get's result */
    void *buf;
    size_t bytes, len;
    struct ps_object_info info;
};

static int ask(struct ps_source *s, struct question *q, struct ps_err *err)
{
    return q->is_get
               ? s->ops->get(s, q->object, &q->terms, q->max_bytes, &q->data, &q->len, &q->info, err)
               : s->ops->head(s, q->object, &q->terms, q->buf, q->bytes, &q->len, &q->info, err);
}

static bool is_manifest(const char *object)
{
    return strcmp(object, PS_MANIFEST_NAME) == 0;
}

/* Whoever has no manifest may still hold the model, as a plain folder: then there is none, and nobody else is asked.
 * Otherwise he does not hold this model at all. */
static bool holds_the_model(struct ps_source *s, const atomic_bool *withdrawn)
{
    const struct ps_terms terms = {.withdrawn = withdrawn};
    char start[256];
    size_t len;
    return s->ops->head(s, CONFIG_NAME, &terms, start, sizeof start, &len, NULL, NULL) == 0 &&
           !ps_text_is_markup(start, len);
}

/* What many models lack, and none needs. */
static bool may_lack(const char *object)
{
    static const char *const names[] = {"tokenizer_config.json",   "generation_config.json",
                                        "special_tokens_map.json", "added_tokens.json",
                                        "chat_template.jinja",     "chat_template.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(object, names[i]) == 0)
            return true;
    return false;
}

/* Whether this source holds the small files too, and not only weights: its config.json is the reference's. */
static bool holds_same_config(struct mirror_store *m, unsigned i, struct ps_source *s,
                              const atomic_bool *withdrawn)
{
    const struct ps_terms terms = {.withdrawn = withdrawn};
    uint8_t sha[PS_SHA256_BYTES];
    char *text = NULL;
    size_t len;
    pthread_mutex_lock(&m->lock);
    const bool known = m->sources[i].compared || !m->has_config;
    bool same = m->sources[i].same_config;
    pthread_mutex_unlock(&m->lock);
    if (known)
        return same;
    int rc = s->ops->get(s, CONFIG_NAME, &terms, CONFIG_MAX_BYTES, &text, &len, NULL, NULL);
    if (rc == 0)
        ps_sha256_once(text, len, sha);
    ps_free(text);
    pthread_mutex_lock(&m->lock);
    same = rc == 0 && memcmp(sha, m->config_sha, sizeof sha) == 0;
    m->sources[i].compared = rc == 0 || rc == PS_ENOTFOUND;
    m->sources[i].same_config = same;
    pthread_mutex_unlock(&m->lock);
    return same;
}

/* The reference alone knows what it lacks. Where it is silent, who holds a copy of it is believed about a file that may
 * well be missing; for one that a model needs the reference is waited for. */
static bool believed(struct mirror_store *m, unsigned i, struct ps_source *s,
                     const struct question *q)
{
    pthread_mutex_lock(&m->lock);
    const int reference = m->reference;
    const char *const label = m->sources[i].label, *const silent = reference < 0
                                                                       ? NULL
                                                                       : m->sources[reference].label;
    pthread_mutex_unlock(&m->lock);
    if (!silent || reference == (int)i || !may_lack(q->object) ||
        !holds_same_config(m, i, s, q->terms.withdrawn))
        return false;
    ps_log(PS_LOG_WARN, ORIGIN, "%s: %s has none, and %s does not answer: going on without it",
           q->object, label, silent);
    return true;
}

static bool stands_locked(const struct mirror_store *m, unsigned i, int rc)
{
    return rc == PS_ENOTFOUND && !m->presplit && m->reference == (int)i;
}

void mirror_note_local_locked(struct mirror_store *m)
{
    const struct ps_source *r = m->sources[m->reference < 0 ? 0 : m->reference].s;
    if (r)
        m->base.local = r->local;
}

/* A web page is no answer: neither what the model is nor who is its reference follows from it. */
static void note_answer(struct mirror_store *m, unsigned i, const struct question *q)
{
    const bool page = ps_text_is_markup(q->is_get ? q->data : q->buf, q->len);
    const bool config = q->is_get && !page && strcmp(q->object, CONFIG_NAME) == 0;
    uint8_t sha[PS_SHA256_BYTES];
    if (config)
        ps_sha256_once(q->data, q->len, sha);
    pthread_mutex_lock(&m->lock);
    struct mirror_object *o = mirror_object_locked(m, q->object);
    ps_mirror_worked(&m->health[i]);
    m->sources[i].bytes += q->len;
    if (m->reference < 0 && !page) {
        m->reference = (int)i;
        if (i > 0)
            ps_log(
                PS_LOG_WARN, ORIGIN,
                "%s stands in for %s: what the cache holds of that one is not used, except by hash",
                m->sources[i].label, m->base.label);
    }
    if (m->reference == (int)i)
        m->silent = false;
    if (config && m->reference == (int)i) {
        memcpy(m->config_sha, sha, sizeof sha);
        m->has_config = true;
    }
    if (o) {
        o->last = (int)i;
        if (!q->is_get && m->reference == (int)i && m->n > 1)
            mirror_note_head_locked(o, q->buf, q->len, &q->info);
    }
    if (q->is_get && is_manifest(q->object) && !page && !m->presplit) {
        m->presplit = true;
        m->list_wanted = !m->sources[i].listed;
    }
    pthread_cond_broadcast(&m->wanted); /* the list, or samples */
    mirror_note_local_locked(m);
    pthread_mutex_unlock(&m->lock);
}

/* Who may be asked. A plain folder's small files come from the reference alone; but whether it is one is not known
 * where the reference's manifest was found wrong. */
static uint32_t askable_locked(const struct mirror_store *m, const struct mirror_object *o)
{
    const bool alone = m->reference >= 0 && !m->presplit &&
                       !(o && is_manifest(o->name) && (o->wary >> m->reference & 1));
    return alone ? 1u << m->reference : (uint32_t)((1ull << m->n) - 1);
}

/* Of several, the next to be asked; -1: nobody. `anyone`: the reference has fallen silent. */
static int next_to_ask(struct mirror_store *m, const char *object, uint32_t tried, bool anyone)
{
    pthread_mutex_lock(&m->lock);
    const struct mirror_object *o = mirror_object_locked(m, object);
    uint32_t usable = anyone ? (uint32_t)((1ull << m->n) - 1) : askable_locked(m, o);
    int i = ps_mirror_pick(m->health, m->n, usable, tried, o ? o->wary : 0, ps_now_ns());
    pthread_mutex_unlock(&m->lock);
    return i;
}

/* What is told after everybody has failed: wrong bytes, then what is not simply missing, then the first. */
static bool tells_more(int rc, int than)
{
    return than == 0 || (rc == PS_EDATA && than != PS_EDATA) ||
           (than == PS_ENOTFOUND && rc != PS_ENOTFOUND);
}

static bool ends_all(int rc)
{
    return rc == PS_ENOMEM || rc == PS_EINTERRUPTED || rc == PS_ECANCELLED || rc == PS_EBUDGET ||
           rc == PS_EUSAGE;
}

/* Everybody has been asked. Once more? Only where a failure may pass and this model has been heard of before. */
static bool another_round(struct mirror_store *m, bool lasting, uint64_t began_ns, uint64_t round_ns)
{
    const uint64_t now_ns = ps_now_ns();
    pthread_mutex_lock(&m->lock);
    const bool known = m->reference >= 0;
    pthread_mutex_unlock(&m->lock);
    return lasting && known && m->n > 1 && now_ns - round_ns >= PS_NS_PER_S &&
           now_ns - began_ns < mirror_deadline_ns(m);
}

/* The reference did not answer the last question, and is left alone: others need not wait for it first. */
static bool known_to_be_silent(struct mirror_store *m)
{
    pthread_mutex_lock(&m->lock);
    const struct ps_mirror_health *h = m->reference < 0 ? NULL : &m->health[m->reference];
    const bool silent = m->silent && h && h->failures > 0 && ps_now_ns() < h->avoid_until_ns;
    pthread_mutex_unlock(&m->lock);
    return silent;
}

/* Notes a failure. True: it is an answer, whatever others said before: who holds the model knows. */
static bool stands(struct mirror_store *m, unsigned i, struct ps_source *s,
                   const struct question *q, int rc, bool anyone)
{
    const bool missing = rc == PS_ENOTFOUND || rc == PS_EREFUSED;
    bool answer =
        missing && q->is_get && is_manifest(q->object) && holds_the_model(s, q->terms.withdrawn);
    pthread_mutex_lock(&m->lock);
    answer |= stands_locked(m, i, rc);
    if (rc == PS_ENET && s)
        ps_mirror_failed(&m->health[i], ps_now_ns());
    m->silent |= rc == PS_ENET && m->reference == (int)i;
    pthread_mutex_unlock(&m->lock);
    return answer || (missing && anyone && believed(m, i, s, q));
}

static void tell_who_lacks(struct ps_err *err, const char *label)
{
    char text[256];
    snprintf(text, sizeof text, "%s has none", label);
    ps_err_advise(err, text);
}

static int put(struct mirror_store *m, struct question *q, struct ps_err *err)
{
    const uint64_t began_ns = ps_now_ns();
    uint64_t round_ns = began_ns;
    uint32_t tried = 0;
    bool lasting = false, anyone = known_to_be_silent(m);
    const char *lacks = NULL; /* who said that he has it not */
    int told = 0, i;
    for (;;) {
        i = next_to_ask(m, q->object, tried, anyone);
        if (i < 0 && another_round(m, lasting, began_ns, round_ns)) {
            round_ns = ps_now_ns();
            tried = 0;
            lasting = false;
            anyone = true;
            continue;
        }
        if (i < 0)
            break;
        struct ps_err why = {0};
        struct ps_source *s = mirror_open(m, (unsigned)i, &why);
        tried |= 1u << i;
        q->terms.elsewhere = next_to_ask(m, q->object, tried, anyone) >= 0;
        int rc = s ? ask(s, q, &why) : PS_ENET;
        lasting |= rc == PS_ENET && s;
        if (rc == 0) {
            note_answer(m, (unsigned)i, q);
            return 0;
        }
        if (rc == PS_ECANCELLED || tells_more(rc, told)) { /* who has withdrawn it knows why */
            told = rc;
            if (err)
                *err = why;
        }
        if (ends_all(rc) || m->n == 1)
            return told;
        if (rc == PS_ENOTFOUND && !lacks)
            lacks = s->label;
        if (stands(m, (unsigned)i, s, q, rc, anyone)) {
            if (err)
                *err = why;
            return rc;
        }
        if (rc != PS_ENOTFOUND)
            mirror_count_failure(m, (unsigned)i, rc, &why);
    }
    if (told == PS_ENET && lacks)
        tell_who_lacks(err, lacks);
    return told ? told : ps_err_set(err, PS_ENET, ORIGIN, "%s: nobody to ask", q->object);
}

static int mirror_get(struct ps_source *base, const char *object, const struct ps_terms *terms,
                      uint64_t max_bytes, char **out, size_t *len, struct ps_object_info *info,
                      struct ps_err *err)
{
    struct question q = {.object = object, .terms = *terms, .is_get = true, .max_bytes = max_bytes};
    int rc = put((struct mirror_store *)base, &q, err);
    if (rc != 0)
        return rc;
    *out = q.data;
    *len = q.len;
    if (info)
        *info = q.info;
    return 0;
}

static int mirror_head(struct ps_source *base, const char *object, const struct ps_terms *terms,
                       void *buf, size_t bytes, size_t *len, struct ps_object_info *info,
                       struct ps_err *err)
{
    struct question q = {.object = object, .terms = *terms, .buf = buf, .bytes = bytes};
    int rc = put((struct mirror_store *)base, &q, err);
    if (rc != 0)
        return rc;
    *len = q.len;
    if (info)
        *info = q.info;
    return 0;
}

static int mirror_local_path(struct ps_source *base, const char *object, char **path,
                             struct ps_err *err)
{
    struct ps_source *s = ((struct mirror_store *)base)->sources[0].s;
    return s->ops->local_path
               ? s->ops->local_path(s, object, path, err)
               : ps_err_set(err, PS_EUNSUPPORTED, ORIGIN, "not a local file: %s", object);
}

static bool mirror_distrust(struct ps_source *base, const char *object)
{
    struct mirror_store *m = (struct mirror_store *)base;
    bool another = false;
    pthread_mutex_lock(&m->lock);
    struct mirror_object *o = m->n > 1 ? mirror_object_locked(m, object) : NULL;
    if (is_manifest(object))
        m->presplit = false; /* until a good one has come: it was the last that came */
    if (o && o->last >= 0) {
        const bool again = o->wary >> o->last & 1; /* he is asked last: nobody else has it */
        o->wary |= 1u << o->last;
        m->sources[o->last].failed++;
        another = !again && (askable_locked(m, o) & ~o->wary) != 0;
    }
    pthread_mutex_unlock(&m->lock);
    return another;
}

static bool mirror_part(struct ps_source *base, unsigned i, struct ps_source_part *out)
{
    struct mirror_store *m = (struct mirror_store *)base;
    pthread_mutex_lock(&m->lock);
    bool there = i < m->n && m->n > 1;
    if (there) {
        const struct mirror_source *s = &m->sources[i];
        *out = (struct ps_source_part){.label = s->label ? s->label : "(not asked)",
                                       .bytes = s->bytes,
                                       .failures = s->failed,
                                       .listed = s->listed};
    }
    pthread_mutex_unlock(&m->lock);
    return there;
}

/* ---- open and close ---- */

static void free_everything(struct mirror_store *m)
{
    while (m->objects) {
        struct mirror_object *o = m->objects;
        m->objects = o->next;
        ps_free(o->name);
        ps_free(o->samples);
        ps_free(o);
    }
    while (m->free_jobs) {
        struct mirror_job *j = m->free_jobs;
        m->free_jobs = j->next;
        ps_free(j);
    }
    for (unsigned i = 0; i < m->n; i++) {
        explicit_bzero(m->sources[i].address, strlen(m->sources[i].address));
        ps_free(m->sources[i].address);
    }
    ps_free(m->ca_file);
    ps_free(m->netrc_file);
    ps_free(m->base.label);
    pthread_cond_destroy(&m->wanted);
    pthread_mutex_destroy(&m->open_lock);
    pthread_mutex_destroy(&m->lock);
    ps_free(m);
}

static void mirror_close(struct ps_source *base)
{
    struct mirror_store *m = (struct mirror_store *)base;
    pthread_mutex_lock(&m->lock);
    m->closing = true;
    atomic_store(&m->stop, 1);
    pthread_cond_broadcast(&m->wanted);
    pthread_mutex_unlock(&m->lock);
    mirror_helper_join(m); /* what was parked has ended */
    /* From here on nobody chooses a source any more. Who has chosen one, on the thread of another, must be through
     * with it before the first is closed. */
    pthread_mutex_lock(&m->lock);
    while (m->submitting > 0)
        pthread_cond_wait(&m->wanted, &m->lock);
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; i < m->n; i++)
        ps_source_close(m->sources[i].s); /* waits for what is with it */
    mirror_go_on(m);
    PS_ASSERT(m->live == NULL);
    free_everything(m);
}

static bool copy_text(char **out, const char *text)
{
    *out = text ? ps_strdup(text) : NULL;
    return !text || *out;
}

static int settle(struct mirror_store *m, const char *address, const struct ps_store_options *o,
                  struct ps_err *err)
{
    static const struct ps_store_options none;
    const struct ps_access_options *a = o ? o->access : NULL;
    m->opt = o ? *o : none;
    m->opt.access = NULL;
    m->opt.mirrors = NULL;
    m->opt.n_mirrors = 0;
    m->opt.stop = &m->stop;
    m->stats = m->opt.stats ? m->opt.stats : &m->own_stats;
    m->opt.stats = m->stats;
    m->netrc = a && a->netrc;
    bool ok = copy_text(&m->ca_file, a ? a->ca_file : NULL) &&
              copy_text(&m->netrc_file, a ? a->netrc_file : NULL) &&
              mirror_add_locked(m, address, false) == 0;
    int rc = ok ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    for (size_t i = 0; rc == 0 && o && i < o->n_mirrors; i++) {
        rc = mirror_add_locked(m, o->mirrors[i], false);
        if (rc == PS_ENOMEM)
            ps_err_set(err, rc, ORIGIN, "out of memory");
        else if (rc != 0)
            rc = ps_err_set(err, PS_EUSAGE, ORIGIN, "--mirror: more than %u", PS_MIRRORS_MAX - 1);
    }
    if (m->n > 1) { /* a small file must not wait for one that has died while another has it */
        const uint64_t ns = ps_mirror_patience_ns(mirror_deadline_ns(m), m->n - 1, false);
        m->opt.question_deadline_s = (unsigned)(ns / PS_NS_PER_S);
    }
    return rc;
}

/* The first source is opened now, with the user's credentials. */
static int open_first(struct mirror_store *m, const struct ps_store_options *options,
                      struct ps_err *err)
{
    struct ps_store_options o = m->opt;
    struct ps_source *s = NULL;
    o.access = options ? options->access : NULL;
    o.peer_space = &m->peer_space;
    int rc = ps_store_open_one(&s, m->sources[0].address, &o, err);
    if (rc != 0)
        return rc;
    m->sources[0].s = s;
    m->sources[0].label = s->label;
    m->base.label = ps_strdup(s->label);
    m->base.local = s->local;
    m->base.is_public = s->is_public;
    m->ops.scheme = s->ops->scheme;
    if (!s->ops->local_path)
        m->ops.local_path = NULL;
    return m->base.label ? 0 : ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
}

/* A mirror that can never work is the user's mistake, to be told before anything is fetched. A hub's bytes may be asked
 * for over and over where another can give them. */
static int check_mirrors(struct mirror_store *m, struct ps_err *err)
{
    for (unsigned i = 1; i < m->n; i++) {
        struct ps_source *s = NULL;
        int rc = open_at(m, i, &s, err);
        if (rc != 0) {
            ps_err_prefix(err, "--mirror");
            return rc;
        }
        m->sources[i].s = s;
        m->sources[i].label = s->label;
        if (m->base.is_public && !s->is_public) {
            m->base.is_public = false;
            m->spare_first = true;
        }
    }
    return 0;
}

int ps_mirror_store_open(struct ps_source **out, const char *address,
                         const struct ps_store_options *options, struct ps_err *err)
{
    struct mirror_store *m = ps_calloc(1, sizeof *m);
    if (!m)
        return ps_err_set(err, PS_ENOMEM, ORIGIN, "out of memory");
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->open_lock, NULL);
    pthread_cond_init(&m->wanted, NULL);
    m->reference = -1;
    m->ops = (struct ps_source_ops){.submit = mirror_submit,
                                    .cancel = mirror_cancel,
                                    .await = mirror_await,
                                    .get = mirror_get,
                                    .head = mirror_head,
                                    .local_path = mirror_local_path,
                                    .distrust = mirror_distrust,
                                    .part = mirror_part,
                                    .close = mirror_close};
    m->base.ops = &m->ops;
    int rc = settle(m, address, options, err);
    if (rc == 0)
        rc = open_first(m, options, err);
    if (rc == 0)
        rc = check_mirrors(m, err);
    if (rc == 0)
        rc = mirror_helper_start(m, err);
    if (rc != 0) {
        mirror_close(&m->base);
        return rc;
    }
    *out = &m->base;
    return 0;
}
