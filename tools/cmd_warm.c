/* `penstock warm`: one model, or a list of them one after the other. Each model has an engine of its own, so that one
 * that can't be reached costs the others nothing. */
#include "tools/cli.h"

#include <stdio.h>
#include <string.h>
#include "base/alloc.h"
#include "base/json.h"
#include "base/size.h"
#include "cache/cache.h"
#include "runtime/cache_dir.h"
#include "runtime/engine.h"
#include "tools/interrupt.h"
#include "tools/progress.h"
#include "tools/textio.h"
#include "tools/warm_held.h"
#include "tools/warm_list.h"

#define FACTS_MAX ((size_t)1 << 30)

/* A list that is only asked about. */
struct foreseen {
    struct ps_warm_wanted wanted;
    uint64_t room_bytes; /* --disk, or what the file system has of it */
    bool full;           /* one of the models had no room beside those before it */
};

/* What the cache holds of it, behind its turn. */
static int note_held(struct ps_warm_held *held, struct ps_engine *engine, const char *label,
                     struct ps_err *err)
{
    uint8_t(*keys)[PS_SHA256_BYTES] = NULL;
    const uint8_t *id = NULL;
    size_t n = 0;
    int rc = ps_engine_keys(&keys, &n, &id, engine, err);

    if (rc == 0)
        rc = ps_warm_held_note(held, id, label, (const uint8_t(*)[PS_SHA256_BYTES])keys, n,
                               ps_engine_kept(engine).cache, err);
    ps_free(keys);
    return rc;
}

static bool in_layers(const struct ps_map *m, uint32_t extent, const struct ps_opts *o)
{
    const int32_t layer = m->tensors[m->extents[extent].tensor].layer;

    return o->layers.first < 0 || (layer >= o->layers.first && layer <= o->layers.last);
}

/* What it would hold of it, and whether that has room beside the others. */
static int note_wanted(struct foreseen *f, const struct ps_engine *e, const struct ps_opts *o,
                       struct ps_err *err)
{
    const struct ps_map *m = e->files.map;
    uint8_t(*keys)[PS_SHA256_BYTES] = ps_malloc((size_t)m->n_extents * PS_SHA256_BYTES + 1);
    uint64_t *bytes = ps_calloc((size_t)m->n_extents + 1, sizeof *bytes);
    const struct ps_kept_extents *files = &e->files_foreseen;
    const size_t before = f->wanted.n;
    size_t n = 0;
    int rc = keys && bytes ? 0 : ps_err_set(err, PS_ENOMEM, "warm", "out of memory");

    for (uint32_t i = 0; rc == 0 && i < m->n_extents; i++)
        if ((e->tier[i] & PS_TIER_DISK) && in_layers(m, i, o)) {
            memcpy(keys[n], m->extents[i].key, PS_SHA256_BYTES);
            bytes[n++] = m->extents[i].stored_bytes;
        }
    if (rc == 0)
        rc = ps_warm_wanted_add(&f->wanted, (const uint8_t(*)[PS_SHA256_BYTES])keys, bytes, n, err);
    if (rc == 0)
        rc = ps_warm_wanted_add(&f->wanted, (const uint8_t(*)[PS_SHA256_BYTES])files->keys,
                                files->bytes, files->n, err);
    if (rc == 0)
        rc = ps_warm_wanted_look(&f->wanted, e->cache, ps_engine_priority(e), err);
    f->room_bytes = e->disk_room_bytes;
    /* Alone a model has room: its plan was made for that. */
    f->full = f->full || (rc == 0 && before > 0 && f->wanted.n > before &&
                          ps_warm_wanted_budget(&f->wanted) > f->room_bytes);
    ps_free(keys);
    ps_free(bytes);
    return rc;
}

/* held, foreseen: nullable. */
static int warm_one(char **json, const struct ps_opts *o, const char *model,
                    struct ps_warm_held *held, struct foreseen *foreseen, struct ps_err *err)
{
    struct ps_warm_options w = {.struct_size = sizeof w,
                                .layer_first = o->layers.first,
                                .layer_last = o->layers.last,
                                .check = o->check,
                                .dry_run = o->dry_run,
                                .bytes = o->bytes,
                                .price_per_gb = o->price_per_gb};
    struct ps_engine_options e;
    struct ps_engine *engine = NULL;
    struct ps_error error = {0};
    int rc = ps_cli_engine_options(&e, o, err);

    if (rc < 0)
        return rc;
    e.model = model;
    e.headers_only = 1;
    e.without_tokenizer = 1;
    e.look_only = o->dry_run;
    rc = ps_cli_engine_open(&engine, &e, err);
    if (rc < 0)
        return rc;
    if (ps_engine_warm(json, engine, &w, &error) < 0)
        rc = ps_cli_error(err, &error);
    if (rc == 0 && held && !o->dry_run)
        rc = note_held(held, engine, engine->source->label, err);
    if (rc == 0 && foreseen && o->dry_run && !o->bytes) /* of a part nobody can say that it is too much */
        rc = note_wanted(foreseen, engine, o, err);
    ps_cli_engine_close(engine);
    return rc;
}

