/* `penstock cache`: what the disk cache holds, and upkeep. It speaks to the cache alone; no
 * engine, no network. */
#include "tools/cli.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/alloc.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/size.h"
#include "cache/cache.h"
#include "cache/owner.h"
#include "runtime/cache_dir.h"
#include "tools/cache_text.h"
#include "tools/progress.h"
#include "tools/textio.h"

struct upkeep {
    const struct ps_opts *o;
    const char *verb;
    char *dir;
    struct ps_cache *cache; /* NULL: there is no cache yet */
};

/* A cache that was never made is clean and empty, but not one that was named: a slip in its name must not read as a
 * proof. Nor is a folder full of other things a cache. */
static int no_cache(const struct upkeep *u, struct ps_err *err)
{
    const int fd = open(u->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc;

    if (fd < 0 && u->o->cache)
        return ps_err_set(err, PS_ENOTFOUND, "cache",
                          "no cache: %s: check --cache or PENSTOCK_CACHE", u->dir);
    rc = fd >= 0 ? ps_owner_check(fd, u->dir, false, false, err) : 0;
    if (fd >= 0)
        close(fd);
    if (rc == 0 && !u->o->quiet)
        fprintf(stderr, "penstock: no cache yet: %s\n", u->dir);
    return rc;
}

/* Upkeep never shrinks a cache: its budget is no limit, and the smallest budget of the living
 * processes governs. */
static int open_cache(struct upkeep *u, bool writes, struct ps_err *err)
{
    struct ps_cache_options co = {.budget_bytes = UINT64_MAX, .read_only = !writes, .must_exist = true};
    int rc = ps_cache_open(&u->cache, u->dir, &co, NULL, err);

    if (rc == PS_ENOTFOUND) {
        u->cache = NULL;
        if (err)
            memset(err, 0, sizeof *err);
        return no_cache(u, err);
    }
    return rc;
}

/* `ls` is a table for people, all else one object. */
static int print_description(const struct upkeep *u, struct ps_strbuf *json, struct ps_err *err)
{
    struct ps_strbuf text;
    int rc;

    if (u->o->json || strcmp(u->verb, "ls") != 0)
        return ps_cli_print_json(u->o, ps_strbuf_ok(json) ? json->data : NULL, err);
    ps_strbuf_init(&text, (size_t)1 << 30);
    rc = ps_strbuf_ok(json) ? ps_cache_text(&text, json->data, json->len, err) : PS_ENOMEM;
    if (rc == 0)
        rc = ps_strbuf_ok(&text) ? ps_out_write(text.data, text.len, err) : PS_ENOMEM;
    ps_strbuf_deinit(&text);
    return rc;
}

static int describe(struct upkeep *u, struct ps_err *err)
{
    struct ps_json_writer w;
    struct ps_strbuf b;
    int rc = open_cache(u, false, err);

    if (rc < 0)
        return rc;
    ps_strbuf_init(&b, (size_t)1 << 30);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "dir", u->dir);
    if (u->cache) {
        rc = ps_cache_describe(u->cache, &w, err);
    } else {
        ps_jw_key(&w, "models");
        ps_jw_array(&w);
        ps_jw_array_end(&w);
        ps_jw_kuint(&w, "budget_bytes", 0);
        ps_jw_kuint(&w, "allocated_bytes", 0);
    }
    ps_jw_object_end(&w);
    if (rc == 0)
        rc = print_description(u, &b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static void verify_progress(void *user, uint64_t done, uint64_t total)
{
    ps_progress_update(user, "verify", done, total);
}

static int print_done(const struct upkeep *u, struct ps_strbuf *b, struct ps_err *err)
{
    return ps_cli_print_summary(u->o, ps_strbuf_ok(b) ? b->data : NULL, err);
}

struct verdict {
    uint64_t checked, bad;
    bool rebuilt; /* the index was damaged, and emptied */
};

static int check_extents(struct upkeep *u, struct verdict *v, struct ps_err *err)
{
    int rc = open_cache(u, u->o->repair, err);

    if (rc < 0 || !u->cache)
        return rc;
    v->rebuilt = v->rebuilt || ps_cache_was_rebuilt(u->cache);
    return ps_cache_verify(u->cache, true, u->o->repair, verify_progress, NULL, &v->checked,
                           &v->bad, err);
}

static int print_verdict(const struct upkeep *u, const struct verdict *v, struct ps_err *err)
{
    struct ps_json_writer w;
    struct ps_strbuf b;
    int rc;

    ps_strbuf_init(&b, 1 << 16);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kuint(&w, "extents_checked", v->checked);
    ps_jw_kuint(&w, "extents_wrong", v->bad);
    ps_jw_kuint(&w, "extents_dropped", u->o->repair ? v->bad : 0);
    ps_jw_kbool(&w, "index_rebuilt", v->rebuilt);
    ps_jw_object_end(&w);
    rc = print_done(u, &b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static int verify(struct upkeep *u, struct ps_err *err)
{
    struct verdict v = {0};
    int rc = check_extents(u, &v, err);

    /* Damage that only showed under way: the cache has left word for the next opening. */
    if (rc == PS_EDATA && u->o->repair && u->cache) {
        ps_cache_close(u->cache);
        u->cache = NULL;
        rc = check_extents(u, &v, err);
    }
    if (rc == 0)
        rc = print_verdict(u, &v, err);
    if (rc == 0 && v.bad > 0)
        return ps_err_set(err, PS_EDATA, "cache", "%llu of %llu extents hold wrong bytes: %s: %s",
                          (unsigned long long)v.bad, (unsigned long long)v.checked, u->dir,
                          u->o->repair ? "dropped, they will be fetched again"
                                       : "drop them with --repair");
    if (rc == 0 && v.rebuilt)
        return ps_err_set(err, PS_EDATA, "cache",
                          "the index was damaged: %s: emptied, all will be fetched again", u->dir);
    return rc;
}

/* `text` is what was given to `run` then, keys and signatures included: from here on it is its label. */
static int find_model(struct upkeep *u, const char *text, uint8_t id[PS_SHA256_BYTES],
                      struct ps_err *err)
{
    char *label = NULL;
    int rc = ps_store_label(&label, text, err);

    if (rc < 0)
        return rc;
    if (u->cache)
        rc = ps_cache_find_model(u->cache, label, id, err);
    else
        rc = ps_err_set(err, PS_ENOTFOUND, "cache", "%s: not in the cache: %s holds nothing", label,
                        u->dir);
    ps_free(label);
    return rc;
}

static int evict(struct upkeep *u, struct ps_err *err)
{
    struct ps_json_writer w;
    struct ps_strbuf b;
    uint8_t id[PS_SHA256_BYTES];
    uint64_t freed = 0;
    bool one = u->o->n_args > 1;
    int rc;

    if (one == u->o->all)
        return ps_err_set(err, PS_EUSAGE, "cache",
                          "evict: name one model, or all of them with --all");
    rc = open_cache(u, true, err);
    if (rc == 0 && one)
        rc = find_model(u, u->o->args[1], id, err);
    if (rc == 0 && u->cache)
        rc = ps_cache_evict(u->cache, one ? id : NULL, &freed, err);
    if (rc < 0)
        return rc;
    ps_strbuf_init(&b, 1 << 16);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kuint(&w, "freed_bytes", freed);
    ps_jw_object_end(&w);
    rc = print_done(u, &b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static int pin(struct upkeep *u, bool pinned, struct ps_err *err)
{
    uint8_t id[PS_SHA256_BYTES];
    char hex[2 * PS_SHA256_BYTES + 1];
    struct ps_json_writer w;
    struct ps_strbuf b;
    int rc;

    if (u->o->n_args < 2)
        return ps_err_set(err, PS_EUSAGE, "cache",
                          "%s: the model is missing: penstock cache %s MODEL", u->verb, u->verb);
    rc = open_cache(u, true, err);
    if (rc == 0)
        rc = find_model(u, u->o->args[1], id, err);
    if (rc == 0)
        rc = ps_cache_pin(u->cache, id, pinned, err);
    if (rc < 0)
        return rc;
    ps_hex_encode(id, sizeof id, hex);
    ps_strbuf_init(&b, 1 << 16);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "model_id", hex);
    ps_jw_kbool(&w, "pinned", pinned);
    ps_jw_object_end(&w);
    rc = print_done(u, &b, err);
    ps_strbuf_deinit(&b);
    return rc;
}

static int print_dir(const struct upkeep *u, struct ps_err *err)
{
    struct ps_json_writer w;
    struct ps_strbuf b;
    int rc;

    if (!u->o->json)
        return ps_out_line(u->dir, err);
    ps_strbuf_init(&b, 1 << 20);
    ps_jw_init(&w, &b);
    ps_jw_object(&w);
    ps_jw_kstring(&w, "dir", u->dir);
    ps_jw_object_end(&w);
    rc = ps_cli_print_json(u->o, ps_strbuf_ok(&b) ? b.data : NULL, err);
    ps_strbuf_deinit(&b);
    return rc;
}

/* An option of another verb would be ignored. */
static int check_option(const struct upkeep *u, const char *name, const char *verb, struct ps_err *err)
{
    if (ps_opts_origin(u->o, name) != PS_FROM_ARGV || strcmp(u->verb, verb) == 0)
        return 0;
    return ps_err_set(err, PS_EUSAGE, "cache", "%s: --%s: only `cache %s` takes it", u->verb, name,
                      verb);
}

static int act(struct upkeep *u, struct ps_err *err)
{
    bool takes_model = strcmp(u->verb, "evict") == 0 || strstr(u->verb, "pin");
    int rc = check_option(u, "repair", "verify", err);

    if (rc == 0)
        rc = check_option(u, "all", "evict", err);
    if (rc < 0)
        return rc;
    if (u->o->n_args > 1 && !takes_model)
        return ps_err_set(err, PS_EUSAGE, "cache", "%s: '%s' is one argument too many", u->verb,
                          u->o->args[1]);
    if (strcmp(u->verb, "dir") == 0)
        return print_dir(u, err);
    if (strcmp(u->verb, "verify") == 0)
        return verify(u, err);
    if (strcmp(u->verb, "evict") == 0)
        return evict(u, err);
    if (takes_model)
        return pin(u, strcmp(u->verb, "pin") == 0, err);
    return describe(u, err); /* ls, stat */
}

int ps_cmd_cache(const struct ps_opts *o, struct ps_err *err)
{
    struct upkeep u = {.o = o, .verb = o->args[0]};
    int rc = ps_cache_dir_find(&u.dir, o->cache, err);

    if (rc == 0)
        rc = act(&u, err);
    if (u.cache)
        ps_cache_close(u.cache);
    ps_free(u.dir);
    return rc;
}