/* A dry run is asked for nothing else. */
static int print_facts(const struct ps_opts *o, const char *json, struct ps_err *err)
{
    return o->dry_run ? ps_cli_print_json(o, json, err) : ps_cli_print_summary(o, json, err);
}

struct batch {
    const struct ps_opts *o;
    const char **models;
    size_t n, n_failed;
    int worst; /* the code with the highest exit status */
    struct ps_strbuf facts;
    struct ps_json_writer w;
    struct ps_warm_held held;
    struct foreseen foreseen; /* of a dry run */
};

/* Text as it comes; JSON at the end, in one object. */
static int tell_facts(struct batch *b, const char *json, struct ps_err *err)
{
    int rc;

    if (b->o->json) {
        ps_jw_raw(&b->w, json);
        return 0;
    }
    rc = print_facts(b->o, json, err);
    return rc < 0 || b->n == 1 || (b->o->quiet && !b->o->dry_run) ? rc : ps_out_line("", err);
}

static void tell_failure(struct batch *b, size_t i, int rc, const struct ps_err *e)
{
    char *label = NULL, nameless[64];
    const char *shown = ps_store_label(&label, b->models[i], NULL) == 0 ? label : nameless;

    /* what can't be read may hold a secret */
    snprintf(nameless, sizeof nameless, "(malformed address, model %zu of the list)", i + 1);

    b->n_failed++;
    if (ps_err_exit_status(rc) > ps_err_exit_status(b->worst))
        b->worst = rc;
    ps_progress_end();
    if (rc != PS_EINTERRUPTED) /* the end of all is told at the end */
        fprintf(stderr, "penstock: %s: %s\n", shown, e->text);
    if (b->o->json) {
        ps_jw_object(&b->w);
        ps_jw_kstring(&b->w, "source", shown);
        ps_jw_kstring(&b->w, "error", e->text);
        ps_jw_kint(&b->w, "exit", ps_err_exit_status(rc));
        ps_jw_object_end(&b->w);
    }
    ps_free(label);
}

/* One model's failure is told and the next one's turn comes; only an interrupt, or nobody who reads, ends all. */
static int warm_all(struct batch *b, struct ps_err *err)
{
    int rc = 0;

    for (size_t i = 0; i < b->n && rc == 0 && !ps_interrupt_seen; i++) {
        struct ps_err e = {0};
        char *json = NULL;
        int one = warm_one(&json, b->o, b->models[i], b->n > 1 ? &b->held : NULL, &b->foreseen, &e);

        if (one == 0)
            rc = tell_facts(b, json, err);
        if (one != 0)
            tell_failure(b, i, one, &e);
        ps_string_free(json);
    }
    return rc;
}

/* How many models have lost to later ones what was stored of them. */
static int count_displaced(size_t *n, struct batch *b, struct ps_err *err)
{
    const struct ps_cache_options co = {.read_only = true, .must_exist = true};
    struct ps_cache *cache = NULL;
    char *dir = NULL;
    int rc = ps_cache_dir_find(&dir, b->o->cache, err);

    if (rc == 0)
        rc = ps_cache_open(&cache, dir, &co, NULL, err);
    if (rc == 0)
        rc = ps_warm_held_lost(n, &b->held, cache, err);
    ps_cache_close(cache);
    ps_free(dir);
    return rc;
}

/* Each by name, as failures are. */
static void tell_displaced(struct batch *b)
{
    ps_jw_key(&b->w, "displaced_models");
    ps_jw_array(&b->w);
    for (size_t i = 0; i < b->held.n; i++) {
        const struct ps_warm_model *m = &b->held.models[i];
        if (!m->lost)
            continue;
        ps_jw_string(&b->w, m->label, strlen(m->label));
        fprintf(stderr, "penstock: %s: displaced by later models of the list\n", m->label);
    }
    ps_jw_array_end(&b->w);
}

static int batch_error(const struct batch *b, size_t displaced, struct ps_err *err)
{
    char all[24], there[24];
    static const char room[] = "the disk does not hold all: use a larger --disk, or a shorter list";

    if (b->n_failed > 0 && displaced > 0)
        return ps_err_set(err, b->worst, "warm",
                          "%zu of %zu models failed: %s: see above; %zu more displaced by later "
                          "ones: %s",
                          b->n_failed, b->n, b->o->from_file, displaced, room);
    if (b->n_failed > 0)
        return ps_err_set(err, b->worst, "warm", "%zu of %zu models failed: %s: see above%s%s",
                          b->n_failed, b->n, b->o->from_file, b->foreseen.full ? "; " : "",
                          b->foreseen.full ? room : "");
    if (displaced > 0)
        return ps_err_set(err, PS_EBUDGET, "warm",
                          "%zu of %zu models were displaced by later ones: %s: %s", displaced,
                          b->held.n, b->o->from_file, room);
    if (b->foreseen.full)
        return ps_err_set(err, PS_EBUDGET, "warm",
                          "%s: the later models would displace earlier ones: together they take "
                          "%s%s, and there is %s: %s",
                          b->o->from_file,
                          ps_size_format(all, sizeof all, ps_warm_wanted_budget(&b->foreseen.wanted)),
                          b->foreseen.wanted.n_kept > 0
                              ? ", with what is pinned or of a higher priority"
                              : "",
                          ps_size_format(there, sizeof there, b->foreseen.room_bytes), room);
    return 0;
}

static int end_batch(struct batch *b, struct ps_err *err)
{
    size_t displaced = 0;
    int rc = b->held.n > 1 ? count_displaced(&displaced, b, err) : 0;

    if (rc < 0)
        return rc;
    /* What has failed says what is wrong with a model of the list; that others have no room is said beside it. */
    if ((displaced > 0 || b->foreseen.full) && b->n_failed == 0)
        b->worst = PS_EBUDGET;
    ps_jw_array_end(&b->w);
    ps_jw_kuint(&b->w, "failed", b->n_failed);
    ps_jw_kuint(&b->w, "displaced", displaced);
    tell_displaced(b);
    if (b->o->dry_run) {
        ps_jw_kbool(&b->w, "fits", !b->foreseen.full);
        ps_jw_kuint(&b->w, "disk_wanted", ps_warm_wanted_budget(&b->foreseen.wanted));
    }
    ps_jw_kint(&b->w, "exit", ps_interrupt_seen ? PS_EXIT_INTERRUPTED : ps_err_exit_status(b->worst));
    ps_jw_object_end(&b->w);
    if (b->o->json)
        rc = ps_cli_print_json(b->o, ps_strbuf_ok(&b->facts) ? b->facts.data : NULL, err);
    if (rc == 0 && ps_interrupt_seen)
        return ps_err_set(err, PS_EINTERRUPTED, "warm", "interrupted");
    return rc == 0 ? batch_error(b, displaced, err) : rc;
}

static int warm_from_file(const struct ps_opts *o, struct ps_err *err)
{
    struct batch b = {.o = o};
    char *text = NULL;
    size_t len = 0;
    int rc = ps_text_read(&text, &len, o->from_file, err);

    if (rc == 0)
        rc = ps_warm_list_parse(&b.models, &b.n, text, len, o->from_file, err);
    if (rc == 0)
        rc = ps_cli_one_server(o, b.models, b.n, err);
    if (rc == 0) {
        ps_strbuf_init(&b.facts, FACTS_MAX);
        ps_jw_init(&b.w, &b.facts);
        ps_jw_object(&b.w);
        ps_jw_key(&b.w, "models");
        ps_jw_array(&b.w);
        rc = warm_all(&b, err);
        if (rc == 0)
            rc = end_batch(&b, err);
        ps_strbuf_deinit(&b.facts);
    }
    ps_warm_held_deinit(&b.held);
    ps_warm_wanted_deinit(&b.foreseen.wanted);
    ps_free(b.models);
    ps_free(text);
    return rc;
}

/* Before anything is opened: a cache would be emptied by it. */
static int check_disk(const struct ps_opts *o, struct ps_err *err)
{
    struct ps_size disk;
    int rc = ps_size_parse(&disk, o->disk, "--disk", err);

    if (rc < 0 || !ps_size_is_nothing(&disk))
        return rc;
    return ps_err_set(err, PS_EUSAGE, "warm", "--disk %s: leaves no cache to fill: give a size",
                      o->disk);
}

int ps_cmd_warm(const struct ps_opts *o, struct ps_err *err)
{
    const char *model = o->n_args > 0 ? o->args[0] : NULL;
    const bool listed = o->from_file && (!model || ps_opts_origin(o, "from-file") == PS_FROM_ARGV);
    char *json = NULL;
    int rc = check_disk(o, err);

    if (rc < 0)
        return rc;
    if (listed && model)
        return ps_err_set(err, PS_EUSAGE, "warm", "%s and --from-file: give one of them", model);
    if (listed)
        return warm_from_file(o, err);
    model = model ? model : o->model; /* a variable, which the parser puts in no argument's place */
    if (!model || !*model)
        return ps_err_set(err, PS_EUSAGE, "warm",
                          "warm: MODEL is missing: usage: penstock warm MODEL | --from-file FILE");
    rc = warm_one(&json, o, model, NULL, NULL, err);
    if (rc == 0)
        rc = print_facts(o, json, err);
    ps_string_free(json);
    return rc;
}
